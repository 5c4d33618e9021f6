/* model/hf_open.c - a Hugging Face folder as one model_file: config.json becomes the metadata that a GGUF of the model has,
 * tokenizer.json its vocabulary, the safetensors its tensors under GGUF's names.
 *
 * A folder is read as strictly as a GGUF: a key, a tokenizer part or a tensor that changes what the model computes and is not known
 * is refused by name. Weights stay where they are mapped; only what GGUF orders otherwise (llama's q and k, GPT-2's turned
 * matrices) or keeps as F32 (vectors) is copied. Pickled weights (pytorch_model.bin) are programs and are not opened. */
#include "model/hf.h"
#include <stdlib.h>

enum { JSON_MAX_BYTES = 512 << 20 };

char *hf_path(const hf_reader *r, const char *name)
{
    buf b = {0};
    buf_fmt(&b, "%s/%s", r->folder, name);
    return buf_take(&b);
}

err hf_no_memory(const hf_reader *r) { return err_new(ERR_NOMEM, "%s: no memory to open it", r->folder); }

err hf_json(const hf_reader *r, const char *name, bool needed, json_t **out)
{
    buf b = {0};
    json_error_t why;
    char shown[SHOWN], *path = hf_path(r, name);
    *out = NULL;
    if (!path) return hf_no_memory(r);
    err bad = OK;
    if (needed || file_exists(path)) bad = file_read(&b, path, JSON_MAX_BYTES);
    if (!bad.code && (needed || b.n)) {
        *out = json_loadb(b.p ? b.p : "", b.n, JSON_ALLOW_NUL, &why);
        if (!*out)
            bad = err_new(json_error_code(&why) == json_error_out_of_memory ? ERR_NOMEM : ERR_FORMAT, "%s: line %d: %s", path, why.line,
                          file_shown(str_of(why.text), shown));
        else if (!json_is_object(*out) && !json_is_array(*out))
            bad = err_new(ERR_FORMAT, "%s: no JSON object", path);
    }
    if (bad.code) json_decref(*out), *out = NULL;
    buf_free(&b);
    mem_free(path);
    return bad;
}

err hf_wrong(const hf_reader *r, err_code code, const char *file, const char *key, json_t *found, const char *expected)
{
    char shown[SHOWN];
    char *text = found ? json_dumps(found, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    err bad = err_new(code, "%s/%s: %s is %s, expected %s", r->folder, file, key,
                      !found ? "missing" : file_shown(str_of(text ? text : "?"), shown), expected);
    free(text); /* jansson's memory */
    return bad;
}

/* ---- metadata ---------------------------------------------------------------------------------------------------------- */
static void *keep_text(hf_reader *r, const void *p, usize n)
{
    if (!r->f->own) r->f->own = arena_new();
    return r->f->own ? arena_str(r->f->own, p ? p : "", n) : NULL;
}

static err put(hf_reader *r, const char *key, meta m)
{
    m.key = (str){keep_text(r, key, strlen(key)), strlen(key)};
    if (!m.key.p) return hf_no_memory(r);
    if (m.kind != META_ARRAY) m.n = 1;
    return model_file_add_meta(r->f, &m, 0);
}

err hf_put_str(hf_reader *r, const char *key, str s)
{
    meta m = {.kind = META_STR};
    m.v.s = (str){keep_text(r, s.p, s.n), s.n};
    return m.v.s.p ? put(r, key, m) : hf_no_memory(r);
}

err hf_put_i64(hf_reader *r, const char *key, i64 v)
{
    meta m = {.kind = v >= 0 && v <= UINT32_MAX ? META_U32 : META_I64};
    m.v.i = v;
    return put(r, key, m);
}

err hf_put_f64(hf_reader *r, const char *key, double v)
{
    meta m = {.kind = META_F32};
    m.v.f = (double)(float)v;
    return put(r, key, m);
}

err hf_put_bool(hf_reader *r, const char *key, bool v)
{
    meta m = {.kind = META_BOOL};
    m.v.i = v;
    return put(r, key, m);
}

err hf_put_array(hf_reader *r, const char *key, meta_kind item, i64 n, const void *items)
{
    meta m = {.kind = META_ARRAY, .item = item, .n = n};
    buf b = {0};
    for (i64 i = 0; item == META_STR && i < n; i++) {
        u64 len = ((const str *)items)[i].n;
        buf_put(&b, &len, 8);
        buf_str(&b, ((const str *)items)[i]);
    }
    if (item != META_STR) buf_put(&b, items, meta_item_bytes(item) * (usize)n);
    err bad = buf_error(&b);
    m.array_len = b.n;
    m.array = bad.code ? NULL : keep_text(r, b.p, b.n);
    buf_free(&b);
    if (bad.code || !m.array) return hf_no_memory(r);
    return put(r, key, m);
}

/* ---- the folder -------------------------------------------------------------------------------------------------------- */
static bool has(const char *folder, const char *name)
{
    hf_reader r = {.folder = folder};
    char *path = hf_path(&r, name);
    bool yes = path && file_exists(path) && !file_is_dir(path);
    mem_free(path);
    return yes;
}

bool hf_is_folder(const char *path)
{
    return file_is_dir(path) && (has(path, "config.json") || has(path, "tokenizer.json"));
}

static err put_name(hf_reader *r)
{
    usize n = strlen(r->folder), from;
    while (n > 1 && r->folder[n - 1] == '/') n--;
    for (from = n; from && r->folder[from - 1] != '/';) from--;
    str name = {r->folder + from, n - from};
    return file_name_fits(name, NAME_MAX_BYTES) ? hf_put_str(r, "general.name", name) : OK;
}

static err read_all(hf_reader *r, bool weights, bool whole)
{
    TRY(hf_json(r, "config.json", weights, &r->config));
    if (r->config) {
        err bad = hf_config_read(r);
        if (bad.code && (weights || bad.code == ERR_NOMEM)) return bad;
    }
    TRY(put_name(r));
    if (weights && r->arch->encoder) TRY(hf_pooling_read(r));
    if (weights) TRY(hf_weights_read(r, whole));
    return hf_tokenizer_read(r);
}

err hf_open(model_file **out, const char *folder, bool weights, bool whole)
{
    hf_reader r = {.folder = folder};
    *out = NULL;
    if (!hf_is_folder(folder))
        return err_new(ERR_FORMAT, "%s: a folder without config.json and tokenizer.json: no Hugging Face model", folder);
    TRY(model_file_new(&r.f, folder));
    err bad = read_all(&r, weights, whole);
    json_decref(r.config);
    json_decref(r.tokenizer);
    json_decref(r.tokenizer_config);
    if (bad.code)
        model_file_close(r.f);
    else
        *out = r.f;
    return bad;
}
