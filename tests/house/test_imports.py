"""House rules that a reader relies on: who may import whom, what a worker loads, what each file begins with.

The parts of the house and the arrows between them are MAY_IMPORT; a new part needs a line there. Imports for type
checkers count as well: who names a type, depends on it.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from kairos.config.log import COMPONENTS

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for suffix in ("py", "pyx", "pxd") for path in (ROOT / "kairos").rglob(f"*.{suffix}"))

BELOW_TELEMETRY = {"inquiry", "channel", "scoreboard", "resolver", "config", "_speedups"}
REDIS = {"redisclient", "rediscache"}
MAY_IMPORT: dict[str, set[str]] = {
    "_speedups": set(),
    "config": {"_speedups"},
    "scoreboard": {"config", "_speedups"},
    "channel": {"scoreboard", "config", "_speedups"},
    "inquiry": {"channel"},
    "resolver": set(),
    "openid": {"config"},
    "telemetry": BELOW_TELEMETRY,
    "storage": {"config", "_speedups"},
    "redisclient": {"telemetry", "config"},
    "rediscache": {"redisclient", "telemetry", "config"},
    # the planes: none imports another, they meet in what is above
    "proxy": {"openid", "telemetry", *REDIS, *BELOW_TELEMETRY},
    "control": {"openid", "storage", "telemetry", *REDIS, *BELOW_TELEMETRY},
    "supervisor": {"storage", "telemetry", *BELOW_TELEMETRY},
    "client": set(),
    # who joins them
    "worker": {"proxy", "telemetry", *BELOW_TELEMETRY},
    "cli": {"client", "worker", "control", "supervisor", "storage", "telemetry", *BELOW_TELEMETRY},
}
LIBRARIES = {
    "prometheus_client": ["telemetry/prometheus.py"],
    "click": ["cli/"],
    "yaml": ["config/"],
    "litestar": ["control/"],
    "uvicorn": ["control/api/"],
    "sqlalchemy": ["control/", "storage/"],
}
"""Who alone may import what is slow to load or has no place elsewhere."""
IMPURE = {"asyncio", "logging", "os", "select", "socket", "structlog", "subprocess", "threading", "time", "uvloop"}
CORES = ("_speedups/", "supervisor/plan.py", "proxy/errors.py", "proxy/unusual.py", "proxy/trailers.py")
"""Bytes and `now` in, decisions out."""

_CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(.+)|c?import\s+([\w., ]+))$", re.M)


def inside(path: Path) -> str:
    """A source file's name below kairos/."""
    return path.relative_to(ROOT / "kairos").as_posix()


@cache
def imports(path: Path) -> list[str]:
    """Every module a file imports or cimports, dotted; of `from a import b` it is `a.b`."""
    return list(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    text = path.read_text()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: a relative import"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        return
    for origin, names, modules in _CYTHON_IMPORT.findall(text):
        named = names.strip("( ").split(",")[0]  # one tells the part; all of them are often on further lines
        yield from [f"{origin}.{named}"] if origin else (module.split()[0] for module in modules.split(","))


def part_of(path: Path) -> str:
    """The part of the house a file belongs to: a package, or a module beside the packages."""
    return inside(path).partition("/")[0].partition(".")[0]


def parts_imported(path: Path) -> set[str]:
    dotted = [name.split(".") for name in imports(path)]
    return {name[1] for name in dotted if name[0] == "kairos" and len(name) > 1 and name[1] in MAY_IMPORT}


FILES = [path for path in SOURCES if inside(path) != "__init__.py"]


def test_the_walk_sees_python_and_cython() -> None:
    exchange = ROOT / "kairos/proxy/exchange"
    assert {"_speedups", "telemetry", "proxy"} <= parts_imported(exchange.with_suffix(".pyx"))
    assert {"_speedups", "telemetry", "proxy"} <= parts_imported(exchange.with_suffix(".pxd"))
    assert parts_imported(ROOT / "kairos/worker.py") >= {"proxy", "channel", "config", "_speedups"}


@pytest.mark.parametrize("path", FILES, ids=inside)
def test_imports_follow_the_arrows(path: Path) -> None:
    own = part_of(path)
    assert own in MAY_IMPORT, f"kairos/{own} is a new part of the house: say in MAY_IMPORT what it may import"
    assert parts_imported(path) - {own} <= MAY_IMPORT[own]


@pytest.mark.parametrize("library", LIBRARIES)
def test_some_libraries_have_one_place(library: str) -> None:
    users = [inside(path) for path in SOURCES if any(name.split(".")[0] == library for name in imports(path))]
    assert users
    assert [user for user in users if not user.startswith(tuple(LIBRARIES[library]))] == []


@pytest.mark.parametrize("path", [path for path in FILES if inside(path).startswith(CORES)], ids=inside)
def test_cores_touch_no_socket_clock_loop_or_log(path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path)} & IMPURE == set()


