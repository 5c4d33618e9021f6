/* tests/rag/test_answer.c - asking: quoting without a model, refusing and its reasons, thresholds, calibration, and what is
 * promised of a written answer whatever the model. */
#include "answer_help.h"

static err ask(fixture_set *f, const char *question, ask_opts o, answer *a) { return collection_ask(f->c, question, &o, a); }

static void check_citations(fixture_set *f, const answer *a)
{
    for (usize i = 0; i < a->n_s; i++) {
        assert_int_equal(a->s[i].n > 0, a->s[i].verified);
        for (usize k = 0; k < a->s[i].n; k++) {
            const loaded *d;
            const citation *c = &a->s[i].c[k];
            assert_in_range(c->passage, 0, a->passages.n - 1);
            assert_ok(collection_document(f->c, a->passages.h[c->passage].document, &d, NULL));
            str all = {d->text, d->text_len};
            usize from = utf8_offset(all, c->start), to = utf8_offset(all, c->end);
            assert_int_equal(strlen(c->quote), to - from);
            assert_memory_equal(c->quote, all.p + from, to - from);
        }
    }
}

static void quoting(void **state)
{
    fixture_set *f = *state;
    static const struct {
        const char *question, *holds;
    } cases[] = {
        {"텐트는 며칠까지 빌릴 수 있나요?", "텐트는 9일까지 빌릴 수 있다."},
        {"큰 방은 주말에 얼마인가요?", "| 큰 방 | 67,000원 | 88,000원 |"},
        {"How long may a kayak be kept?", "A kayak may be kept for six hours."},
        {"carbon paddle price", "PD-9,carbon paddle,42,keep away from fire"},
        {"FX-22 오류는 어떻게 하나요?", "FX-22: 노즐을 청소한다."},
    };
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        answer a;
        assert_ok(ask(f, cases[i].question, (ask_opts){0}, &a));
        if (a.refused) fail_msg("\"%s\" refused: %s", cases[i].question, a.reason);
        assert_false(a.generated);
        assert_int_equal(a.n_s, 2);
        assert_null(a.reason);
        if (!strstr(a.text, cases[i].holds)) fail_msg("\"%s\": %s", cases[i].question, a.text);
        check_citations(f, &a);
        answer_free(&a);
        assert_ok(ask(f, cases[i].question, (ask_opts){.sentences = 1}, &a));
        assert_int_equal(a.n_s, 1);
        if (!strstr(a.s[0].c[0].quote, cases[i].holds)) fail_msg("\"%s\": best %s", cases[i].question, a.text);
        answer_free(&a);
    }
}

static void refusing(void **state)
{
    fixture_set *f = *state;
    static const struct {
        const char *question, *text;
    } cases[] = {
        {"화성 탐사선의 연료는 무엇인가요?", "문서에서 답을 찾을 수 없습니다."},
        {"Which composer wrote the longest opera?", "The documents do not answer this."},
        {"비트코인 채굴 난이도 조정 주기는 얼마인가요?", "문서에서 답을 찾을 수 없습니다."},
        {"???", "The documents do not answer this."},
    };
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        answer a;
        assert_ok(ask(f, cases[i].question, (ask_opts){0}, &a));
        assert_true(a.refused);
        assert_string_equal(a.text, cases[i].text);
        assert_non_null(a.reason);
        assert_int_equal(a.n_s, 0);
        assert_true((double)a.answerable < a.threshold);
        answer_free(&a);
        assert_ok(ask(f, cases[i].question, (ask_opts){.always_answer = true}, &a));
        assert_false(a.refused);
        assert_non_null(a.text);
        answer_free(&a);
    }
    answer a; /* what was found is listed all the same */
    assert_ok(ask(f, "텐트는 며칠까지 빌릴 수 있나요?", (ask_opts){.threshold = 1, .threshold_given = true}, &a));
    assert_true(a.refused && a.passages.n > 0);
    assert_non_null(strstr(a.reason, "1.00"));
    answer_free(&a);
    assert_ok(ask(f, "텐트는 며칠까지 빌릴 수 있나요?", (ask_opts){.threshold = 0, .threshold_given = true}, &a));
    assert_false(a.refused);
    answer_free(&a);
    assert_int_equal(ask(f, "텐트", (ask_opts){.threshold = 2, .threshold_given = true}, &a).code, ERR_INPUT);
}

