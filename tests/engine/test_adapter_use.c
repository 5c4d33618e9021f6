/* Adapters at work in an engine: pairs, whole tensors, soft prompts and prefixes, alone and several at once, give what the same
 * matrices give in a graph without pages; sessions of one engine with different adapters do not disturb each other, in one batch
 * and through cached pages; what cannot work is refused before anything runs. */
#include "../model/tiny.h"
#include "engine/engine.h"
#include <pthread.h>

static char folder[200];
static pool *threads;
static char paths[8][300];
static model *base;

static int make_folder(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/maru-use-XXXXXX", tmp && strlen(tmp) < 150 ? tmp : "/tmp");
    cpu_force(cpu_best(), true); /* float arithmetic and cache: differences are then of order of summing only */
    return mkdtemp(folder) && !pool_new(&threads, 1).code ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    model_close(base);
    pool_free(threads);
    return file_remove_tree(folder).code ? -1 : 0;
}

/* ---- adapters made here --------------------------------------------------------------------------------------------------- */
enum { PAIR, PAIR2, PROMPT, PREFIX, WHOLE, CLASSES, N_MADE };
typedef struct {
    trained t[16];
    usize n;
} made;

static void put(made *s, trained_kind kind, const char *name, i64 k, i64 n, u64 seed, float size)
{
    trained *t = &s->t[s->n++];
    rng r;
    *t = (trained){.kind = kind, .k = k, .n = n, .data = mem_array(float, k *n), .scale = 1.5f};
    snprintf(t->name, sizeof t->name, "%s", name);
    rng_seed(&r, seed);
    for (i64 i = 0; i < k * n; i++) t->data[i] = size * rng_normal(&r);
}

static void make(int which)
{
    made s = {0};
    adapter_file *f;
    const model *m = base;
    i64 d = m->h.width, kv = m->h.n_kv_head * m->h.head_dim;
    switch (which) {
    case PAIR:
        put(&s, TRAIN_A, "blk.0.attn_q.weight", d, 3, 1, 0.3f),
            put(&s, TRAIN_B, "blk.0.attn_q.weight", 3, m->layers[0].q.n, 2, 0.3f);
        put(&s, TRAIN_A, "blk.1.ffn_down.weight", m->h.n_ff, 2, 3, 0.3f),
            put(&s, TRAIN_B, "blk.1.ffn_down.weight", 2, d, 4, 0.3f);
        break;
    case PAIR2:
        put(&s, TRAIN_A, "blk.0.attn_q.weight", d, 1, 5, 0.4f),
            put(&s, TRAIN_B, "blk.0.attn_q.weight", 1, m->layers[0].q.n, 6, 0.4f);
        break;
    case PROMPT: put(&s, TRAIN_PROMPT, "", d, 5, 7, 0.7f); break;
    case PREFIX: /* more than a page of it */
        for (i64 l = 0; l < m->h.n_layer; l++) {
            char name[16];
            snprintf(name, sizeof name, "blk.%d", (int)l);
            put(&s, TRAIN_PREFIX_K, name, kv, KV_PAGE + 9, 10 + (u64)l, 0.8f),
                put(&s, TRAIN_PREFIX_V, name, kv, KV_PAGE + 9, 20 + (u64)l, 0.8f);
        }
        break;
    case WHOLE:
        put(&s, TRAIN_WEIGHT, "blk.1.attn_norm.weight", d, 1, 30, 0.5f),
            put(&s, TRAIN_WEIGHT, "blk.1.ffn_up.weight", d, m->h.n_ff, 31, 0.2f);
        break;
    default: put(&s, TRAIN_CLASSES, "", d, 2, 32, 0.3f);
    }
    assert_ok(adapter_of_trained(&f, m, &(trained_set){s.t, s.n}));
    snprintf(paths[which], sizeof paths[which], "%s/a%d", folder, which);
    assert_ok(adapter_save(f, paths[which], m));
    adapter_free(f);
    for (usize i = 0; i < s.n; i++) mem_free(s.t[i].data);
}

