"""PyTorch CP-ResNet model: a receptive-field-regularised ResNet on log-mel spectrograms."""

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention, SequenceClassifierOutput

from .configuration_cp_resnet import GROUPS, CpResNetConfig


class BlockPlan(NamedTuple):
    """One residual block: its stage, the kernel of its second convolution, its groups; whether a pool follows."""

    stage: int
    kernel_size: int
    groups: int
    is_pooled: bool


# rho = 8: the receptive field is bounded by 1x1 kernels in place of 3x3 ones.
BLOCKS = (
    BlockPlan(0, 1, 1, True),
    BlockPlan(0, 3, 1, True),
    BlockPlan(1, 3, GROUPS, False),
    BlockPlan(2, 1, 1, False),
)
MIN_MELS, MIN_FRAMES = 17, 5  # the smallest spectrogram of which something is left after stem and pools

AUTO_MAP = {
    "AutoModel": "modeling_cp_resnet.CpResNetModel",
    "AutoModelForAudioClassification": "modeling_cp_resnet.CpResNetForAudioClassification",
}


class CpResNetConv2d(nn.Conv2d):
    """Convolution without bias that knows the standard deviation of its initial weights, as Fixup asks for.

    Args:
        in_channels (`int`): channels of the input.
        out_channels (`int`): channels of the output.
        kernel_size (`int`): side of the square kernel.
        groups (`int`, *optional*, defaults to 1): groups of channels.
        init_gain (`float`, *optional*, defaults to 1): initial weights have the standard deviation
            `init_gain * sqrt(2 / (kernel_size^2 * out_channels))`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int, groups: int = 1, init_gain: float = 1.0
    ):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 3, groups=groups, bias=False)
        self.init_std = init_gain * math.sqrt(2 / (kernel_size**2 * out_channels))


class CpResNetStem(nn.Module):
    """Strided 5x5 convolution and max pool that take a spectrogram to about a quarter of its size."""

    def __init__(self, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(1, out_channels, 5, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        hidden_states = input_values.unsqueeze(1)  # (B, M, F) -> (B, 1, M, F)
        hidden_states = functional.relu(self.norm(self.conv(hidden_states)), inplace=True)  # (B, C, M / 2, F / 2)
        return functional.max_pool2d(hidden_states, 2)  # (B, C, M / 4, F / 4)


class CpResNetShortcut(nn.Module):
    """1x1 convolution with batch normalisation: the shortcut of a block that changes the channels."""

    def __init__(self, in_channels: int, out_channels: int, *, groups: int):
        super().__init__()
        self.conv = CpResNetConv2d(in_channels, out_channels, kernel_size=1, groups=groups)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(hidden_states))


class CpResNetBlock(nn.Module):
    """Residual block of two convolutions.

    Fixup initialisation (Zhang et al., 2019): with L blocks the first convolution shrinks by sqrt(L), the second is 0.
    """

    def __init__(self, in_channels: int, out_channels: int, *, second_kernel_size: int, groups: int):
        super().__init__()
        gain = len(BLOCKS) ** -0.5
        self.conv1 = CpResNetConv2d(in_channels, out_channels, kernel_size=3, groups=groups, init_gain=gain)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = CpResNetConv2d(
            out_channels, out_channels, kernel_size=second_kernel_size, groups=groups, init_gain=0
        )
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = CpResNetShortcut(in_channels, out_channels, groups=groups)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = self.shortcut(hidden_states)  # (B, C, M', F') -> (B, C', M', F')
        hidden_states = functional.relu(self.norm1(self.conv1(hidden_states)), inplace=True)
        hidden_states = self.norm2(self.conv2(hidden_states))
        return functional.relu(hidden_states + residual, inplace=True)


class CpResNetClassificationHead(nn.Module):
    """Scores the classes at each place of the feature map and averages the scores; all scores are 0 at the start."""

    def __init__(self, in_channels: int, num_labels: int):
        super().__init__()
        self.conv = CpResNetConv2d(in_channels, num_labels, kernel_size=1, init_gain=0)
        self.norm = nn.BatchNorm2d(num_labels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        scores = self.norm(self.conv(hidden_states))  # (B, C, M', F') -> (B, classes, M', F')
        return scores.mean(dim=(2, 3), dtype=torch.promote_types(scores.dtype, torch.float32))


class CpResNetPreTrainedModel(PreTrainedModel):
    """Initialisation, saving and loading of the CP-ResNet models."""

    config_class = CpResNetConfig
    base_model_prefix = "cp_resnet"
    main_input_name = "input_values"
    accepts_loss_kwargs = False  # the loss is a mean over the batch, whatever the accumulation
    _no_split_modules = ["CpResNetBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Per convolution, not per block: transformers skips a module of custom code that has no weights of its own.
        if isinstance(module, CpResNetConv2d):
            init.normal_(module.weight, std=module.init_std)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_in")
        else:
            super()._init_weights(module)

    def save_pretrained(self, save_directory, *args, **kwargs) -> None:
        """Saves the model so that both Auto classes find its code; see [`PreTrainedModel.save_pretrained`]."""
        if self.is_remote_code():
            self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **AUTO_MAP}
        super().save_pretrained(save_directory, *args, **kwargs)


class CpResNetModel(CpResNetPreTrainedModel):
    r"""
    The CP-ResNet network without a classifier (Koutini et al., rho = 8): a stem and stages of 2, 1 and 1 blocks.

    Args:
        config ([`CpResNetConfig`]): sizes of the network.
    """

    def __init__(self, config: CpResNetConfig):
        super().__init__(config)
        self.stem = CpResNetStem(config.base_channels)
        outputs = [config.stage_channels[plan.stage] for plan in BLOCKS]
        inputs = [config.base_channels, *outputs[:-1]]
        self.blocks = nn.ModuleList(
            CpResNetBlock(in_channels, out_channels, second_kernel_size=plan.kernel_size, groups=plan.groups)
            for in_channels, out_channels, plan in zip(inputs, outputs, BLOCKS, strict=True)
        )
        self.post_init()

    def forward(
        self,
        input_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple | BaseModelOutputWithPoolingAndNoAttention:
        r"""
        Computes the feature maps of a batch of spectrograms.

        Args:
            input_values (`torch.Tensor`): normalised log-mel spectrograms, `(B, M, F)`, of at least 17 mels and 5
                frames.
            output_hidden_states (`bool`, *optional*): also return the output of each block.
            return_dict (`bool`, *optional*): return a [`~utils.ModelOutput`] instead of a tuple.

        Returns:
            [`BaseModelOutputWithPoolingAndNoAttention`]: `last_hidden_state` `(B, C, M', F')`, its mean over frequency
            and time `pooler_output` `(B, C)`, and `hidden_states`.

        Raises:
            ValueError: `input_values` is not `(B, M, F)`, or too small.
        """
        is_batch = input_values.dim() == 3
        if not is_batch or input_values.shape[1] < MIN_MELS or input_values.shape[2] < MIN_FRAMES:
            raise ValueError(
                f"input_values has the shape {tuple(input_values.shape)}; expected (batch, mels, frames), at least "
                f"{MIN_MELS} mels and {MIN_FRAMES} frames."
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = self.stem(input_values)  # (B, M, F) -> (B, C, M', F')
        outputs = []
        for block, plan in zip(self.blocks, BLOCKS, strict=True):
            hidden_states = block(hidden_states)
            outputs.append(hidden_states)
            if plan.is_pooled:
                hidden_states = functional.max_pool2d(hidden_states, (2, 1))  # M' / 2
        result = BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden_states,
            pooler_output=hidden_states.mean(dim=(2, 3)),  # (B, C, M', F') -> (B, C)
            hidden_states=tuple(outputs) if output_hidden_states else None,
        )
        return result if (self.config.return_dict if return_dict is None else return_dict) else result.to_tuple()


class CpResNetForAudioClassification(CpResNetPreTrainedModel):
    r"""
    CP-ResNet with its classifier: a 1x1 convolution, batch normalisation and a mean over frequency and time.

    Args:
        config ([`CpResNetConfig`]): sizes of the network and names of the classes.

    Example:

    ```python
    >>> import torch
    >>> from hf_ascdistill import CpResNetConfig, CpResNetForAudioClassification

    >>> model = CpResNetForAudioClassification(CpResNetConfig()).eval()
    >>> model(torch.zeros(1, 256, 43)).logits.shape  # the log-mel of one second
    torch.Size([1, 10])
    ```"""

    def __init__(self, config: CpResNetConfig):
        super().__init__(config)
        self.cp_resnet = CpResNetModel(config)
        self.classifier = CpResNetClassificationHead(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple | SequenceClassifierOutput:
        r"""
        Computes the logits of a batch of spectrograms, and their cross-entropy where labels are given.

        Args:
            input_values (`torch.Tensor`): normalised log-mel spectrograms, `(B, M, F)`, of at least 17 mels and 5
                frames.
            labels (`torch.Tensor`, *optional*): class ids, `(B,)`.
            output_hidden_states (`bool`, *optional*): also return the output of each block.
            return_dict (`bool`, *optional*): return a [`~utils.ModelOutput`] instead of a tuple.

        Returns:
            [`SequenceClassifierOutput`]: `loss` (a scalar, with labels), `logits` `(B, classes)` and `hidden_states`.

        Raises:
            ValueError: `input_values` is not `(B, M, F)`, or too small.
        """
        features = self.cp_resnet(input_values, output_hidden_states=output_hidden_states, return_dict=True)
        logits = self.classifier(features.last_hidden_state)  # (B, C, M', F') -> (B, classes)
        result = SequenceClassifierOutput(
            loss=None if labels is None else functional.cross_entropy(logits, labels),
            logits=logits,
            hidden_states=features.hidden_states,
        )
        return result if (self.config.return_dict if return_dict is None else return_dict) else result.to_tuple()


__all__ = ["CpResNetForAudioClassification", "CpResNetModel", "CpResNetPreTrainedModel"]
