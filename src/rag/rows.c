/* rag/rows.c - a unit as a model reads it: on one line, each cell of a row behind its column's name.
 *
 * A small model loses the column of a cell when the names stand a line or two above it; "Managers: USD 210" it reads right. Only
 * where names and cells are as many; other rows are shown as they stand, and their names go before them (unit_has_names).
 *
 * "Group B: USD 210" answers nothing by itself when another table says which countries are group B: the two rows are joined where
 * first columns of one name hold one cell.
 *
 * Not here: cells that span columns or rows. */
#include "rag/answer.h"

enum { CELLS = 32 };
typedef struct {
    str cell[CELLS];
    usize n; /* may be more than CELLS: then it is no table to us */
} cells;
typedef struct {
    char separator;  /* 0: the row is not cut as its names are */
    bool first_bare; /* the first column has no name: the names begin at the second */
} cut;

/* what parts cells in the formats: tab (HTML, Word, PDF), bar (Markdown), line end (lines at one height), those of CSV */
static const char in_table[] = "\t|\n", in_rows[] = ",;\t|";

static str unquoted(str s)
{
    s = str_trim(s);
    if (s.n >= 2 && s.p[0] == '"' && s.p[s.n - 1] == '"') s.p++, s.n -= 2;
    return str_trim(s);
}

static cells cells_of(str line, char separator)
{
    cells c = {0};
    bool quoted = false;
    line = str_trim(line);
    if (separator == '|' && line.n && line.p[0] == '|') line.p++, line.n--;
    if (separator == '|' && line.n && line.p[line.n - 1] == '|') line.n--;
    for (usize i = 0, from = 0; i <= line.n; i++) {
        if (i < line.n && line.p[i] == '"') quoted = !quoted;
        if (i < line.n && (line.p[i] != separator || quoted)) continue;
        if (c.n < CELLS) c.cell[c.n] = unquoted((str){line.p + from, i - from});
        c.n++;
        from = i + 1;
    }
    return c;
}

static cut cut_of(const units *us, const unit *u)
{
    cut best = {0};
    usize most = 1;
    if (u->header < 0 || &us->u[u->header] == u) return best;
    for (const char *s = u->kind == BLOCK_ROW ? in_rows : in_table; *s; s++) {
        usize row = cells_of(u->text, *s).n, names = cells_of(us->u[u->header].text, *s).n;
        bool bare = *s == '\t' && row == names + 1; /* a unit has no white space at its ends */
        if (row <= most || row > CELLS || (row != names && !bare)) continue;
        most = row, best = (cut){*s, bare};
    }
    return best;
}

bool unit_has_names(const units *us, const unit *u) { return cut_of(us, u).separator != 0; }

void put_line(str s, bool row, buf *out)
{
    bool space = false, cell = false, any = false;
    for (usize i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == ' ' || c == '\n' || c == '\t') {
            space = true, cell |= row && c != ' ';
            continue;
        }
        if (space && any) buf_puts(out, cell ? " | " : " ");
        space = cell = false, any = true;
        buf_byte(out, c);
    }
}

void unit_line(const units *us, const unit *u, buf *out)
{
    cut by = cut_of(us, u);
    if (!by.separator) {
        put_line(u->text, u->kind == BLOCK_TABLE, out);
        return;
    }
    cells name = cells_of(us->u[u->header].text, by.separator), value = cells_of(u->text, by.separator);
    bool any = false;
    for (usize i = 0; i < value.n; i++) {
        str its = !by.first_bare ? name.cell[i] : i ? name.cell[i - 1] : (str){0};
        if (!value.cell[i].n) continue;
        if (any) buf_puts(out, " | ");
        any = true;
        if (its.n && !str_eq(its, value.cell[i])) {
            put_line(its, false, out);
            buf_puts(out, ": ");
        }
        put_line(value.cell[i], false, out);
    }
}

static str first_cell(const unit *u, char separator) { return cells_of(u->text, separator).cell[0]; }

bool unit_is_key(const units *us, const unit *row, const unit *of)
{
    if (of == row || of->header == row->header || has_digit(of->text)) return false;
    cut a = cut_of(us, row), b = cut_of(us, of);
    if (!a.separator || !b.separator || a.first_bare || b.first_bare) return false;
    str cell = first_cell(row, a.separator);
    return cell.n && str_eq(cell, first_cell(of, b.separator)) &&
           str_eq(first_cell(&us->u[row->header], a.separator), first_cell(&us->u[of->header], b.separator));
}
