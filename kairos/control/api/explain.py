"""What would become of a request: its route and why, its filters, its backends as they are now. Nothing is sent."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any

from litestar import post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from msgspec.structs import replace

from kairos._speedups.patterns import RouteError
from kairos.config.explain import Destination, Explainer, Explanation, Question
from kairos.config.model import Config
from kairos.control.api.guards import needs
from kairos.control.changes import Changes
from kairos.control.commands import CommandError, Commands

TAGS = ["Routes"]


@post("/api/routes/explain", tags=TAGS, status_code=200, **needs("config:read"))
async def explain_request(
    changes: NamedDependency[Changes], commands: NamedDependency[Commands], data: JSONBody[Question]
) -> Explanation:
    """Which route a request would take in the configuration in use, through which filters, to which backends, and why
    no other."""
    try:
        found = await asyncio.to_thread(_explained, _ById(changes.config), data)
    except (RouteError, ValueError) as error:
        raise CommandError("bad", str(error)) from None
    return replace(found, backends=_as_they_are(found.backends, commands))


class _ById:
    """A configuration for the cache: the same object is the same."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.config is self.config

    def __hash__(self) -> int:
        return id(self.config)


def _explained(config: _ById, question: Question) -> Explanation:
    return _explainer(config).explain(question)


@lru_cache(1)
def _explainer(config: _ById) -> Explainer:
    return Explainer(config.config)


def _as_they_are(backends: list[Destination], commands: Commands) -> list[Destination]:
    """With what health checks, operators and breakers say of them."""
    states: dict[str, Any] = {status.key: status for status in commands.backends()}
    return [
        replace(one, state=states[one.backend].state, breaker=states[one.backend].breaker)
        if one.backend in states
        else one
        for one in backends
    ]


HANDLERS = [explain_request]
