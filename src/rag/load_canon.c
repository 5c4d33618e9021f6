/* rag/load_canon.c - canonical text and the map back, lines, block lists, paragraphs.
 *
 * One builder for every format, because two promises must hold at once: the text is NFC as a whole, and each character knows
 * its original. Normalising the whole text afterwards would lose the second; normalising pieces of the file (a word, a text
 * node) would lose the first where a combining mark follows a border. So characters queue in a short segment until one comes
 * that cannot compose backwards, and only then are written with their anchors. */
#include "rag/load_canon.h"
#include "text/text.h"
#include <utf8proc.h>

err canon_new(canon **out, source_kind source, const char *encoding)
{
    canon *c = *out = mem_zero(sizeof *c);
    if (!c) return err_new(ERR_NOMEM, "no memory to read a document");
    c->source = source;
    c->encoding = encoding;
    return OK;
}

void canon_free(canon *c)
{
    if (!c) return;
    buf_free(&c->text);
    buf_free(&c->before);
    buf_free(&c->after);
    mem_free(c->anchors);
    mem_free(c);
}

/* ---- what can compose --------------------------------------------------------------------------------------------------- */
static bool is_syllable(u32 c) { return c >= 0xAC00 && c < 0xD7A4; }
static bool is_plain_range(u32 c) { return c < 0x300 || is_syllable(c) || (c >= 0x4E00 && c < 0xA000); }

/* Nothing before c changes c or is changed by it. Every character that composes with the one before is a mark (M*) or a
 * Hangul vowel or final jamo; so is everything that decomposes into a leading mark. */
static bool starts_segment(u32 c, u32 before)
{
    if (is_plain_range(c)) return true;
    if (c >= 0x1161 && c <= 0x1175) return !(before >= 0x1100 && before <= 0x1112);
    if (c >= 0x11A8 && c <= 0x11C2)
        return !(before >= 0x1161 && before <= 0x1175) && !(is_syllable(before) && (before - 0xAC00) % 28 == 0);
    int category = utf8proc_get_property((utf8proc_int32_t)c)->category;
    return category != UTF8PROC_CATEGORY_MN && category != UTF8PROC_CATEGORY_MC && category != UTF8PROC_CATEGORY_ME;
}

static bool alone_is_nfc(u32 c)
{
    if (is_plain_range(c)) return true;
    const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)c);
    return p->decomp_seqindex == UINT16_MAX || p->decomp_type != 0; /* no decomposition, or only a compatibility one */
}

/* ---- writing ------------------------------------------------------------------------------------------------------------ */
static void add_anchor(canon *c, anchor a)
{
    if (!VEC_PUSH(c->anchors, c->n_anchors, c->cap_anchors, a)) c->out_of_memory = true;
}

/* n characters from original bytes [from.a, from.b); alike: they may join a run in which both sides advance alike */
static void mark_bytes(canon *c, u32 n, anchor from, bool alike)
{
    anchor *last = c->n_anchors ? &c->anchors[c->n_anchors - 1] : NULL;
    if (alike && last && last->end == c->n_chars && last->b == from.a && last->box[0] == 0) {
        last->end += n;
        last->b = from.b;
        return;
    }
    add_anchor(c, (anchor){c->n_chars, c->n_chars + n, from.a, from.b, {alike ? 0 : 1, 0, 0, 0}});
}

static void mark_tag(canon *c, u32 n, const canon_unit *u)
{
    if (!u->serial) return;
    anchor *last = c->n_anchors ? &c->anchors[c->n_anchors - 1] : NULL;
    if (last && c->last_serial == u->serial) {
        last->end = c->n_chars + n; /* separators inside of one word or node belong to it */
        return;
    }
    anchor a = u->from;
    a.start = c->n_chars;
    a.end = c->n_chars + n;
    add_anchor(c, a);
    c->last_serial = u->serial;
}

static void write_unit(canon *c, const canon_unit *u)
{
    if (c->source == SOURCE_BYTES)
        mark_bytes(c, 1, u->from, u->from.b - u->from.a == load_width(c->encoding, u->code_point));
    else
        mark_tag(c, 1, u);
    buf_utf8(&c->text, u->code_point);
    c->n_chars++;
}

/* The segment was changed: it maps as one piece, to all of its original bytes, or to the first word or node it has part in. */
static void write_changed(canon *c)
{
    u32 n = (u32)utf8_count(buf_view(&c->after));
    const canon_unit *first = c->held, *last = &c->held[c->n_held - 1];
    if (c->source == SOURCE_BYTES)
        mark_bytes(c, n, (anchor){.a = first->from.a, .b = last->from.b}, false);
    else {
        while (first < last && !first->serial) first++;
        mark_tag(c, n, first);
    }
    buf_str(&c->text, buf_view(&c->after));
    c->n_chars += n;
}

