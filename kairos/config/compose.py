"""One configuration for several nodes: each has a file of its own for what concerns it alone, all share the rest.

Sections that belong to the node are listed in NODE; everything else comes from the shared document, whatever the
node's own file says. Documents are plain values in canonical spelling, references unresolved: each node resolves its
own.
"""

from __future__ import annotations

from typing import Any

Plain = dict[str, Any]

NODE = frozenset({"server", "admin", "storage", "log", "access_log", "cache_storage"})
"""Sections about this machine: its addresses, processes, disks and memory."""


def compose(local: Plain, shared: Plain) -> Plain:
    """What a node runs."""
    return {**node_part(local), **shared_part(shared)}


def shared_part(document: Plain) -> Plain:
    """What of a document goes to every node."""
    return {name: section for name, section in document.items() if name not in NODE}


def node_part(document: Plain) -> Plain:
    """What of a document stays with its node."""
    return {name: section for name, section in document.items() if name in NODE}
