/* tensor/cpu/body_loss.c - a row of logits to its loss and its gradient in one pass of exponentials: LM_LOSS has rows of a whole
 * vocabulary, and needs both. The logarithm of the sum has the bits of kern.lse. */
#include "tensor/cpu/body.h"

static float softmax_lse_row(float *y, const float *x, i64 n, float scale)
{
    float shift = row_shift(x, n);
    double sum = row_exp(y, x, shift, n);
    vf s = all((float)((double)scale / sum));
    i64 i = 0;
    for (; i + W <= n; i += W) store(y + i, load(y + i) * s);
    for (; i < n; i++) y[i] = y[i] * s[0];
    return (float)((double)shift + log(sum));
}

void BODY(kern_body_loss)(kern *k) { k->softmax_lse = softmax_lse_row; }
