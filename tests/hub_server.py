"""A server on this machine that answers for repositories as the Hugging Face Hub does."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/([^/]+)/([^/]+)(?:/(.*))?)?")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.*)")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub, and clients that ask it and have empty caches."""
    hub = HubServer()
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses.json"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()  # one that an earlier test opened knows another environment
    yield hub
    hub.close()
    close_session()


class HubServer:
    """Serves commits of repositories; the last one is `main`.

    Attributes:
        repositories: `{"datasets/owner/name": {commit: {path: content}}}`, or `"models/…"`.
        gated: Repositories that it shows to nobody.
        down: Whether it answers with an error of its own.
        requests: Methods and paths of the requests so far.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.gated: set[str] = set()
        self.down = False
        self.requests: list[str] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        """Adds a commit of all files of a repository; returns its hash."""
        commits = self.repositories.setdefault(repository, {})
        commit = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits[commit] = files
        return commit

    def close(self) -> None:
        """Stops the server: its port refuses connections."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(hub) -> type[http.server.BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"  # no connection outlives the server

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_POST(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.requests.append(f"{self.command} {path}")
                if hub.down:
                    return self.answer(503)
                api, file = _API.fullmatch(path), _FILE.fullmatch(path)
                if api:
                    repository, revision = f"{api[1]}/{api[2]}", api[4] or "main"
                elif file:
                    repository, revision = f"{file[1] or 'models/'}{file[2]}", file[3]
                commits = hub.repositories.get(repository) if api or file else None
                if commits is None:
                    return self.answer(404, code="RepoNotFound")
                if repository in hub.gated:
                    return self.answer(403, code="GatedRepo")
                commit = [*commits][-1] if revision == "main" else revision
                if commit not in commits:
                    return self.answer(404, code="RevisionNotFound")
                if api:
                    return self.answer(200, json.dumps(self.listing(api, commit)).encode())
                content = commits[commit].get(file[4]) if file else None
                if content is None:
                    return self.answer(404, code="EntryNotFound", commit=commit)
                return self.answer(200, content, commit=commit)

            def listing(self, api: re.Match[str], commit: str) -> Any:
                """What the API says of a repository, of a folder in it, or of some paths."""
                files = hub.repositories[f"{api[1]}/{api[2]}"][commit]
                if api[3] in (None, "revision"):
                    return {"id": api[2], "sha": commit, "siblings": []}
                folders = {str(above) for name in files for above in PurePosixPath(name).parents}
                entries: dict[str, Any] = {
                    name: {"type": "directory", "path": name, "oid": ""} for name in folders - {"."}
                }
                for name, content in files.items():
                    entries[name] = {"type": "file", "path": name, **_about(content)}
                if api[3] == "paths-info":
                    body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                    return [x for x in map(entries.get, parse_qs(body)["paths"]) if x]
                below, deep = f"{api[5]}/" if api[5] else "", "recursive=true" in self.path.lower()
                found = [name for name in entries if name.startswith(below)]
                return [entries[x] for x in found if deep or "/" not in x[len(below) :]]

            def answer(self, status: int, content: bytes = b"", code="", commit="") -> None:
                self.send_response(status)
                if code:
                    self.send_header("X-Error-Code", code)
                if commit:
                    self.send_header("X-Repo-Commit", commit)
                    self.send_header("ETag", f'"{_about(content)["oid"]}"')
                if part := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
                    content = content[int(part[1]) : int(part[2] or len(content)) + 1]
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _about(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "oid": hashlib.sha1(content).hexdigest()}
