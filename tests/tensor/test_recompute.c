/* tests/tensor/test_recompute.c - graph_recompute: with any number of segments computed again, a training step has the bits it
 * has without, and takes less memory; a first gradient, a dropout, values shared by blocks, kept values and caches written in
 * place come out as before. Scratch is filled with NaN before each run: a value read before it was written, or after it died,
 * shows. */
#include "tensor/internal.h"
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

enum { HD = 16, HEADS = 4, KV = 2, D = HD * HEADS, WIDE = 160, ROWS = 52, BLOCKS = 6, MOST_PARAMS = 80, SLOTS = 5 };

static pool *pools[3];

static void must(err bad)
{
    if (bad.code) fail_msg("%s: %s", err_name(bad.code), bad.what);
}

typedef struct {
    graph *g;
    rng r;
    tensor *params[MOST_PARAMS], *boundaries[BLOCKS], *span, *pos, *key, *x, *slots, *kept, *loss;
    void *owned[MOST_PARAMS + 4];
    int n_params, n_owned;
} net;

static float *numbers(net *t, i64 n, float by)
{
    float *f = mem_array(float, n);
    assert_non_null(f);
    for (i64 i = 0; i < n; i++) f[i] = rng_normal(&t->r) * by;
    t->owned[t->n_owned++] = f;
    return f;
}

static tensor *trained(net *t, i64 n0, i64 n1)
{
    return t->params[t->n_params++] = param(t->g, (shape){{n0, n1}}, numbers(t, n0 * n1, 0.15f), "w");
}

static tensor *heads_of(net *t, tensor *x, i64 n) { return reshape(t->g, x, (shape){{HD, n, ROWS}}); }

static tensor *attention(net *t, tensor *x)
{
    graph *g = t->g;
    rope_arg a = {.dims = HD, .neox = true, .theta = 10000, .scale = 1};
    tensor *h = norm(g, x, trained(t, D, 1), NULL, NORM_RMS, 1e-5f);
    tensor *q = rope(g, heads_of(t, matmul(g, h, trained(t, D, D)), HEADS), t->pos, NULL, a);
    tensor *kv = matmul(g, h, trained(t, D, 2 * KV * HD));
    i64 stride[4] = {4, HD * 4, 2 * KV * HD * 4, 0};
    tensor *k = rope(g, view(g, kv, (shape){{HD, KV, ROWS}}, stride, 0), t->pos, NULL, a);
    tensor *v = view(g, kv, (shape){{HD, KV, ROWS}}, stride, KV * HD * 4);
    tensor *y = attend(g, q, k, v, t->span, NULL, (attend_arg){.scale = 0.25f});
    return matmul(g, reshape(g, y, (shape){{D, ROWS}}), trained(t, D, D));
}

static tensor *block(net *t, tensor *x, tensor *shared, tensor *cache, int i)
{
    graph *g = t->g;
    x = add(g, x, dropout(g, attention(t, x), t->key, 0.1f, (u32)i));
    tensor *h = norm(g, x, trained(t, D, 1), trained(t, D, 1), NORM_LAYER, 1e-5f);
    tensor *wide = glu(g, matmul(g, h, trained(t, D, WIDE)), matmul(g, h, trained(t, D, WIDE)), ACT_SILU);
    tensor *out = matmul(g, wide, trained(t, WIDE, D));
    out = mul(g, out, act(g, shared, ACT_SIGMOID));
    /* the same slots hold other rows in each block: what was read there cannot be read again */
    tensor *rows = kv_put(g, cache, slice(g, t->x, 1, i, SLOTS), t->slots);
    out = mul(g, out, scale(g, slice(g, rows, 1, i % SLOTS, 1), 0.5f));
    if (i == 2) t->kept = keep(out);
    return add(g, x, out);
}

static void net_make(net *t)
{
    *t = (net){.g = graph_new()};
    assert_non_null(t->g);
    graph *g = t->g;
    rng_seed(&t->r, 7);
    t->x = input(g, F32, (shape){{D, ROWS}}, "x");
    t->span = input(g, I32, (shape){{3, ROWS}}, "span"), t->pos = input(g, I32, (shape){{ROWS}}, "pos");
    t->key = input(g, I32, (shape){{2}}, "key"), t->slots = input(g, I32, (shape){{SLOTS}}, "slots");
    tensor *cache = weight(g, F32, LAYOUT_ROWS, (shape){{D, SLOTS}}, numbers(t, D * SLOTS, 1), "cache");
    tensor *x = matmul(g, t->x, trained(t, D, D)), *shared = scale(g, x, 0.3f);
    for (int i = 0; i < BLOCKS; i++) t->boundaries[i] = x = block(t, x, shared, cache, i);
    tensor *last = norm(g, x, trained(t, D, 1), NULL, NORM_RMS, 1e-5f);
    t->loss = sum_to(g, mul(g, last, matmul(g, last, trained(t, D, D))), (shape){{1}});
    graph_grad(g, t->loss);
}

typedef struct {
    float *values; /* loss, gradients, the kept value */
    usize n, bytes, scratch, n_nodes;
} outcome;

