/* rag/store.h - inside of a collection: its tables, every SQL statement, and what store.c, documents.c, add.c and retrieve.c
 * share. Nobody else speaks SQL.
 *
 * A document is stored in one transaction: its row, body, chunks and vectors, and the generation that tells the indexes that they
 * are old. A file is a version of a path (path and hash): while a changed JSONL file is being added again its old and its new
 * version are both there, and each document belongs to the one that its map points into. */
#ifndef MARU_RAG_STORE_H
#define MARU_RAG_STORE_H
#include "rag/rag.h"
#include <sqlite3.h>

/* name, statement */
#define STORE_QUERIES(X)                                                                                                         \
    X(BEGIN_READ, "BEGIN")                                                                                                       \
    X(BEGIN_WRITE, "BEGIN IMMEDIATE")                                                                                            \
    X(COMMIT, "COMMIT")                                                                                                          \
    X(ROLLBACK, "ROLLBACK")                                                                                                      \
    X(GENERATION, "SELECT generation, scrub FROM state")                                                                         \
    X(BUMP, "UPDATE state SET generation = generation + 1")                                                                      \
    X(SCRUB_SET, "UPDATE state SET scrub = ?")                                                                                   \
    X(META_GET, "SELECT value FROM meta WHERE key = ?")                                                                          \
    X(META_PUT, "INSERT INTO meta(key, value) VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value")               \
    X(META_DROP, "DELETE FROM meta WHERE key = ?")                                                                               \
    X(FILE_FIND, "SELECT key, blob, done FROM file WHERE path = ? AND hash = ?")                                                 \
    X(FILE_PUT, "INSERT INTO file(path, hash, blob, bytes) VALUES(?, ?, ?, ?)")                                                  \
    X(FILE_BLOB, "UPDATE file SET blob = ?, scrub = 0 WHERE key = ?")                                                            \
    X(FILE_UNSCRUB, "UPDATE file SET scrub = 0 WHERE key = ?")                                                                   \
    X(FILE_DONE, "UPDATE file SET done = ? WHERE key = ?")                                                                       \
    X(FILE_UNDONE, "UPDATE file SET done = '' WHERE path = ?")                                                                    \
    X(FILE_LOST, "UPDATE file SET done = '', scrub = 1 WHERE path = (SELECT path FROM file WHERE key = ?)")                      \
    X(FILE_OLD, "DELETE FROM file WHERE path = ? AND key != ?")                                                                  \
    X(FILE_EMPTY, "DELETE FROM file WHERE scrub = 1 AND NOT EXISTS (SELECT 1 FROM document d, file f WHERE d.file = f.key AND "  \
                  "f.path = file.path)")                                                                                         \
    X(FILE_DROP, "DELETE FROM file WHERE path = ?")                                                                              \
    X(FILE_LIST, "SELECT path, hash, done, (SELECT count(*) FROM document d WHERE d.file = file.key) FROM file ORDER BY path, key") \
    X(FILE_RENAME, "UPDATE file SET path = ? WHERE path = ?")                                                                    \
    X(FILE_SCRUB, "SELECT key, path, blob FROM file WHERE scrub = 1")                                                            \
    X(FILE_DOCUMENTS, "SELECT count(*) FROM document WHERE file = ?")                                                            \
    X(FILE_PATH, "SELECT count(*) FROM file WHERE path = ?")                                                                     \
    X(PATH_KEYS, "SELECT d.key, d.file FROM document d JOIN file f ON d.file = f.key WHERE f.path = ? ORDER BY d.key")           \
    X(PATH_HAS, "SELECT 1 FROM document d JOIN file f ON d.file = f.key WHERE d.id = ? AND f.path = ?")                          \
    X(PATH_OLD, "SELECT d.key FROM document d JOIN file f ON d.file = f.key WHERE f.path = ? AND f.key != ?")                    \
    X(BLOB_USED, "SELECT 1 FROM file WHERE blob = ? LIMIT 1")                                                                    \
    X(DOCUMENT_COUNT, "SELECT count(*) FROM document")                                                                           \
    X(DOCUMENT_FIND, "SELECT d.key, d.hash, d.stamp, d.file, d.version, f.path FROM document d JOIN file f ON d.file = f.key "   \
                     "WHERE d.id = ?")                                                                                           \
    X(DOCUMENT_PUT, "INSERT INTO document(key, id, file, title, owner, attributes, hash, stamp, pages, chars, version, bytes) "  \
                    "VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")                                                                \
    X(DOCUMENT_MOVE, "UPDATE document SET file = ? WHERE key = ?")                                                               \
    X(DOCUMENT_RENAME, "UPDATE document SET id = ?1 WHERE id = ?2 AND file IN (SELECT key FROM file WHERE path = ?2)")             \
    X(DOCUMENT_DROP, "DELETE FROM document WHERE key = ?")                                                                       \
    X(DOCUMENT_INFO, DOCUMENT_COLUMNS " WHERE d.id = ?")                                                                         \
    X(DOCUMENT_LIST, DOCUMENT_COLUMNS " ORDER BY d.key")                                                                         \
    X(DOCUMENT_KEYS, "SELECT key, owner, attributes FROM document ORDER BY key")                                                 \
    X(DOCUMENT_BLOB, "SELECT f.blob FROM document d JOIN file f ON d.file = f.key WHERE d.id = ?")                               \
    X(BODY_PUT, "INSERT INTO body(document, text, map) VALUES(?, ?, ?)")                                                         \
    X(BODY_MAP, "UPDATE body SET map = ? WHERE document = ?")                                                                    \
    X(BODY_GET, "SELECT text, map FROM body WHERE document = ?")                                                                 \
    X(BODY_TEXT, "SELECT text FROM body WHERE document = ?")                                                                     \
    X(CHUNK_PUT, "INSERT INTO chunk(document, start, end, byte_start, byte_end, page, line, context) VALUES(?,?,?,?,?,?,?,?)")   \
    X(CHUNK_GET, "SELECT c.document, c.start, c.end, c.byte_start, c.byte_end, c.page, c.line, c.context, d.id, d.title "        \
                 "FROM chunk c JOIN document d ON c.document = d.key WHERE c.key = ?")                                           \
    X(CHUNK_LIST, "SELECT key, document, byte_start, byte_end, context FROM chunk ORDER BY key")                                 \
    X(VECTOR_PUT, "INSERT INTO vector(chunk, data) VALUES(?, ?)")                                                                \
    X(VECTOR_LIST, "SELECT v.chunk, c.document, v.data FROM vector v JOIN chunk c ON v.chunk = c.key ORDER BY v.chunk")
