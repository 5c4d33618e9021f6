/* rag/load.c - the door of LOAD: which format a file is, running its loader, checking what came out, finding places.
 *
 * The format table is the only list of formats: a new one is a file and a row. Content decides before the name, because names
 * lie; for text formats without a signature (Markdown, CSV, JSONL) the name is all there is. Formats that are known but not
 * read are rows too, so that the message can name them. */
#include "rag/load_canon.h"
#include "text/text.h"
#include <ctype.h>
#include <math.h>

enum { FILE_LIMIT = 1 << 30 /* offsets are 32 bits, and characters may take four bytes */ };

void loaded_free(loaded *d)
{
    if (!d) return;
    mem_free(d->text);
    mem_free(d->title);
    mem_free(d->blocks);
    mem_free(d->anchors);
    mem_free(d->id);
    mem_free(d->meta);
    mem_free(d->encoding);
    *d = (loaded){0};
}

/* ---- formats -------------------------------------------------------------------------------------------------------------- */
static bool begins(str s, const char *head) { return str_starts(s, str_of(head)); }

static bool begins_word(str s, const char *word)
{
    usize n = strlen(word);
    return s.n > n && !strncasecmp(s.p, word, n) && (isspace((u8)s.p[n]) || s.p[n] == '>');
}

static bool is_pdf(str s)
{
    str head = {s.p, s.n < 1024 ? s.n : 1024};
    i64 at = str_find(head, S("%PDF-"), 0);
    if (at < 0) return false;
    for (i64 i = 0; i < at; i++)
        if (!isspace((u8)s.p[i]) && (u8)s.p[i] < 0x80) return false; /* text about PDF files */
    return true;
}

/* A document type, or <html>, <head> or <body> after comments and an XML declaration. Other tags may begin a Markdown file. */
static bool is_html(str s)
{
    if (begins(s, "\xEF\xBB\xBF")) s.p += 3, s.n -= 3;
    for (;;) {
        while (s.n && isspace((u8)s.p[0])) s.p++, s.n--;
        bool comment = begins(s, "<!--"), declaration = begins(s, "<?xml");
        if (!comment && !declaration) break;
        i64 end = str_find(s, comment ? S("-->") : S("?>"), 0);
        if (end < 0) return false;
        s.p += end + 2, s.n -= (usize)end + 2;
        if (comment) s.p++, s.n--;
    }
    if (s.n >= 14 && !strncasecmp(s.p, "<!doctype", 9)) {
        str rest = str_trim((str){s.p + 9, s.n - 9});
        return rest.n >= 4 && !strncasecmp(rest.p, "html", 4);
    }
    return begins_word(s, "<html") || begins_word(s, "<head") || begins_word(s, "<body");
}

static bool is_zip(str s) { return begins(s, "PK\003\004") || begins(s, "PK\005\006"); }
static bool is_ole(str s) { return begins(s, "\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1"); }
static bool is_docx(str s) { return is_zip(s) && str_find(s, S("word/document"), 0) >= 0; } /* names are not packed */
static bool is_hwp3(str s) { return begins(s, "HWP Document File"); }
static bool is_rtf(str s) { return begins(s, "{\\rtf"); }
static bool is_picture(str s)
{
    return begins(s, "\x89PNG\r\n") || begins(s, "\xFF\xD8\xFF") || begins(s, "GIF8") || str_starts(s, S("II*\0")) ||
           str_starts(s, S("MM\0*")) || (s.n > 12 && begins(s, "RIFF") && !memcmp(s.p + 8, "WEBP", 4));
}
static bool is_packed(str s)
{
    return begins(s, "\x1F\x8B") || begins(s, "\x28\xB5\x2F\xFD") || begins(s, "BZh") ||
           begins(s, "\xFD"
                     "7zXZ") ||
           begins(s, "7z\xBC\xAF");
}
static bool is_program(str s)
{
    return begins(s, "\x7F"
                     "ELF") ||
           begins(s, "SQLite format 3");
}

