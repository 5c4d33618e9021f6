/* tests/base/test_file.c - mapping, reading, atomic replacement under every interruption, walking, locks. */
#include "base/base.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <seccomp.h>
#include <setjmp.h>
#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char home[64];
static const char *in(const char *name) /* two at a time */
{
    static char paths[2][256];
    static int turn;
    char *p = paths[turn ^= 1];
    snprintf(p, sizeof paths[0], "%s/%s", home, name);
    return p;
}

static int setup(void **state)
{
    (void)state;
    snprintf(home, sizeof home, "%s/maru-file-XXXXXX", access("/tmp", W_OK) == 0 ? "/tmp" : ".");
    return mkdtemp(home) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    err e = file_remove_tree(home);
    return e.code || file_exists(home) ? -1 : 0;
}

static void assert_ok(err e)
{
    if (e.code) fail_msg("%s: %s", err_name(e.code), e.what);
}

static void assert_content(const char *path, const char *want)
{
    buf b = {0};
    assert_ok(file_read(&b, path, 0));
    assert_string_equal(buf_cstr(&b), want);
    buf_free(&b);
}

static int n_entries(void) /* hidden ones too */
{
    int n = 0;
    DIR *d = opendir(home);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

static void map_and_read(void **state)
{
    (void)state;
    file_map f;
    assert_ok(file_replace(in("a"), "hello", 5));
    assert_ok(file_map_open(&f, in("a")));
    assert_int_equal(f.n, 5);
    assert_memory_equal(f.p, "hello", 5);
    file_map_close(&f);
    file_map_close(&f); /* again: nothing */
    assert_ok(file_replace(in("empty"), NULL, 0));
    assert_ok(file_map_open(&f, in("empty")));
    assert_int_equal(f.n, 0);
    assert_non_null(f.p);
    file_map_close(&f);
    assert_int_equal(file_map_open(&f, in("absent")).code, ERR_NOTFOUND);
    assert_null(f.p);
    file_map_close(&f);
    assert_int_equal(file_map_open(&f, home).code, ERR_INPUT);
    assert_int_equal(file_map_open(&f, "/dev/null").code, ERR_INPUT);
    buf b = {0};
    buf_puts(&b, "> ");
    assert_ok(file_read(&b, in("a"), 5));
    assert_string_equal(buf_cstr(&b), "> hello"); /* appended */
    assert_int_equal(file_read(&b, in("a"), 4).code, ERR_FORMAT);
    assert_int_equal(file_read(&b, "/dev/zero", 100000).code, ERR_FORMAT); /* no size to look at beforehand */
    assert_int_equal(file_read(&b, in("absent"), 0).code, ERR_NOTFOUND);
    assert_int_equal(file_read(&b, home, 0).code, ERR_IO);
    buf_reset(&b);
    assert_ok(file_read(&b, "/proc/self/status", 0)); /* says it has 0 bytes */
    assert_true(str_starts(buf_view(&b), S("Name:")));
    buf_free(&b);
    i64 n;
    assert_ok(file_size(in("a"), &n));
    assert_int_equal(n, 5);
    assert_int_equal(file_size(in("absent"), &n).code, ERR_NOTFOUND);
    assert_true(file_exists(in("a")) && !file_is_dir(in("a")) && file_is_dir(home) && !file_exists(in("absent")));
}

static void replace_is_whole_or_not_at_all(void **state)
{
    (void)state;
    file_writer *w;
    char piece[1000];
    memset(piece, 'n', sizeof piece);
    assert_ok(file_replace(in("f"), "old", 3));
    int before = n_entries();
    assert_ok(file_writer_open(&w, in("f")));
    for (int i = 0; i < 2000; i++) assert_ok(file_writer_put(w, piece, sizeof piece));
    assert_content(in("f"), "old"); /* until commit */
    file_writer_drop(w);            /* abandoned */
    assert_content(in("f"), "old");
    assert_int_equal(n_entries(), before);
    assert_ok(file_writer_open(&w, in("f")));
    for (int i = 0; i < 2000; i++) assert_ok(file_writer_put(w, piece, i % 7 ? sizeof piece : 1));
    assert_ok(file_writer_commit(w));
    assert_int_equal(n_entries(), before);
    i64 n;
    assert_ok(file_size(in("f"), &n));
    assert_int_equal(n, 286 * 1 + 1714 * 1000);
    assert_ok(file_writer_open(&w, in("new")));
    assert_ok(file_writer_put(w, "x", 1));
    assert_false(file_exists(in("new")));
    file_writer_drop(w);
    assert_false(file_exists(in("new")));
    file_writer_drop(NULL);
    assert_int_equal(file_writer_open(&w, in("no-folder/x")).code, ERR_NOTFOUND);
    assert_null(w);
    assert_int_equal(file_replace("/dev/null", "x", 1).code, ERR_INPUT);
    assert_int_equal(file_replace(home, "x", 1).code, ERR_INPUT);
    assert_int_equal(file_replace(in("trailing/"), "x", 1).code, ERR_INPUT);
    assert_int_equal(file_replace("", "x", 1).code, ERR_INPUT);
}

static void replace_keeps_mode_and_links(void **state)
{
    (void)state;
    struct stat st;
    assert_ok(file_replace(in("secret"), "1", 1));
    assert_int_equal(chmod(in("secret"), 0600), 0);
    assert_ok(file_replace(in("secret"), "2", 1));
    assert_int_equal(stat(in("secret"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(symlink("secret", in("link")), 0);
    assert_ok(file_replace(in("link"), "3", 1));
    assert_int_equal(lstat(in("link"), &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_content(in("secret"), "3");
    assert_int_equal(symlink("absent/file", in("to-nothing")), 0);
    assert_int_equal(symlink("circle", in("circle")), 0);
    assert_int_equal(file_replace(in("to-nothing"), "3", 1).code, ERR_NOTFOUND);
    assert_int_equal(file_replace(in("circle"), "3", 1).code, ERR_IO);
    assert_int_equal(lstat(in("to-nothing"), &st), 0); /* a link is not replaced, wherever it leads */
    assert_true(S_ISLNK(st.st_mode));
    char here[256];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(home), 0);
    assert_ok(file_replace("bare", "4", 1)); /* a name without a folder */
    assert_content("bare", "4");
    assert_int_equal(chdir(here), 0);
}

/* Runs a part in a child and gives how it ended, for what would end us. */
static int in_child(void (*fn)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        fn();
        _exit(0);
    }
    int status = 0;
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void die_while_writing(void)
{
    file_writer *w;
    static char piece[1 << 20];
    if (file_writer_open(&w, in("killed")).code || file_writer_put(w, piece, sizeof piece).code) _exit(1);
    kill(getpid(), SIGKILL);
}

static void kill_leaves_old_file(void **state)
{
    (void)state;
    assert_ok(file_replace(in("killed"), "old", 3));
    int before = n_entries(), fd = open(home, O_TMPFILE | O_WRONLY, 0600);
    int status = in_child(die_while_writing);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_content(in("killed"), "old");
    if (fd >= 0) { /* where the file system has nameless files */
        assert_int_equal(n_entries(), before);
        close(fd);
    }
}

static void write_past_limit(void)
{
    static char big[1 << 20];
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){300 << 10, 300 << 10}); /* as a full disk */
    file_writer *w;
    if (file_writer_open(&w, in("full")).code) _exit(1);
    if (file_writer_put(w, big, 1000).code) _exit(2);
    if (file_writer_put(w, big, sizeof big).code != ERR_IO) _exit(3);
    if (file_writer_put(w, big, 1).code != ERR_IO) _exit(4); /* sticky */
    if (file_writer_commit(w).code != ERR_IO) _exit(5);
    if (file_replace(in("full"), big, sizeof big).code != ERR_IO) _exit(6);
}

static void failed_write_leaves_old_file(void **state)
{
    (void)state;
    assert_ok(file_replace(in("full"), "old", 3));
    int before = n_entries();
    assert_int_equal(in_child(write_past_limit), 0);
    assert_content(in("full"), "old");
    assert_int_equal(n_entries(), before);
}

static err count_one(void *ctx, const char *path)
{
    (void)path;
    ++*(int *)ctx;
    return OK;
}

static void without_nameless_files(void)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW); /* a file system that has no O_TMPFILE */
    u64 bit = O_TMPFILE & ~O_DIRECTORY;
    if (!f || seccomp_rule_add(f, SCMP_ACT_ERRNO(EOPNOTSUPP), SCMP_SYS(openat), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, bit, bit)) ||
        seccomp_load(f))
        _exit(1);
    seccomp_release(f);
    int before = n_entries(), seen = 0, again = 0;
    file_writer *w;
    if (file_walk(home, count_one, &seen).code) _exit(2);
    if (file_writer_open(&w, in("plain")).code || file_writer_put(w, "new", 3).code) _exit(3);
    if (n_entries() != before + 1) _exit(4);                                /* the temporary is there ... */
    if (file_walk(home, count_one, &again).code || again != seen) _exit(5); /* ... and is no document */
    file_writer_drop(w);
    if (n_entries() != before) _exit(6);
    if (file_replace(in("plain"), "new", 3).code || n_entries() != before) _exit(7);
}

