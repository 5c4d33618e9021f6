/* tune/train.c - the training loop. A step is `accumulate` batches of packed samples; whatever a target counts is one over the targets
 * of the whole step, so that loss and gradient do not depend on how a step is cut into batches. Order of samples, dropout and first
 * values are functions of (seed, epoch, step): a resumed run has the bits of one that never stopped.
 * Not here: what is learned on a frozen transformer (features.c). */
#include "tune/inside.h"
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static const err no_memory = {ERR_NOMEM, "out of memory for training"};
enum { MOST_SEQS = 512, SAVE_SECONDS = 300 };

typedef struct {
    const tune_data *d;
    i32   *want;                            /* [n_tokens] target of each token's row, or -1 */
    packing *pack;
    model_io io;
    batch_shape shape;
} side; /* what is learned, or held out */

typedef struct {
    model            *m;
    pool             *threads;
    const train_opts *o;
    const char       *out;
    trained_set       set;
    adamw             opt;
    backend          *be;
    workspace        *ws;
    side              train, held;
    tune_packing        *order;                /* of this epoch */
    train_state       at;
    i64               steps, rows, seqs, accumulate;
    float           **sum;                  /* gradients of several batches, or NULL */
    const float     **grad;                 /* [set.n] of this step */
    tensor          **leaf;                 /* [set.n] in the graph that learns */
    i64               recomputed;           /* blocks */
    float            *weight;               /* [rows] */
    packed_seq       *seq;                  /* [seqs] */
    float            *best;                 /* values of the set at the best evaluation, or NULL */
    double            judged;               /* held-out loss after step judged_at */
    i64               judged_at;            /* 0: none, or of values that were given up */
    char             *config;
    tune_log         *log;
    int               lock;                 /* of the folder, or -1 */
    usize             base, peak;           /* counted memory as the run began; the most before plans were tried */
    double            started, saved;
    void            (*each)(void *, const train_step *);
    void             *ctx;
} trainer;

/* ---- getting ready ---- */

/* rows and sequences of a batch that serve every epoch */
static err sizes(trainer *t)
{
    const tune_data *d = t->train.d;
    i64 lead = packing_overhead(&t->set), total = 0, longest = 0, shortest = INT32_MAX;
    for (usize i = 0; i < d->n_samples; i++) {
        i64 n = tune_sample_rows(d, &d->sample[i]) + lead;
        total += n;
        longest = i64_max(longest, n);
        shortest = i64_min(shortest, n);
    }
    if (t->o->batch_tokens > 0 && longest > t->o->batch_tokens)
        return err_new(ERR_INPUT, "--batch-tokens %lld: the longest sample takes %lld rows", (long long)t->o->batch_tokens, (long long)longest);
    t->rows = i64_min(i64_max(t->o->batch_tokens > 0 ? t->o->batch_tokens : tune_batch_rows(d, lead), longest), total);
    t->seqs = i64_min(i64_min(t->rows / i64_max(shortest, 1), MOST_SEQS), (i64)d->n_samples);
    t->seqs = i64_max(t->seqs, 1);
    t->accumulate = i64_max(t->o->accumulate, 1);
    return OK;
}

static err plan_epoch(trainer *t, const tune_data *d, i64 epoch, bool in_order, tune_packing **out)
{
    tune_pack_opts o = {.batch_tokens = t->rows, .max_segments = t->seqs, .lead = packing_overhead(&t->set), .seed = t->o->seed, .epoch = epoch, .in_order = in_order};
    return tune_packing_new(out, d, &o);
}

static i64 steps_in(const trainer *t, const tune_packing *p) { return ((i64)p->n_packs + t->accumulate - 1) / t->accumulate; }

static err count_steps(trainer *t)
{
    for (i64 e = 0; e < t->o->epochs; e++) {
        tune_packing *p;
        TRY(plan_epoch(t, t->train.d, e, false, &p));
        t->steps += steps_in(t, p);
        tune_packing_free(p);
        if (t->o->most_steps > 0 && t->steps >= t->o->most_steps) break;
    }
    if (t->o->most_steps > 0) t->steps = i64_min(t->steps, t->o->most_steps);
    return OK;
}

