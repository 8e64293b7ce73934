"""The pages in docs/: what they show is run, what they list is compared with the program.

How a page is read, by the info string of its fenced blocks:

    json, yaml, toml    with `routers` in it: a configuration, which must load without an error
    json served         the configuration of the gateway that the console blocks of this page talk to
    console             `$ ` begins a command, run by sh in order; the lines below it must be among its output, in that
                        order, where `...` stands for anything
    sh                  not run, but must be shell
    python              run by the test that is about it

The ports of `make run` (5900 the gateway, 5911 and 5912 its HTTP origins, 5913 the WebSocket one) stand for the free
ports that a test really uses; $PID is the gateway's supervisor. The origins are those of examples/.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import click
import msgspec
import pytest

from kairos._speedups import cells
from kairos._speedups.limits import T_CELLS
from kairos.cli import manage
from kairos.cli.gateway import EPILOG
from kairos.config.load import judged, loads
from kairos.config.log import COMPONENTS
from kairos.config.model import Backend, Route
from kairos.control.events import TYPES
from kairos.proxy.errors import KINDS
from kairos.scoreboard import Capacity, Scoreboard, Series
from kairos.telemetry.log import FIELDS
from kairos.telemetry.prometheus import GatewayCollector
from tests.support.gateway import Gateway, gateway, route
from tests.support.inprocess import Chain, in_process
from tests.support.net import connect, echo, free_port, origin
from tests.support.tokens import asking

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.joinpath("docs").glob("*.md"))]
LINKED = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "THREAT_MODEL.md"))]
FENCE = re.compile(r"^ *```(\w+)(?: (\w+))?\n(.*?)^ *```$", re.M | re.S)
PORTS = (5900, 5911, 5912, 5913)
START_S = 60.0


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Language, mark and text of each fenced block."""
    return FENCE.findall(page.read_text())


def named(pages: list[Path]) -> list[str]:
    return [page.name for page in pages]


# --- configurations -------------------------------------------------------------------------------------------------

