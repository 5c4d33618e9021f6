/* SPLIT: what must hold for every document and budget (whole cover, no overlap, no cut word, budget kept, headings with what
 * follows), where the cuts fall, what stands above a chunk, and the estimate against the real count of the embedder. */
#include "load_help.h"
#include "../support/support.h"
#include "engine/engine.h"
#include "rag/store.h"
#include "text/text.h"

typedef struct {
    range *r;
    usize n;
} chunks;

static chunks split(const loaded *d, i64 budget)
{
    chunks c;
    no_err(split_document(d, budget, &c.r, &c.n));
    return c;
}

static bool word_char(u32 c) { return text_is_letter(c) || text_is_digit(c); }
static bool ideograph(u32 c) { return text_is_han(c) || (c >= 0x3040 && c <= 0x30FF); }

/* every character decoded once: cover, order, words */
static void check_cover(const loaded *d, const chunks *c)
{
    str s = {d->text, d->text_len};
    usize at = 0, k = 0;
    u32 before = ' ';
    for (u32 n = 0; at < s.n; n++) {
        u32 x = utf8_next(s, &at);
        while (k < c->n && n >= c->r[k].end) k++;
        bool in = k < c->n && n >= c->r[k].start, begins = in && n == c->r[k].start, ended = k > 0 && n == c->r[k - 1].end;
        if (!in && !text_is_space(x)) fail_msg("character %u (U+%04X) is in no chunk", n, x);
        if (begins && text_is_space(x)) fail_msg("chunk %zu begins with white space", k);
        if ((begins || ended) && word_char(before) && word_char(x) && !ideograph(before) && !ideograph(x))
            fail_msg("a word is cut at character %u", n);
        before = x;
    }
    for (usize i = 0; i < c->n; i++) {
        assert_true(c->r[i].start < c->r[i].end && c->r[i].end <= d->n_chars);
        if (i) assert_true(c->r[i].start >= c->r[i - 1].end);
    }
}

static bool has_space(str s)
{
    for (usize at = 0; at < s.n;)
        if (text_is_space(utf8_next(s, &at))) return true;
    return false;
}

static void check_budget(const loaded *d, const chunks *c, i64 budget)
{
    for (usize i = 0; i < c->n; i++) {
        str text = part_of(d, c->r[i].start, c->r[i].end);
        i64 cost = split_estimate(text);
        if (cost > budget && has_space(text))
            fail_msg("chunk %zu [%u,%u) is estimated at %lld tokens, the budget is %lld", i, c->r[i].start, c->r[i].end,
                     (long long)cost, (long long)budget);
    }
}

/* a heading that fits is in the chunk of the block behind it */
static void check_headings(const loaded *d, const chunks *c, i64 budget)
{
    for (usize i = 0, k = 0; i + 1 < d->n_blocks; i++) {
        const block *b = &d->blocks[i], *next = &d->blocks[i + 1];
        if (b->kind != BLOCK_HEADING) continue;
        while (c->r[k].end <= b->start) k++;
        i64 cost = 0;
        for (usize j = i + 1; j-- && d->blocks[j].kind == BLOCK_HEADING;)
            cost += split_estimate(part_of(d, d->blocks[j].start, d->blocks[j].end));
        if (cost < budget / 3 && c->r[k].end <= next->start) fail_msg("chunk %zu ends with the heading at %u", k, b->start);
    }
}

static void check_split(const loaded *d, i64 budget)
{
    chunks c = split(d, budget);
    check_cover(d, &c);
    check_budget(d, &c, budget);
    if (budget >= 64) check_headings(d, &c, budget);
    mem_free(c.r);
}

static const i64 budgets[] = {16, 40, 100, 320, 2000};
static err check_doc(void *ctx, loaded *d)
{
    (void)ctx;
    for (usize i = 0; i < COUNT_OF(budgets); i++)
        if (d->n_chars < 5000 || budgets[i] % 64 == 0) check_split(d, budgets[i]);
    chunks whole = split(d, -1);
    assert_true(whole.n <= 1);
    check_cover(d, &whole);
    mem_free(whole.r);
    loaded_free(d);
    return OK;
}
static void check_text(const char *name, const char *text) { no_err(load_bytes(name, text, strlen(text), check_doc, NULL)); }

/* ---- made by hand ------------------------------------------------------------------------------------------------------- */
static void empty_has_none(void **state)
{
    (void)state;
    loaded d = load_one("a.txt", S(" \n\n \t\n"));
    chunks c = split(&d, 320), whole = split(&d, -1);
    assert_int_equal(c.n + whole.n, 0);
    mem_free(c.r);
    mem_free(whole.r);
    loaded_free(&d);
}

