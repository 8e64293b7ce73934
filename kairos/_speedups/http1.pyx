"""Strict HTTP/1.x head scanner and chunked decoder (RFC 9112 sections 2 to 7).

The scanner takes a subset of what llhttp takes, with the same meaning; it notes where the fields that matter to a
proxy stand, and which lines must not be copied on (hop-by-hop and forwarding fields, RFC 9110 section 7.6.1).
Rules here: every read is bounded by `end`; nothing is allocated; a head is judged whole or not at all.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memchr, memcmp, memcpy, memset


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* First byte below 0x20 or equal to 0x7f, or `end`. Eight bytes at a time where the byte order lets ctz find it. */
    static inline const char *kairos_find_ctl(const char *p, const char *end) {
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        const uint64_t ones = 0x0101010101010101ULL, high = 0x8080808080808080ULL;
        while (end - p >= 8) {
            uint64_t x, y, t;
            memcpy(&x, p, 8);
            y = x ^ (ones * 0x7f);
            t = (((x - ones * 0x20) & ~x) | ((y - ones) & ~y)) & high;
            if (t) return p + (__builtin_ctzll(t) >> 3);
            p += 8;
        }
    #endif
        while (p < end && (unsigned char)*p >= 0x20 && *p != 0x7f) p++;
        return p;
    }
    static inline const char *kairos_memmem4(const char *p, const char *end) {
        while (end - p >= 4) {
            p = memchr(p, '\\r', (size_t)(end - p - 3));
            if (!p) return 0;
            if (!memcmp(p, "\\r\\n\\r\\n", 4)) return p;
            p++;
        }
        return 0;
    }
    """
    const char* find_ctl "kairos_find_ctl"(const char* p, const char* end) noexcept nogil
    const char* find_blank_line "kairos_memmem4"(const char* p, const char* end) noexcept nogil


# Classes of bytes in field names (RFC 9110 section 5.6.2): 0 no tchar, 1 letter, digit or "-", 2 any other tchar.
cdef uint8_t NAME[256]
# Bytes allowed in a request target: visible ASCII but `#`.
cdef uint8_t TARGET[256]
# Value of a hex digit, 255 for any other byte.
cdef uint8_t HEX[256]


cdef void _fill_tables() noexcept:
    cdef int c
    memset(HEX, 255, 256)
    for c in range(256):
        NAME[c] = 0
        TARGET[c] = 1 if 0x21 <= c <= 0x7E and c != 0x23 else 0
    for c in b"!#$%&'*+.^_`|~":
        NAME[c] = 2
    for c in b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz":
        NAME[c] = 1
    for c in range(10):
        HEX[48 + c] = c
    for c in range(6):
        HEX[65 + c] = 10 + c
        HEX[97 + c] = 10 + c


_fill_tables()


cdef bint equals(const char* p, Py_ssize_t n, const char* lower, Py_ssize_t m) noexcept nogil:
    """Whether p[:n] is `lower`, ASCII case ignored; `lower` holds lower-case letters, digits and "-" only."""
    cdef Py_ssize_t i
    if n != m:
        return False
    for i in range(n):
        if (p[i] | 0x20) != lower[i]:
            return False
    return True


cdef bint has_token(const char* p, Py_ssize_t n, const char* lower, Py_ssize_t m) noexcept nogil:
    """Whether the comma-separated list p[:n] holds the token `lower`, case ignored (parameters are not looked at)."""
    cdef const char* end = p + n
    cdef const char* stop
    while p < end:
        while p < end and (p[0] == c" " or p[0] == c"\t" or p[0] == c","):
            p += 1
        stop = p
        while stop < end and stop[0] != c"," and stop[0] != c" " and stop[0] != c"\t":
            stop += 1
        if equals(p, stop - p, lower, m):
            return True
        p = stop
    return False


# ---- field lines ----------------------------------------------------------------------------------------------

cdef bint cut_line(Head* head, int32_t start, int32_t end) noexcept nogil:
    """Leave head[start:end] out of copies. Lines come in order; False when there are too many runs."""
    cdef Span* last
    if head.ncuts > 0:
        last = &head.cuts[head.ncuts - 1]
        if last.end == start:
            last.end = end
            return True
        if head.ncuts >= MAX_CUTS:
            return False
    head.cuts[head.ncuts].start = start
    head.cuts[head.ncuts].end = end
    head.ncuts += 1
    return True


cdef int _read_length(Head* head, const char* p, Py_ssize_t n) noexcept nogil:
    """Content-Length = 1*DIGIT, once (RFC 9110 section 8.6); 18 digits keep it inside int64."""
    cdef int64_t value = 0
    cdef Py_ssize_t i
    if n < 1 or n > 18 or head.content_length >= 0:
        return BAD_LENGTH
    for i in range(n):
        if p[i] < c"0" or p[i] > c"9":
            return BAD_LENGTH
        value = value * 10 + (p[i] - c"0")
    head.content_length = value
    return 0


