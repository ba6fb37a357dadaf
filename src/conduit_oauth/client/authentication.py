"""Which secret and which method a server takes: tries what the settings leave open, and remembers what worked.

Invariant: a configured method is never replaced, and each secret is sent by each method at most once in a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from ..errors import ConfigurationError, TokenRequestError
from ..identity.credentials import Credentials
from ..identity.sources import read_text
from ..protocol.client_auth import is_changed_by_basic, methods_to_try, usable_methods
from ..protocol.discovery import Discovery
from ..refusals import is_refused_client
from .config import ClientConfig

T = TypeVar("T")
# One request, by these credentials and the last of these methods; the ones before it were refused.
Attempt = Callable[[Credentials, tuple[str, ...]], T]


class MethodMemory(Protocol):
    """What else remembers the method that the token endpoint took, beyond this process."""

    def recall_method(self) -> str | None:
        """The method that worked for this client, None where nobody knows."""
        ...

    def remember_method(self, method: str) -> None:
        """Tell others of the method that worked."""
        ...


class Authentication:
    """Used by one flight at a time, and by whoever asks about a token beside it."""

    __slots__ = ("_config", "_second", "_worked", "memory")

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self.memory: MethodMemory | None = None
        # Whether the second of two secrets is the one that the server took last.
        self._second = False
        # By endpoint, the method that worked last.
        self._worked: dict[str, str] = {}

    @property
    def credentials(self) -> Credentials:
        """The credentials as they are in use now: of two secrets, the one that the server took last."""
        secrets = self._config.credentials.secrets
        if len(secrets) < 2:
            return self._config.credentials
        return dataclasses.replace(self._config.credentials, client_secret=secrets[self._second])

    def run(self, endpoint: str, found: Discovery, attempt: Attempt[T]) -> T:
        """What `attempt` returns by the first credential and method that `endpoint` does not refuse.

        Raises what `attempt` raises; where all were refused, the last refusal, which knows of all methods.
        """
        refusal: TokenRequestError | None = None
        tried: tuple[str, ...] = ()
        for index, credentials, method in self._choices(endpoint, found):
            tried = (*(name for name in tried if name != method), method)
            try:
                result = attempt(credentials, tried)
            except TokenRequestError as error:
                if not error.retryable and is_refused_client(error.status, error.error):
                    refusal = error
                    continue
                if refusal is not None and error.error in (None, "invalid_request"):
                    # It does not know this method: what it says of the likelier one tells more.
                    continue
                if not error.retryable:
                    # Whatever else it has against the request, it knows the client.
                    self._accepted(endpoint, index, method, after_refusal=refusal is not None)
                raise
            self._accepted(endpoint, index, method, after_refusal=refusal is not None)
            return result
        assert refusal is not None  # noqa: S101 - there is at least one choice
        raise refusal

    def _choices(self, endpoint: str, found: Discovery) -> Iterator[tuple[int, Credentials, str]]:
        """The secret (by its place), the credentials and the method of each try, the likeliest first."""
        secrets = self._config.credentials.secrets
        order = [int(self._second), int(not self._second)][: max(1, len(secrets))]
        pairs = [(index, rank) for index in order for rank in (0, 1)]
        self._recall(endpoint)
        if endpoint in self._worked:
            # The method is right, so it is more likely that the secret has changed.
            pairs.sort(key=lambda pair: pair[1])
        readied: dict[int, tuple[Credentials, tuple[str, ...]]] = {}
        for index, rank in pairs:
            try:
                if index not in readied:
                    readied[index] = self._readied(index, endpoint, found)
            except ConfigurationError:
                if not readied:
                    raise
                # The refusal of the other secret says more than that this one cannot be read.
                continue
            credentials, methods = readied[index]
            if rank < len(methods):
                yield index, credentials, methods[rank]

    def _readied(self, index: int, endpoint: str, found: Discovery) -> tuple[Credentials, tuple[str, ...]]:
        """The credentials, a secret in them read once for all methods, and the methods to try with them."""
        config, credentials = self._config, self._config.credentials
        prefer_post = False
        if credentials.secrets:
            secret = read_text(credentials.secrets[index], "client_secret")
            credentials = dataclasses.replace(credentials, client_secret=secret)
            prefer_post = is_changed_by_basic(config.client_id, secret)
        if config.method is not None:
            return credentials, (config.method,)
        supported = found.server.methods_at(endpoint) if found.server else None
        methods = methods_to_try(usable_methods(credentials), supported, prefer_post=prefer_post, derived=found.derived)
        worked = self._worked.get(endpoint)
        if worked is None and (elsewhere := self._worked.get("token_endpoint")) in (supported or methods):
            worked = elsewhere
        return credentials, tuple(sorted(methods, key=lambda method: method != worked))

    def _recall(self, endpoint: str) -> None:
        """Learn once what another process found out."""
        config = self._config
        is_open = config.method is None and bool(config.credentials.secrets)
        if endpoint != "token_endpoint" or endpoint in self._worked or not is_open or self.memory is None:
            return
        if (method := self.memory.recall_method()) is not None:
            self._worked[endpoint] = method

    def _accepted(self, endpoint: str, index: int, method: str, *, after_refusal: bool) -> None:
        self._second = bool(index)
        self._worked[endpoint] = method
        if after_refusal and endpoint == "token_endpoint" and self.memory is not None and self._config.method is None:
            self.memory.remember_method(method)
