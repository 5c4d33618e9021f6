/* model/adapter_save.c - writes an adapter as a PEFT folder, and beside it maru.json with what PEFT has no field for.
 *
 * Ranks and factors that differ from pair to pair go into rank_pattern and alpha_pattern under the module's whole name; alpha is
 * written for alpha/r, so that use_rslora stays false and every reader computes the same. Names are those of the model class that
 * a PEFT user would load (LlamaForCausalLM ...); where q, k and v of a fused tensor were trained apart, PEFT has one pair for
 * them, of their ranks together. */
#include "model/adapter_inside.h"
#include <math.h>
#include <stdlib.h>

typedef struct {
    char *name;
    const float *data;
    i64 k, n;
    bool vector;
} out_tensor; /* [k,n] as it is written */
typedef struct {
    const adapter_file *f;
    const model *m;
    arena *own;
    out_tensor *t;
    usize n, cap;
} saver;

static err no_memory(void) { return err_new(ERR_NOMEM, "out of memory while saving an adapter"); }

static err list(saver *s, char *name, const float *data, i64 k, i64 n, bool vector)
{
    if (!name || !data || !VEC_PUSH(s->t, s->n, s->cap, ((out_tensor){name, data, k, n, vector}))) return no_memory();
    return OK;
}

static err name_there(const saver *s, const char *gguf, hf_name *out)
{
    if (names_to_hf(s->m->arch->name, gguf, out)) return OK;
    return err_new(ERR_UNSUPPORTED, "'%s' has no name in Hugging Face's %s", gguf, s->m->arch->name);
}

/* ---- pairs -------------------------------------------------------------------------------------------------------------- */
static bool part_of_fused(const model *m, const char *name, int *layer, int *part)
{
    char which;
    int at = 0;
    if (!m->arch->fused || sscanf(name, "blk.%d.attn_%c.weight%n", layer, &which, &at) != 2 || !at || name[at]) return false;
    *part = which == 'q' ? 0 : which == 'k' ? 1 : 2;
    return true;
}

/* q, k, v of one layer -> one pair: a on top of one another, b as blocks with their factors in them */
static err fuse(saver *s, int layer, low_rank *out)
{
    const layer_weights *w = &s->m->layers[layer];
    const model_weight *part[] = {&w->q, &w->k, &w->v};
    i64 n = w->q.n + w->k.n + w->v.n, k = w->q.k, rank = 0, at = 0, row = 0;
    for (int i = 0; i < 3; i++) {
        const low_rank *p = adapter_pair_find(s->f, part[i]->name);
        rank += p ? p->rank : 0;
    }
    *out = (low_rank){.k = k,
                      .n = n,
                      .rank = rank,
                      .scale = 1,
                      .a = arena_take(s->own, sizeof(float) * (usize)(k * rank)),
                      .b = arena_take(s->own, sizeof(float) * (usize)(rank * n))};
    snprintf(out->name, sizeof out->name, "blk.%d.attn_qkv.weight", layer);
    if (!out->a || !out->b) return no_memory();
    for (int i = 0; i < 3; row += part[i++]->n) {
        const low_rank *p = adapter_pair_find(s->f, part[i]->name);
        if (!p) continue;
        memcpy(out->a + k * at, p->a, sizeof *p->a * (usize)(k * p->rank));
        for (i64 r = 0; r < p->n; r++)
            for (i64 j = 0; j < p->rank; j++) out->b[(row + r) * rank + at + j] = p->b[r * p->rank + j] * p->scale;
        at += p->rank;
    }
    return OK;
}

typedef struct {
    json_t *targets, *ranks, *alphas;
    i64 rank;
    double alpha;
} lora_config;

