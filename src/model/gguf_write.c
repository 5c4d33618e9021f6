/* model/gguf_write.c - the writer of GGUF version 3.
 *
 * The head of a GGUF holds the counts and every tensor's offset, so metadata and tensor list are collected in memory (they
 * are small next to the data), written when the first data arrives, and the data is streamed behind them. What this writes,
 * gguf.c reads: the writer refuses whatever the reader would refuse. The file appears under its name only at the commit.
 *
 * The first failure sticks: later calls repeat its code, and gguf_commit reports it; so a caller may test once at the end. */
#include "model/file_inside.h"

typedef struct {
    usize bytes;
    char shown[SHOWN];
} due; /* a tensor whose data is to come */

struct gguf_writer {
    char *path;
    file_writer *file;
    buf metas, tensors; /* as they will stand in the file */
    map *keys, *names;
    due *dues;
    usize n_metas, n_dues, dues_cap;
    usize align, offset; /* of the next tensor to be listed */
    bool head_written;
    usize now, done; /* tensor that data belongs to, bytes of it written */
    int code;        /* of the first failure */
    char *what;
};

static err fail(gguf_writer *w, err bad)
{
    if (bad.code && !w->code) {
        w->code = bad.code;
        w->what = mem_strdup(bad.what);
    }
    return bad;
}

static err failed_before(const gguf_writer *w)
{
    return w->code ? err_new((err_code)w->code, "%s", w->what ? w->what : w->path) : OK;
}

err gguf_create(gguf_writer **out, const char *path)
{
    *out = NULL;
    gguf_writer *w = mem_zero(sizeof *w);
    if (!w) return err_new(ERR_NOMEM, "%s: no memory to write it", path);
    w->align = 32;
    w->path = mem_strdup(path);
    w->keys = map_new();
    w->names = map_new();
    err bad = !w->path || !w->keys || !w->names ? err_new(ERR_NOMEM, "%s: no memory to write it", path)
                                                : file_writer_open(&w->file, path);
    if (bad.code)
        gguf_drop(w);
    else
        *out = w;
    return bad;
}

void gguf_drop(gguf_writer *w)
{
    if (!w) return;
    if (w->file) file_writer_drop(w->file);
    buf_free(&w->metas);
    buf_free(&w->tensors);
    map_free(w->keys);
    map_free(w->names);
    mem_free(w->dues);
    mem_free(w->path);
    mem_free(w->what);
    mem_free(w);
}

/* ---- metadata ---------------------------------------------------------------------------------------------------------- */
static err new_name(gguf_writer *w, map *names, const char *what, str name, usize max)
{
    char shown[SHOWN];
    if (w->head_written) return err_new(ERR_INPUT, "%s: %s '%s' after the first data", w->path, what, file_shown(name, shown));
    if (!file_name_fits(name, max))
        return err_new(ERR_INPUT, "%s: %s name '%s' of %zu bytes, expected 1 to %zu bytes of UTF-8 without control characters",
                       w->path, what, file_shown(name, shown), name.n, max);
    if (map_get(names, name, &(u64){0}))
        return err_new(ERR_INPUT, "%s: %s '%s' is there already", w->path, what, file_shown(name, shown));
    return map_put(names, name, 0) ? OK : err_new(ERR_NOMEM, "%s: no memory for its names", w->path);
}

static err set_alignment(gguf_writer *w, const meta *m)
{
    if (m->kind != META_U32 || m->v.i < 8 || m->v.i > 1 << 30 || (m->v.i & (m->v.i - 1)))
        return err_new(ERR_INPUT, "%s: general.alignment is %s %lld, expected u32, a power of two of at least 8", w->path,
                       meta_kind_name(m->kind), (long long)(m->kind == META_U32 ? m->v.i : 0));
    if (w->n_dues) return err_new(ERR_INPUT, "%s: general.alignment after the first tensor", w->path);
    w->align = (usize)m->v.i;
    return OK;
}

/* Another file's array was checked by its reader; one made by hand is checked here. */
static err array_fits(const gguf_writer *w, const meta *m)
{
    usize each = meta_item_bytes(m->item), at = 0;
    if (!each && m->item != META_STR)
        return err_new(ERR_INPUT, "%s: an array of kind %s cannot be written", w->path, meta_kind_name(m->item));
    bool fits = m->n >= 0 && m->array_len / (each ? each : 8) >= (usize)m->n;
    if (each)
        return fits && m->array_len == each * (usize)m->n
                   ? OK
                   : err_new(ERR_INPUT, "%s: an array of %lld items in %zu bytes", w->path, (long long)m->n, m->array_len);
    for (i64 i = 0; fits && i < m->n; i++) {
        u64 n = 0;
        fits = m->array_len - at >= 8;
        if (fits) memcpy(&n, m->array + at, 8), at += 8;
        fits = fits && n <= m->array_len - at;
        if (fits) at += n;
    }
    return fits && at == m->array_len ? OK
                                      : err_new(ERR_INPUT, "%s: an array of strings that does not end where it should", w->path);
}

