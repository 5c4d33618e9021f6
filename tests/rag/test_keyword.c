/* tests/rag/test_keyword.c - the keyword index: against BM25 by its definition, against damage, and on the public collections. */
#include "../support/support.h"
#include "index_files.h"
#include "retrieval_sets.h"

static keyword_index *index_of(const char *const *text, usize n)
{
    keyword_builder *b;
    keyword_index *k;
    assert_ok(keyword_builder_new(&b));
    for (usize i = 0; i < n; i++) assert_ok(keyword_builder_add(b, (i64)i * 10, (i64)i / 2, str_of(text[i])));
    assert_ok(keyword_builder_write(b, index_path(), 7));
    assert_ok(keyword_open(&k, index_path()));
    assert_int_equal(keyword_generation(k), 7);
    unlink(index_path());
    return k;
}

/* hits as "30 0 " */
static const char *search(keyword_index *k, const char *query, const search_filter *filter, usize most)
{
    static char out[400];
    keyword_hit *h;
    usize n, at = 0;
    assert_ok(keyword_search(k, str_of(query), filter, most, &h, &n));
    assert_true(n <= most);
    out[0] = 0;
    for (usize i = 0; i < n; i++) at += (usize)snprintf(out + at, sizeof out - at, "%lld ", (long long)h[i].chunk);
    mem_free(h);
    return out;
}

static const char *const small[] = {
    "대한민국의 결제시스템을 구축하였다. 결제는 안전하다.",
    "낙동강은 길다. 강물이 맑다.",
    "The server was connected to the payment network in 2023.",
    "서버 API를 2023년에 바꾸었다. 결제 서버는 그대로 두었다.",
    "",
};

static void test_finds(void **state)
{
    (void)state;
    keyword_index *k = index_of(small, COUNT_OF(small));
    assert_string_equal(search(k, "결제", NULL, 10), "0 30 "); /* two syllables inside a compound */
    assert_string_equal(search(k, "시스템", NULL, 10), "0 ");
    assert_string_equal(search(k, "강", NULL, 10), "10 "); /* one syllable, by the beginnings of words */
    assert_string_equal(search(k, "동", NULL, 10), "");
    assert_string_equal(search(k, "connecting networks", NULL, 10), "20 ");
    assert_string_equal(search(k, "api", NULL, 10), "30 ");
    assert_string_equal(search(k, "결제 서버", NULL, 1), "30 ");
    assert_string_equal(search(k, "결제 서버", NULL, 0), "");
    assert_string_equal(search(k, "무엇인가요?", NULL, 10), ""); /* no terms */
    assert_string_equal(search(k, "", NULL, 10), "");
    assert_string_equal(search(k, "to be or not to be", NULL, 10), "");
    assert_string_equal(search(k, "없는말", NULL, 10), "");
    keyword_close(k);
}

static bool keep_even(void *ctx, i64 chunk, i64 owner)
{
    ++*(int *)ctx;
    return owner == chunk / 20 && chunk % 20 == 0;
}

static void test_filter(void **state)
{
    (void)state;
    int asked = 0;
    search_filter f = {keep_even, &asked};
    keyword_index *k = index_of(small, COUNT_OF(small));
    assert_string_equal(search(k, "결제 서버 server", &f, 10), "20 0 ");
    assert_int_equal(asked, 3); /* only of chunks that have a term */
    keyword_hit *h;
    usize n;
    assert_ok(keyword_search(k, S("결제 서버"), &f, 10, &h, &n));
    assert_int_equal(n, 1);
    assert_true(h[0].score >= 1); /* the best that passed is the measure, not the one that was filtered out */
    mem_free(h);
    assert_string_equal(search(k, "결제 서버", NULL, 10), "30 0 "); /* nothing is left behind */
    keyword_close(k);
}

