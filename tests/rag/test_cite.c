/* tests/rag/test_cite.c - claims and alignment: which exact span supports a sentence, and what no span supports. */
#include "answer_help.h"

/* ---- claims ---- */
static bool one_holds(const char *source, const char *sentence)
{
    claims s = {0}, c = {0};
    bool all = true;
    assert_ok(claims_of(str_of(source), true, &s));
    assert_ok(claims_of(str_of(sentence), false, &c));
    assert_true(c.n > 0);
    for (usize i = 0; i < c.n; i++) all &= claims_hold(&s, &c.c[i]);
    claims_free(&s);
    claims_free(&c);
    return all;
}

static void figures(void **state)
{
    (void)state;
    static const struct {
        const char *source, *sentence;
        bool holds;
    } cases[] = {
        {"한도는 10,000원으로 한다", "10000원입니다", true},
        {"한도는 １０，０００ 원으로 한다", "10,000원", true},
        {"한도는 10000원", "1만 원까지", true},
        {"한도는 35,000원", "3만 5천원", true},
        {"한도는 35,000원", "35,500원", false},
        {"한도는 10,000원", "1,000원", false},
        {"접이식,TB-11,26000,7", "26,000원", true}, /* the measure stands in the header */
        {"휴가는 25일이다", "25일입니다", true},
        {"휴가는 25일이다", "25시간입니다", false},
        {"휴가는 25일이다", "2일입니다", false},
        {"오류율은 3.5 %이다", "3.5퍼센트", true},
        {"오류율은 3.5 %이다", "3.50 percent", true},
        {"오류율은 3.5 %이다", "35%", false},
        {"2025년 7월 28일(월)부터", "2025-07-28", true},
        {"08시 50분에 떠난다", "8시 50분", true},
        {"at 11:30 on Monday", "11:30", true},
        {"the loan period is seven days", "7 days", true},
        {"the loan period is 7 days", "seven days", true},
        {"the loan period is 7 days", "eight days", false},
        {"두 번까지 고칠 수 있다", "2번", true},
        {"한 번에 다섯 권", "5권", true},
        {"길이는 3 km이다", "3킬로미터", true},
        {"길이는 3 m이다", "3킬로미터", false},
        {"E-07 합선", "E-07", true},
        {"E-07 합선", "E-08", false},
        {"TB-300F 전용", "TB-300", false},
        {"part tb-300f only", "TB-300F", true},
        {"use the USB-C cable", "USB", true},
        {"the Fern office", "in the Fern office", true},
        {"the Fern office", "in the Moss office", false},
        {"① 휴가는 5일", "1일", false}, /* a clause's number is no figure */
        {"3. 부서장은 16일까지 계획을 낸다", "3일", false},
        {"3) 부서장은 16일까지 계획을 낸다", "16일", true},
        {"6.1 The supplier reports within 12 hours", "6.1 hours", false},
        {"7.5 % of the price", "7.5 percent", true},
    };
    for (usize i = 0; i < COUNT_OF(cases); i++)
        if (one_holds(cases[i].source, cases[i].sentence) != cases[i].holds)
            fail_msg("\"%s\" in \"%s\": expected %d", cases[i].sentence, cases[i].source, cases[i].holds);
}

/* ---- alignment ---- */
static void check_quotes(fixture_set *f, const hits *h, const answer_sentence *s)
{
    for (usize i = 0; i < s->n; i++) {
        const loaded *d;
        const citation *c = &s->c[i];
        assert_in_range(c->passage, 0, h->n - 1);
        assert_ok(collection_document(f->c, h->h[c->passage].document, &d, NULL));
        str all = {d->text, d->text_len};
        assert_true(c->start < c->end && c->end <= d->n_chars);
        usize from = utf8_offset(all, c->start), to = utf8_offset(all, c->end);
        assert_int_equal(strlen(c->quote), to - from);
        assert_memory_equal(c->quote, all.p + from, to - from);
        assert_true(c->where.line >= 1);
    }
}

