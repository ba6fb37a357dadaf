"""Free ports of loopback that nobody else is given: no other worker of this run, and no connection."""

from __future__ import annotations

import itertools
import os
import socket

# Below those that the system gives to connections (from 32768 on), a share for each worker.
_FIRST, _EACH, _SHARES = 12_000, 1_000, 20
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
# Another run of the tests beside this one begins elsewhere.
_turns = itertools.count(os.getpid())


def free_port() -> int:
    """A port that nobody listens at, by any address of this machine: some servers take all of them."""
    first = _FIRST + _worker % _SHARES * _EACH
    for turn in _turns:
        port = first + turn % _EACH
        try:
            with socket.create_server(("", port)):
                return port
        except OSError:
            continue
    raise AssertionError("unreachable: the turns do not end")
