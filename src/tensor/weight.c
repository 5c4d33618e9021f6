/* tensor/weight.c - layouts of weights: rows as files have them, and groups of 8 rows interleaved (cpu/q_layout.h).
 *
 * Interleaving moves bits and loses none: every packed block can be put back into its file block, and that is how a packed
 * row is decoded to floats, through the one decoder of its type. It costs a pass of byte moves per decoded row, which
 * training and embedding can afford; inference reads the packed form directly (cpu/q_*.c).
 * Nothing here allocates or checks: extents were checked when the weight became a graph node. */
#include "tensor/block.h"
#include "tensor/cpu/q_layout.h"

/* ---- one block of one row, in and out. lane 0..7 is the row's place in its group; i is the block's index along k ---------- */
static void nibbles_in(u8 v[4][32], int lane, const u8 codes[32])
{
    for (int p = 0; p < 4; p++)
        for (int i = 0; i < 4; i++) v[p][4 * lane + i] = (u8)((codes[4 * p + i] & 15) | (codes[4 * p + 16 + i] & 15) << 4);
}
static void nibbles_out(const u8 v[4][32], int lane, u8 codes[32])
{
    for (int p = 0; p < 4; p++)
        for (int i = 0; i < 4; i++) codes[4 * p + i] = v[p][4 * lane + i] & 15, codes[4 * p + 16 + i] = v[p][4 * lane + i] >> 4;
}

static u16 *head_at(void *group, i64 i) { return (u16 *)group + 8 * i; }
static const u16 *head_of(const void *group, i64 i) { return (const u16 *)group + 8 * i; }

static void in_q8_0(u8 *g, i64 k, int lane, i64 i, const void *from)
{
    const block_q8_0 *b = from;
    u8 *v = g + r8_head(Q8_0, k) + 256 * i;
    head_at(g, i)[lane] = half_get(b->d);
    for (int q = 0; q < 8; q++) memcpy(v + 32 * q + 4 * lane, b->q + 4 * q, 4);
}
static void out_q8_0(const u8 *g, i64 k, int lane, i64 i, void *to)
{
    block_q8_0 *b = to;
    const u8 *v = g + r8_head(Q8_0, k) + 256 * i;
    half_put(b->d, head_of(g, i)[lane]);
    for (int q = 0; q < 8; q++) memcpy(b->q + 4 * q, v + 32 * q + 4 * lane, 4);
}

static void in_q4_0(u8 *g, i64 k, int lane, i64 i, const void *from)
{
    const block_q4_0 *b = from; /* its nibbles pair value i with i + 16 already: 4 words move as they are */
    u8 *v = g + r8_head(Q4_0, k) + 128 * i;
    head_at(g, i)[lane] = half_get(b->d);
    for (int p = 0; p < 4; p++) memcpy(v + 32 * p + 4 * lane, b->q + 4 * p, 4);
}
static void out_q4_0(const u8 *g, i64 k, int lane, i64 i, void *to)
{
    block_q4_0 *b = to;
    const u8 *v = g + r8_head(Q4_0, k) + 128 * i;
    half_put(b->d, head_of(g, i)[lane]);
    for (int p = 0; p < 4; p++) memcpy(b->q + 4 * p, v + 32 * p + 4 * lane, 4);
}

static void in_q4_1(u8 *g, i64 k, int lane, i64 i, const void *from)
{
    const block_q4_1 *b = from;
    u8 *v = g + r8_head(Q4_1, k) + 128 * i;
    head_at(g, 2 * i)[lane] = half_get(b->d), head_at(g, 2 * i + 1)[lane] = half_get(b->m);
    for (int p = 0; p < 4; p++) memcpy(v + 32 * p + 4 * lane, b->q + 4 * p, 4);
}
static void out_q4_1(const u8 *g, i64 k, int lane, i64 i, void *to)
{
    block_q4_1 *b = to;
    const u8 *v = g + r8_head(Q4_1, k) + 128 * i;
    half_put(b->d, head_of(g, 2 * i)[lane]), half_put(b->m, head_of(g, 2 * i + 1)[lane]);
    for (int p = 0; p < 4; p++) memcpy(b->q + 4 * p, v + 32 * p + 4 * lane, 4);
}

static void in_q5_0(u8 *g, i64 k, int lane, i64 i, const void *from)
{
    const block_q5_0 *b = from;
    r8_q5_0 *v = (r8_q5_0 *)(g + r8_head(Q5_0, k)) + i;
    u8 codes[Q32];
    head_at(g, i)[lane] = half_get(b->d);
    codes_get_q5_0(b, codes);
    nibbles_in(v->nibbles, lane, codes);
    for (int j = 0; j < 4; j++) {
        u8 bits = 0;
        for (int q = 0; q < 8; q++) bits |= (u8)((codes[4 * q + j] >> 4) << q);
        v->bits[4 * lane + j] = bits;
    }
}
static void out_q5_0(const u8 *g, i64 k, int lane, i64 i, void *to)
{
    block_q5_0 *b = to;
    const r8_q5_0 *v = (const r8_q5_0 *)(g + r8_head(Q5_0, k)) + i;
    u8 codes[Q32];
    half_put(b->d, head_of(g, i)[lane]);
    nibbles_out(v->nibbles, lane, codes);
    for (int j = 0; j < 32; j++) codes[j] |= (u8)((v->bits[4 * lane + j % 4] >> (j / 4) & 1) << 4);
    codes_put_q5_0(b, codes);
}

