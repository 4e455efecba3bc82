"""A small Hub on this machine: enough of its HTTP protocol for the real client to publish and to load.

It keeps repositories in memory, takes a commit whole or not at all, and can be told to fail. What it proves is that
our calls make sense to a server that follows the protocol, and what is left behind where one of them fails; that the
real service answers the same way takes a push with a real account.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

USER = "user"
TOKEN = "hf_" + "LoopbackSecret" * 3
LFS_SUFFIXES = (".safetensors", ".arrow", ".png", ".bin")
TYPE_OF = {"models": "model", "datasets": "dataset", "spaces": "space"}
STAGES = {  # of a push, by the method and the path of its call
    "whoami": r"GET /api/whoami-v2",
    "create": r"POST /api/repos/create",
    "info": r"GET /api/(models|datasets)/[^/]+/[^/]+",
    "validate": r"POST /api/validate-yaml",
    "preupload": r"POST /api/.+/preupload/.+",
    "batch": r"POST /.+\.git/info/lfs/objects/batch",
    "upload": r"PUT /lfs/.+",
    "commit": r"POST /api/.+/commit/.+",
}
RESOLVE = re.compile(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
API = re.compile(
    r"/api/(models|datasets|spaces)/([^/]+/[^/]+?)(?:/(revision|tree|paths-info|preupload|commit|branch)/(.+))?"
)


@dataclass
class Fault:
    """What goes wrong: at a stage of a push, how, and how many times.

    Of the kinds that are no status, `"drop"` hangs up in the middle of what the client sends, `"lost"` does what is
    asked and then hangs up, `"slow"` thinks first, and at `"overtake"` somebody else's commit comes before.
    """

    stage: str
    kind: int | str  # a status, "drop", "lost", "slow" or "overtake"
    times: int = 1
    seen: int = 0


@dataclass
class Commit:
    """A state of a branch: its files by path, and what it is called."""

    files: dict[str, bytes]
    title: str
    sha: str = ""

    def __post_init__(self) -> None:
        parts = [f"{path} {hashlib.sha1(data).hexdigest()}" for path, data in sorted(self.files.items())]
        self.sha = hashlib.sha1("\n".join([self.title, str(time.monotonic_ns()), *parts]).encode()).hexdigest()


@dataclass
class Repository:
    """Branches, oldest commit first, and the large files that were uploaded, committed or not."""

    private: bool
    branches: dict[str, list[Commit]] = field(
        default_factory=lambda: {"main": [Commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")]}
    )
    uploads: dict[str, bytes] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        commits = (commit for branch in self.branches.values() for commit in branch)
        return next((commit for commit in commits if commit.sha == revision), None)


class LoopbackHub:
    """The server's state; `address` is what HF_ENDPOINT takes, `storage` another host, which must see no token."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.fault: Fault | None = None
        self.requests: list[str] = []
        self.address = self.storage = ""

    def head(self, repo_id: str, *, repo_type: str = "model", branch: str = "main") -> Commit:
        """The newest commit of a branch."""
        return self.repositories[repo_type, repo_id].branches[branch][-1]

    def history(self, repo_id: str, *, repo_type: str = "model", branch: str = "main") -> list[str]:
        """Titles of the commits of a branch, oldest first."""
        return [commit.title for commit in self.repositories[repo_type, repo_id].branches[branch]]


