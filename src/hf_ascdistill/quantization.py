"""Quantisation of a folded network to int8: what it will compute is simulated in float, and can be trained on."""

import copy
import re
from collections.abc import Iterator

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from .complexity import BATCH_NORMS
from .evaluation import predict_batches
from .fusing import foldable_norms
from .transforms.frontend import AcousticFrontend

ACTIVATION_LEVELS = 255  # steps between the 256 levels of uint8
WEIGHT_LIMIT = 127  # of int8, symmetric: -128 stays unused
MIN_WEIGHT_SCALE = 2.0**-20  # a dead channel's weights give no scale; its bias in int32 must still fit
AVERAGING = 0.01  # share of a new batch in a moving range

# What is quantised besides the weights, by the name of the module: inputs of convolutions, which are shared where a
# block's input has several users, and outputs of those convolutions that no ReLU follows, in the place of their folded
# normalisation. Sums, pools and the global response normalisation work in float on quantised numbers.
QUANTIZED_INPUTS = {
    "asc-cp-mobile": r"(cp_mobile\.(stem\.(first|second)|blocks\.\d+\.(depthwise|project))|classifier)\.conv|"
    r"cp_mobile\.blocks\.\d+",
    "asc-cp-resnet": r"cp_resnet\.(stem\.conv|blocks\.\d+(\.conv2)?)|classifier\.conv",
}
QUANTIZED_OUTPUTS = {
    "asc-cp-mobile": r"cp_mobile\.blocks\.\d+\.project\.norm|classifier\.norm",
    "asc-cp-resnet": r"cp_resnet\.blocks\.\d+\.(norm2|shortcut\.norm)|classifier\.norm",
}


class ActivationRange(nn.Module):
    """Rounds activations to the 256 levels of uint8 between a minimum and a maximum, which it measures.

    The range is the mean over the batches that were seen, over the last hundred or so of many; it always holds 0. It
    moves in training mode until `is_frozen`, and while `is_calibrating`, when activations pass as they are. Gradients
    pass where a number lies within the range.

    Args:
        name (`str`): name of the place in the network, for errors.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self.is_frozen = False
        self.is_calibrating = False
        self.register_buffer("minimum", torch.zeros(()))
        self.register_buffer("maximum", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        if self.is_calibrating or (self.training and not self.is_frozen):
            self._observe(activations)
        if self.is_calibrating:
            return activations
        return torch.fake_quantize_per_tensor_affine(activations, *self.levels(), 0, ACTIVATION_LEVELS)

    @torch.no_grad()
    def _observe(self, activations: torch.Tensor) -> None:
        self.batches += 1
        share = (1 / self.batches).clamp_min(AVERAGING)
        lowest, highest = torch.aminmax(activations.float())
        self.minimum.lerp_(lowest.clamp_max(0), share)
        self.maximum.lerp_(highest.clamp_min(0), share)

    def levels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the distance of two levels, a float32 scalar, and the level of 0, an int32 scalar."""
        scale = (self.maximum - self.minimum).clamp_min(torch.finfo(torch.float32).eps) / ACTIVATION_LEVELS
        return scale, (-self.minimum / scale).round().to(torch.int32)


