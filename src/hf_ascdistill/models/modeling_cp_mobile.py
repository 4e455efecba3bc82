"""PyTorch CP-Mobile model: a low-complexity acoustic scene classifier on log-mel spectrograms."""

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention, SequenceClassifierOutput

from .configuration_cp_mobile import CpMobileConfig, round_channels

STAGE_DEPTHS = (3, 2, 1)
BLOCK_STRIDES = {1: (2, 2), 3: (2, 1)}  # (frequency, time) of the second and fourth block; the others have 1
RESPONSE_EPS = 1e-6

AUTO_MAP = {
    "AutoModel": "modeling_cp_mobile.CpMobileModel",
    "AutoModelForAudioClassification": "modeling_cp_mobile.CpMobileForAudioClassification",
}


def global_response_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Scales each channel by its share of the clip's energy and adds the input: `weight * x * n + bias + x`.

    n is the L2 norm of a channel over frequency and time, divided by the mean norm of the channels (Woo et al., 2023).
    Computed as `x * (1 + weight * n) + bias`, which reads `x` once where the formula reads it three times.

    Args:
        x (`torch.Tensor`): feature maps, `(B, C, M', F')`.
        weight (`torch.Tensor`): scalar gamma, `(1,)`.
        bias (`torch.Tensor`): scalar beta, `(1,)`.

    Returns:
        `torch.Tensor`: the normalised maps, in the shape and type of `x`.
    """
    precision = torch.promote_types(x.dtype, torch.float32)
    energy = x.to(precision).square().sum(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
    norm = energy.clamp_min(torch.finfo(torch.float32).tiny).sqrt()  # a channel of zeros has the gradient 0, not NaN
    scale = 1 + weight * norm / (norm.mean(dim=1, keepdim=True) + RESPONSE_EPS)
    return (x * scale.to(x.dtype)).add_(bias.to(x.dtype))


class CpMobileGlobalResponseNorm(nn.Module):
    """Global response normalisation with one gain and one offset for all channels, both 0 at the start."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return global_response_norm(hidden_states, self.weight, self.bias)


