"""Requests held against rules, JSON Schemas and OpenAPI documents: what does not fit is not sent on.

Cheap things first: path and method, types, header fields and parameters; only then the body is read, bounded, without
its content coding. What the judgement is about is what the backend gets: a body whose meaning depends on the reader
(members given twice, other charsets, several Content-Types) is refused. Errors name where and why, never the value.

Where it only reports, nothing waits: bodies are judged after the exchange, from a copy.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import orjson

from kairos._speedups.cells import R_INVALID
from kairos._speedups.jsontext import members, shape
from kairos.config import parameters as text
from kairos.config.documents import MAX_DETAIL, Found
from kairos.config.parameters import ABSENT, Parameter, Shape, Unreadable
from kairos.config.policies.validation import openapi_of, schema_of
from kairos.config.regex import Regex
from kairos.proxy.decoding import DecodeError, content_coding, decode, decoded_body, response_coding
from kairos.proxy.exchange import BodyPipe, Exchange, Filter
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from kairos.config.documents import Validator
    from kairos.config.openapi import Body, Media, OpenApi, Operation
    from kairos.config.policies.validation import ParameterRule, Validation
    from kairos.proxy.site import Site

log = get_logger("validation")
LOG_EVERY_S = 1.0
"""A line at most, per worker and route: the metric counts them all."""

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
_CHARSETS = frozenset(("utf-8", "utf8", "us-ascii"))

Error = dict[str, str]


class Misfit(Exception):  # noqa: N818 - the client's doing
    """A request that does not fit: `kind` is a row of the error table."""

    def __init__(
        self,
        kind: str,
        detail: str | None = None,
        errors: Sequence[Error] = (),
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(detail or kind)
        self.kind = kind
        self.detail = detail
        self.errors = list(errors)
        self.headers = list(headers)


class Expected(NamedTuple):
    """What a body is held against."""

    kind: str
    """`json`, `form` or `text`."""
    validator: Validator
    shape: Shape


# ---- fields and parameters


class Rule:
    """A policies.validation.ParameterRule, compiled."""

    def __init__(self, spec: ParameterRule, where: str) -> None:
        self.where = where
        self.name = spec.name.lower() if where == "header" else spec.name
        self.spec = spec
        self._pattern = Regex(spec.pattern) if spec.pattern is not None else None
        self._shape = Shape(frozenset((spec.type,)))

    def problem(self, values: Sequence[str]) -> str | None:
        """What is wrong with the values given under the name."""
        if not values:
            return "is required" if self.spec.required else None
        if len(values) > 1 and not self.spec.repeated:
            return "is given more than once"
        return next(filter(None, map(self._misfit, values)), None)

    def _misfit(self, value: str) -> str | None:
        spec = self.spec
        if spec.enum and value not in spec.enum:
            return "is none of the values it may have"
        if self._pattern is not None and not self._pattern.search(value.encode("utf-8", "surrogateescape")):
            return f"does not match {spec.pattern}"
        if spec.type == "string":
            return self._too_long_or_short(len(value))
        read = text.scalar(value, self._shape)
        if isinstance(read, str):
            return f"is no {spec.type}"
        return None if spec.type == "boolean" else self._too_great_or_small(read)

    def _too_long_or_short(self, length: int) -> str | None:
        spec = self.spec
        if spec.min_length is not None and length < spec.min_length:
            return f"has fewer than {spec.min_length} characters"
        if spec.max_length is not None and length > spec.max_length:
            return f"has more than {spec.max_length} characters"
        return None

    def _too_great_or_small(self, value: float) -> str | None:
        if self.spec.min is not None and value < self.spec.min:
            return f"is less than {self.spec.min:g}"
        if self.spec.max is not None and value > self.spec.max:
            return f"is greater than {self.spec.max:g}"
        return None


class Given:
    """The parameters of a request, read when they are first asked for."""

    def __init__(self, x: Exchange) -> None:
        self._x = x
        self._fields: dict[str, list[str]] | None = None
        self._query: dict[str, list[str]] | None = None
        self._cookies: dict[str, list[str]] | None = None

    @property
    def fields(self) -> dict[str, list[str]]:
        if self._fields is None:
            self._fields = text.grouped(
                [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in self._x.headers]
            )
        return self._fields

    @property
    def query(self) -> dict[str, list[str]]:
        if self._query is None:
            try:
                self._query = text.grouped(text.pairs(self._x.query_string))
            except Unreadable as problem:
                raise Misfit("invalid_request", None, [{"in": "query", "detail": str(problem)}]) from None
        return self._query

    @property
    def cookies(self) -> dict[str, list[str]]:
        if self._cookies is None:
            fields = [value.encode("latin-1") for value in self.fields.get("cookie", ())]
            self._cookies = text.grouped(text.cookies(fields))
        return self._cookies

    def value(self, p: Parameter, captured: Mapping[str, str]) -> Any:
        """Of a parameter of an operation; ABSENT where it is not given.

        Raises:
            Unreadable: it is not of its style.
        """
        if p.where == "query":
            return text.in_pairs(self.query, p)
        if p.where == "cookie":
            return text.in_pairs(self.cookies, p)
        if p.where == "path":
            return text.in_text(captured[p.name], p) if p.name in captured else ABSENT
        values = self.fields.get(p.name)
        return ABSENT if values is None else text.in_text(", ".join(values), p)


def parameter_errors(p: Parameter, given: Given, captured: Mapping[str, str], most: int) -> list[Error]:
    """What is wrong with one parameter of an operation."""
    place = {"in": p.where, "name": p.name}
    try:
        value = given.value(p, captured)
    except Unreadable as problem:
        return [{**place, "detail": str(problem)}]
    if value is ABSENT:
        return [{**place, "detail": "is required"}] if p.required else []
    if p.validator is None or p.validator.is_valid(value):
        return []
    return [{**place, **described(found)} for found in p.validator.problems(value, most)]


def described(found: Found) -> Error:
    """A violation as it is told; its place in the parameter where that has parts."""
    return {"pointer": fragment(found.pointer), "detail": found.detail} if found.pointer else {"detail": found.detail}


def fragment(pointer: str) -> str:
    """A JSON pointer in a URI (RFC 6901 section 6), bounded: its steps are the client's names."""
    return "#" + quote(pointer, safe="/~!$&'()*+,;=:@")[:MAX_DETAIL]


