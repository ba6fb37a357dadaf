"""One process of a fleet: its threads ask for tokens all the time, and it tells what they saw.

python -m tests.operations.member SETTINGS, with a list of the settings of its providers as JSON. Orders come a line
each on standard input: `go`, `count`, `look` (from now on), `invalidate`, `report`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import threading
import time
from collections import Counter
from typing import Any

from conduit_oauth import OAuthError, TokenProvider


class Sight:
    """What one thread saw: the longest wait, the errors, and when each token was handed out last."""

    def __init__(self) -> None:
        self.calls = 0
        self.longest = 0.0
        self.errors: Counter[str] = Counter()
        self.served: dict[str, float] = {}

    def call(self, provider: TokenProvider) -> None:
        begun = time.monotonic()
        try:
            token = provider.get_token()
        except OAuthError as error:
            self.errors[str(error)] += 1
        else:
            self.served[token] = time.time()
        self.longest = max(self.longest, time.monotonic() - begun)
        self.calls += 1


class Said(logging.Handler):
    """Counts what the library says, by its first word."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        # Why a key was left alone says more than that it was.
        self.counts[said[:100] if said.startswith("store_failed") else said.split()[0].rstrip(":")] += 1


def digest(token: str) -> str:
    """A token by which it is known in reports."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def work(providers: list[TokenProvider], sight: Sight, pause: float) -> None:
    while True:
        for provider in providers:
            sight.call(provider)
        time.sleep(pause)


def main() -> None:
    given = json.loads(sys.argv[1])
    said = Said()
    logger = logging.getLogger("conduit_oauth")
    logger.addHandler(said)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    providers = [TokenProvider(**settings) for settings in given["providers"]]
    sights = [Sight() for _ in range(given["threads"])]
    print("ready", flush=True)
    for line in sys.stdin:
        order, answer = line.strip(), dict[str, Any]()
        if order == "go":
            for number, sight in enumerate(sights):
                # Each begins at another client.
                first = number * len(providers) // len(sights)
                turn = providers[first:] + providers[:first]
                threading.Thread(target=work, args=(turn, sight, given["pause"]), daemon=True).start()
        elif order == "count":
            answer = {"calls": sum(sight.calls for sight in sights)}
        elif order == "look":
            for sight in sights:
                sight.longest = 0.0
        elif order == "invalidate":
            token = providers[0].get_token()
            # Before it is done: whoever has the token later has it in spite of that.
            answer = {"void": digest(token), "at": time.time()}
            providers[0].invalidate(token)
        elif order == "report":
            served: dict[str, float] = {}
            for sight in sights:
                for token, last in sight.served.copy().items():
                    served[token] = max(last, served.get(token, 0.0))
            answer = {
                "calls": sum(sight.calls for sight in sights),
                "longest": max(sight.longest for sight in sights),
                "errors": sum((sight.errors for sight in sights), Counter[str]()),
                "served": served,
                "said": said.counts,
            }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
