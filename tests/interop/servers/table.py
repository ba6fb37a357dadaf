"""What the authorization servers offer, and what they say where they do not.

An answer is a part of the message that a user gets: an error of ours with the server's words in it, or a
`ShortfallError`.
"""

from __future__ import annotations

from tests.interop.servers.attempts import Facts
from tests.interop.servers.running import ACCENTED, ODD

_NO_DPOP = {"DPoP": "this server does not bind tokens for this client"}
_NO_CERTIFICATE = {"`tls_client_auth`": "Check that the client is registered for tls_client_auth with this certificate"}
_NO_EXCHANGE = {"token exchange": "does not offer the grant urn:ietf:params:oauth:grant-type:token-exchange"}
_KEYS = ("`private_key_jwt`, RS256", "`private_key_jwt`, ES256", "`private_key_jwt`, EdDSA")
_NO_LISTED_KEY = dict.fromkeys(_KEYS, "the server supports only client_secret_post, client_secret_basic")
_NO_INTROSPECTION = {
    "introspection": "Configure introspection_endpoint, or issuer where its metadata names it",
    "revocation": "Configure revocation_endpoint, or issuer where its metadata names it",
}
_BASIC_ONLY = dict.fromkeys(
    (
        "the same, for a client of `client_secret_post`",
        "`client_secret_post`",
        "`client_secret_jwt`",
        *_KEYS,
        "`tls_client_auth`",
    ),
    "invalid_client (The client cannot authenticate with methods: ['client_secret_basic'])",
)

