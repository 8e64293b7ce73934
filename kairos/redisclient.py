"""A client of the Redis or Valkey that nodes share, as the section `redis` says: one server, a master that Sentinels
know, or a cluster.

What is asked of a cluster in one call must lie in one slot: what has the same hash tag does (`{...}` in a key's name).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kairos.config.redis import address_of
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from kairos.config.redis import Redis

log = get_logger("redis")
SCAN = 500
"""Keys of one step."""


async def close(client: Any) -> None:
    """Let go of a client, however it is, and of those that it asked for its master."""
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for one in [client, *(manager.sentinels if manager is not None else ())]:
        try:
            async with asyncio.timeout(1):
                await one.aclose()
        except Exception:  # it is gone already
            log.debug("a connection to Redis could not be closed")


def connect(spec: Redis) -> Any:
    """A client of the section; nothing is sent yet. It tries once: whoever asks decides what a failure means."""
    from redis.asyncio import Redis as Client
    from redis.asyncio.cluster import ClusterNode, RedisCluster
    from redis.asyncio.connection import parse_url
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff

    options = {"socket_connect_timeout": spec.connect_timeout, "retry": Retry(NoBackoff(), 0), **_tls(spec)}
    login = {name: value for name in ("username", "password") if (value := getattr(spec, name)) is not None}
    if not spec.cluster and not spec.sentinels:
        return Client.from_url(spec.url, **options, **login)
    given: dict[str, Any] = {**parse_url(spec.url), **login}
    given.pop("connection_class", None)
    url = given.pop("host"), given.pop("port", 6379)
    if spec.cluster:
        nodes = [ClusterNode(host, port) for host, port in (url, *_addresses(spec.cluster_nodes))]
        return RedisCluster(startup_nodes=nodes, **_with_tls(spec, options), **given)
    theirs = {"username": spec.sentinel_username, "password": spec.sentinel_password, **_with_tls(spec, options)}
    make: Any = Sentinel  # it has no types
    sentinel = make(_addresses(spec.sentinels), sentinel_kwargs=theirs, **_with_tls(spec, options), **given)
    return sentinel.master_for(spec.sentinel_master)


def _tls(spec: Redis) -> dict[str, Any]:
    """What holds for every connection of it."""
    if not spec.url.startswith("rediss:"):
        return {}
    options = {
        "ssl_ca_certs": spec.ca_file,
        "ssl_certfile": spec.cert_file,
        "ssl_keyfile": spec.key_file,
        "ssl_cert_reqs": "required" if spec.verify else "none",
        "ssl_check_hostname": spec.verify,
    }
    return {name: value for name, value in options.items() if value is not None}


def _with_tls(spec: Redis, options: dict[str, Any]) -> dict[str, Any]:
    """For clients that do not take it from an address."""
    return {**options, "ssl": spec.url.startswith("rediss:")}


def _addresses(texts: list[str]) -> list[tuple[str, int]]:
    return [address for text in texts if (address := address_of(text)) is not None]


async def reached(spec: Redis) -> Any | None:
    """A client of one that answers, of a cluster every node that has keys; None: it does not. Nobody waits for that, so
    there is time for each address that may be asked."""
    client = connect(spec)
    patience = spec.timeout + spec.connect_timeout * (1 + len(spec.sentinels) + len(spec.cluster_nodes))
    try:
        async with asyncio.timeout(patience):
            await client.ping(**({"target_nodes": client.PRIMARIES} if spec.cluster else {}))
    except Exception:  # whatever the client raises: not yet
        await close(client)
        return None
    except asyncio.CancelledError:
        await close(client)
        raise
    return client


async def scan(client: Any, spec: Redis, prefix: bytes, cursor: int, pattern: bytes) -> tuple[int, list[bytes]]:
    """A step over the keys with a prefix, in a cluster over the node where they lie: where to go on (0: that was all),
    and those that match."""
    if not spec.cluster:
        step: tuple[int, list[bytes]] = await client.scan(cursor, match=pattern, count=SCAN)
        return step
    node = client.get_node_from_key(prefix)
    cursors, names = await client.scan(cursor, match=pattern, count=SCAN, target_nodes=[node])
    return cursors[node.name], names


def shown(url: str) -> str:
    """Without what may be a password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
