/* quant/quant.h - a model's file in fewer bits: which tensor gets which type, the encoding itself, what it costs and what it saves.
 *
 * The file is read tensor by tensor from its map and written as a GGUF; memory is a few buffers of rows, whatever the model's size.
 * Types of tensors follow llama.cpp's published mixes (a table of rules, mix.c), so that files are what people know under these names. */
#ifndef MARU_QUANT_H
#define MARU_QUANT_H
#include "base/base.h"
#include "engine/engine.h"
#include "eval/eval.h"
#include "model/model.h"
#include "tensor/tensor.h"

/* ---- what can be asked for (mix.c) ---------------------------------------------------------------------------------------- */
typedef struct {
    const char *name; /* "q4_k_m" */
    dtype type;       /* of a tensor about which no rule speaks */
    u32 file_type;    /* general.file_type */
    const char *also; /* another name for it, or NULL */
} quant_mix;
extern const quant_mix quant_mixes[];
extern const usize quant_n_mixes;
const quant_mix *quant_mix_find(const char *word); /* NULL: no such; upper case will do */
/* to [file_n_tensors]: the type of each tensor in the new file. `weighed`: importances are there (some rules ask). pure: no rules */
err quant_types(const model_file *, const quant_mix *, bool weighed, bool pure, dtype *to);

/* ---- importances (imatrix.c, collect.c): mean square of the activations that meet each column of each matrix ------------------ */
typedef struct {
    char *name; /* of the tensor */
    i64 n;      /* columns, times experts */
    float *mean; /* [n] */
    double count; /* tokens seen */
} imatrix_row;
typedef struct {
    imatrix_row *row;
    usize n, cap;
    map *by_name; /* name -> index */
    char *dataset;
    i64 chunks, chunk_size;
} imatrix;
err imatrix_load(imatrix **, const char *path);                        /* llama.cpp's .dat or GGUF; FORMAT with place */
err imatrix_parse(imatrix **, const u8 *p, usize n, const char *name); /* the same from memory */
err imatrix_save(const imatrix *, const char *path);                   /* as GGUF */
void imatrix_free(imatrix *);
const imatrix_row *imatrix_find(const imatrix *, str name); /* NULL when it has none */
err imatrix_new(imatrix **, const char *dataset);
err imatrix_add(imatrix *, const char *name, i64 n, const float *mean, double count); /* copied */
/* Runs the model in float arithmetic over the text, windows of ctx tokens. The head is left out, as the tools do whose files these are. */
err imatrix_collect(imatrix **, const model *, pool *, str text, const char *dataset, i64 ctx, progress *);

/* ---- the work (run.c) ------------------------------------------------------------------------------------------------------ */
typedef struct {
    const quant_mix *mix;
    const imatrix *importance; /* or NULL */
    bool blind;                /* importances weigh the errors of the report, the encoders do not see them */
    bool requantise;           /* the input may be quantised already */
    bool pure;                 /* every matrix of the mix's own type */
    bool better;               /* search.c: a wider search for scales, slower */
    pool *threads;
    progress *progress; /* or NULL */
    const atomic_bool *cancel; /* or NULL */
} quant_opts;
typedef struct {
    char *name;
    dtype from, to;
    i64 n; /* values */
    usize before, after; /* bytes */
    double rmse;     /* relative: root of (sum of squared errors / sum of squares) */
    double weighted; /* the same with each column weighed by its importance; equal to rmse without one */
    bool weighed;
} quant_tensor;
typedef struct {
    quant_tensor *t; /* in the file's order */
    usize n;
    usize before, after; /* bytes of the files */
    i64 values;
    usize fallbacks;  /* tensors whose rows did not divide */
    bool requantised; /* errors came on top of errors */
    double seconds;
} quant_report;
/* IN: a GGUF or a Hugging Face folder. OUT appears whole or not at all. INPUT: quantised input without `requantise`, OUT is IN;
 * FORMAT: a value that is not finite (tensor and row); NOTFOUND, IO, NOMEM; CANCELLED. */
err quant_run(const char *in, const char *out, const quant_opts *, quant_report *);
void quant_report_free(quant_report *);
double quant_bits(const quant_report *); /* per value, of the whole file */
double quant_error(const quant_report *, bool weighted); /* relative error over all tensors that changed */
usize quant_worst(const quant_report *, usize k, const quant_tensor **); /* [k] by weighted error, the largest first */

/* one row's encoding, better than weight_encode's under `weight` [k] (NULL: ones), never worse (search.c); scratch [5 * k] */
err quant_search(dtype, i64 k, const float *src, const float *weight, void *dst, float *scratch);

/* ---- before and after (measure.c) ------------------------------------------------------------------------------------------- */
typedef struct {
    i64 tokens;
    double nll_before, nll_after, kld, same_top; /* kld: mean over tokens, in nats */
    double cosine_mean, cosine_least;            /* of an embedder */
    bool embeds;
} quant_quality;
typedef struct {
    double decode_tps, prefill_tps; /* 0: an embedder writes nothing */
    usize memory;                   /* weights as they lie in memory */
} quant_speed;
/* The file before, opened once however many it is compared with; path and text are borrowed. An embedder's text is one text a line. */
typedef struct quant_original quant_original;
err quant_original_open(quant_original **, const char *path, str text, i64 ctx, pool *);
void quant_original_close(quant_original *);
err quant_compare(quant_original *, const char *after, quant_quality *, progress *);
err quant_speed_of(const char *path, int threads, quant_speed *);
typedef struct { double f32_gflops, bf16_gflops, int8_gops; } quant_rates; /* multiply-adds of this program's own matrix products, counted twice */
err quant_rates_measure(pool *, quant_rates *);

/* ---- drawings (draw.c) -------------------------------------------------------------------------------------------------------- */
typedef struct {
    const char *name;
    double bits; /* per value */
    usize bytes;
    double rmse;    /* over all changed tensors */
    double nll, kld, same_top; /* NaN when no text was read, or by an embedder */
    double cosine_mean, cosine_least; /* NaN but of an embedder */
} quant_point;
err quant_draw_report(const quant_report *, const quant_quality * /* or NULL */, const char *title, const char *path);
err quant_draw_sweep(const quant_point *, usize n, const char *title, const char *path); /* kld, 1 - cosine or, without a text, rmse against bits */
void quant_print_sweep(const quant_point *, usize n);                                    /* the same of characters */
#endif
