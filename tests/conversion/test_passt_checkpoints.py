"""Published PaSST files become our models with the front-end that they were trained with, or an error."""

import numpy as np
import pytest
import torch
from published import passt_tensors, small_passt, without, written

from hf_ascdistill import AscFeatureExtractor, PasstConfig, PasstForAudioClassification
from hf_ascdistill.conversion import ConversionSettings, convert_checkpoint, load_checkpoint
from hf_ascdistill.conversion.passt_checkpoints import infer_grid


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """A fine-tuned teacher of two blocks."""
    return passt_tensors(small_passt())


@pytest.fixture(scope="module")
def audioset(tmp_path_factory):
    """Path of a file of AudioSet's 527 classes."""
    tensors = passt_tensors(small_passt(num_labels=527))
    return written(tensors, tmp_path_factory.mktemp("audioset"), "passt-s.pt")


@pytest.fixture
def golden_tensors(golden):
    arrays = golden("passt_tiny_random")
    return {key[3:]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith("sd/")}


@pytest.mark.parametrize("length", ["1s", "10s", "long"])
def test_the_converted_reference_gives_the_reference_logits(length, golden_tensors, golden, tmp_path):
    arrays = golden("passt_tiny_random")
    model, extractor = load_checkpoint(written(golden_tensors, tmp_path), num_attention_heads=4)
    assert extractor.to_dict() == AscFeatureExtractor.from_preset("passt").to_dict()
    with torch.no_grad():
        logits = model(torch.from_numpy(arrays[f"x_{length}"])[:, 0]).logits
    np.testing.assert_allclose(logits, arrays[f"logits_{length}"], rtol=0, atol=1e-4)


def test_heads_that_the_width_does_not_tell_are_asked_for(golden_tensors, tmp_path):
    path = written(golden_tensors, tmp_path)
    for heads in (None, 5, 0):
        message = f"tokens are 96 wide and num_attention_heads is {heads}; .*--num_attention_heads"
        with pytest.raises(ValueError, match=message):
            load_checkpoint(path, num_attention_heads=heads)


def test_published_names_are_those_of_the_reference(golden_tensors, tensors):
    assert tensors.keys() == golden_tensors.keys()


@pytest.mark.parametrize(("classes", "parameters"), [(10, 85_358_612), (527, 86_153_758)])
def test_full_size_is_inferred(classes, parameters, tmp_path):
    with torch.device("meta"):
        expected = PasstForAudioClassification(PasstConfig.from_preset("s", num_labels=classes))
    shapes = {name: tensor.shape for name, tensor in passt_tensors(expected).items()}
    assert len(shapes) == 159
    one = torch.ones(1)  # expanded, so that the file holds one number
    path = written({name: one.expand(shape) for name, shape in shapes.items()}, tmp_path)
    model, extractor = load_checkpoint(path)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.config.to_dict() == expected.config.to_dict()
    preset = "passt" if classes == 10 else "passt-audioset"
    assert extractor.to_dict() == AscFeatureExtractor.from_preset(preset).to_dict()


@pytest.mark.parametrize(
    ("rows", "columns", "stride", "frames", "hop"),
    [
        (12, 99, 10, 998, 320),
        (11, 90, 11, 998, 320),
        (10, 82, 12, 998, 320),
        (9, 76, 13, 998, 320),
        (9, 71, 14, 998, 320),
        (8, 66, 15, 998, 320),
        (8, 62, 16, 998, 320),
        (12, 299, 10, 3000, 320),  # 30 s
        (12, 319, 10, 3200, 100),  # 10 s at a finer hop
    ],
)
def test_grids_of_one_published_file_tell_stride_and_hop(rows, columns, stride, frames, hop):
    assert infer_grid(rows, columns, ConversionSettings()) == (stride, frames, hop)
    assert infer_grid(rows, columns, ConversionSettings(hop_length=hop, patch_stride=stride)) == (stride, frames, hop)


def test_a_grid_of_two_published_files_asks_for_the_hop():
    with pytest.raises(ValueError, match=r"20 s at hop 320 and 10 s at hop 160.*hop_length \(--hop_length 320\)"):
        infer_grid(12, 199, ConversionSettings())
    for hop in (320, 160):
        assert infer_grid(12, 199, ConversionSettings(hop_length=hop)) == (10, 2000, hop)


