"""A client of the Redis or Valkey that nodes share, as the section `redis` says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from kairos.config.redis import Redis

log = get_logger("redis")


async def close(client: Any) -> None:
    """Let go of a client, however it is."""
    try:
        async with asyncio.timeout(1):
            await client.aclose()
    except Exception:  # it is gone already
        log.debug("a connection to Redis could not be closed")


def connect(spec: Redis) -> Any:
    """A client of the section; nothing is sent yet. It tries once: whoever asks decides what a failure means."""
    from redis.asyncio import Redis as Client
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff

    options: dict[str, Any] = {
        "socket_connect_timeout": spec.connect_timeout,
        "retry": Retry(NoBackoff(), 0),
        "username": spec.username,
        "password": spec.password,
    }
    if spec.url.startswith("rediss:"):
        options |= {
            "ssl_ca_certs": spec.ca_file,
            "ssl_certfile": spec.cert_file,
            "ssl_keyfile": spec.key_file,
            "ssl_cert_reqs": "required" if spec.verify else "none",
            "ssl_check_hostname": spec.verify,
        }
    given = {name: value for name, value in options.items() if value is not None}
    if spec.sentinels:
        hosts = [(host, int(port)) for host, _, port in (text.rpartition(":") for text in spec.sentinels)]
        return Sentinel(hosts, **given).master_for(  # type: ignore[no-untyped-call]
            spec.sentinel_master
        )
    return Client.from_url(spec.url, **given)


def shown(url: str) -> str:
    """Without what may be a password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
