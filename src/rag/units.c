/* rag/units.c - the passages of a question as units: sentences, list items, rows.
 *
 * Tables, lists and CSV say what a unit is. A PDF says only where words stand: lines at one height are the cells of a row,
 * a line that reaches the right margin without ending a sentence goes on in the next. Rows remember the row of column names
 * above them and every unit the headings above it, because a row by itself rarely tells what it is about.
 *
 * Not here: rows whose cells have several lines. */
#include "rag/answer.h"
#include <stdlib.h>

enum { BEFORE = 80 /* blocks before a passage that are looked through for a table's header */, LEVELS = 7 };
typedef struct {
    u32 start, end; /* code points */
    usize from, to; /* bytes */
    u8 kind, level;
    u32 page;
    float x1, y0, height; /* height 0: no place on a page */
} piece;
typedef struct {
    const loaded *d;
    const hit *h;
    units *out;
    int passage;
    piece *p;
    usize n, cap;
    usize last; /* byte where the last unit of this passage ended */
    i32 lead;   /* the sentence before the rows now coming, or -1 */
    i32 header; /* unit with the names of the rows now coming, or -1 */
    piece names;
    bool has_names; /* what will be that unit when a row inside wants it */
    bool headed;    /* the format tells headings; else they are guessed */
    str heading[LEVELS];
    str above;
} cutter;

static const err no_memory = {ERR_NOMEM, "out of memory"};

static bool has_word(str s)
{
    for (usize at = 0; at < s.n;) {
        u32 c = utf8_next(s, &at);
        if (text_is_letter(c) || text_is_digit(c)) return true;
    }
    return false;
}

/* ---- headings
 * ------------------------------------------------------------------------------------------------------------------- */
static str label(str s) /* without the marks of Markdown */
{
    s = str_trim(s);
    while (s.n && s.p[0] == '#') s.p++, s.n--;
    return str_trim(s);
}

static err set_heading(cutter *k, int level, str text)
{
    buf b = {0};
    for (int i = level; i < LEVELS; i++) k->heading[i] = (str){0};
    text = label(text);
    k->heading[level] = (str){arena_str(k->out->mem, text.p, text.n), text.n};
    if (k->d->title) buf_puts(&b, k->d->title);
    for (int i = 0; i < LEVELS; i++) {
        if (!k->heading[i].n || str_eq(k->heading[i], str_of(k->d->title))) continue;
        if (b.n) buf_byte(&b, '\n');
        buf_str(&b, k->heading[i]);
    }
    k->above = (str){arena_str(k->out->mem, buf_cstr(&b), b.n), b.n};
    bool good = !b.bad && k->above.p && k->heading[level].p;
    buf_free(&b);
    return good ? OK : no_memory;
}

static bool is_page_number(str s)
{
    buf low = {0};
    usize from = 0;
    bool is = false;
    if (!text_lower(&low, s).code) {
        str w = buf_view(&low);
        while (w.n && strchr("0123456789-/. ", w.p[w.n - 1])) w.n--;
        while (from < w.n && strchr("0123456789-/. ", w.p[from])) from++;
        w.p += from, w.n -= from;
        is = !w.n || str_eq(w, S("page")) || str_eq(w, S("p")) || str_eq(w, S("쪽")) || str_eq(w, S("페이지"));
    }
    buf_free(&low);
    return is;
}

/* A short line that ends no sentence stands over what follows. The two last are kept: a page's running head would drive out the
 * only one. */
static err guess_heading(cutter *k, str text)
{
    usize n = utf8_count(text), letters = 0;
    for (usize at = 0; at < text.n;) letters += text_is_letter(utf8_next(text, &at));
    if (n > 60 || letters < 2 || is_page_number(text) || strchr(".!?:;,", text.p[text.n - 1]) || str_ends(text, S("다")) ||
        str_ends(text, S("요")) || str_ends(text, S("\xE3\x80\x82")))
        return OK;
    if (str_eq(text, str_of(k->d->title)) || str_eq(text, k->heading[2])) return OK;
    if (k->heading[2].n) {
        str old = k->heading[2];
        TRY(set_heading(k, 1, old));
    }
    return set_heading(k, 2, text);
}

