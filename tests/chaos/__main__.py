"""`make chaos`: five minutes of faults, by a seed that is printed first."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.run import Chaos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--lifetime", type=float, default=20)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = vars(parser.parse_args())
    print("chaos:", *(f"{name}={value}" for name, value in options.items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Chaos(Path(folder), **options).run(print)
    print(report.text())
    sys.exit(bool(report.faults()))


if __name__ == "__main__":
    main()
