"""What is answered without a backend: maintenance pages first of all, fixed answers and redirects last.

A fixed answer is the route's content: whoever may not see the route does not see it either. Pages are read when the
filter is built; nothing but their templates is worked out per request.
"""

from __future__ import annotations

import hmac
import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from kairos.config.policies.answers import MAX_FILE, Page
from kairos.config.values import parse_template
from kairos.proxy.conditions import predicate
from kairos.proxy.exchange import Exchange, Filter, Response
from kairos.proxy.peers import Networks
from kairos.proxy.values import HTML, JSON_TEXT, PATH, json_builder, renderer

if TYPE_CHECKING:
    from collections.abc import Callable

    from kairos.config.policies.answers import Maintenance, Redirect, Respond
    from kairos.proxy.site import Site
    from kairos.proxy.values import Place

_TEXT = "text/plain; charset=utf-8"


# ---- pages


class _Page:
    """An answer, ready but for its templates."""

    def __init__(self, spec: Page, status: int) -> None:
        self._status = status
        self._body, kind = _body(spec)
        self._headers = [(name.encode(), renderer(parse_template(value))) for name, value in spec.headers.items()]
        kind = spec.content_type or kind
        if kind and "content-type" not in map(str.lower, spec.headers):
            self._headers.append((b"Content-Type", renderer(parse_template(kind))))

    def answer(self, x: Exchange, *more: tuple[bytes, bytes]) -> Response | None:
        """None: a value in a field could not be sent."""
        headers = [(name, render(x, None)) for name, render in self._headers]
        if any(_breaks(value) for _, value in headers):
            x.fail_as("bad_value")
            return None
        return Response(self._status, self._body(x), [*headers, *more])


def _breaks(value: bytes) -> bool:
    return b"\r" in value or b"\n" in value or b"\0" in value


def _body(spec: Page) -> tuple[Callable[[Exchange], bytes], str]:
    """What makes the body, and its type by default."""
    if spec.file is not None:
        data = _read(spec.file)
        return lambda x: data, mimetypes.guess_type(spec.file)[0] or "application/octet-stream"
    if spec.json is not None:
        build = json_builder(spec.json, parse_template)
        return lambda x: orjson.dumps(build(x, None)), "application/json"
    if spec.body is None:
        return lambda x: b"", ""
    render = renderer(parse_template(spec.body), _place(spec.content_type or _header(spec, "content-type") or _TEXT))
    return lambda x: render(x, None), _TEXT


def _header(spec: Page, name: str) -> str | None:
    return next((value for key, value in spec.headers.items() if key.lower() == name), None)


def _place(content_type: str) -> Place | None:
    """How values are written in a text of this type."""
    kind = content_type.partition(";")[0].strip().lower()
    if "html" in kind or "xml" in kind:
        return HTML
    return JSON_TEXT if "json" in kind or "javascript" in kind else None


def _read(name: str) -> bytes:
    with Path(name).open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise ValueError(f"{name} has more than {MAX_FILE} bytes")
    return data


# ---- maintenance


def build_maintenance(site: Site) -> Filter | None:
    """The filter of a route that is closed."""
    return None if site.policies.maintenance is None else Closed(site.policies.maintenance)


class Closed(Filter):
    """Everybody gets the page but those who are let in."""

    def __init__(self, spec: Maintenance) -> None:
        bare = spec.body is None and spec.file is None and spec.json is None and not spec.headers
        self._page = None if bare and spec.status == 503 else _Page(spec, spec.status)
        self._again = [] if spec.retry_after is None else [(b"Retry-After", b"%d" % spec.retry_after)]
        self._networks = Networks(spec.allow) if spec.allow else None
        self._keys = [(name.lower().encode(), value.encode()) for name, value in spec.allow_headers.items()]

    def on_request(self, x: Exchange) -> Response | None:
        if self._is_let_in(x):
            return None
        if self._page is None:
            x.fail_as("maintenance", None, self._again)
            return None
        return self._page.answer(x, *self._again)

    def _is_let_in(self, x: Exchange) -> bool:
        if self._networks is not None and x.client in self._networks:
            return True
        given = [(x.header(name), value) for name, value in self._keys]
        return any(sent is not None and hmac.compare_digest(sent, value) for sent, value in given)


# ---- answers and redirects


def build_answer(site: Site) -> Filter | None:
    """The filter of a route that is answered here; a redirect goes before a fixed answer."""
    answers: list[tuple[str | None, Callable[[Exchange], Response | None]]] = []
    if site.policies.redirect is not None:
        answers.append((site.policies.redirect.when, _redirect(site.policies.redirect)))
    if site.policies.respond is not None:
        answers.append((site.policies.respond.when, _respond(site.policies.respond)))
    return Answers(answers) if answers else None


class Answers(Filter):
    """The first one whose condition holds; without one the request goes on."""

    def __init__(self, answers: list[tuple[str | None, Callable[[Exchange], Response | None]]]) -> None:
        self._answers = [(None if when is None else predicate(when), answer) for when, answer in answers]

    def on_request(self, x: Exchange) -> Response | None:
        for holds, answer in self._answers:
            if holds is None or holds(x):
                return answer(x)
        return None


def _respond(spec: Respond) -> Callable[[Exchange], Response | None]:
    return _Page(spec, spec.status).answer


def _redirect(spec: Redirect) -> Callable[[Exchange], Response | None]:
    render = renderer(parse_template(spec.target), PATH)

    def answer(x: Exchange) -> Response:
        target = render(x, None)
        if target.startswith((b"//", b"/\\")):
            target = b"/." + target  # keep a client from reading it as a host (RFC 3986 section 4.2)
        if spec.keep_query and x.query_string:
            target = _with_query(target, x.query_string)
        return Response(spec.status, headers=[(b"Location", target)])

    return answer


def _with_query(target: bytes, query: bytes) -> bytes:
    """In front of the fragment, behind a query of its own."""
    place, mark, fragment = target.partition(b"#")
    return place + (b"&" if b"?" in place else b"?") + query + mark + fragment
