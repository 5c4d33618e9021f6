/* tensor/cpu/body_gemm.c - y = w x for float rows. Every element is 16 partial sums over k, the last k values padded with
 * zeros, and one fixed order to add them up (body.h): its bits do not depend on where in a tile it was computed, nor on the
 * instruction set. A tile of rows x columns keeps its partial sums in registers; the sizes below are what 16 (AVX-512: 32)
 * registers hold. Blocking for the caches is the caller's work (steps_matmul.c). */
#include "tensor/cpu/body.h"

#if W == 16
#define TILE_R 4
#define TILE_C 4
#elif W == 8
#define TILE_R 2
#define TILE_C 3
#else
#define TILE_R 1
#define TILE_C 3
#endif

typedef struct {
    const float *w, *x; /* rows [k, n_rows], columns [k, n_cols] */
    i64 w_stride, x_stride, k;
    float *y;
    i64 y_stride;
} product;

/* one step of 16 values of k */
INLINE void tile_step(vf s[TILE_R * TILE_C * 4 * LANES], const float *w, i64 w_stride, const float *x, i64 x_stride, int r, int c)
{
    UNROLL for (int l = 0; l < LANES; l++)
    {
        vf wv[8];
        UNROLL for (int i = 0; i < r; i++) wv[i] = load(w + i * w_stride + l * W);
        UNROLL for (int j = 0; j < c; j++)
        {
            vf xv = load(x + j * x_stride + l * W);
            UNROLL for (int i = 0; i < r; i++) s[(j * r + i) * LANES + l] += wv[i] * xv;
        }
    }
}

INLINE void tile(const product *p, i64 row, i64 col, int r, int c)
{
    vf s[TILE_R * TILE_C * 4 * LANES];
    const float *w = p->w + row * p->w_stride, *x = p->x + col * p->x_stride;
    i64 k = 0;
    UNROLL for (int i = 0; i < r * c * LANES; i++) s[i] = (vf){0};
    for (; k + 16 <= p->k; k += 16) tile_step(s, w + k, p->w_stride, x + k, p->x_stride, r, c);
    if (k < p->k) {
        float tw[8 * 16], tx[8 * 16];
        for (int i = 0; i < r; i++) pad16(tw + i * 16, w + i * p->w_stride + k, p->k - k, 0);
        for (int j = 0; j < c; j++) pad16(tx + j * 16, x + j * p->x_stride + k, p->k - k, 0);
        tile_step(s, tw, 16, tx, 16, r, c);
    }
    for (int j = 0; j < c; j++)
        for (int i = 0; i < r; i++) p->y[(col + j) * p->y_stride + row + i] = sum_1(fold4(s + (j * r + i) * LANES));
}

void BODY(body_gemm)(const float *w, i64 w_stride, int n_rows, const float *x, i64 x_stride, int n_cols, i64 k, float *y,
                     i64 y_stride)
{
    product p = {w, x, w_stride, x_stride, k, y, y_stride};
    i64 c = 0;
    for (; c + TILE_C <= n_cols; c += TILE_C) {
        i64 r = 0;
        for (; r + TILE_R <= n_rows; r += TILE_R) tile(&p, r, c, TILE_R, TILE_C);
        for (; r < n_rows; r++) tile(&p, r, c, 1, TILE_C);
    }
    for (; c < n_cols; c++) {
        i64 r = 0;
        for (; r + 2 <= n_rows; r += 2) tile(&p, r, c, 2, 1);
        for (; r < n_rows; r++) tile(&p, r, c, 1, 1);
    }
}

void BODY(kern_body_gemm)(kern *k) { k->gemm = BODY(body_gemm); }
