"""`make soak`: the agent with thousands of providers of short tokens, and a reader of every file. Prints Markdown.

python bench/agent.py [PROVIDERS [SECONDS]]
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from conduit_oauth.testing import AuthorizationServer

LIFETIME = 60.0
# Of a token that is whole: ES256's, in base64url.
SIGNATURE = 86
TICK = os.sysconf("SC_CLK_TCK")


def usage(pid: int) -> tuple[float, float]:
    """Seconds of processor time so far, and MiB of memory now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return (int(fields[11]) + int(fields[12])) / TICK, resident / 2**20


def expiry(token: str) -> float:
    """When the token in a file expires; raises for half a token."""
    header, claims, signature = token.split(".")
    assert len(signature) == SIGNATURE, len(signature)
    json.loads(base64.urlsafe_b64decode(header + "=="))
    return json.loads(base64.urlsafe_b64decode(claims + "=="))["ends"]


def main(providers: int, seconds: float) -> None:
    with AuthorizationServer(lifetime=LIFETIME) as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "secret").write_text(server.client_secret)
        tables = "".join(f'[providers.p{number}]\nscope = "mcp:read"\n' for number in range(providers))
        (folder / "agent.toml").write_text(
            f'[defaults]\nclient_id = "{server.client_id}"\nclient_secret = {{ file = "secret" }}\n'
            f'token_endpoint = "{server.token_endpoint()}"\nstore = "memory:"\n{tables}'
            '[[agent.outputs]]\nprovider = "*"\nfile = "tokens/{provider}"\n'
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(f"{name}/notify")
            began = time.monotonic()
            command = [Path(sys.executable).with_name("conduit-oauth"), "agent", "--config", folder / "agent.toml"]
            agent = subprocess.Popen(command, env={**os.environ, "NOTIFY_SOCKET": f"{name}/notify"})
            while manager.recv(4096) != b"READY=1":
                pass
        try:
            started, files = time.monotonic() - began, sorted((folder / "tokens").iterdir())
            assert len(files) == providers, len(files)
            first = usage(agent.pid)
            began, reads, shortest, memory = time.monotonic(), 0, LIFETIME, [first[1]]
            while time.monotonic() - began < seconds:
                for file in files:
                    left = expiry(file.read_text()) - time.time()
                    assert left > 0, f"{file.name} expired {-left:.3f} s ago"
                    shortest = min(shortest, left)
                    reads += 1
                memory.append(usage(agent.pid)[1])
            took = time.monotonic() - began
            busy = (usage(agent.pid)[0] - first[0]) / took
        finally:
            agent.terminate()
            agent.wait(60)
    half = len(memory) // 2
    titles = "providers", "first tokens", "watched", "reads", "torn", "expired", "shortest life seen", "CPU", "memory"
    print(f"| {' | '.join(titles)} |\n|{'---:|' * len(titles)}")
    levels = f"{memory[0]:.1f} MiB, {max(memory[:half]):.1f} until half-time, {max(memory[half:]):.1f} after"
    seen = f"{reads:,} | 0 | 0 | {shortest:.1f} s"
    print(f"| {providers:,} | {started:.1f} s | {took:.0f} s | {seen} | {busy:.0%} of a core | {levels} |")


if __name__ == "__main__":
    given = [float(each) for each in sys.argv[1:]]
    main(int(given[0]) if given else 5000, given[1] if len(given) > 1 else 300.0)
