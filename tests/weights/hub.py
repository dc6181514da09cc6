"""A server on this machine that answers for one file as the Hugging Face hub does."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Mapping


class Hub:
    """Serves `content` under every path; the tests set what goes wrong.

    Attributes:
        content: The file.
        status: What it answers instead of 200, as (status, the hub's own error code).
        commit: Whether it says the file's commit, as the hub does and no other server.
        cut: After how many bytes the next connection breaks.
        size: What it says that the file's size is, if that is not true.
        requests: The methods and paths that it was asked for.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.status: tuple[int, str] | None = None
        self.commit = True
        self.cut: int | None = None
        self.size: int | None = None
        self.requests: list[str] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """From here on its port refuses connections."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(hub) -> type[http.server.BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.requests.append(f"HEAD {self.path}")
                size = hub.size or len(hub.content)
                self._head(200, {"Content-Length": str(size)})

            def do_GET(self) -> None:
                hub.requests.append(f"GET {self.path}")
                start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
                body = hub.content[start:]
                self._head(206 if start else 200, {"Content-Length": str(len(body))})
                cut, hub.cut = hub.cut, None
                self.wfile.write(body[:cut])
                self.close_connection = cut is not None

            def _head(self, status: int, headers: Mapping[str, str]) -> None:
                if hub.status:
                    status, code = hub.status
                    headers = {"X-Error-Code": code, "Content-Length": "0"}
                if hub.commit:
                    headers = {"X-Repo-Commit": self.path.split("/")[-2], **headers}
                self.send_response(status)
                self.send_header("ETag", f'"{hashlib.sha256(hub.content).hexdigest()}"')
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler
