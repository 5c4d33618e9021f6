/* tune/way.c - the ways of teaching: which matrices a way trains, and what they hold when it begins. */
#include "tune/tune.h"
#include <math.h>

static const struct {
    const char *name;
    i64 n;
    double lr;
} ways[] = {
#define X(id, name, n, lr) {name, n, lr},
    WAY_TABLE(X)
#undef X
};

err tune_way_parse(const char *text, tune_way *out)
{
    str s = str_of(text);
    i64 colon = str_find(s, S(":"), 0), n = 0;
    str name = colon < 0 ? s : (str){s.p, (usize)colon};
    for (int i = 0; i < WAY_COUNT; i++) {
        if (!str_eq(name, str_of(ways[i].name))) continue;
        if (colon >= 0 && (!ways[i].n || !str_i64((str){s.p + colon + 1, s.n - (usize)colon - 1}, &n) || n < 1 || n > 4096))
            return err_new(ERR_INPUT, "--train %s: expected %s%s", text, ways[i].name, ways[i].n ? ":N with N from 1 to 4096" : " alone");
        *out = (tune_way){(way_kind)i, colon < 0 ? ways[i].n : n};
        return OK;
    }
    return err_new(ERR_INPUT, "--train %s: expected features, head, last:N, all, lora[:R], prompt[:N], prefix[:N] or norm", text);
}

void tune_way_name(tune_way w, char out[32])
{
    if (w.n) snprintf(out, 32, "%s:%lld", ways[w.kind].name, (long long)w.n);
    else snprintf(out, 32, "%s", ways[w.kind].name);
}

/* ---- making a set ---- */

typedef struct {
    const model      *m;
    const train_opts *o;
    trained_set      *set;
    usize             cap;
    rng               r;
    err               bad;
} maker;

static trained *add_new(maker *k, trained_kind kind, const char *name, i64 rows, i64 n)
{
    static trained none;
    trained t = {.kind = kind, .k = rows, .n = n};
    if (k->bad.code) return &none;
    snprintf(t.name, sizeof t.name, "%s", name);
    t.data = mem_array(float, rows * n);
    if (!t.data || !VEC_PUSH(k->set->t, k->set->n, k->cap, t)) {
        mem_free(t.data);
        k->bad = err_new(ERR_NOMEM, "out of memory for %s: %lld values", name, (long long)(rows * n));
        return &none;
    }
    return &k->set->t[k->set->n - 1];
}

static void add_weight(maker *k, const model_weight *w, const char *as)
{
    if (!w->data || trained_find(k->set, TRAIN_WEIGHT, as)) return;
    trained *t = add_new(k, TRAIN_WEIGHT, as, w->k, w->n);
    if (t->data) weight_decode(w->type, w->lay, w->k, w->data, 0, w->n, t->data);
}

static float spread(rng *r, float most) { return ((float)rng_unit(r) * 2 - 1) * most; }

/* ---- patterns: "q_proj=8,layers\\.[0-3]\\.mlp=32" ---- */

/* The next item: its value is behind the first '=' that a number and then a comma or the end follow, so that a pattern may hold both. */
static bool pattern_next(const char **at, buf *pattern, double *value)
{
    for (const char *eq = *at; (eq = strchr(eq, '=')); eq++) {
        char number[40];
        usize n = strcspn(eq + 1, ",");
        if (n >= sizeof number || eq == *at || !str_f64((str){eq + 1, n}, value)) continue;
        buf_reset(pattern);
        buf_put(pattern, *at, (usize)(eq - *at));
        *at = eq + 1 + n + (eq[1 + n] == ',');
        return true;
    }
    return false;
}

/* the module of a weight as PEFT names it; a part of a fused one is its whole */
static bool module_of(const model *m, const char *weight, char out[112])
{
    hf_name hf;
    char fused[48];
    int layer, end = 0;
    char which;
    if (m->arch->fused && sscanf(weight, "blk.%d.attn_%c.weight%n", &layer, &which, &end) == 2 && end) snprintf(fused, sizeof fused, "blk.%d.attn_qkv.weight", layer), weight = fused;
    if (!names_to_hf(m->arch->name, weight, &hf)) return false;
    snprintf(out, 112, "%s", hf.name);
    char *dot = strrchr(out, '.');
    if (dot) *dot = 0;
    return true;
}

