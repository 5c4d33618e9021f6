/* rag/add.c - `add`: which files, what of them is new, LOAD and SPLIT; then EMBED (embed.c) and STORE (keep.c) batch by batch.
 *
 * Nothing is done twice: a file with the hash and options of before is not parsed, a JSONL line with the hash of before is not
 * split or embedded. Two kinds of errors: what is wrong with a file goes into failed[] and the rest goes on; what is wrong with
 * the store, the embedder or memory ends the call, and the documents stored by then stay. */
#include "rag/add.h"
#include "rag/paths.h"
#include <jansson.h>
#include <stdlib.h>

enum { ADD_VERSION = 1 /* of what is stored of a document: a new one adds everything again */, BATCH_BYTES = 8 << 20 };
enum { BATCH_EMBEDDED = 64, BATCH_PLAIN = 512 /* chunks: what a kill may cost */ };
enum {
    CHUNK_TOKENS = 320,
    WINDOW_RESERVE = 80 /* tokens of the window that what stands above a chunk and the prefix may take */
};

/* ---- files -------------------------------------------------------------------------------------------------------------- */
typedef struct {
    adding *a;
    candidate_file *f;
    usize n, cap;
    map *seen; /* identities */
    i64 bytes;
    bool named;
} file_list;

static err list_file(void *ctx, const char *path)
{
    file_list *l = ctx;
    char *id;
    TRY(add_cancelled(l->a));
    TRY(path_identity(path, &id));
    str key = str_of(id);
    bool again = map_get(l->seen, key, NULL), room = again || map_put(l->seen, key, 1);
    mem_free(id);
    if (again) return OK;
    i64 bytes;
    candidate_file f = {mem_strdup(path), l->named, l->bytes};
    if (!file_size(path, &bytes).code) f.upto = l->bytes += bytes;
    if (room && f.path && VEC_PUSH(l->f, l->n, l->cap, f)) return OK;
    mem_free(f.path);
    return err_new(ERR_NOMEM, "no memory for a list of files");
}

static void file_list_free(file_list *l)
{
    for (usize i = 0; i < l->n; i++) mem_free(l->f[i].path);
    mem_free(l->f);
    map_free(l->seen);
}

err add_failed(adding *a, const char *path, const char *reason)
{
    add_result *r = a->r;
    usize cap = r->n_failed; /* grown by one: failures are few */
    add_failure f = {mem_strdup(path), mem_strdup(reason)};
    if (f.path && f.reason && VEC_PUSH(r->failed, r->n_failed, cap, f)) return OK;
    mem_free(f.path);
    mem_free(f.reason);
    return err_new(ERR_NOMEM, "no memory for a list of failures");
}

bool add_ends(err bad)
{
    return bad.code == ERR_NOMEM || bad.code == ERR_BUG || bad.code == ERR_CANCELLED || bad.code == ERR_BUSY;
}

static err list_files(file_list *l, const char *const *paths, usize n)
{
    if (!(l->seen = map_new())) return err_new(ERR_NOMEM, "no memory for a list of files");
    for (usize i = 0; i < n; i++) {
        l->named = !file_is_dir(paths[i]);
        err bad = file_walk(paths[i], list_file, l);
        if (!bad.code) continue;
        if (add_ends(bad)) return bad;
        TRY(add_failed(l->a, paths[i], bad.what));
    }
    return OK;
}

/* ---- one document ------------------------------------------------------------------------------------------------------- */
typedef struct {
    adding *a;
    source *f;
    str content;
    i64 key;   /* of this version of the file in the store; 0: not yet */
    bool kept; /* its original is written */
    map *ids;  /* of this file, so far */
    err fatal;
    char *twice; /* the first id that came twice */
    i64 n_twice;
} loading;

static err document_hash(const loaded *d, const source *f, char out[65])
{
    const char *part[] = {d->id, d->title ? d->title : "", d->meta ? d->meta : ""};
    if (!d->id) {
        memcpy(out, f->hash, 65);
        return OK;
    }
    sha256_stream *s = sha256_begin();
    if (!s) return err_new(ERR_NOMEM, "no memory for a document");
    for (int i = 0; i < 3; i++) sha256_feed(s, part[i], strlen(part[i]) + 1);
    sha256_feed(s, d->text, d->text_len);
    sha256_hex(sha256_end(s), out);
    return OK;
}

