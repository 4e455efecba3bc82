"""Times a piece of work in turn with the plain way of doing it, so that the drift of a shared machine cancels."""

import ctypes
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hf_ascdistill import keep_freed_memory
from hf_ascdistill.allocator import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD

SETTLING_SECONDS = 0.01  # the other side's threads spin for some milliseconds before they sleep
MIN_BLOCK_SECONDS = 0.03  # calls shorter than this are timed several at a time
MIN_REPETITIONS, MAX_REPETITIONS = 5, 60
MAX_WARM_UPS, FEW_FAULTS = 4, 100  # calls until one makes the kernel clear no more pages than these
# Bytes; glibc comes to keep blocks of up to so many by itself, and twice as much at the end.
USUAL_LARGEST_KEPT = 2**25


@dataclass(frozen=True)
class Case:
    """One row of the results.

    Args:
        section (`str`): heading that the row stands under.
        name (`str`): what is done.
        clips (`int`): clips that one call works on.
        ours (`Callable`): the package's way.
        plain (`Callable`, *optional*): the usual way of the same work, or another package's.
        peer (`tuple[float, ...]`, *optional*): the peer's ms per clip on its machine, in parts that add up.
        goal (`float`, *optional*): how many times as fast as the other way ours is meant to be, at least.
    """

    section: str
    name: str
    clips: int
    ours: Callable[[], Any]
    plain: Callable[[], Any] | None = None
    peer: tuple[float, ...] = ()
    goal: float | None = None


@dataclass(frozen=True)
class Result:
    """Milliseconds per clip of a case, medians; `ratios` are the quartiles of plain / ours within repetitions."""

    case: Case
    ours: float
    plain: float | None
    ratios: tuple[float, float, float] | None
    repetitions: int

    def line(self) -> str:
        """Says the result in one line, for the screen."""
        text = f"{self.case.section}: {self.case.name}: {1000 / self.ours:,.0f} clips/s, {self.ours:.3f} ms"
        if self.ratios is not None:
            low, middle, high = self.ratios
            text += f"; plain {self.plain:.3f} ms; x {middle:.2f} ({low:.2f} to {high:.2f})"
        return f"{text}; {self.repetitions} repetitions"

    def verdict(self) -> str | None:
        """Says whether the goal is reached; nothing of a case that has none."""
        if self.case.goal is None:
            return None
        ratio = self.ratios[1]
        reached = "reached" if ratio >= self.case.goal else "not reached"
        return f"{self.case.section}: {self.case.name}: {ratio:.2f} times, goal {self.case.goal:g}: **{reached}**."


def use_usual_memory() -> None:
    """Has glibc treat freed memory as in any process, once its own thresholds have grown as far as they do."""
    if sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallopt"):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, USUAL_LARGEST_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * USUAL_LARGEST_KEPT)
        libc.malloc_trim(0)


@dataclass(frozen=True)
class Stopwatch:
    """Measures cases.

    Args:
        device (`torch.device`): waited for before the clock is read.
        seconds (`float`): about how long one case may take.
    """

    device: torch.device
    seconds: float

    def measure(self, case: Case) -> Result:
        """Times ours, plain, ours, plain ... and takes medians."""
        works = [case.ours] if case.plain is None else [case.ours, case.plain]
        memories = [keep_freed_memory, use_usual_memory]  # ours as in a recipe
        for work in works:
            work()  # fills caches, starts workers
        single = [self._time(work, 1, memory) for work, memory in zip(works, memories, strict=False)]
        calls = [max(1, int(MIN_BLOCK_SECONDS / seconds)) for seconds in single]
        once = sum(seconds * count for seconds, count in zip(single, calls, strict=True))
        repetitions = min(MAX_REPETITIONS, max(MIN_REPETITIONS, int(self.seconds / once)))
        times = [[self._time(*side) for side in zip(works, calls, memories, strict=False)] for _ in range(repetitions)]
        return _result(case, times)

    def _time(self, work: Callable[[], Any], calls: int, memory: Callable[[], Any]) -> float:
        """Seconds per call, once the work has taken up what memory the setting keeps."""
        time.sleep(SETTLING_SECONDS)
        memory()
        for _ in range(MAX_WARM_UPS if memory is keep_freed_memory else 1):
            before = _page_faults()
            work()
            self._wait()
            if _page_faults() - before < FEW_FAULTS:
                break
        start = time.perf_counter()
        for _ in range(calls):
            work()
        self._wait()
        return (time.perf_counter() - start) / calls

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _result(case: Case, times: list[list[float]]) -> Result:
    to_ms = 1000 / case.clips
    ours = statistics.median(row[0] for row in times) * to_ms
    if case.plain is None:
        return Result(case, ours, None, None, len(times))
    low, middle, high = statistics.quantiles((plain / own for own, plain in times), n=4, method="inclusive")
    return Result(case, ours, statistics.median(row[1] for row in times) * to_ms, (low, middle, high), len(times))


__all__ = ["Case", "Result", "Stopwatch"]
