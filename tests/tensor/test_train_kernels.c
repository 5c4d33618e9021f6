/* tests/tensor/test_train_kernels.c - products of training and LM_LOSS at sizes of several blocks and runs, no extent a multiple
 * of anything: against sums in double over the decoded weight, for every weight type and layout; the same bits for any number of
 * threads, instruction set and batch; chunks, rows that do not count, memory while running, refusals. Small shapes and finite
 * differences stand in op_cases.c. */
#include "tensor/cpu/kern.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

static pool *pools[4]; /* of 1, 2, 3 and 5 threads */
static const int n_threads[4] = {1, 2, 3, 5};
static const struct {
    dtype type;
    layout lay;
} weights[] = {{F32, LAYOUT_ROWS},  {F16, LAYOUT_ROWS},  {BF16, LAYOUT_ROWS}, {Q8_0, LAYOUT_ROWS}, {Q8_0, LAYOUT_R8},
               {Q5_0, LAYOUT_ROWS}, {Q5_0, LAYOUT_R8},   {Q4_1, LAYOUT_ROWS}, {Q4_1, LAYOUT_R8},   {Q4_0, LAYOUT_ROWS},
               {Q4_0, LAYOUT_R8},   {Q4_K, LAYOUT_ROWS}, {Q4_K, LAYOUT_R8},   {Q6_K, LAYOUT_ROWS}, {Q6_K, LAYOUT_R8},
               {Q5_1, LAYOUT_R8},   {Q5_K, LAYOUT_R8},   {Q3_K, LAYOUT_R8},   {Q2_K, LAYOUT_R8},   {IQ4_NL, LAYOUT_R8},
               {IQ4_XS, LAYOUT_R8}, {MXFP4, LAYOUT_R8}};

typedef struct {
    dtype type;
    layout lay;
    i64 k, n, m, n_slots;
    float *x, *dy, *f; /* [k,m], [n,m], decoded w [k,n,s] */
    void *w;
    i32 *slot, *want; /* [m]; slot NULL: none */
    float *rate;      /* [m] */
} job;

static job job_make(dtype type, layout lay, i64 k, i64 n, i64 m, i64 n_slots)
{
    rng r;
    rng_seed(&r, (u64)(k * 131 + n * 17 + m));
    i64 s = n_slots ? n_slots : 1;
    usize plain = dtype_row_bytes(type, k) * (usize)n, packed = weight_bytes(type, lay, k, n);
    job j = {.type = type, .lay = lay, .k = k, .n = n, .m = m, .n_slots = n_slots};
    j.x = mem_array(float, k *m), j.dy = mem_array(float, n *m), j.f = mem_array(float, k *n *s),
    j.w = mem_zero(packed * (usize)s);
    j.want = mem_array(i32, m), j.rate = mem_array(float, m), j.slot = n_slots ? mem_array(i32, m) : NULL;
    u8 *rows = mem_zero(plain);
    assert_true(j.x && j.dy && j.f && j.w && j.want && j.rate && rows);
    for (i64 i = 0; i < k * m; i++) j.x[i] = rng_normal(&r);
    for (i64 i = 0; i < n * m; i++) j.dy[i] = rng_normal(&r);
    for (i64 i = 0; i < m; i++) {
        j.want[i] = rng_unit(&r) < 0.6 ? (i32)(rng_u64(&r) % (u64)n) : i % 2 ? -1 : (i32)n;
        j.rate[i] = (float)rng_unit(&r);
        if (n_slots) j.slot[i] = (i32)(rng_u64(&r) % (u64)(n_slots + 2)) - 1;
    }
    for (i64 at = 0; at < s; at++) {
        float *f = j.f + at * k * n;
        u8 *w = (u8 *)j.w + packed * (usize)at;
        for (i64 i = 0; i < k * n; i++) f[i] = rng_normal(&r) / sqrtf((float)k);
        dtype_table[type].encode(f, rows, k * n);
        if (lay == LAYOUT_ROWS)
            memcpy(w, rows, plain);
        else
            weight_pack(type, lay, k, n, rows, w, 0, (n + 7) / 8);
        weight_decode(type, lay, k, w, 0, n, f);
    }
    mem_free(rows);
    return j;
}
static void job_free(job *j)
{
    mem_free(j->x), mem_free(j->dy), mem_free(j->f), mem_free(j->w), mem_free(j->slot), mem_free(j->want), mem_free(j->rate);
}