cdef void _read_connection(Head* head, const char* p, Py_ssize_t n) noexcept nogil:
    cdef const char* end = p + n
    cdef const char* stop
    cdef Py_ssize_t size
    while p < end:
        while p < end and (p[0] == c" " or p[0] == c"\t" or p[0] == c","):
            p += 1
        stop = p
        while stop < end and stop[0] != c"," and stop[0] != c" " and stop[0] != c"\t":
            stop += 1
        size = stop - p
        if equals(p, size, b"close", 5):
            head.connection |= C_CLOSE
        elif equals(p, size, b"keep-alive", 10):
            head.connection |= C_KEEP_ALIVE
        elif equals(p, size, b"upgrade", 7):
            head.connection |= C_UPGRADE
        elif size > 0:
            head.connection |= C_NAMES
        p = stop


cdef inline void _mark(Span* span, int32_t start, int32_t end) noexcept nogil:
    span.start = start
    span.end = end


cdef enum:
    FOLDED = 24         # bytes of the longest name that _folds_into_ours() compares as a whole


cdef enum Verdict:
    COPY = 0
    CUT = 1


cdef inline int _mark_only(Span* span, int32_t start, int32_t end, int verdict) noexcept nogil:
    """Note a field that may stand once: of two, one reader takes the first and another the last."""
    if span.end:
        return BAD_FIELD
    _mark(span, start, end)
    return verdict


cdef int _note_framing(Head* head, const char* base, int32_t start, int32_t name_end,
                       int32_t v, int32_t v_end) noexcept nogil:
    """The fields both roles share: framing and hop-by-hop. COPY, CUT or an error."""
    cdef const char* name = base + start
    cdef Py_ssize_t n = name_end - start
    cdef int code
    if n == 10:
        if equals(name, n, b"connection", 10):
            _read_connection(head, base + v, v_end - v)
            return CUT
        return CUT if equals(name, n, b"keep-alive", 10) else COPY
    if n == 14 and equals(name, n, b"content-length", 14):
        code = _read_length(head, base + v, v_end - v)
        return code if code < 0 else CUT
    if n == 17 and equals(name, n, b"transfer-encoding", 17):
        # a blank behind it as well: "chunked" and a tab is no chunked body to llhttp
        if head.chunked or base[v_end] != c"\r" or not equals(base + v, v_end - v, b"chunked", 7):
            return BAD_ENCODING
        head.chunked = True
        return CUT
    if n == 7:
        if equals(name, n, b"upgrade", 7):
            _mark(&head.upgrade, v, v_end)
            return CUT
        if equals(name, n, b"trailer", 7):
            _mark(&head.trailer, v, v_end)
            return CUT
    elif n == 16 and equals(name, n, b"proxy-connection", 16):
        return CUT
    return COPY


cdef int _note_forwarding(Head* head, const char* name, Py_ssize_t n, int32_t v, int32_t v_end) noexcept nogil:
    """X-Forwarded-*: always written anew, whatever the suffix."""
    if n == 15 and equals(name, n, b"x-forwarded-for", 15):
        head.forwarded_for_lines += 1
        _mark(&head.forwarded_for, v, v_end)
    elif n == 16 and equals(name, n, b"x-forwarded-host", 16):
        _mark(&head.forwarded_host, v, v_end)
    elif n == 16 and equals(name, n, b"x-forwarded-port", 16):
        _mark(&head.forwarded_port, v, v_end)
    elif n == 17 and equals(name, n, b"x-forwarded-proto", 17):
        _mark(&head.forwarded_proto, v, v_end)
    return CUT


cdef int override_of(const char* name, Py_ssize_t n) noexcept nogil:
    """What applications take a field of this name for, in place of what the request says itself: O_*, or 0."""
    if n == 6:
        return O_HOST if equals(name, n, b"x-host", 6) else 0
    if n == 10:
        return O_PATH if equals(name, n, b"x-real-url", 10) else 0
    if n == 12:
        return O_SCHEME if equals(name, n, b"x-url-scheme", 12) else 0
    if n == 13:
        if equals(name, n, b"x-rewrite-url", 13):
            return O_PATH
        return O_METHOD if equals(name, n, b"x-http-method", 13) else 0
    if n == 14:
        return O_PATH if (
            equals(name, n, b"x-original-url", 14) or equals(name, n, b"x-original-uri", 14)
            or equals(name, n, b"x-override-url", 14)
        ) else 0
    if n == 15:
        if equals(name, n, b"front-end-https", 15):
            return O_SCHEME
        return O_HOST if equals(name, n, b"x-original-host", 15) else 0
    if n == 17:
        return O_METHOD if equals(name, n, b"x-method-override", 17) else 0
    if n == 20:
        return O_HOST if equals(name, n, b"x-http-host-override", 20) else 0
    return O_METHOD if n == 22 and equals(name, n, b"x-http-method-override", 22) else 0


