/* base/err.c - errors as values: a code and this thread's last message.
 *
 * The message lives in a fixed thread-local buffer, so that making an error never allocates: running out of memory can be
 * reported, and nobody frees messages. Two buffers take turns, because a new message is often made from the one before.
 * It keeps no stack of causes: err_at puts the context in front, which is what a person reads. */
#include "base/base.h"
#include <errno.h>

enum { WHAT_MAX = 2048 };
static _Thread_local char what_buf[2][WHAT_MAX];
static _Thread_local int what_turn;

static const struct {
    const char *name;
    int http, exit;
} rows[ERR_CODE_COUNT] = {{"OK", 200, 0},
#define X(name, http, exit) {#name, http, exit},
                          ERR_TABLE(X)
#undef X
};

/* A cut message must not end inside a character: it is printed, and put into JSON. */
static void cut_whole(char *s, usize n) { s[utf8_complete((str){s, n})] = 0; }

static err make(err_code code, const char *fmt, va_list ap, const char *tail)
{
    char *to = what_buf[what_turn ^= 1];
    int n = vsnprintf(to, WHAT_MAX, fmt, ap);
    usize used = n < 0 ? 0 : (usize)n;
    if (n < 0) to[0] = 0;
    if (used < WHAT_MAX && tail) {
        n = snprintf(to + used, WHAT_MAX - used, ": %s", tail);
        used += n < 0 ? 0 : (usize)n;
    }
    if (used >= WHAT_MAX) cut_whole(to, WHAT_MAX - 1);
    return (err){code, to};
}

err err_new(err_code code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    err e = make(code, fmt, ap, NULL);
    va_end(ap);
    return e;
}

err err_at(err e, const char *fmt, ...)
{
    if (!e.code) return e;
    va_list ap;
    va_start(ap, fmt);
    e = make((err_code)e.code, fmt, ap, e.what ? e.what : err_name(e.code));
    va_end(ap);
    return e;
}

err err_os(const char *fmt, ...)
{
    int saved = errno;
    char why[128];
    const char *said = strerror_r(saved, why, sizeof why);
    va_list ap;
    va_start(ap, fmt);
    err e = make(saved == ENOMEM ? ERR_NOMEM : saved == ENOENT ? ERR_NOTFOUND : ERR_IO, fmt, ap, said);
    va_end(ap);
    errno = saved;
    return e;
}

const char *err_name(int code) { return code >= 0 && code < ERR_CODE_COUNT ? rows[code].name : "BUG"; }

int err_http(int code) { return code >= 0 && code < ERR_CODE_COUNT ? rows[code].http : 500; }

int err_exit(int code) { return code >= 0 && code < ERR_CODE_COUNT ? rows[code].exit : 10; }
