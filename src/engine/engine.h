/* engine/engine.h - many requests, one model. An engine owns one model, its plans, its KV pages and one thread that alone
 * touches them; sessions reach it through a bounded queue from any thread. Callers give the whole token prefix every time; the
 * engine reuses what is cached (keyed by tokens, adapter and owner) and computes the rest. Sequences that are active together
 * are rows of one batch; a sequence's tokens do not depend on its neighbours. */
#ifndef MARU_ENGINE_H
#define MARU_ENGINE_H
#include "base/base.h"
#include "model/model.h"

typedef struct { const char *path; float scale; int mix; } engine_adapter; /* those of one mix work together, summed */
typedef struct {
    int  threads;                           /* 0: one per core */
    i64  kv_tokens;                         /* positions in all sequences together; 0: 8192 or the model's context if less */
    int  max_seqs;                          /* active at once; 0: 16 */
    int  max_rows;                          /* rows of a batch; 0: 256 */
    const engine_adapter *adapters; int n_adapters; /* loaded at the start; a session uses one mix (0, 1, ...) or none */
} engine_opts;
typedef struct engine engine;
err  engine_open(engine **, const char *model_path, const engine_opts *);
void engine_close(engine *);                /* running requests end CANCELLED; sessions left open can only be closed, from then on */
const model *engine_model(const engine *);
int  engine_threads(const engine *);
const adapter_file *engine_adapter_at(const engine *, int i); /* as given in engine_opts; NULL past the last */
typedef struct { usize weights, kv_per_token, kv, scratch; } engine_memory; /* bytes; scratch: the largest plan made so far, or a full batch's if none */
engine_memory engine_memory_of(engine *);

/* ---- sampling (sample.c): repetition penalty, then top-k, top-p, min-p, then temperature --------------------------------- */
typedef struct {
    float temp;                             /* 0: greedy, the lowest id among equals */
    int   top_k;                            /* 0: off */
    float top_p, min_p;                     /* 1 and 0: off */
    float repeat_penalty;                   /* 1: off; over the last repeat_last tokens (0: 64) */
    int   repeat_last;
    u64   seed;
} sample_opts;
typedef struct { i32 id; float logit; } candidate;
typedef struct {
    sample_opts o;
    rng         r;
    candidate  *c; usize cap;
} sampler;
void sampler_init(sampler *, const sample_opts *);
void sampler_free(sampler *);
err  sampler_pick(sampler *, const float *logits /* [n] */, i64 n, const i32 *recent, usize n_recent, i32 *id);
float logits_lse(const float *logits, i64 n);       /* ln of the sum of exponentials */
void  logits_top(const float *logits, i64 n, int k, candidate *out); /* the k largest in order; equal ones by id */

/* ---- sessions (session.c, sched.c) ------------------------------------------------------------------------------------- */
typedef struct session session;
err  session_open(session **, engine *, u64 owner); /* owner: only sessions of one owner share cached prefixes */
err  session_use(session *, int mix);       /* between requests: a mix of the engine's adapters, -1: the model alone. At first 0 if there are any */
void session_close(session *);

typedef struct { i32 id; float p, logprob; } top_token;
typedef struct {
    i32              id;
    float            logprob;               /* before temperature and cuts */
    str              text;                  /* characters completed by this token (may be empty); stop strings never appear */
    const top_token *top;                   /* [n_top] likeliest tokens of this step */
    int              n_top;
} gen_token;
typedef enum { FINISH_STOP /* end token or stop string */, FINISH_LENGTH, FINISH_CANCELLED } finish_reason;
typedef struct {
    const i32         *ids; usize n;        /* the whole prefix; at least one token */
    i64                max_tokens;          /* 0: only the prefix is computed */
    sample_opts        sample;
    const char *const *stop; int n_stop;    /* stop strings */
    int                n_top;               /* wanted size of gen_token.top, 0: none, at most 1000 */
    bool               special;             /* control tokens give their text */
    bool               ignore_end;          /* end tokens do not stop */
    float             *score;               /* [n] or NULL: ln p(ids[i] | ids[0..i-1]); score[0] = 0. Nothing is generated then */
    usize              score_from;          /* tokens before this one are not scored (0) and may be cached */
    err              (*token)(void *ctx, const gen_token *); /* on the caller's thread, in order; an error cancels. NULL is fine */
    void              *ctx;
    const atomic_bool *cancel;              /* polled; NULL is fine */
} gen_request;
typedef struct {
    finish_reason finish;
    i64    prompt_tokens, cached_tokens, tokens;
    double prefill_s, decode_s;
} gen_result;
/* INPUT when prefix + max_tokens (and what an adapter puts in front) exceed the context (both numbers in the message; nothing is cut silently), BUSY when the queue is
 * full. Requests that do not fit into the KV cache together wait for one another. Blocks until done. */
err  session_generate(session *, const gen_request *, gen_result *);

/* ---- embeddings (embed.c): encoder models, batched by length -------------------------------------------------------------- */
typedef enum { EMBED_PLAIN, EMBED_QUERY, EMBED_PASSAGE } embed_role; /* adds what the model wants in front */
typedef enum { WINDOW_ERROR, WINDOW_MEAN, WINDOW_FIRST } window_mode; /* texts longer than the model's window */
i64  engine_dim(const engine *);
i64  engine_window(const engine *);         /* tokens, special ones included */
err  engine_embed(engine *, const str *texts, usize n, embed_role, window_mode, float *out /* [dim,n] unit length */, void (*step)(void *ctx, usize done), void *ctx);
err  engine_embed_windows(engine *, str text, embed_role, float **out /* owned: mem_free, [dim,*n] */, usize *n); /* one vector per window of a text */
err  engine_count_tokens(const engine *, str text, i64 *n); /* special tokens included */
#endif