static void test_empty(void **state)
{
    (void)state;
    keyword_index *k = index_of(small, 0);
    assert_string_equal(search(k, "결제", NULL, 10), "");
    assert_true(keyword_idf(k, 1) > 0);
    assert_true(keyword_coverage(k, S("결제"), S("결제")) == 1);
    keyword_close(k);
    k = index_of(small + 4, 1);
    assert_string_equal(search(k, "결제", NULL, 10), "");
    keyword_close(k);
    assert_int_equal(keyword_open(&k, "/nonexistent/keyword.idx").code, ERR_NOTFOUND);
    assert_null(k);
}

static void test_refuses_disorder(void **state)
{
    (void)state;
    keyword_builder *b;
    assert_ok(keyword_builder_new(&b));
    assert_ok(keyword_builder_add(b, 5, 1, S("하나")));
    assert_int_equal(keyword_builder_add(b, 5, 1, S("둘")).code, ERR_INPUT);
    assert_int_equal(keyword_builder_add(b, 4, 1, S("둘")).code, ERR_INPUT);
    assert_ok(keyword_builder_add(b, 6, 1, S("둘")));
    keyword_builder_drop(b);
    keyword_builder_drop(NULL);
    keyword_close(NULL);
}

/* ---- against the definition --------------------------------------------------------------------------------------- */
enum { DOCS = 400 };
static const char *const words[] = {"서울의", "수도는", "결제",    "시스템을", "server", "running", "데이터베이스", "2023년",
                                    "강",     "강물이", "API를",   "나무",     "하늘은", "국민의",  "國家",         "보험료",
                                    "급여를", "the",    "payment", "networks", "통신사", "예산안",  "위원회가",     "제출하였다"};

typedef struct {
    keyword_index *k;
    terms doc[DOCS];
    double mean[3];
    buf text[DOCS];
} world;

static void world_make(world *w, u64 seed)
{
    rng r;
    rng_seed(&r, seed);
    const char *text[DOCS];
    memset(w, 0, sizeof *w);
    for (int d = 0; d < DOCS; d++) {
        usize n = rng_u64(&r) % 30;
        for (usize i = 0; i < n; i++) { /* the first words are the frequent ones; some texts are alike */
            usize most = 1 + rng_u64(&r) % COUNT_OF(words);
            buf_fmt(&w->text[d], "%s ", words[rng_u64(&r) % most]);
        }
        if (d % 50 == 49) buf_reset(&w->text[d]), buf_str(&w->text[d], buf_view(&w->text[d - 1]));
        text[d] = buf_cstr(&w->text[d]);
        assert_ok(terms_of(str_of(text[d]), false, &w->doc[d]));
        for (usize i = 0; i < w->doc[d].n; i++) w->mean[w->doc[d].t[i].field] += 1.0 / DOCS;
    }
    w->k = index_of(text, DOCS);
}

static void world_free(world *w)
{
    for (int d = 0; d < DOCS; d++) terms_free(&w->doc[d]), buf_free(&w->text[d]);
    keyword_close(w->k);
}

static double frequency(const terms *t, u64 hash, int field)
{
    double n = 0;
    for (usize i = 0; i < t->n; i++) n += t->t[i].hash == hash && t->t[i].field == field;
    return n;
}

static double idf(const world *w, u64 hash, int field)
{
    double df = 0;
    for (int d = 0; d < DOCS; d++) df += frequency(&w->doc[d], hash, field) > 0;
    return log(1 + (DOCS - df + 0.5) / (df + 0.5));
}

/* score[d]: BM25 of a field, by its definition; returns the best */
static double bm25(const world *w, const terms *query, int field, double score[DOCS])
{
    double best = 0;
    for (int d = 0; d < DOCS; d++) score[d] = 0;
    for (usize i = 0; i < query->n; i++) {
        if (query->t[i].field != field) continue;
        double weight = idf(w, query->t[i].hash, field);
        for (int d = 0; d < DOCS; d++) {
            double tf = frequency(&w->doc[d], query->t[i].hash, field), length = 0;
            for (usize k = 0; k < w->doc[d].n; k++) length += w->doc[d].t[k].field == field;
            score[d] += weight * tf / (tf + 1.2 * (1 - 0.75 + 0.75 * length / w->mean[field]));
            if (score[d] > best) best = score[d];
        }
    }
    return best;
}

