"""The promises of the house that no unit sees: imports go down the layers, files stay small and say what they are."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import hf_ascdistill

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = "hf_ascdistill"
SOURCE = CHECKOUT / "src" / PACKAGE

# The table of CONTRIBUTING.md; the longest entry that fits counts. A module may import modules of lower layers, and of
# its own layer where they lie in the same folder.
LAYERS = {
    "repair_torchaudio": 0,
    "files": 0,
    "denormals": 0,
    "allocator": 0,
    "out_of_memory": 0,
    "models": 0,
    "data.columns": 0,
    "data": 1,
    "transforms": 1,
    "metrics": 1,
    "losses": 1,
    "schedule": 1,
    "complexity": 1,
    "activation_memory": 1,
    "microcontrollers": 1,
    "fusing": 1,
    "memory_format": 1,
    "native": 1,
    "native.convolution": 0,
    "native.kernels": 0,
    "native.log_mel": 0,
    "pictures": 1,
    "teachers": 2,
    "inference": 2,
    "prediction": 2,
    "ensembles": 2,
    "online": 2,
    "soup": 2,
    "quantization": 2,
    "int8": 2,
    "conversion": 2,
    "arguments": 2,
    "evaluation": 2,
    "export": 2,
    "hub": 3,
    "resident_trainer": 4,
    "trainer": 4,
    "building": 4,
    "runs": 4,
    "quantized_runs": 4,
    "device_students": 4,
    "device_adaptation": 4,
    "experiments": 4,
    "command_line": 5,
}
# Files that are copied to the Hub: every absolute import in them becomes a package that the reader needs.
SHIPPED = re.compile(r"models\.(?!__init__$).+|hub\.handler")
SHIPPED_PACKAGES = {"numpy", "torch", "transformers"}
MAX_LINES = 400
MACHINE_PATH = re.compile(r"(?<![\w.~:/-])/(work|root|home|Users|tmp)(/|\b(?![\w-]))")
TEXT_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".cff", ".jinja", ".html", ".json", ""}


class Import(NamedTuple):
    line: int
    level: int  # leading dots
    module: str  # absolute, resolved
    name: str | None  # what is taken from it; None for `import module`


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (CHECKOUT / folder).rglob("*.py"))


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(CHECKOUT)}:{line}"


def imports(tree: ast.Module, parents: list[str]) -> Iterator[Import]:
    """Every import of a module whose package is `parents`, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, 0, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (Import(node.lineno, node.level, module, alias.name) for alias in node.names)


def layer_entry(module: str) -> str | None:
    """The longest entry of `LAYERS` that holds `module` (without the package's name)."""
    return max((entry for entry in LAYERS if f"{module}.".startswith(f"{entry}.")), key=len, default=None)


def folder_of(module: str) -> str:
    """Sub-package that holds `module`; empty for the files beside the sub-packages."""
    first = module.split(".")[0]
    return first if "." in module or (SOURCE / first).is_dir() else ""


def is_downward(source: str, target: str) -> bool:
    own, other = LAYERS[layer_entry(source)], LAYERS[layer_entry(target)]
    return other < own or (other == own and folder_of(source) == folder_of(target))


def target_of(found: Import) -> str:
    """Module that an import reaches: `from .data import columns` reaches data.columns."""
    if found.name is None:
        return found.module.removeprefix(f"{PACKAGE}.")
    dotted = f"{found.module}.{found.name}".removeprefix(f"{PACKAGE}.")
    path = SOURCE.joinpath(*dotted.split("."))
    is_module = dotted in LAYERS or path.with_suffix(".py").is_file() or path.is_dir()
    return dotted if is_module else found.module.removeprefix(PACKAGE).removeprefix(".")


