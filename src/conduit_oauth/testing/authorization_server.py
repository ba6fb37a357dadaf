"""A handle on a development authorization server that runs as a child process."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import httpx2


class AuthorizationServer:
    """Starts `conduit_oauth.devserver` on a free loopback port; needs the extra `dev`.

    `client_id` and `client_secret` are the credential it knows; `url` is its base URL. Every gateway path
    `/servers/{id}` exists, under any id. Faults and waits act on all of its token endpoints. Tokens live for `lifetime`
    seconds, also after a restart.
    """

    client_id = "demo"
    client_secret = "demo-secret"  # noqa: S105 - a development server's, known to everybody

    def __init__(self, *, lifetime: float = 3600.0) -> None:
        self.url = ""
        self._lifetime = lifetime
        self._process: subprocess.Popen[str] | None = None
        self._admin: httpx2.Client | None = None

    def start(self) -> Self:
        """Start the process, on the port it had before if it had one, and wait until it answers.

        Raises `RuntimeError` where it does not come up; its own complaint is on stderr.
        """
        import httpx2

        port = httpx2.URL(self.url).port if self.url else 0
        settings: dict[str, Any] = {"port": port, "client_id": self.client_id, "client_secret": self.client_secret}
        settings["order"] = {"lifetime": self._lifetime}
        command = [sys.executable, "-m", "conduit_oauth.devserver", json.dumps(settings)]
        with _uninterrupted():
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
        try:
            assert self._process.stdout is not None  # noqa: S101
            self.url = self._process.stdout.readline().strip()
        except BaseException:
            self.stop()
            raise
        if not self.url:
            self.stop()
            raise RuntimeError("the development authorization server did not start. Is the extra `dev` installed?")
        self._admin = httpx2.Client(base_url=self.url, trust_env=False, timeout=30)
        return self

    def stop(self) -> None:
        """Stop the process with SIGTERM and wait for its end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process, as a crash would; `start` brings it back on the same port, with new keys."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        if self._process is not None:
            with self._process as process:
                process.send_signal(number)
            self._process = None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None  # noqa: S101
        return self._process.pid

    def issuer(self, gateway_id: str = "demo") -> str:
        """The issuer of a gateway's tokens."""
        return f"{self.url}/servers/{gateway_id}"

    def token_endpoint(self, gateway_id: str = "demo") -> str:
        """A gateway's token endpoint."""
        return f"{self.issuer(gateway_id)}/oauth/token"

    def mcp_url(self, gateway_id: str = "demo") -> str:
        """A gateway's protected MCP endpoint."""
        return f"{self.issuer(gateway_id)}/mcp"

    @property
    def token_requests(self) -> list[dict[str, Any]]:
        """The token requests since the last reset: `gateway`, `method`, `client_id`, and the `form` less the secret."""
        return self._ask("GET")["token_requests"]

    def wait_for_token_requests(self, count: int) -> None:
        """Wait until `count` token requests have come in, answered or not."""
        self._ask("GET", params={"token_requests": str(count)})

    def set(self, *, latency: float | None = None, lifetime: float | None = None, metadata: bool | None = None) -> None:
        """Set how long a token request takes and its token lives, in seconds, and whether metadata is published."""
        given = {"latency": latency, "lifetime": lifetime, "metadata": metadata}
        self._order({name: value for name, value in given.items() if value is not None})

    def add_client(self, client_id: str, client_secret: str) -> None:
        """Know one more client."""
        self._order({"clients": {client_id: client_secret}})

    def add_resource(self, url: str, *scopes: str) -> None:
        """Grant tokens for one more resource server, with these scopes; without any, with those of the gateway."""
        self._order({"resources": {url: scopes}})

    def fail(self, status: int, *, count: int = 1, retry_after: float | None = None, body: str = "") -> None:
        """Answer the next `count` token requests with `status`."""
        self._order({"faults": [{"status": status, "count": count, "retry_after": retry_after, "body": body}]})

    def malform(self, kind: str, *, count: int = 1) -> None:
        """Answer the next `count` token requests with 200 and a malformed body (see `devserver.control.MALFORMED`)."""
        self._order({"faults": [{"malformed": kind, "count": count}]})

    def drop(self, *, count: int = 1) -> None:
        """Drop the connection in the middle of the next `count` answers."""
        self._order({"faults": [{"drop": True, "count": count}]})

    def issue_revoked(self, *, count: int = 1) -> None:
        """Revoke the tokens of the next `count` token requests as they are issued."""
        self._order({"faults": [{"revoked": True, "count": count}]})

    def recover(self) -> None:
        """Call off the faults that are still due."""
        self._order({"faults": []})

    def hold(self) -> None:
        """Answer no token request until `release`."""
        self._order({"hold": True})

    def release(self) -> None:
        """Answer the token requests that were held."""
        self._order({"hold": False})

    def revoke(self, token: str = "all") -> None:  # noqa: S107 - a keyword, not a password
        """Let the MCP servers refuse `token` from now on, or every token issued so far."""
        self._order({"revoke": token})

    def reset(self) -> None:
        """Back to the state after the start: no faults, no log, no revocations, one client."""
        self._ask("DELETE")

    def _order(self, order: dict[str, Any]) -> None:
        self._ask("POST", content=json.dumps(order))

    def _ask(self, method: str, **request: Any) -> dict[str, Any]:
        assert self._admin is not None, "the server is not running"  # noqa: S101
        response = self._admin.request(method, "/admin", **request)
        response.raise_for_status()
        return response.json()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


@contextlib.contextmanager
def _uninterrupted() -> Generator[None]:
    """Have a process that begins here see no Ctrl-C: that is sent to all of a terminal, and this one has a handle."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
