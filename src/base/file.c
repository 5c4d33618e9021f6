/* base/file.c - mapping, reading, atomic replacement, walking, locking.
 *
 * A new file is written where nobody sees it and gets its name when it is whole and on the disk. Where the file system can
 * (O_TMPFILE) it has no name at all until then, so that a kill -9 leaves nothing behind; elsewhere it is a hidden file beside
 * the target. Links are followed, never replaced; devices and pipes are refused, because a rename would put a file in their
 * place. */
#include "base/inside.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- reading -------------------------------------------------------------------------------------------------------- */
err file_map_open(file_map *f, const char *path)
{
    *f = (file_map){.fd = -1};
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not hold us up before it is refused */
    if (fd < 0) return err_os("cannot open %s", path);
    err bad = OK;
    if (fstat(fd, &st) < 0)
        bad = err_os("cannot stat %s", path);
    else if (!S_ISREG(st.st_mode))
        bad = err_new(ERR_INPUT, "%s is %s, not a file", path, S_ISDIR(st.st_mode) ? "a folder" : "a device or pipe");
    else if (st.st_size == 0)
        f->p = (const u8 *)"";
    else {
        void *p = mmap(NULL, (usize)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED)
            bad = err_os("cannot map %s (%lld bytes)", path, (long long)st.st_size);
        else
            *f = (file_map){p, (usize)st.st_size, -1};
    }
    if (bad.code)
        close(fd);
    else
        f->fd = fd;
    return bad;
}

void file_map_close(file_map *f)
{
    if (!f || !f->p) return;
    if (f->n) munmap((void *)(uintptr_t)f->p, f->n);
    close(f->fd);
    *f = (file_map){.fd = -1};
}

err file_read(buf *out, const char *path, usize limit)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_os("cannot open %s", path);
    err bad = OK;
    usize got = 0;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0) {
        if (limit && (usize)st.st_size > limit) {
            bad = err_new(ERR_FORMAT, "%s has %lld bytes; at most %zu are read", path, (long long)st.st_size, limit);
            goto end;
        }
        buf_reserve(out, (usize)st.st_size + 1);
    }
    for (;;) {
        if (out->cap - out->n < 2 && !buf_reserve(out, 64 << 10)) break;
        if (!buf_reserve(out, 1)) break;
        ssize_t k = read(fd, out->p + out->n, out->cap - out->n - 1);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            bad = err_os("cannot read %s", path);
            goto end;
        }
        if (k == 0) break;
        out->n += (usize)k, got += (usize)k;
        out->p[out->n] = 0;
        if (limit && got > limit) {
            bad = err_new(ERR_FORMAT, "%s has more than the %zu bytes that are read", path, limit);
            goto end;
        }
    }
    bad = err_at(buf_error(out), "reading %s", path);
end:
    close(fd);
    return bad;
}

/* ---- atomic writing ------------------------------------------------------------------------------------------------- */
enum { WRITE_BUFFER = 256 << 10, SEND_AT = 8 << 20 };
struct file_writer {
    char *path, *folder, *temp; /* temp NULL: the file has no name yet */
    char *held;
    usize n_held, unsent; /* unsent: written, but the kernel was not told to begin with it */
    mode_t mode; /* of the file it replaces; 0: new */
    int fd;
    bool failed;
};

static bool write_all(int fd, const char *p, usize n)
{
    while (n) {
        ssize_t k = write(fd, p, n < (1u << 30) ? n : 1u << 30);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return false;
        p += k, n -= (usize)k;
    }
    return true;
}

/* "folder/.name.tmp-0123456789abcdef": hidden, so that file_walk does not take it for a document */
static bool temp_name(file_writer *w)
{
    const char *base = strrchr(w->path, '/');
    base = base ? base + 1 : w->path;
    mem_free(w->temp);
    buf b = {0};
    buf_fmt(&b, "%s/.%.200s.tmp-%016llx", w->folder, base, (unsigned long long)random_u64());
    w->temp = buf_take(&b);
    return w->temp != NULL;
}

