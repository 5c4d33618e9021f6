/* rag/blobs.c - originals by their hash, and taking away what nothing refers to any more.
 *
 * An original is written before the transaction that refers to it and deleted after the checkpoint of the one that let it go,
 * so at every moment each file of the store has its original; what a kill leaves over is found by the next writer. A JSONL file
 * is the original of many documents: when one of them goes, its line is overwritten with spaces, so the places of the others
 * stay right. In UTF-16, which has no byte for a space, the whole original goes instead. */
#include "rag/store.h"
#include <dirent.h>
#include <errno.h>
#include <unistd.h>

static void blob_path(const collection *c, const char *hash, char out[STORE_PATH])
{
    snprintf(out, STORE_PATH, "%s/blobs/%.2s/%s", c->folder, hash, hash);
}

err blob_put(collection *c, str bytes, const char hash[65])
{
    char path[STORE_PATH], folder[STORE_PATH];
    i64 size;
    blob_path(c, hash, path);
    if (!file_size(path, &size).code && (u64)size == bytes.n) return OK;
    snprintf(folder, sizeof folder, "%s/blobs/%.2s", c->folder, hash);
    TRY(file_mkdirs(folder));
    return file_replace(path, bytes.p, bytes.n);
}

err blob_get(collection *c, const char *hash, buf *out)
{
    char path[STORE_PATH];
    blob_path(c, hash, path);
    return file_read(out, path, 0);
}

/* ---- lines of removed documents ----------------------------------------------------------------------------------------- */
static err take_id(void *ctx, loaded *d)
{
    char **id = ctx;
    mem_free(*id);
    *id = d->id;
    d->id = NULL;
    loaded_free(d);
    return OK;
}

/* *gone: the line holds a document that the store no longer has under this path */
static err line_gone(collection *c, const char *path, str line, bool *gone)
{
    char *id = NULL;
    i64 has = 0;
    err bad = load_bytes("line.jsonl", line.p, line.n, take_id, &id);
    *gone = false;
    if (bad.code == ERR_FORMAT) bad = OK; /* it never was a document */
    if (!bad.code && id) {
        bad = store_one(c, Q_PATH_HAS, &has, "ss", id, path);
        *gone = !has;
    }
    mem_free(id);
    return bad;
}

static str next_line(str *rest)
{
    const char *end = memchr(rest->p, '\n', rest->n);
    str line = {rest->p, end ? (usize)(end - rest->p) : rest->n};
    usize taken = line.n + (end != NULL);
    rest->p += taken, rest->n -= taken;
    return line;
}

/* Decoded and original lines go side by side: in UTF-8 and CP949 a line end is one byte that is part of nothing else. */
static err blank_lines(collection *c, const char *path, buf *original, str utf8, bool *changed)
{
    str raw = buf_view(original);
    while (raw.n && utf8.n) {
        str line = next_line(&utf8), bytes = next_line(&raw);
        bool gone;
        TRY(line_gone(c, path, line, &gone));
        if (gone) memset(original->p + (bytes.p - original->p), ' ', bytes.n);
        *changed |= gone;
    }
    return OK;
}

static err blank_file(collection *c, i64 key, const char *path, const char *blob)
{
    buf original = {0}, utf8 = {0};
    const char *encoding = "", *keep = NULL;
    char hash[65];
    bool changed = false;
    err bad = blob_get(c, blob, &original);
    if (bad.code == ERR_NOTFOUND)
        bad = OK;
    else if (!bad.code)
        bad = load_decode(buf_view(&original), &utf8, &encoding);
    if (!bad.code && original.n && !str_starts(str_of(encoding), S("utf-16"))) {
        keep = blob;
        bad = blank_lines(c, path, &original, buf_view(&utf8), &changed);
        if (!bad.code && changed) {
            sha256_hex(sha256_of(original.p, original.n), hash);
            keep = hash;
            bad = blob_put(c, buf_view(&original), hash);
        }
    }
    if (!bad.code) bad = store_run(c, Q_FILE_BLOB, "si", keep, key);
    buf_free(&original);
    buf_free(&utf8);
    return bad;
}

