/* tests/tensor/test_ops.c - the checks of the op-case list: every op has a case; gradients against finite differences, in
 * doubles, by the reference kernels; ops without one say so; the CPU backend at every level and with two threads against the
 * reference kernels, and against itself bit for bit; refusals name what was found. */
#include "op_cases.h"
#include "tensor/cpu/kern.h"
#include "tensor/op.h"
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

static bool has_gradient(op_id op) { return op == OP_LEAF || op_table[op].grad != op_no_gradient; }

static void every_op_has_a_case(void **state)
{
    (void)state;
    bool seen[OP_COUNT] = {0}, missing = false;
    for (int i = 0; i < n_op_cases; i++) {
        case_build b = {.c = &op_cases[i], .only_row = -1};
        case_make(&b);
        err bad = graph_error(b.g);
        if (bad.code) print_error("%s %s: %s\n", op_table[b.c->op].name, b.c->name, bad.what), missing = true;
        for (usize n = 0; n < b.g->n; n++)
            if (b.g->nodes[n]->op == b.c->op) seen[b.c->op] = true;
        case_free(&b, true);
    }
    for (int op = 0; op < OP_COUNT; op++)
        if (!seen[op]) print_error("%s has no case in op_cases.c\n", op_table[op].name), missing = true;
    assert_false(missing);
}

/* ---- gradients ---- */

static double loss_now(const ref_memory *m, const tensor *loss)
{
    ref_run(m, loss->id);
    return ref_at(loss, 0);
}

/* five points: the error is of fourth order, so doubles leave about ten digits */
static double slope_at(const ref_memory *m, const tensor *loss, double *x)
{
    const double x0 = *x, h = 1e-3 * fmax(1, fabs(x0));
    double f[4], step[4] = {-2, -1, 1, 2};
    for (int i = 0; i < 4; i++) {
        *x = x0 + step[i] * h;
        f[i] = loss_now(m, loss);
    }
    *x = x0;
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h);
}

static bool gradient_holds(const op_case *c, double *worst)
{
    case_build b = {.c = c, .as_double = true, .only_row = -1};
    ref_memory m = {0};
    bool good = true;
    tensor *loss = case_loss(&b, case_make(&b));
    err bad = ref_bind(&m, b.g);
    if (bad.code)
        print_error("%s %s: %s\n", op_table[c->op].name, c->name, bad.what), good = false;
    else
        ref_run(&m, (i32)b.g->n - 1);
    for (usize n = 0; good && n < b.g->n; n++) {
        tensor *x = b.g->nodes[n];
        if (!(x->flags & T_PARAM)) continue;
        i64 count = tensor_count(x), each = count / 61 + 1;
        if (x->grad && !tensor_same_shape(x, x->grad))
            print_error("%s %s: the gradient of %s has another shape\n", op_table[c->op].name, c->name, x->name), good = false;
        for (i64 i = 0; i < count && good; i += each) {
            double want = slope_at(&m, loss, (double *)x->data + i);
            double found = x->grad ? ref_at(x->grad, i) : 0, off = fabs(found - want) / (1 + fabs(want));
            *worst = fmax(*worst, off);
            if (off <= 1e-8) continue;
            print_error("%s %s: d/d%s[%lld] is %.12g, finite differences give %.12g\n", op_table[c->op].name, c->name, x->name,
                        (long long)i, found, want);
            good = false;
        }
    }
    ref_free(&m);
    case_free(&b, true);
    return good;
}

static void gradients(void **state)
{
    const op_id op = (op_id)(intptr_t)*state;
    bool good = true;
    int n = 0;
    double worst = 0;
    for (int i = 0; i < n_op_cases; i++) {
        const op_case *c = &op_cases[i];
        case_build b = {.c = c, .as_double = true, .only_row = -1};
        if (c->op != op || c->flags & (CASE_NO_DIFF | CASE_VALUE)) continue;
        bool integer = case_make(&b)->type == I32;
        case_free(&b, true);
        if (integer) continue;
        good = gradient_holds(c, &worst) && good;
        n++;
    }
    assert_true(good);
    assert_true(n > 0);
    if (getenv("MARU_VERBOSE")) print_message("worst of %d cases: %.1e\n", n, worst);
}

