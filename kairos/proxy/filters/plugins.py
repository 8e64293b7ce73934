"""Filters of the user's own, loaded when a snapshot is built: what is wrong with one refuses the revision.

A Python plugin is trusted like the gateway itself. It has `build(settings, site)`, which gives a Filter or None; it may
have `Settings`, a msgspec Struct that its settings are converted to. A Lua script runs in a sandbox (lua.py).
"""

from __future__ import annotations

import hashlib
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec

from kairos.config.policies.plugins import GROUP, source
from kairos.proxy.exchange import Filter

if TYPE_CHECKING:
    from kairos.config.policies.plugins import Plugin
    from kairos.proxy.site import Site


class PluginError(ValueError):
    """A plugin that cannot be used; the text says which and why."""


def build(site: Site) -> list[Filter]:
    """The filters of a route's plugins, in their order."""
    made = [_made(plugin, site) for plugin in site.policies.plugins or ()]
    return [filter_ for filter_ in made if filter_ is not None]


def _made(plugin: Plugin, site: Site) -> Filter | None:
    what = plugin.name or plugin.file or ""
    try:
        if plugin.file is not None and plugin.file.endswith(".lua"):
            from kairos.proxy.filters.lua import LuaFilter

            return LuaFilter(source(plugin.file), plugin, site.name)
        return _python(plugin, site)
    except Exception as error:
        raise PluginError(f"plugin {what} of route {site.name}: {type(error).__name__}: {error}") from error


def _python(plugin: Plugin, site: Site) -> Filter | None:
    found = _installed(plugin.name) if plugin.name is not None else _from_file(str(plugin.file), site)
    build_ = getattr(found, "build", found)
    if not callable(build_):
        raise TypeError("it has no build(settings, site)")
    made = build_(_settings(found, plugin.settings), site)
    if made is not None and not isinstance(made, Filter):
        raise TypeError(f"build() gave {type(made).__name__}, not a Filter")
    return made


def _settings(found: Any, given: dict[str, Any]) -> Any:
    kind = getattr(found, "Settings", None)
    return given if kind is None else msgspec.convert(given, kind)


def _installed(name: str) -> Any:
    point = next(iter(entry_points(group=GROUP, name=name)), None)
    if point is None:
        raise LookupError("no installed package has it")
    return point.load()


def _from_file(name: str, site: Site) -> ModuleType:
    """Run once for each content: what the module keeps outlives reloads that leave the file alone."""
    data = source(name)
    return site.kept(("plugin", name, hashlib.sha256(data).digest()), lambda: _run(name, data))


def _run(name: str, data: bytes) -> ModuleType:
    module = ModuleType(f"kairos_plugin_{hashlib.sha256(name.encode()).hexdigest()[:12]}")
    module.__file__ = name
    exec(compile(data, name, "exec", dont_inherit=True), module.__dict__)
    return module
