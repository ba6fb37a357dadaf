"""`conduit-oauth request`: one authorized request, and its answer as a person, or a program, wants to see it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import httpx2
import typer
from rich.json import JSON
from rich.text import Text

from ..client.by_httpx2 import bounded, limits
from ..client.failures import failure_of
from ..client.network import Journey
from ..client.proxies import Proxy, proxy_for
from ..client.transport import CONNECT_TIMEOUT, tell_request
from ..errors import ConfigurationError, TransportError
from ..identity.tls import trusted
from ..masking import clean
from ..places import expanded, is_there
from ..protocol.http import is_http_token, parse_retry_after
from ..protocol.pauses import backoff
from .exits import REFUSED
from .options import as_client
from .output import busy, err, out, plain
from .profile import Options
from .streams import OutputError

# The authorization is this command's, and how a body is framed the HTTP client's.
_OURS = frozenset({"authorization", "content-length", "transfer-encoding"})
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_LONGEST_PAUSE = 60.0
# Seconds between two parts of an answer.
_LONGEST_SILENCE = 300.0
# In bytes: it is sent again where the token was refused, so it is kept.
_LONGEST_BODY = 1 << 28
# In characters: what is longer is shown as it comes.
_LONGEST_IN_COLOUR = 1 << 20


@as_client
def request(
    options: Options,
    method: Annotated[str, typer.Argument(help="GET, POST, …")],
    url: Annotated[str, typer.Argument(help="URL of the protected resource.")],
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="A header, 'Name: value'.")] = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="The body; @FILE reads a file, @- standard input.")
    ] = None,
    as_json: Annotated[str | None, typer.Option("--json", help="As --data, with the content type of JSON.")] = None,
    include: Annotated[bool, typer.Option("--include", "-i", help="Print status and headers, too.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the body to this file.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds until the answer begins, at most.", min=0.001)] = 30.0,
    retries: Annotated[
        int, typer.Option(help="How often to try again after 429, 503 or a failed connection.", min=0)
    ] = 2,
) -> None:
    """Send one request with a token: replaced on 401, stepped up on 403, with a DPoP proof where the profile has a key.

    A credential goes only where the settings say: URL alone leads to no authorization server.
    To a terminal the answer is shown, to a pipe its bytes are passed on. Exit code 7: the answer is 400 or above.

    \b
    conduit-oauth request GET https://api.example/invoices
    conduit-oauth request POST https://gateway.example/mcp --mcp-url https://gateway.example/mcp --json @ping.json
    """
    if data is not None and as_json is not None:
        raise ConfigurationError("--json", "cannot be used together with --data", "Pass one of them.")
    address = _address(url)
    if not is_http_token(method):
        raise ConfigurationError("method", f"{method!r} is no method", "Use GET, POST, PUT, PATCH, DELETE or another.")
    headers = httpx2.Headers([_header(line) for line in header or ()])
    body = data if as_json is None else as_json
    if body == "@-":
        options.leave_stdin("the body is read from")
    content = _body(body)
    if as_json is not None:
        headers.setdefault("Content-Type", "application/json")
        headers.setdefault("Accept", "application/json, text/event-stream")
    elif content is not None:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    proxy = proxy_for(str(address))
    with (
        _writable(output) as file,
        options.provider() as provider,
        bounded(
            httpx2.Client(
                auth=provider.auth(),
                verify=provider.tls_context() or trusted(),
                proxy=None if proxy is None else proxy.for_httpx2(),
                trust_env=False,
                event_hooks=_hooks(),
            )
        ) as client,
    ):
        outgoing = client.build_request(method.upper(), address, headers=headers, content=content)
        # Before the time for the answer begins.
        with busy("Waiting for a token", provider.control.progress):
            provider.get_token()
        # Closed with the client, whatever becomes of it.
        answer = _answer(client, outgoing, retries, wait, proxy)
        try:
            if include:
                plain(_head(answer))
            elif out.is_terminal or file is not None:
                err.print(Text(_status(answer), style="green" if answer.status_code < 400 else "red"))
            _show(answer, file)
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise TransportError(url, f"the answer breaks off ({type(error).__name__})") from None
    raise typer.Exit(REFUSED if answer.status_code >= 400 else 0)


def _hooks() -> dict[str, list[Callable[..., object]]]:
    """What logs each request, also the one that a refused token or a redirect calls for."""
    began = 0.0

    def note(_: httpx2.Request) -> None:
        nonlocal began
        began = time.monotonic()

    def tell(answer: httpx2.Response) -> None:
        tell_request(answer.request.method, str(answer.request.url), answer.status_code, began)

    return {"request": [note], "response": [tell]}


def _answer(
    client: httpx2.Client, outgoing: httpx2.Request, retries: int, wait: float, proxy: Proxy | None
) -> httpx2.Response:
    url = str(outgoing.url)
    attempt = 0
    while True:
        journey = Journey(wait, 0 if proxy is None else proxy.handshakes(url))
        allowed = outgoing.extensions["timeout"] = limits(journey, CONNECT_TIMEOUT)
        asked = None
        try:
            with busy(f"{outgoing.method} {outgoing.url.host}"):
                answer = client.send(outgoing, stream=True)
            if answer.status_code not in (429, 503) or outgoing.method not in _REPEATABLE or attempt == retries:
                # What comes now may be a stream of events.
                allowed["read"] = _LONGEST_SILENCE
                return answer
            answer.close()
            problem = str(answer.status_code)
            asked = parse_retry_after(answer.headers.get("retry-after"), time.time())
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            failure = failure_of(url, error, journey, proxy)
            # Of what never had a connection, nothing can have been done.
            was_sent = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            if was_sent or not failure.retryable or attempt == retries:
                raise failure from None
            problem = failure.problem
        attempt += 1
        pause = min(backoff(attempt + 1, 1.0) if asked is None else asked, _LONGEST_PAUSE)
        err.print(Text(f"{problem}: trying again in {pause:.1f} s", style="yellow"))
        time.sleep(pause)


@contextlib.contextmanager
def _writable(output: Path | None) -> Generator[BinaryIO | None]:
    """The file for the answer, open before anything is sent; what it holds is replaced once there is an answer."""
    if output is None:
        yield None
        return
    existed = is_there(output)
    try:
        file = output.open("ab")
    except OSError as error:
        raise ConfigurationError("output", f"{output}: {error.strerror}", "Name a file that can be written.") from None
    try:
        with file:
            yield file
    except OSError as error:
        raise OutputError(str(output), error) from None
    except BaseException:
        if not existed:
            output.unlink(missing_ok=True)
        raise


def _show(answer: httpx2.Response, file: BinaryIO | None) -> None:
    kind = answer.headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
    if file is not None:
        if file.seekable():
            file.truncate(0)
        for chunk in answer.iter_bytes():
            file.write(chunk)
    elif not out.is_terminal:
        for chunk in answer.iter_bytes():
            # An event is worth seeing when it comes.
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    elif kind == "text/event-stream":
        for text in answer.iter_text():
            out.out(_harmless(text), end="", highlight=False)
    elif kind.startswith("text/") or kind.endswith(("json", "xml")):
        _show_text(answer.iter_text(), is_json=kind.endswith("json"))
    else:
        err.print(f"{sum(map(len, answer.iter_bytes()))} bytes of {clean(kind)}: take them with --output FILE")


def _show_text(texts: Iterator[str], *, is_json: bool) -> None:
    begun = ""
    for text in texts:
        begun += text
        if len(begun) > _LONGEST_IN_COLOUR:
            break
    else:
        if is_json and (body := _parse_json(begun)) is not None:
            out.print(JSON.from_data(body))
        else:
            plain(_harmless(begun))
        return
    for text in itertools.chain([begun], texts):
        out.out(_harmless(text), end="", highlight=False)


def _harmless(text: str) -> str:
    """Text of a server without the control codes that would drive our terminal."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else " " for letter in text)


