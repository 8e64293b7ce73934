"""Route patterns and the trie they grow into: the part of the route table that runs once, at load.

`routes.pyx` says what patterns mean and flattens the trie. Routes come as (hosts, external_path, methods,
trailing_slash, value); no hosts means any host.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from kairos._speedups.target import TargetError, normal_host, normal_path

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

Segment: TypeAlias = bytes | tuple[bytes, ...] | None
RouteRow: TypeAlias = "tuple[Collection[str], str, Collection[str], str, Any]"
Entry: TypeAlias = tuple[int, int, int]
"""Route index, method mask, kind."""

WRITTEN, TWIN, TWIN_REDIRECT = range(3)
"""How a route comes to a terminal: by its own pattern, or by trailing_slash ignore or redirect."""

MAX_PARAMS = 16
MAX_SEGMENTS = 64
"""Of a pattern with parameters; bounds the recursion of a search."""
MAX_AFFIX = 256
"""Literal bytes of a segment with parameters."""

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "", "CONNECT")
"""By method id; 8 stands for all that a route cannot list."""
METHOD_IDS = {name: number for number, name in enumerate(METHODS) if name}
GET, HEAD, OTHER = 0, 1, 8

PLACEHOLDER = re.compile(r"\{(\w+)(:path)?\}")
LEFT_ALONE = "".join(map(chr, range(0x80))).replace(" ", "")


class RouteError(ValueError):
    """A pattern, host, method or policy that cannot be compiled."""


class RouteConflict(RouteError):  # noqa: N818 - the name config problems are told by
    """Two routes for the same host, pattern and method; `first` and `second` are their indexes."""

    def __init__(self, text: str, first: int, second: int) -> None:
        super().__init__(text)
        self.first = first
        self.second = second


def method_id(name: str) -> int:
    """The number of a method."""
    return METHOD_IDS.get(name, OTHER)


def method_names(mask: int) -> tuple[str, ...]:
    """The methods of a mask, as for an Allow field."""
    return tuple(name for number, name in enumerate(METHODS) if name and mask >> number & 1)


def method_mask(methods: Iterable[str]) -> int:
    """The bits of the methods a route lists."""
    mask = 0
    for name in methods:
        if name not in METHOD_IDS:
            raise RouteError(f"method {name!r}: one of {', '.join(METHOD_IDS)}")
        mask |= 1 << METHOD_IDS[name]
    if not mask:
        raise RouteError("a route needs at least one method")
    return mask


def host_key(host: str) -> bytes:
    """A configured host as the table's key: in normal form, `*.suffix` as `.suffix`."""
    name = host.removeprefix("*.")
    try:
        wire, port = normal_host(name.encode("ascii" if name.isascii() else "idna"))
    except (TargetError, UnicodeError) as error:
        raise RouteError(f"host {host!r}: {error}") from None
    if port is not None:
        raise RouteError(f"host {host!r}: give the name without a port")
    return b"." + wire if name != host else wire


def encoded(text: str) -> bytes:
    """Config text as path bytes: spaces and what is not ASCII are percent-encoded as UTF-8, as user agents do."""
    return (text if text.isascii() and " " not in text else quote(text, safe=LEFT_ALONE)).encode()


