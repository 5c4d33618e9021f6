/* tensor/cpu/q_avx2.c - 8-bit activations and quantised dot products with AVX2: q_generic.c with eight rows in the lanes of one
 * vector. q_layout.h states layouts and arithmetic; every function here gives the same bits as the plain C.
 *
 * The step is vpmaddubsw: unsigned codes times signed activations, neighbours added to 16 bits. A 16-bit lane then sums 16
 * products of a block (8 in Q6_K). The true sums fit: 16*15*127 = 30,480 for 4-bit codes; with the offset taken away
 * 16*16*127 = 8*32*127 = 32,512 for 5 and 6 bits, where sums on the way may wrap around and come back. vpmaddwd then widens
 * to 32 bits, multiplying by the scale of the sub-block on the way. Q8_0 has no room in 16 bits: |w| times x with w's sign.
 * Columns go in tiles of 4: codes are unpacked once for the tile; activations are broadcast from memory 4 bytes at a time, a
 * load that costs no arithmetic. tile_*() are inlined for 1..4 columns, so that accumulators become registers; PIN keeps the
 * compilers from spreading the sums over more of them than there are. One column is bound by memory, and the processor's own
 * prefetching stops at every page: the first tile asks for what lies AHEAD bytes further on, in the order of addresses, also
 * across the end of the group. */
#include "tensor/block.h"
#include "tensor/cpu/kern.h"
#include "tensor/cpu/q_layout.h"
#include <float.h>
#include <immintrin.h>
#include <math.h>

#define INLINE static inline __attribute__((always_inline))
#define PIN(v) __asm__("" : "+x"(v))
#define TILE 4
#define AHEAD 2048
#define READY_K 512 /* values of k unpacked at a time: 8 bytes of first-level cache for each */
#define READY_COLS 8

INLINE __m256i load(const void *p) { return _mm256_loadu_si256(p); }
INLINE void store(void *p, __m256i v) { _mm256_store_si256(p, v); }
INLINE __m256 halves(const void *h) { return _mm256_cvtph_ps(_mm_loadu_si128(h)); }
INLINE __m256 all(const void *f) { return _mm256_broadcast_ss(f); }
INLINE __m256i four(const void *p) /* 4 bytes in every lane */
{
    i32 v;
    memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}
