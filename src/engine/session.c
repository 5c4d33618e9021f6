/* engine/session.c - the caller's side: opening, submitting, receiving. A request is borrowed by the engine thread until the
 * caller has seen `done`, so nothing of it is copied. */
#include "engine/inside.h"

err job_init(job *j)
{
    pthread_condattr_t attr;
    memset(j, 0, sizeof *j);
    if (pthread_mutex_init(&j->lock, NULL)) return err_new(ERR_NOMEM, "cannot make a lock");
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    bool ok = !pthread_cond_init(&j->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (!ok) pthread_mutex_destroy(&j->lock);
    return ok ? OK : err_new(ERR_NOMEM, "cannot make a condition");
}

void job_free(job *j)
{
    for (usize i = 0; i < j->n_ev; i++) {
        mem_free(j->ev[i].text);
        mem_free(j->ev[i].top);
    }
    mem_free(j->ev);
    sampler_free(&j->smp);
    buf_free(&j->held);
    ids_free(&j->out);
    ids_free(&j->whole);
    pthread_cond_destroy(&j->wake);
    pthread_mutex_destroy(&j->lock);
}

void job_end(job *j, err bad)
{
    j->ended = true;
    pthread_mutex_lock(&j->lock);
    if (bad.code) {
        if (bad.what != j->what) snprintf(j->what, sizeof j->what, "%s", bad.what);
        j->bad = (err){bad.code, j->what};
    }
    j->done = true;
    pthread_cond_signal(&j->wake);
    pthread_mutex_unlock(&j->lock);
}

/* gives events to the caller's function until the job is done; the lock is not held during the call */
static err deliver(job *j)
{
    err bad = OK;
    pthread_mutex_lock(&j->lock);
    for (;;) {
        if (j->req && j->req->cancel && atomic_load(j->req->cancel)) atomic_store(&j->cancelled, true);
        if (j->read_ev < j->n_ev) {
            event ev = j->ev[j->read_ev++];
            pthread_mutex_unlock(&j->lock);
            gen_token t = {.id = ev.id, .logprob = ev.logprob, .text = {ev.text, ev.text_len}, .top = ev.top, .n_top = ev.n_top};
            if (!atomic_load(&j->cancelled) && j->req->token) { /* once it is cancelled, nothing that was on the way is heard of */
                bad = j->req->token(j->req->ctx, &t);
                if (bad.code) atomic_store(&j->cancelled, true);
            }
            pthread_mutex_lock(&j->lock);
            continue;
        }
        if (j->done) break;
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += 50 * 1000 * 1000; /* to look at `cancel` now and then */
        if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
        pthread_cond_timedwait(&j->wake, &j->lock, &until);
    }
    pthread_mutex_unlock(&j->lock);
    return bad.code ? bad : j->bad.code ? err_new(j->bad.code, "%s", j->what) : OK;
}

err job_submit(engine *e, job *j)
{
    TRY(queue_push(e->jobs, j, false));
    return deliver(j);
}

err session_open(session **out, engine *e, u64 owner)
{
    *out = NULL;
    if (e->m->arch->encoder) return err_new(ERR_INPUT, "%s is an embedding model: it cannot generate text", e->m->path);
    session *s = mem_zero(sizeof *s);
    if (!s) return err_new(ERR_NOMEM, "out of memory for a session");
    s->e = e;
    s->owner = owner;
    s->mix = e->n_mixes ? 0 : -1;
    atomic_fetch_add(&e->holders, 1);
    pthread_mutex_lock(&e->lock);
    s->next = e->sessions;
    e->sessions = s;
    pthread_mutex_unlock(&e->lock);
    *out = s;
    return OK;
}

void session_close(session *s)
{
    job j;
    if (!s) return;
    engine *e = s->e;
    if (!job_init(&j).code) {
        j.kind = JOB_CLOSE;
        j.s = s;
        if (!queue_push(e->jobs, &j, true).code) deliver(&j); /* else the engine is closing, and its pages go with it */
        job_free(&j);
    }
    pthread_mutex_lock(&e->lock);
    for (session **at = &e->sessions; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    pthread_mutex_unlock(&e->lock);
    mem_free(s->seq.page);
    ids_free(&s->seq.tok);
    mem_free(s);
    engine_leave(e);
}

static err request_check(const engine *e, const gen_request *q, int mix)
{
    i64 front = front_of(e, mix);
    i64 most = i64_min(e->max_pages * KV_PAGE, e->n_ctx);
    if (!q->n) return err_new(ERR_INPUT, "an empty prompt: nothing to continue");
    if (atomic_load(&e->closing)) return err_new(ERR_CANCELLED, "the engine is closed");
    if (q->n_top < 0 || q->n_top > 1000) return err_new(ERR_INPUT, "%d likeliest tokens asked for, expected 0 to 1000", q->n_top);
    for (usize i = 0; i < q->n; i++)
        if (q->ids[i] < 0 || q->ids[i] >= e->n_vocab)
            return err_new(ERR_INPUT, "token id %d at %zu: the model has %lld tokens", q->ids[i], i, (long long)e->n_vocab);
    if (front && q->n + (usize)front > (usize)most)
        return err_new(ERR_INPUT, "the prompt has %zu tokens and the adapter puts %lld positions in front, the context holds %lld", q->n, (long long)front, (long long)most);
    if (q->n > (usize)most || q->max_tokens > most - front - (i64)q->n)
        return err_new(ERR_INPUT, "the prompt has %zu tokens and %lld more were asked for, the context holds %lld", q->n, (long long)q->max_tokens, (long long)most);
    return OK;
}

err session_generate(session *s, const gen_request *q, gen_result *res)
{
    job j;
    TRY(request_check(s->e, q, s->mix));
    bool idle = false;
    if (!atomic_compare_exchange_strong(&s->busy, &idle, true)) return err_new(ERR_BUSY, "this session is already generating");
    err bad = job_init(&j);
    if (!bad.code) {
        j.req = q;
        j.s = s;
        bad = job_submit(s->e, &j);
        if (atomic_load(&j.cancelled)) j.res.finish = FINISH_CANCELLED;
        if (res) *res = j.res;
        job_free(&j);
    }
    atomic_store(&s->busy, false);
    return bad;
}
