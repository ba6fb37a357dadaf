"""The public API as a type checker sees it; checked by `make lint`, never run."""

from typing import assert_type

import httpx2

from conduit_oauth import ProviderState, TokenProvider, derive_token_endpoint
from conduit_oauth.auth.httpx2 import TokenAuth

provider = TokenProvider("id", "secret", mcp_url="https://g.example/mcp", scope="a", timeout=5, name="billing")
assert_type(provider.get_token(), str)
assert_type(provider.state(), ProviderState)
assert_type(provider.auth(), TokenAuth)
assert_type(derive_token_endpoint("https://g.example/mcp"), str)
provider.invalidate()
provider.invalidate("token")
httpx2.Client(auth=provider.auth())
httpx2.AsyncClient(auth=provider.auth())


async def use() -> None:
    async with TokenProvider("id", "secret", issuer="https://as.example") as other:
        assert_type(other, TokenProvider)
        assert_type(await other.get_token_async(), str)
        await other.aclose()


TokenProvider()  # pyright: ignore[reportCallIssue]
TokenProvider("id", "secret", token_endpoint=5)  # pyright: ignore[reportArgumentType]
