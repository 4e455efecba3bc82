"""A push is one commit, or nothing: what each failure of the Hub leaves behind.

The server is our own; that the real Hub refuses a stale `parentCommit` and names its waiting times in `Retry-After` is
taken from its client's code and takes a push with a real account to see.
"""

from pathlib import Path

import pytest
from loopback_hub import TOKEN, USER, Commit, Fault, LoopbackHub, Repository

UPLOAD = "client_calls:upload"
REPLACED = ["*.py", "*.safetensors"]
PASSING = [
    *((stage, 500) for stage in ("create", "info", "validate", "preupload", "batch", "upload", "commit")),
    *((stage, kind) for stage in ("upload", "commit") for kind in (429, "drop", "lost")),
    ("info", "drop"),
    ("commit", 409),
    ("commit", 503),
]
STAYING = [
    *((stage, status) for stage in ("info", "preupload", "commit") for status in (401, 403)),
    *((stage, kind) for stage in ("upload", "commit") for kind in (429, 500, "drop")),
    ("create", 500),
    ("validate", 500),
    ("commit", 409),
]
ALWAYS = 1_000


@pytest.fixture
def repository(hub, tmp_path) -> str:
    """A repository with a first version and a file of somebody, and the second version's files in a folder."""
    for number in (1, 2):
        folder = tmp_path / f"v{number}"
        folder.mkdir()
        (folder / "README.md").write_text(f"---\nlicense: mit\n---\nversion {number}\n")
        (folder / "model.safetensors").write_bytes(b"weights %d " % number * 20_000)
        (folder / f"modeling_v{number}.py").write_text(f"VERSION = {number}\n")
    hub.fault, repo_id = None, f"{USER}/r{len(hub.repositories)}"
    repository = hub.repositories["model", repo_id] = Repository(private=False)
    repository.branches["main"].append(Commit({**contents(tmp_path / "v1"), **OTHERS}, "first"))
    return repo_id


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


OTHERS = {".gitattributes": b"*.safetensors filter=lfs", "notes.txt": b"by hand"}


def is_whole(hub: LoopbackHub, repo_id: str, folder: Path) -> bool:
    """Whether the newest commit has the files of a folder, and of others only those that nobody replaces."""
    return hub.head(repo_id).files == {**OTHERS, **contents(folder)}


def test_a_push_is_one_commit_that_replaces_what_is_ours_alone(hub, client, repository, tmp_path):
    url = client(UPLOAD, tmp_path / "v2", repository, replaced=REPLACED)
    assert url.endswith(hub.head(repository).sha)
    assert hub.history(repository) == ["initial commit", "first", "Publish"]
    assert is_whole(hub, repository, tmp_path / "v2")


@pytest.mark.parametrize(("stage", "kind"), PASSING)
def test_trouble_that_passes_is_waited_for(hub, client, repository, tmp_path, stage, kind):
    before = len(client.output())
    hub.fault = Fault(stage, kind, times=1)
    url = client(UPLOAD, tmp_path / "v2", repository, replaced=REPLACED)
    assert hub.fault.seen == 1
    assert url.endswith(hub.head(repository).sha)
    assert is_whole(hub, repository, tmp_path / "v2")
    assert hub.history(repository) == ["initial commit", "first", "Publish"]  # none twice
    waits = [line for line in client.output()[before:].splitlines() if line.startswith("waited")]
    assert waits
    if kind == 429:
        assert waits in (["waited 7 s"], ["waited 8 s"])  # the client adds a second


@pytest.mark.parametrize(("stage", "kind"), STAYING)
def test_trouble_that_stays_leaves_the_old_commit(hub, client, repository, tmp_path, stage, kind):
    before = hub.head(repository)
    hub.fault = Fault(stage, kind, times=ALWAYS)
    answer = client(UPLOAD, tmp_path / "v2", repository, replaced=REPLACED)
    assert hub.fault.seen
    assert hub.head(repository) is before
    expected = {401: "PermissionError", 403: "PermissionError"}.get(kind, "ConnectionError")
    assert answer["error"] == expected, answer
    assert repository in answer["text"]


def test_an_answer_that_is_lost_for_good_leaves_a_whole_commit(hub, client, repository, tmp_path):
    hub.fault = Fault("commit", "lost", times=ALWAYS)
    url = client(UPLOAD, tmp_path / "v2", repository, replaced=REPLACED)
    assert hub.fault.seen == 1  # the second attempt finds the commit there
    assert url.endswith(hub.head(repository).sha)
    assert is_whole(hub, repository, tmp_path / "v2")


def test_a_slow_answer_is_waited_for(hub, client, repository, tmp_path):
    hub.fault = Fault("commit", "slow")
    assert client(UPLOAD, tmp_path / "v2", repository, replaced=REPLACED).endswith(hub.head(repository).sha)


def test_a_commit_of_somebody_else_is_not_overwritten(hub, client, repository, tmp_path):
    hub.fault = Fault("commit", "overtake")
    answer = client(UPLOAD, tmp_path / "v2", repository, replaced=REPLACED)
    assert answer["error"] == "ConnectionError"
    assert "another commit" in answer["text"]
    assert hub.history(repository)[-1] == "somebody else"


def test_a_push_to_a_branch_leaves_the_main_one(hub, client, repository, tmp_path):
    before = hub.head(repository)
    client(UPLOAD, tmp_path / "v2", repository, revision="v2.0", replaced=REPLACED)
    assert hub.head(repository) is before
    assert hub.head(repository, branch="v2.0").files["modeling_v2.py"] == b"VERSION = 2\n"


def test_a_private_push_makes_a_private_repository_and_refuses_a_public_one(hub, client, repository, tmp_path):
    before = hub.head(repository)
    answer = client(UPLOAD, tmp_path / "v2", repository, private=True)
    assert answer["error"] == "ValueError" and "is public" in answer["text"]
    assert hub.head(repository) is before
    client(UPLOAD, tmp_path / "v2", f"{repository}-private", private=True)
    assert hub.repositories["model", f"{repository}-private"].private
    assert not hub.repositories["model", repository].private


def test_a_push_that_fails_first_leaves_an_empty_repository(hub, client, tmp_path, repository):
    hub.fault = Fault("commit", 500, times=ALWAYS)
    client(UPLOAD, tmp_path / "v2", f"{repository}-new")
    assert hub.history(f"{repository}-new") == ["initial commit"]


@pytest.mark.parametrize("repo_id", ["name", "a/b/c", "user/na me", "user/-x", "/name", "user/"])
def test_a_name_that_is_none_is_refused_before_anything_is_asked(hub, client, tmp_path, repo_id):
    asked = len(hub.requests)
    answer = client(UPLOAD, tmp_path, repo_id)
    assert answer["error"] == "ValueError" and "user/name" in answer["text"]
    assert len(hub.requests) == asked


def test_the_token_is_nowhere_in_what_was_printed(client):
    """The last test of this module: all failures above went into this output, the client's debug log too."""
    output = client.output()
    assert "PermissionError" in output and "authenticated: True" in output
    assert TOKEN not in output and TOKEN[5:25] not in output
