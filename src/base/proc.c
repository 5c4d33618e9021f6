/* base/proc.c - running another program, and running one of our own functions where it can do no harm.
 *
 * A confined function keeps its memory, so that it needs no arguments parsed and no program installed; in exchange it is put
 * under a seccomp filter that lists what is allowed (compute, memory, reading what is open, answering through one pipe) and
 * refuses the rest with an errno, so that a library which merely looks for a configuration file goes on without it.
 * The parent trusts nothing that comes back: lengths are checked, and the child is killed at its deadline or once it has
 * answered. What is not here: user namespaces, cgroups, chroot. They need rights that a desktop program does not have. */
#include "base/inside.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <math.h>
#include <poll.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- shared --------------------------------------------------------------------------------------------------------- */

/* Above the numbers that a child's standard streams will take, whatever the parent had closed. */
static int fd_high(int fd)
{
    if (fd < 0 || fd >= 10) return fd;
    int to = fcntl(fd, F_DUPFD_CLOEXEC, 10), saved = errno;
    close(fd);
    errno = saved;
    return to;
}

static void fd_close(int *fd)
{
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static bool pipe_new(int p[2])
{
    if (pipe2(p, O_CLOEXEC) < 0) {
        p[0] = p[1] = -1;
        return false;
    }
    p[0] = fd_high(p[0]);
    p[1] = fd_high(p[1]);
    return p[0] >= 0 && p[1] >= 0;
}

static double deadline_of(double seconds) { return seconds > 0 ? clock_s() + seconds : INFINITY; }

/* For poll: milliseconds until then, rounded up; -1: for ever. */
static int poll_ms(double until)
{
    if (isinf(until)) return -1;
    double ms = ceil((until - clock_s()) * 1000);
    return ms < 0 ? 0 : ms > 1e6 ? 1000000 : (int)ms;
}

/* Waits for the end of the child, but no longer than `until`. What is left of its group is killed before the child is
 * reaped, while the number of the group cannot be another's. False: it had to be killed. */
static bool reap(pid_t pid, double until, bool group, int *status)
{
    bool in_time = true;
    siginfo_t info = {0};
    long pause = 100000; /* ns */
    for (;;) {
        info.si_pid = 0;
        if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT | (isinf(until) ? 0 : WNOHANG)) < 0 && errno != EINTR) break;
        if (info.si_pid == pid) break;
        if (clock_s() >= until) {
            in_time = false;
            break;
        }
        nanosleep(&(struct timespec){0, pause}, NULL);
        if (pause < 5000000) pause += pause / 2;
    }
    if (group) kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
    *status = 0;
    while (waitpid(pid, status, 0) < 0 && errno == EINTR) {}
    return in_time;
}

/* A child begins as nobody's handler would have it, and dies with its parent. */
static void child_begin(pid_t parent)
{
    sigset_t none;
    for (int i = 1; i < NSIG; i++) signal(i, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
}

static void limit(int what, u64 to)
{
    struct rlimit r = {to, to};
    setrlimit((__rlimit_resource_t)what, &r);
}

/* ---- another program ------------------------------------------------------------------------------------------------ */
enum { ERRORS_MAX = 1 << 20, OUTPUT_MAX = 1 << 30, READ_PIECE = 64 << 10 };

typedef struct {
    int in, out[2], errors[2], report[2]; /* pipes: [0] is ours, [1] the child's */
} streams;

static bool deny_network(void)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
    if (!f) return false;
    static const char *const calls[] = {"socket", "socketpair", "socketcall",
                                        "io_uring_setup"}; /* an io_uring can make sockets */
    int failed = 0;
    for (usize i = 0; i < COUNT_OF(calls); i++) {
        int nr = seccomp_syscall_resolve_name(calls[i]);
        if (nr >= 0) failed |= seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), nr, 0);
    }
    if (!failed) failed = seccomp_load(f);
    seccomp_release(f);
    return !failed;
}

