/* tests/base/test_thread.c - static partition, the barrier with more threads than cores, the bounded queue. */
#include "base/base.h"
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <cmocka.h>

static void assert_ok(err e)
{
    if (e.code) fail_msg("%s: %s", err_name(e.code), e.what);
}

static void parts_cover_all_once(void **state)
{
    (void)state;
    for (i64 n = 0; n < 50; n++)
        for (int threads = 1; threads < 20; threads++) {
            i64 next = 0, least = n, most = 0;
            for (int t = 0; t < threads; t++) {
                i64 from, to;
                part(n, t, threads, &from, &to);
                assert_int_equal(from, next);
                least = i64_min(least, to - from);
                most = i64_max(most, to - from);
                next = to;
            }
            assert_int_equal(next, n);
            assert_true(most - least <= 1);
        }
}

enum { ROWS = 203, COLS = 131 };
typedef struct {
    pool *pool;
    float a[ROWS][COLS], x[COLS], y[ROWS], z[COLS];
    int runs[64];
} product;

/* y = A x by rows, then z = A' y by columns: the second half needs all of the first. */
static void two_products(void *ctx, int thread, int n_threads)
{
    product *p = ctx;
    i64 from, to;
    p->runs[thread]++;
    part(ROWS, thread, n_threads, &from, &to);
    for (i64 r = from; r < to; r++) {
        float sum = 0;
        for (int c = 0; c < COLS; c++) sum += p->a[r][c] * p->x[c];
        p->y[r] = sum;
    }
    pool_barrier(p->pool, thread);
    part(COLS, thread, n_threads, &from, &to);
    for (i64 c = from; c < to; c++) {
        float sum = 0;
        for (int r = 0; r < ROWS; r++) sum += p->a[r][c] * p->y[r];
        p->z[c] = sum;
    }
}

static void result_does_not_depend_on_threads(void **state)
{
    (void)state;
    static product p;
    static float want[COLS];
    rng r;
    rng_seed(&r, 7);
    for (int i = 0; i < ROWS; i++)
        for (int k = 0; k < COLS; k++) p.a[i][k] = rng_normal(&r);
    for (int k = 0; k < COLS; k++) p.x[k] = rng_normal(&r);
    static const int counts[] = {1, 2, 3, 5, 8, 17};
    for (usize i = 0; i < COUNT_OF(counts); i++) {
        assert_ok(pool_new(&p.pool, counts[i]));
        assert_int_equal(pool_threads(p.pool), counts[i]);
        for (int round = 0; round < 50; round++) {
            memset(p.runs, 0, sizeof p.runs);
            memset(p.z, 0, sizeof p.z);
            pool_run(p.pool, two_products, &p);
            for (int t = 0; t < 64; t++) assert_int_equal(p.runs[t], t < counts[i]); /* once on every worker */
            if (i == 0 && round == 0)
                memcpy(want, p.z, sizeof want);
            else
                assert_memory_equal(want, p.z, sizeof want);
        }
        pool_free(p.pool);
    }
}

typedef struct {
    pool *pool;
    atomic_int arrived, wrong;
} meeting;
enum { ROUNDS = 3000 };

static void meet(void *ctx, int thread, int n_threads)
{
    meeting *m = ctx;
    for (int round = 1; round <= ROUNDS; round++) {
        atomic_fetch_add(&m->arrived, 1);
        pool_barrier(m->pool, thread);
        if (atomic_load(&m->arrived) != round * n_threads) atomic_fetch_add(&m->wrong, 1);
        pool_barrier(m->pool, thread);
    }
}

static void barrier_with_too_few_cores(void **state)
{
    (void)state;
    static const int counts[] = {2, 4, 16};
    for (usize i = 0; i < COUNT_OF(counts); i++) {
        meeting m = {0};
        assert_ok(pool_new(&m.pool, counts[i]));
        double start = clock_s();
        pool_run(m.pool, meet, &m);
        double took = clock_s() - start;
        pool_free(m.pool);
        assert_int_equal(m.wrong, 0);
        assert_int_equal(m.arrived, ROUNDS * counts[i]);
        print_message("%d threads: %.1f us a barrier\n", counts[i], took / (2 * ROUNDS) * 1e6);
        assert_true(took < 20); /* spinning against each other would take minutes */
    }
}

