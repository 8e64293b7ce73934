"""Configurations that came into use, as they were read: the text with its `${…}`, never what those stand for.

    000007.yaml   the text, byte for byte
    000007.meta   what is known of it (`Stored`), in JSON: written last, so a revision is there when this is there

Every file is written under another name, synced and renamed: a kill or a full disk at any moment leaves the revisions
as they were, and at most a file that the next `add` removes. Numbers are those the gateway used; they grow over
restarts, with gaps where a reload was refused or changed no text.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from kairos.config.text import ConfigText
from kairos.storage.files import NEW, replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

KEPT = 50
_META = ".meta"


class Stored(Struct, frozen=True):
    """What is known of a kept revision."""

    number: int
    time: float
    """Unix seconds at which it came into use."""
    reason: str
    sha256: str
    """Of the text."""
    version: str
    """Of the program."""
    format: Literal["json", "yaml", "toml"]
    name: str
    """The file it was read from."""
    author: str = ""
    message: str = ""


class DamagedError(Exception):
    """A revision's text is not what was stored."""


class Revisions:
    """The folder. One process writes, any may read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def kept(self) -> list[Stored]:
        """All that are there, oldest first; what is no revision is passed over."""
        return sorted(self._read(), key=lambda stored: stored.number)

    def newest(self) -> Stored | None:
        """The one that was in use last."""
        return max(self._read(), key=lambda stored: stored.number, default=None)

    def find(self, number: int) -> Stored | None:
        """The one of this number."""
        return next((stored for stored in self._read() if stored.number == number), None)

    def text(self, stored: Stored) -> ConfigText:
        """Its text. Raises OSError, or DamagedError when it was changed since."""
        data = self._text_path(stored).read_bytes()
        text = ConfigText(data, stored.format, stored.name, stored.reason, stored.author, stored.message)
        if text.sha256 != stored.sha256:
            raise DamagedError(f"revision {stored.number} was changed since it was stored: {self._text_path(stored)}")
        return text

    def add(self, number: int, text: ConfigText, *, time: float, version: str) -> bool:
        """Keep a revision, unless the newest one has the same text. Raises OSError and then has changed nothing."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._tidy()
        newest = self.newest()
        if newest is not None and newest.sha256 == text.sha256:
            return False
        stored = Stored(number, time, text.reason, text.sha256, version, text.format, text.name)
        stored = msgspec.structs.replace(stored, author=text.author, message=text.message)
        replace_file(self._text_path(stored), text.data)
        replace_file(self._meta_path(number), msgspec.json.format(msgspec.json.encode(stored)) + b"\n")
        for old in self.kept()[:-KEPT]:
            self._remove(old)
        return True

    def _read(self) -> Iterator[Stored]:
        """What can be read: a disk that fails is no reason not to start."""
        with contextlib.suppress(OSError):
            yield from self._read_each(list(self._folder.glob(f"*{_META}")))

    def _read_each(self, paths: Iterable[Path]) -> Iterator[Stored]:
        for path in paths:
            with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
                stored = msgspec.json.decode(path.read_bytes(), type=Stored)
                if path == self._meta_path(stored.number):
                    yield stored

    def _text_path(self, stored: Stored) -> Path:
        return self._folder / f"{stored.number:06}.{stored.format}"

    def _meta_path(self, number: int) -> Path:
        return self._folder / f"{number:06}{_META}"

    def _remove(self, stored: Stored) -> None:
        for path in (self._meta_path(stored.number), self._text_path(stored)):
            path.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Remove what a write left behind that did not come to its end."""
        kept = {path.stem for path in self._folder.glob(f"*{_META}")}
        for path in self._folder.iterdir():
            ours = path.stem.partition(".")[0].isdigit()
            if ours and (path.suffix == NEW or path.stem not in kept):
                path.unlink(missing_ok=True)
