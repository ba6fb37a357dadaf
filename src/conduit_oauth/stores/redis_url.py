"""What the URL of a Redis store says: which servers, by which client of redis-py, with whose password."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlencode, urlsplit, urlunsplit

import redis
from redis import connection as connections
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import Connection, ConnectionPool, SSLConnection
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import Sentinel

from ..errors import ConfigurationError
from ..identity.sources import Source, from_environment, read_text
from . import split
from .redis_connection import MasterConnection, SecureConnection, SecureMasterConnection, StoreConnection

MakeClient = Callable[[], "redis.Redis | RedisCluster"]
# Ours; every other parameter is redis-py's.
_OURS = (
    "prefix",
    "password_file",
    "password_environment",
    "sentinel_user",
    "sentinel_password",
    "sentinel_password_file",
    "sentinel_password_environment",
)
_PORTS = {"sentinel": 26379}
# What would change what is stored.
_CHANGING_BYTES = frozenset({"decode_responses", "encoding", "encoding_errors"})
# What a pool takes and no connection.
_OF_POOLS = ("max_connections", "timeout")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is: how to make the client that talks to it, and what its keys begin with.

    `secrets` gives the passwords that are sent there, as they are now.
    """

    make: MakeClient
    prefix: str
    secrets: Callable[[], list[str]]


class Password(redis.CredentialProvider):
    """The user of the URL, and a password that is somewhere else, read anew for each connection."""

    def __init__(self, user: str | None, source: Source) -> None:
        self._user = user
        self._source = source
        self.get_credentials()

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """What redis-py asks for at each connection. Raises `ConfigurationError`."""
        password = read_text(self._source, "store password")
        return (password,) if self._user is None else (self._user, password)


def place_of(url: str, timeout: float) -> Place:
    """What `url` says. Raises `ConfigurationError`; connects to nobody."""
    parts = split(url)
    scheme, _, kind = parts.scheme.partition("+")
    scheme = scheme.replace("valkey", "redis")
    if kind not in ("", "sentinel", "cluster"):
        raise ConfigurationError("store", f"+{kind} is unknown", "Use +sentinel or +cluster.")
    try:
        said = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        ours = {name: said.pop(name)[0] for name in _OURS if name in said}
        user, _, hosts = parts.netloc.rpartition("@")
        servers = [_address(host, _PORTS.get(kind, 6379)) for host in hosts.split(",")]
        if len(servers) > 1 and not kind:
            raise ConfigurationError("store", "names several servers", "Use redis+sentinel:// or redis+cluster://.")
        path = parts.path if kind != "sentinel" else "/" + parts.path.strip("/").partition("/")[2]
        first = f"{user}@{hosts.split(',')[0]}" if user else hosts.split(",")[0]
        plain = urlunsplit((scheme, first, path, urlencode(said, doseq=True), ""))
        settings = _settings(plain, timeout, ours, unquote(user.partition(":")[0]))
        if changing := sorted(_CHANGING_BYTES & settings.keys()):
            raise ConfigurationError("store", f"has {changing[0]}, and what is stored is bytes", "Leave it out.")
        connection = _checked_connection(settings)
    except OSError as error:
        problem = f"names certificates that cannot be used ({error})"
        raise ConfigurationError(
            "store", problem, "Name PEM files in ssl_ca_certs, ssl_certfile and ssl_keyfile."
        ) from None
    except (ValueError, TypeError) as error:
        # The URL may hold a password: what redis-py says of it is not repeated.
        problem = f"is no URL that redis-py takes ({type(error).__name__})"
        raise ConfigurationError("store", problem, "Write redis://user:password@host:port/db.") from None
    prefix, secrets = ours.get("prefix", "conduit-oauth"), partial(_secrets_in, settings, ours)
    if kind == "cluster":
        return Place(partial(_cluster, servers, connection, settings), prefix, secrets)
    if kind == "sentinel":
        return Place(partial(_behind_sentinels, servers, parts.path, connection, settings, ours), prefix, secrets)
    if named := [name for name in ours if name.startswith("sentinel_")]:
        raise ConfigurationError("store", f"has {named[0]} and no Sentinel", "Use redis+sentinel://.")
    ((host, port),) = servers
    return Place(partial(_single, host, port, connection, settings), prefix, secrets)


