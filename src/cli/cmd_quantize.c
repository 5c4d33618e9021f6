/* cli/cmd_quantize.c - maru quantize: a model in fewer bits, and what that saves and costs. */
#include "cli/cli.h"
#include "quant/quant.h"
#include <math.h>
#include <unistd.h>

typedef struct {
    const char *type, *importances, *collect, *search, *eval, *svg, *output;
    bool requantise, pure, sweep, speed;
    i64 ctx;
} asked;

static err no_such_type(const char *word)
{
    buf b = {0};
    for (usize i = 0; i < quant_n_mixes; i++) buf_fmt(&b, "%s%s", i ? " " : "", quant_mixes[i].name);
    err bad = err_new(ERR_INPUT, L("--type %s: 모르는 형식입니다 (%s)", "--type %s: no such type (%s)"), word, buf_cstr(&b));
    buf_free(&b);
    return bad;
}

static json_t *tensors_json(const quant_report *r)
{
    json_t *all = json_array();
    for (usize i = 0; i < r->n; i++) {
        const quant_tensor *t = &r->t[i];
        json_t *o = json_pack("{s:o,s:s,s:s,s:o,s:I}", "name", json_cstr(t->name), "from", dtype_table[t->from].name, "to", dtype_table[t->to].name, "rmse", json_f(t->rmse), "bytes", (json_int_t)t->after);
        if (t->weighed) json_set(o, "weighted_rmse", json_f(t->weighted));
        json_push(all, o);
    }
    return all;
}

static void report_json(cli *c, const char *out, const quant_opts *o, const quant_report *r)
{
    const quant_tensor *w[10];
    usize n = quant_worst(r, 10, w);
    json_t *worst = json_array();
    for (usize i = 0; i < n; i++) json_push(worst, json_cstr(w[i]->name));
    json_set(c->out, "path", json_cstr(out));
    json_set(c->out, "type", json_cstr(o->mix->name));
    json_set(c->out, "bytes", json_pack("{s:I,s:I}", "before", (json_int_t)r->before, "after", (json_int_t)r->after));
    json_set(c->out, "ratio", json_f(r->after ? (double)r->before / (double)r->after : 0));
    json_set(c->out, "bits_per_weight", json_f(quant_bits(r)));
    json_set(c->out, "rmse", json_f(quant_error(r, false)));
    json_set(c->out, "weighted_rmse", json_f(quant_error(r, true)));
    json_set(c->out, "requantized", json_boolean(r->requantised));
    json_set(c->out, "fallbacks", json_integer((json_int_t)r->fallbacks));
    json_set(c->out, "seconds", json_f(r->seconds));
    json_set(c->out, "worst", worst);
    json_set(c->out, "tensors", tensors_json(r));
}

static void report_text(const char *out, const quant_opts *o, const quant_report *r)
{
    const quant_tensor *w[10];
    usize n = quant_worst(r, 10, w), of[DTYPE_COUNT] = {0};
    printf("%s\n", out);
    printf(L("%s: %.1f MB -> %.1f MB, %.2f배 작음, 가중치마다 %.3f비트, 상대 오차 %.5f\n", "%s: %.1f MB -> %.1f MB, %.2f times smaller, %.3f bits a weight, relative error %.5f\n"), o->mix->name,
           (double)r->before / 1e6, (double)r->after / 1e6, (double)r->before / (double)r->after, quant_bits(r), quant_error(r, false));
    if (r->requantised) printf("%s\n", L("입력이 이미 양자화되어 있었습니다: 오차 위에 오차가 더해졌습니다", "the input was quantised already: this error comes on top of its own"));
    for (usize i = 0; i < r->n; i++) of[r->t[i].to]++;
    printf("%s", L("텐서:", "tensors:"));
    for (int t = 0; t < DTYPE_COUNT; t++)
        if (of[t]) printf(" %s %zu", dtype_table[t].name, of[t]);
    printf("\n");
    for (usize i = 0; i < n; i++) {
        if (!i) printf(L("%-32s %-6s %-6s %9s %9s\n", "%-32s %-6s %-6s %9s %9s\n"), L("오차가 가장 큰 텐서", "largest errors"), L("전", "from"), L("후", "to"), "rmse", L("가중", "weighted"));
        printf("%-32s %-6s %-6s %9.5f %9.5f\n", w[i]->name, dtype_table[w[i]->from].name, dtype_table[w[i]->to].name, w[i]->rmse, w[i]->weighted);
    }
}