static err blank_next(collection *c, bool *more)
{
    sqlite3_stmt *q;
    char *path = NULL, *blob = NULL;
    i64 key = 0;
    TRY(store_query(c, Q_FILE_SCRUB, &q, ""));
    TRY(store_step(c, q, more));
    if (!*more) return OK;
    key = sqlite3_column_int64(q, 0);
    err bad = store_copy(q, 1, &path);
    if (!bad.code) bad = store_copy(q, 2, &blob);
    store_done(q);
    if (!bad.code) bad = blob ? blank_file(c, key, path, blob) : store_run(c, Q_FILE_UNSCRUB, "i", key);
    mem_free(path);
    mem_free(blob);
    return bad;
}

/* ---- what nothing refers to --------------------------------------------------------------------------------------------- */
static err sweep_folder(collection *c, const char *folder, bool *synced)
{
    char path[STORE_PATH];
    DIR *d = opendir(folder);
    err bad = d || errno == ENOENT || errno == ENOTDIR ? OK : err_os("cannot open the folder %s", folder);
    for (struct dirent *e; d && !bad.code && (e = readdir(d));) {
        i64 used = 0;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (e->d_name[0] != '.') bad = store_one(c, Q_BLOB_USED, &used, "s", e->d_name); /* hidden: half written when killed */
        if (bad.code || used) continue;
        if (!*synced) sqlite3_wal_checkpoint_v2(c->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
        *synced = true;
        snprintf(path, sizeof path, "%.4200s/%s", folder, e->d_name);
        if (unlink(path) && errno != ENOENT) bad = err_os("cannot delete %s", path);
    }
    if (d) closedir(d);
    return bad;
}

static err sweep_blobs(collection *c)
{
    char path[STORE_PATH], folder[STORE_PATH];
    bool synced = false;
    snprintf(path, sizeof path, "%s/blobs", c->folder);
    DIR *d = opendir(path);
    err bad = d || errno == ENOENT ? OK : err_os("cannot open the folder %s", path);
    for (struct dirent *e; d && !bad.code && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        snprintf(folder, sizeof folder, "%.4100s/%s", path, e->d_name);
        bad = sweep_folder(c, folder, &synced);
        rmdir(folder); /* fails unless it is empty */
    }
    if (d) closedir(d);
    return bad;
}

/* Pages keep bytes of rows that moved even under secure_delete, so the whole is written anew, and the log cut to nothing. */
static err rewrite(collection *c)
{
    int rc = sqlite3_exec(c->db, "VACUUM", NULL, NULL, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_wal_checkpoint_v2(c->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    if (rc == SQLITE_OK) return store_run(c, Q_SCRUB_SET, "i", (i64)0);
    if (rc == SQLITE_BUSY || rc == SQLITE_LOCKED)
        return err_new(
            ERR_BUSY,
            "collection %s: another process is reading it, so traces of removed text stay in store.db until the next change",
            c->name);
    return err_new(rc == SQLITE_NOMEM ? ERR_NOMEM : ERR_IO, "%s/store.db: %s", c->folder, sqlite3_errmsg(c->db));
}

/* Replaced text leaves the log too, if nobody is reading now. */
static void cut_log(collection *c)
{
    sqlite3_busy_timeout(c->db, 0);
    sqlite3_wal_checkpoint_v2(c->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    sqlite3_busy_timeout(c->db, STORE_BUSY_MS);
}

err store_sweep(collection *c)
{
    u64 generation;
    bool scrub, more = true;
    TRY(store_begin(c, true));
    err bad = store_run(c, Q_FILE_EMPTY, "");
    while (!bad.code && more) bad = blank_next(c, &more);
    TRY(store_end(c, bad));
    TRY(sweep_blobs(c));
    TRY(store_state(c, &generation, &scrub));
    if (scrub) return rewrite(c);
    cut_log(c);
    return OK;
}