static void sections_begin_chunks(void **state)
{
    (void)state;
    buf b = {0};
    buf_puts(&b, "# 취업규칙\n\n## 제1장 휴가\n\n");
    for (int i = 0; i < 4; i++) {
        buf_fmt(&b, "### 제%d조(휴가 %d)\n\n", i + 1, i);
        for (int k = 0; k < 4; k++) buf_fmt(&b, "직원은 %d일 전까지 신청서를 내고 부서장의 허가를 받아야 한다. ", k + i);
        buf_puts(&b, "\n\n");
    }
    loaded d = load_one("rule.md", buf_view(&b));
    chunks c = split(&d, 320);
    assert_int_equal(c.n, 4); /* the headings above the first article are in its chunk */
    assert_int_equal(c.r[0].start, 0);
    for (usize i = 1; i < c.n; i++) assert_true(str_starts(part_of(&d, c.r[i].start, c.r[i].end), S("### 제")));
    mem_free(c.r);
    loaded_free(&d);
    buf_free(&b);
}

static void long_sections_are_balanced(void **state)
{
    (void)state;
    buf b = {0};
    for (int i = 0; i < 26; i++)
        buf_fmt(&b, "Sentence %d of this paragraph says something that is about as long as the others.%s", i,
                i % 5 == 4 ? "\n\n" : " ");
    loaded d = load_one("a.txt", buf_view(&b));
    chunks c = split(&d, 300);
    i64 least = INT64_MAX, most = 0;
    for (usize i = 0; i < c.n; i++) {
        i64 cost = split_estimate(part_of(&d, c.r[i].start, c.r[i].end));
        least = i64_min(least, cost), most = i64_max(most, cost);
        assert_true(str_starts(part_of(&d, c.r[i].start, c.r[i].end), S("Sentence "))); /* cut between sentences */
    }
    assert_true(c.n >= 2 && least * 2 > most);
    mem_free(c.r);
    loaded_free(&d);
    buf_free(&b);
}

static void words_stay_whole(void **state)
{
    (void)state;
    buf b = {0};
    for (int i = 0; i < 400; i++) buf_fmt(&b, "낱말%d번 ", i * 7919 % 1000); /* one sentence without an end */
    check_text("a.txt", buf_cstr(&b));
    buf_reset(&b);
    for (int i = 0; i < 3000; i++) buf_byte(&b, "abcdefgh0123"[i % 12]); /* one word */
    loaded d = load_one("a.txt", buf_view(&b));
    chunks c = split(&d, 40);
    assert_int_equal(c.n, 1);
    mem_free(c.r);
    loaded_free(&d);
    buf_reset(&b);
    for (int i = 0; i < 900; i++) buf_utf8(&b, 0x4E00 + (u32)(i * 31 % 2000)); /* no spaces, but every character is a word */
    d = load_one("a.txt", buf_view(&b));
    c = split(&d, 64);
    assert_true(c.n > 10);
    check_cover(&d, &c);
    for (usize i = 0; i < c.n; i++) assert_true(split_estimate(part_of(&d, c.r[i].start, c.r[i].end)) <= 64);
    mem_free(c.r);
    loaded_free(&d);
    buf_reset(&b);
    for (int i = 0; i < 200; i++) buf_fmt(&b, "path%d/", i); /* behind punctuation */
    d = load_one("a.txt", buf_view(&b));
    c = split(&d, 64);
    assert_true(c.n > 5);
    for (usize i = 0; i + 1 < c.n; i++) assert_true(str_ends(part_of(&d, c.r[i].start, c.r[i].end), S("/")));
    mem_free(c.r);
    loaded_free(&d);
    buf_free(&b);
}

static void tables_by_rows(void **state)
{
    (void)state;
    buf b = {0};
    buf_puts(&b, "# 단가표\n\n| 부품 | 단가 |\n|---|---|\n");
    for (int i = 0; i < 120; i++) buf_fmt(&b, "| 센서 %d호 | %d원 |\n", i, i * 1000);
    loaded d = load_one("price.md", buf_view(&b));
    chunks c = split(&d, 160);
    split_above above;
    split_above_init(&above, &d);
    assert_true(c.n > 5);
    for (usize i = 0; i < c.n; i++) {
        buf context = {0};
        str text = part_of(&d, c.r[i].start, c.r[i].end);
        assert_true(str_ends(text, S("|")));
        no_err(split_context(&above, c.r[i], &context));
        if (i) assert_true(str_starts(text, S("| 센서")));
        if (i) assert_string_equal(buf_cstr(&context), "단가표\n| 부품 | 단가 |");
        buf_free(&context);
    }
    mem_free(c.r);
    loaded_free(&d);
    buf_free(&b);
}

