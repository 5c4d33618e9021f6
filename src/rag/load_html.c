/* rag/load_html.c - web pages: the text that a reader sees, in document order.
 *
 * libxml2 makes the tree (lenient, as browsers are), in a confined child, because a page is written by anybody. The tree is
 * walked without recursion: white space collapses, block elements break lines, a table gives one line for each row with tabs
 * between its cells, <pre> stays as it is. Scripts, styles, <nav> and what never shows are left out. A table with a table
 * inside, or a list with headings or tables inside, is layout and not data: its parts become blocks of their own.
 * Nothing is added that the page does not say (no bullets, no link targets), so every character but the separators has an
 * anchor. Not done: style sheets (hidden text is text), colspan, the text of pictures and forms. */
#include "rag/load_canon.h"
#include "text/text.h"
#include <libxml/HTMLparser.h>

enum { PAGE_LIMIT = 64 << 20, PAGE_SECONDS = 60, LABEL_MAX = 300 };
static const usize PAGE_MEMORY = (usize)2 << 30;

/* ---- elements ---------------------------------------------------------------------------------------------------------------
 */
enum {
    SKIP = 1,   /* with everything inside */
    BREAK = 2,  /* begins and ends a line */
    SPACED = 4, /* and has a blank line around */
    HEADING = 8,
    LIST = 16,
    TABLE = 32,
    ROW = 64,
    CELL = 128,
    PRE = 256,
    NEWLINE = 512, /* <br> */
    LAYOUT = 1024, /* a LIST or TABLE that is none; found, not named */
    OVER_TABLE = 2048,
    OVER_OTHER = 4096 /* has a table, or a heading or <pre>, inside */
};
static const struct {
    const char *names;
    int what;
} elements[] = {
    {" script style template nav svg math iframe object noscript select datalist textarea canvas audio video head title ", SKIP},
    {" div li dt dd caption thead tbody tfoot option label legend summary figcaption address center dir menu optgroup ", BREAK},
    {" p blockquote section article main aside header footer hr form fieldset figure details body hgroup ", BREAK | SPACED},
    {" h1 h2 h3 h4 h5 h6 ", BREAK | SPACED | HEADING},
    {" ul ol dl ", BREAK | SPACED | LIST},
    {" table ", BREAK | SPACED | TABLE},
    {" tr ", BREAK | ROW},
    {" td th ", CELL},
    {" pre listing xmp plaintext ", BREAK | SPACED | PRE},
    {" br ", NEWLINE},
};

static int what_is(const xmlNode *e)
{
    char name[16];
    usize n = strlen((const char *)e->name);
    if (n > sizeof name - 3) return 0;
    name[0] = name[1 + n] = ' ';
    for (usize i = 0; i < n; i++)
        name[1 + i] = e->name[i] >= 'A' && e->name[i] <= 'Z' ? (char)(e->name[i] | 32) : (char)e->name[i];
    name[2 + n] = 0;
    for (usize i = 0; i < COUNT_OF(elements); i++)
        if (strstr(elements[i].names, name)) return elements[i].what;
    return 0;
}

/* A node's _private holds what it is, so that names are looked up once. */
static int what_of(const xmlNode *e) { return (int)(intptr_t)e->_private; }
static void what_set(xmlNode *e, int what) { e->_private = (void *)(intptr_t)what; }

/* The node after n in document order; `down`: into it. `left`: called for each element that ends. */
static xmlNode *step(xmlNode *n, bool down, void (*left)(void *, xmlNode *), void *ctx)
{
    if (down && n->type == XML_ELEMENT_NODE && n->children) return n->children;
    for (; n && n->type != XML_HTML_DOCUMENT_NODE && n->type != XML_DOCUMENT_NODE; n = n->parent) {
        if (n->type == XML_ELEMENT_NODE && left) left(ctx, n);
        if (n->next) return n->next;
    }
    return NULL;
}

/* Names every element, and finds the tables and lists that are layout. */
static void survey(xmlNode *root)
{
    for (xmlNode *n = root; n; n = step(n, true, NULL, NULL)) {
        if (n->type != XML_ELEMENT_NODE) continue;
        int what = what_is(n);
        what_set(n, what);
        if (!(what & (TABLE | HEADING | PRE))) continue;
        int over = what & TABLE ? OVER_TABLE : OVER_OTHER;
        for (xmlNode *up = n->parent; up && up->type == XML_ELEMENT_NODE && !(what_of(up) & over); up = up->parent) {
            int is = what_of(up) | over;
            if ((is & LIST) || ((is & TABLE) && over == OVER_TABLE)) is |= LAYOUT;
            what_set(up, is);
        }
    }
}

