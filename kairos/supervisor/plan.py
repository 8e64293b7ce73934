"""What the supervisor decides. Pure: events and `now` in, actions out; no process, socket, clock or log is touched.

A slot is one place for a child: workers have the numbers 0, 1, …, the control process has `CONTROL`. A slot keeps its
listeners and its row of counters while processes come and go. Each is in one state, and moves only as `MOVES` says:

    waiting ──spawned──> starting ──ready──> serving ──told to drain──> draining
       ^                    │ died              │ died                     │ died
       └────────────────────┴───────────────────┘  (not while stopping)    └──> gone

Rules:
- The first death of a child that had served is answered at once; further ones after 0.1 s, doubled each time up to
  30 s, with jitter, until the child has lived for a minute. Exit codes 3 and 4 are never answered at once.
- Until every child was ready once, a child that exits by itself (code 3: cannot boot, 4: cannot load, or any other),
  misses its deadline or is killed repeatedly ends the whole gateway: what cannot start is reported, not retried.
- Whoever wants a reload (HUP, the control process) while one is under way or the gateway boots waits for the next one,
  which serves all that wait; those that bring a text of their own take turns. Every reload that ends is reported once,
  to all who asked for it.
- A reload is prepared by every child that serves. All must agree within the deadline; a refusal, a death of a
  worker or the deadline aborts it, and nobody switches. Children born meanwhile begin with the revision in use and
  are brought up to date after the commit. Only workers' deaths count: that of control never affects traffic.
- The gateway drains: not ready for `drain_delay`, then workers drain, then control, then it halts. TERM or INT once
  more cuts that short. Whoever overstays a deadline is killed.
- An upgrade: the gateway starts its heir with the listeners of its slots. The heir boots (`Phase.STANDBY`: ready, and
  nothing accepted) and says so. Told to go, it accepts from those listeners beside this gateway (`Phase.TAKING`; its
  control first takes up what operators set) and says so. Only then workers whose listeners it has stop accepting, the
  others drain as ever, and the heir hears that all is its. Until then this gateway accepts as before, and an heir that
  dies, refuses or is silent is given up: it finishes what it accepted and leaves the listeners as they are. Reloads
  wait for the end of an upgrade, an upgrade for that of a reload; TERM ends both gateways.
- A PID 1 stays when it is replaced: it forwards signals until no process is left, and ends like the last heir.
- A serving worker whose loop gives no sign of life for `HANG_TIMEOUT` in two looks is hung: SIGABRT for a traceback,
  SIGKILL at the next look, and then it is a death like any other. One look is not enough: a machine that stood still
  makes all of them old at once.
"""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from kairos.channel import (
    EXIT_BOOT,
    EXIT_LOAD,
    Abort,
    Commit,
    Drain,
    Listen,
    ReloadRequest,
    ReopenLogs,
    Stop,
    ToChild,
    UpgradeResult,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kairos.config.text import ConfigText

CONTROL = -1

EXIT_OK = 0
EXIT_USAGE = 2
"""The gateway does not start: bad command line, environment or configuration."""

BOOT_TIMEOUT = 30.0
RELOAD_TIMEOUT = 30.0
STOP_TIMEOUT = 2.0
"""From `Stop` to SIGKILL."""
DRAIN_GRACE = 2.0
"""What a draining child gets beyond its deadline to close and exit."""
CONTROL_DRAIN = 5.0
"""For the control process to write the last log lines, once the workers are gone."""
REPEAT = 0.5
"""A second TERM or INT sooner than this is the first one once more: timeout(1) signals the process and its group."""
BACKOFF_FIRST = 0.1
BACKOFF_MAX = 30.0
HEALTHY_LIFE = 60.0
BOOT_DEATHS = 5
"""Times one child may be killed from outside before it is ready, until the boot is given up."""
UPGRADE_TIMEOUT = BOOT_TIMEOUT + 15.0
"""For an heir to be ready: it gives up itself when one of its children takes longer than they may."""
ACCEPT_TIMEOUT = 15.0
"""For an heir that is ready and told to go, to accept."""
HANG_TIMEOUT = 30.0
HUP = ReloadRequest(0, "HUP")
ENDING = "the gateway is shutting down"


class Phase(Enum):
    """Of the gateway as a whole."""

    BOOT = "boot"
    STANDBY = "standby"
    """Booted as an heir, and waiting to be told to go."""
    TAKING = "taking"
    """Accepts as an heir, and waits for the old gateway to stop."""
    RUNNING = "running"
    RELOADING = "reloading"
    UPGRADING = "upgrading"
    """An heir boots."""
    HANDED_OVER = "handed over"
    """Another gateway serves, an heir or the one before us; what is open here is finished."""
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"


_ENDING = (Phase.HANDED_OVER, Phase.DRAINING, Phase.STOPPING, Phase.STOPPED)


class State(Enum):
    """Of one slot."""

    WAITING = "waiting"
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPING = "stopping"
    GONE = "gone"


MOVES: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.STARTING, State.WAITING, State.GONE}),
    State.STARTING: frozenset({State.SERVING, State.WAITING, State.STOPPING, State.GONE}),
    State.SERVING: frozenset({State.DRAINING, State.STOPPING, State.WAITING, State.GONE}),
    State.DRAINING: frozenset({State.STOPPING, State.GONE}),
    State.STOPPING: frozenset({State.GONE}),
    State.GONE: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Revision:
    """What the plan needs to know of a configuration."""

    number: int
    workers: int
    drain_delay: float
    drain_timeout: float


