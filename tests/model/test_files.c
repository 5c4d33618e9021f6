/* tests/model/test_files.c - GGUF and safetensors: what is written is read again, hostile files are refused by name and place,
 * no cut or changed file reads outside its bytes (run it with SAN=address,undefined), real files open. */
#include "file_touch.h"
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <unistd.h>

static char folder[200];
static char path_buf[4][400];
static const char *in_folder(int i, const char *name)
{
    snprintf(path_buf[i], sizeof path_buf[i], "%s/%s", folder, name);
    return path_buf[i];
}

static void no_err(err e)
{
    if (e.code) fail_msg("%s: %s", err_name(e.code), e.what);
}

static void want_err(err e, err_code code, const char *part)
{
    if ((err_code)e.code != code) fail_msg("expected %s '%s', got %s: %s", err_name(code), part, err_name(e.code), e.what);
    if (!strstr(e.what, part)) fail_msg("expected a message with '%s', got: %s", part, e.what);
}

static int make_folder(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/maru-files-XXXXXX", tmp && strlen(tmp) < 150 ? tmp : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    return file_remove_tree(folder).code ? -1 : 0;
}

static int files_in_folder(void)
{
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    if (d) closedir(d);
    return n;
}

/* ---- a GGUF by hand ---------------------------------------------------------------------------------------------------- */
static void put32(buf *b, u32 v) { buf_put(b, &v, 4); }
static void put64(buf *b, u64 v) { buf_put(b, &v, 8); }
static void put_text(buf *b, const char *s) { put64(b, strlen(s)), buf_puts(b, s); }
static void head(buf *b, u32 version, u64 n_tensors, u64 n_metas)
{
    buf_puts(b, "GGUF");
    put32(b, version), put64(b, n_tensors), put64(b, n_metas);
}
static void key_of(buf *b, const char *key, u32 kind) { put_text(b, key), put32(b, kind); }
static void tensor_of(buf *b, const char *name, u32 n_dims, const i64 *n, u32 type, u64 offset)
{
    put_text(b, name), put32(b, n_dims), buf_put(b, n, 8 * (usize)n_dims), put32(b, type), put64(b, offset);
}
static void pad_to(buf *b, usize align)
{
    while (b->n % align) buf_byte(b, 0);
}
static void zeros(buf *b, usize n)
{
    for (usize i = 0; i < n; i++) buf_byte(b, 0);
}

/* Metadata of several kinds and two tensors, F32 [4] at 0 and Q8_0 [32,2] at 32: all parts of the format, 400 bytes or so. */
static usize small_gguf(buf *b, bool data)
{
    head(b, 3, 2, 5);
    key_of(b, "general.architecture", META_STR), put_text(b, "tiny");
    key_of(b, "tiny.block_count", META_U32), put32(b, 1);
    key_of(b, "tiny.words", META_ARRAY), put32(b, META_STR), put64(b, 3), put_text(b, "a"), put_text(b, ""), put_text(b, "마루");
    key_of(b, "tiny.scores", META_ARRAY), put32(b, META_F32), put64(b, 2), put64(b, 0x3f8000003f000000);
    key_of(b, "tiny.flags", META_ARRAY), put32(b, META_BOOL), put64(b, 2), buf_put(b, "\1\0", 2);
    tensor_of(b, "one", 1, (i64[]){4}, 0, 0);
    tensor_of(b, "two", 2, (i64[]){32, 2}, 8, 32);
    usize end = b->n;
    if (!data) return end;
    pad_to(b, 32);
    for (int i = 0; i < 32 + 68; i++) buf_byte(b, i);
    return end;
}

static err parse_buf(model_file **f, const buf *b) { return gguf_parse(f, (const u8 *)b->p, b->n, "hostile.gguf"); }

/* ---- writer and reader ------------------------------------------------------------------------------------------------- */
static const meta_kind array_kinds[] = {META_U8,  META_I8,   META_U16, META_I16, META_U32, META_I32,
                                        META_F32, META_BOOL, META_U64, META_I64, META_F64};

static void write_everything(const char *path)
{
    gguf_writer *w;
    u8 numbers[64];
    for (usize i = 0; i < sizeof numbers; i++) numbers[i] = i & 1;
    unlink(path);
    no_err(gguf_create(&w, path));
    no_err(gguf_put_str(w, "s", S("여러 글자\0뒤")));
    no_err(gguf_put_str(w, "empty", S("")));
    no_err(gguf_put_u32(w, "u32", 4000000000u));
    no_err(gguf_put_i64(w, "i64", INT64_MIN));
    no_err(gguf_put_f32(w, "f32", 0.1f));
    no_err(gguf_put_bool(w, "true", true));
    no_err(gguf_put_bool(w, "false", false));
    no_err(gguf_put_meta(w, &(meta){.key = S("u8"), .kind = META_U8, .n = 1, .v.i = 255}));
    no_err(gguf_put_meta(w, &(meta){.key = S("i8"), .kind = META_I8, .n = 1, .v.i = -128}));
    no_err(gguf_put_meta(w, &(meta){.key = S("u16"), .kind = META_U16, .n = 1, .v.i = 65535}));
    no_err(gguf_put_meta(w, &(meta){.key = S("i16"), .kind = META_I16, .n = 1, .v.i = -32768}));
    no_err(gguf_put_meta(w, &(meta){.key = S("i32"), .kind = META_I32, .n = 1, .v.i = -5}));
    no_err(gguf_put_meta(w, &(meta){.key = S("u64"), .kind = META_U64, .n = 1, .v.i = -1}));
    no_err(gguf_put_meta(w, &(meta){.key = S("f64"), .kind = META_F64, .n = 1, .v.f = 0.1}));
    for (usize i = 0; i < COUNT_OF(array_kinds); i++) {
        char key[40];
        snprintf(key, sizeof key, "array.%s", meta_kind_name(array_kinds[i]));
        no_err(gguf_put_array(w, key, array_kinds[i], 3, numbers));
    }
    no_err(gguf_put_array(w, "array.none", META_U32, 0, NULL));
    no_err(gguf_put_array(w, "array.str", META_STR, 3, (str[]){S("하나"), S(""), S("three")}));
    for (int t = 0; t < DTYPE_COUNT; t++) {
        if (dtype_table[t].gguf < 0) continue;
        i64 n[4] = {dtype_table[t].block, 3, 2, 2};
        no_err(gguf_put_tensor(w, str_of(dtype_table[t].name), (dtype)t, 1 + t % 4, n));
    }
    for (int t = 0; t < DTYPE_COUNT; t++) {
        if (dtype_table[t].gguf < 0) continue;
        usize rows = (usize[]){1, 3, 6, 12}[t % 4], bytes = rows * (usize)dtype_table[t].bytes;
        u8 *values = mem_alloc(bytes);
        memset(values, t + 1, bytes);
        no_err(gguf_put_data(w, values, bytes / 2)); /* in two parts */
        no_err(gguf_put_data(w, values + bytes / 2, bytes - bytes / 2));
        mem_free(values);
    }
    assert_false(file_exists(path));
    no_err(gguf_commit(w));
}