static void net_fill(net *t, plan *p, int step)
{
    i32 span[3 * ROWS], pos[ROWS];
    for (i32 i = 0; i < ROWS; i++) {
        i32 first = i < 20 ? 0 : 20;
        span[3 * i] = 0, span[3 * i + 1] = first, span[3 * i + 2] = i + 1;
        pos[i] = i - first;
    }
    float *x = numbers(t, D * ROWS, 1);
    must(tensor_put(p, t->x, x));
    must(tensor_put(p, t->span, span));
    must(tensor_put(p, t->pos, pos));
    must(tensor_put(p, t->key, (i32[2]){11, step}));
    must(tensor_put(p, t->slots, (i32[SLOTS]){0, 1, 2, 3, 4}));
}

static void take(outcome *o, plan *p, const tensor *t)
{
    i64 n = tensor_count(t);
    must(tensor_get(p, t, o->values + o->n));
    o->n += (usize)n;
}

static outcome run_net(int keep_last, int n_threads)
{
    net t;
    backend *be;
    workspace *ws;
    plan *p;
    outcome o = {.values = mem_array(float, 1 << 20)};
    assert_non_null(o.values);
    net_make(&t);
    if (keep_last >= 0) graph_recompute(t.g, t.boundaries, BLOCKS, keep_last);
    o.n_nodes = t.g->n;
    must(backend_cpu(&be, pools[n_threads - 1]));
    must(workspace_new(&ws, be));
    must(plan_new(&p, t.g, ws, &t.loss, 1));
    o.bytes = plan_bytes(p), o.scratch = workspace_bytes(ws);
    for (int step = 0; step < 2; step++) {
        net_fill(&t, p, step);
        memset(ws->mem, 0xff, ws->n);
        must(plan_run(p));
        take(&o, p, t.loss);
        take(&o, p, t.kept);
        for (int i = 0; i < t.n_params; i++) {
            assert_non_null(t.params[i]->grad);
            take(&o, p, t.params[i]->grad);
        }
    }
    plan_free(p);
    workspace_free(ws);
    backend_close(be);
    for (int i = 0; i < t.n_owned; i++) mem_free(t.owned[i]);
    return o;
}

static void no_bit_changes_and_memory_falls(void **state)
{
    (void)state;
    outcome whole = run_net(-1, 1), before = whole;
    for (usize i = 0; i < whole.n; i++) assert_true(isfinite((double)whole.values[i]));
    for (int keep_last = BLOCKS; keep_last >= 0; keep_last--)
        for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
            outcome o = run_net(keep_last, n_threads);
            assert_int_equal(o.n, whole.n);
            if (memcmp(o.values, whole.values, sizeof *o.values * o.n))
                fail_msg("%d of %d blocks kept, %d threads: other bits", keep_last, BLOCKS, n_threads);
            if (keep_last == BLOCKS) assert_int_equal(o.n_nodes, whole.n_nodes);
            if (n_threads == 1 &&
                keep_last < BLOCKS) { /* each block that is not kept saves memory, but the last one that lives */
                assert_true(keep_last == BLOCKS - 1 || keep_last == 0 ? o.bytes <= before.bytes : o.bytes < before.bytes);
                if (keep_last == 0)
                    print_message("%zu bytes of scratch with all kept, %zu with none\n", whole.scratch, o.scratch);
                before = o;
                before.values = NULL;
            }
            mem_free(o.values);
        }
    assert_true(before.scratch < whole.scratch / 2);
    mem_free(whole.values);
}

static void what_is_refused(void **state)
{
    (void)state;
    net t;
    for (int kind = 0; kind < 5; kind++) {
        net_make(&t);
        tensor *turned[2] = {t.boundaries[1], t.boundaries[0]}, *late = t.params[0]->grad, *none = NULL;
        if (kind == 0) graph_recompute(t.g, turned, 2, 0);
        if (kind == 1) graph_recompute(t.g, &late, 1, 0);
        if (kind == 2) graph_recompute(t.g, &none, 1, 0);
        if (kind == 3) graph_recompute(t.g, t.boundaries, BLOCKS, -1);
        if (kind == 4) {
            graph_recompute(t.g, t.boundaries, BLOCKS, 1);
            must(graph_error(t.g));
            graph_recompute(t.g, t.boundaries, BLOCKS, 1);
        }
        err bad = graph_error(t.g);
        assert_int_equal(bad.code, ERR_INPUT);
        assert_non_null(strstr(bad.what, "graph_recompute: "));
        graph_free(t.g);
        for (int i = 0; i < t.n_owned; i++) mem_free(t.owned[i]);
    }
}

static void memory_may_run_out(void **state)
{
    (void)state;
    for (i64 at = 1; at < 40; at++) {
        net t;
        net_make(&t);
        must(graph_error(t.g));
        mem_fail_at(at);
        graph_recompute(t.g, t.boundaries, BLOCKS, 0);
        mem_fail_at(0);
        err bad = graph_error(t.g);
        if (bad.code) assert_int_equal(bad.code, ERR_NOMEM);
        graph_free(t.g);
        for (int i = 0; i < t.n_owned; i++) mem_free(t.owned[i]);
        if (!bad.code) return;
    }
}

int main(void)
{
    for (int i = 0; i < 3; i++)
        if (pool_new(&pools[i], i + 1).code) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_bit_changes_and_memory_falls),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(memory_may_run_out),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < 3; i++) pool_free(pools[i]);
    return failed;
}