/* ---- run by a plan ---- */

typedef struct {
    tensor *root[4];
    int n;
} roots;
typedef roots (*build)(graph *, const job *, i64 chunk);

static tensor *leaf(graph *g, const job *j, float *data, i64 n0, i64 n1, const char *name)
{
    (void)j;
    return weight(g, F32, LAYOUT_ROWS, (shape){{n0, n1}}, data, name);
}
static tensor *w_of(graph *g, const job *j) { return weight(g, j->type, j->lay, (shape){{j->k, j->n, j->n_slots}}, j->w, "w"); }
static tensor *slot_of(graph *g, const job *j)
{
    return j->slot ? weight(g, I32, LAYOUT_ROWS, (shape){{j->m}}, j->slot, "slot") : NULL;
}

static roots build_y(graph *g, const job *j, i64 chunk)
{
    (void)chunk;
    graph_use_float(g);
    tensor *x = leaf(g, j, j->x, j->k, j->m, "x");
    return (roots){{j->slot ? matmul_slot(g, x, w_of(g, j), slot_of(g, j)) : matmul(g, x, w_of(g, j))}, 1};
}
static roots build_x(graph *g, const job *j, i64 chunk)
{
    (void)chunk;
    tensor *src[] = {leaf(g, j, j->dy, j->n, j->m, "dy"), w_of(g, j), slot_of(g, j)};
    return (roots){{node(g, OP_MATMUL_X, (op_arg){{0}}, j->slot ? 3 : 2, src)}, 1};
}
static roots build_w(graph *g, const job *j, i64 chunk)
{
    (void)chunk;
    tensor *src[] = {leaf(g, j, j->x, j->k, j->m, "x"), leaf(g, j, j->dy, j->n, j->m, "dy"), slot_of(g, j)};
    return (roots){{node(g, OP_MATMUL_W, (op_arg){.i = {j->slot ? (i32)j->n_slots : 1}}, j->slot ? 3 : 2, src)}, 1};
}
static roots build_loss(graph *g, const job *j, i64 chunk) /* loss, rows, dx, dw of plain floats */
{
    bool with_w = j->type == F32;
    tensor *x = param(g, (shape){{j->k, j->m}}, j->x, "x");
    tensor *w = with_w ? param(g, (shape){{j->k, j->n}}, j->w, "w") : w_of(g, j);
    tensor *want = weight(g, I32, LAYOUT_ROWS, (shape){{j->m}}, j->want, "want"), *rate = leaf(g, j, j->rate, j->m, 1, "rate");
    tensor *loss = lm_loss(g, x, w, want, rate, chunk), *rows = lm_loss_rows(g, loss);
    graph_grad(g, scale(g, loss, 0.5f));
    return (roots){{loss, rows, x->grad, with_w ? w->grad : NULL}, with_w ? 4 : 3};
}

typedef struct {
    float *v[4];
    i64 n[4];
    int count;
} values;
static void values_free(values *v)
{
    for (int i = 0; i < v->count; i++) mem_free(v->v[i]);
    v->count = 0;
}

static values run(const job *j, build how, i64 chunk, pool *threads, cpu_level level)
{
    backend *be = NULL;
    workspace *ws = NULL;
    plan *p = NULL;
    values v = {.count = 0};
    graph *g = graph_new();
    assert_non_null(g);
    roots r = how(g, j, chunk);
    cpu_force(level, false);
    assert_int_equal(backend_cpu(&be, threads).code, 0);
    assert_int_equal(workspace_new(&ws, be).code, 0);
    err bad = plan_new(&p, g, ws, r.root, r.n);
    if (bad.code) fail_msg("%s", bad.what);
    mem_fail_at(1000000);
    assert_int_equal(plan_run(p).code, 0);
    assert_int_equal(plan_run(p).code, 0); /* what the first left behind does not matter */
    assert_int_equal(mem_fail_count(), 0);
    mem_fail_at(0);
    for (int i = 0; i < r.n; i++, v.count++) {
        v.n[i] = tensor_count(r.root[i]);
        v.v[i] = mem_array(float, v.n[i]);
        assert_int_equal(tensor_get(p, r.root[i], v.v[i]).code, 0);
    }
    plan_free(p);
    workspace_free(ws);
    backend_close(be);
    cpu_force(cpu_best(), false);
    return v;
}

