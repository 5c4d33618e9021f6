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

#define KEEP_POINTER(p) __asm__("" : "+r"(p)) /* one pointer with displacements: compilers make one of each row */
#define NEAR_FLOATS 4096                      /* panels that stay in the first-level cache while rows pass: half of it */

INLINE void outer_store(float *y, const float *plus, const vf s[LANES], i64 n)
{
    if (n >= OUTER_LANES) {
        UNROLLED(l, LANES) store(y + l * W, plus ? load(plus + l * W) + s[l] : s[l]);
        return;
    }
    float t[OUTER_LANES];
    UNROLLED(l, LANES) store(t + l * W, s[l]);
    for (i64 j = 0; j < n; j++) y[j] = plus ? plus[j] + t[j] : t[j];
}

/* one term of r rows: factors a[i * step], or those of rows[i] at `at` */
INLINE void outer_step(vf s[ROWS_AT_ONCE * PANEL_VECTORS], const float *a, const float *const *rows, i64 at, const float *b,
                       i64 apart, int r, int n_panels)
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
        vf av = all(rows ? rows[i][at] : a[i]);
        STAY(av);
        UNROLLED(l, n_panels * LANES) s[i * PANEL_VECTORS + l] += av * bv[l];
        UNROLLED(l, n_panels * LANES) STAY(s[i * PANEL_VECTORS + l]);
    }
}

INLINE void outer_store_rows(const outer_block *o, const vf s[ROWS_AT_ONCE * PANEL_VECTORS], i64 row, int r, i64 col,
                             int n_panels)
{
    UNROLLED(i, r)
    {
        UNROLLED(p, n_panels)
        {
            i64 from = col + p * OUTER_LANES;
            outer_store(o->y[row + i] + from, o->plus ? o->plus[row + i] + from : NULL, s + i * PANEL_VECTORS + p * LANES,
                        o->n - from);
        }
    }
}

/* rows [row, row + r), panels [panel, panel + n_panels); r, n_panels and mixed are constants wherever this is inlined */
INLINE void outer_pass(const outer_block *o, i64 row, int r, i64 panel, int n_panels, bool mixed)
{
    vf s[ROWS_AT_ONCE * PANEL_VECTORS];
    const float *rows[ROWS_AT_ONCE];
    const i64 apart = OUTER_LANES * o->n_steps, col = panel * OUTER_LANES, n = o->n_steps;
    const float *b = o->b + panel * apart;
    UNROLLED(i, r)
    {
        if (!mixed) rows[i] = o->a[row + i];
        for (int p = 0; p < n_panels; p++) {
            __builtin_prefetch(o->y[row + i] + col + p * OUTER_LANES, 1);
            if (o->plus) __builtin_prefetch(o->plus[row + i] + col + p * OUTER_LANES);
        }
        UNROLLED(l, PANEL_VECTORS) s[i * PANEL_VECTORS + l] = (vf){0};
    }
    if (mixed) {
        const float *a = o->mixed + row / OUTER_ROWS * OUTER_ROWS * n + row % OUTER_ROWS;
        i64 left = n;
        for (; left >= 2; left -= 2, a += 2 * OUTER_ROWS, b += 2 * OUTER_LANES) {
            KEEP_POINTER(a);
            outer_step(s, a, NULL, 0, b, apart, r, n_panels);
            outer_step(s, a + OUTER_ROWS, NULL, 0, b + OUTER_LANES, apart, r, n_panels);
        }
        if (left) outer_step(s, a, NULL, 0, b, apart, r, n_panels);
    } else {
        for (i64 at = 0; at < n; at++, b += OUTER_LANES) outer_step(s, NULL, rows, at, b, apart, r, n_panels);
    }
    outer_store_rows(o, s, row, r, col, n_panels);
}

