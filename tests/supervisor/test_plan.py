"""The supervisor's policy, as traces: what happens at which second, and what is done about it."""

import itertools
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kairos.channel import Abort, Commit, Drain, Listen, ReloadRequest, ReopenLogs, Stop, UpgradeResult
from kairos.config.text import ConfigText
from kairos.supervisor.plan import (
    ACCEPT_TIMEOUT,
    BOOT_DEATHS,
    BOOT_TIMEOUT,
    CONTROL,
    CONTROL_DRAIN,
    DRAIN_GRACE,
    ENDING,
    HANG_TIMEOUT,
    MOVES,
    RELOAD_TIMEOUT,
    STOP_TIMEOUT,
    UPGRADE_TIMEOUT,
    Adopt,
    Announce,
    Discard,
    GiveBack,
    GiveUpHeir,
    Halt,
    HandOver,
    LetAccept,
    Load,
    Log,
    Phase,
    Plan,
    Report,
    Retire,
    Revision,
    SayAccepting,
    Send,
    SendPrepare,
    Signal,
    Slot,
    Spawn,
    StartHeir,
    State,
    Unlisten,
    describe_exit,
)

INFINITE = float("inf")


class Gateway:
    """A plan, with what an arbiter would do about Spawn: give the child the next pid."""

    def __init__(self, workers=2, *, delay=0.0, timeout=30.0, max_workers=8, **options):
        revision = Revision(1, workers, delay, timeout)
        self.plan = Plan(revision, max_workers=max_workers, jitter=lambda: 0.5, **options)
        self.pids = itertools.count(100)
        self.logged = []
        self.at(0.0, "start")

    def did(self, actions, now):
        """The actions but for logs; children asked for are there, and unready."""
        self.logged += [action.event for action in actions if isinstance(action, Log)]
        for action in actions:
            if isinstance(action, Spawn):
                self.plan.spawned(action.slot, next(self.pids), now)
        return [action for action in actions if not isinstance(action, Log)]

    def at(self, now, event, *args):
        """What is done about an event, ticks included until nothing is left to do."""
        done = self.did(getattr(self.plan, event)(*args, now), now)
        while actions := self.plan.tick(now):
            done += self.did(actions, now)
        return done

    def pid(self, slot):
        return self.plan.slots[slot].pid

    def running(self):
        for slot in list(self.plan.slots):
            self.at(1.0, "ready", self.pid(slot))
        assert self.plan.phase is Phase.RUNNING
        return self

    def states(self):
        return {number: slot.state.value for number, slot in self.plan.slots.items()}

    def upgrading(self, now=10.0, pid=900, request=0):
        """An heir boots."""
        slots = tuple(sorted(slot for slot in self.plan.slots if slot != CONTROL))
        assert self.at(now, "upgrade_asked", request) == [Announce(Phase.UPGRADING), StartHeir(slots)]
        self.at(now, "heir_started", pid)
        return self

    def replaced(self, now, slots):
        """The heir is ready and accepts: what is done about that."""
        assert self.at(now, "heir_ready", slots) == [LetAccept()]
        return self.at(now, "heir_accepts")

    def taking(self):
        """As an heir: told to go, and no child has answered."""
        for slot in list(self.plan.slots):
            self.at(0.5, "ready", self.pid(slot))
        return self.at(0.8, "told_to_go")

    def dies(self, now, slot, code=-9):
        return self.at(now, "exited", self.pid(slot), code)

    def reload(self, now, workers=2, number=2):
        assert self.at(now, "signalled", signal.SIGHUP) == [Announce(Phase.RELOADING), Load("HUP")]
        return self.at(now, "loaded", Revision(number, workers, 0.0, 30.0))


# --- boot ---------------------------------------------------------------------------------------------------------


def test_start_spawns_workers_then_control():
    plan = Plan(Revision(1, 2, 0, 30), control=True)
    assert plan.start(0.0) == []
    assert [plan.tick(0.0) for _ in range(4)] == [[Spawn(0)], [Spawn(1)], [Spawn(CONTROL)], []]


def test_ready_when_all_are_ready():
    gateway = Gateway(2)
    assert gateway.at(0.5, "ready", 100) == []
    assert gateway.at(0.6, "ready", 101) == [Announce(Phase.RUNNING)]
    assert repr(gateway.plan) == "<Plan running r1: worker 0: serving | worker 1: serving>"
    assert gateway.plan.next_due() == INFINITE


def test_saying_ready_twice_or_by_a_stranger_means_nothing():
    gateway = Gateway(2)
    gateway.at(0.5, "ready", 100)
    assert gateway.at(0.5, "ready", 100) == []
    assert gateway.at(0.5, "ready", 999) == []
    assert gateway.plan.phase is Phase.BOOT


@pytest.mark.parametrize(("code", "halt"), [(3, 3), (4, 4), (1, 3)])
def test_a_child_that_cannot_boot_ends_the_gateway(code, halt):
    gateway = Gateway(2)
    gateway.at(0.2, "ready", 100)
    assert gateway.dies(0.5, 1, code) == [Announce(Phase.STOPPING), Send(0, Stop()), Retire(1)]
    assert gateway.dies(0.6, 0, 0) == [Retire(0), Announce(Phase.STOPPED), Halt(halt)]


def test_the_first_failure_names_the_exit_code():
    gateway = Gateway(2)
    gateway.dies(0.5, 1, 4)
    assert gateway.dies(0.6, 0, 3)[-1] == Halt(4)


def test_a_child_killed_during_boot_is_tried_again_but_not_for_ever():
    gateway = Gateway(1)
    now = 0.0
    for _ in range(BOOT_DEATHS - 1):
        now += 1.0
        assert gateway.dies(now, 0) == []
        now = gateway.plan.next_due()
        assert gateway.at(now, "tick") == [Spawn(0)]
    assert gateway.dies(now, 0)[-1] == Halt(3)


def test_a_child_that_never_gets_ready_ends_the_gateway():
    gateway = Gateway(2)
    gateway.at(1.0, "ready", 100)
    assert gateway.at(BOOT_TIMEOUT, "tick") == [Announce(Phase.STOPPING), Send(0, Stop()), Send(1, Stop())]
    assert gateway.at(BOOT_TIMEOUT + STOP_TIMEOUT, "tick") == [Signal(100, 9), Signal(101, 9)]
    gateway.dies(40.0, 0)
    assert gateway.dies(40.0, 1)[-1] == Halt(3)