INLINE __m256 real(__m256i v) { return _mm256_cvtepi32_ps(v); }
INLINE __m256i mask8(__m256i v, int m) { return _mm256_and_si256(v, _mm256_set1_epi8((char)m)); }
INLINE __m256i low4(__m256i v) { return mask8(v, 15); }
INLINE __m256i high4(__m256i v) { return mask8(_mm256_srli_epi16(v, 4), 15); }
INLINE void ahead(const u8 *p, const int bytes)
{
    for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* byte b of each lane, moved by a table: to both 16-bit halves, to the upper byte of both, or alone */
#define LANE(x, y)                                                                                                               \
    {                                                                                                                            \
        x(0, y), x(4, y), x(8, y), x(12, y), x(0, y), x(4, y), x(8, y), x(12, y)                                                 \
    }
#define BOTH(at, b) at + b, 128, at + b, 128
#define UPPER(at, b) 128, at + b, 128, at + b
#define ALONE(at, b) at + b, 128, 128, 128
static const u8 pick_both[4][32] __attribute__((aligned(32))) = {LANE(BOTH, 0), LANE(BOTH, 1), LANE(BOTH, 2), LANE(BOTH, 3)};
static const u8 pick_upper[4][32] __attribute__((aligned(32))) = {LANE(UPPER, 0), LANE(UPPER, 1), LANE(UPPER, 2), LANE(UPPER, 3)};
static const u8 pick_alone[4][32] __attribute__((aligned(32))) = {LANE(ALONE, 0), LANE(ALONE, 1), LANE(ALONE, 2), LANE(ALONE, 3)};
INLINE __m256i pick(__m256i v, const u8 how[32]) { return _mm256_shuffle_epi8(v, load(how)); }
INLINE __m256i pick_signed(__m256i v, int b) { return _mm256_srai_epi16(pick(v, pick_upper[b]), 8); }

/* columns are addressed as base + offset, the offset shared: 16 integer registers do not hold four pointers for each of four */
typedef struct {
    usize d, s, o6, o5; /* where these parts of an activation row begin */
} parts;
INLINE parts parts_of(const u8 *x, i64 k)
{
    return (parts){(usize)((const u8 *)xq_d(x, k) - x), (usize)((const u8 *)xq_s(x, k) - x), (usize)((const u8 *)xq_o6(x, k) - x),
                   (usize)((const u8 *)xq_o5(x, k) - x)};
}

/* one quad of codes against n columns, `at` values into their rows */
INLINE void quad(__m256i codes, const u8 *const x[], i64 at, __m256i acc[], const bool first, const int n)
{
    for (int c = 0; c < n; c++) {
        __m256i t = _mm256_maddubs_epi16(codes, four(x[c] + at));
        acc[c] = first ? t : _mm256_add_epi16(acc[c], t);
        PIN(acc[c]);
    }
}
INLINE void nibbles(const u8 v[4][32], const u8 *const x[], i64 at, __m256i acc[], const int n)
{
    for (int p = 0; p < 4; p++) {
        __m256i w = load(v[p]);
        quad(low4(w), x, at + 4 * p, acc, p == 0, n);
        quad(high4(w), x, at + 16 + 4 * p, acc, false, n);
    }
}

/* Blocks (superblocks) from..to of a group against n columns. The sums so far stand in y, unless from is 0. `codes`, if ready,
 * holds these blocks' codes as bytes: [block][8 quads][8 rows][4]. `first`: weights come from memory, so ask for
 * those that follow. */
#define TILE_ARGS                                                                                                                \
    const u8 *g, i64 from, i64 to, const u8 *codes, i64 k, const void *xq, usize stride, float *y, i64 y_stride, const int n,    \
        const bool first, const bool ready
#define TILE_START                                                                                                               \
    const u8 *x[TILE];                                                                                                           \
    __m256 sum[TILE];                                                                                                            \
    const parts at = parts_of(xq, k);                                                                                            \
    for (int c = 0; c < n; c++) x[c] = (const u8 *)xq + stride * (usize)c;                                                       \
    for (int c = 0; c < n; c++) sum[c] = from ? _mm256_loadu_ps(y + c * y_stride) : _mm256_setzero_ps()
#define TILE_END                                                                                                                 \
    for (int c = 0; c < n; c++) _mm256_storeu_ps(y + c * y_stride, sum[c])

/* blocks by chunks of 4 (from is a chunk's first): clang keeps addresses in registers then, 12 % faster than chunk = b / 4 */
#define EACH_BLOCK                                                                                                               \
    for (i64 chunk = from; chunk < to; chunk += 4)                                                                               \
        for (i64 b = chunk; b < i64_min(chunk + 4, to); b++)

INLINE void tile_q8_0(TILE_ARGS)
{
    (void)codes, (void)ready;
    TILE_START;
    EACH_BLOCK
    {
        const u8 *w = g + r8_values(Q8_0, chunk) + (b - chunk) * (i64)r8_value_bytes(Q8_0);
        const u8 *scales = g + r8_scales(Q8_0, chunk) + (b - chunk) * (i64)r8_scale_bytes(Q8_0);
        __m256i acc[TILE], one = _mm256_set1_epi16(1);
        if (first) ahead(g + AHEAD + 272 * b, 272);
        for (int p = 0; p < 8; p++) {
            __m256i v = load(w + 32 * p), size = _mm256_abs_epi8(v);
            for (int c = 0; c < n; c++) {
                __m256i t = _mm256_maddubs_epi16(size, _mm256_sign_epi8(four(x[c] + 32 * b + 4 * p), v));
                t = _mm256_madd_epi16(t, one);
                acc[c] = p ? _mm256_add_epi32(acc[c], t) : t;
                PIN(acc[c]);
            }
        }
        __m256 d = halves(scales);
        for (int c = 0; c < n; c++) sum[c] += d * all(x[c] + at.d + 4 * b) * real(acc[c]);
    }
    TILE_END;
}

INLINE void tile_q4_0(TILE_ARGS)
{
    (void)codes, (void)ready;
    TILE_START;
    EACH_BLOCK
    {
        const u8 *w = g + r8_values(Q4_0, chunk) + (b - chunk) * (i64)r8_value_bytes(Q4_0);
        const u8 *scales = g + r8_scales(Q4_0, chunk) + (b - chunk) * (i64)r8_scale_bytes(Q4_0);
        __m256i acc[TILE], one = _mm256_set1_epi16(1);
        if (first) ahead(g + AHEAD + 144 * b, 144);
        nibbles((const u8(*)[32])w, x, 32 * b, acc, n);
        __m256 d = halves(scales);
        for (int c = 0; c < n; c++) {
            __m256i offset = _mm256_srai_epi16(four(x[c] + at.o5 + 4 * b), 1);
            sum[c] += d * all(x[c] + at.d + 4 * b) * real(_mm256_madd_epi16(_mm256_sub_epi16(acc[c], offset), one));
        }
    }
    TILE_END;
}

INLINE void tile_q4_1(TILE_ARGS)
{
    (void)codes, (void)ready;
    TILE_START;
    EACH_BLOCK
    {
        const u8 *w = g + r8_values(Q4_1, chunk) + (b - chunk) * (i64)r8_value_bytes(Q4_1);
        const u8 *scales = g + r8_scales(Q4_1, chunk) + (b - chunk) * (i64)r8_scale_bytes(Q4_1);
        __m256i acc[TILE], one = _mm256_set1_epi16(1);
        if (first) ahead(g + AHEAD + 160 * b, 160);
        nibbles((const u8(*)[32])w, x, 32 * b, acc, n);
        __m256 d = halves(scales), m = halves(scales + 16);
        for (int c = 0; c < n; c++)
            sum[c] += d * all(x[c] + at.d + 4 * b) * real(_mm256_madd_epi16(acc[c], one)) + m * all(x[c] + at.s + 4 * b);
    }
    TILE_END;
}

/* the codes of quads p and p + 4 */
INLINE __m256i low5(__m256i v, __m256i bits, int p)
{
    return _mm256_or_si256(low4(v), mask8(_mm256_slli_epi16(bits, 4 - p), 16));
}
INLINE __m256i high5(__m256i v, __m256i bits, int p) { return _mm256_or_si256(high4(v), mask8(_mm256_srli_epi16(bits, p), 16)); }
INLINE void unpack_five(const u8 v[4][32], const u8 more[32], u8 *codes)
{
    __m256i bits = load(more);
    for (int p = 0; p < 4; p++) {
        __m256i w = load(v[p]);
        store(codes + 32 * p, low5(w, bits, p));
        store(codes + 32 * p + 128, high5(w, bits, p));
    }
}
INLINE void unpack_q5_0(const u8 *g, i64 from, i64 to, u8 *codes)
{
    for (i64 b = from; b < to; b++, codes += 256) {
        const r8_q5_0 *w = (const r8_q5_0 *)(g + r8_values(Q5_0, b));
        unpack_five(w->nibbles, w->bits, codes);
    }
}
INLINE void unpack_q5_1(const u8 *g, i64 from, i64 to, u8 *codes)
{
    for (i64 b = from; b < to; b++, codes += 256) {
        const r8_q5_0 *w = (const r8_q5_0 *)(g + r8_values(Q5_1, b));
        unpack_five(w->nibbles, w->bits, codes);
    }
}
INLINE void unpack_q5_k(const u8 *g, i64 from, i64 to, u8 *codes)
{
    for (i64 b = from; b < to; b++) {
        const r8_q5_k *w = (const r8_q5_k *)(g + r8_values(Q5_K, b));
        for (int j = 0; j < 8; j++, codes += 256) unpack_five(w->block[j].nibbles, w->block[j].bits, codes);
    }
}
/* sums of codes of five bits; they may have wrapped around, and are right again less 16 times the sum of activations */
INLINE void fives(const u8 v[4][32], const u8 more[32], const u8 *ready_at, const u8 *const x[], i64 at, __m256i acc[],
                  const int n, const bool ready)
{
    __m256i none = _mm256_setzero_si256(), bits = ready ? none : load(more);
    for (int p = 0; p < 4; p++) {
        __m256i w = ready ? none : load(v[p]);
        quad(ready ? load(ready_at + 32 * p) : low5(w, bits, p), x, at + 4 * p, acc, p == 0, n);
        quad(ready ? load(ready_at + 32 * p + 128) : high5(w, bits, p), x, at + 16 + 4 * p, acc, false, n);
    }
}
INLINE void tile_q5_0(TILE_ARGS)
{
    const u8 *soon = g + (ready ? 176 * READY_K / 32 : AHEAD);
    TILE_START;
    for (i64 b = from; b < to; b++) {
        const r8_q5_0 *w = (const r8_q5_0 *)(g + r8_values(Q5_0, b));
        __m256i acc[TILE], one = _mm256_set1_epi16(1);
        if (first) ahead(soon + 176 * b, 176);
        fives(w->nibbles, w->bits, ready ? codes + 256 * (b - from) : NULL, x, 32 * b, acc, n, ready);
        __m256 d = halves(g + r8_scales(Q5_0, b));
        for (int c = 0; c < n; c++) {
            __m256i signed_sum = _mm256_sub_epi16(acc[c], four(x[c] + at.o5 + 4 * b));
            sum[c] += d * all(x[c] + at.d + 4 * b) * real(_mm256_madd_epi16(signed_sum, one));
        }
    }
    TILE_END;
}
INLINE void tile_q5_1(TILE_ARGS)
{
    const u8 *soon = g + (ready ? 192 * READY_K / 32 : AHEAD);
    TILE_START;
    for (i64 b = from; b < to; b++) {
        const r8_q5_0 *w = (const r8_q5_0 *)(g + r8_values(Q5_1, b));
        __m256i acc[TILE], one = _mm256_set1_epi16(1);
        if (first) ahead(soon + 192 * b, 192);
        fives(w->nibbles, w->bits, ready ? codes + 256 * (b - from) : NULL, x, 32 * b, acc, n, ready);
        __m256 d = halves(g + r8_scales(Q5_1, b)), m = halves(g + r8_scales(Q5_1, b) + 16);
        for (int c = 0; c < n; c++) {
            __m256i less = four(x[c] + at.o5 + 4 * b), signed_sum = _mm256_sub_epi16(acc[c], less);
            __m256i whole = _mm256_add_epi32(_mm256_madd_epi16(signed_sum, one), _mm256_madd_epi16(less, one));
            sum[c] += d * all(x[c] + at.d + 4 * b) * real(whole) + m * all(x[c] + at.s + 4 * b);
        }
    }
    TILE_END;
}

/* scales and minima of Q4_K and Q5_K: bytes, four sub-blocks in a vector */
INLINE void scales_lines(const u32 words[3][8], __m256i sc[2], __m256i mn[2])
{
    __m256i w0 = load(words[0]), w1 = load(words[1]), w2 = load(words[2]);
    sc[0] = mask8(w0, 63), sc[1] = _mm256_or_si256(low4(w2), mask8(_mm256_srli_epi16(w0, 2), 48));
    mn[0] = mask8(w1, 63), mn[1] = _mm256_or_si256(high4(w2), mask8(_mm256_srli_epi16(w1, 2), 48));
}
/* m = the sum of minima times activations */
INLINE void add_minima(const __m256i mn[2], const u8 *const x[], usize at_s, __m256 m[], const int n)
{
    for (int c = 0; c < n; c++) m[c] = _mm256_setzero_ps();
    for (int j = 0; j < 8; j++) {
        __m256 low = real(pick(mn[j / 4], pick_alone[j % 4]));
        for (int c = 0; c < n; c++) {
            m[c] += low * all(x[c] + at_s + 4 * j);
            PIN(m[c]);
        }
    }
}
INLINE void tile_q5_k(TILE_ARGS)
{
    const u8 *soon = g + (ready ? 1408 * READY_K / 256 : AHEAD);
    const r8_q5_k *w = (const r8_q5_k *)g + from;
    TILE_START;
    for (i64 b = from; b < to; b++, w++) {
        __m256i sc[2], mn[2];
        __m256 a[TILE], m[TILE];
        scales_lines(w->scales, sc, mn);
        for (int c = 0; c < n; c++) a[c] = _mm256_setzero_ps();
        for (int j = 0; j < 8; j++) {
            __m256i acc[TILE], s = pick(sc[j / 4], pick_both[j % 4]);
            if (first) ahead(soon + 1408 * b + 176 * j, 176);
            fives(w->block[j].nibbles, w->block[j].bits, ready ? codes + 256 * (8 * (b - from) + j) : NULL, x, 256 * b + 32 * j,
                  acc, n, ready);
            for (int c = 0; c < n; c++) {
                __m256i less = four(x[c] + at.o5 + 32 * b + 4 * j), signed_sum = _mm256_sub_epi16(acc[c], less);
                __m256i whole = _mm256_add_epi32(_mm256_madd_epi16(signed_sum, s), _mm256_madd_epi16(less, s));
                a[c] += all(x[c] + at.d + 32 * b + 4 * j) * real(whole);
                PIN(a[c]);
            }
        }
        add_minima(mn, x, at.s + 32 * (usize)b, m, n);
        __m256 d = halves(w->d), dmin = halves(w->dmin);
        for (int c = 0; c < n; c++) sum[c] += d * a[c] - dmin * m[c];
    }
    TILE_END;
}

INLINE void tile_q4_k(TILE_ARGS)
{
    (void)codes, (void)ready;
    const r8_q4_k *w = (const r8_q4_k *)g + from;
    TILE_START;
    for (i64 b = from; b < to; b++, w++) {
        __m256i sc[2], mn[2];
        __m256 a[TILE], m[TILE];
        scales_lines(w->scales, sc, mn);
        for (int c = 0; c < n; c++) a[c] = _mm256_setzero_ps();
        for (int j = 0; j < 8; j++) {
            __m256i acc[TILE], s = pick(sc[j / 4], pick_both[j % 4]);
            if (first) ahead(g + AHEAD + 1152 * b + 144 * j, 144);
            nibbles(w->nibbles[j], x, 256 * b + 32 * j, acc, n);
            for (int c = 0; c < n; c++) {
                a[c] += all(x[c] + at.d + 32 * b + 4 * j) * real(_mm256_madd_epi16(acc[c], s));
                PIN(a[c]);
            }
        }
        add_minima(mn, x, at.s + 32 * (usize)b, m, n);
        __m256 d = halves(w->d), dmin = halves(w->dmin);
        for (int c = 0; c < n; c++) sum[c] += d * a[c] - dmin * m[c];
    }
    TILE_END;
}

/* the codes of quad t of half h */
INLINE __m256i code6(const u8 v[4][32], __m256i pairs, const int h, const int t)
{
    __m256i top = t < 2 ? _mm256_slli_epi16(pairs, 4 - 2 * t) : _mm256_srli_epi16(pairs, 2 * t - 4), w = load(v[t]);
    return _mm256_or_si256(h ? high4(w) : low4(w), mask8(top, 48));
}
INLINE void unpack_q6_k(const u8 *g, i64 from, i64 to, u8 *codes)
{
    for (i64 b = from; b < to; b++) {
        const r8_q6_k *w = (const r8_q6_k *)(g + r8_values(Q6_K, b));
        for (int j = 0; j < 8; j++, codes += 256) {
            for (int t = 0; t < 8; t++)
                store(codes + 32 * t, code6(w->block[j].nibbles, load(w->block[j].pairs[t / 4]), t / 4, t % 4));
        }
    }
}
/* acc = (sums of (code - 32) * q over the quads of half h) * scale */
INLINE void half_q6_k(const u8 v[4][32], const u8 pairs[32], const u8 *codes, __m256i scale, const u8 *const x[], i64 at,
                      usize o6, __m256i acc[], const int h, const int n, const bool ready)
{
    for (int t = 0; t < 4; t++)
        quad(ready ? load(codes + 128 * h + 32 * t) : code6(v, load(pairs), h, t), x, at + 16 * h + 4 * t, acc, t == 0, n);
    for (int c = 0; c < n; c++) {
        acc[c] = _mm256_madd_epi16(_mm256_sub_epi16(acc[c], four(x[c] + o6 + 4 * h)), scale);
        PIN(acc[c]);
    }
}
INLINE void tile_q6_k(TILE_ARGS)
{
    const u8 *soon = g + (ready ? 1680 * READY_K / 256 : AHEAD);
    TILE_START;
    for (i64 b = from; b < to; b++) {
        const r8_q6_k *w = (const r8_q6_k *)(g + r8_values(Q6_K, b));
        __m256 a[TILE];
        for (int c = 0; c < n; c++) a[c] = _mm256_setzero_ps();
#pragma GCC unroll 2
        for (int j = 0; j < 8; j++) {
            const u8 *ready_at = ready ? codes + 256 * (8 * (b - from) + j) : NULL;
            __m256i even[TILE], odd[TILE], sc = load(w->scales[j / 2]);
            i64 q = 256 * b + 32 * j;
            usize o6 = at.o6 + 64 * (usize)b + 8 * (usize)j;
            if (first) ahead(soon + 1680 * b + 210 * j, 210);
            half_q6_k(w->block[j].nibbles, w->block[j].pairs[0], ready_at, pick_signed(sc, j % 2 * 2), x, q, o6, even, 0, n,
                      ready);
            half_q6_k(w->block[j].nibbles, w->block[j].pairs[1], ready_at, pick_signed(sc, j % 2 * 2 + 1), x, q, o6, odd, 1, n,
                      ready);
            for (int c = 0; c < n; c++) {
                a[c] += all(x[c] + at.d + 32 * b + 4 * j) * real(_mm256_add_epi32(even[c], odd[c]));
                PIN(a[c]);
            }
        }
        __m256 d = halves(g + r8_scales(Q6_K, b));
        for (int c = 0; c < n; c++) sum[c] += d * a[c];
    }
    TILE_END;
}

/* ---- few bits: Q3_K, Q2_K ------------------------------------------------------------------------------------------------- */
INLINE __m256i code2(__m256i pairs, const int t) { return mask8(_mm256_srli_epi16(pairs, 2 * t), 3); }
INLINE __m256i code3(__m256i pairs, __m256i bits, const int q)
{
    return _mm256_or_si256(code2(pairs, q % 4),
                           mask8(q < 2 ? _mm256_slli_epi16(bits, 2 - q) : _mm256_srli_epi16(bits, q - 2), 4));
}
INLINE void unpack_q3_k(const u8 *g, i64 from, i64 to, u8 *codes)
{
    for (i64 b = from; b < to; b++) {
        const r8_q3_k *w = (const r8_q3_k *)(g + r8_values(Q3_K, b));
        for (int j = 0; j < 8; j++, codes += 256) {
#pragma GCC unroll 8
            for (int q = 0; q < 8; q++) store(codes + 32 * q, code3(load(w->block[j].pairs[q / 4]), load(w->block[j].bits), q));
        }
    }
}
/* 16 scales of 6 bits less 32, signed bytes, four in a vector */
INLINE void scales_q3_k(const u32 words[3][8], __m256i sc[4])
{
    __m256i w0 = load(words[0]), w1 = load(words[1]), w2 = load(words[2]), middle = _mm256_set1_epi8(32);
    sc[0] = _mm256_or_si256(low4(w0), mask8(_mm256_slli_epi16(w2, 4), 48));
    sc[1] = _mm256_or_si256(low4(w1), mask8(_mm256_slli_epi16(w2, 2), 48));
    sc[2] = _mm256_or_si256(high4(w0), mask8(w2, 48));
    sc[3] = _mm256_or_si256(high4(w1), mask8(_mm256_srli_epi16(w2, 2), 48));
    for (int i = 0; i < 4; i++) sc[i] = _mm256_sub_epi8(sc[i], middle);
}
INLINE void tile_q3_k(TILE_ARGS)
{
    const u8 *soon = g + (ready ? 880 * READY_K / 256 : AHEAD);
    TILE_START;
    for (i64 b = from; b < to; b++) {
        const r8_q3_k *w = (const r8_q3_k *)(g + r8_values(Q3_K, b));
        __m256i sc[4];
        __m256 a[TILE];
        scales_q3_k(w->scales, sc);
        for (int c = 0; c < n; c++) a[c] = _mm256_setzero_ps();
#pragma GCC unroll 2
        for (int j = 0; j < 8; j++) {
            const u8 *ready_at = ready ? codes + 256 * (8 * (b - from) + j) : NULL;
            __m256i half[2][TILE], bits = ready ? sc[0] : load(w->block[j].bits);
            if (first) ahead(soon + 880 * b + 110 * j, 110);
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++) {
                __m256i scale = pick_signed(sc[j / 2], j % 2 * 2 + h), pairs = ready ? bits : load(w->block[j].pairs[h]);
#pragma GCC unroll 4
                for (int t = 0; t < 4; t++)
                    quad(ready ? load(ready_at + 128 * h + 32 * t) : code3(pairs, bits, 4 * h + t), x,
                         256 * b + 32 * j + 16 * h + 4 * t, half[h], t == 0, n);
                for (int c = 0; c < n; c++) { /* 4 times the sum of activations: an eighth of 32 times */
                    __m256i less = _mm256_srai_epi16(four(x[c] + at.o6 + 64 * (usize)b + 8 * (usize)j + 4 * (usize)h), 3);
                    half[h][c] = _mm256_madd_epi16(_mm256_sub_epi16(half[h][c], less), scale);
                    PIN(half[h][c]);
                }
            }
            for (int c = 0; c < n; c++) {
                a[c] += all(x[c] + at.d + 32 * b + 4 * j) * real(_mm256_add_epi32(half[0][c], half[1][c]));
                PIN(a[c]);
            }
        }
        __m256 d = halves(g + r8_scales(Q3_K, b));
        for (int c = 0; c < n; c++) sum[c] += d * a[c];
    }
    TILE_END;
}
INLINE void tile_q2_k(TILE_ARGS)
{
    (void)codes, (void)ready;
    TILE_START;
    for (i64 b = from; b < to; b++) {
        const r8_q2_k *w = (const r8_q2_k *)(g + r8_values(Q2_K, b));
        __m256 a[TILE], m[TILE];
        for (int c = 0; c < n; c++) a[c] = m[c] = _mm256_setzero_ps();
#pragma GCC unroll 2
        for (int j = 0; j < 8; j++) {
            __m256i half[2][TILE], low[2], both = load(w->scales[j / 2]);
            if (first) ahead(g + AHEAD + 672 * b + 84 * j, 84);
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++) {
                __m256i scale = pick(low4(both), pick_both[j % 2 * 2 + h]), pairs = load(w->pairs[j][h]);
                low[h] = pick(high4(both), pick_both[j % 2 * 2 + h]);
#pragma GCC unroll 4
                for (int t = 0; t < 4; t++) quad(code2(pairs, t), x, 256 * b + 32 * j + 16 * h + 4 * t, half[h], t == 0, n);
                for (int c = 0; c < n; c++) {
                    half[h][c] = _mm256_madd_epi16(half[h][c], scale);
                    PIN(half[h][c]);
                }
            }
            for (int c = 0; c < n; c++) {
                const u8 *sums = x[c] + at.o6 + 64 * (usize)b + 8 * (usize)j;
                __m256 dx = all(x[c] + at.d + 32 * b + 4 * j);
                a[c] += dx * real(_mm256_add_epi32(half[0][c], half[1][c]));
                m[c] +=
                    dx * real(_mm256_add_epi32(_mm256_madd_epi16(four(sums), low[0]), _mm256_madd_epi16(four(sums + 4), low[1])));
                PIN(a[c]);
                PIN(m[c]);
            }
        }
        __m256 d = halves(w->d), dmin = halves(w->dmin) * _mm256_set1_ps(0.03125f);
        for (int c = 0; c < n; c++) sum[c] += d * a[c] - dmin * m[c];
    }
    TILE_END;
}

