/* quant/reader.c - a text through a model, window by window, without an engine: every row's last hidden vector, or what went into each
 * matrix product. One plan serves all windows; a shorter last one is padded with rows that nobody sees. */
#include "quant/inside.h"
#include <math.h>

static void see(void *ctx, graph *g, tensor *x, const char *name)
{
    quant_reader *r = ctx;
    if (!strcmp(name, "output.weight") || !strcmp(name, "token_embd.weight")) return;
    quant_seen s = {.name = mem_strdup(name), .k = x->n[0]};
    if (r->n_seen && r->last_x == x) s.sum = r->seen[r->n_seen - 1].sum; /* q, k and v read one input */
    else s.sum = sum_to(g, mul(g, mul(g, x, x), r->mask), (shape){{x->n[0], 1}});
    r->last_x = x;
    if (!s.name || !VEC_PUSH(r->seen, r->n_seen, r->seen_cap, s)) graph_fail(g, "out of memory for importances"), mem_free(s.name);
}

static err build(quant_reader *r, bool exact, bool see_products)
{
    graph *g = graph_new();
    batch_shape s = {.rows = r->rows, .seqs = 1};
    if (!g) return err_new(ERR_NOMEM, "out of memory for a graph");
    if (exact) graph_use_float(g);
    if (see_products) r->mask = input(g, F32, (shape){{1, r->rows}}, "rows that count"), s.product = see, s.product_ctx = r;
    if (r->m->arch->encoder) encoder_build(g, r->m, &s, &r->io);
    else decoder_build(g, r->m, NULL, &s, &r->io);
    tensor **root = mem_array(tensor *, r->n_seen + 1);
    int n = 0;
    if (!root) return graph_free(g), err_new(ERR_NOMEM, "out of memory for a graph");
    root[n++] = r->io.hidden;
    for (usize i = 0; i < r->n_seen; i++)
        if (!i || r->seen[i].sum != r->seen[i - 1].sum) root[n++] = r->seen[i].sum;
    err bad = plan_new(&r->p, g, r->ws, root, n);
    mem_free(root);
    return bad;
}

static err build_head(quant_reader *r)
{
    const model_weight *w = &r->m->head;
    float cap = r->m->h.softcap_logits;
    graph *g = graph_new();
    if (!g) return err_new(ERR_NOMEM, "out of memory for a graph");
    r->head_in = input(g, F32, (shape){{r->m->h.width, QUANT_HEAD_ROWS}}, "hidden");
    tensor *y = matmul(g, r->head_in, weight(g, w->type, w->lay, (shape){{w->k, w->n}}, w->data, w->name));
    if (cap > 0) y = scale(g, act(g, scale(g, y, 1 / cap), ACT_TANH), cap);
    r->logits = y;
    return plan_new(&r->head, g, r->ws, &y, 1);
}

err quant_reader_open(quant_reader *r, const char *path, const model *m, pool *threads, i64 rows, bool exact, bool see_products)
{
    *r = (quant_reader){.m = m, .rows = rows};
    err bad = OK;
    if (!m) bad = model_open(&r->own, path, threads), r->m = r->own;
    if (!bad.code) r->rows = i64_min(rows, r->m->h.n_ctx);
    if (!bad.code) bad = backend_cpu(&r->be, threads);
    if (!bad.code) bad = workspace_new(&r->ws, r->be);
    if (!bad.code && !(r->in = mem_array(i32, 5 * r->rows))) bad = err_new(ERR_NOMEM, "out of memory for a window");
    if (!bad.code && !(r->hidden = mem_array(float, (r->rows + QUANT_HEAD_ROWS) * i64_max(r->m->h.width, 1)))) bad = err_new(ERR_NOMEM, "out of memory for a window");
    if (!bad.code) bad = build(r, exact, see_products);
    if (!bad.code && !see_products && !r->m->arch->encoder && r->m->head.data) bad = build_head(r);
    if (bad.code) quant_reader_close(r);
    return bad;
}

void quant_reader_close(quant_reader *r)
{
    plan_free(r->head);
    plan_free(r->p);
    workspace_free(r->ws);
    if (r->be) backend_close(r->be);
    model_close(r->own);
    for (usize i = 0; i < r->n_seen; i++) mem_free(r->seen[i].name);
    mem_free(r->seen);
    mem_free(r->in);
    mem_free(r->hidden);
    *r = (quant_reader){0};
}

err quant_reader_run(quant_reader *r, const i32 *id, i64 n)
{
    i32 *token = r->in, *pos = token + r->rows, *span = pos + r->rows, seq[2] = {0, (i32)n};
    for (i64 i = 0; i < r->rows; i++) {
        bool real = i < n;
        token[i] = real ? id[i] : -1;
        pos[i] = real ? (i32)i : 0;
        span[3 * i] = 0, span[3 * i + 1] = 0;
        span[3 * i + 2] = !real ? 0 : r->m->arch->encoder ? (i32)n : (i32)i + 1;
        if (r->mask) r->hidden[i] = real ? 1 : 0;
    }
    TRY(tensor_put(r->p, r->io.ids, token));
    if (r->io.pos) TRY(tensor_put(r->p, r->io.pos, pos));
    TRY(tensor_put(r->p, r->io.span, span));
    if (r->io.seq_span) TRY(tensor_put(r->p, r->io.seq_span, seq));
    if (r->mask) TRY(tensor_put(r->p, r->mask, r->hidden));
    TRY(plan_run(r->p));
    return r->mask ? OK : tensor_get(r->p, r->io.hidden, r->hidden);
}

