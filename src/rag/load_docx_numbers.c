/* rag/load_docx_numbers.c - the numbers before paragraphs of a Word document. They are not in the text: the document says which list
 * and level a paragraph belongs to, and how a level counts. In rules and contracts they are what others refer to ("제3조"), so they
 * are made here, as Word makes them.
 *
 * Several lists (num) may share one definition (abstractNum) and then count on from each other, unless a list says where it starts.
 * Not done: number formats of other languages (they count in figures), restarts after other than the next higher level. */
#include "rag/load_docx.h"

enum { LEVELS = 9, NUMBER_MOST = 100000, LABEL_BYTES = 200 };
typedef enum { COUNT_FIGURES, COUNT_NOTHING, COUNT_ZERO, COUNT_LETTERS, COUNT_CAPITALS, COUNT_ROMAN, COUNT_ROMAN_CAPITALS, COUNT_GANADA, COUNT_CHOSUNG, COUNT_CIRCLES } counting;
typedef struct {
    counting how;
    int start;
    bool figures_only; /* isLgl */
    char *text;        /* "%1.%2", owned */
} level;
typedef struct {
    level l[LEVELS];
    int at[LEVELS];
    bool begun[LEVELS];
} definition;
typedef struct {
    usize of;
    int start[LEVELS]; /* -1: as the definition */
    bool used[LEVELS];
} list;
struct numbers {
    definition *d;
    list *l;
    usize n_d, cap_d, n_l, cap_l;
    map *definitions, *lists; /* by id */
};

static const err no_memory = {ERR_NOMEM, "no memory for the lists of a document"};

static counting counting_of(const char *format)
{
    static const struct {
        const char *name;
        counting how;
    } names[] = {{"bullet", COUNT_NOTHING},      {"none", COUNT_NOTHING},        {"decimalZero", COUNT_ZERO},
                 {"lowerLetter", COUNT_LETTERS}, {"upperLetter", COUNT_CAPITALS}, {"lowerRoman", COUNT_ROMAN},
                 {"upperRoman", COUNT_ROMAN_CAPITALS}, {"ganada", COUNT_GANADA}, {"chosung", COUNT_CHOSUNG},
                 {"decimalEnclosedCircle", COUNT_CIRCLES}};
    for (usize i = 0; format && i < COUNT_OF(names); i++)
        if (!strcmp(format, names[i].name)) return names[i].how;
    return COUNT_FIGURES;
}

static bool read_level(const xmlNode *n, level *l)
{
    const char *text = docx_attribute(docx_child(n, "lvlText"), "val");
    l->how = counting_of(docx_attribute(docx_child(n, "numFmt"), "val"));
    l->start = docx_number(docx_attribute(docx_child(n, "start"), "val"), 1);
    l->figures_only = docx_child(n, "isLgl") != NULL;
    mem_free(l->text);
    l->text = text ? mem_strdup(text) : NULL;
    return !text || l->text;
}

static err read_definition(numbers *x, const xmlNode *n)
{
    const char *id = docx_attribute(n, "abstractNumId");
    definition d = {0};
    if (!id) return OK;
    if (!map_put(x->definitions, str_of(id), x->n_d) || !VEC_PUSH(x->d, x->n_d, x->cap_d, d)) return no_memory;
    for (const xmlNode *c = n->children; c; c = c->next) {
        int at = docx_number(docx_attribute(c, "ilvl"), -1);
        if (!docx_is(c, "lvl") || at < 0 || at >= LEVELS) continue;
        if (!read_level(c, &x->d[x->n_d - 1].l[at])) return no_memory;
    }
    return OK;
}

static err read_list(numbers *x, const xmlNode *n)
{
    const char *id = docx_attribute(n, "numId"), *of = docx_attribute(docx_child(n, "abstractNumId"), "val");
    list l = {0};
    u64 at;
    if (!id || !of || !map_get(x->definitions, str_of(of), &at)) return OK;
    l.of = (usize)at;
    for (int i = 0; i < LEVELS; i++) l.start[i] = -1;
    for (const xmlNode *c = n->children; c; c = c->next) {
        int k = docx_number(docx_attribute(c, "ilvl"), -1);
        if (docx_is(c, "lvlOverride") && k >= 0 && k < LEVELS)
            l.start[k] = docx_number(docx_attribute(docx_child(c, "startOverride"), "val"), -1);
    }
    return map_put(x->lists, str_of(id), x->n_l) && VEC_PUSH(x->l, x->n_l, x->cap_l, l) ? OK : no_memory;
}

