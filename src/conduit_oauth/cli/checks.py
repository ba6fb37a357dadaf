"""What `doctor` finds out about the way to a server, before anything is asked of it: name, connection, TLS, clock.

Invariant: A check reports what it saw and what to do. It changes nothing, and its report contains no secret.
"""

from __future__ import annotations

import base64
import functools
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from urllib.parse import urlsplit

from cryptography import x509

from ..client.network import look_up
from ..client.proxies import Proxy, proxy_for
from ..client.transport import Transport
from ..errors import ConfigurationError, TransportError
from ..identity.tls import trusted
from ..masking import mask
from ..protocol.http import Request
from .output import span

TIMEOUT = 5.0
_MOST_ADDRESSES = 10
# A certificate that ends within so many seconds is worth a word: something should have replaced it by now.
_SOON = 14 * 86_400.0
# Beyond this the signed statements of a client (assertions, DPoP proofs) are refused by many servers.
SKEW = 30.0


class Verdict(StrEnum):
    """How a check went."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What one step found: `cause` names it for a program, `said` and `advice` tell a person."""

    step: str
    verdict: Verdict
    cause: str
    said: str
    advice: str = ""


Checks = Generator[Diagnosis]
Connect = Callable[[], socket.socket]


def good(step: str, said: str) -> Diagnosis:
    """Nothing is wrong here."""
    return Diagnosis(step, Verdict.GOOD, "ok", said)


def warning(step: str, cause: str, said: str, advice: str) -> Diagnosis:
    """It works, and may not for long."""
    return Diagnosis(step, Verdict.WARNING, cause, said, advice)


def bad(step: str, cause: str, said: str, advice: str) -> Diagnosis:
    """It cannot work so."""
    return Diagnosis(step, Verdict.BAD, cause, said, advice)


def check_way(url: str, transport: Transport, *, signs: bool, client_context: ssl.SSLContext | None) -> Checks:
    """Resolve, connect, shake hands, and compare clocks with the server of `url`."""
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
            yield from _check_tls(host, port, functools.partial(_tunnel, proxy, host, port), client_context, proxy)
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
            yield from _check_tls(host, port, connect, client_context)
    yield from _check_clock(url, transport, signs=signs)


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
    end = threading.Timer(TIMEOUT, lambda: connection.sock and connection.sock.shutdown(socket.SHUT_RDWR))
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


def _check_tls(
    host: str, port: int, connect: Connect, client_context: ssl.SSLContext | None, proxy: Proxy | None = None
) -> Checks:
    # As the HTTP client trusts: SSL_CERT_FILE and SSL_CERT_DIR count.
    context = client_context or trusted()
    try:
        with connect() as plain:
            secured = _shaken(context, plain, host)
        shown = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
        version = secured.version()
    except ssl.SSLCertVerificationError as error:
        yield _untrusted(host, connect, error, proxy)
        return
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
            yield bad("TLS", "tls-not-spoken", f"{host}:{port} speaks no TLS", "Check the port. TLS is required.")
        else:
            yield bad(
                "TLS",
                "tls-failed",
                f"the handshake with {host}:{port} failed ({error.reason or error})",
                "The server's TLS may be too old, or it wants a client certificate: set client_certificate.",
            )
        return
    except OSError as error:
        yield bad("TLS", "tls-failed", f"{host}:{port} cut the handshake short ({error})", "Check that it speaks TLS.")
        return
    left = (shown.not_valid_after_utc - datetime.now(UTC)).total_seconds()
    if left < _SOON:
        yield warning(
            "TLS",
            "certificate-ends-soon",
            f"the certificate of {host} ends in {span(left)}",
            "See that its renewal works: from then on every client will refuse it.",
        )
    else:
        yield good("TLS", f"{version}, a certificate that is trusted and lasts {span(left)}")


def _shaken(context: ssl.SSLContext, plain: socket.socket, host: str) -> ssl.SSLObject:
    """The TLS of the server, whose bytes `plain` carries: the TLS of a proxy may be around them."""
    deadline = time.monotonic() + TIMEOUT
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = context.wrap_bio(incoming, outgoing, server_hostname=host)
    while True:
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            plain.settimeout(max(0.001, deadline - time.monotonic()))
            if received := plain.recv(1 << 14):
                incoming.write(received)
            else:
                incoming.write_eof()
        else:
            plain.sendall(outgoing.read())
            return secured


def _untrusted(host: str, connect: Connect, error: ssl.SSLCertVerificationError, proxy: Proxy | None) -> Diagnosis:
    shown = _shown_certificate(host, connect)
    now = datetime.now(UTC)
    trust = "If it is your own authority's, let ca_file or SSL_CERT_FILE name that; never switch verification off."
    if proxy is not None:
        trust = f"{proxy} may open the connection and sign with an authority of its own. {trust}"
    match error.verify_code:
        case 10 if shown is not None and shown.not_valid_after_utc > now:
            said = f"a certificate in the chain of {host} has ended, though not its own"
            return bad("TLS", "chain-expired", said, "Have the server show its issuer's current certificate.")
        case 10:
            when = f" {span((now - shown.not_valid_after_utc).total_seconds())} ago" if shown else ""
            return bad("TLS", "certificate-expired", f"the certificate of {host} ended{when}", "Have it renewed.")
        case 9:
            when = f" in {span((shown.not_valid_before_utc - now).total_seconds())}" if shown else ""
            said = f"the certificate of {host} begins{when}"
            return bad("TLS", "certificate-not-yet", said, "Check this machine's clock, then the server's certificate.")
        case 62 | 64:
            names = ", ".join(_names(shown)) if shown else "another name"
            said = f"the certificate is for {names}, not for {host}"
            return bad(
                "TLS", "certificate-name", said, "Use the name that it is for, or have one issued for this name."
            )
        case 18:
            return bad("TLS", "certificate-self-signed", f"{host} signed its certificate itself", trust)
        case _:
            issuer = f" {shown.issuer.rfc4514_string()}" if shown else ""
            said = f"the certificate of {host} is from an authority that is not trusted here{issuer and ':'}{issuer}"
            return bad("TLS", "certificate-authority", said, f"{trust} Or the server leaves out the one in between.")


def _shown_certificate(host: str, connect: Connect) -> x509.Certificate | None:
    """What the server shows, trusted or not: to be talked of, and nothing else."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with connect() as plain:
            secured = _shaken(context, plain, host)
        return x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError):
        return None


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [certificate.subject.rfc4514_string()]
    return [str(name.value) for name in names]


def _check_clock(url: str, transport: Transport, *, signs: bool) -> Checks:
    before = time.time()
    try:
        said = transport.send(Request("GET", url, {}, reads="head"), TIMEOUT).headers.get("date")
    except TransportError as error:
        if "CERTIFICATE_REQUIRED" in error.problem or "HANDSHAKE_FAILURE" in error.problem:
            advice = "Set client_certificate to the files of the certificate that this client is registered with."
            yield bad("TLS", "client-certificate-wanted", f"{url} wants a client certificate", advice)
            return
        yield bad(
            "answer",
            "no-answer",
            f"{url}: {error.problem}",
            "The server takes connections and answers nothing of use: look at its log, and at what stands before it.",
        )
        return
    try:
        theirs = parsedate_to_datetime(said or "").timestamp()
    except ValueError:
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
