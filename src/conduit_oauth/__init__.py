"""OAuth 2.1 access tokens for machines: found, fetched, cached, refreshed ahead of time, and handed to any HTTP client.

Names are loaded on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from ._version import __version__

# Not typing's: importing typing costs more than all the rest of this file. Type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .errors import (
        ConfigurationError,
        DiscoveryError,
        InvalidTokenResponse,
        OAuthError,
        ProviderClosedError,
        TokenRequestError,
        TransportError,
    )
    from .events import Event, EventName, Observer
    from .identity.sources import from_environment, from_keyring
    from .lifecycle.state import Counts, Health, ProviderState
    from .protocol.discovery import derive_token_endpoint
    from .provider import TokenProvider
    from .supervision.registry import TokenProviders

__all__ = [
    "ConfigurationError",
    "Counts",
    "DiscoveryError",
    "Event",
    "EventName",
    "Health",
    "InvalidTokenResponse",
    "OAuthError",
    "Observer",
    "ProviderClosedError",
    "ProviderState",
    "TokenProvider",
    "TokenProviders",
    "TokenRequestError",
    "TransportError",
    "__version__",
    "derive_token_endpoint",
    "from_environment",
    "from_keyring",
]

if not TYPE_CHECKING:  # which would hide a misspelt name
    _MODULES = {
        "TokenProvider": "provider",
        "TokenProviders": "supervision.registry",
        "derive_token_endpoint": "protocol.discovery",
        "Event": "events",
        "EventName": "events",
        "Observer": "events",
        "from_environment": "identity.sources",
        "from_keyring": "identity.sources",
        "ProviderState": "lifecycle.state",
        "Counts": "lifecycle.state",
        "Health": "lifecycle.state",
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_MODULES.get(name, 'errors')}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