/* the value of the first pattern that picks the weight, else what *value was */
static err pattern_value(const model *m, const char *list, const char *weight, double *value)
{
    buf pattern = {0};
    char module[112];
    double v;
    bool yes = false;
    err bad = OK;
    if (!list || !module_of(m, weight, module)) return OK;
    for (const char *at = list; !bad.code && !yes && pattern_next(&at, &pattern, &v);) {
        bad = adapter_pattern(buf_cstr(&pattern), module, &yes);
        if (yes) *value = v;
    }
    buf_free(&pattern);
    return bad;
}

/* every item can be read, its value is in bounds, and it picks something that is trained: else it would be a wish without a word */
static err check_patterns(const maker *k, const char *option, const char *list, double most, bool whole)
{
    buf pattern = {0};
    const char *at = list;
    err bad = OK;
    while (at && *at && !bad.code) {
        double v;
        bool used = false;
        char module[112];
        if (!pattern_next(&at, &pattern, &v)) bad = err_new(ERR_INPUT, "%s: \"%s\" is no PATTERN=NUMBER", option, at);
        else if (!(v > 0) || v > most || (whole && v != floor(v))) bad = err_new(ERR_INPUT, "%s: %s=%g: expected a%s number above 0, at most %g", option, buf_cstr(&pattern), v, whole ? " whole" : "", most);
        for (usize i = 0; !bad.code && !used && i < k->set->n; i++)
            if (k->set->t[i].kind == TRAIN_A && module_of(k->m, k->set->t[i].name, module)) bad = adapter_pattern(buf_cstr(&pattern), module, &used);
        if (!bad.code && !used) bad = err_new(ERR_INPUT, "%s: \"%s\" picks nothing that is trained; modules are named as in model.layers.0.self_attn.q_proj", option, buf_cstr(&pattern));
    }
    buf_free(&pattern);
    return bad;
}

static void add_pair(maker *k, const model_weight *w)
{
    double rank = (double)k->o->way.n, alpha = k->o->alpha > 0 ? k->o->alpha : 2 * rank;
    bool rs = k->o->rslora < 0 ? k->o->way.n > 16 : k->o->rslora;
    if (!w->data || k->bad.code) return;
    k->bad = pattern_value(k->m, k->o->rank_pattern, w->name, &rank);
    if (!k->bad.code) k->bad = pattern_value(k->m, k->o->alpha_pattern, w->name, &alpha);
    rank = fmax(1, fmin(floor(rank), 4096)); /* check_patterns refuses others */
    trained *a = add_new(k, TRAIN_A, w->name, w->k, (i64)rank);
    if (!a->data) return;
    a->scale = (float)(rs ? alpha / sqrt(rank) : alpha / rank), a->dropout = (float)k->o->dropout;
    for (i64 i = 0; i < w->k * (i64)rank; i++) a->data[i] = spread(&k->r, 1 / sqrtf((float)w->k));
    add_new(k, TRAIN_B, w->name, (i64)rank, w->n);
}

static bool wanted(const char *targets, const char *name)
{
    if (!targets) return true;
    usize n = strlen(name);
    for (const char *p = targets; (p = strstr(p, name)); p += n)
        if ((p == targets || p[-1] == ',') && (!p[n] || p[n] == ',')) return true;
    return false;
}

static err check_targets(const char *targets)
{
    static const char *const known[] = {"q", "k", "v", "o", "gate", "up", "down"};
    for (const char *p = targets; p && *p;) {
        usize n = strcspn(p, ",");
        bool found = false;
        for (usize i = 0; i < COUNT_OF(known); i++) found |= strlen(known[i]) == n && !strncmp(p, known[i], n);
        if (!found) return err_new(ERR_INPUT, "--targets: \"%.*s\" is none of q k v o gate up down", (int)n, p);
        p += n + (p[n] == ',');
    }
    return OK;
}

static void add_layer(maker *k, const layer_weights *l)
{
    const model_weight *w = (const model_weight *)(const void *)l;
    for (usize i = 0; i < sizeof *l / sizeof *w; i++)
        if (w[i].data && strncmp(w[i].name, "rope", 4)) add_weight(k, &w[i], w[i].name);
}

