/* quant/measure.c - what the new file answers and how fast, beside the old one: likelihood, divergence, agreement, vectors, speed.
 *
 * Both models read the same windows as they are served (8-bit activations and all), so that what is measured is what users get. The
 * head runs over few rows at a time: logits of a whole window never exist. */
#include "quant/inside.h"
#include <math.h>

static double lse(const float *x, i64 n)
{
    float most = x[0];
    double sum = 0;
    for (i64 i = 1; i < n; i++) most = fmaxf(most, x[i]);
    for (i64 i = 0; i < n; i++) sum += (double)expf(x[i] - most);
    return (double)most + log(sum);
}

static i64 best_of(const float *x, i64 n)
{
    i64 best = 0;
    for (i64 i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

typedef struct {
    const float *a, *b;
    const i32 *want; /* [n] */
    i64 n, vocab;
    struct { double nll_a, nll_b, kld, same; } row[QUANT_HEAD_ROWS];
} rows;

static void compare_rows(void *ctx, int thread, int n_threads)
{
    rows *r = ctx;
    i64 from, to;
    part(r->n, thread, n_threads, &from, &to);
    for (i64 t = from; t < to; t++) {
        const float *a = r->a + t * r->vocab, *b = r->b + t * r->vocab;
        double la = lse(a, r->vocab), lb = lse(b, r->vocab), kld = 0;
        for (i64 i = 0; i < r->vocab; i++) {
            float pa = expf((float)((double)a[i] - la));
            if (pa > 0) kld += (double)pa * (((double)a[i] - la) - ((double)b[i] - lb));
        }
        r->row[t].nll_a = la - (double)a[r->want[t]], r->row[t].nll_b = lb - (double)b[r->want[t]];
        r->row[t].kld = kld, r->row[t].same = best_of(a, r->vocab) == best_of(b, r->vocab);
    }
}

/* The old file, opened once for all new ones: a decoder's hidden vectors are kept while they are few (heads are cheap to run again),
 * an embedder's vectors always. */
enum { KEEP_FLOATS = 64 << 20 };
struct quant_original {
    const char *path;
    str text;
    i64 ctx, dim;
    pool *threads;
    model *m;
    quant_reader reader;
    float *kept; /* decoder: [width, rows] or NULL; embedder: [dim, lines] */
    i64 row;     /* of kept, of the window to come */
    bool known;
};

static err original_run(quant_original *o, const quant_windows *w)
{
    i64 width = o->m->h.width;
    float *kept = o->kept ? o->kept + o->row * width : NULL;
    usize bytes = sizeof *kept * (usize)(w->n * width);
    o->row += w->n;
    if (kept && o->known) {
        memcpy(o->reader.hidden, kept, bytes);
        return OK;
    }
    TRY(quant_reader_run(&o->reader, w->id, w->n));
    if (kept) memcpy(kept, o->reader.hidden, bytes);
    return OK;
}

static err compare_window(quant_original *o, quant_reader *b, const quant_windows *w, quant_quality *q)
{
    quant_reader *a = &o->reader;
    rows *r = mem_zero(sizeof *r);
    if (!r) return err_new(ERR_NOMEM, "out of memory for logits");
    err bad = original_run(o, w);
    if (!bad.code) bad = quant_reader_run(b, w->id, w->n);
    r->vocab = a->m->h.n_vocab;
    for (i64 at = 0; at + 1 < w->n && !bad.code; at += QUANT_HEAD_ROWS) {
        r->want = w->id + at + 1, r->n = i64_min(QUANT_HEAD_ROWS, w->n - 1 - at);
        bad = quant_reader_logits(a, at, &r->a);
        if (!bad.code) bad = quant_reader_logits(b, at, &r->b);
        if (bad.code) break;
        pool_run(o->threads, compare_rows, r);
        for (i64 i = 0; i < r->n; i++) q->nll_before += r->row[i].nll_a, q->nll_after += r->row[i].nll_b, q->kld += r->row[i].kld, q->same_top += r->row[i].same;
        q->tokens += r->n;
    }
    mem_free(r);
    return bad;
}

static err open_reader(quant_original *o, const quant_windows *w, i64 rows_at_once)
{
    i64 floats = 2 * (i64)w->all.n * o->m->h.width; /* a window of two has one token of the text */
    o->row = 0;
    if (o->reader.p) return OK;
    if (floats <= KEEP_FLOATS) o->kept = mem_array(float, floats); /* without memory for it: run again */
    return quant_reader_open(&o->reader, NULL, o->m, o->threads, rows_at_once, false, false);
}

static err compare_text(quant_original *o, const char *after, quant_quality *q, progress *p)
{
    quant_windows w;
    quant_reader b = {0};
    TRY(quant_windows_open(&w, o->m, o->text, o->ctx));
    i64 rows_at_once = i64_min(w.ctx, (i64)w.all.n);
    err bad = open_reader(o, &w, rows_at_once);
    if (!bad.code) bad = quant_reader_open(&b, after, NULL, o->threads, rows_at_once, false, false);
    if (!bad.code && (b.m->h.n_vocab != o->m->h.n_vocab || b.m->arch != o->m->arch)) bad = err_new(ERR_FORMAT, "%s is another model", after);
    if (p) progress_start(p, "eval", (i64)w.all.n);
    while (!bad.code && quant_windows_next(&w)) {
        bad = compare_window(o, &b, &w, q);
        if (p) progress_step(p, (i64)w.at);
    }
    if (p) progress_end(p);
    o->known = !bad.code;
    if (!bad.code && !q->tokens) bad = err_new(ERR_INPUT, "a text of %zu tokens: at least two are needed", w.all.n);
    if (!bad.code) {
        double n = (double)q->tokens;
        q->nll_before /= n, q->nll_after /= n, q->kld = fmax(q->kld / n, 0), q->same_top /= n;
        if (!isfinite(q->nll_after) || !isfinite(q->kld)) bad = err_new(ERR_FORMAT, "%s: its probabilities are not numbers", after);
    }
    quant_reader_close(&b);
    quant_windows_close(&w);
    return bad;
}

/* ---- embedders: the lines of the text ---- */
static err vectors_of(const char *path, int threads, const str *line, usize n, float **out, i64 *dim)
{
    engine *e;
    *out = NULL;
    TRY(engine_open(&e, path, &(engine_opts){.threads = threads}));
    *dim = engine_dim(e);
    *out = mem_array(float, *dim * (i64)n);
    err bad = *out ? engine_embed(e, line, n, EMBED_PLAIN, WINDOW_FIRST, *out, NULL, NULL) : err_new(ERR_NOMEM, "out of memory for vectors");
    engine_close(e);
    return bad;
}

static err lines_of(str text, str **line, usize *n)
{
    usize cap = 0;
    *line = NULL, *n = 0;
    for (usize at = 0; at < text.n;) {
        i64 end = str_find(text, S("\n"), at);
        usize to = end < 0 ? text.n : (usize)end;
        str s = str_trim((str){text.p + at, to - at});
        if (s.n && !VEC_PUSH(*line, *n, cap, s)) return err_new(ERR_NOMEM, "out of memory for lines");
        at = to + 1;
    }
    return *n ? OK : err_new(ERR_INPUT, "a text without a line to embed");
}

static err compare_vectors(quant_original *o, const char *after, quant_quality *q)
{
    str *line;
    usize n;
    float *b = NULL;
    i64 other = 0;
    int threads = pool_threads(o->threads);
    err bad = lines_of(o->text, &line, &n);
    if (!bad.code && !o->kept) bad = vectors_of(o->path, threads, line, n, &o->kept, &o->dim);
    if (!bad.code) bad = vectors_of(after, threads, line, n, &b, &other);
    if (!bad.code && o->dim != other) bad = err_new(ERR_FORMAT, "%s is another model", after);
    q->cosine_least = 1;
    for (usize i = 0; i < n && !bad.code; i++) {
        double dot = 0;
        for (i64 k = 0; k < other; k++) dot += (double)o->kept[(i64)i * other + k] * (double)b[(i64)i * other + k];
        q->cosine_mean += dot / (double)n, q->cosine_least = fmin(q->cosine_least, dot);
    }
    q->embeds = true, q->tokens = (i64)n;
    mem_free(b), mem_free(line);
    return bad;
}

err quant_original_open(quant_original **out, const char *path, str text, i64 ctx, pool *threads)
{
    quant_original *o = *out = mem_zero(sizeof *o);
    if (!o) return err_new(ERR_NOMEM, "out of memory");
    *o = (quant_original){.path = path, .text = text, .ctx = ctx, .threads = threads};
    err bad = model_open(&o->m, path, threads);
    if (!bad.code) return OK;
    quant_original_close(o);
    *out = NULL;
    return bad;
}

void quant_original_close(quant_original *o)
{
    if (!o) return;
    quant_reader_close(&o->reader);
    model_close(o->m);
    mem_free(o->kept);
    mem_free(o);
}

err quant_compare(quant_original *o, const char *after, quant_quality *q, progress *p)
{
    *q = (quant_quality){0};
    return o->m->arch->encoder ? compare_vectors(o, after, q) : compare_text(o, after, q, p);
}

/* ---- speed ---- */
err quant_speed_of(const char *path, int threads, quant_speed *out)
{
    enum { PROMPT = 64, NEW = 16 };
    engine *e;
    session *s = NULL;
    i32 id[PROMPT];
    gen_result r = {0};
    *out = (quant_speed){0};
    TRY(engine_open(&e, path, &(engine_opts){.threads = threads, .kv_tokens = 2 * (PROMPT + NEW + KV_PAGE)}));
    const model *m = engine_model(e);
    out->memory = engine_memory_of(e).weights;
    err bad = OK;
    if (m->arch->encoder || m->h.n_ctx < PROMPT + NEW) {
        engine_close(e);
        return OK;
    }
    for (u64 round = 0; round < 3 && !bad.code; round++) { /* the first makes plans */
        rng x;
        rng_seed(&x, round + 1);
        for (int i = 0; i < PROMPT; i++) id[i] = (i32)(rng_unit(&x) * (double)(m->h.n_vocab - 1));
        gen_request q = {.ids = id, .n = PROMPT, .max_tokens = NEW, .ignore_end = true, .sample = {.top_p = 1, .repeat_penalty = 1}};
        bad = session_open(&s, e, round + 1);
        if (!bad.code) bad = session_generate(s, &q, &r);
        session_close(s);
        s = NULL;
        if (bad.code || !round) continue;
        if (r.prefill_s > 0) out->prefill_tps = fmax(out->prefill_tps, PROMPT / r.prefill_s);
        if (r.decode_s > 0) out->decode_tps = fmax(out->decode_tps, (NEW - 1) / r.decode_s);
    }
    engine_close(e);
    return bad;
}

/* One matrix product of 64 rows by a thousand squared, in each kind of weight: the rate that a model's products can reach here. */
static err rate_of(backend *be, dtype type, double *gops)
{
    enum { N = 1024, ROWS = 64 };
    layout lay = weight_packs(type, LAYOUT_R8) ? LAYOUT_R8 : LAYOUT_ROWS;
    float *x = mem_array(float, N *N);
    u8 *flat = mem_zero(dtype_row_bytes(type, N) * N), *w = mem_zero(weight_bytes(type, lay, N, N));
    workspace *ws = NULL;
    plan *p = NULL;
    rng r;
    rng_seed(&r, 1);
    err bad = x && flat && w ? workspace_new(&ws, be) : err_new(ERR_NOMEM, "out of memory for a measurement");
    for (i64 i = 0; !bad.code && i < N * N; i++) x[i] = rng_normal(&r);
    if (!bad.code) bad = weight_encode(type, N, N, x, NULL, flat);
    if (!bad.code) {
        if (lay == LAYOUT_R8) weight_pack(type, lay, N, N, flat, w, 0, N / 8);
        else memcpy(w, flat, dtype_row_bytes(type, N) * N);
        graph *g = graph_new();
        if (!g) bad = err_new(ERR_NOMEM, "out of memory for a measurement");
        tensor *in = g ? input(g, F32, (shape){{N, ROWS}}, "x") : NULL, *y = g ? matmul(g, in, weight(g, type, lay, (shape){{N, N}}, w, "w")) : NULL;
        if (g) bad = plan_new(&p, g, ws, &y, 1);
        if (!bad.code) bad = tensor_put(p, in, x);
    }
    *gops = 0;
    for (double until = clock_s() + 0.3; !bad.code && clock_s() < until;) {
        double start = clock_s();
        bad = plan_run(p);
        *gops = fmax(*gops, 2.0 * N * N * ROWS / (clock_s() - start) / 1e9);
    }
    plan_free(p);
    workspace_free(ws);
    mem_free(x), mem_free(flat), mem_free(w);
    return bad;
}

err quant_rates_measure(pool *threads, quant_rates *out)
{
    backend *be;
    *out = (quant_rates){0};
    TRY(backend_cpu(&be, threads));
    err bad = rate_of(be, F32, &out->f32_gflops);
    if (!bad.code) bad = rate_of(be, BF16, &out->bf16_gflops);
    if (!bad.code) bad = rate_of(be, Q8_0, &out->int8_gops);
    backend_close(be);
    return bad;
}
