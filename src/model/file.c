/* model/file.c - what GGUF and safetensors have in common once they are read: two tables, their name indexes, and accessors
 * that say which key was wrong and how.
 *
 * Names are found by a hash index because a model has hundreds of tensors and asks for each; entries keep the file's order,
 * which is also the order of reading fastest. Values are never converted here, only looked at: data stays where the file is
 * mapped. A file cut short by somebody else while it is mapped still raises SIGBUS; installed models are replaced by rename. */
#include "model/file_inside.h"

static const struct {
    const char *name;
    u8 bytes; /* 0: varies */
} kinds[] = {
    [META_U8] = {"u8", 1},   [META_I8] = {"i8", 1},       [META_U16] = {"u16", 2}, [META_I16] = {"i16", 2},
    [META_U32] = {"u32", 4}, [META_I32] = {"i32", 4},     [META_F32] = {"f32", 4}, [META_BOOL] = {"bool", 1},
    [META_STR] = {"str", 0}, [META_ARRAY] = {"array", 0}, [META_U64] = {"u64", 8}, [META_I64] = {"i64", 8},
    [META_F64] = {"f64", 8},
};

const char *meta_kind_name(meta_kind k) { return (usize)k < COUNT_OF(kinds) ? kinds[k].name : "unknown"; }

usize meta_item_bytes(meta_kind k) { return (usize)k < COUNT_OF(kinds) ? kinds[k].bytes : 0; }

/* ---- building ---------------------------------------------------------------------------------------------------------- */
err model_file_new(model_file **out, const char *name)
{
    *out = NULL;
    model_file *f = mem_zero(sizeof *f);
    if (!f) return err_new(ERR_NOMEM, "%s: no memory to open it", name);
    f->mapped.fd = -1;
    f->name = mem_strdup(name);
    f->by_key = map_new();
    f->by_name = map_new();
    if (!f->name || !f->by_key || !f->by_name) {
        model_file_close(f);
        return err_new(ERR_NOMEM, "%s: no memory to open it", name);
    }
    *out = f;
    return OK;
}

err model_file_open(model_file **out, const char *path, file_parser parse)
{
    *out = NULL;
    file_map m;
    TRY(file_map_open(&m, path));
    err bad = parse(out, m.p, m.n, path);
    if (bad.code)
        file_map_close(&m);
    else
        (*out)->mapped = m;
    return bad;
}

void model_file_close(model_file *f)
{
    if (!f) return;
    map_free(f->by_key);
    map_free(f->by_name);
    arena_free(f->own);
    mem_free(f->metas);
    mem_free(f->tensors);
    mem_free(f->name);
    for (usize i = 0; i < f->n_parts; i++) model_file_close(f->parts[i]);
    mem_free(f->parts);
    if (f->mapped.p || f->mapped.fd >= 0) file_map_close(&f->mapped);
    mem_free(f);
}

const char *file_shown(str s, char out[SHOWN])
{
    usize n = s.n < SHOWN - 4 ? s.n : utf8_complete((str){s.p, SHOWN - 4});
    usize at = 0;
    for (usize i = 0; i < n;) {
        usize from = i;
        u32 c = utf8_next((str){s.p, n}, &i);
        bool plain = c >= 0x20 && c != 0x7f && !(c >= 0x80 && c < 0xa0) && c != 0xfffd;
        if (plain)
            while (from < i) out[at++] = s.p[from++];
        else
            out[at++] = '?';
    }
    if (n < s.n) memcpy(out + at, "...", 3), at += 3;
    out[at] = 0;
    return out;
}

bool file_name_fits(str s, usize max)
{
    if (!s.n || s.n > max || !utf8_valid(s)) return false;
    for (usize i = 0; i < s.n; i++)
        if ((u8)s.p[i] < 0x20 || s.p[i] == 0x7f) return false;
    return true;
}

/* One rule for keys and tensor names. `at` is the byte where the entry starts, for the message. */
static err index_name(const model_file *f, map *index, const char *what, str name, usize max, usize at, usize value)
{
    char shown[SHOWN];
    if (!file_name_fits(name, max))
        return err_new(ERR_FORMAT,
                       "%s: byte %zu: %s name of %zu bytes '%s', expected 1 to %zu bytes of UTF-8 without control characters",
                       f->name, at, what, name.n, file_shown(name, shown), max);
    u64 other;
    if (map_get(index, name, &other))
        return err_new(ERR_FORMAT, "%s: byte %zu: %s '%s' is there twice (entries %llu and %zu)", f->name, at, what,
                       file_shown(name, shown), (unsigned long long)other, value);
    return map_put(index, name, value) ? OK : err_new(ERR_NOMEM, "%s: no memory for its names", f->name);
}