def test_a_fork_that_fails_is_tried_again():
    plan = Plan(Revision(1, 1, 0, 30), jitter=lambda: 0.5)
    plan.start(0.0)
    assert plan.tick(0.0) == [Spawn(0)]
    plan.spawn_failed(0, "Resource temporarily unavailable", 0.0)
    assert plan.next_due() == pytest.approx(0.1)
    assert plan.tick(0.1) == [Spawn(0)]


def test_terminated_during_boot():
    gateway = Gateway(2)
    assert gateway.at(0.1, "signalled", signal.SIGTERM) == [Announce(Phase.STOPPING), Send(0, Stop()), Send(1, Stop())]


# --- deaths -------------------------------------------------------------------------------------------------------


def test_first_death_is_answered_at_once_and_later_ones_ever_slower():
    gateway = Gateway(1).running()
    assert gateway.dies(10.0, 0) == [Spawn(0)]
    delays = []
    now = 10.0
    for _ in range(11):
        gateway.at(now, "ready", gateway.pid(0))
        assert gateway.dies(now, 0) == []
        delays.append(gateway.plan.next_due() - now)
        now = gateway.plan.next_due()
        assert gateway.at(now, "tick") == [Spawn(0)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30])


def test_a_minute_of_life_makes_good():
    gateway = Gateway(1).running()
    gateway.dies(10.0, 0)
    gateway.at(10.1, "ready", gateway.pid(0))
    assert gateway.dies(69.9, 0) == []
    now = gateway.plan.next_due()
    gateway.at(now, "tick")
    gateway.at(now, "ready", gateway.pid(0))
    assert gateway.dies(now + 60.0, 0) == [Spawn(0)]


@pytest.mark.parametrize("code", [3, 4])
def test_a_child_that_cannot_boot_later_is_never_answered_at_once(code):
    gateway = Gateway(1).running()
    assert gateway.dies(100.0, 0, code) == []
    assert gateway.plan.next_due() == pytest.approx(100.1)
    assert gateway.plan.phase is Phase.RUNNING


def test_jitter_keeps_children_apart():
    dues = []
    for jitter in (0.0, 1.0):
        plan = Plan(Revision(1, 1, 0, 30), jitter=lambda jitter=jitter: jitter)
        plan.start(0.0)
        plan.spawn_failed(0, "", 0.0)
        dues.append(plan.next_due())
    assert dues == pytest.approx([0.075, 0.125])


def test_a_later_child_that_is_not_ready_in_time_is_killed_and_replaced():
    gateway = Gateway(1).running()
    gateway.dies(10.0, 0)
    assert gateway.at(10.0 + BOOT_TIMEOUT, "tick") == [Signal(101, 9)]
    assert gateway.dies(41.0, 0) == []
    assert gateway.states() == {0: "waiting"}


def test_orphans_handed_to_pid_1_are_nobodys_business():
    gateway = Gateway(1).running()
    assert gateway.plan.exited(4711, 7, 2.0) == []


def test_death_of_control_is_answered_like_a_workers():
    gateway = Gateway(1, control=True).running()
    assert gateway.dies(5.0, CONTROL) == [Spawn(CONTROL)]
    assert gateway.states() == {0: "serving", CONTROL: "starting"}


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exited with code 0"), (3, "exited with code 3 (could not boot)"), (-9, "killed by SIGKILL"),
     (-64, "killed by SIGRTMAX"), (-99, "killed by signal 99")],
)  # fmt: skip
def test_obituaries(code, words):
    assert describe_exit(code) == words


# --- the end ------------------------------------------------------------------------------------------------------


def test_drain():
    gateway = Gateway(2, timeout=20.0).running()
    assert gateway.at(5.0, "signalled", signal.SIGTERM) == [
        Announce(Phase.DRAINING), Unlisten(), Send(0, Drain(20.0)), Send(1, Drain(20.0)),
    ]  # fmt: skip
    assert gateway.plan.next_due() == 25.0 + DRAIN_GRACE
    assert gateway.dies(6.0, 1, 0) == [Retire(1)]
    assert gateway.dies(7.0, 0, 0) == [Retire(0), Announce(Phase.STOPPED), Halt(0)]


def test_control_ends_last_for_it_writes_what_the_workers_logged():
    gateway = Gateway(1, control=True).running()
    gateway.at(5.0, "signalled", signal.SIGTERM)
    assert gateway.dies(6.0, 0, 0) == [Retire(0), Send(CONTROL, Drain(CONTROL_DRAIN))]
    assert gateway.dies(6.1, CONTROL, 0) == [Retire(CONTROL), Announce(Phase.STOPPED), Halt(0)]


def test_control_killed_while_workers_drain_is_not_replaced():
    gateway = Gateway(1, control=True).running()
    gateway.at(5.0, "signalled", signal.SIGTERM)
    assert gateway.dies(5.5, CONTROL) == [Retire(CONTROL)]
    assert gateway.dies(6.0, 0, 0)[-1] == Halt(0)


def test_during_the_drain_delay_everything_still_works():
    gateway = Gateway(1, delay=10.0).running()
    assert gateway.at(5.0, "signalled", signal.SIGTERM) == [Announce(Phase.DRAINING)]
    assert gateway.dies(6.0, 0) == [Spawn(0)]
    gateway.at(6.1, "ready", gateway.pid(0))
    assert gateway.at(14.9, "tick") == []
    assert gateway.at(15.0, "tick") == [Unlisten(), Send(0, Drain(30.0))]


def test_who_overstays_the_drain_is_killed():
    gateway = Gateway(1, timeout=20.0).running()
    gateway.at(5.0, "signalled", signal.SIGTERM)
    assert gateway.at(25.0 + DRAIN_GRACE, "tick") == [Signal(100, 9)]
    assert gateway.dies(27.5, 0)[-1] == Halt(0)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_cuts_the_drain_short(second):
    gateway = Gateway(1, control=True).running()
    gateway.at(5.0, "signalled", signal.SIGTERM)
    assert gateway.at(5.1, "signalled", second) == []  # to the process and to its group: one request
    assert gateway.at(5.6, "signalled", second) == [Announce(Phase.STOPPING), Send(0, Stop()), Send(CONTROL, Stop())]
    assert gateway.at(5.6 + STOP_TIMEOUT, "tick") == [Signal(100, 9), Signal(101, 9)]
    assert gateway.at(8.0, "signalled", second) == []


