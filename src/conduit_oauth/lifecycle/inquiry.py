"""What one asks of a token at its server: whether it is valid (RFC 7662), and to forget it (RFC 7009).

Invariant: a question is retried like a token request, and ends at the caller's deadline.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..client.requester import Requester
from ..client.transport import Errand, Sender
from ..clock import Clock, jitter
from ..errors import DiscoveryError, OAuthError
from ..identity.credentials import Credentials
from ..protocol.client_auth import METHODS
from ..protocol.grant import about_token_form, judge_introspection, judge_revocation, token_request
from ..protocol.pauses import pause_after
from ..runtime.landing import Flag
from .flight import pause_on

T = TypeVar("T")


def introspect(requester: Requester, clock: Clock, token: str, deadline: float) -> dict[str, Any] | OAuthError:
    """What the server says of `token` (RFC 7662 §2.2). Errors are returned, without the frames that hold `token`."""
    ask = functools.partial(_ask, requester, "introspection_endpoint", token, judge_introspection)
    return _persistently(ask, requester.transport, clock, deadline)


def revoke(requester: Requester, clock: Clock, token: str, deadline: float, *, once: bool = False) -> OAuthError | None:
    """Have the server forget `token` (RFC 7009 §2.1). Errors are returned, without the frames that hold `token`."""
    ask = functools.partial(_ask, requester, "revocation_endpoint", token, judge_revocation)
    return _persistently(ask, requester.transport, clock, deadline, once=once)


def _persistently(
    ask: Callable[[Sender], T], sender: Sender, clock: Clock, deadline: float, *, once: bool = False
) -> T | OAuthError:
    attempt = 0
    while True:
        try:
            return ask(Errand(sender, deadline - clock()))
        except OAuthError as error:
            left = deadline - clock()
            pause = pause_after(error, attempt, jitter(), left)
            if once or not error.retryable or pause >= left:
                return error.again()
        attempt += 1
        pause_on(Flag(), pause)


def _ask(requester: Requester, endpoint: str, token: str, judge: Callable[..., T], sender: Sender) -> T:
    config = requester.config
    configured = config.introspection_endpoint if endpoint == "introspection_endpoint" else config.revocation_endpoint
    locate = requester.locator.locate if configured else requester.locator.published
    found = locate(sender, requester.attempt_timeout)
    url = configured or requester.endpoint(found, endpoint)
    if url is None:
        raise DiscoveryError(
            endpoint,
            requester.locator.target,
            "is not known",
            f"metadata of the issuer that names its {endpoint}",
            cause=f"no-{endpoint.replace('_', '-')}",
            advice=f"Configure {endpoint}, or issuer where its metadata names it.",
        )

    def attempt(credentials: Credentials, tried: tuple[str, ...]) -> T:
        signing = requester.signing(endpoint, url, found, credentials)
        signing.secrets.append(token)
        signing.form.extend(about_token_form(token))
        METHODS[tried[-1]](signing)
        request = token_request(url, signing.headers, signing.form)
        response = sender.send(request, requester.attempt_timeout)
        asked = requester.asked(endpoint, found, signing, tried)
        return judge(url, response, secrets=signing.secrets, wall_now=time.time(), asked=asked)

    return requester.authentication.run(endpoint, found, attempt)