# ---- bodies


def judge_json(data: bytes, validator: Validator, spec: Validation) -> Any:
    """
    Raises:
        Misfit: it is no JSON, too deep, can be read in two ways, or is not what the schema says.
    """
    depth, named = shape(data)
    if depth > spec.max_depth:
        raise Misfit("bad_body", f"Request body is nested deeper than {spec.max_depth} levels")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Misfit("bad_body", f"Request body is no JSON: {error.msg} (line {error.lineno})") from None
    if spec.duplicate_members == "refuse" and named != members(value):
        raise Misfit("bad_body", "Request body has two members of the same name in one object")
    return judge_value(value, validator, spec)


def judge_value(value: Any, validator: Validator, spec: Validation) -> Any:
    if not validator.is_valid(value):
        found = validator.problems(value, spec.max_errors)
        errors = [{"pointer": fragment(one.pointer), "detail": one.detail} for one in found]
        raise Misfit("invalid_body", None, errors)
    return value


def judge(data: bytes, expected: Expected, spec: Validation) -> None:
    """See judge_json()."""
    if expected.kind == "json":
        judge_json(data, expected.validator, spec)
        return
    try:
        if expected.kind == "form":
            judge_value(text.form(text.pairs(data), expected.shape), expected.validator, spec)
        else:
            judge_value(text.scalar(data.decode(), expected.shape), expected.validator, spec)
    except (Unreadable, UnicodeDecodeError) as problem:
        detail = str(problem) if isinstance(problem, Unreadable) else "not UTF-8"
        raise Misfit("bad_body", f"Request body: {detail}") from None


