/* model/merge.c - an adapter into the weights: W + scale B A, encoded again in W's own type, and how far that moves the model.
 *
 * Encoding anew is where merged models are lost: what the adapter adds may be less than half a step of a 4-bit weight. So the
 * file is measured before it gets its name: both models read one text in float arithmetic, and the Kullback-Leibler divergence of
 * their next-token distributions is held against a limit. Everything else of the file is copied byte for byte. */
#include "model/adapter_inside.h"
#include "model/arch.h"
#include <math.h>
#include <stdio.h>
#include <unistd.h>

static const char probe[] =
    "The library opens at nine on weekdays and at ten on Saturdays. Visitors who want to borrow books need a card, which is free "
    "of "
    "charge for residents.\n\n회의는 매주 월요일 오전 열 시에 시작합니다. 휴가를 쓰려면 사흘 전까지 팀장에게 알려야 합니다.\n\n"
    "int sum(const int *values, int n)\n{\n    int total = 0;\n    for (int i = 0; i < n; i++) total += values[i];\n    return "
    "total;\n}\n"
    "Question: What is 17 + 25?\nAnswer: 42\n";
enum { PROBE_TOKENS = 96 };

static err no_memory(void) { return err_new(ERR_NOMEM, "out of memory while merging"); }

/* ---- which tensors change ------------------------------------------------------------------------------------------------ */
/* the file's tensor that holds the weight of that name, and the row where it begins there */
static void in_file(const model *m, const char *name, char out[64], i64 *row)
{
    int layer, at = 0;
    char which;
    *row = 0;
    snprintf(out, 64, "%s", name);
    if (!m->arch->fused || sscanf(name, "blk.%d.attn_%c.%n", &layer, &which, &at) != 2 || !at || !strchr("qkv", which)) return;
    const layer_weights *w = &m->layers[layer];
    bool bias = !strcmp(name + at, "bias");
    i64 q = bias ? w->q_b.k : w->q.n, k = bias ? w->k_b.k : w->k.n;
    snprintf(out, 64, "blk.%d.attn_qkv.%s", layer, name + at);
    *row = which == 'q' ? 0 : which == 'k' ? q : q + k;
}

typedef struct {
    const model *m;
    const adapter_mix *mix;
    pool *threads;
    dtype type;
    merge_report *report;
    bool unties; /* a tied head gets a tensor of its own */
} merger;

static bool touches(const merger *g, const char *what)
{
    char name[64];
    i64 row;
    for (int u = 0; u < g->mix->n; u++) {
        const adapter_file *f = g->mix->use[u].file;
        for (usize i = 0; i < f->n_pairs; i++)
            if (in_file(g->m, f->pair[i].name, name, &row), !strcmp(name, what)) return true;
        for (usize i = 0; i < f->n_whole; i++)
            if (in_file(g->m, f->whole[i].name, name, &row), !strcmp(name, what)) return true;
    }
    return false;
}

static err check(const merger *g)
{
    TRY(adapter_mix_check(g->mix));
    for (int u = 0; u < g->mix->n; u++) {
        const adapter_file *f = g->mix->use[u].file;
        if (f->n_prompt || f->n_prefix)
            return err_new(ERR_UNSUPPORTED, "%s is no part of the weights: it cannot be merged, use it with --adapter",
                           f->n_prompt ? "a soft prompt" : "a prefix");
        for (usize i = 0; i < f->n_whole; i++)
            if (str_starts(str_of(f->whole[i].name), S("score.")))
                return err_new(ERR_UNSUPPORTED,
                               "a classifier ('%s') has no place in a language model's file: use it with --adapter",
                               f->whole[i].name);
    }
    return OK;
}

/* ---- one tensor ---------------------------------------------------------------------------------------------------------- */
typedef struct {
    const low_rank *p;
    float scale, *w;
    i64 k;
} product;

static void add_product(void *ctx, int thread, int n_threads) /* w [k,n] += scale * b a, by rows */
{
    const product *x = ctx;
    i64 from, to;
    part(x->p->n, thread, n_threads, &from, &to);
    for (i64 r = from; r < to; r++)
        for (i64 j = 0; j < x->p->rank; j++) {
            float f = x->scale * x->p->b[r * x->p->rank + j];
            const float *a = x->p->a + j * x->k;
            float *w = x->w + r * x->k;
            for (i64 i = 0; i < x->k; i++) w[i] += f * a[i];
        }
}

