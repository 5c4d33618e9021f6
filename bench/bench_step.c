/* bench_step - where the time of one step of training goes.
 *
 *     bench_step MODEL.gguf|gpt2 lora:16|all [rows] [sequences] [rounds]
 *
 * The plan that `maru tune` replays (1,024 rows of 2 sequences), then the gradient's norm and AdamW, on one thread and by its CPU
 * time, so that others on the machine disturb little. Steps of the plan are summed by op and shape; operations are those of the
 * matrix products and of the positions that attention looks at. `gpt2` is a made-up model of GPT-2 small's shape (124 million
 * weights, F32), for comparison with programs that train only that. Tokens are random: a step's time does not depend on them. */
#include "tensor/cpu/cpu.h"
#include "tune/tune.h"
#include <stdlib.h>
#include <time.h>

typedef struct {
    char what[96];
    i64 calls;
    double seconds, flops;
} line;
typedef struct {
    model *m, made;
    pool *threads;
    backend *be;
    workspace *ws;
    packing *pack;
    model_io io;
    trained_set set;
    adamw opt;
    const float **grad;
    i64 rows, seqs;
    double norm_s, adamw_s, attended; /* positions seen, of all rows */
} bench;

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- a model of GPT-2 small's shape ---- */

static err made_weight(model_weight *w, const char *name, i64 k, i64 n, rng *r)
{
    *w = (model_weight){.type = F32, .lay = LAYOUT_ROWS, .k = k, .n = n, .data = mem_array(float, k *n)};
    snprintf(w->name, sizeof w->name, "%s", name);
    if (!w->data) return err_new(ERR_NOMEM, "out of memory for a model");
    for (i64 i = 0; i < k * n; i++) ((float *)w->data)[i] = i < 65536 ? 0.02f * rng_normal(r) : ((float *)w->data)[i - 65536];
    return OK;
}

static err make_layer(layer_weights *l, int i, rng *r)
{
    const struct {
        model_weight *w;
        const char *name;
        i64 k, n;
    } all[] = {{&l->attn_norm, "attn_norm.weight", 768, 1}, {&l->attn_norm_b, "attn_norm.bias", 768, 1},
               {&l->q, "attn_q.weight", 768, 768},          {&l->q_b, "attn_q.bias", 768, 1},
               {&l->k, "attn_k.weight", 768, 768},          {&l->k_b, "attn_k.bias", 768, 1},
               {&l->v, "attn_v.weight", 768, 768},          {&l->v_b, "attn_v.bias", 768, 1},
               {&l->o, "attn_output.weight", 768, 768},     {&l->o_b, "attn_output.bias", 768, 1},
               {&l->ff_norm, "ffn_norm.weight", 768, 1},    {&l->ff_norm_b, "ffn_norm.bias", 768, 1},
               {&l->up, "ffn_up.weight", 768, 3072},        {&l->up_b, "ffn_up.bias", 3072, 1},
               {&l->down, "ffn_down.weight", 3072, 768},    {&l->down_b, "ffn_down.bias", 768, 1}};
    for (usize j = 0; j < COUNT_OF(all); j++) {
        char name[48];
        snprintf(name, sizeof name, "blk.%d.%s", i, all[j].name);
        TRY(made_weight(all[j].w, name, all[j].k, all[j].n, r));
    }
    return OK;
}

static err make_gpt2(model *m)
{
    static const arch_row arch = {.name = "gpt2", .learned = true, .layer_norm = true, .ungated = true, .act = ACT_GELU_TANH};
    rng r;
    rng_seed(&r, 1);
    *m = (model){.arch = &arch, .layers = mem_zero(12 * sizeof *m->layers)};
    m->h = (hparams){.n_layer = 12,
                     .width = 768,
                     .n_head = 12,
                     .n_kv_head = 12,
                     .head_dim = 64,
                     .n_ff = 3072,
                     .n_vocab = 50257,
                     .n_ctx = 1024,
                     .eps = 1e-5f,
                     .attn_scale = 0.125f,
                     .causal = true};
    if (!m->layers) return err_new(ERR_NOMEM, "out of memory for a model");
    TRY(made_weight(&m->embed, "token_embd.weight", 768, 50257, &r));
    TRY(made_weight(&m->positions, "position_embd.weight", 768, 1024, &r));
    TRY(made_weight(&m->out_norm, "output_norm.weight", 768, 1, &r));
    TRY(made_weight(&m->out_norm_b, "output_norm.bias", 768, 1, &r));
    m->head = m->embed;
    for (int i = 0; i < 12; i++) TRY(make_layer(&m->layers[i], i, &r));
    return OK;
}

