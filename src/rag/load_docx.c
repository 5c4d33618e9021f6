/* rag/load_docx.c - DOCX: what a reader of the document sees when every tracked change is accepted: paragraphs, headings, lists, tables,
 * text boxes, notes, the figures of charts.
 *
 * The container (libzip) and its XML (libxml2) are read in a confined child, because a document is written by anybody. Bytes are
 * counted while they are unpacked, since a container lies about its sizes; a part with a DTD is refused, so there are no entities
 * to grow; libxml2 keeps nesting below 256, so the tree is walked by recursion. Styles say what is a heading or a list.
 * A text box or a note stands after the paragraph (or table) that it is anchored in, and once, however often it is referred to. A
 * table is one line for each row with tabs between its cells; a table of one cell, or with a table inside, is layout, and its parts
 * are blocks of their own. The anchor of a character is the number of its paragraph, in the order of the text.
 *
 * Left out: deletions, hidden runs, comments, headers and footers of pages, field codes (their results stay). Not done: pictures,
 * formulas but for their letters. */
#include "rag/load_docx.h"
#include "text/text.h"
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <zip.h>

enum { PART_LIMIT = 64 << 20, ALL_LIMIT = 128 << 20, DOC_SECONDS = 60, LABEL_MAX = 300, FIELDS = 32, STYLE_STEPS = 16 };
enum { CHARTS_MOST = 200, CHART_POINTS = 400, CHART_SERIES = 40 };
static const usize DOC_MEMORY = (usize)2 << 30;

/* ---- parts of the container ----------------------------------------------------------------------------------------------- */
typedef struct {
    char *id, *based_on;
    char *num_id; /* of the list; NULL: none said */
    int num_level;
    int level; /* of a heading, 1..6; 0: none said; -1: body text said */
    int list;  /* 1: yes, -1: no, 0: nothing said */
    bool title;
} style;
typedef struct {
    const xmlNode *node; /* of a text box or note */
} later;
typedef struct {
    zip_t *zip;
    usize unpacked;
    xmlDoc *main, *styles_doc, *numbering, *notes[2], *rels;
    numbers *numbers;
    char *folder; /* of the main part, with '/' at the end */
    style *style;
    usize n_styles, cap_styles;
    map *style_ids, *note_ids[2];
    /* writing */
    canon *c;
    block_list blocks;
    u32 paragraph; /* number of the last begun */
    u32 lines, tabs;
    bool space, any, open, tagged, joined;
    int kind, level, table; /* table: open data tables (0 or 1) */
    u32 start;
    int field[FIELDS], n_fields; /* 1: inside of its code */
    later *later;
    usize n_later, cap_later;
    xmlDoc **chart; /* opened, for as long as the rest */
    usize n_charts, cap_charts;
    buf title, heading; /* the first of each */
    buf *label;         /* that takes what is written now */
    bool no_memory;
} docx;

static const err no_memory = {ERR_NOMEM, "no memory for a document"};

/* *bytes is appended to; NOTFOUND when there is no such part */
static err read_part(docx *x, const char *name, buf *bytes)
{
    zip_int64_t at = zip_name_locate(x->zip, name, ZIP_FL_ENC_GUESS);
    if (at < 0) at = zip_name_locate(x->zip, name, ZIP_FL_NOCASE | ZIP_FL_ENC_GUESS);
    if (at < 0) return err_new(ERR_NOTFOUND, "the container has no part %s", name);
    zip_file_t *f = zip_fopen_index(x->zip, (zip_uint64_t)at, 0);
    if (!f) return err_new(ERR_FORMAT, "part %s cannot be unpacked: %s", name, zip_strerror(x->zip));
    char piece[1 << 14];
    err bad = OK;
    for (;;) {
        zip_int64_t n = zip_fread(f, piece, sizeof piece);
        if (n < 0) bad = err_new(ERR_FORMAT, "part %s is damaged: %s", name, zip_file_strerror(f));
        if (n <= 0) break;
        x->unpacked += (usize)n;
        buf_put(bytes, piece, (usize)n);
        if (bytes->n > PART_LIMIT || x->unpacked > ALL_LIMIT)
            bad = err_new(ERR_FORMAT, "part %s unpacks to more than %d MiB", name, (int)(bytes->n > PART_LIMIT ? PART_LIMIT : ALL_LIMIT) >> 20);
        if (!bad.code) bad = buf_error(bytes);
        if (bad.code) break;
    }
    zip_fclose(f);
    return bad;
}

