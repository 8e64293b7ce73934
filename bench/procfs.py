"""What the kernel knows about a tree of processes: CPU time, memory, who serves a port.

Rules: everything is read from /proc at the moment of asking, nothing is cached; a process that vanishes while it is
read counts as gone. The CPU time of a tree is that of its living members plus what they inherited from children they
reaped, so that a worker which is replaced between two readings does not lose its share.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class Stat:
    """The part of /proc/<pid>/stat that is needed here."""

    parent: int
    cpu_ticks: int
    """User and system time, own and of reaped children."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in KiB; pss shares out the pages that several processes map."""

    rss: int
    pss: int


def parse_stat(text: bytes) -> Stat:
    """Fields are counted from behind the command name, which may itself hold spaces and parentheses."""
    fields = text[text.rindex(b")") + 2 :].split()
    return Stat(parent=int(fields[1]), cpu_ticks=sum(map(int, fields[11:15])))


def stat(pid: int) -> Stat | None:
    """None when there is no such process any more."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return None


def tree(root: int) -> dict[int, Stat]:
    """The process and all its descendants."""
    everybody = {pid: found for pid in _pids() if (found := stat(pid)) is not None}
    members: dict[int, Stat] = {}
    wanted = [root]
    while wanted:
        pid = wanted.pop()
        if pid in everybody:
            members[pid] = everybody[pid]
            wanted += [child for child, found in everybody.items() if found.parent == pid]
    return members


def cpu_us(root: int) -> int:
    """CPU time of the tree so far, in microseconds."""
    return sum(member.cpu_ticks for member in tree(root).values()) * TICK_US


def parse_memory(rollup: str) -> Memory:
    """From the text of smaps_rollup."""
    sizes = {key: int(rest.split()[0]) for line in rollup.splitlines()[1:] for key, _, rest in [line.partition(":")]}
    return Memory(rss=sizes["Rss"], pss=sizes["Pss"])


def memory(pid: int) -> Memory:
    return parse_memory(Path(f"/proc/{pid}/smaps_rollup").read_text())


def tree_memory(root: int) -> Memory:
    """Sums over the tree; only the pss sum means something when pages are shared."""
    sizes = [memory(pid) for pid in tree(root)]
    return Memory(rss=sum(size.rss for size in sizes), pss=sum(size.pss for size in sizes))


def parse_listening(table: str, port: int) -> set[str]:
    """Inodes of the sockets that listen on the port, from the text of /proc/net/tcp or tcp6."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return {row[9] for row in rows if row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == port}


def workers(root: int, port: int) -> list[int]:
    """Members of the tree that hold a listening socket of the port; the root only when nobody else does."""
    inodes = set().union(*(parse_listening(Path(f"/proc/net/{name}").read_text(), port) for name in _tcp_tables()))
    holders = [pid for pid in tree(root) if inodes & sockets(pid)]
    return [pid for pid in holders if pid != root] or holders


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _tcp_tables() -> list[str]:
    return [name for name in ("tcp", "tcp6") if Path(f"/proc/net/{name}").exists()]


def sockets(pid: int) -> set[str]:
    """Inodes of the sockets the process has open."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found