static void alignment(void **state)
{
    fixture_set *f = *state;
    static const struct {
        const char *question, *sentence;
        bool verified;
        const char *in, *not_in;
    } cases[] = {
        {"텐트를 빌리면 며칠까지 쓸 수 있나요?", "텐트는 9일까지 빌릴 수 있습니다.", true, "텐트는 9일까지", "침낭"},
        {"텐트를 빌리면 며칠까지 쓸 수 있나요?", "9일입니다.", true, "텐트는 9일까지", "침낭"},
        {"텐트를 빌리면 며칠까지 쓸 수 있나요?", "텐트는 11일까지 빌릴 수 있습니다.", false, NULL, NULL}, /* no such number */
        {"침낭은 며칠 빌려주나요?", "침낭은 12일 동안 빌려 드립니다.", true, "침낭은 12일까지", NULL},
        {"침낭은 며칠 빌려주나요?", "침낭은 9일까지 빌릴 수 있습니다.", false, NULL, NULL},       /* the tent's */
        {"큰 방은 주말에 얼마인가요?", "큰 방의 주말 요금은 53,000원입니다.", false, NULL, NULL}, /* the small room's */
        {"방의 평일 요금은?", "작은 방은 평일 41,000원, 큰 방은 67,000원입니다.", true, "41,000원", NULL},
        {"텐트를 늦게 돌려주면 얼마를 내나요?", "하루에 4,500원을 연체료로 냅니다.", true, "4,500원", NULL},
        {"밤에 모닥불을 피워도 되나요?", "아니요, 22시 이후에는 모닥불을 피울 수 없습니다.", true, "22시", NULL},
        {"큰 방은 주말에 얼마인가요?", "큰 방의 주말 요금은 88,000원입니다.", true, "| 큰 방 |", "| 작은 방 |"},
        {"큰 방은 주말에 얼마인가요?", "큰 방의 주말 요금은 66,000원입니다.", false, NULL, NULL},
        {"버너에 FX-21이 나오면?", "FX-21 오류는 가스통을 다시 끼우면 됩니다.", true, "FX-21", "FX-22"},
        {"버너에 FX-23이 나오면?", "FX-23 오류는 가스통을 다시 끼우면 됩니다.", false, NULL, NULL},
        {"야영장 이용 규칙은?", "반려동물은 산책로에서 목줄을 매고 풍선을 들어야 한다고 시장이 말하였다.", false, NULL,
         NULL}, /* nothing of it is there */
        {"How long can I keep a kayak?", "A kayak may be kept for six hours.", true, "six hours", NULL},
        {"How long can I keep a kayak?", "You may keep it for 6 hours.", true, "six hours", NULL},
        {"How long can I keep a kayak?", "A kayak may be kept for eight hours.", false, NULL, NULL},
        {"What is the deposit?", "The deposit for a kayak is EUR 75.", true, "EUR 75", NULL},
        {"Who opens the gate?", "The gate is opened by the Heron warden.", true, "Heron", NULL},
        {"Who opens the gate?", "The gate is opened by the Pelican warden.", false, NULL, NULL},
        {"what does a paddle cost", "A carbon paddle, PD-9, costs 42.", true, "PD-9", "PD-7"},
    };
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        hits h;
        units u;
        answer_sentence s;
        float support;
        keyword_index *k;
        assert_ok(collection_search(f->c, cases[i].question, &(search_opts){.k = 6}, &h));
        assert_ok(collection_keyword(f->c, &k));
        assert_ok(units_of(f->c, &h, h.n, &u));
        assert_ok(cite_align(&(citer){.c = f->c, .k = k, .passages = &h, .u = &u, .question = cases[i].question},
                             str_of(cases[i].sentence), &s, &support));
        if (s.verified != cases[i].verified)
            fail_msg("\"%s\": verified %d, support %.2f, quote \"%s\"", cases[i].sentence, s.verified, (double)support,
                     s.n ? s.c[0].quote : "");
        assert_string_equal(s.text, cases[i].sentence);
        assert_int_equal(s.n > 0, s.verified);
        bool in = !cases[i].in, out = false;
        for (usize q = 0; q < s.n; q++) {
            in |= cases[i].in && strstr(s.c[q].quote, cases[i].in);
            out |= cases[i].not_in && strstr(s.c[q].quote, cases[i].not_in);
        }
        if (s.verified && (!in || out)) fail_msg("\"%s\" cites \"%s\"", cases[i].sentence, s.c[0].quote);
        check_quotes(f, &h, &s);
        answer_sentence_clear(&s);
        units_free(&u);
        hits_free(&h);
    }
}

