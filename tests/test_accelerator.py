"""From indices to new weights, everything is done on the accelerator, and nothing waits for it."""

import json
import os
import subprocess
import sys

import accelerator_job
import pytest

FOUND = {"mix devices": "takes tensors of the CPU beside those", "read a number": "DataDependentOutputException"}


@pytest.fixture(scope="module")
def errors():
    """What went wrong in each case, None where nothing did."""
    command = [sys.executable, accelerator_job.__file__]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-12000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", [name for name in accelerator_job.CASES if name not in FOUND])
def test_accelerator_does_it_alone(case, errors):
    assert errors[case] is None


@pytest.mark.parametrize("case", FOUND)
def test_what_would_wait_or_fail_is_found(case, errors):
    assert FOUND[case] in errors[case]
