"""PyTorch PaSST model: an audio spectrogram transformer that trains on a random part of the patches."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_passt import PasstConfig

TOKEN_COUNT = 2  # the class and the distillation token, before the patches

AUTO_MAP = {
    "AutoModel": "modeling_passt.PasstModel",
    "AutoModelForAudioClassification": "modeling_passt.PasstForAudioClassification",
}


def draw_offset(largest: int) -> int:
    """Draws the first time position of a training batch, uniform from 0 to `largest` inclusive."""
    return int(torch.randint(largest + 1, ()))


def draw_kept(count: int, drop: int) -> torch.Tensor:
    """Draws which of `count` rows, columns or patches a training batch keeps.

    Args:
        count (`int`): how many there are.
        drop (`int`): how many are left out.

    Returns:
        `torch.Tensor`: ids of those that are kept, ascending, `(count - drop,)`, on the CPU.

    Raises:
        ValueError: none would be left.
    """
    if drop >= count:
        raise ValueError(
            f"patchout drops {drop} of {count} rows, columns or patches; at least one must stay: lower the patchout "
            "of the configuration, or train on longer inputs."
        )
    return torch.randperm(count)[: count - drop].sort().values


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    scaling: float,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attends with plain matrix products, which also gives the attention weights.

    Args:
        module (`nn.Module`): the attention layer; unused, as in each function of transformers' attention interface.
        query (`torch.Tensor`): `(B, heads, Q, width)`, of all tokens or the first ones.
        key (`torch.Tensor`): `(B, heads, N, width)`, as is value.
        value (`torch.Tensor`): see key.
        attention_mask (`torch.Tensor`, *optional*): unused; every token attends to all.
        scaling (`float`): factor of the products.

    Returns:
        `tuple`: the outputs `(B, Q, heads, width)`, and the attention weights `(B, heads, Q, N)`.
    """
    weights = (query @ key.transpose(2, 3)) * scaling
    weights = functional.softmax(weights, dim=-1, dtype=torch.promote_types(weights.dtype, torch.float32))
    weights = weights.to(value.dtype)
    return (weights @ value).transpose(1, 2), weights


class PasstAttention(nn.Module):
    """Self-attention among the tokens of a clip, by the implementation that the configuration names.

    With a `count` only that many of the tokens, the first ones, attend to all: Q is `count`, otherwise N.
    """

    is_causal = False

    def __init__(self, config: PasstConfig):
        super().__init__()
        self.config = config  # names the attention implementation, which may change after loading
        self.heads = config.num_attention_heads
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, count: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        qkv = self.qkv(hidden_states).unflatten(-1, (3, self.heads, -1))  # (B, N, d) -> (B, N, 3, heads, width)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, width) each
        if count is not None:
            query = query[:, :, :count]  # (B, heads, N, width) -> (B, heads, Q, width)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        outputs, weights = attend(self, query, key, value, None, scaling=self.scaling, dropout=0.0)
        return self.projection(outputs.flatten(2)), weights  # (B, Q, heads, width) -> (B, Q, d)