def test_quit_never_cuts():
    gateway = Gateway(1).running()
    gateway.at(5.0, "signalled", signal.SIGQUIT)
    assert gateway.at(9.0, "signalled", signal.SIGQUIT) == []
    assert gateway.states() == {0: "draining"}


def test_children_that_do_not_serve_yet_have_nothing_to_drain():
    gateway = Gateway(2).running()
    gateway.dies(2.0, 0)  # starting again
    gateway.dies(2.1, 1)
    gateway.dies(2.2, 0)  # waiting
    assert gateway.at(2.3, "signalled", signal.SIGTERM)[-2:] == [Retire(0), Send(1, Stop())]
    assert gateway.dies(2.4, 1, 0)[-1] == Halt(0)


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU])
def test_nothing_changes_any_more_while_draining(signum):
    gateway = Gateway(1).running()
    gateway.at(5.0, "signalled", signal.SIGTERM)
    assert gateway.at(5.1, "signalled", signum) == []
    assert "ignored" in gateway.logged[-1]


# --- reload -------------------------------------------------------------------------------------------------------


def test_reload_is_prepared_by_all_then_committed():
    gateway = Gateway(2).running()
    assert gateway.reload(10.0) == [SendPrepare(0, 2), SendPrepare(1, 2)]
    assert gateway.at(10.1, "acked", 100, 2) == []
    assert gateway.at(10.2, "acked", 101, 2) == [
        Adopt(2), Send(0, Commit(2)), Send(1, Commit(2)), Report((0,)), Announce(Phase.RUNNING),
    ]  # fmt: skip
    assert gateway.plan.revision.number == 2
    assert gateway.plan.next_due() == INFINITE


def test_one_nack_and_nobody_switches():
    gateway = Gateway(2).running()
    gateway.reload(10.0)
    gateway.at(10.1, "acked", 100, 2)
    assert gateway.at(10.2, "nacked", 101, 2, ["no such file"]) == [
        Send(0, Abort(2)), Send(1, Abort(2)), Discard(2),
        Report((0,), ("reload abandoned: worker 1 refused it", "no such file")), Announce(Phase.RUNNING),
    ]  # fmt: skip
    assert gateway.logged[-1] == "reload abandoned: worker 1 refused it"
    assert gateway.plan.revision.number == 1


def test_silence_aborts():
    gateway = Gateway(2).running()
    gateway.reload(10.0)
    gateway.at(10.1, "acked", 100, 2)
    discarded, report, running = gateway.at(10.0 + RELOAD_TIMEOUT, "tick")[-3:]
    assert (discarded, running) == (Discard(2), Announce(Phase.RUNNING))
    assert report == Report((0,), (gateway.logged[-1],))
    assert "no answer from worker 1" in gateway.logged[-1]


def test_a_workers_death_aborts_and_its_heir_begins_with_the_old_revision():
    gateway = Gateway(2).running()
    gateway.reload(10.0)
    gateway.at(10.1, "acked", 100, 2)
    assert gateway.dies(10.2, 1) == [
        Send(0, Abort(2)), Discard(2),
        Report((0,), ("reload abandoned: worker 1 killed by SIGKILL meanwhile",)), Announce(Phase.RUNNING), Spawn(1),
    ]  # fmt: skip


def test_late_votes_count_for_nothing():
    gateway = Gateway(2).running()
    gateway.reload(10.0)
    gateway.at(10.2, "nacked", 101, 2, [])
    assert gateway.at(10.3, "acked", 100, 2) == []
    assert gateway.at(10.3, "nacked", 100, 2, []) == []


def test_death_of_control_does_not_stop_a_reload():
    gateway = Gateway(1, control=True).running()
    assert gateway.reload(10.0, 1) == [SendPrepare(CONTROL, 2), SendPrepare(0, 2)]
    gateway.at(10.1, "acked", 100, 2)
    assert gateway.dies(10.2, CONTROL) == [
        Adopt(2), Send(0, Commit(2)), Report((0,)), Announce(Phase.RUNNING), Spawn(CONTROL),
    ]  # fmt: skip


def test_a_child_born_during_the_reload_is_brought_up_to_date():
    gateway = Gateway(2).running()
    gateway.dies(9.0, 1)  # its heir is still starting
    assert gateway.reload(10.0) == [SendPrepare(0, 2)]
    assert gateway.at(10.1, "acked", 100, 2) == [
        Adopt(2), Send(0, Commit(2)), SendPrepare(1, 2), Send(1, Commit(2)), Report((0,)), Announce(Phase.RUNNING),
    ]  # fmt: skip
    assert gateway.at(10.2, "nacked", gateway.pid(1), 2, ["odd"]) == [Signal(102, 9)]


def test_a_bad_file_changes_nothing():
    gateway = Gateway(1).running()
    gateway.at(10.0, "signalled", signal.SIGHUP)
    assert gateway.at(10.0, "load_failed", ["config.json:3: …"]) == [
        Report((0,), ("config.json:3: …",)), Announce(Phase.RUNNING),
    ]  # fmt: skip


def test_many_hups_during_a_reload_are_one_more():
    gateway = Gateway(1).running()
    gateway.reload(10.0, 1)
    assert gateway.at(10.1, "signalled", signal.SIGHUP) == []
    assert gateway.at(10.1, "signalled", signal.SIGHUP) == []
    assert gateway.at(10.2, "acked", 100, 2)[-3:] == [Announce(Phase.RUNNING), Announce(Phase.RELOADING), Load("HUP")]
    gateway.at(10.2, "loaded", Revision(3, 1, 0, 30))
    assert gateway.at(10.3, "acked", 100, 3)[-1] == Announce(Phase.RUNNING)


def test_hup_during_boot_waits_for_its_end():
    gateway = Gateway(1)
    assert gateway.at(0.1, "signalled", signal.SIGHUP) == []
    assert gateway.at(0.2, "ready", 100) == [Announce(Phase.RUNNING), Announce(Phase.RELOADING), Load("HUP")]


