"""`conduit-oauth doctor`: tries a profile step by step, and tells in words what is wrong and how to mend it."""

from __future__ import annotations

import dataclasses
import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, cast
from urllib.parse import urlsplit

import typer
from rich.text import Text

from ..auth._rules import Destinations
from ..client.locator import drive
from ..client.material import faults_of
from ..client.requester import Requester
from ..client.transport import Errand
from ..clock import elapsed
from ..errors import ConfigurationError, OAuthError, without_query
from ..identity.sources import files_of, read_text
from ..masking import clean, mask
from ..places import expanded
from ..protocol.client_auth import is_changed_by_basic
from ..protocol.http import Request, Response
from ..protocol.urls import origin_of, parse_url
from ..provider import TokenProvider
from ..serving.formats import token_type
from ..token import AccessToken
from .checks import check_way
from .diagnosis import of_configuration, of_discovery, of_resource, of_token_request
from .findings import Checks, Diagnosis, Verdict, bad, good, warning
from .inspection import Inspected, read_jwt
from .options import as_client
from .output import busy, err, out, plain, span
from .profile import Options

_MARKS = {Verdict.GOOD: ("✓", "green"), Verdict.WARNING: ("!", "yellow"), Verdict.BAD: ("✗", "red")}
_INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "conduit-oauth doctor", "version": "1"},
    },
}
# Signed with a time in it.
_SIGNED = ("private_key_jwt", "client_secret_jwt")


