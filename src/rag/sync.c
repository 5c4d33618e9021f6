/* rag/sync.c - `sync`: a collection follows a folder. What the store has from below the folder is compared, file by file, with what
 * is there: by path, then by hash. The plan is made before anything is written, so that the guard can refuse it whole, and
 * a dry run is the plan without the rest.
 *
 * Order of work: renames (one transaction), then adding, then removing (one transaction). A document that moved from one JSONL file
 * to another has been taken over by the time its old file goes. Each step leaves a whole store, and the next call plans from
 * what is there, so a kill costs nothing.
 *
 * Not here: watching the folder. A file is known by its path as typed: a folder given by another path is another folder. */
#include "rag/add.h"
#include "rag/paths.h"

enum { FEW = 3 /* documents that may go whatever their share */ };

typedef enum { FILE_SAME, FILE_NEW, FILE_CHANGED, FILE_RENAMED, FILE_UNREAD } file_state;
typedef struct {
    char *path, *id; /* as walked; identity */
    char hash[65];
    file_state state;
    usize was; /* stored file: of the same path, or renamed from */
    bool again; /* to be added all the same: stored with other options, or not wholly */
} here;
typedef struct {
    char *path, hash[65];
    i64 n_documents;
    usize n_versions;
    bool done; /* wholly, with the options of this call */
    bool is_here;
} stored;
typedef struct {
    adding *a;
    collection *c;
    const sync_opts *o;
    sync_result *r;
    char *folder; /* identity */
    here *f;
    usize n_f, cap_f;
    stored *s;
    usize n_s, cap_s;
    map *paths; /* of s */
    usize cap_steps;
    i64 total, going;
    bool partial; /* some folder could not be read: what is not seen may be there */
} syncing;

static const err no_memory = {ERR_NOMEM, "no memory for the files of a folder"};

/* ---- what is stored, what is there -------------------------------------------------------------------------------------- */
static bool is_below(const char *folder, str path)
{
    usize n = strlen(folder);
    if (!strcmp(folder, ".")) return !str_starts(path, S("/")) && !str_starts(path, S("../")) && !str_eq(path, S(".."));
    if (!strcmp(folder, "/")) return str_starts(path, S("/"));
    return path.n > n && str_starts(path, str_of(folder)) && path.p[n] == '/';
}

static err list_stored(syncing *y)
{
    sqlite3_stmt *q;
    bool row = true;
    err bad = OK;
    if (!y->c) return OK;
    TRY(store_query(y->c, Q_FILE_LIST, &q, ""));
    while (!bad.code) {
        bad = store_step(y->c, q, &row);
        if (bad.code || !row) break;
        str path = store_text(q, 0), hash = store_text(q, 1);
        if (!is_below(y->folder, path)) continue;
        stored *last = y->n_s ? &y->s[y->n_s - 1] : NULL;
        if (!last || !str_eq(path, str_of(last->path))) {
            stored new = {.path = mem_strndup(path.p, path.n), .done = true};
            if (!new.path || !map_put(y->paths, path, y->n_s) || !VEC_PUSH(y->s, y->n_s, y->cap_s, new)) {
                mem_free(new.path);
                bad = no_memory;
                break;
            }
            last = &y->s[y->n_s - 1];
        }
        last->n_versions++;
        last->n_documents += sqlite3_column_int64(q, 3);
        last->done = last->n_versions == 1 && str_eq(store_text(q, 2), str_of(y->a->stamp));
        snprintf(last->hash, sizeof last->hash, "%.*s", (int)(hash.n < 64 ? hash.n : 64), hash.p);
        y->total += sqlite3_column_int64(q, 3);
    }
    store_done(q);
    return bad;
}

static err list_here(void *ctx, const char *path)
{
    syncing *y = ctx;
    buf bytes = {0};
    u64 at = 0;
    here f = {.path = mem_strdup(path)};
    err bad = add_cancelled(y->a);
    if (!bad.code) bad = f.path ? path_identity(path, &f.id) : no_memory;
    if (!bad.code) {
        err unread = file_read(&bytes, path, 1 << 30);
        if (unread.code) f.state = FILE_UNREAD;
        if (unread.code) bad = add_ends(unread) ? unread : add_failed(y->a, f.id, unread.what);
        if (!unread.code) sha256_hex(sha256_of(bytes.p ? bytes.p : "", bytes.n), f.hash);
    }
    buf_free(&bytes);
    bool known = !bad.code && map_get(y->paths, str_of(f.id), &at);
    f.was = (usize)at;
    if (known) {
        stored *s = &y->s[at];
        s->is_here = true;
        if (!f.state && !(s->done && !strcmp(s->hash, f.hash))) f.state = FILE_CHANGED;
    } else if (!f.state)
        f.state = FILE_NEW;
    if (!bad.code && VEC_PUSH(y->f, y->n_f, y->cap_f, f)) return OK;
    mem_free(f.path);
    mem_free(f.id);
    return bad.code ? bad : no_memory;
}

