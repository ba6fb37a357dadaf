from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.bridge.conftest import ROOT, bridge_environment, start, start_bridge
from tests.interop.conformance import NODE, PACKAGE
from tests.ports import free_port

__all__ = ["bridge_environment", "start", "start_bridge"]


Serve = Callable[..., str]
HERE = Path(__file__).parent
# The Python of an environment with the first line of the SDK.
FIRST_LINE = ROOT / ".venv" / "langchain" / "bin" / "python"
EVERYTHING = PACKAGE.parent / "server-everything" / "dist" / "index.js"


@contextmanager
def running(*command: Path | str) -> Iterator[str]:
    """The URL of the server that a command starts, which prints it."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


@contextmanager
def running_everything(transport: str, path: str) -> Iterator[str]:
    """The URL of the reference server of the TypeScript SDK, which wants no token."""
    port = free_port()
    with subprocess.Popen(
        [NODE, EVERYTHING, transport], env={"PORT": str(port)}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = [process.stderr.readline()]
        while "on port" not in said[-1]:
            assert said[-1], f"it ended with {process.wait()}: {said}"
            said.append(process.stderr.readline())
        yield f"http://127.0.0.1:{port}/{path}"
        process.kill()


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def serve(kind: str, issuer: str) -> str:
            """The URL of a server for tokens of `issuer`, or `-` for all who come."""
            python: list[Path | str] = [sys.executable, "-W", "ignore"]
            if kind == "everything":
                return stack.enter_context(running_everything("streamableHttp", "mcp"))
            if kind == "old transport":
                return stack.enter_context(running_everything("sse", "sse"))
            if kind == "first line":
                return stack.enter_context(running(FIRST_LINE, "-W", "ignore", HERE / "first_line_server.py"))
            if kind == "fastmcp":
                return stack.enter_context(running(*python, HERE.parent / "fastmcp_server.py", issuer))
            options = [issuer, *filter(None, [kind])]
            return stack.enter_context(running(*python, "-m", "tests.interop.both_doors.whole_server", *options))

        yield serve
