"""One process of a fleet: makes a provider from JSON settings, and does what it is told, a line each way."""

from __future__ import annotations

import json
import logging
import sys
import time

from conduit_oauth import OAuthError, TokenProvider


def main() -> None:
    logging.basicConfig()
    with TokenProvider(**json.loads(sys.argv[1])) as provider:
        print("ready", flush=True)
        for line in sys.stdin:
            order, _, argument = line.strip().partition(" ")
            answer: dict[str, object] = {}
            started = time.time()
            try:
                if order == "get":
                    answer["token"] = provider.get_token()
                elif order == "invalidate":
                    provider.invalidate(argument or None)
                elif order == "cached":
                    answer["cached"] = provider.state().cached
            except OAuthError as error:
                answer["error"] = str(error)
            answer |= {"seconds": time.time() - started, "at": time.time()}
            answer["requests"] = provider.state().counts.token_requests
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
