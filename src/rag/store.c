/* rag/store.c - a collection on disk: opening, the writer's lock, tables, statements, transactions, meta values.
 *
 * SQLite in WAL mode, so readers never wait for the writer. synchronous is NORMAL: a commit survives the death of the process at
 * once and the death of the machine from the next checkpoint on, and nothing outside the database is deleted before that
 * checkpoint. secure_delete and temp_store keep removed text out of free pages and out of temporary files. Keys of documents
 * and chunks are never used twice (AUTOINCREMENT), so that an index that is a moment old can name a chunk that is gone, but
 * never a wrong one. */
#include "rag/store.h"
#include "text/text.h"
#include <errno.h>
#include <dirent.h>
#include <stdlib.h>

enum { SCHEMA_VERSION = 1, APPLICATION_ID = 0x6D617275 /* "maru" */, NAME_MAX_BYTES = 120 };

static const char schema[] =
    "CREATE TABLE state(generation INTEGER NOT NULL, scrub INTEGER NOT NULL);"
    "INSERT INTO state VALUES(1, 0);"
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    /* hash: of the content; blob: of what is kept of it, NULL when nothing; done: stamp with which all of it was stored */
    "CREATE TABLE file(key INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL, hash TEXT NOT NULL, blob TEXT, bytes INTEGER "
    "NOT NULL,"
    " done TEXT NOT NULL DEFAULT '', scrub INTEGER NOT NULL DEFAULT 0, UNIQUE(path, hash));"
    "CREATE INDEX file_blob ON file(blob);"
    "CREATE TABLE document(key INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, file INTEGER NOT NULL REFERENCES "
    "file(key),"
    " title TEXT, owner TEXT NOT NULL, attributes TEXT, hash TEXT NOT NULL, stamp TEXT NOT NULL, pages INTEGER NOT NULL,"
    " chars INTEGER NOT NULL, version INTEGER NOT NULL, bytes INTEGER NOT NULL);"
    "CREATE INDEX document_file ON document(file);"
    "CREATE TABLE body(document INTEGER PRIMARY KEY REFERENCES document(key) ON DELETE CASCADE, text TEXT NOT NULL, map BLOB NOT "
    "NULL);"
    /* start, end: characters; the same in bytes of body.text, and page and line, to answer without reading the map */
    "CREATE TABLE chunk(key INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES document(key) ON DELETE "
    "CASCADE,"
    " start INTEGER NOT NULL, end INTEGER NOT NULL, byte_start INTEGER NOT NULL, byte_end INTEGER NOT NULL, page INTEGER NOT "
    "NULL,"
    " line INTEGER NOT NULL, context TEXT NOT NULL);"
    "CREATE INDEX chunk_document ON chunk(document);"
    /* float32 [dim, n]: n is 1, or the windows of the chunk */
    "CREATE TABLE vector(chunk INTEGER PRIMARY KEY REFERENCES chunk(key) ON DELETE CASCADE, data BLOB NOT NULL);";

static const char *const query_text[QUERY_COUNT] = {
#define X(name, text) [Q_##name] = text,
    STORE_QUERIES(X)
#undef X
};

/* ---- errors and statements ---------------------------------------------------------------------------------------------------
 */
static err sql_err(const collection *c, int rc)
{
    const char *what = c->db ? sqlite3_errmsg(c->db) : sqlite3_errstr(rc);
    switch (rc & 0xFF) {
    case SQLITE_NOMEM: return err_new(ERR_NOMEM, "collection %s: no memory", c->name);
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return err_new(ERR_BUSY, "collection %s: %s", c->name, what);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return err_new(ERR_FORMAT, "%s/store.db: %s", c->folder, what);
    case SQLITE_IOERR:
    case SQLITE_FULL:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM: return err_new(ERR_IO, "%s/store.db: %s", c->folder, what);
    case SQLITE_TOOBIG: return err_new(ERR_INPUT, "collection %s: %s", c->name, what);
    default: return err_new(ERR_BUG, "collection %s: %s (SQLite %d)", c->name, what, rc);
    }
}

