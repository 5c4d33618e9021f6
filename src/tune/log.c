/* tune/log.c - log.jsonl, a line a step, and the curves drawn from it: an SVG file and a plot of characters. The log is the only source of
 * the curves, so they are the same whoever draws them and whenever. */
#include "tune/inside.h"
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

struct tune_log { FILE *f; char *path; };

static bool line_step(str line, i64 *step)
{
    json_error_t e;
    json_t *j = json_loadb(line.p, line.n, 0, &e), *s = json_object_get(j, "step");
    bool is = json_is_integer(s);
    if (is) *step = json_integer_value(s);
    json_decref(j);
    return is;
}

/* the lines of the first `keep` steps; a line cut short by a crash is none */
static void lines_kept(str all, i64 keep, buf *out)
{
    for (usize at = 0; at < all.n;) {
        i64 end = str_find(all, S("\n"), at), step;
        if (end < 0) break;
        str line = {all.p + at, (usize)end - at};
        if (line_step(line, &step) && step <= keep) buf_str(out, line), buf_byte(out, '\n');
        at = (usize)end + 1;
    }
}

err tune_log_open(tune_log **out, const char *folder, i64 keep)
{
    buf path = {0}, old = {0}, kept = {0};
    *out = NULL;
    err bad = file_mkdirs(folder);
    buf_fmt(&path, "%s/log.jsonl", folder);
    if (!bad.code) bad = buf_error(&path);
    if (!bad.code && keep > 0 && file_exists(buf_cstr(&path))) bad = file_read(&old, buf_cstr(&path), 0);
    if (!bad.code) lines_kept(buf_view(&old), keep, &kept), bad = buf_error(&kept);
    if (!bad.code) bad = file_replace(buf_cstr(&path), buf_cstr(&kept), kept.n);
    tune_log *l = bad.code ? NULL : mem_zero(sizeof *l);
    if (!bad.code && !l) bad = err_new(ERR_NOMEM, "out of memory for a log");
    if (!bad.code && !(l->f = fopen(buf_cstr(&path), "a"))) bad = err_os("%s", buf_cstr(&path));
    if (!bad.code && !(l->path = mem_strdup(buf_cstr(&path)))) bad = err_new(ERR_NOMEM, "out of memory for a log");
    if (bad.code) tune_log_close(l);
    else setvbuf(l->f, NULL, _IOLBF, 0), *out = l; /* whoever watches the file sees whole lines, at once */
    buf_free(&path), buf_free(&old), buf_free(&kept);
    return bad;
}

err tune_log_step(tune_log *l, const train_step *s, double seconds)
{
    fprintf(l->f, "{\"step\":%lld,\"steps\":%lld,\"epoch\":%lld,\"loss\":%.9g,\"lr\":%.9g,\"norm\":%.9g,\"tokens\":%lld,\"targets\":%lld,\"seconds\":%.3f", (long long)s->step, (long long)s->steps,
            (long long)s->epoch, s->loss, s->lr, s->norm, (long long)s->tokens, (long long)s->targets, seconds);
    if (isfinite(s->eval_loss)) fprintf(l->f, ",\"eval_loss\":%.9g", s->eval_loss);
    fputs("}\n", l->f);
    return ferror(l->f) ? err_os("cannot write %s", l->path) : OK;
}

err tune_log_flush(tune_log *l)
{
    return fflush(l->f) || fsync(fileno(l->f)) ? err_os("cannot write %s", l->path) : OK;
}

void tune_log_close(tune_log *l)
{
    if (!l) return;
    if (l->f) fclose(l->f);
    mem_free(l->path);
    mem_free(l);
}

/* ---- curves ---- */

typedef struct { double step, loss, held; } point; /* held NaN: not measured there */
typedef struct { point *p; usize n, cap; double low, high, last; } curves;

static err curves_read(const char *folder, curves *c)
{
    buf path = {0}, text = {0};
    *c = (curves){.low = INFINITY, .high = -INFINITY};
    buf_fmt(&path, "%s/log.jsonl", folder);
    err bad = buf_error(&path);
    if (!bad.code) bad = file_read(&text, buf_cstr(&path), 0);
    str all = buf_view(&text);
    for (usize at = 0; !bad.code && at < all.n;) {
        i64 end = str_find(all, S("\n"), at);
        if (end < 0) break;
        json_error_t e;
        json_t *j = json_loadb(all.p + at, (usize)end - at, 0, &e), *held = json_object_get(j, "eval_loss");
        point p = {json_number_value(json_object_get(j, "step")), json_number_value(json_object_get(j, "loss")), held ? json_number_value(held) : NAN};
        bool is = json_is_number(json_object_get(j, "loss"));
        json_decref(j);
        at = (usize)end + 1;
        if (!is) continue;
        if (!VEC_PUSH(c->p, c->n, c->cap, p)) bad = err_new(ERR_NOMEM, "out of memory for curves");
        c->low = fmin(c->low, fmin(p.loss, isnan(p.held) ? p.loss : p.held));
        c->high = fmax(c->high, fmax(p.loss, isnan(p.held) ? p.loss : p.held));
        c->last = p.step;
    }
    if (c->high <= c->low) c->high = c->low + 1;
    buf_free(&path), buf_free(&text);
    return bad;
}