err model_file_add_meta(model_file *f, const meta *m, usize at)
{
    TRY(index_name(f, f->by_key, "metadata", m->key, KEY_MAX_BYTES, at, f->n_metas));
    if (!VEC_PUSH(f->metas, f->n_metas, f->metas_cap, *m)) return err_new(ERR_NOMEM, "%s: no memory for its metadata", f->name);
    return OK;
}

err model_file_add_tensor(model_file *f, const file_tensor *t, usize at)
{
    TRY(index_name(f, f->by_name, "tensor", t->name, NAME_MAX_BYTES, at, f->n_tensors));
    if (!VEC_PUSH(f->tensors, f->n_tensors, f->tensors_cap, *t))
        return err_new(ERR_NOMEM, "%s: no memory for its list of tensors", f->name);
    return OK;
}

size_verdict file_tensor_size(dtype type, const i64 n[4], usize *bytes)
{
    const dtype_info *d = &dtype_table[type];
    if (n[0] % d->block) return SIZE_BLOCK;
    i64 total = n[0] / d->block;
    for (int i = 1; i < 4; i++)
        if (__builtin_mul_overflow(total, n[i], &total)) return SIZE_OVERFLOW;
    i64 values; /* others multiply extents as i64: the number of values must fit too */
    if (__builtin_mul_overflow(total, (i64)d->bytes, &total) || __builtin_mul_overflow(total / d->bytes, (i64)d->block, &values))
        return SIZE_OVERFLOW;
    *bytes = (usize)total;
    return SIZE_OK;
}

/* ---- lookups ----------------------------------------------------------------------------------------------------------- */
const meta *file_meta(const model_file *f, const char *key)
{
    u64 i;
    return map_get(f->by_key, str_of(key), &i) ? &f->metas[i] : NULL;
}

const file_tensor *file_tensor_find(const model_file *f, str name)
{
    u64 i;
    return map_get(f->by_name, name, &i) ? &f->tensors[i] : NULL;
}

usize file_n_meta(const model_file *f) { return f->n_metas; }

const meta *file_meta_at(const model_file *f, usize i) { return i < f->n_metas ? &f->metas[i] : NULL; }

usize file_n_tensors(const model_file *f) { return f->n_tensors; }

const file_tensor *file_tensor_at(const model_file *f, usize i) { return i < f->n_tensors ? &f->tensors[i] : NULL; }

/* ---- items ------------------------------------------------------------------------------------------------------------- */
static err item_wrong(const meta *m, i64 i, const char *expected)
{
    char shown[SHOWN];
    file_shown(m->key, shown);
    if (i < 0 || i >= m->n)
        return err_new(ERR_FORMAT, "metadata '%s': item %lld asked for, it has %lld", shown, (long long)i, (long long)m->n);
    bool many = m->kind == META_ARRAY;
    return err_new(ERR_FORMAT, "metadata '%s' is %s%s, expected %s", shown, many ? "an array of " : "",
                   meta_kind_name(many ? m->item : m->kind), expected);
}

/* The mark moves inside a const meta: it is a note of where reading stopped, not part of the value, and every meta that a
 * model_file hands out lies in writable memory. */
err meta_str_at(const meta *m, i64 i, str *out)
{
    *out = (str){NULL, 0};
    if (m->kind == META_STR && i == 0) return *out = m->v.s, OK;
    if (m->kind != META_ARRAY || m->item != META_STR || i < 0 || i >= m->n) return item_wrong(m, i, "text");
    i64 at_item = m->mark.i;
    usize at = m->mark.at;
    if (i < at_item) at_item = 0, at = 0;
    for (;; at_item++) {
        u64 n; /* lengths were checked against array_len when the file was read */
        CHECK(at + 8 <= m->array_len);
        memcpy(&n, m->array + at, 8);
        CHECK(n <= m->array_len - at - 8);
        if (at_item == i) {
            *out = (str){(const char *)m->array + at + 8, n};
            break;
        }
        at += 8 + n;
    }
    ((meta *)(uintptr_t)m)->mark.i = at_item;
    ((meta *)(uintptr_t)m)->mark.at = at;
    return OK;
}

void meta_number(meta_kind kind, const u8 *p, i64 *whole, double *real)
{
    union {
        u8 u8;
        i8 i8;
        u16 u16;
        i16 i16;
        u32 u32;
        i32 i32;
        i64 i64;
        float f;
        double d;
    } x;
    memcpy(&x, p, meta_item_bytes(kind));
    *real = kind == META_F32 ? (double)x.f : kind == META_F64 ? x.d : 0;
    switch (kind) {
    case META_U8:
    case META_BOOL: *whole = x.u8; break;
    case META_I8: *whole = x.i8; break;
    case META_U16: *whole = x.u16; break;
    case META_I16: *whole = x.i16; break;
    case META_U32: *whole = x.u32; break;
    case META_I32: *whole = x.i32; break;
    case META_U64:
    case META_I64: *whole = x.i64; break;
    default: *whole = 0;
    }
}

