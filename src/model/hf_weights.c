/* model/hf_weights.c - the safetensors of a folder as a GGUF's tensors: one file, or the shards that model.safetensors.index.json
 * names. names.c gives each its name and says in which order its numbers stand; vectors become F32, because every kernel reads
 * norms and biases so and GGUF keeps them so. A tensor that nobody knows is refused: it would change the model unseen. */
#include "model/hf.h"
#include <math.h>

/* buffers that are no weights (tables made anew at every start, masks), and heads of tasks that maru does not run */
static const char *const passed_over[] = {".position_ids", "rotary_emb.inv_freq", ".attn.masked_bias", "cls.predictions.", "cls.seq_relationship."};

static bool is_passed_over(const arch_row *a, str name)
{
    for (usize i = 0; i < COUNT_OF(passed_over); i++)
        if (str_find(name, str_of(passed_over[i]), 0) >= 0) return true;
    return a->fused && str_ends(name, S(".attn.bias")); /* GPT-2's causal mask */
}

/* ---- numbers ----------------------------------------------------------------------------------------------------------- */
/* row r there -> row here: the pairs (i, i + half) of a head become (2i, 2i + 1) */
static i64 row_here(i64 r, i64 head_dim)
{
    i64 half = head_dim / 2, in = r % head_dim;
    return r - in + 2 * (in % half) + in / half;
}

static void turn(const u8 *from, u8 *to, i64 k, i64 n, usize size) /* theirs: k rows of n values */
{
    enum { TILE = 32 };
    for (i64 r0 = 0; r0 < n; r0 += TILE)
        for (i64 i0 = 0; i0 < k; i0 += TILE)
            for (i64 r = r0; r < i64_min(r0 + TILE, n); r++)
                for (i64 i = i0; i < i64_min(i0 + TILE, k); i++) memcpy(to + (usize)(r * k + i) * size, from + (usize)(i * n + r) * size, size);
}

static void make(const file_tensor *t, const file_source *s, u8 *to)
{
    i64 k = t->n[0], n = t->n[1] * t->n[2] * t->n[3];
    bool rows = s->order == ORDER_QUERY || s->order == ORDER_KEY;
    usize size = (usize)dtype_table[t->type].bytes, row = size * (usize)k;
    if (t->type != s->from->type) { /* vectors, to F32 */
        dtype_table[s->from->type].decode(s->from->data, (float *)(void *)to, k * n);
    } else if (s->order == ORDER_TURNED) {
        turn(s->from->data, to, k, n, size);
    } else if (rows && n > 1) {
        for (i64 r = 0; r < n; r++) memcpy(to + (usize)row_here(r, s->head_dim) * row, s->from->data + (usize)r * row, row);
    } else {
        memcpy(to, s->from->data, t->bytes);
    }
    float *v = (float *)(void *)to;
    if (s->order == ORDER_NORM)
        for (i64 i = 0; i < k; i++) v[i] += 1.0f;
    if (!rows || n > 1) return;
    for (i64 head = 0; head < k; head += s->head_dim) { /* a bias in the order of the rows */
        float old[1 << 12];
        memcpy(old, v + head, sizeof *old * (usize)s->head_dim);
        for (i64 i = 0; i < s->head_dim; i++) v[head + row_here(i, s->head_dim)] = old[i];
    }
}

err hf_tensor_data(const model_file *f, usize i, buf *room, const u8 **data)
{
    const file_tensor *t = &f->tensors[i];
    *data = t->data;
    if (t->data || !f->source || !f->source[i].from) return OK;
    buf_reset(room);
    if (!buf_reserve(room, t->bytes)) return err_new(ERR_NOMEM, "%s: no memory for a tensor of %zu bytes", f->name, t->bytes);
    make(t, &f->source[i], (u8 *)room->p);
    *data = (const u8 *)room->p;
    return OK;
}

/* ---- one tensor -------------------------------------------------------------------------------------------------------- */
typedef struct {
    hf_reader *r;
    const model_file *shard;
    i64 head_dim;
    bool tied, head; /* lm_head is the embedding; there is one */
    usize cap;       /* of r->f->source */
} gatherer;

static err unknown_tensor(const gatherer *g, str name)
{
    char shown[SHOWN];
    const char *arch = names_arch(name);
    return err_new(ERR_UNSUPPORTED, "%s: tensor '%s' is none of a %s model%s%s", g->shard->name, file_shown(name, shown), g->r->arch->name,
                   arch && strcmp(arch, g->r->arch->name) != 0 ? ", but of " : "", arch && strcmp(arch, g->r->arch->name) != 0 ? arch : "");
}

