"""The exported front-end gives the reference log-mels; the ONNX graphs of every architecture give its logits."""

import numpy as np
import pytest
import torch
from published import small_passt

from hf_ascdistill import AscFeatureExtractor, CpResNetConfig, CpResNetForAudioClassification
from hf_ascdistill.export.graphs import LogMel, MelToLogits, PowerSpectrum, WaveformToProbabilities, radices
from hf_ascdistill.export.onnx_graphs import mel_graph, run_onnx, with_metadata
from hf_ascdistill.export.onnx_int8 import quantize_onnx

PRESETS = ("cp-mobile", "cp-resnet", "passt")


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("preset", "name"), [("cp-mobile", "mel_cpm"), ("cp-resnet", "mel_cpr"), ("passt", "mel_passt")]
)
def test_log_mels_are_the_reference_ones(golden, preset, name):
    clips = golden("clips8")
    mels = LogMel(AscFeatureExtractor.from_preset(preset))(torch.from_numpy(clips["wav"]))
    np.testing.assert_allclose(mels, clips[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("extra", [0, 1, 749, 30_001])
def test_log_mels_of_any_length_are_those_of_the_extractor(preset, extra):
    extractor = AscFeatureExtractor.from_preset(preset)
    waveform = noise(2, extractor.n_fft + extra)
    mels, expected = LogMel(extractor)(waveform), extractor.log_mel(waveform)
    torch.testing.assert_close(mels, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_fft", [4, 12, 24, 256, 1000])
def test_power_spectrum_is_that_of_the_fourier_transform(n_fft):
    frames, window = noise(2, 3, n_fft - 1), torch.hann_window(n_fft - 1, dtype=torch.float64)
    power = torch.fft.rfft(frames.double() * window, n_fft).abs().square()[..., : n_fft // 2]
    torch.testing.assert_close(PowerSpectrum(window, n_fft)(frames).double(), power, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_fft", [2, 6, 1022])
def test_a_transform_without_two_even_factors_raises(n_fft):
    with pytest.raises(ValueError, match=f"n_fft is {n_fft}; .* multiple of 4"):
        radices(n_fft)


def test_waveforms_become_the_probabilities_of_the_model():
    model, extractor = small_passt(), AscFeatureExtractor.from_preset("passt")
    waveform = noise(2, 32_000)
    with torch.no_grad():
        expected = model(extractor.log_mel(waveform)).logits.softmax(1)
        torch.testing.assert_close(WaveformToProbabilities(model, extractor)(waveform), expected, rtol=0, atol=1e-5)


def resnet() -> CpResNetForAudioClassification:
    torch.manual_seed(0)
    model = CpResNetForAudioClassification(CpResNetConfig(base_channels=4, channel_cut=6)).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return model


@pytest.mark.parametrize(("preset", "build"), [("cp-resnet", resnet), ("passt", small_passt)])
def test_the_other_architectures_become_onnx_too(preset, build):
    model, extractor = build(), AscFeatureExtractor.from_preset(preset)
    graph = mel_graph(model, extractor, opset=18)
    assert [entry.version for entry in graph.opset_import if entry.domain == ""] == [18]
    with torch.no_grad():
        for mels in (extractor.log_mel(noise(3, 32_000)), extractor.log_mel(noise(1, 64_000))):
            np.testing.assert_allclose(
                run_onnx(with_metadata(graph, {}), mels.numpy()), MelToLogits(model)(mels), rtol=1e-4, atol=1e-4
            )
    if preset == "cp-resnet":
        mels = extractor.log_mel(noise(4, 32_000)).numpy()
        kinds = {node.op_type for node in quantize_onnx(graph, mels).graph.node}
        assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
