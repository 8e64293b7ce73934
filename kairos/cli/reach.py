"""Whether something listens where a backend is: a connection is opened and closed, nothing is sent."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

PATIENCE = 3.0
"""Seconds."""


def reach(key: str) -> str:
    """Why an upstream, named as in metrics, cannot be connected to; empty where it can."""
    try:
        if key.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(PATIENCE)
                peer.connect(key.removeprefix("unix:"))
            return ""
        parts = urlsplit(key)
        with socket.create_connection((parts.hostname or "", parts.port or 0), PATIENCE):
            return ""
    except TimeoutError:
        return f"no answer within {PATIENCE:g} s"
    except OSError as error:
        return error.strerror or str(error)
