"""The arguments of the recipes as dataclasses, and `parse_recipe`: YAML gives the defaults, the command line wins."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_utils import HubStrategy

from .allocator import keep_freed_memory
from .data.columns import DEVICE_IDS, LABELS
from .data.resident import DATA_PLACEMENTS
from .schedule import EpochSchedule

CONFIG_FLAG = "--config"
FRONTEND_SEATS = ("accelerator", "workers")
TEACHER_MODES = ("cached", "online")


@dataclass
class DataArguments:
    """Parameters that control which clips a recipe works on.

    Args:
        data (`str`): folder of a corpus in TAU22's layout, or a store written by `prepare`.
        train_list (`str`, *optional*): csv of the training clips in place of fold1_train.csv (a DCASE24 split).
        crop_hop (`float`, *optional*): train on 1-s crops that begin every so many seconds; unset: on the clips alone.
        random_crops (`bool`, *optional*, defaults to `False`): training crops begin at a random sample of the
            recording, a new draw each epoch; one for each `crop_hop` seconds, unset: for each second. They have no
            cached logits.
        impulse_responses (`str`, *optional*): folder of impulse responses for DIR; unset: a small generated bank.
        resample_impulse_responses (`bool`, *optional*, defaults to `False`): resample them to 32 kHz where needed.
    """

    data: str = field(metadata={"help": "corpus in TAU22's layout, or a store written by prepare_data.py"})
    train_list: str | None = field(default=None, metadata={"help": "csv of training clips (a DCASE24 split)"})
    crop_hop: float | None = field(default=None, metadata={"help": "seconds between shifted crops; unset: clips"})
    random_crops: bool = field(default=False, metadata={"help": "crops at random samples, a new draw each epoch"})
    impulse_responses: str | None = field(default=None, metadata={"help": "folder of impulse responses for DIR"})
    resample_impulse_responses: bool = field(default=False, metadata={"help": "resample them to 32 kHz"})


@dataclass
class ModelArguments:
    """Parameters that control which network is trained.

    Args:
        architecture (`str`, *optional*, defaults to `"cp-mobile"`): `cp-mobile`, `cp-resnet` or `passt`.
        size (`str`, *optional*, defaults to `"128k"`): one of the paper's sizes, 128k, 450k, 1m, 4m, 8m; `s` of PaSST.
        initial_weights (`str`, *optional*): folder of a saved model to start from; architecture and size are its own.
        config_overrides (`str`, *optional*): fields of a new model's configuration that differ from its size, such as
            `"hidden_size=48,num_hidden_layers=2,num_attention_heads=4,intermediate_size=192"`.
    """

    architecture: str = field(default="cp-mobile", metadata={"help": "cp-mobile, cp-resnet or passt"})
    size: str = field(default="128k", metadata={"help": "128k, 450k, 1m, 4m or 8m; s of passt"})
    initial_weights: str | None = field(default=None, metadata={"help": "folder of a saved model to start from"})
    config_overrides: str | None = field(
        default=None, metadata={"help": "name=value,... in the configuration of a new model"}
    )


@dataclass
class AugmentationArguments:
    """Parameters that control device generalisation and the other augmentations (paper section 3.1).

    Args:
        device_generalization (`str`, *optional*, defaults to `"dirfms"`): the DG switch of Table 2: none, dir, fms,
            dirfms.
        dir_p (`float`, *optional*, defaults to 0.6): share of the clips that DIR convolves.
        dir_devices (`list[str]`, *optional*): devices whose clips DIR may touch; unset: all of them.
        fms_alpha (`float`, *optional*, defaults to 0.3): parameter of Freq-MixStyle's Beta distribution.
        fms_p (`float`, *optional*, defaults to 0.4): share of the batches that Freq-MixStyle mixes.
        roll_max_shift (`int`, *optional*, defaults to 4000): largest circular shift, samples at 32 kHz.
        max_freq_mask (`int`, *optional*, defaults to 48): frequency masks are narrower than this many mel bins.
        max_time_mask (`int`, *optional*, defaults to 0): time masks are shorter than this many frames.
        mask_per_clip (`bool`, *optional*, defaults to `False`): draw a mask for each clip, not one for the batch.
        fmax_jitter (`bool`, *optional*, defaults to `True`): draw the mel bank's upper edge anew for each batch.
    """

    device_generalization: str = field(default="dirfms", metadata={"help": "none, dir, fms or dirfms"})
    dir_p: float = field(default=0.6, metadata={"help": "share of the clips that DIR convolves"})
    dir_devices: list[str] | None = field(default=None, metadata={"help": "devices that DIR may touch; unset: all"})
    fms_alpha: float = field(default=0.3, metadata={"help": "Beta(alpha, alpha) of Freq-MixStyle"})
    fms_p: float = field(default=0.4, metadata={"help": "share of the batches that Freq-MixStyle mixes"})
    roll_max_shift: int = field(default=4000, metadata={"help": "largest circular shift in samples"})
    max_freq_mask: int = field(default=48, metadata={"help": "upper bound of the frequency mask, mel bins"})
    max_time_mask: int = field(default=0, metadata={"help": "upper bound of the time mask, frames"})
    mask_per_clip: bool = field(default=False, metadata={"help": "one mask a clip instead of one a batch"})
    fmax_jitter: bool = field(default=True, metadata={"help": "jitter the upper edge of the mel bank"})


@dataclass
class TeacherArguments:
    """Parameters that control what the student learns from.

    Args:
        teacher_logits (`list[str]`): logit sets written by `predict_logits`; several are averaged.
        allow_extra_logits (`bool`, *optional*, defaults to `False`): the sets may hold more clips than the student
            trains on (a DCASE24 split of a corpus whose logits are complete).
        teacher_mode (`str`, *optional*, defaults to `"cached"`): `cached`: the teachers' logits of the clean clips;
            `online`: the teachers run in the student's training loop, on the same augmented clips.
        teachers (`list[str]`, *optional*): runs of teachers, for `online`; their raw logits are averaged.

    Raises:
        ValueError: the mode is unknown, or the teachers are named in the other mode's way.
    """

    teacher_logits: list[str] | None = field(default=None, metadata={"help": "folders of logit sets, averaged"})
    allow_extra_logits: bool = field(default=False, metadata={"help": "the sets may hold more clips than are used"})
    teacher_mode: str = field(default="cached", metadata={"help": "cached or online (teachers in the training loop)"})
    teachers: list[str] | None = field(default=None, metadata={"help": "folders of teachers, for online, averaged"})

    def __post_init__(self) -> None:
        if self.teacher_mode not in TEACHER_MODES:
            raise ValueError(f"teacher_mode is {self.teacher_mode!r}; expected one of {', '.join(TEACHER_MODES)}.")
        if self.teacher_mode == "cached" and self.teachers:
            raise ValueError(
                f"teachers are named ({', '.join(self.teachers)}), but teacher_mode is cached: pass --teacher_mode "
                "online, or cache their logits with cache_logits.py and pass --teacher_logits."
            )
        if self.teacher_mode == "online" and self.teacher_logits:
            raise ValueError(
                f"teacher_logits are named ({', '.join(self.teacher_logits)}), but teacher_mode is online: pass the "
                "teachers' folders as --teachers, or leave teacher_mode at cached."
            )
        if self.teacher_mode == "online" and not self.teachers:
            raise ValueError("teacher_mode is online, but no teachers are named: pass --teachers FOLDER...")


@dataclass
class DistillationTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the paper's loss, schedule and protocol as defaults.

    Args:
        kd_lambda (`float`, *optional*, defaults to 0.02): weight of the LABEL loss in Eq. 1.
        kd_temperature (`float`, *optional*, defaults to 2.0): temperature tau of Eq. 1.
        kd_reduction (`str`, *optional*, defaults to `"batchmean"`): `batchmean` is Eq. 1, `mean` the authors' runs.
        lr_warmup_epochs (`int`, *optional*, defaults to 14): epochs of exponential warm-up.
        lr_ramp_start (`int`, *optional*, defaults to 50): epoch after which the rate falls.
        lr_ramp_length (`int`, *optional*, defaults to 84): epochs of the linear fall.
        lr_last (`float`, *optional*, defaults to 0.005): the last rate as a share of the peak.
        lr_reference_epochs (`int`, *optional*, defaults to 150): length of the run that the three epochs above were
            chosen for; a run of another length gets the same proportions.
        frontend_seat (`str`, *optional*, defaults to `"accelerator"`): where waveforms become log-mels: on the
            `accelerator`, or in the data loader's `workers`.
        data_placement (`str`, *optional*, defaults to `"auto"`): where the prepared clips lie, of training and
            evaluation: on `disk`, read batch by batch; in the host's `ram`; in the memory of the `device`, where
            batches never touch the host; or `auto`: on a CUDA device where they fit, else on disk. The batches are the
            same bits everywhere. Where memory is short, a warning says what is taken in its place.
        channels_last (`bool`, *optional*, defaults to `True`): memory format of training, but of CP-ResNet's on an
            accelerator ([`fastest_memory_format`]); faster, and on a CPU some 50 times less accurate in batch
            normalisation (2e-6).
        fused_adam (`bool`, *optional*, defaults to `True`): one kernel updates all parameters; off: one parameter
            after the other, to rounding the same.
        flush_denormals (`bool`, *optional*, defaults to `True`): [`parse_recipe`] makes the CPU take denormal numbers
            (below 1.2e-38) for 0. Weight decay drives dead channels there, where some CPUs are 3 to 4 times slower.
        keep_freed_memory (`bool`, *optional*, defaults to `True`): [`parse_recipe`] makes the C library keep freed
            memory for the next step, which is faster on a CPU.
        native_kernels (`bool`, *optional*, defaults to `True`): on a CPU CP-Mobiles train ([`use_native_kernels`])
            and are evaluated, DIR convolves and log-mels are made in kernels that GCC compiles at the first use, and
            PaSST trains by oneDNN on AMD's processors with AVX-512: the same to rounding. Without GCC a message says
            so, and torch's operations do the work.
        last_epochs (`int`, *optional*, defaults to 4): epochs whose metrics are averaged (paper, Table 1).
        pictures (`bool`, *optional*, defaults to `True`): draw the training curve and the accuracy per device.
    """

    kd_lambda: float = field(default=0.02, metadata={"help": "weight of the label loss"})
    kd_temperature: float = field(default=2.0, metadata={"help": "temperature of both distributions"})
    kd_reduction: str = field(default="batchmean", metadata={"help": "batchmean (Eq. 1) or mean (authors' runs)"})
    lr_warmup_epochs: int = field(default=14, metadata={"help": "epochs of exponential warm-up"})
    lr_ramp_start: int = field(default=50, metadata={"help": "epoch after which the rate falls"})
    lr_ramp_length: int = field(default=84, metadata={"help": "epochs of the linear fall"})
    lr_last: float = field(default=0.005, metadata={"help": "last rate as a share of the peak"})
    lr_reference_epochs: int = field(default=150, metadata={"help": "run length that these epochs belong to"})
    frontend_seat: str = field(default="accelerator", metadata={"help": "accelerator or workers"})
    data_placement: str = field(default="auto", metadata={"help": "auto, disk, ram or device"})
    channels_last: bool = field(default=True, metadata={"help": "memory format of training, where it is faster"})
    fused_adam: bool = field(default=True, metadata={"help": "update all parameters in one kernel"})
    flush_denormals: bool = field(default=True, metadata={"help": "numbers below 1.2e-38 are 0 to the CPU: faster"})
    keep_freed_memory: bool = field(default=True, metadata={"help": "keep freed memory of the CPU: faster"})
    native_kernels: bool = field(
        default=True, metadata={"help": "on a CPU, C++ for CP-Mobile, DIR, log-mels; oneDNN for PaSST"}
    )
    last_epochs: int = field(default=4, metadata={"help": "epochs whose metrics are averaged"})
    pictures: bool = field(default=True, metadata={"help": "draw training curve and accuracy per device"})

    learning_rate: float = field(default=9e-4, metadata={"help": "peak learning rate of Adam"})
    weight_decay: float = field(default=1e-4, metadata={"help": "L2 penalty inside Adam, on every parameter"})
    num_train_epochs: float = field(default=150, metadata={"help": "epochs"})
    per_device_train_batch_size: int = field(default=256, metadata={"help": "clips per device and step"})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "clips per device in evaluation"})
    eval_strategy: str = field(default="epoch", metadata={"help": "when to evaluate"})
    save_strategy: str = field(default="epoch", metadata={"help": "when to write a checkpoint"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints that are kept"})
    logging_strategy: str = field(default="epoch", metadata={"help": "when to log"})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "hide NaN losses from the log"})
    max_grad_norm: float = field(default=0.0, metadata={"help": "gradient clipping; 0: none, as in the paper"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "must stay False: the front-end needs them"})
    hub_strategy: str = field(default="end", metadata={"help": "must stay end: a run is published whole"})
    dataloader_pin_memory: bool = field(
        default_factory=torch.accelerator.is_available, metadata={"help": "pin batches; only an accelerator needs it"}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "search for parameters without gradient; none of our networks has any"}
    )
    label_names: list[str] | None = field(
        default_factory=lambda: [LABELS, DEVICE_IDS], metadata={"help": "columns handed to the metrics"}
    )

    def __post_init__(self) -> None:
        if self.accelerator_config is None:  # to copy a pinned batch and wait for it is to wait for the last step
            self.accelerator_config = {"non_blocking": self.dataloader_pin_memory}
        super().__post_init__()
        if self.n_gpu > 1:  # a process works on one device: torch's DataParallel would make steps of so many batches
            self._n_gpu = 1
        if self.save_only_model:
            raise ValueError(
                "save_only_model must be False: a run is resumed with its optimiser, schedule and random numbers."
            )
        if self.frontend_seat not in FRONTEND_SEATS:
            raise ValueError(f"frontend_seat is {self.frontend_seat!r}; expected one of {', '.join(FRONTEND_SEATS)}.")
        if self.data_placement not in DATA_PLACEMENTS:
            raise ValueError(
                f"data_placement is {self.data_placement!r}; expected one of {', '.join(DATA_PLACEMENTS)}."
            )
        if self.frontend_seat == "workers" and self.data_placement in ("ram", "device"):
            raise ValueError(
                f"data_placement is {self.data_placement}, but frontend_seat is workers: clips in memory have no "
                "workers. Pass --frontend_seat accelerator, or --data_placement disk."
            )
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must be False: the front-end reads waveform and device_ids.")
        if self.hub_strategy != HubStrategy.END:
            raise ValueError(
                f"hub_strategy is {self.hub_strategy.value!r}; expected 'end': a run is published whole, with results."
            )

    @property
    def schedule(self) -> EpochSchedule:
        """The learning-rate schedule of a run of `num_train_epochs` epochs."""
        reference = EpochSchedule(
            warmup_epochs=self.lr_warmup_epochs,
            ramp_start=self.lr_ramp_start,
            ramp_length=self.lr_ramp_length,
            last=self.lr_last,
            reference_epochs=self.lr_reference_epochs,
        )
        return reference.scaled(self.num_train_epochs)


