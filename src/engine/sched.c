/* engine/sched.c - the engine thread: continuous batching. Every turn takes one row of each sequence that is decoding, fills up
 * with rows of prefixes that are still being read, runs one plan, and samples where a sequence's last known token was computed.
 * Row counts are rounded up to a bucket, so that some thirty plans serve every batch; padding rows touch nothing. */
#include "engine/inside.h"
#include <math.h>

static const i64 buckets[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024};
enum { SCORE_ROWS = 32 };

static i64 bucket(i64 n)
{
    for (usize i = 0; i < COUNT_OF(buckets); i++)
        if (buckets[i] >= n) return buckets[i];
    return n;
}

static usize plan_kept(const engine *e, i64 outs) { return (usize)outs * (usize)e->n_vocab * sizeof(float); }

/* the plan whose last use is longest ago makes room */
static usize plan_forget(engine *e)
{
    int oldest = 0;
    for (int i = 1; i < e->n_plans; i++)
        if (e->plans[i].used < e->plans[oldest].used) oldest = i;
    usize kept = plan_kept(e, e->plans[oldest].outs);
    plan_free(e->plans[oldest].p);
    e->plans[oldest] = e->plans[--e->n_plans];
    return kept;
}

err plan_get(engine *e, i64 rows, i64 outs, i64 seqs, plan_slot **out)
{
    usize kept = 0;
    for (int i = 0; i < e->n_plans; i++) {
        if (e->plans[i].rows == rows && e->plans[i].outs == outs && e->plans[i].seqs == seqs) {
            e->plans[i].used = ++e->plan_clock;
            *out = &e->plans[i];
            return OK;
        }
        kept += plan_kept(e, e->plans[i].outs);
    }
    while (e->n_plans && (e->n_plans == MAX_PLANS || kept + plan_kept(e, outs) > MAX_KEPT)) kept -= plan_forget(e);
    plan_slot  *s = &e->plans[e->n_plans];
    batch_shape shape_of = {.rows = rows, .outs = outs, .seqs = seqs, .max_pages = e->max_pages, .soft = e->n_soft, .adapters = e->pairs};
    graph      *g = graph_new();
    if (!g) return err_new(ERR_NOMEM, "out of memory for a graph");
    *s = (plan_slot){.rows = rows, .outs = outs, .seqs = seqs, .used = ++e->plan_clock};
    if (e->m->arch->encoder) encoder_build(g, e->m, &shape_of, &s->io);
    else decoder_build(g, e->m, e->kv, &shape_of, &s->io);
    tensor *root = s->io.pooled ? s->io.pooled : outs ? s->io.logits : s->io.hidden;
    TRY(plan_new(&s->p, g, e->ws, &root, 1));
    err bad = s->io.soft ? tensor_put(s->p, s->io.soft, e->soft) : OK; /* inputs stay until they are put anew */
    if (bad.code) {
        plan_free(s->p);
        return bad;
    }
    if (plan_bytes(s->p) > e->scratch) e->scratch = plan_bytes(s->p);
    e->n_plans++;
    *out = s;
    return OK;
}

/* ---- a batch ---- */

typedef struct {
    i64  rows, outs;
    i32 *id, *pos, *slot, *span, *soft, *mix, *pages, *out_row; /* [rows] [rows] [rows] [3,rows] [rows] [rows] [max_pages,seqs] [outs] */
    job *out_job[MAX_SEQS];
    struct { job *j; usize from, n; } piece[MAX_SEQS];
    int  n_pieces;
} batch;

static batch batch_new(engine *e)
{
    i64   r = e->max_rows + 1024;
    batch b = {.id = e->in, .pos = e->in + r, .slot = e->in + 2 * r, .span = e->in + 3 * r, .soft = e->in + 6 * r, .mix = e->in + 7 * r, .pages = e->in + 8 * r};
    b.out_row = b.pages + e->max_pages * e->max_seqs;
    memset(b.pages, 0, sizeof *b.pages * (usize)(e->max_pages * e->max_seqs));
    return b;
}

/* ids below zero: positions that an adapter puts in front */
static i32 token_at(const job *j, usize i)
{
    if (i < j->front) return -1 - (i32)i;
    i -= j->front;
    return i < j->req->n ? j->req->ids[i] : j->out.id[i - j->req->n];
}
static usize total_of(const job *j) { return j->front + j->req->n + j->out.n; }

