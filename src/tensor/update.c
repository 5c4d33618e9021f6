/* tensor/update.c - the door to kernels that an optimizer needs outside any graph. They are one pass over memory each; which
 * values and which threads is the caller's. */
#include "tensor/cpu/kern.h"

void adam_update(float *p, float *m, float *v, const float *g, i64 n, const adam_rule *rule)
{
    kern_get(cpu_now())->adam(p, m, v, g, n, rule);
}

double sum_of_squares(const float *x, i64 n) { return kern_get(cpu_now())->squares(x, n); }
