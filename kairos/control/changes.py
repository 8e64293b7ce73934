"""The one way the configuration is changed while the gateway runs, whoever asks.

A change is a function from the plain values of the document to new ones. It is made under a lock, on the newest
document: compared (`If-Match`), edited, judged, written down beside the source, tried by every worker, and only once
all of them use it does it take the place of the old one. Whatever is refused on the way leaves everything as it was.
A change by somebody else in between (HUP, the file's watch) is noticed by the supervisor, and the edit is made again
on what is then the newest.

The source must say what is in use: a file that was edited by hand and not loaded is never overwritten.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, structs

from kairos._speedups import cells
from kairos.channel import OVERTAKEN
from kairos.config.diff import Difference, differences, text_diff
from kairos.config.editing import EditError, canonical, document, edited
from kairos.config.problems import ConfigError, render
from kairos.config.text import ConfigText
from kairos.control.commands import CommandError
from kairos.control.source import InUse, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kairos.channel import ReloadResult
    from kairos.config.load import Loaded
    from kairos.config.model import Config
    from kairos.config.syntax import Format
    from kairos.control.commands import Why
    from kairos.control.requests import Requests
    from kairos.control.source import Source, Staged
    from kairos.scoreboard import Scoreboard

    Plain = dict[str, Any]
    Edit = Callable[[Plain], Plain]

Origin = Literal["api", "cli", "ui", "rollback"]
TRIES = 20
UNCHANGED = "; nothing has changed"
HISTORY_S = 2.0  # how long an answer waits for the history to have the change

ADMINISTRATORS = ("admin", "storage")
"""Sections that say who manages the gateway, and where that is kept: single sign-on makes administrators."""

_EDIT: dict[str, Why] = {
    "not_found": "unknown", "exists": "refused", "ambiguous": "refused", "invalid": "invalid",
    "unreadable": "refused", "unwritable": "invalid",
}  # fmt: skip
_SOURCE: dict[str, Why] = {
    "read_only": "refused",
    "full": "full",
    "gone": "refused",
    "changed": "refused",
    "unavailable": "unavailable",
}


class Wish(Struct, frozen=True):
    """Who wants a change, and how."""

    author: str
    message: str = ""
    origin: Origin = "api"
    if_match: list[str] | None = None
    """The `etag` of the document that was looked at, one of these; None: whatever it is now."""
    dry_run: bool = False
    """Say what would come of it, and change nothing."""
    administers: bool = False
    """Whoever wants it may do everything."""


class Outcome(Struct, frozen=True):
    """What came of a change."""

    revision: int
    """In use."""
    etag: str
    """Of the document that is in use; of a dry run, the one that would be."""
    changed: bool
    """False: the document says that already."""
    dry_run: bool
    diff: list[Difference]
    text_diff: str
    """The same as lines, for people."""
    warnings: list[str]
    """Of the new configuration."""
    restart_required: list[str]
    """Keys that have another value than the one in force, until the gateway is started anew."""
    notes: list[str] = []
    """What did not work beside the change itself."""


class Recorder:
    """Keeps the history; by itself it keeps none."""

    highest = 0
    """The highest number in it."""

    async def recorded(self, number: int) -> str:
        """Wait a moment for the history to have this revision; why it has not, or nothing."""
        return ""


class Changes:
    """Of one gateway."""

    def __init__(
        self,
        source: Source,
        in_use: InUse,
        requests: Requests,
        judge: Callable[[ConfigText], Loaded],
        restarts: Callable[[Config], list[str]],
        board: Scoreboard,
    ) -> None:
        self._source = source
        self._in_use = in_use
        self._requests = requests
        self._judge = judge
        self._restarts = restarts
        self._board = board
        self.recorder = Recorder()
        self._lock = asyncio.Lock()

    def keep_in(self, source: Callable[[InUse, Requests], Source]) -> None:
        """Another place than the file, from the beginning on."""
        self._source = source(self._in_use, self._requests)

    @property
    def busy(self) -> bool:
        """Whether a change is under way here."""
        return self._lock.locked()

    @property
    def number(self) -> int:
        """Of the revision in use."""
        return self._in_use.number

    @property
    def config(self) -> Config:
        """In use, with this gateway's overrides."""
        return self._in_use.config

    @property
    def text(self) -> ConfigText:
        """In use."""
        return self._in_use.text

    @property
    def etag(self) -> str:
        """Of the document in use."""
        return etag_of(self._in_use.text)

    def document(self) -> Plain:
        """In use, in canonical spelling: references as written, secrets in clear. Raises CommandError."""
        return document_of(self._in_use.text)

    def restart_required(self) -> list[str]:
        """Keys that have another value than the one in force."""
        return self._restarts(self._in_use.config)

    async def judge(self, text: ConfigText) -> Loaded:
        """What this gateway would load of a text. Raises ConfigError."""
        return await asyncio.to_thread(self._judge, text)

    async def _judged(self, text: ConfigText) -> Loaded:
        try:
            return await self.judge(text)
        except ConfigError as error:
            problems = [str(problem) for problem in error.problems]
            raise CommandError("invalid", f"{problems[0]}{UNCHANGED}", problems) from None

    async def apply(self, edit: Edit, wish: Wish) -> Outcome:
        """Make a change. Raises CommandError, and then nothing has changed."""
        async with self._lock:
            for _ in range(TRIES):
                outcome = await self._try(edit, wish)
                if outcome is not None:
                    return outcome
        raise CommandError("refused", "other changes came first again and again: ask once more")

    async def replace(self, data: bytes, format_: Format, wish: Wish) -> Outcome:
        """Use another text, byte for byte. Raises CommandError."""
        async with self._lock:
            for _ in range(TRIES):
                outcome = await self._try_text(await self._newest(wish), data, format_, wish)
                if outcome is not None:
                    return outcome
        raise CommandError("refused", "other changes came first again and again: ask once more")

    async def _try(self, edit: Edit, wish: Wish) -> Outcome | None:
        """None: somebody else's change came first."""
        old = await self._newest(wish)
        data = await asyncio.to_thread(_edited, old, edit)
        return await self._try_text(old, data, old.format, wish)

    async def _newest(self, wish: Wish) -> ConfigText:
        """The document to change."""
        if self._board.flag(cells.FLAG_HANDING_OVER):
            raise CommandError("unavailable", "a new gateway is taking over, or has done so: ask once more")
        in_use = self._in_use.text
        if wish.if_match is not None and etag_of(in_use) not in wish.if_match:
            raise CommandError("stale", "the configuration was changed since: look at it again")
        try:
            data = await asyncio.to_thread(self._source.read)
        except SourceError as error:
            raise CommandError(_SOURCE[error.why], str(error)) from None
        if data not in (in_use.data, self._in_use.text.data):
            advice = "reload it first (POST /api/config/reload), or put back what it was"
            raise CommandError("refused", f"{self._source.name} was changed and is not in use: {advice}")
        return in_use

    async def _try_text(self, old: ConfigText, data: bytes, format_: Format, wish: Wish) -> Outcome | None:
        if data == old.data:
            return self._outcome(wish, old, None, [], "", changed=False)
        if format_ != old.format:
            raise CommandError("refused", f"{self._source.name} is {old.format}, and that is {format_}")
        new = ConfigText(data, old.format, old.name, wish.origin, wish.author, wish.message, old.sha256)
        loaded = await self._judged(new)
        if not wish.administers:
            await asyncio.to_thread(_check_sections, old, new)
        if wish.dry_run:
            return await self._told(wish, new, old, loaded)
        if not await self._use(new):
            return None
        late = await self.recorder.recorded(self._in_use.number)
        return await self._told(wish, new, old, loaded, [late] if late else [])

    async def _use(self, new: ConfigText) -> bool:
        """Everywhere, then in the source. False: what it replaces is not in use any more."""
        staged = await self._stage(new)
        try:
            result = await self._requests.use(new, self.recorder.highest)
        except TimeoutError:
            await asyncio.to_thread(staged.discard)
            raise CommandError("timeout", "the supervisor did not answer in time; its log may say why") from None
        if result.problems:
            await asyncio.to_thread(staged.discard)
            if result.problems == [OVERTAKEN]:
                return False
            raise _refused(result)
        try:
            await asyncio.to_thread(staged.commit)
        except SourceError as error:
            self._requests.settled(result.revision)
            await asyncio.to_thread(staged.discard)
            await self._take_back(error)
        self._requests.settled(result.revision)
        return True

    async def _stage(self, new: ConfigText) -> Staged:
        try:
            return await asyncio.to_thread(self._source.stage, new)
        except SourceError as error:
            raise CommandError(_SOURCE[error.why], f"{error}{UNCHANGED}") from None

    async def _take_back(self, error: SourceError) -> None:
        """It is in use and cannot be kept: what the source says counts."""
        detail = f"{error}{UNCHANGED}"
        try:
            result = await self._requests.reload("a change that could not be written")
            if result.problems:
                detail = f"{error}; the change is in use until the next start, for the file cannot be used"
        except TimeoutError:
            detail = f"{error}; the change is in use until the next reload"
        raise CommandError(_SOURCE[error.why], detail)

    async def _told(
        self, wish: Wish, new: ConfigText, old: ConfigText, loaded: Loaded, notes: list[str] | None = None
    ) -> Outcome:
        revision = self._in_use.number
        found, lines = await asyncio.to_thread(_diff, old, new)
        return structs.replace(self._outcome(wish, new, loaded, found, lines, notes=notes), revision=revision)

    def _outcome(
        self,
        wish: Wish,
        new: ConfigText,
        loaded: Loaded | None,
        diff: list[Difference],
        lines: str,
        *,
        changed: bool = True,
        notes: list[str] | None = None,
    ) -> Outcome:
        return Outcome(
            revision=self._in_use.number,
            etag=etag_of(new),
            changed=changed,
            dry_run=wish.dry_run,
            diff=diff,
            text_diff=lines,
            warnings=[str(problem) for problem in loaded.problems if problem.severity == "warning"] if loaded else [],
            restart_required=self._restarts(loaded.config if loaded else self._in_use.config),
            notes=notes or [],
        )


