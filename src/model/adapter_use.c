/* model/adapter_use.c - adapters at work: laid beside a model's weights, over them, or in place of what is trained.
 *
 * Several adapters at once are one pair of more rank: [a1; a2] and [b1 b2], scales folded into b, so the graph knows nothing of
 * how many there are. A fused tensor (gpt2's attn_qkv) is bound as its three parts, so a pair for it becomes three with the same
 * a. */
#include "model/adapter_inside.h"

static err no_memory(void) { return err_new(ERR_NOMEM, "out of memory for an adapter"); }

/* ---- beside a model ----------------------------------------------------------------------------------------------------- */
/* a pair as the graph knows weights: one of a tied head goes by its embedding's name, one of a fused tensor is three */
static int graph_names(const model *m, const low_rank *p, const char *name[3], i64 from[4])
{
    model_weight *part[3];
    from[0] = 0;
    if (adapter_fused(m, p->name, part)) {
        for (int i = 0; i < 3; i++) name[i] = part[i]->name, from[i + 1] = from[i] + part[i]->n;
        return 3;
    }
    name[0] = strcmp(p->name, "output.weight") ? p->name : m->head.name;
    from[1] = p->n;
    return 1;
}

static adapter_pair *slot_pair(adapter_set *s, const char *name)
{
    for (usize i = 0; i < s->n; i++)
        if (!strcmp(s->pair[i].name, name)) return &s->pair[i];
    return NULL;
}

typedef void (*each_part)(void *ctx, i64 mix, const low_rank *, float scale, const char *name, i64 from, i64 n);

static void each_pair(const model *m, const adapter_mix *mix, i64 n_mixes, each_part do_it, void *ctx)
{
    for (i64 x = 0; x < n_mixes; x++)
        for (int u = 0; u < mix[x].n; u++)
            for (usize i = 0; i < mix[x].use[u].file->n_pairs; i++) {
                const low_rank *p = &mix[x].use[u].file->pair[i];
                const char *name[3];
                i64 from[4];
                int parts = graph_names(m, p, name, from);
                for (int k = 0; k < parts; k++) do_it(ctx, x, p, mix[x].use[u].scale, name[k], from[k], from[k + 1] - from[k]);
            }
}

typedef struct {
    adapter_set *s;
    i64 *rank;  /* [n_slots, n] filled so far */
    i64 *k, *n; /* [n] */
    usize cap, cap_rank, cap_k, cap_n;
    bool failed;
} set_builder;

static void count_rank(void *ctx, i64 mix, const low_rank *p, float scale, const char *name, i64 from, i64 n)
{
    set_builder *b = ctx;
    (void)scale, (void)from;
    adapter_pair *q = slot_pair(b->s, name);
    if (!q && !b->failed) {
        adapter_pair one = {{0}, 0, NULL, NULL};
        usize i = b->s->n;
        snprintf(one.name, sizeof one.name, "%s", name);
        b->failed = !vec_grow((void **)&b->rank, &b->cap_rank, (i + 1) * (usize)b->s->n_slots, sizeof *b->rank) ||
                    !vec_grow((void **)&b->k, &b->cap_k, i + 1, sizeof *b->k) ||
                    !vec_grow((void **)&b->n, &b->cap_n, i + 1, sizeof *b->n) || !VEC_PUSH(b->s->pair, b->s->n, b->cap, one);
        if (b->failed) return;
        b->k[i] = p->k, b->n[i] = n;
        q = &b->s->pair[i];
    }
    if (b->failed) return;
    i64 *at = &b->rank[(q - b->s->pair) * b->s->n_slots + mix];
    *at += p->rank;
    q->rank = i64_max(q->rank, *at);
}

static void lay_pair(void *ctx, i64 mix, const low_rank *p, float scale, const char *name, i64 from, i64 n)
{
    set_builder *b = ctx;
    adapter_pair *q = slot_pair(b->s, name);
    i64 *at = &b->rank[(q - b->s->pair) * b->s->n_slots + mix], r = q->rank;
    memcpy(q->a + p->k * (mix * r + *at), p->a, sizeof *q->a * (usize)(p->k * p->rank));
    for (i64 row = 0; row < n; row++)
        for (i64 i = 0; i < p->rank; i++)
            q->b[(mix * n + row) * r + *at + i] = p->b[(from + row) * p->rank + i] * p->scale * scale;
    *at += p->rank;
}

void adapter_set_free(adapter_set *s)
{
    if (!s) return;
    for (usize i = 0; i < s->n; i++) {
        mem_free(s->pair[i].a);
        mem_free(s->pair[i].b);
    }
    mem_free(s->pair);
    mem_free(s);
}

