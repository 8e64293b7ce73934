"""Routes compiled into one immutable table: which route serves a host, path and method, and what it captured.

Patterns, segment by segment:
  literal        itself, case-sensitive, in normal form (see target.pyx)
  {name}         one whole segment
  v{a}.{b}       a segment of literals and parameters; where it can be cut in several ways, earlier parameters take more
  {name:path}    last segment only: the rest of the path with its slashes, which may be empty
A parameter never takes an empty piece, nor "." or ".." however written.

Which one wins: at the first segment where two patterns differ, literal before mixed before whole parameter before tail;
of two mixed ones that with more literal bytes, then the longer prefix. Hosts go first: the exact name, then the longest
`*.suffix`, then routes for any host. A pattern that does not list the method is passed over for the next best that
does, so `Allow` is the union over every pattern of the path. The order of routes never matters.

- HEAD goes where GET goes, unless the pattern routes it. OPTIONS of a known path is answered unless routed.
- trailing_slash `ignore`: the route also serves its twin, the path with its last slash added or taken away, but for
  methods that a route written so serves. `redirect`: the twin redirects where nothing else is found. The twin of
  `/a/{rest:path}` is `/a`. "/" has none.
- Equal patterns (names aside) for one host and method are a RouteConflict.

Cost: static paths take one hash lookup per host level, others one per segment, however many routes there are. A search
goes back when a more specific branch fails, but a node has one parent, so each is visited at most once: the bound is
the number of nodes that fit the path, 2^segments where routes spell out every combination, and usually the segments.
Mixed segments cost one lookup for each distinct (prefix length, suffix length) at their node.
"""

import cython
from cpython.mem cimport PyMem_RawFree
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.limits cimport INT_MAX
from libc.string cimport memchr, memcmp, memcpy

from kairos._speedups.cells cimport METHOD_OPTIONS, METHOD_OTHER
from kairos._speedups.hashing cimport hash_bytes
from kairos._speedups.memory cimport calloc_rows

from kairos._speedups.patterns import (
    Growth,
    MAX_AFFIX,
    MAX_PARAMS as PATTERN_PARAMS,
    METHOD_IDS as METHOD_NUMBERS,
    TWIN_REDIRECT,
    RouteError,
    encoded,
    method_names,
    mixed_rank,
    template_parts,
    with_head,
)

cdef enum:
    AFFIX = 256

cdef dict METHOD_IDS = METHOD_NUMBERS
cdef tuple STATUSES = ("not_found", "found", "method_not_allowed", "options", "redirect")

assert (AFFIX, MAX_PARAMS) == (MAX_AFFIX, PATTERN_PARAMS), "patterns may hold more than a search has room for"


# --- flat memory -----------------------------------------------------------------------------------------------------

cdef inline uint64_t link_hash(uint64_t text_hash, int32_t owner) noexcept nogil:
    return (text_hash + <uint64_t><uint32_t>owner) * <uint64_t>0x9E3779B97F4A7C15ULL


cdef int fill_links(Links* links, dict items, bytearray pool) except -1:
    """Build the table at a load of at most one half."""
    cdef:
        uint64_t slot, digest
        Link* link
        bytes text
        int bits = 3
    while (<Py_ssize_t>1 << bits) < 2 * len(items):
        bits += 1
    links.shift = 64 - bits
    links.mask = (<uint64_t>1 << bits) - 1
    links.slots = <Link*>calloc_rows(<Py_ssize_t>1 << bits, sizeof(Link))
    for slot in range(links.mask + 1):
        links.slots[slot].target = -1
    for (owner, text), target in items.items():
        digest = link_hash(hash_bytes(text, len(text), 0), owner)
        slot = digest >> links.shift
        while links.slots[slot].target >= 0:
            slot = (slot + 1) & links.mask
        link = &links.slots[slot]
        link.hash = digest
        link.owner = owner
        link.target = target
        link.offset = len(pool)
        link.length = len(text)
        pool += text
    links.count = len(items)
    return 0


cdef int32_t find_link(
    const Links* links, const char* pool, int32_t owner, uint64_t text_hash, const char* text, size_t n
) noexcept nogil:
    """The target of (owner, text), or -1."""
    cdef:
        uint64_t digest = link_hash(text_hash, owner)
        uint64_t slot = digest >> links.shift
        const Link* link = &links.slots[slot]
    while link.target >= 0:
        if link.hash == digest and link.owner == owner and link.length == n:
            if memcmp(pool + link.offset, text, n) == 0:
                return link.target
        slot = (slot + 1) & links.mask
        link = &links.slots[slot]
    return -1


