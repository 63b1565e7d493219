"""``python -m mpreg.cli``: the same as ``mpreg``."""

from mpreg.cli import main

if __name__ == "__main__":
    main()
