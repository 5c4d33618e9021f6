/* The engine's promises on a real small model: the same tokens with 1 or 2 threads, at every instruction-set level, alone or beside
 * another sequence, prefix read at once or token by token, cached or computed; owners do not share; stops, limits, cancelling. */
#include "../support/support.h"
#include "engine/engine.h"
#include <pthread.h>

static const char *model_path(void)
{
    const char *stories = test_shared("data/model-stories260k/stories260K.gguf"), *smol = test_model("smollm2-135m.gguf");
    return smol ? smol : stories;
}

static engine *open_with(int threads, int max_rows)
{
    const char *path = model_path();
    SKIP_WITHOUT(path, "a small model");
    engine *e;
    assert_ok(engine_open(&e, path, &(engine_opts){.threads = threads, .kv_tokens = 1024, .max_rows = max_rows}));
    return e;
}

static ids prompt_of(engine *e, const char *text)
{
    ids t = {0};
    assert_ok(tokenize(engine_model(e)->tok, str_of(text), TOKENIZE_BOS, &t));
    return t;
}

typedef struct { ids out; float logprob[256]; buf text; int stop_after; } got;
static err on_token(void *ctx, const gen_token *t)
{
    got *g = ctx;
    if (g->out.n < 256) g->logprob[g->out.n] = t->logprob;
    ids_push(&g->out, t->id);
    buf_str(&g->text, t->text);
    return g->stop_after && (int)g->out.n >= g->stop_after ? err_new(ERR_CANCELLED, "enough") : OK;
}

static gen_request request(const ids *t, i64 n, got *g)
{
    return (gen_request){.ids = t->id, .n = t->n, .max_tokens = n, .ignore_end = true, .sample = {.top_p = 1, .repeat_penalty = 1}, .token = on_token, .ctx = g};
}

static got generate(engine *e, u64 owner, const char *text, i64 n, gen_result *res)
{
    session    *s;
    got         g = {0};
    ids         t = prompt_of(e, text);
    gen_request q = request(&t, n, &g);
    gen_result  r;
    assert_ok(session_open(&s, e, owner));
    assert_ok(session_generate(s, &q, res ? res : &r));
    session_close(s);
    ids_free(&t);
    return g;
}

static void same(const got *a, const got *b)
{
    assert_int_equal(a->out.n, b->out.n);
    assert_memory_equal(a->out.id, b->out.id, sizeof *a->out.id * a->out.n);
    assert_memory_equal(a->logprob, b->logprob, sizeof *a->logprob * a->out.n); /* to the bit */
}
static void done(got *g)
{
    ids_free(&g->out);
    buf_free(&g->text);
}

static const char *const text_a = "Once upon a time there was a small dog who lived in a big house near the sea. Every morning the dog";
static const char *const text_b = "The capital of France is";

static void threads_and_levels(void **state)
{
    (void)state;
    cpu_force(cpu_best(), false);
    engine *e = open_with(1, 0);
    got     first = generate(e, 1, text_a, 24, NULL);
    engine_close(e);
    for (int level = CPU_GENERIC; level <= (int)cpu_best(); level++)
        for (int threads = 1; threads <= 3; threads++) {
            cpu_force((cpu_level)level, false);
            e = open_with(threads, 0);
            got g = generate(e, 1, text_a, 24, NULL);
            same(&first, &g);
            done(&g);
            engine_close(e);
        }
    cpu_force(cpu_best(), false);
    done(&first);
}

static void prefill_equals_token_by_token(void **state)
{
    (void)state;
    engine *whole = open_with(2, 0), *single = open_with(2, 1), *odd = open_with(2, 7);
    got     a = generate(whole, 1, text_a, 16, NULL), b = generate(single, 1, text_a, 16, NULL), c = generate(odd, 1, text_a, 16, NULL);
    same(&a, &b);
    same(&a, &c);
    done(&a), done(&b), done(&c);
    engine_close(whole), engine_close(single), engine_close(odd);
}

