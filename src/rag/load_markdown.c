/* rag/load_markdown.c - Markdown: the source itself is the canonical text, and the blocks are ranges of it.
 *
 * The block scanner is written here because md4c, which is at hand, tells what a block is but not where it begins and ends, and
 * a citation needs the range. It follows CommonMark's block phase (a stack of quotes and list items, one open leaf, lazy
 * paragraph lines) with GitHub's tables and front matter on top; the tests hold it against md4c on real documents. Only the
 * outermost block of each place becomes a block: a list with its sublists, a quote with what is in it. One pass, each line
 * looked at a bounded number of times.
 * Not done: inline markup stays as it is written; reference definitions are text; a list nested over 64 deep is text there. */
#include "rag/load_canon.h"
#include <ctype.h>

enum { NEST_MAX = 64, TAB = 4, LABEL_MAX = 300 };
typedef enum { LEAF_NONE, LEAF_PARAGRAPH, LEAF_FENCE, LEAF_INDENTED, LEAF_HTML, LEAF_TABLE } leaf_kind;

typedef struct {
    char mark;  /* '>': quote; list item: '-', '+', '*', '.' or ')' */
    u32 indent; /* columns to the item's content, from the content of what is around */
    bool bare;  /* item with nothing in it so far */
} container;

typedef struct {
    text_line l;
    usize i; /* byte of l.text */
    u32 col; /* column; behind the column of byte i when a tab is half used */
} cursor;

typedef struct {
    container nest[NEST_MAX];
    u32 n_nest, n_matched;
    leaf_kind leaf;
    char fence;
    u32 fence_len;
    int html; /* CommonMark's kind 1..7 */
    u32 paragraph_lines, header_cells;
    bool open; /* an outermost block */
    int kind, level;
    u32 start, end;
    usize start_at; /* byte of the text where it begins */
    block_list blocks;
    char *title;
    bool no_memory;
} scanner;

/* ---- columns ------------------------------------------------------------------------------------------------------------ */
static int at(const cursor *c, usize ahead) { return c->i + ahead < c->l.text.n ? (u8)c->l.text.p[c->i + ahead] : -1; }
static str rest(const cursor *c) { return (str){c->l.text.p + c->i, c->l.text.n - c->i}; }

static u32 indent_of(const cursor *c)
{
    u32 col = c->col;
    for (usize i = c->i; i < c->l.text.n; i++) {
        char x = c->l.text.p[i];
        if (x == ' ')
            col++;
        else if (x == '\t')
            col = (col / TAB + 1) * TAB;
        else
            break;
    }
    return col - c->col;
}

static void skip_columns(cursor *c, u32 n)
{
    while (n && (at(c, 0) == ' ' || at(c, 0) == '\t')) {
        u32 wide = at(c, 0) == ' ' ? 1 : TAB - c->col % TAB;
        if (wide > n) {
            c->col += n;
            return;
        }
        c->i++;
        c->col += wide;
        n -= wide;
    }
}

static void skip_bytes(cursor *c, usize n) { c->i += n, c->col += (u32)n; }

static bool ends_here(int x) { return x < 0 || x == ' ' || x == '\t'; }

/* ---- outermost blocks ------------------------------------------------------------------------------------------------------ */
static void touch(scanner *s, const cursor *c)
{
    str t = c->l.text;
    while (t.n && (t.p[t.n - 1] == ' ' || t.p[t.n - 1] == '\t')) t.n--;
    s->end = c->l.end - (u32)(c->l.text.n - t.n);
}

static void close_block(scanner *s)
{
    if (s->open) blocks_add(&s->blocks, s->start, s->end, s->kind, s->level);
    s->open = false;
}

/* A block begins at the cursor: an outermost one when nothing is around it. Only white space is before it on its line. */
static void begin(scanner *s, const cursor *c, int kind, int level)
{
    if (s->n_nest) return;
    close_block(s);
    s->open = true;
    s->kind = kind;
    s->level = level;
    s->start = c->l.start + (u32)(kind == BLOCK_CODE ? 0 : c->i);
    s->start_at = c->l.at + c->i;
}

static void close_nest(scanner *s, u32 keep)
{
    s->n_nest = keep;
    s->leaf = LEAF_NONE;
}

