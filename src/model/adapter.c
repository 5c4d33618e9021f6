/* model/adapter.c - adapters in memory: built tensor by tensor, bound to a model's weights by name, taken from what was trained.
 */
#include "model/adapter_inside.h"

static err no_memory(void) { return err_new(ERR_NOMEM, "out of memory for an adapter"); }

err adapter_new(adapter_file **out, adapter_kind kind)
{
    *out = NULL;
    adapter_file *f = mem_zero(sizeof *f);
    if (!f || !(f->own = arena_new())) {
        mem_free(f);
        return no_memory();
    }
    f->kind = kind;
    f->pool = POOL_LAST;
    *out = f;
    return OK;
}

void adapter_free(adapter_file *f)
{
    if (!f) return;
    arena_free(f->own);
    mem_free(f->pair);
    mem_free(f->whole);
    mem_free(f);
}

static err floats(adapter_file *f, i64 n, float **out)
{
    *out = n >= 0 && (u64)n < SIZE_MAX / sizeof **out ? arena_take(f->own, sizeof **out * (usize)i64_max(n, 1)) : NULL;
    return *out ? OK : no_memory();
}

err adapter_keep_text(adapter_file *f, char **to, const char *text, usize n)
{
    *to = arena_str(f->own, text, n);
    return *to ? OK : no_memory();
}

err adapter_add_pair(adapter_file *f, const char *name, i64 k, i64 n, i64 rank, float scale, low_rank **out)
{
    low_rank p = {.k = k, .n = n, .rank = rank, .scale = scale};
    snprintf(p.name, sizeof p.name, "%s", name);
    TRY(floats(f, k * rank, &p.a));
    TRY(floats(f, rank * n, &p.b));
    if (!VEC_PUSH(f->pair, f->n_pairs, f->cap_pairs, p)) return no_memory();
    *out = &f->pair[f->n_pairs - 1];
    return OK;
}

err adapter_add_whole(adapter_file *f, const char *name, i64 k, i64 n, whole_tensor **out)
{
    whole_tensor w = {.k = k, .n = n};
    snprintf(w.name, sizeof w.name, "%s", name);
    TRY(floats(f, k * n, &w.data));
    if (!VEC_PUSH(f->whole, f->n_whole, f->cap_whole, w)) return no_memory();
    *out = &f->whole[f->n_whole - 1];
    return OK;
}

low_rank *adapter_pair_find(const adapter_file *f, const char *name)
{
    for (usize i = 0; i < f->n_pairs; i++)
        if (!strcmp(f->pair[i].name, name)) return &f->pair[i];
    return NULL;
}

/* ---- weights by name ---------------------------------------------------------------------------------------------------- */
model_weight *adapter_weight(const model *m, const char *name)
{
    model *mm = (model *)(uintptr_t)m;
    model_weight *one[] = {&mm->embed,        &mm->types,    &mm->positions, &mm->embed_norm,
                           &mm->embed_norm_b, &mm->out_norm, &mm->out_norm_b};
    int layer = -1, at = 0;
    if (!strcmp(name, "output.weight")) return m->head.data ? &mm->head : NULL;
    if (sscanf(name, "blk.%d.%n", &layer, &at) == 1 && at) {
        if (layer < 0 || layer >= m->h.n_layer) return NULL;
        model_weight *w = (model_weight *)&mm->layers[layer];
        for (usize i = 0; i < sizeof(layer_weights) / sizeof *w; i++)
            if (w[i].data && !strcmp(w[i].name, name)) return &w[i];
        return NULL;
    }
    for (usize i = 0; i < COUNT_OF(one); i++)
        if (one[i]->data && !strcmp(one[i]->name, name)) return one[i];
    return NULL;
}

/* "blk.3.attn_qkv.weight" of a model whose row says so -> its three parts */
bool adapter_fused(const model *m, const char *name, model_weight *part[3])
{
    int layer = -1, at = 0;
    if (!m->arch->fused || sscanf(name, "blk.%d.attn_qkv.%n", &layer, &at) != 1 || !at || layer < 0 || layer >= m->h.n_layer)
        return false;
    layer_weights *w = &m->layers[layer];
    bool bias = !strcmp(name + at, "bias");
    if (!bias && strcmp(name + at, "weight") != 0) return false;
    part[0] = bias ? &w->q_b : &w->q, part[1] = bias ? &w->k_b : &w->k, part[2] = bias ? &w->v_b : &w->v;
    return part[0]->data && part[1]->data && part[2]->data;
}

row_order adapter_key_order(const model *m)
{
    hf_name hf;
    return names_to_hf(m->arch->name, "blk.0.attn_k.weight", &hf) ? hf.order : ORDER_SAME;
}

bool adapter_extents(const model *m, const char *name, i64 *k, i64 *n)
{
    model_weight *part[3], *w;
    *k = m->h.width, *n = -1;
    if (!strcmp(name, "score.weight")) return *k = -1, true; /* features may be of several blocks: who uses it checks */
    if (!strcmp(name, "score.bias")) return *k = -1, *n = 1, true;
    if (adapter_fused(m, name, part)) {
        bool vector = str_ends(str_of(name), S(".bias"));
        *k = vector ? part[0]->k + part[1]->k + part[2]->k : part[0]->k;
        *n = vector ? 1 : part[0]->n + part[1]->n + part[2]->n;
        return true;
    }
    if (!(w = adapter_weight(m, name))) return false;
    *k = w->k, *n = w->n;
    return true;
}

