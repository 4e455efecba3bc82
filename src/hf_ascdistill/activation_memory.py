"""The most memory that the feature maps of a network take at once when it runs operator by operator."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# What can write over its input, besides what torch itself calls pointwise: batch normalisation is part of the
# convolution before it, the other two need only statistics of what they change, and all numbers have one byte here.
IN_PLACE = {
    aten._softmax,
    aten._to_copy,
    aten.native_batch_norm,
    aten._native_batch_norm_legit_no_training,
    aten.cudnn_batch_norm,
    aten.native_layer_norm,
}


@dataclass(frozen=True)
class Step:
    """One operator of a forward pass.

    Args:
        reads (`frozenset[int]`): the buffers that it reads.
        makes (`dict[int, int]`): the buffers that it fills anew, each with its number of elements.
        is_in_place (`bool`): it can write over what it reads.
        is_reduction (`bool`): it keeps no more than sums of what it reads.
    """

    reads: frozenset[int]
    makes: dict[int, int]
    is_in_place: bool
    is_reduction: bool


class StepRecorder(TorchDispatchMode):
    """Records the operators of a forward pass. Parameters are no feature maps.

    Args:
        inputs (`torch.Tensor`): what the network reads.
    """

    def __init__(self, inputs: torch.Tensor):
        super().__init__()
        self.steps = [Step(frozenset(), self.buffers(inputs), is_in_place=False, is_reduction=False)]
        self.known, self.kept = set(self.steps[0].makes), [inputs]  # kept alive, so that no id is given twice

    @staticmethod
    def buffers(*values: Any) -> dict[int, int]:
        """Returns id and elements of the memory behind tensors; views of the same memory are one buffer."""
        tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
        storages = [(tensor.untyped_storage(), tensor.element_size()) for tensor in tensors]
        return {storage._cdata: storage.nbytes() // size for storage, size in storages}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        read = self.buffers(args, kwargs)
        made = {buffer: size for buffer, size in self.buffers(outputs).items() if buffer not in read}
        is_in_place = torch.Tag.pointwise in func.tags or func.overloadpacket in IN_PLACE
        self.steps.append(Step(self.known & read.keys(), made, is_in_place, torch.Tag.reduction in func.tags))
        self.known |= made.keys()
        self.kept.append(outputs)
        return outputs


def fuse_reductions(steps: Sequence[Step], outputs: Iterable[int]) -> list[Step]:
    """Leaves out pointwise results that are only summed up: a reduction computes them number by number as it reads.

    Args:
        steps (`Sequence[Step]`): a forward pass.
        outputs (`Iterable[int]`): the buffers that it returns.
    """
    needed, is_left_out = set(outputs), []
    for step in reversed(steps):
        is_left_out.append(step.is_in_place and bool(step.makes) and not step.makes.keys() & needed)
        if not is_left_out[-1] and not step.is_reduction:
            needed |= step.reads
    stored: list[Step] = []
    stems: dict[int, frozenset[int]] = {}  # what a buffer that is left out is computed from
    for step, is_out in zip(steps, reversed(is_left_out), strict=True):
        reads = frozenset().union(*(stems.get(buffer, {buffer}) for buffer in step.reads))
        if is_out:
            stems.update(dict.fromkeys(step.makes, reads))
        else:
            stored.append(replace(step, reads=reads))
    return stored


def largest_sum(steps: Sequence[Step], outputs: Iterable[int]) -> int:
    """Returns the elements of the buffers that live at once, where there are the most.

    A buffer lives from the operator that fills it to the last one that reads it, both included. One that can work in
    place takes the buffer of an input of the same size that nothing reads later.

    Args:
        steps (`Sequence[Step]`): a forward pass.
        outputs (`Iterable[int]`): the buffers that it returns.
    """
    last_use = {buffer: index for index, step in enumerate(steps) for buffer in step.reads}
    last_use.update(dict.fromkeys(outputs, len(steps)))
    alive: dict[int, int] = {}
    most = 0
    for index, step in enumerate(steps):
        ending = {buffer for buffer in step.reads if last_use[buffer] == index}
        for buffer, size in step.makes.items():
            if buffer not in last_use:
                continue  # nothing reads it, as the indices of a max pool
            given = [other for other in ending & alive.keys() if alive[other] == size] if step.is_in_place else []
            for other in given[:1]:
                del alive[other]
            alive[buffer] = size
        most = max(most, sum(alive.values()))
        alive = {buffer: size for buffer, size in alive.items() if buffer not in ending}
    return most


def peak_activation_bytes(model: nn.Module, inputs: torch.Tensor) -> int:
    """Returns the bytes of the feature maps that live at once on a device, where there are the most.

    The network runs as int8, one byte for each number, one operator after the other. What an operator reads, what it
    writes and what a later one still needs, as the input of a shortcut, live at the same time; the input of the
    network is a feature map, its weights are none, nor are accumulators and the scratch memory of a kernel. It is
    assumed that

    - batch normalisation is part of the convolution before it, and activations, sums, softmax and layer normalisation
      write over their input where nothing else needs it;
    - a convolution, depthwise ones too, a pool and a matrix product write beside their input;
    - a reduction computes what it sums up as it reads, so that global response normalisation works in place;
    - attention keeps the scores of all heads.

    It is counted on the operators of one forward pass, whatever the network: a bound from below for a kernel library
    of that kind, and one from above for code that works row by row.

    Args:
        model (`nn.Module`): the network, in evaluation mode.
        inputs (`torch.Tensor`): its first argument, a batch of one.
    """
    recorder = StepRecorder(inputs)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), recorder:
        outputs = recorder.buffers(model(inputs))
    return largest_sum(fuse_reductions(recorder.steps, outputs), outputs)


__all__ = ["peak_activation_bytes"]
