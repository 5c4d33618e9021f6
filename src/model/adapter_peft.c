/* model/adapter_peft.c - reads adapters: PEFT folders, MLX folders, and the folders that adapter_save writes.
 *
 * Nothing is left over in silence: every tensor of the file binds to the model with its shape, every A has its B, every module
 * that target_modules picks from the model has a pair, every name in target_modules picks something. PEFT stores A as [r, in] and
 * B as [out, r], as maru has them; MLX stores both the other way round, and its `scale` is the factor itself. */
#include "model/adapter_inside.h"
#include <math.h>
#include <stdlib.h>

enum { CONFIG_MAX = 16 << 20 };

static err json_file(json_t **out, const char *folder, const char *name)
{
    buf text = {0}, path = {0};
    json_error_t why;
    *out = NULL;
    buf_fmt(&path, "%s/%s", folder, name);
    err bad = buf_error(&path);
    if (!bad.code) bad = file_read(&text, buf_cstr(&path), CONFIG_MAX);
    if (!bad.code && !(*out = json_loadb(text.p, text.n, JSON_REJECT_DUPLICATES, &why)))
        bad = err_new(json_error_code(&why) == json_error_out_of_memory ? ERR_NOMEM : ERR_FORMAT, "%s:%d: %s", buf_cstr(&path),
                      why.line, why.text);
    if (*out && !json_is_object(*out)) bad = err_new(ERR_FORMAT, "%s: not a JSON object", buf_cstr(&path));
    if (bad.code) json_decref(*out), *out = NULL;
    buf_free(&text);
    buf_free(&path);
    return bad;
}

static bool has_file(const char *folder, const char *name)
{
    char path[4200];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n > 0 && (usize)n < sizeof path && file_exists(path);
}

static err open_tensors(model_file **out, const char *folder, const char *name)
{
    buf path = {0};
    *out = NULL;
    buf_fmt(&path, "%s/%s", folder, name);
    err bad = buf_error(&path);
    if (!bad.code && !file_exists(buf_cstr(&path)))
        bad = has_file(folder, "adapter_model.bin")
                  ? err_new(ERR_UNSUPPORTED, "%s: adapter_model.bin is a Python pickle: save the adapter as safetensors", folder)
                  : err_new(ERR_NOTFOUND, "%s: no %s", folder, name);
    if (!bad.code) bad = safetensors_open(out, buf_cstr(&path));
    buf_free(&path);
    return bad;
}

err adapter_foreign(const char *where, const char *module, const char *base, const model *m)
{
    const char *arch = names_arch(str_of(module));
    char of[96] = "";
    if (base) snprintf(of, sizeof of, " (base model %.60s)", base);
    if (arch && strcmp(arch, m->arch->name) != 0)
        return err_new(ERR_UNSUPPORTED, "%s: '%.80s' is of architecture %s%s, %s is %s", where, module, arch, of,
                       m->path ? m->path : "the model", m->arch->name);
    return err_new(ERR_FORMAT, "%s: '%.80s' binds to no tensor of %s (architecture %s)%s", where, module,
                   m->path ? m->path : "the model", m->arch->name, of);
}

err adapter_read_tensor(const file_tensor *t, const char *where, float *to)
{
    char name[80];
    i64 n = t->n[0] * t->n[1] * t->n[2] * t->n[3];
    snprintf(name, sizeof name, "%.*s", (int)i64_min((i64)t->name.n, 79), t->name.p);
    if ((unsigned)t->type >= DTYPE_COUNT || t->type == I32 || !t->data)
        return err_new(ERR_UNSUPPORTED, "%s: '%s' is not of a float type", where, name);
    if (t->type == F64)
        for (i64 i = 0; i < n; i++) to[i] = (float)((const double *)(const void *)t->data)[i];
    else
        dtype_table[t->type].decode(t->data, to, n);
    for (i64 i = 0; i < n; i++)
        if (!isfinite(to[i]))
            return err_new(ERR_FORMAT, "%s: '%s' has a value that is not finite (at %lld)", where, name, (long long)i);
    return OK;
}

/* ---- keys --------------------------------------------------------------------------------------------------------------- */
typedef enum { PART_A, PART_B, PART_WHOLE } part_kind;
typedef struct {
    char module[200];
    part_kind part;
} tensor_key;

