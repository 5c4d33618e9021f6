/* quant/coder.c - rows of one tensor from any float or block type into another, in parallel, with the error that this makes.
 *
 * Rows of one tensor or of many small ones are a batch, cut into pieces; threads take the next piece until none is left (a busy
 * machine does not hold up the rest), and each leaves its sums in the piece's own place, so that the error is the same sum whoever
 * did what. While a batch is encoded the one before it is written. Every value is looked at, of what is only copied too: a model
 * with a NaN in it should be found here, not in an answer. */
#include "quant/inside.h"
#include <math.h>

enum { SLAB = 4 << 20 /* values of a batch */, PIECE = 32 << 10 };

typedef struct {
    quant_job job;
    i64 row, rows, each; /* first, number; rows of a piece */
    usize piece, at;     /* its first piece; where its rows begin in the batch's bytes */
} segment;
typedef struct {
    segment *s;
    usize n, cap;
    u8 *out;
    usize out_n, out_cap;
} batch;
typedef struct {
    weight_loss s;
    usize segment;
    i64 from;
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
    batch b[2]; /* one is gathered and encoded, the other, encoded before, is written meanwhile */
    int now;
    i64 values; /* in b[now] */
    piece *pieces;
    usize n_pieces, pieces_cap;
    atomic_llong next;
    err (*each)(void *ctx, const quant_rows *);
    void *ctx;
    err written;
};

err quant_coder_new(quant_coder **out, pool *threads, err (*each)(void *ctx, const quant_rows *), void *ctx)
{
    quant_coder *c = *out = mem_zero(sizeof *c);
    if (!c) return err_new(ERR_NOMEM, "out of memory");
    c->threads = threads, c->each = each, c->ctx = ctx;
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
    for (int i = 0; i < 2; i++) mem_free(c->b[i].s), mem_free(c->b[i].out);
    mem_free(c->room);
    mem_free(c->pieces);
    mem_free(c);
}

/* ---- a piece ------------------------------------------------------------------------------------------------------------------ */
static bool odd_in(const float *x, i64 n, float *odd)
{
    for (i64 i = 0; i < n; i++)
        if (!isfinite(x[i])) return *odd = x[i], true;
    return false;
}

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

/* Sums of squares show whether a value is not finite, so that good rows are read no more than needed. */
static void row_run(const quant_job *j, const float *x, const float *w, u8 *to, scratch *s, piece *p, i64 row)
{
    i64 k = j->t->n[0];
    weight_loss sum = {0};
    const float *y = x;
    if (j->better && odd_in(x, k, &p->value)) { /* the search is for numbers */
        p->bad_row = row;
        return;
    }
    if (!j->copy) {
        err bad = encode_row(j, x, j->blind ? NULL : w, to, s->w);
        if (bad.code) {
            p->code = bad.code;
            return;
        }
        if (j->to != F32) dtype_table[j->to].decode(to, s->y, k), y = s->y;
    }
    weight_loss_add(k, x, y, w, &sum);
    if (!isfinite(sum.error) || !isfinite(sum.power)) {
        if (odd_in(x, k, &p->value)) p->bad_row = row;
        else if (odd_in(y, k, &p->value)) {
            p->bad_row = row, p->after = true, p->value = 0;
            for (i64 i = 0; i < k; i++) p->value = fmaxf(p->value, fabsf(x[i]));
        }
    }
    p->s.error += sum.error, p->s.power += sum.power, p->s.weighted_error += sum.weighted_error, p->s.weighted_power += sum.weighted_power;
}

static void piece_run(quant_coder *c, scratch *s, piece *p)
{
    const batch *b = &c->b[c->now];
    const segment *g = &b->s[p->segment];
    const quant_job *j = &g->job;
    i64 k = j->t->n[0], n = i64_min(g->each, g->rows - p->from), row = g->row + p->from;
    if (!make_room(s, (usize)(k * g->each))) {
        p->code = ERR_NOMEM;
        return;
    }
    const float *x = values_of(j, row, n, s->x);
    usize bytes = dtype_row_bytes(j->to, k);
    for (i64 r = 0; r < n && p->bad_row < 0 && !p->code; r++, x += k) {
        const float *w = j->importance ? j->importance + (row + r) / j->expert_rows * k : NULL;
        row_run(j, x, w, j->copy ? NULL : b->out + g->at + bytes * (usize)(p->from + r), s, p, row + r);
    }
}