typedef struct { engine *e; const char *text; u64 owner; got g; } talker;
static void *talk(void *ctx)
{
    talker     *t = ctx;
    session    *s;
    ids         p = prompt_of(t->e, t->text);
    gen_request q = request(&p, 24, &t->g);
    if (!session_open(&s, t->e, t->owner).code) {
        (void)session_generate(s, &q, NULL);
        session_close(s);
    }
    ids_free(&p);
    return NULL;
}

static void alone_or_beside_others(void **state)
{
    (void)state;
    engine *e = open_with(2, 0);
    got     a = generate(e, 1, text_a, 24, NULL), b = generate(e, 2, text_b, 24, NULL);
    for (int round = 0; round < 3; round++) {
        talker    t[6];
        pthread_t th[6];
        for (int i = 0; i < 6; i++) t[i] = (talker){.e = e, .text = i % 2 ? text_b : text_a, .owner = (u64)(100 + 10 * round + i)};
        for (int i = 0; i < 6; i++) assert_int_equal(pthread_create(&th[i], NULL, talk, &t[i]), 0);
        for (int i = 0; i < 6; i++) pthread_join(th[i], NULL);
        for (int i = 0; i < 6; i++) {
            same(i % 2 ? &b : &a, &t[i].g);
            done(&t[i].g);
        }
    }
    done(&a), done(&b);
    engine_close(e);
}

static void prefixes_are_reused_by_their_owner_only(void **state)
{
    (void)state;
    engine    *e = open_with(2, 0);
    gen_result first, again, other;
    buf        text = {0};
    for (int i = 0; i < 4; i++) buf_puts(&text, text_a); /* over a page */
    got a = generate(e, 7, buf_cstr(&text), 12, &first), b = generate(e, 7, buf_cstr(&text), 12, &again), c = generate(e, 8, buf_cstr(&text), 12, &other);
    assert_int_equal(first.cached_tokens, 0);
    assert_true(again.cached_tokens >= KV_PAGE && again.cached_tokens % KV_PAGE == 0);
    assert_int_equal(other.cached_tokens, 0);
    same(&a, &b);
    same(&a, &c);
    done(&a), done(&b), done(&c);
    buf_free(&text);
    engine_close(e);
}

static void a_session_goes_on(void **state)
{
    (void)state;
    engine    *e = open_with(2, 0);
    session   *s;
    ids        t = prompt_of(e, text_a);
    got        whole = {0}, part_one = {0}, part_two = {0};
    gen_result res;
    gen_request q = request(&t, 24, &whole);
    assert_ok(session_open(&s, e, 1));
    assert_ok(session_generate(s, &q, NULL));
    q = request(&t, 10, &part_one);
    assert_ok(session_generate(s, &q, NULL));
    assert_true(ids_append(&t, part_one.out.id, part_one.out.n));
    q = request(&t, 14, &part_two);
    assert_ok(session_generate(s, &q, &res));
    assert_true(res.cached_tokens >= (i64)t.n - KV_PAGE - 1);
    assert_memory_equal(whole.out.id, part_one.out.id, sizeof(i32) * 10);
    assert_memory_equal(whole.out.id + 10, part_two.out.id, sizeof(i32) * 14);
    session_close(s);
    ids_free(&t);
    done(&whole), done(&part_one), done(&part_two);
    engine_close(e);
}

static void more_sessions_than_pages(void **state)
{
    (void)state;
    engine  *e = open_with(2, 0); /* 1024 positions */
    session *s[12];
    got      want = generate(e, 50, text_a, 100, NULL);
    for (int i = 0; i < 12; i++) {
        got         g = {0};
        ids         t = prompt_of(e, text_a);
        gen_request q = request(&t, 100, &g);
        assert_ok(session_open(&s[i], e, (u64)i));
        assert_ok(session_generate(s[i], &q, NULL));
        same(&want, &g);
        done(&g);
        ids_free(&t);
    }
    for (int i = 0; i < 12; i++) session_close(s[i]);
    done(&want);
    engine_close(e);
}

