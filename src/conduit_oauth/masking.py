"""Text from outside, made fit to be shown: without secrets, on one line, and cut.

Invariant: No message is built from a server's text without `mask` or `redact`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
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
_BASE64 = re.compile(r"[A-Za-z0-9_-]{8,}")
# A shorter secret would be found in any text.
_SHORTEST_HIDDEN = 6
_TELLING = re.compile(r"[0-9A-Z]")


def mask(text: str, secrets: Iterable[str]) -> str:
    """One bounded line of a server's text, without the known secrets in any encoding, without control characters."""
    import base64
    import html

    # Cut before anything else looks at it: what a server sends may be long, and all of this is work.
    text = text[:_LONGEST]
    known = [secret for secret in secrets if secret]
    for secret in known:
        forms = {
            secret,
            quote(secret, safe=""),
            quote_plus(secret),
            json.dumps(secret)[1:-1],
            html.escape(secret),
            base64.b64encode(secret.encode()).decode(),
        }
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, "***")
    if any(_is_hidden_in(text, secret) for secret in known):
        # Where exactly it begins and ends is of no use to anybody.
        return "***"
    text = clean(text)
    return text if len(text) <= EXCERPT_LENGTH else text[:EXCERPT_LENGTH] + "…"


def _is_hidden_in(text: str, secret: str) -> bool:
    """Whether a secret is there in pieces (blanks, the zeros of UTF-16), with more in base64, or percent-encoded."""
    import base64

    sought = _compact(secret)
    if len(sought) < _SHORTEST_HIDDEN:
        return False
    plain = _compact(text)
    if sought in plain or sought in unquote(plain):
        return True
    for run in _BASE64.findall(plain.replace("+", "-").replace("/", "_")):
        # What stands before it may have any length.
        for start in range(4):
            part = run[start : len(run) - ((len(run) - start) % 4 == 1)]
            decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
            if sought in _compact(decoded.decode("latin-1")):
                return True
    return False


def _compact(text: str) -> str:
    return "".join(each for each in text if each.isprintable() and not each.isspace())


def clean(text: str) -> str:
    """`text` as one line that can be printed: nothing that forges a log line, or drives or turns a terminal."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else "\0" for letter in text)
    return _CONTROL.sub(" ", text).strip()


def redact(text: str, secrets: Iterable[str]) -> str:
    """As `mask`, for text of no known form: whatever looks like a token goes too."""
    return mask(_TOKEN_LIKE.sub(_without_token, _NAMED.sub(r"\1***", text[:_LONGEST])), secrets)


def _without_token(match: re.Match[str]) -> str:
    text = match[0]
    if text.startswith(("http://", "https://")):
        scheme, _, rest = text.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host}{slash}" + _URL_PART.sub(_without_token, path)
    return "***" if _TELLING.search(text) else text