CONFIGS = [
    pytest.param(language, text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, (language, _, text) in enumerate(blocks(page))
    if language in ("json", "yaml", "toml") and "routers" in text
]


@pytest.mark.parametrize(("language", "text"), CONFIGS)
def test_configurations_load(
    language: Literal["json", "yaml", "toml"], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JWT_SECRET", "an example of more than thirty-two bytes")
    assert judged(loads(text.encode(), language, f"example.{language}")).config.routers


SHELL = [pytest.param(text, id=page.stem) for page in LINKED for language, _, text in blocks(page) if language == "sh"]


@pytest.mark.parametrize("text", SHELL)
def test_shell_is_shell(text: str) -> None:
    done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.stderr == ""


# --- sessions -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def origins() -> Iterator[dict[int, int]]:
    """The three example origins; which port each of them really has."""
    ports = {port: free_port() for port in PORTS[1:]}
    programs = {5911: ("http_origin.py", "--name", "first"), 5912: ("http_origin.py", "--name", "second")}
    with contextlib.ExitStack() as stack:
        for port in ports:
            program, *arguments = programs.get(port, ("ws_origin.py",))
            command = [sys.executable, str(ROOT / "examples/origins" / program), "--port", str(ports[port])]
            process = stack.enter_context(subprocess.Popen([*command, *arguments]))
            stack.callback(process.terminate)
        for port in ports.values():
            _await_listener(port)
        yield ports


def _await_listener(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            return connect(port).close()
        except OSError:
            assert time.monotonic() < deadline, f"no origin on port {port}"
            time.sleep(0.02)


def replaced(text: str, ports: dict[int, int]) -> str:
    """The page's ports as the test's."""
    return re.sub(r"\b59\d\d\b", lambda found: str(ports.get(int(found[0]), found[0])), text)


def steps(session: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block, and the lines shown below it."""
    for step in re.split(r"^\$ ", session, flags=re.M)[1:]:
        lines = step.splitlines()
        count = 1 + next(n for n, line in enumerate(lines) if not line.endswith("\\"))
        yield "\n".join(lines[:count]), [line for line in lines[count:] if line.strip()]


COMMANDS = {"kairos-gateway": "kairos.cli.gateway", "kairos": "kairos.cli.manage"}


def run_command(command: str, g: Gateway) -> str:
    for name, module in COMMANDS.items():  # as installed, whether it is or not
        g.folder.joinpath(name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        g.folder.joinpath(name).chmod(0o755)
    path = f"{g.folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PID": str(g.process.pid), "NO_COLOR": "1"}
    environment["KAIROS_STATE_DIR"] = str(g.state_dir)
    done = subprocess.run(
        ["sh", "-c", command], cwd=g.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def assert_shown(command: str, expected: list[str], output: str) -> None:
    """Every line shown is there, in order."""
    lines = iter([line.rstrip() for line in output.splitlines()])
    for wanted in expected:
        pattern = ".*".join(map(re.escape, wanted.rstrip().split("...")))
        assert any(re.fullmatch(pattern, line) for line in lines), f"$ {command}\n{output}\nhas no line: {wanted}"


SESSIONS = [page for page in PAGES if any(language == "console" for language, _, _ in blocks(page))]


@pytest.mark.parametrize("page", SESSIONS, ids=named(SESSIONS))
def test_sessions_show_what_happens(page: Path) -> None:
    found = blocks(page)
    (served,) = [text for _, mark, text in found if mark == "served"]
    with origins() as ports, gateway(json.loads(replaced(served, ports))) as g:
        ports[5900] = g.port
        for session in (text for language, _, text in found if language == "console"):
            for command, expected in steps(replaced(session, ports)):
                assert_shown(command, expected, run_command(command, g))


def example(number: int) -> dict[str, Any]:
    """The names that an example of the maintainers' guide defines."""
    sources = [text for language, _, text in blocks(ROOT / "docs/architecture.md") if language == "python"]
    names: dict[str, Any] = {}
    exec(compile(textwrap.dedent(sources[number]), "architecture.md", "exec"), names)
    return names


def test_the_filter_of_the_maintainers_guide_works() -> None:
    names = example(0)
    with origin(echo) as o:
        tea, milk = (SimpleNamespace(route=msgspec.convert(route(path, o.url), Route)) for path in ("/tea", "/milk"))
        made = names["build"](tea)
        assert names["build"](milk) is None
        with in_process(Chain("/tea", route("/tea", o.url), made)) as gate:
            assert gate.get("/tea", "X-Brew: coffee")[0].startswith(b"HTTP/1.1 418 ")
            head, seen = gate.get("/tea")
            assert b"X-Served-By: teapot\r\n" in head
            assert b"X-Pot: tea\r\n" in seen


def test_the_authenticator_of_the_maintainers_guide_works() -> None:
    made = example(1)["build"](SimpleNamespace(kept=lambda _, make: make()))
    with origin(echo) as o:
        chain = Chain("/hall", route("/hall", o.url), asking(made, forward_credentials=False))
        with in_process(chain) as gate:
            assert b'WWW-Authenticate: Badge realm="kairos"\r\n' in gate.get("/hall")[0]
            assert gate.get("/hall", "X-Badge: tin")[0].startswith(b"HTTP/1.1 401 ")
            head, seen = gate.get("/hall", "X-Badge: gold")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"X-Badge" not in seen


# --- tables ---------------------------------------------------------------------------------------------------------


def table(page: str, heading: str) -> list[list[str]]:
    """Cells of the rows of the table that begins with this heading row."""
    text = ROOT.joinpath("docs", page).read_text()
    rows = text.split(f"{heading}\n", 1)[1].splitlines()[1:]
    count = next((n for n, row in enumerate(rows) if not row.startswith("|")), len(rows))
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[:count]]


def code(text: str) -> str:
    return f"`{text}`"


def test_every_error_is_listed() -> None:
    expected = [
        [str(row.status), code(kind), code(row.type), code(row.flag), row.message, "yes" if row.close else ""]
        for kind, row in sorted(KINDS.items(), key=lambda item: (item[1].status, item[0]))
    ]
    assert table("proxying.md", "| status | `code` | `type` | flag | title | closes |") == expected, "\n".join(
        f"| {' | '.join(row)} |" for row in expected
    )


def exposed() -> Iterator[list[str]]:
    """Name, type and labels of every metric, from a page on which everything has moved."""
    board = Scoreboard(Capacity(workers=1, routes=2, pairs=3, upstreams=2))
    routes = [Route(external_path="/", internal_path="/", methods=["GET"], backends=[Backend(host="http://app")])]
    series = Series(board).assign(routes, ["global"])
    blocks = {
        board.route_block(0, 1): cells.R_CELLS,
        board.pair_block(0, 1): cells.P_CELLS,
        board.pair_block(0, 2): cells.P_CELLS,
        board.upstream_block(0, 1): cells.U_CELLS,
        board.shared_upstream(1): cells.SU_CELLS,
        board.limit_block(0, 1): cells.L_CELLS,
        board.limits: T_CELLS,
        board.windows: T_CELLS,
        board.worker_block(0): cells.W_CELLS,
    }
    for block, size in blocks.items():
        for cell in range(size):
            board.page.set(block + cell, 1)
    collector = GatewayCollector(board, series)
    collector.certificates = [("shop.pem", 0.0)]
    for family in collector.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
        yield [code(family.name + suffix), "gauge" if suffix == "_info" else family.type, ", ".join(map(code, labels))]


def test_every_metric_is_listed() -> None:
    heading = "| name | type | labels | meaning |"
    pages = ROOT.joinpath("docs/metrics.md").read_text().count(heading)
    listed = [row[:3] for part in range(pages) for row in nth_table("metrics.md", heading, part)]
    missing = [row for row in exposed() if row not in listed]
    assert missing == [], "\n".join(f"| {' | '.join(row)} | |" for row in missing)
    assert len(listed) == len(list(exposed()))


def nth_table(page: str, heading: str, number: int) -> list[list[str]]:
    text = ROOT.joinpath("docs", page).read_text().split(f"{heading}\n")[number + 1]
    rows = text.splitlines()[1:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[: rows.index("")]]


def test_every_field_of_the_access_log_is_listed() -> None:
    source = ROOT.joinpath("kairos/telemetry/accesslog.pyx").read_text()
    written = re.findall(r"b'[{,]\"(\w+)\":", source)
    assert [row[0] for row in table("logging.md", "| field | meaning |")] == [code(name) for name in written]


def test_the_line_shown_has_fields_of_the_access_log() -> None:
    listed = [row[0].strip("`") for row in table("logging.md", "| field | meaning |")]
    (line,) = [json.loads(text) for _, mark, text in blocks(ROOT / "docs/logging.md") if mark == "logged"]
    assert [name for name in listed if name in line] == list(line)


def test_signals_and_exit_codes_are_those_of_the_command() -> None:
    text = ROOT.joinpath("docs/operations.md").read_text()
    for signal_ in re.findall(r"^  ([A-Z0-9, ]+?)(?: again)?  ", EPILOG.split("Signals:")[1].split("Exit")[0], re.M):
        for name in signal_.split(", "):
            assert f"`{name}`" in text
    codes = re.findall(r"^  (\d)  ", EPILOG, re.M)
    assert [row[0] for row in table("operations.md", "| exit code | meaning |")] == codes


def test_every_flag_of_the_access_log_is_listed() -> None:
    listed = {flag for row in table("logging.md", "| flag | |") for flag in re.findall(r"`(\w+)`", row[0])}
    assert listed == {flag for row in KINDS.values() for flag in row.flag.split(",")}


def verbs(group: click.Group, words: str = "kairos") -> Iterator[str]:
    """Every command line that does something."""
    if group.invoke_without_command:
        yield words
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, f"{words} {name}")
        else:
            yield f"{words} {name}"


def test_every_command_is_listed() -> None:
    listed = [name for row in table("operations.md", "| command | does |") for name in row[0].split(", ")]
    assert sorted(listed) == sorted(map(code, verbs(manage.main)))


def test_fields_and_components_of_the_program_log_are_listed() -> None:
    fields = [row[0].strip("`") for row in table("logging.md", "| field | meaning of it |")]
    assert sorted(fields) == sorted(FIELDS)
    assert [row[0].strip("`") for row in table("logging.md", "| component | about |")] == list(COMPONENTS)


def test_events_of_the_gateway_are_listed() -> None:
    listed = [name for row in table("logging.md", "| type | when |") for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(listed) == sorted(TYPES)


def test_events_of_the_program_log_are_told_as_they_are_logged() -> None:
    sources = [path.read_text() for path in (ROOT / "kairos").rglob("*") if path.suffix in (".py", ".pyx")]
    for cell, *_ in table("logging.md", "| event | level | with |"):
        for event in re.findall(r"`(.+?)`", cell):
            assert any(f'"{event}' in text for text in sources), event


# --- links ----------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKED, ids=named(LINKED))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+://", target):
            path, _, anchor = target.partition("#")
            other = (page.parent / path) if path else page
            assert other.exists(), target
            assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("page", LINKED, ids=named(LINKED))
def test_files_named_in_code_exist(page: Path) -> None:
    for name in re.findall(r"`((?:kairos|tests|bench|tools|examples|deploy|docs)/[\w./-]+)`", page.read_text()):
        assert ROOT.joinpath(name).exists(), name


def test_members_named_in_the_maintainers_guide_exist() -> None:
    sources = [path.read_text() for path in (ROOT / "kairos").rglob("*") if path.suffix in (".py", ".pyx", ".pxd")]
    named_members = re.findall(r"`([A-Z]\w+)\.(\w+)[`(]", ROOT.joinpath("docs/architecture.md").read_text())
    assert named_members
    for owner, member in named_members:
        holders = [text for text in sources if re.search(rf"class {owner}\b", text)]
        assert any(re.search(rf"\b{member}\b", text) for text in holders), f"{owner}.{member}"


def test_cells_named_in_the_maintainers_guide_exist() -> None:
    named_cells = set(
        re.findall(r"`((?:SU|OUT|H|W|R|P|U)_[A-Z_]+)`", ROOT.joinpath("docs/architecture.md").read_text())
    )
    assert named_cells
    assert named_cells <= set(dir(cells))