static err read_xml(docx *x, const char *name, xmlDoc **out)
{
    buf bytes = {0};
    *out = NULL;
    err bad = read_part(x, name, &bytes);
    if (!bad.code && str_find(buf_view(&bytes), S("<!DOCTYPE"), 0) >= 0)
        bad = err_new(ERR_FORMAT, "part %s has a DTD, which no part of a document may have", name);
    if (!bad.code) {
        xmlParserCtxt *parser = xmlNewParserCtxt();
        if (parser)
            *out = xmlCtxtReadMemory(parser, bytes.p ? bytes.p : "", (int)bytes.n, NULL, NULL,
                                     XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_COMPACT);
        const xmlError *e = parser ? xmlCtxtGetLastError(parser) : NULL;
        if (!parser || (!*out && e && e->code == XML_ERR_NO_MEMORY))
            bad = no_memory;
        else if (!*out)
            bad = err_new(ERR_FORMAT, "part %s, line %d: not well-formed XML: %.*s", name, e ? e->line : 0,
                          (int)(e && e->message ? strcspn(e->message, "\n") : 0), e && e->message ? e->message : "");
        else if ((*out)->intSubset)
            bad = err_new(ERR_FORMAT, "part %s has a DTD, which no part of a document may have", name);
        xmlFreeParserCtxt(parser);
    }
    buf_free(&bytes);
    return bad;
}

/* a part that may be absent */
static err read_xml_maybe(docx *x, const char *name, xmlDoc **out)
{
    err bad = name ? read_xml(x, name, out) : OK;
    if (!name) *out = NULL;
    return bad.code == ERR_NOTFOUND ? OK : bad;
}

/* ---- nodes ---------------------------------------------------------------------------------------------------------------- */
static bool named(const xmlNode *n, const char *name) { return n->type == XML_ELEMENT_NODE && !strcmp((const char *)n->name, name); }

/* of the word processor's own names, as they were at first and as the ISO standard has them */
bool docx_is(const xmlNode *n, const char *name)
{
    return named(n, name) && n->ns && n->ns->href && strstr((const char *)n->ns->href, "wordprocessingml");
}

const xmlNode *docx_child(const xmlNode *n, const char *name)
{
    for (const xmlNode *c = n ? n->children : NULL; c; c = c->next)
        if (docx_is(c, name)) return c;
    return NULL;
}

/* borrowed; an attribute by its local name; NULL when there is none */
const char *docx_attribute(const xmlNode *n, const char *name)
{
    for (const xmlAttr *a = n ? n->properties : NULL; a; a = a->next)
        if (!strcmp((const char *)a->name, name) && a->children && a->children->content) return (const char *)a->children->content;
    return NULL;
}

static const char *value(const xmlNode *n) { return docx_attribute(n, "val"); }

/* <w:vanish/>, and not <w:vanish w:val="false"/> */
static bool is_on(const xmlNode *n)
{
    const char *v = value(n);
    return n && !(v && (!strcmp(v, "0") || !strcmp(v, "false") || !strcmp(v, "off")));
}

int docx_number(const char *s, int otherwise)
{
    i64 n;
    return s && str_i64(str_of(s), &n) && n > -1000000 && n < 1000000 ? (int)n : otherwise;
}

/* ---- relationships -------------------------------------------------------------------------------------------------------- */
/* The part that a relationship of this kind leads to, with its path in the container; owned, NULL when there is none. */
static char *related(const xmlDoc *rels, const char *folder, const char *kind)
{
    const xmlNode *root = rels ? xmlDocGetRootElement(rels) : NULL;
    for (const xmlNode *n = root ? root->children : NULL; n; n = n->next) {
        const char *type = docx_attribute(n, "Type"), *target = docx_attribute(n, "Target"), *mode = docx_attribute(n, "TargetMode");
        if (n->type != XML_ELEMENT_NODE || !type || !target || (mode && !strcmp(mode, "External"))) continue;
        const char *slash = strrchr(type, '/');
        if (!slash || strcmp(slash + 1, kind)) continue;
        buf path = {0};
        if (*target != '/') buf_puts(&path, folder);
        buf_puts(&path, target + (*target == '/'));
        return buf_take(&path);
    }
    return NULL;
}