class Pattern:
    """An external path: its segments in normal form, and the names of its parameters in order.

    A segment is bytes (literal), a tuple of the literals around its parameters (`(b"", b"")` for a whole one), or None
    for a tail. Patterns that match the same paths with the same precedence have equal segments.
    """

    __slots__ = ("names", "path", "segments")

    def __init__(self, path: str) -> None:
        if not path.startswith("/"):
            raise RouteError(f"{path!r} must begin with a slash")
        self.path = path
        self.names: list[str] = []
        texts = path[1:].split("/")
        self.segments = tuple(self._segment(text, at == len(texts) - 1) for at, text in enumerate(texts))
        self._check_limits()

    @property
    def static(self) -> bool:
        """Whether it has no parameters."""
        return not self.names

    @property
    def tail(self) -> bool:
        """Whether it ends in `{name:path}`."""
        return self.segments[-1] is None

    def twin(self) -> tuple[Segment, ...] | None:
        """The segments with the last slash added or taken away; "/" has none."""
        if self.tail or self.segments[-1] == b"":
            return self.segments[:-1] or None
        return (*self.segments, b"")

    def _segment(self, text: str, last: bool) -> Segment:
        if "{" not in text and "}" not in text:
            return self._literal(text)
        pieces, tail = self._split(text)
        if not tail:
            return pieces
        if pieces != (b"", b"") or not last:
            raise RouteError(f"{self.path!r}: {{name:path}} can only be the whole last segment")
        return None

    def _split(self, text: str) -> tuple[tuple[bytes, ...], bool]:
        """The literals around the parameters of a segment, and whether one of those is a tail."""
        pieces, at, tail = [], 0, False
        for found in PLACEHOLDER.finditer(text):
            pieces.append(self._piece(text[at : found.start()]))
            if found[1] in self.names:
                raise RouteError(f"{self.path!r}: the name {found[1]!r} is used twice")
            self.names.append(found[1])
            tail = tail or found[2] is not None
            at = found.end()
        pieces.append(self._piece(text[at:]))
        return tuple(pieces), tail

    def _literal(self, text: str) -> bytes:
        wire = self._normal(b"/" + encoded(text))
        if wire == b"/" and text:
            raise RouteError(f"{self.path!r}: a dot segment would never be matched")
        return wire[1:]

    def _piece(self, text: str) -> bytes:
        if "{" in text or "}" in text:
            raise RouteError(f"{self.path!r}: a parameter is {{name}} or {{name:path}}, of letters, digits and _")
        return self._normal(b"/x" + encoded(text) + b"x")[2:-1] if text else b""

    def _normal(self, wire: bytes) -> bytes:
        try:
            return normal_path(wire)
        except TargetError as error:
            raise RouteError(f"{self.path!r} would never be matched: {error}") from None

    def _check_limits(self) -> None:
        if len(self.names) > MAX_PARAMS:
            raise RouteError(f"{self.path!r}: more than {MAX_PARAMS} parameters")
        if self.names and len(self.segments) > MAX_SEGMENTS:
            raise RouteError(f"{self.path!r}: more than {MAX_SEGMENTS} segments beside parameters")
        for segment in self.segments:
            if isinstance(segment, tuple) and sum(map(len, segment)) > MAX_AFFIX:
                raise RouteError(f"{self.path!r}: more than {MAX_AFFIX} literal bytes beside a parameter")


class Trie:
    """The routes as dicts and lists, for RouteTable to flatten. A node is a number; 0 is any host's root."""

    def __init__(self) -> None:
        self.roots: dict[bytes, int] = {}
        self.statics: dict[tuple[int, bytes], int] = {}
        """(root, whole path) -> terminal"""
        self.literals: dict[tuple[int, bytes], int] = {}
        """(node, segment) -> node"""
        self.mixed: dict[int, dict[tuple[bytes, ...], int]] = {}
        """node -> pieces -> node"""
        self.literal_counts: list[int] = []
        self.params: list[int] = []
        self.tails: list[int] = []
        self.ends: list[int] = []
        self.terminals: list[list[Entry]] = []
        self.root(b"")

    def root(self, host: bytes) -> int:
        """The node where a host's patterns begin."""
        if host not in self.roots:
            self.roots[host] = self._new_node()
        return self.roots[host]

    def add(self, root: int, segments: tuple[Segment, ...], entry: Entry) -> list[Entry]:
        """Put an entry at the terminal of a pattern and return what is there."""
        entries = self.terminals[self._terminal(root, segments)]
        entries.append(entry)
        return entries

    def _new_node(self) -> int:
        for column, value in ((self.literal_counts, 0), (self.params, -1), (self.tails, -1), (self.ends, -1)):
            column.append(value)
        return len(self.params) - 1

    def _terminal(self, root: int, segments: tuple[Segment, ...]) -> int:
        literals = [segment for segment in segments if isinstance(segment, bytes)]
        if len(literals) == len(segments):
            key = (root, b"/" + b"/".join(literals))
            if key not in self.statics:
                self.statics[key] = self._new_terminal()
            return self.statics[key]
        node = root
        for segment in segments:
            if segment is None:
                return self._terminal_of(self.tails, node)
            node = self._child(node, segment)
        return self._terminal_of(self.ends, node)

    def _terminal_of(self, column: list[int], node: int) -> int:
        if column[node] < 0:
            column[node] = self._new_terminal()
        return column[node]

    def _new_terminal(self) -> int:
        self.terminals.append([])
        return len(self.terminals) - 1

    def _child(self, node: int, segment: bytes | tuple[bytes, ...]) -> int:
        if isinstance(segment, bytes):
            return self._literal_child(node, segment)
        if segment == (b"", b""):
            if self.params[node] < 0:
                self.params[node] = self._new_node()
            return self.params[node]
        mixed = self.mixed.setdefault(node, {})
        if segment not in mixed:
            mixed[segment] = self._new_node()
        return mixed[segment]

    def _literal_child(self, node: int, segment: bytes) -> int:
        child = self.literals.get((node, segment))
        if child is None:
            child = self.literals[node, segment] = self._new_node()
            self.literal_counts[node] += 1
        return child


