/* tune/data_table.c - TSV and CSV: which column is what, and every row to its sample.
 *
 * CSV fields follow RFC 4180; TSV fields are taken as they are, quotes and all, as the published label sets are written. Columns
 * are known by the names of the first row. Without such a row two columns can only be a text and its label, and the label is the
 * column whose values repeat. */
#include "tune/data_inside.h"
#include <ctype.h>

enum { COLUMNS = 64, NONE = -1 };
typedef struct {
    str s;
    char separator;
    usize at;
    u32 line;
} table_at;
typedef struct {
    str cell[COLUMNS]; /* into the file, or into `text` when quotes were taken away */
    usize n;
    u32 line;
    bool open, too_many; /* a quote that does not end; more columns than COLUMNS */
    buf text;
} table_row;
typedef struct {
    int a, b, c, system;
    tune_format format;
    bool header;
} columns; /* text; prompt completion; instruction output input; text label */

/* a quoted field from at->at (behind the quote); its end is past the closing quote */
static str quoted_field(table_at *at, table_row *r, usize *offset)
{
    *offset = r->text.n;
    r->open = true;
    while (at->at < at->s.n) {
        char c = at->s.p[at->at++];
        at->line += c == '\n';
        if (c == '"') {
            if (at->at >= at->s.n || at->s.p[at->at] != '"') {
                r->open = false;
                break;
            }
            at->at++;
        }
        buf_byte(&r->text, c);
    }
    return (str){NULL, r->text.n - *offset};
}

/* quoted cells point into r->text, which moves as it grows: their places are offsets until the row is whole */
static bool next_row(table_at *at, table_row *r)
{
    usize offset[COLUMNS], surplus;
    buf_reset(&r->text);
    r->n = 0, r->line = at->line, r->open = r->too_many = false;
    if (at->at >= at->s.n) return false;
    for (bool more = true; more;) {
        usize from = at->at;
        str cell = {NULL, 0};
        bool quoted = at->separator != '\t' && from < at->s.n && at->s.p[from] == '"';
        if (quoted) at->at++, cell = quoted_field(at, r, r->n < COLUMNS ? &offset[r->n] : &surplus);
        usize rest = at->at;
        while (at->at < at->s.n && at->s.p[at->at] != at->separator && at->s.p[at->at] != '\n') at->at++;
        if (!quoted) cell = (str){at->s.p + rest, at->at - rest};
        if (!quoted && cell.n && cell.p[cell.n - 1] == '\r') cell.n--;
        if (r->n < COLUMNS)
            r->cell[r->n++] = cell;
        else
            r->too_many = true;
        more = at->at < at->s.n && at->s.p[at->at] == at->separator;
        if (at->at < at->s.n) at->line += at->s.p[at->at] == '\n', at->at++;
        if (more && at->at >= at->s.n && r->n < COLUMNS) { /* the file ends behind a separator */
            r->cell[r->n++] = (str){at->s.p + at->s.n, 0};
            more = false;
        }
    }
    for (usize i = 0; i < r->n; i++)
        if (!r->cell[i].p) r->cell[i].p = r->text.p ? r->text.p + offset[i] : "";
    return true;
}

static bool blank(const table_row *r) { return r->n == 1 && !str_trim(r->cell[0]).n; }

/* ---- columns ---- */
static const char *const names[][10] = {{"text", "document", "review", "sentence", "comment", "comments", "question", "content"},
                                        {"label", "labels", "class", "category", "intent", "rating", "sentiment"},
                                        {"prompt", "question", "q"},
                                        {"completion", "answer", "a", "response"},
                                        {"instruction"},
                                        {"output"},
                                        {"input"},
                                        {"system"}};
enum { C_TEXT, C_LABEL, C_PROMPT, C_COMPLETION, C_INSTRUCTION, C_OUTPUT, C_INPUT, C_SYSTEM };

static int column(const table_row *r, int what)
{
    for (usize k = 0; k < COUNT_OF(names[0]) && names[what][k]; k++)
        for (usize i = 0; i < r->n; i++) {
            str s = str_trim(r->cell[i]);
            if (s.n == strlen(names[what][k]) && !strncasecmp(s.p, names[what][k], s.n)) return (int)i;
        }
    return NONE;
}

static bool columns_named(const table_row *r, columns *c)
{
    *c = (columns){.a = column(r, C_INSTRUCTION),
                   .b = column(r, C_OUTPUT),
                   .c = column(r, C_INPUT),
                   .system = column(r, C_SYSTEM),
                   .format = TUNE_INSTRUCTION,
                   .header = true};
    if (c->a >= 0 && c->b >= 0) return true;
    *c = (columns){
        .a = column(r, C_PROMPT), .b = column(r, C_COMPLETION), .c = NONE, .system = NONE, .format = TUNE_PROMPT, .header = true};
    if (c->a >= 0 && c->b >= 0) return true;
    *c = (columns){
        .a = column(r, C_TEXT), .b = column(r, C_LABEL), .c = NONE, .system = NONE, .format = TUNE_LABEL, .header = true};
    if (c->a >= 0 && c->b >= 0) return true;
    c->format = TUNE_TEXT;
    return c->a >= 0 && r->n == 1;
}

