"""Responses compressed on their way to clients that ask for it (RFC 9110 sections 8.4 and 12.5.3).

Left as they are: what has a content coding already, parts of something (206, Content-Range), what must not be changed
(`no-transform`, from either side), types that are not listed, what is small, and event streams unless they are asked
for. HEAD gets the fields GET would. Whatever could have been compressed says Vary: Accept-Encoding, to all clients.

A strong ETag names bytes; these are others now. It is made weak, which If-None-Match still compares (RFC 9110 section
8.8.3.2), or marked with the coding, and the mark is taken off what clients send. A range is never asked for under a
mark: its bytes would be those of another body.

What a cache in front of the backends answers is compressed once for all workers: the outcome is stored beside it, under
its URL (so that it goes when that is purged), the coding and a hash of the body with a secret seed.

A body passes in the pieces it came in, each flushed. Types and Accept-Encodings that were seen are remembered: to a
client that takes no coding a response costs a few look-ups.
"""

from libc.string cimport memset

from kairos._speedups.cells cimport R_COMPRESSED_IN, R_COMPRESSED_OUT
from kairos._speedups.http1 cimport Span, equals, has_token, next_field
from kairos.proxy.edits cimport Edits
from kairos.proxy.exchange cimport BodyPipe, Exchange, Filter

from kairos.proxy.codings import ENCODERS, choose
from kairos.proxy.edits import addition, edit
from kairos.proxy.fields import RESPONSE_OWN

cdef enum:
    REMEMBERED = 256            # Accept-Encodings and types, of which clients and upstreams make up any number
    ONE_PIECE = 4194304         # a larger body that comes in one piece would keep the loop for longer than 20 ms
    ONE_SLOW_PIECE = 262144     # with brotli

cdef struct Seen:               # of a response's fields
    const char* kind            # Content-Type, NULL: there is none
    Py_ssize_t kind_size
    bint coded                  # it has a content coding
    bint fixed                  # a part of something, or not to be changed
    bint varies                 # by Accept-Encoding already


cdef Edits VARY = Edits([addition("Vary", b"Accept-Encoding", RESPONSE_OWN)])
ENCODED = {coding: Edits([edit("Content-Encoding", coding, RESPONSE_OWN)]) for coding in ENCODERS}
NOTHING = (None, False)
# they would no longer be true of the body, or of a part of it
STALE = ("Accept-Ranges", "Content-MD5", "Digest", "Content-Digest", "Repr-Digest")


