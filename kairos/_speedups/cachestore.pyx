"""A cache of responses in one piece of memory that all processes of a node share.

    header (purges, who fetches) | shards
    shard = lock and counters | index | frequencies | ghosts | small ring | main ring

Rules here:
- Bounded: the memory is made once, before the first fork, and touched as it fills.
- A scan does not flush it (S3-FIFO): what is new goes through the small ring, a tenth of a shard; what was asked for
  again by the time it falls out, or was thrown out there lately (ghosts), goes to the main ring; that one gives second
  chances.
- Readers take no lock: an entry lies where it was written until the ring's tail has passed it, and the tail moves
  before anything is overwritten. Whoever copied an entry looks at the tail once more: still behind it, all was whole.
- Writers hold their shard's lock, a robust one: of a process that was killed the next one takes it. Nothing has to be
  mended then, since each step leaves the shard usable: first the tail, then the bytes, then the head, last the index.
- A key counts in full; its hash only says where to look. The seed is secret.
- A purge is noted before it looks for entries, and who stores looks at the notes afterwards: what was asked for before
  a purge is not there after it.
"""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

from kairos._speedups.hashing cimport hash_bytes

cdef extern from *:
    """
    #include <errno.h>
    #include <pthread.h>
    #include <stdint.h>
    #include <string.h>
    #include <time.h>
    #define kairos_load(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
    #define kairos_store(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
    #define kairos_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    static int kairos_cas64(int64_t *p, int64_t old, int64_t new_) {
        return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static int kairos_lock_init(void *at) {
        pthread_mutexattr_t a;
        int failed = pthread_mutexattr_init(&a) || pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED)
            || pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST) || pthread_mutex_init((pthread_mutex_t *)at, &a);
        pthread_mutexattr_destroy(&a);
        return failed ? -1 : 0;
    }
    /* 1: locked; 0: somebody held it for all of so many ms. */
    static int kairos_lock(void *at, int ms) {
        struct timespec nap = {0, 50000};
        int tries, got;
        for (tries = 0; tries < 200 + 20 * ms; tries++) {
            got = pthread_mutex_trylock((pthread_mutex_t *)at);
            if (got == 0) return 1;
            if (got == EOWNERDEAD) { pthread_mutex_consistent((pthread_mutex_t *)at); return 1; }
            if (tries >= 200) nanosleep(&nap, 0);
        }
        return 0;
    }
    #define kairos_unlock(at) pthread_mutex_unlock((pthread_mutex_t *)(at))

    typedef struct { uint64_t head, tail, size, start; } KairosRing;
    typedef struct {
        char lock[128];
        uint64_t entries, bytes, inserts, evictions, rejected, promoted;
        KairosRing rings[2];
    } KairosShard;
    typedef struct { uint64_t hash, at; } KairosSlot;  /* at = offset * 2 + ring; 0: empty. Offsets begin at 8 */
    typedef struct {
        uint64_t hash, body;
        uint32_t total, key, meta, tags;
        uint64_t state;
    } KairosEntry;  /* then tags, key, meta, body, filled up to 8 bytes */
    typedef struct { int64_t us; uint64_t hash; uint64_t kind; } KairosPurge;
    typedef struct { uint64_t hash; int64_t until; } KairosFill;
    typedef struct {
        uint64_t magic, shards, slots, shard_bytes;
        char lock[128];
        uint64_t purges;
        KairosPurge purge[2048];
        KairosFill fill[4096];
    } KairosHeader;
    """
    uint64_t load64 "kairos_load"(uint64_t* p) noexcept nogil
    int64_t load_us "kairos_load"(int64_t* p) noexcept nogil
    void store64 "kairos_store"(uint64_t* p, uint64_t v) noexcept nogil
    bint swap_us "kairos_cas64"(int64_t* p, int64_t old, int64_t new_) noexcept nogil
    void fence "kairos_fence"() noexcept nogil
    int lock_init "kairos_lock_init"(void* at) noexcept nogil
    bint take_lock "kairos_lock"(void* at, int ms) noexcept nogil
    void drop_lock "kairos_unlock"(void* at) noexcept nogil

    ctypedef struct Ring "KairosRing":      # a log that bites its tail: offsets only grow
        uint64_t head                       # where the next entry goes
        uint64_t tail                       # oldest entry; what lies before it is gone
        uint64_t size
        uint64_t start                      # bytes from the beginning of the shard

    ctypedef struct Shard "KairosShard":
        char lock[128]
        uint64_t entries, bytes, inserts, evictions, rejected, promoted
        Ring rings[2]

    ctypedef struct Slot "KairosSlot":      # at: offset * 2 + ring, 0 for none
        uint64_t hash, at

    ctypedef struct Entry "KairosEntry":    # then tags, key, meta, body
        uint64_t hash, body
        uint32_t total, key, meta, tags
        uint64_t state

    ctypedef struct Purge "KairosPurge":
        int64_t us
        uint64_t hash, kind

    ctypedef struct Fill "KairosFill":
        uint64_t hash
        int64_t until

    ctypedef struct Header "KairosHeader":
        uint64_t magic, shards, slots, shard_bytes
        char lock[128]
        uint64_t purges
        Purge purge[2048]
        Fill fill[4096]

