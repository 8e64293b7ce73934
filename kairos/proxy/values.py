"""Values of an exchange: the sources of kairos.config.values looked up, templates filled in.

A reader gives bytes as they came, a JSON value (of claims and bodies), or None for what is not there. Where a value
is put decides how it is written: a Place makes it harmless there. Compiled at load; a constant costs nothing.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.config.values import Source, Template, Value
    from kairos.proxy.exchange import Exchange

Reader = Callable[["Exchange", Any], Any]
"""Of an exchange and, in body templates, the parsed body."""
Renderer = Callable[["Exchange", Any], bytes]


class Place(NamedTuple):
    """Where values are put: how they are written there."""

    escape: Callable[[Source, bytes], bytes]
    raw: bool = False
    """Parameters of the path are taken as they stand in it, not decoded."""


_PATH_SAFE = "/%:@!$&'()*+,;=~"
_RAW = frozenset({"params", "path"})
"""Sources that are parts of a path already."""


# ---- sources


def reader(value: Value, raw: bool = False) -> Reader:
    """What gives the first alternative that is there."""
    readers = [_literal(part) if isinstance(part, str) else _reader(part, raw) for part in value]
    if len(readers) == 1:
        return readers[0]

    def read(x: Exchange, body: Any) -> Any:
        return next((found for one in readers if (found := one(x, body)) is not None), None)

    return read


def _literal(text: str) -> Reader:
    data = text.encode()
    return lambda x, body: data


def _reader(source: Source, raw: bool) -> Reader:
    if raw and source.name == "params":
        param = str(source.path[0])
        return lambda x, body: x.params.get(param)
    if source.path and source.name in _NAMED:
        lookup, name = _NAMED[source.name], str(source.path[0])
        key = name.encode("latin-1", "replace")
        return lambda x, body: lookup(x, key)
    if source.name == "claims":
        return lambda x, body: None if x.identity is None else step_into(x.identity.claims, source.path)
    if source.name == "body":
        return lambda x, body: step_into(body, source.path)
    plain = _PLAIN[source.name]
    return lambda x, body: plain(x)


def step_into(value: Any, path: tuple[str | int, ...]) -> Any:
    """A member of a JSON value; None where there is none."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(str(step))
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _param(x: Exchange, name: bytes) -> bytes | None:
    found = x.params.get(name.decode("latin-1"))
    return None if found is None else unquote_to_bytes(found)


def _header(x: Exchange, name: bytes) -> bytes | None:
    return x.upstream_header(name)


def _query(x: Exchange, name: bytes) -> bytes | None:
    return next((value for key, value in query_pairs(x.query_string) if key == name), None)


def query_pairs(query: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and values of a query, decoded."""
    for part in query.split(b"&") if query else ():
        name, _, value = part.partition(b"=")
        yield query_text(name), query_text(value)


def query_text(text: bytes) -> bytes:
    """A name or value as it stands in a query, decoded."""
    return unquote_to_bytes(text.replace(b"+", b" ")) if b"%" in text or b"+" in text else text


def cookie(x: Exchange, name: bytes) -> bytes | None:
    """The first cookie of this name (RFC 6265 section 5.4)."""
    wanted = name + b"="
    for key, value in x.headers:
        if key.lower() == b"cookie":
            for part in value.split(b";"):
                given = part.strip()
                if given.startswith(wanted):
                    return given[len(wanted) :].strip(b'"')
    return None


_NAMED: dict[str, Callable[[Exchange, bytes], bytes | None]] = {
    "params": _param,
    "headers": _header,
    "query": _query,
    "cookies": cookie,
    "response_headers": lambda x, name: x.response_header(name),
}
_PLAIN: dict[str, Callable[[Exchange], Any]] = {
    "method": lambda x: x.method.encode(),
    "host": lambda x: x.host.encode("latin-1"),
    "path": lambda x: x.path,
    "scheme": lambda x: x.client_scheme.encode(),
    "client_ip": lambda x: x.client.encode(),
    "request_id": lambda x: x.request_id_str.encode(),
    "route": lambda x: x.plan.name.encode(),
    "subject": lambda x: None if x.identity is None else x.identity.subject.encode(),
    "variant": lambda x: x.plan.variant.encode() or None,
    "status": lambda x: b"%d" % x.status,
}


# ---- as text


def as_bytes(value: Any) -> bytes:
    """A value as text: nothing for None, strings as they are, all else as JSON."""
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else orjson.dumps(value)


def renderer(template: Template, place: Place | None = None) -> Renderer:
    """What fills a template in; texts between the values stay as they are."""
    parts = [part.encode() if isinstance(part, str) else _rendered(part, place) for part in template.parts]
    if template.constant is not None:
        constant = template.constant.encode()
        return lambda x, body: constant
    if len(parts) == 1 and not isinstance(parts[0], bytes):
        return parts[0]
    return lambda x, body: b"".join([part if isinstance(part, bytes) else part(x, body) for part in parts])


def _rendered(value: Value, place: Place | None) -> Renderer:
    if place is None:
        read = reader(value)
        return lambda x, body: as_bytes(read(x, body))
    escape = place.escape
    readers = [(part, reader((part,), place.raw)) for part in value]

    def render(x: Exchange, body: Any) -> bytes:
        for part, read in readers:
            found = read(x, body)
            if found is not None:
                return as_bytes(found) if isinstance(part, str) else escape(part, as_bytes(found))
        return b""

    return render


def _path_part(source: Source, text: bytes) -> bytes:
    return quote_from_bytes(text, _PATH_SAFE if source.name in _RAW else "").encode()


def _html_text(_: Source, text: bytes) -> bytes:
    return html.escape(text.decode(errors="replace")).encode()


def _json_text(_: Source, text: bytes) -> bytes:
    return orjson.dumps(text.decode(errors="replace"))[1:-1]


PATH = Place(_path_part, raw=True)
"""In a path: what came from one stays as it was, all else becomes one segment or a part of it."""
HTML = Place(_html_text)
"""In HTML or XML."""
JSON_TEXT = Place(_json_text)
"""Within the quotes of a JSON string."""


# ---- as JSON


def json_builder(template: Any, parse: Callable[[str], Template]) -> Callable[[Exchange, Any], Any]:
    """What makes a JSON value of a template: each string in it is one. A string that is nothing but one value becomes
    that value, whatever its type (null where it is not there); nothing is ever spliced as text.
    """
    if isinstance(template, str):
        return _json_string(parse(template))
    if isinstance(template, dict):
        members = {key: json_builder(item, parse) for key, item in template.items()}
        return lambda x, body: {key: build(x, body) for key, build in members.items()}
    if isinstance(template, list):
        items = [json_builder(item, parse) for item in template]
        return lambda x, body: [build(x, body) for build in items]
    return lambda x, body: template


def _json_string(template: Template) -> Callable[[Exchange, Any], Any]:
    if template.single is not None:
        read = reader(template.single)
        return lambda x, body: _as_json(read(x, body))
    render = renderer(template)
    return lambda x, body: render(x, body).decode(errors="replace")


def _as_json(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
