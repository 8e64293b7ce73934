"""What operators said of backends: one file, by upstream key, and the words it stands for in the shared cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from kairos._speedups import cells
from kairos.storage.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

State = Literal["active", "drain", "maintenance"]
Force = Literal["auto", "open", "closed"]

OUT: dict[State, int] = {"maintenance": cells.OUT_MAINTENANCE, "drain": cells.OUT_DRAIN, "active": 0}
"""The strongest first."""
FORCED: dict[Force, int] = {
    "auto": cells.FORCED_NOT, "open": cells.FORCED_OPEN, "closed": cells.FORCED_CLOSED,
}  # fmt: skip


class Override(Struct, frozen=True, omit_defaults=True):
    """What an operator says of a backend; the default says nothing."""

    state: State = "active"
    weight: Annotated[int, Meta(ge=0, le=100)] = 100
    """Percent of its share that it is left."""
    breaker: Force = "auto"

    @property
    def words(self) -> dict[int, int]:
        """SU_* cells of a backend of which nothing else is known."""
        return {
            cells.SU_OUT: OUT[self.state],
            cells.SU_FORCED: FORCED[self.breaker],
            cells.SU_WEIGHT: 0 if self.weight == 100 else self.weight + 1,
        }


NOTHING = Override()


class UnreadableError(Exception):
    """The file cannot be used; the text says why."""


def read_overrides(file: Path) -> dict[str, Override]:
    """None where there is no file. Raises UnreadableError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Override])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(str(error)) from error


def write_overrides(file: Path, overrides: Mapping[str, Override]) -> None:
    """All but those that say nothing. Raises OSError and then has changed nothing."""
    said = {key: override for key, override in overrides.items() if override != NOTHING}
    replace_file(file, msgspec.json.format(msgspec.json.encode(said)))
