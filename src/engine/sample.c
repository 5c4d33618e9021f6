/* engine/sample.c - from logits to a token. The order is that of llama.cpp's default chain, so that settings mean the same:
 * penalty, top-k, top-p, min-p, temperature. Candidates are sorted only as far as the cuts need. */
#include "engine/engine.h"
#include <math.h>
#include <stdlib.h>

float logits_lse(const float *x, i64 n)
{
    float most = -INFINITY;
    for (i64 i = 0; i < n; i++)
        if (x[i] > most) most = x[i];
    double sum = 0;
    for (i64 i = 0; i < n; i++) sum += exp((double)(x[i] - most));
    return most + (float)log(sum);
}

static bool better(candidate a, candidate b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

static void sift(candidate *heap, int n, int at) /* the worst on top */
{
    for (;;) {
        int worst = at, l = 2 * at + 1;
        for (int c = l; c < n && c < l + 2; c++)
            if (better(heap[worst], heap[c])) worst = c;
        if (worst == at) return;
        candidate swap = heap[at];
        heap[at] = heap[worst];
        heap[worst] = swap;
        at = worst;
    }
}

void logits_top(const float *x, i64 n, int k, candidate *out)
{
    int have = 0;
    for (i64 i = 0; i < n; i++) {
        candidate c = {(i32)i, x[i]};
        if (have < k) {
            out[have++] = c;
            if (have == k)
                for (int j = k / 2; j >= 0; j--) sift(out, k, j);
        } else if (better(c, out[0])) {
            out[0] = c;
            sift(out, k, 0);
        }
    }
    for (int m = have; have == k && m > 1; m--) { /* heap sort leaves the best first */
        candidate swap = out[0];
        out[0] = out[m - 1];
        out[m - 1] = swap;
        sift(out, m - 1, 0);
    }
}

void sampler_init(sampler *s, const sample_opts *o)
{
    *s = (sampler){.o = *o};
    rng_seed(&s->r, o->seed);
}

void sampler_free(sampler *s)
{
    mem_free(s->c);
    s->c = NULL;
    s->cap = 0;
}

static float penalised(const sample_opts *o, float logit, i32 id, const i32 *recent, usize n)
{
    for (usize i = 0; i < n; i++)
        if (recent[i] == id) return logit > 0 ? logit / o->repeat_penalty : logit * o->repeat_penalty; /* Keskar et al. 2019 */
    return logit;
}

static i32 greedy(const sample_opts *o, const float *logits, i64 n, const i32 *recent, usize n_recent)
{
    candidate best = {0, -INFINITY};
    for (i64 i = 0; i < n; i++) {
        if (!(logits[i] >= best.logit) && !(o->repeat_penalty < 1)) continue; /* a penalty above 1 only lowers */
        candidate c = {(i32)i, n_recent ? penalised(o, logits[i], (i32)i, recent, n_recent) : logits[i]};
        if (better(c, best)) best = c;
    }
    return best.id;
}

static int by_logit(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    return better(*x, *y) ? -1 : better(*y, *x) ? 1 : 0;
}

err sampler_pick(sampler *s, const float *logits, i64 n, const i32 *recent, usize n_recent, i32 *id)
{
    const sample_opts *o = &s->o;
    usize              last = o->repeat_last > 0 ? (usize)o->repeat_last : 64;
    if (n_recent > last) recent += n_recent - last, n_recent = last;
    if (o->repeat_penalty == 1 || o->repeat_penalty <= 0) n_recent = 0;
    if (o->temp <= 0) {
        *id = greedy(o, logits, n, recent, n_recent);
        return OK;
    }
    if (!vec_grow((void **)&s->c, &s->cap, (usize)n, sizeof *s->c)) return err_new(ERR_NOMEM, "out of memory while sampling");
    for (i64 i = 0; i < n; i++) s->c[i] = (candidate){(i32)i, n_recent ? penalised(o, logits[i], (i32)i, recent, n_recent) : logits[i]};
    qsort(s->c, (usize)n, sizeof *s->c, by_logit);
    i64 keep = o->top_k > 0 ? i64_min(o->top_k, n) : n;
    if (o->top_p < 1 && o->top_p > 0) {
        double sum = 0, run = 0;
        i64    k = 0;
        for (i64 i = 0; i < keep; i++) sum += exp((double)(s->c[i].logit - s->c[0].logit));
        while (k < keep && run < o->top_p * sum) run += exp((double)(s->c[k++].logit - s->c[0].logit));
        keep = i64_max(k, 1);
    }
    if (o->min_p > 0)
        while (keep > 1 && s->c[keep - 1].logit < s->c[0].logit + logf(o->min_p)) keep--;
    double sum = 0, run = 0;
    for (i64 i = 0; i < keep; i++) sum += exp((double)(s->c[i].logit - s->c[0].logit) / o->temp);
    double at = rng_unit(&s->r) * sum;
    i64    k = 0;
    for (; k < keep - 1; k++) {
        run += exp((double)(s->c[k].logit - s->c[0].logit) / o->temp);
        if (run > at) break;
    }
    *id = s->c[k].id;
    return OK;
}
