/* model/convert.c - a Hugging Face folder -> GGUF and back, one tensor at a time.
 *
 * Nothing half made gets its name: a GGUF is written beside it, opened as a model, and renamed; a folder is written aside and renamed
 * whole. Floats keep their type and, but for the places that the two forms order otherwise, their bytes. Two things cannot be kept:
 * quantised weights become F32 in a folder, and a vector becomes F32 in a GGUF (on the way back it returns to the type of the
 * matrices when that loses nothing). Memory: the largest tensor whose order changes, else a stretch of rows. */
#include "model/hf.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STRETCH = 1 << 20 }; /* values at once */

static err no_memory(void) { return err_new(ERR_NOMEM, "out of memory while converting"); }

static char *joined(const char *a, const char *between, const char *b)
{
    buf x = {0};
    buf_fmt(&x, "%s%s%s", a, between, b);
    return buf_take(&x);
}

/* ---- folder -> GGUF ------------------------------------------------------------------------------------------------------- */
static err put_file(const model_file *f, gguf_writer *out, convert_report *r)
{
    buf room = {0};
    err bad = OK;
    for (usize i = 0; i < file_n_meta(f); i++) TRY(gguf_put_meta(out, file_meta_at(f, i)));
    for (usize i = 0; i < file_n_tensors(f); i++) {
        const file_tensor *t = file_tensor_at(f, i);
        TRY(gguf_put_tensor(out, t->name, t->type, t->n_dims, t->n));
    }
    for (usize i = 0; i < file_n_tensors(f) && !bad.code; i++) {
        const u8 *data;
        bad = hf_tensor_data(f, i, &room, &data);
        if (!bad.code) bad = gguf_put_data(out, data, file_tensor_at(f, i)->bytes);
        r->tensors++;
    }
    buf_free(&room);
    return bad;
}

/* what was written opens: every tensor that the architecture needs is there with its shape, the tokenizer works */
static err check_file(const char *path, const char *of)
{
    model *m;
    err bad = model_open_mapped(&m, path);
    if (!bad.code) model_close(m);
    return err_at(bad, "%s", of);
}

static err folder_to_gguf(const char *in, const char *out, convert_report *r)
{
    model_file *f = NULL;
    gguf_writer *w = NULL;
    char *aside = joined(out, ".converting", "");
    err bad = aside ? hf_open(&f, in, true, false) : no_memory();
    if (!bad.code) bad = gguf_create(&w, aside);
    if (!bad.code) bad = put_file(f, w, r);
    if (!bad.code)
        bad = gguf_commit(w);
    else
        gguf_drop(w);
    if (!bad.code) {
        bad = check_file(aside, in);
        if (!bad.code && rename(aside, out)) bad = err_os("%s: cannot get its name", out);
        if (bad.code) unlink(aside);
    }
    model_file_close(f);
    mem_free(aside);
    return bad;
}

/* ---- GGUF -> folder ------------------------------------------------------------------------------------------------------- */
typedef struct {
    const model *m;
    dtype main; /* of the matrices, when they are floats */
    bool tied;
    convert_report *report;
} unpacker;

static err name_of(const unpacker *u, const file_tensor *t, hf_name *name, bool *skip)
{
    char gguf[NAME_MAX_BYTES + 1];
    snprintf(gguf, sizeof gguf, "%.*s", (int)t->name.n, t->name.p);
    *skip = false;
    if (!strcmp(gguf, "rope_freqs.weight") && file_meta(u->m->file, "maru.rope.llama3")) return *skip = true, OK; /* config.json says it */
    if (names_to_hf(u->m->arch->name, gguf, name)) return OK;
    return err_new(ERR_UNSUPPORTED, "%s: tensor '%.80s' has no place in a Hugging Face folder of a %s model", u->m->path, gguf, u->m->arch->name);
}

static bool fits_type(dtype type, const float *v, i64 n)
{
    for (i64 i = 0; i < n; i++) {
        float back = type == F16 ? f16_to_f32(f32_to_f16(v[i])) : bf16_to_f32(f32_to_bf16(v[i]));
        if (memcmp(&back, &v[i], 4) != 0) return false;
    }
    return true;
}

/* A vector's values as the folder has them; they are few. */
static err vector_of(const unpacker *u, const file_tensor *t, row_order order, float **out)
{
    i64 n = t->n[0];
    float *v = mem_array(float, n), *x = mem_array(float, n);
    if (v && x) dtype_table[t->type].decode(t->data, v, n);
    if (v && x) names_reorder(u->m, order, false, order == ORDER_QUERY || order == ORDER_KEY ? 1 : n, order == ORDER_QUERY || order == ORDER_KEY ? n : 1, v, x);
    mem_free(v);
    *out = x;
    return v && x ? OK : no_memory();
}

