/* tests/base/test_proc.c - other programs: exit codes, streams, limits, deadlines; confined functions: what they must not do. */
#include "base/inside.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void assert_ok(err e)
{
    if (e.code) fail_msg("%s: %s", err_name(e.code), e.what);
}

/* ---- another program ---- */
typedef struct {
    buf out, errors;
    int status;
    err e;
    double took;
} result;

static result run(proc_spec s)
{
    result r = {0};
    double start = clock_s();
    r.e = proc_run(&s, &r.out, &r.errors, &r.status);
    r.took = clock_s() - start;
    return r;
}

static result shell(const char *line, proc_spec s)
{
    const char *argv[] = {"sh", "-c", line, NULL};
    s.argv = argv;
    return run(s);
}

static void done(result *r)
{
    buf_free(&r->out);
    buf_free(&r->errors);
}

static void exit_codes_and_streams(void **state)
{
    (void)state;
    result r = shell("echo out; echo err >&2; exit 3", (proc_spec){.seconds = 20});
    assert_ok(r.e);
    assert_int_equal(r.status, 3);
    assert_string_equal(buf_cstr(&r.out), "out\n");
    assert_string_equal(buf_cstr(&r.errors), "err\n");
    done(&r);
    r = shell("kill -TERM $$", (proc_spec){0});
    assert_ok(r.e);
    assert_int_equal(r.status, 128 + SIGTERM);
    done(&r);
    r = shell("cat", (proc_spec){.input = S("안녕")});
    assert_string_equal(buf_cstr(&r.out), "안녕");
    done(&r);
    r = shell("cat; echo end", (proc_spec){0}); /* no input: not our terminal */
    assert_string_equal(buf_cstr(&r.out), "end\n");
    done(&r);
    usize n = 5 << 20;
    char *big = mem_alloc(n);
    memset(big, 'b', n);
    r = shell("tee /dev/stderr | wc -c", (proc_spec){.input = {big, n}}); /* all three streams at once do not block */
    assert_ok(r.e);
    assert_int_equal(atoi(buf_cstr(&r.out)), n);
    done(&r);
    r = shell("exit 0", (proc_spec){.input = {big, n}}); /* input that nobody reads */
    assert_ok(r.e);
    assert_int_equal(r.status, 0);
    done(&r);
    mem_free(big);
    assert_ok(proc_run(&(proc_spec){.argv = (const char *const[]){"echo", "x", NULL}}, NULL, NULL, NULL));
}

static void cannot_start(void **state)
{
    (void)state;
    const char *argv[] = {"maru-no-such-program", NULL};
    result r = run((proc_spec){.argv = argv});
    assert_int_equal(r.e.code, ERR_REMOTE);
    assert_non_null(strstr(r.e.what, "maru-no-such-program"));
    assert_non_null(strstr(r.e.what, "installed"));
    done(&r);
    r = run((proc_spec){.argv = (const char *const[]){NULL}});
    assert_int_equal(r.e.code, ERR_INPUT);
    done(&r);
}

static void deadline(void **state)
{
    (void)state;
    static const char *const lines[] = {"sleep 30", "exec >/dev/null 2>&1; sleep 30", "yes >/dev/null",
                                        "trap '' TERM; while :; do :; done"};
    for (usize i = 0; i < COUNT_OF(lines); i++) {
        result r = shell(lines[i], (proc_spec){.seconds = 0.3});
        assert_int_equal(r.e.code, ERR_REMOTE);
        assert_non_null(strstr(r.e.what, "0.3 s"));
        assert_true(r.took > 0.25 && r.took < 10);
        done(&r);
    }
}

static bool is_running(int pid)
{
    char path[64];
    buf b = {0};
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    bool yes = !file_read(&b, path, 0).code && !strstr(buf_cstr(&b), ") Z ") && !strstr(buf_cstr(&b), ") X ");
    buf_free(&b);
    return yes;
}

static void no_stragglers(void **state)
{
    (void)state;
    result r = shell("sleep 60 >/dev/null 2>&1 & echo $!", (proc_spec){.seconds = 20});
    assert_ok(r.e);
    int pid = atoi(buf_cstr(&r.out));
    assert_true(pid > 1);
    for (int i = 0; i < 200 && is_running(pid); i++) usleep(10000);
    assert_false(is_running(pid));
    done(&r);
}

