"""Text from outside, made fit to be shown: without secrets, on one line, and cut.

Invariant: No message is built from a server's text without `mask` or `redact`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from urllib.parse import quote, quote_plus, unquote

EXCERPT_LENGTH = 200
# Characters of a server's text that are looked at: more than are shown, so that what is masked leaves enough.
_LONGEST = 8192
_CONTROL = re.compile(r"[\x00-\x1f]+")
# A token, an assertion, a key: long, unbroken, and not just lower-case words; or a URL, whose parts are looked at.
_TOKEN_LIKE = re.compile(r"https?://[^\s\"'<>]+|[A-Za-z0-9._~+/=%-]{20,}")
# What is said to be a secret, in JSON or in a form, however short it is.
_NAMED = re.compile(r"""((?:token|secret|password|assertion)(?:"\s{0,4}:\s{0,4}"|=))[^"&\s]+""", re.IGNORECASE)
_URL_PART = re.compile(r"[^/?&=#]{20,}")
_JSON_ESCAPE = re.compile(r"""\\(?:u([0-9A-Fa-f]{4})|(["\\/])|[bfnrt])""")
_BASE64 = re.compile(r"[A-Za-z0-9_+/-]{8,}={0,2}")
# In Latin-1.
_HIDDEN_BYTES = bytes(code for code in range(256) if not chr(code).isprintable() or chr(code).isspace())
# A shorter secret would be found in any text.
_SHORTEST_HIDDEN = 6
_TELLING = re.compile(r"[0-9A-Z]")
_UUID = re.compile(r"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Za-z])")


def mask(text: str, secrets: Iterable[str]) -> str:
    """One bounded line of a server's text, without the known secrets in any encoding, without control characters."""
    return _line(_without(text, secrets))


def redact(text: str, secrets: Iterable[str], *, uuids: bool = False, is_cut: bool = False) -> str:
    """As `mask`, and whatever looks like a token goes, too.

    With `uuids` a UUID stays: by these, servers name clients, tenants and requests to the people who look for them.
    `is_cut` tells that `text` is only the beginning of what came, so that a secret may be divided at its end.
    """
    # The known secrets first: what looks like a token may be a part of one, and the other part would stay.
    text = _NAMED.sub(r"\1***", _without(text, secrets, is_cut=is_cut))
    return _line(_TOKEN_LIKE.sub(partial(_without_token, uuids=uuids), text))


def _line(text: str) -> str:
    text = clean(text)
    return text if len(text) <= EXCERPT_LENGTH else text[:EXCERPT_LENGTH] + "…"


def _without(text: str, secrets: Iterable[str], *, is_cut: bool = False) -> str:
    """The beginning of `text`, without the known secrets."""
    # Cut before anything else looks at it: what a server sends may be long, and all of this is work.
    is_cut |= len(text) > _LONGEST
    text = text[:_LONGEST]
    known = [secret for secret in secrets if secret]
    # The longest first: a shorter one may be a part of it.
    for form in sorted({form for secret in known for form in _forms(secret)}, key=len, reverse=True):
        text = text.replace(form, "***")
    # Also as one reads its UTF-8 in Latin-1: `_is_in_base64` does, and so do some servers.
    readings = {_compact(reading) for secret in known for reading in (secret, secret.encode().decode("latin-1"))}
    if hidden := [reading for reading in readings if len(reading) >= _SHORTEST_HIDDEN]:
        try:
            text = _BASE64.sub(lambda run: "***" if _is_in_base64(run[0], hidden) else run[0], text)
            is_in_pieces = _is_in_pieces(text, hidden)
        except ValueError:  # a web page's number of more digits than Python reads
            is_in_pieces = True
        if is_in_pieces:
            # Where exactly it begins and ends is of no use to anybody.
            return "***"
    if is_cut and known:
        # The cut may have divided one, in any encoding.
        text = clean(text[: -3 * max(map(len, known))]) or "***"
    return text


def _forms(secret: str) -> set[str]:
    import base64
    import html

    return {
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        html.escape(secret),
        base64.b64encode(secret.encode()).decode(),
    }


def _is_in_pieces(text: str, hidden: list[str]) -> bool:
    """Whether a secret is there with blanks or the zeros of UTF-16 in it, or as JSON, web pages and URLs encode it."""
    # What is encoded is no shorter, and base64 has four letters for three.
    shortest = min(map(len, hidden)) * 4 // 3
    return any(
        any(sought in reading for sought in hidden)
        or any(_is_in_base64(run, hidden) for run in _BASE64.findall(reading) if len(run) >= shortest)
        for reading in _readings(text)
    )


def _readings(text: str) -> Iterator[str]:
    """`text`, and what is left of it step by step when the encodings are undone that it may have had, even twice."""
    import html

    yield (text := _compact(text))
    for undo in (_without_json, html.unescape, unquote) * 2:
        if (plain := _compact(undo(text))) != text:
            yield (text := plain)


def _without_json(text: str) -> str:
    return _JSON_ESCAPE.sub(lambda escape: chr(int(escape[1], 16)) if escape[1] else escape[2] or "", text)


def _is_in_base64(run: str, hidden: list[str]) -> bool:
    """Whether a secret is in what `run` encodes, whatever is before it and after it."""
    import base64

    run = run.rstrip("=").replace("+", "-").replace("/", "_")
    # What stands before it may have any length.
    for start in range(4):
        part = run[start : len(run) - ((len(run) - start) % 4 == 1)]
        decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).translate(None, _HIDDEN_BYTES)
        if any(sought in reading for reading in _readings(decoded.decode("latin-1")) for sought in hidden):
            return True
    return False


def _compact(text: str) -> str:
    text = "".join(text.split())
    return text if text.isprintable() else "".join(filter(str.isprintable, text))


def clean(text: str) -> str:
    """`text` as one line that can be printed: nothing that forges a log line, or drives or turns a terminal."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else "\0" for letter in text)
    return _CONTROL.sub(" ", text).strip()


def _without_token(match: re.Match[str], *, uuids: bool) -> str:
    text = match[0]
    if text.startswith(("http://", "https://")):
        scheme, _, rest = text.partition("://")
        authority, slash, path = rest.partition("/")
        _, at, host = authority.rpartition("@")
        return f"{scheme}://{at and '***@'}{host}{slash}" + _URL_PART.sub(partial(_without_token, uuids=uuids), path)
    return "***" if _TELLING.search(_UUID.sub("", text) if uuids else text) else text
