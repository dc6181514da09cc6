"""A server on this machine that answers for one file as the Hugging Face Hub does."""

from __future__ import annotations

import hashlib
import http.server
import threading


class Hub:
    """Serves `content` under every path.

    Attributes:
        content: The file.
        status: Status and the Hub's own error code to answer with, instead of 200.
        requests: Methods and paths of the requests so far.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.status: tuple[int, str] | None = None
        self.requests: list[str] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stops the server: its port refuses connections."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(hub) -> type[http.server.BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                status, code = hub.status or (200, None)
                self.send_response(status)
                self.send_header("ETag", f'"{hashlib.sha256(hub.content).hexdigest()}"')
                self.send_header("X-Repo-Commit", self.path.split("/")[-2])
                self.send_header("Content-Length", "0" if code else str(len(hub.content)))
                if code:
                    self.send_header("X-Error-Code", code)
                self.end_headers()

            def do_GET(self) -> None:
                self.do_HEAD()
                self.wfile.write(b"" if hub.status else hub.content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
