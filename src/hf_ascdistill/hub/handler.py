"""Answers requests: audio in any usual form goes in, scenes with scores come out; works alone in a model repository.

Inference Endpoints run this file from the root of a repository. It needs numpy, torch and transformers; soundfile for
audio files; and soxr for audio of another rate than the model's, unless its scores may move a little.
"""

import base64
import importlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
from transformers.utils import logging

logger = logging.get_logger(__name__)

# How files of these formats begin (an mp3 frame with 11 ones): parsers of rarer ones never see a stranger's bytes.
FORMATS = "wav, flac, ogg, mp3 or aiff"
MAGIC, MP3_SYNC = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"FORM", b"ID3"), 0xFFE0
SUBTYPES = ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "PCM_U8", "PCM_S8", "ULAW", "ALAW")
SUBTYPES += ("VORBIS", "OPUS", "MPEG_LAYER_III")
MAX_CHUNKS, FRAMES_PER_BLOCK = 1_000, 65_536  # of a wav, in front of its audio, that are looked at; decoded at a time

# Of 200 real clips of TAU22, CP-Mobile (128K) names 173 rightly as a whole, 159 cut to 0.5 s, 90 cut to 0.35 s; of the
# latter, 132 when they are mirrored to 0.5 s, and 26 when they are padded with zeros to 1 s.
SHORTEST_WINDOW, LONGEST_WINDOW = 0.5, 10.0  # seconds; PaSST has no positions for more
SHORTEST_HOP, SHORTEST_RECORDING = 0.01, 0.1  # seconds
LOWEST_RATE = 8_000  # Hz
PEAK = 16.0  # 24 dB above full scale; integers that were cast to floats are far above
SECONDS_PER_BATCH = 32  # of audio that the network sees at once
SPREAD = {"softmax": lambda logits: logits.softmax(-1), "sigmoid": torch.sigmoid, "none": lambda logits: logits}

RESAMPLER_QUALITY = "HQ"  # of soxr, as for the training data
# Where the pass band of soxr HQ falls like a Gaussian's integral, as shares of the lower Nyquist frequency.
BAND_EDGE, BAND_WIDTH = 0.9567, 0.0163
RESAMPLED_SECONDS = 10  # resampled at a time where soxr is not installed


class BadRequest(ValueError):
    """A request that cannot be answered; the message says what was given, what is expected and how to mend it."""


class TooLarge(BadRequest):
    """A request above one of the [`Limits`]."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Args:
        max_bytes (`int`, *optional*, defaults to 32 MiB): size of its audio files together.
        max_seconds (`float`, *optional*, defaults to 300.0): length of its recordings together.
        max_windowed_seconds (`float`, *optional*, defaults to 3000.0): length of their windows together.
        max_recordings (`int`, *optional*, defaults to 32): recordings of a batch.
        max_channels (`int`, *optional*, defaults to 6): channels of a recording.
        max_sampling_rate (`int`, *optional*, defaults to 192000): Hz.
    """

    max_bytes: int = 32 * 2**20
    max_seconds: float = 300.0
    max_windowed_seconds: float = 3000.0
    max_recordings: int = 32
    max_channels: int = 6
    max_sampling_rate: int = 192_000


