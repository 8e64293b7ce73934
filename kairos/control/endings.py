"""Sessions of logins that were ended before their time, by their user or their provider, for all workers.

A session is a cookie, so what ends it is a list of those that no longer count. It is in memory and in a file of the
state folder, and each change counts H_ENDED up: a worker that sees that asks for what is new before it believes another
cookie. Who told of an ending is answered once it is in the file, or could not be written there.

The list is bounded: what is over anyway goes, then the oldest.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

import msgspec

from kairos.config.discovery import Ending, Endings, EndingsSince
from kairos.control.http import Response, problem
from kairos.control.sharing import Sharing
from kairos.storage.files import replace_file
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kairos.config.model import Config
    from kairos.control.http import Handler, Request

MOST = 65_536
"""Endings that are remembered for a provider."""
AT_ONCE = 2048
"""Of one answer to a worker."""

log = get_logger("control")


class Ledger:
    """The endings of one provider, numbered from the first one on."""

    def __init__(self) -> None:
        self.rows: list[Ending] = []
        self._dropped = 0
        self._jtis: set[str] = set()

    def add(self, ending: Ending, now: float) -> bool:
        """False: its token was used before."""
        if ending.jti and ending.jti in self._jtis:
            return False
        self._make_room(now)
        self.rows.append(ending)
        self._jtis.add(ending.jti)
        return True

    def _make_room(self, now: float) -> None:
        over = next((at for at, row in enumerate(self.rows) if row.until > now), len(self.rows))
        if over == 0 and len(self.rows) >= MOST:
            log.warning("too many sessions were ended: the first of them count again", most=MOST)
            over = MOST // 64
        self._jtis.difference_update(row.jti for row in self.rows[:over])
        self._dropped += over
        del self.rows[:over]

    def since(self, number: int) -> tuple[list[Ending], int]:
        """From a number on, and the number of the first one that is not among them."""
        first = max(number - self._dropped, 0)
        some = self.rows[first : first + AT_ONCE]
        return some, self._dropped + first + len(some)


class EndedSessions:
    """Of all providers. Inside the event loop, but for the file."""

    def __init__(self, file: Path | None, changed: Callable[[], None], wall: Callable[[], float] = time.time) -> None:
        self._file = file
        self._changed = changed
        self._wall = wall
        self._epoch = secrets.token_hex(8)
        self._ledgers: dict[str, Ledger] = {}
        self._writing = asyncio.Lock()
        self._sharing: Sharing | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._asked = self._written = 0
        """How often the file was to be written, and of which of them it is."""
        self.take_up()

    def take_up(self) -> None:
        """What stands in the file and is not known here: of an earlier process, or of the gateway before this one."""
        for name, endings in self._read().items():
            self._merge(name, endings)
        self._changed()

    def _merge(self, name: str, endings: list[Ending]) -> bool:
        """Whether any of them was not known, and is still of interest."""
        ledger, now = self._ledger(name), self._wall()
        known = {(row.who, row.at) for row in ledger.rows} if endings else set()
        new = [one for one in endings if (one.who, one.at) not in known and one.until > now]
        return any([ledger.add(ending, now) for ending in new])  # noqa: C419  (all of them)

    async def _take(self, name: str, endings: list[Ending]) -> None:
        """What other gateways were told."""
        if self._merge(name, endings):
            await self._write()
            self._changed()

    def _read(self) -> dict[str, list[Ending]]:
        try:
            return msgspec.json.decode(self._file.read_bytes() if self._file else b"{}", type=dict[str, list[Ending]])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.error("the list of ended sessions cannot be read: they count again", error=str(error))
            return {}

    def _ledger(self, name: str) -> Ledger:
        return self._ledgers.setdefault(name, Ledger())

    def apply(self, config: Config) -> None:
        """Providers that are gone have no sessions."""
        self._ledgers = {name: ledger for name, ledger in self._ledgers.items() if name in config.oidc}
        names = frozenset(name for name, provider in config.oidc.items() if provider.share_endings)
        sharing = self._sharing
        if sharing is not None and (sharing.spec != config.redis or sharing.names != names):
            self._sharing = None
            task = asyncio.create_task(sharing.stop())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        if self._sharing is None and names and config.redis is not None:
            self._sharing = Sharing(config.redis, names, self._take, self._wall)

    async def close(self) -> None:
        if self._sharing is not None:
            await self._sharing.stop()
        await asyncio.gather(*self._closing)

    def step_down(self) -> None:
        """Another gateway writes the file from now on."""
        self._file = None

    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """What workers may ask."""
        return {"/oidc/{name}/end": {"POST": self._end}, "/oidc/{name}/ended": {"POST": self._ended}}

    async def _end(self, request: Request) -> Response:
        try:
            ending = msgspec.json.decode(request.body, type=Ending)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return problem(400, f"the body cannot be used: {error}")
        return Response(msgspec.json.encode(await self.add(request.params["name"], ending)))

    async def add(self, name: str, ending: Ending) -> bool:
        """Whether it is new; then no worker believes what it ends when this returns."""
        if not self._ledger(name).add(ending, self._wall()):
            return False
        await self._write()
        self._changed()
        if self._sharing is not None:
            self._sharing.tell(name, ending)
        return True

    async def _write(self) -> None:
        """Until what is in memory now is in the file: those who come meanwhile are content with one writing."""
        self._asked += 1
        mine = self._asked
        async with self._writing:
            if self._file is None or self._written >= mine:
                return
            upto, data = self._asked, msgspec.json.encode({name: one.rows for name, one in self._ledgers.items()})
            try:
                await asyncio.to_thread(replace_file, self._file, data)
            except OSError as error:
                log.error("the list of ended sessions cannot be kept over a restart", error=error.strerror)
            self._written = upto

    async def _ended(self, request: Request) -> Response:
        try:
            known = msgspec.json.decode(request.body, type=EndingsSince)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return problem(400, f"the body cannot be used: {error}")
        ledger = self._ledger(request.params["name"])
        some, number = ledger.since(known.number if known.epoch == self._epoch else 0)
        more = bool(ledger.since(number)[0])
        return Response(msgspec.json.encode(Endings(self._epoch, number, some, more)))
