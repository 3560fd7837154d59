"""Times single ops beside MAX's, with the speed that each reaches."""
