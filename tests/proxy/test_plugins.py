"""Filters of the user's own: what a plugin may do, what is wrong with one, and that no script leaves its sandbox."""

from __future__ import annotations

import gzip
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kairos.config.problems import ConfigError
from tests.support.gateway import gateway, route
from tests.support.inprocess import checked, serving
from tests.support.net import Peer, ScriptedOrigin, echo, origin, read_request

EXAMPLES = Path(__file__).parents[2] / "examples/plugins"


@pytest.fixture(scope="module")
def echoing() -> Iterator[ScriptedOrigin]:
    with origin(echo) as o:
        yield o


def plugged(o: ScriptedOrigin, *plugins: dict[str, Any]) -> dict[str, Any]:
    return {"routers": [route("/t", o.url, plugins=list(plugins))]}


def lua(folder: Path, code: str, **members: Any) -> dict[str, Any]:
    """A plugin of this script."""
    path = folder / "plugin.lua"
    path.write_text(code)
    return {"file": str(path), **members}


def python(folder: Path, code: str, **members: Any) -> dict[str, Any]:
    path = folder / "plugin.py"
    path.write_text("from kairos.proxy.exchange import Filter, Response\n" + code)
    return {"file": str(path), **members}


# ---- Python


def test_the_example_in_python_works(echoing):
    plugin = {"file": str(EXAMPLES / "stamp.py"), "settings": {"plans": {"acme": "gold"}}}
    with serving(plugged(echoing, plugin)) as gate:
        assert gate.get("/t")[0].startswith(b"HTTP/1.1 403 ")
        head, seen = gate.get("/t", "X-Customer: acme")
        assert b"X-Plan: gold\r\n" in seen
        assert b"X-Stamped: yes\r\n" in head


RAISES = """
class F(Filter):
    def on_request(self, x):
        raise RuntimeError('boom')
build = lambda settings, site: F()
"""


def test_a_plugin_that_raises_costs_its_request_only(echoing, tmp_path):
    with serving(plugged(echoing, python(tmp_path, RAISES))) as gate:
        for _ in range(2):
            assert gate.get("/t")[0].startswith(b"HTTP/1.1 500 ")
        assert [str(report) for report in gate.reports] == ["boom", "boom"]


def test_a_file_is_run_again_when_it_changed_only(echoing, tmp_path):
    code = """
made = []
class F(Filter):
    def on_request(self, x):
        return Response(200, b"%s %%d" %% len(made))
def build(settings, site):
    made.append(1)
    return F()
"""
    config = plugged(echoing, python(tmp_path, code % "one"))
    with serving(config) as gate:
        assert gate.get("/t")[1] == b"one 1"
        gate.configure(config)
        assert gate.get("/t")[1] == b"one 2"  # the same module
        python(tmp_path, code % "two")
        gate.configure(config)
        assert gate.get("/t")[1] == b"two 1"


BAD = [
    ("build = 1", {}, "TypeError: it has no build(settings, site)"),
    ("def build(settings, site): return 1", {}, "TypeError: build() gave int, not a Filter"),
    ("1 / 0", {}, "ZeroDivisionError: division by zero"),
    ("import msgspec\nclass Settings(msgspec.Struct):\n    n: int\nbuild = print", {"n": "x"}, "Expected `int`"),
]


@pytest.mark.parametrize(("code", "settings", "reason"), BAD)
def test_what_is_wrong_with_a_plugin_refuses_the_revision(echoing, tmp_path, code, settings, reason):
    with serving(plugged(echoing)) as gate:
        with pytest.raises(ValueError) as error:
            gate.configure(plugged(echoing, python(tmp_path, code, settings=settings)))
        assert str(error.value).startswith(f"plugin {tmp_path}/plugin.py of route /t: ")
        assert reason in str(error.value)
        assert gate.get("/t")[0].startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ({}, "give either the name of an installed plugin, or a file"),
        ({"name": "nobody-has-this"}, "no installed package has a plugin 'nobody-has-this'"),
        ({"file": "/nowhere.py"}, "cannot read /nowhere.py: No such file"),
        ({"file": "/x.rb"}, "/x.rb is neither a .py nor a .lua file"),
    ],
)
def test_check_tells_what_cannot_be_loaded(echoing, plugin, message):
    with pytest.raises(ConfigError, match=message):
        checked(plugged(echoing, plugin))


def test_check_tells_syntax_errors(echoing, tmp_path):
    with pytest.raises(ConfigError, match=r"plugin.py:2: invalid syntax"):
        checked(plugged(echoing, python(tmp_path, "def (")))


