"""An authorization server, or anything else on loopback, that answers as a test says."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs

from tests.threaded import serving


class Asked(BaseHTTPRequestHandler):
    """One request, and what it is answered with."""

    protocol_version = "HTTP/1.1"
    form: dict[str, list[str]]

    def answer(self, body: object = b"", status: int = 200, kind: str = "application/json", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class ScriptedServer(AbstractContextManager["ScriptedServer"]):
    """`seen` has the path, the headers (in lower case) and the form of each request."""

    def __init__(self, script: Callable[[Asked], object], host: str = "127.0.0.1") -> None:
        self.seen: list[tuple[str, dict[str, str], dict[str, list[str]]]] = []
        outer = self

        class Handler(Asked):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
                self.form = parse_qs(body)
                outer.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, self.form))
                script(self)

            do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        self._server = Server((host, 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign, assignment]
        self.port = self._server.server_port
        self.url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
        self._serving = serving(self._server)

    def __enter__(self) -> Self:
        self._serving.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._serving.__exit__(*raised)
