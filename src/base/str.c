/* base/str.c - slices, the growing buffer, numbers and UTF-8.
 *
 * Numbers are read without the locale, because files and requests mean the same in every country. UTF-8 is decoded strictly
 * (Unicode 15, table 3-7): what is malformed becomes U+FFFD one byte at a time, so that decoding never loses its place.
 * Normalisation and character classes are not here: they are the text floor's. */
#include "base/base.h"
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

str str_of(const char *s) { return s ? (str){s, strlen(s)} : (str){"", 0}; }
bool str_eq(str a, str b) { return a.n == b.n && (!a.n || !memcmp(a.p, b.p, a.n)); }
bool str_starts(str s, str head) { return s.n >= head.n && (!head.n || !memcmp(s.p, head.p, head.n)); }
bool str_ends(str s, str tail) { return s.n >= tail.n && (!tail.n || !memcmp(s.p + s.n - tail.n, tail.p, tail.n)); }

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

str str_trim(str s)
{
    while (s.n && is_space(s.p[0])) s.p++, s.n--;
    while (s.n && is_space(s.p[s.n - 1])) s.n--;
    return s;
}

i64 str_find(str hay, str needle, usize from)
{
    if (from > hay.n) return -1;
    if (!needle.n) return (i64)from;
    if (needle.n > hay.n - from) return -1;
    const char *at = memmem(hay.p + from, hay.n - from, needle.p, needle.n);
    return at ? at - hay.p : -1;
}

bool str_i64(str s, i64 *value)
{
    usize i = 0;
    bool minus = s.n && s.p[0] == '-';
    if (s.n && (s.p[0] == '-' || s.p[0] == '+')) i++;
    if (i == s.n) return false;
    i64 v = 0; /* kept negative: the smallest number has no positive twin */
    for (; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9') return false;
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_sub_overflow(v, s.p[i] - '0', &v)) return false;
    }
    if (!minus && v == INT64_MIN) return false;
    *value = minus ? v : -v;
    return true;
}

static locale_t c_locale;
static void c_locale_make(void) { c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }

/* [+-] digits [. digits] [e [+-] digits], with a digit before or after the point */
static bool looks_decimal(str s)
{
    usize i = 0, digits = 0;
    if (i < s.n && (s.p[i] == '-' || s.p[i] == '+')) i++;
    for (; i < s.n && s.p[i] >= '0' && s.p[i] <= '9'; i++) digits++;
    if (i < s.n && s.p[i] == '.')
        for (i++; i < s.n && s.p[i] >= '0' && s.p[i] <= '9'; i++) digits++;
    if (!digits) return false;
    if (i == s.n) return true;
    if (s.p[i] != 'e' && s.p[i] != 'E') return false;
    i++;
    if (i < s.n && (s.p[i] == '-' || s.p[i] == '+')) i++;
    if (i == s.n) return false;
    for (; i < s.n; i++)
        if (s.p[i] < '0' || s.p[i] > '9') return false;
    return true;
}

bool str_f64(str s, double *value)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (!looks_decimal(s)) return false;
    pthread_once(&once, c_locale_make);
    if (!c_locale) return false;
    char small[128], *z = s.n < sizeof small ? small : mem_alloc(s.n + 1);
    if (!z) return false;
    memcpy(z, s.p, s.n);
    z[s.n] = 0;
    double v = strtod_l(z, NULL, c_locale);
    if (z != small) mem_free(z);
    if (isinf(v)) return false;
    *value = v;
    return true;
}

/* ---- buf ------------------------------------------------------------------------------------------------------------ */
static bool buf_spoil(buf *b)
{
    mem_free(b->p);
    *b = (buf){.bad = true};
    return false;
}

bool buf_reserve(buf *b, usize more)
{
    if (b->bad) return false;
    if (more < b->cap - b->n) return true; /* one byte is kept for the NUL; cap 0 has n 0 and fails this */
    usize need;
    if (__builtin_add_overflow(b->n, more, &need) || need > PTRDIFF_MAX - 1) return buf_spoil(b);
    need++;
    usize fresh_cap = b->cap < 48 ? 64 : b->cap + b->cap / 2;
    if (fresh_cap < need) fresh_cap = need;
    char *fresh = mem_resize(b->p, fresh_cap);
    if (!fresh) return buf_spoil(b);
    b->p = fresh;
    b->cap = fresh_cap;
    b->p[b->n] = 0;
    return true;
}

void buf_put(buf *b, const void *p, usize n)
{
    if (!n || !buf_reserve(b, n)) return;
    memcpy(b->p + b->n, p, n);
    b->n += n;
    b->p[b->n] = 0;
}

void buf_str(buf *b, str s) { buf_put(b, s.p, s.n); }

void buf_puts(buf *b, const char *s)
{
    if (s) buf_put(b, s, strlen(s));
}

void buf_byte(buf *b, int c)
{
    if (!buf_reserve(b, 1)) return;
    b->p[b->n++] = (char)c;
    b->p[b->n] = 0;
}

void buf_utf8(buf *b, u32 c)
{
    char four[4];
    buf_put(b, four, utf8_put(four, c));
}

