"""Compiles the C++ kernels, once for each kind of processor, and calls them."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn
from transformers.utils import logging

logger = logging.get_logger(__name__)

FOLDER = Path(__file__).parent
SOURCES = (
    "inverted_residual.cpp",
    "stem.cpp",
    "normalization.cpp",
    "classifier.cpp",
    "convolution.cpp",
    "log_mel.cpp",
    "tile_linear.cpp",
)
HEADERS = ("matrices.h", "maps.h", "blocks.h", "stem.h", "fourier.h")
COMPILER = "g++"  # its OpenMP is the one that torch is built with, so that both share their threads
FLAGS = ("-O3", "-std=c++17", "-fopenmp", "-fPIC", "-Wno-psabi")
X86 = ("x86_64", "AMD64")
# by what torch finds an x86 processor capable of; the files of the cache may be read by other processors
PROCESSOR_FLAGS = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"),
    "AVX2": ("-mavx2", "-mfma"),
}
# Wider blocks are bound by arithmetic, of which the kernels do a quarter more, not by memory.
MOST_EXPANDED_CHANNELS = 704
PADDING = 16  # padded channels are a multiple of this, as in matrices.h
# how many tensors each kernel takes, after its sizes and the number of threads
TENSORS = {
    "input_moments": 3,
    "expand_depthwise": 6,
    "project": 6,
    "pool": 2,
    "finish": 7,
    "finish_backward": 11,
    "project_backward": 10,
    "expand_depthwise_backward": 16,
    "add_product": 4,
    "patch_moments": 2,
    "convolve_twice": 5,
    "finish_stem": 4,
    "finish_stem_backward": 6,
    "convolve_twice_backward": 9,
    "batch_statistics": 7,
    "norm_gradients": 4,
    "expansion": 12,
    "expansion_gradients": 8,
    "classify": 2,
    "convolution_tables": 1,
    "response_spectra": 3,
    "convolve": 5,
    "log_mel_tables": 4,
    "log_mel": 8,
    "pack_weight": 2,
    "tile_linear": 4,
}


class BlockSizes(ctypes.Structure):
    """Sizes of an inverted residual block; `hidden` is padded."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("clips", "height", "width", "stride_height", "stride_width")),
        *((name, ctypes.c_int) for name in ("inputs", "hidden", "outputs")),
        ("epsilon", ctypes.c_float),
    ]


class StemSizes(ctypes.Structure):
    """Sizes of the stem."""

    _fields_ = [(name, ctypes.c_int) for name in ("clips", "height", "width", "middle", "outputs")]


class NormSizes(ctypes.Structure):
    """Sizes of the map that a batch normalisation takes; `inputs` are those of the product that gives it."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("clips", "places", "inputs", "channels", "padded")),
        *((name, ctypes.c_float) for name in ("epsilon", "momentum")),
    ]


def cache_folder() -> Path:
    """Returns the folder that compiled kernels lie in: `hf_ascdistill` in `XDG_CACHE_HOME`, else in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hf_ascdistill"


@functools.cache
def load_kernels() -> ctypes.CDLL:
    """Loads the kernels, and compiles them where no file of the cache fits; that takes some seconds.

    Raises:
        ImportError: there is no GCC, it could not compile them, the cache cannot be written, or this is an x86
            processor without AVX2.
    """
    compiler, capability = shutil.which(COMPILER), torch.backends.cpu.get_cpu_capability()
    if compiler is None:
        raise ImportError(f"there is no {COMPILER}; install GCC (Debian and Ubuntu: `apt install g++`)")
    if platform.machine() in X86 and capability not in PROCESSOR_FLAGS:
        raise ImportError("this processor has no AVX2, which they need")
    flags = [*FLAGS, *PROCESSOR_FLAGS.get(capability, ())]
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
        contents = [(FOLDER / name).read_text() for name in (*HEADERS, *SOURCES)]
        key = hashlib.sha256("\0".join([*contents, *flags, version, platform.machine()]).encode()).hexdigest()
        library = cache_folder() / f"kernels-{key[:16]}.so"
        if not library.is_file():
            _compile([compiler, *flags], library)
        kernels = ctypes.CDLL(str(library))
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder, or no thread can be started
        raise ImportError(f"they could not be compiled, written or loaded: {error}") from error
    for name, count in TENSORS.items():
        kernel = getattr(kernels, name)
        kernel.argtypes = [ctypes.c_void_p, ctypes.c_int] + [ctypes.c_void_p] * count
        kernel.restype = None
    return kernels