static void batch_row(engine *e, batch *b, job *j, int seq, usize at)
{
    const sequence *s = &j->s->seq;
    i64             r = b->rows++;
    i32             t = token_at(j, at), m = j->s->mix;
    b->id[r] = t < 0 ? -1 : t;
    b->soft[r] = t < 0 ? (i32)(e->front[m].soft_from + (i64)at - e->front[m].n_prefix) : -1;
    b->mix[r] = m;
    b->pos[r] = (i32)at;
    b->slot[r] = s->page[at / KV_PAGE] * KV_PAGE + (i32)(at % KV_PAGE);
    b->span[3 * r] = seq;
    b->span[3 * r + 1] = 0;
    b->span[3 * r + 2] = (i32)at + 1;
}

static void batch_piece(engine *e, batch *b, job *j, usize n)
{
    int seq = b->n_pieces++;
    b->piece[seq].j = j, b->piece[seq].from = j->fed, b->piece[seq].n = n;
    memcpy(b->pages + e->max_pages * seq, j->s->seq.page, sizeof *b->pages * j->s->seq.n_page);
    for (usize i = 0; i < n; i++) batch_row(e, b, j, seq, j->fed + i);
}

static err batch_run(engine *e, batch *b, plan_slot **slot)
{
    i64 rows = bucket(b->rows), outs = b->outs ? (b->outs > MAX_SEQS ? b->outs : bucket(b->outs)) : 0;
    for (i64 r = b->rows; r < rows; r++) {
        b->id[r] = b->slot[r] = b->soft[r] = b->mix[r] = -1;
        b->pos[r] = b->span[3 * r] = b->span[3 * r + 1] = b->span[3 * r + 2] = 0;
    }
    for (i64 i = b->outs; i < outs; i++) b->out_row[i] = -1;
    TRY(plan_get(e, rows, outs, e->max_seqs, slot));
    plan     *p = (*slot)->p;
    model_io *io = &(*slot)->io;
    TRY(tensor_put(p, io->ids, b->id));
    TRY(tensor_put(p, io->pos, b->pos));
    TRY(tensor_put(p, io->slots, b->slot));
    TRY(tensor_put(p, io->span, b->span));
    TRY(tensor_put(p, io->pages, b->pages));
    if (io->adapter) TRY(tensor_put(p, io->adapter, b->mix));
    if (io->soft_ids) TRY(tensor_put(p, io->soft_ids, b->soft));
    if (outs) TRY(tensor_put(p, io->out_rows, b->out_row));
    TRY(plan_run(p));
    for (int i = 0; i < b->n_pieces; i++) {
        job *j = b->piece[i].j;
        for (usize k = 0; k < b->piece[i].n; k++) {
            i32 t = token_at(j, b->piece[i].from + k);
            sequence_append(&e->pg, &j->s->seq, &t, 1);
        }
        j->fed += b->piece[i].n;
    }
    return OK;
}

/* ---- what a computed token brings ---- */

static bool event_push(job *j, const event *ev)
{
    pthread_mutex_lock(&j->lock);
    bool ok = VEC_PUSH(j->ev, j->n_ev, j->cap_ev, *ev);
    pthread_cond_signal(&j->wake);
    pthread_mutex_unlock(&j->lock);
    return ok;
}

static top_token *top_of(const float *logits, i64 n, int k, float lse) /* owned, [k] */
{
    candidate *c = mem_array(candidate, k);
    top_token *top = mem_array(top_token, k);
    if (c && top) {
        logits_top(logits, n, k, c);
        for (int i = 0; i < k; i++) top[i] = (top_token){c[i].id, expf(c[i].logit - lse), c[i].logit - lse};
    } else {
        mem_free(top);
        top = NULL;
    }
    mem_free(c);
    return top;
}

/* how much of the held text can be given out: up to a stop string (sets *stopped), or all but a tail that may begin one */
static usize text_ready(job *j, bool *stopped)
{
    str   held = buf_view(&j->held);
    usize ready = held.n;
    for (int s = 0; s < j->req->n_stop; s++) {
        str stop = str_of(j->req->stop[s]);
        i64 at = stop.n ? str_find(held, stop, 0) : -1;
        if (at >= 0) {
            *stopped = true;
            if ((usize)at < ready) ready = (usize)at;
        }
    }
    if (*stopped) return ready;
    for (int s = 0; s < j->req->n_stop; s++) {
        str stop = str_of(j->req->stop[s]);
        for (usize k = stop.n < held.n ? stop.n : held.n; k > 0; k--)
            if (!memcmp(held.p + held.n - k, stop.p, k)) {
                if (held.n - k < ready) ready = held.n - k;
                break;
            }
    }
    return ready;
}

