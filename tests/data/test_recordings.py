"""Any dataset of labelled audio enters the same store."""

from pathlib import Path

import numpy as np
import pytest
import soxr
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Sequence, Value
from small_corpus import RATE, noise, write_corpus, write_wav

from hf_ascdistill.data.crops import shifted_crops
from hf_ascdistill.data.store import data_fingerprint, load_prepared, prepare, prepare_recordings
from hf_ascdistill.data.tau22 import load_tau22

NAMES = ("kitchen", "hall", "stairs")
LENGTHS = (RATE, 2 * RATE, RATE // 2)
WAVEFORMS = [noise(name, count) for name, count in zip(NAMES, LENGTHS, strict=True)]
LABELS, DEVICES = ["room", "hall", "room"], ["zoom", "a", "phone"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("files")
    return [str(write_wav(folder / f"{name}.wav", wave)) for name, wave in zip(NAMES, WAVEFORMS, strict=True)]


def recordings(audio: list, **columns) -> Dataset:
    return Dataset.from_dict({"audio": audio, "label": LABELS, "device": DEVICES, **columns})


def encoded(files: list[str]) -> list[dict]:
    return [{"bytes": Path(path).read_bytes(), "path": Path(path).name} for path in files]


def decoded() -> list[dict]:
    return [{"array": samples, "sampling_rate": RATE} for samples in WAVEFORMS]


FORMS = {  # of the audio column -> the dataset, its sampling_rate=, and the names of its rows
    "paths": (lambda files: recordings(files), None, NAMES),
    "paths in an Audio feature": (lambda files: recordings(files).cast_column("audio", Audio()), None, NAMES),
    "bytes": (lambda files: recordings(encoded(files)), None, NAMES),
    "bytes in an Audio feature": (lambda files: recordings(encoded(files)).cast_column("audio", Audio()), None, NAMES),
    "arrays with their rate": (lambda files: recordings(decoded()), None, None),
    "bare samples": (lambda files: recordings(WAVEFORMS), RATE, None),
}


@pytest.mark.parametrize(("build", "rate", "names"), FORMS.values(), ids=FORMS)
def test_audio_of_every_form_gives_the_same_waveforms(files, tmp_path, build, rate, names):
    clips = prepare_recordings(build(files), tmp_path / "store", sampling_rate=rate, num_proc=1)["train"]
    assert clips[:]["example_id"] == list(names or ("train-000000", "train-000001", "train-000002"))
    for waveform, samples in zip(clips[:]["waveform"], WAVEFORMS, strict=True):
        expected = soxr.resample(samples, RATE, 32_000, quality="HQ")
        assert waveform.shape == expected.shape
        assert np.abs(waveform - expected).max() <= 0.51 * np.abs(expected).max() / 32767


def test_text_columns_become_classes(files, tmp_path):
    rows = recordings(files, town=["Lyon", "Oslo", "Oslo"], key=["k1", "k2", "k3"])
    options = {"city_column": "town", "id_column": "key", "num_proc": 1}
    clips = prepare_recordings(rows, tmp_path / "store", **options)["train"]
    assert clips.features["labels"].names == ["hall", "room"]
    assert clips.features["device_ids"].names == ["a", "phone", "zoom"]
    batch = clips[:]
    assert (batch["labels"], batch["device_ids"]) == ([1, 0, 1], [2, 0, 1])
    assert (batch["city"], batch["example_id"]) == (["Lyon", "Oslo", "Oslo"], ["k1", "k2", "k3"])


def test_class_labels_keep_their_order(files, tmp_path):
    rows = recordings(files).cast_column("label", ClassLabel(names=["room", "street", "hall"]))
    clips = prepare_recordings(rows, tmp_path / "store", num_proc=1)["train"]
    assert clips.features["labels"].names == ["room", "street", "hall"]
    assert clips[:]["labels"] == [0, 2, 0]


def test_without_devices_and_cities_they_are_unknown(files, tmp_path):
    rows = recordings(files).remove_columns("device")
    clips = prepare_recordings(rows, tmp_path / "store", device_column=None, num_proc=1)["train"]
    assert clips.features["device_ids"].names == ["unknown"]
    assert (clips[:]["device_ids"], clips[:]["city"]) == ([0] * 3, ["unknown"] * 3)


def test_splits_stay_apart_and_share_their_classes(files, tmp_path):
    rows = recordings(files)
    splits = DatasetDict(fit=rows.select([0]), check=rows.select([2, 1]))
    clips = prepare_recordings(splits, tmp_path / "store", num_proc=2)
    assert {split: part[:]["example_id"] for split, part in clips.items()} == {
        "fit": ["kitchen"],
        "check": ["stairs", "hall"],
    }
    assert clips["fit"].features == clips["check"].features
    assert clips["check"][0]["waveform"].shape == (16_000,)


def test_one_dataset_is_the_split_that_it_is_called(files, tmp_path):
    assert list(prepare_recordings(recordings(files), tmp_path / "store", split="night", num_proc=1)) == ["night"]


def test_shuffled_rows_keep_their_audio(files, tmp_path):
    rows = recordings(encoded(files)).select([2, 0])
    clips = prepare_recordings(rows, tmp_path / "store", num_proc=1)["train"]
    assert clips[:]["example_id"] == ["stairs", "kitchen"]
    assert [len(waveform) for waveform in clips[:]["waveform"]] == [16_000, 32_000]


def test_long_recordings_are_cut_into_crops(files, tmp_path):
    clips = prepare_recordings(recordings(files), tmp_path / "store", num_proc=1)["train"].select([0, 1])
    assert shifted_crops(clips).with_format(None)["example_id"][:] == [
        "kitchen",
        "hall+0ms",
        "hall+500ms",
        "hall+1000ms",
    ]


def test_the_store_is_that_of_prepare(tmp_path):
    corpus = load_tau22(write_corpus(tmp_path / "corpus"))["evaluate"]
    rows = corpus.with_format(None)
    scenes, devices = (rows.features[name].names for name in ("labels", "device_ids"))
    own = Dataset.from_dict(
        {
            "audio": rows["path"][:],
            "label": [scenes[label] for label in rows["labels"][:]],
            "device": [devices[device] for device in rows["device_ids"][:]],
        }
    )
    prepared = prepare(corpus, tmp_path / "a", num_proc=1)["evaluate"]
    brought = prepare_recordings(own, tmp_path / "b", num_proc=1)["train"]
    np.testing.assert_array_equal(brought[0]["waveform"], prepared[0]["waveform"])
    assert data_fingerprint(brought) == data_fingerprint(prepared) == data_fingerprint(corpus)


def test_a_second_call_only_opens_the_store(files, tmp_path):
    first = prepare_recordings(recordings(files), tmp_path / "store", num_proc=1)
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("shard-*")}
    prepare_recordings(recordings(files), tmp_path / "store", num_proc=1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("shard-*")} == shards
    assert data_fingerprint(load_prepared(tmp_path / "store")["train"]) == data_fingerprint(first["train"])


# Datasets that cannot be right


def spoil(column: str, row: int, value):
    """Returns what puts `value` into one cell of the recordings."""

    def apply(files: list[str]) -> Dataset:
        columns = recordings(files).to_dict()
        columns[column][row] = value
        return Dataset.from_dict(columns)

    return apply


def cells(values: list, feature=None):
    """Returns what makes `values` the column of audio."""
    rows = {"audio": values, "label": LABELS, "device": DEVICES}
    return lambda files: (
        Dataset.from_dict(rows) if feature is None else Dataset.from_dict(rows).cast_column("audio", feature)
    )


STEREO, SILENT = noise("x", 200).reshape(2, 100).tolist(), np.zeros(RATE, np.float32)
AT = r"row 1 of split 'train', column '{}'"
BAD = {  # -> the dataset, options, what the error says
    "absent file": (spoil("audio", 1, "nowhere.wav"), {}, rf"nowhere\.wav \({AT.format('audio')}\)"),
    "no audio": (spoil("audio", 1, None), {}, AT.format("audio") + " holds no audio"),
    "broken bytes": (
        cells([{"bytes": b"junk", "path": None}] * 3),
        {},
        "row 0 of split 'train', column 'audio'.*not audio",
    ),
    "neither bytes nor path": (
        cells([{"bytes": None, "path": None}] * 3, Audio()),
        {},
        "row 0 of split 'train', column 'audio' holds",
    ),
    "silent array": (
        cells([{"array": samples, "sampling_rate": RATE} for samples in (WAVEFORMS[0], SILENT, SILENT)]),
        {},
        AT.format("audio") + " is silent",
    ),
    "nan": (
        cells([WAVEFORMS[0], np.float32([0.1, np.nan]), np.float32([0.1])]),
        {"sampling_rate": RATE},
        AT.format("audio") + ".*NaN",
    ),
    "stereo array": (cells([STEREO] * 3), {"sampling_rate": RATE}, "column 'audio'.*expected mono floats"),
    "integers": (cells([[1, 2]] * 3), {"sampling_rate": RATE}, "row 0.*column 'audio'.*expected mono floats"),
    "no rate": (cells(WAVEFORMS), {}, "column 'audio' holds bare samples.*sampling_rate="),
    "another rate": (
        cells(
            [
                {"array": samples, "sampling_rate": rate}
                for samples, rate in zip(WAVEFORMS, (RATE, 8000, RATE), strict=True)
            ]
        ),
        {},
        AT.format("audio") + " has 8000 Hz, row 0 .* 16000 Hz",
    ),
    "rate missing": (
        cells(
            [
                {"array": samples, "sampling_rate": rate}
                for samples, rate in zip(WAVEFORMS, (RATE, None, RATE), strict=True)
            ]
        ),
        {},
        AT.format("audio") + " lacks",
    ),
    "numbers as audio": (cells([1.0, 2.0, 3.0]), {}, "column 'audio' is .*expected paths"),
    "no label": (spoil("label", 1, None), {}, AT.format("label") + " is empty"),
    "empty device": (spoil("device", 1, ""), {}, AT.format("device") + " is empty"),
    "numbers as labels": (
        lambda files: recordings(files).remove_columns("label").add_column("label", [0, 1, 0]),
        {},
        "column 'label' is .*expected text, or classes",
    ),
    "column missing": (lambda files: recordings(files).remove_columns("device"), {}, "lacks.* device.*device_column="),
    "same file twice": (spoil("audio", 1, "elsewhere/kitchen.wav"), {}, f"kitchen of {AT.format('audio')}.*unique"),
    "same id twice": (
        lambda files: recordings(files, key=["k1", "k1", "k2"]),
        {"id_column": "key"},
        f"k1 of {AT.format('key')}.*unique",
    ),
    "name of a crop": (spoil("audio", 1, "hall+500ms.wav"), {}, "shifted crop"),
    "no rows": (lambda files: recordings(files).select([]), {}, "'train' holds no rows"),
    "no processes": (lambda files: recordings(files), {"num_proc": 0}, "num_proc=0"),
}


@pytest.mark.parametrize(("build", "options", "message"), BAD.values(), ids=BAD)
def test_bad_dataset_raises_and_says_where(files, tmp_path, build, options, message):
    rows = build(files)
    with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){message}"):
        prepare_recordings(rows, tmp_path / "store", **{"num_proc": 1, **options})


