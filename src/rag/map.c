/* rag/map.c - a document's map (blocks and anchors) as a few bytes per word, to be kept with its text.
 *
 * Everything is ordered, so everything is a difference to what came before, in variable-length integers. Boxes of PDF words are
 * kept to 1/128 of a point, finer than any screen. A damaged map is an error, never a crash: what was unpacked is checked by
 * load_check before anyone sees it. */
#include "rag/store.h"
#include <math.h>

enum { MAP_VERSION = 1, BOX_UNITS = 128, BOX_MOST = 1 << 24 };

/* ---- writing ----------------------------------------------------------------------------------------------------------------
 */
static void put_u(buf *b, u64 v)
{
    for (; v >= 0x80; v >>= 7) buf_byte(b, (int)(v & 0x7F) | 0x80);
    buf_byte(b, (int)v);
}
static void put_i(buf *b, i64 v) { put_u(b, (u64)v << 1 ^ (u64)(v >> 63)); }
static void put_str(buf *b, const char *s) /* length + 1; 0: NULL */
{
    put_u(b, s ? strlen(s) + 1 : 0);
    if (s) buf_puts(b, s);
}

static i64 box_units(float v)
{
    double u = round((double)v * BOX_UNITS);
    return u > BOX_MOST ? BOX_MOST : u < -BOX_MOST ? -BOX_MOST : (i64)u;
}

static void put_anchors(const loaded *d, buf *out)
{
    anchor was = {0};
    i64 box[4] = {0};
    for (usize i = 0; i < d->n_anchors; i++) {
        const anchor *a = &d->anchors[i];
        put_u(out, a->start - was.end);
        if (d->source == SOURCE_BYTES) {
            put_u(out, (u64)(a->end - a->start) << 1 | (a->box[0] != 0));
            put_u(out, a->a - was.b);
            put_u(out, a->b - a->a);
        } else {
            put_u(out, a->end - a->start);
            put_i(out, (i64)a->a - was.a);
            put_i(out, (i64)a->b - was.b);
        }
        for (int k = 0; k < 4 && d->source == SOURCE_PDF; k++) {
            i64 u = box_units(a->box[k]);
            put_i(out, u - box[k]);
            box[k] = u;
        }
        was = *a;
    }
}

err map_pack(const loaded *d, buf *out)
{
    u32 end = 0;
    put_u(out, MAP_VERSION);
    put_u(out, d->n_chars);
    put_u(out, d->n_pages);
    put_u(out, d->source);
    put_str(out, d->encoding);
    put_str(out, d->title);
    put_str(out, d->id);
    put_str(out, d->meta);
    put_u(out, d->n_blocks);
    for (usize i = 0; i < d->n_blocks; i++) {
        const block *b = &d->blocks[i];
        put_u(out, b->start - end);
        put_u(out, b->end - b->start);
        put_u(out, (u64)b->kind << 3 | b->level);
        end = b->end;
    }
    put_u(out, d->n_anchors);
    put_anchors(d, out);
    return buf_error(out);
}

/* ---- reading ----------------------------------------------------------------------------------------------------------------
 */
typedef struct {
    str s;
    usize at;
    bool bad, no_memory;
} cursor;

static u64 get_u(cursor *c)
{
    u64 v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (c->at >= c->s.n) break;
        u8 b = (u8)c->s.p[c->at++];
        v |= (u64)(b & 0x7F) << shift;
        if (!(b & 0x80)) return v;
    }
    c->bad = true;
    return 0;
}
static i64 get_i(cursor *c)
{
    u64 v = get_u(c);
    return (i64)(v >> 1) ^ -(i64)(v & 1);
}
static u32 get_u32(cursor *c)
{
    u64 v = get_u(c);
    if (v > UINT32_MAX) c->bad = true;
    return (u32)v;
}
static u32 add_u32(cursor *c, u32 to, i64 v) /* `to` + v, if that is a u32 */
{
    if (v < -(i64)UINT32_MAX || v > UINT32_MAX || (i64)to + v < 0 || (i64)to + v > UINT32_MAX) {
        c->bad = true;
        return 0;
    }
    return (u32)((i64)to + v);
}
static char *get_str(cursor *c)
{
    u64 n = get_u(c);
    if (!n || c->bad) return NULL;
    if (n - 1 > c->s.n - c->at) {
        c->bad = true;
        return NULL;
    }
    char *s = mem_strndup(c->s.p + c->at, n - 1);
    if (!s) c->no_memory = true;
    c->at += n - 1;
    return s;
}