static void quality_json(cli *c, const quant_quality *q)
{
    if (q->embeds) {
        json_set(c->out, "cosine", json_pack("{s:o,s:o}", "mean", json_f(q->cosine_mean), "least", json_f(q->cosine_least)));
        json_set(c->out, "texts", json_integer(q->tokens));
        return;
    }
    json_set(c->out, "nll", json_pack("{s:o,s:o}", "before", json_f(q->nll_before), "after", json_f(q->nll_after)));
    json_set(c->out, "kld", json_f(q->kld));
    json_set(c->out, "top1_same", json_f(q->same_top));
    json_set(c->out, "tokens", json_integer(q->tokens));
}

static void quality_text(const quant_quality *q)
{
    if (q->embeds) printf(L("글 %lld개: 벡터의 코사인 평균 %.5f, 최소 %.5f\n", "%lld texts: cosine to the vectors before: mean %.5f, least %.5f\n"), (long long)q->tokens, q->cosine_mean, q->cosine_least);
    else
        printf(L("토큰 %lld개: nll %.5f -> %.5f, KL %.5f, 첫 선택이 같음 %.1f %%\n", "%lld tokens: nll %.5f -> %.5f, divergence %.5f nats a token, same first choice %.1f %%\n"), (long long)q->tokens, q->nll_before, q->nll_after,
               q->kld, 100 * q->same_top);
}

/* an engine for each file in turn: what a user of it would see */
static err speeds(cli *c, const char *in, const char *out, pool *threads)
{
    quant_speed a, b;
    quant_rates r;
    TRY(quant_speed_of(in, (int)c->threads, &a));
    TRY(quant_speed_of(out, (int)c->threads, &b));
    TRY(quant_rates_measure(threads, &r));
    json_set(c->out, "decode_tps", json_pack("{s:f,s:f}", "before", a.decode_tps, "after", b.decode_tps));
    json_set(c->out, "prefill_tps", json_pack("{s:f,s:f}", "before", a.prefill_tps, "after", b.prefill_tps));
    json_set(c->out, "memory", json_pack("{s:I,s:I}", "before", (json_int_t)a.memory, "after", (json_int_t)b.memory));
    json_set(c->out, "machine", json_pack("{s:f,s:f,s:f}", "f32_gflops", r.f32_gflops, "bf16_gflops", r.bf16_gflops, "int8_gops", r.int8_gops));
    if (c->json) return OK;
    printf(L("메모리 %.1f MB -> %.1f MB\n", "memory %.1f MB -> %.1f MB\n"), (double)a.memory / 1e6, (double)b.memory / 1e6);
    if (a.decode_tps > 0)
        printf(L("토큰/초: 쓰기 %.1f -> %.1f (%.2f배), 읽기 %.1f -> %.1f (%.2f배)\n", "tokens a second: writing %.1f -> %.1f (%.2f times), reading %.1f -> %.1f (%.2f times)\n"), a.decode_tps, b.decode_tps, b.decode_tps / a.decode_tps,
               a.prefill_tps, b.prefill_tps, b.prefill_tps / a.prefill_tps);
    printf(L("이 기계의 행렬 곱: fp32 %.0f, bf16 %.0f GFLOP/s, int8 %.0f GOP/s\n", "matrix products of this machine: fp32 %.0f, bf16 %.0f GFLOP/s, int8 %.0f GOP/s\n"), r.f32_gflops, r.bf16_gflops, r.int8_gops);
    return OK;
}

static bool shows(const cli *c) { return !c->quiet && !c->json; }

static err one(cli *c, const asked *a, const char *in, const char *out, const buf *text, quant_opts *o)
{
    quant_report r;
    quant_quality q;
    progress p;
    if (shows(c)) o->progress = &p;
    err bad = quant_run(in, out, o, &r);
    if (!bad.code) {
        if (r.requantised) log_line(LOG_WARN, "%s", L("이미 양자화된 입력을 다시 양자화했습니다", "the input was quantised already: errors came on top of errors"));
        report_json(c, out, o, &r);
        if (!c->json) report_text(out, o, &r);
    }
    if (!bad.code && a->eval) {
        quant_original *before;
        bad = quant_original_open(&before, in, buf_view(text), a->ctx, o->threads);
        if (!bad.code) bad = quant_compare(before, out, &q, shows(c) ? &p : NULL);
        quant_original_close(before);
        if (!bad.code) quality_json(c, &q);
        if (!bad.code && !c->json) quality_text(&q);
    }
    if (!bad.code && (a->eval || a->speed)) bad = speeds(c, in, out, o->threads);
    if (!bad.code && a->svg) bad = quant_draw_report(&r, a->eval ? &q : NULL, o->mix->name, a->svg);
    quant_report_free(&r);
    return bad;
}