err adapter_set_new(adapter_set **out, const model *m, const adapter_mix *mix, i64 n_mixes)
{
    *out = NULL;
    set_builder b = {.s = mem_zero(sizeof *b.s)};
    if (!b.s) return no_memory();
    b.s->n_slots = n_mixes;
    each_pair(m, mix, n_mixes, count_rank, &b);
    for (usize i = 0; i < b.s->n && !b.failed; i++) {
        adapter_pair *q = &b.s->pair[i];
        q->a = mem_array(float, b.k[i] * q->rank * n_mixes); /* zeroed: ranks that a slot lacks add nothing */
        q->b = mem_array(float, b.n[i] * q->rank * n_mixes);
        b.failed = !q->a || !q->b;
    }
    if (!b.failed) {
        if (b.s->n) memset(b.rank, 0, sizeof *b.rank * b.s->n * (usize)n_mixes);
        each_pair(m, mix, n_mixes, lay_pair, &b);
        *out = b.s;
    } else {
        adapter_set_free(b.s);
    }
    mem_free(b.rank);
    mem_free(b.k);
    mem_free(b.n);
    return b.failed ? no_memory() : OK;
}

err adapter_mix_check(const adapter_mix *mix)
{
    for (int u = 0; u < mix->n; u++) {
        const adapter_file *f = mix->use[u].file;
        if (mix->use[u].scale == 1 || !(f->n_prompt || f->n_prefix || f->n_whole)) continue;
        return err_new(ERR_INPUT, "an adapter at scale %g: only low-rank pairs have a scale, this one has %s",
                       (double)mix->use[u].scale,
                       f->n_prompt   ? "a soft prompt"
                       : f->n_prefix ? "a prefix"
                                     : "whole tensors");
    }
    return OK;
}

/* ---- over a model ------------------------------------------------------------------------------------------------------- */
static void cover(model_weight *w, i64 k, i64 n, const char *name, float *data)
{
    *w = (model_weight){.type = F32, .lay = LAYOUT_ROWS, .k = k, .n = n, .data = data};
    snprintf(w->name, sizeof w->name, "%s", name);
}

err adapter_overlay(model *m, const adapter_file *f)
{
    for (usize i = 0; i < f->n_whole; i++) {
        const whole_tensor *t = &f->whole[i];
        model_weight *part[3], *w;
        i64 k, n;
        if (!adapter_extents(m, t->name, &k, &n) || (k >= 0 && k != t->k) || (n >= 0 && n != t->n))
            return err_new(ERR_FORMAT, "the adapter's '%s' [%lld,%lld] is no tensor of %s", t->name, (long long)t->k,
                           (long long)t->n, m->path ? m->path : "the model");
        if (str_starts(str_of(t->name), S("score."))) continue; /* beside the model, not in it */
        if (adapter_fused(m, t->name, part)) {
            bool vector = t->n == 1;
            float *at = t->data;
            for (int p = 0; p < 3; p++) {
                i64 pk = part[p]->k, pn = part[p]->n;
                char name[48];
                snprintf(name, sizeof name, "%s", part[p]->name);
                cover(part[p], pk, pn, name, at);
                at += vector ? pk : pk * pn;
            }
            continue;
        }
        bool tied = m->head.data == m->embed.data;
        if (!(w = adapter_weight(m, t->name))) return err_new(ERR_BUG, "%s: no weight behind its extents", t->name);
        cover(w, t->k, t->n, t->name, t->data);
        if (w == &m->embed && tied && !m->arch->encoder)
            m->head = m->embed; /* a tie is of the graph: the head is the same matrix */
    }
    return OK;
}

/* ---- as what is trained ------------------------------------------------------------------------------------------------- */
typedef struct {
    trained_set set;
    adapter_set *pairs;
    arena *own;
    usize cap;
} mix_set; /* what adapter_trained_new hands out: set stands first */

static err put(mix_set *x, trained_kind kind, const char *name, i64 k, i64 n, float *data)
{
    trained t = {.kind = kind, .k = k, .n = n, .data = data, .scale = 1};
    snprintf(t.name, sizeof t.name, "%s", name);
    return VEC_PUSH(x->set.t, x->set.n, x->cap, t) ? OK : no_memory();
}

static err put_whole(mix_set *x, const model *m, const whole_tensor *w)
{
    model_weight *part[3];
    if (!strcmp(w->name, "score.weight")) return put(x, TRAIN_CLASSES, "", w->k, w->n, w->data);
    if (!strcmp(w->name, "score.bias")) return put(x, TRAIN_CLASSES_B, "", w->k, w->n, w->data);
    if (!adapter_fused(m, w->name, part)) return put(x, TRAIN_WEIGHT, w->name, w->k, w->n, w->data);
    float *at = w->data;
    for (int p = 0; p < 3; at += part[p]->k * part[p]->n, p++)
        TRY(put(x, TRAIN_WEIGHT, part[p]->name, part[p]->k, part[p]->n, at));
    return OK;
}

