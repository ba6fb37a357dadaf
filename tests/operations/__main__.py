"""`make operations`: everything, and docs/fleet-report.md. Names of rows or programs, and only these, are printed."""

from __future__ import annotations

import sys

from tests.operations import programs, report, rows


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
    if not names:
        report.write(measured, ran)
    return bool([fault for each in [*measured, *ran] for fault in each.faults])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