def test_an_unknown_grid_asks_for_the_hop():
    with pytest.raises(ValueError, match="no published PaSST has 12 x 100 patches.*--hop_length"):
        infer_grid(12, 100, ConversionSettings())
    assert infer_grid(12, 100, ConversionSettings(hop_length=250)) == (10, 1006, 250)


def test_an_unknown_grid_of_two_strides_asks_for_the_stride():
    with pytest.raises(ValueError, match="9 rows of patches are of stride 13 or 14; .*--patch_stride"):
        infer_grid(9, 100, ConversionSettings(hop_length=320))
    assert infer_grid(9, 100, ConversionSettings(hop_length=320, patch_stride=14)) == (14, 1402, 320)


@pytest.mark.parametrize(
    ("rows", "columns", "settings", "message"),
    [
        (12, 99, {"hop_length": 160}, "hop_length is 160 and .*12 x 99 patches are of 10 s at hop 320 and stride 10"),
        (12, 99, {"patch_stride": 12}, "patch_stride 12, but 12 x 99"),
        (12, 199, {"hop_length": 100}, "hop_length is 100 and .*20 s at hop 320 and 10 s at hop 160"),
        (9, 100, {"hop_length": 320, "patch_stride": 10}, "patch_stride is 10, but 9 rows .* 13 or 14"),
        (70, 99, {}, "has 70 rows, which no stride gives with 128 mel bins"),
    ],
)
def test_settings_that_contradict_the_grid_raise(rows, columns, settings, message):
    with pytest.raises(ValueError, match=message):
        infer_grid(rows, columns, ConversionSettings(**settings))


def test_the_upper_edge_of_other_classes_is_asked_for(tmp_path):
    path = written(passt_tensors(small_passt(num_labels=50)), tmp_path)
    with pytest.raises(ValueError, match=r"50 classes is neither AudioSet's \(527\) nor TAU22's \(10\).*--fmax"):
        load_checkpoint(path)
    model, extractor = load_checkpoint(path, fmax=15_000)
    assert (model.config.num_labels, extractor.fmax) == (50, 15_000)


@pytest.mark.parametrize(
    ("frames", "hop", "seconds", "said"),
    [
        (2000, 320, 20, {"hop_length": 320}),
        (2000, 160, 10, {"hop_length": 160}),
        (3000, 320, 30, {}),
        (3200, 100, 10, {}),
    ],
)
def test_other_clips_and_hops_come_with_their_front_end(frames, hop, seconds, said, tmp_path):
    source = small_passt(num_labels=527, max_frames=frames)
    model, extractor = load_checkpoint(written(passt_tensors(source), tmp_path), **said)
    usual = AscFeatureExtractor.from_preset("passt-audioset").to_dict()
    assert extractor.to_dict() == {**usual, "hop_length": hop}
    clip = np.random.default_rng(0).standard_normal(seconds * 32_000).astype(np.float32)
    mels = extractor(0.1 * clip, sampling_rate=32_000, return_tensors="pt")["input_values"]
    assert abs(mels.shape[2] - frames) <= 2  # the network's positions are those of its training clips
    with torch.no_grad():
        assert torch.equal(model(mels[:, :, :400]).logits, source.eval()(mels[:, :, :400]).logits)