@as_client
def doctor(
    options: Options,
    url: Annotated[
        str | None, typer.Argument(help="Resource to call with the token; by default the MCP endpoint.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try a client's set-up step by step, and tell what is wrong and how to mend it. Exit code 1 where something is.

    \b
    conduit-oauth doctor --profile billing
    conduit-oauth doctor --mcp-url https://gateway.example/servers/42/mcp
    """
    told: list[Diagnosis] = []
    for diagnosis in _examine(options, url):
        told.append(diagnosis)
        if not as_json:
            _tell(diagnosis)
        if diagnosis.verdict is Verdict.BAD:
            break
    failed = told[-1].verdict is Verdict.BAD
    if as_json:
        plain(json.dumps([dataclasses.asdict(each) for each in told], indent=2))
    else:
        warnings = sum(each.verdict is Verdict.WARNING for each in told)
        also = f" {warnings} to keep an eye on." if warnings else ""
        said = ("It does not work yet.", "bold red") if failed else ("It works.", "bold green")
        err.print(Text.assemble(said, "" if failed else also))
    raise typer.Exit(1 if failed else 0)


def _tell(diagnosis: Diagnosis) -> None:
    step = diagnosis.step, "bold"
    out.print(Text.assemble(_MARKS[diagnosis.verdict], " ", step, f": {clean(diagnosis.said)}"), soft_wrap=True)
    if diagnosis.advice:
        out.print(f"  → {clean(diagnosis.advice)}", soft_wrap=True)


def _examine(options: Options, url: str | None) -> Checks:
    """Everything, in the order in which one thing needs the other; whoever listens stops at what is bad."""
    try:
        provider = options._replace(settings={**options.settings, "store": "memory:"}).provider()
    except ConfigurationError as error:
        yield of_configuration(error)
        return
    with provider:
        requester = provider.control.requester
        yield good("settings", f"the client {requester.config.client_id}")
        yield from _check_credential(requester)
        tried: set[str] = set()
        yield from _check_ways(requester, provider, [requester.locator.target], tried)
        if requester.locator.token_endpoint is None:
            search = requester.locator.search()
            steps = requester.locator.discovery(search)
            try:
                with busy("Reading metadata"):
                    found = drive(steps, requester.transport, requester.attempt_timeout)
            except OAuthError as error:
                yield of_discovery(error)
                return
            where = (
                f"asked {len(search.findings)} locations"
                if found.server
                else "nothing is published; derived from the URL"
            )
            yield good("discovery", f"the token endpoint is {without_query(found.token_endpoint)} ({where})")
            yield from _check_ways(requester, provider, [found.token_endpoint], tried)
        with busy("Waiting for a token"):
            token = requester.fetch(Errand(requester.transport, requester.attempt_timeout))
        if isinstance(token, OAuthError):
            yield of_token_request(token)
            return
        yield _authenticated(requester)
        yield from _check_token(requester, token, provider)
        if (resource := url or provider.mcp_url) is not None:
            yield from _check_ways(requester, provider, [resource], tried)
            yield _call(resource, provider, token, is_mcp=url is None)


def _check_ways(requester: Requester, provider: TokenProvider, urls: list[str], tried: set[str]) -> Checks:
    config = requester.config
    signs = requester.dpop is not None or config.credentials.private_key is not None or config.method in _SIGNED
    for url in urls:
        origin = origin_of(parse_url(url, "url"))
        if origin not in tried:
            tried.add(origin)
            with busy(f"Trying {origin}"):
                ways = check_way(
                    url,
                    requester.transport,
                    seconds=requester.attempt_timeout,
                    signs=signs,
                    client_context=provider.tls_context(),
                )
                found = list(ways)
            yield from found


def _check_credential(requester: Requester) -> Checks:
    for fault in faults_of(requester):
        yield bad("credential", "credential-unreadable", f"{fault.field}: {fault.problem}", fault.advice)
        return
    for secret in requester.config.credentials.secrets:
        text = read_text(secret, "client_secret")
        if text != text.strip():
            yield warning(
                "credential",
                "secret-with-blanks",
                "the client secret begins or ends with white space",
                "If it was pasted so, take it away: every character counts.",
            )
    for path in _files(requester):
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) & 0o044:
            yield warning(
                "credential",
                "credential-readable-by-others",
                f"other users of this machine can read {path}",
                f"Take that away: chmod 600 {path}",
            )


def _files(requester: Requester) -> Iterator[Path]:
    """What nobody else may read. A platform may keep a workload's short-lived assertions readable."""
    credentials, headers = requester.config.credentials, requester.config.headers
    certificate = credentials.client_certificate
    keys = (credentials.private_key, credentials.key_password, certificate and certificate.key)
    yield from map(expanded, files_of(*credentials.secrets, *keys, *(source for _, source in headers)))
    if requester.dpop is not None:
        yield from map(expanded, requester.dpop.files())


def _authenticated(requester: Requester) -> Diagnosis:
    """How the client authenticated, and why so where no setting says it."""
    step, tried = "client authentication", requester.tried
    said = f"{without_query(requester.locator.token_endpoint or '')} gave a token for {' '.join(tried[-1:])}"
    if len(tried) > 1:
        return dataclasses.replace(
            good(step, f"{said}, after it refused {tried[0]}"),
            advice=f'Set token_endpoint_auth_method = "{tried[-1]}" to save the request that is refused.',
        )
    config = requester.config
    secret = requester.authentication.credentials.client_secret
    is_ours = config.method is None and secret is not None and tried[-1:] == ("client_secret_post",)
    if is_ours and is_changed_by_basic(config.client_id, read_text(secret, "client_secret")):
        return dataclasses.replace(
            good(step, said),
            advice="client_secret_basic encodes characters of this identifier or secret (RFC 6749 §2.3.1), and many "
            "servers do not decode them. So client_secret_post is tried first.",
        )
    return good(step, said)


def _check_token(requester: Requester, token: AccessToken, provider: TokenProvider) -> Checks:
    wanted, granted = (requester.config.scope or "").split(), (token.scope or "").split()
    if missing := sorted(set(wanted) - set(granted)):
        yield warning(
            "scopes",
            "scope-narrowed",
            f"granted are {mask(' '.join(granted), ()) or 'none'}, without {mask(' '.join(missing), ())}",
            "What needs the missing scopes will be refused: have them granted to this client.",
        )
    else:
        yield good("scopes", mask(" ".join(granted), ()) or "the server does not say which")
    left = token.expires_at - elapsed()
    jwt = read_jwt(token.value)
    yield from _check_audience(requester, jwt)
    kind = f"{token_type(provider)} token" + ("" if jwt is None else ", a JWT")
    if left < 60:
        yield warning(
            "token",
            "token-short-lived",
            f"a {kind} that lives {span(left)}",
            "It is refreshed at half of its life, so the server will be asked often; five minutes are usual.",
        )
    else:
        yield good("token", f"a {kind}, that lives {span(left)}")


def _check_audience(requester: Requester, jwt: Inspected | None) -> Checks:
    """Whether a JWT is for the resource that was asked for: a resource has to refuse one that is not (RFC 9068 §4)."""
    named = None if jwt is None else jwt.claims.get("aud")
    audiences = [str(each) for each in (cast("list[object]", named) if isinstance(named, list) else [named])]
    found = requester.locate(requester.transport)
    asked = [value for name, value in requester.config.parameters(found) if name == "resource"]
    if jwt is None or not asked or set(asked) <= set(audiences):
        return
    yield warning(
        "token",
        "audience-differs",
        f"the token is for {mask(', '.join(audiences), ()) if named else 'no audience'}, "
        f"and {', '.join(asked)} was asked for",
        "The server ignores the resource parameter, or knows the resource by another name: see resource and audience.",
    )


def _call(url: str, provider: TokenProvider, token: AccessToken, *, is_mcp: bool) -> Diagnosis:
    """Use the token once, without what an adapter would mend."""
    headers = {
        "Authorization": f"{token_type(provider)} {token.value}",
        "Accept": "application/json, text/event-stream",
    }
    method, content = ("POST", json.dumps(_INITIALIZE).encode()) if is_mcp else ("GET", b"")
    if is_mcp:
        headers["Content-Type"] = "application/json"
    requester = provider.control.requester

    def ask(method: str, content: bytes) -> Response:
        if provider.dpop is not None:
            headers["DPoP"] = provider.dpop.proof(method, url, wall_now=time.time(), access_token=token.value)
        request = Request(method, url, headers, content, reads="errors")
        return requester.transport.send(request, requester.attempt_timeout)

    parts = urlsplit(url)
    try:
        # By the rules of the adapters: the token goes where it was obtained for, and never in the clear.
        Destinations(provider).check(parts.scheme, parts.netloc)
    except ConfigurationError as error:
        return bad("resource", "not-for-this-resource", f"{error.field} {error.problem}", error.advice)
    try:
        with busy(f"Calling {parts.hostname}"):
            answer = ask(method, content)
            nonce = answer.headers.get("dpop-nonce")
            if answer.status == 401 and provider.dpop and provider.dpop.remember(url, nonce, resource=True):
                answer = ask(method, content)
            if session := answer.headers.get("mcp-session-id"):
                headers["Mcp-Session-Id"] = session
                ask("DELETE", b"")
    except OAuthError as error:
        return bad("resource", "resource-no-answer", str(error), "The token is good and the resource does not answer.")
    return of_resource(url, answer, token, is_mcp=is_mcp)
