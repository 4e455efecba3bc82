"""Work of the CPU in kernels of its own, C++ that GCC compiles at the first use: log-mels, DIR and CP-Mobile.

PaSST, which is matrix products, has none: `linear.py` takes another library for them where it is faster.
"""

from .kernels import can_use_kernels
from .networks import use_native_kernels

__all__ = ["can_use_kernels", "use_native_kernels"]