cdef bint _folds_into_ours(const char* name, Py_ssize_t n, int overrides) noexcept nogil:
    """Whether an application that takes other characters for `-` reads a field that only the gateway may say."""
    cdef char folded[FOLDED]
    cdef Py_ssize_t i
    for i in range(min(n, FOLDED)):
        folded[i] = name[i] if NAME[<uint8_t>name[i]] & 1 else c"-"
    if n >= 12 and equals(folded, 12, b"x-forwarded-", 12):
        return True
    if n > FOLDED:
        return False
    return equals(folded, n, b"x-real-ip", 9) or override_of(folded, n) & ~overrides != 0


cdef int _note_request(Head* head, const char* base, int32_t start, int32_t name_end,
                       int32_t v, int32_t v_end, int overrides) noexcept nogil:
    """Note one request field by the length and first letter of its name. COPY, CUT or an error."""
    cdef const char* name = base + start
    cdef Py_ssize_t n = name_end - start
    cdef char first = name[0] | 0x20
    if first == c"h":
        if n == 4 and equals(name, n, b"host", 4):
            if head.host.end:
                return BAD_HOST
            _mark(&head.host, v, v_end)
            return CUT
        return CUT if n == 14 and equals(name, n, b"http2-settings", 14) else COPY
    if first == c"x":
        if n > 12 and equals(name, 12, b"x-forwarded-", 12):
            return _note_forwarding(head, name, n, v, v_end)
        if n == 12 and equals(name, n, b"x-request-id", 12):
            _mark(&head.request_id, v, v_end)
            return CUT
        if n == 9 and equals(name, n, b"x-real-ip", 9):
            return CUT
        return CUT if override_of(name, n) & ~overrides else COPY
    if first == c"u" and n == 10 and equals(name, n, b"user-agent", 10):
        _mark(&head.user_agent, v, v_end)
        return COPY
    if first == c"r" and n == 7 and equals(name, n, b"referer", 7):
        _mark(&head.referer, v, v_end)
        return COPY
    if first == c"a" and n == 13 and equals(name, n, b"authorization", 13):
        return _mark_only(&head.authorization, v, v_end, COPY)
    if first == c"e" and n == 6 and equals(name, n, b"expect", 6):
        return _mark_only(&head.expect, v, v_end, CUT)
    if first == c"f":
        if n == 9 and equals(name, n, b"forwarded", 9):
            _mark(&head.forwarded, v, v_end)
            return CUT
        return CUT if override_of(name, n) & ~overrides else COPY
    if first == c"t":
        if n == 2 and equals(name, n, b"te", 2):
            _mark(&head.te, v, v_end)
            return CUT
        if n == 11 and equals(name, n, b"traceparent", 11):
            _mark(&head.traceparent, v, v_end)
            return COPY
    elif first == c"s":
        if n == 17 and equals(name, n, b"sec-websocket-key", 17):
            return _mark_only(&head.ws_key, v, v_end, COPY)
        if n == 21 and equals(name, n, b"sec-websocket-version", 21):
            return _mark_only(&head.ws_version, v, v_end, COPY)
        return COPY
    elif first == c"p":
        if (n == 5 and equals(name, n, b"proxy", 5)) or (n == 19 and equals(name, n, b"proxy-authorization", 19)):
            return CUT
    return _note_framing(head, base, start, name_end, v, v_end)


cdef int _note_response(Head* head, const char* base, int32_t start, int32_t name_end,
                        int32_t v, int32_t v_end) noexcept nogil:
    cdef const char* name = base + start
    cdef Py_ssize_t n = name_end - start
    if n == 12:
        if equals(name, n, b"content-type", 12):
            _mark(&head.content_type, v, v_end)
        elif equals(name, n, b"x-request-id", 12):
            return CUT  # the gateway's own goes to the client
        return COPY
    return _note_framing(head, base, start, name_end, v, v_end)


