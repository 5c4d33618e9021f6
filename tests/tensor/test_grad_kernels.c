/* tests/tensor/test_grad_kernels.c - the kernels of the backward pass beyond the small cases of op_cases.c: attention's gradient
 * on rows of many blocks, shared among threads either way, against the reference kernels; its cost; masks of dropout; sums of
 * very many rows; no gradient by a reference kernel, no memory taken while running. */
#include "ref_run.h"
#include "tensor/cpu/cpu.h"
#include "tensor/op.h"
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

enum { MOST_THREADS = 5 };
static pool *pools[MOST_THREADS]; /* of 1..5 threads */

static void must(err bad)
{
    if (bad.code) fail_msg("%s: %s", err_name(bad.code), bad.what);
}

static float *floats(u64 seed, i64 n)
{
    float *f = mem_array(float, n);
    rng r;
    rng_seed(&r, seed);
    assert_non_null(f);
    for (i64 i = 0; i < n; i++) f[i] = rng_normal(&r);
    return f;
}

/* ---- attention --------------------------------------------------------------------------------------------------------------
 */

enum { CAUSAL, WHOLE, CROSSED, PREFIX, HOLES };
typedef struct {
    const char *name;
    int hd, heads, kv_heads, m, slots, sequences, spans, window;
    float softcap;
} shape_case;

static const shape_case cases[] = {
    {"one long sequence", 64, 3, 1, 150, 150, 1, CAUSAL, 0, 0},
    {"packed, eight heads to one", 64, 8, 1, 130, 130, 3, CAUSAL, 0, 0},
    {"whole sequences", 128, 2, 2, 100, 100, 2, WHOLE, 0, 0},
    {"heads of no whole 16", 200, 2, 2, 70, 70, 1, CAUSAL, 0, 2},
    {"more heads than a block has columns", 16, 60, 1, 20, 20, 2, CAUSAL, 0, 0},
    {"window", 64, 2, 2, 200, 200, 1, CAUSAL, 30, 0},
    {"rows see the other half", 32, 4, 2, 120, 120, 2, CROSSED, 0, 0},
    {"keys before the rows", 32, 4, 2, 60, 150, 1, PREFIX, 0, 1.5f},
    {"rows that see nothing", 16, 3, 3, 90, 110, 4, HOLES, 20, 0},
    {"one row", 64, 4, 2, 1, 1, 1, CAUSAL, 0, 0},
};

typedef struct {
    graph *g;
    tensor *loss, *leaf[3];
    float *data[4];
    i32 *span;
} attention;

static attention attention_new(const shape_case *c)
{
    attention a = {.g = graph_new()};
    assert_non_null(a.g);
    const i64 n_q = (i64)c->hd * c->heads * c->m, n_k = (i64)c->hd * c->kv_heads * c->slots;
    shape rows = {{c->hd, c->heads, c->m}}, keys = {{c->hd, c->kv_heads, c->slots}};
    a.span = mem_array(i32, 3 * c->m);
    assert_non_null(a.span);
    for (i32 i = 0; i < c->m; i++) {
        i32 each = (c->m + c->sequences - 1) / c->sequences, first = i / each * each, end = (i32)i64_min(first + each, c->m);
        i32 *s = a.span + 3 * i;
        s[1] = first, s[2] = i + 1;
        if (c->spans == WHOLE) s[2] = end;
        if (c->spans == CROSSED) s[1] = first ? 0 : each, s[2] = first ? i - each + 1 : each + i + 1;
        if (c->spans == PREFIX) s[2] = c->slots - c->m + i + 1;
        if (c->spans == HOLES && i % 7 == 3) s[2] = s[1];
        if (c->spans == HOLES && i % 11 == 5) s[2] = c->slots + 1;
    }
    for (int i = 0; i < 4; i++) a.data[i] = floats((u64)(31 + i), i == 1 || i == 2 ? n_k : n_q);
    for (int i = 0; i < 3; i++) a.leaf[i] = param(a.g, i ? keys : rows, a.data[i], "qkv");
    tensor *span = weight(a.g, I32, LAYOUT_ROWS, (shape){{3, c->m}}, a.span, "span");
    tensor *by = weight(a.g, F32, LAYOUT_ROWS, rows, a.data[3], "by");
    attend_arg arg = {.scale = 1 / sqrtf((float)c->hd), .softcap = c->softcap, .window = c->window};
    tensor *y = attend(a.g, a.leaf[0], a.leaf[1], a.leaf[2], span, NULL, arg);
    a.loss = sum_to(a.g, mul(a.g, y, by), (shape){{1}});
    graph_grad(a.g, a.loss);
    must(graph_error(a.g));
    return a;
}