/* An item as a number, as meta_number gives it. */
static bool item_load(const meta *m, i64 i, meta_kind *kind, i64 *whole, double *real)
{
    bool many = m->kind == META_ARRAY;
    *kind = many ? m->item : m->kind;
    usize size = meta_item_bytes(*kind);
    if (!size || i < 0 || i >= m->n) return false;
    if (!many) return *whole = m->v.i, *real = m->v.f, true;
    meta_number(*kind, m->array + (usize)i * size, whole, real);
    return true;
}

err meta_i64_at(const meta *m, i64 i, i64 *out)
{
    meta_kind kind;
    double real;
    *out = 0;
    i64 whole;
    if (!item_load(m, i, &kind, &whole, &real) || kind == META_F32 || kind == META_F64) return item_wrong(m, i, "an integer");
    char shown[SHOWN];
    if (kind == META_U64 && whole < 0)
        return err_new(ERR_FORMAT, "metadata '%s' is %llu, expected less than 2^63", file_shown(m->key, shown),
                       (unsigned long long)whole);
    *out = whole;
    return OK;
}

err meta_f64_at(const meta *m, i64 i, double *out)
{
    meta_kind kind;
    i64 whole;
    *out = 0;
    if (!item_load(m, i, &kind, &whole, out)) return item_wrong(m, i, "a number");
    if (kind == META_U64)
        *out = (double)(u64)whole;
    else if (kind != META_F32 && kind != META_F64)
        *out = (double)whole;
    return OK;
}

/* ---- by key ------------------------------------------------------------------------------------------------------------ */
static err need(const model_file *f, const char *key, const meta **m)
{
    *m = file_meta(f, key);
    return *m ? OK : err_new(ERR_FORMAT, "%s: no metadata '%s'", f->name, key);
}

static err scalar_wrong(const model_file *f, const char *key, const meta *m, const char *expected)
{
    return err_new(ERR_FORMAT, "%s: metadata '%s' is %s%s, expected %s", f->name, key,
                   m->kind == META_ARRAY ? "an array of " : "", meta_kind_name(m->kind == META_ARRAY ? m->item : m->kind),
                   expected);
}

err file_str(const model_file *f, const char *key, str *out)
{
    const meta *m;
    *out = (str){NULL, 0};
    TRY(need(f, key, &m));
    if (m->kind != META_STR) return scalar_wrong(f, key, m, "text");
    *out = m->v.s;
    return OK;
}

err file_i64(const model_file *f, const char *key, i64 *out)
{
    const meta *m;
    *out = 0;
    TRY(need(f, key, &m));
    if (m->kind == META_ARRAY) return scalar_wrong(f, key, m, "one integer");
    return err_at(meta_i64_at(m, 0, out), "%s", f->name);
}

err file_f64(const model_file *f, const char *key, double *out)
{
    const meta *m;
    *out = 0;
    TRY(need(f, key, &m));
    if (m->kind == META_ARRAY) return scalar_wrong(f, key, m, "one number");
    return err_at(meta_f64_at(m, 0, out), "%s", f->name);
}

i64 file_i64_or(const model_file *f, const char *key, i64 otherwise)
{
    const meta *m = file_meta(f, key);
    i64 v;
    return m && m->kind != META_ARRAY && !meta_i64_at(m, 0, &v).code ? v : otherwise;
}

double file_f64_or(const model_file *f, const char *key, double otherwise)
{
    const meta *m = file_meta(f, key);
    double v;
    return m && m->kind != META_ARRAY && !meta_f64_at(m, 0, &v).code ? v : otherwise;
}

err file_strings(const model_file *f, const char *key, arena *a, str **out, i64 *n)
{
    *out = NULL;
    *n = 0;
    const meta *m = file_meta(f, key);
    if (!m) return OK;
    if (m->kind != META_ARRAY || m->item != META_STR) return scalar_wrong(f, key, m, "an array of text");
    str *items = arena_take(a, (usize)i64_max(m->n, 1) * sizeof *items); /* m->n <= array_len / 8: no overflow */
    if (!items) return err_new(ERR_NOMEM, "%s: no memory for the %lld items of '%s'", f->name, (long long)m->n, key);
    for (i64 i = 0; i < m->n; i++) TRY(meta_str_at(m, i, &items[i]));
    *out = items;
    *n = m->n;
    return OK;
}
