"""What went wrong with a request, as an error that names the phase and what to do.

Invariant: no word of the peer gets into it, and no exception of an HTTP client, because that carries the request.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..errors import TransportError
from ..identity.tls import MALFORMED, is_malformed
from ..masking import mask
from .network import Journey, is_local
from .proxies import Proxy

if TYPE_CHECKING:
    import ssl

# What each phase waits for.
_SLOW = {
    "name": "the name is not resolved",
    "connection": "no connection",
    "proxy": "the proxy opens no way to the server",
    "TLS": "no end of the TLS handshake",
    "request": "the request is not taken",
}


def kinds(*names: str) -> list[type[Exception]]:
    """The errors of httpx2 with these names, none where nobody uses it."""
    client = sys.modules.get("httpx2")
    return [] if client is None else [getattr(client, name) for name in names]


def lateness(journey: Journey) -> str:
    """What did not come in time, and which phase took how long."""
    took = f" ({journey})" if str(journey) else ""
    return f"{_SLOW.get(journey.phase, 'no whole answer')} within {journey.elapsed:.1f} s{took}"


def failure_of(url: str, error: Exception, journey: Journey, proxy: Proxy | None) -> TransportError:
    """What went wrong with a request and when, without a word that the peer may have put into it."""
    import ssl
    from http.client import HTTPException, RemoteDisconnected

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    took = f" ({journey})" if str(journey) else ""
    is_late = isinstance(error, (TimeoutError, *kinds("TimeoutException")))
    # A connection that is cut in a handshake says nothing of certificates.
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _tls_failure(url, cause)
    if isinstance(error, tuple(kinds("ProxyError"))):
        # Its words are the proxy's; a status is what they begin with.
        status = str(error).partition(" ")[0]
        problem = f"{proxy or 'the proxy'} does not connect ({status if status.isdigit() else 'no reason given'})"
        return TransportError(url, problem + took, "Check its user, its password and its rules.", local=True)
    if proxy is not None and journey.phase in ("name", "connection"):
        reason = "does not answer" if is_late else f"is down: {mask(str(error), ())}"
        return TransportError(
            url, f"{proxy} {reason}{took}", f"Check the proxy, or unset {proxy.variable}.", local=True
        )
    if is_late:
        return TransportError(url, lateness(journey))
    is_gone = isinstance(error, RemoteDisconnected) or str(error).startswith("Server disconnected")
    if isinstance(error, (HTTPException, *kinds("ProtocolError"))) and not is_gone:
        # The client's message quotes what came, and an echo brings the credential back.
        return TransportError(url, "the answer is not HTTP")
    said = str(error.strerror or error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return TransportError(url, mask(said.rstrip(": "), ()) + took, local=is_local(error))


def _tls_failure(url: str, error: ssl.SSLError) -> TransportError:
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        advice = (
            "If an authority of your own signed it, set ca_file (or SSL_CERT_FILE) to that authority's certificate. "
            "`conduit-oauth doctor` shows the certificate."
        )
        return TransportError(
            url,
            f"the server's certificate is refused ({error.verify_message})",
            MALFORMED if is_malformed(error) else advice,
            retryable=False,
        )
    return TransportError(
        url,
        f"TLS failed ({error.reason or 'no reason given'})",
        "Check that the server speaks TLS at this port, and whether it wants a client certificate.",
        retryable=False,
    )
