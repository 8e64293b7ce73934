"""The shared page: blocks lie apart, counters add up over processes and deaths, series keep their index."""

from __future__ import annotations

import mmap
import os
import signal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos._speedups import cells
from kairos._speedups.cells import Page
from kairos._speedups.limits import table_cells
from kairos.config.model import Backend, Route
from kairos.scoreboard import (
    LIMIT_WORDS,
    NO_UPSTREAM,
    WINDOW_WORDS,
    Assignment,
    Capacity,
    Scoreboard,
    Series,
    route_key,
    upstream_key,
)  # fmt: skip

SMALL = Capacity(workers=3, routes=4, pairs=6, upstreams=5)


def route(path: str, *backends: str, hosts: list[str] | None = None) -> Route:
    return Route(
        external_path=path,
        internal_path=path,
        methods=["GET"],
        hosts=hosts or [],
        backends=[Backend(host=host) for host in backends],
    )


def blocks(board: Scoreboard) -> list[tuple[int, int]]:
    """Every block of the page as (first cell, number of cells)."""
    room = board.capacity
    found = [(0, cells.H_CELLS)]
    found += [(board.shared_upstream(i), cells.SU_CELLS) for i in range(room.upstreams)]
    found += [(board.shared_route(i), cells.SR_CELLS) for i in range(room.routes)]
    for slot in range(room.workers):
        found.append((board.worker_block(slot), cells.W_CELLS))
        found += [(board.route_block(slot, i), cells.R_CELLS) for i in range(room.routes)]
        found += [(board.pair_block(slot, i), cells.P_CELLS) for i in range(room.pairs)]
        found += [(board.upstream_block(slot, i), cells.U_CELLS) for i in range(room.upstreams)]
        found += [(board.limit_block(slot, i), cells.L_CELLS) for i in range(room.limits)]
        found.append((board.log_ring(slot), cells.LOG_CELLS))
    found += [
        (board.limits, table_cells(room.keys, LIMIT_WORDS)),
        (board.windows, table_cells(room.keys, WINDOW_WORDS)),
    ]
    return sorted(found)


few = st.integers(1, 9)


@given(st.builds(Capacity, workers=few, routes=few, pairs=few, upstreams=few))
def test_blocks_lie_inside_the_page_aligned_and_apart(capacity):
    board = Scoreboard(capacity)
    end = 0
    for first, count in blocks(board):
        assert first >= end
        assert first % 8 == 0
        end = first + count
    assert end <= len(board.page) == board.cells


@given(st.builds(Capacity, workers=st.integers(2, 9), routes=few, pairs=few, upstreams=few))
def test_rows_are_one_stride_apart(capacity):
    board = Scoreboard(capacity)
    assert board.worker_block(1) - board.worker_block(0) == board.row_stride
    for block in (board.upstream_block, board.route_block, board.pair_block):
        assert block(1, 0) - block(0, 0) == board.row_stride


def test_cells_of_a_block_fit_in_it():
    assert cells.R_TOTAL + cells.HIST_CELLS == cells.R_GATEWAY
    assert cells.R_GATEWAY + cells.HIST_CELLS == cells.R_UPSTREAM
    assert cells.R_UPSTREAM + cells.HIST_CELLS == cells.R_BYTES_IN
    assert cells.R_BYTES_OUT < cells.R_CELLS
    assert cells.METHODS * cells.CLASSES == cells.P_TIMEOUTS
    assert cells.LOG_DATA * 8 + cells.LOG_BYTES == cells.LOG_CELLS * 8
    assert len(cells.BOUNDS_US) == cells.HIST_BUCKETS - 1


def test_an_index_beyond_the_capacity_is_refused():
    board = Scoreboard(SMALL)
    for place in (board.worker_block, board.shared_route, board.shared_upstream, board.log_ring):
        for index in (-1, 99):
            with pytest.raises(IndexError, match="outside the scoreboard"):
                place(index)


def test_a_cell_outside_the_page_is_refused():
    page = Page(mmap.mmap(-1, 4096))
    for bad in (-1, 512, 1 << 62, -(1 << 62)):
        with pytest.raises(IndexError):
            page.get(bad)
    with pytest.raises(IndexError):
        page.observe(500, 1)
    with pytest.raises(IndexError):
        page.sums(0, 8, 256, 3)


def test_a_read_only_memory_is_refused():
    with pytest.raises(BufferError):
        Page(b"read only")


@pytest.mark.parametrize(
    ("us", "bucket"), [(-5, 0), (0, 0), (50, 0), (51, 1), (999, 4), (1000, 4), (30_000_000, 17), (30_000_001, 18)]
)
def test_a_duration_falls_into_the_bucket_whose_bound_it_does_not_pass(us, bucket):
    page = Page(mmap.mmap(-1, 4096))
    page.observe(0, us)
    assert [i for i in range(cells.HIST_BUCKETS) if page.get(i)] == [bucket]
    assert page.get(cells.HIST_SUM) == max(us, 0)