static err token_event(engine *e, job *j, i32 id, const float *logits, bool last, bool *stopped)
{
    event  ev = {.id = id};
    i64    n = e->m->h.n_vocab;
    float  lse = logits_lse(logits, n);
    bool   end = token_is_end(e->m->tok, id);
    ev.logprob = logits[id] - lse;
    if (!end || j->req->special) stream_decoder_put(&j->dec, id, &j->held);
    if (last) stream_decoder_end(&j->dec, &j->held);
    usize ready = text_ready(j, stopped);
    if (last && !*stopped) ready = j->held.n;
    ev.text_len = ready;
    ev.text = mem_strndup(j->held.p ? j->held.p : "", ready);
    bool ok = ev.text && !j->held.bad;
    if (ok && ready) memmove(j->held.p, j->held.p + ready, j->held.n - ready), j->held.n -= ready;
    ev.n_top = (int)i64_min(j->req->n_top, n); /* a small vocabulary has no thousand */
    if (ok && ev.n_top) ok = (ev.top = top_of(logits, n, ev.n_top, lse)) != NULL;
    if (ok && event_push(j, &ev)) return OK;
    mem_free(ev.text);
    mem_free(ev.top);
    return err_new(ERR_NOMEM, "out of memory while generating");
}

/* a job in `active` is only marked here: its memory is the caller's as soon as he is woken, which happens at the end of the turn */
static void job_mark(job *j, err bad)
{
    j->ended = true;
    if (!bad.code) return;
    snprintf(j->what, sizeof j->what, "%s", bad.what);
    j->bad = (err){bad.code, j->what};
}

static void job_token(engine *e, job *j, const float *logits)
{
    i32                id = 0;
    const gen_request *q = j->req;
    double             now = clock_s();
    if (!j->res.tokens) {
        j->res.prefill_s = now - j->start;
        j->first = now;
    }
    usize last = (q->sample.repeat_last > 0 ? (usize)q->sample.repeat_last : 64), have = j->s->seq.tok.n - j->front;
    usize n_recent = last < have ? last : have;
    err   bad = sampler_pick(&j->smp, logits, e->m->h.n_vocab, j->s->seq.tok.id + j->front + have - n_recent, n_recent, &id);
    if (!bad.code && !ids_push(&j->out, id)) bad = err_new(ERR_NOMEM, "out of memory while generating");
    if (bad.code) {
        job_mark(j, bad);
        return;
    }
    j->res.tokens++;
    j->res.decode_s = now - j->first;
    bool end = token_is_end(e->m->tok, id) && !q->ignore_end, full = j->res.tokens >= q->max_tokens, stopped = false;
    bad = token_event(e, j, id, logits, end || full, &stopped);
    j->res.finish = end || stopped ? FINISH_STOP : FINISH_LENGTH;
    if (bad.code || end || full || stopped) job_mark(j, bad);
}

/* ---- room for keys and values ---- */

static bool is_active(const engine *e, const session *s)
{
    for (int i = 0; i < e->n_active; i++)
        if (e->active[i]->s == s && !e->active[i]->ended) return true;
    return false;
}

/* frees pages by emptying sessions that have nothing running */
static err make_room(engine *e, job *j, usize n)
{
    err bad = sequence_room(&e->pg, &j->s->seq, n);
    pthread_mutex_lock(&e->lock);
    for (session *s = e->sessions; s && bad.code == ERR_NOMEM; s = s->next)
        if (s != j->s && s->seq.n_page && !is_active(e, s)) {
            sequence_drop(&e->pg, &s->seq);
            bad = sequence_room(&e->pg, &j->s->seq, n);
        }
    pthread_mutex_unlock(&e->lock);
    return bad;
}

static bool in_batch(const batch *b, const job *j)
{
    for (int i = 0; i < b->n_pieces; i++)
        if (b->piece[i].j == j) return true;
    return false;
}

/* its pages serve another; it begins again, and says the same, once there are pages for all it has */
static void job_yield(engine *e, job *j)
{
    sequence_drop(&e->pg, &j->s->seq);
    j->fed = 0;
}