static void put_str(buf *b, str s)
{
    u64 n = s.n;
    buf_put(b, &n, 8);
    buf_str(b, s);
}

static err put_scalar(gguf_writer *w, const meta *m)
{
    usize size = meta_item_bytes(m->kind);
    float f = (float)m->v.f;
    if (!size) return err_new(ERR_INPUT, "%s: metadata of unknown kind %d", w->path, (int)m->kind);
    if (m->kind == META_BOOL && m->v.i >> 1) return err_new(ERR_INPUT, "%s: a boolean of value %lld", w->path, (long long)m->v.i);
    buf_put(&w->metas, m->kind == META_F32 ? (void *)&f : (void *)&m->v, size); /* integers: the low bytes */
    return OK;
}

static err put_meta(gguf_writer *w, const meta *m)
{
    TRY(failed_before(w));
    TRY(new_name(w, w->keys, "metadata", m->key, KEY_MAX_BYTES));
    if (str_eq(m->key, S("general.alignment"))) TRY(set_alignment(w, m));
    if (m->kind == META_ARRAY) TRY(array_fits(w, m));
    u32 kind = m->kind, item = m->item;
    u64 n = (u64)m->n;
    put_str(&w->metas, m->key);
    buf_put(&w->metas, &kind, 4);
    if (m->kind == META_STR) {
        put_str(&w->metas, m->v.s);
    } else if (m->kind == META_ARRAY) {
        buf_put(&w->metas, &item, 4);
        buf_put(&w->metas, &n, 8);
        buf_put(&w->metas, m->array, m->array_len);
    } else {
        TRY(put_scalar(w, m));
    }
    w->n_metas++;
    return err_at(buf_error(&w->metas), "%s", w->path);
}

err gguf_put_meta(gguf_writer *w, const meta *m) { return fail(w, put_meta(w, m)); }

err gguf_put_str(gguf_writer *w, const char *key, str s)
{
    return gguf_put_meta(w, &(meta){.key = str_of(key), .kind = META_STR, .n = 1, .v.s = s});
}

err gguf_put_u32(gguf_writer *w, const char *key, u32 v)
{
    return gguf_put_meta(w, &(meta){.key = str_of(key), .kind = META_U32, .n = 1, .v.i = v});
}

err gguf_put_i64(gguf_writer *w, const char *key, i64 v)
{
    return gguf_put_meta(w, &(meta){.key = str_of(key), .kind = META_I64, .n = 1, .v.i = v});
}

err gguf_put_f32(gguf_writer *w, const char *key, float v)
{
    return gguf_put_meta(w, &(meta){.key = str_of(key), .kind = META_F32, .n = 1, .v.f = (double)v});
}

err gguf_put_bool(gguf_writer *w, const char *key, bool v)
{
    return gguf_put_meta(w, &(meta){.key = str_of(key), .kind = META_BOOL, .n = 1, .v.i = v});
}

