"""The way to one gateway that outlives its tokens, its connections and its restarts. Both doors go by it.

Invariant: `send` always answers. A failure becomes a JSON-RPC error. A call that could do its work twice is not sent
twice.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from ..auth.aiohttp import TokenAuth
from ..client.failures import lateness
from ..client.network import Journey
from ..client.proxies import proxy_for
from ..client.transport import tell_request
from ..clock import jitter
from ..errors import ConfigurationError, OAuthError
from ..masking import mask
from ..protocol.http import parse_retry_after
from ..protocol.pauses import backoff
from ..provider import TokenProvider
from .connecting import CurrentTls, phases, watched_socket
from .exchange import LAST_EVENT, SESSION, VERSION, Answer, Question, failure, tells_of_no_session
from .remembered import Session, Sessions

# Bytes. Held in memory whole: a request, so that it can be sent again with another token, and an answer over stdio.
LARGEST_MESSAGE = 32 << 20
# Seconds for which an idle connection is used again, less than servers keep one (5 s and more). What could do its work
# twice is not sent again, so it goes by connections that no server is about to close.
_IDLE, _IDLE_FOR_EFFECTS = 4.0, 0.25
# Bytes of a message that may be parsed to choose a connection.
_QUICKLY_PARSED = 1 << 16
# Seconds until an answer begins: of what can be asked again, and of a tool that takes its time.
_FIRST_BYTE, _FIRST_BYTE_OF_EFFECTS = 60.0, 600.0
# Seconds that a connection may take where the patience is shorter.
_SHORTEST_CONNECT = 1.0
# Seconds until a server of the old transport says where it takes messages.
_FIRST_EVENT = 5.0
_OLD_TRANSPORT = (
    "the gateway speaks HTTP+SSE, the MCP transport of 2024, which the bridge does not. "
    "Give the bridge the URL of its Streamable HTTP endpoint, which often ends in /mcp"
)
_INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'


class Gateway:
    """Sends with `provider`'s tokens; waits `patience` seconds at most for a gateway that cannot be reached.

    `largest` is how many bytes a message may have.
    """

    def __init__(self, provider: TokenProvider, *, patience: float = 30.0, largest: int = LARGEST_MESSAGE) -> None:
        self.largest = largest
        self._provider = provider
        self._auth = TokenAuth(provider)
        self._tls = CurrentTls(provider.control.requester.transport.tls)
        # Once: aiohttp's own `trust_env` reads the environment, and a .netrc on a thread, for each request.
        self._proxy = proxy_for(provider.mcp_url or "")
        if self._proxy is not None and not self._proxy.speaks_http:
            raise ConfigurationError(self._proxy.variable, "names a SOCKS proxy", "The bridge goes by HTTP proxies.")
        self._patience = patience
        self._sessions = Sessions()
        self._host = provider.mcp_url and urlsplit(provider.mcp_url).netloc

    async def __aenter__(self) -> Self:
        self._http = self._client(_IDLE)
        self._http_for_effects = self._client(_IDLE_FOR_EFFECTS)
        return self

    def _client(self, idle: float) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=idle, socket_factory=watched_socket),
            middlewares=(self._auth,),
            trace_configs=[phases()],
            cookie_jar=aiohttp.DummyCookieJar(),
            # Bytes pass as they are, and headers, too.
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            proxy=self._proxy and self._proxy.url,
            proxy_auth=self._proxy and self._proxy.credentials and aiohttp.BasicAuth(*self._proxy.credentials, "utf-8"),
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._http.close()
        await self._http_for_effects.close()

    async def send(self, question: Question) -> Answer:
        """The gateway's answer, or one that says what keeps us from it."""
        session = self._sessions.used(question.headers.get(SESSION))
        answer = await (self._reached(question) if session is None else self._in_session(session, question))
        if not 200 <= answer.status < 600:
            answer.close()
            return failure(question, f"the gateway answered {answer.status}, which is no final status of HTTP")
        if answer.status == 401:
            answer.close()
            return failure(question, "the gateway refuses the tokens that the authorization server gives this client")
        if answer.is_success:
            self._remember(session, question, answer)
        elif (
            answer.status in (400, 404, 405)
            and question.message.get("method") == "initialize"
            and await self._speaks_old_transport(question.url)
        ):
            answer.close()
            return failure(question, _OLD_TRANSPORT)
        return answer

    async def _speaks_old_transport(self, url: str) -> bool:
        """Whether it is a server of before 2025 (MCP, transports: backwards compatibility)."""
        try:
            async with asyncio.timeout(_FIRST_EVENT):
                question = Question("GET", url, {"accept": "text/event-stream"}, b"")
                answer = Answer(await self._begun(question, Journey(_FIRST_EVENT)))
                try:
                    return answer.is_stream and (await answer.peek(15)).startswith(
                        (b"event: endpoint", b"event:endpoint")
                    )
                finally:
                    answer.close()
        except (OAuthError, aiohttp.ClientError, OSError):
            return False

    async def _in_session(self, session: Session, question: Question) -> Answer:
        used = question.headers[SESSION] = session.current
        if session.is_of_another_life(question.life, resumes=LAST_EVENT in question.headers):
            # The server that had the rest of it is gone: its successor would never answer.
            return failure(question, "the gateway restarted, and what it was to answer is lost", 404)
        answer = await self._reached(question)
        # A GET may be answered so where there is no stream of events.
        if (
            question.method == "POST"
            and await tells_of_no_session(answer)
            and await self._revive(session, used, question)
        ):
            answer.close()
            question.headers[SESSION] = session.current
            answer = await self._reached(question)
        answer.life = session.life
        session.has_streamed |= answer.is_stream
        if answer.session is not None and answer.session != session.name:
            answer.rename(session.name)
        return answer

    async def _reached(self, question: Question) -> Answer:
        """Send, and wait for a gateway that is away."""
        give_up_at = time.monotonic() + self._patience
        attempt = 0
        while True:
            pause = backoff(attempt, jitter())
            # Half of what is left: a server that takes connections and is about to end leaves time for another try.
            journey = Journey(max(_SHORTEST_CONNECT, (give_up_at - time.monotonic()) / 2))
            try:
                answer = Answer(await self._begun(question, journey))
                if answer.status not in (502, 503) or not question.is_repeatable:
                    return answer
                # What a proxy says while the gateway behind it restarts.
                asked = parse_retry_after(answer.header(b"retry-after"), time.time())
                pause = max(pause, asked or 0.0)
                if time.monotonic() + pause > give_up_at:
                    return answer
                answer.close()
                problem = f"it answers {answer.status}"
            except OAuthError as error:
                return failure(question, str(error))
            except (aiohttp.ClientError, OSError) as error:
                problem, is_final = self._problem_of(error, question, journey)
                if is_final:
                    return failure(question, problem)
            attempt += 1
            if time.monotonic() + pause > give_up_at:
                return failure(question, f"the gateway cannot be reached: {problem}")
            await asyncio.sleep(pause)

    def _problem_of(self, error: Exception, question: Question, journey: Journey) -> tuple[str, bool]:
        """What keeps a question from its answer, and whether another try is of no use."""
        match error:
            case aiohttp.ClientConnectorCertificateError():
                cause = error.certificate_error
                reason = getattr(cause, "verify_message", "") or type(cause).__name__
                return f"the certificate of {self._host} is refused ({reason})", True
            case aiohttp.ClientConnectorSSLError():
                return f"TLS with {self._host} fails ({_cause(error)})", True
            case aiohttp.ClientHttpProxyError():
                return f"{self._proxy} does not connect ({error.status})", True
            case aiohttp.ClientResponseError():
                return "its answer is not HTTP", not question.is_repeatable
            case aiohttp.ClientProxyConnectionError():
                return f"{self._proxy} is down", False
            case aiohttp.ConnectionTimeoutError():
                return lateness(journey), False
            case aiohttp.ClientConnectorError():
                cause = error.os_error
                # asyncio has words of its own; an unknown name has no number.
                number = cause.errno or 0
                said = os.strerror(number) if number > 0 else mask(cause.strerror or str(cause), ())
                return f"{said} ({journey})" if str(journey) else said, False
            case ssl.SSLError():
                # In TLS 1.3 a server refuses the client's certificate after the handshake.
                return f"TLS with {self._host} fails ({error.reason or 'no reason given'})", True
            case TimeoutError():
                return lateness(journey), not question.is_repeatable
            case _ if not question.is_repeatable:
                return f"the answer was lost on the way ({type(error).__name__})", True
            case _:
                return type(error).__name__, False

    async def _begun(self, question: Question, journey: Journey) -> aiohttp.ClientResponse:
        """The answer, once it begins; a connection has the time of `journey`.

        Raises what aiohttp does, and `TimeoutError`.
        """
        repeatable = len(question.content) <= _QUICKLY_PARSED and question.is_repeatable
        http = self._http if repeatable else self._http_for_effects
        began = time.monotonic()
        async with asyncio.timeout(_FIRST_BYTE if repeatable else _FIRST_BYTE_OF_EFFECTS):
            answer = await http.request(
                question.method,
                # As it is: another spelling may be another resource.
                URL(question.url, encoded=True),
                # Who asks for no coding may get any (RFC 9110 §12.5.3).
                headers={"accept-encoding": "identity"} | question.headers,
                data=question.content or None,
                allow_redirects=False,
                # From the name to the end of a handshake. A stream of events may be silent for as long as it likes.
                timeout=aiohttp.ClientTimeout(total=None, connect=journey.seconds),
                trace_request_ctx=journey,
                ssl=self._tls.context(),
            )
        tell_request(question.method, question.url, answer.status, began)
        return answer

    async def _revive(self, session: Session, used: str, question: Question) -> bool:
        """Begin anew what the client takes for its session; whether there is one now."""
        async with session.reviving:
            if session.current != used:
                return True
            headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
            answer = await self._reached(Question("POST", question.url, headers, session.initialize))
            await answer.drain()
            if not answer.is_success or answer.session is None:
                return False
            session.begin_again(answer.session)
            headers[SESSION] = answer.session
            if VERSION in question.headers:
                headers[VERSION] = question.headers[VERSION]
            for content in (_INITIALIZED, *session.kept.values()):
                await (await self._reached(Question("POST", question.url, headers, content))).drain()
            return True

    def _remember(self, session: Session | None, question: Question, answer: Answer) -> None:
        if session is None:
            if answer.session and question.message.get("method") == "initialize":
                self._sessions.begin(answer.session, question.content)
        elif question.method == "DELETE":
            self._sessions.forget(session.name)
        elif b"resources/" in question.content or b"logging/" in question.content:
            self._sessions.keep(session, question.message, question.content)


def _cause(error: BaseException) -> str:
    cause = error.__cause__
    return str(getattr(cause, "reason", None) or type(cause).__name__)