/* ---- giving units out
 * ---------------------------------------------------------------------------------------------------------- */
static bool only_space(str s)
{
    for (usize at = 0; at < s.n;)
        if (!text_is_space(utf8_next(s, &at))) return false;
    return true;
}

/* *index: the new unit, -1 when it lies outside the passage (and `keep` does not want it all the same) or has no word */
static err give(cutter *k, usize from, usize to, u32 start, u8 kind, bool keep, i32 *index)
{
    str all = {k->d->text, k->d->text_len};
    *index = -1;
    while (from < to) { /* white space at the ends belongs to nobody */
        usize next = from;
        if (!text_is_space(utf8_next(all, &next))) break;
        from = next, start++;
    }
    for (i64 nl; (nl = str_find((str){all.p, to}, S("\n"), from)) >= 0 && !has_word((str){all.p + from, (usize)nl - from});
         from = (usize)nl + 1)
        start += (u32)utf8_count((str){all.p + from, (usize)nl + 1 - from}); /* a rule drawn of characters */
    while (to > from && strchr(" \t\n", all.p[to - 1])) to--;
    str text = {all.p + from, to - from};
    if (!has_word(text)) return OK;
    u32 end = start + (u32)utf8_count(text);
    bool inside = start < k->h->end && end > k->h->start;
    if (kind == BLOCK_TEXT && !k->headed) {
        if (is_page_number(text)) return OK;
        if (str_eq(text, str_of(k->d->title)))
            kind = BLOCK_HEADING; /* also at the top of every page */
        else
            TRY(guess_heading(k, text));
    }
    if (!inside && !keep) return OK;
    char *copy = arena_str(k->out->mem, text.p, text.n);
    if (!copy) return no_memory;
    bool joined = inside && k->last && k->last <= from && only_space((str){all.p + k->last, from - k->last});
    unit u = {.lead = -1,
              .key = -1,
              .passage = inside ? k->passage : -1,
              .start = start,
              .end = end,
              .text = {copy, text.n},
              .kind = kind,
              .joined = joined,
              .header = -1,
              .above = k->above};
    if (inside) k->last = to;
    *index = (i32)k->out->n;
    if (kind == BLOCK_TEXT) k->lead = inside ? *index : -1;
    if (kind == BLOCK_HEADING) k->lead = -1;
    return VEC_PUSH(k->out->u, k->out->n, k->out->cap, u) ? OK : no_memory;
}

static err give_row(cutter *k, const piece *p, bool names)
{
    i32 at, head;
    if (names) {
        TRY(give(k, p->from, p->to, p->start, p->kind, false, &k->header));
        k->names = *p;
        k->has_names = k->header < 0;
        return OK;
    }
    TRY(give(k, p->from, p->to, p->start, p->kind, false, &at));
    if (at < 0) return OK;
    if (k->has_names) {
        k->has_names = false;
        TRY(give(k, k->names.from, k->names.to, k->names.start, k->names.kind, true, &head));
        k->header = head;
    }
    k->out->u[at].header = k->header;
    k->out->u[at].lead = k->lead;
    return OK;
}

/* `s` is the text at `from`, with white space that may be another than the document's */
static err give_sentences(cutter *k, str s, usize from, u32 start, u8 kind)
{
    i32 at;
    for (usize i = 0; i < s.n;) {
        usize end = text_sentence_end(s, i);
        if (end <= i) end = s.n;
        TRY(give(k, from + i, from + end, start, kind, false, &at));
        start += (u32)utf8_count((str){s.p + i, end - i});
        i = end;
    }
    return OK;
}