static err open_temp(file_writer *w)
{
    char self[40];
    w->fd = open(w->folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    if (w->fd >= 0) {
        snprintf(self, sizeof self, "/proc/self/fd/%d", w->fd);
        if (access(self, F_OK) == 0) return OK; /* linkat will need it */
        close(w->fd);
        w->fd = -1;
    }
    for (int attempt = 0; attempt < 8; attempt++) {
        if (!temp_name(w)) return err_new(ERR_NOMEM, "out of memory");
        w->fd = open(w->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (w->fd >= 0) return OK;
        if (errno != EEXIST) break;
    }
    err bad = err_os("cannot make a file in %s", w->folder);
    mem_free(w->temp);
    w->temp = NULL;
    return bad;
}

/* Where the bytes will go: links resolved, folder split off, what is there looked at. */
static err find_target(file_writer *w, const char *path)
{
    struct stat st;
    char *real = NULL;
    if (!path[0]) return err_new(ERR_INPUT, "the name of the file to write is empty");
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && !(real = realpath(path, NULL)))
        return err_os("cannot follow the link %s", path); /* to nothing, or in a circle */
    w->path = mem_strdup(real ? real : path);
    free(real); /* the C library's */
    if (!w->path) return err_new(ERR_NOMEM, "out of memory");
    const char *slash = strrchr(w->path, '/');
    w->folder = !slash ? mem_strdup(".") : mem_strndup(w->path, slash == w->path ? 1 : (usize)(slash - w->path));
    if (!w->folder) return err_new(ERR_NOMEM, "out of memory");
    if (slash && !slash[1]) return err_new(ERR_INPUT, "%s names a folder; a file was expected", path);
    if (stat(w->path, &st) == 0) {
        if (!S_ISREG(st.st_mode))
            return err_new(ERR_INPUT, "%s is %s; only a file can be replaced", path,
                           S_ISDIR(st.st_mode) ? "a folder" : "a device or pipe");
        w->mode = st.st_mode & 0777;
    }
    return OK;
}

err file_writer_open(file_writer **out, const char *path)
{
    *out = NULL;
    file_writer *w = mem_zero(sizeof *w);
    if (!w) return err_new(ERR_NOMEM, "out of memory");
    w->fd = -1;
    err bad = OK;
    TRY_TO(fail, find_target(w, path));
    w->held = mem_alloc(WRITE_BUFFER);
    if (!w->held) TRY_TO(fail, err_new(ERR_NOMEM, "out of memory"));
    TRY_TO(fail, open_temp(w));
    *out = w;
    return OK;
fail:
    file_writer_drop(w);
    return bad;
}

static err writer_flush(file_writer *w, const char *more, usize n)
{
    if (write_all(w->fd, w->held, w->n_held) && write_all(w->fd, more, n)) {
        w->unsent += w->n_held + n, w->n_held = 0;
        if (w->unsent >= SEND_AT) { /* a large file goes to the disk while it is made, and the sync of its end is short */
            (void)sync_file_range(w->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
            w->unsent = 0;
        }
        return OK;
    }
    w->failed = true;
    return err_os("cannot write %s", w->path);
}

err file_writer_put(file_writer *w, const void *p, usize n)
{
    if (w->failed) return err_new(ERR_IO, "an earlier write of %s failed", w->path);
    if (n > WRITE_BUFFER - w->n_held) return writer_flush(w, p, n);
    if (n) memcpy(w->held + w->n_held, p, n);
    w->n_held += n;
    return OK;
}

static err sync_folder(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return err_os("cannot open the folder %s", folder);
    bool good = fsync(fd) == 0 || errno == EINVAL || errno == EROFS || errno == ENOTSUP; /* not every file system can */
    err bad = good ? OK : err_os("cannot sync the folder %s", folder);
    close(fd);
    return bad;
}

static err writer_publish(file_writer *w)
{
    TRY(w->failed ? err_new(ERR_IO, "an earlier write of %s failed", w->path) : OK);
    TRY(writer_flush(w, NULL, 0));
    if (w->mode && fchmod(w->fd, w->mode) < 0) return err_os("cannot set the mode of %s", w->path);
    if (fsync(w->fd) < 0) return err_os("cannot sync %s", w->path);
    if (!w->temp) {
        char self[40];
        snprintf(self, sizeof self, "/proc/self/fd/%d", w->fd);
        if (!temp_name(w)) return err_new(ERR_NOMEM, "out of memory");
        if (linkat(AT_FDCWD, self, AT_FDCWD, w->temp, AT_SYMLINK_FOLLOW) < 0) {
            err bad = err_os("cannot name the new %s", w->path);
            mem_free(w->temp);
            w->temp = NULL;
            return bad;
        }
    }
    if (rename(w->temp, w->path) < 0) return err_os("cannot rename %s to %s", w->temp, w->path);
    mem_free(w->temp);
    w->temp = NULL;
    return sync_folder(w->folder);
}

err file_writer_commit(file_writer *w)
{
    err bad = writer_publish(w);
    file_writer_drop(w);
    return bad;
}

void file_writer_drop(file_writer *w)
{
    if (!w) return;
    if (w->fd >= 0) close(w->fd);
    if (w->temp) unlink(w->temp);
    mem_free(w->temp);
    mem_free(w->held);
    mem_free(w->folder);
    mem_free(w->path);
    mem_free(w);
}

err file_replace(const char *path, const void *p, usize n)
{
    file_writer *w;
    TRY(file_writer_open(&w, path));
    err bad = file_writer_put(w, p, n);
    if (!bad.code) return file_writer_commit(w);
    file_writer_drop(w);
    return bad;
}

/* ---- folders -------------------------------------------------------------------------------------------------------- */
err file_mkdirs(const char *path)
{
    if (!path[0]) return err_new(ERR_INPUT, "the name of the folder to make is empty");
    if (file_is_dir(path)) return OK;
    char *p = mem_strdup(path);
    if (!p) return err_new(ERR_NOMEM, "out of memory");
    err bad = OK;
    for (char *c = p + 1;; c++) {
        if (*c != '/' && *c) continue;
        char was = *c;
        *c = 0;
        if (mkdir(p, 0700) < 0 && !file_is_dir(p)) {
            bad = errno == EEXIST ? err_new(ERR_IO, "%s is a file; a folder was expected", p)
                                  : err_os("cannot make the folder %s", p);
            break;
        }
        *c = was;
        if (!was) break;
    }
    mem_free(p);
    return bad;
}

bool file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool file_is_dir(const char *path)
{
    struct stat st;
    int saved = errno;
    bool yes = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    errno = saved;
    return yes;
}

err file_size(const char *path, i64 *bytes)
{
    struct stat st;
    *bytes = 0;
    if (stat(path, &st) < 0) return err_os("cannot stat %s", path);
    if (!S_ISREG(st.st_mode)) return err_new(ERR_INPUT, "%s is not a file", path);
    *bytes = st.st_size;
    return OK;
}

typedef struct {
    char **p;
    usize n, cap;
} names;

static void names_free(names *v)
{
    for (usize i = 0; i < v->n; i++) mem_free(v->p[i]);
    mem_free(v->p);
    *v = (names){0};
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static err read_names(const char *folder, names *v)
{
    DIR *d = opendir(folder);
    if (!d) return err_os("cannot open the folder %s", folder);
    err bad = OK;
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(d);
        if (!e) {
            if (errno) bad = err_os("cannot read the folder %s", folder);
            break;
        }
        if (e->d_name[0] == '.') continue;
        char *copy = mem_strdup(e->d_name);
        if (!copy || !VEC_PUSH(v->p, v->n, v->cap, copy)) {
            mem_free(copy);
            bad = err_new(ERR_NOMEM, "out of memory while reading the folder %s", folder);
            break;
        }
    }
    closedir(d);
    if (v->n > 1) qsort(v->p, v->n, sizeof *v->p, by_bytes);
    return bad;
}

typedef struct {
    buf path;
    err (*each)(void *ctx, const char *path);
    void *ctx;
    char *unread; /* why the first folder that could not be read could not */
    int unread_code;
} walker;
enum { DEPTH_MAX = 256 };

/* A folder below that cannot be read does not keep the others from being walked, but it is not kept quiet either. */
static err walk_without(walker *w, err why)
{
    if (why.code == ERR_NOMEM) return why;
    if (why.code == ERR_NOTFOUND || w->unread) return OK; /* gone since it was listed, like a file that is */
    w->unread = mem_strdup(why.what);
    w->unread_code = why.code;
    return w->unread ? OK : err_new(ERR_NOMEM, "out of memory");
}

static err walk_folder(walker *w, int depth)
{
    names v = {0};
    buf *path = &w->path;
    usize base = path->n;
    err bad = depth > DEPTH_MAX ? err_new(ERR_INPUT, "%s: folders are nested more than %d deep", path->p, DEPTH_MAX)
                                : read_names(path->p, &v);
    if (bad.code && depth) bad = walk_without(w, bad);
    if (bad.code) goto end;
    for (usize i = 0; i < v.n; i++) {
        struct stat st;
        path->n = base;
        if (path->p[base - 1] != '/') buf_byte(path, '/');
        buf_puts(path, v.p[i]);
        TRY_TO(end, buf_error(path));
        if (lstat(path->p, &st) < 0) continue; /* gone since it was listed */
        if (S_ISDIR(st.st_mode)) {
            TRY_TO(end, walk_folder(w, depth + 1));
            continue;
        }
        if (S_ISLNK(st.st_mode) && stat(path->p, &st) < 0) continue;
        if (S_ISREG(st.st_mode)) TRY_TO(end, w->each(w->ctx, path->p));
    }
end:
    if (!path->bad) {
        path->n = base;
        path->p[base] = 0;
    }
    names_free(&v);
    return bad;
}

err file_walk(const char *path, err (*each)(void *ctx, const char *path), void *ctx)
{
    struct stat st;
    if (!path[0]) return err_new(ERR_INPUT, "the name of the file or folder is empty");
    if (stat(path, &st) < 0) return err_os("cannot open %s", path);
    if (S_ISREG(st.st_mode)) return each(ctx, path);
    if (!S_ISDIR(st.st_mode)) return err_new(ERR_INPUT, "%s is neither a file nor a folder", path);
    walker w = {.each = each, .ctx = ctx};
    buf_puts(&w.path, path);
    err bad = buf_error(&w.path);
    if (!bad.code) bad = walk_folder(&w, 0);
    if (!bad.code && w.unread) bad = err_new((err_code)w.unread_code, "%s", w.unread);
    mem_free(w.unread);
    buf_free(&w.path);
    return bad;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    return remove(path) < 0 && errno != ENOENT ? -1 : 0;
}

err file_remove_tree(const char *path)
{
    struct stat st;
    if (lstat(path, &st) < 0) return errno == ENOENT || errno == ENOTDIR ? OK : err_os("cannot stat %s", path);
    if (nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT) return err_os("cannot remove %s", path);
    return OK;
}

/* ---- locks ---------------------------------------------------------------------------------------------------------- */
err file_lock(const char *path, bool wait, int *fd)
{
    *fd = -1;
    int f = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (f < 0) return err_os("cannot open the lock %s", path);
    for (;;) {
        if (flock(f, LOCK_EX | (wait ? 0 : LOCK_NB)) == 0) {
            *fd = f;
            return OK;
        }
        if (errno != EINTR) break;
    }
    err bad = errno == EWOULDBLOCK ? err_new(ERR_BUSY, "%s is locked by another process or thread", path)
                                   : err_os("cannot lock %s", path);
    close(f);
    return bad;
}

void file_unlock(int fd)
{
    if (fd >= 0) close(fd);
}
