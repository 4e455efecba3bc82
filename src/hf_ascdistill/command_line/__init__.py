"""The command `ascdistill`: classify recordings, tell what a model costs, convert and publish models."""

from .program import main

__all__ = ["main"]
