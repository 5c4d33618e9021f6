/* model/installed.c - which models this machine has, and what a MODEL argument means.
 *
 * A path wins over an installed name, so that what stands on the command line is what the shell would complete. Names are
 * looked up in one folder only; nothing is fetched and nothing is guessed. Hidden files there are pulls under way. */
#include "model/pull_inside.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

/* A name, not a path: it must not lead out of the folder. */
static bool is_name(const char *s) { return s[0] && s[0] != '.' && !strchr(s, '/') && strlen(s) < 200; }

static bool is_model_folder(const char *path)
{
    char *config = path_join(path, "config.json");
    bool yes = config && file_is_dir(path) && file_exists(config);
    mem_free(config);
    return yes;
}

static bool try_installed(char **path, const char *folder, const char *name, const char *suffix)
{
    char *at = path_join(folder, "%s%s", name, suffix);
    bool there = at && (file_is_dir(at) ? is_model_folder(at) : file_exists(at));
    if (there)
        *path = at;
    else
        mem_free(at);
    return there;
}

err model_resolve(char **path, const char *model)
{
    char *folder;
    *path = NULL;
    if (!model[0]) return err_new(ERR_INPUT, "%s", L("MODEL이 비어 있습니다", "MODEL is empty"));
    if (file_exists(model) || file_is_dir(model)) {
        *path = mem_strdup(model);
        return *path ? OK : err_new(ERR_NOMEM, "%s: no memory for its path", model);
    }
    TRY(home_path(&folder, "models"));
    bool there = is_name(model) && (try_installed(path, folder, model, ".gguf") || try_installed(path, folder, model, ""));
    mem_free(folder);
    if (there) return OK;
    if (catalogue_find(model))
        return err_new(
            ERR_NOTFOUND,
            L("%s 모델이 아직 없습니다. `maru pull %s`로 받으세요", "model %s is not here yet: `maru pull %s` fetches it"), model,
            model);
    return err_new(ERR_NOTFOUND,
                   L("%s: 그런 파일이나 설치된 모델이 없습니다. `maru models`가 목록을 보여 주고, `maru pull NAME`이 받습니다",
                     "%s: no such file and no installed model: `maru models` lists them, `maru pull NAME` fetches one"),
                   model);
}

static err add_bytes(void *ctx, const char *path)
{
    i64 n;
    TRY(file_size(path, &n));
    *(i64 *)ctx += n;
    return OK;
}

static err describe(arena *a, const char *path, const char *base, installed_model *m)
{
    const model_entry *e;
    usize n = strlen(base);
    *m = (installed_model){.path = arena_str(a, path, strlen(path))};
    if (file_is_dir(path))
        TRY(file_walk(path, add_bytes, &m->bytes));
    else
        TRY(file_size(path, &m->bytes));
    for (usize i = 0; (e = catalogue_at(i)) && !m->entry; i++)
        if (!strcmp(e->file, base) && e->bytes == m->bytes) m->entry = e;
    if (str_ends(str_of(base), S(".gguf"))) n -= 5;
    m->name = arena_str(a, base, n);
    return m->name && m->path ? OK : err_new(ERR_NOMEM, "no memory for the list of models");
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const installed_model *)a)->name, ((const installed_model *)b)->name);
}

err models_installed(arena *a, installed_model **out, usize *n)
{
    installed_model *all = NULL;
    usize count = 0, cap = 0;
    char *folder;
    *out = NULL;
    *n = 0;
    TRY(home_path(&folder, "models"));
    DIR *d = opendir(folder);
    err bad = !d && errno != ENOENT ? err_os("cannot read %s", folder) : OK;
    for (struct dirent *x; d && !bad.code && (x = readdir(d));) {
        installed_model m;
        char *path = x->d_name[0] == '.' ? NULL : path_join(folder, "%s", x->d_name);
        bool gguf = path && str_ends(str_of(x->d_name), S(".gguf")) && strlen(x->d_name) > 5 && !file_is_dir(path);
        if (gguf || (path && is_model_folder(path))) {
            err unknown = describe(a, path, x->d_name, &m);
            if (unknown.code == ERR_NOMEM) bad = unknown;
            if (unknown.code) { /* a link to nothing, a pipe, somebody else's folder: the others are still there */
                log_line(LOG_WARN, "%s", unknown.what);
                mem_free(path);
                continue;
            }
            if (!bad.code && !VEC_PUSH(all, count, cap, m)) bad = err_new(ERR_NOMEM, "no memory for the list of models");
        }
        mem_free(path);
    }
    if (d) closedir(d);
    if (!bad.code && count) {
        qsort(all, count, sizeof *all, by_name);
        *out = arena_take(a, count * sizeof *all);
        if (*out)
            memcpy(*out, all, count * sizeof *all), *n = count;
        else
            bad = err_new(ERR_NOMEM, "no memory for the list of models");
    }
    mem_free(all);
    mem_free(folder);
    return bad;
}
