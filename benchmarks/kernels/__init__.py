"""Single operations beside MAX's, with the speed that each reaches."""