static err open_side(trainer *t, side *s, bool grad, i64 recompute)
{
    bool classes = s->d->o.head;
    if (!s->want) TRY(tune_targets(s->d, &s->want));
    s->shape = (batch_shape){.rows = t->rows, .seqs = t->seqs, .train = &t->set, .loss = classes ? LOSS_CLASSES : LOSS_TOKENS, .chunk = t->o->chunk, .pool = eval_pool(t->m), .recompute = recompute, .learn = grad};
    return packing_open(&s->pack, t->m, t->ws, &s->shape, grad, &s->io);
}

/* what this machine could still give, by /proc/meminfo; a great number where there is none */
static usize memory_available(void)
{
    buf b = {0};
    double kib = 0;
    if (!file_read(&b, "/proc/meminfo", 1 << 16).code) {
        const char *at = strstr(buf_cstr(&b), "MemAvailable:");
        if (at) kib = strtod(at + 13, NULL);
    }
    buf_free(&b);
    return kib > 0 ? (usize)(kib * 1024) : (usize)1 << 60;
}

/* The fewest blocks computed again with which the step fits into memory: a plan is made and looked at, its memory untouched. */
static err open_learning(trainer *t)
{
    usize room = t->o->memory > 0 ? (usize)t->o->memory : memory_available() / 10 * 9;
    i64 n = t->m->h.n_layer;
    for (int quarter = 0;; quarter++) {
        i64 again = t->o->recompute >= 0 ? t->o->recompute : n * quarter / 4;
        TRY(workspace_new(&t->ws, t->be));
        err bad = open_side(t, &t->train, true, again);
        bool fits = !bad.code && plan_bytes(packing_plan(t->train.pack)) <= room;
        if (fits || t->o->recompute >= 0 || (bad.code && bad.code != ERR_NOMEM)) {
            t->recomputed = again;
            return bad;
        }
        usize needs = bad.code ? 0 : plan_bytes(packing_plan(t->train.pack));
        packing_close(t->train.pack);
        workspace_free(t->ws);
        t->train.pack = NULL, t->ws = NULL;
        if (quarter == 4) return bad.code ? bad : err_new(ERR_NOMEM, "a step needs %.2f GiB even when every block is computed again, there are %.2f: a lower --batch-tokens helps", (double)needs / (1 << 30), (double)room / (1 << 30));
    }
}

static err buffers(trainer *t)
{
    t->weight = mem_array(float, t->rows);
    t->seq = mem_array(packed_seq, t->seqs);
    t->grad = (const float **)mem_array(float *, t->set.n);
    if (!t->weight || !t->seq || !t->grad) return no_memory;
    if (t->accumulate > 1 && !(t->sum = mem_array(float *, t->set.n))) return no_memory;
    for (usize i = 0; t->sum && i < t->set.n; i++)
        if (!(t->sum[i] = mem_array(float, t->set.t[i].k * t->set.t[i].n))) return no_memory;
    if (t->o->patience > 0 && !(t->best = mem_array(float, way_count(&t->set)))) return no_memory;
    return OK;
}

/* ---- a batch ---- */

static err put_pack(trainer *t, side *s, const tune_packing *p, usize pack, double weight)
{
    for (i64 i = 0; i < t->rows; i++) t->weight[i] = (float)weight;
    int n = tune_pack_seqs(s->d, p, pack, s->want, t->weight, (float)weight, t->seq);
    return packing_put(s->pack, &s->io, t->seq, n);
}

/* the first trained matrix that holds something that is no number, or NULL */
static const char *spoilt(const trained_set *set)
{
    for (usize i = 0; i < set->n; i++)
        for (i64 j = 0, n = set->t[i].k * set->t[i].n; j < n; j++)
            if (!isfinite(set->t[i].data[j])) return set->t[i].name[0] ? set->t[i].name : "what is trained";
    return NULL;
}

