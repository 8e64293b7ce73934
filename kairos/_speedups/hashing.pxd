"""One 64-bit hash and one generator for all leaves, as inline C: folded 64x64 -> 128 multiplication.

Not cryptographic. Tables that take keys from clients must give a secret seed. The value of a text is the same in every
process and on every little-endian machine, which consistent hashing relies on.
"""

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>
    #include <string.h>

    #define KAIROS_K0 UINT64_C(0x9E3779B97F4A7C15)
    #define KAIROS_K1 UINT64_C(0xD1B54A32D192ED03)
    #define KAIROS_K2 UINT64_C(0x8CB92BA72F3D8DD7)

    static inline uint64_t kairos_fold(uint64_t a, uint64_t b) {
    #ifdef __SIZEOF_INT128__
        unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    #else
        uint64_t al = (uint32_t)a, ah = a >> 32, bl = (uint32_t)b, bh = b >> 32;
        uint64_t low = al * bl, mid1 = ah * bl, mid2 = al * bh;
        uint64_t carry = ((low >> 32) + (uint32_t)mid1 + (uint32_t)mid2) >> 32;
        return (a * b) ^ (ah * bh + (mid1 >> 32) + (mid2 >> 32) + carry);
    #endif
    }

    static inline uint64_t kairos_load64(const unsigned char *p) { uint64_t v; memcpy(&v, p, 8); return v; }
    static inline uint64_t kairos_load32(const unsigned char *p) { uint32_t v; memcpy(&v, p, 4); return v; }

    static inline uint64_t kairos_hash_bytes(const char *text, size_t n, uint64_t seed) {
        const unsigned char *p = (const unsigned char *)text;
        uint64_t state = kairos_fold(seed ^ KAIROS_K0, n ^ KAIROS_K1), a = 0, b = 0;
        size_t left = n;
        for (; left > 16; p += 16, left -= 16)
            state = kairos_fold(kairos_load64(p) ^ KAIROS_K1, kairos_load64(p + 8) ^ state);
        if (left >= 8) {
            a = kairos_load64(p);
            b = kairos_load64(p + left - 8);
        } else if (left >= 4) {
            a = kairos_load32(p);
            b = kairos_load32(p + left - 4);
        } else if (left > 0) {
            a = (uint64_t)p[0] << 16 | (uint64_t)p[left >> 1] << 8 | p[left - 1];
        }
        return kairos_fold(kairos_fold(a ^ KAIROS_K1, b ^ state) ^ KAIROS_K0, KAIROS_K2);
    }

    static inline uint64_t kairos_hash_word(uint64_t word) {
        return kairos_fold(kairos_fold(word ^ KAIROS_K0, KAIROS_K1), KAIROS_K2);
    }

    static inline uint64_t kairos_random(uint64_t *state) {
        *state += KAIROS_K0;
        return kairos_fold(*state, *state ^ KAIROS_K1);
    }
    """
    # Hash of n bytes.
    uint64_t hash_bytes "kairos_hash_bytes"(const char* text, size_t n, uint64_t seed) noexcept nogil
    # Hash of one number.
    uint64_t hash_word "kairos_hash_word"(uint64_t word) noexcept nogil
    # Next number of the generator whose state is given; any seed will do.
    uint64_t next_random "kairos_random"(uint64_t* state) noexcept nogil