class Growth:
    """The trie of all routes and their twins, and the patterns by route index: once all of `steps` were taken."""

    def __init__(self, routes: Sequence[RouteRow]) -> None:
        self.routes = routes
        self.trie = Trie()
        self.patterns: list[Pattern] = []
        self.steps = _grow(routes, self.trie, self.patterns)

    def finish(self) -> None:
        """Take the steps that are left."""
        for _ in self.steps:
            pass


def _grow(routes: Sequence[RouteRow], trie: Trie, patterns: list[Pattern]) -> Iterator[None]:
    twins = []
    for index, (hosts, path, methods, slash, _) in enumerate(routes):
        if slash not in ("strict", "ignore", "redirect"):
            raise RouteError(f"trailing_slash {slash!r}: one of strict, ignore, redirect")
        pattern = Pattern(path)
        patterns.append(pattern)
        mask, twin = method_mask(methods), pattern.twin()
        roots = [trie.root(host) for host in ({host_key(host) for host in hosts} or {b""})]
        for root in roots:
            _refuse_conflict(trie.add(root, pattern.segments, (index, mask, WRITTEN)), routes)
        if slash != "strict" and twin is not None:
            twins.append((pattern.tail, twin, roots, (index, mask, TWIN if slash == "ignore" else TWIN_REDIRECT)))
        yield
    # `/a` may be the twin of `/a/` and of `/a/{rest:path}`: that of the tail comes last.
    for _, segments, roots, entry in sorted(twins, key=lambda row: row[0]):
        for root in roots:
            trie.add(root, segments, entry)
        yield


def _refuse_conflict(entries: list[Entry], routes: Sequence[RouteRow]) -> None:
    """Raise if the entry just added shares a method with one before it."""
    index, mask, _ = entries[-1]
    for other, other_mask, _ in entries[:-1]:
        if mask & other_mask:
            shared = ", ".join(method_names(mask & other_mask))
            raise RouteConflict(
                f"routes[{other}] {routes[other][1]!r} and routes[{index}] {routes[index][1]!r} are the same pattern"
                f" for {shared} on one host; give them other hosts or methods",
                other,
                index,
            )


def with_head(entries: list[Entry]) -> list[Entry]:
    """The entries of one terminal with HEAD added to GET, unless HEAD is routed there."""
    routed = any(mask >> HEAD & 1 for _, mask, kind in entries if kind != TWIN_REDIRECT)
    head = 0 if routed else 1 << HEAD
    return [(index, mask | head if mask >> GET & 1 else mask, kind) for index, mask, kind in entries]


def mixed_rank(pieces: tuple[bytes, ...]) -> tuple[Any, ...]:
    """Sort key of mixed siblings, most specific first; total, so that the order of routes never matters.

    The first three members are the shape.
    """
    return (-sum(map(len, pieces)), -len(pieces[0]), -len(pieces[-1]), pieces[0], pieces[-1], len(pieces), pieces)


def template_parts(path: str, names: list[str]) -> Iterator[tuple[str, int | None]]:
    """The literals of an internal path, each with the number of the capture behind it; None at the end."""
    at = 0
    for found in PLACEHOLDER.finditer(path):
        if found[2] is None and found[1] in names:
            yield path[at : found.start()], names.index(found[1])
            at = found.end()
    yield path[at:], None
