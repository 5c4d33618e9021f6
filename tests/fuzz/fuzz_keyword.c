/* tests/fuzz/fuzz_keyword.c - any bytes as a keyword index: an error or answers, as they are and with the checksums made to fit.
 */
#include "../rag/index_files.h"
#include <sys/mman.h>

static int use(const char *path)
{
    keyword_index *k;
    if (keyword_open(&k, path).code) return k ? 1 : 0;
    static const char *const queries[] = {"결제 시스템 서버", "강", "server networks 2023", "수도는 어디인가요"};
    int wrong = 0;
    for (usize i = 0; i < COUNT_OF(queries); i++) {
        keyword_hit *h;
        usize n;
        err bad = keyword_search(k, str_of(queries[i]), NULL, 5, &h, &n);
        wrong |= n > 5 || (bad.code && (h || bad.code == ERR_BUG));
        mem_free(h);
        keyword_coverage(k, str_of(queries[i]), S("결제 서버"));
        keyword_idf(k, hash64(&i, sizeof i, 0));
    }
    keyword_close(k);
    return wrong;
}

int fuzz_one(const u8 *data, usize n);
int fuzz_one(const u8 *data, usize n)
{
    static char path[64];
    u8 *copy = mem_alloc(n);
    int fd = memfd_create("fuzz_keyword", MFD_CLOEXEC), wrong = 0;
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
