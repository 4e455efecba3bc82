"""The local server: real clients against a real server, every answer, and what it withstands."""

import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import huggingface_hub
import pytest
from serving_parts import malformed, noise, running

from hf_ascdistill.hub.handler import Limits
from hf_ascdistill.hub.serve import ServeArguments, main

ANSWER = [{"label": "bus", "score": 1.0}]


def post(address: str, body, *, query: str = "", content_type: str = "application/octet-stream"):
    """Status and JSON of a request."""
    request = Request(f"{address}/{query}", data=body, headers={"Content-Type": content_type})
    try:
        with urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        return error.code, json.load(error)


def post_json(address: str, data: dict, query: str = ""):
    return post(address, json.dumps(data).encode(), query=query, content_type="application/json")


@pytest.fixture(scope="module")
def address(handler):
    with running(handler, workers=2) as address:
        yield address


@pytest.fixture(scope="module")
def clip() -> bytes:
    return malformed.audio_file(noise(1.5))


@pytest.fixture
def client(address, monkeypatch) -> huggingface_hub.InferenceClient:
    """Hugging Face's client, which the tests' offline mode would keep from this machine's own server too."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return huggingface_hub.InferenceClient(model=address)


def test_the_inference_client_gets_the_handlers_answer(client, handler, clip, tmp_path):
    expected = [(entry["label"], entry["score"]) for entry in handler({"inputs": clip})]
    (tmp_path / "clip.wav").write_bytes(clip)
    for audio in (clip, tmp_path / "clip.wav", str(tmp_path / "clip.wav")):
        assert [(entry.label, entry.score) for entry in client.audio_classification(audio)] == expected
    two = client.audio_classification(clip, top_k=2, function_to_apply="sigmoid")
    parameters = {"top_k": 2, "function_to_apply": "sigmoid"}
    assert [entry.label for entry in two] == [
        entry["label"] for entry in handler({"inputs": clip, "parameters": parameters})
    ]


def test_the_inference_client_is_told_what_is_wrong(client):
    with pytest.raises(
        huggingface_hub.errors.HfHubHTTPError, match="the beginning of inputs is b'hello, w'; expected"
    ):
        client.audio_classification(b"hello, world")


def test_bytes_with_a_query_and_json_are_the_same_request(address, handler, clip):
    parameters = {"top_k": 2, "window": 1.0, "hop": 0.25, "per_window": True}
    expected = (200, handler({"inputs": clip, "parameters": parameters}))
    query = "?top_k=2&window=1&hop=0.25&per_window=true"
    text = base64.b64encode(clip).decode()
    assert post(address, clip, query=query) == expected
    assert post_json(address, {"inputs": text, "parameters": parameters}) == expected
    assert post_json(address, {"inputs": text}, query) == expected
    assert (
        post_json(address, {"inputs": text, "parameters": {"top_k": 2}}, query.replace("top_k=2", "top_k=1"))
        == expected
    )
    assert post_json(address, {"inputs": [text, text], "parameters": parameters}) == (200, [expected[1]] * 2)


def test_curls_default_content_type_is_taken_as_audio(address, clip):
    assert post(address, clip, content_type="application/x-www-form-urlencoded")[0] == 200


def test_malformed_requests_get_a_4xx_and_a_message(address, clip):
    for request in malformed.malformed_requests(60, seed=1):
        status, answer = post(address, request.body, content_type=request.content_type)
        assert status in (400, 413) and "; expected " in answer["error"], (request.kind, status, answer)
    assert post(address, clip)[0] == 200


@pytest.mark.parametrize(
    "query,message",
    [
        ("?top_k=three", "top_k is 'three': "),
        ("?topk=3", r"the query has \['topk'\]; expected only top_k, window"),
        ("?window=99", r"window is 99\.0; expected seconds, 0\.5 to 10"),
    ],
)
def test_a_wrong_query_gets_400(address, clip, query, message):
    status, answer = post(address, clip, query=query)
    assert status == 400 and re.search(message, answer["error"])


def test_a_form_gets_415_and_the_way_out(address):
    status, answer = post(address, b"--x--", content_type="multipart/form-data; boundary=x")
    assert status == 415 and "--data-binary @clip.wav" in answer["error"]


def test_other_paths_and_methods_get_json_too(address):
    for path, status in (("/", 405), ("/nothing", 404)):
        with pytest.raises(HTTPError) as caught:
            urlopen(address + path)
        assert caught.value.code == status and "POST audio to /" in json.load(caught.value)["error"]


def test_health_and_openapi_are_there(address):
    health = json.load(urlopen(f"{address}/health"))
    assert health["status"] == "ok" and len(health["labels"]) == 10 and health["inside"] == 0
    operation = json.load(urlopen(f"{address}/openapi.json"))["paths"]["/"]["post"]
    assert operation["requestBody"]["content"].keys() == {"audio/*", "application/octet-stream", "application/json"}
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        "top_k",
        "window",
        "hop",
        "per_window",
        "function_to_apply",
    }
    assert {"200", "400", "408", "413", "415", "503"} <= operation["responses"].keys()


def test_a_body_above_the_limit_gets_413_and_is_not_kept():
    seen = []
    with running(lambda data: seen.append(data) or ANSWER, max_bytes=1_000_000) as address:
        message = "the body has more than 1000000 bytes; send a shorter or compressed file."
        # with its length announced, and without, also one that ends with what is too much
        for body in (b"x" * 3_000_000, (b"x" * 100_000 for _ in range(30)), (b"x" * 900_000 for _ in range(2))):
            assert post(address, body) == (413, {"error": message})
        assert not seen
        assert post(address, b"x" * 1_000_000) == (200, ANSWER)


def test_no_request_of_many_at_a_time_is_lost(address, handler):
    bodies = [malformed.audio_file(noise(1.0, seed=seed)) for seed in range(8)]
    expected = [(200, handler({"inputs": body})) for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda index: post(address, bodies[index % 8]), range(64)))
    assert answers == expected * 8


class Slow:
    """A handler that answers when it is told to."""

    def __init__(self) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()

    def __call__(self, _: dict) -> list:
        self.begun.set()
        assert self.gate.wait(30)
        return ANSWER


def test_a_full_server_refuses_at_once_and_recovers():
    slow = Slow()
    with running(slow, workers=1, queue=0) as address, ThreadPoolExecutor(1) as pool:
        inside = pool.submit(post, address, b"x")
        assert slow.begun.wait(30)
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(address, data=b"x"))
        assert caught.value.code == 503 and caught.value.headers["Retry-After"] == "1"
        assert json.load(caught.value)["error"].startswith("the server is full with 1 requests")
        slow.gate.set()
        assert inside.result() == (200, ANSWER)
        assert post(address, b"x") == (200, ANSWER)


def test_a_request_under_way_is_answered_when_the_server_stops():
    slow = Slow()
    with ThreadPoolExecutor(1) as pool:
        with running(slow, workers=1) as address:
            inside = pool.submit(post, address, b"x")
            assert slow.begun.wait(30)
            threading.Timer(0.3, slow.gate.set).start()  # the server has been told to stop by then
        assert inside.result() == (200, ANSWER)


def send_half(address: str) -> socket.socket:
    """Begins a request and sends half of its body."""
    place = urlsplit(address)
    connection = socket.create_connection((place.hostname, place.port), timeout=30)
    connection.sendall(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 20\r\n\r\n0123456789")
    return connection


def test_a_body_that_never_ends_gets_408():
    with running(lambda _: ANSWER, body_seconds=0.2) as address, send_half(address) as connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 408
        assert json.load(response)["error"] == "the body took longer than 0.2 s to arrive."


def test_a_client_that_goes_away_leaves_its_place():
    with running(lambda _: ANSWER, workers=1, queue=0) as address:
        send_half(address).close()
        deadline = time.monotonic() + 30
        while (answer := post(address, b"x")) != (200, ANSWER) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert answer == (200, ANSWER)


def test_a_failing_handler_gets_500_and_the_server_goes_on():
    def failing(data: dict) -> list:
        if data["inputs"] == b"fail":
            raise RuntimeError("a secret of the server")
        return ANSWER

    with running(failing) as address:
        status, answer = post(address, b"fail")
        assert status == 500 and answer == {"error": "the server failed (RuntimeError); its log says where."}
        assert post(address, b"x") == (200, ANSWER)


def test_the_command_serves_a_folder_until_it_is_told_to_stop(model_folder, handler, clip):
    command = [sys.executable, "-m", "hf_ascdistill.hub.serve", str(model_folder), "--port", "0", "--max_seconds", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            lines = iter(process.stderr.readline, "")
            address = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            assert post(address, clip) == (200, handler({"inputs": clip}))
            assert post(address, malformed.audio_file(noise(2.5)))[0] == 413
        finally:
            process.send_signal(signal.SIGTERM)
            log = process.stderr.read()
    assert "Application shutdown complete" in log and "Traceback" not in log


@pytest.mark.parametrize(
    "arguments,message",
    [
        ([], "the following arguments are required: model"),
        (["no/such/folder"], "no/such/folder"),
        (["model", "--workers", "-1"], "--workers is -1; expected 0 or more"),
        (["model", "--max_bytes", "0"], "--max_bytes is 0; expected a number above 0"),
    ],
)
def test_a_wrong_command_line_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_arguments_become_limits():
    arguments = ServeArguments(max_bytes=5, max_seconds=6.0, max_recordings=7)
    assert arguments.limits == Limits(max_bytes=5, max_seconds=6.0, max_recordings=7)
    assert arguments.workers == os.cpu_count()
    assert ServeArguments(max_seconds=3600.0).limits.max_windowed_seconds == 36_000


def test_the_package_and_the_module_import_without_the_servers_libraries():
    code = """
import sys
sys.modules.update(fastapi=None, uvicorn=None, starlette=None)
import hf_ascdistill
from hf_ascdistill.hub.serve import create_app
try:
    create_app(None)
except ImportError as error:
    assert str(error) == "serving a model needs fastapi: `pip install 'hf_ascdistill[serve]'`.", error
else:
    raise AssertionError("no error")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert result.returncode == 0, result.stderr
