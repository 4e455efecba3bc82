"""What all tests share: no network, few threads, the reference data beside the checkout."""

import os
from collections.abc import Callable
from pathlib import Path

# Read when the libraries are imported, and inherited by the processes that tests start.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch

SHARED_VARIABLE = "ASCDISTILL_SHARED"
CHECKOUT = Path(__file__).resolve().parents[1]

# Sums depend on the number of threads in their last bits: the same number on every machine.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the reference data: the variable ASCDISTILL_SHARED, else `shared` beside the checkout."""
    path = Path(os.environ.get(SHARED_VARIABLE, CHECKOUT.parent / "shared"))
    if not (path / "golden").is_dir():
        if SHARED_VARIABLE in os.environ:
            raise FileNotFoundError(f"{SHARED_VARIABLE}={path} holds no folder golden/; correct or unset it.")
        pytest.skip(f"needs the reference data: set {SHARED_VARIABLE} or put the folder `shared` beside the checkout")
    return path


@pytest.fixture(scope="session")
def golden(shared: Path) -> Callable[[str], np.lib.npyio.NpzFile]:
    """Loads a golden file by its name: `golden("kd")["student"]`."""
    return lambda name: np.load(shared / "golden" / f"{name}.npz", allow_pickle=False)


@pytest.fixture(autouse=True)
def denormal_numbers():
    """Leaves the CPU as every test expects it, with denormal numbers: a recipe that runs in this process ends them."""
    yield
    torch.set_flush_denormal(False)
