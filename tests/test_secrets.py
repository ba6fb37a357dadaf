"""A secret appears in no repr, log line, exception, traceback or state, whatever goes wrong."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import logging
import pickle
import traceback

import pytest
from rich.console import Console
from rich.traceback import Traceback

from conduit_oauth import (
    ConfigurationError,
    DiscoveryError,
    InvalidTokenResponse,
    OAuthError,
    ProviderClosedError,
    TokenProvider,
    TokenRequestError,
    TransportError,
)
from conduit_oauth.devserver.control import MALFORMED
from conduit_oauth.masking import EXCERPT_LENGTH, mask, redact
from conduit_oauth.protocol.grant import judge_token_response
from conduit_oauth.protocol.http import Response
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import MakeProvider
from tests.scripted_server import Asked, ScriptedServer

SECRET = "xq7-SECRET-value&+/= \u00e4"
FAULTS = ["wrong", "echo", "html", "busy", "drop", "dead", *MALFORMED]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("method", ["client_secret_post", "client_secret_basic"])
def test_no_failure_shows_the_secret(
    fault: str,
    method: str,
    authorization_server: AuthorizationServer,
    make_provider: MakeProvider,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = {"client_secret": SECRET, "timeout": 0.5, "token_endpoint_auth_method": method}
    if fault == "echo":
        authorization_server.fail(400, body=f'{{"error": "invalid_client", "error_description": "not {SECRET}"}}')
    elif fault == "html":
        authorization_server.fail(403, body=f"<p>secret {SECRET} token eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln")
    elif fault == "busy":
        authorization_server.fail(503, count=50, body=SECRET)
    elif fault == "drop":
        authorization_server.drop(count=50)
    elif fault == "dead":
        settings["token_endpoint"] = "http://127.0.0.1:1/token"
    elif fault in MALFORMED:
        authorization_server.malform(fault, count=50)
    provider = make_provider(**settings)
    shown = [repr(provider), repr(provider._requester.config)]
    for call in (provider.get_token, lambda: asyncio.run(provider.get_token_async())):
        with pytest.raises(OAuthError) as caught:
            call()
        error = caught.value
        shown += [repr(error), str(error), repr(vars(error)), "".join(traceback.format_exception(error))]
        # As an error reporter does: every local of every frame, but for the frames of this test.
        stack = io.StringIO()
        frames = error.__traceback__
        while frames is not None and "conduit_oauth" not in frames.tb_frame.f_code.co_filename:
            frames = frames.tb_next
        Console(file=stack, width=200).print(
            Traceback.from_exception(type(error), error, frames, show_locals=True, locals_max_string=None)
        )
        shown.append(stack.getvalue())
    shown += [repr(provider.state()), caplog.text]
    for text in shown:
        assert "xq7-SECRET" not in text
        assert "eyJ" not in text


def test_a_token_is_in_no_log_and_no_state(make_provider: MakeProvider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "conduit_oauth")
    provider = make_provider()
    token = provider.get_token()
    assert token not in f"{provider!r} {provider.state()} {caplog.text} {provider._life.token!r}"


@pytest.mark.parametrize(
    "text",
    [
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl",
        "sk_live_51H8xQ2eZvKYlo2C",
        "dGhpcyBpcyBhIHNlY3JldCB0b2tlbg==",
        "9f86d081884c7d659a2feaa0c55ad015",
    ],
)
def test_what_looks_like_a_token_is_not_quoted(text: str) -> None:
    assert redact(f"before {text} after", []) == "before *** after"


def test_an_excerpt_is_one_bounded_line() -> None:
    excerpt = redact("a\r\nb\x1b[31m\u2028c " + "many words " * 100, [])
    assert excerpt.startswith("a b [31m c many words")
    assert len(excerpt) <= EXCERPT_LENGTH + 1


ERRORS = [
    ConfigurationError("field", "is missing", "Pass it"),
    ProviderClosedError("name"),
    TransportError("https://as.example", "refused"),
    TokenRequestError("https://as.example", 400, error="invalid_scope", retry_after=1.0),
    InvalidTokenResponse("https://as.example", "expires_in", "is negative"),
    DiscoveryError("step", "https://as.example", "is down", "metadata", retryable=True),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_survive_a_copy_and_a_trip_to_another_process(error: OAuthError) -> None:
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error)), error.again()):  # noqa: S301
        assert type(twin) is type(error)
        assert (str(twin), vars(twin), twin.retryable) == (str(error), vars(error), error.retryable)
        assert twin is not error


def test_the_query_of_a_url_is_in_no_error() -> None:
    """Gateways are given keys in it, and a server may name a URL with a token in it."""
    url = "https://as.example/token?key=k3y"
    for error in (
        TransportError(url, "refused"),
        TokenRequestError(url, 400, error="invalid_scope"),
        InvalidTokenResponse(url, "expires_in", "is negative"),
        DiscoveryError("step", url, "is down", "metadata"),
    ):
        assert "https://as.example/token" in str(error)
        assert "k3y" not in f"{error!r} {vars(error)}"


@pytest.mark.parametrize("resource", ["https://other.example/mcp", 5])
def test_the_query_of_a_url_is_in_no_message_of_discovery(resource: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "conduit_oauth")

    def answer(asked: Asked) -> None:
        asked.answer(json.dumps({"resource": resource}).encode(), status=200 if "well-known" in asked.path else 404)

    with (
        ScriptedServer(answer) as server,
        TokenProvider("me", "secret", mcp_url=f"{server.url}/mcp?key=k3y", timeout=5.0) as provider,
        pytest.raises(OAuthError) as caught,
    ):
        provider.get_token()
    assert "one that covers" in str(caught.value)
    assert "k3y" not in f"{caught.value!r} {vars(caught.value)} {caplog.text}"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_an_answer_in_another_encoding_is_not_quoted(encoding: str) -> None:
    body = json.dumps({"message": f"é bad credential {SECRET}"}, ensure_ascii=False).encode(encoding)
    for status in (200, 400):
        with pytest.raises(OAuthError) as caught:
            judge_token_response(
                "https://as.example", Response(status, {}, body), secrets=[SECRET], wall_now=0.0, token_type="Bearer"
            )
        assert SECRET not in str(caught.value).replace("\0", "").replace(" ", "")


def test_a_text_that_the_cut_divides_within_a_character_is_quoted() -> None:
    body = b"a" * 5 + "é".encode() * 8192
    with pytest.raises(OAuthError) as caught:
        judge_token_response(
            "https://as.example", Response(400, {}, body), secrets=[], wall_now=0.0, token_type="Bearer"
        )
    assert "aaaaaé" in str(caught.value)


def test_an_empty_secret_masks_nothing() -> None:
    assert mask("invalid_request", [""]) == "invalid_request"


@pytest.mark.parametrize("letter", ["a", "A", "/", "é", " ", "\0", "="])
def test_no_text_takes_longer_to_clean_than_it_is_worth(letter: str) -> None:
    # A quadratic pattern would take minutes for this, and hold the interpreter meanwhile.
    for clean in (mask, redact):
        assert len(clean(letter * (1 << 20), [SECRET])) <= EXCERPT_LENGTH + 1