# --- what a capture may be -------------------------------------------------------------------------------------------

cdef bint is_dots(const char* text, Py_ssize_t n) noexcept nogil:
    """Whether a piece is "." or "..", also written "%2e"."""
    cdef:
        Py_ssize_t at = 0
        int dots = 0
    while at < n and dots < 3:
        if text[at] == c".":
            at += 1
        elif text[at] == c"%" and at + 2 < n and text[at + 1] == c"2" and text[at + 2] | 0x20 == c"e":
            at += 3
        else:
            return False
        dots += 1
    return at == n and 1 <= dots <= 2


cdef bint is_clean_tail(const char* text, Py_ssize_t n) noexcept nogil:
    """Whether no segment of a tail is a dot segment."""
    cdef:
        const char* slash
        const char* end = text + n
    while True:
        slash = <const char*>memchr(text, c"/", end - text)
        if is_dots(text, (end if slash == NULL else slash) - text):
            return False
        if slash == NULL:
            return True
        text = slash + 1


cdef Py_ssize_t find_last(
    const char* text, Py_ssize_t least, Py_ssize_t most, const char* wanted, size_t n
) noexcept nogil:
    """The last place in least..most where `wanted` stands, or -1."""
    cdef Py_ssize_t at = most
    while at >= least:
        if memcmp(text + at, wanted, n) == 0:
            return at
        at -= 1
    return -1


