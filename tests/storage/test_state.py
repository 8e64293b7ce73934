"""The state folder: one gateway at a time, and always a reason."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from kairos.storage.state import State, StateError, default_folder


def test_a_new_folder_is_private(tmp_path):
    state = State.claim(str(tmp_path / "a/b"))
    assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700
    state.close()


def test_the_second_is_told_who_was_first(tmp_path):
    first = State.claim(str(tmp_path))
    first.sign()
    with pytest.raises(StateError, match=rf"in use by process {os.getpid()}; give this gateway its own"):
        State.claim(str(tmp_path))
    first.close()
    State.claim(str(tmp_path)).close()


def test_an_heir_holds_the_lock_when_the_first_is_gone(tmp_path):
    first = State.claim(str(tmp_path))
    heir = State.claim(str(tmp_path), inherited=os.dup(first.fd))
    first.close()
    with pytest.raises(StateError):
        State.claim(str(tmp_path))
    heir.close()
    State.claim(str(tmp_path)).close()


def test_a_descriptor_that_is_not_the_lock_is_no_inheritance(tmp_path):
    with (tmp_path / "other").open("w") as other:
        state = State.claim(str(tmp_path), inherited=other.fileno())
        assert state.fd != other.fileno()
        with pytest.raises(BlockingIOError), (tmp_path / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        state.close()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be used: Not a directory; name another with --state-dir"):
        State.claim(str(tmp_path / "file/state"))
    with pytest.raises(StateError, match="no home"):
        State.claim("")


def test_where_it_is_by_default(monkeypatch):
    assert default_folder({"STATE_DIRECTORY": "/s/kairos:/s/more", "XDG_STATE_HOME": "/x"}) == "/s/kairos"
    assert default_folder({"XDG_STATE_HOME": "/x"}) == "/x/kairos"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_folder({}) == "/var/lib/kairos"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/h")
    assert default_folder({}) == "/h/.local/state/kairos"
    assert Path(default_folder({})).is_absolute()
