/* rag/load_csv.c - tables as text: RFC 4180 rows, each a block. The canonical text is the file's own, quotes and all, so that a
 * citation shows the row as it is in the file.
 *
 * The separator is the one of , ; tab | that cuts the first rows most evenly. A quote opens a quoted field only at the field's
 * start, as in the RFC; elsewhere it is a letter (5" pipe). A quoted field that never closes would swallow the rest of the file
 * into one row, and is an error that names the row. */
#include "rag/load_canon.h"

enum { LOOK_ROWS = 64 /* rows that decide the separator */ };

typedef struct {
    usize at;   /* of the next row */
    u32 chars;  /* the same in characters */
    usize line; /* from 1 */
} csv_at;
typedef struct {
    u32 start, end; /* characters */
    usize from, to; /* bytes, without the line end */
    usize n_fields, line;
    usize quote_line; /* line of a quote that is never closed, or 0 */
} csv_row;

static bool next_row(str s, char separator, csv_at *at, csv_row *out)
{
    if (at->at >= s.n) return false;
    *out = (csv_row){.start = at->chars, .from = at->at, .n_fields = 1, .line = at->line};
    bool quoted = false, field_start = true;
    usize i = at->at, opened = 0;
    u32 chars = at->chars;
    for (; i < s.n; i++) {
        char c = s.p[i];
        if (c == '\n' && !quoted) break;
        at->line += c == '\n';
        chars += ((u8)c & 0xC0) != 0x80;
        if (quoted) {
            if (c == '"' && i + 1 < s.n && s.p[i + 1] == '"')
                i++, chars++;
            else if (c == '"')
                quoted = false;
        } else if (c == '"' && field_start)
            quoted = true, opened = at->line;
        else if (c == separator)
            out->n_fields++;
        field_start = !quoted && c == separator;
    }
    out->to = i;
    out->end = chars;
    out->quote_line = quoted ? opened : 0;
    at->at = i + 1;
    at->chars = chars + 1;
    at->line++;
    return true;
}

/* How well a separator fits: rows that have as many fields as the first, over all rows looked at; 0 when it does not occur. */
static double fit(str s, char separator)
{
    csv_at at = {.line = 1};
    csv_row row;
    usize n = 0, same = 0, fields = 0;
    while (n < LOOK_ROWS && at.at < (1 << 20) && next_row(s, separator, &at, &row)) {
        if (row.quote_line) break;
        if (row.from == row.to) continue;
        if (!n) fields = row.n_fields;
        same += row.n_fields == fields;
        n++;
    }
    if (!n || fields < 2) return 0;
    return (double)same / (double)n + (double)(fields < 100 ? fields : 100) * 1e-4; /* among equals, the one that cuts finer */
}

static char separator_of(str s)
{
    static const char candidates[] = {',', ';', '\t', '|'};
    char best = ',';
    double best_fit = 0;
    for (usize i = 0; i < sizeof candidates; i++) {
        double f = fit(s, candidates[i]);
        if (f > best_fit) best_fit = f, best = candidates[i];
    }
    return best;
}

/* Column names: no field is empty or a number. */
static bool is_header(str row, char separator)
{
    for (usize from = 0; from <= row.n;) {
        usize to = from;
        while (to < row.n && row.p[to] != separator) to++;
        str field = str_trim((str){row.p + from, to - from});
        if (field.n >= 2 && field.p[0] == '"') field = str_trim((str){field.p + 1, field.n - 2});
        double number;
        if (!field.n || str_f64(field, &number)) return false;
        from = to + 1;
    }
    return true;
}

err load_csv(const load_input *in)
{
    TRY(load_canonical(in->bytes, in->out));
    str s = {in->out->text, in->out->text_len};
    char separator = separator_of(s);
    block_list l = {0};
    csv_at at = {.line = 1};
    bool first = true;
    for (csv_row row; next_row(s, separator, &at, &row);) {
        if (row.quote_line) {
            blocks_free(&l);
            return err_new(ERR_FORMAT, "row at line %zu: the quote opened at line %zu is never closed", row.line, row.quote_line);
        }
        str text = {s.p + row.from, row.to - row.from};
        if (line_blank(text)) continue;
        blocks_add(&l, row.start, row.end, BLOCK_ROW, first && row.n_fields > 1 && is_header(text, separator));
        first = false;
    }
    return blocks_end(&l, in->out);
}