/* The first heading is the title: its text without marks, emphasis, code quotes, and a trailing {#anchor}. */
static void take_title(scanner *s, str t)
{
    if (s->title) return;
    t = str_trim(t);
    if (t.n && t.p[t.n - 1] == '}') {
        usize n = t.n;
        while (n && t.p[n - 1] != '{') n--;
        if (n > 1) t = str_trim((str){t.p, n - 1});
    }
    usize n = t.n;
    while (n && t.p[n - 1] == '#') n--;
    if (!n || t.p[n - 1] == ' ' || t.p[n - 1] == '\t') t = str_trim((str){t.p, n});
    buf clean = {0};
    for (usize i = 0; i < t.n; i++)
        if (t.p[i] != '*' && t.p[i] != '`') buf_byte(&clean, (u8)t.p[i]);
    if (clean.bad || load_label(buf_view(&clean), LABEL_MAX, &s->title).code) s->no_memory = true;
    buf_free(&clean);
}

/* ---- what a line can begin --------------------------------------------------------------------------------------------------
 */
static u32 run_of(const cursor *c, int mark)
{
    u32 n = 0;
    while (at(c, n) == mark) n++;
    return n;
}

static bool is_rule(const cursor *c)
{
    int mark = at(c, 0);
    u32 n = 0;
    if (mark != '-' && mark != '*' && mark != '_') return false;
    for (usize i = 0; at(c, i) >= 0; i++) {
        if (at(c, i) == mark)
            n++;
        else if (at(c, i) != ' ' && at(c, i) != '\t')
            return false;
    }
    return n >= 3;
}

static int underline_level(const cursor *c) /* setext: 1, 2, or 0 */
{
    int mark = at(c, 0);
    if (mark != '=' && mark != '-') return 0;
    str t = rest(c);
    for (usize i = run_of(c, mark); i < t.n; i++)
        if (t.p[i] != ' ' && t.p[i] != '\t') return 0;
    return mark == '=' ? 1 : 2;
}

static bool opens_fence(const cursor *c, u32 *len)
{
    int mark = at(c, 0);
    if (mark != '`' && mark != '~') return false;
    *len = run_of(c, mark);
    if (*len < 3) return false;
    str info = rest(c);
    return mark == '~' || !memchr(info.p + *len, '`', info.n - *len);
}

static bool closes_fence(const scanner *s, const cursor *c)
{
    cursor k = *c;
    u32 indent = indent_of(&k);
    if (indent > 3) return false;
    skip_columns(&k, indent);
    u32 len = run_of(&k, s->fence);
    return len >= s->fence_len && line_blank((str){rest(&k).p + len, rest(&k).n - len});
}

/* A list item's marker; width in bytes, 0: none. An item that interrupts a paragraph must begin with 1 and have text. */
static usize item_marker(const cursor *c, bool interrupts, char *mark)
{
    usize n = 0;
    int x = at(c, 0);
    if (x == '-' || x == '+' || x == '*') {
        n = 1;
        *mark = (char)x;
    } else {
        while (n < 10 && at(c, n) >= '0' && at(c, n) <= '9') n++;
        x = at(c, n);
        if (!n || n > 9 || (x != '.' && x != ')')) return 0;
        if (interrupts && (n != 1 || at(c, 0) != '1')) return 0;
        *mark = (char)x;
        n++;
    }
    if (!ends_here(at(c, n))) return 0;
    if (interrupts && line_blank((str){rest(c).p + n, rest(c).n - n})) return 0;
    return n;
}

/* ---- HTML ------------------------------------------------------------------------------------------------------------------ */
static const char html_blocks[] =
    " address article aside base basefont blockquote body caption center col colgroup dd details dialog dir div dl dt fieldset "
    "figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head header hr html iframe legend li link main menu menuitem "
    "nav noframes ol optgroup option p param search section summary table tbody td tfoot th thead title tr track ul ";

/* The tag's name in lower case with a space on both sides; its length, 0 if there is none. */
static usize tag_name(const cursor *c, usize from, char out[16])
{
    usize n = 0;
    while (n < 12 && isalnum(at(c, from + n) < 0 ? 0 : at(c, from + n))) {
        out[1 + n] = (char)tolower(at(c, from + n));
        n++;
    }
    out[0] = out[1 + n] = ' ';
    out[2 + n] = 0;
    return n;
}

