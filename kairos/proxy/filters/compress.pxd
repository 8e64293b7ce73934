"""Responses compressed on their way out; see compress.pyx."""

from libc.stdint cimport int64_t

from kairos.proxy.exchange cimport BodyPipe, Exchange, Filter


cdef class Compress(Filter):
    cdef readonly tuple codings         # names, in the order of preference
    cdef dict levels                    # by name
    cdef dict choices                   # Accept-Encoding -> (coding or None, whether plain is refused)
    cdef dict types                     # Content-Type -> whether it is compressed
    cdef frozenset exact                # types in full
    cdef tuple prefixes, suffixes       # "text/", "+json"
    cdef bint events                    # event streams too
    cdef int64_t least                  # bytes
    cdef int padding                    # most bytes of it, 0: none
    cdef bint avoid                     # what may hold a secret is left as it is
    cdef bint marks                     # ETags get a mark instead of being made weak
    cdef readonly int64_t most, streams  # bodies compressed at once: allowed, and now
    cdef object store                   # of the route's cache, for what it has compressed; None: it has none
    cdef int _compress(self, Exchange x, object coding) except -1
    cdef tuple _choice(self, Exchange x)
    cdef bint _compressible(self, bytes kind) except -1
    cdef bint _guessable(self, Exchange x) except -1
    cdef int _not_modified(self, Exchange x) except -1
    cdef bytes _changed_tag(self, bytes tag, object coding)


cdef class Squeeze(BodyPipe):
    cdef Compress owner                 # None once the body has ended
    cdef int64_t* cells                 # R_* of the route
    cdef object plan                    # keeps them
    cdef str coding
    cdef object encoder                 # None until there is something to encode
    cdef int64_t left                   # bytes of a body whose length is known, else -1
    cdef bint absent                    # there is no body: HEAD
    cdef bytes url                      # of a stored response, whose compressed form is stored too; None: it is not
    cdef object _begun(self)
    cdef bytes _whole(self, bytes data)
    cdef int _over(self) except -1