/* ---- the same in double ---- */

static i64 matrix_of(const job *j, i64 row)
{
    return !j->slot ? 0 : j->slot[row] < 0 || j->slot[row] >= j->n_slots ? -1 : j->slot[row];
}

static void exact_y(const job *j, double *y) /* [n,m] */
{
    for (i64 r = 0; r < j->m; r++)
        for (i64 n = 0; n < j->n; n++) {
            i64 s = matrix_of(j, r);
            double sum = 0;
            for (i64 i = 0; s >= 0 && i < j->k; i++) sum += (double)j->f[(s * j->n + n) * j->k + i] * (double)j->x[r * j->k + i];
            y[r * j->n + n] = sum;
        }
}
static void exact_x(const job *j, const double *d, double *dx) /* dx [k,m] of d [n,m] */
{
    memset(dx, 0, sizeof *dx * (usize)(j->k * j->m));
    for (i64 r = 0; r < j->m; r++)
        for (i64 n = 0; n < j->n && matrix_of(j, r) >= 0; n++)
            for (i64 i = 0; i < j->k; i++)
                dx[r * j->k + i] += (double)j->f[(matrix_of(j, r) * j->n + n) * j->k + i] * d[r * j->n + n];
}
static void exact_w(const job *j, const double *d, double *dw) /* dw [k,n,s] */
{
    memset(dw, 0, sizeof *dw * (usize)(j->k * j->n * (j->n_slots ? j->n_slots : 1)));
    for (i64 r = 0; r < j->m; r++)
        for (i64 n = 0; n < j->n && matrix_of(j, r) >= 0; n++)
            for (i64 i = 0; i < j->k; i++)
                dw[(matrix_of(j, r) * j->n + n) * j->k + i] += (double)j->x[r * j->k + i] * d[r * j->n + n];
}
static double exact_loss(const job *j, double *l, double *rows) /* l [n,m]: logits, then their gradient; rows [m] */
{
    double loss = 0;
    exact_y(j, l);
    for (i64 r = 0; r < j->m; r++, l += j->n) {
        double sum = 0, rate = (double)j->rate[r];
        bool counts = j->want[r] >= 0 && j->want[r] < j->n;
        for (i64 n = 0; n < j->n; n++) sum += exp(l[n]);
        rows[r] = counts ? log(sum) - l[j->want[r]] : 0;
        loss += rate * rows[r];
        for (i64 n = 0; n < j->n; n++) l[n] = counts ? 0.5 * rate * (exp(l[n]) / sum - (n == j->want[r])) : 0;
    }
    return loss;
}

static void assert_near(const char *what, const job *j, const float *found, const double *want, i64 n, double most)
{
    double off = 0, all = 0;
    for (i64 i = 0; i < n; i++) off += ((double)found[i] - want[i]) * ((double)found[i] - want[i]), all += want[i] * want[i];
    double rel = sqrt(off / (all + 1e-12 * (double)n)); /* a vocabulary of one word has losses of zero */
    if (!(rel < most))
        fail_msg("%s over %s, layout %d, k %lld n %lld m %lld: off by %.2g", what, dtype_table[j->type].name, (int)j->lay,
                 (long long)j->k, (long long)j->n, (long long)j->m, rel);
}

static void check_products(const job *j)
{
    i64 s = j->n_slots ? j->n_slots : 1, n_y = j->n * j->m, n_x = j->k * j->m, n_w = j->k * j->n * s;
    double *want = mem_array(double, n_y + n_x + n_w), *d = mem_array(double, n_y);
    assert_true(want && d);
    for (i64 i = 0; i < n_y; i++) d[i] = (double)j->dy[i];
    values y = run(j, build_y, 0, pools[1], cpu_best()), x = run(j, build_x, 0, pools[1], cpu_best());
    values w = run(j, build_w, 0, pools[1], cpu_best());
    exact_y(j, want);
    assert_near("y", j, y.v[0], want, n_y, 1e-5);
    exact_x(j, d, want);
    assert_near("dx", j, x.v[0], want, n_x, 1e-5);
    exact_w(j, d, want);
    assert_near("dw", j, w.v[0], want, n_w, 1e-5);
    values_free(&y), values_free(&x), values_free(&w);
    mem_free(want), mem_free(d);
}

