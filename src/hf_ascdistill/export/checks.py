"""Whether an exported file computes what the model computes, on real clips."""

from dataclasses import dataclass

import numpy as np

MAX_DIFFERENCE = 1e-3  # of logits or probabilities between two float32 implementations of front-end and network


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written, and how near it is to the model.

    Args:
        name (`str`): of the file.
        size (`int`): bytes.
        parameter_bytes (`int`): bytes of its parameters; an int8 network has one for a weight of a convolution and
            four for any other.
        clips (`int`): clips that it was checked on.
        max_difference (`float`): largest difference of an output, a logit or a probability.
        agreement (`float`): share of the clips for which it decides as the model does.
    """

    name: str
    size: int
    parameter_bytes: int
    clips: int
    max_difference: float
    agreement: float

    @property
    def text(self) -> str:
        """`str`: the row of a table."""
        return (
            f"{self.name:20} {self.size:>11,} bytes, parameters {self.parameter_bytes:>11,} bytes, "
            f"max difference {self.max_difference:.2g}, same decision for {100 * self.agreement:.1f} % "
            f"of {self.clips} clips"
        )


def compare(outputs: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Returns the largest difference and the share of the same decisions.

    Args:
        outputs (`np.ndarray`): of the file, `(N, C)`.
        expected (`np.ndarray`): of the model, `(N, C)`.
    """
    agreement = float((outputs.argmax(1) == expected.argmax(1)).mean())
    return float(np.abs(outputs - expected).max()), agreement


def check_float(name: str, outputs: np.ndarray, *, expected: np.ndarray) -> None:
    """Raises a `ValueError` where a float32 file computes something else than the model."""
    difference, _ = compare(outputs, expected)
    if not difference <= MAX_DIFFERENCE:  # NaN is no number
        raise ValueError(
            f"{name} differs from the model by {difference:.3g}, more than {MAX_DIFFERENCE:g}; nothing was written. "
            "Another opset or format may do, and the clips have to be finite."
        )


def check_int8(name: str, outputs: np.ndarray, *, expected: np.ndarray, min_agreement: float) -> None:
    """Raises a `ValueError` where an int8 file decides too often otherwise than the model."""
    _, agreement = compare(outputs, expected)
    if not np.isfinite(outputs).all() or not np.isfinite(expected).all():
        raise ValueError(f"{name} or the model gives NaN or infinite numbers; nothing was written. Check the clips.")
    if agreement < min_agreement:
        raise ValueError(
            f"{name} decides as the model does for {100 * agreement:.1f} % of {len(outputs)} clips, less than "
            f"{100 * min_agreement:g} %; nothing was written. Calibrate on more clips or by another method, train "
            "with quantisation, or lower min_agreement."
        )


__all__ = ["MAX_DIFFERENCE", "ExportedFile", "check_float", "check_int8", "compare"]
