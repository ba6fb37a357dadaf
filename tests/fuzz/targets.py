"""What the fuzzers feed bytes to: each parser of what a server sends, and what must hold of any answer it gives."""

from __future__ import annotations

import re
from collections.abc import Callable

from conduit_oauth import DiscoveryError, InvalidTokenResponse, TokenRequestError
from conduit_oauth.protocol.challenge import parse_challenges
from conduit_oauth.protocol.grant import MAX_LIFETIME, judge_token_response
from conduit_oauth.protocol.http import Response
from conduit_oauth.protocol.metadata import (
    RESOURCE_STEP,
    SERVER_STEP,
    Document,
    judge_resource,
    judge_server,
    read_document,
)

URL = "https://as.example/tenant"
SECRET = "fuzzed-secret-0123456789"


def challenge(data: bytes) -> None:
    for found in parse_challenges(data.decode("latin-1")):
        assert re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", found.scheme)
        assert all(re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name) for name in found.parameters)


def metadata(data: bytes) -> None:
    response = Response(200, {"cache-control": data[:40].decode("latin-1")}, data)
    document, _ = read_document(SERVER_STEP, URL, response, "issuer")
    if document is not None:
        assert 60 <= document.lifetime <= 86_400
        server_metadata(document)
    document, _ = read_document(RESOURCE_STEP, URL, response, "resource")
    if document is not None:
        resource_metadata(document)


def server_metadata(document: Document) -> None:
    try:
        server = judge_server(URL, document)
    except DiscoveryError:
        pass
    else:
        assert document.body["issuer"] == URL
        assert re.match(r"https://|http://(localhost|127\.|\[::1\])", server.token_endpoint, re.IGNORECASE)
        assert not re.search(r"[^\x21-\x7e]", server.token_endpoint)


def resource_metadata(document: Document) -> None:
    try:
        resource = judge_resource(URL, document)
    except DiscoveryError:
        pass
    else:
        assert URL.startswith(resource.resource.lower().rstrip("/#?")[: len("https://as.example")])


def token_response(data: bytes) -> None:
    status = 200 if data[:1] < b"\x80" else 400
    try:
        grant = judge_token_response(
            URL,
            Response(status, {"retry-after": data[:30].decode("latin-1")}, data[1:]),
            secrets=[SECRET],
            wall_now=0.0,
            token_type="Bearer",
        )
    except (InvalidTokenResponse, TokenRequestError) as error:
        assert len(str(error)) < 1500
        assert SECRET not in str(error)
        assert not re.search(r"[\x00-\x1f\x7f]", str(error))
    else:
        assert re.fullmatch(r"[\x21-\x7e]+", grant.access_token)
        assert grant.lifetime is None or 0 <= grant.lifetime <= MAX_LIFETIME


TARGETS: dict[str, Callable[[bytes], None]] = {
    "challenge": challenge,
    "metadata": metadata,
    "token_response": token_response,
}