/* room for n items that take at least `least` bytes each of what is left */
static void *get_array(cursor *c, u64 n, usize least, usize item)
{
    if (n > (c->s.n - c->at) / least) c->bad = true;
    if (c->bad || c->no_memory) return NULL;
    void *p = mem_alloc_n(item, n ? (usize)n : 1);
    if (!p) c->no_memory = true;
    return p;
}

static void get_blocks(cursor *c, loaded *d)
{
    u64 n = get_u(c);
    u32 end = 0;
    d->blocks = get_array(c, n, 3, sizeof *d->blocks);
    if (!d->blocks) return;
    d->n_blocks = (usize)n;
    for (usize i = 0; i < n && !c->bad; i++) {
        block *b = &d->blocks[i];
        b->start = add_u32(c, end, get_u32(c));
        b->end = add_u32(c, b->start, get_u32(c));
        u64 kind = get_u(c);
        b->kind = (u8)(kind >> 3 & 0xFF), b->level = kind & 7;
        end = b->end;
    }
}

static void get_anchors(cursor *c, loaded *d)
{
    u64 n = get_u(c);
    anchor was = {0};
    i64 box[4] = {0};
    d->anchors = get_array(c, n, 4, sizeof *d->anchors);
    if (!d->anchors) return;
    d->n_anchors = (usize)n;
    for (usize i = 0; i < n && !c->bad; i++) {
        anchor *a = &d->anchors[i];
        a->start = add_u32(c, was.end, get_u32(c));
        u64 len = get_u(c);
        if (d->source == SOURCE_BYTES) {
            a->box[0] = (float)(len & 1);
            len >>= 1;
            a->a = add_u32(c, was.b, get_u32(c));
            a->b = add_u32(c, a->a, get_u32(c));
        } else {
            a->a = add_u32(c, was.a, get_i(c));
            a->b = add_u32(c, was.b, get_i(c));
        }
        if (len > UINT32_MAX) c->bad = true;
        a->end = add_u32(c, a->start, (i64)(u32)len);
        for (int k = 0; k < 4 && d->source == SOURCE_PDF; k++) {
            i64 step = get_i(c);
            if (step < -2 * BOX_MOST || step > 2 * BOX_MOST)
                c->bad = true;
            else
                box[k] += step;
            a->box[k] = (float)((double)box[k] / BOX_UNITS);
        }
        was = *a;
    }
}

err map_unpack(str s, loaded *d)
{
    cursor c = {.s = s};
    u64 version = get_u(&c);
    if (version != MAP_VERSION)
        return err_new(ERR_FORMAT, "map of version %llu, %d is read", (unsigned long long)version, MAP_VERSION);
    d->n_chars = get_u32(&c);
    d->n_pages = get_u32(&c);
    d->source = get_u32(&c);
    d->encoding = get_str(&c);
    d->title = get_str(&c);
    d->id = get_str(&c);
    d->meta = get_str(&c);
    get_blocks(&c, d);
    get_anchors(&c, d);
    if (c.no_memory) return err_new(ERR_NOMEM, "no memory for a document's map");
    if (c.bad || c.at != s.n) return err_new(ERR_FORMAT, "damaged map at byte %zu of %zu", c.at, s.n);
    err bad = load_check(d);
    return bad.code ? err_new(ERR_FORMAT, "damaged map: %s", bad.what) : OK;
}
