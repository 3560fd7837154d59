"""The HTTP interface of the stand-in hub, as far as downloads need it.

It has a model's description, ``resolve`` with HEAD and GET, and a store of large files
on another host name, to which ``resolve`` redirects.  Commits, ETags, linked sizes,
ranges, tokens and error codes are the real hub's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from tests.hub.stand_in import StandInHub

TOKEN = "hf_stand_in"
"""The only valid token."""

_LARGE = (".safetensors", ".gguf", ".bin", ".pth")


@dataclass
class Request:
    """A request, and the number of bytes sent in answer."""

    method: str
    path: str
    headers: Message
    sent: int = 0

    @property
    def host(self) -> str:
        return self.headers["Host"].partition(":")[0]


@dataclass
class StandInRepository:
    """Files by revision; with a token they are accessible, unless ``shut``."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    shut: bool = False

    def commit(self, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Creates a commit and makes a revision point to it."""
        digest = hashlib.sha1(revision.encode())
        for name, content in sorted(files.items()):
            digest.update(name.encode() + content)
        commit = digest.hexdigest()
        self.commits[commit] = dict(files)
        self.revisions[revision] = commit
        return commit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandInHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self.request_note = Request(self.command, self.path, self.headers)
        self.hub.requests.append(self.request_note)
        path = url.path
        if self.hub.answer is not None:
            return self._error(self.hub.answer)
        sent = self.headers.get("Authorization")
        if path.startswith("/store/"):
            return self._store(path.rpartition("/")[2])
        if sent not in (None, f"Bearer {TOKEN}"):
            return self._error(
                401, message="Invalid credentials in Authorization header"
            )
        if match := re.fullmatch(
            r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path
        ):
            return self._model(
                match[1], unquote(match[2] or "main"), "blobs" in parse_qs(url.query)
            )
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(match[1], unquote(match[2]), unquote(match[3]))
        return self._error(404)

    def _repository(self, name: str) -> StandInRepository | None:
        repository = self.hub.repositories.get(name)
        known = self.headers.get("Authorization") is not None
        if repository is None or (repository.private and not known):
            self._error(404 if known else 401, "RepoNotFound", "Repository not found")
            return None
        return repository

    def _commit(self, repository: StandInRepository, revision: str) -> str | None:
        commit = repository.revisions.get(revision, revision)
        if commit not in repository.commits:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit

    def _model(self, name: str, revision: str, blobs: bool) -> None:
        repository = self._repository(name)
        commit = repository and self._commit(repository, revision)
        if not repository or not commit:
            return
        siblings = []
        for file, content in sorted(repository.commits[commit].items()):
            entry: dict[str, object] = {"rfilename": file}
            if blobs:
                entry |= {"size": len(content), "blobId": _git_digest(content)}
                if file.endswith(_LARGE):
                    entry["lfs"] = {
                        "sha256": hashlib.sha256(content).hexdigest(),
                        "size": len(content),
                        "pointerSize": 135,
                    }
            siblings.append(entry)
        body = {
            "_id": "0",
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "siblings": siblings,
        }
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repository = self._repository(name)
        if not repository:
            return
        known = self.headers.get("Authorization") is not None
        if repository.gated and (repository.shut or not known):
            status = 403 if known else 401
            return self._error(status, "GatedRepo", f"Access to {name} is restricted.")
        commit = self._commit(repository, revision)
        if not commit:
            return
        headers = {"X-Repo-Commit": commit}
        content = repository.commits[commit].get(file)
        if content is None:
            return self._error(404, "EntryNotFound", "Entry not found", headers)
        if not file.endswith(_LARGE):
            headers["ETag"] = f'"{_git_digest(content)}"'
            return self._send(200, content, headers)
        digest = hashlib.sha256(content).hexdigest()
        headers |= {
            "X-Linked-Size": str(len(content)),
            "X-Linked-Etag": f'"{digest}"',
            "Location": f"http://localhost:{self.hub.port}/store/{digest}",
        }
        self._send(302, b"Found. Redirecting.", headers)

    def _store(self, digest: str) -> None:
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                for content in files.values():
                    if hashlib.sha256(content).hexdigest() == digest:
                        return self._send_range(content, digest)
        self._error(404)

    def _send_range(self, content: bytes, digest: str) -> None:
        headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if self.hub.damage:
            content = bytes(len(content))
        if wanted is None or self.hub.ignore_ranges:
            return self._send(200, content, headers, is_store=True)
        first = int(wanted[1])
        last = min(int(wanted[2] or len(content)), len(content) - 1)
        if first > last:
            return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], headers, is_store=True)

    def _error(
        self,
        status: int,
        code: str | None = None,
        message: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        headers = dict(headers or {})
        if code:
            headers["X-Error-Code"] = code
        if message:
            headers["X-Error-Message"] = message
        body = json.dumps({"error": message or "error"}).encode()
        self._send(status, body, headers)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str],
        is_store: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        hub = self.hub
        is_whole = is_store and not self.headers.get("Range", "").startswith("bytes=0-")
        cut = None
        if is_whole and hub.stall_after is not None:
            cut = hub.stall_after
        elif is_whole and hub.cut_after:
            cut = hub.cut_after.pop(0)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body[:cut])
            self.request_note.sent = len(body[:cut])
            if cut is None:
                return
            self.wfile.flush()
            if hub.stall_after is not None:
                hub.stalled.set()
                hub.closing.wait()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


def _git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
