"""Drives a headless Chromium through its debugging pipe: no driver, no port, no package."""

import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Every name but this machine's is unknown, so that a page shows what it is without the network.
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe")
FLAGS += ("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--hide-scrollbars", "--disable-dev-shm-usage")
ANSWER_SECONDS = 30
POLL_SECONDS = 0.1


def find_chromium() -> str | None:
    """Returns the path of a Chromium or Chrome, or nothing where there is none."""
    return next(filter(None, map(shutil.which, EXECUTABLES)), None)


class Page:
    """One page of a running Chromium.

    Args:
        reader, writer (`int`): ends of the pipes that Chromium writes to and reads from.
    """

    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self.writer, self.buffer, self.number, self.session = reader, writer, b"", 0, None
        self.requests: list[str] = []  # addresses that the page asked for
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "DOM", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict:
        """Calls a method of the DevTools protocol and returns its result.

        Raises:
            RuntimeError: the method failed.
            TimeoutError: no answer came.
        """
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        while (answer := self._receive(method)).get("id") != self.number:
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _receive(self, method: str) -> dict:
        while b"\0" not in self.buffer:
            if not select.select([self.reader], [], [], ANSWER_SECONDS)[0]:
                raise TimeoutError(f"Chromium did not answer {method} within {ANSWER_SECONDS} s.")
            chunk = os.read(self.reader, 2**20)
            if not chunk:
                raise RuntimeError(f"Chromium ended at {method}.")
            self.buffer += chunk
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression on the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression: str, seconds: float = ANSWER_SECONDS) -> Any:
        """Waits until an expression is true, and returns its value.

        Raises:
            TimeoutError: it stayed false; what the page shows is told.
        """
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                shown = self.evaluate("document.body.innerText")
                raise TimeoutError(f"{expression} stayed false for {seconds} s; the page shows: {shown}")
            time.sleep(POLL_SECONDS)
        return value

    def open(self, url: str, *, width: int = 1280, height: int = 800) -> None:
        """Opens an address in a window of this size, in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=url)

    def upload(self, selector: str, path: Path) -> None:
        """Puts a file into the file input that a CSS selector finds, as a person's choice would."""
        self.wait_for(f"document.querySelector({json.dumps(selector)}) !== null")
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path.resolve())])

    def screenshot(self) -> bytes:
        """Returns the window as a png."""
        return b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextlib.contextmanager
def browsing(executable: str) -> Iterator[Page]:
    """Runs a Chromium with a profile of its own, and yields its page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, contextlib.ExitStack() as stack:
        (commands, writer), (reader, answers) = os.pipe(), os.pipe()
        # Chromium reads from descriptor 3 and writes to 4; a shell puts the pipes there.
        shell = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        command = ["bash", "-c", shell, executable, *FLAGS, f"--user-data-dir={profile}"]
        process = subprocess.Popen(command, pass_fds=(commands, answers), stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        for end in (commands, answers):
            os.close(end)
        for end in (reader, writer):
            stack.callback(os.close, end)
        yield Page(reader, writer)
