/* tensor/cpu/body_grad.c - gradients of single rows: norms, softmax; sums; the mask of dropout. Compiled for each instruction set
 * with the same results (body.h): sums over a row run in 8 partial sums of doubles, the last values in order. The statistics of a
 * norm are the forward pass's own (body_rows.c): same sums, same bits. */
#include "tensor/cpu/body.h"

/* sum of x - shift, or of its square */
static double moment(const float *x, i64 n, double shift, bool square)
{
    sum8 s = {0};
    i64 i = 0;
    for (; i + 16 <= n; i += 16) {
        vf v[LANES];
        UNROLLED(j, LANES) v[j] = load(x + i + j * W);
        wide16 w = widen(v);
        UNROLLED(j, 2 * LANES) w.half[j] = w.half[j] - shift;
        if (square) { UNROLLED(j, 2 * LANES) w.half[j] *= w.half[j]; }
        sum8_add(&s, w);
    }
    double total = sum8_total(&s);
    for (; i < n; i++) {
        double d = (double)x[i] - shift;
        total += square ? d * d : d;
    }
    return total;
}
static double sum_row(const float *x, i64 n) { return moment(x, n, 0, false); }

static norm_stat norm_stat_row(const float *x, i64 n, int kind, float eps)
{
    double mean = kind == NORM_LAYER ? moment(x, n, 0, false) / (double)n : 0, square = moment(x, n, mean, true);
    double length = sqrt(square), least = (double)eps, by = 1 / sqrt(square / (double)n + least);
    if (kind == NORM_L2) by = length > least ? 1 / length : least > 0 ? 1 / least : 0;
    float m = (float)mean;
    return (norm_stat){m, (float)(mean - (double)m), (float)by, kind != NORM_L2 || length > least};
}

INLINE vf normed(vf x, const norm_stat *s) { return (x - s->mean - s->mean_rest) * s->by; }
INLINE vf slope_of(const float *dy, const float *w, i64 i)
{
    vf g = load(dy + i);
    return w ? g * load(w + i) : g;
}

typedef struct {
    double g, along; /* sum of g, of g h */
} norm_sums;
static norm_sums sums_of(const float *x, const float *dy, const float *w, i64 n, const norm_stat *s)
{
    sum8 g8 = {0}, gh8 = {0};
    vf g[LANES], gh[LANES];
    for (i64 i = 0; i < n; i += 16) {
        float t[3][16];
        const float *xi = x + i, *di = dy + i, *wi = w ? w + i : NULL;
        if (i + 16 > n) { /* zeros of dy add nothing */
            pad16(t[0], xi, n - i, 0), pad16(t[1], di, n - i, 0);
            if (w) pad16(t[2], wi, n - i, 0);
            xi = t[0], di = t[1], wi = w ? t[2] : NULL;
        }
        UNROLLED(j, LANES)
        {
            g[j] = slope_of(di, wi, j * W);
            gh[j] = g[j] * normed(load(xi + j * W), s);
        }
        sum8_add(&g8, widen(g)), sum8_add(&gh8, widen(gh));
    }
    return (norm_sums){sum8_total(&g8), sum8_total(&gh8)};
}

static void norm_x_row(float *dx, const float *x, const float *dy, const float *w, i64 n, int kind, float eps)
{
    if (n <= 0) return;
    norm_stat s = norm_stat_row(x, n, kind, eps);
    norm_sums sum = sums_of(x, dy, w, n, &s);
    float mean_g = kind == NORM_LAYER ? (float)(sum.g / (double)n) : 0;
    float along = !s.depends ? 0 : (float)(kind == NORM_L2 ? sum.along : sum.along / (double)n);
    i64 i = 0;
    for (; i + W <= n; i += W) store(dx + i, (slope_of(dy, w, i) - mean_g - normed(load(x + i), &s) * along) * s.by);
    for (; i < n; i++) {
        float g = w ? dy[i] * w[i] : dy[i], h = (x[i] - s.mean - s.mean_rest) * s.by;
        dx[i] = (g - mean_g - h * along) * s.by;
    }
}