/* ---- writing ------------------------------------------------------------------------------------------------------------------
 */
typedef struct {
    canon *c;
    block_list blocks;
    buf white;        /* <pre>: white space that waits for a letter */
    u32 ordinal;      /* of the element last begun, from 1 */
    u32 lines, tabs;  /* that wait for a letter */
    bool space, any;  /* a space waits; there is text */
    bool space_here;  /* that space is in the same text node */
    int pre, skip;    /* open elements of these kinds */
    int table, cells; /* data tables open (0 or 1), cells begun in this row */
    xmlNode *whole;   /* heading, list, table or pre that is one block */
    bool open;        /* a block */
    int kind, level;  /* of the block that the next letter is in */
    u32 start;
} page;

static void close_block(page *p)
{
    if (p->open) blocks_add(&p->blocks, p->start, canon_here(p->c), p->kind, p->level);
    p->open = false;
}

static void want_lines(page *p, u32 n)
{
    if (p->lines < n) p->lines = n;
    p->space = false;
    p->tabs = 0;
}

/* What waits, and the block's beginning, before a letter. */
static void separate(page *p)
{
    usize white_from = 0;
    for (u32 i = 0; p->any && i < p->lines; i++) canon_gap(p->c, '\n');
    if (!p->open) {
        p->start = canon_here(p->c);
        p->open = true;
        const char *top = p->white.n ? memrchr(p->white.p, '\n', p->white.n) : NULL; /* empty lines at the top of a <pre> */
        if (top) white_from = (usize)(top - p->white.p) + 1;
    }
    for (u32 i = 0; i < p->tabs; i++) canon_gap(p->c, '\t');
    if (p->space && p->any && !p->lines && !p->tabs) (p->space_here ? canon_put : canon_gap)(p->c, ' ');
    for (usize i = white_from; i < p->white.n; i++) (p->space_here ? canon_put : canon_gap)(p->c, (u8)p->white.p[i]);
    buf_reset(&p->white);
    p->lines = p->tabs = 0;
    p->space = false;
    p->any = true;
}