def test_unlabelled_class_raises(files, tmp_path):
    feature = ClassLabel(names=["hall", "room"])
    rows = (
        recordings(files)
        .cast_column("label", feature)
        .map(lambda row, at: {"label": -1 if at == 1 else 0}, with_indices=True)
    )
    with pytest.raises(ValueError, match=AT.format("label") + " holds no class"):
        prepare_recordings(rows, tmp_path / "store", num_proc=1)


def test_splits_with_other_classes_raise(files, tmp_path):
    rows = recordings(files)
    splits = {
        "train": rows.cast_column("label", ClassLabel(names=["hall", "room"])),
        "test": rows.cast_column("label", ClassLabel(names=["room", "hall"])),
    }
    with pytest.raises(ValueError, match="'train' and 'test' differ"):
        prepare_recordings(splits, tmp_path / "store", num_proc=1)


def test_bad_row_of_a_later_split_is_counted_within_it(files, tmp_path):
    rows = recordings(files)
    splits = {"train": rows.select([0, 1]), "test": spoil("audio", 1, "nowhere.wav")(files).select([2, 1])}
    with pytest.raises(FileNotFoundError, match=r"nowhere\.wav \(row 1 of split 'test', column 'audio'\)"):
        prepare_recordings(splits, tmp_path / "store", num_proc=2)


def test_sequence_features_count_as_samples(tmp_path):
    features = Features({"audio": Sequence(Value("float64")), "label": Value("string")})
    rows = Dataset.from_dict({"audio": [noise("x", 100)], "label": ["room"]}, features=features)
    clips = prepare_recordings(rows, tmp_path / "store", device_column=None, sampling_rate=32_000, num_proc=1)
    np.testing.assert_allclose(clips["train"][0]["waveform"], noise("x", 100), atol=1e-5)
