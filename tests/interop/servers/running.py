"""Starts each authorization server as a child process on a free loopback port, and stops it by its pid."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import sqlite3
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc.jwk import JWKRegistry

from tests.certificates import issue
from tests.interop.conformance import NODE

APPS = Path(__file__).parent / "apps"
PYTHON = Path(__file__).parents[3] / ".venv" / "servers" / "bin" / "python"
# Seconds a token lives where a server lets us say so.
LIFETIME = 60
SCOPES = ("api:read", "api:write")
SECRET = "s3cret"
ODD = "a:%+/=& b"
ACCENTED = "café"
LONG = "s3cret-that-is-long-enough-for-hs256-0123456789"
KINDS: dict[str, Any] = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}


@dataclass
class Place:
    """Where a server keeps its files, and what all servers share: keys and certificates of clients."""

    folder: Path
    keys: Path
    port: int = 0

    def __post_init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"


Command = tuple[list[Any], dict[str, str]]


@dataclass
class Server:
    """A server as a process. `prepare` registers what is registered by request, after the first start.

    `clients` has what the server made up itself: identifiers and secrets by the name of the client.
    """

    place: Place
    issuer: str | None
    token_endpoint: str
    command: Command
    prepare: Callable[[Server], None] | None = None
    clients: dict[str, dict[str, str]] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def origin(self) -> str:
        """Scheme, host and port of the token endpoint."""
        return "/".join(self.token_endpoint.split("/")[:3])

    def start(self) -> None:
        """Start the process, and wait until it takes connections."""
        command, environment = self.command
        log = self.place.folder / "log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                list(map(str, command)),
                cwd=self.place.folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        # One that ends is told at once; this ends one that hangs, and is no measure of its speed.
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.place.port)) == 0:
                    return
            # There is no event to wait for: the server is another program, which says nothing when it listens.
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"{command[0]} does not come up: {log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """Stop the process, and wait for its end."""
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def make_keys(folder: Path) -> None:
    """The keys of assertions, by the name of their algorithm, and the certificates of mutual TLS."""
    made: dict[str, Any] = {
        "RS256": rsa.generate_private_key(65537, 2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        "signing": rsa.generate_private_key(65537, 2048),
    }
    for name, key in made.items():
        encoding = serialization.Encoding.PEM
        (folder / f"{name}.pem").write_bytes(
            key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(encoding, form))
    authority = issue(folder, "ca", ca=True)
    issue(folder, "server", authority)
    issue(folder, "machine", authority, host="machine.example")


def _python(place: Place, app: str, *arguments: object) -> Command:
    environment = {"AUTHLIB_INSECURE_TRANSPORT": "1", "PYTHONPATH": str(APPS)}
    for name in ("RS256.pub", "ES256.pub", "EdDSA.pub"):
        shutil.copy(place.keys / name, place.folder)
    return [PYTHON, APPS / app, place.port, *arguments], environment


def _node(place: Place, app: str, *arguments: object) -> Command:
    return [NODE, APPS / app, place.port, *arguments], {}


def _public_jwks(place: Place) -> dict[str, dict[str, Any]]:
    """The public keys of assertions, by the name of their algorithm."""
    return {
        name: dict(JWKRegistry.import_key((place.keys / f"{name}.pub").read_bytes(), kind).as_dict(private=False))
        for name, kind in KINDS.items()
    }


def authlib(place: Place) -> Server:
    command = _python(place, "authlib_server.py", LIFETIME)
    return Server(place, place.origin, f"{place.origin}/oauth/token", command)


def authlib_defaults(place: Place) -> Server:
    command = _python(place, "authlib_server.py", LIFETIME)
    return Server(place, None, f"{place.origin}/defaults/token", command)


def django_oauth_toolkit(place: Place) -> Server:
    command = _python(place, "django_oauth_toolkit.py", LIFETIME)
    return Server(place, f"{place.origin}/o", f"{place.origin}/o/token/", command)


def canaille(place: Place) -> Server:
    return Server(place, place.origin, f"{place.origin}/oauth/token", _python(place, "canaille_server.py"))


def better_auth(place: Place) -> Server:
    jwks = {name: {**jwk, "kid": name, "alg": name} for name, jwk in _public_jwks(place).items()}
    command = _node(place, "better_auth.mjs", LIFETIME, json.dumps(jwks))
    issuer = f"{place.origin}/api/auth"

    def read_clients(server: Server) -> None:
        server.clients = json.loads((place.folder / "clients.json").read_text())

    return Server(place, issuer, f"{issuer}/oauth2/token", command, read_clients)


def node_oauth(place: Place) -> Server:
    return Server(place, None, f"{place.origin}/oauth/token", _node(place, "node_oauth.mjs", LIFETIME))


def oauth2_mock_server(place: Place) -> Server:
    command = _node(place, "oauth2_mock_server.mjs")
    return Server(place, f"http://localhost:{place.port}", f"{place.origin}/token", command)


def lemonldap(place: Place) -> Server:
    folder = place.folder

    def store(name: str) -> dict[str, str]:
        (folder / name / "lock").mkdir(parents=True)
        return {"Directory": str(folder / name), "LockDirectory": str(folder / name / "lock")}

    def relying_party(client_id: str, secret: str, **more: object) -> dict[str, object]:
        prefix = "oidcRPMetaDataOptions"
        settings = {"ClientID": client_id, "ClientSecret": secret, "AllowClientCredentialsGrant": 1}
        settings |= {"AccessTokenExpiration": LIFETIME, **more}
        return {f"{prefix}{name}": value for name, value in settings.items()}

    parties = {
        "basic": relying_party("basic", SECRET),
        "odd": relying_party("odd", ODD),
        "accented": relying_party("accented", ACCENTED),
        "jwt": relying_party("jwt", SECRET, AccessTokenJWT=1, AccessTokenSignAlg="RS256"),
    }
    configuration = {
        "cfgNum": 1,
        "cfgAuthor": "test",
        "cfgDate": 1,
        "cfgVersion": "2.16.1",
        "whatToTrace": "_whatToTrace",
        "locationRules": {},
        "exportedHeaders": {},
        "macros": {},
        "cookieName": "lemonldap",
        "portal": f"{place.origin}/",
        "domain": "127.0.0.1",
        "authentication": "Demo",
        "userDB": "Same",
        "passwordDB": "Demo",
        "registerDB": "Null",
        "captcha": "::Plugins::Status",
        "portalDisplayResetPassword": 0,
        "loginHistoryEnabled": 0,
        "localSessionStorage": "",
        "globalStorage": "Apache::Session::File",
        "globalStorageOptions": store("sessions"),
        "persistentStorage": "Apache::Session::File",
        "persistentStorageOptions": store("persistent"),
        "issuerDBOpenIDConnectActivation": 1,
        "oidcServiceMetaDataIssuer": place.origin,
        "oidcServicePrivateKeySig": (place.keys / "signing.pem").read_text(),
        "oidcServicePublicKeySig": (place.keys / "signing.pub").read_text(),
        "oidcServiceKeyIdSig": "server",
        "oidcRPMetaDataOptions": parties,
        "oidcRPMetaDataScopeRules": {name: dict.fromkeys(SCOPES, "$requested") for name in parties},
    }
    (folder / "conf").mkdir()
    (folder / "conf" / "lmConf-1.json").write_text(json.dumps(configuration))
    ini = folder / "lemonldap-ng.ini"
    ini.write_text(
        f"[all]\nlogLevel = warn\n[configuration]\ntype = File\ndirName = {folder}/conf\n"
        "[portal]\nstaticPrefix = /static\nlanguages = en\n"
        "templateDir = /usr/share/lemonldap-ng/portal/templates\n"
    )
    program = (
        "$ENV{PERL_ANYEVENT_STRICT} = 0; use Lemonldap::NG::Portal::Main; "
        f"Lemonldap::NG::Portal::Main->run({{configStorage => {{confFile => '{ini}'}}}})"
    )
    command = ["/usr/bin/plackup", "--host", "127.0.0.1", "--port", place.port, "-e", program]
    return Server(place, place.origin, f"{place.origin}/oauth2/token", (command, {"LLNG_DEFAULTCONFFILE": str(ini)}))


def oidc_provider(place: Place) -> Server:
    """Over TLS, so that the same server shows mutual TLS."""
    clients: list[dict[str, Any]] = [
        {"client_id": "basic", "client_secret": "s3cret", "token_endpoint_auth_method": "client_secret_basic"},
        {"client_id": "post", "client_secret": "s3cret", "token_endpoint_auth_method": "client_secret_post"},
        {"client_id": "odd", "client_secret": ODD, "token_endpoint_auth_method": "client_secret_basic"},
        {"client_id": "accented", "client_secret": ACCENTED, "token_endpoint_auth_method": "client_secret_basic"},
        {"client_id": "jwt", "client_secret": LONG, "token_endpoint_auth_method": "client_secret_jwt"},
        {
            "client_id": "machine",
            "token_endpoint_auth_method": "tls_client_auth",
            "tls_client_auth_subject_dn": "CN=machine",
        },
        *(
            {
                "client_id": name,
                "token_endpoint_auth_method": "private_key_jwt",
                "token_endpoint_auth_signing_alg": name,
                "jwks": {"keys": [{**jwk, "kid": name}]},
            }
            for name, jwk in _public_jwks(place).items()
        ),
    ]
    settings = {
        "clients": clients,
        "requireNonce": True,
        "tls": str(place.keys),
        "port": place.port,
        "lifetime": LIFETIME,
    }
    command: list[Any] = [NODE, APPS.parent.parent / "oidc_provider.mjs", json.dumps(settings)]
    issuer = f"https://127.0.0.1:{place.port}"
    return Server(place, issuer, f"{issuer}/token", (command, {}))


def glewlwyd(place: Place) -> Server:
    """Over TLS, so that the same server shows mutual TLS."""
    origin = f"https://127.0.0.1:{place.port}"
    folder, keys = place.folder, place.keys
    database = folder / "g.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.executescript(Path("/usr/share/dbconfig-common/data/glewlwyd/install/sqlite3").read_text())
    modules = "\n".join(
        f'{name}_module_path="/usr/lib/glewlwyd/{part}"'
        for name, part in (
            ("user", "user"),
            ("client", "client"),
            ("user_auth_scheme", "scheme"),
            ("plugin", "plugin"),
        )
    )
    configuration = folder / "glewlwyd.conf"
    configuration.write_text(
        f'port={place.port}\nbind_address="127.0.0.1"\nexternal_url="{origin}"\nlogin_url="login.html"\n'
        f'api_prefix="api"\nlog_mode="file"\nlog_level="WARNING"\nlog_file="{folder}/glewlwyd.log"\n'
        'cookie_domain="127.0.0.1"\ncookie_secure=0\nadmin_scope="g_admin"\nprofile_scope="g_profile"\n'
        f"{modules}\nuse_secure_connection=true\n"
        f'secure_connection_key_file="{keys}/server-key.pem"\nsecure_connection_pem_file="{keys}/server.pem"\n'
        f'secure_connection_ca_file="{keys}/ca.pem"\nhash_algorithm="SHA512"\n'
        f'database = {{ type = "sqlite3"; path = "{database}"; }};\n'
    )
    command = ["/usr/bin/glewlwyd", f"--config-file={configuration}"]
    issuer = f"{origin}/api/oidc"
    return Server(place, issuer, f"{issuer}/token", (command, {}), lambda _: _register_at_glewlwyd(origin, keys))


def glewlwyd_oauth2(place: Place) -> Server:
    """The second plugin of the same server, for OAuth 2 without OpenID Connect."""
    server = glewlwyd(place)
    origin = f"https://127.0.0.1:{place.port}"
    return dataclasses.replace(server, issuer=None, token_endpoint=f"{origin}/api/glwd/token")


def _register_at_glewlwyd(origin: str, keys: Path) -> None:
    context = ssl.create_default_context(cafile=keys / "ca.pem")
    cookie = ""

    def call(path: str, body: dict[str, Any]) -> None:
        nonlocal cookie
        headers = {"Content-Type": "application/json", "Cookie": cookie}
        request = urllib.request.Request(origin + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            cookie = (answer.headers.get("Set-Cookie") or cookie).partition(";")[0]

    call("/api/auth/", {"username": "admin", "password": "password"})
    for scope in SCOPES:
        named = {"name": scope, "display_name": scope, "description": scope}
        call("/api/scope/", {**named, "password_required": False, "scheme": {}})
    flows = ("code", "token", "implicit", "password", "client", "refresh", "device")
    parameters: dict[str, Any] = {
        **{f"auth-type-{flow}-enabled": flow in ("code", "client", "refresh") for flow in flows},
        "iss": f"{origin}/api/oidc",
        "jwt-type": "rsa",
        "jwt-key-size": "256",
        "key": (keys / "signing.pem").read_text(),
        "cert": (keys / "signing.pub").read_text(),
        "access-token-duration": LIFETIME,
        "refresh-token-duration": 1209600,
        "code-duration": 600,
        "refresh-token-rolling": True,
        "allow-non-oidc": True,
        "jwks-show": True,
        "request-parameter-allow": True,
        "request-maximum-exp": 3600,
        "client-pubkey-parameter": "pubkey",
        "client-jwks-parameter": "jwks",
        "client-jwks_uri-parameter": "jwks_uri",
        "introspection-revocation-allowed": True,
        "introspection-revocation-allow-target-client": True,
        "oauth-dpop-allowed": True,
        "oauth-dpop-iat-duration": 60,
        "oauth-dpop-nonce-mandatory": True,
        "oauth-dpop-nonce-counter": 20,
        "resource-allowed": True,
        "resource-scope": {"api:read": ["https://api.example/v1"]},
        "resource-client-property": "resource",
        "resource-scope-and-client-property": False,
        "client-cert-source": "TLS",
        "client-cert-use-endpoint-aliases": True,
        "client-cert-self-signed-allowed": True,
    }
    call("/api/mod/plugin/", {"module": "oidc", "name": "oidc", "display_name": "oidc", "parameters": parameters})
    oauth2 = {
        **{name: value for name, value in parameters.items() if name.startswith("auth-type")},
        **{name: parameters[name] for name in ("jwt-type", "jwt-key-size", "key", "cert", "access-token-duration")},
        **{name: parameters[name] for name in ("refresh-token-duration", "code-duration", "refresh-token-rolling")},
    }
    call(
        "/api/mod/plugin/", {"module": "oauth2-glewlwyd", "name": "glwd", "display_name": "glwd", "parameters": oauth2}
    )

    def register(client_id: str, *methods: str, **more: Any) -> None:
        client = {"client_id": client_id, "name": client_id, "confidential": True, "enabled": True}
        client |= {"authorization_type": ["client_credentials"], "scope": list(SCOPES)}
        call("/api/client/", {**client, "token_endpoint_auth_method": list(methods), **more})

    register("basic", "client_secret_basic", client_secret=SECRET, resource=["https://other.example/mcp"])
    register("post", "client_secret_post", client_secret=SECRET)
    register("odd", "client_secret_basic", "client_secret_post", client_secret=ODD)
    register("accented", "client_secret_basic", "client_secret_post", client_secret=ACCENTED)
    register("jwt", "client_secret_jwt", client_secret=LONG)
    for algorithm in ("RS256", "ES256", "EdDSA"):
        register(algorithm, "private_key_jwt", pubkey=(keys / f"{algorithm}.pub").read_text())
    register("machine", "tls_client_auth", tls_client_auth_san_dns="machine.example")


STARTERS: dict[str, Callable[[Place], Server]] = {
    "glewlwyd": glewlwyd,
    "glewlwyd, oauth2": glewlwyd_oauth2,
    "LemonLDAP::NG": lemonldap,
    "django-oauth-toolkit": django_oauth_toolkit,
    "Authlib": authlib,
    "Authlib, defaults": authlib_defaults,
    "canaille": canaille,
    "better-auth": better_auth,
    "@node-oauth/oauth2-server": node_oauth,
    "oauth2-mock-server": oauth2_mock_server,
    "oidc-provider": oidc_provider,
}


@contextmanager
def running(name: str, folder: Path, keys: Path) -> Iterator[Server]:
    """The server called `name`, until the block ends."""
    server = STARTERS[name](Place(folder, keys))
    server.start()
    try:
        if server.prepare is not None:
            server.prepare(server)
        yield server
    finally:
        server.stop()
