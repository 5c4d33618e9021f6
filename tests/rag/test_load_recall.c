/* tests/rag/test_load_recall.c - real documents with their expected texts: how many of the expected words LOAD finds, PDF and Word and
 * CSV; and, with MARU_HEAVY=1, every file of the document sets, which loads or is refused with a reason that is true. Skipped where
 * ../shared ($MARU_SHARED) is not. The expected texts are Markdown: link targets, formulas (which are LaTeX there) and boxes
 * to tick are not words of a document. */
#include "load_help.h"
#include <unistd.h>

static const char *data(const char *below)
{
    static char path[8][600];
    static int at;
    const char *home = getenv("MARU_SHARED");
    char *out = path[at++ % 8];
    snprintf(out, 600, "%s/data/%s", home ? home : "../shared", below);
    return out;
}

/* ---- words ---------------------------------------------------------------------------------------------------------------- */
static void drop_between(buf *b, const char *open, const char *close)
{
    usize n = strlen(close);
    i64 from = 0;
    while ((from = str_find(buf_view(b), str_of(open), (usize)from)) >= 0) {
        i64 to = str_find(buf_view(b), str_of(close), (usize)from + strlen(open));
        if (to < 0) return;
        memset(b->p + from, ' ', (usize)to + n - (usize)from);
    }
}

/* "[x]"; "&amp;" */
static void drop_marks(buf *b)
{
    for (usize i = 0; i < b->n; i++) {
        bool box = b->n - i >= 3 && b->p[i] == '[' && b->p[i + 2] == ']';
        if (box) b->p[i + 1] = ' ';
        if (b->n - i >= 4 && b->p[i] == '&' && !strncmp(b->p + i, "&amp;", 4)) memset(b->p + i + 1, ' ', 3);
        if (b->n - i >= 4 && (!strncmp(b->p + i, "&lt;", 4) || !strncmp(b->p + i, "&gt;", 4))) memset(b->p + i, ' ', 3);
    }
}

/* counts of the words (letters and digits in a row) of a text, plus `sign` for each */
static usize count_words(map *m, str s, int sign, usize *missing)
{
    usize n = 0;
    for (usize at = 0; at < s.n;) {
        usize from = at, to = at;
        for (usize next = at; next < s.n;) {
            usize was = next;
            u32 c = utf8_next(s, &next);
            if (c == '\\' && to > from) break;
            bool in = text_is_letter(c) || text_is_digit(c);
            if (in && to == from) from = was;
            if (in) to = next;
            at = next;
            if (!in && to > from) break;
        }
        if (to == from) break;
        u64 have = 0;
        str w = {s.p + from, to - from};
        map_get(m, w, &have);
        n++;
        if (sign > 0) map_put(m, w, have + 1);
        else if (have) map_put(m, w, have - 1);
        else (*missing)++;
    }
    return n;
}

static double recall(const loaded *d, buf *expected)
{
    map *m = map_new();
    usize missing = 0;
    buf nfc = {0};
    drop_between(expected, "<!--", "-->");
    drop_between(expected, "$$", "$$");
    drop_between(expected, "$", "$");
    drop_between(expected, "](", ")");
    drop_marks(expected);
    no_err(text_nfc(&nfc, buf_view(expected)));
    count_words(m, (str){d->text, d->text_len}, 1, &missing);
    usize n = count_words(m, buf_view(&nfc), -1, &missing);
    map_free(m);
    buf_free(&nfc);
    return n ? 1 - (double)missing / (double)n : 1;
}

typedef struct {
    const char *truth, *ending;
    const char *const *but; /* files that are not asked for the least */
    double sum, least;
    usize n;
} recalls;

static err one_file(void *ctx, const char *path)
{
    recalls *r = ctx;
    char truth[1000];
    docs to = {0};
    buf b = {0}, expected = {0};
    const char *base = strrchr(path, '/') + 1;
    if (!str_ends(str_of(path), str_of(r->ending))) return OK;
    snprintf(truth, sizeof truth, "%s/%s.md", r->truth, base);
    if (!file_exists(truth)) snprintf(truth, sizeof truth, "%s/%.*s.md", r->truth, (int)(strlen(base) - strlen(r->ending)), base);
    if (!file_exists(truth)) return OK;
    no_err(file_read(&b, path, 0));
    no_err(file_read(&expected, truth, 0));
    no_err(load_str(path, buf_view(&b), &to));
    no_err(load_check(&to.d[0]));
    check_nfc(&to.d[0]);
    double got = recall(&to.d[0], &expected);
    bool excused = false;
    for (usize i = 0; r->but[i]; i++) excused |= !strcmp(r->but[i], base);
    print_message("      %.3f %s%s\n", got, base, excused ? " (see the test)" : "");
    if (!excused && got < r->least) fail_msg("%s: %.3f of the expected words, %.3f wanted", path, got, r->least);
    if (!excused) r->sum += got, r->n++;
    docs_free(&to);
    buf_free(&b);
    buf_free(&expected);
    return OK;
}

