"""`make bench-bridge`: what the HTTP bridge adds to a call, and what 500 event streams cost it. Prints Markdown.

Beside it, in the same run: the gateway alone, nginx as a plain reverse proxy, and the barest pass-through on the
bridge's own stack. wrk calls; nginx is the gateway, which answers at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from conduit_oauth.testing import AuthorizationServer

HERE = Path(__file__).parent
SECONDS = 3
ROUNDS = 3
CONNECTIONS = (1, 16)
# The first is the bridge's own.
STACKS = (("uvicorn", "aiohttp"), ("uvicorn-h11", "httpx2"), ("uvicorn", "httpx2"), ("aiohttp", "aiohttp"))
STREAMS = 500
HOLD = 60.0

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream gateway {{ server 127.0.0.1:{gateway}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{gateway};
    location / {{
      default_type application/json;
      return 200 '{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"5"}}]}}}}';
    }}
  }}
  server {{
    listen 127.0.0.1:{proxy};
    location / {{
      proxy_pass http://gateway;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
LUA = """
wrk.method = "POST"
wrk.body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{"a":2,"b":3}}}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["Mcp-Session-Id"] = "b9a1c6f0d8f44c6cb0c7a4a2f7c3b6e1"
done = function(summary, latency)
  io.write(string.format("%d %d %d %d\\n", latency:percentile(50), latency:percentile(99),
    summary.requests / (summary.duration / 1e6), summary.errors.status + summary.errors.read))
end
"""


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def child(*command: str | Path, environment: dict[str, str] | None = None, **options: Any) -> Iterator[Any]:
    process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, text=True, **options)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


@contextmanager
def bridge(server: AuthorizationServer, url: str) -> Iterator[tuple[str, int]]:
    """The bridge before `url`: where it is, and its process id."""
    environment = {"CONDUIT_OAUTH_CLIENT_ID": server.client_id, "CONDUIT_OAUTH_CLIENT_SECRET": server.client_secret}
    command = [Path(sys.executable).with_name("conduit-oauth"), "bridge", "--listen", "127.0.0.1:0", "--no-local-token"]
    command += [
        "--mcp-url",
        url,
        "--token-endpoint",
        server.token_endpoint(),
        "--resource",
        server.mcp_url(),
        "--store",
        "memory:",
    ]
    with child(*command, environment=environment, stderr=subprocess.PIPE) as process:
        yield process.stderr.readline().strip().removeprefix("Listening on "), process.pid


def wrk(url: str, connections: int, folder: Path) -> tuple[float, float, float]:
    """p50 and p99 in microseconds, and calls per second."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "-s", folder / "calls.lua", url]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
    assert told[3] == "0", f"{told[3]} calls of {url} failed"
    return float(told[0]), float(told[1]), float(told[2])


def calls(server: AuthorizationServer, folder: Path) -> None:
    gateway, proxy = free_port(), free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, gateway=gateway, proxy=proxy))
    (folder / "calls.lua").write_text(LUA)
    url = f"http://127.0.0.1:{gateway}/mcp"
    with ExitStack() as stack:
        stack.enter_context(child("nginx", "-c", folder / "nginx.conf", stderr=subprocess.DEVNULL))
        places = {"no proxy": url, "nginx": f"http://127.0.0.1:{proxy}/mcp"}
        for server_name, client_name in STACKS:
            command = [sys.executable, HERE / "pass_through.py", url, server_name, client_name]
            bare = stack.enter_context(child(*command, stdout=subprocess.PIPE))
            places[f"pass-through: {server_name} + {client_name}"] = bare.stdout.readline().strip()
        places["the bridge"] = stack.enter_context(bridge(server, url))[0]
        print("| | connections | p50 | p99 | calls per second | over the barest, p50 | p99 |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for connections in CONNECTIONS:
            # In turns, so that what else the machine does is everybody's trouble.
            for place in places.values():
                wrk(place, connections, folder)
            runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in places}
            for _ in range(ROUNDS):
                for name, place in places.items():
                    runs[name].append(wrk(place, connections, folder))
            middle = {
                name: [statistics.median(each) for each in zip(*rows, strict=True)] for name, rows in runs.items()
            }
            base = middle["pass-through: {} + {}".format(*STACKS[0])]
            for name, (p50, p99, rate) in middle.items():
                ratios = f"{rate:,.0f} | {p50 / base[0]:.2f} | {p99 / base[1]:.2f}"
                print(
                    f"| {name} | {connections} | {p50 / 1e3:.2f} ms | {p99 / 1e3:.2f} ms | {ratios} |",
                    flush=True,
                )


