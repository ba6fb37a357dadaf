"""How much a client of our servers may send. Needs starlette (extras `agent`, `dev`)."""

from __future__ import annotations

from starlette.exceptions import HTTPException

from .listening import Application, Message, Receive, Send

# Bytes: a token, or a form with one.
_LONGEST_BODY = 1 << 20


class BoundedBody:
    """Middleware: of a request's body, no more is kept than what is of use to us."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > _LONGEST_BODY:
                # The rest is read: a client that still sends would not see why.
                while message.get("more_body"):
                    message = await receive()
                raise HTTPException(413, f"a request has {_LONGEST_BODY} bytes at most")
            return message

        await self._app(scope, bounded, send)
