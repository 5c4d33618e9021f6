/* tests/rag/test_load_pages.c - LOAD of HTML and PDF: what a page's text is, its blocks, elements and boxes; every PDF word
 * against `pdftotext -bbox`; why a PDF is refused; hostile input, and PDF files with bytes changed. */
#include "load_help.h"
#include <math.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* ---- HTML ---- */
static void check_page(const char *file, const char *encoding)
{
    buf b = fixture(file);
    loaded d = load_one(file, buf_view(&b));
    no_err(load_check(&d));
    check_nfc(&d);
    assert_string_equal(d.encoding, encoding);
    assert_string_equal(d.title, "여행 & 안내");
    assert_int_equal(d.source, SOURCE_ELEMENT);
    assert_int_equal(d.n_blocks, 6);
    want_block(&d, 0, BLOCK_HEADING, 1, "여행 안내");
    want_block(&d, 1, BLOCK_TEXT, 0, "값은 <5\u00A0만원> © 가\u0301.\n다음 줄 입니다.");
    want_block(&d, 2, BLOCK_TABLE, 0, "표 1\n\t하루\t이틀\n국내\t5 만\t10");
    want_block(&d, 3, BLOCK_LIST, 0, "하나\n둘\n둘의 하나");
    want_block(&d, 4, BLOCK_CODE, 0, "  int x;\n    y = 1;");
    want_block(&d, 5, BLOCK_TEXT, 0, "끝");
    /* html head meta title style body nav a h1 em p: the eleventh */
    place p;
    no_err(load_place(&d, d.blocks[1].start, d.blocks[1].end, &p));
    assert_int_equal(p.element, 11);
    assert_int_equal(p.line, 3);
    assert_int_equal(p.byte_end, 0);
    loaded_free(&d);
    buf_free(&b);
}

static void html(void **state)
{
    (void)state;
    check_page("page.html", "utf-8");
    check_page("page_euckr.html", "cp949");
}

static void html_text(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"<html><body>a<b>b</b> c <i> d</i></body>", "ab c d"},
        {"<html>e<b>&#x301;</b>x", "\u00E9x"}, /* composed over the border of two nodes */
        {"<html><p>a</p><div>b<div>c</div></div>d", "a\n\nb\nc\nd"},
        {"<html>a<br>b<br><br><br>c", "a\nb\n\nc"},
        {"<html>a<script>b</script><style>c</style><nav>d</nav><noscript>e</noscript><svg><title>f</title><text>g</text></svg>h",
         "ah"},
        {"<html><table><tr><td>a<td><td>c<tr><td>d</table>", "a\t\tc\nd"},
        {"<html><table><tr><td>&nbsp;</td><td>b</td></tr><tr><td></td></tr></table>", "\tb"},
        {"<html><table><tr><td>a<br>b<p>c</p><ul><li>d</ul></td><td>e</td></tr></table>", "a b c d\te"},
        {"<html><table><tr><td><table><tr><td>a<td>b</table><td>c</table>", "a\tb\n\nc"},
        {"<html><pre>\n a\n\n\tb  <div>c</div><div>d</div>\n</pre>e", " a\n\n\tb  \nc\nd\n\ne"},
        {"<html><ul><li>a<ul><li>b</ul><li>c</ul>", "a\nb\nc"},
        {"<html><dl><dt>a<dd>b</dl>", "a\nb"},
        {"<html>\xED\x95\x9C&#0;&#xD800;\x01"
         "a&bogus;&lt;",
         "\xED\x95\x9C"
         "a&bogus;<"},
        {"<html>", ""},
        {"<html><frameset><frame src=x></frameset>", ""},
    };
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        loaded d = load_one("x.html", str_of(cases[i].in));
        no_err(load_check(&d));
        check_nfc(&d);
        if (strcmp(d.text, cases[i].out)) fail_msg("%s: '%s' instead of '%s'", cases[i].in, d.text, cases[i].out);
        loaded_free(&d);
    }
}

static void html_blocks(void **state)
{
    (void)state;
    loaded d = load_one(
        "x.html",
        S("<body><h2>A</h2><ul><li><h3>B</h3><p>b</li></ul><table><tr><th><h1>C</h1><td>1</table>text <em>goes</em> on<p>new"));
    assert_string_equal(d.title, "A");
    assert_int_equal(d.n_blocks, 6);
    want_block(&d, 0, BLOCK_HEADING, 2, "A");
    want_block(&d, 1, BLOCK_HEADING, 3, "B"); /* a list with a heading in it is layout */
    want_block(&d, 2, BLOCK_TEXT, 0, "b");
    want_block(&d, 3, BLOCK_TABLE, 0, "C\t1");
    want_block(&d, 4, BLOCK_TEXT, 0, "text goes on");
    want_block(&d, 5, BLOCK_TEXT, 0, "new");
    loaded_free(&d);
}