static void no_gradient(void **state)
{
    const op_id op = (op_id)(intptr_t)*state;
    char want[64];
    int n = 0;
    snprintf(want, sizeof want, "%s has no gradient", op_table[op].name);
    for (int i = 0; i < n_op_cases; i++) {
        case_build b = {.c = &op_cases[i], .as_double = true, .only_row = -1};
        if (b.c->op != op) continue;
        tensor *y = case_make(&b);
        if (op_is_real(y)) {
            case_loss(&b, y);
            err bad = graph_error(b.g);
            assert_int_equal(bad.code, ERR_UNSUPPORTED);
            assert_non_null(strstr(bad.what, want));
            n++;
        }
        case_free(&b, true);
    }
    assert_true(n > 0);
}

/* ---- values: the result, then the gradient of every trained leaf ---- */

enum { MOST_ROOTS = 8 };
typedef struct {
    int n;
    tensor like[MOST_ROOTS]; /* data: owned, contiguous */
} values;

static void values_free(values *v)
{
    for (int i = 0; i < v->n; i++) mem_free(v->like[i].data);
    v->n = 0;
}

static int case_roots(case_build *b, tensor *roots[MOST_ROOTS])
{
    int n = 0;
    roots[n++] = case_make(b);
    if (!graph_error(b->g).code && op_is_real(roots[0]) && has_gradient(b->c->op) && !(b->c->flags & CASE_VALUE))
        case_loss(b, roots[0]);
    for (usize i = 0; i < b->g->n && n < MOST_ROOTS; i++)
        if (b->g->nodes[i]->grad) roots[n++] = b->g->nodes[i]->grad;
    return n;
}

static void values_take(values *v, const tensor *t)
{
    tensor *to = &v->like[v->n++];
    tensor_set(to, t->type, t->n);
    snprintf(to->name, sizeof to->name, "%s", t->name);
    to->data = mem_zero(dtype_row_bytes(to->type, to->n[0]) * (usize)tensor_rows(to));
    assert_non_null(to->data);
}

static void run_reference_kernels(case_build b, values *v)
{
    tensor *roots[MOST_ROOTS];
    int n = case_roots(&b, roots);
    ref_memory m;
    err bad = ref_bind(&m, b.g);
    if (bad.code) fail_msg("%s %s: %s", op_table[b.c->op].name, b.c->name, bad.what);
    ref_run(&m, (i32)b.g->n - 1);
    v->n = 0;
    for (int r = 0; r < n; r++) {
        values_take(v, roots[r]);
        for (i64 i = 0; i < tensor_count(roots[r]); i++) {
            const tensor *to = &v->like[r];
            ref_set(to, i % to->n[0], i / to->n[0] % to->n[1], i / (to->n[0] * to->n[1]) % to->n[2],
                    i / (to->n[0] * to->n[1] * to->n[2]), ref_at(roots[r], i));
        }
    }
    ref_free(&m);
    case_free(&b, true);
}

static err run_plan(case_build *b, pool *threads, values *v)
{
    tensor *roots[MOST_ROOTS];
    int n = case_roots(b, roots);
    backend *be = NULL;
    workspace *ws = NULL;
    plan *p = NULL;
    err bad;
    v->n = 0;
    TRY_TO(out, backend_cpu(&be, threads));
    TRY_TO(out, workspace_new(&ws, be));
    bad = plan_new(&p, b->g, ws, roots, n);
    b->g = NULL;
    if (bad.code) goto out;
    TRY_TO(out, plan_run(p));
    for (int r = 0; r < n; r++) {
        values_take(v, roots[r]);
        TRY_TO(out, tensor_get(p, roots[r], v->like[r].data));
    }
out:
    plan_free(p);
    workspace_free(ws);
    backend_close(be);
    return bad;
}

static pool *pools[3]; /* of one, two and three threads */

