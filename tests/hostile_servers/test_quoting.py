"""A secret that a server sends back is masked, in whatever form it comes."""

from __future__ import annotations

import base64
import json
import textwrap
from collections.abc import Callable
from urllib.parse import quote

import pytest

from conduit_oauth import OAuthError, TokenProvider, TokenRequestError
from conduit_oauth.bridge.exchange import reason_in
from conduit_oauth.masking import EXCERPT_LENGTH, mask, redact
from conduit_oauth.protocol.grant import judge_token_response
from conduit_oauth.protocol.http import Response
from tests.scripted_server import Asked, ScriptedServer

Shows = Callable[[str, list[str]], str]

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
    "in JSON as PHP writes it": SECRET.replace("/", "\\/"),
    "in JSON, every character escaped": "".join(f"\\u{ord(each):04X}" for each in SECRET),
    "in JSON, split by lines": SECRET[:9] + "\\r\\n\\t" + SECRET[9:],
    "base64 in JSON as PHP writes it": base64.b64encode(f"???:{SECRET}".encode()).decode().replace("/", "\\/"),
    "base64 of JSON": base64.b64encode(SECRET.replace("/", "\\/").encode()).decode(),
    "base64 of what is percent-encoded": base64.b64encode(quote(SECRET, safe="").encode()).decode(),
    "percent-encoded twice": quote(quote(SECRET, safe=""), safe=""),
    "percent-encoded and split by blanks": quote(" ".join(SECRET), safe=""),
    "percent-encoded on a web page in JSON": quote(SECRET, safe="").replace("%", "\\u0026#37;"),
    "as a web page writes it": SECRET.replace("+", "&#43;").replace("/", "&#x2F;"),
}


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_secret_is_shown(form: str) -> None:
    shown = mask(f"the client sent {FORMS[form]} in vain", [SECRET])
    assert "***" in shown
    compact = "".join(shown.split())
    assert SECRET not in compact
    assert "Very" not in shown
    assert FORMS[form] not in shown


@pytest.mark.parametrize("shows", [mask, redact])
@pytest.mark.parametrize(
    "secret",
    [
        "hunter2!sesame ABCDEFGHIJKLMNOPQRSTUVWX",
        "Tr0ub4dor&3;password=x9",
        "https://hunter2.example/;ABCDEFGHIJKLMNOPQRSTUVWX",
    ],
)
def test_a_secret_that_is_in_part_like_a_token_is_masked_as_a_whole(shows: Shows, secret: str) -> None:
    assert shows(f"the secret {secret} is wrong", [secret]) == "the secret *** is wrong"
    assert shows(f"the secret {secret.replace(' ', chr(10))} is wrong", [secret]) in ("the secret *** is wrong", "***")
    in_lines = "\n".join(textwrap.wrap(base64.b64encode(f"client:{secret}".encode()).decode(), 24))
    assert shows(f"the client sent {in_lines} in vain", [secret]) == "***"


@pytest.mark.parametrize("encoded", [str, lambda text: base64.b64encode(text.encode()).decode()])
def test_a_number_that_python_does_not_read_hides_no_secret(encoded: Callable[[str], str]) -> None:
    # html.unescape raises ValueError for it.
    assert mask(encoded(f"&#{'9' * 5000}; {FORMS['as a web page writes it']}"), [SECRET]) == "***"


@pytest.mark.parametrize("shows", [mask, redact])
def test_of_two_secrets_that_begin_alike_nothing_is_shown(shows: Shows) -> None:
    assert shows("not s3cret-and-more", ["s3cret", "s3cret-and-more"]) == "not ***"


@pytest.mark.parametrize("shows", [mask, redact])
@pytest.mark.parametrize("secret", ["many words, none of them long, " * 12, "0123456789abcdef" * 40])
@pytest.mark.parametrize("encoded", [str, lambda secret: quote(secret, safe="")])
def test_a_secret_that_is_cut_at_the_end_of_a_long_text_is_not_shown(
    shows: Shows, secret: str, encoded: Callable[[str], str]
) -> None:
    for before in ("", "x", "wrong: "):
        shown = shows(before + encoded(secret) * 50, [secret])
        assert "***" in shown
        assert not any(encoded(secret)[start : start + 6] in shown for start in range(len(secret)))