/* the panels behind `end`, a part with each group of rows, so that the first of them need not wait */
INLINE void fetch_next(const outer_block *o, i64 row, i64 end, i64 some)
{
    const i64 lines = some * o->n_steps, groups = (o->n_rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    const i64 each = (lines + groups - 1) / groups, from = row / ROWS_AT_ONCE * each;
    const float *next = o->b + end * OUTER_LANES * o->n_steps;
    for (i64 i = from; i < i64_min(lines, from + each); i++) __builtin_prefetch(next + i * OUTER_LANES, 0, 2);
}

INLINE void outer_rows(const outer_block *o, i64 row, int r, i64 panel, i64 end, bool mixed)
{
    for (; panel + PANELS <= end; panel += PANELS) outer_pass(o, row, r, panel, PANELS, mixed);
    if (PANELS > 1 && panel < end) outer_pass(o, row, r, panel, 1, mixed);
}

/* All rows meet some panels before the next ones: what passes through the first-level cache are the rows, a third of a panel's
 * bytes for each panel. */
INLINE void outer_all(const outer_block *o, bool mixed)
{
    i64 panels = (o->n + OUTER_LANES - 1) / OUTER_LANES;
    i64 some = i64_max(PANELS, NEAR_FLOATS / (OUTER_LANES * i64_max(1, o->n_steps)) / PANELS * PANELS);
    for (i64 p = 0, end; p < panels; p = end) {
        i64 row = 0;
        end = i64_min(panels, p + some);
        for (; row + ROWS_AT_ONCE <= o->n_rows; row += ROWS_AT_ONCE) {
            if (end < panels) fetch_next(o, row, end, i64_min(some, panels - end));
            outer_rows(o, row, ROWS_AT_ONCE, p, end, mixed);
        }
        switch (o->n_rows - row) {
        case 1: outer_rows(o, row, 1, p, end, mixed); break;
#if ROWS_AT_ONCE == 6
        case 2: outer_rows(o, row, 2, p, end, mixed); break;
        case 3: outer_rows(o, row, 3, p, end, mixed); break;
        case 4: outer_rows(o, row, 4, p, end, mixed); break;
        case 5: outer_rows(o, row, 5, p, end, mixed); break;
#endif
        default: break;
        }
    }
}

static void body_outer(const outer_block *o)
{
    if (o->a)
        outer_all(o, false);
    else
        outer_all(o, true);
}

static void body_mix(const float *const *rows, i64 n_rows, i64 n, float *mixed, i64 apart)
{
    for (i64 row = 0; row < n_rows; row += OUTER_ROWS, mixed += OUTER_ROWS * apart) {
        const float *in[OUTER_ROWS];
        for (i64 i = 0; i < OUTER_ROWS; i++) in[i] = rows[i64_min(row + i, n_rows - 1)];
        i64 s = 0;
        for (; s + 4 <= n; s += 4) {
            __m128 a = _mm_loadu_ps(in[0] + s), b = _mm_loadu_ps(in[1] + s), c = _mm_loadu_ps(in[2] + s),
                   d = _mm_loadu_ps(in[3] + s);
            __m128 e = _mm_loadu_ps(in[4] + s), f = _mm_loadu_ps(in[5] + s), low = _mm_unpacklo_ps(e, f),
                   high = _mm_unpackhi_ps(e, f);
            float *to = mixed + s * OUTER_ROWS;
            _MM_TRANSPOSE4_PS(a, b, c, d);
            _mm_storeu_ps(to, a), _mm_storel_pi((__m64 *)(void *)(to + 4), low);
            _mm_storeu_ps(to + 6, b), _mm_storeh_pi((__m64 *)(void *)(to + 10), low);
            _mm_storeu_ps(to + 12, c), _mm_storel_pi((__m64 *)(void *)(to + 16), high);
            _mm_storeu_ps(to + 18, d), _mm_storeh_pi((__m64 *)(void *)(to + 22), high);
        }
        for (; s < n; s++)
            for (i64 i = 0; i < OUTER_ROWS; i++) mixed[s * OUTER_ROWS + i] = in[i][s];
    }
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
    k->mix = body_mix;
    k->turn = body_turn;
}