cdef enum:              # state of an entry
    LIVE = 1
    STALE = 2           # purged softly: to be validated before it is used
    PAD = 3             # no entry, the rest of the ring up to its end

cdef enum:              # kinds of purge
    BY_KEY = 1
    BY_TAG = 2
    BY_PREFIX = 3

cdef enum:
    SMALL = 0
    MAIN = 1
    WAYS = 8            # slots a key may be in
    BUSY_MS = 5         # how long a store waits for a shard before it is left out
    PURGE_MS = 2000
    PURGES = 2048
    FILLS = 4096
    MAGIC = 0x4B43414348453031
    SHARD_BYTES = 8388608
    SLOT_FOR = 256      # bytes of a shard per slot of its index

MIN_BYTES = 1 << 20


cdef inline uint64_t up8(uint64_t n) noexcept nogil:
    return (n + 7) & ~<uint64_t>7


cdef inline uint64_t power_of_two(uint64_t n) noexcept nogil:
    """The greatest one that is not more than n."""
    cdef uint64_t p = 1
    while p * 2 <= n:
        p *= 2
    return p


# ---- one shard: all with its lock held, but for what says otherwise -------------------------------------------------

cdef inline Slot* index_of(Shard* s) noexcept nogil:
    return <Slot*>(<char*>s + sizeof(Shard))


cdef inline char* heat_of(Shard* s, uint64_t slots) noexcept nogil:
    """How often each slot's entry was asked for, 3 at most. Written by readers as well: a lost count is no harm."""
    return <char*>s + sizeof(Shard) + slots * sizeof(Slot)


cdef inline uint32_t* ghosts_of(Shard* s, uint64_t slots) noexcept nogil:
    """Hashes of what the small ring threw out lately."""
    return <uint32_t*>(<char*>s + sizeof(Shard) + slots * (sizeof(Slot) + 1))


cdef inline Entry* entry_at(Shard* s, Ring* ring, uint64_t offset) noexcept nogil:
    return <Entry*>(<char*>s + ring.start + offset % ring.size)


cdef inline uint64_t to_end(Ring* ring, uint64_t offset) noexcept nogil:
    return ring.size - offset % ring.size


cdef Slot* slot_of(Shard* s, uint64_t slots, uint64_t hash, uint64_t at) noexcept nogil:
    """The slot that leads to this very entry, or NULL."""
    cdef Slot* first = index_of(s) + (hash & (slots - 1) & ~<uint64_t>(WAYS - 1))
    cdef int i
    for i in range(WAYS):
        if first[i].at == at and first[i].hash == hash:
            return first + i
    return NULL


cdef void forget(Shard* s, Slot* slot, Entry* e) noexcept nogil:
    """It cannot be found any more."""
    store64(&slot.at, 0)
    s.entries -= 1
    s.bytes -= e.total


