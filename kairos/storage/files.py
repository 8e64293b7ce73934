"""Writing a file of the state folder whole or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NEW = ".new"
"""Suffix of what is being written; a kill may leave it behind, the next write takes its name."""


def replace_file(path: Path, data: bytes) -> None:
    """Under another name, synced and renamed, mode 0600: kill, full disk or power failure leave the file as it was.

    One writer a path. Raises OSError.
    """
    new = path.with_name(path.name + NEW)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