static dtype float_type(dtype t) { return t == F16 || t == BF16 ? t : F32; }

static err type_of(const unpacker *u, const file_tensor *t, row_order order, dtype *type)
{
    float *v;
    *type = float_type(t->type);
    bool small = t->n_dims < 2 || str_eq(t->name, S("token_types.weight"));
    if (!small || *type != F32 || u->main == F32) return OK;
    file_tensor flat = *t;
    flat.n[0] = t->n[0] * t->n[1];
    TRY(vector_of(u, &flat, order, &v));
    if (fits_type(u->main, v, flat.n[0])) *type = u->main;
    mem_free(v);
    return OK;
}

static err list_tensor(const unpacker *u, safetensors_writer *w, const file_tensor *t)
{
    hf_name name;
    bool skip;
    dtype type;
    i64 n[4] = {t->n[0], t->n[1], t->n[2], t->n[3]};
    TRY(name_of(u, t, &name, &skip));
    if (skip) return OK;
    if (t->n_dims > 2 || !t->data) return err_new(ERR_UNSUPPORTED, "%s: tensor '%.*s' is no matrix", u->m->path, (int)t->name.n, t->name.p);
    TRY(type_of(u, t, name.order, &type));
    if (name.order == ORDER_TURNED && t->n_dims == 2) n[0] = t->n[1], n[1] = t->n[0];
    u->report->widened += dtype_table[t->type].quantised;
    u->report->tensors++;
    return safetensors_put_tensor(w, str_of(name.name), type, t->n_dims, n);
}

static err put_encoded(safetensors_writer *w, dtype type, const float *v, i64 n)
{
    if (type == F32) return safetensors_put_data(w, v, sizeof *v * (usize)n);
    u16 *x = mem_array(u16, n);
    if (!x) return no_memory();
    dtype_table[type].encode(v, x, n);
    err bad = safetensors_put_data(w, x, sizeof *x * (usize)n);
    mem_free(x);
    return bad;
}

/* Same order: whole rows, a stretch at a time. */
static err put_rows(safetensors_writer *w, const file_tensor *t, dtype type)
{
    i64 k = t->n[0], rows = t->n[1], each = i64_max(1, STRETCH / k);
    usize bytes = dtype_row_bytes(t->type, k);
    if (type == t->type) return safetensors_put_data(w, t->data, t->bytes);
    float *v = mem_array(float, each *k);
    err bad = v ? OK : no_memory();
    for (i64 r = 0; r < rows && !bad.code; r += each) {
        i64 n = i64_min(each, rows - r);
        for (i64 i = 0; i < n; i++) dtype_table[t->type].decode(t->data + (usize)(r + i) * bytes, v + i * k, k);
        bad = put_encoded(w, type, v, n * k);
    }
    mem_free(v);
    return bad;
}

static err put_turned(const unpacker *u, safetensors_writer *w, const file_tensor *t, row_order order, dtype type)
{
    i64 k = t->n[0], rows = t->n[1];
    usize bytes = dtype_row_bytes(t->type, k);
    float *v = mem_array(float, k *rows), *x = mem_array(float, k *rows);
    err bad = v && x ? OK : no_memory();
    for (i64 r = 0; r < rows && !bad.code; r++) dtype_table[t->type].decode(t->data + (usize)r * bytes, v + r * k, k);
    if (!bad.code) names_reorder(u->m, order, false, k, rows, v, x);
    mem_free(v);
    if (!bad.code) bad = put_encoded(w, type, x, k * rows);
    mem_free(x);
    return bad;
}

static err put_tensor(const unpacker *u, safetensors_writer *w, const file_tensor *t)
{
    hf_name name;
    bool skip;
    dtype type;
    float *v;
    TRY(name_of(u, t, &name, &skip));
    if (skip) return OK;
    TRY(type_of(u, t, name.order, &type));
    if (t->n_dims >= 2) return name.order == ORDER_SAME ? put_rows(w, t, type) : put_turned(u, w, t, name.order, type);
    TRY(vector_of(u, t, name.order, &v));
    err bad = put_encoded(w, type, v, t->n[0]);
    mem_free(v);
    return bad;
}

