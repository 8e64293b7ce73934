"""Security headers: those the backend does not send itself, or (override) instead of its own.

The lines are made when the configuration is loaded, once for every set of headers that may be missing. A response
costs one pass over its field names; a set that is complete costs no copy.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint64_t

from kairos._speedups.http1 cimport Span, equals, next_field
from kairos.proxy.edits cimport Edit, Edits
from kairos.proxy.exchange cimport Exchange, Filter

_TEXTS = (
    ("content_security_policy", "Content-Security-Policy"),
    ("content_security_policy_report_only", "Content-Security-Policy-Report-Only"),
    ("permissions_policy", "Permissions-Policy"),
    ("cross_origin_opener_policy", "Cross-Origin-Opener-Policy"),
    ("cross_origin_embedder_policy", "Cross-Origin-Embedder-Policy"),
    ("cross_origin_resource_policy", "Cross-Origin-Resource-Policy"),
    ("xss_protection", "X-XSS-Protection"),
)


def headers_of(spec):
    """What a section asks for but for HSTS, as (name, value)."""
    if spec.content_type_options:
        yield "X-Content-Type-Options", "nosniff"
    if spec.frame_options != "off":
        yield "X-Frame-Options", spec.frame_options
    if spec.referrer_policy != "off":
        yield "Referrer-Policy", spec.referrer_policy
    for key, name in _TEXTS:
        value = getattr(spec, key)
        if value is not None:
            yield name, value


def hsts_value(hsts):
    """RFC 6797 section 6.1."""
    return f"max-age={hsts.max_age}" + "; includeSubDomains" * hsts.include_subdomains + "; preload" * hsts.preload


cdef class SecurityHeadersFilter(Filter):
    """A security_headers section."""

    def __init__(self, spec):
        wanted = [(name.lower().encode(), f"{name}: {value}\r\n".encode()) for name, value in headers_of(spec)]
        self._hsts = None if spec.hsts is None else f"Strict-Transport-Security: {hsts_value(spec.hsts)}\r\n".encode()
        if spec.hsts is not None:
            wanted.append((b"strict-transport-security", self._hsts))
        self._names = [name for name, _ in wanted]
        self._lines = [line for _, line in wanted]
        removed = [name.lower().encode() for name in spec.remove] + (self._names if spec.override else [])
        self._removed = b",".join(removed)
        self._override = spec.override
        self._made = {}
        self._lengths = 0
        for name in self._names:
            self._lengths |= <uint64_t>1 << len(name)

    cpdef object on_response(self, Exchange x):
        cdef uint64_t there = 0
        cdef bytes lines
        if self._hsts is not None and not x.encrypted():
            there = <uint64_t>1 << (len(self._names) - 1)
        there |= self._sent(x)
        lines = self._made.get(there)
        if lines is None:
            lines = self._made[there] = b"".join(
                [line for at, line in enumerate(self._lines) if not there >> at & 1])
        if lines:
            x.add_response_lines(lines)
        if self._removed:
            x.cut_response_fields(self._removed)
        return None

    cdef uint64_t _sent(self, Exchange x) except? 0:
        """A bit for each of the headers that the response has, or that another filter decided on."""
        cdef uint64_t there = 0
        cdef Py_ssize_t pos
        cdef Span name, value
        if x.response_edits is not None:
            for item in x.response_edits:
                for single in (<Edits>item).items if type(item) is Edits else (item,):
                    there |= self._bit((<Edit>single).lower, len((<Edit>single).lower))
        if self._override:
            return there
        if x.response_head == NULL:
            for field in x.answer_headers or ():
                there |= self._bit(field[0], len(field[0]))
            return there
        pos = x.response_head.fields
        while next_field(x.response_base, x.response_head, &pos, &name, &value):
            if self._lengths >> (name.end - name.start & 63) & 1:
                there |= self._bit(x.response_base + name.start, name.end - name.start)
        return there

    cdef uint64_t _bit(self, const char* name, Py_ssize_t n) noexcept:
        cdef Py_ssize_t at
        cdef bytes wanted
        for at in range(len(self._names)):
            wanted = <bytes>self._names[at]
            if n == len(wanted) and equals(name, n, PyBytes_AS_STRING(wanted), n):
                return <uint64_t>1 << at
        return 0


def build(site):
    """The filter of a route, unless its section is turned off or asks for nothing."""
    spec = site.policies.security_headers
    if spec is None:
        return None
    return SecurityHeadersFilter(spec) if any(headers_of(spec)) or spec.hsts or spec.remove else None
