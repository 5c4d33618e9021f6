/* rag/rag.h - documents in, cited answers out. LOAD, SPLIT, EMBED, STORE, retrieve, augment, answer, cite; its own evaluation
 * and calibration. A collection is a folder below home: store.db (SQLite, WAL: the single source of truth), blobs/ (originals by
 * hash), keyword.idx and vectors.idx (memory-mapped, rebuilt from the store whenever their generation is not the store's).
 * One collection handle is used by one thread at a time; several processes may open one collection: one writer, many readers.
 * Text positions are code points of the canonical text, half-open; pages and lines count from 1. */
#ifndef MARU_RAG_H
#define MARU_RAG_H
#include "base/base.h"
#include "engine/engine.h"
#include "rag/load.h"

/* ---- collections (store.c, add.c, sync.c) ------------------------------------------------------------------------------------------ */
typedef struct collection collection;
typedef enum { COLLECTION_READ, COLLECTION_WRITE /* made if absent; BUSY when another process writes */ } collection_mode;
err  collection_open(collection **, const char *name, collection_mode); /* NOTFOUND names what there is. Names: letters, digits, - _ . */
void collection_close(collection *);
err  collection_names(char ***names, usize *n);             /* owned: each and the array by mem_free */
err  collection_meta_get(collection *, const char *key, char **value); /* owned; NULL when absent. Keys: embedder, embedder_id, dim, threshold... */
err  collection_meta_put(collection *, const char *key, const char *value);

typedef struct {
    engine     *embedder;                                   /* NULL: keyword search only, or the collection's own is missing */
    const char *embedder_name;                              /* fixed at the first add; another later is an INPUT error naming both */
    i64         chunk_tokens;                               /* 0: auto (from the embedder's window, at most 320), -1: none (a document is one chunk) */
    window_mode window; bool best_window;                   /* texts longer than the window: mean (also for WINDOW_ERROR), first, or one vector per window (best) */
    const char *owner;                                      /* "" when NULL */
    const char *attributes;                                 /* JSON object or NULL; laid over the further fields of a JSONL line */
    bool        quiet;
    const atomic_bool *cancel;
} add_opts;
typedef struct { char *path, *reason; } add_failure;
typedef struct {
    i64 added, updated, unchanged, chunks;                  /* chunks: of the documents added or updated */
    i64 removed, skipped;                                   /* documents that a file added again no longer has; files in folders of formats that are not read */
    add_failure *failed; usize n_failed;
    double seconds;
} add_result;                                               /* owned: add_result_free */
/* Files, and folders with all below. A document is known by its path as typed (without ./, in NFC) or its JSONL id; an id that comes
 * from another file later belongs to that one. It is stored whole or not at all: after a kill the same call completes the work. A
 * file whose content and options are as before is not parsed; of a JSONL file added again only changed lines are done, and lines
 * it no longer has are removed. What fails is in failed[]; an error when nothing else was there. */
err  collection_add(collection *, const char *const *paths, usize n, const add_opts *, add_result *);
void add_result_free(add_result *);

typedef struct { add_opts add; bool dry_run /* nothing is written; the collection may be NULL: one that is not there yet */, force; } sync_opts;
typedef enum { SYNC_ADD, SYNC_UPDATE, SYNC_RENAME, SYNC_REMOVE } sync_action;
typedef struct { sync_action action; char *path, *from; } sync_step; /* of a file; from: of a rename */
typedef struct {
    add_result  add;                                        /* its `removed`: documents that are gone, with their file or from it */
    i64         renamed;                                    /* documents whose file has another path now; their chunks and vectors stay */
    sync_step  *step; usize n_steps;
    bool        guarded;                                    /* of a dry run: without `force` it would be refused */
} sync_result;                                              /* owned: sync_result_free */
/* Makes the documents that came from below a folder those that are there now: new, changed, renamed (a file that is gone and a new
 * one with the same content and ending) and removed. Other documents are not touched. When more than three and more than half of
 * those documents would go, nothing is done and the error says so, unless `force`. A folder below that cannot be read is in failed[],
 * and then nothing is removed. What a kill leaves is completed by the same call. */
err  collection_sync(collection *, const char *folder, const sync_opts *, sync_result *);
void sync_result_free(sync_result *);
/* By id, or by the path of a file: all its documents. NOTFOUND names the first unknown, nothing is removed then. Leaves no text in
 * any file; BUSY: they are removed, but another process was reading, and traces stay until the next change. */
err  collection_remove(collection *, const char *const *ids, usize n, i64 *removed);