static void run_cpu(case_build b, cpu_level level, bool reference, int n_threads, values *v)
{
    cpu_force(level, reference); /* a backend asks when it is made */
    err bad = run_plan(&b, pools[n_threads - 1], v);
    if (bad.code) fail_msg("%s %s on %s: %s", op_table[b.c->op].name, b.c->name, cpu_name(level), bad.what);
    case_free(&b, true);
}

static double rms_of(const tensor *t)
{
    double sum = 0;
    i64 n = 0;
    for (i64 i = 0; i < tensor_count(t); i++) {
        double x = ref_at(t, i);
        if (isfinite(x)) sum += x * x, n++;
    }
    return n ? sqrt(sum / (double)n) : 0;
}

static bool close_enough(const op_case *c, const char *how, const values *found, const values *want)
{
    const double tol = c->tol > 0 ? c->tol : 1e-5;
    if (found->n != want->n) {
        print_error("%s %s, %s: %d results, expected %d\n", op_table[c->op].name, c->name, how, found->n, want->n);
        return false;
    }
    for (int r = 0; r < want->n; r++) {
        const tensor *a = &found->like[r], *b = &want->like[r];
        double scale_b = rms_of(b);
        for (i64 i = 0; i < tensor_count(b); i++) {
            double x = ref_at(a, i), y = ref_at(b, i);
            if (x == y || (isnan(x) && isnan(y)) || fabs(x - y) <= tol * (fabs(y) + scale_b)) continue;
            print_error("%s %s, %s: %s %d[%lld] is %.9g, expected %.9g (rms %.3g)\n", op_table[c->op].name, c->name, how,
                        r ? "gradient" : "result", r, (long long)i, x, y, scale_b);
            return false;
        }
    }
    return true;
}

static bool same_bits(const op_case *c, const char *how, const tensor *a, const tensor *b, usize at, usize bytes)
{
    const u8 *x = a->data, *y = (const u8 *)b->data + at;
    for (usize i = 0; i < bytes; i++)
        if (x[i] != y[i]) {
            print_error("%s %s, %s: byte %zu of %zu differs\n", op_table[c->op].name, c->name, how, i, bytes);
            return false;
        }
    return true;
}
static usize bytes_of(const tensor *t) { return dtype_row_bytes(t->type, t->n[0]) * (usize)tensor_rows(t); }

static void round_rows(void *ctx, float *x, i64 k, i64 n_rows) /* x -> d q, by the kernels' own rounding */
{
    const kern *ker = ctx;
    void *xq = mem_alloc(xq_bytes(k));
    assert_non_null(xq);
    const i64 skip = k % 32; /* the matmul sees a slice that begins there */
    k -= skip;
    for (i64 r = 0; r < n_rows; r++, x += k) {
        x += skip;
        ker->quant(x, k, xq);
        for (i64 i = 0; i < k; i++) x[i] = xq_d(xq, k)[i / 32] * (float)xq_q(xq)[i];
    }
    mem_free(xq);
}

/* what 8 bits lose: each value is off by at most half a step of max / 127, the sums by about 0.6 percent of their size */
static bool eight_bits_suffice(const op_case *c, const values *found, const values *exact)
{
    double sum = 0, all = rms_of(&exact->like[0]);
    i64 n = tensor_count(&exact->like[0]);
    for (i64 i = 0; i < n; i++) sum += pow(ref_at(&found->like[0], i) - ref_at(&exact->like[0], i), 2);
    double off = sqrt(sum / (double)n) / all;
    if (off > 0.02) print_error("%s %s: 8-bit activations are off by %.3g of the rms\n", op_table[c->op].name, c->name, off);
    return off <= 0.02;
}

/* the same rows alone, one at a time, give the bits they have in the batch */
static bool rows_stand_alone(const op_case *c, cpu_level level, const values *batch)
{
    const tensor *whole = &batch->like[0];
    case_build b = {.c = c, .only_row = -1};
    case_make(&b);
    case_free(&b, true);
    bool good = true;
    for (i64 row = 0; b.n_rows > 1 && row < b.n_rows; row++) {
        values alone = {0};
        run_cpu((case_build){.c = c, .only_row = row}, level, false, 1, &alone);
        usize each = bytes_of(whole) / (usize)b.n_rows;
        assert_int_equal(bytes_of(&alone.like[0]), each);
        good = same_bits(c, "one row against the batch", &alone.like[0], whole, each * (usize)row, each) && good;
        values_free(&alone);
    }
    return good;
}

