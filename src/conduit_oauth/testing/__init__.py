"""For the tests of programs that use this library: a real authorization server, as a child process and a fixture."""

from __future__ import annotations

from .authorization_server import AuthorizationServer

__all__ = ["AuthorizationServer"]