static void signals_rank(void **state)
{
    fixture_set *f = *state;
    hits near, far;
    assert_ok(collection_search(f->c, "kayak deposit", &(search_opts){.k = 5}, &near));
    assert_ok(collection_search(f->c, "canoe insurance premium for divorced astronauts", &(search_opts){.k = 5}, &far));
    float yes = answerable_before(f->c, "kayak deposit", &near),
          no = answerable_before(f->c, "canoe insurance premium for divorced astronauts", &far);
    assert_true(yes > 0.5f && yes <= 1 && no < 0.3f && no >= 0);
    assert_true(answerable_before(f->c, "x", &(hits){0}) < 0.2f);
    hits_free(&near);
    hits_free(&far);
    evidence sure = {.best = {1.5f, 1, true}, .least = -0.1f, .verified = 1},
             unsure = {.best = {0, -2, true}, .least = -3, .verified = 0};
    assert_true(answerable_with(0.5f, &sure) > 0.8f && answerable_with(0.5f, &unsure) < 0.1f);
    assert_true(answerable_with(0.9f, &sure) > answerable_with(0.1f, &sure));
    float before = answerable_with(0.5f, &sure);
    sure.confirmed = true, sure.confirm = -0.6f; /* what was written is not what the sentence says */
    assert_true(answerable_with(0.5f, &sure) < before);
    sure.confirm = 5; /* counts to 1: a model that says yes to everything does not carry the rest */
    float most = answerable_with(0.5f, &sure);
    sure.confirm = 1;
    assert_true(answerable_with(0.5f, &sure) == most && most > before);
    unsure.confirmed = true, unsure.confirm = 5;
    assert_true(answerable_with(0.5f, &unsure) < 0.5f);
}

/* the line of the unit that holds `cell`, after a search for it */
static void want_line(collection *c, const char *query, const char *cell, const char *line)
{
    hits h;
    units u;
    buf b = {0};
    assert_ok(collection_search(c, query, &(search_opts){.k = 4}, &h));
    assert_ok(units_of(c, &h, h.n, &u));
    for (usize i = 0; i < u.n && !b.n; i++)
        if (str_find(u.u[i].text, str_of(cell), 0) >= 0) {
            assert_true(unit_has_names(&u, &u.u[i]));
            unit_line(&u, &u.u[i], &b);
        }
    assert_string_equal(buf_cstr(&b), line);
    buf_free(&b);
    units_free(&u);
    hits_free(&h);
}

static void rows_with_names(void **state)
{
    fixture_set *f = *state;
    want_line(f->c, "큰 방 주말 요금", "67,000원", "방: 큰 방 | 평일: 67,000원 | 주말: 88,000원");
    want_line(f->c, "carbon paddle", "PD-9", "code: PD-9 | name: carbon paddle | price: 42 | note: keep away from fire");

    char page[128];
    add_result r;
    collection *c;
    snprintf(page, sizeof page, "%s/rates.html", f->folder); /* the first column has no name, a caption stands above */
    str text = S("<table><caption>Rates</caption><tr><td></td><td>Day</td><td>Night</td></tr><tr><td>Canoe</td><td>31</td><td>12</td></tr></table>");
    assert_ok(file_replace(page, text.p, text.n));
    const char *list[] = {page, "samples/docs/ko/travel.pdf", "samples/docs/en/overseas_travel.pdf"};
    assert_ok(collection_open(&c, "rows", COLLECTION_WRITE));
    assert_ok(collection_add(c, list, COUNT_OF(list), &(add_opts){.quiet = true}, &r));
    assert_int_equal(r.added, COUNT_OF(list));
    add_result_free(&r);
    want_line(c, "canoe night", "Canoe", "Canoe | Day: 31 | Night: 12");
    /* two tables under one another in a PDF, each with its caption and its own names */
    want_line(c, "책임급 숙박비 상한액", "110,000원", "구분: 책임급 | 서울: 130,000원 | 광역시와 제주: 110,000원 | 그 밖의 지역: 90,000원");
    want_line(c, "책임급 일비", "36,000원", "구분: 책임급 | 일비: 30,000원 | 식비: 36,000원 | 합계: 66,000원");
    want_line(c, "hotel limit managers", "USD 210", "Group: B | Executives: USD 260 | Managers: USD 210 | Staff: USD 185");

    /* which countries group B is, another table says: only that of the row's own key, and no row of figures is a key */
    hits h;
    units u;
    usize keys = 0;
    assert_ok(collection_search(c, "hotel price per night for a manager in Japan", &(search_opts){.k = 8}, &h));
    assert_ok(units_of(c, &h, h.n, &u));
    for (usize i = 0; i < u.n; i++) {
        if (u.u[i].key < 0) continue;
        const unit *key = &u.u[u.u[i].key];
        assert_int_equal(u.u[i].text.p[0], key->text.p[0]);
        assert_true(key->header != u.u[i].header && str_find(key->text, S("USD"), 0) < 0);
        keys++;
        if (str_find(u.u[i].text, S("USD 210"), 0) < 0) continue;
        buf b = {0};
        unit_context(&u, &u.u[i], &b);
        assert_non_null(strstr(buf_cstr(&b), "Countries and cities: Japan, Germany"));
        buf_free(&b);
    }
    assert_true(keys >= 4);
    units_free(&u);
    hits_free(&h);
    collection_close(c);
}

