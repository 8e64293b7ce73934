"""Requests held against rules, JSON Schemas and OpenAPI documents before anything is forwarded."""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, field

from kairos.config.documents import DocumentError, Documents, Validator
from kairos.config.openapi import OpenApi
from kairos.config.regex import Regex
from kairos.config.spec import Bytes, Spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.config.problems import Findings, Path

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_RANGE = re.compile(r"\*/\*|[a-z0-9!#$&^_.+-]+/(?:\*|[a-z0-9!#$&^_.+-]+)")


class ParameterRule(Spec, frozen=True):
    """What one header field or query parameter must be like."""

    name: str
    required: bool = False
    type: Literal["string", "integer", "number", "boolean"] = "string"
    pattern: str | None = None
    """Regular expression (RE2) that must match somewhere in the value: write `^…$` for all of it."""
    enum: list[str] = field(default_factory=list)
    """The values it may have; none means any."""
    min: float | None = None
    """Least value of an integer or number."""
    max: float | None = None
    min_length: Annotated[int, Meta(ge=0)] | None = None
    """Of a string, in characters."""
    max_length: Annotated[int, Meta(ge=0)] | None = None
    repeated: bool = False
    """It may be given more than once."""


class OpenApiRules(Spec, frozen=True):
    """An OpenAPI 3.0 or 3.1 document whose operations requests must fit."""

    file: str
    """JSON or YAML; it may refer to files of its folder and those below."""
    base_path: str | None = None
    """Path its paths stand below; by default those of its servers."""
    unknown: Literal["refuse", "pass"] = "refuse"
    """Requests for paths and methods it does not have: 404 and 405, or let through."""
    unknown_query: Literal["pass", "refuse"] = "pass"
    """Query parameters it does not have."""
    responses: Literal["off", "log"] = "off"
    """Hold JSON responses against it too, and log those that do not fit."""


class Validation(Spec, frozen=True):
    """What a request must be like: 400, 413, 415 or 422 with a list of errors otherwise."""

    enabled: bool = True
    schema: dict[str, Any] | bool | None = None
    """JSON Schema of JSON bodies, draft 2020-12 unless `$schema` says another."""
    schema_file: str | None = None
    """The same in a file, JSON or YAML; it may refer to files of its folder and those below."""
    openapi: OpenApiRules | None = None
    formats: bool = True
    """Whether `format` in schemas is checked, or only said."""
    body_required: bool = False
    """Refuse requests without a body where there is a schema."""
    content_types: list[str] = field(default_factory=list)
    """Media types a body may have (415): `type/subtype` or `type/*`; none means any."""
    headers: list[ParameterRule] = field(default_factory=list)
    query: list[ParameterRule] = field(default_factory=list)
    unknown_query: Literal["pass", "refuse"] = "pass"
    """Query parameters without a rule of their own."""
    max_body: Bytes = 1024 * 1024
    """Of a body that is looked into, without its content coding (413). It is held in memory."""
    max_depth: Annotated[int, Meta(ge=1, le=200)] = 64
    """Arrays and objects within each other in a JSON body."""
    duplicate_members: Literal["refuse", "last"] = "refuse"
    """A JSON object with two members of one name: servers differ about which counts. `last` judges the last one."""
    max_errors: Annotated[int, Meta(ge=1, le=100)] = 20
    """Errors listed in an answer."""
    report_only: bool = False
    """Log and count what would be refused, and let it through."""


def check(spec: Validation, keys: Path, found: Findings) -> None:
    """What types cannot say; documents are read and compiled."""
    if spec.schema is not None and spec.schema_file is not None:
        found.error((*keys, "schema_file"), "give schema or schema_file, not both")
        return
    if spec.schema is True or spec.schema == {}:
        found.warning((*keys, "schema"), "lets every JSON value through")
    for at, text in enumerate(spec.content_types):
        if not _RANGE.fullmatch(text.lower()):
            found.error((*keys, "content_types", at), f"'{text}' is no media type: write type/subtype or type/*")
    _check_rules(spec.headers, (*keys, "headers"), found, header=True)
    _check_rules(spec.query, (*keys, "query"), found, header=False)
    if spec.openapi and spec.openapi.base_path is not None and not spec.openapi.base_path.startswith("/"):
        found.error((*keys, "openapi", "base_path"), "must start with '/'")
        return
    _check_documents(spec, keys, found)


def _check_rules(rules: list[ParameterRule], keys: Path, found: Findings, *, header: bool) -> None:
    names: set[str] = set()
    for at, rule in enumerate(rules):
        here = (*keys, at)
        name = rule.name.lower() if header else rule.name
        if not rule.name or (header and not _TOKEN.fullmatch(rule.name)):
            found.error((*here, "name"), f"'{rule.name}' is no header name" if header else "must not be empty")
        if name in names:
            found.error((*here, "name"), f"there is a rule for '{rule.name}' already")
        names.add(name)
        _check_rule(rule, here, found)


def _check_rule(rule: ParameterRule, keys: Path, found: Findings) -> None:
    if rule.pattern is not None:
        try:
            Regex(rule.pattern)
        except ValueError as error:
            found.error((*keys, "pattern"), str(error))
    if rule.type in ("string", "boolean"):
        for bound in ("min", "max"):
            if getattr(rule, bound) is not None:
                found.error((*keys, bound), f"a {rule.type} has none: set type to integer or number")
    if rule.min is not None and rule.max is not None and rule.min > rule.max:
        found.error((*keys, "min"), f"is greater than max ({rule.max:g}): nothing would fit")
    if (rule.min_length or 0) > (rule.max_length if rule.max_length is not None else 1 << 62):
        found.error((*keys, "min_length"), f"is greater than max_length ({rule.max_length}): nothing would fit")


def _check_documents(spec: Validation, keys: Path, found: Findings) -> None:
    for key, make in (("schema", _compile_schema), ("schema_file", _compile_schema), ("openapi", _compile_openapi)):
        if getattr(spec, key) is not None:
            try:
                make(spec)
            except DocumentError as error:
                found.error((*keys, "openapi", "file") if key == "openapi" else (*keys, key), str(error))


def _compile_schema(spec: Validation) -> None:
    validator = schema_of(spec)
    _ = validator and validator.compiled


def _compile_openapi(spec: Validation) -> None:
    openapi = openapi_of(spec)
    if openapi is not None:
        openapi.compile()


def schema_of(spec: Validation) -> Validator | None:
    """Of its JSON Schema.

    Raises:
        DocumentError: a file cannot be used.
    """
    if spec.schema_file is not None:
        documents = Documents.read(spec.schema_file)
    elif spec.schema is not None:
        documents = Documents.inline(spec.schema)
    else:
        return None
    return Validator(documents, documents.root, formats=spec.formats)


def openapi_of(spec: Validation) -> OpenApi | None:
    """Of its OpenAPI document.

    Raises:
        DocumentError: see OpenApi.
    """
    rules = spec.openapi
    if rules is None:
        return None
    return OpenApi(rules.file, rules.base_path, responses=rules.responses == "log", formats=spec.formats)


def files(spec: Validation) -> Iterator[str]:
    """Every file it takes something from, as far as they can be read."""
    for path in (spec.schema_file, spec.openapi.file if spec.openapi else None):
        if path is not None:
            try:
                yield from Documents.read(path).files
            except DocumentError:
                yield str(FilePath(path).absolute())
