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

static void in_q5_0(u8 *g, int lane, i64 i, const void *from)
{
    const block_q5_0 *b = from;
    r8_q5_0 *v = (r8_q5_0 *)(g + r8_values(Q5_0, i));
    u8 codes[Q32];
    u32 bits = 0;
    scales_at(Q5_0, g, i)[lane] = half_get(b->d);
    codes_get_fives(b->q, b->high, codes);
    nibbles_in(v->nibbles, lane, codes);
    for (int q = 0; q < 8; q++) bits |= (quad(codes, q) >> 4 & LOW1) << q;
    word_put(v->bits, lane, bits);
}
static void out_q5_0(const u8 *g, int lane, i64 i, float *dst)
{
    const r8_q5_0 *v = (const r8_q5_0 *)(g + r8_values(Q5_0, i));
    u8 codes[Q32];
    u32 bits = word(v->bits, lane);
    nibbles_out(v->nibbles, lane, codes);
    for (int q = 0; q < 8; q++) quad_put(codes, q, quad(codes, q) | (bits >> q & LOW1) << 4);
    values_offset(codes, Q32, scale_of(Q5_0, g, i, lane), 16, dst);
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
        for (int h = 0; h < 2; h++) {
            u32 pairs = 0;
            for (int t = 0; t < 4; t++) pairs |= (quad(codes, 8 * j + 4 * h + t) >> 4 & LOW2) << 2 * t;
            word_put(v->block[j].pairs[h], lane, pairs);
        }
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
        for (int q = 0; q < 8; q++) {
            u32 top = word(v->block[j].pairs[q / 4], lane) >> 2 * (q % 4) & LOW2;
            quad_put(codes, 8 * j + q, quad(codes, 8 * j + q) | top << 4);
        }
    }
    values_q6_k(codes, scales, scale_of(Q6_K, g, i, lane), dst);
}

static const struct {
    void (*in)(u8 *group, int lane, i64 block, const void *from);
    void (*out)(const u8 *group, int lane, i64 block, float *dst);
} r8[DTYPE_COUNT] = {
    [Q8_0] = {in_q8_0, out_q8_0}, [Q4_0] = {in_q4_0, out_q4_0}, [Q4_1] = {in_q4_1, out_q4_1},
    [Q5_0] = {in_q5_0, out_q5_0}, [Q4_K] = {in_q4_k, out_q4_k}, [Q6_K] = {in_q6_k, out_q6_k},
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
