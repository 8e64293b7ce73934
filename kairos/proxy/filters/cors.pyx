"""Cross-origin resource sharing as the Fetch standard has it: who may read answers, and answers to preflights.

    preflight           answered here: the route is the one that serves the method asked for (Exchange.begin), and no
                        filter behind this one runs, so that nobody is asked for credentials a browser must not send
    any response        gets Access-Control-Allow-Origin and its companions where the origin is allowed, and
                        `Vary: Origin` wherever another origin would get something else; also 401, 429 and 5xx
    what a backend says of Access-Control-* is left out: two of them are none to a browser

The lines for an origin are made once. Of a request without Origin only that one field is looked for.
"""

from kairos._speedups.http1 cimport Span, equals, next_field
from kairos.proxy.exchange cimport Exchange, Filter

from kairos.config.weborigin import MAX_ORIGIN, WebOrigins
from kairos.proxy.exchange import Response

cdef enum:
    MAX_KNOWN = 1024            # origins whose lines are kept; a flood of made-up ones costs the matching each
    MAX_ECHOED = 1024           # bytes of Access-Control-Request-Headers that are repeated

cdef str FIELDS = (
    "access-control-allow-origin,access-control-allow-credentials,access-control-expose-headers,"
    "access-control-allow-methods,access-control-allow-headers,access-control-max-age,"
    "access-control-allow-private-network"
)
cdef bytes OWN = FIELDS.encode()
_HEADER_LIST = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ, \t")


cdef class CorsFilter(Filter):
    """A cors section, for a route that serves these methods."""

    def __init__(self, spec, methods):
        self.answers_preflights = True
        self._origins = WebOrigins(spec.allowed_origins, spec.allowed_origin_patterns)
        self._open = self._origins.any and not spec.allow_credentials
        self._credentials = spec.allow_credentials
        self._exposed = b"".join(_line("Access-Control-Expose-Headers", spec.exposed_headers))
        self._others = b"Vary: Origin\r\n"
        if self._open:
            self._others = b"Access-Control-Allow-Origin: *\r\n" + self._exposed
        self._known = {}
        self._methods = spec.allowed_methods or methods
        self._headers = spec.allowed_headers
        self._private_network = spec.allow_private_network
        self._max_age = spec.max_age

    cpdef object on_request(self, Exchange x):
        return self._preflight(x) if x.preflight else None

    cpdef object on_response(self, Exchange x):
        cdef Span origin = x.request_field(b"origin", 6)
        if origin.end == origin.start or self._open:
            x.add_response_lines(self._others)
        else:
            x.add_response_lines(self._lines(x.base[origin.start:origin.end]))
        if x.response_head != NULL and _says_something(x):
            x.cut_response_fields(OWN)
        return None

    cdef bytes _lines(self, bytes origin):
        """For an origin; most are asked for again and again."""
        cdef bytes lines = self._known.get(origin)
        if lines is None:
            lines = self._made(origin)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            if len(origin) <= MAX_ORIGIN:
                self._known[origin] = lines
        return lines

    cdef bytes _made(self, bytes origin):
        if not self._origins.lists(origin.decode("latin-1")):
            return self._others
        credentials = b"Access-Control-Allow-Credentials: true\r\n" if self._credentials else b""
        return b"Access-Control-Allow-Origin: %s\r\n%s%sVary: Origin\r\n" % (origin, credentials, self._exposed)

    cdef object _preflight(self, Exchange x):
        """What on_response adds says for whom; this says what they may do. Of others browsers learn nothing."""
        vary = b"Access-Control-Request-Method, Access-Control-Request-Headers"
        headers = [(b"Vary", vary + (b", Access-Control-Request-Private-Network" if self._private_network else b""))]
        origin = x.header(b"origin")
        if self._open or self._lines(origin) is not self._others:
            headers += self._allowed(x)
        return Response(204, b"", headers)

    def _allowed(self, Exchange x):
        wanted = x.header(b"access-control-request-method") or b""
        methods = wanted if "*" in self._methods else ", ".join(self._methods).encode()
        yield b"Access-Control-Allow-Methods", methods
        asked = x.header(b"access-control-request-headers") or b""
        if "*" not in self._headers:
            if self._headers:
                yield b"Access-Control-Allow-Headers", ", ".join(self._headers).encode()
        elif asked and len(asked) <= MAX_ECHOED and _HEADER_LIST.issuperset(asked):
            yield b"Access-Control-Allow-Headers", asked  # by name, for "*" leaves out Authorization
        if self._private_network and x.header(b"access-control-request-private-network") == b"true":
            yield b"Access-Control-Allow-Private-Network", b"true"
        if self._max_age is not None:
            yield b"Access-Control-Max-Age", b"%d" % self._max_age


cdef bint _says_something(Exchange x) noexcept:
    """Whether a response from upstream has an Access-Control-* field."""
    cdef Py_ssize_t pos = x.response_head.fields
    cdef Span name, value
    while next_field(x.response_base, x.response_head, &pos, &name, &value):
        if name.end - name.start > 15 and equals(x.response_base + name.start, 15, b"access-control-", 15):
            return True
    return False


def _line(name, values):
    if values:
        yield f"{name}: {', '.join(values)}\r\n".encode()


def build(site):
    """The filter of a route with a cors section. A handshake of WebSocket has no CORS."""
    spec = site.policies.cors
    if spec is None or site.route.protocol == "websocket":
        return None
    return CorsFilter(spec, site.route.methods)
