"""Serves a model over HTTP, as an Inference Endpoint does, through the same request handler.

python -m hf_ascdistill.hub.serve models/cpm-student --port 8080

curl --data-binary @clip.wav 'http://127.0.0.1:8080/?top_k=3'
curl --json '{"inputs": "<base64 of clip.wav>", "parameters": {"top_k": 3}}' http://127.0.0.1:8080/

`huggingface_hub.InferenceClient(model="http://127.0.0.1:8080").audio_classification("clip.wav")` works too. `/docs`
shows the interface, `/openapi.json` describes it, `/health` says that the server is up.
"""

import argparse
import asyncio
import importlib
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import HfArgumentParser

from .handler import BadRequest, EndpointHandler, Limits, TooLarge
from .openapi import JSON_FORM, REQUEST_BODY, RESPONSES, VERSION

MAX_JSON_OBJECTS = 1_000  # brackets of a JSON body; a full batch of samples has some 300
DISCARDED_BODIES = 4  # of a refused request, so many of the largest bodies are read before the connection is cut
WINDOWED_SHARE = 10  # times the audio of a request, at most, may its overlapping windows last
RETRY_SECONDS = 1  # what a client is told to wait when the server is full
SHUTDOWN_SECONDS = 30  # in which requests that are under way are answered
EXTRA = "hf_ascdistill[serve]"


@dataclass
class ServeArguments:
    """Parameters that control how a model is served."""

    host: str = field(default="127.0.0.1", metadata={"help": "address to listen at; 0.0.0.0 for every interface"})
    port: int = field(default=8080, metadata={"help": "port to listen at; 0 takes a free one and names it in the log"})
    max_bytes: int = field(default=Limits.max_bytes, metadata={"help": "size of a request's body, and of its audio"})
    max_seconds: float = field(default=Limits.max_seconds, metadata={"help": "audio of a request"})
    max_recordings: int = field(default=Limits.max_recordings, metadata={"help": "recordings of a request"})
    workers: int = field(default=0, metadata={"help": "requests worked on at a time; 0: as many as there are cores"})
    queue: int = field(default=64, metadata={"help": "requests that may wait; further ones get 503"})
    body_seconds: float = field(default=60.0, metadata={"help": "seconds in which a body must have arrived"})

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_seconds", "max_recordings", "body_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} is {getattr(self, name)}; expected a number above 0.")
        for name in ("workers", "queue"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} is {getattr(self, name)}; expected 0 or more.")
        self.workers = self.workers or os.cpu_count() or 1

    @property
    def limits(self) -> Limits:
        """What one request may ask for."""
        longest = max(Limits.max_windowed_seconds, WINDOWED_SHARE * self.max_seconds)
        return Limits(self.max_bytes, self.max_seconds, longest, self.max_recordings)


class Refusal(Exception):
    """A request that is answered with an error before it reaches the handler.

    Args:
        status (`int`): HTTP status.
        message (`str`): what the client is told.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parse_json(body: bytes) -> Any:
    """Reads a JSON body, deep, huge and wrong ones too, in bounded memory.

    Raises:
        BadRequest: it is no JSON, holds NaN, or more objects than any request needs.
    """
    objects = body.count(b"{") + body.count(b"[")
    if objects > MAX_JSON_OBJECTS:
        raise BadRequest(f"the body has {objects} JSON objects and arrays; expected at most {MAX_JSON_OBJECTS}.")
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON ({str(error)[:120]}); expected {JSON_FORM}.") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


async def read_body(request: Any, max_bytes: int) -> bytes:
    """Reads a body, no more than `max_bytes` of it.

    Raises:
        TooLarge: it is longer, by its header or in fact.
    """
    message = f"the body has more than {max_bytes} bytes; send a shorter or compressed file."
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise TooLarge(message)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise TooLarge(message)
    return bytes(body)


async def discard_body(request: Any, max_bytes: int) -> None:
    """Reads at most `max_bytes` more and keeps none: many clients read no answer until they have sent all."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            return


class Desk:
    """Takes requests in, as many as there is room for, and has worker threads answer them.

    Args:
        handler (`Callable`): answers one request, see [`EndpointHandler`].
        arguments ([`ServeArguments`]): how many at a time, how many wait, how large they are.
    """

    def __init__(self, handler: Callable[[dict], list], arguments: ServeArguments) -> None:
        self.handler, self.arguments, self.inside = handler, arguments, 0
        self.pool = ThreadPoolExecutor(arguments.workers, thread_name_prefix="classify")

    async def serve(self, request: Any, query: dict[str, Any]) -> list:
        """Answers one request; the server's loop runs on meanwhile.

        Args:
            request (`fastapi.Request`): its body is an audio file, or JSON by its content type.
            query (`dict[str, Any]`): parameters that a JSON body may overrule.

        Raises:
            Refusal: there is no room; the body is a form, or took too long to arrive.
            BadRequest: the request is wrong.
        """
        is_full = self.inside >= self.arguments.workers + self.arguments.queue
        self.inside += not is_full
        try:
            body, is_json = await self._receive(request, is_full=is_full)
            return await asyncio.get_running_loop().run_in_executor(self.pool, self._answer, body, is_json, query)
        finally:
            self.inside -= not is_full

    async def _receive(self, request: Any, *, is_full: bool) -> tuple[bytes, bool]:
        """Returns the body of a request that is not refused, and whether it is JSON."""
        limit, seconds = self.arguments.max_bytes, self.arguments.body_seconds
        content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            async with asyncio.timeout(seconds):
                try:
                    if is_full:
                        raise Refusal(503, f"the server is full with {self.inside} requests; try again in a moment.")
                    if content.startswith("multipart/"):
                        raise Refusal(415, "the body is a form; send the file itself: `curl --data-binary @clip.wav`.")
                    return await read_body(request, limit), content == "application/json"
                except (Refusal, TooLarge):
                    with suppress(RuntimeError):  # it has ended: nothing is left to be read
                        await discard_body(request, DISCARDED_BODIES * limit)
                    raise
        except TimeoutError as error:
            raise Refusal(408, f"the body took longer than {seconds:g} s to arrive.") from error

    def _answer(self, body: bytes, is_json: bool, query: dict[str, Any]) -> list:
        data = parse_json(body) if is_json else {"inputs": body}
        if isinstance(data, dict) and isinstance(data.get("parameters"), dict | None):
            data = {**data, "parameters": query | (data.get("parameters") or {})}
        return self.handler(data)


