"""The compiled classifier gives the model's probabilities, and convolutions taken apart give what they gave whole."""

import shutil

import pytest
import torch
from published import small_passt
from torch import nn

from hf_ascdistill import (
    AscFeatureExtractor,
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
    compile_classifier,
    fuse,
    load_checkpoint,
)
from hf_ascdistill.export import compiled
from hf_ascdistill.export.compiled import TakenApart, take_apart

EXTRACTOR = AscFeatureExtractor(n_fft=1024, win_length=800, hop_length=400, n_mels=64)


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def mobile() -> CpMobileForAudioClassification:
    torch.manual_seed(0)
    model = CpMobileForAudioClassification(CpMobileConfig(base_channels=8))
    model(noise(4, 64, 40))  # statistics
    return model.eval()


def resnet() -> CpResNetForAudioClassification:
    torch.manual_seed(0)
    model = CpResNetForAudioClassification(CpResNetConfig(base_channels=4, channel_cut=6))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # a fresh one has zeros
    return model.eval()


@pytest.mark.parametrize(
    "sizes",
    [
        {"kernel_size": 1, "bias": False},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 5, "padding": 2, "stride": (2, 1), "groups": 2},
        {"kernel_size": 3, "padding": 1, "stride": (1, 2), "groups": 8},
        {"kernel_size": (2, 3), "padding": (0, 1)},
    ],
)
@pytest.mark.parametrize("shape", [(7, 6), (8, 9)])
def test_a_convolution_taken_apart_gives_the_same(sizes, shape):
    torch.manual_seed(0)
    conv, inputs = nn.Conv2d(8, 8, **sizes).double(), noise(2, 8, *shape).double()
    with torch.no_grad():
        torch.testing.assert_close(TakenApart(conv)(inputs), conv(inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("build", [mobile, resnet])
def test_a_network_taken_apart_gives_its_logits(build):
    whole, apart, inputs = fuse(build()), fuse(build()), noise(2, 64, 40)
    take_apart(apart)
    assert not any(isinstance(module, nn.Conv2d) for module in apart.modules())
    with torch.no_grad():
        torch.testing.assert_close(apart(inputs).logits, whole(inputs).logits, rtol=1e-4, atol=1e-5)


def test_patches_of_a_transformer_stay_whole():
    network = small_passt()
    take_apart(network)
    assert any(isinstance(module, nn.Conv2d) for module in network.modules())


needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, compiled.COMPILERS)), reason="there is no C++ compiler to compile with"
)


@needs_compiler
def test_the_published_student_compiled_gives_the_reference_probabilities(golden, shared):
    clips = golden("clips8")
    classify = compile_classifier(*load_checkpoint(shared / "checkpoints/cpm_student_dcase23.ckpt"))
    outputs = torch.cat([classify(clip) for clip in torch.from_numpy(clips["wav"]).split(1)])
    expected = torch.from_numpy(clips["logits"]).softmax(1)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-3)  # as logits between float32 implementations


@needs_compiler
@pytest.mark.parametrize("native_kernels", [True, False])
def test_a_compiled_classifier_gives_the_models_probabilities_and_refuses_other_shapes(native_kernels):
    waveform = noise(3, 16_000)
    classify = compile_classifier(resnet(), EXTRACTOR, samples=16_000, native_kernels=native_kernels)
    with torch.no_grad():
        expected = resnet()(EXTRACTOR.log_mel(waveform)).logits.softmax(1)
    outputs = torch.cat([classify(clip) for clip in waveform.split(1)])
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)
    for wrong in (waveform, waveform[:1, :15_999], waveform[:1].double(), waveform[0]):
        with pytest.raises(ValueError, match=r"expected float32 of shape \(1, 16000\)"):
            classify(wrong)


def test_a_clip_shorter_than_a_window_raises_before_compiling():
    with pytest.raises(ValueError, match="samples is 1023; expected one FFT window or more, 1024"):
        compile_classifier(mobile(), EXTRACTOR, samples=1023)


def test_a_machine_without_a_compiler_is_told_so(monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(ImportError, match=r"needs a C\+\+ compiler"):
        compile_classifier(mobile(), EXTRACTOR)
