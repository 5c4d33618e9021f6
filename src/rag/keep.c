/* rag/keep.c - STORE: a batch of loaded, split and embedded documents into the collection, in one transaction, and the end of
 * each file: documents that the file no longer has go, and the file counts as done. */
#include "rag/add.h"

void item_free(item *m)
{
    if (m->kind == ITEM_END && m->from) {
        mem_free(m->from->path);
        mem_free(m->from);
    }
    mem_free(m->id);
    mem_free(m->attributes);
    loaded_free(&m->d);
    mem_free(m->chunk);
    for (usize i = 0; m->context && i < m->n_chunks; i++) mem_free(m->context[i]);
    mem_free(m->context);
    mem_free(m->v);
    mem_free(m->n_v);
    *m = (item){0};
}

/* The row of this version of the file; its original is there already. */
static err file_row(adding *a, const source *f, bool original, i64 *key)
{
    sqlite3_stmt *q;
    bool row;
    const char *blob = original ? f->hash : NULL;
    TRY(store_query(a->c, Q_FILE_FIND, &q, "ss", f->path, f->hash));
    TRY(store_step(a->c, q, &row));
    if (!row) { /* from now on documents leave the versions of before, so those are not whole any more */
        TRY(store_run(a->c, Q_FILE_UNDONE, "s", f->path));
        TRY(store_run(a->c, Q_FILE_PUT, "sssi", f->path, f->hash, blob, f->bytes));
        *key = sqlite3_last_insert_rowid(a->c->db);
        return OK;
    }
    *key = sqlite3_column_int64(q, 0);
    bool same = str_eq(store_text(q, 1), str_of(f->hash));
    store_done(q);
    return same || !blob ? OK : store_run(a->c, Q_FILE_BLOB, "si", blob, *key);
}

typedef struct {
    i64 key, file, version;
    bool found;
} existing;

/* What has this id now. If another file has it, that file loses it. */
static err find_existing(adding *a, const item *m, existing *e)
{
    sqlite3_stmt *q;
    *e = (existing){0};
    TRY(store_query(a->c, Q_DOCUMENT_FIND, &q, "s", m->id));
    TRY(store_step(a->c, q, &e->found));
    if (!e->found) return OK;
    e->key = sqlite3_column_int64(q, 0);
    e->file = sqlite3_column_int64(q, 3);
    e->version = sqlite3_column_int64(q, 4);
    bool other = !str_eq(store_text(q, 5), str_of(m->from->path));
    store_done(q);
    return other ? store_run(a->c, Q_FILE_LOST, "i", e->file) : OK;
}

/* ---- a new or changed document ------------------------------------------------------------------------------------------ */
/* Bytes, line and page of chunk after chunk, walking the text once. */
typedef struct {
    const loaded *d;
    usize at, anchor;
    u32 chars, line, page;
} walker;

static void walk_to(walker *w, u32 to)
{
    str s = {w->d->text, w->d->text_len};
    for (; w->chars < to && w->at < s.n; w->chars++) w->line += utf8_next(s, &w->at) == '\n';
}

static u32 page_at(walker *w, u32 start)
{
    if (w->d->source != SOURCE_PDF) return 0;
    while (w->anchor < w->d->n_anchors && w->d->anchors[w->anchor].end <= start) w->anchor++;
    if (w->anchor < w->d->n_anchors) w->page = w->d->anchors[w->anchor].a;
    return w->page;
}

static err put_chunks(adding *a, const item *m, i64 owner_key)
{
    walker w = {.d = &m->d, .line = 1};
    const float *v = m->v;
    for (usize i = 0; i < m->n_chunks; i++) {
        const range *r = &m->chunk[i];
        walk_to(&w, r->start);
        usize from = w.at;
        u32 line = w.line;
        walk_to(&w, r->end);
        TRY(store_run(a->c, Q_CHUNK_PUT, "iiiiiiis", owner_key, (i64)r->start, (i64)r->end, (i64)from, (i64)w.at,
                      (i64)page_at(&w, r->start), (i64)line, m->context ? m->context[i] : ""));
        if (!m->n_v) continue;
        usize floats = (usize)m->n_v[i] * (usize)a->dim;
        TRY(store_run(a->c, Q_VECTOR_PUT, "ib", (i64)sqlite3_last_insert_rowid(a->c->db),
                      (str){(const char *)v, floats * sizeof *v}));
        v += floats;
    }
    return OK;
}

static err put_document(adding *a, const item *m, const existing *was, i64 file)
{
    str text = {m->d.text, m->d.text_len};
    buf packed = {0};
    sqlite3_stmt *q;
    bool row;
    const char *owner = a->o->owner ? a->o->owner : "";
    TRY(store_query(a->c, Q_DOCUMENT_PUT, &q, "isisssssiiii", was->key, m->id, file, m->d.title, owner, m->attributes, m->hash,
                    a->stamp, (i64)m->d.n_pages, (i64)m->d.n_chars, was->version + 1, m->bytes));
    if (!was->found) sqlite3_bind_null(q, 1);
    TRY(store_step(a->c, q, &row));
    i64 key = sqlite3_last_insert_rowid(a->c->db);
    err bad = map_pack(&m->d, &packed);
    if (!bad.code) bad = store_run(a->c, Q_BODY_PUT, "itb", key, text, buf_view(&packed));
    buf_free(&packed);
    return bad.code ? bad : put_chunks(a, m, key);
}

