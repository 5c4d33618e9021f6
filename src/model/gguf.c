/* model/gguf.c - the strict reader of GGUF, versions 2 and 3 (ggml docs/gguf.md).
 *
 * A file is: "GGUF", version, number of tensors, number of metadata entries, the entries, the tensor list, padding, the data.
 * Everything is read once, front to back, through one cursor that knows how much is left; a count is believed only as far as
 * bytes follow it, so nothing is allocated for what is not there. Whatever disagrees with the specification is an error that
 * names the byte, the entry and both values. Stricter than the specification where it is silent and every known writer agrees:
 * extents are at least 1, the alignment is a power of two of at least 8, a boolean is 0 or 1.
 *
 * Tensor data: a file may end where its data would start (a vocabulary, or headers kept for planning): if it declares no
 * tensors, or not one byte of data is there, it opens with data NULL. Some but not all of it is a file cut short: FORMAT.
 * Gaps between tensors and bytes after the last one are harmless and accepted; overlaps are not.
 *
 * Not here: arrays inside arrays and big-endian files, both in the specification and used by nobody (UNSUPPORTED), files in
 * several pieces (-00001-of-), version 1. */
#include "model/file_inside.h"
#include <stdlib.h>

typedef struct {
    const u8 *p;
    usize n, at;
    model_file *f;
} cursor;

static usize left(const cursor *c) { return c->n - c->at; }

static err take(cursor *c, void *to, usize bytes, const char *what)
{
    if (bytes > left(c))
        return err_new(ERR_FORMAT, "%s: byte %zu: the file ends inside %s: %zu bytes expected, %zu left", c->f->name, c->at, what,
                       bytes, left(c));
    memcpy(to, c->p + c->at, bytes);
    c->at += bytes;
    return OK;
}

static err take_str(cursor *c, str *out, const char *what)
{
    u64 n = 0;
    usize at = c->at;
    TRY(take(c, &n, 8, what));
    if (n > left(c))
        return err_new(ERR_FORMAT, "%s: byte %zu: %s of %llu bytes, but only %zu are left in the file", c->f->name, at, what,
                       (unsigned long long)n, left(c));
    *out = (str){(const char *)c->p + c->at, n};
    c->at += n;
    return OK;
}

/* ---- metadata ---------------------------------------------------------------------------------------------------------- */
static err bool_wrong(const cursor *c, usize at, str key, u8 found)
{
    char shown[SHOWN];
    return err_new(ERR_FORMAT, "%s: byte %zu: metadata '%s' is a boolean of value %u, expected 0 or 1", c->f->name, at,
                   file_shown(key, shown), found);
}

static err take_array(cursor *c, meta *m)
{
    u32 item;
    u64 n = 0;
    char shown[SHOWN];
    usize at = c->at;
    TRY(take(c, &item, 4, "an array's kind"));
    TRY(take(c, &n, 8, "an array's length"));
    usize each = meta_item_bytes((meta_kind)item);
    if (item == META_ARRAY)
        return err_new(ERR_UNSUPPORTED, "%s: byte %zu: metadata '%s' is an array of arrays", c->f->name, at,
                       file_shown(m->key, shown));
    if (!each && item != META_STR)
        return err_new(ERR_FORMAT, "%s: byte %zu: metadata '%s' is an array of unknown kind %u", c->f->name, at,
                       file_shown(m->key, shown), item);
    if (n > left(c) / (each ? each : 8))
        return err_new(ERR_FORMAT, "%s: byte %zu: metadata '%s' has %llu items of kind %s, but only %zu bytes are left",
                       c->f->name, at, file_shown(m->key, shown), (unsigned long long)n, meta_kind_name((meta_kind)item),
                       left(c));
    m->item = (meta_kind)item;
    m->n = (i64)n;
    m->array = c->p + c->at;
    if (each) c->at += each * n;
    str s;
    for (u64 i = 0; !each && i < n; i++) {
        err bad = take_str(c, &s, "an array's string");
        if (bad.code) return err_at(bad, "item %llu of '%s'", (unsigned long long)i, file_shown(m->key, shown));
    }
    m->array_len = (usize)(c->p + c->at - m->array);
    for (usize i = 0; item == META_BOOL && i < m->array_len; i++)
        if (m->array[i] > 1) return bool_wrong(c, at + 12 + i, m->key, m->array[i]);
    return OK;
}

static err take_scalar(cursor *c, meta *m)
{
    u8 raw[8];
    i64 whole;
    double real;
    usize at = c->at;
    TRY(take(c, raw, meta_item_bytes(m->kind), "a metadata value"));
    if (m->kind == META_BOOL && raw[0] > 1) return bool_wrong(c, at, m->key, raw[0]);
    meta_number(m->kind, raw, &whole, &real);
    if (m->kind == META_F32 || m->kind == META_F64)
        m->v.f = real;
    else
        m->v.i = whole;
    return OK;
}