static const struct format {
    const char *name;
    bool (*is)(str);     /* NULL: by name only */
    const char *endings; /* lower case, each with spaces around */
    err (*load)(const load_input *);
    err (*load_many)(const char *, str, err (*)(void *, loaded *), void *); /* formats with several documents in a file */
} formats[] = {
    /* the first row that fits; both functions NULL: not supported */
    {"pdf", is_pdf, " pdf ", load_pdf, NULL},
    {"html", is_html, " html htm xhtml ", load_html, NULL},
    {"docx", is_docx, " docx docm dotx ", load_docx, NULL},
    {"Excel, PowerPoint, HWPX, OpenDocument, EPUB or another ZIP container", is_zip,
     " xlsx pptx hwpx odt ods odp epub zip ", NULL, NULL},
    {"HWP 5, DOC, XLS, PPT or MSG (an OLE container)", is_ole, " hwp doc xls ppt msg ", NULL, NULL},
    {"HWP 3", is_hwp3, " ", NULL, NULL},
    {"RTF", is_rtf, " rtf ", NULL, NULL},
    {"a picture", is_picture, " png jpg jpeg gif tif tiff webp bmp ", NULL, NULL},
    {"a compressed archive", is_packed, " gz bz2 xz zst 7z tar ", NULL, NULL},
    {"a program or database", is_program, " exe dll sqlite ", NULL, NULL},
    {"markdown", NULL, " md markdown mdown mkd mdx rmd qmd ", load_markdown, NULL},
    {"csv", NULL, " csv tsv ", load_csv, NULL},
    {"jsonl", NULL, " jsonl ndjson ", NULL, load_jsonl},
    {"text", NULL, " txt ", load_text, NULL},
};

static const struct format *format_of(const char *name, str bytes)
{
    char ending[16] = " ";
    const char *slash = strrchr(name, '/'), *dot = strrchr(slash ? slash : name, '.');
    usize n = dot ? strlen(dot + 1) : 0;
    if (n && n < sizeof ending - 2) {
        for (usize i = 0; i < n; i++) ending[1 + i] = (char)tolower((u8)dot[1 + i]);
        ending[1 + n] = ' ';
        ending[2 + n] = 0;
    }
    bool word = strstr(" docx docm dotx ", ending) && n; /* damaged or encrypted ones look like other containers */
    for (usize i = 0; i < COUNT_OF(formats); i++)
        if (formats[i].is && formats[i].is(bytes) && !(word && (formats[i].is == is_zip || formats[i].is == is_ole))) return &formats[i];
    for (usize i = 0; i < COUNT_OF(formats) && n; i++)
        if (strstr(formats[i].endings, ending)) return &formats[i];
    return &formats[COUNT_OF(formats) - 1];
}

err load_bytes(const char *name, const void *bytes, usize n, err (*each)(void *ctx, loaded *), void *ctx)
{
    if (!name) name = "";
    if (n > FILE_LIMIT) return err_new(ERR_FORMAT, "%s: %zu bytes; at most %d are read from one file", name, n, FILE_LIMIT);
    str s = {n ? bytes : "", n};
    const struct format *f = format_of(name, s);
    if (f->load_many) return f->load_many(name, s, each, ctx);
    if (!f->load) return err_new(ERR_UNSUPPORTED, "%s: the format is not read: %s", name, f->name);
    loaded *d = mem_zero(sizeof *d);
    if (!d) return err_new(ERR_NOMEM, "%s: no memory", name);
    load_input in = {name, s, d};
    err bad = f->load(&in);
    if (!bad.code) bad = load_check(d);
    if (bad.code) {
        loaded_free(d);
        mem_free(d);
        return err_at(bad, "%s", name);
    }
    loaded mine = *d;
    mem_free(d);
    return each(ctx, &mine);
}

/* ---- promises ------------------------------------------------------------------------------------------------------------- */
/* The text alone: valid, '\n' and '\t' the only controls, lengths right. */
static err check_text(const loaded *d)
{
    if (!d->text || !d->encoding) return err_new(ERR_BUG, "document without text or encoding");
    str s = {d->text, d->text_len};
    if (s.p[s.n]) return err_new(ERR_BUG, "text does not end in NUL");
    u32 n = 0;
    for (usize at = 0; at < s.n; n++) {
        usize was = at;
        u32 c = utf8_next(s, &at);
        if ((c == 0xFFFD && at - was == 1) || (c < 0x20 && c != '\t' && c != '\n') || (c >= 0x7F && c < 0xA0))
            return err_new(ERR_BUG, "byte %zu of the canonical text is malformed or a control (0x%02x)", was, (u8)s.p[was]);
    }
    if (n != d->n_chars) return err_new(ERR_BUG, "canonical text of %u characters claims %u", n, d->n_chars);
    return OK;
}

/* Blocks in order, and nothing but white space outside of them: one walk over the text. */
static err check_blocks(const loaded *d)
{
    u32 end = 0;
    for (usize i = 0; i < d->n_blocks; i++) {
        const block *b = &d->blocks[i];
        if (b->start < end || b->start >= b->end || b->end > d->n_chars || b->kind > BLOCK_ROW || b->level > 6)
            return err_new(ERR_BUG, "block %zu [%u,%u) kind %u level %u after %u of %u", i, b->start, b->end, b->kind, b->level,
                           end, d->n_chars);
        end = b->end;
    }
    str s = {d->text, d->text_len};
    u32 n = 0;
    usize next = 0;
    for (usize at = 0; at < s.n; n++) {
        while (next < d->n_blocks && n >= d->blocks[next].end) next++;
        usize was = at;
        u32 c = utf8_next(s, &at);
        bool inside = next < d->n_blocks && n >= d->blocks[next].start;
        if (!inside && c != ' ' && c != '\t' && c != '\n' && !text_is_space(c))
            return err_new(ERR_BUG, "character %u (U+%04X, byte %zu) is in no block", n, c, was);
    }
    return OK;
}

