"""A Hugging Face Hub on this machine: the part of its HTTP interface that huggingface_hub uses for models.

Written after the requests of the client, not after the Hub, which no test reaches: repositories with commits, small
files in the commit and large ones by Git LFS, redirects to another host, and the Hub's way to say in headers what is
wrong.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LARGE = (".safetensors", ".bin")
MAY = {"reader": "read", "writer": "write"}
"""What each token may do."""


@dataclass
class Repository:
    """Commits, oldest first: (id, path -> content)."""

    private: bool = False
    gated: bool = False
    status: int | None = None
    """What it answers to everything, if anything is wrong."""
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def add(self, files: dict[str, bytes]) -> str:
        """A commit on main."""
        whole = {**(self.commits[-1][1] if self.commits else {}), **files}
        text = repr([(path, hashlib.sha256(content).hexdigest()) for path, content in sorted(whole.items())])
        self.commits.append((hashlib.sha1(f"{len(self.commits)}{text}".encode()).hexdigest(), whole))
        return self.commits[-1][0]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """main, or a commit."""
        if revision == "main":
            return self.commits[-1] if self.commits else ("0" * 40, {})
        return next((commit for commit in self.commits if commit[0] == revision), None)


class FakeHub(ThreadingHTTPServer):
    """Listens on 127.0.0.1; `repositories` by OWNER/NAME; `seen` is "METHOD path" of every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.elsewhere: list[str | None] = []
        """The Authorization header of each request to the host of large files."""
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """No network from now on."""
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Nothing on standard error."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.seen.append(f"{self.command} {path}")
        body = self._body()
        for method, pattern, action in ROUTES:
            if self.command in method.split("/") and (match := re.fullmatch(pattern, path)):
                action(self, body, **match.groupdict())
                return
        self._send(404, {"error": f"no such page: {path}"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, status: int, content: Any = b"", **headers: str) -> None:
        packed = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(packed)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(packed)

    def _right(self) -> str | None:
        """What the sender may: read, write, or only what anybody may."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return MAY.get(token) if scheme == "Bearer" else None

    def _wrong_token(self) -> bool:
        return "Authorization" in self.headers and self._right() is None

    def _repository(self, name: str, *, write: bool = False) -> Repository | None:
        """Or an answer that says why not, as the Hub does: to strangers, what is hidden is not there."""
        found, right = self.server.repositories.get(name), self._right()
        if found is not None and found.status is not None:
            self._send(found.status, {"error": "out of order"})
        elif self._wrong_token():
            self._send(401, {"error": "bad token"}, X_Error_Message="Invalid credentials in Authorization header")
        elif found is None or (found.private and right is None):
            self._send(404 if right else 401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif write and right != "write":
            self._send(403, {"error": "forbidden"}, X_Error_Message="your token cannot write here")
        else:
            return found
        return None

    def _state(self, name: str, revision: str, **options: bool) -> tuple[str, dict[str, bytes]] | None:
        repository = self._repository(name, **options)
        if repository is None:
            return None
        state = repository.at(revision)
        if state is None:
            self._send(404, {"error": "no such revision"}, X_Error_Code="RevisionNotFound")
        return state

    # What the client asks for.

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        if self._wrong_token() or self._right() is None:
            self._send(401, {"error": "who are you?"})
        elif self._right() != "write":
            self._send(403, {"error": "forbidden"}, X_Error_Message="your token cannot create repositories")
        elif (name := f"{asked['organization']}/{asked['name']}") in self.server.repositories:
            told = {"error": "You already created this model repo", "url": f"{self.server.endpoint}/{name}"}
            self._send(409, told)
        else:
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.server.repositories[name] = Repository(private=private)
            self._send(200, {"url": f"{self.server.endpoint}/{name}"})

    def about(self, _: bytes, name: str, revision: str | None = None) -> None:
        state = self._state(name, revision or "main")
        if state is not None:
            private = self.server.repositories[name].private
            siblings = [{"rfilename": path} for path in state[1]]
            self._send(200, {"id": name, "sha": state[0], "private": private, "siblings": siblings, "tags": []})

    def validate(self, body: bytes) -> None:
        match = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        header = yaml.safe_load(match[1]) if match else None
        if isinstance(header, dict):
            self._send(200, {"errors": [], "warnings": []})
        else:
            self._send(400, {"errors": [{"message": "no YAML header"}], "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        state = self._state(name, revision, write=True)
        if state is not None:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": _object_id(state[1], file["path"]),
                }
                for file in json.loads(body)["files"]
            ]
            self._send(200, {"files": files})

    def batch(self, body: bytes, name: str) -> None:
        if self._repository(name, write=True) is not None:
            objects = [
                thing
                if thing["oid"] in self.server.large
                else thing | {"actions": {"upload": {"href": f"{self.server.endpoint}/large/{thing['oid']}"}}}
                for thing in json.loads(body)["objects"]
            ]
            self._send(200, {"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._send(400, {"error": "other bytes than announced"})
            return
        self.server.large[oid] = body
        self._send(200)

    def commit(self, body: bytes, name: str, revision: str) -> None:
        if self._state(name, revision, write=True) is None:
            return
        files = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        oid = self.server.repositories[name].add(files)
        self._send(200, {"commitOid": oid, "commitUrl": f"{self.server.endpoint}/{name}/commit/{oid}", "success": True})

    def resolve(self, _: bytes, name: str, revision: str, file: str) -> None:
        state = self._state(name, revision)
        if state is None:
            return
        commit, files = state
        if self.server.repositories[name].gated and self._right() != "write":
            self._send(401 if self._right() is None else 403, {"error": "gated"}, X_Error_Code="GatedRepo")
        elif file not in files:
            self._send(404, {"error": "no such file"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        elif file.endswith(LARGE):
            oid = hashlib.sha256(files[file]).hexdigest()
            self.server.large[oid] = files[file]
            self._send(
                302,
                Location=f"http://localhost:{self.server.server_port}/elsewhere/{oid}",
                X_Repo_Commit=commit,
                X_Linked_Etag=f'"{oid}"',
                X_Linked_Size=str(len(files[file])),
            )
        else:
            self._send(200, files[file], X_Repo_Commit=commit, ETag=f'"{_object_id(files, file)}"')

    def elsewhere(self, _: bytes, oid: str) -> None:
        self.server.elsewhere.append(self.headers.get("Authorization"))
        self._send(200, self.server.large[oid], ETag=f'"{oid}"')


def _object_id(files: dict[str, bytes], path: str) -> str | None:
    """Git's name of a small file, the sha256 of a large one."""
    if path not in files:
        return None
    if path.endswith(LARGE):
        return hashlib.sha256(files[path]).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(files[path]) + files[path]).hexdigest()


_MODEL = r"(?P<name>[^/]+/[^/]+)"
ROUTES = (
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("GET", f"/api/models/{_MODEL}(?:/revision/(?P<revision>.+))?", Handler.about),
    ("POST", f"/api/models/{_MODEL}/preupload/(?P<revision>.+)", Handler.preupload),
    ("POST", f"/api/models/{_MODEL}/commit/(?P<revision>.+)", Handler.commit),
    ("POST", rf"/{_MODEL}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/large/(?P<oid>[0-9a-f]+)", Handler.upload),
    ("GET/HEAD", "/elsewhere/(?P<oid>[0-9a-f]+)", Handler.elsewhere),
    ("GET/HEAD", f"/{_MODEL}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", Handler.resolve),
)
