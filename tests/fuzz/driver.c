/* tests/fuzz/driver.c - main() of every fuzzer: fuzz_NAME [-n MUTATIONS] [-seed S] [-seconds MOST] [-alarm PER INPUT] [-fail]
 * [FILE or FOLDER ...]
 *
 * No coverage, on purpose: it needs no special compiler, gives the same inputs everywhere, and runs within an ordinary test. It
 * feeds the corpus (tests/corpus/NAME by default), truncations of it, and seeded mutations. Each input lies in a block of just
 * its size, so that a sanitizer sees the first byte too many. Failures are: a crash, a hang, a nonzero result, memory that is not
 * given back; the input is then kept in $BUILD/crash-NAME-*. -fail also makes each early allocation fail in turn.
 * With -DLIBFUZZER the same target becomes libFuzzer's, which has coverage. */
#include "base/base.h"

int fuzz_one(const u8 *data, usize n); /* 0; a broken promise is anything else, or a crash */

#ifdef LIBFUZZER
int LLVMFuzzerTestOneInput(const u8 *data, size_t n);
int LLVMFuzzerTestOneInput(const u8 *data, size_t n)
{
    if (fuzz_one(data, n)) __builtin_trap();
    return 0;
}
#else
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum { INPUT_MAX = 1 << 20, SMALL = 4096, LARGE_CUTS = 64 };

typedef struct {
    u8 *p;
    usize n;
} input;
typedef struct {
    input *v;
    usize n, cap;
    i64 mutations, n_run;
    u64 seed;
    double most_seconds;
    int alarm_seconds;
    bool fail;
} job;

static const char *name = "fuzz";
static char crash_path[600];       /* made beforehand: a handler cannot */
static const u8 *volatile current; /* the input being run */
static volatile usize current_n;

/* ---- when something goes wrong ---- */
static void say(const char *s)
{
    if (write(STDOUT_FILENO, s, strlen(s)) < 0) return;
}

static void keep_input(void)
{
    if (!current) return;
    int fd = open(crash_path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd >= 0 && write(fd, (const u8 *)current, current_n) == (ssize_t)current_n) {
        say("input kept: ");
        say(crash_path);
        say("\n");
    }
    if (fd >= 0) close(fd);
    current = NULL;
}

static void report(const char *why)
{
    keep_input();
    say("[  FAILED  ] ");
    say(name);
    say(": ");
    say(why);
    say("\n");
}

static _Noreturn void failed(const char *why)
{
    fflush(stdout);
    report(why);
    _exit(1);
}

static void on_death(void) /* of the sanitizer's hand, after its own report */
{
    if (current) report("sanitizer");
}

static void on_signal(int number) { failed(number == SIGALRM ? "hang" : number == SIGABRT ? "abort" : "crash"); }

extern void __sanitizer_set_death_callback(void (*)(void)) __attribute__((weak));

