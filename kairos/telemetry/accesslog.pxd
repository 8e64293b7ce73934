"""Access log: one line per request, formatted in C into the worker's ring, read out by the control process.

Rules: write() never blocks, allocates or fails; a line is whole or not there (ring full: dropped and counted);
whatever a peer sent, it can neither end a line nor forge a field.
"""

from libc.stdint cimport int64_t, uint64_t

from kairos._speedups.cells cimport Page


cdef struct Text:                   # bytes the caller owns while write() runs; size 0: not there
    const char* at
    Py_ssize_t size


cdef struct AccessRecord:           # zero it, then set what is known
    int64_t time_us                 # unix µs of the request's first byte
    Text client                     # address, without port
    Text method
    const char* scheme              # "http", "https"; NULL: not known
    Text tls                        # tls_fields() of the connection
    Text host
    Text target                     # path and query as received
    int version                     # 10, 11, 20; 0: not known
    int status
    Text request_id
    Text traceparent                # header value; its trace id is logged if it is well formed
    Text route                      # json_text() of the route's name
    Text upstream                   # json_text() of the upstream's key
    int attempts                    # requests sent upstream, retries included
    const char* retried_for         # why the last further attempt was made; NULL: there was none
    int64_t total_us
    int64_t gateway_us
    int64_t upstream_us             # written only with attempts > 0
    int64_t bytes_in
    int64_t bytes_out
    Text user_agent
    Text referer
    const char* flag                # "UF", "UT", "UC", "UPE", "DC", "DPE", "NR", "LR"; NULL or "-": nothing to say
    const char* cache               # "hit", "miss"; NULL: no cache was asked
    const char* detail              # "via_upstream", "route_not_found"; NULL: none


ctypedef char* (*Escape)(char* out, const char* s, Py_ssize_t n) noexcept nogil


cdef class AccessLog:
    """The writing end of one worker's ring. Its position lives in the ring, so a reload just makes a new one."""

    cdef:
        Page page                   # keeps ring and dropped mapped
        int64_t* ring               # LOG_* block
        int64_t capacity            # bytes of the ring
        int64_t* dropped            # W_LOG_DROPPED of this worker; of a tail, LOG_DROPPED of its ring
        AccessLog also              # for the live tail, while somebody watches and the lines here are not complete
        char* line                  # room for the longest line there can be
        Escape escape               # of the format
        bint json
        uint64_t threshold          # sampling: a random below it keeps a success
        uint64_t random             # xorshift state, never 0
        int64_t second              # whose text `clock` holds
        char clock[32]
        Py_ssize_t clock_size
        bytes names                 # redacted names, lower-case, shortest first, without separators
        int name_start[66]          # offset of the names of a length; the next length's is the end

    cdef void write(self, AccessRecord* r) noexcept
    cdef bint _keeps(self, AccessRecord* r) noexcept
    cdef char* _json(self, AccessRecord* r) noexcept
    cdef char* _combined(self, AccessRecord* r) noexcept
    cdef char* _time(self, char* p, int64_t time_us) noexcept
    cdef char* _query(self, char* p, const char* s, Py_ssize_t n) noexcept
    cdef char* _url(self, char* p, Text url, Py_ssize_t limit, bint* cut) noexcept
    cdef bint _secret(self, const char* s, Py_ssize_t n) noexcept


cdef class LogReader:
    """The reading end of all rings."""

    cdef:
        Page page
        object board                # knows where they are
        Py_ssize_t slots

    cdef bytes _taken(self, int64_t* ring, int64_t capacity, str name, Py_ssize_t slot)


cdef class SaidRing:
    """The writing end of one process's ring for the program's log."""

    cdef:
        Page page
        int64_t* ring
