/* tensor/cpu/kern.h - the table of CPU kernels, one per instruction-set level, filled by falling through the levels
 * (generic, then avx2 overrides, then avx512). Float bodies (body_*.c) are one source compiled per level with 16 virtual lanes
 * and no contraction, so that every level gives the same bits; quantised dot products (q_*.c) are exact integer sums per
 * 32-block, scaled and added in block order, one lane per row: the same bits again, whatever the level and batch. */
#ifndef MARU_CPU_KERN_H
#define MARU_CPU_KERN_H
#include "tensor/internal.h"

/* A row of activations in 8 bits: blocks of 32, x ~ d * q, |q| <= 127, q = round half away(x / d), d = max|x| / 127.
 * One row of k values occupies xq_bytes(k): i8 q[k] (padded to 64), then float d[k/32], then float s[k/32] with
 * s = d * sum(q) (one float product), then two tables of integers that take the offset of unsigned codes away exactly:
 * i16 o6[k/32][2 halves of 16][2] = 32 * sum of the q at k%4 = 0,1 | 2,3 of that half (6-bit codes, offset 32);
 * i16 o5[k/32][2] = 16 * the same over the block (offset 16; half of it for offset 8).
 * k is a multiple of 32. Rows start 64-byte aligned. NaN, infinity and tiny blocks: cpu/q_layout.h. */
static inline usize xq_pad(i64 k) { return ((usize)k + 63) / 64 * 64; }
static inline usize xq_bytes(i64 k) { return (xq_pad(k) + (2 * sizeof(float) + 6 * sizeof(i16)) * (usize)(k / 32) + 63) / 64 * 64; }
static inline const i8 *xq_q(const void *x) { return x; }
static inline const float *xq_d(const void *x, i64 k) { return (const float *)((const u8 *)x + xq_pad(k)); }
static inline const float *xq_s(const void *x, i64 k) { return xq_d(x, k) + k / 32; }
static inline const i16 *xq_o6(const void *x, i64 k) { return (const i16 *)(xq_d(x, k) + k / 32 * 2); }
static inline const i16 *xq_o5(const void *x, i64 k) { return xq_o6(x, k) + k / 32 * 4; }

typedef struct {
    float mean, mean_rest, by;              /* h = (x - mean - mean_rest) by */
    bool  depends;                          /* by depends on x: not where L2's eps is longer */
} norm_stat;

enum { GRAD_COLS = 48, GRAD_KEYS = 64 };    /* columns and keys of a block of attention's gradient; one row with more heads is a block too */
typedef struct { /* a block of columns (row, head of one kv head) against a block of keys: see op_attend.c for the formula */
    const float *q, *dy;                    /* [hd, n_cols] */
    const float *k, *v;                     /* [hd, n_keys] of this kv head */
    i64          k_stride, v_stride;        /* floats from key to key */
    const i32   *from, *to;                 /* [n_cols] the keys of the block that a column sees */
    const float *lse, *along;               /* [n_cols] ln of the sum of exponentials; <dy, y> */
    int          hd, n_cols, n_keys;
    float        scale, softcap;
    float       *p, *ds, *turned;           /* scratch [GRAD_KEYS, n_cols] twice, [GRAD_KEYS, hd] */
    float       *dq;                        /* [hd, n_cols] added to, or NULL */
    float       *dk, *dv;                   /* [hd, n_keys] added to, or NULL */
    i64          dkv_stride;
} attend_block;

