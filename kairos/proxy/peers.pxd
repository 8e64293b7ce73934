"""Sets of networks, matched on the text of an address without making objects."""


cdef struct Network:
    unsigned char prefix[16]    # IPv6, IPv4 mapped into ::ffff:0:0/96
    int bits


cdef class Networks:
    cdef Network* items
    cdef Py_ssize_t count

    cdef bint contains(self, const char* text, Py_ssize_t n) noexcept
    cdef const char* client(self, const char* chain, Py_ssize_t n, Py_ssize_t* size) noexcept
