"""Real proxies on loopback: Debian's squid, tinyproxy, haproxy and nginx, each a child process of the test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port

SQUID = """
http_port 127.0.0.1:{port} {opening}
hosts_file {folder}/hosts
dns_nameservers 127.0.0.1
pid_filename none
access_log stdio:{folder}/access.log
cache_log {folder}/cache.log
cache_store_log none
coredump_dir {folder}
cache deny all
pinger_enable off
shutdown_lifetime 0 seconds
logfile_rotate 0
{access}
"""
_AUTHENTICATED = """
auth_param basic program /usr/bin/perl {folder}/helper.pl
auth_param basic children 1 startup=1 idle=1
auth_param basic realm proxy
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
"""
# It answers with certificates of its own authority, and so reads what passes. They are like those of the servers that
# it sees first: what it makes up itself lacks an extension that Python 3.13 asks for.
_OPENING = "ssl-bump generate-host-certificates=on dynamic_cert_mem_cache_size=4MB tls-cert={pair}"
_OPENED = """
sslcrtd_program /usr/lib/squid/security_file_certgen -s {folder}/certificates -M 4MB
sslcrtd_children 1 startup=1 idle=1
tls_outgoing_options cafile={trusted}
ssl_bump stare all
ssl_bump bump all
http_access allow all
"""
_HELPER = """
$| = 1;
while (<STDIN>) {{
    chomp;
    my @given = map {{ s/%([0-9A-Fa-f]{{2}})/chr hex $1/egr }} split / /, $_, 2;
    print unpack("H*", join(" ", @given)) eq "{known}" ? "OK\\n" : "ERR\\n";
}}
"""
TINYPROXY = """
Listen 127.0.0.1
Port {port}
Timeout 60
LogFile "{folder}/access.log"
PidFile "{folder}/tinyproxy.pid"
Upstream http 127.0.0.1:{upstream}
"""
HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout http-keep-alive 500ms
listen gateway
    bind 127.0.0.1:{port}
    server one 127.0.0.1:{behind}
"""
_TLS = """
listen tls
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    bind 127.0.0.1:{port} ssl crt {certificate}
    server one 127.0.0.1:{behind}
"""
NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} {listen};
    {more}
    location / {{ proxy_pass http://127.0.0.1:{behind}; }}
  }}
}}
"""


@contextmanager
def _running(command: list[str | Path], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            _wait_for(port, process, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            # A server that does not come up ends this: there is no event to wait on across its start.
            assert time.monotonic() < deadline, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.01)


@dataclass(frozen=True)
class Squid:
    port: int
    folder: Path

    def tunnels(self) -> int:
        """How many connections it passed on."""
        return (self.folder / "access.log").read_text().count("TCP_TUNNEL/200")


@contextmanager
def squid(
    hosts: str, credentials: tuple[str, str] | None = None, opens: tuple[Path, Path] | None = None
) -> Iterator[Squid]:
    """A forward proxy that knows `hosts` as 127.0.0.1; with `credentials` it wants them.

    With `opens` it opens TLS: as the authority of the certificate and key in the first file, and it trusts the second.
    """
    # It runs as a user of its own, who does not come to pytest's folders.
    with tempfile.TemporaryDirectory(prefix="squid-", dir="/tmp") as name:
        yield from _squid(Path(name), hosts, credentials, opens)


def _squid(
    folder: Path, hosts: str, credentials: tuple[str, str] | None, opens: tuple[Path, Path] | None
) -> Iterator[Squid]:
    port = free_port()
    access, opening = "http_access allow all", ""
    if credentials is not None:
        access = _AUTHENTICATED.format(folder=folder)
        (folder / "helper.pl").write_text(_HELPER.format(known=" ".join(credentials).encode().hex()))
    if opens is not None:
        pair, trusted = (shutil.copy(each, folder) for each in opens)
        opening, access = _OPENING.format(pair=pair), _OPENED.format(folder=folder, trusted=trusted)
        certgen = "/usr/lib/squid/security_file_certgen"
        subprocess.run([certgen, "-c", "-s", folder / "certificates", "-M", "4MB"], check=True, capture_output=True)
    (folder / "hosts").write_text(f"127.0.0.1 {hosts}\n")
    (folder / "squid.conf").write_text(SQUID.format(port=port, folder=folder, access=access, opening=opening))
    if os.geteuid() == 0:
        # It gives up its rights, and writes its logs without them.
        for each in (folder, *folder.rglob("*")):
            shutil.chown(each, "proxy")
    with _running(["squid", "-N", "-f", folder / "squid.conf"], port, folder / "squid.log"):
        yield Squid(port, folder)


@contextmanager
def tinyproxy(folder: Path, upstream: int) -> Iterator[int]:
    """A forward proxy that sends all to another one, at the port `upstream`. Its port."""
    port = free_port()
    (folder / "tinyproxy.conf").write_text(TINYPROXY.format(port=port, folder=folder, upstream=upstream))
    with _running(["tinyproxy", "-d", "-c", folder / "tinyproxy.conf"], port, folder / "tinyproxy.log"):
        yield port


@contextmanager
def haproxy(folder: Path, behind: int, certificate: Path | None = None) -> Iterator[int]:
    """A balancer that closes a connection that was idle for 500 ms; with a `certificate`, the TLS of what is behind it.

    Its port.
    """
    port = free_port()
    text = HAPROXY if certificate is None else _TLS
    (folder / "haproxy.cfg").write_text(text.format(port=port, behind=behind, certificate=certificate))
    with _running(["haproxy", "-db", "-f", folder / "haproxy.cfg"], port, folder / "haproxy.log"):
        yield port


@contextmanager
def nginx(folder: Path, behind: int, *, listen: str = "", more: str = "") -> Iterator[int]:
    """A reverse proxy. Its port."""
    port = free_port()
    text = NGINX.format(port=port, behind=behind, folder=folder, listen=listen, more=more)
    (folder / "nginx.conf").write_text(text)
    command = ["nginx", "-e", folder / "error.log", "-p", folder, "-c", folder / "nginx.conf"]
    with _running(command, port, folder / "nginx.log"):
        yield port
