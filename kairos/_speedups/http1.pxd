"""HTTP/1.x heads and chunked bodies (RFC 9112), scanned in place: offsets into the caller's bytes, no objects."""

from libc.stdint cimport int32_t, int64_t, uint32_t


cdef enum Method:
    GET = 0
    HEAD = 1
    POST = 2
    PUT = 3
    DELETE = 4
    OPTIONS = 5
    PATCH = 6
    TRACE = 7
    OTHER = 8  # a valid token that no route can name


cdef enum Scan:
    NEED_MORE = 0
    UNUSUAL = -1         # may be valid: ask httptools (absolute-form, other methods, other versions)
    BAD_START_LINE = -2
    BAD_FIELD = -3       # not a field line: bare CR or LF, NUL, obs-fold, space before the colon, empty name
    BAD_LENGTH = -4      # Content-Length is not digits, repeated, or stands beside Transfer-Encoding
    BAD_ENCODING = -5    # Transfer-Encoding is not exactly `chunked`, or sent with HTTP/1.0
    BAD_HOST = -6        # Host missing or repeated
    LINE_TOO_LONG = -7
    TARGET_TOO_LONG = -8
    HEAD_TOO_LARGE = -9
    TOO_MANY_FIELDS = -10


cdef enum Role:
    REQUEST = 0
    RESPONSE = 1


cdef enum Option:       # bits of Head.connection: what the Connection fields named
    C_CLOSE = 1
    C_KEEP_ALIVE = 2
    C_UPGRADE = 4
    C_NAMES = 8         # names other fields, to be dropped by cut_named()


cdef enum:
    O_PATH = 1
    O_HOST = 2
    O_METHOD = 4
    O_SCHEME = 8


cdef enum:
    MAX_CUTS = 64       # runs of field lines left out of a copy; adjacent lines count once
    MAX_NAMES = 64      # names in a list of fields to be dropped


cdef struct Span:
    int32_t start
    int32_t end         # start == end: not there (or empty)


cdef struct Limits:
    int32_t head_bytes
    int32_t line_bytes
    int32_t header_count
    int32_t underscores  # keep names with other characters than letters, digits and "-"
    int32_t overrides    # O_* bits of what override_of() finds and is kept all the same


cdef struct Head:
    int32_t length          # bytes of the head, its empty line included
    int32_t fields          # offset of the first field line
    int32_t fields_end      # offset of the empty line
    int32_t count           # field lines
    int32_t minor           # HTTP/1.minor
    int32_t method          # Method
    int32_t status          # response status, 100..999
    uint32_t connection     # Option bits
    bint chunked            # body is chunked
    int64_t content_length  # -1: none given
    Span verb               # method token
    Span target             # request target, origin-form
    Span reason             # reason phrase
    Span host
    Span upgrade
    Span expect
    Span te
    Span trailer
    Span forwarded
    Span forwarded_for
    Span forwarded_proto
    Span forwarded_host
    Span forwarded_port
    Span request_id
    Span traceparent
    Span user_agent
    Span referer
    Span content_type
    Span authorization
    Span ws_key
    Span ws_version
    int32_t forwarded_for_lines  # more than one: the caller joins them
    int32_t ncuts
    Span cuts[MAX_CUTS]     # lines not to be copied, in order, whole lines with their CRLF


cdef struct Chunks:         # decoder of one chunked body; zeroed to start
    int32_t state
    int32_t digits          # hex digits of the size read so far
    int32_t line            # bytes of the extension or trailer section read so far
    int64_t remaining       # bytes of the current chunk's data still to come


cdef enum ChunkEvent:
    C_MORE = 0              # all input used up
    C_DATA = 1              # *data is a slice of payload
    C_TRAILER = 2           # *data is a slice of the trailer section, CRLFs included
    C_END = 3               # body complete; unused input belongs to what follows
    C_ERROR = -1


cdef Py_ssize_t scan_request(const char* base, Py_ssize_t n, const Limits* limits, Head* head) noexcept nogil
cdef Py_ssize_t scan_response(const char* base, Py_ssize_t n, const Limits* limits, Head* head) noexcept nogil
cdef bint worth_scanning(const char* base, Py_ssize_t n, Py_ssize_t known) noexcept nogil
cdef Py_ssize_t find_head_end(const char* base, Py_ssize_t n, Py_ssize_t start) noexcept nogil
cdef bint next_field(const char* base, const Head* head, Py_ssize_t* pos, Span* name, Span* value) noexcept nogil
cdef bint cut_line(Head* head, int32_t start, int32_t end) noexcept nogil
cdef int cut_named(const char* base, Head* head, const char* names, Py_ssize_t n, int role) noexcept nogil
cdef char* copy_fields(const char* base, const Head* head, char* out) noexcept nogil
cdef int chunk_step(Chunks* d, const char* p, Py_ssize_t n, Py_ssize_t* used,
                    const char** data, Py_ssize_t* size) noexcept nogil
cdef bint equals(const char* p, Py_ssize_t n, const char* lower, Py_ssize_t m) noexcept nogil
cdef int override_of(const char* name, Py_ssize_t n) noexcept nogil
cdef bint has_token(const char* p, Py_ssize_t n, const char* lower, Py_ssize_t m) noexcept nogil
