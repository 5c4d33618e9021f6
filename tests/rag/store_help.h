/* tests/rag/store_help.h - collections in tests: a home of their own, documents written on the spot, one call to add. */
#ifndef STORE_HELP_H
#define STORE_HELP_H
#include "../support/support.h"
#include "rag/rag.h"
#include "text/text.h"
#include <dirent.h>
#include <sys/stat.h>

static char test_home[200];

/* A fresh home below the temporary folder, which also becomes the working folder, so that paths can be typed short. */
static inline int home_make(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(test_home, sizeof test_home, "%.150s/maru-store-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(test_home)) return -1;
    home_set(test_home);
    return 0;
}

static inline int home_drop(void **state)
{
    (void)state;
    return file_remove_tree(test_home).code;
}

static inline const char *in_home(const char *fmt, ...)
{
    static char path[8][500];
    static int  at;
    char       *out = path[at++ % 8];
    va_list     args;
    int         n = snprintf(out, 500, "%s/", test_home);
    va_start(args, fmt);
    vsnprintf(out + n, 500 - (usize)n, fmt, args);
    va_end(args);
    return out;
}

static inline const char *write_file(const char *name, const char *text)
{
    const char *path = in_home("%s", name);
    char        folder[500];
    snprintf(folder, sizeof folder, "%s", path);
    *strrchr(folder, '/') = 0;
    assert_ok(file_mkdirs(folder));
    FILE *f = fopen(path, "wb"); /* a document of a test need not survive a power cut */
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
    return path;
}

static inline collection *open_for(const char *name, collection_mode mode)
{
    collection *c;
    assert_ok(collection_open(&c, name, mode));
    return c;
}

static inline add_result add_paths(collection *c, const add_opts *o, int n, const char *const *paths)
{
    add_result r;
    add_opts   plain = {.quiet = true};
    assert_ok(collection_add(c, paths, (usize)n, o ? o : &plain, &r));
    return r;
}
#define ADD(c, o, ...) add_paths(c, o, COUNT_OF(((const char *const[]){__VA_ARGS__})), (const char *const[]){__VA_ARGS__})

static inline void want_added(add_result r, i64 added, i64 updated, i64 unchanged, usize failed)
{
    for (usize i = 0; i < r.n_failed && failed != r.n_failed; i++) print_message("failed: %s: %s\n", r.failed[i].path, r.failed[i].reason);
    assert_int_equal(r.added, added);
    assert_int_equal(r.updated, updated);
    assert_int_equal(r.unchanged, unchanged);
    assert_int_equal(r.n_failed, failed);
    add_result_free(&r);
}

static inline void want_error(err e, err_code code, const char *part)
{
    if ((err_code)e.code != code) fail_msg("expected %s '%s', got %s: %s", err_name(code), part, err_name(e.code), e.what ? e.what : "");
    if (!strstr(e.what, part)) fail_msg("expected a message with '%s', got: %s", part, e.what);
}

static inline str range_of(const loaded *d, u32 start, u32 end)
{
    str   s = {d->text, d->text_len};
    usize from = utf8_offset(s, start), to = from + utf8_offset((str){s.p + from, s.n - from}, end - start);
    return (str){s.p + from, to - from};
}

/* ---- what lies in files ---- */
typedef struct { const char *what; usize found; } grep;
static inline err grep_file(void *ctx, const char *path)
{
    grep *g = ctx;
    buf   b = {0};
    TRY(file_read(&b, path, 0));
    if (str_find(buf_view(&b), str_of(g->what), 0) >= 0) g->found++;
    buf_free(&b);
    return OK;
}
/* files below the collection that hold these bytes; hidden ones too would be a fault, and are seen by the walk of the test */
static inline usize grep_collection(const char *name, const char *what)
{
    grep g = {what, 0};
    assert_ok(file_walk(in_home("collections/%s", name), grep_file, &g));
    return g.found;
}

/* Everything that a reader can see of a collection, as one hash: documents, texts, maps, chunk ranges, originals. */
static inline u64 state_of(const char *name)
{
    collection *c = open_for(name, COLLECTION_READ);
    documents   d;
    u64         h = 0;
    assert_ok(collection_documents(c, &d));
    for (usize i = 0; i < d.n; i++) {
        const document *x = &d.d[i];
        const loaded   *l;
        buf             original = {0};
        u64             one = hash64(x->id, strlen(x->id), 1);
        one = hash64(x->path, strlen(x->path), one);
        one = hash64(x->hash, strlen(x->hash), one);
        one = hash64(x->title, x->title ? strlen(x->title) : 0, one);
        one = hash64(x->attributes, x->attributes ? strlen(x->attributes) : 0, one);
        one = hash64(&x->chunks, sizeof x->chunks, one);
        assert_ok(collection_document(c, x->id, &l, NULL));
        assert_ok(load_check(l));
        one = hash64(l->text, l->text_len, one);
        one = hash64(l->blocks, l->n_blocks * sizeof *l->blocks, one);
        one = hash64(l->anchors, l->n_anchors * sizeof *l->anchors, one);
        assert_ok(collection_original(c, x->id, &original));
        one = hash64(original.p, original.n, one);
        buf_free(&original);
        h += one; /* whatever the order */
    }
    documents_free(&d);
    collection_close(c);
    return h;
}
#endif
