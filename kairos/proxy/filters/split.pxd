"""Canaries and A/B tests."""

from libc.stdint cimport uint64_t

from kairos.proxy.edits cimport Edits
from kairos.proxy.exchange cimport Exchange, Filter


cdef class Choice:
    """One variant."""
    cdef readonly str name
    cdef readonly str token         # what the cookie says of it
    cdef object holds               # predicate of its `when`, or None
    cdef uint64_t below             # hash or random number below which it is chosen; 0: not by weight
    cdef Edits edits                # of the request, known at load; None: none
    cdef object more                # callable for the edits that are not, or None


cdef class Splitter(Filter):
    cdef tuple choices              # Choice
    cdef uint64_t total             # of the weights
    cdef uint64_t seed              # of hashes of clients
    cdef bytes cookie               # its name, None: not sticky by cookie
    cdef bint by_identity
    cdef bint by_client
    cdef dict tokens                # cookie's value -> Choice
    cdef dict cookies               # Choice's name -> Set-Cookie
    cdef object find_cookie
    cdef Choice choose(self, Exchange x)
    cdef Choice _by_condition(self, Exchange x)
    cdef Choice _by_weight(self, uint64_t number)
    cdef Choice _sticky(self, Exchange x)