static _Noreturn void child_exec(const proc_spec *s, const streams *t, pid_t parent)
{
    char stage = 'x';
    child_begin(parent);
    setpgid(0, 0);
    if (s->extra_fd == 3)
        fcntl(3, F_SETFD, 0);
    else if (s->extra_fd > 0 && dup2(s->extra_fd, 3) < 0)
        goto fail;
    if (dup2(t->in, 0) < 0 || dup2(t->out[1], 1) < 0 || (!s->inherit_stderr && dup2(t->errors[1], 2) < 0)) goto fail;
    unsigned first = s->extra_fd > 0 ? 4 : 3;
    if (syscall(SYS_close_range, first, ~0u, CLOSE_RANGE_CLOEXEC) < 0) /* before Linux 5.11: one by one */
        for (int fd = (int)first; fd < 4096; fd++) fcntl(fd, F_SETFD, FD_CLOEXEC);
    limit(RLIMIT_CORE, 0);
    stage = 's';
    if (s->no_network && !deny_network()) goto fail;
    stage = 'x';
    if (s->max_memory) limit(RLIMIT_AS, s->max_memory);
    execvp(s->argv[0], (char *const *)(uintptr_t)s->argv);
fail:;
    struct {
        int code;
        char stage;
    } say = {errno, stage};
    ssize_t done = write(t->report[1], &say, sizeof say);
    _exit(done < 0 ? 126 : 127);
}

/* The input as a file in memory: no writing side that could block, and no SIGPIPE when the program does not read it. */
static int input_open(str input)
{
    if (!input.n) return fd_high(open("/dev/null", O_RDONLY | O_CLOEXEC));
    int fd = fd_high(memfd_create("input", MFD_CLOEXEC));
    for (usize at = 0; fd >= 0 && at < input.n;) {
        ssize_t k = write(fd, input.p + at, input.n - at);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            int saved = errno;
            fd_close(&fd);
            errno = saved;
        } else
            at += (usize)k;
    }
    if (fd >= 0) lseek(fd, 0, SEEK_SET);
    return fd;
}

static bool streams_open(streams *t, const proc_spec *s)
{
    *t = (streams){.in = input_open(s->input), .out = {-1, -1}, .errors = {-1, -1}, .report = {-1, -1}};
    return t->in >= 0 && pipe_new(t->out) && (s->inherit_stderr || pipe_new(t->errors)) && pipe_new(t->report);
}

static void streams_close(streams *t)
{
    fd_close(&t->in);
    for (int i = 0; i < 2; i++) {
        fd_close(&t->out[i]);
        fd_close(&t->errors[i]);
        fd_close(&t->report[i]);
    }
}

/* Reads one piece. False at the end of the stream. `to` may be NULL: read and forgotten. */
static bool drain(int fd, buf *to, usize keep)
{
    char piece[READ_PIECE];
    ssize_t k = read(fd, piece, sizeof piece);
    if (k < 0) return errno == EINTR || errno == EAGAIN;
    if (to && to->n < keep) buf_put(to, piece, (usize)k < keep - to->n ? (usize)k : keep - to->n);
    return k > 0;
}

static err collect(const proc_spec *s, streams *t, buf *out, buf *errors, double until)
{
    usize most = s->max_output ? s->max_output : OUTPUT_MAX, had = out ? out->n : 0;
    usize keep_errors = errors ? errors->n + ERRORS_MAX : 0;
    while (t->out[0] >= 0 || t->errors[0] >= 0) {
        struct pollfd p[2] = {{t->out[0], POLLIN, 0}, {t->errors[0], POLLIN, 0}};
        int k = poll(p, 2, poll_ms(until));
        if (k < 0 && errno != EINTR) return err_os("cannot wait for %s", s->argv[0]);
        if (k > 0 && p[0].revents && !drain(t->out[0], out, had + most + 1)) fd_close(&t->out[0]);
        if (k > 0 && p[1].revents && !drain(t->errors[0], errors, keep_errors)) fd_close(&t->errors[0]);
        if (out) TRY(err_at(buf_error(out), "reading from %s", s->argv[0]));
        if (errors) TRY(err_at(buf_error(errors), "reading from %s", s->argv[0]));
        if (out && out->n - had > most)
            return err_new(ERR_FORMAT, "%s wrote more than the %zu bytes that are read", s->argv[0], most);
        if (clock_s() >= until) return err_new(ERR_REMOTE, "%s was stopped after %g s", s->argv[0], s->seconds);
    }
    return OK;
}

static err started(const proc_spec *s, int report)
{
    struct {
        int code;
        char stage;
    } said;
    ssize_t k;
    do k = read(report, &said, sizeof said);
    while (k < 0 && errno == EINTR);
    if (k != sizeof said) return OK; /* closed by exec */
    char why[128];
    const char *reason = strerror_r(said.code, why, sizeof why);
    if (said.stage == 's')
        return err_new(ERR_REMOTE, "cannot start %s: the kernel refused the filter that denies the network: %s", s->argv[0],
                       reason);
    return err_new(ERR_REMOTE, "cannot start %s: %s%s", s->argv[0], reason, said.code == ENOENT ? " (is it installed?)" : "");
}

