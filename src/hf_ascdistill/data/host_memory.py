"""What is left of the host's memory: of the machine's, or of the part that a batch system or a container grants."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

MEMBERSHIP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
UNLIMITED = "max"


class Memory(NamedTuple):
    """Bytes of a memory; the kernel's copies of files count as free, since it gives them back."""

    free: int
    total: int


class GroupFiles(NamedTuple):
    """Where a version of the control groups keeps its numbers: names of files, and of a line of `memory.stat`."""

    root: Path
    limit: str
    usage: str
    cached: str


def host_memory() -> Memory:
    """Returns the memory of the machine, or of a control group of this process that has less.

    A process whose group goes over its limit is killed, however much the machine has left. Both versions of Linux'
    control groups are read; Slurm, Kubernetes and Docker set such limits.
    """
    machine = psutil.virtual_memory()
    memories = [Memory(machine.available, machine.total), *_group_memories()]
    return Memory(min(memory.free for memory in memories), min(memory.total for memory in memories))


def _group_memories() -> Iterator[Memory]:
    """Yields the memory of each group that has a limit: a group's limit holds for those within it."""
    for line in MEMBERSHIP.read_text().splitlines() if MEMBERSHIP.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            files = GroupFiles(GROUPS, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            files = GroupFiles(
                GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            )
        else:
            continue
        group = files.root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(files.root) and (folder / files.limit).exists():
                yield from _memory_of(folder, files)


def _memory_of(folder: Path, files: GroupFiles) -> Iterator[Memory]:
    limit = (folder / files.limit).read_text().strip()
    if limit == UNLIMITED:
        return
    usage = int((folder / files.usage).read_text())
    numbers = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    yield Memory(max(0, int(limit) - usage + int(numbers.get(files.cached, 0))), int(limit))


__all__ = ["Memory", "host_memory"]
