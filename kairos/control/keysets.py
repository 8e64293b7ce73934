"""JWK sets of token issuers, fetched once for all workers.

Rules:
- a set is fetched when it is first named, then every `jwks_refresh`, and when a worker meets a kid that is not in it,
  but for that no more often than `jwks_min_interval`, whoever asks;
- what cannot be fetched or read changes nothing: the last good set stays in use, and outlives this process in the
  state folder;
- a set that changed counts H_KEYS up; workers see that with their next request and ask for it. No worker waits for
  this process with keys in its hands.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import time
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from kairos._speedups import cells
from kairos.config.model import UpstreamTls
from kairos.config.policies.jwt import providers
from kairos.config.tls import client_context
from kairos.control.client import Asking, NoAnswerError, ask
from kairos.control.http import Response, problem
from kairos.resolver import Resolver
from kairos.storage.files import replace_file
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kairos.config.jose import KeySet as Keys
    from kairos.config.model import Config
    from kairos.control.http import Request
    from kairos.scoreboard import Scoreboard

PATH = "/keys"
"""Where workers ask."""
FIRST_RETRY = 0.5
"""Seconds after a failed fetch; twice that after each further one, up to the interval."""
JITTER = 0.1

log = get_logger("keys")


class Source(Struct, frozen=True):
    """A set as the configuration names it."""

    url: str
    ca_file: str | None
    refresh: float
    min_interval: float


class Wanted(Struct, frozen=True):
    """What a worker asks: a set, and the kid it looks for, if it is for that."""

    url: str
    kid: str | None = None


class KeySets:
    """All sets of the configuration in use, and of one that is about to be. Inside the event loop."""

    def __init__(self, board: Scoreboard, folder: Path | None) -> None:
        self._board = board
        self._folder = folder
        self._resolver: Resolver | None = None
        """Made with the first set, inside the loop."""
        self._sets: dict[Source, KeySet] = {}

    def prepare(self, config: Config) -> None:
        """Fetch what it names and is not known yet: its workers will ask as soon as it is in use."""
        for source in sources(config):
            if source not in self._sets:
                self._resolver = self._resolver or Resolver()
                self._sets[source] = made = KeySet(source, self._file(source), self._resolver, self._changed)
                made.start()

    def apply(self, config: Config) -> None:
        """This configuration is in use: others' sets are let go."""
        self.prepare(config)
        wanted = sources(config)
        for source in [source for source in self._sets if source not in wanted]:
            self._sets.pop(source).stop()

    def step_down(self) -> None:
        """Another gateway keeps the files from here on."""
        self._folder = None
        for keys in self._sets.values():
            keys.step_down()

    async def close(self) -> None:
        for source in list(self._sets):
            self._sets.pop(source).stop()
        if self._resolver is not None:
            await self._resolver.close()

    async def answer(self, request: Request) -> Response:
        """The set a worker asks for. Only what the configuration names is ever fetched."""
        try:
            wanted = msgspec.json.decode(request.body, type=Wanted)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return problem(400, f"the body cannot be used: {error}")
        found = next((keys for source, keys in self._sets.items() if source.url == wanted.url), None)
        if found is None:
            return problem(404, "no configuration names this set")
        await found.look_for(wanted.kid)
        if found.document is None:
            return problem(503, "the set could not be fetched yet")
        return Response(found.document)

    def _file(self, source: Source) -> Path | None:
        name = hashlib.sha256(source.url.encode()).hexdigest()[:32]
        return self._folder / f"jwks-{name}.json" if self._folder is not None else None

    def _changed(self) -> None:
        """The only writer of the cell, while the gateway has one control process."""
        self._board.page.set(cells.H_KEYS, self._board.page.get(cells.H_KEYS) + 1)


def sources(config: Config) -> set[Source]:
    """The sets a configuration names."""
    return {
        Source(provider.jwks_url, provider.jwks_ca_file, provider.jwks_refresh, provider.jwks_min_interval)
        for provider in (providers(config.jwt) if config.jwt else [])
        if provider.jwks_url is not None
    }


class KeySet:
    """One set, kept fresh."""

    def __init__(self, source: Source, file: Path | None, resolver: Resolver, changed: Callable[[], None]) -> None:
        self.source = source
        self.document: bytes | None = None
        """The last good one."""
        self._kids: frozenset[str | None] = frozenset()
        self._file = file
        self._resolver = resolver
        self._changed = changed
        self._began = float("-inf")
        """Monotonic seconds at which the last fetch began."""
        self._fetching: asyncio.Task[bool] | None = None
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._recall()
        self._following = asyncio.create_task(self._follow())

    def step_down(self) -> None:
        self._file = None

    def stop(self) -> None:
        for task in (self._following, self._fetching):
            if task is not None:
                task.cancel()

    async def look_for(self, kid: str | None) -> None:
        """Wait for a fetch, where one may bring what is missing."""
        if self.document is not None and (kid is None or kid in self._kids):
            return
        if self.document is not None and time.monotonic() - self._began < self.source.min_interval:
            return
        await self._fetch()

    async def _follow(self) -> None:
        pause = FIRST_RETRY
        while True:
            good = await self._fetch()
            pause = self.source.refresh if good else min(2 * pause, self.source.refresh)
            await asyncio.sleep(pause * (1 + random.uniform(-JITTER, JITTER)))

    async def _fetch(self) -> bool:
        """One at a time: who comes while one is under way waits for that."""
        if self._fetching is None or self._fetching.done():
            self._began = time.monotonic()
            self._fetching = asyncio.create_task(self._ask())
        return await asyncio.shield(self._fetching)

    async def _ask(self) -> bool:
        from kairos.config.jose import JwkError, read_set

        try:
            document = await self._document()
            read = read_set(document, ())
        except (NoAnswerError, JwkError, OSError) as error:
            log.warning("a JWK set cannot be used", url=self.source.url, error=str(error), kept=bool(self.document))
            return False
        except Exception:  # whatever it is, the set is to be asked for again
            log.exception("fetching a JWK set failed", url=self.source.url)
            return False
        if document != self.document:
            log.info("a JWK set changed", url=self.source.url, keys=len(read.keys), left_out=list(read.problems))
            self._use(document, read)
            await asyncio.to_thread(self._remember, document)
        return True

    async def _document(self) -> bytes:
        path = self.source.ca_file
        context = client_context(UpstreamTls(ca_file=path)) if path is not None else None
        answer = await ask(Asking(self.source.url), self._resolver, context)
        if answer.status != 200:
            raise NoAnswerError(f"status {answer.status}")
        return answer.body

    def _use(self, document: bytes, read: Keys) -> None:
        self.document = document
        self._kids = frozenset(key.kid for key in read.keys)
        self._changed()

    def _recall(self) -> None:
        """What an earlier process was told, until the issuer says more."""
        from kairos.config.jose import JwkError, read_set

        if self._file is None:
            return
        with contextlib.suppress(OSError, JwkError):
            document = self._file.read_bytes()
            self._use(document, read_set(document, ()))

    def _remember(self, document: bytes) -> None:
        if self._file is None:
            return
        try:
            replace_file(self._file, document)
        except OSError as error:
            log.warning("a JWK set cannot be kept", file=str(self._file), error=error.strerror)
