/* cli/cmd_quantize.c - maru quantize: a model in fewer bits, and what that saves and costs. */
#include "cli/cli.h"
#include "quant/quant.h"
#include <math.h>
#include <unistd.h>

typedef struct {
    const char *type, *importances, *collect, *search, *eval, *svg, *output;
    bool requantise, pure, sweep, no_speed;
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

static err one(cli *c, const asked *a, const char *in, const char *out, quant_opts *o)
{
    quant_report r;
    progress p;
    if (!c->quiet && !c->json) o->progress = &p;
    err bad = quant_run(in, out, o, &r);
    if (!bad.code) {
        if (r.requantised) log_line(LOG_WARN, "%s", L("이미 양자화된 입력을 다시 양자화했습니다", "the input was quantised already: errors came on top of errors"));
        report_json(c, out, o, &r);
        if (!c->json) report_text(out, o, &r);
    }
    (void)a;
    quant_report_free(&r);
    return bad;
}

err cmd_quantize(cli *c, int argc, char **argv)
{
    asked a = {0};
    quant_opts o = {.cancel = &cli_cancel};
    option opt[] = {{"--type", "T", "f32 f16 bf16 q8_0 q6_k q5_k_m q4_k_m q4_0 iq4_nl mxfp4 q3_k_m q2_k ...", OPT_STR, &a.type},
                    {"--requantize", NULL, "the input may be quantised already", OPT_FLAG, &a.requantise},
                    {"--pure", NULL, "every matrix of that very type", OPT_FLAG, &a.pure},
                    {"--search", "better", "a wider search for scales: slower, same size", OPT_STR, &a.search},
                    {"--imatrix", "FILE", "importances of columns, as .dat or GGUF", OPT_STR, &a.importances}};
    char *in = NULL;
    imatrix *m = NULL;
    PARSE(c, opt, 2, 2);
    if (!a.type) return cli_missing("--type T");
    if (!(o.mix = quant_mix_find(a.type))) return no_such_type(a.type);
    o.requantise = a.requantise, o.pure = a.pure, o.better = a.search != NULL;
    TRY(model_resolve(&in, c->arg.v[0]));
    err bad = a.importances ? imatrix_load(&m, a.importances) : OK;
    o.importance = m;
    if (!bad.code) bad = pool_new(&o.threads, (int)c->threads);
    if (!bad.code) bad = one(c, &a, in, c->arg.v[1], &o);
    pool_free(o.threads);
    imatrix_free(m);
    mem_free(in);
    return bad;
}