def test_term_abandons_a_reload():
    gateway = Gateway(1).running()
    gateway.reload(10.0, 1)
    gateway.at(10.1, "signalled", signal.SIGHUP)
    actions = gateway.at(10.2, "signalled", signal.SIGTERM)
    assert actions[:2] == [Send(0, Abort(2)), Discard(2)]
    assert [action for action in actions if isinstance(action, Report)] == [
        Report((0,), (f"reload abandoned: {ENDING}",)), Report((0,), (ENDING,)),
    ]  # fmt: skip
    assert actions[-3:] == [Announce(Phase.DRAINING), Unlisten(), Send(0, Drain(30.0))]
    assert Load("HUP") not in actions
    assert gateway.at(10.3, "loaded", Revision(3, 1, 0, 30)) == [Discard(3)]


def test_reload_changes_the_number_of_workers():
    gateway = Gateway(1).running()
    gateway.reload(10.0, workers=3)
    assert gateway.at(10.1, "acked", 100, 2)[-2:] == [Spawn(1), Spawn(2)]
    for slot in (1, 2):
        gateway.at(10.2, "ready", gateway.pid(slot))
    gateway.reload(11.0, workers=1, number=3)
    for slot in (0, 1, 2):
        actions = gateway.at(11.1, "acked", gateway.pid(slot), 3)
    assert actions[-2:] == [Send(2, Drain(30.0)), Send(1, Drain(30.0))]


# --- reloads that the control process asks for ---------------------------------------------------------------------


def asked(id_, reason="file change", *, if_changed=False):
    return ReloadRequest(id_, reason, if_changed)


def test_who_asks_is_answered():
    gateway = Gateway(1, control=True).running()
    assert gateway.at(10.0, "reload_asked", asked(7)) == [Announce(Phase.RELOADING), Load("file change")]
    gateway.at(10.0, "loaded", Revision(2, 1, 0, 30))
    gateway.at(10.1, "acked", gateway.pid(CONTROL), 2)
    assert gateway.at(10.1, "acked", gateway.pid(0), 2)[-2:] == [Report((7,)), Announce(Phase.RUNNING)]


def test_requests_during_a_reload_share_the_next_one_and_each_gets_its_answer():
    gateway = Gateway(1, control=True).running()
    gateway.at(10.0, "reload_asked", asked(1))
    for request in (asked(2, "api"), asked(3, if_changed=True), asked(4, "api")):
        assert gateway.at(10.1, "reload_asked", request) == []
    gateway.at(10.1, "signalled", signal.SIGHUP)
    assert gateway.at(10.2, "load_failed", ["bad"]) == [
        Report((1,), ("bad",)), Announce(Phase.RUNNING),
        Announce(Phase.RELOADING), Load("api, file change, HUP"),
    ]  # fmt: skip
    assert gateway.at(10.3, "load_failed", ["still bad"])[0] == Report((2, 3, 4), ("still bad",))


def test_a_reload_is_conditional_only_if_all_want_it_so():
    gateway = Gateway(1, control=True).running()
    actions = gateway.at(10.0, "reload_asked", asked(1, if_changed=True))
    assert actions[-1] == Load("file change", if_changed=True)
    gateway.at(10.0, "reload_asked", asked(2, if_changed=True))
    gateway.at(10.0, "reload_asked", asked(3, "api"))
    assert gateway.at(10.1, "unchanged") == [
        Report((1,), unchanged=True), Announce(Phase.RUNNING), Announce(Phase.RELOADING), Load("file change, api"),
    ]  # fmt: skip
    assert gateway.plan.revision.number == 1


def test_texts_take_turns_and_keep_their_place_among_the_others():
    first, second = (ConfigText(data, "json", "c", "api", replaces="x") for data in (b"1", b"2"))
    gateway = Gateway(1, control=True).running()
    gateway.at(10.0, "reload_asked", asked(1))
    wanted = [
        asked(2),
        ReloadRequest(3, "api", text=first, author="ann", above=7),
        ReloadRequest(4, "api", text=second),
    ]
    for request in [*wanted, asked(5), asked(6)]:
        gateway.at(10.1, "reload_asked", request)
    loads = [gateway.at(10.2 + n, "load_failed", ["bad"])[-1] for n in range(4)]
    assert loads == [
        Load("file change"), Load("api", text=first, author="ann", above=7), Load("api", text=second),
        Load("file change"),
    ]  # fmt: skip
    assert gateway.at(15.0, "load_failed", ["bad"])[0] == Report((5, 6), ("bad",))


def test_a_gateway_that_ends_answers_too():
    gateway = Gateway(1, control=True).running()
    gateway.at(10.0, "reload_asked", asked(1))
    gateway.at(10.0, "reload_asked", asked(2))
    actions = gateway.at(10.0, "signalled", signal.SIGTERM)
    assert Report((2,), (ENDING,)) in actions
    assert gateway.at(10.1, "load_failed", []) == []
    assert gateway.at(10.2, "reload_asked", asked(3)) == [Report((3,), (ENDING,))]


def test_control_hears_when_its_first_revision_is_in_use():
    gateway = Gateway(1, control=True)
    gateway.at(0.1, "ready", gateway.pid(CONTROL))
    assert gateway.at(0.2, "ready", gateway.pid(0)) == [Announce(Phase.RUNNING), Send(CONTROL, Commit(1))]
    gateway.dies(5.0, CONTROL)
    assert gateway.at(5.1, "ready", gateway.pid(CONTROL)) == [Send(CONTROL, Commit(1))]


# --- workers more or less -----------------------------------------------------------------------------------------


def test_one_worker_more_and_one_less():
    gateway = Gateway(1).running()
    assert gateway.at(5.0, "signalled", signal.SIGTTIN) == [Spawn(1)]
    gateway.at(5.1, "ready", 101)
    assert gateway.at(6.0, "signalled", signal.SIGTTOU) == [Send(1, Drain(30.0))]
    assert gateway.dies(6.5, 1, 0) == [Retire(1)]
    assert gateway.states() == {0: "serving"}


def test_a_new_worker_does_not_wait_for_one_that_drains():
    gateway = Gateway(2).running()
    gateway.at(5.0, "signalled", signal.SIGTTOU)
    assert gateway.at(5.1, "signalled", signal.SIGTTIN) == [Spawn(2)]