static void html_charsets(void **state)
{
    (void)state;
    static const struct {
        str in;
        const char *encoding, *out; /* out NULL: the message */
    } cases[] = {
        {S("<meta charset=euc-kr><p>\xC7\xD1\xB1\xDB"), "cp949", "한글"},
        {S("<meta http-equiv=Content-Type content='text/html; charset=KS_C_5601-1987'><p>\xC7\xD1\xB1\xDB"), "cp949", "한글"},
        {S("<?xml version='1.0' encoding='EUC-KR'?><html><p>\xC7\xD1\xB1\xDB"), "cp949", "한글"},
        {S("<meta charset=iso-8859-1><p>caf\xE9"), "windows-1252", "café"},
        {S("<meta charset=shift_jis><p>\x93\xFA\x96\x7B"), "shift_jis", "日本"},
        {S("<meta charset=euc-kr><p>한글"), "utf-8", "한글"}, /* declared wrongly */
        {S("<meta charset=utf-8><p>\xC7\xD1\xB1\xDB"), "cp949", "한글"},
        {S("<meta charset=ISO-2022-CN-EXT><p>\xC7\xD1\xB1\xDB"), "cp949", "한글"}, /* not believed */
        {S("\xFF\xFE<\0p\0>\0\x5C\xD5"), "utf-16le", "한"},
    };
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        loaded d = load_one("x.html", cases[i].in);
        if (strcmp(d.encoding, cases[i].encoding) || strcmp(d.text, cases[i].out))
            fail_msg("case %zu: %s '%s'", i, d.encoding, d.text);
        loaded_free(&d);
    }
}

/* ---- PDF ---- */
static bool has_pdftotext(void)
{
    static const char *const argv[] = {"pdftotext", "-v", NULL};
    int status;
    return !proc_run(&(proc_spec){.argv = argv}, NULL, NULL, &status).code;
}

static void pdf(void **state)
{
    (void)state;
    if (!has_pdftotext()) skip();
    buf b = fixture("words.pdf");
    loaded d = load_one("words.pdf", buf_view(&b));
    assert_string_equal(d.title, "Travel & expenses");
    assert_string_equal(d.text, "Travel costs\nare paid by the company.\n\nSecond block\n\nPage two & <tags>");
    assert_int_equal(d.n_pages, 2);
    assert_int_equal(d.n_blocks, 3);
    assert_int_equal(d.n_anchors, 14);
    place p;
    no_err(load_place(&d, 7, 34, &p)); /* costs ... pa: three lines, a word over two of them */
    assert_int_equal(p.page, 1);
    assert_int_equal(p.line, 1);
    assert_int_equal(p.n_rects, 3);
    assert_float_equal(p.rects[0].box[0], d.anchors[1].box[0], 1e-3);
    assert_float_equal(p.rects[1].box[0], 20, 1e-3);
    assert_float_equal(p.rects[1].box[2], d.anchors[6].box[2], 1e-3);
    assert_float_equal(p.rects[2].box[0], 20, 1e-3);
    assert_true(p.rects[0].box[3] <= p.rects[1].box[1] + 3 && p.rects[1].box[3] < p.rects[2].box[3]);
    mem_free(p.rects);
    no_err(load_place(&d, 50, 60, &p)); /* from page 1 into page 2 */
    assert_int_equal(p.page, 1);
    assert_int_equal(p.n_rects, 2);
    assert_int_equal(p.rects[1].page, 2);
    mem_free(p.rects);
    no_err(load_place(&d, 6, 7, &p)); /* a space */
    assert_int_equal(p.page, 1);
    assert_int_equal(p.n_rects, 0);
    loaded_free(&d);
    buf_free(&b);
}

static void pdf_refused(void **state)
{
    (void)state;
    if (!has_pdftotext()) skip();
    static const char *const cases[][2] = {
        {"scan.pdf", "scan.pdf: no text layer: 2 pages hold only images"},
        {"blank.pdf", "no text layer: 1 page without text or images"},
        {"locked.pdf", "encrypted: it opens with a password only"},
        {"damaged.pdf", "damaged: Syntax Error"},
    };
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        docs to = {0};
        buf b = fixture(cases[i][0]);
        want_err(load_str(cases[i][0], buf_view(&b), &to), ERR_FORMAT, cases[i][1]);
        docs_free(&to);
        buf_free(&b);
    }
}