err quant_reader_logits(quant_reader *r, i64 row, const float **logits)
{
    if (!r->head) return err_new(ERR_UNSUPPORTED, "the model has no head: it has no next token");
    TRY(tensor_put(r->head, r->head_in, r->hidden + row * r->m->h.width));
    TRY(plan_run(r->head));
    *logits = tensor_peek(r->head, r->logits);
    CHECK(*logits);
    return OK;
}

err quant_windows_open(quant_windows *w, const model *m, str text, i64 ctx)
{
    *w = (quant_windows){0};
    TRY(tokenize(m->tok, text, TOKENIZE_BOS, &w->all));
    const token_source *src = tokenizer_source(m->tok);
    w->bos = w->all.n && src->add_bos == 1 && src->bos == w->all.id[0];
    w->ctx = i64_min(ctx, m->h.n_ctx);
    w->at = w->bos;
    if (w->all.n < 2 || !(w->id = mem_array(i32, w->ctx))) {
        err bad = w->all.n < 2 ? err_new(ERR_INPUT, "a text of %zu tokens: at least two are needed", w->all.n) : err_new(ERR_NOMEM, "out of memory for a window");
        quant_windows_close(w);
        return bad;
    }
    return OK;
}

void quant_windows_close(quant_windows *w)
{
    ids_free(&w->all);
    mem_free(w->id);
    *w = (quant_windows){0};
}

bool quant_windows_next(quant_windows *w)
{
    w->n = 0;
    if (w->bos) w->id[w->n++] = w->all.id[0];
    while (w->n < w->ctx && w->at < w->all.n) w->id[w->n++] = w->all.id[w->at++];
    return w->n >= 2;
}

/* ---- importances ---- */

static err into(imatrix *m, const quant_reader *r, const double *sums, double count)
{
    const double *from = sums;
    for (usize i = 0; i < r->n_seen; i++) {
        const quant_seen *s = &r->seen[i];
        char name[64];
        int layer, at = 0;
        char which;
        if (i && s->sum != r->seen[i - 1].sum) from += r->seen[i - 1].k;
        snprintf(name, sizeof name, "%s", s->name);
        if (r->m->arch->fused && sscanf(name, "blk.%d.attn_%c.%n", &layer, &which, &at) == 2 && at && strchr("qkv", which))
            snprintf(name, sizeof name, "blk.%d.attn_qkv.weight", layer); /* the file has one matrix of the three */
        if (imatrix_find(m, str_of(name))) continue;
        float *mean = mem_array(float, s->k);
        if (!mean) return err_new(ERR_NOMEM, "out of memory for importances");
        for (i64 k = 0; k < s->k; k++) mean[k] = (float)(from[k] / count);
        err bad = imatrix_add(m, name, s->k, mean, count);
        mem_free(mean);
        TRY(bad);
    }
    return OK;
}

static err add_window(quant_reader *r, double *sums)
{
    double *to = sums;
    for (usize i = 0; i < r->n_seen; i++) {
        const quant_seen *s = &r->seen[i];
        if (i && s->sum == r->seen[i - 1].sum) continue;
        const float *v = tensor_peek(r->p, s->sum);
        CHECK(v);
        for (i64 k = 0; k < s->k; k++, to++) {
            if (!isfinite(v[k])) return err_new(ERR_FORMAT, "%s: an activation of column %lld is not finite", s->name, (long long)k);
            *to += (double)v[k];
        }
    }
    return OK;
}

err imatrix_collect(imatrix **out, const model *m, pool *threads, str text, const char *dataset, i64 ctx, progress *p)
{
    quant_reader r;
    quant_windows w;
    double *sums = NULL, count = 0;
    i64 n = 0;
    *out = NULL;
    TRY(quant_windows_open(&w, m, text, ctx));
    err bad = quant_reader_open(&r, NULL, m, threads, i64_min(w.ctx, (i64)w.all.n), true, true);
    for (usize i = 0; i < r.n_seen; i++) n += r.seen[i].k;
    if (!bad.code) bad = imatrix_new(out, dataset);
    if (!bad.code && !(sums = mem_array(double, n + 1))) bad = err_new(ERR_NOMEM, "out of memory for importances");
    if (p) progress_start(p, "collect", (i64)w.all.n);
    while (!bad.code && quant_windows_next(&w)) {
        bad = quant_reader_run(&r, w.id, w.n);
        if (!bad.code) bad = add_window(&r, sums);
        count += (double)w.n;
        if (!bad.code) (*out)->chunks++;
        if (p) progress_step(p, (i64)w.at);
    }
    if (p) progress_end(p);
    if (!bad.code) (*out)->chunk_size = w.ctx, bad = into(*out, &r, sums, count);
    if (bad.code) imatrix_free(*out), *out = NULL;
    mem_free(sums);
    quant_reader_close(&r);
    quant_windows_close(&w);
    return bad;
}
