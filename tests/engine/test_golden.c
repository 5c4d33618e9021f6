/* Language and embedding models against vectors of a float32 reference (../shared/models/golden): token ids, the twenty likeliest
 * next tokens and the likelihood of texts by the float path; first tokens and greedy continuations by the quantised path. Models
 * that are not here are skipped. MARU_HEAVY=1 adds the likelihoods of the 1.5B model (minutes). */
#include "../support/support.h"
#include "engine/engine.h"
#include <jansson.h>
#include <math.h>

static json_t *golden(const char *name)
{
    char file[128];
    snprintf(file, sizeof file, "models/golden/%s.json", name);
    const char *path = test_shared(file);
    SKIP_WITHOUT(path, file);
    json_t *j = json_load_file(path, 0, NULL);
    assert_non_null(j);
    return j;
}

static engine *open_model(const char *name, bool reference)
{
    char file[128];
    snprintf(file, sizeof file, "%s.gguf", name);
    const char *path = test_model(file);
    SKIP_WITHOUT(path, file);
    cpu_force(cpu_best(), reference);
    engine *e;
    assert_ok(engine_open(&e, path, &(engine_opts){.threads = 2}));
    return e;
}

static ids ids_of(const json_t *list)
{
    ids     t = {0};
    usize   i;
    json_t *v;
    json_array_foreach((json_t *)(uintptr_t)list, i, v) assert_true(ids_push(&t, (i32)json_integer_value(v)));
    return t;
}

typedef struct { ids out; top_token *first; int n_first; } got;
static err on_token(void *ctx, const gen_token *t)
{
    got *g = ctx;
    if (!g->out.n && t->n_top) {
        g->first = malloc(sizeof *t->top * (usize)t->n_top);
        memcpy(g->first, t->top, sizeof *t->top * (usize)t->n_top);
        g->n_first = t->n_top;
    }
    ids_push(&g->out, t->id);
    return OK;
}

static got generate(engine *e, const ids *prompt, int n, int n_top)
{
    session    *s;
    got         g = {0};
    gen_request q = {.ids = prompt->id, .n = prompt->n, .max_tokens = n, .n_top = n_top, .ignore_end = true, .sample = {.top_p = 1, .repeat_penalty = 1}, .token = on_token, .ctx = &g};
    assert_ok(session_open(&s, e, 0));
    assert_ok(session_generate(s, &q, NULL));
    session_close(s);
    return g;
}

static void check_ids(engine *e, const json_t *item)
{
    ids want = ids_of(json_object_get(item, "ids")), have = {0};
    assert_ok(tokenize(engine_model(e)->tok, str_of(json_string_value(json_object_get(item, "text"))), TOKENIZE_BOS, &have));
    assert_int_equal(have.n, want.n);
    assert_memory_equal(have.id, want.id, sizeof *want.id * want.n);
    ids_free(&want);
    ids_free(&have);
}

static double nll_of(engine *e, const ids *t)
{
    float   *score = malloc(sizeof *score * t->n);
    session *s;
    assert_ok(session_open(&s, e, 0));
    assert_ok(session_generate(s, &(gen_request){.ids = t->id, .n = t->n, .score = score, .sample = {.top_p = 1, .repeat_penalty = 1}}, NULL));
    session_close(s);
    double sum = 0;
    for (usize i = 1; i < t->n; i++) sum -= (double)score[i];
    free(score);
    return sum / (double)(t->n - 1);
}

/* the float path: every log-probability of the reference within the bound */
static void reference_path(const char *name, double bound, bool likelihoods)
{
    json_t *g = golden(name), *p;
    engine *e = open_model(name, true);
    usize   i;
    double  worst = 0;
    json_array_foreach(json_object_get(g, "prompts"), i, p)
    {
        check_ids(e, p);
        ids     prompt = ids_of(json_object_get(p, "ids"));
        json_t *top = json_object_get(p, "top"), *row;
        usize   k;
        got     r = generate(e, &prompt, 1, 1000);
        json_array_foreach(top, k, row)
        {
            int    id = (int)json_integer_value(json_array_get(row, 0)), at = 0;
            double want = json_number_value(json_array_get(row, 1));
            while (at < r.n_first && r.first[at].id != id) at++;
            assert_true(at < r.n_first);
            worst = fmax(worst, fabs((double)r.first[at].logprob - want));
        }
        free(r.first);
        ids_free(&r.out);
        ids_free(&prompt);
    }
    print_message("%s: worst difference of a log-probability %.2e\n", name, worst);
    assert_true(worst <= bound);
    json_array_foreach(json_object_get(g, "nll"), i, p)
    {
        check_ids(e, p);
        if (!likelihoods) continue;
        ids    t = ids_of(json_object_get(p, "ids"));
        double have = nll_of(e, &t), want = json_number_value(json_object_get(p, "nll"));
        print_message("%s: nll of %zu tokens %.6f, reference %.6f\n", name, t.n, have, want);
        assert_true(fabs(have - want) <= bound);
        ids_free(&t);
    }
    engine_close(e);
    json_decref(g);
}