static void set(const char *sources, const char *truth, const char *ending, const char *const *but, double least, double mean)
{
    recalls r = {data(truth), ending, but, 0, least, 0};
    if (!file_is_dir(data(sources))) skip();
    no_err(file_walk(data(sources), one_file, &r));
    print_message("      %s: mean recall of words %.4f over %zu files\n", sources, r.sum / (double)r.n, r.n);
    assert_true(r.n > 0 && r.sum >= mean * (double)r.n);
}

static void word_documents(void **state)
{
    (void)state;
    /* the expected text names the kind of its chart, which no word of the document does: 2 of 46 */
    static const char *const but[] = {"drawingml.docx", NULL};
    set("docs-office/docling/docx/sources", "docs-office/docling/docx/groundtruth", ".docx", but, 0.97, 0.97);
}

static void tables_of_text(void **state)
{
    (void)state;
    static const char *const but[] = {NULL};
    set("docs-office/docling/csv/sources", "docs-office/docling/csv/groundtruth", ".csv", but, 0.97, 0.97);
}

static void pages(void **state)
{
    (void)state;
    /* Arabic: poppler gives ligatures of lam and alef taken apart, and many words in pieces. The table of 2305.03393 is expected with each
     * cell over several columns as often as it has columns, hence 0.93. */
    static const char *const but[] = {"right_to_left_02.pdf", NULL};
    set("docs-pdf/docling/sources", "docs-pdf/docling/groundtruth", ".pdf", but, 0.93, 0.97);
}

/* ---- every file ------------------------------------------------------------------------------------------------------------- */
typedef struct {
    usize n_files, n_loaded, n_unsupported, n_format;
} tally;

static err any_file(void *ctx, const char *path)
{
    tally *t = ctx;
    buf b = {0};
    docs to = {0};
    no_err(file_read(&b, path, 0));
    t->n_files++;
    err e = load_str(path, buf_view(&b), &to);
    for (usize i = 0; i < to.n; i++) {
        no_err(load_check(&to.d[i]));
        check_nfc(&to.d[i]);
    }
    if (!e.code) t->n_loaded++;
    else if (e.code == ERR_UNSUPPORTED) {
        t->n_unsupported++;
        if (!strstr(e.what, "the format is not read: ") && !strstr(e.what, "encrypted")) fail_msg("%s", e.what);
    } else if (e.code == ERR_FORMAT) {
        t->n_format++;
        static const char *const reasons[] = {"no text layer", "encrypted", "damaged", "the file is empty", "permissions", "not a text", "lines not read"};
        bool known = false;
        for (usize i = 0; i < COUNT_OF(reasons); i++) known |= strstr(e.what, reasons[i]) != NULL;
        print_message("      refused: %s\n", e.what);
        if (!known) fail_msg("a reason that says nothing: %s", e.what);
    } else
        fail_msg("%s: %s: %s", path, err_name(e.code), e.what);
    docs_free(&to);
    buf_free(&b);
    return OK;
}

static void every_file(void **state)
{
    (void)state;
    static const char *const sets[] = {"docs-pdf", "docs-office", "docs-md-ko"};
    tally t = {0};
    char folder[] = "/tmp/maru-recall-XXXXXX", command[2000];
    if (!getenv("MARU_HEAVY") || !file_is_dir(data(sets[0]))) skip();
    assert_non_null(mkdtemp(folder));
    for (usize i = 0; i < COUNT_OF(sets); i++) {
        no_err(file_walk(data(sets[i]), any_file, &t));
        snprintf(command, sizeof command, "for a in '%s'/*.tar.zst; do [ -e \"$a\" ] && zstd -dcq --long=27 \"$a\" | tar -xf - -C %s; done; true",
                 data(sets[i]), folder);
        assert_int_equal(system(command), 0);
    }
    no_err(file_walk(folder, any_file, &t));
    no_err(file_remove_tree(folder));
    print_message("      %zu files: %zu load, %zu of formats that are not read, %zu refused\n", t.n_files, t.n_loaded, t.n_unsupported, t.n_format);
    assert_true(t.n_loaded > 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(word_documents), cmocka_unit_test(tables_of_text), cmocka_unit_test(pages),
                                       cmocka_unit_test(every_file)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