/* names the samples of a batch whose loss is not a number */
static err not_finite(trainer *t, side *s, const tune_packing *p, usize pack, const char *what)
{
    const tune_pack *k = &p->pack[pack];
    buf b = {0};
    const char *where = spoilt(&t->set);
    for (usize i = 0; i < k->n && i < 8; i++) {
        const tune_sample *x = &s->d->sample[p->sample[k->first + i]];
        buf_fmt(&b, "%s%s:%u", i ? ", " : "", s->d->file[x->file].path, x->line);
    }
    err bad = err_new(ERR_FORMAT, "%s is not finite in step %lld (%s%ssamples %s%s): a lower --lr may help; the state of the last save is kept", what, (long long)t->at.step + 1, where ? where : "", where ? " holds values that are not; " : "", buf_cstr(&b), k->n > 8 ? " ..." : "");
    buf_free(&b);
    return bad;
}

static err add_up(trainer *t, bool first)
{
    for (usize i = 0; i < t->set.n; i++) {
        const float *g = tensor_peek(packing_plan(t->train.pack), t->leaf[i]->grad);
        i64 n = t->set.t[i].k * t->set.t[i].n;
        CHECK(g);
        t->grad[i] = t->sum ? t->sum[i] : g;
        if (!t->sum) continue;
        if (first) memcpy(t->sum[i], g, sizeof *g * (usize)n);
        else
            for (i64 j = 0; j < n; j++) t->sum[i][j] += g[j];
    }
    return OK;
}

/* every leaf must have a gradient: what cannot be reached would silently stay as it is */
static err check_reached(const trainer *t)
{
    for (usize i = 0; i < t->set.n; i++)
        if (!t->set.t[i].leaf || !t->set.t[i].leaf->grad)
            return err_new(ERR_INPUT, "%s gets no gradient: the loss does not depend on it", t->set.t[i].name);
    return OK;
}

static err remember_leaves(trainer *t)
{
    t->leaf = mem_array(tensor *, t->set.n);
    if (!t->leaf) return no_memory;
    for (usize i = 0; i < t->set.n; i++) t->leaf[i] = t->set.t[i].leaf;
    return OK;
}

/* After the first update something has to be different (of pairs: a B that is not zero any more), or the run would end as a file that does
 * nothing. */
static err check_moved(const trainer *t, double norm, double lr)
{
    bool pairs = false;
    for (usize i = 0; i < t->set.n; i++) {
        const trained *x = &t->set.t[i];
        pairs |= x->kind == TRAIN_B;
        for (i64 j = 0; x->kind == TRAIN_B && j < x->k * x->n; j++)
            if (x->data[j] != 0) return OK;
    }
    if (!pairs && norm > 0 && (float)lr > 0) return OK;
    return err_new(ERR_FORMAT, "the first update changed nothing%s (norm of the gradient %g, learning rate %g): this would teach nothing", pairs ? ", every B is still zero" : "", norm, lr);
}