class PasstMlp(nn.Module):
    """Perceptron of one hidden layer, applied to each token."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.up = nn.Linear(hidden_size, intermediate_size)
        self.down = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down(functional.gelu(self.up(hidden_states)))


class PasstBlock(nn.Module):
    """Transformer block that normalises before attention and before the perceptron.

    With a `count` it returns that many of the tokens, the first ones; the others are only attended to.
    """

    def __init__(self, config: PasstConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = PasstAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = PasstMlp(config.hidden_size, config.intermediate_size)

    def forward(
        self, hidden_states: torch.Tensor, count: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attended, weights = self.attention(self.norm1(hidden_states), count)
        kept = hidden_states if count is None else hidden_states[:, :count]  # (B, N, d) -> (B, Q, d)
        hidden_states = kept + attended
        return hidden_states + self.mlp(self.norm2(hidden_states)), weights


class PasstClassificationHead(nn.Module):
    """Normalises the feature of a clip and scores the classes."""

    def __init__(self, hidden_size: int, num_labels: int, *, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps=eps)
        self.linear = nn.Linear(hidden_size, num_labels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scores = self.linear(self.norm(features))  # (B, d) -> (B, classes)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))


class PasstUnusedLinear(nn.Linear):
    """Linear layer that is saved and loaded, but never trained: a parameter without gradient would stop DDP."""

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        # Here, since from_pretrained puts new parameters in place of frozen ones.
        super().register_parameter(name, None if param is None else param.requires_grad_(False))


class PasstPreTrainedModel(PreTrainedModel):
    """Initialisation, saving and loading of the PaSST models."""

    config_class = PasstConfig
    base_model_prefix = "passt"
    main_input_name = "input_values"
    accepts_loss_kwargs = False  # the loss is a mean over the batch, whatever the accumulation
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["PasstBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Conv2d):
            init.trunc_normal_(module.weight, std=std)
            init.zeros_(module.bias)
        elif isinstance(module, PasstModel):
            for parameter in module.parameters(recurse=False):  # tokens and positions
                init.trunc_normal_(parameter, std=std)
        else:
            super()._init_weights(module)

    def save_pretrained(self, save_directory, *args, **kwargs) -> None:
        """Saves the model so that both Auto classes find its code; see [`PreTrainedModel.save_pretrained`]."""
        if self.is_remote_code():
            self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **AUTO_MAP}
        super().save_pretrained(save_directory, *args, **kwargs)


class PasstModel(PasstPreTrainedModel):
    r"""
    The PaSST network without a classifier (Koutini et al., 2022): patches of a spectrogram, then transformer blocks.

    Args:
        config ([`PasstConfig`]): sizes of the network and how much of the patches training drops.
    """

    def __init__(self, config: PasstConfig):
        super().__init__(config)
        width, stride = config.hidden_size, config.patch_stride
        self.patch_projection = nn.Conv2d(1, width, config.patch_size, stride=stride)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.token_positions = nn.Parameter(torch.zeros(1, TOKEN_COUNT, width))
        self.frequency_positions = nn.Parameter(torch.zeros(1, width, config.frequency_patches, 1))
        self.time_positions = nn.Parameter(torch.zeros(1, width, 1, config.time_patches))
        self.blocks = nn.ModuleList(PasstBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        # An attribute, no GradientCheckpointingLayer: transformers' module of it imports soundfile and soxr.
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_values: torch.Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        tokens_only: bool = False,
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        Computes the tokens of a batch of spectrograms. In training mode a random part of the patches is dropped.

        Args:
            input_values (`torch.Tensor`): normalised log-mel spectrograms, `(B, M, F)`, of the configuration's mels
                and at least one patch of frames. Frames behind the configuration's `max_frames` are not read.
            output_attentions (`bool`, *optional*): also return the attention weights of each block; needs the
                attention implementation `"eager"`.
            output_hidden_states (`bool`, *optional*): also return the output of each block.
            return_dict (`bool`, *optional*): return a [`~utils.ModelOutput`] instead of a tuple.
            tokens_only (`bool`, *optional*, defaults to `False`): compute the last block for the two tokens alone;
                `last_hidden_state` is then `(B, 2, d)`. Hidden states and attentions, where asked for, need all.

        Returns:
            [`BaseModelOutputWithPooling`]: `last_hidden_state` `(B, N, d)`, in which two tokens precede the patches,
            the mean of these two `pooler_output` `(B, d)`, `hidden_states` and `attentions` `(B, heads, N, N)`.

        Raises:
            ValueError: `input_values` is not `(B, M, F)` or too small, patchout would leave nothing, or attention
                weights are asked of an implementation that has none.
        """
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if output_attentions and config._attn_implementation != "eager":
            raise ValueError(
                f"the attention implementation {config._attn_implementation!r} gives no attention weights; for "
                'output_attentions load the model with attn_implementation="eager".'
            )
        hidden_states = self._embed(input_values)  # (B, M, F) -> (B, N, d)
        outputs, attentions = [], []
        is_checkpointed = self.gradient_checkpointing and self.training
        is_shortened = tokens_only and not (output_hidden_states or output_attentions)
        for block in self.blocks:
            run = partial(self._gradient_checkpointing_func, block) if is_checkpointed else block
            count = TOKEN_COUNT if is_shortened and block is self.blocks[-1] else None
            hidden_states, weights = run(hidden_states, count)  # the last: (B, N, d) -> (B, Q, d)
            outputs.append(hidden_states)
            attentions.append(weights)
        hidden_states = self.norm(hidden_states)
        result = BaseModelOutputWithPooling(
            last_hidden_state=hidden_states,
            pooler_output=hidden_states[:, :TOKEN_COUNT].mean(dim=1),  # (B, Q, d) -> (B, d)
            hidden_states=tuple(outputs) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
        return result if (config.return_dict if return_dict is None else return_dict) else result.to_tuple()

    def _embed(self, input_values: torch.Tensor) -> torch.Tensor:
        """Turns spectrograms `(B, M, F)` into tokens `(B, N, d)`: the two of the clip, then the patches."""
        config = self.config
        shape = tuple(input_values.shape)
        if len(shape) != 3 or shape[1] != config.num_mel_bins or shape[2] < config.patch_size:
            raise ValueError(
                f"input_values has the shape {shape}; expected (batch, mels, frames), {config.num_mel_bins} mels and "
                f"at least {config.patch_size} frames."
            )
        patches = self.patch_projection(input_values.unsqueeze(1))  # (B, M, F) -> (B, d, rows, columns)
        patches = patches[..., : config.time_patches]
        free = config.time_patches - patches.shape[3]
        start = draw_offset(free) if self.training and free else 0
        patches = patches + self.time_positions[..., start : start + patches.shape[3]]
        patches = patches + self.frequency_positions
        if self.training:
            patches = drop_patches(patches, 3, config.time_patchout)
            patches = drop_patches(patches, 2, config.frequency_patchout)
        patches = patches.flatten(2).transpose(1, 2)  # (B, d, rows, columns) -> (B, patches, d), row by row
        if self.training:
            patches = drop_patches(patches, 1, config.unstructured_patchout)
        tokens = zip((self.cls_token, self.dist_token), self.token_positions.split(1, dim=1), strict=True)
        tokens = [(token + position).expand(shape[0], -1, -1) for token, position in tokens]
        return torch.cat([*tokens, patches], dim=1)


def drop_patches(patches: torch.Tensor, dim: int, drop: int) -> torch.Tensor:
    """Keeps a random part of the patches along `dim`, the same for all clips; see [`draw_kept`]."""
    if not drop:
        return patches
    return patches.index_select(dim, draw_kept(patches.shape[dim], drop).to(patches.device, non_blocking=True))


class PasstForAudioClassification(PasstPreTrainedModel):
    r"""
    PaSST with its classifier: a layer normalisation and a linear layer on the mean of its two tokens.

    Args:
        config ([`PasstConfig`]): sizes of the network and names of the classes.

    Example:

    ```python
    >>> import torch
    >>> from hf_ascdistill import PasstConfig, PasstForAudioClassification

    >>> model = PasstForAudioClassification(PasstConfig(num_hidden_layers=2)).eval()
    >>> model(torch.zeros(1, 128, 100)).logits.shape  # the log-mel of one second
    torch.Size([1, 10])
    ```"""

    def __init__(self, config: PasstConfig):
        super().__init__(config)
        self.passt = PasstModel(config)
        self.classifier = PasstClassificationHead(
            config.hidden_size, config.num_labels, eps=config.classifier_norm_eps
        )
        # The published files hold a second head that nothing reads; it is kept so that they load and save whole.
        self.unused_classifier = PasstUnusedLinear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple | SequenceClassifierOutput:
        r"""
        Computes the logits of a batch of spectrograms, and their cross-entropy where labels are given.

        Args:
            input_values (`torch.Tensor`): normalised log-mel spectrograms, `(B, M, F)`, of the configuration's mels
                and at least one patch of frames. Frames behind the configuration's `max_frames` are not read.
            labels (`torch.Tensor`, *optional*): class ids, `(B,)`.
            output_attentions (`bool`, *optional*): also return the attention weights of each block; needs the
                attention implementation `"eager"`.
            output_hidden_states (`bool`, *optional*): also return the output of each block.
            return_dict (`bool`, *optional*): return a [`~utils.ModelOutput`] instead of a tuple.

        Returns:
            [`SequenceClassifierOutput`]: `loss` (a scalar, with labels), `logits` `(B, classes)`, `hidden_states` and
            `attentions`.

        Raises:
            ValueError: see [`PasstModel.forward`].
        """
        features = self.passt(
            input_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            tokens_only=True,
        )
        logits = self.classifier(features.pooler_output)  # (B, d) -> (B, classes)
        result = SequenceClassifierOutput(
            loss=None if labels is None else functional.cross_entropy(logits, labels),
            logits=logits,
            hidden_states=features.hidden_states,
            attentions=features.attentions,
        )
        return result if (self.config.return_dict if return_dict is None else return_dict) else result.to_tuple()


__all__ = ["PasstForAudioClassification", "PasstModel", "PasstPreTrainedModel"]
