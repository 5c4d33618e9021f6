/* tune/data.h - from a user's files to what a training step eats: samples of token ids of which some are targets, and batches
 * without padding (model/packing.c puts them into rows). Knows files, formats, templates and tokenizers; knows no graph, no optimizer and no loss.
 *
 * FORMATS, recognised per file, one format in a file:
 *   text           a .txt or .md file (a line "<|endoftext|>" ends a document), or rows {"text"}
 *   prompt         {"prompt","completion"} (strings); columns of these names
 *   messages       {"messages":[{"role","content",...}], "tools"?}
 *   instruction    {"instruction","input"?,"output"} (or input alone); columns of these names
 *   conversations  {"conversations":[{"from","value"}], "system"?, "tools"?}
 *   label          {"text","label"}; TSV or CSV: columns named so, or two columns without a header
 * JSON: one object a line (.jsonl), or one array of objects (.json). UTF-8; a byte order mark and CR LF are fine.
 *
 * TARGETS (what is learned), by where the bytes of a rendered template come from, never by tokenizing parts:
 *   chats          content, tool calls and reasoning of assistant messages; the template's bytes between two such spans of one
 *                  message; the template's bytes behind them up to and including the end-of-turn token; and what the template
 *                  puts in front of a tool call or of reasoning, as far as the model must write it itself (it is not in the
 *                  generation prompt). A message with "weight": 0 is context only.
 *   prompt         the completion and EOS
 *   label          the label's word (no EOS: labels are compared, not generated); `head`: the class itself
 *   text           every token of a document but its first; documents longer than ctx are cut into windows that share one token
 * A token is a target when one of its bytes is. Text of the data never becomes a control token (unless tune_opts.special). */
#ifndef MARU_TUNE_DATA_H
#define MARU_TUNE_DATA_H
#include "base/base.h"
#include "model/model.h"
#include "text/text.h"

#define TUNE_FORMATS(X) X(TEXT, "text") X(PROMPT, "prompt") X(MESSAGES, "messages") X(INSTRUCTION, "instruction") X(CONVERSATIONS, "conversations") X(LABEL, "label")
typedef enum {
#define X(name, word) TUNE_##name,
    TUNE_FORMATS(X)
#undef X
    TUNE_FORMAT_COUNT
} tune_format;
extern const char *const tune_format_name[TUNE_FORMAT_COUNT];

typedef struct {
    i64         ctx;         /* most tokens of a sample; 0: the model's context, at most 2048 */
    const char *template;    /* label rows: "리뷰: {text}\n감정:"; \n \t \\ are understood; NULL: see tune_data.template */
    const char *labels;      /* "부정= bad,긍정= good": label of the data = word that the model writes; NULL: as in the data, sorted */
    bool        head;        /* label rows feed a classifier on the last (or pooled) row: the target is the class, not a word */
    bool        truncate;    /* too long samples lose their end (label rows: the end of {text}) instead of being refused */
    bool        special;     /* control tokens written in text, prompt and completion are meant as such */
} tune_opts;

typedef struct {
    usize at;                /* of its first token in id[] and learn[] */
    u32   n;                 /* tokens, at least 2 (head: 1) */
    u32   n_target;          /* tokens that are targets; head: 1 */
    u32   n_prompt;          /* tokens before the first target; head: n */
    i32   label;             /* index into tune_data.label, -1: no label row */
    u32   file, line;        /* index into tune_data.file; the line on which the row begins, from 1 */
} tune_sample;

/* A problem with refuse makes tune_data_ready fail; the others are notes. Kinds are words for scripts:
 *   refuse: malformed mixed unknown-format template empty no-samples unknown-label no-target no-end-of-turn double-bos too-long
 *   note:   special-text truncated prompt-differs boundary unused-column unused-form (each kind once a file, with its count) */
typedef struct {
    const char *kind;
    bool        refuse;
    u32         file, line;
    u32         n;           /* how many rows of this file have it (notes; else 1) */
    char       *message;     /* found, expected, "file:line: " in front */
} tune_problem;

typedef struct {
    str   name;              /* as in the data */
    str   word;              /* what the model writes */
    usize n;                 /* samples */
} tune_label;

typedef struct {
    char       *path;
    tune_format format;
    usize       n_samples, n_rows; /* a long text gives several samples */
    i64         tokens, targets;
} tune_file;

