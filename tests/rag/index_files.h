/* tests/rag/index_files.h - index files for tests: a place to write them, their bytes, and damage. */
#ifndef MARU_TEST_INDEX_FILES_H
#define MARU_TEST_INDEX_FILES_H
#include "rag/rag.h"
#include "rag/segment.h"
#include <stdlib.h>
#include <unistd.h>

/* a file name of this process; one at a time. In memory where that is possible: damage is thousands of small files */
static inline const char *index_path(void)
{
    static char path[1024];
    const char *dir = getenv("TMPDIR");
    if (!access("/dev/shm", W_OK)) dir = "/dev/shm";
    snprintf(path, sizeof path, "%s/maru-index-%d", dir && *dir ? dir : "/tmp", (int)getpid());
    return path;
}

/* so that a change gets past the checksums, and the code behind them is tested */
static inline void index_repair(u8 *p, usize n)
{
    contents c;
    if (n < sizeof c) return;
    memcpy(&c, p + n - sizeof c, sizeof c);
    u64 rest = n - sizeof c;
    if (c.n_blocks > rest / 8) return;
    u64 body = rest - c.n_blocks * 8;
    for (u64 b = 0; b < c.n_blocks && b * SEGMENT_BLOCK < body; b++) {
        u64 len = body - b * SEGMENT_BLOCK < SEGMENT_BLOCK ? body - b * SEGMENT_BLOCK : SEGMENT_BLOCK,
            sum = hash64(p + b * SEGMENT_BLOCK, len, b);
        memcpy(p + body + b * 8, &sum, 8);
    }
    c.sums_hash = hash64(p + body, c.n_blocks * 8, 0);
    c.hash = hash64(&c, offsetof(contents, hash), 0);
    memcpy(p + n - sizeof c, &c, sizeof c);
}

static inline bool index_write(const char *path, const void *p, usize n)
{
    FILE *f = fopen(path, "wb");
    if (!f) return false;
    bool good = fwrite(p, 1, n, f) == n;
    return fclose(f) == 0 && good;
}
#endif
