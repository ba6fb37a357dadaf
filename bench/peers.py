"""Each library of the comparison, brought to one shape: a function that returns a valid token.

`margin` is a lifetime at which the library already wants another token while the one it has is still valid.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"

Get = Callable[[], Any]
GetAsync = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Peer:
    name: str
    statement: str
    sync: Callable[[str], Get] | None = None
    task: Callable[[str], GetAsync] | None = None
    margin: float | None = None


# --- this library ------------------------------------------------------------------------------------------------


class Shifted:
    """Our clock with a lead that the benchmark sets: it brings a token of an hour into its window at once."""

    def __init__(self) -> None:
        self.lead = 0.0

    def __call__(self) -> float:
        from conduit_oauth.clock import elapsed

        return elapsed() + self.lead


def ours(url: str, **options: Any) -> Any:
    from conduit_oauth import TokenProvider

    return TokenProvider("id", "secret", token_endpoint=f"{url}/token", **options)


# --- the others --------------------------------------------------------------------------------------------------


def authlib_sync(url: str) -> Get:
    from authlib.integrations.requests_client import OAuth2Session

    session = OAuth2Session("id", "secret", token_endpoint=f"{url}/token", grant_type="client_credentials")

    def get() -> str:
        if session.token is None:
            session.fetch_token(grant_type="client_credentials")
        session.ensure_active_token(session.token)
        return session.token["access_token"]

    return get


def authlib_async(url: str) -> GetAsync:
    from authlib.integrations.httpx_client import AsyncOAuth2Client

    session = AsyncOAuth2Client("id", "secret", token_endpoint=f"{url}/token", grant_type="client_credentials")

    async def get() -> str:
        if session.token is None:
            await session.fetch_token(grant_type="client_credentials")
        await session.ensure_active_token(session.token)
        return session.token["access_token"]

    return get


def httpx_auth_sync(url: str) -> Get:
    import httpx
    import httpx_auth

    httpx_auth.OAuth2.token_cache.clear()
    auth = httpx_auth.OAuth2ClientCredentials(f"{url}/token", "id", "secret")
    request = httpx.Request("GET", url)

    def get() -> str:
        return next(auth.auth_flow(request)).headers["Authorization"]

    return get


def httpx_auth_async(url: str) -> GetAsync:
    get_sync = httpx_auth_sync(url)

    async def get() -> str:
        return get_sync()

    return get


def requests_oauth2client_sync(url: str) -> Get:
    import requests
    from requests_oauth2client import OAuth2Client, OAuth2ClientCredentialsAuth

    client = OAuth2Client(f"{url}/token", client_id="id", client_secret="secret", testing=True)
    auth = OAuth2ClientCredentialsAuth(client)
    request = requests.Request("GET", url).prepare()

    def get() -> str:
        return auth(request).headers["Authorization"]

    return get


KEY_VARIABLE = "BENCH_KEY"


def new_key() -> str:
    """A private key for google-auth, which has no client secrets."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    form = serialization.PrivateFormat.PKCS8
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def google_auth_sync(url: str, *, non_blocking: bool = False) -> Get:
    from google.auth.transport.requests import Request
    from google.oauth2 import service_account

    key = os.environ.get(KEY_VARIABLE) or new_key()
    info = {"client_email": "id@example", "token_uri": f"{url}/token", "private_key": key}
    credentials = service_account.Credentials.from_service_account_info(info, scopes=["a"])
    if non_blocking:
        credentials.with_non_blocking_refresh()
    transport = Request()

    def get() -> str:
        headers: dict[str, str] = {}
        credentials.before_request(transport, "GET", url, headers)
        return headers["authorization"]

    return get


def msal_sync(url: str) -> Get:
    import msal
    import requests

    class PlainHttp:
        """msal insists on https; the benchmark's server is on loopback."""

        def __init__(self) -> None:
            self.session = requests.Session()

        def get(self, target: str, **options: Any) -> Any:
            return self.session.get(target.replace("https://", "http://", 1), **options)

        def post(self, target: str, **options: Any) -> Any:
            return self.session.post(target.replace("https://", "http://", 1), **options)

        def close(self) -> None:
            self.session.close()

    application = msal.ConfidentialClientApplication(
        "id", "secret", oidc_authority=url.replace("http://", "https://") + "/tenant", http_client=PlainHttp()
    )

    def get() -> str:
        return application.acquire_token_for_client(["a"])["access_token"]

    return get


