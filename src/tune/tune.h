/* tune/tune.h - teach a model a task: one trainer for every way, since a way is only which leaves want a gradient (model.h,
 * trained_kind). data.h makes samples and batches; way.c the trained matrices; train.c steps, evaluates, saves and resumes;
 * features.c learns on a transformer that stays as it is, whose outputs are computed once.
 *
 * A run's folder: adapter_config.json, adapter_model.safetensors, maru.json (the artifact: what `--adapter` takes), log.jsonl (a line
 * a step), curves.svg, state.safetensors (weights, moments, cursor: resuming from it gives the bits of the run that never stopped).
 * Everything runs on the caller's thread and the pool; results do not depend on the number of threads. */
#ifndef MARU_TUNE_H
#define MARU_TUNE_H
#include "eval/eval.h"
#include "tune/data.h"

/* name, what n is when it is not given, learning rate (TUNING: an order apart for adapters, prompts and all layers) */
#define WAY_TABLE(X)                                                                                                             \
    X(FEATURES, "features", 0, 1e-2) X(HEAD, "head", 0, 1e-3) X(LAST, "last", 1, 1e-4) X(ALL, "all", 0, 2e-5)                    \
    X(LORA, "lora", 16, 2e-4) X(PROMPT, "prompt", 20, 5e-3) X(PREFIX, "prefix", 20, 5e-3) X(NORM, "norm", 0, 1e-3)
typedef enum {
#define X(id, name, n, lr) WAY_##id,
    WAY_TABLE(X)
#undef X
    WAY_COUNT
} way_kind;
typedef struct { way_kind kind; i64 n; } tune_way; /* n: rank, layers, vectors */
err  tune_way_parse(const char *, tune_way *);      /* "lora:8"; INPUT names the ways */
void tune_way_name(tune_way, char out[32]);

typedef enum { SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_CONSTANT } schedule_kind;
typedef struct {
    tune_way way;
    double   lr;                            /* 0: the way's */
    schedule_kind schedule;
    double   warmup;                        /* share of the steps; below 0: 0.05 */
    double   weight_decay, clip;            /* clip: of the global norm, 0: none */
    i64      epochs, most_steps;            /* most_steps 0: no limit */
    i64      batch_tokens;                  /* rows of a batch; 0: tune_batch_rows */
    i64      accumulate;                    /* batches of a step; 0: 1 */
    i64      chunk, recompute;              /* rows of logits at once, 0: chosen; blocks whose activations are computed again, -1: as few as fit */
    i64      memory;                        /* bytes that a step may take; 0: nine tenths of what is available */
    const char *targets;                    /* of pairs: "q,k,v,o,gate,up,down" or a part of it; NULL: all */
    const char *rank_pattern, *alpha_pattern; /* "q_proj=8,layers\\.[0-3]\\.mlp=32": of pairs, by the module's name as PEFT has it; the first that matches its end counts. NULL: none */
    double   alpha, dropout, lora_plus;     /* alpha 0: twice the rank; lora_plus: learning rate of b over that of a, 0: 1 */
    int      rslora;                        /* -1: above rank 16 */
    feature_kind features;
    u64      seed;
    i64      eval_every, save_every;        /* steps; 0: once an epoch */
    i64      patience;                      /* evaluations without a better loss before it stops; 0: never */
    bool     resume;                        /* go on from the last save; from the first step when nothing was saved yet */
    bool     force;                         /* a run that the folder holds gives way: its state at once, its artifact when there is a new one */
    bool     plan_only;                     /* no step is made and nothing is written: the report holds the plan */
    const atomic_bool *cancel;              /* saves, then CANCELLED */
    bool     quiet;
} train_opts;
typedef struct {
    i64    step, steps, epoch, targets, tokens; /* targets and tokens of this step */
    double loss, lr, norm, eval_loss /* NaN: not measured here */, tokens_per_s, left_s;
    usize  bytes;
} train_step;
typedef struct { /* bytes at the highest point, known before the first step; `total` is the sum of the others */
    usize model, data, trained, optimizer, step, rest, total; /* weights, mapped ones too; samples, tokenizer and what else there was; values; moments, sums, best; graphs */
    i64   rows, recomputed;                 /* of a batch; blocks computed again */
} train_memory;
typedef struct {
    i64    trainable, tokens, steps;        /* tokens: rows of samples seen */
    double train_loss, eval_loss, seconds, tokens_per_s; /* losses: mean over the last epoch; of the held-out data, NaN without */
    classified metric;                      /* label data with held-out rows: metric.n > 0; confusion is owned */
    usize  planned_bytes, peak_bytes, artifact_bytes; /* counted allocations and mapped weights, from opening the model on */
    train_memory plan;
    double effect;                          /* largest change of a logit on the first sample; NaN: a model without logits, a classifier alone */
    bool   stopped_early, finished_before;  /* resumed a run that was complete */
} train_report;

/* Learns `train` and writes the folder `out`. Errors: FORMAT and INPUT of data and options; FORMAT when a loss or gradient stops being
 * finite (tensor, step, samples) or nothing was changed by the first update; CANCELLED after saving; IO (nothing of the folder's earlier
 * state and artifact is lost); INPUT: the folder holds a run and neither resume nor force is set; BUSY: another process trains there. */
err tune_train(model *, pool *, const tune_data *train, const tune_data *held_out /* or NULL */, const char *out, const train_opts *, void (*each)(void *ctx, const train_step *), void *ctx, train_report *);

/* ---- inside tune/ ------------------------------------------------------------------------------------------------------------- */
/* way.c: the matrices of a way, filled as a run begins: weights decoded, a from U(-1/sqrt k, 1/sqrt k) and b zero, prompts from the
 * tokens `from`, prefixes from their keys and values. Owned: way_free */
err  way_make(const model *, pool *, const train_opts *, const tune_data *, trained_set *);
void way_free(trained_set *);
i64  way_count(const trained_set *);

/* optim.c: AdamW in PyTorch's order (Loshchilov & Hutter 2019), scalars in double; moments in floats */
typedef struct { trained_set *set; float **m, **v; i64 step; } adamw;
err    adamw_new(adamw *, trained_set *);
void   adamw_free(adamw *);
/* grad[i] of set->t[i]; rate_of(i) scales the learning rate; scale: of every gradient (clipping) */
void   adamw_step(adamw *, pool *, const float *const *grad, double lr, double lora_plus, double decay, double scale);
double grad_norm(const trained_set *, pool *, const float *const *grad, usize *bad); /* global; *bad: first tensor with a value that is not finite, or set->n */
double schedule_rate(schedule_kind, double lr, double warmup, i64 step, i64 steps); /* of step 0 .. steps-1, as Hugging Face's */

/* checkpoint.c */
typedef struct { i64 step, epoch, pack, tokens, targets; double seconds, loss_sum, loss_targets, best, train_loss; i64 worse; bool done; } train_state;
err checkpoint_save(const char *folder, const adamw *, const train_state *, const float *best, str config); /* best: values of the set at the best evaluation, or NULL */
err checkpoint_load(const char *folder, adamw *, train_state *, float *best, str config); /* NOTFOUND: there is none; INPUT: of another run, naming what differs; FORMAT: damaged (a hash is over all) */

/* curves.c */
err curves_write(const char *folder);       /* log.jsonl -> curves.svg */
void curves_print(const char *folder);      /* a plot for a terminal */
#endif
