"""Consistent hash ring: keys stay with their member while others come and go.

A member owns the arcs that end at its points, POINTS_PER_WEIGHT for each unit of weight (weights are divided by their
greatest common divisor first). A point depends only on the member's name and its number, so a member that leaves gives
up its own keys, about its share of them, and no other key moves. Above MOST_POINTS in all the counts are scaled down,
which does move some keys when the scale changes.

A pick is one look at a bucket and a few points, however many members there are.
"""

import cython
from cpython.mem cimport PyMem_RawFree

from kairos._speedups.hashing cimport hash_bytes
from kairos._speedups.memory cimport calloc_rows

from math import gcd

cdef enum:
    POINTS_PER_WEIGHT = 256  # shares are even to about 1/sqrt(256), 6 %
    MOST_POINTS = 65536


def hash_of(bytes data not None):
    """The 64-bit hash of bytes; the same in every process."""
    return hash_bytes(data, len(data), 0)


def point_counts(list weights):
    """How many points each member gets."""
    if any(weight < 1 for weight in weights):
        raise ValueError("a ring's weights are 1 or more")
    common = gcd(*weights)
    counts = [weight // common * POINTS_PER_WEIGHT for weight in weights]
    total = sum(counts)
    if total <= MOST_POINTS:
        return counts
    return [max(1, count * MOST_POINTS // total) for count in counts]


def sorted_points(list names, list counts):
    """(hash, member) of all points in the order of the ring."""
    cdef bytes name
    points = []
    for member, (name, count) in enumerate(zip(names, counts, strict=True)):
        points += [(hash_bytes(name, len(name), number + 1), member) for number in range(count)]
    points.sort(key=lambda point: (point[0], names[point[1]]))
    return points


@cython.final
cdef class Ring:

    def __cinit__(self, names, weights=None):
        cdef list keys = [name.encode() if isinstance(name, str) else bytes(name) for name in names]
        self.members = len(keys)
        points = sorted_points(keys, point_counts(list(weights) if weights is not None else [1] * len(keys)))
        self.count = len(points)
        if self.count:
            self._fill(points)

    def __dealloc__(self):
        PyMem_RawFree(self.points)
        PyMem_RawFree(self.buckets)

    def __len__(self):
        return self.members

    cdef int _fill(self, list points) except -1:
        cdef:
            Py_ssize_t at, bucket, bits = 1
            Py_ssize_t first = 0
        while (<Py_ssize_t>1 << bits) < self.count:
            bits += 1
        self.shift = 64 - bits
        self.points = <Point*>calloc_rows(self.count, sizeof(Point))
        self.buckets = <int32_t*>calloc_rows(<Py_ssize_t>1 << bits, sizeof(int32_t))
        for at in range(self.count):
            self.points[at].hash = points[at][0]
            self.points[at].member = points[at][1]
        for bucket in range(<Py_ssize_t>1 << bits):
            while first < self.count and self.points[first].hash >> self.shift < <uint64_t>bucket:
                first += 1
            self.buckets[bucket] = <int32_t>first
        return 0

    cdef int pick(self, uint64_t hash, const uint8_t* down) noexcept nogil:
        cdef Py_ssize_t at, walked
        if self.count == 0:
            return -1
        at = self.buckets[hash >> self.shift]
        while at < self.count and self.points[at].hash < hash:
            at += 1
        if at == self.count:
            at = 0
        if down == NULL:
            return self.points[at].member
        for walked in range(self.count):
            if not down[self.points[(at + walked) % self.count].member]:
                return self.points[(at + walked) % self.count].member
        return self.points[at].member

    def owner(self, uint64_t hash):
        """The member that owns a hash; -1 on an empty ring."""
        return self.pick(hash, NULL)

    def owner_up(self, uint64_t hash, bytes down not None):
        """The first member from a hash on whose byte in `down` is 0."""
        if len(down) != self.members:
            raise ValueError(f"{len(down)} bytes for {self.members} members")
        return self.pick(hash, down)
