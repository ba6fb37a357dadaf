"""`make test-all`: the suite on each Python that is installed, and with the lowest and the highest dependencies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

UV = ".venv/uv/bin/uv"
CLAIMED = ("3.11", "3.12", "3.13", "3.14")
COMPILE = [UV, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--no-header", "pyproject.toml"]
COMPILE += ["--all-extras", "--group", "test"]


def interpreters() -> dict[str, str]:
    """The first interpreter of each claimed version."""
    command = [UV, "python", "list", "--only-installed", "--output-format", "json"]
    listed = json.loads(subprocess.check_output(command, text=True))
    found: dict[str, str] = {}
    for each in listed:
        version = f"{each['version_parts']['major']}.{each['version_parts']['minor']}"
        if each["implementation"] == "cpython" and version in CLAIMED and each.get("variant", "default") == "default":
            found.setdefault(version, each["path"])
    # pyenv shows only the versions that were chosen.
    for version in CLAIMED:
        for path in sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}")):
            found.setdefault(version, str(path))
    return dict(sorted(found.items(), key=lambda item: CLAIMED.index(item[0])))


def passes(name: str, interpreter: str, requirements: Path, *, hashes: bool) -> bool:
    """Whether the suite passes in an environment of its own."""
    folder = Path(".venv") / "all" / name
    python = folder / "bin" / "python"
    subprocess.run([UV, "venv", "--quiet", "--allow-existing", "--python", interpreter, folder], check=True)
    checked = ["--require-hashes"] if hashes else []
    subprocess.run([UV, "pip", "sync", "--quiet", "--python", python, *checked, requirements], check=True)
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, "--no-deps", "-e", "."], check=True)
    done = subprocess.run([python, "-m", "pytest", "-q", "-n", "4", "--dist", "worksteal"], check=False)
    print(f"{name}: {'passed' if done.returncode == 0 else 'FAILED'}", flush=True)
    return done.returncode == 0


def main() -> int:
    found = interpreters()
    print("found: " + ", ".join(f"Python {version} ({path})" for version, path in found.items()))
    print("not installed: " + (", ".join(version for version in CLAIMED if version not in found) or "none"), flush=True)
    lock = Path("requirements/test.lock")
    results = [passes(version, path, lock, hashes=True) for version, path in found.items()]
    for name, resolution in (("lowest", "lowest-direct"), ("highest", "highest")):
        requirements = Path(".venv") / f"{name}.txt"
        subprocess.run([*COMPILE, "--upgrade", "--resolution", resolution, "-o", requirements], check=True)
        results.append(passes(name, sys.executable, requirements, hashes=False))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