static void free_gpt2(model *m)
{
    model_weight *w = (model_weight *)(void *)m->layers;
    for (usize i = 0; w && i < 12 * sizeof *m->layers / sizeof *w; i++) mem_free(w[i].data);
    mem_free(m->embed.data), mem_free(m->positions.data), mem_free(m->out_norm.data), mem_free(m->out_norm_b.data);
    mem_free(m->layers);
}

/* ---- steps ---- */

static err prepare(bench *b, const model *m, const char *way)
{
    train_opts o = {.seed = 1};
    tune_data none = {0};
    TRY(tune_way_parse(way, &o.way));
    if (o.way.kind != WAY_LORA && o.way.kind != WAY_ALL) return err_new(ERR_INPUT, "%s: expected lora:R or all", way);
    TRY(backend_cpu(&b->be, b->threads));
    TRY(workspace_new(&b->ws, b->be));
    TRY(way_make(m, b->threads, &o, &none, &b->set));
    TRY(adamw_new(&b->opt, &b->set));
    batch_shape s = {.rows = b->rows, .seqs = b->seqs, .train = &b->set, .loss = LOSS_TOKENS, .learn = true};
    TRY(packing_open(&b->pack, m, b->ws, &s, true, &b->io));
    i64 each = b->rows / b->seqs;
    i32 *id = mem_array(i32, each);
    float *weight = mem_array(float, each);
    packed_seq *seq = mem_array(packed_seq, b->seqs);
    b->grad = mem_array(const float *, b->set.n);
    err bad = id && weight && seq && b->grad ? OK : err_new(ERR_NOMEM, "out of memory for a batch");
    for (i64 i = 0; !bad.code && i < each; i++) id[i] = (i32)(i * 7919 % m->h.n_vocab), weight[i] = 1 / (float)b->rows;
    for (i64 i = 0; !bad.code && i < b->seqs; i++) seq[i] = (packed_seq){.id = id, .n = each, .want = id, .weight = weight};
    if (!bad.code) bad = packing_put(b->pack, &b->io, seq, (int)b->seqs);
    b->attended = (double)b->seqs * (double)each * (double)(each + 1) / 2;
    mem_free(id), mem_free(weight), mem_free(seq);
    return bad;
}

static err step_once(bench *b)
{
    usize bad;
    TRY(plan_run(packing_plan(b->pack)));
    for (usize i = 0; i < b->set.n; i++) b->grad[i] = tensor_peek(packing_plan(b->pack), b->set.t[i].leaf->grad);
    double start = cpu_s();
    double norm = grad_norm(&b->set, b->threads, b->grad, &bad);
    b->norm_s += cpu_s() - start;
    start = cpu_s();
    adamw_step(&b->opt, b->threads, b->grad, 1e-6, 1, 0.01, norm > 1 ? 1 / norm : 1);
    b->adamw_s += cpu_s() - start;
    return OK;
}

static double flops_of(const bench *b, const tensor *t)
{
    const tensor *x = t->src[0], *w = t->src[1];
    double m = t->n[1];
    switch (t->op) {
    case OP_MATMUL: return 2.0 * (double)w->n[0] * (double)w->n[1] * m;
    case OP_MATMUL_X: return 2.0 * (double)w->n[0] * (double)w->n[1] * m;
    case OP_MATMUL_W: return 2.0 * (double)t->n[0] * (double)t->n[1] * (double)x->n[1];
    case OP_LM_LOSS:
        return 2.0 * (double)w->n[0] * (double)w->n[1] * (double)x->n[1] *
               (1 + !!(t->arg.i[1] & LM_LOSS_DX) + !!(t->arg.i[1] & LM_LOSS_DW));
    case OP_ATTEND: return 4.0 * b->attended * (double)(t->n[0] * t->n[1]);
    case OP_ATTEND_GRAD: return 10.0 * b->attended * (double)(x->n[0] * x->n[1]);
    default: return 0;
    }
}

static void name_of(const tensor *t, char out[96])
{
    const tensor *a = t->src[0], *w = t->src[1];
    int at = snprintf(out, 96, "%s", op_table[t->op].name);
    if (t->op == OP_MATMUL || t->op == OP_MATMUL_X || t->op == OP_LM_LOSS)
        snprintf(out + at, 96 - (usize)at, " %lld x %lld %s", (long long)w->n[0], (long long)w->n[1], dtype_table[w->type].name);
    else if (t->op == OP_MATMUL_W)
        snprintf(out + at, 96 - (usize)at, " %lld x %lld", (long long)t->n[0], (long long)t->n[1]);
    else if (a)
        snprintf(out + at, 96 - (usize)at, " [%lld,%lld,%lld]", (long long)t->n[0], (long long)t->n[1], (long long)t->n[2]);
}

