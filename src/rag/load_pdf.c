/* rag/load_pdf.c - PDF: the words of its text layer, with page and box each.
 *
 * `pdftotext -bbox-layout` (poppler) reads the file: a program of its own, because its licence does not let it be linked and
 * because a PDF reader should be held at arm's length; it gets no network, bounded memory and time. What it prints is parsed
 * here strictly and in a confined child, since its words are the document's. The text is made from the words alone: a space
 * between words, a line for a line, an empty line between blocks, a tab between the cells of a row, in the order of
 * load_pdf_layout.c. A word that a hyphen at a line's end divides is put together, because nobody searches for its halves; words of
 * right-to-left scripts, which come as they stand on the page, are turned round, and so are lines of them.
 * Not here: OCR. A file without a text layer is refused with what it has instead. */
#include "rag/load_pdf.h"
#include "text/text.h"
#include <math.h>

enum { RUN_SECONDS = 300, PARSE_SECONDS = 120, LABEL_MAX = 300 };
static const usize RUN_MEMORY = (usize)4 << 30, RUN_OUTPUT = (usize)1 << 30, PARSE_MEMORY = (usize)4 << 30;

/* ---- its XHTML ----------------------------------------------------------------------------------------------------------------
 */
typedef struct {
    str s;
    usize at;
    canon *c;
    block_list blocks;
    u32 n_pages;
    bool any;  /* a word so far */
    bool open; /* a block with words in it */
    bool owed; /* the line end that a divided word has taken the place of */
    u32 start;
    int kind;
    buf text;  /* of the page's words */
    pdf_word *word;
    usize *from; /* [n] bytes of text where a word begins; it ends where the next one does */
    usize n, cap, cap_from;
    u32 line, block;
    pdf_step *step;
    usize cap_step;
    u32 *turn; /* scratch */
    usize cap_turn;
} reader;

static err wrong(const reader *r, const char *expected)
{
    usize line = 1;
    for (usize i = 0; i < r->at; i++) line += r->s.p[i] == '\n';
    usize n = r->s.n - r->at < 40 ? r->s.n - r->at : 40;
    n = utf8_complete((str){r->s.p + r->at, n});
    return err_new(ERR_FORMAT, "pdftotext's output, line %zu: %s expected, found \"%.*s\"", line, expected, (int)n,
                   r->s.p + r->at);
}

static void spaces(reader *r)
{
    while (r->at < r->s.n && (r->s.p[r->at] == ' ' || (r->s.p[r->at] >= '\t' && r->s.p[r->at] <= '\r'))) r->at++;
}

static bool accept(reader *r, const char *token)
{
    usize n = strlen(token);
    if (r->s.n - r->at < n || memcmp(r->s.p + r->at, token, n)) return false;
    r->at += n;
    return true;
}

static bool accept_tag(reader *r, const char *token)
{
    spaces(r);
    return accept(r, token);
}

/* ` name="number"`; "nan" and "inf" of damaged pages count as 0 */
static err number(reader *r, const char *name, float *out)
{
    double v;
    *out = 0;
    if (!accept(r, name)) return wrong(r, name);
    const char *from = r->s.p + r->at, *end = memchr(from, '"', r->s.n - r->at);
    usize n = end ? (usize)(end - from) : 0;
    if (!n || n > 400) return wrong(r, "a number");
    str t = {from, n};
    if (str_f64(t, &v)) {
        *out = (float)v;
        if (!isfinite(*out)) *out = 0;
    } else if (!str_eq(t, S("nan")) && !str_eq(t, S("-nan")) && !str_eq(t, S("inf")) && !str_eq(t, S("-inf")))
        return wrong(r, "a number");
    r->at += n + 1;
    return OK;
}

static err box(reader *r, float b[4])
{
    TRY(number(r, " xMin=\"", &b[0]));
    TRY(number(r, " yMin=\"", &b[1]));
    TRY(number(r, " xMax=\"", &b[2]));
    TRY(number(r, " yMax=\"", &b[3]));
    return accept(r, ">") ? OK : wrong(r, "'>'");
}

/* One character of text, five entities included; false at '<' or the end. */
static bool text_char(reader *r, u32 *c)
{
    static const struct {
        const char *name;
        u32 c;
    } entities[] = {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}, {"&#39;", '\''}};
    if (r->at >= r->s.n || r->s.p[r->at] == '<') return false;
    if (r->s.p[r->at] == '&')
        for (usize i = 0; i < COUNT_OF(entities); i++)
            if (accept(r, entities[i].name)) {
                *c = entities[i].c;
                return true;
            }
    *c = utf8_next(r->s, &r->at);
    return true;
}

