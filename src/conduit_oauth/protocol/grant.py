"""The token request and the judgement of its answer (RFC 6749 §4.4, §5). Pure: values in, values out."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlencode

from ..errors import InvalidTokenResponse, TokenRequestError
from ..masking import mask, redact
from ..refusals import UNKNOWN, Asked, explain
from ..token_types import ACCESS_TOKEN_TYPE
from .http import (
    LONGEST_READ,
    Request,
    Response,
    excerpt_of,
    location_of,
    parse_json_object,
    parse_retry_after,
    read_number,
    read_texts,
    readable,
)

Form = list[tuple[str, str]]

# More than any server takes in a header.
_LONGEST_TOKEN = 65_536
_LONGEST_SCOPE = 16_384
_ACCESS_TOKEN = re.compile(r"[\x21-\x7e]+")  # RFC 6749 A.12, less the blank: it goes into a header
# RFC 6749 §3.3: scope tokens of printable ASCII without the double quote and the backslash, one space between.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]++( [\x21\x23-\x5b\x5d-\x7e]++)*")
# Ten years. What is longer is a mistake, mostly a Unix timestamp in the place of a duration, and is cut to this.
MAX_LIFETIME = 315_360_000.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What a judged answer grants: `lifetime` in seconds, None where the server named none.

    `is_cut` tells that the server named more than `MAX_LIFETIME`, which is what `lifetime` is then. `refresh_in` is how
    many seconds the server wants the token to be used before a refresh, None where it does not say.
    """

    access_token: str = field(repr=False)
    lifetime: float | None
    scope: str | None
    is_cut: bool = False
    refresh_in: float | None = None


def is_scope(text: str) -> bool:
    """Whether `text` is a scope as the protocol spells it (RFC 6749 §3.3)."""
    return len(text) <= _LONGEST_TOKEN and _SCOPE.fullmatch(text) is not None


def client_credentials_form(parameters: Iterable[tuple[str, str]]) -> Form:
    """The form of RFC 6749 §4.4.2, not yet signed by the client's authentication method."""
    return [("grant_type", "client_credentials"), *parameters]


def jwt_bearer_form(assertion: str, parameters: Iterable[tuple[str, str]]) -> Form:
    """The form of RFC 7523 §2.1: a JWT that another party issued is the grant (workload identity federation)."""
    return [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion), *parameters]


def token_exchange_form(subject_token: str, kind: str, parameters: Iterable[tuple[str, str]]) -> Form:
    """The form of RFC 8693 §2.1: the caller's token, of type `kind`, is exchanged for one of our own."""
    subject = [("subject_token", subject_token), ("subject_token_type", kind)]
    return [("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"), *subject, *parameters]


def token_request(token_endpoint: str, headers: Mapping[str, str], form: Form) -> Request:
    """The POST of a signed form to the token endpoint (RFC 6749 §3.2)."""
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded", **headers}
    return Request("POST", token_endpoint, headers, urlencode(form).encode())


def judge_token_response(
    url: str,
    response: Response,
    *,
    secrets: Iterable[str],
    wall_now: float,
    token_type: str,
    default_token_type: str | None = None,
    asked: Asked = UNKNOWN,
) -> Grant:
    """The grant in a token response, or the error it amounts to.

    Raises `TokenRequestError` for a status other than 2xx (RFC 6749 §5.2), and for an error that comes with 2xx, and
    `InvalidTokenResponse` for a success that breaks §5.1, or is no token of `token_type`. `default_token_type` is what
    a token is where the answer does not say. `wall_now` (Unix seconds) is what a `Retry-After` date is compared with;
    `asked` is what the request was, for the words about a refusal.
    """
    if not 200 <= response.status < 300:
        raise _refusal(url, response, list(secrets), wall_now, asked)
    body = parse_json_object(response.content)
    if body is None:
        raise InvalidTokenResponse(url, "body", _not_an_object(response.content, secrets))
    if not body.get("access_token") and _names_error(body):
        raise _refusal(url, response, list(secrets), wall_now, asked)
    if body.get("token_type") is None and default_token_type is not None:
        body["token_type"] = default_token_type
    token, lifetime, scope = _access_token(url, body, token_type), _lifetime(url, body), _scope(url, body)
    if lifetime is None:
        return Grant(token, None, scope, refresh_in=_refresh_in(body))
    cut = float(min(lifetime, MAX_LIFETIME))
    return Grant(token, cut, scope, is_cut=lifetime > MAX_LIFETIME, refresh_in=_refresh_in(body))