/* Room for the first n tokens of active[at]. When every page is held, those that came later give theirs up, the last first. */
static err claim_room(engine *e, const batch *b, int at, usize n)
{
    err bad = make_room(e, e->active[at], n);
    for (int k = e->n_active - 1; k > at && bad.code == ERR_NOMEM; k--) {
        job *late = e->active[k];
        if (late->ended || !late->s->seq.n_page || in_batch(b, late)) continue;
        job_yield(e, late);
        bad = make_room(e, e->active[at], n);
    }
    return bad;
}

/* ln p of the prefix's tokens from score_from on: in small chunks with logits for all rows; what lies before is taken from the cache or
 * read without logits. Nothing else runs meanwhile, so whoever holds pages gives them up if need be. */
static err job_score(engine *e, job *j)
{
    const gen_request *q = j->req;
    usize first = j->front + (q->score_from > 0 ? q->score_from : 1); /* position; the row before foretells it */
    for (usize i = 0; i < q->n && i < (q->score_from > 0 ? q->score_from : 1); i++) q->score[i] = 0;
    if (q->score_from > 1) sequence_match(&e->pg, &j->s->seq, j->front ? j->whole.id : q->ids, first - 1);
    else sequence_drop(&e->pg, &j->s->seq);
    j->fed = j->s->seq.tok.n;
    err bad = make_room(e, j, total_of(j));
    for (int k = e->n_active - 1; k >= 0 && bad.code == ERR_NOMEM; k--) {
        if (e->active[k]->s->seq.n_page) job_yield(e, e->active[k]);
        bad = make_room(e, j, total_of(j));
    }
    TRY(bad);
    prefix_put(e, j);
    while (j->fed < total_of(j)) {
        batch      b = batch_new(e);
        plan_slot *slot;
        usize      from = j->fed, silent = from + 1 < first ? first - 1 - from : 0, most = silent ? (usize)e->max_rows : SCORE_ROWS;
        usize      n = silent ? silent : total_of(j) - from;
        if (n > most) n = most;
        if (atomic_load(&j->cancelled) || atomic_load(&e->closing))
            return err_new(ERR_CANCELLED, atomic_load(&e->closing) ? "the engine is closing" : "cancelled");
        batch_piece(e, &b, j, n);
        b.outs = silent ? 0 : bucket((i64)n);
        for (i64 i = 0; i < b.outs; i++) b.out_row[i] = i < (i64)n ? (i32)i : -1;
        TRY(batch_run(e, &b, &slot));
        if (silent) continue;
        const float *logits = tensor_peek(slot->p, slot->io.logits);
        CHECK(logits);
        for (usize i = 0; i < n; i++) {
            usize at = from + i + 1; /* of what this row foretells */
            if (at <= j->front) continue;
            if (at - j->front >= q->n) break;
            const float *l = logits + (i64)i * e->m->h.n_vocab;
            q->score[at - j->front] = l[q->ids[at - j->front]] - logits_lse(l, e->m->h.n_vocab);
        }
    }
    return OK;
}

/* ---- the loop ---- */

/* what the session's adapters put in front; cached keys of another mix are of no use */
static err job_front(engine *e, job *j)
{
    sequence *s = &j->s->seq;
    if (s->adapter != j->s->mix) sequence_drop(&e->pg, s);
    s->adapter = j->s->mix;
    j->front = (usize)front_of(e, j->s->mix);
    bool ok = true;
    for (usize i = 0; i < j->front && ok; i++) ok = ids_push(&j->whole, -1 - (i32)i);
    if (j->front && ok) ok = ids_append(&j->whole, j->req->ids, j->req->n);
    return ok ? OK : err_new(ERR_NOMEM, "out of memory for a prompt");
}

static void job_start(engine *e, job *j)
{
    if (j->kind == JOB_CLOSE) {
        sequence_drop(&e->pg, &j->s->seq);
        job_end(j, OK);
        return;
    }
    if (j->kind == JOB_EMBED) {
        embed_run(e, j);
        return;
    }
    if (j->kind == JOB_PLAN) {
        plan_slot *slot;
        job_end(j, e->m->arch->encoder ? embed_plan(e, &slot) : plan_get(e, bucket(e->max_rows), 1, e->max_seqs, &slot));
        return;
    }
    const gen_request *q = j->req;
    j->start = clock_s();
    j->s->seq.owner = j->s->owner;
    sampler_init(&j->smp, &q->sample);
    stream_decoder_init(&j->dec, e->m->tok, q->special);
    err bad = job_front(e, j);
    if (!bad.code && q->score) bad = job_score(e, j);
    else if (!bad.code) sequence_match(&e->pg, &j->s->seq, j->front ? j->whole.id : q->ids, j->front + q->n), j->fed = j->s->seq.tok.n;
    j->res.prompt_tokens = (i64)q->n;
    j->res.cached_tokens = q->score || j->fed < j->front ? 0 : (i64)(j->fed - j->front);
    if (!bad.code && q->score) j->res.prefill_s = clock_s() - j->start;
    if (bad.code || q->score) job_end(j, bad);
    else e->active[e->n_active++] = j;
}

