/* tensor/encode.c - floats into the formats of files: the door, and what a row lost by it. Plain types are converted here (dtype.c); blocks are the work of
 * cpu/body_encode.c and cpu/body_encode_k.c, compiled for each instruction set. */
#include "tensor/block.h"
#include "tensor/cpu/kern.h"

err weight_encode(dtype t, i64 k, i64 n_rows, const float *src, const float *importance, void *dst)
{
    if (t < 0 || t >= DTYPE_COUNT || !dtype_table[t].encode)
        return err_new(ERR_INPUT, "%s cannot be written", t >= 0 && t < DTYPE_COUNT ? dtype_table[t].name : "an unknown type");
    const dtype_info *info = &dtype_table[t];
    if (k < 0 || k % info->block)
        return err_new(ERR_INPUT, "rows of %lld values do not divide into blocks of %d (%s)", (long long)k, info->block,
                       info->name);
    const kern *kn = kern_get(cpu_now());
    for (i64 i = 0; i < n_rows; i++, src += k) {
        u8 *row = (u8 *)dst + dtype_row_bytes(t, k) * (usize)i;
        if (kn->encode[t])
            kn->encode[t](src, importance, k, row);
        else
            info->encode(src, row, k);
    }
    return OK;
}

void weight_loss_add(i64 n, const float *x, const float *y, const float *w, weight_loss *s)
{
    double sum[4] = {s->error, s->power, s->weighted_error, s->weighted_power};
    kern_get(cpu_now())->error(x, y, w, n, sum);
    *s = (weight_loss){sum[0], sum[1], sum[2], sum[3]};
}