cdef Py_ssize_t _scan_fields(const char* base, const char* p, const char* end, const Limits* limits, Head* head,
                             int role) noexcept nogil:
    """From the first field line to the empty line. Length of the head, NEED_MORE or an error."""
    cdef const char* line
    cdef const char* name_end
    cdef const char* value
    cdef const char* q
    cdef const char* v_end
    cdef uint8_t kinds
    cdef int verdict
    head.fields = <int32_t>(p - base)
    while True:
        if p >= end:
            return NEED_MORE
        line = p
        if p[0] == c"\r":
            if end - p < 2:
                return NEED_MORE
            if p[1] != c"\n":
                return BAD_FIELD
            head.fields_end = <int32_t>(p - base)
            head.length = head.fields_end + 2
            return head.length
        kinds = 0
        while p < end and NAME[<uint8_t>p[0]]:
            kinds |= NAME[<uint8_t>p[0]]
            p += 1
        if p >= end:
            return NEED_MORE
        if p[0] != c":" or p == line:
            return BAD_FIELD
        name_end = p
        p += 1
        while p < end and (p[0] == c" " or p[0] == c"\t"):
            p += 1
        value = p
        q = find_ctl(p, end)
        while q < end and q[0] == c"\t":
            q = find_ctl(q + 1, end)
        if end - q < 2:
            return NEED_MORE if q >= end or q[0] == c"\r" else BAD_FIELD
        if q[0] != c"\r" or q[1] != c"\n":
            return BAD_FIELD
        p = q + 2
        head.count += 1
        if head.count > limits.header_count:
            return TOO_MANY_FIELDS
        if q - line > limits.line_bytes:
            return LINE_TOO_LONG
        if kinds & 2 and (not limits.underscores or (
                role == REQUEST and _folds_into_ours(line, name_end - line, limits.overrides))):
            verdict = CUT
        else:
            v_end = q
            while v_end > value and (v_end[-1] == c" " or v_end[-1] == c"\t"):
                v_end -= 1
            if role == REQUEST:
                verdict = _note_request(head, base, <int32_t>(line - base), <int32_t>(name_end - base),
                                        <int32_t>(value - base), <int32_t>(v_end - base), limits.overrides)
            else:
                verdict = _note_response(head, base, <int32_t>(line - base), <int32_t>(name_end - base),
                                         <int32_t>(value - base), <int32_t>(v_end - base))
            if verdict < 0:
                return verdict
        if verdict == CUT and not cut_line(head, <int32_t>(line - base), <int32_t>(p - base)):
            return TOO_MANY_FIELDS


cdef inline Py_ssize_t _framing(Head* head, Py_ssize_t n) noexcept nogil:
    """One meaning for the length of the body, or none (RFC 9112 section 6.3, without its leniency)."""
    if head.chunked:
        if head.content_length >= 0:
            return BAD_LENGTH
        if head.minor == 0:
            return BAD_ENCODING
    return n


# ---- start lines ------------------------------------------------------------------------------------------------

cdef inline int _method(const char* p, Py_ssize_t n) noexcept nogil:
    """Method of the token p[:n]; methods are case-sensitive (RFC 9110 section 9.1)."""
    if n == 3:
        if memcmp(p, b"GET", 3) == 0:
            return GET
        if memcmp(p, b"PUT", 3) == 0:
            return PUT
    elif n == 4:
        if memcmp(p, b"POST", 4) == 0:
            return POST
        if memcmp(p, b"HEAD", 4) == 0:
            return HEAD
    elif n == 5:
        if memcmp(p, b"PATCH", 5) == 0:
            return PATCH
        if memcmp(p, b"TRACE", 5) == 0:
            return TRACE
    elif n == 6 and memcmp(p, b"DELETE", 6) == 0:
        return DELETE
    elif n == 7 and memcmp(p, b"OPTIONS", 7) == 0:
        return OPTIONS
    return OTHER


cdef Py_ssize_t scan_request(const char* base, Py_ssize_t n, const Limits* limits, Head* head) noexcept nogil:
    """Scan one request head at base. Its length (> 0), NEED_MORE, UNUSUAL or an error of Scan."""
    cdef const char* end = base + n
    cdef const char* p = base
    cdef const char* start
    cdef Py_ssize_t result
    if n > limits.head_bytes:
        end = base + limits.head_bytes
    memset(head, 0, offset_of_cuts)
    head.content_length = -1
    while p < end and NAME[<uint8_t>p[0]]:
        p += 1
    if p >= end:
        return NEED_MORE if p - base <= 32 else BAD_START_LINE
    if p[0] != c" " or p == base:
        return BAD_START_LINE
    head.method = _method(base, p - base)
    head.verb.end = <int32_t>(p - base)
    p += 1
    start = p
    while p < end and TARGET[<uint8_t>p[0]]:
        p += 1
    if p - start > limits.line_bytes:
        return TARGET_TOO_LONG
    if p >= end:
        return NEED_MORE if n <= limits.head_bytes else TARGET_TOO_LONG
    if p[0] != c" " or p == start:
        return BAD_START_LINE
    head.target.start = <int32_t>(start - base)
    head.target.end = <int32_t>(p - base)
    if end - p < 11:
        return NEED_MORE if n <= limits.head_bytes else HEAD_TOO_LARGE
    if memcmp(p, b" HTTP/1.", 8) != 0 or (p[8] != c"0" and p[8] != c"1"):
        return UNUSUAL
    if p[9] != c"\r" or p[10] != c"\n":
        return BAD_START_LINE
    if head.method == OTHER or start[0] != c"/":
        return UNUSUAL
    head.minor = p[8] - c"0"
    result = _scan_fields(base, p + 11, end, limits, head, REQUEST)
    if result > 0:
        if head.host.end == 0 and head.minor == 1:
            return BAD_HOST
        return _framing(head, result)
    if result == NEED_MORE and n >= limits.head_bytes:
        return HEAD_TOO_LARGE
    return result