static void csv_rows_know_their_columns(void **state)
{
    (void)state;
    buf b = {0};
    buf_puts(&b, "code,name,price\n");
    for (int i = 0; i < 90; i++) buf_fmt(&b, "TL-%03d,temperature logger %d,%d\n", i, i, 1000 + i);
    loaded d = load_one("prices.csv", buf_view(&b));
    chunks c = split(&d, 120);
    split_above above;
    split_above_init(&above, &d);
    assert_true(c.n > 5);
    for (usize i = 0; i < c.n; i++) {
        buf context = {0};
        no_err(split_context(&above, c.r[i], &context));
        assert_string_equal(buf_cstr(&context), i ? "code,name,price" : "");
        assert_true(str_starts(part_of(&d, c.r[i].start, c.r[i].end), i ? S("TL-") : S("code")));
        buf_free(&context);
    }
    mem_free(c.r);
    loaded_free(&d);
    buf_free(&b);
}

static void want_context(const loaded *d, const chunks *c, const char *of, const char *want)
{
    split_above above;
    split_above_init(&above, d);
    for (usize i = 0; i < c->n; i++) {
        buf context = {0};
        no_err(split_context(&above, c->r[i], &context));
        bool it = str_find(part_of(d, c->r[i].start, c->r[i].end), str_of(of), 0) >= 0;
        if (it) assert_string_equal(buf_cstr(&context), want);
        buf_free(&context);
        if (it) return;
    }
    fail_msg("no chunk has '%s'", of);
}

static void headings_above(void **state)
{
    (void)state;
    static const char body[] =
        "이 조의 내용은 충분히 길어서 옆의 조와 한 조각이 되지 않습니다. 그래서 두 문장을 더 씁니다. 그리고 하나 더 씁니다.\n\n";
    buf b = {0};
    buf_fmt(&b,
            "# 취업규칙\n\n## 제3장 휴가 ##\n\n### 제8조(연차)\n\n가 %s### 제9조(경조)\n\n나 %s## 제4장 C# 교육\n\n다 %s다음 "
            "%s라 %s끝 %s",
            body, body, body, body, body, body);
    loaded d = load_one("rule.md", buf_view(&b));
    chunks c = split(&d, 130);
    want_context(&d, &c, "가 이", "");
    want_context(&d, &c, "나 이", "취업규칙\n제3장 휴가");
    want_context(&d, &c, "다 이", "취업규칙");
    want_context(&d, &c, "라 이", "취업규칙\n제4장 C# 교육");
    mem_free(c.r);
    loaded_free(&d);
    d = load_one(
        "notes.html",
        S("<html><head><title>Office rules</title></head><body><h2>Keys</h2><p>Keys are kept at the desk.</p></body></html>"));
    c = split(&d, 320);
    want_context(&d, &c, "Keys", "Office rules"); /* a title that no heading says */
    mem_free(c.r);
    loaded_free(&d);
    buf_free(&b);
}

static void hard_documents(void **state)
{
    (void)state;
    check_text("a.md", "# A\n## B\n### C\n#### D\n##### E\n###### F\n");
    check_text("a.md", "# A\n\n# B\n\ntext\n\n# C\n");
    check_text("a.md", "- one\n- two\n  - three\n\n```\ncode line 1\n\ncode line 2\n```\n\n> quote\n");
    check_text("a.txt", "한 글자. 두 글자! 세 글자? \"네\" 글자.\n\n\n\n다섯");
    check_text("a.txt", "x");
    buf b = {0};
    for (int i = 0; i < 50; i++) buf_fmt(&b, "# heading that is alone number %d\n\n", i);
    check_text("a.md", buf_cstr(&b));
    buf_reset(&b);
    rng r;
    rng_seed(&r, 7);
    static const char *const bits[] = {"가나다 ", "word ", "12,345.6 ", "漢字",        "\n",    "\n\n",   ". ",
                                       "! ",      "# ",    "- ",        "| a | b |\n", "```\n", "ㅋㅋㅋ", "https://a.b/c?d=e&f ",
                                       "é",       "😀 "};
    for (int round = 0; round < 30; round++) {
        buf_reset(&b);
        for (int i = 0; i < 600; i++) buf_puts(&b, bits[rng_u64(&r) % COUNT_OF(bits)]);
        check_text("a.md", buf_cstr(&b));
        check_text("a.txt", buf_cstr(&b));
    }
    buf_free(&b);
}

