"""The exported front-end gives the reference log-mels; the ONNX graphs of every architecture give its logits."""

import numpy as np
import pytest
import torch
from published import small_passt

from hf_ascdistill import AscFeatureExtractor, CpResNetConfig, CpResNetForAudioClassification
from hf_ascdistill.export.graphs import (
    FourierLogMel,
    FourierPower,
    LogMel,
    MelToLogits,
    PowerSpectrum,
    ResponseNorm,
    WaveformToProbabilities,
    radices,
)
from hf_ascdistill.export.onnx_graphs import front_end_graph, mel_graph, run_onnx, with_metadata
from hf_ascdistill.export.onnx_int8 import quantize_onnx
from hf_ascdistill.models.modeling_cp_mobile import CpMobileGlobalResponseNorm

PRESETS = ("cp-mobile", "cp-resnet", "passt")


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("build", [LogMel, FourierLogMel])
@pytest.mark.parametrize(
    ("preset", "name"), [("cp-mobile", "mel_cpm"), ("cp-resnet", "mel_cpr"), ("passt", "mel_passt")]
)
def test_log_mels_are_the_reference_ones(golden, preset, name, build):
    clips = golden("clips8")
    mels = build(AscFeatureExtractor.from_preset(preset))(torch.from_numpy(clips["wav"]))
    np.testing.assert_allclose(mels, clips[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("extra", [0, 1, 749, 30_001])
@pytest.mark.parametrize("build", [LogMel, FourierLogMel])
def test_log_mels_of_any_length_are_those_of_the_extractor(preset, extra, build):
    extractor = AscFeatureExtractor.from_preset(preset)
    waveform = noise(2, extractor.n_fft + extra)
    mels, expected = build(extractor)(waveform), extractor.log_mel(waveform)
    torch.testing.assert_close(mels, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("turns_tables", [False, True])
@pytest.mark.parametrize("n_fft", [4, 12, 24, 256, 1000])
def test_power_spectrum_is_that_of_the_fourier_transform(n_fft, turns_tables):
    frames, window = noise(2, n_fft - 1, 3), torch.hann_window(n_fft - 1, dtype=torch.float64)
    transform = PowerSpectrum(window, n_fft, turns_tables=turns_tables)
    power = torch.fft.rfft(frames.double() * window[:, None], n_fft, dim=1).abs().square()
    is_used = transform.bins >= 0
    assert sorted(transform.bins[is_used].tolist()) == list(range(n_fft // 2))  # the Nyquist bin has no mel
    outputs = transform(frames)[:, is_used].double()
    torch.testing.assert_close(outputs, power[:, transform.bins[is_used]], rtol=1e-4, atol=1e-6)


def test_power_by_the_fourier_transform_is_that_of_the_exported_graph():
    frames, window = noise(2, 800, 3), torch.hann_window(800, periodic=False, dtype=torch.float64)
    fast, exported = FourierPower(window, 1024), PowerSpectrum(window, 1024)
    is_used = exported.bins >= 0
    assert fast.bins.tolist() == sorted(exported.bins[is_used].tolist())
    expected = fast(frames)[:, exported.bins[is_used]]
    torch.testing.assert_close(exported(frames)[:, is_used], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_fft", [2, 6, 1022])
def test_a_transform_without_two_even_factors_raises(n_fft):
    with pytest.raises(ValueError, match=f"n_fft is {n_fft}; .* multiple of 4"):
        radices(n_fft)


def test_the_front_end_of_a_file_leaves_the_tables_of_each_column_to_the_runtime():
    extractor = AscFeatureExtractor.from_preset("cp-mobile")
    graph = front_end_graph(extractor)
    turned = 65 * 2 * 32 * 96 * 4  # bytes of the tables for each c, real and imaginary, b and a
    assert graph.ByteSize() < turned / 3
    waveform = noise(3, 32_000)
    outputs = run_onnx(with_metadata(graph, {}), waveform.numpy())
    np.testing.assert_allclose(outputs, extractor.log_mel(waveform), rtol=0, atol=1e-4)


def test_the_response_norm_of_a_file_is_that_of_the_network():
    norm = CpMobileGlobalResponseNorm()
    torch.nn.init.constant_(norm.weight, 0.7)
    torch.nn.init.constant_(norm.bias, -0.2)
    maps = noise(2, 5, 6, 7)
    maps[0, 1] = 0  # a channel without energy stays finite
    with torch.no_grad():
        torch.testing.assert_close(ResponseNorm(norm)(maps), norm(maps), rtol=1e-6, atol=1e-6)


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
