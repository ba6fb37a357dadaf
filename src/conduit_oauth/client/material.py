"""What a client's requests are made with, looked at before any is sent."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ..errors import ConfigurationError
from ..identity.sources import header_value, read_key
from .requester import Requester


def faults_of(requester: Requester) -> Iterator[ConfigurationError]:
    """What keeps a request from being made: a source that cannot be read, or a key that cannot be used."""
    credentials = requester.config.credentials

    def load_private_key() -> None:
        from ..protocol.jose import load_key

        load_key(read_key(credentials.private_key), password=credentials.key_password)

    looks = [credentials.material, requester.identity]
    looks += [partial(header_value, source, header) for header, source in requester.config.headers]
    looks += [load_private_key] if credentials.private_key is not None else []
    for look in looks:
        try:
            look()
        except ConfigurationError as error:
            yield error
