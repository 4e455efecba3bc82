"""The network of the PyPI package hear21passt: opened through its own functions; as a program, its random weights.

python hear21passt_network.py FOLDER

runs in an environment that has hear21passt and none of this project. It writes weights.pt, a state dict as the
published ones, and logits.pt, what the network makes of random spectrograms of 1, 5 and 10 s.
"""

import contextlib
import os
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

ARCHITECTURE = "passt_s_swa_p16_128_ap476"
CLASSES, MELS = 10, 128
FRAMES = {"1 s": 100, "5 s": 500, "10 s": 998}
MISSING_OPERATORS = ("nms", "qnms")  # that torchvision expects of its own library


def import_torchvision() -> None:
    """Imports torchvision, which timm asks for, also where its library belongs to another build of torch.

    Its wheel on PyPI is one for CUDA. Beside a torch for CPUs its library is not loaded, and the import then stops at
    operators that are not there; nothing here calls them, so their names are enough.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in MISSING_OPERATORS:
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")


@contextlib.contextmanager
def quiet():
    """Keeps what hear21passt prints and warns of off the screen."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_network(*, frequency_patchout: int = 0) -> nn.Module:
    """Builds the full-size network without its published weights.

    Args:
        frequency_patchout (`int`, *optional*, defaults to 0): rows of patches that training drops.

    Raises:
        ModuleNotFoundError: hear21passt or a package that it needs is not there.
    """
    import_torchvision()
    with quiet():
        from hear21passt.models.passt import get_model

        return get_model(
            arch=ARCHITECTURE, pretrained=False, n_classes=CLASSES, input_fdim=MELS, s_patchout_f=frequency_patchout
        )


@torch.no_grad()
def randomise(network: nn.Module) -> None:
    """Gives every tensor random values of the size that trained ones have; none keeps its initial value."""
    for name, parameter in network.named_parameters():
        if "norm" in name or name.startswith("head.0"):
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.2)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
        elif parameter.dim() == 2 or name.startswith("patch_embed"):
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            nn.init.normal_(parameter, std=0.5)  # tokens and positions


def main(folder: str) -> None:
    """Writes random weights, and the logits and features that they give."""
    torch.manual_seed(0)
    network = open_network().eval()
    randomise(network)
    torch.save(network.state_dict(), Path(folder, "weights.pt"))
    results = {}
    for length, frames in FRAMES.items():
        inputs = torch.randn(2, MELS, frames)
        with torch.no_grad(), quiet():
            logits, features = network(inputs.unsqueeze(1))
        results[length] = {"inputs": inputs, "logits": logits, "features": features}
    torch.save(results, Path(folder, "logits.pt"))


if __name__ == "__main__":
    main(sys.argv[1])
