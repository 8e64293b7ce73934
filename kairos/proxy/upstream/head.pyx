"""The request head towards a backend.

Rules here: it is built once per attempt, in scratch, from the bytes that were read; framing and forwarding fields are
ours (RFC 9110 section 7.6, RFC 7239), everything else is copied as it stands.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcpy

from kairos._speedups.http1 cimport (
    C_NAMES, Head, REQUEST, Span, copy_fields, cut_named, equals, has_token, next_field
)
from kairos.proxy.edits cimport edit_lines
from kairos.proxy.exchange cimport Exchange, Plan


cdef inline char* _put(char* out, const char* text, Py_ssize_t n) noexcept nogil:
    memcpy(out, text, n)
    return out + n


cdef Py_ssize_t write_head(Exchange x, bytes authority, char** start) except -2:
    """Build the upstream request head in scratch. Its length, or -1 when the client's cannot be taken apart."""
    cdef Head* head = &x.head
    cdef Plan plan = x.plan
    cdef Py_ssize_t path = plan.template.size(&x.match) if x.own_target is None else len(x.own_target)
    cdef bytes names, edits = b""
    cdef bint trailers
    cdef char* out
    if head.connection & C_NAMES and cut_named(x.base, head, NULL, 0, REQUEST) < 0:
        return -1
    if x.request_edits is not None:
        names, edits = edit_lines(x.request_edits)
        if cut_named(x.base, head, PyBytes_AS_STRING(names), len(names), REQUEST) < 0:
            return -1
    # twice the head: Host, Via, X-Forwarded-* and Forwarded may be written from its parts more than once
    start[0] = x.runtime.room(3 * head.length + path + len(authority) + len(edits) + len(plan.settings.via) + 1024)
    out = _request_line(x, start[0], path)
    out = _host(x, authority, out)
    out = copy_fields(x.base, head, out)
    if x.own_length >= 0:
        out += snprintf(out, 48, b"Content-Length: %lld\r\n", <long long>x.own_length)
    elif head.chunked:
        out = _put(out, b"Transfer-Encoding: chunked\r\n", 28)
    elif head.content_length >= 0:
        out += snprintf(out, 48, b"Content-Length: %lld\r\n", <long long>head.content_length)
    trailers = head.te.end > head.te.start and has_token(
        x.base + head.te.start, head.te.end - head.te.start, b"trailers", 8)
    if x.upgrading:
        out = _put(out, b"Upgrade: websocket\r\nConnection: Upgrade\r\n", 41)
    elif trailers:
        out = _put(out, b"TE: trailers\r\nConnection: TE\r\n", 30)
    if x.sends_chunks() and head.trailer.end > head.trailer.start:
        out = _field(out, b"Trailer: ", 9, x.base, head.trailer)
    out = _forwarding(x, out)
    out = _put(out, PyBytes_AS_STRING(edits), len(edits))
    out = _put(out, b"\r\n", 2)
    return out - start[0]


cdef char* _request_line(Exchange x, char* out, Py_ssize_t room) noexcept:
    cdef Head* head = &x.head
    cdef Py_ssize_t n = head.verb.end
    cdef Py_ssize_t query = head.target.end - x.query
    out = _put(out, x.base, n)
    out[0] = c" "
    out += 1
    if x.own_target is not None:
        out = _put(out, PyBytes_AS_STRING(x.own_target), room)
        return _put(out, b" HTTP/1.1\r\n", 11)
    out += x.plan.template.render(x.path_start, &x.match, out, room)
    if query > 1:
        out = _put(out, x.base + x.query, query)
        if x.plan.template.has_query:
            (out - query)[0] = c"&"
    return _put(out, b" HTTP/1.1\r\n", 11)


cdef inline char* _field(char* out, const char* name, Py_ssize_t n, const char* base, Span value) noexcept nogil:
    out = _put(out, name, n)
    out = _put(out, base + value.start, value.end - value.start)
    return _put(out, b"\r\n", 2)


