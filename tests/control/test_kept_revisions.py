"""Which revisions a gateway keeps, and how it starts from them."""

import asyncio
import json
import os
import signal

import pytest
from structlog.testing import capture_logs

from kairos.config.text import ConfigText
from kairos.control.revisions import Keeper
from kairos.storage.revisions import Revisions
from tests.support.gateway import gateway, route

SECRET = "0123456789abcdef0123456789abcdef"


def routes(*paths, **members):
    return {"routers": [route(path, "http://127.0.0.1:1") for path in paths], **members}


def kept(g):
    return Revisions(g.state_dir / "revisions").kept()


def wait_kept(g, *numbers):
    g.wait(lambda: [stored.number for stored in kept(g)] == list(numbers), f"revisions {numbers}")


def reload(g, config):
    g.write(config)
    status, answer = g.admin("POST", "/api/reload")
    assert status == 200, answer
    return answer["revision"]


def serves(g, path):
    """Whether there is such a route: nobody listens behind it, which is another answer than 404."""
    return b" 404 " not in g.get(path)[0]


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_each_revision_that_came_into_use_is_kept_as_it_was_read():
    with gateway(routes("/a", jwt={"secret": "${KEPT_SECRET}"}), env={"KEPT_SECRET": SECRET}) as g:
        first = g.config_path.read_bytes()
        wait_kept(g, 1)
        assert reload(g, routes("/b")) == 2
        wait_kept(g, 1, 2)
        revisions = Revisions(g.state_dir / "revisions")
        assert [revisions.text(stored).data for stored in kept(g)] == [first, g.config_path.read_bytes()]
        assert [stored.reason for stored in kept(g)] == ["start", "admin API"]
        assert SECRET.encode() not in b"".join(path.read_bytes() for path in g.state_dir.rglob("*") if path.is_file())


def test_what_is_refused_or_unchanged_is_not_kept():
    with gateway(routes("/a")) as g:
        wait_kept(g, 1)
        g.config_path.write_text("{")
        assert g.admin("POST", "/api/reload")[0] == 422
        assert reload(g, routes("/a")) == 2
        assert reload(g, routes("/b")) == 3
        wait_kept(g, 1, 3)


def test_they_are_shown_newest_first_and_without_secrets():
    with gateway(routes("/a", jwt={"secret": SECRET})) as g:
        wait_kept(g, 1)
        reload(g, routes("/b", jwt={"secret": "${S:-" + SECRET + "}"}))
        wait_kept(g, 1, 2)
        listed = g.admin("GET", "/api/revisions")[1]
        assert [found["number"] for found in listed] == [2, 1]
        for found in listed:
            shown = g.admin("GET", f"/api/revisions/{found['number']}")[1]
            assert shown["revision"]["sha256"] == found["sha256"]
            assert shown["config"]["jwt"] == {"secret": "***"}
            assert SECRET not in json.dumps(shown)


def test_numbers_go_on_after_a_restart():
    with gateway(routes("/a")) as g:
        reload(g, routes("/b"))
        wait_kept(g, 1, 2)
        g.restart()
        assert g.admin("GET", "/api/status")[1]["revision"] == 2
        g.write(routes("/c"))
        g.restart()
        assert g.admin("GET", "/api/status")[1]["revision"] == 3
        wait_kept(g, 1, 2, 3)


def test_a_new_control_process_keeps_what_its_predecessor_did_not():
    with gateway(routes("/a")) as g:
        wait_kept(g, 1)
        control = g.child("kairos-control")
        os.kill(control, signal.SIGSTOP)
        g.write(routes("/b"))
        g.signal(signal.SIGHUP)
        g.wait(lambda: "Stopped" in _state(control), "control to be stopped")
        os.kill(control, signal.SIGKILL)  # the reload goes on without it
        g.wait(lambda: serves(g, "/b"), "a route /b")
        wait_kept(g, 1, 2)


def _state(pid):
    with open(f"/proc/{pid}/status") as status:
        return "Stopped" if "T (stopped)" in status.read() else ""


