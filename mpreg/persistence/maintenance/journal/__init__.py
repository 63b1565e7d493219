"""Looking after a store of the file backend: its files are read and written, never its writer."""