static void flush(canon *c)
{
    if (!c->n_held) return;
    bool changed = false;
    if (c->n_held > 1 || !alone_is_nfc(c->held[0].code_point)) {
        buf_reset(&c->before);
        buf_reset(&c->after);
        for (u32 i = 0; i < c->n_held; i++) buf_utf8(&c->before, c->held[i].code_point);
        if (text_nfc(&c->after, buf_view(&c->before)).code || c->before.bad || c->after.bad) c->out_of_memory = true;
        changed = !str_eq(buf_view(&c->before), buf_view(&c->after));
    }
    if (changed)
        write_changed(c);
    else
        for (u32 i = 0; i < c->n_held; i++) write_unit(c, &c->held[i]);
    c->n_held = 0;
}

static void hold(canon *c, u32 code_point, u32 serial, const anchor *from)
{
    if (c->n_held && starts_segment(code_point, c->held[c->n_held - 1].code_point)) flush(c);
    if (c->n_held == CANON_SEGMENT) {
        if (!c->too_long) c->too_long_at = c->held[0].from.a;
        c->too_long = true;
        flush(c);
    }
    canon_unit *u = &c->held[c->n_held++];
    u->code_point = code_point;
    u->serial = serial;
    u->from = *from;
}

/* ---- taking characters --------------------------------------------------------------------------------------------------- */
static bool is_control(u32 c) { return c < 0x20 || (c >= 0x7F && c < 0xA0); }

static void drop_control(canon *c, u32 code_point, u32 at)
{
    if (!c->n_controls++) c->control = code_point, c->control_at = at;
}

void canon_byte(canon *c, u32 code_point, u32 a, u32 b)
{
    anchor from = {.a = a, .b = b};
    if (c->cr) { /* a lone CR is a line end; of CR LF the LF is, and the CR falls between two anchors */
        c->cr = false;
        anchor cr = {.a = c->cr_at, .b = c->cr_to};
        if (code_point != '\n') hold(c, '\n', 0, &cr);
    }
    if (code_point == '\r') {
        c->cr = true;
        c->cr_at = a, c->cr_to = b;
        return;
    }
    if (code_point == '\f' || code_point == '\v' || code_point == 0x85) code_point = '\n';
    if (is_control(code_point) && code_point != '\n' && code_point != '\t')
        drop_control(c, code_point, a);
    else
        hold(c, code_point, 0, &from);
}

void canon_tag(canon *c, u32 a, u32 b, const float box[4])
{
    c->tag = (anchor){.a = a, .b = b};
    if (box) memcpy(c->tag.box, box, sizeof c->tag.box);
    c->serial++;
}

void canon_put(canon *c, u32 code_point)
{
    if (is_control(code_point) && code_point != '\n' && code_point != '\t')
        drop_control(c, code_point, c->tag.a);
    else
        hold(c, code_point, c->serial, &c->tag);
}

void canon_gap(canon *c, u32 code_point) { hold(c, code_point, 0, &(anchor){.a = c->tag.a}); }

u32 canon_here(canon *c)
{
    flush(c);
    return c->n_chars;
}

err canon_end(canon *c, loaded *out)
{
    if (c->cr) {
        c->cr = false;
        hold(c, '\n', 0, &(anchor){.a = c->cr_at, .b = c->cr_to});
    }
    flush(c);
    if (c->too_long)
        return err_new(ERR_FORMAT, "more than %d combining marks in a row at %s %u", CANON_SEGMENT,
                       c->source == SOURCE_BYTES ? "byte"
                       : c->source == SOURCE_PDF ? "page"
                                                 : "element",
                       c->too_long_at);
    usize n = c->text.n;
    char *text = c->out_of_memory ? NULL : buf_take(&c->text), *name = mem_strdup(c->encoding);
    if (!text || !name) {
        mem_free(text);
        mem_free(name);
        return err_new(ERR_NOMEM, "out of memory after %zu bytes of text", n);
    }
    mem_free(out->text), out->text = text;
    mem_free(out->encoding), out->encoding = name;
    mem_free(out->anchors), out->anchors = c->anchors;
    out->text_len = n;
    out->n_chars = c->n_chars;
    out->n_anchors = c->n_anchors;
    out->source = c->source;
    c->anchors = NULL;
    c->n_anchors = c->cap_anchors = 0;
    return OK;
}

