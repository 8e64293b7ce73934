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
    for at, text in enumerate(spec.sentinels):
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            found.error((*keys, "sentinels", at), f"'{text}' is not host:port")


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