def _settings(url: str, timeout: float, ours: dict[str, str], user: str) -> dict[str, Any]:
    """Those of redis-py's connections. Raises `ValueError` for what it does not take."""
    settings: dict[str, Any] = cast("Any", connections).parse_url(url)
    settings.pop("host", None)
    settings.pop("port", None)
    settings |= {"retry": Retry(NoBackoff(), 0)}
    for name, value in _limits(timeout).items():
        settings.setdefault(name, value)
    _look_elsewhere_for_password(settings, ours, user)
    return settings


def _checked_connection(settings: dict[str, Any]) -> type[StoreConnection]:
    """The class of the connections. One that is made names what redis-py does not know, before anybody connects."""
    is_secure = settings.pop("connection_class", Connection) is SSLConnection
    connection = SecureConnection if is_secure else StoreConnection
    probe = connection(**{name: value for name, value in settings.items() if name not in _OF_POOLS})
    if isinstance(probe, SecureConnection):
        probe.context()
    return connection


def _limits(timeout: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        # Without HELLO, which old servers, some proxies and narrow ACLs do not know.
        "protocol": 2,
        # Fewer commands for each new connection, and no reading of redis-py's metadata.
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def _address(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "localhost", parts.port or port


def _look_elsewhere_for_password(settings: dict[str, Any], ours: Mapping[str, str], user: str) -> None:
    if (source := _source(ours, "")) is not None:
        settings.pop("username", None)
        settings.pop("password", None)
        settings["credential_provider"] = Password(user or None, source)


def _source(ours: Mapping[str, str], whose: str) -> Source | None:
    if (file := ours.get(f"{whose}password_file")) is not None:
        return Path(file)
    variable = ours.get(f"{whose}password_environment")
    return None if variable is None else from_environment(variable)


def _secrets_in(settings: Mapping[str, Any], ours: Mapping[str, str]) -> list[str]:
    found = [settings.get("password"), ours.get("sentinel_password")]
    for source in filter(None, (_source(ours, ""), _source(ours, "sentinel_"))):
        with contextlib.suppress(ConfigurationError):  # it cannot be read any more, so nobody sends it
            found.append(read_text(source, "store password"))
    return [str(secret) for secret in found if secret]


def _single(host: str, port: int, connection: type[Connection], settings: Mapping[str, Any]) -> redis.Redis:
    return redis.Redis.from_pool(ConnectionPool(connection, host=host, port=port, **settings))


def _cluster(
    seeds: Sequence[tuple[str, int]], connection: type[Connection], settings: Mapping[str, Any]
) -> RedisCluster:
    # With one shard down, the others still work.
    nodes = [ClusterNode(host, port) for host, port in seeds]
    # Before redis-py 8.1 a cluster refuses to hear that maintenance notifications are off; without RESP3 they are.
    given = {name: value for name, value in settings.items() if name not in ("db", "maint_notifications_config")}
    # Of its two ways to make connections, the one by a URL takes a class of ours.
    host, port = seeds[0]
    url = f"redis://[{host}]:{port}" if ":" in host else f"redis://{host}:{port}"
    return cast("Any", RedisCluster)(
        url=url, startup_nodes=nodes, require_full_coverage=False, connection_class=connection, **given
    )


def _behind_sentinels(
    sentinels: Sequence[tuple[str, int]],
    path: str,
    connection: type[Connection],
    settings: Mapping[str, Any],
    ours: Mapping[str, str],
) -> redis.Redis:
    """The client that always talks to the master of `/service/db`."""
    own = ("username", "password", "credential_provider", "db", "client_name")
    asked = {name: value for name, value in settings.items() if name not in own}
    user = ours.get("sentinel_user")
    if (source := _source(ours, "sentinel_")) is not None:
        asked["credential_provider"] = Password(user, source)
    elif (password := ours.get("sentinel_password")) is not None:
        asked |= {"username": user, "password": password}
    service = path.strip("/").partition("/")[0]
    is_secure = issubclass(connection, SecureConnection)
    sentinel = cast("Any", Sentinel)(list(sentinels), sentinel_kwargs={**asked, "ssl": is_secure}, **settings)
    for each in sentinel.sentinels:
        each.connection_pool.connection_class = connection
    return sentinel.master_for(service, connection_class=SecureMasterConnection if is_secure else MasterConnection)
