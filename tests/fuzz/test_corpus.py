"""Every input that the fuzzers ever found worth keeping, and what hypothesis makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.targets import SECRET, TARGETS

CORPUS = Path(__file__).parent / "corpus"
CASES = [(name, file) for name in TARGETS for file in sorted((CORPUS / name).iterdir())]


@pytest.mark.parametrize(("name", "file"), CASES, ids=[f"{name}-{file.name}" for name, file in CASES])
def test_the_kept_corpus(name: str, file: Path) -> None:
    TARGETS[name](file.read_bytes())


PIECES = [b'"', b"{", b"}", b":", b",", b"Bearer ", b"error", b"access_token", b"token_type", b"expires_in", b"issuer"]
PIECES += [b"\\", b"\r\n", b"\xff", b"1e999", b"NaN", b"https://as.example/tenant", b"token_endpoint", SECRET.encode()]


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=30).map(b"".join))
def test_pieces_in_any_order(name: str, data: bytes) -> None:
    TARGETS[name](data)
