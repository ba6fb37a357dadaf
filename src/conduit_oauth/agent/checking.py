"""What `--check` finds wrong with what providers prove themselves by. Nobody is asked for a token."""

from __future__ import annotations

from collections.abc import Iterator

from ..client.material import faults_of
from ..errors import ConfigurationError
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
    try:
        check_that_others_can_use(provider)
    except ConfigurationError as error:
        yield error
    yield from faults_of(provider.control.requester)