static void memory_runs_out(void **state)
{
    (void)state;
    buf b = {0};
    for (int i = 0; i < 60; i++) buf_fmt(&b, "## part %d\n\nSome text of this part, which is short.\n\n", i);
    loaded d = load_one("a.md", buf_view(&b));
    usize before = mem_now();
    for (i64 n = 1;; n++) {
        range *r;
        usize n_r;
        mem_fail_at(n);
        err e = split_document(&d, 64, &r, &n_r);
        bool failed = mem_fail_count() >= n;
        mem_fail_at(0);
        if (!failed) {
            assert_ok(e);
            mem_free(r);
            assert_true(n > 1);
            break;
        }
        assert_int_equal(e.code, ERR_NOMEM);
        assert_null(r);
    }
    assert_int_equal(mem_now(), before);
    loaded_free(&d);
    buf_free(&b);
}

/* ---- documents of the world --------------------------------------------------------------------------------------------- */
static err check_file(void *ctx, const char *path)
{
    buf b = {0};
    usize *n = ctx;
    no_err(file_read(&b, path, 0));
    err e = load_bytes(path, b.p, b.n, check_doc, NULL);
    if (e.code)
        print_message("%s\n", e.what);
    else
        ++*n;
    buf_free(&b);
    return OK;
}

static void sample_documents(void **state)
{
    (void)state;
    usize n = 0;
    no_err(file_walk("samples/docs", check_file, &n));
    assert_int_equal(n, 14);
}

static void law_documents(void **state)
{
    (void)state;
    usize n = 0;
    const char *path = test_shared("data/docs-law-ko/plain");
    SKIP_WITHOUT(path, "docs-law-ko");
    no_err(file_walk(path, check_file, &n));
    assert_true(n >= 10);
}

/* ---- the estimate against the embedder's own count ---------------------------------------------------------------------- */
typedef struct {
    tokenizer *t;
    usize n, low;
    i64 real, estimate;
} counting;
static err count_doc(void *ctx, loaded *d)
{
    counting *k = ctx;
    chunks c = split(d, 320);
    for (usize i = 0; i < c.n; i++) {
        str text = part_of(d, c.r[i].start, c.r[i].end);
        ids t = {0};
        no_err(tokenize(k->t, text, TOKENIZE_BOS, &t));
        i64 estimate = split_estimate(text);
        k->n++;
        k->low += estimate < (i64)t.n;
        k->real += (i64)t.n, k->estimate += estimate;
        ids_free(&t);
    }
    mem_free(c.r);
    loaded_free(d);
    return OK;
}
static err count_file(void *ctx, const char *path)
{
    buf b = {0};
    no_err(file_read(&b, path, 0));
    (void)load_bytes(path, b.p, b.n, count_doc, ctx);
    buf_free(&b);
    return OK;
}

static void estimate_errs_high(void **state)
{
    (void)state;
    const char *path = test_model("e5-small.gguf"), *law = test_shared("data/docs-law-ko/plain");
    SKIP_WITHOUT(path, "e5-small.gguf");
    model *m;
    no_err(model_open_tokenizer(&m, path));
    counting k = {m->tok, 0, 0, 0, 0};
    no_err(file_walk("samples/docs", count_file, &k));
    if (law) no_err(file_walk(law, count_file, &k));
    print_message("%zu chunks, %zu estimated too low, real tokens are %.2f of the estimate\n", k.n, k.low,
                  (double)k.real / (double)k.estimate);
    assert_true((double)k.low <= 0.01 * (double)k.n);
    assert_true((double)k.real > 0.7 * (double)k.estimate); /* and not by much */
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_has_none),
        cmocka_unit_test(sections_begin_chunks),
        cmocka_unit_test(long_sections_are_balanced),
        cmocka_unit_test(words_stay_whole),
        cmocka_unit_test(tables_by_rows),
        cmocka_unit_test(csv_rows_know_their_columns),
        cmocka_unit_test(headings_above),
        cmocka_unit_test(hard_documents),
        cmocka_unit_test(memory_runs_out),
        cmocka_unit_test(sample_documents),
        cmocka_unit_test(law_documents),
        cmocka_unit_test(estimate_errs_high),
    };
    return cmocka_run_group_tests_name("split", tests, NULL, NULL);
}
