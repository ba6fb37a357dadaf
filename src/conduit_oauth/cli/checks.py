"""What `doctor` finds out about the way to a server, before anything is asked of it: name, connection, TLS, clock.

Invariant: A check reports what it saw and what to do. It changes nothing, and its report contains no secret.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from ..client.network import look_up
from ..client.proxies import Proxy, proxy_for
from ..client.transport import CONNECT_TIMEOUT, Transport
from ..errors import ConfigurationError, TransportError
from ..masking import mask
from ..protocol.http import Request, parse_date
from .certificates import check_tls
from .findings import Checks, Diagnosis, bad, good, warning
from .output import span

# Seconds for a name and for a connection, as elsewhere.
TIMEOUT = CONNECT_TIMEOUT
_MOST_ADDRESSES = 10
# Beyond this the signed statements of a client (assertions, DPoP proofs) are refused by many servers.
SKEW = 30.0


def check_way(
    url: str, transport: Transport, *, seconds: float, signs: bool, client_context: ssl.SSLContext | None
) -> Checks:
    """Resolve, connect, shake hands, and compare clocks with the server of `url`.

    A handshake and an answer have `seconds` each, as a request of the client has.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        proxy = proxy_for(url)
    except ConfigurationError as error:
        yield bad("connection", "proxy-unusable", f"{error.field} {error.problem}", error.advice)
        return
    if proxy is not None:
        alive = yield from _check_proxy(proxy, host, port, tunnelled=parts.scheme == "https")
        if not alive:
            return
        if parts.scheme == "https":
            connect = functools.partial(_tunnel, proxy, host, port)
            yield from check_tls(host, port, connect, seconds, client_context, proxy)
    else:
        found = look_up(host, port, TIMEOUT)
        if isinstance(found, Exception):
            yield bad(
                "name resolution",
                "name-unknown",
                f"{host} has no address ({getattr(found, 'strerror', None) or found})",
                "Check the URL for a slip, and that this machine's DNS knows the name (a VPN may be needed).",
            )
            return
        addresses = sorted({str(each[4][0]) for each in found})[:_MOST_ADDRESSES]
        yield good("name resolution", f"{host} is {', '.join(addresses)}")
        alive = yield from _check_connection(host, port, addresses)
        if parts.scheme == "https" and alive is not None:
            connect = functools.partial(socket.create_connection, (alive, port), TIMEOUT)
            yield from check_tls(host, port, connect, seconds, client_context)
    yield from _check_clock(url, transport, seconds, signs=signs)


def _check_connection(host: str, port: int, addresses: list[str]) -> Generator[Diagnosis, None, str | None]:
    """Knock at every address; the first that takes a connection, None where none does."""
    with ThreadPoolExecutor(_MOST_ADDRESSES) as pool:
        errors = dict(zip(addresses, pool.map(functools.partial(_knock, port), addresses), strict=True))
    alive = next((address for address, error in errors.items() if error is None), None)
    if alive is None:
        yield _unreachable(f"{host}:{port}", errors[addresses[0]])
        return None
    yield good("connection", f"{host}:{port} takes connections")
    # One that refuses, or to which there is no route, holds nobody.
    for silent in (address for address, error in errors.items() if isinstance(error, TimeoutError)):
        yield warning(
            "connection",
            "dead-address",
            f"{silent}, an address of {host}, does not answer within {TIMEOUT:g} s",
            "Programs that try it first wait there: have it answer, or take it out of DNS.",
        )
    return alive


def _check_proxy(proxy: Proxy, host: str, port: int, *, tunnelled: bool) -> Generator[Diagnosis, None, bool]:
    """Knock at the proxy, and have it connect; whether it does."""
    advice = f"Check the proxy, or unset {proxy.variable}; NO_PROXY names what is reached without it."
    try:
        socket.create_connection(proxy.address, TIMEOUT).close()
    except (OSError, UnicodeError) as error:
        yield bad("connection", "proxy-down", f"{proxy} cannot be reached ({error})", advice)
        return False
    if tunnelled:
        try:
            _tunnel(proxy, host, port).close()
        except OSError as error:
            said = f"{proxy} does not connect to {host}:{port} ({mask(str(error), ())})"
            yield bad("connection", "proxy-refuses", said, "Check its user, its password and its rules.")
            return False
    yield good("connection", f"{host} is reached by {proxy}")
    return True


