/* tensor/cpu/fit.h - searches for the scale (and minimum) of a sub-block of weights, for body_encode*.c.
 *
 * The published encoders try a dozen or more scales for every sub-block and add up products one after another, in an order that
 * the bytes of the result depend on. Here one lane is one sub-block: W of them are searched side by side, each in the order of
 * the definition, so that every level writes the same bytes. Branches became selections; a lane that has finished a refinement
 * finds nothing to change in another round. Codes are not kept: `by` and `from` say how the best ones came about, and are asked
 * for by few. Formulas: w weight, x value, q code; all minimise sum w (x - value of q)^2.
 * Not for values that are no numbers: they give some block, never a crash. */
#ifndef MARU_CPU_FIT_H
#define MARU_CPU_FIT_H
#include "tensor/block.h"
#include "tensor/cpu/body.h"

#define NOTHING 1e-15f /* sub-blocks with no value above this are zeros */

typedef struct {
    vf scale, low; /* x ~ scale * q - low */
    vf by, from;   /* q = nearest(by (x - from)) within limits; by is 0 where all codes are the smallest number */
    vf weight;     /* sum of w */
} fit;

INLINE vf clamp(vf x, float lo, float hi) { return greater(lesser(x, all(hi)), all(lo)); }
INLINE vf round_even(vf x) { return (x + 0x1.8p23f) - 0x1.8p23f; }
INLINE vi round_int(vf x) { return ((vi)(x + 0x1.8p23f) & 0x7fffff) - 0x400000; } /* beyond 2^22 some number: as defined */
INLINE vf to_float(vi x) { return __builtin_convertvector(x, vf); }
INLINE bool any(vi m)
{
#if W == 16
    return _mm512_movepi32_mask((__m512i)m) != 0;
#elif W == 8
    return _mm256_movemask_ps((__m256)m) != 0;
#else
    return _mm_movemask_ps((__m128)m) != 0;
#endif
}

/* x[i] lane l = src[l * n + i]; lanes that are not there are 0 */
INLINE void side_by_side(vf *x, const float *src, int n, int lanes)
{
    float t[Q32 * W];
    if (lanes < W) memset(t, 0, sizeof t);
    for (int l = 0; l < lanes; l++)
        for (int i = 0; i < n; i++) t[i * W + l] = src[l * n + i];
    for (int i = 0; i < n; i++) x[i] = load(t + i * W);
}

/* the value of largest magnitude, the first of several; false where there is none to speak of (then 1) */
INLINE vi extremes(const vf *x, int n, vf *out)
{
    vf size = all(0), best = all(0);
    for (int i = 0; i < n; i++) {
        vf a = absolute(x[i]);
        vi more = a > size;
        size = pick(more, a, size), best = pick(more, x[i], best);
    }
    vi some = ~(size < NOTHING);
    *out = pick(some, best, all(1));
    return some;
}

/* x ~ scale * q, q in -top..top-1: 19 scales around the one that maps the extreme to -top, each corrected to the least squares
 * of its codes; the best maximises (sum w x q)^2 / sum w q^2 */
INLINE fit fit_scale(const vf *x, const vf *w, int n, float top)
{
    vf extreme, wx[Q32], best = all(0);
    vi some = extremes(x, n, &extreme);
    fit f = {0};
    for (int i = 0; i < n; i++) wx[i] = w[i] * x[i];
    for (int try = -10; try <= 9; try++) { /* -10 stands for the middle one, which comes first and is taken as it is */
        if (try == 0) continue;
        vf by = (try == -10 ? -top : -(top + 0.1f * (float)try)) / extreme, xq = all(0), qq = all(0);
        for (int i = 0; i < n; i++) {
            vf q = clamp(round_even(by * x[i]), -top, top - 1);
            xq += wx[i] * q, qq += w[i] * q * q;
        }
        vf scale = pick(qq != 0, xq / qq, all(0));
        vi better = try == -10 ? best == best : (qq > 0) & (xq * xq > best * qq);
        f.scale = pick(better, scale, f.scale), f.by = pick(better, by, f.by);
        best = pick(better, scale * xq, best);
    }
    f.scale = pick(some, f.scale, all(0)), f.by = pick(some, f.by, all(0));
    return f;
}