static err run_step(trainer *t, train_step *out)
{
    const tune_packing *p = t->order;
    usize from = (usize)t->at.pack, to = from + (usize)t->accumulate < p->n_packs ? from + (usize)t->accumulate : p->n_packs, bad;
    i64 targets = tune_packing_targets(p, from, to);
    double loss = 0;
    *out = (train_step){.step = t->at.step + 1, .steps = t->steps, .epoch = t->at.epoch + 1, .targets = targets, .eval_loss = NAN};
    for (usize i = from; i < to; i++) {
        float one;
        TRY(put_pack(t, &t->train, p, i, 1 / (double)targets));
        if (t->train.io.drop_key) TRY(tensor_put(packing_plan(t->train.pack), t->train.io.drop_key, (i32[2]){(i32)t->o->seed, (i32)(t->at.step * t->accumulate + (i64)(i - from))}));
        TRY(plan_run(packing_plan(t->train.pack)));
        TRY(tensor_get(packing_plan(t->train.pack), t->train.io.loss, &one));
        if (!isfinite(one)) return not_finite(t, &t->train, p, i, "the loss");
        loss += (double)one;
        out->tokens += p->pack[i].rows;
        TRY(add_up(t, i == from));
    }
    out->loss = loss;
    out->norm = grad_norm(&t->set, t->threads, t->grad, &bad);
    if (bad < t->set.n) return not_finite(t, &t->train, p, from, t->set.t[bad].name);
    double base = t->o->lr > 0 ? t->o->lr : way_rate(t->o->way), clip = t->o->clip, scale = clip > 0 ? fmin(1, clip / (out->norm + 1e-6)) : 1;
    out->lr = schedule_rate(t->o->schedule, base, t->o->warmup < 0 ? 0.05 : t->o->warmup, t->at.step, t->steps);
    adamw_step(&t->opt, t->threads, t->grad, out->lr, t->o->lora_plus, t->o->weight_decay, scale);
    if (t->opt.step == 1) TRY(check_moved(t, out->norm, out->lr));
    t->at.step++;
    t->at.pack = (i64)to;
    t->at.tokens += out->tokens, t->at.targets += targets;
    t->at.loss_sum += loss * (double)targets, t->at.loss_targets += (double)targets;
    return OK;
}

static err evaluate(trainer *t, double *loss)
{
    tune_packing *p = NULL;
    double sum = 0, n = 0;
    err bad = plan_epoch(t, t->held.d, 0, true, &p);
    for (usize i = 0; !bad.code && i < p->n_packs; i++) {
        float one;
        bad = put_pack(t, &t->held, p, i, 1);
        if (!bad.code && t->held.io.drop_key) bad = err_new(ERR_BUG, "dropout while evaluating");
        if (!bad.code) bad = plan_run(packing_plan(t->held.pack));
        if (!bad.code) bad = tensor_get(packing_plan(t->held.pack), t->held.io.loss, &one);
        if (!bad.code) sum += (double)one, n += (double)p->pack[i].n_targets;
    }
    tune_packing_free(p);
    *loss = n > 0 ? sum / n : NAN;
    return bad;
}

/* ---- the loop ---- */

static void remember(trainer *t)
{
    float *to = t->best;
    for (usize i = 0; to && i < t->set.n; i++) {
        i64 n = t->set.t[i].k * t->set.t[i].n;
        memcpy(to, t->set.t[i].data, sizeof *to * (usize)n);
        to += n;
    }
}

static void recall(trainer *t)
{
    const float *from = t->best;
    for (usize i = 0; from && i < t->set.n; i++) {
        i64 n = t->set.t[i].k * t->set.t[i].n;
        memcpy(t->set.t[i].data, from, sizeof *from * (usize)n);
        from += n;
    }
}

static err save(trainer *t)
{
    t->at.seconds += clock_s() - t->started;
    t->started = t->saved = clock_s();
    TRY(tune_log_flush(t->log));
    return checkpoint_save(t->out, &t->opt, &t->at, t->at.best < NO_BEST ? t->best : NULL, str_of(t->config));
}

static bool due(i64 every, i64 step) { return every > 0 && step % every == 0; }

static err judge(trainer *t, train_step *s, bool *enough)
{
    TRY(evaluate(t, &s->eval_loss));
    t->judged = s->eval_loss, t->judged_at = t->at.step;
    bool better = s->eval_loss < t->at.best;
    if (better) t->at.best = s->eval_loss, remember(t);
    t->at.worse = better ? 0 : t->at.worse + 1;
    *enough = t->o->patience > 0 && t->at.worse >= t->o->patience;
    return OK;
}

static err after_step(trainer *t, train_step *s, bool epoch_ends, bool *enough)
{
    bool measured = t->held.d && (t->o->eval_every > 0 ? due(t->o->eval_every, t->at.step) : epoch_ends || t->at.step == t->steps);
    double seconds = t->at.seconds + clock_s() - t->started;
    if (measured) TRY(judge(t, s, enough));
    s->tokens_per_s = seconds > 0 ? (double)t->at.tokens / seconds : 0;
    s->left_s = t->at.step > 0 ? seconds / (double)t->at.step * (double)(t->steps - t->at.step) : 0;
    s->bytes = mem_peak();
    TRY(tune_log_step(t->log, s, seconds));
    if (t->each) t->each(t->ctx, s);
    if (due(t->o->save_every, t->at.step) || (t->o->save_every <= 0 && (epoch_ends || clock_s() - t->saved > SAVE_SECONDS))) TRY(save(t));
    return OK;
}