static err list_pair(saver *s, const low_rank *p, lora_config *c)
{
    hf_name there;
    TRY(name_there(s, p->name, &there));
    char *hf = there.name;
    row_order order = there.order;
    hf[strlen(hf) - strlen(".weight")] = 0;
    if (order == ORDER_TURNED) order = ORDER_SAME;
    float *b = p->b;
    if (order != ORDER_SAME) {
        b = arena_take(s->own, sizeof *b * (usize)(p->rank * p->n));
        if (!b) return no_memory();
        names_reorder(s->m, order, false, p->rank, p->n, p->b, b);
    }
    TRY(list(s, arena_fmt(s->own, "base_model.model.%s.lora_A.weight", hf), p->a, p->k, p->rank, false));
    TRY(list(s, arena_fmt(s->own, "base_model.model.%s.lora_B.weight", hf), b, p->rank, p->n, false));
    double alpha = (double)p->scale * (double)p->rank;
    if (!c->rank) c->rank = p->rank, c->alpha = alpha;
    bool failed = json_array_append_new(c->targets, json_string(hf));
    buf key = {0}; /* a pattern: dots stand for themselves */
    for (const char *at = hf; *at; at++) buf_puts(&key, *at == '.' ? "\\." : (char[2]){*at});
    TRY(buf_error(&key));
    if (p->rank != c->rank) failed |= json_object_set_new(c->ranks, buf_cstr(&key), json_integer(p->rank));
    if (fabs(alpha - c->alpha) > 1e-6 * fabs(c->alpha))
        failed |= json_object_set_new(c->alphas, buf_cstr(&key), json_real(alpha));
    buf_free(&key);
    return failed ? no_memory() : OK;
}

static err list_pairs(saver *s, lora_config *c)
{
    for (usize i = 0; i < s->f->n_pairs; i++) {
        const low_rank *p = &s->f->pair[i];
        low_rank whole;
        int layer, part;
        if (!part_of_fused(s->m, p->name, &layer, &part)) {
            TRY(list_pair(s, p, c));
            continue;
        }
        bool first = true; /* of its layer: it brings the others along */
        for (usize j = 0; j < i; j++) {
            int other, which;
            if (part_of_fused(s->m, s->f->pair[j].name, &other, &which) && other == layer) first = false;
        }
        if (!first) continue;
        TRY(fuse(s, layer, &whole));
        TRY(list_pair(s, &whole, c));
    }
    return OK;
}

/* ---- the rest ----------------------------------------------------------------------------------------------------------- */
/* A part of a fused tensor that was trained whole: the other parts are written as the model has them. NULL in *out: not the first
 * part of its tensor, nothing is left to write. */
static err fuse_whole(saver *s, const whole_tensor *w, whole_tensor *out)
{
    model_weight *part[3];
    int layer, at = 0;
    char which;
    *out = *w;
    if (!s->m->arch->fused || sscanf(w->name, "blk.%d.attn_%c.%n", &layer, &which, &at) != 2 || !at || !strchr("qkv", which))
        return OK;
    snprintf(out->name, sizeof out->name, "blk.%d.attn_qkv.%s", layer, w->name + at);
    if (!adapter_fused(s->m, out->name, part)) return err_new(ERR_BUG, "%s: no tensor that it is a part of", w->name);
    i64 each = 0, k = part[0]->k;
    for (int i = 0; i < 3; i++) each += part[i]->k * part[i]->n;
    out->n = part[0]->n == 1 ? 1 : each / k, out->k = part[0]->n == 1 ? each : k;
    float *to = out->data = arena_take(s->own, sizeof *to * (usize)each);
    if (!to) return no_memory();
    for (int i = 0; i < 3; to += part[i]->k * part[i]->n, i++) {
        const whole_tensor *own = NULL;
        for (usize j = 0; j < s->f->n_whole; j++)
            if (!strcmp(s->f->whole[j].name, part[i]->name)) own = &s->f->whole[j];
        if (own && own < w) return out->data = NULL, OK; /* written with that one */
        if (own)
            memcpy(to, own->data, sizeof *to * (usize)(own->k * own->n));
        else
            weight_decode(part[i]->type, part[i]->lay, part[i]->k, part[i]->data, 0, part[i]->n, to);
    }
    return OK;
}

static err list_whole(saver *s, const whole_tensor *w, json_t *modules, bool peft)
{
    whole_tensor fused;
    TRY(fuse_whole(s, w, &fused));
    if (!fused.data) return OK;
    w = &fused;
    hf_name there;
    TRY(name_there(s, w->name, &there));
    char *hf = there.name;
    row_order order = there.order;
    bool vector = str_ends(str_of(w->name), S(".bias")) || strstr(w->name, "norm") != NULL, turned = order == ORDER_TURNED;
    float *data = w->data;
    if (order != ORDER_SAME) {
        bool rows = vector && (order == ORDER_QUERY || order == ORDER_KEY);
        data = arena_take(s->own, sizeof *data * (usize)(w->k * w->n));
        if (!data) return no_memory();
        names_reorder(s->m, order, false, rows ? 1 : w->k, rows ? w->k : w->n, w->data, data);
    }
    TRY(list(s, arena_fmt(s->own, peft ? "base_model.model.%s" : "%s", hf), data, turned ? w->n : w->k, turned ? w->k : w->n,
             vector));
    char *end = strrchr(hf, '.');
    if (end) *end = 0;
    for (usize i = 0; i < json_array_size(modules); i++)
        if (!strcmp(json_string_value(json_array_get(modules, i)), hf)) return OK;
    return json_array_append_new(modules, json_string(hf)) ? no_memory() : OK;
}