static void pool_limits(void **state)
{
    (void)state;
    pool *p = (pool *)&p;
    assert_int_equal(pool_new(&p, -1).code, ERR_INPUT);
    assert_null(p);
    assert_true(cpu_count() >= 1);
    assert_ok(pool_new(&p, 0));
    assert_int_equal(pool_threads(p), cpu_count());
    pool_free(p);
    pool_free(NULL);
}

/* ---- queue ---- */
enum { SENDERS = 5, RECEIVERS = 3, EACH = 20000 };
static queue *q;
static u8 seen[SENDERS][EACH];
static atomic_int disorder;

static void *send(void *arg)
{
    uintptr_t me = (uintptr_t)arg;
    for (uintptr_t i = 0; i < EACH; i++)
        if (queue_push(q, (void *)(me * EACH + i + 1), true).code) return (void *)1;
    return NULL;
}

static void *receive(void *arg)
{
    uintptr_t last[SENDERS] = {0};
    void *item;
    (void)arg;
    while (queue_pop(q, &item, -1)) {
        uintptr_t v = (uintptr_t)item - 1, from = v / EACH, i = v % EACH;
        if (last[from] > i) atomic_fetch_add(&disorder, 1); /* one sender's items stay in order */
        last[from] = i;
        seen[from][i]++;
    }
    return NULL;
}

static void queue_with_many_senders(void **state)
{
    (void)state;
    pthread_t senders[SENDERS], receivers[RECEIVERS];
    assert_ok(queue_new(&q, 16));
    for (int i = 0; i < RECEIVERS; i++) assert_int_equal(pthread_create(&receivers[i], NULL, receive, NULL), 0);
    for (int i = 0; i < SENDERS; i++) assert_int_equal(pthread_create(&senders[i], NULL, send, (void *)(intptr_t)i), 0);
    for (int i = 0; i < SENDERS; i++) {
        void *failed;
        pthread_join(senders[i], &failed);
        assert_null(failed);
    }
    queue_close(q); /* what is inside still comes out */
    for (int i = 0; i < RECEIVERS; i++) pthread_join(receivers[i], NULL);
    assert_int_equal(disorder, 0);
    for (int s = 0; s < SENDERS; s++)
        for (int i = 0; i < EACH; i++) assert_int_equal(seen[s][i], 1);
    queue_free(q);
}

static void *push_waiting(void *arg)
{
    (void)arg;
    return (void *)(intptr_t)queue_push(q, &q, true).code;
}

static void queue_full_late_closed(void **state)
{
    (void)state;
    void *item;
    int a, b;
    assert_int_equal(queue_new(&q, 0).code, ERR_INPUT);
    assert_null(q);
    assert_ok(queue_new(&q, 2));
    assert_false(queue_pop(q, &item, 0));
    double start = clock_s();
    assert_false(queue_pop(q, &item, 0.05));
    double took = clock_s() - start;
    assert_true(took > 0.045 && took < 5);
    assert_ok(queue_push(q, &a, false));
    assert_ok(queue_push(q, &b, false));
    assert_int_equal(queue_push(q, &a, false).code, ERR_BUSY);
    pthread_t t;
    void *code;
    pthread_create(&t, NULL, push_waiting, NULL);
    struct timespec moment = {0, 10000000};
    nanosleep(&moment, NULL);
    queue_close(q); /* wakes the one that waits for room */
    pthread_join(t, &code);
    assert_int_equal((intptr_t)code, ERR_CANCELLED);
    assert_int_equal(queue_push(q, &a, true).code, ERR_CANCELLED);
    assert_true(queue_pop(q, &item, -1) && item == &a);
    assert_true(queue_pop(q, &item, 0) && item == &b);
    assert_false(queue_pop(q, &item, -1));
    queue_free(q);
    queue_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_cover_all_once),       cmocka_unit_test(result_does_not_depend_on_threads),
        cmocka_unit_test(barrier_with_too_few_cores), cmocka_unit_test(pool_limits),
        cmocka_unit_test(queue_with_many_senders),    cmocka_unit_test(queue_full_late_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
