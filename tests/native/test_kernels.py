"""Compiling the kernels: once, whole, and with an error that says what is missing."""

import functools
import os
from unittest.mock import MagicMock

import pytest
from compilers import needs_gcc

from hf_ascdistill.native import kernels


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """No kernels are loaded, and the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load = kernels.load_kernels.__wrapped__
    return tmp_path / "hf_ascdistill", load


@needs_gcc
def test_the_second_load_compiles_nothing(empty_cache, monkeypatch):
    folder, load = empty_cache
    load()
    [library] = folder.iterdir()
    written = library.stat().st_mtime_ns
    load()
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == [written]


@needs_gcc
def test_each_processor_gets_what_it_can_run(empty_cache, monkeypatch):
    folder, load = empty_cache
    monkeypatch.setattr(kernels.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(kernels, "_compile", lambda command, library: commands.append(command))
    monkeypatch.setattr(kernels.ctypes, "CDLL", MagicMock())
    commands = []
    for capability in ("AVX2", "AVX512"):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda capability=capability: capability)
        load()
    assert ["-mavx512f" in command for command in commands] == [False, True]
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "DEFAULT")
    with pytest.raises(ImportError, match="no AVX2"):
        load()


def test_without_gcc_the_error_says_how_to_get_it(empty_cache, monkeypatch):
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    with pytest.raises(ImportError, match=r"no g\+\+; install GCC"):
        empty_cache[1]()


@needs_gcc
def test_what_does_not_compile_leaves_nothing(empty_cache, monkeypatch):
    folder, load = empty_cache
    monkeypatch.setattr(kernels, "FLAGS", (*kernels.FLAGS, "-std=c++98"))
    with pytest.raises(ImportError, match="could not compile"):
        load()
    assert not list(folder.iterdir())


@needs_gcc
def test_a_cache_that_cannot_be_written_is_named(empty_cache, monkeypatch):
    folder, load = empty_cache
    folder.write_text("")
    with pytest.raises(ImportError, match="could not be compiled, written or loaded: .*hf_ascdistill"):
        load()


@needs_gcc
def test_a_damaged_file_is_named(empty_cache, monkeypatch):
    def damage(command, library):
        library.parent.mkdir()
        library.write_bytes(os.urandom(64))

    monkeypatch.setattr(kernels, "_compile", damage)
    with pytest.raises(ImportError, match="could not be compiled, written or loaded"):
        empty_cache[1]()


def test_a_compiler_that_does_not_run_is_an_import_error(empty_cache, monkeypatch, tmp_path):
    compiler = tmp_path / "g++"
    compiler.write_bytes(b"no program")
    compiler.chmod(0o755)
    monkeypatch.setattr(kernels.shutil, "which", lambda name: str(compiler))
    with pytest.raises(ImportError, match="could not be compiled.*g\\+\\+"):
        empty_cache[1]()


@needs_gcc
def test_a_user_without_a_home_folder_is_told_so(empty_cache, monkeypatch):
    def refuse():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(kernels.Path, "home", refuse)
    with pytest.raises(ImportError, match="could not be compiled.*home directory"):
        empty_cache[1]()


@needs_gcc
def test_a_library_that_another_process_has_written_meanwhile_stays(empty_cache, monkeypatch):
    folder, load = empty_cache
    load()
    [library] = folder.iterdir()
    whole = library.read_bytes()
    monkeypatch.setattr(kernels, "_run", lambda command: None)  # would leave nothing to put in its place
    kernels._compile(["g++"], library)
    assert library.read_bytes() == whole


def test_a_machine_without_gcc_is_told_once_and_goes_on(empty_cache, monkeypatch):
    warnings = []
    monkeypatch.setattr(kernels.logger, "warning", warnings.append)
    monkeypatch.setattr(kernels, "load_kernels", empty_cache[1])
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    can_use = functools.cache(kernels.can_use_kernels.__wrapped__)
    assert [can_use(), can_use()] == [False, False]
    [warning] = warnings
    assert "goes without native kernels, more slowly: there is no g++; install GCC" in warning
