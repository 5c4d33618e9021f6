/* rag/add.h - inside of `add`: what travels from LOAD to STORE. add.c loads, decides and splits; embed.c embeds a batch; keep.c
 * stores it. A batch spans documents and files, so that small documents are embedded together; it is stored in order, so that a
 * file's end comes after its documents. */
#ifndef MARU_RAG_ADD_H
#define MARU_RAG_ADD_H
#include "rag/store.h"

typedef struct {                            /* a file whose documents are being added */
    char *path;                             /* its identity */
    char  hash[65];
    i64   bytes, upto;                      /* upto: with all files before it */
    bool  whole;                            /* all of it was read: documents it no longer has can go */
} source;

typedef enum { ITEM_NEW, ITEM_MOVED /* same document, its file changed around it */, ITEM_END /* of a file */ } item_kind;
typedef struct {
    item_kind kind;
    source   *from;                         /* owned by the end of the file, which comes last */
    char     *id, *attributes;
    char      hash[65];
    i64       bytes;
    loaded    d;
    range    *chunk; usize n_chunks;
    char    **context;                      /* [n_chunks], "" where there is none; NULL: nowhere */
    float    *v;                            /* [dim, sum of n_v] */
    u32      *n_v;                          /* [n_chunks] vectors of each chunk */
    bool      windows;                      /* some have several */
} item;

typedef struct {
    collection     *c;
    const add_opts *o;
    add_result     *r;
    char            stamp[96];              /* how documents are stored in this call */
    i64             budget;                 /* tokens of a chunk, -1: whole documents */
    i64             dim;                    /* 0: no embedder */
    char            embedder_id[65];
    const char     *embedder_name;
    bool            fix_embedder;           /* the next document stored decides it */
    bool            changed;                /* something must be swept */
    item           *item; usize n, cap;     /* the batch */
    i64             n_chunks, n_bytes;
    map            *batch_ids;
    progress        bar;                    /* over the bytes of all files */
    i64             done;
} adding;

typedef struct {
    char *path;
    bool  named;                            /* given itself, not found in a folder: what is no document is a failure */
    i64   upto;                             /* bytes, with all files before it */
} candidate_file;

void item_free(item *);
err  add_cancelled(const adding *);
err  add_failed(adding *, const char *path, const char *reason);
bool add_ends(err);                         /* it ends the call; what is wrong with one file does not */
/* The parts of `add` that `sync` (sync.c) is made of. add_begin: options checked, stamp and budget made; without a collection
 * (c NULL) nothing is compared with it. add_files: a progress bar, every file, the last batch. add_preview: what add_files would
 * count for one file, nothing stored. */
err  add_begin(adding *);
err  add_files(adding *, const candidate_file *, usize n, i64 bytes);
err  add_preview(adding *, const candidate_file *);
void add_end(adding *);                     /* frees what is left of a batch; after an error too */
err  embed_batch(adding *);                 /* vectors of every new chunk; nothing without an embedder */
err  keep_batch(adding *);                  /* in one transaction; the batch is empty afterwards */
#endif
