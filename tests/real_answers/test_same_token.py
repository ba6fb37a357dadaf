"""A server that gives the same token until it ends: no storm before the end, no long wait at it, and no warnings."""

from __future__ import annotations

import math

from conduit_oauth import TokenProvider
from tests.conftest import FakeClock, Said
from tests.scripted_server import Asked, ScriptedServer

LIFE = 120.0


def test_a_server_that_gives_the_same_token_until_it_ends(clock: FakeClock, said: Said) -> None:
    begun = clock.now

    def script(asked: Asked) -> None:
        age = clock.now - begun
        number = int(age // LIFE)
        left = math.floor((number + 1) * LIFE - age)
        asked.answer({"access_token": f"token-{number}", "token_type": "Bearer", "expires_in": left})

    with (
        ScriptedServer(script) as server,
        TokenProvider("me", "secret", token_endpoint=f"{server.url}/token", clock=clock) as provider,
    ):
        served: list[str] = []
        # In steps that meet no whole second, as callers do not.
        while clock.now < begun + LIFE + 2:
            served.append(provider.get_token())
            while provider.state().refreshing:
                pass
            clock.step(0.3)
    assert set(served) == {"token-0", "token-1"}
    assert served == sorted(served)
    assert len(server.seen) <= 8
    assert said.count("token_request") == 0
