/* tests/rag/test_terms.c - texts as terms: what is found, where it was, and that queries and texts agree. */
#include "../support/support.h"
#include "rag/rag.h"
#include <pthread.h>

static terms cut(const char *s, bool query)
{
    terms t = {0};
    assert_ok(terms_of(str_of(s), query, &t));
    return t;
}

static bool has(const terms *t, u64 hash, int field)
{
    for (usize i = 0; i < t->n; i++)
        if (t->t[i].hash == hash && t->t[i].field == field) return true;
    return false;
}

/* every term of the query (of that field, -1: any) is one of the text's; the query has at least one */
static bool found_in(const char *query, const char *text, int field)
{
    terms q = cut(query, true), t = cut(text, false);
    bool all = true, any = false;
    for (usize i = 0; i < q.n; i++)
        if (field < 0 || q.t[i].field == field) any = true, all = all && has(&t, q.t[i].hash, q.t[i].field);
    terms_free(&q);
    terms_free(&t);
    return any && all;
}

static usize count(const char *s, bool query, int field)
{
    terms t = cut(s, query);
    usize n = 0;
    for (usize i = 0; i < t.n; i++) n += field < 0 || t.t[i].field == field;
    terms_free(&t);
    return n;
}

static void test_korean(void **state)
{
    (void)state;
    const char *text = "대한민국의 결제시스템을 구축하였다";
    assert_true(found_in("결제", text, 0)); /* inside a compound */
    assert_true(found_in("시스템", text, 0));
    assert_true(found_in("대한민국은", text, -1)); /* another ending */
    assert_true(found_in("구축", text, -1));
    assert_true(found_in("결제시스템이란", text, -1));
    assert_false(found_in("결재", text, 0));
    assert_true(found_in("학교", "학교에서는 배운다", 1)); /* the stripped word */
    assert_false(found_in("학교", "고등학교에서는 배운다", 1));
    assert_true(found_in("학교", "고등학교에서는 배운다", 0));
    assert_true(found_in("나는", "나는 간다", 1)); /* no ending is taken when one syllable would remain */
}

static void test_single_syllables(void **state)
{
    (void)state;
    assert_true(found_in("강", "낙동강은 길고 강물은 맑다", -1)); /* 강물 begins so */
    assert_false(found_in("동", "낙동강은 길다", -1));
    assert_true(found_in("강", "강 하나", -1));
    terms q = cut("강 산", true); /* nothing longer: both by prefix */
    assert_int_equal(q.n, 2);
    assert_int_equal(q.t[0].field, 2);
    terms_free(&q);
    q = cut("강 이름", true); /* something longer: as words */
    for (usize i = 0; i < q.n; i++) assert_int_not_equal(q.t[i].field, 2);
    terms_free(&q);
    assert_true(found_in("國", "大韓民國은", -1));
    assert_true(found_in("民國", "大韓民國은", -1));
}

static void test_mixed_words(void **state)
{
    (void)state;
    assert_true(found_in("API", "API를 부른다", -1));
    assert_true(found_in("2023", "2023년도 예산", -1));
    assert_true(found_in("년도", "2023년도 예산", -1));
    assert_int_equal(count("API를", true, -1), count("API", true, -1)); /* an ending after a foreign word is no word */
    assert_true(found_in("커머스", "e커머스의 성장", -1));
    assert_true(found_in("大韓", "大韓民國의 역사", -1));
    assert_true(found_in("p53", "The p53-dependent pathway", -1));
    assert_true(found_in("1234", "총 1,234원", -1));
    assert_true(found_in("12,345,678", "12345678", -1));
    assert_false(found_in("12345", "12,34,5", -1));
    assert_true(found_in("34", "12,34", -1)); /* not a thousand */
}

static void test_english(void **state)
{
    (void)state;
    assert_true(found_in("connection", "They were connected.", -1));
    assert_true(found_in("Running", "to run", -1));
    assert_true(found_in("cat", "the cat's whiskers", -1));
    assert_true(found_in("cat’s", "the cat", -1));
    assert_true(found_in("don't", "You don’t", -1));
    assert_int_equal(count("the of and To BE or NOT to be", true, -1), 0);
    assert_int_equal(count("a an and are as at be but by for if in into is it no not of on or such that the their then there "
                           "these they this to was will with",
                           false, -1),
                     0);
    assert_int_equal(count("how", false, 0), 1);
}