static char *model_path(void)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/base.gguf", folder);
    return path;
}

static void make_all(void **state)
{
    (void)state;
    tiny t = tiny_of("llama", F32);
    tiny_write(model_path(), &t);
    assert_ok(model_open(&base, model_path(), NULL));
    for (int i = 0; i < N_MADE; i++) make(i);
}

/* ---- what they should do ----------------------------------------------------------------------------------------------------
 */
static const i32 text[] = {5,  40, 7,  99, 12, 3,  64, 33, 21, 8,  150, 77, 201, 9,  45, 60,  61,  62,  180, 2,
                           30, 31, 99, 98, 97, 50, 51, 52, 53, 54, 55,  56, 57,  58, 59, 100, 101, 102, 103, 104};
enum { N_TEXT = COUNT_OF(text) };

typedef struct {
    int n;
    struct {
        int which;
        float scale;
    } use[3];
} choice;

static void expected(const choice *c, float *score) /* [N_TEXT] */
{
    adapter_file *f[3];
    adapter_use use[3];
    i64 v = base->h.n_vocab;
    float *l = mem_array(float, N_TEXT *v);
    for (int i = 0; i < c->n; i++) {
        assert_ok(adapter_load(&f[i], paths[c->use[i].which], base));
        use[i] = (adapter_use){f[i], c->use[i].scale};
    }
    assert_ok(model_logits(base, &(adapter_mix){use, c->n}, text, N_TEXT, threads, l));
    score[0] = 0;
    for (int i = 1; i < N_TEXT; i++) score[i] = l[(i - 1) * v + text[i]] - logits_lse(l + (i - 1) * v, v);
    for (int i = 0; i < c->n; i++) adapter_free(f[i]);
    mem_free(l);
}

static engine *open_with(const engine_adapter *a, int n)
{
    engine *e;
    assert_ok(engine_open(&e, model_path(), &(engine_opts){.threads = 1, .kv_tokens = 2048, .adapters = a, .n_adapters = n}));
    return e;
}

static void test_against_graph(void **state)
{
    (void)state;
    static const choice cases[] = {
        {1, {{PAIR, 1}}},   {1, {{PAIR, 0.25f}}}, {2, {{PAIR, 0.5f}, {PAIR2, 2}}},           {1, {{PROMPT, 1}}},
        {1, {{PREFIX, 1}}}, {1, {{WHOLE, 1}}},    {3, {{PREFIX, 1}, {PROMPT, 1}, {PAIR, 1}}}};
    float plain[N_TEXT], want[N_TEXT], have[N_TEXT];
    expected(&(choice){0}, plain);
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        engine_adapter a[3];
        double off = 0, moved = 0;
        for (int u = 0; u < cases[i].n; u++) a[u] = (engine_adapter){paths[cases[i].use[u].which], cases[i].use[u].scale, 0};
        engine *e = open_with(a, cases[i].n);
        session *s;
        expected(&cases[i], want);
        assert_ok(session_open(&s, e, 0));
        assert_ok(session_generate(s, &(gen_request){.ids = text, .n = N_TEXT, .score = have}, NULL));
        for (int k = 1; k < N_TEXT; k++)
            off = fmax(off, fabs((double)have[k] - (double)want[k])),
            moved = fmax(moved, fabs((double)plain[k] - (double)want[k]));
        print_message("case %zu: off by %.1e, moved by %.1e\n", i, off, moved);
        assert_true(off < 2e-4 && moved > 0.02);
        assert_ok(session_use(s, -1)); /* the model alone, in the same session */
        assert_ok(session_generate(s, &(gen_request){.ids = text, .n = N_TEXT, .score = have}, NULL));
        if (cases[i].use[0].which != WHOLE)
            for (int k = 1; k < N_TEXT; k++) assert_true(fabs((double)have[k] - (double)plain[k]) < 2e-4);
        session_close(s);
        engine_close(e);
    }
}

