"""Settings for authorization servers that cannot run here, as the page shows them, and the request that they send."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SECRET = "s3cret"
# What each program of a recipe begins with.
_HEAD = "from conduit_oauth import TokenProvider, from_environment\n\n"


@dataclass(frozen=True)
class Recipe:
    """`code` is what a reader copies. `metadata` is what the server publishes, `form` what it is sent at `endpoint`.

    `user` is who the Basic header names; None where the credential is elsewhere.
    """

    code: str
    quirk: str
    source: str
    endpoint: str
    form: dict[str, str]
    user: str | None = "billing"
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)


def _published(issuer: str, location: str, endpoint: str, **more: Any) -> dict[str, dict[str, Any]]:
    return {location: {"issuer": issuer, "token_endpoint": endpoint, **more}}


def _made(body: str) -> str:
    return f"{_HEAD}provider = TokenProvider(\n{body})\n"


def _with_secret(*lines: str) -> str:
    given = ('"billing"', 'from_environment("BILLING_SECRET")', *lines)
    return _made("".join(f"    {line},\n" for line in given))


GRANT = {"grant_type": "client_credentials"}
BOTH = ["client_secret_basic", "client_secret_post"]

RECIPES: dict[str, Recipe] = {
    "Keycloak": Recipe(
        _with_secret('issuer="https://login.example/realms/machines"'),
        "Switch on the client's service account. The token has no `aud` for your API until you add an audience mapper "
        "to the client; Keycloak ignores `resource` and `audience`.",
        "https://www.keycloak.org/docs/latest/server_admin/#_service_accounts",
        "https://login.example/realms/machines/protocol/openid-connect/token",
        GRANT,
        metadata=_published(
            "https://login.example/realms/machines",
            "https://login.example/realms/machines/.well-known/openid-configuration",
            "https://login.example/realms/machines/protocol/openid-connect/token",
            token_endpoint_auth_methods_supported=["private_key_jwt", *BOTH, "tls_client_auth", "client_secret_jwt"],
        ),
    ),
    "Microsoft Entra ID": Recipe(
        _with_secret(
            'token_endpoint="https://login.microsoftonline.com/TENANT/oauth2/v2.0/token"',
            'scope="api://orders/.default"',
        ),
        "The scope is the application ID URI of the API with `/.default`. The v2.0 endpoint refuses `resource`, so do "
        "not set `mcp_url`. A certificate needs an assertion with the header `x5t`: pass it as `client_assertion`.",
        "https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow",
        "https://login.microsoftonline.com/TENANT/oauth2/v2.0/token",
        {**GRANT, "scope": "api://orders/.default"},
    ),
    "Okta": Recipe(
        _with_secret('issuer="https://example.okta.com/oauth2/default"', 'scope="orders.read"'),
        "The request has to name a custom scope of the authorization server. Okta's own APIs are served by the issuer "
        'without `/oauth2/default`, take `private_key` only, and want `assertion_audience="endpoint"`.',
        "https://developer.okta.com/docs/guides/implement-grant-type/clientcreds/main/",
        "https://example.okta.com/oauth2/default/v1/token",
        {**GRANT, "scope": "orders.read"},
        metadata=_published(
            "https://example.okta.com/oauth2/default",
            "https://example.okta.com/oauth2/default/.well-known/openid-configuration",
            "https://example.okta.com/oauth2/default/v1/token",
            token_endpoint_auth_methods_supported=[*BOTH, "client_secret_jwt", "private_key_jwt", "none"],
        ),
    ),
    "Auth0": Recipe(
        _with_secret(
            'issuer="https://example.eu.auth0.com/"',
            'audience="https://api.example/"',
            'token_endpoint_auth_method="client_secret_post"',
        ),
        "`audience` is the identifier of the API; without it the token is opaque and of no use for your API. The "
        "issuer ends in a slash. A machine-to-machine application is registered for `client_secret_post` by default: "
        "the setting saves a request that is refused.",
        "https://auth0.com/docs/get-started/authentication-and-authorization-flow/client-credentials-flow",
        "https://example.eu.auth0.com/oauth/token",
        {**GRANT, "audience": "https://api.example/", "client_id": "billing", "client_secret": SECRET},
        user=None,
        metadata=_published(
            "https://example.eu.auth0.com/",
            "https://example.eu.auth0.com/.well-known/openid-configuration",
            "https://example.eu.auth0.com/oauth/token",
            token_endpoint_auth_methods_supported=[*BOTH, "private_key_jwt"],
        ),
    ),
    "Amazon Cognito": Recipe(
        _with_secret(
            'token_endpoint="https://example.auth.eu-central-1.amazoncognito.com/oauth2/token"', 'scope="orders/read"'
        ),
        "The token endpoint is at the domain of the user pool. A scope is the identifier of a resource server, a "
        "slash, and the name of the scope.",
        "https://docs.aws.amazon.com/cognito/latest/developerguide/token-endpoint.html",
        "https://example.auth.eu-central-1.amazoncognito.com/oauth2/token",
        {**GRANT, "scope": "orders/read"},
    ),
    "Google": Recipe(
        "import time\n\nfrom joserfc import jwt\nfrom joserfc.jwk import RSAKey\n\n"
        "from conduit_oauth import TokenProvider, from_environment\n\n"
        'TOKEN_ENDPOINT = "https://oauth2.googleapis.com/token"\n'
        'ACCOUNT = "billing@project.iam.gserviceaccount.com"\n'
        'private_key = from_environment("GOOGLE_PRIVATE_KEY")\n\n\n'
        "def assertion() -> str:\n"
        "    now = int(time.time())\n"
        '    claims = {"iss": ACCOUNT, "aud": TOKEN_ENDPOINT, "iat": now, "exp": now + 300}\n'
        '    claims["scope"] = "https://www.googleapis.com/auth/cloud-platform"\n'
        '    return jwt.encode({"alg": "RS256"}, claims, RSAKey.import_key(private_key()))\n\n\n'
        "provider = TokenProvider(ACCOUNT, assertion=assertion, token_endpoint=TOKEN_ENDPOINT)\n",
        "A service account has no client secret: a JWT that its key signs is the grant (RFC 7523 §2.1), and the scope "
        "stands in the JWT. The form also holds `client_id`, which Google's documentation does not mention.",
        "https://developers.google.com/identity/protocols/oauth2/service-account",
        "https://oauth2.googleapis.com/token",
        {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": "(a JWT)",
            "client_id": "billing@project.iam.gserviceaccount.com",
        },
        user=None,
    ),
    "PingOne": Recipe(
        _with_secret('issuer="https://auth.pingone.eu/ENVIRONMENT/as"', 'scope="orders:read"'),
        "An application may use the one authentication method that is set in it. One request may name scopes of one "
        "custom resource only.",
        "https://developer.pingidentity.com/pingone-api/auth/openid-connect-oauth-2/token-admin-app-client_credentials.html",
        "https://auth.pingone.eu/ENVIRONMENT/as/token",
        {**GRANT, "scope": "orders:read"},
        metadata=_published(
            "https://auth.pingone.eu/ENVIRONMENT/as",
            "https://auth.pingone.eu/ENVIRONMENT/as/.well-known/openid-configuration",
            "https://auth.pingone.eu/ENVIRONMENT/as/token",
            token_endpoint_auth_methods_supported=[*BOTH, "client_secret_jwt", "private_key_jwt"],
        ),
    ),
    "Zitadel": Recipe(
        _with_secret(
            'issuer="https://example.zitadel.cloud"', 'scope="openid urn:zitadel:iam:org:project:id:PROJECT:aud"'
        ),
        "The client is a service user: its name is the identifier. A scope puts the project into `aud`; `resource` and "
        "`audience` do not.",
        "https://zitadel.com/docs/guides/integrate/service-users/client-credentials",
        "https://example.zitadel.cloud/oauth/v2/token",
        {**GRANT, "scope": "openid urn:zitadel:iam:org:project:id:PROJECT:aud"},
        metadata=_published(
            "https://example.zitadel.cloud",
            "https://example.zitadel.cloud/.well-known/openid-configuration",
            "https://example.zitadel.cloud/oauth/v2/token",
            token_endpoint_auth_methods_supported=["none", *BOTH, "private_key_jwt"],
        ),
    ),
    "authentik": Recipe(
        _with_secret('issuer="https://login.example/application/o/orders/"', 'scope="profile"'),
        "The issuer is that of the application, with the slash, and the token endpoint is the same for all of them. "
        "The secret of the provider makes a service account by itself; for an account of your own, the secret is the "
        "base64 of `username:app-password`. Scopes are granted only where they are asked for.",
        "https://docs.goauthentik.io/add-secure-apps/providers/oauth2/machine_to_machine/",
        "https://login.example/application/o/token/",
        {**GRANT, "scope": "profile"},
        metadata=_published(
            "https://login.example/application/o/orders/",
            "https://login.example/application/o/orders/.well-known/openid-configuration",
            "https://login.example/application/o/token/",
            token_endpoint_auth_methods_supported=["client_secret_post", "client_secret_basic"],
        ),
    ),
    "Ory Hydra": Recipe(
        _with_secret('issuer="https://login.example/"', 'scope="orders:read"', 'audience="https://api.example"'),
        "The client's registration has to list the audience. It names one authentication method, and "
        "`client_secret_basic` is the default. The issuer is spelt as `urls.self.issuer` is.",
        "https://www.ory.sh/docs/oauth2-oidc/client-credentials",
        "https://login.example/oauth2/token",
        {**GRANT, "scope": "orders:read", "audience": "https://api.example"},
        metadata=_published(
            "https://login.example/",
            "https://login.example/.well-known/openid-configuration",
            "https://login.example/oauth2/token",
            token_endpoint_auth_methods_supported=[
                "client_secret_post",
                "client_secret_basic",
                "private_key_jwt",
                "none",
            ],
        ),
    ),
    "Salesforce": Recipe(
        _with_secret(
            'token_endpoint="https://example.my.salesforce.com/services/oauth2/token"', "default_lifetime=900"
        ),
        "The endpoint is that of your My Domain; `login.salesforce.com` refuses the grant. The answer has no "
        "`expires_in`: set `default_lifetime` to less than the session timeout of the app. Scopes come from the app.",
        "https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_client_credentials_flow.htm",
        "https://example.my.salesforce.com/services/oauth2/token",
        GRANT,
    ),
    "Spring Authorization Server": Recipe(
        _with_secret('issuer="https://login.example"', 'scope="orders.read"'),
        "A client may use the methods of its registration only. The server decodes Basic as RFC 6749 says.",
        "https://docs.spring.io/spring-authorization-server/reference/protocol-endpoints.html",
        "https://login.example/oauth2/token",
        {**GRANT, "scope": "orders.read"},
        metadata=_published(
            "https://login.example",
            "https://login.example/.well-known/oauth-authorization-server",
            "https://login.example/oauth2/token",
            token_endpoint_auth_methods_supported=[*BOTH, "client_secret_jwt", "private_key_jwt", "tls_client_auth"],
        ),
    ),
}