cdef class Compress(Filter):
    """Made from a policies.compression.Compression."""

    def __init__(self, spec, store=None):
        types = [text.lower() for text in spec.types]
        self.codings = tuple(spec.codings)
        self.levels = {"zstd": spec.zstd_level, "gzip": spec.gzip_level, "br": spec.br_level}
        self.choices = {}
        self.types = {}
        self.exact = frozenset([text for text in types if "*" not in text])
        self.prefixes = tuple([text[:-1].removeprefix("*/") for text in types if text.endswith("/*")])
        self.suffixes = tuple([text[text.rindex("+"):] for text in types if "*+" in text])
        self.events = spec.event_streams
        self.least = spec.min_bytes
        self.padding = spec.padding if spec.breach == "pad" else 0
        self.avoid = spec.breach == "avoid"
        self.marks = spec.etag == "suffix"
        self.most = spec.max_streams
        self.store = None if self.padding else store

    cpdef object on_response(self, Exchange x):
        cdef Seen seen
        cdef tuple choice
        if x.status == 304:
            self._not_modified(x)
            return None
        if x.status < 200 or x.status == 204 or x.status == 206 or x.body_length == 0:
            return None
        _look(x, &seen)
        if seen.kind == NULL or seen.coded or seen.fixed or not self._compressible(seen.kind[:seen.kind_size]):
            return None
        choice = self._choice(x)
        if 0 <= x.body_length < self.least and not choice[1]:
            return None
        if not seen.varies:
            x.edit_response(VARY)
        if choice[0] is None or self.streams >= self.most or (self.avoid and self._guessable(x)):
            return None
        if not x.from_upstream and x.body_length > (ONE_SLOW_PIECE if choice[0] == "br" else ONE_PIECE):
            return None
        if not _has_word(x.header(b"cache-control"), b"no-transform"):
            self._compress(x, choice[0])
        return None

    cdef int _compress(self, Exchange x, object coding) except -1:
        cdef bytes tag = x.response_header(b"etag")
        cdef Squeeze pipe = Squeeze.__new__(Squeeze)
        x.edit_response(ENCODED[coding])
        for name in STALE:
            if x.response_header(name.lower().encode()) is not None:
                x.set_response_header(name, None)
        if tag is not None:
            x.set_response_header("ETag", self._changed_tag(tag, coding))
        pipe.owner = self
        pipe.plan = x.plan
        pipe.cells = x.plan.cells
        pipe.coding = coding
        pipe.left = x.body_length
        pipe.absent = x.head.method == 1
        if self.store is not None and not x.from_upstream and x.response_header(b"age") is not None:
            pipe.url = _url(x)
        self.streams += 1
        x.add_body_pipe(pipe)
        return 0

    # -- what is compressed -------------------------------------------------------------------------------------------

    cdef bint _compressible(self, bytes kind) except -1:
        known = self.types.get(kind)
        if known is None:
            if len(self.types) >= REMEMBERED:
                self.types.clear()
            known = self.types[kind] = self._judge_type(kind)
        return known

    def _judge_type(self, bytes kind):
        name = kind.decode("latin-1").partition(";")[0].strip().lower()
        if name == "text/event-stream":
            return self.events
        return name in self.exact or name.startswith(self.prefixes) or name.endswith(self.suffixes)

    cdef tuple _choice(self, Exchange x):
        """The coding for this client, and whether it refuses to do without one."""
        cdef bytes accept = _joined(x, b"accept-encoding", 15)
        if accept is None:
            return NOTHING
        known = self.choices.get(accept)
        if known is None:
            if len(self.choices) >= REMEMBERED:
                self.choices.clear()
            chosen = choose(accept, self.codings)
            known = self.choices[accept] = (chosen.coding, not chosen.plain)
        return known

    cdef bint _guessable(self, Exchange x) except -1:
        """Whether another site may have caused the request, and the response is for this user only (BREACH)."""
        if x.header(b"cookie") is None and x.header(b"authorization") is None:
            return False
        control = x.response_header(b"cache-control")
        if _has_word(control, b"public") or _has_word(control, b"s-maxage"):
            return False
        site = x.header(b"sec-fetch-site")
        if site is not None:
            return site not in (b"same-origin", b"none")
        referer = x.header(b"referer")
        return referer is None or _host_of(referer) != x.host.lower()

    # -- ETags --------------------------------------------------------------------------------------------------------

    cdef bytes _changed_tag(self, bytes tag, object coding):
        if not tag.startswith(b'"'):
            return tag
        if self.marks and len(tag) > 1 and tag.endswith(b'"'):
            return b'%s-%s"' % (tag[:-1], coding.encode())
        return b"W/" + tag

    cdef int _not_modified(self, Exchange x) except -1:
        """A 304 names the tag the client has (RFC 9110 section 15.4.5)."""
        cdef bytes tag = x.response_header(b"etag")
        cdef bytes asked
        cdef Seen seen
        _look(x, &seen)
        if not seen.varies:
            x.edit_response(VARY)
        if tag is None or not tag.startswith(b'"'):
            return 0
        asked = (x.notes or {}).get(self) if self.marks else x.header(b"if-none-match")
        if asked is not None:
            for coding in self.codings:
                changed = self._changed_tag(tag, coding)
                if changed in [one.strip() for one in asked.split(b",")]:
                    x.set_response_header("ETag", changed)
                    break
        return 0


class CompressAsking(Compress):
    """One that also changes requests: Accept-Encoding is kept from the upstream, or tags lose their marks."""

    def __init__(self, spec, store=None):
        super().__init__(spec, store)
        self._strips = spec.accept_encoding == "strip"
        self._unmarks = spec.etag == "suffix"

    def on_request(self, Exchange x):
        if self._strips:
            x.set_request_header("Accept-Encoding", None)
        if self._unmarks:
            self._unmark(x)

    def _unmark(self, Exchange x):
        for name in ("If-None-Match", "If-Match"):
            value = _joined(x, name.lower().encode(), len(name))
            if value is not None and b"-" in value:
                if name == "If-None-Match":
                    x.notes = {**(x.notes or {}), self: value}
                x.set_request_header(name, b", ".join([self._plain(tag) for tag in value.split(b",")]))
        condition = x.header(b"if-range")
        if condition is not None and self._plain(condition) != condition:
            x.set_request_header("If-Range", None)
            x.set_request_header("Range", None)

    def _plain(self, tag):
        """Without the mark of a coding."""
        tag = tag.strip()
        for coding in self.codings:
            mark = b'-%s"' % coding.encode()
            if tag.endswith(mark):
                return tag[:-len(mark)] + b'"'
        return tag


