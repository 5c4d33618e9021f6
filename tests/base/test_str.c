/* tests/base/test_str.c - slices, numbers, the buffer, UTF-8 with every class of malformed input, and the map. */
#include "base/base.h"
#include <locale.h>
#include <setjmp.h>
#include <cmocka.h>

static void slices(void **state)
{
    (void)state;
    assert_true(str_eq(S("abc"), str_of("abc")));
    assert_false(str_eq(S("abc"), S("abd")));
    assert_true(str_eq(str_of(NULL), S("")));
    assert_true(str_starts(S("maru.h"), S("maru")));
    assert_false(str_starts(S("ma"), S("maru")));
    assert_true(str_ends(S("a.gguf"), S(".gguf")));
    assert_false(str_ends(S("f"), S(".gguf")));
    assert_true(str_starts(S("x"), S("")));
    assert_true(str_eq(str_trim(S(" \t\r\n a b \v\f")), S("a b")));
    assert_int_equal(str_trim(S("  \n ")).n, 0);
    assert_int_equal(str_find(S("banana"), S("an"), 0), 1);
    assert_int_equal(str_find(S("banana"), S("an"), 2), 3);
    assert_int_equal(str_find(S("banana"), S("an"), 4), -1);
    assert_int_equal(str_find(S("banana"), S("bananas"), 0), -1);
    assert_int_equal(str_find(S("ab"), S(""), 2), 2);
    assert_int_equal(str_find(S("ab"), S(""), 3), -1);
    assert_int_equal(str_find(((str){"a\0b", 3}), ((str){"\0b", 2}), 0), 1);
}

static void numbers(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        bool good;
        i64 v;
    } ints[] = {{"0", true, 0},
                {"-0", true, 0},
                {"+12", true, 12},
                {"9223372036854775807", true, INT64_MAX},
                {"-9223372036854775808", true, INT64_MIN},
                {"9223372036854775808", false, 0},
                {"-9223372036854775809", false, 0},
                {"99999999999999999999999", false, 0},
                {"", false, 0},
                {"-", false, 0},
                {" 1", false, 0},
                {"1 ", false, 0},
                {"1.0", false, 0},
                {"0x10", false, 0},
                {"--1", false, 0},
                {"007", true, 7}};
    for (usize i = 0; i < COUNT_OF(ints); i++) {
        i64 v = 77;
        assert_int_equal(str_i64(str_of(ints[i].s), &v), ints[i].good);
        assert_int_equal(v, ints[i].good ? ints[i].v : 77);
    }
    static const struct {
        const char *s;
        bool good;
        double v;
    } floats[] = {{"0", true, 0},      {"-1.5", true, -1.5}, {".5", true, .5},
                  {"5.", true, 5},     {"1e3", true, 1000},  {"+2E-2", true, .02},
                  {"1e400", false, 0}, {"1e-400", true, 0},  {".", false, 0},
                  {"e5", false, 0},    {"1e", false, 0},     {"1e+", false, 0},
                  {"nan", false, 0},   {"inf", false, 0},    {"0x1p3", false, 0},
                  {"1,5", false, 0},   {" 1", false, 0},     {"1 ", false, 0},
                  {"", false, 0},      {"0.1", true, 0.1},   {"1.7976931348623157e308", true, 1.7976931348623157e308}};
    for (usize i = 0; i < COUNT_OF(floats); i++) {
        double v = 77;
        assert_int_equal(str_f64(str_of(floats[i].s), &v), floats[i].good);
        assert_true(v == (floats[i].good ? floats[i].v : 77));
    }
    double v;
    char longer[1001];
    memset(longer, '0', 1000);
    memcpy(longer, "1.", 2);
    assert_true(str_f64((str){longer, 1000}, &v) && v == 1);
    assert_true(str_f64((str){"1.52", 3}, &v) && v == 1.5); /* the slice ends where it says */
}

static void buffer(void **state)
{
    (void)state;
    usize before = mem_now();
    buf b = {0};
    assert_string_equal(buf_cstr(&b), "");
    assert_int_equal(buf_view(&b).n, 0);
    buf_puts(&b, "ab");
    buf_byte(&b, 'c');
    buf_str(&b, S("de"));
    buf_fmt(&b, "%d%s", 42, "!");
    buf_utf8(&b, 0xAC00);
    buf_utf8(&b, 0xD800); /* no such character: the replacement */
    assert_string_equal(buf_cstr(&b), "abcde42!가\xEF\xBF\xBD");
    assert_int_equal(b.p[b.n], 0);
    for (int i = 0; i < 10000; i++) {
        buf_fmt(&b, "%s", "0123456789");
        assert_int_equal(b.p[b.n], 0);
    }
    assert_int_equal(b.n, 100014);
    char *p = buf_take(&b);
    assert_int_equal(strlen(p), 100014);
    assert_int_equal(b.n, 0);
    mem_free(p);
    p = buf_take(&b);
    assert_string_equal(p, "");
    mem_free(p);
    buf_put(&b, "a\0b", 3);
    assert_int_equal(buf_view(&b).n, 3);
    buf_reset(&b);
    assert_int_equal(b.n, 0);
    assert_false(buf_reserve(&b, SIZE_MAX));
    buf_puts(&b, "ignored");
    assert_int_equal(b.n, 0);
    assert_int_equal(buf_error(&b).code, ERR_NOMEM);
    buf_reset(&b);
    buf_puts(&b, "again");
    assert_string_equal(buf_cstr(&b), "again");
    assert_int_equal(buf_error(&b).code, ERR_OK);
    buf_free(&b);
    buf_free(NULL);
    assert_int_equal(mem_now(), before);
}