static err list_given(saver *s)
{
    const adapter_file *f = s->f;
    i64 kv = s->m->h.n_kv_head * s->m->h.head_dim, layers = s->m->h.n_layer, row = 2 * layers * kv;
    if (f->kind == ADAPTER_PROMPT)
        return list(s, arena_fmt(s->own, "prompt_embeddings"), f->prompt, s->m->h.width, f->n_prompt, false);
    row_order order = adapter_key_order(s->m);
    float *all = arena_take(s->own, sizeof *all * (usize)(row * f->n_prefix));
    if (!all) return no_memory();
    for (i64 p = 0; p < f->n_prefix; p++)
        for (i64 l = 0; l < layers; l++) {
            names_reorder(s->m, order, false, 1, kv, f->k[l] + p * kv, all + p * row + 2 * l * kv);
            memcpy(all + p * row + (2 * l + 1) * kv, f->v[l] + p * kv, sizeof *all * (usize)kv);
        }
    return list(s, arena_fmt(s->own, "prompt_embeddings"), all, row, f->n_prefix, false);
}

static const char *task_of(const saver *s)
{
    for (usize i = 0; i < s->f->n_whole; i++)
        if (str_starts(str_of(s->f->whole[i].name), S("score."))) return "SEQ_CLS";
    return s->m->arch->encoder ? "FEATURE_EXTRACTION" : "CAUSAL_LM";
}

/* The one way to say which model was meant: what the adapter knows, else the name in the model's file. */
static const char *base_of(const saver *s)
{
    str name;
    if (s->f->base_name) return s->f->base_name;
    if (s->m->file && file_meta(s->m->file, "general.name") && !file_str(s->m->file, "general.name", &name).code) {
        char *copy = arena_str(s->own, name.p, name.n);
        if (copy && utf8_valid(name)) return copy;
    }
    return s->m->path ? s->m->path : "";
}

static json_t *lora_json(const saver *s, const lora_config *c, json_t *modules)
{
    json_t *o =
        json_pack("{s:s,s:s,s:s,s:b,s:I,s:f,s:f,s:O,s:O,s:O,s:b,s:s,s:b,s:b}", "peft_type", "LORA", "task_type", task_of(s),
                  "base_model_name_or_path", base_of(s), "inference_mode", 1, "r", (json_int_t)c->rank, "lora_alpha", c->alpha,
                  "lora_dropout", 0.0, "target_modules", c->targets, "rank_pattern", c->ranks, "alpha_pattern", c->alphas,
                  "use_rslora", 0, "bias", "none", "fan_in_fan_out", s->m->arch->fused, "init_lora_weights", 1);
    if (o && json_array_size(modules) && json_object_set(o, "modules_to_save", modules)) json_decref(o), o = NULL;
    return o;
}

static json_t *given_json(const saver *s, json_t *modules)
{
    const hparams *h = &s->m->h;
    bool prefix = s->f->kind == ADAPTER_PREFIX;
    json_t *o =
        json_pack("{s:s,s:s,s:s,s:b,s:I,s:I,s:I,s:I,s:I}", "peft_type", prefix ? "PREFIX_TUNING" : "PROMPT_TUNING", "task_type",
                  task_of(s), "base_model_name_or_path", base_of(s), "inference_mode", 1, "num_virtual_tokens",
                  (json_int_t)(prefix ? s->f->n_prefix : s->f->n_prompt), "num_transformer_submodules", (json_int_t)1,
                  "num_layers", (json_int_t)h->n_layer, "num_attention_heads", (json_int_t)(prefix ? h->n_kv_head : h->n_head),
                  "token_dim", (json_int_t)(prefix ? h->n_kv_head * h->head_dim : h->width));
    if (o && prefix && json_object_set_new(o, "prefix_projection", json_false())) json_decref(o), o = NULL;
    if (o && json_array_size(modules) && json_object_set(o, "modules_to_save", modules)) json_decref(o), o = NULL;
    return o;
}