err gguf_put_array(gguf_writer *w, const char *key, meta_kind item, i64 n, const void *items)
{
    meta m = {.key = str_of(key), .kind = META_ARRAY, .item = item, .n = n, .array = items};
    if (n < 0) return fail(w, err_new(ERR_INPUT, "%s: metadata '%s': an array of %lld items", w->path, key, (long long)n));
    if (item != META_STR) {
        m.array_len = meta_item_bytes(item) * (usize)n;
        return gguf_put_meta(w, &m);
    }
    buf packed = {0};
    for (i64 i = 0; i < n; i++) put_str(&packed, ((const str *)items)[i]);
    err bad = buf_error(&packed);
    m.array = (const u8 *)packed.p;
    m.array_len = packed.n;
    if (bad.code)
        bad = fail(w, err_at(bad, "%s", w->path));
    else
        bad = gguf_put_meta(w, &m);
    buf_free(&packed);
    return bad;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------------- */
static err put_tensor(gguf_writer *w, str name, dtype type, int n_dims, const i64 *n)
{
    due d = {0};
    i64 e[4] = {1, 1, 1, 1};
    TRY(failed_before(w));
    TRY(new_name(w, w->names, "tensor", name, NAME_MAX_BYTES));
    file_shown(name, d.shown);
    if (type >= DTYPE_COUNT || dtype_table[type].gguf < 0)
        return err_new(ERR_INPUT, "%s: tensor '%s' has a type that GGUF lacks", w->path, d.shown);
    if (n_dims < 1 || n_dims > 4)
        return err_new(ERR_INPUT, "%s: tensor '%s' has %d dimensions, expected 1 to 4", w->path, d.shown, n_dims);
    for (int i = 0; i < n_dims; i++)
        if ((e[i] = n[i]) < 1) return err_new(ERR_INPUT, "%s: tensor '%s' has extent %lld", w->path, d.shown, (long long)n[i]);
    if (file_tensor_size(type, e, &d.bytes) != SIZE_OK || d.bytes > (usize)INT64_MAX - w->offset - w->align)
        return err_new(ERR_INPUT, "%s: tensor '%s' of %lld x %lld x %lld x %lld is not whole blocks of %s, or too large", w->path,
                       d.shown, (long long)e[0], (long long)e[1], (long long)e[2], (long long)e[3], dtype_table[type].name);
    u32 dims = (u32)n_dims, number = (u32)dtype_table[type].gguf;
    u64 offset = w->offset;
    put_str(&w->tensors, name);
    buf_put(&w->tensors, &dims, 4);
    buf_put(&w->tensors, e, 8 * (usize)n_dims);
    buf_put(&w->tensors, &number, 4);
    buf_put(&w->tensors, &offset, 8);
    w->offset += (d.bytes + w->align - 1) & ~(w->align - 1);
    if (!VEC_PUSH(w->dues, w->n_dues, w->dues_cap, d))
        return err_new(ERR_NOMEM, "%s: no memory for its list of tensors", w->path);
    return err_at(buf_error(&w->tensors), "%s", w->path);
}

err gguf_put_tensor(gguf_writer *w, str name, dtype type, int n_dims, const i64 *n)
{
    return fail(w, put_tensor(w, name, type, n_dims, n));
}

static err pad(gguf_writer *w, usize written)
{
    static const u8 zeros[4096];
    usize more = (w->align - written % w->align) % w->align;
    for (; more > sizeof zeros; more -= sizeof zeros) TRY(file_writer_put(w->file, zeros, sizeof zeros));
    return file_writer_put(w->file, zeros, more);
}

static err write_head(gguf_writer *w)
{
    struct {
        char magic[4];
        u32 version;
        u64 n_tensors, n_metas;
    } head = {{'G', 'G', 'U', 'F'}, 3, w->n_dues, w->n_metas};
    w->head_written = true;
    TRY(file_writer_put(w->file, &head, sizeof head));
    TRY(file_writer_put(w->file, w->metas.p, w->metas.n));
    TRY(file_writer_put(w->file, w->tensors.p, w->tensors.n));
    return pad(w, sizeof head + w->metas.n + w->tensors.n);
}

static err put_data(gguf_writer *w, const void *p, usize bytes)
{
    TRY(failed_before(w));
    if (!w->head_written) TRY(write_head(w));
    if (!bytes) return OK;
    if (w->now == w->n_dues) return err_new(ERR_INPUT, "%s: %zu bytes of data after the last tensor", w->path, bytes);
    due *d = &w->dues[w->now];
    if (bytes > d->bytes - w->done)
        return err_new(ERR_INPUT, "%s: %zu bytes of data for tensor '%s', which lacks %zu", w->path, bytes, d->shown,
                       d->bytes - w->done);
    TRY(file_writer_put(w->file, p, bytes));
    w->done += bytes;
    if (w->done < d->bytes) return OK;
    w->now++;
    w->done = 0;
    return pad(w, d->bytes);
}

err gguf_put_data(gguf_writer *w, const void *p, usize bytes) { return fail(w, put_data(w, p, bytes)); }

static err finish(gguf_writer *w)
{
    TRY(failed_before(w));
    if (!w->head_written) TRY(write_head(w));
    if (w->now < w->n_dues)
        return err_new(ERR_FORMAT, "%s: data of tensor '%s' is missing: %zu of %zu bytes came", w->path, w->dues[w->now].shown,
                       w->done, w->dues[w->now].bytes);
    file_writer *file = w->file;
    w->file = NULL;
    return file_writer_commit(file);
}

err gguf_commit(gguf_writer *w)
{
    err bad = finish(w);
    gguf_drop(w);
    return bad;
}
