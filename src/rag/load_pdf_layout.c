/* rag/load_pdf_layout.c - the reading order of a page: columns one after the other, tables row by row.
 *
 * pdftotext finds words, lines and blocks well, but takes the cells of a table for columns, and now and then the right column for
 * the first. So its blocks are put in order here, by recursive cuts: the blocks fall into strata (those that share heights), and
 * the largest run of strata that one white gutter goes through from top to bottom is cut along it; what is above and below is
 * ordered by itself. Whether the two sides are columns of text or a table is told by how they fill their width and by whether
 * their lines stand at the same heights. Where no gutter is and blocks overlap, the order of pdftotext stays.
 *
 * Not done: ruled lines (they are not in the words), cells of several lines as one cell. */
#include "rag/load_pdf.h"
#include <math.h>
#include <stdlib.h>

enum { BLOCKS_MOST = 1500 /* of a page that is ordered; more are left as they are */, DEPTH_MOST = 40, FILLED_LINES = 3, GRID_WORDS = 6 /* of a line */ };
static const float GUTTER = 6, FILLED = 0.75f, TEXT_SHARE = 0.4f, TEXT_WIDTH = 0.25f /* of the page */, LABEL_WIDTH = 0.34f /* of the band */,
                   ALIGNED = 0.6f, CELL_GAP = 0.8f, LINE_GAP = 1.6f, INDENT = 3 /* of the height of a line */;

typedef struct {
    float box[4];
    u32 from, to; /* words */
} line;
typedef struct {
    float box[4];
    u32 from, to; /* lines */
} area;
typedef struct {
    const pdf_word *w;
    line *l;
    area *b;
    usize n_l, n_b;
    float width; /* of the page */
    pdf_step *out;
    usize n_out;
    const area *last; /* block written right before; NULL: none, or a table */
    u32 *words; /* scratch, [n] */
    bool no_memory;
} page;

static void grow(float box[4], const float with[4])
{
    box[0] = fminf(box[0], with[0]), box[1] = fminf(box[1], with[1]);
    box[2] = fmaxf(box[2], with[2]), box[3] = fmaxf(box[3], with[3]);
}

static float width_of(const float box[4]) { return box[2] - box[0]; }
static float height_of(const float box[4]) { return box[3] - box[1]; }
static float middle(const float box[4]) { return (box[1] + box[3]) / 2; }

/* ---- writing -------------------------------------------------------------------------------------------------------------- */
static void put(page *p, u32 word, pdf_before before, int kind) { p->out[p->n_out++] = (pdf_step){word, (u8)before, (u8)kind}; }

/* Lines set wide apart come as blocks of their own: a full line, and below it one that begins where it does, or before its indent, go on. */
static bool goes_on(const page *p, const area *before, const area *next)
{
    const line *a = &p->l[before->to - 1], *b = &p->l[next->from];
    float h = height_of(a->box), gap = b->box[1] - a->box[3];
    return fabsf(height_of(b->box) - h) < 0.2f * h && gap > -0.5f * h && gap < LINE_GAP * h && a->to - a->from >= 3 &&
           width_of(a->box) > 0.2f * p->width && b->box[0] - before->box[0] < 0.5f * h && b->box[0] - before->box[0] > -INDENT * h &&
           a->box[2] > b->box[2] - h;
}

static void put_block(page *p, u32 at)
{
    const area *b = &p->b[at];
    pdf_before first = p->last && goes_on(p, p->last, b) ? PDF_LINE : PDF_BLOCK;
    for (u32 i = b->from; i < b->to; i++)
        for (u32 k = p->l[i].from; k < p->l[i].to; k++)
            put(p, k, k > p->l[i].from ? PDF_SPACE : i > b->from ? PDF_LINE : first, BLOCK_TEXT);
    p->last = b;
}

static const pdf_word *sorting; /* qsort has no argument for it; a parser runs alone in its process */

static int by_height(const void *a, const void *b)
{
    u32 x = *(const u32 *)a, y = *(const u32 *)b;
    float p = middle(sorting[x].box), q = middle(sorting[y].box);
    return p < q ? -1 : p > q ? 1 : x < y ? -1 : x > y;
}

static int by_left(const void *a, const void *b)
{
    u32 x = *(const u32 *)a, y = *(const u32 *)b;
    float p = sorting[x].box[0], q = sorting[y].box[0];
    return p < q ? -1 : p > q ? 1 : x < y ? -1 : x > y;
}

static void put_row(page *p, const u32 *word, usize n, bool first)
{
    for (usize i = 0; i < n; i++) {
        const float *box = p->w[word[i]].box;
        pdf_before before = first ? PDF_BLOCK : PDF_LINE;
        if (i) before = box[0] - p->w[word[i - 1]].box[2] > CELL_GAP * height_of(box) ? PDF_CELL : PDF_SPACE;
        put(p, word[i], before, BLOCK_TABLE);
    }
}

