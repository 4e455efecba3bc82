"""The authors' released checkpoints, turned into models of this package."""

from .cp_checkpoints import convert_checkpoint, load_checkpoint

__all__ = ["convert_checkpoint", "load_checkpoint"]
