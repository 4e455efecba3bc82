"""Runs the tests of the kernels with GCC's sanitizers, which end the process at a wrong access or undefined behaviour.

make sanitize
"""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from hf_ascdistill.native import kernels

FLAGS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TESTS = (
    "test_inverted_residual.py",
    "test_stem.py",
    "test_convolution.py",
    "test_log_mel.py",
    "test_classifier.py",
    "test_tiles.py",
)

if __name__ == "__main__":
    kernels.FLAGS = (*kernels.FLAGS, *FLAGS)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        sys.exit(
            pytest.main(
                ["-q", "-s", "-p", "no:cacheprovider", *(str(Path(__file__).with_name(name)) for name in TESTS)]
            )
        )
