"""The policies a route can have, one file each, in the order they run.

To add one: write `filters/<name>.py` with a Filter subclass and a `build(site) -> Filter | None`, and add a line to
TABLE. A route without the policy gets None and pays nothing. Responses pass the table from its end to its beginning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kairos.proxy.filters import (
    access,
    answers,
    authn,
    cache,
    compress,
    cors,
    csrf,
    https_only,
    limits,
    mirror,
    misdirected,
    plugins,
    security_headers,
    session_cookies,
    sizes,
    split,
    transform,
    validate,
)
from kairos.proxy.filters.authn import mtls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kairos.proxy.exchange import Filter
    from kairos.proxy.site import Site

TABLE: tuple[Callable[[Site], Filter | list[Filter] | None], ...] = (
    # by what way it came: encryption, networks
    https_only.build,
    misdirected.build,
    access.build_lists,
    access.build_jail,
    answers.build_maintenance,  # closed for now
    # what is done to every answer: security headers, compression, CORS
    security_headers.build,
    compress.build,
    cors.build,
    limits.build_before,  # how often, whoever asks
    mtls.build_header,  # whatever the client says of certificates
    authn.build,  # who is it
    session_cookies.build,
    csrf.build,  # is it that one's own will
    limits.build_after,  # how often, by who it is
    # what was asked: sizes, validation
    sizes.build,
    validate.build,
    answers.build_answer,  # what needs no backend
    split.build,  # which variant
    transform.build_request,  # what is sent on
    transform.build_response,  # what is shown of what comes back
    mirror.build,  # copies
    plugins.build,  # the user's own
    cache.build,  # what need not be asked
)


def filters_of(site: Site) -> Iterator[Filter]:
    """The filters a route has, in running order."""
    for build in TABLE:
        made = build(site)
        if made is not None:
            yield from made if isinstance(made, list) else (made,)


def public_filters(site: Site) -> Iterator[Filter]:
    """Those that run before anybody is asked who it is: for paths that have to be open to all."""
    for build in TABLE[: TABLE.index(mtls.build_header)]:
        made = build(site)
        if made is not None:
            yield from made if isinstance(made, list) else (made,)
