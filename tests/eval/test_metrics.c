/* Metrics against cases worked out by hand, against brute force and against published intervals; the bootstrap against data whose
 * mean is known; the likelihood of a text against the scores of a session. */
#include "../support/support.h"
#include "eval/eval.h"
#include <math.h>

static void near(double have, double want, double within)
{
    if (!(fabs(have - want) <= within)) fail_msg("%.9f, expected %.9f within %g", have, want, within);
}

/* ---- ranking ---- */

#define IDS(...) ((const char *const[]){__VA_ARGS__})
#define RANK(rank, gold) eval_ranking(rank, COUNT_OF(rank), gold, COUNT_OF(gold))

static void ranking_by_hand(void **state)
{
    (void)state;
    const char *const rank[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"};
    ranking           r = RANK(rank, IDS("b", "e"));
    near(r.recall1, 0, 0);
    near(r.recall5, 1, 0);
    near(r.recall10, 1, 0);
    near(r.mrr10, 0.5, 1e-12);
    near(r.ndcg10, (1 / log2(3) + 1 / log2(6)) / (1 + 1 / log2(3)), 1e-12);
    near(r.ndcg10, 0.624051, 1e-6);
    r = RANK(rank, IDS("a"));
    near(r.recall1 + r.recall5 + r.recall10 + r.mrr10 + r.ndcg10, 5, 1e-12);
    r = RANK(rank, IDS("j", "k", "z")); /* the tenth counts, the eleventh does not, the third is nowhere */
    near(r.recall1 + r.recall5, 0, 0);
    near(r.recall10, 1.0 / 3, 1e-12);
    near(r.mrr10, 0.1, 1e-12);
    near(r.ndcg10, (1 / log2(11)) / (1 + 1 / log2(3) + 1 / log2(4)), 1e-12);
    r = RANK(rank, IDS("k"));
    near(r.recall10 + r.mrr10 + r.ndcg10, 0, 0);
}

static void ranking_at_the_edges(void **state)
{
    (void)state;
    const char *const rank[] = {"a", "b", "c"};
    ranking           r = eval_ranking(rank, 3, NULL, 0); /* nothing to find: zeros, no division */
    near(r.recall1 + r.recall5 + r.recall10 + r.mrr10 + r.ndcg10, 0, 0);
    r = eval_ranking(NULL, 0, rank, 3);
    near(r.recall1 + r.recall5 + r.recall10 + r.mrr10 + r.ndcg10, 0, 0);
    r = RANK(rank, IDS("c", "b", "a")); /* fewer hits than 5 and 10, all of them right */
    near(r.recall1, 1.0 / 3, 1e-12);
    near(r.recall5, 1, 1e-12);
    near(r.ndcg10, 1, 1e-12);
    const char *const many[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"};
    r = RANK(many, many); /* more to find than ten places: the ideal has ten too */
    near(r.ndcg10, 1, 1e-12);
    near(r.recall10, 10.0 / 12, 1e-12);
}

static void ranking_counts_each_once(void **state)
{
    (void)state;
    const char *const rank[] = {"x", "a", "a", "a", "b"};
    ranking           r = RANK(rank, IDS("a", "b")), want = {0, 1, 1, 0.5, (1 / log2(3) + 1 / log2(6)) / (1 + 1 / log2(3))};
    near(r.recall5, want.recall5, 1e-12);
    near(r.recall10, want.recall10, 1e-12);
    near(r.mrr10, want.mrr10, 1e-12);
    near(r.ndcg10, want.ndcg10, 1e-12);
    r = RANK(rank, IDS("a", "a", "b", "a")); /* a gold list that repeats itself asks for no more */
    near(r.recall10, 1, 1e-12);
    near(r.ndcg10, want.ndcg10, 1e-12);
}

/* ---- AUC ---- */

static double auc_slow(const double *p, usize n, const double *q, usize m)
{
    double sum = 0;
    for (usize i = 0; i < n; i++)
        for (usize k = 0; k < m; k++) sum += p[i] > q[k] ? 1 : p[i] == q[k] ? 0.5 : 0;
    return sum / ((double)n * (double)m);
}

static void auc_with_ties(void **state)
{
    (void)state;
    near(eval_auc((double[]){0.9, 0.8, 0.4}, 3, (double[]){0.7, 0.4, 0.1}, 3), (3 + 3 + 1.5) / 9, 1e-12);
    near(eval_auc((double[]){1, 1}, 2, (double[]){1, 1, 1}, 3), 0.5, 0);
    near(eval_auc((double[]){2}, 1, (double[]){1}, 1), 1, 0);
    near(eval_auc((double[]){0}, 1, (double[]){1}, 1), 0, 0);
    assert_true(isnan(eval_auc(NULL, 0, (double[]){1}, 1)));
    assert_true(isnan(eval_auc((double[]){1}, 1, NULL, 0)));
    rng g;
    rng_seed(&g, 3);
    for (int round = 0; round < 300; round++) {
        double p[40], q[40];
        usize  n = 1 + rng_u64(&g) % 40, m = 1 + rng_u64(&g) % 40, levels = 1 + rng_u64(&g) % 12; /* few levels: many ties */
        for (usize i = 0; i < n; i++) p[i] = (double)(rng_u64(&g) % levels) / 7;
        for (usize i = 0; i < m; i++) q[i] = (double)(rng_u64(&g) % levels) / 7;
        near(eval_auc(p, n, q, m), auc_slow(p, n, q, m), 1e-12);
    }
}

/* ---- intervals ---- */

static void bootstrap(void **state)
{
    (void)state;
    enum { SETS = 400, N = 40 };
    rng    g;
    int    covered = 0;
    double width = 0;
    rng_seed(&g, 11);
    for (int s = 0; s < SETS; s++) {
        double x[N];
        for (int i = 0; i < N; i++) x[i] = 3 + 2 * (double)rng_normal(&g);
        interval c = eval_mean(x, N, (u64)s);
        assert_true(c.low <= c.mean && c.mean <= c.high);
        covered += c.low <= 3 && 3 <= c.high;
        width += c.high - c.low;
    }
    print_message("bootstrap: %d of %d intervals hold the true mean\n", covered, SETS);
    assert_true(covered >= SETS * 90 / 100 && covered <= SETS * 98 / 100); /* the percentile kind is a little narrow at n = 40 */
    near(width / SETS, 2 * 1.96 * 2 / sqrt(N), 0.08);
}

static void bootstrap_repeats(void **state)
{
    (void)state;
    double x[50] = {0, 1, 1, 0, 1, 0.5, 0.25, 1};
    rng    g;
    rng_seed(&g, 5);
    for (int i = 8; i < 50; i++) x[i] = rng_unit(&g);
    double sum = 0;
    for (int i = 0; i < 50; i++) sum += x[i];
    interval a = eval_mean(x, COUNT_OF(x), 7), b = eval_mean(x, COUNT_OF(x), 7), c = eval_mean(x, COUNT_OF(x), 8);
    assert_memory_equal(&a, &b, sizeof a);
    assert_true(a.mean == c.mean && memcmp(&a, &c, sizeof a) != 0);
    near(a.mean, sum / 50, 1e-12);
    interval one = eval_mean(x + 5, 1, 1);
    assert_true(one.mean == 0.5 && one.low == 0.5 && one.high == 0.5);
    interval none = eval_mean(x, 0, 1);
    assert_true(isnan(none.mean) && isnan(none.low) && isnan(none.high));
}

static void paired(void **state)
{
    (void)state;
    double a[30], b[30], d[30];
    rng    g;
    rng_seed(&g, 2);
    for (int i = 0; i < 30; i++) { /* questions differ much, the two systems little: only the pairing shows it */
        double hard = 10 * rng_unit(&g);
        a[i] = hard + 0.5 + 0.1 * (double)rng_normal(&g);
        b[i] = hard;
        d[i] = a[i] - b[i];
    }
    interval p = eval_paired(a, b, 30, 5), same = eval_mean(d, 30, 5), zero = eval_paired(a, a, 30, 5);
    assert_memory_equal(&p, &same, sizeof p);
    assert_true(p.low > 0.4 && p.high < 0.6);
    assert_true(zero.mean == 0 && zero.low == 0 && zero.high == 0);
    assert_true(isnan(eval_paired(a, b, 0, 5).mean));
}

static void wilson(void **state)
{
    (void)state;
    static const struct { i64 k, n; double low, high; } known[] = { /* Newcombe 1998, table I, method 3 */
        {81, 263, 0.2553, 0.3662}, {15, 148, 0.0624, 0.1605}, {0, 20, 0, 0.1611}, {1, 29, 0.0061, 0.1718}};
    for (usize i = 0; i < COUNT_OF(known); i++) {
        interval c = eval_share(known[i].k, known[i].n), other = eval_share(known[i].n - known[i].k, known[i].n);
        near(c.mean, (double)known[i].k / (double)known[i].n, 1e-12);
        near(c.low, known[i].low, 5e-5);
        near(c.high, known[i].high, 5e-5);
        near(other.low, 1 - c.high, 1e-12);
        near(other.high, 1 - c.low, 1e-12);
    }
    interval all = eval_share(10, 10);
    near(all.low, 0.722467, 1e-6);
    near(all.high, 1, 1e-12);
    assert_true(isnan(eval_share(0, 0).mean));
}

/* ---- classification ---- */

static void classes_by_hand(void **state)
{
    (void)state;
    /*  truth\given  0  1  2      F1 of 0: 2*2/(3+3), of 1: 2*1/(3+2), of 2: 2*1/(2+3) */
    static const int  truth[] = {0, 0, 0, 1, 1, 1, 2, 2}, given[] = {0, 0, 1, 1, 2, 2, 2, 0};
    static const i64  table[9] = {2, 1, 0, 0, 1, 2, 1, 0, 1};
    classified        c;
    assert_ok(eval_classes(truth, given, 8, 3, &c));
    assert_memory_equal(c.confusion, table, sizeof table);
    near(c.accuracy, 0.5, 0);
    near(c.macro_f1, (4.0 / 6 + 2.0 / 5 + 2.0 / 5) / 3, 1e-12);
    near(c.accuracy_ci.low, eval_share(4, 8).low, 0);
    assert_int_equal(c.n, 8);
    assert_int_equal(c.classes, 3);
    mem_free(c.confusion);
    assert_ok(eval_classes(truth, given, 8, 7, &c)); /* classes that occur nowhere do not pull the mean down */
    near(c.macro_f1, (4.0 / 6 + 2.0 / 5 + 2.0 / 5) / 3, 1e-12);
    mem_free(c.confusion);
    assert_ok(eval_classes((int[]){0, 0}, (int[]){0, 1}, 2, 2, &c)); /* class 1 given, never true: F1 0, and it counts */
    near(c.macro_f1, (2.0 / 3 + 0) / 2, 1e-12);
    mem_free(c.confusion);
}

static void classes_errors(void **state)
{
    (void)state;
    classified c;
    err        bad = eval_classes((int[]){0, 1}, (int[]){0, 3}, 2, 2, &c);
    assert_int_equal(bad.code, ERR_INPUT);
    assert_non_null(strstr(bad.what, "row 1"));
    assert_null(c.confusion);
    assert_int_equal(eval_classes((int[]){-1}, (int[]){0}, 1, 2, &c).code, ERR_INPUT);
    assert_int_equal(eval_classes((int[]){0}, (int[]){0}, 1, 0, &c).code, ERR_INPUT);
    assert_int_equal(eval_classes((int[]){0}, (int[]){0}, 1, -3, &c).code, ERR_INPUT);
    mem_fail_at(1);
    bad = eval_classes((int[]){0}, (int[]){0}, 1, 2, &c);
    mem_fail_at(0);
    assert_int_equal(bad.code, ERR_NOMEM);
    assert_ok(eval_classes(NULL, NULL, 0, 2, &c));
    assert_true(isnan(c.accuracy) && isnan(c.macro_f1));
    mem_free(c.confusion);
}

/* ---- likelihood ---- */

static const char *const story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, "
                                 "she saw a big, red ball. She wanted to play with it, but it was too high. Lily's friend helped her.";

static engine *stories(void)
{
    const char *path = test_shared("data/model-stories260k/stories260K.gguf");
    SKIP_WITHOUT(path, "stories260K");
    engine *e;
    assert_ok(engine_open(&e, path, &(engine_opts){.threads = 1}));
    return e;
}

/* -sum of scores of one window, through a session of its own */
static double window_nll(engine *e, const i32 *id, usize n)
{
    float   *score = malloc(sizeof *score * n);
    session *s;
    double   sum = 0;
    assert_ok(session_open(&s, e, 9));
    assert_ok(session_generate(s, &(gen_request){.ids = id, .n = n, .score = score, .sample = {.top_p = 1, .repeat_penalty = 1}}, NULL));
    session_close(s);
    assert_true(score[0] == 0);
    for (usize i = 1; i < n; i++) sum -= (double)score[i];
    free(score);
    return sum;
}

static void nll_is_the_mean_of_scores(void **state)
{
    (void)state;
    engine    *e = stories();
    ids        t = {0};
    likelihood l;
    assert_ok(tokenize(engine_model(e)->tok, str_of(story), TOKENIZE_BOS, &t));
    assert_true(t.n > 40 && t.id[0] == tokenizer_source(engine_model(e)->tok)->bos);
    assert_ok(eval_nll(e, str_of(story), 512, &l, NULL));
    assert_int_equal(l.tokens, t.n - 1);
    near(l.nll, window_nll(e, t.id, t.n) / (double)(t.n - 1), 1e-12);
    near(l.ppl, exp(l.nll), 1e-9);
    assert_true(l.nll > 0.3 && l.nll < 3); /* it was trained on such stories */

    enum { CTX = 16 }; /* BOS and fifteen tokens a window; the last one is shorter */
    double sum = 0;
    i64    tokens = 0;
    i32    w[CTX] = {t.id[0]};
    for (usize from = 1; from < t.n; from += CTX - 1) {
        usize n = t.n - from < CTX - 1 ? t.n - from : CTX - 1;
        memcpy(w + 1, t.id + from, sizeof *w * n);
        sum += window_nll(e, w, n + 1);
        tokens += (i64)n;
    }
    likelihood cut;
    assert_ok(eval_nll(e, str_of(story), CTX, &cut, NULL));
    assert_int_equal(cut.tokens, tokens);
    near(cut.nll, sum / (double)tokens, 1e-12);
    assert_true(cut.nll > l.nll); /* less to go by */
    ids_free(&t);
    engine_close(e);
}

static void nll_errors(void **state)
{
    (void)state;
    engine    *e = stories();
    likelihood l;
    buf        text = {0};
    assert_int_equal(eval_nll(e, S(""), 128, &l, NULL).code, ERR_INPUT);
    assert_int_equal(eval_nll(e, str_of(story), 1, &l, NULL).code, ERR_INPUT);
    assert_int_equal(eval_nll(e, str_of(story), 0, &l, NULL).code, ERR_INPUT);
    assert_int_equal(eval_nll(e, str_of(story), -5, &l, NULL).code, ERR_INPUT);
    for (int i = 0; i < 200; i++) buf_puts(&text, story);
    err bad = eval_nll(e, buf_view(&text), 1 << 20, &l, NULL); /* a window that the model does not have */
    assert_int_equal(bad.code, ERR_INPUT);
    assert_non_null(strstr(bad.what, "context"));
    bad = eval_nll(e, buf_view(&text), INT64_MAX, &l, NULL);
    assert_true(bad.code == ERR_INPUT || bad.code == ERR_NOMEM);
    assert_ok(eval_nll(e, str_of(story), 2, &l, NULL)); /* the engine is none the worse */
    buf_free(&text);
    engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranking_by_hand), cmocka_unit_test(ranking_at_the_edges), cmocka_unit_test(ranking_counts_each_once),
        cmocka_unit_test(auc_with_ties),   cmocka_unit_test(bootstrap),            cmocka_unit_test(bootstrap_repeats),
        cmocka_unit_test(paired),          cmocka_unit_test(wilson),               cmocka_unit_test(classes_by_hand),
        cmocka_unit_test(classes_errors),  cmocka_unit_test(nll_is_the_mean_of_scores), cmocka_unit_test(nll_errors),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