cdef Py_ssize_t scan_response(const char* base, Py_ssize_t n, const Limits* limits, Head* head) noexcept nogil:
    """Scan one response head at base. Its length (> 0), NEED_MORE or an error of Scan."""
    cdef const char* end = base + n
    cdef const char* p
    cdef Py_ssize_t result
    cdef int i
    if n > limits.head_bytes:
        end = base + limits.head_bytes
    memset(head, 0, offset_of_cuts)
    head.content_length = -1
    if n < 13:
        return NEED_MORE if memcmp(base, b"HTTP/1.", n if n < 7 else 7) == 0 else BAD_START_LINE
    if memcmp(base, b"HTTP/1.", 7) != 0 or (base[7] != c"0" and base[7] != c"1") or base[8] != c" ":
        return BAD_START_LINE
    head.minor = base[7] - c"0"
    for i in range(9, 12):
        if base[i] < c"0" or base[i] > c"9":
            return BAD_START_LINE
        head.status = head.status * 10 + (base[i] - c"0")
    if head.status < 100:
        return BAD_START_LINE
    p = base + 12
    if p[0] == c" ":
        p += 1
        head.reason.start = <int32_t>(p - base)
        p = find_ctl(p, end)
        while p < end and p[0] == c"\t":
            p = find_ctl(p + 1, end)
        head.reason.end = <int32_t>(p - base)
    if end - p < 2:
        return NEED_MORE if n < limits.head_bytes else HEAD_TOO_LARGE
    if p[0] != c"\r" or p[1] != c"\n":
        return BAD_START_LINE
    result = _scan_fields(base, p + 2, end, limits, head, RESPONSE)
    if result > 0:
        return _framing(head, result)
    if result == NEED_MORE and n >= limits.head_bytes:
        return HEAD_TOO_LARGE
    return result


cdef bint worth_scanning(const char* base, Py_ssize_t n, Py_ssize_t known) noexcept nogil:
    """Whether the bytes from `known` on end the start line or the head, or spoil it (a bare LF).

    So a head that drips in is scanned no more than a few times.
    """
    cdef const char* p = base + known
    cdef const char* end = base + n
    while p < end:
        p = <const char*>memchr(p, c"\n", end - p)
        if p == NULL:
            return False
        if p == base or p[-1] != c"\r" or (p - base >= 3 and p[-2] == c"\n" and p[-3] == c"\r"):
            return True
        if memchr(base, c"\n", known) == NULL:
            return True
        p += 1
    return False


cdef Py_ssize_t find_head_end(const char* base, Py_ssize_t n, Py_ssize_t start) noexcept nogil:
    """Offset after the first empty line at or behind `start`, or -1."""
    cdef const char* found
    if n - start < 4:
        return -1
    found = find_blank_line(base + start, base + n)
    return found - base + 4 if found != NULL else -1


# ---- what is done with a scanned head ---------------------------------------------------------------------------

cdef bint next_field(const char* base, const Head* head, Py_ssize_t* pos, Span* name, Span* value) noexcept nogil:
    """Walk the fields of a scanned head: *pos starts at head.fields. False at the end."""
    cdef const char* p = base + pos[0]
    cdef const char* end = base + head.fields_end
    cdef const char* stop
    if p >= end:
        return False
    stop = <const char*>memchr(p, c":", end - p)
    name.start = <int32_t>(p - base)
    name.end = <int32_t>(stop - base)
    p = stop + 1
    stop = <const char*>memchr(p, c"\r", base + head.length - p)
    pos[0] = stop + 2 - base
    while p < stop and (p[0] == c" " or p[0] == c"\t"):
        p += 1
    while stop > p and (stop[-1] == c" " or stop[-1] == c"\t"):
        stop -= 1
    value.start = <int32_t>(p - base)
    value.end = <int32_t>(stop - base)
    return True