def test_a_plugin_of_a_package_is_found_by_its_entry_point(echoing, tmp_path, monkeypatch):
    package = tmp_path / "teapots-1.0.dist-info"
    package.mkdir()
    package.joinpath("METADATA").write_text("Name: teapots\nVersion: 1.0\n")
    package.joinpath("entry_points.txt").write_text("[kairos.filters]\nteapot = teapots_for_test\n")
    tmp_path.joinpath("teapots_for_test.py").write_text(
        "from kairos.proxy.exchange import Filter, Response\nclass Pot(Filter):\n"
        "    def on_request(self, x):\n        return Response(418)\ndef build(settings, site):\n    return Pot()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with serving(plugged(echoing, {"name": "teapot"})) as gate:
        assert gate.get("/t")[0].startswith(b"HTTP/1.1 418 ")


def test_a_reload_with_a_bad_plugin_is_refused_by_a_gateway(echoing, tmp_path):
    with gateway(plugged(echoing)) as g:
        g.write(plugged(echoing, python(tmp_path, "1 / 0")))
        g.signal(signal.SIGHUP)
        g.wait_log("division by zero")
        assert g.get("/t")[0].startswith(b"HTTP/1.1 200 ")


# ---- Lua


def test_the_example_in_lua_works(echoing):
    plugin = {"file": str(EXAMPLES / "greet.lua"), "settings": {"language": "en"}}
    with serving(plugged(echoing, plugin)) as gate:
        head, body = gate.get("/t", "User-Agent: GreatBot/1")
        assert head.startswith(b"HTTP/1.1 403 ")
        assert body == b"no robots\n"
        assert b"X-Language: en\r\n" in gate.get("/t")[1]
        head, seen = gate.get("/t?lang=de")
        assert b"X-Language: de\r\n" in seen
        assert b"X-Greeted: yes\r\n" in head


CALLS = [
    ("request.method()", "GET"), ("request.path()", "/t"), ("request.target()", "/t?q=1"), ("request.host()", "test"),
    ("request.client()", "127.0.0.1"), ("request.header('X-A')", "caf\xe9"), ("request.query('q')", "1"),
    ("tostring(request.query('no'))", "nil"), ("tostring(request.claim('sub'))", "nil"), ("settings.a.b[1]", "x"),
    ("replace('aXbX', 'X', '$0-')", "aX-bX-"), ("tostring(match('abc', '^b'))", "false"),
    ("('x'):rep(3) .. #'abc' .. ('a%d'):format(1)", "xxx3a1"), ("math.floor(2.5)", "2"), ("table.concat({1, 2})", "12"),
    ("string.find('a.b', '.')", "2"), ("select(2, pcall(error, 'caught'))", "caught"),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "expected"), CALLS)
def test_what_a_script_can_do(echoing, tmp_path, expression, expected):
    code = f"function on_request() return respond(200, ({expression})) end"
    with serving(plugged(echoing, lua(tmp_path, code, settings={"a": {"b": ["x"]}}))) as gate:
        request = b"GET /t?q=1 HTTP/1.1\r\nHost: test\r\nX-A: caf\xe9\r\n\r\n"
        assert gate.request(request)[1] == expected.encode("latin-1")


def test_a_script_changes_targets_statuses_and_headers(echoing, tmp_path):
    code = """
    function on_request() request.set_target("/other?a=1"); request.set_header("X-A") end
    function on_response() response.set_status(response.status() + 1); response.set_header("X-B", 2) end
    """
    with serving(plugged(echoing, lua(tmp_path, code))) as gate:
        head, seen = gate.get("/t", "X-A: 1")
        assert head.startswith(b"HTTP/1.1 201 ")
        assert b"X-B: 2\r\n" in head
        assert seen.startswith(b"GET /other?a=1 ")
        assert b"X-A" not in seen


ESCAPES = [
    "os.execute('true')",
    "io.open('/etc/passwd')", "require('os')", "package.loaded", "debug.sethook()", "dofile('/x')",
    "loadfile('/x')()", "load('return 1')()", "loadstring('return 1')()", "string.dump(on_request)", "collectgarbage()",
    "coroutine.wrap(function() while true do end end)()", "python.eval('1')", "python.builtins", "ffi.C", "jit.off()",
    "getmetatable('').__index.dump(on_request)", "getmetatable('').__index.gsub", "('x'):gsub('x', 'y')",
    "string.match('x', 'x')", "setmetatable({}, {__gc = function() end})", "request.header.__globals__['x']",
    "request.header.__class__.x",
    "log.__self__._lua", "respond.__func__.__code__.x", "rawset(getmetatable('x'), 'a', 1)",
    "request.set_header('X-A', 'a\\r\\nX-Evil: 1')", "request.set_header('Host', 'x')", "request.set_target('/../x')",
    "respond(99)", "request.header(1)", "request.header()", "match('a', '(')", "error({})", "_ENV._G.os.exit()",
    "utf8.charpattern:rep(1)", "setmetatable(string, {__index = os}).x()",
]  # fmt: skip