static void norm_w_row(float *dw, const float *x, const float *dy, const norm_stat *s, i64 n)
{
    i64 i = 0;
    for (; i + W <= n; i += W) store(dw + i, load(dw + i) + load(dy + i) * normed(load(x + i), s));
    for (; i < n; i++) dw[i] += dy[i] * ((x[i] - s->mean - s->mean_rest) * s->by);
}

/* Where one probability is nearly 1, what the gradient is made of is the rest of it: the sum is made in doubles and taken away
 * in two floats. */
static void softmax_grad_row(float *dx, const float *y, const float *dy, i64 n)
{
    sum8 sum = {0};
    for (i64 i = 0; i < n; i += 16) {
        float t[2][16];
        vf a[LANES], b[LANES];
        bool whole = i + 16 <= n;
        if (!whole) pad16(t[0], y + i, n - i, 0), pad16(t[1], dy + i, n - i, 0);
        UNROLLED(j, LANES) a[j] = load((whole ? y + i : t[0]) + j * W), b[j] = load((whole ? dy + i : t[1]) + j * W);
        wide16 w = widen(a), v = widen(b);
        UNROLLED(j, 2 * LANES) w.half[j] *= v.half[j];
        sum8_add(&sum, w);
    }
    const double total = sum8_total(&sum);
    const float along = (float)total, rest = (float)(total - (double)along);
    i64 i = 0;
    for (; i + W <= n; i += W) store(dx + i, load(y + i) * (load(dy + i) - along - rest));
    for (; i < n; i++) dx[i] = y[i] * (dy[i] - along - rest);
}

typedef u32 vu __attribute__((vector_size(4 * W)));
static void dropout_row(float *y, const float *x, i64 n, u32 index, const dropout_rule *r)
{
    const float by = (float)r->by;
    const dropout_rule rule = *r;
    vu count;
    for (int j = 0; j < W; j++) count[j] = index + (u32)j;
    for (i64 i = 0; i < n; i += W, count += W) {
        vu h = count;
        DROPOUT_HASH(h, rule);
        vi stays = h >= rule.least; /* a product would leave -0, and NaN of what is dropped */
        if (i + W <= n)
            store(y + i, (vf)(stays & (vi)(load(x + i) * by)));
        else
            store_some(y + i, (vf)(stays & (vi)(load_some(x + i, n - i) * by)), n - i);
    }
}

/* ---- the optimizer: one reading of what is in memory, and no sum that waits for the one before it ---- */
static double squares_row(const float *x, i64 n) { return moment(x, n, 0, true); }

static void adam_rows(float *p, float *m, float *v, const float *g, i64 n, const adam_rule *r)
{
    const adam_rule a = *r;
    for (i64 i = 0; i < n; i += W) {
        const bool whole = i + W <= n;
        const i64 some = n - i;
        vf slope = (whole ? load(g + i) : load_some(g + i, some)) * a.scale;
        vf mean = whole ? load(m + i) : load_some(m + i, some), square = whole ? load(v + i) : load_some(v + i, some);
        vf value = (whole ? load(p + i) : load_some(p + i, some)) * a.keep;
        mean = mean + (slope - mean) * a.first;
        square = square * a.second + a.second_rest * slope * slope;
        value = value - a.size * (mean / (root(square) / a.root + a.eps));
        if (whole)
            store(m + i, mean), store(v + i, square), store(p + i, value);
        else
            store_some(m + i, mean, some), store_some(v + i, square, some), store_some(p + i, value, some);
    }
}

void BODY(kern_body_grad)(kern *k)
{
    k->squares = squares_row, k->adam = adam_rows;
    k->sum = sum_row, k->norm_stat = norm_stat_row, k->norm_x = norm_x_row, k->norm_w = norm_w_row;
    k->softmax_grad = softmax_grad_row, k->dropout = dropout_row;
}
