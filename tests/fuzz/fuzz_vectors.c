/* tests/fuzz/fuzz_vectors.c - any bytes as a vector index: an error or answers, as they are and with the checksums made to fit.
 */
#include "../rag/index_files.h"
#include <sys/mman.h>

static int use(const char *path)
{
    vector_index *x;
    if (vector_open(&x, path).code) return x ? 1 : 0;
    vector_hit *h = NULL;
    usize n = 0;
    float least, mean, out[2];
    i64 dim = vector_dim(x);
    float *q = mem_array(float, dim); /* [dim] */
    int wrong = 0;
    if (q) {
        q[dim / 2] = 1;
        err bad = vector_search(x, q, NULL, 3, &h, &n, &least, &mean);
        wrong = n > 3 || (bad.code && (h || bad.code == ERR_BUG));
        (void)vector_cosine(x, q, (const i64[]){4, 5}, 2, out);
    }
    mem_free(h);
    mem_free(q);
    vector_close(x);
    return wrong;
}

int fuzz_one(const u8 *data, usize n);
int fuzz_one(const u8 *data, usize n)
{
    static char path[64];
    u8 *copy = mem_alloc(n);
    int fd = memfd_create("fuzz_vectors", MFD_CLOEXEC), wrong = 0;
    if (!copy || fd < 0) goto done; /* memory is made to fail on purpose */
    memcpy(copy, data, n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    for (int repaired = 0; repaired < 2; repaired++) {
        if (repaired) index_repair(copy, n);
        if (pwrite(fd, copy, n, 0) != (ssize_t)n) goto done;
        wrong |= use(path);
    }
done:
    mem_free(copy);
    if (fd >= 0) close(fd);
    return wrong;
}
