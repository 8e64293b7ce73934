"""Several gateways with one database serve the same configuration: this one follows, and says how it is.

What counts is what is found by looking, every POLL_S; PostgreSQL's NOTIFY only makes the look come sooner. A node that
cannot reach the database serves on with what it has; one that a revision does not fit (a file or variable of its own is
missing) says so, keeps what it has, and tries again now and then. Sections about this machine come from its own file.

A change made here goes the way of every change (changes.py): tried by all workers of this node first, then written as
the successor of the revision it was made from. If another node's change came first, or the database is gone, it is
taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import msgspec

from kairos import __version__
from kairos.channel import OVERTAKEN
from kairos.config.compose import composed, document_of, shared_part
from kairos.config.editing import EditError
from kairos.control.source import SourceError
from kairos.storage import shared
from kairos.storage.database import UnavailableError
from kairos.storage.shared import NodeRow, SharedRevision, TakenError
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kairos.config.text import ConfigText
    from kairos.control.commands import Commands
    from kairos.control.requests import Requests
    from kairos.control.source import InUse
    from kairos.storage.database import Database

POLL_S = 2.0
REPORT_S = 5.0
ALIVE_S = 4 * REPORT_S
"""A node that was silent for longer is taken for dead."""
AGAIN_S = 30.0
"""After which a revision that did not fit is tried again."""
LISTED = 200
"""Backends that a node tells of."""
PATIENCE_S = 20.0
"""For the database, of a change."""

log = get_logger("control")


class Follower:
    """Keeps this node at the newest shared revision. `start`, then `close`."""

    def __init__(self, database: Database, in_use: InUse, requests: Requests, node: str) -> None:
        self._database = database
        self._in_use = in_use
        self._requests = requests
        self.node = node
        self.number = 0
        """The shared revision in use; 0 while none is known to be."""
        self.problems: list[str] = []
        """Why the newest is not in use."""
        self._last: SharedRevision | None = None
        self._refused = (0, 0.0)
        self._hint = asyncio.Event()
        self._looking = asyncio.Lock()
        self._cut_off = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks.append(asyncio.create_task(self._follow()))
        if self._database.dialect == "postgresql":
            self._tasks.append(asyncio.create_task(self._listen()))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hint(self) -> None:
        """There may be something new."""
        self._hint.set()

    async def _follow(self) -> None:
        while True:
            try:
                await self.look()
                self._reach(True)
            except UnavailableError as error:
                self._reach(False, str(error))
            except Exception:
                log.exception("following the shared configuration failed; trying again")
            self._hint.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hint.wait(), POLL_S)

    def _reach(self, reached: bool, why: str = "") -> None:
        if self._cut_off != reached:
            return
        self._cut_off = not reached
        if reached:
            log.info("the shared configuration can be reached again", revision=self.number)
        else:
            log.warning("cut off from the shared configuration; serving on", revision=self.number, error=why)

    async def look(self) -> None:
        """Take up what is newest. Raises UnavailableError."""
        async with self._looking:
            number = await shared.newest_number(self._database)
            if number == self.number != 0 or (number == self._refused[0] and time.monotonic() < self._refused[1]):
                return
            newest = await shared.newest(self._database) if number else await self._first()
            if newest is not None:
                await self._take_up(newest)

    async def _first(self) -> SharedRevision | None:
        """Nobody has written any: what is in use here is the first."""
        try:
            document = shared_part(document_of(self._in_use.text))
            return await shared.add(
                self._database, 0, document, author="", message="the first node's own", node=self.node
            )
        except TakenError:
            return await shared.newest(self._database)

    async def _take_up(self, revision: SharedRevision) -> None:
        old = self._in_use.text
        reason = f"shared revision {revision.number}"
        try:
            new = composed(old, revision.document, reason, author=revision.author, message=revision.message)
        except EditError as error:
            return self._refuse(revision, [str(error)])
        if shared_part(document_of(old)) == revision.document:
            return self._note(revision)
        result = await self._requests.use(msgspec.structs.replace(new, replaces=old.sha256))
        if result.problems == [OVERTAKEN]:
            return self._hint.set()
        if result.problems:
            return self._refuse(revision, result.problems)
        self._requests.settled(result.revision)
        log.info("a shared revision is in use", revision=revision.number, author=revision.author, node=revision.node)
        self._note(revision)
        return None

    def _note(self, revision: SharedRevision) -> None:
        self.number, self._last, self.problems = revision.number, revision, []

    def _refuse(self, revision: SharedRevision, problems: list[str]) -> None:
        if self._refused[0] != revision.number:
            log.error("a shared revision does not fit this node", revision=revision.number, problems=problems)
        self._refused = (revision.number, time.monotonic() + AGAIN_S)
        self.problems = problems

    async def write(self, text: ConfigText) -> None:
        """The change that is in use here is everybody's from now on. Raises SourceError, and then it is nobody's."""
        try:
            document = shared_part(document_of(text))
            async with asyncio.timeout(PATIENCE_S):
                made = await shared.add(
                    self._database,
                    self.number,
                    document,
                    author=text.author,
                    message=text.message,
                    node=self.node,
                )
        except (UnavailableError, TimeoutError) as error:
            await self._take_back()
            raise SourceError("unavailable", str(error) or "the database does not answer") from None
        except TakenError:
            await self._take_back()
            raise SourceError("changed", "another node changed the configuration meanwhile: look at it again") from None
        self._note(made)

    async def _take_back(self) -> None:
        """To the shared revision that was in use before; the newest follows when it can be reached."""
        last, self.number = self._last, 0
        with contextlib.suppress(TimeoutError):
            if last is not None:
                await self._take_up(last)
        self._hint.set()

    async def _listen(self) -> None:
        """Hints, for as long as there are any."""
        while True:
            with contextlib.suppress(OSError, UnavailableError):
                await self._database.listen(shared.CHANNEL, self._hint.set)
            await asyncio.sleep(POLL_S)


def summary(commands: Commands) -> dict[str, Any]:
    """How a gateway is, in few words, for the others to show."""
    status = commands.status()
    return {
        "phase": status.phase,
        "uptime": round(status.uptime),
        "generation": status.revision,
        "workers": len(status.workers),
        "connections": sum(worker.connections for worker in status.workers),
        "requests": sum(worker.requests for worker in status.workers),
        "backends": [[backend.key, backend.state, backend.breaker] for backend in commands.backends()[:LISTED]],
    }


class SharedSource:
    """The database as the place the configuration is kept (a Source). Called off the loop."""

    name = "the shared configuration"

    def __init__(self, follower: Follower, in_use: InUse, database: Database) -> None:
        self._follower = follower
        self._in_use = in_use
        self._database = database
        self._loop = asyncio.get_running_loop()

    def read(self) -> bytes:
        return self._in_use.text.data

    def stage(self, text: ConfigText) -> StagedShared:
        """Only what follows the newest may be tried."""
        try:
            number = self.wait(shared.newest_number(self._database))
        except (UnavailableError, TimeoutError) as error:
            raise SourceError("unavailable", str(error) or "the database does not answer") from None
        if number != self._follower.number:
            self._loop.call_soon_threadsafe(self._follower.hint)
            raise SourceError("changed", "another node's change is just being taken up: ask once more")
        return StagedShared(self, text)

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """From a thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(2 * PATIENCE_S)

    def write(self, text: ConfigText) -> None:
        self.wait(self._follower.write(text))


class StagedShared:
    """A change that is being tried here."""

    def __init__(self, source: SharedSource, text: ConfigText) -> None:
        self._source = source
        self._text = text

    def commit(self) -> None:
        self._source.write(self._text)

    def discard(self) -> None:
        """Nothing was written."""


class Reporter:
    """Says how this node is, every REPORT_S. `start`, then `close`."""

    def __init__(
        self, database: Database, node: str, status: Callable[[], dict[str, Any]], follower: Follower | None
    ) -> None:
        self._database = database
        self._node = node
        self._status = status
        self._follower = follower
        self._started_at = time.time()
        self.url = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def follows(self) -> bool:
        """Whether its configuration is the shared one."""
        return self._follower is not None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def row(self) -> NodeRow:
        """This node, now."""
        follower = self._follower
        return NodeRow(
            name=self._node,
            started_at=self._started_at,
            seen_at=time.time(),
            version=__version__,
            revision=follower.number if follower else 0,
            problems=follower.problems if follower else [],
            status=self._status(),
            url=self.url,
        )

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(UnavailableError):
                await shared.report(self._database, self.row())
            await asyncio.sleep(REPORT_S)