static void attention_free(attention *a, bool graph_too)
{
    if (graph_too) graph_free(a->g);
    for (int i = 0; i < 4; i++) mem_free(a->data[i]);
    mem_free(a->span);
}

/* the gradients of q, k and v, one after another; seconds of the best of some runs */
static float *attention_run(const shape_case *c, int n_threads, i64 *n, int runs, double *seconds)
{
    attention a = attention_new(c);
    backend *be;
    workspace *ws;
    plan *p;
    must(backend_cpu(&be, pools[n_threads - 1]));
    must(workspace_new(&ws, be));
    must(plan_new(&p, a.g, ws, &a.loss, 1));
    memset(ws->mem, 0xff, ws->n);
    *seconds = INFINITY;
    for (int i = 0; i < runs; i++) {
        double start = clock_s();
        must(plan_run(p));
        *seconds = fmin(*seconds, clock_s() - start);
    }
    *n = tensor_count(a.leaf[0]) + 2 * tensor_count(a.leaf[1]);
    float *all = mem_array(float, *n), *at = all;
    assert_non_null(all);
    for (int i = 0; i < 3; i++) {
        must(tensor_get(p, a.leaf[i]->grad, at));
        at += tensor_count(a.leaf[i]);
    }
    plan_free(p);
    workspace_free(ws);
    backend_close(be);
    attention_free(&a, false);
    return all;
}

static void near_reference(const shape_case *c, const float *found)
{
    attention a = attention_new(c);
    ref_memory memory = {0};
    must(ref_bind(&memory, a.g));
    ref_run(&memory, (i32)a.g->n - 1);
    for (int t = 0; t < 3; t++) {
        double size = 0;
        i64 n = tensor_count(a.leaf[t]);
        for (i64 i = 0; i < n; i++) size += pow(ref_at(a.leaf[t]->grad, i), 2);
        size = sqrt(size / (double)n);
        for (i64 i = 0; i < n; i++, found++) {
            double want = ref_at(a.leaf[t]->grad, i);
            if (!(fabs((double)*found - want) <= 1e-5 * (fabs(want) + size) + 5e-7)) /* one key: all of dq cancels */
                fail_msg("%s: d%c[%d] is %.9g, expected %.9g (rms %.3g)", c->name, "qkv"[t], (int)i, (double)*found, want, size);
        }
    }
    ref_free(&memory);
    attention_free(&a, true);
}

static void attention_of_many_blocks(void **state)
{
    (void)state;
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        i64 n;
        double seconds;
        float *one = attention_run(&cases[i], 1, &n, 1, &seconds);
        near_reference(&cases[i], one);
        for (int level = CPU_GENERIC; level <= (int)cpu_best(); level++)
            for (int n_threads = 1; n_threads <= MOST_THREADS; n_threads++) {
                cpu_force((cpu_level)level, false);
                float *some = attention_run(&cases[i], n_threads, &n, 1, &seconds);
                if (memcmp(one, some, sizeof *one * (usize)n))
                    fail_msg("%s: %s with %d threads gives other bits", cases[i].name, cpu_name((cpu_level)level), n_threads);
                mem_free(some);
            }
        mem_free(one);
    }
    cpu_force(cpu_best(), false);
}

static void a_row_costs_what_it_sees(void **state)
{
    (void)state;
    const shape_case whole = {"", 64, 2, 1, 768, 768, 1, CAUSAL, 0, 0}, packed = {"", 64, 2, 1, 768, 768, 24, CAUSAL, 0, 0};
    i64 n;
    double long_s, short_s;
    mem_free(attention_run(&whole, 1, &n, 5, &long_s));
    mem_free(attention_run(&packed, 1, &n, 5, &short_s)); /* a 24th of the pairs */
    if (short_s * 3 > long_s) fail_msg("768 rows take %.3g s in one sequence, %.3g s in 24", long_s, short_s);
}

/* ---- dropout ------------------------------------------------------------------------------------------------------------------
 */

