"""Work of the CPU in kernels of its own, C++ that GCC compiles at the first use: log-mels, DIR and CP-Mobile.

The matrix products of PaSST go to what is fastest: tiles (`tiles.py`, a kernel too), oneDNN (`onednn.py`) or torch.
"""

from .kernels import can_use_kernels
from .networks import use_native_kernels

__all__ = ["can_use_kernels", "use_native_kernels"]
