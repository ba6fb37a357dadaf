"""docs/fleet-report.md, from what was measured."""

from __future__ import annotations

import os
import platform

from tests.operations.fleet import ROOT
from tests.operations.programs import Ran
from tests.operations.rows import Measured

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


def write(measured: list[Measured], ran: list[Ran]) -> None:
    """Write the page."""
    head = HEAD.format(cores=os.cpu_count(), system=platform.system(), python=platform.python_version())
    lines = [*map(row_of, measured), PROGRAMS.rstrip("\n"), *map(program_of, ran), ""]
    PAGE.write_text(head + "\n".join(lines))