typedef struct tune_data {
    i32          *id;        /* [n_tokens] all samples, one after the other; a window's shared token stands twice */
    u8           *learn;     /* [n_tokens] 1: a target */
    usize         n_tokens, cap_id, cap_learn;
    tune_sample  *sample;
    usize         n_samples, cap_samples;
    tune_file    *file;
    usize         n_files, cap_files;
    tune_problem *problem;   /* the first 1,000 */
    usize         n_problems, cap_problems, n_refused; /* n_refused: of all, kept or not */
    tune_label   *label;     /* sorted as given, or by name */
    usize         n_labels, cap_labels;
    i64           n_targets; /* of all samples */
    char         *template, *labels; /* in force, written as in tune_opts: giving them again means the same. NULL without label rows.
                                      * Without options: "{text}" for a head (behind the model's own query prefix), else
                                      * "{text}\nlabel:" and " NAME" */
    tune_opts     o;         /* in force; its strings are the two above */
    u64           hash;      /* of ids, targets and labels: a resumed run sees the same data */
    const model  *m;         /* borrowed */
    struct tune_form *form;  /* private to data*.c */
    struct tune_reader *reader;
} tune_data;

/* Reads everything; problems of the data are collected, not returned. Errors: IO, NOTFOUND, INPUT (options), NOMEM, UNSUPPORTED (a
 * chat format for a model without a template). Only m->tok, chat, chat_error, path, query_prefix and h.n_ctx are read; a
 * model whose tokenizer alone is open (n_ctx 0) will do. The model outlives the data. */
err  tune_data_open(tune_data **, const model *, const char *const *path, usize n, const tune_opts *);
err  tune_data_read(tune_data **, const model *, const char *name, str bytes, const tune_opts *); /* one file that is in memory */
err  tune_data_ready(const tune_data *);     /* FORMAT, with the first refusal and how many there are: what a trainer calls first */
void tune_data_free(tune_data *);

/* One text in the form of label rows, with (label >= 0) or without its word: for scoring, serving and held-out rows. */
err  tune_data_form(const tune_data *, str text, i32 label, ids *out, usize *n_prompt);

/* ---- packing ------------------------------------------------------------------------------------------------------------
 * A sample of n tokens takes n - 1 rows: row i holds token i and must predict token i + 1 (head: n rows, the last one predicts the
 * class). `lead` rows in front of every segment belong to given vectors (soft prompt): id -1, positions count on.
 * Samples are shuffled by (seed, epoch), packed best-fit-decreasing (ties: shuffled order), and the batches shuffled. The same
 * arguments give the same batches on every machine. */
typedef struct {
    i64 batch_tokens;        /* most rows of a batch; 0: tune_batch_rows */
    i64 max_segments;        /* of a batch; 0: no limit */
    i64 lead;
    u64 seed;
    i64 epoch;
    bool in_order;           /* no shuffle: evaluation */
} tune_pack_opts;
typedef struct { usize first, n; i64 rows, n_targets; } tune_pack; /* segments sample[first .. first+n) */
typedef struct {
    tune_pack_opts o;        /* in force */
    tune_pack *pack;         /* [n_packs] batches, in the order in which they are trained */
    u32       *sample;       /* [n_samples] each sample once */
    usize      n_packs, n_samples;
    i64        most_rows, most_segments, most_targets; /* of any batch: buffers and plans can be made for these */
} tune_packing;
i64  tune_batch_rows(const tune_data *, i64 lead); /* about 16 samples, within 256 to 1024 rows: short ones should not share one step by the dozen; the longest fits */
err  tune_packing_new(tune_packing **, const tune_data *, const tune_pack_opts *); /* INPUT: a sample is longer than a batch */
void tune_packing_free(tune_packing *);
/* THE divisor: targets of the batches [from, to) that one optimizer step takes. Nothing else divides a loss. */
i64  tune_packing_targets(const tune_packing *, usize from, usize to);

/* A batch as model/packing.c takes it. want: [n_tokens] target of each token's row or -1 (owned: mem_free); weight: [longest sample]. */
err  tune_targets(const tune_data *, i32 **want);
i64  tune_sample_rows(const tune_data *, const tune_sample *); /* that its tokens take, without lead */
int  tune_pack_seqs(const tune_data *, const tune_packing *, usize pack, const i32 *want, const float *weight, float counts, packed_seq *); /* how many were filled */
#endif