static void output_limit(void **state)
{
    (void)state;
    result r = shell("yes", (proc_spec){.max_output = 100000, .seconds = 30});
    assert_int_equal(r.e.code, ERR_FORMAT);
    assert_true(r.took < 20);
    done(&r);
    r = shell("printf 12345", (proc_spec){.max_output = 5});
    assert_ok(r.e);
    assert_int_equal(r.out.n, 5);
    done(&r);
    r = shell("printf 123456", (proc_spec){.max_output = 5});
    assert_int_equal(r.e.code, ERR_FORMAT);
    done(&r);
    r = shell("head -c 3000000 /dev/zero >&2; echo end", (proc_spec){.seconds = 30}); /* noise is cut, not an error */
    assert_ok(r.e);
    assert_true(r.errors.n <= 1 << 20);
    assert_string_equal(buf_cstr(&r.out), "end\n");
    done(&r);
}

static void descriptors(void **state)
{
    (void)state;
    int p[2], leak = open("/dev/null", O_RDONLY); /* not close-on-exec, as libraries do */
    assert_int_equal(pipe(p), 0);
    assert_int_equal(write(p[1], "through three", 13), 13);
    close(p[1]);
    result r = shell("cat <&3; ls /proc/self/fd | tr '\\n' ' '", (proc_spec){.extra_fd = p[0]});
    assert_ok(r.e);
    assert_true(str_starts(buf_view(&r.out), S("through three0 1 2 3 "))); /* and 4, the listing itself */
    assert_true(r.out.n <= strlen("through three0 1 2 3 4 "));
    done(&r);
    close(p[0]);
    close(leak);
}

/* This program is also the one that is run: "socket" and "memory" say what they could get. */
static int as_subject(const char *what)
{
    if (!strcmp(what, "socket")) {
        int s = socket(AF_INET, SOCK_STREAM, 0);
        printf("%s", s < 0 ? (errno == EPERM ? "denied" : "failed") : "made");
        return 0;
    }
    if (!strcmp(what, "memory")) {
        void *p = mem_alloc(512 << 20);
        printf("%s", p ? "got it" : "refused");
        mem_free(p);
        return 0;
    }
    return 9;
}

static void network_and_memory(void **state)
{
    (void)state;
    const char *argv[] = {"/proc/self/exe", "socket", NULL};
    result r = run((proc_spec){.argv = argv});
    assert_string_equal(buf_cstr(&r.out), "made");
    done(&r);
    r = run((proc_spec){.argv = argv, .no_network = true});
    assert_string_equal(buf_cstr(&r.out), "denied");
    done(&r);
    if (SANITIZED) return; /* its shadow takes terabytes of address space */
    argv[1] = "memory";
    r = run((proc_spec){.argv = argv});
    assert_string_equal(buf_cstr(&r.out), "got it");
    done(&r);
    r = run((proc_spec){.argv = argv, .max_memory = 256 << 20});
    assert_string_equal(buf_cstr(&r.out), "refused");
    done(&r);
}

/* ---- one of our own functions ---- */
static err confine(err (*fn)(void *, buf *), void *ctx, double seconds, buf *out)
{
    return proc_confine(fn, ctx, seconds, 64 << 20, out);
}

static void assert_stopped(err (*fn)(void *, buf *), double seconds, const char *why)
{
    buf b = {0};
    buf_puts(&b, "before");
    double start = clock_s();
    err e = confine(fn, NULL, seconds, &b);
    assert_true(clock_s() - start < seconds + 20);
    assert_int_equal(e.code, ERR_FORMAT);
    if (!str_starts(str_of(e.what), S("parser stopped: ")) || !strstr(e.what, why)) fail_msg("wrong reason: %s", e.what);
    assert_string_equal(buf_cstr(&b), "before"); /* nothing half-written */
    buf_free(&b);
}

static err give(void *ctx, buf *out)
{
    for (int i = 0; i < *(int *)ctx; i++) buf_fmt(out, "%07d\n", i);
    return OK;
}

static err own_error(void *ctx, buf *out)
{
    buf_puts(out, "half");
    return err_new(ERR_UNSUPPORTED, "%s: %d", (char *)ctx, 12);
}