cdef char* _host(Exchange x, bytes authority, char* out) noexcept:
    if x.plan.preserve_host and x.head.host.end > x.head.host.start:
        return _field(out, b"Host: ", 6, x.base, x.head.host)
    out = _put(out, b"Host: ", 6)
    out = _put(out, PyBytes_AS_STRING(authority), PyBytes_GET_SIZE(authority))
    return _put(out, b"\r\n", 2)


cdef char* _forwarding(Exchange x, char* out) noexcept:
    """X-Forwarded-*, Forwarded, Via and X-Request-Id: what a trusted peer says is kept and added to, else ours."""
    cdef Head* head = &x.head
    cdef bytes via = x.plan.settings.via
    cdef bint trusted = x.trusted_peer()
    cdef Py_ssize_t n = 0
    cdef const char* text = x.down.address(&n)
    out = _put(out, b"X-Forwarded-For: ", 17)
    if trusted and head.forwarded_for_lines:
        out = _joined(x, b"x-forwarded-for", 15, out)
    out = _put(out, text, n)
    if trusted and head.forwarded_proto.end > head.forwarded_proto.start:
        out = _put(out, b"\r\n", 2)
        out = _field(out, b"X-Forwarded-Proto: ", 19, x.base, head.forwarded_proto)
    else:
        out = _put(out, b"\r\nX-Forwarded-Proto: https\r\n" if x.down.secure else b"\r\nX-Forwarded-Proto: http\r\n",
                   28 if x.down.secure else 27)
    if trusted and head.forwarded_host.end > head.forwarded_host.start:
        out = _field(out, b"X-Forwarded-Host: ", 18, x.base, head.forwarded_host)
    elif head.host.end > head.host.start:
        out = _field(out, b"X-Forwarded-Host: ", 18, x.base, head.host)
    if trusted and head.forwarded_port.end > head.forwarded_port.start:
        out = _field(out, b"X-Forwarded-Port: ", 18, x.base, head.forwarded_port)
    elif x.down.local_port:
        out += snprintf(out, 32, b"X-Forwarded-Port: %d\r\n", x.down.local_port)
    out = _forwarded(x, out, text, n, trusted)
    if via:
        out = _put(out, b"Via: 1.1 " if head.minor else b"Via: 1.0 ", 9)
        out = _put(out, PyBytes_AS_STRING(via), PyBytes_GET_SIZE(via))
        out = _put(out, b"\r\n", 2)
    text = x.id_text(&n)
    out = _put(out, b"X-Request-Id: ", 14)
    out = _put(out, text, n)
    return _put(out, b"\r\n", 2)


cdef char* _joined(Exchange x, const char* name, Py_ssize_t n, char* out) noexcept:
    """All values of a field, each with ", " behind it."""
    cdef Py_ssize_t pos = x.head.fields
    cdef Span key, value
    while next_field(x.base, &x.head, &pos, &key, &value):
        if value.end > value.start and equals(x.base + key.start, key.end - key.start, name, n):
            out = _put(out, x.base + value.start, value.end - value.start)
            out = _put(out, b", ", 2)
    return out


cdef char* _forwarded(Exchange x, char* out, const char* address, Py_ssize_t n, bint trusted) noexcept:
    """RFC 7239: for, host and proto of this hop; addresses of IPv6 and hosts with a port need quotes."""
    cdef bint six = memchr(address, c":", n) != NULL
    out = _put(out, b"Forwarded: ", 11)
    if trusted and x.head.forwarded.end > x.head.forwarded.start:
        out = _joined(x, b"forwarded", 9, out)
    out = _put(out, b"for=\"[" if six else b"for=", 6 if six else 4)
    out = _put(out, address, n)
    if six:
        out = _put(out, b"]\"", 2)
    if x.head.host.end > x.head.host.start:
        out = _put(out, b";host=\"", 7)
        out = _put(out, x.base + x.head.host.start, x.head.host.end - x.head.host.start)
        out = _put(out, b"\"", 1)
    return _put(out, b";proto=https\r\n" if x.down.secure else b";proto=http\r\n", 14 if x.down.secure else 13)