/* ---- every type there is: quality against size ---- */

static void sweep_row(const quant_point *p, bool first)
{
    if (first) {
        printf("%s", L("형식             MB    비트      오차", "type             MB    bits      rmse"));
        if (isfinite(p->kld)) printf("%s", L("       nll         KL  첫 선택", "       nll         KL  same top"));
        if (isfinite(p->cosine_mean)) printf("%s", L("     코사인       최소", "     cosine      least"));
        printf("\n");
    }
    printf("%-9s %9.1f %7.3f  %8.5f", p->name, (double)p->bytes / 1e6, p->bits, p->rmse);
    if (isfinite(p->kld)) printf("  %8.4f  %9.5f  %6.1f %%", p->nll, p->kld, 100 * p->same_top);
    if (isfinite(p->cosine_mean)) printf("  %9.6f  %9.6f", p->cosine_mean, p->cosine_least);
    printf("\n");
}

static err sweep_one(const cli *c, const char *in, const char *at, quant_original *before, quant_opts *o, quant_point *pt, bool first)
{
    quant_report r;
    quant_quality q = {0};
    err bad = quant_run(in, at, o, &r);
    *pt = (quant_point){.name = o->mix->name, .bytes = r.after, .nll = NAN, .kld = NAN, .same_top = NAN, .cosine_mean = NAN, .cosine_least = NAN};
    if (!bad.code) pt->bits = quant_bits(&r), pt->rmse = quant_error(&r, false);
    if (!bad.code && before) bad = quant_compare(before, at, &q, NULL);
    if (!bad.code && before && !q.embeds) pt->nll = q.nll_after, pt->kld = q.kld, pt->same_top = q.same_top;
    if (!bad.code && before && q.embeds) pt->cosine_mean = q.cosine_mean, pt->cosine_least = q.cosine_least;
    if (!bad.code && shows(c)) sweep_row(pt, first);
    fflush(stdout);
    quant_report_free(&r);
    unlink(at);
    return bad;
}

static json_t *sweep_json(const quant_point *x)
{
    json_t *o = json_pack("{s:s,s:I,s:f,s:f,s:o,s:o,s:o}", "type", x->name, "bytes", (json_int_t)x->bytes, "bits_per_weight", x->bits, "rmse", x->rmse, "nll", json_f(x->nll), "kld", json_f(x->kld), "top1_same", json_f(x->same_top));
    if (isfinite(x->cosine_mean)) json_set(o, "cosine", json_pack("{s:f,s:f}", "mean", x->cosine_mean, "least", x->cosine_least));
    return o;
}

static err sweep(cli *c, const asked *a, const char *in, const char *out, const buf *text, quant_opts *o)
{
    quant_point pt[32];
    usize n = 0;
    buf at = {0}, svg = {0};
    json_t *all = json_array();
    quant_original *before = NULL;
    TRY(file_mkdirs(out));
    buf_fmt(&at, "%s/.sweep.gguf", out);
    buf_fmt(&svg, "%s/sweep.svg", out);
    err bad = buf_error(&at);
    if (!bad.code && a->eval) bad = quant_original_open(&before, in, buf_view(text), a->ctx, o->threads);
    for (usize i = 0; i < quant_n_mixes && !bad.code; i++) {
        o->mix = &quant_mixes[i];
        if (o->mix->type == F32 || !strcmp(o->mix->name, "mxfp4_moe")) continue; /* no point: the original, and one for experts only */
        bad = sweep_one(c, in, buf_cstr(&at), before, o, &pt[n], !n);
        if (bad.code) break;
        const quant_point *x = &pt[n++];
        json_push(all, sweep_json(x));
    }
    json_set(c->out, "sweep", all);
    if (!bad.code) bad = quant_draw_sweep(pt, n, "size and quality of every type", buf_cstr(&svg));
    if (!bad.code) json_set(c->out, "svg", json_cstr(buf_cstr(&svg)));
    if (!bad.code && !c->json) quant_print_sweep(pt, n), printf("%s\n", buf_cstr(&svg));
    quant_original_close(before);
    buf_free(&at), buf_free(&svg);
    return bad;
}

/* ---- importances ---- */

