/* tune/features.c - learning on a transformer that stays as it is: every text goes through once, then a classification layer is fitted to
 * what came out, to its one optimum (the problem is convex): L-BFGS (Liu & Nocedal 1989) on the mean cross-entropy with an L2 penalty.
 *   features   standardised outputs of the chosen blocks, a new layer; the standardisation is folded into the layer that is kept
 *   head       the last block's output as the language head sees it; the layer starts as the head's rows of the label words, and the
 *              penalty holds it near them, so that few rows cannot spoil what the model already knows
 * The penalty is that of C = 0.05 in the usual logistic regression. */
#include "tune/inside.h"
#include <math.h>

static const err no_memory = {ERR_NOMEM, "out of memory for features"};
enum { MEMORY = 8, ITERATIONS = 200 };
static const double C = 0.05;

typedef struct {
    i64 n, d, k;                            /* rows, features, classes */
    const float *x;                         /* [d,n] */
    const int *y;
    const double *w0;                       /* [(d+1)*k] where the penalty is zero; the bias of class c is w[c*(d+1)+d] and free */
    double *g;                              /* gradient of the last value */
    double *part;                           /* [threads, 1 + (d+1)*k] */
    const double *w;
    pool *threads;
} problem;

static void value_part(void *ctx, int thread, int n_threads)
{
    problem *p = ctx;
    i64 size = (p->d + 1) * p->k, from, to;
    double *g = p->part + (i64)thread * (1 + size), z[256];
    memset(g, 0, sizeof *g * (usize)(1 + size));
    part(p->n, thread, n_threads, &from, &to);
    for (i64 i = from; i < to; i++) {
        const float *x = p->x + i * p->d;
        double most = -INFINITY, sum = 0;
        for (i64 c = 0; c < p->k; c++) {
            const double *w = p->w + c * (p->d + 1);
            double s = w[p->d];
            for (i64 j = 0; j < p->d; j++) s += w[j] * (double)x[j];
            z[c] = s;
            most = fmax(most, s);
        }
        for (i64 c = 0; c < p->k; c++) sum += exp(z[c] - most);
        g[0] += most + log(sum) - z[p->y[i]];
        for (i64 c = 0; c < p->k; c++) {
            double e = exp(z[c] - most) / sum - (c == p->y[i]);
            double *to_g = g + 1 + c * (p->d + 1);
            for (i64 j = 0; j < p->d; j++) to_g[j] += e * (double)x[j];
            to_g[p->d] += e;
        }
    }
}

/* mean cross-entropy and penalty; the gradient in p->g */
static double value(problem *p, const double *w)
{
    i64 size = (p->d + 1) * p->k;
    double f = 0, each = 1 / (double)p->n, penalty = each / C;
    p->w = w;
    pool_run(p->threads, value_part, p);
    memset(p->g, 0, sizeof *p->g * (usize)size);
    for (int t = 0; t < pool_threads(p->threads); t++) { /* a sum over fixed parts: equal for a number of threads, as close as doubles for others */
        const double *q = p->part + (i64)t * (1 + size);
        f += q[0] * each;
        for (i64 i = 0; i < size; i++) p->g[i] += q[1 + i] * each;
    }
    for (i64 i = 0; i < size; i++) {
        if (i % (p->d + 1) == p->d) continue;
        double off = w[i] - p->w0[i];
        f += 0.5 * penalty * off * off;
        p->g[i] += penalty * off;
    }
    return f;
}

