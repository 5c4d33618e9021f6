/* rag/indexes.c - keyword.idx and vectors.idx: made from the store whenever their generation is not the store's.
 *
 * They are written from within a read transaction and put in place atomically, so it does not matter who makes them or whether
 * two processes do at once: each file is whole and belongs to one generation of the store. A reader that loses such a race
 * takes a new snapshot and looks again. */
#include "rag/store.h"

enum { ATTEMPTS = 8 };

static void index_path(const collection *c, const char *name, char out[STORE_PATH])
{
    snprintf(out, STORE_PATH, "%s/%s", c->folder, name);
}

/* ---- making ------------------------------------------------------------------------------------------------------------- */
typedef struct { /* chunks come in the order of their keys, those of a document together: one text at a time */
    i64 of;
    buf text, chunk;
} text_reader;

static err read_body(collection *c, text_reader *r, i64 key)
{
    sqlite3_stmt *q;
    bool row;
    if (r->of == key) return OK;
    buf_reset(&r->text);
    r->of = key;
    TRY(store_query(c, Q_BODY_TEXT, &q, "i", key));
    TRY(store_step(c, q, &row));
    if (row) buf_str(&r->text, store_text(q, 0));
    store_done(q);
    return buf_error(&r->text);
}

static err add_chunk(collection *c, keyword_builder *b, text_reader *r, sqlite3_stmt *q)
{
    i64 from = sqlite3_column_int64(q, 2), to = sqlite3_column_int64(q, 3), of = sqlite3_column_int64(q, 1);
    str context = store_text(q, 4);
    TRY(read_body(c, r, of));
    if (from < 0 || from > to || (u64)to > r->text.n)
        return err_new(ERR_FORMAT, "%s/store.db: a chunk of document %lld lies outside of its text", c->folder, (long long)of);
    str text = {r->text.p ? r->text.p + from : "", (usize)(to - from)};
    if (context.n) {
        buf_reset(&r->chunk);
        buf_str(&r->chunk, context);
        buf_byte(&r->chunk, '\n');
        buf_str(&r->chunk, text);
        TRY(buf_error(&r->chunk));
        text = buf_view(&r->chunk);
    }
    return keyword_builder_add(b, sqlite3_column_int64(q, 0), of, text);
}

static err make_keyword(collection *c, const char *path, u64 generation)
{
    keyword_builder *b;
    text_reader r = {0};
    sqlite3_stmt *q;
    bool row = true;
    TRY(keyword_builder_new(&b));
    err bad = store_query(c, Q_CHUNK_LIST, &q, "");
    while (!bad.code) {
        bad = store_step(c, q, &row);
        if (bad.code || !row) break;
        bad = add_chunk(c, b, &r, q);
        if (bad.code) store_done(q);
    }
    buf_free(&r.text);
    buf_free(&r.chunk);
    if (!bad.code) return keyword_builder_write(b, path, generation);
    keyword_builder_drop(b);
    return bad;
}

static err add_vectors(collection *c, vector_builder *b, i64 dim, sqlite3_stmt *q)
{
    str data = store_text(q, 2);
    usize each = sizeof(float) * (usize)dim;
    float *v = mem_alloc(data.n); /* a row's bytes are not aligned */
    if (!v) return err_new(ERR_NOMEM, "no memory for vectors");
    memcpy(v, data.p, data.n);
    err bad = data.n % each
                  ? err_new(ERR_FORMAT, "%s/store.db: a vector of %zu bytes, expected a multiple of %zu", c->folder, data.n, each)
                  : OK;
    for (usize i = 0; i < data.n / each && !bad.code; i++)
        bad = vector_builder_add(b, sqlite3_column_int64(q, 0), sqlite3_column_int64(q, 1), v + i * (usize)dim);
    mem_free(v);
    return bad;
}