enum { MANY = 60000 };
static u8 *mask_of(float p, u32 site, i32 seed, i32 number, bool gradient) /* 1: stays; values are checked here */
{
    backend *be;
    workspace *ws;
    plan *pl;
    graph *g = graph_new();
    assert_non_null(g);
    float *x = floats(5, MANY), *by = floats(6, MANY);
    i32 key[2] = {seed, number};
    tensor *in = param(g, (shape){{MANY}}, x, "x"), *k = weight(g, I32, LAYOUT_ROWS, (shape){{2}}, key, "key");
    tensor *y = dropout(g, in, k, p, site),
           *loss = sum_to(g, mul(g, y, weight(g, F32, LAYOUT_ROWS, (shape){{MANY}}, by, "by")), (shape){{1}});
    graph_grad(g, loss);
    must(backend_cpu(&be, pools[1]));
    must(workspace_new(&ws, be));
    must(plan_new(&pl, g, ws, (tensor *[]){y, loss}, 2));
    must(plan_run(pl));
    const float *out = tensor_peek(pl, gradient ? in->grad : y), *from = gradient ? by : x;
    u8 *mask = mem_alloc(MANY);
    assert_true(out && mask);
    for (int i = 0; i < MANY; i++) {
        mask[i] = out[i] != 0;
        assert_true(!mask[i] || fabs((double)(out[i] * (1 - p) - from[i])) <= 1e-6 * fabs((double)from[i]));
    }
    plan_free(pl);
    workspace_free(ws);
    backend_close(be);
    mem_free(x), mem_free(by);
    return mask;
}

static void share_is(const u8 *a, const u8 *b, int shift, double want, const char *what) /* of elements where a and b differ */
{
    int n = 0;
    for (int i = 0; i + shift < MANY; i++) n += a[i] != (b ? b[i + shift] : 0);
    double found = (double)n / (MANY - shift), sigma = sqrt(want * (1 - want) / MANY);
    if (fabs(found - want) > 5 * sigma) fail_msg("%s: %.4f, expected %.4f +- %.4f", what, found, want, sigma);
}

static void masks_of_dropout(void **state)
{
    (void)state;
    static const float ps[] = {0.05f, 0.5f, 0.9f};
    for (usize i = 0; i < COUNT_OF(ps); i++) {
        const double p = (double)ps[i], differ = 2 * p * (1 - p);
        u8 *first = mask_of(ps[i], 3, 1, 1, false), *again = mask_of(ps[i], 3, 1, 1, true);
        u8 *site = mask_of(ps[i], 4, 1, 1, false), *seed = mask_of(ps[i], 3, 2, 1, false), *next = mask_of(ps[i], 3, 1, 2, false);
        u8 *turned = mask_of(ps[i], 1, 3, 1, false);
        assert_memory_equal(first, again, MANY);
        share_is(first, NULL, 0, 1 - p, "elements that stay");
        share_is(first, site, 0, differ, "another site");
        share_is(first, seed, 0, differ, "another seed");
        share_is(first, next, 0, differ, "the next step");
        share_is(first, turned, 0, differ, "seed and site exchanged");
        for (int shift = 1; shift <= 64; shift *= 2) share_is(first, first, shift, differ, "neighbours");
        for (int shift = 1; shift <= 2; shift++) share_is(first, next, shift, differ, "the next step, moved");
        mem_free(first), mem_free(again), mem_free(site), mem_free(seed), mem_free(next), mem_free(turned);
    }
}

static void what_dropout_refuses(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        graph *g = graph_new();
        tensor *x = input(g, F32, (shape){{8}}, "x"), *key = input(g, I32, (shape){{kind == 0 ? 3 : 2}}, "key");
        tensor *y = dropout(g, x, kind == 1 ? x : key, kind == 2 ? 1 : kind == 3 ? -0.1f : 0.5f, 0);
        assert_true(y != x);
        err bad = graph_error(g);
        assert_int_equal(bad.code, ERR_INPUT);
        assert_non_null(strstr(bad.what, "DROPOUT: x is [8] f32"));
        graph_free(g);
    }
    graph *g = graph_new();
    tensor *x = input(g, F32, (shape){{8}}, "x");
    assert_true(dropout(g, x, input(g, I32, (shape){{2}}, "key"), 0, 0) == x);
    graph_free(g);
}

/* ---- sums of many rows; no reference kernels, no memory
 * -------------------------------------------------------------------------- */

