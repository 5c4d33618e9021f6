/* model/safetensors.c - the strict reader of safetensors (Hugging Face's published format): u64 length, a JSON object of that
 * length, then the data.
 *
 * The format's rules are all checked: the data is covered by the tensors exactly, without holes, overlaps or bytes after the
 * end, and every shape multiplies to its number of bytes. The reference refuses headers over 100 MB; so does this. jansson
 * bounds the nesting depth and refuses double keys and numbers past 64 bits.
 *
 * Shapes turn around: the file names the slowest extent first, maru the fastest. Types that no dtype stands for (I64, BOOL,
 * F8 ...) are listed with type DTYPE_COUNT, because files carry index buffers nobody asks for; whoever needs the values finds
 * out by the type. The format does not align data: a tensor that lies askew for its type is copied once, so that everybody
 * may read data directly. "__metadata__" becomes metadata of kind str. More than four dimensions: UNSUPPORTED. */
#include "model/file_inside.h"
#include <jansson.h>
#include <stdlib.h>

enum { HEADER_MAX = 100 * 1000 * 1000 };
static const struct {
    const char *name;
    dtype type;
    int bits;
} types[] = {
    {"F32", F32, 32},
    {"F16", F16, 16},
    {"BF16", BF16, 16},
    {"F64", F64, 64},
    {"I32", I32, 32},
    {"BOOL", DTYPE_COUNT, 8},
    {"U8", DTYPE_COUNT, 8},
    {"I8", DTYPE_COUNT, 8},
    {"F8_E5M2", DTYPE_COUNT, 8},
    {"F8_E4M3", DTYPE_COUNT, 8},
    {"F8_E8M0", DTYPE_COUNT, 8},
    {"I16", DTYPE_COUNT, 16},
    {"U16", DTYPE_COUNT, 16},
    {"U32", DTYPE_COUNT, 32},
    {"I64", DTYPE_COUNT, 64},
    {"U64", DTYPE_COUNT, 64},
    {"C64", DTYPE_COUNT, 64},
    {"F4", DTYPE_COUNT, 4},
    {"F6_E2M3", DTYPE_COUNT, 6},
    {"F6_E3M2", DTYPE_COUNT, 6},
};

typedef struct {
    file_tensor t;
    i64 from, to; /* within the data */
    int bits;     /* of a value */
} entry;

static str keep_text(model_file *f, const char *p, usize n)
{
    if (!f->own) f->own = arena_new();
    char *copy = f->own ? arena_str(f->own, p, n) : NULL;
    return (str){copy, copy ? n : 0};
}

static err no_memory(const model_file *f) { return err_new(ERR_NOMEM, "%s: no memory for its header", f->name); }

/* ---- one tensor -------------------------------------------------------------------------------------------------------- */
static err read_shape(const model_file *f, const char *shown, json_t *extents, entry *e)
{
    usize n_dims = json_array_size(extents);
    if (!json_is_array(extents)) return err_new(ERR_FORMAT, "%s: tensor '%s' has no shape", f->name, shown);
    if (n_dims > 4)
        return err_new(ERR_UNSUPPORTED, "%s: tensor '%s' has %zu dimensions, this build reads at most 4", f->name, shown, n_dims);
    e->t.n_dims = (int)n_dims;
    for (usize i = 0; i < 4; i++) e->t.n[i] = 1;
    for (usize i = 0; i < n_dims; i++) {
        json_t *x = json_array_get(extents, i);
        if (!json_is_integer(x) || json_integer_value(x) < 0)
            return err_new(ERR_FORMAT, "%s: tensor '%s': shape item %zu is not a whole number of at least 0", f->name, shown, i);
        e->t.n[n_dims - 1 - i] = json_integer_value(x);
    }
    return OK;
}

static err read_offsets(const model_file *f, const char *shown, json_t *offsets, usize room, entry *e)
{
    json_t *from = json_array_get(offsets, 0), *to = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(from) || !json_is_integer(to))
        return err_new(ERR_FORMAT, "%s: tensor '%s': data_offsets are not two whole numbers", f->name, shown);
    e->from = json_integer_value(from);
    e->to = json_integer_value(to);
    if (e->from < 0 || e->to < e->from || (usize)e->to > room)
        return err_new(ERR_FORMAT, "%s: tensor '%s' lies in data bytes %lld to %lld, the file has 0 to %zu", f->name, shown,
                       (long long)e->from, (long long)e->to, room);
    return OK;
}

static err read_type(const model_file *f, const char *shown, json_t *value, entry *e)
{
    const char *name = json_string_value(value);
    char type[SHOWN];
    if (!name) return err_new(ERR_FORMAT, "%s: tensor '%s' has no dtype", f->name, shown);
    for (usize i = 0; i < COUNT_OF(types); i++)
        if (!strcmp(name, types[i].name)) {
            e->t.type = types[i].type;
            e->bits = types[i].bits;
            return OK;
        }
    return err_new(ERR_UNSUPPORTED, "%s: tensor '%s' has dtype '%s', which this build does not know", f->name, shown,
                   file_shown(str_of(name), type));
}

