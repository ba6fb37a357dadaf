"""`make mutants [MODULES="life token"]`: changes modules in small ways, one at a time, and runs their tests.

A change that no test notices fails the run, unless tests/mutants/survivors.toml says why it is none.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHANGES = [".venv/mutants/bin/python", str(HERE / "changes.py")]
PROTOCOL = ["tests/protocol/test_discovery.py", "tests/hostile_servers/test_answers.py"]
# Fifty runs of a fleet among faults.
SIMULATED = "tests/simulation/test_simulation.py::test_a_fleet_keeps_its_promises_among_faults"
FLIGHTS = [
    "tests/lifecycle/test_flight.py",
    "tests/lifecycle/test_patience.py",
    "tests/test_provider.py",
    "tests/lifecycle/test_concurrency.py",
    "tests/real_answers",
    "tests/stores/test_sharing.py",
    f"{SIMULATED}[50]",
]
SHARING = [
    "tests/sharing",
    "tests/stores/test_sharing.py",
    "tests/stores/test_contract.py",
    "tests/lifecycle/test_patience.py",
]
# The tests that know each module, the quick ones first.
TESTS = {
    "life": ["tests/lifecycle/test_life.py"],
    "pauses": ["tests/lifecycle/test_life.py", "tests/lifecycle/test_patience.py"],
    "token": ["tests/test_token.py", "tests/lifecycle/test_life.py", "tests/real_answers/test_same_token.py"],
    "challenge": ["tests/protocol/test_challenge.py"],
    "client_auth": ["tests/protocol/test_client_auth.py"],
    "discovery": PROTOCOL,
    "locations": PROTOCOL,
    "dpop": ["tests/protocol/test_dpop.py"],
    "grant": ["tests/protocol/test_grant.py", "tests/test_token.py", "tests/lifecycle/test_introspection.py"],
    "http": ["tests/protocol/test_http.py", "tests/protocol/test_grant.py", "tests/hostile_servers/test_quoting.py"],
    "jose": [
        "tests/protocol/test_jose.py",
        "tests/protocol/test_dpop.py",
        "tests/protocol/test_client_auth.py",
        "tests/surroundings/test_keys.py",
    ],
    "metadata": ["tests/protocol/test_metadata.py", *PROTOCOL],
    "refusals": ["tests/test_refusals.py"],
    "urls": ["tests/protocol/test_urls.py", *PROTOCOL],
    "flight": FLIGHTS,
    "boarding": [*FLIGHTS, "tests/processes/test_scarcity.py"],
    "reports": FLIGHTS,
    "control": FLIGHTS,
    "inquiry": ["tests/lifecycle/test_introspection.py"],
    "state": ["tests/test_provider.py", "tests/lifecycle"],
    "landing": ["tests/runtime/test_landing.py", *FLIGHTS],
    "gate": ["tests/sharing/test_gate.py", "tests/lifecycle/test_patience.py", "tests/lifecycle/test_flight.py"],
    "sealing": ["tests/sharing/test_sealing.py"],
    "key_state": SHARING,
    "leases": SHARING,
    "notes": SHARING,
    "operations": SHARING,
    "peek": ["tests/cli/test_quick.py"],
    "record": SHARING,
    "share": SHARING,
    "subscribers": SHARING,
    "tier": SHARING,
    "upkeep": SHARING,
    "sick": SHARING,
    "clocks": SHARING,
}
# Slow to import, and the same for every change.
FOREIGN = [
    "cryptography.x509",
    "httpx2",
    "hypothesis.strategies",
    "joserfc.jwk",
    "redis",
    "starlette",
    "trio",
    "uvicorn",
]


@dataclass
class Running:
    change: dict[str, str]
    slot: int
    deadline: float


def place_of(module: str) -> Path:
    """The file of a module of the core, whichever folder it is in."""
    return next(Path("src/conduit_oauth").rglob(f"{module}.py"))


class Bench:
    """Copies of the sources, in each of which one change at a time is tried."""

    def __init__(self, module: str) -> None:
        self._place = place_of(module)
        self._source = self._place.read_text(encoding="utf-8")
        self._tests = TESTS[module]
        self._copies = [Path(f".venv/mutants/copy{slot}").absolute() for slot in range(os.cpu_count() or 1)]
        for copy in self._copies:
            shutil.rmtree(copy, ignore_errors=True)
            for name in ("src", "tests"):
                shutil.copytree(name, copy / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
            shutil.copy("pyproject.toml", copy)

    def survivors(self, changes: list[dict[str, str]]) -> Iterator[dict[str, str]]:
        """Those of the changes that no test notices."""
        begun = time.monotonic()
        for slot in range(len(self._copies)):
            _, status = os.waitpid(self._try(slot, self._source, keep=True), 0)
            if status:
                said = (self._copies[slot] / "log").read_text(errors="replace")
                raise SystemExit(f"{self._place}: its tests fail without any change\n{said[-4000:]}")
        limit = 20 + 5 * (time.monotonic() - begun) / len(self._copies)
        waiting, running, free = changes[::-1], dict[int, Running](), list(range(len(self._copies)))
        while waiting or running:
            while waiting and free:
                change, slot = waiting.pop(), free.pop()
                running[self._try(slot, change["code"])] = Running(change, slot, time.monotonic() + limit)
            for process, at in list(running.items()):
                late = time.monotonic() > at.deadline
                if late:
                    os.killpg(process, signal.SIGKILL)
                ended, status = os.waitpid(process, 0 if late else os.WNOHANG)
                if ended:
                    del running[process]
                    free.append(at.slot)
                    if status == 0:
                        yield at.change
            time.sleep(0.01)

    def _try(self, slot: int, code: str, *, keep: bool = False) -> int:
        """The process that runs the tests with this code; its status is 0 where they pass."""
        copy = self._copies[slot]
        (copy / self._place).write_text(code, encoding="utf-8")
        if process := os.fork():
            return process
        status = 1
        try:
            os.setsid()
            os.chdir(copy)
            # Compiled code is told from changed code by the second only.
            sys.dont_write_bytecode = not keep
            for stale in (copy / self._place).parent.glob(f"__pycache__/{self._place.stem}.*"):
                stale.unlink()
            for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
                del sys.modules[name]
            sys.path[:0] = [str(copy / "src"), str(copy)]
            os.environ["PYTHONPATH"] = f"{copy / 'src'}:{copy}"
            said = os.open("log", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            for descriptor in (0, 1, 2):
                os.dup2(said, descriptor)
            plugins = [word for name in ("randomly", "xdist", "cacheprovider") for word in ("-p", f"no:{name}")]
            status = pytest.main(["-x", "-q", "-W", "ignore:Module already imported", *plugins, *self._tests])
        finally:
            os._exit(int(status))


def main(modules: list[str]) -> int:
    explained = tomllib.loads((HERE / "survivors.toml").read_text())
    for name in FOREIGN:
        importlib.import_module(name)
    left = 0
    for module in modules or TESTS:
        listed = subprocess.check_output([*CHANGES, str(place_of(module))], text=True)
        changes = [json.loads(line) for line in listed.splitlines()]
        known = {(each["change"], line) for each in explained.get(module, []) for line in each["lines"]}
        begun, survived = time.monotonic(), 0
        for change in Bench(module).survivors(changes):
            survived += 1
            if (change["change"], change["line"]) not in known:
                left += 1
                print(f"  {module} {change['change']}: {change['line']}", flush=True)
        print(f"{module}: {len(changes)} changes, {survived} survive, {time.monotonic() - begun:.0f} s", flush=True)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
