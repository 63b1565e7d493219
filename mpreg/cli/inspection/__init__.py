"""What is in a data directory: ``mpreg stats``, ``mpreg inspect`` and ``mpreg queue``."""
