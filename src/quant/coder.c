/* quant/coder.c - rows of one tensor from any float or block type into another, in parallel, with the error that this makes.
 *
 * A slab of rows is cut into pieces; threads take the next piece until none is left (a busy machine does not hold up the rest), and
 * each leaves its sums in the piece's own place, so that the error is the same sum whoever did what. Every value is looked at, of what
 * is only copied too: a model with a NaN in it should be found here, not in an answer. */
#include "quant/inside.h"
#include <math.h>

enum { SLAB = 8 << 20 /* values */, PIECE = 64 << 10 };

typedef struct {
    quant_sums s;
    i64 bad_row; /* -1: none */
    float value;
    bool after; /* it became so by encoding */
    int code;   /* of an error of the encoder */
} piece;
typedef struct {
    usize cap;
    float *x, *y, *w; /* [cap]: values, decoded again, [row] weights and scratch */
} scratch;
struct quant_coder {
    pool *threads;
    scratch *room; /* [threads] */
    int n_threads;
    u8 *out;
    usize out_cap;
    piece *pieces;
    usize n_pieces, pieces_cap;
    const quant_job *job;
    i64 row, rows, each; /* of the slab: first, number; rows of a piece */
    atomic_llong next;
};

err quant_coder_new(quant_coder **out, pool *threads)
{
    quant_coder *c = *out = mem_zero(sizeof *c);
    if (!c) return err_new(ERR_NOMEM, "out of memory");
    c->threads = threads;
    c->n_threads = threads ? pool_threads(threads) : 1;
    c->room = mem_array(scratch, c->n_threads);
    if (c->room) return OK;
    quant_coder_free(c);
    *out = NULL;
    return err_new(ERR_NOMEM, "out of memory");
}

void quant_coder_free(quant_coder *c)
{
    if (!c) return;
    for (int i = 0; c->room && i < c->n_threads; i++) mem_free(c->room[i].x);
    mem_free(c->room);
    mem_free(c->out);
    mem_free(c->pieces);
    mem_free(c);
}

/* ---- errors of a row: eight sums side by side, which the compiler can keep in one register ---------------------------------- */
typedef float lanes __attribute__((vector_size(32)));
typedef i32 flags __attribute__((vector_size(32)));

static lanes load(const float *p)
{
    lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}

static double total(lanes v)
{
    double s = 0;
    for (int i = 0; i < 8; i++) s += (double)v[i];
    return s;
}

static void sums_of(const float *x, const float *y, const float *w, i64 n, quant_sums *s)
{
    for (i64 from = 0; from < n; from += 256) { /* short float sums into doubles */
        i64 to = i64_min(n, from + 256), i = from;
        lanes e = {0}, p = {0}, we = {0}, wp = {0};
        for (; i + 8 <= to; i += 8) {
            lanes a = load(x + i), d = a - load(y + i), d2 = d * d, a2 = a * a;
            e += d2, p += a2;
            if (w) we += load(w + i) * d2, wp += load(w + i) * a2;
        }
        for (; i < to; i++) {
            float d = x[i] - y[i], q = w ? w[i] : 0;
            e[0] += d * d, p[0] += x[i] * x[i], we[0] += q * d * d, wp[0] += q * x[i] * x[i];
        }
        s->error += total(e), s->power += total(p), s->weighted_error += total(we), s->weighted_power += total(wp);
    }
}

static bool all_finite(const float *x, i64 n)
{
    flags bad = {0};
    i64 i = 0;
    for (; i + 8 <= n; i += 8) {
        flags v;
        memcpy(&v, x + i, sizeof v);
        v &= 0x7f800000;
        bad |= v == 0x7f800000;
    }
    int any = 0;
    for (int j = 0; j < 8; j++) any |= bad[j];
    for (; i < n; i++) any |= !isfinite(x[i]);
    return !any;
}

static float first_odd(const float *x, i64 n)
{
    for (i64 i = 0; i < n; i++)
        if (!isfinite(x[i])) return x[i];
    return 0;
}

/* ---- a piece ------------------------------------------------------------------------------------------------------------------ */
static bool make_room(scratch *s, usize n)
{
    if (n <= s->cap) return true;
    mem_free(s->x);
    s->cap = 0;
    s->x = mem_alloc_n(sizeof(float), 7 * n); /* x, y, and five rows for the search */
    if (!s->x) return false;
    s->y = s->x + n, s->w = s->y + n, s->cap = n;
    return true;
}

static const float *values_of(const quant_job *j, i64 row, i64 n, float *room)
{
    i64 k = j->t->n[0];
    const u8 *p = j->t->data + dtype_row_bytes(j->t->type, k) * (usize)row;
    if (j->t->type == F32) return (const float *)(const void *)p;
    dtype_table[j->t->type].decode(p, room, k * n);
    return room;
}

