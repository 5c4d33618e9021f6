/* tensor/cpu/body_rows.c - kernels on single rows: arithmetic, norms, activations, softmax, rotation, 16-bit floats. Compiled
 * for each instruction set with the same results (body.h). Elementwise functions run W at a time, their last elements through a
 * padded vector; sums go by 16 lanes. A result may be written over its source (y == x), not beside it. */
#include "tensor/cpu/body.h"

/* ---- elementwise -------------------------------------------------------------------------------------------------------- */
INLINE void map_1(float *y, const float *x, i64 n, vf (*f)(vf))
{
    i64 i = 0;
    for (; i + W <= n; i += W) store(y + i, f(load(x + i)));
    if (i < n) store_some(y + i, f(load_some(x + i, n - i)), n - i);
}
INLINE void map_2(float *y, const float *a, const float *b, i64 n, vf (*f)(vf, vf))
{
    i64 i = 0;
    for (; i + W <= n; i += W) store(y + i, f(load(a + i), load(b + i)));
    if (i < n) store_some(y + i, f(load_some(a + i, n - i), load_some(b + i, n - i)), n - i);
}

INLINE vf v_add(vf a, vf b) { return a + b; }
INLINE vf v_mul(vf a, vf b) { return a * b; }
static void add_row(float *y, const float *a, const float *b, i64 n) { map_2(y, a, b, n, v_add); }
static void mul_row(float *y, const float *a, const float *b, i64 n) { map_2(y, a, b, n, v_mul); }
static void scale_row(float *y, const float *x, float s, i64 n)
{
    i64 i = 0;
    for (; i + W <= n; i += W) store(y + i, load(x + i) * s);
    for (; i < n; i++) y[i] = x[i] * s;
}
static void axpy_row(float *y, const float *x, float s, i64 n)
{
    i64 i = 0;
    for (; i + W <= n; i += W) store(y + i, load(y + i) + load(x + i) * s);
    for (; i < n; i++) y[i] = y[i] + x[i] * s;
}

/* ---- activations -------------------------------------------------------------------------------------------------------- */
#define TANH_A 1.595769122f /* 2 sqrt(2 / pi) */
#define TANH_B 0.044715f
INLINE vf v_silu(vf x) { return x / (v_exp(-x) + 1.0f); }
INLINE vf v_gelu(vf x)
{
    vf gauss;
    return x * v_phi(x, &gauss);
}
/* x (1 + tanh u) / 2 = x sigmoid(2u), which does not cancel for u < 0 */
INLINE vf v_gelu_tanh(vf x) { return x / (v_exp((x + x * x * x * TANH_B) * -TANH_A) + 1.0f); }
INLINE vf v_relu(vf x) { return greater(all(0.0f), x); }

static void act_row(float *y, const float *x, i64 n, int kind)
{
    switch (kind) {
    case ACT_SILU: map_1(y, x, n, v_silu); break;
    case ACT_GELU: map_1(y, x, n, v_gelu); break;
    case ACT_GELU_TANH: map_1(y, x, n, v_gelu_tanh); break;
    case ACT_RELU: map_1(y, x, n, v_relu); break;
    case ACT_TANH: map_1(y, x, n, v_tanh); break;
    case ACT_SIGMOID: map_1(y, x, n, v_sigmoid); break;
    default: break;
    }
}

INLINE vf v_silu_mul(vf x, vf up) { return v_silu(x) * up; }
INLINE vf v_gelu_mul(vf x, vf up) { return v_gelu(x) * up; }
INLINE vf v_gelu_tanh_mul(vf x, vf up) { return v_gelu_tanh(x) * up; }
INLINE vf v_relu_mul(vf x, vf up) { return v_relu(x) * up; }
INLINE vf v_tanh_mul(vf x, vf up) { return v_tanh(x) * up; }
INLINE vf v_sigmoid_mul(vf x, vf up) { return v_sigmoid(x) * up; }

static void glu_row(float *y, const float *gate, const float *up, i64 n, int kind)
{
    switch (kind) {
    case ACT_SILU: map_2(y, gate, up, n, v_silu_mul); break;
    case ACT_GELU: map_2(y, gate, up, n, v_gelu_mul); break;
    case ACT_GELU_TANH: map_2(y, gate, up, n, v_gelu_tanh_mul); break;
    case ACT_RELU: map_2(y, gate, up, n, v_relu_mul); break;
    case ACT_TANH: map_2(y, gate, up, n, v_tanh_mul); break;
    case ACT_SIGMOID: map_2(y, gate, up, n, v_sigmoid_mul); break;
    default: break;
    }
}

