"""The command line beside a bare interpreter: what a call of `conduit-oauth token` costs. Prints Markdown.

Figures are the best of several rounds, taken in turns, because noise only ever adds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from conduit_oauth.serving.formats import Format
from conduit_oauth.testing import AuthorizationServer

ROUNDS = 20
# Seconds that the server takes for a cold token.
LATENCY = 0.2
COMMAND = str(Path(sys.executable).with_name("conduit-oauth"))


# A process begins with the memory of the one that starts it: this one is small.
LAUNCHER = """
import os, sys, time
begun = time.perf_counter()
nowhere = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
_, status, usage = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[nowhere]), 0)
print(time.perf_counter() - begun, usage.ru_maxrss)
sys.exit(status)
"""


def cost(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """The milliseconds that a command takes, and the MiB that it has at most."""
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, *command]
    took, memory = subprocess.check_output(launcher, env=environment, text=True, stderr=subprocess.DEVNULL).split()
    return float(took) * 1e3, int(memory) / 1024


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as home, AuthorizationServer() as server:
        environment = {
            "HOME": home,
            "PATH": os.environ["PATH"],
            "CONDUIT_OAUTH_CLIENT_ID": server.client_id,
            "CONDUIT_OAUTH_CLIENT_SECRET": server.client_secret,
            "CONDUIT_OAUTH_MCP_URL": server.mcp_url(),
        }
        commands = {
            "`python -c pass`": [sys.executable, "-c", "pass"],
            **{f"`token --format {shape}`": [COMMAND, "token", "--format", shape] for shape in Format},
            "`--help`": [COMMAND, "--help"],
            "`token --help`": [COMMAND, "token", "--help"],
            "`token`, cold": [COMMAND, "token", "--store", "memory:"],
        }
        best = dict.fromkeys(commands, (float("inf"), float("inf")))
        server.set(latency=LATENCY)
        for name, command in [item for item in commands.items() for _ in range(2)]:
            cost(command, environment)
            print(f"… {name}", file=sys.stderr, flush=True)
        for _ in range(ROUNDS):
            for name, command in commands.items():
                took, memory = cost(command, environment)
                best[name] = min(best[name][0], took), min(best[name][1], memory)
    bare, _ = best["`python -c pass`"]
    print("## The command line\n")
    print(f"A token is in the cache, except for the cold one, for which the server takes {LATENCY * 1000:.0f} ms.\n")
    print("| | ms | × bare interpreter | MiB |")
    print("|---|---:|---:|---:|")
    for name, (took, memory) in best.items():
        print(f"| {name} | {took:.1f} | {took / bare:.1f} | {memory:.1f} |")
    print()


if __name__ == "__main__":
    main()