static void replace_by_hidden_file(void **state)
{
    (void)state;
    assert_ok(file_replace(in("plain"), "old", 3));
    assert_int_equal(in_child(without_nameless_files), 0);
    assert_content(in("plain"), "new");
}

static err note(void *ctx, const char *path)
{
    buf_fmt(ctx, "%s\n", path + strlen(home) + 1);
    return OK;
}

static err stop_at_c(void *ctx, const char *path)
{
    TRY(note(ctx, path));
    return str_ends(str_of(path), S("c.txt")) ? err_new(ERR_CANCELLED, "enough") : OK;
}

static void walk_order(void **state)
{
    (void)state;
    static const char *const files[] = {"w/b.txt", "w/a/z",     "w/a/B",         "w/a/b",    "w/a.txt",
                                        "w/c.txt", "w/.hidden", "w/.git/config", "w/가.txt", "w/Z"};
    assert_ok(file_mkdirs(in("w/a")));
    assert_ok(file_mkdirs(in("w/.git")));
    assert_ok(file_mkdirs(in("w/empty")));
    for (usize i = 0; i < COUNT_OF(files); i++) assert_ok(file_replace(in(files[i]), "x", 1));
    assert_int_equal(symlink("a", in("w/link-to-folder")), 0);
    assert_int_equal(symlink("a/z", in("w/link-to-file")), 0);
    assert_int_equal(symlink("nowhere", in("w/link-to-nothing")), 0);
    assert_int_equal(mkfifo(in("w/pipe"), 0600), 0);
    buf b = {0};
    assert_ok(file_walk(in("w"), note, &b));
    assert_string_equal(buf_cstr(&b), "w/Z\nw/a/B\nw/a/b\nw/a/z\nw/a.txt\nw/b.txt\nw/c.txt\nw/link-to-file\nw/가.txt\n");
    buf_reset(&b);
    assert_ok(file_walk(in("w/a/z"), note, &b));
    assert_string_equal(buf_cstr(&b), "w/a/z\n");
    buf_reset(&b);
    assert_ok(file_walk(in("w/link-to-folder"), note, &b)); /* named by the user: followed */
    assert_string_equal(buf_cstr(&b), "w/link-to-folder/B\nw/link-to-folder/b\nw/link-to-folder/z\n");
    buf_reset(&b);
    err e = file_walk(in("w"), stop_at_c, &b); /* the callback's error stops it and comes out */
    assert_int_equal(e.code, ERR_CANCELLED);
    assert_true(str_ends(buf_view(&b), S("w/c.txt\n")));
    buf_free(&b);
    assert_int_equal(file_walk(in("absent"), note, &b).code, ERR_NOTFOUND);
    assert_int_equal(file_walk(in("w/pipe"), note, &b).code, ERR_INPUT);
    assert_ok(file_replace(in("kept"), "x", 1));
    assert_int_equal(symlink("../kept", in("w/a/link")), 0);
    assert_ok(file_remove_tree(in("w")));
    assert_false(file_exists(in("w")));
    assert_content(in("kept"), "x"); /* links are removed, not followed */
    assert_ok(file_remove_tree(in("w")));
}