/* what pdftotext prints, taken apart */
static void xhtml(void **state)
{
    (void)state;
#define HEAD "<html><head><title>T &lt;doc&gt;</title></head><body>\n<doc>\n"
#define PAGE "<page width=\"1.0\" height=\"2.0\">"
#define BOX " xMin=\"1\" yMin=\"2\" xMax=\"3\" yMax=\"4\">"
    static const struct {
        const char *in, *wrong; /* NULL: right */
    } cases[] = {
        {HEAD PAGE "<flow><block" BOX "<line" BOX "<word" BOX
                   "a&amp;&#39;b</word></line></block></flow></page></doc></body></html>",
         NULL},
        {HEAD "</doc></body></html>", NULL},
        {HEAD PAGE "</page></doc></body></html>", NULL},
        {"", "<doc> expected"},
        {HEAD PAGE "</page></doc>", "</body></html> expected"},
        {HEAD PAGE "<block" BOX "</page>", "line 3: <flow> or </page> expected, found \"<block xMin"},
        {HEAD "<page width=\"x\" height=\"2\"></page></doc>", "a number expected"},
        {HEAD "<page width=\"1\"></page></doc>", "height"},
        {HEAD PAGE "<flow><block xMin=\"1\" yMin=\"nan\" xMax=\"3\" yMax=\"1e999\">", "a number expected"},
        {HEAD PAGE "<flow><block" BOX "<line" BOX "<word" BOX "a<b></word>", "</word> expected"},
        {HEAD PAGE "<flow><block" BOX "<line" BOX "<word" BOX "a", "</word> expected, found \"\""},
    };
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        loaded d = {0};
        err e = load_pdf_parse(str_of(cases[i].in), &d);
        if (cases[i].wrong)
            want_err(e, ERR_FORMAT, cases[i].wrong);
        else {
            no_err(e);
            no_err(load_check(&d));
            assert_string_equal(d.title, "T <doc>");
            assert_string_equal(d.text, i ? "" : "a&'b");
        }
        loaded_free(&d);
    }
}

/* ---- PDF words against the other output of pdftotext ---- */
typedef struct {
    u32 page;
    float box[4];
    char *text;
} seen_word;

/* `pdftotext -bbox`: flat pages of words */
static seen_word *words_of(str pdf, usize *n)
{
    static const char *const argv[] = {"pdftotext", "-bbox", "-enc", "UTF-8", "-", "-", NULL};
    buf out = {0};
    int status;
    no_err(proc_run(&(proc_spec){.argv = argv, .input = pdf}, &out, NULL, &status));
    usize cap = 0;
    seen_word *w = NULL;
    u32 page = 0;
    *n = 0;
    for (char *line = strtok((char *)(uintptr_t)buf_cstr(&out), "\n"); line; line = strtok(NULL, "\n")) {
        seen_word x = {0};
        if (strstr(line, "<page ")) page++;
        char *text = strchr(line, '>');
        if (!strstr(line, "<word ") || !text) continue;
        sscanf(strstr(line, "<word "), "<word xMin=\"%f\" yMin=\"%f\" xMax=\"%f\" yMax=\"%f\"", &x.box[0], &x.box[1], &x.box[2],
               &x.box[3]);
        x.page = page;
        x.text = mem_strdup(text + 1);
        char *end = strstr(x.text, "</word>");
        if (end) *end = 0;
        assert_true(VEC_PUSH(w, *n, cap, x));
    }
    buf_free(&out);
    return w;
}

static void plain_word(const char *s, buf *out) /* entities, controls and spaces as load_pdf reads them */
{
    static const char *const entities[][2] = {{"&amp;", "&"},   {"&lt;", "<"},   {"&gt;", ">"},
                                              {"&quot;", "\""}, {"&apos;", "'"}, {"&#39;", "'"}};
    buf raw = {0};
    while (*s) {
        usize k = 0;
        while (k < COUNT_OF(entities) && strncmp(s, entities[k][0], strlen(entities[k][0]))) k++;
        buf_puts(&raw, k < COUNT_OF(entities) ? entities[k][1] : "");
        if (k < COUNT_OF(entities))
            s += strlen(entities[k][0]);
        else
            buf_byte(&raw, *s++);
    }
    canonical(buf_view(&raw), out);
    buf_free(&raw);
}

