/* tensor/weight.c - layouts of weights: rows as files have them, and groups of 8 rows interleaved (cpu/q_layout.h).
 *
 * Interleaving moves bits and loses none; a packed row is decoded through the same codes and the same float operations as a
 * file's row (block.h), so both give identical floats. Bits move 4 codes at a time: a "quad" is one 32-bit word of a lane,
 * and shifts inside words need no byte order because masks cut what crosses a byte.
 * Inference reads the packed form directly (cpu/q_*.c); decoding serves training, embedding and the reference.
 * Nothing here allocates or checks: extents were checked when the weight became a graph node. */
#include "tensor/block.h"
#include "tensor/cpu/q_layout.h"

/* ---- words of a lane. v is one 32-byte vector, lane 0..7 the row's place in its group ------------------------------------- */
static u32 word(const u8 *v, int lane)
{
    u32 w;
    memcpy(&w, v + 4 * lane, 4);
    return w;
}
static void word_put(u8 *v, int lane, u32 w) { memcpy(v + 4 * lane, &w, 4); }
static u32 quad(const u8 *codes, int q) { return word(codes, q); }
static void quad_put(u8 *codes, int q, u32 w) { word_put(codes, q, w); }

#define LOW4 0x0f0f0f0fu
#define LOW2 0x03030303u
#define LOW1 0x01010101u
static void nibbles_in(u8 v[4][32], int lane, const u8 codes[32])
{
    for (int p = 0; p < 4; p++) word_put(v[p], lane, (quad(codes, p) & LOW4) | (quad(codes, p + 4) & LOW4) << 4);
}
static void nibbles_out(const u8 v[4][32], int lane, u8 codes[32])
{
    for (int p = 0; p < 4; p++) {
        u32 w = word(v[p], lane);
        quad_put(codes, p, w & LOW4), quad_put(codes, p + 4, w >> 4 & LOW4);
    }
}

/* ---- one block of one row: in from the file's form, and out as floats; i is the block's index along k ---------------------- */
static u16 *scales_at(dtype t, u8 *group, i64 i) { return (u16 *)(void *)(group + r8_scales(t, i)); }
static float scale_of(dtype t, const u8 *group, i64 i, int lane)
{
    return f16_to_f32(((const u16 *)(const void *)(group + r8_scales(t, i)))[lane]);
}

static void in_q8_0(u8 *g, int lane, i64 i, const void *from)
{
    const block_q8_0 *b = from;
    u8 *v = g + r8_values(Q8_0, i);
    scales_at(Q8_0, g, i)[lane] = half_get(b->d);
    for (int q = 0; q < 8; q++) memcpy(v + 32 * q + 4 * lane, b->q + 4 * q, 4);
}
static void out_q8_0(const u8 *g, int lane, i64 i, float *dst)
{
    const u8 *v = g + r8_values(Q8_0, i);
    float d = scale_of(Q8_0, g, i, lane);
    i8 w[Q32];
    for (int q = 0; q < 8; q++) memcpy(w + 4 * q, v + 32 * q + 4 * lane, 4);
    values_signed(w, Q32, d, dst);
}

static void in_q4_0(u8 *g, int lane, i64 i, const void *from)
{
    const block_q4_0 *b = from; /* its nibbles pair value i with i + 16 already: 4 words move as they are */
    u8 *v = g + r8_values(Q4_0, i);
    scales_at(Q4_0, g, i)[lane] = half_get(b->d);
    for (int p = 0; p < 4; p++) word_put(v + 32 * p, lane, quad(b->q, p));
}
static void out_q4_0(const u8 *g, int lane, i64 i, float *dst)
{
    u8 codes[Q32];
    nibbles_out((const u8(*)[32])(g + r8_values(Q4_0, i)), lane, codes);
    values_offset(codes, Q32, scale_of(Q4_0, g, i, lane), 8, dst);
}

