"""What a machine can run out of: room on its disk, file descriptors. Traffic goes on, and all is well afterwards."""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from typing import Any

from bench import procfs
from tests.chaos.clients import Load, wait_for
from tests.chaos.conftest import Site
from tests.support.gateway import route
from tests.support.net import Peer, connect

REFUSAL = "503 overloaded"


def limit(site: Site, kind: int, soft: int) -> None:
    """For all processes of the gateway, and what they fork."""
    for pid in procfs.tree(site.gateway.process.pid):
        _, hard = resource.prlimit(pid, kind)
        resource.prlimit(pid, kind, (soft, hard))


def test_a_full_disk_holds_up_logs_but_no_request(site: Site) -> None:
    """No file may grow: access log, application log and state alike (EFBIG; /dev/full below says ENOSPC)."""
    site.start()
    with site.load() as load:
        load.goes_on(500)
        limit(site, resource.RLIMIT_FSIZE, 0)
        load.goes_on(1000)
        reload_to(site, "/new")
        limit(site, resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
        load.goes_on(500)
    site.judge(load)
    reload_to(site, "/newer")
    wait_for(lambda: len(lines_of_work(site)) >= load.answered, "every line, those of the shortage included")


def test_who_is_killed_comes_back_on_a_full_disk(site: Site) -> None:
    """Lines are not counted here: a killed worker may have sent an answer and not yet written its line."""
    site.start()
    with site.load() as load:
        load.goes_on(200)
        limit(site, resource.RLIMIT_FSIZE, 0)
        site.kill("kairos-worker0")
        load.goes_on(200)
        site.kill("kairos-control")
        load.goes_on(200)
        assert "kairos_http_requests_total" in site.gateway.metrics()
        reload_to(site, "/new")
        limit(site, resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
        load.goes_on(200)
    site.judge(load)


def test_an_access_log_on_a_full_disk_can_be_moved(site: Site) -> None:
    site.start_origins(1)
    config = {"server": {"watch": False}, "routers": [site.route()]}
    site.start_gateway({**config, "access_log": {"file": "/dev/full"}}, workers=2)
    with site.load() as load:
        load.goes_on(500)
        site.gateway.wait_log("No space left on device")
        site.gateway.write(config)
        site.gateway.signal(signal.SIGHUP)
        load.goes_on(500)
    site.judge(load)
    wait_for(lambda: len(site.gateway.access_lines()) >= load.answered, "every line, in the other file")


def test_more_clients_than_descriptors(site: Site) -> None:
    """A crowd takes every place: who finds none is told so, and as soon as the crowd is gone all is as before."""
    site.start_origins(1)
    site.start_gateway({"routers": [site.route()]}, workers=2, launcher=("prlimit", "--nofile=160:160"))
    with site.load(accepted={REFUSAL}, crowded=True) as load:
        load.goes_on(200)
        crowd = [connect(site.gateway.port) for _ in range(site.times(400))]
        wait_for(lambda: refused(load) > 20, "refusals")
        site.kill("kairos-worker0")
        leave(crowd)
        wait_for_room(site)
    with site.load() as afterwards:
        afterwards.goes_on(1000)
    assert refused(afterwards) == 0
    site.judge(load, afterwards, metrics=False)


def test_descriptors_that_run_out_all_of_a_sudden(site: Site) -> None:
    """The limit falls below what is open: nothing can be accepted, no upstream reached. Whoever gets no answer then
    gets one afterwards."""
    site.start()
    with site.load(accepted={REFUSAL}, crowded=True) as hungry:
        hungry.goes_on(500)
        limit(site, resource.RLIMIT_NOFILE, 20)
        time.sleep(1)
        limit(site, resource.RLIMIT_NOFILE, 1000)
        wait_for_room(site)
    with site.load() as load:
        load.goes_on(1000)
    assert refused(load) == 0
    site.judge(hungry, load, metrics=False)


def reload_to(site: Site, path: str) -> None:
    """A file with one route more, and until that is served."""
    more = route(path, site.origins[0].url)
    site.gateway.write({"routers": [site.route(), more]})
    site.gateway.signal(signal.SIGHUP)
    wait_for(lambda: b" 200 " in site.gateway.get(f"{path}?id=new")[0][:16], "the new route")


def lines_of_work(site: Site) -> list[dict[str, Any]]:
    return [line for line in site.gateway.access_lines() if line["path"] == "/work"]


def refused(load: Load) -> int:
    return sum(count for (_, status), count in load.answers().items() if status == 503)


def leave(crowd: list[Peer]) -> None:
    for peer in crowd:
        peer.close()


def wait_for_room(site: Site) -> None:
    """Until fifty new connections in a row are served."""

    def served() -> bool:
        with contextlib.suppress(EOFError, ConnectionError):
            return all(b" 200 " in site.gateway.get("/live")[0][:16] for _ in range(50))
        return False

    wait_for(served, "room for everybody")
