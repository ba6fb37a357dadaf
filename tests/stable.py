"""`make stable`: the suite ten times in a row, each time in another order, with every core busy beside it."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import subprocess
import sys
import time


def spin() -> None:
    while True:
        pass


def main(rounds: int) -> int:
    for _ in range(os.cpu_count() or 1):
        multiprocessing.Process(target=spin, daemon=True).start()
    for number in range(1, rounds + 1):
        seed, begun = secrets.randbelow(1 << 32), time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-n", "4", "--dist", "worksteal"]
        command.append(f"--randomly-seed={seed}")
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        last = done.stdout.strip().splitlines()[-1]
        print(f"{number}/{rounds} seed {seed}, {time.monotonic() - begun:.0f} s: {last}", flush=True)
        if done.returncode != 0:
            print(done.stdout)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
