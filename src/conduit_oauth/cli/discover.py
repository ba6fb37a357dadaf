"""The command that shows where a token endpoint is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from ..client.locator import drive
from ..client.transport import Transport
from ..identity.tls import tls_files
from ..masking import mask
from ..protocol.discovery import Discovery, discover_any
from ..protocol.locations import Finding, Search
from .options import CaFile
from .output import busy, out, plain


def discover(
    url: Annotated[str, typer.Argument(help="URL of an issuer, an MCP endpoint or another protected resource.")],
    ca_file: CaFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where the token endpoint of URL is, and every location that was asked on the way.

    \b
    conduit-oauth discover https://gateway.example/servers/42/mcp
    conduit-oauth discover https://login.example/realms/machines
    """
    transport = Transport(tls=tls_files(None, ca_file, None))
    search = Search()
    found = None
    try:
        with busy("Reading metadata"):
            found = drive(discover_any(url, search), transport, 10.0)
    finally:
        transport.close()
        if as_json:
            steps = [dataclasses.asdict(finding) for finding in search.findings]
            plain(json.dumps({"url": url, "steps": steps, "found": found and dataclasses.asdict(found)}, indent=2))
        elif search.findings:
            out.print(_tree(url, search.findings, found))


def _tree(url: str, findings: list[Finding], found: Discovery | None) -> Tree:
    """Every location that was asked, in order, and what follows from them; `found` is None where they lead nowhere."""
    tree = Tree(Text(url, style="bold"))
    for finding in findings:
        colour = "green" if finding.outcome == "found" else "yellow"
        tree.add(Text.assemble(f"{finding.step}\n{finding.url}\n", (finding.outcome, colour)))
    if found is not None:
        node = tree.add(Text.assemble(("token endpoint", "bold"), f" {found.token_endpoint}"))
        server = found.server
        published: Mapping[str, str] = server.endpoints if server else {}
        for name, value in (
            ("issuer", found.issuer),
            ("client authentication", ", ".join(server.auth_methods["token_endpoint"]) if server else ""),
            ("scope", found.scope or " ".join(server.scopes if server else ())),
            ("introspection endpoint", published.get("introspection_endpoint")),
            ("revocation endpoint", published.get("revocation_endpoint")),
            ("JWKS", published.get("jwks_uri")),
        ):
            node.add(f"{name}: {mask(value or 'not published', ())}")
    return tree
