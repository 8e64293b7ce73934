"""`kairos-gateway upgrade`: asks a running gateway to replace itself, waits, and says how it went.

Over the admin socket of its state folder the gateway answers with the reason of a failure. By pid there is only a
signal: how it went is read from the supervisor's name, which tells what it is doing.
"""

from __future__ import annotations

import os
import signal
import time

from kairos.supervisor.arbiter import NAME, NAME_REPLACED, NAME_UPGRADING
from kairos.supervisor.plan import UPGRADE_TIMEOUT

NOTICE_S = 10.0
"""For a signalled gateway to begin."""
POLL_S = 0.01


class UpgradeError(Exception):
    """The gateway is as it was; the text says why."""


def by_folder(folder: str) -> int:
    """Upgrade the gateway of a state folder; the pid of the new one. Raises UpgradeError."""
    from kairos.client import Client, ClientError, UnreachableError  # takes a while to load

    try:
        with Client.local(folder) as client:
            return client.upgrade().pid
    except UnreachableError as error:
        raise UpgradeError(f"{error}; or name its process with --pid") from error
    except ClientError as error:
        raise UpgradeError(str(error)) from error


def by_pid(pid: int) -> None:
    """Upgrade the gateway with this supervisor. Raises UpgradeError."""
    if (name := _name(pid)) != NAME:
        reason = {
            "": "there is no such process",
            NAME_REPLACED: "it was replaced; name the one that serves",
            NAME_UPGRADING: "it is at it",
        }
        raise UpgradeError(f"process {pid} cannot be upgraded: {reason.get(name, f'it is {name}, not {NAME}')}")
    try:
        os.kill(pid, signal.SIGUSR2)
    except OSError as error:
        raise UpgradeError(f"process {pid} cannot be signalled: {error.strerror}") from error
    if _changed(pid, NAME, NOTICE_S) == NAME:
        raise UpgradeError(f"process {pid} did not begin, or failed at once; see its log")
    if _changed(pid, NAME_UPGRADING, UPGRADE_TIMEOUT + NOTICE_S) not in (NAME_REPLACED, ""):
        raise UpgradeError(f"process {pid} serves on as it was; its log says why")


def _changed(pid: int, name: str, patience: float) -> str:
    """The process's name once it is another than this one, or after so many seconds."""
    end = time.monotonic() + patience
    while (now := _name(pid)) == name and time.monotonic() < end:
        time.sleep(POLL_S)
    return now


def _name(pid: int) -> str:
    """What ps shows of a process; empty if it has ended."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().rstrip("\n")
    except OSError:
        return ""