static bool is_rtl(u32 c)
{
    return (c >= 0x590 && c < 0x900) || (c >= 0xFB1D && c < 0xFE00) || (c >= 0xFE70 && c < 0xFF00);
}
/* what keeps its direction inside of them */
static bool is_ltr(u32 c) { return text_is_digit(c) || (text_is_letter(c) && !is_rtl(c)); }

static void reverse(u32 *c, usize n)
{
    for (usize i = 0; i < n / 2; i++) {
        u32 was = c[i];
        c[i] = c[n - 1 - i];
        c[n - 1 - i] = was;
    }
}

/* From how it stands on the page to how it is read: the whole backwards, numbers and foreign words in it as they were. */
static err turn_word(reader *r, usize from)
{
    usize n = 0, rtl = 0;
    str s = {r->text.p + from, r->text.n - from};
    for (usize at = 0; at < s.n;) {
        u32 c = utf8_next(s, &at);
        if (!VEC_PUSH(r->turn, n, r->cap_turn, c)) return err_new(ERR_NOMEM, "no memory for a page's words");
        rtl += is_rtl(c);
    }
    if (!rtl) return OK;
    reverse(r->turn, n);
    for (usize i = 0, k; i < n; i = k + 1) {
        for (k = i; k < n && is_ltr(r->turn[k]);) k++;
        if (k > i) reverse(r->turn + i, k - i);
    }
    r->text.n = from;
    for (usize i = 0; i < n; i++) buf_utf8(&r->text, r->turn[i]);
    return buf_error(&r->text);
}

/* A word's letters; white space inside of it (there is, as U+00A0) is one space, controls are dropped, a word of nothing else is
 * none. */
static err word(reader *r)
{
    pdf_word w = {.line = r->line, .block = r->block};
    usize from = r->text.n;
    u32 c;
    bool space = false;
    TRY(box(r, w.box));
    while (text_char(r, &c)) {
        bool begun = r->text.n > from;
        space = space || (begun && (c == ' ' || c == 0xA0));
        if (c <= 0x20 || (c >= 0x7F && c <= 0xA0)) continue;
        if (space) buf_byte(&r->text, ' ');
        space = false;
        buf_utf8(&r->text, c);
    }
    if (!accept(r, "</word>")) return wrong(r, "</word>");
    TRY(buf_error(&r->text));
    if (r->text.n == from) return OK;
    TRY(turn_word(r, from));
    usize n = r->n;
    if (!VEC_PUSH(r->from, n, r->cap_from, from) || !VEC_PUSH(r->word, r->n, r->cap, w))
        return err_new(ERR_NOMEM, "no memory for a page's words");
    return OK;
}

static err block_of_words(reader *r)
{
    float b[4];
    TRY(box(r, b));
    r->block++;
    while (accept_tag(r, "<line")) {
        TRY(box(r, b));
        r->line++;
        while (accept_tag(r, "<word")) TRY(word(r));
        if (!accept_tag(r, "</line>")) return wrong(r, "<word> or </line>");
    }
    return accept_tag(r, "</block>") ? OK : wrong(r, "<line> or </block>");
}

/* ---- a page's words to text --------------------------------------------------------------------------------------------------
 */
static str word_text(const reader *r, u32 i)
{
    usize to = i + 1 < r->n ? r->from[i + 1] : r->text.n;
    return (str){r->text.p + r->from[i], to - r->from[i]};
}

static u32 last_char(str s, usize skip) /* the last but `skip` ASCII characters; 0: none */
{
    if (s.n <= skip) return 0;
    usize at = s.n - skip - 1;
    while (at && ((u8)s.p[at] & 0xC0) == 0x80) at--;
    return utf8_next(s, &at);
}

/* Word a ends its line with a hyphen that divides it: small letters before and after. *keep: another hyphen in it says that this
 * one is its own. */
static bool is_divided(str a, str b, bool *keep)
{
    usize at = 0;
    if (a.n < 3 || a.p[a.n - 1] != '-' || !b.n) return false;
    u32 before = last_char(a, 1), after = utf8_next(b, &at);
    bool small = (before >= 'a' && before <= 'z') || (before >= 0xDF && before < 0x250 && text_is_letter(before));
    bool goes_on = (after >= 'a' && after <= 'z') || (after >= 0xDF && after < 0x250 && text_is_letter(after));
    *keep = memchr(a.p, '-', a.n - 1) || memchr(b.p, '-', b.n);
    return small && goes_on;
}

static void close_block(reader *r)
{
    if (r->open) blocks_add(&r->blocks, r->start, canon_here(r->c), r->kind, 0);
    r->open = false;
}