err proc_run(const proc_spec *s, buf *out, buf *errors, int *status)
{
    streams t;
    int code = 0;
    if (status) *status = 0;
    if (!s->argv || !s->argv[0]) return err_new(ERR_INPUT, "no program to run was named");
    err bad = streams_open(&t, s) ? OK : err_os("cannot make the pipes to run %s", s->argv[0]);
    double until = deadline_of(s->seconds);
    pid_t parent = getpid(), pid = bad.code ? -1 : fork();
    if (pid == 0) child_exec(s, &t, parent);
    if (pid < 0) {
        if (!bad.code) bad = err_os("cannot start a process for %s", s->argv[0]);
        streams_close(&t);
        return bad;
    }
    setpgid(pid, pid); /* in both, whoever comes first */
    fd_close(&t.in);
    fd_close(&t.out[1]);
    fd_close(&t.errors[1]);
    fd_close(&t.report[1]);
    bad = started(s, t.report[0]);
    if (!bad.code) bad = collect(s, &t, out, errors, until);
    bool in_time = reap(pid, bad.code ? 0 : until, true, &code);
    if (!bad.code && !in_time) bad = err_new(ERR_REMOTE, "%s was stopped after %g s", s->argv[0], s->seconds);
    if (status) *status = WIFSIGNALED(code) ? 128 + WTERMSIG(code) : WEXITSTATUS(code);
    streams_close(&t);
    return bad;
}

/* ---- one of our own functions --------------------------------------------------------------------------------------- */
typedef struct {
    u32 magic;
    i32 code;
    u64 what_len, out_len; /* bytes of message and output that follow */
} answer;
enum { ANSWER_MAGIC = 0x6D617275, WHAT_LEN_MAX = 4096 };

static int allow(scmp_filter_ctx f, const char *call)
{
    int nr = seccomp_syscall_resolve_name(call);
    return nr < 0 ? 0 : seccomp_rule_add(f, SCMP_ACT_ALLOW, nr, 0);
}

static bool confine_calls(int answer_fd)
{
    static const char *const calls[] = {
        "read",
        "readv",
        "pread64",
        "lseek",
        "close",
        "brk",
        "munmap",
        "mremap",
        "madvise",
        "futex",
        "sched_yield",
        "rt_sigreturn",
        "sigreturn",
        "rt_sigaction",
        "rt_sigprocmask",
        "sigaltstack",
        "exit",
        "exit_group",
        "clock_gettime",
        "clock_getres",
        "gettimeofday",
        "time",
        "nanosleep",
        "clock_nanosleep",
        "restart_syscall",
        "getrandom",
        "getpid",
        "gettid",
        "getppid",
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "uname",
        "sysinfo",
        "getrusage",
        "times",
        "getrlimit",
        "sched_getaffinity",
        "getcpu",
        "fstat",
        "fadvise64",
    };
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (!f) return false;
    int bad = 0;
    for (usize i = 0; i < COUNT_OF(calls); i++) bad |= allow(f, calls[i]);
    /* memory that is written is never run */
    bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(write), 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)answer_fd));
    bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(write), 1, SCMP_A0(SCMP_CMP_EQ, STDERR_FILENO));
    /* fstat under its newer name; not the same call with a path */
    bad |=
        seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1, SCMP_A3(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
    bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_GETFL));
    bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1, SCMP_A2(SCMP_CMP_EQ, 0));
    bad |= seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOTTY), SCMP_SYS(ioctl), 0);
    bad |= seccomp_rule_add(f, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 0);
    if (!bad) bad = seccomp_load(f);
    seccomp_release(f);
    return !bad;
}

static usize address_space(void) /* bytes this process has mapped */
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return 0;
    int got = fscanf(f, "%lu", &pages);
    fclose(f);
    return got == 1 ? pages * (usize)sysconf(_SC_PAGESIZE) : 0;
}

static void put_answer(int fd, const void *data, usize n)
{
    const char *p = data;
    while (n) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) _exit(125);
        p += k, n -= (usize)k;
    }
}

