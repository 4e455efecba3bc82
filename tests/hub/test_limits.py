"""What the request handler refuses, and how it says so; and that it stays small and alive meanwhile."""

import tracemalloc

import numpy as np
import pytest
from serving_parts import RATE, malformed, noise

from hf_ascdistill.hub.handler import BadRequest, EndpointHandler, Limits, Parameters, TooLarge
from hf_ascdistill.hub.serve import parse_json

SECOND = {"raw": [0.1] * RATE, "sampling_rate": RATE}


def limited(handler: EndpointHandler, **limits) -> EndpointHandler:
    """The same model behind other limits."""
    other = object.__new__(EndpointHandler)
    other.model, other.extractor, other.limits = handler.model, handler.extractor, Limits(**limits)
    return other


@pytest.mark.parametrize("request_", list(malformed.malformed_requests(60, seed=0)), ids=lambda request: request.kind)
def test_malformed_requests_are_refused_in_words(handler, request_):
    with pytest.raises(BadRequest, match="; expected ") as caught:
        handler(parse_json(request_.body) if "json" in request_.content_type else {"inputs": request_.body})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("file_format,subtype", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")])
def test_damaged_files_are_refused_or_answered(handler, file_format, subtype):
    whole = malformed.audio_file(noise(0.5, rate=8_000), 8_000, file_format=file_format, subtype=subtype)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        body = bytearray(whole)
        for place in generator.integers(0, min(len(body), 200), 8):
            body[place] = generator.integers(256)
        try:
            assert len(handler({"inputs": body})) == 10
        except BadRequest:
            refused += 1
    assert refused


@pytest.mark.parametrize(
    "subtype",
    [("WAV", "GSM610"), ("WAV", "IMA_ADPCM"), ("WAV", "G721_32")],
    ids=lambda kind: kind[1],
)
def test_rare_codings_are_refused(handler, subtype):
    body = malformed.audio_file(noise(1.0, rate=8_000), 8_000, file_format=subtype[0], subtype=subtype[1])
    with pytest.raises(BadRequest, match=f"the coding of inputs is '{subtype[1]}'; expected one of PCM_16"):
        handler({"inputs": body})


@pytest.mark.parametrize(
    "limits,inputs,message",
    [
        ({"max_bytes": 64_000}, malformed.audio_file(noise(1.0)), "the size is 64044; expected at most 64000 bytes"),
        ({"max_bytes": 900}, ["A" * 600, "A" * 604], "the size is 903; expected at most 900 bytes"),
        ({"max_seconds": 0.9}, SECOND, r"the length of inputs, in seconds, is 1\.0; expected at most 0\.9"),
        ({"max_seconds": 1.9}, [SECOND, SECOND], r"the total length is 2\.0; expected at most 1\.9 s"),
        ({"max_windowed_seconds": 1.9}, SECOND, r"the length of all windows is 2\.0; expected at most 1\.9 s"),
    ],
    ids=["bytes", "bytes of base64 together", "seconds", "seconds together", "windows"],
)
def test_what_is_too_large_says_so(handler, limits, inputs, message):
    with pytest.raises(TooLarge, match=message):
        limited(handler, **limits)({"inputs": inputs})


@pytest.mark.parametrize(
    "limits,inputs,message",
    [
        (
            {"max_channels": 1},
            malformed.audio_file(noise(1.0, channels=2)),
            "channels of inputs is 2; expected 1 to 1",
        ),
        ({"max_sampling_rate": 16_000}, SECOND, "rate of inputs is 32000; expected 8000 to 16000 Hz"),
        ({"max_recordings": 1}, [SECOND, SECOND], "the number of inputs is 2; expected 1 to 1"),
        ({}, {"raw": np.zeros(RATE, np.int16), "sampling_rate": RATE}, r"inputs\.raw is 'int16 \(32000,\)'; expected"),
        ({}, {"raw": np.zeros((RATE, 2)), "sampling_rate": RATE}, "channels of inputs is 32000; expected 1 to 6"),
        ({}, {"raw": [0.1, "loud"] * RATE, "sampling_rate": RATE}, "inputs.raw is of type list; expected an array"),
        ({}, "clip.wav", "inputs is text, but no base64"),
        ({}, [SECOND, b"hello, world"], r"the beginning of inputs\[1\] is b'hello, w'; expected an audio file"),
    ],
    ids=["channels", "rate", "recordings", "integers", "channels last", "a text", "a path", "the second of a batch"],
)
def test_what_is_not_taken_says_so(handler, limits, inputs, message):
    with pytest.raises(BadRequest, match=message):
        limited(handler, **limits)({"inputs": inputs})


@pytest.mark.parametrize("data", [None, [], "inputs", {}, {"inputs": SECOND, "input": 1}, {"parameters": {}}])
def test_a_request_is_an_object_with_inputs(handler, data):
    with pytest.raises(BadRequest, match="the request"):
        handler(data)


@pytest.mark.parametrize("value", [True, "1", None, [], float("nan"), float("inf"), 0.4, 10.1, -1, 10**400])
def test_a_window_is_seconds_within_range(value):
    with pytest.raises(BadRequest, match=r"window is .*; expected seconds, 0\.5 to 10"):
        Parameters(window=value)


def test_null_parameters_are_defaults():
    assert Parameters.parse({"top_k": None, "window": None}) == Parameters.parse(None) == Parameters()


@pytest.mark.parametrize(
    "raw", [["a" * 10_000, *[""] * 2_000], [["a" * 10_000, *[0] * 2_000]], [[["a" * 10_000, *[0] * 2_000]]]]
)
def test_texts_among_samples_take_no_memory(handler, raw):
    tracemalloc.start()
    with pytest.raises(BadRequest, match="inputs.raw is of type list; expected an array"):
        handler({"inputs": {"raw": raw, "sampling_rate": RATE}})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20  # an array of texts has 80 MB


def test_windows_are_copied_batch_by_batch(handler):
    waveform = noise(60.0)
    tracemalloc.start()
    limited(handler, max_windowed_seconds=10_000)._classify(waveform, Parameters(hop=0.01))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 2**20  # all windows together have 755 MB


def test_a_header_is_believed_before_anything_of_its_size_is_made(handler):
    flac = bytearray(malformed.audio_file(noise(0.2), file_format="FLAC"))
    flac[21] |= 0x0F
    flac[22:26] = b"\xff\xff\xff\xff"  # 2^36 - 1 samples
    tracemalloc.start()
    with pytest.raises(TooLarge, match="the length of inputs"):
        handler({"inputs": bytes(flac)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_long_file_is_decoded_in_blocks(handler):
    rate, seconds, channels = 96_000, 30, 6
    body = malformed.audio_file(np.zeros((rate * seconds, channels), np.float32), rate, file_format="FLAC")
    handler({"inputs": malformed.audio_file(noise(0.5))})  # imports and buffers
    tracemalloc.start()
    handler({"inputs": body})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    mono = rate * seconds * 4
    assert peak < 4 * mono < channels * mono  # the channels are never there all at once
