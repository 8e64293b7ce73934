"""Request targets and Host values, normalised once: the C interface. The rules are told in target.pyx."""

cdef enum:
    SAME = 0  # already normal: use the input, `out` holds nothing
    CHANGED = 1  # the normal form is in `out`
    NOT_ABSOLUTE = -1  # the path does not begin with "/"
    BAD_BYTE = -2  # control, space, "#", "?" in a path, or a byte of 0x80 and above
    BACKSLASH = -3  # "\" or "%5C"
    ENCODED_NUL = -4  # "%00"
    BAD_ESCAPE = -5  # "%" without two hex digits
    ENCODED_SLASH = -6  # "%2F" where the flags refuse it
    ABOVE_ROOT = -7  # ".." with nothing left to leave
    DOT_SEGMENT = -8  # "." or ".." with a parameter, or beside a "%2F"
    BAD_HOST = -9  # empty, a comma, userinfo, an empty label, a broken address
    BAD_PORT = -10  # not digits, 0, or above 65535

cdef enum:
    REFUSE_ENCODED_SLASH = 1  # flag: "%2F" is an error instead of an ordinary escape
    MERGE_SLASHES = 2  # flag: "//" is written "/"

# `out` takes `n` bytes and may be `path` itself; it is scratch whatever is returned. `out_len` is set for SAME and
# CHANGED.
cdef int normalize_path(const char* path, Py_ssize_t n, char* out, Py_ssize_t* out_len, int flags) noexcept nogil

# What follows the "?": SAME, or BAD_BYTE. It is never rewritten.
cdef int check_query(const char* query, Py_ssize_t n) noexcept nogil

# A Host value without its port and its last dot, in lower case. SAME: the first `out_len` bytes of `host` are it.
# `out` takes `n` bytes and may be `host` itself. `port` is -1 where none is given.
cdef int normalize_host(const char* host, Py_ssize_t n, char* out, Py_ssize_t* out_len, int* port) noexcept nogil

# What a negative code means, for logs and problem details.
cdef const char* problem(int code) noexcept nogil