# --- actions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork a child for the slot with the revision in use, then report `spawned` or `spawn_failed`."""

    slot: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal to a child."""

    pid: int
    signal: int


@dataclass(frozen=True, slots=True)
class Send:
    """Put a message on the slot's channel."""

    slot: int
    message: ToChild


@dataclass(frozen=True, slots=True)
class SendPrepare:
    """Put `Prepare` with this revision's configuration on the slot's channel."""

    slot: int
    revision: int


@dataclass(frozen=True, slots=True)
class Load:
    """Read the configuration again, then report `loaded`, `load_failed` or, where that was asked for, `unchanged`."""

    reason: str
    if_changed: bool = False
    text: ConfigText | None = None
    """What to read; None: the file."""
    author: str = ""
    above: int = 0
    """The new revision's number is to be greater."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """The loaded revision is the one in use from here on."""

    revision: int


@dataclass(frozen=True, slots=True)
class Discard:
    """The loaded revision is not wanted."""

    revision: int


@dataclass(frozen=True, slots=True)
class Report:
    """A reload ended: count it, and tell the control process how, once for each of its requests (0: it made none)."""

    asked: tuple[int, ...]
    problems: tuple[str, ...] = ()
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class StartHeir:
    """Execute the new gateway with the listeners of these slots, then report `heir_started` or `heir_failed`."""

    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LetAccept:
    """Tell the heir to accept beside this gateway, and take no more changes from operators that it would not see."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """Tell the heir that all is its now, and let go of it."""

    pid: int


@dataclass(frozen=True, slots=True)
class SayAccepting:
    """As an heir: tell the old gateway that it may stop."""


@dataclass(frozen=True, slots=True)
class GiveBack:
    """As an heir that is not wanted: let go of the listeners, which are the old gateway's."""


@dataclass(frozen=True, slots=True)
class GiveUpHeir:
    """The upgrade has failed: count it, and forget the line to the heir."""


@dataclass(frozen=True, slots=True)
class Retire:
    """The slot is gone for good: close its listeners."""

    slot: int


@dataclass(frozen=True, slots=True)
class Unlisten:
    """The workers are about to drain: let go of the sockets they share, so that nobody new queues there."""


@dataclass(frozen=True, slots=True)
class Announce:
    """The gateway came to this phase: tell the service manager and the scoreboard."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class Log:
    """One event for people, `level` by logging's names."""

    level: str
    event: str
    fields: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Halt:
    """Nothing is left to supervise: leave with this exit code."""

    code: int


Action = (
    Spawn
    | Signal
    | Send
    | SendPrepare
    | Load
    | Adopt
    | Discard
    | Report
    | StartHeir
    | LetAccept
    | HandOver
    | GiveUpHeir
    | SayAccepting
    | GiveBack
    | Retire
    | Unlisten
    | Announce
    | Log
    | Halt
)


# --- state --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Slot:
    """One place for a child, and the child in it."""

    number: int
    due: float
    """When the state runs out: spawn time while waiting, deadline otherwise (infinite while serving)."""
    state: State = State.WAITING
    pid: int = 0
    spawned_at: float = 0.0
    failures: int = 0
    """Deaths since the slot last held a child for `HEALTHY_LIFE`."""
    was_ready: bool = False
    """Whether the child at hand has reported ready."""
    hung: int = 0
    """Looks in a row that found its loop silent for too long."""

    @property
    def name(self) -> str:
        return "control" if self.number == CONTROL else f"worker {self.number}"

    def move(self, state: State, due: float = float("inf")) -> None:
        """To another state, if the table allows it."""
        if state not in MOVES[self.state]:
            raise AssertionError(f"{self.name} cannot go from {self.state.value} to {state.value}")
        self.state = state
        self.due = due


@dataclass(slots=True)
class _Reload:
    """A revision on trial."""

    revision: Revision
    due: float
    waiting: set[int]
    """Slots whose answer is outstanding."""
    voters: frozenset[int]


@dataclass(slots=True)
class _Upgrade:
    """An heir on trial, or one that is wanted as soon as nothing else is under way."""

    request: int
    """Of the control process; 0: nobody there asked."""
    pid: int = 0
    due: float = float("inf")
    taken: frozenset[int] | None = None
    """Slots whose listeners it goes on with; None: it is not ready."""
    problem: str = ""
    """Why it is being ended."""


def describe_exit(code: int) -> str:
    """An exit status as people say it; negative codes are signals, as in `subprocess`."""
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    meaning = {
        EXIT_USAGE: " (bad command line, environment or configuration)",
        EXIT_BOOT: " (could not boot)",
        EXIT_LOAD: " (could not load its configuration)",
    }
    return f"exited with code {code}{meaning.get(code, '')}"


