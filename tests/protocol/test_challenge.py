from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conduit_oauth.protocol.challenge import Challenge, bearer_challenge, demanded_claims, parse_challenges


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("Bearer", [("bearer", {})]),
        ('Bearer realm="x"', [("bearer", {"realm": "x"})]),
        ('bearer REALM=x, scope="a b"', [("bearer", {"realm": "x", "scope": "a b"})]),
        ('Bearer scope = "a" ,error=b', [("bearer", {"scope": "a", "error": "b"})]),
        (
            'Basic realm="a, Bearer b=c", Bearer scope=d',
            [("basic", {"realm": "a, Bearer b=c"}), ("bearer", {"scope": "d"})],
        ),
        (r'Bearer realm="say \"hi\" \\"', [("bearer", {"realm": 'say "hi" \\'})]),
        ('Negotiate a87421000492aa874209af8bc028==, Bearer a="b"', [("negotiate", {}), ("bearer", {"a": "b"})]),
        ("Negotiate, Bearer", [("negotiate", {}), ("bearer", {})]),
        (', ,Bearer a="1",,b="2",', [("bearer", {"a": "1", "b": "2"})]),
        ('Bearer a="first", a="second"', [("bearer", {"a": "first"})]),
        (
            'DPoP algs="ES256 PS256", error="use_dpop_nonce"',
            [("dpop", {"algs": "ES256 PS256", "error": "use_dpop_nonce"})],
        ),
        ('Bearer a="unterminated', [("bearer", {})]),
        ("", []),
        ("é", []),
        ('"quoted" Bearer', []),
    ],
)
def test_challenges(header: str, challenges: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == [Challenge(*challenge) for challenge in challenges]


def test_the_bearer_challenge_among_others() -> None:
    header = 'Basic realm="x", Bearer scope="a", DPoP algs="ES256"'
    assert bearer_challenge(header) == Challenge("bearer", {"scope": "a"})
    assert bearer_challenge("Basic realm=x") is None
    assert bearer_challenge(None) is None


@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from(["Bearer", " ", ",", "=", '"', "\\", "a", "scope", "\t", "é"]), max_size=60).map("".join)
)
@example("Bearer " + 'a="' * 3000)
@example("Bearer " + "\\" * 9000)
def test_any_header_is_read_without_an_error(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme
        assert all(name == name.lower() for name in challenge.parameters)


CLAIMS = {"access_token": {"nbf": {"essential": True, "value": "1604106651"}}}


@pytest.mark.parametrize(
    ("claims", "demanded"),
    [
        (base64.b64encode(json.dumps(CLAIMS).encode()).decode(), CLAIMS),
        (base64.b64encode(json.dumps(CLAIMS).encode()).decode().rstrip("="), CLAIMS),
        (base64.urlsafe_b64encode(b'{"a":"~~~???"}').decode(), {"a": "~~~???"}),
        (base64.b64encode(b'{"a":"~~~???"}').decode(), {"a": "~~~???"}),
        (json.dumps(CLAIMS).replace('"', '\\"'), CLAIMS),
        ("bm8ganNvbg==", None),
        ("W10=", None),
        ("%%%", None),
        ("/w==", None),
    ],
)
def test_claims_that_are_demanded(claims: str, demanded: dict[str, Any] | None) -> None:
    (challenge,) = parse_challenges(f'Bearer realm="", error="insufficient_claims", claims="{claims}"')
    found = demanded_claims(challenge)
    assert (None if found is None else json.loads(found)) == demanded


def test_claims_are_demanded_by_that_error_only() -> None:
    (challenge,) = parse_challenges('Bearer error="invalid_token", claims="e30="')
    assert demanded_claims(challenge) is None


@pytest.mark.parametrize(("length", "read"), [(8192, True), (8193, False)])
def test_a_header_is_read_up_to_a_length(length: int, read: bool) -> None:
    header = 'Bearer a="b"'.ljust(length - 1, ",") + "c"
    assert (len(parse_challenges(header)) == 2) is read