static void in_q4_k(u8 *g, i64 k, int lane, i64 i, const void *from)
{
    (void)k;
    const block_q4_k *b = from;
    r8_q4_k *v = (r8_q4_k *)g + i;
    u8 codes[QK];
    v->d[lane] = half_get(b->d), v->dmin[lane] = half_get(b->dmin);
    for (int w = 0; w < 3; w++) memcpy(&v->scales[w][lane], b->scales + 4 * w, 4);
    codes_get_q4_k(b, codes);
    for (int j = 0; j < 8; j++) nibbles_in(v->nibbles[j], lane, codes + 32 * j);
}
static void out_q4_k(const u8 *g, i64 k, int lane, i64 i, void *to)
{
    (void)k;
    block_q4_k *b = to;
    const r8_q4_k *v = (const r8_q4_k *)g + i;
    u8 codes[QK];
    half_put(b->d, v->d[lane]), half_put(b->dmin, v->dmin[lane]);
    for (int w = 0; w < 3; w++) memcpy(b->scales + 4 * w, &v->scales[w][lane], 4);
    for (int j = 0; j < 8; j++) nibbles_out(v->nibbles[j], lane, codes + 32 * j);
    codes_put_q4_k(b, codes);
}

static void in_q6_k(u8 *g, i64 k, int lane, i64 i, const void *from)
{
    const block_q6_k *b = from;
    r8_q6_k *v = (r8_q6_k *)(g + r8_head(Q6_K, k)) + i;
    u8 codes[QK];
    head_at(g, i)[lane] = half_get(b->d);
    for (int j = 0; j < 16; j++) v->scales[j / 4][lane][j % 4] = b->scales[j];
    codes_get_q6_k(b, codes);
    for (int j = 0; j < 8; j++) {
        const u8 *c = codes + 32 * j;
        nibbles_in(v->block[j].nibbles, lane, c);
        for (int h = 0; h < 2; h++)
            for (int e = 0; e < 4; e++) {
                const u8 *p = c + 16 * h + e;
                v->block[j].pairs[h][4 * lane + e] = (u8)(p[0] >> 4 | p[4] >> 4 << 2 | p[8] >> 4 << 4 | p[12] >> 4 << 6);
            }
    }
}
static void out_q6_k(const u8 *g, i64 k, int lane, i64 i, void *to)
{
    block_q6_k *b = to;
    const r8_q6_k *v = (const r8_q6_k *)(g + r8_head(Q6_K, k)) + i;
    u8 codes[QK];
    half_put(b->d, head_of(g, i)[lane]);
    for (int j = 0; j < 16; j++) b->scales[j] = v->scales[j / 4][lane][j % 4];
    for (int j = 0; j < 8; j++) {
        u8 *c = codes + 32 * j;
        nibbles_out(v->block[j].nibbles, lane, c);
        for (int e = 0; e < 32; e++) {
            int quad = e / 4;
            c[e] |= (u8)((v->block[j].pairs[quad / 4][4 * lane + e % 4] >> 2 * (quad % 4) & 3) << 4);
        }
    }
    codes_put_q6_k(b, codes);
}

static const struct {
    void (*in)(u8 *group, i64 k, int lane, i64 block, const void *from);
    void (*out)(const u8 *group, i64 k, int lane, i64 block, void *to);
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
            for (i64 i = 0; i < n_blocks; i++) r8[t].in(group, k, (int)(row % 8), i, src + block_bytes * (usize)i);
        }
    }
}

void weight_decode(dtype t, layout l, i64 k, const void *w, i64 row, i64 n_rows, float *dst)
{
    const dtype_info *info = &dtype_table[t];
    if (l == LAYOUT_ROWS) { /* rows are contiguous */
        info->decode((const u8 *)w + dtype_row_bytes(t, k) * (usize)row, dst, k * n_rows);
        return;
    }
    usize group_bytes = r8_group_bytes(t, k);
    u8 block[sizeof(block_q6_k)]; /* the largest */
    for (i64 end = row + n_rows; row < end; row++) {
        const u8 *group = (const u8 *)w + group_bytes * (usize)(row / 8);
        for (i64 i = 0; i < k / info->block; i++, dst += info->block) {
            r8[t].out(group, k, (int)(row % 8), i, block);
            info->decode(block, dst, info->block);
        }
    }
}
