/* tests/rag/test_vectors.c - the vector index gives what an exhaustive scan in double gives, at every CPU level, and survives
 * damage. */
#include "../support/support.h"
#include "index_files.h"
#include <math.h>

typedef struct {
    float *v;   /* [n][dim] unit */
    i64 *chunk; /* [n] */
    usize n;
    i64 dim;
    vector_index *x;
} world;

static void to_unit(float *v, i64 dim)
{
    double sum = 0;
    for (i64 i = 0; i < dim; i++) sum += (double)v[i] * v[i];
    for (i64 i = 0; i < dim; i++) v[i] = (float)(v[i] / sqrt(sum));
}

typedef enum {
    RANDOM,
    CLUSTERED /* closer together than 8 bits can tell */,
    CROWDED /* all near one direction */,
    ALIKE /* few different ones */
} cloud;

static void fill(rng *r, cloud s, const float *centre, float *v, i64 dim)
{
    float noise = s == RANDOM ? 1.0f : s == CLUSTERED ? 0.003f : s == CROWDED ? 0.3f : 0.0f;
    u64 which = s == RANDOM ? 0 : s == CROWDED ? 1 : 1 + rng_u64(r) % 8;
    for (i64 i = 0; i < dim; i++) v[i] = (which ? centre[(i64)(which - 1) * dim + i] : 0) + noise * rng_normal(r);
    to_unit(v, dim);
}

/* windows: vectors per chunk, 1 to 3; chunk keys in any order when `shuffled` */
static world world_make(cloud s, usize n, i64 dim, bool windows, bool shuffled, u64 seed)
{
    world w = {mem_array(float, (i64)n *dim), mem_array(i64, n), n, dim, NULL};
    float *centre = mem_array(float, 8 * dim);
    rng r;
    rng_seed(&r, seed);
    for (i64 i = 0; i < 8 * dim; i++) centre[i] = rng_normal(&r);
    i64 key = 0;
    for (usize i = 0; i < n; i++) {
        if (!i || !windows || rng_u64(&r) % 2) key += 1 + (i64)(rng_u64(&r) % 5);
        w.chunk[i] = shuffled ? key * 7919 % 100003 : key;
        fill(&r, s, centre, w.v + (i64)i * dim, dim);
    }
    vector_builder *b;
    assert_ok(vector_builder_new(&b, dim));
    for (usize i = 0; i < n; i++) assert_ok(vector_builder_add(b, w.chunk[i], w.chunk[i] % 10, w.v + (i64)i * dim));
    assert_ok(vector_builder_write(b, index_path(), 9));
    assert_ok(vector_open(&w.x, index_path()));
    assert_int_equal(vector_generation(w.x), 9);
    assert_int_equal(vector_dim(w.x), dim);
    unlink(index_path());
    mem_free(centre);
    return w;
}

static void world_free(world *w)
{
    vector_close(w->x);
    mem_free(w->v);
    mem_free(w->chunk);
}

typedef struct {
    i64 chunk;
    double score;
} truth;

static int by_truth(const void *a, const void *b)
{
    const truth *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score ? 1 : -1) : x->chunk < y->chunk ? -1 : x->chunk > y->chunk;
}

static int by_key(const void *a, const void *b)
{
    const truth *x = a, *y = b;
    return x->chunk != y->chunk ? (x->chunk < y->chunk ? -1 : 1) : by_truth(a, b);
}

static bool keep_some(void *ctx, i64 chunk, i64 owner)
{
    (void)ctx;
    assert_int_equal(owner, chunk % 10);
    return owner % 3 == 0;
}

