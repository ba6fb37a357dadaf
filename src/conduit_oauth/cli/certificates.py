"""What `doctor` finds out about the TLS of a server: its version, its certificate, and who signed that."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography import x509

from ..client.proxies import Proxy
from ..identity.tls import MALFORMED, is_malformed, trusted
from ..masking import mask
from .findings import Checks, Diagnosis, bad, good, warning
from .output import span

# A certificate that ends within so many seconds is worth a word: something should have replaced it by now.
_SOON = 14 * 86_400.0
Connect = Callable[[], socket.socket]


def check_tls(
    host: str,
    port: int,
    connect: Connect,
    seconds: float,
    client_context: ssl.SSLContext | None,
    proxy: Proxy | None = None,
) -> Checks:
    """Shake hands with the server that `connect` leads to, by `proxy` where there is one, and look at what it shows.

    A handshake has `seconds`.
    """
    # As the HTTP client trusts: SSL_CERT_FILE and SSL_CERT_DIR count.
    context = client_context or trusted()
    try:
        with connect() as plain:
            secured = _shaken(context, plain, host, seconds)
    except ssl.SSLCertVerificationError as error:
        yield _untrusted(host, _shown_certificate(host, connect, seconds), error, proxy)
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
    except TimeoutError:
        yield bad("TLS", "tls-failed", f"{host}:{port}: no handshake within {seconds:g} s", "Check that it speaks TLS.")
        return
    except OSError as error:
        yield bad("TLS", "tls-failed", f"{host}:{port} cut the handshake short ({error})", "Check that it speaks TLS.")
        return
    if (shown := _certificate_of(secured)) is None:
        yield good("TLS", f"{secured.version()}, a certificate that is trusted")
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
        yield good("TLS", f"{secured.version()}, a certificate that is trusted and lasts {span(left)}")


def _shaken(context: ssl.SSLContext, plain: socket.socket, host: str, seconds: float) -> ssl.SSLObject:
    """The TLS of the server, whose bytes `plain` carries: the TLS of a proxy may be around them. Raises `OSError`."""
    deadline = time.monotonic() + seconds
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = context.wrap_bio(incoming, outgoing, server_hostname=host)
    while True:
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError from None
            plain.settimeout(left)
            if received := plain.recv(1 << 14):
                incoming.write(received)
            else:
                incoming.write_eof()
        else:
            plain.sendall(outgoing.read())
            return secured


def _untrusted(
    host: str, shown: x509.Certificate | None, error: ssl.SSLCertVerificationError, proxy: Proxy | None
) -> Diagnosis:
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
            names = _names(shown) if shown else "another name"
            said = f"the certificate is for {names}, not for {host}"
            return bad(
                "TLS", "certificate-name", said, "Use the name that it is for, or have one issued for this name."
            )
        case _ if is_malformed(error):
            said = f"a certificate in the chain of {host} is refused ({error.verify_message})"
            return bad("TLS", "certificate-malformed", said, MALFORMED)
        case 18:
            return bad("TLS", "certificate-self-signed", f"{host} signed its certificate itself", trust)
        case _:
            issuer = _written(lambda: shown.issuer) if shown else ""
            said = f"the certificate of {host} is from an authority that is not trusted here"
            said += issuer and f": {issuer}"
            return bad("TLS", "certificate-authority", said, f"{trust} Or the server leaves out the one in between.")


def _shown_certificate(host: str, connect: Connect, seconds: float) -> x509.Certificate | None:
    """What the server shows, trusted or not: to be talked of, and nothing else."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with connect() as plain:
            secured = _shaken(context, plain, host, seconds)
    except OSError:
        return None
    return _certificate_of(secured)


def _certificate_of(secured: ssl.SSLObject) -> x509.Certificate | None:
    """What the server showed, None where it cannot be read: OpenSSL looks at less of it."""
    try:
        return x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    except ValueError:
        return None


def _names(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return mask(", ".join(str(name.value) for name in names), ())
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError, TypeError):
        return _written(lambda: certificate.subject) or "another name"


def _written(name: Callable[[], x509.Name]) -> str:
    """A name in words; empty where it cannot be read: old authorities write in T.61."""
    try:
        return mask(name().rfc4514_string(), ())
    except (ValueError, TypeError):
        return ""