/* The same, weights x^2: from the scale of the extreme, codes are moved one by one while (sum w x q)^2 / sum w q^2 grows.
 * q [n] comes out, in -top..top-1; f.by is 0 where there is nothing */
INLINE fit fit_moves(const vf *x, int n, float top, vf *q)
{
    vf extreme, w[16], wx[16], xq = all(0), qq = all(0);
    vi some = extremes(x, n, &extreme), moved;
    vf by = -top / extreme;
    for (int i = 0; i < n; i++) {
        w[i] = x[i] * x[i], wx[i] = w[i] * x[i];
        q[i] = clamp(round_even(by * x[i]), -top, top - 1);
        xq += wx[i] * q[i], qq += w[i] * q[i] * q[i];
    }
    for (int round = 0; round < 5; round++) {
        moved = (vi){0};
        for (int i = 0; i < n; i++) {
            vf xq1 = xq - wx[i] * q[i], qq1 = qq - w[i] * q[i] * q[i];
            vf to = clamp(to_float(round_int(x[i] * qq1 / xq1)), -top, top - 1);
            vf xq2 = xq1 + wx[i] * to, qq2 = qq1 + w[i] * to * to;
            vi better = (xq1 > 0) & (to != q[i]) & (qq2 > 0) & (xq2 * xq2 * qq > xq * xq * qq2);
            q[i] = pick(better, to, q[i]), xq = pick(better, xq2, xq), qq = pick(better, qq2, qq);
            moved |= better & some;
        }
        if (!any(moved)) break;
    }
    return (fit){.scale = pick(some & (qq > 0), xq / qq, all(0)), .by = pick(some, by, all(0))};
}

/* x ~ scale * q - low, q in 0..top, low >= 0: n_steps + 1 ranges from first to first + step * n_steps wider than top, each
 * corrected to its least squares; the best has the least sum w (error)^2, or w |error| */
INLINE fit fit_line(const vf *x, const vf *w, int n, float top, float first, float step, int n_steps, bool by_size)
{
    vf lo = x[0], hi = x[0], sw = w[0], sx = w[0] * x[0], q[Q32], best = all(0);
    for (int i = 1; i < n; i++) lo = lesser(x[i], lo), hi = greater(x[i], hi), sw += w[i], sx += w[i] * x[i];
    lo = pick(lo > 0, all(0), lo);
    vi flat = ~(hi > lo);
    vf lowest = lo;
    fit f = {.by = top / pick(flat, all(1), hi - lo), .from = lo, .weight = sw};
    f.scale = 1 / f.by;
    for (int i = 0; i < n; i++) {
        vf e = f.scale * clamp(round_even(f.by * (x[i] - lo)), 0, top) + lo - x[i];
        best += w[i] * (by_size ? absolute(e) : e * e);
    }
    for (int s = 0; s <= n_steps; s++) {
        vf by = (first + step * (float)s + top) / (hi - lo), sq = all(0), sqq = all(0), sxq = all(0), error = all(0);
        for (int i = 0; i < n; i++) {
            q[i] = clamp(round_even(by * (x[i] - lo)), 0, top);
            vf wq = w[i] * q[i];
            sq += wq, sqq += wq * q[i], sxq += wq * x[i];
        }
        vf det = sw * sqq - sq * sq, scale = (sw * sxq - sx * sq) / det, min = (sqq * sx - sq * sxq) / det;
        vi above = min > 0;
        min = pick(above, all(0), min), scale = pick(above, sxq / sqq, scale);
        for (int i = 0; i < n; i++) {
            vf e = scale * q[i] + min - x[i];
            error += w[i] * (by_size ? absolute(e) : e * e);
        }
        vi better = (det > 0) & (error < best);
        best = pick(better, error, best), f.scale = pick(better, scale, f.scale);
        f.by = pick(better, by, f.by), f.from = pick(better, lo, f.from), lo = pick(better, min, lo);
    }
    f.low = -pick(flat, lowest, lo), f.scale = pick(flat, all(0), f.scale);
    f.by = pick(flat, all(0), f.by), f.from = pick(flat, all(0), f.from);
    return f;
}

