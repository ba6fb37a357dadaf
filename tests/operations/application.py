"""The web application of gunicorn's rows: each request is one call."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.operations.shared import call


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    """WSGI (PEP 3333)."""
    said = json.dumps(call(environ["PATH_INFO"] == "/void")).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(said)))])
    return [said]