/* ---- styles --------------------------------------------------------------------------------------------------------------- */
static int level_of_name(const char *name)
{
    if (!strncasecmp(name, "heading ", 8)) return docx_number(name + 8, 0);
    return !strcasecmp(name, "title") ? 1 : 0;
}

static int level_of(const xmlNode *properties)
{
    int level = docx_number(value(docx_child(properties, "outlineLvl")), -1);
    return level < 0 ? 0 : level > 8 ? -1 : level + 1;
}

static int list_of(const xmlNode *properties)
{
    const xmlNode *num = docx_child(properties, "numPr"), *id = docx_child(num, "numId");
    return !num || (!id && !docx_child(num, "ilvl")) ? 0 : id && !docx_number(value(id), 1) ? -1 : 1;
}

static err read_styles(docx *x)
{
    const xmlNode *root = x->styles_doc ? xmlDocGetRootElement(x->styles_doc) : NULL;
    for (const xmlNode *n = root ? root->children : NULL; n; n = n->next) {
        const char *id = docx_attribute(n, "styleId"), *name = value(docx_child(n, "name")), *base = value(docx_child(n, "basedOn"));
        const xmlNode *properties = docx_child(n, "pPr");
        if (!docx_is(n, "style") || !id) continue;
        style s = {.level = level_of(properties), .list = list_of(properties)};
        int level = name ? level_of_name(name) : 0;
        if (level > 0 && level < 10) s.level = level;
        s.title = name && !strcasecmp(name, "title");
        s.id = mem_strdup(id);
        s.based_on = base ? mem_strdup(base) : NULL;
        const xmlNode *num = docx_child(properties, "numPr");
        const char *num_id = value(docx_child(num, "numId"));
        s.num_id = num_id ? mem_strdup(num_id) : NULL;
        s.num_level = docx_number(value(docx_child(num, "ilvl")), 0);
        if (!s.id || (base && !s.based_on) || (num_id && !s.num_id) || !map_put(x->style_ids, str_of(id), x->n_styles) ||
            !VEC_PUSH(x->style, x->n_styles, x->cap_styles, s)) {
            mem_free(s.id);
            mem_free(s.based_on);
            mem_free(s.num_id);
            return no_memory;
        }
    }
    return OK;
}

/* What a paragraph is; properties of its own come before those of its style, and of the one that the style is based on. */
typedef struct {
    int level, list, num_level; /* num_level -1: not said */
    const char *num_id;
    bool title;
} traits;

static traits traits_of(const docx *x, const xmlNode *properties)
{
    const xmlNode *num = docx_child(properties, "numPr");
    traits t = {level_of(properties), list_of(properties), docx_number(value(docx_child(num, "ilvl")), -1),
                value(docx_child(num, "numId")), false};
    const char *id = value(docx_child(properties, "pStyle"));
    u64 at;
    for (int i = 0; i < STYLE_STEPS && id && map_get(x->style_ids, str_of(id), &at); i++) {
        const style *s = &x->style[at];
        if (!t.level) t.level = s->level;
        if (!t.list) t.list = s->list;
        if (!t.num_id && s->num_id) {
            t.num_id = s->num_id;
            if (t.num_level < 0) t.num_level = s->num_level;
        }
        if (!i) t.title = s->title;
        id = s->based_on;
    }
    return t;
}

static err read_notes(docx *x, int which)
{
    const xmlNode *root = x->notes[which] ? xmlDocGetRootElement(x->notes[which]) : NULL;
    for (const xmlNode *n = root ? root->children : NULL; n; n = n->next) {
        const char *id = docx_attribute(n, "id"), *type = docx_attribute(n, "type");
        if (n->type != XML_ELEMENT_NODE || !id || (type && strcmp(type, "normal"))) continue; /* lines between text and notes */
        if (!map_put(x->note_ids[which], str_of(id), (u64)(uintptr_t)n)) return no_memory;
    }
    return OK;
}

/* ---- writing -------------------------------------------------------------------------------------------------------------- */
static void close_block(docx *x)
{
    if (x->open) blocks_add(&x->blocks, x->start, canon_here(x->c), x->kind, x->level);
    x->open = false;
}

static void want_lines(docx *x, u32 n)
{
    if (x->lines < n) x->lines = n;
    x->space = false;
    x->tabs = 0;
}