static void vectors(void **state)
{
    (void)state;
    struct {
        int a;
        double b;
    } *v = NULL;
    usize n = 0, cap = 0;
    for (int i = 0; i < 1000; i++) {
        assert_true(vec_grow((void **)&v, &cap, n + 1, sizeof *v));
        assert_int_equal(v[n].a, 0);
        v[n].a = i;
        n++;
    }
    for (int i = 0; i < 1000; i++) assert_int_equal(v[i].a, i);
    assert_false(vec_grow((void **)&v, &cap, SIZE_MAX / 2, sizeof *v));
    mem_free(v);
}

/* ---- UTF-8 ---- */
static void utf8_round_trip(void **state)
{
    (void)state;
    for (u32 c = 0; c <= 0x10FFFF; c++) {
        if (c >= 0xD800 && c < 0xE000) continue;
        char four[4];
        usize n = utf8_put(four, c), at = 0;
        if (utf8_next((str){four, n}, &at) != c || at != n || !utf8_valid((str){four, n})) fail_msg("U+%04X", c);
        for (usize cut = 1; cut < n; cut++) /* a cut character is incomplete, and counts byte by byte */
            if (utf8_complete((str){four, cut}) != 0 || utf8_valid((str){four, cut}) || utf8_count((str){four, cut}) != cut)
                fail_msg("U+%04X", c);
        if (utf8_complete((str){four, n}) != n) fail_msg("U+%04X", c);
    }
    static const u32 none[] = {0xD800, 0xDFFF, 0x110000, 0xFFFFFFFF};
    for (usize i = 0; i < COUNT_OF(none); i++) {
        char four[4];
        assert_int_equal(utf8_put(four, none[i]), 3);
        assert_memory_equal(four, "\xEF\xBF\xBD", 3);
    }
}

static void utf8_malformed(void **state)
{
    (void)state;
    static const struct {
        const char *what, *s;
    } bad[] = {
        {"lone continuation", "\x80"},
        {"last continuation", "\xBF"},
        {"overlong 2: C0", "\xC0\x80"},
        {"overlong 2: C1", "\xC1\xBF"},
        {"overlong 3", "\xE0\x80\x80"},
        {"overlong 3, largest", "\xE0\x9F\xBF"},
        {"overlong 4", "\xF0\x80\x80\x80"},
        {"overlong 4, largest", "\xF0\x8F\xBF\xBF"},
        {"surrogate D800", "\xED\xA0\x80"},
        {"surrogate DFFF", "\xED\xBF\xBF"},
        {"past U+10FFFF", "\xF4\x90\x80\x80"},
        {"F5", "\xF5\x80\x80\x80"},
        {"FE", "\xFE"},
        {"FF", "\xFF"},
        {"5 bytes", "\xF8\x88\x80\x80\x80"},
        {"cut 2", "\xC3"},
        {"cut 3 after 1", "\xEA"},
        {"cut 3 after 2", "\xEA\xB0"},
        {"cut 4 after 1", "\xF0"},
        {"cut 4 after 2", "\xF0\x9F"},
        {"cut 4 after 3", "\xF0\x9F\x98"},
        {"2 without", "\xC3"
                      "a"},
        {"3 broken by ASCII", "\xEA\xB0"
                              "a"},
        {"3 broken by a lead", "\xEA\xB0\xEA\xB0\x80"},
        {"4 broken", "\xF0\x9F\x98"
                     "a"},
    };
    for (usize i = 0; i < COUNT_OF(bad); i++) {
        buf b = {0};
        buf_fmt(&b, "ok%s!", bad[i].s); /* in the middle: what surrounds it must survive */
        str s = buf_view(&b), alone = str_of(bad[i].s);
        if (utf8_valid(s) || utf8_valid(alone)) fail_msg("taken for valid: %s", bad[i].what);
        usize at = 0, n_replaced = 0, n = 0;
        u32 last = 0;
        while (at < s.n) {
            usize was = at;
            last = utf8_next(s, &at);
            n++;
            if (last == 0xFFFD) {
                n_replaced++;
                assert_int_equal(at - was, 1);
            }
            assert_true(at > was && at <= s.n);
        }
        assert_int_equal(last, '!');
        if (!n_replaced) fail_msg("not replaced: %s", bad[i].what);
        assert_int_equal(utf8_count(s), n);
        buf_free(&b);
    }
    usize at = 3;
    assert_int_equal(utf8_next(S("abc"), &at), 0xFFFD); /* at the end: does not move */
    assert_int_equal(at, 3);
}