class FakeQuantConv2d(nn.Conv2d):
    """Convolution whose weights are rounded to int8, symmetric, with one scale for each output channel.

    The bias is rounded to the scale of the integer sums, which is that of the input times that of the weights. The
    parameters that train stay float; gradients pass the rounding as if it were not there.
    """

    @classmethod
    def of(cls, conv: nn.Conv2d, *, source: ActivationRange) -> "FakeQuantConv2d":
        """Returns a convolution that shares the parameters of `conv`.

        Args:
            conv (`nn.Conv2d`): a convolution with bias.
            source ([`ActivationRange`]): what its input has passed; it may serve several convolutions.
        """
        shape = {name: getattr(conv, name) for name in ("stride", "padding", "dilation", "groups")}
        quantized = cls(conv.in_channels, conv.out_channels, conv.kernel_size, **shape)
        quantized.weight, quantized.bias = conv.weight, conv.bias
        quantized.sources = (source,)  # in a tuple it is no sub-module, so that state dicts hold it once
        return quantized.train(conv.training)

    def weight_scales(self) -> torch.Tensor:
        """Returns the distance of two levels of the weights for each output channel, `(C,)`."""
        return (self.weight.detach().abs().amax((1, 2, 3)) / WEIGHT_LIMIT).clamp_min(MIN_WEIGHT_SCALE)

    def bias_scales(self) -> torch.Tensor:
        """Returns the distance of two levels of the bias for each output channel, `(C,)`."""
        return self.sources[0].levels()[0] * self.weight_scales()

    def rounded_weight(self) -> torch.Tensor:
        """Returns the weights as int8 will hold them, in float."""
        scales = self.weight_scales()
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(self.weight, scales, zeros, 0, -WEIGHT_LIMIT, WEIGHT_LIMIT)

    def rounded_bias(self) -> torch.Tensor:
        """Returns the bias as int32 will hold it, in float."""
        scales = self.bias_scales()
        return self.bias + ((self.bias / scales).round() * scales - self.bias).detach()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(hidden_states, self.rounded_weight(), self.rounded_bias())


def prepare_qat(model: PreTrainedModel) -> PreTrainedModel:
    """Returns a copy of a folded network that computes what its int8 form will compute, and can be trained so.

    The copy is called as the model is and remains of its class, so that [`DistillationTrainer`] trains it as it is.
    Its ranges are empty: [`calibrate`] measures them. They are buffers, hence part of every checkpoint, from which a
    training resumes. A checkpoint loads into such a network alone; what is shared is what [`plain_model`] returns, and
    the ONNX file of [`int8_twin`].

    Args:
        model (`PreTrainedModel`): a CP-Mobile or CP-ResNet classifier that [`fuse`] returned; it stays as it is.

    Raises:
        ValueError: the model is of another architecture or not in float32, or has a batch normalisation that is not
            folded.

    Example:

    ```python
    >>> from hf_ascdistill import CpMobileConfig, CpMobileForAudioClassification, fuse, prepare_qat

    >>> model = prepare_qat(fuse(CpMobileForAudioClassification(CpMobileConfig())))
    ```"""
    kind = model.config.model_type
    if kind not in QUANTIZED_INPUTS:
        raise ValueError(f"the model is of the type {kind}; expected one of {', '.join(QUANTIZED_INPUTS)}.")
    types = sorted({str(parameter.dtype) for parameter in model.parameters()} - {"torch.float32"})
    if types:
        raise ValueError(
            f"the model has parameters in {', '.join(types)}; expected float32: pass fuse(model.float())."
        )
    left = [name for name, module in model.named_modules() if isinstance(module, BATCH_NORMS)]
    if left:
        raise ValueError(f"{len(left)} batch normalisations are not folded, {left[0]} the first: pass fuse(model).")
    model = copy.deepcopy(model)
    sources = {}
    for name, module in list(model.named_modules()):
        sources[name] = sources.get(name.rpartition(".")[0])  # a block's range serves what has none of its own
        if re.fullmatch(QUANTIZED_INPUTS[kind], name):
            sources[name] = ActivationRange(f"input of {name}")
        if isinstance(module, nn.Conv2d):
            module = FakeQuantConv2d.of(module, source=sources[name])
            model.set_submodule(name, module)
        if re.fullmatch(QUANTIZED_INPUTS[kind], name):
            quantize_input(module, sources[name])
        if re.fullmatch(QUANTIZED_OUTPUTS[kind], name):
            model.set_submodule(name, ActivationRange(f"output of {name}"))
    return model


def quantize_input(module: nn.Module, quantizer: nn.Module) -> None:
    """Passes the input of a module through `quantizer`, which becomes its sub-module `input_range`.

    Args:
        module (`nn.Module`): changed in place.
        quantizer (`nn.Module`): an [`ActivationRange`] or what stands for it.
    """
    module.input_range = quantizer
    module.register_forward_pre_hook(_through_input_range)