static bool case_runs(const op_case *c)
{
    const case_build all = {.c = c, .only_row = -1};
    values exact, want = {0}, first = {0};
    bool good = true;
    run_reference_kernels(all, &exact);
    if (c->flags & CASE_8BIT) {
        case_build rounded = all;
        rounded.round_x = round_rows;
        rounded.round_ctx = (void *)(uintptr_t)kern_get(CPU_GENERIC);
        run_reference_kernels(rounded, &want);
    }
    for (int level = CPU_GENERIC; level <= (int)cpu_best(); level++) {
        values v = {0};
        char how[64];
        for (int n_threads = 1; n_threads <= 3; n_threads++) {
            snprintf(how, sizeof how, "%s with %d threads", cpu_name((cpu_level)level), n_threads);
            run_cpu(all, (cpu_level)level, false, n_threads, &v);
            good = close_enough(c, how, &v, want.n ? &want : &exact) && good;
            for (int r = 0; first.n && good && r < v.n; r++)
                good = same_bits(c, how, &v.like[r], &first.like[r], 0, bytes_of(&v.like[r]));
            if (!first.n)
                first = v;
            else
                values_free(&v);
        }
        if (c->flags & CASE_ROWS) good = rows_stand_alone(c, (cpu_level)level, &first) && good;
    }
    if (c->flags & CASE_8BIT) {
        values v;
        run_cpu(all, cpu_best(), true, 2, &v);
        good = close_enough(c, "float arithmetic", &v, &exact) && good;
        values_free(&v);
    }
    if (c->flags & CASE_8BIT && !(c->flags & CASE_EDGE) && tensor_count(&exact.like[0]) >= 16)
        good = eight_bits_suffice(c, &first, &exact) && good;
    values_free(&exact), values_free(&want), values_free(&first);
    return good;
}

static void on_the_cpu(void **state)
{
    const op_id op = (op_id)(intptr_t)*state;
    bool good = true;
    for (int i = 0; i < n_op_cases; i++)
        if (op_cases[i].op == op) good = case_runs(&op_cases[i]) && good;
    assert_true(good);
}

/* batches of 1..17 columns begin with the same columns: every remainder of every tile gives the same bits */
static void columns_do_not_matter(void **state)
{
    (void)state;
    bool good = true;
    for (int i = 0; i < n_op_cases && good; i++) {
        op_case c = op_cases[i];
        if (c.op != OP_MATMUL || c.n[2] != 17 || c.n[5]) continue;
        for (int level = CPU_GENERIC; level <= (int)cpu_best(); level++) {
            values all = {0};
            c.n[2] = 17;
            run_cpu((case_build){.c = &c, .only_row = -1}, (cpu_level)level, false, 1, &all);
            for (int m = 1; m < 17 && good; m++) {
                values some = {0};
                char how[64];
                c.n[2] = m;
                run_cpu((case_build){.c = &c, .only_row = -1}, (cpu_level)level, false, 1, &some);
                snprintf(how, sizeof how, "%d columns of 17 on %s", m, cpu_name((cpu_level)level));
                good = same_bits(&c, how, &some.like[0], &all.like[0], 0, bytes_of(&some.like[0]));
                values_free(&some);
            }
            values_free(&all);
        }
    }
    assert_true(good);
}

/* ---- refusals ---- */

static tensor *in(graph *g, dtype type, const char *name, i64 n0, i64 n1, i64 n2)
{
    return input(g, type, (shape){{n0, n1, n2}}, name);
}

