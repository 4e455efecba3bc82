"""What the tests of the recipes share: the recipes as modules, and the real clips, prepared once."""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def load_recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def recipe() -> Callable[[str], ModuleType]:
    """Imports a recipe by its name."""
    return load_recipe


@pytest.fixture(scope="session")
def run_recipe() -> Callable:
    """Runs a recipe in this process: `run_recipe("distill", "--data", path)`."""
    return lambda name, *arguments: load_recipe(name).main([str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment of a process that shall compute bit for bit what this one does."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


@pytest.fixture(scope="session")
def sample(shared) -> Path:
    """200 real clips of TAU22 in the official layout."""
    return shared / "data" / "tau22-sample"


@pytest.fixture(scope="session")
def store(sample, run_recipe, tmp_path_factory) -> Path:
    """The prepared store of these clips."""
    folder = tmp_path_factory.mktemp("sample") / "prepared"
    run_recipe("prepare_data", "--data", sample, "--output", folder, "--num_proc", 1)
    return folder