static err write_weights(const unpacker *u, const char *path)
{
    safetensors_writer *w;
    const model_file *f = u->m->file;
    err bad = safetensors_create(&w, path);
    if (bad.code) return bad;
    for (usize i = 0; i < file_n_tensors(f) && !bad.code; i++) bad = list_tensor(u, w, file_tensor_at(f, i));
    for (usize i = 0; i < file_n_tensors(f) && !bad.code; i++) bad = put_tensor(u, w, file_tensor_at(f, i));
    if (!bad.code) return safetensors_commit(w);
    safetensors_drop(w);
    return bad;
}

static err write_json(const char *folder, const char *name, json_t *o)
{
    char *path = joined(folder, "/", name), *text = o ? json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    err bad = path && text ? file_replace(path, text, strlen(text)) : no_memory();
    mem_free(path);
    free(text); /* jansson's memory */
    json_decref(o);
    return bad;
}

static err write_sentence(const model *m, const char *folder)
{
    char *inner = joined(folder, "/", "1_Pooling");
    err bad = inner ? file_mkdirs(inner) : no_memory();
    json_t *modules = json_array();
    static const char *const kinds[][2] = {{"", "Transformer"}, {"1_Pooling", "Pooling"}, {"2_Normalize", "Normalize"}};
    for (int i = 0; i < 3; i++) {
        char type[64], name[2] = {(char)('0' + i), 0};
        snprintf(type, sizeof type, "sentence_transformers.models.%s", kinds[i][1]);
        json_array_append_new(modules, json_pack("{s:i,s:s,s:s,s:s}", "idx", i, "name", name, "path", kinds[i][0], "type", type));
    }
    if (!bad.code && chmod(inner, 0755)) bad = err_os("%s", inner); /* folders of ours are private as a rule; a model's need not be */
    if (!bad.code) bad = write_json(inner, "config.json", hf_pooling_json(m));
    if (!bad.code) bad = write_json(folder, "modules.json", json_incref(modules));
    if (!bad.code) bad = write_json(folder, "sentence_bert_config.json", json_pack("{s:I,s:b}", "max_seq_length", (json_int_t)m->h.n_ctx, "do_lower_case", 0));
    json_decref(modules);
    mem_free(inner);
    return bad;
}

static err write_folder(const unpacker *u, const char *folder)
{
    char *weights = joined(folder, "/", "model.safetensors");
    err bad = weights ? file_mkdirs(folder) : no_memory();
    if (!bad.code) bad = hf_vocab_write(u->m, folder); /* what can be refused comes first */
    if (!bad.code) bad = write_weights(u, weights);
    if (!bad.code && u->m->arch->encoder) bad = write_sentence(u->m, folder);
    if (!bad.code) bad = write_json(folder, "config.json", hf_config_json(u->m, u->tied, u->main));
    mem_free(weights);
    return bad;
}

err model_to_folder(const model *m, const char *out, convert_report *r)
{
    const file_tensor *embed = file_tensor_find(m->file, S("token_embd.weight"));
    unpacker u = {.m = m, .report = r, .tied = !file_tensor_find(m->file, S("output.weight")), .main = embed ? float_type(embed->type) : F32};
    usize n = strlen(out);
    if (file_exists(out) && rmdir(out)) /* an empty folder is as good as none */
        return errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR ? err_new(ERR_INPUT, "%s is there already: expected the name of a new folder", out) : err_os("%s", out);
    while (n > 1 && out[n - 1] == '/') n--;
    char *name = mem_strndup(out, n), *aside = name ? joined(name, ".converting", "") : NULL;
    err bad = aside ? file_remove_tree(aside) : no_memory();
    if (!bad.code) bad = write_folder(&u, aside);
    if (!bad.code && chmod(aside, 0755)) bad = err_os("%s", aside);
    if (!bad.code && rename(aside, name)) bad = err_os("%s: cannot get its name", out);
    if (bad.code && aside) {
        char *why = mem_strdup(bad.what); /* removing may make errors of its own */
        (void)file_remove_tree(aside);
        bad = err_new((err_code)bad.code, "%s", why ? why : "converting failed");
        mem_free(why);
    }
    mem_free(aside);
    mem_free(name);
    return bad;
}

err model_convert(const char *in, const char *out, convert_report *r)
{
    *r = (convert_report){0};
    if (file_is_dir(in)) {
        if (file_is_dir(out)) return err_new(ERR_INPUT, "%s is a folder, expected the name of a GGUF", out);
        return folder_to_gguf(in, out, r);
    }
    model *m;
    TRY(model_open_mapped(&m, in));
    err bad = model_to_folder(m, out, r);
    model_close(m);
    return bad;
}