/* every chunk that passes with its best double score, best first; owned */
static truth *exhaustive(const world *w, const float *q, bool filtered, usize *n)
{
    truth *t = mem_array(truth, w->n);
    usize all = 0;
    *n = 0;
    for (usize i = 0; i < w->n; i++) {
        double s = 0;
        for (i64 k = 0; k < w->dim; k++) s += (double)q[k] * w->v[(i64)i * w->dim + k];
        if (!filtered || w->chunk[i] % 10 % 3 == 0) t[all++] = (truth){w->chunk[i], s};
    }
    qsort(t, all, sizeof *t, by_key); /* the best of each chunk first */
    for (usize i = 0; i < all; i++)
        if (!*n || t[*n - 1].chunk != t[i].chunk) t[(*n)++] = t[i];
    qsort(t, *n, sizeof *t, by_truth);
    return t;
}

static void check(const world *w, const float *q, bool filtered, usize most)
{
    search_filter f = {keep_some, NULL};
    vector_hit *h;
    usize n, n_all;
    float least, mean;
    double sum = 0;
    truth *t = exhaustive(w, q, filtered, &n_all);
    assert_ok(vector_search(w->x, q, filtered ? &f : NULL, most, &h, &n, &least, &mean));
    assert_int_equal(n, most < n_all ? most : n_all);
    for (usize i = 0; i < n; i++) {
        /* the same chunk; or two so near that the order of summing in double decides */
        if (h[i].chunk != t[i].chunk) assert_true(fabs(h[i].cosine - t[i].score) < 1e-7);
        assert_true(fabs(h[i].cosine - t[i].score) < 1e-7);
        if (i) assert_true(h[i - 1].cosine >= h[i].cosine);
        float one;
        assert_ok(vector_cosine(w->x, q, &h[i].chunk, 1, &one));
        assert_true(one == h[i].cosine);
    }
    for (usize i = 0; i < n_all; i++) sum += t[i].score;
    if (n_all) assert_true(fabs(mean - sum / (double)n_all) < 0.002 && fabs(least - t[n_all - 1].score) < 0.02);
    mem_free(h);
    mem_free(t);
}

static void check_world(cloud s, usize n, i64 dim, bool windows, bool shuffled)
{
    world w = world_make(s, n, dim, windows, shuffled, (u64)dim + n);
    rng r;
    rng_seed(&r, 77);
    float *q = mem_array(float, dim), *none = mem_array(float, 8 * dim);
    for (int i = 0; i < 12; i++) {
        if (i % 3)
            memcpy(q, w.v + (i64)(rng_u64(&r) % n) * dim, (usize)dim * sizeof *q); /* one of them, or near one */
        else
            fill(&r, RANDOM, none, q, dim);
        if (i % 3 == 2) q[0] += 0.01f, to_unit(q, dim);
        check(&w, q, i % 2, (usize[]){1, 10, 100, n + 5}[i % 4]);
    }
    mem_free(q);
    mem_free(none);
    world_free(&w);
}

static void test_exact(void **state)
{
    (void)state;
    for (int level = CPU_GENERIC; level <= (int)cpu_best(); level++) {
        cpu_force((cpu_level)level, false);
        for (int s = RANDOM; s <= ALIKE; s++) {
            check_world((cloud)s, 1500, 96, false, false);
            check_world((cloud)s, 1100, 100, true, true);
            check_world((cloud)s, 300, 384, true, false);
        }
        check_world(RANDOM, 7, 1, true, false);
        check_world(RANDOM, 50, 3, false, true);
        check_world(CROWDED, 40, 4096, true, false);
    }
    cpu_force(cpu_best(), false);
}

