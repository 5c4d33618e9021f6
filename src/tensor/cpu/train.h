/* tensor/cpu/train.h - private to steps_train.c and steps_lm_loss.c: float matrix products of training. */
#ifndef MARU_TENSOR_TRAIN_H
#define MARU_TENSOR_TRAIN_H
#include "tensor/cpu/cpu.h"
#include <math.h>

enum { BLOCK = 320 }; /* sums run in pieces of at most so many terms, each from zero, and the pieces are added in order */
typedef struct {      /* rows of floats: row i lies at base + stride * (list ? list[i] : i) */
    float     *base;
    i64        stride;
    const i32 *list;
} float_rows;
typedef struct {      /* a second, thin product that the sums take in at their end: its rows and its weight, or none */
    float_rows    x;
    const tensor *w;
} float_pair;
typedef struct { /* a thread's part of a result */
    i64 a_from, a_to, b_from, b_to;
} area;

/* Extents a (in units) and b (in units) among the threads of r: the division whose largest part costs least, where each value
 * along a also costs as much as `extra` along b. */
area area_of(const cpu_run *r, i64 a, i64 a_unit, i64 b, i64 b_unit, i64 extra);
i64  k_unit(const tensor *w);      /* ranges of k begin at multiples of it */
bool train_weight(const tensor *w); /* a type and layout these read */
enum { DECODE_COST = 16 };         /* extra: decoding a value takes as long as so many multiply-adds */

usize product_scratch(i64 n_panel, i64 n_terms, i64 n_pair); /* bytes; the extent that lies in panels, the terms of a sum and of its pair */
/* y[n,r] = plus + sum_k w[k,n] x[k,r]; dx[k,r] = plus + sum_n w[k,n] dy[n,r]; only rows b and n or k of a; plus may have no base */
void product_y(const cpu_run *, float *scratch, const tensor *w, i64 slot, float_rows x, float_pair, float_rows plus, float_rows y, area);
void product_x(const cpu_run *, float *scratch, const tensor *w, i64 slot, float_rows dy, float_pair, float_rows plus, float_rows dx, area);
/* dw[k,n] = or += sum of rows dy[n,r] x[k,r]; a: k, b: n */
void product_w(const cpu_run *, float *scratch, float_rows x, float_rows dy, i64 n_rows, float *dw, i64 k, bool add, area);
#endif