/* the caller's attributes over those of the line; NULL when there are none */
static err attributes_of(const adding *a, const loaded *d, char **out)
{
    *out = NULL;
    if (!a->o->attributes && !d->meta) return OK;
    json_t *all = d->meta ? json_loads(d->meta, 0, NULL) : json_object(),
           *over = a->o->attributes ? json_loads(a->o->attributes, 0, NULL) : NULL;
    if (all && over) json_object_update(all, over);
    char *text = all ? json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    if (text) *out = mem_strdup(text);
    free(text); /* jansson's */
    json_decref(all);
    json_decref(over);
    return *out ? OK : err_new(ERR_NOMEM, "no memory for a document's attributes");
}

static err contexts_of(item *m)
{
    split_above above;
    buf b = {0};
    err bad = OK;
    m->context = mem_array(char *, m->n_chunks);
    if (!m->context) return err_new(ERR_NOMEM, "no memory for splitting a document");
    split_above_init(&above, &m->d);
    for (usize i = 0; i < m->n_chunks && !bad.code; i++) {
        buf_reset(&b);
        bad = split_context(&above, m->chunk[i], &b);
        if (!bad.code && !(m->context[i] = mem_strdup(buf_cstr(&b))))
            bad = err_new(ERR_NOMEM, "no memory for splitting a document");
    }
    buf_free(&b);
    return bad;
}

static err split_item(const adding *a, item *m)
{
    TRY(split_document(&m->d, a->budget, &m->chunk, &m->n_chunks));
    return a->budget > 0 && m->n_chunks ? contexts_of(m) : OK;
}

static err flush(adding *a)
{
    err bad = embed_batch(a);
    return bad.code ? bad : keep_batch(a);
}

/* *same: this content is in the store; *here: and nothing about it has to change */
static err compare(loading *l, const char *id, const char *hash, bool *same, bool *here)
{
    adding *a = l->a;
    sqlite3_stmt *q;
    bool row;
    *same = *here = false;
    if (map_get(a->batch_ids, str_of(id), NULL)) TRY(flush(a)); /* from another file, not stored yet */
    TRY(store_query(a->c, Q_DOCUMENT_FIND, &q, "s", id));
    TRY(store_step(a->c, q, &row));
    if (!row) return OK;
    *same = str_eq(store_text(q, 1), str_of(hash)) && str_eq(store_text(q, 2), str_of(a->stamp));
    *here = *same && l->key && sqlite3_column_int64(q, 3) == l->key;
    store_done(q);
    return OK;
}

static err push_item(adding *a, const item *m)
{
    if (!a->batch_ids && !(a->batch_ids = map_new())) return err_new(ERR_NOMEM, "no memory for a batch of documents");
    if (m->id && !map_put(a->batch_ids, str_of(m->id), 1)) return err_new(ERR_NOMEM, "no memory for a batch of documents");
    if (!VEC_PUSH(a->item, a->n, a->cap, *m)) return err_new(ERR_NOMEM, "no memory for a batch of documents");
    a->n_chunks += (i64)m->n_chunks;
    a->n_bytes += (i64)(m->d.text_len + m->d.n_anchors * sizeof *m->d.anchors);
    return OK;
}

/* A JSONL file may give an id twice: the first stands. */
static err known_id(loading *l, const char *id, bool *twice)
{
    *twice = map_get(l->ids, str_of(id), NULL);
    if (!*twice) return map_put(l->ids, str_of(id), 1) ? OK : err_new(ERR_NOMEM, "no memory for a file's documents");
    if (l->n_twice++ == 0) l->twice = mem_strdup(id);
    return OK;
}

static err take(loading *l, item *m)
{
    adding *a = l->a;
    bool twice = false, same, here;
    TRY(add_cancelled(a));
    m->id = mem_strdup(m->d.id ? m->d.id : l->f->path);
    if (!m->id) return err_new(ERR_NOMEM, "no memory for a document");
    if (m->d.id) TRY(known_id(l, m->id, &twice));
    if (twice) return OK;
    TRY(document_hash(&m->d, l->f, m->hash));
    TRY(compare(l, m->id, m->hash, &same, &here));
    if (here) {
        a->r->unchanged++;
        a->done += (i64)m->d.text_len;
        return OK;
    }
    m->kind = same ? ITEM_MOVED : ITEM_NEW;
    m->bytes = m->d.id ? (i64)m->d.text_len : l->f->bytes;
    if (!same) TRY(attributes_of(a, &m->d, &m->attributes));
    if (!same) TRY(split_item(a, m));
    if (!l->kept) TRY(blob_put(a->c, l->content, l->f->hash));
    l->kept = true;
    TRY(push_item(a, m));
    *m = (item){0};
    return a->n_chunks >= (a->dim ? BATCH_EMBEDDED : BATCH_PLAIN) || a->n_bytes >= BATCH_BYTES ? flush(a) : OK;
}