/* two columns without names: the one that repeats is the label */
static err columns_counted(tune_data *d, str s, char separator, columns *c, bool *good)
{
    table_at at = {.s = s, .separator = separator, .line = 1};
    table_row r = {0};
    map *seen[2] = {map_new(), map_new()};
    usize n = 0;
    err bad = seen[0] && seen[1] ? OK : err_new(ERR_NOMEM, "out of memory for a table");
    while (!bad.code && next_row(&at, &r)) {
        if (blank(&r) || r.n != 2) continue;
        n++;
        for (int k = 0; k < 2; k++)
            if (!map_put(seen[k], str_trim(r.cell[k]), 1)) bad = err_new(ERR_NOMEM, "out of memory for a table");
    }
    usize first = seen[0] ? map_count(seen[0]) : 0, second = seen[1] ? map_count(seen[1]) : 0;
    *c = (columns){.a = first < second, .b = first >= second, .c = NONE, .system = NONE, .format = TUNE_LABEL};
    usize least = first < second ? first : second;
    *good = n && (n < 8 || least * 2 <= n);
    if (!bad.code && !*good)
        data_refuse(d, "unknown-format", 1,
                    "no column names, and no second column whose values repeat as labels do (%zu rows): expected a first row "
                    "with names (text and label, prompt and completion, instruction and output)",
                    n);
    map_free(seen[0]);
    map_free(seen[1]);
    buf_free(&r.text);
    return bad;
}

static void note_unused(tune_data *d, const table_row *r, const columns *c)
{
    buf b = {0};
    for (int i = 0; i < (int)r->n && b.n < 200; i++)
        if (i != c->a && i != c->b && i != c->c && i != c->system && str_trim(r->cell[i]).n)
            buf_fmt(&b, "%s%.*s", b.n ? ", " : "", (int)i64_min(60, (i64)r->cell[i].n), r->cell[i].p);
    if (b.n) data_note(d, "unused-column", r->line, "columns that are not used: %s", buf_cstr(&b));
    buf_free(&b);
}

/* ---- rows ---- */
static err take_row(tune_data *d, const table_row *r, const columns *c, usize n_columns)
{
    if (r->open) {
        data_refuse(d, "malformed", r->line, "a quote opens here and never closes");
        return OK;
    }
    if (r->n != n_columns || r->too_many) {
        data_refuse(d, "malformed", r->line, "%zu fields, expected %zu", r->n, n_columns);
        return OK;
    }
    for (usize i = 0; i < r->n; i++)
        if (!utf8_valid(r->cell[i]) || memchr(r->cell[i].p, 0, r->cell[i].n)) {
            data_refuse(d, "malformed", r->line, "field %zu is not UTF-8 text", i + 1);
            return OK;
        }
    d->file[d->n_files - 1].n_rows++;
    str a = r->cell[c->a], b = c->b >= 0 ? r->cell[c->b] : S("");
    switch (c->format) {
    case TUNE_INSTRUCTION:
        return data_instruction(d, r->line, c->system >= 0 ? r->cell[c->system] : S(""), a, c->c >= 0 ? r->cell[c->c] : S(""), b);
    case TUNE_PROMPT: return data_pair(d, r->line, a, b);
    case TUNE_LABEL: return data_label(d, r->line, a, b);
    default: return data_text(d, r->line, a);
    }
}

err data_table(tune_data *d, str s, char separator)
{
    table_at at = {.s = s, .separator = separator, .line = 1};
    table_row r = {0};
    columns c;
    bool good = true;
    progress p;
    err bad = OK;
    next_row(&at, &r);
    while (blank(&r) && next_row(&at, &r)) continue;
    usize n = r.n;
    if (!columns_named(&r, &c)) {
        if (n == 2)
            bad = columns_counted(d, s, separator, &c, &good);
        else
            data_refuse(
                d, "unknown-format", r.line,
                "%zu columns whose names say nothing: expected text and label, prompt and completion, or instruction and output",
                n),
                good = false;
    }
    if (!bad.code && good) {
        data_format(d, r.line, c.format);
        if (c.header)
            note_unused(d, &r, &c);
        else
            bad = take_row(d, &r, &c, n);
    }
    progress_start(&p, "data", (i64)s.n);
    while (good && !bad.code && next_row(&at, &r)) {
        if (blank(&r)) continue;
        bad = r.text.bad ? err_new(ERR_NOMEM, "out of memory for a row") : take_row(d, &r, &c, n);
        if (!bad.code) bad = d->reader->bad;
        d->reader->rows_seen++;
        progress_step(&p, (i64)at.at);
    }
    progress_end(&p);
    buf_free(&r.text);
    return bad;
}

/* by the file's name; other names hold a table when the first row has the columns' names, or when labels were asked for */
char data_table_separator(const tune_data *d, str s, const char *path)
{
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    table_at at = {.s = s, .separator = '\t', .line = 1};
    table_row r = {0};
    columns c;
    char found = 0;
    next_row(&at, &r);
    if (dot && !strcmp(dot, ".tsv")) {
        found = '\t';
    } else if (dot && !strcmp(dot, ".csv")) {
        usize tabs = r.n;
        at = (table_at){.s = s, .separator = ',', .line = 1};
        next_row(&at, &r);
        usize commas = r.n;
        at = (table_at){.s = s, .separator = ';', .line = 1};
        next_row(&at, &r);
        found = r.n > commas && r.n >= tabs ? ';' : tabs > commas ? '\t' : ',';
    } else if (r.n > 1 && (columns_named(&r, &c) || (r.n == 2 && (d->o.labels || d->o.template)))) {
        found = '\t';
    }
    buf_free(&r.text);
    return found;
}
