"""The route table: which route a request gets, told as tables of requests, and checked against a slow model."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kairos._speedups import cells
from kairos._speedups.patterns import Pattern, RouteConflict, RouteError, RouteRow, host_key, method_id
from kairos._speedups.routes import RouteMatch, RouteTable, Template


def row(path: str, *methods: str, hosts: tuple[str, ...] = (), slash: str = "strict", value: Any = None) -> RouteRow:
    return hosts, path, methods or ("GET",), slash, path if value is None else value


def served(table: RouteTable, path: str, method: str = "GET", host: str | None = None) -> tuple[Any, dict[str, str]]:
    """What served a request: (value, params); fails where nothing did."""
    match = table.match(host, path, method)
    assert match.status == "found", match
    return match.value, match.params


def status(table: RouteTable, path: str, method: str = "GET", host: str | None = None) -> str:
    return table.match(host, path, method).status


# --- one pattern -----------------------------------------------------------------------------------------------------

MATCHES = [
    ("/", "/", {}),
    ("/a/b", "/a/b", {}),
    ("/a/", "/a/", {}),
    ("/cats/{id}", "/cats/200", {"id": "200"}),
    ("/api/users/{user_id}", "/api/users/test-123_abc", {"user_id": "test-123_abc"}),
    ("/q/{x}", "/q/a%20b", {"x": "a%20b"}),
    ("/api/orders/{o}/items/{i}", "/api/orders/123/items/456", {"o": "123", "i": "456"}),
    ("/api/products/{id}/details", "/api/products/abc123/details", {"id": "abc123"}),
    ("/f/{a}.{b}", "/f/x.y", {"a": "x", "b": "y"}),
    ("/f/{a}.{b}", "/f/x.y.z", {"a": "x.y", "b": "z"}),
    ("/v{major}/x", "/v2/x", {"major": "2"}),
    ("/{name}.json", "/a.json.json", {"name": "a.json"}),
    ("/{a}-{b}-{c}", "/1-2-3-4", {"a": "1-2", "b": "3", "c": "4"}),
    ("/{a}{b}", "/xyz", {"a": "xy", "b": "z"}),
    ("/files/{rest:path}", "/files/a/b//c", {"rest": "a/b//c"}),
    ("/files/{rest:path}", "/files/", {"rest": ""}),
    ("/{all:path}", "/", {"all": ""}),
    ("/{größe}", "/x", {"größe": "x"}),
    ("/café/{id}", "/caf%C3%A9/1", {"id": "1"}),
    ("/%7euser/{id}", "/~user/1", {"id": "1"}),
    ("/a b", "/a%20b", {}),
    ("/a//b", "/a//b", {}),
    ("/{x}/", "/1/", {"x": "1"}),
    ("/{x}", "/..a", {"x": "..a"}),
]

MISSES = [
    ("/", ""),
    ("/a", "/"),
    ("/a", "/A"),
    ("/a", "/a/"),
    ("/a/", "/a"),
    ("/a", "a"),
    ("/api/users/{id}", "/api/users"),
    ("/api/users/{id}", "/api/users/"),
    ("/api/users/{id}", "/api/users/123/extra"),
    ("/api/users/{id}", "/api/users/123/"),
    ("/{x}/b", "//b"),
    ("/f/{a}.{b}", "/f/x."),
    ("/f/{a}.{b}", "/f/.y"),
    ("/f/{a}.{b}", "/f/."),
    ("/f/{a}.{b}", "/f/xy"),
    ("/v{major}", "/v"),
    ("/v{major}", "/V2"),
    ("/files/{rest:path}", "/files"),
    ("/{x}", "/.."),
    ("/{x}", "/."),
    ("/{x}", "/%2e%2E"),
    ("/{x}", "/.%2e"),
    ("/a{x}", "/a.."),
    ("/{a}.{b}", "/..."),
    ("/files/{rest:path}", "/files/.."),
    ("/files/{rest:path}", "/files/a/%2e%2e/b"),
    ("/files/{rest:path}", "/files/a/."),
]


@pytest.mark.parametrize(("pattern", "path", "params"), MATCHES)
def test_a_pattern_matches_and_captures(pattern: str, path: str, params: dict[str, str]) -> None:
    table = RouteTable([row(pattern)])
    assert served(table, path) == (pattern, params)
    assert table.match(None, path.encode(), "GET").params == params


@pytest.mark.parametrize(("pattern", "path"), MISSES)
def test_a_pattern_does_not_match(pattern: str, path: str) -> None:
    match = RouteTable([row(pattern)]).match(None, path, "GET")
    assert (match.status, match.value, match.params) == ("not_found", None, {})
    assert repr(path) in repr(match)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "begin with a slash"),
        ("a", "begin with a slash"),
        ("/{user_id", "a parameter is"),
        ("/user_id}", "a parameter is"),
        ("/{user id}", "a parameter is"),
        ("/{}", "a parameter is"),
        ("/{a:b}", "a parameter is"),
        ("/{a-b}", "a parameter is"),
        ("/{{a}}", "a parameter is"),
        ("/{a:path}/b", "whole last segment"),
        ("/x{a:path}", "whole last segment"),
        ("/{a}/{a}", "used twice"),
        ("/api/../admin", "leaves the root"),
        ("/api/./admin", "dot segment"),
        ("/api/%2e/admin", "dot segment"),
        ("/a?b={c}", "percent-encoded"),
        ("/a#b", "percent-encoded"),
        ("/a\n", "never be matched"),
        ("/a%zz", "two hex digits"),
        ("/a\\b", "backslash"),
        ("/" + "/".join(f"{{p{n}}}" for n in range(17)), "16 parameters"),
        ("/" + "a/" * 64 + "{x}", "64 segments"),
        ("/" + "a" * 300 + "{x}", "256 literal bytes"),
    ],
)
def test_a_pattern_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(RouteError, match=re.escape(why)):
        RouteTable([row(pattern)])


def test_256_literal_bytes_beside_a_parameter_work() -> None:
    table = RouteTable([row("/" + "a" * 200 + "{x}" + "b" * 56)])
    assert table.match(None, "/" + "a" * 200 + "1" + "b" * 56, "GET").params == {"x": "1"}
    assert status(table, "/" + "a" * 200 + "b" * 56) == "not_found"


def test_method_numbers_are_those_of_the_shared_cells() -> None:
    for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        assert method_id(name) == getattr(cells, f"METHOD_{name}")
    assert method_id("BREW") == cells.METHOD_OTHER


def test_sixteen_parameters_and_64_segments_work() -> None:
    pattern = "/" + "/".join(f"{{p{n}}}" for n in range(16)) + "/x" * 48
    match = RouteTable([row(pattern)]).match(None, "/" + "/".join(f"v{n}" for n in range(16)) + "/x" * 48, "GET")
    assert match.params == {f"p{n}": f"v{n}" for n in range(16)}


# --- which pattern ---------------------------------------------------------------------------------------------------

PRECEDENCE = [
    # From most to least specific; each is taken away in turn.
    ("/users/me", ["/users/me", "/users/m{x}", "/users/{x}e", "/users/{x}", "/users/{x:path}", "/{a}/me", "/{a:path}"]),
    ("/a/b/c", ["/a/b/{x}", "/a/{x}/c", "/a/{x:path}", "/{x}/b/c", "/{x}/{y}/{z}"]),
    ("/f/a.b.c", ["/f/a.b.{x}", "/f/a.{x}.c", "/f/{x}.b.c", "/f/{x}.{y}.{z}", "/f/a{x}", "/f/{x}.{y}", "/f/{x}"]),
]


@pytest.mark.parametrize(("path", "patterns"), PRECEDENCE)
@pytest.mark.parametrize("seed", range(5))
def test_the_most_specific_pattern_wins_in_any_order(path: str, patterns: list[str], seed: int) -> None:
    left = random.Random(seed).sample(patterns, len(patterns))
    winners = []
    while left:
        winner, _ = served(RouteTable([row(pattern) for pattern in left]), path)
        winners.append(winner)
        left.remove(winner)
    assert winners == patterns


def test_a_literal_branch_that_fails_is_left_again() -> None:
    table = RouteTable([row("/a/b/c"), row("/{x}/b/d"), row("/a/{y}/e"), row("/{all:path}")])
    assert served(table, "/a/b/c")[0] == "/a/b/c"
    assert served(table, "/a/b/d") == ("/{x}/b/d", {"x": "a"})
    assert served(table, "/a/b/e") == ("/a/{y}/e", {"y": "b"})
    assert served(table, "/a/b/f") == ("/{all:path}", {"all": "a/b/f"})


def test_two_static_paths_where_one_continues_the_other() -> None:
    table = RouteTable([row("/api/static/path"), row("/api/static/path/details")])
    assert served(table, "/api/static/path")[0] == "/api/static/path"
    assert served(table, "/api/static/path/details")[0] == "/api/static/path/details"


def test_a_secured_literal_is_never_served_by_a_public_parameter() -> None:
    table = RouteTable([row("/api/{x}", value="public"), row("/api/secret", value="secured")])
    assert served(table, "/api/secret")[0] == "secured"
    assert served(table, "/api/other")[0] == "public"


# --- methods ---------------------------------------------------------------------------------------------------------

METHOD_TABLE = [
    ("GET", "/r", "found", "read", ()),
    ("HEAD", "/r", "found", "read", ()),
    ("POST", "/r", "found", "write", ()),
    ("DELETE", "/r", "found", "fallback", ()),
    ("PATCH", "/r", "method_not_allowed", "read", ("GET", "HEAD", "POST", "DELETE", "OPTIONS")),
    ("OPTIONS", "/r", "options", "read", ("GET", "HEAD", "POST", "DELETE", "OPTIONS")),
    ("BREW", "/r", "method_not_allowed", "read", ("GET", "HEAD", "POST", "DELETE", "OPTIONS")),
    ("HEAD", "/h", "found", "head", ()),
    ("GET", "/h", "found", "get", ()),
    ("OPTIONS", "/o", "found", "own options", ()),
    ("GET", "/o", "method_not_allowed", "own options", ("OPTIONS",)),
    ("HEAD", "/p", "method_not_allowed", "post", ("POST", "DELETE", "OPTIONS")),
    ("get", "/r", "method_not_allowed", "read", ("GET", "HEAD", "POST", "DELETE", "OPTIONS")),
    ("CONNECT", "/c", "found", "connect", ()),
    ("GET", "/none/x", "not_found", None, ()),
    ("OPTIONS", "/none/x", "not_found", None, ()),
]


@pytest.mark.parametrize(("method", "path", "outcome", "value", "allowed"), METHOD_TABLE)
def test_methods(method: str, path: str, outcome: str, value: str | None, allowed: tuple[str, ...]) -> None:
    table = RouteTable(
        [
            row("/r", "GET", value="read"),
            row("/r", "POST", value="write"),
            row("/{any}", "DELETE", value="fallback"),
            row("/h", "GET", value="get"),
            row("/h", "HEAD", value="head"),
            row("/o", "OPTIONS", value="own options"),
            row("/p", "POST", value="post"),
            row("/c", "CONNECT", value="connect"),
        ]
    )
    match = table.match(None, path, method)
    assert (match.status, match.value) == (outcome, value)
    if path != "/o":
        assert match.allowed == allowed
    else:
        assert set(match.allowed) == ({*allowed, "DELETE"} if allowed else set())


def test_unknown_and_missing_methods_are_refused() -> None:
    with pytest.raises(RouteError, match="'BREW'"):
        RouteTable([row("/a", "BREW")])
    with pytest.raises(RouteError, match="at least one method"):
        RouteTable([((), "/a", (), "strict", None)])


# --- hosts -----------------------------------------------------------------------------------------------------------

HOST_TABLE = [
    ("api.example.com", "/x", "exact"),
    ("www.example.com", "/x", "wildcard"),
    ("a.b.example.com", "/x", "wildcard"),
    ("v1.eu.example.com", "/x", "longer wildcard"),
    ("example.com", "/x", "any"),
    ("badexample.com", "/x", "any"),
    ("other.org", "/x", "any"),
    (None, "/x", "any"),
    ("", "/x", "any"),
    ("api.example.com", "/wild", "wild only"),
    ("api.example.com", "/any", "any only"),
    ("[::1]", "/x", "literal"),
]


@pytest.mark.parametrize(("host", "path", "value"), HOST_TABLE)
def test_hosts_from_exact_to_any(host: str | None, path: str, value: str) -> None:
    table = RouteTable(
        [
            row("/x", value="any"),
            row("/any", value="any only"),
            row("/x", hosts=("*.example.com",), value="wildcard"),
            row("/wild", hosts=("*.example.com",), value="wild only"),
            row("/x", hosts=("*.eu.example.com",), value="longer wildcard"),
            row("/x", hosts=("API.Example.com.", "other.example.com"), value="exact"),
            row("/x", hosts=("[::1]",), value="literal"),
        ]
    )
    assert served(table, path, host=host)[0] == value


def test_a_method_may_be_served_by_a_less_specific_host() -> None:
    table = RouteTable([row("/x", "GET", hosts=("a.com",), value="here"), row("/x", "POST", value="anywhere")])
    assert served(table, "/x", "POST", host="a.com")[0] == "anywhere"
    assert table.match("a.com", "/x", "PUT").allowed == ("GET", "HEAD", "POST", "OPTIONS")


def test_a_host_only_route_is_not_found_elsewhere() -> None:
    table = RouteTable([row("/{x}", hosts=("a.com",))])
    assert status(table, "/x", host="a.com") == "found"
    assert status(table, "/x", host="b.com") == "not_found"
    assert status(table, "/x") == "not_found"


@pytest.mark.parametrize("host", ["", "a.com:80", "a b", "*", "a.*.com", "*.", "a/b", "user@a.com"])
def test_a_bad_host_is_refused(host: str) -> None:
    with pytest.raises(RouteError, match=re.escape(repr(host))):
        RouteTable([row("/x", hosts=(host,))])


def test_an_international_host_is_matched_in_its_wire_form() -> None:
    assert served(RouteTable([row("/x", hosts=("bücher.example",))]), "/x", host="xn--bcher-kva.example")[0] == "/x"


# --- trailing slash --------------------------------------------------------------------------------------------------

SLASH_TABLE = [
    ("/strict", "/strict/", "not_found", None),
    ("/strict/", "/strict", "not_found", None),
    ("/ignore", "/ignore/", "found", None),
    ("/ignore/", "/ignore", "found", None),
    ("/redirect", "/redirect/", "redirect", "/redirect"),
    ("/redirect/", "/redirect", "redirect", "/redirect/"),
    ("/redirect/{id}", "/redirect/7/", "redirect", "/redirect/7"),
    ("/redirect/v{id}/", "/redirect/v7", "redirect", "/redirect/v7/"),
    ("/ignore/{id}/", "/ignore/7", "found", None),
    ("/ignore/{rest:path}", "/ignore", "found", None),
    ("/redirect/{rest:path}", "/redirect", "redirect", "/redirect/"),
    ("/redirect", "/redirect//", "not_found", None),
]


@pytest.mark.parametrize(("pattern", "path", "outcome", "location"), SLASH_TABLE)
def test_trailing_slashes(pattern: str, path: str, outcome: str, location: str | None) -> None:
    table = RouteTable([row(pattern, slash=pattern.split("/")[1])])
    match = table.match(None, path, "GET")
    assert (match.status, match.location) == (outcome, location)
    assert status(table, pattern.replace("{id}", "7").replace("{rest:path}", "x")) == "found"


def test_the_root_has_no_twin() -> None:
    table = RouteTable([row("/", slash="ignore")])
    assert status(table, "/") == "found"
    assert status(table, "") == "not_found"
    assert status(table, "//") == "not_found"


def test_a_written_path_beats_a_twin() -> None:
    table = RouteTable([row("/a", slash="ignore", value="file"), row("/a/", slash="ignore", value="folder")])
    assert served(table, "/a")[0] == "file"
    assert served(table, "/a/")[0] == "folder"


def test_any_route_beats_a_redirect() -> None:
    table = RouteTable([row("/a/b/", slash="redirect"), row("/a/{x}", value="param")])
    assert served(table, "/a/b")[0] == "param"


def test_a_redirect_beats_a_405() -> None:
    table = RouteTable([row("/a/", "GET", slash="redirect"), row("/a", "POST")])
    assert status(table, "/a", "HEAD") == "redirect"
    assert status(table, "/a", "POST") == "found"
    assert status(table, "/a", "PUT") == "method_not_allowed"


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(RouteError, match="'lenient'"):
        RouteTable([row("/a", slash="lenient")])


# --- conflicts -------------------------------------------------------------------------------------------------------

CONFLICTS = [
    (row("/a"), row("/a")),
    (row("/a/{x}"), row("/a/{y}")),
    (row("/a/{x}.{y}"), row("/a/{p}.{q}")),
    (row("/{x:path}"), row("/{rest:path}")),
    (row("/a", "GET", "POST"), row("/a", "POST", "PUT")),
    (row("/~a"), row("/%7Ea")),
    (row("/a", hosts=("x.com", "y.com")), row("/a", hosts=("Y.com.",))),
    (row("/a", hosts=("*.x.com",)), row("/a", hosts=("*.x.com",))),
]


@pytest.mark.parametrize(("one", "other"), CONFLICTS)
def test_a_conflict_names_both_routes(one: RouteRow, other: RouteRow) -> None:
    with pytest.raises(RouteConflict, match=re.escape(one[1])) as caught:
        RouteTable([row("/first"), one, row("/third"), other])
    assert (caught.value.first, caught.value.second) == (1, 3)
    assert repr(other[1]) in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (row("/a", "GET"), row("/a", "POST")),
        (row("/a", "GET"), row("/a", "HEAD")),
        (row("/a", hosts=("x.com",)), row("/a", hosts=("y.com",))),
        (row("/a", hosts=("x.com",)), row("/a", hosts=("*.x.com",))),
        (row("/a", hosts=("x.com",)), row("/a")),
        (row("/a"), row("/A")),
        (row("/a"), row("/a/")),
        (row("/a", hosts=("x.com", "X.com")), row("/b")),
    ],
)
def test_these_are_no_conflicts(one: RouteRow, other: RouteRow) -> None:
    assert len(RouteTable([one, other])) == 2


# --- internal paths --------------------------------------------------------------------------------------------------

TEMPLATES = [
    ("/cats/{id}", "/{id}", "/cats/200", b"/200"),
    ("/api/users/{id}", "/users/{id}", "/api/users/123", b"/users/123"),
    ("/o/{o}/i/{i}", "/{i}/{o}/{i}", "/o/1/i/22", b"/22/1/22"),
    ("/s", "/internal/s", "/s", b"/internal/s"),
    ("/x/{a}", "/y/{a}/{b}/{c", "/x/1", b"/y/1/{b}/{c"),
    ("/x/{a}", "/y/{a}", "/x/%20%2F", b"/y/%20%2F"),
    ("/x/{a}/{b}", "/{a}/{b}", "/x/{b}/2", b"/{b}/2"),
    ("/x/{a}", "/p?u={a}&v=1", "/x/1&admin=1", b"/p?u=1%26admin%3D1&v=1"),
    ("/x/{a}", "/{a}?u={a}", "/x/a+b;c", b"/a+b;c?u=a%2Bb%3Bc"),
    ("/f/{rest:path}", "/g/{rest}", "/f/a/b", b"/g/a/b"),
    ("/f/{rest:path}", "/g/{rest}", "/f/", b"/g/"),
    ("/f/{x}", "/g/café {x}", "/f/1", b"/g/caf%C3%A9%201"),
    ("/f/{größe}", "/g/{größe}", "/f/1", b"/g/1"),
]


@pytest.mark.parametrize(("external", "internal", "path", "expected"), TEMPLATES)
def test_a_template_is_filled(external: str, internal: str, path: str, expected: bytes) -> None:
    table = RouteTable([row(external)])
    template = Template(internal, table.patterns[0].names)
    assert template.expand(table.match(None, path, "GET")) == expected
    assert template.fixed == (internal == "/internal/s")
    assert template.has_query == ("?" in internal)


@pytest.mark.parametrize("internal", ["/a#b", "/a\r\nX: y", "/a\x00"])
def test_a_template_that_cannot_be_sent_is_refused(internal: str) -> None:
    with pytest.raises(RouteError, match="cannot be sent"):
        Template(internal, [])


# --- against a slow model --------------------------------------------------------------------------------------------

SEGMENTS = ["a", "a", "b", "ab", "", "{}", "{}", "a{}", "{}b", "{}.{}", "a{}.{}", "{}-{}", "{}{}"]
WORDS = ["a", "b", "ab", "", "a.b", "x-y", "aab", "a.b.b", "...", "..", "%2e", "b", "a-.b"]
METHODS = ["GET", "HEAD", "POST", "OPTIONS"]


@st.composite
def route_rows(draw: st.DrawFn) -> RouteRow:
    segments = draw(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4))
    if draw(st.integers(0, 5)) == 0:
        segments[-1] = "{:path}"
    names = iter("klmnopqrst")
    path = "/" + re.sub(r"\{", lambda _: "{" + next(names), "/".join(segments))
    methods = draw(st.lists(st.sampled_from(METHODS), min_size=1, max_size=2, unique=True))
    hosts = draw(st.sampled_from([(), (), ("h.x",), ("*.x",), ("*.h.x", "g.x")]))
    slash = draw(st.sampled_from(["strict", "strict", "ignore", "redirect"]))
    return hosts, path, methods, slash, path


def specificity(segments: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Sorts patterns that match one path, most specific first."""
    key = []
    for segment in segments:
        if segment is None:
            key.append((3,))
        elif isinstance(segment, bytes):
            key.append((0,))
        elif segment == (b"", b""):
            key.append((2,))
        else:
            literal = sum(map(len, segment))
            key.append(
                (1, -literal, -len(segment[0]), -len(segment[-1]), segment[0], segment[-1], len(segment), segment)
            )
    return key