def memory(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def streams(server: AuthorizationServer) -> None:
    async def events(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        number = 0
        # Until its client leaves.
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.write(f"id: {number}\ndata: {'x' * 200}\n\n".encode())
                number += 1
                await asyncio.sleep(0.5)
        return answer

    app = web.Application()
    app.router.add_get("/mcp", events)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    seen, open_all = 0, asyncio.Event()

    async def listen(http: aiohttp.ClientSession, url: str) -> None:
        nonlocal seen
        async with http.get(url) as answer:
            assert answer.status == 200
            async for _ in answer.content.iter_any():
                seen += 1
                if seen == 4 * STREAMS:
                    open_all.set()

    with ExitStack() as stack:
        url, pid = await asyncio.to_thread(stack.enter_context, bridge(server, f"http://127.0.0.1:{port}/mcp"))
        before = memory(pid)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as http:
            tasks = [asyncio.create_task(listen(http, url)) for _ in range(STREAMS)]
            began = time.monotonic()
            await asyncio.wait_for(open_all.wait(), 30)
            levels = [memory(pid)]
            while time.monotonic() - began < HOLD:
                await asyncio.sleep(5)
                levels.append(memory(pid))
                assert not any(task.done() for task in tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        print(
            f"\n{STREAMS} event streams held for {HOLD:.0f} s, {seen:,} events passed on: {before:.1f} MiB before, "
            f"{levels[0]:.1f} MiB when all were open, {min(levels):.1f} to {max(levels):.1f} MiB until the end."
        )
        await asyncio.to_thread(stack.close)
    await runner.cleanup()


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}},
}
STARTS = 10
# A package of Python that does the same, with a token that was fetched before.
MCP_PROXY = HERE.parent / ".venv" / "mcp-proxy" / "bin" / "mcp-proxy"


def start(command: list[Any], environment: dict[str, str]) -> tuple[float, float]:
    """Milliseconds from the start of a stdio bridge to the answer to `initialize`, and the MiB that it had at most."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    begun = time.perf_counter()
    with child(*command, environment=environment, **pipes) as process:
        process.stdin.write(json.dumps(INITIALIZE) + "\n")
        process.stdin.flush()
        assert "result" in json.loads(process.stdout.readline())
        took = time.perf_counter() - begun
        peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        assert peak is not None
        process.stdin.close()
    return took * 1e3, int(peak[1]) / 1024


def starts(server: AuthorizationServer, folder: Path) -> None:
    client = {"CONDUIT_OAUTH_CLIENT_ID": server.client_id, "CONDUIT_OAUTH_CLIENT_SECRET": server.client_secret}
    environment = {**client, "HOME": str(folder), "CONDUIT_OAUTH_MCP_URL": server.mcp_url()}
    command = Path(sys.executable).with_name("conduit-oauth")
    token = subprocess.check_output([command, "token"], env={**os.environ, **environment}, text=True).strip()
    programs: dict[str, tuple[list[Any], dict[str, str]]] = {
        "the bridge, with a token in its cache": ([command, "bridge"], environment),
        "the bridge, without": ([command, "bridge", "--store", "memory:"], environment),
        "mcp-proxy, with a token": (
            [MCP_PROXY, "--transport", "streamablehttp", server.mcp_url()],
            {"API_ACCESS_TOKEN": token},
        ),
    }
    best = dict.fromkeys(programs, (math.inf, math.inf))
    for _ in range(STARTS):
        for name, (words, variables) in programs.items():
            took, peak = start(words, variables)
            best[name] = min(best[name][0], took), min(best[name][1], peak)
    print("\n| from the start to the answer to `initialize` | ms | MiB |")
    print("|---|---:|---:|")
    for name, (took, peak) in best.items():
        print(f"| {name} | {took:.0f} | {peak:.1f} |")
    print(flush=True)


def main() -> None:
    with AuthorizationServer() as server, tempfile.TemporaryDirectory() as folder:
        starts(server, Path(folder))
        calls(server, Path(folder))
        asyncio.run(streams(server))


if __name__ == "__main__":
    main()