static bool is_rule(str s) /* |---|:---| */
{
    usize dashes = 0;
    for (usize i = 0; i < s.n; i++) {
        if (!strchr("|-: \t", s.p[i])) return false;
        dashes += s.p[i] == '-';
    }
    return dashes > 1;
}

/* an indented line without a mark of its own goes on with its list item */
static bool goes_on(str line)
{
    str words = str_trim(line);
    return line.n > 1 && line.p[0] == ' ' && words.n && !strchr("-*+0123456789", words.p[0]);
}

bool has_digit(str s)
{
    for (usize at = 0; at < s.n;)
        if (text_is_digit(utf8_next(s, &at))) return true;
    return false;
}

/* One line of a table. Without cells it is a caption, which is text; behind one in the middle a line without figures is the
 * next table's column names, another goes on below the names that hold. */
static err give_table_line(cutter *k, const piece *line, str text, bool *names_next, bool *captioned)
{
    piece row = *line;
    if (is_rule(str_trim(text))) return OK;
    if (str_find(text, S("|"), 0) < 0 && str_find(str_trim(text), S("\t"), 0) < 0) {
        i32 at;
        *captioned = true;
        return give(k, row.from, row.to, row.start, BLOCK_TEXT, false, &at);
    }
    bool names = *names_next || (*captioned && !has_digit(text));
    if (names) k->header = -1, k->has_names = false;
    *names_next = *captioned = false;
    return give_row(k, &row, names);
}

/* lines of a table, a list or code */
static err give_lines(cutter *k, const piece *p)
{
    str s = {k->d->text + p->from, p->to - p->from};
    u32 start = p->start;
    bool names_next = true, captioned = false;
    k->header = -1, k->has_names = false;
    for (usize i = 0, end; i < s.n; i = end) {
        i64 nl = str_find(s, S("\n"), i);
        end = nl < 0 ? s.n : (usize)nl + 1;
        while (p->kind == BLOCK_LIST && end < s.n && goes_on((str){s.p + end, s.n - end})) {
            nl = str_find(s, S("\n"), end);
            end = nl < 0 ? s.n : (usize)nl + 1;
        }
        str line = {s.p + i, end - i};
        piece row = {.start = start, .from = p->from + i, .to = p->from + end, .kind = p->kind};
        start += (u32)utf8_count(line);
        switch (p->kind) {
        case BLOCK_LIST: TRY(give_sentences(k, line, row.from, row.start, p->kind)); break;
        case BLOCK_TABLE: TRY(give_table_line(k, &row, line, &names_next, &captioned)); break;
        default:
            if (!is_rule(str_trim(line))) TRY(give_row(k, &row, false));
        }
    }
    k->header = -1, k->has_names = false;
    return OK;
}

/* ---- pages: rows and running text from places
 * ----------------------------------------------------------------------------------- */
static err place_pieces(cutter *k)
{
    for (usize i = 0; i < k->n; i++) {
        place w = {0};
        TRY(load_place(k->d, k->p[i].start, k->p[i].end, &w));
        if (w.n_rects) {
            k->p[i].page = w.rects[0].page;
            k->p[i].y0 = w.rects[0].box[1], k->p[i].x1 = w.rects[0].box[2];
            k->p[i].height = w.rects[0].box[3] - w.rects[0].box[1];
        }
        mem_free(w.rects);
    }
    return OK;
}

static bool same_line(const piece *a, const piece *b)
{
    float d = a->y0 - b->y0;
    if (a->kind == BLOCK_TABLE || b->kind == BLOCK_TABLE) return false;
    return a->page == b->page && a->height > 0 && b->height > 0 && (d < 0 ? -d : d) < 0.4f * a->height;
}