bool adapter_pairs_with(const model *m, const char *name, i64 *k, i64 *n)
{
    static const char *const kinds[] = {"attn_q",      "attn_k",   "attn_v", "attn_qkv",
                                        "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
    int layer, at = 0;
    if (!strcmp(name, "output.weight")) return adapter_extents(m, name, k, n);
    if (sscanf(name, "blk.%d.%n", &layer, &at) != 1 || !at) return false;
    for (usize i = 0; i < COUNT_OF(kinds); i++) {
        usize len = strlen(kinds[i]);
        if (!strncmp(name + at, kinds[i], len) && !strcmp(name + at + len, ".weight")) return adapter_extents(m, name, k, n);
    }
    return false;
}

/* ---- from training ------------------------------------------------------------------------------------------------------ */
static err take_prefix(adapter_file *f, const model *m, const trained *t)
{
    int layer = -1;
    i64 kv = m->h.n_kv_head * m->h.head_dim;
    float *to;
    if (sscanf(t->name, "blk.%d", &layer) != 1 || layer < 0 || layer >= m->h.n_layer || t->k != kv)
        return err_new(ERR_INPUT, "a trained prefix of '%s' with %lld values, expected a layer of %s with %lld", t->name,
                       (long long)t->k, m->path ? m->path : "the model", (long long)kv);
    if (!f->k) {
        f->k = arena_take(f->own, sizeof *f->k * (usize)m->h.n_layer * 2);
        if (!f->k) return no_memory();
        f->v = f->k + m->h.n_layer;
        f->n_prefix = t->n;
    }
    if (t->n != f->n_prefix)
        return err_new(ERR_INPUT, "a trained prefix of %lld positions beside one of %lld", (long long)t->n,
                       (long long)f->n_prefix);
    TRY(floats(f, t->k * t->n, &to));
    memcpy(to, t->data, sizeof *to * (usize)(t->k * t->n));
    if (t->kind == TRAIN_PREFIX_K)
        f->k[layer] = to;
    else
        f->v[layer] = to;
    return OK;
}

static err take_whole(adapter_file *f, const model *m, const trained *t)
{
    const char *name = t->kind == TRAIN_CLASSES ? "score.weight" : t->kind == TRAIN_CLASSES_B ? "score.bias" : t->name;
    i64 k, n;
    whole_tensor *w;
    if (!adapter_extents(m, name, &k, &n) || (k >= 0 && k != t->k) || (n >= 0 && n != t->n) ||
        (t->kind == TRAIN_CLASSES && t->k % m->h.width))
        return err_new(ERR_INPUT, "trained '%s' [%lld,%lld] is no tensor of the model", name, (long long)t->k, (long long)t->n);
    TRY(adapter_add_whole(f, name, t->k, t->n, &w));
    memcpy(w->data, t->data, sizeof *w->data * (usize)(t->k * t->n));
    return OK;
}

static err take_pair(adapter_file *f, const trained_set *set, const trained *a)
{
    const trained *b = trained_find(set, TRAIN_B, a->name);
    low_rank *p;
    if (!b || b->k != a->n)
        return err_new(ERR_INPUT, "trained pair '%s' has no B of %lld rows' length", a->name, (long long)a->n);
    TRY(adapter_add_pair(f, strcmp(a->name, "token_embd.weight") ? a->name : "output.weight", a->k, b->n, a->n, a->scale, &p));
    memcpy(p->a, a->data, sizeof *p->a * (usize)(a->k * a->n));
    memcpy(p->b, b->data, sizeof *p->b * (usize)(b->k * b->n));
    return OK;
}

static err take_one(adapter_file *f, const model *m, const trained_set *set, const trained *t)
{
    switch (t->kind) {
    case TRAIN_A: return take_pair(f, set, t);
    case TRAIN_B: return OK;
    case TRAIN_PREFIX_K:
    case TRAIN_PREFIX_V: return take_prefix(f, m, t);
    case TRAIN_PROMPT:
        if (t->k != m->h.width)
            return err_new(ERR_INPUT, "a trained prompt of %lld values, expected %lld", (long long)t->k, (long long)m->h.width);
        f->n_prompt = t->n;
        TRY(floats(f, t->k * t->n, &f->prompt));
        memcpy(f->prompt, t->data, sizeof *f->prompt * (usize)(t->k * t->n));
        return OK;
    default: return take_whole(f, m, t);
    }
}

err adapter_of_trained(adapter_file **out, const model *m, const trained_set *set)
{
    adapter_file *f;
    TRY(adapter_new(out, ADAPTER_WEIGHTS));
    f = *out;
    err bad = OK;
    for (usize i = 0; i < set->n && !bad.code; i++) bad = take_one(f, m, set, &set->t[i]);
    f->kind = f->n_pairs ? ADAPTER_LORA : f->n_prompt ? ADAPTER_PROMPT : f->n_prefix ? ADAPTER_PREFIX : ADAPTER_WEIGHTS;
    for (i64 l = 0; f->n_prefix && !bad.code && l < m->h.n_layer; l++)
        if (!f->k[l] || !f->v[l]) bad = err_new(ERR_INPUT, "a trained prefix without layer %lld", (long long)l);
    char hex[65];
    sha256_hex(m->id, hex);
    if (!bad.code) bad = adapter_keep_text(f, &f->base_id, hex, 64);
    if (!bad.code && m->chat_source) {
        sha256_hex(sha256_of(m->chat_source, strlen(m->chat_source)), hex);
        bad = adapter_keep_text(f, &f->chat_id, hex, 64);
    }
    if (bad.code) {
        adapter_free(f);
        *out = NULL;
    }
    return bad;
}
