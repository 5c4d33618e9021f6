/* The engine under pressure, on a model that the test makes: more requests than the KV cache holds, closing in any order and in the
 * middle of work, cancelling, misuse. What a request says never depends on any of it. Run it with SAN=address and SAN=thread. */
#include "../model/tiny.h"
#include "engine/engine.h"
#include <pthread.h>
#include <time.h>

static char folder[200], path[256];

static int make_model(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    tiny        t = tiny_of("llama", Q8_0);
    snprintf(folder, sizeof folder, "%s/maru-life-XXXXXX", tmp && strlen(tmp) < 150 ? tmp : "/tmp");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/tiny.gguf", folder);
    tiny_write(path, &t);
    return 0;
}

static int drop_model(void **state)
{
    (void)state;
    return file_remove_tree(folder).code ? -1 : 0;
}

static void nap(double seconds) { nanosleep(&(struct timespec){(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)}, NULL); }

static engine *open_with(i64 kv_tokens, int max_seqs, int threads)
{
    engine *e;
    assert_ok(engine_open(&e, path, &(engine_opts){.threads = threads, .kv_tokens = kv_tokens, .max_seqs = max_seqs}));
    return e;
}

enum { PROMPT = 70 };
typedef struct {
    engine     *e;
    session    *s;
    i32         prompt[PROMPT], id[256];
    i64         n, most;
    usize       n_prompt;
    u64         owner;
    bool        keep;                       /* the session is closed by another */
    double      pause;                      /* between tokens, of the caller */
    i64         cancel_at;
    atomic_bool cancel;
    err         bad; int code;
    gen_result  res;
    float      *score;
} talker;

static void talker_init(talker *t, engine *e, int which, i64 most)
{
    memset(t, 0, sizeof *t);
    t->e = e, t->most = most, t->owner = (u64)which;
    t->n_prompt = (usize)(10 + which * 7 % (PROMPT - 10));
    for (usize i = 0; i < PROMPT; i++) t->prompt[i] = (i32)((usize)(which % 5) * 31 + i * 17) % 300;
}

static err on_token(void *ctx, const gen_token *g)
{
    talker *t = ctx;
    if (t->n < 256) t->id[t->n] = g->id;
    t->n++;
    if (t->cancel_at && t->n == t->cancel_at) atomic_store(&t->cancel, true);
    if (t->pause > 0) nap(t->pause);
    return OK;
}

static void talker_run(talker *t, session *s)
{
    gen_request q = {.ids = t->prompt, .n = t->n_prompt, .max_tokens = t->most, .ignore_end = true, .sample = {.top_p = 1, .repeat_penalty = 1}, .token = on_token, .ctx = t, .cancel = &t->cancel, .score = t->score};
    t->code = session_generate(s, &q, &t->res).code;
}

static void *talk(void *ctx)
{
    talker  *t = ctx;
    session *s = t->s;
    if (!s && (t->code = session_open(&s, t->e, t->owner).code)) return NULL;
    talker_run(t, s);
    if (!t->keep) session_close(s);
    return NULL;
}

static void start_all(pthread_t *th, talker *t, int n)
{
    for (int i = 0; i < n; i++) assert_int_equal(pthread_create(&th[i], NULL, talk, &t[i]), 0);
}
static void join_all(pthread_t *th, int n)
{
    for (int i = 0; i < n; i++) pthread_join(th[i], NULL);
}

static void more_than_the_cache_holds(void **state)
{
    (void)state;
    enum { N = 10 };
    static talker alone[N], t[N];
    pthread_t     th[N];
    engine       *roomy = open_with(0, 0, 1);
    for (int i = 0; i < N; i++) {
        talker_init(&alone[i], roomy, i, 120 + i);
        talk(&alone[i]);
        assert_int_equal(alone[i].code, ERR_OK);
    }
    engine_close(roomy);
    for (int seqs = 2; seqs <= 16; seqs *= 2) { /* 256 positions; each wants up to 200 */
        engine *e = open_with(256, seqs, 1);
        for (int i = 0; i < N; i++) talker_init(&t[i], e, i, 120 + i);
        start_all(th, t, N);
        join_all(th, N);
        for (int i = 0; i < N; i++) {
            assert_int_equal(t[i].code, ERR_OK);
            assert_int_equal(t[i].res.finish, FINISH_LENGTH);
            assert_int_equal(t[i].n, alone[i].n);
            assert_memory_equal(t[i].id, alone[i].id, sizeof *t[i].id * (usize)t[i].n);
        }
        engine_close(e);
    }
}

