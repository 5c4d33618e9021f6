/* tensor/cpu/body_gemm.c - y = w x for float rows. Every element is 16 partial sums over k, the last k values padded with
 * zeros, and one fixed order to add them up (body.h): its bits do not depend on where in a tile it was computed, nor on the
 * instruction set. A tile of rows x columns keeps its partial sums in registers; the sizes below are what 16 (AVX-512: 32)
 * registers hold. Blocking for the caches is the caller's work (steps_matmul.c); parts of k, with partial sums waiting in
 * memory, were tried and gained nothing up to k = 4864: what the first-level cache saves, the shorter loops lose.
 * Below it the products of training, in another form and with other bits. */
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

/* ---- outer products over panels ---------------------------------------------------------------------------------------------
 * Why another form: a tile of dot products has to add up 16 partial sums for each element and rereads its columns for every few
 * rows; here a step loads 16 values and OUTER_ROWS factors for 16 * OUTER_ROWS multiply-adds. Of what a step needs in registers
 * only the sums stay, so the tile is as large as they allow; AVX-512 takes two panels, or additions would wait for each other. */
#if W == 16
#define PANELS 2
#define ROWS_AT_ONCE 6
#elif W == 8
#define PANELS 1
#define ROWS_AT_ONCE 6
#else
#define PANELS 1
#define ROWS_AT_ONCE 2
#endif
#define PANEL_VECTORS (PANELS * LANES)
#define STAY(v)                                                                                                                  \
    __asm__ volatile("" : "+v"(v)) /* in this order: compilers gather the loads of several steps and run out of registers */

INLINE void outer_store(float *y, const vf s[LANES], i64 n, bool with)
{
    if (n >= OUTER_LANES) {
        UNROLLED(l, LANES) store(y + l * W, with ? load(y + l * W) + s[l] : s[l]);
        return;
    }
    float t[OUTER_LANES];
    UNROLLED(l, LANES) store(t + l * W, s[l]);
    for (i64 j = 0; j < n; j++) y[j] = with ? y[j] + t[j] : t[j];
}

INLINE void outer_step(vf s[ROWS_AT_ONCE * PANEL_VECTORS], const float *const a[ROWS_AT_ONCE], i64 at, const float *b, i64 apart,
                       int r, int n_panels)
{
    vf bv[PANEL_VECTORS];
    UNROLLED(p, n_panels)
    {
        UNROLLED(l, LANES)
        {
            bv[p * LANES + l] = load(b + p * apart + l * W);
            STAY(bv[p * LANES + l]);
        }
    }
    UNROLLED(i, r)
    {
        vf av = all(a[i][at]);
        STAY(av);
        UNROLLED(l, n_panels * LANES) s[i * PANEL_VECTORS + l] += av * bv[l];
        UNROLLED(l, n_panels * LANES) STAY(s[i * PANEL_VECTORS + l]);
    }
}

/* rows [row, row + r), panels [panel, panel + n_panels); r, n_panels and step are constants wherever this is inlined */
INLINE void outer_pass(const outer_tile *o, int row, int r, i64 panel, int n_panels, i64 step)
{
    vf s[ROWS_AT_ONCE * PANEL_VECTORS];
    const float *a[ROWS_AT_ONCE];
    const i64 apart = OUTER_LANES * o->n_steps;
    const float *b = o->b + panel * apart;
    UNROLLED(i, r)
    {
        a[i] = o->a[row + i];
        for (int p = 0; p < n_panels; p++) {
            if (o->add) __builtin_prefetch(o->y[row + i] + (panel + p) * OUTER_LANES, 1);
            if (o->ahead[row + i]) __builtin_prefetch(o->ahead[row + i] + (panel + p) * OUTER_LANES);
        }
        UNROLLED(l, PANEL_VECTORS) s[i * PANEL_VECTORS + l] = (vf){0};
    }
    for (i64 at = 0, end = o->n_steps * step; at < end; at += step, b += OUTER_LANES) outer_step(s, a, at, b, apart, r, n_panels);
    UNROLLED(i, r)
    {
        UNROLLED(p, n_panels)
        {
            i64 from = (panel + p) * OUTER_LANES;
            outer_store(o->y[row + i] + from, s + i * PANEL_VECTORS + p * LANES, o->n - from, o->add);
        }
    }
}

INLINE void outer_rows(const outer_tile *o, int row, int r, i64 step)
{
    i64 panels = (o->n + OUTER_LANES - 1) / OUTER_LANES, p = 0;
    for (; p + PANELS <= panels; p += PANELS) outer_pass(o, row, r, p, PANELS, step);
    if (PANELS > 1 && p < panels) outer_pass(o, row, r, p, 1, step);
}

INLINE void outer_all(const outer_tile *o, i64 step)
{
    int row = 0;
    for (; row + ROWS_AT_ONCE <= o->n_rows; row += ROWS_AT_ONCE) outer_rows(o, row, ROWS_AT_ONCE, step);
    switch (o->n_rows - row) {
    case 1: outer_rows(o, row, 1, step); break;
    case 2: outer_rows(o, row, 2, step); break;
#if ROWS_AT_ONCE == 6
    case 3: outer_rows(o, row, 3, step); break;
    case 4: outer_rows(o, row, 4, step); break;
    case 5: outer_rows(o, row, 5, step); break;
#endif
    default: break;
    }
}

static void body_outer(const outer_tile *o)
{
    if (o->a_step == 1)
        outer_all(o, 1);
    else
        outer_all(o, OUTER_ROWS);
}

static void body_turn(const float *rows, i64 stride, i64 n, float *panel)
{
    i64 s = 0;
    for (; s + 4 <= n; s += 4)
        for (int i = 0; i < OUTER_LANES; i += 4) {
            const float *from = rows + i * stride + s;
            __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + stride), c = _mm_loadu_ps(from + 2 * stride),
                   d = _mm_loadu_ps(from + 3 * stride);
            _MM_TRANSPOSE4_PS(a, b, c, d);
            float *to = panel + s * OUTER_LANES + i;
            _mm_storeu_ps(to, a), _mm_storeu_ps(to + OUTER_LANES, b), _mm_storeu_ps(to + 2 * OUTER_LANES, c),
                _mm_storeu_ps(to + 3 * OUTER_LANES, d);
        }
    for (; s < n; s++)
        for (int i = 0; i < OUTER_LANES; i++) panel[s * OUTER_LANES + i] = rows[i * stride + s];
}

void BODY(kern_body_gemm)(kern *k)
{
    k->gemm = BODY(body_gemm);
    k->outer = body_outer;
    k->turn = body_turn;
}
