"""Canaries and A/B tests: a route's requests divided among variants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, field

from kairos.config.backend import Backend  # noqa: TC001  (msgspec needs it at run time)
from kairos.config.fields import REQUEST_OWN, field_problem
from kairos.config.origin import check_backends
from kairos.config.spec import Spec
from kairos.config.templates import check_condition, check_template

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

WORD = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"


class Variant(Spec, frozen=True):
    """One way to serve the route."""

    name: Annotated[str, Meta(pattern=WORD)]
    """In metrics, logs and the header `split.header`."""
    weight: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Its share of the requests that no `when` decides, as part of the sum of all weights."""
    when: str | None = None
    """Condition that decides for this variant, whatever the weights; the first one that is true counts."""
    backends: list[Backend] = field(default_factory=list)
    """None: those of the route."""
    internal_path: Annotated[str, Meta(pattern="^/")] | None = None
    """Instead of the route's."""
    headers: dict[str, str] = field(default_factory=dict)
    """Fields set on the request; the values are templates."""


class Sticky(Spec, frozen=True):
    """Keeps a client at the variant it got first."""

    by: Literal["cookie", "client_ip", "identity"] = "cookie"
    """A cookie of ours; or a hash of the client's address or of who it is (its address, where nobody knows)."""
    cookie: Annotated[str, Meta(pattern=WORD)] = "kairos_variant"
    max_age: Annotated[int, Meta(ge=0, le=31_536_000)] = 86_400
    """Seconds the cookie lasts; 0: until the browser is closed."""
    secret: str | None = None
    """Signs the cookie, so that nobody can choose a variant. Without it the value hides the name but can be copied."""


class Split(Spec, frozen=True):
    """Which variant a request gets: the first whose `when` is true, else by weight."""

    variants: list[Variant]
    enabled: bool = True
    sticky: Sticky | None = None
    header: str | None = "X-Variant"
    """Request header that tells the backend; null leaves it out."""


def check(spec: Split, keys: Path, found: Findings) -> None:
    """What its types cannot say."""
    if not spec.variants:
        found.error((*keys, "variants"), "at least one variant must be given")
    elif not any(variant.weight for variant in spec.variants):
        found.error((*keys, "variants"), "no variant has a weight: requests that no `when` takes would have none")
    if spec.header is not None and (problem := field_problem(spec.header, "", REQUEST_OWN)):
        found.error((*keys, "header"), problem)
    if spec.sticky is not None and spec.sticky.secret is not None and len(spec.sticky.secret.encode()) < 16:
        found.error((*keys, "sticky", "secret"), "must have 16 bytes or more")
    seen: set[str] = set()
    for at, variant in enumerate(spec.variants):
        _check_variant(variant, (*keys, "variants", at), found)
        if variant.name in seen:
            found.error((*keys, "variants", at, "name"), f"'{variant.name}' is the name of another variant")
        seen.add(variant.name)


def _check_variant(variant: Variant, keys: Path, found: Findings) -> None:
    if variant.name == "mirror":
        found.error((*keys, "name"), "'mirror' is the name of copies in metrics: choose another")
    check_backends(variant.backends, (*keys, "backends"), found)
    check_condition(variant.when, (*keys, "when"), found)
    if not variant.weight and variant.when is None:
        found.hint(keys, "gets no requests: it has neither a weight nor a condition")
    for name, value in variant.headers.items():
        if problem := field_problem(name, value, REQUEST_OWN):
            found.error((*keys, "headers", name), problem)
        check_template(value, (*keys, "headers", name), found)