/* ---- tables: IQ4_NL, IQ4_XS, MXFP4 ---------------------------------------------------------------------------------------- */
static const i8 iq4_twice[32] __attribute__((aligned(32))) = {LEVELS_IQ4, LEVELS_IQ4};
/* MXFP4's levels + 12: unsigned, so that sums stay in 16 bits, less 12 times the sum of activations */
static const u8 mxfp4_twice[32] __attribute__((aligned(32))) = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0,
                                                                12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
/* one quad of signed values: pairs of products reach 2 * 127 * 127, so every pair is widened on its own */
INLINE void quad_signed(__m256i v, const u8 *const x[], i64 at, __m256i acc[], const bool first, const int n)
{
    __m256i size = _mm256_abs_epi8(v), one = _mm256_set1_epi16(1);
    for (int c = 0; c < n; c++) {
        __m256i t = _mm256_madd_epi16(_mm256_maddubs_epi16(size, _mm256_sign_epi8(four(x[c] + at), v)), one);
        acc[c] = first ? t : _mm256_add_epi32(acc[c], t);
        PIN(acc[c]);
    }
}
INLINE void levels_iq4(const u8 v[4][32], const u8 *const x[], i64 at, __m256i acc[], const int n)
{
    __m256i table = load(iq4_twice);
    for (int p = 0; p < 4; p++) {
        __m256i w = load(v[p]);
        quad_signed(_mm256_shuffle_epi8(table, low4(w)), x, at + 4 * p, acc, p == 0, n);
        quad_signed(_mm256_shuffle_epi8(table, high4(w)), x, at + 16 + 4 * p, acc, false, n);
    }
}
INLINE void tile_iq4_nl(TILE_ARGS)
{
    (void)codes, (void)ready;
    TILE_START;
    EACH_BLOCK
    {
        const u8 *w = g + r8_values(IQ4_NL, chunk) + (b - chunk) * (i64)r8_value_bytes(IQ4_NL);
        const u8 *scales = g + r8_scales(IQ4_NL, chunk) + (b - chunk) * (i64)r8_scale_bytes(IQ4_NL);
        __m256i acc[TILE];
        if (first) ahead(g + AHEAD + 144 * b, 144);
        levels_iq4((const u8(*)[32])w, x, 32 * b, acc, n);
        __m256 d = halves(scales);
        for (int c = 0; c < n; c++) sum[c] += d * all(x[c] + at.d + 4 * b) * real(acc[c]);
    }
    TILE_END;
}
INLINE void tile_iq4_xs(TILE_ARGS)
{
    (void)codes, (void)ready;
    const r8_iq4_xs *w = (const r8_iq4_xs *)g + from;
    TILE_START;
    for (i64 b = from; b < to; b++, w++) {
        __m256i low = load(w->scales_low), high = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)w->scales_high));
        __m256 a[TILE];
        for (int c = 0; c < n; c++) a[c] = _mm256_setzero_ps();
        for (int j = 0; j < 8; j++) {
            __m256i acc[TILE];
            if (first) ahead(g + AHEAD + 1088 * b + 136 * j, 136);
            __m256i sc = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)),
                                         _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4));
            __m256 scale = real(_mm256_sub_epi32(sc, _mm256_set1_epi32(32)));
            low = _mm256_srli_epi32(low, 4), high = _mm256_srli_epi32(high, 2);
            levels_iq4(w->nibbles[j], x, 256 * b + 32 * j, acc, n);
            for (int c = 0; c < n; c++) { /* the product is an integer below 2^24: exact */
                a[c] += all(x[c] + at.d + 32 * b + 4 * j) * (scale * real(acc[c]));
                PIN(a[c]);
            }
        }
        __m256 d = halves(w->d);
        for (int c = 0; c < n; c++) sum[c] += d * a[c];
    }
    TILE_END;
}
/* 2^(e - 128) */
INLINE __m256 powers(const void *e)
{
    __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64(e)), one = _mm256_set1_epi32(1);
    __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), v), usual = _mm256_slli_epi32(_mm256_sub_epi32(v, one), 23);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(tiny, usual, _mm256_cmpgt_epi32(v, one)));
}
INLINE void tile_mxfp4(TILE_ARGS)
{
    (void)codes, (void)ready;
    __m256i table = load(mxfp4_twice);
    TILE_START;
    EACH_BLOCK
    {
        const u8 *w = g + r8_values(MXFP4, chunk) + (b - chunk) * (i64)r8_value_bytes(MXFP4);
        const u8 *scales = g + r8_scales(MXFP4, chunk) + (b - chunk) * (i64)r8_scale_bytes(MXFP4);
        __m256i acc[TILE], one = _mm256_set1_epi16(1);
        if (first) ahead(g + AHEAD + 136 * b, 136);
        for (int p = 0; p < 4; p++) {
            __m256i v = load(w + 32 * p);
            quad(_mm256_shuffle_epi8(table, low4(v)), x, 32 * b + 4 * p, acc, p == 0, n);
            quad(_mm256_shuffle_epi8(table, high4(v)), x, 32 * b + 16 + 4 * p, acc, false, n);
        }
        __m256 d = powers(scales);
        for (int c = 0; c < n; c++) {
            __m256i sixteen = four(x[c] + at.o5 + 4 * b), twelve = _mm256_sub_epi16(sixteen, _mm256_srai_epi16(sixteen, 2));
            sum[c] += d * all(x[c] + at.d + 4 * b) * real(_mm256_madd_epi16(_mm256_sub_epi16(acc[c], twelve), one));
        }
    }
    TILE_END;
}