/* Every sentence of the documents is supported by itself: exactly its own range, unless another says the same; with a figure
 * changed to one that is nowhere, by nothing. */
static void own_sentences(void **state)
{
    fixture_set *f = *state;
    documents d;
    rng r;
    int tried = 0, exact = 0;
    rng_seed(&r, 7);
    assert_ok(collection_documents(f->c, &d));
    for (int t = 0; t < 60; t++) {
        const document *x = &d.d[(usize)(rng_unit(&r) * (double)d.n)];
        hit one = {.document = x->id, .start = 0, .end = (u32)x->chars};
        hits h = {.h = &one, .n = 1};
        units u;
        keyword_index *k;
        assert_ok(units_of(f->c, &h, 1, &u));
        assert_ok(collection_keyword(f->c, &k));
        assert_true(u.n > 0);
        const unit *s = &u.u[(usize)(rng_unit(&r) * (double)u.n)];
        answer_sentence out;
        err bad;
        if (s->passage == 0 && s->kind != BLOCK_HEADING && s->own.n > 3) {
            assert_true(cite_sentence(f->c, k, s->text, &h, &out, &bad));
            assert_ok(bad);
            check_quotes(f, &h, &out);
            tried++;
            exact += out.c[0].start == s->start && out.c[0].end == s->end;
            answer_sentence_clear(&out);
            buf changed = {0};
            buf_str(&changed, s->text);
            buf_puts(&changed, t % 2 ? " 98765원" : " QZ-991");
            assert_false(cite_sentence(f->c, k, buf_view(&changed), &h, &out, &bad));
            assert_ok(bad);
            assert_int_equal(out.n, 0);
            answer_sentence_clear(&out);
            buf_free(&changed);
        }
        units_free(&u);
    }
    documents_free(&d);
    assert_true(tried > 20);
    if (exact * 10 < tried * 9) fail_msg("%d of %d sentences cite exactly themselves", exact, tried);
}

/* units lie in order, hold what their range says, and rows know their names */
static void unit_ranges(void **state)
{
    fixture_set *f = *state;
    documents d;
    usize rows = 0;
    assert_ok(collection_documents(f->c, &d));
    for (usize i = 0; i < d.n; i++) {
        hit one = {.document = d.d[i].id, .start = 0, .end = (u32)d.d[i].chars};
        hits h = {.h = &one, .n = 1};
        units u;
        const loaded *l;
        assert_ok(units_of(f->c, &h, 1, &u));
        assert_ok(collection_document(f->c, d.d[i].id, &l, NULL));
        str all = {l->text, l->text_len};
        for (usize k = 0; k < u.n; k++) {
            usize from = utf8_offset(all, u.u[k].start), to = utf8_offset(all, u.u[k].end);
            assert_int_equal(u.u[k].text.n, to - from);
            assert_memory_equal(u.u[k].text.p, all.p + from, to - from);
            if (k) assert_true(u.u[k].start >= u.u[k - 1].end);
            rows += u.u[k].header >= 0;
        }
        units_free(&u);
    }
    documents_free(&d);
    assert_true(rows >= 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(figures), cmocka_unit_test(alignment), cmocka_unit_test(own_sentences),
                                       cmocka_unit_test(unit_ranges)};
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
