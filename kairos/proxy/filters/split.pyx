"""Canaries and A/B tests: which variant a request goes to, and its plan.

First the variants with a condition that holds, then who is known (by cookie, or a hash of who it is), then by weight.
Rules here: shares are exact in the long run and need no state; a hash gives the same client the same variant on every
worker and node; a cookie of a variant that has no weight any more counts no longer, so that a canary can be called off.
"""

import base64
import hashlib
import hmac

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from kairos._speedups.hashing cimport hash_bytes, next_random
from kairos.proxy.edits cimport Edits
from kairos.proxy.exchange cimport Exchange, Filter, Plan

from kairos.config.values import parse_template
from kairos.proxy.conditions import predicate
from kairos.proxy.edits import edit
from kairos.proxy.fields import REQUEST_OWN
from kairos.proxy.values import cookie as find_cookie
from kairos.proxy.values import renderer


def build(site):
    """The filter of a route with a split."""
    spec = site.policies.split
    if spec is None:
        return None
    return StickySplitter(site) if spec.sticky is not None and spec.sticky.by == "cookie" else Splitter(site)


cdef class Choice:
    """Made by Splitter."""

    def __init__(self, str name, str token, holds, uint64_t below, Edits edits, more):
        self.name = name
        self.token = token
        self.holds = holds
        self.below = below
        self.edits = edits
        self.more = more


cdef class Splitter(Filter):
    """By conditions, by a hash of the client, by weight."""

    def __init__(self, site):
        spec = site.policies.split
        sticky = spec.sticky
        total, choices = 0, []
        secret = sticky.secret if sticky is not None and sticky.secret else ""
        for variant in spec.variants:
            total += variant.weight
            choices.append(_choice(variant, spec.header, site.name, secret, total))
        self.choices = tuple(choices)
        self.total = total
        self.seed = hash_bytes(PyBytes_AS_STRING(site.name.encode()), len(site.name.encode()), 0)
        self.by_identity = sticky is not None and sticky.by == "identity"
        self.by_client = sticky is not None and sticky.by != "cookie"

    cpdef object on_request(self, Exchange x):
        cdef Choice chosen = self.choose(x)
        x.switch_plan(<Plan>x.plan.branches[chosen.name])
        if chosen.edits is not None:
            x.edit_request(chosen.edits)
        if chosen.more is not None:
            try:
                chosen.more(x)
            except ValueError as error:
                x.fail_with("bad_value", str(error))

    cdef Choice choose(self, Exchange x):
        cdef Choice chosen = self._by_condition(x)
        if chosen is None:
            chosen = self._sticky(x)
        return self._by_weight(next_random(&x.runtime.random)) if chosen is None else chosen

    cdef Choice _by_condition(self, Exchange x):
        for item in self.choices:
            if (<Choice>item).holds is not None and (<Choice>item).holds(x):
                return <Choice>item
        return None

    cdef Choice _by_weight(self, uint64_t number):
        """The high bits of the number, in proportion: no remainder, no bias worth mention."""
        cdef uint64_t at = ((number >> 32) * self.total) >> 32
        for item in self.choices:
            if at < (<Choice>item).below:
                return <Choice>item
        raise AssertionError("no variant has a weight")

    cdef Choice _sticky(self, Exchange x):
        cdef bytes subject
        cdef const char* text
        cdef Py_ssize_t n = 0
        if not self.by_client:
            return None
        if self.by_identity and x.identity is not None:
            subject = x.identity.subject.encode("utf-8", "surrogatepass")
            return self._by_weight(hash_bytes(PyBytes_AS_STRING(subject), PyBytes_GET_SIZE(subject), self.seed))
        text = x.client_text(&n)
        return self._by_weight(hash_bytes(text, n, self.seed))


cdef class StickySplitter(Splitter):
    """By a cookie of ours, which says what was chosen first."""

    def __init__(self, site):
        super().__init__(site)
        sticky = site.policies.split.sticky
        weights = {variant.name: variant.weight for variant in site.policies.split.variants}
        self.cookie = sticky.cookie.encode()
        self.tokens = {choice.token.encode(): choice for choice in self.choices if weights[choice.name]}
        age = f"; Max-Age={sticky.max_age}" if sticky.max_age else ""
        self.cookies = {
            choice.name: f"{sticky.cookie}={choice.token}; Path=/{age}; HttpOnly; SameSite=Lax".encode()
            for choice in self.choices if weights[choice.name]
        }

    cdef Choice _sticky(self, Exchange x):
        given = find_cookie(x, self.cookie)
        return None if given is None else self.tokens.get(given)

    cpdef object on_response(self, Exchange x):
        """Who was put somewhere by weight is told so, once; a condition decides each time anew."""
        cdef bytes line = self.cookies.get(x.plan.variant)
        if line is None or self._by_condition(x) is not None:
            return None
        given = find_cookie(x, self.cookie)
        if given is None or given not in self.tokens:
            x.add_response_header("Set-Cookie", line + b"; Secure" if x.encrypted() else line)


def _choice(variant, header, str route, str secret, uint64_t below):
    known, more = [], []
    if header is not None:
        known.append(edit(header, variant.name, REQUEST_OWN))
    for name, value in variant.headers.items():
        template = parse_template(value)
        if template.constant is None:
            more.append((name, renderer(template)))
        else:
            known.append(edit(name, template.constant.encode(), REQUEST_OWN))
    holds = None if variant.when is None else predicate(variant.when)
    return Choice(variant.name, _token(route, variant.name, secret), holds, below if variant.weight else 0,
                  Edits(known) if known else None, _setter(more) if more else None)


def _setter(fields):
    def set_fields(x):
        for name, render in fields:
            x.set_request_header(name, render(x, None))
    return set_fields


def _token(str route, str variant, str secret):
    """What stands for a variant in the cookie: says nothing, and with a secret nobody else can make it."""
    digest = hmac.new(secret.encode(), f"{route}\0{variant}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest[:15]).decode()
