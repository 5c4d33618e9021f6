/* quant/inside.h - what run.c, source.c and the others of this folder say to each other. */
#ifndef MARU_QUANT_INSIDE_H
#define MARU_QUANT_INSIDE_H
#include "quant/quant.h"

/* The input, opened so that pages which are done with can be given back: a model larger than memory passes through. */
typedef struct {
    model_file *file;
    file_map mapped; /* of a GGUF; empty for a folder */
} quant_source;
err quant_source_open(quant_source *, const char *path);
void quant_source_close(quant_source *);
void quant_source_forget(const quant_source *, const void *p, usize n);

/* One tensor's rows into another type, in pieces of at most SLAB values, by whoever is free. Sums are added in the order of pieces. */
typedef struct {
    double error, power, weighted_error, weighted_power;
} quant_sums;
typedef struct {
    const file_tensor *t;
    const float *importance; /* [k, experts] or NULL */
    i64 expert_rows;         /* rows of one expert */
    dtype to;
    bool copy, better;
} quant_job;
typedef struct quant_coder quant_coder;
err quant_coder_new(quant_coder **, pool *);
void quant_coder_free(quant_coder *);
/* each(ctx, bytes, n): the encoded rows in order. FORMAT names tensor and row of a value that is not finite */
err quant_coder_run(quant_coder *, const quant_job *, quant_sums *, err (*each)(void *ctx, const void *bytes, usize n), void *ctx);
#endif