static void put(docx *x, u32 c)
{
    if (c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0xAD || c == 0xFEFF) { /* soft hyphens do not show */
        x->space |= c == '\t' || c == '\n' || c == '\r';
        return;
    }
    bool fresh = !x->open || x->lines || x->tabs;
    if (c == ' ' || (c >= 0xA0 && fresh && text_is_space(c))) {
        x->space = true;
        return;
    }
    if (!x->open || x->lines || x->tabs || x->space) {
        for (u32 i = 0; x->any && i < x->lines; i++) canon_gap(x->c, '\n');
        if (!x->open) x->start = canon_here(x->c);
        for (u32 i = 0; i < x->tabs; i++) canon_gap(x->c, '\t');
        bool blank = x->space && !fresh;
        if (blank) (x->tagged ? canon_put : canon_gap)(x->c, ' ');
        if (blank && x->label) buf_byte(x->label, ' ');
    }
    if (!x->tagged) canon_tag(x->c, x->paragraph ? x->paragraph : 1, 0, NULL);
    x->tagged = x->open = x->any = true;
    x->lines = x->tabs = 0;
    x->space = false;
    canon_put(x->c, c);
    if (x->label) buf_utf8(x->label, c);
}

static void put_str(docx *x, const char *text)
{
    str s = str_of(text);
    for (usize at = 0; at < s.n;) put(x, utf8_next(s, &at));
}

static void put_text(docx *x, const xmlNode *n)
{
    for (const xmlNode *c = n->children; c; c = c->next)
        if ((c->type == XML_TEXT_NODE || c->type == XML_CDATA_SECTION_NODE) && c->content) put_str(x, (const char *)c->content);
}

/* ---- inside of a paragraph ------------------------------------------------------------------------------------------------ */
static void keep_for_later(docx *x, xmlNode *n)
{
    if (n->_private) return; /* once */
    n->_private = n;
    if (!VEC_PUSH(x->later, x->n_later, x->cap_later, ((later){n}))) x->no_memory = true;
}

static void refer(docx *x, const xmlNode *n, int which)
{
    u64 at;
    const char *id = docx_attribute(n, "id");
    if (id && map_get(x->note_ids[which], str_of(id), &at)) keep_for_later(x, (xmlNode *)(uintptr_t)at);
}

static void field(docx *x, const xmlNode *n)
{
    const char *type = docx_attribute(n, "fldCharType");
    if (!type) return;
    if (!strcmp(type, "begin") && x->n_fields < FIELDS) x->field[x->n_fields++] = 1;
    if (!strcmp(type, "separate") && x->n_fields) x->field[x->n_fields - 1] = 0;
    if (!strcmp(type, "end") && x->n_fields) x->n_fields--;
}

static bool in_field_code(const docx *x)
{
    for (int i = 0; i < x->n_fields; i++)
        if (x->field[i]) return true;
    return false;
}

static bool is_dropped(const xmlNode *n)
{
    static const char *const names[] = {"del",  "moveFrom", "instrText", "delText", "delInstrText", "pPr", "rPr", "sdtPr", "sdtEndPr",
                                        "tblPr", "tblGrid",  "trPr",      "tcPr",    "sectPr",       "rt",  "fldData", "object"};
    for (usize i = 0; i < COUNT_OF(names); i++)
        if (docx_is(n, names[i])) return true;
    return false;
}

/* Of <mc:AlternateContent> the first choice, which is the newest way to say it; text boxes are in both */
static const xmlNode *alternative(const xmlNode *n)
{
    const xmlNode *fallback = NULL;
    for (const xmlNode *c = n->children; c; c = c->next) {
        if (named(c, "Choice")) return c;
        if (named(c, "Fallback")) fallback = c;
    }
    return fallback;
}