/* ties go to the smaller key, whatever the order of adding */
static void test_ties(void **state)
{
    (void)state;
    vector_builder *b;
    vector_index *x;
    vector_hit *h;
    usize n;
    const float v[3] = {0.6f, 0.8f, 0}, other[3] = {0, 0, 1};
    assert_ok(vector_builder_new(&b, 3));
    for (i64 i = 20; i-- > 0;) assert_ok(vector_builder_add(b, i * 2, 0, i == 7 ? other : v));
    assert_ok(vector_builder_write(b, index_path(), 1));
    assert_ok(vector_open(&x, index_path()));
    assert_ok(vector_search(x, v, NULL, 9, &h, &n, NULL, NULL));
    assert_int_equal(n, 9);
    for (usize i = 0; i < n; i++) assert_int_equal(h[i].chunk, 2 * (i64)(i + (i >= 7)));
    mem_free(h);
    assert_ok(vector_search(x, v, NULL, 0, &h, &n, NULL, NULL));
    assert_int_equal(n, 0);
    float out[4];
    assert_ok(vector_cosine(x, v, (const i64[]){14, 2, 3, -5}, 4, out));
    assert_true(out[0] == 0 && fabsf(out[1] - 1) < 1e-6f && out[2] == -1 && out[3] == -1);
    vector_close(x);
    unlink(index_path());
}

static void test_empty_and_wrong(void **state)
{
    (void)state;
    vector_builder *b;
    vector_index *x;
    vector_hit *h;
    usize n;
    float least, mean, v[4] = {1, 0, 0, 0}, far[4] = {3, 0, 0, 0}, bad[4] = {NAN, 0, 0, 0}, zero[4] = {0};
    assert_int_equal(vector_builder_new(&b, 0).code, ERR_INPUT);
    assert_int_equal(vector_builder_new(&b, 1 << 20).code, ERR_INPUT);
    assert_ok(vector_builder_new(&b, 4));
    assert_int_equal(vector_builder_add(b, 1, 1, far).code, ERR_INPUT);
    assert_int_equal(vector_builder_add(b, 1, 1, bad).code, ERR_INPUT);
    assert_int_equal(vector_builder_add(b, 1, 1, zero).code, ERR_INPUT);
    assert_ok(vector_builder_write(b, index_path(), 1));
    assert_ok(vector_open(&x, index_path()));
    assert_ok(vector_search(x, v, NULL, 10, &h, &n, &least, &mean));
    assert_true(n == 0 && least == 0 && mean == 0);
    mem_free(h);
    assert_int_equal(vector_search(x, bad, NULL, 10, &h, &n, &least, &mean).code, ERR_INPUT);
    float out = 0;
    assert_ok(vector_cosine(x, v, (const i64[]){1}, 1, &out));
    assert_true(out == -1);
    vector_close(x);
    unlink(index_path());
    assert_int_equal(vector_open(&x, "/nonexistent/vectors.idx").code, ERR_NOTFOUND);
    assert_null(x);
    vector_close(NULL);
    vector_builder_drop(NULL);
}

/* the sum of products must not overflow at the largest values and dimensions */
static void test_extremes(void **state)
{
    (void)state;
    const i64 dims[] = {64, 512, 513, 4096, 65536};
    for (usize d = 0; d < COUNT_OF(dims); d++) {
        i64 dim = dims[d];
        float *v = mem_array(float, dim);
        vector_builder *b;
        vector_index *x;
        vector_hit *h;
        usize n;
        float least, mean;
        for (i64 i = 0; i < dim; i++) v[i] = (float)(1 / sqrt((double)dim));
        assert_ok(vector_builder_new(&b, dim));
        assert_ok(vector_builder_add(b, 1, 0, v));
        for (i64 i = 0; i < dim; i++) v[i] = -v[i];
        assert_ok(vector_builder_add(b, 2, 0, v));
        assert_ok(vector_builder_write(b, index_path(), 1));
        for (int level = CPU_GENERIC; level <= (int)cpu_best(); level++) {
            cpu_force((cpu_level)level, false);
            assert_ok(vector_open(&x, index_path()));
            assert_ok(vector_search(x, v, NULL, 2, &h, &n, &least, &mean));
            assert_true(n == 2 && h[0].chunk == 2 && fabsf(h[0].cosine - 1) < 1e-5f && fabsf(h[1].cosine + 1) < 1e-5f);
            assert_true(fabsf(least + 1) < 1e-3f && fabsf(mean) < 1e-3f);
            mem_free(h);
            vector_close(x);
        }
        cpu_force(cpu_best(), false);
        unlink(index_path());
        mem_free(v);
    }
}

