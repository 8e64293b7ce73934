"""Sets of networks (trusted_proxies, metrics.allow), matched on the text of an address without making objects."""

import ipaddress

from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset


cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char* text, void* out)
    int AF_INET
    int AF_INET6


cdef bint _parse(const char* text, Py_ssize_t n, unsigned char* out) noexcept:
    """Text to 16 bytes, IPv4 mapped. False when it is no address."""
    cdef char buffer[46]
    if n < 2 or n > 45:
        return False
    memcpy(buffer, text, n)
    buffer[n] = 0
    if inet_pton(AF_INET, buffer, out + 12) == 1:
        memset(out, 0, 10)
        out[10] = 0xFF
        out[11] = 0xFF
        return True
    return inet_pton(AF_INET6, buffer, out) == 1


cdef class Networks:
    """Made of CIDR strings; a plain address counts as a network of one.

    Raises:
        ValueError: a string is neither.
    """

    def __cinit__(self, cidrs):
        cdef Py_ssize_t i
        networks = [ipaddress.ip_network(text, strict=False) for text in cidrs]
        self.items = <Network*>malloc(max(1, len(networks)) * sizeof(Network))
        if self.items == NULL:
            raise MemoryError
        for i, network in enumerate(networks):
            packed = network.network_address.packed
            self.items[i].bits = network.prefixlen
            if network.version == 4:
                packed = bytes(10) + b"\xff\xff" + packed
                self.items[i].bits += 96
            memcpy(self.items[i].prefix, <const char*>packed, 16)
        self.count = len(networks)

    def __dealloc__(self):
        free(self.items)

    def __contains__(self, str address):
        text = address.encode()
        return bool(self.contains(text, len(text)))

    cdef bint contains(self, const char* text, Py_ssize_t n) noexcept:
        """Whether the address written as text[:n] lies in one of the networks."""
        cdef unsigned char address[16]
        cdef Network* item
        cdef Py_ssize_t i
        cdef int whole, rest
        if not _parse(text, n, address):
            return False
        for i in range(self.count):
            item = &self.items[i]
            whole = item.bits >> 3
            rest = item.bits & 7
            if memcmp(address, item.prefix, whole) == 0 and (
                rest == 0 or ((address[whole] ^ item.prefix[whole]) >> (8 - rest)) == 0
            ):
                return True
        return False

    cdef const char* client(self, const char* chain, Py_ssize_t n, Py_ssize_t* size) noexcept:
        """The address X-Forwarded-For speaks for: from the right, the first that is not trusted itself.

        NULL when there is none that is an address.
        """
        cdef const char* end = chain + n
        cdef const char* start
        cdef const char* best = NULL
        cdef unsigned char address[16]
        while end > chain:
            while end > chain and (end[-1] == c" " or end[-1] == c"\t" or end[-1] == c","):
                end -= 1
            start = end
            while start > chain and start[-1] != c",":
                start -= 1
            while start < end and (start[0] == c" " or start[0] == c"\t"):
                start += 1
            if not _parse(start, end - start, address):
                return best
            best = start
            size[0] = end - start
            if not self.contains(start, end - start):
                return best
            end = start
        return best

    def client_of(self, bytes chain):
        """For tests: see client()."""
        cdef Py_ssize_t size = 0
        cdef const char* found = self.client(chain, len(chain), &size)
        return None if found == NULL else found[:size].decode()
