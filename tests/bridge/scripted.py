"""A gateway that answers each message as a test says, over loopback."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any, Self

from tests.scripted_server import Asked
from tests.threaded import serving

VERSION = "2025-06-18"


class Exchange(Asked):
    """One request to the gateway, which may be answered by events."""

    def begin_events(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()

    def event(self, data: bytes, event_id: str | None = None) -> None:
        named = b"" if event_id is None else f"id: {event_id}\n".encode()
        self.wfile.write(named + b"data: " + data + b"\n\n")
        self.wfile.flush()


Script = Callable[[Exchange, dict[str, Any]], object]


def _message_in(body: bytes) -> dict[str, Any]:
    # Python refuses to read a number of more digits.
    return json.loads(body, parse_int=lambda digits: int(digits[:4000]))


def result(message: dict[str, Any], value: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": message["id"], "result": value}


class ScriptedGateway:
    """Answers `initialize` itself, and leaves what has an answer to `script`.

    `methods` say what becomes of a `get`, a `delete` (405 without one) and a `notification` (202).
    """

    # What the names of its sessions begin with.
    sessions = "s"

    def __init__(self, script: Script, port: int = 0, **methods: Callable[[Exchange], object]) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(Exchange):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.requests.append((self.command, {k.lower(): v for k, v in self.headers.items()}, body))
                if self.command != "POST":
                    methods.get(self.command.lower(), lambda exchange: exchange.answer(status=405))(self)
                    return
                message = _message_in(body)
                if message.get("method") == "initialize":
                    about = {
                        "protocolVersion": VERSION,
                        "capabilities": {},
                        "serverInfo": {"name": "g", "version": "1"},
                    }
                    session = f"{outer.sessions}{outer.sent().count('initialize')}"
                    self.answer(result(message, about), Mcp_Session_Id=session)
                elif "id" not in message or "method" not in message:
                    methods.get("notification", lambda exchange: exchange.answer(status=202))(self)
                else:
                    script(self, message)

            do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign, assignment]
        self.url = f"http://127.0.0.1:{self._server.server_port}/mcp"
        self._serving = serving(self._server)

    def sent(self) -> list[str]:
        """The methods of the messages that came."""
        return [_message_in(body).get("method", "") for method, _, body in self.requests if method == "POST"]

    def __enter__(self) -> Self:
        self._serving.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._serving.__exit__(*raised)
