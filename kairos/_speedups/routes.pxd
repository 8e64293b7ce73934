"""The route table: the C interface. What matches what is told in routes.pyx."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef enum:
    MAX_PARAMS = 16  # parameters of one pattern

cdef enum:  # Match.status
    NOT_FOUND = 0
    FOUND = 1
    METHOD_NOT_ALLOWED = 2  # the path is known; `allowed` says what for
    OPTIONS_ANSWER = 3  # OPTIONS, not routed, of a known path: answer it with `allowed`
    REDIRECT = 4  # the canonical path is this one with its last slash taken away, or with one added

cdef enum:  # method ids are those of cells.pxd, whose METHOD_OTHER no route serves; a mask has bit 1 << id
    METHOD_CONNECT = 9  # counted as METHOD_OTHER, but routes can list it

cdef struct Match:
    int status
    Py_ssize_t index  # of the route (the most specific one where none serves the method); -1 for NOT_FOUND
    int nparams  # captures, in the order of the pattern; 0 unless FOUND
    int param_start[16]  # offsets into the path given
    int param_end[16]
    uint32_t allowed  # methods of all patterns that match the path; set for METHOD_NOT_ALLOWED and OPTIONS_ANSWER

# One hash table of texts, each owned by a number: (owner, text) -> target.
cdef struct Link:
    uint64_t hash
    int32_t owner
    int32_t target  # -1: the slot is free
    uint32_t offset  # of the text in the pool
    uint32_t length

cdef struct Links:
    Link* slots
    int shift  # 64 - log2(slots): the top bits of a hash are its home slot
    uint64_t mask  # slots - 1
    Py_ssize_t count

cdef struct Node:
    int32_t literals  # literal children, to be found in `literals`
    int32_t first_shape  # shapes of its mixed children
    int32_t shapes
    int32_t param  # child below a whole-segment parameter, or -1
    int32_t tail  # terminal of a tail, or -1
    int32_t terminal  # of the pattern that ends here, or -1

# Mixed children of one node that agree in how many literal bytes they have, before, after and in all.
cdef struct Shape:
    uint32_t prefix
    uint32_t suffix

cdef struct Mixed:
    int32_t child
    int32_t first_gap  # literals between its parameters
    int32_t gaps
    bint more  # the next one has the same prefix and suffix

cdef struct Gap:
    uint32_t offset
    uint32_t length

cdef struct Terminal:
    int32_t first  # entry
    int32_t count

cdef struct Entry:
    int32_t route
    uint32_t methods
    bint redirect

cdef struct Search:
    const char* path
    Py_ssize_t n
    uint32_t method  # its bit
    uint32_t allowed  # methods seen so far
    int32_t known  # first route seen for the path, or -1
    int32_t redirect  # first route that would redirect, or -1
    Match* out


cdef class RouteTable:
    cdef:
        readonly list values  # the routes' objects, by index
        readonly list patterns  # the routes' Patterns, by index
        bytes pool  # every text the links point into
        const char* text  # of the pool
        Links hosts  # (0, host or ".suffix") -> root node
        Links statics  # (root, path) -> terminal
        Links literals  # (node, segment) -> node
        Links mixtures  # (shape, prefix + suffix) -> mixed
        Node* nodes  # node 0 is the root for any host
        Shape* shapes
        Mixed* mixed
        Gap* gaps
        Terminal* terminals
        Entry* entries

    cdef int _fill_nodes(self, trie) except -1
    cdef int _fill_mixed(self, dict nodes, bytearray pool) except -1
    cdef int _fill_terminals(self, list terminals) except -1

    # Match a normalised host (empty: none) and path; returns and sets `out.status`. `method` is an id.
    cdef int lookup(
        self, const char* host, Py_ssize_t host_len, const char* path, Py_ssize_t path_len, int method, Match* out
    ) noexcept nogil

    cdef bint search_root(self, Search* search, int32_t root, uint64_t path_hash) noexcept nogil
    cdef bint walk(self, Search* search, int32_t node, Py_ssize_t start, int nparams) noexcept nogil
    cdef bint enter(self, Search* search, int32_t node, Py_ssize_t end, int nparams) noexcept nogil
    cdef bint walk_mixed(self, Search* search, Node* node, Py_ssize_t start, Py_ssize_t end, int nparams) noexcept nogil
    cdef bint try_mixed(
        self, Search* search, Mixed* mixed, Shape* shape, Py_ssize_t start, Py_ssize_t end, int nparams
    ) noexcept nogil
    cdef bint settle(self, Search* search, int32_t terminal, int nparams) noexcept nogil


cdef struct Part:
    int param  # index of the capture, or -1 for a literal
    uint32_t offset  # of a literal
    uint32_t length
    bint in_query  # a capture behind the "?": separators are encoded


cdef class Template:
    cdef:
        readonly bytes literals  # all literal text, in order
        const char* text  # of it
        readonly bint has_query  # the client's query is to be joined with "&" instead of "?"
        readonly bint fixed  # no captures: `literals` is the path
        Part* parts
        Py_ssize_t count

    # The bytes `render` may write for this match.
    cdef Py_ssize_t size(self, const Match* match) noexcept nogil
    # Write the path for the captures of `match` in `path`; its length, or -1 when `cap` is too small.
    cdef Py_ssize_t render(self, const char* path, const Match* match, char* out, Py_ssize_t cap) noexcept nogil


cdef class RouteMatch:
    cdef:
        RouteTable table
        readonly object path
        Match found