def read_yaml_defaults(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Reads YAML files into one flat dict; a later file wins over an earlier one.

    Args:
        paths (`Sequence[str | Path]`): YAML files, each one mapping of argument names to values.

    Raises:
        ValueError: a file is not YAML or holds no mapping.
        FileNotFoundError: a file is absent.
    """
    defaults: dict[str, Any] = {}
    for path in paths:
        try:
            values = yaml.safe_load(Path(path).read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds {type(values).__name__}; expected a mapping of argument names to values.")
        defaults.update(values)
    return defaults


def parse_recipe(*dataclass_types: type, argv: Sequence[str] | None = None, description: str | None = None) -> tuple:
    """Parses `--config a.yaml b.yaml --field value` into one instance of each dataclass.

    Args:
        dataclass_types (`type`): argument dataclasses.
        argv (`Sequence[str]`, *optional*): command line without the program's name; unset: `sys.argv[1:]`.
        description (`str`, *optional*): the recipe's docstring, for `--help`.

    Returns:
        `tuple`: one instance per dataclass. Values of the command line win over the YAML files, later files over
        earlier ones, and all of them over the dataclasses' defaults.

    Raises:
        ValueError: a YAML file is unreadable or names an unknown argument, or the launcher started another number of
            processes than the training arguments see.
    """
    parser = HfArgumentParser(dataclass_types, description=description, allow_abbrev=False)
    parser.add_argument(CONFIG_FLAG, nargs="+", default=[], help="YAML files with defaults for all other arguments")
    files = parser_config_files(argv)
    defaults = read_yaml_defaults(files)
    actions = {action.dest: action for action in parser._actions}
    unknown = sorted(set(defaults) - set(actions))
    if unknown:
        raise ValueError(f"unknown argument(s) {', '.join(unknown)} in {', '.join(map(str, files))}; see --help.")
    for name, value in defaults.items():
        actions[name].required = False
        if actions[name].nargs == "+" and not isinstance(value, list | None):
            value = [value]  # one name where several may stand
        # argparse converts string defaults as if they were typed: YAML reads 1e-3 as a string
        parser.set_defaults(**{name: str(value) if isinstance(value, int | float) else value})
    instances = parser.parse_args_into_dataclasses(args=argv, look_for_args_file=False)[: len(dataclass_types)]
    for instance in instances:
        if isinstance(instance, TrainingArguments):
            check_world_size(instance.world_size)
    trainings = [instance for instance in instances if isinstance(instance, DistillationTrainingArguments)]
    for training in trainings:
        torch.set_flush_denormal(training.flush_denormals)  # the threads that torch starts later inherit it
    if all(training.keep_freed_memory for training in trainings):
        keep_freed_memory()
    return instances


def parser_config_files(argv: Sequence[str] | None) -> list[str]:
    """Returns the files behind `--config` on a command line, before the other arguments are parsed."""
    parser = HfArgumentParser([], add_help=False, allow_abbrev=False)
    parser.add_argument(CONFIG_FLAG, nargs="+", default=[])
    return parser.parse_known_args(argv)[0].config


def check_world_size(world_size: int) -> None:
    """Stops a run whose launcher started another number of processes than take part in the training.

    Args:
        world_size (`int`): processes that the training arguments see.

    Raises:
        ValueError: the launcher's `WORLD_SIZE` differs.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != world_size:
        raise ValueError(
            f"the launcher started {launched} processes, but the training sees {world_size}: they would train apart. "
            "On CPUs pass --use_cpu true to the recipe, beside --multi_gpu to accelerate launch."
        )


__all__ = [
    "AugmentationArguments",
    "DataArguments",
    "DistillationTrainingArguments",
    "ModelArguments",
    "TeacherArguments",
    "check_world_size",
    "parse_recipe",
    "read_yaml_defaults",
]