/* Kind 7: one whole opening or closing tag, alone on its line. */
static bool is_lone_tag(const cursor *c)
{
    usize i = 1;
    bool closing = at(c, 1) == '/';
    i += closing;
    if (!isalpha(at(c, i) < 0 ? 0 : at(c, i))) return false;
    while (at(c, i) >= 0 && (isalnum(at(c, i)) || at(c, i) == '-')) i++;
    int quote = 0;
    if (!ends_here(at(c, i)) && at(c, i) != '>' && at(c, i) != '/') return false;
    for (; at(c, i) >= 0 && (quote || at(c, i) != '>'); i++) {
        int x = at(c, i);
        if (quote)
            quote = x == quote ? 0 : quote;
        else if (closing && !ends_here(x))
            return false;
        else if (x == '"' || x == '\'')
            quote = x;
        else if (x == '<' || x == '`')
            return false;
    }
    return at(c, i) == '>' && line_blank((str){rest(c).p + i + 1, rest(c).n - i - 1});
}

static int opens_html(const cursor *c, bool interrupts)
{
    char name[16];
    if (at(c, 0) != '<') return 0;
    if (at(c, 1) == '!' && at(c, 2) == '-' && at(c, 3) == '-') return 2;
    if (at(c, 1) == '?') return 3;
    if (at(c, 1) == '!' && isalpha(at(c, 2) < 0 ? 0 : at(c, 2))) return 4;
    if (str_starts(rest(c), S("<![CDATA["))) return 5;
    bool closing = at(c, 1) == '/';
    usize n = tag_name(c, 1 + closing, name);
    int after = at(c, 1 + closing + n);
    if (!closing && n && (ends_here(after) || after == '>') && strstr(" script pre style textarea ", name)) return 1;
    if (n && (ends_here(after) || after == '>' || (after == '/' && at(c, 2 + closing + n) == '>')) && strstr(html_blocks, name))
        return 6;
    return !interrupts && is_lone_tag(c) ? 7 : 0;
}

static bool html_ends(int kind, str t)
{
    static const char *const ends[] = {[2] = "-->", [3] = "?>", [4] = ">", [5] = "]]>"};
    if (kind >= 6) return false;
    if (kind >= 2) return str_find(t, str_of(ends[kind]), 0) >= 0;
    for (i64 i = str_find(t, S("</"), 0); i >= 0; i = str_find(t, S("</"), (usize)i + 2)) {
        const char *p = t.p + i + 2;
        usize n = t.n - (usize)i - 2;
        if ((n >= 7 && !strncasecmp(p, "script>", 7)) || (n >= 4 && !strncasecmp(p, "pre>", 4)) ||
            (n >= 6 && !strncasecmp(p, "style>", 6)) || (n >= 9 && !strncasecmp(p, "textarea>", 9)))
            return true;
    }
    return false;
}

/* ---- tables -----------------------------------------------------------------------------------------------------------------
 */
/* Cells of a row: '|' not behind a backslash separates; one at either end is a frame. */
static u32 cells_of(str t)
{
    t = str_trim(t);
    u32 n = 1;
    for (usize i = 0; i < t.n; i++) {
        if (t.p[i] == '\\')
            i++;
        else if (t.p[i] == '|' && i && i + 1 < t.n)
            n++;
    }
    return n;
}

static bool is_delimiter_row(str t)
{
    t = str_trim(t);
    bool pipe = false, dash = false; /* a dash in this cell */
    if (t.n && t.p[0] == '|') t.p++, t.n--, pipe = true;
    for (usize i = 0; i < t.n; i++) {
        char x = t.p[i];
        if (x == '|') {
            if (!dash) return false;
            dash = false;
            pipe = true;
        } else if (x == '-')
            dash = true;
        else if (x != ':' && x != ' ' && x != '\t')
            return false;
    }
    return pipe && (dash || (t.n && t.p[t.n - 1] == '|'));
}

/* ---- one line -----------------------------------------------------------------------------------------------------------------
 */
/* How many of the open quotes and items this line continues; the cursor ends up behind their marks. */
static u32 match(scanner *s, cursor *c)
{
    u32 n = 0;
    for (; n < s->n_nest; n++) {
        container *k = &s->nest[n];
        u32 indent = indent_of(c);
        if (k->mark == '>') {
            cursor ahead = *c;
            skip_columns(&ahead, indent);
            if (indent > 3 || at(&ahead, 0) != '>') break;
            *c = ahead;
            skip_bytes(c, 1);
            skip_columns(c, 1);
        } else if (line_blank(rest(c))) {
            if (k->bare) break;
        } else if (indent >= k->indent) {
            skip_columns(c, k->indent);
            k->bare = false;
        } else
            break;
    }
    return n;
}

