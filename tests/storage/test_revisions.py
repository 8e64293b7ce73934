"""Kept revisions: what is stored, what is not, and what a kill at any moment leaves."""

import stat

import pytest

from kairos.config.text import ConfigText
from kairos.storage.revisions import KEPT, DamagedError, Revisions


def text(content, format_="json"):
    return ConfigText(content.encode(), format_, f"config.{format_}", "test")


def add(revisions, number, content, **options):
    return revisions.add(number, text(content, **options), time=1000.0 + number, version="1.2.3")


@pytest.fixture
def revisions(tmp_path):
    return Revisions(tmp_path / "revisions")


def test_a_text_comes_back_as_it_was(revisions, tmp_path):
    add(revisions, 7, '{"jwt": "${SECRET}"}\r\n')
    (stored,) = revisions.kept()
    assert (stored.number, stored.time, stored.reason, stored.version) == (7, 1007.0, "test", "1.2.3")
    assert revisions.text(stored) == text('{"jwt": "${SECRET}"}\r\n')
    assert {path.name for path in (tmp_path / "revisions").iterdir()} == {"000007.json", "000007.meta"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "revisions").iterdir()} == {0o600}


def test_the_same_text_is_not_kept_twice_in_a_row(revisions):
    assert [add(revisions, n, content) for n, content in enumerate("aabab", 1)] == [True, False, True, True, True]
    assert [stored.number for stored in revisions.kept()] == [1, 3, 4, 5]
    assert revisions.newest().number == 5


def test_only_the_newest_are_kept(revisions, tmp_path):
    for number in range(1, KEPT + 4):
        add(revisions, number, f"{number}")
    assert [stored.number for stored in revisions.kept()] == list(range(4, KEPT + 4))
    assert len(list((tmp_path / "revisions").iterdir())) == 2 * KEPT
    assert revisions.find(3) is None
    assert revisions.text(revisions.find(4)).data == b"4"


def test_numbers_are_compared_as_numbers(revisions):
    for number in (999_999, 1_000_000):
        add(revisions, number, f"{number}")
    assert revisions.newest().number == 1_000_000


def test_what_a_kill_left_is_no_revision_and_goes_with_the_next(revisions, tmp_path):
    add(revisions, 1, "a")
    for name in ("000002.json", "000002.json.new", "000002.meta.new", "000003.meta.new"):
        (tmp_path / "revisions" / name).write_text("half a te")
    assert [stored.number for stored in revisions.kept()] == [1]
    add(revisions, 2, "b", format_="yaml")
    names = {path.name for path in (tmp_path / "revisions").iterdir()}
    assert names == {"000001.json", "000001.meta", "000002.yaml", "000002.meta"}


def test_what_is_no_revision_is_passed_over_and_left_alone(revisions, tmp_path):
    add(revisions, 1, "a")
    for name, content in [("note.txt", "x"), ("000009.meta", "{"), ("x.meta", '{"number": 9}')]:
        (tmp_path / "revisions" / name).write_text(content)
    assert revisions.newest().number == 1
    assert add(revisions, 2, "b")
    assert (tmp_path / "revisions/note.txt").exists()


def test_a_text_that_was_changed_is_not_believed(revisions, tmp_path):
    add(revisions, 1, "a")
    (tmp_path / "revisions/000001.json").write_text("b")
    with pytest.raises(DamagedError, match=r"revision 1 was changed since it was stored: .*000001\.json"):
        revisions.text(revisions.newest())


def test_none_yet(revisions):
    assert revisions.kept() == []
    assert revisions.newest() is None


def test_a_folder_that_cannot_be_written_stays_as_it_is(revisions, tmp_path):
    add(revisions, 1, "a")
    (tmp_path / "revisions/000002.json.new").mkdir()
    with pytest.raises(OSError):
        add(revisions, 2, "b")
    assert [stored.number for stored in revisions.kept()] == [1]