/* Derivatives. Beyond |x| = 60 they are 0 or 1 in floats: cut there, so that no infinity meets a zero. */
INLINE vf v_cut(vf x) { return lesser(all(60.0f), greater(all(-60.0f), x)); }
INLINE vf v_bell(vf x, float by) /* sigmoid'(by x) = e / (1 + e)^2, e = exp(-|by x|) */
{
    vf e = v_exp(absolute(x) * -by), d = e + 1.0f;
    return e / (d * d);
}
INLINE vf v_sigmoid_bell(vf x, vf *bell) /* both of one exp and one division */
{
    vf e = v_exp(-absolute(x)), r = 1.0f / (e + 1.0f);
    *bell = e * r * r;
    return pick(x < 0.0f, e * r, r);
}
INLINE vf v_silu_grad(vf x, vf dy)
{
    x = v_cut(x);
    vf bell, sigmoid = v_sigmoid_bell(x, &bell);
    return dy * (sigmoid + x * bell);
}
INLINE vf v_gelu_grad(vf x, vf dy)
{
    x = v_cut(x);
    vf gauss, phi = v_phi(x, &gauss);
    return dy * (phi + x * gauss * 0.3989422804f);
}
INLINE vf v_gelu_tanh_grad(vf x, vf dy)
{
    x = v_cut(x);
    vf u = (x + x * x * x * TANH_B) * TANH_A, du = (x * x * (3 * TANH_B) + 1.0f) * TANH_A;
    vf bell, sigmoid = v_sigmoid_bell(u, &bell);
    return dy * (sigmoid + x * bell * du);
}
INLINE vf v_relu_grad(vf x, vf dy) { return (vf)((x > 0.0f) & (vi)dy); }
INLINE vf v_tanh_grad(vf x, vf dy) { return dy * (v_bell(x, 2) * 4.0f); }
INLINE vf v_sigmoid_grad(vf x, vf dy) { return dy * v_bell(x, 1); }

static void act_grad_row(float *y, const float *x, const float *dy, i64 n, int kind)
{
    switch (kind) {
    case ACT_SILU: map_2(y, x, dy, n, v_silu_grad); break;
    case ACT_GELU: map_2(y, x, dy, n, v_gelu_grad); break;
    case ACT_GELU_TANH: map_2(y, x, dy, n, v_gelu_tanh_grad); break;
    case ACT_RELU: map_2(y, x, dy, n, v_relu_grad); break;
    case ACT_TANH: map_2(y, x, dy, n, v_tanh_grad); break;
    case ACT_SIGMOID: map_2(y, x, dy, n, v_sigmoid_grad); break;
    default: break;
    }
}

/* ---- sums over a row ---------------------------------------------------------------------------------------------------- */
static float dot_row(const float *a, const float *b, i64 n)
{
    vf s[LANES] = {{0}};
    dot_add(s, a, b, n);
    return sum_1(fold4(s));
}

/* sum of x - shift, or of its square, in doubles: huge and tiny values neither overflow nor vanish */
INLINE void moment_add(sum8 *s, const float *x, double shift, bool square)
{
    vf v[LANES];
    UNROLLED(j, LANES) v[j] = load(x + j * W);
    wide16 w = widen(v);
    UNROLLED(j, 2 * LANES)
    {
        w.half[j] = w.half[j] - shift;
        if (square) w.half[j] *= w.half[j];
    }
    sum8_add(s, w);
}
INLINE double moment(const float *x, i64 n, double shift, bool square)
{
    sum8 s = {0};
    i64 i = 0;
    for (; i + 16 <= n; i += 16) moment_add(&s, x + i, shift, square);
    double total = sum8_total(&s);
    for (; i < n; i++) { /* the rest, in order */
        double d = (double)x[i] - shift;
        total += square ? d * d : d;
    }
    return total;
}

