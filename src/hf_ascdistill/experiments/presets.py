"""The scale of a plan: seeds, crops, and the YAML files and arguments of every training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ..arguments import (
    AugmentationArguments,
    DataArguments,
    DistillationTrainingArguments,
    ModelArguments,
    TeacherArguments,
    read_yaml_defaults,
)
from ..data.synthetic import SyntheticSettings
from .grid import SIZES, TeacherKind

STUDENT = "student"
SIZE_MARK = "{size}"
ROLES = (*SIZES, STUDENT)
TRAINING_FIELDS = {
    item.name
    for kind in (
        DataArguments,
        ModelArguments,
        AugmentationArguments,
        TeacherArguments,
        DistillationTrainingArguments,
    )
    for item in fields(kind)
}
OWN_FIELDS = ("data", "crop_hop", "seed", "output_dir", "device_generalization", "teacher_logits", "initial_weights")


@dataclass(frozen=True)
class Preset:
    """The scale at which tables are made.

    Args:
        name (`str`): name of its file, without the ending.
        seeds (`tuple[int, ...]`): one run of each teacher and student per seed.
        crop_hop (`float`, *optional*): seconds between shifted crops; unset: training on the clips alone.
        corpus (`dict`, *optional*): settings of the synthetic corpus that the plan writes where no data are given.
        pretrained (`tuple[str, ...]`): architectures whose teachers start from pretrained weights.
        configs (`dict[str, tuple[str, ...]]`): YAML files of the trainings of `cpr`, `cpm`, `passt` and `student`;
            `{size}` stands for the teacher's size.
        arguments (`dict[str, dict]`): arguments of the trainings on top of them: of `all`, `student`, an architecture
            (`cpr`), a size of it (`cpr-450k`) or a kind of teacher (`cpr-450k-dir`); and of `logits` and `ensemble`.
    """

    name: str
    seeds: tuple[int, ...]
    crop_hop: float | None
    configs: dict[str, tuple[str, ...]]
    corpus: dict[str, Any] | None = None
    pretrained: tuple[str, ...] = ()
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)

    def config_files(self, role: str, size: str = "") -> tuple[str, ...]:
        """Returns the YAML files of a training.

        Args:
            role (`str`): an architecture, or `student`.
            size (`str`, *optional*): the teacher's size.
        """
        return tuple(path.replace(SIZE_MARK, size) for path in self.configs[role])

    def training_arguments(self, kind: TeacherKind | None = None) -> dict[str, Any]:
        """Returns the arguments of a training on top of its YAML files; the more specific ones win.

        Args:
            kind ([`TeacherKind`], *optional*): the teacher; unset: the student.
        """
        if kind is None:
            return {**self.arguments.get("all", {}), **self.arguments.get(STUDENT, {})}
        scopes = ("all", kind.architecture, f"{kind.architecture}-{kind.size}", kind.name)
        return {name: value for scope in scopes for name, value in self.arguments.get(scope, {}).items()}

    def training_values(self, kind: TeacherKind | None = None) -> dict[str, Any]:
        """Returns all that YAML files and arguments say of a training.

        Args:
            kind ([`TeacherKind`], *optional*): the teacher; unset: the student.

        Raises:
            FileNotFoundError: a YAML file is absent.
            ValueError: a YAML file is damaged, or an argument is unknown or the plan's own.
        """
        files = self.config_files(STUDENT) if kind is None else self.config_files(kind.architecture, kind.size)
        absent = [path for path in files if not Path(path).is_file()]
        if absent:
            raise FileNotFoundError(f"preset {self.name}: {', '.join(absent)} is absent; it is named under configs.")
        arguments = self.training_arguments(kind)
        values = {**read_yaml_defaults(files), **arguments}
        unknown = sorted(set(values) - TRAINING_FIELDS)
        if unknown:
            raise ValueError(f"preset {self.name}: unknown argument(s) {', '.join(unknown)} of a training.")
        taken = sorted(set(arguments).intersection(OWN_FIELDS))
        if taken:
            raise ValueError(f"preset {self.name}: {', '.join(taken)} is set by the plan itself; take it out.")
        return values


def preset_path(name: str, folder: str | Path) -> Path:
    """Returns the file of a preset: of its name, or the path itself.

    Args:
        name (`str`): `paper`, `toy`, ..., or the path of a YAML file.
        folder (`str | Path`): where the named presets are.
    """
    return Path(name) if name.endswith((".yaml", ".yml")) else Path(folder) / f"{name}.yaml"


def load_preset(path: str | Path) -> Preset:
    """Reads a preset's YAML file; the YAML files that it names are relative to it.

    Args:
        path (`str | Path`): a mapping of the fields of [`Preset`] but for its name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, a field is missing, unknown or of another type; file and field are named.
    """
    path = Path(path)
    if not path.is_file():
        others = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml")))
        raise FileNotFoundError(f"{path} is no file; expected a preset's name ({others or 'none is there'}) or file.")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    known = [item.name for item in fields(Preset) if item.name != "name"]
    if not isinstance(content, dict) or not {"seeds", "configs"} <= content.keys() <= set(known):
        raise ValueError(f"{path} holds {_keys(content)}; expected seeds and configs, and perhaps {', '.join(known)}.")
    _check_seeds(content["seeds"], path)
    hop = content.get("crop_hop")
    if hop is not None and not (isinstance(hop, int | float) and hop > 0):
        raise ValueError(f"{path}: crop_hop is {hop!r}; expected seconds, or nothing.")
    return Preset(
        name=path.stem,
        seeds=tuple(content["seeds"]),
        crop_hop=hop,
        configs=_configs(content["configs"], path),
        corpus=_corpus(content.get("corpus"), path),
        pretrained=_pretrained(content.get("pretrained") or [], path),
        arguments=_arguments(content.get("arguments") or {}, path),
    )


def _keys(content: Any) -> str:
    return ", ".join(map(str, content)) if isinstance(content, dict) else repr(content)


def _check_seeds(seeds: Any, path: Path) -> None:
    is_list = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not is_list or len(set(seeds)) < len(seeds):
        raise ValueError(f"{path}: seeds is {seeds!r}; expected a list of different whole numbers.")


def _configs(content: Any, path: Path) -> dict[str, tuple[str, ...]]:
    if not isinstance(content, dict) or set(content) != set(ROLES):
        raise ValueError(f"{path}: configs holds {_keys(content)}; expected {', '.join(ROLES)}.")
    for role, files in content.items():
        if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
            raise ValueError(f"{path}: configs.{role} is {files!r}; expected a list of YAML files.")
    return {role: tuple(_beside(path, name) for name in files) for role, files in content.items()}


def _beside(path: Path, name: str) -> str:
    """Returns a file that a preset names: below the working folder if it can, for short commands."""
    found = (path.parent / name).resolve()
    here = Path.cwd()
    return str(found.relative_to(here) if found.is_relative_to(here) else found)


def _corpus(content: Any, path: Path) -> dict[str, Any] | None:
    known = [item.name for item in fields(SyntheticSettings)]
    if content is None:
        return None
    if not isinstance(content, dict) or not set(content) <= set(known):
        raise ValueError(f"{path}: corpus holds {_keys(content)}; expected {', '.join(known)}.")
    return content


def _pretrained(content: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(content, list) or not set(content) <= set(SIZES):
        raise ValueError(f"{path}: pretrained is {content!r}; expected a list of {', '.join(SIZES)}.")
    return tuple(content)


def _arguments(content: Any, path: Path) -> dict[str, dict[str, Any]]:
    scopes = {
        "all",
        "logits",
        "ensemble",
        STUDENT,
        *SIZES,
        *(f"{name}-{size}" for name in SIZES for size in SIZES[name]),
    }
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: arguments is {content!r}; expected a mapping of {', '.join(sorted(scopes))}.")
    for scope, values in content.items():
        if scope not in scopes and not _is_kind(scope):
            raise ValueError(f"{path}: arguments holds {scope!r}; expected {', '.join(sorted(scopes))} or a teacher.")
        if not isinstance(values, Mapping):
            raise ValueError(f"{path}: arguments.{scope} is {values!r}; expected a mapping of arguments to values.")
    return {scope: dict(values) for scope, values in content.items()}


def _is_kind(name: Any) -> bool:
    try:
        TeacherKind.parse(str(name))
    except ValueError:
        return False
    return True


def as_options(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Turns arguments into a command line: `--name value`; `None` is left out.

    Args:
        arguments (`Mapping[str, Any]`): names to texts, numbers, booleans or sequences of them.
    """
    options: list[str] = []
    for name, value in arguments.items():
        if value is not None:
            values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            options += [f"--{name}", *(str(item).lower() if isinstance(item, bool) else str(item) for item in values)]
    return tuple(options)


__all__ = ["Preset", "as_options", "load_preset", "preset_path"]
