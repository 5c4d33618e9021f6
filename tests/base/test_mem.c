/* tests/base/test_mem.c - the error table, counted memory, injected failures and the arena. */
#include "base/base.h"
#include <errno.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>

/* ---- errors ---- */
static void error_table(void **state)
{
    (void)state;
    static const struct {
        int code;
        const char *name;
        int http, exit;
    } want[] = {{ERR_OK, "OK", 200, 0},
                {ERR_INPUT, "INPUT", 400, 2},
                {ERR_FORMAT, "FORMAT", 422, 3},
                {ERR_IO, "IO", 500, 4},
                {ERR_NOMEM, "NOMEM", 503, 5},
                {ERR_BUSY, "BUSY", 429, 6},
                {ERR_UNSUPPORTED, "UNSUPPORTED", 501, 7},
                {ERR_CANCELLED, "CANCELLED", 499, 8},
                {ERR_REMOTE, "REMOTE", 502, 9},
                {ERR_BUG, "BUG", 500, 10},
                {ERR_NOTFOUND, "NOTFOUND", 404, 11}};
    assert_int_equal(COUNT_OF(want), ERR_CODE_COUNT);
    for (usize i = 0; i < COUNT_OF(want); i++) {
        assert_string_equal(err_name(want[i].code), want[i].name);
        assert_int_equal(err_http(want[i].code), want[i].http);
        assert_int_equal(err_exit(want[i].code), want[i].exit);
    }
    assert_string_equal(err_name(-1), "BUG"); /* a code from elsewhere is our own mistake */
    assert_int_equal(err_exit(ERR_CODE_COUNT), 10);
    assert_int_equal(err_http(999), 500);
}

static void error_messages(void **state)
{
    (void)state;
    err e = err_new(ERR_FORMAT, "page %d of %d", 3, 2);
    assert_int_equal(e.code, ERR_FORMAT);
    assert_string_equal(e.what, "page 3 of 2");
    e = err_at(e, "reading %s", "a.pdf");
    assert_string_equal(e.what, "reading a.pdf: page 3 of 2");
    e = err_at(err_at(e, "two"), "one");
    assert_string_equal(e.what, "one: two: reading a.pdf: page 3 of 2");
    assert_int_equal(e.code, ERR_FORMAT);
    assert_int_equal(err_at(OK, "context").code, ERR_OK);
    assert_null(err_at(OK, "context").what);
    errno = ENOENT;
    e = err_os("cannot open %s", "x");
    assert_int_equal(e.code, ERR_NOTFOUND);
    assert_string_equal(e.what, "cannot open x: No such file or directory");
    errno = ENOMEM;
    assert_int_equal(err_os("x").code, ERR_NOMEM);
    errno = EACCES;
    assert_int_equal(err_os("x").code, ERR_IO);
    assert_int_equal(errno, EACCES);
}

static void error_long_message_stays_utf8(void **state)
{
    (void)state;
    char longer[6001];
    for (usize shift = 0; shift < 3; shift++) { /* the cut falls on each byte of a character once */
        memset(longer, 'x', shift);
        for (usize i = 0; i + shift + 3 < sizeof longer; i += 3) memcpy(longer + shift + i, "가", 4);
        err e = err_new(ERR_INPUT, "%s", longer);
        assert_true(strlen(e.what) > 1000 && strlen(e.what) < 6000);
        assert_true(utf8_valid(str_of(e.what)));
        e = err_at(e, "%s", "context");
        assert_true(utf8_valid(str_of(e.what)));
        assert_true(str_starts(str_of(e.what), S("context: ")));
    }
}

