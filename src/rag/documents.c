/* rag/documents.c - documents of a collection: listing, one with its text and map, its original, removing.
 *
 * A few unpacked documents are kept, because a search, its citations and the page that shows them ask for the same ones. Ids are
 * taken as they are given first, then as paths are written down (without "./", in NFC), so that what `add` was told works here.
 */
#include "rag/paths.h"
#include "rag/store.h"

/* ---- rows --------------------------------------------------------------------------------------------------------------- */
void document_clear(document *d)
{
    mem_free(d->id);
    mem_free(d->path);
    mem_free(d->title);
    mem_free(d->owner);
    mem_free(d->attributes);
    mem_free(d->hash);
    *d = (document){0};
}

err document_read(collection *c, sqlite3_stmt *q, document *d)
{
    char **text[] = {&d->id, &d->path, &d->title, &d->owner, &d->attributes, &d->hash};
    (void)c;
    *d = (document){.key = sqlite3_column_int64(q, 0), .pages = sqlite3_column_int64(q, 7), .chars = sqlite3_column_int64(q, 8)};
    d->chunks = sqlite3_column_int64(q, 9);
    d->version = sqlite3_column_int64(q, 10);
    d->bytes = sqlite3_column_int64(q, 11);
    for (int i = 0; i < (int)COUNT_OF(text); i++) {
        err bad = store_copy(q, i + 1, text[i]);
        if (!bad.code) continue;
        document_clear(d);
        return bad;
    }
    return OK;
}

err collection_documents(collection *c, documents *out)
{
    sqlite3_stmt *q;
    usize cap = 0;
    bool row = true;
    *out = (documents){0};
    TRY(store_query(c, Q_DOCUMENT_LIST, &q, ""));
    err bad = OK;
    while (!bad.code) {
        document d;
        bad = store_step(c, q, &row);
        if (bad.code || !row) break;
        bad = document_read(c, q, &d);
        if (!bad.code && !VEC_PUSH(out->d, out->n, cap, d)) {
            document_clear(&d);
            bad = err_new(ERR_NOMEM, "no memory for a list of documents");
        }
    }
    store_done(q);
    if (bad.code) documents_free(out);
    return bad;
}

void documents_free(documents *d)
{
    if (!d) return;
    for (usize i = 0; i < d->n; i++) document_clear(&d->d[i]);
    mem_free(d->d);
    *d = (documents){0};
}

/* ---- one document ------------------------------------------------------------------------------------------------------- */
static void cache_drop(cached_document *e)
{
    loaded_free(&e->d);
    document_clear(&e->info);
    *e = (cached_document){0};
}

static cached_document *cache_find(collection *c, const document *info, i64 file)
{
    for (int i = 0; i < CACHED_DOCUMENTS; i++) {
        cached_document *e = &c->cache[i];
        if (e->used && e->info.key == info->key && e->info.version == info->version && e->file == file) return e;
    }
    return NULL;
}

static cached_document *cache_room(collection *c)
{
    cached_document *oldest = &c->cache[0];
    for (int i = 1; i < CACHED_DOCUMENTS; i++)
        if (c->cache[i].used < oldest->used) oldest = &c->cache[i];
    cache_drop(oldest);
    return oldest;
}

static err read_loaded(collection *c, i64 key, loaded *d)
{
    sqlite3_stmt *q;
    bool row;
    TRY(store_query(c, Q_BODY_GET, &q, "i", key));
    TRY(store_step(c, q, &row));
    if (!row) return err_new(ERR_FORMAT, "%s/store.db: document %lld has no text", c->folder, (long long)key);
    err bad = store_copy(q, 0, &d->text);
    if (!bad.code) {
        d->text_len = store_text(q, 0).n;
        bad = map_unpack(store_text(q, 1), d);
        if (bad.code) bad = err_at(bad, "%s/store.db: document %lld", c->folder, (long long)key);
    }
    store_done(q);
    if (bad.code) loaded_free(d);
    return bad;
}

