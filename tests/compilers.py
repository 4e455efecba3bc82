"""Marks of tests that compile."""

import shutil

import pytest

needs_gcc = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ to compile the kernels with")

__all__ = ["needs_gcc"]