/* whole tensors first: a pair stands beside what is there then */
static void apply(const merger *g, const char *what, float *w, i64 k)
{
    char name[64];
    i64 row;
    for (int u = 0; u < g->mix->n; u++)
        for (usize i = 0; i < g->mix->use[u].file->n_whole; i++) {
            const whole_tensor *t = &g->mix->use[u].file->whole[i];
            in_file(g->m, t->name, name, &row);
            if (!strcmp(name, what)) memcpy(w + row * (t->n == 1 ? 1 : k), t->data, sizeof *w * (usize)(t->k * t->n));
        }
    for (int u = 0; u < g->mix->n; u++)
        for (usize i = 0; i < g->mix->use[u].file->n_pairs; i++) {
            const low_rank *p = &g->mix->use[u].file->pair[i];
            in_file(g->m, p->name, name, &row);
            if (strcmp(name, what) != 0) continue;
            product x = {p, p->scale * g->mix->use[u].scale, w + row * k, k};
            if (g->threads)
                pool_run(g->threads, add_product, &x);
            else
                add_product(&x, 0, 1);
        }
}

static dtype type_of(const merger *g, const file_tensor *t)
{
    return g->type == DTYPE_COUNT || t->n_dims < 2 ? t->type : g->type;
}

static err put_changed(const merger *g, gguf_writer *out, const file_tensor *t, const char *name)
{
    i64 k = t->n[0], rows = t->n[1] * t->n[2] * t->n[3];
    dtype type = type_of(g, t);
    float *w = mem_array(float, k *rows);
    usize bytes = dtype_row_bytes(type, k);
    u8 *coded = mem_alloc(bytes * (usize)rows);
    err bad = w && coded ? adapter_read_tensor(t, name, w) : no_memory();
    if (!bad.code) {
        if (g->unties && !strcmp(name, "output.weight")) apply(g, "token_embd.weight", w, k); /* what the head was tied to */
        apply(g, name, w, k);
        for (i64 i = 0; i < k * rows && !bad.code; i++)
            if (!isfinite(w[i])) bad = err_new(ERR_FORMAT, "%s: a value that is not finite after merging", name);
        for (i64 r = 0; r < rows && !bad.code; r++) dtype_table[type].encode(w + r * k, coded + (usize)r * bytes, k);
    }
    if (!bad.code) bad = gguf_put_data(out, coded, bytes * (usize)rows);
    mem_free(w);
    mem_free(coded);
    return bad;
}

/* ---- the file ------------------------------------------------------------------------------------------------------------ */
static err list_tensor(const merger *g, gguf_writer *out, const file_tensor *t, const char *name, bool changed)
{
    dtype type = changed ? type_of(g, t) : t->type;
    if (changed && (!dtype_table[type].encode || t->n[0] % dtype_table[type].block))
        return err_new(ERR_UNSUPPORTED, "%s: rows of %lld values cannot be encoded as %s: choose another --type", name,
                       (long long)t->n[0], dtype_table[type].name);
    g->report->changed += changed;
    return gguf_put_tensor(out, str_of(name), type, t->n_dims, t->n);
}

static err write_all(const merger *g, gguf_writer *out)
{
    const model_file *file = g->m->file;
    const file_tensor *embed = file_tensor_find(file, S("token_embd.weight"));
    for (usize i = 0; i < file_n_meta(file); i++) TRY(gguf_put_meta(out, file_meta_at(file, i)));
    for (int pass = 0; pass < 2; pass++) {
        for (usize i = 0; i < file_n_tensors(file); i++) {
            const file_tensor *t = file_tensor_at(file, i);
            char name[1025];
            snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.p);
            bool changed = touches(g, name);
            if (!pass)
                TRY(list_tensor(g, out, t, name, changed));
            else if (changed)
                TRY(put_changed(g, out, t, name));
            else
                TRY(gguf_put_data(out, t->data, t->bytes));
        }
        if (!g->unties) continue;
        CHECK(embed);
        if (!pass)
            TRY(list_tensor(g, out, embed, "output.weight", true));
        else
            TRY(put_changed(g, out, embed, "output.weight"));
    }
    return OK;
}

static err write_file(const merger *g, const char *path)
{
    gguf_writer *out;
    TRY(gguf_create(&out, path));
    err bad = write_all(g, out);
    if (!bad.code) return gguf_commit(out);
    gguf_drop(out);
    return bad;
}

