/* engine/embed.c - embeddings: texts are cut into windows of tokens, sorted by length, and packed into batches without padding
 * between them (the encoder keeps sequences apart by spans), so short texts never pay for long ones. */
#include "engine/inside.h"
#include <math.h>
#include <stdlib.h>

enum { EMBED_ROWS = 512, EMBED_SEQS = 64 };

i64 engine_dim(const engine *e) { return e->m->h.width; }
i64 engine_window(const engine *e) { return e->m->h.n_ctx; }

err engine_count_tokens(const engine *e, str text, i64 *n)
{
    ids t = {0};
    err bad = tokenize(e->m->tok, text, TOKENIZE_BOS, &t);
    *n = (i64)t.n;
    ids_free(&t);
    return bad;
}

typedef struct { const ids *t; usize at; } sized;
static int by_length(const void *a, const void *b)
{
    const sized *x = a, *y = b;
    return x->t->n != y->t->n ? (x->t->n < y->t->n ? -1 : 1) : x->at < y->at ? -1 : 1;
}

static i64 rows_bucket(i64 n, i64 most)
{
    i64 b = n <= 16 ? 16 : n <= 32 ? 32 : (n + 63) / 64 * 64;
    return i64_max(n, i64_min(b, most));
}

static err embed_batch(engine *e, const sized *list, usize n, i64 rows, i64 most, float *vectors)
{
    plan_slot *slot;
    i64        r = 0, d = e->m->h.width, padded = rows_bucket(rows, most);
    i32       *id = e->in, *pos = id + most, *span = pos + most, *mix = span + 3 * most, *seq = mix + most;
    TRY(plan_get(e, padded, 0, EMBED_SEQS, &slot));
    memset(seq, 0, sizeof *seq * 2 * EMBED_SEQS);
    for (usize s = 0; s < n; s++) {
        i32 first = (i32)r, end = first + (i32)list[s].t->n;
        seq[2 * s] = first, seq[2 * s + 1] = end;
        for (; r < end; r++) {
            mix[r] = e->n_mixes ? 0 : -1;
            id[r] = list[s].t->id[r - first], pos[r] = (i32)r - first;
            span[3 * r] = (i32)s, span[3 * r + 1] = first, span[3 * r + 2] = end;
        }
    }
    for (; r < padded; r++) id[r] = mix[r] = -1, pos[r] = -1, span[3 * r] = span[3 * r + 1] = span[3 * r + 2] = 0;
    TRY(tensor_put(slot->p, slot->io.ids, id));
    TRY(tensor_put(slot->p, slot->io.pos, pos));
    TRY(tensor_put(slot->p, slot->io.span, span));
    TRY(tensor_put(slot->p, slot->io.seq_span, seq));
    if (slot->io.adapter) TRY(tensor_put(slot->p, slot->io.adapter, mix));
    TRY(plan_run(slot->p));
    const float *out = tensor_peek(slot->p, slot->io.pooled);
    CHECK(out);
    for (usize s = 0; s < n; s++) memcpy(vectors + (i64)list[s].at * d, out + (i64)s * d, sizeof *out * (usize)d);
    return OK;
}

err embed_plan(engine *e, plan_slot **slot)
{
    i64 most = i64_max(EMBED_ROWS, e->m->h.n_ctx);
    return plan_get(e, rows_bucket(most, most), 0, EMBED_SEQS, slot);
}

void embed_run(engine *e, job *j)
{
    err    bad = OK;
    i64    most = i64_max(EMBED_ROWS, e->m->h.n_ctx);
    sized *list = mem_array(sized, j->n_lists + 1);
    if (!list) bad = err_new(ERR_NOMEM, "out of memory while embedding");
    for (usize i = 0; list && i < j->n_lists; i++) list[i] = (sized){&j->lists[i], i};
    if (list) qsort(list, j->n_lists, sizeof *list, by_length);
    for (usize from = 0; list && from < j->n_lists && !bad.code;) {
        usize to = from;
        i64   rows = 0;
        while (to < j->n_lists && to - from < EMBED_SEQS && (to == from || rows + (i64)list[to].t->n <= EMBED_ROWS)) rows += (i64)list[to++].t->n;
        bad = embed_batch(e, list + from, to - from, rows, most, j->vectors);
        from = to;
        atomic_store(&j->done_lists, from);
        if (atomic_load(&e->closing) && !bad.code && from < j->n_lists) bad = err_new(ERR_CANCELLED, "the engine is closing");
    }
    mem_free(list);
    job_end(j, bad);
}

static err embed_lists(engine *e, const ids *lists, usize n, float *vectors)
{
    job j;
    TRY(job_init(&j));
    j.kind = JOB_EMBED;
    j.lists = lists;
    j.n_lists = n;
    j.vectors = vectors;
    err bad = job_submit(e, &j);
    job_free(&j);
    return bad;
}

/* ---- texts to windows ---- */

static err tokens_of(const engine *e, str text, embed_role role, ids *out)
{
    const char *prefix = role == EMBED_QUERY ? e->m->query_prefix : role == EMBED_PASSAGE ? e->m->passage_prefix : "";
    buf         b = {0};
    buf_puts(&b, prefix);
    buf_str(&b, text);
    err bad = buf_error(&b);
    if (!bad.code) bad = tokenize(e->m->tok, buf_view(&b), TOKENIZE_BOS, out);
    buf_free(&b);
    return bad;
}

