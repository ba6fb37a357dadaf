"""The client certificate of RFC 8705, as a TLS context that follows its files. TLS by the standard library."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigurationError

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate (with its chain) and its private key, PEM files both."""

    certificate: Path
    key: Path

    def version(self) -> tuple[int, int]:
        """Changes when a file does. Raises `ConfigurationError` where one cannot be read."""
        try:
            return self.certificate.stat().st_mtime_ns, self.key.stat().st_mtime_ns
        except OSError as error:
            raise _unusable(error) from None

    def context(self) -> ssl.SSLContext:
        """A context that trusts what the platform trusts and presents the certificate."""
        import ssl

        context = ssl.create_default_context()
        try:
            context.load_cert_chain(self.certificate, self.key)
        except OSError as error:  # ssl.SSLError is one
            raise _unusable(error) from None
        return context


def trusted() -> ssl.SSLContext:
    """A context that trusts what SSL_CERT_FILE and SSL_CERT_DIR name, else what the HTTP client brings.

    Raises `ConfigurationError` where one of the two names nothing that can be read.
    """
    import httpx2

    named = {name: path for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if (path := os.environ.get(name))}
    for variable, path in named.items():
        if not Path(path).exists():
            raise ConfigurationError(
                variable, f"{path} does not exist", "Name a PEM file or a folder of them, or unset it."
            )
    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        fields = " or ".join(named) or "SSL_CERT_FILE"
        raise ConfigurationError(fields, f"cannot be used ({error})", "Name PEM certificates, or unset it.") from None


def _unusable(error: OSError) -> ConfigurationError:
    return ConfigurationError(
        "client_certificate", f"cannot be used ({error})", "Name a PEM certificate and its unencrypted private key."
    )