/* the quantised path: first token where the margin is clear, greedy continuations never different at a clear margin */
static void quantised_path(const char *name)
{
    json_t *g = golden(name), *p;
    engine *e = open_model(name, false);
    usize   i;
    json_array_foreach(json_object_get(g, "prompts"), i, p)
    {
        ids     prompt = ids_of(json_object_get(p, "ids"));
        json_t *greedy = json_object_get(p, "greedy"), *gaps = json_object_get(greedy, "gaps");
        ids     want = ids_of(json_object_get(greedy, "ids"));
        got     r = generate(e, &prompt, (int)want.n, 0);
        usize   same = 0;
        while (same < want.n && same < r.out.n && want.id[same] == r.out.id[same]) same++;
        double gap = same < want.n ? json_number_value(json_array_get(gaps, same)) : 0;
        print_message("%s: prompt %zu: %zu of %zu greedy tokens as the reference", name, i, same, want.n);
        if (same < want.n) print_message(", then another at a margin of %.3f", gap);
        print_message("\n");
        if (same == 0) assert_true(gap <= 0.1);
        assert_true(gap <= 0.6);
        ids_free(&want);
        ids_free(&r.out);
        ids_free(&prompt);
    }
    engine_close(e);
    json_decref(g);
}

static void smollm2_float(void **s) { (void)s, reference_path("smollm2-135m", 2e-4, getenv("MARU_HEAVY") != NULL); }
static void smollm2_quantised(void **s) { (void)s, quantised_path("smollm2-135m"); }
static void gemma3_float(void **s) { (void)s, reference_path("gemma3-270m", 2e-4, getenv("MARU_HEAVY") != NULL); }
static void gemma3_quantised(void **s) { (void)s, quantised_path("gemma3-270m"); }
static void qwen_float(void **s) { (void)s, reference_path("qwen2.5-coder-1.5b", 2e-4, getenv("MARU_HEAVY") != NULL); }
static void qwen_quantised(void **s) { (void)s, quantised_path("qwen2.5-coder-1.5b"); }

static void e5_vectors(bool reference, double bound)
{
    json_t *g = golden("e5-small"), *p;
    engine *e = open_model("e5-small", reference);
    usize   i;
    i64     d = engine_dim(e);
    float  *v = malloc(sizeof *v * (usize)d);
    double  least = 1;
    json_array_foreach(json_object_get(g, "sentences"), i, p)
    {
        check_ids(e, p);
        str     text = str_of(json_string_value(json_object_get(p, "text")));
        json_t *want = json_object_get(p, "vector");
        double  dot = 0;
        assert_ok(engine_embed(e, &text, 1, EMBED_PLAIN, WINDOW_ERROR, v, NULL, NULL));
        for (i64 k = 0; k < d; k++) dot += (double)v[k] * json_number_value(json_array_get(want, (usize)k));
        least = fmin(least, dot);
    }
    print_message("e5-small (%s): least cosine to the reference %.7f\n", reference ? "float" : "8 bit", least);
    assert_true(least >= bound);
    free(v);
    engine_close(e);
    json_decref(g);
}
static void e5_float(void **s) { (void)s, e5_vectors(true, 0.99999); }
static void e5_quantised(void **s) { (void)s, e5_vectors(false, 0.9998); }

static void stories_text(void **state)
{
    (void)state;
    const char *model_path = test_shared("data/model-stories260k/stories260K.gguf"), *want_path = test_shared("data/model-stories260k/greedy_256.json");
    SKIP_WITHOUT(model_path && want_path ? model_path : NULL, "stories260K");
    json_t *want = json_load_file(want_path, 0, NULL);
    ids     prompt = ids_of(json_object_get(want, "prompt_ids")), greedy = ids_of(json_object_get(want, "greedy_ids"));
    for (int reference = 0; reference < 2; reference++) {
        engine *e;
        cpu_force(cpu_best(), reference);
        assert_ok(engine_open(&e, model_path, &(engine_opts){.threads = 2}));
        got r = generate(e, &prompt, (int)greedy.n, 0);
        assert_int_equal(r.out.n, greedy.n);
        assert_memory_equal(r.out.id, greedy.id, sizeof *greedy.id * greedy.n);
        buf text = {0};
        assert_ok(detokenize(engine_model(e)->tok, r.out.id, r.out.n, false, &text));
        str have = str_trim(buf_view(&text)), should = str_trim(str_of(json_string_value(json_object_get(want, "text"))));
        assert_true(str_ends(should, have) || str_ends(have, should) || str_eq(have, should));
        buf_free(&text);
        ids_free(&r.out);
        engine_close(e);
    }
    ids_free(&prompt);
    ids_free(&greedy);
    json_decref(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stories_text),  cmocka_unit_test(smollm2_float),  cmocka_unit_test(smollm2_quantised), cmocka_unit_test(e5_float),
        cmocka_unit_test(e5_quantised),  cmocka_unit_test(gemma3_float),   cmocka_unit_test(gemma3_quantised),  cmocka_unit_test(qwen_float),
        cmocka_unit_test(qwen_quantised),
    };
    return cmocka_run_group_tests_name("golden", tests, NULL, NULL);
}