static void expect_i64(const model_file *f, const char *key, i64 want)
{
    i64 v;
    no_err(file_i64(f, key, &v));
    assert_int_equal(v, want);
}

static void test_round_trip(void **state)
{
    (void)state;
    const char *path = in_folder(0, "all.gguf");
    model_file *f;
    str s;
    double d;
    i64 v;
    write_everything(path);
    no_err(gguf_open(&f, path));
    no_err(file_str(f, "s", &s));
    assert_true(str_eq(s, S("여러 글자\0뒤")));
    no_err(file_str(f, "empty", &s));
    assert_int_equal(s.n, 0);
    expect_i64(f, "u32", 4000000000u), expect_i64(f, "i64", INT64_MIN), expect_i64(f, "true", 1), expect_i64(f, "false", 0);
    expect_i64(f, "u8", 255), expect_i64(f, "i8", -128), expect_i64(f, "u16", 65535), expect_i64(f, "i16", -32768),
        expect_i64(f, "i32", -5);
    want_err(file_i64(f, "u64", &v), ERR_FORMAT, "18446744073709551615, expected less than 2^63");
    no_err(file_f64(f, "u64", &d));
    assert_true(d == 18446744073709551616.0);
    no_err(file_f64(f, "f32", &d));
    assert_true(d == (double)0.1f);
    no_err(file_f64(f, "f64", &d));
    assert_true(d == 0.1);
    for (usize i = 0; i < COUNT_OF(array_kinds); i++) {
        char key[40];
        snprintf(key, sizeof key, "array.%s", meta_kind_name(array_kinds[i]));
        const meta *m = file_meta(f, key);
        assert_true(m && m->kind == META_ARRAY && m->item == array_kinds[i] && m->n == 3);
        for (usize k = 0; k < m->array_len; k++) assert_int_equal(m->array[k], k & 1);
    }
    no_err(meta_i64_at(file_meta(f, "array.i16"), 2, &v));
    assert_int_equal(v, 256);
    want_err(meta_i64_at(file_meta(f, "array.i16"), 3, &v), ERR_FORMAT, "item 3 asked for, it has 3");
    want_err(meta_i64_at(file_meta(f, "array.f32"), 0, &v), ERR_FORMAT, "an array of f32, expected an integer");
    usize n_tensors = 0;
    for (int t = 0; t < DTYPE_COUNT; t++) {
        if (dtype_table[t].gguf < 0) continue;
        const file_tensor *x = file_tensor_find(f, str_of(dtype_table[t].name));
        assert_true(x && x == file_tensor_at(f, n_tensors++) && (int)x->type == t && x->n_dims == 1 + t % 4);
        assert_int_equal(x->n[0], dtype_table[t].block);
        assert_int_equal((uintptr_t)x->data % 32, 0);
        for (usize k = 0; k < x->bytes; k++) assert_int_equal(x->data[k], t + 1);
    }
    assert_int_equal(file_n_tensors(f), n_tensors);
    assert_null(file_meta_at(f, file_n_meta(f)));
    assert_null(file_tensor_at(f, n_tensors));
    model_file_close(f);
}

static void test_strings(void **state)
{
    (void)state;
    const char *path = in_folder(0, "all.gguf");
    model_file *f;
    str s, *items;
    i64 n;
    write_everything(path);
    no_err(gguf_open(&f, path));
    const meta *m = file_meta(f, "array.str");
    static const i64 order[] = {0, 1, 2, 2, 0, 2, 1, 1};
    for (usize i = 0; i < COUNT_OF(order); i++) {
        no_err(meta_str_at(m, order[i], &s));
        assert_true(str_eq(s, (str[]){S("하나"), S(""), S("three")}[order[i]]));
    }
    want_err(meta_str_at(m, 3, &s), ERR_FORMAT, "'array.str': item 3 asked for, it has 3");
    want_err(meta_str_at(m, -1, &s), ERR_FORMAT, "item -1");
    want_err(meta_str_at(file_meta(f, "array.u8"), 0, &s), ERR_FORMAT, "an array of u8, expected text");
    arena *a = arena_new();
    no_err(file_strings(f, "array.str", a, &items, &n));
    assert_int_equal(n, 3);
    assert_true(str_eq(items[0], S("하나")) && items[1].n == 0 && str_eq(items[2], S("three")));
    no_err(file_strings(f, "not there", a, &items, &n));
    assert_true(!items && n == 0);
    want_err(file_strings(f, "s", a, &items, &n), ERR_FORMAT, "'s' is str, expected an array of text");
    want_err(file_str(f, "u32", &s), ERR_FORMAT, "all.gguf: metadata 'u32' is u32, expected text");
    want_err(file_str(f, "nowhere", &s), ERR_FORMAT, "no metadata 'nowhere'");
    want_err(file_i64(f, "array.u32", &n), ERR_FORMAT, "an array of u32, expected one integer");
    assert_int_equal(file_i64_or(f, "nowhere", 7), 7);
    assert_int_equal(file_i64_or(f, "u8", 7), 255);
    assert_true(file_f64_or(f, "s", 1.5) == 1.5);
    arena_free(a);
    model_file_close(f);
}

/* Copying every entry and tensor to a new file must give the same bytes. */
static void test_copy_is_identical(void **state)
{
    (void)state;
    const char *from = in_folder(0, "all.gguf"), *to = in_folder(1, "copy.gguf");
    model_file *f;
    gguf_writer *w;
    write_everything(from);
    no_err(gguf_open(&f, from));
    no_err(gguf_create(&w, to));
    for (usize i = 0; i < file_n_meta(f); i++) no_err(gguf_put_meta(w, file_meta_at(f, i)));
    for (usize i = 0; i < file_n_tensors(f); i++) {
        const file_tensor *t = file_tensor_at(f, i);
        no_err(gguf_put_tensor(w, t->name, t->type, t->n_dims, t->n));
    }
    for (usize i = 0; i < file_n_tensors(f); i++)
        no_err(gguf_put_data(w, file_tensor_at(f, i)->data, file_tensor_at(f, i)->bytes));
    no_err(gguf_commit(w));
    model_file_close(f);
    buf a = {0}, b = {0};
    no_err(file_read(&a, from, 0));
    no_err(file_read(&b, to, 0));
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.p, b.p, a.n);
    buf_free(&a);
    buf_free(&b);
    unlink(to);
}