static err read_tensor(model_file *f, str name, json_t *value, usize room, entry *e)
{
    char shown[SHOWN];
    file_shown(name, shown);
    if (!json_is_object(value)) return err_new(ERR_FORMAT, "%s: tensor '%s' is not an object", f->name, shown);
    for (void *x = json_object_iter(value); x; x = json_object_iter_next(value, x)) {
        const char *key = json_object_iter_key(x);
        if (strcmp(key, "dtype") && strcmp(key, "shape") && strcmp(key, "data_offsets"))
            return err_new(ERR_FORMAT, "%s: tensor '%s' has an unknown member '%s'", f->name, shown,
                           file_shown(str_of(key), (char[SHOWN]){0}));
    }
    TRY(read_type(f, shown, json_object_get(value, "dtype"), e));
    TRY(read_shape(f, shown, json_object_get(value, "shape"), e));
    TRY(read_offsets(f, shown, json_object_get(value, "data_offsets"), room, e));
    i64 bits = e->bits;
    bool over = false;
    for (int i = 0; i < 4; i++) over |= __builtin_mul_overflow(bits, e->t.n[i], &bits);
    e->t.bytes = (usize)(e->to - e->from);
    if (over || bits % 8 || (usize)bits / 8 != e->t.bytes)
        return err_new(ERR_FORMAT, "%s: tensor '%s' has %zu bytes, expected %lld x %lld x %lld x %lld values of %d bits%s",
                       f->name, shown, e->t.bytes, (long long)e->t.n[3], (long long)e->t.n[2], (long long)e->t.n[1],
                       (long long)e->t.n[0], e->bits, over ? " (more than any file holds)" : "");
    e->t.name = keep_text(f, name.p, name.n);
    return e->t.name.p ? OK : no_memory(f);
}

/* ---- all of them ------------------------------------------------------------------------------------------------------- */
static int by_place(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->from != y->from) return x->from < y->from ? -1 : 1;
    return x->to < y->to ? -1 : x->to > y->to;
}

static err place(model_file *f, entry *e, const u8 *data)
{
    const u8 *at = data + e->from;
    usize align = e->bits >= 8 ? (usize)e->bits / 8 : 1;
    if ((uintptr_t)at % align && e->t.bytes) {
        if (!f->own) f->own = arena_new();
        u8 *copy = f->own ? arena_take(f->own, e->t.bytes) : NULL;
        if (!copy) return no_memory(f);
        at = memcpy(copy, at, e->t.bytes);
    }
    e->t.data = at;
    return OK;
}

static err add_all(model_file *f, entry *e, usize n, const u8 *data, usize room)
{
    usize end = 0;
    qsort(e, n, sizeof *e, by_place);
    for (usize i = 0; i < n; i++) {
        char shown[SHOWN];
        if ((usize)e[i].from != end)
            return err_new(ERR_FORMAT, "%s: tensor '%s' starts at data byte %lld, expected %zu: %s", f->name,
                           file_shown(e[i].t.name, shown), (long long)e[i].from, end,
                           (usize)e[i].from < end ? "it overlaps the one before" : "a hole");
        end = (usize)e[i].to;
        TRY(place(f, &e[i], data));
        TRY(model_file_add_tensor(f, &e[i].t, 8));
    }
    if (end != room) return err_new(ERR_FORMAT, "%s: %zu bytes of data, but the tensors end at %zu", f->name, room, end);
    return OK;
}

static err add_metadata(model_file *f, json_t *o)
{
    const char *key;
    json_t *value;
    char shown[SHOWN];
    if (json_is_null(o)) return OK; /* the reference reads null as none, and mlx writes it */
    if (!json_is_object(o)) return err_new(ERR_FORMAT, "%s: __metadata__ is not an object", f->name);
    json_object_foreach(o, key, value)
    {
        if (!json_is_string(value))
            return err_new(ERR_FORMAT, "%s: __metadata__ '%s' is not text", f->name, file_shown(str_of(key), shown));
        meta m = {.kind = META_STR, .n = 1, .key = keep_text(f, key, strlen(key))};
        m.v.s = keep_text(f, json_string_value(value), json_string_length(value));
        if (!m.key.p || !m.v.s.p) return no_memory(f);
        TRY(model_file_add_meta(f, &m, 8));
    }
    return OK;
}

static err read_header(model_file *f, json_t *root, const u8 *data, usize room)
{
    const char *key;
    json_t *value;
    usize n = 0;
    entry *all = mem_array(entry, i64_max((i64)json_object_size(root), 1));
    err bad = all ? OK : no_memory(f);
    json_object_foreach(root, key, value)
    {
        if (bad.code) break;
        if (!strcmp(key, "__metadata__"))
            bad = add_metadata(f, value);
        else
            bad = read_tensor(f, str_of(key), value, room, &all[n++]);
    }
    if (!bad.code) bad = add_all(f, all, n, data, room);
    mem_free(all);
    return bad;
}

static err parse(model_file *f, const u8 *p, usize n)
{
    u64 length;
    if (n < 8) return err_new(ERR_FORMAT, "%s: not a safetensors file: %zu bytes, expected at least 8", f->name, n);
    memcpy(&length, p, 8);
    if (length > HEADER_MAX || length > n - 8)
        return err_new(
            ERR_FORMAT,
            "%s: not a safetensors file, or cut short: a header of %llu bytes declared, %zu follow (at most %d are read)",
            f->name, (unsigned long long)length, n - 8, HEADER_MAX);
    if (!length || p[8] != '{') return err_new(ERR_FORMAT, "%s: byte 8: the header does not start with '{'", f->name);
    json_error_t why;
    json_t *root = json_loadb((const char *)p + 8, length, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return err_new(json_error_code(&why) == json_error_out_of_memory ? ERR_NOMEM : ERR_FORMAT,
                       "%s: byte %lld: the header: %s", f->name, 8LL + why.position,
                       file_shown(str_of(why.text), (char[SHOWN]){0}));
    err bad = read_header(f, root, p + 8 + length, n - 8 - length);
    json_decref(root);
    return bad;
}

err safetensors_parse(model_file **out, const u8 *p, usize n, const char *name)
{
    TRY(model_file_new(out, name));
    err bad = parse(*out, p, n);
    if (bad.code) {
        model_file_close(*out);
        *out = NULL;
    }
    return bad;
}

err safetensors_open(model_file **out, const char *path) { return model_file_open(out, path, safetensors_parse); }