@dataclass(frozen=True)
class Parameters:
    """How a request wants its answer.

    Args:
        top_k (`int`, *optional*): labels to return; unset: all.
        window (`float`, *optional*, defaults to 1.0): seconds scored at once, 0.5 to 10; the models learn from 1 s.
        hop (`float`, *optional*): seconds between windows; unset: half a window.
        per_window (`bool`, *optional*, defaults to `False`): add the score of each window to each label.
        function_to_apply (`str`, *optional*, defaults to `"softmax"`): from logits to scores, before their mean over
            windows: `"softmax"`, `"sigmoid"` or `"none"`.

    Raises:
        BadRequest: a value is of the wrong type or out of range.
    """

    top_k: int | None = None
    window: float = 1.0
    hop: float | None = None
    per_window: bool = False
    function_to_apply: str = "softmax"

    def __post_init__(self) -> None:
        is_count = _is_number(self.top_k) and isinstance(self.top_k, int) and self.top_k > 0
        _expect(self.top_k is None or is_count, "top_k", self.top_k, "a whole number above 0")
        is_met = _is_number(self.window) and SHORTEST_WINDOW <= self.window <= LONGEST_WINDOW
        _expect(is_met, "window", self.window, f"seconds, {SHORTEST_WINDOW:g} to {LONGEST_WINDOW:g}")
        hop = self.window / 2 if self.hop is None else self.hop
        is_met = _is_number(hop) and SHORTEST_HOP <= hop <= self.window
        _expect(is_met, "hop", hop, f"seconds, {SHORTEST_HOP:g} to one window ({self.window:g})")
        object.__setattr__(self, "hop", hop)
        _expect(isinstance(self.per_window, bool), "per_window", self.per_window, "true or false")
        is_met = isinstance(self.function_to_apply, str) and self.function_to_apply in SPREAD
        _expect(is_met, "function_to_apply", self.function_to_apply, f"one of {', '.join(SPREAD)}")

    @classmethod
    def parse(cls, given: Any) -> "Parameters":
        """Reads the parameters of a request; null is a default.

        Raises:
            BadRequest: they are no object, a name is unknown, or a value is wrong.
        """
        given = {} if given is None else given
        _expect(isinstance(given, dict), "parameters", given, "an object")
        known = [field.name for field in fields(cls)]
        _expect(set(given) <= set(known), "parameters", list(given), f"only {', '.join(known)}")
        return cls(**{name: value for name, value in given.items() if value is not None})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _expect(is_met: bool, name: str, given: Any, expected: str, *, error: type[BadRequest] = BadRequest) -> None:
    if not is_met:
        words = given if isinstance(given, list | tuple) else [given]
        is_plain = all(isinstance(word, str | bytes | int | float | None) for word in words[:9])
        text = repr(given)[:120] if is_plain and len(words) < 9 else f"of type {type(given).__name__}"
        raise error(f"{name} is {text}; expected {expected}.")