/* ---- the plan ------------------------------------------------------------------------------------------------------------- */
static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static const char *ending_of(const char *path)
{
    const char *dot = strrchr(base_of(path), '.');
    return dot ? dot : "";
}

/* The ending takes part, because for some formats it alone says what a file is. Of several, the one of the same name. */
static err find_renamed(syncing *y)
{
    i64 taken;
    for (usize i = 0; i < y->n_f; i++) {
        here *f = &y->f[i];
        stored *best = NULL;
        if (f->state != FILE_NEW) continue;
        for (usize k = 0; k < y->n_s; k++) {
            stored *s = &y->s[k];
            if (s->is_here || s->n_versions != 1 || strcmp(s->hash, f->hash) || strcmp(ending_of(s->path), ending_of(f->id)))
                continue;
            if (!best || !strcmp(base_of(s->path), base_of(f->id))) best = s;
        }
        if (!best) continue;
        TRY(store_one(y->c, Q_DOCUMENT_FIND, &taken, "s", f->id)); /* a JSONL line may have called itself so */
        if (taken) continue;
        best->is_here = true;
        f->state = FILE_RENAMED;
        f->was = (usize)(best - y->s);
        f->again = !best->done;
    }
    return OK;
}

static err add_step(syncing *y, sync_action action, const char *path, const char *from)
{
    sync_step s = {action, mem_strdup(path), from ? mem_strdup(from) : NULL};
    if (s.path && (s.from || !from) && VEC_PUSH(y->r->step, y->r->n_steps, y->cap_steps, s)) return OK;
    mem_free(s.path);
    mem_free(s.from);
    return no_memory;
}

static bool is_jsonl(const char *path)
{
    const char *e = ending_of(path);
    return !strcasecmp(e, ".jsonl") || !strcasecmp(e, ".ndjson");
}

/* Documents that a changed JSONL file does not have any more count for the guard as those of removed files do. */
static err count_lost_lines(syncing *y, const here *f)
{
    add_result r = {0}, *real = y->a->r;
    candidate_file file = {f->path, true, 0};
    y->a->r = &r;
    err bad = add_preview(y->a, &file);
    y->a->r = real;
    if (!bad.code) y->going += r.removed;
    add_result_free(&r);
    return bad;
}

static err make_plan(syncing *y)
{
    if (y->c && !y->partial) TRY(find_renamed(y));
    for (usize i = 0; i < y->n_f; i++) {
        here *f = &y->f[i];
        stored *s = y->n_s ? &y->s[f->was] : NULL;
        if (f->state == FILE_NEW) TRY(add_step(y, SYNC_ADD, f->id, NULL));
        if (f->state == FILE_CHANGED) TRY(add_step(y, SYNC_UPDATE, f->id, NULL));
        if (f->state == FILE_RENAMED) TRY(add_step(y, SYNC_RENAME, f->id, s->path));
        if (f->state == FILE_SAME) y->r->add.unchanged += s->n_documents;
        if (f->state == FILE_RENAMED) y->r->renamed += s->n_documents;
        if (f->state == FILE_CHANGED && is_jsonl(f->id) && strcmp(s->hash, f->hash) && !y->o->force)
            TRY(count_lost_lines(y, f));
    }
    for (usize i = 0; i < y->n_s && !y->partial; i++) {
        if (y->s[i].is_here) continue;
        TRY(add_step(y, SYNC_REMOVE, y->s[i].path, NULL));
        y->going += y->s[i].n_documents;
    }
    if (y->o->force || y->going <= FEW || y->going * 2 <= y->total) return OK;
    y->r->guarded = true;
    if (y->o->dry_run) return OK;
    return err_new(ERR_INPUT,
                   "%lld of the %lld documents from %s would be removed, more than half: nothing was done. Is the folder whole "
                   "(mounted, the right one)? --dry-run shows what would go, --force does it",
                   (long long)y->going, (long long)y->total, y->folder);
}

/* ---- doing it ------------------------------------------------------------------------------------------------------------- */
static err rename_all(syncing *y)
{
    bool any = false;
    for (usize i = 0; i < y->n_f; i++) any |= y->f[i].state == FILE_RENAMED;
    if (!any) return OK;
    TRY(store_begin(y->c, true));
    err bad = OK;
    for (usize i = 0; i < y->n_f && !bad.code; i++) {
        const here *f = &y->f[i];
        if (f->state != FILE_RENAMED) continue;
        const char *from = y->s[f->was].path;
        bad = store_run(y->c, Q_DOCUMENT_RENAME, "ss", f->id, from);
        if (!bad.code) bad = store_run(y->c, Q_FILE_RENAME, "ss", f->id, from);
    }
    return store_end(y->c, bad);
}

