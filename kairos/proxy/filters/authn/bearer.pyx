"""JSON Web Tokens of requests, on the hot path: found in place, and known again without being verified again.

What is known was verified with the keys in hand. Other keys: all is forgotten. That there are other keys is seen in a
shared cell, which costs a load; they are then asked for beside the requests, which go on with those in hand.
"""

import asyncio
import hashlib
import hmac
import time

import cython
from libc.stdint cimport int64_t

from kairos._speedups.cells cimport H_KEYS, Page, atomic_load
from kairos._speedups.http1 cimport Span, equals
from kairos._speedups.tokens cimport TokenCache
from kairos.proxy.exchange cimport Exchange
from kairos.proxy.filters.authenticate cimport Authenticator
from kairos.proxy.wire cimport unix_us

from kairos.proxy.filters.authenticate import Refusal
from kairos.proxy.filters.authn.carried import TWO, token_in
from kairos.proxy.filters.authn.verify import INVALID, Verified
from kairos.proxy.identity import Identity

MISSING = "Missing Authorization header"
MALFORMED = "Invalid Authorization header format"
NO_BEARER = "Authorization header must start with 'Bearer '"
CHALLENGE = b'Bearer realm="kairos"'
NO_TOKEN = Refusal("unauthorized", NO_BEARER, CHALLENGE + b', error="invalid_request"')
RENEW_PAUSE = 0.5


def holder(Exchange x, identity, proofs):
    """The identity of a token that came without a proof: of one that is bound to a certificate, where the client has
    shown that one (RFC 8705)."""
    if identity.key is None:
        return identity if proofs is None or not proofs.required else proofs.unbound
    if isinstance(identity.key, str):
        return proofs.bearer
    certificate = x.client_certificate
    if certificate is None or not hmac.compare_digest(hashlib.sha256(certificate).digest(), identity.key):
        return INVALID
    return identity


@cython.final
cdef class Bearer(Authenticator):
    """Made by jwt.build."""

    def __init__(self, verifier, TokenCache cache, places, Page page, proofs=None):
        self.verifier = verifier
        self.cache = cache
        self.places = None if places is None else tuple(places)
        self.page = page
        self.proofs = proofs
        if verifier.remotes:
            self.cell = page.at(H_KEYS, 1)
            for remote in verifier.remotes:
                remote.believers.add(self)

    def forget(self):
        """Nothing that was verified counts any more."""
        if self.cache is not None:
            self.cache.clear()

    cpdef object authenticate(self, Exchange x):
        cdef Span* field = &x.head.authorization
        cdef const char* p = x.base + field.start
        cdef Py_ssize_t n = field.end - field.start
        if self.cell != NULL and atomic_load(self.cell) != self.generation:
            self._renew()
        if self.proofs is not None and n > 5 and equals(p, 5, b"dpop ", 5):
            return self._proven(x, p[5:n].lstrip(b" "))
        if self.places is not None:
            return self._elsewhere(x)
        if n < 6 or not equals(p, 6, b"bearer", 6):
            return None
        if n == 6:
            return NO_TOKEN
        if p[6] != c" ":
            return None
        while n > 7 and p[7] == c" ":
            p += 1
            n -= 1
        return self._checked(x, p + 7, n - 7)

    cdef object _elsewhere(self, Exchange x):
        cdef bytes token
        found = token_in(x, self.places)
        if found is None or isinstance(found, Refusal):
            return found
        token = found
        for place in self.places:
            if place.kind == "websocket":
                place.withhold(x)
        return self._checked(x, token, len(token))

    cdef object _checked(self, Exchange x, const char* token, Py_ssize_t n):
        """The caller, if nobody else holds the token: one that is bound to a certificate is good with that alone."""
        outcome = self._known(token, n)
        if type(outcome) is Identity:
            return outcome if outcome.key is None and self.proofs is None else holder(x, outcome, self.proofs)
        return outcome if isinstance(outcome, Refusal) else self._check_later(x, outcome)

    async def _check_later(self, Exchange x, awaitable):
        outcome = await awaitable
        return holder(x, outcome, self.proofs) if isinstance(outcome, Identity) else outcome

    cdef object _proven(self, Exchange x, bytes token):
        """The caller, if a proof comes with the token (RFC 9449), and no other token."""
        if self.places is not None and token_in(x, self.places) is not None:
            return TWO
        outcome = self._known(token, len(token))
        if type(outcome) is Identity:
            return self.proofs.judge(x, token, outcome)
        return outcome if isinstance(outcome, Refusal) else self._prove_later(x, token, outcome)

    async def _prove_later(self, Exchange x, bytes token, awaitable):
        outcome = await awaitable
        return self.proofs.judge(x, token, outcome) if isinstance(outcome, Identity) else outcome

    cdef object _known(self, const char* token, Py_ssize_t n):
        """The caller, from memory where possible."""
        cdef bytes raw
        if self.cache is not None:
            identity = self.cache.find(token, n, unix_us())
            if identity is not None:
                return identity
        raw = token[:n]
        outcome = self.verifier.verify(raw)
        if isinstance(outcome, (Verified, Refusal)):
            return self._settled(raw, outcome)
        return self._later(raw, outcome)

    async def _later(self, bytes raw, awaitable):
        return self._settled(raw, await awaitable)

    def _settled(self, bytes raw, outcome):
        """Good ones are remembered; there is no end of bad ones, so none of those is."""
        if isinstance(outcome, Refusal):
            return outcome
        if self.cache is not None:
            self.cache.put(raw, outcome.identity, int(outcome.until * 1e6), unix_us())
        return outcome.identity

    # -- newer keys ---------------------------------------------------------------------------------------------------

    def _renew(self):
        """Ask for them beside the requests, once at a time."""
        if self.renewing is None and time.monotonic() >= self.renew_at:
            self.renewing = asyncio.get_running_loop().create_task(self._ask(atomic_load(self.cell)))

    async def _ask(self, int64_t generation):
        try:
            if all([await remote.renew() for remote in self.verifier.remotes]):
                self.generation = generation
            else:
                self.renew_at = time.monotonic() + RENEW_PAUSE
        finally:
            self.renewing = None

    # -- what is said and passed on -----------------------------------------------------------------------------------

    cpdef object withhold(self, Exchange x):
        if self.proofs is not None and equals(
                x.base + x.head.authorization.start, min(5, x.head.authorization.end - x.head.authorization.start),
                b"dpop ", 5):
            x.set_request_header("Authorization", None)
            x.set_request_header("DPoP", None)
        if self.places is not None:
            for place in self.places:
                place.withhold(x)
        elif equals(x.base + x.head.authorization.start, min(6, x.head.authorization.end - x.head.authorization.start),
                    b"bearer", 6):
            x.set_request_header("Authorization", None)
        return None

    cpdef object missing(self, Exchange x):
        cdef Span* field = &x.head.authorization
        cdef Py_ssize_t i
        if field.end == field.start:
            return MISSING if x.header(b"authorization") is None else NO_BEARER
        for i in range(field.start, field.end):
            if x.base[i] < 32 or x.base[i] > 126:
                return MALFORMED
        return NO_BEARER

    cpdef bytes challenge(self):
        if self.proofs is None:
            return CHALLENGE
        return self.proofs.challenge if self.proofs.required else CHALLENGE + b", " + self.proofs.challenge