FACTS: dict[str, Facts] = {
    "glewlwyd": Facts(
        "2.7.5",
        plain={"scope": "api:read"},
        settings={"assertion_audience": "endpoint"},
        clients={"dpop": "basic"},
        answers={"token exchange": "The server gave no reason"},
        notes=(
            "It refuses a request without `scope` by a 403 without a body.",
            'It takes an assertion only where `aud` is the URL of the endpoint: `assertion_audience="endpoint"`.',
            "It does not decode Basic. A secret with characters that Basic encodes goes by `client_secret_post`.",
        ),
    ),
    "glewlwyd, oauth2": Facts(
        "2.7.5",
        plain={"scope": "api:read"},
        clients={"dpop": "basic", "post": "basic"},
        answers={
            "`issuer=`": "publishes none",
            "`client_secret_post`": "The client authenticated by client_secret_post",
            "`client_secret_jwt`": "The client authenticated by client_secret_jwt",
            f"the secret `{ODD}`": "The client authenticated by client_secret_post, then by client_secret_basic",
            f"the secret `{ACCENTED}`": "The client authenticated by client_secret_post, then by client_secret_basic",
            **dict.fromkeys(_KEYS, "The client authenticated by private_key_jwt"),
            **_NO_DPOP,
            "`tls_client_auth`": "The client authenticated by tls_client_auth",
            "`resource`": "the token names another audience, or none",
            **_NO_INTROSPECTION,
            "token exchange": "The server gave no reason",
        },
        notes=(
            "The plugin of plain OAuth 2 has no metadata, and takes `client_secret_basic` only.",
            "It does not decode Basic, so a secret with characters that Basic encodes does not work there.",
        ),
    ),
    "LemonLDAP::NG": Facts(
        "2.16.1",
        plain={"scope": "api:read"},
        clients={"dpop": "basic", "post": "basic"},
        answers={
            "`client_secret_jwt`": "Check that the server has the same client_secret",
            f"the secret `{ACCENTED}`": "The client authenticated by client_secret_post, then by client_secret_basic",
            **_NO_LISTED_KEY,
            **_NO_DPOP,
            **_NO_CERTIFICATE,
            "`resource`": "the token names another audience, or none",
            "revocation": "Configure revocation_endpoint, or issuer where its metadata names it",
            "token exchange": "The server does not accept the subject token",
        },
        notes=(
            "It refuses a request without `scope` as `invalid_scope`.",
            "It does not decode Basic, and knows no secret outside ASCII.",
        ),
    ),
    "django-oauth-toolkit": Facts(
        "3.4.1",
        clients={"dpop": "basic", "post": "basic"},
        answers={
            "`client_secret_jwt`": "Check that the server has the same client_secret",
            **_NO_LISTED_KEY,
            **_NO_DPOP,
            **_NO_CERTIFICATE,
            **_NO_EXCHANGE,
        },
        notes=(
            "Its usual deployment publishes the metadata of RFC 8414 below the issuer, where no RFC has it. The "
            "library finds it there.",
            "With OpenID Connect switched on, the metadata that is found first names no introspection endpoint: set "
            "`introspection_endpoint` and `revocation_endpoint`.",
        ),
    ),
    "Authlib": Facts(
        "1.9.10",
        clients={"dpop": "basic"},
        answers={
            "`private_key_jwt`, EdDSA": "the server lists HS256, RS256, ES256",
            **_NO_DPOP,
            **_NO_CERTIFICATE,
        },
        notes=("Token exchange is an extension grant of the test's own server: Authlib has none.",),
    ),
    "Authlib, defaults": Facts(
        "1.9.10",
        clients={"dpop": "basic"},
        answers={
            **_BASIC_ONLY,
            **_NO_DPOP,
            "`resource`": "nothing shows its audience",
            **_NO_INTROSPECTION,
            **_NO_EXCHANGE,
        },
        notes=("A server that registers the grant without further settings takes `client_secret_basic` only.",),
    ),
    "canaille": Facts(
        "0.3.6",
        clients={"dpop": "basic"},
        answers={
            **_BASIC_ONLY,
            **_NO_DPOP,
            "`resource`": "the token names another audience, or none",
            **_NO_EXCHANGE,
            "short lives": "the server decides how long its tokens live",
        },
        notes=("Its metadata lists more methods than it takes for client credentials: `client_secret_basic` only.",),
    ),
    "better-auth": Facts(
        "1.7.5",
        resource="{origin}/mcp",
        answers={
            "`client_secret_jwt`": "the key can sign by HS256, HS384, HS512, and the server lists RS256",
            f"the secret `{ODD}`": "invalid_client (missing client)",
            f"the secret `{ACCENTED}`": "invalid_client (missing client)",
            "`tls_client_auth`": "invalid_client (missing client)",
            **_NO_EXCHANGE,
        },
        notes=(
            "It makes the secrets itself. A client may use the one method that it is registered for.",
            "It issues a JWT only where `resource` is sent; a JWT cannot be revoked (`unsupported_token_type`).",
        ),
    ),
    "@node-oauth/oauth2-server": Facts(
        "5.3.0",
        clients={"dpop": "basic", "post": "basic"},
        answers={
            "`issuer=`": "publishes none",
            "`client_secret_jwt`": "invalid_client (Invalid client: cannot retrieve client credentials)",
            f"the secret `{ACCENTED}`": "invalid_request (Invalid parameter: `client_secret`)",
            **dict.fromkeys(_KEYS, "invalid_client (Invalid client: cannot retrieve client credentials)"),
            **_NO_DPOP,
            **_NO_CERTIFICATE,
            "`resource`": "nothing shows its audience",
            **_NO_INTROSPECTION,
            **_NO_EXCHANGE,
        },
        notes=(
            "It has no metadata, no introspection and no revocation.",
            "It does not decode Basic, and takes no secret outside ASCII.",
        ),
    ),
    "oauth2-mock-server": Facts(
        "9.3.0",
        method="client_secret_post",
        clients={"dpop": "basic"},
        answers={
            "`issuer=`": "or set token_endpoint_auth_method to the one that the server takes",
            "`client_secret_jwt`": "the key can sign by HS256, HS384, HS512, and the server lists RS256",
            **dict.fromkeys(_KEYS, "the server supports only none"),
            **_NO_DPOP,
            "`tls_client_auth`": "the server takes any client, and plain http shows no certificate",
            "`resource`": "the token names another audience, or none",
            "introspection": "introspection calls everything active",
            "revocation": "introspection still calls the token active",
            "token exchange": "The request used the grant urn:ietf:params:oauth:grant-type:token-exchange",
            "short lives": "the server decides how long its tokens live",
        },
        notes=(
            "Its metadata lists the method `none` only, and it takes any: with `issuer`, set "
            "`token_endpoint_auth_method`.",
            "It calls itself `http://localhost:PORT`, so `http://127.0.0.1:PORT` is another issuer.",
        ),
    ),
    "oidc-provider": Facts(
        "9.13.3",
        clients={"dpop": "basic"},
        answers={
            f"the secret `{ACCENTED}`": "invalid_client_metadata (invalid client_secret value)",
            **_NO_EXCHANGE,
        },
        notes=("A client may use the one method that it is registered for.",),
    ),
}