/* The row of `id`; *info is empty when there is none. */
static err find_row(collection *c, const char *id, document *info, i64 *file)
{
    sqlite3_stmt *q;
    bool row;
    *info = (document){0};
    TRY(store_query(c, Q_DOCUMENT_INFO, &q, "s", id));
    TRY(store_step(c, q, &row));
    if (!row) return OK;
    *file = sqlite3_column_int64(q, 12);
    err bad = document_read(c, q, info);
    store_done(q);
    return bad;
}

static err find_document(collection *c, const char *id, document *info, i64 *file)
{
    char *path;
    TRY(find_row(c, id, info, file));
    if (info->id) return OK;
    TRY(path_identity(id, &path));
    err bad = find_row(c, path, info, file);
    mem_free(path);
    if (!bad.code && !info->id) bad = err_new(ERR_NOTFOUND, "collection %s has no document %s", c->name, id);
    return bad;
}

static err open_document(collection *c, const char *id, cached_document **out)
{
    document info;
    i64 file = 0;
    TRY(find_document(c, id, &info, &file));
    cached_document *e = cache_find(c, &info, file);
    if (e) {
        document_clear(&e->info); /* what no version tells may have changed */
        e->info = info;
    } else {
        e = cache_room(c);
        e->info = info;
        e->file = file;
        err bad = read_loaded(c, info.key, &e->d);
        if (bad.code) {
            cache_drop(e);
            return bad;
        }
    }
    e->used = ++c->clock;
    *out = e;
    return OK;
}

err collection_document(collection *c, const char *id, const loaded **out, document *info)
{
    cached_document *e = NULL;
    *out = NULL;
    bool own = sqlite3_get_autocommit(c->db); /* row and body of one moment, also while another process writes */
    if (own) TRY(store_begin(c, false));
    err bad = open_document(c, id, &e);
    if (own) bad = store_end(c, bad);
    if (bad.code) return bad;
    *out = &e->d;
    if (info) *info = e->info;
    return OK;
}

static err blob_of(collection *c, const char *id, bool *found, char **blob)
{
    sqlite3_stmt *q;
    TRY(store_query(c, Q_DOCUMENT_BLOB, &q, "s", id));
    TRY(store_step(c, q, found));
    err bad = *found ? store_copy(q, 0, blob) : OK;
    store_done(q);
    return bad;
}

err collection_original(collection *c, const char *id, buf *out)
{
    char *blob = NULL, *path = NULL;
    bool found;
    TRY(blob_of(c, id, &found, &blob));
    err bad = OK;
    if (!found) bad = path_identity(id, &path);
    if (!bad.code && !found) bad = blob_of(c, path, &found, &blob);
    if (!bad.code && !found) bad = err_new(ERR_NOTFOUND, "collection %s has no document %s", c->name, id);
    if (!bad.code && !blob)
        bad = err_new(ERR_NOTFOUND, "the original of %s is not kept any more: another document of the same file was removed", id);
    if (!bad.code) bad = blob_get(c, blob, out);
    mem_free(blob);
    mem_free(path);
    return bad;
}

/* ---- removing ----------------------------------------------------------------------------------------------------------- */
typedef struct {
    i64 *key, *file; /* of each document that goes */
    usize n, cap_key, cap_file;
    map *seen;
    char **path; /* files that go though they have no document */
    usize n_path, cap_path;
} leaving;

static err leaving_add(leaving *l, i64 key, i64 file)
{
    str id = {(const char *)&key, sizeof key};
    if (map_get(l->seen, id, NULL)) return OK;
    usize n = l->n;
    if (!map_put(l->seen, id, 1) || !VEC_PUSH(l->file, n, l->cap_file, file) || !VEC_PUSH(l->key, l->n, l->cap_key, key))
        return err_new(ERR_NOMEM, "no memory for removing documents");
    return OK;
}

