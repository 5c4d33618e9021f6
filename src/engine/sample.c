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

static void heap_sort(candidate *heap, int n) /* leaves the best first */
{
    for (int m = n; m > 1; m--) {
        candidate swap = heap[0];
        heap[0] = heap[m - 1];
        heap[m - 1] = swap;
        sift(heap, m - 1, 0);
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
    if (have == k) heap_sort(out, k);
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

/* Candidates in order, best first, but sorted only as far as somebody looked: a vocabulary has a quarter of a million tokens and a
 * choice is made among the first few. */
typedef struct { candidate *c; i64 n, sorted; } order;

static void order_to(order *o, i64 want)
{
    candidate *c = o->c + o->sorted;
    i64        n = o->n - o->sorted, m = i64_min(want, o->n) - o->sorted;
    if (m <= 0) return;
    if (m == n) qsort(c, (usize)n, sizeof *c, by_logit);
    for (i64 j = m / 2; j >= 0 && m < n; j--) sift(c, (int)m, (int)j);
    for (i64 i = m; i < n; i++) {
        if (!better(c[i], c[0])) continue;
        candidate swap = c[0];
        c[0] = c[i];
        c[i] = swap;
        sift(c, (int)m, 0);
    }
    if (m < n) heap_sort(c, (int)m);
    o->sorted += m;
}

static candidate nth(order *o, i64 i)
{
    if (i >= o->sorted) order_to(o, i < 256 ? 256 : i < 4096 ? 4096 : o->n);
    return o->c[i];
}

static double share_sum(const order *o, i64 keep, float most, double temp) /* all of them, or the first, which are sorted then */
{
    double sum = 0;
    for (i64 i = 0; i < keep; i++) sum += exp((double)(o->c[i].logit - most) / temp);
    return sum;
}

/* how many candidates pass top-k, top-p and min-p */
static i64 cut(const sample_opts *o, order *c)
{
    i64   keep = o->top_k > 0 ? i64_min(o->top_k, c->n) : c->n;
    if (keep < c->n) order_to(c, keep);
    float most = nth(c, 0).logit;
    if (o->top_p < 1 && o->top_p > 0) {
        double enough = o->top_p * share_sum(c, keep, most, 1), run = 0;
        i64    k = 0;
        while (k < keep && run < enough) run += exp((double)(nth(c, k++).logit - most));
        keep = i64_max(k, 1);
    }
    if (o->min_p > 0) {
        float least = most + logf(o->min_p);
        i64   k = 1;
        while (k < keep && !(nth(c, k).logit < least)) k++;
        keep = k;
    }
    return keep;
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
    for (i64 i = 0; i < n; i++) s->c[i] = (candidate){(i32)i, logits[i]};
    for (usize i = 0; i < n_recent; i++)
        if (recent[i] >= 0 && recent[i] < n) s->c[recent[i]].logit = penalised(o, logits[recent[i]], recent[i], recent + i, 1);
    order  all = {.c = s->c, .n = n};
    i64    keep = cut(o, &all), k = 0;
    float  most = nth(&all, 0).logit;
    double at = rng_unit(&s->r) * share_sum(&all, keep, most, (double)o->temp), run = 0;
    for (; k < keep - 1; k++) {
        run += exp((double)(nth(&all, k).logit - most) / (double)o->temp);
        if (run > at) break;
    }
    *id = nth(&all, k).id;
    return OK;
}
