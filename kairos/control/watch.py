"""Watches the configuration file, and says when it may have changed.

What changes is seen through the folders: that of the name, and those that its links point into, so that a rename over
the file, an editor's way of writing, or the swap of a link (as Kubernetes does with ..data) is seen like a plain write.
The kernel's events are hints: after each, and every POLL seconds without any (a network file system, no inotify left, a
folder that went away), what the name stands for is looked at, and only that counts.

The first look counts as a change, for nobody saw what came before. A file that is gone is none: it is said, and what
was loaded stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from watchfiles import awatch

from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

POLL = 2.0  # seconds between two looks when no event comes
QUIET = 0.2  # a change is over after so many seconds without another
PATIENCE = 2.0  # a file that never comes to rest is looked at all the same
MAX_LINKS = 40  # as many as the kernel follows

Look = tuple[str, int, int, int, int, int]
"""What tells one content of a file from the next: real name, device, inode, size, times of change. The inode's also
tells of what was written with its old time put back, and of a file that may be read from now on."""
Looks = tuple[Look | None, ...]
UNSEEN: Look = ("", 0, 0, 0, 0, 0)

log = get_logger("control")


class FileWatch:
    """Calls `changed` on the loop, from `start` on until `stop`."""

    def __init__(self, path: str, changed: Callable[[], None], *, poll: float = POLL) -> None:
        self._path = Path(path).absolute()
        self._beside: tuple[Path, ...] = ()
        self._changed = changed
        self._poll = poll
        self._task: asyncio.Task[None] | None = None
        self._blind = False  # no events, as was said

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def look_beside(self, paths: Iterable[str]) -> None:
        """Files whose change counts as well: certificates, keys. What they are now counts as a change."""
        beside = tuple(sorted(Path(path).absolute() for path in set(paths)))
        if beside != self._beside:
            self._beside = beside
            if self._task is not None:
                self.stop()
                self.start()

    def stop(self) -> None:
        """End at once; may be started again."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        paths = (self._path, *self._beside)
        known = self._judge((UNSEEN,), await asyncio.to_thread(look_at, paths))
        while True:
            watched = await asyncio.to_thread(folders_of, *paths)
            async with contextlib.aclosing(self._hints(watched)) as hints:
                async for _ in hints:
                    known = self._judge(known, await asyncio.to_thread(look_at, paths))
                    if await asyncio.to_thread(folders_of, *paths) != watched:
                        break

    def _judge(self, known: Looks, seen: Looks) -> Looks:
        """What is known from now on."""
        if seen == known:
            return known
        if seen[0] is None and known[0] is not None:
            log.warning("the configuration file is gone; the revision in use stays", file=str(self._path))
        else:
            self._changed()
        return seen

    async def _hints(self, folders: Iterable[str]) -> AsyncGenerator[None, None]:
        """When to look: after events and between them; ends when there can be no more."""
        try:
            async for _ in self._events(folders):
                self._blind = False
                yield
        except (OSError, RuntimeError) as error:
            if not self._blind:
                log.warning("no file events: looking at the configuration now and then", error=str(error))
            self._blind = True
        await asyncio.sleep(self._poll)
        yield

    def _events(self, folders: Iterable[str]) -> AsyncGenerator[object, None]:
        return awatch(
            *folders,
            watch_filter=None,
            recursive=False,
            step=int(QUIET * 1000),
            debounce=int(PATIENCE * 1000),
            rust_timeout=int(self._poll * 1000),
            yield_on_timeout=True,
        )


def look(path: Path) -> Look | None:
    """What the name stands for now; None: nothing."""
    try:
        found = path.stat()
        times = found.st_mtime_ns, found.st_ctime_ns
        return os.path.realpath(path), found.st_dev, found.st_ino, found.st_size, *times
    except OSError:
        return None


def look_at(paths: Iterable[Path]) -> Looks:
    """What each name stands for now."""
    return tuple(map(look, paths))


def folders_of(*paths: Path) -> dict[str, tuple[int, int]]:
    """The folders in which a name, or what it links to, can be replaced; with what tells them from later ones."""
    found: dict[str, tuple[int, int]] = {}
    for path in paths:
        found |= _folders_of(path)
    return found


def _folders_of(path: Path) -> dict[str, tuple[int, int]]:
    names = [path]
    with contextlib.suppress(OSError):
        while len(names) < MAX_LINKS and names[-1].is_symlink():
            names.append(names[-1].parent / os.readlink(names[-1]))
    found = {}
    for folder in [*(name.parent for name in names), Path(os.path.realpath(path)).parent]:
        with contextlib.suppress(OSError):
            status = folder.stat()
            found[str(folder)] = status.st_dev, status.st_ino
    return found
