"""What is released: a wheel and an sdist that anybody can build again, and that bring everything with them."""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RELEASED = ("src", "tests", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md", "packaging")


def build(source: Path, target: Path) -> dict[str, str]:
    """Build from a copy of the tree whose files are as old as they happen to be; each artefact's digest by name."""
    for name in RELEASED:
        place = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "node_modules")
        if place.is_dir():
            shutil.copytree(place, source / name, ignore=ignored, copy_function=shutil.copy)
        else:
            shutil.copy(place, source / name)
    command = [sys.executable, "-m", "hatchling", "build", "-d", target]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=100)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in target.iterdir()}


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artefacts")
    (folder / "source").mkdir()
    build(folder / "source", folder / "dist")
    return folder / "dist"


def test_whoever_builds_it_again_gets_the_same_bytes(artefacts: Path, tmp_path: Path) -> None:
    before = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in artefacts.iterdir()}
    (tmp_path / "elsewhere").mkdir()
    assert build(tmp_path / "elsewhere", tmp_path / "dist") == before
    assert {name.rpartition(".")[2] for name in before} == {"whl", "gz"}


def test_a_command_runs_from_the_wheel_alone(artefacts: Path, tmp_path: Path) -> None:
    (wheel,) = artefacts.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry,) = [name for name in names if name.endswith("entry_points.txt")]
        points = configparser.ConfigParser()
        points.read_string(archive.read(entry).decode())
    shutil.unpack_archive(wheel, tmp_path / "lib", "zip")
    assert points["console_scripts"]["conduit-oauth"] == "conduit_oauth.cli:main"
    for file in ("conduit_oauth/py.typed", "conduit_oauth/agent/status.html", "conduit_oauth/agent/status.js"):
        assert file in names
    assert not [name for name in names if name.startswith("tests/")]
    # Before the checkout, which the environment has as an editable package.
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'lib'}:{site.getsitepackages()[0]}", "PYTHONSAFEPATH": "1"}
    program = "import conduit_oauth, sys; print(conduit_oauth.__file__); sys.argv = ['conduit-oauth', '--help']; "
    program += "from conduit_oauth.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.startswith(str(tmp_path))
    assert "dev-server" in run.stdout


def test_the_sdist_has_what_its_tests_and_its_readers_need(artefacts: Path) -> None:
    (sdist,) = artefacts.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"SECURITY.md", "LICENSE", "README.md", "tests/conftest.py", "packaging/Dockerfile"} <= names
    assert not [name for name in names if "node_modules" in name or "__pycache__" in name]


def test_the_bill_of_materials_is_that_of_the_lock() -> None:
    bill = json.loads((ROOT / "packaging" / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    listed = {(component["name"].lower(), component["version"]) for component in bill["components"]}
    locked: set[tuple[str, str]] = set()
    for line in (ROOT / "requirements" / "runtime.lock").read_text(encoding="utf-8").splitlines():
        if "==" in line and not line.startswith((" ", "#")):
            name, _, version = line.partition(" ")[0].partition("==")
            locked.add((name.lower(), version))
    assert listed == locked
    assert all(component.get("hashes") or component.get("externalReferences") for component in bill["components"])


@pytest.mark.parametrize("service", ["agent", "bridge"])
def test_the_unit_is_one_that_systemd_takes(service: str, tmp_path: Path) -> None:
    unit = (ROOT / "packaging" / "systemd" / f"conduit-oauth-{service}.service").read_text(encoding="utf-8")
    assert f"ExecStart=/usr/bin/conduit-oauth {service} " in unit
    # systemd looks whether the program is there.
    place = tmp_path / f"conduit-oauth-{service}.service"
    place.write_text(unit.replace("/usr/bin/conduit-oauth", str(Path(sys.executable).with_name("conduit-oauth"))))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", place]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("service", ["agent", "bridge"])
def test_the_options_of_the_unit_are_those_of_the_program(service: str) -> None:
    unit = (ROOT / "packaging" / "systemd" / f"conduit-oauth-{service}.service").read_text(encoding="utf-8")
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    command = [Path(sys.executable).with_name("conduit-oauth"), service, "--help"]
    offered = subprocess.run(command, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, check=True)
    for option in [word for word in line.split() if word.startswith("--")]:
        assert option in offered.stdout