@pytest.mark.parametrize("code", ESCAPES)
def test_no_script_leaves_its_sandbox(echoing, tmp_path, code):
    with serving(plugged(echoing, lua(tmp_path, f"function on_request() local x = {code} return x.y end"))) as gate:
        head, body = gate.get("/t")
        assert head.startswith(b"HTTP/1.1 500 ")
        assert json.loads(body)["code"] == "internal"
        assert len(gate.reports) == 1


ENDLESS = [
    "while true do end",
    "while true do pcall(function() while true do end end) end",
    "while true do xpcall(function() while true do end end, function() while true do end end) end",
    "local function f() return f() end f()",
    "local f f = function() pcall(f) f() end f()",
    "repeat until false",
    "goto again ::again:: goto again",
    "local t = setmetatable({}, {__index = function(t, k) return t[k + 1] end})"
    " while true do pcall(function() return t[1] end) end",
    "while true do select('#', table.unpack({}, 1, 1e5)) end",
]


@pytest.mark.parametrize("code", ENDLESS)
def test_no_script_runs_for_ever(echoing, tmp_path, code):
    code = f"function on_request() if request.header('x-loop') then {code} end end"
    plugin = lua(tmp_path, code, instructions=100_000)
    with serving(plugged(echoing, plugin)) as gate:
        for _ in range(2):
            assert gate.get("/t", "X-Loop: 1")[0].startswith(b"HTTP/1.1 500 ")
            assert gate.get("/t")[0].startswith(b"HTTP/1.1 200 ")  # the budget is that of one request


BOMBS = [
    "local s = ('x'):rep(1e9)",
    "local s = 'x' while true do s = s .. s end",
    "local t = {} while true do t[#t + 1] = ('x'):rep(1e5) end",
    "local t = {} for i = 1, 1e7 do t[i] = {} end",
    "local s = ('%99d'):rep(1e5):format(1)",
    "while true do pcall(string.rep, 'x', 1e9) end",
]


@pytest.mark.parametrize("code", BOMBS)
def test_no_script_takes_more_memory_than_it_may(echoing, tmp_path, code):
    plugin = lua(tmp_path, f"function on_request() if request.header('x-bomb') then {code} end end", memory=1 << 20)
    with serving(plugged(echoing, plugin)) as gate:
        for _ in range(2):
            assert gate.get("/t", "X-Bomb: 1")[0].startswith(b"HTTP/1.1 500 ")
            assert gate.get("/t")[0].startswith(b"HTTP/1.1 200 ")


# ---- Lua and bodies


def post(gate, body: bytes, *lines: str) -> tuple[bytes, bytes]:
    head = "\r\n".join(("POST /t HTTP/1.1", "Host: test", *lines, f"Content-Length: {len(body)}", "", ""))
    return gate.request(head.encode() + body)


def answering(body: bytes, fields: bytes = b"", status: bytes = b"200 OK") -> Iterator[ScriptedOrigin]:
    """A backend with one answer."""

    def script(peer: Peer) -> None:
        while True:
            read_request(peer)
            peer.send(b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, fields, len(body), body))

    return origin(script)


def test_the_example_with_bodies_works(echoing):
    """The backend is an echo: what it was sent comes back, and is redacted on its way."""
    with serving(plugged(echoing, {"file": str(EXAMPLES / "redact.lua"), "body_limit": 65536})) as gate:
        assert post(gate, b'{"card": 1}')[1] == b"an order needs a customer\n"
        head, seen = post(gate, b'{"customer": "ann", "note": "secret", "card": "4111111111111234"}')
        assert head.startswith(b"HTTP/1.1 200 ")
        assert seen.endswith(b'{"customer": "ann", "note":"", "card": "************1234"}')
        assert b"Content-Length: 58\r\n" in seen
        assert gate.get("/t")[0].startswith(b"HTTP/1.1 200 "), "a request without a body has none to look at"


def test_bodies_are_bytes_and_whole_however_they_come(echoing, tmp_path):
    code = "function on_request_body(body) return body:reverse() .. #body end"
    body = bytes(range(256)) * 300
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:40_000], body[40_000:]))
    with serving(plugged(echoing, lua(tmp_path, code))) as gate:
        assert post(gate, body)[1].endswith(body[::-1] + b"76800")
        head = b"POST /t HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert gate.request(head + chunks + b"0\r\n\r\n")[1].endswith(body[::-1] + b"76800")
        squeezed = gzip.compress(b"hello")
        seen = post(gate, squeezed, "Content-Encoding: gzip")[1]
        assert seen.endswith(b"olleh5")
        assert b"Content-Encoding" not in seen


