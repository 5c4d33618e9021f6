/* tensor/cpu/body_gemm.c - y = w x for float rows. Every element is 16 partial sums over k, the last k values padded with
 * zeros, and one fixed order to add them up (body.h): its bits do not depend on where in a tile it was computed, nor on the
 * instruction set. A tile of rows x columns keeps its partial sums in registers; the sizes below are what 16 (AVX-512: 32)
 * registers hold. Blocking for the caches is the caller's work (steps_matmul.c); parts of k, with partial sums waiting in
 * memory, were tried and gained nothing up to k = 4864: what the first-level cache saves, the shorter loops lose. */
#include "tensor/cpu/body.h"

#define MOST 16 /* elements of a tile, at most */
#if W == 16
#define TILE_COLS 4
static const int tile_rows[] = {1, 8, 4, 4, 4}; /* by columns */
#elif W == 8
#define TILE_COLS 3
static const int tile_rows[] = {1, 4, 2, 2};
#else
#define TILE_COLS 3
static const int tile_rows[] = {1, 2, 1, 1};
#endif

typedef struct {
    const float *w, *x; /* rows [k, n_rows], columns [k, n_cols] */
    i64 w_stride, x_stride, k;
    float *y;
    i64 y_stride;
} product;

/* one step of 16 values of k; s [LANES, r, c] */
INLINE void tile_step(vf s[MOST * LANES], const float *w, i64 w_stride, const float *x, i64 x_stride, int r, int c)
{
    UNROLLED(l, LANES)
    {
        vf wv[8];
        UNROLLED(i, r)
        {
            wv[i] = load(w + i * w_stride + l * W);
            if (c > 1) HOLD(wv[i]);
        }
        UNROLLED(j, c)
        {
            vf xv = load(x + j * x_stride + l * W);
            HOLD(xv);
            UNROLLED(i, r) s[(j * r + i) * LANES + l] += wv[i] * xv;
        }
    }
}

INLINE void tile(const product *p, int row, int col, int r, int c)
{
    vf s[MOST * LANES];
    const float *w = p->w + row * p->w_stride, *x = p->x + col * p->x_stride;
    i64 k = 0;
    UNROLLED(i, r * c * LANES) s[i] = (vf){0};
    for (; k + 16 <= p->k; k += 16) tile_step(s, w + k, p->w_stride, x + k, p->x_stride, r, c);
    if (k < p->k) {
        float tw[8 * 16], tx[TILE_COLS * 16];
        for (int i = 0; i < r; i++) pad16(tw + i * 16, w + i * p->w_stride + k, p->k - k, 0);
        for (int j = 0; j < c; j++) pad16(tx + j * 16, x + j * p->x_stride + k, p->k - k, 0);
        tile_step(s, tw, 16, tx, 16, r, c);
    }
    float *y = p->y + col * p->y_stride + row;
    v4 f[MOST] = {{0}};
    UNROLLED(i, r * c) f[i] = fold4(s + i * LANES);
    UNROLLED(i, (r * c + 3) / 4)
    {
        v4 four = sum_4(f[4 * i], f[4 * i + 1], f[4 * i + 2], f[4 * i + 3]);
        UNROLLED(j, 4)
        {
            int at = 4 * i + j;
            if (at < r * c) y[at / r * p->y_stride + at % r] = four[j];
        }
    }
}

INLINE void columns(const product *p, int n_rows, int col, int c)
{
    int row = 0;
    for (; row + tile_rows[c] <= n_rows; row += tile_rows[c]) tile(p, row, col, tile_rows[c], c);
    for (; row < n_rows; row++) tile(p, row, col, 1, c);
}

void BODY(body_gemm)(const float *w, i64 w_stride, int n_rows, const float *x, i64 x_stride, int n_cols, i64 k, float *y,
                     i64 y_stride)
{
    product p = {w, x, w_stride, x_stride, k, y, y_stride};
    int col = 0;
    for (; col + TILE_COLS <= n_cols; col += TILE_COLS) columns(&p, n_rows, col, TILE_COLS);
    switch (n_cols - col) {
    case 1: columns(&p, n_rows, col, 1); break;
    case 2: columns(&p, n_rows, col, 2); break;
#if TILE_COLS > 3
    case 3: columns(&p, n_rows, col, 3); break;
#endif
    default: break;
    }
}

void BODY(kern_body_gemm)(kern *k) { k->gemm = BODY(body_gemm); }