static err bind_all(collection *c, sqlite3_stmt *q, const char *types, va_list args)
{
    int rc = SQLITE_OK;
    for (int i = 0; types[i] && rc == SQLITE_OK; i++) {
        const char *s;
        str b;
        switch (types[i]) {
        case 'i': rc = sqlite3_bind_int64(q, i + 1, va_arg(args, i64)); break;
        case 's':
            s = va_arg(args, const char *);
            rc = s ? sqlite3_bind_text64(q, i + 1, s, strlen(s), SQLITE_STATIC, SQLITE_UTF8) : sqlite3_bind_null(q, i + 1);
            break;
        default:
            b = va_arg(args, str);
            if (!b.p) b.p = "";
            rc = types[i] == 't' ? sqlite3_bind_text64(q, i + 1, b.p, b.n, SQLITE_STATIC, SQLITE_UTF8)
                                 : sqlite3_bind_blob64(q, i + 1, b.p, b.n, SQLITE_STATIC);
        }
    }
    return rc == SQLITE_OK ? OK : sql_err(c, rc);
}

static err query_ready(collection *c, sql which, sqlite3_stmt **out)
{
    *out = c->q[which];
    if (*out) {
        sqlite3_reset(*out);
        return OK;
    }
    int rc = sqlite3_prepare_v3(c->db, query_text[which], -1, SQLITE_PREPARE_PERSISTENT, &c->q[which], NULL);
    *out = c->q[which];
    return rc == SQLITE_OK ? OK : sql_err(c, rc);
}

/* What is bound is borrowed, so a statement keeps no binding longer than it runs. */
void store_done(sqlite3_stmt *q)
{
    if (!q) return;
    sqlite3_reset(q);
    sqlite3_clear_bindings(q);
}

err store_query(collection *c, sql which, sqlite3_stmt **out, const char *types, ...)
{
    TRY(query_ready(c, which, out));
    va_list args;
    va_start(args, types);
    err bad = bind_all(c, *out, types, args);
    va_end(args);
    return bad;
}

err store_step(collection *c, sqlite3_stmt *q, bool *row)
{
    int rc = sqlite3_step(q);
    *row = rc == SQLITE_ROW;
    if (*row) return OK;
    err bad = rc == SQLITE_DONE ? OK : sql_err(c, rc);
    store_done(q);
    return bad;
}

err store_run(collection *c, sql which, const char *types, ...)
{
    sqlite3_stmt *q;
    bool row = true;
    TRY(query_ready(c, which, &q));
    va_list args;
    va_start(args, types);
    err bad = bind_all(c, q, types, args);
    va_end(args);
    while (!bad.code && row) bad = store_step(c, q, &row);
    return bad;
}

err store_one(collection *c, sql which, i64 *value, const char *types, ...)
{
    sqlite3_stmt *q;
    bool row = false;
    *value = 0;
    TRY(query_ready(c, which, &q));
    va_list args;
    va_start(args, types);
    err bad = bind_all(c, q, types, args);
    va_end(args);
    if (!bad.code) bad = store_step(c, q, &row);
    if (row) *value = sqlite3_column_int64(q, 0);
    store_done(q);
    return bad;
}

str store_text(sqlite3_stmt *q, int column)
{
    const void *p = sqlite3_column_blob(q, column); /* as stored: UTF-8 without a copy for a NUL */
    int n = sqlite3_column_bytes(q, column);
    return p ? (str){p, (usize)n} : (str){"", 0};
}

err store_copy(sqlite3_stmt *q, int column, char **out)
{
    *out = NULL;
    if (sqlite3_column_type(q, column) == SQLITE_NULL) return OK;
    str s = store_text(q, column);
    *out = mem_strndup(s.p, s.n);
    return *out ? OK : err_new(ERR_NOMEM, "no memory for a row of the store");
}

/* ---- transactions ------------------------------------------------------------------------------------------------------- */
err store_begin(collection *c, bool write) { return store_run(c, write ? Q_BEGIN_WRITE : Q_BEGIN_READ, ""); }

err store_end(collection *c, err bad)
{
    if (!bad.code) bad = store_run(c, Q_COMMIT, "");
    if (!bad.code) return OK;
    char *what = bad.what ? mem_strdup(bad.what) : NULL; /* the rollback may fail too, and that message matters less */
    for (int i = 0; i < QUERY_COUNT; i++) store_done(c->q[i]);
    if (!sqlite3_get_autocommit(c->db)) (void)store_run(c, Q_ROLLBACK, "");
    err again = what ? err_new((err_code)bad.code, "%s", what) : bad;
    mem_free(what);
    return again;
}