static void test_alignment(void **state)
{
    (void)state;
    const char *path = in_folder(0, "aligned.gguf");
    gguf_writer *w;
    model_file *f;
    no_err(gguf_create(&w, path));
    no_err(gguf_put_u32(w, "general.alignment", 256));
    no_err(gguf_put_tensor(w, S("a"), F32, 1, (i64[]){1}));
    no_err(gguf_put_tensor(w, S("b"), F32, 1, (i64[]){1}));
    no_err(gguf_put_data(w, &(float){1}, 4));
    no_err(gguf_put_data(w, &(float){2}, 4));
    no_err(gguf_commit(w));
    no_err(gguf_open(&f, path));
    assert_int_equal(file_tensor_at(f, 1)->data - file_tensor_at(f, 0)->data, 256);
    assert_int_equal((uintptr_t)file_tensor_at(f, 0)->data % 256, 0);
    assert_memory_equal(file_tensor_at(f, 1)->data, &(float){2}, 4);
    model_file_close(f);
    unlink(path);
}

typedef err (*misuse)(gguf_writer *);
static err same_key(gguf_writer *w)
{
    gguf_put_u32(w, "k", 1);
    return gguf_put_u32(w, "k", 1);
}
static err no_key(gguf_writer *w) { return gguf_put_u32(w, "", 1); }
static err bad_alignment(gguf_writer *w) { return gguf_put_u32(w, "general.alignment", 24); }
static err same_tensor(gguf_writer *w)
{
    gguf_put_tensor(w, S("t"), F32, 1, (i64[]){1});
    return gguf_put_tensor(w, S("t"), F32, 1, (i64[]){1});
}
static err half_block(gguf_writer *w) { return gguf_put_tensor(w, S("t"), Q8_0, 1, (i64[]){33}); }
static err five_dims(gguf_writer *w) { return gguf_put_tensor(w, S("t"), F32, 5, (i64[]){1, 1, 1, 1, 1}); }
static err no_extent(gguf_writer *w) { return gguf_put_tensor(w, S("t"), F32, 2, (i64[]){4, 0}); }
static err too_large(gguf_writer *w) { return gguf_put_tensor(w, S("t"), F32, 2, (i64[]){1LL << 40, 1LL << 40}); }
static err data_past_end(gguf_writer *w)
{
    gguf_put_tensor(w, S("t"), F32, 1, (i64[]){1});
    return gguf_put_data(w, "12345678", 8);
}
static err data_for_nothing(gguf_writer *w) { return gguf_put_data(w, "1234", 4); }
static err key_after_data(gguf_writer *w)
{
    gguf_put_tensor(w, S("t"), F32, 1, (i64[]){1});
    gguf_put_data(w, "1234", 4);
    return gguf_put_u32(w, "k", 1);
}
static err ragged_strings(gguf_writer *w)
{
    return gguf_put_meta(w, &(meta){.key = S("k"),
                                    .kind = META_ARRAY,
                                    .item = META_STR,
                                    .n = 1,
                                    .array = (const u8 *)"\5\0\0\0\0\0\0\0ab",
                                    .array_len = 10});
}
static err nested(gguf_writer *w) { return gguf_put_array(w, "k", META_ARRAY, 1, "1234"); }

static void test_writer_refuses(void **state)
{
    (void)state;
    static const struct {
        misuse what;
        const char *message;
    } cases[] = {
        {same_key, "metadata 'k' is there already"},
        {no_key, "expected 1 to 65535 bytes"},
        {bad_alignment, "a power of two of at least 8"},
        {same_tensor, "tensor 't' is there already"},
        {half_block, "not whole blocks of q8_0"},
        {five_dims, "has 5 dimensions"},
        {no_extent, "has extent 0"},
        {too_large, "too large"},
        {data_past_end, "8 bytes of data for tensor 't', which lacks 4"},
        {data_for_nothing, "after the last tensor"},
        {key_after_data, "metadata 'k' after the first data"},
        {ragged_strings, "does not end where it should"},
        {nested, "an array of kind array"},
    };
    int before = files_in_folder();
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        gguf_writer *w;
        no_err(gguf_create(&w, in_folder(0, "wrong.gguf")));
        want_err(cases[i].what(w), ERR_INPUT, cases[i].message);
        want_err(gguf_put_u32(w, "later", 1), ERR_INPUT, cases[i].message); /* the first failure sticks */
        want_err(gguf_commit(w), ERR_INPUT, cases[i].message);
        assert_int_equal(files_in_folder(), before);
    }
    gguf_writer *w;
    no_err(gguf_create(&w, in_folder(0, "wrong.gguf")));
    no_err(gguf_put_tensor(w, S("t"), F32, 1, (i64[]){2}));
    no_err(gguf_put_data(w, "1234", 4));
    want_err(gguf_commit(w), ERR_FORMAT, "data of tensor 't' is missing: 4 of 8 bytes came");
    no_err(gguf_create(&w, in_folder(0, "wrong.gguf")));
    gguf_drop(w);
    gguf_drop(NULL);
    assert_int_equal(files_in_folder(), before);
}