def layer_violations(module: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Imports of our own modules that do not go down; `module` is dotted, `__init__` included."""
    if layer_entry(module) is None:
        yield 1, f"{module} has no layer; add it to LAYERS and to CONTRIBUTING.md"
        return
    for found in imports(tree, [PACKAGE, *module.split(".")[:-1]]):
        if found.module.split(".")[0] != PACKAGE:
            continue
        target = target_of(found)
        if layer_entry(target) is None:
            yield found.line, f"imports {target or 'the public names'}, which no layer may"
        elif not is_downward(module, target):
            layers = [LAYERS[layer_entry(name)] for name in (target, module)]
            yield found.line, f"imports {target}, layer {layers[0]}, from layer {layers[1]}"


def shipped_violations(module: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Imports that a file copied to the Hub could not make there."""
    if not SHIPPED.fullmatch(module):
        return
    for found in imports(tree, [PACKAGE, *module.split(".")[:-1]]):
        root, target = found.module.split(".")[0], target_of(found)
        if root == PACKAGE:
            if found.level != 1 or not target.rpartition(".")[2].startswith("configuration_"):
                yield (
                    found.line,
                    f"imports {found.module}, the Hub takes only `from .configuration_x import`",
                )
        elif root not in SHIPPED_PACKAGES and root not in sys.stdlib_module_names:
            yield found.line, f"imports {root}, only {sorted(SHIPPED_PACKAGES)} are there on the Hub"


def recipe_violations(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Uses of the package by a recipe that are not public names."""
    for found in imports(tree, []):
        if found.module.split(".")[0] != PACKAGE:
            continue
        if found.module != PACKAGE:
            yield found.line, f"imports from {found.module}; use `from {PACKAGE} import ...`"
        elif found.name is not None and found.name not in hf_ascdistill.__all__:
            yield found.line, f"imports {found.name}, which {PACKAGE} does not make public"
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    for node in attributes:
        is_ours = isinstance(node.value, ast.Name) and node.value.id == PACKAGE
        if is_ours and node.attr not in hf_ascdistill.__all__:
            yield node.lineno, f"uses {PACKAGE}.{node.attr}, which is not public"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def source_modules() -> list[tuple[Path, str, ast.Module]]:
    paths = [path for path in python_files(f"src/{PACKAGE}") if path != SOURCE / "__init__.py"]
    assert paths, f"no modules under {SOURCE}"
    return [(path, module_name(path), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


@pytest.mark.parametrize("rule", [layer_violations, shipped_violations])
def test_imports_go_down_the_layers(rule):
    offenders = [
        f"{where(path, line)} {text}" for path, module, tree in source_modules() for line, text in rule(module, tree)
    ]
    assert not offenders, "\n".join(offenders)


def test_recipes_use_public_names_only():
    offenders = [
        f"{where(path, line)} {text}"
        for path in python_files("recipes")
        for line, text in recipe_violations(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not offenders, "\n".join(offenders)


def test_files_are_short():
    lines = {
        path: len(path.read_text().splitlines()) for path in python_files("src", "recipes", "tests", "benchmarks")
    }
    offenders = [f"{where(path, n)} is longer than {MAX_LINES} lines" for path, n in lines.items() if n > MAX_LINES]
    assert not offenders, "\n".join(offenders)


def test_modules_say_what_they_are_for():
    offenders = [
        f"{where(path, 1)} has no module docstring"
        for path in python_files("src", "recipes", "benchmarks")
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not offenders, "\n".join(offenders)


def test_modules_list_their_public_names():
    offenders = [
        f"{where(path, 1)} has no __all__"
        for path, module, tree in source_modules()
        if not module.endswith("__init__") and "__all__" not in assigned_names(tree)
    ]
    assert not offenders, "\n".join(offenders)


def assigned_names(tree: ast.Module) -> set[str]:
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_no_path_of_one_machine():
    folders = ("src", "recipes", "tests", "benchmarks", "model_cards", ".ci")
    paths = [path for folder in folders for path in (CHECKOUT / folder).rglob("*")] + list(CHECKOUT.glob("*"))
    offenders = [
        f"{where(path, number)} names a path of one machine: {line.strip()}"
        for path in sorted(paths)
        if path.is_file() and path.suffix in TEXT_SUFFIXES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize(
    ("module", "snippet"),
    [
        ("data.crops", "from ..trainer import DistillationTrainer"),
        ("data.crops", "from ..transforms.waveform import TimeRoll"),  # sideways
        ("data.crops", "from ..losses import distillation_loss"),  # sideways
        ("losses", "from .data import tau22"),  # sideways
        ("data.columns", "from .crops import shifted_crops"),
        ("data.__init__", "from .. import teachers"),
        ("losses", "from . import trainer"),
        ("losses", "from hf_ascdistill import AcousticFrontend"),
        ("losses", "import hf_ascdistill.trainer"),
        ("teachers", "def predict():\n    from .hub.publish import publish"),
        ("somewhere", "import torch"),
    ],
)
def test_an_upward_import_is_caught(module, snippet):
    [(line, _)] = layer_violations(module, ast.parse(snippet))
    assert line == len(snippet.splitlines())


@pytest.mark.parametrize(
    ("module", "snippet"),
    [
        ("models.modeling_x", "from ..data.columns import LABELS"),
        ("models.modeling_x", "from .modeling_y import Block"),
        ("models.modeling_x", "from hf_ascdistill.models.configuration_x import XConfig"),
        ("models.modeling_x", "def forward(self):\n    import torchaudio.functional"),
        ("hub.handler", "from soundfile import read"),
    ],
)
def test_an_import_that_the_hub_cannot_make_is_caught(module, snippet):
    [(line, _)] = shipped_violations(module, ast.parse(snippet))
    assert line == len(snippet.splitlines())


@pytest.mark.parametrize(
    "snippet",
    [
        "from hf_ascdistill.data.tau22 import load_tau22",
        "import hf_ascdistill.data",
        "from hf_ascdistill import _register_models",
        "import hf_ascdistill\nhf_ascdistill._register_models()",
    ],
)
def test_a_private_name_in_a_recipe_is_caught(snippet):
    [(line, _)] = recipe_violations(ast.parse(snippet))
    assert line == len(snippet.splitlines())


@pytest.mark.parametrize(
    ("rule", "module", "snippet"),
    [
        (
            layer_violations,
            "data.crops",
            "import torch\nfrom .columns import START\nfrom .tau22 import SCENES",
        ),
        (layer_violations, "transforms.frontend", "from ..data.columns import WAVEFORM\nfrom ..data import columns"),
        (layer_violations, "trainer", "from .data.columns import LABELS\nfrom . import losses, runs"),
        (shipped_violations, "models.modeling_x", "import math\nfrom torch import nn\nfrom .configuration_x import X"),
        (shipped_violations, "models.__init__", "from .modeling_x import XModel"),
    ],
)
def test_an_allowed_import_passes(rule, module, snippet):
    assert not list(rule(module, ast.parse(snippet)))


@pytest.mark.parametrize("place", ["work/x", "home/someone/x", "tmp"])
def test_a_machine_path_is_caught(place):
    assert MACHINE_PATH.search(f'open("/{place}")')
    assert not MACHINE_PATH.search(f"see https://example.org/{place} and data/{place}")