static bool line_is_open(const cutter *k, const piece *p, float margin) /* its sentence goes on in the next line */
{
    str s = {k->d->text + p->from, p->to - p->from};
    s = str_trim(s);
    return s.n && !strchr(".!?:;", s.p[s.n - 1]) && !str_ends(s, S("\xE3\x80\x82")) && p->x1 >= 0.85f * margin;
}

/* lines that stand apart in the text but are one paragraph: the blank lines between them end no sentence */
static err give_flow(cutter *k, const piece *p, usize n)
{
    usize len = p[n - 1].to - p[0].from;
    char *copy = mem_strndup(k->d->text + p[0].from, len);
    if (!copy) return no_memory;
    for (usize i = 0; i + 1 < n; i++)
        for (usize at = p[i].to - p[0].from; at + 1 < p[i + 1].from - p[0].from; at++) copy[at] = ' ';
    err bad = give_sentences(k, (str){copy, len}, p[0].from, p[0].start, BLOCK_TEXT);
    mem_free(copy);
    return bad;
}

static err give_pages(cutter *k)
{
    float margin = 0;
    TRY(place_pieces(k));
    for (usize i = 0; i < k->n; i++) margin = k->p[i].x1 > margin ? k->p[i].x1 : margin;
    bool in_table = false;
    for (usize i = 0, end; i < k->n; i = end) {
        end = i + 1;
        if (k->p[i].kind == BLOCK_TABLE) { /* read as one: a row a line */
            TRY(give_lines(k, &k->p[i]));
            in_table = false;
            continue;
        }
        while (end < k->n && same_line(&k->p[i], &k->p[end])) end++;
        piece all = k->p[i];
        if (end - i > 1) {
            all.to = k->p[end - 1].to, all.kind = BLOCK_TABLE;
            if (!in_table) k->header = -1;
            TRY(give_row(k, &all, !in_table));
            in_table = true;
            continue;
        }
        in_table = false;
        while (end < k->n && k->p[end].kind != BLOCK_TABLE && line_is_open(k, &k->p[end - 1], margin) && k->p[end].page == all.page &&
               !(end + 1 < k->n && same_line(&k->p[end], &k->p[end + 1])))
            end++;
        TRY(give_flow(k, &k->p[i], end - i));
    }
    return OK;
}

/* ---- one passage
 * ----------------------------------------------------------------------------------------------------------------- */
static err give_piece(cutter *k, const piece *p)
{
    i32 at;
    switch (p->kind) {
    case BLOCK_HEADING:
        TRY(set_heading(k, p->level < LEVELS ? p->level : LEVELS - 1, (str){k->d->text + p->from, p->to - p->from}));
        return give(k, p->from, p->to, p->start, p->kind, false, &at);
    case BLOCK_ROW: return give_row(k, p, p->level == 1);
    case BLOCK_TEXT: return give_sentences(k, (str){k->d->text + p->from, p->to - p->from}, p->from, p->start, p->kind);
    default: return give_lines(k, p);
    }
}

/* the blocks before it give headings and column names, those inside the units */
static err cut_passage(cutter *k)
{
    const loaded *d = k->d;
    str all = {d->text, d->text_len};
    usize byte = 0, last = 0;
    u32 at = 0;
    TRY(set_heading(k, 0, (str){"", 0}));
    while (last < d->n_blocks && d->blocks[last].start < k->h->end) k->headed |= d->blocks[last++].kind == BLOCK_HEADING;
    usize inside = last;
    while (inside && d->blocks[inside - 1].end > k->h->start) inside--;
    for (usize i = 0; i < last; i++) {
        const block *b = &d->blocks[i];
        piece p = {.start = b->start, .end = b->end, .kind = b->kind, .level = b->level};
        p.from = byte + utf8_offset((str){all.p + byte, all.n - byte}, b->start - at);
        p.to = byte = p.from + utf8_offset((str){all.p + p.from, all.n - p.from}, b->end - b->start);
        at = b->end;
        bool near = i + BEFORE >= inside;
        if (d->source == SOURCE_PDF) {
            if (near && !VEC_PUSH(k->p, k->n, k->cap, p)) return no_memory;
        } else if (near || b->kind == BLOCK_HEADING || (b->kind == BLOCK_ROW && b->level == 1))
            TRY(give_piece(k, &p));
    }
    return d->source == SOURCE_PDF ? give_pages(k) : OK;
}

