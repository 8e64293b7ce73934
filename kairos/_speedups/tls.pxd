"""TLS as a codec between the bytes of a socket and those of HTTP. See tls.pyx for its rules."""

from libc.stdint cimport int64_t

from kairos._speedups.cells cimport Page


cpdef enum TlsState:
    T_HANDSHAKE = 0
    T_OPEN = 1
    T_ENDED = 2                 # the peer said close_notify: nothing more comes
    T_BROKEN = 3                # no handshake came about, or the peer broke the protocol; `reason` says why

cpdef enum:
    TICKET_KEYS = 3             # the one being written, the one in use, the one before
    TICKET_CELLS = 40           # room of a TicketRing


cdef struct TicketKey:
    int64_t made_at             # unix s
    unsigned char name[16]
    unsigned char cipher[32]
    unsigned char mac[32]


cdef struct TicketRing:         # in memory shared by all workers
    int64_t turn                # keys made so far: the one in use is (turn - 1) % TICKET_KEYS; 0: none
    TicketKey keys[3]


cdef struct Pipe:               # what a session's BIO reads from
    const char* data            # arrived, and not taken by OpenSSL yet
    Py_ssize_t size


cdef class TlsContext:
    """How one set of names is served: certificates, versions, client certificates. Immutable once made."""
    cdef void* ctx                      # SSL_CTX
    cdef readonly object policy         # whoever made it knows what stands here
    cdef int verify                     # SSL_VERIFY_*
    cdef int depth
    cdef bint gives_tickets
    cdef list staples                   # (certificate's address, OCSP response, good until unix s)

    cdef int _settings(self, spec) except -1
    cdef int _certificates(self, certificates) except -1
    cdef int _clients(self, client) except -1
    cdef bytes _staple(self, void* certificate, int64_t now)


cdef class TlsServer:
    """Contexts by server name, and the one for all other names."""
    cdef dict names                     # bytes: TlsContext; b"*.example.com" for one label in front
    cdef readonly TlsContext default
    cdef bint strict                    # refuse names nobody listed

    cdef TlsContext find(self, bytes name)
    cpdef TlsSession session(self)


cdef class TlsSession:
    """One connection. What it has to say to the peer is in `tls_output` after every call: send it before the next."""
    cdef void* ssl                      # SSL
    cdef Pipe pipe
    cdef TlsServer server
    cdef readonly TlsContext context    # as the server name decided
    cdef readonly bytes server_name     # as the client sent it, in small letters; None: it sent none
    cdef readonly int state             # TlsState
    cdef readonly str reason            # why it is broken
    cdef bytes logged                   # for the access log, which renders it once
    cdef bint ticket_due                # a ticket is to go out with the first bytes

    cdef bytes receive(self, const char* data, Py_ssize_t size)
    cdef int write(self, const char* p, Py_ssize_t n) except -1
    cdef int end(self) except -1
    cdef int _shake(self) except -1
    cdef int _judge(self, int outcome) except -1


cdef struct Output:
    char* data
    Py_ssize_t size
    Py_ssize_t room

cdef Output* tls_output() noexcept nogil
cdef void tls_sent() noexcept nogil