static void put_table(page *p, const u32 *list, usize n)
{
    usize n_words = 0;
    p->last = NULL;
    for (usize i = 0; i < n; i++)
        for (u32 k = p->b[list[i]].from; k < p->b[list[i]].to; k++)
            for (u32 w = p->l[k].from; w < p->l[k].to; w++) p->words[n_words++] = w;
    sorting = p->w;
    qsort(p->words, n_words, sizeof *p->words, by_height);
    for (usize from = 0, to; from < n_words; from = to) {
        const float *first = p->w[p->words[from]].box;
        float until = middle(first) + height_of(first) / 2;
        for (to = from + 1; to < n_words && middle(p->w[p->words[to]].box) <= until;) to++;
        qsort(p->words + from, to - from, sizeof *p->words, by_left);
        put_row(p, p->words + from, to - from, from == 0);
    }
}

/* ---- what two sides are ------------------------------------------------------------------------------------------------------ */
typedef struct {
    float box[4];
    usize n_lines, n_filled;
} side;

static side side_of(const page *p, const u32 *list, usize n)
{
    side s = {{INFINITY, INFINITY, -INFINITY, -INFINITY}, 0, 0};
    for (usize i = 0; i < n; i++) grow(s.box, p->b[list[i]].box);
    for (usize i = 0; i < n; i++)
        for (u32 k = p->b[list[i]].from; k < p->b[list[i]].to; k++) {
            s.n_lines++;
            s.n_filled += width_of(p->l[k].box) >= FILLED * width_of(s.box) && p->l[k].to - p->l[k].from >= 3;
        }
    return s;
}

static bool is_text(const page *p, const side *s)
{
    return s->n_filled >= FILLED_LINES && (float)s->n_filled >= TEXT_SHARE * (float)s->n_lines && width_of(s->box) >= TEXT_WIDTH * p->width;
}

/* The share of the lines on side a that have a line on side b at their height. */
static float aligned(const page *p, const u32 *a, usize n_a, const u32 *b, usize n_b)
{
    usize n = 0, same = 0;
    for (usize i = 0; i < n_a; i++)
        for (u32 k = p->b[a[i]].from; k < p->b[a[i]].to; k++, n++) {
            float m = middle(p->l[k].box), h = height_of(p->l[k].box) * 0.4f;
            bool found = false;
            for (usize j = 0; j < n_b && !found; j++) {
                const area *o = &p->b[b[j]];
                if (o->box[1] > m + h || o->box[3] < m - h) continue;
                for (u32 q = o->from; q < o->to && !found; q++) found = fabsf(middle(p->l[q].box) - m) <= h;
            }
            same += found;
        }
    return n ? (float)same / (float)n : 0;
}

static bool is_table(const page *p, const u32 *left, usize n_left, const u32 *right, usize n_right)
{
    side l = side_of(p, left, n_left), r = side_of(p, right, n_right);
    bool text_l = is_text(p, &l), text_r = is_text(p, &r);
    if (l.n_lines < 2 || r.n_lines < 2 || (text_l && text_r)) return false;
    float all = r.box[2] - l.box[0];
    if (text_l && width_of(r.box) > LABEL_WIDTH * all) return false;
    if (text_r && width_of(l.box) > LABEL_WIDTH * all) return false;
    return l.n_lines <= r.n_lines ? aligned(p, left, n_left, right, n_right) >= ALIGNED
                                  : aligned(p, right, n_right, left, n_left) >= ALIGNED;
}

/* ---- cuts ------------------------------------------------------------------------------------------------------------------- */
static const area *areas;

static int by_top(const void *a, const void *b)
{
    u32 x = *(const u32 *)a, y = *(const u32 *)b;
    float p = areas[x].box[1], q = areas[y].box[1];
    return p < q ? -1 : p > q ? 1 : x < y ? -1 : x > y;
}

static int by_x(const void *a, const void *b)
{
    u32 x = *(const u32 *)a, y = *(const u32 *)b;
    float p = areas[x].box[0], q = areas[y].box[0];
    return p < q ? -1 : p > q ? 1 : x < y ? -1 : x > y;
}

static int by_number(const void *a, const void *b) { return *(const u32 *)a < *(const u32 *)b ? -1 : *(const u32 *)a > *(const u32 *)b; }

/* The middle of the widest gutter through these blocks; *wide 0 when there is none. `order` is sorted by x. */
static float gutter(u32 *order, usize n, float *wide)
{
    qsort(order, n, sizeof *order, by_x);
    float right = n ? areas[order[0]].box[2] : 0, at = 0;
    *wide = 0;
    for (usize i = 1; i < n; i++) {
        const float *box = areas[order[i]].box;
        if (box[0] - right > fmaxf(*wide, GUTTER)) *wide = box[0] - right, at = (box[0] + right) / 2;
        right = fmaxf(right, box[2]);
    }
    return at;
}

