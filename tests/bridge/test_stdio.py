"""The stdio bridge between a client and a gateway that keep no rule: every request has an answer."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conduit_oauth import TokenProvider
from conduit_oauth.bridge.events import ServerEvent, server_events
from conduit_oauth.bridge.exchange import Answer, Question, reason_of
from conduit_oauth.bridge.gateway import Gateway
from conduit_oauth.bridge.mirror import Mirror
from conduit_oauth.bridge.stdio import split_lines
from conduit_oauth.testing import AuthorizationServer
from tests.bridge.scripted import VERSION, Exchange, Script, ScriptedGateway, result
from tests.conftest import COMMAND
from tests.scripted_server import Asked, ScriptedServer

PARAMETERS = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": PARAMETERS}
INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
PING = {"jsonrpc": "2.0", "id": "p", "method": "ping"}


class Stdio:
    """The bridge as a client starts it, and the gateway behind it."""

    def __init__(
        self, environment: dict[str, str], gateway: ScriptedGateway, *arguments: str, verbose: bool = False
    ) -> None:
        self.gateway = gateway
        self.process = subprocess.Popen(
            [COMMAND, *(["-v"] if verbose else []), "bridge", "--mcp-url", gateway.url, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout

    def send(self, line: bytes) -> None:
        self._stdin.write(line + b"\n")
        self._stdin.flush()

    def line(self) -> bytes:
        return self._stdout.readline()

    def ask(self, message: dict[str, Any] | bytes) -> dict[str, Any]:
        self.send(message if isinstance(message, bytes) else json.dumps(message).encode())
        return json.loads(self.line())

    def begin(self) -> Stdio:
        assert self.ask(INITIALIZE)["result"]["protocolVersion"] == VERSION
        self.send(INITIALIZED)
        return self

    def end(self) -> tuple[int, str]:
        with self.process as process:
            out, err = process.communicate(timeout=30)
            assert out == b""
            return process.returncode, err.decode()


OpenStdio = Callable[..., Stdio]


@pytest.fixture
def open_stdio(bridge_environment: dict[str, str], authorization_server: AuthorizationServer) -> Iterator[OpenStdio]:
    with ExitStack() as stack:

        def open_stdio(
            script: Script, *arguments: str, verbose: bool = False, **methods: Callable[[Exchange], object]
        ) -> Stdio:
            gateway = stack.enter_context(ScriptedGateway(script, **methods))
            endpoint = "--token-endpoint", authorization_server.token_endpoint()
            bridge = Stdio(bridge_environment, gateway, *endpoint, *arguments, verbose=verbose)
            stack.enter_context(bridge.process)
            stack.callback(bridge.process.kill)
            return bridge.begin()

        yield open_stdio


def echo(exchange: Exchange, message: dict[str, Any]) -> None:
    exchange.answer(result(message, message.get("params", {})))


def test_verbose_says_which_requests_went_where(open_stdio: OpenStdio) -> None:
    bridge = open_stdio(echo, verbose=True)
    bridge.ask({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    status, said = bridge.end()
    assert status == 0
    assert f"POST {bridge.gateway.url}: 200 in " in said


@pytest.mark.parametrize(
    ("line", "code", "request_id"),
    [
        (b"hello", -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', -32700, None),
        (b'[{"jsonrpc":"2.0","id":10,"method":"ping"}]', -32600, None),
        (b'{"jsonrpc":"2.0","id":9,"method":"foo","params":[1]}', -32600, 9),
        (b'{"id":11,"method":"ping"}', -32600, 11),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}', -32700, None),
        (b'{"jsonrpc":"2.0","id":1e999,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":"x","method":7}', -32600, "x"),
        (b'{"jsonrpc":"2.0","id":"x"}', -32600, "x"),
        (b"7", -32600, None),
    ],
)
def test_what_is_no_message_is_refused_and_goes_nowhere(
    line: bytes, code: int, request_id: object, open_stdio: OpenStdio
) -> None:
    bridge = open_stdio(echo)
    answer = bridge.ask(line)
    assert (answer["error"]["code"], answer["id"]) == (code, request_id)
    assert bridge.ask(PING)["id"] == "p"
    assert bridge.gateway.sent() == ["initialize", "notifications/initialized", "ping"]


def test_messages_pass_unchanged_both_ways(open_stdio: OpenStdio) -> None:
    deep = b"[" * 300 + b"]" * 300
    body = b'{ "jsonrpc":"2.0", "id":1,\r\n "result":{"t":"\\ud83d", "deep":' + deep + b"}}"
    bridge = open_stdio(lambda exchange, _: exchange.answer(body))
    line = b'{"jsonrpc": "2.0",  "id":1,"method":"tools/call","params":{"name":"n","arguments":{"t":"\\ud83d"}}}'
    bridge.send(line)
    assert bridge.line() == body.replace(b"\r\n", b"  ") + b"\n"
    assert line in [body for _, _, body in bridge.gateway.requests]
    assert {headers["accept-encoding"] for _, headers, _ in bridge.gateway.requests} == {"identity"}


@pytest.mark.parametrize("by_events", [False, True])
def test_a_number_that_python_does_not_read_passes_both_ways(by_events: bool, open_stdio: OpenStdio) -> None:
    number = b"7" * 5000
    body = b'{"jsonrpc":"2.0","id":1,"result":{"n":' + number + b"}}"

    def answer(exchange: Exchange, _: dict[str, Any]) -> None:
        if by_events:
            exchange.begin_events()
            exchange.event(body)
        else:
            exchange.answer(body)

    bridge = open_stdio(answer)
    line = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"n","arguments":{"n":' + number + b"}}}"
    bridge.send(line)
    assert bridge.line() == body + b"\n"
    assert line in [body for _, _, body in bridge.gateway.requests]


def test_a_method_that_no_header_can_have_is_the_gateways_to_judge(open_stdio: OpenStdio) -> None:
    modern = b'{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}'
    bridge = open_stdio(echo)
    line = b'{"jsonrpc":"2.0","id":1,"method":"\\ud83d","params":' + modern + b"}"
    assert bridge.ask(line)["id"] == 1
    assert line in [body for _, _, body in bridge.gateway.requests]


@pytest.mark.parametrize("given", [[], ["--print-config", "cursor"]])
@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_its_input_is_the_clients_and_no_secret(given: list[str], name: str) -> None:
    options = ["--client-id", "a", "--mcp-url", "https://gateway.example/mcp", "--client-secret-file", name]
    # The input stays open, as that of a client does.
    with subprocess.Popen(
        [COMMAND, "bridge", *options, *given], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as bridge:
        assert bridge.stderr is not None
        assert f"--client-secret-file: {name} reads standard input" in bridge.stderr.read().decode()
        assert bridge.wait() == 2


def test_a_line_in_pieces_is_one_message(open_stdio: OpenStdio) -> None:
    bridge = open_stdio(echo)
    assert bridge.process.stdin is not None
    for piece in (b'{"jsonrpc":"2.0",', b'"id":1,"method":"ping"}', b"\n"):
        bridge.process.stdin.write(piece)
        bridge.process.stdin.flush()
    assert json.loads(bridge.line())["id"] == 1


@given(st.lists(st.sampled_from([b"\n", b"\n\n", b"a", b"", b"bc\nd", b"long" * 3])))
def test_lines_are_those_of_the_whole_however_it_is_cut(pieces: list[bytes]) -> None:
    given_pieces = iter([piece for piece in pieces if piece])
    whole = b"".join(pieces)
    expected = whole.removesuffix(b"\n").split(b"\n") if whole else []
    assert list(split_lines(lambda: next(given_pieces, b""), 1 << 20)) == expected


def test_a_stream_may_begin_with_the_mark_of_utf_8(open_stdio: OpenStdio) -> None:
    def answer(exchange: Exchange, message: dict[str, Any]) -> None:
        exchange.begin_events()
        exchange.wfile.write(b"\xef\xbb\xbf")
        exchange.event(json.dumps(result(message, {})).encode())

    assert open_stdio(answer).ask(PING) == result(PING, {})


@given(st.lists(st.sampled_from([b"data: a", b"\n", b"\r", b"\r\n", b"id: 1", b"retry: 5", b":", b"", b"data:b\n\n"])))
@example([b"data: a", b"\r", b"\n"])
def test_events_are_those_of_the_whole_however_they_are_cut(pieces: list[bytes]) -> None:
    async def cut(parts: list[bytes]) -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    async def read(parts: list[bytes]) -> list[ServerEvent]:
        return [event async for event in server_events(cut(parts), 1000)]

    assert asyncio.run(read(pieces)) == asyncio.run(read([b"".join(pieces)]))


@pytest.mark.parametrize("said", [b"retry: 0", b"retry: 1", b"retry: 99999999"])
def test_how_soon_a_stream_is_resumed_is_bounded(said: bytes) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield said + b"\n\n"

    async def read() -> list[float | None]:
        return [event.retry async for event in server_events(stream(), 1000)]

    (retry,) = asyncio.run(read())
    assert retry is not None
    assert 0.1 <= retry <= 60.0


def test_an_event_id_that_is_longer_than_a_header_is_not_kept() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"id: 1\ndata: a\n\nid: " + b"2" * 9000 + b"\ndata: b\n\n"

    async def read() -> list[tuple[bytes, str | None]]:
        return [(event.data, event.id) async for event in server_events(stream(), 10_000)]

    assert asyncio.run(read()) == [(b"a", "1"), (b"b", None)]


@pytest.mark.parametrize(
    ("left_by", "said", "limit"),
    [
        pytest.param(Answer.drain, b"{}", 0.05, id="an answer that never ends"),
        pytest.param(reason_of, b"{}", 0.05, id="a refusal that never ends"),
        pytest.param(Answer.drain, json.dumps(result(PING, {})).encode(), 30.0, id="a stream that goes on after it"),
    ],
)
def test_a_body_of_no_interest_that_never_ends_is_left(
    left_by: Callable[[Answer], Awaitable[object]],
    said: bytes,
    limit: float,
    authorization_server: AuthorizationServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("conduit_oauth.bridge.exchange._BODY", limit)
    over = threading.Event()

    def script(exchange: Exchange, _: dict[str, Any]) -> None:
        exchange.begin_events()
        exchange.event(said)
        over.wait(20)

    async def ask(gateway: ScriptedGateway, provider: TokenProvider) -> None:
        async with Gateway(provider) as way:
            await left_by(await way.send(Question("POST", gateway.url, {}, json.dumps(PING).encode())))

    with (
        ScriptedGateway(script) as gateway,
        TokenProvider("demo", "demo-secret", token_endpoint=authorization_server.token_endpoint()) as provider,
    ):
        asyncio.run(asyncio.wait_for(ask(gateway, provider), 10))
        over.set()


def test_tools_that_change_their_names_are_not_all_remembered() -> None:
    schema = {"properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    mirror = Mirror()
    for number in range(3000):
        mirror.hear_tools([{"name": f"tool-{number}", "inputSchema": schema}, {"name": f"plain-{number}"}])
    mirror.hear_tools([{"name": "long" * 10_000, "inputSchema": schema}])
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}

    def headers(name: str) -> dict[str, str]:
        parameters = {"_meta": meta, "name": name, "arguments": {"region": "eu"}}
        return mirror.headers({"method": "tools/call", "params": parameters})

    assert headers("tool-2999")["Mcp-Param-Region"] == "eu"
    assert "Mcp-Param-Region" not in headers("tool-0")
    assert "Mcp-Param-Region" not in headers("long" * 10_000)


def test_an_id_that_is_used_again_has_both_answers(open_stdio: OpenStdio) -> None:
    first, go_on = threading.Event(), threading.Event()

    def script(exchange: Exchange, message: dict[str, Any]) -> None:
        if message["params"]["n"] == 1:
            first.set()
            go_on.wait(20)
        echo(exchange, message)

    bridge = open_stdio(script)
    bridge.send(json.dumps({**PING, "params": {"n": 1}}).encode())
    assert first.wait(20)
    assert bridge.ask({**PING, "params": {"n": 2}})["result"] == {"n": 2}
    go_on.set()
    assert json.loads(bridge.line())["result"] == {"n": 1}


def test_a_client_that_reads_no_more_ends_it(open_stdio: OpenStdio) -> None:
    bridge = open_stdio(echo)
    assert bridge.process.stdout is not None
    assert bridge.process.stderr is not None
    bridge.process.stdout.close()
    bridge.send(json.dumps(PING).encode())
    assert bridge.process.wait(20) == 1
    assert bridge.process.stderr.read() == b"error: standard output: Broken pipe\n"


def test_a_client_that_does_not_read_can_still_end_it(open_stdio: OpenStdio) -> None:
    # More than a pipe holds.
    bridge = open_stdio(lambda exchange, message: exchange.answer(result(message, "x" * (1 << 20))))
    bridge.send(json.dumps(PING).encode())
    assert bridge.process.stdout is not None
    # The rest of the answer waits for its reader.
    assert os.read(bridge.process.stdout.fileno(), 1)
    bridge.process.send_signal(signal.SIGINT)
    assert bridge.process.wait(10) == 130


@pytest.mark.parametrize("by_events", [False, True])
def test_ten_megabytes_each_way(by_events: bool, open_stdio: OpenStdio) -> None:
    def answer(exchange: Exchange, message: dict[str, Any]) -> None:
        if not by_events:
            echo(exchange, message)
            return
        exchange.begin_events()
        exchange.event(json.dumps(result(message, message["params"])).encode())

    text = "x" * (10 << 20)
    assert open_stdio(answer).ask({**PING, "params": {"text": text}})["result"]["text"] == text


def cut(exchange: Exchange, _: dict[str, Any]) -> None:
    exchange.send_response(200)
    exchange.send_header("Content-Type", "application/json")
    exchange.send_header("Content-Length", "1000")
    exchange.end_headers()
    exchange.wfile.write(b'{"jsonrpc"')
    exchange.close_connection = True


def cut_events(exchange: Exchange, _: dict[str, Any]) -> None:
    exchange.begin_events()
    exchange.wfile.write(b": nothing follows\n\n")


def events_then_nothing(exchange: Exchange, _: dict[str, Any]) -> None:
    exchange.begin_events()
    exchange.event(b"", "e1")


ANSWERS: dict[str, tuple[Script, str]] = {
    "403": (
        lambda exchange, _: exchange.answer({"error": "access_denied", "error_description": "not yours"}, 403),
        "403 (access_denied: not yours)",
    ),
    "page": (lambda exchange, _: exchange.answer(b"<h1>Log in</h1>", 200, "text/html"), "200 with text/html"),
    "redirect": (lambda exchange, _: exchange.answer(status=302, Location="https://login.example/"), "login.example"),
    "accepted": (lambda exchange, _: exchange.answer(status=202), "answered 202"),
    "no status": (lambda exchange, _: exchange.answer(b"{}", 999), "answered 999, which is no final status"),
    "no HTTP": (lambda exchange, _: exchange.answer(b"{}", X_Long="x" * 10_000), "its answer is not HTTP"),
    "no JSON": (lambda exchange, _: exchange.answer(b"{", 200), "no answer to a request"),
    "compressed": (
        lambda exchange, _: exchange.answer(gzip.compress(b"{}"), 200, Content_Encoding="gzip"),
        "answered 200, compressed (gzip)",
    ),
    "no UTF-8": (lambda exchange, _: exchange.answer(b'{"result":"\xff"}', 200), "no answer to a request"),
    "cut": (cut, "lost on the way"),
    "events that end": (cut_events, "ended without an answer"),
    "events that are not resumed": (events_then_nothing, "is not resumed (405)"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_whatever_the_gateway_answers_the_client_has_an_answer(name: str, open_stdio: OpenStdio) -> None:
    odd, words = ANSWERS[name]

    def script(exchange: Exchange, message: dict[str, Any]) -> None:
        (echo if message["id"] == "p" else odd)(exchange, message)

    bridge = open_stdio(script)
    answer = bridge.ask({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "n"}})
    assert answer["id"] == 7
    assert words in answer["error"]["message"]
    assert bridge.ask(PING)["id"] == "p"


@pytest.mark.parametrize(
    ("status", "kind", "headers"),
    [(403, "application/json", {}), (302, "text/plain", {"Location": "/login?{}"}), (200, "{}", {})],
)
def test_a_gateway_that_says_our_token_again_is_not_repeated(
    status: int, kind: str, headers: dict[str, str], open_stdio: OpenStdio
) -> None:
    def script(exchange: Exchange, _: dict[str, Any]) -> None:
        token = exchange.headers["authorization"].partition(" ")[2]
        exchange.answer(
            {"error": "no", "error_description": f"not for {token}"},
            status,
            kind.format(token),
            **{name: value.format(token) for name, value in headers.items()},
        )

    bridge = open_stdio(script)
    answer = bridge.ask({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "n"}})
    tokens = {headers["authorization"].partition(" ")[2] for _, headers, _ in bridge.gateway.requests}
    assert "answered" in answer["error"]["message"]
    assert not any(token in answer["error"]["message"] for token in tokens)


@pytest.mark.parametrize("tools", [5, [{"inputSchema": {"properties": {"a": {"x-mcp-header": "A"}}}}], [7, None]])
def test_odd_tools_pass_on(tools: object, open_stdio: OpenStdio) -> None:
    bridge = open_stdio(lambda exchange, message: exchange.answer(result(message, {"tools": tools})))
    assert bridge.ask({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})["result"]["tools"] == tools
    assert bridge.ask(PING)["id"] == "p"


def test_a_session_whose_name_no_header_can_have_is_none(
    monkeypatch: pytest.MonkeyPatch, open_stdio: OpenStdio
) -> None:
    monkeypatch.setattr(ScriptedGateway, "sessions", "s\xff")
    bridge = open_stdio(echo)
    assert bridge.ask({**PING, "params": {"a": 1}})["result"] == {"a": 1}
    assert not any("mcp-session-id" in headers for _, headers, _ in bridge.gateway.requests)
    assert bridge.end() == (0, "")


def test_an_error_of_the_gateway_keeps_its_words_and_has_the_requests_id(open_stdio: OpenStdio) -> None:
    error = {"code": -32001, "message": "unknown tool"}
    body = {"jsonrpc": "2.0", "id": None, "error": error}
    bridge = open_stdio(lambda exchange, _: exchange.answer(body, 400))
    assert bridge.ask({**PING, "id": 3}) == {"jsonrpc": "2.0", "id": 3, "error": error}


def test_an_answer_of_events_is_resumed(open_stdio: OpenStdio) -> None:
    def resume(exchange: Exchange) -> None:
        if "last-event-id" not in {name.lower() for name in exchange.headers}:
            exchange.answer(status=405)
            return
        exchange.begin_events()
        exchange.event(
            b'{"jsonrpc":"2.0","id":5,"result":{"after":"' + exchange.headers["last-event-id"].encode() + b'"}}'
        )

    def script(exchange: Exchange, _: dict[str, Any]) -> None:
        exchange.begin_events()
        exchange.wfile.write(b"retry: 10\n")
        exchange.event(b'{"jsonrpc":"2.0","method":"notifications/progress"}', "e1")

    bridge = open_stdio(script, get=resume)
    bridge.send(json.dumps({**PING, "id": 5}).encode())
    assert json.loads(bridge.line())["method"] == "notifications/progress"
    assert json.loads(bridge.line())["result"] == {"after": "e1"}


@pytest.mark.parametrize("by_events", [True, False])
def test_how_much_a_message_may_have_is_a_setting_that_the_error_names(by_events: bool, open_stdio: OpenStdio) -> None:
    def script(exchange: Exchange, message: dict[str, Any]) -> None:
        answer = result(message, "x" * (3 << 20))
        if by_events:
            exchange.begin_events()
            exchange.event(json.dumps(answer).encode())
        else:
            exchange.answer(answer)

    bridge = open_stdio(script, "--largest-message", "2")
    answer = bridge.ask(PING)
    assert answer["id"] == "p"
    assert "2097152 bytes at most (--largest-message)" in answer["error"]["message"]
    assert len(open_stdio(script, "--largest-message", "4").ask(PING)["result"]) == 3 << 20


NO_SESSION = {"code": -32000, "message": "Bad Request: No valid session ID provided"}
UNKNOWN = {"jsonrpc": "2.0", "id": None, "error": NO_SESSION}


def test_a_server_that_answers_400_to_an_unknown_session_has_it_begun_anew(open_stdio: OpenStdio) -> None:
    restarted = threading.Event()

    def script(exchange: Exchange, message: dict[str, Any]) -> None:
        if restarted.is_set() and exchange.headers["mcp-session-id"] == "s1":
            exchange.answer(UNKNOWN, 400)
        else:
            echo(exchange, message)

    bridge = open_stdio(script)
    assert bridge.ask(PING)["id"] == "p"
    restarted.set()
    assert "result" in bridge.ask(PING)
    assert bridge.gateway.sent().count("initialize") == 2


def test_notifications_come_again_after_a_restart_though_the_client_asks_nothing(open_stdio: OpenStdio) -> None:
    restarted = threading.Event()

    def forgotten(exchange: Exchange) -> bool:
        return restarted.is_set() and exchange.headers["mcp-session-id"] == "s1"

    def script(exchange: Exchange, message: dict[str, Any]) -> None:
        exchange.answer(b"no session", 404, "text/plain") if forgotten(exchange) else echo(exchange, message)

    def stream(exchange: Exchange) -> None:
        if forgotten(exchange):
            exchange.answer(b"no session", 404, "text/plain")
            return
        exchange.begin_events()
        exchange.wfile.write(b"retry: 10\n")
        method = f"notifications/{exchange.headers['mcp-session-id']}"
        exchange.event(json.dumps({"jsonrpc": "2.0", "method": method}).encode(), "e1")
        restarted.wait(20)

    bridge = open_stdio(script, get=stream)
    assert json.loads(bridge.line())["method"] == "notifications/s1"
    restarted.set()
    assert json.loads(bridge.line())["method"] == "notifications/s2"


def test_what_a_server_was_to_answer_before_it_restarted_is_an_error(open_stdio: OpenStdio) -> None:
    broken, restarted = threading.Event(), threading.Event()

    def script(exchange: Exchange, message: dict[str, Any]) -> None:
        if restarted.is_set() and exchange.headers["mcp-session-id"] == "s1":
            exchange.answer(b"no session", 404, "text/plain")
        elif message["id"] == 5:
            exchange.begin_events()
            exchange.wfile.write(b"retry: 2000\n")
            exchange.event(b'{"jsonrpc":"2.0","method":"notifications/progress"}', "e1")
            broken.wait(20)
        else:
            echo(exchange, message)

    bridge = open_stdio(script)
    bridge.send(json.dumps({**PING, "id": 5}).encode())
    assert json.loads(bridge.line())["method"] == "notifications/progress"
    restarted.set()
    # Another request has the session begun anew before the lost one is resumed.
    assert bridge.ask(PING)["id"] == "p"
    broken.set()
    lost = json.loads(bridge.line())
    assert (lost["id"], "is not resumed" in lost["error"]["message"]) == (5, True)
    assert not [headers for _, headers, _ in bridge.gateway.requests if "last-event-id" in headers]


def test_a_get_that_is_not_found_does_not_replace_the_session(open_stdio: OpenStdio) -> None:
    asked = threading.Event()

    def not_there(exchange: Exchange) -> None:
        exchange.answer(b"not found", 404, "text/plain")
        asked.set()

    bridge = open_stdio(echo, get=not_there)
    assert asked.wait(10)
    assert bridge.ask(PING)["id"] == "p"
    assert bridge.end()[0] == 0
    assert bridge.gateway.sent().count("initialize") == 1
    assert [
        (method, headers["mcp-session-id"]) for method, headers, _ in bridge.gateway.requests if method != "POST"
    ] == [
        ("GET", "s1"),
        ("DELETE", "s1"),
    ]


ECHOES: dict[str, Callable[[Exchange, str], None]] = {
    "in its words": lambda exchange, token: exchange.answer({"message": f"not with {token}"}, 403),
    "in a page": lambda exchange, token: exchange.answer(f"<p>not with {token}".encode(), 403, "text/html"),
    "in UTF-16": lambda exchange, token: exchange.answer(f"not with {token}".encode("utf-16"), 403, "text/html"),
    "in the kind of an answer": lambda exchange, token: exchange.answer(b"", 200, f"text/{token}"),
    "in a coding": lambda exchange, token: exchange.answer(b"", 200, Content_Encoding=token),
    "in a path": lambda exchange, token: exchange.answer(b"", 302, Location=f"/login/{token}"),
    "in a query": lambda exchange, token: exchange.answer(b"", 302, Location=f"/login?t={token[::-1]}"),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_the_token_of_a_wider_scope_is_not_shown_where_the_gateway_sends_it_back(
    echo: Callable[[Exchange, str], None], open_stdio: OpenStdio
) -> None:
    tokens = {"wide": "Wide-One!7"}

    def grant(asked: Asked) -> None:
        scope = asked.form.get("scope", ["narrow"])[0]
        asked.answer({"access_token": tokens.get(scope, "Narrow-1!"), "token_type": "Bearer", "expires_in": 3600})

    def script(exchange: Exchange, _: dict[str, Any]) -> None:
        token = exchange.headers["Authorization"].removeprefix("Bearer ")
        if token == "Narrow-1!":
            challenge = 'Bearer error="insufficient_scope", scope="wide"'
            exchange.answer(b"", 403, WWW_Authenticate=challenge)
        else:
            echo(exchange, token)

    with ScriptedServer(grant) as server:
        bridge = open_stdio(script, "--token-endpoint", server.url)
        said = bridge.ask(PING)["error"]["message"]
    assert "the gateway answered" in said
    assert not [token for token in (tokens["wide"], tokens["wide"][::-1]) if token.lower() in said.lower()]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_though_its_input_is_open(number: int, status: int, open_stdio: OpenStdio) -> None:
    bridge = open_stdio(echo)
    assert bridge.ask(PING)["id"] == "p"
    bridge.process.send_signal(number)
    assert bridge.process.wait(10) == status
    assert bridge.process.stderr is not None
    assert bridge.process.stderr.read() == b""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_though_more_is_sent_than_the_gateway_takes(
    number: int, status: int, open_stdio: OpenStdio
) -> None:
    taken, over = threading.Event(), threading.Event()
    # The first one says that the session is initialized.
    earlier = itertools.count()

    def hold(exchange: Exchange) -> None:
        if next(earlier):
            taken.set()
            over.wait(30)
        exchange.answer(status=202)

    bridge = open_stdio(echo, notification=hold)
    for _ in range(50):
        bridge.send(b'{"jsonrpc": "2.0", "method": "notifications/progress"}')
    assert taken.wait(10)
    bridge.process.send_signal(number)
    try:
        assert bridge.process.wait(10) == status
    finally:
        over.set()
    assert bridge.process.stderr is not None
    assert bridge.process.stderr.read() == b""


def test_the_end_of_input_waits_for_answers_and_refuses_what_has_none(open_stdio: OpenStdio) -> None:
    hold = threading.Event()

    def script(exchange: Exchange, message: dict[str, Any]) -> None:
        if message["id"] == "never":
            hold.wait(30)
        echo(exchange, message)

    bridge = open_stdio(script)
    bridge.send(json.dumps({**PING, "id": "soon"}).encode())
    bridge.send(json.dumps({**PING, "id": "never"}).encode())
    assert bridge.process.stdin is not None
    bridge.process.stdin.close()
    assert json.loads(bridge.line())["id"] == "soon"
    last = json.loads(bridge.line())
    hold.set()
    assert last["id"] == "never"
    assert "end of input" in last["error"]["message"]
    assert bridge.process.wait(10) == 0
