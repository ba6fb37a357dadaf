"""Broken set-ups, made for real, and what `doctor` says of each."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.message import Message
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from typer.testing import CliRunner

from conduit_oauth.cli.app import app
from conduit_oauth.cli.checks import check_way
from conduit_oauth.cli.findings import Verdict
from conduit_oauth.cli.inspection import read_jwt
from conduit_oauth.client.transport import Transport
from conduit_oauth.testing import AuthorizationServer
from tests.addresses import resolve_to, silent_address
from tests.certificates import Authority, issue
from tests.cli.broken import BrokenServer, Page
from tests.cli.conftest import Run
from tests.client.test_transport import raw_server
from tests.resource_server import ResourceServer

SECRET = "very-secret"
TOKEN: dict[str, Any] = {"access_token": "good-token", "token_type": "Bearer", "expires_in": 3600}
DAY = datetime.timedelta(days=1)


def refusal(error: str, status: int = 400) -> Page:
    return status, {}, json.dumps({"error": error}).encode()


class World:
    """What a set-up is made of."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.environment: dict[str, str] = {
            "HOME": str(folder),
            "CONDUIT_OAUTH_CLIENT_ID": "client",
            "CONDUIT_OAUTH_CLIENT_SECRET": SECRET,
            "COLUMNS": "200",
        }
        self.arguments: list[str] = []
        self.authority = issue(folder, "authority", ca=True)
        self.servers: list[BrokenServer] = []

    def point(self, **settings: str) -> None:
        for name, value in settings.items():
            self.environment[f"CONDUIT_OAUTH_{name.upper()}"] = value

    def server(self, context: ssl.SSLContext | None = None, **pages: Page) -> BrokenServer:
        """One with a token endpoint that works, unless `token` says otherwise."""
        server = self.stack.enter_context(BrokenServer(context))
        self.servers.append(server)
        server.pages["/token"] = pages.get("token", TOKEN)
        self.point(token_endpoint=f"{server.url}/token")
        return server

    def tls(self, *, signer: Authority | None = None, trusted: bool = True, **dates: Any) -> ssl.SSLContext:
        issue(self.folder, "server", signer or self.authority, **dates)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server-key.pem")
        if trusted:
            self.environment["SSL_CERT_FILE"] = str(self.folder / "authority.pem")
        return context

    def gateway(self, **pages: Page) -> BrokenServer:
        """One whose MCP endpoint publishes where its tokens come from: from itself."""
        server = self.server()
        del self.environment["CONDUIT_OAUTH_TOKEN_ENDPOINT"]
        self.point(mcp_url=f"{server.url}/mcp")
        metadata = {"issuer": server.url, "token_endpoint": f"{server.url}/token"}
        server.pages |= {
            "/.well-known/oauth-protected-resource/mcp": {
                "resource": f"{server.url}/mcp",
                "authorization_servers": [server.url],
            },
            "/.well-known/oauth-authorization-server": metadata,
            "/mcp": {"jsonrpc": "2.0", "id": 0, "result": {}},
            **pages,
        }
        return server


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, tmp_path)


def no_secret(world: World) -> None:
    world.server()
    del world.environment["CONDUIT_OAUTH_CLIENT_SECRET"]


def no_place(world: World) -> None:
    pass


def no_tls_asked_for(world: World) -> None:
    world.point(token_endpoint="http://as.example/token")


def secret_file_away(world: World) -> None:
    world.server()
    world.arguments = ["--client-secret-file", str(world.folder / "nowhere")]


def secret_file_open(world: World) -> None:
    world.server()
    (world.folder / "secret").write_text(SECRET)
    (world.folder / "secret").chmod(0o644)
    world.arguments = ["--client-secret-file", str(world.folder / "secret")]


