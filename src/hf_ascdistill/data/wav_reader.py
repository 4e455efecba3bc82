"""Reads wav files when rows are read: the transform of a corpus that is not prepared."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .audio import AudioChecks, CorpusRate, Sound, read_audio
from .columns import EXAMPLE_ID, LENGTH, PATH
from .index import with_waveforms


@dataclass(frozen=True)
class ReadWavFiles:
    """Dataset transform that reads each row's wav file: `path` becomes `waveform`.

    Args:
        first_path (`str`): first file of the corpus, whose rate all others must have.
        checks (`AudioChecks`, *optional*): what a recording may be.
    """

    first_path: str
    checks: AudioChecks = AudioChecks()

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Reads the rows of a batch. Without the columns that locate audio, the batch stays as it is.

        Raises:
            FileNotFoundError: a file is absent.
            ValueError: a file fails a check, or a crop is not one whole file.
        """
        if not {EXAMPLE_ID, PATH, LENGTH} <= batch.keys():
            return batch
        corpus_rate = _rate_of_file(self.first_path)
        waveforms = []
        for example_id, path, length in zip(batch[EXAMPLE_ID], batch[PATH], batch[LENGTH], strict=True):
            if path is None:
                raise ValueError(f"{example_id} {NOT_ONE_FILE}")
            waveforms.append(read_audio(path, checks=self.checks, corpus_rate=corpus_rate, length=length))
        return with_waveforms(batch, waveforms)


NOT_ONE_FILE = "is not one whole file: run prepare first, and cut the crops of its store."


@lru_cache(maxsize=16)
def _rate_of_file(path: str) -> CorpusRate:
    return CorpusRate.of(Sound.from_file(path))


__all__ = ["NOT_ONE_FILE", "ReadWavFiles"]
