/* tune/run.c - around the trainer: what a run is (its configuration), what it leaves (the artifact), how good that is on held-out rows. */
#include "tune/inside.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

err tune_config(const model *m, const train_opts *o, const tune_data *d, i64 rows, char **out)
{
    char way[32], id[65], data[24];
    tune_way_name(o->way, way);
    sha256_hex(m->id, id);
    snprintf(data, sizeof data, "%016llx", (unsigned long long)d->hash);
    double lr = o->lr > 0 ? o->lr : way_rate(o->way);
    json_t *j = json_pack("{s:s,s:s,s:s,s:f,s:i,s:f,s:f,s:f,s:I,s:I,s:I,s:I,s:s,s:f,s:f,s:f,s:i,s:s,s:I,s:I,s:I,s:i,s:s,s:s}", "way", way, "model", id, "data", data, "lr", lr, "schedule", (int)o->schedule, "warmup",
                          o->warmup, "weight_decay", o->weight_decay, "clip", o->clip, "epochs", (json_int_t)o->epochs, "steps", (json_int_t)o->most_steps, "batch_rows", (json_int_t)rows, "accumulate",
                          (json_int_t)i64_max(o->accumulate, 1), "targets", o->targets ? o->targets : "all", "alpha", o->alpha, "dropout", o->dropout, "lora_plus", o->lora_plus, "rslora", o->rslora, "features",
                          feature_name(o->features), "seed", (json_int_t)o->seed, "eval_every", (json_int_t)o->eval_every, "patience", (json_int_t)o->patience, "reference", (int)cpu_reference(), "rank_pattern", o->rank_pattern ? o->rank_pattern : "", "alpha_pattern", o->alpha_pattern ? o->alpha_pattern : "");
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(17) | JSON_SORT_KEYS) : NULL;
    *out = text ? mem_strdup(text) : NULL;
    free(text);
    json_decref(j);
    return *out ? OK : err_new(ERR_NOMEM, "out of memory for a run's configuration");
}

/* ---- the artifact ---- */

static char *keep_text(adapter_file *a, const char *s) { return s ? arena_str(a->own, s, strlen(s)) : NULL; }

static err labels_into(adapter_file *a, const tune_data *d)
{
    if (!d->n_labels) return OK;
    a->label = arena_take(a->own, sizeof *a->label * d->n_labels);
    if (!a->label) return err_new(ERR_NOMEM, "out of memory for labels");
    for (usize i = 0; i < d->n_labels; i++) {
        a->label[i].label = arena_str(a->own, d->label[i].name.p, d->label[i].name.n);
        a->label[i].words = arena_str(a->own, d->label[i].word.p, d->label[i].word.n);
        if (!a->label[i].label || !a->label[i].words) return err_new(ERR_NOMEM, "out of memory for labels");
    }
    a->n_labels = d->n_labels;
    a->text_form = keep_text(a, d->template);
    return OK;
}

static err folder_bytes(void *ctx, const char *path)
{
    const char *name = strrchr(path, '/');
    i64 n;
    name = name ? name + 1 : path;
    if (!strcmp(name, "log.jsonl") || !strcmp(name, "curves.svg") || !strncmp(name, "state.", 6)) return OK; /* of the run, not of the artifact */
    TRY(file_size(path, &n));
    *(usize *)ctx += (usize)n;
    return OK;
}

err train_artifact(const model *m, const trained_set *set, const train_opts *o, const tune_data *d, const char *out, train_report *r)
{
    adapter_file *a;
    char way[64];
    tune_way_name(o->way, way);
    if (o->way.kind == WAY_FEATURES) snprintf(way, sizeof way, "features:%s", feature_name(o->features));
    TRY(adapter_of_trained(&a, m, set));
    a->way = keep_text(a, way);
    a->pool = eval_pool(m);
    err bad = labels_into(a, d);
    if (!bad.code) bad = folder_publish(a, out, m);
    if (!bad.code) bad = curves_write(out);
    adapter_free(a);
    r->artifact_bytes = 0;
    return bad.code ? bad : file_walk(out, folder_bytes, &r->artifact_bytes);
}

