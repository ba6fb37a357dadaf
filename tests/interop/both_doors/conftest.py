from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.bridge.conftest import ROOT, bridge_environment, start, start_bridge
from tests.interop.conformance import NODE, PACKAGE
from tests.ports import free_port

__all__ = ["bridge_environment", "start", "start_bridge"]


Serve = Callable[..., str]
EVERYTHING = PACKAGE.parent / "server-everything" / "dist" / "index.js"


@contextmanager
def running(issuer: str, *options: str) -> Iterator[str]:
    """The URL of the whole server, for tokens of `issuer`, or `-` for all who come."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.interop.both_doors.whole_server", issuer, *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


@contextmanager
def running_everything() -> Iterator[str]:
    """The URL of the reference server of the TypeScript SDK, which wants no token."""
    port = free_port()
    with subprocess.Popen(
        [NODE, EVERYTHING, "streamableHttp"], env={"PORT": str(port)}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = [process.stderr.readline()]
        while "listening" not in said[-1]:
            assert said[-1], f"it ended with {process.wait()}: {said}"
            said.append(process.stderr.readline())
        yield f"http://127.0.0.1:{port}/mcp"
        process.kill()


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def serve(kind: str, issuer: str) -> str:
            if kind == "everything":
                return stack.enter_context(running_everything())
            return stack.enter_context(running(issuer, *filter(None, [kind])))

        yield serve
