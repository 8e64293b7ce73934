"""Files that settings name: read whole, up to a limit, with a reason in words where that fails."""

from __future__ import annotations

from pathlib import Path


def read_bounded(name: str, most: int) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger.
    """
    with Path(name).open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"more than {most} bytes")
    return data


def reason_of(error: OSError | ValueError) -> str:
    """Why a file could not be read or used."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