/* ---- hostile GGUF ------------------------------------------------------------------------------------------------------ */
typedef void (*maker)(buf *);
typedef struct {
    const char *name;
    maker make;
    err_code code;
    const char *message;
} hostile;
static void h_empty(buf *b) { (void)b; }
static void h_magic(buf *b) { buf_puts(b, "GGML"), zeros(b, 40); }
static void h_version_1(buf *b) { head(b, 1, 0, 0); }
static void h_version_4(buf *b) { head(b, 4, 0, 0); }
static void h_big_endian(buf *b) { head(b, 0x03000000, 0, 0); }
static void h_tensors_2_63(buf *b) { head(b, 3, 1ull << 63, 0), zeros(b, 100); }
static void h_metas_2_64(buf *b) { head(b, 3, 0, UINT64_MAX), zeros(b, 100); }
static void h_metas_few(buf *b) { head(b, 3, 0, 2), key_of(b, "a", META_U8), buf_byte(b, 1), zeros(b, 14); }
static void h_string_past_end(buf *b) { head(b, 3, 0, 1), key_of(b, "a.b", META_STR), put64(b, 1000), zeros(b, 20); }
static void h_string_2_64(buf *b) { head(b, 3, 0, 1), key_of(b, "a.b", META_STR), put64(b, UINT64_MAX - 4), zeros(b, 20); }
static void h_key_2_64(buf *b) { head(b, 3, 0, 1), put64(b, UINT64_MAX), zeros(b, 20); }
static void h_key_control(buf *b) { head(b, 3, 0, 1), key_of(b, "a\033[2Jb", META_U8), buf_byte(b, 1), zeros(b, 20); }
static void h_kind(buf *b) { head(b, 3, 0, 1), key_of(b, "a.b", 13), zeros(b, 20); }
static void h_item_kind(buf *b) { head(b, 3, 0, 1), key_of(b, "a.b", META_ARRAY), put32(b, 99), put64(b, 1), zeros(b, 20); }
static void h_nested(buf *b) { head(b, 3, 0, 1), key_of(b, "a.b", META_ARRAY), put32(b, META_ARRAY), put64(b, 1), zeros(b, 20); }
static void h_array_huge(buf *b)
{
    head(b, 3, 0, 1), key_of(b, "a.b", META_ARRAY), put32(b, META_F64), put64(b, 1ull << 61), zeros(b, 20);
}
static void h_strings_huge(buf *b)
{
    head(b, 3, 0, 1), key_of(b, "a.b", META_ARRAY), put32(b, META_STR), put64(b, 1ull << 61), zeros(b, 20);
}
static void h_item_past_end(buf *b)
{
    head(b, 3, 0, 1), key_of(b, "a.b", META_ARRAY), put32(b, META_STR), put64(b, 2), put_text(b, "x"), put64(b, 9), zeros(b, 8);
}
static void h_bool(buf *b) { head(b, 3, 0, 1), key_of(b, "a.b", META_BOOL), buf_byte(b, 2), zeros(b, 20); }
static void h_bools(buf *b)
{
    head(b, 3, 0, 1), key_of(b, "a.b", META_ARRAY), put32(b, META_BOOL), put64(b, 2), buf_put(b, "\1\7", 2), zeros(b, 20);
}
static void h_same_key(buf *b)
{
    head(b, 3, 0, 2);
    for (int i = 0; i < 2; i++) key_of(b, "same.key", META_U8), buf_byte(b, 1);
}
static void align_of(buf *b, u32 kind, u32 v)
{
    head(b, 3, 1, 1), key_of(b, "general.alignment", kind), put32(b, v);
    tensor_of(b, "t", 1, (i64[]){4}, 0, 0), pad_to(b, 32), zeros(b, 64);
}
static void h_align_0(buf *b) { align_of(b, META_U32, 0); }
static void h_align_24(buf *b) { align_of(b, META_U32, 24); }
static void h_align_kind(buf *b) { align_of(b, META_I32, 32); }
static void one_tensor(buf *b, u32 n_dims, const i64 *n, u32 type, u64 offset)
{
    head(b, 3, 1, 0), tensor_of(b, "bad.weight", n_dims, n, type, offset), pad_to(b, 32), zeros(b, 64);
}
static void h_dims_5(buf *b) { one_tensor(b, 5, (i64[]){1, 1, 1, 1, 1}, 0, 0); }
static void h_dims_huge(buf *b) { head(b, 3, 1, 0), put_text(b, "bad.weight"), put32(b, UINT32_MAX), zeros(b, 64); }
static void h_negative(buf *b) { one_tensor(b, 2, (i64[]){4, -4}, 0, 0); }
static void h_zero(buf *b) { one_tensor(b, 2, (i64[]){4, 0}, 0, 0); }
static void h_product(buf *b) { one_tensor(b, 4, (i64[]){1 << 16, 1 << 16, 1 << 16, 1 << 16}, 0, 0); }
static void h_product_wraps(buf *b) { one_tensor(b, 2, (i64[]){1LL << 62, 4}, 0, 0); }
static void h_block(buf *b) { one_tensor(b, 1, (i64[]){16}, 8, 0); }
static void h_type_known(buf *b) { one_tensor(b, 1, (i64[]){4}, 24, 0); }
static void h_type_unknown(buf *b) { one_tensor(b, 1, (i64[]){4}, 4000, 0); }
static void h_offset_askew(buf *b) { one_tensor(b, 1, (i64[]){4}, 0, 8); }
static void h_offset_past(buf *b) { one_tensor(b, 1, (i64[]){4}, 0, 64); }
static void h_offset_wraps(buf *b) { one_tensor(b, 1, (i64[]){4}, 0, UINT64_MAX - 31); }
static void h_data_short(buf *b) { one_tensor(b, 1, (i64[]){17}, 0, 0); }
static void two_tensors(buf *b, u64 first, u64 second, const char *name)
{
    head(b, 3, 2, 0), tensor_of(b, "first", 1, (i64[]){16}, 0, first), tensor_of(b, name, 1, (i64[]){16}, 0, second);
    pad_to(b, 32), zeros(b, 256);
}
static void h_overlap(buf *b) { two_tensors(b, 0, 32, "second"); }
static void h_overlap_reverse(buf *b) { two_tensors(b, 128, 96, "second"); }
static void h_overlap_same(buf *b) { two_tensors(b, 64, 64, "second"); }
static void h_same_tensor(buf *b) { two_tensors(b, 0, 64, "first"); }
static void h_tensor_noname(buf *b) { two_tensors(b, 0, 64, ""); }
static void h_tensor_utf8(buf *b) { two_tensors(b, 0, 64, "\xff\xfe"); }