static err take_meta(cursor *c)
{
    meta m = {.n = 1};
    u32 kind;
    char shown[SHOWN];
    usize at = c->at;
    TRY(take_str(c, &m.key, "a metadata key"));
    usize at_kind = c->at;
    TRY(take(c, &kind, 4, "a metadata kind"));
    m.kind = (meta_kind)kind;
    if (kind == META_STR)
        TRY(err_at(take_str(c, &m.v.s, "a string"), "value of '%s'", file_shown(m.key, shown)));
    else if (kind == META_ARRAY)
        TRY(take_array(c, &m));
    else if (meta_item_bytes(m.kind))
        TRY(err_at(take_scalar(c, &m), "value of '%s'", file_shown(m.key, shown)));
    else
        return err_new(ERR_FORMAT, "%s: byte %zu: metadata '%s' has unknown kind %u", c->f->name, at_kind,
                       file_shown(m.key, shown), kind);
    return model_file_add_meta(c->f, &m, at);
}

/* ---- tensor list ------------------------------------------------------------------------------------------------------- */
static err type_wrong(const cursor *c, usize at, str name, u32 type)
{
    enum { PUBLISHED = 40 }; /* ggml numbers its types below this: a larger one is damage, not a format we lack */
    char shown[SHOWN];
    return err_new(type < PUBLISHED ? ERR_UNSUPPORTED : ERR_FORMAT,
                   "%s: byte %zu: tensor '%s' has ggml type %u, which this build does not know", c->f->name, at,
                   file_shown(name, shown), type);
}

/* Leaves the offset within the data in `data`; place_tensors turns it into an address. */
static err take_tensor(cursor *c)
{
    file_tensor t = {.n = {1, 1, 1, 1}};
    u32 n_dims, type;
    u64 offset;
    char shown[SHOWN];
    usize at = c->at;
    TRY(take_str(c, &t.name, "a tensor name"));
    file_shown(t.name, shown);
    usize at_dims = c->at;
    TRY(take(c, &n_dims, 4, "a tensor's number of dimensions"));
    if (n_dims > 4)
        return err_new(ERR_FORMAT, "%s: byte %zu: tensor '%s' has %u dimensions, expected at most 4", c->f->name, at_dims, shown,
                       n_dims);
    t.n_dims = (int)n_dims;
    TRY(take(c, t.n, 8 * (usize)n_dims, "a tensor's extents"));
    for (u32 i = 0; i < n_dims; i++)
        if (t.n[i] < 1)
            return err_new(ERR_FORMAT, "%s: byte %zu: tensor '%s' has extent %llu, expected 1 to 2^63 - 1", c->f->name,
                           at_dims + 4 + 8 * i, shown, (unsigned long long)t.n[i]);
    usize at_type = c->at;
    TRY(take(c, &type, 4, "a tensor's type"));
    TRY(take(c, &offset, 8, "a tensor's offset"));
    t.type = dtype_of_gguf(type);
    if (t.type == DTYPE_COUNT) return type_wrong(c, at_type, t.name, type);
    switch (file_tensor_size(t.type, t.n, &t.bytes)) {
    case SIZE_OK: break;
    case SIZE_BLOCK:
        return err_new(ERR_FORMAT, "%s: byte %zu: tensor '%s' has rows of %lld values, expected a multiple of %d (%s)",
                       c->f->name, at_dims, shown, (long long)t.n[0], dtype_table[t.type].block, dtype_table[t.type].name);
    case SIZE_OVERFLOW:
        return err_new(ERR_FORMAT, "%s: byte %zu: tensor '%s' of %lld x %lld x %lld x %lld values is larger than any file",
                       c->f->name, at_dims, shown, (long long)t.n[0], (long long)t.n[1], (long long)t.n[2], (long long)t.n[3]);
    }
    t.data = (const u8 *)(uintptr_t)offset;
    return model_file_add_tensor(c->f, &t, at);
}

static err find_alignment(const model_file *f, usize *align)
{
    *align = 32;
    const meta *m = file_meta(f, "general.alignment");
    if (!m) return OK;
    if (m->kind != META_U32 || m->v.i < 8 || (m->v.i & (m->v.i - 1)))
        return err_new(ERR_FORMAT, "%s: general.alignment is %s %lld, expected u32, a power of two of at least 8", f->name,
                       meta_kind_name(m->kind), (long long)(m->kind == META_U32 ? m->v.i : 0));
    *align = (usize)m->v.i;
    return OK;
}

static int by_address(const void *a, const void *b)
{
    const file_tensor *const *x = a, *const *y = b;
    if ((*x)->data != (*y)->data) return (*x)->data < (*y)->data ? -1 : 1;
    return 0;
}

