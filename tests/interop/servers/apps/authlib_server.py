"""Authlib on Flask: PORT LIFETIME. All that it has (RFC 7523, 7662, 7009, 8414, 9068), and a token exchange of ours.

`/defaults/token` is a second server with Authlib's defaults: opaque tokens, and client_secret_basic only.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2 import rfc6749, rfc6750, rfc7009, rfc7523, rfc7662, rfc9068
from authlib.oauth2.rfc6749 import grants
from flask import Flask, Response, jsonify, request
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, RSAKey, import_key
from serving import rsa_key, serve

PORT, LIFETIME = int(sys.argv[1]), int(sys.argv[2])
ORIGIN = f"http://127.0.0.1:{PORT}"
TOKEN_ENDPOINT = f"{ORIGIN}/oauth/token"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
METHODS = ["client_secret_basic", "client_secret_post", "client_assertion_jwt", "none"]
KEY = RSAKey.import_key(rsa_key("server.pem"), {"kid": "server", "alg": "RS256", "use": "sig"})


class Client(rfc6749.ClientMixin):
    """A client that may use `methods` and nothing else."""

    def __init__(self, client_id: str, methods: str, *, secret: str = "", key: str = "", grant: str = "") -> None:
        self.client_id, self.methods, self.secret = client_id, methods.split(), secret
        self.key = KeySet([import_key(Path(key).read_text(), KINDS[key], {"kid": client_id})]) if key else None
        self.grants = {grant or "client_credentials", EXCHANGE}

    def get_client_id(self) -> str:
        return self.client_id

    def get_allowed_scope(self, scope: str) -> str:
        return " ".join(name for name in (scope or "").split() if name in ("read", "write"))

    def check_client_secret(self, secret: str) -> bool:
        return bool(self.secret) and secret == self.secret

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in self.methods

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.grants


KINDS: dict[str, Any] = {"RS256.pub": "RSA", "ES256.pub": "EC", "EdDSA.pub": "OKP"}
CLIENTS = {
    client.client_id: client
    for client in (
        Client("basic", "client_secret_basic", secret="s3cret"),
        Client("post", "client_secret_post", secret="s3cret"),
        Client("odd", "client_secret_basic", secret="a:%+/=& b"),
        Client("accented", "client_secret_basic", secret="café"),
        Client("person", "client_secret_basic", secret="s3cret", grant="authorization_code"),
        Client("jwt", "client_assertion_jwt", secret="s3cret-that-is-long-enough-for-hs256-0123456789"),
        *(Client(name, "client_assertion_jwt", key=f"{name}.pub") for name in ("RS256", "ES256", "EdDSA")),
    )
}
TOKENS: dict[str, dict[str, Any]] = {}
ASSERTIONS: set[str] = set()


class Token(dict[str, Any]):
    """A token as Authlib's endpoints want to see it."""

    def check_client(self, client: Client) -> bool:
        return self["client_id"] == client.client_id

    def is_expired(self) -> bool:
        return self["iat"] + LIFETIME <= time.time()

    def is_revoked(self) -> bool:
        return bool(self.get("revoked"))


def save_token(token: dict[str, Any], asked: Any) -> None:
    TOKENS[token["access_token"]] = {**token, "client_id": asked.client.client_id, "iat": int(time.time())}