static void watch(void)
{
    static char stack[64 << 10]; /* a handler of its own, for overflows of the other */
    stack_t s = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    static const int own[] = {SIGALRM, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    bool sanitized = __sanitizer_set_death_callback != NULL;
    if (sanitized) __sanitizer_set_death_callback(on_death);
    sigaltstack(&s, NULL);
    for (usize i = 0; i < (sanitized ? 2 : COUNT_OF(own)); i++)
        sigaction(own[i], &a, NULL); /* the sanitizer reports its own better */
}

/* ---- one input ---- */
static i64 left_behind(const u8 *p, usize n)
{
    usize before = mem_now();
    if (fuzz_one(p, n)) failed("the target returned nonzero");
    return (i64)mem_now() - (i64)before;
}

static void run(job *j, const u8 *data, usize n)
{
    u8 *p = mem_alloc(n);
    if (!p) failed("out of memory");
    if (n) memcpy(p, data, n);
    current = p, current_n = n;
    alarm((unsigned)j->alarm_seconds);
    /* what the first run leaves may be something made once; what every run leaves is a leak */
    if (left_behind(p, n) > 0 && left_behind(p, n) > 0 && left_behind(p, n) > 0) failed("memory is not given back");
    alarm(0);
    current = NULL;
    mem_free(p);
    j->n_run++;
}

static void run_with_failures(job *j, const u8 *data, usize n)
{
    for (i64 k = 1; k <= 200; k++) {
        usize before = mem_now();
        u8 *p = mem_alloc(n);
        if (!p) failed("out of memory");
        if (n) memcpy(p, data, n);
        current = p, current_n = n;
        alarm((unsigned)j->alarm_seconds);
        mem_fail_at(k);
        (void)fuzz_one(p, n);
        i64 made = mem_fail_count();
        mem_fail_at(0);
        alarm(0);
        mem_free(p);
        if (mem_now() > before && k > 1) failed("memory is not given back after a failed allocation");
        current = NULL;
        j->n_run++;
        if (made < k) return;
    }
}

/* ---- mutations ---- */
static usize below(rng *r, usize n) { return n ? (usize)(rng_u64(r) % n) : 0; }

static void put_at(input *x, usize at, usize gone, const void *with, usize n) /* x->p has INPUT_MAX bytes */
{
    if (at > x->n) at = x->n;
    if (gone > x->n - at) gone = x->n - at;
    if (x->n - gone + n > INPUT_MAX) return;
    memmove(x->p + at + n, x->p + at + gone, x->n - at - gone);
    if (n) memcpy(x->p + at, with, n);
    x->n += n - gone;
}

static void put_magic(rng *r, input *x)
{
    static const u64 magic[] = {0,
                                1,
                                2,
                                3,
                                7,
                                8,
                                15,
                                16,
                                31,
                                32,
                                63,
                                64,
                                100,
                                127,
                                128,
                                255,
                                256,
                                1023,
                                1024,
                                4095,
                                4096,
                                32767,
                                32768,
                                65535,
                                65536,
                                1u << 20,
                                1u << 24,
                                0x7FFFFFFF,
                                0x80000000,
                                0xFFFFFFFF,
                                0x100000000,
                                UINT64_C(1) << 40,
                                0x7FFFFFFFFFFFFFFF,
                                0x8000000000000000,
                                0xFFFFFFFFFFFFFFFF,
                                0x1000000000000001,
                                0x3FFFFFFFFFFFFFFF};
    u64 v = magic[below(r, COUNT_OF(magic))];
    if (below(r, 4) == 0) v = -v;
    usize width = (usize)1 << below(r, 4);
    u8 bytes[8];
    bool big = below(r, 4) == 0;
    for (usize i = 0; i < width; i++) bytes[big ? width - 1 - i : i] = (u8)(v >> 8 * i);
    usize at = below(r, x->n + 1);
    if (below(r, 2)) at &= ~(width - 1); /* fields are often aligned */
    put_at(x, at, width, bytes, width);
}

static void put_word(rng *r, input *x)
{
    static const char *const words[] = {"18446744073709551616",
                                        "-1",
                                        "9223372036854775808",
                                        "1e999",
                                        "NaN",
                                        "null",
                                        "{",
                                        "[",
                                        "\"",
                                        "\\",
                                        "\\u0000",
                                        "\\ud800",
                                        "<",
                                        "</",
                                        "<!--",
                                        "]]>",
                                        "&#x110000;",
                                        "{{",
                                        "}}",
                                        "{%",
                                        "%}",
                                        "\r\n",
                                        "\n\n",
                                        "\t",
                                        "\xEF\xBB\xBF",
                                        "\xC0\x80",
                                        "\xED\xA0\x80",
                                        "\xF4\x90\x80\x80",
                                        "\xEA\xB0",
                                        "가",
                                        "\xF0\x9F\x98\x80",
                                        "%s%n",
                                        "../",
                                        ",",
                                        "\",\"",
                                        "0x",
                                        "'",
                                        "()",
                                        "(?:"};
    const char *w = words[below(r, COUNT_OF(words))];
    usize n = strlen(w), times = below(r, 8) ? 1 : 1 + below(r, 3000); /* often nested deeply */
    for (usize i = 0, at = below(r, x->n + 1); i < times; i++) put_at(x, at, 0, w, n);
}

static void mutate(rng *r, input *x, const input *other)
{
    u8 chunk[256];
    usize at = below(r, x->n), n = 1 + below(r, sizeof chunk);
    switch (below(r, 10)) {
    case 0:
    case 1:
        if (x->n) x->p[at] ^= (u8)(1 << below(r, 8));
        return;
    case 2:
        if (x->n) x->p[at] = (u8)rng_u64(r);
        return;
    case 3: /* delete a chunk, sometimes a large one */ put_at(x, at, below(r, 3) ? n : below(r, x->n + 1), NULL, 0); return;
    case 4: /* random bytes */
        for (usize i = 0; i < n; i++) chunk[i] = (u8)rng_u64(r);
        put_at(x, at, below(r, 2) ? n : 0, chunk, n);
        return;
    case 5: /* a piece of itself elsewhere, or many times */
        if (n > x->n - at) n = x->n - at;
        memcpy(chunk, x->p + at, n);
        for (usize times = below(r, 8) ? 1 : below(r, 300), to = below(r, x->n + 1); times--;) put_at(x, to, 0, chunk, n);
        return;
    case 6: /* a piece of another file, in place */
        if (!other->n) return;
        at = below(r, other->n), n = 1 + below(r, other->n - at);
        put_at(x, below(r, 2) ? at : below(r, x->n + 1), n, other->p + at, n);
        return;
    case 7: put_word(r, x); return;
    default: put_magic(r, x); return;
    }
}

static const input *pick(rng *r, const job *j) /* small ones more often: they say more a second */
{
    const input *a = &j->v[below(r, j->n)], *b = &j->v[below(r, j->n)];
    return a->n < b->n || !below(r, 4) ? a : b;
}

/* ---- the job ---- */
static err add_file(void *ctx, const char *path)
{
    job *j = ctx;
    buf b = {0};
    TRY(file_read(&b, path, 64 << 20));
    usize n = b.n;
    input x = {(u8 *)buf_take(&b), n};
    if (!x.p || !VEC_PUSH(j->v, j->n, j->cap, x)) return err_new(ERR_NOMEM, "out of memory");
    return OK;
}

static err add_bytes(job *j, const void *p, usize n)
{
    input x = {(u8 *)mem_strndup(p, n), n};
    return x.p && VEC_PUSH(j->v, j->n, j->cap, x) ? OK : err_new(ERR_NOMEM, "out of memory");
}

static void run_cuts(job *j, const input *x, rng *r)
{
    if (x->n <= SMALL)
        for (usize cut = 0; cut < x->n; cut++) run(j, x->p, cut);
    else
        for (usize i = 0; i < LARGE_CUTS; i++) run(j, x->p, i < LARGE_CUTS / 2 ? below(r, SMALL) : below(r, x->n));
}

static i64 run_all(job *j)
{
    double start = clock_s();
    rng r;
    i64 done = 0;
    u8 *room = mem_alloc(INPUT_MAX);
    if (!room) failed("out of memory");
    rng_seed(&r, j->seed);
    for (usize i = 0; i < j->n; i++) {
        run(j, j->v[i].p, j->v[i].n);
        if (j->fail) run_with_failures(j, j->v[i].p, j->v[i].n);
    }
    for (usize i = 0; i < j->n && j->mutations; i++) run_cuts(j, &j->v[i], &r);
    for (; done < j->mutations && clock_s() - start < j->most_seconds; done++) {
        const input *from = pick(&r, j);
        input x = {room, from->n < INPUT_MAX ? from->n : INPUT_MAX};
        memcpy(x.p, from->p, x.n);
        for (usize k = 1 + below(&r, 1 + below(&r, 8)); k--;) mutate(&r, &x, pick(&r, j));
        run(j, x.p, x.n);
    }
    mem_free(room);
    return done;
}

static err load(job *j, char **paths, int n_paths)
{
    char own[600];
    u8 zeros[64] = {0};
    snprintf(own, sizeof own, "tests/corpus/%s", strncmp(name, "fuzz_", 5) ? name : name + 5);
    for (int i = 0; i < n_paths; i++) TRY(file_walk(paths[i], add_file, j));
    if (!n_paths && file_exists(own)) TRY(file_walk(own, add_file, j));
    if (!j->n) printf("%s: nothing in %s; only mutations of nothing are run\n", name, own);
    TRY(add_bytes(j, "", 0));
    return add_bytes(j, zeros, sizeof zeros);
}

int main(int argc, char **argv)
{
    job j = {.mutations = 10000, .seed = 1, .most_seconds = 60, .alarm_seconds = 20};
    const char *slash = strrchr(argv[0], '/'), *build = getenv("BUILD");
    name = slash ? slash + 1 : argv[0];
    int first = 1;
    for (; first < argc && argv[first][0] == '-'; first++) {
        const char *flag = argv[first], *value = first + 1 < argc ? argv[first + 1] : "";
        i64 v = 0;
        if (!strcmp(flag, "-fail")) {
            j.fail = true;
            continue;
        }
        if (!str_i64(str_of(value), &v) || v < 0) flag = "?";
        first++;
        if (!strcmp(flag, "-n"))
            j.mutations = v;
        else if (!strcmp(flag, "-seed"))
            j.seed = (u64)v;
        else if (!strcmp(flag, "-seconds"))
            j.most_seconds = (double)v;
        else if (!strcmp(flag, "-alarm"))
            j.alarm_seconds = (int)i64_min(v, 86400);
        else {
            fprintf(stderr,
                    "usage: %s [-n mutations] [-seed s] [-seconds most] [-alarm per_input] [-fail] [file or folder ...]\n", name);
            return 2;
        }
    }
    snprintf(crash_path, sizeof crash_path, "%s/crash-%s-%llu-%d", build && build[0] ? build : "build", name,
             (unsigned long long)j.seed, (int)getpid());
    printf("[ RUN      ] %s\n", name);
    fflush(stdout);
    log_set(LOG_QUIET);
    watch();
    err bad = load(&j, argv + first, argc - first);
    if (bad.code) {
        printf("[  FAILED  ] %s: %s\n", name, bad.what);
        return err_exit(bad.code);
    }
    double start = clock_s();
    i64 done = run_all(&j);
    printf("%s: %zu files, %lld inputs, %lld of %lld mutations, %.1f s\n", name, j.n - 2, (long long)j.n_run, (long long)done,
           (long long)j.mutations, clock_s() - start);
    printf("[       OK ] %s\n", name);
    for (usize i = 0; i < j.n; i++) mem_free(j.v[i].p);
    mem_free(j.v);
    return 0;
}
#endif