#define DOCUMENT_COLUMNS                                                                                                         \
    "SELECT d.key, d.id, f.path, d.title, d.owner, d.attributes, d.hash, d.pages, d.chars, "                                     \
    "(SELECT count(*) FROM chunk c WHERE c.document = d.key), d.version, d.bytes, d.file FROM document d JOIN file f ON d.file = f.key"
typedef enum {
#define X(name, text) Q_##name,
    STORE_QUERIES(X)
#undef X
    QUERY_COUNT
} sql;

enum { CACHED_DOCUMENTS = 8, STORE_BUSY_MS = 10000, STORE_PATH = 4500 /* bytes of a path in a collection; its folder has at most 4000 */ };
typedef struct {
    loaded   d;
    document info;                          /* strings owned here */
    i64      file;
    u64      used;                          /* 0: empty */
} cached_document;
typedef struct {                            /* documents that an owner and attributes let through */
    u64   generation;
    char *owner, *filter;
    u8   *bits; i64 n_bits;                 /* by document key */
    bool  made;
} search_mask;

struct collection {
    char            *name, *folder;
    sqlite3         *db;
    sqlite3_stmt    *q[QUERY_COUNT];        /* prepared on first use */
    collection_mode  mode;
    int              lock;                  /* of the one writer; -1: none */
    keyword_index   *keyword;
    vector_index    *vectors;
    cached_document  cache[CACHED_DOCUMENTS];
    u64              clock;
    search_mask      mask;
};

/* ---- statements (store.c) --------------------------------------------------------------------------------------------------- */
/* Binds by `types`: i i64, s const char * (NULL gives NULL), t str as text, b str as blob. The statement is ready to step. */
err  store_query(collection *, sql, sqlite3_stmt **, const char *types, ...);
err  store_step(collection *, sqlite3_stmt *, bool *row);   /* resets after the last row; else store_done */
void store_done(sqlite3_stmt *);
err  store_run(collection *, sql, const char *types, ...); /* to the end, rows ignored */
err  store_one(collection *, sql, i64 *value, const char *types, ...); /* first column of the first row; 0 without one */
str  store_text(sqlite3_stmt *, int column);                /* borrowed until the next step; NULL is empty */
err  store_copy(sqlite3_stmt *, int column, char **out);    /* owned; NULL stays NULL */
err  store_begin(collection *, bool write);
err  store_end(collection *, err bad);                      /* commits, or rolls back and gives `bad` */
err  store_state(collection *, u64 *generation, bool *scrub);
err  store_writable(const collection *);                    /* INPUT when opened for reading */

/* ---- originals (blobs.c) ------------------------------------------------------------------------------------------------------ */
err  blob_put(collection *, str bytes, const char hash[65]);
err  blob_get(collection *, const char *hash, buf *out);
/* After a commit that took documents away: lines of removed documents are blanked in JSONL originals, originals without a file are
 * deleted and, when `scrub` is set in the store, the database is made anew so that no page keeps old text. */
err  store_sweep(collection *);

/* ---- indexes (indexes.c) ------------------------------------------------------------------------------------------------------- */
/* A read transaction in which c->keyword (and c->vectors, if `vectors` and there are any) are those of the store. The caller ends it. */
err  store_begin_search(collection *, bool vectors);
err  store_reindex(collection *);                           /* both, at the end of an add or remove */

/* ---- maps (map.c) ---------------------------------------------------------------------------------------------------------------- */
err  map_pack(const loaded *, buf *out);                    /* blocks, anchors, encoding, meta; compact, with a version */
err  map_unpack(str, loaded *);                             /* into a document that has its text; FORMAT when damaged */

/* ---- split (split.c) --------------------------------------------------------------------------------------------------------------- */
/* What stands above a chunk and is searched with it: title, headings around it, the column names of its table; one a line. Asked for
 * the chunks of a document in order. */
enum { SPLIT_LEVELS = 7 };
typedef struct {
    const loaded *d;
    const block  *in;                       /* the last block stepped over */
    usize         next, at;                 /* block; byte of the text */
    u32           chars;
    str           heading[SPLIT_LEVELS], table, names;
} split_above;
void split_above_init(split_above *, const loaded *);
err  split_context(split_above *, range, buf *out);

/* All documents of these files, in one transaction; store_sweep and store_reindex are the caller's. Unknown paths are passed over. */
err  documents_drop_files(collection *, const char *const *paths, usize n, i64 *removed); /* documents.c */
void document_clear(document *);                            /* its strings */
err  document_read(collection *, sqlite3_stmt *, document *); /* a row of DOCUMENT_COLUMNS */
#endif
