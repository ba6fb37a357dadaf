"""`make simulate`: a hundred thousand runs of the fleet, each by its seed; then each rule broken, and what finds it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time

from tests.simulation.breaks import BREAKS, first_seed
from tests.simulation.fleet import Fleet, WrongError

SEEDS = 100_000
# Of one piece of work.
_EACH = 250


def run(first: int) -> list[str]:
    """What is wrong with the runs of the seeds from `first` on."""
    logging.disable()
    wrong: list[str] = []
    for seed in range(first, first + _EACH):
        try:
            Fleet(seed).run()
        except WrongError as error:
            wrong.append(str(error))
    return wrong


def main(seeds: int) -> int:
    begun, wrong, done = time.monotonic(), 0, 0
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for found in pool.imap_unordered(run, range(0, seeds, _EACH)):
            wrong, done = wrong + len(found), done + _EACH
            print(*found, sep="\n", end="\n" if found else "")
            if done % 10_000 == 0:
                print(f"{done} seeds, {wrong} wrong, {time.monotonic() - begun:.0f} s", flush=True)
    logging.disable()
    for name in BREAKS:
        found = first_seed(name, 5000)
        print(f"broken: {name}: " + ("NOT FOUND" if found is None else f"seed {found[0]}: {found[1]}"), flush=True)
        wrong += found is None
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS))