static json_t *extras_json(const saver *s)
{
    static const char *const pools[] = {"mean", "first", "last"}, *const kinds[] = {"lora", "prompt", "prefix", "weights"};
    const adapter_file *f = s->f;
    json_t *labels = json_array(), *o;
    for (usize i = 0; i < f->n_labels; i++)
        json_array_append_new(labels, json_pack("{s:s,s:s*}", "label", f->label[i].label, "words", f->label[i].words));
    o = json_pack("{s:i,s:s,s:s,s:s,s:s*,s:s*,s:s*,s:s*,s:s}", "version", 1, "kind", kinds[f->kind], "architecture",
                  s->m->arch->name, "base_name", base_of(s), "way", f->way, "base", f->base_id, "chat_template", f->chat_id,
                  "template", f->text_form, "pool", pools[f->pool]);
    if (o && f->n_labels && json_object_set(o, "labels", labels)) json_decref(o), o = NULL;
    json_decref(labels);
    return o;
}

/* ---- files -------------------------------------------------------------------------------------------------------------- */
static err write_tensors(const saver *s, const char *folder)
{
    safetensors_writer *w;
    buf path = {0};
    buf_fmt(&path, "%s/adapter_model.safetensors", folder);
    err bad = buf_error(&path);
    if (!bad.code) bad = safetensors_create(&w, buf_cstr(&path));
    buf_free(&path);
    TRY(bad);
    for (usize i = 0; i < s->n && !bad.code; i++)
        bad = safetensors_put_tensor(w, str_of(s->t[i].name), F32, s->t[i].vector ? 1 : 2, (i64[]){s->t[i].k, s->t[i].n});
    for (usize i = 0; i < s->n && !bad.code; i++)
        bad = safetensors_put_data(w, s->t[i].data, sizeof *s->t[i].data * (usize)(s->t[i].k * s->t[i].n));
    if (!bad.code) return safetensors_commit(w);
    safetensors_drop(w);
    return bad;
}

static err write_json(json_t *o, const char *folder, const char *name) /* takes it over */
{
    char *text = o ? json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    buf path = {0};
    buf_fmt(&path, "%s/%s", folder, name);
    err bad = text ? buf_error(&path) : no_memory();
    if (!bad.code) bad = file_replace(buf_cstr(&path), text, strlen(text));
    buf_free(&path);
    free(text); /* jansson's memory */
    json_decref(o);
    return bad;
}

static err save(saver *s, const char *folder, json_t *modules, lora_config *c)
{
    bool peft = s->f->kind != ADAPTER_WEIGHTS;
    TRY(list_pairs(s, c));
    for (usize i = 0; i < s->f->n_whole; i++) TRY(list_whole(s, &s->f->whole[i], modules, peft));
    if (s->f->kind == ADAPTER_PROMPT || s->f->kind == ADAPTER_PREFIX) TRY(list_given(s));
    if (!s->n) return err_new(ERR_INPUT, "%s: an adapter with nothing in it", folder);
    TRY(file_mkdirs(folder));
    TRY(write_tensors(s, folder));
    TRY(write_json(extras_json(s), folder, "maru.json"));
    if (!peft) { /* a configuration that another run left here would say that these are pairs */
        buf path = {0};
        buf_fmt(&path, "%s/adapter_config.json", folder);
        err bad = buf_error(&path);
        if (!bad.code) bad = file_remove_tree(buf_cstr(&path));
        buf_free(&path);
        return bad;
    }
    return write_json(s->f->kind == ADAPTER_LORA ? lora_json(s, c, modules) : given_json(s, modules), folder,
                      "adapter_config.json");
}

err adapter_save(const adapter_file *f, const char *folder, const model *m)
{
    saver s = {.f = f, .m = m, .own = arena_new()};
    lora_config c = {.targets = json_array(), .ranks = json_object(), .alphas = json_object()};
    json_t *modules = json_array();
    err bad = s.own && c.targets && c.ranks && c.alphas && modules ? save(&s, folder, modules, &c) : no_memory();
    json_decref(modules);
    json_decref(c.targets);
    json_decref(c.ranks);
    json_decref(c.alphas);
    arena_free(s.own);
    mem_free(s.t);
    return bad;
}