def test_the_last_worker_stays():
    gateway = Gateway(1).running()
    assert gateway.at(5.0, "signalled", signal.SIGTTOU) == []


def test_no_more_workers_than_rows():
    gateway = Gateway(2, max_workers=2).running()
    assert gateway.at(5.0, "signalled", signal.SIGTTIN) == []


def test_the_worker_that_goes_is_one_that_serves():
    gateway = Gateway(2).running()
    gateway.dies(2.0, 1)
    assert gateway.at(2.1, "signalled", signal.SIGTTOU) == [Send(0, Drain(30.0))]


def test_one_worker_less_during_boot_does_not_hold_it_up():
    gateway = Gateway(2)
    gateway.at(0.1, "ready", 100)
    gateway.dies(0.2, 1)
    gateway.at(0.2, "tick")
    gateway.at(0.3, "signalled", signal.SIGTTOU)  # the one that serves goes
    gateway.at(0.4, "tick")
    gateway.dies(0.5, 0, 0)
    assert gateway.at(0.6, "tick") in ([], [Spawn(1)])
    assert gateway.at(0.7, "ready", gateway.pid(1)) == [Announce(Phase.RUNNING)]


def test_one_worker_less_during_a_reload_leaves_the_vote():
    gateway = Gateway(2).running()
    gateway.reload(10.0)
    gateway.at(10.1, "acked", 100, 2)
    assert gateway.at(10.2, "signalled", signal.SIGTTOU) == [
        Send(1, Drain(30.0)), Adopt(2), Send(0, Commit(2)), Report((0,)), Announce(Phase.RUNNING),
    ]  # fmt: skip


def test_reopen_logs_goes_to_everybody():
    gateway = Gateway(1, control=True).running()
    assert gateway.at(5.0, "signalled", signal.SIGUSR1) == [Send(0, ReopenLogs()), Send(CONTROL, ReopenLogs())]


# --- upgrade, as the old gateway sees it ----------------------------------------------------------------------------


def test_an_heir_that_is_ready_takes_over():
    gateway = Gateway(2, control=True, timeout=20.0).running().upgrading(request=7)
    assert gateway.replaced(12.0, [0, 1]) == [
        HandOver(900), Send(CONTROL, UpgradeResult(7, 900)), Send(0, Drain(20.0, True)), Send(1, Drain(20.0, True)),
    ]  # fmt: skip
    assert gateway.plan.next_due() == 32.0 + DRAIN_GRACE
    gateway.dies(13.0, 0, 0)
    assert gateway.dies(14.0, 1, 0) == [Retire(1), Send(CONTROL, Drain(CONTROL_DRAIN))]
    assert gateway.dies(14.1, CONTROL, 0) == [Retire(CONTROL), Announce(Phase.STOPPED), Halt(0)]


def test_nothing_changes_until_the_heir_accepts():
    gateway = Gateway(2, control=True).running().upgrading(request=7)
    before = repr(gateway.plan)
    assert gateway.at(11.0, "heir_accepts") == []  # what was not asked
    assert gateway.at(12.0, "heir_ready", [0, 1]) == [LetAccept()]
    assert gateway.at(12.0, "heir_ready", [0]) == []
    assert repr(gateway.plan) == before
    (gave_up, answer, announce) = gateway.at(12.1, "exited", 900, -9)
    assert (gave_up, announce, answer.message.pid) == (GiveUpHeir(), Announce(Phase.RUNNING), 0)
    assert "killed by SIGKILL" in answer.message.problem
    assert gateway.at(12.2, "heir_accepts") == []


def test_an_heir_that_does_not_come_to_accept_is_given_up():
    gateway = Gateway(1).running().upgrading()
    gateway.at(12.0, "heir_ready", [0])
    assert gateway.plan.next_due() == 12.0 + ACCEPT_TIMEOUT
    assert gateway.at(12.0 + ACCEPT_TIMEOUT, "tick") == [Signal(900, signal.SIGTERM)]
    assert gateway.at(12.1 + ACCEPT_TIMEOUT, "heir_accepts") == []  # too late
    assert gateway.at(gateway.plan.next_due(), "tick") == [Signal(900, signal.SIGKILL)]
    assert gateway.at(40.0, "exited", 900, -9) == [GiveUpHeir(), Announce(Phase.RUNNING)]
    assert f"did not accept within {ACCEPT_TIMEOUT:g} s" in gateway.logged[-1]


def test_listeners_that_the_heir_does_not_take_are_drained_as_ever():
    gateway = Gateway(3).running().upgrading()
    done = gateway.replaced(12.0, [0])
    assert done == [HandOver(900), Send(0, Drain(30.0, True)), Send(1, Drain(30.0)), Send(2, Drain(30.0))]


def test_listeners_that_are_being_closed_are_not_offered():
    gateway = Gateway(3).running()
    gateway.at(9.0, "signalled", signal.SIGTTOU)
    assert gateway.at(10.0, "signalled", signal.SIGUSR2) == [Announce(Phase.UPGRADING), StartHeir((0, 1))]


@pytest.mark.parametrize(
    ("code", "words"), [(7, "exited with code 7"), (2, "code 2 (bad command line"), (-9, "killed by SIGKILL")]
)
def test_an_heir_that_dies_is_given_up(code, words):
    gateway = Gateway(1, control=True).running().upgrading()
    (gave_up, answer, announce) = gateway.at(11.0, "exited", 900, code)
    assert (gave_up, announce) == (GiveUpHeir(), Announce(Phase.RUNNING))
    assert words in answer.message.problem
    assert answer.message.pid == 0
    assert repr(gateway.plan) == "<Plan running r1: worker 0: serving | control: serving>"
    assert gateway.plan.next_due() == INFINITE
    gateway.upgrading(now=12.0, pid=901)


def test_what_the_heir_said_is_the_reason():
    gateway = Gateway(1).running().upgrading()
    assert gateway.at(11.0, "heir_failed", "config.json:3: error: routes") == []
    assert gateway.at(11.1, "heir_ready", [0]) == []
    assert gateway.at(11.2, "exited", 900, 2) == [GiveUpHeir(), Announce(Phase.RUNNING)]
    assert gateway.logged[-1] == "upgrade failed, nothing has changed: config.json:3: error: routes"


