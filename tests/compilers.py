"""What tests need that compile."""

import shutil

import pytest

from hf_ascdistill.native.tiles import can_use_tiles

needs_gcc = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ to compile the kernels with")


def need_tiles() -> None:
    """Skips a test where the processor has no tiles; this may compile the kernels."""
    if not can_use_tiles():
        pytest.skip("this processor has no matrix tiles (Intel's AMX), or there is no g++ to compile the kernels with")


__all__ = ["need_tiles", "needs_gcc"]