/* A chart is a part of its own; its figures are there as they were when the document was saved. */
static void refer_chart(docx *x, const xmlNode *n)
{
    const char *id = docx_attribute(n, "id");
    const xmlNode *root = x->rels ? xmlDocGetRootElement(x->rels) : NULL;
    xmlDoc *doc = NULL;
    buf path = {0};
    if (!id || x->n_charts >= CHARTS_MOST) return;
    for (const xmlNode *r = root ? root->children : NULL; r; r = r->next) {
        const char *rid = docx_attribute(r, "Id"), *target = docx_attribute(r, "Target");
        if (r->type != XML_ELEMENT_NODE || !rid || strcmp(rid, id) || !target || docx_attribute(r, "TargetMode")) continue;
        if (*target != '/') buf_puts(&path, x->folder);
        buf_puts(&path, target + (*target == '/'));
        break;
    }
    err bad = path.n && !path.bad ? read_xml(x, buf_cstr(&path), &doc) : OK; /* a damaged chart leaves the text whole */
    if (bad.code == ERR_NOMEM || path.bad) x->no_memory = true;
    buf_free(&path);
    if (!doc) return;
    if (!VEC_PUSH(x->chart, x->n_charts, x->cap_charts, doc)) {
        xmlFreeDoc(doc);
        x->no_memory = true;
    } else if (xmlDocGetRootElement(doc))
        keep_for_later(x, xmlDocGetRootElement(doc));
}

static void inside(docx *x, const xmlNode *parent);

static void inline_node(docx *x, xmlNode *n)
{
    if (n->type != XML_ELEMENT_NODE || is_dropped(n)) return;
    bool shows = !in_field_code(x);
    if (named(n, "AlternateContent")) {
        const xmlNode *a = alternative(n);
        if (a) inside(x, a);
    } else if (docx_is(n, "t") || (named(n, "t") && n->ns && n->ns->href && strstr((const char *)n->ns->href, "/math"))) {
        if (shows) put_text(x, n);
    } else if (docx_is(n, "txbxContent")) {
        keep_for_later(x, n);
    } else if (docx_is(n, "r")) {
        if (!is_on(docx_child(docx_child(n, "rPr"), "vanish"))) inside(x, n);
    } else if (docx_is(n, "tab") || docx_is(n, "ptab")) {
        x->space = true;
    } else if (docx_is(n, "br") || docx_is(n, "cr")) {
        if (x->table) x->space = true;
        else if (x->open && !x->lines) want_lines(x, 1);
    } else if (docx_is(n, "noBreakHyphen")) {
        if (shows) put(x, '-');
    } else if (docx_is(n, "fldChar")) {
        field(x, n);
    } else if (docx_is(n, "footnoteReference") || docx_is(n, "endnoteReference")) {
        refer(x, n, docx_is(n, "endnoteReference"));
    } else if (named(n, "chart")) {
        refer_chart(x, n);
    } else
        inside(x, n);
}

static void inside(docx *x, const xmlNode *parent)
{
    for (xmlNode *c = parent->children; c; c = c->next) inline_node(x, c);
}

/* ---- charts --------------------------------------------------------------------------------------------------------------- */
/* The next element of this name in document order, below `root`; from `at`, NULL: from the beginning. */
static const xmlNode *next_named(const xmlNode *root, const xmlNode *at, const char *name)
{
    const xmlNode *n = at ? at : root;
    for (;;) {
        if (n->type == XML_ELEMENT_NODE && n->children)
            n = n->children;
        else {
            while (n != root && !n->next) n = n->parent;
            if (n == root) return NULL;
            n = n->next;
        }
        if (named(n, name)) return n;
    }
}

/* Figures are kept in full doubles; shown are 15 digits, as spreadsheets do. */
static void put_figure(docx *x, const xmlNode *v)
{
    char shown[40];
    double d;
    const xmlNode *c = v->children;
    if (c && c->type == XML_TEXT_NODE && c->content && str_f64(str_of((const char *)c->content), &d) && strlen((const char *)c->content) > 15) {
        snprintf(shown, sizeof shown, "%.15g", d);
        put_str(x, shown);
    } else
        put_text(x, v);
}

/* what stands at point `index` of <c:cat>, <c:val> or <c:tx> of a series */
static void put_point(docx *x, const xmlNode *series, const char *of, int index)
{
    const xmlNode *from = next_named(series, NULL, of);
    for (const xmlNode *p = from ? next_named(from, NULL, "pt") : NULL; p; p = next_named(from, p, "pt")) {
        const xmlNode *v = next_named(p, NULL, "v");
        if (docx_number(docx_attribute(p, "idx"), -1) != index) continue;
        if (v) put_figure(x, v);
        return;
    }
}

static int points_of(const xmlNode *series)
{
    int n = 0;
    const xmlNode *from = next_named(series, NULL, "val");
    for (const xmlNode *p = from ? next_named(from, NULL, "pt") : NULL; p; p = next_named(from, p, "pt"))
        n = (int)i64_max(n, docx_number(docx_attribute(p, "idx"), -1) + 1);
    return n < CHART_POINTS ? n : CHART_POINTS;
}

