"""One configuration for several nodes: each has a file of its own for what concerns it alone, all share the rest.

Sections that belong to the node are listed in NODE; everything else comes from the shared document, whatever the
node's own file says. Documents are plain values in canonical spelling, references unresolved: each node resolves its
own.
"""

from __future__ import annotations

import json
from typing import Any

from kairos.config.editing import EditError, canonical, document
from kairos.config.text import ConfigText

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


def composed(local: ConfigText, shared: Plain, reason: str, *, author: str = "", message: str = "") -> ConfigText:
    """What a node runs, as a text of its own: the file's part of `local`, and the shared part. Raises EditError."""
    value = compose(document_of(local), shared)
    data = json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
    return ConfigText(data, "json", local.name, reason, author, message)


def document_of(text: ConfigText) -> Plain:
    """What a text says, in canonical spelling. Raises EditError."""
    return canonical(document(text.data.decode("utf-8-sig"), text.format))


def follows(text: ConfigText) -> bool:
    """Whether a text was in use where the configuration is a database's."""
    try:
        storage = document_of(text).get("storage")
    except (EditError, UnicodeDecodeError):
        return False
    return isinstance(storage, dict) and storage.get("source") == "database"