/* ---- several at once
 * ------------------------------------------------------------------------------------------------------------ */
typedef struct {
    i32 id[64];
    int n;
} said;
static err keep_token(void *ctx, const gen_token *t)
{
    said *x = ctx;
    x->id[x->n++] = t->id;
    return OK;
}

static gen_result say(session *s, usize n, said *x)
{
    gen_result r;
    x->n = 0;
    assert_ok(session_generate(s,
                               &(gen_request){.ids = text,
                                              .n = n,
                                              .max_tokens = 24,
                                              .ignore_end = true,
                                              .token = keep_token,
                                              .ctx = x,
                                              .sample = {.repeat_penalty = 1.1f}},
                               &r));
    return r;
}

typedef struct {
    session *s;
    said x;
} talker;
static void *talk(void *ctx)
{
    talker *t = ctx;
    say(t->s, N_TEXT, &t->x);
    return NULL;
}

static void test_together(void **state)
{
    (void)state;
    const engine_adapter all[] = {{paths[PAIR], 1, 0},   {paths[PAIR2], 2, 1},  {paths[PROMPT], 1, 2}, {paths[PREFIX], 1, 3},
                                  {paths[PREFIX], 1, 4}, {paths[PROMPT], 1, 4}, {paths[PAIR], 1, 4}};
    enum { MIXES = 5 };
    said alone[MIXES + 1];
    for (int mix = -1; mix < MIXES; mix++) { /* each by itself */
        engine_adapter own[8];
        int n = 0;
        for (usize i = 0; i < COUNT_OF(all); i++)
            if (all[i].mix == mix) own[n] = all[i], own[n++].mix = 0;
        engine *e = open_with(own, n);
        session *s;
        assert_ok(session_open(&s, e, 0));
        say(s, N_TEXT, &alone[mix + 1]);
        session_close(s);
        engine_close(e);
    }
    for (int mix = 0; mix < MIXES; mix++) assert_true(memcmp(alone[0].id, alone[mix + 1].id, sizeof(i32) * 24) != 0);
    engine *e = open_with(all, COUNT_OF(all));
    talker t[MIXES + 1];
    pthread_t th[MIXES + 1];
    for (int i = 0; i <= MIXES; i++) {
        assert_ok(session_open(&t[i].s, e, 0));
        assert_ok(session_use(t[i].s, i - 1));
    }
    for (int i = 0; i <= MIXES; i++) assert_int_equal(pthread_create(&th[i], NULL, talk, &t[i]), 0);
    for (int i = 0; i <= MIXES; i++) pthread_join(th[i], NULL);
    for (int i = 0; i <= MIXES; i++) assert_memory_equal(t[i].x.id, alone[i].id, sizeof(i32) * 24);
    /* now one session goes through all of them: pages of other mixes are never taken for its own, its own are */
    for (int i = 0; i <= MIXES; i++) {
        said x;
        gen_result r;
        assert_ok(session_use(t[0].s, i - 1));
        r = say(t[0].s, N_TEXT, &x);
        assert_memory_equal(x.id, alone[i].id, sizeof(i32) * 24);
        assert_int_equal(r.prompt_tokens, N_TEXT);
        assert_true(r.cached_tokens > 0 && r.cached_tokens < N_TEXT); /* from the page that the other session left, or its own */
    }
    assert_int_equal(session_use(t[0].s, MIXES).code, ERR_INPUT);
    for (int i = 0; i <= MIXES; i++) session_close(t[i].s);
    engine_close(e);
}

