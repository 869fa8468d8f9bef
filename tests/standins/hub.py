"""A Hugging Face hub on the loopback, which speaks enough of the hub's HTTP for its own client."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

_PIECE = 4096


@dataclass
class Repository:
    """``commits``: files by commit; ``branches``: commit by name; ``readers``: tokens that may read
    it, where it is private or gated."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)

    def push(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Move ``branch`` to new content; returns the commit."""
        told = repr((sorted(files.items()), len(self.commits))).encode()
        commit = hashlib.sha1(told).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit

    def at(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    token: str
    begin: int


class StandInHub:
    """Serves ``repositories`` at ``endpoint`` while it is entered.

    What tests may set: ``bytes_per_second`` of each answer; ``failures``, how many requests are
    answered with ``status`` first; ``silent`` repositories, which answer so for ever;
    ``cut_after``, bytes after which a download is cut off, ``cuts`` times; ``spoil``, what is done
    to the bytes of a file on their way; ``cdn``: large files come from another host name; not
    ``ranges``: whoever asks for a part of a file gets all of it.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens: set[str] = set()
        self.seen: list[Seen] = []
        self.bytes_per_second = 0.0
        self.failures = 0
        self.status = 503
        self.silent: set[str] = set()
        self.cut_after = 0
        self.cuts = 0
        self.spoil: dict[str, bytes] = {}
        self.cdn = False
        self.ranges = True
        self.bytes_sent = 0
        self.lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            standin = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def repository(self, name: str, **options: Any) -> Repository:
        """Make one; the tokens of its readers become known to the hub."""
        made = self.repositories[name] = Repository(**options)
        self.tokens |= made.readers
        return made

    def downloads(self) -> list[Seen]:
        return [one for one in self.seen if "/resolve/" in one.path and one.method == "GET"]

    def questions(self) -> list[Seen]:
        return [one for one in self.seen if one.path.startswith("/api/")]

    def __enter__(self) -> StandInHub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    standin: StandInHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.standin
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        begin = int(re.findall(r"bytes=(\d+)-", self.headers.get("Range", "") or "bytes=0-")[0])
        with hub.lock:
            hub.seen.append(Seen(self.command, path, token, begin))
            failing = hub.failures > 0
            hub.failures -= failing
        if failing or any(f"/{name}/" in path + "/" for name in hub.silent):
            self._refuse(hub.status)
        elif matched := re.fullmatch(r"/cdn/(.+)/([0-9a-f]{40})/([^/]+)", path):
            self._file(hub.repositories[matched[1]].commits[matched[2]], matched[3], matched[2])
        elif token and token not in hub.tokens:
            self._refuse(401, message="Invalid credentials in Authorization header")
        elif matched := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path):
            self._info(matched[1], matched[2] or "main", token)
        elif matched := re.fullmatch(r"/(.+?)/resolve/(.+)/([^/]+)", path):
            self._resolve(*matched.groups(), token)
        else:
            self._refuse(404)

    def _info(self, name: str, revision: str, token: str) -> None:
        check = name.endswith("/auth-check")
        repository = self._readable(name.removesuffix("/auth-check"), token)
        if repository is None:
            return
        if check:
            refused = repository.gated and token not in repository.readers
            self._refuse(403, "GatedRepo") if refused else self._send(200, b"{}")
            return
        commit = repository.at(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
            return
        siblings = [_sibling(*file) for file in repository.commits[commit].items()]
        info = {
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "siblings": siblings,
            "tags": [],
        }
        self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, file: str, token: str) -> None:
        repository = self._readable(name, token)
        if repository is None:
            return
        if repository.gated and token not in repository.readers:
            self._refuse(403, "GatedRepo")
            return
        commit = repository.at(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
        elif file not in repository.commits[commit]:
            self._refuse(404, "EntryNotFound")
        elif self.standin.cdn and _is_large(file):
            content = repository.commits[commit][file]
            place = f"http://localhost:{self.standin.port}/cdn/{name}/{commit}/{file}"
            self._send(302, b"", {"Location": place, **_told(file, content, commit)})
        else:
            self._file(repository.commits[commit], file, commit)

    def _readable(self, name: str, token: str) -> Repository | None:
        """The repository; None, and an answer that says so, where it is not for this token."""
        repository = self.standin.repositories.get(name)
        hidden = repository is not None and repository.private and token not in repository.readers
        if repository is None or hidden:
            self._refuse(404 if token else 401, "RepoNotFound")
            return None
        return repository

    def _file(self, files: Mapping[str, bytes], file: str, commit: str) -> None:
        content = files[file]
        told = _told(file, content, commit)
        matched = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        sent = self.standin.spoil.get(file, content)
        if matched is None or not self.standin.ranges:
            self._send(200, sent, told)
        elif int(matched[1]) >= len(content):
            self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        else:
            begin = int(matched[1])
            told["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            self._send(206, sent[begin:], told)

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        told = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, b"{}", {name: value for name, value in told.items() if value})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        hub = self.standin
        cut = len(body)
        with hub.lock:
            if status in (200, 206) and "/resolve/" in self.path and hub.cuts > 0:
                if cut > hub.cut_after:
                    hub.cuts -= 1
                cut = min(cut, hub.cut_after)
        for begin in range(0, cut, _PIECE):
            piece = body[begin : min(begin + _PIECE, cut)]
            if hub.bytes_per_second:
                time.sleep(len(piece) / hub.bytes_per_second)
            try:
                self.wfile.write(piece)
            except OSError:
                return
            hub.bytes_sent += len(piece)
        if cut < len(body):
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)


def _is_large(file: str) -> bool:
    return file.endswith((".safetensors", ".pt", ".bin"))


def _sibling(file: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    told: dict[str, Any] = {"rfilename": file, "size": len(content), "blobId": blob}
    if _is_large(file):
        digest = hashlib.sha256(content).hexdigest()
        told["lfs"] = {"size": len(content), "sha256": digest, "pointerSize": 134}
    return told


def _told(file: str, content: bytes, commit: str) -> dict[str, str]:
    sibling = _sibling(file, content)
    digest = sibling["lfs"]["sha256"] if "lfs" in sibling else sibling["blobId"]
    told = {"ETag": f'"{digest}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
    if "lfs" in sibling:
        told |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{digest}"'}
    return told
