"""What a backend is told of a caller: claims as headers, which no client can put there in the gateway's stead.

A name that tells of callers on one route is the gateway's on all: backends serve several routes, and believe the name.
Where names with `_` pass, so are those that an application may fold into it.
"""

from __future__ import annotations

import json
import re
from itertools import product
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from kairos.config.values import parse_template
from kairos.proxy.edits import Edits, edit
from kairos.proxy.fields import REQUEST_OWN
from kairos.proxy.identity import claim

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from kairos.config.model import Config
    from kairos.config.policies import Policies
    from kairos.proxy.site import Services, Site

_PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
"""A text that every recipient of a header reads as it was written: no blanks around it, nothing beyond ASCII."""
CALLER = frozenset({"claims", "subject"})
"""Values that templates take from who asks."""
FOLDS = 4
"""Of a name with more `-` not all variants are looked for."""
_RESERVED: WeakKeyDictionary[Services, tuple[str, ...]] = WeakKeyDictionary()
"""Of each snapshot: looked for once for all of its routes."""


def reserved_headers(site: Site) -> tuple[str, ...]:
    """Every name that tells of callers somewhere in the configuration."""
    if site.services not in _RESERVED:
        _RESERVED[site.services] = reserved_in(site.config)
    return _RESERVED[site.services]


def reserved_in(config: Config) -> tuple[str, ...]:
    """Also those of sections that are turned off: a route that sends them may be back with the next reload."""
    holders = (config, *config.groups.values(), *config.routers)
    names = [*config.headers.identity, *(name for holder in holders for name in _told_by(holder))]
    if config.headers.underscores:
        names = [variant for name in names for variant in _folded(name)]
    return tuple({name.lower(): name for name in names}.values())


def _told_by(holder: Policies) -> Iterator[str]:
    """The names by which a level's policies tell backends of callers."""
    if holder.auth is not None:
        yield from holder.auth.claims_to_headers.values()
    if holder.forward_auth is not None:
        yield from holder.forward_auth.response_headers
    if holder.request_transformation is not None:
        yield from (rule.name for rule in holder.request_transformation.headers if _has_claims(rule.value))


def _has_claims(template: str | None) -> bool:
    return template is not None and any(source.name in CALLER for source in parse_template(template).sources())


def _folded(name: str) -> Iterator[str]:
    """A name with `_` in place of any `-`; of one with many, in place of none or all."""
    parts = name.replace("_", "-").split("-")
    if len(parts) - 1 > FOLDS:
        yield from (name, "-".join(parts), "_".join(parts))
        return
    for signs in product("-_", repeat=len(parts) - 1):
        yield parts[0] + "".join(sign + part for sign, part in zip(signs, parts[1:], strict=True))


def claim_edits(claims: Mapping[str, Any], headers: Mapping[str, str], reserved: Collection[str] = ()) -> Edits:
    """Each header with its claim's value; one whose claim is not there, or that is another route's, is removed."""
    told = {header: header_value(claim(claims, name)) for name, header in headers.items()}
    own = {header.lower() for header in told}
    told |= {header: None for header in reserved if header.lower() not in own}
    return Edits([edit(header, value, REQUEST_OWN) for header, value in told.items()])


def header_value(value: Any) -> bytes | None:
    """A claim as a header: plain texts as they are, a list of plain texts with commas, all else as JSON in ASCII.

    A text that a recipient could read differently (blanks around it, a comma in a list, a quote in front, which is
    how JSON begins) is JSON too, so that no text passes for another.
    """
    if value is None:
        return None
    if isinstance(value, str) and _is_plain(value):
        return value.encode()
    if isinstance(value, list) and value and all(isinstance(item, str) and _is_item(item) for item in value):
        return ",".join(value).encode()
    return json.dumps(value, separators=(",", ":")).encode()


def _is_plain(text: str) -> bool:
    return _PLAIN.fullmatch(text) is not None and text[0] not in '"[{'


def _is_item(text: str) -> bool:
    return "," not in text and _is_plain(text)