static _Noreturn void child_confined(err (*fn)(void *, buf *), void *ctx, double seconds, usize max_memory, int fd, pid_t parent)
{
    buf out = {0};
    child_begin(parent);
    limit(RLIMIT_CORE, 0);
    if (seconds > 0) limit(RLIMIT_CPU, (u64)ceil(fmin(seconds, 1e6)) + 1);
    if (max_memory) mem_cap(mem_now() + max_memory);
    usize mapped = max_memory && !SANITIZED ? address_space() : 0; /* the limit counts what came with the fork */
    if (mapped) limit(RLIMIT_AS, mapped + max_memory);
    err e = confine_calls(fd)
                ? fn(ctx, &out)
                : err_new(ERR_UNSUPPORTED, "this kernel refused the filter (seccomp) under which parsers run; nothing was read");
    if (!e.code) e = buf_error(&out);
    if (e.code == ERR_NOMEM && max_memory && !mem_fail_hit()) /* its own limit, not the machine's: the document's fault */
        e = err_new(ERR_FORMAT, "parser stopped: it wanted more than %zu MB (%s)", max_memory >> 20,
                    e.what ? e.what : "no message");
    usize what_len = e.code && e.what ? strlen(e.what) : 0;
    if (what_len > WHAT_LEN_MAX) what_len = WHAT_LEN_MAX;
    if (e.code) out.n = 0;
    answer a = {ANSWER_MAGIC, e.code, what_len, out.n};
    put_answer(fd, &a, sizeof a);
    put_answer(fd, e.what, what_len);
    put_answer(fd, out.p, out.n);
    _exit(0);
}

typedef enum { GOT_ALL, GOT_END, GOT_LATE } got;
static got get_answer(int fd, void *to, usize n, double until)
{
    char *p = to;
    while (n) {
        struct pollfd one = {fd, POLLIN, 0};
        int k = poll(&one, 1, poll_ms(until));
        if (k < 0 && errno != EINTR) return GOT_END;
        if (k > 0) {
            ssize_t r = read(fd, p, n);
            if (r == 0 || (r < 0 && errno != EINTR)) return GOT_END;
            if (r > 0) p += r, n -= (usize)r;
        }
        if (n && clock_s() >= until) return GOT_LATE;
    }
    return GOT_ALL;
}

/* What the child said; `how` tells whether it said all of it. */
static err read_answer(int fd, usize most, double until, buf *out, got *how)
{
    answer a;
    char what[WHAT_LEN_MAX + 1];
    *how = get_answer(fd, &a, sizeof a, until);
    if (*how != GOT_ALL) return OK;
    if (a.magic != ANSWER_MAGIC || a.code < 0 || a.code >= ERR_CODE_COUNT || a.what_len > WHAT_LEN_MAX || (a.code && a.out_len))
        return err_new(ERR_FORMAT, "parser stopped: its answer makes no sense");
    if (a.out_len > most)
        return err_new(ERR_FORMAT, "parser stopped: it gave %llu bytes; %zu are taken", (unsigned long long)a.out_len, most);
    *how = get_answer(fd, what, a.what_len, until);
    what[*how == GOT_ALL ? a.what_len : 0] = 0;
    if (a.code) return err_new((err_code)a.code, "%s", what);
    if (*how != GOT_ALL) return OK;
    if (!buf_reserve(out, a.out_len)) return buf_error(out);
    *how = get_answer(fd, out->p + out->n, a.out_len, until);
    if (*how == GOT_ALL) out->n += a.out_len;
    out->p[out->n] = 0;
    return OK;
}

static err describe_end(int status, bool late, double seconds)
{
    if (late || (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU))
        return err_new(ERR_FORMAT, "parser stopped: it took more than %g s", seconds);
    if (WIFEXITED(status))
        return err_new(ERR_FORMAT, "parser stopped: it ended with exit status %d and no answer", WEXITSTATUS(status));
    const char *name = sigdescr_np(WTERMSIG(status));
    return err_new(ERR_FORMAT, "parser stopped: %s (signal %d)", name ? name : "killed", WTERMSIG(status));
}

err proc_confine(err (*fn)(void *ctx, buf *out), void *ctx, double seconds, usize max_memory, buf *out)
{
    int p[2], status;
    if (!pipe_new(p)) {
        err bad = err_os("cannot make a pipe for a parser");
        fd_close(&p[0]);
        fd_close(&p[1]);
        return bad;
    }
    double until = deadline_of(seconds);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) child_confined(fn, ctx, seconds, max_memory, p[1], parent);
    err bad = pid < 0 ? err_os("cannot start a process for a parser") : OK;
    fd_close(&p[1]);
    if (pid > 0) {
        got how;
        bad = read_answer(p[0], max_memory ? max_memory : OUTPUT_MAX, until, out, &how);
        /* without an answer the reason is how it ended, which comes within moments of the closed pipe */
        bool in_time = reap(pid, bad.code || how != GOT_END ? 0 : fmin(until, clock_s() + 5), false, &status);
        if (!bad.code && how != GOT_ALL) bad = describe_end(status, how == GOT_LATE || !in_time, seconds);
    }
    fd_close(&p[0]);
    return bad;
}