static void cut_out(char *s, const char *what)
{
    char *at = strstr(s, what);
    if (at) memmove(at, at + strlen(what), strlen(at + strlen(what)) + 1);
}

/* "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" -> module and part. Older files have the adapter's name
 * ("default") in it, and wrappers of whole modules leave theirs. */
static err parse_key(str name, const char *where, tensor_key *k)
{
    static const char *const marks[] = {".lora_A.", ".lora_B.", ".lora_a", ".lora_b"}, *const strange[] = {
                                                                                           ".lora_magnitude_vector",
                                                                                           ".lora_embedding_A",
                                                                                           ".lora_embedding_B", ".m"};
    if (str_starts(name, S("base_model.model."))) name.p += 17, name.n -= 17;
    if (name.n >= sizeof k->module)
        return err_new(ERR_FORMAT, "%s: a tensor name of %zu bytes, expected less than %zu", where, name.n, sizeof k->module);
    memcpy(k->module, name.p, name.n);
    k->module[name.n] = 0;
    k->part = PART_WHOLE;
    for (usize i = 0; i < COUNT_OF(strange); i++)
        if (str_ends(name, str_of(strange[i])) || (i < 3 && strstr(k->module, strange[i])))
            return err_new(ERR_UNSUPPORTED, "%s: '%s': this build computes neither DoRA nor pairs of embeddings", where,
                           k->module);
    for (usize i = 0; i < COUNT_OF(marks); i++) {
        char *at = strstr(k->module, marks[i]);
        if (!at) continue;
        if (str_ends(name, S(".bias")))
            return err_new(ERR_UNSUPPORTED, "%s: '%s': a bias beside a low-rank pair (lora_bias)", where, k->module);
        *at = 0;
        k->part = i % 2 ? PART_B : PART_A;
        return OK;
    }
    cut_out(k->module, ".modules_to_save.default");
    cut_out(k->module, ".modules_to_save");
    cut_out(k->module, ".base_layer");
    return OK;
}

/* ---- pairs -------------------------------------------------------------------------------------------------------------- */
typedef struct {
    adapter_file *f;
    const model *m;
    const model_file *file;
    const char *where, *base;
    const lora_flags *flags;        /* NULL: MLX */
    float scale;                    /* of MLX */
    char *outer_here, *outer_there; /* what names_to_hf puts in front, and what this file has instead */
} pair_reader;

static const file_tensor *other_half(const pair_reader *r, str name, bool mlx)
{
    char other[280];
    if (name.n >= sizeof other) return NULL;
    memcpy(other, name.p, name.n);
    other[name.n] = 0;
    char *at = strstr(other, mlx ? ".lora_a" : ".lora_A");
    if (!at) return NULL;
    at[6] = mlx ? 'b' : 'B';
    return file_tensor_find(r->file, str_of(other));
}

/* The module as names_to_hf writes it, and as this file does, differ in front only. */
static err learn_outer(pair_reader *r, const char *module, const char *gguf)
{
    hf_name here;
    if (r->outer_here || strncmp(gguf, "blk.", 4) != 0 || !names_to_hf(r->m->arch->name, gguf, &here)) return OK;
    usize a = strlen(here.name) - strlen(".weight"), b = strlen(module);
    while (a && b && here.name[a - 1] == module[b - 1]) a--, b--;
    r->outer_here = arena_str(r->f->own, here.name, a);
    r->outer_there = arena_str(r->f->own, module, b);
    return r->outer_here && r->outer_there ? OK : err_new(ERR_NOMEM, "out of memory for an adapter");
}

static err pair_scale(const pair_reader *r, const char *module, i64 rank, float *scale)
{
    i64 want;
    double alpha;
    bool targeted;
    *scale = r->scale;
    if (!r->flags) return OK;
    TRY(adapter_rank_alpha(r->flags, r->where, module, &want, &alpha));
    if (want != rank)
        return err_new(ERR_FORMAT, "%s: '%s' has rank %lld, its configuration says %lld", r->where, module, (long long)rank,
                       (long long)want);
    TRY(adapter_targets(r->flags, r->where, module, &targeted));
    if (!targeted) return err_new(ERR_FORMAT, "%s: '%s' is there, but target_modules does not name it", r->where, module);
    *scale = (float)(r->flags->rslora ? alpha / sqrt((double)rank) : alpha / (double)rank);
    return OK;
}

