"""The files around the package agree with one another."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hf_ascdistill

CHECKOUT = Path(__file__).resolve().parents[2]


def pyproject() -> dict:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))


def pinned_versions() -> dict[str, str]:
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def test_every_dependency_is_pinned_within_its_range():
    project, pins = pyproject()["project"], pinned_versions()
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not pinned in constraints.txt"
        assert requirement.specifier.contains(version), f"constraints.txt pins {version} against {text}"


def test_the_version_is_the_same_everywhere():
    citation = (CHECKOUT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == hf_ascdistill.__version__
    assert f"## [{hf_ascdistill.__version__}]" in (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_make_lists_every_target_with_a_word_on_it():
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    promised = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split()
    described = re.findall(r"^([a-z-]+):.*?## \w+", makefile, re.MULTILINE)
    targets = "help style quality test test-dist sanitize demo bench bench-gpu clean"
    assert described == promised == targets.split()


@pytest.mark.parametrize("recipe", sorted((CHECKOUT / "recipes").glob("*.py")), ids=lambda path: path.stem)
def test_recipes_of_several_processes_leave_their_group_at_the_end(recipe):
    text = recipe.read_text(encoding="utf-8")
    is_launched = "accelerate launch" in text.split('"""')[1]
    assert text.endswith("    main()\n" + "    leave_process_group()\n" * is_launched)