typedef struct {
    usize from, to; /* of the blocks, sorted by top */
    usize words;
    float at;
} band;

static usize words_of(const page *p, const u32 *list, usize n)
{
    usize words = 0;
    for (usize i = 0; i < n; i++)
        for (u32 k = p->b[list[i]].from; k < p->b[list[i]].to; k++) words += p->l[k].to - p->l[k].from;
    return words;
}

typedef struct {
    usize from, words; /* first block; words of all */
    bool shared;       /* several blocks */
} stratum;

/* A stratum for each run of blocks that share heights; they may touch by a hair. n + 1 of them at most, the last a border. */
static usize find_strata(const page *p, const u32 *list, usize n, stratum *s)
{
    usize n_s = 0;
    float bottom = -INFINITY;
    for (usize i = 0; i < n; i++) {
        const float *box = p->b[list[i]].box;
        if (box[1] >= bottom - 1)
            s[n_s++] = (stratum){.from = i};
        else
            s[n_s - 1].shared = true;
        s[n_s - 1].words += words_of(p, list + i, 1);
        bottom = fmaxf(bottom, box[3]);
    }
    s[n_s] = (stratum){.from = n};
    return n_s;
}

/* The run of strata with a gutter that holds the most words, most of them side by side. */
static band best_band(page *p, const u32 *list, usize n, u32 *scratch)
{
    band best = {0};
    stratum *s = mem_array(stratum, n + 1);
    if (!s) {
        p->no_memory = true;
        return best;
    }
    usize n_s = find_strata(p, list, n, s);
    for (usize i = 0; i < n_s; i++) {
        usize words = 0, beside = 0;
        for (usize k = i; k < n_s; k++) {
            usize m = s[k + 1].from - s[i].from;
            float wide;
            memcpy(scratch, list + s[i].from, m * sizeof *scratch);
            float at = gutter(scratch, m, &wide);
            if (wide <= 0 && m > 1) break;
            words += s[k].words;
            if (s[k].shared) beside += s[k].words;
            if (wide > 0 && beside * 2 >= words && words > best.words) best = (band){s[i].from, s[k + 1].from, words, at};
        }
    }
    mem_free(s);
    return best;
}

/* Blocks that stand beside each other though no gutter parts them: short lines, most with another at their height. */
static bool is_grid(const page *p, const u32 *list, usize n)
{
    usize n_lines = 0, same = 0, large = 0;
    for (usize i = 0; i < n; i++)
        for (u32 k = p->b[list[i]].from; k < p->b[list[i]].to; k++) {
            float m = middle(p->l[k].box), h = height_of(p->l[k].box) * 0.4f;
            bool found = false;
            for (usize j = 0; j < n && !found; j++) {
                const area *o = &p->b[list[j]];
                if (o->box[1] > m + h || o->box[3] < m - h) continue;
                for (u32 q = o->from; q < o->to && !found; q++) found = q != k && fabsf(middle(p->l[q].box) - m) <= h;
            }
            n_lines++;
            same += found;
            large += p->l[k].to - p->l[k].from > GRID_WORDS;
        }
    return n_lines >= 4 && (float)same >= ALIGNED * (float)n_lines && large * 5 <= n_lines;
}

/* No gutter: from top to bottom, and what stands beside each other as a grid or as pdftotext has it. */
static void put_strata(page *p, u32 *list, usize n)
{
    stratum *s = mem_array(stratum, n + 1);
    if (!s) {
        p->no_memory = true;
        return;
    }
    usize n_s = find_strata(p, list, n, s);
    for (usize i = 0, k; i < n_s; i = k) {
        u32 *first = list + s[i].from;
        for (k = i; k < n_s && s[k].shared && is_grid(p, list + s[k].from, s[k + 1].from - s[k].from);) k++;
        if (k > i) {
            put_table(p, first, s[k].from - s[i].from);
            continue;
        }
        usize m = s[++k].from - s[i].from;
        qsort(first, m, sizeof *first, by_number);
        for (usize j = 0; j < m; j++) put_block(p, first[j]);
    }
    mem_free(s);
}

