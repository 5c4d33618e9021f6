/* tests/tune/train_help.h - small models and data for runs of the trainer in folders of their own, and runs in child processes that are
 * killed or run out of disk. */
#ifndef MARU_TESTS_TRAIN_HELP_H
#define MARU_TESTS_TRAIN_HELP_H
#include "../model/tiny.h"
#include "tune/tune.h"
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

static char train_folder[200];

static inline const char *in_folder(const char *name)
{
    static char path[8][400];
    static int n;
    char *p = path[n++ % 8];
    snprintf(p, 400, "%s/%s", train_folder, name);
    return p;
}

static inline int folder_make(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(train_folder, sizeof train_folder, "%s/maru-tune-XXXXXX", tmp && strlen(tmp) < 150 ? tmp : "/tmp");
    return mkdtemp(train_folder) ? 0 : -1;
}

static inline int folder_drop(void **state)
{
    (void)state;
    return file_remove_tree(train_folder).code ? -1 : 0;
}

static inline model *tiny_model(const char *arch, dtype type)
{
    static int n;
    char name[32];
    model *m;
    tiny t = tiny_of(arch, type);
    snprintf(name, sizeof name, "m%d.gguf", n++);
    tiny_write(in_folder(name), &t);
    assert_ok(model_open(&m, in_folder(name), NULL));
    return m;
}

static const char some_texts[] = "{\"prompt\":\"the hello\",\"completion\":\" he said hello\"}\n{\"prompt\":\"he\",\"completion\":\" the thing\"}\n"
                                 "{\"prompt\":\"hello he\",\"completion\":\" all is well\"}\n{\"prompt\":\"tell\",\"completion\":\" them the hello\"}\n";
static const char some_rows[] = "text\tlabel\nthe good hello\tup\nthe bad thing\tdown\nhello he is good\tup\nhe tells bad\tdown\ngood the good\tup\nbad hello bad\tdown\n";

static inline tune_data *tiny_data(const model *m, const char *name, const char *bytes, const tune_opts *o)
{
    tune_data *d;
    assert_ok(tune_data_read(&d, m, name, str_of(bytes), o));
    assert_ok(tune_data_ready(d));
    return d;
}

static inline train_opts tiny_opts(const char *way)
{
    train_opts o = {.lr = 1e-2, .epochs = 9, .warmup = 0.1, .clip = 1, .rslora = -1, .recompute = 0, .batch_tokens = 34, .seed = 5, .quiet = true};
    assert_ok(tune_way_parse(way, &o.way));
    return o;
}

static inline buf file_bytes(const char *folder, const char *file)
{
    buf b = {0};
    char path[400];
    snprintf(path, sizeof path, "%s/%s", in_folder(folder), file);
    assert_ok(file_read(&b, path, 0));
    return b;
}

/* 0 when the folder has no such file */
static inline u64 file_hash(const char *folder, const char *file)
{
    char path[400];
    snprintf(path, sizeof path, "%s/%s", in_folder(folder), file);
    if (!file_exists(path)) return 0;
    buf b = file_bytes(folder, file);
    u64 h = hash64(b.p, b.n, 1);
    buf_free(&b);
    return h;
}

/* the step of each line, in order and without a gap; the last one */
static inline i64 log_steps(const char *folder)
{
    char path[400];
    i64 last = 0;
    snprintf(path, sizeof path, "%s/log.jsonl", in_folder(folder));
    if (!file_exists(path)) return 0;
    buf b = file_bytes(folder, "log.jsonl");
    for (const char *at = buf_cstr(&b); (at = strstr(at, "{\"step\":")); at += 8) {
        if (!memchr(at, '\n', (usize)(b.p + b.n - at))) break; /* cut short */
        assert_int_equal(strtol(at + 8, NULL, 10), last + 1);
        last++;
    }
    buf_free(&b);
    return last;
}

/* the step that the state of the folder was saved after; 0: there is none */
static inline i64 saved_step(const char *folder)
{
    char path[400];
    i64 step = 0;
    snprintf(path, sizeof path, "%s/state.safetensors", in_folder(folder));
    if (!file_exists(path)) return 0;
    buf b = file_bytes(folder, "state.safetensors");
    for (usize i = 0; i + 9 < b.n && !step; i++)
        if (!memcmp(b.p + i, "\\\"step\\\":", 9)) step = strtol(b.p + i + 9, NULL, 10);
    assert_true(step > 0);
    buf_free(&b);
    return step;
}

/* ---- runs in a child: a pool does not outlive a fork, so it makes its own ---- */

typedef struct { model *m; const tune_data *d, *held; const char *out; train_opts o; } child_run;

static inline err run_here(const child_run *r, train_report *report, void (*each)(void *, const train_step *), void *ctx)
{
    pool *one;
    TRY(pool_new(&one, 1));
    err bad = tune_train(r->m, one, r->d, r->held, in_folder(r->out), &r->o, each, ctx, report);
    pool_free(one);
    return bad;
}

static inline pid_t run_apart(const child_run *r)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child) return child;
    train_report report;
    _exit(run_here(r, &report, NULL, NULL).code);
}

static inline void wait_s(double s)
{
    struct timespec t = {(time_t)s, (long)((s - (double)(time_t)s) * 1e9)};
    nanosleep(&t, NULL);
}
#endif