/* ---- damage ------------------------------------------------------------------------------------------------------- */
static bool use(const char *path, const float *q, i64 dim)
{
    vector_index *x;
    vector_hit *h;
    usize n;
    float least, mean, out[2];
    err bad = vector_open(&x, path);
    if (bad.code) {
        assert_int_equal(bad.code, ERR_FORMAT);
        return false;
    }
    if (vector_dim(x) == dim) {
        bad = vector_search(x, q, NULL, 3, &h, &n, &least, &mean);
        if (bad.code) assert_int_equal(bad.code, ERR_FORMAT);
        assert_true(n <= 3);
        mem_free(h);
        err also = vector_cosine(x, q, (const i64[]){4, 5}, 2, out);
        if (also.code) assert_int_equal(also.code, ERR_FORMAT);
        if (also.code) bad = also;
    }
    vector_close(x);
    return !bad.code;
}

static void test_damage(void **state)
{
    (void)state;
    world w = world_make(RANDOM, 12, 20, true, false, 1);
    vector_builder *b;
    buf whole = {0};
    assert_ok(vector_builder_new(&b, w.dim));
    for (usize i = 0; i < w.n; i++) assert_ok(vector_builder_add(b, w.chunk[i], 0, w.v + (i64)i * w.dim));
    assert_ok(vector_builder_write(b, index_path(), 1));
    assert_true(use(index_path(), w.v, w.dim));
    assert_ok(file_read(&whole, index_path(), 0));
    u8 *copy = mem_alloc(whole.n);
    for (usize i = 0; i < whole.n; i++) {
        memcpy(copy, whole.p, whole.n);
        copy[i] ^= (u8)(1 << i % 8);
        assert_true(index_write(index_path(), copy, whole.n));
        assert_false(use(index_path(), w.v, w.dim)); /* one block: every flipped bit is seen */
        for (int j = 0; j < 3; j++) {
            copy[i] = (u8)(j == 0 ? 0xFF : j == 1 ? 0x7F : 0x80);
            index_repair(copy, whole.n);
            assert_true(index_write(index_path(), copy, whole.n));
            use(index_path(), w.v, w.dim);
        }
    }
    for (usize n = 0; n < whole.n; n += n < 600 ? 1 : 37) {
        assert_true(index_write(index_path(), whole.p, n));
        assert_false(use(index_path(), w.v, w.dim));
    }
    unlink(index_path());
    mem_free(copy);
    buf_free(&whole);
    world_free(&w);
}

static err make_and_use(void)
{
    vector_builder *b;
    vector_index *x;
    vector_hit *h;
    usize n;
    float least, mean, v[4] = {0.5f, 0.5f, 0.5f, 0.5f};
    TRY(vector_builder_new(&b, 4));
    for (i64 i = 0; i < 9; i++) {
        err bad = vector_builder_add(b, i, i, v);
        if (bad.code) return vector_builder_drop(b), bad;
    }
    TRY(vector_builder_write(b, index_path(), 1));
    TRY(vector_open(&x, index_path()));
    err bad = vector_search(x, v, NULL, 3, &h, &n, &least, &mean);
    mem_free(h);
    vector_close(x);
    return bad;
}

static void test_out_of_memory(void **state)
{
    (void)state;
    for (i64 n = 1;; n++) {
        usize before = mem_now();
        mem_fail_at(n);
        err bad = make_and_use();
        mem_fail_at(0);
        assert_int_equal(mem_now(), before);
        if (!bad.code) break;
        assert_int_equal(bad.code, ERR_NOMEM);
    }
    unlink(index_path());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),    cmocka_unit_test(test_ties),   cmocka_unit_test(test_empty_and_wrong),
        cmocka_unit_test(test_extremes), cmocka_unit_test(test_damage), cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
