/* model/pull_folder.c - catalogue rows that are Hugging Face folders: every file is believed by its own sha256, and the folder gets its
 * name when all of them are in it. */
#include "model/pull_inside.h"

bool folder_is_entry(const char *path, const model_entry *e, progress *bar)
{
    bool same = file_is_dir(path);
    for (const model_member *m = e->members; same && m->path; m++) {
        char *at = path_join(path, "%s", m->path), hex[65];
        i64 bytes;
        same = at && file_exists(at) && !file_is_dir(at) && !hash_file(at, hex, &bytes, bar).code && !strcmp(hex, m->sha256);
        mem_free(at);
    }
    return same;
}

static err place(const model_member *m, const char *from, const char *made, progress *bar)
{
    char *to = path_join(made, "%s", m->path), *slash = to ? strrchr(to, '/') : NULL, hex[65];
    err bad = to ? OK : err_new(ERR_NOMEM, "%s: no memory to fetch it", m->path);
    if (!bad.code) {
        *slash = 0;
        bad = file_mkdirs(to);
        *slash = '/';
    }
    if (!bad.code) bad = copy_file(from, to, m->sha256, hex, bar);
    mem_free(to);
    return err_at(bad, "%s", m->path);
}

err folder_install(const model_entry *e, char *const *source, const char *partial, const char *final, progress *bar)
{
    char *made = path_join(partial, "made");
    err bad = made ? file_remove_tree(made) : err_new(ERR_NOMEM, "%s: no memory to fetch it", e->name);
    if (!bad.code) bad = file_mkdirs(made);
    for (usize i = 0; !bad.code && e->members[i].path; i++) bad = place(&e->members[i], source[i], made, bar);
    if (!bad.code) bad = file_remove_tree(final); /* something of that name that is not the catalogue's */
    if (!bad.code) bad = move_file(made, final);
    mem_free(made);
    return bad;
}

err folder_copy(const model_entry *e, const char *from, const char *partial, const char *final, progress *bar)
{
    usize n = 0;
    while (e->members[n].path) n++;
    char **source = mem_array(char *, n + 1);
    err bad = source ? OK : err_new(ERR_NOMEM, "%s: no memory to fetch it", e->name);
    for (usize i = 0; !bad.code && i < n; i++)
        if (!(source[i] = path_join(from, "%s", e->members[i].path))) bad = err_new(ERR_NOMEM, "%s: no memory to fetch it", e->name);
    if (!bad.code) bad = file_mkdirs(partial);
    if (!bad.code) bad = folder_install(e, source, partial, final, bar);
    for (usize i = 0; source && i < n; i++) mem_free(source[i]);
    mem_free(source);
    return bad;
}
