"""Sessions that were ended before their time, as one worker knows them: by marks of whom they are.

    sid      the provider ended one session
    sub      it ended all of a user that had begun
    session  a browser logged out: copies of its cookie end with it

The list is the control process's (kairos/control/endings.py). H_ENDED says that there is something new, and no session
is believed before that is known.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from kairos._speedups.cells import H_ENDED
from kairos.config.discovery import Ending, EndingsSince
from kairos.config.discovery import Endings as Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kairos._speedups.cells import Page
    from kairos.proxy.oidc.session import Session

Marks = tuple[str | None, str, str]


def mark(kind: str, text: str) -> str:
    """Of whom; nobody's name."""
    return blake2b(f"{kind}\n{text}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def marks_of(session: Session) -> Marks:
    """By which a session may have ended: its sid, its user, itself."""
    sid = session.claims.get("sid")
    own = mark("session", f"{session.began!r} {session.subject}")
    return mark("sid", sid) if isinstance(sid, str) else None, mark("sub", session.subject), own


class Endings:
    """Of one provider."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._ended: dict[str, Ending] = {}
        self._since = EndingsSince("", 0)
        self._seen = -1
        self._catching: asyncio.Task[None] | None = None

    @property
    def behind(self) -> bool:
        """Something ended that is not known here yet."""
        return self._page.get(H_ENDED) != self._seen

    def has(self, marks: Marks, began: float) -> bool:
        """Whether a session with these marks is among them."""
        sid, subject, own = marks
        if sid in self._ended or own in self._ended:
            return True
        ending = self._ended.get(subject)
        return ending is not None and began <= ending.at

    async def catch_up(self, ask: Callable[[bytes], Awaitable[Answer]], now: float) -> None:
        """Learn what is new, once for all who wait for it.

        Raises:
            Exception: what `ask` raises.
        """
        if self._catching is None:
            self._catching = asyncio.ensure_future(self._learn(ask, now))
            self._catching.add_done_callback(self._caught)
        await asyncio.shield(self._catching)

    def _caught(self, task: asyncio.Task[None]) -> None:
        self._catching = None
        if not task.cancelled():
            task.exception()

    async def _learn(self, ask: Callable[[bytes], Awaitable[Answer]], now: float) -> None:
        seen, more = self._page.get(H_ENDED), True
        while more:
            answer = await ask(msgspec.json.encode(self._since))
            self._ended |= {ending.who: ending for ending in answer.endings}
            self._since, more = EndingsSince(answer.epoch, answer.number), answer.more
        self._ended = {who: ending for who, ending in self._ended.items() if ending.until > now}
        self._seen = seen