#define TILES(type, from, to, codes, ready)                                                                                      \
    do {                                                                                                                         \
        int c = 0;                                                                                                               \
        if (n_cols >= TILE) tile_##type(g, from, to, codes, k, x, stride, y, y_stride, TILE, true, ready), c = TILE;             \
        for (; c + TILE <= n_cols; c += TILE)                                                                                    \
            tile_##type(g, from, to, codes, k, x + stride * (usize)c, stride, y + c * y_stride, y_stride, TILE, false, ready);   \
        const u8 *rest = x + stride * (usize)c;                                                                                  \
        float *out = y + c * y_stride;                                                                                           \
        switch (n_cols - c) {                                                                                                    \
        case 1: tile_##type(g, from, to, codes, k, rest, stride, out, y_stride, 1, !ready, ready); break;                        \
        case 2: tile_##type(g, from, to, codes, k, rest, stride, out, y_stride, 2, !ready, ready); break;                        \
        case 3: tile_##type(g, from, to, codes, k, rest, stride, out, y_stride, 3, !ready, ready); break;                        \
        }                                                                                                                        \
    } while (0)
#define DOT_ARGS const void *group, i64 k, const void *xq, usize stride, int n_cols, float *y, i64 y_stride
#define DOT(type, block)                                                                                                         \
    static void dot_##type(DOT_ARGS)                                                                                             \
    {                                                                                                                            \
        const u8 *g = group, *x = xq;                                                                                            \
        TILES(type, 0, k / block, NULL, false);                                                                                  \
    }