static void turn(const float *from, i64 rows, i64 columns, float *to) /* rows of `columns` values -> the other way round */
{
    for (i64 i = 0; i < rows; i++)
        for (i64 j = 0; j < columns; j++) to[j * rows + i] = from[i * columns + j];
}

/* [rank,n] with the rows in GGUF's order */
static err read_b(const pair_reader *r, const file_tensor *t, const gguf_name *g, low_rank *p)
{
    float *tmp = mem_array(float, p->rank * p->n);
    if (!tmp) return err_new(ERR_NOMEM, "out of memory for an adapter");
    err bad = adapter_read_tensor(t, r->where, r->flags ? tmp : p->b);
    if (!bad.code && !r->flags) turn(p->b, p->rank, p->n, tmp);
    row_order order = g->order == ORDER_TURNED ? ORDER_SAME : g->order; /* B is [out, r] for a Conv1D too */
    if (!bad.code) names_reorder(r->m, order, true, p->rank, p->n, tmp, p->b);
    mem_free(tmp);
    return bad;
}

static err read_a(const pair_reader *r, const file_tensor *t, low_rank *p)
{
    if (r->flags) return adapter_read_tensor(t, r->where, p->a);
    float *tmp = mem_array(float, p->rank * p->k);
    if (!tmp) return err_new(ERR_NOMEM, "out of memory for an adapter");
    err bad = adapter_read_tensor(t, r->where, tmp);
    if (!bad.code) turn(tmp, p->k, p->rank, p->a);
    mem_free(tmp);
    return bad;
}

static err read_pair(pair_reader *r, const file_tensor *a, const tensor_key *key)
{
    bool mlx = !r->flags;
    char weight[220];
    gguf_name g;
    i64 k, n;
    float scale;
    low_rank *p;
    snprintf(weight, sizeof weight, "%s.weight", key->module);
    if (!names_from_hf(r->m->arch->name, str_of(weight), &g) || !adapter_pairs_with(r->m, g.name, &k, &n))
        return adapter_foreign(r->where, key->module, r->base, r->m);
    TRY(learn_outer(r, key->module, g.name));
    const file_tensor *b = other_half(r, a->name, mlx);
    if (!b) return err_new(ERR_FORMAT, "%s: '%s' has an A and no B", r->where, key->module);
    i64 rank = a->n[mlx ? 0 : 1], ak = a->n[mlx ? 1 : 0], bn = b->n[mlx ? 0 : 1], br = b->n[mlx ? 1 : 0];
    if (a->n_dims != 2 || b->n_dims != 2 || ak != k || bn != n || br != rank || rank < 1)
        return err_new(
            ERR_FORMAT,
            "%s: '%s': A of %lld inputs and rank %lld, B of rank %lld and %lld outputs; %s has %lld inputs and %lld outputs",
            r->where, key->module, (long long)ak, (long long)rank, (long long)br, (long long)bn, g.name, (long long)k,
            (long long)n);
    if (adapter_pair_find(r->f, g.name)) return err_new(ERR_FORMAT, "%s: '%s' is there twice", r->where, key->module);
    TRY(pair_scale(r, key->module, rank, &scale));
    TRY(adapter_add_pair(r->f, g.name, k, n, rank, scale, &p));
    TRY(read_a(r, a, p));
    return read_b(r, b, &g, p);
}

static err read_pairs(pair_reader *r)
{
    for (usize i = 0; i < file_n_tensors(r->file); i++) {
        const file_tensor *t = file_tensor_at(r->file, i);
        tensor_key key;
        TRY(parse_key(t->name, r->where, &key));
        if (key.part == PART_A) TRY(read_pair(r, t, &key));
    }
    for (usize i = 0; i < file_n_tensors(r->file); i++) {
        const file_tensor *t = file_tensor_at(r->file, i);
        tensor_key key;
        gguf_name g;
        char weight[220];
        TRY(parse_key(t->name, r->where, &key));
        if (key.part != PART_B) continue;
        snprintf(weight, sizeof weight, "%s.weight", key.module);
        if (!names_from_hf(r->m->arch->name, str_of(weight), &g) || !adapter_pair_find(r->f, g.name))
            return err_new(ERR_FORMAT, "%s: '%s' has a B and no A", r->where, key.module);
    }
    return OK;
}

