/* cli/cmd_bench.c - maru bench: prefill and decode of a real model against the ceilings of this machine, measured in the same
 * run. Medians of several repetitions; a batch is so many sequences decoded together. */
#include "cli/cli.h"
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

enum { MAX_BATCH = 64 };

typedef struct {
    engine *e;
    ids     prompt;
    i64     n;
    double  prefill_s, decode_s;
    err     bad; char what[256];
} worker;

static void *sequence_run(void *ctx)
{
    worker     *w = ctx;
    session    *s = NULL;
    gen_result  r = {0};
    gen_request q = {.ids = w->prompt.id, .n = w->prompt.n, .max_tokens = w->n, .ignore_end = true, .sample = {.top_p = 1, .repeat_penalty = 1}};
    err         bad = session_open(&s, w->e, (u64)(uintptr_t)w); /* an owner of its own: nothing is shared */
    if (!bad.code) bad = session_generate(s, &q, &r);
    session_close(s);
    w->prefill_s = r.prefill_s;
    w->decode_s = r.decode_s;
    if (bad.code) snprintf(w->what, sizeof w->what, "%s", bad.what), w->bad = (err){bad.code, w->what};
    return NULL;
}

static err made_up(engine *e, i64 n, u64 seed, ids *out) /* tokens that no cache has seen */
{
    rng r;
    rng_seed(&r, seed);
    for (i64 i = 0; i < n; i++)
        if (!ids_push(out, (i32)(rng_unit(&r) * (double)(tokenizer_size(engine_model(e)->tok) - 1)))) return err_new(ERR_NOMEM, "out of memory");
    return OK;
}

