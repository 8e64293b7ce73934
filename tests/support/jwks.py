"""A token issuer's key server over HTTPS, of which a test says what it serves."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme


class KeyServer:
    """Serves `keys`, or what `answer` says instead; counts who asked."""

    def __init__(self, folder: Path, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.answer: tuple[int, bytes] | None = None
        self.asked = 0
        authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(), bind_and_activate=True)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02])
        self._thread.start()

    @property
    def url(self) -> str:
        return f"https://localhost:{self._server.server_port}/keys?v=1"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path == "/keys?v=1"
                server.asked += 1
                status, body = server.answer or (200, json.dumps({"keys": server.keys}).encode())
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Its clients are the test's business."""

        return Handler

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(25)
        self._server.server_close()


@contextlib.contextmanager
def key_server(folder: Path, *keys: dict[str, Any]) -> Iterator[KeyServer]:
    """A KeyServer for the length of a with block; it may be closed earlier."""
    made = KeyServer(folder, *keys)
    try:
        yield made
    finally:
        made.close()
