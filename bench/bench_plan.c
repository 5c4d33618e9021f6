/* bench/bench_plan.c - what a node costs apart from its arithmetic: plans of about 400 nodes so small that dispatch and barriers
 * are all there is. `chain` is additions, `layers` the ops of a decoder that reads one token (a matmul in 8 bits is two steps),
 * `rope` the rotations of that decoder alone, with heads of 128. The best of several rounds, in microseconds a run and a node. */
#include "tensor/internal.h"
#include <stdlib.h>

enum { WIDTH = 64, HEADS = 2, LAYERS = 18, ROUNDS = 7, MOST_LEAVES = 16 };
typedef struct {
    graph *g;
    void *owned[MOST_LEAVES];
    int n_owned;
    i64 m;
} bench;

static void fail(const char *what)
{
    fprintf(stderr, "bench_plan: %s\n", what);
    exit(1);
}

static void *own(bench *b, usize bytes)
{
    if (b->n_owned == MOST_LEAVES || !(b->owned[b->n_owned] = mem_zero(bytes))) fail("out of memory");
    return b->owned[b->n_owned++];
}

static tensor *floats(bench *b, i64 n0, i64 n1)
{
    float *f = own(b, sizeof *f * (usize)(n0 * n1));
    for (i64 i = 0; i < n0 * n1; i++) f[i] = (float)(i % 13) * 0.1f - 0.6f;
    return weight(b->g, F32, LAYOUT_ROWS, (shape){{n0, n1}}, f, "floats");
}

static tensor *codes(bench *b, i64 k, i64 n)
{
    return weight(b->g, Q8_0, LAYOUT_R8, (shape){{k, n}}, own(b, weight_bytes(Q8_0, LAYOUT_R8, k, n)), "codes");
}

static tensor *chain(bench *b)
{
    tensor *x = floats(b, WIDTH, b->m), *y = x;
    for (int i = 0; i < 400; i++) y = add(b->g, y, x);
    return y;
}

static tensor *layers(bench *b)
{
    graph *g = b->g;
    const i64 head = WIDTH / HEADS;
    tensor *x = floats(b, WIDTH, b->m), *w = codes(b, WIDTH, WIDTH), *one = floats(b, WIDTH, 1);
    tensor *pos = weight(g, I32, LAYOUT_ROWS, (shape){{b->m}}, own(b, sizeof(i32) * (usize)b->m), "pos");
    i32 *span = own(b, sizeof *span * 3 * (usize)b->m);
    for (i64 r = 0; r < b->m; r++) span[3 * r + 2] = 1;
    tensor *cache = weight(g, F16, LAYOUT_ROWS, (shape){{WIDTH, 16}}, own(b, 2 * WIDTH * 16), "cache");
    tensor *seen = weight(g, I32, LAYOUT_ROWS, (shape){{3, b->m}}, span, "span");
    const rope_arg turn = {.dims = (int)head, .neox = true, .theta = 10000, .scale = 1};
    const attend_arg how = {.scale = 0.1f, .page = 16};
    for (int l = 0; l < LAYERS; l++) {
        tensor *h = norm(g, x, one, NULL, NORM_RMS, 1e-5f);
        tensor *q = reshape(g, matmul(g, h, w), (shape){{head, HEADS, b->m}}),
               *k = reshape(g, matmul(g, h, w), (shape){{head, HEADS, b->m}});
        tensor *v = matmul(g, h, w);
        q = rope(g, q, pos, NULL, turn), k = rope(g, k, pos, NULL, turn);
        k = reshape(g, kv_put(g, cache, reshape(g, k, (shape){{WIDTH, b->m}}), pos), (shape){{head, HEADS, 16}});
        v = reshape(g, kv_put(g, cache, v, pos), (shape){{head, HEADS, 16}});
        tensor *a = reshape(g, attend(g, q, k, v, seen, NULL, how), (shape){{WIDTH, b->m}});
        x = add(g, x, matmul(g, a, w));
        h = norm(g, x, one, NULL, NORM_RMS, 1e-5f);
        h = glu(g, matmul(g, h, w), matmul(g, h, w), ACT_SILU);
        x = add(g, x, matmul(g, h, w));
    }
    return x;
}

static tensor *ropes(bench *b)
{
    tensor *x = weight(b->g, F32, LAYOUT_ROWS, (shape){{128, 8, b->m}}, own(b, sizeof(float) * 1024 * (usize)b->m), "x");
    tensor *pos = weight(b->g, I32, LAYOUT_ROWS, (shape){{b->m}}, own(b, sizeof(i32) * (usize)b->m), "pos");
    for (int i = 0; i < 2 * LAYERS; i++)
        x = rope(b->g, x, pos, NULL, (rope_arg){.dims = 128, .neox = true, .theta = 1e6f, .scale = 1});
    return x;
}

static void measure(const char *name, tensor *(*build)(bench *), i64 m, int n_threads)
{
    bench b = {.g = graph_new(), .m = m};
    pool *threads = NULL;
    backend *be = NULL;
    workspace *ws = NULL;
    plan *p = NULL;
    if (!b.g) fail("out of memory");
    tensor *root = build(&b);
    err bad = pool_new(&threads, n_threads);
    if (!bad.code) bad = backend_cpu(&be, threads);
    if (!bad.code) bad = workspace_new(&ws, be);
    if (!bad.code) bad = plan_new(&p, b.g, ws, &root, 1);
    if (bad.code) fail(bad.what);
    int n_runs = 1;
    double best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        double start = clock_s();
        for (int i = 0; i < n_runs; i++) (void)plan_run(p);
        double took = clock_s() - start;
        if (took / n_runs < best) best = took / n_runs;
        if (took < 0.02) n_runs *= 2, round = -1;
    }
    printf("%-7s rows %3lld threads %d  nodes %4d  %9.1f us a run  %7.3f us a node\n", name, (long long)m, n_threads, p->n_order,
           best * 1e6, best * 1e6 / p->n_order);
    plan_free(p);
    workspace_free(ws);
    backend_close(be);
    pool_free(threads);
    for (int i = 0; i < b.n_owned; i++) mem_free(b.owned[i]);
}

int main(void)
{
    for (int n_threads = 1; n_threads <= 2; n_threads++) {
        measure("chain", chain, 1, n_threads);
        measure("layers", layers, 1, n_threads);
        measure("rope", ropes, 1, n_threads);
        measure("layers", layers, 64, n_threads);
        measure("rope", ropes, 64, n_threads);
    }
    return 0;
}
