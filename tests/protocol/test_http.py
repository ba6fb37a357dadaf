"""What is read of any answer."""

from __future__ import annotations

import pytest

from conduit_oauth.protocol.http import excerpt_of, is_http_token, location_of


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/new/token", "https://as.example/new/token"),
        ("https://new.example/token?state=s#top", "https://new.example/token"),
        # What is no URL is shown as it is.
        ("//[", "//["),
        ("", ""),
    ],
)
def test_a_location_is_shown_as_a_whole_url_without_its_query(location: str, shown: str) -> None:
    assert location_of("https://as.example/token?a=1", location, ()) == shown


def test_a_short_text_is_shown_to_its_end() -> None:
    assert excerpt_of(b"The server is closed.", ["a-secret-that-is-none-of-its-words"]) == "The server is closed."


def test_the_name_of_a_header_has_no_space() -> None:
    assert is_http_token("X-API-Key")
    assert not is_http_token("X API Key")
    assert not is_http_token("")
