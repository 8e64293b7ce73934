"""Edits of requests on their way to the backend and of responses on their way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, field

from kairos.config.fields import REQUEST_OWN, RESPONSE_OWN, field_problem
from kairos.config.spec import Spec
from kairos.config.templates import check_condition, check_replacement, check_template
from kairos.config.values import REQUEST, RESPONSE

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

Action = Literal["add", "set", "remove", "replace", "append"]
NO_BODY = frozenset({204, 205, 304})
MAX_BODY = 16 * 1024 * 1024


class HeaderRule(Spec, frozen=True):
    """One edit of a header."""

    action: Action
    """`add` where there is none, `set` instead of any, `append` beside any, `remove` all, `replace` in the values."""
    name: str
    value: str | None = None
    """Template, for add, set and append."""
    pattern: str | None = None
    """Regular expression (RE2), for replace."""
    replacement: str | None = None
    """What takes the place of every match: a template in which `$1`, `${1}` and `${name}` are what groups took."""


class QueryRule(Spec, frozen=True):
    """One edit of a query parameter; names and values are decoded text."""

    action: Action
    name: str
    value: str | None = None
    pattern: str | None = None
    replacement: str | None = None


class PathRule(Spec, frozen=True):
    """A pattern replaced once in the upstream path."""

    pattern: str
    replacement: str


class StatusRule(Spec, frozen=True):
    """A response status shown as another."""

    from_: Annotated[int, Meta(ge=100, le=999)] = field(name="from")
    to: Annotated[int, Meta(ge=100, le=999)]
    condition: str | None = None
    """Which responses; all of this status without one."""


class BodyRules(Spec, frozen=True):
    """A JSON body made anew from the old one. Values become JSON values, never text in between."""

    template: Any = None
    """The new body: a JSON value whose strings are templates; one that is nothing but a value becomes that value,
    whatever its type. `body` is the old body."""
    set: dict[str, Any] = field(default_factory=dict)
    """JSON Pointer to value (as in template): what is set in it, missing objects on the way included."""
    remove: list[str] = field(default_factory=list)
    """JSON Pointers of what is left out."""
    limit: Annotated[int, Meta(ge=1, le=MAX_BODY)] = 1024 * 1024
    """Largest body, which is held in memory whole."""
    others: Literal["reject", "pass"] = "reject"
    """What happens to a body that is no JSON, of a content coding that is not known, or too large."""


class RequestTransformation(Spec, frozen=True):
    """Edits on the way to the backend."""

    enabled: bool = True
    headers: list[HeaderRule] = field(default_factory=list)
    path: PathRule | None = None
    """Edit of the path that is sent: after internal_path has been filled in, without the query."""
    query_params: list[QueryRule] = field(default_factory=list)
    body: BodyRules | None = None


class ResponseTransformation(Spec, frozen=True):
    """Edits on the way back."""

    enabled: bool = True
    headers: list[HeaderRule] = field(default_factory=list)
    status_code_mappings: list[StatusRule] = field(default_factory=list)
    """The first one with the response's status and a condition that holds counts."""
    body: BodyRules | None = None


def check_request(spec: RequestTransformation, keys: Path, found: Findings) -> None:
    """What its types cannot say."""
    for at, rule in enumerate(spec.headers):
        _check_header(rule, (*keys, "headers", at), found, REQUEST_OWN, REQUEST)
    for at, query in enumerate(spec.query_params):
        _check_rule(query, (*keys, "query_params", at), found, REQUEST)
    if spec.path is not None:
        check_replacement(spec.path.pattern, spec.path.replacement, (*keys, "path"), found)
    if spec.body is not None:
        _check_body(spec.body, (*keys, "body"), found, REQUEST)


def check_response(spec: ResponseTransformation, keys: Path, found: Findings) -> None:
    """What its types cannot say."""
    for at, rule in enumerate(spec.headers):
        _check_header(rule, (*keys, "headers", at), found, RESPONSE_OWN, RESPONSE)
    for at, mapping in enumerate(spec.status_code_mappings):
        _check_status(mapping, (*keys, "status_code_mappings", at), found)
    if spec.body is not None:
        _check_body(spec.body, (*keys, "body"), found, RESPONSE)


def _check_header(rule: HeaderRule, keys: Path, found: Findings, own: frozenset[str], allowed: frozenset[str]) -> None:
    if problem := field_problem(rule.name, rule.value or "", own):
        found.error((*keys, "name"), problem)
    _check_rule(rule, keys, found, allowed)


def _check_rule(rule: HeaderRule | QueryRule, keys: Path, found: Findings, allowed: frozenset[str]) -> None:
    """What the action needs is there, and is what it should be. kairos-rs lets rules be that do nothing."""
    if rule.action == "replace":
        if rule.pattern is None or rule.replacement is None:
            found.warning(keys, "does nothing: 'replace' needs a pattern and a replacement")
        else:
            check_replacement(rule.pattern, rule.replacement, keys, found, allowed)
    elif rule.action != "remove" and rule.value is None:
        found.warning(keys, f"does nothing: '{rule.action}' needs a value")
    elif rule.value is not None:
        check_template(rule.value, (*keys, "value"), found, allowed)


def _check_status(rule: StatusRule, keys: Path, found: Findings) -> None:
    for name, status in (("from", rule.from_), ("to", rule.to)):
        if not 200 <= status <= 599:
            found.error((*keys, name), f"{status} is not the status of an answer that can be shown as another")
        elif status in NO_BODY and rule.from_ != rule.to:
            found.error((*keys, name), f"an answer with status {status} has no body, so neither stands for the other")
    check_condition(rule.condition, (*keys, "condition"), found, RESPONSE)


def _check_body(rules: BodyRules, keys: Path, found: Findings, allowed: frozenset[str]) -> None:
    allowed |= {"body"}
    check_json(rules.template, (*keys, "template"), found, allowed)
    for pointer, value in rules.set.items():
        _check_pointer(pointer, (*keys, "set", pointer), found)
        check_json(value, (*keys, "set", pointer), found, allowed)
    for at, pointer in enumerate(rules.remove):
        _check_pointer(pointer, (*keys, "remove", at), found)
    if rules.template is None and not rules.set and not rules.remove:
        found.warning(keys, "does nothing: give a template, or what is set or removed")
    if rules.others == "pass":
        found.hint((*keys, "others"), "a body that is sent as another type, or too large, is not edited")


def check_json(value: Any, keys: Path, found: Findings, allowed: frozenset[str] = REQUEST) -> None:
    """A JSON value whose strings are templates."""
    if isinstance(value, str):
        check_template(value, keys, found, allowed)
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            check_json(item, (*keys, key), found, allowed)


def _check_pointer(text: str, keys: Path, found: Findings) -> None:
    try:
        parse_pointer(text)
    except ValueError as error:
        found.error(keys, str(error))


def parse_pointer(text: str) -> tuple[str, ...]:
    """The steps of a JSON Pointer (RFC 6901).

    Raises:
        ValueError: it is none, or points to the whole.
    """
    if not text.startswith("/"):
        raise ValueError(f"'{text}' is no JSON Pointer: it begins with '/', as in /user/name")
    steps = text[1:].split("/")
    if any(step.replace("~0", "").replace("~1", "").count("~") for step in steps):
        raise ValueError(f"'{text}' is no JSON Pointer: '~' is written ~0 and '/' in a name ~1")
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in steps)
