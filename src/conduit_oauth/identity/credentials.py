"""What a client proves itself with, and what it exchanges: the sources that were configured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from ..token_types import ACCESS_TOKEN_TYPE
from .sources import KeySource, Source, files_of, read_material
from .tls import ClientCertificate


@dataclass(frozen=True, slots=True)
class Credentials:
    """The sources that were configured: at most one for the client, at most one for the grant. Never in a repr."""

    client_secret: Source | tuple[Source, Source] | None = field(default=None, repr=False)
    private_key: KeySource | None = field(default=None, repr=False)
    client_assertion: Source | None = field(default=None, repr=False)
    client_certificate: ClientCertificate | None = None
    # What is exchanged for the token, in the grants that exchange something.
    assertion: Source | None = field(default=None, repr=False)
    subject_token: Source | None = field(default=None, repr=False)
    subject_token_type: str = ACCESS_TOKEN_TYPE
    key_password: Source | None = field(default=None, repr=False)
    key_id: str | None = None
    algorithm: str | None = None

    @property
    def secrets(self) -> tuple[Source, ...]:
        """The client secrets that were configured: none, one, or two to try in turn."""
        given = self.client_secret
        if isinstance(given, tuple):
            return cast("tuple[Source, ...]", given)
        return () if given is None else (given,)

    def files(self) -> tuple[Path, ...]:
        """The files that the sources are in."""
        certificate = self.client_certificate
        own = (self.private_key, self.key_password, self.client_assertion, self.assertion, self.subject_token)
        return files_of(*self.secrets, *own, *((certificate.certificate, certificate.key) if certificate else ()))

    def material(self) -> bytes:
        """Everything secret in them, as it is now; see `read_material`."""
        return read_material(lambda name: getattr(self, name))
