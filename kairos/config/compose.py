"""One configuration for several nodes: each has a file of its own for what concerns it alone, all share the rest.

What belongs to the node is listed in NODE; everything else comes from the shared document, whatever the node's own
file says. Documents are plain values in canonical spelling, references unresolved: each node resolves its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kairos.config.problems import Path

Plain = dict[str, Any]

NODE: tuple[Path, ...] = (
    ("server",),  # addresses, processes, certificates on this machine's disk
    ("admin",),
    ("storage",),
    ("log",),
    ("access_log", "file"),
    ("cache_storage",),  # of this machine's memory
)
"""Paths of what a node decides for itself."""


def compose(local: Plain, shared: Plain) -> Plain:
    """What a node runs."""
    made = shared_part(shared)
    for path in NODE:
        _copy(local, made, path)
    return made


def shared_part(document: Plain) -> Plain:
    """What of a document goes to every node."""
    made = document
    for path in NODE:
        made = _without(made, path)
    return made


def node_part(document: Plain) -> Plain:
    """What of a document stays with its node."""
    made: Plain = {}
    for path in NODE:
        _copy(document, made, path)
    return made


def _copy(source: Plain, target: Plain, path: Path) -> None:
    *above, last = map(str, path)
    for key in above:
        if not isinstance(source.get(key), dict):
            return
        source = source[key]
        target[key] = dict(target.get(key) or {})
        target = target[key]
    if last in source:
        target[last] = source[last]


def _without(document: Any, path: Path) -> Any:
    """A copy without a path, and without what has nothing left in it."""
    key, *rest = path
    if not isinstance(document, dict) or key not in document:
        return document
    made = dict(document)
    inner = _without(made[str(key)], tuple(rest)) if rest else None
    if inner:
        made[str(key)] = inner
    else:
        del made[str(key)]
    return made