@contextmanager
def running_hub() -> Iterator[LoopbackHub]:
    """Runs a Hub in a thread of this process."""
    hub = LoopbackHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    hub.storage = f"http://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def git_oid(data: bytes) -> str:
    """The name of a file's content in git."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *_) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        kind = self._fault_of(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        if kind == "drop":  # in the middle of what the client sends
            self.rfile.read(length // 2)
            self._hang_up()
            return
        body = self.rfile.read(length)
        if kind == "slow":
            time.sleep(1.5)
        if isinstance(kind, int):
            headers = {"Retry-After": "7"} if kind == 429 else {}
            self._answer(kind, {"error": f"told to answer {kind}"}, headers)
            return
        if kind == "overtake":
            self._overtake()
        status, content, headers = self._respond(path, body)
        if kind == "lost":
            self._hang_up()
        else:
            self._answer(status, content, headers)

    def _fault_of(self, request: str) -> int | str | None:
        fault = self.hub.fault
        if fault is None or fault.seen >= fault.times or not re.fullmatch(STAGES[fault.stage], request):
            return None
        fault.seen += 1
        return fault.kind

    def _overtake(self) -> None:
        for repository in list(self.hub.repositories.values())[-1:]:
            head = repository.branches["main"][-1]
            repository.branches["main"].append(Commit({**head.files, "new.txt": b""}, "somebody else"))

    def _hang_up(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, status: int, content, headers: dict[str, str]) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _respond(self, path: str, body: bytes) -> tuple[int, object, dict[str, str]]:
        if path.startswith("/lfs/") and self.command != "POST":
            is_leaked = "Authorization" in self.headers
            return (400, {"error": "a token for the storage"}, {}) if is_leaked else self._large_file(path, body)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}, {}
        if path.startswith("/lfs/"):
            return self._large_file(path, body)
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": USER, "orgs": []}, {}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body))
        for pattern, respond in ((RESOLVE, self._resolve), (API, self._api)):
            found = pattern.fullmatch(path)
            if found:
                return respond(*found.groups(), body)
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(path, json.loads(body))
        return 404, {"error": f"no {path}"}, {}

    def _create(self, asked: dict) -> tuple[int, object, dict[str, str]]:
        repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
        key, url = (asked.get("type", "model"), repo_id), f"{self.hub.address}/{repo_id}"
        if asked.get("type") == "dataset":
            url = f"{self.hub.address}/datasets/{repo_id}"
        if key in self.hub.repositories:
            return 409, {"error": "You already created this repo", "url": url}, {}
        self.hub.repositories[key] = Repository(asked.get("visibility") == "private" or bool(asked.get("private")))
        return 200, {"url": url, "name": repo_id, "id": repo_id}, {}

    def _validate(self, asked: dict) -> tuple[int, object, dict[str, str]]:
        if not asked["content"].startswith("---\n"):
            return 400, {"errors": [{"message": "no metadata"}], "warnings": []}, {}
        return 200, {"errors": [], "warnings": []}, {}

    def _api(self, kind: str, repo_id: str, call: str | None, rest: str | None, body: bytes):
        repository = self.hub.repositories.get((TYPE_OF[kind], repo_id))
        if repository is None:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        revision, _, folder = (rest or "main").partition("/")
        if call == "branch":
            return self._branch(repository, revision)
        commit = repository.find(revision)
        if commit is None:
            return 404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"}
        if call in (None, "revision"):
            files = [{"rfilename": path} for path in commit.files]
            return 200, {"id": repo_id, "sha": commit.sha, "private": repository.private, "siblings": files}, {}
        if call == "tree":
            return 200, [_entry(path, data) for path, data in commit.files.items() if path.startswith(folder)], {}
        if call == "paths-info":
            asked = json.loads(body)["paths"]
            return 200, [_entry(path, data) for path, data in commit.files.items() if path in asked], {}
        if call == "preupload":
            return 200, {"files": [_upload_mode(file["path"], commit) for file in json.loads(body)["files"]]}, {}
        url = f"{self.hub.address}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        return self._commit(repository, revision, [json.loads(line) for line in body.splitlines()], url=url)

    def _branch(self, repository: Repository, name: str):
        if name in repository.branches:
            return 409, {"error": "Reference already exists"}, {}
        repository.branches[name] = list(repository.branches["main"])
        return 200, {}, {}

    def _batch(self, path: str, asked: dict):
        repo_type, repo_id = _split(path.removesuffix(".git/info/lfs/objects/batch").lstrip("/"))
        uploads = self.hub.repositories[repo_type, repo_id].uploads
        objects = []
        for item in asked["objects"]:
            place = f"lfs/{repo_type}/{repo_id}/{item['oid']}"
            hosts = {"upload": self.hub.storage, "verify": self.hub.address}
            actions = {action: {"href": f"{host}/{place}"} for action, host in hosts.items()}
            is_new = item["oid"] not in uploads
            objects.append({"oid": item["oid"], "size": item["size"], **({"actions": actions} if is_new else {})})
        return 200, {"transfer": "basic", "objects": objects}, {}

    def _large_file(self, path: str, body: bytes):
        _, _, repo_type, user, name, oid = path.split("/")
        uploads = self.hub.repositories[repo_type, f"{user}/{name}"].uploads
        if self.command == "PUT":
            if hashlib.sha256(body).hexdigest() != oid:
                return 400, {"error": "not what was announced"}, {}
            uploads[oid] = body
            return 200, {}, {}
        if self.command == "POST":  # verify
            is_there = oid in uploads and len(uploads[oid]) == json.loads(body)["size"]
            return (200 if is_there else 404), {}, {}
        return 200, uploads[oid], {"ETag": f'"{oid}"'}

    def _commit(self, repository: Repository, branch: str, lines: list[dict], *, url: str):
        """Takes a commit whole: all is checked before the branch moves."""
        header, head = lines[0]["value"], repository.branches[branch][-1]
        if header.get("parentCommit") not in (None, head.sha):
            return 412, {"error": "A commit has happened since. Please refresh and try again."}, {}
        files = dict(head.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if len(repository.uploads.get(value["oid"], b"")) != value["size"]:
                    return 400, {"error": f"{value['path']} was not uploaded"}, {}
                files[value["path"]] = repository.uploads[value["oid"]]
            elif files.pop(value["path"], None) is None:
                return 404, {"error": "A file with this name doesn't exist"}, {}
        repository.branches[branch].append(Commit(files, header["summary"]))
        sha = repository.branches[branch][-1].sha
        return 200, {"commitUrl": f"{url}/commit/{sha}", "commitOid": sha, "pullRequestUrl": None}, {}

    def _resolve(self, prefix: str | None, repo_id: str, revision: str, path: str, _: bytes):
        repo_type = TYPE_OF[prefix or "models"]
        repository = self.hub.repositories.get((repo_type, repo_id))
        if repository is None:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        commit = repository.find(revision)
        if commit is None:
            return 404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"}
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            return 404, {"error": "Entry not found"}, {**headers, "X-Error-Code": "EntryNotFound"}
        data = commit.files[path]
        if not path.endswith(LFS_SUFFIXES):
            return 200, data, {**headers, "ETag": f'"{git_oid(data)}"'}
        oid = hashlib.sha256(data).hexdigest()
        linked = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{oid}"'}
        return 302, b"", {**headers, **linked, "Location": f"{self.hub.storage}/lfs/{repo_type}/{repo_id}/{oid}"}


def _split(key: str) -> tuple[str, str]:
    """Splits `datasets/user/name` or `user/name` into the repository's type and name."""
    kind, _, repo_id = key.partition("/") if key.startswith(("datasets/", "spaces/")) else ("models", "", key)
    return TYPE_OF[kind], repo_id


def _entry(path: str, data: bytes) -> dict:
    entry = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
    if path.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def _upload_mode(path: str, commit: Commit) -> dict:
    is_large, data = path.endswith(LFS_SUFFIXES), commit.files.get(path)
    mode = {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
    if data is None:
        return mode
    return {**mode, "oid": hashlib.sha256(data).hexdigest() if is_large else git_oid(data)}
