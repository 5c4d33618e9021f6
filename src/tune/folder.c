/* tune/folder.c - the folder of a run: what it holds already, who may write to it, and how an artifact gets into it. One process at a time
 * (a lock that dies with it); an artifact is written aside and moved in when it is whole, so that a full disk or a crash leaves the one
 * that was there. Not here: the state (checkpoint.c) and the log (log.c). */
#include "tune/inside.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static const char *const parts[] = {"adapter_model.safetensors", "maru.json", "adapter_config.json"}; /* the configuration last */
static const char aside[] = ".artifact", lock_name[] = ".lock";

static err path_in(buf *b, const char *folder, const char *name)
{
    buf_reset(b);
    buf_fmt(b, "%s/%s", folder, name);
    return buf_error(b);
}

static err has(const char *folder, const char *name, bool *yes)
{
    buf b = {0};
    err bad = path_in(&b, folder, name);
    *yes = !bad.code && file_exists(buf_cstr(&b));
    buf_free(&b);
    return bad;
}

err folder_check(const char *out, const train_opts *o, bool *have_state)
{
    bool state, log, artifact;
    TRY(has(out, "state.safetensors", &state));
    TRY(has(out, "log.jsonl", &log));
    TRY(has(out, parts[0], &artifact));
    *have_state = state && !o->force;
    if (o->force || !(state || log || artifact)) return OK;
    if (!o->resume)
        return err_new(ERR_INPUT, "%s already holds %s: --resume goes on with it, --force begins anew and takes its place, or write elsewhere", out, state || log ? "a run" : "an adapter");
    if (!state && !log) return err_new(ERR_INPUT, "%s holds an adapter, but neither state nor log of a run: there is nothing to resume, --force takes its place", out);
    return OK;
}

/* ".state.safetensors.tmp-0123456789abcdef": a file that was being written when its process was killed */
static bool is_leftover(const char *name)
{
    const char *at = strstr(name, ".tmp-");
    return name[0] == '.' && at && strlen(at + 5) == 16 && strspn(at + 5, "0123456789abcdef") == 16;
}

static err sweep(const char *out)
{
    buf b = {0};
    err bad = path_in(&b, out, aside);
    if (!bad.code) bad = file_remove_tree(buf_cstr(&b));
    DIR *d = bad.code ? NULL : opendir(out);
    if (!bad.code && !d) bad = err_os("cannot open the folder %s", out);
    for (struct dirent *e; d && !bad.code && (e = readdir(d));) {
        if (!is_leftover(e->d_name)) continue;
        bad = path_in(&b, out, e->d_name);
        if (!bad.code && unlink(buf_cstr(&b)) < 0 && errno != ENOENT) bad = err_os("cannot remove %s", buf_cstr(&b));
    }
    if (d) closedir(d);
    buf_free(&b);
    return bad;
}

err folder_take(const char *out, const train_opts *o, int *lock, bool *have_state)
{
    buf b = {0};
    *lock = -1;
    err bad = file_mkdirs(out);
    if (!bad.code) bad = path_in(&b, out, lock_name);
    if (!bad.code) bad = file_lock(buf_cstr(&b), false, lock);
    if (bad.code == ERR_BUSY) bad = err_new(ERR_BUSY, "another process is training in %s", out);
    if (!bad.code) bad = folder_check(out, o, have_state); /* again: somebody may have been here since */
    if (!bad.code) bad = sweep(out);
    if (!bad.code && o->force) {
        bad = path_in(&b, out, "state.safetensors");
        if (!bad.code) bad = file_remove_tree(buf_cstr(&b));
    }
    if (bad.code) file_unlock(*lock), *lock = -1;
    buf_free(&b);
    return bad;
}

/* ---- the artifact ---- */

static err move_in(const char *from, const char *out)
{
    buf a = {0}, b = {0};
    err bad = OK;
    for (usize i = COUNT_OF(parts); i-- > 0 && !bad.code;) { /* a configuration of another way would say what these are not */
        bad = path_in(&a, from, parts[i]);
        if (!bad.code) bad = path_in(&b, out, parts[i]);
        if (!bad.code && !file_exists(buf_cstr(&a))) bad = file_remove_tree(buf_cstr(&b));
    }
    for (usize i = 0; i < COUNT_OF(parts) && !bad.code; i++) {
        bad = path_in(&a, from, parts[i]);
        if (!bad.code) bad = path_in(&b, out, parts[i]);
        if (!bad.code && file_exists(buf_cstr(&a)) && rename(buf_cstr(&a), buf_cstr(&b)) < 0) bad = err_os("cannot move %s to %s", buf_cstr(&a), buf_cstr(&b));
    }
    int fd = bad.code ? -1 : open(out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) (void)!fsync(fd), close(fd);
    buf_free(&a), buf_free(&b);
    return bad;
}

err folder_publish(const adapter_file *a, const char *out, const model *m)
{
    buf from = {0};
    err bad = path_in(&from, out, aside);
    if (!bad.code) bad = adapter_save(a, buf_cstr(&from), m);
    if (!bad.code) bad = move_in(buf_cstr(&from), out);
    if (from.n && !from.bad) (void)file_remove_tree(buf_cstr(&from)).code;
    buf_free(&from);
    return bad;
}