/* As a user who may not read one of the folders; root may, so it becomes another user for a while. */
static void walk_past_what_cannot_be_read(void **state)
{
    (void)state;
    buf b = {0};
    bool root = geteuid() == 0;
    assert_ok(file_mkdirs(in("v/b/inside")));
    assert_ok(file_mkdirs(in("v/c")));
    assert_ok(file_replace(in("v/a"), "x", 1));
    assert_ok(file_replace(in("v/b/inside/f"), "x", 1));
    assert_ok(file_replace(in("v/c/f"), "x", 1));
    assert_int_equal(chmod(in("v"), 0755) | chmod(in("v/c"), 0755) | chmod(in("v/b"), 0), 0);
    assert_int_equal(chmod(home, 0755), 0);
    if (root) assert_int_equal(seteuid(65534), 0);
    err e = file_walk(in("v"), note, &b);
    err named = file_walk(in("v/b"), note, &b);
    if (root) assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(in("v/b"), 0700), 0);
    assert_string_equal(buf_cstr(&b), "v/a\nv/c/f\n");
    assert_int_equal(e.code, ERR_IO); /* said, once the rest was walked */
    assert_true(str_find(str_of(e.what), S("v/b: Permission denied"), 0) > 0);
    assert_int_equal(named.code, ERR_IO);
    buf_free(&b);
    assert_ok(file_remove_tree(in("v")));
}

