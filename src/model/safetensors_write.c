/* model/safetensors_write.c - the writer of safetensors, after the manner of gguf_write.c: names and shapes first, data behind
 * them in the same order, the file under its name only at the commit. The header is a JSON object in front of the data, padded by
 * blanks to 8 bytes, so that data is aligned as the reference writes it. What this writes, safetensors.c reads.
 *
 * The first failure sticks: later calls repeat it, and safetensors_commit reports it. */
#include "model/file_inside.h"
#include <jansson.h>
#include <stdlib.h>

typedef struct {
    usize bytes;
    char shown[SHOWN];
} due; /* a tensor whose data is to come */

struct safetensors_writer {
    char *path;
    file_writer *file;
    json_t *root, *notes; /* the header; notes: __metadata__, borrowed from it */
    due *dues;
    usize n_dues, dues_cap, offset, now, done;
    bool head_written;
    int code;
    char *what;
};

static err fail(safetensors_writer *w, err bad)
{
    if (bad.code && !w->code) {
        w->code = bad.code;
        w->what = mem_strdup(bad.what);
    }
    return bad;
}

static err failed_before(const safetensors_writer *w)
{
    return w->code ? err_new((err_code)w->code, "%s", w->what ? w->what : w->path) : OK;
}

static err no_memory(const safetensors_writer *w)
{
    return err_new(ERR_NOMEM, "%s: no memory to write it", w->path ? w->path : "safetensors");
}

err safetensors_create(safetensors_writer **out, const char *path)
{
    *out = NULL;
    safetensors_writer *w = mem_zero(sizeof *w);
    if (!w) return err_new(ERR_NOMEM, "%s: no memory to write it", path);
    w->path = mem_strdup(path);
    w->root = json_object();
    w->notes = json_object();
    err bad = !w->path || !w->root || !w->notes || json_object_set(w->root, "__metadata__", w->notes)
                  ? no_memory(w)
                  : file_writer_open(&w->file, path);
    if (!bad.code) bad = safetensors_put_note(w, "format", S("pt")); /* readers of Hugging Face look for it */
    if (bad.code)
        safetensors_drop(w);
    else
        *out = w;
    return bad;
}

void safetensors_drop(safetensors_writer *w)
{
    if (!w) return;
    if (w->file) file_writer_drop(w->file);
    json_decref(w->notes);
    json_decref(w->root);
    mem_free(w->dues);
    mem_free(w->path);
    mem_free(w->what);
    mem_free(w);
}

err safetensors_put_note(safetensors_writer *w, const char *key, str value)
{
    char shown[SHOWN];
    TRY(failed_before(w));
    if (w->head_written)
        return fail(w, err_new(ERR_INPUT, "%s: metadata '%s' after the first data", w->path, file_shown(str_of(key), shown)));
    if (!utf8_valid(value))
        return fail(w, err_new(ERR_INPUT, "%s: metadata '%s' is not UTF-8", w->path, file_shown(str_of(key), shown)));
    return json_object_set_new(w->notes, key, json_stringn(value.p ? value.p : "", value.n)) ? fail(w, no_memory(w)) : OK;
}

static const char *type_name(dtype t)
{
    switch (t) {
    case F32: return "F32";
    case F16: return "F16";
    case BF16: return "BF16";
    case F64: return "F64";
    case I32: return "I32";
    default: return NULL;
    }
}