static void utf8_positions(void **state)
{
    (void)state;
    str s = S("a가😀\xFFz");
    assert_int_equal(utf8_count(s), 5);
    static const usize want[] = {0, 1, 4, 8, 9, 10, 10};
    for (usize i = 0; i < COUNT_OF(want); i++) assert_int_equal(utf8_offset(s, i), want[i]);
    static const struct {
        const char *s;
        usize n;
    } complete[] = {{"", 0},          {"abc", 3},
                    {"가", 3},        {"a\xEA", 1},
                    {"a\xEA\xB0", 1}, {"\xF0\x9F\x98", 0},
                    {"x\xC3", 1},     {"a\xFF", 2},     /* malformed, but nothing can complete it */
                    {"a\x80", 2},     {"a\xE0\x80", 3}, /* overlong: no continuation makes it whole */
                    {"a\xED\xA0", 3}, {"\x80\x80\x80\x80", 4},
                    {"a\xC3\xA9", 3}};
    for (usize i = 0; i < COUNT_OF(complete); i++) assert_int_equal(utf8_complete(str_of(complete[i].s)), complete[i].n);
}

/* ---- map ---- */
static str key_of(char room[32], u64 i)
{
    return (str){room, (usize)snprintf(room, 32, "열쇠-%llu", (unsigned long long)(i * 2654435761u))};
}

static void map_of_100k(void **state)
{
    (void)state;
    enum { N = 100000 };
    usize before = mem_now(), it = 0, seen = 0;
    char room[32];
    u64 v;
    map *m = map_new();
    assert_false(map_get(m, S("x"), &v));
    assert_false(map_del(m, S("x")));
    for (u64 i = 0; i < N; i++) assert_true(map_put(m, key_of(room, i), i));
    assert_int_equal(map_count(m), N);
    for (u64 i = 0; i < N; i++) assert_true(map_get(m, key_of(room, i), &v) && v == i);
    for (u64 i = N; i < 2 * N; i++) assert_false(map_get(m, key_of(room, i), NULL));
    for (u64 i = 0; i < N; i += 3) assert_true(map_put(m, key_of(room, i), i + 1)); /* replaces */
    assert_int_equal(map_count(m), N);
    for (u64 i = 0; i < N; i += 2) assert_true(map_del(m, key_of(room, i)));
    assert_false(map_del(m, key_of(room, 0)));
    assert_int_equal(map_count(m), N / 2);
    for (u64 i = 0; i < N; i++) {
        assert_int_equal(map_get(m, key_of(room, i), &v), i % 2 == 1);
        if (i % 2) assert_int_equal(v, i % 3 ? i : i + 1);
    }
    str key;
    for (u64 want = 1; map_each(m, &it, &key, &v); want += 2, seen++) /* in the order of insertion */
        assert_true(str_eq(key, key_of(room, want)));
    assert_int_equal(seen, N / 2);
    map_free(m);
    map_free(NULL);
    assert_int_equal(mem_now(), before);
}

static void map_odd_keys_and_churn(void **state)
{
    (void)state;
    map *m = map_new();
    u64 v;
    assert_true(map_put(m, S(""), 1));
    assert_true(map_put(m, ((str){"\0", 1}), 2));
    assert_true(map_put(m, ((str){"\0\0", 2}), 3));
    assert_true(map_put(m, ((str){NULL, 0}), 4)); /* the empty key again */
    assert_int_equal(map_count(m), 3);
    assert_true(map_get(m, S(""), &v) && v == 4);
    assert_true(map_get(m, ((str){"\0\0", 2}), &v) && v == 3);
    usize after = 0;
    for (u64 i = 0; i < 200000; i++) { /* put and delete for ever must not grow for ever */
        char room[32];
        str key = key_of(room, i);
        assert_true(map_put(m, key, i));
        assert_true(map_del(m, key));
        if (i == 20000) after = mem_now();
    }
    assert_true(mem_now() <= after + 4096);
    assert_int_equal(map_count(m), 3);
    assert_true(map_get(m, ((str){"\0", 1}), &v) && v == 2);
    map_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slices),         cmocka_unit_test(numbers),         cmocka_unit_test(buffer),
        cmocka_unit_test(vectors),        cmocka_unit_test(utf8_round_trip), cmocka_unit_test(utf8_malformed),
        cmocka_unit_test(utf8_positions), cmocka_unit_test(map_of_100k),     cmocka_unit_test(map_odd_keys_and_churn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
