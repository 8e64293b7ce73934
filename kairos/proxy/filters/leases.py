"""Limits that nodes share in Redis: blocks of requests leased ahead of time, or taken one by one.

All questions of one turn of the loop go out together over one connection, and there is one batch under way at a time:
what comes meanwhile is asked next. An answer that does not come in time, or a broken connection, makes Redis count as
down; then everybody who waits is told so at once, nobody asks any more, and one task tries until it answers again.

A lease lies in the table that all workers share. The worker that took it gives back what was not used in time.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from kairos._speedups import cells
from kairos.proxy.filters.lease_script import DIGEST, FIELDS, KINDS, SCRIPT
from kairos.proxy.filters.ratelimit import Meter, Shared
from kairos.redisclient import close, connect, reached, shown
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from kairos._speedups.cells import Page
    from kairos.config.redis import Redis

log = get_logger("limits")
BLOCK = 20
"""A block is this part of a limit."""
KEYS_AT_ONCE = 64
"""Of one call: Redis serves nobody else during it."""
MOST_WAITING = 4096
"""Requests that wait for an answer; further ones do without it."""
HOLD_US = 1_000_000
"""Where nothing was left it is not asked again for so long."""
SWEEP_S = 0.1
FIRST_RETRY_S = 0.1

_Item = TypeVar("_Item")
Asked = tuple[Meter, int, str]
"""A limit, whose requests (hash), and the same as Redis knows it."""
Answer = tuple[int, int, int]
"""µs to wait (0: granted), what is left, µs until there is more."""


def block_of(capacity: int, cost: int) -> int:
    """How much is leased at once."""
    return max(-(-capacity // BLOCK), cost)


def _now() -> int:
    return time.monotonic_ns() // 1000


@dataclass
class _Lease:
    """What is asked for one key; late comers join it while it is under way."""

    meter: Meter
    key: int
    text: str
    waiters: list[asyncio.Future[Answer | None]] = field(default_factory=list)
    sent: int = 0
    """Waiters that were counted when it was sent."""

    @property
    def want(self) -> int:
        return max(block_of(self.meter.limit.capacity, self.meter.cost), self.sent * self.meter.cost)


@dataclass
class _Lent:
    """What is to be given back if nobody uses it."""

    lease: _Lease
    amount: int
    stamp: int
    until_us: int


@dataclass
class _Call:
    """One run of the script: `of` are leases in the mode each, else what was asked and who waits for it."""

    mode: str
    arguments: list[tuple[str, list[int]]]
    of: list[Any]
    waiters: list[asyncio.Future[Answer | None]] = field(default_factory=list)


def key_of(meter: Meter, text: str) -> str:
    """What Redis counts under. In a cluster all limits on somebody lie in one slot, one that all share in its own."""
    return f"{meter.place}:{{{text}}}" if _has_name(text) else f"{meter.place}:{text}"


def _slot(meter: Meter, text: str) -> str:
    """The part of a key that says where in a cluster it lies."""
    return text if _has_name(text) else key_of(meter, text)


def _has_name(text: str) -> bool:
    return ":" in text


def _arguments(meter: Meter, text: str, want: int, stamp: int = 0) -> tuple[str, list[int]]:
    spec = meter.rule.spec
    window = spec.window_duration * 1_000_000
    kind = KINDS[spec.window_type]
    numbers = [kind, spec.requests_per_window, window, spec.burst_allowance, want, meter.cost, stamp]
    return key_of(meter, text), numbers


class Leases(Shared):
    """One Redis, as a worker uses it. `asking` has the leases that are asked for, by key."""

    def __init__(self, spec: Redis, page: Page, worker: int) -> None:
        self._spec = spec
        self._page = page
        self._worker = worker
        self._client: Any = None
        self._queue: list[_Lease] = []
        self._calls: list[_Call] = []
        self._waiting = 0
        self._lent: dict[int, _Lent] = {}
        self._stamps: dict[tuple[int, str], int] = {}
        self._runner: asyncio.Task[None] | None = None
        self._seeker: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._retired = False

    # -- what filters ask --------------------------------------------------------------------------------------------

    async def ask(self, asked: Sequence[Asked]) -> list[Answer | None]:
        """For each: granted or not; None where nobody answered."""
        if not self.up or self._waiting + len(asked) > MOST_WAITING:
            return [None] * len(asked)
        waits = self._strict([one for one in asked if one[0].lease is None])
        waits |= {one[:2]: self._join(one) for one in asked if one[0].lease is not None}
        self._waiting += len(asked)
        try:
            self._run()
            return [await waits[one[:2]] for one in asked]
        finally:
            self._waiting -= len(asked)

    def _strict(self, asked: list[Asked]) -> dict[tuple[Meter, int], asyncio.Future[Answer | None]]:
        """Of limits that are asked each time all grant or none; in a cluster those whose keys lie in one place."""
        loop = asyncio.get_running_loop()
        waits = {one[:2]: loop.create_future() for one in asked}
        for some in self._by_slot(asked, lambda one: _slot(one[0], one[2])):
            arguments = [_arguments(meter, text, meter.cost) for meter, _, text in some]
            self._calls.append(_Call("all", arguments, some, [waits[one[:2]] for one in some]))
        return waits

    def _by_slot(self, items: list[_Item], slot: Callable[[_Item], str]) -> Iterable[list[_Item]]:
        """Those that one call may ask for together: without a cluster all."""
        places: dict[str, list[_Item]] = {}
        for item in items:
            places.setdefault(slot(item) if self._spec.cluster else "", []).append(item)
        return places.values()

    def _join(self, one: Asked) -> asyncio.Future[Answer | None]:
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        meter, key, text = one
        self._lease(meter, key, text).waiters.append(future)
        return future

    def _lease(self, meter: Meter, key: int, text: str) -> _Lease:
        lease = self.asking.get(key)
        if lease is None:
            lease = self.asking[key] = _Lease(meter, key, text)
            self._queue.append(lease)
        return lease

    def ahead(self, meter: Meter, key: int, text: str) -> None:
        """A lease goes to its end: get the next one."""
        if self.up:
            self._lease(meter, key, text)
            self._run()

    def give(self, asked: Asked) -> None:
        """A request that was granted here was refused elsewhere."""
        meter, key, text = asked
        if meter.lease is not None:
            meter.leases.refund(key, meter.lease, _now(), meter.cost)
        elif (stamp := self._stamps.get((key, text))) is not None:
            self._back(meter, text, meter.cost, stamp)

    def _back(self, meter: Meter, text: str, amount: int, stamp: int) -> None:
        if not self.up:
            return
        self._calls.append(_Call("back", [_arguments(meter, text, amount, stamp)], []))
        self._run()

    # -- batches -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        if self._runner is None and self.up:
            self._runner = asyncio.get_running_loop().create_task(self._batches())

    async def _batches(self) -> None:
        """Ask until nobody waits."""
        await asyncio.sleep(0)  # for all that asks in this turn of the loop
        try:
            while self._queue or self._calls:
                calls = [*self._calls, *self._lease_calls()]
                self._queue, self._calls = [], []
                await self._batch(calls)
        finally:
            self._runner = None

    def _lease_calls(self) -> Iterator[_Call]:
        for lease in self._queue:
            lease.sent = len(lease.waiters)
        for some in self._by_slot(self._queue, lambda lease: _slot(lease.meter, lease.text)):
            for at in range(0, len(some), KEYS_AT_ONCE):
                leases = some[at : at + KEYS_AT_ONCE]
                yield _Call("each", [_arguments(lease.meter, lease.text, lease.want) for lease in leases], leases)

    async def _batch(self, calls: list[_Call]) -> None:
        sent_us = _now()
        self._count(cells.W_LEASE_TRIPS)
        patience = self._spec.timeout if self._client is not None else self._spec.timeout + self._spec.connect_timeout
        try:
            async with asyncio.timeout(patience):
                answers = await self._send(calls)
        except Exception as error:  # whatever the client raises: there is no answer
            self._count(cells.W_LEASE_FAILURES)
            self._fail(calls, error)
            return
        except asyncio.CancelledError:
            self._dismiss(calls)
            raise
        for call, numbers in zip(calls, answers, strict=True):
            rows = [numbers[at : at + FIELDS] for at in range(0, len(numbers), FIELDS)]
            if call.mode == "each":
                for lease, row in zip(call.of, rows, strict=True):
                    self._leased(lease, row, sent_us)
                continue
            for one, row, waiter in zip(call.of, rows, call.waiters, strict=False):
                answer = self._taken(one, row)
                if not waiter.done():
                    waiter.set_result(answer)

    async def _send(self, calls: list[_Call]) -> list[list[int]]:
        """The script's answers to some calls, in one round trip, or two where a server did not know it."""
        from redis.exceptions import NoScriptError

        if self._client is None:
            self._client = connect(self._spec)
        answers = await self._pipeline(calls, known=True)
        new = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]  # these did not run
        for at, answer in zip(new, await self._pipeline([calls[at] for at in new], known=False), strict=True):
            answers[at] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _pipeline(self, calls: list[_Call], *, known: bool) -> list[Any]:
        if not calls:
            return []
        pipe = self._client.pipeline(transaction=False)
        for call in calls:
            keys = [key for key, _ in call.arguments]
            numbers = [number for _, row in call.arguments for number in row]
            script = ("EVALSHA", DIGEST) if known else ("EVAL", SCRIPT)
            pipe.execute_command(*script, len(keys), *keys, call.mode, *numbers)
        answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    # -- answers -----------------------------------------------------------------------------------------------------

    def _taken(self, one: Asked, row: list[int]) -> Answer:
        """Of a limit that is asked for each request."""
        taken, left, wait, more, stamp, _ = row
        if taken:
            self._count(cells.W_LEASE_TOKENS, taken)
            if len(self._stamps) > MOST_WAITING:
                self._stamps.clear()
            self._stamps[one[1], one[2]] = stamp
        return (0 if taken else max(wait, 1)), left, more

    def _leased(self, lease: _Lease, row: list[int], sent_us: int) -> None:
        """Serve who waits for it in turn, and lay the rest into the table."""
        taken, left, wait, more, stamp, life = row
        self.asking.pop(lease.key, None)
        meter, now, rest = lease.meter, _now(), taken
        assert meter.lease is not None
        self._count(cells.W_LEASE_TOKENS, taken)
        late = lease.waiters[lease.sent :]
        for waiter in lease.waiters:
            if rest >= meter.cost and not waiter.done():
                rest -= meter.cost
                waiter.set_result((0, left + rest, more))
        for waiter in lease.waiters[: lease.sent]:
            if not waiter.done():
                waiter.set_result((max(wait, more, 1), left, more))
        if late := [waiter for waiter in late if not waiter.done()]:
            self._lease(meter, lease.key, lease.text).waiters.extend(late)
        if rest:
            meter.leases.lend(lease.key, meter.lease, now, sent_us + life, rest, left, now + more)
            self._lent[lease.key] = _Lent(lease, rest, stamp, sent_us + life)
            self._sweep_soon()
        elif not taken:
            meter.leases.hold(lease.key, meter.lease, now, now + min(wait, HOLD_US), now + wait)

    # -- what was not used -------------------------------------------------------------------------------------------

    def _sweep_soon(self) -> None:
        if self._sweeper is None and not self._retired:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Give back what is left of leases that ended, but for a window that is over."""
        self._sweeper = None
        now = _now()
        for key, lent in list(self._lent.items()):
            if lent.until_us + 1000 < now:
                del self._lent[key]
                meter = lent.lease.meter
                assert meter.lease is not None
                left = min(meter.leases.drain(key, meter.lease, now), lent.amount)
                if left:
                    self._count(cells.W_LEASE_RETURNED, left)
                    self._back(meter, lent.lease.text, left, lent.stamp)
        if self._lent:
            self._sweep_soon()

    # -- when it is down ---------------------------------------------------------------------------------------------

    def _fail(self, calls: list[_Call], error: Exception) -> None:
        """Tell everybody who waits, and look for it in the background."""
        self.up = False
        self._page.set(self._worker + cells.W_LEASE_DOWN, 1)
        reason = str(error) or type(error).__name__
        log.warning("Redis does not answer: limits do without it", redis=shown(self._spec.url), error=reason)
        self._dismiss(calls)
        self._drop_client()
        if not self._retired:
            self._seeker = asyncio.get_running_loop().create_task(self._seek())

    def _dismiss(self, calls: list[_Call]) -> None:
        """Nobody answers, neither those who were asked for nor those who are still to be."""
        for asker in [*calls, *self._calls, *self.asking.values()]:
            for waiter in asker.waiters:
                if not waiter.done():
                    waiter.set_result(None)
        self.asking.clear()
        self._queue, self._calls = [], []

    def _drop_client(self) -> None:
        """A connection with an answer under way is of no more use."""
        client, self._client = self._client, None
        if client is not None:
            self._closing = asyncio.get_running_loop().create_task(close(client))

    async def _seek(self) -> None:
        """Until it answers: at growing intervals, each worker at its own moments."""
        pause = FIRST_RETRY_S
        while not self._retired:
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, self._spec.retry)
            client = await reached(self._spec)
            if client is None:
                continue
            self._client, self.up = client, True
            self._page.set(self._worker + cells.W_LEASE_DOWN, 0)
            log.info("Redis answers again", redis=shown(self._spec.url))
            return

    def _count(self, cell: int, n: int = 1) -> None:
        self._page.add(self._worker + cell, n)

    def retire(self) -> None:
        """No snapshot names it any more."""
        self._retired = True
        self.up = False
        self._dismiss([])
        self._drop_client()
        for task in (self._runner, self._seeker):
            if task is not None:
                task.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def closed(self) -> None:
        """Until nothing of it is left."""
        tasks = [task for task in (self._runner, self._seeker, self._closing) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
