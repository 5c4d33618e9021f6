/* engine/inside.h - private to engine/: pages, jobs, the engine's own state. Everything here belongs to the engine thread, save
 * what struct job says. */
#ifndef MARU_ENGINE_INSIDE_H
#define MARU_ENGINE_INSIDE_H
#include "engine/engine.h"
#include <pthread.h>

/* ---- KV pages (pages.c): reference-counted, full ones findable by (owner, adapter, tokens, the page before) ---- */
typedef struct {
    i32 token[KV_PAGE];
    i32 n;                                  /* tokens filled */
    i32 refs;                               /* sequences that hold it */
    u64 serial;                             /* changes whenever the page is given to new contents */
    u64 before;                             /* serial of the page in front, 0: none */
    u64 owner;
    i32 adapter;
    i32 next;                               /* in its hash chain, -1: end */
    bool listed;                            /* in the hash table */
    u64 used;                               /* clock of last use */
} page;
typedef struct {
    page *p; i64 n;
    i32  *bucket; u64 mask;                 /* hash table of full pages */
    i32  *free; i64 n_free;
    u64   serial, clock;
} pages;
typedef struct { /* one token sequence and the pages that hold its keys and values */
    i32  *page; usize n_page, cap_page;
    ids   tok;                              /* tokens whose KV is in the pages */
    u64   owner;
    i32   adapter;
} sequence;
err  pages_init(pages *, i64 n);
void pages_free(pages *);
/* Cuts the sequence to its longest common prefix with want (at most n - 1 tokens, so that there is something to compute), then
 * extends it with cached full pages. */
void sequence_match(pages *, sequence *, const i32 *want, usize n);
err  sequence_room(pages *, sequence *, usize n);   /* pages and memory for n tokens in all; NOMEM when every page is held: nothing is taken then */
void sequence_append(pages *, sequence *, const i32 *tok, usize n); /* room was made and their KV computed; lists pages that became full */
void sequence_drop(pages *, sequence *);            /* gives the pages back (they stay findable until reused) and forgets the tokens */

/* ---- jobs ---- */
typedef struct job job;
typedef struct { i32 id; float logprob; char *text; usize text_len; top_token *top; int n_top; } event;
struct job {
    enum { JOB_GENERATE, JOB_EMBED, JOB_CLOSE, JOB_PLAN /* only makes the largest plan, so that its size is known */ } kind;
    const gen_request *req;                 /* borrowed from the waiting caller */
    session           *s;
    /* embeddings instead of generation */
    ids                whole;               /* what an adapter puts in front, and the prefix; empty when nothing is in front */
    usize              front;               /* positions of it: ids -1, -2, ... */
    const ids         *lists; usize n_lists; float *vectors; _Atomic usize done_lists;
    /* engine thread */
    sampler            smp;
    stream_decoder     dec;
    buf                held;                /* text that may begin a stop string */
    ids                out;
    usize              fed;                 /* tokens of prefix + output given to the model */
    bool               ended;
    gen_result         res;
    double             start, first;
    /* shared with the caller, under lock */
    pthread_mutex_t    lock;
    pthread_cond_t     wake;
    event             *ev; usize n_ev, cap_ev, read_ev;
    bool               done;
    atomic_bool        cancelled;
    err                bad; char what[512];
};
struct session {
    engine  *e;
    sequence seq;
    u64      owner;
    int      mix;                           /* of adapters, -1: none */
    atomic_bool busy;                       /* a request is running: one at a time */
    session *next;                          /* engine's list, under its lock */
};

typedef struct { i64 rows, outs, seqs; plan *p; model_io io; u64 used; } plan_slot;
enum { MAX_PLANS = 96, MAX_SEQS = 64, MAX_MIXES = 64 };
#define MAX_KEPT ((usize)256 << 20)         /* bytes of logits that plans keep between runs, all together */
struct engine {
    model     *m;
    pool      *threads;
    backend   *be;
    workspace *ws;
    kv_cache  *kv;
    pages      pg;
    adapter_file **adapters; int n_adapters;
    adapter_use *uses;
    adapter_mix mixes[MAX_MIXES]; int n_mixes;
    adapter_set *pairs;                     /* slot i: mix i; NULL without pairs */
    float     *soft; i64 n_soft;            /* [width,n_soft] given vectors of all mixes */
    struct { i64 n_prefix, n_prompt, soft_from; } front[MAX_MIXES];
    plan_slot  plans[MAX_PLANS]; int n_plans;
    u64        plan_clock;
    i64        max_pages;                   /* of one sequence */
    int        max_seqs, max_rows;
    i64        n_vocab, n_ctx;              /* the model's, for callers' threads */
    queue     *jobs;
    pthread_t  thread; bool started;
    atomic_bool closing;
    job       *active[MAX_SEQS]; int n_active;
    pthread_mutex_t lock;                   /* of the list of sessions */
    session   *sessions;
    atomic_int holders;                     /* whoever opened it, and each session: the last to leave frees this, the lock and the queue */
    i32       *in;                          /* scratch for batch inputs */
    float     *logits;                      /* [n_vocab] */
    _Atomic usize scratch;
};
err   adapters_open(engine *, const engine_opts *); /* adapters.c: after the model, before anything runs */
void  adapters_close(engine *);             /* after the model */
i64   front_of(const engine *, int mix);    /* positions in front of a session's tokens */
void  prefix_put(engine *, job *);          /* positions of a prefix that are not there yet; room was made */
err   plan_get(engine *, i64 rows, i64 outs, i64 seqs, plan_slot **out);
void  engine_leave(engine *);
void *engine_main(void *);                  /* sched.c */
void  embed_run(engine *, job *);           /* embed.c: on the engine thread */
err   embed_plan(engine *, plan_slot **);   /* the plan of a full batch */
err   job_submit(engine *, job *);          /* waits until done, delivering events */
err   job_init(job *);
void  job_free(job *);
void  job_end(job *, err);                  /* engine thread: wakes the caller */
#endif