def test_what_is_too_large_or_cannot_be_read_is_refused_or_passes(echoing, tmp_path):
    code = "function on_request_body(body) return 'seen' end function on_response_body(body) return 'seen' end"
    cases = [("x" * 101, ()), ("x" * 10, ("Content-Encoding: odd",)), ("x" * 10, ("Content-Encoding: gzip",))]
    with serving(plugged(echoing, lua(tmp_path, code, body_limit=100))) as gate:
        statuses = [post(gate, body.encode(), *lines)[0].split()[1] for body, lines in cases]
        assert statuses == [b"413", b"415", b"400"]
    with answering(b"y" * 101) as large:
        with serving(plugged(large, lua(tmp_path, code, body_limit=100))) as gate:
            assert gate.get("/t")[0].startswith(b"HTTP/1.1 502 ")
        with serving(plugged(large, lua(tmp_path, code, body_limit=100, body_others="pass"))) as gate:
            assert gate.get("/t")[1] == b"y" * 101
    with serving(plugged(echoing, lua(tmp_path, code, body_limit=300, body_others="pass"))) as gate:
        assert post(gate, b"x" * 301)[1].endswith(b"x" * 301)
        head = b"POST /t HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert gate.request(head + b"12d\r\n" + b"x" * 301 + b"\r\n0\r\n\r\n")[0].startswith(b"HTTP/1.1 413 ")
        assert b"x" * 10 in post(gate, b"x" * 10, "Content-Encoding: odd")[1]


@pytest.mark.parametrize(("fields", "body"), [
    (b"", b"hello"), (b"Content-Encoding: gzip\r\n", gzip.compress(b"hello")),
], ids=["plain", "gzip"])  # fmt: skip
def test_responses_are_made_anew(tmp_path, fields, body):
    code = "function on_response_body(body) if body == 'hello' then return 'good ' .. body end end"
    with answering(body, fields + b'ETag: "1"\r\n') as o, serving(plugged(o, lua(tmp_path, code))) as gate:
        head, seen = gate.get("/t")
        assert (gzip.decompress(seen) if b"gzip" in fields else seen) == b"good hello"
        assert b"ETag" not in head


def test_events_pass_a_script_that_waits_for_the_end(tmp_path):
    code = "function on_response_body(body) return 'seen' end"
    events = answering(b"data: 1\n\n", b"Content-Type: text/event-stream\r\n")
    with events as o, serving(plugged(o, lua(tmp_path, code))) as gate:
        assert gate.get("/t")[1] == b"data: 1\n\n"


FAILING = [
    "error('no')",
    "return 7",
    "while true do end",
    "response.set_header('X', 'y')",
    "respond(200, 'x')",
    "(nil)()",
]


@pytest.mark.parametrize("code", FAILING)
def test_a_script_that_fails_with_a_response_costs_that_response_alone(tmp_path, code, capfd):
    plugin = lua(tmp_path, f"function on_response_body(body) if body == 'bad' then {code} end end", instructions=10_000)
    with answering(b"bad") as o, serving(plugged(o, plugin)) as gate:
        for _ in range(2):
            assert gate.get("/t")[0].startswith(b"HTTP/1.1 502 ")
    with answering(b"good") as o, serving(plugged(o, plugin)) as gate:
        assert gate.get("/t")[1] == b"good"


def test_a_script_that_fails_with_a_request_costs_that_request_alone(echoing, tmp_path):
    code = "function on_request_body(body) if body == 'bad' then error('no') end end"
    with serving(plugged(echoing, lua(tmp_path, code))) as gate:
        assert post(gate, b"bad")[0].startswith(b"HTTP/1.1 500 ")
        assert post(gate, b"good")[1].endswith(b"good")


def test_routes_share_no_state(echoing, tmp_path):
    plugin = lua(tmp_path, "n = 0 function on_request() n = n + 1 return respond(200, n) end")
    config = {"routers": [route("/a", echoing.url, plugins=[plugin]), route("/b", echoing.url, plugins=[plugin])]}
    with serving(config) as gate:
        assert [gate.get(path)[1] for path in ("/a", "/a", "/b")] == [b"1", b"2", b"1"]


@pytest.mark.parametrize(
    "code", ["function on_request(", "while true do end", "\x1bLua", "os.exit()", "request.path()"]
)
def test_a_script_that_cannot_be_loaded_refuses_the_revision(echoing, tmp_path, code):
    with serving(plugged(echoing)) as gate:
        with pytest.raises(ValueError, match=r"plugin .*plugin.lua of route /t: "):
            gate.configure(plugged(echoing, lua(tmp_path, code)))
        assert gate.get("/t")[0].startswith(b"HTTP/1.1 200 ")