static const hostile hostile_gguf[] = {
    {"empty file", h_empty, ERR_FORMAT, "byte 0: the file ends inside the magic number"},
    {"another magic", h_magic, ERR_FORMAT, "starts with bytes 47 47 4d 4c, expected 'GGUF'"},
    {"version 1", h_version_1, ERR_UNSUPPORTED, "GGUF version 1, expected 2 or 3"},
    {"version 4", h_version_4, ERR_FORMAT, "GGUF version 4"},
    {"big endian", h_big_endian, ERR_UNSUPPORTED, "big-endian"},
    {"2^63 tensors", h_tensors_2_63, ERR_FORMAT, "9223372036854775808 tensors"},
    {"2^64 - 1 entries", h_metas_2_64, ERR_FORMAT, "18446744073709551615 metadata entries"},
    {"entry of zeros", h_metas_few, ERR_FORMAT, "byte 38: metadata name of 0 bytes"},
    {"string past the end", h_string_past_end, ERR_FORMAT,
     "value of 'a.b': hostile.gguf: byte 39: a string of 1000 bytes, but only 20 are left"},
    {"string of 2^64 - 5 bytes", h_string_2_64, ERR_FORMAT, "value of 'a.b'"},
    {"key of 2^64 - 1 bytes", h_key_2_64, ERR_FORMAT, "byte 24: a metadata key of 18446744073709551615 bytes"},
    {"key with a terminal escape", h_key_control, ERR_FORMAT, "'a?[2Jb'"},
    {"unknown kind", h_kind, ERR_FORMAT, "byte 35: metadata 'a.b' has unknown kind 13"},
    {"unknown item kind", h_item_kind, ERR_FORMAT, "'a.b' is an array of unknown kind 99"},
    {"array of arrays", h_nested, ERR_UNSUPPORTED, "'a.b' is an array of arrays"},
    {"array of 2^61 doubles", h_array_huge, ERR_FORMAT, "'a.b' has 2305843009213693952 items of kind f64, but only 20"},
    {"array of 2^61 strings", h_strings_huge, ERR_FORMAT, "'a.b' has 2305843009213693952 items of kind str"},
    {"array item past the end", h_item_past_end, ERR_FORMAT, "item 1 of 'a.b'"},
    {"boolean of 2", h_bool, ERR_FORMAT, "byte 39: metadata 'a.b' is a boolean of value 2, expected 0 or 1"},
    {"booleans of 7", h_bools, ERR_FORMAT, "byte 52: metadata 'a.b' is a boolean of value 7"},
    {"duplicate key", h_same_key, ERR_FORMAT, "byte 45: metadata 'same.key' is there twice (entries 0 and 1)"},
    {"alignment 0", h_align_0, ERR_FORMAT, "general.alignment is u32 0"},
    {"alignment 24", h_align_24, ERR_FORMAT, "general.alignment is u32 24, expected u32, a power of two"},
    {"alignment of another kind", h_align_kind, ERR_FORMAT, "general.alignment is i32"},
    {"five dimensions", h_dims_5, ERR_FORMAT, "byte 42: tensor 'bad.weight' has 5 dimensions, expected at most 4"},
    {"2^32 - 1 dimensions", h_dims_huge, ERR_FORMAT, "4294967295 dimensions"},
    {"negative extent", h_negative, ERR_FORMAT, "byte 54: tensor 'bad.weight' has extent 18446744073709551612"},
    {"extent 0", h_zero, ERR_FORMAT, "has extent 0"},
    {"extents of 2^64 values", h_product, ERR_FORMAT,
     "'bad.weight' of 65536 x 65536 x 65536 x 65536 values is larger than any file"},
    {"product that wraps to 0", h_product_wraps, ERR_FORMAT, "larger than any file"},
    {"half a block", h_block, ERR_FORMAT, "rows of 16 values, expected a multiple of 32 (q8_0)"},
    {"a type of ggml that maru lacks", h_type_known, ERR_UNSUPPORTED, "tensor 'bad.weight' has ggml type 24"},
    {"a type nobody has", h_type_unknown, ERR_FORMAT, "byte 54: tensor 'bad.weight' has ggml type 4000"},
    {"unaligned offset", h_offset_askew, ERR_FORMAT, "'bad.weight' has data offset 8, expected a multiple of 32"},
    {"offset past the end", h_offset_past, ERR_FORMAT, "'bad.weight' needs 16 bytes of data from byte 64, but the file has 64"},
    {"offset that wraps", h_offset_wraps, ERR_FORMAT, "from byte 18446744073709551584"},
    {"data cut short", h_data_short, ERR_FORMAT, "needs 68 bytes of data from byte 0, but the file has 64"},
    {"overlapping tensors", h_overlap, ERR_FORMAT, "tensors 'first' (data bytes 0 to 64) and 'second' (from 32) overlap"},
    {"overlapping tensors in reverse", h_overlap_reverse, ERR_FORMAT,
     "tensors 'second' (data bytes 96 to 160) and 'first' (from 128) overlap"},
    {"two tensors in one place", h_overlap_same, ERR_FORMAT, "overlap"},
    {"duplicate tensor", h_same_tensor, ERR_FORMAT, "tensor 'first' is there twice"},
    {"tensor without a name", h_tensor_noname, ERR_FORMAT, "tensor name of 0 bytes"},
    {"tensor name that is not UTF-8", h_tensor_utf8, ERR_FORMAT, "tensor name of 2 bytes"},
};

static void run_hostile(const hostile *h, usize n, err (*parse)(model_file **, const u8 *, usize, const char *), const char *as)
{
    for (usize i = 0; i < n; i++) {
        buf b = {0};
        h[i].make(&b);
        u8 *exact = mem_alloc(b.n); /* of the exact size, so that the sanitizer sees one byte too many */
        if (b.n) memcpy(exact, b.p, b.n);
        model_file *f = (model_file *)1;
        err e = parse(&f, exact, b.n, as);
        if (!e.code) fail_msg("%s: opened", h[i].name);
        assert_null(f);
        if ((err_code)e.code != h[i].code || !strstr(e.what, h[i].message))
            fail_msg("%s: expected %s '%s', got %s: %s", h[i].name, err_name(h[i].code), h[i].message, err_name(e.code), e.what);
        mem_free(exact);
        buf_free(&b);
    }
}

static void test_hostile_gguf(void **state)
{
    (void)state;
    run_hostile(hostile_gguf, COUNT_OF(hostile_gguf), gguf_parse, "hostile.gguf");
}

/* Every length: refused, but for those where exactly the data is missing as a whole, and those that only lack trailing bytes. */
static void test_truncated_gguf(void **state)
{
    (void)state;
    buf b = {0};
    usize end = small_gguf(&b, true), start = (end + 31) & ~(usize)31;
    for (usize n = 0; n <= b.n; n++) {
        u8 *exact = mem_alloc(n);
        if (n) memcpy(exact, b.p, n);
        model_file *f;
        err e = gguf_parse(&f, exact, n, "cut");
        bool absent = n >= end && n <= start;
        if ((absent || n == b.n) != !e.code) fail_msg("%zu of %zu bytes: %s", n, b.n, e.code ? e.what : "opened");
        if (f) {
            touch_file(f);
            for (usize i = 0; i < file_n_tensors(f); i++) assert_int_equal(!file_tensor_at(f, i)->data, absent);
        } else
            assert_int_equal(e.code, ERR_FORMAT);
        model_file_close(f);
        mem_free(exact);
    }
    buf_free(&b);
}

static void test_vocabulary_only(void **state)
{
    (void)state;
    buf b = {0};
    model_file *f;
    head(&b, 2, 0, 1);
    key_of(&b, "tokenizer.ggml.model", META_STR), put_text(&b, "none");
    no_err(parse_buf(&f, &b));
    assert_int_equal(file_n_tensors(f), 0);
    model_file_close(f);
    buf_reset(&b);
    one_tensor(&b, 1, (i64[]){4}, 24, 0); /* a type of which nothing is known: the metadata can still be read */
    const char *path = in_folder(0, "meta.gguf");
    no_err(file_replace(path, b.p, b.n));
    want_err(gguf_open(&f, path), ERR_UNSUPPORTED, "ggml type 24");
    no_err(gguf_open_meta(&f, path));
    model_file_close(f);
    unlink(path);
    buf_free(&b);
}