/* An open fence or HTML block takes the line as it is. */
static bool continue_raw(scanner *s, const cursor *c)
{
    if (s->leaf != LEAF_FENCE && s->leaf != LEAF_HTML) return false;
    if (!line_blank(c->l.text)) touch(s, c);
    if (s->leaf == LEAF_FENCE) {
        if (closes_fence(s, c)) s->leaf = LEAF_NONE;
        return true;
    }
    if (s->html >= 6 ? line_blank(rest(c)) : html_ends(s->html, rest(c))) s->leaf = LEAF_NONE;
    return true;
}

static void push(scanner *s, container k)
{
    s->nest[s->n_nest++] = k;
    s->n_matched = s->n_nest;
}

/* A quote or list item that begins at the cursor; the cursor goes into it. `fresh`: this line has opened something already. */
static bool open_container(scanner *s, cursor *c, u32 indent, bool interrupts)
{
    cursor k = *c;
    char mark;
    skip_columns(&k, indent);
    if (s->n_matched >= NEST_MAX) return false;
    if (at(&k, 0) == '>') {
        close_nest(s, s->n_matched);
        begin(s, &k, BLOCK_TEXT, 0);
        touch(s, &k);
        push(s, (container){'>', 0, false});
        skip_bytes(&k, 1);
        skip_columns(&k, 1);
        *c = k;
        return true;
    }
    usize width = is_rule(&k) ? 0 : item_marker(&k, interrupts, &mark);
    if (!width) return false;
    bool brother = !s->n_matched && s->n_nest && s->nest[0].mark == mark; /* the outermost list goes on */
    close_nest(s, s->n_matched);
    if (!brother) begin(s, &k, BLOCK_LIST, 0);
    touch(s, &k);
    skip_bytes(&k, width);
    u32 space = indent_of(&k);
    bool bare = line_blank(rest(&k));
    if (bare || space > 4) space = 1;
    skip_columns(&k, space);
    push(s, (container){mark, indent + (u32)width + space, bare});
    *c = k;
    return true;
}

/* A heading, rule, fence or HTML block that begins at the cursor (behind the indentation). */
static bool open_leaf(scanner *s, cursor *c, bool paragraph, bool interrupts)
{
    u32 n = run_of(c, '#'), len;
    if (n >= 1 && n <= 6 && ends_here(at(c, n))) {
        close_nest(s, s->n_matched);
        begin(s, c, BLOCK_HEADING, (int)n);
        if (!s->n_nest) take_title(s, (str){rest(c).p + n, rest(c).n - n});
    } else if (paragraph && (n = (u32)underline_level(c))) {
        if (!s->n_nest) {
            s->kind = BLOCK_HEADING;
            s->level = (int)n;
            take_title(s, (str){c->l.text.p - c->l.at + s->start_at, c->l.at - s->start_at});
        }
        s->leaf = LEAF_NONE;
    } else if (is_rule(c)) {
        close_nest(s, s->n_matched);
        begin(s, c, BLOCK_TEXT, 0);
    } else if (opens_fence(c, &len)) {
        close_nest(s, s->n_matched);
        begin(s, c, BLOCK_CODE, 0);
        s->leaf = LEAF_FENCE;
        s->fence = (char)at(c, 0);
        s->fence_len = len;
    } else if ((n = (u32)opens_html(c, interrupts))) {
        close_nest(s, s->n_matched);
        begin(s, c, BLOCK_TEXT, 0);
        s->html = (int)n;
        s->leaf = html_ends(s->html, rest(c)) ? LEAF_NONE : LEAF_HTML;
    } else
        return false;
    touch(s, c);
    return true;
}

static void put_text(scanner *s, cursor *c, bool fresh)
{
    bool all = s->n_matched == s->n_nest;
    if (s->leaf == LEAF_PARAGRAPH && !all && !fresh) { /* lazy: the paragraph goes on without the marks of its quote or item */
        touch(s, c);
        return;
    }
    if (!all) close_nest(s, s->n_matched);
    if (s->leaf == LEAF_PARAGRAPH) {
        if (s->paragraph_lines++ == 1 && is_delimiter_row(rest(c)) && cells_of(rest(c)) == s->header_cells) {
            s->leaf = LEAF_TABLE;
            if (!s->n_nest) s->kind = BLOCK_TABLE;
        }
    } else if (s->leaf != LEAF_TABLE) {
        begin(s, c, BLOCK_TEXT, 0);
        s->leaf = LEAF_PARAGRAPH;
        s->paragraph_lines = 1;
        s->header_cells = cells_of(rest(c));
    }
    touch(s, c);
}

