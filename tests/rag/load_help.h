/* tests/rag/load_help.h - loading in tests, and the promises of load.h checked from outside: original bytes are decoded by
 * iconv and jansson here, not by the code under test. */
#ifndef LOAD_HELP_H
#define LOAD_HELP_H
#include "rag/load.h"
#include "text/text.h"
#include <iconv.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

typedef struct {
    loaded *d;
    usize n, cap;
} docs;

static inline err take_doc(void *ctx, loaded *d)
{
    docs *to = ctx;
    if (VEC_PUSH(to->d, to->n, to->cap, *d)) return OK;
    loaded_free(d);
    return err_new(ERR_NOMEM, "no memory for a test's document");
}

static inline void docs_free(docs *to)
{
    for (usize i = 0; i < to->n; i++) loaded_free(&to->d[i]);
    mem_free(to->d);
    *to = (docs){0};
}

static inline void no_err(err e)
{
    if (e.code) fail_msg("%s: %s", err_name(e.code), e.what);
}

static inline void want_err(err e, err_code code, const char *part)
{
    if ((err_code)e.code != code) fail_msg("expected %s '%s', got %s: %s", err_name(code), part, err_name(e.code), e.what);
    if (!strstr(e.what, part)) fail_msg("expected a message with '%s', got: %s", part, e.what);
}

static inline err load_str(const char *name, str s, docs *to) { return load_bytes(name, s.p, s.n, take_doc, to); }

/* one document from bytes; the test fails if there is not just one */
static inline loaded load_one(const char *name, str s)
{
    docs to = {0};
    no_err(load_str(name, s, &to));
    assert_int_equal(to.n, 1);
    loaded d = to.d[0];
    mem_free(to.d);
    return d;
}

static inline buf fixture(const char *name)
{
    char path[300];
    buf b = {0};
    snprintf(path, sizeof path, "tests/rag/fixtures/%s", name);
    no_err(file_read(&b, path, 0));
    return b;
}

static inline str part_of(const loaded *d, u32 start, u32 end)
{
    str s = {d->text, d->text_len};
    usize from = utf8_offset(s, start), to = from + utf8_offset((str){s.p + from, s.n - from}, end - start);
    return (str){s.p + from, to - from};
}

/* ---- original bytes, read by others ---- */
static inline void iconv_to_utf8(str s, const char *charset, buf *out)
{
    iconv_t cd = iconv_open("UTF-8", charset);
    assert_true(cd != (iconv_t)-1);
    usize room = s.n * 4 + 16, left = room, in = s.n;
    char *p = malloc(room), *to = p, *from = (char *)(uintptr_t)s.p;
    if (iconv(cd, &from, &in, &to, &left) == (usize)-1) fail_msg("%zu bytes are not whole characters of %s", s.n, charset);
    buf_put(out, p, room - left);
    free(p);
    iconv_close(cd);
}

