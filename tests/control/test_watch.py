"""What people and tools do to a configuration file, and whether it is seen."""

import asyncio
import contextlib
import os
import shutil

import pytest
from structlog.testing import capture_logs

from kairos.control.watch import FileWatch, folders_of, look

PATIENCE = 25.0
SELDOM = 60.0  # a poll that no test waits for: what is seen is seen by events


class Watched:
    """A file in a folder of its own, and how often a change of it was seen."""

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "config.json"
        self.file.write_text("one")
        self.seen = 0

    def changed(self):
        self.seen += 1

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)

    def play(self, change, *, poll=SELDOM):
        """Watch, let the change happen once the watch can see it, and wait until it is seen."""
        asyncio.run(self._play(change, poll))

    async def _play(self, change, poll):
        watch = FileWatch(str(self.file), self.changed, poll=poll)
        watch.start()
        watch.start()
        try:
            await self._awake(poll)
            change(self)
            await self.until(lambda: self.seen)
        finally:
            watch.stop()

    async def _awake(self, poll):
        """The kernel's watch is there once a first write is seen."""
        content = 0
        async with asyncio.timeout(PATIENCE):
            await self.until(lambda: self.seen)
            while self.seen == 1:
                content += 1
                self.file.write_text(f"awake {content}")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await self.until(lambda: self.seen > 1)
            while True:  # and all of these writes are behind us
                seen = self.seen
                await asyncio.sleep(0.5)
                if seen == self.seen:
                    break
        self.seen = 0


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path)


def rewritten(watched):
    watched.file.write_text("two")


def renamed_over(watched):
    new = watched.folder / ".config.json.swp"
    new.write_text("two")
    new.rename(watched.file)


def moved_away_and_written_anew(watched):
    """vim with backupcopy=no, and others."""
    watched.file.rename(watched.folder / "config.json~")
    watched.file.write_text("two")


def deleted_and_created(watched):
    watched.file.unlink()
    watched.file.write_text("two")


def synchronized(watched):
    """rsync --inplace --times, of another content of the same size and time."""
    before = watched.file.stat()
    watched.file.write_text("x" * before.st_size)
    os.utime(watched.file, ns=(before.st_atime_ns, before.st_mtime_ns))


def made_readable(watched):
    """What came with the wrong owner or mode was refused, and is in order now."""
    watched.file.chmod(0o640)


WAYS = [rewritten, renamed_over, moved_away_and_written_anew, deleted_and_created, synchronized, made_readable]


@pytest.mark.parametrize("change", WAYS)
def test_ways_of_writing(watched, change):
    watched.play(change)


def config_map(watched):
    """As Kubernetes mounts one: config.json -> ..data/config.json, ..data -> ..1."""
    watched.file.unlink()
    (watched.folder / "..1").mkdir()
    (watched.folder / "..1/config.json").write_text("one")
    (watched.folder / "..data").symlink_to("..1")
    watched.file.symlink_to("..data/config.json")


def swapped(watched):
    (watched.folder / "..2").mkdir()
    (watched.folder / "..2/config.json").write_text("two")
    (watched.folder / "..data_tmp").symlink_to("..2")
    (watched.folder / "..data_tmp").rename(watched.folder / "..data")
    shutil.rmtree(watched.folder / "..1")


def test_a_config_map_is_swapped(watched):
    config_map(watched)
    watched.play(swapped)


def test_a_config_map_is_swapped_again(watched):
    config_map(watched)

    def twice(watched):
        swapped(watched)
        (watched.folder / "..2").rename(watched.folder / "..1")
        (watched.folder / "..1/config.json").write_text("three")
        (watched.folder / "..data_tmp").symlink_to("..1")
        (watched.folder / "..data_tmp").rename(watched.folder / "..data")

    watched.play(twice)


def test_a_link_to_a_file_elsewhere(watched):
    elsewhere = watched.folder / "elsewhere"
    elsewhere.mkdir()
    watched.file.rename(elsewhere / "real.json")
    watched.file.symlink_to("elsewhere/real.json")
    watched.play(lambda w: (elsewhere / "real.json").write_text("two"))


def test_without_events_the_poll_sees_it(watched, monkeypatch):
    def none(*_paths, **_options):
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr("kairos.control.watch.awatch", none)
    watched.play(rewritten, poll=0.05)


def test_a_folder_that_goes_away_and_comes_back(watched):
    aside = watched.folder.with_name("aside")

    def replaced(watched):
        shutil.move(watched.folder, aside)
        watched.folder.mkdir()
        watched.file.write_text("two")

    watched.play(replaced, poll=0.2)
    shutil.rmtree(aside)


def test_a_file_that_is_gone_is_no_change(watched):
    async def play():
        watch = FileWatch(str(watched.file), watched.changed, poll=0.05)
        watch.start()
        await watched.until(lambda: watched.seen)
        watched.file.unlink()
        await watched.until(lambda: logs)
        assert (watched.seen, logs[0]["event"]) == (1, "the configuration file is gone; the revision in use stays")
        watched.file.write_text("two")
        await watched.until(lambda: watched.seen > 1)
        watch.stop()

    with capture_logs() as logs:
        asyncio.run(play())


def test_neighbours_are_not_the_file(watched):
    async def play():
        watch = FileWatch(str(watched.file), watched.changed, poll=0.05)
        watch.start()
        for number in range(20):
            (watched.folder / "access.log").write_text(f"{number}")
            await asyncio.sleep(0.02)
        watch.stop()

    asyncio.run(play())
    assert watched.seen == 1  # the first look


def test_folders_of_a_chain_of_links(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "c/real").write_text("")
    (tmp_path / "b/link").symlink_to("../c/real")
    (tmp_path / "a/name").symlink_to(tmp_path / "b/link")
    found = {os.path.realpath(folder) for folder in folders_of(tmp_path / "a/name")}
    assert found == {str(tmp_path / name) for name in ("a", "b", "c")}
    assert look(tmp_path / "a/name")[0] == str(tmp_path / "c/real")


def test_links_that_go_round(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert look(tmp_path / "a") is None
    assert set(folders_of(tmp_path / "a")) == {str(tmp_path)}


def test_a_file_that_is_gone_from_the_start_is_said_and_seen_when_it_comes(watched):
    async def play():
        watched.file.unlink()
        watch = FileWatch(str(watched.file), watched.changed, poll=0.05)
        watch.start()
        await watched.until(lambda: logs)
        assert watched.seen == 0
        watched.file.write_text("two")
        await watched.until(lambda: watched.seen)
        watch.stop()

    with capture_logs() as logs:
        asyncio.run(play())
