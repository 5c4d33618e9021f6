/* quant/draw.c - the report as a picture: bytes before and after, the errors of tensors, and of a sweep the quality against the size. */
#include "quant/quant.h"
#include <math.h>

enum { WIDE = 760, LEFT = 70, RIGHT = 30, TOP = 40, BOTTOM = 46, TALL = 420, BAR = 18 };

static void begin(buf *b, int tall, const char *title)
{
    buf_fmt(b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n<text x=\"%d\" y=\"20\" font-size=\"14\">", WIDE, tall, LEFT);
    for (const char *p = title; *p; p++) {
        if (*p == '<') buf_puts(b, "&lt;");
        else if (*p == '&') buf_puts(b, "&amp;");
        else buf_byte(b, (u8)*p < 32 ? '?' : *p);
    }
    buf_puts(b, "</text>\n");
}

static err finish(buf *b, const char *path)
{
    buf_puts(b, "</svg>\n");
    err bad = buf_error(b);
    if (!bad.code) bad = file_replace(path, b->p, b->n);
    buf_free(b);
    return bad;
}

static void bar(buf *b, int *y, double share, const char *colour, const char *label, const char *value)
{
    int room = WIDE - 260 - RIGHT - 90;
    buf_fmt(b, "<text x=\"250\" y=\"%d\" text-anchor=\"end\">%s</text><rect x=\"260\" y=\"%d\" width=\"%.1f\" height=\"12\" fill=\"%s\"/><text x=\"%.1f\" y=\"%d\">%s</text>\n", *y + 10, label, *y, share * room, colour,
            266 + share * room, *y + 10, value);
    *y += BAR;
}

static void plain_name(const char *name, char out[96]) /* of a tensor: a file may hold anything */
{
    usize n = 0;
    for (; name[n] && n < 95; n++) out[n] = strchr("<>&\"'", name[n]) || (u8)name[n] < 32 || (u8)name[n] > 126 ? '?' : name[n];
    out[n] = 0;
}

err quant_draw_report(const quant_report *r, const quant_quality *q, const char *title, const char *path)
{
    buf b = {0};
    const quant_tensor *w[10];
    usize n = quant_worst(r, 10, w);
    int y = TOP;
    double most = fmax((double)r->before, (double)r->after);
    char value[160], name[96];
    begin(&b, 190 + BAR * (int)n, title);
    snprintf(value, sizeof value, "%.1f MB", (double)r->before / 1e6);
    bar(&b, &y, (double)r->before / most, "#a0aec0", "before", value);
    snprintf(value, sizeof value, "%.1f MB, %.3f bits a weight", (double)r->after / 1e6, quant_bits(r));
    bar(&b, &y, (double)r->after / most, "#2b6cb0", "after", value);
    if (q && !q->embeds) buf_fmt(&b, "<text x=\"%d\" y=\"%d\">nll %.4f before, %.4f after; divergence %.5f nats a token; same first choice %.1f %%</text>\n", LEFT, y += 20, q->nll_before, q->nll_after, q->kld, 100 * q->same_top);
    if (q && q->embeds) buf_fmt(&b, "<text x=\"%d\" y=\"%d\">cosine to the vectors before: mean %.5f, least %.5f</text>\n", LEFT, y += 20, q->cosine_mean, q->cosine_least);
    if (n) buf_fmt(&b, "<text x=\"%d\" y=\"%d\">relative error of the worst tensors</text>\n", LEFT, y += 24);
    y += 10;
    for (usize i = 0; i < n; i++) {
        plain_name(w[i]->name, name);
        snprintf(value, sizeof value, "%.5f %s", w[i]->weighted, dtype_table[w[i]->to].name);
        bar(&b, &y, w[i]->weighted / w[0]->weighted, "#c05621", name, value);
    }
    return finish(&b, path);
}

/* ---- a sweep ---- */
static double quality(const quant_point *p) { return fmax(isfinite(p->kld) ? p->kld : isfinite(p->cosine_mean) ? 1 - p->cosine_mean : p->rmse, 1e-5); }
static const char *quality_name(const quant_point *p)
{
    return isfinite(p->kld) ? "divergence from the original, nats a token" : isfinite(p->cosine_mean) ? "1 - cosine to the original's vectors" : "relative error of the weights";
}

typedef struct {
    double low, high, bits_low, bits_high; /* logarithms all: types are evenly spread in them */
} axes;