static err next_epoch(trainer *t)
{
    tune_packing_free(t->order);
    t->order = NULL;
    return plan_epoch(t, t->train.d, t->at.epoch, false, &t->order);
}

static err loop(trainer *t, train_report *r)
{
    bool enough = false;
    while (!enough && t->at.step < t->steps) {
        train_step s;
        if (!t->order) TRY(next_epoch(t));
        TRY(run_step(t, &s));
        bool ends = (usize)t->at.pack == t->order->n_packs;
        if (ends) {
            t->at.train_loss = t->at.loss_sum / t->at.loss_targets;
            t->at.loss_sum = t->at.loss_targets = 0;
            t->at.epoch++, t->at.pack = 0;
            tune_packing_free(t->order);
            t->order = NULL;
        }
        TRY(after_step(t, &s, ends, &enough));
        if (t->o->cancel && atomic_load(t->o->cancel)) {
            TRY(save(t));
            return err_new(ERR_CANCELLED, "stopped in step %lld of %lld: saved; --resume goes on", (long long)t->at.step, (long long)t->steps);
        }
    }
    if (t->at.loss_targets > 0) t->at.train_loss = t->at.loss_sum / t->at.loss_targets;
    if (enough) recall(t), t->judged_at = 0;
    r->stopped_early = enough;
    t->at.done = true;
    return save(t);
}

/* a cursor that points outside of the run is no run's */
static err check_cursor(trainer *t)
{
    const train_state *s = &t->at;
    bool good = s->step >= 0 && s->step <= t->steps && t->opt.step == s->step && s->epoch >= 0 && s->epoch <= t->o->epochs && s->pack >= 0 && s->tokens >= 0 && s->worse >= 0 && s->seconds >= 0;
    if (good && s->pack > 0) {
        TRY(next_epoch(t));
        good = (usize)s->pack < t->order->n_packs;
    }
    return good ? OK : err_new(ERR_FORMAT, "%s/state.safetensors: its cursor (step %lld, epoch %lld, batch %lld) lies outside of the run", t->out, (long long)s->step, (long long)s->epoch, (long long)s->pack);
}

static err resume(trainer *t, train_report *r)
{
    bool saved;
    TRY(folder_take(t->out, t->o, &t->lock, &saved));
    if (saved) TRY(checkpoint_load(t->out, &t->opt, &t->at, t->best, str_of(t->config)));
    if (saved) TRY(check_cursor(t));
    if (t->o->resume && !saved && !t->o->quiet) log_line(LOG_WARN, "%s: nothing was saved yet: this begins with the first step", t->out);
    r->finished_before = t->at.done;
    return tune_log_open(&t->log, t->out, t->at.step);
}

static err prepare(trainer *t, const tune_data *train, const tune_data *held)
{
    t->train.d = train, t->held.d = held;
    t->at.best = NO_BEST;
    TRY(way_make(t->m, t->threads, t->o, train, &t->set));
    TRY(sizes(t));
    if (held) /* held-out samples may be longer than any that is learned */
        for (usize i = 0; i < held->n_samples; i++) t->rows = i64_max(t->rows, tune_sample_rows(held, &held->sample[i]) + packing_overhead(&t->set));
    TRY(count_steps(t));
    TRY(tune_config(t->m, t->o, train, t->rows, &t->config));
    TRY(adamw_new(&t->opt, &t->set));
    TRY(backend_cpu(&t->be, t->threads));
    t->peak = mem_peak();
    TRY(open_learning(t));
    TRY(check_reached(t));
    TRY(remember_leaves(t));
    if (held) TRY(open_side(t, &t->held, false, 0));
    return buffers(t);
}