static bool to_add(const here *f) { return f->state == FILE_NEW || f->state == FILE_CHANGED || f->again; }

/* A file that the store knows counts as named: when it is no document any more, that is a failure and not passed over. */
static err add_all(syncing *y)
{
    candidate_file *list = mem_array(candidate_file, y->n_f + 1);
    usize n = 0;
    i64 bytes = 0, size;
    if (!list) return no_memory;
    for (usize i = 0; i < y->n_f; i++) {
        const here *f = &y->f[i];
        if (!to_add(f)) continue;
        if (!file_size(f->path, &size).code) bytes += size;
        list[n++] = (candidate_file){f->path, f->state != FILE_NEW, bytes};
    }
    err bad = OK;
    if (!y->o->dry_run) bad = add_files(y->a, list, n, bytes);
    for (usize i = 0; i < n && y->o->dry_run && !bad.code; i++) bad = add_preview(y->a, &list[i]);
    mem_free(list);
    return bad;
}

static err remove_all(syncing *y)
{
    const char **list = mem_array(const char *, y->n_s + 1);
    usize n = 0;
    i64 removed = 0;
    if (!list) return no_memory;
    for (usize i = 0; i < y->n_s && !y->partial; i++) {
        if (y->s[i].is_here) continue;
        list[n++] = y->s[i].path;
        removed += y->s[i].n_documents;
    }
    err bad = n && !y->o->dry_run ? documents_drop_files(y->c, list, n, &removed) : OK;
    if (!bad.code) y->r->add.removed += removed;
    if (!bad.code && n) y->a->changed = true;
    mem_free(list);
    return bad;
}

static err finish(syncing *y)
{
    const add_result *r = &y->r->add;
    if (!y->o->dry_run) {
        if (y->a->changed) TRY(store_sweep(y->c));
        TRY(store_reindex(y->c));
    }
    if (!r->n_failed || r->added || r->updated || r->unchanged || r->removed || y->r->renamed) return OK;
    return err_new(ERR_INPUT, "nothing in %s could be added; the first of %zu: %s: %s", y->folder, r->n_failed, r->failed[0].path,
                   r->failed[0].reason);
}

static err follow(syncing *y, const char *folder)
{
    TRY(path_identity(folder, &y->folder));
    if (!y->paths) return no_memory;
    TRY(list_stored(y));
    err bad = file_walk(folder, list_here, y);
    if (bad.code && (add_ends(bad) || !file_is_dir(folder))) return bad;
    if (bad.code) {
        y->partial = true;
        TRY(add_failed(y->a, y->folder, bad.what));
    }
    TRY(make_plan(y));
    if (!y->o->dry_run) TRY(rename_all(y));
    TRY(add_all(y));
    TRY(remove_all(y));
    return finish(y);
}

static void syncing_free(syncing *y)
{
    for (usize i = 0; i < y->n_f; i++) {
        mem_free(y->f[i].path);
        mem_free(y->f[i].id);
    }
    for (usize i = 0; i < y->n_s; i++) mem_free(y->s[i].path);
    mem_free(y->f);
    mem_free(y->s);
    mem_free(y->folder);
    map_free(y->paths);
}

err collection_sync(collection *c, const char *folder, const sync_opts *o, sync_result *r)
{
    *r = (sync_result){0};
    double start = clock_s();
    adding a = {.c = c, .o = &o->add, .r = &r->add};
    syncing y = {.a = &a, .c = c, .o = o, .r = r, .paths = map_new()};
    err bad = OK;
    if (!file_is_dir(folder))
        bad = file_exists(folder) ? err_new(ERR_INPUT, "%s is a file; a folder is followed", folder)
                                  : err_new(ERR_NOTFOUND, "%s: no such folder; nothing was done", folder);
    if (!bad.code && !o->dry_run) bad = store_writable(c);
    if (!bad.code) bad = add_begin(&a);
    if (!bad.code) bad = follow(&y, folder);
    add_end(&a);
    syncing_free(&y);
    r->add.seconds = clock_s() - start;
    if (bad.code) sync_result_free(r);
    return bad;
}

void sync_result_free(sync_result *r)
{
    if (!r) return;
    add_result_free(&r->add);
    for (usize i = 0; i < r->n_steps; i++) {
        mem_free(r->step[i].path);
        mem_free(r->step[i].from);
    }
    mem_free(r->step);
    *r = (sync_result){0};
}