#define REFUSED(say, ...)                                                                                                        \
    do {                                                                                                                         \
        graph *g = graph_new();                                                                                                  \
        assert_non_null(g);                                                                                                      \
        (void)(__VA_ARGS__);                                                                                                     \
        err bad = graph_error(g);                                                                                                \
        assert_int_equal(bad.code, ERR_INPUT);                                                                                   \
        if (!strstr(bad.what, say)) fail_msg("'%s' does not say '%s'", bad.what, say);                                           \
        graph_free(g);                                                                                                           \
    } while (0)

static void refusals(void **state)
{
    (void)state;
    i32 quantised[64] = {0};
    REFUSED("MATMUL: x is [8,2] f32, blk.0.attn_q is [9,4] f32; expected",
            matmul(g, in(g, F32, "", 8, 2, 1), in(g, F32, "blk.0.attn_q", 9, 4, 1)));
    REFUSED("MATMUL: x is [8,2,3] f32", matmul(g, in(g, F32, "x", 8, 2, 3), in(g, F32, "w", 8, 4, 1)));
    REFUSED("slot is [3] i32", matmul_slot(g, in(g, F32, "x", 8, 2, 1), in(g, F32, "w", 8, 4, 2), in(g, I32, "slot", 3, 1, 1)));
    REFUSED("MATMUL: source 1 is missing", matmul(g, in(g, F32, "x", 8, 2, 1), NULL));
    REFUSED("EMBED: table is [8,2] f32, ids is [3] f32", embed(g, in(g, F32, "table", 8, 2, 1), in(g, F32, "ids", 3, 1, 1)));
    REFUSED("ADD: a is [8,2] f32, b is [2] f32", add(g, in(g, F32, "a", 8, 2, 1), in(g, F32, "b", 2, 1, 1)));
    REFUSED("MUL: ids is [8] i32", mul(g, in(g, I32, "ids", 8, 1, 1), in(g, F32, "b", 8, 1, 1)));
    REFUSED("SUM_TO: x [8,2] f32 to [4,2,1,1]", sum_to(g, in(g, F32, "x", 8, 2, 1), (shape){{4, 2}}));
    REFUSED("REPEAT: x [8,2] f32 to [16,2,1,1]", repeat(g, in(g, F32, "x", 8, 2, 1), (shape){{16, 2}}));
    REFUSED("CONCAT: a is [8,2] f32, b is [7,2] f32", concat(g, in(g, F32, "a", 8, 2, 1), in(g, F32, "b", 7, 2, 1), 1));
    REFUSED("CONCAT", concat(g, in(g, F32, "a", 8, 2, 1), in(g, F32, "b", 8, 2, 1), 4));
    REFUSED("NORM: x is [8,2] f32, w is [7] f32",
            norm(g, in(g, F32, "x", 8, 2, 1), in(g, F32, "w", 7, 1, 1), NULL, NORM_RMS, 1e-5f));
    REFUSED("NORM", norm(g, in(g, F32, "x", 8, 2, 1), NULL, NULL, (norm_kind)7, 1e-5f));
    REFUSED("ROPE: x is [8,2,3] f32, pos is [4] i32",
            rope(g, in(g, F32, "x", 8, 2, 3), in(g, I32, "pos", 4, 1, 1), NULL, (rope_arg){8, true, 1e4f, 1}));
    REFUSED("even number", rope(g, in(g, F32, "x", 8, 2, 3), in(g, I32, "pos", 3, 1, 1), NULL, (rope_arg){10, true, 1e4f, 1}));
    REFUSED("KV_PUT: cache is [8,9] f16, rows is [7,2] f32",
            kv_put(g, in(g, F16, "cache", 8, 9, 1), in(g, F32, "rows", 7, 2, 1), in(g, I32, "slots", 2, 1, 1)));
    REFUSED("kv_heads dividing heads", attend(g, in(g, F32, "q", 8, 3, 4), in(g, F32, "k", 8, 2, 4), in(g, F32, "v", 8, 2, 4),
                                              in(g, I32, "span", 3, 4, 1), NULL, (attend_arg){1}));
    REFUSED("a page of at least 1", attend(g, in(g, F32, "q", 8, 2, 4), in(g, F32, "k", 8, 2, 4), in(g, F32, "v", 8, 2, 4),
                                           in(g, I32, "span", 3, 4, 1), in(g, I32, "pages", 2, 1, 1), (attend_arg){1}));
    REFUSED("ACT: ids is [8] i32", act(g, in(g, I32, "ids", 8, 1, 1), ACT_SILU));
    REFUSED("GLU: gate is [8,2] f32, up is [8] f32", glu(g, in(g, F32, "gate", 8, 2, 1), in(g, F32, "up", 8, 1, 1), ACT_SILU));
    REFUSED("SOFTMAX", softmax(g, in(g, F16, "x", 8, 2, 1)));
    REFUSED("XENT: logits is [8,2] f32, want is [3] i32", xent(g, in(g, F32, "logits", 8, 2, 1), in(g, I32, "want", 3, 1, 1)));
    REFUSED("POOL: x is [8,2] f32, span is [3] i32",
            pool_rows(g, in(g, F32, "x", 8, 2, 1), in(g, I32, "span", 3, 1, 1), POOL_MEAN));
    REFUSED("COPY", copy(g, in(g, F32, "x", 8, 2, 1), Q8_0));
    REFUSED("a different number of values", reshape(g, in(g, F32, "x", 8, 2, 1), (shape){{5, 3}}));
    REFUSED("is not contiguous", reshape(g, slice(g, in(g, F32, "x", 8, 2, 1), 0, 0, 4), (shape){{8}}));
    REFUSED("slice: [7,9) of axis 0 of x [8,2] f32", slice(g, in(g, F32, "x", 8, 2, 1), 0, 7, 2));
    REFUSED("reaches byte 68, the tensor has 64", view(g, in(g, F32, "x", 8, 2, 1), (shape){{8, 2}}, (i64[4]){4, 32, 0, 0}, 4));
    REFUSED("not whole blocks", slice(g, weight(g, Q8_0, LAYOUT_ROWS, (shape){{64, 2}}, quantised, "w"), 0, 0, 16));
    REFUSED("stay whole and adjacent", slice(g, weight(g, Q8_0, LAYOUT_ROWS, (shape){{64, 2}}, quantised, "w"), 0, 0, 32));
}

