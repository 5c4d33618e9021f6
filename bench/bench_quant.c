/* bench_quant - the quantised dot products of each level against what the machine can give.
 *
 *     bench_quant [TYPE] [LEVEL] [K]
 *
 * One column (decode): weights stream from a set of matrices larger than any cache; GB/s of packed weights, and as a share of
 * plain reading of the same memory in the same run. Many columns (prefill): columns in blocks that stay in the second-level
 * cache, as the driver does; giga multiply-adds per second of one core. Best of several rounds; every figure is one thread. */
#include "tensor/cpu/kern.h"
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>

#define SET_BYTES ((usize)192 << 20)
#define L2_BYTES (192 * 1024)

static volatile u64 sink;
static void read_all(const u8 *p, usize n)
{
    typedef u64 v __attribute__((vector_size(32)));
    v a = {0}, b = {0}, c = {0}, d = {0};
    for (usize i = 0; i + 128 <= n; i += 128) {
        const v *q = (const v *)(const void *)(p + i);
        a ^= q[0], b ^= q[1], c ^= q[2], d ^= q[3];
    }
    a ^= b ^ c ^ d;
    sink = a[0] ^ a[1] ^ a[2] ^ a[3];
}

typedef struct {
    dtype t;
    i64 k, n;
    usize bytes, used;
    int n_sets;
    u8 *w;
    u8 *xq;
    float *y;
} job;

static bool job_make(job *j, u8 *memory, dtype t, i64 k, i64 n)
{
    rng r;
    rng_seed(&r, 1);
    usize row = dtype_row_bytes(t, k), block = (usize)dtype_table[t].bytes;
    *j = (job){t, k, n, weight_bytes(t, LAYOUT_R8, k, n), 0, 0, memory, NULL, NULL};
    j->n_sets = (int)(SET_BYTES / j->bytes);
    j->used = j->bytes * (usize)j->n_sets;
    u8 *rows = mem_alloc(row * 8);
    float *x = mem_array(float, 256 * k);
    if (!rows || !x) return false;
    for (i64 i = 0; i < 8 * k / 256; i++) {
        float v[256];
        for (int e = 0; e < 256; e++) v[e] = rng_normal(&r);
        dtype_table[t].encode(v, rows + (usize)(256 / dtype_table[t].block) * block * (usize)i, 256);
    }
    usize group = weight_bytes(t, LAYOUT_R8, k, 8);
    weight_pack(t, LAYOUT_R8, k, 8, rows, memory, 0, 1);
    for (usize at = group; at + group <= j->used; at += group) memcpy(memory + at, memory, group);
    j->xq = mem_alloc(xq_bytes(k) * 256);
    j->y = mem_array(float, 256 * n);
    if (!j->xq || !j->y) return false;
    for (i64 i = 0; i < 256 * k; i++) x[i] = rng_normal(&r);
    for (int c = 0; c < 256; c++) kern_get(CPU_GENERIC)->quant(x + c * k, k, j->xq + (usize)c * xq_bytes(k));
    mem_free(rows), mem_free(x);
    return true;
}

static double one_column(const job *j, const kern *kn)
{
    usize group = weight_bytes(j->t, LAYOUT_R8, j->k, 8);
    double t0 = clock_s();
    for (int s = 0; s < j->n_sets; s++)
        for (i64 g = 0; g < j->n / 8; g++)
            kn->qdot[j->t](j->w + j->bytes * (usize)s + group * (usize)g, j->k, j->xq, 0, 1, j->y + 8 * g, 8);
    return clock_s() - t0;
}
static double columns(const job *j, const kern *kn, int m)
{
    usize group = weight_bytes(j->t, LAYOUT_R8, j->k, 8), each = xq_bytes(j->k);
    int block = (int)i64_min(m, i64_max((i64)(L2_BYTES / each) / 4 * 4, 8));
    double t0 = clock_s();
    for (int c = 0; c < m; c += block)
        for (i64 g = 0; g < j->n / 8; g++)
            kn->qdot[j->t](j->w + group * (usize)g, j->k, j->xq + each * (usize)c, each, (int)i64_min(block, m - c),
                           j->y + c * j->n + 8 * g, j->n);
    return clock_s() - t0;
}

int main(int argc, char **argv)
{
    static const dtype types[] = {Q8_0, Q4_0, Q4_1, Q5_0, Q4_K, Q6_K};
    i64 k = argc > 3 ? atoll(argv[3]) : 1536, n = 1536 * 1024 / k * 8;
    u8 *memory = mmap(NULL, SET_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || k % 256) return 2;
    madvise(memory, SET_BYTES, MADV_HUGEPAGE);
    printf("%-5s %-8s %6s  %9s %9s %6s  %9s %9s %9s\n", "type", "level", "k", "read GB/s", "1 col", "share", "4 GMAC/s", "64",
           "256");
    for (usize i = 0; i < COUNT_OF(types); i++) {
        if (argc > 1 && strcmp(argv[1], "all") && strcmp(argv[1], dtype_table[types[i]].name)) continue;
        job j;
        if (!job_make(&j, memory, types[i], k, n)) return 5;
        for (int level = CPU_GENERIC; level <= (int)cpu_best(); level++) {
            if (argc > 2 && strcmp(argv[2], "all") && strcmp(argv[2], cpu_name((cpu_level)level))) continue;
            const kern *kn = kern_get((cpu_level)level);
            bool quick = level == CPU_GENERIC;
            double rd = 1e9, one = 1e9, four = 1e9, some = 1e9, many = 1e9;
            for (int r = 0; r < (quick ? 1 : 5); r++) {
                double t0 = clock_s();
                read_all(memory, j.used);
                rd = fmin(rd, clock_s() - t0), one = fmin(one, one_column(&j, kn));
                four = fmin(four, columns(&j, kn, 4)), some = fmin(some, columns(&j, kn, 64));
                if (!quick) many = fmin(many, columns(&j, kn, 256));
            }
            double bytes = (double)j.used / 1e9, macs = (double)(k * n) / 1e9;
            printf("%-5s %-8s %6lld  %9.2f %9.2f %5.0f%%  %9.1f %9.1f %9.1f\n", dtype_table[j.t].name, cpu_name((cpu_level)level),
                   (long long)k, bytes / rd, bytes / one, 100 * rd / one, 4 * macs / four, 64 * macs / some,
                   quick ? 0 : 256 * macs / many);
            fflush(stdout);
        }
        mem_free(j.xq), mem_free(j.y);
    }
    return 0;
}
