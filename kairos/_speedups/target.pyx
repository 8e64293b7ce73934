"""Request-target and Host normalisation (RFC 3986 section 6), done once, before anything looks at either.

What is matched, authorised and forwarded are the same bytes, so no two readers can differ about them. Rules of a path:

- it begins with "/"; controls, space, "#", "\" and bytes of 0x80 and above are refused, not mended;
- escapes of unreserved characters are decoded, the hex of all others is upper case; "%00" and "%5C" are refused;
- "%2F" is never a separator: kept, or refused by flag;
- "." and ".." segments are removed however they are written; leaving the root is refused, and so is a dot segment
  that another server might only see later: with a parameter ("..;x", Tomcat) or beside a "%2F" ("..%2Fx");
- the result is a fixed point, no longer than the input, and has no dot segment.

A path without an escape or "/." is recognised eight bytes at a time and never copied.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy

cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET6
    int inet_pton(int family, const char* text, void* address)

cdef enum:
    LONGEST_ADDRESS = 45  # an IPv6 address with an embedded IPv4 one


cdef struct Writer:
    char* out
    Py_ssize_t length  # bytes written
    Py_ssize_t segment  # where the open segment begins


# --- eight bytes at a time -------------------------------------------------------------------------------------------
# A word has a byte a lane. "(x ^ c) - 1" sets the top bit of a lane that equals c; a borrow can only mark lanes above a
# true hit, and a false hit only costs the careful pass.

cdef inline uint64_t spread(unsigned char byte) noexcept nogil:
    return <uint64_t>0x0101010101010101ULL * byte


cdef inline uint64_t word_at(const char* text) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, text, 8)
    return word


cdef inline uint64_t lanes_equal(uint64_t word, unsigned char byte) noexcept nogil:
    return (word ^ spread(byte)) - spread(1)


cdef inline uint64_t lanes_refused(uint64_t word) noexcept nogil:
    """Lanes below 0x21, of 0x7F and above, or "#": what no part of a target may hold."""
    return (word | (word + spread(1)) | (word - spread(0x21)) | lanes_equal(word, c"#")) & spread(0x80)


cdef inline uint64_t lanes_unplain(const char* text, uint64_t merge) noexcept nogil:
    """Lanes of a path that need the careful pass; reads the byte before `text` as well."""
    cdef:
        uint64_t word = word_at(text)
        uint64_t after_slash = word_at(text - 1) ^ spread(c"/")
        uint64_t found = lanes_equal(word, c"%") | lanes_equal(word, c"\\") | lanes_equal(word, c"?")
    found |= (after_slash | (word ^ spread(c"."))) - spread(1)
    found |= ((after_slash | (word ^ spread(c"/"))) - spread(1)) & merge
    return lanes_refused(word) | (found & spread(0x80))


cdef inline bint is_refused(unsigned char byte) noexcept nogil:
    return byte < 0x21 or byte >= 0x7F or byte == c"#"


cdef inline bint is_unplain(unsigned char before, unsigned char byte, bint merge) noexcept nogil:
    if before == c"/" and (byte == c"." or (merge and byte == c"/")):
        return True
    return is_refused(byte) or byte == c"%" or byte == c"\\" or byte == c"?"


cdef bint is_plain(const char* path, Py_ssize_t n, bint merge) noexcept nogil:
    """Whether a path beginning with "/" is certainly normal."""
    cdef:
        Py_ssize_t i = 1
        uint64_t lanes = <uint64_t>0xFFFFFFFFFFFFFFFFULL if merge else 0
    if n < 9:
        while i < n:
            if is_unplain(path[i - 1], path[i], merge):
                return False
            i += 1
        return True
    while i + 8 <= n:
        if lanes_unplain(path + i, lanes):
            return False
        i += 8
    return lanes_unplain(path + n - 8, lanes) == 0


# --- the careful pass ------------------------------------------------------------------------------------------------

cdef inline int hex_value(unsigned char byte) noexcept nogil:
    if c"0" <= byte <= c"9":
        return byte - c"0"
    byte |= 0x20
    if c"a" <= byte <= c"f":
        return byte - c"a" + 10
    return -1


cdef inline bint is_unreserved(int byte) noexcept nogil:
    return (
        c"a" <= byte <= c"z" or c"A" <= byte <= c"Z" or c"0" <= byte <= c"9"
        or byte == c"-" or byte == c"." or byte == c"_" or byte == c"~"
    )


cdef inline void put(Writer* writer, char byte) noexcept nogil:
    writer.out[writer.length] = byte
    writer.length += 1


cdef int put_escape(Writer* writer, const char* text, Py_ssize_t n, int flags) noexcept nogil:
    """Write the escape at `text`, decoded or in upper case."""
    cdef:
        const char* digits = "0123456789ABCDEF"
        int high = hex_value(text[1]) if n > 2 else -1
        int low = hex_value(text[2]) if n > 2 else -1
        int byte = high * 16 + low
    if high < 0 or low < 0:
        return BAD_ESCAPE
    if byte == 0:
        return ENCODED_NUL
    if byte == c"\\":
        return BACKSLASH
    if byte == c"/" and flags & REFUSE_ENCODED_SLASH:
        return ENCODED_SLASH
    if is_unreserved(byte):
        put(writer, <char>byte)
    else:
        put(writer, c"%")
        put(writer, digits[high])
        put(writer, digits[low])
    return SAME


cdef inline bint is_escape(const char* text, Py_ssize_t n, char low) noexcept nogil:
    """Whether a normalised escape "%2<low>" or "%3<low>" stands at `text`."""
    return n >= 3 and text[0] == c"%" and text[2] == low and text[1] == (c"2" if low == c"F" else c"3")


cdef int leading_dots(const char* text, Py_ssize_t n) noexcept nogil:
    """1 or 2 where a dot segment begins here, ended by the end, a parameter or an encoded slash; else 0."""
    cdef int dots = 0
    while dots < n and text[dots] == c".":
        dots += 1
    if dots == 0 or dots > 2:
        return 0
    text += dots
    n -= dots
    if n == 0 or text[0] == c";" or is_escape(text, n, c"B") or is_escape(text, n, c"F"):
        return dots
    return 0


cdef int segment_dots(const char* text, Py_ssize_t n) noexcept nogil:
    """1 for ".", 2 for "..", 0 for an ordinary segment, DOT_SEGMENT for one that only looks ordinary."""
    cdef:
        int dots = leading_dots(text, n)
        const char* end = text + n
        const char* at = text
    if dots == n:
        return dots
    if dots:
        return DOT_SEGMENT
    while True:
        at = <const char*>memchr(at, c"%", end - at)
        if at == NULL:
            return 0
        if is_escape(at, end - at, c"F") and leading_dots(at + 3, end - at - 3):
            return DOT_SEGMENT
        at += 3


cdef int close_segment(Writer* writer, bint slash, int flags) noexcept nogil:
    """The open segment is complete: drop it, take back the one before it, or end it with its slash."""
    cdef:
        Py_ssize_t size = writer.length - writer.segment
        int dots = segment_dots(writer.out + writer.segment, size) if size else 0
    if dots < 0:
        return dots
    if dots == 2 and writer.segment == 1:
        return ABOVE_ROOT
    if dots:
        writer.length = writer.segment
        if dots == 2:
            writer.length -= 1
            while writer.out[writer.length - 1] != c"/":
                writer.length -= 1
        writer.segment = writer.length
    elif slash and (size or not flags & MERGE_SLASHES):
        put(writer, c"/")
        writer.segment = writer.length
    return SAME


cdef int rewrite(Writer* writer, const char* path, Py_ssize_t n, int flags) noexcept nogil:
    cdef:
        Py_ssize_t i = 1
        unsigned char byte
        int code
    put(writer, c"/")
    writer.segment = 1
    while i < n:
        byte = path[i]
        code = SAME
        if byte == c"%":
            code = put_escape(writer, path + i, n - i, flags)
            i += 2
        elif byte == c"/":
            code = close_segment(writer, True, flags)
        elif byte == c"\\":
            code = BACKSLASH
        elif is_refused(byte) or byte == c"?":
            code = BAD_BYTE
        else:
            put(writer, <char>byte)
        if code < 0:
            return code
        i += 1
    return close_segment(writer, False, flags)


cdef int normalize_path(const char* path, Py_ssize_t n, char* out, Py_ssize_t* out_len, int flags) noexcept nogil:
    cdef:
        Writer writer
        int code
    out_len[0] = n
    if n < 1 or path[0] != c"/":
        return NOT_ABSOLUTE
    if is_plain(path, n, flags & MERGE_SLASHES):
        return SAME
    writer.out = out
    writer.length = 0
    code = rewrite(&writer, path, n, flags)
    if code < 0:
        return code
    out_len[0] = writer.length
    return SAME if writer.length == n and memcmp(out, path, n) == 0 else CHANGED


cdef int check_query(const char* query, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i + 8 <= n:
        if lanes_refused(word_at(query + i)):
            return BAD_BYTE
        i += 8
    while i < n:
        if is_refused(query[i]):
            return BAD_BYTE
        i += 1
    return SAME


# --- Host ------------------------------------------------------------------------------------------------------------
# Names are letters, digits, "-", "." and "_" (seen in the wild): RFC 3986 would let sub-delims and escapes pass, which
# no resolver takes and which only serve to make two readers differ.

cdef int read_port(const char* text, Py_ssize_t n, int* port) noexcept nogil:
    """The digits behind a colon; none at all means the default port (RFC 3986 section 3.2.3)."""
    cdef:
        Py_ssize_t i
        int value = 0
    if n == 0:
        return SAME
    if n > 5:
        return BAD_PORT
    for i in range(n):
        if not c"0" <= text[i] <= c"9":
            return BAD_PORT
        value = value * 10 + (text[i] - c"0")
    if value == 0 or value > 65535:
        return BAD_PORT
    port[0] = value
    return SAME


cdef inline int lower(char* out, Py_ssize_t at, unsigned char byte) noexcept nogil:
    """Write one byte in lower case; CHANGED if it was not."""
    if c"A" <= byte <= c"Z":
        out[at] = <char>(byte | 0x20)
        return CHANGED
    out[at] = <char>byte
    return SAME


cdef int read_name(const char* host, Py_ssize_t n, char* out, Py_ssize_t* out_len) noexcept nogil:
    """A name or IPv4 address: no empty labels, one last dot dropped."""
    cdef:
        Py_ssize_t i
        unsigned char byte, before = c"."
        int changed = SAME
    for i in range(n):
        byte = host[i]
        if byte == c"." and before == c".":
            return BAD_HOST
        if not is_unreserved(byte) or byte == c"~":
            return BAD_HOST
        changed |= lower(out, i, byte)
        before = byte
    out_len[0] = n - 1 if n and before == c"." else n
    return changed if out_len[0] > 0 else BAD_HOST


cdef int read_address(const char* host, Py_ssize_t n, char* out) noexcept nogil:
    """An IPv6 literal with its brackets; zones are for the host they are named on, not for the wire."""
    cdef:
        char text[LONGEST_ADDRESS + 1]
        char binary[16]
        Py_ssize_t i
        int changed = SAME
    if n < 4 or n - 2 > LONGEST_ADDRESS:
        return BAD_HOST
    memcpy(text, host + 1, n - 2)
    text[n - 2] = 0
    if memchr(text, 0, n - 2) != NULL or inet_pton(AF_INET6, text, binary) != 1:
        return BAD_HOST
    for i in range(n):
        changed |= lower(out, i, host[i])
    return changed


cdef int normalize_host(const char* host, Py_ssize_t n, char* out, Py_ssize_t* out_len, int* port) noexcept nogil:
    cdef:
        const char* end
        Py_ssize_t size = n
        int code
    port[0] = -1
    out_len[0] = 0
    if n < 1:
        return BAD_HOST
    end = <const char*>memchr(host, c"]" if host[0] == c"[" else c":", n)
    if host[0] == c"[":
        if end == NULL:
            return BAD_HOST
        size = end - host + 1
        if size < n and host[size] != c":":
            return BAD_HOST
    elif end != NULL:
        size = end - host
    if size < n:
        code = read_port(host + size + 1, n - size - 1, port)
        if code < 0:
            return code
    if host[0] == c"[":
        out_len[0] = size
        return read_address(host, size, out)
    return read_name(host, size, out, out_len)


cdef const char* problem(int code) noexcept nogil:
    if code == NOT_ABSOLUTE:
        return "the path does not begin with a slash"
    if code == BAD_BYTE:
        return "the target holds a byte that must be percent-encoded"
    if code == BACKSLASH:
        return "the path holds a backslash"
    if code == ENCODED_NUL:
        return "the path holds %00"
    if code == BAD_ESCAPE:
        return "the path holds a % without two hex digits"
    if code == ENCODED_SLASH:
        return "the path holds %2F, which is refused here"
    if code == ABOVE_ROOT:
        return "the path leaves the root"
    if code == DOT_SEGMENT:
        return "the path holds a disguised dot segment"
    if code == BAD_PORT:
        return "the Host value has a bad port"
    return "the Host value is not one name or address"


# --- for Python ------------------------------------------------------------------------------------------------------

class TargetError(ValueError):
    """A target or Host value that is refused; its text says why."""


cdef int checked(int code) except -1:
    if code < 0:
        raise TargetError(problem(code).decode())
    return code


def normal_path(bytes path not None, *, bint refuse_encoded_slash=False, bint merge_slashes=False):
    cdef:
        Py_ssize_t size
        bytearray out = bytearray(len(path))
        int flags = REFUSE_ENCODED_SLASH if refuse_encoded_slash else 0
    if merge_slashes:
        flags |= MERGE_SLASHES
    if checked(normalize_path(path, len(path), out, &size, flags)) == SAME:
        return path
    return bytes(out[:size])


def checked_query(bytes query not None):
    checked(check_query(query, len(query)))
    return query


def normal_host(bytes host not None):
    cdef:
        Py_ssize_t size
        int port, code
        bytearray out = bytearray(len(host))
    code = checked(normalize_host(host, len(host), out, &size, &port))
    return (host[:size] if code == SAME else bytes(out[:size])), (None if port < 0 else port)