/* types whose codes cost much to put together: for many columns, all tiles of a stretch of k share them */
#define DOT_READY(type, block)                                                                                                   \
    static void dot_##type(DOT_ARGS)                                                                                             \
    {                                                                                                                            \
        const u8 *g = group, *x = xq;                                                                                            \
        if (n_cols < READY_COLS) {                                                                                               \
            TILES(type, 0, k / block, NULL, false);                                                                              \
            return;                                                                                                              \
        }                                                                                                                        \
        u8 codes[8 * READY_K] __attribute__((aligned(64)));                                                                      \
        for (i64 from = 0; from < k / block; from += READY_K / block) {                                                          \
            i64 to = i64_min(from + READY_K / block, k / block);                                                                 \
            unpack_##type(g, from, to, codes);                                                                                   \
            TILES(type, from, to, codes, true);                                                                                  \
        }                                                                                                                        \
    }
DOT(q8_0, 32);
DOT(q4_0, 32);
DOT(q4_1, 32);
DOT(q4_k, 256);
DOT_READY(q5_0, 32);
DOT_READY(q6_k, 256);
DOT_READY(q5_1, 32);
DOT_READY(q5_k, 256);
DOT_READY(q3_k, 256);
DOT(q2_k, 256);
DOT(iq4_nl, 32);
DOT(iq4_xs, 256);
DOT(mxfp4, 32);

