"""What the tests of publishing share: a process with the real Hub client that does what it is told."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from loopback_hub import TOKEN, LoopbackHub

import hf_ascdistill

SOURCE = Path(hf_ascdistill.__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("client_job.py")


def client_environment(hub: LoopbackHub, folder: Path, **others: str) -> dict[str, str]:
    """Environment of a process whose Hub is the one on this machine, with a cache of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    search_path = os.pathsep.join([str(SOURCE), str(WORKER.parent)])
    ours = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder)}
    return {**kept, **ours, "HF_HUB_VERBOSITY": "debug", "HF_DEBUG": "1", "PYTHONPATH": search_path, **others}


class Client:
    """A process that runs calls of the package one after the other; all that it prints goes to a file."""

    def __init__(self, process: subprocess.Popen, printed: Path) -> None:
        self.process, self.printed = process, printed

    def __call__(self, function: str, *arguments, **keywords):
        """Returns what `module:function` returns, or its error as `{"error": type, "text": message}`."""
        request = {"function": function, "arguments": arguments, "keywords": keywords}
        self.process.stdin.write(json.dumps(request, default=str) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.printed.read_text()
        return json.loads(line)

    def output(self) -> str:
        """Everything that was printed or logged so far."""
        return self.printed.read_text()


@contextmanager
def running_client(folder: Path, environment: Mapping[str, str]) -> Iterator[Client]:
    """Starts the process."""
    printed = folder / "printed.txt"
    with open(printed, "w") as stream:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": stream, "text": True}
        process = subprocess.Popen([sys.executable, str(WORKER)], env=dict(environment), cwd=folder, **pipes)
    try:
        yield Client(process, printed)
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()
