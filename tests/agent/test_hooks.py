"""Commands of outputs: which run, when, what they are told, and what becomes of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conduit_oauth.agent import hooks
from conduit_oauth.agent.hooks import Call, Hooks
from tests.agent.conftest import Bell
from tests.conftest import Said


@contextmanager
def hooked(on_start: Callable[[float], object] | None = None) -> Iterator[Hooks]:
    ours = Hooks(on_start)
    try:
        yield ours
    finally:
        ours.close()


def call(script: str, token: str, provider: str = "billing", *, is_last: bool = False) -> Call:
    return Call(provider, ("/bin/sh", "-c", script), {**os.environ, "CONDUIT_OAUTH_PROVIDER": provider}, token, is_last)


def ringing(bell: Bell) -> str:
    return bell.command[-1]


def test_a_command_that_was_late_is_told_of_the_last_token_only(bell: Bell, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    script = f"read line < {tmp_path}/gate; {ringing(bell)}"
    begun = threading.Event()
    with hooked(lambda _: begun.set()) as ours:
        ours.tell("output", call(script, "a"))
        assert begun.wait(20)
        for size in (2, 3):
            ours.tell("output", call(script, "a" * size))
        for expected in (1, 3):
            (tmp_path / "gate").write_text("go\n")
            assert bell.wait() == ("billing", expected)
        ours.wait()
        # It was told of that.
        ours.tell("output", call(script, "aaa"))
        ours.wait()
        assert bell.is_silent()


def test_no_output_waits_for_the_command_of_another(bell: Bell) -> None:
    late: list[float] = []
    with hooked(late.append) as ours:
        for number in range(20):
            ours.tell(f"slow {number}", call("sleep 60", "a"))
        ours.tell("quick", call(ringing(bell), "aaaa", "quick"))
        assert bell.wait() == ("quick", 4)
    assert max(late) < 20


def test_what_fails_is_tried_again_and_told_until_it_works(
    bell: Bell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "RETRY", 0.05)
    script = f"echo >> {tmp_path}/runs; test $(wc -l < {tmp_path}/runs) -gt 3 || exit 7; {ringing(bell)}"
    with hooked() as ours:
        ours.tell("output", call(script, "aa"))
        ours.wait()
        assert ours.troubles["billing"][1] == "/bin/sh ended with status 7"
        assert bell.wait() == ("billing", 2)
        ours.wait()
        assert ours.troubles == {}


def test_a_thousand_commands_that_fail_take_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    monkeypatch.setattr(hooks, "_AT_ONCE", 2)
    with hooked() as ours:
        for number in range(1000):
            ours.tell(f"output {number}", Call(f"p{number}", ("/absent",), {}, "a"))
        ours.wait()
        assert len(ours.troubles) == 1000
        assert threading.active_count() - before <= 3


def test_the_end_of_an_output_is_told_after_all_else_and_forgotten(bell: Bell) -> None:
    with hooked() as ours:
        ours.tell("output", call(ringing(bell), "aaa"))
        ours.tell("output", call(ringing(bell), "", is_last=True))
        while bell.wait()[1]:
            pass
        ours.wait()
        # It is an output again.
        ours.tell("output", call(ringing(bell), "aaa"))
        assert bell.wait() == ("billing", 3)


def test_what_a_command_started_ends_with_the_agent_and_soon(bell: Bell, tmp_path: Path, said: Said) -> None:
    os.mkfifo(tmp_path / "begun")
    ours = Hooks()
    ours.tell("output", call(f"trap '' TERM; sleep 300 & echo $! > {tmp_path}/begun; wait; sleep 300", "a"))
    child = int((tmp_path / "begun").read_text())
    begun = time.monotonic()
    ours.close()
    assert time.monotonic() - begun < 5
    said.wait_for("command_cut output=output: /bin/sh")
    give_up_at = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < give_up_at
    # Nobody is told any more.
    ours.tell("output", call(ringing(bell), "aaa"))
    assert bell.is_silent()


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "LIMIT", 0.2)
    with hooked() as ours:
        ours.tell("output", call("sleep 300 & wait", "a"))
        ours.wait()
        assert ours.troubles["billing"][1] == "/bin/sh took more than 0.2 s"


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    with hooked() as ours:
        ours.tell("output", Call("billing", (str(tmp_path / "absent"),), {}, "a"))
        ours.wait()
        assert "No such file" in ours.troubles["billing"][1]