typedef struct {
    i64   key;                                              /* of the store */
    char *id, *path, *title, *owner, *attributes, *hash;    /* id: a JSONL line's own, else the path as added */
    i64   pages, chars, chunks, version, bytes;
} document;
typedef struct { document *d; usize n; } documents;
err  collection_documents(collection *, documents *);
void documents_free(documents *);
/* canonical text and map of one document; borrowed from a small cache, valid until the next call on this collection */
err  collection_document(collection *, const char *id, const loaded **, document *info /* or NULL; strings borrowed alike */);
err  collection_original(collection *, const char *id, buf *out); /* the file as it was added */

/* ---- split (split.c) --------------------------------------------------------------------------------------------------------- */
typedef struct { u32 start, end; } range;                   /* canonical[start,end) is the chunk, always */
/* By structure (blocks, then sentences, then words) under a budget of estimated tokens; headings stay with what follows;
 * no overlap; every non-space character lies in exactly one chunk. */
err  split_document(const loaded *, i64 max_tokens, range **chunks /* owned: mem_free */, usize *n);
i64  split_estimate(str text);                              /* tokens, model-free: errs high for Korean and English with multilingual-e5 (>= in 99 % of chunks); not for vocabularies made for English alone */

/* ---- terms (terms.c) and the keyword index (keyword.c) ------------------------------------------------------------------------ */
/* Terms of a text: field 0 has Hangul bigrams of ending-stripped words, Snowball stems of other words (33 stop words left out),
 * numbers, and both parts of mixed words; field 1 has the stripped words; field 2 the first syllable of every Korean word and every
 * Chinese character, of texts, and of a query that has nothing longer (which then has field 2 only). Queries lose question words.
 * start, end: code points of the text; the part without the ending. */
typedef struct { u64 hash; u32 start, end; u8 field; } term;
typedef struct { term *t; usize n, cap; } terms;
err  terms_of(str text, bool query, terms *out);            /* appended; text NFC */
void terms_free(terms *);

typedef struct keyword_index keyword_index;
typedef struct {
    i64   chunk;
    float score;                                            /* field 0 over the best + 0.5 x field 1 over the best: within one question only */
    float coverage;                                         /* idf-weighted share of the question's terms (field 0) in the chunk, [0,1] */
    float share;                                            /* BM25 of field 0 over the idf of all the question's terms, [0,1): compares between questions */
} keyword_hit;
typedef struct keyword_builder keyword_builder;
err  keyword_builder_new(keyword_builder **);
err  keyword_builder_add(keyword_builder *, i64 chunk, i64 document, str text); /* chunks in ascending order */
err  keyword_builder_write(keyword_builder *, const char *path, u64 generation); /* atomic; frees in either case */
void keyword_builder_drop(keyword_builder *);
err  keyword_open(keyword_index **, const char *path);      /* FORMAT when damaged or of another version: the caller rebuilds. Most of the file is tested only when first read: searches give FORMAT too */
void keyword_close(keyword_index *);
u64  keyword_generation(const keyword_index *);
typedef struct { bool (*keep)(void *ctx, i64 chunk, i64 document); void *ctx; } search_filter; /* keep NULL: all. Asked inside the search */
/* BM25 (Lucene form, k1 1.2, b 0.75) per field, each over its best, fields weighted 1 and 0.5; scores of every chunk that holds a
 * term, best first, at most `most`, ties by chunk. A query of one syllable is answered by prefix. A query without terms gives none. */
err  keyword_search(keyword_index *, str query, const search_filter *, usize most, keyword_hit **hits /* owned: mem_free */, usize *n);
/* coverage of an arbitrary text by the index's idf (sentences, spans) */
float keyword_coverage(keyword_index *, str query, str text);
float keyword_idf(keyword_index *, u64 term_hash);          /* of field 0; a term nowhere in the collection has the largest */

/* ---- vectors (vectors.c): exact scan, int8 then float --------------------------------------------------------------------------- */
typedef struct vector_index vector_index;
typedef struct vector_builder vector_builder;
err  vector_builder_new(vector_builder **, i64 dim);
err  vector_builder_add(vector_builder *, i64 chunk, i64 document, const float *v /* [dim] unit, else INPUT */); /* several per chunk allowed (windows), in any order */
err  vector_builder_write(vector_builder *, const char *path, u64 generation);
void vector_builder_drop(vector_builder *);
err  vector_open(vector_index **, const char *path);        /* FORMAT as keyword_open */
void vector_close(vector_index *);
u64  vector_generation(const vector_index *);
i64  vector_dim(const vector_index *);
typedef struct { i64 chunk; float cosine; } vector_hit;
/* The best `most` chunks by exact float cosine, and for stretching the least and the mean cosine of all that passed the filter (from int8). */
err  vector_search(vector_index *, const float *query, const search_filter *, usize most, vector_hit **hits, usize *n, float *least, float *mean);
err  vector_cosine(vector_index *, const float *query, const i64 *chunks, usize n, float *out); /* of given chunks; -1 when it has none */