cdef class Squeeze(BodyPipe):
    """One body on its way out."""

    cpdef bytes feed(self, bytes data):
        cdef bytes out
        if self.left >= 0:
            self.left -= len(data)
        if self.left == 0:
            out = self._begun().last(data) if self.url is None or self.encoder is not None else self._whole(data)
            self._over()
        else:
            out = self._begun().feed(data)
        self.cells[R_COMPRESSED_IN] += len(data)
        self.cells[R_COMPRESSED_OUT] += len(out)
        return out

    cdef bytes _whole(self, bytes data):
        """A stored response in one piece: as it was compressed before, by whichever worker."""
        cdef object store = self.owner.store
        cdef bytes key = b"%s\n%s-%d %x" % (
            self.url, self.coding.encode(), self.owner.levels[self.coding], store.hash_of(data))
        found = store.get(key)
        if found is not None and found[0] == b"%d" % len(data):
            return found[1]
        out = self._begun().last(data)
        store.put(key, b"%d" % len(data), out)
        return out

    cdef object _begun(self):
        cdef int padding = self.owner.padding
        if self.encoder is None:
            self.encoder = ENCODERS[self.coding](self.owner.levels[self.coding], _random(padding) if padding else 0)
        return self.encoder

    cpdef bytes finish(self):
        cdef bytes out = b""
        if self.owner is not None:
            if not self.absent:
                out = self._begun().last(b"")
                self.cells[R_COMPRESSED_OUT] += len(out)
            self._over()
        return out

    cpdef object abort(self):
        if self.owner is not None:
            if self.encoder is not None:
                self.encoder.drop()
            self._over()

    cdef int _over(self) except -1:
        self.owner.streams -= 1
        self.owner = None
        self.encoder = None
        return 0


def _random(most):
    """1 to most: how much is added must not be foreseeable."""
    from secrets import randbelow

    return 1 + randbelow(most)


cdef int _look(Exchange x, Seen* seen) except -1:
    """What matters of the response's fields, in one pass over them."""
    cdef Py_ssize_t pos
    cdef Span key, value
    cdef bytes name, text
    memset(seen, 0, sizeof(Seen))
    if x.response_head == NULL:
        for name, text in x.answer_headers or ():
            _see(seen, name, len(name), text, len(text))
        return 0
    pos = x.response_head.fields
    while next_field(x.response_base, x.response_head, &pos, &key, &value):
        _see(seen, x.response_base + key.start, key.end - key.start, x.response_base + value.start,
             value.end - value.start)
    return 0


cdef void _see(Seen* seen, const char* name, Py_ssize_t n, const char* value, Py_ssize_t size) noexcept:
    if n == 12 and equals(name, n, b"content-type", 12):
        seen.kind = value
        seen.kind_size = size
    elif n == 13 and equals(name, n, b"cache-control", 13):
        seen.fixed = seen.fixed or has_token(value, size, b"no-transform", 12)
    elif n == 13 and equals(name, n, b"content-range", 13):
        seen.fixed = True
    elif n == 16 and equals(name, n, b"content-encoding", 16):
        seen.coded = True
    elif n == 4 and equals(name, n, b"vary", 4):
        seen.varies = seen.varies or has_token(value, size, b"accept-encoding", 15) or has_token(value, size, b"*", 1)


cdef bytes _url(Exchange x):
    """As the cache's keys begin."""
    host = x.host.lower().removesuffix(":443" if x.encrypted() else ":80").encode("latin-1")
    return b"%s://%s%s%s" % (x.client_scheme.encode(), host, x.path, x.base[x.query:x.head.target.end])


cdef bint _has_word(bytes value, bytes word) except -1:
    """Whether a list has this item, with an argument or without."""
    if value is None:
        return False
    lower = value.lower()
    if word not in lower:
        return False
    return any([item.partition(b"=")[0].strip() == word for item in lower.split(b",")])


cdef object _host_of(bytes url):
    """Of a Referer, in lower case."""
    return url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0].decode("latin-1").lower()


cdef bytes _joined(Exchange x, bytes name, Py_ssize_t size):
    """All fields of a name as one list (RFC 9110 section 5.3), None where there is none."""
    cdef Py_ssize_t pos = x.head.fields
    cdef Span key, value
    cdef const char* wanted = name
    cdef bytes found = None
    while next_field(x.base, &x.head, &pos, &key, &value):
        if equals(x.base + key.start, key.end - key.start, wanted, size):
            piece = x.base[value.start:value.end]
            found = piece if found is None else found + b"," + piece
    return found


def build(site):
    """The filter of a route with compression."""
    spec = site.policies.compression
    if spec is None:
        return None
    asks = spec.accept_encoding == "strip" or spec.etag == "suffix"
    store = site.board.cache if site.policies.cache is not None else None
    return CompressAsking(spec, store) if asks else Compress(spec, store)