static void in_q4_1(u8 *g, int lane, i64 i, const void *from)
{
    const block_q4_1 *b = from;
    u8 *v = g + r8_values(Q4_1, i);
    scales_at(Q4_1, g, i)[lane] = half_get(b->d), scales_at(Q4_1, g, i)[lane + 8] = half_get(b->m);
    for (int p = 0; p < 4; p++) word_put(v + 32 * p, lane, quad(b->q, p));
}
static void out_q4_1(const u8 *g, int lane, i64 i, float *dst)
{
    u8 codes[Q32];
    nibbles_out((const u8(*)[32])(g + r8_values(Q4_1, i)), lane, codes);
    values_plus(codes, Q32, scale_of(Q4_1, g, i, lane), scale_of(Q4_1, g, i, lane + 8), dst);
}

/* one or two more bits of 32 codes, from or to bit `at` of theirs */
static void bits_in(u8 v[32], int lane, const u8 codes[32], int at)
{
    u32 bits = 0;
    for (int q = 0; q < 8; q++) bits |= (quad(codes, q) >> at & LOW1) << q;
    word_put(v, lane, bits);
}
static void bits_out(const u8 v[32], int lane, u8 codes[32], int at)
{
    u32 bits = word(v, lane);
    for (int q = 0; q < 8; q++) quad_put(codes, q, quad(codes, q) | (bits >> q & LOW1) << at);
}
static void pairs_in(u8 v[2][32], int lane, const u8 codes[32], int at)
{
    for (int h = 0; h < 2; h++) {
        u32 pairs = 0;
        for (int t = 0; t < 4; t++) pairs |= (quad(codes, 4 * h + t) >> at & LOW2) << 2 * t;
        word_put(v[h], lane, pairs);
    }
}
static void pairs_out(const u8 v[2][32], int lane, u8 codes[32], int at)
{
    for (int q = 0; q < 8; q++) quad_put(codes, q, quad(codes, q) | (word(v[q / 4], lane) >> 2 * (q % 4) & LOW2) << at);
}

static void fives_in(r8_q5_0 *v, int lane, const u8 q[16], const u8 high[4])
{
    u8 codes[Q32];
    codes_get_fives(q, high, codes);
    nibbles_in(v->nibbles, lane, codes);
    bits_in(v->bits, lane, codes, 4);
}
static void in_q5_0(u8 *g, int lane, i64 i, const void *from)
{
    const block_q5_0 *b = from;
    scales_at(Q5_0, g, i)[lane] = half_get(b->d);
    fives_in((r8_q5_0 *)(g + r8_values(Q5_0, i)), lane, b->q, b->high);
}
static void out_q5_0(const u8 *g, int lane, i64 i, float *dst)
{
    const r8_q5_0 *v = (const r8_q5_0 *)(g + r8_values(Q5_0, i));
    u8 codes[Q32];
    nibbles_out(v->nibbles, lane, codes);
    bits_out(v->bits, lane, codes, 4);
    values_offset(codes, Q32, scale_of(Q5_0, g, i, lane), 16, dst);
}
static void in_q5_1(u8 *g, int lane, i64 i, const void *from)
{
    const block_q5_1 *b = from;
    scales_at(Q5_1, g, i)[lane] = half_get(b->d), scales_at(Q5_1, g, i)[lane + 8] = half_get(b->m);
    fives_in((r8_q5_0 *)(g + r8_values(Q5_1, i)), lane, b->q, b->high);
}
static void out_q5_1(const u8 *g, int lane, i64 i, float *dst)
{
    const r8_q5_0 *v = (const r8_q5_0 *)(g + r8_values(Q5_1, i));
    u8 codes[Q32];
    nibbles_out(v->nibbles, lane, codes);
    bits_out(v->bits, lane, codes, 4);
    values_plus(codes, Q32, scale_of(Q5_1, g, i, lane), scale_of(Q5_1, g, i, lane + 8), dst);
}

