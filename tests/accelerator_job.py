"""A training step on an accelerator that this machine need not have: of tensors it knows the shapes and the places.

python tests/accelerator_job.py prints, as JSON, what went wrong in each case, null where nothing did. It is a process
of its own, since a backend that is registered stays.
"""

import json
from collections.abc import Callable

import torch
from tiny_corpus import tiny_model
from tiny_teachers import front_end, tiny_cpr, tiny_passt, tiny_teachers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map_only

from hf_ascdistill import AscFeatureExtractor, build_frontend, drop_dead_channels, fuse
from hf_ascdistill.data.resident import ResidentClips
from hf_ascdistill.losses import distillation_loss_parts
from hf_ascdistill.online import OnlineTeachers
from hf_ascdistill.transforms.frontend import PAPER_AUGMENTATION

SCENES, CLIPS, SAMPLES = [f"scene-{index}" for index in range(10)], 8, 32_000
STUDENTS = {"cp-mobile": tiny_model, "cp-resnet": tiny_cpr, "passt": tiny_passt}
BACKEND, ACCELERATOR = "pretended", "pretended:0"  # torch knows the name once it is registered


class Backend(backend_registration._DummyBackendModule):
    """What torch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class PretendedAccelerator(FakeTensorMode):
    """Keeps the accelerator's tensors without their numbers, and the CPU's as they are.

    Only a copy brings a tensor from one to the other. To read a number back, or to count what a mask chooses, is an
    error: on an accelerator it would be to wait for it.
    """

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        device = kwargs.get("device")
        is_brought = device is not None and torch.device(device).type == BACKEND
        if not here and not is_brought:
            return func(*args, **kwargs)
        if here and any(tensor.ndim for tensor in tensors if not isinstance(tensor, FakeTensor)):
            raise RuntimeError(f"{func} takes tensors of the CPU beside those of the accelerator")
        args, kwargs = tree_map_only(torch.Tensor, self._known, (args, kwargs))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _known(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self.from_tensor(tensor.detach(), static_shapes=True)


def brought(model: nn.Module) -> nn.Module:
    """Moves a model to the accelerator, in the memory format that the trainer gives it."""
    model.to(memory_format=torch.channels_last)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.detach().to(ACCELERATOR), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(ACCELERATOR)
    return model


def is_there(tensor: torch.Tensor) -> bool:
    """Returns whether a tensor lies on the accelerator."""
    return str(tensor.device) == ACCELERATOR


def resident_batch() -> dict[str, torch.Tensor]:
    """Gathers a batch from clips that lie on the accelerator, as [`place`] leaves them."""
    rows = torch.arange(2 * CLIPS)
    columns = {"labels": rows % 10, "device_ids": rows % 3, "teacher_logits": torch.randn(len(rows), 10)}
    samples = torch.zeros(len(rows) * SAMPLES, dtype=torch.int16)
    clips = ResidentClips(samples, rows * SAMPLES, torch.ones(len(rows)), length=SAMPLES, columns=columns)
    for name in ("samples", "offset", "scale"):
        setattr(clips, name, getattr(clips, name).to(ACCELERATOR))
    clips.columns = {name: values.to(ACCELERATOR) for name, values in columns.items()}
    return clips.__getitems__(list(range(CLIPS)))


def training_frontend(preset: str, **settings):
    """Builds the front-end with all of the paper's augmentation, DIR for clips of some devices."""
    augmentation = PAPER_AUGMENTATION["student" if preset == "cp-mobile" else preset]
    augmentation = type(augmentation)(**{**vars(augmentation), "fms_p": 1.0, "dir_devices": (0,), **settings})
    extractor = AscFeatureExtractor.from_preset(preset)
    return build_frontend(extractor, augmentation, impulse_responses=torch.randn(5, 400))


def train(preset: str, **settings) -> None:
    """Takes one step of Eq. 1, from indices to new weights."""
    batch = training_frontend(preset, **settings)(resident_batch())
    model = brought(STUDENTS[preset](SCENES).train())
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    logits = model(batch["input_values"]).logits.float()
    terms = {"kd_lambda": 0.02, "temperature": 2.0, "reduction": "batchmean"}
    loss = distillation_loss_parts(logits, batch["teacher_logits"], batch["labels"], **terms).loss
    loss.backward()
    optimizer.step()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients and all(map(is_there, gradients))


def teach_online() -> None:
    """Shows augmented clips to a student and to teachers of all front-ends."""
    teachers = {name: (brought(model), frontend) for name, (model, frontend) in tiny_teachers(SCENES).items()}
    batch = resident_batch()
    del batch["teacher_logits"]
    online = OnlineTeachers(teachers)
    logits = online.logits(online.views(batch, training_frontend("cp-mobile")).teachers)
    assert is_there(logits) and logits.shape == (CLIPS, 10)


def evaluate(preset: str) -> None:
    """Classifies a batch with the folded network."""
    model = brought(drop_dead_channels(fuse(STUDENTS[preset](SCENES).eval())))
    batch = front_end(preset)(resident_batch())
    with torch.inference_mode():
        logits = model(batch["input_values"]).logits
        loss = functional.cross_entropy(logits, batch["labels"])
    assert is_there(logits) and is_there(loss)


def mix_devices() -> None:
    """Does what must be found: adds a tensor of the CPU to one of the accelerator."""
    torch.zeros(3).to(ACCELERATOR).add(torch.zeros(3))


def read_a_number() -> None:
    """Does what must be found: reads a number of the accelerator."""
    float(torch.zeros(3).to(ACCELERATOR).sum())


CASES: dict[str, Callable[[], None]] = {
    "train cp-mobile": lambda: train("cp-mobile"),
    "train cp-resnet": lambda: train("cp-resnet"),
    "train passt": lambda: train("passt"),
    "train with masks of each clip": lambda: train("cp-mobile", mask_per_clip=True),
    "teach online": teach_online,
    "evaluate cp-mobile": lambda: evaluate("cp-mobile"),
    "evaluate cp-resnet": lambda: evaluate("cp-resnet"),
    "evaluate passt": lambda: evaluate("passt"),
    "mix devices": mix_devices,
    "read a number": read_a_number,
}


def main() -> None:
    """Runs the cases."""
    backend_registration._setup_privateuseone_for_python_backend(BACKEND, Backend())
    errors = {}
    for name, case in CASES.items():
        torch.manual_seed(0)
        try:
            with PretendedAccelerator():
                case()
            errors[name] = None
        except Exception as error:  # noqa: BLE001
            errors[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
