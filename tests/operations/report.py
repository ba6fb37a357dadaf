"""docs/fleet-report.md, from what was measured."""

from __future__ import annotations

import os
import platform

from tests.operations.fleet import ROOT
from tests.operations.programs import Ran
from tests.operations.rows import Measured
from tests.operations.soak import Soaked

PAGE = ROOT / "docs" / "fleet-report.md"

HEAD = """# Fleet report

`make operations` writes this page. It starts real servers, starts a fleet of processes, and does harm to the store.
Each process has two threads that ask for a token fifty times a second.

The token server takes 100 ms for a token. A fleet has 16 processes where the table names no other number. All
processes and all servers share one machine with {cores} cores ({system}, Python {python}).

- **Token requests**: how many requests the token server got, and how many the row allows.
- **Longest wait**: how long a caller waited at most. It does not count the start of a fleet that is warm before the
  fault.
- **Expired**: how many callers got a token after its end.
- **Void**: how many callers got a token later than 2 s after its invalidation, or after the end of a fault of hearing.
- **Log**: how many processes logged which message. [The page on fleets](explanation/fleet.md) explains each of them.

## Stores

| Row | What happens | Store | Token requests | Longest wait | Expired | Void | Log |
| --- | --- | --- | ---: | ---: | ---: | ---: | --- |
"""

PROGRAMS = """
## Frameworks

Each program has 16 processes and a Redis. It makes 128 calls, makes the token void, and waits 2 s. Then it makes 128
calls more. So two token requests are right.

| Program | Processes that answered | Token requests | Longest wait | Void | Errors |
| --- | ---: | ---: | ---: | ---: | ---: |
"""


SOAK = """
## Agent and bridge

An agent keeps the tokens of {providers:,} providers in files, in a cache of its own. {clients} MCP clients call a tool
once a second, through the bridge. Tokens live for 60 s. Every 10 s one of these things happens: the gateway dies and
is back after a second, all tokens are revoked, the token server answers 503 or drops connections, the configuration is
written anew in place, or files are deleted before a SIGHUP.

| Time | Reads | Expired | Missing | Calls | Longest call | Cut by {restarts} restarts | Errors | Agent | Bridge |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def row_of(measured: Measured) -> str:
    """A line of the first table."""
    seen = measured.seen
    cells = [
        measured.number or "-",
        measured.title,
        measured.where,
        f"{measured.requests} (≤ {measured.bounds.requests})",
        f"{seen.longest:.2f} s",
        str(seen.expired),
        str(seen.void),
        seen.words,
    ]
    return f"| {' | '.join(cells)} |"


def program_of(ran: Ran) -> str:
    """A line of the second table."""
    counts = (ran.processes, ran.requests, f"{ran.longest:.2f} s", ran.void, len(ran.errors))
    return f"| {' | '.join([ran.name, *map(str, counts)])} |"


def soak_of(soaked: Soaked) -> str:
    """The line of the third table; memory is the most in the first half, and in the second."""
    cells = [
        f"{soaked.seconds:.0f} s",
        *(f"{count:,}" for count in (soaked.reads, soaked.expired, soaked.missing, soaked.calls)),
        f"{soaked.longest:.1f} s",
        *(str(count) for count in (soaked.cut, len(soaked.errors))),
        *("{:.0f}, {:.0f} MiB".format(*soaked.halves(sizes)) for sizes in soaked.sizes.values()),
    ]
    return f"| {' | '.join(cells)} |"


def write(measured: list[Measured], ran: list[Ran], soaked: Soaked) -> None:
    """Write the page."""
    head = HEAD.format(cores=os.cpu_count(), system=platform.system(), python=platform.python_version())
    lines = [*map(row_of, measured), PROGRAMS.rstrip("\n"), *map(program_of, ran)]
    facts = {"providers": soaked.providers, "clients": soaked.clients, "restarts": soaked.restarts}
    lines += [SOAK.format(**facts).rstrip("\n"), soak_of(soaked), ""]
    PAGE.write_text(head + "\n".join(lines))