def test_an_heir_that_is_silent_is_ended_politely_first():
    gateway = Gateway(1).running().upgrading(now=10.0)
    now = 10.0 + UPGRADE_TIMEOUT
    assert gateway.at(now, "tick") == [Signal(900, signal.SIGTERM)]
    assert gateway.at(now + 0.1, "heir_ready", [0]) == []  # too late
    assert gateway.at(gateway.plan.next_due(), "tick") == [Signal(900, signal.SIGKILL)]
    assert gateway.plan.next_due() == INFINITE
    assert gateway.at(now + 9, "exited", 900, -9) == [GiveUpHeir(), Announce(Phase.RUNNING)]


def test_no_process_for_an_heir():
    gateway = Gateway(1).running()
    gateway.at(10.0, "signalled", signal.SIGUSR2)
    assert gateway.at(10.0, "heir_failed", "cannot fork: EAGAIN") == [GiveUpHeir(), Announce(Phase.RUNNING)]


def test_one_upgrade_at_a_time():
    gateway = Gateway(1, control=True).running().upgrading(request=1)
    refusal = "another is under way"
    assert gateway.at(11.0, "upgrade_asked", 2) == [Send(CONTROL, UpgradeResult(2, 0, refusal))]
    assert gateway.at(11.0, "signalled", signal.SIGUSR2) == [Send(CONTROL, UpgradeResult(0, 0, refusal))]


def test_an_upgrade_waits_for_a_reload_and_a_reload_for_an_upgrade():
    gateway = Gateway(1).running()
    gateway.reload(10.0, workers=1)
    assert gateway.at(10.1, "signalled", signal.SIGUSR2) == []
    assert gateway.at(10.2, "acked", 100, 2)[-2:] == [Announce(Phase.UPGRADING), StartHeir((0,))]
    gateway.at(10.2, "heir_started", 900)
    assert gateway.at(10.3, "signalled", signal.SIGHUP) == []
    assert gateway.at(10.4, "exited", 900, 3)[-2:] == [Announce(Phase.RELOADING), Load("HUP")]


def test_a_reload_that_waited_is_passed_on_to_the_heir():
    gateway = Gateway(1).running().upgrading()
    gateway.at(11.0, "reload_asked", asked(5))
    hand_over, report, hup, _ = gateway.replaced(12.0, [0])
    assert (hand_over, report.asked, hup) == (HandOver(900), (5,), Signal(900, signal.SIGHUP))


def test_workers_are_replaced_while_an_heir_boots_but_not_more_or_fewer():
    gateway = Gateway(2).running().upgrading()
    assert gateway.dies(11.0, 0) == [Spawn(0)]
    assert gateway.at(11.1, "signalled", signal.SIGTTIN) == []
    assert gateway.at(11.2, "signalled", signal.SIGTTOU) == []
    assert gateway.replaced(12.0, [0, 1]) == [HandOver(900), Send(0, Stop()), Send(1, Drain(30.0, True))]


def test_an_upgrade_that_waits_is_dropped_at_the_end():
    gateway = Gateway(1)
    assert gateway.at(0.1, "signalled", signal.SIGUSR2) == []
    assert gateway.at(0.2, "signalled", signal.SIGTERM) == [Announce(Phase.STOPPING), GiveUpHeir(), Send(0, Stop())]
    assert gateway.dies(0.3, 0, 0)[-1] == Halt(0)


def test_an_heir_is_offered_the_workers_that_a_reload_leaves():
    gateway = Gateway(3).running()
    gateway.reload(10.0, workers=1)
    gateway.at(10.0, "signalled", signal.SIGUSR2)
    for pid in (100, 101):
        gateway.at(10.1, "acked", pid, 2)
    assert gateway.at(10.2, "acked", 102, 2)[-1] == StartHeir((0,))


def test_term_during_an_upgrade_ends_both():
    gateway = Gateway(1).running().upgrading()
    assert gateway.at(11.0, "signalled", signal.SIGTERM) == [
        Signal(900, signal.SIGTERM), Announce(Phase.DRAINING), Unlisten(), Send(0, Drain(30.0)),
    ]  # fmt: skip
    assert gateway.at(11.1, "heir_ready", [0]) == []
    assert gateway.dies(11.5, 0, 0) == [Retire(0)]
    assert gateway.at(12.0, "exited", 900, 0) == [GiveUpHeir(), Announce(Phase.STOPPED), Halt(0)]


def test_after_the_hand_over_signals_concern_the_drain_alone():
    gateway = Gateway(1).running().upgrading()
    gateway.replaced(12.0, [0])
    for signum in (signal.SIGHUP, signal.SIGTTIN, signal.SIGUSR2):
        assert gateway.at(12.1, "signalled", signum) == []
    assert gateway.at(12.2, "signalled", signal.SIGTERM) == []  # it drains
    assert gateway.at(12.3, "signalled", signal.SIGTERM) == []  # the same one, to the group
    assert gateway.at(13.0, "signalled", signal.SIGTERM) == [Announce(Phase.STOPPING), Send(0, Stop())]
    assert gateway.dies(13.1, 0, 0)[-1] == Halt(0)


def test_an_heir_that_dies_while_the_old_gateway_drains_decides_the_exit_code():
    gateway = Gateway(1).running().upgrading()
    gateway.replaced(12.0, [0])
    assert gateway.at(13.0, "exited", 900, -9) == []
    assert gateway.dies(14.0, 0, 0)[-1] == Halt(137)


# --- upgrade, as PID 1 sees it --------------------------------------------------------------------------------------


def replaced_pid_1():
    gateway = Gateway(1, stays=True).running().upgrading()
    gateway.replaced(12.0, [0])
    assert gateway.dies(13.0, 0, 0) == [Retire(0)]
    return gateway


def test_pid_1_stays_and_forwards_signals():
    gateway = replaced_pid_1()
    for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTERM):
        assert gateway.at(20.0, "signalled", signum) == [Signal(900, signum)]
    gateway.plan.heir_followed(901)
    assert gateway.at(21.0, "signalled", signal.SIGQUIT) == [Signal(901, signal.SIGQUIT)]


