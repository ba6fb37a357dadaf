"""`make operations`: everything, and docs/fleet-report.md. Names of rows or programs, or `soak`: only these are
measured, and printed."""

from __future__ import annotations

import sys

from tests.operations import programs, report, rows, soak


def main(names: list[str]) -> int:
    measured = []
    for row in rows.ROWS:
        if not names or row.script.__name__ in names:
            for where in row.on:
                measured.append(rows.measure(row, where))
                print(report.row_of(measured[-1]), *measured[-1].faults, sep="\n    ", flush=True)
    ran = []
    for name in programs.PROGRAMS:
        if not names or name in names:
            ran.append(programs.measure(name))
            print(report.program_of(ran[-1]), *ran[-1].faults, sep="\n    ", flush=True)
    soaked = [soak.measure()] if not names or "soak" in names else []
    for each in soaked:
        print(report.soak_of(each), *each.faults, sep="\n    ", flush=True)
    if not names:
        report.write(measured, ran, soaked[0])
    return bool([fault for each in [*measured, *ran, *soaked] for fault in each.faults])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