static void put_line(scanner *s, cursor *c)
{
    s->n_matched = match(s, c);
    if (s->n_matched && !line_blank(c->l.text)) touch(s, c); /* the mark of a quote may be all there is */
    if (s->n_matched == s->n_nest && continue_raw(s, c)) return;
    for (bool fresh = false;; fresh = true) {
        bool all = s->n_matched == s->n_nest, paragraph = s->leaf == LEAF_PARAGRAPH && all,
             lazy = s->leaf == LEAF_PARAGRAPH && !all;
        u32 indent = indent_of(c);
        if (line_blank(rest(c))) {
            if (!all) close_nest(s, s->n_matched);
            if (s->leaf != LEAF_INDENTED) s->leaf = LEAF_NONE;
            return;
        }
        if (indent >= 4 && !paragraph && !lazy) {
            if (!all) close_nest(s, s->n_matched);
            if (s->leaf != LEAF_INDENTED) begin(s, c, BLOCK_CODE, 0);
            s->leaf = LEAF_INDENTED;
            touch(s, c);
            return;
        }
        if (indent < 4) {
            cursor k = *c;
            skip_columns(&k, indent);
            if (paragraph && underline_level(&k) && open_leaf(s, &k, true, true)) return;
            if (open_container(s, c, indent, paragraph)) continue;
            if (open_leaf(s, &k, paragraph, paragraph || lazy)) return;
            *c = k;
        }
        put_text(s, c, fresh);
        return;
    }
}

/* ---- front matter -------------------------------------------------------------------------------------------------------------
 */
/* `title: X` or `제목: X` (YAML) or `title = "X"` (TOML) */
static void front_title(scanner *s, str t)
{
    usize n = str_starts(t, S("title")) ? 5 : str_starts(t, S("제목")) ? 6 : 0;
    if (!n) return;
    t = str_trim((str){t.p + n, t.n - n});
    if (!t.n || (t.p[0] != ':' && t.p[0] != '=')) return;
    t = str_trim((str){t.p + 1, t.n - 1});
    if (t.n >= 2 && (t.p[0] == '"' || t.p[0] == '\'') && t.p[t.n - 1] == t.p[0]) t = (str){t.p + 1, t.n - 2};
    if (!s->title && load_label(t, LABEL_MAX, &s->title).code) s->no_memory = true;
}

/* Lines between two lines of --- or +++ at the very top; `r` goes behind them. */
static void front_matter(scanner *s, line_reader *r)
{
    line_reader ahead = *r;
    text_line l;
    if (!line_next(&ahead, &l)) return;
    str fence = str_trim(l.text);
    if (l.text.p[0] == ' ' || (!str_eq(fence, S("---")) && !str_eq(fence, S("+++")))) return;
    line_reader body = ahead;
    for (bool first = true; line_next(&ahead, &l); first = false) {
        if (first && line_blank(l.text)) return; /* a rule, then text */
        str t = str_trim(l.text);
        if (!str_eq(t, fence) && !(fence.p[0] == '-' && str_eq(t, S("...")))) continue;
        blocks_add(&s->blocks, 0, l.start + (u32)utf8_count(t), BLOCK_CODE, 0);
        for (text_line k; line_next(&body, &k) && k.at < l.at;) front_title(s, k.text);
        *r = ahead;
        return;
    }
}

err load_markdown(const load_input *in)
{
    TRY(load_canonical(in->bytes, in->out));
    scanner *s = mem_zero(sizeof *s);
    if (!s) return err_new(ERR_NOMEM, "no memory to read Markdown");
    line_reader r = {{in->out->text, in->out->text_len}, 0, 0};
    front_matter(s, &r);
    for (cursor c = {0}; line_next(&r, &c.l); c = (cursor){0}) put_line(s, &c);
    close_block(s);
    in->out->title = s->title;
    err bad = blocks_end(&s->blocks, in->out);
    if (!bad.code && s->no_memory) bad = err_new(ERR_NOMEM, "no memory for a title");
    mem_free(s);
    return bad;
}