def about_token_form(token: str) -> Form:
    """The form that asks about, or revokes, an access token (RFC 7662 §2.1, RFC 7009 §2.1)."""
    return [("token", token), ("token_type_hint", "access_token")]


def judge_introspection(
    url: str, response: Response, *, secrets: Iterable[str], wall_now: float, asked: Asked
) -> dict[str, Any]:
    """What the server says of a token (RFC 7662 §2.2). Raises `TokenRequestError` and `InvalidTokenResponse`.

    An error that comes with 2xx is the error that it names.
    """
    judge_revocation(url, response, secrets=secrets, wall_now=wall_now, asked=asked)
    body = parse_json_object(response.content)
    if body is not None and "active" not in body and _names_error(body):
        raise _refusal(url, response, list(secrets), wall_now, asked)
    if body is None or not isinstance(body.get("active"), bool):
        raise InvalidTokenResponse(url, "active", "is missing or not a boolean", "Check introspection_endpoint.")
    return body


def judge_revocation(url: str, response: Response, *, secrets: Iterable[str], wall_now: float, asked: Asked) -> None:
    """Raise `TokenRequestError` unless the server did as it was asked (RFC 7009 §2.2: 200, known token or not)."""
    if not 200 <= response.status < 300:
        raise _refusal(url, response, list(secrets), wall_now, asked)


def wants_nonce(response: Response) -> bool:
    """Whether the authorization server refused for want of a DPoP nonce that it sends along (RFC 9449 §8)."""
    body = (parse_json_object(response.content) or {}) if response.status in (400, 401) else {}
    return body.get("error") == "use_dpop_nonce" and "dpop-nonce" in response.headers


def _names_error(body: dict[str, Any]) -> bool:
    """Whether an answer says what went wrong; some servers do with a status of success."""
    error = body.get("error")
    # Of blanks and control characters nothing is left to be told.
    return isinstance(error, str) and bool(mask(error, ()))


def _not_an_object(content: bytes, secrets: Iterable[str]) -> str:
    text = readable(content)
    if text is None:
        return f"is not a JSON object ({len(content)} bytes that are no text in UTF-8)"
    # What looks like a broken token response may hold the token, in whatever shape: show none of it.
    if not text or "token" in text.lower():
        return f"is not a JSON object ({len(content)} bytes)"
    shown = redact(text, secrets, is_cut=len(content) > LONGEST_READ)
    return f"is not a JSON object ({len(content)} bytes: {shown})"


def _access_token(url: str, body: dict[str, Any], token_type: str) -> str:
    token = body.get("access_token")
    if not isinstance(token, str) or not token:
        raise InvalidTokenResponse(url, "access_token", "is missing, empty or not a string")
    if len(token) > _LONGEST_TOKEN:
        raise InvalidTokenResponse(url, "access_token", f"is longer than {_LONGEST_TOKEN} characters")
    if not _ACCESS_TOKEN.fullmatch(token):
        raise InvalidTokenResponse(url, "access_token", "has a character that RFC 6749 does not allow in a token")
    kind = body.get("token_type")
    if not isinstance(kind, str) or kind.lower() != token_type.lower():
        raise InvalidTokenResponse(url, "token_type", *_wrong_type(kind, token_type))
    return token


