/* engine/engine.c - opening and closing: threads, backend, model, KV pages, the engine thread. */
#include "engine/inside.h"

const model *engine_model(const engine *e) { return e->m; }
int          engine_threads(const engine *e) { return pool_threads(e->threads); }

static err engine_kv(engine *e, const engine_opts *o)
{
    i64 want = o->kv_tokens > 0 ? o->kv_tokens : i64_min(e->m->h.n_ctx, 8192), most = INT32_MAX / KV_PAGE * KV_PAGE;
    if (want > most) return err_new(ERR_INPUT, "a KV cache of %lld positions asked for, expected at most %lld", (long long)want, (long long)most);
    i64 n_pages = (want + KV_PAGE - 1) / KV_PAGE;
    e->max_pages = i64_min(n_pages, (e->m->h.n_ctx + KV_PAGE - 1) / KV_PAGE);
    TRY(pages_init(&e->pg, n_pages));
    return kv_cache_new(&e->kv, e->m, n_pages, cpu_reference() ? F32 : F16);
}

static err engine_start(engine *e, const char *path, const engine_opts *o)
{
    e->max_seqs = o->max_seqs > 0 ? (int)i64_min(o->max_seqs, MAX_SEQS) : 16;
    e->max_rows = o->max_rows > 0 ? (int)i64_min(o->max_rows, 1024) : 256;
    TRY(pool_new(&e->threads, o->threads));
    TRY(model_open(&e->m, path, e->threads));
    e->n_vocab = e->m->h.n_vocab;
    e->n_ctx = e->m->h.n_ctx;
    TRY(backend_cpu(&e->be, e->threads));
    TRY(workspace_new(&e->ws, e->be));
    if (!e->m->arch->encoder) TRY(engine_kv(e, o));
    TRY(adapters_open(e, o));
    i64 rows = i64_max(e->max_rows + 1024, e->m->arch->encoder ? e->m->h.n_ctx : 0);
    e->in = mem_array(i32, 8 * rows + e->max_pages * e->max_seqs + 4096);
    if (!e->in) return err_new(ERR_NOMEM, "out of memory for batch inputs");
    TRY(queue_new(&e->jobs, 256));
    if (pthread_create(&e->thread, NULL, engine_main, e)) return err_new(ERR_NOMEM, "cannot start the engine thread");
    e->started = true;
    return OK;
}

err engine_open(engine **out, const char *path, const engine_opts *o)
{
    static const engine_opts defaults;
    *out = NULL;
    engine *e = mem_zero(sizeof *e);
    if (!e) return err_new(ERR_NOMEM, "out of memory for an engine");
    if (pthread_mutex_init(&e->lock, NULL)) {
        mem_free(e);
        return err_new(ERR_NOMEM, "cannot make a lock");
    }
    atomic_store(&e->holders, 1);
    err bad = engine_start(e, path, o ? o : &defaults);
    if (bad.code) engine_close(e);
    else *out = e;
    return bad;
}

void engine_leave(engine *e)
{
    if (atomic_fetch_sub(&e->holders, 1) != 1) return;
    queue_free(e->jobs);
    pthread_mutex_destroy(&e->lock);
    mem_free(e);
}

void engine_close(engine *e)
{
    if (!e) return;
    atomic_store(&e->closing, true);
    if (e->jobs) queue_close(e->jobs);
    if (e->started) pthread_join(e->thread, NULL);
    for (int i = 0; i < e->n_plans; i++) plan_free(e->plans[i].p);
    workspace_free(e->ws);
    backend_close(e->be);
    kv_cache_free(e->kv);
    pages_free(&e->pg);
    model_close(e->m);
    adapters_close(e);
    pool_free(e->threads);
    mem_free(e->in);
    engine_leave(e);
}

engine_memory engine_memory_of(engine *e)
{
    const model *m = e->m;
    job          j;
    if (!atomic_load(&e->scratch) && !job_init(&j).code) { /* nothing has run yet: ask the engine thread for its largest plan */
        j.kind = JOB_PLAN;
        (void)job_submit(e, &j);
        job_free(&j);
    }
    engine_memory x = {.weights = m->packed_bytes + m->mapped_bytes, .scratch = atomic_load(&e->scratch)};
    if (e->kv) {
        x.kv_per_token = model_kv_bytes_per_token(m, e->kv->type);
        x.kv = x.kv_per_token * (usize)(e->kv->n_pages * KV_PAGE);
    }
    return x;
}