static void many_rows_sum_well(void **state)
{
    (void)state;
    enum { N = 40, M = 30000 };
    backend *be;
    workspace *ws;
    plan *p;
    graph *g = graph_new();
    assert_non_null(g);
    float *x = floats(8, N * M), *found[2];
    for (i64 i = 0; i < N * M; i++) x[i] = x[i] * 0.1f + 1; /* sums grow steadily: the hard case */
    tensor *in = weight(g, F32, LAYOUT_ROWS, (shape){{N, M}}, x, "x");
    tensor *rows = sum_to(g, in, (shape){{N}}), *all = sum_to(g, in, (shape){{1}});
    must(backend_cpu(&be, pools[2]));
    must(workspace_new(&ws, be));
    must(plan_new(&p, g, ws, (tensor *[]){rows, all}, 2));
    must(plan_run(p));
    found[0] = (float *)(uintptr_t)tensor_peek(p, rows), found[1] = (float *)(uintptr_t)tensor_peek(p, all);
    double total = 0;
    for (int i = 0; i < N; i++) {
        double want = 0;
        for (i64 r = 0; r < M; r++) want += (double)x[r * N + i];
        total += want;
        assert_true(fabs((double)found[0][i] - want) <= 5e-6 * want);
    }
    assert_true(fabs((double)*found[1] - total) <= 1e-7 * total);
    plan_free(p);
    workspace_free(ws);
    backend_close(be);
    mem_free(x);
}

static void gradients_are_fast_and_take_no_memory(void **state)
{
    (void)state;
    enum { HD = 16, D = 2 * HD, M = 40, V = 50, S = 3 };
    backend *be;
    workspace *ws;
    plan *p;
    graph *g = graph_new();
    assert_non_null(g);
    float *f[8];
    i32 ids[M], span[3 * M], pools_of[2 * S] = {0, 10, 10, 30, 30, 40}, key[2] = {1, 2}, want[S] = {3, 0, 7};
    const i64 sizes[] = {D * V, D, D, D, D};
    for (int i = 0; i < 5; i++) f[i] = floats((u64)i, sizes[i]);
    for (int i = 0; i < M; i++) ids[i] = i * 7 % V, span[3 * i] = 0, span[3 * i + 1] = 0, span[3 * i + 2] = i + 1;
#define INTS(a, ...) weight(g, I32, LAYOUT_ROWS, (shape){{__VA_ARGS__}}, a, #a)
    tensor *x = embed(g, param(g, (shape){{D, V}}, f[0], "table"), INTS(ids, M));
    tensor *h = norm(g, x, param(g, (shape){{D}}, f[1], "w"), param(g, (shape){{D}}, f[2], "b"), NORM_LAYER, 1e-5f);
    tensor *heads = reshape(g, dropout(g, h, INTS(key, 2), 0.2f, 1), (shape){{HD, 2, M}});
    tensor *y = attend(g, heads, heads, heads, INTS(span, 3, M), NULL, (attend_arg){.scale = 0.2f});
    y = norm(g, reshape(g, y, (shape){{D, M}}), param(g, (shape){{D}}, f[3], "w"), NULL, NORM_RMS, 1e-5f);
    y = add(g, concat(g, slice(g, y, 0, 0, HD), slice(g, h, 0, HD, HD), 0),
            repeat(g, param(g, (shape){{D}}, f[4], "row"), (shape){{D, M}}));
    y = pool_rows(g, softmax(g, y), INTS(pools_of, 2, S), POOL_MEAN);
    tensor *loss = sum_to(g, xent(g, norm(g, y, NULL, NULL, NORM_L2, 1e-6f), INTS(want, S)), (shape){{1}});
    graph_grad(g, loss);
    must(graph_error(g));
    must(backend_cpu(&be, pools[2]));
    must(workspace_new(&ws, be));
    must(plan_new(&p, g, ws, &loss, 1));
    for (int i = 0; i < p->n_order; i++) {
        cpu_plan cp = {0};
        step_pair pair = {{0}};
        if (!step_choose((cpu_backend *)be, &cp, p->order[i], &pair))
            fail_msg("%s runs by a reference kernel", op_table[p->order[i]->op].name);
    }
    mem_fail_at(1); /* the first would fail */
    must(plan_run(p));
    must(plan_run(p));
    assert_int_equal(mem_fail_count(), 0);
    mem_fail_at(0);
    assert_true(isfinite((double)*(const float *)tensor_peek(p, loss)));
    plan_free(p);
    workspace_free(ws);
    backend_close(be);
    for (int i = 0; i < 5; i++) mem_free(f[i]);
}

int main(void)
{
    for (int i = 0; i < MOST_THREADS; i++)
        if (pool_new(&pools[i], i + 1).code) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_of_many_blocks), cmocka_unit_test(a_row_costs_what_it_sees),
        cmocka_unit_test(masks_of_dropout),         cmocka_unit_test(what_dropout_refuses),
        cmocka_unit_test(many_rows_sum_well),       cmocka_unit_test(gradients_are_fast_and_take_no_memory),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < MOST_THREADS; i++) pool_free(pools[i]);
    return failed;
}