/* ---- terms
 * -------------------------------------------------------------------------------------------------------------------------- */
static int by_hash(const void *a, const void *b)
{
    u64 x = *(const u64 *)a, y = *(const u64 *)b;
    return (x > y) - (x < y);
}

err term_set_of(arena *mem, str text, bool query, term_set *out)
{
    terms t = {0};
    err bad = terms_of(text, query, &t);
    *out = (term_set){0};
    if (!bad.code && t.n && !(out->h = arena_take(mem, t.n * sizeof(u64)))) bad = no_memory;
    for (usize i = 0; !bad.code && i < t.n; i++)
        if (t.t[i].field == 0) out->h[out->n++] = t.t[i].hash;
    terms_free(&t);
    if (!out->n) return bad;
    qsort(out->h, out->n, sizeof(u64), by_hash);
    usize n = 1;
    for (usize i = 1; i < out->n; i++)
        if (out->h[i] != out->h[n - 1]) out->h[n++] = out->h[i];
    out->n = n;
    return bad;
}

bool term_set_has(const term_set *s, u64 hash) { return s->n && bsearch(&hash, s->h, s->n, sizeof(u64), by_hash); }

/* rows of another table of the same document that say what a row's first cell stands for */
static void join_rows(units *u, const hits *h)
{
    for (usize i = 0; i < u->n; i++)
        for (usize k = 0; k < u->n && u->u[i].header >= 0 && u->u[i].passage >= 0 && u->u[i].key < 0; k++) {
            const unit *of = &u->u[k];
            if (of->header < 0 || of->passage < 0 || strcmp(h->h[u->u[i].passage].document, h->h[of->passage].document)) continue;
            if (unit_is_key(u, &u->u[i], of)) u->u[i].key = (i32)k;
        }
}

static err know_units(units *u)
{
    for (usize i = 0; i < u->n; i++) {
        unit *x = &u->u[i];
        buf b = {0};
        TRY(term_set_of(u->mem, x->text, false, &x->own));
        TRY(claims_of(x->text, true, &x->facts));
        buf_str(&b, x->above);
        buf_byte(&b, '\n');
        if (x->header >= 0) buf_str(&b, u->u[x->header].text), u->u[x->header].names = true;
        if (x->lead >= 0) buf_str(&b, S("\n")), buf_str(&b, u->u[x->lead].text);
        if (x->key >= 0) buf_str(&b, S("\n")), buf_str(&b, u->u[x->key].text);
        err bad = buf_error(&b);
        if (!bad.code) bad = term_set_of(u->mem, buf_view(&b), false, &x->around);
        buf_free(&b);
        TRY(bad);
    }
    return OK;
}

err units_of(collection *c, const hits *h, usize most, units *out)
{
    *out = (units){.mem = arena_new()};
    if (!out->mem) return no_memory;
    err bad = OK;
    for (usize i = 0; i < h->n && i < most && !bad.code; i++) {
        cutter k = {.h = &h->h[i], .out = out, .passage = (int)i, .header = -1, .lead = -1};
        bad = collection_document(c, h->h[i].document, &k.d, NULL);
        if (!bad.code) bad = cut_passage(&k);
        mem_free(k.p);
    }
    if (!bad.code) join_rows(out, h), bad = know_units(out);
    if (bad.code) units_free(out);
    return bad;
}

void units_free(units *u)
{
    for (usize i = 0; i < u->n; i++) claims_free(&u->u[i].facts);
    mem_free(u->u);
    arena_free(u->mem);
    *u = (units){0};
}