/* ---- how good ---- */

typedef struct { token_seq *text, *word; int *truth, *given; float *score; usize n; } rows_to_judge;

static err rows_take(rows_to_judge *x, const tune_data *train, const tune_data *held)
{
    usize n = held->n_samples, k = train->n_labels;
    *x = (rows_to_judge){mem_array(token_seq, n + 1), mem_array(token_seq, k + 1), mem_array(int, n + 1), mem_array(int, n + 1), mem_array(float, n * k + 1), n};
    if (!x->text || !x->word || !x->truth || !x->given || !x->score) return err_new(ERR_NOMEM, "out of memory for an evaluation");
    for (usize i = 0; i < train->n_samples; i++) { /* what the trainer learned as the label's word */
        const tune_sample *s = &train->sample[i];
        if (s->label >= 0 && !x->word[s->label].id) x->word[s->label] = (token_seq){train->id + s->at + s->n_prompt, (i64)(s->n - s->n_prompt)};
    }
    for (usize i = 0; i < n; i++) {
        const tune_sample *s = &held->sample[i];
        x->text[i] = (token_seq){held->id + s->at, (i64)s->n_prompt};
        x->truth[i] = -1;
        for (usize j = 0; j < k && s->label >= 0; j++)
            if (str_eq(train->label[j].name, held->label[s->label].name)) x->truth[i] = (int)j;
        if (x->truth[i] < 0) return err_new(ERR_INPUT, "%s:%u: its label was not in the training data", held->file[s->file].path, s->line);
    }
    return OK;
}

/* mean cross-entropy of scores, a classifier's before softmax */
static double loss_of(const float *score, const int *truth, usize n, usize k)
{
    double loss = 0;
    for (usize i = 0; i < n; i++) loss += (double)logits_lse(score + i * k, (i64)k) - (double)score[i * k + (usize)truth[i]];
    return n ? loss / (double)n : NAN;
}

err train_metric(const model *m, pool *threads, trained_set *set, feature_kind kind, const tune_data *train, const tune_data *held, train_report *r)
{
    rows_to_judge x;
    if (!train->n_labels || !held->n_labels) return OK;
    bool classifier = trained_find(set, TRAIN_CLASSES, "") != NULL;
    usize k = train->n_labels;
    err bad = rows_take(&x, train, held);
    if (!bad.code && classifier) bad = eval_classifier(m, threads, set, x.text, x.n, kind, x.score, NULL);
    else if (!bad.code) bad = eval_labels(m, threads, set, x.text, x.n, x.word, k, x.score, NULL);
    if (!bad.code) eval_best(x.score, x.n, k, x.given);
    if (!bad.code) bad = eval_classes(x.truth, x.given, x.n, (int)k, &r->metric);
    if (!bad.code && classifier) r->eval_loss = loss_of(x.score, x.truth, x.n, k);
    mem_free(x.text), mem_free(x.word), mem_free(x.truth), mem_free(x.given), mem_free(x.score);
    return bad;
}

err metric_memory(const model *m, pool *threads, trained_set *set, feature_kind kind, const tune_data *train, const tune_data *held, usize *bytes)
{
    rows_to_judge x;
    *bytes = 0;
    if (!held || !train->n_labels || !held->n_labels) return OK;
    bool classifier = trained_find(set, TRAIN_CLASSES, "") != NULL || train->o.head;
    usize before = mem_now(), rows = 0;
    err bad = rows_take(&x, train, held);
    rows = mem_now() - before;
    if (!bad.code) bad = eval_memory(m, threads, set, x.text, x.n, kind, classifier ? NULL : x.word, classifier ? 0 : train->n_labels, bytes);
    if (classifier) *bytes += sizeof(float) * (usize)feature_dim(m, kind) * x.n;
    *bytes += rows;
    mem_free(x.text), mem_free(x.word), mem_free(x.truth), mem_free(x.given), mem_free(x.score);
    return bad;
}

/* ---- what it does ---- */