typedef struct { /* query rows that see keys from one position on, all heads of one kv head: see op_attend.c for the formula */
    const float *q;                         /* [hd, n_q, rows] heads that share the kv head */
    const u8    *k, *v;                     /* base of this kv head in slot 0 */
    usize        k_stride, v_stride;        /* bytes from slot to slot */
    dtype        type;                      /* F16 or F32 */
    const i32   *pages;                     /* this sequence's page row, or NULL */
    i32          page, first, end;          /* positions [first,end) */
    int          hd, n_q;
    float        scale, softcap;
    float       *y;                         /* [hd, n_q, rows] */
    float       *lse;                       /* [n_q, rows] log of the sum of exponentials, or NULL */
    float       *score;                     /* scratch [end-first rounded up to 16, n_q, rows] */
    int          n_rows;                    /* 0: one row */
    const i32   *ends;                      /* [n_rows] of each row, in (first, end]; not read of one row */
    bool         train;                     /* sums in the order of body_attend.c's part on training, where it can: F32, no pages */
} attend_row;

enum { OUTER_ROWS = 6, OUTER_LANES = 16 }; /* a tile: as many rows as registers hold; a panel's width */
typedef struct {                            /* y[i][j] = plus[i][j] + sum of a(i,s) * b(j,s) */
    const float *const *a;                  /* [n_rows] rows [n_steps], or NULL: */
    const float *mixed;                     /* groups [OUTER_ROWS, n_steps] of these rows, one after another */
    const float *b;                         /* panels [OUTER_LANES, n_steps, panels]; what pads the last one is not used */
    i64          n_steps, n;                /* terms; values of a row of y */
    float *const *y;                        /* [n_rows] rows [n] */
    const float *const *plus;               /* [n_rows] rows [n], which may be y; or NULL: zeros */
    i64          n_rows;
} outer_block;

typedef struct kern {
    cpu_level level;
    /* body_rows.c: one row each; n any; y may be x */
    void  (*add)(float *y, const float *a, const float *b, i64 n);
    void  (*mul)(float *y, const float *a, const float *b, i64 n);
    void  (*scale)(float *y, const float *x, float s, i64 n);
    void  (*axpy)(float *y, const float *x, float s, i64 n);         /* y += s x */
    float (*dot)(const float *a, const float *b, i64 n);             /* 16 partial sums, fixed order */
    void  (*norm)(float *y, const float *x, const float *w, const float *b, i64 n, int kind, float eps);
    void  (*act)(float *y, const float *x, i64 n, int kind);
    void  (*act_grad)(float *y, const float *x, const float *dy, i64 n, int kind);
    void  (*glu)(float *y, const float *gate, const float *up, i64 n, int kind);
    void  (*softmax)(float *y, const float *x, i64 n);
    float (*lse)(const float *x, i64 n);                             /* ln sum exp */
    float (*softmax_lse)(float *y, const float *x, i64 n, float scale); /* body_loss.c: y = scale softmax(x), which may be x; returns lse(x) */
    void  (*rope)(float *y, const float *x, const float *cos, const float *sin, int dims, int hd, bool neox); /* one head */
    void  (*to_f16)(u16 *y, const float *x, i64 n);
    void  (*from_f16)(float *y, const u16 *x, i64 n);
    void  (*from_bf16)(float *y, const u16 *x, i64 n);
    /* body_attend.c */
    void  (*attend)(const attend_row *);
    void  (*attend_grad)(const attend_block *);
    /* body_grad.c: one row each */
    double (*sum)(const float *x, i64 n);
    norm_stat (*norm_stat)(const float *x, i64 n, int kind, float eps);
    void  (*norm_x)(float *dx, const float *x, const float *dy, const float *w, i64 n, int kind, float eps); /* w may be NULL */
    void  (*norm_w)(float *dw, const float *x, const float *dy, const norm_stat *, i64 n); /* dw += dy h; any part of a row */
    void  (*softmax_grad)(float *dx, const float *y, const float *dy, i64 n);
    double (*squares)(const float *x, i64 n);                        /* sum of x^2 */
    void  (*adam)(float *p, float *m, float *v, const float *g, i64 n, const adam_rule *);
    void  (*dropout)(float *y, const float *x, i64 n, u32 index, const dropout_rule *); /* index + n <= 2^32 */
    /* body_gemm.c: y[c*y_stride + r] = <w_r, x_c> in 16 partial sums over k, added in a fixed order: the same bits for any
     * n_rows, n_cols; strides in floats; k any */
    void  (*gemm)(const float *w, i64 w_stride, int n_rows, const float *x, i64 x_stride, int n_cols, i64 k, float *y, i64 y_stride);
    /* body_gemm.c: products of training. One lane is one output, its terms are added one after another in the order of s, a product
     * and a sum rounded on their own: the same bits for any tile and level. A multiply-add in one instruction would give other
     * bits and no speed where, as on Zen, multiplications and additions have ports of their own. */
    void  (*outer)(const outer_block *);
    void  (*mix)(const float *const *rows, i64 n_rows, i64 n, float *mixed, i64 apart); /* rows [n] to groups [OUTER_ROWS, n], `apart` steps from one to the next; what pads the last one is anything */
    void  (*turn)(const float *rows, i64 stride, i64 n, float *panel); /* 16 rows of n -> [16, n] */
    /* body_decode.c: values [k_from, k_from + n), whole blocks, of the 8 rows of a group; row i to dst + i * stride. The bits of
     * weight_decode */
    void  (*decode8[DTYPE_COUNT])(const void *group, i64 k_from, i64 n, float *dst, i64 stride);
    /* body_values.c: whole blocks of a file to floats (NULL: not a block format); what y [n] lost of x: sums of squares of x - y, of
     * x, and both weighted by w (NULL: not touched), added to what is there */
    void  (*decode[DTYPE_COUNT])(const void *src, float *dst, i64 n);
    void  (*error)(const float *x, const float *y, const float *w, i64 n, double out[4]);
    /* body_encode*.c: one row into its file's blocks (tensor.h: weight_encode); k whole blocks; importance [k] or NULL */
    void  (*encode[DTYPE_COUNT])(const float *x, const float *importance, i64 k, void *dst);
    /* q_*.c */
    void  (*quant)(const float *x, i64 k, void *xq);                 /* one row */
    /* one group of 8 rows (LAYOUT_R8) against n_cols quantised columns: y[c*y_stride + 0..7] */
    void  (*qdot[DTYPE_COUNT])(const void *group, i64 k, const void *xq, usize xq_stride, int n_cols, float *y, i64 y_stride);
    /* body_limits.c: ceilings; each returns the operations done */
    double (*rate_float)(i64 rounds, float *sink);
    double (*rate_int8)(i64 rounds, float *sink);
    float  (*read_all)(const float *p, i64 n);
} kern;
const kern *kern_get(cpu_level);            /* built once per level; never above cpu_best() */

