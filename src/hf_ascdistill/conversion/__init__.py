"""What the authors have published, checkpoints and logits, turned into models and logit sets of this package."""

from .architecture import ConversionSettings
from .convert import convert_checkpoint, load_checkpoint
from .ensemble_logits import convert_logits

__all__ = ["ConversionSettings", "convert_checkpoint", "convert_logits", "load_checkpoint"]