static void scores_find_room(void **state)
{
    (void)state;
    engine  *e = open_with(256, 4, 1);
    session *idle[3], *s;
    talker   t, busy[3];
    float    want[PROMPT], have[PROMPT];
    talker_init(&t, e, 9, 0);
    t.score = want;
    assert_ok(session_open(&s, e, 77));
    talker_run(&t, s);
    assert_int_equal(t.code, ERR_OK);
    for (int i = 0; i < 3; i++) { /* idle sessions that hold every page */
        assert_ok(session_open(&idle[i], e, (u64)i));
        talker_init(&busy[i], e, i, 70);
        talker_run(&busy[i], idle[i]);
        assert_int_equal(busy[i].code, ERR_OK);
    }
    t.score = have;
    talker_run(&t, s);
    assert_int_equal(t.code, ERR_OK);
    assert_memory_equal(want, have, sizeof *want * t.n_prompt);
    pthread_t th[3]; /* and running ones */
    for (int i = 0; i < 3; i++) talker_init(&busy[i], e, i, 180), busy[i].s = idle[i];
    start_all(th, busy, 3);
    for (int i = 0; i < 5; i++) {
        nap(0.003);
        memset(have, 0, sizeof have);
        talker_run(&t, s);
        assert_int_equal(t.code, ERR_OK);
        assert_memory_equal(want, have, sizeof *want * t.n_prompt);
    }
    join_all(th, 3);
    for (int i = 0; i < 3; i++) {
        talker again;
        assert_int_equal(busy[i].code, ERR_OK);
        talker_init(&again, e, i, 180);
        talk(&again);
        assert_memory_equal(again.id, busy[i].id, sizeof *again.id * 180);
    }
    session_close(s);
    engine_close(e);
}

static void closed_while_running(void **state)
{
    (void)state;
    usize before = mem_now();
    for (int round = 0; round < 6; round++) {
        enum { N = 6 };
        static talker t[N];
        pthread_t     th[N];
        engine       *e = open_with(0, 2, 1 + round % 2);
        for (int i = 0; i < N; i++) {
            talker_init(&t[i], e, i, 180);
            assert_ok(session_open(&t[i].s, e, (u64)i)); /* so that no thread comes too late */
            t[i].pause = 0.002;
        }
        start_all(th, t, N);
        nap(0.004 * round);
        engine_close(e);
        join_all(th, N); /* each closes its session, after the engine */
        int ended = 0;
        for (int i = 0; i < N; i++) {
            assert_true(t[i].code == ERR_CANCELLED || t[i].code == ERR_OK);
            ended += t[i].code == ERR_CANCELLED;
        }
        if (round < 2) assert_true(ended > 0);
        assert_int_equal(mem_now(), before);
    }
}

static void sessions_outlive_the_engine(void **state)
{
    (void)state;
    usize    before = mem_now();
    engine  *e = open_with(0, 0, 1);
    session *s[3];
    talker   t;
    for (int i = 0; i < 3; i++) {
        assert_ok(session_open(&s[i], e, (u64)i));
        talker_init(&t, e, i, 40);
        talker_run(&t, s[i]);
        assert_int_equal(t.code, ERR_OK);
    }
    session_close(s[1]);
    engine_close(e);
    talker_run(&t, s[0]);
    assert_int_equal(t.code, ERR_CANCELLED);
    session_close(s[0]);
    session_close(s[2]);
    assert_int_equal(mem_now(), before);
}

static void cancelled_by_a_slow_reader(void **state)
{
    (void)state;
    engine  *e = open_with(0, 0, 1);
    session *s;
    talker   t, again;
    assert_ok(session_open(&s, e, 1));
    talker_init(&t, e, 3, 180);
    t.pause = 0.01; /* the engine is far ahead of the reader */
    t.cancel_at = 5;
    double start = clock_s();
    talker_run(&t, s);
    assert_true(clock_s() - start < 1);
    assert_int_equal(t.code, ERR_OK);
    assert_int_equal(t.res.finish, FINISH_CANCELLED);
    assert_int_equal(t.n, 5); /* nothing is heard of what was already on the way */
    talker_init(&again, e, 3, 180);
    talker_run(&again, s);
    assert_int_equal(again.res.finish, FINISH_LENGTH);
    assert_memory_equal(again.id, t.id, sizeof *t.id * 5);
    session_close(s);
    engine_close(e);
}