def test_a_secret_that_is_cut_at_the_end_of_what_is_read_is_not_shown() -> None:
    secret = "many words, none of them long, " * 12
    for start in range(0, 400, 50):
        body = b"a" * start + secret.encode() * 200
        assert "words" not in reason_in(body[:4096], [secret])
        with pytest.raises(OAuthError) as caught:
            judge_token_response(
                "https://as.example", Response(400, {}, body), secrets=[secret], wall_now=0.0, token_type="Bearer"
            )
        assert "words" not in str(caught.value)


TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl"
CLIENT = "d0a1b2c3-1111-2222-3333-444455556666"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        # A token that is none of ours: that of another client, or of a cache in front of the server.
        (("invalid_grant", f"the token {TOKEN} is over"), ("invalid_grant", "the token *** is over")),
        ((TOKEN, "x"), ("***", "x")),
        (("invalid_client", "access_token=short"), ("invalid_client", "access_token=***")),
        # What an operator looks for stays.
        (("unauthorized_client", f"no application {CLIENT}"), ("unauthorized_client", f"no application {CLIENT}")),
        (("CLIENT_IS_NOT_REGISTERED", "x"), ("CLIENT_IS_NOT_REGISTERED", "x")),
        (("invalid_request", "grant_type=client_credentials"), ("invalid_request", "grant_type=client_credentials")),
    ],
)
def test_what_looks_like_a_token_is_in_no_error(said: tuple[str, str], shown: tuple[str, str]) -> None:
    body = json.dumps({"error": said[0], "error_description": said[1]}).encode()
    with pytest.raises(TokenRequestError) as caught:
        judge_token_response(
            "https://as.example", Response(400, {}, body), secrets=[SECRET], wall_now=0.0, token_type="Bearer"
        )
    assert (caught.value.error, caught.value.error_description) == shown


def test_the_target_of_a_redirect_is_shown_without_the_token_in_it() -> None:
    target = f"https://login.example/{CLIENT}/signin?session={TOKEN}"
    with pytest.raises(TokenRequestError) as caught:
        judge_token_response(
            "https://as.example",
            Response(302, {"location": target}, b""),
            secrets=[],
            wall_now=0.0,
            token_type="Bearer",
        )
    assert TOKEN not in str(caught.value)
    assert f"Configure https://login.example/{CLIENT}/signin as token_endpoint" in str(caught.value)


@pytest.mark.parametrize("reading", ["latin-1", "utf-8"])
def test_a_secret_beyond_ascii_is_found_in_base64_and_in_the_wrong_encoding(reading: str) -> None:
    secret = "Straßenbahnhöfe"
    assert "stra" not in mask(f"got {secret.encode().decode(reading)}", [secret]).lower()
    header = base64.b64encode(f"client:{secret}".encode()).decode()
    assert mask(f"got Basic {header}.", [secret]) == "got Basic ***."


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
        ("no way to https://me:pass@word@as.example/a", "no way to https://***@as.example/a"),
    ],
)
def test_what_is_said_to_be_a_token_is_not_shown_however_short(said: str, shown: str) -> None:
    assert redact(said, []) == shown


@pytest.mark.parametrize("error", ["invalid_scope", "invalid_client", "invalid_request", "access_denied"])
def test_what_metadata_lists_is_on_one_line_and_cut_in_the_words_about_a_refusal(error: str) -> None:
    listed = ["client_secret_basic", SECRET, "\x1b[31m\nERROR forged\u202e", *map(str, range(10_000))]

    def script(asked: Asked) -> None:
        if asked.path.endswith("/token"):
            asked.answer({"error": error}, 400)
        else:
            names = "token_endpoint_auth_methods_supported", "scopes_supported"
            asked.answer(
                {"issuer": server.url, "token_endpoint": f"{server.url}/token", **dict.fromkeys(names, listed)}
            )

    with (
        ScriptedServer(script) as server,
        TokenProvider("me", SECRET, issuer=server.url, scope="a" * 9000) as provider,
        pytest.raises(TokenRequestError) as caught,
    ):
        provider.get_token()
    said = str(caught.value)
    assert error in said
    assert said.isprintable()
    assert len(said) < 2000
    assert SECRET not in said