enum { WIDE = 720, TALL = 360, LEFT = 60, TOP = 24, RIGHT = 20, BOTTOM = 40 };
static double at_x(const curves *c, double step) { return LEFT + (WIDE - LEFT - RIGHT) * (c->last > 1 ? (step - 1) / (c->last - 1) : 0.5); }
static double at_y(const curves *c, double loss) { return TOP + (TALL - TOP - BOTTOM) * (1 - (loss - c->low) / (c->high - c->low)); }

static void draw_axes(const curves *c, buf *b)
{
    for (int i = 0; i <= 4; i++) {
        double v = c->low + (c->high - c->low) * i / 4, y = at_y(c, v), s = 1 + (c->last - 1) * i / 4;
        buf_fmt(b, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.3f</text>\n", LEFT, y, WIDE - RIGHT, y, LEFT - 6, y + 4, v);
        buf_fmt(b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f</text>\n", at_x(c, s), TALL - BOTTOM + 18, s);
    }
}

static void draw_line(const curves *c, bool held, const char *colour, buf *b)
{
    buf_fmt(b, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"", colour);
    for (usize i = 0; i < c->n; i++) {
        double v = held ? c->p[i].held : c->p[i].loss;
        if (!isnan(v)) buf_fmt(b, "%.1f,%.1f ", at_x(c, c->p[i].step), at_y(c, v));
    }
    buf_puts(b, "\"/>\n");
    for (usize i = 0; held && i < c->n; i++)
        if (!isnan(c->p[i].held)) buf_fmt(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", at_x(c, c->p[i].step), at_y(c, c->p[i].held), colour);
}

err curves_write(const char *folder)
{
    curves c;
    buf b = {0}, path = {0};
    err bad = curves_read(folder, &c);
    buf_fmt(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", WIDE, TALL);
    if (!bad.code && c.n) {
        draw_axes(&c, &b);
        draw_line(&c, false, "#2b6cb0", &b);
        draw_line(&c, true, "#c05621", &b);
    }
    buf_fmt(&b, "<text x=\"%d\" y=\"16\" fill=\"#2b6cb0\">loss of each step</text><text x=\"%d\" y=\"16\" fill=\"#c05621\">held-out loss</text><text x=\"%d\" y=\"%d\" text-anchor=\"middle\">step</text>\n</svg>\n", LEFT,
            LEFT + 140, WIDE / 2, TALL - 6);
    buf_fmt(&path, "%s/curves.svg", folder);
    if (!bad.code) bad = buf_error(&b);
    if (!bad.code) bad = buf_error(&path);
    if (!bad.code) bad = file_replace(buf_cstr(&path), b.p, b.n);
    mem_free(c.p);
    buf_free(&b), buf_free(&path);
    return bad;
}

void curves_print(const char *folder)
{
    enum { COLS = 64, ROWS = 12 };
    curves c;
    char cell[ROWS][COLS + 1];
    double sum[COLS] = {0};
    int n[COLS] = {0};
    if (curves_read(folder, &c).code || c.n < 2) {
        mem_free(c.p);
        return;
    }
    memset(cell, ' ', sizeof cell);
    for (usize i = 0; i < c.n; i++) { /* a column shows the mean of its steps */
        int x = (int)((c.p[i].step - 1) / fmax(c.last - 1, 1) * (COLS - 1));
        sum[x] += c.p[i].loss, n[x]++;
    }
    for (int x = 0; x < COLS; x++)
        if (n[x]) cell[(int)((1 - (sum[x] / n[x] - c.low) / (c.high - c.low)) * (ROWS - 1) + 0.5)][x] = '.';
    for (usize i = 0; i < c.n; i++)
        if (!isnan(c.p[i].held)) cell[(int)((1 - (c.p[i].held - c.low) / (c.high - c.low)) * (ROWS - 1) + 0.5)][(int)((c.p[i].step - 1) / fmax(c.last - 1, 1) * (COLS - 1))] = 'o';
    for (int y = 0; y < ROWS; y++) {
        cell[y][COLS] = 0;
        printf("%8.3f |%s\n", c.high - (c.high - c.low) * y / (ROWS - 1), cell[y]);
    }
    printf("%8s +%.*s\n%10s1%*.0f   . %s  o %s\n", "", COLS, "----------------------------------------------------------------", "", COLS - 2, c.last, L("걸음의 손실", "loss of steps"), L("따로 둔 자료의 손실", "held-out loss"));
    mem_free(c.p);
}