static void in_q4_k(u8 *g, int lane, i64 i, const void *from)
{
    const block_q4_k *b = from;
    r8_q4_k *v = (r8_q4_k *)(g + r8_values(Q4_K, i));
    u8 codes[QK];
    v->d[lane] = half_get(b->d), v->dmin[lane] = half_get(b->dmin);
    for (int w = 0; w < 3; w++) memcpy(&v->scales[w][lane], b->scales + 4 * w, 4);
    codes_get_pairs_of_32(b->q, codes);
    for (int j = 0; j < 8; j++) nibbles_in(v->nibbles[j], lane, codes + 32 * j);
}
static void out_q4_k(const u8 *g, int lane, i64 i, float *dst)
{
    const r8_q4_k *v = (const r8_q4_k *)(g + r8_values(Q4_K, i));
    u8 codes[QK], scales[12];
    for (int w = 0; w < 3; w++) memcpy(scales + 4 * w, &v->scales[w][lane], 4);
    for (int j = 0; j < 8; j++) nibbles_out(v->nibbles[j], lane, codes + 32 * j);
    values_q4_k(codes, scales, f16_to_f32(v->d[lane]), f16_to_f32(v->dmin[lane]), dst);
}

static void in_q6_k(u8 *g, int lane, i64 i, const void *from)
{
    const block_q6_k *b = from;
    r8_q6_k *v = (r8_q6_k *)(g + r8_values(Q6_K, i));
    u8 codes[QK];
    scales_at(Q6_K, g, i)[lane] = half_get(b->d);
    for (int j = 0; j < 4; j++) memcpy(v->scales[j][lane], b->scales + 4 * j, 4);
    codes_get_q6_k(b, codes);
    for (int j = 0; j < 8; j++) {
        nibbles_in(v->block[j].nibbles, lane, codes + 32 * j);
        pairs_in(v->block[j].pairs, lane, codes + 32 * j, 4);
    }
}
static void out_q6_k(const u8 *g, int lane, i64 i, float *dst)
{
    const r8_q6_k *v = (const r8_q6_k *)(g + r8_values(Q6_K, i));
    u8 codes[QK];
    i8 scales[16];
    for (int j = 0; j < 4; j++) memcpy(scales + 4 * j, v->scales[j][lane], 4);
    for (int j = 0; j < 8; j++) {
        nibbles_out(v->block[j].nibbles, lane, codes + 32 * j);
        pairs_out(v->block[j].pairs, lane, codes + 32 * j, 4);
    }
    values_q6_k(codes, scales, scale_of(Q6_K, g, i, lane), dst);
}

static void in_q5_k(u8 *g, int lane, i64 i, const void *from)
{
    const block_q5_k *b = from;
    r8_q5_k *v = (r8_q5_k *)(g + r8_values(Q5_K, i));
    u8 codes[QK];
    v->d[lane] = half_get(b->d), v->dmin[lane] = half_get(b->dmin);
    for (int w = 0; w < 3; w++) memcpy(&v->scales[w][lane], b->scales + 4 * w, 4);
    codes_get_q5_k(b, codes);
    for (int j = 0; j < 8; j++) {
        nibbles_in(v->block[j].nibbles, lane, codes + 32 * j);
        bits_in(v->block[j].bits, lane, codes + 32 * j, 4);
    }
}
static void out_q5_k(const u8 *g, int lane, i64 i, float *dst)
{
    const r8_q5_k *v = (const r8_q5_k *)(g + r8_values(Q5_K, i));
    u8 codes[QK], scales[12];
    for (int w = 0; w < 3; w++) memcpy(scales + 4 * w, &v->scales[w][lane], 4);
    for (int j = 0; j < 8; j++) {
        nibbles_out(v->block[j].nibbles, lane, codes + 32 * j);
        bits_out(v->block[j].bits, lane, codes + 32 * j, 4);
    }
    values_q4_k(codes, scales, f16_to_f32(v->d[lane]), f16_to_f32(v->dmin[lane]), dst);
}

static void in_q3_k(u8 *g, int lane, i64 i, const void *from)
{
    const block_q3_k *b = from;
    r8_q3_k *v = (r8_q3_k *)(g + r8_values(Q3_K, i));
    u8 codes[QK];
    scales_at(Q3_K, g, i)[lane] = half_get(b->d);
    for (int w = 0; w < 3; w++) memcpy(&v->scales[w][lane], b->scales + 4 * w, 4);
    codes_get_q3_k(b, codes);
    for (int j = 0; j < 8; j++) {
        pairs_in(v->block[j].pairs, lane, codes + 32 * j, 0);
        bits_in(v->block[j].bits, lane, codes + 32 * j, 2);
    }
}
static void out_q3_k(const u8 *g, int lane, i64 i, float *dst)
{
    const r8_q3_k *v = (const r8_q3_k *)(g + r8_values(Q3_K, i));
    u8 codes[QK] = {0}, scales[12];
    for (int w = 0; w < 3; w++) memcpy(scales + 4 * w, &v->scales[w][lane], 4);
    for (int j = 0; j < 8; j++) {
        pairs_out(v->block[j].pairs, lane, codes + 32 * j, 0);
        bits_out(v->block[j].bits, lane, codes + 32 * j, 2);
    }
    values_q3_k(codes, scales, scale_of(Q3_K, g, i, lane), dst);
}