def test_pid_1_ends_like_the_last_heir_when_no_process_is_left():
    gateway = replaced_pid_1()
    gateway.plan.heir_followed(901)
    gateway.at(30.0, "exited", 900, 0)
    gateway.at(31.0, "exited", 901, 5)
    gateway.at(31.0, "exited", 4711, 0)
    assert gateway.at(31.0, "childless") == [Announce(Phase.STOPPED), Halt(5)]


def test_an_earlier_heir_tells_of_a_later_one_that_was_its_child():
    gateway = replaced_pid_1()
    gateway.plan.heir_followed(901)
    gateway.at(31.0, "exited", 900, 5)  # it had waited for 901
    assert gateway.at(31.0, "childless")[-1] == Halt(5)


def test_without_children_for_a_moment_nobody_else_ends():
    assert Gateway(1, stays=True).at(0.1, "childless") == []
    assert Gateway(1).running().at(2.0, "childless") == []


# --- upgrade, as the heir sees it -----------------------------------------------------------------------------------


def test_an_heir_accepts_when_it_is_told_to_and_serves_when_the_old_one_stops():
    gateway = Gateway(2, borrowed=2, control=True)
    gateway.at(0.5, "ready", gateway.pid(CONTROL))
    gateway.at(0.6, "ready", gateway.pid(0))
    assert gateway.at(0.7, "ready", gateway.pid(1)) == [Announce(Phase.STANDBY)]
    assert gateway.at(0.8, "told_to_go") == [Announce(Phase.TAKING), Send(CONTROL, Listen(True))]
    assert gateway.at(0.9, "listening", gateway.pid(CONTROL)) == [Send(0, Listen(True)), Send(1, Listen(True))]
    assert gateway.at(1.0, "listening", gateway.pid(1)) == []
    assert gateway.at(1.0, "listening", gateway.pid(1)) == []
    assert gateway.at(1.1, "listening", gateway.pid(0)) == [SayAccepting()]
    assert gateway.plan.standby
    assert gateway.at(1.2, "left") == [
        Announce(Phase.RUNNING),
        *(Send(slot, Listen()) for slot in (0, 1)),
        Send(CONTROL, Commit(1)),
    ]
    assert not gateway.plan.standby


def test_workers_without_borrowed_listeners_wait_until_all_is_theirs():
    gateway = Gateway(2, borrowed=1)
    assert gateway.taking() == [Announce(Phase.TAKING), Send(0, Listen(True))]
    assert gateway.at(0.9, "listening", gateway.pid(0)) == [SayAccepting()]
    assert gateway.at(1.0, "left") == [Announce(Phase.RUNNING), Send(0, Listen()), Send(1, Listen())]


def test_nothing_waits_for_a_control_process_that_dies():
    gateway = Gateway(1, borrowed=1, control=True)
    assert gateway.taking()[-1] == Send(CONTROL, Listen(True))
    assert gateway.dies(0.9, CONTROL) == [Send(0, Listen(True)), Spawn(CONTROL)]
    assert gateway.at(1.0, "listening", gateway.pid(0)) == [SayAccepting()]


def test_a_worker_that_dies_before_it_accepts_is_waited_for():
    gateway = Gateway(1, borrowed=1)
    gateway.taking()
    assert gateway.dies(0.9, 0) == [Spawn(0)]
    assert gateway.at(1.0, "ready", gateway.pid(0)) == [Send(0, Listen(True))]
    assert gateway.at(1.1, "listening", gateway.pid(0)) == [SayAccepting()]


@pytest.mark.parametrize(("event", "code"), [(("abandoned",), 3), (("signalled", signal.SIGTERM), 0)])
def test_an_heir_that_accepts_and_is_not_wanted_gives_the_listeners_back(event, code):
    gateway = Gateway(1, borrowed=1, control=True)
    gateway.taking()
    for slot in (CONTROL, 0):
        gateway.at(0.9, "listening", gateway.pid(slot))
    gateway.at(0.9, "signalled", signal.SIGHUP)
    gateway.at(0.9, "signalled", signal.SIGUSR2)
    report, answer, given_up = Report((0,), (ENDING,)), Send(CONTROL, UpgradeResult(0, 0, ENDING)), GiveUpHeir()
    assert gateway.at(1.0, *event) == [given_up, answer, report, GiveBack(), Send(0, Drain(30.0, True))]
    assert gateway.at(1.1, "left") == []
    assert gateway.at(1.2, "abandoned") == []
    assert gateway.dies(2.0, 0, 0) == [Retire(0), Send(CONTROL, Drain(CONTROL_DRAIN))]
    assert gateway.dies(2.1, CONTROL, 0)[-1] == Halt(code)


def test_an_heir_that_gave_back_is_stopped_by_a_second_term():
    gateway = Gateway(1, borrowed=1)
    gateway.taking()
    gateway.at(1.0, "signalled", signal.SIGTERM)
    assert gateway.at(2.0, "signalled", signal.SIGTERM) == [Announce(Phase.STOPPING), Send(0, Stop())]


def test_the_number_of_workers_stays_while_listeners_are_borrowed():
    gateway = Gateway(2, borrowed=2)
    for signum in (signal.SIGTTIN, signal.SIGTTOU):
        assert gateway.at(0.1, "signalled", signum) == []
    gateway.taking()
    for signum in (signal.SIGTTIN, signal.SIGTTOU):
        assert gateway.at(0.9, "signalled", signum) == []
    assert len(gateway.plan.slots) == 2


@pytest.mark.parametrize("ready", [False, True])
def test_an_heir_whose_predecessor_is_gone_gives_up(ready):
    gateway = Gateway(1, borrowed=1)
    if ready:
        gateway.at(0.5, "ready", gateway.pid(0))
    assert gateway.at(0.8, "abandoned") == [Announce(Phase.STOPPING), Send(0, Stop())]
    assert gateway.dies(0.9, 0, 0)[-1] == Halt(3)


def test_the_end_of_the_old_gateway_is_nothing_to_one_that_serves():
    gateway = Gateway(1, borrowed=1)
    gateway.taking()
    gateway.at(0.8, "left")
    assert gateway.at(0.9, "abandoned") == []


def test_a_worker_that_dies_on_standby_is_replaced():
    gateway = Gateway(1, borrowed=1)
    gateway.at(0.5, "ready", gateway.pid(0))
    assert gateway.dies(0.6, 0) == [Spawn(0)]
    assert gateway.at(0.7, "told_to_go") == [Announce(Phase.TAKING)]
    assert gateway.at(0.8, "ready", gateway.pid(0)) == [Send(0, Listen(True))]


