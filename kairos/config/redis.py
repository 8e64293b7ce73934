"""The Redis or Valkey that nodes share."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from msgspec import Meta, field

from kairos.config.spec import Seconds, Spec

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

SCHEMES = ("redis", "rediss", "unix")
INSTALL = "the Python package redis is not installed: pip install 'kairos-gateway[redis]'"


class Redis(Spec, frozen=True):
    """Where nodes share what they count: Redis 5 or newer, or Valkey."""

    url: str
    """`redis://host:port/db`, `rediss://` for TLS, or `unix:///path`; user and password may be part of it."""
    username: str | None = None
    password: str | None = None
    timeout: Annotated[float, Meta(ge=0.005, le=60)] = 0.1
    """Longest wait for an answer. After that Redis counts as down, and nobody waits for it until it answers again."""
    connect_timeout: Seconds = 1.0
    retry: Annotated[float, Meta(ge=0.05, le=3600)] = 5.0
    """Longest pause between two attempts to reach it again; the first one is a tenth of a second."""
    ca_file: str | None = None
    """PEM file of the authorities to trust instead of the system's."""
    cert_file: str | None = None
    """PEM client certificate."""
    key_file: str | None = None
    verify: bool = True
    """False accepts any certificate: for tests only."""
    sentinels: list[str] = field(default_factory=list)
    """`host:port` of Sentinels to ask for the master, instead of the host in `url`."""
    sentinel_master: str = "mymaster"
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    """Of the Sentinels themselves, where they want one."""
    cluster: bool = False
    """It is a Redis Cluster, and `url` names one of its nodes."""
    cluster_nodes: list[str] = field(default_factory=list)
    """`host:port` of further nodes to learn the cluster from while the one in `url` is away."""


def check(spec: Redis, keys: Path, found: Findings) -> None:
    """An address that is one, files that are there, and the package."""
    check_url(spec.url, (*keys, "url"), found)
    for name in ("ca_file", "cert_file", "key_file"):
        value = getattr(spec, name)
        if value is not None and not FilePath(value).is_file():
            found.error((*keys, name), f"there is no file {value}")
    if not spec.verify:
        found.warning(
            (*keys, "verify"), "any certificate is accepted: whoever is in between can read and change counts"
        )
    for name in ("sentinels", "cluster_nodes"):
        for at, text in enumerate(getattr(spec, name)):
            if address_of(text) is None:
                found.error((*keys, name, at), f"'{text}' is not host:port")
    _check_kind(spec, keys, found)


def _check_kind(spec: Redis, keys: Path, found: Findings) -> None:
    """One server, a master that Sentinels know, or a cluster."""
    scheme, _, rest = spec.url.partition("://")
    database = rest.partition("?")[0].partition("/")[2]
    several = "cluster" if spec.cluster else "sentinels" if spec.sentinels else None
    if several is not None and scheme == "unix":
        found.error((*keys, "url"), f"a socket leads to one server: with {several} it must be redis:// or rediss://")
    elif spec.cluster and database not in ("", "0"):
        found.error((*keys, "url"), f"a cluster has database 0 only, not {database}")
    if spec.cluster and spec.sentinels:
        found.error((*keys, "sentinels"), "a cluster does without Sentinels: drop them, or cluster")
    if spec.cluster_nodes and not spec.cluster:
        found.error((*keys, "cluster_nodes"), "without effect: set cluster as well")


def address_of(text: str) -> tuple[str, int] | None:
    """Of `host:port`; None: it is no such thing. An IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return (host, int(port)) if host and port.isdecimal() and 0 < int(port) < 65536 else None


def check_url(url: str, keys: Path, found: Findings) -> None:
    """Of the section, or of a policy's own."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        found.error(keys, f"no URL: {error}")
        return
    if parts.scheme not in SCHEMES or not (parts.path if parts.scheme == "unix" else parts.hostname):
        found.error(keys, "must be redis://host:port/db, rediss://host:port/db or unix:///path")
    elif port == 0:
        found.error(keys, "port 0 cannot be reached")
    elif find_spec("redis") is None:
        found.error(keys, INSTALL)
