"""What `--check` finds wrong with what providers prove themselves by. Nobody is asked for a token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ..errors import ConfigurationError
from ..identity.sources import header_value, read_key
from ..provider import TokenProvider
from ..serving.formats import check_that_others_can_use
from ..supervision.registry import TokenProviders


def problems_of(providers: TokenProviders) -> list[str]:
    """Each fault in words, with the name of the setting."""
    problems: dict[str, None] = {}
    for name in providers:
        try:
            faults = list(_faults_of(providers[name]))
        except ConfigurationError as error:  # it cannot be made
            faults = [error]
        for fault in faults:
            place = f"providers.{name}"
            problems[str(fault if fault.field.startswith(place) else fault.within(place))] = None
    return list(problems)


def _faults_of(provider: TokenProvider) -> Iterator[ConfigurationError]:
    requester = provider.control.requester
    credentials = requester.config.credentials

    def load_private_key() -> None:
        from ..protocol.jose import load_key

        load_key(read_key(credentials.private_key), password=credentials.key_password)

    looks = [partial(check_that_others_can_use, provider), credentials.material, requester.identity]
    looks += [partial(header_value, source, header) for header, source in requester.config.headers]
    looks += [load_private_key] if credentials.private_key is not None else []
    for look in looks:
        try:
            look()
        except ConfigurationError as error:
            yield error