class CpMobileConvNorm(nn.Module):
    """Convolution without bias, then batch normalisation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        stride: int | tuple[int, int] = 1,
        groups: int = 1,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(hidden_states))


class CpMobileStem(nn.Module):
    """Two strided 3x3 convolutions that take a spectrogram to a quarter of its size."""

    def __init__(self, out_channels: int):
        super().__init__()
        self.first = CpMobileConvNorm(1, out_channels // 4, kernel_size=3, stride=2)
        self.second = CpMobileConvNorm(out_channels // 4, out_channels, kernel_size=3, stride=2)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        hidden_states = input_values.unsqueeze(1)  # (B, M, F) -> (B, 1, M, F)
        hidden_states = self.first.conv(hidden_states)  # (B, C / 4, M / 2, F / 2)
        if self.training and hidden_states.device.type == "cpu":
            # in channels_last the gradient of a batch normalisation of so few channels takes ten times as long
            hidden_states = hidden_states.contiguous()
        hidden_states = functional.relu(self.first.norm(hidden_states), inplace=True)
        return functional.relu(self.second(hidden_states), inplace=True)  # (B, C, M / 4, F / 4)


class CpMobileBlock(nn.Module):
    """Inverted residual block: expand, depthwise convolution, project, shortcut, global response normalisation.

    The shortcut exists where input and output have the same channels; with a stride it is a 3x3 average pool that
    counts the padding.
    """

    def __init__(self, in_channels: int, out_channels: int, *, expanded_channels: int, stride: tuple[int, int]):
        super().__init__()
        self.expand = CpMobileConvNorm(in_channels, expanded_channels)
        self.depthwise = CpMobileConvNorm(
            expanded_channels, expanded_channels, kernel_size=3, stride=stride, groups=expanded_channels
        )
        self.project = CpMobileConvNorm(expanded_channels, out_channels)
        self.has_shortcut = in_channels == out_channels
        is_strided = self.has_shortcut and stride != (1, 1)
        self.pool = nn.AvgPool2d(3, stride, padding=1) if is_strided else nn.Identity()
        self.response_norm = CpMobileGlobalResponseNorm()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states
        hidden_states = functional.relu(self.expand(hidden_states), inplace=True)  # (B, C, M', F') -> (B, E, M', F')
        hidden_states = functional.relu(self.depthwise(hidden_states), inplace=True)  # M' and F' over the stride
        hidden_states = self.project(hidden_states)  # (B, C', M'', F'')
        if self.has_shortcut:
            hidden_states = hidden_states + self.pool(residual)
        return functional.relu(self.response_norm(hidden_states), inplace=True)


class CpMobileClassificationHead(nn.Module):
    """Scores the classes at each place of the feature map and averages the scores."""

    def __init__(self, in_channels: int, num_labels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_labels, 1, bias=False)
        self.norm = nn.BatchNorm2d(num_labels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        scores = self.norm(self.conv(hidden_states))  # (B, C, M', F') -> (B, classes, M', F')
        return scores.mean(dim=(2, 3), dtype=torch.promote_types(scores.dtype, torch.float32))


class CpMobilePreTrainedModel(PreTrainedModel):
    """Initialisation, saving and loading of the CP-Mobile models."""

    config_class = CpMobileConfig
    base_model_prefix = "cp_mobile"
    main_input_name = "input_values"
    accepts_loss_kwargs = False  # the loss is a mean over the batch, whatever the accumulation
    _no_split_modules = ["CpMobileBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, CpMobileGlobalResponseNorm):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def save_pretrained(self, save_directory, *args, **kwargs) -> None:
        """Saves the model so that both Auto classes find its code; see [`PreTrainedModel.save_pretrained`]."""
        if self.is_remote_code():
            self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **AUTO_MAP}
        super().save_pretrained(save_directory, *args, **kwargs)


class CpMobileModel(CpMobilePreTrainedModel):
    r"""
    The CP-Mobile network without a classifier (Schmid et al., DCASE 2023): a stem and stages of 3, 2 and 1 blocks.

    Args:
        config ([`CpMobileConfig`]): sizes of the network.
    """

    def __init__(self, config: CpMobileConfig):
        super().__init__(config)
        self.stem = CpMobileStem(config.base_channels)
        stages = zip(STAGE_DEPTHS, config.stage_channels, strict=True)
        outputs = [channels for depth, channels in stages for _ in range(depth)]
        inputs = [config.base_channels, *outputs[:-1]]
        self.blocks = nn.ModuleList(
            CpMobileBlock(
                in_channels,
                out_channels,
                expanded_channels=round_channels(in_channels * config.expansion_rate),
                stride=BLOCK_STRIDES.get(index, (1, 1)),
            )
            for index, (in_channels, out_channels) in enumerate(zip(inputs, outputs, strict=True))
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
            input_values (`torch.Tensor`): normalised log-mel spectrograms, `(B, M, F)`, of any length.
            output_hidden_states (`bool`, *optional*): also return the output of each block.
            return_dict (`bool`, *optional*): return a [`~utils.ModelOutput`] instead of a tuple.

        Returns:
            [`BaseModelOutputWithPoolingAndNoAttention`]: `last_hidden_state` `(B, C, M', F')`, its mean over frequency
            and time `pooler_output` `(B, C)`, and `hidden_states`.

        Raises:
            ValueError: `input_values` is not `(B, M, F)`.
        """
        if input_values.dim() != 3:
            raise ValueError(
                f"input_values has the shape {tuple(input_values.shape)}; expected (batch, mels, frames)."
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = self.stem(input_values)  # (B, M, F) -> (B, C, M', F')
        outputs = []
        for block in self.blocks:
            hidden_states = block(hidden_states)
            outputs.append(hidden_states)
        result = BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden_states,
            pooler_output=hidden_states.mean(dim=(2, 3)),  # (B, C, M', F') -> (B, C)
            hidden_states=tuple(outputs) if output_hidden_states else None,
        )
        return result if (self.config.return_dict if return_dict is None else return_dict) else result.to_tuple()


class CpMobileForAudioClassification(CpMobilePreTrainedModel):
    r"""
    CP-Mobile with its classifier: a 1x1 convolution, batch normalisation and a mean over frequency and time.

    Args:
        config ([`CpMobileConfig`]): sizes of the network and names of the classes.

    Example:

    ```python
    >>> import torch
    >>> from hf_ascdistill import CpMobileConfig, CpMobileForAudioClassification

    >>> model = CpMobileForAudioClassification(CpMobileConfig()).eval()
    >>> model(torch.zeros(1, 256, 64)).logits.shape  # the log-mel of one second
    torch.Size([1, 10])
    ```"""

    def __init__(self, config: CpMobileConfig):
        super().__init__(config)
        self.cp_mobile = CpMobileModel(config)
        self.classifier = CpMobileClassificationHead(config.hidden_size, config.num_labels)
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
            input_values (`torch.Tensor`): normalised log-mel spectrograms, `(B, M, F)`, of any length.
            labels (`torch.Tensor`, *optional*): class ids, `(B,)`.
            output_hidden_states (`bool`, *optional*): also return the output of each block.
            return_dict (`bool`, *optional*): return a [`~utils.ModelOutput`] instead of a tuple.

        Returns:
            [`SequenceClassifierOutput`]: `loss` (a scalar, with labels), `logits` `(B, classes)` and `hidden_states`.

        Raises:
            ValueError: `input_values` is not `(B, M, F)`.
        """
        features = self.cp_mobile(input_values, output_hidden_states=output_hidden_states, return_dict=True)
        logits = self.classifier(features.last_hidden_state)  # (B, C, M', F') -> (B, classes)
        result = SequenceClassifierOutput(
            loss=None if labels is None else functional.cross_entropy(logits, labels),
            logits=logits,
            hidden_states=features.hidden_states,
        )
        return result if (self.config.return_dict if return_dict is None else return_dict) else result.to_tuple()


__all__ = ["CpMobileForAudioClassification", "CpMobileModel", "CpMobilePreTrainedModel"]
