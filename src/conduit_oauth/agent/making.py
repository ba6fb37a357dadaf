"""The providers of the file that cannot be made: a certificate, or an authority, may come later than the agent."""

from __future__ import annotations

import logging

from ..errors import ConfigurationError
from ..places import version_of
from ..settings import files_in
from ..supervision.registry import TokenProviders

logger = logging.getLogger("conduit_oauth.agent")


class Making:
    """Makes each of `providers`; what could not be made is tried again when a file of its settings changes."""

    def __init__(self, providers: TokenProviders) -> None:
        self._providers = providers
        # What the files were like when a provider could not be made, and why.
        self._failed: dict[str, tuple[tuple[object, ...], str]] = {}

    def forgive(self) -> None:
        """Try all of them again."""
        self._failed.clear()

    def has_failed(self, name: str) -> bool:
        """Whether it could not be made."""
        return name in self._failed

    def problem(self, name: str) -> str | None:
        """What keeps a provider from being made, None where it is there."""
        version = tuple(map(version_of, files_in(self._providers.settings.get(name))))
        before, problem = self._failed.get(name, (None, ""))
        if before == version:
            return problem
        try:
            self._providers[name]
        except ConfigurationError as error:
            logger.warning("provider_not_made name=%s: %s", name, error)
            self._failed[name] = version, str(error)
            return str(error)
        except KeyError:  # the file names it no more
            pass
        self._failed.pop(name, None)
        return None