@functools.cache
def can_use_kernels() -> bool:
    """Returns whether the kernels can be loaded; where not, a warning says why, once."""
    try:
        load_kernels()
    except ImportError as error:
        logger.warning(f"work on the CPU goes without native kernels, more slowly: {error}.")
        return False
    return True


def _compile(command: list[str], library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:  # other processes may compile the same
        compiled, objects = Path(folder) / library.name, [str(Path(folder, f"{name}.o")) for name in SOURCES]
        each = zip(SOURCES, objects, strict=True)
        with ThreadPoolExecutor() as pool:
            list(pool.map(_run, ([*command, "-c", str(FOLDER / name), "-o", path] for name, path in each)))
        _run([*command, "-shared", *objects, "-o", str(compiled)])
        if not library.is_file():  # one that is there may be in use
            os.replace(compiled, library)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ImportError(f"{COMPILER} could not compile the kernels: {done.stderr.strip()[-500:]}")


def call(kernel: str, sizes: ctypes.Structure, *tensors: torch.Tensor | None) -> None:
    """Runs a kernel in torch's number of threads.

    Args:
        kernel (`str`): its name.
        sizes (`ctypes.Structure`): what it works on.
        tensors (`torch.Tensor | None`): on the CPU, contiguous, of the types in the kernel's signature.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in given), kernel
    addresses = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
    getattr(load_kernels(), kernel)(ctypes.addressof(sizes), torch.get_num_threads(), *addresses)


def has_hooks(network: nn.Module) -> bool:
    """Returns whether anyone looks into a network or one of its layers while it works.

    Args:
        network (`nn.Module`): any.
    """
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for module in network.modules() for kind in kinds)


def is_float32_on_cpu(tensor: torch.Tensor) -> bool:
    """Returns whether a tensor is one that the kernels take."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def padded_size(channels: int) -> int:
    """Returns the number of channels with those of the padding."""
    return channels + -channels % PADDING


def padded(matrix: torch.Tensor, columns: int) -> torch.Tensor:
    """Returns a matrix in float32, contiguous, with columns of zeros behind its own.

    Args:
        matrix (`torch.Tensor`): numbers, `(..., n)`.
        columns (`int`): how many columns the result has.
    """
    return torch.nn.functional.pad(matrix.float(), (0, columns - matrix.shape[-1])).contiguous()


def channels_last(maps: torch.Tensor) -> torch.Tensor:
    """Returns maps `(B, C, M, F)` as contiguous `(B, M, F, C)`; nothing is copied in channels_last memory format."""
    return maps.permute(0, 2, 3, 1).contiguous()


def layouts(tensors: Iterable[torch.Tensor]) -> list[tuple[torch.Size, tuple[int, ...]]]:
    """Returns shapes and strides, for [`as_gradients`]."""
    return [(tensor.shape, tensor.stride()) for tensor in tensors]


def as_gradients(
    values: Iterable[torch.Tensor], of: list[tuple[torch.Size, tuple[int, ...]]]
) -> tuple[torch.Tensor, ...]:
    """Returns gradients in float32 and in the memory format of their parameters, which saves others a copy.

    Args:
        values (`Iterable[torch.Tensor]`): the gradients.
        of (`list`): [`layouts`] of the parameters.
    """
    pairs = zip(values, of, strict=True)
    kind = {"dtype": torch.float32, "device": "cpu"}  # whatever torch's defaults
    return tuple(torch.empty_strided(*layout, **kind).copy_(value.reshape(layout[0])) for value, layout in pairs)


def room(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Returns memory for what a kernel writes, whatever torch's defaults.

    Args:
        shape (`int`): of the tensor.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): its type.
    """
    return torch.empty(*shape, dtype=dtype, device="cpu")


__all__ = [
    "MOST_EXPANDED_CHANNELS",
    "BlockSizes",
    "NormSizes",
    "StemSizes",
    "cache_folder",
    "as_gradients",
    "call",
    "can_use_kernels",
    "channels_last",
    "has_hooks",
    "is_float32_on_cpu",
    "layouts",
    "load_kernels",
    "padded",
    "padded_size",
    "room",
]