/* ---- measuring ----------------------------------------------------------------------------------------------------------- */
static double lse(const float *x, i64 n)
{
    double most = x[0], sum = 0;
    for (i64 i = 1; i < n; i++) most = fmax(most, x[i]);
    for (i64 i = 0; i < n; i++) sum += exp(x[i] - most);
    return most + log(sum);
}

static void compare(const float *a, const float *b, i64 n_vocab, i64 n, merge_report *r)
{
    double kld = 0;
    r->max_abs_logit = 0;
    for (i64 t = 0; t < n; t++, a += n_vocab, b += n_vocab) {
        double la = lse(a, n_vocab), lb = lse(b, n_vocab);
        for (i64 i = 0; i < n_vocab; i++) {
            double pa = a[i] - la, d = (double)a[i] - (double)b[i];
            kld += exp(pa) * (pa - (b[i] - lb));
            r->max_abs_logit = fmax(r->max_abs_logit, fabs(d));
        }
    }
    r->kld = fmax(kld / (double)n, 0); /* rounding can make nothing a little less */
    r->tokens = n;
}

static err probe_tokens(const model *m, ids *out)
{
    TRY(tokenize(m->tok, str_of(probe), TOKENIZE_BOS, out));
    i64 most = i64_min(PROBE_TOKENS, m->h.n_ctx);
    rng r;
    rng_seed(&r, 1);
    while ((i64)out->n < i64_min(most, 16)) /* a vocabulary without letters: any tokens */
        if (!ids_push(out, (i32)(rng_u64(&r) % (u64)m->h.n_vocab))) return no_memory();
    if ((i64)out->n > most) out->n = (usize)most;
    return OK;
}

static err measure(const merger *g, const char *path)
{
    model *merged = NULL;
    ids t = {0};
    const model *m = g->m;
    TRY(model_open(&merged, path, g->threads));
    err bad = probe_tokens(m, &t);
    usize n = bad.code ? 0 : t.n * (usize)m->h.n_vocab;
    float *a = mem_array(float, n + 1), *b = mem_array(float, n + 1);
    if (!bad.code && (!a || !b)) bad = no_memory();
    if (!bad.code) bad = model_logits(m, g->mix, t.id, (i64)t.n, g->threads, a);
    if (!bad.code) bad = model_logits(merged, NULL, t.id, (i64)t.n, g->threads, b);
    if (!bad.code) compare(a, b, m->h.n_vocab, (i64)t.n, g->report);
    g->report->bytes = merged->file_bytes;
    mem_free(a);
    mem_free(b);
    ids_free(&t);
    model_close(merged);
    return bad;
}

/* The measured file gets its name, or becomes a folder of that name. */
static err name_it(const char *measured, const char *out)
{
    model *m;
    convert_report r = {0};
    if (str_ends(str_of(out), S(".gguf"))) return rename(measured, out) ? err_os("%s: cannot get its name", out) : OK;
    TRY(model_open_mapped(&m, measured));
    err bad = model_to_folder(m, out, &r);
    model_close(m);
    return bad;
}

err adapter_merge(const model *m, const adapter_mix *mix, const char *out, dtype type, double limit, bool force, pool *threads,
                  merge_report *report)
{
    merger g = {.m = m, .mix = mix, .threads = threads, .type = type, .report = report};
    buf unmeasured = {0};
    *report = (merge_report){0};
    TRY(check(&g));
    if (m->arch->encoder)
        return err_new(ERR_UNSUPPORTED, "%s is an embedding model: what merging does to its vectors is not measured", m->path);
    g.unties = touches(&g, "output.weight") && !file_tensor_find(m->file, S("output.weight"));
    buf_fmt(&unmeasured, "%s.unmeasured", out);
    TRY(buf_error(&unmeasured));
    const char *path = buf_cstr(&unmeasured);
    err bad = write_file(&g, path);
    if (!bad.code) {
        bad = measure(&g, path);
        if (!bad.code && !(report->kld <= limit) && !force)
            bad = err_new(ERR_INPUT,
                          "merging moves the model by %.4f nats for each token (limit %.4f, largest change of a logit %.3f): "
                          "nothing is written; --type f16 keeps more, --force writes it all the same",
                          report->kld, limit, report->max_abs_logit);
        if (!bad.code) bad = name_it(path, out);
        if (file_exists(path)) unlink(path);
    }
    buf_free(&unmeasured);
    return bad;
}