def _wrong_type(kind: object, wanted: str) -> tuple[str, str | None]:
    """What is wrong with the type of a token, and the advice where there is some of its own."""
    match kind.lower() if isinstance(kind, str) else "":
        case "n_a":
            return (
                "is N_A: what the server issued is no access token (RFC 8693 §2.2.1)",
                "Ask for an access token: set the extra parameter requested_token_type to "
                f"{ACCESS_TOKEN_TYPE}, or leave it out.",
            )
        case "bearer":
            return (
                "is Bearer: this server does not bind tokens for this client",
                "Have DPoP switched on in the client's registration, or leave dpop out.",
            )
        case "dpop":
            return "is DPoP: this server binds the tokens of this client", "Set dpop=True (--dpop)."
        case _:
            if kind:
                return f"is not {wanted}", None
            return "is missing", f'If its tokens are of type {wanted}, set default_token_type="{wanted}".'


def _lifetime(url: str, body: dict[str, Any]) -> int | float | None:
    """The lifetime as the server names it; an integer of any size."""
    value = body.get("expires_in")
    if value is None:
        return None
    if isinstance(value, str) and (number := read_number(value)) is not None:
        value = number
    if isinstance(value, bool) or not isinstance(value, int | float) or value == math.inf:
        raise InvalidTokenResponse(url, "expires_in", "is not a number of seconds")
    if value < 0:
        raise InvalidTokenResponse(url, "expires_in", "is negative")
    return value


def _refresh_in(body: dict[str, Any]) -> float | None:
    """Not of an RFC (Entra ID has it): a value that makes no sense is no value."""
    value = body.get("refresh_in")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_LIFETIME:
        return None
    return float(value)


def jwt_lifetime(token: str, wall_now: float) -> float | None:
    """Seconds until the `exp` of a JWT (RFC 9068 §2.2), unverified; None for a token that does not tell.

    The shorter of what is left by our clock and what the server gave it, so that no clock makes a token look younger.
    """
    claims = jwt_part(token, 1)
    moments = [claims.get(name) for name in ("exp", "iat")]
    expires, issued = (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12 else None
        for value in moments
    )
    if expires is None:
        return None
    return min(expires - wall_now, math.inf if issued is None else expires - issued, MAX_LIFETIME)


def jwt_part(token: str, place: int) -> dict[str, Any]:
    """The header (0) or the claims (1) of a JWT, unverified; empty where it is none."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        return parse_json_object(base64.urlsafe_b64decode(parts[place] + "=" * (-len(parts[place]) % 4))) or {}
    except ValueError:
        return {}


def _scope(url: str, body: dict[str, Any]) -> str | None:
    scope = body.get("scope")
    # Some servers send a list; the meaning is plain and the token is good.
    if isinstance(scope, list) and all(isinstance(item, str) for item in cast("list[Any]", scope)):
        scope = " ".join(cast("list[str]", scope))
    if scope is None:
        return None
    if not isinstance(scope, str):
        raise InvalidTokenResponse(url, "scope", "is not a string")
    if len(scope) > _LONGEST_SCOPE:
        scope = scope[:_LONGEST_SCOPE].rpartition(" ")[0]
    # What is no name of a scope is not a reason to refuse the token; it is kept from files, stores and terminals.
    return " ".join(filter(is_scope, scope.split()))


def _refusal(url: str, response: Response, secrets: list[str], wall_now: float, asked: Asked) -> TokenRequestError:
    said = read_texts(response.content, ("error", "error_description", "error_uri"), secrets)
    # Some servers of our field send the header under this name only.
    asked_to_wait = response.headers.get("retry-after") or response.headers.get("x-retry-after")
    retry_after = parse_retry_after(asked_to_wait, wall_now)
    location = location_of(url, response.headers.get("location", ""), secrets) if 300 <= response.status < 400 else ""
    excerpt = f"redirects to {location}" if location else "" if said else excerpt_of(response.content, secrets)
    return TokenRequestError(
        url,
        response.status,
        **said,
        excerpt=excerpt,
        retry_after=retry_after,
        explanation=explain(response.status, said.get("error"), asked, retry_after=retry_after, location=location),
    )