static err make_vectors(collection *c, i64 dim, const char *path, u64 generation)
{
    vector_builder *b;
    sqlite3_stmt *q;
    bool row = true;
    TRY(vector_builder_new(&b, dim));
    err bad = store_query(c, Q_VECTOR_LIST, &q, "");
    while (!bad.code) {
        bad = store_step(c, q, &row);
        if (bad.code || !row) break;
        bad = add_vectors(c, b, dim, q);
        if (bad.code) store_done(q);
    }
    if (!bad.code) return vector_builder_write(b, path, generation);
    vector_builder_drop(b);
    return bad;
}

/* ---- opening ------------------------------------------------------------------------------------------------------------ */
/* *right: what is open now belongs to `generation` */
static err open_keyword(collection *c, const char *path, u64 generation, bool *right)
{
    *right = false;
    err bad = keyword_open(&c->keyword, path);
    if (bad.code == ERR_FORMAT || bad.code == ERR_NOTFOUND || bad.code == ERR_UNSUPPORTED) return OK;
    if (bad.code) return bad;
    *right = keyword_generation(c->keyword) == generation;
    return OK;
}

static err open_vectors(collection *c, const char *path, i64 dim, u64 generation, bool *right)
{
    *right = false;
    err bad = vector_open(&c->vectors, path);
    if (bad.code == ERR_FORMAT || bad.code == ERR_NOTFOUND || bad.code == ERR_UNSUPPORTED) return OK;
    if (bad.code) return bad;
    *right = vector_generation(c->vectors) == generation && vector_dim(c->vectors) == dim;
    return OK;
}

static err current_keyword(collection *c, u64 generation, bool *right)
{
    char path[STORE_PATH];
    *right = true;
    if (c->keyword && keyword_generation(c->keyword) == generation) return OK;
    index_path(c, "keyword.idx", path);
    for (int made = 0; made < 2; made++) {
        keyword_close(c->keyword);
        c->keyword = NULL;
        TRY(open_keyword(c, path, generation, right));
        if (*right || made) break;
        TRY(make_keyword(c, path, generation));
    }
    return OK;
}

static err current_vectors(collection *c, u64 generation, bool *right)
{
    char path[STORE_PATH], *text;
    i64 dim = 0;
    *right = true;
    if (c->vectors && vector_generation(c->vectors) == generation) return OK;
    TRY(collection_meta_get(c, "dim", &text));
    bool good = text && str_i64(str_of(text), &dim) && dim > 0 && dim <= 1 << 16;
    mem_free(text);
    vector_close(c->vectors);
    c->vectors = NULL;
    if (!good) return OK; /* a collection without an embedder */
    index_path(c, "vectors.idx", path);
    for (int made = 0; made < 2; made++) {
        vector_close(c->vectors);
        c->vectors = NULL;
        TRY(open_vectors(c, path, dim, generation, right));
        if (*right || made) break;
        TRY(make_vectors(c, dim, path, generation));
    }
    return OK;
}

err store_begin_search(collection *c, bool vectors)
{
    for (int i = 0; i < ATTEMPTS; i++) {
        u64 generation;
        bool keyword_right = false, vectors_right = true;
        TRY(store_begin(c, false));
        err bad = store_state(c, &generation, NULL);
        if (!bad.code) bad = current_keyword(c, generation, &keyword_right);
        if (!bad.code && vectors) bad = current_vectors(c, generation, &vectors_right);
        if (!bad.code && keyword_right && vectors_right) return OK;
        if (bad.code) return store_end(c, bad);
        TRY(store_end(c, OK));
    }
    return err_new(ERR_BUSY, "collection %s changes faster than its indexes can be made: try again", c->name);
}

err store_reindex(collection *c)
{
    TRY(store_begin_search(c, true));
    return store_end(c, OK);
}

err collection_keyword(collection *c, keyword_index **out)
{
    *out = NULL;
    TRY(store_begin_search(c, false));
    *out = c->keyword;
    return store_end(c, OK);
}
