/* model/pull_tools.c - what fetching is made of: hashing and copying with a bar, durable renames, child programs watched.
 *
 * pip and curl run as children: both know proxies, certificates and resuming better than a copy of their work would, and both
 * are there wherever this is of use. How far a child is shows in what it has written, so a thread looks there. */
#include "model/pull_inside.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 1 << 20 };

char *path_join(const char *folder, const char *fmt, ...)
{
    buf b = {0};
    char name[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    buf_puts(&b, folder);
    buf_byte(&b, '/');
    buf_puts(&b, name);
    if (n < 0 || n >= (int)sizeof name) b.bad = true; /* longer than any file system takes */
    char *path = buf_take(&b);
    buf_free(&b);
    return path;
}

/* ---- files ------------------------------------------------------------------------------------------------------------- */
/* Everything of m into the hash, and into w unless that is NULL. It is read, not looked at in place: the file may be somebody's
 * who cuts it short meanwhile, and a map of what is gone is a fault. */
static err pour(const file_map *m, const char *path, file_writer *w, sha256_stream *h, progress *p)
{
    u8 *piece = mem_alloc(PIECE);
    err bad = piece ? OK : err_new(ERR_NOMEM, "%s: no memory to read it", path);
    for (usize at = 0; at < m->n && !bad.code;) {
        ssize_t n = pread(m->fd, piece, m->n - at < PIECE ? m->n - at : PIECE, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            bad = err_os("cannot read %s", path);
        else if (n == 0)
            bad = err_new(ERR_IO, "%s: it had %zu bytes and has %zu now: it is being written", path, m->n, at);
        else {
            sha256_feed(h, piece, (usize)n);
            if (w) bad = file_writer_put(w, piece, (usize)n);
            at += (usize)n;
            if (p) progress_step(p, (i64)at);
        }
    }
    mem_free(piece);
    return bad;
}

err hash_file(const char *path, char hex[65], i64 *bytes, progress *p)
{
    file_map m;
    hex[0] = 0;
    TRY(file_map_open(&m, path));
    sha256_stream *h = sha256_begin();
    err bad = h ? pour(&m, path, NULL, h, p) : err_new(ERR_NOMEM, "%s: no memory to hash it", path);
    if (h) sha256_hex(sha256_end(h), hex);
    *bytes = (i64)m.n;
    file_map_close(&m);
    return bad;
}

err copy_file(const char *from, const char *to, const char *want, char hex[65], progress *p)
{
    file_map m;
    file_writer *w = NULL;
    hex[0] = 0;
    TRY(file_map_open(&m, from));
    sha256_stream *h = sha256_begin();
    err bad = h ? file_writer_open(&w, to) : err_new(ERR_NOMEM, "%s: no memory to hash it", from);
    if (!bad.code) bad = pour(&m, from, w, h, p);
    if (h) sha256_hex(sha256_end(h), hex);
    if (!bad.code && want && strcmp(want, hex)) bad = err_new(ERR_FORMAT, "%s: sha256 is %s, expected %s", from, hex, want);
    if (bad.code)
        file_writer_drop(w);
    else
        bad = file_writer_commit(w);
    file_map_close(&m);
    return bad;
}

static err sync_path(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_os("cannot open %s", path);
    err bad = fsync(fd) < 0 ? err_os("cannot write %s to the disk", path) : OK;
    close(fd);
    return bad;
}

err move_file(const char *from, const char *to)
{
    TRY(sync_path(from));
    if (rename(from, to) < 0) return err_os("cannot rename %s to %s", from, to);
    char *folder = mem_strndup(to, (usize)(strrchr(to, '/') - to));
    if (!folder) return err_new(ERR_NOMEM, "%s: no memory for its path", to);
    err bad = sync_path(folder);
    mem_free(folder);
    return bad;
}

err remove_after(const char *folder, err bad)
{
    char why[2048];
    snprintf(why, sizeof why, "%s", bad.code ? bad.what : "");
    err removed = file_remove_tree(folder); /* may have made an error of its own on the way */
    return bad.code ? err_new((err_code)bad.code, "%s", why) : removed;
}

/* ---- children ---------------------------------------------------------------------------------------------------------- */
struct watch {
    pthread_t thread;
    atomic_bool stop;
    progress *bar;
    char *path;
    i64 already, grown, most; /* most: a finished file is moved away, and the bar must not fall back */
};

static err add_size(void *ctx, const char *path)
{
    i64 bytes;
    if (!file_size(path, &bytes).code) ((watch *)ctx)->grown += bytes; /* it may just have been renamed: never mind */
    return OK;
}

static void *look(void *ctx)
{
    watch *w = ctx;
    while (!atomic_load(&w->stop)) {
        w->grown = 0;
        (void)file_walk(w->path, add_size, w);
        w->most = i64_max(w->most, w->grown);
        progress_step(w->bar, w->already + w->most);
        nanosleep(&(struct timespec){.tv_nsec = 200 * 1000 * 1000}, NULL);
    }
    return NULL;
}

watch *watch_start(progress *bar, const char *path, i64 already)
{
    if (!bar || !bar->on) return NULL;
    watch *w = mem_zero(sizeof *w);
    if (!w) return NULL;
    w->bar = bar;
    w->already = already;
    w->path = mem_strdup(path);
    if (w->path && pthread_create(&w->thread, NULL, look, w) == 0) return w;
    mem_free(w->path);
    mem_free(w);
    return NULL;
}

void watch_end(watch *w)
{
    if (!w) return;
    atomic_store(&w->stop, true);
    pthread_join(w->thread, NULL);
    mem_free(w->path);
    mem_free(w);
}

err run_tool(const char *const *argv, bool no_network, buf *errors, int *status)
{
    buf out = {0};
    buf_reset(errors);
    err bad = proc_run(&(proc_spec){.argv = argv, .max_output = 1 << 20, .no_network = no_network}, &out, errors, status);
    buf_free(&out);
    return bad;
}

str last_error_line(str s)
{
    str last = S("it gave no reason"), marked = {NULL, 0};
    for (usize at = 0; at < s.n;) {
        i64 end = str_find(s, S("\n"), at);
        str line = str_trim((str){s.p + at, (end < 0 ? s.n : (usize)end) - at});
        if (line.n) last = line;
        if (str_starts(line, S("ERROR"))) marked = line;
        at = end < 0 ? s.n : (usize)end + 1;
    }
    if (marked.n) last = marked;
    if (last.n > 300) last.n = utf8_complete((str){last.p, 300});
    return last;
}
