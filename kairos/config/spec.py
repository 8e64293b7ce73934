"""What every section of the configuration is made from: the base of its Structs, and the units of its values.

Durations are seconds, sizes bytes.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Bytes = Annotated[int, Meta(ge=0, le=1 << 50)]
Port = Annotated[int, Meta(ge=1, le=65_535)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]


class Spec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every section shares: immutable, strict about unknown keys, terse when written back."""
