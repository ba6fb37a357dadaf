"""What an import costs: no HTTP client, no JOSE library, no pydantic, no event loop."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import conduit_oauth
from conduit_oauth.testing import AuthorizationServer

HEAVY = (
    "httpx2",
    "httpx",
    "requests",
    "aiohttp",
    "joserfc",
    "cryptography",
    "pydantic",
    "anyio",
    "asyncio",
    "ssl",
    "rich",
)


@pytest.mark.parametrize(
    "code",
    [
        "import conduit_oauth",
        "from conduit_oauth import TokenProvider",
        "from conduit_oauth import TokenProvider; TokenProvider('a', 'b', mcp_url='https://g.example/mcp').state()",
    ],
)
def test_heavy_libraries_come_with_the_first_use(code: str) -> None:
    code = f"import sys; {code}; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_first_token_needs_no_library_for_jose_or_http(authorization_server: AuthorizationServer) -> None:
    endpoint = authorization_server.token_endpoint()
    code = f"from conduit_oauth import TokenProvider; TokenProvider('demo', 'demo-secret', token_endpoint={endpoint!r})"
    names = "joserfc", "pydantic", "httpx2", "httpcore2"
    code = f"import sys; {code}.get_token(); print([name for name in {names} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_program_that_imports_the_provider_waits_for_no_module_of_its_work() -> None:
    code = """
import sys
before = set(sys.modules)
from conduit_oauth import TokenProvider
print(sorted(set(sys.modules) - before))
"""
    said = subprocess.check_output([sys.executable, "-I", "-c", code], text=True)
    assert "conduit_oauth.provider" in said
    assert [name for name in ("dataclasses", "typing", "re", "logging", "pathlib", "json") if f"'{name}'" in said] == []


def test_every_public_name_is_there_and_listed() -> None:
    for name in conduit_oauth.__all__:
        assert getattr(conduit_oauth, name) is not None
    assert set(dir(conduit_oauth)) == set(conduit_oauth.__all__)
    with pytest.raises(AttributeError):
        conduit_oauth.nothing  # noqa: B018


def test_every_public_object_is_documented() -> None:
    named = [getattr(conduit_oauth, name) for name in conduit_oauth.__all__]
    # A type alias has no docstring.
    public = [thing for thing in named if inspect.isclass(thing) or inspect.isfunction(thing)]
    assert len(public) > 12
    members = [value for thing in public for name, value in vars(thing).items() if callable(value) and name[0] != "_"]
    assert [thing for thing in [*public, *members] if not thing.__doc__] == []


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parent.parent / "bench").glob("*.py")), ids=lambda file: file.stem
)
def test_a_benchmark_imports_what_there_is(file: Path) -> None:
    """They run seldom, and in an environment of their own."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "conduit_oauth":
            for each in node.names:
                if not hasattr(importlib.import_module(node.module or ""), each.name):
                    importlib.import_module(f"{node.module}.{each.name}")
