"""JSON Web Tokens of requests, on the hot path."""

from libc.stdint cimport int64_t

from kairos._speedups.cells cimport Page
from kairos._speedups.tokens cimport TokenCache
from kairos.proxy.exchange cimport Exchange
from kairos.proxy.filters.authenticate cimport Authenticator


cdef class Bearer(Authenticator):
    cdef object __weakref__     # key sets outlive it
    cdef object verifier        # verify.Verifier
    cdef readonly TokenCache cache   # Identity by token; None: every token is verified every time
    cdef tuple places           # carried.Place; None: the Authorization header only
    cdef object proofs          # dpop.Proofs; None: tokens bound to a key are taken like any others
    cdef Page page              # keeps the cell alive
    cdef int64_t* cell          # H_KEYS: counts changes of key sets that the control process fetches; NULL: none is
    cdef int64_t generation     # its value when the keys in hand were asked for
    cdef object renewing        # task that asks for newer ones, or None
    cdef double renew_at        # monotonic seconds before which it is not tried again
    cdef object _checked(self, Exchange x, const char* token, Py_ssize_t n)
    cdef object _proven(self, Exchange x, bytes token)
    cdef object _known(self, const char* token, Py_ssize_t n)
    cdef object _elsewhere(self, Exchange x)
