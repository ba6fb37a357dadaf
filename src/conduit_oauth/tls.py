"""What TLS trusts and presents, as contexts that follow their files. TLS by the standard library."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigurationError
from .process import undisturbed

if TYPE_CHECKING:
    import ssl


# In bytes: the authorities of a platform have some 300,000.
_LONGEST_FILE = 1 << 24


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate (with its chain) and its private key, PEM files both."""

    certificate: Path
    key: Path

    def fingerprint(self) -> str:
        """Tells this certificate from any other. Raises `OSError` where its file cannot be read."""
        _check_that_it_ends(self.certificate)
        return hashlib.sha256(self.certificate.read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of a client's connections: its certificate (RFC 8705), and authorities in place of the platform's."""

    certificate: ClientCertificate | None = None
    authorities: Path | None = None
    # What returns the password of the certificate's key.
    password: Callable[[], str] | None = field(default=None, repr=False)

    @property
    def is_set(self) -> bool:
        """Whether there is any."""
        return self.certificate is not None or self.authorities is not None

    def version(self) -> tuple[int, ...]:
        """Changes when a file does. Raises `ConfigurationError` where one cannot be read."""
        certificate = () if self.certificate is None else (self.certificate.certificate, self.certificate.key)
        authorities = () if self.authorities is None else (self.authorities,)
        try:
            versions = [file.stat().st_mtime_ns for file in authorities]
        except OSError as error:
            raise _unreadable(self.authorities, error) from None
        try:
            return (*versions, *(file.stat().st_mtime_ns for file in certificate))
        except OSError as error:
            raise _unusable(error) from None

    def context(self) -> ssl.SSLContext:
        """A context that presents the certificate. Raises `ConfigurationError` for a file that cannot be used."""
        import ssl

        with undisturbed():
            if not self.is_set:
                return trusted()
            if self.authorities is None:
                # One of its own: the shared one would present the certificate to everybody.
                context = _platform(_named())
            else:
                try:
                    _check_that_it_ends(self.authorities)
                    context = ssl.create_default_context(cafile=self.authorities)
                except OSError as error:  # ssl.SSLError is one
                    raise _unreadable(self.authorities, error) from None
            if self.certificate is not None:
                self._present(self.certificate, context)
            return context

    def _present(self, certificate: ClientCertificate, context: ssl.SSLContext) -> None:
        is_encrypted = False

        def password() -> str:
            # Without a callable, OpenSSL asks for the password at the terminal.
            nonlocal is_encrypted
            is_encrypted = True
            return "" if self.password is None else self.password()

        try:
            for file in (certificate.certificate, certificate.key):
                _check_that_it_ends(file)
            context.load_cert_chain(certificate.certificate, certificate.key, password)
        except OSError as error:
            if is_encrypted and self.password is None:
                problem = f"{certificate.key} is encrypted"
                advice = "Set private_key_password, or decrypt the key."
                raise ConfigurationError("client_certificate", problem, advice) from None
            raise _unusable(error) from None


# The context of `trusted`, and what it was made of: it takes 25 ms and a megabyte.
_trusted: dict[tuple[object, ...], ssl.SSLContext] = {}


def trusted() -> ssl.SSLContext:
    """The process's context that trusts what SSL_CERT_FILE and SSL_CERT_DIR name, else what the HTTP client brings.

    It is for everybody: nobody changes it. Raises `ConfigurationError` where one of the two names nothing that can be
    read.
    """
    named = _named()
    try:
        made_of = tuple((path, Path(path).stat().st_mtime_ns) for path in named.values())
    except OSError as error:
        raise _untrustworthy(named, error) from None
    if (context := _trusted.get(made_of)) is None:
        context = _platform(named)
        _trusted.clear()
        _trusted[made_of] = context
    return context


def _named() -> dict[str, str]:
    """The paths of the two variables, as far as they are set. Raises `ConfigurationError` where one is not there."""
    named = {name: path for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if (path := os.environ.get(name))}
    for variable, path in named.items():
        if not Path(path).exists():
            raise ConfigurationError(
                variable, f"{path} does not exist", "Name a PEM file or a folder of them, or unset it."
            )
    return named


def _platform(named: dict[str, str]) -> ssl.SSLContext:
    import httpx2

    try:
        if (file := named.get("SSL_CERT_FILE")) is not None:
            _check_that_it_ends(Path(file))
        return httpx2.create_ssl_context()
    except OSError as error:
        raise _untrustworthy(named, error) from None


def _untrustworthy(named: dict[str, str], error: OSError) -> ConfigurationError:
    fields = " or ".join(named) or "SSL_CERT_FILE"
    return ConfigurationError(fields, f"cannot be used ({error})", "Name PEM certificates, or unset it.")


def _check_that_it_ends(file: Path) -> None:
    # OpenSSL reads a device without end for ever.
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(file))
    if status.st_size > _LONGEST_FILE:
        raise OSError(errno.EFBIG, f"has more than {_LONGEST_FILE} bytes", str(file))


def _unreadable(file: Path | None, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        "ca_file", f"{file} cannot be used ({error.strerror})", "Name a file of PEM certificates."
    )


def _unusable(error: OSError) -> ConfigurationError:
    return ConfigurationError(
        "client_certificate", f"cannot be used ({error})", "Name a PEM certificate and its private key."
    )