def test_without_a_state_folder_nothing_is_kept_and_nothing_else_fails(tmp_path):
    (tmp_path / "file").write_text("")
    with gateway(routes("/a"), env={"KAIROS_STATE_DIR": str(tmp_path / "file")}) as g:
        g.wait_log("running without state")
        g.write(routes("/b"))
        g.signal(signal.SIGHUP)
        g.wait(lambda: serves(g, "/b"), "a route /b")


# --- disks ----------------------------------------------------------------------------------------------------------


class Disk(Revisions):
    """Full until it is not."""

    full = True

    def add(self, number, text, **members):
        if self.full:
            raise OSError(28, "No space left on device")
        return super().add(number, text, **members)


def test_an_outage_is_said_once_and_made_up_for(tmp_path):
    disk = Disk(tmp_path)

    async def play():
        keeper = Keeper(disk, retry=0.01)
        for number in (1, 2, 3):
            keeper.keep(number, ConfigText(b"%d" % number, "json", "config.json", "test"))
        await keeper.close(0.3)
        keeper.keep(4, ConfigText(b"4", "json", "config.json", "test"))
        disk.full = False
        await keeper.close(10)

    with capture_logs() as logs:
        asyncio.run(play())
    assert [entry["event"] for entry in logs] == ["cannot keep revisions; trying again", "keeping revisions again"]
    assert disk.newest().number == 4


# --- the last good one ----------------------------------------------------------------------------------------------


def refused(g, *arguments):
    """The log of a start that fails."""
    g.stop()
    with pytest.raises(AssertionError, match="did not start"):
        g.restart(*arguments)
    return g.log


def test_a_bad_file_refuses_the_start_and_tells_of_the_last_good_revision():
    with gateway(routes("/a")) as g:
        wait_kept(g, 1)
        g.config_path.write_text("{")
        log = refused(g)
        assert f"{g.config_path}:1: error: " in log
        assert "is the last good one: --last-good starts with it." in log
        assert "Revision 1 of 2" in log


def test_last_good_starts_and_takes_up_the_file_when_it_is_good_again():
    with gateway(routes("/a", server={"watch": True})) as g:
        wait_kept(g, 1)
        g.config_path.write_text("{")
        g.restart("--last-good")
        assert serves(g, "/a")
        assert "cannot be used: starting with revision 1, the last good one" in g.log
        assert f"{g.config_path}:1: error: " in g.log
        assert g.admin("GET", "/api/status")[1]["revision"] == 1
        g.write(routes("/b", server={"watch": True}))
        g.wait(lambda: serves(g, "/b"), "a route /b")


def test_last_good_prefers_a_file_that_is_good():
    with gateway(routes("/a")) as g:
        wait_kept(g, 1)
        g.write(routes("/b"))
        g.restart("--last-good")
        assert serves(g, "/b")


def test_last_good_without_any():
    with gateway(routes("/a")) as g:
        wait_kept(g, 1)
        for path in (g.state_dir / "revisions").iterdir():
            path.unlink()
        g.config_path.write_text("{")
        assert f"--last-good: no revision is kept in {g.state_dir}." in refused(g, "--last-good")


def test_last_good_that_was_tampered_with():
    with gateway(routes("/a")) as g:
        wait_kept(g, 1)
        (g.state_dir / "revisions/000001.json").write_text('{"routers": []}')
        g.config_path.write_text("{")
        assert "the last good revision cannot be used either" in refused(g, "--last-good")


def test_last_good_of_another_format():
    with gateway(routes("/a")) as g:
        wait_kept(g, 1)
        yaml = g.folder / "config.yaml"
        g.config_path.rename(yaml)
        yaml.write_text(f"# as a person writes it\n{yaml.read_text()}")
        g.restart("--config", str(yaml))
        wait_kept(g, 1, 2)
        yaml.write_text("routers: [")
        g.restart("--config", str(yaml), "--last-good")
        assert serves(g, "/a")