/* Changes one to eight bytes at seeded places: to anything, to extremes, or by one. */
static void mutate(rng *r, u8 *p, usize n)
{
    static const u8 extremes[] = {0, 1, 0x7f, 0x80, 0xff};
    for (int k = 1 + (int)(rng_u64(r) % 8); k > 0; k--) {
        usize at = rng_u64(r) % n;
        switch (rng_u64(r) % 4) {
        case 0: p[at] = (u8)rng_u64(r); break;
        case 1: p[at] = extremes[rng_u64(r) % COUNT_OF(extremes)]; break;
        case 2: p[at] = (u8)(p[at] + 1); break;
        default: p[at] = (u8)(p[at] - 1);
        }
    }
}

static void mutations(const buf *b, err (*parse)(model_file **, const u8 *, usize, const char *))
{
    rng r;
    rng_seed(&r, 20250101);
    u8 *copy = mem_alloc(b->n);
    int opened = 0;
    usize before = mem_now();
    for (int i = 0; i < 10000; i++) {
        model_file *f;
        memcpy(copy, b->p, b->n);
        mutate(&r, copy, b->n);
        err e = parse(&f, copy, b->n, "changed");
        assert_int_equal(!e.code, f != NULL);
        if (f) touch_file(f), opened++;
        model_file_close(f);
    }
    assert_int_equal(mem_now(), before);
    assert_in_range(opened, 100, 9900); /* neither all refused nor nothing checked */
    mem_free(copy);
}

static void test_mutated_gguf(void **state)
{
    (void)state;
    buf b = {0};
    small_gguf(&b, true);
    mutations(&b, gguf_parse);
    buf_free(&b);
}

/* ---- safetensors ------------------------------------------------------------------------------------------------------- */
static void st(buf *b, const char *header, usize data)
{
    put64(b, strlen(header)), buf_puts(b, header);
    for (usize i = 0; i < data; i++) buf_byte(b, (int)i);
}
static const char small_header[] = "{\"__metadata__\":{\"format\":\"pt\",\"note\":\"마루\"},"
                                   "\"b.weight\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[16,28]},"
                                   "\"a.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
                                   "\"ids\":{\"dtype\":\"I64\",\"shape\":[1,1],\"data_offsets\":[28,36]},"
                                   "\"scalar\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[36,38]},"
                                   "\"none\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[38,38]}}  ";

static void test_safetensors(void **state)
{
    (void)state;
    buf b = {0};
    model_file *f;
    str s;
    st(&b, small_header, 38);
    const char *path = in_folder(0, "small.safetensors");
    no_err(file_replace(path, b.p, b.n));
    no_err(safetensors_open(&f, path));
    static const char *const order[] = {"a.weight", "b.weight", "ids", "scalar", "none"};
    assert_int_equal(file_n_tensors(f), 5);
    for (usize i = 0; i < 5; i++) assert_true(str_eq(file_tensor_at(f, i)->name, str_of(order[i])));
    const file_tensor *t = file_tensor_find(f, S("b.weight"));
    assert_true(t->type == F16 && t->n_dims == 2 && t->n[0] == 3 && t->n[1] == 2 && t->n[2] == 1 && t->bytes == 12);
    assert_int_equal(t->data[0], 16);
    t = file_tensor_find(f, S("ids"));
    assert_true(t->type == DTYPE_COUNT && t->bytes == 8);
    t = file_tensor_find(f, S("scalar"));
    assert_true(t->type == BF16 && t->n_dims == 0 && t->n[0] == 1 && t->bytes == 2);
    assert_int_equal(file_tensor_find(f, S("none"))->n[1], 0);
    no_err(file_str(f, "note", &s));
    assert_true(str_eq(s, S("마루")));
    assert_int_equal(file_n_meta(f), 2);
    model_file_close(f);
    unlink(path);
    buf_free(&b);
}

/* The format promises no alignment: values must still be readable in place, whatever the header's length. */
static void test_safetensors_aligned(void **state)
{
    (void)state;
    for (int spaces = 0; spaces < 9; spaces++) {
        buf b = {0}, h = {0};
        model_file *f;
        buf_puts(&h, "{\"x\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16]}}");
        for (int i = 0; i < spaces; i++) buf_byte(&h, ' ');
        st(&b, buf_cstr(&h), 16);
        no_err(safetensors_parse(&f, (const u8 *)b.p, b.n, "askew"));
        const file_tensor *t = file_tensor_at(f, 0);
        assert_int_equal((uintptr_t)t->data % 8, 0);
        for (int i = 0; i < 16; i++) assert_int_equal(t->data[i], i);
        model_file_close(f);
        buf_free(&b);
        buf_free(&h);
    }
}

