"""Which pages of other origins may read the answers (the Fetch standard's CORS protocol)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, field

from kairos.config.spec import Spec

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path


class Cors(Spec, frozen=True):
    """Cross-origin resource sharing."""

    enabled: bool = True
    allowed_origins: list[str] = field(default_factory=list)
    allowed_methods: list[str] = field(default_factory=list)
    allowed_headers: list[str] = field(default_factory=list)
    allow_credentials: bool = False
    max_age: Annotated[int, Meta(ge=0)] | None = None


def check(spec: Cors, keys: Path, found: Findings) -> None:
    """What its types cannot say."""
    if spec.allow_credentials and "*" in spec.allowed_origins:
        found.warning((*keys, "allowed_origins"), "browsers refuse '*' together with allow_credentials")
