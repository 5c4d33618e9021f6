/* model/pull.c - `maru pull`: a catalogue name, an address or a file becomes an installed, verified model.
 *
 * One at a time, under a lock in the models folder. A catalogue name is looked for where it may already be (installed; then
 * $MARU_MODELS and ~/.cache/maru/models, believed by size and hash only) before anything is downloaded. Addresses go to curl,
 * which resumes with If-Range, so that a file that changed on the server in between is fetched anew and never mixed. A file or
 * address that no catalogue row vouches for must at least open as a GGUF that this build reads.
 *
 * Not here: accounts, tokens, model hubs' own protocols. */
#include "model/file.h"
#include "model/pull_inside.h"
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    char *folder, *final, *partial;
    int lock;
    progress bar;
} place;

static err no_memory(const char *what) { return err_new(ERR_NOMEM, "%s: no memory to fetch it", what); }

static void place_close(place *p)
{
    if (p->lock >= 0) file_unlock(p->lock);
    mem_free(p->folder);
    mem_free(p->final);
    mem_free(p->partial);
}

/* Where `file` will be installed; waits for the lock. */
static err place_open(place *p, const char *file)
{
    *p = (place){.lock = -1};
    TRY(home_path(&p->folder, "models"));
    p->final = path_join(p->folder, "%s", file);
    p->partial = path_join(p->folder, ".%s.partial", file);
    char *lock = path_join(p->folder, ".pull.lock");
    err bad = p->final && p->partial && lock ? file_mkdirs(p->folder) : no_memory(file);
    if (!bad.code) bad = file_lock(lock, false, &p->lock);
    if (bad.code == ERR_BUSY) {
        log_line(LOG_WARN, "%s", L("다른 pull이 끝나기를 기다립니다", "waiting for another pull to end"));
        bad = file_lock(lock, true, &p->lock);
    }
    mem_free(lock);
    if (bad.code) place_close(p);
    return bad;
}

/* ---- what came of it --------------------------------------------------------------------------------------------------- */
void pulled_reset(pulled *p)
{
    mem_free(p->name);
    mem_free(p->path);
    mem_free(p->licence);
    *p = (pulled){0};
}

static const model_entry *entry_of_hash(const char *hex)
{
    const model_entry *e;
    for (usize i = 0; (e = catalogue_at(i)); i++)
        if (!strcmp(e->sha256, hex)) return e;
    return NULL;
}

static char *licence_of(const model_entry *e, const char *path)
{
    model_file *f;
    str s = S("unknown");
    if (e) return mem_strdup(e->licence);
    bool open = !gguf_open_meta(&f, path).code;
    if (open && (file_str(f, "general.license", &s).code || !s.n)) s = S("unknown");
    char *copy = mem_strndup(s.p, s.n);
    model_file_close(f);
    return copy;
}

static err report(pulled *out, place *p, const model_entry *e, const char *hex, i64 bytes, pull_origin origin)
{
    const char *base = strrchr(p->final, '/') + 1;
    usize n = strlen(base);
    if (str_ends(str_of(base), S(".gguf"))) n -= 5;
    out->entry = e ? e : entry_of_hash(hex);
    out->name = e ? mem_strdup(e->name) : mem_strndup(base, n);
    out->licence = licence_of(out->entry, p->final);
    out->path = p->final;
    p->final = NULL;
    out->bytes = bytes;
    out->origin = origin;
    memcpy(out->sha256, hex, 65);
    return out->name && out->licence ? OK : no_memory(base);
}

/* ---- a catalogue row --------------------------------------------------------------------------------------------------- */
static bool is_entry(const char *path, const model_entry *e, progress *bar)
{
    char hex[65];
    i64 bytes;
    if (e->members) return folder_is_entry(path, e, bar);
    if (!file_exists(path) || file_is_dir(path) || file_size(path, &bytes).code || bytes != e->bytes) return false;
    return !hash_file(path, hex, &bytes, bar).code && !strcmp(hex, e->sha256);
}

/* A hard link where the file system can: the content is known by its hash, and nobody rewrites a model in place. */
static bool take_copy(const char *from, const model_entry *e, place *p)
{
    char hex[65];
    if (!is_entry(from, e, &p->bar)) return false;
    if (e->members) return !folder_copy(e, from, p->partial, p->final, &p->bar).code;
    char *temp = path_join(p->partial, "linked");
    bool done = temp && !file_mkdirs(p->partial).code && linkat(AT_FDCWD, from, AT_FDCWD, temp, AT_SYMLINK_FOLLOW) == 0 &&
                !move_file(temp, p->final).code;
    mem_free(temp);
    return done || !copy_file(from, p->final, e->sha256, hex, &p->bar).code;
}