static double dot(const double *a, const double *b, i64 n)
{
    double s = 0;
    for (i64 i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

/* the direction: two loops over the last steps s and changes of gradient y */
static void direction(double *q, const double *g, double (*rho)[MEMORY], double *const *s, double *const *y, int have, int next, i64 n)
{
    double a[MEMORY], scale = 1;
    memcpy(q, g, sizeof *q * (usize)n);
    for (int i = 1; i <= have; i++) {
        int at = (next - i + MEMORY) % MEMORY;
        a[at] = (*rho)[at] * dot(s[at], q, n);
        for (i64 j = 0; j < n; j++) q[j] -= a[at] * y[at][j];
        if (i == 1) scale = 1 / ((*rho)[at] * dot(y[at], y[at], n));
    }
    for (i64 j = 0; j < n; j++) q[j] *= scale;
    for (int i = have; i >= 1; i--) {
        int at = (next - i + MEMORY) % MEMORY;
        double b = (*rho)[at] * dot(y[at], q, n);
        for (i64 j = 0; j < n; j++) q[j] += (a[at] - b) * s[at][j];
    }
}

static err minimise(problem *p, double *w, i64 *iterations)
{
    i64 n = (p->d + 1) * p->k;
    double *all = mem_array(double, n * (2 * MEMORY + 4)), *s[MEMORY], *y[MEMORY], rho[MEMORY];
    if (!all) return no_memory;
    for (int i = 0; i < MEMORY; i++) s[i] = all + i * n, y[i] = all + (MEMORY + i) * n;
    double *g = all + 2 * MEMORY * n, *q = g + n, *trial = q + n;
    double f = value(p, w);
    int have = 0, next = 0;
    memcpy(g, p->g, sizeof *g * (usize)n);
    for (*iterations = 0; *iterations < ITERATIONS; ++*iterations) {
        direction(q, g, &rho, s, y, have, next, n);
        double slope = -dot(q, g, n), step = have ? 1 : 1 / fmax(1, sqrt(dot(g, g, n))), f_new = f;
        if (slope > -1e-12) break;
        for (int tries = 0; tries < 30; tries++, step *= 0.5) { /* backtracking: sufficient decrease */
            for (i64 j = 0; j < n; j++) trial[j] = w[j] - step * q[j];
            f_new = value(p, trial);
            if (f_new <= f + 1e-4 * step * slope) break;
        }
        if (!(f_new < f)) break;
        for (i64 j = 0; j < n; j++) s[next][j] = trial[j] - w[j], y[next][j] = p->g[j] - g[j];
        double sy = dot(s[next], y[next], n);
        memcpy(w, trial, sizeof *w * (usize)n);
        memcpy(g, p->g, sizeof *g * (usize)n);
        bool small = f - f_new < 1e-9 * fmax(1, fabs(f));
        f = f_new;
        if (sy > 1e-12) {
            rho[next] = 1 / sy;
            next = (next + 1) % MEMORY;
            have += have < MEMORY;
        }
        if (small) break;
    }
    mem_free(all);
    return OK;
}

/* ---- around it ---- */

static err features_of(const model *m, pool *threads, const tune_data *d, feature_kind kind, float **out, const char *what, bool quiet)
{
    progress p;
    token_seq *seq = mem_array(token_seq, d->n_samples + 1);
    *out = mem_array(float, feature_dim(m, kind) * (i64)d->n_samples + 1);
    if (!seq || !*out) return mem_free(seq), no_memory;
    for (usize i = 0; i < d->n_samples; i++) seq[i] = (token_seq){d->id + d->sample[i].at, (i64)d->sample[i].n_prompt};
    if (!quiet) progress_start(&p, what, (i64)d->n_samples);
    err bad = eval_features(m, threads, NULL, seq, d->n_samples, kind, *out, quiet ? NULL : &p);
    if (!quiet) progress_end(&p);
    mem_free(seq);
    return bad;
}

typedef struct { double *mean, *by; } standard; /* x' = (x - mean) * by */

static err standardise(float *x, i64 n, i64 d, standard *s)
{
    *s = (standard){mem_array(double, d), mem_array(double, d)};
    if (!s->mean || !s->by) return no_memory;
    for (i64 i = 0; i < n; i++)
        for (i64 j = 0; j < d; j++) s->mean[j] += (double)x[i * d + j] / (double)n;
    for (i64 i = 0; i < n; i++)
        for (i64 j = 0; j < d; j++) s->by[j] += ((double)x[i * d + j] - s->mean[j]) * ((double)x[i * d + j] - s->mean[j]) / (double)n;
    for (i64 j = 0; j < d; j++) s->by[j] = 1 / (sqrt(s->by[j]) + 1e-6);
    for (i64 i = 0; i < n; i++)
        for (i64 j = 0; j < d; j++) x[i * d + j] = (float)(((double)x[i * d + j] - s->mean[j]) * s->by[j]);
    return OK;
}

/* the language head's rows of the labels' first tokens */
static err label_rows(const model *m, const tune_data *d, double *w0)
{
    i64 width = m->h.width;
    float *row = mem_array(float, width);
    bool *have = mem_array(bool, d->n_labels + 1);
    err bad = row && have ? OK : no_memory;
    for (usize i = 0; !bad.code && i < d->n_samples; i++) {
        const tune_sample *s = &d->sample[i];
        if (s->label < 0 || have[s->label] || s->n <= s->n_prompt) continue;
        have[s->label] = true;
        weight_decode(m->head.type, m->head.lay, m->head.k, m->head.data, d->id[s->at + s->n_prompt], 1, row);
        for (i64 j = 0; j < width; j++) w0[(i64)s->label * (width + 1) + j] = (double)row[j];
    }
    mem_free(row), mem_free(have);
    return bad;
}

static err set_of(trained_set *set, i64 d, i64 k, const double *w, const standard *s)
{
    set->t = mem_array(trained, 2);
    if (!set->t) return no_memory;
    set->n = 2;
    set->t[0] = (trained){.kind = TRAIN_CLASSES, .k = d, .n = k, .data = mem_array(float, d * k)};
    set->t[1] = (trained){.kind = TRAIN_CLASSES_B, .k = k, .n = 1, .data = mem_array(float, k)};
    if (!set->t[0].data || !set->t[1].data) return no_memory;
    for (i64 c = 0; c < k; c++) {
        double bias = w[c * (d + 1) + d];
        for (i64 j = 0; j < d; j++) {
            double v = w[c * (d + 1) + j] * (s->by ? s->by[j] : 1);
            set->t[0].data[c * d + j] = (float)v;
            bias -= s->mean ? v * s->mean[j] : 0;
        }
        set->t[1].data[c] = (float)bias;
    }
    return OK;
}

/* the highest of: texts in the model, the fit, scores of held-out rows */
static err planned(model *m, pool *threads, const tune_data *d, const tune_data *held, feature_kind kind, train_report *r)
{
    usize n = d->n_samples, dim = (usize)feature_dim(m, kind), k = d->n_labels, size = (dim + 1) * k, base = mem_now(), run, metric;
    usize kept = sizeof(float) * dim * n + sizeof(int) * n + sizeof(double) * (3 * size + (1 + size) * (usize)pool_threads(threads) + 2 * dim);
    usize steps = sizeof(double) * size * (2 * MEMORY + 4), texts = sizeof(token_seq) * n;
    token_seq *seq = mem_array(token_seq, n + 1);
    if (!seq) return no_memory;
    for (usize i = 0; i < n; i++) seq[i] = (token_seq){d->id + d->sample[i].at, (i64)d->sample[i].n_prompt};
    err bad = eval_memory(m, threads, NULL, seq, n, kind, NULL, 0, &run);
    mem_free(seq);
    TRY(bad);
    trained classes[2] = {{.kind = TRAIN_CLASSES, .k = (i64)dim, .n = (i64)k}, {.kind = TRAIN_CLASSES_B, .k = (i64)k, .n = 1}};
    TRY(metric_memory(m, threads, &(trained_set){classes, 2}, kind, d, held, &metric));
    usize most = kept + (steps > texts + run ? steps : texts + run);
    most = most > size * sizeof(float) + metric ? most : size * sizeof(float) + metric;
    most += base + (256 << 10);
    r->trainable = (i64)size;
    r->plan = (train_memory){.data = base - m->packed_bytes, .trained = sizeof(float) * size, .step = kept + run};
    plan_total(&r->plan, m, most > mem_peak() ? most : mem_peak());
    return OK;
}

static err fit(model *m, pool *threads, const tune_data *d, const train_opts *o, feature_kind kind, bool head, trained_set *set, train_report *r)
{
    i64 dim = feature_dim(m, kind), k = (i64)d->n_labels, size = (dim + 1) * k, iterations = 0;
    float *x = NULL;
    standard s = {0};
    int *y = mem_array(int, d->n_samples + 1);
    double *w = mem_array(double, 3 * size), *w0 = w + size, *part_of = mem_array(double, (1 + size) * pool_threads(threads));
    err bad = y && w && part_of ? OK : no_memory;
    if (k > 256) bad = err_new(ERR_UNSUPPORTED, "%lld labels: a classification layer takes at most 256", (long long)k);
    if (!bad.code) bad = features_of(m, threads, d, kind, &x, L("특징", "features"), o->quiet);
    if (!bad.code && !head) bad = standardise(x, (i64)d->n_samples, dim, &s);
    if (!bad.code && head && !m->arch->encoder && !d->o.head) bad = label_rows(m, d, w0);
    for (usize i = 0; !bad.code && i < d->n_samples; i++) y[i] = d->sample[i].label, r->tokens += d->sample[i].n_prompt;
    if (!bad.code) {
        problem p = {(i64)d->n_samples, dim, k, x, y, w0, w + 2 * size, part_of, NULL, threads};
        memcpy(w, w0, sizeof *w * (usize)size);
        bad = minimise(&p, w, &iterations);
        r->train_loss = value(&p, w);
        r->steps = iterations;
    }
    if (!bad.code) bad = set_of(set, dim, k, w, &s);
    mem_free(x), mem_free(y), mem_free(w), mem_free(part_of), mem_free(s.mean), mem_free(s.by);
    return bad;
}

err train_features(model *m, pool *threads, const tune_data *d, const tune_data *held, const char *out, const train_opts *o, train_each *each, void *ctx, train_report *r)
{
    trained_set set = {0};
    tune_log *log = NULL;
    int lock = -1;
    bool saved;
    bool head = o->way.kind == WAY_HEAD;
    feature_kind kind = head ? FEATURE_LAST : o->features;
    double start = clock_s();
    TRY(planned(m, threads, d, held, kind, r));
    if (o->plan_only) return OK;
    err bad = fit(m, threads, d, o, kind, head, &set, r);
    r->seconds = clock_s() - start;
    r->tokens_per_s = (double)r->tokens / r->seconds;
    r->trainable = way_count(&set);
    if (!bad.code && held) bad = train_metric(m, threads, &set, kind, d, held, r);
    if (!bad.code) bad = folder_take(out, o, &lock, &saved);
    if (!bad.code) bad = tune_log_open(&log, out, 0);
    train_step s = {.step = 1, .steps = 1, .epoch = 1, .loss = r->train_loss, .eval_loss = r->eval_loss, .tokens = r->tokens, .targets = (i64)d->n_samples};
    if (!bad.code) bad = tune_log_step(log, &s, r->seconds);
    tune_log_close(log);
    if (!bad.code && each) each(ctx, &s);
    if (!bad.code) bad = train_artifact(m, &set, o, d, out, r);
    file_unlock(lock);
    way_free(&set);
    return bad;
}