def captures(segments: tuple[Any, ...], path: bytes) -> list[bytes] | None:
    """What a pattern captures, by regular expression; None where it does not match."""
    parts = []
    for segment in segments:
        if segment is None:
            parts.append(b"(.*)")
        else:
            pieces = (segment,) if isinstance(segment, bytes) else segment
            parts.append(b"([^/]+)".join(re.escape(piece) for piece in pieces))
    found = re.fullmatch(b"/" + b"/".join(parts), path)
    if found is None:
        return None
    for value in found.groups():
        if any(re.fullmatch(rb"(\.|%2[eE]){1,2}", piece) for piece in value.split(b"/")):
            return None
    return list(found.groups())


class Model:
    """The rules of the table as sorting and filtering."""

    def __init__(self, rows: list[RouteRow]) -> None:
        self.entries: list[tuple[bytes, tuple[Any, ...], int, int, set[str]]] = []
        self.paths = [path for _, path, *_ in rows]
        for index, (hosts, path, methods, slash, _) in enumerate(rows):
            pattern = Pattern(path)
            forms = [(pattern.segments, 0)]
            if slash != "strict" and (twin := pattern.twin()) is not None:
                forms.append((twin, (1 if slash == "ignore" else 3) + pattern.tail))
            for host in {host_key(host) for host in hosts} or {b""}:
                self.entries.extend((host, segments, kind, index, set(methods)) for segments, kind in forms)
        for host, segments, _, _, methods in self.entries:
            here = [entry for entry in self.entries if entry[:2] == (host, segments)]
            if "GET" in methods and not any(
                "HEAD" in entry[4] for entry in here if entry[2] < 3 and entry[4] is not methods
            ):
                methods.add("head if GET")

    def match(self, host: str, path: bytes, method: str) -> tuple[Any, ...]:
        dots = [at for at, letter in enumerate(host) if letter == "."]
        levels = [host.encode(), *(host[at:].encode() for at in dots), b""]
        fitting = [
            (levels.index(entry[0]), specificity(entry[1]), entry[2], entry[3], entry[1], entry[4])
            for entry in self.entries
            if entry[0] in levels and captures(entry[1], path) is not None
        ]
        fitting.sort(key=lambda row: row[:4])
        found = [row for row in fitting if row[2] < 3 and self._serves(row, fitting, method)]
        if found:
            captured = captures(found[0][4], path) or []
            names = Pattern(self.paths[found[0][3]]).names
            return "found", found[0][3], captured + [b""] * (len(names) - len(captured))
        redirects = [row for row in fitting if row[2] >= 3 and self._serves(row, fitting, method)]
        if redirects:
            return "redirect", redirects[0][3], []
        known = [row for row in fitting if row[2] < 3]
        if not known:
            return "not_found", -1, []
        return "options" if method == "OPTIONS" else "method_not_allowed", known[0][3], []

    @staticmethod
    def _serves(row: tuple[Any, ...], fitting: list[tuple[Any, ...]], method: str) -> bool:
        if method in row[5]:
            return True
        routed = any(
            method in other[5] for other in fitting if other[:2] == row[:2] and other[4] == row[4] and other[2] < 3
        )
        return method == "HEAD" and "GET" in row[5] and not routed