static void no_gradient_where_none_can_be(void **state)
{
    (void)state;
    graph *g = graph_new();
    tensor *q = param(g, (shape){{8, 2, 4}}, (float[64]){0}, "q"), *k = input(g, F16, (shape){{8, 2, 8}}, "k");
    tensor *span = input(g, I32, (shape){{3, 4}}, "span"), *pages = input(g, I32, (shape){{2, 1}}, "pages");
    graph_grad(g, sum_to(g, attend(g, q, k, k, span, pages, (attend_arg){.scale = 1, .page = 4}), (shape){{1}}));
    err bad = graph_error(g);
    assert_int_equal(bad.code, ERR_INPUT);
    assert_non_null(strstr(bad.what, "ATTEND: pages [2] i32 are pages of a cache"));
    graph_free(g);
}

/* ---- */

static int make_pools(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        if (pool_new(&pools[i], i + 1).code) return -1;
    return 0;
}
static int free_pools(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) pool_free(pools[i]);
    return 0;
}

int main(void)
{
    static struct CMUnitTest tests[2 * OP_COUNT + 8];
    static char names[2 * OP_COUNT][48];
    usize n = 0;
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(every_op_has_a_case);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(refusals);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(no_gradient_where_none_can_be);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(columns_do_not_matter);
    for (intptr_t op = 0; op < OP_COUNT; op++) {
        bool differs = has_gradient((op_id)op);
        snprintf(names[2 * op], sizeof *names, differs ? "gradient of %s" : "no gradient of %s", op_table[op].name);
        snprintf(names[2 * op + 1], sizeof *names, "%s on the CPU", op_table[op].name);
        tests[n++] = (struct CMUnitTest){names[2 * op], differs ? gradients : no_gradient, NULL, NULL, (void *)op};
        tests[n++] = (struct CMUnitTest){names[2 * op + 1], on_the_cpu, NULL, NULL, (void *)op};
    }
    return _cmocka_run_group_tests("ops", tests, n, make_pools, free_pools);
}