/* ---- what target_modules asks for --------------------------------------------------------------------------------------- */
static err covered(const pair_reader *r, const char *gguf)
{
    i64 k, n;
    hf_name hf;
    bool targeted, inside = r->outer_here && !strncmp(gguf, "blk.", 4);
    char module[320];
    if (!adapter_pairs_with(r->m, gguf, &k, &n) || !names_to_hf(r->m->arch->name, gguf, &hf)) return OK;
    hf.name[strlen(hf.name) - strlen(".weight")] = 0;
    snprintf(module, sizeof module, "%.200s%s", inside ? r->outer_there : "", hf.name + (inside ? strlen(r->outer_here) : 0));
    TRY(adapter_targets(r->flags, r->where, module, &targeted));
    if (!targeted || adapter_pair_find(r->f, gguf)) return OK;
    return err_new(ERR_FORMAT, "%s: target_modules names '%s', but the file has no pair for it", r->where, module);
}

static err check_targets(const pair_reader *r)
{
    static const char *const kinds[] = {"attn_q",      "attn_k",   "attn_v", "attn_qkv",
                                        "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
    for (i64 l = 0; l < r->m->h.n_layer; l++)
        for (usize i = 0; i < COUNT_OF(kinds); i++) {
            char name[48];
            if (r->m->arch->fused && i < 3) continue;
            snprintf(name, sizeof name, "blk.%d.%s.weight", (int)l, kinds[i]);
            TRY(covered(r, name));
        }
    TRY(covered(r, "output.weight"));
    const json_t *t = json_object_get(r->flags->config, "target_modules");
    for (usize i = 0; i < json_array_size(t); i++) { /* a name that picks nothing is as good as a lost tensor */
        const char *name = json_string_value(json_array_get(t, i));
        bool used = false;
        for (usize p = 0; p < r->f->n_pairs && !used; p++) {
            hf_name hf;
            if (!name || !names_to_hf(r->m->arch->name, r->f->pair[p].name, &hf)) continue;
            str tail = str_of(name), whole = {hf.name, strlen(hf.name) - strlen(".weight")};
            used = str_ends(whole, tail) || str_ends(tail, whole); /* the file may have more in front */
        }
        if (!used)
            return err_new(ERR_FORMAT, "%s: target_modules names '%.60s', but no tensor is for it", r->where, name ? name : "?");
    }
    return r->f->n_pairs ? OK : err_new(ERR_FORMAT, "%s: a LORA adapter without a low-rank pair", r->where);
}

/* ---- whole tensors ------------------------------------------------------------------------------------------------------ */
static err read_whole(adapter_file *f, const file_tensor *t, const char *where, const tensor_key *key, const model *m)
{
    gguf_name g;
    i64 k, n;
    whole_tensor *w;
    if (!names_from_hf(m->arch->name, str_of(key->module), &g) || !adapter_extents(m, g.name, &k, &n))
        return adapter_foreign(where, key->module, f->base_name, m);
    bool turned = g.order == ORDER_TURNED;
    i64 fk = t->n[turned ? 1 : 0], fn = t->n[turned ? 0 : 1];
    if (!strcmp(g.name, "score.weight") && fk % m->h.width) k = m->h.width;
    if (t->n_dims > 2 || (k >= 0 && fk != k) || (n >= 0 && fn != n))
        return err_new(ERR_FORMAT, "%s: '%s' has %lld inputs and %lld outputs, %s has %lld and %lld", where, key->module,
                       (long long)fk, (long long)fn, g.name, (long long)k, (long long)n);
    TRY(adapter_add_whole(f, g.name, fk, fn, &w));
    float *tmp = mem_array(float, fk *fn);
    if (!tmp) return err_new(ERR_NOMEM, "out of memory for an adapter");
    err bad = adapter_read_tensor(t, where, tmp);
    bool vector = fn == 1 && (g.order == ORDER_QUERY || g.order == ORDER_KEY);
    if (!bad.code) names_reorder(m, g.order, true, vector ? 1 : fk, vector ? fk : fn, tmp, w->data);
    mem_free(tmp);
    return bad;
}

err adapter_read_whole(adapter_file *f, const model_file *file, const char *where, const model *m, bool only)
{
    for (usize i = 0; i < file_n_tensors(file); i++) {
        const file_tensor *t = file_tensor_at(file, i);
        tensor_key key;
        TRY(parse_key(t->name, where, &key));
        if (str_eq(t->name, S("prompt_embeddings")) && !only) continue;
        if (key.part == PART_WHOLE)
            TRY(read_whole(f, t, where, &key, m));
        else if (only)
            return err_new(ERR_FORMAT, "%s: '%s' is half of a low-rank pair, expected whole tensors", where, key.module);
    }
    return OK;
}

/* ---- prompts and prefixes ----------------------------------------------------------------------------------------------- */
static err read_prefix(adapter_file *f, const file_tensor *t, const char *where, const model *m)
{
    i64 kv = m->h.n_kv_head * m->h.head_dim, layers = m->h.n_layer, row = 2 * layers * kv;
    row_order order = adapter_key_order(m);
    if (t->n_dims != 2 || t->n[0] != row)
        return err_new(ERR_FORMAT,
                       "%s: prompt_embeddings has rows of %lld values, expected %lld layers of keys and values of %lld", where,
                       (long long)t->n[0], (long long)layers, (long long)kv);
    f->n_prefix = t->n[1];
    f->k = arena_take(f->own, sizeof *f->k * (usize)layers * 2);
    float *all = mem_array(float, row * f->n_prefix);
    err bad = f->k && all ? adapter_read_tensor(t, where, all) : err_new(ERR_NOMEM, "out of memory for an adapter");
    if (!bad.code) f->v = f->k + layers;
    for (i64 l = 0; l < 2 * layers && !bad.code; l++) { /* position by position: layer by layer, its keys, its values */
        float *to = f->k[l % 2 ? layers + l / 2 : l / 2] = arena_take(f->own, sizeof *to * (usize)(kv * i64_max(f->n_prefix, 1)));
        if (!to) bad = err_new(ERR_NOMEM, "out of memory for an adapter");
        for (i64 p = 0; p < f->n_prefix && !bad.code; p++)
            names_reorder(m, l % 2 ? ORDER_SAME : order, true, 1, kv, all + p * row + l * kv, to + p * kv);
    }
    mem_free(all);
    return bad;
}

static err read_given(adapter_file *f, const model_file *file, json_t *config, const char *where, const model *m)
{
    const file_tensor *t = file_tensor_find(file, S("prompt_embeddings"));
    const json_t *n = json_object_get(config, "num_virtual_tokens"),
                 *parts = json_object_get(config, "num_transformer_submodules");
    if (!t) return err_new(ERR_FORMAT, "%s: no tensor prompt_embeddings", where);
    if (json_is_integer(parts) && json_integer_value(parts) != 1)
        return err_new(ERR_UNSUPPORTED, "%s: num_transformer_submodules is %lld, expected 1", where,
                       (long long)json_integer_value(parts));
    if (!json_is_integer(n) || json_integer_value(n) != t->n[1] || t->n[1] < 1)
        return err_new(ERR_FORMAT, "%s: prompt_embeddings has %lld rows, num_virtual_tokens is %lld", where, (long long)t->n[1],
                       (long long)json_integer_value(n));
    if (f->kind == ADAPTER_PREFIX) return read_prefix(f, t, where, m);
    if (t->n_dims != 2 || t->n[0] != m->h.width)
        return err_new(ERR_FORMAT, "%s: prompt_embeddings has vectors of %lld values, %s of %lld", where, (long long)t->n[0],
                       m->path ? m->path : "the model", (long long)m->h.width);
    f->n_prompt = t->n[1];
    f->prompt = arena_take(f->own, sizeof *f->prompt * (usize)(t->n[0] * t->n[1]));
    return f->prompt ? adapter_read_tensor(t, where, f->prompt) : err_new(ERR_NOMEM, "out of memory for an adapter");
}

/* ---- folders ------------------------------------------------------------------------------------------------------------ */
static err keep_member(adapter_file *f, char **to, json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_string(v) ? adapter_keep_text(f, to, json_string_value(v), json_string_length(v)) : OK;
}

static err peft_tensors(adapter_file *f, const char *folder, json_t *config, const model_file *file, const model *m)
{
    if (f->kind != ADAPTER_LORA) {
        TRY(read_given(f, file, config, folder, m));
    } else {
        lora_flags flags;
        TRY(adapter_lora_flags(config, folder, &flags));
        pair_reader r = {.f = f, .m = m, .file = file, .where = folder, .base = f->base_name, .flags = &flags};
        TRY(read_pairs(&r));
        TRY(check_targets(&r));
    }
    return adapter_read_whole(f, file, folder, m, false);
}

err adapter_read_peft(adapter_file **out, const char *folder, json_t *config, const model *m)
{
    const char *type = json_string_value(json_object_get(config, "peft_type"));
    model_file *file = NULL;
    *out = NULL;
    adapter_kind kind = ADAPTER_LORA;
    if (!type) return err_new(ERR_FORMAT, "%s: peft_type is not text", folder);
    if (!strcmp(type, "PROMPT_TUNING") || !strcmp(type, "P_TUNING"))
        kind = ADAPTER_PROMPT;
    else if (!strcmp(type, "PREFIX_TUNING"))
        kind = ADAPTER_PREFIX;
    else if (strcmp(type, "LORA") != 0)
        return err_new(ERR_UNSUPPORTED,
                       "%s: peft_type is %.40s: this build reads LORA, PROMPT_TUNING, P_TUNING and PREFIX_TUNING", folder, type);
    TRY(adapter_check_flags(config, folder, kind == ADAPTER_LORA));
    TRY(adapter_new(out, kind));
    err bad = keep_member(*out, &(*out)->base_name, config, "base_model_name_or_path");
    if (!bad.code) bad = open_tensors(&file, folder, "adapter_model.safetensors");
    if (!bad.code) bad = peft_tensors(*out, folder, config, file, m);
    model_file_close(file);
    if (bad.code) adapter_free(*out), *out = NULL;
    return bad;
}

err adapter_read_mlx(adapter_file **out, const char *folder, json_t *config, const model *m)
{
    static const char *const known[] = {"rank", "alpha", "dropout", "scale", "keys"};
    json_t *p = json_object_get(config, "lora_parameters"), *v, *scale = json_object_get(p, "scale");
    const char *type = json_string_value(json_object_get(config, "fine_tune_type")), *key;
    model_file *file = NULL;
    *out = NULL;
    if (type && strcmp(type, "lora") != 0)
        return err_new(ERR_UNSUPPORTED, "%s: fine_tune_type is %.40s: of MLX this build reads lora", folder, type);
    if (json_is_true(json_object_get(config, "use_dora")))
        return err_new(ERR_UNSUPPORTED,
                       "%s: use_dora is true: DoRA also learns the length of every row, which this build does not compute",
                       folder);
    json_object_foreach(p, key, v)
    {
        bool is_known = json_is_null(v) || json_is_false(v);
        for (usize i = 0; i < COUNT_OF(known); i++) is_known |= !strcmp(known[i], key);
        if (!is_known)
            return err_new(
                ERR_UNSUPPORTED,
                "%s: the flag lora_parameters.%.60s is not known here, and it may change what the adapter's numbers mean", folder,
                key);
    }
    if (scale && !json_is_number(scale)) return err_new(ERR_FORMAT, "%s: lora_parameters.scale is not a number", folder);
    TRY(adapter_new(out, ADAPTER_LORA));
    err bad = keep_member(*out, &(*out)->base_name, config, "model");
    if (!bad.code) bad = open_tensors(&file, folder, "adapters.safetensors");
    pair_reader r = {.f = *out,
                     .m = m,
                     .file = file,
                     .where = folder,
                     .base = (*out)->base_name,
                     .scale = scale ? (float)json_number_value(scale) : 20.0f};
    if (!bad.code) bad = read_pairs(&r);
    if (!bad.code && !(*out)->n_pairs) bad = err_new(ERR_FORMAT, "%s: no low-rank pair", folder);
    if (!bad.code) bad = adapter_read_whole(*out, file, folder, m, false);
    model_file_close(file);
    if (bad.code) adapter_free(*out), *out = NULL;
    return bad;
}

/* ---- maru.json ---------------------------------------------------------------------------------------------------------- */
static err read_labels(adapter_file *f, const char *folder, const json_t *list)
{
    usize n = json_array_size(list);
    if (!n) return OK;
    f->label = arena_take(f->own, sizeof *f->label * n);
    if (!f->label) return err_new(ERR_NOMEM, "out of memory for an adapter");
    for (usize i = 0; i < n; i++) {
        json_t *o = json_array_get(list, i);
        TRY(keep_member(f, &f->label[i].label, o, "label"));
        TRY(keep_member(f, &f->label[i].words, o, "words"));
        if (!f->label[i].label) return err_new(ERR_FORMAT, "%s/maru.json: label %zu has no name", folder, i);
    }
    f->n_labels = n;
    return OK;
}

static err read_extras(adapter_file *f, const char *folder, json_t *o)
{
    static const char *const pools[] = {"mean", "first", "last"};
    const char *how = json_string_value(json_object_get(o, "pool"));
    TRY(keep_member(f, &f->way, o, "way"));
    TRY(keep_member(f, &f->base_id, o, "base"));
    TRY(keep_member(f, &f->chat_id, o, "chat_template"));
    TRY(keep_member(f, &f->text_form, o, "template"));
    if (!f->base_name) TRY(keep_member(f, &f->base_name, o, "base_name"));
    for (usize i = 0; how && i < COUNT_OF(pools); i++)
        if (!strcmp(how, pools[i])) f->pool = (pool_kind)i;
    return read_labels(f, folder, json_object_get(o, "labels"));
}

static void compare(const adapter_file *f, const char *folder, const model *m)
{
    char hex[65];
    sha256_hex(m->id, hex);
    if (f->base_id && strcmp(f->base_id, hex) != 0)
        log_line(LOG_WARN, "%s was made for another file than %s: its quality may differ", folder,
                 m->path ? m->path : "this model");
    if (!f->chat_id || !m->chat_source) return;
    sha256_hex(sha256_of(m->chat_source, strlen(m->chat_source)), hex);
    if (strcmp(f->chat_id, hex) != 0)
        log_line(LOG_WARN, "%s was made with another chat template than that of %s", folder, m->path ? m->path : "this model");
}

static err read_own(adapter_file **out, const char *folder, const model *m) /* whole tensors, no PEFT configuration */
{
    model_file *file = NULL;
    TRY(open_tensors(&file, folder, "adapter_model.safetensors"));
    err bad = adapter_new(out, ADAPTER_WEIGHTS);
    if (!bad.code) bad = adapter_read_whole(*out, file, folder, m, true);
    model_file_close(file);
    return bad;
}

static err load_folder(adapter_file **out, const char *folder, const model *m)
{
    json_t *config = NULL, *own = NULL;
    err bad = has_file(folder, "maru.json") ? json_file(&own, folder, "maru.json") : OK;
    bool only_whole = own && !has_file(folder, "adapter_config.json");
    if (!bad.code && !only_whole) bad = json_file(&config, folder, "adapter_config.json");
    if (!bad.code && only_whole)
        bad = read_own(out, folder, m);
    else if (!bad.code && json_object_get(config, "peft_type"))
        bad = adapter_read_peft(out, folder, config, m);
    else if (!bad.code && (json_object_get(config, "lora_parameters") || json_object_get(config, "fine_tune_type")))
        bad = adapter_read_mlx(out, folder, config, m);
    else if (!bad.code)
        bad = err_new(ERR_FORMAT, "%s/adapter_config.json: neither PEFT's (no peft_type) nor MLX's (no lora_parameters)", folder);
    if (!bad.code && own) bad = read_extras(*out, folder, own);
    if (!bad.code) compare(*out, folder, m);
    json_decref(config);
    json_decref(own);
    return bad;
}

err adapter_load(adapter_file **out, const char *path, const model *m)
{
    *out = NULL;
    if (!file_exists(path)) return err_new(ERR_NOTFOUND, "%s: no such adapter", path);
    err bad = file_is_dir(path) ? load_folder(out, path, m) : adapter_read_gguf(out, path, m);
    if (bad.code) adapter_free(*out), *out = NULL;
    return bad;
}
