"""Who may use a route by the address asking."""

from libc.stdint cimport int64_t

from kairos._speedups.bans cimport Bans
from kairos.proxy.exchange cimport Exchange, Filter
from kairos.proxy.peers cimport AddressMap


cdef class Lists(Filter):
    cdef AddressMap map                 # address -> 0, ALLOW or DENY
    cdef bint closed                    # addresses in no list are refused
    cdef int64_t* denied                # this worker's W_ACCESS_DENIED


cdef class Jail(Filter):
    cdef Bans bans
    cdef str name                       # as in the log
    cdef AddressMap exempt              # 1: never banned; None: nobody is exempt
    cdef char failing[600]              # status -> whether it is a failure
    cdef bint tells                     # 429 with Retry-After instead of 403
    cdef int64_t* worker                # W_* cells
    cdef object _refuse(self, Exchange x, int64_t left)
