/* tests/rag/test_load_data.c - LOAD over real documents: Korean documentation and law in Markdown, office HTML, CSV and Markdown,
 * whole collections in JSONL. Counts what loads and what is refused and why, checks every promise on each, and holds the
 * Markdown block scanner against md4c. Skipped where ../shared ($MARU_SHARED) is not. */
#include "load_help.h"
#include <md4c.h>
#include <unistd.h>

static char folder[300];

static const char *shared(void)
{
    const char *home = getenv("MARU_SHARED");
    return home ? home : "../shared";
}

static int make_folder(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/maru-load-XXXXXX", tmp && strlen(tmp) < 200 ? tmp : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    return file_remove_tree(folder).code ? -1 : 0;
}

typedef struct {
    usize n_files, n_docs, n_refused, n_chars, n_bytes;
    usize n_blocks, n_same, n_different; /* against md4c */
    double seconds;
} count;

/* ---- md4c's blocks -------------------------------------------------------------------------------------------------- */
typedef struct {
    int kind, level;
    const char *first, *last; /* of its text, in the source */
} md_block;
typedef struct {
    str s;
    int depth;
    md_block *v;
    usize n, cap;
} md_blocks;

static int md_enter(MD_BLOCKTYPE t, void *detail, void *ctx)
{
    md_blocks *m = ctx;
    if (m->depth++ != 1) return 0;
    md_block b = {.kind = BLOCK_TEXT};
    if (t == MD_BLOCK_H) b.kind = BLOCK_HEADING, b.level = (int)((MD_BLOCK_H_DETAIL *)detail)->level;
    if (t == MD_BLOCK_UL || t == MD_BLOCK_OL) b.kind = BLOCK_LIST;
    if (t == MD_BLOCK_CODE) b.kind = BLOCK_CODE;
    if (t == MD_BLOCK_TABLE) b.kind = BLOCK_TABLE;
    return VEC_PUSH(m->v, m->n, m->cap, b) ? 0 : -1;
}

static int md_leave(MD_BLOCKTYPE t, void *detail, void *ctx)
{
    (void)t, (void)detail;
    ((md_blocks *)ctx)->depth--;
    return 0;
}

static int md_span(MD_SPANTYPE t, void *detail, void *ctx)
{
    (void)t, (void)detail, (void)ctx;
    return 0;
}

static int md_text(MD_TEXTTYPE t, const MD_CHAR *p, MD_SIZE n, void *ctx)
{
    md_blocks *m = ctx;
    (void)t;
    if (!m->n || p < m->s.p || p + n > m->s.p + m->s.n || !n) return 0;
    md_block *b = &m->v[m->n - 1];
    if (!b->first || p < b->first) b->first = p;
    if (!b->last || p + n > b->last) b->last = p + n;
    return 0;
}

static usize block_at(const loaded *d, u32 at)
{
    usize i = 0;
    while (i < d->n_blocks && d->blocks[i].end <= at) i++;
    return i;
}

/* Each outermost block that md4c finds lies in just one of ours, of the same kind, and no two of its blocks in the same. The few
 * that do not are md4c 0.4.8's own: rows of a table that do not match its head, adjacent HTML blocks joined, an item with nothing
 * but spaces that interrupts a paragraph. */
static void compare_md4c(const loaded *d, const char *path, count *c)
{
    usize from = 0;
    if (d->n_blocks && d->blocks[0].kind == BLOCK_CODE && (!strncmp(d->text, "---\n", 4) || !strncmp(d->text, "+++\n", 4)))
        from = (usize)(part_of(d, d->blocks[0].end, d->blocks[0].end).p - d->text);
    md_blocks m = {.s = {d->text + from, d->text_len - from}};
    MD_PARSER p = {.flags = MD_FLAG_TABLES | MD_FLAG_STRIKETHROUGH | MD_FLAG_TASKLISTS,
                   .enter_block = md_enter,
                   .leave_block = md_leave,
                   .enter_span = md_span,
                   .leave_span = md_span,
                   .text = md_text};
    assert_int_equal(md_parse(m.s.p, (MD_SIZE)m.s.n, &p, &m), 0);
    usize was = SIZE_MAX, at = 0;
    u32 chars = 0;
    for (usize i = 0; i < m.n; i++) {
        md_block *b = &m.v[i];
        if (!b->first) continue;
        for (; d->text + at < b->first; chars++) utf8_next((str){d->text, d->text_len}, &at);
        while (b->last > b->first + 1 && (b->last[-1] == ' ' || b->last[-1] == '\n')) b->last--; /* not part of our blocks */
        u32 last = chars + (u32)utf8_count((str){b->first, (usize)(b->last - b->first)}) - 1;
        usize k = block_at(d, chars), end = block_at(d, last);
        bool same = k == end && k < d->n_blocks && k != was && d->blocks[k].kind == b->kind && d->blocks[k].level == b->level &&
                    d->blocks[k].start <= chars;
        if (!same) {
            print_message("      %s: md4c kind %d level %d '%.40s' ... is in block %zu kind %d level %d\n", path, b->kind,
                          b->level, b->first, k, k < d->n_blocks ? d->blocks[k].kind : -1,
                          k < d->n_blocks ? d->blocks[k].level : -1);
            c->n_different++;
        } else
            c->n_same++;
        was = k;
    }
    mem_free(m.v);
}