static err take_document(void *ctx, loaded *d)
{
    loading *l = ctx;
    item m = {.from = l->f, .d = *d};
    *d = (loaded){0};
    l->fatal = take(l, &m);
    item_free(&m);
    return l->fatal;
}

/* ---- one file
 * ------------------------------------------------------------------------------------------------------------------------------
 */
static err known_file(loading *l, bool *done)
{
    sqlite3_stmt *q;
    bool row;
    i64 n = 0;
    *done = false;
    TRY(store_query(l->a->c, Q_FILE_FIND, &q, "ss", l->f->path, l->f->hash));
    TRY(store_step(l->a->c, q, &row));
    if (!row) return OK;
    l->key = sqlite3_column_int64(q, 0);
    *done = str_eq(store_text(q, 2), str_of(l->a->stamp));
    store_done(q);
    if (*done) TRY(store_one(l->a->c, Q_FILE_DOCUMENTS, &n, "i", l->key));
    l->a->r->unchanged += n;
    return OK;
}

static bool has_known_ending(const char *path)
{
    static const char *const endings[] = {".md",     ".markdown", ".txt", ".csv",   ".tsv", ".jsonl",
                                          ".ndjson", ".html",     ".htm", ".xhtml", ".pdf", ".docx"};
    usize n = strlen(path);
    for (usize i = 0; i < COUNT_OF(endings); i++) {
        usize m = strlen(endings[i]);
        if (n > m && !strcasecmp(path + n - m, endings[i])) return true;
    }
    return false;
}

/* What is wrong with this file. In folders, what is no document by content and by name is passed over. */
static err load_failed(adding *a, const candidate_file *f, const char *path, err bad)
{
    bool foreign = bad.code == ERR_UNSUPPORTED || (bad.code == ERR_FORMAT && !has_known_ending(path));
    if (!f->named && foreign) {
        a->r->skipped++;
        return OK;
    }
    usize n = strlen(path);
    const char *what = bad.what ? bad.what : "";
    if (!strncmp(what, path, n) && !strncmp(what + n, ": ", 2)) what += n + 2; /* the path is said beside it */
    return add_failed(a, path, what);
}

static err tell_twice(loading *l)
{
    char reason[512];
    if (!l->n_twice) return OK;
    snprintf(reason, sizeof reason, "%lld lines repeat an id; the first of each stands (%.200s)", (long long)l->n_twice,
             l->twice ? l->twice : "");
    l->f->whole = false;
    return add_failed(l->a, l->f->path, reason);
}

static err load_source(loading *l, const candidate_file *f)
{
    adding *a = l->a;
    source *s = l->f;
    err bad = load_bytes(s->path, l->content.p, l->content.n, take_document, l);
    if (l->fatal.code) return l->fatal;
    if (bad.code && add_ends(bad)) return bad;
    s->whole = !bad.code;
    if (bad.code) TRY(load_failed(a, f, s->path, bad));
    TRY(tell_twice(l));
    item end = {.kind = ITEM_END, .from = s};
    TRY(push_item(a, &end));
    l->f = NULL; /* the item's now */
    return OK;
}

static err add_source(loading *l, const candidate_file *f, buf *bytes)
{
    bool done;
    l->f->bytes = (i64)bytes->n;
    l->f->upto = f->upto;
    l->content = (str){bytes->p ? bytes->p : "", bytes->n};
    sha256_hex(sha256_of(l->content.p, l->content.n), l->f->hash);
    TRY(known_file(l, &done));
    if (!done) return load_source(l, f);
    l->a->done = i64_max(l->a->done, f->upto);
    return OK;
}

static err add_file(adding *a, const candidate_file *f)
{
    buf bytes = {0};
    loading l = {.a = a, .ids = map_new(), .f = mem_zero(sizeof *l.f)};
    err bad = l.ids && l.f ? path_identity(f->path, &l.f->path) : err_new(ERR_NOMEM, "no memory for a file");
    if (!bad.code) {
        err unread = file_read(&bytes, f->path, 1 << 30);
        if (!unread.code)
            bad = add_source(&l, f, &bytes);
        else
            bad = add_ends(unread) ? unread : add_failed(a, l.f->path, unread.what);
    }
    if (l.f) mem_free(l.f->path);
    mem_free(l.f);
    map_free(l.ids);
    mem_free(l.twice);
    buf_free(&bytes);
    return bad;
}