INLINE vf normed(vf x, float mean, float mean_rest, float by) { return (x - mean - mean_rest) * by; }
static void norm_row(float *y, const float *x, const float *w, const float *b, i64 n, int kind, float eps)
{
    if (n <= 0) return;
    double mean = kind == NORM_LAYER ? moment(x, n, 0, false) / (double)n : 0;
    double square = moment(x, n, mean, true);
    double length = sqrt(square), least = (double)eps;
    double by = 1 / sqrt(square / (double)n + least);
    if (kind == NORM_L2) by = length > least ? 1 / length : least > 0 ? 1 / least : 0;
    float m = (float)mean, rest = (float)(mean - (double)m), s = (float)by;
    i64 i = 0;
    for (; i + W <= n; i += W) {
        vf v = normed(load(x + i), m, rest, s);
        if (w) v = v * load(w + i);
        if (b) v = v + load(b + i);
        store(y + i, v);
    }
    if (i == n) return;
    vf v = normed(load_some(x + i, n - i), m, rest, s);
    if (w) v = v * load_some(w + i, n - i);
    if (b) v = v + load_some(b + i, n - i);
    store_some(y + i, v, n - i);
}

static void softmax_row(float *y, const float *x, i64 n)
{
    double sum = row_exp(y, x, row_shift(x, n), n);
    scale_row(y, y, (float)(1 / sum), n);
}
static float lse_row(const float *x, i64 n)
{
    float shift = row_shift(x, n);
    return (float)((double)shift + log(row_exp(NULL, x, shift, n)));
}

/* ---- rotation of pairs --------------------------------------------------------------------------------------------------- */
static void rope_halves(float *y, const float *x, const float *cosine, const float *sine, i64 half)
{
    i64 i = 0;
    for (; i + W <= half; i += W) {
        vf a = load(x + i), b = load(x + half + i), c = load(cosine + i), s = load(sine + i);
        store(y + i, a * c - b * s);
        store(y + half + i, a * s + b * c);
    }
    for (; i < half; i++) {
        float a = x[i], b = x[half + i];
        y[i] = a * cosine[i] - b * sine[i];
        y[half + i] = a * sine[i] + b * cosine[i];
    }
}
static void rope_neighbours(float *y, const float *x, const float *cosine, const float *sine, i64 half)
{
    i64 i = 0;
    for (; i + W <= half; i += W) {
        vf p = load(x + 2 * i), q = load(x + 2 * i + W), c = load(cosine + i), s = load(sine + i);
        vf a = __builtin_shufflevector(p, q, EVERY_OTHER(0)), b = __builtin_shufflevector(p, q, EVERY_OTHER(1));
        vf u = a * c - b * s, v = a * s + b * c;
        store(y + 2 * i, __builtin_shufflevector(u, v, RIFFLE(0)));
        store(y + 2 * i + W, __builtin_shufflevector(u, v, RIFFLE(W / 2)));
    }
    for (; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        y[2 * i] = a * cosine[i] - b * sine[i];
        y[2 * i + 1] = a * sine[i] + b * cosine[i];
    }
}
static void rope_row(float *y, const float *x, const float *cosine, const float *sine, int dims, int hd, bool neox)
{
    i64 half = dims / 2;
    if (neox)
        rope_halves(y, x, cosine, sine, half);
    else
        rope_neighbours(y, x, cosine, sine, half);
    if (y != x) memcpy(y + 2 * half, x + 2 * half, sizeof *y * (usize)(hd - 2 * half));
}

/* ---- 16-bit floats ------------------------------------------------------------------------------------------------------- */
static void to_f16_row(u16 *y, const float *x, i64 n)
{
    i64 i = 0;
    for (; i + W <= n; i += W) store_half(y + i, load(x + i));
    if (i == n) return;
    u16 t[W];
    store_half(t, load_some(x + i, n - i));
    for (i64 j = i; j < n; j++) y[j] = t[j - i];
}
static void from_f16_row(float *y, const u16 *x, i64 n) { half_to_float(y, x, n); }
static void from_bf16_row(float *y, const u16 *x, i64 n)
{
    for (i64 i = 0; i < n; i++) y[i] = bf16_to_f32(x[i]);
}

void BODY(kern_body_rows)(kern *k)
{
    k->add = add_row, k->mul = mul_row, k->scale = scale_row, k->axpy = axpy_row, k->dot = dot_row;
    k->norm = norm_row, k->act = act_row, k->act_grad = act_grad_row, k->glu = glu_row;
    k->softmax = softmax_row, k->lse = lse_row, k->rope = rope_row;
    k->to_f16 = to_f16_row, k->from_f16 = from_f16_row, k->from_bf16 = from_bf16_row;
}
