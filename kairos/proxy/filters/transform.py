"""Transformation: requests edited on their way to the backend, responses on their way back.

Order within a request: headers, path, query, body; each list of rules in its own order. Templates see what the rules
before them made. A route with header rules alone gets the compiled filter and pays for nothing else.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kairos.config.policies.transform import NO_BODY
from kairos.config.values import REQUEST, RESPONSE
from kairos.proxy.conditions import predicate
from kairos.proxy.decoding import DecodeError, decoded_body
from kairos.proxy.filters.headers import RequestHeaders, ResponseHeaders
from kairos.proxy.filters.rules import REQUESTS, RESPONSES, header_steps, path_change, query_change
from kairos.proxy.json_body import Rewriter, is_json
from kairos.proxy.rewriting import PLAIN, rewrite_response

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from kairos.config.policies.transform import BodyRules, RequestTransformation, ResponseTransformation, StatusRule
    from kairos.proxy.conditions import Predicate
    from kairos.proxy.exchange import Exchange, Filter, Response
    from kairos.proxy.filters.rules import Target
    from kairos.proxy.site import Site


# ---- requests


def build_request(site: Site) -> Filter | None:
    """The filter of a route with a request_transformation."""
    spec = site.policies.request_transformation
    if spec is None:
        return None
    if spec.path is None and not spec.query_params and spec.body is None:
        return RequestHeaders(header_steps(spec.headers, REQUESTS)) if spec.headers else None
    return RequestTransform(spec)


class RequestTransform(RequestHeaders):
    """Rules for more than headers."""

    def __init__(self, spec: RequestTransformation) -> None:
        super().__init__(header_steps(spec.headers, REQUESTS))
        self._changes: list[Target] = []
        if spec.path is not None:
            self._changes.append(path_change(spec.path))
        if spec.query_params:
            self._changes.append(query_change(spec.query_params))
        self._body = RequestBody(spec.body) if spec.body is not None else None

    def on_request(self, x: Exchange) -> Awaitable[None] | None:
        super().on_request(x)
        if x.finished or not self._retarget(x) or self._body is None:
            return None
        return self._body.rewrite(x)

    def _retarget(self, x: Exchange) -> bool:
        """False: the request was refused."""
        if not self._changes:
            return True
        target = x.upstream_target
        for change in self._changes:
            target = change(x, target)
        try:
            x.upstream_target = target
        except ValueError:
            x.fail_as("bad_target", "The path made of this request is not acceptable")
            return False
        return True


class RequestBody:
    """The rules for a request's body."""

    def __init__(self, rules: BodyRules) -> None:
        self._rewriter = Rewriter(rules, REQUEST)
        self._limit = rules.limit
        self._passes = rules.others == "pass"

    def rewrite(self, x: Exchange) -> Awaitable[None] | None:
        length = x.header(b"content-length")
        if x.header(b"transfer-encoding") is None and (length is None or not int(length)):
            return None
        if not is_json(x.header(b"content-type")):
            self._other(x, "unsupported_media_type")
            return None
        if length is not None and int(length) > self._limit:
            self._other(x, "payload_too_large")
            return None
        return self._read(x)

    def _other(self, x: Exchange, kind: str) -> None:
        if not self._passes:
            x.fail_as(kind, "This route takes plain JSON of limited size" if kind == "unsupported_media_type" else None)

    async def _read(self, x: Exchange) -> None:
        try:
            data = await decoded_body(x, self._limit)
        except DecodeError as error:
            return x.fail_as(error.kind, error.detail, error.headers)
        if not data:
            return None
        try:
            made = self._rewriter.rewrite(x, data)
        except ValueError:
            return x.fail_as("bad_body", "The request's body is not valid JSON")
        x.set_request_header("Content-Encoding", None)
        return x.replace_request_body(made)


# ---- responses


def build_response(site: Site) -> Filter | None:
    """The filter of a route with a response_transformation."""
    spec = site.policies.response_transformation
    if spec is None:
        return None
    if spec.body is not None:
        return ResponseBodyTransform(spec, spec.body)
    if spec.status_code_mappings:
        return ResponseTransform(spec)
    return ResponseHeaders(header_steps(spec.headers, RESPONSES)) if spec.headers else None


class ResponseTransform(ResponseHeaders):
    """Rules for more than headers: they see the backend's status, the headers the one that is shown."""

    def __init__(self, spec: ResponseTransformation) -> None:
        super().__init__(header_steps(spec.headers, RESPONSES))
        self._mappings = [_mapping(rule) for rule in spec.status_code_mappings]

    def on_response(self, x: Exchange) -> Response | None:
        status = x.status
        shown = next((to for given, to, holds in self._mappings if given == status and holds(x)), status)
        if shown != status:
            x.set_status(shown)
        return super().on_response(x)


def _always(_: Exchange) -> bool:
    return True


def _mapping(rule: StatusRule) -> tuple[int, int, Predicate]:
    holds = _always if rule.condition is None else predicate(rule.condition, RESPONSE)
    return rule.from_, rule.to, holds


class ResponseBodyTransform(ResponseTransform):
    """Rules for the body too. Only the backend's answers are rewritten; ours stay as they are."""

    def __init__(self, spec: ResponseTransformation, rules: BodyRules) -> None:
        super().__init__(spec)
        self._rewriter = Rewriter(rules, RESPONSE)
        self._limit = rules.limit
        self._passes = rules.others == "pass"

    def on_request(self, x: Exchange) -> None:
        x.add_request_edits(PLAIN)

    def on_response(self, x: Exchange) -> Response | None:
        if x.from_upstream and x.method != "HEAD" and x.status not in NO_BODY:
            rewrite, fits = partial(self._rewriter.rewrite, x), is_json(x.response_header(b"content-type"))
            rewrite_response(x, rewrite, self._limit, passes=self._passes, fits=fits)
        return None if x.finished else super().on_response(x)