/* ---- a batch ------------------------------------------------------------------------------------------------------------------ */
static err write_out(quant_coder *c, batch *b)
{
    for (usize i = 0; i < b->n; i++) {
        const segment *g = &b->s[i];
        const file_tensor *t = g->job.t;
        usize before = dtype_row_bytes(t->type, t->n[0]), after = dtype_row_bytes(g->job.to, t->n[0]);
        const u8 *from = t->data + before * (usize)g->row;
        TRY(c->each(c->ctx, &(quant_rows){.bytes = g->job.copy ? from : b->out + g->at, .n = after * (usize)g->rows, .from = from, .n_from = before * (usize)g->rows, .values = g->rows * t->n[0]}));
    }
    b->n = 0, b->out_n = 0;
    return OK;
}

/* the caller's own thread writes, so that a message of what failed is the caller's */
static void work(void *ctx, int thread, int n_threads)
{
    quant_coder *c = ctx;
    (void)n_threads;
    if (!thread) c->written = write_out(c, &c->b[!c->now]);
    if (!thread && c->written.code) {
        atomic_store(&c->next, (long long)c->n_pieces);
        return;
    }
    for (i64 i; (i = atomic_fetch_add(&c->next, 1)) < (i64)c->n_pieces;) piece_run(c, &c->room[thread], &c->pieces[i]);
}

static err verdict(const quant_coder *c)
{
    for (usize i = 0; i < c->n_pieces; i++) {
        const piece *p = &c->pieces[i];
        const quant_job *j = &c->b[c->now].s[p->segment].job;
        const char *to = dtype_table[j->to].name;
        int n = (int)(j->t->name.n < 200 ? j->t->name.n : 200);
        if (p->code) return err_new((err_code)p->code, "%.*s cannot be encoded as %s: %s", n, j->t->name.p, to, p->code == ERR_NOMEM ? "out of memory" : "its rows do not fit");
        if (p->bad_row >= 0 && p->after)
            return err_new(ERR_FORMAT, "%.*s, row %lld: %s cannot hold %g: choose a type of more range (bf16, f32)", n, j->t->name.p, (long long)p->bad_row, to, (double)p->value);
        if (p->bad_row >= 0)
            return err_new(ERR_FORMAT, "%.*s, row %lld: a value is %s, expected finite numbers: the model is damaged", n, j->t->name.p, (long long)p->bad_row, isnan(p->value) ? "not a number (NaN)" : "infinite");
        j->sums->error += p->s.error, j->sums->power += p->s.power, j->sums->weighted_error += p->s.weighted_error, j->sums->weighted_power += p->s.weighted_power;
    }
    return OK;
}

static err batch_run(quant_coder *c)
{
    batch *b = &c->b[c->now];
    if (b->out_n > b->out_cap) {
        mem_free(b->out);
        b->out = mem_alloc(b->out_n);
        b->out_cap = b->out ? b->out_n : 0;
        if (!b->out) return err_new(ERR_NOMEM, "out of memory for %zu bytes of rows", b->out_n);
    }
    atomic_store(&c->next, 0);
    if (c->threads) pool_run(c->threads, work, c);
    else work(c, 0, 1);
    TRY(c->written);
    TRY(verdict(c));
    c->now = !c->now, c->values = 0, c->n_pieces = 0;
    return OK;
}

static err segment_add(quant_coder *c, const quant_job *j, i64 row, i64 rows)
{
    batch *b = &c->b[c->now];
    i64 k = j->t->n[0];
    segment g = {.job = *j, .row = row, .rows = rows, .each = i64_max(1, PIECE / k), .piece = c->n_pieces, .at = b->out_n};
    if (!j->copy) b->out_n += dtype_row_bytes(j->to, k) * (usize)rows;
    if (!VEC_PUSH(b->s, b->n, b->cap, g)) return err_new(ERR_NOMEM, "out of memory for a list of tensors");
    for (i64 from = 0; from < rows && j->t->type != I32; from += g.each) {
        piece p = {.segment = b->n - 1, .from = from, .bad_row = -1};
        if (!VEC_PUSH(c->pieces, c->n_pieces, c->pieces_cap, p)) return err_new(ERR_NOMEM, "out of memory for %zu pieces", c->n_pieces);
    }
    c->values += rows * k;
    return OK;
}

err quant_coder_add(quant_coder *c, const quant_job *j)
{
    i64 k = j->t->n[0], rows = j->t->n[1] * j->t->n[2] * j->t->n[3];
    for (i64 row = 0, n; row < rows; row += n) {
        n = i64_min(rows - row, i64_max(1, (SLAB - c->values) / k));
        TRY(segment_add(c, j, row, n));
        if (c->values + k > SLAB) TRY(batch_run(c));
    }
    return OK;
}

err quant_coder_finish(quant_coder *c)
{
    TRY(batch_run(c));
    return write_out(c, &c->b[!c->now]);
}