static void in_q2_k(u8 *g, int lane, i64 i, const void *from)
{
    const block_q2_k *b = from;
    r8_q2_k *v = (r8_q2_k *)(g + r8_values(Q2_K, i));
    u8 codes[QK];
    v->d[lane] = half_get(b->d), v->dmin[lane] = half_get(b->dmin);
    for (int w = 0; w < 4; w++) memcpy(v->scales[w][lane], b->scales + 4 * w, 4);
    codes_get_twos(b->q, codes);
    for (int j = 0; j < 8; j++) pairs_in(v->pairs[j], lane, codes + 32 * j, 0);
}
static void out_q2_k(const u8 *g, int lane, i64 i, float *dst)
{
    const r8_q2_k *v = (const r8_q2_k *)(g + r8_values(Q2_K, i));
    u8 codes[QK] = {0}, scales[16];
    for (int w = 0; w < 4; w++) memcpy(scales + 4 * w, v->scales[w][lane], 4);
    for (int j = 0; j < 8; j++) pairs_out(v->pairs[j], lane, codes + 32 * j, 0);
    values_q2_k(codes, scales, f16_to_f32(v->d[lane]), f16_to_f32(v->dmin[lane]), dst);
}

static void in_iq4_nl(u8 *g, int lane, i64 i, const void *from)
{
    const block_iq4_nl *b = from;
    u8 *v = g + r8_values(IQ4_NL, i);
    scales_at(IQ4_NL, g, i)[lane] = half_get(b->d);
    for (int p = 0; p < 4; p++) word_put(v + 32 * p, lane, quad(b->q, p));
}
static void out_iq4_nl(const u8 *g, int lane, i64 i, float *dst)
{
    u8 codes[Q32];
    nibbles_out((const u8(*)[32])(g + r8_values(IQ4_NL, i)), lane, codes);
    values_levels(codes, Q32, scale_of(IQ4_NL, g, i, lane), level_iq4, dst);
}

static void in_iq4_xs(u8 *g, int lane, i64 i, const void *from)
{
    const block_iq4_xs *b = from;
    r8_iq4_xs *v = (r8_iq4_xs *)(g + r8_values(IQ4_XS, i));
    v->d[lane] = half_get(b->d), v->scales_high[lane] = half_get(b->scales_high);
    memcpy(&v->scales_low[lane], b->scales_low, 4);
    for (int j = 0; j < 8; j++)
        for (int p = 0; p < 4; p++) word_put(v->nibbles[j][p], lane, quad(b->q[j], p));
}
static void out_iq4_xs(const u8 *g, int lane, i64 i, float *dst)
{
    const r8_iq4_xs *v = (const r8_iq4_xs *)(g + r8_values(IQ4_XS, i));
    u8 codes[Q32];
    float d = f16_to_f32(v->d[lane]);
    for (int j = 0; j < 8; j++) {
        int sc = (int)(v->scales_low[lane] >> 4 * j & 15) | (v->scales_high[lane] >> 2 * j & 3) << 4;
        nibbles_out(v->nibbles[j], lane, codes);
        values_levels(codes, Q32, d * (float)(sc - 32), level_iq4, dst + 32 * j);
    }
}