static err no_overlap(const model_file *f, const u8 *data)
{
    const file_tensor **order = mem_array(const file_tensor *, f->n_tensors);
    if (!order) return err_new(ERR_NOMEM, "%s: no memory to check its tensors", f->name);
    for (usize i = 0; i < f->n_tensors; i++) order[i] = &f->tensors[i];
    qsort(order, f->n_tensors, sizeof *order, by_address);
    err bad = OK;
    for (usize i = 1; i < f->n_tensors && !bad.code; i++) {
        const file_tensor *a = order[i - 1], *b = order[i];
        char x[SHOWN], y[SHOWN];
        if (a->data + a->bytes > b->data)
            bad = err_new(ERR_FORMAT, "%s: tensors '%s' (data bytes %zu to %zu) and '%s' (from %zu) overlap", f->name,
                          file_shown(a->name, x), (usize)(a->data - data), (usize)(a->data - data) + a->bytes,
                          file_shown(b->name, y), (usize)(b->data - data));
    }
    mem_free(order);
    return bad;
}

static err place_tensors(cursor *c)
{
    usize align, start;
    TRY(find_alignment(c->f, &align));
    start = (c->at + align - 1) & ~(align - 1); /* both below 2^63: no overflow */
    bool absent = c->n <= start;
    usize room = absent ? 0 : c->n - start;
    for (usize i = 0; i < c->f->n_tensors; i++) {
        file_tensor *t = &c->f->tensors[i];
        usize offset = (usize)(uintptr_t)t->data;
        char shown[SHOWN];
        t->data = NULL;
        if (offset & (align - 1))
            return err_new(ERR_FORMAT, "%s: tensor '%s' has data offset %zu, expected a multiple of %zu", c->f->name,
                           file_shown(t->name, shown), offset, align);
        if (absent) continue;
        if (offset > room || t->bytes > room - offset)
            return err_new(ERR_FORMAT,
                           "%s: tensor '%s' needs %zu bytes of data from byte %zu, but the file has %zu bytes of data",
                           c->f->name, file_shown(t->name, shown), t->bytes, offset, room);
        t->data = c->p + start + offset;
    }
    return absent ? OK : no_overlap(c->f, c->p + start);
}

/* ---- the whole file ---------------------------------------------------------------------------------------------------- */
static err take_head(cursor *c, u64 *n_tensors, u64 *n_metas)
{
    u32 magic, version;
    TRY(take(c, &magic, 4, "the magic number"));
    if (magic != 0x46554747)
        return err_new(ERR_FORMAT, "%s: not a GGUF file: starts with bytes %02x %02x %02x %02x, expected 'GGUF'", c->f->name,
                       c->p[0], c->p[1], c->p[2], c->p[3]);
    TRY(take(c, &version, 4, "the version"));
    if (version && !(version & 0xffff))
        return err_new(ERR_UNSUPPORTED, "%s: a big-endian GGUF file (version field %08x)", c->f->name, version);
    if (version != 2 && version != 3)
        return err_new(version == 1 ? ERR_UNSUPPORTED : ERR_FORMAT, "%s: GGUF version %u, expected 2 or 3", c->f->name, version);
    TRY(take(c, n_tensors, 8, "the number of tensors"));
    TRY(take(c, n_metas, 8, "the number of metadata entries"));
    enum { META_LEAST = 8 + 1 + 4 + 1, TENSOR_LEAST = 8 + 1 + 4 + 4 + 8 };
    if (*n_metas > left(c) / META_LEAST || *n_tensors > left(c) / TENSOR_LEAST)
        return err_new(ERR_FORMAT, "%s: byte 8: %llu tensors and %llu metadata entries declared, but only %zu bytes follow",
                       c->f->name, (unsigned long long)*n_tensors, (unsigned long long)*n_metas, left(c));
    return OK;
}

static err parse(model_file **out, const u8 *p, usize n, const char *name, bool meta_only)
{
    TRY(model_file_new(out, name));
    cursor c = {.p = p, .n = n, .f = *out};
    u64 n_tensors, n_metas;
    err bad;
    TRY_TO(failed, take_head(&c, &n_tensors, &n_metas));
    for (u64 i = 0; i < n_metas; i++) TRY_TO(failed, take_meta(&c));
    if (meta_only) return OK;
    for (u64 i = 0; i < n_tensors; i++) TRY_TO(failed, take_tensor(&c));
    TRY_TO(failed, place_tensors(&c));
    return OK;
failed:
    model_file_close(*out);
    *out = NULL;
    return bad;
}

err gguf_parse(model_file **out, const u8 *p, usize n, const char *name) { return parse(out, p, n, name, false); }

static err parse_meta(model_file **out, const u8 *p, usize n, const char *name) { return parse(out, p, n, name, true); }

err gguf_open(model_file **out, const char *path) { return model_file_open(out, path, gguf_parse); }

err gguf_open_meta(model_file **out, const char *path) { return model_file_open(out, path, parse_meta); }