def requests_oauthlib_sync(url: str) -> Get:
    from oauthlib.oauth2 import BackendApplicationClient, TokenExpiredError
    from requests_oauthlib import OAuth2Session

    session = OAuth2Session(client=BackendApplicationClient("id"))

    def get() -> str:
        try:
            if not session.authorized:
                session.fetch_token(f"{url}/token", client_id="id", client_secret="secret")
            return session._client.add_token(url)[1]["Authorization"]
        except TokenExpiredError:
            session.fetch_token(f"{url}/token", client_id="id", client_secret="secret")
            return session._client.add_token(url)[1]["Authorization"]

    return get


def mcp_sdk_async(url: str) -> GetAsync:
    import httpx2
    from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider

    class Storage:
        tokens: Any = None
        client: Any = None

        async def get_tokens(self) -> Any:
            return self.tokens

        async def set_tokens(self, tokens: Any) -> None:
            self.tokens = tokens

        async def get_client_info(self) -> Any:
            return self.client

        async def set_client_info(self, client_info: Any) -> None:
            self.client = client_info

    import warnings

    warnings.simplefilter("ignore")
    provider = ClientCredentialsOAuthProvider(f"{url}/api", Storage(), "id", "secret")
    client = httpx2.AsyncClient()

    async def get() -> str:
        """Its flow up to the authorized request; where that wants the server's word first, it is asked."""
        flow = provider.async_auth_flow(httpx2.Request("GET", f"{url}/api"))
        request = await anext(flow)
        while not request.headers.get("Authorization", "").startswith("Bearer"):
            request = await flow.asend(await client.send(request))
        await flow.aclose()
        return request.headers["Authorization"]

    return get


def datagrout_async(url: str) -> GetAsync:
    import httpx
    from datagrout.conduit.oauth import OAuthTokenProvider

    provider = OAuthTokenProvider("id", "secret", f"{url}/token")
    client = httpx.AsyncClient()

    async def get() -> str:
        return await provider.get_token(client)

    return get


PEERS = [
    Peer(
        "**conduit-oauth**",
        "from conduit_oauth import TokenProvider",
        lambda url: ours(url).get_token,
        lambda url: ours(url).get_token_async,
        3600,
    ),
    Peer(
        "Authlib",
        "from authlib.integrations.httpx_client import AsyncOAuth2Client",
        authlib_sync,
        authlib_async,
        55,
    ),
    Peer("httpx-auth", "import httpx_auth", httpx_auth_sync, httpx_auth_async, 25),
    Peer("requests_oauth2client", "import requests_oauth2client", requests_oauth2client_sync, margin=15),
    Peer("google-auth", "from google.oauth2 import service_account", google_auth_sync, margin=200),
    Peer(
        "google-auth, non-blocking",
        "from google.oauth2 import service_account",
        lambda url: google_auth_sync(url, non_blocking=True),
        margin=200,
    ),
    Peer("msal", "import msal", msal_sync, margin=250),
    Peer("requests-oauthlib", "import requests_oauthlib", requests_oauthlib_sync),
    Peer(
        "mcp SDK",
        "from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider",
        task=mcp_sdk_async,
    ),
    Peer(
        "datagrout-conduit",
        "from datagrout.conduit.oauth import OAuthTokenProvider",
        task=datagrout_async,
        margin=100,
    ),
]


class Floor:
    """The least that can be done: one reading of our clock, one comparison, one string."""

    __slots__ = ("clock", "expires_at", "token")

    def __init__(self) -> None:
        from conduit_oauth.clock import elapsed

        self.clock, self.expires_at, self.token = elapsed, elapsed() + 1e9, f"token-{time.time()}"

    def get_token(self) -> str | None:
        clock = self.clock
        if clock() < self.expires_at:
            return self.token
        return None

    async def get_token_async(self) -> str | None:
        clock = self.clock
        if clock() < self.expires_at:
            return self.token
        return None
