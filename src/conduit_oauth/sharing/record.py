"""What a fleet keeps under a key: a token, or why there is none. As JSON, before it is sealed."""

from __future__ import annotations

from typing import Any, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..token import AccessToken


class Kept(NamedTuple):
    """A token of a record: what it has left, in seconds, and the fence that it was written under."""

    value: str
    scope: str | None
    refresh_in: float
    expires_in: float
    fence: int


def lasting(token: AccessToken, end: float) -> dict[str, Any]:
    """`token` in a record that is kept until `end`."""
    window = token.expires_at - token.refresh_at
    return {"value": token.value, "scope": token.scope, "window": window, "before": end - token.expires_at}


def token_in(record: dict[str, Any], remaining: float, fence: int) -> Kept | None:
    """The token of a record that has `remaining` seconds left; `fence` is what the record was written under."""
    token = record.get("token")
    if token is None or (left := remaining - token["before"]) <= 0:
        return None
    return Kept(token["value"], token["scope"], left - token["window"], left, record.get("fence", fence))