/* ---- looking only ----------------------------------------------------------------------------------------------------- */
/* n_here: documents of the file that are in the store under its path already */
typedef struct {
    loading l;
    i64 n_here;
} looking;

static err look(looking *k, item *m)
{
    adding *a = k->l.a;
    add_result *r = a->r;
    sqlite3_stmt *q;
    bool twice = false, row = false;
    TRY(add_cancelled(a));
    m->id = mem_strdup(m->d.id ? m->d.id : k->l.f->path);
    if (!m->id) return err_new(ERR_NOMEM, "no memory for a document");
    if (m->d.id) TRY(known_id(&k->l, m->id, &twice));
    if (twice) return OK;
    TRY(document_hash(&m->d, k->l.f, m->hash));
    if (a->c) {
        TRY(store_query(a->c, Q_DOCUMENT_FIND, &q, "s", m->id));
        TRY(store_step(a->c, q, &row));
    }
    bool same = row && str_eq(store_text(q, 1), str_of(m->hash)) && str_eq(store_text(q, 2), str_of(a->stamp));
    if (row) k->n_here += str_eq(store_text(q, 5), str_of(k->l.f->path));
    if (row) store_done(q);
    r->added += !row, r->updated += row && !same, r->unchanged += same;
    return OK;
}

static err look_at_document(void *ctx, loaded *d)
{
    looking *k = ctx;
    item m = {.d = *d};
    *d = (loaded){0};
    k->l.fatal = look(k, &m);
    item_free(&m);
    return k->l.fatal;
}

static err look_at_file(looking *k, const candidate_file *f, const buf *bytes)
{
    adding *a = k->l.a;
    sqlite3_stmt *q;
    bool row = true;
    sha256_hex(sha256_of(bytes->p ? bytes->p : "", bytes->n), k->l.f->hash);
    err bad = load_bytes(k->l.f->path, bytes->p, bytes->n, look_at_document, k);
    if (k->l.fatal.code) return k->l.fatal;
    if (bad.code && add_ends(bad)) return bad;
    k->l.f->whole = !bad.code;
    if (bad.code) TRY(load_failed(a, f, k->l.f->path, bad));
    TRY(tell_twice(&k->l));
    if (!a->c || !k->l.f->whole) return OK;
    i64 n = -k->n_here;
    TRY(store_query(a->c, Q_PATH_KEYS, &q, "s", k->l.f->path));
    for (;; n++) {
        TRY(store_step(a->c, q, &row));
        if (!row) break;
    }
    a->r->removed += n;
    return OK;
}

err add_preview(adding *a, const candidate_file *f)
{
    buf bytes = {0};
    source s = {0};
    looking k = {.l = {.a = a, .ids = map_new(), .f = &s}};
    err bad = k.l.ids ? path_identity(f->path, &s.path) : err_new(ERR_NOMEM, "no memory for a file");
    if (!bad.code) {
        err unread = file_read(&bytes, f->path, 1 << 30);
        if (!unread.code)
            bad = look_at_file(&k, f, &bytes);
        else
            bad = add_ends(unread) ? unread : add_failed(a, s.path, unread.what);
    }
    mem_free(s.path);
    map_free(k.l.ids);
    mem_free(k.l.twice);
    buf_free(&bytes);
    return bad;
}

/* ---- the call
 * --------------------------------------------------------------------------------------------------------------------------------
 */
err add_cancelled(const adding *a)
{
    return a->o->cancel && atomic_load(a->o->cancel)
               ? err_new(ERR_CANCELLED, "adding was stopped; what is stored stays, and the same command goes on")
               : OK;
}

static err check_attributes(const char *text)
{
    if (!text) return OK;
    json_error_t why;
    json_t *j = json_loads(text, 0, &why);
    bool good = json_is_object(j);
    json_decref(j);
    return good
               ? OK
               : err_new(ERR_INPUT, "attributes must be a JSON object, found %.100s%s%s", text, j ? "" : ": ", j ? "" : why.text);
}

