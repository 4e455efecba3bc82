"""The host's memory as a process has it: of the machine, within the limits of its control groups."""

from types import SimpleNamespace

import pytest

from hf_ascdistill.data import host_memory as module
from hf_ascdistill.data.host_memory import Memory, host_memory

KB = 1024
MACHINE = Memory(free=3000 * KB, total=4000 * KB)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes up a machine: which groups the process is in, and the files of groups by folder."""
    memory = SimpleNamespace(available=MACHINE.free, total=MACHINE.total)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: memory)
    for name in ("MEMBERSHIP", "GROUPS"):
        monkeypatch.setattr(module, name, tmp_path / name)

    def make(membership, groups):
        (tmp_path / "MEMBERSHIP").write_text(membership)
        for folder, files in groups.items():
            path = tmp_path / "GROUPS" / folder
            path.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (path / name).write_text(text)

    return make


def second(limit, usage, cached=0):
    """Files of a group of version 2."""
    stat = f"anon 7\ninactive_file {cached}\nactive_file 9\n"
    return {"memory.max": f"{limit}\n", "memory.current": f"{usage}\n", "memory.stat": stat}


def first(limit, usage, cached=0):
    """Files of a group of version 1."""
    stat = f"inactive_file 3\ntotal_inactive_file {cached}\n"
    return {"memory.limit_in_bytes": f"{limit}\n", "memory.usage_in_bytes": f"{usage}\n", "memory.stat": stat}


def test_without_groups_it_is_the_machine(machine):
    assert host_memory() == MACHINE


@pytest.mark.parametrize(
    ("membership", "groups", "expected"),
    [
        ("0::/job/step\n", {"job/step": second("max", 5), "job": second("max", 9)}, MACHINE),
        ("0::/job\n", {"job": second(2000 * KB, 500 * KB, cached=100 * KB)}, Memory(1600 * KB, 2000 * KB)),
        ("0::/job/step\n", {"job/step": second("max", 5), "job": second(2000 * KB, 0)}, Memory(2000 * KB, 2000 * KB)),
        ("0::/job\n", {"job": second(9000 * KB, 0)}, MACHINE),
        ("0::/job\n", {"job": second(100 * KB, 101 * KB)}, Memory(0, 100 * KB)),
        ("0::/\n", {"": second(2000 * KB, 0)}, Memory(2000 * KB, 2000 * KB)),
        (
            "9:cpu:/job\n4:pids,memory:/job\n",
            {"memory/job": first(1000 * KB, 300 * KB, cached=50 * KB), "memory": first(2**63 - 4096, 0)},
            Memory(750 * KB, 1000 * KB),
        ),
        ("4:memory:/outside/of/the/container\n", {"memory": first(1000 * KB, 0)}, Memory(1000 * KB, 1000 * KB)),
        ("0::/gone\n", {}, MACHINE),
    ],
    ids=[
        "no limit",
        "limit",
        "limit of an outer group",
        "limit above the machine",
        "used up",
        "container",
        "version 1",
        "container, version 1",
        "no such folder",
    ],
)
def test_least_of_machine_and_groups_counts(machine, membership, groups, expected):
    machine(membership, groups)
    assert host_memory() == expected


def test_this_machine_has_memory_left():
    free, total = host_memory()
    assert 0 < free <= total