static void coverage(const world *w, const terms *query, double share[DOCS], double *mass)
{
    *mass = 0;
    for (int d = 0; d < DOCS; d++) share[d] = 0;
    for (usize i = 0; i < query->n; i++) {
        const term *t = &query->t[i];
        bool again = t->field == 1;
        for (usize k = 0; k < i; k++) again = again || (query->t[k].hash == t->hash && query->t[k].field == t->field);
        if (again) continue;
        double v = idf(w, t->hash, t->field);
        *mass += v;
        for (int d = 0; d < DOCS; d++) share[d] += frequency(&w->doc[d], t->hash, t->field) > 0 ? v : 0;
    }
}

static void check_query(const world *w, const char *query)
{
    static double main_score[DOCS], word_score[DOCS], share[DOCS], expected[DOCS];
    terms q = {0};
    assert_ok(terms_of(str_of(query), true, &q));
    int main_field = q.n && q.t[0].field == 2 ? 2 : 0;
    double best = bm25(w, &q, main_field, main_score), best_word = bm25(w, &q, 1, word_score), mass, all = 0;
    coverage(w, &q, share, &mass);
    for (usize i = 0; i < q.n; i++) all += q.t[i].field == main_field ? idf(w, q.t[i].hash, main_field) : 0;
    usize expect = 0, n;
    for (int d = 0; d < DOCS; d++) {
        expected[d] = (best > 0 ? main_score[d] / best : 0) + (best_word > 0 ? 0.5 * word_score[d] / best_word : 0);
        expect += expected[d] > 0;
    }
    keyword_hit *h;
    assert_ok(keyword_search(w->k, str_of(query), NULL, DOCS, &h, &n));
    assert_int_equal(n, expect);
    for (usize i = 0; i < n; i++) {
        int d = (int)(h[i].chunk / 10);
        assert_true(fabs(h[i].score - expected[d]) < 2e-5);
        assert_true(fabs(h[i].coverage - share[d] / mass) < 2e-5 && fabs(h[i].share - main_score[d] / all) < 2e-5);
        assert_true(fabs(keyword_coverage(w->k, str_of(query), buf_view(&w->text[d])) - h[i].coverage) < 2e-5);
        if (i) assert_true(h[i - 1].score > h[i].score || (h[i - 1].score == h[i].score && h[i - 1].chunk < h[i].chunk));
        expected[d] = 0; /* each once */
    }
    for (usize most = 1; most <= n && most < 20; most++) { /* the first of all, however many are wanted */
        keyword_hit *few;
        usize n_few;
        assert_ok(keyword_search(w->k, str_of(query), NULL, most, &few, &n_few));
        assert_int_equal(n_few, most);
        for (usize i = 0; i < most; i++) assert_int_equal(few[i].chunk, h[i].chunk);
        mem_free(few);
    }
    mem_free(h);
    for (usize i = 0; i < q.n; i++)
        if (q.t[i].field == 0) assert_true(fabs(keyword_idf(w->k, q.t[i].hash) - idf(w, q.t[i].hash, 0)) < 1e-5);
    terms_free(&q);
}

static void test_definition(void **state)
{
    (void)state;
    static world w;
    world_make(&w, 5);
    static const char *const queries[] = {"결제 시스템",
                                          "강",
                                          "서울의 수도는 어디인가요",
                                          "running servers",
                                          "API 2023년 강",
                                          "결제 결제 결제 나무",
                                          "國家 국민의 위원회가 제출하였다 하늘은",
                                          "강 없",
                                          "없는말 결제",
                                          "the payment networks"};
    for (usize i = 0; i < COUNT_OF(queries); i++) check_query(&w, queries[i]);
    world_free(&w);
}