static void test_folding(void **state)
{
    (void)state;
    assert_true(found_in("api", "ＡＰＩ", -1));
    assert_true(found_in("2023", "２０２３", -1));
    assert_true(found_in("m2", "넓이 85㎡", -1) || found_in("85m2", "넓이 85㎡", -1));
    assert_true(found_in("한국전자", "㈜한국전자", -1));
    assert_true(found_in("ÉCOLE", "école", -1));
    assert_true(found_in("ΣΊΣΥΦΟΣ", "σίσυφος", -1));
    assert_true(found_in("cooperate", "co\xC2\xADoperate", -1)); /* a soft hyphen */
    assert_true(found_in("office", "oﬃce", -1));
}

static void test_questions(void **state)
{
    (void)state;
    assert_int_equal(count("무엇인가요?", true, -1), 0);
    assert_int_equal(count("누구 어디 언제 어느 어떤 어떻게 왜 몇 무슨 얼마", true, -1), 0);
    assert_int_equal(count("어디에서는가 왜인가요 얼마나", true, -1), 0);
    assert_true(count("왜구", true, -1) > 0);
    assert_true(count("무엇인가요?", false, -1) > 0); /* of a text nothing is dropped */
    assert_int_equal(count("수도는 어디인가요?", true, -1), count("수도는", true, -1));
    assert_int_equal(count("", true, -1), 0);
    assert_int_equal(count("?!… \t\n", true, -1), 0);
}

static void assert_span(const char *text, const char *query, u32 start, u32 end, int field)
{
    terms t = cut(text, false), q = cut(query, true);
    bool good = false;
    for (usize i = 0; i < t.n; i++)
        for (usize k = 0; k < q.n; k++)
            good = good || (t.t[i].hash == q.t[k].hash && t.t[i].field == field && q.t[k].field == field &&
                            t.t[i].start == start && t.t[i].end == end);
    if (!good) fail_msg("%s: %s is not at [%u,%u)", text, query, start, end);
    terms_free(&t);
    terms_free(&q);
}

static void test_positions(void **state)
{
    (void)state;
    assert_span("대한민국의 결제시스템을", "결제", 6, 8, 0);
    assert_span("대한민국의 결제시스템을", "결제시스템", 6, 11, 1);
    assert_span("API를 쓰는 서버", "api", 0, 3, 0);
    assert_span("API를 쓰는 서버", "서버", 8, 10, 0);
    assert_span("㈜한국 ½ 서버", "서버", 6, 8, 0); /* one character stays one place whatever it becomes */
    assert_span("값은 1,234원", "1234", 3, 8, 0);
    assert_span("\xFF\xFE 서버", "서버", 3, 5, 0); /* a malformed byte is one place */
    assert_span("𝒜 서버", "서버", 2, 4, 0);
}

/* positions inside the text, not empty, fields known, whatever the bytes */
static void check_any(str s)
{
    usize n = utf8_count(s);
    for (int query = 0; query < 2; query++) {
        terms t = {0};
        assert_ok(terms_of(s, query, &t));
        for (usize i = 0; i < t.n; i++) {
            assert_true(t.t[i].start < t.t[i].end && t.t[i].end <= n);
            assert_true(t.t[i].field <= 2);
        }
        terms_free(&t);
    }
}

static void test_any_bytes(void **state)
{
    (void)state;
    rng r;
    rng_seed(&r, 3);
    char b[4096];
    for (int round = 0; round < 300; round++) {
        usize n = rng_u64(&r) % sizeof b;
        for (usize i = 0; i < n;) {
            u32 c = round % 3 == 0 ? 0 : (u32)(rng_u64(&r) % (round % 3 == 1 ? 0x800 : 0x30000));
            if (c && i + 4 <= n)
                i += utf8_put(b + i, c);
            else
                b[i++] = (char)rng_u64(&r);
        }
        check_any((str){b, n});
    }
}