/* The same letters, counted: words of right-to-left scripts are turned round */
static bool same_letters(str a, str b)
{
    i64 sum[2] = {0}, rtl = 0;
    str s[] = {a, b};
    for (int i = 0; i < 2; i++)
        for (usize at = 0; at < s[i].n;) {
            u32 c = utf8_next(s[i], &at);
            sum[i] += (i64)c * c;
            rtl += c >= 0x590 && c < 0x900;
        }
    return a.n == b.n && rtl && sum[0] == sum[1];
}

/* How many anchors have, at the same place, the same word in the other output; two words may share a box (bold by overprinting).
 */
static usize agree(const loaded *d, str pdf)
{
    usize n, good = 0;
    seen_word *w = words_of(pdf, &n);
    for (usize i = 0; i < d->n_anchors; i++) {
        const anchor *a = &d->anchors[i];
        str is = part_of(d, a->start, a->end);
        bool same = false;
        for (usize k = 0; k < n && !same; k++) {
            if (w[k].page != a->a || fabsf(w[k].box[0] - a->box[0]) > 0.01f || fabsf(w[k].box[1] - a->box[1]) > 0.01f ||
                fabsf(w[k].box[2] - a->box[2]) > 0.01f || fabsf(w[k].box[3] - a->box[3]) > 0.01f)
                continue;
            buf want = {0};
            plain_word(w[k].text, &want);
            str word = str_trim(buf_view(&want));
            same = str_eq(is, word) || same_letters(is, word);
            if (!same && str_ends(word, S("-"))) same = str_eq(is, (str){word.p, word.n - 1}); /* the word goes on in the next line */
            buf_free(&want);
        }
        if (!same) print_message("      page %u: '%.*s'\n", a->a, (int)is.n, is.p);
        good += same;
    }
    for (usize k = 0; k < n; k++) mem_free(w[k].text);
    mem_free(w);
    return good;
}

typedef struct {
    usize n_files, n_loaded, n_words, n_same;
} pdf_count;

static err one_pdf(void *ctx, const char *path)
{
    pdf_count *c = ctx;
    if (!str_ends(str_of(path), S(".pdf"))) return OK;
    buf b = {0};
    docs to = {0};
    no_err(file_read(&b, path, 0));
    c->n_files++;
    err e = load_str(path, buf_view(&b), &to);
    if (e.code)
        print_message("      refused: %s: %s\n", err_name(e.code), e.what);
    else {
        c->n_loaded++;
        check_nfc(&to.d[0]);
        c->n_words += to.d[0].n_anchors;
        c->n_same += agree(&to.d[0], buf_view(&b));
    }
    docs_free(&to);
    buf_free(&b);
    return OK;
}

static const char *shared(const char *below)
{
    static char path[400];
    const char *home = getenv("MARU_SHARED");
    snprintf(path, sizeof path, "%s/%s", home ? home : "../shared", below);
    return path;
}

static void pdf_words(void **state)
{
    (void)state;
    pdf_count c = {0};
    if (!has_pdftotext()) skip();
    no_err(file_walk("tests/rag/fixtures", one_pdf, &c));
    if (file_is_dir("samples/docs")) no_err(file_walk("samples/docs", one_pdf, &c));
    if (file_is_dir(shared("data/docs-pdf"))) no_err(file_walk(shared("data/docs-pdf"), one_pdf, &c));
    print_message("      %zu PDF files, %zu loaded, %zu words, %zu of them as `pdftotext -bbox` has them\n", c.n_files,
                  c.n_loaded, c.n_words, c.n_same);
    assert_true(c.n_words >= 14);
    assert_int_equal(c.n_same, c.n_words);
}

/* ---- hostile ---- */
static void repeat(buf *b, const char *s, int n)
{
    while (n--) buf_puts(b, s);
}