cdef bint promote(Shard* s, uint64_t slots, Entry* e, Slot* slot) noexcept nogil:
    """From the small ring to the main one."""
    cdef uint64_t at = reserve(s, slots, MAIN, e.total)
    if at == 0:
        return False
    memcpy(entry_at(s, &s.rings[MAIN], at), e, e.total)
    store64(&s.rings[MAIN].head, at + e.total)
    store64(&slot.at, at * 2 + MAIN)
    heat_of(s, slots)[slot - index_of(s)] = 0
    s.promoted += 1
    return True


cdef bint keep_on(Shard* s, uint64_t slots, Ring* ring, uint64_t total, uint64_t offset, Slot* slot) noexcept nogil:
    """From the main ring's tail, which has passed it already, to its head; False: it does not fit."""
    cdef uint64_t head = ring.head, rest = to_end(ring, head)
    cdef char heat = heat_of(s, slots)[slot - index_of(s)]
    if rest < total:
        if rest > offset + ring.size - head:  # filling up the end would take what is to be moved
            return False
        pad(s, ring, head, rest)
        head += rest
    store64(&slot.at, 0)
    memmove(entry_at(s, ring, head), entry_at(s, ring, offset), total)
    store64(&ring.head, head + total)
    heat_of(s, slots)[slot - index_of(s)] = heat - 1
    store64(&slot.at, head * 2 + MAIN)
    return True


cdef void pad(Shard* s, Ring* ring, uint64_t offset, uint64_t rest) noexcept nogil:
    cdef Entry* e = entry_at(s, ring, offset)
    if rest >= sizeof(Entry):
        e.state = PAD
        e.total = <uint32_t>rest


cdef void evict(Shard* s, uint64_t slots, int which, bint* second) noexcept nogil:
    """Move a ring's tail on by one entry. `second`: entries may get another chance; cleared when they had enough."""
    cdef Ring* ring = &s.rings[which]
    cdef uint64_t offset = ring.tail
    cdef Entry* e = entry_at(s, ring, offset)
    cdef Slot* slot
    cdef uint64_t total, rest = to_end(ring, offset), hash
    if rest < sizeof(Entry) or e.state == PAD:
        store64(&ring.tail, offset + rest)
        return
    total = e.total
    hash = e.hash
    slot = slot_of(s, slots, hash, offset * 2 + which)
    if slot != NULL and second[0] and heat_of(s, slots)[slot - index_of(s)] > 0:
        if which == SMALL and promote(s, slots, e, slot):
            store64(&ring.tail, offset + total)
            return
        if which == MAIN:
            store64(&ring.tail, offset + total)
            fence()
            if keep_on(s, slots, ring, total, offset, slot):
                return
    if slot != NULL:
        if which == SMALL:
            ghosts_of(s, slots)[hash & (slots - 1)] = <uint32_t>(hash >> 32)
        forget(s, slot, e)
        s.evictions += 1
    store64(&ring.tail, offset + total)


cdef uint64_t reserve(Shard* s, uint64_t slots, int which, uint64_t total) noexcept nogil:
    """Offset at which so many bytes may be written, 0 if they never fit."""
    cdef Ring* ring = &s.rings[which]
    cdef uint64_t rest, moved
    cdef bint second = True
    if total > ring.size // 2:
        return 0
    moved = ring.tail + ring.size  # once round, and nothing gets another chance
    while True:
        rest = to_end(ring, ring.head)
        if rest >= total:
            if ring.head + total - ring.tail <= ring.size:
                break
        elif ring.head + rest - ring.tail <= ring.size:
            pad(s, ring, ring.head, rest)
            store64(&ring.head, ring.head + rest)
            continue
        if ring.tail > moved:
            second = False
        evict(s, slots, which, &second)
    fence()  # the tail has moved, for whoever reads, before a byte is written
    return ring.head


cdef Slot* find_key(Shard* s, uint64_t slots, uint64_t hash, const char* key, Py_ssize_t n) noexcept nogil:
    """The slot of a key, or NULL."""
    cdef Slot* first = index_of(s) + (hash & (slots - 1) & ~<uint64_t>(WAYS - 1))
    cdef Ring* ring
    cdef Entry* e
    cdef int i
    for i in range(WAYS):
        if first[i].at == 0 or first[i].hash != hash:
            continue
        ring = &s.rings[first[i].at & 1]
        if first[i].at >> 1 < ring.tail:
            store64(&first[i].at, 0)  # left there by one who died
            continue
        e = entry_at(s, ring, first[i].at >> 1)
        if e.key == <uint32_t>n and memcmp(<char*>e + sizeof(Entry) + 8 * e.tags, key, n) == 0:
            return first + i
    return NULL