# --- what is loaded -------------------------------------------------------------------------------------------------

ALONE = """
import contextlib, importlib, json, os, sys
libraries, modules = (json.loads(names) for names in sys.argv[1:])
for name in libraries:
    with contextlib.suppress(ImportError):  # one of a newer Python
        importlib.import_module(name)
failed = []
for name in modules:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            importlib.import_module(name)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1] != 0:
        failed.append(name)
print(json.dumps(failed))
"""
"""Libraries are loaded once; each module of ours then in a process of its own, where nothing of ours is loaded yet."""


def libraries() -> set[str]:
    """What our Python modules import of others."""
    names = {name for path in SOURCES if path.suffix == ".py" for name in imports(path)}
    return {name.rpartition(".")[0] or name for name in names if name.split(".")[0] != "kairos"}


def module_name(path: Path) -> str:
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


def run_python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_module_can_be_imported_alone() -> None:
    """No import works only because another came first."""
    modules = [module_name(path) for path in SOURCES if path.suffix != ".pxd"]
    assert len(modules) > 50
    assert json.loads(run_python(ALONE, json.dumps(sorted(libraries())), json.dumps(modules))) == []


def test_a_worker_loads_only_the_data_plane() -> None:
    loaded = set(json.loads(run_python("import json, sys, kairos.worker; print(json.dumps(list(sys.modules)))")))
    assert {"kairos.proxy.exchange", "kairos.proxy.snapshot", "uvloop"} <= loaded
    foreign = {"click", "yaml", "tomllib", "prometheus_client", "jsonschema", "sqlalchemy", "xml", "unittest", "pytest"}
    foreign |= {"litestar", "uvicorn", "alembic", "httpx", "rich", "ruamel", "tomlkit", "websockets", "argon2"}
    foreign |= {"kairos.cli", "kairos.control", "kairos.supervisor", "kairos.config.load", "kairos.config.schema"}
    assert loaded & foreign == set()


# --- what a file looks like -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".pyx"], ids=inside)
def test_an_extension_has_its_header_and_its_types(path: Path) -> None:
    assert path.with_suffix(".pxd").exists()
    assert path.with_suffix(".pyi").exists()


@pytest.mark.parametrize("path", FILES, ids=inside)
def test_a_file_begins_by_saying_what_it_is(path: Path) -> None:
    assert re.match(r'"""\S.{10,}', path.read_text())


def test_each_logger_is_a_component_that_has_a_level() -> None:
    names = {name for path in FILES for name in re.findall(r'get_logger\("(\w+)"\)', path.read_text())}
    assert len(names) > 10
    assert names <= set(COMPONENTS)


def test_no_file_names_the_machine_it_was_written_on() -> None:
    homes = re.compile(rf"(?:{re.escape(str(ROOT))}|{re.escape(str(Path.home()))})/|/(?:home|Users)/\w")
    written = {".py", ".pyx", ".pxd", ".pyi", ".md", ".toml", ".json", ".yaml", ".service", ".socket", ".sh", ".lua"}
    folders = ("kairos", "docs", "deploy", "examples", "tools", "bench", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*"))
    files = [path for path in files if "node_modules" not in path.parts]
    texts = {path: path.read_text() for path in files if path.suffix in written and path.is_file()}
    assert len(texts) > 100
    assert [str(path.relative_to(ROOT)) for path, text in texts.items() if homes.search(text)] == []