static err check_tensor(const gatherer *g, const file_tensor *from, const file_tensor *t, row_order order)
{
    char shown[SHOWN];
    file_shown(from->name, shown);
    if (from->type != F32 && from->type != F16 && from->type != BF16)
        return err_new(ERR_UNSUPPORTED, "%s: tensor '%s' has a dtype that this build does not compute with, expected F32, F16 or BF16", g->shard->name, shown);
    if (!from->bytes || t->n_dims > 2)
        return err_new(ERR_FORMAT, "%s: tensor '%s' is [%lld,%lld,%lld], expected a vector or a matrix", g->shard->name, shown, (long long)from->n[0],
                       (long long)from->n[1], (long long)from->n[2]);
    i64 rows = t->n_dims < 2 ? t->n[0] : t->n[1];
    if ((order == ORDER_QUERY || order == ORDER_KEY) && rows % g->head_dim)
        return err_new(ERR_FORMAT, "%s: tensor '%s' has %lld rows, expected heads of %lld", g->shard->name, shown, (long long)rows, (long long)g->head_dim);
    if ((order == ORDER_NORM) != (t->n_dims < 2) && order == ORDER_NORM)
        return err_new(ERR_FORMAT, "%s: tensor '%s' is a matrix, expected a vector", g->shard->name, shown);
    return OK;
}

static err put_tensor(gatherer *g, const char *name, file_tensor t, file_source s)
{
    model_file *f = g->r->f;
    t.name = (str){arena_str(f->own, name, strlen(name)), strlen(name)};
    if (!t.name.p) return hf_no_memory(g->r);
    CHECK(f->n_tensors < g->cap);
    f->source[f->n_tensors] = s;
    return model_file_add_tensor(f, &t, 0);
}

static err add_tensor(gatherer *g, const file_tensor *from)
{
    gguf_name name;
    file_tensor t = *from;
    if (is_passed_over(g->r->arch, from->name)) return OK;
    if (!names_from_hf(g->r->arch->name, from->name, &name)) return unknown_tensor(g, from->name);
    if (!strcmp(name.name, "output.weight")) {
        if (g->tied) return OK;
        g->head = true;
    }
    if (!t.n_dims) t.n_dims = 1;
    TRY(check_tensor(g, from, &t, name.order));
    if (t.n_dims < 2 || !strcmp(name.name, "token_types.weight")) t.type = F32;
    if (name.order == ORDER_TURNED && t.n_dims == 2) t.n[0] = from->n[1], t.n[1] = from->n[0];
    bool same = t.type == from->type && (name.order == ORDER_SAME || (name.order == ORDER_TURNED && t.n_dims < 2));
    t.bytes = (usize)(t.n[0] * t.n[1]) * (usize)dtype_table[t.type].bytes;
    if (!same) t.data = NULL;
    if (!strcmp(name.name, "token_embd.weight")) g->r->n_rows = t.n[1];
    return put_tensor(g, name.name, t, (file_source){same ? NULL : from, name.order, g->head_dim});
}

/* ---- files ------------------------------------------------------------------------------------------------------------- */
static err open_shard(hf_reader *r, const char *name)
{
    model_file *part = NULL, *f = r->f;
    if (!file_name_fits(str_of(name), 255) || strchr(name, '/') || name[0] == '.')
        return err_new(ERR_FORMAT, "%s/model.safetensors.index.json: '%.60s' is no name of a file beside it", r->folder, name);
    char *path = hf_path(r, name);
    if (!path) return hf_no_memory(r);
    err bad = safetensors_open(&part, path);
    mem_free(path);
    if (!bad.code && !VEC_PUSH(f->parts, f->n_parts, f->parts_cap, part)) {
        model_file_close(part);
        bad = hf_no_memory(r);
    }
    return bad;
}

static err open_listed(hf_reader *r, json_t *files)
{
    static const char index[] = "model.safetensors.index.json";
    const char *one;
    json_t *value;
    err bad = OK;
    map *seen = map_new();
    if (!seen) return hf_no_memory(r);
    if (!json_is_object(files)) bad = hf_wrong(r, ERR_FORMAT, index, "weight_map", files, "an object of names and files");
    json_object_foreach(files, one, value)
    {
        u64 at;
        if (bad.code) break;
        const char *name = json_string_value(value);
        if (!name) bad = hf_wrong(r, ERR_FORMAT, index, one, value, "the name of a file");
        if (!bad.code && !map_get(seen, str_of(name), &at)) {
            at = r->f->n_parts;
            bad = open_shard(r, name);
            if (!bad.code && !map_put(seen, str_of(name), at)) bad = hf_no_memory(r);
        }
        if (!bad.code && !file_tensor_find(r->f->parts[at], str_of(one)))
            bad = err_new(ERR_FORMAT, "%s/%s: no tensor '%.80s', which model.safetensors.index.json places there", r->folder, name, one);
    }
    map_free(seen);
    return bad;
}

static bool is_here(const hf_reader *r, const char *name)
{
    char *path = hf_path(r, name);
    bool yes = path && file_exists(path);
    mem_free(path);
    return yes;
}