def etag_of(text: ConfigText) -> str:
    """A strong one (RFC 9110), without its quotes."""
    return text.sha256[:32]


def document_of(text: ConfigText) -> Plain:
    """What a text says, in canonical spelling. Raises CommandError."""
    try:
        return canonical(document(text.data.decode("utf-8-sig"), text.format))
    except EditError as error:
        raise edit_refused(error) from None


def _check_sections(old: ConfigText, new: ConfigText) -> None:
    """Raises CommandError."""
    before, after = document_of(old), document_of(new)
    if touched := [name for name in ADMINISTRATORS if before.get(name) != after.get(name)]:
        raise CommandError("forbidden", f"only an administrator changes the section {' and '.join(touched)}")


def _diff(old: ConfigText, new: ConfigText) -> tuple[list[Difference], str]:
    before, after = document_of(old), document_of(new)
    return differences(before, after), text_diff(before, after)


def edit_refused(error: EditError) -> CommandError:
    """An edit that cannot be made, as an answer."""
    where = f"{render(error.keys)}: " if error.keys else ""
    return CommandError(_EDIT[error.kind], error.message, [f"{where}{error.message}"])


def _edited(old: ConfigText, edit: Edit) -> bytes:
    try:
        return edited(old.data.decode("utf-8-sig"), old.format, edit).encode()
    except EditError as error:
        raise edit_refused(error) from None


def _refused(result: ReloadResult) -> CommandError:
    abandoned = result.problems[0]
    if len(result.problems) == 1 and ("upgrade" in abandoned or "shutting down" in abandoned):
        return CommandError("unavailable", abandoned)
    return CommandError("invalid", f"{abandoned}{UNCHANGED}", result.problems)
