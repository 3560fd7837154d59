"""Everything that depends on MAX's private names and objects."""