def media_type(fields: Iterable[tuple[bytes, bytes]]) -> str:
    """Of a body, in lower case; empty where it is not said.

    Raises:
        Misfit: there are several, or its charset is one that makes other text of the bytes.
    """
    values = [value for name, value in fields if name.lower() == b"content-type"]
    if len(values) > 1:
        raise Misfit("unsupported_media_type", "Content-Type is given more than once")
    kind, _, parameters = (values[0] if values else b"").decode("latin-1").lower().partition(";")
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in _CHARSETS:
            raise Misfit("unsupported_media_type", "Bodies are read as UTF-8: other charsets are not supported")
    return kind.strip()


def is_json(kind: str) -> bool:
    return kind == JSON or kind.endswith("+json")


def fits(kind: str, ranges: Iterable[str]) -> str | None:
    """The closest of the ranges that a type is in."""
    wide = {kind, kind.partition("/")[0] + "/*", "*/*"} & set(ranges)
    return max(wide, key=lambda one: (one != "*/*", not one.endswith("/*")), default=None)


def unsupported(ranges: Iterable[str]) -> Misfit:
    """RFC 9110 section 15.5.16: says what would do."""
    accept = ", ".join(ranges)
    return Misfit("unsupported_media_type", f"Bodies may be {accept}", (), [(b"Accept", accept.encode("latin-1"))])


# ---- the filter


