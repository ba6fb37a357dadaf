"""An HTTP request and an HTTP answer as far as the protocol looks at them, and what is read of any answer. Pure."""

from __future__ import annotations

import codecs
import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any, Literal, NoReturn, cast
from urllib.parse import urljoin

from ..masking import mask, redact
from ..refusals import REGISTERED_ERRORS

# RFC 9110 §5.6.2: the name of a header or a method.
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_NUMBER = re.compile(r"\d{1,15}(\.\d{1,15})?", re.ASCII)
# Bytes of an answer that are read as a text for people.
LONGEST_READ = 16_384


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request to be sent; what may hold a credential is not in its repr.

    `reads` says whose body is of interest: of `all` answers, of `errors` (400 and above) or of none (`head`).
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(default=b"", repr=False)
    reads: Literal["all", "errors", "head"] = "all"

    def reads_body(self, status: int) -> bool:
        """Whether the body of an answer with `status` is of interest."""
        return self.reads == "all" or (self.reads == "errors" and status >= 400)


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer as far as the protocol looks at it; header names in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)


def is_http_token(text: str) -> bool:
    """Whether `text` can be the name of a header or a method; `token` in RFC 9110 §5.6.2."""
    return _TOKEN.fullmatch(text) is not None


def parse_json_object(content: bytes) -> dict[str, Any] | None:
    """The JSON object in `content`, None for anything else. NaN, infinities and hostile nesting are refused."""
    try:
        body = json.loads(content.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", body) if isinstance(body, dict) else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def read_texts(content: bytes, names: Iterable[str], secrets: Iterable[str]) -> dict[str, str]:
    """The members `names` of an error answer's JSON, as far as they are there and are texts."""
    body = parse_json_object(content) or {}
    said = {name: value for name in names if isinstance(value := body.get(name), str)}
    return {name: shown for name, value in said.items() if (shown := quoted(value, secrets))}


def quoted(value: str, secrets: Iterable[str]) -> str:
    """A text of an error answer, fit to be shown."""
    # A code of an RFC stays what it is, also where a short secret is a part of it.
    if value in REGISTERED_ERRORS:
        return value
    # Some servers have long codes in capitals.
    return mask(value, secrets) if value.replace("_", "").isalpha() else redact(value, secrets, uuids=True)


def location_of(url: str, location: str, secrets: Iterable[str]) -> str:
    """Where a redirect from `url` to `location` leads, without what may hold a token or a session."""
    for mark in "?#;":
        location = location.partition(mark)[0]
    with contextlib.suppress(ValueError):  # shown as it is
        location = location and urljoin(url, location)
    return redact(location, secrets, uuids=True)


def excerpt_of(content: bytes, secrets: list[str]) -> str:
    """What an answer without an OAuth error says: as a problem document (RFC 9457), else its first characters."""
    body = parse_json_object(content) or {}
    problem = [text for name in ("title", "detail") if isinstance(text := body.get(name), str) and text.strip()]
    if problem:
        return redact(": ".join(problem), secrets)
    return redact(readable(content) or "", secrets, is_cut=len(content) > LONGEST_READ)


def readable(content: bytes) -> str | None:
    """The first `LONGEST_READ` bytes of a text in UTF-8.

    None for anything else: a secret in another encoding is not recognised.
    """
    try:
        # A character that the cut divided is left out.
        text = codecs.getincrementaldecoder("utf-8")().decode(content[:LONGEST_READ])
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def read_number(text: str) -> float | None:
    """The number that `text` is, None where it is none."""
    # What matched, and not the text around it: float() and strip() differ about what white space is.
    number = _NUMBER.fullmatch(text.strip())
    return None if number is None else float(number[0])


def parse_retry_after(value: str | None, wall_now: float) -> float | None:
    """Seconds to wait by a `Retry-After` header (RFC 9110 §10.2.3), None where there is none that can be read."""
    if value is None:
        return None
    if (number := read_number(value)) is not None:
        return number
    moment = parse_date(value)
    return None if moment is None else max(0.0, moment - wall_now)


def parse_date(value: str) -> float | None:
    """The Unix time of a date in a header (RFC 9110 §5.6.7), None for anything else."""
    import email.utils  # brings half of the email package, for a header that is hardly ever a date

    try:
        moment = email.utils.parsedate_to_datetime(value)
        # A date in -0000 comes back naive, and means UTC (RFC 5322 §3.3).
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None
