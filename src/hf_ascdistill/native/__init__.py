"""Training of CP-Mobile on a CPU in kernels of its own, C++ that GCC compiles at the first use."""

from .networks import use_native_kernels

__all__ = ["use_native_kernels"]