static err encode_row(const quant_job *j, const float *x, const float *w, u8 *to, float *room)
{
    i64 k = j->t->n[0];
    return j->better ? quant_search(j->to, k, x, w, to, room) : weight_encode(j->to, k, 1, x, w, to);
}

static void piece_run(quant_coder *c, scratch *s, i64 index)
{
    const quant_job *j = c->job;
    i64 k = j->t->n[0], from = index * c->each, n = i64_min(c->each, c->rows - from), row = c->row + from;
    piece *p = &c->pieces[index];
    *p = (piece){.bad_row = -1};
    if (!make_room(s, (usize)(k * c->each))) {
        p->code = ERR_NOMEM;
        return;
    }
    const float *x = values_of(j, row, n, s->x);
    usize bytes = dtype_row_bytes(j->to, k);
    for (i64 r = 0; r < n; r++, x += k) {
        const float *w = j->importance ? j->importance + (row + r) / j->expert_rows * k : NULL;
        u8 *to = c->out + bytes * (usize)(from + r);
        if (!all_finite(x, k)) {
            p->bad_row = row + r, p->value = first_odd(x, k);
            return;
        }
        if (j->copy) continue;
        err bad = encode_row(j, x, w, to, s->w);
        if (bad.code) {
            p->code = bad.code;
            return;
        }
        const float *y = x;
        if (j->to != F32) dtype_table[j->to].decode(to, s->y, k), y = s->y;
        if (!all_finite(y, k)) {
            p->bad_row = row + r, p->after = true, p->value = 0;
            for (i64 i = 0; i < k; i++) p->value = fmaxf(p->value, fabsf(x[i]));
            return;
        }
        sums_of(x, y, w, k, &p->s);
    }
}

static void work(void *ctx, int thread, int n_threads)
{
    quant_coder *c = ctx;
    (void)n_threads;
    for (i64 i; (i = atomic_fetch_add(&c->next, 1)) < (i64)c->n_pieces;) piece_run(c, &c->room[thread], i);
}

static err verdict(const quant_coder *c, quant_sums *s)
{
    const file_tensor *t = c->job->t;
    int n = (int)(t->name.n < 200 ? t->name.n : 200);
    for (usize i = 0; i < c->n_pieces; i++) {
        const piece *p = &c->pieces[i];
        if (p->code) return err_new((err_code)p->code, "%.*s cannot be encoded as %s: %s", n, t->name.p, dtype_table[c->job->to].name, p->code == ERR_NOMEM ? "out of memory" : "its rows do not fit");
        if (p->bad_row >= 0 && p->after)
            return err_new(ERR_FORMAT, "%.*s, row %lld: %s cannot hold %g: choose a type of more range (bf16, f32)", n, t->name.p, (long long)p->bad_row, dtype_table[c->job->to].name, (double)p->value);
        if (p->bad_row >= 0)
            return err_new(ERR_FORMAT, "%.*s, row %lld: a value is %s, expected finite numbers: the model is damaged", n, t->name.p, (long long)p->bad_row, isnan(p->value) ? "not a number (NaN)" : "infinite");
        s->error += p->s.error, s->power += p->s.power, s->weighted_error += p->s.weighted_error, s->weighted_power += p->s.weighted_power;
    }
    return OK;
}

static err slab_run(quant_coder *c, quant_sums *s)
{
    usize need = c->job->copy ? 0 : dtype_row_bytes(c->job->to, c->job->t->n[0]) * (usize)c->rows;
    c->n_pieces = (usize)((c->rows + c->each - 1) / c->each);
    if (!vec_grow((void **)&c->pieces, &c->pieces_cap, c->n_pieces, sizeof *c->pieces)) return err_new(ERR_NOMEM, "out of memory for %zu pieces", c->n_pieces);
    if (need > c->out_cap) {
        mem_free(c->out);
        c->out = mem_alloc(need);
        c->out_cap = c->out ? need : 0;
        if (!c->out) return err_new(ERR_NOMEM, "out of memory for %zu bytes of rows", need);
    }
    atomic_store(&c->next, 0);
    if (c->threads && c->n_pieces > 1) pool_run(c->threads, work, c);
    else work(c, 0, 1);
    return verdict(c, s);
}

err quant_coder_run(quant_coder *c, const quant_job *j, quant_sums *s, err (*each)(void *, const void *, usize), void *ctx)
{
    i64 k = j->t->n[0], rows = j->t->n[1] * j->t->n[2] * j->t->n[3], at_once = i64_max(1, SLAB / k);
    usize before = dtype_row_bytes(j->t->type, k), after = dtype_row_bytes(j->to, k);
    *s = (quant_sums){0};
    c->job = j;
    c->each = i64_max(1, PIECE / k);
    for (c->row = 0; c->row < rows; c->row += c->rows) {
        c->rows = i64_min(at_once, rows - c->row);
        TRY(slab_run(c, s));
        TRY(each(ctx, j->copy ? j->t->data + before * (usize)c->row : c->out, (j->copy ? before : after) * (usize)c->rows));
    }
    return OK;
}