/* ---- memory ---- */
static void memory_is_counted(void **state)
{
    (void)state;
    usize before = mem_now();
    static const usize sizes[] = {0, 1, 15, 64, 100, 4096, 100000, 3000000};
    for (usize i = 0; i < COUNT_OF(sizes); i++) {
        u8 *p = mem_alloc(sizes[i]), *z = mem_zero(sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        assert_int_equal((uintptr_t)z % 64, 0);
        assert_int_equal(mem_now() - before, 2 * sizes[i]);
        for (usize k = 0; k < sizes[i]; k++) assert_int_equal(z[k], 0);
        memset(p, 0xAB, sizes[i]);
        mem_free(p);
        mem_free(z);
        assert_int_equal(mem_now(), before);
    }
    assert_true(mem_peak() >= before + 6000000);
    mem_free(NULL);
    assert_null(mem_alloc(SIZE_MAX));
    assert_null(mem_alloc(SIZE_MAX - 70));
    assert_null(mem_alloc_n(SIZE_MAX / 2, 3));
    assert_int_equal(mem_now(), before);
}

static void memory_resize_keeps_bytes(void **state)
{
    (void)state;
    usize before = mem_now(), n = 0;
    u8 *p = NULL;
    static const usize sizes[] = {1, 63, 64, 65, 1000, 300000, 5000000, 70000, 12, 0, 200};
    for (usize i = 0; i < COUNT_OF(sizes); i++) {
        p = mem_resize(p, sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        assert_int_equal(mem_now() - before, sizes[i]);
        for (usize k = 0; k < n && k < sizes[i]; k++) assert_int_equal(p[k], (u8)(k * 7));
        for (usize k = 0; k < sizes[i]; k++) p[k] = (u8)(k * 7);
        n = sizes[i];
    }
    assert_null(mem_resize(p, SIZE_MAX)); /* refused: the old block stays */
    for (usize k = 0; k < n; k++) assert_int_equal(p[k], (u8)(k * 7));
    mem_free(p);
    assert_int_equal(mem_now(), before);
}

static void memory_strings(void **state)
{
    (void)state;
    char *a = mem_strdup("maru"), *b = mem_strndup("마루방", 6);
    assert_string_equal(a, "maru");
    assert_string_equal(b, "마루");
    mem_free(a);
    mem_free(b);
    assert_null(mem_strdup(NULL));
}

static void nth_allocation_fails(void **state)
{
    (void)state;
    mem_fail_at(3);
    void *a = mem_alloc(1), *b = mem_zero(1), *c = mem_alloc(1), *d = mem_alloc(1);
    assert_int_equal(mem_fail_count(), 4);
    mem_fail_at(0);
    assert_non_null(a);
    assert_non_null(b);
    assert_null(c);
    assert_non_null(d);
    mem_fail_at(1);
    assert_null(mem_resize(a, 100));
    mem_fail_at(0);
    mem_free(a);
    mem_free(b);
    mem_free(d);
}

static bool fill_map(void)
{
    map *m = map_new();
    bool good = m != NULL;
    for (u64 i = 0; good && i < 200; i++) {
        char key[16];
        usize n = (usize)snprintf(key, sizeof key, "key %d", (int)i);
        good = map_put(m, (str){key, n}, i);
        if (!good) { /* what was there before is still there */
            assert_int_equal(map_count(m), i);
            for (u64 k = 0, v = 0; k < i; k++) {
                n = (usize)snprintf(key, sizeof key, "key %d", (int)k);
                assert_true(map_get(m, (str){key, n}, &v));
                assert_int_equal(v, k);
            }
        }
    }
    map_free(m);
    return good;
}

static bool fill_buf(void)
{
    buf b = {0};
    for (int i = 0; i < 100; i++) buf_fmt(&b, "line %d of a buffer that must grow\n", i);
    buf_put(&b, "x", 1);
    bool good = !buf_error(&b).code;
    if (!good) {
        assert_int_equal(buf_error(&b).code, ERR_NOMEM);
        assert_int_equal(b.n, 0); /* sticky, and empty */
        assert_string_equal(buf_cstr(&b), "");
        assert_null(buf_take(&b));
    }
    buf_free(&b);
    return good;
}

static bool fill_arena(void)
{
    arena *a = arena_new();
    bool good = a != NULL;
    for (int i = 0; good && i < 300; i++) good = arena_fmt(a, "%0*d", 300, i) != NULL;
    arena_free(a);
    return good;
}

static bool fill_vec(void)
{
    int *v = NULL;
    usize n = 0, cap = 0;
    bool good = true;
    for (int i = 0; good && i < 100; i++) good = VEC_PUSH(v, n, cap, i);
    for (usize i = 0; i < n; i++) assert_int_equal(v[i], (int)i);
    mem_free(v);
    return good;
}

static bool write_file(void)
{
    char path[] = "/tmp/maru-test-XXXXXX";
    assert_non_null(mkdtemp(path));
    char name[64];
    snprintf(name, sizeof name, "%s/a", path);
    buf b = {0};
    err e = file_replace(name, "content", 7);
    if (!e.code) e = file_read(&b, name, 0);
    bool good = !e.code && str_eq(buf_view(&b), S("content"));
    if (e.code) assert_int_equal(e.code, ERR_NOMEM);
    buf_free(&b);
    mem_fail_at(0);
    assert_int_equal(file_remove_tree(path).code, ERR_OK);
    return good;
}

static bool make_pool(void)
{
    pool *p;
    queue *q = NULL;
    err e = pool_new(&p, 3);
    if (!e.code) e = queue_new(&q, 4);
    assert_true(e.code == ERR_OK || e.code == ERR_NOMEM);
    pool_free(p);
    queue_free(q);
    return !e.code;
}

static void every_failure_is_survived(void **state)
{
    (void)state;
    static bool (*const jobs[])(void) = {fill_map, fill_buf, fill_arena, fill_vec, write_file, make_pool};
    for (usize j = 0; j < COUNT_OF(jobs); j++) {
        usize before = mem_now();
        assert_true(jobs[j]());
        i64 n = 1;
        for (bool good = false; !good; n++) {
            mem_fail_at(n);
            good = jobs[j]();
            mem_fail_at(0);
            assert_int_equal(mem_now(), before); /* nothing leaks, whichever allocation failed */
            assert_true(n < 1000);
        }
        assert_true(n > 2); /* at least one failure was seen */
    }
}

/* ---- arena ---- */
static void arena_gives_zeroed_aligned_memory(void **state)
{
    (void)state;
    usize before = mem_now();
    arena *a = arena_new();
    static char *kept[2000];
    usize total = 0;
    for (usize i = 0; i < COUNT_OF(kept); i++) {
        usize n = i % 97 == 0 ? 50000 : i % 300;
        kept[i] = arena_take(a, n);
        assert_non_null(kept[i]);
        assert_int_equal((uintptr_t)kept[i] % 16, 0);
        for (usize k = 0; k < n; k++) assert_int_equal(kept[i][k], 0);
        memset(kept[i], (int)(i % 255) + 1, n);
        total += n;
    }
    for (usize i = 0; i < COUNT_OF(kept); i++) { /* no two overlap */
        usize n = i % 97 == 0 ? 50000 : i % 300;
        for (usize k = 0; k < n; k++) assert_int_equal((u8)kept[i][k], (i % 255) + 1);
    }
    assert_true(arena_used(a) >= total);
    assert_true(mem_now() - before < total * 2 + (1 << 20)); /* blocks are not half empty */
    assert_null(arena_take(a, SIZE_MAX));
    assert_string_equal(arena_str(a, "마루 방", 6), "마루");
    assert_string_equal(arena_fmt(a, "%s-%d", "x", 12), "x-12");
    assert_string_equal(arena_str(a, NULL, 0), "");
    arena_free(a);
    arena_free(NULL);
    assert_int_equal(mem_now(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_table),
        cmocka_unit_test(error_messages),
        cmocka_unit_test(error_long_message_stays_utf8),
        cmocka_unit_test(memory_is_counted),
        cmocka_unit_test(memory_resize_keeps_bytes),
        cmocka_unit_test(memory_strings),
        cmocka_unit_test(nth_allocation_fails),
        cmocka_unit_test(every_failure_is_survived),
        cmocka_unit_test(arena_gives_zeroed_aligned_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