static axes axes_of(const quant_point *p, usize n)
{
    axes a = {INFINITY, -INFINITY, INFINITY, -INFINITY};
    for (usize i = 0; i < n; i++) {
        double v = log10(quality(&p[i]));
        a.low = fmin(a.low, v), a.high = fmax(a.high, v);
        a.bits_low = fmin(a.bits_low, log2(p[i].bits)), a.bits_high = fmax(a.bits_high, log2(p[i].bits));
    }
    if (!(a.high > a.low)) a.high = a.low + 1;
    if (!(a.bits_high > a.bits_low)) a.bits_high = a.bits_low + 1;
    return a;
}

/* ---- names beside points: the first place that is free ---- */
typedef struct {
    int x, y, w, h;
} box;

static bool meets(box a, box b) { return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h; }

/* right, left, then rows above and below; taken [n] are boxes of points and of names before */
static box place_of(const box *taken, usize n, int x, int y, int w, int h, int gap)
{
    box first = {x + gap, y, w, h};
    for (int row = 0; row < 7; row++)
        for (int side = 0; side < 2; side++) {
            int step = (row + 1) / 2 * (row % 2 ? -h : h);
            box b = {side ? x - gap - w : x + gap, y + step, w, h};
            bool is_free = b.x >= 0;
            for (usize i = 0; i < n && is_free; i++) is_free = !meets(b, taken[i]);
            if (is_free) return b;
        }
    return first;
}

enum { POINTS = 32 };

err quant_draw_sweep(const quant_point *p, usize n, const char *title, const char *path)
{
    buf b = {0};
    axes a = axes_of(p, n);
    box taken[2 * POINTS];
    double w = WIDE - LEFT - RIGHT - 40, t = TALL - TOP - BOTTOM; /* 40: names right of the last points */
    if (n > POINTS) n = POINTS;
    begin(&b, TALL, title);
    for (int i = 0; i <= 4; i++) {
        double v = a.low + (a.high - a.low) * i / 4, y = TOP + t * (1 - i / 4.0), bits = a.bits_low + (a.bits_high - a.bits_low) * i / 4;
        buf_fmt(&b, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.2g</text>\n", LEFT, y, WIDE - RIGHT, y, LEFT - 6, y + 4, pow(10, v));
        buf_fmt(&b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.1f</text>\n", LEFT + w * i / 4, TALL - BOTTOM + 18, exp2(bits));
    }
    for (usize i = 0; i < n; i++) {
        double x = LEFT + w * (log2(p[i].bits) - a.bits_low) / (a.bits_high - a.bits_low), y = TOP + t * (1 - (log10(quality(&p[i])) - a.low) / (a.high - a.low));
        taken[i] = (box){(int)x - 4, (int)y - 4, 9, 9};
        buf_fmt(&b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"#2b6cb0\"/>\n", x, y);
    }
    for (usize i = 0; i < n; i++) {
        box c = taken[n + i] = place_of(taken, n + i, taken[i].x + 4, taken[i].y - 2, 7 * (int)strlen(p[i].name), 13, 7);
        buf_fmt(&b, "<text x=\"%d\" y=\"%d\">%s</text>\n", c.x, c.y + 10, p[i].name);
    }
    buf_fmt(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">bits a weight</text><text x=\"14\" y=\"%d\" transform=\"rotate(-90 14 %d)\" text-anchor=\"middle\">%s</text>\n", WIDE / 2, TALL - 10, TALL / 2, TALL / 2,
            n ? quality_name(p) : "");
    return finish(&b, path);
}

void quant_print_sweep(const quant_point *p, usize n) /* letters: names would cover each other */
{
    enum { COLS = 70, ROWS = 14 };
    char cell[ROWS][COLS + 3];
    axes a = axes_of(p, n);
    if (n > 26) n = 26;
    memset(cell, ' ', sizeof cell);
    for (usize i = 0; i < n; i++) {
        int x = (int)((log2(p[i].bits) - a.bits_low) / (a.bits_high - a.bits_low) * (COLS - 1) + 0.5), y = (int)((1 - (log10(quality(&p[i])) - a.low) / (a.high - a.low)) * (ROWS - 1) + 0.5);
        while (x < COLS + 2 && cell[y][x] != ' ') x++; /* beside the one that stands there */
        cell[y][x] = (char)('a' + (int)i);
    }
    for (int y = 0; y < ROWS; y++) printf("%9.2g |%.*s\n", pow(10, a.high - (a.high - a.low) * y / (ROWS - 1)), COLS + 3, cell[y]);
    printf("%9s +%.*s\n%11s%-8.2f%*.2f   %s", "", COLS, "--------------------------------------------------------------------------", "", exp2(a.bits_low), COLS - 8, exp2(a.bits_high), L("가중치마다 비트", "bits a weight"));
    for (usize i = 0; i < n; i++) printf("%s%c %-7s", i % 8 ? "  " : "\n           ", (char)('a' + (int)i), p[i].name);
    printf("\n");
}