class Validate(Filter):
    """Refuses what does not fit."""

    def __init__(self, spec: Validation, schema: Validator | None, openapi: OpenApi | None) -> None:
        self.spec = spec
        self._schema = schema
        self._openapi = openapi
        self._types = [kind.lower() for kind in spec.content_types]
        self._rules = [Rule(rule, "header") for rule in spec.headers] + [Rule(rule, "query") for rule in spec.query]
        self._named = frozenset(rule.name for rule in spec.query)
        self._log_from = 0.0

    def on_request(self, x: Exchange) -> Awaitable[None] | None:
        try:
            expected = self.judge_head(x)
        except (Misfit, DecodeError) as misfit:
            self.refuse(x, misfit)
            return None
        return None if expected is None else self._judge_body(x, expected)

    async def _judge_body(self, x: Exchange, expected: Expected) -> None:
        try:
            judge(await decoded_body(x, self.spec.max_body), expected, self.spec)
        except (Misfit, DecodeError) as misfit:
            self.refuse(x, misfit)

    def refuse(self, x: Exchange, misfit: Misfit | DecodeError) -> None:
        x.count(R_INVALID)
        errors = misfit.errors if isinstance(misfit, Misfit) else None
        x.fail_as(misfit.kind, misfit.detail, misfit.headers, errors or None)

    def report(self, event: str, x: Exchange, misfit: Misfit | DecodeError) -> None:
        now = time.monotonic()
        if now >= self._log_from:
            self._log_from = now + LOG_EVERY_S
            errors = misfit.errors if isinstance(misfit, Misfit) else []
            log.warning(event, route=x.plan.name, request_id=x.request_id_str, code=misfit.kind, detail=misfit.detail,
                        errors=errors[:3])  # fmt: skip

    # -- all but the body ---------------------------------------------------------------------------------------------

    def judge_head(self, x: Exchange) -> Expected | None:
        """What the body has to be, None where it is not looked into.

        Raises:
            Misfit: the request is refused already.
            DecodeError: the body has a content coding that cannot be undone.
        """
        given = Given(x)
        operation, captured = self._operation(x) if self._openapi is not None else (None, {})
        kind = media_type(x.headers) if x.has_body else ""
        if self._types and x.has_body and fits(kind, self._types) is None:
            raise unsupported(self._types)
        errors = self._rule_errors(given)
        if operation is not None:
            for p in operation.parameters:
                errors += parameter_errors(p, given, captured, self.spec.max_errors)
        errors += self._unknown_query(given, operation)
        if errors:
            raise Misfit("invalid_request", None, errors[: self.spec.max_errors])
        expected = self._expected(x, kind) or (self._of_operation(x, kind, operation) if operation else None)
        if expected is not None:
            content_coding(x)
        return expected

    def _operation(self, x: Exchange) -> tuple[Operation | None, dict[str, str]]:
        assert self._openapi is not None
        match = self._openapi.table.match(None, x.path, x.method)
        if match.status == "found":
            operation: Operation = match.value
            captured = zip(operation.names, match.params.values(), strict=False)
            self.matched(x, operation)
            return operation, dict(captured)
        rules = self.spec.openapi
        if rules is not None and rules.unknown == "refuse":
            if match.allowed:
                raise Misfit("method_not_allowed", None, (), [(b"Allow", ", ".join(match.allowed).encode())])
            raise Misfit("route_not_found")
        return None, {}

    def matched(self, x: Exchange, operation: Operation) -> None:
        """For who wants to know it later."""

    def _rule_errors(self, given: Given) -> list[Error]:
        errors = []
        for rule in self._rules:
            values = (given.fields if rule.where == "header" else given.query).get(rule.name, ())
            problem = rule.problem(values)
            if problem is not None:
                errors.append({"in": rule.where, "name": rule.spec.name, "detail": problem})
        return errors

    def _unknown_query(self, given: Given, operation: Operation | None) -> list[Error]:
        openapi = self.spec.openapi
        by_document = operation is not None and openapi is not None and openapi.unknown_query == "refuse"
        if not by_document and self.spec.unknown_query == "pass":
            return []
        known = set(self._named)
        for p in operation.parameters if operation is not None else ():
            if p.where == "query":
                known.add(p.name)
                known.update(p.shape.members if p.style == "form" and p.explode else ())
        deep = tuple(p.name + "[" for p in operation.parameters if p.style == "deepObject") if operation else ()
        return [
            {"in": "query", "name": name[:MAX_DETAIL], "detail": "is not known"}
            for name in given.query
            if name not in known and not (deep and name.startswith(deep))
        ]

    # -- what the body has to be --------------------------------------------------------------------------------------

    def _expected(self, x: Exchange, kind: str) -> Expected | None:
        """By the route's own schema. A body of another type would be a way around it, unless types are listed."""
        if self._schema is None:
            return None
        if not x.has_body:
            if self.spec.body_required:
                raise Misfit("bad_body", "Request body is required")
            return None
        if is_json(kind):
            return Expected("json", self._schema, Shape())
        if self._types:
            return None
        raise unsupported([JSON, "application/*+json"])

    def _of_operation(self, x: Exchange, kind: str, operation: Operation) -> Expected | None:
        body = operation.body
        if body is None:
            return None
        if not x.has_body:
            if body.required:
                raise Misfit("bad_body", "Request body is required")
            return None
        if not body.content:
            return None
        media = media_of(kind, body)
        if media is None:
            raise unsupported(body.content)
        return expected_of(kind, media)


def media_of(kind: str, body: Body) -> Media | None:
    found = fits(kind, body.content)
    return body.content[found] if found is not None else None


def expected_of(kind: str, media: Media) -> Expected | None:
    """Uploads and what is not text are not looked into."""
    if media.validator is None:
        return None
    if is_json(kind):
        return Expected("json", media.validator, media.shape)
    if kind == FORM:
        return Expected("form", media.validator, media.shape)
    return Expected("text", media.validator, media.shape) if kind.startswith("text/") else None


class Report(Validate):
    """Lets everything through, counts and logs what would be refused."""

    def on_request(self, x: Exchange) -> None:
        try:
            expected = self.judge_head(x)
        except (Misfit, DecodeError) as misfit:
            self.refuse(x, misfit)
            return
        if expected is not None:
            x.tap_body(self.spec.max_body)
            x.notes = {**(x.notes or {}), (self, "expected"): expected}

    def on_finish(self, x: Exchange) -> None:
        expected: Expected | None = (x.notes or {}).get((self, "expected"))
        body = x.tapped_body
        if expected is not None and body is not None:
            try:
                coding = content_coding(x)
                judge(decode(body, coding, self.spec.max_body) if coding else body, expected, self.spec)
            except (Misfit, DecodeError) as misfit:
                self.refuse(x, misfit)

    def refuse(self, x: Exchange, misfit: Misfit | DecodeError) -> None:
        x.count(R_INVALID)
        self.report("request does not fit", x, misfit)


