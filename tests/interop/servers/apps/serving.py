"""What the Python servers share: keys that outlive a restart, and a server of the standard library."""

from __future__ import annotations

import socketserver
import wsgiref.simple_server
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


def rsa_key(name: str) -> str:
    """The PEM of the key in the file `name` of the current folder, which is made where there is none."""
    file = Path(name)
    if not file.exists():
        key = rsa.generate_private_key(65537, 2048)
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        file.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return file.read_text()


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class _Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def serve(app: Any, port: int) -> None:
    """Serve a WSGI application until the process ends."""
    with wsgiref.simple_server.make_server("127.0.0.1", port, app, _Server, _Handler) as server:
        server.serve_forever()
