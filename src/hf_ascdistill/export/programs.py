"""Programs of torch.export and ExecuTorch: the same networks for torch itself and for its runtime on devices."""

import io
import json
from collections.abc import Mapping

import numpy as np
import torch
from torch import fx, nn
from torch.fx.passes.infra.pass_base import PassResult

from .onnx_graphs import quiet_exporter, require

METADATA_FILE = "metadata.json"  # beside the program, inside the .pt2


def torch_program(network: nn.Module, inputs: torch.Tensor, *, metadata: Mapping[str, str]) -> bytes:
    """Returns the content of a `.pt2` file for `torch.export.load`, for any batch and lengths as of `inputs` or more.

    A PaSST's program takes no clip that is longer than its positions: 9.95 s at the preset's hop. A program refuses by
    an assertion what it was not traced for.

    Args:
        network (`nn.Module`): of one input and one output.
        inputs (`torch.Tensor`): two clips or more to trace it with, `(B, ..., length)`.
        metadata (`Mapping[str, str]`): goes into the extra file `metadata.json`.
    """
    any_size = torch.export.Dim.AUTO
    shapes = ({0: any_size, inputs.ndim - 1: any_size},)
    buffer = io.BytesIO()
    with quiet_exporter():
        # whether two lengths are equal is asked when the program runs
        settings = {"dynamic_shapes": shapes, "prefer_deferred_runtime_asserts_over_guards": True}
        program = torch.export.export(network.eval(), (inputs,), **settings)
        torch.export.save(program, buffer, extra_files={METADATA_FILE: json.dumps(dict(metadata))})
    return buffer.getvalue()


@torch.no_grad()
def run_torch_program(content: bytes, inputs: np.ndarray, *, batch_size: int = 16) -> np.ndarray:
    """Runs a `.pt2` file on the CPU.

    Args:
        content (`bytes`): of the file.
        inputs (`np.ndarray`): float32, `(N, ...)`.
        batch_size (`int`, *optional*, defaults to 16): inputs at a time.

    Returns:
        `np.ndarray`: float32 `(N, C)`.
    """
    with quiet_exporter():
        network = torch.export.load(io.BytesIO(content)).module()
    return torch.cat([network(batch) for batch in torch.from_numpy(inputs).split(batch_size)]).numpy()


def executorch_program(network: nn.Module, inputs: torch.Tensor, *, metadata: Mapping[str, str]) -> bytes:
    """Returns the content of a `.pte` file for ExecuTorch, with XNNPACK where it has the operators.

    A device plans its memory beforehand: the program takes one clip of the length of `inputs`.

    Args:
        network (`nn.Module`): of one input and one output.
        inputs (`torch.Tensor`): clips, `(B, ...)`; the first one is traced.
        metadata (`Mapping[str, str]`): each key becomes a method of the program that returns the text.

    Raises:
        ImportError: the extra `executorch` is not installed.
    """
    lower = require("executorch.exir", extra="executorch").to_edge_transform_and_lower
    xnnpack = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", extra="executorch")
    with quiet_exporter():
        program = torch.export.export(network.eval(), (inputs[:1],))
        settings = {"transform_passes": [_drop_idle_copies], "partitioner": [xnnpack.XnnpackPartitioner()]}
        edge = lower(program, constant_methods=dict(metadata), **settings)
        return bytes(edge.to_executorch().buffer)


def _drop_idle_copies(program: fx.GraphModule) -> PassResult:
    """Takes copies to the shape that is there out of a program: a product with a batch of one makes two."""
    idle = torch.ops.aten.expand_copy.default
    for node in program.graph.nodes:
        if getattr(node.target, "_op", None) is idle and node.meta["val"].shape == node.args[0].meta["val"].shape:
            node.replace_all_uses_with(node.args[0])
    program.graph.eliminate_dead_code()
    program.recompile()
    return PassResult(program, modified=True)


def run_executorch(content: bytes, inputs: np.ndarray) -> np.ndarray:
    """Runs a `.pte` file, clip by clip.

    Args:
        content (`bytes`): of the file.
        inputs (`np.ndarray`): float32, `(N, ...)`.

    Returns:
        `np.ndarray`: float32 `(N, C)`.

    Raises:
        ImportError: the extra `executorch` is not installed.
    """
    runtime = require("executorch.runtime", extra="executorch").Runtime.get()
    method = runtime.load_program(content).load_method("forward")
    rows = torch.from_numpy(inputs).split(1)
    return torch.cat([method.execute([row])[0].clone() for row in rows]).numpy()


__all__ = ["METADATA_FILE", "executorch_program", "run_executorch", "run_torch_program", "torch_program"]
