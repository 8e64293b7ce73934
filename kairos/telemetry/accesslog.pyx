"""Access log lines and their ring. See accesslog.pxd for the record and the rules.

Bytes that are not UTF-8 are written as \\ufffd each; control characters (C0, DEL, C1) as \\u00XX. The combined format
has nginx's escapes: \\xXX for what is not printable ASCII, for `"` and for `\\`.
Fields are bounded before they are escaped; a line with a shortened field says `"truncated":true`, in the combined
format the field ends with `...`.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset, strlen

from kairos._speedups.cells cimport (
    LOG_BYTES, LOG_CELLS, LOG_DATA, LOG_DROPPED, LOG_HEAD, LOG_TAIL, SAID_BYTES, SAID_CELLS, TAIL_BYTES, TAIL_CELLS,
    W_LOG_DROPPED, load_acquire, store_release,
)

cdef enum:  # most bytes of a field, before escaping
    MAX_CLIENT = 64
    MAX_METHOD = 32
    MAX_HOST = 256
    MAX_TARGET = 8192
    MAX_REQUEST_ID = 128
    MAX_NAME = 4096  # route, upstream: written as they are; a longer one is left out
    MAX_TLS = 2048  # tls_fields(), escaped; a server name has 255 bytes at most
    MAX_USER_AGENT = 512
    MAX_REFERER = 1024
    MAX_WORD = 64  # scheme, flag, cache, detail
    MAX_SECRET = 64  # redacted parameter name
    # An escape is at most six bytes; 1024 hold all keys, numbers and marks.
    MAX_LINE = 6 * (
        MAX_CLIENT + MAX_METHOD + MAX_HOST + MAX_TARGET + MAX_REQUEST_ID + MAX_USER_AGENT + MAX_REFERER + 4 * MAX_WORD
    ) + 2 * MAX_NAME + MAX_TLS + 1024

cdef enum:  # classes of query bytes
    IS_SEPARATOR = 1  # ends a parameter
    ENDS_NAME = 2

cdef extern from *:
    """
    #include <string.h>
    static const char kairos_hex[] = "0123456789abcdef";
    static const char kairos_months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    static const unsigned char kairos_query_class[256] = {['&'] = 3, [';'] = 3, ['?'] = 3, ['#'] = 3, ['='] = 2};

    /* Whether none of eight bytes needs an escape: all of 0x20..0x7e but '"' and '\\\\'. May say no too often. */
    static inline int kairos_plain8(const char *s) {
        const uint64_t ones = 0x0101010101010101ULL, high = 0x8080808080808080ULL;
        uint64_t x, quote, slash, del;
        memcpy(&x, s, 8);
        quote = x ^ ones * '"';
        slash = x ^ ones * '\\\\';
        del = x ^ ones * 0x7f;
        return !((x | (x - ones * 0x20) | (quote - ones) | (slash - ones) | (del - ones)) & high);
    }
    static inline int kairos_plain1(unsigned char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\\\'; }
    """
    const char* HEX "kairos_hex"
    const char* MONTHS "kairos_months"
    const uint8_t* QUERY_CLASS "kairos_query_class"
    bint plain8 "kairos_plain8" (const char* s) noexcept nogil
    bint plain1 "kairos_plain1" (unsigned char c) noexcept nogil


# --- pieces of a line: each writes at `p` and answers where it stopped --------------------------------------------


cdef inline char* put(char* p, const char* literal) noexcept nogil:
    cdef size_t n = strlen(literal)
    memcpy(p, literal, n)
    return p + n


cdef inline char* put_bytes(char* p, const char* s, Py_ssize_t n) noexcept nogil:
    memcpy(p, s, n)
    return p + n


cdef inline char* put_digits(char* p, int64_t value, int width) noexcept nogil:
    """Exactly `width` digits."""
    cdef int i
    for i in range(width - 1, -1, -1):
        p[i] = <char>(c'0' + value % 10)
        value //= 10
    return p + width


cdef inline char* put_number(char* p, int64_t value) noexcept nogil:
    cdef:
        char digits[20]
        int i = 20
    if value < 0:
        value = 0
    while True:
        i -= 1
        digits[i] = <char>(c'0' + value % 10)
        value //= 10
        if value == 0:
            return put_bytes(p, digits + i, 20 - i)


cdef inline char* put_ms(char* p, int64_t us) noexcept nogil:
    if us < 0:
        us = 0
    p = put_number(p, us // 1000)
    p[0] = c'.'
    return put_digits(p + 1, us % 1000, 3)


cdef char* put_json(char* p, const char* s, Py_ssize_t n) noexcept nogil:
    """The inside of a JSON string."""
    cdef:
        Py_ssize_t i = 0
        int size
    while i < n:
        if n - i >= 8 and plain8(s + i):
            memcpy(p, s + i, 8)
            p += 8
            i += 8
        elif plain1(s[i]):
            p[0] = s[i]
            p += 1
            i += 1
        elif (size := printable_utf8(<const uint8_t*>s + i, n - i)) > 0:
            p = put_bytes(p, s + i, size)
            i += size
        else:
            i += escape_json(&p, <const uint8_t*>s + i, n - i)
    return p


cdef int escape_json(char** out, const uint8_t* s, Py_ssize_t n) noexcept nogil:
    """One escape; how many bytes it stands for."""
    cdef char* p = out[0]
    if s[0] == c'"' or s[0] == c'\\':
        p[0] = c'\\'
        p[1] = s[0]
        out[0] = p + 2
        return 1
    if s[0] < 0x80:
        out[0] = put_u00(p, s[0])
        return 1
    if n >= 2 and s[0] == 0xC2 and 0x80 <= s[1] <= 0x9F:
        out[0] = put_u00(p, s[1])
        return 2
    out[0] = put(p, b"\\ufffd")
    return 1


cdef inline char* put_u00(char* p, uint8_t c) noexcept nogil:
    p = put(p, b"\\u00")
    p[0] = HEX[c >> 4]
    p[1] = HEX[c & 15]
    return p + 2


cdef int printable_utf8(const uint8_t* s, Py_ssize_t n) noexcept nogil:
    """Length of the well-formed sequence of two to four bytes at `s` (RFC 3629); 0: there is none, or a C1 control."""
    cdef:
        uint8_t low = 0x80
        uint8_t high = 0xBF
        int size, i
    if 0xC2 <= s[0] <= 0xDF:
        size = 2
    elif 0xE0 <= s[0] <= 0xEF:
        size = 3
    elif 0xF0 <= s[0] <= 0xF4:
        size = 4
    else:
        return 0
    if s[0] == 0xE0 or s[0] == 0xC2:
        low = 0xA0  # no overlong form; no U+0080..U+009F
    elif s[0] == 0xED:
        high = 0x9F  # no surrogates
    elif s[0] == 0xF0:
        low = 0x90
    elif s[0] == 0xF4:
        high = 0x8F
    if n < size or s[1] < low or s[1] > high:
        return 0
    for i in range(2, size):
        if s[i] < 0x80 or s[i] > 0xBF:
            return 0
    return size


cdef char* put_combined(char* p, const char* s, Py_ssize_t n) noexcept nogil:
    """The inside of a quoted field of the combined format."""
    cdef:
        Py_ssize_t i
        uint8_t c
    for i in range(n):
        c = s[i]
        if plain1(c):
            p[0] = s[i]
            p += 1
        else:
            p[0] = c'\\'
            p[1] = c'x'
            p[2] = HEX[c >> 4]
            p[3] = HEX[c & 15]
            p += 4
    return p


cdef inline Py_ssize_t bounded(Text text, Py_ssize_t limit, bint* cut) noexcept nogil:
    """How much of a field is written: `limit` bytes at most, and no half character."""
    if text.size <= limit:
        return text.size
    cut[0] = True
    cdef Py_ssize_t n = limit
    while n > limit - 3 and (<uint8_t>text.at[n] & 0xC0) == 0x80:
        n -= 1
    return n


cdef inline char* put_field(char* p, const char* key, Text text, Py_ssize_t limit, bint* cut) noexcept nogil:
    """`,"key":"` and the text with its closing quote, or nothing."""
    if text.size <= 0:
        return p
    p = put_json(put(p, key), text.at, bounded(text, limit, cut))
    p[0] = c'"'
    return p + 1


cdef inline char* put_word(char* p, const char* key, const char* word) noexcept nogil:
    """The same for a word of our own."""
    if word == NULL:
        return p
    p = put_json(put(p, key), word, min(strlen(word), <size_t>MAX_WORD))
    p[0] = c'"'
    return p + 1


cdef inline char* put_name(char* p, const char* key, Text name) noexcept nogil:
    """The same for a name that is escaped already."""
    if name.size <= 0 or name.size > MAX_NAME:
        return p
    p = put_bytes(put(p, key), name.at, name.size)
    p[0] = c'"'
    return p + 1


cdef char* put_quoted(char* p, Text text, Py_ssize_t limit) noexcept nogil:
    """A field of the combined format, `-` if it is not there; one cut short ends with `...`."""
    cdef bint cut = False
    cdef Py_ssize_t n = bounded(text, limit, &cut)
    if n <= 0:
        return put(p, b"-")
    p = put_combined(p, text.at, n)
    return put(p, b"...") if cut else p


cdef inline bint is_hex(const char* s, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if not (c'0' <= s[i] <= c'9' or c'a' <= s[i] <= c'f'):
            return False
    return True


cdef Text trace_id(Text traceparent) noexcept nogil:
    """`00-<32 hex>-<16 hex>-<2 hex>` (W3C Trace Context); empty if it is not that."""
    cdef const char* s = traceparent.at
    if traceparent.size < 55 or s[2] != c'-' or s[35] != c'-' or s[52] != c'-' or not is_hex(s + 3, 32):
        return Text(NULL, 0)
    return Text(s + 3, 32)


cdef const char* protocol(int version) noexcept nogil:
    if version == 11:
        return b"HTTP/1.1"
    if version == 20:
        return b"HTTP/2"
    if version == 10:
        return b"HTTP/1.0"
    return NULL


cdef inline int hex_value(uint8_t c) noexcept nogil:
    """0..15, or -1."""
    if c'0' <= c <= c'9':
        return c - c'0'
    c |= 0x20
    if c'a' <= c <= c'f':
        return c - c'a' + 10
    return -1


cdef void civil(int64_t days, int* year, int* month, int* day) noexcept nogil:
    """Date of a day number since 1970 in the Gregorian calendar, counted in eras of 400 years from 1 March."""
    days += 719468
    cdef int64_t era = days // 146097
    cdef int of_era = <int>(days - era * 146097)
    cdef int year_of_era = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    cdef int of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    cdef int shifted = (5 * of_year + 2) // 153
    day[0] = of_year - (153 * shifted + 2) // 5 + 1
    month[0] = shifted + 3 if shifted < 10 else shifted - 9
    year[0] = <int>(year_of_era + era * 400) + (1 if month[0] <= 2 else 0)


cdef char* put_date_json(char* p, int64_t second) noexcept nogil:
    """`2026-11-21T06:43:03`."""
    cdef int year, month, day
    civil(second // 86400, &year, &month, &day)
    p = put_digits(p, year, 4)
    p[0] = c'-'
    p = put_digits(p + 1, month, 2)
    p[0] = c'-'
    p = put_digits(p + 1, day, 2)
    p[0] = c'T'
    return put_clock(p + 1, second)


cdef char* put_date_combined(char* p, int64_t second) noexcept nogil:
    """`21/Nov/2026:06:43:03`."""
    cdef int year, month, day
    civil(second // 86400, &year, &month, &day)
    p = put_digits(p, day, 2)
    p[0] = c'/'
    p = put_bytes(p + 1, MONTHS + 3 * (month - 1), 3)
    p[0] = c'/'
    p = put_digits(p + 1, year, 4)
    p[0] = c':'
    return put_clock(p + 1, second)


cdef char* put_clock(char* p, int64_t second) noexcept nogil:
    """`06:43:03`."""
    p = put_digits(p, second // 3600 % 24, 2)
    p[0] = c':'
    p = put_digits(p + 1, second // 60 % 60, 2)
    p[0] = c':'
    return put_digits(p + 1, second % 60, 2)


# --- ring ---------------------------------------------------------------------------------------------------------


cdef bint publish(int64_t* ring, int64_t capacity, const char* line, Py_ssize_t size) noexcept nogil:
    """Put a line into a ring of so many bytes; False: there is no room."""
    cdef:
        int64_t head = ring[LOG_HEAD]
        int64_t room = capacity - (head - load_acquire(ring + LOG_TAIL))
        Py_ssize_t at = head & (capacity - 1)
        Py_ssize_t before_wrap = min(size, capacity - at)
        char* data = <char*>(ring + LOG_DATA)
    if size > room:
        return False
    memcpy(data + at, line, before_wrap)
    memcpy(data, line + before_wrap, size - before_wrap)
    store_release(ring + LOG_HEAD, head + size)
    return True


cdef bytes take(int64_t* ring, int64_t capacity):
    """What stands in a ring, taken out of it; None if the ring makes no sense: it is then empty."""
    cdef:
        const char* data = <const char*>(ring + LOG_DATA)
        int64_t head = load_acquire(ring + LOG_HEAD)
        int64_t tail = ring[LOG_TAIL]
        Py_ssize_t size = head - tail
        Py_ssize_t at = tail & (capacity - 1)
        Py_ssize_t before_wrap = min(size, capacity - at)
        bytes lines
    if size < 0 or size > capacity:
        store_release(ring + LOG_TAIL, head)
        return None
    lines = PyBytes_FromStringAndSize(NULL, size)
    memcpy(PyBytes_AS_STRING(lines), data + at, before_wrap)
    memcpy(PyBytes_AS_STRING(lines) + before_wrap, data, size - before_wrap)
    store_release(ring + LOG_TAIL, head)
    return lines


# --- writer -------------------------------------------------------------------------------------------------------


@cython.final
cdef class AccessLog:

    def __cinit__(self, object scoreboard, Py_ssize_t slot, object spec, bint tail=False, AccessLog also=None):
        if spec.format == "off" and not tail:
            raise ValueError("access_log.format is off: there is nothing to write")
        self.page = scoreboard.page
        self.also = also
        if tail:
            self.capacity = TAIL_BYTES
            self.ring = self.page.at(scoreboard.tail_ring(slot), TAIL_CELLS)
            self.dropped = self.ring + LOG_DROPPED
        else:
            self.capacity = LOG_BYTES
            self.ring = self.page.at(scoreboard.log_ring(slot), LOG_CELLS)
            self.dropped = self.page.at(scoreboard.worker_block(slot) + W_LOG_DROPPED, 1)
        self.json = tail or spec.format == "json"
        self.escape = put_json if self.json else put_combined
        self.threshold = <uint64_t>((1.0 if tail else spec.sample) * 4294967296.0)  # of 2**32
        self.random = <uint64_t>(scoreboard.started_at * 1e6) + <uint64_t>slot + 1
        self.second = -1
        self._set_names(spec.redact)
        self.line = <char*>malloc(MAX_LINE)
        if self.line == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.line)

    def _set_names(self, list redact):
        names = sorted({name.lower().encode() for name in redact if name}, key=len)
        if names and len(names[-1]) > MAX_SECRET:
            raise ValueError(f"access_log.redact: {names[-1].decode()!r} is longer than {MAX_SECRET} bytes")
        self.names = b"".join(names)
        for size in range(MAX_SECRET + 2):
            self.name_start[size] = sum([len(name) for name in names if len(name) < size])

    cdef void write(self, AccessRecord* r) noexcept:
        """Log one request: one whole line, or one more in W_LOG_DROPPED."""
        if self.also is not None:
            self.also.write(r)
        if not self._keeps(r):
            return
        cdef char* end = self._json(r) if self.json else self._combined(r)
        if not publish(self.ring, self.capacity, self.line, end - self.line):
            self.dropped[0] += 1

    cdef bint _keeps(self, AccessRecord* r) noexcept:
        """Sampling: errors always, also those behind a status already sent (upstream cut, client gone)."""
        if self.threshold > 0xFFFFFFFF or r.status >= 400:
            return True
        if r.flag != NULL and (r.flag[0] == c'U' or r.flag[0] == c'D'):
            return True
        self.random ^= self.random << 13
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        return (self.random >> 32) < self.threshold

    cdef char* _json(self, AccessRecord* r) noexcept:
        cdef:
            bint cut = False
            char* p = self._time(put(self.line, b'{"time":"'), r.time_us)
            Text path = Text(r.target.at, bounded(r.target, MAX_TARGET, &cut))
            Text query = Text(NULL, 0)
            const char* question = <const char*>memchr(path.at, c'?', path.size) if path.size > 0 else NULL
        if question != NULL:
            query = Text(question + 1, path.at + path.size - question - 1)
            path.size = question - path.at
        p = put_field(p, b',"request_id":"', r.request_id, MAX_REQUEST_ID, &cut)
        if r.traceparent.size > 0:
            p = put_field(p, b',"trace_id":"', trace_id(r.traceparent), 32, &cut)
        p = put_field(p, b',"client":"', r.client, MAX_CLIENT, &cut)
        p = put_field(p, b',"method":"', r.method, MAX_METHOD, &cut)
        p = put_word(p, b',"scheme":"', r.scheme)
        p = put_field(p, b',"host":"', r.host, MAX_HOST, &cut)
        p = put_field(p, b',"path":"', path, MAX_TARGET, &cut)
        if query.size > 0:
            p = self._query(put(p, b',"query":"'), query.at, query.size)
            p = put(p, b'"')
        p = put_word(p, b',"protocol":"', protocol(r.version))
        p = put_number(put(p, b',"status":'), r.status)
        p = put_name(p, b',"route":"', r.route)
        p = put_name(p, b',"upstream":"', r.upstream)
        if r.attempts > 0:
            p = put_number(put(p, b',"attempts":'), r.attempts)
        p = put_word(p, b',"retried_for":"', r.retried_for)
        p = put_ms(put(p, b',"duration_ms":'), r.total_us)
        p = put_ms(put(p, b',"gateway_ms":'), r.gateway_us)
        if r.attempts > 0:
            p = put_ms(put(p, b',"upstream_ms":'), r.upstream_us)
        p = put_number(put(p, b',"bytes_in":'), r.bytes_in)
        p = put_number(put(p, b',"bytes_out":'), r.bytes_out)
        p = put_field(p, b',"user_agent":"', r.user_agent, MAX_USER_AGENT, &cut)
        if r.referer.size > 0:
            p = put(self._url(put(p, b',"referer":"'), r.referer, MAX_REFERER, &cut), b'"')
        if r.flag != NULL and r.flag[0] != c'-':
            p = put_word(p, b',"flag":"', r.flag)
        p = put_word(p, b',"cache":"', r.cache)
        p = put_word(p, b',"detail":"', r.detail)
        if cut:
            p = put(p, b',"truncated":true')
        if 0 < r.tls.size <= MAX_TLS:
            p = put_bytes(p, r.tls.at, r.tls.size)
        return put(p, b'}\n')

    cdef char* _combined(self, AccessRecord* r) noexcept:
        """`client - - [time] "METHOD target PROTOCOL" status bytes_out "referer" "user agent"`."""
        cdef:
            bint cut = False
            const char* version = protocol(r.version)
            char* p = put_quoted(self.line, r.client, MAX_CLIENT)
        p = self._time(put(p, b" - - ["), r.time_us)
        p = put(p, b' "')
        if r.method.size > 0:
            p = put(put_quoted(p, r.method, MAX_METHOD), b" ")
            p = self._url(p, r.target, MAX_TARGET, &cut)
            if version != NULL:
                p = put(put(p, b" "), version)
        else:
            p = put(p, b"-")
        p = put_number(put(p, b'" '), r.status)
        p = put_number(put(p, b" "), r.bytes_out)
        p = put(p, b' "')
        p = self._url(p, r.referer, MAX_REFERER, &cut) if r.referer.size > 0 else put(p, b"-")
        return put(put_quoted(put(p, b'" "'), r.user_agent, MAX_USER_AGENT), b'"\n')

    cdef char* _time(self, char* p, int64_t time_us) noexcept:
        """The request's time and its closing delimiter; a second's text is made once."""
        cdef int64_t second
        if time_us < 0:
            time_us = 0
        second = time_us // 1000000
        if second != self.second:
            self.second = second
            self.clock_size = (
                put_date_json(self.clock, second) if self.json else put_date_combined(self.clock, second)
            ) - self.clock
        p = put_bytes(p, self.clock, self.clock_size)
        if not self.json:
            return put(p, b" +0000]")
        p[0] = c'.'
        return put(put_digits(p + 1, time_us % 1000000, 6), b'Z"')

    cdef char* _url(self, char* p, Text url, Py_ssize_t limit, bint* cut) noexcept:
        """A target or URL with the values of secret parameters struck out."""
        cdef:
            bint shortened = False
            Py_ssize_t n = bounded(url, limit, &shortened)
            const char* question = <const char*>memchr(url.at, c'?', n) if n > 0 else NULL
            Py_ssize_t path = n if question == NULL else question - url.at + 1
        p = self.escape(p, url.at, path)
        if question != NULL:
            p = self._query(p, url.at + path, n - path)
        if shortened:
            cut[0] = True
            if not self.json:
                p = put(p, b"...")
        return p

    cdef char* _query(self, char* p, const char* s, Py_ssize_t n) noexcept:
        """A query; what follows a secret name up to the next `&` is struck out, also where `;` might end it."""
        cdef:
            const uint8_t* u = <const uint8_t*>s
            Py_ssize_t written = 0
            Py_ssize_t i = 0
            Py_ssize_t name
            const char* ampersand
        while i < n:
            name = i
            while i < n and not QUERY_CLASS[u[i]] & ENDS_NAME:
                i += 1
            if i < n and s[i] == c'=' and self._secret(s + name, i - name):
                p = put(self.escape(p, s + written, i + 1 - written), b"***")
                ampersand = <const char*>memchr(s + i, c'&', n - i)
                written = n if ampersand == NULL else ampersand - s
                i = written
            while i < n and not QUERY_CLASS[u[i]] & IS_SEPARATOR:
                i += 1
            i += 1
        return self.escape(p, s + written, n - written)

    cdef bint _secret(self, const char* s, Py_ssize_t n) noexcept:
        """Whether a parameter name, decoded and in lower case, is one of the redacted."""
        cdef:
            uint8_t name[MAX_SECRET]
            Py_ssize_t i = 0
            int size = 0
            int at, high, low
            uint8_t c
        while i < n:
            c = s[i]
            if c == c'%' and n - i > 2:
                high = hex_value(s[i + 1])
                low = hex_value(s[i + 2])
                if high >= 0 and low >= 0:
                    c = <uint8_t>(high << 4 | low)
                    i += 2
            if size == MAX_SECRET:
                return False
            name[size] = c | 0x20 if c'A' <= c <= c'Z' else c
            size += 1
            i += 1
        if size == 0:
            return False
        at = self.name_start[size]
        while at < self.name_start[size + 1]:
            if memcmp(PyBytes_AS_STRING(self.names) + at, name, size) == 0:
                return True
            at += size
        return False

    def write_line(self, *, int times=1, **fields):
        """Log a request given by keywords named as AccessRecord's fields; for tests and benchmarks."""
        cdef AccessRecord r
        memset(&r, 0, sizeof(r))
        held = {key: value.encode() if isinstance(value, str) else value for key, value in fields.items()}
        for key, value in held.items():
            set_field(&r, key, value)
        for _ in range(times):
            self.write(&r)


cdef AccessRecord _layout
_TEXTS = {
    "client": <char*>&_layout.client - <char*>&_layout,
    "method": <char*>&_layout.method - <char*>&_layout,
    "tls": <char*>&_layout.tls - <char*>&_layout,
    "host": <char*>&_layout.host - <char*>&_layout,
    "target": <char*>&_layout.target - <char*>&_layout,
    "request_id": <char*>&_layout.request_id - <char*>&_layout,
    "traceparent": <char*>&_layout.traceparent - <char*>&_layout,
    "route": <char*>&_layout.route - <char*>&_layout,
    "upstream": <char*>&_layout.upstream - <char*>&_layout,
    "user_agent": <char*>&_layout.user_agent - <char*>&_layout,
    "referer": <char*>&_layout.referer - <char*>&_layout,
}
_WORDS = {
    "scheme": <char*>&_layout.scheme - <char*>&_layout,
    "flag": <char*>&_layout.flag - <char*>&_layout,
    "cache": <char*>&_layout.cache - <char*>&_layout,
    "detail": <char*>&_layout.detail - <char*>&_layout,
    "retried_for": <char*>&_layout.retried_for - <char*>&_layout,
}
_COUNTS = {
    "version": <char*>&_layout.version - <char*>&_layout,
    "status": <char*>&_layout.status - <char*>&_layout,
    "attempts": <char*>&_layout.attempts - <char*>&_layout,
}
_NUMBERS = {
    "time_us": <char*>&_layout.time_us - <char*>&_layout,
    "total_us": <char*>&_layout.total_us - <char*>&_layout,
    "gateway_us": <char*>&_layout.gateway_us - <char*>&_layout,
    "upstream_us": <char*>&_layout.upstream_us - <char*>&_layout,
    "bytes_in": <char*>&_layout.bytes_in - <char*>&_layout,
    "bytes_out": <char*>&_layout.bytes_out - <char*>&_layout,
}


cdef int set_field(AccessRecord* r, str key, object value) except -1:
    """Point a field at a value the caller keeps alive."""
    cdef char* base = <char*>r
    if key in _TEXTS:
        (<Text*>(base + <Py_ssize_t>_TEXTS[key]))[0] = Text(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    elif key in _WORDS:
        (<const char**>(base + <Py_ssize_t>_WORDS[key]))[0] = PyBytes_AS_STRING(value)
    elif key in _COUNTS:
        (<int*>(base + <Py_ssize_t>_COUNTS[key]))[0] = value
    else:
        (<int64_t*>(base + <Py_ssize_t>_NUMBERS[key]))[0] = value
    return 0


def json_text(str text):
    """A name as it stands inside a JSON string, for AccessRecord.route and .upstream."""
    cdef bytes raw = text.encode("utf-8", "replace")
    cdef Py_ssize_t n = PyBytes_GET_SIZE(raw)
    cdef char* out = <char*>malloc(6 * n + 1)
    if out == NULL:
        raise MemoryError()
    try:
        return out[:put_json(out, PyBytes_AS_STRING(raw), n) - out]
    finally:
        free(out)


def tls_fields(str version, str cipher, server_name):
    """What a line says of its connection's TLS, rendered for all its requests at once; `server_name` may be None."""
    name = None if server_name is None else server_name.decode(errors="replace")
    pairs = (b',"tls_version":"', version), (b',"tls_cipher":"', cipher), (b',"server_name":"', name)
    return b"".join([key + json_text(value) + b'"' for key, value in pairs if value is not None])


# --- reader -------------------------------------------------------------------------------------------------------


@cython.final
cdef class LogReader:

    def __cinit__(self, object scoreboard):
        self.page = scoreboard.page
        self.board = scoreboard
        self.slots = scoreboard.capacity.workers

    def __len__(self):
        return self.slots

    def drain(self, Py_ssize_t slot):
        """Whole lines written since the last call, in order; takes them out of the ring.

        RuntimeError if the ring makes no sense (a worker wrote wildly before it died); it is then empty.
        """
        return self._taken(self.page.at(self.board.log_ring(slot), LOG_CELLS), LOG_BYTES, "access-log", slot)

    def drain_tail(self, Py_ssize_t slot):
        """The same of the lines for the live tail, and how many ever had no room."""
        cdef int64_t* ring = self.page.at(self.board.tail_ring(slot), TAIL_CELLS)
        return self._taken(ring, TAIL_BYTES, "tail", slot), ring[LOG_DROPPED]

    def drain_said(self, Py_ssize_t slot):
        """The same of the program's log; of a worker, or with -1 of the supervisor."""
        return self._taken(self.page.at(self.board.said_ring(slot), SAID_CELLS), SAID_BYTES, "program-log", slot)

    cdef bytes _taken(self, int64_t* ring, int64_t capacity, str name, Py_ssize_t slot):
        cdef bytes lines = take(ring, capacity)
        if lines is None:
            raise RuntimeError(f"{name} ring {slot} is corrupt")
        return lines


@cython.final
cdef class SaidRing:

    def __cinit__(self, object scoreboard, Py_ssize_t slot):
        self.page = scoreboard.page
        self.ring = self.page.at(scoreboard.said_ring(slot), SAID_CELLS)

    def write(self, bytes line):
        """Add a line with its end, if there is room."""
        return publish(self.ring, SAID_BYTES, PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))