static err put_tensor(safetensors_writer *w, str name, dtype type, int n_dims, const i64 *n)
{
    due d = {0};
    i64 e[4] = {1, 1, 1, 1};
    TRY(failed_before(w));
    file_shown(name, d.shown);
    if (w->head_written) return err_new(ERR_INPUT, "%s: tensor '%s' after the first data", w->path, d.shown);
    if (!file_name_fits(name, NAME_MAX_BYTES) || str_eq(name, S("__metadata__")))
        return err_new(ERR_INPUT, "%s: '%s' cannot name a tensor", w->path, d.shown);
    if (!type_name(type)) return err_new(ERR_INPUT, "%s: tensor '%s' has a type that safetensors lacks", w->path, d.shown);
    if (n_dims < 1 || n_dims > 4)
        return err_new(ERR_INPUT, "%s: tensor '%s' of %d dimensions, expected 1 to 4", w->path, d.shown, n_dims);
    json_t *extents = json_array();
    for (int i = 0; i < n_dims; i++) e[i] = n[i];
    for (int i = n_dims; i-- > 0;) json_array_append_new(extents, json_integer(n[i])); /* the slowest first */
    char *key = mem_strndup(name.p, name.n);
    err bad = !key || !extents ? no_memory(w) : OK;
    for (int i = 0; i < n_dims && !bad.code; i++)
        if (n[i] < 0) bad = err_new(ERR_INPUT, "%s: tensor '%s': extent %d is %lld", w->path, d.shown, i, (long long)n[i]);
    if (!bad.code && file_tensor_size(type, e, &d.bytes) != SIZE_OK)
        bad = err_new(ERR_INPUT, "%s: tensor '%s' is larger than any file", w->path, d.shown);
    if (!bad.code && json_object_get(w->root, key))
        bad = err_new(ERR_INPUT, "%s: tensor '%s' is there already", w->path, d.shown);
    json_t *entry = bad.code ? NULL
                             : json_pack("{s:s,s:O,s:[I,I]}", "dtype", type_name(type), "shape", extents, "data_offsets",
                                         (json_int_t)w->offset, (json_int_t)(w->offset + d.bytes));
    if (!bad.code && (!entry || json_object_set_new(w->root, key, entry) || !VEC_PUSH(w->dues, w->n_dues, w->dues_cap, d)))
        bad = no_memory(w);
    if (!bad.code) w->offset += d.bytes;
    json_decref(extents);
    mem_free(key);
    return bad;
}

err safetensors_put_tensor(safetensors_writer *w, str name, dtype type, int n_dims, const i64 *n)
{
    return fail(w, put_tensor(w, name, type, n_dims, n));
}

static err write_head(safetensors_writer *w)
{
    char *text = json_dumps(w->root, JSON_COMPACT);
    if (!text) return no_memory(w);
    u64 n = strlen(text), padded = (n + 7) / 8 * 8;
    err bad = file_writer_put(w->file, &padded, 8);
    if (!bad.code) bad = file_writer_put(w->file, text, n);
    if (!bad.code) bad = file_writer_put(w->file, "       ", padded - n);
    free(text); /* jansson's memory */
    w->head_written = true;
    return bad;
}

static void skip_empty(safetensors_writer *w)
{
    while (w->now < w->n_dues && w->done == w->dues[w->now].bytes) w->now++, w->done = 0;
}

static err put_data(safetensors_writer *w, const void *p, usize bytes)
{
    TRY(failed_before(w));
    if (!w->head_written) TRY(write_head(w));
    skip_empty(w);
    if (!bytes) return OK;
    if (w->now == w->n_dues) return err_new(ERR_INPUT, "%s: %zu bytes of data after the last tensor", w->path, bytes);
    due *d = &w->dues[w->now];
    if (bytes > d->bytes - w->done)
        return err_new(ERR_INPUT, "%s: %zu bytes of data for tensor '%s', which lacks %zu", w->path, bytes, d->shown,
                       d->bytes - w->done);
    TRY(file_writer_put(w->file, p, bytes));
    w->done += bytes;
    skip_empty(w);
    return OK;
}

err safetensors_put_data(safetensors_writer *w, const void *p, usize bytes) { return fail(w, put_data(w, p, bytes)); }

static err finish(safetensors_writer *w)
{
    TRY(failed_before(w));
    if (!w->head_written) TRY(write_head(w));
    skip_empty(w);
    if (w->now < w->n_dues)
        return err_new(ERR_FORMAT, "%s: data of tensor '%s' is missing: %zu of %zu bytes came", w->path, w->dues[w->now].shown,
                       w->done, w->dues[w->now].bytes);
    file_writer *file = w->file;
    w->file = NULL;
    return file_writer_commit(file);
}

err safetensors_commit(safetensors_writer *w)
{
    err bad = finish(w);
    safetensors_drop(w);
    return bad;
}