# ---- responses


class Collector(BodyPipe):
    """Keeps a copy of a response's body, up to a limit, for `judge`."""

    def __init__(self, limit: int, judge: Callable[[bytes], None]) -> None:
        self._left = limit
        self._judge = judge
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left >= 0:
            self._pieces.append(data)
        else:
            self._pieces.clear()
        return data

    def finish(self) -> bytes:
        if self._left >= 0:
            self._judge(b"".join(self._pieces))
        return b""


class _Responses(Validate):
    """Logs responses that are not what the document says, and never changes them."""

    def matched(self, x: Exchange, operation: Operation) -> None:
        x.notes = {**(x.notes or {}), (self, "operation"): operation}

    def on_response(self, x: Exchange) -> None:
        operation: Operation | None = (x.notes or {}).get((self, "operation"))
        if operation is None or not x.from_upstream:
            return
        status = str(x.status)
        names = (status, status[0] + "XX", "DEFAULT")
        body = next((operation.responses[name] for name in names if name in operation.responses), None)
        kind = (x.response_header(b"content-type") or b"").decode("latin-1").partition(";")[0].strip().lower()
        media = media_of(kind, body) if body is not None else None
        if media is None or media.validator is None or not is_json(kind) or x.method == "HEAD":
            return
        try:
            coding = response_coding(x)
        except DecodeError:  # of another kind, or several: nobody here can look into it
            return
        validator = media.validator

        def held_against(data: bytes) -> None:
            try:
                judge_json(decode(data, coding, self.spec.max_body) if coding else data, validator, self.spec)
            except DecodeError as error:
                if error.kind == "bad_body":  # one that is too large is not judged without a coding either
                    x.count(R_INVALID)
                    self.report("response does not fit", x, error)
            except Misfit as misfit:
                x.count(R_INVALID)
                self.report("response does not fit", x, misfit)

        x.add_body_pipe(Collector(self.spec.max_body, held_against), tap=True)


class ValidateBoth(_Responses, Validate):
    """Refuses requests, reports responses."""


class ReportBoth(_Responses, Report):
    """Reports both."""


_KINDS = {(False, False): Validate, (False, True): ValidateBoth, (True, False): Report, (True, True): ReportBoth}


_documents: dict[str, list[str]] = {}
"""OpenAPI document → the files it was made of, when it was read last."""


def _openapi(site: Site, spec: Validation) -> OpenApi | None:
    """Read once for all routes, and again only when a file of it has changed."""
    rules = spec.openapi
    if rules is None:
        return None

    def read() -> OpenApi | None:
        made = openapi_of(spec)
        if made is not None:
            _documents[rules.file] = made.documents.files
        return made

    first = read() if rules.file not in _documents else None  # only then is it known what files there are
    stamps = tuple(map(_stamp, _documents[rules.file]))
    key = ("openapi", rules.file, rules.base_path, rules.responses, spec.formats, stamps)
    return site.kept(key, read if first is None else lambda: first)


def _stamp(path: str) -> tuple[str, int, int]:
    try:
        found = os.stat(path)
    except OSError:  # whoever reads it says so
        return path, 0, 0
    return path, found.st_mtime_ns, found.st_size


def build(site: Site) -> Filter | None:
    """The filter of a route with validation."""
    spec = site.policies.validation
    if spec is None:
        return None
    openapi = _openapi(site, spec)
    schema = schema_of(spec)
    if schema is not None:
        _ = schema.compiled
    kind = _KINDS[spec.report_only, spec.openapi is not None and spec.openapi.responses == "log"]
    return kind(spec, schema, openapi)
