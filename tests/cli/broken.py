"""A server on loopback that is broken in one chosen way, over http or https."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.threaded import serving

Page = dict[str, Any] | tuple[int, dict[str, str], bytes]
# A page, or what makes one for the headers of a request.
Pages = dict[str, Page | Callable[[Message], Page]]


class BrokenServer:
    """Answers by path, whatever the method; `date` is what it tells of its time."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.pages: Pages = {}
        self.date: str | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                page = outer.pages.get(self.path, (404, {}, b""))
                if callable(page):
                    page = page(self.headers)
                status, headers, body = (
                    page
                    if isinstance(page, tuple)
                    else (200, {"Content-Type": "application/json"}, json.dumps(page).encode())
                )
                self.send_response_only(status)
                self.send_header("Date", outer.date or self.date_time_string())
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # A handshake that fails is the client's affair.
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign, assignment]
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"http{'' if context is None else 's'}://127.0.0.1:{self.port}"
        self._serving = serving(self._server)

    def __enter__(self) -> Self:
        self._serving.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._serving.__exit__(*raised)