static void in_mxfp4(u8 *g, int lane, i64 i, const void *from)
{
    const block_mxfp4 *b = from;
    u8 *v = g + r8_values(MXFP4, i);
    g[r8_scales(MXFP4, i) + (usize)lane] = b->e;
    for (int p = 0; p < 4; p++) word_put(v + 32 * p, lane, quad(b->q, p));
}
static void out_mxfp4(const u8 *g, int lane, i64 i, float *dst)
{
    u8 codes[Q32];
    nibbles_out((const u8(*)[32])(g + r8_values(MXFP4, i)), lane, codes);
    values_levels(codes, Q32, mxfp4_scale(g[r8_scales(MXFP4, i) + (usize)lane]), level_mxfp4, dst);
}

static const struct {
    void (*in)(u8 *group, int lane, i64 block, const void *from);
    void (*out)(const u8 *group, int lane, i64 block, float *dst);
} r8[DTYPE_COUNT] = {
    [Q8_0] = {in_q8_0, out_q8_0},    [Q4_0] = {in_q4_0, out_q4_0},       [Q4_1] = {in_q4_1, out_q4_1},
    [Q5_0] = {in_q5_0, out_q5_0},    [Q4_K] = {in_q4_k, out_q4_k},       [Q6_K] = {in_q6_k, out_q6_k},
    [Q5_1] = {in_q5_1, out_q5_1},    [Q5_K] = {in_q5_k, out_q5_k},       [Q3_K] = {in_q3_k, out_q3_k},
    [Q2_K] = {in_q2_k, out_q2_k},    [IQ4_NL] = {in_iq4_nl, out_iq4_nl}, [IQ4_XS] = {in_iq4_xs, out_iq4_xs},
    [MXFP4] = {in_mxfp4, out_mxfp4},
};

/* ---- the door ------------------------------------------------------------------------------------------------------------ */
bool weight_packs(dtype t, layout l)
{
    if (t < 0 || t >= DTYPE_COUNT) return false;
    return l == LAYOUT_ROWS || (l == LAYOUT_R8 && r8[t].in);
}

usize weight_bytes(dtype t, layout l, i64 k, i64 n)
{
    if (l == LAYOUT_ROWS) return dtype_row_bytes(t, k) * (usize)n;
    return r8_group_bytes(t, k) * (usize)((n + 7) / 8);
}

void weight_pack(dtype t, layout l, i64 k, i64 n, const void *rows, void *dst, i64 group_from, i64 group_to)
{
    usize row_bytes = dtype_row_bytes(t, k), block_bytes = (usize)dtype_table[t].bytes;
    if (l == LAYOUT_ROWS) {
        i64 from = i64_min(8 * group_from, n), to = i64_min(8 * group_to, n);
        memcpy((u8 *)dst + row_bytes * (usize)from, (const u8 *)rows + row_bytes * (usize)from, row_bytes * (usize)(to - from));
        return;
    }
    usize group_bytes = r8_group_bytes(t, k);
    i64 n_blocks = k / dtype_table[t].block;
    for (i64 g = group_from; g < group_to; g++) {
        u8 *group = (u8 *)dst + group_bytes * (usize)g;
        memset(group, 0, group_bytes); /* padding and missing rows: all zero bytes decode to 0 in every type */
        for (i64 row = 8 * g; row < i64_min(8 * g + 8, n); row++) {
            const u8 *src = (const u8 *)rows + row_bytes * (usize)row;
            for (i64 i = 0; i < n_blocks; i++) r8[t].in(group, (int)(row % 8), i, src + block_bytes * (usize)i);
        }
    }
}

void weight_decode_part(dtype t, layout l, i64 k, const void *w, i64 row, i64 k_from, i64 n, float *dst)
{
    const dtype_info *info = &dtype_table[t];
    if (l == LAYOUT_ROWS) {
        info->decode((const u8 *)w + dtype_row_bytes(t, k) * (usize)row + dtype_row_bytes(t, k_from), dst, n);
        return;
    }
    const u8 *group = (const u8 *)w + r8_group_bytes(t, k) * (usize)(row / 8);
    for (i64 i = k_from / info->block, end = (k_from + n) / info->block; i < end; i++, dst += info->block)
        r8[t].out(group, (int)(row % 8), i, dst);
}

void weight_decode(dtype t, layout l, i64 k, const void *w, i64 row, i64 n_rows, float *dst)
{
    for (i64 i = 0; i < n_rows; i++) weight_decode_part(t, l, k, w, row + i, 0, k, dst + i * k);
}
