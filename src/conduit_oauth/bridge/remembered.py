"""What the bridge remembers of its clients' sessions, so that one that the gateway forgot can be begun anew.

Invariant: it is bounded in bytes, of one session and of all. One that nobody used for the longest, or that says too
much, is forgotten, and ends with a restart of the gateway.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

_MOST_OF_ALL = 32 << 20
_MOST_OF_ONE = 1 << 20
# What a session takes beside what its client said.
_OVERHEAD = 2048


@dataclass(slots=True)
class Session:
    """A session by the name that the client knows, and what brings it back where the gateway forgot it."""

    name: str
    current: str
    initialize: bytes
    # The log level and the subscriptions, as they were asked for.
    kept: dict[str, bytes] = field(default_factory=dict[str, bytes])
    reviving: asyncio.Lock = field(default_factory=asyncio.Lock)
    # How often it was begun anew, and whether there was a stream of events since.
    life: int = 0
    has_streamed: bool = True

    def begin_again(self, current: str) -> None:
        """Go by another name at the gateway, which knows nothing of what was before."""
        self.current = current
        self.life += 1
        self.has_streamed = False

    def is_of_another_life(self, life: int | None, *, resumes: bool) -> bool:
        """Whether a request belongs to a stream of an ended `life`, or must, where that is not told."""
        return resumes and (life != self.life if life is not None else not self.has_streamed)

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return _OVERHEAD + len(self.initialize) + sum(len(key) + len(content) for key, content in self.kept.items())


class Sessions:
    """The sessions by name, in the order of their use."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._size = 0

    def used(self, name: str | None) -> Session | None:
        """The session of that name, which is in use now."""
        session = self._sessions.get(name) if name is not None else None
        if session is not None:
            self._sessions.move_to_end(session.name)
        return session

    def begin(self, name: str, initialize: bytes) -> None:
        """Remember a session that the gateway gave this name."""
        self.forget(name)
        self._sessions[name] = Session(name, name, initialize)
        self._grown(self._sessions[name], 0)

    def keep(self, session: Session, message: Mapping[str, Any], content: bytes) -> None:
        """Note what a message asks of its session for as long as that lasts."""
        if self._sessions.get(session.name) is not session:
            return
        before = session.size
        parameters = message.get("params")
        uri = cast("dict[str, Any]", parameters).get("uri") if isinstance(parameters, dict) else None
        match message.get("method"):
            case "logging/setLevel":
                session.kept["level"] = content
            case "resources/subscribe":
                session.kept[f"subscription {uri}"] = content
            case "resources/unsubscribe":
                session.kept.pop(f"subscription {uri}", None)
            case _:
                return
        self._grown(session, before)

    def forget(self, name: str) -> None:
        """Let go of a session, if it is remembered."""
        if (session := self._sessions.pop(name, None)) is not None:
            self._size -= session.size

    def _grown(self, session: Session, before: int) -> None:
        self._size += session.size - before
        if session.size > _MOST_OF_ONE:
            self.forget(session.name)
        while self._size > _MOST_OF_ALL:
            self.forget(next(iter(self._sessions)))
