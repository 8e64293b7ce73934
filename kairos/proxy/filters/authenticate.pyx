"""Who is it: the filter that asks a route's authenticators, and what an authenticator is.

The methods are asked in the order the route lists them. The first that finds a credential of its kind decides, for
good or ill: a refused credential is never made up for by another one. Nobody found one: 401 with the challenges of
all, or with `optional` the request passes as nobody's. Authentication belongs to the matched route: there is one
route for a request, and no way to its handler around its filters.

Rules: what the backend is told of the caller (`claims_to_headers`) replaces what the client sent under these names,
always. Of several methods only the credential that decided goes on to the backend, for no other was verified.
"""

import cython

from kairos.proxy.edits cimport Edits
from kairos.proxy.exchange cimport Exchange, Filter

from kairos.proxy.exchange import Response
from kairos.proxy.identity import Identity

JUDGED = 4096
"""Callers whose verdict is kept."""


@cython.final
cdef class Refusal:
    """A credential that is no good: a row of the error table, a text for the client, a WWW-Authenticate of its own."""

    def __init__(self, str kind="unauthorized", detail=None, challenge=None):
        self.kind = kind
        self.detail = detail
        self.challenge = challenge

    def __repr__(self):
        return f"<Refusal {self.kind}: {self.detail}>"


cdef class Authenticator:
    """One way to prove who one is. Subclass it in Cython or Python, in a file of its own in authn/.

    authenticate  the request's credential of this kind: an Identity, a Refusal, a Response that answers now, None where
                  the request has no such credential, or an awaitable of any of these
    withhold      takes such a credential out of what goes to the backend; does nothing where there is none
    missing       nobody has a credential: what this method says to that, a text, a Response that answers now (a
                  redirect to a login), or None
    challenge     what WWW-Authenticate says of this method; empty: nothing
    """

    cpdef object authenticate(self, Exchange x):
        return None

    cpdef object withhold(self, Exchange x):
        return None

    cpdef object missing(self, Exchange x):
        return None

    cpdef bytes challenge(self):
        return b""


@cython.final
cdef class Authenticate(Filter):
    """Made by authn.build. `judge` maps an Identity to the Edits that tell the backend of it, or to a Refusal;
    `anonymous` are those for nobody, None where the backend is told nothing."""

    def __init__(self, methods, judge, Edits anonymous=None, *, bint optional=False, bint forward=True):
        self.methods = tuple(methods)
        self.judge = judge
        self.anonymous = anonymous
        self.optional = optional
        self.forward = forward
        self.judged = {}

    cpdef object on_request(self, Exchange x):
        return self._ask(x, 0)

    cdef object _ask(self, Exchange x, Py_ssize_t at):
        """Each method from `at` on, until one decides."""
        cdef Py_ssize_t i
        for i in range(at, len(self.methods)):
            outcome = (<Authenticator>self.methods[i]).authenticate(x)
            if outcome is not None:
                if type(outcome) is Identity:
                    return self._welcome(x, i, outcome)
                return self._decide(x, i, outcome)
        return self._nobody(x)

    cdef object _decide(self, Exchange x, Py_ssize_t at, object outcome):
        if isinstance(outcome, Identity):
            return self._welcome(x, at, outcome)
        if isinstance(outcome, Refusal):
            return self._refuse(x, at, outcome)
        if isinstance(outcome, Response):
            return outcome
        return self._wait(x, at, outcome)

    async def _wait(self, Exchange x, Py_ssize_t at, awaitable):
        """A method that has to ask somebody."""
        outcome = await awaitable
        if x.finished:
            return None
        outcome = self._ask(x, at + 1) if outcome is None else self._decide(x, at, outcome)
        return outcome if outcome is None or isinstance(outcome, Response) else await outcome

    cdef object _welcome(self, Exchange x, Py_ssize_t at, object identity):
        verdict = self.judged.get(identity)
        if verdict is None:
            verdict = self._verdict(identity)
        if type(verdict) is Refusal:
            return self._refuse(x, at, verdict)
        x.identity = identity
        if self.anonymous is not None:
            x.edit_request(verdict)
        if not self.forward or len(self.methods) > 1:
            for i, method in enumerate(self.methods):
                if i != at or not self.forward:
                    (<Authenticator>method).withhold(x)
        return None

    cdef object _verdict(self, object identity):
        """Made once for a caller whose credential is kept."""
        verdict = self.judge(identity)
        if len(self.judged) >= JUDGED:
            self.judged.clear()
        self.judged[identity] = verdict
        return verdict

    cdef object _nobody(self, Exchange x):
        detail = None
        if self.optional:
            if self.anonymous is not None:
                x.edit_request(self.anonymous)
            return None
        for method in self.methods:
            said = (<Authenticator>method).missing(x)
            if isinstance(said, Response):
                return said
            detail = said if len(self.methods) == 1 else None
        return self._refuse(x, -1, Refusal("unauthorized", detail))

    cdef object _refuse(self, Exchange x, Py_ssize_t at, Refusal refusal):
        """401 has the challenges of all methods (RFC 9110 section 11.6.1), that of the one that refused first."""
        headers = []
        if refusal.challenge is not None:
            headers.append((b"WWW-Authenticate", refusal.challenge))
        if refusal.kind == "unauthorized":
            for i, method in enumerate(self.methods):
                challenge = (<Authenticator>method).challenge()
                if challenge and not (i == at and headers):
                    headers.append((b"WWW-Authenticate", challenge))
        x.fail_as(refusal.kind, refusal.detail, headers)
        return None
