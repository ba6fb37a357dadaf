"""Programs of their own: what forks, ends or is patched here must not be the test's own process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from conduit_oauth.testing import AuthorizationServer

Run = Callable[..., "Done"]


class Done:
    """How a program ended."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.lines = process.stdout.splitlines()
        self.complaints = process.stderr
        self.code = process.returncode


@pytest.fixture
def run(authorization_server: AuthorizationServer, tmp_path: Path) -> Run:
    """Run a program that has `make(**settings)`, a provider of the development server's client, and `STORE`."""

    def run_program(program: str, *, before: str = "", seconds: float = 60, **environment: str) -> Done:
        head = f"""\
            {before}
            import logging, os, signal, sys, threading, time
            from conduit_oauth import TokenProvider, TransportError, ProviderClosedError
            logging.basicConfig(format="%(message)s")
            SERVER = {authorization_server.url!r}
            STORE = "sqlite:///{tmp_path}/tokens.sqlite3"
            def make(**settings):
                given = {{"token_endpoint": {authorization_server.token_endpoint()!r}, **settings}}
                return TokenProvider("demo", "demo-secret", **given)
            """
        return Done(
            subprocess.run(
                [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(program)],
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
                env={**os.environ, **environment},
            )
        )

    return run_program


@pytest.fixture
def store_file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/tokens.sqlite3"