static void confined_answer(void **state)
{
    (void)state;
    buf b = {0};
    int n = 3;
    buf_puts(&b, "> ");
    assert_ok(confine(give, &n, 20, &b));
    assert_string_equal(buf_cstr(&b), "> 0000000\n0000001\n0000002\n");
    buf_reset(&b);
    n = 400000; /* more than a pipe holds */
    assert_ok(confine(give, &n, 60, &b));
    assert_int_equal(b.n, 8 * 400000);
    buf_reset(&b);
    n = 0;
    assert_ok(confine(give, &n, 0, &b)); /* no deadline, nothing to say */
    assert_int_equal(b.n, 0);
    err e = confine(own_error, "열쇠", 20, &b);
    assert_int_equal(e.code, ERR_UNSUPPORTED);
    assert_string_equal(e.what, "열쇠: 12");
    assert_int_equal(b.n, 0);
    buf_free(&b);
}

__attribute__((no_sanitize("undefined"))) static err null_deref(void *ctx, buf *out)
{
    (void)out;
    volatile int *volatile p = ctx;
    *p = 1;
    return OK;
}

static err call_abort(void *ctx, buf *out)
{
    (void)ctx, (void)out;
    abort();
}

static err leave(void *ctx, buf *out)
{
    (void)ctx, (void)out;
    _exit(0);
}

static volatile bool never;
static err endless(void *ctx, buf *out)
{
    (void)ctx, (void)out;
    while (!never) continue;
    return OK;
}

static err hang(void *ctx, buf *out)
{
    (void)ctx, (void)out;
    while (!never) sleep(100);
    return OK;
}

static err hog(void *ctx, buf *out)
{
    (void)ctx, (void)out;
    for (;;) {
        char *p = mem_alloc(1 << 20);
        if (!p) return err_new(ERR_NOMEM, "page tree");
        memset(p, 1, 1 << 20);
    }
}

static err library_hog(void *ctx, buf *out) /* memory that is not counted by mem.c */
{
    (void)ctx, (void)out;
    for (;;) {
        char *volatile p = malloc(1 << 20); /* volatile: a compiler may leave out memory that nobody reads */
        if (!p) return err_new(ERR_NOMEM, "library");
        memset(p, 1, 1 << 20);
    }
}