static bool is_white(u32 c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* &nbsp; and its kin hold a place open; at the front of a block or cell they are as good as nothing. */
static bool is_filler(const page *p, u32 c) { return c >= 0xA0 && (!p->open || p->lines || p->tabs) && text_is_space(c); }

static void put_text(page *p, const xmlNode *n, u32 element)
{
    str s = str_of((const char *)n->content);
    bool tagged = false;
    p->space_here = false;
    for (usize at = 0; at < s.n;) {
        u32 c = utf8_next(s, &at);
        if (p->pre && is_white(c)) {
            if (c != '\r') buf_byte(&p->white, c == '\t' || c == ' ' ? (int)c : '\n');
            p->space_here = tagged;
        } else if (is_white(c) || is_filler(p, c)) {
            if (!p->space) p->space_here = tagged;
            p->space = true;
        } else if (c >= 0x20 && (c < 0x7F || c >= 0xA0)) {
            if (!tagged) {
                separate(p); /* in front of the node's anchor */
                canon_tag(p->c, element, (u32)i64_max(0, xmlGetLineNo(n)), NULL);
                tagged = true;
            } else if (p->space || p->white.n)
                separate(p);
            canon_put(p->c, c);
        }
    }
    p->space_here = false;
}

/* ---- the walk
 * ------------------------------------------------------------------------------------------------------------------ */
/* An element that has a line of its own, inside of a block; in a <pre> unless its text has broken the line already */
static void break_line(page *p)
{
    if (!p->pre)
        want_lines(p, 1);
    else if (!memchr(p->white.n ? p->white.p : "", '\n', p->white.n))
        buf_byte(&p->white, '\n');
}

static int level_of(const xmlNode *heading) { return heading->name[1] - '0'; }

static void begin_element(page *p, xmlNode *e)
{
    int what = what_of(e);
    if (what & NEWLINE) {
        if (p->pre)
            buf_byte(&p->white, '\n');
        else if (p->table && p->cells)
            p->space = true, p->space_here = false;
        else
            want_lines(p, p->lines + 1 < 2 ? p->lines + 1 : 2);
        return;
    }
    if (p->whole) { /* inside of one block: lines only */
        if (p->table && (what & CELL)) {
            if (p->cells++) p->tabs++;
            p->space = false;
        } else if (p->table && (what & ROW)) {
            want_lines(p, 1);
            p->cells = 0;
        } else if (p->table && p->cells && (what & BREAK))
            p->space = true, p->space_here = false;
        else if (what & (BREAK | CELL))
            break_line(p);
        return;
    }
    if (!(what & (BREAK | CELL))) return;
    close_block(p);
    want_lines(p, what & SPACED ? 2 : 1);
    if ((what & LAYOUT) || !(what & (HEADING | LIST | TABLE | PRE))) return;
    p->whole = e;
    p->pre = (what & PRE) != 0;
    p->table = (what & TABLE) != 0;
    p->cells = 0;
    p->kind = what & HEADING ? BLOCK_HEADING : what & LIST ? BLOCK_LIST : what & TABLE ? BLOCK_TABLE : BLOCK_CODE;
    p->level = what & HEADING ? level_of(e) : 0;
}

static void end_element(void *ctx, xmlNode *e)
{
    page *p = ctx;
    int what = what_of(e);
    if (p->skip) {
        if (what & SKIP) p->skip--;
        return;
    }
    if (p->whole && p->whole != e) {
        if (p->table && (what & ROW)) {
            want_lines(p, 1);
            p->cells = 0;
        } else if (p->table && p->cells && (what & (BREAK | CELL)))
            p->space = true, p->space_here = false;
        else if (what & (BREAK | CELL))
            break_line(p);
        return;
    }
    if (!(what & (BREAK | CELL))) return;
    close_block(p);
    buf_reset(&p->white);
    want_lines(p, what & SPACED ? 2 : 1);
    p->whole = NULL;
    p->pre = p->table = p->cells = 0;
    p->kind = BLOCK_TEXT;
    p->level = 0;
}

static void walk(page *p, xmlNode *root)
{
    bool down;
    for (xmlNode *n = root; n; n = step(n, down, end_element, p)) {
        down = true;
        if (n->type == XML_ELEMENT_NODE) {
            u32 ordinal = ++p->ordinal;
            if (p->skip || (what_of(n) & SKIP))
                p->skip += (what_of(n) & SKIP) != 0;
            else
                begin_element(p, n);
            n->psvi = (void *)(uintptr_t)ordinal;
        } else if ((n->type == XML_TEXT_NODE || n->type == XML_CDATA_SECTION_NODE) && n->content && !p->skip)
            put_text(p, n, n->parent ? (u32)(uintptr_t)n->parent->psvi : 1);
    }
    close_block(p);
}

/* ---- title
 * ----------------------------------------------------------------------------------------------------------------------- */
static void text_below(const xmlNode *top, buf *out)
{
    if (!top->children) return;
    for (xmlNode *n = top->children; n && n != top;) {
        if ((n->type == XML_TEXT_NODE || n->type == XML_CDATA_SECTION_NODE) && n->content && out->n < 4096)
            buf_puts(out, (const char *)n->content);
        if (n->type == XML_ELEMENT_NODE && n->children) {
            n = n->children;
            continue;
        }
        while (n != top && !n->next) n = n->parent;
        if (n != top) n = n->next;
    }
}

/* <title> (the first outside of a picture), else the first heading of the highest level there is first */
static err title_of(xmlNode *root, char **out)
{
    const xmlNode *heading = NULL, *title = NULL;
    for (xmlNode *n = root; n && !title;
         n = step(n, !(n->type == XML_ELEMENT_NODE && xmlStrcasecmp(n->name, BAD_CAST "svg") == 0), NULL, NULL)) {
        if (n->type != XML_ELEMENT_NODE) continue;
        if (!xmlStrcasecmp(n->name, BAD_CAST "title")) title = n;
        if (!heading && (what_of(n) & HEADING)) heading = n;
    }
    for (int i = 0; i < 2; i++) {
        const xmlNode *from = i ? heading : title;
        buf text = {0};
        if (from) text_below(from, &text);
        err bad = buf_error(&text);
        if (!bad.code) bad = load_label(buf_view(&text), LABEL_MAX, out);
        buf_free(&text);
        if (bad.code || *out) return bad;
    }
    return OK;
}

/* ---- parsing
 * ---------------------------------------------------------------------------------------------------------------------- */
/* libxml2 ends its text at a NUL; other bytes it takes as they are. */
static void without_nul(str s, buf *out)
{
    while (s.n) {
        const char *nul = memchr(s.p, 0, s.n);
        usize n = nul ? (usize)(nul - s.p) : s.n;
        buf_put(out, s.p, n);
        s.p += n, s.n -= n;
        if (s.n) s.p++, s.n--;
    }
}

static err tree_of(str utf8, htmlParserCtxt **parser, xmlDoc **doc)
{
    *doc = NULL;
    *parser = htmlNewParserCtxt();
    if (!*parser) return err_new(ERR_NOMEM, "no memory for the HTML parser");
    /* options that the HTML side of libxml2 knows but does not take as arguments: pages nest deeper than 256 (a <font> that is
     * never closed, on each line), and are longer than 65,535 lines. Memory and time are bounded by the confinement. */
    (*parser)->options |= XML_PARSE_HUGE | XML_PARSE_BIG_LINES;
    *doc = htmlCtxtReadMemory(*parser, utf8.p, (int)utf8.n, NULL, "UTF-8",
                              HTML_PARSE_RECOVER | HTML_PARSE_NODEFDTD | HTML_PARSE_NOERROR | HTML_PARSE_NOWARNING |
                                  HTML_PARSE_NONET | HTML_PARSE_IGNORE_ENC);
    const xmlError *e = xmlCtxtGetLastError(*parser);
    if (e && e->code == XML_ERR_NO_MEMORY) return err_new(ERR_NOMEM, "no memory for the HTML tree");
    if (e && e->level == XML_ERR_FATAL && (*parser)->instate == XML_PARSER_EOF && (*parser)->disableSAX)
        return err_new(ERR_FORMAT, "line %d: the parser gave up: %.*s", e->line, (int)(e->message ? strcspn(e->message, "\n") : 0),
                       e->message ? e->message : "");
    return OK;
}

err load_html_parse(str utf8, const char *encoding, loaded *out)
{
    htmlParserCtxt *parser = NULL;
    xmlDoc *doc = NULL;
    page p = {.kind = BLOCK_TEXT};
    buf clean = {0};
    err bad = canon_new(&p.c, SOURCE_ELEMENT, encoding);
    without_nul(utf8, &clean);
    if (!bad.code) bad = buf_error(&clean);
    if (!bad.code && clean.n) bad = tree_of(buf_view(&clean), &parser, &doc);
    xmlNode *root = doc ? xmlDocGetRootElement(doc) : NULL;
    if (!bad.code && root) {
        survey(root);
        walk(&p, root);
        bad = title_of(root, &out->title);
        if (!bad.code) bad = buf_error(&p.white);
    }
    if (!bad.code) bad = canon_end(p.c, out);
    if (!bad.code) bad = blocks_end(&p.blocks, out);
    blocks_free(&p.blocks);
    canon_free(p.c);
    buf_free(&p.white);
    buf_free(&clean);
    xmlFreeDoc(doc);
    htmlFreeParserCtxt(parser);
    return bad;
}

/* ---- confined
 * ---------------------------------------------------------------------------------------------------------------------- */
static err parse_confined(void *ctx, buf *out)
{
    const decoded *d = ctx;
    loaded doc = {0};
    err bad = load_html_parse(buf_view(&d->utf8), d->encoding, &doc);
    if (!bad.code) bad = loaded_write(&doc, out);
    loaded_free(&doc);
    return bad;
}

err load_html(const load_input *in)
{
    decoded d;
    buf answer = {0};
    if (in->bytes.n > PAGE_LIMIT) return err_new(ERR_FORMAT, "a page of %zu bytes; at most %d are read", in->bytes.n, PAGE_LIMIT);
    TRY(load_decode_html(in->bytes, &d));
    err bad = proc_confine(parse_confined, &d, PAGE_SECONDS, PAGE_MEMORY, &answer);
    if (!bad.code) bad = loaded_read(buf_view(&answer), in->out);
    buf_free(&answer);
    buf_free(&d.utf8);
    return bad;
}