/* long lists: gaps and frequencies of every size survive the varints and slices */
static void test_long_postings(void **state)
{
    (void)state;
    keyword_builder *b;
    keyword_index *k;
    keyword_hit *h;
    usize n, expect = 0;
    assert_ok(keyword_builder_new(&b));
    for (i64 d = 0; d < 30000; d++) {
        buf text = {0};
        for (i64 i = 0; i < d % 300; i += 1 + d % 7) buf_puts(&text, d % 3 ? "자주 " : "나무 ");
        if (d == 3 || d == 29001) buf_puts(&text, "드물게");
        assert_ok(keyword_builder_add(b, d, d, buf_view(&text)));
        expect += d % 300 && d % 3;
        buf_free(&text);
    }
    assert_ok(keyword_builder_write(b, index_path(), 1));
    assert_ok(keyword_open(&k, index_path()));
    assert_ok(keyword_search(k, S("자주"), NULL, 100000, &h, &n));
    assert_int_equal(n, expect);
    mem_free(h);
    assert_string_equal(search(k, "드물게", NULL, 10), "3 29001 ");
    keyword_close(k);
    unlink(index_path());
}

static void test_long_text(void **state)
{
    (void)state;
    buf text = {0};
    for (int i = 0; i < 40000; i++) buf_fmt(&text, "단어%d은 ", i % 1000);
    buf_puts(&text, "마지막말");
    const char *one[] = {buf_cstr(&text)};
    keyword_index *k = index_of(one, 1);
    assert_string_equal(search(k, "마지막말", NULL, 10), "0 ");
    assert_string_equal(search(k, "777", NULL, 10), "0 ");
    keyword_close(k);
    buf_reset(&text);
    while (text.n < 300000) buf_puts(&text, "끝없는말"); /* no place to cut it */
    one[0] = buf_cstr(&text);
    k = index_of(one, 1);
    assert_string_equal(search(k, "없는", NULL, 10), "0 ");
    keyword_close(k);
    buf_free(&text);
}

/* ---- damage ------------------------------------------------------------------------------------------------------- */
/* whatever the file: an error of kind FORMAT, or hits that are in order */
static bool use(const char *path)
{
    keyword_index *k;
    err bad = keyword_open(&k, path);
    if (bad.code) {
        assert_int_equal(bad.code, ERR_FORMAT);
        assert_null(k);
        return false;
    }
    bool good = true;
    const char *queries[] = {"결제 시스템 서버", "강", "server networks 2023"};
    for (usize i = 0; i < COUNT_OF(queries); i++) {
        keyword_hit *h;
        usize n;
        bad = keyword_search(k, str_of(queries[i]), NULL, 5, &h, &n);
        if (bad.code) assert_int_equal(bad.code, ERR_FORMAT);
        good = good && !bad.code;
        assert_true(n <= 5);
        mem_free(h);
        keyword_coverage(k, str_of(queries[i]), S("결제 서버"));
    }
    keyword_idf(k, 12345);
    keyword_close(k);
    return good;
}

static void test_damage(void **state)
{
    (void)state;
    keyword_builder *b;
    buf whole = {0};
    assert_ok(keyword_builder_new(&b));
    for (usize i = 0; i < COUNT_OF(small); i++) assert_ok(keyword_builder_add(b, (i64)i, 0, str_of(small[i])));
    assert_ok(keyword_builder_write(b, index_path(), 1));
    assert_true(use(index_path()));
    assert_ok(file_read(&whole, index_path(), 0));
    u8 *copy = mem_alloc(whole.n);
    usize noticed = 0;
    for (usize i = 0; i < whole.n; i++) {
        memcpy(copy, whole.p, whole.n);
        copy[i] ^= (u8)(1 << i % 8);
        assert_true(index_write(index_path(), copy, whole.n));
        noticed += !use(index_path());
        copy[i] = (u8)(i % 3 ? 0xFF : copy[i] + 1); /* past the checksums: anything but a read outside */
        index_repair(copy, whole.n);
        assert_true(index_write(index_path(), copy, whole.n));
        use(index_path());
    }
    assert_true(noticed == whole.n); /* one block here, so the first touch sees any flipped bit */
    for (usize n = 0; n < whole.n; n += n < 600 ? 1 : 37) {
        assert_true(index_write(index_path(), whole.p, n));
        assert_false(use(index_path()));
    }
    unlink(index_path());
    mem_free(copy);
    buf_free(&whole);
}