/* a cache too small for all: prefixes are put again into pages that were given up */
static void test_little_room(void **state)
{
    (void)state;
    const engine_adapter all[] = {{paths[PREFIX], 1, 0}};
    engine *e;
    talker t[4];
    pthread_t th[4];
    said want;
    assert_ok(
        engine_open(&e, model_path(), &(engine_opts){.threads = 1, .kv_tokens = 8 * KV_PAGE, .adapters = all, .n_adapters = 1}));
    for (int i = 0; i < 4; i++) assert_ok(session_open(&t[i].s, e, (u64)i)); /* owners share nothing */
    say(t[0].s, N_TEXT, &want);
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&th[i], NULL, talk, &t[i]), 0);
    for (int i = 0; i < 4; i++) pthread_join(th[i], NULL);
    for (int i = 0; i < 4; i++) assert_memory_equal(t[i].x.id, want.id, sizeof(i32) * 24);
    gen_request q = {.ids = text, .n = N_TEXT, .max_tokens = 8 * KV_PAGE - N_TEXT - 10}; /* the prefix counts */
    err bad = session_generate(t[0].s, &q, NULL);
    assert_int_equal(bad.code, ERR_INPUT);
    for (int i = 0; i < 4; i++) session_close(t[i].s);
    engine_close(e);
}

static void test_refusals(void **state)
{
    (void)state;
    const struct {
        engine_adapter a[2];
        int n, code;
        const char *word;
    } cases[] = {
        {{{paths[CLASSES], 1, 0}}, 1, ERR_INPUT, "classifier"},
        {{{paths[WHOLE], 1, 0}, {paths[PAIR], 1, 1}}, 2, ERR_UNSUPPORTED, "whole tensors"},
        {{{paths[PROMPT], 0.5f, 0}}, 1, ERR_INPUT, "scale"},
        {{{"/nowhere", 1, 0}}, 1, ERR_NOTFOUND, "/nowhere"},
        {{{paths[PAIR], 1, -1}}, 1, ERR_INPUT, "mix"},
    };
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        engine *e;
        err bad = engine_open(&e, model_path(), &(engine_opts){.threads = 1, .adapters = cases[i].a, .n_adapters = cases[i].n});
        assert_int_equal(bad.code, cases[i].code);
        assert_non_null(strstr(bad.what, cases[i].word));
        assert_null(e);
    }
}

static void test_embedder(void **state)
{
    (void)state;
    char path[300], adapter[300];
    model *m;
    made s = {0};
    adapter_file *f;
    engine *e[2];
    float v[2][64];
    str words[] = {S("hello"), S("the hell")};
    tiny t = tiny_of("bert", F32);
    snprintf(path, sizeof path, "%s/bert.gguf", folder);
    snprintf(adapter, sizeof adapter, "%s/bert-a", folder);
    tiny_write(path, &t);
    assert_ok(model_open(&m, path, NULL));
    put(&s, TRAIN_A, "blk.0.attn_v.weight", m->h.width, 2, 40, 0.5f),
        put(&s, TRAIN_B, "blk.0.attn_v.weight", 2, m->layers[0].v.n, 41, 0.5f);
    assert_ok(adapter_of_trained(&f, m, &(trained_set){s.t, s.n}));
    assert_ok(adapter_save(f, adapter, m));
    adapter_free(f);
    for (int i = 0; i < 2; i++) {
        engine_adapter a = {adapter, 1, 0};
        float both[128];
        assert_ok(engine_open(&e[i], path, &(engine_opts){.threads = 1, .adapters = &a, .n_adapters = i}));
        assert_ok(engine_embed(e[i], words, 2, EMBED_PLAIN, WINDOW_FIRST, both, NULL, NULL));
        memcpy(v[i], both, sizeof v[i]);
        engine_close(e[i]);
    }
    assert_true(memcmp(v[0], v[1], sizeof v[0]) != 0);
    double dot = 0, one = 0;
    for (int i = 0; i < 64; i++) dot += (double)v[0][i] * (double)v[1][i], one += (double)v[1][i] * (double)v[1][i];
    assert_true(fabs(one - 1) < 1e-5 && dot < 0.9999);
    for (usize i = 0; i < s.n; i++) mem_free(s.t[i].data);
    model_close(m);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(make_all),         cmocka_unit_test(test_against_graph), cmocka_unit_test(test_together),
        cmocka_unit_test(test_little_room), cmocka_unit_test(test_refusals),      cmocka_unit_test(test_embedder),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