typedef struct { ids *list; usize n, cap; } windows;
static void windows_free(windows *w)
{
    for (usize i = 0; i < w->n; i++) ids_free(&w->list[i]);
    mem_free(w->list);
}

/* each window keeps the first and last token (CLS and SEP) around its share of the others */
static err windows_push(windows *w, const ids *t, i64 window)
{
    usize inner = t->n - 2, each = (usize)window - 2, pieces = (inner + each - 1) / each;
    for (usize i = 0; i < pieces; i++) {
        ids   one = {0};
        usize from = 1 + i * each, n = inner - i * each < each ? inner - i * each : each;
        if (!ids_push(&one, t->id[0]) || !ids_append(&one, t->id + from, n) || !ids_push(&one, t->id[t->n - 1]) || !VEC_PUSH(w->list, w->n, w->cap, one)) {
            ids_free(&one);
            return err_new(ERR_NOMEM, "out of memory while embedding");
        }
    }
    return OK;
}

static err windows_add(const engine *e, windows *w, str text, embed_role role, window_mode mode)
{
    ids t = {0};
    err bad = tokens_of(e, text, role, &t);
    i64 window = e->m->h.n_ctx;
    if (!bad.code && (i64)t.n > window && mode == WINDOW_ERROR)
        bad = err_new(ERR_INPUT, "a text of %zu tokens, the embedder's window holds %lld", t.n, (long long)window);
    else if (!bad.code && (i64)t.n > window && mode == WINDOW_MEAN) bad = windows_push(w, &t, window);
    else if (!bad.code) {
        if ((i64)t.n > window) t.id[window - 1] = t.id[t.n - 1], t.n = (usize)window;
        if (VEC_PUSH(w->list, w->n, w->cap, t)) return OK;
        bad = err_new(ERR_NOMEM, "out of memory while embedding");
    }
    ids_free(&t);
    return bad;
}

static void unit(float *v, i64 n)
{
    double sum = 0;
    for (i64 i = 0; i < n; i++) sum += (double)v[i] * v[i];
    float s = sum > 0 ? (float)(1 / sqrt(sum)) : 0;
    for (i64 i = 0; i < n; i++) v[i] *= s;
}

static err embed_some(engine *e, const str *texts, usize n, embed_role role, window_mode mode, float *out)
{
    windows w = {0};
    usize  *from = mem_array(usize, n + 1);
    i64     d = e->m->h.width;
    float  *v = NULL;
    err     bad = from ? OK : err_new(ERR_NOMEM, "out of memory while embedding");
    for (usize i = 0; i < n && !bad.code; i++) {
        bad = windows_add(e, &w, texts[i], role, mode);
        from[i + 1] = w.n;
    }
    if (!bad.code && !(v = mem_array(float, w.n * (usize)d + 1))) bad = err_new(ERR_NOMEM, "out of memory while embedding");
    if (!bad.code) bad = embed_lists(e, w.list, w.n, v);
    for (usize i = 0; i < n && !bad.code; i++) {
        float *o = out + (i64)i * d;
        memset(o, 0, sizeof *o * (usize)d);
        for (usize k = from[i]; k < from[i + 1]; k++) { /* by length: a last window of a few tokens must not count as a whole one */
            float weight = from[i + 1] - from[i] > 1 ? (float)(w.list[k].n - 2) : 1;
            for (i64 x = 0; x < d; x++) o[x] += weight * v[(i64)k * d + x];
        }
        if (from[i + 1] - from[i] > 1) unit(o, d);
    }
    windows_free(&w);
    mem_free(from);
    mem_free(v);
    return bad;
}

static err encoder_check(const engine *e)
{
    return e->m->arch->encoder ? OK : err_new(ERR_INPUT, "%s is not an embedding model (architecture %s)", e->m->path, e->m->arch->name);
}

err engine_embed(engine *e, const str *texts, usize n, embed_role role, window_mode mode, float *out, void (*step)(void *, usize), void *ctx)
{
    TRY(encoder_check(e));
    for (usize from = 0; from < n;) { /* pieces, so that progress shows and memory stays bounded */
        usize count = n - from < 256 ? n - from : 256;
        TRY(embed_some(e, texts + from, count, role, mode, out + (i64)from * e->m->h.width));
        from += count;
        if (step) step(ctx, from);
    }
    return OK;
}

err engine_embed_windows(engine *e, str text, embed_role role, float **out, usize *n)
{
    windows w = {0};
    ids     t = {0};
    *out = NULL;
    *n = 0;
    TRY(encoder_check(e));
    err bad = tokens_of(e, text, role, &t);
    if (!bad.code && t.n >= 2) bad = windows_push(&w, &t, e->m->h.n_ctx);
    ids_free(&t);
    if (!bad.code && w.n) {
        *out = mem_array(float, w.n * (usize)e->m->h.width);
        bad = *out ? embed_lists(e, w.list, w.n, *out) : err_new(ERR_NOMEM, "out of memory while embedding");
        *n = w.n;
    }
    windows_free(&w);
    if (bad.code) {
        mem_free(*out);
        *out = NULL;
        *n = 0;
    }
    return bad;
}
