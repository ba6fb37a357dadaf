"""What the programs of frameworks have in common: a provider that is made at import, and one call of it."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from conduit_oauth import OAuthError, TokenProvider, TokenProviders
from tests.operations.facts import FACTS


def _made() -> TokenProvider:
    facts = json.loads(os.environ[FACTS])
    if not facts.pop("supervised", False):
        return TokenProvider(**facts)
    return TokenProviders({"demo": facts}).start()["demo"]


provider = _made()


def call(is_void: bool) -> dict[str, Any]:
    """Get the token, invalidate it where it is to be void, and say what that was like."""
    begun, token, error = time.monotonic(), None, None
    try:
        token = provider.get_token()
        if is_void:
            provider.invalidate(token)
    except OAuthError as caught:
        error = str(caught)
    return {"token": token, "seconds": time.monotonic() - begun, "error": error, "process": os.getpid()}
