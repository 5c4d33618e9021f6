/* bench_encode - writing block formats: million values a second of one thread, with importances and without, beside ggml's own
 * quantiser where a build of it is named.
 *
 *     [MARU_GGML=/path/libggml-base.so] bench_encode [TYPE|all]
 *
 * CPU time of this thread, the two taking turns, best of several. `bytes` is the share of equal bytes: a ggml that was
 * compiled with contraction differs in a few of a thousand. */
#include "tensor/tensor.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

typedef usize (*chunk_fn)(int type, const float *src, void *dst, i64 start, i64 n_rows, i64 k, const float *importance);
enum { K = 4096, ROWS = 16, ROUNDS = 7 };

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void measure(dtype t, const float *x, const float *importance, chunk_fn theirs)
{
    usize bytes = dtype_row_bytes(t, K) * ROWS;
    u8 *ours_out = mem_zero(bytes), *their_out = mem_zero(bytes);
    double ours = 1e9, other = 1e9;
    for (int r = 0; r < ROUNDS; r++) {
        double t0 = cpu_s();
        if (weight_encode(t, K, ROWS, x, importance, ours_out).code) exit(5);
        double t1 = cpu_s();
        if (theirs) theirs(dtype_table[t].gguf, x, their_out, 0, ROWS, K, importance);
        double t2 = cpu_s();
        ours = t1 - t0 < ours ? t1 - t0 : ours, other = t2 - t1 < other ? t2 - t1 : other;
    }
    double n = (double)K * ROWS / 1e6;
    printf("%-7s %-4s %8.1f", dtype_table[t].name, importance ? "yes" : "no", n / ours);
    if (theirs) {
        usize same = 0;
        for (usize i = 0; i < bytes; i++) same += ours_out[i] == their_out[i];
        printf(" %8.1f %7.1fx %9.4f%%", n / other, other / ours, 100.0 * (double)same / (double)bytes);
    }
    printf("\n");
    mem_free(ours_out), mem_free(their_out);
}

int main(int argc, char **argv)
{
    chunk_fn theirs = NULL;
    const char *path = getenv("MARU_GGML");
    void *lib = path ? dlopen(path, RTLD_NOW) : NULL, *found = lib ? dlsym(lib, "ggml_quantize_chunk") : NULL;
    if (path && !found) return fprintf(stderr, "%s: no ggml_quantize_chunk\n", path), 2;
    memcpy(&theirs, &found, sizeof theirs);
    float *x = mem_array(float, K *ROWS), *w = mem_array(float, K);
    if (!x || !w) return 6;
    rng r;
    rng_seed(&r, 1);
    for (i64 i = 0; i < K * ROWS; i++) x[i] = rng_normal(&r) * 0.02f;
    for (i64 i = 0; i < K; i++) w[i] = rng_unit(&r) + 1e-3f;
    printf("%-7s %-4s %8s %8s %8s %10s   million values/s\n", "type", "imp.", "maru", theirs ? "ggml" : "", "",
           theirs ? "bytes" : "");
    for (int t = 0; t < DTYPE_COUNT; t++) {
        if (!dtype_table[t].encode || t == F64 || t == F32) continue;
        if (argc > 1 && strcmp(argv[1], "all") && strcmp(argv[1], dtype_table[t].name)) continue;
        measure((dtype)t, x, NULL, theirs);
        if (dtype_table[t].quantised && t != Q8_0 && t != MXFP4) measure((dtype)t, x, w, theirs);
    }
    mem_free(x), mem_free(w);
    return 0;
}
