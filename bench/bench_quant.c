/* bench_quant - the quantised dot products of each level against what the machine can give.
 *
 *     bench_quant [TYPE|all] [LEVEL|all] [K]
 *
 * One column (decode): weights stream from a set larger than any cache; GB/s of packed weights, and as a share of plain reading
 * in the same run. Many columns (prefill): columns in blocks that stay in the second-level cache, as the driver has them; giga
 * multiply-adds per second. One thread. Everything is timed in slices shorter than a scheduler's, the kinds taking turns, and
 * the 10th percentile counts: other programs on the machine then disturb all alike, or not at all. */
#include "tensor/cpu/kern.h"
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>

#define SET_BYTES ((usize)192 << 20)
#define L2_BYTES (192 * 1024)

static volatile u64 sink;
static void read_all(const u8 *p, usize n) /* 16-byte loads, eight in flight: as fast as wider ones from memory */
{
    typedef u64 v __attribute__((vector_size(16)));
    v a = {0}, b = {0}, c = {0}, d = {0};
    for (usize i = 0; i + 128 <= n; i += 128) {
        const v *q = (const v *)(const void *)(p + i);
        a ^= q[0] ^ q[4], b ^= q[1] ^ q[5], c ^= q[2] ^ q[6], d ^= q[3] ^ q[7];
    }
    a ^= b ^ c ^ d;
    sink = a[0] ^ a[1];
}

typedef struct {
    dtype t;
    i64 k;
    u8 *w, *xq; /* the set of groups; 256 columns */
    float *y;
} job;

static bool job_make(job *j, u8 *memory, dtype t, i64 k)
{
    rng r;
    rng_seed(&r, 1);
    usize group = weight_bytes(t, LAYOUT_R8, k, 8), each = xq_bytes(k), row = dtype_row_bytes(t, k);
    *j = (job){t, k, memory, mem_alloc(each * 256), mem_array(float, 256 * 8)};
    u8 *rows = mem_alloc(row * 8);
    float *x = mem_array(float, k);
    if (!rows || !x || !j->xq || !j->y) return false;
    for (int n = 0; n < 8 + 256; n++) {
        for (i64 i = 0; i < k; i++) x[i] = rng_normal(&r);
        if (n < 8)
            dtype_table[t].encode(x, rows + row * (usize)n, k);
        else
            kern_get(CPU_GENERIC)->quant(x, k, j->xq + each * (usize)(n - 8));
    }
    weight_pack(t, LAYOUT_R8, k, 8, rows, memory, 0, 1);
    for (usize at = group; at + group <= SET_BYTES; at += group) memcpy(memory + at, memory, group);
    mem_free(rows), mem_free(x);
    return true;
}

/* one slice of each kind; the answer is seconds */
static double slice_read(const job *j, i64 from, i64 to)
{
    usize group = weight_bytes(j->t, LAYOUT_R8, j->k, 8);
    double t0 = clock_s();
    read_all(j->w + group * (usize)from, group * (usize)(to - from));
    return clock_s() - t0;
}
static double slice_one(const job *j, const kern *kn, i64 from, i64 to)
{
    usize group = weight_bytes(j->t, LAYOUT_R8, j->k, 8);
    double t0 = clock_s();
    for (i64 g = from; g < to; g++) kn->qdot[j->t](j->w + group * (usize)g, j->k, j->xq, 0, 1, j->y, 8);
    return clock_s() - t0;
}
static double slice_columns(const job *j, const kern *kn, i64 from, i64 to, int n_cols)
{
    usize group = weight_bytes(j->t, LAYOUT_R8, j->k, 8), each = xq_bytes(j->k);
    double t0 = clock_s();
    for (i64 g = from; g < to; g++) kn->qdot[j->t](j->w + group * (usize)g, j->k, j->xq, each, n_cols, j->y, 8);
    return clock_s() - t0;
}

static int by_value(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }
static double tenth(double *t, int n)
{
    qsort(t, (usize)n, sizeof *t, by_value);
    return t[n / 10];
}

static void measure(const job *j, const kern *kn)
{
    enum { SLICES = 400, KINDS = 5 };
    static double t[KINDS][SLICES];
    usize group = weight_bytes(j->t, LAYOUT_R8, j->k, 8);
    i64 groups = (i64)(SET_BYTES / group), per = (i64)i64_max(1, (i64)((1 << 20) / group)), at = 0; /* about 1 MiB */
    int block = (int)i64_max((i64)(L2_BYTES / xq_bytes(j->k)) / 4 * 4, 8), n = kn->level == CPU_GENERIC ? 20 : SLICES;
    i64 few = per, hot = i64_max(1, 1 << 21 / (j->k * block)); /* few columns: cold weights again */
    for (int i = 0; i < n; i++) {
        t[0][i] = slice_read(j, at, at + per), at = at + 2 * per + 8 > groups ? 0 : at + per;
        t[1][i] = slice_one(j, kn, at, at + per), at = at + 2 * per + 8 > groups ? 0 : at + per;
        t[2][i] = slice_columns(j, kn, at, at + few / 4 + 1, 4), at = at + 2 * per + 8 > groups ? 0 : at + per;
        t[3][i] = slice_columns(j, kn, at, at + few / 16 + 8, 16) / (double)(few / 16 + 8) / 16,
        at = at + 2 * per + 8 > groups ? 0 : at + per;
        t[4][i] = slice_columns(j, kn, at, at + hot, block) / (double)hot / block, at = at + 2 * per + 8 > groups ? 0 : at + per;
    }
    double bytes = (double)group * (double)per / 1e9, macs = (double)j->k * 8 / 1e9;
    double rd = tenth(t[0], n), one = tenth(t[1], n), four = tenth(t[2], n);
    printf("%-6s %-8s %6lld  %9.2f %9.2f %5.0f%%  %9.1f %9.1f %9.1f\n", dtype_table[j->t].name, cpu_name(kn->level),
           (long long)j->k, bytes / rd, bytes / one, 100 * rd / one, 4 * macs * (double)(few / 4 + 1) / four,
           macs / tenth(t[3], n), macs / tenth(t[4], n));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const dtype types[] = {Q8_0, Q4_0, Q4_1, Q5_0, Q4_K, Q6_K, Q5_1, Q5_K, Q3_K, Q2_K, IQ4_NL, IQ4_XS, MXFP4};
    i64 k = argc > 3 ? atoll(argv[3]) : 1536;
    u8 *memory = mmap(NULL, SET_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || k < 256 || k % 256) return 2;
    madvise(memory, SET_BYTES, MADV_HUGEPAGE);
    printf("%-6s %-8s %6s  %9s %9s %6s  %9s %9s %9s\n", "type", "level", "k", "read GB/s", "1 column", "share", "GMAC/s: 4", "16",
           "L2 block");
    for (usize i = 0; i < COUNT_OF(types); i++) {
        if (argc > 1 && strcmp(argv[1], "all") && strcmp(argv[1], dtype_table[types[i]].name)) continue;
        job j;
        if (!job_make(&j, memory, types[i], k)) return 5;
        for (int level = CPU_GENERIC; level <= (int)cpu_best(); level++)
            if (argc <= 2 || !strcmp(argv[2], "all") || !strcmp(argv[2], cpu_name((cpu_level)level)))
                measure(&j, kern_get((cpu_level)level));
        mem_free(j.xq), mem_free(j.y);
    }
    return 0;
}