static void test_long_runs(void **state)
{
    (void)state;
    static const char *const unit[] = {"가", "大", "a", "1", "1,234,", "a'", "ﷺ", "가a", "é́", "́", "왜", "한글 "};
    for (usize u = 0; u < COUNT_OF(unit); u++) {
        buf b = {0};
        while (b.n < 200000) buf_puts(&b, unit[u]);
        double start = clock_s();
        check_any(buf_view(&b));
        assert_true(clock_s() - start < 30); /* linear, not quadratic; ﷺ is 18 characters each time */
        buf_free(&b);
    }
    buf b = {0}; /* no pair is lost where a run is cut */
    for (u32 i = 0; i < 1000; i++) buf_utf8(&b, 0xAC00 + i);
    terms t = {0}, q = {0};
    assert_ok(terms_of(buf_view(&b), false, &t));
    for (u32 i = 0; i + 1 < 1000; i++) {
        char two[8];
        usize n = utf8_put(two, 0xAC00 + i);
        n += utf8_put(two + n, 0xAC00 + i + 1);
        q.n = 0;
        assert_ok(terms_of((str){two, n}, false, &q));
        for (usize k = 0; k < q.n; k++)
            if (q.t[k].field == 0) assert_true(has(&t, q.t[k].hash, 0));
    }
    terms_free(&t);
    terms_free(&q);
    buf_free(&b);
}

/* These values are on disk in every keyword index. If they change, TERMS_VERSION in rag/keyword.h has to. */
static void test_hashes_stay(void **state)
{
    (void)state;
    terms t = cut("결제시스템을 connections 2023 國", false);
    u64 sum = 0;
    for (usize i = 0; i < t.n; i++) sum = sum * 31 + t.t[i].hash + t.t[i].field;
    assert_int_equal(t.n, 12);
    assert_int_equal(sum, 0xb7f68b8b4a8c9252);
    terms_free(&t);
}

typedef struct {
    const char *text;
    u64 sum;
} job;
static void *cut_often(void *arg)
{
    job *j = arg;
    for (int i = 0; i < 20; i++) {
        terms t = {0};
        if (terms_of(str_of(j->text), false, &t).code) return NULL;
        j->sum = 0;
        for (usize k = 0; k < t.n; k++) j->sum = j->sum * 31 + t.t[k].hash;
        terms_free(&t);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    pthread_t th[4];
    job j[4];
    for (int i = 0; i < 4; i++) {
        j[i] = (job){"Connected systems were running ＡＰＩ 결제시스템을 ﬁnd Ωmega Жизнь 日本語 ①②③ generalizations", 0};
        assert_int_equal(pthread_create(&th[i], NULL, cut_often, &j[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(th[i], NULL);
    assert_true(j[0].sum);
    for (int i = 1; i < 4; i++) assert_int_equal(j[i].sum, j[0].sum);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    terms t = {0};
    assert_ok(terms_of(S("하나 둘"), false, &t));
    usize before = t.n;
    bool failed = false;
    for (i64 n = 1;; n++) {
        mem_fail_at(n);
        err bad =
            terms_of(S("ﷺ ⅷ 결제시스템을 구축하였다 ㈜ Ⰰ Ꭰ running 결제시스템을 구축하였다 결제시스템을 구축하였다"), false, &t);
        mem_fail_at(0);
        if (!bad.code) break;
        failed = true;
        assert_int_equal(bad.code, ERR_NOMEM);
        assert_int_equal(t.n, before);
    }
    assert_true(failed);
    terms_free(&t);
    assert_true(found_in("ⅷ", "VIII", -1)); /* the tables hold nothing half made */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_korean),      cmocka_unit_test(test_single_syllables),
        cmocka_unit_test(test_mixed_words),   cmocka_unit_test(test_english),     cmocka_unit_test(test_folding),
        cmocka_unit_test(test_questions),     cmocka_unit_test(test_positions),   cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_long_runs),     cmocka_unit_test(test_hashes_stay), cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
