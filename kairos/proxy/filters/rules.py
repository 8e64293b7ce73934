"""Rules of transformations, compiled: for headers, paths and queries.

What they do is decided at load as far as it can be. A rule that lacks what its action needs does nothing, as in
kairos-rs; check() warned of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote_from_bytes

from kairos.config.regex import Regex, Replacement
from kairos.config.values import REQUEST, RESPONSE, Template, parse_template
from kairos.proxy.edits import Edit, Edits, addition, edit
from kairos.proxy.fields import REQUEST_OWN, RESPONSE_OWN
from kairos.proxy.filters.headers import AddMissing
from kairos.proxy.values import PATH, query_text, renderer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kairos.config.policies.transform import HeaderRule, PathRule, QueryRule
    from kairos.proxy.exchange import Exchange
    from kairos.proxy.filters.headers import Step
    from kairos.proxy.values import Place

Replace = Callable[["Exchange", bytes], bytes]


class Side(NamedTuple):
    """One of the two directions headers go."""

    own: frozenset[bytes]
    sources: frozenset[str]
    values: Callable[[Exchange, bytes], list[bytes]]
    set: Callable[[Exchange, str, bytes | None], None]
    add: Callable[[Exchange, str, bytes], None]


REQUESTS = Side(
    REQUEST_OWN,
    REQUEST,
    lambda x, name: x.upstream_values(name),
    lambda x, name, value: x.set_request_header(name, value),
    lambda x, name, value: x.add_request_header(name, value),
)
RESPONSES = Side(
    RESPONSE_OWN,
    RESPONSE,
    lambda x, name: x.shown_values(name),
    lambda x, name, value: x.set_response_header(name, value),
    lambda x, name, value: x.add_response_header(name, value),
)


# ---- headers


def header_steps(rules: Iterable[HeaderRule], side: Side) -> Iterator[Step]:
    """The rules in their order, those known at load joined."""
    run: list[Edit] = []
    for rule in rules:
        step = _header_step(rule, side)
        if isinstance(step, Edit):
            run.append(step)
        elif step is not None:
            if run:
                yield Edits(run)
            run = []
            yield step
    if run:
        yield Edits(run)


def _header_step(rule: HeaderRule, side: Side) -> Edit | Step | None:
    if rule.action == "remove":
        return edit(rule.name, None, side.own)
    if rule.action == "replace":
        return _header_replace(rule, side)
    if rule.value is None:
        return None
    template = parse_template(rule.value, side.sources)
    if template.constant is None:
        return _header_value(rule, template, side)
    value = template.constant.encode()
    if rule.action == "set":
        return edit(rule.name, value, side.own)
    added = addition(rule.name, value, side.own)
    return added if rule.action == "append" else AddMissing(added.lower, Edits([added]))


def _header_value(rule: HeaderRule, template: Template, side: Side) -> Step:
    name, lower, render = rule.name, rule.name.lower().encode(), renderer(template)
    if rule.action == "set":
        return lambda x: side.set(x, name, render(x, None))
    if rule.action == "append":
        return lambda x: side.add(x, name, render(x, None))

    def add(x: Exchange) -> None:
        if not side.values(x, lower):
            side.add(x, name, render(x, None))

    return add


def _header_replace(rule: HeaderRule, side: Side) -> Step | None:
    if rule.pattern is None or rule.replacement is None:
        return None
    name, lower = rule.name, rule.name.lower().encode()
    change = replacer(rule.pattern, rule.replacement, side.sources)

    def replace(x: Exchange) -> None:
        values = side.values(x, lower)
        changed = [change(x, value) for value in values]
        if changed != values:
            side.set(x, name, changed[0])
            for value in changed[1:]:
                side.add(x, name, value)

    return replace


def replacer(
    pattern: str, replacement: str, sources: frozenset[str] = REQUEST, limit: int = 0, place: Place | None = None
) -> Replace:
    """What replaces the first `limit` matches of a pattern, or all of them, in a text."""
    regex = Regex(pattern)
    made = Replacement(parse_template(replacement, sources), regex)
    if not made.values:
        return lambda x, text: regex.replace(text, made, limit)
    renderers = {value: renderer(Template((value,)), place) for value in made.values}

    def replace(x: Exchange, text: bytes) -> bytes:
        return regex.replace(text, made, limit, lambda value: renderers[value](x, None))

    return replace


# ---- paths and queries


Target = Callable[["Exchange", bytes], bytes]
"""What changes a target (path and query)."""


def path_change(rule: PathRule) -> Target:
    """The first match in the path is replaced; a query in the replacement goes in front of the one there is."""
    replace = replacer(rule.pattern, rule.replacement, limit=1, place=PATH)

    def change(x: Exchange, target: bytes) -> bytes:
        path, _, query = target.partition(b"?")
        changed, _, more = replace(x, path).partition(b"?")
        if changed.startswith(b"//"):
            changed = b"/" + changed.lstrip(b"/")  # no server shall take the path's first part for a host
        query = b"&".join(part for part in (more, query) if part)
        return changed + b"?" + query if query else changed

    return change


def query_change(rules: Iterable[QueryRule]) -> Target:
    """Every rule in its order; parameters that none concerns stay as they were written."""
    steps = [step for rule in rules if (step := _query_step(rule)) is not None]

    def change(x: Exchange, target: bytes) -> bytes:
        path, _, query = target.partition(b"?")
        parts = [part for part in query.split(b"&") if part]
        for step in steps:
            parts = step(x, parts)
        return path + b"?" + b"&".join(parts) if parts else path

    return change


_QueryStep = Callable[["Exchange", list[bytes]], list[bytes]]


def _query_step(rule: QueryRule) -> _QueryStep | None:
    name = rule.name.encode()
    if rule.action == "remove":
        return lambda x, parts: [part for part in parts if _name(part) != name]
    if rule.action == "replace":
        return _query_replace(rule, name)
    return _query_value(rule, name)


def _query_replace(rule: QueryRule, name: bytes) -> _QueryStep | None:
    if rule.pattern is None or rule.replacement is None:
        return None
    replace = replacer(rule.pattern, rule.replacement)

    def changed(x: Exchange, part: bytes) -> bytes:
        value = query_text(part.partition(b"=")[2])
        new = replace(x, value)
        return part if new == value else _pair(name, new)

    return lambda x, parts: [changed(x, part) if _name(part) == name else part for part in parts]


def _query_value(rule: QueryRule, name: bytes) -> _QueryStep | None:
    if rule.value is None:
        return None
    render, action = renderer(parse_template(rule.value)), rule.action

    def step(x: Exchange, parts: list[bytes]) -> list[bytes]:
        at = next((at for at, part in enumerate(parts) if _name(part) == name), None)
        if action == "append" or at is None:
            return [*parts, _pair(name, render(x, None))]
        if action == "add":
            return parts
        rest = [part for part in parts[at:] if _name(part) != name]
        return [*parts[:at], _pair(name, render(x, None)), *rest]

    return step


def _name(part: bytes) -> bytes:
    return query_text(part.partition(b"=")[0])


def _pair(name: bytes, value: bytes) -> bytes:
    return f"{quote_from_bytes(name, '')}={quote_from_bytes(value, '')}".encode()
