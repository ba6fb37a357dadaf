"""A secret that a server sends back is masked, in whatever form it comes."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest

from conduit_oauth.masking import EXCERPT_LENGTH, mask, redact

SECRET = "Very-secret/value+9"
FORMS = {
    "as it is": SECRET,
    "percent-encoded": quote(SECRET, safe=""),
    "every character percent-encoded": "".join(f"%{ord(each):02x}" for each in SECRET),
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "base64 with a user before it": base64.b64encode(f"client:{SECRET}".encode()).decode(),
    "base64 of UTF-16": base64.b64encode(SECRET.encode("utf-16")).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(f"?:{SECRET}".encode()).decode().rstrip("="),
    "UTF-16 as characters": SECRET.encode("utf-16-le").decode("latin-1"),
    "split by blanks": " ".join(SECRET),
    "split by lines": SECRET[:9] + "\r\n\t" + SECRET[9:],
    "with marks of no width": "\u200b".join(SECRET),
}


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_secret_is_shown(form: str) -> None:
    shown = mask(f"the client sent {FORMS[form]} in vain", [SECRET])
    assert "***" in shown
    compact = "".join(shown.split())
    assert SECRET not in compact
    assert FORMS[form] not in shown


def test_what_is_no_secret_stays() -> None:
    assert mask("unknown client: secret value", [SECRET]) == "unknown client: secret value"


def test_a_text_is_one_line_and_short() -> None:
    shown = mask("one\ntwo\x1b[31m\u2028" + "x" * 100_000, [])
    assert shown.isprintable()
    assert len(shown) <= EXCERPT_LENGTH + 1


@pytest.mark.parametrize("odd", ["\u202e", "\u2066", "\ufeff", "\u200b", "\ud800", "\ue000"])
def test_a_text_turns_no_terminal_around(odd: str) -> None:
    assert mask(f"one{odd}two", []) == "one two"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ('{"access_token": "short", "token_type": "Bearer"}', '{"access_token": "***", "token_type": "Bearer"}'),
        ('{"client_secret":"ab","a":1}', '{"client_secret":"***","a":1}'),
        ("access_token=short&token_type=Bearer", "access_token=***&token_type=Bearer"),
        ("the token: it is invalid", "the token: it is invalid"),
    ],
)
def test_what_is_said_to_be_a_token_is_not_shown_however_short(said: str, shown: str) -> None:
    assert redact(said, []) == shown
