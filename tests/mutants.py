"""`make mutants [MODULES="life token"]`: changes each module in small ways (cosmic-ray), on a copy, and runs its tests.

A change that no test notices fails the run, unless tests/mutants.toml says why it is none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

PROTOCOL = ["tests/test_discovery.py", "tests/test_hostile.py"]
FLIGHTS = ["tests/test_provider.py", "tests/test_concurrency.py", "tests/test_patience.py", "tests/real_answers"]
SHARING = ["tests/stores/test_sharing.py", "tests/stores/test_contract.py", "tests/test_patience.py"]
# The tests that know each module, the quick ones first.
TESTS = {
    "life": ["tests/test_life.py"],
    "token": ["tests/test_token.py", "tests/test_life.py", "tests/real_answers/test_same_token.py"],
    "challenge": ["tests/test_challenge.py"],
    "client_auth": ["tests/test_client_auth.py"],
    "discovery": PROTOCOL,
    "dpop": ["tests/test_dpop.py"],
    "grant": ["tests/test_grant.py", "tests/test_token.py", "tests/test_introspection.py"],
    "metadata": PROTOCOL,
    "refusals": ["tests/test_refusals.py"],
    "urls": ["tests/test_urls.py", *PROTOCOL],
    "flight": FLIGHTS,
    "control": FLIGHTS,
    "landing": FLIGHTS,
    "gate": [*SHARING, *FLIGHTS],
    "sealing": SHARING,
    "share": SHARING,
    "tier": SHARING,
}
CONFIG = """
[cosmic-ray]
module-path = "src/conduit_oauth/{module}.py"
timeout = 120.0
excluded-modules = []
test-command = "{python} -m pytest -x -q -p no:randomly -p no:cacheprovider {tests}"
[cosmic-ray.distributor]
name = "local"
"""
TOOL = Path(".venv/mutants/bin/cosmic-ray").absolute()


def survivors(module: str, copy: Path) -> list[tuple[str, str]]:
    """The changes of a module that its tests do not notice: what was done, and the line that it was done to."""
    config, session = copy / f"{module}.toml", copy / f"{module}.sqlite"
    config.write_text(CONFIG.format(module=module, python=sys.executable, tests=" ".join(TESTS[module])))
    session.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(copy / "src")}
    for verb in ("init", "exec"):
        subprocess.run([TOOL, verb, config, session], cwd=copy, env=environment, check=True)
    dumped = subprocess.check_output([TOOL, "dump", session], cwd=copy, text=True)
    lines = (copy / "src" / "conduit_oauth" / f"{module}.py").read_text().splitlines()
    found: list[tuple[str, str]] = []
    count = 0
    for item, result in map(json.loads, dumped.splitlines()):
        (mutation,) = item["mutations"]
        count += 1
        if result is not None and result["test_outcome"] == "survived":
            found.append((mutation["operator_name"], lines[mutation["start_pos"][0] - 1].strip()))
    print(f"{module}: {count} changes, {len(found)} survive", flush=True)
    return found


def main(modules: list[str]) -> int:
    explained = tomllib.loads(Path("tests/mutants.toml").read_text())
    copy = Path(".venv/mutants/copy").absolute()
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("src", "tests"):
        shutil.copytree(name, copy / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    shutil.copy("pyproject.toml", copy)
    left = 0
    for module in modules or TESTS:
        known = {(each["change"], each["line"]) for each in explained.get(module, [])}
        for change, line in survivors(module, copy):
            if (change, line) not in known:
                left += 1
                print(f"  {change}: {line}", flush=True)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