#define ONE(dtype, shape, offsets) "{\"bad.weight\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define F4X4(name, from, to) "\"" name "\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[" from "," to "]}"
static void s_short(buf *b) { buf_puts(b, "1234567"); }
static void s_2_63(buf *b) { put64(b, 1ull << 63), buf_puts(b, "{}"); }
static void s_past_end(buf *b) { put64(b, 3), buf_puts(b, "{}"); }
static void s_100mb(buf *b) { put64(b, 100000001), buf_puts(b, "{}"); }
static void s_no_brace(buf *b) { st(b, " {}", 0); }
static void s_no_length(buf *b) { put64(b, 0), buf_puts(b, "{}"); }
static void s_list(buf *b) { st(b, "[]", 0); }
static void s_cut_json(buf *b) { st(b, "{\"a\":", 0); }
static void s_twice(buf *b) { st(b, "{" F4X4("a", "0", "16") "," F4X4("a", "16", "32") "}", 32); }
static void s_bomb(buf *b)
{
    buf h = {0};
    buf_puts(&h, "{\"a\":");
    for (int i = 0; i < 200000; i++) buf_byte(&h, '[');
    st(b, buf_cstr(&h), 0);
    buf_free(&h);
}
static void s_nul(buf *b) { st(b, "{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", 16); }
static void s_utf8(buf *b) { st(b, "{\"\xff\":{}}", 0); }
static void s_not_object(buf *b) { st(b, "{\"bad.weight\":7}", 0); }
static void s_dtype(buf *b) { st(b, ONE("Q9", "[4]", "[0,16]"), 16); }
static void s_no_dtype(buf *b) { st(b, "{\"bad.weight\":{\"shape\":[4],\"data_offsets\":[0,16]}}", 16); }
static void s_extra(buf *b) { st(b, "{\"bad.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16],\"x\":1}}", 16); }
static void s_no_shape(buf *b) { st(b, ONE("F32", "4", "[0,16]"), 16); }
static void s_negative(buf *b) { st(b, ONE("F32", "[-4]", "[0,16]"), 16); }
static void s_fraction(buf *b) { st(b, ONE("F32", "[4.0]", "[0,16]"), 16); }
static void s_dims(buf *b) { st(b, ONE("F32", "[1,1,1,1,4]", "[0,16]"), 16); }
static void s_product(buf *b) { st(b, ONE("F32", "[4294967296,4294967296]", "[0,16]"), 16); }
static void s_number(buf *b) { st(b, ONE("F32", "[99999999999999999999]", "[0,16]"), 16); }
static void s_size(buf *b) { st(b, ONE("F32", "[5]", "[0,16]"), 16); }
static void s_half_byte(buf *b) { st(b, ONE("F4", "[3]", "[0,1]"), 1); }
static void s_offsets(buf *b) { st(b, ONE("F32", "[4]", "[0]"), 16); }
static void s_reversed(buf *b) { st(b, ONE("F32", "[4]", "[16,0]"), 16); }
static void s_offset_end(buf *b) { st(b, ONE("F32", "[4]", "[8,24]"), 16); }
static void s_offset_max(buf *b) { st(b, ONE("F32", "[4]", "[9223372036854775807,9223372036854775807]"), 16); }
static void s_hole(buf *b) { st(b, "{" F4X4("a", "0", "16") "," F4X4("b", "20", "36") "}", 36); }
static void s_hole_first(buf *b) { st(b, "{" F4X4("a", "4", "20") "}", 20); }
static void s_overlap(buf *b) { st(b, "{" F4X4("b", "12", "28") "," F4X4("a", "0", "16") "}", 28); }
static void s_trailing(buf *b) { st(b, "{" F4X4("a", "0", "16") "}", 17); }
static void s_metadata(buf *b) { st(b, "{\"__metadata__\":{\"a\":1}}", 0); }
static void s_metadata_list(buf *b) { st(b, "{\"__metadata__\":[]}", 0); }

static const hostile hostile_safetensors[] = {
    {"seven bytes", s_short, ERR_FORMAT, "7 bytes, expected at least 8"},
    {"header of 2^63 bytes", s_2_63, ERR_FORMAT, "a header of 9223372036854775808 bytes declared, 2 follow"},
    {"header past the end", s_past_end, ERR_FORMAT, "a header of 3 bytes declared, 2 follow"},
    {"header over 100 MB", s_100mb, ERR_FORMAT, "at most 100000000 are read"},
    {"space in front", s_no_brace, ERR_FORMAT, "byte 8: the header does not start with '{'"},
    {"no header", s_no_length, ERR_FORMAT, "does not start with '{'"},
    {"a list", s_list, ERR_FORMAT, "does not start with '{'"},
    {"cut JSON", s_cut_json, ERR_FORMAT, "byte 13: the header:"},
    {"duplicate name", s_twice, ERR_FORMAT, "duplicate object key"},
    {"200,000 brackets", s_bomb, ERR_FORMAT, "maximum parsing depth reached"},
    {"NUL in a name", s_nul, ERR_FORMAT, "the header:"},
    {"name that is not UTF-8", s_utf8, ERR_FORMAT, "the header:"},
    {"tensor that is a number", s_not_object, ERR_FORMAT, "tensor 'bad.weight' is not an object"},
    {"unknown dtype", s_dtype, ERR_UNSUPPORTED, "tensor 'bad.weight' has dtype 'Q9'"},
    {"no dtype", s_no_dtype, ERR_FORMAT, "tensor 'bad.weight' has no dtype"},
    {"unknown member", s_extra, ERR_FORMAT, "unknown member 'x'"},
    {"no shape", s_no_shape, ERR_FORMAT, "tensor 'bad.weight' has no shape"},
    {"negative extent", s_negative, ERR_FORMAT, "shape item 0 is not a whole number"},
    {"fraction", s_fraction, ERR_FORMAT, "shape item 0 is not a whole number"},
    {"five dimensions", s_dims, ERR_UNSUPPORTED, "has 5 dimensions"},
    {"2^64 values", s_product, ERR_FORMAT, "4294967296 values of 32 bits (more than any file holds)"},
    {"number past 64 bits", s_number, ERR_FORMAT, "too big integer"},
    {"shape against bytes", s_size, ERR_FORMAT, "'bad.weight' has 16 bytes, expected 1 x 1 x 1 x 5 values of 32 bits"},
    {"values that end inside a byte", s_half_byte, ERR_FORMAT, "3 values of 4 bits"},
    {"one offset", s_offsets, ERR_FORMAT, "data_offsets are not two whole numbers"},
    {"reversed offsets", s_reversed, ERR_FORMAT, "lies in data bytes 16 to 0"},
    {"offset past the end", s_offset_end, ERR_FORMAT, "lies in data bytes 8 to 24, the file has 0 to 16"},
    {"offset of 2^63 - 1", s_offset_max, ERR_FORMAT, "lies in data bytes 9223372036854775807"},
    {"hole between tensors", s_hole, ERR_FORMAT, "tensor 'b' starts at data byte 20, expected 16: a hole"},
    {"hole at the start", s_hole_first, ERR_FORMAT, "tensor 'a' starts at data byte 4, expected 0: a hole"},
    {"overlapping tensors", s_overlap, ERR_FORMAT, "tensor 'b' starts at data byte 12, expected 16: it overlaps"},
    {"bytes after the last tensor", s_trailing, ERR_FORMAT, "17 bytes of data, but the tensors end at 16"},
    {"metadata of numbers", s_metadata, ERR_FORMAT, "__metadata__ 'a' is not text"},
    {"metadata of a list", s_metadata_list, ERR_FORMAT, "__metadata__ is not an object"},
};

static void test_hostile_safetensors(void **state)
{
    (void)state;
    run_hostile(hostile_safetensors, COUNT_OF(hostile_safetensors), safetensors_parse, "hostile.safetensors");
}

static void test_truncated_safetensors(void **state)
{
    (void)state;
    buf b = {0};
    st(&b, small_header, 38);
    for (usize n = 0; n < b.n; n++) {
        u8 *exact = mem_alloc(n);
        if (n) memcpy(exact, b.p, n);
        model_file *f;
        want_err(safetensors_parse(&f, exact, n, "cut"), ERR_FORMAT, "cut");
        mem_free(exact);
    }
    buf_free(&b);
}

static void test_mutated_safetensors(void **state)
{
    (void)state;
    buf b = {0};
    st(&b, small_header, 38);
    mutations(&b, safetensors_parse);
    buf_free(&b);
}

