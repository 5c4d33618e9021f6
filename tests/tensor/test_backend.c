/* tests/tensor/test_backend.c - the CPU backend apart from single ops: bits do not depend on the number of threads, also where
 * rows are fewer than threads or the last group of a weight is not full; caches live from run to run and beside other plans;
 * two rows for one slot; running takes no memory. */
#include "tensor/internal.h"
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

enum { MOST_THREADS = 5 };
static pool *pools[MOST_THREADS]; /* of 1..5 threads */

static void must(err bad)
{
    if (bad.code) fail_msg("%s: %s", err_name(bad.code), bad.what);
}

typedef struct {
    backend *be;
    workspace *ws;
} device;

static device device_of(int n_threads)
{
    device d;
    must(backend_cpu(&d.be, pools[n_threads - 1]));
    must(workspace_new(&d.ws, d.be));
    return d;
}

static void device_free(device d)
{
    workspace_free(d.ws);
    backend_close(d.be);
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

/* ---- matmul over groups of eight rows -----------------------------------------------------------------------------------------
 */
static float *multiply(dtype type, const void *packed, const float *x, i64 k, i64 n, i64 m, int n_threads)
{
    device d = device_of(n_threads);
    graph *g = graph_new();
    plan *p;
    assert_non_null(g);
    tensor *in = input(g, F32, (shape){{k, m}}, "x");
    tensor *y = matmul(g, in, weight(g, type, LAYOUT_R8, (shape){{k, n}}, (void *)(uintptr_t)packed, "w"));
    must(plan_new(&p, g, d.ws, &y, 1));
    float *out = mem_array(float, n *m + 1);
    assert_non_null(out);
    out[n * m] = 12345;
    must(tensor_put(p, in, x));
    memset(d.ws->mem, 0xff, d.ws->n);
    must(plan_run(p));
    must(tensor_get(p, y, out));
    assert_true(out[n * m] == 12345);
    plan_free(p);
    device_free(d);
    return out;
}

static void part_groups_and_threads(void **state)
{
    (void)state;
    static const dtype types[] = {Q8_0, Q4_0, Q4_1, Q5_0, Q4_K, Q6_K, Q5_1, Q5_K, Q3_K, Q2_K, IQ4_NL, IQ4_XS, MXFP4};
    static const i64 rows[] = {1, 17, 257}, outs[] = {1, 7, 8, 13, 43};
    const i64 k = 256;
    float *x = floats(1, k * 257);
    for (usize t = 0; t < COUNT_OF(types); t++)
        for (usize o = 0; o < COUNT_OF(outs); o++) {
            const i64 n = outs[o];
            float *f = floats(2, k * n), *plain = mem_array(float, k *n);
            u8 *rows_of = mem_zero(dtype_row_bytes(types[t], k) * (usize)n),
               *w = mem_zero(weight_bytes(types[t], LAYOUT_R8, k, n));
            assert_true(plain && rows_of && w);
            dtype_table[types[t]].encode(f, rows_of, k * n);
            weight_pack(types[t], LAYOUT_R8, k, n, rows_of, w, 0, (n + 7) / 8);
            weight_decode(types[t], LAYOUT_R8, k, w, 0, n, plain);
            float *first = multiply(types[t], w, x, k, n, 257, 1);
            for (i64 r = 0; r < 257; r += 64) /* near the product in doubles: 8 bits lose about half a percent of the size */
                for (i64 i = 0; i < n; i++) {
                    double sum = 0, size = 0;
                    for (i64 j = 0; j < k; j++)
                        sum += (double)plain[i * k + j] * (double)x[r * k + j],
                            size += (double)(plain[i * k + j] * plain[i * k + j]);
                    double off = sum - (double)first[r * n + i];
                    assert_true(off * off <= 9 * 0.01 * 0.01 * size);
                }
            for (usize m = 0; m < COUNT_OF(rows); m++)
                for (int n_threads = 1; n_threads <= MOST_THREADS; n_threads++) {
                    float *y = multiply(types[t], w, x, k, n, rows[m], n_threads);
                    if (memcmp(y, first, sizeof *y * (usize)(n * rows[m])))
                        fail_msg("%s [%d,%d] x %d rows: %d threads give other bits", dtype_table[types[t]].name, (int)k, (int)n,
                                 (int)rows[m], n_threads);
                    mem_free(y);
                }
            mem_free(f), mem_free(plain), mem_free(rows_of), mem_free(w), mem_free(first);
        }
    mem_free(x);
}

/* ---- caches -------------------------------------------------------------------------------------------------------------------
 */
typedef struct {
    plan *p;
    tensor *rows, *slots, *span, *full, *y;
} stream;
enum { D = 64, SLOTS = 6 };

/* one row a run into the next slot of a cache, read by attention and as it is; memory NULL: the plan keeps the cache itself */
static stream stream_new(device d, dtype type, void *memory, i64 m)
{
    graph *g = graph_new();
    stream s;
    assert_non_null(g);
    s.rows = input(g, F32, (shape){{D, m}}, "rows"), s.slots = input(g, I32, (shape){{m}}, "slots");
    s.span = input(g, I32, (shape){{3, m}}, "span");
    tensor *cache = weight(g, type, LAYOUT_ROWS, (shape){{D, SLOTS}}, memory, "cache");
    if (!memory) keep(cache);
    s.full = kv_put(g, cache, s.rows, s.slots);
    tensor *keys = reshape(g, s.full, (shape){{D / 4, 4, SLOTS}}), *q = reshape(g, s.rows, (shape){{D / 4, 4, m}});
    s.y = attend(g, q, keys, keys, s.span, NULL, (attend_arg){.scale = 0.25f});
    must(plan_new(&s.p, g, d.ws, (tensor *[]){s.y, s.full}, 2));
    return s;
}

static void stream_step(stream *s, const float *rows, const i32 *slots, i64 m, int end)
{
    i32 span[3 * 8] = {0};
    for (i64 r = 0; r < m; r++) span[3 * r + 2] = end;
    must(tensor_put(s->p, s->rows, rows));
    must(tensor_put(s->p, s->slots, slots));
    must(tensor_put(s->p, s->span, span));
    must(plan_run(s->p));
}

static void caches_outlive_runs(void **state)
{
    (void)state;
    float *rows = floats(3, D * SLOTS), *wide = floats(7, D * 8), y[2][D], held[D * SLOTS];
    for (int outside = 0; outside < 2; outside++) {
        device d = device_of(2);
        float *memory = outside ? mem_array(float, D *SLOTS) : NULL;
        stream s = stream_new(d, F32, memory, 1), other = {0};
        for (i32 i = 0; i < SLOTS; i++) {
            stream_step(&s, rows + D * i, &i, 1, i + 1);
            if (i == 2) other = stream_new(d, F16, NULL, 8); /* the workspace grows */
            if (i > 2) stream_step(&other, wide, (i32[8]){0, 1, 2, 3, 4, 5, -1, -1}, 8, SLOTS);
            must(tensor_get(s.p, s.full, held));
            assert_memory_equal(held, rows, sizeof *held * D * (usize)(i + 1));
        }
        if (memory) assert_memory_equal(memory, rows, sizeof held);
        must(tensor_get(s.p, s.y, y[outside]));
        plan_free(other.p);
        plan_free(s.p);
        device_free(d);
        mem_free(memory);
    }
    assert_memory_equal(y[0], y[1], sizeof y[0]);
    mem_free(rows), mem_free(wide);
}

static void the_later_of_two_rows_stays(void **state)
{
    (void)state;
    float *rows = floats(4, D * 8);
    const i32 slots[8] = {2, 2, 0, 2, 0, 7, -1, 2}; /* 7 and -1 are no slots */
    for (int type = 0; type < 2; type++)
        for (int n_threads = 1; n_threads <= MOST_THREADS; n_threads++) {
            device d = device_of(n_threads);
            u16 half[D * SLOTS];
            float full[D * SLOTS];
            stream s = stream_new(d, type ? F16 : F32, NULL, 8);
            for (int run = 0; run < 20; run++) {
                stream_step(&s, rows, slots, 8, 1);
                must(tensor_get(s.p, s.full, type ? (void *)half : full));
                for (int i = 0; type && i < D * SLOTS; i++) full[i] = f16_to_f32(half[i]);
                for (int i = 0; i < D; i++) {
                    float last = rows[7 * D + i], zero = rows[4 * D + i];
                    assert_true(full[2 * D + i] == (type ? f16_to_f32(f32_to_f16(last)) : last));
                    assert_true(full[i] == (type ? f16_to_f32(f32_to_f16(zero)) : zero));
                    assert_true(full[D + i] == 0);
                }
            }
            plan_free(s.p);
            device_free(d);
        }
    mem_free(rows);
}

/* ---- running takes no memory, and rotations share their angles without mixing them
 * ---------------------------------------------- */
static void running_takes_no_memory(void **state)
{
    (void)state;
    float *rows = floats(5, D);
    device d = device_of(3);
    stream s = stream_new(d, F16, NULL, 1);
    mem_fail_at(1); /* the first would fail */
    for (i32 i = 0; i < SLOTS; i++) stream_step(&s, rows, &i, 1, i + 1);
    assert_int_equal(mem_fail_count(), 0);
    mem_fail_at(0);
    plan_free(s.p);
    device_free(d);
    mem_free(rows);
}

static void rotations_keep_their_angles_apart(void **state)
{
    (void)state;
    enum { HD = 16, HEADS = 3, M = 40, N = 12 };
    float *x = floats(6, HD * HEADS * M), factors[8] = {1, 2, 4, 1, 1, 3, 1, 1}, *want = NULL;
    i32 pos[2][M];
    for (int i = 0; i < M; i++) pos[0][i] = i, pos[1][i] = 3 * i % 17;
    const usize n = sizeof *x * HD * HEADS * M;
    for (int joined = 0; joined < 2; joined++) /* each in a plan of its own, then all in one: more kinds than are remembered */
        for (int from = 0; from < N; from += joined ? N : 1) {
            device d = device_of(1 + joined);
            graph *g = graph_new();
            plan *p;
            tensor *roots[N], *in = weight(g, F32, LAYOUT_ROWS, (shape){{HD, HEADS, M}}, x, "x");
            tensor *tf = weight(g, F32, LAYOUT_ROWS, (shape){{HD / 2}}, factors, "factors"), *tp[2];
            for (int i = 0; i < 2; i++) tp[i] = weight(g, I32, LAYOUT_ROWS, (shape){{M}}, pos[i], "pos");
            int n_roots = 0;
            for (int i = from; i < (joined ? N : from + 1); i++)
                roots[n_roots++] =
                    rope(g, in, tp[i & 1], i & 2 ? tf : NULL,
                         (rope_arg){.dims = HD, .neox = i % 5 == 0, .theta = i < 8 ? 10000 : 500, .scale = i < 4 ? 1 : 0.25f});
            must(plan_new(&p, g, d.ws, roots, n_roots));
            must(plan_run(p));
            if (!want) want = mem_alloc(n * N);
            assert_non_null(want);
            for (int i = 0; i < n_roots; i++) {
                if (!joined)
                    must(tensor_get(p, roots[i], (u8 *)want + n * (usize)from));
                else
                    assert_memory_equal(tensor_peek(p, roots[i]), (u8 *)want + n * (usize)i, n);
            }
            plan_free(p);
            device_free(d);
        }
    mem_free(want), mem_free(x);
}

static void limits_are_measured(void **state)
{
    (void)state;
    machine_limits l;
    machine_measure(pools[1], &l);
    assert_true(l.read_gbps > 0.1 && l.int8_gops > 0.1 && l.f32_gflops > 0.1);
}

int main(void)
{
    for (int i = 0; i < MOST_THREADS; i++)
        if (pool_new(&pools[i], i + 1).code) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(part_groups_and_threads),           cmocka_unit_test(caches_outlive_runs),
        cmocka_unit_test(the_later_of_two_rows_stays),       cmocka_unit_test(running_takes_no_memory),
        cmocka_unit_test(rotations_keep_their_angles_apart), cmocka_unit_test(limits_are_measured),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < MOST_THREADS; i++) pool_free(pools[i]);
    return failed;
}