static void limits_and_stops(void **state)
{
    (void)state;
    engine     *e = open_with(2, 0);
    session    *s;
    ids         t = prompt_of(e, text_a), none = {0};
    got         g = {0};
    gen_request q = request(&t, 5000, &g);
    gen_result  res;
    assert_ok(session_open(&s, e, 1));
    err bad = session_generate(s, &q, NULL);
    assert_int_equal(bad.code, ERR_INPUT);
    assert_non_null(strstr(bad.what, "5000"));
    q = request(&none, 5, &g);
    assert_int_equal(session_generate(s, &q, NULL).code, ERR_INPUT);
    i32 wrong = 1 << 30;
    q = request(&(ids){&wrong, 1, 1}, 5, &g);
    assert_int_equal(session_generate(s, &q, NULL).code, ERR_INPUT);
    q = request(&t, 40, &g);
    assert_ok(session_generate(s, &q, &res));
    assert_int_equal(res.finish, FINISH_LENGTH);
    /* a stop string from the middle of what was written: the text ends right before it */
    char stop[16];
    str  all = buf_view(&g.text);
    usize from = utf8_offset(all, utf8_count(all) / 2);
    snprintf(stop, sizeof stop, "%.6s", all.p + from);
    const char *stops[] = {stop};
    got cut = {0};
    q = request(&t, 40, &cut);
    q.stop = stops, q.n_stop = 1;
    assert_ok(session_generate(s, &q, &res));
    assert_int_equal(res.finish, FINISH_STOP);
    i64 at = str_find(all, str_of(stop), 0);
    assert_int_equal(cut.text.n, at);
    assert_memory_equal(cut.text.p ? cut.text.p : "", all.p, cut.text.n);
    /* the caller's function may end it */
    got few = {.stop_after = 3};
    q = request(&t, 40, &few);
    assert_int_equal(session_generate(s, &q, NULL).code, ERR_CANCELLED);
    assert_int_equal(few.out.n, 3);
    atomic_bool cancel = true;
    got         nothing = {0};
    q = request(&t, 900, &nothing);
    q.cancel = &cancel;
    assert_ok(session_generate(s, &q, &res));
    assert_int_equal(res.finish, FINISH_CANCELLED);
    session_close(s);
    done(&g), done(&cut), done(&few), done(&nothing);
    ids_free(&t);
    engine_close(e);
}

static void scores_equal_logprobs(void **state)
{
    (void)state;
    engine  *e = open_with(2, 0);
    session *s;
    got      g = generate(e, 1, text_a, 40, NULL);
    ids      t = prompt_of(e, text_a);
    usize    n = t.n;
    assert_true(ids_append(&t, g.out.id, g.out.n));
    float *score = malloc(sizeof *score * t.n);
    gen_request q = {.ids = t.id, .n = t.n, .score = score, .sample = {.top_p = 1, .repeat_penalty = 1}};
    assert_ok(session_open(&s, e, 1));
    assert_ok(session_generate(s, &q, NULL));
    for (usize i = 0; i < g.out.n; i++) assert_true(score[n + i] == g.logprob[i]);
    for (usize from = 1; from < t.n; from += 5) { /* the same values for a part, whatever of the rest was cached */
        float part[256] = {0};
        assert_true(t.n <= COUNT_OF(part));
        q.score = part, q.score_from = from;
        assert_ok(session_generate(s, &q, NULL));
        for (usize i = 0; i < t.n; i++) assert_true(part[i] == (i < from ? 0 : score[i]));
    }
    session_close(s);
    free(score);
    ids_free(&t);
    done(&g);
    engine_close(e);
}

