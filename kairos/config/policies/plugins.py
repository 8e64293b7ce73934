"""Filters of the user's own: a Python package or file, or a Lua script in a sandbox."""

from __future__ import annotations

import importlib.util
from importlib.metadata import entry_points
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, field

from kairos.config.spec import Spec

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

GROUP = "kairos.filters"
"""Entry points of packages that have filters."""
MAX_SOURCE = 1 << 20


class Plugin(Spec, frozen=True):
    """One filter; several run in the order they are listed."""

    name: str | None = None
    """Entry point of an installed package in the group `kairos.filters`."""
    file: str | None = None
    """Path of a `.py` or `.lua` file instead; read again when it changed and the configuration is loaded."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Given to the plugin, which says what they are."""
    instructions: Annotated[int, Meta(ge=1_000, le=1_000_000_000)] = 1_000_000
    """Lua: the most a hook may execute for one request."""
    seconds: Annotated[float, Meta(gt=0, le=60)] = 0.1
    """Lua: CPU time a hook may take, checked every 100 instructions."""
    body_limit: Annotated[int, Meta(ge=1, le=16 * 1024 * 1024)] = 1024 * 1024
    """Lua: largest body that on_request_body and on_response_body are given; it is held in memory whole."""
    body_others: Literal["reject", "pass"] = "reject"
    """Lua: what becomes of a body that is larger, or encoded in a way that cannot be undone."""
    memory: Annotated[int, Meta(ge=256 * 1024, le=1 << 30)] = 16 * 1024 * 1024
    """Lua: bytes a script may hold, per worker and route."""


def check(plugins: list[Plugin], keys: Path, found: Findings) -> None:
    """What its types cannot say; nothing of a plugin is run."""
    for at, plugin in enumerate(plugins):
        here = (*keys, at)
        if (plugin.name is None) == (plugin.file is None):
            found.error(here, "give either the name of an installed plugin, or a file")
        elif plugin.name is not None:
            _check_name(plugin.name, (*here, "name"), found)
        elif plugin.file is not None:
            _check_file(plugin.file, (*here, "file"), found)


def files(plugins: list[Plugin]) -> list[str]:
    """What they are read from."""
    return [plugin.file for plugin in plugins if plugin.file is not None]


def source(name: str) -> bytes:
    """The text of a plugin's file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large.
    """
    with FilePath(name).open("rb") as file:
        data = file.read(MAX_SOURCE + 1)
    if len(data) > MAX_SOURCE:
        raise ValueError(f"more than {MAX_SOURCE} bytes")
    return data


def _check_name(name: str, keys: Path, found: Findings) -> None:
    if not entry_points(group=GROUP, name=name):
        known = ", ".join(sorted(point.name for point in entry_points(group=GROUP))) or "none"
        found.error(keys, f"no installed package has a plugin '{name}' (installed: {known})")


def _check_file(name: str, keys: Path, found: Findings) -> None:
    suffix = FilePath(name).suffix
    if suffix not in (".py", ".lua"):
        found.error(keys, f"{name} is neither a .py nor a .lua file")
        return
    if suffix == ".lua" and importlib.util.find_spec("lupa") is None:
        found.error(keys, "Lua plugins need the extra 'lua': pip install 'kairos[lua]'")
    try:
        data = source(name)
        if suffix == ".py":
            compile(data, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        found.error(keys, f"{name}:{error.lineno}: {error.msg}")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        found.error(keys, f"cannot read {name}: {reason}")