/* a piece of a JSON string as it is in the file */
static inline void json_to_utf8(str s, buf *out)
{
    buf quoted = {0};
    buf_byte(&quoted, '"');
    for (usize i = 0; i < s.n; i++) { /* jansson refuses half surrogates */
        unsigned high = 0, low = 0;
        bool slash = s.p[i] == '\\', pair = false;
        if (slash && s.n - i >= 6) sscanf(s.p + i, "\\u%4x", &high);
        if (slash && s.n - i >= 12) pair = high >> 10 == 0x36 && sscanf(s.p + i + 6, "\\u%4x", &low) == 1 && low >> 10 == 0x37;
        usize n = pair ? 12 : slash ? 2 : 1;
        if (high >> 11 == 0x1B && !pair)
            buf_puts(&quoted, "\xEF\xBF\xBD"), n = 6;
        else
            buf_put(&quoted, s.p + i, n <= s.n - i ? n : s.n - i);
        i += n - 1;
    }
    buf_byte(&quoted, '"');
    json_t *j = json_loadb(quoted.p, quoted.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (!j) fail_msg("not a piece of a JSON string: %.*s", (int)s.n, s.p);
    buf_put(out, json_string_value(j), json_string_length(j));
    json_decref(j);
    buf_free(&quoted);
}

/* line ends and controls as load.h says, then NFC */
static inline void canonical(str s, buf *out)
{
    buf plain = {0};
    for (usize at = 0; at < s.n;) {
        u32 c = utf8_next(s, &at);
        if (c == '\r' && at < s.n && s.p[at] == '\n') continue;
        if (c == '\r' || c == '\f' || c == '\v' || c == 0x85)
            buf_byte(&plain, '\n');
        else if (c == '\t' || c == '\n' || (c >= 0x20 && (c < 0x7F || c >= 0xA0)))
            buf_utf8(&plain, c);
    }
    no_err(text_nfc(out, buf_view(&plain)));
    buf_free(&plain);
}

static inline void original(const loaded *d, str file, u64 from, u64 to, bool json, buf *out)
{
    buf decoded = {0};
    assert_true(from <= to && to <= file.n);
    str s = {file.p + from, (usize)(to - from)};
    if (strcmp(d->encoding, "utf-8"))
        iconv_to_utf8(s, d->encoding, &decoded);
    else if (json)
        json_to_utf8(s, &decoded);
    else {
        assert_true(utf8_valid(s));
        buf_str(&decoded, s);
    }
    canonical(buf_view(&decoded), out);
    buf_free(&decoded);
}

/* ---- promises ---- */
static inline void check_nfc(const loaded *d)
{
    buf again = {0};
    no_err(text_nfc(&again, (str){d->text, d->text_len}));
    assert_true(str_eq(buf_view(&again), (str){d->text, d->text_len}));
    buf_free(&again);
}

/* Every character in an anchor, every anchor's original bytes are its text. */
static inline void check_bytes(const loaded *d, str file, bool json)
{
    u32 covered = 0;
    buf is = {0};
    usize at = 0; /* of the anchor, in bytes */
    for (usize i = 0; i < d->n_anchors; i++) {
        const anchor *a = &d->anchors[i];
        if (a->start != covered) fail_msg("characters %u to %u are in no anchor", covered, a->start);
        str rest = {d->text + at, d->text_len - at};
        str want = {rest.p, utf8_offset(rest, a->end - a->start)};
        buf_reset(&is);
        original(d, file, a->a, a->b, json, &is);
        if (!str_eq(buf_view(&is), want))
            fail_msg("anchor %zu [%u,%u): '%.*s' but bytes %u to %u are '%s'", i, a->start, a->end, (int)want.n, want.p, a->a,
                     a->b, buf_cstr(&is));
        at += want.n;
        covered = a->end;
    }
    assert_int_equal(covered, d->n_chars);
    buf_free(&is);
}

/* Ranges taken at random: the place's bytes are the range, or hold it where it begins or ends inside of a changed run. */
static inline void check_places(const loaded *d, str file, bool json, int n, u64 seed)
{
    rng r;
    rng_seed(&r, seed);
    for (int i = 0; i < n && d->n_chars; i++) {
        u32 start = (u32)(rng_u64(&r) % d->n_chars), left = d->n_chars - start;
        u32 end = start + 1 + (u32)(rng_u64(&r) % (left < 60 ? left : 60));
        place p;
        no_err(load_place(d, start, end <= d->n_chars ? end : d->n_chars, &p));
        if (end > d->n_chars) end = d->n_chars;
        buf is = {0};
        original(d, file, p.byte_start, p.byte_end, json, &is);
        str want = part_of(d, start, end);
        if (str_find(buf_view(&is), want, 0) < 0 || is.n > want.n + 128)
            fail_msg("[%u,%u) '%.*s' but bytes %llu to %llu are '%s'", start, end, (int)want.n, want.p,
                     (unsigned long long)p.byte_start, (unsigned long long)p.byte_end, buf_cstr(&is));
        u32 line = 1;
        for (const char *c = d->text; c < want.p; c++) line += *c == '\n';
        assert_int_equal(p.line, line);
        assert_null(p.rects);
        buf_free(&is);
    }
}

static inline void check_text_doc(const loaded *d, str file, bool json)
{
    no_err(load_check(d));
    check_nfc(d);
    assert_int_equal(d->source, SOURCE_BYTES);
    check_bytes(d, file, json);
    check_places(d, file, json, 60, file.n);
}

static inline str block_text(const loaded *d, usize i) { return part_of(d, d->blocks[i].start, d->blocks[i].end); }

static inline void want_block(const loaded *d, usize i, block_kind kind, int level, const char *text)
{
    if (i >= d->n_blocks) fail_msg("block %zu of %zu: '%s' was expected", i, d->n_blocks, text);
    str is = block_text(d, i);
    if (d->blocks[i].kind != kind || d->blocks[i].level != level || !str_eq(is, str_of(text)))
        fail_msg("block %zu is kind %u level %u '%.*s'; expected kind %d level %d '%s'", i, d->blocks[i].kind, d->blocks[i].level,
                 (int)is.n, is.p, (int)kind, level, text);
}
#endif