static void check_loss(const job *j, i64 chunk)
{
    double *l = mem_array(double, j->n * j->m), *rows = mem_array(double, j->m);
    double *grad = mem_array(double, j->k *(j->m > j->n ? j->m : j->n));
    assert_true(l && rows && grad);
    double loss = exact_loss(j, l, rows);
    values v = run(j, build_loss, chunk, pools[1], cpu_best());
    assert_near("loss", j, v.v[0], &loss, 1, 1e-5);
    assert_near("losses of rows", j, v.v[1], rows, j->m, 1e-5);
    exact_x(j, l, grad);
    assert_near("dx of the loss", j, v.v[2], grad, j->k * j->m, 1e-5);
    if (v.count > 3) {
        exact_w(j, l, grad);
        assert_near("dw of the loss", j, v.v[3], grad, j->k * j->n, 1e-5);
    }
    values_free(&v);
    mem_free(l), mem_free(rows), mem_free(grad);
}

static void every_type_and_layout(void **state)
{
    (void)state;
    for (usize i = 0; i < COUNT_OF(weights); i++) {
        dtype t = weights[i].type;
        i64 k = dtype_table[t].block == 1 ? 301 : dtype_table[t].block == 32 ? 416 : 768;
        for (int slots = 0; slots < 4; slots += 3) {
            job j = job_make(t, weights[i].lay, k, 277, 19, slots);
            check_products(&j);
            if (!slots) check_loss(&j, 4);
            job_free(&j);
        }
    }
}

/* groups of rows at once: the very floats of weight_decode, from any block on, and not a float beside them */
static void groups_decode_alike(void **state)
{
    (void)state;
    enum { K = 1280, STRIDE = K + 3 };
    static float found[8 * STRIDE];
    for (usize i = 0; i < COUNT_OF(weights); i++) {
        dtype t = weights[i].type;
        if (weights[i].lay != LAYOUT_R8) continue;
        job j = job_make(t, LAYOUT_R8, K, 13, 1, 0);
        const i64 block = dtype_table[t].block;
        for (int level = CPU_GENERIC; level <= (int)cpu_best(); level++)
            for (i64 from = 0; from < K; from += block)
                for (i64 n = block; n <= K - from; n += 3 * block) {
                    for (usize e = 0; e < COUNT_OF(found); e++) found[e] = 12345;
                    const u8 *second = (const u8 *)j.w + weight_bytes(t, LAYOUT_R8, K, 8);
                    kern_get((cpu_level)level)->decode8[t](second, from, n, found, STRIDE);
                    for (i64 row = 0; row < 8; row++) {
                        const float *want = j.f + (8 + row) * K + from;
                        if (row < 5) assert_memory_equal(found + row * STRIDE, want, sizeof *want * (usize)n);
                        for (i64 e = row < 5 ? n : STRIDE; e < STRIDE; e++) assert_true(found[row * STRIDE + e] == 12345);
                    }
                }
        job_free(&j);
    }
}

static void odd_shapes(void **state)
{
    (void)state;
    static const i64 shapes[][3] = {{1, 1, 1},   {17, 1, 40},    {300, 1, 1},   {1, 530, 3},
                                    {15, 33, 1}, {31, 257, 290}, {530, 7, 513}, {258, 519, 8}};
    for (usize i = 0; i < COUNT_OF(shapes); i++) {
        job j = job_make(F32, LAYOUT_ROWS, shapes[i][0], shapes[i][1], shapes[i][2], 0);
        check_products(&j);
        check_loss(&j, 0);
        job_free(&j);
    }
    for (int n = 1; n < 12; n += 5) { /* fewer rows than a group has */
        job j = job_make(Q8_0, LAYOUT_R8, 64, n, 1, 0);
        check_products(&j);
        check_loss(&j, 0);
        job_free(&j);
    }
}

static void assert_same_bits(const char *what, const values *a, const values *b)
{
    assert_int_equal(a->count, b->count);
    for (int i = 0; i < a->count; i++)
        if (memcmp(a->v[i], b->v[i], sizeof(float) * (usize)a->n[i])) fail_msg("%s: result %d has other bits", what, i);
}