static err make_small(void)
{
    keyword_builder *b;
    TRY(keyword_builder_new(&b));
    for (usize i = 0; i < COUNT_OF(small); i++) {
        err bad = keyword_builder_add(b, (i64)i, 0, str_of(small[i]));
        if (bad.code) return keyword_builder_drop(b), bad;
    }
    return keyword_builder_write(b, index_path(), 1);
}

static err use_small(void)
{
    keyword_index *k;
    keyword_hit *h;
    usize n;
    TRY(keyword_open(&k, index_path()));
    err bad = keyword_search(k, S("결제 서버"), NULL, 5, &h, &n);
    mem_free(h);
    keyword_close(k);
    return bad;
}

static void test_out_of_memory(void **state)
{
    (void)state;
    assert_ok(make_small());
    for (int which = 0; which < 2; which++)
        for (i64 n = 1;; n++) {
            usize before = mem_now();
            mem_fail_at(n);
            err bad = which ? use_small() : make_small();
            mem_fail_at(0);
            assert_int_equal(mem_now(), before);
            if (!bad.code) break;
            assert_int_equal(bad.code, ERR_NOMEM);
        }
    unlink(index_path());
}

/* ---- the public collections --------------------------------------------------------------------------------------- */
static void check_set(const char *name, double bar)
{
    char docs[200], questions[200];
    snprintf(docs, sizeof docs, "data/retrieval/%s/docs.jsonl.zst", name);
    snprintf(questions, sizeof questions, "data/retrieval/%s/questions.jsonl", name);
    const char *path = test_shared(docs);
    SKIP_WITHOUT(path, docs);
    retrieval_set s;
    assert_true(set_load(&s, path, test_shared(questions)));
    keyword_index *k;
    keyword_builder *b;
    assert_ok(keyword_builder_new(&b));
    for (usize i = 0; i < s.n_text; i++) assert_ok(keyword_builder_add(b, (i64)i, (i64)i, str_of(s.text[i])));
    assert_ok(keyword_builder_write(b, index_path(), 1));
    assert_ok(keyword_open(&k, index_path()));
    double sum = 0;
    for (usize i = 0; i < s.n_q; i++) {
        keyword_hit *h;
        usize n;
        i64 found[10];
        assert_ok(keyword_search(k, str_of(s.q[i].query), NULL, 10, &h, &n));
        for (usize j = 0; j < n; j++) found[j] = h[j].chunk;
        sum += set_ndcg10(&s.q[i], found, n);
        mem_free(h);
    }
    print_message("%s: nDCG@10 %.4f over %zu questions, bar %.3f\n", name, sum / (double)s.n_q, s.n_q, bar);
    assert_true(sum / (double)s.n_q >= bar);
    keyword_close(k);
    set_free(&s);
    unlink(index_path());
}

static void test_korquad(void **state) { (void)state, check_set("korquad", 0.952); }
static void test_miracl(void **state) { (void)state, check_set("miracl", 0.645); }
static void test_autorag(void **state) { (void)state, check_set("autorag", 0.92); }
static void test_scifact(void **state) { (void)state, check_set("scifact", 0.69); }
static void test_cacm(void **state) { (void)state, check_set("cacm", 0.495); }
static void test_cisi(void **state) { (void)state, check_set("cisi", 0.365); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds),         cmocka_unit_test(test_filter),
        cmocka_unit_test(test_empty),         cmocka_unit_test(test_refuses_disorder),
        cmocka_unit_test(test_definition),    cmocka_unit_test(test_long_postings),
        cmocka_unit_test(test_long_text),     cmocka_unit_test(test_damage),
        cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_korquad),
        cmocka_unit_test(test_miracl),        cmocka_unit_test(test_autorag),
        cmocka_unit_test(test_scifact),       cmocka_unit_test(test_cacm),
        cmocka_unit_test(test_cisi),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