def fork(work) -> int:
    """Run `work` in a child, which leaves without running anything of the test's."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_totals_add_up_over_workers_and_survive_a_kill():
    board = Scoreboard(SMALL)
    ready, written = os.pipe()

    def serve(slot):
        block = board.route_block(slot, 1)
        for _ in range(100 * (slot + 1)):
            board.page.observe(block + cells.R_TOTAL, 40)
        os.write(written, b"x")
        signal.pause()

    children = [fork(lambda slot=slot: serve(slot)) for slot in range(3)]
    for _ in children:
        assert os.read(ready, 1) == b"x"
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert board.total(board.route_block(0, 1), cells.R_TOTAL) == 600
    assert board.total(board.route_block(0, 1), cells.R_TOTAL + cells.HIST_SUM) == 600 * 40
    assert board.total(board.route_block(0, 2), cells.R_TOTAL) == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_atomic_additions_of_several_processes_are_all_counted():
    board = Scoreboard(SMALL)
    cursor = board.shared_route(2) + cells.SR_CURSOR
    children = [fork(lambda: [board.page.add(cursor, 1) for _ in range(20_000)]) for _ in range(3)]
    for pid in children:
        os.waitpid(pid, 0)
    assert board.page.add(cursor, 1) == 60_000


def test_the_headroom_for_routes_to_come_is_left_alone():
    board = Scoreboard(SMALL)
    ahead = [board.route_block(1, 1) + cells.R_QUEUED, board.upstream_block(1, 1) + cells.U_IN_FLIGHT]
    for cell in ahead:
        board.page.set(cell, 7)
    board.zero_gauges(1, Assignment())
    assert [board.page.get(cell) for cell in ahead] == [7, 7]


def test_a_dead_workers_gauges_are_zeroed_and_its_totals_kept():
    board = Scoreboard(SMALL)
    written = [first + i for first, count in blocks(board) for i in range(min(count, 80))]
    for cell in written:
        board.page.set(cell, 7)
    every = Assignment({str(i): i for i in range(SMALL.routes)}, {str(i): i for i in range(SMALL.upstreams)})
    board.zero_gauges(1, every)
    of_worker = (
        cells.W_CONNECTIONS_OPEN, cells.W_REQUESTS_ACTIVE, cells.W_TUNNELS_OPEN, cells.W_PID, cells.W_LAG_US,
        cells.W_SHED_LEVEL, cells.W_LEASE_DOWN,
    )  # fmt: skip
    gauges = {board.worker_block(1) + gauge for gauge in of_worker}
    gauges |= {
        board.route_block(1, i) + gauge for i in range(SMALL.routes) for gauge in (cells.R_EXTRA_ACTIVE, cells.R_QUEUED)
    }
    gauges |= {
        board.upstream_block(1, i) + gauge
        for i in range(SMALL.upstreams)
        for gauge in (cells.U_IN_FLIGHT, cells.U_CONNECTIONS_OPEN, cells.U_CONNECTIONS_IDLE)
    }
    assert {cell for cell in written if board.page.get(cell) == 0} == gauges


def test_flags_are_raised_and_lowered_one_by_one():
    board = Scoreboard(SMALL)
    board.set_flag(cells.FLAG_READY, True)
    board.set_flag(cells.FLAG_DRAINING, True)
    board.set_flag(cells.FLAG_READY, False)
    assert (board.flag(cells.FLAG_READY), board.flag(cells.FLAG_DRAINING)) == (False, True)


# --- series -------------------------------------------------------------------------------------------------------


def test_keys_name_what_a_user_wrote():
    assert route_key(route("/a/{id}")) == "/a/{id}"
    assert route_key(route("/a", hosts=["x.org", "*.y.org"])) == "x.org,*.y.org/a"
    assert upstream_key(Backend(host="http://10.0.0.1", port=8080)) == "http://10.0.0.1:8080"
    assert upstream_key(Backend(host="https://[::1]")) == "https://[::1]:443"
    assert upstream_key(Backend(host="unix:/run/app.sock")) == "unix:/run/app.sock"
    assert upstream_key(Backend(host="10.0.0.1"), "ftp") == "ftp://10.0.0.1:21"


@pytest.mark.parametrize("host", ["http://app:8080", "http://app:8080/", "HTTP://APP:8080"])
def test_an_upstream_has_one_name_however_it_is_written(host):
    assert upstream_key(Backend(host=host)) == upstream_key(Backend(host="http://app", port=8080)) == "http://app:8080"


def test_indices_stay_over_reloads_and_new_keys_are_added():
    series = Series(Scoreboard(Capacity(workers=1, routes=9, pairs=9, upstreams=9)))
    first = series.assign([route("/a", "http://x"), route("/b", "http://x", "http://y")])
    second = series.assign([route("/c", "http://y")])
    assert first.routes == {"none": 0, "/a": 1, "/b": 2}
    assert first.pair("/b", "http://y:80") != first.pair("/b", "http://x:80") != first.pair("/b")
    assert second.routes.items() > first.routes.items()
    assert second.pairs.items() > first.pairs.items()
    assert second.upstreams == first.upstreams
    assert first.route("/c") == 0  # what was handed out does not change


def test_a_revision_names_the_upstreams_in_use():
    series = Series(Scoreboard(Capacity(workers=1, routes=9, pairs=9, upstreams=9)))
    assert series.assign([route("/a", "http://x", "http://y"), route("/b", "http://X:80")]).current == [
        "http://x:80", "http://y:80",
    ]  # fmt: skip
    later = series.assign([route("/a", "http://y")])
    assert later.current == ["http://y:80"]
    assert "http://x:80" in later.upstreams


def test_a_full_table_shares_index_0_and_says_so():
    board = Scoreboard(Capacity(workers=1, routes=2, pairs=2, upstreams=2))
    series = Series(board)
    assert not series.assign([route("/a")]).full
    table = series.assign([route("/a"), route("/b", "http://x")])
    assert table.full
    assert board.page.get(cells.H_SERIES_FULL) == 1
    assert (table.route("/a"), table.route("/b"), table.pair("/b", "http://x:80")) == (1, 0, 0)
    assert table.upstream("http://x:80") == 1


def test_an_assignment_travels_as_msgpack():
    table = Series(Scoreboard.create(workers=1, routes=1, pairs=1, upstreams=1)).assign([route("/a", "http://x")])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(table), type=Assignment) == table
    assert table.pair("/a", "http://x:80") == 2
    assert table.pair("/a", NO_UPSTREAM) == 1
