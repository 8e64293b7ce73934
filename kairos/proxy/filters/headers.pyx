"""Header rules, in their order: what is known at load costs one append for each run of rules, the rest is called.

A step in Python that raises ValueError made a value of what the client sent, and that value could not be sent on.
"""

cimport cython

from kairos.proxy.edits cimport Edits
from kairos.proxy.exchange cimport Exchange, Filter


@cython.final
cdef class AddMissing:
    """Made by rules.py."""

    def __init__(self, bytes lower, Edits edits):
        self.lower = lower
        self.edits = edits


cdef class RequestHeaders(Filter):
    """On the way to the backend."""

    def __init__(self, steps):
        self.steps = tuple(steps)

    cpdef object on_request(self, Exchange x):
        _edit(self.steps, x, False)


cdef class ResponseHeaders(Filter):
    """On the way back."""

    def __init__(self, steps):
        self.steps = tuple(steps)

    cpdef object on_response(self, Exchange x):
        _edit(self.steps, x, True)


cdef int _edit(tuple steps, Exchange x, bint back) except -1:
    for step in steps:
        if type(step) is Edits:
            _put(<Edits>step, x, back)
        elif type(step) is AddMissing:
            lower = (<AddMissing>step).lower
            if (not x.shown_values(lower)) if back else (x.upstream_header(lower) is None):
                _put((<AddMissing>step).edits, x, back)
        else:
            try:
                step(x)
            except ValueError as error:
                return x.fail_with("bad_value", str(error))
    return 0


cdef inline int _put(Edits edits, Exchange x, bint back) except -1:
    return x.edit_response(edits) if back else x.edit_request(edits)
