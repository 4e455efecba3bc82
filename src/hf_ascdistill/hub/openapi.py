"""What requests and answers of the local server look like, in the words of OpenAPI."""

from typing import Any

from .handler import FORMATS

VERSION = "1"  # of the interface
JSON_FORM = '{"inputs": "<base64 of an audio file>", "parameters": {...}}'
_AUDIO = {"type": "string", "format": "binary", "description": f"an audio file: {FORMATS}"}
_SAMPLES = {
    "type": "object",
    "required": ["raw", "sampling_rate"],
    "properties": {
        "raw": {"type": "array", "items": {"type": "number"}, "description": "samples between -1 and 1, or channels"},
        "sampling_rate": {"type": "integer", "description": "Hz"},
    },
}
_RECORDING = {"anyOf": [{"type": "string", "format": "byte", "description": "base64 of an audio file"}, _SAMPLES]}
_BATCH = {"type": "array", "items": _RECORDING}
_QUESTION = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {"anyOf": [_RECORDING, _BATCH]},
        "parameters": {"type": "object", "description": "those of the query; these here win"},
    },
}
_WINDOW = {"type": "object", "properties": {name: {"type": "number"} for name in ("start", "end", "score")}}
_SCORE = {
    "type": "object",
    "required": ["label", "score"],
    "properties": {
        "label": {"type": "string"},
        "score": {"type": "number"},
        "windows": {"type": "array", "items": _WINDOW, "description": "with per_window; times in seconds"},
    },
}
_SCORES = {"type": "array", "items": _SCORE, "description": "best first; for a batch, a list of such lists"}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_ERRORS = {
    400: "the request is wrong; the message says what was given and what is expected",
    408: "the body took too long to arrive",
    413: "the body, the audio or its windows are above the server's limits",
    415: "the body is a form",
    503: "the server is full",
}
REQUEST_BODY = {
    "required": True,
    "content": {
        "audio/*": {"schema": _AUDIO},
        "application/octet-stream": {"schema": _AUDIO},
        "application/json": {"schema": _QUESTION},
    },
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "labels and scores", "content": {"application/json": {"schema": _SCORES}}},
    **{
        status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
        for status, text in _ERRORS.items()
    },
}

__all__ = ["JSON_FORM", "REQUEST_BODY", "RESPONSES", "VERSION"]