err load_canonical(str bytes, loaded *out)
{
    decoded d;
    canon *c = NULL;
    err bad;
    TRY(load_decode_text(bytes, &d));
    TRY_TO(end, canon_new(&c, SOURCE_BYTES, d.encoding));
    str s = buf_view(&d.utf8);
    buf_reserve(&c->text, s.n);
    u32 from = d.mark;
    for (usize at = 0; at < s.n;) {
        u32 code_point = utf8_next(s, &at), to = from + load_width(d.encoding, code_point);
        canon_byte(c, code_point, from, to);
        from = to;
    }
    TRY_TO(end, canon_end(c, out));
    if ((u64)c->n_controls * 20 > (u64)c->n_chars + c->n_controls + 40) /* a few in a short text are an accident */
        bad = err_new(ERR_FORMAT, "not a text: %u of %u characters are controls, the first (0x%02x) at byte %u", c->n_controls,
                      c->n_chars + c->n_controls, c->control, c->control_at);
end:
    canon_free(c);
    buf_free(&d.utf8);
    return bad;
}

/* ---- lines and blocks ---------------------------------------------------------------------------------------------------- */
bool line_next(line_reader *r, text_line *out)
{
    if (r->at >= r->rest.n) return false;
    const char *p = r->rest.p + r->at, *end = memchr(p, '\n', r->rest.n - r->at);
    usize n = end ? (usize)(end - p) : r->rest.n - r->at;
    u32 chars = 0;
    for (usize i = 0; i < n; i++) chars += ((u8)p[i] & 0xC0) != 0x80;
    *out = (text_line){{p, n}, r->at, r->start, r->start + chars};
    r->at += n + 1;
    r->start += chars + 1;
    return true;
}

bool line_blank(str s)
{
    for (usize at = 0; at < s.n;) {
        u32 c = utf8_next(s, &at);
        if (c != ' ' && c != '\t' && !text_is_space(c)) return false;
    }
    return true;
}

void blocks_add(block_list *l, u32 start, u32 end, int kind, int level)
{
    if (start >= end) return;
    if (!VEC_PUSH(l->item, l->n, l->cap, ((block){start, end, (u8)kind, (u8)level}))) l->bad = true;
}

err blocks_end(block_list *l, loaded *out)
{
    if (l->bad) {
        blocks_free(l);
        return err_new(ERR_NOMEM, "out of memory for the blocks of a document");
    }
    mem_free(out->blocks);
    out->blocks = l->item;
    out->n_blocks = l->n;
    *l = (block_list){0};
    return OK;
}

void blocks_free(block_list *l)
{
    mem_free(l->item);
    *l = (block_list){0};
}

/* ASCII white space at either end; these are as many characters as bytes */
static usize blanks_before(str s)
{
    usize n = 0;
    while (n < s.n && (s.p[n] == ' ' || s.p[n] == '\t')) n++;
    return n;
}

static usize blanks_after(str s)
{
    usize n = 0;
    while (n < s.n && (s.p[s.n - 1 - n] == ' ' || s.p[s.n - 1 - n] == '\t')) n++;
    return n;
}

err load_paragraphs(loaded *out)
{
    line_reader r = {{out->text, out->text_len}, 0, 0};
    block_list l = {0};
    u32 start = 0, end = 0;
    bool open = false;
    for (text_line x; line_next(&r, &x);) {
        if (line_blank(x.text)) {
            if (open) blocks_add(&l, start, end, BLOCK_TEXT, 0);
            open = false;
            continue;
        }
        if (!open) start = x.start + (u32)blanks_before(x.text);
        end = x.end - (u32)blanks_after(x.text);
        open = true;
    }
    if (open) blocks_add(&l, start, end, BLOCK_TEXT, 0);
    return blocks_end(&l, out);
}

err load_label(str s, usize max_chars, char **label)
{
    buf clean = {0}, out = {0};
    bool space = false;
    usize n = 0;
    *label = NULL;
    for (usize at = 0; at < s.n && n < max_chars;) {
        u32 c = utf8_next(s, &at);
        if (is_control(c) || text_is_space(c)) {
            space = clean.n > 0;
            continue;
        }
        if (space) buf_byte(&clean, ' ');
        space = false;
        buf_utf8(&clean, c);
        n++;
    }
    err bad = buf_error(&clean);
    if (!bad.code && clean.n) {
        bad = text_nfc(&out, buf_view(&clean));
        if (!bad.code && !(*label = buf_take(&out))) bad = err_new(ERR_NOMEM, "no memory for a title");
    }
    buf_free(&clean);
    buf_free(&out);
    return bad;
}