static void plain_questions(void **state)
{
    (void)state;
    static const struct {
        const char *question, *plain;
    } cases[] = {
        {"혹시 텐트를 빌릴 수 있나요?", "텐트를 빌릴"},
        {"How do I return a kayak?", "return kayak"},
        {"무엇인가요?", "무엇인가요?"},
        {"", ""},
        {"FX-21은?", "FX-21은"},
    };
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        buf b = {0};
        assert_ok(question_plain(str_of(cases[i].question), &b));
        assert_string_equal(buf_cstr(&b), cases[i].plain);
        buf_free(&b);
    }
    assert_true(question_korean(S("TL-9는 얼마예요?")) && !question_korean(S("what is 물?x and more words")) &&
                !question_korean(S("123")));
    assert_true(question_asks_figure(S("며칠 걸려요")) && question_asks_figure(S("How many are there")) &&
                !question_asks_figure(S("누가 여나요")));
}

static void calibrating(void **state)
{
    fixture_set *f = *state;
    calibration one, two;
    char *kept = NULL;
    answer a;
    assert_ok(collection_calibrate(f->c, NULL, 0, &(ask_opts){0}, 0.9, &one));
    assert_ok(collection_calibrate(f->c, NULL, 0, &(ask_opts){0}, 0.9, &two));
    assert_memory_equal(&one, &two, sizeof one);
    assert_true(one.n > 100 && one.refused >= 0.9 && one.threshold > 0 && one.threshold < 1);
    if (one.auc < 0.85 || one.kept < 0.4) fail_msg("auc %.3f kept %.3f", one.auc, one.kept);
    assert_ok(collection_meta_get(f->c, "threshold", &kept));
    assert_non_null(kept);
    mem_free(kept);
    assert_ok(ask(f, "kayak deposit", (ask_opts){0}, &a)); /* its own threshold is in force */
    assert_true(a.threshold > one.threshold - 1e-5 && a.threshold < one.threshold + 1e-5);
    answer_free(&a);
    static const calibration_question asked[] = {{"텐트는 며칠까지 빌릴 수 있나요?", true},
                                                 {"kayak deposit", true},
                                                 {"큰 방은 주말에 얼마인가요?", true},
                                                 {"텐트 안에서 난로를 써도 되나요?", false},
                                                 {"who composed the opera", false}};
    assert_ok(collection_calibrate(f->c, asked, COUNT_OF(asked), &(ask_opts){0}, 0.5, &two));
    assert_int_equal(two.n, 5);
    assert_true(two.refused >= 0.5);
    assert_int_equal(collection_calibrate(f->c, asked, 2, &(ask_opts){0}, 0.5, &two).code, ERR_INPUT);
    assert_int_equal(collection_calibrate(f->c, NULL, 0, &(ask_opts){0}, 1.5, &two).code, ERR_INPUT);
    assert_ok(collection_meta_put(f->c, "threshold", "0.05"));
}

