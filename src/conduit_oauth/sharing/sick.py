"""The keys of a store that failed lately: each is left alone for a while, for longer each time."""

from __future__ import annotations

# Seconds of the first pause, and of the longest.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
# So many keys are remembered.
_MOST = 256


class Sick:
    """What is known of them. `now` is a reading of the tier's clock."""

    def __init__(self) -> None:
        # The moment of the next try, and the pause after that.
        self._keys: dict[str, tuple[float, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def left(self, key: str, now: float) -> float:
        """Seconds for which `key` is left alone still; 0 or less where it may be tried."""
        until, _ = self._keys.get(key, (now, 0.0))
        return until - now

    def failed(self, key: str, now: float) -> None:
        """Leave `key` alone from now on."""
        _, pause = self._keys.get(key, (0.0, FIRST_PAUSE))
        if len(self._keys) > _MOST:
            self._keys.clear()
        self._keys[key] = now + pause, min(LONGEST_PAUSE, 2 * pause)

    def recovered(self, key: str) -> None:
        """Begin anew with `key`."""
        self._keys.pop(key, None)

    def clear(self) -> None:
        """Try all of them."""
        self._keys.clear()
