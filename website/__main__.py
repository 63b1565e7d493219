"""``python -m website DIRECTORY``: all pages as a site in there. A warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from sphinx.cmd.build import build_main

REPOSITORY = Path(__file__).parents[1]


def build(directory: Path) -> int:
    """0 where all is well; else what is not stands on standard error."""
    # From nothing: what is kept of a build before would keep its warnings from being told again.
    with TemporaryDirectory() as doctrees:
        return build_main(
            [
                *("--fail-on-warning", "--keep-going", "--quiet"),
                *("--doctree-dir", doctrees, "--conf-dir", str(Path(__file__).parent)),
                *(str(REPOSITORY), str(directory)),
            ]
        )


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    if code := build(directory):
        sys.exit(code)
    sys.stdout.write(f"the site: {directory / 'index.html'}\n")