static void put_word(reader *r, const pdf_step *was, const pdf_step *s, const pdf_step *next)
{
    str t = word_text(r, s->word);
    bool keep = false, joined = was && s->before == PDF_LINE && s->kind == BLOCK_TEXT && is_divided(word_text(r, was->word), t, &keep);
    bool divided = next && next->before == PDF_LINE && s->kind == BLOCK_TEXT && is_divided(t, word_text(r, next->word), &keep);
    if (divided && !keep) t.n--;
    if (s->before == PDF_BLOCK) {
        close_block(r);
        for (int i = 0; r->any && i < 2; i++) canon_gap(r->c, '\n');
        r->start = canon_here(r->c);
        r->kind = s->kind;
        r->open = r->any = true;
    } else if (!joined)
        canon_gap(r->c, s->before == PDF_LINE || r->owed ? '\n' : s->before == PDF_CELL ? '\t' : ' ');
    r->owed = joined;
    canon_tag(r->c, r->n_pages, 0, r->word[s->word].box);
    for (usize at = 0; at < t.n;) canon_put(r->c, utf8_next(t, &at));
}

/* Lines that are mostly of a right-to-left script: their words in the order of reading. */
static void turn_lines(reader *r, pdf_step *s, usize n)
{
    for (usize from = 0, to; from < n; from = to) {
        usize rtl = 0;
        for (to = from; to < n && (to == from || s[to].before <= PDF_CELL); to++) {
            str t = word_text(r, s[to].word);
            usize at = 0;
            rtl += is_rtl(utf8_next(t, &at)) || is_rtl(last_char(t, 0));
        }
        if (rtl * 2 <= to - from) continue;
        for (usize i = from, k = to - 1; i < k; i++, k--) {
            u32 w = s[i].word;
            s[i].word = s[k].word;
            s[k].word = w;
        }
    }
}

static err put_page(reader *r, float width)
{
    if (!vec_grow((void **)&r->step, &r->cap_step, r->n + 1, sizeof *r->step)) return err_new(ERR_NOMEM, "no memory for a page");
    TRY(pdf_layout(r->word, r->n, width, r->step));
    turn_lines(r, r->step, r->n);
    for (usize i = 0; i < r->n; i++)
        put_word(r, i ? &r->step[i - 1] : NULL, &r->step[i], i + 1 < r->n ? &r->step[i + 1] : NULL);
    close_block(r);
    return OK;
}

static err one_page(reader *r)
{
    float width, height;
    r->n_pages++;
    r->n = r->line = r->block = 0;
    buf_reset(&r->text);
    TRY(number(r, " width=\"", &width));
    TRY(number(r, " height=\"", &height));
    if (!accept(r, ">")) return wrong(r, "'>'");
    while (accept_tag(r, "<flow>")) {
        while (accept_tag(r, "<block")) TRY(block_of_words(r));
        if (!accept_tag(r, "</flow>")) return wrong(r, "<block> or </flow>");
    }
    if (!accept_tag(r, "</page>")) return wrong(r, "<flow> or </page>");
    return put_page(r, width);
}

/* The head, up to <doc>: a title that the document may have filled with anything, so nothing else is looked at. */
static err head(reader *r, char **title)
{
    i64 open = str_find(r->s, S("<title>"), 0), doc = str_find(r->s, S("<doc>"), 0);
    if (doc < 0) return wrong(r, "<doc>");
    if (open >= 0 && open < doc) {
        buf t = {0};
        u32 c;
        r->at = (usize)open + 7;
        while (t.n < 4096 && text_char(r, &c)) buf_utf8(&t, c);
        err bad = buf_error(&t);
        if (!bad.code) bad = load_label(buf_view(&t), LABEL_MAX, title);
        buf_free(&t);
        TRY(bad);
    }
    r->at = (usize)doc + 5;
    return OK;
}

err load_pdf_parse(str xhtml, loaded *out)
{
    reader r = {.s = xhtml};
    err bad = canon_new(&r.c, SOURCE_PDF, "utf-8");
    if (!bad.code) bad = head(&r, &out->title);
    while (!bad.code && accept_tag(&r, "<page")) bad = one_page(&r);
    if (!bad.code && !accept_tag(&r, "</doc>")) bad = wrong(&r, "<page> or </doc>");
    if (!bad.code && (!accept_tag(&r, "</body>") || !accept_tag(&r, "</html>"))) bad = wrong(&r, "</body></html>");
    out->n_pages = r.n_pages;
    if (!bad.code) bad = canon_end(r.c, out);
    if (!bad.code) bad = blocks_end(&r.blocks, out);
    blocks_free(&r.blocks);
    canon_free(r.c);
    buf_free(&r.text);
    mem_free(r.word);
    mem_free(r.from);
    mem_free(r.step);
    mem_free(r.turn);
    return bad;
}

