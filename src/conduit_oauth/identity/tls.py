"""What TLS trusts and presents, as contexts that follow their files. TLS by the standard library."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast
from weakref import WeakValueDictionary

from ..errors import ConfigurationError
from ..places import expanded, is_file
from ..runtime.process import LockOfProcess, undisturbed
from .sources import Source, files_of, read_text

if TYPE_CHECKING:
    import ssl


# In bytes: the authorities of a platform have some 300,000.
_LONGEST_FILE = 1 << 24
_VARIABLES = "SSL_CERT_FILE", "SSL_CERT_DIR"


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

    def files(self) -> tuple[Path, ...]:
        """All files that a connection depends on, the platform's too."""
        pair = () if self.certificate is None else (self.certificate.certificate, self.certificate.key)
        named = (Path(path) for variable in _VARIABLES if (path := os.environ.get(variable)))
        return files_of(*pair, self.authorities, *named)

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
        """As `new_context`, one for all who trust the same and present nothing: nobody changes it."""
        if self.certificate is not None:
            return self.new_context()
        made_of = self.authorities, self.version(), *_platform_files()
        # Who comes first makes it, and the others wait.
        with _making:
            context = _made.get(made_of)
            if context is None:
                context = _made[made_of] = self.new_context()
            return context

    def new_context(self) -> ssl.SSLContext:
        """A context that presents the certificate.

        Without authorities of its own it trusts what SSL_CERT_FILE and SSL_CERT_DIR name, else what the HTTP client
        brings. Raises `ConfigurationError` for a file that cannot be used.
        """
        import ssl

        with undisturbed():
            if self.authorities is None:
                context = _platform_context()
            else:
                try:
                    _check_that_it_ends(self.authorities)
                    context = ssl.create_default_context(cafile=self.authorities)
                except OSError as error:  # ssl.SSLError is one
                    raise _unreadable(self.authorities, error) from None
            if self.certificate is not None:
                self._present(self.certificate, context)
            context.set_alpn_protocols(["http/1.1"])
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


# What OpenSSL's X509_V_FLAG_X509_STRICT finds, which Python sets since 3.13.
_NOT_STRICT = range(80, 95)
MALFORMED = "It is not as RFC 5280 has it, which Python insists on since 3.13: have its authority issue it anew."


def is_malformed(error: ssl.SSLCertVerificationError) -> bool:
    """Whether a certificate is refused for its form, whoever signed it."""
    return error.verify_code in _NOT_STRICT


# The contexts that are in use, by what they were made of: each takes 25 ms and a megabyte.
_made: WeakValueDictionary[tuple[object, ...], ssl.SSLContext] = WeakValueDictionary()
_making = LockOfProcess()


def tls_files(
    certificate: tuple[str | Path, str | Path] | None, authorities: str | Path | None, password: Source | None
) -> TlsFiles:
    """What the settings `client_certificate`, `ca_file` and `private_key_password` say. Raises `ConfigurationError`."""
    pair = cast("object", certificate)
    if pair is not None and (not isinstance(pair, tuple | list) or len(cast("Sized", pair)) != 2):
        raise ConfigurationError("client_certificate", "is not two files", "Pass (certificate, key).")
    files = TlsFiles(
        certificate and ClientCertificate(*(_path(file, "client_certificate") for file in certificate)),
        None if authorities is None else _path(authorities, "ca_file"),
        partial(read_text, password, "private_key_password") if password else None,
    )
    if files.is_set:
        # Loaded once here, so that a wrong file is an error at construction.
        files.context()
    return files


def _path(file: object, field: str) -> Path:
    if not isinstance(file, str | Path) or not _can_be_opened(str(file)):
        raise ConfigurationError(field, "is no path", "Pass text or a Path.")
    return expanded(Path(file))


def _can_be_opened(path: str) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def trusted() -> ssl.SSLContext:
    """The context of those who have no files of their own, see `TlsFiles.context`."""
    return TlsFiles().context()


def _platform_files() -> list[tuple[str, str, int]]:
    """What the two variables name, and the time of each. Raises `ConfigurationError` where it is not there."""
    files: list[tuple[str, str, int]] = []
    for variable in _VARIABLES:
        if path := os.environ.get(variable):
            try:
                files.append((variable, path, Path(path).stat().st_mtime_ns))
            except OSError:
                advice = "Name a PEM file or a folder of them, or unset it."
                raise ConfigurationError(variable, f"{path} does not exist", advice) from None
    return files


def _platform_context() -> ssl.SSLContext:
    import ssl

    files = _platform_files()
    try:
        for variable, path, _ in files:
            if variable == "SSL_CERT_FILE":
                _check_that_it_ends(Path(path))
        paths = ssl.get_default_verify_paths()
        if files or sys.platform in ("darwin", "win32") or not is_file(Path(paths.openssl_cafile)):
            # It knows where else a platform may keep its authorities.
            import httpx2

            return httpx2.create_ssl_context()
        # As httpx2 does, which takes longer to load.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        folder = paths.openssl_capath if Path(paths.openssl_capath).is_dir() else None
        context.load_verify_locations(paths.openssl_cafile, folder)
        return context
    except OSError as error:
        variables = " or ".join(variable for variable, *_ in files) or "SSL_CERT_FILE"
        raise ConfigurationError(
            variables, f"cannot be used ({error})", "Name PEM certificates, or unset it."
        ) from None


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
