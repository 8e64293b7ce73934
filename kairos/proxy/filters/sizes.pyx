"""Sizes that are refused: of targets, header fields, and of bodies while they stream. Nothing is held for it.

What is announced is judged at once; what is not, when it comes: a request gets 413 and its upstream connection ends
early, a response 502 or, if its head went out, a cut connection.
"""

from libc.stdint cimport int64_t

from kairos._speedups.http1 cimport Span, next_field
from kairos.proxy.exchange cimport BodyPipe, Exchange, Filter


cdef class Sizes(Filter):
    """Made from a policies.sizes.SizeLimits; `own` is the route's body_bytes, which goes before it."""

    def __init__(self, spec, own=None):
        self.target = spec.target
        self.parameters = spec.query_parameters
        self.header_bytes = spec.header_bytes
        self.header_count = spec.header_count
        self.rate = -1 if spec.upload_rate is None else spec.upload_rate
        self.request_body = -1 if spec.request_body is None or own is not None else spec.request_body
        self.response_body = spec.response_body
        self.types = {kind.lower(): limit for kind, limit in spec.types.items()}

    cpdef object on_request(self, Exchange x):
        self._head(x)
        if not x.finished and (x.head.chunked or x.head.content_length > 0):
            self._body(x)
        return None

    cdef int _head(self, Exchange x) except -1:
        cdef int64_t size = 0, count = 0
        cdef Py_ssize_t pos = x.head.fields
        cdef Span name, value
        if self.target and x.head.target.end - x.head.target.start > self.target:
            return x.fail("uri_too_long")
        if self.parameters and x.query_string.count(b"&") >= self.parameters:
            return x.fail("uri_too_long")
        if self.header_bytes or self.header_count:
            while next_field(x.base, &x.head, &pos, &name, &value):
                count += 1
                size += name.end - name.start + value.end - value.start
            if (self.header_bytes and size > self.header_bytes) or (self.header_count and count > self.header_count):
                return x.fail("head_too_large")
        return 0

    cdef int _body(self, Exchange x) except -1:
        cdef object limit = None
        if self.rate >= 0:
            x.pace_body(self.rate)
        if self.types:
            kind = (x.header(b"content-type") or b"").partition(b";")[0].strip().lower().decode("latin-1")
            limit = self.types.get(kind)
            if limit is None:
                limit = self.types.get(kind.partition("/")[0] + "/*")
        if limit is None and self.request_body >= 0:
            limit = self.request_body
        if limit is not None:
            x.limit_body(limit)
        return 0


class SizesBothWays(Sizes):
    """One that also has a limit on responses."""

    def on_response(self, Exchange x):
        cdef Meter meter
        cdef Sizes sizes = self
        if not x.from_upstream or x.status == 101:
            return
        if x.head.method != 1 and x.body_length > sizes.response_body:
            x.fail_as("upstream_too_large")
        elif x.body_length < 0:
            meter = Meter.__new__(Meter)
            meter.x = x
            meter.left = sizes.response_body
            x.add_body_pipe(meter, tap=True)


cdef class Meter(BodyPipe):
    """Counts a response whose length nobody announced."""

    cpdef bytes feed(self, bytes data):
        self.left -= len(data)
        if self.left >= 0:
            return data
        if self.x is not None:
            self.x.fail_as("upstream_too_large")
        return b""

    cpdef bytes finish(self):
        self.x = None
        return b""

    cpdef object abort(self):
        self.x = None


def build(site):
    """The filter of a route with size limits."""
    spec = site.policies.size_limits
    if spec is None:
        return None
    return (SizesBothWays if spec.response_body else Sizes)(spec, site.route.body_bytes)
