"""The public API as a type checker sees it; checked by `make lint`, never run."""

from pathlib import Path
from typing import Any, assert_type

import aiohttp
import httpx
import httpx2
import requests

from conduit_oauth import (
    Counts,
    Health,
    ProviderState,
    TokenProvider,
    TokenProviders,
    derive_token_endpoint,
    from_environment,
    from_keyring,
)
from conduit_oauth.auth import aiohttp as for_aiohttp
from conduit_oauth.auth import httpx as for_httpx
from conduit_oauth.auth import requests as for_requests
from conduit_oauth.auth.httpx2 import TokenAuth
from conduit_oauth.events import Event
from conduit_oauth.stores.memory import MemoryStore

provider = TokenProvider("id", "secret", mcp_url="https://g.example/mcp", scope="a", timeout=5, name="billing")
assert_type(provider.get_token(), str)
assert_type(provider.state(), ProviderState)
assert_type(provider.state().counts, Counts)
assert_type(provider.auth(), TokenAuth)
assert_type(provider.refresh(), str)
assert_type(provider.origins, tuple[str, ...])
assert_type(provider.introspect(), dict[str, Any])
assert_type(derive_token_endpoint("https://g.example/mcp"), str)
provider.invalidate()
provider.invalidate("token")
httpx2.Client(auth=provider.auth())
httpx2.AsyncClient(auth=provider.auth())
httpx.Client(auth=for_httpx.TokenAuth(provider))
requests.Session().auth = for_requests.TokenAuth(provider)

# Every kind of credential, and of store.
TokenProvider("id", (Path("one"), from_environment("OTHER")), token_endpoint="https://as.example/token")
TokenProvider("id", from_keyring("service", "id"), issuer="https://as.example", store="sqlite:", dpop=Path("key.pem"))
TokenProvider("id", private_key={"kty": "EC"}, issuer="https://as.example", store=MemoryStore())
TokenProvider("id", "secret", issuer="https://as.example", resource=["https://a.example", "https://b.example"])
TokenProvider("id", "secret", token_endpoint="https://as.example/token", introspection_endpoint="https://as.example/i")
TokenProvider("id", private_key=Path("key"), issuer="https://as.example", assertion_audience="endpoint")
TokenProvider("id", client_assertion=Path("jwt"), client_certificate=("c.pem", "k.pem"), issuer="https://as.example")


async def use() -> None:
    async with TokenProvider("id", "secret", issuer="https://as.example") as other:
        assert_type(other, TokenProvider)
        assert_type(await other.get_token_async(), str)
        aiohttp.ClientSession(middlewares=(for_aiohttp.TokenAuth(other),))
        await other.aclose()
    async with TokenProviders("providers.toml") as providers:
        assert_type(providers["billing"], TokenProvider)


def told(event: Event) -> None:
    assert_type(event.seconds, float | None)


def renewed(name: str) -> None:
    assert_type(name, str)


with TokenProviders({"billing": {"client_id": "id"}}, defaults={"observer": told}, on_change=renewed) as many:
    assert_type(many, TokenProviders)
    assert_type(many.health(), dict[str, Health])
    assert_type(list(many), list[str])


TokenProvider()  # pyright: ignore[reportCallIssue]
TokenProvider("id", "secret", token_endpoint=5)  # pyright: ignore[reportArgumentType]
TokenProviders({"billing": "no table"})  # pyright: ignore[reportArgumentType]