static void add_norms(maker *k)
{
    add_weight(k, &k->m->out_norm, k->m->out_norm.name);
    for (i64 i = 0; i < k->m->h.n_layer; i++) {
        const layer_weights *l = &k->m->layers[i];
        const model_weight *w = (const model_weight *)(const void *)l;
        for (usize j = 0; j < sizeof *l / sizeof *w; j++)
            if (w[j].data && strstr(w[j].name, "norm")) add_weight(k, &w[j], w[j].name);
    }
}

static void add_pairs(maker *k)
{
    const char *t = k->o->targets;
    for (i64 i = 0; i < k->m->h.n_layer; i++) {
        const layer_weights *l = &k->m->layers[i];
        if (wanted(t, "q")) add_pair(k, &l->q);
        if (wanted(t, "k")) add_pair(k, &l->k);
        if (wanted(t, "v")) add_pair(k, &l->v);
        if (wanted(t, "o")) add_pair(k, &l->o);
        if (wanted(t, "gate")) add_pair(k, &l->gate);
        if (wanted(t, "up")) add_pair(k, &l->up);
        if (wanted(t, "down")) add_pair(k, &l->down);
    }
}

static void add_everything(maker *k)
{
    const model *m = k->m;
    const model_weight *w[] = {&m->embed, &m->types, &m->positions, &m->embed_norm, &m->embed_norm_b, &m->out_norm, &m->out_norm_b, &m->head};
    for (usize i = 0; i < COUNT_OF(w); i++) add_weight(k, w[i], w[i]->name);
    for (i64 i = 0; i < m->h.n_layer; i++) add_layer(k, &m->layers[i]);
}

/* ---- given vectors and prefixes begin as real tokens (Lester et al. 2021: random ones are a trap) ---- */

/* tokens of the data, so that they are words of the task: the most frequent would be punctuation, so any */
static i32 some_token(maker *k, const tune_data *d)
{
    return d->id[rng_u64(&k->r) % d->n_tokens];
}

static void add_prompt(maker *k, const tune_data *d)
{
    const model *m = k->m;
    float by = m->arch->scale_embedding ? sqrtf((float)m->h.width) : 1;
    trained *t = add_new(k, TRAIN_PROMPT, "", m->h.width, k->o->way.n);
    for (i64 i = 0; t->data && i < t->n; i++) {
        float *v = t->data + i * t->k;
        weight_decode(m->embed.type, m->embed.lay, m->embed.k, m->embed.data, some_token(k, d), 1, v);
        for (i64 j = 0; j < t->k; j++) v[j] *= by;
    }
}

static err run_tokens(const model *m, pool *threads, kv_cache *kv, const i32 *id, i64 n)
{
    backend *be = NULL;
    workspace *ws = NULL;
    plan *p = NULL;
    model_io io;
    graph *g = graph_new();
    i32 *x = mem_array(i32, 7 * n); /* positions, slots, spans, pages */
    err bad = x && g ? backend_cpu(&be, threads) : err_new(ERR_NOMEM, "out of memory for a prefix");
    if (!bad.code) bad = workspace_new(&ws, be);
    if (bad.code) graph_free(g);
    if (!bad.code) {
        decoder_build(g, m, kv, &(batch_shape){.rows = n, .seqs = 1, .max_pages = kv->n_pages}, &io);
        bad = plan_new(&p, g, ws, &io.hidden, 1);
    }
    for (i64 i = 0; !bad.code && i < n; i++) {
        x[i] = x[n + i] = (i32)i;
        x[2 * n + 3 * i + 2] = (i32)i + 1;
    }
    for (i64 i = 0; !bad.code && i < kv->n_pages; i++) x[5 * n + i] = (i32)i;
    if (!bad.code) bad = tensor_put(p, io.ids, id);
    if (!bad.code) bad = tensor_put(p, io.pos, x);
    if (!bad.code) bad = tensor_put(p, io.slots, x + n);
    if (!bad.code) bad = tensor_put(p, io.span, x + 2 * n);
    if (!bad.code) bad = tensor_put(p, io.pages, x + 5 * n);
    if (!bad.code) bad = plan_run(p);
    plan_free(p);
    workspace_free(ws);
    if (be) backend_close(be);
    mem_free(x);
    return bad;
}