/* All documents of the file `path`; *found: there is such a file */
static err leaving_file(collection *c, leaving *l, const char *path, bool *found)
{
    sqlite3_stmt *q;
    i64 n;
    bool row = true;
    TRY(store_one(c, Q_FILE_PATH, &n, "s", path));
    *found = n > 0;
    if (!*found) return OK;
    char *copy = mem_strdup(path);
    if (!copy || !VEC_PUSH(l->path, l->n_path, l->cap_path, copy)) {
        mem_free(copy);
        return err_new(ERR_NOMEM, "no memory for removing documents");
    }
    TRY(store_query(c, Q_PATH_KEYS, &q, "s", path));
    err bad = OK;
    while (!bad.code) {
        bad = store_step(c, q, &row);
        if (bad.code || !row) break;
        bad = leaving_add(l, sqlite3_column_int64(q, 0), sqlite3_column_int64(q, 1));
    }
    store_done(q);
    return bad;
}

/* A document, or a file with all its documents */
static err leaving_find(collection *c, leaving *l, const char *id)
{
    document info;
    i64 file = 0;
    char *path;
    bool found = false;
    TRY(path_identity(id, &path));
    err bad = find_row(c, id, &info, &file);
    if (!bad.code && !info.id) bad = find_row(c, path, &info, &file);
    if (!bad.code && info.id)
        bad = leaving_add(l, info.key, file);
    else if (!bad.code) {
        bad = leaving_file(c, l, path, &found);
        if (!bad.code && !found) bad = err_new(ERR_NOTFOUND, "collection %s has no document %s", c->name, id);
    }
    document_clear(&info);
    mem_free(path);
    return bad;
}

static err leave(collection *c, const leaving *l)
{
    for (usize i = 0; i < l->n; i++) {
        TRY(store_run(c, Q_FILE_LOST, "i", l->file[i]));
        TRY(store_run(c, Q_DOCUMENT_DROP, "i", l->key[i]));
    }
    for (usize i = 0; i < l->n_path; i++) TRY(store_run(c, Q_FILE_DROP, "s", l->path[i]));
    TRY(store_run(c, Q_SCRUB_SET, "i", (i64)1));
    return store_run(c, Q_BUMP, "");
}

static void leaving_free(leaving *l)
{
    for (usize i = 0; i < l->n_path; i++) mem_free(l->path[i]);
    mem_free(l->path);
    mem_free(l->key);
    mem_free(l->file);
    map_free(l->seen);
}

err documents_drop_files(collection *c, const char *const *paths, usize n, i64 *removed)
{
    leaving l = {.seen = map_new()};
    bool found;
    *removed = 0;
    err bad = l.seen ? store_begin(c, true) : err_new(ERR_NOMEM, "no memory for removing documents");
    if (!bad.code) {
        for (usize i = 0; i < n && !bad.code; i++) bad = leaving_file(c, &l, paths[i], &found);
        if (!bad.code && (l.n || l.n_path)) bad = leave(c, &l);
        bad = store_end(c, bad);
    }
    if (!bad.code) *removed = (i64)l.n;
    leaving_free(&l);
    return bad;
}

err collection_remove(collection *c, const char *const *names, usize n, i64 *removed)
{
    leaving l = {.seen = map_new()};
    *removed = 0;
    err bad = store_writable(c);
    if (!bad.code && !l.seen) bad = err_new(ERR_NOMEM, "no memory for removing documents");
    if (!bad.code) bad = store_begin(c, true);
    if (!bad.code) {
        for (usize i = 0; i < n && !bad.code; i++) bad = leaving_find(c, &l, names[i]);
        if (!bad.code && (l.n || l.n_path)) bad = leave(c, &l);
        bad = store_end(c, bad);
    }
    if (!bad.code) {
        *removed = (i64)l.n;
        bad = store_sweep(c);
        err indexes = store_reindex(c);
        if (!bad.code) bad = indexes;
    }
    leaving_free(&l);
    return bad;
}