static void make_folders(void **state)
{
    (void)state;
    struct stat st;
    assert_ok(file_mkdirs(in("m/n/o")));
    assert_ok(file_mkdirs(in("m/n/o")));
    assert_ok(file_mkdirs(in("m/n/p/")));
    assert_int_equal(stat(in("m/n"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_ok(file_replace(in("m/file"), "x", 1));
    assert_int_equal(file_mkdirs(in("m/file/x")).code, ERR_IO);
    assert_int_equal(file_mkdirs(in("m/file")).code, ERR_IO);
    assert_int_equal(file_mkdirs("").code, ERR_INPUT);
}

static void *wait_for_lock(void *arg)
{
    int fd;
    err e = file_lock(arg, true, &fd);
    file_unlock(fd);
    return (void *)(intptr_t)e.code;
}

static void locks(void **state)
{
    (void)state;
    int a, b;
    char path[256];
    snprintf(path, sizeof path, "%s", in("lock"));
    assert_ok(file_lock(path, false, &a));
    err e = file_lock(path, false, &b);
    assert_int_equal(e.code, ERR_BUSY);
    assert_int_equal(b, -1);
    pthread_t t;
    void *code;
    assert_int_equal(pthread_create(&t, NULL, wait_for_lock, path), 0);
    usleep(20000);
    file_unlock(a);
    assert_int_equal(pthread_join(t, &code), 0);
    assert_int_equal((intptr_t)code, ERR_OK);
    assert_ok(file_lock(path, false, &b));
    file_unlock(b);
    file_unlock(-1);
    assert_int_equal(file_lock(in("no/folder"), false, &a).code, ERR_NOTFOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map_and_read),
        cmocka_unit_test(replace_is_whole_or_not_at_all),
        cmocka_unit_test(replace_keeps_mode_and_links),
        cmocka_unit_test(kill_leaves_old_file),
        cmocka_unit_test(failed_write_leaves_old_file),
        cmocka_unit_test(replace_by_hidden_file),
        cmocka_unit_test(walk_order),
        cmocka_unit_test(walk_past_what_cannot_be_read),
        cmocka_unit_test(make_folders),
        cmocka_unit_test(locks),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
