"""Broken set-ups, made for real, and what `doctor` says of each."""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from conduit_oauth.cli.app import app
from conduit_oauth.testing import AuthorizationServer
from tests.certificates import Authority, issue
from tests.cli.broken import BrokenServer, Page
from tests.cli.conftest import Run

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

    def point(self, **settings: str) -> None:
        for name, value in settings.items():
            self.environment[f"CONDUIT_OAUTH_{name.upper()}"] = value

    def server(self, context: ssl.SSLContext | None = None, **pages: Page) -> BrokenServer:
        """One with a token endpoint that works, unless `token` says otherwise."""
        server = self.stack.enter_context(BrokenServer(context))
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
        "issuer": server.url + "/",
        "token_endpoint": f"{server.url}/token",
    }


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
    "credential-readable-by-others": secret_file_open,
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
    "certificate-ends-soon": certificate_ends_soon,
    "client-certificate-wanted": client_certificate_wanted,
    "clock-skew": clocks_differ,
    "issuer-mismatch": issuer_differs,
    "metadata-not-believed": another_resource,
    "nothing-published": nothing_published,
    "no-metadata": issuer_publishes_nothing,
    "metadata-unavailable": metadata_in_trouble,
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
    "scope-narrowed": scope_narrowed,
    "token-short-lived": token_is({**TOKEN, "expires_in": 20}),
    "token-refused": resource_says(401, WWW_Authenticate='Bearer error="invalid_token"'),
    "scope-too-narrow": resource_says(403, WWW_Authenticate='Bearer error="insufficient_scope", scope="admin"'),
    "forbidden": resource_says(403),
    "resource-moved": resource_says(307, Location="https://elsewhere.example/mcp"),
    "resource-in-trouble": resource_says(502),
    "resource-not-there": resource_says(404),
}
# What works all the same, and is worth a word.
WARNINGS = {
    "credential-readable-by-others",
    "secret-with-blanks",
    "certificate-ends-soon",
    "clock-skew",
    "scope-narrowed",
    "token-short-lived",
}


@pytest.mark.parametrize("cause", CASES)
def test_a_broken_set_up_has_its_own_diagnosis(cause: str, world: World) -> None:
    CASES[cause](world)
    done = CliRunner().invoke(app, ["doctor", "--json", *world.arguments], env=world.environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    told = json.loads(done.stdout)
    troubles = [each for each in told if each["verdict"] != "good"]
    assert [each["cause"] for each in troubles] == [cause], told
    assert troubles[0]["advice"]
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


def test_a_person_is_told_what_to_do(run: Run) -> None:
    done: subprocess.CompletedProcess[str] = run("doctor", CONDUIT_OAUTH_CLIENT_SECRET="wrong")
    assert done.returncode == 1
    assert "✗ client authentication: " in done.stdout
    assert "invalid_client" in done.stdout
    assert "→ The server does not know this client" in done.stdout
    assert "It does not work yet." in done.stderr