def _tunnel(proxy: Proxy, host: str, port: int) -> socket.socket:
    """A connection to the server through `proxy`. Raises `OSError`."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    kind = http.client.HTTPSConnection if proxy.url.startswith("https:") else http.client.HTTPConnection
    connection = kind(*proxy.address, timeout=TIMEOUT)
    headers: dict[str, str] = {}
    if proxy.credentials is not None:
        pair = base64.b64encode(":".join(proxy.credentials).encode()).decode()
        headers["Proxy-Authorization"] = f"Basic {pair}"
    # Each read has its time, and a proxy can drip an endless answer. Its end looks like that of the headers.
    deadline = time.monotonic() + TIMEOUT

    def cut() -> None:
        with contextlib.suppress(OSError, AttributeError):  # it is closed already
            connection.sock.shutdown(socket.SHUT_RDWR)

    end = threading.Timer(TIMEOUT, cut)
    end.start()
    try:
        # CONNECT by itself: the connection is to be used for TLS after it.
        connection.putrequest("CONNECT", target, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": target, **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = http.client.HTTPResponse(connection.sock, method="CONNECT")
        answer.begin()
        if time.monotonic() >= deadline:
            raise TimeoutError(f"no whole answer within {TIMEOUT:g} s")
        if answer.status != 200:
            raise OSError(f"status {answer.status}")
    except http.client.HTTPException as error:
        connection.close()
        raise OSError(type(error).__name__) from None
    except OSError:
        connection.close()
        raise
    finally:
        end.cancel()
    return connection.sock


def _unreachable(where: str, error: OSError | None) -> Diagnosis:
    match error:
        case ConnectionRefusedError():
            said, cause = f"{where} refuses connections", "refused"
            advice = "Nothing listens there: check the port, and that the server runs."
        case TimeoutError():
            said, cause = f"{where} does not answer within {TIMEOUT:g} s", "unreachable"
            advice = "A firewall may swallow the packets: check the rules between here and there, or a proxy to go by."
        case _:
            said, cause = f"{where} cannot be reached ({(error and error.strerror) or error})", "unreachable"
            advice = "Check this machine's network and routes."
    return bad("connection", cause, said, advice)


def _knock(port: int, address: str) -> OSError | None:
    try:
        socket.create_connection((address, port), TIMEOUT).close()
    except OSError as error:
        return error
    return None


def _check_clock(url: str, transport: Transport, seconds: float, *, signs: bool) -> Checks:
    before = time.time()
    try:
        said = transport.send(Request("GET", url, {}, reads="head"), seconds).headers.get("date")
    except TransportError as error:
        if "CERTIFICATE_REQUIRED" in error.problem or "HANDSHAKE_FAILURE" in error.problem:
            advice = "Set client_certificate to the files of the certificate that this client is registered with."
            yield bad("TLS", "client-certificate-wanted", f"{error.url} wants a client certificate", advice)
            return
        yield bad(
            "answer",
            "no-answer",
            f"{error.url}: {error.problem}",
            "The server takes connections and answers nothing of use: look at its log, and at what stands before it.",
        )
        return
    if (theirs := parse_date(said or "")) is None:
        yield good("clock", "the server does not tell its time")
        return
    # The server's seconds are whole ones.
    ahead = (before + time.time()) / 2 - theirs - 0.5
    if abs(ahead) <= SKEW:
        yield good("clock", "this machine's and the server's agree")
        return
    word = "ahead of" if ahead > 0 else "behind"
    said = f"this machine is {span(abs(ahead))} {word} the server"
    advice = "Let NTP set both clocks: what one side signs, the other takes for old or for not yet valid."
    yield (bad if signs else warning)("clock", "clock-skew", said, advice)