/* one after another: [rows,n] of every adapter of the mix that has some */
static err join(mix_set *x, const adapter_mix *mix, i64 layer, trained_kind kind, const char *name, i64 rows)
{
    i64 n = 0, at = 0;
    for (int u = 0; u < mix->n; u++) n += kind == TRAIN_PROMPT ? mix->use[u].file->n_prompt : mix->use[u].file->n_prefix;
    if (!n) return OK;
    float *all = arena_take(x->own, sizeof *all * (usize)(rows * n));
    if (!all) return no_memory();
    for (int u = 0; u < mix->n; u++) {
        const adapter_file *f = mix->use[u].file;
        i64 have = kind == TRAIN_PROMPT ? f->n_prompt : f->n_prefix;
        if (have)
            memcpy(all + rows * at,
                   kind == TRAIN_PROMPT     ? f->prompt
                   : kind == TRAIN_PREFIX_K ? f->k[layer]
                                            : f->v[layer],
                   sizeof *all * (usize)(rows * have));
        at += have;
    }
    return put(x, kind, name, rows, n, all);
}

static err put_pairs(mix_set *x, const model *m, const adapter_mix *mix)
{
    TRY(adapter_set_new(&x->pairs, m, mix, 1));
    for (usize i = 0; i < x->pairs->n; i++) {
        adapter_pair *p = &x->pairs->pair[i];
        const model_weight *w = adapter_weight(m, p->name);
        if (!w) return err_new(ERR_BUG, "%s: a pair without its weight", p->name);
        TRY(put(x, TRAIN_A, p->name, w->k, p->rank, p->a));
        TRY(put(x, TRAIN_B, p->name, p->rank, w->n, p->b));
    }
    return OK;
}

static err put_all(mix_set *x, const model *m, const adapter_mix *mix)
{
    TRY(adapter_mix_check(mix));
    TRY(put_pairs(x, m, mix));
    for (int u = 0; u < mix->n; u++)
        for (usize i = 0; i < mix->use[u].file->n_whole; i++) TRY(put_whole(x, m, &mix->use[u].file->whole[i]));
    TRY(join(x, mix, 0, TRAIN_PROMPT, "", m->h.width));
    for (i64 l = 0; l < m->h.n_layer; l++) {
        char name[16];
        snprintf(name, sizeof name, "blk.%d", (int)l);
        TRY(join(x, mix, l, TRAIN_PREFIX_K, name, m->h.n_kv_head * m->h.head_dim));
        TRY(join(x, mix, l, TRAIN_PREFIX_V, name, m->h.n_kv_head * m->h.head_dim));
    }
    return OK;
}

err adapter_trained_new(trained_set **out, const model *m, const adapter_mix *mix)
{
    *out = NULL;
    mix_set *x = mem_zero(sizeof *x);
    if (!x) return no_memory();
    x->own = arena_new();
    err bad = !x->own ? no_memory() : mix ? put_all(x, m, mix) : OK;
    if (bad.code)
        adapter_trained_free(&x->set);
    else
        *out = &x->set;
    return bad;
}

void adapter_trained_free(trained_set *s)
{
    mix_set *x = (mix_set *)s;
    if (!x) return;
    adapter_set_free(x->pairs);
    arena_free(x->own);
    mem_free(x->set.t);
    mem_free(x);
}

/* ---- logits ------------------------------------------------------------------------------------------------------------- */
static err run_logits(const model *m, trained_set *set, const i32 *tok, i64 n, workspace *ws, float *logits)
{
    packing *k;
    model_io io;
    i64 rows = packing_overhead(set) + n;
    batch_shape s = {.rows = rows, .outs = n, .seqs = 1, .train = set, .exact = true};
    i32 *want = mem_array(i32, n);
    if (!want) return no_memory();
    for (i64 i = 0; i < n; i++) want[i] = (i32)(rows - n + i);
    err bad = packing_open(&k, m, ws, &s, false, &io);
    packed_seq q = {.id = tok, .n = n};
    if (!bad.code) {
        bad = packing_put(k, &io, &q, 1);
        if (!bad.code) bad = tensor_put(packing_plan(k), io.out_rows, want);
        if (!bad.code) bad = plan_run(packing_plan(k));
        if (!bad.code) bad = tensor_get(packing_plan(k), io.logits, logits);
        packing_close(k);
    }
    mem_free(want);
    return bad;
}

err model_logits(const model *m, const adapter_mix *mix, const i32 *tok, i64 n, pool *threads, float *logits)
{
    trained_set *set;
    backend *be = NULL;
    workspace *ws = NULL;
    if (m->arch->encoder) return err_new(ERR_INPUT, "%s is an embedding model: it has no logits", m->path);
    TRY(adapter_trained_new(&set, m, mix));
    err bad = backend_cpu(&be, threads);
    if (!bad.code) bad = workspace_new(&ws, be);
    if (!bad.code) bad = run_logits(m, set, tok, n, ws, logits);
    workspace_free(ws);
    if (be) backend_close(be);
    adapter_trained_free(set);
    return bad;
}
