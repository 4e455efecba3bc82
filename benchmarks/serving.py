"""Measures the local server under load and under malformed requests, and a stream of ten minutes.

python benchmarks/serving.py --model models/cpm-student --clips <folder in TAU22's layout>
    --output benchmarks/SERVING.md

Needs Linux, and the extra `serve`. The server runs in a process of its own, on the same cores as its clients.
"""

import argparse
import contextlib
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch
from malformed import malformed_requests
from stream_case import StreamResult, follow, read_rows, resident_memory

from hf_ascdistill import load_classifier

ROUNDS = 5  # of the same load, to see whether memory grows


@contextlib.contextmanager
def server(model: Path) -> Iterator[tuple[str, int]]:
    """Starts the server; yields its address and its process."""
    command = [sys.executable, "-m", "hf_ascdistill.hub.serve", str(model), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            log = iter(process.stderr.readline, "")
            yield next(found[0] for line in log if (found := re.search(r"http://[\d.]+:\d+", line))), process.pid
        finally:
            process.terminate()
            process.stderr.read()


def post(address: str, body: bytes, content_type: str = "application/octet-stream") -> tuple[int, float]:
    """Returns status (0: no answer) and seconds of one request."""
    start = time.perf_counter()
    try:
        with urlopen(Request(address, data=body, headers={"Content-Type": content_type}), timeout=120) as response:
            response.read()
            status = response.status
    except HTTPError as error:
        error.read()
        status = error.code
    except (URLError, OSError):
        status = 0
    return status, time.perf_counter() - start


def load(address: str, bodies: Sequence[bytes], *, count: int, at_once: int) -> tuple[list[float], int, float]:
    """Sends `count` requests, `at_once` at a time: milliseconds of each, how many were lost, requests a second."""
    start = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        answers = list(pool.map(lambda index: post(address, bodies[index % len(bodies)]), range(count)))
    lost = sum(status != 200 for status, _ in answers)
    return sorted(1000 * seconds for _, seconds in answers), lost, count / (time.perf_counter() - start)


def measure_load(address: str, process: int, clips: Path, *, count: int, at_once: int) -> list[str]:
    """Returns lines on clips of 1 s under load."""
    bodies = [path.read_bytes() for _, path in read_rows(clips)]
    load(address, bodies, count=at_once * 4, at_once=at_once)  # fills caches
    lines = [
        "| round | p50, ms | p99, ms | lost | requests/s | server's memory before, MB | after, MB |",
        "|---" * 7 + "|",
    ]
    for number in range(1, ROUNDS + 1):
        before = resident_memory(process)
        times, lost, speed = load(address, bodies, count=count, at_once=at_once)
        p50, p99 = statistics.median(times), times[min(len(times) - 1, round(0.99 * len(times)))]
        cells = [number, f"{p50:.1f}", f"{p99:.1f}", lost, f"{speed:.0f}", f"{before:.0f}"]
        lines.append("| " + " | ".join(map(str, [*cells, f"{resident_memory(process):.0f}"])) + " |")
    return lines


def measure_malformed(address: str, process: int, clip: bytes, *, count: int) -> list[str]:
    """Returns lines on malformed requests; a good one between them must be answered."""
    statuses: dict[str, Counter] = {}
    before, slowest, ill = resident_memory(process), 0.0, 0
    for index, request in enumerate(malformed_requests(count, with_large=True)):
        status, seconds = post(address, request.body, request.content_type)
        statuses.setdefault(request.kind, Counter())[status] += 1
        slowest = max(slowest, seconds)
        ill += index % 10 == 0 and post(address, clip)[0] != 200
    lines = ["| kind | answers |", "|---|---|"]
    lines += [
        f"| {kind} | {', '.join(f'{status}: {number}' for status, number in sorted(found.items()))} |"
        for kind, found in sorted(statuses.items())
    ]
    good = sum(number for found in statuses.values() for status, number in found.items() if status in (400, 413))
    lines += [
        "",
        f"{good} of {count} got 400 or 413, the slowest after {1000 * slowest:.0f} ms. Of the good requests in",
    ]
    lines += [
        f"between, {ill} failed. The server's memory: {before:.0f} MB before, {resident_memory(process):.0f} after."
    ]
    return lines


def stream_lines(result: StreamResult) -> list[str]:
    """Returns lines on a stream."""
    delays = sorted(result.delays)
    missed = sum(seconds == float("inf") for seconds in delays)
    return [
        "| | |",
        "|---|---|",
        f"| recording | {result.seconds / 60:.0f} min, {len(delays)} scenes, evaluate clips joined, chunks of 20 ms |",
        f"| decisions that are right | {100 * result.right:.1f} % ({100 * result.unsure:.1f} % unsure) |",
        f"| windows that are right, each alone | {100 * result.window_right:.1f} % |",
        f"| delay of a change | median {statistics.median(delays):.1f} s, longest found {delays[-1 - missed]:.1f} s, "
        f"{missed} of {len(delays)} scenes never found |",
        f"| changes that came out | {result.changes} (there are {len(delays)}) |",
        f"| memory after each minute, MB | {', '.join(f'{megabytes:.0f}' for megabytes in result.memory)} |",
        f"| speed | {result.speed:.0f} times real time, one thread |",
    ]


def main() -> None:
    """Measures, prints and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a saved model")
    parser.add_argument("--clips", type=Path, required=True, help="folder in TAU22's layout")
    parser.add_argument("--output", type=Path, help="Markdown file to write; unset: the screen only")
    parser.add_argument("--requests", type=int, default=200, help="requests of a round")
    parser.add_argument("--at_once", type=int, default=8, help="requests at a time")
    parser.add_argument("--malformed", type=int, default=500, help="malformed requests")
    arguments = parser.parse_args()
    machine = f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} before it began)"
    setting = f"{machine}, Python {platform.python_version()}, torch {torch.__version__}, {date.today()}"
    lines = ["# Serving", "", f"`benchmarks/serving.py` with the model {arguments.model.name}; {setting}.", ""]
    with server(arguments.model) as (address, process):
        lines += [f"## {arguments.requests} requests, {arguments.at_once} at a time, clips of 1 s at 44.1 kHz", ""]
        sizes = {"count": arguments.requests, "at_once": arguments.at_once}
        lines += measure_load(address, process, arguments.clips, **sizes)
        lines += ["", f"## {arguments.malformed} malformed requests", ""]
        clip = read_rows(arguments.clips)[0][1].read_bytes()
        lines += measure_malformed(address, process, clip, count=arguments.malformed)
    torch.set_num_threads(1)
    model, extractor = load_classifier(arguments.model)
    lines += ["", "## A live recording whose scene changes every minute", ""]
    report = "\n".join([*lines, *stream_lines(follow(model, extractor, arguments.clips)), ""])
    print(report)
    if arguments.output is not None:
        arguments.output.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