def test_another_class_count_drops_the_classifier_and_takes_the_front_end_of_the_fine_tuning(audioset):
    model, extractor = load_checkpoint(audioset, num_labels=10)
    assert extractor.to_dict() == AscFeatureExtractor.from_preset("passt").to_dict()
    assert model.config.id2label[9] == "tram"
    before, after = load_checkpoint(audioset)[0].state_dict(), model.state_dict()
    changed = {name.rpartition(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.linear", "unused_classifier"}
    weight = model.classifier.linear.weight
    assert weight.shape == (10, 64) and 0.01 < weight.detach().std() < 0.03  # the network's own first weights
    assert not model.unused_classifier.weight.requires_grad


def test_the_hop_outlives_the_classifier(tmp_path):
    path = written(passt_tensors(small_passt(num_labels=527, max_frames=3200)), tmp_path)
    model = convert_checkpoint(path, tmp_path / "model", num_labels=10)
    extractor = AscFeatureExtractor.from_pretrained(tmp_path / "model")
    assert (extractor.hop_length, extractor.fmax, extractor.n_fft, extractor.win_length) == (100, 15_500, 1024, 800)
    assert model.config.max_frames == 3200


def test_the_new_classifier_follows_its_seed_and_nothing_else(audioset):
    state = torch.get_rng_state()
    weights = [load_checkpoint(audioset, num_labels=3, seed=seed)[0].classifier.linear.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_class_names_go_with_a_new_class_count(audioset):
    model, _ = load_checkpoint(audioset, num_labels=2, id2label={0: "dog", 1: "rain"})
    assert model.config.label2id == {"dog": 0, "rain": 1}
    with pytest.raises(ValueError, match="num_labels is 527, but id2label names 2 classes.*pass num_labels"):
        load_checkpoint(audioset, id2label={0: "dog", 1: "rain"})
    with pytest.raises(ValueError, match="num_labels is 0; expected at least one"):
        load_checkpoint(audioset, num_labels=0)


def test_the_file_s_own_class_count_keeps_its_classifier(tensors, tmp_path):
    model, _ = load_checkpoint(written(tensors, tmp_path), num_labels=10)
    assert torch.equal(model.classifier.linear.weight, tensors["head.1.weight"])


def vit_tensors() -> dict[str, torch.Tensor]:
    """Names of a distilled vision transformer, of which PaSST has most."""
    names = (
        "cls_token",
        "dist_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "head.weight",
    )
    return {name: torch.ones(3) for name in names}


def ast_tensors() -> dict[str, torch.Tensor]:
    """Names of an audio spectrogram transformer as transformers saves it."""
    model, layer = "audio_spectrogram_transformer", "encoder.layer.0.attention.attention.query"
    names = (f"{model}.embeddings.cls_token", f"{model}.{layer}.weight", "classifier.dense.weight")
    return {name: torch.ones(3) for name in names}


BAD_TENSORS = {
    "missing: blocks.1.norm1.weight, .* and 2 more": lambda t: {
        **without(t, "blocks.1."),
        **{name.replace("blocks.1.", "blocks.2."): tensor for name, tensor in t.items() if "blocks.1." in name},
    },
    "missing: blocks.1.mlp.fc2.weight, blocks.1.mlp.fc2.bias": lambda t: without(t, "blocks.1.mlp.fc2"),
    "missing: head_dist.weight, head_dist.bias": lambda t: without(t, "head_dist"),
    "missing: head.1.weight": lambda t: without(t, "head.1.weight"),
    "missing: patch_embed.proj.weight": lambda t: without(t, "patch_embed"),
    "unknown: mel.window": lambda t: {**t, "mel.window": torch.ones(3)},
    "unknown: net_swa.cls_token": lambda t: {**t, "net_swa.cls_token": torch.ones(3)},
    r"shape: head_dist.bias \(527,\), expected \(10,\)": lambda t: {**t, "head_dist.bias": torch.ones(527)},
    r"shape: patch_embed.proj.weight \(64, 1, 16, 8\), expected \(64, 1, 16, 16\)": lambda t: {
        **t,
        "patch_embed.proj.weight": torch.ones(64, 1, 16, 8),
    },
    r"shape: freq_new_pos_embed \(12, 64\), expected 4 dimensions": lambda t: {
        **t,
        "freq_new_pos_embed": torch.ones(12, 64),
    },
    "not finite.*: blocks.0.norm1.bias": lambda t: {**t, "blocks.0.norm1.bias": torch.full((64,), torch.inf)},
    r"time_new_pos_embed \(passt\), found blocks.0": lambda t: without(t, "time_new", "freq_new", "cls", "dist"),
    "exactly one of .*found blocks.0.attn.qkv.weight, cls_token, dist_token, head.weight": lambda t: vit_tensors(),
    "exactly one of .*found audio_spectrogram_transformer": lambda t: ast_tensors(),
    "exactly one of": lambda t: {**t, "in_c.0.weight": torch.ones(8, 1, 5, 5)},
    "both with and without the prefix 'net.'": lambda t: {**t, "net.cls_token": torch.ones(1, 1, 64)},
}


@pytest.mark.parametrize("message", BAD_TENSORS)
def test_tensors_that_do_not_fit_raise_and_are_named(message, tensors, tmp_path):
    path = written(BAD_TENSORS[message](tensors), tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        convert_checkpoint(path, tmp_path / "deep" / "model")
    assert str(path) in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_setting_that_is_none_raises(audioset):
    with pytest.raises(TypeError, match="hop_lenght"):
        load_checkpoint(audioset, hop_lenght=320)
