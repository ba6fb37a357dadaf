"""What a store can see of an entry: a name that tells nothing, and a value that only the credential opens."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from conduit_oauth.identity.credentials import Credentials
from conduit_oauth.identity.tls import ClientCertificate
from conduit_oauth.sharing.sealing import Seal

SEAL = Seal(b"secret", b"identity", "token")


FACTS = "generation", 7, 1_700_000_000.123


def test_what_was_sealed_is_opened_by_the_same_credential() -> None:
    sealed = SEAL.close(b"plain", *FACTS)
    assert Seal(b"secret", b"identity", "token").open(sealed, *FACTS) == b"plain"
    assert b"plain" not in sealed
    assert SEAL.close(b"plain", *FACTS) != sealed


@pytest.mark.parametrize(
    "other",
    [
        Seal(b"other", b"identity", "token"),
        Seal(b"secret", b"other", "token"),
        Seal(b"secret", b"identity", "x"),
        Seal(b"secret", b"identity", "token", b"the store's own"),
    ],
)
def test_another_credential_identity_use_or_store_finds_nothing_and_opens_nothing(other: Seal) -> None:
    assert other.name != SEAL.name
    assert other.digest("token") != SEAL.digest("token")
    assert other.open(SEAL.close(b"plain", *FACTS), *FACTS) is None


@pytest.mark.parametrize(
    "facts",
    [
        ("another", 7, FACTS[2]),
        ("generation", 8, FACTS[2]),
        *(("generation", 7, end) for end in (FACTS[2] + 0.001, math.inf, math.nan, 1e306)),
    ],
)
def test_a_record_is_good_for_its_generation_fence_and_end_only(facts: tuple[str, int, float]) -> None:
    assert SEAL.open(SEAL.close(b"plain", *FACTS), *facts) is None


def test_what_was_changed_is_not_opened() -> None:
    sealed = SEAL.close(b"plain", *FACTS)
    for place in range(len(sealed)):
        assert SEAL.open(sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :], *FACTS) is None
        assert SEAL.open(sealed[:place], *FACTS) is None
    assert SEAL.open(sealed + b"x", *FACTS) is None


@pytest.mark.parametrize(
    ("secret", "is_stretched"),
    [
        (b"demo-secret", True),
        (b"correct horse", True),
        (b"a" * 200, True),
        (b"9f86d081884c7d659a2feaa0c55ad015", False),
        (b"Kx7vQ2mZp9RtY4wLs8Ng3B", False),
    ],
)
def test_guessing_a_secret_by_a_name_costs_a_scrypt_each_and_the_process_one(
    secret: bytes, monkeypatch: pytest.MonkeyPatch, *, is_stretched: bool
) -> None:
    """Unless it has so much of chance that nobody guesses it, or the store has a key that is none of its content."""
    calls: list[bytes] = []

    def scrypt(password: bytes, **_: object) -> bytes:
        calls.append(password)
        return b"stretched"

    monkeypatch.setattr("hashlib.scrypt", scrypt)
    monkeypatch.setattr("conduit_oauth.sharing.sealing._known", {})
    for use in ("token", "pin", "token"):
        Seal(secret, b"identity", use)
    assert calls == ([secret] if is_stretched else [])
    Seal(secret, b"identity", "token", b"pepper")
    assert len(calls) == is_stretched


def test_a_name_has_128_bits_and_nothing_of_the_secret() -> None:
    assert len(bytes.fromhex(SEAL.name)) == 16
    assert Seal(b"secret", b"identity", "token").name == SEAL.name


def test_each_kind_of_credential_counts(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("key of the certificate")
    given = [
        Credentials(),
        Credentials("a"),
        Credentials("b"),
        Credentials(private_key="k"),
        Credentials(private_key={"kty": "EC", "d": "a"}),
        Credentials(client_assertion="c"),
        Credentials("a", assertion="d"),
        Credentials("a", subject_token="e"),
        Credentials(client_certificate=ClientCertificate(tmp_path / "cert.pem", tmp_path / "key.pem")),
    ]
    assert len({each.material() for each in given}) == len(given)
    assert Credentials(lambda: "a").material() == Credentials("a").material()
    one, other = ({"kty": "EC", "d": "a"}, {"d": "a", "kty": "EC"})
    assert Credentials(private_key=one).material() == Credentials(private_key=other).material()