def _through_input_range(module: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    return module.input_range(*inputs)


def activation_ranges(model: nn.Module) -> Iterator[ActivationRange]:
    """Yields the ranges of a network that [`prepare_qat`] returned, in the order of its modules."""
    return (module for module in model.modules() if isinstance(module, ActivationRange))


def calibrate(
    model: PreTrainedModel,
    clips: Dataset,
    *,
    frontend: AcousticFrontend,
    max_clips: int = 512,
    seed: int = 0,
) -> PreTrainedModel:
    """Measures the ranges of all activations on clips that are not augmented: post-training quantisation.

    Args:
        model (`PreTrainedModel`): what [`prepare_qat`] returned; its ranges change in place.
        clips (`datasets.Dataset`): training clips of one length with `waveform`.
        frontend ([`AcousticFrontend`]): its evaluation twin makes the log-mels.
        max_clips (`int`, *optional*, defaults to 512): this many clips, drawn at random, or all.
        seed (`int`, *optional*, defaults to 0): of the draw.

    Returns:
        `PreTrainedModel`: the model, in evaluation mode.

    Raises:
        ValueError: there are no clips, they give NaN or infinite activations, or the model has no ranges.
    """
    ranges = list(activation_ranges(model))
    if not ranges:
        raise ValueError("the model has no ranges to measure: pass prepare_qat(fuse(model)).")
    if min(len(clips), max_clips) < 1:
        raise ValueError(f"{len(clips)} clips and max_clips {max_clips} calibrate nothing; pass training clips.")
    draw = torch.randperm(len(clips), generator=torch.Generator().manual_seed(seed))[:max_clips]
    for measured in ranges:
        for buffer in measured.buffers():
            buffer.zero_()
        measured.is_calibrating = True
    try:
        for _ in predict_batches(model, clips.select(sorted(draw.tolist())), frontend=frontend):
            pass
    finally:
        for measured in ranges:
            measured.is_calibrating = False
    broken = [measured.name for measured in ranges if not torch.isfinite(measured.maximum - measured.minimum)]
    if broken:
        raise ValueError(f"the {broken[0]} is NaN or infinite for some of the clips; leave them out.")
    return model.eval()


class FreezeRanges(TrainerCallback):
    """Keeps the ranges of activations as they are in the last epochs, while the weights still learn.

    Args:
        last_epochs (`int`, *optional*, defaults to 4): epochs at the end of the training; 4 in the authors' runs.
    """

    def __init__(self, last_epochs: int = 4):
        self.last_epochs = last_epochs

    def on_epoch_begin(self, args, state, control, model=None, **kwargs) -> None:
        is_frozen = state.epoch >= state.num_train_epochs - self.last_epochs
        for measured in activation_ranges(model):
            measured.is_frozen = is_frozen


@torch.no_grad()
def plain_model(model: PreTrainedModel) -> PreTrainedModel:
    """Returns the ordinary float model with the rounded weights of a quantised one, to be saved, loaded and shared.

    Its batch normalisations do nothing but add the bias of their convolution, so [`fuse`] gives back the same weights
    and biases, and [`prepare_qat`] after it the same levels. Its activations are float.

    Args:
        model (`PreTrainedModel`): what [`prepare_qat`] returned, trained or not.

    Returns:
        `PreTrainedModel`: a new model of the same class, in evaluation mode, on the CPU.
    """
    plain = type(model)(model.config).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    names = {module: name for name, module in plain.named_modules()}
    for parent, norm_name, conv in foldable_norms(plain):
        quantized, norm = model.get_submodule(names[conv]), getattr(parent, norm_name)
        conv.weight.copy_(quantized.rounded_weight())
        norm.reset_parameters()  # weight 1, bias 0, mean 0, variance 1
        norm.running_var.fill_(1 - norm.eps)
        norm.bias.copy_(quantized.bias)
    return plain


__all__ = [
    "ActivationRange",
    "FakeQuantConv2d",
    "FreezeRanges",
    "activation_ranges",
    "calibrate",
    "plain_model",
    "prepare_qat",
    "quantize_input",
]