err store_state(collection *c, u64 *generation, bool *scrub)
{
    sqlite3_stmt *q;
    bool row;
    TRY(store_query(c, Q_GENERATION, &q, ""));
    TRY(store_step(c, q, &row));
    if (!row) return err_new(ERR_FORMAT, "%s/store.db: the table \"state\" is empty", c->folder);
    *generation = (u64)sqlite3_column_int64(q, 0);
    if (scrub) *scrub = sqlite3_column_int(q, 1) != 0;
    store_done(q);
    return OK;
}

err store_writable(const collection *c)
{
    return c->mode == COLLECTION_WRITE ? OK : err_new(ERR_INPUT, "collection %s was opened for reading only", c->name);
}

/* ---- opening ------------------------------------------------------------------------------------------------------------ */
static err check_name(const char *name)
{
    str s = str_of(name);
    bool good = s.n && s.n <= NAME_MAX_BYTES && s.p[0] != '.' && utf8_valid(s);
    for (usize at = 0; good && at < s.n;) {
        u32 c = utf8_next(s, &at);
        good = c == '-' || c == '_' || c == '.' || text_is_letter(c) || text_is_digit(c);
    }
    if (good) return OK;
    return err_new(ERR_INPUT,
                   "'%.*s' is no name for a collection: letters, digits, '-', '_' and '.' are, not '.' first, at most %d bytes",
                   NAME_MAX_BYTES, name ? name : "", NAME_MAX_BYTES);
}

