"""The policies a route can have, one file each, in the order they run.

To add one: write `filters/<name>.py` with a Filter subclass and a `build(route, config) -> Filter | None`, and add a
line to TABLE. A route without the policy gets None and pays nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kairos.proxy.filters import jwt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kairos.config.model import Config, Route
    from kairos.proxy.exchange import Filter

TABLE: tuple[Callable[[Route, Config], Filter | None], ...] = (
    jwt.build,  # who is it
)


def filters_of(route: Route, config: Config) -> Iterator[Filter]:
    """The filters a route has, in running order."""
    for build in TABLE:
        made = build(route, config)
        if made is not None:
            yield made