def header_from(name: str, mode: int) -> Callable[[World], None]:
    """A client that sends a header from a file; the one that is there is called `key`."""

    def make(world: World) -> None:
        world.server()
        (world.folder / "key").write_text("a gateway's key")
        (world.folder / "key").chmod(mode)
        (world.folder / "config.toml").write_text(
            f'[profiles.default]\ntoken_request_headers = {{ x-api-key = {{ file = "{name}" }} }}\n'
        )
        world.arguments = ["--config", str(world.folder / "config.toml")]

    return make


def key_encrypted(world: World) -> None:
    signed(TOKEN)(world)
    key = load_pem_private_key((world.folder / "client-key.pem").read_bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
    (world.folder / "client-key.pem").write_bytes(encrypted)


def secret_with_blanks(world: World) -> None:
    world.server()
    world.point(client_secret=f" {SECRET}")


def name_unknown(world: World) -> None:
    # A label that is too long: refused without a question to any server.
    world.point(token_endpoint=f"https://{'a' * 64}.example/token")


def nobody_listens(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    world.point(token_endpoint=f"http://127.0.0.1:{port}/token")


def cut_off(world: World) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def cut() -> None:
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    def end() -> None:
        # Wakes the one that accepts, too.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()

    thread = threading.Thread(target=cut)
    thread.start()
    world.stack.callback(end)
    world.point(token_endpoint=f"http://127.0.0.1:{listener.getsockname()[1]}/token")


def no_tls_spoken(world: World) -> None:
    server = world.server()
    world.point(token_endpoint=f"https://127.0.0.1:{server.port}/token")


def certificate_expired(world: World) -> None:
    world.server(world.tls(begins=-9 * DAY, ends=-2 * DAY))


def chain_expired(world: World) -> None:
    between = issue(world.folder, "between", world.authority, ca=True, begins=-9 * DAY, ends=-2 * DAY)
    context = world.tls(signer=between, ends=90 * DAY)
    chain = world.folder / "chain.pem"
    chain.write_text((world.folder / "server.pem").read_text() + (world.folder / "between.pem").read_text())
    context.load_cert_chain(chain, world.folder / "server-key.pem")
    world.server(context)


def certificate_not_yet(world: World) -> None:
    world.server(world.tls(begins=2 * DAY, ends=9 * DAY))


def certificate_of_another(world: World) -> None:
    world.server(world.tls(host="other.example", ends=90 * DAY))


def certificate_self_signed(world: World) -> None:
    key = issue(world.folder, "itself", ca=True)
    del key
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(world.folder / "itself.pem", world.folder / "itself-key.pem")
    world.server(context)


def certificate_authority(world: World) -> None:
    world.server(world.tls(trusted=False, ends=90 * DAY))


def authority_in_latin(world: World) -> None:
    """Its name is in T.61 with Latin letters, as old authorities write."""
    signed, _ = issue(world.folder, "server", world.authority)
    in_latin = signed.public_bytes(Encoding.DER).replace(b"\x0c\x09authority", b"\x14\x09Autorit\xe9s")
    (world.folder / "server.pem").write_text(ssl.DER_cert_to_PEM_cert(in_latin))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(world.folder / "server.pem", world.folder / "server-key.pem")
    world.server(context)


def certificate_ends_soon(world: World) -> None:
    world.server(world.tls(ends=3 * DAY))


def client_certificate_wanted(world: World) -> None:
    context = world.tls(ends=90 * DAY)
    context.load_verify_locations(world.folder / "authority.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    world.server(context)


def clocks_differ(world: World) -> None:
    server = world.server()
    server.date = format_datetime(datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=10), usegmt=True)


def issuer_differs(world: World) -> None:
    server = world.gateway()
    server.pages["/.well-known/oauth-authorization-server"] = {
        "issuer": server.url + "/other",
        "token_endpoint": f"{server.url}/token",
    }


def metadata_moved(world: World) -> None:
    server = world.server()
    del world.environment["CONDUIT_OAUTH_TOKEN_ENDPOINT"]
    world.point(issuer=f"{server.url}/tenant")
    moved = (302, {"Location": "https://elsewhere.example/metadata"}, b"")
    server.pages["/.well-known/oauth-authorization-server/tenant"] = moved


def metadata_as_issuer(world: World) -> None:
    server = world.server()
    del world.environment["CONDUIT_OAUTH_TOKEN_ENDPOINT"]
    world.point(issuer=f"{server.url}/.well-known/openid-configuration")


def another_resource(world: World) -> None:
    server = world.gateway()
    server.pages["/.well-known/oauth-protected-resource/mcp"] = {
        "resource": "https://other.example/mcp",
        "authorization_servers": [server.url],
    }


def nothing_published(world: World) -> None:
    server = world.gateway()
    server.pages.clear()
    world.point(mcp_url=f"{server.url}/api")


def issuer_publishes_nothing(world: World) -> None:
    server = world.server()
    del world.environment["CONDUIT_OAUTH_TOKEN_ENDPOINT"]
    world.point(issuer=server.url)


def metadata_in_trouble(world: World) -> None:
    world.gateway(**{"/.well-known/oauth-authorization-server": (503, {}, b"")})


def several_servers(world: World) -> None:
    server = world.gateway()
    with_path = f"{server.url}/second"
    server.pages["/.well-known/oauth-protected-resource/mcp"] = {
        "resource": f"{server.url}/mcp",
        "authorization_servers": [server.url, with_path],
    }


def method_unknown(world: World) -> None:
    server = world.gateway()
    server.pages["/.well-known/oauth-authorization-server"] = {
        "issuer": server.url,
        "token_endpoint": f"{server.url}/token",
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
    }


def token_is(page: Page) -> Callable[[World], None]:
    def make(world: World) -> None:
        world.server(token=page)

    return make


def signed(page: Page, **more: Any) -> Callable[[World], None]:
    """A client that signs its assertions, at a server that answers with `page`."""

    def make(world: World) -> None:
        world.server(token=page)
        issue(world.folder, "client")
        (world.folder / "client-key.pem").chmod(0o600)
        (world.folder / "config.toml").write_text(
            '[profiles.default]\nprivate_key = { file = "client-key.pem" }\nprivate_key_id = "key-1"\n'
        )
        del world.environment["CONDUIT_OAUTH_CLIENT_SECRET"]
        world.arguments = ["--config", str(world.folder / "config.toml")]

    return make


def exchanged(page: Page) -> Callable[[World], None]:
    """A client that exchanges its caller's token."""

    def make(world: World) -> None:
        world.server(token=page)
        (world.folder / "caller").write_text("callers-token")
        (world.folder / "config.toml").write_text('[profiles.default]\nsubject_token = { file = "caller" }\n')
        world.arguments = ["--config", str(world.folder / "config.toml")]

    return make


def with_a_proof(page: Page) -> Callable[[World], None]:
    def make(world: World) -> None:
        world.server(token=page)
        world.arguments = ["--dpop"]

    return make


def proof_wanted_by_the_resource(world: World) -> None:
    server = world.gateway()
    server.pages["/.well-known/oauth-protected-resource/mcp"] = {
        "resource": f"{server.url}/mcp",
        "authorization_servers": [server.url],
        "dpop_bound_access_tokens_required": True,
    }


def audience_differs(world: World) -> None:
    payload = base64.urlsafe_b64encode(b'{"aud":"https://other.example"}').rstrip(b"=").decode()
    server = world.gateway()
    server.pages["/token"] = {**TOKEN, "access_token": f"eyJhbGciOiJub25lIn0.{payload}."}


def resource_says_page(status: int, title: str) -> Callable[[World], None]:
    page = f"<html><head><title>{title}</title></head></html>".encode()

    def make(world: World) -> None:
        world.gateway(**{"/mcp": (status, {"Content-Type": "text/html"}, page)})

    return make


def resource_says_in_its_body(world: World) -> None:
    resource_says(403)(world)
    body = b'{"error": "insufficient_scope", "scope": "admin"}'
    server = world.servers[-1]
    server.pages["/mcp"] = 403, {}, body


def algorithm_unknown(world: World) -> None:
    signed({"access_token": "good-token", "token_type": "Bearer"})(world)
    server = world.servers[-1]
    del world.environment["CONDUIT_OAUTH_TOKEN_ENDPOINT"]
    world.point(issuer=server.url)
    server.pages["/.well-known/oauth-authorization-server"] = {
        "issuer": server.url,
        "token_endpoint": f"{server.url}/token",
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["RS256"],
    }


def scope_narrowed(world: World) -> None:
    world.server(token={**TOKEN, "scope": "read"})
    world.point(scope="read write")


def resource_says(status: int, **headers: str) -> Callable[[World], None]:
    def make(world: World) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        server = world.gateway()
        # Asked without a token, it says that it wants one; the challenge then leads nowhere else.
        server.pages["/mcp"] = status, named, b""
        world.point(scope="read")

    return make


CASES: dict[str, Callable[[World], None]] = {
    "setting-client_secret": no_secret,
    "setting-token_endpoint": no_place,
    "credential-unreadable": secret_file_away,
    "credential-unreadable, in a header": header_from("nowhere", 0o600),
    "credential-unreadable, an encrypted key": key_encrypted,
    "credential-readable-by-others": secret_file_open,
    "credential-readable-by-others, in a header": header_from("key", 0o644),
    "secret-with-blanks": secret_with_blanks,
    "name-unknown": name_unknown,
    "refused": nobody_listens,
    "no-answer": cut_off,
    "tls-not-spoken": no_tls_spoken,
    "certificate-expired": certificate_expired,
    "chain-expired": chain_expired,
    "certificate-not-yet": certificate_not_yet,
    "certificate-name": certificate_of_another,
    "certificate-self-signed": certificate_self_signed,
    "certificate-authority": certificate_authority,
    "certificate-authority, but unreadable": authority_in_latin,
    "certificate-ends-soon": certificate_ends_soon,
    "client-certificate-wanted": client_certificate_wanted,
    "clock-skew": clocks_differ,
    "issuer-mismatch": issuer_differs,
    "metadata-not-believed": another_resource,
    "nothing-published": nothing_published,
    "no-metadata": issuer_publishes_nothing,
    "metadata-unavailable": metadata_in_trouble,
    "no-metadata, but a redirect": metadata_moved,
    "setting-issuer": metadata_as_issuer,
    "several-servers": several_servers,
    "setting-token_endpoint_auth_method": method_unknown,
    "client-refused": token_is(refusal("invalid_client", 401)),
    "grant-not-allowed": token_is(refusal("unauthorized_client")),
    "grant-unknown": token_is(refusal("unsupported_grant_type")),
    "scope-refused": token_is(refusal("invalid_scope")),
    "resource-unknown": token_is(refusal("invalid_target")),
    "too-many-requests": token_is((429, {"Retry-After": "7"}, b"")),
    "server-in-trouble": token_is((503, {}, b"")),
    "redirected": token_is((302, {"Location": "/elsewhere"}, b"")),
    "no-token-endpoint": token_is((404, {}, b"")),
    "answer-not-a-token": token_is((200, {"Content-Type": "text/html"}, b"<html>Please log in</html>")),
    "refused-without-reason": token_is((403, {}, b"")),
    "assertion-refused": signed(refusal("invalid_client", 401)),
    "subject-token-refused": exchanged(refusal("invalid_request")),
    "proof-wanted": token_is(refusal("invalid_dpop_proof")),
    "proof-refused": with_a_proof(refusal("invalid_dpop_proof")),
    "setting-dpop": proof_wanted_by_the_resource,
    "setting-signing_algorithm": algorithm_unknown,
    "error-unknown": token_is(refusal("BAD_REQUEST")),
    "refused-without-reason, as a problem": token_is(
        (403, {"Content-Type": "application/problem+json"}, b'{"title": "Not registered", "detail": "See the portal"}')
    ),
    "answer-not-a-token, but of type N_A": exchanged({**TOKEN, "token_type": "N_A"}),
    "answer-not-a-token, but a bearer token": with_a_proof(TOKEN),
    "audience-differs": audience_differs,
    "scope-narrowed": scope_narrowed,
    "token-short-lived": token_is({**TOKEN, "expires_in": 20}),
    "token-refused": resource_says(401, WWW_Authenticate='Bearer error="invalid_token"'),
    "scope-too-narrow": resource_says(403, WWW_Authenticate='Bearer error="insufficient_scope", scope="admin"'),
    "scope-too-narrow, by its body": resource_says_in_its_body,
    "forbidden": resource_says(403),
    "forbidden, by a filter": resource_says_page(403, "Blocked by policy"),
    "not-mcp": resource_says_page(200, "Log in"),
    "client-certificate-wanted, by the resource": resource_says_page(400, "400 No required SSL certificate was sent"),
    "resource-moved": resource_says(307, Location="https://elsewhere.example/mcp"),
    "resource-in-trouble": resource_says(502),
    "resource-not-there": resource_says(404),
}
# What works all the same, and is worth a word.
WARNINGS = {
    "audience-differs",
    "credential-readable-by-others",
    "credential-readable-by-others, in a header",
    "secret-with-blanks",
    "certificate-ends-soon",
    "clock-skew",
    "scope-narrowed",
    "token-short-lived",
}


# What has to be told beside the cause.
WORDS: dict[str, tuple[str, ...]] = {
    "credential-unreadable, in a header": ("token_request_headers", "nowhere"),
    "credential-unreadable, an encrypted key": ("private_key", "encrypted"),
    "client-refused": ("client_secret_basic, then by client_secret_post",),
    "refused-without-reason": ("client_secret_basic, then by client_secret_post", "no scope"),
    "refused-without-reason, as a problem": ("Not registered: See the portal",),
    "assertion-refused": ("alg ES256, kid key-1, aud http://127.0.0.1",),
    "grant-not-allowed": ("client_credentials",),
    "grant-unknown": ("client_credentials",),
    "issuer-mismatch": ("/other", "If http"),
    "setting-issuer": ("is the URL of a metadata document",),
    "no-metadata, but a redirect": ("302, redirects to https://elsewhere.example/metadata", "(404)"),
    "redirected": ("/elsewhere",),
    "setting-token_endpoint_auth_method": ("supports only private_key_jwt", "or set token_endpoint_auth_method"),
    "setting-signing_algorithm": ("the server lists RS256", "or set signing_algorithm"),
    "answer-not-a-token, but of type N_A": ("no access token", "requested_token_type"),
    "answer-not-a-token, but a bearer token": ("does not bind tokens for this client",),
    "too-many-requests": ("Wait 7 s",),
    "audience-differs": ("https://other.example", "/mcp was asked for"),
    "forbidden, by a filter": ("Blocked by policy", "a filter in front of the resource"),
    "not-mcp": ("text/html", "a login page"),
    "client-certificate-wanted, by the resource": ("No required SSL certificate", "client_certificate"),
    "resource-moved": ("https://elsewhere.example/mcp",),
    "scope-too-narrow": ('scope = "read admin"',),
    "scope-too-narrow, by its body": ('scope = "read admin"', "insufficient_scope"),
}


@pytest.mark.parametrize("cause", CASES)
def test_a_broken_set_up_has_its_own_diagnosis(cause: str, world: World) -> None:
    CASES[cause](world)
    done = CliRunner().invoke(app, ["doctor", "--json", *world.arguments], env=world.environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    told = json.loads(done.stdout)
    troubles = [each for each in told if each["verdict"] != "good"]
    assert [each["cause"] for each in troubles] == [cause.partition(",")[0]], told
    assert troubles[0]["advice"]
    for words in WORDS.get(cause, ()):
        assert words in troubles[0]["said"] + " " + troubles[0]["advice"]
    assert done.exit_code == (0 if cause in WARNINGS else 1)
    assert SECRET not in done.output
    assert "good-token" not in done.output


def test_a_set_up_that_works_is_told_step_by_step(run: Run, authorization_server: AuthorizationServer) -> None:
    done = run("doctor", "--scope", "mcp:read")
    assert done.returncode == 0, done.stdout
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        "✓ settings",
        "✓ name resolution",
        "✓ connection",
        "✓ clock",
        "✓ discovery",
        "✓ client authentication",
        "✓ scopes",
        "✓ token",
        "✓ resource",
    ]
    assert "It works." in done.stderr
    assert authorization_server.client_secret not in done.stdout + done.stderr


def test_a_secret_that_basic_would_encode_is_explained(run: Run, authorization_server: AuthorizationServer) -> None:
    authorization_server.add_client("demo", "a:b c")
    done = run("doctor", CONDUIT_OAUTH_CLIENT_SECRET="a:b c")
    assert done.returncode == 0, done.stdout
    assert "gave a token for client_secret_post" in done.stdout
    assert "client_secret_basic encodes characters of this identifier or secret" in done.stdout


def test_a_method_that_was_refused_first_is_told(run: Run, authorization_server: AuthorizationServer) -> None:
    authorization_server.fail(401, body='{"error": "invalid_client"}')
    done = run("doctor")
    assert done.returncode == 0, done.stdout
    assert "gave a token for client_secret_post, after it refused client_secret_basic" in done.stdout
    assert 'Set token_endpoint_auth_method = "client_secret_post"' in done.stdout


def test_the_token_goes_where_an_adapter_would_send_it_only(run: Run, other_origin: ResourceServer) -> None:
    done = run("doctor", f"{other_origin.url}/echo")
    assert done.returncode == 1
    assert "✗ resource: request URL is at" in done.stdout
    # Asked for its time, without the token.
    assert set(other_origin.tokens) <= {None}


def test_a_person_is_told_what_to_do(run: Run) -> None:
    done: subprocess.CompletedProcess[str] = run("doctor", CONDUIT_OAUTH_CLIENT_SECRET="wrong")
    assert done.returncode == 1
    assert "✗ client authentication: " in done.stdout
    assert "invalid_client" in done.stdout
    assert "→ The server does not know this client" in done.stdout
    assert "It does not work yet." in done.stderr


def test_a_resource_that_wants_a_nonce_in_the_proof_has_it(world: World) -> None:
    def api(headers: Message) -> Page:
        proof = read_jwt(headers["DPoP"])
        if proof is not None and proof.claims.get("nonce") == "n-1":
            return {}
        return 401, {"DPoP-Nonce": "n-1", "WWW-Authenticate": 'DPoP error="use_dpop_nonce"'}, b""

    server = world.server(token={**TOKEN, "token_type": "DPoP"})
    server.pages["/api"] = api
    done = CliRunner().invoke(app, ["doctor", "--dpop", f"{server.url}/api"], env=world.environment)
    assert (done.exit_code, "takes the token (200)" in done.output) == (0, True), done.output


ECHOES: dict[str, Callable[[str], Page]] = {
    "in a page's title": lambda token: (500, {}, f"<title>Error: {token}</title>".encode()),
    "in a description": lambda token: (401, {"WWW-Authenticate": f'Bearer error_description="not {token}"'}, b""),
    "in a scope": lambda token: (
        403,
        {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{token}"'},
        b"",
    ),
    "in the kind of an answer": lambda token: (200, {"Content-Type": f"text/{token}"}, b"{}"),
    "in a path": lambda token: (302, {"Location": f"/login/{token}"}, b""),
    "in another user's path": lambda token: (302, {"Location": f"/login/{token[::-1]}-and-more-Of-It"}, b""),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_a_token_that_a_resource_sends_back_is_not_shown(echo: Callable[[str], Page], world: World) -> None:
    token = "Mixed-Case!7"
    server = world.gateway()
    server.pages["/token"] = {**TOKEN, "access_token": token}
    server.pages["/mcp"] = lambda headers: echo((headers["Authorization"] or "").removeprefix("Bearer "))
    done = CliRunner().invoke(app, ["doctor"], env=world.environment)
    assert "✗ resource" in done.output, done.output
    for shown in (token, token[::-1]):
        assert shown not in done.output


def test_a_dead_address_beside_a_good_one_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conduit_oauth.cli.checks.TIMEOUT", 0.5)
    port = int(world.server().url.rpartition(":")[2])
    with silent_address(port, "127.0.0.2"):
        resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
        found = list(
            check_way(f"http://as.example:{port}/", Transport(), seconds=5.0, signs=False, client_context=None)
        )
    told = {each.cause: each for each in found}
    assert told["dead-address"].verdict is Verdict.WARNING
    assert "127.0.0.2" in told["dead-address"].said
    assert any(each.step == "connection" and each.verdict is Verdict.GOOD for each in found)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_narrow_encoding_still_prints_what_is_wrong(encoding: str, run: Run) -> None:
    done = run("doctor", PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert "+ token: " in done.stdout
    done = run("doctor", PYTHONIOENCODING=encoding, CONDUIT_OAUTH_CLIENT_SECRET="other")
    assert "\nx " in done.stdout
    assert "  -> " in done.stdout


def test_a_proxy_that_drips_its_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conduit_oauth.cli.checks.TIMEOUT", 0.3)
    # One connection only looks whether anybody listens.
    with raw_server(b"HTTP/1.1 200 OK\r\nX-A: ", *[b"x"] * 1000, apart=0.02, knocks=1) as proxy:
        monkeypatch.setenv("https_proxy", proxy.removesuffix("/token"))
        found = list(check_way("https://as.example/token", Transport(), seconds=5.0, signs=False, client_context=None))
    assert [each.cause for each in found] == ["proxy-refuses"]


def test_a_server_that_drips_its_handshake_is_left() -> None:
    # A server's hello of 16 KiB that never ends.
    with raw_server(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", *[b"x"] * 1000, apart=0.02, knocks=1) as url:
        ways = check_way(url.replace("http:", "https:"), Transport(), seconds=0.3, signs=False, client_context=None)
        found = next(each for each in ways if each.step == "TLS")
    assert (found.verdict, found.cause) == (Verdict.BAD, "tls-failed")
    assert found.said.endswith(": no handshake within 0.3 s")


def test_a_certificate_that_python_refuses_since_3_13_is_named(world: World) -> None:
    issue(world.folder, "server", world.authority, names_issuer=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(world.folder / "server.pem", world.folder / "server-key.pem")
    strict = ssl.create_default_context(cafile=world.folder / "authority.pem")
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    url = world.server(context).url.replace("http:", "https:")
    found = next(
        each
        for each in check_way(url, Transport(), seconds=5.0, signs=False, client_context=strict)
        if each.step == "TLS"
    )
    assert found.cause == "certificate-malformed"
    assert "Missing Authority Key Identifier" in found.said
    assert "RFC 5280" in found.advice


def test_what_a_certificate_says_is_cut(world: World) -> None:
    url = world.server(world.tls(host=".".join(["a" * 60] * 4), ends=90 * DAY)).url.replace("http:", "https:")
    trusting = ssl.create_default_context(cafile=world.folder / "authority.pem")
    ways = check_way(url, Transport(), seconds=5.0, signs=False, client_context=trusting)
    found = next(each for each in ways if each.step == "TLS")
    assert found.cause == "certificate-name"
    assert len(found.said) < 280