static bool has_store(const char *folder)
{
    char path[STORE_PATH];
    i64 bytes = 0;
    snprintf(path, sizeof path, "%.4000s/store.db", folder);
    return !file_size(path, &bytes).code && bytes > 0;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

err collection_names(char ***names, usize *n)
{
    char *all, folder[STORE_PATH];
    usize cap = 0;
    *names = NULL, *n = 0;
    TRY(home_path(&all, "collections"));
    DIR *d = opendir(all);
    err bad = d || errno == ENOENT ? OK : err_os("cannot open the folder %s", all);
    for (struct dirent *e; d && !bad.code && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        snprintf(folder, sizeof folder, "%.3700s/%s", all, e->d_name);
        if (!has_store(folder)) continue;
        char *copy = mem_strdup(e->d_name);
        if (copy && VEC_PUSH(*names, *n, cap, copy)) continue;
        mem_free(copy);
        bad = err_new(ERR_NOMEM, "no memory for the names of collections");
    }
    if (d) closedir(d);
    mem_free(all);
    if (bad.code) {
        for (usize i = 0; i < *n; i++) mem_free((*names)[i]);
        mem_free(*names);
        *names = NULL, *n = 0;
    }
    if (*n > 1) qsort(*names, *n, sizeof **names, by_name);
    return bad;
}

static err not_found(const char *name)
{
    char **names;
    usize n;
    buf list = {0};
    TRY(collection_names(&names, &n));
    for (usize i = 0; i < n; i++) {
        if (i < 20) buf_fmt(&list, "%s%s", i ? ", " : "", names[i]);
        if (i == 20) buf_fmt(&list, ", ... (%zu)", n);
        mem_free(names[i]);
    }
    mem_free(names);
    err bad = n ? err_new(ERR_NOTFOUND, "there is no collection %s; there are: %s", name, buf_cstr(&list))
                : err_new(ERR_NOTFOUND, "there is no collection %s, and no other: `maru add PATH --to %s` makes it", name, name);
    buf_free(&list);
    return bad;
}

static err exec(collection *c, const char *text)
{
    int rc = sqlite3_exec(c->db, text, NULL, NULL, NULL);
    return rc == SQLITE_OK ? OK : sql_err(c, rc);
}

static err pragma_i64(collection *c, const char *text, i64 *value)
{
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(c->db, text, -1, &q, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(q);
    if (rc == SQLITE_ROW) *value = sqlite3_column_int64(q, 0);
    err bad = rc == SQLITE_ROW ? OK : sql_err(c, rc);
    sqlite3_finalize(q);
    return bad;
}

/* New: tables in one transaction. Old: is it ours, and of a version that is known? */
static err check_schema(collection *c)
{
    i64 id = 0, version = 0;
    TRY(pragma_i64(c, "PRAGMA application_id", &id));
    TRY(pragma_i64(c, "PRAGMA user_version", &version));
    if (id == APPLICATION_ID && version == SCHEMA_VERSION) return OK;
    if (id == APPLICATION_ID && version > SCHEMA_VERSION)
        return err_new(ERR_UNSUPPORTED, "collection %s was made by a newer maru (store %lld, known is %d)", c->name,
                       (long long)version, SCHEMA_VERSION);
    if (id || version)
        return err_new(ERR_FORMAT, "%s/store.db is not a store of maru (application %lld, version %lld)", c->folder,
                       (long long)id, (long long)version);
    if (c->mode == COLLECTION_READ)
        return err_new(ERR_NOTFOUND, "collection %s is empty: it is being made, or making it was interrupted", c->name);
    char ours[128];
    snprintf(ours, sizeof ours, "PRAGMA application_id = %d; PRAGMA user_version = %d;", APPLICATION_ID, SCHEMA_VERSION);
    TRY(store_begin(c, true));
    err bad = exec(c, schema);
    if (!bad.code) bad = exec(c, ours);
    return store_end(c, bad);
}

static err open_database(collection *c)
{
    char path[STORE_PATH];
    bool write = c->mode == COLLECTION_WRITE;
    snprintf(path, sizeof path, "%s/store.db", c->folder);
    int rc = sqlite3_open_v2(path, &c->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (write ? SQLITE_OPEN_CREATE : 0), NULL);
    if (rc != SQLITE_OK) return sql_err(c, rc);
    sqlite3_extended_result_codes(c->db, 1);
    sqlite3_busy_timeout(c->db, STORE_BUSY_MS);
    TRY(exec(c, "PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF;"));
    if (write) TRY(exec(c, "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"));
    TRY(check_schema(c));
    return write ? store_sweep(c) : exec(c, "PRAGMA query_only = ON;");
}

err collection_open(collection **out, const char *name, collection_mode mode)
{
    char lock[STORE_PATH];
    buf nfc = {0};
    err bad = OK;
    *out = NULL;
    TRY(check_name(name));
    collection *c = mem_zero(sizeof *c);
    if (!c) return err_new(ERR_NOMEM, "no memory for a collection");
    c->mode = mode;
    c->lock = -1;
    TRY_TO(fail, text_nfc(&nfc, str_of(name)));
    if (!(c->name = buf_take(&nfc))) TRY_TO(fail, err_new(ERR_NOMEM, "no memory for a collection"));
    TRY_TO(fail, home_path(&c->folder, "collections/%s", c->name));
    if (strlen(c->folder) > STORE_PATH - 500) TRY_TO(fail, err_new(ERR_INPUT, "%s: the path is too long", c->folder));
    if (mode == COLLECTION_READ && !has_store(c->folder)) TRY_TO(fail, not_found(c->name));
    if (mode == COLLECTION_WRITE) {
        TRY_TO(fail, file_mkdirs(c->folder));
        snprintf(lock, sizeof lock, "%s/lock", c->folder);
        bad = file_lock(lock, false, &c->lock);
        if (bad.code == ERR_BUSY)
            bad = err_new(ERR_BUSY, "collection %s is being written by another process (%s)", c->name, lock);
        if (bad.code) goto fail;
    }
    TRY_TO(fail, open_database(c));
    *out = c;
    return OK;
fail:
    buf_free(&nfc);
    collection_close(c);
    return bad;
}

void collection_close(collection *c)
{
    if (!c) return;
    for (int i = 0; i < QUERY_COUNT; i++) sqlite3_finalize(c->q[i]);
    sqlite3_close_v2(c->db);
    file_unlock(c->lock);
    keyword_close(c->keyword);
    vector_close(c->vectors);
    for (int i = 0; i < CACHED_DOCUMENTS; i++) {
        loaded_free(&c->cache[i].d);
        document_clear(&c->cache[i].info);
    }
    mem_free(c->mask.owner);
    mem_free(c->mask.filter);
    mem_free(c->mask.bits);
    mem_free(c->name);
    mem_free(c->folder);
    mem_free(c);
}

/* ---- meta --------------------------------------------------------------------------------------------------------------- */
err collection_meta_get(collection *c, const char *key, char **value)
{
    sqlite3_stmt *q;
    bool row;
    *value = NULL;
    TRY(store_query(c, Q_META_GET, &q, "s", key));
    TRY(store_step(c, q, &row));
    err bad = row ? store_copy(q, 0, value) : OK;
    store_done(q);
    return bad;
}

err collection_meta_put(collection *c, const char *key, const char *value)
{
    TRY(store_writable(c));
    return value ? store_run(c, Q_META_PUT, "ss", key, value) : store_run(c, Q_META_DROP, "s", key);
}
