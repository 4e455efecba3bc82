"""Switches the native kernels of a CP-Mobile on, and the fastest matrix products of a PaSST."""

import torch
from torch import nn

from ..models.modeling_cp_mobile import CpMobileBlock, CpMobileConvNorm, CpMobileStem
from .inverted_residual import InvertedResidual, block_parameters
from .kernels import MOST_EXPANDED_CHANNELS, has_hooks, is_float32_on_cpu, load_kernels
from .passt import use_fastest_linear
from .stem import Stem, stem_parameters

STRIDES = (1, 2)  # of the depthwise convolutions that the kernels have


class NativeBlock(CpMobileBlock):
    """[`CpMobileBlock`] that trains in native kernels where they can do its work, and is as before elsewhere."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        can_be_native = is_native(self, hidden_states, (self.expand, self.depthwise, self.project))
        can_be_native = can_be_native and all(map(is_float32_on_cpu, self.response_norm.parameters()))
        can_be_native = can_be_native and all(stride in STRIDES for stride in self.depthwise.conv.stride)
        if not can_be_native or self.expand.conv.out_channels > MOST_EXPANDED_CHANNELS:
            return super().forward(hidden_states)
        return InvertedResidual.apply(self, hidden_states, *block_parameters(self))


class NativeStem(CpMobileStem):
    """[`CpMobileStem`], likewise; log-mels that want a gradient take the usual way."""

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        if input_values.requires_grad or not is_native(self, input_values, (self.first, self.second)):
            return super().forward(input_values)
        return Stem.apply(self, input_values, *stem_parameters(self))


def is_native(module: nn.Module, inputs: torch.Tensor, layers: tuple[CpMobileConvNorm, ...]) -> bool:
    """Returns whether the kernels can do a module's work: a step of training in float32 on the CPU, without hooks.

    Args:
        module (`nn.Module`): a block or a stem.
        inputs (`torch.Tensor`): what it is called with.
        layers (`tuple[CpMobileConvNorm, ...]`): its convolutions with their normalisations.
    """
    if not module.training or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    if not is_float32_on_cpu(inputs) or len(inputs) < 2 or not inputs.numel():
        return False
    return all(map(_is_plain, layers)) and not has_hooks(module)


def _is_plain(layer: CpMobileConvNorm) -> bool:
    """Returns whether a layer is as the model made it: quantisation, folding and frozen statistics change it."""
    conv, norm = layer.conv, layer.norm
    is_usual = type(conv) is nn.Conv2d and conv.bias is None
    is_usual = is_usual and type(norm) is nn.BatchNorm2d and norm.training and norm.momentum is not None
    if not (is_usual and norm.affine and norm.track_running_stats):
        return False
    tensors = conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var
    return all(map(is_float32_on_cpu, tensors))


def use_native_kernels(model: nn.Module) -> nn.Module:
    """Makes the CP-Mobiles in a model train in native kernels, in place, and PaSSTs multiply faster on a CPU.

    A step is 1.4 to 1.9 times as fast at 128K, less so in larger sizes (`benchmarks/native_kernels.py`), and takes
    less memory. The same mathematics with other rounding, more exact than torch's in channels_last. A PaSST multiplies
    by oneDNN on AMD's processors with AVX-512, in evaluation too ([`use_fastest_linear`]). A CP-Mobile's evaluation,
    other devices and types, quantised or folded layers, the widest blocks and all other networks stay as they are,
    and so do parameters and state dict.

    Args:
        model (`nn.Module`): any network.

    Returns:
        `nn.Module`: the same.

    Raises:
        ImportError: there is a CP-Mobile, but no GCC, it could not compile the kernels, or the cache cannot be
            written.
    """
    natives = {CpMobileBlock: NativeBlock, CpMobileStem: NativeStem}
    modules = [module for module in model.modules() if type(module) in natives]
    if modules:
        load_kernels()
    for module in modules:
        module.__class__ = natives[type(module)]
    return use_fastest_linear(model)


__all__ = ["NativeBlock", "NativeStem", "is_native", "use_native_kernels"]
