"""A configuration as it was read: what is kept of a revision, and shown of it."""

from __future__ import annotations

import hashlib
from typing import Literal

from msgspec import Struct


class ConfigText(Struct, frozen=True):
    """The bytes of a file, `${…}` and all, and how they came here."""

    data: bytes
    format: Literal["json", "yaml", "toml"]
    name: str
    """Of the file, as it was given."""
    reason: str
    """Why it was read: who asked."""
    author: str = ""
    """Whose change it is, as far as that is known."""
    message: str = ""
    """What they say of it."""
    replaces: str = ""
    """Of a change that is made here: `sha256` of the text it was made from. Empty: this was read from the file."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()