/* ---- retrieve (retrieve.c) ------------------------------------------------------------------------------------------------------- */
typedef enum { SEARCH_AUTO /* hybrid when there is an embedder */, SEARCH_BM25, SEARCH_DENSE, SEARCH_HYBRID } search_mode;
typedef struct {
    search_mode mode;
    bool        rrf;                                        /* reciprocal rank fusion (k 60) instead of the blend */
    float       weight;                                     /* of keywords in the blend; 0 < w < 1, 0: 0.5 */
    int         k;                                          /* hits wanted; 0: 10 */
    const char *owner;                                      /* only this owner's documents; NULL: all */
    const char *filter;                                     /* JSON object: attributes that must be equal; NULL: none */
    engine     *embedder;                                   /* the collection's; NULL: SEARCH_AUTO means keywords */
} search_opts;
typedef struct {
    int   rank;
    float score, coverage, keyword, cosine;                 /* score as fused; the parts before fusion, 0 when that half did not run */
    i64   chunk;
    char *document, *title, *text;                          /* text: canonical[start,end) */
    u32   page, line, start, end;
} hit;
typedef struct { hit *h; usize n; float top_keyword, top_cosine, mean_cosine; } hits; /* owned: hits_free */
err  collection_search(collection *, const char *query, const search_opts *, hits *);
void hits_free(hits *);

/* ---- answers (augment.c, cite.c, answer.c) ----------------------------------------------------------------------------------------- */
typedef struct { int passage; u32 start, end; char *quote; place where; } citation; /* of passages[passage].document; quote = canonical[start,end) */
typedef struct { char *text; bool verified; citation *c; usize n; } answer_sentence;
typedef struct {
    const char *answer_prefix;
    engine     *model;                                      /* NULL: the best sentences are quoted */
    search_opts search;
    int         passages;                                   /* put into the prompt; 0: 4 */
    i64         max_tokens;                                 /* of the answer; 0: 160 */
    double      threshold; bool threshold_given;            /* of answerability in [0,1]; else the collection's, else the default */
    bool        always_answer;
    int         sentences;                                  /* quoted without a model; 0: 2 */
    err       (*stream)(void *ctx, str text); void *ctx;    /* the answer as it is written; NULL is fine */
    session    *session;                                    /* reuse across questions (cached examples); NULL: a fresh one */
    const atomic_bool *cancel;
} ask_opts;
typedef struct {
    bool   refused; bool generated;                         /* refused: `reason` says by which signal */
    bool   rewritten;                                       /* the text is not what was streamed: a later one took its place */
    char  *reason, *text;
    answer_sentence *s; usize n_s;
    hits   passages;
    float  answerable;                                      /* the combined signal before, and after generation, in [0,1] */
    float  answerable_after, least_logprob, mean_logprob;
    double threshold, threshold_after;
    double search_s, prefill_s, decode_s;
    i64    prompt_tokens, tokens;
} answer;                                                   /* owned: answer_free */
err  collection_ask(collection *, const char *question, const ask_opts *, answer *);
void answer_free(answer *);
/* the narrowest exact spans of the passages that support a sentence; false: nothing supports it */
bool cite_sentence(collection *, keyword_index *, str sentence, const hits *passages, answer_sentence *out, err *bad);
/* how far the documents answer the question, from retrieval alone: idf coverage of the best passage and sentence, score and cosine signals */
float answerable_before(collection *, const char *question, const hits *);
err  collection_keyword(collection *, keyword_index **);    /* opened and current; borrowed */

typedef struct { double threshold, refused, kept, auc; i64 n; } calibration;
typedef struct { const char *query; bool answerable; } calibration_question;
/* With questions: the threshold that best separates them. Without: from the collection itself (a question made from a passage's own
 * rare terms, with and without that passage hidden). Stores it with the collection. */
err  collection_calibrate(collection *, const calibration_question *, usize n, const ask_opts *, double refuse_share, calibration *);
#endif