class Plan:
    """The whole policy. Every public method is an event and answers the actions to take, in order.

    `tick` is to follow every event: it alone spawns. After a `Spawn` the slot waits for `spawned` or `spawn_failed`.
    An heir's first `borrowed` slots have listeners of the gateway before it.
    """

    def __init__(
        self,
        revision: Revision,
        *,
        control: bool = False,
        max_workers: int = 512,
        borrowed: int = 0,
        stays: bool = False,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.revision = revision
        self.phase = Phase.BOOT
        self.slots: dict[int, Slot] = {}
        self._control = control
        self._max_workers = max_workers
        self._jitter = jitter
        self._reload: _Reload | None = None
        self._wanted: list[ReloadRequest] = []
        """Reloads that wait for their turn."""
        self._asked: list[ReloadRequest] = []
        """Those that the reload under way will answer."""
        self._upgrade: _Upgrade | None = None
        self._borrowed = borrowed
        self._awaited: set[int] = set()
        """As an heir that was told to go: slots that are to say `Listening`."""
        self._stays = stays
        self._heirs: list[int] = []
        """Supervisors that took over from this one, the last of which serves."""
        self._drain_at: float | None = None
        self._terminated_at: float | None = None
        self._exit_code = EXIT_OK

    def __repr__(self) -> str:
        slots = " | ".join(f"{slot.name}: {slot.state.value}" for slot in self._all())
        return f"<Plan {self.phase.value} r{self.revision.number}: {slots}>"

    # --- events ---------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        """The gateway begins: one slot per worker, and one for control."""
        for number in range(self.revision.workers):
            self.slots[number] = Slot(number, now)
        if self._control:
            self.slots[CONTROL] = Slot(CONTROL, now)
        return []

    def spawned(self, number: int, pid: int, now: float) -> list[Action]:
        """The slot has a process."""
        slot = self.slots[number]
        slot.pid, slot.spawned_at, slot.was_ready, slot.hung = pid, now, False, 0
        slot.move(State.STARTING, now + BOOT_TIMEOUT)
        return []

    def spawn_failed(self, number: int, reason: str, now: float) -> list[Action]:
        """The system gave no process (EAGAIN, ENOMEM): treated like a death before ready."""
        slot = self.slots[number]
        actions: list[Action] = [Log("error", f"cannot fork {slot.name}: {reason}")]
        return actions + self._revive(slot, now, at_once=False)

    def ready(self, pid: int, now: float) -> list[Action]:
        """A child said `Ready`."""
        slot = self._by_pid(pid)
        if slot is None or slot.state is not State.STARTING:
            return []
        slot.was_ready = True
        slot.move(State.SERVING)
        actions: list[Action] = [Log("debug", f"{slot.name} is ready", {"child": pid, "took": now - slot.spawned_at})]
        if slot.number == CONTROL and not self.standby and self.phase is not Phase.BOOT:
            actions.append(Send(CONTROL, Commit(self.revision.number)))
        if slot.number in self._awaited:
            actions.append(Send(slot.number, Listen(borrowed=True)))
        return actions + self._maybe_running()

    def acked(self, pid: int, revision: int, now: float) -> list[Action]:
        """A child holds the revision ready."""
        slot = self._by_pid(pid)
        if slot is None or self._reload is None or self._reload.revision.number != revision:
            return []
        self._reload.waiting.discard(slot.number)
        return self._maybe_commit(now)

    def nacked(self, pid: int, revision: int, problems: list[str], now: float) -> list[Action]:
        """A child cannot use the revision."""
        slot = self._by_pid(pid)
        if slot is None:
            return []
        if self._reload is not None and self._reload.revision.number == revision:
            return self._abort(f"{slot.name} refused it", problems)
        if revision == self.revision.number:  # all others use it: begin anew rather than serve an old revision
            log = Log("error", f"{slot.name} refused the revision in use; replacing it", {"problems": problems})
            return [log, Signal(pid, signal.SIGKILL)]
        return []

    def exited(self, pid: int, code: int, now: float) -> list[Action]:
        """A process was reaped. Unknown ones are orphans handed to PID 1: nobody's business."""
        slot = self._by_pid(pid)
        if slot is None:
            return self._heir_exited(pid, code, now)
        slot.pid = 0
        actions: list[Action] = [self._obituary(slot, pid, code)]
        if self._reload is not None:
            actions += self._died_in_reload(slot, code, now)
        if slot.number == CONTROL:  # traffic does not wait for it; the next one finds what operators set by itself
            actions += self._heard_listening(CONTROL)
        if slot.state in (State.DRAINING, State.STOPPING) or not self._respawns(slot):
            return actions + self._bury(slot, now)
        if self.phase is Phase.BOOT and not slot.was_ready and code > 0:
            halt = code if code == EXIT_LOAD else EXIT_BOOT
            return actions + self._give_up(f"{slot.name} {describe_exit(code)}", halt, now)
        at_once = slot.was_ready and code not in (EXIT_BOOT, EXIT_LOAD)
        return actions + self._revive(slot, now, at_once=at_once)

    def loaded(self, revision: Revision, now: float) -> list[Action]:
        """The file was read and is good: put it to the vote."""
        if self.phase is not Phase.RELOADING:
            return [Discard(revision.number)]
        voters = frozenset(slot.number for slot in self._all() if slot.state is State.SERVING)
        self._reload = _Reload(revision, now + RELOAD_TIMEOUT, set(voters), voters)
        return [SendPrepare(number, revision.number) for number in sorted(voters)] + self._maybe_commit(now)

    def load_failed(self, problems: list[str], now: float) -> list[Action]:
        """The file is bad: the revision in use stays."""
        if self.phase is not Phase.RELOADING:
            return []
        log = Log("error", "reload refused: the configuration is bad", {"problems": problems})
        return self._end_reload(log, self._report(problems))

    def unchanged(self, now: float) -> list[Action]:
        """The file is the one in use."""
        if self.phase is not Phase.RELOADING:
            return []
        return self._end_reload(Log("debug", "reload: nothing has changed"), self._report([], unchanged=True))

    def reload_asked(self, request: ReloadRequest, now: float) -> list[Action]:
        """Somebody wants the configuration to be read again. What is no request of control's own is asked once."""
        if self.phase in _ENDING:
            return [Report((request.id,), (ENDING,))]
        if request not in self._wanted:
            self._wanted.append(request)
        return self._maybe_load()

    def signalled(self, signum: int, now: float) -> list[Action]:
        """Somebody sent the gateway a signal."""
        forwarded: list[Action] = [Signal(self._heirs[-1], signum)] if self._stays and self._heirs else []
        if signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            return forwarded + self._terminate(signum, now)
        if signum == signal.SIGUSR1:
            return forwarded + [Send(slot.number, ReopenLogs()) for slot in self._living()]
        if self.phase in _ENDING:
            why = f"process {self._heirs[-1]} has taken over" if self._heirs else ENDING
            return forwarded or [Log("warning", f"{signal.Signals(signum).name} ignored: {why}")]
        if signum == signal.SIGHUP:
            return self.reload_asked(HUP, now)
        if signum == signal.SIGUSR2:
            return self.upgrade_asked(0, now)
        if self.phase is Phase.UPGRADING or self.standby:  # each counts on the listeners as they are
            return [Log("warning", f"{signal.Signals(signum).name} ignored: an upgrade is under way")]
        if signum == signal.SIGTTIN:
            return self._add_worker(now)
        if signum == signal.SIGTTOU:
            return self._remove_worker(now)
        return []

    def tick(self, now: float) -> list[Action]:
        """Time has passed: end what is overdue, then spawn what is due.

        Spawns come alone and one at a time, for what follows from one may be that the next is not wanted any more.
        """
        actions: list[Action] = []
        if self._drain_at is not None and now >= self._drain_at:
            actions += self._drain_workers(now)
        if self._reload is not None and now >= self._reload.due:
            silent = ", ".join(self.slots[number].name for number in sorted(self._reload.waiting))
            actions += self._abort(f"no answer from {silent} within {RELOAD_TIMEOUT:g} s", [])
        if self._upgrade is not None and now >= self._upgrade.due:
            actions += self._heir_overdue(self._upgrade, now)
        for slot in self._living():
            if now >= slot.due:
                actions += self._overdue(slot, now)
        return actions or self._maybe_spawn(now)

    def next_due(self) -> float:
        """When `tick` has something to do next; infinite if only events can bring something."""
        dues = [slot.due for slot in self._all()]
        if self._reload is not None:
            dues.append(self._reload.due)
        if self._upgrade is not None:
            dues.append(self._upgrade.due)
        if self._drain_at is not None:
            dues.append(self._drain_at)
        return min(dues, default=float("inf"))

    # --- slots ----------------------------------------------------------------------------------------------------

    def _all(self) -> list[Slot]:
        """Workers first, control last: the order of starting and of ending."""
        return sorted(self.slots.values(), key=lambda slot: (slot.number == CONTROL, slot.number))

    def _living(self) -> list[Slot]:
        return [slot for slot in self._all() if slot.pid]

    def _by_pid(self, pid: int) -> Slot | None:
        return next((slot for slot in self._living() if slot.pid == pid), None)

    def _workers(self) -> list[Slot]:
        """Those wanted, not the ones on their way out."""
        leaving = (State.DRAINING, State.STOPPING)
        return [slot for slot in self._all() if slot.number != CONTROL and slot.state not in leaving]

    def _respawns(self, slot: Slot) -> bool:
        """While load balancers look away (`drain_delay`) everything must still work."""
        delayed = self.phase is Phase.DRAINING and self._drain_at is not None
        return delayed or self.phase not in _ENDING

    def _maybe_spawn(self, now: float) -> list[Action]:
        for slot in self._all():
            if slot.state is State.WAITING and now >= slot.due:
                slot.due = float("inf")
                return [Spawn(slot.number)]
        return []

    def _overdue(self, slot: Slot, now: float) -> list[Action]:
        if slot.state is State.STARTING and self.phase is Phase.BOOT:
            return self._give_up(f"{slot.name} was not ready within {BOOT_TIMEOUT:g} s", EXIT_BOOT, now)
        waited_for = {State.STARTING: "become ready", State.DRAINING: "drain", State.STOPPING: "stop"}[slot.state]
        slot.due = float("inf")
        text = f"{slot.name} did not {waited_for} in time; killing it"
        return [Log("warning", text, {"child": slot.pid}), Signal(slot.pid, signal.SIGKILL)]

    def _obituary(self, slot: Slot, pid: int, code: int) -> Log:
        expected = code == EXIT_OK and slot.state in (State.DRAINING, State.STOPPING)
        return Log("debug" if expected else "warning", f"{slot.name} {describe_exit(code)}", {"child": pid})

    def _revive(self, slot: Slot, now: float, *, at_once: bool) -> list[Action]:
        """Plan the next process of a slot whose process died."""
        if slot.was_ready and now - slot.spawned_at >= HEALTHY_LIFE:
            slot.failures = 0
        slot.failures += 1
        if self.phase is Phase.BOOT and not slot.was_ready and slot.failures >= BOOT_DEATHS:
            return self._give_up(f"{slot.name} died {slot.failures} times before it was ready", EXIT_BOOT, now)
        delay = 0.0 if at_once and slot.failures == 1 else self._backoff(slot.failures - at_once)
        slot.move(State.WAITING, now + delay)
        return [Log("info", f"{slot.name} starts again in {delay:.1f} s")] if delay else []

    def _backoff(self, failures: int) -> float:
        """Doubled each time; the jitter keeps children that died together from starting together."""
        delay: float = min(BACKOFF_MAX, BACKOFF_FIRST * 2.0 ** min(failures - 1, 20))
        return delay * (0.75 + 0.5 * self._jitter())

    def _bury(self, slot: Slot, now: float) -> list[Action]:
        """The slot will have no further process."""
        slot.move(State.GONE)
        del self.slots[slot.number]
        actions: list[Action] = [Retire(slot.number)]
        if self.phase in _ENDING:
            actions += self._maybe_halt(now)
        return actions + self._maybe_running()

    def _maybe_running(self) -> list[Action]:
        """The boot is over once everybody serves."""
        if self.phase is not Phase.BOOT or any(slot.state is not State.SERVING for slot in self._all()):
            return []
        if self.standby:
            self.phase = Phase.STANDBY
            return [Announce(Phase.STANDBY)]
        return self._run()

    def _run(self, *first: Action) -> list[Action]:
        self.phase = Phase.RUNNING
        actions: list[Action] = [Announce(Phase.RUNNING), *first]
        if CONTROL in self.slots:
            actions.append(Send(CONTROL, Commit(self.revision.number)))
        return actions + self._next_job()

    # --- workers more or less -------------------------------------------------------------------------------------

    def _add_worker(self, now: float) -> list[Action]:
        free = next((n for n in range(self._max_workers) if n not in self.slots), None)
        if free is None:
            return [Log("warning", f"no room for more than {self._max_workers} workers; restart with --workers")]
        self.slots[free] = Slot(free, now)
        return [Log("info", f"one worker more: {len(self._workers())}")]

    def _remove_worker(self, now: float) -> list[Action]:
        """The youngest that serves, for only it can empty its accept queue."""
        workers = self._workers()
        if len(workers) == 1:
            return [Log("warning", "the last worker stays; use TERM to end the gateway")]
        slot = next((slot for slot in reversed(workers) if slot.state is State.SERVING), workers[-1])
        actions: list[Action] = [Log("info", f"one worker less: {len(workers) - 1}")]
        actions += self._drain(slot, now)
        if self._reload is not None:
            self._reload.waiting.discard(slot.number)
            actions += self._maybe_commit(now)
        return actions

    def _resize(self, wanted: int, now: float) -> list[Action]:
        actions: list[Action] = []
        for _ in range(len(self._workers()), wanted):
            actions += self._add_worker(now)
        for _ in range(wanted, len(self._workers())):
            actions += self._remove_worker(now)
        return actions

    # --- reload ---------------------------------------------------------------------------------------------------

    def _next_job(self) -> list[Action]:
        """What waited for its turn."""
        return self._maybe_load() or self._maybe_start_heir()

    def _maybe_load(self) -> list[Action]:
        """Reload requests during a boot, an upgrade or another reload wait for its end; many that read the file are
        one, those with a text of their own stay alone. The order is kept."""
        if not self._wanted or self.phase is not Phase.RUNNING:
            return []
        together = next((at for at, request in enumerate(self._wanted) if request.text is not None), len(self._wanted))
        self._asked, self._wanted = self._wanted[: together or 1], self._wanted[together or 1 :]
        self.phase = Phase.RELOADING
        if_changed = all(request.if_changed for request in self._asked)
        author = next((request.author for request in self._asked if request.author), "")
        above = max(request.above for request in self._asked)
        return [Announce(Phase.RELOADING), Load(self._reason(), if_changed, self._asked[0].text, author, above)]

    def _reason(self) -> str:
        return ", ".join(dict.fromkeys(request.reason for request in self._asked))

    def _report(self, problems: list[str], *, unchanged: bool = False) -> Report:
        asked = tuple(request.id for request in self._asked if request.id)
        self._asked = []
        return Report(asked or (0,), tuple(problems), unchanged)

    def _maybe_commit(self, now: float) -> list[Action]:
        """All have agreed: switch, and bring those up to date that were not there to be asked."""
        if self._reload is None or self._reload.waiting:
            return []
        voted, old = self._reload.voters, self.revision
        new = self.revision = self._reload.revision
        actions: list[Action] = [Adopt(new.number)]
        for slot in self._living():
            if slot.state not in (State.STARTING, State.SERVING):
                continue
            if slot.number not in voted:
                actions.append(SendPrepare(slot.number, new.number))
            actions.append(Send(slot.number, Commit(new.number)))
        self._reload = None
        log = Log("info", f"revision {new.number} is in use", {"reason": self._reason()})
        report = self._report([])
        # Before whatever comes next: an heir must be offered the listeners as they will be.
        resized = self._resize(new.workers, now) if new.workers != old.workers else []
        return actions + self._end_reload(log, report, resized)

    def _died_in_reload(self, slot: Slot, code: int, now: float) -> list[Action]:
        reload = self._reload
        if reload is None or slot.number not in reload.voters:
            return []
        if slot.number != CONTROL and slot.state is State.SERVING:
            return self._abort(f"{slot.name} {describe_exit(code)} meanwhile", [])
        reload.waiting.discard(slot.number)
        reload.voters -= {slot.number}
        return self._maybe_commit(now)

    def _abort(self, reason: str, problems: list[str]) -> list[Action]:
        if self._reload is None:
            return []
        number, voters = self._reload.revision.number, self._reload.voters
        actions: list[Action] = [Send(s.number, Abort(number)) for s in self._living() if s.number in voters]
        log = Log("error", f"reload abandoned: {reason}", {"revision": number, "problems": problems})
        report = self._report([f"reload abandoned: {reason}", *problems])
        return [*actions, Discard(number), *self._end_reload(log, report)]

    def _end_reload(self, log: Log, report: Report, resized: Iterable[Action] = ()) -> list[Action]:
        self._reload = None
        if self.phase is not Phase.RELOADING:
            return [log, report, *resized]
        self.phase = Phase.RUNNING
        return [log, report, Announce(Phase.RUNNING), *resized, *self._next_job()]

    # --- upgrade --------------------------------------------------------------------------------------------------

    @property
    def standby(self) -> bool:
        """Whether the listeners are another gateway's still: children born now wait for `Listen`."""
        return self._borrowed > 0

    def upgrade_asked(self, request: int, now: float) -> list[Action]:
        """Somebody wants the new version to take over. `request`: of the control process, 0 for a signal."""
        if refusal := ENDING if self.phase in _ENDING else "another is under way" if self._upgrade else "":
            return [Log("warning", f"upgrade refused: {refusal}"), *self._answer_upgrade(request, 0, refusal)]
        self._upgrade = _Upgrade(request)
        return self._maybe_start_heir()

    def heir_started(self, pid: int, now: float) -> list[Action]:
        """The new gateway has a process."""
        assert self._upgrade is not None
        self._upgrade.pid, self._upgrade.due = pid, now + UPGRADE_TIMEOUT
        return [Log("info", "upgrade: the new gateway boots", {"child": pid})]

    def heir_failed(self, problem: str, now: float) -> list[Action]:
        """The new gateway says why it does not come up, or the system gives it no process."""
        if self._upgrade is None:
            return []
        self._upgrade.problem = self._upgrade.problem or problem
        return [] if self._upgrade.pid else self._give_up_heir(self._upgrade)

    def heir_ready(self, slots: Iterable[int], now: float) -> list[Action]:
        """The new gateway has booted, and goes on with the listeners of these slots."""
        upgrade = self._upgrade
        if upgrade is None or upgrade.problem or upgrade.taken is not None or self.phase is not Phase.UPGRADING:
            return []
        upgrade.taken, upgrade.due = frozenset(slots), now + ACCEPT_TIMEOUT
        return [Log("debug", "upgrade: the new gateway may accept", {"child": upgrade.pid}), LetAccept()]

    def heir_accepts(self, now: float) -> list[Action]:
        """The new gateway accepts: this one need not any more."""
        upgrade = self._upgrade
        if upgrade is None or upgrade.problem or upgrade.taken is None or self.phase is not Phase.UPGRADING:
            return []
        self._upgrade, taken = None, upgrade.taken
        self._heirs.append(upgrade.pid)
        self.phase = Phase.HANDED_OVER
        left = [slot.number for slot in self._workers() if slot.number not in taken]
        timeout = self.revision.drain_timeout
        text = f"upgrade: process {upgrade.pid} has taken over; draining for up to {timeout:g} s"
        actions: list[Action] = [Log("info", text, {"slots": sorted(taken), "slots_left": left}), HandOver(upgrade.pid)]
        actions += self._answer_upgrade(upgrade.request, upgrade.pid)
        actions += self._pass_on_reloads(upgrade.pid)
        for slot in self._workers():
            actions += self._drain(slot, now, handed_over=slot.number in taken)
        return actions

    def heir_followed(self, pid: int) -> list[Action]:
        """Only as a PID 1 that stays: another supervisor serves now."""
        if pid not in self._heirs:
            self._heirs.append(pid)
        return []

    def told_to_go(self, now: float) -> list[Action]:
        """As an heir: accept beside the old gateway. No worker is to pick a backend that an operator took out there."""
        if self.phase is not Phase.STANDBY:
            return []
        self.phase = Phase.TAKING
        actions: list[Action] = [Announce(Phase.TAKING)]
        control = self.slots.get(CONTROL)
        if control is None or not control.pid:
            return actions + self._await_listening(self._borrowers())
        return actions + self._await_listening([control])

    def listening(self, pid: int, now: float) -> list[Action]:
        """As an heir: a child accepts; control has taken up what operators set."""
        slot = self._by_pid(pid)
        return self._heard_listening(slot.number) if slot is not None else []

    def left(self, now: float) -> list[Action]:
        """As an heir: the old gateway has stopped accepting, and all is ours."""
        if self.phase is not Phase.TAKING:
            return []
        self._borrowed = 0
        self._awaited.clear()
        return self._run(*(Send(slot.number, Listen()) for slot in self._living() if slot.number != CONTROL))

    def abandoned(self, now: float) -> list[Action]:
        """As an heir: the old gateway is gone or does not want us any more, and not all was handed over."""
        if not self.standby or self.phase in _ENDING:
            return []
        reason = "the gateway that was to be replaced is gone"
        if self.phase is Phase.TAKING:
            return self._give_back(reason, EXIT_BOOT, now)
        return self._give_up(reason, EXIT_BOOT, now)

    def _borrowers(self) -> list[Slot]:
        return [slot for slot in self._workers() if slot.number < self._borrowed]

    def _await_listening(self, slots: Iterable[Slot]) -> list[Action]:
        """Who is not ready is told when it is."""
        self._awaited = {slot.number for slot in slots}
        return [Send(slot.number, Listen(borrowed=True)) for slot in slots if slot.state is State.SERVING]

    def _heard_listening(self, number: int) -> list[Action]:
        if self.phase is not Phase.TAKING or number not in self._awaited:
            return []
        self._awaited.discard(number)
        if number == CONTROL:
            return self._await_listening(self._borrowers())
        if self._awaited:
            return []
        return [Log("debug", "upgrade: accepting beside the gateway that is to be replaced"), SayAccepting()]

    def _give_back(self, reason: str, code: int, now: float) -> list[Action]:
        """As an heir that accepts already: what it accepted is finished, the listeners stay as they are."""
        self._exit_code, self._terminated_at = code, now
        actions = self._cancel_jobs(now)
        self.phase = Phase.HANDED_OVER
        timeout = self.revision.drain_timeout
        log = Log("info", f"{reason}: finishing what was accepted for up to {timeout:g} s")
        actions += [log, GiveBack()]
        for slot in self._workers():
            actions += self._drain(slot, now, handed_over=True)
        return actions

    def childless(self, now: float) -> list[Action]:
        """No child is left, not even a stranger's: what a PID 1 that stays has waited for."""
        if not (self._stays and self._heirs) or self.slots or self.phase is Phase.STOPPED:
            return []
        self.phase = Phase.STOPPED
        return [Announce(Phase.STOPPED), Halt(self._exit_code)]

    def _maybe_start_heir(self) -> list[Action]:
        if self._upgrade is None or self.phase is not Phase.RUNNING:
            return []
        self.phase = Phase.UPGRADING
        return [Announce(Phase.UPGRADING), StartHeir(tuple(slot.number for slot in self._workers()))]

    def _heir_overdue(self, upgrade: _Upgrade, now: float) -> list[Action]:
        if upgrade.problem:  # it was told to end
            upgrade.due = float("inf")
            return [Signal(upgrade.pid, signal.SIGKILL)]
        missed = f"was not ready within {UPGRADE_TIMEOUT:g}"
        if upgrade.taken is not None:
            missed = f"did not accept within {ACCEPT_TIMEOUT:g}"
        return self._end_heir(upgrade, f"the new gateway {missed} s", now)

    def _end_heir(self, upgrade: _Upgrade, problem: str, now: float) -> list[Action]:
        """Not by SIGKILL at first: it has children to end."""
        upgrade.problem = upgrade.problem or problem
        upgrade.due = now + STOP_TIMEOUT + DRAIN_GRACE
        return [Signal(upgrade.pid, signal.SIGTERM)] if upgrade.pid else self._give_up_heir(upgrade)

    def _heir_exited(self, pid: int, code: int, now: float) -> list[Action]:
        """A process that is no child of a slot: an heir, on trial or after; else an orphan, nobody's business."""
        if self._upgrade is not None and pid == self._upgrade.pid:
            self._upgrade.problem = self._upgrade.problem or f"the new gateway {describe_exit(code)}"
            fate = Log("debug", f"the new gateway {describe_exit(code)}", {"child": pid})
            return [fate, *self._give_up_heir(self._upgrade), *self._maybe_halt(now)]
        if pid not in self._heirs:
            return []
        if pid == self._heirs[-1] or code != EXIT_OK:  # an earlier heir answers for a later one that was its child
            self._exit_code = code if code >= 0 else 128 - code
        return [Log("info" if code == EXIT_OK else "error", f"the new gateway {describe_exit(code)}", {"child": pid})]

    def _give_up_heir(self, upgrade: _Upgrade) -> list[Action]:
        self._upgrade = None
        log = Log("error", f"upgrade failed, nothing has changed: {upgrade.problem}")
        actions: list[Action] = [log, GiveUpHeir(), *self._answer_upgrade(upgrade.request, 0, upgrade.problem)]
        if self.phase is not Phase.UPGRADING:
            return actions
        self.phase = Phase.RUNNING
        return [*actions, Announce(Phase.RUNNING), *self._next_job()]

    def _answer_upgrade(self, request: int, pid: int, problem: str = "") -> list[Action]:
        return [Send(CONTROL, UpgradeResult(request, pid, problem))] if CONTROL in self.slots else []

    def _pass_on_reloads(self, heir: int) -> list[Action]:
        """Those that waited: the heir may have read the file before it was changed."""
        self._asked, self._wanted = self._wanted, []
        if not self._asked:
            return []
        return [
            self._report(["an upgrade came first: the new gateway reads the file again"]),
            Signal(heir, signal.SIGHUP),
        ]

    # --- hung workers ---------------------------------------------------------------------------------------------

    def beat(self, number: int, age: float, now: float) -> list[Action]:
        """A look at a worker: the last sign of life of its loop was `age` seconds ago."""
        slot = self.slots.get(number)
        if slot is None or slot.state is not State.SERVING:
            return []
        age = min(age, now - slot.spawned_at)  # an earlier process may have left its last one
        if age < HANG_TIMEOUT:
            slot.hung = 0
            return []
        slot.hung += 1
        if slot.hung < 2:
            return []
        text = f"{slot.name} has been stuck for {age:.0f} s; killing it"
        signum = signal.SIGABRT if slot.hung == 2 else signal.SIGKILL
        return [Log("error", text, {"child": slot.pid}), Signal(slot.pid, signum)]

    # --- the end --------------------------------------------------------------------------------------------------

    def _terminate(self, signum: int, now: float) -> list[Action]:
        name = signal.Signals(signum).name
        since, draining = self._terminated_at, self.phase in (Phase.DRAINING, Phase.HANDED_OVER)
        again = draining and signum != signal.SIGQUIT and since is not None and now - since >= REPEAT
        if again or self.phase in (Phase.BOOT, Phase.STANDBY):
            return [Log("info", f"{name}: stopping at once"), *self._stop_all(now)]
        if self.phase in _ENDING:
            return self._already_draining(name, now)
        if self.phase is Phase.TAKING:
            return self._give_back(name, EXIT_OK, now)
        actions = self._cancel_jobs(now)
        self.phase = Phase.DRAINING
        self._terminated_at = now
        self._drain_at = now + self.revision.drain_delay
        text = f"{name}: draining for up to {self.revision.drain_delay + self.revision.drain_timeout:g} s"
        return [*actions, Log("info", text), Announce(Phase.DRAINING)]

    def _cancel_jobs(self, now: float) -> list[Action]:
        """Upgrade and reloads, under way or waiting."""
        waiting, self._wanted = self._wanted, []
        actions = self._end_heir(self._upgrade, ENDING, now) if self._upgrade is not None else []
        actions += self._abort(ENDING, [])
        if waiting:
            self._asked = waiting
            actions.append(self._report([ENDING]))
        return actions

    def _already_draining(self, name: str, now: float) -> list[Action]:
        if self.phase is not Phase.HANDED_OVER or self._terminated_at is not None:
            return []
        self._terminated_at = now
        return [Log("info", f"{name}: this gateway was replaced and is draining; once more stops it at once")]

    def _drain_workers(self, now: float) -> list[Action]:
        self._drain_at = None
        actions: list[Action] = [Unlisten()]
        for slot in self._workers():
            actions += self._drain(slot, now)
        return actions

    def _drain(self, slot: Slot, now: float, *, handed_over: bool = False) -> list[Action]:
        """A child that serves finishes what is open; any other has nothing to finish."""
        if slot.state is not State.SERVING:
            return self._stop(slot, now)
        deadline = CONTROL_DRAIN if slot.number == CONTROL else self.revision.drain_timeout
        slot.move(State.DRAINING, now + deadline + DRAIN_GRACE)
        return [Send(slot.number, Drain(deadline, handed_over))]

    def _stop(self, slot: Slot, now: float) -> list[Action]:
        if not slot.pid:
            return self._bury(slot, now)
        if slot.state is State.STOPPING:
            return []
        slot.move(State.STOPPING, now + STOP_TIMEOUT)
        return [Send(slot.number, Stop())]

    def _stop_all(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if self.phase is not Phase.STOPPING:
            self.phase = Phase.STOPPING
            actions.append(Announce(Phase.STOPPING))
        self._drain_at = None
        if self._upgrade is not None and not self._upgrade.problem:
            actions += self._end_heir(self._upgrade, ENDING, now)
        for slot in self._all():
            if slot.number in self.slots:
                actions += self._stop(slot, now)
        return actions + self._maybe_halt(now)

    def _give_up(self, reason: str, code: int, now: float) -> list[Action]:
        """A boot that failed. The first failure names the exit code."""
        self._exit_code = self._exit_code or code
        return [Log("error", f"giving up: {reason}"), *self._stop_all(now)]

    def _maybe_halt(self, now: float) -> list[Action]:
        """Control goes last: it writes what the workers logged."""
        if self.phase is Phase.STOPPED or self.phase not in _ENDING:
            return []
        if not self.slots:
            if self._upgrade is not None or (self._stays and self._heirs):
                return []  # its end is still to come
            self.phase = Phase.STOPPED
            return [Announce(Phase.STOPPED), Halt(self._exit_code)]
        control = self.slots.get(CONTROL)
        if self._drain_at is None and control is not None and len(self.slots) == 1:
            return [] if control.state is State.DRAINING else self._drain(control, now)
        return []