/* one repetition: `batch` sequences with prompts of p tokens, each writing n more; seconds of the slowest part */
static err repetition(engine *e, i64 p, i64 n, int batch, u64 seed, double *prefill_s, double *decode_s)
{
    worker    w[MAX_BATCH] = {0};
    pthread_t t[MAX_BATCH];
    err       bad = OK;
    int       started = 0;
    for (int i = 0; i < batch && !bad.code; i++) {
        w[i] = (worker){.e = e, .n = n};
        bad = made_up(e, p, seed * 1000 + (u64)i, &w[i].prompt);
    }
    for (; started < batch && !bad.code; started++)
        if (pthread_create(&t[started], NULL, sequence_run, &w[started])) bad = err_new(ERR_NOMEM, "cannot start a thread");
    *prefill_s = *decode_s = 0;
    for (int i = 0; i < started; i++) {
        pthread_join(t[i], NULL);
        if (w[i].bad.code && !bad.code) bad = err_new(w[i].bad.code, "%s", w[i].what);
        *prefill_s = fmax(*prefill_s, w[i].prefill_s);
        *decode_s = fmax(*decode_s, w[i].decode_s);
    }
    for (int i = 0; i < batch; i++) ids_free(&w[i].prompt);
    return bad;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static usize weight_traffic(const model *m) /* bytes of weights that one token reads */
{
    usize n = 0;
    for (usize i = 0; i < file_n_tensors(m->file); i++) n += file_tensor_at(m->file, i)->bytes;
    return m->head.data && m->head.data != m->embed.data ? n - dtype_row_bytes(m->embed.type, m->embed.k) * (usize)m->embed.n : n;
}

typedef struct { const char *test; i64 tokens; int batch; double tps, seconds_per_step; } bench_row;

static void row_report(cli *c, const model *m, const machine_limits *lim, const bench_row *r, json_t *rows)
{
    bool   decode = !strcmp(r->test, "decode");
    double macs = (double)m->parameters - (m->head.data != m->embed.data ? (double)m->embed.k * (double)m->embed.n : 0);
    double gops = 2 * macs * r->tps / 1e9, gbps = decode ? (double)weight_traffic(m) / r->seconds_per_step / 1e9 : NAN;
    double share = decode ? gbps / lim->read_gbps : gops / (cpu_reference() ? lim->f32_gflops : lim->int8_gops);
    json_push(rows, json_pack("{s:s,s:I,s:i,s:f,s:o,s:f,s:f}", "test", r->test, "tokens", (json_int_t)r->tokens, "batch", r->batch, "tps", r->tps, "gbps", json_f(gbps), "gops", gops, "of_limit", share));
    if (!c->json) printf("%-8s %6lld tokens  batch %2d  %9.2f tokens/s  %7.2f GOP/s  %s  %5.1f %%\n", r->test, (long long)r->tokens, r->batch, r->tps, gops, decode ? "of read bandwidth" : "of 8-bit rate    ", share * 100);
}

static err bench_all(cli *c, engine *e, i64 p, i64 n, const int *batch, int n_batch, int reps)
{
    machine_limits lim;
    pool          *threads;
    json_t        *rows = json_array();
    TRY(pool_new(&threads, (int)c->threads));
    machine_measure(threads, &lim);
    pool_free(threads);
    json_set(c->out, "threads", json_integer(engine_threads(e)));
    json_set(c->out, "level", json_string(cpu_reference() ? "reference" : cpu_name(cpu_now())));
    json_set(c->out, "read_gbps", json_f(lim.read_gbps));
    json_set(c->out, "int8_gops", json_f(lim.int8_gops));
    json_set(c->out, "bf16_gflops", json_null()); /* no kernels for it at these levels */
    json_set(c->out, "f32_gflops", json_f(lim.f32_gflops));
    json_set(c->out, "rows", rows);
    if (!c->json) printf("%d threads, %s: reads %.1f GB/s, 8-bit %.0f GOP/s, float %.0f GFLOP/s\n", engine_threads(e), cpu_name(cpu_now()), lim.read_gbps, lim.int8_gops, lim.f32_gflops);
    double a, b, pre[64], dec[64];
    for (int k = 0; k < n_batch; k++) {
        TRY(repetition(e, p, 2, batch[k], 999, &a, &b)); /* plans and pages once before the clock runs */
        for (int i = 0; i < reps; i++) TRY(repetition(e, p, n, batch[k], (u64)(c->seed + i + 1), &pre[i], &dec[i]));
        qsort(pre, (usize)reps, sizeof *pre, by_value);
        qsort(dec, (usize)reps, sizeof *dec, by_value);
        bench_row x = {"prefill", p, batch[k], (double)(p * batch[k]) / pre[reps / 2], pre[reps / 2]};
        bench_row y = {"decode", n, batch[k], (double)((n - 1) * batch[k]) / dec[reps / 2], dec[reps / 2] / (double)(n - 1)};
        if (batch[k] == 1) row_report(c, engine_model(e), &lim, &x, rows);
        if (n > 1) row_report(c, engine_model(e), &lim, &y, rows);
    }
    return OK;
}

err cmd_bench(cli *c, int argc, char **argv)
{
    i64         p = 256, n = 32, reps = 5;
    const char *batches = "1";
    option      opt[] = {{"-p", "N", "tokens of the prompt (256)", OPT_I64, &p}, {"-n", "N", "tokens written (32)", OPT_I64, &n}, {"--batch", "1,8", "sequences decoded together (1)", OPT_STR, &batches},
                         {"-r --repeat", "N", "repetitions; medians are shown (5)", OPT_I64, &reps}};
    engine     *e = NULL;
    int         batch[16], n_batch = 0;
    PARSE(c, opt, 1, 1);
    if (p < 1 || n < 2 || reps < 1 || reps > 64) return err_new(ERR_INPUT, "expected -p at least 1, -n at least 2, -r 1 to 64");
    for (str s = str_of(batches); s.n && n_batch < (int)COUNT_OF(batch);) {
        i64   comma = str_find(s, S(","), 0), value;
        usize len = comma < 0 ? s.n : (usize)comma;
        if (!str_i64((str){s.p, len}, &value) || value < 1 || value > MAX_BATCH) return err_new(ERR_INPUT, "--batch %s: expected numbers from 1 to %d with commas", batches, MAX_BATCH);
        batch[n_batch++] = (int)value;
        len += comma >= 0;
        s.p += len, s.n -= len;
    }
    int most = 1;
    for (int i = 0; i < n_batch; i++) most = batch[i] > most ? batch[i] : most;
    TRY(cli_engine(c, &e, c->arg.v[0], (p + n + KV_PAGE) * most + KV_PAGE));
    err bad = engine_model(e)->arch->encoder ? err_new(ERR_UNSUPPORTED, "bench measures models that write text; %s embeds", c->arg.v[0]) : bench_all(c, e, p, n, batch, n_batch, (int)reps);
    engine_close(e);
    return bad;
}
