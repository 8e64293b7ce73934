"""The admin socket: who connects by its name reaches the gateway that serves."""

import os
import socket

import pytest
from structlog.testing import capture_logs

from kairos.supervisor.state import GatewayState


def opened(folder, inherited=None):
    state = GatewayState(str(folder), inherited)
    state.listen()
    return state


def reaches(folder, state):
    """Whether a connection to the name arrives there."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "admin.sock"))
        try:
            state.admin.accept()[0].close()
        except BlockingIOError:
            return False
    return True


def test_the_name_is_taken_when_the_gateway_serves(tmp_path):
    state = opened(tmp_path)
    assert not (tmp_path / "admin.sock").exists()
    state.publish()
    assert reaches(tmp_path, state)
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    state.close()
    assert {path.name for path in tmp_path.iterdir()} == {"lock"}


def test_a_successor_takes_it_over_and_the_predecessor_leaves_it_alone(tmp_path):
    old = opened(tmp_path)
    old.publish()
    new = opened(tmp_path, inherited=os.dup(old.lock))
    assert reaches(tmp_path, old)
    new.publish()
    assert reaches(tmp_path, new)
    old.close()
    assert reaches(tmp_path, new)
    new.close()
    assert not (tmp_path / "admin.sock").exists()


def test_a_successor_that_is_given_up_leaves_no_trace(tmp_path):
    old = opened(tmp_path)
    old.publish()
    opened(tmp_path, inherited=os.dup(old.lock)).close()
    assert reaches(tmp_path, old)
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "admin.sock"}
    old.close()


def test_what_a_killed_gateway_left_is_replaced(tmp_path):
    for name in ("admin.sock", "admin.new"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / name))
    state = opened(tmp_path)
    state.publish()
    assert reaches(tmp_path, state)
    state.close()


@pytest.mark.parametrize("folder", [None, "", "/proc/none"])
def test_without_a_folder_everything_else_works(folder):
    with capture_logs() as logs:
        state = GatewayState(folder)
        state.listen()
        state.publish()
        assert (state.folder, state.revisions, state.admin, state.lock) == ("", None, None, None)
        state.close()
    assert [entry["event"] for entry in logs] == (
        ["running without state: no admin socket, no kept revisions"] if folder is not None else []
    )
