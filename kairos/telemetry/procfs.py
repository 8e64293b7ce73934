"""What the kernel knows of a process: CPU time and resident memory, read from /proc when asked for."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage(Struct, frozen=True):
    """Of one process. `started` tells it from another that gets its pid later."""

    started: int
    cpu_us: int
    rss: int
    """Bytes, pages shared with others included."""


def parse_stat(text: bytes) -> Usage:
    """Fields are counted from behind the command's name, which may itself hold spaces and parentheses."""
    fields = text[text.rindex(b")") + 2 :].split()
    return Usage(int(fields[19]), (int(fields[11]) + int(fields[12])) * _TICK_US, int(fields[21]) * _PAGE)


def usage(pid: int) -> Usage | None:
    """None where there is no such process, or no /proc."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_bytes())
    except (OSError, ValueError):
        return None
