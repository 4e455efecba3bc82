"""A store is prepared once, whatever interrupts it, and only from recordings that pass the checks."""

import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from small_corpus import CLIPS, noise, write_corpus, write_wav
from tqdm.auto import tqdm

from hf_ascdistill.data import shards
from hf_ascdistill.data.audio import Sound
from hf_ascdistill.data.crops import shifted_crops
from hf_ascdistill.data.store import load_prepared, prepare
from hf_ascdistill.data.tau22 import load_tau22


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shards_of(folder: Path) -> dict[str, int]:
    """Names of the finished shards, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("shard-*.arrow"))}


# Preparing again


def test_number_of_processes_changes_nothing(corpus, tmp_path, one_run_per_shard):
    for num_proc in (1, 2):
        prepare(load_tau22(corpus), tmp_path / str(num_proc), num_proc=num_proc)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    assert len(shards_of(tmp_path / "1")) == 4


def test_finished_shards_are_not_written_again(corpus, tmp_path, one_run_per_shard, monkeypatch):
    prepare(load_tau22(corpus), tmp_path / "store", num_proc=1)
    before = shards_of(tmp_path / "store")
    monkeypatch.setattr(shards, "decode_checked", None)  # decoding anything would fail
    prepare(load_tau22(corpus), tmp_path / "store", num_proc=1)
    assert shards_of(tmp_path / "store") == before


def test_changed_file_changes_its_shard_alone(own_corpus, tmp_path, one_run_per_shard):
    prepare(load_tau22(own_corpus), tmp_path / "store", num_proc=1)
    before = shards_of(tmp_path / "store")
    write_wav(own_corpus / f"audio/{CLIPS[3]}.wav", noise("changed"))
    new = prepare(load_tau22(own_corpus), tmp_path / "store", num_proc=2)["train"]
    after = shards_of(tmp_path / "store")
    assert [name[:11] for name in before.keys() - after.keys()] == ["shard-00001"]
    assert len(after) == len(before) and len(before.items() & after.items()) == 3
    np.testing.assert_allclose(new[3]["waveform"][::2], noise("changed"), atol=0.15)


def test_rows_loaded_before_the_store_changed_raise(own_corpus, tmp_path):
    prepare(load_tau22(own_corpus), tmp_path / "store", num_proc=1)
    old = load_prepared(tmp_path / "store")["train"]  # its files are not open yet
    write_wav(own_corpus / f"audio/{CLIPS[3]}.wav", noise("changed"))
    prepare(load_tau22(own_corpus), tmp_path / "store", num_proc=1)
    with pytest.raises(ValueError, match="prepared again.*load it again"):
        old[0]


def test_shard_that_was_cut_short_is_written_again(corpus, tmp_path):
    prepare(load_tau22(corpus), tmp_path / "store", num_proc=1)
    whole = files_of(tmp_path / "store")
    (shard,) = (tmp_path / "store").glob("shard-*")
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(ValueError, match=f"{shard.name} is missing or damaged.*run prepare again"):
        load_prepared(tmp_path / "store")
    prepare(load_tau22(corpus), tmp_path / "store", num_proc=1)
    assert files_of(tmp_path / "store") == whole


def prepare_slowly(corpus: Path, folder: Path) -> None:
    """Prepares with 0.2 s a file; the target of a process that is to be interrupted."""
    read = Sound.from_file

    def slowly(*args) -> Sound:
        time.sleep(0.2)
        return read(*args)

    Sound.from_file = slowly
    tqdm.set_lock(threading.RLock())  # its own: else, killed at the wrong moment, it leaves that of the tests locked
    os.setpgrp()  # as in a shell, an interrupt reaches the process and its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare(load_tau22(corpus), folder, num_proc=2)


def wait_until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def children_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.parametrize("when", ["shard-*.tmp", "shard-*.arrow"], ids=["in the first shard", "after the first shard"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_interrupted_run_goes_on_to_the_same_store(corpus, store, tmp_path, one_run_per_shard, number, when):
    folder = tmp_path / "store"
    process = multiprocessing.get_context("fork").Process(target=prepare_slowly, args=(corpus, folder))
    process.start()
    wait_until(lambda: any(folder.glob(when)))
    children = children_of(process.pid)
    os.killpg(process.pid, number) if number == signal.SIGINT else os.kill(process.pid, number)
    process.join(30)
    assert len(children) == 2 and process.exitcode != 0
    with pytest.raises(FileNotFoundError, match="run prepare again"):
        load_prepared(folder)
    kept = shards_of(folder)
    prepare(load_tau22(corpus), folder, num_proc=1)
    wait_until(lambda: not any(map(is_running, children)))
    prepare(load_tau22(corpus), tmp_path / "whole", num_proc=1)
    assert files_of(folder) == files_of(tmp_path / "whole")
    assert kept.items() <= shards_of(folder).items()


# What stops it


@pytest.mark.parametrize("num_proc", [1, 2])
def test_bad_file_stops_and_is_named_and_mending_goes_on(own_corpus, tmp_path, one_run_per_shard, num_proc):
    folder = tmp_path / "store"
    bad = own_corpus / f"audio/{CLIPS[4]}.wav"
    good = bad.read_bytes()
    bad.write_bytes(good[:-2])
    with pytest.raises(ValueError, match=f"{bad.name} is truncated"):
        prepare(load_tau22(own_corpus), folder, num_proc=num_proc)
    kept = shards_of(folder)
    assert len(kept) >= 2 and not list(folder.glob("*.tmp"))
    bad.write_bytes(good)
    prepare(load_tau22(own_corpus), folder, num_proc=num_proc)
    assert kept.items() < shards_of(folder).items()


def test_absent_file_stops_and_is_named(own_corpus, tmp_path):
    (own_corpus / f"audio/{CLIPS[4]}.wav").unlink()
    with pytest.raises(FileNotFoundError, match=CLIPS[4]):
        prepare(load_tau22(own_corpus), tmp_path / "store", num_proc=2)


def test_another_rate_names_both_files(own_corpus, tmp_path):
    write_wav(own_corpus / f"audio/{CLIPS[1]}.wav", noise("x", 8_000), 8_000)
    with pytest.raises(ValueError, match=rf"{CLIPS[1]}\.wav has 8000 Hz, .*{CLIPS[0]}\.wav 16000 Hz"):
        prepare(load_tau22(own_corpus), tmp_path / "store", num_proc=1)
    clips = prepare(load_tau22(own_corpus), tmp_path / "mixed", num_proc=1, mixed_rates=True)["train"]
    assert [len(waveform) for waveform in clips[:3]["waveform"]] == [32_000] * 3


def test_killed_process_says_so(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(shards.ShardWriter, "__call__", lambda *args: os.kill(os.getpid(), signal.SIGKILL))
    monkeypatch.setattr(shards, "RUNS_PER_SHARD", 2)
    with pytest.raises(RuntimeError, match="killed.*smaller num_proc"):
        prepare(load_tau22(corpus), tmp_path / "store", num_proc=2)


def test_folder_of_another_corpus_raises_and_stays(corpus, store, tmp_path):
    folder = shutil.copytree(store, tmp_path / "store")
    before = files_of(folder)
    with pytest.raises(ValueError, match=r"holds a store of other splits: .*'train': 5.*now .*'train': 4"):
        prepare(load_tau22(corpus)["train"].select(range(4)), folder, num_proc=1)
    with pytest.raises(ValueError, match=r"holds a store of other settings: .*'error'.*now .*'mean'"):
        prepare(load_tau22(corpus), folder, num_proc=1, stereo="mean")
    with pytest.raises(ValueError, match="holds a store of other scenes: .*'park'.*now .*'tram'"):
        prepare(load_tau22(corpus, scenes=["bus", "park", "tram"]), folder, num_proc=1)
    assert files_of(folder) == before


def test_unfinished_store_of_another_corpus_raises(corpus, store, tmp_path):
    folder = shutil.copytree(store, tmp_path / "store")
    (folder / "store.json").unlink()
    with pytest.raises(ValueError, match="holds a store of other"):
        prepare(load_tau22(corpus)["evaluate"], folder, num_proc=1)


def test_folder_of_other_files_raises(corpus, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"thesis\.tex.*choose an empty folder"):
        prepare(load_tau22(corpus), tmp_path, num_proc=1)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["thesis.tex"]


def test_prepared_clips_and_crops_are_not_prepared(corpus, store, tmp_path):
    for clips in (load_prepared(store), shifted_crops(load_tau22(corpus)["train"])):
        with pytest.raises(ValueError, match="prepare takes whole wav files"):
            prepare(clips, tmp_path / "store", num_proc=1)


def test_splits_that_differ_about_a_clip_raise(own_corpus, tmp_path):
    moved = write_corpus(tmp_path / "moved")
    splits = {"train": load_tau22(own_corpus)["train"], "all": load_tau22(moved, splits=("all",))["all"]}
    with pytest.raises(ValueError, match=rf"{CLIPS[0]} has path .*corpus/audio.*moved/audio"):
        prepare(splits, tmp_path / "store", num_proc=1)