class ClientCredentials(grants.ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = METHODS


class Exchange(grants.BaseGrant, grants.TokenEndpointMixin):
    """RFC 8693 for tokens of this server."""

    TOKEN_ENDPOINT_AUTH_METHODS = METHODS
    GRANT_TYPE = EXCHANGE

    def validate_token_request(self) -> None:
        self.request.client = self.authenticate_token_endpoint_client()
        try:
            jwt.decode(self.request.form.get("subject_token", ""), KeySet([KEY]))
        except Exception:
            raise rfc6749.InvalidRequestError("subject_token is not one of ours") from None

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        token = self.generate_token(scope=self.request.payload.scope, include_refresh_token=False)
        wanted = self.request.form.get("requested_token_type", "urn:ietf:params:oauth:token-type:access_token")
        token["issued_token_type"] = wanted
        if wanted.endswith(":jwt"):
            token["token_type"] = "N_A"
        self.save_token(token)
        return 200, token, self.TOKEN_RESPONSE_HEADER


class Assertion(rfc7523.JWTBearerClientAssertion):
    def get_audiences(self) -> list[str]:
        return [ORIGIN]

    def validate_jti(self, claims: dict[str, Any], jti: str) -> bool:
        new = jti not in ASSERTIONS
        ASSERTIONS.add(jti)
        return new

    def resolve_client_public_key(self, client: Client) -> Any:
        return client.key or OctKey.import_key(client.secret.encode())


class Generator(rfc9068.JWTBearerTokenGenerator):
    def __init__(self) -> None:
        super().__init__(issuer=ORIGIN, expires_generator=lambda client, grant: LIFETIME)

    def get_jwks(self) -> KeySet:
        return KeySet([KEY])

    def get_audiences(self, client: Any, user: Any, scope: Any) -> list[str]:
        return request.form.getlist("resource") or ["https://api.example"]

    def get_jti(self, *_: Any) -> str:
        return os.urandom(8).hex()


class Introspection(rfc7662.IntrospectionEndpoint):
    CLIENT_AUTH_METHODS = METHODS

    def query_token(self, token: str, hint: str) -> Token | None:
        return Token(TOKENS[token]) if token in TOKENS else None

    def check_permission(self, *_: Any) -> bool:
        return True

    def introspect_token(self, token: Token) -> dict[str, Any]:
        return {"active": True, "client_id": token["client_id"], "exp": token["iat"] + LIFETIME}


class Revocation(rfc7009.RevocationEndpoint):
    CLIENT_AUTH_METHODS = METHODS

    def query_token(self, token: str, hint: str) -> Token | None:
        return Token(TOKENS[token]) if token in TOKENS else None

    def revoke_token(self, token: Token, _: Any) -> None:
        TOKENS[token["access_token"]]["revoked"] = True


app = Flask("authlib")
server = AuthorizationServer(app, query_client=CLIENTS.get, save_token=save_token)
for grant in (ClientCredentials, Exchange):
    server.register_grant(grant)
server.register_client_auth_method("client_assertion_jwt", Assertion())
server.register_token_generator("default", Generator())
server.register_endpoint(Introspection)
server.register_endpoint(Revocation)
defaults = AuthorizationServer(app, query_client=CLIENTS.get, save_token=save_token)
defaults.register_grant(grants.ClientCredentialsGrant)
defaults.register_token_generator(
    "default", rfc6750.BearerTokenGenerator(lambda **_: os.urandom(20).hex(), expires_generator=lambda *_: LIFETIME)
)


@app.post("/oauth/token")
def token() -> Response:
    return server.create_token_response()


@app.post("/defaults/token")
def default_token() -> Response:
    return defaults.create_token_response()


@app.post("/oauth/introspect")
def introspect() -> Response:
    return server.create_endpoint_response("introspection")


@app.post("/oauth/revoke")
def revoke() -> Response:
    return server.create_endpoint_response("revocation")


@app.get("/jwks")
def jwks() -> Response:
    return jsonify(keys=[KEY.as_dict(private=False)])


@app.get("/.well-known/oauth-authorization-server")
def metadata() -> Response:
    return jsonify(
        issuer=ORIGIN,
        token_endpoint=TOKEN_ENDPOINT,
        introspection_endpoint=f"{ORIGIN}/oauth/introspect",
        revocation_endpoint=f"{ORIGIN}/oauth/revoke",
        jwks_uri=f"{ORIGIN}/jwks",
        response_types_supported=["code"],
        scopes_supported=["read", "write"],
        token_endpoint_auth_methods_supported=[
            "client_secret_basic",
            "client_secret_post",
            "client_secret_jwt",
            "private_key_jwt",
        ],
        token_endpoint_auth_signing_alg_values_supported=["HS256", "RS256", "ES256"],
    )


serve(app.wsgi_app, PORT)