static void threads_and_levels_do_not_matter(void **state)
{
    (void)state;
    static const build how[] = {build_y, build_x, build_w, build_loss};
    for (int which = 0; which < 6; which++) {
        job j = which < 3 ? job_make(F32, LAYOUT_ROWS, 333, 601, 271, 2 * (which == 1))
                          : job_make(which == 3 ? Q8_0 : Q6_K, LAYOUT_R8, 1024, 301, which == 5 ? 2 : 91, 3 * (which == 4));
        for (usize h = 0; h < COUNT_OF(how); h++) {
            if (how[h] == build_loss && j.slot) continue;
            values one = run(&j, how[h], 32, pools[0], cpu_best());
            for (int level = CPU_GENERIC; level <= (int)cpu_best(); level++)
                for (usize t = 0; t < COUNT_OF(pools); t++) {
                    char what[64];
                    values v = run(&j, how[h], 32, pools[t], (cpu_level)level);
                    snprintf(what, sizeof what, "%s with %d threads, product %zu", cpu_name((cpu_level)level), n_threads[t], h);
                    assert_same_bits(what, &one, &v);
                    values_free(&v);
                }
            values_free(&one);
        }
        job_free(&j);
    }
}

/* a row alone has the bits that it has in the batch, at sizes of several runs of terms */
static void rows_stand_alone(void **state)
{
    (void)state;
    job j = job_make(Q4_0, LAYOUT_R8, 544, 523, 23, 0);
    values y = run(&j, build_y, 0, pools[1], cpu_best()), x = run(&j, build_x, 0, pools[1], cpu_best());
    for (i64 r = 0; r < j.m; r += 4) {
        job one = j;
        one.m = 1, one.x = j.x + r * j.k, one.dy = j.dy + r * j.n;
        values a = run(&one, build_y, 0, pools[2], cpu_best()), b = run(&one, build_x, 0, pools[2], cpu_best());
        assert_memory_equal(a.v[0], y.v[0] + r * j.n, sizeof(float) * (usize)j.n);
        assert_memory_equal(b.v[0], x.v[0] + r * j.k, sizeof(float) * (usize)j.k);
        values_free(&a), values_free(&b);
    }
    values_free(&y), values_free(&x);
    job_free(&j);
}

static void chunks_do_not_matter(void **state)
{
    (void)state;
    job j = job_make(F32, LAYOUT_ROWS, 97, 211, 301, 0);
    values whole = run(&j, build_loss, 301, pools[1], cpu_best());
    static const i64 chunks[] = {0, 1, 2, 7, 64, 100, 1000};
    for (usize c = 0; c < COUNT_OF(chunks); c++) {
        values v = run(&j, build_loss, chunks[c], pools[1], cpu_best());
        for (int i = 0; i < v.count; i++) {
            double *want = mem_array(double, v.n[i]);
            for (i64 e = 0; e < v.n[i]; e++) want[e] = (double)whole.v[i][e];
            assert_near("any chunk against one", &j, v.v[i], want, v.n[i], 1e-6);
            mem_free(want);
        }
        for (int i = 1; i < 3; i++) /* of a row: the very bits */
            assert_memory_equal(v.v[i], whole.v[i], sizeof(float) * (usize)v.n[i]);
        values_free(&v);
    }
    values_free(&whole);
    job_free(&j);
}

static void rows_that_do_not_count_are_not_read(void **state)
{
    (void)state;
    job j = job_make(F32, LAYOUT_ROWS, 61, 90, 37, 0);
    values before = run(&j, build_loss, 8, pools[1], cpu_best());
    i64 skipped = 0;
    for (i64 r = 0; r < j.m; r++)
        if (j.want[r] < 0 || j.want[r] >= j.n) {
            for (i64 i = 0; i < j.k; i++) j.x[r * j.k + i] = NAN;
            j.rate[r] = NAN;
            skipped++;
            assert_true(before.v[1][r] == 0);
            for (i64 i = 0; i < j.k; i++) assert_true(before.v[2][r * j.k + i] == 0);
        }
    assert_true(skipped > 3 && skipped < j.m - 3);
    values after = run(&j, build_loss, 8, pools[1], cpu_best());
    assert_same_bits("rows that do not count", &before, &after);
    values_free(&before), values_free(&after);
    job_free(&j);
}