static err check_anchors(const loaded *d)
{
    const anchor *was = NULL;
    if (d->source > SOURCE_ELEMENT) return err_new(ERR_BUG, "source kind %u", d->source);
    for (usize i = 0; i < d->n_anchors; i++) {
        const anchor *a = &d->anchors[i];
        bool good = a->start < a->end && a->end <= d->n_chars && (!was || a->start >= was->end);
        if (d->source == SOURCE_BYTES) good = good && a->a < a->b && (!was || a->a >= was->b);
        if (d->source == SOURCE_ELEMENT) good = good && a->a >= 1;
        if (d->source == SOURCE_PDF) {
            good = good && a->a >= 1 && a->a <= d->n_pages && (!was || a->a >= was->a);
            for (int k = 0; k < 4; k++) good = good && isfinite(a->box[k]);
        }
        if (!good)
            return err_new(ERR_BUG, "anchor %zu [%u,%u) to %u,%u after [%u,%u) to %u,%u", i, a->start, a->end, a->a, a->b,
                           was ? was->start : 0, was ? was->end : 0, was ? was->a : 0, was ? was->b : 0);
        was = a;
    }
    return OK;
}

err load_check(const loaded *d)
{
    TRY(check_text(d));
    TRY(check_blocks(d));
    return check_anchors(d);
}

/* ---- across the fence ------------------------------------------------------------------------------------------------------ */
/* Both ends are this program, so plain structs in host order do; the far end may have been taken over by a document, so
 * nothing read is believed before load_check. */
typedef struct {
    u64 text, title, encoding, n_blocks, n_anchors; /* title: bytes + 1, 0 for none */
    u32 n_chars, n_pages, source, magic;
} fence_head;
enum { FENCE_MAGIC = 0x6C6F6164 };

err loaded_write(const loaded *d, buf *out)
{
    fence_head h = {d->text_len,         d->title ? strlen(d->title) + 1 : 0,
                    strlen(d->encoding), d->n_blocks,
                    d->n_anchors,        d->n_chars,
                    d->n_pages,          d->source,
                    FENCE_MAGIC};
    buf_put(out, &h, sizeof h);
    buf_put(out, d->text, d->text_len);
    if (d->title) buf_put(out, d->title, h.title - 1);
    buf_put(out, d->encoding, h.encoding);
    buf_put(out, d->blocks, d->n_blocks * sizeof *d->blocks);
    buf_put(out, d->anchors, d->n_anchors * sizeof *d->anchors);
    return buf_error(out);
}

/* n bytes from the front of s into new memory with a NUL behind */
static void *take_bytes(str *s, u64 n, bool *short_, bool *no_memory)
{
    if (n > s->n) {
        *short_ = true;
        return NULL;
    }
    char *p = mem_alloc((usize)n + 1);
    if (!p) {
        *no_memory = true;
        return NULL;
    }
    memcpy(p, s->p, (usize)n);
    p[n] = 0;
    s->p += n, s->n -= (usize)n;
    return p;
}

err loaded_read(str s, loaded *d)
{
    fence_head h;
    bool cut = s.n < sizeof h, none = false;
    *d = (loaded){0};
    if (!cut) {
        memcpy(&h, s.p, sizeof h);
        s.p += sizeof h, s.n -= sizeof h;
        cut = h.magic != FENCE_MAGIC || h.n_blocks > s.n || h.n_anchors > s.n;
    }
    if (!cut) {
        d->text = take_bytes(&s, h.text, &cut, &none);
        if (h.title && !cut) d->title = take_bytes(&s, h.title - 1, &cut, &none);
        if (!cut) d->encoding = take_bytes(&s, h.encoding, &cut, &none);
        if (!cut) d->blocks = take_bytes(&s, h.n_blocks * sizeof *d->blocks, &cut, &none);
        if (!cut) d->anchors = take_bytes(&s, h.n_anchors * sizeof *d->anchors, &cut, &none);
        d->text_len = h.text, d->n_blocks = h.n_blocks, d->n_anchors = h.n_anchors;
        d->n_chars = h.n_chars, d->n_pages = h.n_pages, d->source = h.source;
    }
    err bad = none ? err_new(ERR_NOMEM, "no memory for a document of %zu bytes", s.n) : OK;
    if (!bad.code && (cut || s.n)) bad = err_new(ERR_FORMAT, "parser gave back a damaged document");
    if (!bad.code) {
        bad = load_check(d);
        if (!bad.code && d->title && !utf8_valid(str_of(d->title))) bad = err_new(ERR_BUG, "title is not UTF-8");
        if (bad.code) bad = err_at((err){ERR_FORMAT, bad.what}, "parser gave back a damaged document");
    }
    if (bad.code) loaded_free(d);
    return bad;
}