/* A job without pages (new, or it gave them up) that is not the first waits until there are some for all it has and one to go on:
 * it would only lose them again to those before it. False: no room, others have to finish; with none to wait for it ends. */
static bool job_room(engine *e, const batch *b, int at, usize n)
{
    job *j = e->active[at];
    i64  whole = i64_min(e->max_pages * KV_PAGE, (i64)total_of(j) + KV_PAGE);
    bool first = true;
    for (int i = 0; i < at; i++) first &= e->active[i]->ended;
    err bad = first || j->s->seq.n_page ? claim_room(e, b, at, n) : make_room(e, j, (usize)whole);
    if (bad.code && first && !b->n_pieces) job_mark(j, bad);
    return !bad.code;
}

static void compose(engine *e, batch *b)
{
    bool full = false;
    for (int pass = 0; pass < 2; pass++) /* decoding rows first: nobody waits for another's prefix */
        for (int i = 0; i < e->n_active && !(full && pass); i++) {
            job  *j = e->active[i];
            if (j->ended) continue;
            i64 prefix = j->s->mix < 0 ? 0 : e->front[j->s->mix].n_prefix;
            if ((i64)j->fed < prefix) { /* copied, not computed; begun in order like everything that is read */
                if (!pass) continue;
                if (!job_room(e, b, i, (usize)prefix)) {
                    full = true;
                    continue;
                }
                prefix_put(e, j);
            }
            usize total = total_of(j), left = total - j->fed, room = (usize)(e->max_rows - b->rows);
            if ((left == 1) != (pass == 0) || !room || !left) continue;
            if (left > room) left = room;
            if (!job_room(e, b, i, j->fed + left)) {
                full = true; /* prefixes are begun in order */
                continue;
            }
            batch_piece(e, b, j, left);
            if (b->piece[b->n_pieces - 1].from + left < total || j->req->max_tokens <= 0) continue;
            b->out_job[b->outs] = j;
            b->out_row[b->outs++] = (i32)b->rows - 1;
        }
}

static void turn(engine *e)
{
    for (int i = 0; i < e->n_active; i++)
        if (!e->active[i]->ended && (atomic_load(&e->active[i]->cancelled) || atomic_load(&e->closing))) {
            e->active[i]->res.finish = FINISH_CANCELLED;
            job_mark(e->active[i], atomic_load(&e->closing) ? err_new(ERR_CANCELLED, "the engine is closing") : OK);
        }
    batch      b = batch_new(e);
    plan_slot *slot;
    compose(e, &b);
    if (b.n_pieces) {
        err          bad = batch_run(e, &b, &slot);
        const float *logits = bad.code || !b.outs ? NULL : tensor_peek(slot->p, slot->io.logits);
        for (int i = 0; i < b.n_pieces; i++) {
            job *j = b.piece[i].j;
            if (bad.code) job_mark(j, bad);
            else if (j->req->max_tokens <= 0 && j->fed == j->front + j->req->n) j->res.prefill_s = clock_s() - j->start, job_mark(j, OK);
        }
        for (i64 i = 0; logits && i < b.outs; i++) job_token(e, b.out_job[i], logits + i * e->m->h.n_vocab);
    }
    int keep_n = 0;
    for (int i = 0; i < e->n_active; i++)
        if (!e->active[i]->ended) e->active[keep_n++] = e->active[i];
        else job_end(e->active[i], e->active[i]->bad);
    e->n_active = keep_n;
}

void *engine_main(void *ctx)
{
    engine *e = ctx;
    void   *next;
    for (;;) {
        while (e->n_active < e->max_seqs && queue_pop(e->jobs, &next, e->n_active ? 0 : -1)) {
            job_start(e, next);
            if (e->n_active) continue;
        }
        if (!e->n_active) {
            if (atomic_load(&e->closing)) return NULL;
            continue;
        }
        turn(e);
    }
}