/* what only steps need: gone before the artifact is made, so that its copies do not come on top */
static void drop_steps(trainer *t)
{
    packing_close(t->train.pack);
    packing_close(t->held.pack);
    workspace_free(t->ws);
    t->train.pack = t->held.pack = NULL, t->ws = NULL;
    adamw_free(&t->opt);
    for (usize i = 0; t->sum && i < t->set.n; i++) mem_free(t->sum[i]);
    mem_free(t->sum), mem_free(t->best);
    t->sum = NULL, t->best = NULL;
}

static void finish(trainer *t)
{
    drop_steps(t);
    if (t->be) backend_close(t->be);
    tune_log_close(t->log);
    file_unlock(t->lock);
    tune_packing_free(t->order);
    mem_free(t->grad), mem_free(t->leaf), mem_free(t->weight), mem_free(t->seq), mem_free(t->config);
    mem_free(t->train.want), mem_free(t->held.want);
    way_free(&t->set);
}

/* Everything that steps need is there already, untouched; what comes later is little, but for the scores of held-out labels. */
static err planned(trainer *t, train_memory *p)
{
    const tune_data *d = t->train.d;
    usize values = sizeof(float) * (usize)way_count(&t->set), order = 40 * d->n_samples + 24 * (usize)t->rows, metric;
    usize steps = mem_now() + order + (t->held.d ? 40 * t->held.d->n_samples + 24 * (usize)t->rows : 0) + (512 << 10) + 256 * t->set.n;
    TRY(metric_memory(t->m, t->threads, &t->set, FEATURE_LAST, d, t->held.d, &metric));
    *p = (train_memory){.data = t->base - t->m->packed_bytes, .trained = values, .optimizer = 2 * values, .step = plan_bytes(packing_plan(t->train.pack)), .rows = t->rows, .recomputed = t->recomputed};
    if (t->held.pack) p->step = (usize)i64_max((i64)p->step, (i64)plan_bytes(packing_plan(t->held.pack)));
    if (t->sum) p->optimizer += values;
    if (t->best) p->optimizer += values;
    usize highest = t->base + values + metric;
    highest = highest > steps ? highest : steps;
    plan_total(p, t->m, highest > t->peak ? highest : t->peak);
    return OK;
}

err train_loop(model *m, pool *threads, const tune_data *train, const tune_data *held, const char *out, const train_opts *o, void (*each)(void *, const train_step *), void *ctx, train_report *r)
{
    trainer t = {.m = m, .threads = threads, .o = o, .out = out, .each = each, .ctx = ctx, .lock = -1, .base = mem_now(), .judged = NAN};
    err bad = prepare(&t, train, held);
    r->trainable = way_count(&t.set);
    if (!bad.code) bad = planned(&t, &r->plan);
    mem_peak_reset(); /* plans that did not fit, and that of the scores, were never touched */
    if (bad.code || o->plan_only) return finish(&t), bad;
    bad = resume(&t, r);
    if (!bad.code) {
        t.started = t.saved = clock_s();
        if (!t.at.done) bad = loop(&t, r);
    }
    if (!bad.code) {
        r->tokens = t.at.tokens, r->steps = t.at.step, r->train_loss = t.at.train_loss, r->seconds = t.at.seconds;
        r->tokens_per_s = t.at.seconds > 0 ? (double)t.at.tokens / t.at.seconds : 0;
        r->eval_loss = t.judged;
        if (held && t.judged_at != t.at.step) bad = evaluate(&t, &r->eval_loss);
    }
    drop_steps(&t);
    if (!bad.code) bad = train_artifact(m, &t.set, o, train, out, r);
    if (!bad.code) bad = train_effect(m, threads, &t.set, train, &r->effect);
    if (!bad.code && held) bad = train_metric(m, threads, &t.set, FEATURE_LAST, train, held, r);
    r->peak_bytes = t.peak + m->mapped_bytes;
    finish(&t);
    return bad;
}
