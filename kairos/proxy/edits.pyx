"""Edits of header fields on their way: checked when they are made, applied once, when the head is written.

A list of edits holds single ones and, as one item, those that a filter knew at load (Edits). Rules: a name or value
that would break a head apart is never accepted (RFC 9110 section 5.5); of several edits of a name the last one counts,
and what was added after it. What is all known at load is joined once, not per request.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr

cdef enum:
    KEPT = 1024     # joined lists and checked names that are remembered
    FEW = 8         # single edits that are compared with each other

cdef dict _JOINED = {}
cdef dict _NAMES = {}


@cython.final
@cython.freelist(64)
cdef class Edit:
    """Made by edit() and addition()."""

    def __repr__(self):
        return f"<Edit {'+' if self.add else ''}{self.name!r} {self.value!r}>"


@cython.final
cdef class Edits:
    """Made by filters at load; it never changes."""

    def __init__(self, items):
        self.items = tuple(items)
        self.pair = _joined(list(self.items))
        self.names = frozenset([item.lower for item in self.items])


def edit(str name, value, frozenset own):
    """An edit of a field that is not one of `own`; no value removes it.

    Raises:
        ValueError: the name is no token or the gateway's own, or the value holds CR, LF or NUL.
    """
    return _edit(name, value, own, False)


def addition(str name, value, frozenset own):
    """A field beside those of its name that are there.

    Raises:
        ValueError: see edit().
    """
    return _edit(name, value, own, True)


cdef Edit _edit(str name, object value, frozenset own, bint add):
    cdef Edit made = Edit.__new__(Edit)
    cdef tuple known = _NAMES.get(name)
    if known is None:
        known = _known(name)
    made.name, made.lower = known
    made.add = add
    if made.lower in own:
        raise ValueError(f"header {name} is written by the gateway itself")
    made.line = b""
    if value is not None:
        made.value = value.encode("latin-1") if isinstance(value, str) else value
        if _breaks(made.value):
            raise ValueError(f"header {name}: the value holds a line break or NUL")
        made.line = b"%b: %b\r\n" % (made.name, made.value)
    return made


cdef tuple _known(str name):
    """A name in bytes and in lower case. Remembered: most are those of filters and configurations."""
    cdef bytes raw = name.encode("latin-1", "replace")
    _check_name(raw)
    if len(_NAMES) >= KEPT:
        _NAMES.clear()
    _NAMES[name] = found = (raw, raw.lower())
    return found


cdef int _check_name(bytes name) except -1:
    """RFC 9110 section 5.6.2: a token."""
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(name)
    cdef Py_ssize_t i, n = PyBytes_GET_SIZE(name)
    cdef unsigned char c
    for i in range(n):
        c = p[i]
        if not (c"a" <= c <= c"z" or c"A" <= c <= c"Z" or c"0" <= c <= c"9"
                or (c and memchr(b"!#$%&'*+-.^_`|~", c, 15) != NULL)):
            n = 0
            break
    if n == 0:
        raise ValueError(f"not a header name: {name!r}")
    return 0


cdef bint _breaks(bytes value) noexcept:
    cdef const char* p = PyBytes_AS_STRING(value)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(value)
    return n and (memchr(p, c"\r", n) != NULL or memchr(p, c"\n", n) != NULL or memchr(p, 0, n) != NULL)


def check_field(bytes name, bytes value):
    """See that a field can stand in a head.

    Raises:
        ValueError: see edit().
    """
    _check_name(name)
    if _breaks(value):
        raise ValueError(f"header {name.decode()}: the value holds a line break or NUL")


cpdef tuple edit_lines(list edits):
    """Edits as the comma-separated names they replace, and the lines they add."""
    cdef list known = [], single = []
    if len(edits) == 1 and type(edits[0]) is Edits:
        return (<Edits>edits[0]).pair
    for item in edits:
        (known if type(item) is Edits else single).append(item)
    if not single:
        return _known_lines(tuple(edits))
    return _joined(edits) if _meet(known, single) else _beside(_known_lines(tuple(known)), single)


cdef tuple _known_lines(tuple key):
    """Of edits that were all known at load: joined once for each combination that comes up."""
    cdef tuple pair = _JOINED.get(key)
    if pair is None:
        if len(_JOINED) >= KEPT:
            _JOINED.clear()
        _JOINED[key] = pair = _joined(list(key))
    return pair


cdef bint _meet(list known, list single) except -1:
    """Whether a single edit is of a name that another one has too: then their order counts."""
    cdef Py_ssize_t i, j, n = len(single)
    cdef bytes lower
    if n > FEW:
        return True
    for i in range(n):
        lower = (<Edit?>single[i]).lower
        for j in range(i):
            if (<Edit>single[j]).lower == lower:
                return True
        for edits in known:
            if lower in (<Edits>edits).names:
                return True
    return False


cdef tuple _beside(tuple pair, list single):
    """Single edits that meet no other, with what is known already."""
    cdef list names = [pair[0]] if pair[0] else []
    cdef list lines = [pair[1]]
    for item in single:
        lines.append((<Edit>item).line)
        if not (<Edit>item).add:
            names.append((<Edit>item).lower)
    return b",".join(names), b"".join(lines)


cdef tuple _joined(list edits):
    cdef dict lines = {}
    cdef dict replaced = {}
    for item in edits:
        if type(item) is Edits:
            for single in (<Edits>item).items:
                _place(<Edit>single, lines, replaced)
        else:
            _place(<Edit?>item, lines, replaced)
    return b",".join(replaced), b"".join(lines.values())


cdef int _place(Edit made, dict lines, dict replaced) except -1:
    if made.add and made.lower in lines:
        lines[made.lower] = <bytes>lines[made.lower] + made.line
        return 0
    if not made.add:
        replaced[made.lower] = None
    lines[made.lower] = made.line
    return 0


def edited_values(list edits, bytes lower, list values):
    """The values a field has after these edits."""
    for item in edits or ():
        for single in (<Edits>item).items if type(item) is Edits else (item,):
            values = _edited(<Edit>single, lower, values)
    return values


cdef list _edited(Edit made, bytes lower, list values):
    if made.lower != lower:
        return values
    if made.add:
        return [*values, made.value]
    return [] if made.value is None else [made.value]