/* As a table: a column for each series, a row for each category. */
static void chart(docx *x, const xmlNode *root)
{
    const xmlNode *first = next_named(root, NULL, "ser"), *title = next_named(root, NULL, "title");
    x->paragraph++;
    x->tagged = false;
    x->kind = BLOCK_TEXT;
    for (const xmlNode *t = title ? next_named(title, NULL, "t") : NULL; t; t = next_named(title, t, "t")) put_text(x, t);
    close_block(x);
    want_lines(x, 2);
    int n = first ? points_of(first) : 0;
    x->kind = BLOCK_TABLE;
    for (int i = -1; i < n; i++) { /* -1: names */
        int column = 0;
        want_lines(x, 1);
        x->paragraph++;
        x->tagged = false;
        if (i >= 0) put_point(x, first, "cat", i);
        for (const xmlNode *s = first; s && column < CHART_SERIES; s = next_named(root, s, "ser"), column++) {
            x->tabs++;
            x->space = false;
            put_point(x, s, i < 0 ? "tx" : "val", i < 0 ? 0 : i);
        }
    }
    x->tabs = 0;
}

/* ---- paragraphs ----------------------------------------------------------------------------------------------------------- */
static void blocks_inside(docx *x, const xmlNode *parent);

static void say_later(docx *x)
{
    while (x->n_later && !x->table) {
        later *list = x->later;
        usize n = x->n_later;
        x->later = NULL, x->n_later = x->cap_later = 0;
        for (usize i = 0; i < n; i++) {
            close_block(x);
            want_lines(x, 2);
            if (named(list[i].node, "chartSpace"))
                chart(x, list[i].node);
            else
                blocks_inside(x, list[i].node);
        }
        mem_free(list);
        close_block(x);
        want_lines(x, 2);
    }
}

/* A paragraph whose mark is deleted goes on in the next one. */
static bool joins_next(const xmlNode *properties) { return docx_child(docx_child(properties, "rPr"), "del") != NULL; }

/* Empty items are not numbered here: a number alone is no text. */
static bool has_text(const xmlNode *n)
{
    for (const xmlNode *c = n->children; c; c = c->next) {
        if (c->type != XML_ELEMENT_NODE || is_dropped(c)) continue;
        if (named(c, "t") && c->children) return true;
        if (has_text(c)) return true;
    }
    return false;
}

static void put_number(docx *x, const traits *t)
{
    buf label = {0};
    numbers_next(x->numbers, t->num_id, t->num_level < 0 ? 0 : t->num_level, &label);
    x->no_memory |= label.bad;
    if (label.n) {
        put_str(x, buf_cstr(&label));
        x->space = true;
    }
    buf_free(&label);
}

static void paragraph(docx *x, const xmlNode *p)
{
    const xmlNode *properties = docx_child(p, "pPr");
    traits t = traits_of(x, properties);
    x->paragraph++;
    x->tagged = false;
    if (x->table)
        x->space = true;
    else if (!x->joined) {
        int kind = t.level > 0 ? BLOCK_HEADING : t.list > 0 ? BLOCK_LIST : BLOCK_TEXT;
        bool goes_on = kind == BLOCK_LIST && x->open && x->kind == BLOCK_LIST;
        if (!goes_on) close_block(x);
        want_lines(x, goes_on ? 1 : 2);
        x->kind = kind;
        x->level = kind == BLOCK_HEADING ? (t.level > 6 ? 6 : t.level) : 0;
        x->label = t.title && !x->title.n ? &x->title : kind == BLOCK_HEADING && !x->heading.n ? &x->heading : NULL;
    }
    if (t.list > 0 && !x->joined && has_text(p)) put_number(x, &t);
    inside(x, p);
    x->joined = joins_next(properties) && !x->table;
    if (in_field_code(x)) x->n_fields = 0; /* a code that never ends must not swallow the document */
    if (x->joined) return;
    x->label = NULL;
    if (x->n_later && !x->table) say_later(x);
}

/* ---- tables --------------------------------------------------------------------------------------------------------------- */
typedef struct {
    usize cells, tables;
} shape;