static err fix_embedder(adding *a)
{
    char dim[24];
    snprintf(dim, sizeof dim, "%lld", (long long)a->dim);
    bool has = a->dim > 0;
    TRY(collection_meta_put(a->c, "embedder", has ? a->embedder_name : NULL));
    TRY(collection_meta_put(a->c, "embedder_id", has ? a->embedder_id : NULL));
    return collection_meta_put(a->c, "dim", has ? dim : NULL);
}

static err keep_new(adding *a, const item *m, bool *updated)
{
    existing was;
    i64 file;
    TRY(file_row(a, m->from, true, &file));
    TRY(find_existing(a, m, &was));
    *updated = was.found;
    if (was.found) TRY(store_run(a->c, Q_DOCUMENT_DROP, "i", was.key));
    if (a->fix_embedder) TRY(fix_embedder(a));
    TRY(put_document(a, m, &was, file));
    return store_run(a->c, Q_BUMP, "");
}

static err keep_moved(adding *a, const item *m)
{
    existing was;
    i64 file;
    buf packed = {0};
    TRY(file_row(a, m->from, true, &file));
    TRY(find_existing(a, m, &was));
    if (!was.found) return err_new(ERR_BUG, "document %s is gone from under its writer", m->id);
    TRY(store_run(a->c, Q_DOCUMENT_MOVE, "ii", file, was.key));
    err bad = map_pack(&m->d, &packed);
    if (!bad.code) bad = store_run(a->c, Q_BODY_MAP, "bi", buf_view(&packed), was.key);
    buf_free(&packed);
    return bad;
}

/* ---- the end of a file -------------------------------------------------------------------------------------------------- */
static err drop_vanished(adding *a, const source *f, i64 key, i64 *n)
{
    sqlite3_stmt *q;
    bool row = true;
    i64 *gone = NULL;
    usize n_gone = 0, cap = 0;
    TRY(store_query(a->c, Q_PATH_OLD, &q, "si", f->path, key));
    err bad = OK;
    while (!bad.code) { /* first read, then delete: one statement at a time on a table */
        bad = store_step(a->c, q, &row);
        if (bad.code || !row) break;
        if (!VEC_PUSH(gone, n_gone, cap, sqlite3_column_int64(q, 0)))
            bad = err_new(ERR_NOMEM, "no memory for the documents that are gone");
    }
    store_done(q);
    for (usize i = 0; i < n_gone && !bad.code; i++) bad = store_run(a->c, Q_DOCUMENT_DROP, "i", gone[i]);
    if (!bad.code && n_gone) bad = store_run(a->c, Q_BUMP, "");
    mem_free(gone);
    *n = (i64)n_gone;
    return bad;
}

static err keep_end(adding *a, const source *f, i64 *removed)
{
    i64 key;
    *removed = 0;
    if (!f->whole) return OK;
    TRY(file_row(a, f, false, &key));
    TRY(drop_vanished(a, f, key, removed));
    TRY(store_run(a->c, Q_FILE_OLD, "si", f->path, key));
    return store_run(a->c, Q_FILE_DONE, "si", a->stamp, key);
}

/* ---- the batch
 * -----------------------------------------------------------------------------------------------------------------------------
 */
typedef struct {
    i64 added, updated, moved, removed, chunks;
} tally;

static err keep_item(adding *a, const item *m, tally *t)
{
    bool updated = false;
    i64 removed = 0;
    if (m->kind == ITEM_END) {
        TRY(keep_end(a, m->from, &removed));
        t->removed += removed;
    } else if (m->kind == ITEM_MOVED) {
        TRY(keep_moved(a, m));
        t->moved++;
    } else {
        TRY(keep_new(a, m, &updated));
        t->added += !updated, t->updated += updated;
        t->chunks += (i64)m->n_chunks;
    }
    return OK;
}

static void count(adding *a, const tally *t)
{
    add_result *r = a->r;
    r->added += t->added;
    r->updated += t->updated;
    r->unchanged += t->moved;
    r->removed += t->removed;
    r->chunks += t->chunks;
    a->changed |= t->updated || t->moved || t->removed;
    if (t->added || t->updated) a->fix_embedder = false;
}

/* One transaction: small documents would otherwise write the same pages of the log over and over. */
err keep_batch(adding *a)
{
    tally t = {0};
    err bad = a->n ? store_begin(a->c, true) : OK;
    if (a->n && !bad.code) {
        for (usize i = 0; i < a->n && !bad.code; i++) bad = keep_item(a, &a->item[i], &t);
        bad = store_end(a->c, bad);
    }
    if (!bad.code) count(a, &t);
    for (usize i = 0; i < a->n && !bad.code; i++) {
        const item *m = &a->item[i];
        a->done = m->kind == ITEM_END ? i64_max(a->done, m->from->upto) : a->done + m->bytes;
    }
    progress_step(&a->bar, a->done);
    for (usize i = 0; i < a->n; i++) item_free(&a->item[i]);
    a->n = 0;
    a->n_chunks = a->n_bytes = 0;
    map_free(a->batch_ids);
    a->batch_ids = NULL;
    return bad;
}