err numbers_new(numbers **out, const xmlDoc *doc)
{
    const xmlNode *root = doc ? xmlDocGetRootElement(doc) : NULL, *first = root ? root->children : NULL;
    numbers *x = *out = mem_zero(sizeof *x);
    if (!x || !(x->definitions = map_new()) || !(x->lists = map_new())) return no_memory; /* the caller frees */
    for (const xmlNode *n = first; n; n = n->next)
        if (docx_is(n, "abstractNum")) TRY(read_definition(x, n));
    for (const xmlNode *n = first; n; n = n->next)
        if (docx_is(n, "num")) TRY(read_list(x, n));
    return OK;
}

void numbers_free(numbers *x)
{
    if (!x) return;
    for (usize i = 0; i < x->n_d; i++)
        for (int k = 0; k < LEVELS; k++) mem_free(x->d[i].l[k].text);
    mem_free(x->d);
    mem_free(x->l);
    map_free(x->definitions);
    map_free(x->lists);
    mem_free(x);
}

/* ---- writing a number ------------------------------------------------------------------------------------------------------- */
static void roman(int n, bool capitals, buf *out)
{
    static const struct {
        int value;
        const char *small, *large;
    } parts[] = {{1000, "m", "M"}, {900, "cm", "CM"}, {500, "d", "D"}, {400, "cd", "CD"}, {100, "c", "C"}, {90, "xc", "XC"}, {50, "l", "L"},
                 {40, "xl", "XL"}, {10, "x", "X"},    {9, "ix", "IX"}, {5, "v", "V"},     {4, "iv", "IV"}, {1, "i", "I"}};
    for (usize i = 0; i < COUNT_OF(parts); i++)
        for (; n >= parts[i].value; n -= parts[i].value) buf_puts(out, capitals ? parts[i].large : parts[i].small);
}

static void write_number(counting how, int n, buf *out)
{
    static const u32 ganada[] = {0xAC00, 0xB098, 0xB2E4, 0xB77C, 0xB9C8, 0xBC14, 0xC0AC, 0xC544, 0xC790, 0xCC28, 0xCE74, 0xD0C0, 0xD30C, 0xD558},
                     chosung[] = {0x3131, 0x3134, 0x3137, 0x3139, 0x3141, 0x3142, 0x3145, 0x3147, 0x3148, 0x314A, 0x314B, 0x314C, 0x314D, 0x314E};
    int k = n - 1;
    if (how == COUNT_NOTHING) return;
    if (k >= 0 && (how == COUNT_LETTERS || how == COUNT_CAPITALS) && k < 26 * 8) {
        for (int i = 0; i <= k / 26; i++) buf_byte(out, (how == COUNT_LETTERS ? 'a' : 'A') + k % 26); /* y, z, aa, bb */
    } else if (n > 0 && n < 4000 && (how == COUNT_ROMAN || how == COUNT_ROMAN_CAPITALS))
        roman(n, how == COUNT_ROMAN_CAPITALS, out);
    else if (k >= 0 && k < 14 && (how == COUNT_GANADA || how == COUNT_CHOSUNG))
        buf_utf8(out, (how == COUNT_GANADA ? ganada : chosung)[k]);
    else if (k >= 0 && k < 20 && how == COUNT_CIRCLES)
        buf_utf8(out, 0x2460 + (u32)k);
    else
        buf_fmt(out, how == COUNT_ZERO ? "%02d" : "%d", n);
}

static void count_on(definition *d, list *l, int at)
{
    bool restart = l->start[at] >= 0 && !l->used[at];
    l->used[at] = true;
    for (int i = 0; i < at; i++) {
        if (d->begun[i]) continue;
        d->at[i] = d->l[i].start;
        d->begun[i] = true;
    }
    if (restart || !d->begun[at])
        d->at[at] = l->start[at] >= 0 ? l->start[at] : d->l[at].start;
    else if (d->at[at] < NUMBER_MOST)
        d->at[at]++;
    d->begun[at] = true;
    for (int i = at + 1; i < LEVELS; i++) d->begun[i] = false;
}

void numbers_next(numbers *x, const char *num_id, int at, buf *label)
{
    u64 of;
    if (!num_id || at < 0 || at >= LEVELS || !map_get(x->lists, str_of(num_id), &of)) return;
    list *l = &x->l[of];
    definition *d = &x->d[l->of];
    count_on(d, l, at);
    const level *v = &d->l[at];
    if (v->how == COUNT_NOTHING || !v->text) return; /* bullets are signs of fonts of their own */
    for (const char *p = v->text; *p && label->n < LABEL_BYTES; p++) {
        int k = *p == '%' && p[1] >= '1' && p[1] <= '9' ? p[1] - '1' : -1;
        if (k < 0) {
            buf_byte(label, (u8)*p);
            continue;
        }
        write_number(v->figures_only ? COUNT_FIGURES : d->l[k].how, d->at[k], label);
        p++;
    }
}
