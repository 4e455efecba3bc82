"""Reads recordings: checks each one, mixes down where asked, resamples to 32 kHz."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import soundfile
import soxr

from .columns import SAMPLING_RATE

RESAMPLER_QUALITY = "HQ"  # of soxr; the resampler of the authors (golden data: bit for bit)
STEREO_MODES = ("error", "mean")
RIFF_HEADER, CHUNK_HEADER = 12, 8  # bytes


@dataclass(frozen=True)
class AudioChecks:
    """What a recording may be.

    Args:
        stereo (`str`, *optional*, defaults to `"error"`): what to do with several channels: `"error"`, or `"mean"` to
            average them.
        mixed_rates (`bool`, *optional*, defaults to `False`): recordings may have other rates than the first one; each
            is resampled from its own.
        allow_silent (`bool`, *optional*, defaults to `False`): all samples of a recording may be zero.

    Raises:
        ValueError: `stereo` is neither.
    """

    stereo: str = "error"
    mixed_rates: bool = False
    allow_silent: bool = False

    def __post_init__(self) -> None:
        if self.stereo not in STEREO_MODES:
            raise ValueError(f"stereo={self.stereo!r}; expected one of {', '.join(map(repr, STEREO_MODES))}.")


@dataclass(frozen=True)
class Sound:
    """One recording before it is decoded.

    Args:
        name (`str`): what errors call it: its path, or its row and column.
        data (`bytes | np.ndarray`): an audio file, or samples `(N,)`.
        rate (`int`, *optional*): sampling rate of samples, in Hz; a file knows its own.
    """

    name: str
    data: bytes | np.ndarray
    rate: int | None = None

    @classmethod
    def from_file(cls, path: str | Path, name: str | None = None) -> "Sound":
        """Reads the bytes of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        name = name or str(path)
        try:
            return cls(name, Path(path).read_bytes())
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{name}: there is no file {path}; add it, or take its row out.") from error

    def content(self) -> str:
        """Returns the hash of the bytes, or of the samples and their rate."""
        digest = hashlib.blake2b(digest_size=16)
        if isinstance(self.data, np.ndarray):
            digest.update(f"{self.data.dtype.str} {self.rate} ".encode())
        digest.update(np.ascontiguousarray(self.data) if isinstance(self.data, np.ndarray) else self.data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Waveform:
    """Samples of one recording at its own rate: float32 `(N,)`, mono, checked."""

    name: str
    samples: np.ndarray
    rate: int


def decode(sound: Sound, checks: AudioChecks) -> Waveform:
    """Turns a file's bytes, or an array, into a checked mono waveform at its own rate.

    Raises:
        ValueError: it is empty, truncated, not audio, stereo, silent, or holds NaN or infinite samples.
    """
    samples, rate = _from_array(sound) if isinstance(sound.data, np.ndarray) else _from_bytes(sound)
    if len(samples) == 0:
        raise ValueError(f"{sound.name} holds no samples; replace it, or take its row out.")
    if samples.shape[1] > 1 and checks.stereo == "error":
        raise ValueError(
            f"{sound.name} has {samples.shape[1]} channels, expected 1; mix it down, or pass stereo='mean' to average "
            "them."
        )
    samples = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not np.isfinite(samples).all():
        raise ValueError(f"{sound.name} holds NaN or infinite samples; replace it, or take its row out.")
    if not samples.any() and not checks.allow_silent:
        raise ValueError(f"{sound.name} is silent: all samples are zero; replace it, or pass allow_silent=True.")
    return Waveform(sound.name, samples, rate)


def _from_array(sound: Sound) -> tuple[np.ndarray, int]:
    """Checks samples that are decoded already; returns them as `(N, 1)`."""
    if sound.data.ndim != 1 or not np.issubdtype(sound.data.dtype, np.floating):
        raise ValueError(
            f"{sound.name} holds samples of shape {sound.data.shape} and type {sound.data.dtype}; expected mono "
            "floats (N,) between -1 and 1."
        )
    return sound.data.astype(np.float32)[:, None], sound.rate


def _from_bytes(sound: Sound) -> tuple[np.ndarray, int]:
    """Decodes a file; returns `(N, channels)` and the rate."""
    with _opened(sound) as file:
        samples, promised, rate = file.read(dtype="float32", always_2d=True), file.frames, file.samplerate
    if len(samples) != promised:
        raise ValueError(f"{sound.name} is truncated: {len(samples)} of {promised} samples are there; replace it.")
    return samples, rate


@contextmanager
def _opened(sound: Sound) -> Iterator[soundfile.SoundFile]:
    """Opens the bytes of a file, once they are complete."""
    if not sound.data:
        raise ValueError(f"{sound.name} is empty (0 bytes); replace it, or take its row out.")
    _check_complete(sound)
    try:
        with soundfile.SoundFile(io.BytesIO(sound.data)) as file:
            yield file
    except soundfile.SoundFileError as error:
        raise ValueError(f"{sound.name} is not audio that libsndfile reads ({error}); replace it.") from error


def _check_complete(sound: Sound) -> None:
    """Raises where a wav's header promises more than the file holds, which libsndfile passes over."""
    for chunk, end in _riff_chunks(sound.data):
        if end > len(sound.data):
            raise ValueError(
                f"{sound.name} is truncated: its {chunk} chunk ends at byte {end}, the file at {len(sound.data)}; "
                "replace it."
            )


def _riff_chunks(data: bytes) -> Iterator[tuple[str, int]]:
    """Yields name and promised end, in bytes, of a wav's outer chunk and of each chunk up to its audio."""
    if data[:4] != b"RIFF" or data[8:RIFF_HEADER] != b"WAVE":
        return
    yield "RIFF", CHUNK_HEADER + int.from_bytes(data[4:8], "little")
    start, chunk = RIFF_HEADER, b""
    while chunk != b"data" and start + CHUNK_HEADER <= len(data):
        chunk, size = data[start : start + 4], int.from_bytes(data[start + 4 : start + CHUNK_HEADER], "little")
        yield chunk.decode("latin-1"), start + CHUNK_HEADER + size
        start += CHUNK_HEADER + size + size % 2


@dataclass(frozen=True)
class CorpusRate:
    """Sampling rate that all recordings of a corpus must have: that of its first one, which is named in errors."""

    name: str
    rate: int

    @classmethod
    def of(cls, first: Sound) -> "CorpusRate":
        """Reads the rate of a corpus's first recording from its header.

        Raises:
            ValueError: it is empty, truncated or not audio.
        """
        if first.rate is not None:
            return cls(first.name, first.rate)
        with _opened(first) as file:
            return cls(first.name, file.samplerate)

    def check(self, waveform: Waveform) -> None:
        """Checks that a recording has this rate.

        Raises:
            ValueError: it has another one; both recordings are named.
        """
        if waveform.rate != self.rate:
            raise ValueError(
                f"{waveform.name} has {waveform.rate} Hz, {self.name} {self.rate} Hz; expected one rate. Resample it, "
                "or pass mixed_rates=True to resample each from its own."
            )


def check_length(waveform: Waveform, length: int) -> None:
    """Checks that a recording gives exactly `length` samples at 32 kHz, so that clips join without drift.

    Raises:
        ValueError: it is shorter or longer.
    """
    if len(waveform.samples) * SAMPLING_RATE != length * waveform.rate:
        raise ValueError(
            f"{waveform.name} has {len(waveform.samples)} samples at {waveform.rate} Hz "
            f"({len(waveform.samples) / waveform.rate:g} s), expected {length / SAMPLING_RATE:g} s; replace it, or "
            "bring recordings of other lengths in with prepare_recordings."
        )


def resample_joined(waveforms: Iterable[Waveform]) -> np.ndarray:
    """Joins consecutive waveforms and resamples them together, so that no seam is left between them.

    Args:
        waveforms (`Iterable[Waveform]`): parts of one recording, in order; a change of rate leaves a seam.

    Returns:
        `np.ndarray`: float32 `(T,)` at 32 kHz; peaks may pass 1.0.
    """
    pieces = []
    for rate, parts in groupby(waveforms, key=lambda waveform: waveform.rate):
        samples = np.concatenate([part.samples for part in parts])
        same = rate == SAMPLING_RATE
        pieces.append(samples if same else soxr.resample(samples, rate, SAMPLING_RATE, quality=RESAMPLER_QUALITY))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def read_audio(
    source: str | Path | bytes,
    *,
    checks: AudioChecks = AudioChecks(),
    corpus_rate: CorpusRate | None = None,
    length: int | None = None,
) -> np.ndarray:
    """Reads one recording as a mono waveform at 32 kHz.

    Args:
        source (`str | Path | bytes`): path of an audio file, or its bytes.
        checks (`AudioChecks`, *optional*): what the recording may be.
        corpus_rate (`CorpusRate`, *optional*): rate that it must have, unless `checks.mixed_rates`.
        length (`int`, *optional*): samples at 32 kHz that it must give.

    Returns:
        `np.ndarray`: float32 `(T,)`, resampled by soxr HQ, as the authors' code does; peaks may pass 1.0.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, truncated, not audio, stereo, silent, of another rate or length, or holds NaN.
    """
    sound = Sound("the given bytes", source) if isinstance(source, bytes) else Sound.from_file(source)
    return resample_joined([decode_checked(sound, checks, corpus_rate=corpus_rate, length=length)])


def decode_checked(
    sound: Sound, checks: AudioChecks, *, corpus_rate: CorpusRate | None, length: int | None
) -> Waveform:
    """Decodes a recording and checks its rate and length too; see [`read_audio`]."""
    waveform = decode(sound, checks)
    if corpus_rate is not None and not checks.mixed_rates:
        corpus_rate.check(waveform)
    if length is not None:
        check_length(waveform, length)
    return waveform


__all__ = [
    "AudioChecks",
    "CorpusRate",
    "Sound",
    "Waveform",
    "decode",
    "decode_checked",
    "read_audio",
    "resample_joined",
]