/* ---- activations ---------------------------------------------------------------------------------------------------------- */
/* t rounded to integers, halves away from zero: truncate, then add the sign of a remainder of a half or more */
INLINE __m256i nearest(__m256 t)
{
    __m256i whole = _mm256_cvttps_epi32(t);
    __m256 rest = t - real(whole), half = _mm256_set1_ps(0.5f);
    __m256i up = _mm256_castps_si256(_mm256_cmp_ps(rest, half, _CMP_GE_OQ));
    __m256i down = _mm256_castps_si256(_mm256_cmp_ps(rest, -half, _CMP_LE_OQ));
    return _mm256_add_epi32(_mm256_sub_epi32(whole, up), down);
}
INLINE u32 largest(__m256i v) /* of 8 unsigned lanes */
{
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return (u32)_mm_cvtsi128_si32(m);
}
INLINE __m256i pack_block(const __m256i v[4]) /* 32 integers -> bytes in order */
{
    __m256i p = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    return _mm256_permutevar8x32_epi32(p, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
static void quant(const float *x, i64 k, void *xq)
{
    i8 *q = xq;
    float *d = (float *)((u8 *)xq + xq_pad(k)), *s = d + k / 32;
    i16 *o6 = (i16 *)(s + k / 32), *o5 = o6 + k / 32 * 4;
    for (i64 b = 0; b < k / 32; b++, x += 32) {
        __m256 v[4];
        __m256i t[4], top = _mm256_setzero_si256(), size = _mm256_set1_epi32(0x7fffffff);
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(x + 8 * i);
            top = _mm256_max_epu32(top, _mm256_and_si256(_mm256_castps_si256(v[i]), size)); /* NaN above infinity above numbers */
        }
        u32 m = largest(top);
        float scale;
        memcpy(&scale, &m, 4);
        scale /= 127;
        if (m >= 0x7f800000)
            scale = NAN;
        else if (scale < FLT_MIN)
            scale = 0;
        if (scale > 0)
            for (int i = 0; i < 4; i++) t[i] = nearest(v[i] / _mm256_set1_ps(scale));
        else
            t[0] = t[1] = t[2] = t[3] = _mm256_setzero_si256();
        __m256i bytes = pack_block(t), pair = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        pair = _mm256_add_epi16(pair, _mm256_shuffle_epi32(pair, 0x4e)); /* lanes: quads; the same sums end up in all four */
        pair = _mm256_add_epi16(pair, _mm256_shuffle_epi32(pair, 0xb1));
        __m128i even = _mm256_castsi256_si128(pair), odd = _mm256_extracti128_si256(pair, 1), both = _mm_add_epi16(even, odd);
        i32 sum = _mm_cvtsi128_si32(_mm_madd_epi16(both, _mm_set1_epi16(1)));
        _mm256_storeu_si256((void *)(q + 32 * b), bytes);
        d[b] = scale, s[b] = scale * (float)sum;
        _mm_storel_epi64((void *)(o6 + 4 * b), _mm_slli_epi16(_mm_unpacklo_epi32(even, odd), 5));
        i32 five = _mm_cvtsi128_si32(_mm_slli_epi16(both, 4));
        memcpy(o5 + 2 * b, &five, 4);
    }
    memset(q + k, 0, xq_pad(k) - (usize)k);
}

void kern_q_avx2(kern *t)
{
    t->quant = quant;
    t->qdot[Q8_0] = dot_q8_0, t->qdot[Q4_0] = dot_q4_0, t->qdot[Q4_1] = dot_q4_1;
    t->qdot[Q5_0] = dot_q5_0, t->qdot[Q4_K] = dot_q4_k, t->qdot[Q6_K] = dot_q6_k;
    t->qdot[Q5_1] = dot_q5_1, t->qdot[Q5_K] = dot_q5_k, t->qdot[Q3_K] = dot_q3_k, t->qdot[Q2_K] = dot_q2_k;
    t->qdot[IQ4_NL] = dot_iq4_nl, t->qdot[IQ4_XS] = dot_iq4_xs, t->qdot[MXFP4] = dot_mxfp4;
}
