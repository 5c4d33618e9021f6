/* eval/score.c - features of texts, scores of a classifier, likelihoods of label words. Texts are sorted by length and packed into
 * batches of a fixed number of rows, so that one plan serves all; a text's numbers do not depend on its neighbours. */
#include "eval/eval.h"
#include <stdlib.h>

enum { ROWS = 512, SEQS = 32 };
static const err no_memory = {ERR_NOMEM, "out of memory while scoring texts"};

static const char *const names[] = {"last", "second", "mean4", "concat4"};

err feature_parse(const char *word, feature_kind *out)
{
    for (usize i = 0; i < COUNT_OF(names); i++)
        if (!strcmp(word, names[i])) return *out = (feature_kind)i, OK;
    return err_new(ERR_INPUT, "--features %s: expected last, second, mean4 or concat4", word);
}

const char *feature_name(feature_kind k) { return names[k]; }
i64 feature_dim(const model *m, feature_kind k) { return m->h.width * (k == FEATURE_CONCAT4 ? i64_min(4, m->h.n_layer) : 1); }
pool_kind eval_pool(const model *m) { return m->arch->encoder ? m->h.pooling : POOL_LAST; }

/* ---- batches ---- */

typedef struct {
    const token_seq *seq;
    u32   *order;                           /* [n] by length, the longest first: the first batch takes the most memory */
    usize  n, at;
    i64    rows, more;
    backend   *be;
    workspace *ws;
    packing   *pack;
    model_io   io;
} run;

static _Thread_local const token_seq *by;

static int longer(const void *a, const void *b)
{
    u32 x = *(const u32 *)a, y = *(const u32 *)b;
    return by[x].n != by[y].n ? (by[x].n > by[y].n ? -1 : 1) : (x > y) - (x < y);
}

static void run_close(run *r)
{
    packing_close(r->pack);
    workspace_free(r->ws);
    if (r->be) backend_close(r->be);
    mem_free(r->order);
}

static err run_open(run *r, const model *m, pool *threads, const token_seq *seq, usize n, batch_shape s)
{
    *r = (run){.seq = seq, .n = n, .rows = ROWS, .order = mem_array(u32, n + 1), .more = packing_overhead(s.train)};
    if (!r->order) return no_memory;
    for (usize i = 0; i < n; i++) {
        r->order[i] = (u32)i;
        if (seq[i].n < 1) return err_new(ERR_INPUT, "text %zu has no tokens", i + 1);
        if (seq[i].n + r->more > m->h.n_ctx) return err_new(ERR_INPUT, "text %zu has %lld tokens, the model's context %lld", i + 1, (long long)(seq[i].n + r->more), (long long)m->h.n_ctx);
        r->rows = i64_max(r->rows, seq[i].n + r->more);
    }
    by = seq;
    qsort(r->order, n, sizeof *r->order, longer);
    s.rows = r->rows, s.seqs = SEQS;
    TRY(backend_cpu(&r->be, threads));
    TRY(workspace_new(&r->ws, r->be));
    return packing_open(&r->pack, m, r->ws, &s, false, &r->io);
}

/* runs the next batch; *k texts: order[at - k .. at) */
static err run_next(run *r, usize *k)
{
    packed_seq q[SEQS];
    i64 rows = 0;
    *k = 0;
    for (; r->at < r->n && *k < SEQS; r->at++, ++*k) {
        const token_seq *t = &r->seq[r->order[r->at]];
        if (rows + t->n + r->more > r->rows) break;
        rows += t->n + r->more;
        q[*k] = (packed_seq){.id = t->id, .n = t->n, .klass = -1};
    }
    if (!*k) return OK;
    TRY(packing_put(r->pack, &r->io, q, (int)*k));
    return OK;
}

static void step_of(progress *p, const run *r)
{
    if (p) progress_step(p, (i64)r->at);
}

/* ---- features ---- */

static err features_batch(run *r, feature_kind kind, i64 n_layers, i64 width, usize k, float *buffer, float *out)
{
    i64 dim = width * (kind == FEATURE_CONCAT4 ? n_layers : 1), from = kind == FEATURE_SECOND ? 1 : 0;
    for (i64 f = from; f < n_layers; f++) {
        TRY(tensor_get(packing_plan(r->pack), r->io.feature[f], buffer));
        for (usize i = 0; i < k; i++) {
            float *to = out + (i64)r->order[r->at - k + i] * dim + (kind == FEATURE_CONCAT4 ? f * width : 0);
            for (i64 j = 0; j < width; j++) to[j] = kind == FEATURE_MEAN4 ? to[j] + buffer[(i64)i * width + j] / (float)n_layers : buffer[(i64)i * width + j];
        }
    }
    return OK;
}