/* ---- one file ------------------------------------------------------------------------------------------------------------ */
static err one_file(void *ctx, const char *path)
{
    count *c = ctx;
    buf b = {0};
    docs to = {0};
    str name = str_of(path);
    if (str_ends(name, S("SOURCE.txt")) || str_ends(name, S(".zst"))) return OK;
    no_err(file_read(&b, path, 0));
    double start = clock_s();
    err e = load_str(path, buf_view(&b), &to);
    c->seconds += clock_s() - start;
    c->n_files++;
    c->n_docs += to.n;
    c->n_bytes += b.n;
    if (e.code) {
        c->n_refused++;
        print_message("      refused: %s: %s\n", err_name(e.code), e.what);
    }
    for (usize i = 0; i < to.n; i++) {
        const loaded *d = &to.d[i];
        c->n_chars += d->n_chars;
        c->n_blocks += d->n_blocks;
        no_err(load_check(d));
        check_nfc(d);
        if (d->source == SOURCE_BYTES) {
            check_bytes(d, buf_view(&b), d->id != NULL);
            if (i < 200) check_places(d, buf_view(&b), d->id != NULL, 10, i);
        }
        if (str_ends(name, S(".md"))) compare_md4c(d, path, c);
    }
    docs_free(&to);
    buf_free(&b);
    return OK;
}

static void unpack(const char *archive)
{
    char command[1000];
    snprintf(command, sizeof command, "mkdir -p '%s/x' && zstd -dcq --long=27 '%s' | tar -xf - -C '%s/x'", folder, archive,
             folder);
    if (system(command)) fail_msg("cannot unpack %s", archive);
}

static err unpack_one(void *ctx, const char *path)
{
    (void)ctx;
    if (str_ends(str_of(path), S(".tar.zst"))) unpack(path);
    return OK;
}

static void say_count(const char *what, const count *c)
{
    print_message(
        "      %s: %zu files, %zu documents, %zu files with an error; %zu bytes, %zu characters, %zu blocks, %.1f MB/s\n", what,
        c->n_files, c->n_docs, c->n_refused, c->n_bytes, c->n_chars, c->n_blocks,
        (double)c->n_bytes / 1e6 / (c->seconds > 0 ? c->seconds : 1));
}

/* ---- sets ------------------------------------------------------------------------------------------------------------------ */
static void markdown_set(const char *below)
{
    char path[600];
    count c = {0};
    snprintf(path, sizeof path, "%s/data/%s", shared(), below);
    if (!file_is_dir(path)) skip();
    no_err(file_walk(path, unpack_one, NULL));
    no_err(file_walk(path, one_file, &c));
    snprintf(path, sizeof path, "%s/x", folder);
    no_err(file_walk(path, one_file, &c));
    no_err(file_remove_tree(path));
    say_count(below, &c);
    print_message("      %s: %zu blocks as md4c has them, %zu not\n", below, c.n_same, c.n_different);
    assert_true(c.n_files > 100);
    assert_int_equal(c.n_refused, 0);
    assert_true(c.n_different * 1000 <= c.n_same);
}

static void markdown_docs(void **state)
{
    (void)state;
    markdown_set("docs-md-ko");
}

static void markdown_law(void **state)
{
    (void)state;
    markdown_set("docs-law-ko");
}

static void office(void **state)
{
    (void)state;
    static const char *const folders[] = {"docs-office/docling/html/sources", "docs-office/docling/csv/sources",
                                          "docs-office/docling/md/sources", "docs-office/markitdown"};
    count c = {0};
    for (usize i = 0; i < COUNT_OF(folders); i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/data/%s", shared(), folders[i]);
        if (!file_is_dir(path)) skip();
        no_err(file_walk(path, one_file, &c));
    }
    say_count("docs-office", &c);
    assert_true(c.n_docs > 30);
}

static void collections(void **state)
{
    (void)state;
    static const char *const sets[] = {"autorag", "cacm", "cisi", "korquad", "miracl", "scifact"};
    for (usize i = 0; i < COUNT_OF(sets); i++) {
        char command[1200], path[600];
        count c = {0};
        snprintf(path, sizeof path, "%s/data/retrieval/%s/docs.jsonl.zst", shared(), sets[i]);
        if (!file_exists(path)) skip();
        snprintf(command, sizeof command, "zstd -dcq --long=27 '%s' > '%s/docs.jsonl'", path, folder);
        assert_int_equal(system(command), 0);
        snprintf(path, sizeof path, "%s/docs.jsonl", folder);
        no_err(one_file(&c, path));
        say_count(sets[i], &c);
        assert_true(c.n_docs > 100);
        assert_int_equal(c.n_refused, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(markdown_docs),
        cmocka_unit_test(markdown_law),
        cmocka_unit_test(office),
        cmocka_unit_test(collections),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