def _decode_base64(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        expected = "an audio file's bytes in base64, without line breaks"
        raise BadRequest(f"{name} is text, but no base64 ({error}); expected {expected}.") from error


def _check_shape(frames: int, channels: int, rate: int, *, name: str, limits: Limits) -> None:
    """Checks what a recording promises to be, before anything of that size is made."""
    is_met = LOWEST_RATE <= rate <= limits.max_sampling_rate
    _expect(is_met, f"the sampling rate of {name}", rate, f"{LOWEST_RATE} to {limits.max_sampling_rate} Hz")
    is_met = 1 <= channels <= limits.max_channels
    _expect(is_met, f"the number of channels of {name}", channels, f"1 to {limits.max_channels}; they are averaged")
    length, seconds = f"the length of {name}, in seconds,", round(frames / rate, 3)
    _expect(seconds >= SHORTEST_RECORDING, length, seconds, f"at least {SHORTEST_RECORDING}")
    _expect(seconds <= limits.max_seconds, length, seconds, f"at most {limits.max_seconds:g}", error=TooLarge)


def read_audio(data: bytes, *, name: str, limits: Limits) -> tuple[np.ndarray, int]:
    """Decodes an audio file block by block: the mean of its channels, float32 (T,), and its sampling rate. A
    [`BadRequest`] about `name` says what is wrong with a file that is damaged, of an unknown kind or too long."""
    _expect(len(data) > 0, f"the size of {name}", 0, f"the bytes of an audio file ({FORMATS})")
    is_known = data.startswith(MAGIC) or int.from_bytes(data[:2], "big") & MP3_SYNC == MP3_SYNC
    _expect(is_known, f"the beginning of {name}", bytes(data[:8]), f"an audio file: {FORMATS}")
    promised = max(islice(_promised_ends(data), MAX_CHUNKS), default=0)
    mend = "(a wav that was piped has no size in its header: write it to a file)"
    _expect(promised <= len(data), f"the size of {name}", len(data), f"the {promised} bytes of its header {mend}")
    try:
        soundfile = importlib.import_module("soundfile")
    except ImportError as error:
        raise ImportError("reading audio files needs the package soundfile: `pip install soundfile`.") from error
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            frames, rate = file.frames, file.samplerate
            _check_shape(frames, file.channels, rate, name=name, limits=limits)
            _expect(file.subtype in SUBTYPES, f"the coding of {name}", file.subtype, f"one of {', '.join(SUBTYPES)}")
            reads = {"frames": FRAMES_PER_BLOCK, "dtype": "float32", "always_2d": True}
            blocks = [file.read(**reads).mean(1) for _ in range(0, frames, FRAMES_PER_BLOCK)]
    except soundfile.SoundFileError as error:
        raise BadRequest(f"{name} is damaged or of an unknown kind ({error}); expected {FORMATS}.") from error
    samples = np.concatenate([np.zeros(0, np.float32), *blocks])
    _expect(len(samples) == frames, f"the number of samples of {name}", len(samples), f"the {frames} of its header")
    return samples, rate


def _promised_ends(data: bytes) -> Iterator[int]:
    """Yields the sizes that an aiff's or a wav's chunks promise; libsndfile passes over missing bytes."""
    if data[:4] == b"FORM":
        yield 8 + int.from_bytes(data[4:8], "big")
    start, chunk = 12, b""
    while data[:4] == b"RIFF" and chunk != b"data" and start + 8 <= len(data):
        chunk, size = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        yield start + 8 + size
        start += 8 + size + size % 2


def _read_samples(item: dict, *, name: str, limits: Limits) -> tuple[np.ndarray, int]:
    """Reads `{"raw": (T,) or (channels, T), "sampling_rate": Hz}`: the channels' mean, float32 (T,), and the rate."""
    _expect(set(item) == {"raw", "sampling_rate"}, f"{name} with the keys", list(item), '"raw" and "sampling_rate"')
    raw, rate = item["raw"], item["sampling_rate"]
    _expect(_is_number(rate) and isinstance(rate, int), f"{name}.sampling_rate", rate, "a whole number of Hz")
    expected = "an array of numbers between -1 and 1, (samples) or (channels, samples)"
    rows = raw if isinstance(raw, list) and raw and all(isinstance(row, list) for row in raw) else [raw]
    kinds = set().union(*(map(type, row) for row in rows if isinstance(row, list))) - {tuple, np.ndarray, torch.Tensor}
    _expect(all(issubclass(kind, int | float | np.number) for kind in kinds), f"{name}.raw", raw, expected)
    try:
        raw = np.asarray(raw)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadRequest(f"{name}.raw is no array ({str(error)[:120]}); expected {expected}.") from error
    is_met = raw.dtype.kind in ("fi" if isinstance(item["raw"], list) else "f") and raw.ndim in (1, 2)
    _expect(is_met, f"{name}.raw", f"{raw.dtype} {raw.shape}", expected)
    raw = np.atleast_2d(raw)
    _check_shape(raw.shape[1], raw.shape[0], rate, name=name, limits=limits)
    with np.errstate(over="ignore"):  # infinite samples are refused with the other ones
        return raw.astype(np.float32).mean(0), rate


def _decode(item: Any, *, name: str, limits: Limits) -> tuple[np.ndarray, int]:
    """Reads one recording in any of its forms: float32 (T,), and its sampling rate."""
    item = _decode_base64(item, name) if isinstance(item, str) else item
    if isinstance(item, bytes | bytearray):
        return read_audio(item, name=name, limits=limits)
    expected = 'an audio file\'s bytes, their base64 text, or an object with "raw" and "sampling_rate"'
    _expect(isinstance(item, dict), name, item, expected)
    return _read_samples(item, name=name, limits=limits)


def check_samples(samples: np.ndarray, *, name: str) -> None:
    """Checks that samples (T,) are finite and of about full scale 1, so that no energy overflows.

    Raises:
        BadRequest: they are not.
    """
    peak = float(np.abs(samples).max(initial=0.0))
    _expect(math.isfinite(peak), f"the peak of {name}", peak, "numbers only, no NaN and nothing infinite")
    _expect(peak <= PEAK, f"the peak of {name}", peak, "full scale 1: divide integers by theirs, int16 by 32768")


def resample(samples: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """Resamples a recording as the training data were, by soxr HQ.

    Where soxr is not installed, a Fourier transform with the same pass band does it, and a warning is logged: logits
    of 1-s clips of 44.1 kHz then differ by 0.004 on average, 0.1 at most, and 173 of 200 real clips stay right.

    Args:
        samples (`np.ndarray`): float32 (T,).
        rate (`int`): of `samples`, Hz.
        target_rate (`int`): Hz.

    Returns:
        `np.ndarray`: float32 (T * target_rate / rate,), rounded; peaks may pass 1.
    """
    if rate == target_rate:
        return samples
    try:
        return importlib.import_module("soxr").resample(samples, rate, target_rate, quality=RESAMPLER_QUALITY)
    except ImportError:
        logger.warning_once(
            "soxr is not installed: audio is resampled by FFT, scores move a little; `pip install soxr`."
        )
    pieces = []
    for start in range(0, len(samples), RESAMPLED_SECONDS * rate):
        before = rate if start else 0  # a second of context on both sides; whole seconds keep the rates in step
        piece = _resample_by_fft(samples[start - before : start + (RESAMPLED_SECONDS + 1) * rate], rate, target_rate)
        pieces.append(piece[target_rate if start else 0 :][: RESAMPLED_SECONDS * target_rate])
    return np.concatenate(pieces)[: round(len(samples) * target_rate / rate)]


def _resample_by_fft(samples: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """Resamples (T,) with silence around it; what is returned ends in a second of silence or more."""
    seconds = -(-len(samples) // rate) + 1
    spectrum = torch.fft.rfft(torch.from_numpy(samples), seconds * rate)
    share = torch.arange(len(spectrum), dtype=torch.float64) / (seconds * min(rate, target_rate) / 2)
    spectrum *= 0.5 * torch.special.erfc((share - BAND_EDGE) / BAND_WIDTH).float()
    spectrum = spectrum[: seconds * target_rate // 2 + 1]
    return torch.fft.irfft(spectrum, seconds * target_rate).mul_(target_rate / rate).numpy()


def cut_windows(waveform: np.ndarray, *, window: int, hop: int, shortest: int) -> tuple[list[int], list[np.ndarray]]:
    """Cuts a waveform into windows: each holds only what was recorded, and together they hold all of it.

    Where the hops end before the waveform, one more window ends with it. A waveform shorter than a window is its only
    window, as it is; one below `shortest` is mirrored at its end up to that length.

    Args:
        waveform (`np.ndarray`): (T,).
        window, hop, shortest (`int`): samples.

    Returns:
        `tuple[list[int], list[np.ndarray]]`: first sample of each window, and the windows, of one length.
    """
    if len(waveform) < shortest:
        waveform = np.pad(waveform, (0, shortest - len(waveform)), mode="reflect")
    starts = list(range(0, max(len(waveform) - window, 0) + 1, hop))
    if starts[-1] + window < len(waveform):
        starts.append(len(waveform) - window)
    return starts, [waveform[start : start + window] for start in starts]


@torch.inference_mode()
def window_logits(
    model: torch.nn.Module, extractor: Any, windows: Sequence[np.ndarray], *, batch_size: int
) -> torch.Tensor:
    """Returns the logits, float32 (N, C) on the CPU, of windows (T,) of one length at the extractor's rate.

    Args:
        model (`torch.nn.Module`): an audio classifier in evaluation mode.
        extractor: its feature extractor.
        windows (`Sequence[np.ndarray]`): N windows.
        batch_size (`int`): windows at a time.
    """
    device = next(model.parameters()).device
    settings = {"sampling_rate": extractor.sampling_rate, "return_tensors": "pt", "device": device}
    batches = (np.stack(windows[first : first + batch_size]) for first in range(0, len(windows), batch_size))
    return torch.cat([model(extractor(batch, **settings)["input_values"]).logits.float().cpu() for batch in batches])


class EndpointHandler:
    """Classifies the recordings of a request; the entry point of Inference Endpoints.

    A recording is the bytes of an audio file, their base64 text, or `{"raw": samples, "sampling_rate": Hz}`; a list of
    recordings is a batch. Channels are averaged, other rates resampled, long recordings scored in windows, see
    `cut_windows`. Their scores are the mean of the windows' probabilities: each second counts alike, and two scenes
    show as a mixture, where a mean of logits would let one over-sure window outvote the others.

    Args:
        path (`str`): folder or Hub name of the model.
        limits (`Limits`, *optional*): what one request may ask for.
        trust_remote_code (`bool`, *optional*, defaults to `True`): run the repository's own code.

    Example: `EndpointHandler("models/cpm-student")({"inputs": Path("clip.wav").read_bytes()})` returns
    `[{"label": "park", "score": 0.98}, ...]`.
    """

    def __init__(self, path: str = "", limits: Limits = Limits(), *, trust_remote_code: bool = True) -> None:
        model = AutoModelForAudioClassification.from_pretrained(path, trust_remote_code=trust_remote_code)
        self.model = model.float().eval().to("cuda" if torch.cuda.is_available() else "cpu")  # log-mels are float32
        self.extractor = AutoFeatureExtractor.from_pretrained(path, trust_remote_code=trust_remote_code)
        self.limits = limits

    def __call__(self, data: dict[str, Any]) -> list:
        """Answers one request; several threads may call it.

        Args:
            data (`dict[str, Any]`): `inputs`, a recording or a list of them, and `parameters`, see [`Parameters`].

        Returns:
            `list[dict]`: `label` and `score`, best first; with `per_window` also `windows`, a list of `start`, `end`
            (seconds) and `score`. For a list of recordings, a list of such lists.

        Raises:
            BadRequest: something about the request is wrong.
        """
        _expect(isinstance(data, dict) and "inputs" in data, "the request", data, 'an object with "inputs"')
        known = {"inputs", "parameters"}
        _expect(data.keys() <= known, "the request with the keys", list(data), '"inputs" and "parameters" only')
        inputs, parameters = data["inputs"], Parameters.parse(data.get("parameters"))
        if not isinstance(inputs, list):
            return self._classify(*self._read({"inputs": inputs}, parameters), parameters)
        is_met, most = 0 < len(inputs) <= self.limits.max_recordings, self.limits.max_recordings
        _expect(is_met, "the number of inputs", len(inputs), f'1 to {most} (samples: "raw" and "sampling_rate")')
        waveforms = self._read({f"inputs[{index}]": item for index, item in enumerate(inputs)}, parameters)
        return [self._classify(waveform, parameters) for waveform in waveforms]

    def _read(self, items: dict[str, Any], parameters: Parameters) -> list[np.ndarray]:
        """Decodes recordings (by their names in errors) to waveforms at the model's rate, within the limits."""
        limits, rate, waveforms = self.limits, self.extractor.sampling_rate, []
        texts = sum(len(item) for item in items.values() if isinstance(item, str))
        size = sum(len(item) for item in items.values() if isinstance(item, bytes | bytearray)) + texts * 3 // 4
        most = f"at most {limits.max_bytes} bytes of audio in a request"
        _expect(size <= limits.max_bytes, "the size", size, most, error=TooLarge)
        for name, item in items.items():
            samples, own_rate = _decode(item, name=name, limits=limits)
            check_samples(samples, name=name)
            waveforms.append(resample(samples, own_rate, rate))
            seconds = sum(map(len, waveforms)) / rate
            most = f"at most {limits.max_seconds:g} s of audio in a request"
            _expect(seconds <= limits.max_seconds, "the total length", seconds, most, error=TooLarge)
        windowed = seconds * parameters.window / parameters.hop
        most = f"at most {limits.max_windowed_seconds:g} s of overlapping windows: a longer hop, or shorter audio"
        _expect(windowed <= limits.max_windowed_seconds, "the length of all windows", windowed, most, error=TooLarge)
        return waveforms

    def _classify(self, waveform: np.ndarray, parameters: Parameters) -> list[dict]:
        """Returns the labels of one waveform at the model's rate, best first."""
        rate = self.extractor.sampling_rate
        window, hop, shortest = (round(x * rate) for x in (parameters.window, parameters.hop, SHORTEST_WINDOW))
        starts, windows = cut_windows(waveform, window=window, hop=hop, shortest=shortest)
        batch_size = max(1, int(SECONDS_PER_BATCH / parameters.window))
        logits = window_logits(self.model, self.extractor, windows, batch_size=batch_size)
        scores = SPREAD[parameters.function_to_apply](logits.double()).numpy()
        times = [(start / rate, min(start + window, len(waveform)) / rate) for start in starts]
        answer = []
        for index in (-scores.mean(0)).argsort(kind="stable")[: parameters.top_k].tolist():
            column = scores[:, index]
            entry = {"label": self.model.config.id2label[index], "score": float(column.mean())}
            if parameters.per_window:
                rows = zip(times, column.tolist(), strict=True)
                entry["windows"] = [{"start": start, "end": end, "score": score} for (start, end), score in rows]
            answer.append(entry)
        return answer


__all__ = ["BadRequest", "EndpointHandler", "Limits", "Parameters", "TooLarge"]
__all__ += ["check_samples", "cut_windows", "read_audio", "resample", "window_logits"]
