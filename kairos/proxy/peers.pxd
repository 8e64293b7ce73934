"""Sets and maps of networks, asked with the text of an address, without making objects."""

from libc.stdint cimport uint64_t


cdef struct Border:
    uint64_t high, low          # the first address, as a number: IPv6, or IPv4 in ::ffff:0:0/96
    int value                   # of this and the following ones, up to the next border


# Text to 16 bytes, IPv4 mapped. False when it is no address.
cdef bint parse_address(const char* text, Py_ssize_t n, unsigned char* out) noexcept


cdef class AddressMap:
    cdef Border* items          # in rising order; the first one is at ::
    cdef Py_ssize_t count

    cdef int find(self, const char* text, Py_ssize_t n) noexcept
    cdef int value(self, const unsigned char* address) noexcept nogil


cdef class Networks:
    cdef AddressMap map         # 1: inside

    cdef bint contains(self, const char* text, Py_ssize_t n) noexcept
    cdef const char* client(self, const char* chain, Py_ssize_t n, Py_ssize_t* size) noexcept
