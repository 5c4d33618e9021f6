/* state.safetensors of a run, damaged in any way: it loads as what was saved, or it is refused; nothing in between. */
#include "tune/tune.h"
#include <stdlib.h>
#include <unistd.h>

int fuzz_one(const u8 *data, usize n);

enum { A = 16, B = 16, W = 5, ALL = A + B + W };
static char folder[200];

static void leave(void) { (void)!file_remove_tree(folder).code; }

static bool put_state(const u8 *p, usize n)
{
    char path[300];
    snprintf(path, sizeof path, "%s/state.safetensors", folder);
    (void)!unlink(path); /* a new file: some file systems sync one that is cut and written anew */
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(p, 1, n, f) == n;
    return f && !fclose(f) && ok;
}

/* the seeds hold these: the i-th value of a part */
static float value_of(int part, int i) { return (float)(part + 1) * 0.25f - (float)i * 0.125f; }

int fuzz_one(const u8 *data, usize n)
{
    float p[ALL], m[ALL], v[ALL], best[ALL];
    trained t[] = {{.kind = TRAIN_A, .name = "blk.0.attn_q.weight", .k = 8, .n = 2, .data = p},
                   {.kind = TRAIN_B, .name = "blk.0.attn_q.weight", .k = 2, .n = 8, .data = p + A},
                   {.kind = TRAIN_WEIGHT, .name = "output_norm.weight", .k = W, .n = 1, .data = p + A + B}};
    float *ms[] = {m, m + A, m + A + B}, *vs[] = {v, v + A, v + A + B}, *part[] = {p, m, v, best};
    trained_set set = {t, COUNT_OF(t)};
    adamw o = {.set = &set, .m = ms, .v = vs};
    train_state s = {0};
    log_set(LOG_QUIET);
    if (!*folder) {
        snprintf(folder, sizeof folder, "/tmp/maru-fuzz-checkpoint-XXXXXX");
        if (!mkdtemp(folder)) return 0;
        atexit(leave);
    }
    if (!put_state(data, n)) return 0;
    err bad = checkpoint_load(folder, &o, &s, best, S("{\"way\":\"lora:2\",\"lr\":0.001}"));
    if (bad.code) return !(bad.code == ERR_FORMAT || bad.code == ERR_INPUT || bad.code == ERR_UNSUPPORTED || bad.code == ERR_NOMEM) || !bad.what[0];
    bool judged = s.best < 1e300;
    for (int k = 0; k < 3 + judged; k++)
        for (int i = 0; i < ALL; i++)
            if (part[k][i] != value_of(k, i)) return 1;
    return s.step != 7 || o.step != 7 || s.epoch != 1 || s.pack != 3 || s.done || s.worse != judged;
}