static bool from_cache(const model_entry *e, place *p)
{
    const char *set = getenv("MARU_MODELS"), *home = getenv("HOME");
    char *a = set && *set ? path_join(set, "%s", e->file) : NULL;
    char *b = home && *home ? path_join(home, ".cache/maru/models/%s", e->file) : NULL;
    bool done = (a && take_copy(a, e, p)) || (b && take_copy(b, e, p));
    mem_free(a);
    mem_free(b);
    return done;
}

static err pull_entry(pulled *out, const model_entry *e, place *p)
{
    if (is_entry(p->final, e, &p->bar)) return report(out, p, e, e->sha256, e->bytes, PULL_INSTALLED);
    if (from_cache(e, p)) {
        (void)file_remove_tree(p->partial);
        return report(out, p, e, e->sha256, e->bytes, PULL_CACHE);
    }
    progress_end(&p->bar);
    progress_start(&p->bar, e->name, e->convert ? 0 : e->bytes); /* a converted file's parts have another size */
    TRY(file_mkdirs(p->partial));
    TRY(mirror_fetch(e, p->partial, p->final, &p->bar));
    TRY(file_remove_tree(p->partial));
    return report(out, p, e, e->sha256, e->bytes, PULL_MIRROR);
}

err model_pull_entry(pulled *out, const model_entry *e)
{
    place p;
    *out = (pulled){0};
    TRY(place_open(&p, e->file));
    progress_start(&p.bar, e->name, e->bytes);
    err bad = pull_entry(out, e, &p);
    progress_end(&p.bar);
    if (bad.code) pulled_reset(out);
    place_close(&p);
    return err_at(bad, "%s", e->name);
}

/* ---- an address or a file of the user's -------------------------------------------------------------------------------- */
/* The name it will have: the last part of a path or address. */
static err install_name(const char *what, bool address, char **name)
{
    usize n = address ? strcspn(what, "?#") : strlen(what), from = n;
    while (from && what[from - 1] != '/') from--;
    str base = {what + from, n - from};
    bool plain = base.n > 5 && base.n < 200 && base.p[0] != '.' && str_ends(base, S(".gguf")) && utf8_valid(base);
    for (usize i = 0; plain && i < base.n; i++) plain = (u8)base.p[i] >= 0x20 && base.p[i] != 0x7f;
    *name = NULL;
    if (!plain) return err_new(ERR_INPUT, L("%s: .gguf 파일이 아닙니다", "%s: not the name of a .gguf file"), what);
    *name = mem_strndup(base.p, base.n);
    return *name ? OK : no_memory(what);
}

/* A catalogue name must not come to stand for something else; and what this build cannot open is not installed. */
static err may_install(const char *path, const char *name, const char *hex)
{
    const model_entry *e;
    model_file *f;
    for (usize i = 0; (e = catalogue_at(i)); i++)
        if (!strcmp(e->file, name) && strcmp(e->sha256, hex))
            return err_new(
                ERR_INPUT,
                L("%s은(는) 목록에 있는 이름인데 다른 파일입니다 (sha256 %s, 목록 %s): 이름을 바꾸세요",
                  "%s is a name of the catalogue, but this is another file (sha256 %s, the catalogue's is %s): rename it"),
                name, hex, e->sha256);
    TRY(gguf_open(&f, path));
    model_file_close(f);
    return OK;
}

static err pull_file(pulled *out, const char *what, const char *name, place *p)
{
    char hex[65], *from = realpath(what, NULL), *to = realpath(p->final, NULL);
    i64 bytes = 0;
    bool same = from && to && !strcmp(from, to);
    free(from);
    free(to);
    TRY(file_size(what, &bytes));
    progress_start(&p->bar, name, bytes);
    TRY(hash_file(what, hex, &bytes, &p->bar));
    TRY(may_install(what, name, hex));
    char want[65];
    memcpy(want, hex, 65);
    if (!same) TRY(copy_file(what, p->final, want, hex, &p->bar)); /* copied, not linked: its owner may go on writing it */
    return report(out, p, NULL, hex, bytes, same ? PULL_INSTALLED : PULL_FILE);
}

typedef struct {
    char *data, *etag, *record; /* paths in the partial folder: what came so far, the server's mark of it, the address */
} download;

/* The server's mark of the version that a part of was fetched; "" when it cannot be continued. */
static void resume_mark(const download *d, const char *url, buf *mark)
{
    buf was = {0};
    bool same = !file_read(&was, d->record, 65536).code && str_eq(buf_view(&was), str_of(url)) && file_exists(d->data);
    if (same && file_read(mark, d->etag, 4096).code) buf_reset(mark);
    str etag = str_trim(buf_view(mark));
    bool strong =
        etag.n > 2 && etag.p[0] == '"' && etag.p[etag.n - 1] == '"'; /* weak marks (W/"...") do not promise equal bytes */
    buf header = {0};
    if (strong) buf_puts(&header, "If-Range: "), buf_str(&header, etag);
    buf_free(mark);
    *mark = header;
    buf_free(&was);
}