static err collect(cli *c, const asked *a, const char *in, pool *threads, imatrix **out)
{
    buf text = {0};
    model *m = NULL;
    progress p;
    err bad = cli_file(a->collect, &text);
    if (!bad.code) bad = model_open(&m, in, threads);
    if (!bad.code) bad = imatrix_collect(out, m, threads, buf_view(&text), a->collect, a->ctx < 512 ? a->ctx : 512, shows(c) ? &p : NULL);
    model_close(m);
    buf_free(&text);
    if (!bad.code && a->output) bad = imatrix_save(*out, a->output);
    if (!bad.code && a->output) { /* what is used is what was kept, to the last bit */
        imatrix_free(*out);
        bad = imatrix_load(out, a->output);
    }
    if (bad.code) return bad;
    json_set(c->out, "imatrix", json_pack("{s:s?,s:I,s:I,s:I}", "path", a->output, "entries", (json_int_t)(*out)->n, "chunks", (json_int_t)(*out)->chunks, "chunk_size", (json_int_t)(*out)->chunk_size));
    if (!c->json)
        printf(L("행렬 %zu개의 중요도, 글 조각 %lld개%s%s\n", "importances of %zu matrices from %lld pieces of text%s%s\n"), (*out)->n, (long long)(*out)->chunks, a->output ? ": " : "", a->output ? a->output : "");
    return OK;
}

static err checked(const cli *c, const asked *a, quant_opts *o)
{
    bool only_collects = a->collect && c->arg.n == 1;
    if (a->search && strcmp(a->search, "better")) return err_new(ERR_INPUT, L("--search %s: better만 됩니다", "--search %s: expected better"), a->search);
    if (a->collect && a->importances) return err_new(ERR_INPUT, "%s", L("--collect와 --imatrix는 함께 쓸 수 없습니다", "--collect makes importances, --imatrix reads them: expected one of the two"));
    if (only_collects && !a->output) return cli_missing("-o FILE");
    if (!only_collects && c->arg.n < 2) return cli_missing("OUT");
    if (!only_collects && !a->type && !a->sweep) return cli_missing("--type T");
    if (a->type && !(o->mix = quant_mix_find(a->type))) return no_such_type(a->type);
    if (a->ctx < 2) return err_new(ERR_INPUT, L("--ctx: 2 이상이어야 합니다", "--ctx: expected at least 2 tokens"));
    return OK;
}

err cmd_quantize(cli *c, int argc, char **argv)
{
    asked a = {.ctx = 4096};
    quant_opts o = {.cancel = &cli_cancel};
    option opt[] = {{"--type", "T", "f32 f16 bf16 q8_0 q6_k q5_k_m q4_k_m q4_0 iq4_nl mxfp4 q3_k_m q2_k ...", OPT_STR, &a.type},
                    {"--requantize", NULL, "the input may be quantised already", OPT_FLAG, &a.requantise},
                    {"--imatrix", "FILE", "importances of columns, .dat or GGUF", OPT_STR, &a.importances},
                    {"--collect", "TEXT", "makes importances from a text, and uses them when there is an OUT", OPT_STR, &a.collect},
                    {"-o --output", "FILE", "where --collect keeps them", OPT_STR, &a.output},
                    {"--search", "better", "a wider search for scales: slower, same size", OPT_STR, &a.search},
                    {"--eval", "TEXT", "likelihood, divergence, speed before and after", OPT_STR, &a.eval},
                    {"--ctx", "N", "tokens of a window of it (4096, or the model's context)", OPT_I64, &a.ctx},
                    {"--speed", NULL, "speed and memory before and after, without a text", OPT_FLAG, &a.speed},
                    {"--sweep", NULL, "every type in turn, quality against size; OUT is a folder", OPT_FLAG, &a.sweep},
                    {"--svg", "FILE", "the report as a picture", OPT_STR, &a.svg},
                    {"--pure", NULL, "every matrix of that very type", OPT_FLAG, &a.pure}};
    char *in = NULL;
    imatrix *m = NULL;
    buf text = {0};
    PARSE(c, opt, 1, 2);
    TRY(checked(c, &a, &o));
    o.requantise = a.requantise, o.pure = a.pure, o.better = a.search != NULL;
    TRY(model_resolve(&in, c->arg.v[0]));
    err bad = pool_new(&o.threads, (int)c->threads);
    if (!bad.code && a.eval) bad = cli_file(a.eval, &text);
    if (!bad.code && a.importances) bad = imatrix_load(&m, a.importances);
    if (!bad.code && a.collect) bad = collect(c, &a, in, o.threads, &m);
    o.importance = m;
    if (!bad.code && c->arg.n == 2) bad = a.sweep ? sweep(c, &a, in, c->arg.v[1], &text, &o) : one(c, &a, in, c->arg.v[1], &text, &o);
    buf_free(&text);
    pool_free(o.threads);
    imatrix_free(m);
    mem_free(in);
    return bad;
}