cdef inline int capture(Match* out, int number, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    out.param_start[number] = <int>start
    out.param_end[number] = <int>end
    return number + 1


@cython.final
cdef class RouteTable:
    """Immutable. Routes are (hosts, external_path, methods, trailing_slash, value); no hosts means any host.

    They may also come as a Growth, whose steps were taken before.
    """

    def __cinit__(self, routes):
        cdef object growth = routes if isinstance(routes, Growth) else Growth(list(routes))
        growth.finish()
        trie = growth.trie
        self.patterns = growth.patterns
        self.values = [route[4] for route in growth.routes]
        pool = bytearray()
        fill_links(&self.hosts, {(0, host): root for host, root in trie.roots.items() if host}, pool)
        fill_links(&self.statics, trie.statics, pool)
        fill_links(&self.literals, trie.literals, pool)
        self._fill_nodes(trie)
        self._fill_mixed(trie.mixed, pool)
        self._fill_terminals(trie.terminals)
        self.pool = bytes(pool)
        self.text = self.pool

    def __dealloc__(self):
        PyMem_RawFree(self.hosts.slots)
        PyMem_RawFree(self.statics.slots)
        PyMem_RawFree(self.literals.slots)
        PyMem_RawFree(self.mixtures.slots)
        PyMem_RawFree(self.nodes)
        PyMem_RawFree(self.shapes)
        PyMem_RawFree(self.mixed)
        PyMem_RawFree(self.gaps)
        PyMem_RawFree(self.terminals)
        PyMem_RawFree(self.entries)

    def __len__(self):
        return len(self.values)

    cdef int _fill_nodes(self, trie) except -1:
        cdef Py_ssize_t at
        self.nodes = <Node*>calloc_rows(len(trie.params), sizeof(Node))
        for at in range(len(trie.params)):
            self.nodes[at].literals = trie.literal_counts[at]
            self.nodes[at].param = trie.params[at]
            self.nodes[at].tail = trie.tails[at]
            self.nodes[at].terminal = trie.ends[at]
        return 0

    cdef int _fill_mixed(self, dict nodes, bytearray pool) except -1:
        """Lay the mixed children of each node out by shape, and within a shape by prefix and suffix."""
        cdef:
            Py_ssize_t total = sum(len(mixed) for mixed in nodes.values())
            Py_ssize_t gaps = sum(len(pieces) - 2 for mixed in nodes.values() for pieces in mixed)
            int32_t at = 0, gap = 0, shape = -1
            Mixed* row
            dict first = {}
        self.mixed = <Mixed*>calloc_rows(total, sizeof(Mixed))
        self.shapes = <Shape*>calloc_rows(total, sizeof(Shape))
        self.gaps = <Gap*>calloc_rows(gaps, sizeof(Gap))
        for node, mixed in nodes.items():
            self.nodes[<Py_ssize_t>node].first_shape = shape + 1
            seen = None
            for pieces in sorted(mixed, key=mixed_rank):
                if mixed_rank(pieces)[:3] != seen:
                    seen = mixed_rank(pieces)[:3]
                    shape += 1
                    self.shapes[shape].prefix = len(pieces[0])
                    self.shapes[shape].suffix = len(pieces[-1])
                row = &self.mixed[at]
                row.child = mixed[pieces]
                row.first_gap = gap
                row.gaps = len(pieces) - 2
                for text in pieces[1:-1]:
                    self.gaps[gap].offset = len(pool)
                    self.gaps[gap].length = len(text)
                    pool += text
                    gap += 1
                key = (shape, pieces[0] + pieces[-1])
                if first.setdefault(key, at) != at:
                    self.mixed[at - 1].more = True
                at += 1
            self.nodes[<Py_ssize_t>node].shapes = shape + 1 - self.nodes[<Py_ssize_t>node].first_shape
        return fill_links(&self.mixtures, first, pool)

    cdef int _fill_terminals(self, list terminals) except -1:
        cdef Py_ssize_t at, row = 0
        self.terminals = <Terminal*>calloc_rows(len(terminals), sizeof(Terminal))
        self.entries = <Entry*>calloc_rows(sum(map(len, terminals)), sizeof(Entry))
        for at in range(len(terminals)):
            self.terminals[at].first = row
            self.terminals[at].count = len(terminals[at])
            for index, mask, kind in with_head(terminals[at]):
                self.entries[row].route = index
                self.entries[row].methods = mask
                self.entries[row].redirect = kind == TWIN_REDIRECT
                row += 1
        return 0

    # --- search ---

    cdef bint settle(self, Search* search, int32_t terminal, int nparams) noexcept nogil:
        """A pattern of the path was found: take it if it serves the method, else remember what it offers."""
        cdef:
            const Entry* entry = &self.entries[self.terminals[terminal].first]
            const Entry* end = entry + self.terminals[terminal].count
        while entry < end:
            if entry.redirect:
                if search.redirect < 0 and entry.methods & search.method:
                    search.redirect = entry.route
            elif entry.methods & search.method:
                search.out.status = FOUND
                search.out.index = entry.route
                search.out.nparams = nparams
                return True
            else:
                search.allowed |= entry.methods
                if search.known < 0:
                    search.known = entry.route
            entry += 1
        return False

    cdef bint enter(self, Search* search, int32_t node, Py_ssize_t end, int nparams) noexcept nogil:
        """The segment that ends at `end` led to a node."""
        if end < search.n:
            return self.walk(search, node, end + 1, nparams)
        if self.nodes[node].terminal < 0:
            return False
        return self.settle(search, self.nodes[node].terminal, nparams)

    cdef bint walk(self, Search* search, int32_t node, Py_ssize_t start, int nparams) noexcept nogil:
        """Match the segment at `start` and what follows, most specific first."""
        cdef:
            Node* row = &self.nodes[node]
            const char* text = search.path + start
            const char* slash = <const char*>memchr(text, c"/", search.n - start)
            Py_ssize_t end = search.n if slash == NULL else slash - search.path
            int32_t child
        if row.literals:
            child = find_link(
                &self.literals, self.text, node, hash_bytes(text, end - start, 0), text, end - start
            )
            if child >= 0 and self.enter(search, child, end, nparams):
                return True
        if row.shapes and self.walk_mixed(search, row, start, end, nparams):
            return True
        if row.param >= 0 and end > start and not is_dots(text, end - start):
            capture(search.out, nparams, start, end)
            if self.enter(search, row.param, end, nparams + 1):
                return True
        if row.tail >= 0 and is_clean_tail(text, search.n - start):
            return self.settle(search, row.tail, capture(search.out, nparams, start, search.n))
        return False

    cdef bint walk_mixed(
        self, Search* search, Node* node, Py_ssize_t start, Py_ssize_t end, int nparams
    ) noexcept nogil:
        cdef:
            char affix[AFFIX]
            int32_t number, found
            Shape* shape
            size_t size
        for number in range(node.first_shape, node.first_shape + node.shapes):
            shape = &self.shapes[number]
            size = shape.prefix + shape.suffix
            if size >= <size_t>(end - start):
                continue
            memcpy(affix, search.path + start, shape.prefix)
            memcpy(affix + shape.prefix, search.path + end - shape.suffix, shape.suffix)
            found = find_link(&self.mixtures, self.text, number, hash_bytes(affix, size, 0), affix, size)
            while found >= 0:
                if self.try_mixed(search, &self.mixed[found], shape, start, end, nparams):
                    return True
                found = found + 1 if self.mixed[found].more else -1
        return False

    cdef bint try_mixed(
        self, Search* search, Mixed* mixed, Shape* shape, Py_ssize_t start, Py_ssize_t end, int nparams
    ) noexcept nogil:
        """Cut the segment from its end: each gap as far right as it goes, which gives earlier parameters more."""
        cdef:
            Py_ssize_t first = start + shape.prefix
            Py_ssize_t last = end - shape.suffix
            Py_ssize_t at, n
            Gap* gap
            int number
        for number in range(mixed.gaps - 1, -1, -1):
            gap = &self.gaps[mixed.first_gap + number]
            n = gap.length
            at = find_last(search.path, first + 1, last - 1 - n, self.text + gap.offset, n)
            if at < 0 or is_dots(search.path + at + n, last - at - n):
                return False
            capture(search.out, nparams + number + 1, at + n, last)
            last = at
        if last <= first or is_dots(search.path + first, last - first):
            return False
        capture(search.out, nparams, first, last)
        return self.enter(search, mixed.child, end, nparams + mixed.gaps + 1)

    cdef bint search_root(self, Search* search, int32_t root, uint64_t path_hash) noexcept nogil:
        cdef int32_t terminal = find_link(&self.statics, self.text, root, path_hash, search.path, search.n)
        if terminal >= 0 and self.settle(search, terminal, 0):
            return True
        return self.walk(search, root, 1, 0)

    cdef int lookup(
        self, const char* host, Py_ssize_t host_len, const char* path, Py_ssize_t path_len, int method, Match* out
    ) noexcept nogil:
        cdef:
            Search search
            uint64_t path_hash
            int32_t root
            Py_ssize_t at
        out.status = NOT_FOUND
        out.index = -1
        out.nparams = 0
        out.allowed = 0
        if path_len < 1 or path_len > INT_MAX or path[0] != c"/":
            return NOT_FOUND
        search.path = path
        search.n = path_len
        search.method = <uint32_t>1 << method if 0 <= method <= METHOD_CONNECT else 0
        search.allowed = 0
        search.known = search.redirect = -1
        search.out = out
        path_hash = hash_bytes(path, path_len, 0)
        if self.hosts.count:
            for at in range(host_len):
                if at == 0 or host[at] == c".":
                    root = find_link(
                        &self.hosts, self.text, 0, hash_bytes(host + at, host_len - at, 0), host + at, host_len - at
                    )
                    if root >= 0 and self.search_root(&search, root, path_hash):
                        return FOUND
        if self.search_root(&search, 0, path_hash):
            return FOUND
        return conclude(&search, method)

    def match(self, host, path, str method not None):
        """Match a normalised host (None: not given) and path."""
        cdef:
            RouteMatch result = RouteMatch.__new__(RouteMatch)
            const char* host_text = NULL
            const char* path_text
            Py_ssize_t host_len = 0, path_len
        if host is not None:
            host_text = PyUnicode_AsUTF8AndSize(host, &host_len)
        if type(path) is bytes:
            path_text = <bytes>path
            path_len = len(<bytes>path)
        else:
            path_text = PyUnicode_AsUTF8AndSize(path, &path_len)
        result.table = self
        result.path = path
        self.lookup(host_text, host_len, path_text, path_len, METHOD_IDS.get(method, METHOD_OTHER), &result.found)
        return result


cdef int conclude(const Search* search, int method) noexcept nogil:
    """No pattern serves the method."""
    cdef Match* out = search.out
    if search.redirect >= 0:
        out.status = REDIRECT
        out.index = search.redirect
    elif search.known >= 0:
        out.status = OPTIONS_ANSWER if method == METHOD_OPTIONS else METHOD_NOT_ALLOWED
        out.index = search.known
        out.allowed = search.allowed | 1 << METHOD_OPTIONS
    return out.status


@cython.final
@cython.freelist(16)
cdef class RouteMatch:
    """A lookup's result for Python; everything but the search is worked out when asked for."""

    @property
    def status(self):
        return STATUSES[self.found.status]

    @property
    def index(self):
        return self.found.index

    @property
    def value(self):
        return self.table.values[self.found.index] if self.found.index >= 0 else None

    @property
    def params(self):
        path = self.path if isinstance(self.path, bytes) else self.path.encode()
        if self.found.status != FOUND:
            return {}
        return {  # where a tail's path came without its slash, the tail captured nothing
            name: path[self.found.param_start[number] : self.found.param_end[number]].decode()
            if number < self.found.nparams else ""
            for number, name in enumerate(self.table.patterns[self.found.index].names)
        }

    @property
    def allowed(self):
        return method_names(self.found.allowed)

    @property
    def location(self):
        """The canonical path of a redirect."""
        if self.found.status != REDIRECT:
            return None
        path = self.path.decode() if isinstance(self.path, bytes) else self.path
        return path[:-1] if path.endswith("/") else path + "/"

    def __repr__(self):
        return f"<RouteMatch {self.path!r} {self.status} {self.value!r} {self.params}>"


# --- internal paths --------------------------------------------------------------------------------------------------

cdef inline bint is_separator(unsigned char byte) noexcept nogil:
    """Bytes that would end or change a query value."""
    return byte == c"&" or byte == c"=" or byte == c"#" or byte == c"+" or byte == c";"


cdef Py_ssize_t put_value(char* out, const char* value, Py_ssize_t n) noexcept nogil:
    """Write a capture as a query value; the bytes written."""
    cdef:
        const char* digits = "0123456789ABCDEF"
        Py_ssize_t i, at = 0
        unsigned char byte
    for i in range(n):
        byte = value[i]
        if is_separator(byte):
            out[at] = c"%"
            out[at + 1] = digits[byte >> 4]
            out[at + 2] = digits[byte & 15]
            at += 3
        else:
            out[at] = <char>byte
            at += 1
    return at


@cython.final
cdef class Template:
    """An internal path, to be filled with the captures of the external one whose parameter names are given.

    Captures go in verbatim, once: what one holds is never taken for a placeholder. Behind a "?" their separators are
    encoded, so that a value cannot add parameters. Placeholders that are not captured stay as they are written.
    """

    def __cinit__(self, str internal_path not None, names):
        cdef:
            list parts = list(template_parts(internal_path, list(names)))
            bytearray literals = bytearray()
            Part* part
        if "#" in internal_path or not internal_path.isprintable():
            raise RouteError(f"internal path {internal_path!r}: '#' and controls cannot be sent; percent-encode them")
        self.parts = <Part*>calloc_rows(2 * len(parts), sizeof(Part))
        for text, param in parts:
            wire = encoded(text)
            part = &self.parts[self.count]
            part.param = -1
            part.offset = len(literals)
            part.length = len(wire)
            literals += wire
            self.has_query = self.has_query or b"?" in wire
            self.count += 1
            if param is not None:
                part = &self.parts[self.count]
                part.param = param
                part.in_query = self.has_query
                self.count += 1
        self.literals = bytes(literals)
        self.text = self.literals
        self.fixed = len(parts) == 1

    def __dealloc__(self):
        PyMem_RawFree(self.parts)

    cdef Py_ssize_t size(self, const Match* match) noexcept nogil:
        cdef:
            Py_ssize_t i, total = 0
            const Part* part
        for i in range(self.count):
            part = &self.parts[i]
            if part.param < 0:
                total += part.length
            elif part.param < match.nparams:
                total += (match.param_end[part.param] - match.param_start[part.param]) * (3 if part.in_query else 1)
        return total

    cdef Py_ssize_t render(self, const char* path, const Match* match, char* out, Py_ssize_t cap) noexcept nogil:
        cdef:
            Py_ssize_t i, n, at = 0
            const Part* part
        if self.size(match) > cap:
            return -1
        for i in range(self.count):
            part = &self.parts[i]
            if part.param < 0:
                memcpy(out + at, self.text + part.offset, part.length)
                at += part.length
            elif part.param < match.nparams:
                n = match.param_end[part.param] - match.param_start[part.param]
                if part.in_query:
                    at += put_value(out + at, path + match.param_start[part.param], n)
                else:
                    memcpy(out + at, path + match.param_start[part.param], n)
                    at += n
        return at

    def expand(self, RouteMatch match not None):
        """The internal path for a match."""
        cdef:
            bytes path = match.path if isinstance(match.path, bytes) else match.path.encode()
            bytearray out = bytearray(self.size(&match.found))
            Py_ssize_t n = self.render(path, &match.found, out, len(out))
        return bytes(out[:n])
