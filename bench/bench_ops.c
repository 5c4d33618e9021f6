/* bench_ops - the speed of every op case that has sizes for it (tests/tensor/op_cases.c), by the CPU backend.
 *
 *     bench_ops [OP or part of a case's name] [threads]
 *
 * GB/s counts what must be read and written once; GFLOP/s is shown where multiply-adds are the work. Best of several rounds, the
 * op's own step only, not its neighbours in the case. MARU_CPU=generic|avx2|avx512|reference chooses the kernels. An op at a
 * fraction of a GB/s runs by its reference kernel. Not a test: nothing is compared here. */
#include "../tests/tensor/op_cases.h"
#include <stdlib.h>

static double bytes_of(const tensor *t)
{
    usize n = t->lay == LAYOUT_ROWS ? dtype_row_bytes(t->type, t->n[0]) * (usize)tensor_rows(t)
                                    : weight_bytes(t->type, t->lay, t->n[0], t->n[1]) * (usize)t->n[2];
    return (double)n;
}

static double keys_seen(const tensor *span)
{
    double n = 0;
    for (i64 r = 0; r < span->n[1]; r++) n += ref_int(span, 2, r) - ref_int(span, 1, r);
    return n;
}

static double flops_of(const tensor *y)
{
    const tensor *a = y->src[0], *b = y->src[1];
    switch (y->op) {
    case OP_MATMUL:
    case OP_MATMUL_X: return 2.0 * (double)(tensor_count(y) * a->n[0]);
    case OP_MATMUL_W: return 2.0 * (double)(a->n[0] * b->n[0] * a->n[1]);
    case OP_ATTEND: return 4.0 * (double)(y->n[0] * y->n[1]) * keys_seen(y->src[3]);
    case OP_ATTEND_GRAD: return 10.0 * (double)(a->n[0] * a->n[1]) * keys_seen(y->src[3]);
    default: return 0;
    }
}

static double traffic_of(const tensor *y)
{
    double n = bytes_of(y);
    if (y->op == OP_EMBED) return n + (double)(dtype_row_bytes(y->src[0]->type, y->n[0]) * (usize)y->n[1]);
    if (y->op == OP_KV_PUT) return 2 * bytes_of(y->src[1]);
    for (int i = 0; i < 6; i++)
        if (y->src[i]) n += bytes_of(y->src[i]);
    return n;
}

static double op_seconds(plan *p, op_id op)
{
    op_time times[OP_COUNT];
    int n = plan_profile(p, times, OP_COUNT);
    for (int i = 0; i < n; i++)
        if (!strcmp(times[i].op, op_table[op].name)) return times[i].seconds;
    return 0;
}

static err measure(case_build *b, pool *threads)
{
    backend *be = NULL;
    workspace *ws = NULL;
    plan *p = NULL;
    const tensor *what = NULL;
    err bad;
    tensor *y = case_make(b);
    for (usize i = 0; i < b->g->n; i++)
        if (b->g->nodes[i]->op == b->c->op) what = b->g->nodes[i];
    TRY_TO(out, backend_cpu(&be, threads));
    TRY_TO(out, workspace_new(&ws, be));
    bad = plan_new(&p, b->g, ws, &y, 1);
    b->g = NULL;
    if (bad.code || !what) goto out;
    double best = 1e9, from = clock_s();
    for (int round = 0; round < 3 || (round < 1000 && clock_s() - from < 0.2); round++) {
        double before = op_seconds(p, b->c->op);
        TRY_TO(out, plan_run(p));
        double one = op_seconds(p, b->c->op) - before;
        if (one < best) best = one;
        if (clock_s() - from > 1) break;
    }
    double flops = flops_of(what);
    printf("%-12s %-34s %10.3f ms %9.2f GB/s", op_table[b->c->op].name, b->c->name, best * 1e3, traffic_of(what) / best * 1e-9);
    if (flops > 0) printf(" %9.2f GFLOP/s", flops / best * 1e-9);
    printf("\n");
    fflush(stdout);
out:
    plan_free(p);
    workspace_free(ws);
    backend_close(be);
    return bad;
}

int main(int argc, char **argv)
{
    pool *threads = NULL;
    setenv("MARU_PROFILE", "1", 1);
    err bad = pool_new(&threads, argc > 2 ? atoi(argv[2]) : 1);
    if (bad.code) {
        fprintf(stderr, "bench_ops: %s\n", bad.what);
        return err_exit(bad.code);
    }
    bad = cpu_init();
    printf("%s, %d thread%s\n", cpu_name(cpu_now()), pool_threads(threads), pool_threads(threads) > 1 ? "s" : "");
    for (int i = 0; i < n_op_cases && !bad.code; i++) {
        case_build b = {.c = &op_cases[i], .big = true, .only_row = -1};
        if (!b.c->big[0] || (argc > 1 && !strstr(b.c->name, argv[1]) && strcmp(op_table[b.c->op].name, argv[1]))) continue;
        bad = measure(&b, threads);
        case_free(&b, true);
    }
    if (bad.code) fprintf(stderr, "bench_ops: %s\n", bad.what);
    pool_free(threads);
    return bad.code ? err_exit(bad.code) : 0;
}
