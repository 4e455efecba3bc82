"""Runs the command `ascdistill` as `python -m hf_ascdistill.command_line`."""

import sys

from .program import main

if __name__ == "__main__":
    sys.exit(main())

__all__ = ["main"]
