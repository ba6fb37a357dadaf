"""Each regular expression of the package, on the worst of the largest texts that it can see: at most 10 ms."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import re
import time
from collections.abc import Callable, Iterator

import pytest

import conduit_oauth
from conduit_oauth.masking import mask, redact
from conduit_oauth.protocol.challenge import MAX_LENGTH, parse_challenges

LIMIT = 0.010
# How each is used, and the largest text that it sees: a header has no more than httpcore2 takes, a page what is cut of
# it, a text of an answer what the answer may have.
HEADER = 102_400
URL = 8192
TOKEN = 65_536
USES: dict[str, tuple[str, int]] = {
    # A file's name.
    "agent.outputs._DRAFT": ("fullmatch", 255),
    # A path in a file of settings, which is no longer than the file.
    "places._VARIABLE": ("sub", 1 << 20),
    "protocol.challenge._ESCAPED": ("sub", MAX_LENGTH),
    "protocol.challenge._PARAMETER": ("match", MAX_LENGTH),
    "protocol.challenge._SCHEME": ("match", MAX_LENGTH),
    "protocol.challenge._SEPARATOR": ("match", MAX_LENGTH),
    "protocol.challenge._TOKEN68": ("match", MAX_LENGTH),
    "cli.diagnosis._TITLE": ("search", 4096),
    "client.validation._ABSOLUTE_URI": ("match", HEADER),
    "client.validation._WELL_KNOWN": ("search", HEADER),
    "protocol.discovery._SUFFIX": ("search", HEADER),
    "protocol.dpop._NONCE": ("fullmatch", HEADER),
    "masking._BASE64": ("sub", 8192),
    "masking._CONTROL": ("sub", 8192),
    "masking._JSON_ESCAPE": ("sub", 8192),
    "masking._NAMED": ("sub", 8192),
    "masking._TELLING": ("search", 8192),
    "masking._TOKEN_LIKE": ("sub", 8192),
    "masking._UUID": ("sub", 8192),
    "masking._URL_PART": ("sub", 8192),
    "protocol.grant._ACCESS_TOKEN": ("fullmatch", TOKEN),
    "protocol.http._TOKEN": ("fullmatch", HEADER),
    "protocol.http._NUMBER": ("fullmatch", 1 << 20),
    "protocol.grant._SCOPE": ("fullmatch", TOKEN),
    "protocol.metadata._MAX_AGE": ("search", 8192),
    "client.proxies._HOST_AND_PORT": ("fullmatch", HEADER),
    "stores._HOST": ("match", HEADER),
    "client.proxies._SCHEME": ("match", HEADER),
    "protocol.urls._AMBIGUOUS": ("search", URL),
    "protocol.urls._AUTHORITY": ("fullmatch", URL),
}
PIECES = [
    "a",
    "A1",
    "0",
    " ",
    "\t",
    ",",
    "=",
    '"',
    "\\",
    '\\"',
    "a=",
    'a="',
    "a ,",
    "a=b,",
    ", ",
    "%",
    "/",
    "?",
    "&",
    "@",
]
PIECES += [
    "http://",
    "https://a/",
    "a" * 20 + "/",
    "a" * 19 + " ",
    ".",
    "é",
    "\n",
    "<title>",
    "max-age=",
    ",max-age ",
    "[",
]
PIECES += [":", "1:", "/mcp", "/.well-known/", "\0", "-", "+", "\u2028", "!a", "a!"]
TAILS = ["", "!", '"', "\\", "=", ",", "\0", "a", "</title>", "@"]


def patterns() -> dict[str, re.Pattern[str]]:
    found: dict[str, re.Pattern[str]] = {}
    for module in pkgutil.walk_packages(conduit_oauth.__path__, "conduit_oauth."):
        if module.name.endswith("__main__"):
            continue
        loaded = importlib.import_module(module.name)
        for name, value in vars(loaded).items():
            if isinstance(value, re.Pattern):
                found[f"{module.name.removeprefix('conduit_oauth.')}.{name}"] = value
    return found


PATTERNS = patterns()


def worst_texts(size: int) -> Iterator[str]:
    for piece, tail in itertools.product(PIECES, TAILS):
        yield (piece * (size // len(piece) + 1))[: size - len(tail)] + tail


def seconds(work: Callable[[], object]) -> float:
    """Of this thread alone: what else the machine does counts for nothing. The best of three, once it is slow."""
    best = LIMIT * 2
    for _ in range(3):
        begun = time.thread_time()
        work()
        best = min(best, time.thread_time() - begun)
        if best < LIMIT / 2:
            break
    return best


def test_each_pattern_has_its_use() -> None:
    assert sorted(PATTERNS) == sorted(USES)


@pytest.mark.parametrize("name", USES)
def test_no_pattern_takes_long(name: str) -> None:
    method, size = USES[name]
    used = getattr(PATTERNS[name], method)
    work = (lambda text: used("", text)) if method == "sub" else used
    for text in worst_texts(size):
        assert seconds(lambda text=text: work(text)) < LIMIT, (text[:40], text[-5:])


@pytest.mark.parametrize(
    "reads", [parse_challenges, lambda text: mask(text, ["secret-text"]), lambda text: redact(text, ["secret-text"])]
)
def test_what_reads_a_servers_text_does_not_take_long_either(reads: Callable[[str], object]) -> None:
    for text in worst_texts(HEADER):
        assert seconds(lambda text=text: reads(text)) < LIMIT * 5, (text[:40], text[-5:])