static void one_request_per_session(void **state)
{
    (void)state;
    engine   *e = open_with(0, 0, 1);
    session  *s;
    talker    t, other;
    pthread_t th;
    assert_ok(session_open(&s, e, 1));
    talker_init(&t, e, 1, 150), talker_init(&other, e, 1, 5);
    t.s = s, t.pause = 0.002, t.keep = true;
    start_all(&th, &t, 1);
    nap(0.03);
    talker_run(&other, s);
    assert_int_equal(other.code, ERR_BUSY);
    join_all(&th, 1);
    assert_int_equal(t.code, ERR_OK);
    session_close(s);
    engine_close(e);
}

static err all_tokens(void *ctx, const gen_token *t)
{
    double sum = 0;
    assert_int_equal(t->n_top, 304); /* the whole vocabulary */
    for (int i = 0; i < t->n_top; i++) {
        sum += (double)t->top[i].p;
        if (i) assert_true(t->top[i].logprob <= t->top[i - 1].logprob);
        if (t->top[i].id == t->id) assert_true(t->top[i].logprob == t->logprob);
    }
    assert_true(fabs(sum - 1) < 1e-5);
    ++*(int *)ctx;
    return OK;
}

static void more_likeliest_than_tokens(void **state)
{
    (void)state;
    engine  *e = open_with(0, 0, 1);
    session *s;
    int      n = 0;
    assert_ok(session_open(&s, e, 1));
    assert_ok(session_generate(s, &(gen_request){.ids = (i32[]){5, 6}, .n = 2, .max_tokens = 4, .n_top = 1000, .ignore_end = true, .sample = {.top_p = 1, .repeat_penalty = 1}, .token = all_tokens, .ctx = &n}, NULL));
    assert_int_equal(n, 4);
    session_close(s);
    engine_close(e);
}

/* everything at once, for a second: what comes out is right, and nothing is left */
typedef struct { engine *e; int number; const talker *want; i64 done; } worker;
enum { WORKERS = 6, KINDS = 7 };
static void *work(void *ctx)
{
    worker *w = ctx;
    rng     g;
    talker *t = malloc(sizeof *t);
    rng_seed(&g, (u64)w->number);
    for (double until = clock_s() + 1; clock_s() < until; w->done++) {
        int      kind = (int)(rng_u64(&g) % KINDS);
        session *s;
        float    score[PROMPT];
        if (session_open(&s, w->e, rng_u64(&g) % 3).code) abort();
        for (int turns = (int)(rng_u64(&g) % 3); turns >= 0; turns--) {
            talker_init(t, w->e, kind, 1 + (i64)(rng_u64(&g) % 150));
            if (rng_u64(&g) % 4 == 0) t->cancel_at = 1 + (i64)(rng_u64(&g) % 20);
            if (rng_u64(&g) % 5 == 0) t->score = score, t->most = 0;
            talker_run(t, s);
            if (t->code || memcmp(t->id, w->want[kind].id, sizeof *t->id * (usize)t->n)) abort();
        }
        session_close(s);
    }
    free(t);
    return NULL;
}

static void everything_at_once(void **state)
{
    (void)state;
    static talker want[KINDS];
    usize         before = mem_now();
    engine       *e = open_with(0, 0, 1);
    for (int i = 0; i < KINDS; i++) {
        talker_init(&want[i], e, i, 150);
        talk(&want[i]);
    }
    engine_close(e);
    e = open_with(320, 4, 2);
    worker    w[WORKERS];
    pthread_t th[WORKERS];
    i64       done = 0;
    for (int i = 0; i < WORKERS; i++) w[i] = (worker){e, i, want, 0};
    for (int i = 0; i < WORKERS; i++) assert_int_equal(pthread_create(&th[i], NULL, work, &w[i]), 0);
    join_all(th, WORKERS);
    for (int i = 0; i < WORKERS; i++) done += w[i].done;
    print_message("%lld sessions\n", (long long)done);
    engine_close(e);
    assert_int_equal(mem_now(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(more_than_the_cache_holds),   cmocka_unit_test(scores_find_room),           cmocka_unit_test(closed_while_running),
        cmocka_unit_test(sessions_outlive_the_engine), cmocka_unit_test(cancelled_by_a_slow_reader), cmocka_unit_test(one_request_per_session),
        cmocka_unit_test(more_likeliest_than_tokens),  cmocka_unit_test(everything_at_once),
    };
    return cmocka_run_group_tests_name("lifetime", tests, make_model, drop_model);
}