/* Fixed by the first document: ids decide, names are for people. */
static err check_embedder(adding *a)
{
    char *name = NULL, *id = NULL;
    i64 n = 0;
    if (a->c) TRY(store_one(a->c, Q_DOCUMENT_COUNT, &n, ""));
    a->fix_embedder = n == 0;
    if (!n) return OK;
    err bad = collection_meta_get(a->c, "embedder", &name);
    if (!bad.code) bad = collection_meta_get(a->c, "embedder_id", &id);
    if (!bad.code && !name && a->dim)
        bad = err_new(ERR_INPUT,
                      "collection %s was begun without an embedder (keyword search only), now %s is given: its documents would "
                      "have to be added anew, to another collection",
                      a->c->name, a->embedder_name);
    else if (!bad.code && name && !a->dim)
        bad = err_new(ERR_INPUT, "collection %s was begun with the embedder %s, now none is given", a->c->name, name);
    else if (!bad.code && name && (!id || strcmp(id, a->embedder_id)))
        bad = err_new(ERR_INPUT, "collection %s was begun with the embedder %s (%.8s), now %s (%.8s) is given", a->c->name, name,
                      id ? id : "?", a->embedder_name, a->embedder_id);
    mem_free(name);
    mem_free(id);
    return bad;
}

err add_begin(adding *a)
{
    const add_opts *o = a->o;
    TRY(check_attributes(o->attributes));
    i64 room = INT32_MAX;
    if (o->embedder) {
        const model *m = engine_model(o->embedder);
        if (!m->arch->encoder)
            return err_new(ERR_INPUT, "%s is not an embedding model (architecture %s)", m->path, m->arch->name);
        a->dim = engine_dim(o->embedder);
        a->embedder_name = o->embedder_name ? o->embedder_name : m->path;
        sha256_hex(m->id, a->embedder_id);
        room = engine_window(o->embedder) - WINDOW_RESERVE;
        if (room < 32) room = i64_max(engine_window(o->embedder) / 2, 1);
    }
    if (o->chunk_tokens < -1) return err_new(ERR_INPUT, "chunks of %lld tokens", (long long)o->chunk_tokens);
    a->budget = o->chunk_tokens ? o->chunk_tokens : i64_min(CHUNK_TOKENS, room);
    u64 labels = hash64(o->owner, o->owner ? strlen(o->owner) : 0, 1);
    labels = hash64(o->attributes, o->attributes ? strlen(o->attributes) : 0, labels);
    snprintf(a->stamp, sizeof a->stamp, "%d chunk %lld window %s %016llx", ADD_VERSION, (long long)a->budget,
             !a->dim                     ? "-"
             : o->best_window            ? "best"
             : o->window == WINDOW_FIRST ? "first"
                                         : "mean",
             (unsigned long long)labels);
    return check_embedder(a);
}

err add_files(adding *a, const candidate_file *f, usize n, i64 bytes)
{
    err bad = OK;
    progress_start(&a->bar, L("문서 추가", "adding"), bytes);
    a->bar.on = a->bar.on && !a->o->quiet;
    for (usize i = 0; i < n && !bad.code; i++) {
        bad = add_cancelled(a);
        if (!bad.code) bad = add_file(a, &f[i]);
        progress_step(&a->bar, a->done);
    }
    if (!bad.code) bad = flush(a);
    progress_end(&a->bar);
    return bad;
}

static err finish(adding *a)
{
    const add_result *r = a->r;
    if (a->changed) TRY(store_sweep(a->c));
    TRY(store_reindex(a->c));
    if (!r->n_failed || r->added || r->updated || r->unchanged) return OK;
    const add_failure *f = &r->failed[0];
    if (r->n_failed == 1) return err_new(ERR_INPUT, "%s: %s", f->path, f->reason);
    return err_new(ERR_INPUT, "none of %zu paths could be added; the first: %s: %s", r->n_failed, f->path, f->reason);
}

void add_end(adding *a)
{
    for (usize i = 0; i < a->n; i++) item_free(&a->item[i]);
    mem_free(a->item);
    map_free(a->batch_ids);
}

err collection_add(collection *c, const char *const *paths, usize n, const add_opts *o, add_result *r)
{
    *r = (add_result){0};
    double start = clock_s();
    adding a = {.c = c, .o = o, .r = r};
    file_list l = {.a = &a};
    err bad = store_writable(c);
    if (!bad.code) bad = add_begin(&a);
    if (!bad.code) bad = list_files(&l, paths, n);
    if (!bad.code) bad = add_files(&a, l.f, l.n, l.bytes);
    if (!bad.code) bad = finish(&a);
    add_end(&a);
    file_list_free(&l);
    r->seconds = clock_s() - start;
    if (bad.code) add_result_free(r);
    return bad;
}

void add_result_free(add_result *r)
{
    if (!r) return;
    for (usize i = 0; i < r->n_failed; i++) {
        mem_free(r->failed[i].path);
        mem_free(r->failed[i].reason);
    }
    mem_free(r->failed);
    *r = (add_result){0};
}