static void add_prefix(maker *k, pool *threads, const tune_data *d)
{
    const model *m = k->m;
    i64 n = k->o->way.n, kv_dim = m->h.n_kv_head * m->h.head_dim;
    kv_cache *kv = NULL;
    i32 *id = mem_array(i32, n);
    if (!id) k->bad = err_new(ERR_NOMEM, "out of memory for a prefix");
    for (i64 i = 0; id && i < n; i++) id[i] = some_token(k, d);
    if (!k->bad.code) k->bad = kv_cache_new(&kv, m, (n + KV_PAGE - 1) / KV_PAGE, F32);
    if (!k->bad.code) k->bad = run_tokens(m, threads, kv, id, n);
    for (i64 i = 0; !k->bad.code && i < m->h.n_layer; i++) {
        char name[48];
        snprintf(name, sizeof name, "blk.%d", (int)i);
        trained *key = add_new(k, TRAIN_PREFIX_K, name, kv_dim, n);
        if (key->data) memcpy(key->data, kv->k[i], sizeof(float) * (usize)(kv_dim * n));
        trained *value = add_new(k, TRAIN_PREFIX_V, name, kv_dim, n);
        if (value->data) memcpy(value->data, kv->v[i], sizeof(float) * (usize)(kv_dim * n));
    }
    kv_cache_free(kv);
    mem_free(id);
}

/* A classifier over pooled rows, when the data's labels are classes and no words. */
static void add_classifier(maker *k, const tune_data *d)
{
    i64 n = (i64)d->n_labels, width = k->m->h.width;
    trained *t = add_new(k, TRAIN_CLASSES, "", width, n);
    for (i64 i = 0; t->data && i < width * n; i++) t->data[i] = spread(&k->r, 1 / sqrtf((float)width));
    add_new(k, TRAIN_CLASSES_B, "", n, 1);
}

static err decoder_only(const maker *k)
{
    char name[32];
    tune_way_name(k->o->way, name);
    return err_new(ERR_UNSUPPORTED, "--train %s: %s is an encoder; expected features, head, last:N, all, lora or norm", name, k->m->arch->name);
}

err way_make(const model *m, pool *threads, const train_opts *o, const tune_data *d, trained_set *out)
{
    maker k = {.m = m, .o = o, .set = out};
    i64 n = m->h.n_layer;
    *out = (trained_set){0};
    rng_seed(&k.r, o->seed ^ 0x7761795f6d616b65u);
    switch (o->way.kind) {
    case WAY_LORA:
        TRY(check_targets(o->targets));
        add_pairs(&k);
        if (!k.bad.code) k.bad = check_patterns(&k, "--rank-pattern", o->rank_pattern, 4096, true);
        if (!k.bad.code) k.bad = check_patterns(&k, "--alpha-pattern", o->alpha_pattern, 1e6, false);
        break;
    case WAY_ALL: add_everything(&k); break;
    case WAY_NORM: add_norms(&k); break;
    case WAY_LAST:
        if (o->way.n > n) return err_new(ERR_INPUT, "--train last:%lld: the model has %lld blocks", (long long)o->way.n, (long long)n);
        for (i64 i = n - o->way.n; i < n; i++) add_layer(&k, &m->layers[i]);
        add_weight(&k, &m->out_norm, m->out_norm.name);
        break;
    case WAY_HEAD:
        if (!d->o.head) add_weight(&k, &m->head, "output.weight");
        break;
    case WAY_PROMPT:
        if (m->arch->encoder) return decoder_only(&k);
        add_prompt(&k, d);
        break;
    case WAY_PREFIX:
        if (m->arch->encoder) return decoder_only(&k);
        add_prefix(&k, threads, d);
        break;
    default: break;
    }
    if (d->o.head) add_classifier(&k, d);
    if (!k.bad.code && !out->n) k.bad = err_new(ERR_INPUT, "nothing is trained: no weight of the model is a target");
    if (k.bad.code) way_free(out);
    return k.bad;
}

void way_free(trained_set *s)
{
    for (usize i = 0; i < s->n; i++) mem_free(s->t[i].data);
    mem_free(s->t);
    *s = (trained_set){0};
}

i64 way_count(const trained_set *s)
{
    i64 n = 0;
    for (usize i = 0; i < s->n; i++) n += s->t[i].k * s->t[i].n;
    return n;
}

double way_rate(tune_way w) { return ways[w.kind].lr; }