def _parse_json(content: str) -> object | None:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _status(answer: httpx2.Response) -> str:
    return f"{answer.http_version} {answer.status_code} {answer.reason_phrase}".rstrip()


def _head(answer: httpx2.Response) -> str:
    return "\n".join([_status(answer), *(f"{name}: {clean(value)}" for name, value in answer.headers.items()), ""])


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise ConfigurationError("header", "has no name before a colon", "Write 'Name: value'.")
    name, value = name.strip(), value.strip()
    if name.lower() in _OURS:
        raise ConfigurationError("header", f"{name} is what this command sets", "Use curl for one of your own.")
    # The value is not shown: it may be a secret.
    if not is_http_token(name) or not value.isascii() or not value.replace("\t", " ").isprintable():
        problem = f"{name!r} has a character that no header can have"
        raise ConfigurationError("header", problem, "Use printable ASCII, and no space in a name.")
    return name, value


def _address(url: str) -> httpx2.URL:
    try:
        return httpx2.URL(url)
    except (httpx2.InvalidURL, UnicodeError):
        raise ConfigurationError("url", f"{url!r} is none that can be asked", "Give an absolute https URL.") from None


def _body(text: str | None) -> bytes | None:
    if text is None:
        return None
    if not text.startswith("@"):
        return os.fsencode(text)
    try:
        with sys.stdin.buffer if text == "@-" else expanded(Path(text[1:])).open("rb") as file:
            content = file.read(_LONGEST_BODY + 1)
    except OSError as error:
        raise ConfigurationError("data", str(error), "Name a readable file, or -.") from None
    if len(content) > _LONGEST_BODY:
        raise ConfigurationError("data", f"has more than {_LONGEST_BODY} bytes", "Send it with curl and a token.")
    return content
