"""Writes docs/servers.md from the table that the tests assert: python -m tests.interop.servers.page."""

from __future__ import annotations

from pathlib import Path

from tests.interop.servers.attempts import CAPABILITIES
from tests.interop.servers.recipes import RECIPES
from tests.interop.servers.running import SECRET, STARTERS
from tests.interop.servers.table import FACTS

PAGE = Path(__file__).parents[3] / "docs" / "servers.md"
# Where each server's token endpoint is below its origin, as the test's deployment has it.
ENDPOINTS = {
    "glewlwyd": "/api/oidc/token",
    "glewlwyd, oauth2": "/api/glwd/token",
    "LemonLDAP::NG": "/oauth2/token",
    "django-oauth-toolkit": "/o/token/",
    "Authlib": "/oauth/token",
    "Authlib, defaults": "/oauth/token",
    "canaille": "/oauth/token",
    "better-auth": "/api/auth/oauth2/token",
    "@node-oauth/oauth2-server": "/oauth/token",
    "oauth2-mock-server": "/token",
    "oidc-provider": "/token",
}

INTRODUCTION = """# Authorization servers

The test suite starts nine authorization servers as real processes and tries each capability at each of them. This page
is written from the table that these tests assert. A server is there twice where it has two ways to be set up.

The plainest call is `TokenProvider(client_id, client_secret, token_endpoint=…)`, with a `scope` where the server
requires one. It works at every server in the table.

A dash means that the server does not offer the capability. Below the table, each server has a list of what it does
not offer, with the words that a user gets.
"""

RECIPES_INTRODUCTION = """## Recipes for servers that cannot run here

A test runs the code of each recipe and compares the request with the one that the server's documentation asks for. No
test has seen these servers themselves.
"""


def _program(name: str) -> str:
    settings = {"token_endpoint": f"https://login.example{ENDPOINTS[name]}", **FACTS[name].plain}
    lines = ['"billing"', f'"{SECRET}"', *(f'{setting}="{value}"' for setting, value in settings.items())]
    body = "".join(f"    {line},\n" for line in lines)
    return f"```python\nfrom conduit_oauth import TokenProvider\n\nprovider = TokenProvider(\n{body})\n```\n"


def _matrix() -> str:
    names = list(STARTERS)
    rows = ["| | " + " | ".join(names) + " |", "| --- |" + " :-: |" * len(names)]
    for capability in CAPABILITIES:
        cells = ("-" if capability in FACTS[name].answers else "✓" for name in names)
        rows.append(f"| {capability} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _server(name: str) -> str:
    facts = FACTS[name]
    parts = [f"### {name} {facts.version}\n", _program(name)]
    parts.append("".join(f"- {note}\n" for note in facts.notes))
    if facts.answers:
        answers = "".join(f"| {capability} | {answer} |\n" for capability, answer in facts.answers.items())
        parts.append(f"| not offered | what the message says |\n| --- | --- |\n{answers}")
    return "\n".join(parts)


def page() -> str:
    """The page, whole."""
    servers = "\n".join(_server(name) for name in STARTERS)
    recipes = "\n".join(
        f"### {name}\n\n```python\n{recipe.code}```\n\n{recipe.quirk} "
        f"Source: [{recipe.source.split('/')[2]}]({recipe.source}).\n"
        for name, recipe in RECIPES.items()
    )
    return "\n".join([INTRODUCTION, _matrix(), "## Settings by server\n", servers, RECIPES_INTRODUCTION, recipes])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
