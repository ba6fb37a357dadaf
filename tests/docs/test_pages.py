"""Each block of code in the documentation is run as a reader would: files are written, programs and commands run.

A block with a title is a file of the page's folder. Another Python block is a program. Of a console block each line
after `$ ` is a command of one shell per block, with the server's answer below it (… stands for anything); one that
ends in & runs until the page is over. The servers that the pages name are real ones, on other ports.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from conduit_oauth.testing import AuthorizationServer
from tests.ports import free_port
from tests.redis_server import RedisServer

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What a server says when it is ready.
READY = re.compile(r"Listening on|Uvicorn running|Listening at|ready\.")
# Runs already, as the fixture.
STARTED = "conduit-oauth dev-server"


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


WITH_CODE = [page for page in PAGES if blocks_of(page)]


class Reader:
    """Does what a page says, in a folder of its own."""

    def __init__(self, folder: Path, places: dict[str, str], stack: ExitStack) -> None:
        self._folder = folder
        self._places = places
        self._stack = stack
        programs = folder / "bin"
        programs.mkdir()
        (programs / "langchain-python").write_text(f'#!/bin/sh\nexec {ROOT}/.venv/langchain/bin/python "$@"\n')
        (programs / "langchain-python").chmod(0o755)
        self._environment = {
            "HOME": str(folder),
            "PATH": f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "COLUMNS": "200",
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        }

    def follow(self, block: Block) -> None:
        text = block.text
        for place, real in self._places.items():
            text = text.replace(place, real)
        if block.title:
            self._write(block, text)
        elif block.language == "python":
            self._run([sys.executable, "-c", text])
        else:
            assert block.language == "console", block
            self._console(text)

    def _write(self, block: Block, text: str) -> None:
        match block.language:
            case "yaml":
                assert all(yaml.safe_load_all(text))
            case "toml":
                assert tomllib.loads(text)
            case "json":
                assert json.loads(text)
            case _:
                compile(text, block.title, "exec")
        (self._folder / block.title).write_text(text)

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=self._folder, env=self._environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def _console(self, text: str) -> None:
        exports: list[str] = []
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            line, _, expected = part.partition("\n")
            if line == STARTED:
                continue
            if line.startswith("export "):
                exports.append(line)
            elif line.endswith(" &"):
                self._start(line.removesuffix(" &"))
            else:
                said = self._run(["/bin/bash", "-ec", "\n".join([*exports, line])])
                for wanted in expected.strip().splitlines():
                    pattern = ".*".join(re.escape(piece) for piece in wanted.strip().split("…"))
                    assert re.search(pattern, said), f"{line}\nwanted: {wanted}\nsaid: {said}"
        for export in exports:
            for setting in shlex.split(export)[1:]:
                name, _, value = setting.partition("=")
                self._environment[name] = value

    def _start(self, command: str) -> None:
        process = subprocess.Popen(
            ["/bin/bash", "-c", f"exec {command}"],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._stack.callback(_end, process)
        assert process.stdout is not None
        said = ""
        while not READY.search(said):
            line = process.stdout.readline()
            assert line, f"{command}\n{said}"
            said += line


def _end(process: subprocess.Popen[str]) -> None:
    with process:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.fixture
def reader(tmp_path: Path, authorization_server: AuthorizationServer, page: Path) -> Iterator[Reader]:
    places = {"http://127.0.0.1:8080": authorization_server.url}
    places |= {f"127.0.0.1:{port}": f"127.0.0.1:{free_port()}" for port in (8000, 8900, 8901)}
    places["--port 8000"] = f"--port {places['127.0.0.1:8000'].partition(':')[2]}"
    with ExitStack() as stack:
        if "redis://" in page.read_text(encoding="utf-8"):
            (tmp_path / "redis").mkdir()
            redis = stack.enter_context(RedisServer(tmp_path / "redis"))
            places["redis://127.0.0.1:6379/0"] = redis.url
        (tmp_path / "page").mkdir()
        yield Reader(tmp_path / "page", places, stack)


@pytest.mark.parametrize("page", WITH_CODE, ids=[str(page.relative_to(ROOT / "docs")) for page in WITH_CODE])
def test_what_a_page_shows_works(page: Path, reader: Reader) -> None:
    for block in blocks_of(page):
        reader.follow(block)