cdef bint _protected(const char* p, Py_ssize_t n) noexcept nogil:
    """Fields that `Connection` may not remove: what identifies the client, the resource and the message."""
    return (
        equals(p, n, b"host", 4) or equals(p, n, b"content-type", 12) or equals(p, n, b"authorization", 13)
        or equals(p, n, b"cookie", 6) or equals(p, n, b"x-request-id", 12) or equals(p, n, b"content-encoding", 16)
        or equals(p, n, b"cache-control", 13) or equals(p, n, b"set-cookie", 10) or equals(p, n, b"via", 3)
        or (n >= 12 and equals(p, 12, b"x-forwarded-", 12))
    )


cdef bint _same(const char* p, const char* q, Py_ssize_t n) noexcept nogil:
    """Whether two names of one length are the same, ASCII case ignored."""
    cdef Py_ssize_t i
    for i in range(n):
        if (p[i] | 0x20) != (q[i] | 0x20):
            return False
    return True


cdef int _split_names(const char* base, int32_t at, int32_t end, Span* names, int count) noexcept nogil:
    """Add the names of the comma-separated list base[at:end]. How many there are now, -1 for more than MAX_NAMES."""
    cdef int32_t stop
    while at < end:
        while at < end and (base[at] == c" " or base[at] == c"\t" or base[at] == c","):
            at += 1
        stop = at
        while stop < end and base[stop] != c"," and base[stop] != c" " and base[stop] != c"\t":
            stop += 1
        if stop > at:
            if count == MAX_NAMES:
                return -1
            _mark(&names[count], at, stop)
            count += 1
        at = stop
    return count


cdef int _connection_names(const char* base, const Head* head, Span* names) noexcept nogil:
    """What the head's Connection fields list; found once, so that no head costs its square."""
    cdef Py_ssize_t pos = head.fields
    cdef Span key, value
    cdef int count = 0
    while count >= 0 and next_field(base, head, &pos, &key, &value):
        if equals(base + key.start, key.end - key.start, b"connection", 10):
            count = _split_names(base, value.start, value.end, names, count)
    return count


cdef bint _is_listed(const char* list_, const Span* names, int count, const char* name, Py_ssize_t n) noexcept nogil:
    cdef int i
    for i in range(count):
        if names[i].end - names[i].start == n and _same(list_ + names[i].start, name, n):
            return True
    return False


cdef int cut_named(const char* base, Head* head, const char* names, Py_ssize_t n, int role) noexcept nogil:
    """Rebuild the cuts so that fields in the list `names` (or, when NULL, in the Connection fields) are left out too.

    0, or TOO_MANY_FIELDS when the cuts do not fit.
    """
    cdef Span old[MAX_CUTS]
    cdef Span listed[MAX_NAMES]
    cdef const char* list_ = base if names == NULL else names
    cdef int count = head.ncuts
    cdef int listed_count
    cdef int i = 0
    cdef Py_ssize_t pos = head.fields
    cdef int32_t line
    cdef Span key, value
    cdef bint drop
    if names == NULL:
        listed_count = _connection_names(base, head, listed)
    else:
        listed_count = _split_names(names, 0, <int32_t>n, listed, 0)
    if listed_count < 0:
        return TOO_MANY_FIELDS
    memcpy(old, head.cuts, count * sizeof(Span))
    head.ncuts = 0
    line = head.fields
    while next_field(base, head, &pos, &key, &value):
        while i < count and old[i].end <= line:
            i += 1
        drop = i < count and old[i].start <= line
        if not drop and _is_listed(list_, listed, listed_count, base + key.start, key.end - key.start):
            drop = names != NULL or not _protected(base + key.start, key.end - key.start)
        if drop and not cut_line(head, line, <int32_t>pos):
            return TOO_MANY_FIELDS
        line = <int32_t>pos
    return 0


cdef char* copy_fields(const char* base, const Head* head, char* out) noexcept nogil:
    """Copy the field lines but for the cuts; `out` has room for head.length bytes. The position after them."""
    cdef int32_t pos = head.fields
    cdef int i
    cdef Py_ssize_t size
    for i in range(head.ncuts):
        size = head.cuts[i].start - pos
        if size > 0:
            memcpy(out, base + pos, size)
            out += size
        pos = head.cuts[i].end
    size = head.fields_end - pos
    if size > 0:
        memcpy(out, base + pos, size)
        out += size
    return out


# ---- chunked bodies (RFC 9112 section 7.1) ------------------------------------------------------------------------

cdef enum ChunkState:
    S_SIZE = 0
    S_EXTENSION = 1     # behind ";"
    S_EXTENSION_NAME = 2
    S_VALUE_START = 3   # behind "="
    S_VALUE = 4
    S_QUOTED = 5
    S_QUOTED_PAIR = 6   # behind a backslash
    S_QUOTED_END = 7
    S_SIZE_LF = 8
    S_DATA = 9
    S_DATA_CR = 10
    S_DATA_LF = 11
    S_TRAILER_START = 12
    S_TRAILER_NAME = 13
    S_TRAILER = 14
    S_TRAILER_LF = 15
    S_END_LF = 16
    S_DONE = 17