static int by_time(const void *a, const void *b) { return ((const line *)a)->seconds < ((const line *)b)->seconds ? 1 : -1; }

static void report(const bench *b, int rounds, double peak)
{
    const cpu_plan *cp = packing_plan(b->pack)->state;
    line *l = mem_array(line, cp->n + 2);
    usize n = 0;
    double seconds = 0, flops = 0;
    if (!l) return;
    for (usize i = 0; i < cp->n; i++) {
        const step *s = &cp->steps[i];
        line one = {.calls = 1, .seconds = s->seconds / rounds};
        usize j = 0;
        name_of(s->t, one.what);
        if (i + 1 == cp->n || cp->steps[i + 1].t != s->t) one.flops = flops_of(b, s->t); /* else what is made in front of it */
        while (j < n && strcmp(l[j].what, one.what)) j++;
        if (j == n) l[n++] = (line){0};
        memcpy(l[j].what, one.what, sizeof one.what);
        l[j].calls++, l[j].seconds += one.seconds, l[j].flops += one.flops;
    }
    l[n++] = (line){.what = "gradient's norm", .calls = 1, .seconds = b->norm_s / rounds};
    l[n++] = (line){.what = "AdamW", .calls = 1, .seconds = b->adamw_s / rounds};
    for (usize i = 0; i < n; i++) seconds += l[i].seconds, flops += l[i].flops;
    qsort(l, n, sizeof *l, by_time);
    printf("%-44s %6s %9s %7s %9s\n", "", "steps", "ms", "share", "GFLOP/s");
    for (usize i = 0; i < n; i++)
        if (l[i].seconds > 0.001 * seconds) {
            printf("%-44s %6lld %9.1f %6.1f%%", l[i].what, (long long)l[i].calls, 1e3 * l[i].seconds,
                   100 * l[i].seconds / seconds);
            printf(l[i].flops > 0 ? " %9.1f\n" : "\n", 1e-9 * l[i].flops / l[i].seconds);
        }
    printf("step: %.0f ms, %.1f tokens/s and %.1f GFLOP/s on one thread, %.0f%% of the float peak (%.0f); plan %.2f GiB\n",
           1e3 * seconds, (double)b->rows / seconds, 1e-9 * flops / seconds, 100e-9 * flops / seconds / peak, peak,
           (double)plan_bytes(packing_plan(b->pack)) / (1 << 30));
    mem_free(l);
}

static double peak_now(void) /* GFLOP/s */
{
    double most = 0;
    float sink;
    for (int i = 0; i < 9; i++) {
        double start = cpu_s(), work = kern_get(cpu_now())->rate_float(150000, &sink), rate = 1e-9 * work / (cpu_s() - start);
        most = rate > most ? rate : most;
    }
    return most;
}

static err steps(bench *b, int rounds)
{
    cpu_plan *cp = packing_plan(b->pack)->state;
    double peak = 0;
    TRY(step_once(b)); /* memory is touched for the first time */
    for (usize i = 0; i < cp->n; i++) cp->steps[i].seconds = 0;
    b->norm_s = b->adamw_s = 0;
    for (int i = 0; i < rounds; i++) {
        double now = peak_now();
        peak = now > peak ? now : peak;
        TRY(step_once(b));
    }
    report(b, rounds, peak);
    return OK;
}

static i64 number(int argc, char **argv, int i, i64 usual) { return argc > i ? atoll(argv[i]) : usual; }

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "bench_step MODEL.gguf|gpt2 lora:16|all [rows] [sequences] [rounds]\n");
        return 2;
    }
    bench b = {.rows = number(argc, argv, 3, 1024), .seqs = number(argc, argv, 4, 2)};
    setenv("MARU_PROFILE", "1", 1);
    bool made = !strcmp(argv[1], "gpt2");
    err bad = cpu_init();
    if (!bad.code) bad = pool_new(&b.threads, 1);
    if (!bad.code) bad = made ? make_gpt2(&b.made) : model_open(&b.m, argv[1], b.threads);
    if (!bad.code) bad = prepare(&b, made ? &b.made : b.m, argv[2]);
    if (!bad.code) bad = steps(&b, (int)number(argc, argv, 5, 2));
    packing_close(b.pack);
    adamw_free(&b.opt);
    way_free(&b.set);
    mem_free(b.grad);
    workspace_free(b.ws);
    if (b.be) backend_close(b.be);
    free_gpt2(&b.made);
    model_close(b.m);
    pool_free(b.threads);
    if (bad.code) fprintf(stderr, "bench_step: %s\n", bad.what);
    return bad.code ? 1 : 0;
}