void buf_fmt(buf *b, const char *fmt, ...)
{
    if (!buf_reserve(b, 0)) return;
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(b->p + b->n, b->cap - b->n, fmt, ap);
    if (n < 0)
        b->p[b->n] = 0;
    else if ((usize)n < b->cap - b->n)
        b->n += (usize)n;
    else if (buf_reserve(b, (usize)n)) {
        vsnprintf(b->p + b->n, b->cap - b->n, fmt, again);
        b->n += (usize)n;
    }
    va_end(again);
    va_end(ap);
}

const char *buf_cstr(buf *b)
{
    if (!b->p || !b->n) return "";
    if (b->n < b->cap) b->p[b->n] = 0;
    return b->p;
}

str buf_view(const buf *b) { return b->n ? (str){b->p, b->n} : (str){"", 0}; }

char *buf_take(buf *b)
{
    if (!buf_reserve(b, 0)) return NULL;
    char *p = b->p;
    p[b->n] = 0;
    *b = (buf){0};
    return p;
}

void buf_reset(buf *b)
{
    b->n = 0;
    b->bad = false;
    if (b->p) b->p[0] = 0;
}

void buf_free(buf *b)
{
    if (!b) return;
    mem_free(b->p);
    *b = (buf){0};
}

err buf_error(const buf *b) { return b->bad ? err_new(ERR_NOMEM, "out of memory while a buffer grew") : OK; }

/* ---- UTF-8 ---------------------------------------------------------------------------------------------------------- */

/* What may follow a lead byte: how many bytes in all, and the range of the second (which excludes overlong forms,
 * surrogates and what lies past U+10FFFF). 0: not a lead byte. */
static int lead_len(u8 c, u8 *lo, u8 *hi)
{
    *lo = 0x80, *hi = 0xBF;
    if (c < 0x80) return 1;
    if (c < 0xC2) return 0;
    if (c < 0xE0) return 2;
    if (c < 0xF0) {
        if (c == 0xE0) *lo = 0xA0;
        if (c == 0xED) *hi = 0x9F;
        return 3;
    }
    if (c > 0xF4) return 0;
    if (c == 0xF0) *lo = 0x90;
    if (c == 0xF4) *hi = 0x8F;
    return 4;
}

u32 utf8_next(str s, usize *at)
{
    usize i = *at;
    if (i >= s.n) return 0xFFFD;
    const u8 *p = (const u8 *)s.p + i;
    usize left = s.n - i;
    *at = i + 1;
    if (p[0] < 0x80) return p[0];
    u8 lo, hi;
    int n = lead_len(p[0], &lo, &hi);
    if (!n || left < (usize)n || p[1] < lo || p[1] > hi) return 0xFFFD;
    u32 c = (u32)(p[0] & (0x7F >> n)) << 6 | (p[1] & 0x3F);
    for (int k = 2; k < n; k++) {
        if ((p[k] & 0xC0) != 0x80) return 0xFFFD;
        c = c << 6 | (p[k] & 0x3F);
    }
    *at = i + (usize)n;
    return c;
}

usize utf8_put(char out[4], u32 c)
{
    if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) c = 0xFFFD;
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

bool utf8_valid(str s)
{
    usize at = 0;
    while (at < s.n) {
        usize was = at;
        /* a real U+FFFD takes three bytes, a malformed byte one */
        if (utf8_next(s, &at) == 0xFFFD && at - was == 1) return false;
    }
    return true;
}

usize utf8_count(str s)
{
    usize n = 0;
    for (usize at = 0; at < s.n; n++) utf8_next(s, &at);
    return n;
}

usize utf8_offset(str s, usize code_points)
{
    usize at = 0;
    while (code_points-- && at < s.n) utf8_next(s, &at);
    return at;
}

usize utf8_complete(str s)
{
    for (usize back = 1; back <= 3 && back <= s.n; back++) {
        u8 c = (u8)s.p[s.n - back], lo, hi;
        if ((c & 0xC0) == 0x80) continue;
        int n = lead_len(c, &lo, &hi);
        if (n <= (int)back) return s.n; /* whole, or not a lead byte at all */
        u8 second = back > 1 ? (u8)s.p[s.n - back + 1] : lo;
        return second >= lo && second <= hi ? s.n - back : s.n;
    }
    return s.n;
}

/* ---- vec ------------------------------------------------------------------------------------------------------------ */
bool vec_grow(void **ptr, usize *cap, usize need, usize item)
{
    if (need <= *cap) return true;
    usize fresh_cap = *cap < 4 ? 8 : *cap * 2, bytes;
    if (fresh_cap < need) fresh_cap = need;
    if (__builtin_mul_overflow(fresh_cap, item, &bytes)) return false;
    char *p;
    memcpy(&p, ptr, sizeof p); /* the caller's pointer is of another type */
    p = mem_resize(p, bytes);
    if (!p) return false;
    memset(p + *cap * item, 0, bytes - *cap * item);
    memcpy(ptr, &p, sizeof p);
    *cap = fresh_cap;
    return true;
}