/* Nothing here may take long, and each ends in a document that keeps its promises or in an error that says why. */
static void hostile(void **state)
{
    (void)state;
    static const struct {
        const char *name, *head, *again, *tail;
        int n;
    } cases[] = {
        {"a.html", "<html>", "<div>", "x", 100000},
        {"b.html", "<html>", "<table><tr><td>", "x", 20000},
        {"c.html", "<html>", "<b><i>", "x", 50000},
        {"d.html", "<html><p ", "a=b ", ">x", 200000},
        {"e.html", "<html>", "<ul><li><h1>", "x", 20000},
        {"f.html", "<html><p>", "&amp;", "x", 200000},
        {"g.html", "<html><p>", "&#x301;", "x", 100000},
        {"h.html", "<html><pre>", "\n", "x", 500000},
        {"i.html", "<html><table><tr>", "<td>", "x", 100000},
        {"j.html", "<html>", "<!-- ", "x", 100000},
        {"k.html", "<html>", "</p>", "x", 100000},
        {"a.md", "", "> ", "x", 300000},
        {"b.md", "", "- ", "x", 300000},
        {"c.md", "", "[", "x", 300000},
        {"d.md", "", "a\n", "===", 300000},
        {"e.md", "a|b\n-|-\n", "|", "\n", 300000},
        {"f.md", "", "```\n", "x", 100000},
        {"g.md", "", "<a ", "x", 200000},
        {"h.md", "", "\t", "x", 300000},
        {"i.md", "- a\n", "\n", "  b", 300000},
        {"j.md", "", "1. a\n", "", 100000},
        {"k.md", "---\n", "a\n", "", 300000},
        {"l.md", "<script>\n", "</\n", "", 300000},
        {"a.csv", "", "\"\"", "", 300000},
        {"b.csv", "", ",", "", 600000},
        {"c.csv", "", "\"a\n\",", "", 200000},
        {"a.jsonl", "{\"id\":1,\"text\":\"\",\"x\":", "[", "", 300000},
        {"b.jsonl", "", "{\n", "", 300000},
        {"c.jsonl", "", "{\"id\":1,\"text\":\"\"}\n", "", 20000},
        {"d.jsonl", "{\"id\":1,\"text\":\"", "\\ud800", "\"}", 100000},
        {"e.jsonl", "{\"id\":1,\"text\":\"\"", ",\"\":1", "}", 100000},
        {"a.txt", "", "\r", "", 600000},
        {"b.txt", "", "a\r\n", "", 300000},
        {"c.txt", "", "\xE1\x84\x80\xE1\x85\xA1", "", 200000},
        {"d.txt", "", "\xE2\x80\x80", "", 200000},
    };
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        buf b = {0};
        docs to = {0};
        buf_puts(&b, cases[i].head);
        repeat(&b, cases[i].again, cases[i].n);
        buf_puts(&b, cases[i].tail);
        double start = clock_s();
        err e = load_str(cases[i].name, buf_view(&b), &to);
        double took = clock_s() - start;
        if (e.code && e.code != ERR_FORMAT) fail_msg("%s: %s %s", cases[i].name, err_name(e.code), e.what);
        for (usize k = 0; k < to.n; k++) no_err(load_check(&to.d[k]));
        if (e.code || took > 1) print_message("      %s: %.2f s %s\n", cases[i].name, took, e.code ? e.what : "");
        if (took > 20) fail_msg("%s took %.1f s", cases[i].name, took);
        docs_free(&to);
        buf_free(&b);
    }
}

/* A parser taken over by its document: any bytes may come back from it. */
static void not_believed(void **state)
{
    (void)state;
    buf b = fixture("words.pdf");
    rng r;
    rng_seed(&r, 11);
    if (!has_pdftotext()) skip();
    usize refused = 0, n_runs = SANITIZED ? 100 : 500; /* forks are slow under a sanitizer */
    for (usize i = 0; i < n_runs; i++) {
        docs to = {0};
        buf m = {0};
        buf_str(&m, buf_view(&b));
        for (u64 n = 1 + rng_u64(&r) % 8; n; n--) m.p[8 + rng_u64(&r) % (m.n - 8)] = (char)rng_u64(&r);
        if (rng_u64(&r) % 4 == 0) m.n = 8 + rng_u64(&r) % (m.n - 8);
        err e = load_str("m.pdf", buf_view(&m), &to);
        if (e.code && e.code != ERR_FORMAT && e.code != ERR_UNSUPPORTED && e.code != ERR_REMOTE)
            fail_msg("mutation %zu: %s %s", i, err_name(e.code), e.what);
        for (usize k = 0; k < to.n; k++) {
            no_err(load_check(&to.d[k]));
            check_nfc(&to.d[k]);
        }
        refused += e.code != 0;
        docs_free(&to);
        buf_free(&m);
    }
    print_message("      %zu changed PDF files, %zu refused\n", n_runs, refused);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(html),    cmocka_unit_test(html_text),    cmocka_unit_test(html_blocks), cmocka_unit_test(html_charsets),
        cmocka_unit_test(pdf),     cmocka_unit_test(pdf_refused),  cmocka_unit_test(xhtml),       cmocka_unit_test(pdf_words),
        cmocka_unit_test(hostile), cmocka_unit_test(not_believed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