/* ---- pdftotext
 * ------------------------------------------------------------------------------------------------------------------ */
static err run(const char *const *argv, str pdf, buf *out, buf *errors, int *status)
{
    proc_spec p = {.argv = argv,
                   .input = pdf,
                   .seconds = RUN_SECONDS,
                   .max_output = RUN_OUTPUT,
                   .max_memory = RUN_MEMORY,
                   .no_network = true};
    return proc_run(&p, out, errors, status);
}

/* The last line of what the program complained about; before it, which it says itself, what follows from it. */
static str last_line(const buf *errors)
{
    str s = str_trim(buf_view(errors));
    const char *nl = s.n ? memrchr(s.p, '\n', s.n) : NULL;
    if (nl) s = (str){nl + 1, s.n - (usize)(nl + 1 - s.p)};
    if (s.n > 200) s.n = utf8_complete((str){s.p, 200});
    return s;
}

static err why_not(const buf *errors, int status)
{
    str e = buf_view(errors), last = last_line(errors);
    if (str_find(e, S("Incorrect password"), 0) >= 0) return err_new(ERR_FORMAT, "encrypted: it opens with a password only");
    if (str_find(e, S("Unsupported version/revision"), 0) >= 0 || str_find(e, S("security handler"), 0) >= 0)
        return err_new(ERR_UNSUPPORTED, "encrypted in a way that pdftotext does not know: %.*s", (int)last.n, last.p);
    if (status == 3) return err_new(ERR_FORMAT, "its permissions do not allow text to be taken out");
    if (status > 128) return err_new(ERR_FORMAT, "damaged: pdftotext stopped with signal %d", status - 128);
    return err_new(ERR_FORMAT, "damaged: %.*s (pdftotext ended with %d)", (int)last.n, last.p, status);
}

/* How many pictures the file shows, by `pdfimages -list`: two lines of heading, then one for each. -1: it cannot tell. */
static i64 count_pictures(str pdf)
{
    static const char *const argv[] = {"pdfimages", "-list", "-", NULL};
    buf list = {0}, errors = {0};
    int status;
    i64 n = -2;
    err bad = run(argv, pdf, &list, &errors, &status);
    if (bad.code || status)
        n = -1;
    else
        for (usize i = 0; i < list.n; i++) n += list.p[i] == '\n';
    buf_free(&list);
    buf_free(&errors);
    return n < 0 ? -1 : n;
}

static err no_words(u32 n_pages, str pdf)
{
    if (!n_pages) return err_new(ERR_FORMAT, "damaged: it has no page that can be read");
    i64 n = count_pictures(pdf);
    const char *pages = n_pages == 1 ? "page" : "pages";
    if (n > 0)
        return err_new(ERR_FORMAT, "no text layer: %u %s only images", n_pages, n_pages == 1 ? "page holds" : "pages hold");
    if (n == 0)
        return err_new(ERR_FORMAT, "no text layer: %u %s without text or images (empty, or letters drawn as lines)", n_pages,
                       pages);
    return err_new(ERR_FORMAT, "no text layer in %u %s", n_pages, pages);
}

static err parse_confined(void *ctx, buf *out)
{
    loaded doc = {0};
    err bad = load_pdf_parse(buf_view(ctx), &doc);
    if (!bad.code) bad = loaded_write(&doc, out);
    loaded_free(&doc);
    return bad;
}

err load_pdf(const load_input *in)
{
    static const char *const argv[] = {"pdftotext", "-bbox-layout", "-enc", "UTF-8", "-", "-", NULL};
    buf xhtml = {0}, errors = {0}, answer = {0};
    int status = 0;
    if (!in->bytes.n) return err_new(ERR_FORMAT, "the file is empty");
    err bad = run(argv, in->bytes, &xhtml, &errors, &status);
    if (!bad.code && status) bad = why_not(&errors, status);
    if (!bad.code) bad = proc_confine(parse_confined, &xhtml, PARSE_SECONDS, PARSE_MEMORY, &answer);
    if (!bad.code) bad = loaded_read(buf_view(&answer), in->out);
    if (!bad.code && !in->out->n_anchors) bad = no_words(in->out->n_pages, in->bytes);
    buf_free(&xhtml);
    buf_free(&errors);
    buf_free(&answer);
    return bad;
}
