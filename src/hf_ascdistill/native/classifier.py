"""CP-Mobile in evaluation on a CPU: the whole network in one native kernel."""

import ctypes
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from ..models.modeling_cp_mobile import (
    RESPONSE_EPS,
    CpMobileBlock,
    CpMobileClassificationHead,
    CpMobileConvNorm,
    CpMobileForAudioClassification,
)
from .kernels import (
    MOST_EXPANDED_CHANNELS,
    call,
    can_use_kernels,
    has_hooks,
    is_float32_on_cpu,
    load_kernels,
    padded,
    padded_size,
    room,
)


class _FoldedBlock(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("stride_height", "stride_width", "inputs", "hidden", "outputs")),
        ("has_shortcut", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "taps", "taps_bias", "project", "project_bias")),
        ("response", ctypes.c_void_p),
    ]


class _FoldedNetwork(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("clips", "height", "width", "middle", "outputs")),
        *((name, ctypes.c_int) for name in ("blocks", "features", "labels")),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("stem", "second", "second_bias", "head", "head_bias")),
        ("block", ctypes.POINTER(_FoldedBlock)),
    ]


class NativeClassifier(nn.Module):
    """A CP-Mobile for inference on a CPU, the same to rounding and faster; other devices and types go its usual way.

    Args:
        model (`CpMobileForAudioClassification`): what [`fuse`] returned. Its weights are copied: what changes them
            later does not show in what this computes on a CPU.

    Raises:
        ValueError: the model is another one than [`can_classify`] asks for.
        ImportError: the kernels cannot be compiled, see [`load_kernels`].
    """

    def __init__(self, model: CpMobileForAudioClassification):
        super().__init__()
        if not can_classify(model):
            raise ValueError(
                f"this {type(model).__name__} has no native kernel; pass fuse(model) of a CP-Mobile on the CPU, in "
                f"float32 and without hooks, whose blocks have at most {MOST_EXPANDED_CHANNELS} hidden channels."
            )
        load_kernels()
        self.model = model
        self.config = model.config
        self._network, self._tensors = _pack(model)
        self.eval()

    def forward(self, input_values: torch.Tensor, **kwargs: Any) -> SequenceClassifierOutput:
        """Computes logits; see [`CpMobileForAudioClassification`].

        Args:
            input_values (`torch.Tensor`): normalised log-mel spectrograms, `(B, M, F)`, of any length.
            kwargs: whatever else the model takes; with them it goes its usual way.
        """
        if kwargs or not self._can_classify(input_values):
            return self.model(input_values, **kwargs)
        return SequenceClassifierOutput(logits=self.logits(input_values))

    def _can_classify(self, input_values: torch.Tensor) -> bool:
        """Returns whether the kernel can do the model's work, as things are."""
        if torch.is_grad_enabled() or self.training or torch.is_autocast_enabled("cpu"):
            return False
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        wants_logits = self.config.return_dict and not (
            self.config.output_hidden_states or self.config.output_attentions
        )
        is_usual = is_float32_on_cpu(input_values) and input_values.ndim == 3 and min(input_values.shape[1:]) > 0
        return wants_logits and is_usual and self._network is not None and can_use_kernels()

    def logits(self, input_values: torch.Tensor) -> torch.Tensor:
        """Computes logits `(B, classes)` of log-mels on the CPU, float32 `(B, M, F)`."""
        network = _FoldedNetwork.from_buffer_copy(self._network)
        network.clips, network.height, network.width = input_values.shape
        logits = room(len(input_values), network.labels)
        call("classify", network, input_values.contiguous(), logits)
        return logits

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_network", "_tensors")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._network, self._tensors = _pack(self.model) if can_classify(self.model) else (None, [])


def can_classify(model: nn.Module) -> bool:
    """Returns whether [`NativeClassifier`] takes a model: a folded CP-Mobile that it is faster for.

    Args:
        model (`nn.Module`): any.
    """
    if type(model) is not CpMobileForAudioClassification or not all(map(is_float32_on_cpu, model.parameters())):
        return False
    layers = [
        module for module in model.modules() if isinstance(module, CpMobileConvNorm | CpMobileClassificationHead)
    ]
    if not all(map(_is_folded, layers)) or has_hooks(model):
        return False
    return all(block.expand.conv.out_channels <= MOST_EXPANDED_CHANNELS for block in model.cp_mobile.blocks)


def _is_folded(layer: CpMobileConvNorm | CpMobileClassificationHead) -> bool:
    conv = layer.conv
    return type(conv) is nn.Conv2d and conv.bias is not None and type(layer.norm) is nn.Identity


@torch.no_grad()
def _pack(model: CpMobileForAudioClassification) -> tuple[_FoldedNetwork, list[Any]]:
    """Returns a network for the kernel, without the sizes of its input, and what its pointers point to."""
    backbone, head = model.cp_mobile, model.classifier.conv
    first, second = backbone.stem.first.conv, backbone.stem.second.conv
    tensors = {
        "stem": padded(torch.cat([first.weight.flatten(1).t(), first.bias[None]]), padded_size(first.out_channels)),
        "second": padded(second.weight.permute(2, 3, 1, 0), padded_size(second.out_channels)),
        "second_bias": second.bias.clone(),
        "head": head.weight.flatten(1).clone(),
        "head_bias": head.bias.clone(),
    }
    packed = [_pack_block(block) for block in backbone.blocks]
    blocks = (_FoldedBlock * len(packed))(*(block for block, _ in packed))
    network = _FoldedNetwork(
        middle=first.out_channels,
        outputs=second.out_channels,
        blocks=len(packed),
        features=head.in_channels,
        labels=head.out_channels,
        epsilon=RESPONSE_EPS,
        block=blocks,
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
    )
    return network, [blocks, tensors, *(weights for _, weights in packed)]


def _pack_block(block: CpMobileBlock) -> tuple[_FoldedBlock, dict[str, torch.Tensor]]:
    expand, depthwise, project = block.expand.conv, block.depthwise.conv, block.project.conv
    hidden = padded_size(expand.out_channels)
    back = padded(project.weight.flatten(1), hidden).t()  # (hidden, outputs)
    tensors = {
        "weight": padded(expand.weight.flatten(1).t(), hidden),
        "bias": padded(expand.bias, hidden),
        "taps": padded(depthwise.weight.flatten(1).t(), hidden),
        "taps_bias": padded(depthwise.bias, hidden),
        "project": padded(back, padded_size(project.out_channels)),
        "project_bias": project.bias.clone(),
        "response": torch.cat([block.response_norm.weight, block.response_norm.bias]),
    }
    sizes = (*depthwise.stride, expand.in_channels, hidden, project.out_channels, block.has_shortcut)
    return _FoldedBlock(*sizes, **{name: tensor.data_ptr() for name, tensor in tensors.items()}), tensors


__all__ = ["NativeClassifier", "can_classify"]
