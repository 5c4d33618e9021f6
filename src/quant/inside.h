/* quant/inside.h - what run.c, source.c and the others of this folder say to each other. */
#ifndef MARU_QUANT_INSIDE_H
#define MARU_QUANT_INSIDE_H
#include "quant/quant.h"

/* The input, opened so that pages which are done with can be given back: a model larger than memory passes through. */
typedef struct {
    model_file *file;
    file_map mapped; /* of the GGUF, or of what a folder became */
} quant_source;
err quant_source_open(quant_source *, const char *path, const char *beside /* the new file */);
void quant_source_close(quant_source *);
void quant_source_forget(const quant_source *, const void *p, usize n);

/* Rows of tensors into other types, in batches of at most SLAB values, by whoever is free. Sums are added in the order of pieces. */
typedef struct {
    const file_tensor *t;
    const float *importance; /* [k, experts] or NULL */
    i64 expert_rows;         /* rows of one expert */
    dtype to;
    bool copy, better, blind;
    weight_loss *sums; /* added to; of the caller, until quant_coder_finish */
} quant_job;
typedef struct { /* encoded rows of one tensor; `from` are those of the input, which nobody needs any more */
    const void *bytes, *from;
    usize n, n_from;
    i64 values;
} quant_rows;
typedef struct quant_coder quant_coder;
err quant_coder_new(quant_coder **, pool *, err (*each)(void *ctx, const quant_rows *), void *ctx); /* each: in order, on the caller's thread */
void quant_coder_free(quant_coder *);
err quant_coder_add(quant_coder *, const quant_job *); /* FORMAT names tensor and row of a value that is not finite, of this tensor or one before */
err quant_coder_finish(quant_coder *);

/* A text through a model without an engine (reader.c): one sequence at a time, `rows` at most. */
enum { QUANT_HEAD_ROWS = 64 };
typedef struct {
    char *name; /* of a weight */
    i64 k;
    tensor *sum; /* [k,1] squares of its input, summed over rows; neighbours may share one */
} quant_seen;
typedef struct {
    const model *m;
    model *own; /* opened here */
    backend *be;
    workspace *ws;
    plan *p, *head;
    model_io io;
    tensor *mask, *last_x, *head_in, *logits;
    quant_seen *seen;
    usize n_seen, seen_cap;
    i64 rows;
    i32 *in;
    float *hidden; /* [width, rows] after a run */
} quant_reader;
err quant_reader_open(quant_reader *, const char *path, const model * /* or NULL: path is opened */, pool *, i64 rows, bool exact, bool see_products);
void quant_reader_close(quant_reader *);
err quant_reader_run(quant_reader *, const i32 *id, i64 n);
err quant_reader_logits(quant_reader *, i64 row, const float **logits /* [n_vocab, QUANT_HEAD_ROWS] of rows from `row` on */);
typedef struct {
    ids all;
    i32 *id; /* [n] of the window */
    i64 ctx, n;
    usize at;
    bool bos;
} quant_windows; /* as eval_nll cuts a text */
err quant_windows_open(quant_windows *, const model *, str text, i64 ctx);
void quant_windows_close(quant_windows *);
bool quant_windows_next(quant_windows *);
#endif
