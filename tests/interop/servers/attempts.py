"""What is tried at each authorization server: one function a capability, which raises where it does not work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from conduit_oauth import DiscoveryError, TokenProvider
from conduit_oauth.cli.inspection import read_jwt
from tests.conftest import FakeClock
from tests.interop.servers.running import ACCENTED, LIFETIME, LONG, ODD, SECRET, Server
from tests.leaks import lasting

RESOURCE = "https://api.example/v1"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


@dataclass(frozen=True)
class Facts:
    """What a user of a server has to know.

    `plain` are the settings that the plainest call needs beside the client and the token endpoint, `settings` those
    that the others need. `answers` has what the server does not offer, with a part of the message that says so, and
    `notes` are for the page. `resource` may hold the origin.
    """

    version: str
    plain: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    method: str | None = None
    clients: dict[str, str] = field(default_factory=dict)
    resource: str = RESOURCE
    answers: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass
class Attempt:
    """One server, and how to make a client of it."""

    server: Server
    facts: Facts

    def provider(self, name: str = "basic", secret: str | None = SECRET, **settings: Any) -> TokenProvider:
        name = self.facts.clients.get(name, name)
        registered = self.server.clients.get(name, {"client_id": name, "client_secret": secret})
        if secret is not None:
            settings.setdefault("client_secret", registered["client_secret"])
            if self.facts.method is not None and not settings.keys() & {"token_endpoint", "issuer"}:
                settings.setdefault("token_endpoint_auth_method", self.facts.method)
        where = {} if settings.keys() & {"token_endpoint", "issuer"} else {**self.facts.settings, **self.where}
        return TokenProvider(registered["client_id"], **{"timeout": 10, **self.facts.plain, **where, **settings})

    @property
    def where(self) -> dict[str, Any]:
        """What finds the server best: the issuer, or the token endpoint where there is no metadata."""
        server = self.server
        return {"issuer": server.issuer} if server.issuer else {"token_endpoint": server.token_endpoint}


class ShortfallError(Exception):
    """The server gave a token, and not what was asked for."""


def plainest(attempt: Attempt) -> None:
    with attempt.provider(token_endpoint=attempt.server.token_endpoint) as provider:
        provider.get_token()


def plainest_for_post(attempt: Attempt) -> None:
    with attempt.provider("post", token_endpoint=attempt.server.token_endpoint) as provider:
        provider.get_token()


def by_issuer(attempt: Attempt) -> None:
    with attempt.provider(issuer=attempt.server.issuer or attempt.server.origin) as provider:
        provider.get_token()


def by_method(method: str, name: str, secret: str = SECRET) -> Callable[[Attempt], None]:
    def run(attempt: Attempt) -> None:
        with attempt.provider(name, secret, token_endpoint_auth_method=method) as provider:
            provider.get_token()

    return run


def by_secret(name: str, secret: str) -> Callable[[Attempt], None]:
    def run(attempt: Attempt) -> None:
        with attempt.provider(name, secret) as provider:
            provider.get_token()

    return run


def by_key(algorithm: str) -> Callable[[Attempt], None]:
    def run(attempt: Attempt) -> None:
        key = attempt.server.place.keys / f"{algorithm}.pem"
        with attempt.provider(algorithm, None, private_key=key, private_key_id=algorithm) as provider:
            provider.get_token()

    return run


def dpop(attempt: Attempt) -> None:
    with attempt.provider("dpop", dpop=True) as provider:
        provider.get_token()


def mutual_tls(attempt: Attempt) -> None:
    keys = attempt.server.place.keys
    files = keys / "machine.pem", keys / "machine-key.pem"
    settings: dict[str, Any] = {"client_certificate": files, "token_endpoint_auth_method": "tls_client_auth"}
    with attempt.provider("machine", None, **settings) as provider:
        provider.get_token()
    if not attempt.server.token_endpoint.startswith("https"):
        raise ShortfallError("the server takes any client, and plain http shows no certificate")


def resource(attempt: Attempt) -> None:
    wanted = attempt.facts.resource.format(origin=attempt.server.origin)
    with attempt.provider(resource=wanted) as provider:
        token = provider.get_token()
        jwt = read_jwt(token)
        try:
            claims = jwt.claims if jwt is not None else provider.introspect()
        except DiscoveryError:
            raise ShortfallError("the token is opaque, and nothing shows its audience") from None
    audience = claims.get("aud")
    if wanted not in (audience if isinstance(audience, list) else [audience]):
        raise ShortfallError("the token names another audience, or none")


def introspection(attempt: Attempt) -> None:
    with attempt.provider() as provider:
        assert provider.introspect()["active"] is True
        if provider.introspect("no-token-at-all")["active"]:
            raise ShortfallError("introspection calls everything active")


def revocation(attempt: Attempt) -> None:
    with attempt.provider() as provider:
        token = provider.get_token()
        provider.revoke()
        if provider.introspect(token)["active"]:
            raise ShortfallError("introspection still calls the token active")


def exchange(attempt: Attempt) -> None:
    with attempt.provider() as provider:
        token = provider.get_token()
    with attempt.provider(subject_token=token, subject_token_type=ACCESS_TOKEN) as provider:
        provider.get_token()


def short_life(attempt: Attempt) -> None:
    clock = FakeClock()
    with attempt.provider(clock=clock) as provider:
        first = provider.get_token()
        expires_at = provider.state().expires_at
        assert expires_at is not None
        if expires_at > datetime.now(UTC) + timedelta(seconds=LIFETIME):
            raise ShortfallError("the server decides how long its tokens live")
        clock.step(LIFETIME / 2 + 1)
        # Served at once, and replaced meanwhile.
        assert provider.get_token() == first
        while provider.state().refreshing:
            threading.Event().wait(0.005)
        assert provider.state().counts.tokens == 2


def restart(attempt: Attempt) -> None:
    with attempt.provider(timeout=30) as provider:
        provider.get_token()
        attempt.server.stop()
        provider.invalidate()
        got: list[str] = []
        waiting = threading.Thread(target=lambda: got.append(provider.get_token()))
        waiting.start()
        while provider.state().counts.failures == 0:
            threading.Event().wait(0.005)
        with lasting():
            attempt.server.start()
        waiting.join(30)
        assert len(got) == 1


def two_secrets(attempt: Attempt) -> None:
    registered = attempt.server.clients.get(attempt.facts.clients.get("basic", "basic"), {})
    right = registered.get("client_secret", SECRET)
    with attempt.provider(client_secret=("retired", right)) as provider:
        provider.get_token()


# In the order of the page. The words are what a reader of the page sees.
CAPABILITIES: dict[str, Callable[[Attempt], None]] = {
    "the plainest call": plainest,
    "the same, for a client of `client_secret_post`": plainest_for_post,
    "`issuer=`": by_issuer,
    "`client_secret_basic`": by_method("client_secret_basic", "basic"),
    "`client_secret_post`": by_method("client_secret_post", "post"),
    "`client_secret_jwt`": by_method("client_secret_jwt", "jwt", LONG),
    f"the secret `{ODD}`": by_secret("odd", ODD),
    f"the secret `{ACCENTED}`": by_secret("accented", ACCENTED),
    "`private_key_jwt`, RS256": by_key("RS256"),
    "`private_key_jwt`, ES256": by_key("ES256"),
    "`private_key_jwt`, EdDSA": by_key("EdDSA"),
    "DPoP": dpop,
    "`tls_client_auth`": mutual_tls,
    "`resource`": resource,
    "introspection": introspection,
    "revocation": revocation,
    "token exchange": exchange,
    "short lives": short_life,
    "a restart": restart,
    "two secrets": two_secrets,
}