/* ---- places -----------------------------------------------------------------------------------------------------------------
 */
/* The first anchor that ends after `at`; n_anchors when there is none. */
static usize anchor_after(const loaded *d, u32 at)
{
    usize lo = 0, hi = d->n_anchors;
    while (lo < hi) {
        usize mid = lo + (hi - lo) / 2;
        if (d->anchors[mid].end > at)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

/* Original offset of the border before character `at`; `end`: of the border behind the character before it. The two differ
 * where characters were dropped, and inside of a run that maps only as a whole. */
static u64 byte_at(const loaded *d, u32 at, bool end)
{
    if (!d->n_anchors) return 0;
    usize i = end && at ? anchor_after(d, at - 1) : anchor_after(d, at);
    if (i == d->n_anchors) return d->anchors[i - 1].b;
    const anchor *a = &d->anchors[i];
    if (at <= a->start) return a->a;
    if (at >= a->end) return a->b;
    if (a->box[0] != 0) return end ? a->b : a->a;
    str s = {d->text, d->text_len};
    usize from = utf8_offset(s, a->start);
    u64 bytes = a->a;
    for (u32 n = a->start; n < at; n++) bytes += load_width(d->encoding, utf8_next(s, &from));
    return bytes;
}

static u32 line_of(const loaded *d, u32 at)
{
    usize n = utf8_offset((str){d->text, d->text_len}, at);
    u32 line = 1;
    for (const char *p = d->text, *end = d->text + n; (p = memchr(p, '\n', (usize)(end - p))); p++) line++;
    return line;
}

static void box_join(float box[4], const float with[4])
{
    if (with[0] < box[0]) box[0] = with[0];
    if (with[1] < box[1]) box[1] = with[1];
    if (with[2] > box[2]) box[2] = with[2];
    if (with[3] > box[3]) box[3] = with[3];
}

/* The second half of a divided word stands in the line of its first. */
static bool is_beside(const float box[4], const float of[4])
{
    float middle = (box[1] + box[3]) / 2;
    return middle >= of[1] && middle <= of[3];
}

/* One rectangle for each line of the text that [start,end) touches words of. */
static err place_rects(const loaded *d, u32 start, u32 end, place *out)
{
    usize i = anchor_after(d, start), cap = 0;
    str s = {d->text, d->text_len};
    if (i == d->n_anchors || d->anchors[i].start >= end) return OK;
    u32 n = d->anchors[i].start;
    usize at = utf8_offset(s, n);
    bool new_line = true;
    for (; i < d->n_anchors && d->anchors[i].start < end; i++) {
        const anchor *a = &d->anchors[i];
        for (; n < a->start; n++) new_line |= utf8_next(s, &at) == '\n';
        if (new_line || out->rects[out->n_rects - 1].page != a->a || !is_beside(a->box, out->rects[out->n_rects - 1].box)) {
            if (!vec_grow((void **)&out->rects, &cap, out->n_rects + 1, sizeof *out->rects))
                return err_new(ERR_NOMEM, "no memory for the rectangles of a place");
            out->rects[out->n_rects].page = a->a;
            memcpy(out->rects[out->n_rects++].box, a->box, sizeof a->box);
        } else
            box_join(out->rects[out->n_rects - 1].box, a->box);
        new_line = false;
    }
    return OK;
}

err load_place(const loaded *d, u32 start, u32 end, place *out)
{
    *out = (place){0};
    if (start > end || end > d->n_chars)
        return err_new(ERR_INPUT, "characters %u to %u asked for; the document has %u", start, end, d->n_chars);
    out->line = line_of(d, start);
    if (d->source == SOURCE_BYTES) {
        out->byte_start = byte_at(d, start, false);
        out->byte_end = start == end ? out->byte_start : byte_at(d, end, true);
        return OK;
    }
    usize i = anchor_after(d, start);
    if (i == d->n_anchors && i) i--; /* white space at the end belongs to what is before it */
    u32 first = d->n_anchors ? d->anchors[i].a : 0;
    if (d->source == SOURCE_ELEMENT) {
        out->element = first;
        return OK;
    }
    out->page = first;
    err bad = place_rects(d, start, end, out);
    if (bad.code) {
        mem_free(out->rects);
        *out = (place){0};
    }
    return bad;
}