/* each fills or overrides what it has */
void kern_body_rows_generic(kern *), kern_body_rows_avx2(kern *), kern_body_rows_avx512(kern *);
void kern_body_attend_generic(kern *), kern_body_attend_avx2(kern *), kern_body_attend_avx512(kern *);
void kern_body_gemm_generic(kern *), kern_body_gemm_avx2(kern *), kern_body_gemm_avx512(kern *);
void kern_body_grad_generic(kern *), kern_body_grad_avx2(kern *), kern_body_grad_avx512(kern *); /* called by kern_body_attend_* */
void kern_body_loss_generic(kern *), kern_body_loss_avx2(kern *), kern_body_loss_avx512(kern *);
void kern_body_decode_generic(kern *), kern_body_decode_avx2(kern *), kern_body_decode_avx512(kern *);
void kern_body_encode_generic(kern *), kern_body_encode_avx2(kern *), kern_body_encode_avx512(kern *);
void kern_body_encode_k_generic(kern *), kern_body_encode_k_avx2(kern *), kern_body_encode_k_avx512(kern *); /* called by those */
void kern_body_values_generic(kern *), kern_body_values_avx2(kern *), kern_body_values_avx512(kern *);
void kern_limits_generic(kern *), kern_limits_avx2(kern *), kern_limits_avx512(kern *);
void kern_q_generic(kern *), kern_q_avx2(kern *), kern_q_avx512(kern *);
#endif
