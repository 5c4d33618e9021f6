/* tests/tensor/block_scales.h - where the scales of a file's block stand, so that tests can fill the rest with any bits. */
#ifndef TESTS_TENSOR_BLOCK_SCALES_H
#define TESTS_TENSOR_BLOCK_SCALES_H
#include "tensor/tensor.h"

/* the first byte of the 16-bit floats of a block, how many there are */
static inline int scale_halves(dtype t, usize *at)
{
    *at = t == Q6_K ? 208 : t == Q3_K ? 108 : t == Q2_K ? 80 : 0;
    return t == MXFP4 ? 0 : t == Q4_1 || t == Q5_1 || t == Q4_K || t == Q5_K || t == Q2_K ? 2 : 1;
}
/* any bits, or all bits `fill` (0..255), but for scales: those are ordinary numbers of both signs */
static inline void fill_block(u8 *p, dtype t, int fill, rng *r)
{
    usize at;
    int n = scale_halves(t, &at);
    for (int i = 0; i < dtype_table[t].bytes; i++) p[i] = fill < 0 ? (u8)rng_u64(r) : (u8)fill;
    for (int i = 0; i < n; i++) {
        u16 h = f32_to_f16((float)(rng_unit(r) - 0.3) * 0.05f);
        p[at + 2 * (usize)i] = (u8)h, p[at + 2 * (usize)i + 1] = (u8)(h >> 8);
    }
    if (t == MXFP4) p[0] = (u8)(110 + rng_u64(r) % 20);
}
#endif