static void shape_of(const xmlNode *n, shape *s)
{
    for (const xmlNode *c = n->children; c; c = c->next) {
        if (c->type != XML_ELEMENT_NODE || is_dropped(c) || docx_is(c, "p")) continue;
        if (docx_is(c, "tbl")) {
            s->tables++;
            continue;
        }
        s->cells += docx_is(c, "tc");
        shape_of(c, s);
    }
}

/* Calls itself through rows, cells and what may wrap them; cells of a data table, or blocks of a layout table. */
static void table_inside(docx *x, const xmlNode *parent, bool layout, u32 *cells)
{
    for (const xmlNode *c = parent->children; c; c = c->next) {
        if (c->type != XML_ELEMENT_NODE || is_dropped(c)) continue;
        if (docx_is(c, "tr")) {
            if (docx_child(docx_child(c, "trPr"), "del")) continue;
            u32 n = 0;
            if (!layout) want_lines(x, 1);
            table_inside(x, c, layout, &n);
        } else if (docx_is(c, "tc")) {
            if (!layout && (*cells)++) x->tabs++;
            x->space = false;
            blocks_inside(x, c);
            if (layout) close_block(x);
        } else if (named(c, "AlternateContent")) {
            const xmlNode *a = alternative(c);
            if (a) table_inside(x, a, layout, cells);
        } else
            table_inside(x, c, layout, cells);
    }
}

static void table(docx *x, const xmlNode *t)
{
    shape s = {0};
    u32 cells = 0;
    if (x->table) { /* cannot be: what has a table inside is layout */
        blocks_inside(x, t);
        return;
    }
    shape_of(t, &s);
    bool layout = s.tables || s.cells <= 1;
    x->joined = false;
    x->label = NULL;
    close_block(x);
    want_lines(x, 2);
    if (!layout) x->table = 1, x->kind = BLOCK_TABLE, x->level = 0;
    table_inside(x, t, layout, &cells);
    x->table = 0;
    close_block(x);
    want_lines(x, 2);
    say_later(x);
}

static void blocks_inside(docx *x, const xmlNode *parent)
{
    for (const xmlNode *c = parent->children; c; c = c->next) {
        if (c->type != XML_ELEMENT_NODE || is_dropped(c)) continue;
        if (docx_is(c, "p"))
            paragraph(x, c);
        else if (docx_is(c, "tbl"))
            table(x, c);
        else if (named(c, "AlternateContent")) {
            const xmlNode *a = alternative(c);
            if (a) blocks_inside(x, a);
        } else
            blocks_inside(x, c);
    }
}

/* ---- the document --------------------------------------------------------------------------------------------------------- */
static err open_container(docx *x, str bytes)
{
    zip_error_t why;
    zip_error_init(&why);
    zip_source_t *source = zip_source_buffer_create(bytes.p, bytes.n, 0, &why);
    x->zip = source ? zip_open_from_source(source, ZIP_RDONLY, &why) : NULL;
    err bad = x->zip ? OK : err_new(ERR_FORMAT, "damaged container: %s", zip_error_strerror(&why));
    if (!x->zip && source) zip_source_free(source);
    zip_error_fini(&why);
    return bad;
}

static err open_parts(docx *x)
{
    xmlDoc *rels = NULL;
    buf rels_name = {0};
    char *name = NULL, *styles = NULL, *numbering = NULL, *notes[2] = {NULL, NULL};
    err bad;
    TRY_TO(done, read_xml_maybe(x, "_rels/.rels", &rels));
    name = related(rels, "", "officeDocument");
    if (!name && !(name = mem_strdup("word/document.xml"))) TRY_TO(done, no_memory);
    TRY_TO(done, read_xml(x, name, &x->main));
    const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
    if (!(x->folder = mem_strndup(name, (usize)(base - name)))) TRY_TO(done, no_memory);
    buf_fmt(&rels_name, "%s_rels/%s.rels", x->folder, base);
    TRY_TO(done, buf_error(&rels_name));
    TRY_TO(done, read_xml_maybe(x, buf_cstr(&rels_name), &x->rels));
    styles = related(x->rels, x->folder, "styles");
    numbering = related(x->rels, x->folder, "numbering");
    notes[0] = related(x->rels, x->folder, "footnotes");
    notes[1] = related(x->rels, x->folder, "endnotes");
    TRY_TO(done, read_xml_maybe(x, styles, &x->styles_doc));
    TRY_TO(done, read_xml_maybe(x, numbering, &x->numbering));
    for (int i = 0; i < 2; i++) TRY_TO(done, read_xml_maybe(x, notes[i], &x->notes[i]));
done:
    xmlFreeDoc(rels);
    buf_free(&rels_name);
    mem_free(name);
    mem_free(styles);
    mem_free(numbering);
    mem_free(notes[0]);
    mem_free(notes[1]);
    return bad.code == ERR_NOTFOUND ? err_new(ERR_FORMAT, "not a Word document: %s", bad.what) : bad;
}