cdef Slot* free_slot(Shard* s, uint64_t slots, uint64_t hash) noexcept nogil:
    """A slot for a new key: an empty one, else that of the entry asked for least."""
    cdef uint64_t base = hash & (slots - 1) & ~<uint64_t>(WAYS - 1)
    cdef Slot* first = index_of(s) + base
    cdef char* heat = heat_of(s, slots) + base
    cdef Slot* worst = first
    cdef int i
    for i in range(WAYS):
        if first[i].at == 0:
            return first + i
        if first[i].at >> 1 < s.rings[first[i].at & 1].tail:
            store64(&first[i].at, 0)
            return first + i
        if heat[i] < heat[worst - first]:
            worst = first + i
    forget(s, worst, entry_at(s, &s.rings[worst.at & 1], worst.at >> 1))
    s.evictions += 1
    return worst


cdef inline Header* header_of(char* base) noexcept nogil:
    return <Header*>base


cdef inline Shard* shard_at(char* base, uint64_t i) noexcept nogil:
    return <Shard*>(base + up8(sizeof(Header)) + i * header_of(base).shard_bytes)


cdef inline Shard* shard_of(char* base, uint64_t hash) noexcept nogil:
    return shard_at(base, (hash >> 52) & (header_of(base).shards - 1))


cdef int create_header(char* base, uint64_t size) except -1:
    """Lay out zeroed memory."""
    cdef Header* h = header_of(base)
    cdef uint64_t room = size - up8(sizeof(Header)), i
    h.shards = power_of_two(max(<uint64_t>1, min(<uint64_t>64, room // SHARD_BYTES)))
    h.shard_bytes = room // h.shards & ~<uint64_t>63
    h.slots = power_of_two(h.shard_bytes // SLOT_FOR)
    if lock_init(h.lock) < 0:
        raise OSError("locks between processes cannot be made here")
    for i in range(h.shards):
        create_shard(shard_at(base, i), h)
    fence()
    h.magic = MAGIC
    return 0


cdef int create_shard(Shard* s, Header* h) except -1:
    cdef uint64_t used = up8(sizeof(Shard) + h.slots * (sizeof(Slot) + 1 + sizeof(uint32_t)))
    cdef uint64_t left = h.shard_bytes - used & ~<uint64_t>7
    if lock_init(s.lock) < 0:
        raise OSError("locks between processes cannot be made here")
    s.rings[SMALL].start = used
    s.rings[SMALL].size = left // 10 & ~<uint64_t>7
    s.rings[MAIN].start = used + s.rings[SMALL].size
    s.rings[MAIN].size = left - s.rings[SMALL].size
    s.rings[SMALL].head = s.rings[SMALL].tail = s.rings[SMALL].size  # an offset of 0 means none
    s.rings[MAIN].head = s.rings[MAIN].tail = s.rings[MAIN].size
    return 0


cdef tuple copied(Shard* s, uint64_t at, uint64_t hash, const char* key, Py_ssize_t n):
    """The entry at a place, if it is this key's and stays there while it is copied."""
    cdef Ring* ring = &s.rings[at & 1]
    cdef uint64_t offset = at >> 1
    cdef Entry* e = entry_at(s, ring, offset)
    cdef Entry head
    cdef char* p
    if at == 0 or offset < load64(&ring.tail):
        return None
    memcpy(&head, e, sizeof(Entry))
    p = <char*>e + sizeof(Entry) + 8 * <Py_ssize_t>head.tags
    fence()
    if offset < load64(&ring.tail):
        return None
    if head.hash != hash or head.key != <uint32_t>n or head.state not in (LIVE, STALE) or memcmp(p, key, n) != 0:
        return None
    meta = PyBytes_FromStringAndSize(p + n, head.meta)
    body = PyBytes_FromStringAndSize(p + n + head.meta, head.body)
    fence()
    if offset < load64(&ring.tail):
        return None
    return meta, body, head.state == STALE


cdef bint insert(Shard* s, uint64_t slots, uint64_t hash, bytes key, bytes meta, bytes body, tags,
                 uint64_t total) except -1:
    cdef uint32_t* ghost = ghosts_of(s, slots) + (hash & (slots - 1))
    cdef int which = SMALL
    cdef Slot* slot = find_key(s, slots, hash, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
    cdef uint64_t at
    if slot != NULL or ghost[0] == <uint32_t>(hash >> 32) or total > s.rings[SMALL].size // 4:
        which = MAIN  # known already, or not for the small ring
    at = reserve(s, slots, which, total)
    if at == 0:
        return False
    write_entry(entry_at(s, &s.rings[which], at), hash, key, meta, body, tags, total)
    store64(&s.rings[which].head, at + total)
    slot = find_key(s, slots, hash, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
    if slot != NULL:
        forget(s, slot, entry_at(s, &s.rings[slot.at & 1], slot.at >> 1))
    else:
        slot = free_slot(s, slots, hash)
        heat_of(s, slots)[slot - index_of(s)] = 0
    slot.hash = hash
    store64(&slot.at, at * 2 + which)
    s.entries += 1
    s.bytes += total
    s.inserts += 1
    return True


cdef int write_entry(Entry* e, uint64_t hash, bytes key, bytes meta, bytes body, tags, uint64_t total) except -1:
    cdef char* p = <char*>e + sizeof(Entry)
    cdef uint64_t tag
    e.hash = hash
    e.total = <uint32_t>total
    e.key = <uint32_t>len(key)
    e.meta = <uint32_t>len(meta)
    e.body = <uint64_t>len(body)
    e.tags = <uint32_t>len(tags)
    e.state = LIVE
    for tag in tags:
        memcpy(p, &tag, 8)
        p += 8
    memcpy(p, PyBytes_AS_STRING(key), len(key))
    memcpy(p + len(key), PyBytes_AS_STRING(meta), len(meta))
    memcpy(p + len(key) + len(meta), PyBytes_AS_STRING(body), len(body))
    return 0


cdef bint sweep_slot(Shard* s, Slot* slot, set tags, bytes prefix, bint soft) except -1:
    cdef Ring* ring = &s.rings[slot.at & 1]
    cdef Entry* e = entry_at(s, ring, slot.at >> 1)
    cdef uint64_t* own
    cdef uint32_t i
    cdef bint hit = False
    if slot.at >> 1 < ring.tail:
        return False
    own = <uint64_t*>(<char*>e + sizeof(Entry))
    if prefix is None:
        for i in range(e.tags):
            hit = hit or own[i] in tags
    else:
        hit = e.key >= <uint32_t>len(prefix) and memcmp(
            <char*>own + 8 * e.tags, PyBytes_AS_STRING(prefix), len(prefix)) == 0
    if hit and soft:
        store64(&e.state, STALE)
    elif hit:
        forget(s, slot, e)
    return hit


# ---- the store ------------------------------------------------------------------------------------------------------

@cython.final
cdef class CacheStore:
    """Over memory that begins zeroed; whoever makes it says `create`, before anybody else looks."""

    def __cinit__(self, object memory, uint64_t seed, bint create=False):
        PyObject_GetBuffer(memory, &self.view, PyBUF_CONTIG)
        self.memory = memory
        self.base = <char*>self.view.buf
        self.seed = seed
        if self.view.len < <Py_ssize_t>MIN_BYTES:
            raise ValueError(f"a cache needs {MIN_BYTES} bytes, not {self.view.len}")
        if create:
            create_header(self.base, <uint64_t>self.view.len)
        if header_of(self.base).magic != MAGIC:
            raise ValueError("this memory holds no cache")
        self.shards = header_of(self.base).shards
        self.slots = header_of(self.base).slots
        self.max_entry = <Py_ssize_t>min(shard_at(self.base, 0).rings[MAIN].size // 4, <uint64_t>1 << 30)

    def __dealloc__(self):
        if self.view.buf != NULL:
            PyBuffer_Release(&self.view)

    cdef uint64_t hash(self, const char* key, Py_ssize_t n) noexcept nogil:
        return hash_bytes(key, n, self.seed)

    def hash_of(self, bytes key):
        """What fill marks and tags are known by."""
        return self.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))

    cdef tuple lookup(self, const char* key, Py_ssize_t n, uint64_t hash):
        """(meta, body, purged softly) or None. Takes no lock."""
        cdef Shard* s = shard_of(self.base, hash)
        cdef uint64_t base = hash & (self.slots - 1) & ~<uint64_t>(WAYS - 1)
        cdef Slot* first = index_of(s) + base
        cdef char* heat = heat_of(s, self.slots) + base
        cdef int i
        for i in range(WAYS):
            if load64(&first[i].at) != 0 and first[i].hash == hash:
                found = copied(s, load64(&first[i].at), hash, key, n)
                if found is not None:
                    if heat[i] < 3:
                        heat[i] += 1
                    return found
        return None

    def get(self, bytes key):
        """(meta, body, purged softly) or None."""
        return self.lookup(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key),
                           self.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)))

    def put(self, bytes key, bytes meta, bytes body, tags=(), int64_t since_us=0):
        """Store an entry in the place of the key's old one. False: it is not there.

        It is too large, its shard was busy, or it was purged since it was asked for (`since_us`, monotonic).
        """
        cdef uint64_t hash = self.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        cdef Shard* s = shard_of(self.base, hash)
        cdef uint64_t total = up8(sizeof(Entry) + 8 * len(tags) + len(key) + len(meta) + len(body))
        if total > <uint64_t>self.max_entry or not take_lock(s.lock, BUSY_MS):
            s.rejected += 1
            return False
        try:
            stored = insert(s, self.slots, hash, key, meta, body, tags, total)
        finally:
            drop_lock(s.lock)
        if stored and since_us and self.purged_since(since_us, hash, tags):
            self.delete(key)
            return False
        return stored

    def delete(self, bytes key):
        """Whether it was there. Nothing is noted: for entries that are of no more use."""
        cdef uint64_t hash = self.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        return self._mark(hash, key, False)

    cdef bint _mark(self, uint64_t hash, bytes key, bint soft) except -1:
        cdef Shard* s = shard_of(self.base, hash)
        cdef Slot* slot
        cdef Entry* e
        if not take_lock(s.lock, PURGE_MS):
            raise TimeoutError("a part of the cache is held by a process that does not run")
        slot = find_key(s, self.slots, hash, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        if slot != NULL:
            e = entry_at(s, &s.rings[slot.at & 1], slot.at >> 1)
            if soft:
                store64(&e.state, STALE)
            else:
                forget(s, slot, e)
        drop_lock(s.lock)
        return slot != NULL

    # -- purges -------------------------------------------------------------------------------------------------------

    def purge(self, bytes key, int64_t now_us, bint soft=False):
        """Throw out one entry, and whatever is being fetched for it; softly: it is validated before its next use."""
        cdef uint64_t hash = self.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        self._note(BY_KEY, hash, now_us)
        return self._mark(hash, key, soft)

    def purge_url(self, bytes url, int64_t now_us, bint soft=False):
        """purge(), with the variants that are stored under the URL, a line break and more. How many there were."""
        return self.purge(url, now_us, soft) + self._sweep((), url + b"\n", soft)

    def purge_tags(self, tags, int64_t now_us, bint soft=False):
        """Throw out all entries that bear one of these tags (hashes). How many there were."""
        for tag in tags:
            self._note(BY_TAG, tag, now_us)
        return self._sweep(tags, None, soft)

    def purge_prefix(self, bytes prefix, int64_t now_us, bint soft=False):
        """Throw out all entries whose keys begin so. How many there were."""
        self._note(BY_PREFIX, 0, now_us)
        return self._sweep((), prefix, soft)

    cdef int _note(self, uint64_t kind, uint64_t hash, int64_t now_us) except -1:
        cdef Header* h = header_of(self.base)
        cdef Purge* p
        if not take_lock(h.lock, PURGE_MS):
            raise TimeoutError("the cache's notes are held by a process that does not run")
        p = &h.purge[h.purges % PURGES]
        p.us = now_us
        p.hash = hash
        p.kind = kind
        store64(&h.purges, h.purges + 1)
        drop_lock(h.lock)
        fence()
        return 0

    def purged_since(self, int64_t us, uint64_t mark, tags=()):
        """Whether an entry asked for at `us` may have been purged since; in doubt it was."""
        cdef Header* h = header_of(self.base)
        cdef uint64_t count, i
        cdef Purge* p
        fence()
        count = load64(&h.purges)
        for i in range(min(count, <uint64_t>PURGES)):
            p = &h.purge[(count - 1 - i) % PURGES]
            if p.us < us:
                return False
            if p.kind == BY_PREFIX or (p.hash == mark if p.kind == BY_KEY else p.hash in tags):
                return True
        return count > PURGES

    def _sweep(self, tags, prefix, bint soft):
        cdef Header* h = header_of(self.base)
        cdef Shard* s
        cdef uint64_t i, k, count = 0
        cdef set wanted = set(tags)
        for i in range(h.shards):
            s = shard_at(self.base, i)
            if not take_lock(s.lock, PURGE_MS):
                raise TimeoutError("a part of the cache is held by a process that does not run")
            try:
                for k in range(self.slots):
                    if index_of(s)[k].at != 0:
                        count += sweep_slot(s, index_of(s) + k, wanted, prefix, soft)
            finally:
                drop_lock(s.lock)
        return count

    # -- who fetches --------------------------------------------------------------------------------------------------

    cpdef int acquire(self, uint64_t mark, int64_t now_us, int64_t until_us) noexcept:
        """Say that this one fetches: 1; somebody does already: 0; there is no room to say so: -1."""
        cdef Fill* f = &header_of(self.base).fill[mark % FILLS]
        cdef int64_t held = load_us(&f.until)
        if held > now_us:
            return 0 if f.hash == mark else -1
        if not swap_us(&f.until, held, until_us):
            return 0 if f.hash == mark else -1
        store64(&f.hash, mark)
        return 1

    def busy(self, uint64_t mark, int64_t now_us):
        """Whether somebody fetches it."""
        cdef Fill* f = &header_of(self.base).fill[mark % FILLS]
        return load_us(&f.until) > now_us and load64(&f.hash) == mark

    cpdef void release(self, uint64_t mark, int64_t until_us) noexcept:
        """It was fetched, or given up. `until_us` is what was said to acquire()."""
        cdef Fill* f = &header_of(self.base).fill[mark % FILLS]
        if load64(&f.hash) == mark:
            swap_us(&f.until, until_us, 0)

    # -- for operators and tests --------------------------------------------------------------------------------------

    def stats(self):
        """Sums over all shards."""
        cdef Header* h = header_of(self.base)
        cdef Shard* s
        cdef uint64_t i
        total = dict.fromkeys(("entries", "bytes", "inserts", "evictions", "rejected", "promoted"), 0)
        for i in range(h.shards):
            s = shard_at(self.base, i)
            total["entries"] += s.entries
            total["bytes"] += s.bytes
            total["inserts"] += s.inserts
            total["evictions"] += s.evictions
            total["rejected"] += s.rejected
            total["promoted"] += s.promoted
        total["capacity"] = self.view.len
        total["purges"] = load64(&h.purges)
        return total

    def every_key(self):
        """Of all entries there are, in no order."""
        cdef Header* h = header_of(self.base)
        cdef Shard* s
        cdef Slot* slot
        cdef Entry* e
        cdef uint64_t i, k
        keys = []
        for i in range(h.shards):
            s = shard_at(self.base, i)
            if not take_lock(s.lock, PURGE_MS):
                raise TimeoutError("a part of the cache is held by a process that does not run")
            for k in range(self.slots):
                slot = index_of(s) + k
                if slot.at != 0 and slot.at >> 1 >= s.rings[slot.at & 1].tail:
                    e = entry_at(s, &s.rings[slot.at & 1], slot.at >> 1)
                    keys.append((<char*>e + sizeof(Entry) + 8 * e.tags)[:e.key])
            drop_lock(s.lock)
        return keys