static err run_curl(const download *d, const char *url, const char *mark, progress *bar, int *status)
{
    const char *argv[32] = {"curl",
                            "-fgsSL",
                            "--proto",
                            "=https,http,file",
                            "--proto-redir",
                            "=https,http",
                            "--connect-timeout",
                            "20",
                            "--speed-limit",
                            "1",
                            "--speed-time",
                            "60",
                            "--etag-save",
                            d->etag,
                            "-o",
                            d->data,
                            "--url",
                            url};
    int n = 0;
    while (argv[n]) n++;
    if (*mark) {
        argv[n++] = "-C";
        argv[n++] = "-";
        argv[n++] = "-H";
        argv[n++] = mark;
    }
    buf errors = {0};
    watch *w = watch_start(bar, d->data, 0);
    err bad = run_tool(argv, false, &errors, status);
    watch_end(w);
    str why = last_error_line(buf_view(&errors));
    if (bad.code == ERR_REMOTE) /* it did not start */
        bad = err_new(ERR_UNSUPPORTED, L("주소에서 받으려면 curl이 필요합니다 (Debian: apt install curl)",
                                         "addresses need curl (Debian: apt install curl)"));
    else if (!bad.code && *status)
        bad = err_new(ERR_REMOTE, "%s: %.*s", url, (int)why.n, why.p);
    buf_free(&errors);
    return bad;
}

static err fetch_url(const download *d, const char *url, progress *bar)
{
    buf mark = {0};
    int status = 0;
    err bad = OK;
    resume_mark(d, url, &mark);
    if (mark.n) {
        bad = run_curl(d, url, buf_cstr(&mark), bar, &status);
        if (!bad.code || bad.code == ERR_UNSUPPORTED || (status != 22 && status != 33 && status != 36))
            goto end; /* else: it cannot be continued */
    }
    unlink(d->data);
    unlink(d->etag);
    TRY_TO(end, file_replace(d->record, url, strlen(url)));
    bad = run_curl(d, url, "", bar, &status);
end:
    buf_free(&mark);
    return bad;
}

static err pull_url(pulled *out, const char *url, const char *name, place *p)
{
    download d = {path_join(p->partial, "data"), path_join(p->partial, "etag"), path_join(p->partial, "address")};
    char hex[65];
    i64 bytes = 0;
    err bad = d.data && d.etag && d.record ? file_mkdirs(p->partial) : no_memory(url);
    if (bad.code) goto end;
    progress_start(&p->bar, name, 0);
    TRY_TO(end, fetch_url(&d, url, &p->bar));
    bad = hash_file(d.data, hex, &bytes, NULL);
    if (!bad.code) bad = may_install(d.data, name, hex);
    if (!bad.code) bad = move_file(d.data, p->final);
    TRY_TO(end, remove_after(p->partial, bad)); /* whole and refused, or installed: nothing to continue */
    bad = report(out, p, NULL, hex, bytes, PULL_URL);
end:
    mem_free(d.data);
    mem_free(d.etag);
    mem_free(d.record);
    return bad;
}

static err pull_other(pulled *out, const char *what, bool address)
{
    place p;
    char *name;
    TRY(install_name(what, address, &name));
    err bad = place_open(&p, name);
    if (!bad.code) {
        bad = address ? pull_url(out, what, name, &p) : pull_file(out, what, name, &p);
        progress_end(&p.bar);
        if (bad.code) pulled_reset(out);
        place_close(&p);
    }
    mem_free(name);
    return bad;
}

err model_pull(pulled *out, const char *what)
{
    static const char *const schemes[] = {"https://", "http://", "file://"};
    *out = (pulled){0};
    const model_entry *e = catalogue_find(what);
    if (e) return model_pull_entry(out, e);
    for (usize i = 0; i < COUNT_OF(schemes); i++)
        if (str_starts(str_of(what), str_of(schemes[i]))) return pull_other(out, what, true);
    if (strstr(what, "://"))
        return err_new(ERR_UNSUPPORTED,
                       L("%s: https, http, file 주소만 받습니다", "%s: only https, http and file addresses are fetched"), what);
    if (file_is_dir(what))
        return err_new(
            ERR_INPUT,
            L("%s은(는) 폴더입니다: 경로 그대로 MODEL로 쓰면 됩니다", "%s is a folder: use its path as MODEL, it needs no pull"),
            what);
    if (file_exists(what)) return pull_other(out, what, false);
    return err_new(ERR_NOTFOUND,
                   L("%s: 목록에 없는 이름이고 파일도 아닙니다 (`maru models`가 목록을 보여 줍니다)",
                     "%s: not a name of the catalogue and not a file (`maru models` lists them)"),
                   what);
}