static err write_document(docx *x, loaded *out)
{
    const xmlNode *root = xmlDocGetRootElement(x->main), *body = root ? docx_child(root, "body") : NULL;
    if (!body) return err_new(ERR_FORMAT, "not a Word document: its main part has no body (root element %.40s)",
                              root ? (const char *)root->name : "none");
    if (!(x->style_ids = map_new()) || !(x->note_ids[0] = map_new()) || !(x->note_ids[1] = map_new())) return no_memory;
    TRY(numbers_new(&x->numbers, x->numbering));
    TRY(read_styles(x));
    for (int i = 0; i < 2; i++) TRY(read_notes(x, i));
    TRY(canon_new(&x->c, SOURCE_ELEMENT, "utf-8"));
    x->kind = BLOCK_TEXT;
    blocks_inside(x, body);
    say_later(x);
    close_block(x);
    if (x->no_memory || x->title.bad || x->heading.bad) return no_memory;
    TRY(canon_end(x->c, out));
    TRY(blocks_end(&x->blocks, out));
    TRY(load_label(buf_view(&x->title), LABEL_MAX, &out->title));
    return out->title ? OK : load_label(buf_view(&x->heading), LABEL_MAX, &out->title);
}

static void docx_free(docx *x)
{
    xmlFreeDoc(x->main);
    xmlFreeDoc(x->styles_doc);
    xmlFreeDoc(x->numbering);
    numbers_free(x->numbers);
    xmlFreeDoc(x->notes[0]);
    xmlFreeDoc(x->notes[1]);
    xmlFreeDoc(x->rels);
    for (usize i = 0; i < x->n_charts; i++) xmlFreeDoc(x->chart[i]);
    mem_free(x->chart);
    if (x->zip) zip_discard(x->zip);
    for (usize i = 0; i < x->n_styles; i++) {
        mem_free(x->style[i].id);
        mem_free(x->style[i].based_on);
        mem_free(x->style[i].num_id);
    }
    mem_free(x->style);
    map_free(x->style_ids);
    map_free(x->note_ids[0]);
    map_free(x->note_ids[1]);
    mem_free(x->folder);
    mem_free(x->later);
    buf_free(&x->title);
    buf_free(&x->heading);
    blocks_free(&x->blocks);
    canon_free(x->c);
    mem_free(x);
}

/* What libxml2 says of some faults of encoding it says on standard error, whatever it was told. */
static void say_nothing(void *ctx, const char *format, ...) { (void)ctx, (void)format; }

err load_docx_parse(str bytes, loaded *out)
{
    docx *x = mem_zero(sizeof *x);
    if (!x) return no_memory;
    xmlSetGenericErrorFunc(NULL, say_nothing);
    err bad = open_container(x, bytes);
    if (!bad.code) bad = open_parts(x);
    if (!bad.code) bad = write_document(x, out);
    docx_free(x);
    return bad;
}

/* ---- confined ------------------------------------------------------------------------------------------------------------- */
static err parse_confined(void *ctx, buf *out)
{
    loaded doc = {0};
    err bad = load_docx_parse(*(const str *)ctx, &doc);
    if (!bad.code) bad = loaded_write(&doc, out);
    loaded_free(&doc);
    return bad;
}

err load_docx(const load_input *in)
{
    buf answer = {0};
    str bytes = in->bytes;
    if (str_starts(bytes, S("\xD0\xCF\x11\xE0")))
        return err_new(ERR_FORMAT, "not a ZIP container but an OLE one: encrypted with a password, or an old .doc");
    err bad = proc_confine(parse_confined, &bytes, DOC_SECONDS, DOC_MEMORY, &answer);
    if (!bad.code) bad = loaded_read(buf_view(&answer), in->out);
    buf_free(&answer);
    return bad;
}