static void arrange(page *p, u32 *list, usize n, int depth)
{
    if (n > 1) {
        areas = p->b;
        qsort(list, n, sizeof *list, by_top);
    }
    u32 *scratch = n > 1 ? mem_array(u32, 2 * n) : NULL;
    if (n > 1 && !scratch) p->no_memory = true;
    if (p->no_memory) return;
    band b = n > 1 && depth < DEPTH_MOST ? best_band(p, list, n, scratch) : (band){0};
    if (!b.words) {
        put_strata(p, list, n);
        mem_free(scratch);
        return;
    }
    u32 *left = scratch, *right = scratch + n;
    usize n_left = 0, n_right = 0;
    for (usize i = b.from; i < b.to; i++)
        if (p->b[list[i]].box[2] <= b.at) left[n_left++] = list[i];
        else right[n_right++] = list[i];
    arrange(p, list, b.from, depth + 1);
    if (is_table(p, left, n_left, right, n_right))
        put_table(p, list + b.from, b.to - b.from);
    else {
        arrange(p, left, n_left, depth + 1);
        arrange(p, right, n_right, depth + 1);
    }
    arrange(p, list + b.to, n - b.to, depth + 1);
    mem_free(scratch);
}

/* ---- the page --------------------------------------------------------------------------------------------------------------- */
static err find_areas(page *p, usize n)
{
    static const err no_memory = {ERR_NOMEM, "no memory for a page's layout"};
    usize cap_l = 0, cap_b = 0;
    for (u32 i = 0; i < n; i++) {
        const pdf_word *w = &p->w[i];
        bool new_block = !i || w->block != w[-1].block, new_line = new_block || w->line != w[-1].line;
        if (new_line) {
            line l = {.from = i};
            memcpy(l.box, w->box, sizeof l.box);
            if (!VEC_PUSH(p->l, p->n_l, cap_l, l)) return no_memory;
        }
        if (new_block) {
            area b = {.from = (u32)p->n_l - 1};
            memcpy(b.box, w->box, sizeof b.box);
            if (!VEC_PUSH(p->b, p->n_b, cap_b, b)) return no_memory;
        }
        p->l[p->n_l - 1].to = i + 1;
        p->b[p->n_b - 1].to = (u32)p->n_l;
        grow(p->l[p->n_l - 1].box, w->box);
        grow(p->b[p->n_b - 1].box, w->box);
    }
    return OK;
}

static err order_words(const pdf_word *w, usize n, float page_width, pdf_step *out)
{
    page p = {.w = w, .width = page_width, .out = out};
    u32 *list = NULL;
    err bad = n ? find_areas(&p, n) : OK;
    if (!bad.code && n) {
        p.words = mem_array(u32, n);
        list = mem_array(u32, p.n_b);
        if (!p.words || !list) bad = err_new(ERR_NOMEM, "no memory for a page's layout");
    }
    for (u32 i = 0; i < p.n_b && !bad.code; i++) list[i] = i;
    if (!bad.code && p.n_b <= BLOCKS_MOST)
        arrange(&p, list, p.n_b, 0);
    else
        for (u32 i = 0; i < p.n_b && !bad.code; i++) put_block(&p, i);
    if (!bad.code && p.no_memory) bad = err_new(ERR_NOMEM, "no memory for a page's layout");
    mem_free(p.words);
    mem_free(list);
    mem_free(p.l);
    mem_free(p.b);
    return bad;
}

/* How most lines run: 0 across, 1 down the page, -1 up */
static int direction_of(const pdf_word *w, usize n)
{
    usize across = 0, down = 0, up = 0;
    for (usize i = 1; i < n; i++) {
        if (w[i].line != w[i - 1].line || w[i].block != w[i - 1].block) continue;
        float x = w[i].box[0] - w[i - 1].box[0], y = w[i].box[1] - w[i - 1].box[1];
        if (fabsf(y) <= fabsf(x)) across++;
        else if (y > 0) down++;
        else up++;
    }
    return down > across && down > up ? 1 : up > across ? -1 : 0;
}

/* A page whose lines run down or up is ordered as if it were turned. */
static pdf_word *turned(const pdf_word *w, usize n, int direction, float *width)
{
    pdf_word *t = mem_array(pdf_word, n);
    float bottom = 0;
    for (usize i = 0; i < n; i++) bottom = fmaxf(bottom, w[i].box[3]);
    for (usize i = 0; i < n && t; i++) {
        const float *b = w[i].box;
        t[i] = w[i];
        t[i].box[0] = direction > 0 ? b[1] : bottom - b[3], t[i].box[2] = direction > 0 ? b[3] : bottom - b[1];
        t[i].box[1] = direction > 0 ? *width - b[2] : b[0], t[i].box[3] = direction > 0 ? *width - b[0] : b[2];
    }
    *width = bottom;
    return t;
}

err pdf_layout(const pdf_word *w, usize n, float page_width, pdf_step *out)
{
    int direction = direction_of(w, n);
    pdf_word *t = direction ? turned(w, n, direction, &page_width) : NULL;
    if (direction && !t) return err_new(ERR_NOMEM, "no memory for a page's layout");
    err bad = order_words(t ? t : w, n, page_width, out);
    mem_free(t);
    return bad;
}