cdef enum:
    MAX_EXTENSION = 256      # bytes of one chunk's extensions, which are read over
    MAX_TRAILER = 8192       # bytes of the trailer section


cdef int _extension(int state, uint8_t c) noexcept nogil:
    """The state behind one more byte of the extensions (RFC 9112 section 7.1.1), -1 where it has no place."""
    if state == S_QUOTED and c == c'"':
        return S_QUOTED_END
    if state == S_QUOTED and c == c"\\":
        return S_QUOTED_PAIR
    if state == S_QUOTED or state == S_QUOTED_PAIR:
        return S_QUOTED if (c >= 0x20 and c != 0x7F) or c == c"\t" else -1
    if c == c"\r" and state != S_EXTENSION:
        return S_SIZE_LF
    if c == c";" and state != S_EXTENSION:
        return S_EXTENSION
    if c == c"=" and state == S_EXTENSION_NAME:
        return S_VALUE_START
    if c == c'"' and state == S_VALUE_START:
        return S_QUOTED
    if state == S_QUOTED_END or not NAME[c]:
        return -1
    return S_EXTENSION_NAME if state <= S_EXTENSION_NAME else S_VALUE


cdef int chunk_step(Chunks* d, const char* p, Py_ssize_t n, Py_ssize_t* used,
                    const char** data, Py_ssize_t* size) noexcept nogil:
    """Decode up to the next slice of payload. *used bytes of p were taken, whatever the event."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t take
    cdef Py_ssize_t trailer = -1
    cdef char c
    while i < n:
        if d.state == S_DATA:
            take = n - i
            if take > d.remaining:
                take = <Py_ssize_t>d.remaining
            data[0] = p + i
            size[0] = take
            d.remaining -= take
            if d.remaining == 0:
                d.state = S_DATA_CR
            used[0] = i + take
            return C_DATA
        c = p[i]
        i += 1
        if d.state == S_SIZE:
            if HEX[<uint8_t>c] != 255:
                d.digits += 1
                if d.digits > 15:
                    break
                d.remaining = d.remaining * 16 + HEX[<uint8_t>c]
                continue
            if d.digits == 0:
                break
            d.line = 0
            if c == c"\r":
                d.state = S_SIZE_LF
            elif c == c";":
                d.state = S_EXTENSION
            else:
                break
        elif S_EXTENSION <= d.state <= S_QUOTED_END:
            d.line += 1
            d.state = _extension(d.state, <uint8_t>c)
            if d.state < 0 or d.line > MAX_EXTENSION:
                break
        elif d.state == S_SIZE_LF:
            if c != c"\n":
                break
            d.line = 0
            d.digits = 0
            d.state = S_DATA if d.remaining > 0 else S_TRAILER_START
        elif d.state == S_DATA_CR:
            if c != c"\r":
                break
            d.state = S_DATA_LF
        elif d.state == S_DATA_LF:
            if c != c"\n":
                break
            d.state = S_SIZE
        elif d.state == S_TRAILER_START:
            if c == c"\r":
                d.state = S_END_LF
                if trailer >= 0:
                    # give the trailer lines out first; the CR is read again
                    d.state = S_TRAILER_START
                    data[0] = p + trailer
                    size[0] = i - 1 - trailer
                    used[0] = i - 1
                    return C_TRAILER
            else:
                if not NAME[<uint8_t>c]:
                    break
                if trailer < 0:
                    trailer = i - 1
                d.line += 1
                d.state = S_TRAILER_NAME
        elif d.state == S_TRAILER_NAME:
            if trailer < 0:
                trailer = i - 1
            d.line += 1
            if c == c":":
                d.state = S_TRAILER
            elif d.line > MAX_TRAILER or not NAME[<uint8_t>c]:
                break
        elif d.state == S_TRAILER:
            if trailer < 0:
                trailer = i - 1
            d.line += 1
            if c == c"\r":
                d.state = S_TRAILER_LF
            elif d.line > MAX_TRAILER or (<uint8_t>c < 0x20 and c != c"\t") or <uint8_t>c == 0x7F:
                break
        elif d.state == S_TRAILER_LF:
            if trailer < 0:
                trailer = i - 1
            if c != c"\n":
                break
            d.state = S_TRAILER_START
        elif d.state == S_END_LF:
            if c != c"\n":
                break
            d.state = S_DONE
            used[0] = i
            return C_END
        else:
            used[0] = i - 1
            return C_END
    else:
        used[0] = i
        if trailer >= 0:
            data[0] = p + trailer
            size[0] = i - trailer
            return C_TRAILER
        return C_MORE
    used[0] = i
    return C_ERROR


# ---- for Python: tests and the fuzz tests -------------------------------------------------------------------------

cdef Py_ssize_t offset_of_cuts = <Py_ssize_t>(<char*>&(<Head*>NULL).cuts - <char*>NULL)

_ERRORS = {
    UNUSUAL: "unusual", BAD_START_LINE: "start line", BAD_FIELD: "field", BAD_LENGTH: "length",
    BAD_ENCODING: "encoding", BAD_HOST: "host", LINE_TOO_LONG: "line too long", TARGET_TOO_LONG: "target too long",
    HEAD_TOO_LARGE: "head too large", TOO_MANY_FIELDS: "too many fields",
}  # fmt: skip


def _as_dict(bytes data, Head head):
    cdef Py_ssize_t pos = head.fields
    cdef Span name, value
    cdef const char* base = data
    fields = []
    while next_field(base, &head, &pos, &name, &value):
        fields.append((data[name.start:name.end], data[value.start:value.end]))
    copied = bytearray(head.length)
    cdef char* out = copied
    cdef char* end = copy_fields(base, &head, out)
    return {
        "length": head.length, "minor": head.minor, "method": data[head.verb.start:head.verb.end],
        "target": data[head.target.start:head.target.end], "status": head.status,
        "reason": data[head.reason.start:head.reason.end], "chunked": bool(head.chunked),
        "content_length": head.content_length, "fields": fields, "copied": bytes(copied[:end - out]),
        "host": data[head.host.start:head.host.end], "close": bool(head.connection & C_CLOSE),
        "keep_alive": bool(head.connection & C_KEEP_ALIVE),
    }  # fmt: skip


def _parse(bytes data, int role, int head_bytes, int line_bytes, int header_count, bint underscores):
    cdef Head head
    cdef Limits limits
    limits.head_bytes, limits.line_bytes, limits.header_count = head_bytes, line_bytes, header_count
    limits.underscores, limits.overrides = underscores, 0
    cdef Py_ssize_t n
    if role == REQUEST:
        n = scan_request(data, len(data), &limits, &head)
    else:
        n = scan_response(data, len(data), &limits, &head)
    if n == NEED_MORE:
        return None
    if n < 0:
        return _ERRORS[n]
    if head.connection & C_NAMES and cut_named(data, &head, NULL, 0, role) < 0:
        return _ERRORS[TOO_MANY_FIELDS]
    return _as_dict(data, head)


def parse_request(bytes data, *, int head_bytes=32768, int line_bytes=8192, int header_count=100,
                  bint underscores=False):
    """Scan a request head. A dict of what was found, None for "need more", or the name of the error."""
    return _parse(data, REQUEST, head_bytes, line_bytes, header_count, underscores)


def parse_response(bytes data, *, int head_bytes=32768, int line_bytes=8192, int header_count=100,
                   bint underscores=False):
    """Scan a response head, as parse_request does."""
    return _parse(data, RESPONSE, head_bytes, line_bytes, header_count, underscores)


def scan(bytes data, *, bint response=False, int times=1):
    """For benchmarks: scan a head `times` times with the default limits and make no objects. Its length."""
    cdef Head head
    cdef Limits limits
    cdef Py_ssize_t n = 0
    cdef int _i
    limits.head_bytes, limits.line_bytes, limits.header_count = 32768, 8192, 100
    limits.underscores = limits.overrides = 0
    for _i in range(times):
        if response:
            n = scan_response(data, len(data), &limits, &head)
        else:
            n = scan_request(data, len(data), &limits, &head)
    return n


@cython.final
cdef class ChunkedDecoder:
    """A chunked body, fed in pieces of any size."""

    cdef Chunks state
    cdef readonly bytes trailers

    def __cinit__(self):
        memset(&self.state, 0, sizeof(Chunks))
        self.trailers = b""

    def feed(self, bytes data):
        """Payload in data, whether the body is complete, and the bytes behind it.

        Raises:
            ValueError: data is not a chunked body (RFC 9112 section 7.1).
        """
        cdef const char* p = data
        cdef Py_ssize_t n = len(data), used = 0, size = 0
        cdef const char* out = NULL
        cdef int event
        payload = b""
        while True:
            event = chunk_step(&self.state, p, n, &used, &out, &size)
            p += used
            n -= used
            if event == C_DATA:
                payload += out[:size]
            elif event == C_TRAILER:
                self.trailers += out[:size]
            elif event == C_END:
                return payload, True, p[:n]
            elif event == C_MORE:
                return payload, False, b""
            else:
                raise ValueError("not a chunked body")