static void sampling(void **state)
{
    (void)state;
    float       logits[6] = {1, 3, 3, 2, -1, 0};
    i32         id, recent[1] = {1};
    candidate   top[4];
    int         seen[6] = {0};
    sampler     s;
    sampler_init(&s, &(sample_opts){.top_p = 1, .repeat_penalty = 1});
    assert_ok(sampler_pick(&s, logits, 6, NULL, 0, &id));
    assert_int_equal(id, 1); /* the lower of equals */
    sampler_free(&s);
    sampler_init(&s, &(sample_opts){.top_p = 1, .repeat_penalty = 2});
    assert_ok(sampler_pick(&s, logits, 6, recent, 1, &id));
    assert_int_equal(id, 2);
    sampler_free(&s);
    logits_top(logits, 6, 4, top);
    assert_int_equal(top[0].id, 1), assert_int_equal(top[1].id, 2), assert_int_equal(top[2].id, 3), assert_int_equal(top[3].id, 0);
    sampler_init(&s, &(sample_opts){.temp = 1, .top_k = 3, .top_p = 1, .repeat_penalty = 1, .seed = 5});
    for (int i = 0; i < 4000; i++) {
        assert_ok(sampler_pick(&s, logits, 6, NULL, 0, &id));
        seen[id]++;
    }
    assert_int_equal(seen[0] + seen[4] + seen[5], 0);
    double p1 = 1 / (2 + 0.36787944117); /* e^3, e^3, e^2 */
    assert_true(seen[1] > 4000 * (p1 - 0.04) && seen[1] < 4000 * (p1 + 0.04));
    sampler_free(&s);
    sampler_init(&s, &(sample_opts){.temp = 1, .top_p = 0.5f, .repeat_penalty = 1, .seed = 5});
    for (int i = 0; i < 500; i++) {
        assert_ok(sampler_pick(&s, logits, 6, NULL, 0, &id));
        assert_true(id == 1 || id == 2);
    }
    sampler_free(&s);
    sampler_init(&s, &(sample_opts){.temp = 2, .top_p = 1, .min_p = 0.9f, .repeat_penalty = 1, .seed = 5});
    for (int i = 0; i < 500; i++) {
        assert_ok(sampler_pick(&s, logits, 6, NULL, 0, &id));
        assert_true(id == 1 || id == 2);
    }
    sampler_free(&s);
}

static void embeddings_do_not_depend_on_neighbours(void **state)
{
    (void)state;
    const char *path = test_model("e5-small.gguf");
    SKIP_WITHOUT(path, "e5-small");
    engine *e;
    assert_ok(engine_open(&e, path, &(engine_opts){.threads = 2}));
    str   text[5] = {S("연차는 며칠인가요?"), S("short"), S("A much longer sentence about the rules of travelling abroad and what may be paid back."), S("출장비 정산은 10일 안에 한다."), S("x")};
    i64   d = engine_dim(e);
    float all[5 * 384], one[384];
    assert_int_equal(d, 384);
    assert_ok(engine_embed(e, text, 5, EMBED_PASSAGE, WINDOW_ERROR, all, NULL, NULL));
    for (int i = 0; i < 5; i++) {
        assert_ok(engine_embed(e, &text[i], 1, EMBED_PASSAGE, WINDOW_ERROR, one, NULL, NULL));
        assert_memory_equal(one, all + 384 * i, sizeof one);
    }
    buf b = {0};
    for (int i = 0; i < 400; i++) buf_puts(&b, "규정 제1조 ");
    str long_text = buf_view(&b);
    err bad = engine_embed(e, &long_text, 1, EMBED_PASSAGE, WINDOW_ERROR, one, NULL, NULL);
    assert_int_equal(bad.code, ERR_INPUT);
    assert_ok(engine_embed(e, &long_text, 1, EMBED_PASSAGE, WINDOW_MEAN, one, NULL, NULL));
    float *w;
    usize  n;
    assert_ok(engine_embed_windows(e, long_text, EMBED_PASSAGE, &w, &n));
    assert_true(n >= 2);
    mem_free(w);
    buf_free(&b);
    session *s;
    assert_int_equal(session_open(&s, e, 0).code, ERR_INPUT);
    engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sampling), cmocka_unit_test(threads_and_levels), cmocka_unit_test(prefill_equals_token_by_token), cmocka_unit_test(alone_or_beside_others),
        cmocka_unit_test(prefixes_are_reused_by_their_owner_only), cmocka_unit_test(a_session_goes_on), cmocka_unit_test(more_sessions_than_pages),
        cmocka_unit_test(limits_and_stops), cmocka_unit_test(scores_equal_logprobs), cmocka_unit_test(embeddings_do_not_depend_on_neighbours),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
