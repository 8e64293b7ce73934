"""Sets and maps of networks (trusted_proxies, metrics.allow, access), asked with the text of an address.

The most specific network counts; of two that are the same, the one with the greater value. IPv4 addresses stand in
::ffff:0:0/96, but networks around that, such as ::/0, mean IPv6 only. However many networks there are, a look is a
binary search over the borders between them.
"""

import ipaddress

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy, memset


cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char* text, void* out)
    int AF_INET
    int AF_INET6

IPV4 = 0xFFFF << 32  # where the IPv4 addresses stand among the IPv6 ones


cdef bint parse_address(const char* text, Py_ssize_t n, unsigned char* out) noexcept:
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


cdef uint64_t _big_endian(const unsigned char* p) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(8):
        value = value << 8 | p[i]
    return value


cdef class AddressMap:
    """Made of (CIDR string, value of 0 or more); a plain address counts as a network of one.

    Raises:
        ValueError: a string is neither.
    """

    def __cinit__(self, rules, int otherwise=0):
        cdef Py_ssize_t i
        borders = _borders([(*_span(text), value) for text, value in rules], otherwise)
        self.items = <Border*>malloc(len(borders) * sizeof(Border))
        if self.items == NULL:
            raise MemoryError
        self.count = len(borders)
        for i, (start, value) in enumerate(borders):
            self.items[i].high = start >> 64
            self.items[i].low = start & 0xFFFFFFFFFFFFFFFF
            self.items[i].value = value

    def __dealloc__(self):
        free(self.items)

    def __getitem__(self, str address):
        text = address.encode()
        return self.find(text, len(text))

    cdef int find(self, const char* text, Py_ssize_t n) noexcept:
        """The value of the address written as text[:n]; -1 where that is no address."""
        cdef unsigned char address[16]
        return self.value(address) if parse_address(text, n, address) else -1

    cdef int value(self, const unsigned char* address) noexcept nogil:
        """The value of 16 bytes: the last border that is not behind them."""
        cdef uint64_t high = _big_endian(address), low = _big_endian(address + 8)
        cdef Py_ssize_t first = 0, last = self.count - 1, middle
        cdef Border* item
        while first < last:
            middle = (first + last + 1) >> 1
            item = &self.items[middle]
            if item.high < high or (item.high == high and item.low <= low):
                first = middle
            else:
                last = middle - 1
        return self.items[first].value


def _span(text):
    """First address of a network and of what follows it, as numbers."""
    network = ipaddress.ip_network(text, strict=False)
    start = int(network.network_address) + (IPV4 if network.version == 4 else 0)
    return start, start + network.num_addresses


def _borders(rules, otherwise):
    """Where the value changes: (address, value from there on). Networks lie in each other or apart, never across."""
    inside = [(1 << 128, otherwise)]  # the networks around the present place: (end, value)
    borders = [(0, otherwise)]
    for start, end, value in sorted([*rules, (IPV4, IPV4 + (1 << 32), otherwise)], key=_place):
        while inside[-1][0] <= start:
            borders.append((inside.pop()[0], inside[-1][1]))
        borders.append((start, value))
        inside.append((end, value))
    while len(inside) > 1:
        borders.append((inside.pop()[0], inside[-1][1]))
    last = dict(borders)  # of borders at one place the last one counts
    return [(start, last[start]) for start in sorted(last) if start < 1 << 128]


def _place(rule):
    """By start, wider networks first; all IPv4 (the default's) before rules for it."""
    start, end, value = rule
    return start, -end, value


cdef void _bare(const char** text, Py_ssize_t* n) noexcept nogil:
    """An address without the port that some load balancers write behind it: `192.0.2.1:80`, `[2001:db8::1]:80`."""
    cdef const char* p = text[0]
    cdef const char* colon
    if n[0] > 2 and p[0] == c"[":
        colon = <const char*>memchr(p, c"]", n[0])
        if colon != NULL and (colon + 1 == p + n[0] or (colon[1] == c":" and _is_port(colon + 2, p + n[0]))):
            text[0] = p + 1
            n[0] = colon - p - 1
        return
    colon = <const char*>memchr(p, c":", n[0])
    if colon != NULL and memchr(p, c".", colon - p) != NULL and _is_port(colon + 1, p + n[0]):
        n[0] = colon - p


cdef bint _is_port(const char* p, const char* end) noexcept nogil:
    cdef const char* at = p
    while at < end and c"0" <= at[0] <= c"9":
        at += 1
    return at == end and 0 < end - p <= 5


cdef class Networks:
    """A set, made of CIDR strings; a plain address counts as a network of one.

    Raises:
        ValueError: a string is neither.
    """

    def __cinit__(self, cidrs):
        self.map = AddressMap([(text, 1) for text in cidrs])

    def __contains__(self, str address):
        return self.map[address] == 1

    cdef bint contains(self, const char* text, Py_ssize_t n) noexcept:
        """Whether the address written as text[:n] lies in one of the networks."""
        return self.map.find(text, n) == 1

    cdef const char* client(self, const char* chain, Py_ssize_t n, Py_ssize_t* size) noexcept:
        """The address X-Forwarded-For speaks for: from the right, the first that is not trusted itself.

        NULL when there is none that is an address.
        """
        cdef const char* end = chain + n
        cdef const char* start
        cdef const char* text
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
            text, n = start, end - start
            _bare(&text, &n)
            if not parse_address(text, n, address):
                return best
            best = text
            size[0] = n
            if not self.contains(text, n):
                return best
            end = start
        return best

    def client_of(self, bytes chain):
        """For tests: see client()."""
        cdef Py_ssize_t size = 0
        cdef const char* found = self.client(chain, len(chain), &size)
        return None if found == NULL else found[:size].decode()