err eval_features(const model *m, pool *threads, trained_set *set, const token_seq *seq, usize n, feature_kind kind, float *out, progress *p)
{
    run r;
    i64 layers = kind == FEATURE_LAST ? 1 : kind == FEATURE_SECOND ? 2 : 4, width = m->h.width;
    layers = i64_min(layers, m->h.n_layer);
    float *buffer = mem_array(float, width * SEQS);
    err bad = run_open(&r, m, threads, seq, n, (batch_shape){.features = layers, .pool = eval_pool(m), .train = set});
    if (!bad.code && !buffer) bad = no_memory;
    memset(out, 0, sizeof *out * (usize)feature_dim(m, kind) * n);
    for (usize k; !bad.code && r.at < n;) {
        bad = run_next(&r, &k);
        if (!bad.code) bad = plan_run(packing_plan(r.pack));
        if (!bad.code) bad = features_batch(&r, kind, layers, width, k, buffer, out);
        step_of(p, &r);
    }
    run_close(&r);
    mem_free(buffer);
    return bad;
}

err eval_classifier(const model *m, pool *threads, trained_set *set, const token_seq *seq, usize n, feature_kind kind, float *scores, progress *p)
{
    const trained *w = trained_find(set, TRAIN_CLASSES, ""), *bias = trained_find(set, TRAIN_CLASSES_B, "");
    i64 d = feature_dim(m, kind);
    if (!w) return err_new(ERR_INPUT, "the adapter has no classifier");
    if (w->k != d) return err_new(ERR_FORMAT, "the classifier takes %lld features, \"%s\" of this model gives %lld", (long long)w->k, feature_name(kind), (long long)d);
    float *x = mem_array(float, d * (i64)n + 1);
    err bad = x ? eval_features(m, threads, set, seq, n, kind, x, p) : no_memory;
    for (i64 i = 0; !bad.code && i < (i64)n; i++)
        for (i64 c = 0; c < w->n; c++) {
            double z = bias ? (double)bias->data[c] : 0;
            for (i64 j = 0; j < d; j++) z += (double)w->data[c * d + j] * (double)x[i * d + j];
            scores[i * w->n + c] = (float)z;
        }
    mem_free(x);
    return bad;
}

/* ---- label words ---- */

/* Labels of one token each need one pass over the texts: their probabilities stand in the last row. */
static err labels_of_one(const model *m, pool *threads, trained_set *set, const token_seq *text, usize n, const token_seq *label, usize n_labels, float *scores, progress *p)
{
    run r;
    i64 vocab = m->h.n_vocab;
    err bad = run_open(&r, m, threads, text, n, (batch_shape){.outs = SEQS, .train = set});
    float *logits = mem_array(float, vocab * SEQS);
    if (!bad.code && !logits) bad = no_memory;
    for (usize k; !bad.code && r.at < n;) {
        i32 row[SEQS];
        i64 at = 0;
        bad = run_next(&r, &k);
        for (usize i = 0; i < SEQS; i++) {
            row[i] = -1;
            if (i >= k) continue;
            at += r.more + text[r.order[r.at - k + i]].n;
            row[i] = (i32)at - 1;
        }
        if (!bad.code) bad = tensor_put(packing_plan(r.pack), r.io.out_rows, row);
        if (!bad.code) bad = plan_run(packing_plan(r.pack));
        if (!bad.code) bad = tensor_get(packing_plan(r.pack), r.io.logits, logits);
        for (usize i = 0; !bad.code && i < k; i++) {
            const float *l = logits + (i64)i * vocab;
            float all = logits_lse(l, vocab);
            for (usize j = 0; j < n_labels; j++) scores[r.order[r.at - k + i] * n_labels + j] = l[label[j].id[0]] - all;
        }
        step_of(p, &r);
    }
    run_close(&r);
    mem_free(logits);
    return bad;
}