static err probe(const model *m, pool *threads, trained_set *set, const i32 *id, i64 n, float *logits)
{
    backend *be = NULL;
    workspace *ws = NULL;
    packing *k = NULL;
    model_io io;
    i64 rows = packing_overhead(set) + n;
    err bad = backend_cpu(&be, threads);
    if (!bad.code) bad = workspace_new(&ws, be);
    if (!bad.code) bad = packing_open(&k, m, ws, &(batch_shape){.rows = rows, .outs = 1, .seqs = 1, .train = set, .exact = true}, false, &io);
    if (!bad.code) bad = packing_put(k, &io, &(packed_seq){.id = id, .n = n}, 1);
    if (!bad.code) bad = tensor_put(packing_plan(k), io.out_rows, (i32[]){(i32)rows - 1});
    if (!bad.code) bad = plan_run(packing_plan(k));
    if (!bad.code) bad = tensor_get(packing_plan(k), io.logits, logits);
    packing_close(k);
    workspace_free(ws);
    if (be) backend_close(be);
    return bad;
}

err train_effect(const model *m, pool *threads, trained_set *set, const tune_data *d, double *most)
{
    bool only_classes = true;
    *most = NAN;
    for (usize i = 0; i < set->n; i++) only_classes &= set->t[i].kind == TRAIN_CLASSES || set->t[i].kind == TRAIN_CLASSES_B;
    if (m->arch->encoder || only_classes || !d->n_samples) return OK;
    i64 vocab = m->h.n_vocab, n = i64_min(d->sample[0].n, 8);
    float *with = mem_array(float, 2 * vocab), *without = with + vocab;
    err bad = with ? probe(m, threads, set, d->id + d->sample[0].at, n, with) : err_new(ERR_NOMEM, "out of memory for a probe");
    if (!bad.code) bad = probe(m, threads, NULL, d->id + d->sample[0].at, n, without);
    if (!bad.code) *most = 0;
    for (i64 i = 0; !bad.code && i < vocab; i++) *most = fmax(*most, fabs((double)with[i] - (double)without[i]));
    mem_free(with);
    if (!bad.code && *most == 0) log_line(LOG_WARN, "what was trained changes no logit of the first sample: it may have no effect");
    return bad;
}

void plan_total(train_memory *p, const model *m, usize highest)
{
    usize parts = p->data + p->trained + p->optimizer + p->step;
    p->model = m->packed_bytes + m->mapped_bytes;
    p->total = highest + m->mapped_bytes;
    usize known = parts + p->model;
    if (known > p->total) p->total = known;
    p->rest = p->total - known;
}

err tune_train(model *m, pool *threads, const tune_data *train, const tune_data *held, const char *out, const train_opts *o, void (*each)(void *, const train_step *), void *ctx, train_report *r)
{
    bool frozen = o->way.kind == WAY_FEATURES || (o->way.kind == WAY_HEAD && train->n_labels);
    bool saved;
    memset(r, 0, sizeof *r);
    r->eval_loss = r->effect = NAN;
    TRY(tune_data_ready(train));
    if (held) TRY(tune_data_ready(held));
    if (!o->plan_only) TRY(folder_check(out, o, &saved)); /* before anything costs time */
    if (o->epochs < 1) return err_new(ERR_INPUT, "--epochs %lld: expected at least 1", (long long)o->epochs);
    if (o->dropout < 0 || o->dropout >= 1) return err_new(ERR_INPUT, "--dropout %g: expected 0 to less than 1", o->dropout);
    if (frozen && !train->n_labels) return err_new(ERR_INPUT, "--train features: expected rows of text and label");
    if (m->arch->encoder && !train->n_labels) return err_new(ERR_INPUT, "%s is an encoder: expected rows of text and label", m->arch->name);
    err bad = (frozen ? train_features : train_loop)(m, threads, train, held, out, o, each, ctx, r);
    r->planned_bytes = r->plan.total;
    if (mem_peak() + m->mapped_bytes > r->peak_bytes) r->peak_bytes = mem_peak() + m->mapped_bytes; /* train_loop saw what was before it */
    return bad;
}
