"""Tools to test programs that use mpreg, and mpreg itself."""