/* text and label as one sequence, for each label */
static err labels_of_many(const model *m, pool *threads, trained_set *set, const token_seq *text, usize n, const token_seq *label, usize n_labels, float *scores, progress *p)
{
    run r = {0};
    usize total = 0, pairs = n * n_labels;
    for (usize i = 0; i < pairs; i++) total += (usize)(text[i / n_labels].n + label[i % n_labels].n);
    i32 *id = mem_array(i32, 2 * total + 1), *want = id ? id + total : NULL;
    float *one = mem_array(float, total + 1), *nll = NULL;
    token_seq *seq = mem_array(token_seq, pairs + 1);
    err bad = id && one && seq ? OK : no_memory;
    usize at = 0;
    for (usize i = 0; !bad.code && i < pairs; i++) {
        const token_seq *t = &text[i / n_labels], *w = &label[i % n_labels];
        seq[i] = (token_seq){id + at, t->n + w->n};
        memcpy(id + at, t->id, sizeof *id * (usize)t->n);
        memcpy(id + at + t->n, w->id, sizeof *id * (usize)w->n);
        for (i64 j = 0; j < seq[i].n; j++) want[(i64)at + j] = j >= t->n - 1 && j + 1 < seq[i].n ? id[(i64)at + j + 1] : -1;
        at += (usize)seq[i].n;
    }
    if (!bad.code) bad = run_open(&r, m, threads, seq, pairs, (batch_shape){.loss = LOSS_TOKENS, .train = set});
    if (!bad.code && !(nll = mem_array(float, r.rows))) bad = no_memory;
    while (!bad.code && r.at < pairs) {
        packed_seq q[SEQS];
        usize k = 0;
        i64 rows = 0;
        for (; r.at < pairs && k < SEQS && rows + r.more + seq[r.order[r.at]].n <= r.rows; r.at++, k++) {
            const token_seq *t = &seq[r.order[r.at]];
            rows += r.more + t->n;
            q[k] = (packed_seq){.id = t->id, .n = t->n, .want = want + (t->id - id), .weight = one};
        }
        bad = packing_put(r.pack, &r.io, q, (int)k);
        if (!bad.code) bad = plan_run(packing_plan(r.pack));
        if (!bad.code) bad = tensor_get(packing_plan(r.pack), r.io.nll, nll);
        rows = 0;
        for (usize i = 0; !bad.code && i < k; i++) {
            u32 which = r.order[r.at - k + i];
            double sum = 0;
            for (i64 j = 0; j < q[i].n; j++) sum += (double)nll[rows + r.more + j];
            scores[which] = (float)(-sum / (double)label[which % n_labels].n);
            rows += r.more + q[i].n;
        }
        if (p) progress_step(p, (i64)(r.at / n_labels));
    }
    run_close(&r);
    mem_free(id), mem_free(one), mem_free(seq), mem_free(nll);
    return bad;
}

err eval_labels(const model *m, pool *threads, trained_set *set, const token_seq *text, usize n, const token_seq *label, usize n_labels, float *scores, progress *p)
{
    bool single = true;
    for (usize j = 0; j < n_labels; j++) {
        if (label[j].n < 1) return err_new(ERR_INPUT, "label %zu has no tokens", j + 1);
        single &= label[j].n == 1;
    }
    return single ? labels_of_one(m, threads, set, text, n, label, n_labels, scores, p) : labels_of_many(m, threads, set, text, n, label, n_labels, scores, p);
}

err eval_memory(const model *m, pool *threads, trained_set *set, const token_seq *seq, usize n, feature_kind kind, const token_seq *label, usize n_labels, usize *bytes)
{
    run r;
    i64 layers = kind == FEATURE_LAST ? 1 : kind == FEATURE_SECOND ? 2 : 4;
    usize before = mem_now(), beside = sizeof(float) * SEQS * (usize)m->h.width, pairs = label ? n * n_labels : 0, longest = 0, rest = 0;
    for (usize i = 0; label && i < n_labels; i++) longest = (usize)i64_max((i64)longest, label[i].n);
    token_seq *both = mem_array(token_seq, pairs + 1);
    if (!both) return no_memory;
    batch_shape s = {.train = set, .pool = eval_pool(m), .features = label ? 0 : i64_min(layers, m->h.n_layer)};
    if (label && longest == 1) s.outs = SEQS, beside = sizeof(float) * SEQS * (usize)m->h.n_vocab;
    for (usize i = 0; longest > 1 && i < pairs; i++) both[i].n = seq[i / n_labels].n + label[i % n_labels].n, rest += (usize)both[i].n;
    if (longest > 1) s.loss = LOSS_TOKENS, s.outs = 0;
    err bad = longest > 1 ? run_open(&r, m, threads, both, pairs, s) : run_open(&r, m, threads, seq, n, s);
    if (longest > 1) beside = 3 * sizeof(float) * rest + sizeof *both * pairs + sizeof(float) * (usize)r.rows;
    mem_free(both);
    *bytes = mem_now() - before + beside;
    run_close(&r);
    return bad;
}

void eval_best(const float *scores, usize n, usize n_labels, int *given)
{
    for (usize i = 0; i < n; i++) {
        given[i] = 0;
        for (usize j = 1; j < n_labels; j++)
            if (scores[i * n_labels + j] > scores[i * n_labels + (usize)given[i]]) given[i] = (int)j;
    }
}
