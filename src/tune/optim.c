/* tune/optim.c - AdamW, the global norm of a gradient, learning rates. The update follows PyTorch's single-tensor order so that runs can
 * be compared with it: p *= 1 - lr wd; m += (g - m)(1 - b1); v = v b2 + (1 - b2) g^2; p -= lr/bc1 m / (sqrt(v)/sqrt(bc2) + eps), with
 * scalars in double, rounded once. Threads own ranges of elements; the norm sums fixed pieces in order. */
#include "tune/tune.h"
#include <math.h>

static const double BETA1 = 0.9, BETA2 = 0.999, EPS = 1e-8;
enum { PIECE = 1 << 14 };

static i64 size_of(const trained *t) { return t->k * t->n; }

err adamw_new(adamw *o, trained_set *set)
{
    *o = (adamw){.set = set, .m = mem_array(float *, set->n + 1), .v = mem_array(float *, set->n + 1)};
    bool good = o->m && o->v;
    for (usize i = 0; good && i < set->n; i++) {
        o->m[i] = mem_array(float, size_of(&set->t[i]));
        o->v[i] = mem_array(float, size_of(&set->t[i]));
        good = o->m[i] && o->v[i];
    }
    if (good) return OK;
    adamw_free(o);
    return err_new(ERR_NOMEM, "out of memory for the optimizer's moments");
}

void adamw_free(adamw *o)
{
    for (usize i = 0; o->set && i < o->set->n; i++) {
        if (o->m) mem_free(o->m[i]);
        if (o->v) mem_free(o->v[i]);
    }
    mem_free(o->m);
    mem_free(o->v);
    *o = (adamw){0};
}

typedef struct {
    float *p, *m, *v;
    const float *g;
    i64 n;
    adam_rule rule;
} update;

static void update_part(void *ctx, int thread, int n_threads)
{
    const update *u = ctx;
    i64 from, to;
    part(u->n, thread, n_threads, &from, &to);
    adam_update(u->p + from, u->m + from, u->v + from, u->g + from, to - from, &u->rule);
}

static bool decays(const trained *t) /* not biases and norms */
{
    return t->k > 1 && t->n > 1;
}

void adamw_step(adamw *o, pool *threads, const float *const *grad, double lr, double lora_plus, double decay, double scale)
{
    o->step++;
    double bc1 = 1 - pow(BETA1, (double)o->step), bc2 = 1 - pow(BETA2, (double)o->step);
    for (usize i = 0; i < o->set->n; i++) {
        const trained *t = &o->set->t[i];
        double rate = t->kind == TRAIN_B && lora_plus > 0 ? lr * lora_plus : lr;
        update u = {.p = t->data, .m = o->m[i], .v = o->v[i], .g = grad[i], .n = size_of(t)};
        u.rule = (adam_rule){.scale = (float)scale,
                             .keep = decays(t) ? (float)(1 - rate * decay) : 1,
                             .first = (float)(1 - BETA1),
                             .second = (float)BETA2,
                             .second_rest = (float)(1 - BETA2),
                             .size = (float)(rate / bc1),
                             .root = (float)sqrt(bc2),
                             .eps = (float)EPS};
        pool_run(threads, update_part, &u);
    }
}

typedef struct {
    const float *g;
    i64 n;
    double *sum; /* of each piece */
} squares;

static void squares_part(void *ctx, int thread, int n_threads)
{
    const squares *s = ctx;
    i64 from, to;
    part((s->n + PIECE - 1) / PIECE, thread, n_threads, &from, &to);
    for (i64 k = from; k < to; k++) {
        s->sum[k] = sum_of_squares(s->g + k * PIECE, i64_min(PIECE, s->n - k * PIECE));
    }
}

double grad_norm(const trained_set *set, pool *threads, const float *const *grad, usize *bad)
{
    double total = 0;
    *bad = set->n;
    for (usize i = 0; i < set->n; i++) {
        i64 n = size_of(&set->t[i]), pieces = (n + PIECE - 1) / PIECE;
        squares s = {grad[i], n, mem_array(double, pieces)};
        if (!s.sum) return NAN;
        pool_run(threads, squares_part, &s);
        double sum = 0;
        for (i64 k = 0; k < pieces; k++) sum += s.sum[k];
        mem_free(s.sum);
        if (!isfinite(sum) && *bad == set->n) *bad = i;
        total += sum;
    }
    return sqrt(total);
}

double schedule_rate(schedule_kind kind, double lr, double warmup, i64 step, i64 steps)
{
    i64 warm = (i64)ceil(warmup * (double)steps);
    if (step < warm) return lr * (double)(step + 1) / (double)(warm + 1); /* the first step moves too */
    double at = steps > warm ? (double)(step - warm) / (double)(steps - warm) : 0;
    switch (kind) {
    case SCHEDULE_COSINE: return lr * 0.5 * (1 + cos(acos(-1) * at));
    case SCHEDULE_LINEAR: return lr * (1 - at);
    default: return lr;
    }
}
