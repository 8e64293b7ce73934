"""The access log as it is written: a parameter in which a credential may stand is kept out of it, listed or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kairos.config.policies import api_keys, jwt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.config.model import AccessLog, Config
    from kairos.config.policies import Policies
    from kairos.config.problems import Path

MOST_NAME = 64
"""Bytes of a parameter's name that the log knows."""


def logged(config: Config) -> AccessLog:
    """The section, with what is to be redacted in all."""
    own = config.access_log.redact
    return replace(config.access_log, redact=list(dict.fromkeys([*own, *(name for _, name in credentials(config))])))


def credentials(config: Config) -> Iterator[tuple[Path, str]]:
    """Query parameters that carry tokens or keys, and what names them."""
    for at, token in enumerate(config.jwt.sources if config.jwt is not None else ()):
        if token.in_ == "query":
            yield ("jwt", "sources", at, "name"), token.name or jwt.DEFAULT_NAMES[token.in_]
    holders: list[tuple[Path, Policies]] = [((), config)]
    holders += [(("groups", name), group) for name, group in config.groups.items()]
    holders += [(("routers", at), route) for at, route in enumerate(config.routers)]
    for keys, holder in holders:
        for at, source in enumerate(holder.api_keys.sources if holder.api_keys is not None else ()):
            if source.in_ == "query":
                yield (*keys, "api_keys", "sources", at, "name"), source.name or api_keys.DEFAULT_NAMES[source.in_]