/* ---- memory ------------------------------------------------------------------------------------------------------------ */
static void run_out(const buf *b, err (*parse)(model_file **, const u8 *, usize, const char *))
{
    usize before = mem_now();
    i64 n = 1;
    for (;; n++) {
        model_file *f;
        mem_fail_at(n);
        err e = parse(&f, (const u8 *)b->p, b->n, "little memory");
        i64 made = mem_fail_count();
        mem_fail_at(0);
        model_file_close(f);
        assert_int_equal(mem_now(), before);
        if (made < n) {
            no_err(e);
            break;
        }
        want_err(e, ERR_NOMEM, "little memory");
    }
    assert_in_range(n, 5, 500);
}

static void test_memory_runs_out(void **state)
{
    (void)state;
    buf b = {0}, s = {0};
    small_gguf(&b, true);
    run_out(&b, gguf_parse);
    st(&s, small_header, 38);
    run_out(&s, safetensors_parse);
    buf_free(&b);
    buf_free(&s);
    usize before = mem_now();
    for (i64 n = 1;; n++) {
        gguf_writer *w;
        mem_fail_at(n);
        const char *path = in_folder(0, "none.gguf");
        err e = gguf_create(&w, path);
        if (!e.code) {
            gguf_put_array(w, "words", META_STR, 2, (str[]){S("a"), S("b")});
            gguf_put_tensor(w, S("t"), F32, 1, (i64[]){1});
            gguf_put_data(w, "1234", 4);
            e = gguf_commit(w);
        }
        i64 made = mem_fail_count();
        mem_fail_at(0);
        assert_int_equal(mem_now(), before);
        assert_int_equal(file_exists(path), !e.code);
        if (made < n) {
            no_err(e);
            unlink(path);
            break;
        }
        assert_int_equal(e.code, ERR_NOMEM);
    }
}

/* ---- real files -------------------------------------------------------------------------------------------------------- */
static const char *models_folder(char out[400])
{
    const char *set = getenv("MARU_MODELS"), *home = getenv("HOME");
    snprintf(out, 400, "%s%s", set ? set : home ? home : "", set ? "" : "/.cache/maru/models");
    return out;
}

static void test_real_gguf(void **state)
{
    (void)state;
    static const struct {
        const char *name, *arch;
        usize n_tensors;
    } files[] = {{"smollm2-135m.gguf", "llama", 272},
                 {"gemma3-270m.gguf", "gemma3", 236},
                 {"qwen2.5-coder-1.5b.gguf", "qwen2", 339},
                 {"e5-small.gguf", "bert", 197}};
    int found = 0;
    for (usize i = 0; i < COUNT_OF(files); i++) {
        char at[400], path[500];
        snprintf(path, sizeof path, "%s/%s", models_folder(at), files[i].name);
        if (!file_exists(path)) continue;
        model_file *f;
        str s, *tokens;
        i64 n;
        no_err(gguf_open(&f, path));
        found++;
        no_err(file_str(f, "general.architecture", &s));
        assert_true(str_eq(s, str_of(files[i].arch)));
        assert_int_equal(file_n_tensors(f), files[i].n_tensors);
        arena *a = arena_new();
        no_err(file_strings(f, "tokenizer.ggml.tokens", a, &tokens, &n));
        const file_tensor *t = file_tensor_find(f, S("token_embd.weight"));
        assert_true(n > 30000 && t && t->n[1] == n && t->n[2] == 1);
        arena_free(a);
        model_file_close(f);
    }
    if (!found) {
        print_message("no real models in $MARU_MODELS\n");
        skip();
    }
}

static void test_shared_files(void **state)
{
    (void)state;
    const char *set = getenv("MARU_SHARED");
    char path[600];
    snprintf(path, sizeof path, "%s/data", set ? set : "../shared");
    if (!file_is_dir(path)) {
        print_message("no shared data at %s (MARU_SHARED)\n", path);
        skip();
    }
    static const struct {
        const char *path;
        usize n_tensors;
    } files[] = {{"model-tiny-random/llama-2-tiny-random.gguf", 12},
                 {"model-stories260k/stories260K.gguf", 48},
                 {"model-capp-gpt2/model.safetensors", 52},
                 {"model-tiny-gpt2-hf-dir/model.safetensors", 16},
                 {"lora-peft/mlx-discollama/adapters.safetensors", 8},
                 {"model-tiny-random/weight-inspect/tiny.gguf", 1}};
    model_file *f;
    for (usize i = 0; i < COUNT_OF(files); i++) {
        snprintf(path, sizeof path, "%s/data/%s", set ? set : "../shared", files[i].path);
        if (!file_exists(path)) continue;
        no_err(str_ends(str_of(path), S(".gguf")) ? gguf_open(&f, path) : safetensors_open(&f, path));
        assert_int_equal(file_n_tensors(f), files[i].n_tensors);
        touch_file(f);
        model_file_close(f);
    }
    snprintf(path, sizeof path, "%s/data/model-tiny-random/weight-inspect/tiny.safetensors", set ? set : "../shared");
    if (file_exists(path))
        want_err(safetensors_open(&f, path), ERR_FORMAT, "but the tensors end at 32768"); /* five bytes too many */
}

static void test_not_files(void **state)
{
    (void)state;
    model_file *f;
    want_err(gguf_open(&f, in_folder(0, "nothing.gguf")), ERR_NOTFOUND, "nothing.gguf");
    assert_null(f);
    want_err(safetensors_open(&f, folder), ERR_INPUT, "folder");
    const char *path = in_folder(0, "empty.gguf");
    no_err(file_replace(path, "", 0));
    want_err(gguf_open(&f, path), ERR_FORMAT, "the file ends inside the magic number");
    want_err(safetensors_open(&f, path), ERR_FORMAT, "0 bytes, expected at least 8");
    unlink(path);
    model_file_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_copy_is_identical),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_writer_refuses),
        cmocka_unit_test(test_hostile_gguf),
        cmocka_unit_test(test_truncated_gguf),
        cmocka_unit_test(test_vocabulary_only),
        cmocka_unit_test(test_mutated_gguf),
        cmocka_unit_test(test_safetensors),
        cmocka_unit_test(test_safetensors_aligned),
        cmocka_unit_test(test_hostile_safetensors),
        cmocka_unit_test(test_truncated_safetensors),
        cmocka_unit_test(test_mutated_safetensors),
        cmocka_unit_test(test_memory_runs_out),
        cmocka_unit_test(test_real_gguf),
        cmocka_unit_test(test_shared_files),
        cmocka_unit_test(test_not_files),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