def create_app(handler: EndpointHandler, arguments: ServeArguments | None = None) -> Any:
    """Builds the web application around a request handler.

    Args:
        handler ([`EndpointHandler`]): answers the requests.
        arguments ([`ServeArguments`], *optional*): how many at a time, how many wait, how large they are.

    Returns:
        `fastapi.FastAPI`: `POST /` classifies, `GET /health` says that the server is up.

    Raises:
        ImportError: FastAPI is not installed.
    """
    fastapi = _require("fastapi")
    from fastapi.responses import JSONResponse

    desk = Desk(handler, arguments or ServeArguments())

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        desk.pool.shutdown()

    app = fastapi.FastAPI(title="Acoustic scene classification", version=VERSION, lifespan=lifespan)

    @app.post("/", summary="Classify audio", openapi_extra={"requestBody": REQUEST_BODY}, responses=RESPONSES)
    async def classify(
        request: fastapi.Request,
        top_k: int | None = None,
        window: float | None = None,
        hop: float | None = None,
        per_window: bool | None = None,
        function_to_apply: str | None = None,
    ) -> JSONResponse:
        query = {"top_k": top_k, "window": window, "hop": hop, "per_window": per_window}
        query["function_to_apply"] = function_to_apply
        if not request.query_params.keys() <= query.keys():
            raise BadRequest(f"the query has {list(request.query_params)}; expected only {', '.join(query)}.")
        return JSONResponse(await desk.serve(request, query))

    @app.get("/health", summary="Is the server up?")
    async def health() -> dict[str, Any]:
        labels = list(handler.model.config.id2label.values())
        return {"status": "ok", "model_type": handler.model.config.model_type, "labels": labels, "inside": desk.inside}

    _answer_errors(app)
    return app


def _answer_errors(app: Any) -> None:
    """Turns every error into `{"error": message}` with its status."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, Response
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    def said(status: int, message: str) -> JSONResponse:
        headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else None
        return JSONResponse({"error": message}, status, headers=headers)

    async def bad_request(_: Any, error: BadRequest) -> JSONResponse:
        return said(413 if isinstance(error, TooLarge) else 400, str(error))

    async def bad_query(_: Any, error: RequestValidationError) -> JSONResponse:
        return said(
            400, "; ".join(f"{item['loc'][-1]} is {item['input']!r}: {item['msg']}" for item in error.errors())
        )

    async def refusal(_: Any, error: Refusal) -> JSONResponse:
        return said(error.status, str(error))

    async def http_error(_: Any, error: HTTPException) -> JSONResponse:
        return said(error.status_code, f"{error.detail}; POST audio to /, GET /health or /openapi.json.")

    async def gone(_: Any, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody reads it

    async def failure(_: Any, error: Exception) -> JSONResponse:
        return said(500, f"the server failed ({type(error).__name__}); its log says where.")

    answers = {BadRequest: bad_request, RequestValidationError: bad_query, Refusal: refusal}
    answers |= {HTTPException: http_error, ClientDisconnect: gone, Exception: failure}
    for kind, answer in answers.items():
        app.add_exception_handler(kind, answer)


def _require(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"serving a model needs {package}: `pip install '{EXTRA}'`.") from error


def main(argv: Sequence[str] | None = None) -> None:
    """Serves a model until it is told to stop; then answers what is under way.

    Args:
        argv (`Sequence[str]`, *optional*): command line; unset: the process's.
    """
    parser = HfArgumentParser(
        ServeArguments, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder or Hub name of the model")
    try:
        arguments, rest = parser.parse_args_into_dataclasses(argv)
        uvicorn = _require("uvicorn")
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // arguments.workers))
        handler = EndpointHandler(rest.model, arguments.limits, trust_remote_code=False)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    app = create_app(handler, arguments)
    uvicorn.run(app, host=arguments.host, port=arguments.port, timeout_graceful_shutdown=SHUTDOWN_SECONDS)


__all__ = ["Desk", "Refusal", "ServeArguments", "create_app", "main", "parse_json", "read_body"]

if __name__ == "__main__":
    main()
