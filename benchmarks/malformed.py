"""Makes up requests that no server can answer, one kind after the other, from a seed."""

import base64
import io
import json
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import soundfile

FRAMES_PER_BLOCK = 65_536
Generator = np.random.Generator
MAGIC = (b"RIFF\x24\x00\x00\x00WAVEfmt ", b"fLaC", b"OggS", b"FORM", b"ID3", b"\xff\xfb\x90\x00", b"RF64")
TEXTS = ("<!doctype html><html>", "scene,score\npark,0.9\n", "data:audio/wav;base64,", "#!/bin/sh\n", "Привет, мир. ")


class Malformed(NamedTuple):
    """One request: what is wrong with it, its body, and its content type."""

    kind: str
    body: bytes
    content_type: str = "application/octet-stream"


def audio_file(samples: np.ndarray, rate: int = 32_000, *, file_format: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """Returns samples (T,) or (T, channels) as the bytes of an audio file."""
    buffer, channels = io.BytesIO(), 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(buffer, "w", rate, channels, format=file_format, subtype=subtype) as file:
        for first in range(0, len(samples), FRAMES_PER_BLOCK):  # libsndfile crashes where a long vorbis comes at once
            file.write(samples[first : first + FRAMES_PER_BLOCK])
    return buffer.getvalue()


def noise(generator: Generator, count: int, channels: int = 1) -> np.ndarray:
    """Returns noise (count, channels), float32, well below full scale."""
    return (0.1 * generator.standard_normal((count, channels))).astype(np.float32)


def _empty(_: Generator) -> bytes:
    return b""


def _random(generator: Generator) -> bytes:
    return bytes(generator.integers(0, 255, generator.integers(1, 5_000), dtype=np.uint8))  # 255 never: no mp3


def _random_after_magic(generator: Generator) -> bytes:
    return MAGIC[generator.integers(len(MAGIC))] + _random(generator)


def _truncated(generator: Generator) -> bytes:
    file_format = ("WAV", "AIFF", "FLAC")[generator.integers(3)]
    whole = audio_file(noise(generator, 32_000), file_format=file_format)
    return whole[: generator.integers(1, len(whole) - 100)]


def _huge_header(generator: Generator) -> bytes:
    """A small wav whose header promises much: bytes, channels or Hz."""
    whole = bytearray(audio_file(noise(generator, 32_000)))
    place, form, value = [(40, "<I", 0xFFFFFFFF), (40, "<I", 0x7FFFFFF0), (22, "<H", 0xFFFF), (24, "<I", 0x7FFFFFFF)][
        generator.integers(4)
    ]
    struct.pack_into(form, whole, place, value)
    return bytes(whole)


def _huge_flac(generator: Generator) -> bytes:
    """A small flac whose header promises 2^36 - 1 samples."""
    whole = bytearray(audio_file(noise(generator, 32_000), file_format="FLAC"))
    whole[21] |= 0x0F  # 36 bits: the lower half of this byte, and the four that follow
    whole[22:26] = b"\xff\xff\xff\xff"
    return bytes(whole)


def _not_finite(generator: Generator) -> bytes:
    samples = noise(generator, 32_000)
    samples[generator.integers(len(samples))] = (np.nan, np.inf, -np.inf)[generator.integers(3)]
    return audio_file(samples, subtype="FLOAT")


def _integers_as_floats(generator: Generator) -> bytes:
    return audio_file(noise(generator, 32_000) * 32_768, subtype="FLOAT")


def _ten_minutes(generator: Generator) -> bytes:
    file_format, subtype = (("WAV", "PCM_U8"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"))[generator.integers(3)]
    return audio_file(np.zeros(600 * 8_000, np.float32), 8_000, file_format=file_format, subtype=subtype)


def _eight_channels(generator: Generator) -> bytes:
    return audio_file(noise(generator, 96_000, 8), 96_000)


def _too_short(generator: Generator) -> bytes:
    return audio_file(noise(generator, generator.integers(0, 1_000)))


def _odd_rate(generator: Generator) -> bytes:
    return audio_file(noise(generator, 32_000), int(generator.choice([1, 100, 4_000, 500_000])))


def _text(generator: Generator) -> bytes:
    return (TEXTS[generator.integers(len(TEXTS))] * generator.integers(1, 200)).encode()


def _utf16(generator: Generator) -> bytes:
    return _text(generator).decode().encode("utf-16")  # begins as an mp3 frame does


def _too_large(_: Generator) -> bytes:
    return audio_file(np.zeros(17 * 2**20, np.float32), 192_000)


FILES: tuple[Callable[[Generator], bytes], ...] = (
    _empty,
    _random,
    _random_after_magic,
    _truncated,
    _huge_header,
    _huge_flac,
    _not_finite,
    _integers_as_floats,
    _ten_minutes,
    _eight_channels,
    _too_short,
    _odd_rate,
    _text,
    _utf16,
)


def _file_in_json(generator: Generator) -> bytes:
    """One of the files above, as base64."""
    body = FILES[generator.integers(len(FILES))](generator)
    return json.dumps({"inputs": base64.b64encode(body).decode()}).encode()


def _deep(generator: Generator) -> bytes:
    depth = int(generator.choice([100, 900, 10_000, 200_000]))
    opening, closing = ((b"[", b"]"), (b'{"inputs":', b"}"))[generator.integers(2)]
    return b'{"inputs": {"raw": ' + opening * depth + b"1" + closing * depth + b', "sampling_rate": 32000}}'


def _broken_json(generator: Generator) -> bytes:
    whole = json.dumps({"inputs": base64.b64encode(_random(generator)).decode()}).encode()
    return (whole[: generator.integers(0, len(whole) - 1)], b"\xff" + whole, whole + b"}", b"null", b"[]", b"7")[
        generator.integers(6)
    ]


def _wrong_inputs(generator: Generator) -> bytes:
    second = [0.1] * 32_000
    wrong = [
        None,
        7,
        True,
        [],
        [1, 2, 3],
        [[0.1]],
        [None] * 100,
        "no base64!",
        {"raw": second},
        {"raw": second, "sampling_rate": "32000"},
        {"raw": second, "sampling_rate": 32_000, "path": "clip.wav"},
        {"raw": ["a"] * 5_000, "sampling_rate": 32_000},
        {"raw": [second, second[1:]], "sampling_rate": 32_000},
        {"raw": [[second]], "sampling_rate": 32_000},
        {"raw": [second] * 9, "sampling_rate": 32_000},
        {"raw": [10**300] * 5_000, "sampling_rate": 32_000},
        {"raw": [1e300] * 5_000, "sampling_rate": 32_000},
        {"raw": [12_000] * 5_000, "sampling_rate": 32_000},
        {"raw": {"0": 0.1}, "sampling_rate": 32_000},
        {"raw": [{}] * 300, "sampling_rate": 32_000},
    ]
    return json.dumps({"inputs": wrong[generator.integers(len(wrong))]}).encode()


def _wrong_parameters(generator: Generator) -> bytes:
    clip = base64.b64encode(audio_file(noise(generator, 32_000))).decode()
    wrong = [
        {"topk": 1},
        {"top_k": 0},
        {"top_k": "three"},
        {"top_k": 1.5},
        {"window": 0},
        {"window": 1e9},
        {"window": "1"},
        {"window": [1]},
        {"hop": 0},
        {"hop": -1},
        {"hop": 2},
        {"per_window": "yes"},
        {"function_to_apply": "relu"},
        {"function_to_apply": ["softmax"]},
        [1],
        "top_k=1",
    ]
    return json.dumps({"inputs": clip, "parameters": wrong[generator.integers(len(wrong))]}).encode()


def _not_json_numbers(generator: Generator) -> bytes:
    number = ("NaN", "Infinity", "-Infinity", "9" * 5_000)[generator.integers(4)]
    return f'{{"inputs": {{"raw": [{number}, 0.1], "sampling_rate": 32000}}}}'.encode()


OBJECTS: tuple[Callable[[Generator], bytes], ...] = (
    _file_in_json,
    _deep,
    _broken_json,
    _wrong_inputs,
    _wrong_parameters,
    _not_json_numbers,
)


def malformed_requests(count: int, seed: int = 0, *, with_large: bool = False) -> Iterator[Malformed]:
    """Yields requests, each kind as often as the others.

    Args:
        count (`int`): requests.
        seed (`int`, *optional*, defaults to 0): of what is drawn.
        with_large (`bool`, *optional*, defaults to `False`): one kind more: bodies above 32 MiB.
    """
    generator = np.random.default_rng(seed)
    files = (*FILES, _too_large) if with_large else FILES
    kinds = [
        *((make, "application/octet-stream") for make in files),
        *((make, "application/json") for make in OBJECTS),
    ]
    for index in range(count):
        make, content_type = kinds[index % len(kinds)]
        yield Malformed(make.__name__.lstrip("_").replace("_", " "), make(generator), content_type)


__all__ = ["Malformed", "audio_file", "malformed_requests", "noise"]
