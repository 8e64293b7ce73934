"""Who is it: the frame that every way to prove it plugs into."""

from kairos.proxy.edits cimport Edits
from kairos.proxy.exchange cimport Exchange, Filter


cdef class Refusal:
    """What an authenticator says to a credential that is no good."""
    cdef readonly str kind              # row of the error table
    cdef readonly object detail         # str shown to the client instead of the row's text, or None
    cdef readonly object challenge      # bytes of WWW-Authenticate, or None: the authenticator's plain one


cdef class Authenticator:
    """One way to prove who one is; see authenticate.pyx."""
    cpdef object authenticate(self, Exchange x)
    cpdef object withhold(self, Exchange x)
    cpdef object missing(self, Exchange x)
    cpdef bytes challenge(self)


cdef class Authenticate(Filter):
    cdef tuple methods                  # Authenticators, in the order they are asked
    cdef bint optional                  # who has no credential passes
    cdef bint forward                   # the credential that decided goes upstream
    cdef object judge                   # Identity -> Edits of the request, or a Refusal
    cdef Edits anonymous                # those where nobody says who it is; None: there are none in any case
    cdef dict judged                    # Identity -> what `judge` said, bounded
    cdef object _ask(self, Exchange x, Py_ssize_t at)
    cdef object _decide(self, Exchange x, Py_ssize_t at, object outcome)
    cdef object _welcome(self, Exchange x, Py_ssize_t at, object identity)
    cdef object _verdict(self, object identity)
    cdef object _nobody(self, Exchange x)
    cdef object _refuse(self, Exchange x, Py_ssize_t at, Refusal refusal)