static err big_output(void *ctx, buf *out)
{
    (void)ctx;
    for (;;) {
        buf_puts(out, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
        TRY(buf_error(out));
    }
}

static err liar(void *ctx, buf *out) /* a parser that was taken over speaks for itself on every descriptor */
{
    (void)ctx, (void)out;
    static const char lie[256] = "all is well";
    for (int fd = 3; fd < 256; fd++)
        if (write(fd, lie, sizeof lie) < 0) continue;
    while (!never) sleep(100);
    return OK;
}

static void confined_misbehaviour(void **state)
{
    (void)state;
    assert_stopped(null_deref, 30, "Segmentation fault");
    assert_stopped(call_abort, 30, "signal");
    assert_stopped(leave, 30, "no answer");
    assert_stopped(endless, 1, "more than 1 s");
    assert_stopped(hang, 1, "more than 1 s");
    assert_stopped(hog, 30, "more than 64 MB (page tree)");
    assert_stopped(big_output, 30, "more than 64 MB");
    if (!SANITIZED) assert_stopped(library_hog, 30, "more than 64 MB (library)");
    assert_stopped(liar, 30, "makes no sense");
}

static int old_fd;
static err try_all(void *ctx, buf *out)
{
    const char *path = ctx;
    char eight[8] = "";
    void *p;
#define TRIED(name, call) buf_fmt(out, "%s %s\n", name, (intptr_t)(call) == -1 ? "no" : "YES")
    TRIED("socket", socket(AF_INET, SOCK_STREAM, 0));
    TRIED("unix socket", socket(AF_UNIX, SOCK_STREAM, 0));
    TRIED("new file", open(path, O_CREAT | O_WRONLY, 0600));
    TRIED("read file", open("/etc/passwd", O_RDONLY));
    TRIED("old file", write(old_fd, "overwritten", 11));
    TRIED("cut", ftruncate(old_fd, 0));
    TRIED("unlink", unlink(path));
    TRIED("mkdir", mkdir(path, 0700));
    TRIED("exec", execl("/bin/true", "true", NULL));
    TRIED("fork", fork());
    TRIED("kill", kill(getppid(), 0));
    TRIED("code", mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TRIED("data", p);
    TRIED("data to code", mprotect(p, 4096, PROT_READ | PROT_EXEC));
    TRIED("read old", pread(old_fd, eight, 7, 0));
    buf_puts(out, eight);
    return OK;
}

static void confined_rights(void **state)
{
    (void)state;
    char path[64] = "/tmp/maru-proc-XXXXXX", fresh[80];
    old_fd = mkstemp(path);
    assert_int_equal(write(old_fd, "content", 7), 7);
    snprintf(fresh, sizeof fresh, "%s.new", path);
    buf b = {0}, after = {0};
    assert_ok(confine(try_all, fresh, 20, &b));
    assert_string_equal(
        buf_cstr(&b), "socket no\nunix socket no\nnew file no\nread file no\nold file no\ncut no\nunlink no\nmkdir no\nexec no\n"
                      "fork no\nkill no\ncode no\ndata YES\ndata to code no\nread old YES\ncontent");
    assert_false(file_exists(fresh));
    assert_ok(file_read(&after, path, 0));
    assert_string_equal(buf_cstr(&after), "content");
    buf_free(&b);
    buf_free(&after);
    close(old_fd);
    unlink(path);
}

static err warn(void *ctx, buf *out)
{
    log_line(LOG_WARN, "%s", (char *)ctx);
    buf_puts(out, "done");
    return OK;
}

static void errors_may_go_to_a_file(void **state)
{
    (void)state;
    char path[64] = "/tmp/maru-proc-XXXXXX";
    int fd = mkstemp(path), saved = dup(2);
    buf b = {0}, out = {0};
    assert_true(fd >= 0 && dup2(fd, 2) == 2);
    err e = confine(warn, "page 3 is empty", 20, &out);
    result r = shell("echo from the program >&2", (proc_spec){.inherit_stderr = true});
    dup2(saved, 2);
    close(saved);
    close(fd);
    assert_ok(e);
    assert_ok(r.e);
    assert_string_equal(buf_cstr(&out), "done");
    assert_int_equal(r.errors.n, 0);
    assert_ok(file_read(&b, path, 0));
    assert_string_equal(buf_cstr(&b), "maru: page 3 is empty\nfrom the program\n");
    unlink(path);
    buf_free(&out);
    buf_free(&b);
    done(&r);
}

static err fail_if_injected(void *ctx, buf *out)
{
    (void)ctx;
    void *p = mem_alloc(10);
    if (!p) return err_new(ERR_NOMEM, "injected");
    mem_free(p);
    buf_puts(out, "x");
    return OK;
}

static void injected_failure_stays_nomem(void **state)
{
    (void)state;
    buf b = {0};
    mem_fail_at(1);
    err e = confine(fail_if_injected, NULL, 20, &b);
    mem_fail_at(0);
    assert_int_equal(e.code, ERR_NOMEM);
    buf_free(&b);
}

static void *confine_often(void *arg)
{
    intptr_t bad = 0;
    (void)arg;
    for (int i = 0; i < 25; i++) {
        buf b = {0};
        int n = 100 + i;
        bad += confine(give, &n, 30, &b).code != 0 || b.n != 8 * (usize)n;
        void *p = malloc(1000); /* so that forks happen while others hold the allocator */
        free(p);
        buf_free(&b);
    }
    return (void *)bad;
}

static void confined_from_many_threads(void **state)
{
    (void)state;
    pthread_t t[4];
    /* glibc's allocator survives a fork while another thread is inside it; a sanitizer's does not, so there they take turns */
    int at_once = SANITIZED ? 1 : 4;
    for (int i = 0; i < 4; i += at_once) {
        for (int k = 0; k < at_once; k++) assert_int_equal(pthread_create(&t[k], NULL, confine_often, NULL), 0);
        for (int k = 0; k < at_once; k++) {
            void *bad;
            pthread_join(t[k], &bad);
            assert_int_equal((intptr_t)bad, 0);
        }
    }
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* every child was reaped */
}

int main(int argc, char **argv)
{
    if (argc > 1) return as_subject(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exit_codes_and_streams),
        cmocka_unit_test(cannot_start),
        cmocka_unit_test(deadline),
        cmocka_unit_test(no_stragglers),
        cmocka_unit_test(output_limit),
        cmocka_unit_test(descriptors),
        cmocka_unit_test(network_and_memory),
        cmocka_unit_test(confined_answer),
        cmocka_unit_test(confined_misbehaviour),
        cmocka_unit_test(confined_rights),
        cmocka_unit_test(errors_may_go_to_a_file),
        cmocka_unit_test(injected_failure_stays_nomem),
        cmocka_unit_test(confined_from_many_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