static err open_files(hf_reader *r)
{
    json_t *index;
    TRY(hf_json(r, "model.safetensors.index.json", false, &index));
    if (index) {
        err bad = open_listed(r, json_object_get(index, "weight_map"));
        json_decref(index);
        return bad;
    }
    if (!is_here(r, "model.safetensors")) {
        bool pickled = is_here(r, "pytorch_model.bin") || is_here(r, "pytorch_model.bin.index.json");
        return err_new(pickled ? ERR_UNSUPPORTED : ERR_NOTFOUND, "%s: no model.safetensors%s", r->folder,
                       pickled ? ": pytorch_model.bin is a pickle, which can run programs; save the model as safetensors" : " and no model.safetensors.index.json");
    }
    return open_shard(r, "model.safetensors");
}

/* ---- all of them ------------------------------------------------------------------------------------------------------- */
/* what rope_freqs.weight divides the angles by (the formula of llama 3.1's configuration) */
static err put_factors(gatherer *g)
{
    model_file *f = g->r->f;
    const meta *m = file_meta(f, "maru.rope.llama3");
    float x[4];
    if (!m) return OK;
    memcpy(x, m->array, sizeof x);
    i64 n = g->head_dim / 2;
    float *out = arena_take(f->own, sizeof *out * (usize)n);
    if (!out) return hf_no_memory(g->r);
    double theta = file_f64_or(f, "llama.rope.freq_base", 1e4);
    for (i64 i = 0; i < n; i++) {
        double wave = 2 * M_PI * pow(theta, (double)(2 * i) / (double)g->head_dim), turns = (double)x[3] / wave;
        double smooth = (turns - (double)x[1]) / ((double)x[2] - (double)x[1]);
        smooth = smooth < 0 ? 0 : smooth > 1 ? 1 : smooth;
        out[i] = (float)(1 / ((1 - smooth) / (double)x[0] + smooth));
    }
    file_tensor t = {.type = F32, .n = {n, 1, 1, 1}, .n_dims = 1, .data = (const u8 *)out, .bytes = sizeof *out * (usize)n};
    return put_tensor(g, "rope_freqs.weight", t, (file_source){0});
}

static err head_dim_of(gatherer *g)
{
    char key[96];
    const char *arch = g->r->arch->name;
    snprintf(key, sizeof key, "%s.attention.head_count", arch);
    i64 heads = file_i64_or(g->r->f, key, 1);
    snprintf(key, sizeof key, "%s.embedding_length", arch);
    i64 width = file_i64_or(g->r->f, key, 0);
    snprintf(key, sizeof key, "%s.attention.key_length", arch);
    g->head_dim = file_i64_or(g->r->f, key, width / heads);
    bool turns = !g->r->arch->encoder && !g->r->arch->learned; /* rotation is of pairs */
    return g->head_dim >= 1 && g->head_dim <= 1 << 12 && !(turns && g->head_dim % 2)
               ? OK
               : err_new(ERR_FORMAT, "%s/config.json: heads of %lld numbers, expected %s from 1 to 4096", g->r->folder, (long long)g->head_dim,
                         turns ? "an even number" : "a number");
}

static err put_file_type(hf_reader *r)
{
    static const struct {
        dtype type;
        int n;
    } types[] = {{F16, 1}, {BF16, 32}}; /* llama.cpp's numbers of general.file_type */
    const file_tensor *t = file_tensor_find(r->f, S("token_embd.weight"));
    int n = 0;
    for (usize i = 0; t && i < COUNT_OF(types); i++)
        if (t->type == types[i].type) n = types[i].n;
    return hf_put_i64(r, "general.file_type", n);
}

err hf_weights_read(hf_reader *r, bool whole)
{
    gatherer g = {.r = r};
    model_file *f = r->f;
    bool llama = !strcmp(r->arch->name, "llama") || !strcmp(r->arch->name, "qwen2"); /* untied unless it says so; the others the reverse */
    json_t *tie = json_object_get(r->config, "tie_word_embeddings");
    g.tied = !r->arch->encoder && (tie ? json_is_true(tie) : !llama);
    TRY(head_dim_of(&g));
    TRY(open_files(r));
    for (usize i = 0; i < f->n_parts; i++) g.cap += file_n_tensors(f->parts[i]);
    g.cap++;
    f->source = arena_take(f->own, sizeof *f->source * g.cap);
    if (!f->source) return hf_no_memory(r);
    for (usize i = 0; i < f->n_parts; i++) {
        g.shard = f->parts[i];
        for (usize k = 0; k < file_n_tensors(g.shard); k++) TRY(add_tensor(&g, file_tensor_at(g.shard, k)));
    }
    if (!g.tied && !g.head && !r->arch->encoder)
        return err_new(ERR_FORMAT, "%s: lm_head.weight is missing, and config.json does not set tie_word_embeddings", r->folder);
    TRY(put_factors(&g));
    for (usize i = 0; whole && i < f->n_tensors; i++) {
        if (f->tensors[i].data) continue;
        u8 *to = arena_take(f->own, f->tensors[i].bytes);
        if (!to) return hf_no_memory(r);
        make(&f->tensors[i], &f->source[i], to);
        f->tensors[i].data = to;
    }
    return put_file_type(r);
}