def test_term_on_standby_stops_at_once():
    gateway = Gateway(1, borrowed=1)
    gateway.at(0.5, "ready", gateway.pid(0))
    assert gateway.at(0.6, "signalled", signal.SIGTERM) == [Announce(Phase.STOPPING), Send(0, Stop())]


# --- hung workers -------------------------------------------------------------------------------------------------


def test_a_worker_whose_loop_is_stuck_is_killed():
    gateway = Gateway(1).running()
    assert gateway.plan.beat(0, HANG_TIMEOUT - 1, 100.0) == []
    assert gateway.plan.beat(0, HANG_TIMEOUT, 105.0) == []  # one look proves nothing
    assert gateway.plan.beat(0, HANG_TIMEOUT + 5, 110.0)[1:] == [Signal(100, signal.SIGABRT)]
    assert gateway.plan.beat(0, HANG_TIMEOUT + 10, 115.0)[1:] == [Signal(100, signal.SIGKILL)]
    assert gateway.dies(115.1, 0) == [Spawn(0)]


def test_a_machine_that_stood_still_has_no_hung_workers():
    gateway = Gateway(2).running()
    for slot in (0, 1):
        assert gateway.plan.beat(slot, 3600.0, 4000.0) == []
    for slot in (0, 1):
        assert gateway.plan.beat(slot, 0.5, 4005.0) == []
        assert gateway.plan.beat(slot, 3600.0, 8000.0) == []


def test_what_the_last_process_left_in_the_row_is_not_held_against_the_next():
    gateway = Gateway(1).running()
    gateway.dies(100.0, 0)
    gateway.at(100.1, "ready", gateway.pid(0))
    assert gateway.plan.beat(0, 500.0, 101.0) == gateway.plan.beat(0, 505.0, 106.0) == []


def test_only_who_serves_is_looked_after():
    gateway = Gateway(1)
    assert gateway.plan.beat(0, 500.0, 50.0) == gateway.plan.beat(0, 500.0, 55.0) == []
    assert gateway.plan.beat(7, 500.0, 50.0) == []


# --- the table ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_slots_move_only_as_the_table_says(before, after):
    slot = Slot(0, 0.0, before)
    if after in MOVES[before]:
        slot.move(after)
        assert (slot.state, slot.due) == (after, INFINITE)
    else:
        with pytest.raises(AssertionError, match=f"{before.value} to {after.value}"):
            slot.move(after)


def test_every_state_leads_to_the_end():
    reachable = {State.GONE}
    for _ in State:
        reachable |= {state for state, after in MOVES.items() if after & reachable}
    assert reachable == set(State)


SIGNALS = {
    "hup": signal.SIGHUP,
    "ttin": signal.SIGTTIN,
    "ttou": signal.SIGTTOU,
    "term": signal.SIGTERM,
    "int": signal.SIGINT,
    "usr1": signal.SIGUSR1,
    "usr2": signal.SIGUSR2,
}
CHILDREN_DO = ("ready", "die", "exit", "ack", "nack", "hang", "listening")
GATEWAYS_DO = ("heir ready", "heir accepts", "heir exit", "go", "left", "abandoned")
EVENTS = st.lists(
    st.tuples(
        st.sampled_from([*SIGNALS, *CHILDREN_DO, *GATEWAYS_DO, "tick", "fail"]),
        st.integers(-1, 4),
        st.floats(0.0, 50.0),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(EVENTS, st.booleans(), st.integers(0, 2))
def test_whatever_happens_the_gateway_can_be_ended(events, control, borrowed):
    """No sequence of events makes an illegal move, and TERM with time always leads to Halt."""
    gateway = Gateway(2, control=control, borrowed=borrowed)
    now, numbers, halted, fails = 0.0, itertools.count(2), False, False

    def happen(actions):
        nonlocal halted
        for action in actions:
            halted |= isinstance(action, Halt)
            match action:
                case Spawn(slot) if fails:
                    happen(gateway.plan.spawn_failed(slot, "EAGAIN", now))
                case Spawn(slot):
                    happen(gateway.plan.spawned(slot, next(gateway.pids), now))
                case StartHeir():
                    happen(gateway.plan.heir_started(next(gateway.pids), now))
                case Load("HUP"):
                    number = next(numbers)
                    happen(gateway.plan.loaded(Revision(number, 1 + number % 3, number % 2 * 5.0, 30.0), now))
                case Signal(pid):
                    happen(gateway.plan.exited(pid, -9, now))

    end = [("term", 0, 0.0), ("term", 0, 1.0), ("tick", 0, 60.0), ("tick", 0, 60.0)]
    for name, slot, wait in [*events, *end]:
        if halted:
            break
        now += wait
        pid = gateway.plan.slots[slot].pid if slot in gateway.plan.slots else 999
        number = gateway.plan._reload.revision.number if gateway.plan._reload else 1
        match name:
            case "ready":
                happen(gateway.plan.ready(pid, now))
            case "die" | "exit":
                happen(gateway.plan.exited(pid, -9 if name == "die" else 3, now) if pid else [])
            case "ack":
                happen(gateway.plan.acked(pid, number, now))
            case "hang":
                happen(gateway.plan.beat(slot, wait, now))
            case "heir ready":
                happen(gateway.plan.heir_ready([0], now))
            case "heir exit":
                heir_pid = gateway.plan._upgrade.pid if gateway.plan._upgrade else 0
                happen(gateway.plan.exited(heir_pid, 3, now) if heir_pid else [])
            case "go":
                happen(gateway.plan.told_to_go(now))
            case "listening":
                happen(gateway.plan.listening(pid, now))
            case "left" | "abandoned":
                happen(getattr(gateway.plan, name)(now))
            case "heir accepts":
                happen(gateway.plan.heir_accepts(now))
            case "nack":
                happen(gateway.plan.nacked(pid, number, ["no"], now))
            case "fail":
                fails = not fails
            case "tick":
                pass
            case _:
                happen(gateway.plan.signalled(SIGNALS[name], now))
        for _ in range(20):
            happen(gateway.plan.tick(now))
    assert halted
    assert gateway.plan.slots == {}