def without_conflicts(rows: list[RouteRow]) -> list[RouteRow]:
    kept: list[RouteRow] = []
    for candidate in rows:
        try:
            RouteTable([*kept, candidate])
        except RouteConflict:
            continue
        kept.append(candidate)
    return kept


def outcome(table: RouteTable, match: RouteMatch) -> tuple[Any, ...]:
    return match.status, match.index, [value.encode() for value in match.params.values()]


def test_a_tail_reached_without_its_slash_captures_nothing() -> None:
    table = RouteTable([row("/a/{k:path}", slash="ignore"), row("/{k:path}")])
    match = table.match("h", "/a", "GET")
    assert (match.index, match.params) == (0, {"k": ""})


@settings(max_examples=300, deadline=None)
@given(
    st.lists(route_rows(), min_size=1, max_size=12),
    st.lists(
        st.tuples(
            st.sampled_from(["", "h.x", "g.x", "z.h.x", "x"]),
            st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(lambda words: "/" + "/".join(words)),
            st.sampled_from([*METHODS, "PUT"]),
        ),
        min_size=1,
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_the_table_agrees_with_the_model_in_any_order(
    rows: list[RouteRow], requests: list[tuple[str, str, str]], rng: random.Random
) -> None:
    rows = without_conflicts(rows)
    table, model = RouteTable(rows), Model(rows)
    order = list(range(len(rows)))
    rng.shuffle(order)
    shuffled = RouteTable([rows[number] for number in order])
    for host, path, method in requests:
        match = table.match(host, path, method)
        assert outcome(table, match) == model.match(host, path.encode(), method), (rows, host, path, method)
        other = shuffled.match(host, path, method)
        assert (other.status, other.params, other.allowed) == (match.status, match.params, match.allowed)
        if match.status == "found":
            assert order[other.index] == match.index
        elif match.index >= 0:  # routes of one pattern share what is said of a method that none of them serves
            assert table.patterns[match.index].segments == shuffled.patterns[other.index].segments
        if match.status in ("options", "method_not_allowed"):
            routed = {name for name in METHODS if table.match(host, path, name).status == "found"}
            assert set(match.allowed) == routed | {"OPTIONS"}


@given(st.binary(max_size=60), st.sampled_from(["GET", "OPTIONS"]))
def test_any_bytes_are_matched_or_not(path: bytes, method: str) -> None:
    table = RouteTable([row("/{a}/{b}.{c}"), row("/x{a}"), row("/y/{rest:path}"), row("/")])
    assert table.match("h", path, method).status in ("found", "not_found", "options")


# --- size ------------------------------------------------------------------------------------------------------------


def test_many_routes_each_find_their_own() -> None:
    rows = []
    for number in range(4000):
        rows += [row(f"/s{number}/x"), row(f"/s{number}/{{a}}/y/{{b}}"), row(f"/m/p{number}-{{a}}.{{b}}")]
    table = RouteTable(rows)
    for number in range(0, 4000, 7):
        assert served(table, f"/s{number}/x") == (f"/s{number}/x", {})
        assert served(table, f"/s{number}/1/y/2") == (f"/s{number}/{{a}}/y/{{b}}", {"a": "1", "b": "2"})
        assert served(table, f"/m/p{number}-1.2") == (f"/m/p{number}-{{a}}.{{b}}", {"a": "1", "b": "2"})


def test_every_combination_of_literal_and_parameter() -> None:
    depth = 8
    patterns = [
        "/" + "/".join("a" if number >> bit & 1 else f"{{p{bit}}}" for bit in range(depth))
        for number in range(1 << depth)
    ]
    table = RouteTable([row(pattern) for pattern in patterns])
    for number in range(1 << depth):
        path = "/" + "/".join("a" if number >> bit & 1 else "z" for bit in range(depth))
        assert served(table, path)[0] == patterns[number]
    assert status(table, "/a" * depth, "POST") == "method_not_allowed"
    assert status(table, "/a" * (depth + 1)) == "not_found"
