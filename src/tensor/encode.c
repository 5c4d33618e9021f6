/* tensor/encode.c - floats into the formats of files: the door (weight_encode), and what it can do with each type. */
#include "tensor/block.h"

err weight_encode(dtype t, i64 k, i64 n_rows, const float *src, const float *importance, void *dst)
{
    (void)importance;
    if (t < 0 || t >= DTYPE_COUNT || !dtype_table[t].encode)
        return err_new(ERR_INPUT, "%s cannot be written", t >= 0 && t < DTYPE_COUNT ? dtype_table[t].name : "an unknown type");
    if (k % dtype_table[t].block)
        return err_new(ERR_INPUT, "rows of %lld values do not divide into blocks of %d (%s)", (long long)k, dtype_table[t].block,
                       dtype_table[t].name);
    for (i64 i = 0; i < n_rows; i++) dtype_table[t].encode(src + i * k, (u8 *)dst + dtype_row_bytes(t, k) * (usize)i, k);
    return OK;
}
