"""What a row of a store may hold, whoever wrote it."""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st

from conduit_oauth.stores import NOTHING, Known
from conduit_oauth.stores.row import LONGEST_GRANT, Row

NOW = 1e9
numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(int(NOW * 1000) - 10, int(NOW * 1000) + 10)
moments = st.floats(allow_nan=False) | st.floats(NOW - 1000, NOW + 1000)


@given(
    value=st.none() | st.just(b"made up"),
    fences=st.tuples(numbers, numbers, numbers, numbers),
    ends=st.tuples(moments, moments, moments),
    generation=st.sampled_from(["", "g"]),
)
@example(None, (0, int(NOW * 1000), int(NOW * 1000), 0), (0.0, math.inf, NOW), "g")
@example(b"made up", (2**63 - 1, 0, int(NOW * 1000), 0), (math.inf, 0.0, NOW), "g")
def test_whatever_it_holds_one_who_needs_a_token_may_soon_ask_for_it(
    value: bytes | None, fences: tuple[int, int, int, int], ends: tuple[float, float, float], generation: str
) -> None:
    fence, lease, last, floor = fences
    expires, lease_until, touched = ends
    row = Row(value, fence, expires, "another", lease, lease_until, last, floor, generation, touched)
    seen = row.claim(NOTHING, "me", 5.0, NOW, "fresh")
    if not seen.lease:
        # What was found there was not sealed by one of us, or another process seems to ask.
        known = Known(seen.generation, seen.fence, seen.last, seen.now)
        assert row.claim(known, "me", 5.0, NOW + LONGEST_GRANT, "fresher").lease > 0