/* x ~ scale * q, x >= 0, q in 0..top: nine scales, then moves as in fit_moves. q [n] comes out */
INLINE vf fit_positive(const vf *x, const vf *w, int n, int top, vi *q)
{
    vf most = all(0), best = all(0), xq = all(0), qq = all(0), limit = all((float)top);
    for (int i = 0; i < n; i++) most = greater(most, x[i]);
    vi some = ~(most < NOTHING);
    most = pick(some, most, all(1));
    vf by = limit / most, scale = 1 / by;
    for (int i = 0; i < n; i++) {
        vf e = x[i] - scale * to_float(round_int(by * x[i]) & 255);
        best += w[i] * e * e;
    }
    for (int try = -4; try <= 4; try++) {
        if (try == 0) continue;
        vf by1 = (0.1f * (float)try + (float)top) / most, scale1 = 1 / by1, error = all(0);
        for (int i = 0; i < n; i++) {
            vf e = x[i] - scale1 * lesser(round_even(by1 * x[i]), limit);
            error += w[i] * e * e;
        }
        vi better = error < best;
        best = pick(better, error, best), by = pick(better, by1, by);
    }
    for (int i = 0; i < n; i++) {
        vf to = lesser(round_even(by * x[i]), limit);
        q[i] = __builtin_convertvector(to, vi) & 255;
        xq += w[i] * x[i] * to, qq += w[i] * to * to;
    }
    for (int round = 0; round < 5; round++) {
        vi moved = {0};
        for (int i = 0; i < n; i++) {
            vf was = to_float(q[i]), xq1 = xq - w[i] * x[i] * was, qq1 = qq - w[i] * was * was;
            vi to = round_int(x[i] * qq1 / xq1);
            to = (vi)pick(to > top, (vf)((vi){0} + top), (vf)to);
            vf xq2 = xq1 + w[i] * x[i] * to_float(to), qq2 = qq1 + w[i] * to_float(to) * to_float(to);
            vi better = (xq1 > 0) & (qq1 > 0) & (to != q[i]) & (xq2 * xq2 * qq > xq * xq * qq2);
            q[i] = (vi)pick(better, (vf)(to & 255), (vf)q[i]), xq = pick(better, xq2, xq), qq = pick(better, qq2, qq);
            moved |= better & some;
        }
        if (!any(moved)) break;
    }
    for (int i = 0; i < n; i++) q[i] &= some;
    return pick(some & (qq > 0), xq / qq, all(0));
}

/* ---- levels of IQ4 ------------------------------------------------------------------------------------------------------- */
/* Between neighbours a, b the definition takes a if x - a < b - x in floats. Both sides are monotone in x, so this is x < t for
 * one float t each, and that is the middle: no difference near it rounds to a tie (tried for each: 64 floats to either side). */
#define IQ4_BORDERS                                                                                                              \
    -115.5f, -93.5f, -74.0f, -57.0f, -42.0f, -28.5f, -16.0f, -4.5f, 7.0f, 19.0f, 31.5f, 45.5f, 61.0f, 79.0f, 101.0f
INLINE vf level_of(vf x)
{
    static const float border[15] = {IQ4_BORDERS};
    static const float level[16] = {LEVELS_IQ4};
    vf v = all(level[0]);
    UNROLLED(i, 15) v = pick(x >= border[i], all(level[i + 1]), v);
    return v;
}
INLINE vi level_code(vf x)
{
    static const float border[15] = {IQ4_BORDERS};
    vi c = {0};
    UNROLLED(i, 15) c -= x >= border[i];
    return c;
}
/* x ~ scale * level: 16 scales near the one that maps the extreme to a border */
INLINE vf fit_levels(const vf *x, const vf *w, int n)
{
    vf extreme, found = all(0), best = all(0);
    vi some = extremes(x, n, &extreme);
    for (int try = -8; try <= 7; try++) { /* -8 stands for the first: the extreme becomes 127 */
        vf by = try == -8 ? 1 / (-extreme / -127.0f) : (float)(try - 127) / extreme, xq = all(0), qq = all(0);
        for (int i = 0; i < n; i++) {
            vf q = level_of(by * x[i]), wq = w[i] * q;
            xq += wq * x[i], qq += wq * q;
        }
        vf scale = pick(qq > 0, xq / qq, all(0));
        vi better = try == -8 ? best == best : (qq > 0) & (xq * xq > best * qq);
        found = pick(better, scale, found), best = pick(better, scale * xq, best);
    }
    return pick(some, found, all(0));
}
#endif