static void logits_of_all_rows_do_not_exist(void **state)
{
    (void)state;
    job j = job_make(F32, LAYOUT_ROWS, 8, 5000, 512, 0);
    usize bytes[2];
    for (int i = 0; i < 2; i++) {
        backend *be = NULL;
        workspace *ws = NULL;
        plan *p = NULL;
        graph *g = graph_new();
        roots r = build_loss(g, &j, i ? 512 : 16);
        assert_int_equal(backend_cpu(&be, pools[0]).code, 0);
        assert_int_equal(workspace_new(&ws, be).code, 0);
        assert_int_equal(plan_new(&p, g, ws, r.root, r.n).code, 0);
        bytes[i] = plan_bytes(p);
        plan_free(p), workspace_free(ws), backend_close(be);
    }
    job_free(&j);
    assert_int_equal(bytes[1] - bytes[0], (512 - 16) * 5000 * sizeof(float));
}

static void refused(tensor *(*make)(graph *, const job *), const job *j, const char *say)
{
    graph *g = graph_new();
    assert_non_null(g);
    tensor *loss = make(g, j);
    graph_grad(g, loss);
    err bad = graph_error(g);
    assert_int_equal(bad.code, ERR_INPUT);
    if (!strstr(bad.what, say)) fail_msg("'%s' does not say '%s'", bad.what, say);
    graph_free(g);
}
static tensor *loss_over(graph *g, const job *j, tensor *w, i64 chunk)
{
    tensor *want = weight(g, I32, LAYOUT_ROWS, (shape){{j->m}}, j->want, "want");
    return lm_loss(g, param(g, (shape){{j->k, j->m}}, j->x, "x"), w, want, leaf(g, j, j->rate, j->m, 1, "rate"), chunk);
}
static tensor *of_rows(graph *g, const job *j)
{
    tensor *loss = loss_over(g, j, w_of(g, j), 0);
    return add(g, loss, sum_to(g, lm_loss_rows(g, loss), (shape){{1}}));
}
static tensor *of_packed(graph *g, const job *j)
{
    tensor *w = w_of(g, j);
    w->flags |= T_PARAM;
    return loss_over(g, j, w, 0);
}
static tensor *of_other_k(graph *g, const job *j)
{
    return loss_over(g, j, weight(g, F32, LAYOUT_ROWS, (shape){{j->k / 2, j->n}}, j->w, "w"), 0);
}
static tensor *of_bad_chunk(graph *g, const job *j) { return loss_over(g, j, w_of(g, j), -3); }
static tensor *of_no_loss(graph *g, const job *j) { return lm_loss_rows(g, leaf(g, j, j->rate, j->m, 1, "rate")); }

static void refusals(void **state)
{
    (void)state;
    job j = job_make(Q8_0, LAYOUT_R8, 64, 24, 5, 0);
    refused(of_rows, &j, "LM_LOSS: a gradient of the rows' losses is wanted");
    refused(of_packed, &j, "LM_LOSS: w [64,24] q8_0 cannot be trained");
    refused(of_other_k, &j, "LM_LOSS: x is [64,5] f32, w is [32,24] f32");
    refused(of_bad_chunk, &j, "a chunk of 0 (chosen) or more rows");
    refused(of_no_loss, &j, "lm_loss_rows: expected a result of lm_loss");
    job_free(&j);
}

static int make_pools(void **state)
{
    (void)state;
    for (usize i = 0; i < COUNT_OF(pools); i++)
        if (pool_new(&pools[i], n_threads[i]).code) return -1;
    return 0;
}
static int free_pools(void **state)
{
    (void)state;
    for (usize i = 0; i < COUNT_OF(pools); i++) pool_free(pools[i]);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_and_layout),
        cmocka_unit_test(groups_decode_alike),
        cmocka_unit_test(odd_shapes),
        cmocka_unit_test(threads_and_levels_do_not_matter),
        cmocka_unit_test(rows_stand_alone),
        cmocka_unit_test(chunks_do_not_matter),
        cmocka_unit_test(rows_that_do_not_count_are_not_read),
        cmocka_unit_test(logits_of_all_rows_do_not_exist),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, make_pools, free_pools);
}