/* ---- with a small model: what it says does not matter here ---- */
static err gather(void *ctx, str text)
{
    buf_str(ctx, text);
    return OK;
}

static void writing(void **state)
{
    fixture_set *f = *state;
    const char *path = test_model("smollm2-135m.gguf");
    engine *e = NULL;
    session *s = NULL;
    answer a, b;
    buf streamed = {0};
    SKIP_WITHOUT(path, "smollm2-135m.gguf");
    assert_ok(engine_open(&e, path, &(engine_opts){.threads = 2, .kv_tokens = 2048, .max_seqs = 2}));
    assert_ok(session_open(&s, e, 0));
    ask_opts o = {.model = e, .session = s, .always_answer = true, .max_tokens = 24, .stream = gather, .ctx = &streamed};
    assert_ok(ask(f, "How long may a kayak be kept?", o, &a));
    assert_true(!a.refused && a.tokens > 0 && a.prompt_tokens > 100);
    assert_true(a.least_logprob <= a.mean_logprob && a.mean_logprob <= 0);
    assert_true(a.answerable_after >= 0 && a.answerable_after <= 1);
    if (a.generated)
        assert_int_equal(strncmp(buf_cstr(&streamed), a.text, strlen(a.text)), 0); /* tidied at the end only */
    else
        assert_true(a.reason && a.n_s && a.s[0].verified); /* quoted instead, and says so */
    assert_true(streamed.n > 0);
    check_citations(f, &a);
    o.session = NULL, o.stream = NULL;
    assert_ok(ask(f, "How long may a kayak be kept?", o, &b)); /* greedy: the same from an empty cache */
    assert_string_equal(a.text, b.text);
    answer_free(&b);
    o.always_answer = false, o.threshold = 1, o.threshold_given = true, o.session = s;
    assert_ok(ask(f, "How long may a kayak be kept?", o, &b));
    assert_true(b.refused && b.passages.n > 0 && b.n_s == 0 && b.reason != NULL);
    answer_free(&b);
    answer_free(&a);
    buf_free(&streamed);
    session_close(s);
    engine_close(e);
}

/* the sentence that was asked about makes the question likelier than any other does; a question about nothing here gains nothing
 */
static void likelihood(void **state)
{
    fixture_set *f = *state;
    const char *path = test_model("smollm2-135m.gguf");
    static const char *const questions[] = {"How long may a kayak be kept?", "Which astronaut repaired the telescope?"};
    judgement best[2];
    engine *e = NULL;
    session *s = NULL;
    SKIP_WITHOUT(path, "smollm2-135m.gguf");
    assert_ok(engine_open(&e, path, &(engine_opts){.threads = 2, .kv_tokens = 2048, .max_seqs = 2}));
    assert_ok(session_open(&s, e, 0));
    for (usize i = 0; i < 2; i++) {
        hits h;
        units u;
        signals sig;
        keyword_index *k;
        usize top = 0;
        assert_ok(collection_search(f->c, "kayak canoe gate warden", &(search_opts){.k = 4}, &h));
        assert_ok(collection_keyword(f->c, &k));
        assert_ok(units_of(f->c, &h, h.n, &u));
        assert_ok(units_score(k, NULL, questions[i], &h, &u, &sig));
        assert_ok(units_likely(e, s, questions[i], NULL, &u, 4, &best[i]));
        for (usize x = 0; x < u.n; x++)
            if (u.u[x].weighed && (!u.u[top].weighed || u.u[x].likely > u.u[top].likely)) top = x;
        assert_true(best[i].known && best[i].agree > -20 && best[i].agree < 20);
        if (!i) assert_non_null(strstr(u.u[top].text.p, "kept for six hours"));
        units_free(&u);
        hits_free(&h);
    }
    if (!(best[0].rise > 0.3f && best[0].rise > best[1].rise + 0.3f))
        fail_msg("rise %.2f and %.2f", (double)best[0].rise, (double)best[1].rise);
    session_close(s);
    engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(quoting),      cmocka_unit_test(refusing),
                                       cmocka_unit_test(signals_rank), cmocka_unit_test(rows_with_names),
                                       cmocka_unit_test(plain_questions),
                                       cmocka_unit_test(calibrating),  cmocka_unit_test(likelihood),
                                       cmocka_unit_test(writing)};
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
