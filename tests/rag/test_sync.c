/* A folder that is followed: what is new, changed, renamed and gone, that nothing else is touched, the guard, and kill -9 in the
 * middle: 6 times, MARU_HEAVY=1: 100. */
#include "store_help.h"
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const sync_opts plain = {.add.quiet = true}, force = {.add.quiet = true, .force = true},
                       dry = {.add.quiet = true, .dry_run = true};

static void want(collection *c, const char *folder, const sync_opts *o, i64 added, i64 updated, i64 renamed, i64 removed,
                 i64 unchanged)
{
    sync_result r;
    assert_ok(collection_sync(c, folder, o, &r));
    for (usize i = 0; i < r.add.n_failed; i++) print_message("failed: %s: %s\n", r.add.failed[i].path, r.add.failed[i].reason);
    assert_int_equal(r.add.added, added);
    assert_int_equal(r.add.updated, updated);
    assert_int_equal(r.renamed, renamed);
    assert_int_equal(r.add.removed, removed);
    assert_int_equal(r.add.unchanged, unchanged);
    sync_result_free(&r);
}

static void write_n(const char *folder, int from, int to)
{
    char name[100], text[200];
    for (int i = from; i < to; i++) {
        snprintf(name, sizeof name, "%s/%02d.md", folder, i);
        snprintf(text, sizeof text, "# Document %d\n\nWord%d stands in number %d alone.\n", i, i, i);
        write_file(name, text);
    }
}

static void gone(const char *name) { assert_int_equal(unlink(in_home("%s", name)), 0); }

static void moved(const char *from, const char *to)
{
    write_file(to, "");
    assert_int_equal(rename(in_home("%s", from), in_home("%s", to)), 0);
}

static i64 chunk_of(collection *c, const char *word, char id[500])
{
    hits h;
    assert_ok(collection_search(c, word, &(search_opts){.k = 1}, &h));
    i64 chunk = h.n ? h.h[0].chunk : -1;
    snprintf(id, 500, "%s", h.n ? h.h[0].document : "");
    hits_free(&h);
    return chunk;
}

static void follows(void **state)
{
    (void)state;
    char id[500], folder[500];
    write_n("a", 0, 8);
    write_file("a/lines.jsonl", "{\"id\":\"one\",\"text\":\"first\"}\n{\"id\":\"two\",\"text\":\"second\"}\n");
    write_file("ab/beside.md", "not below a\n");
    snprintf(folder, sizeof folder, "%s", in_home("a"));
    collection *c = open_for("follow", COLLECTION_WRITE);
    want_added(ADD(c, NULL, in_home("ab")), 1, 0, 0, 0);
    want(c, folder, &dry, 10, 0, 0, 0, 0);
    want(c, folder, &plain, 10, 0, 0, 0, 0);
    want(c, folder, &plain, 0, 0, 0, 0, 10);
    i64 chunk = chunk_of(c, "word1", id);
    assert_string_equal(id, in_home("a/01.md"));
    moved("a/01.md", "a/deep/er/new name.md");
    moved("a/lines.jsonl", "a/other.jsonl");
    gone("a/02.md");
    write_file("a/03.md", "# Document 3\n\nChanged.\n");
    write_file("a/new.txt", "new\n");
    u64 before = state_of("follow");
    want(c, folder, &dry, 1, 1, 3, 1, 5);
    assert_true(state_of("follow") == before);
    want(c, folder, &plain, 1, 1, 3, 1, 5);
    assert_int_equal(chunk_of(c, "word1", id), chunk); /* the very chunk of before */
    assert_string_equal(id, in_home("a/deep/er/new name.md"));
    assert_int_equal(grep_collection("follow", "Word2 stands"), 0);
    want(c, folder, &plain, 0, 0, 0, 0, 10);
    want_added(ADD(c, NULL, in_home("ab")), 0, 0, 1, 0); /* what lies beside is still there */
    collection_close(c);
}

/* a new ending is a new kind of file; of two files with the same content one goes and one stays */
static void no_renames(void **state)
{
    (void)state;
    char id[500], folder[500];
    write_n("k", 0, 2);
    write_file("k/02.md", "twice, word7\n");
    write_file("k/03.md", "twice, word7\n");
    snprintf(folder, sizeof folder, "%s", in_home("k"));
    collection *c = open_for("kinds", COLLECTION_WRITE);
    want(c, folder, &plain, 4, 0, 0, 0, 0);
    moved("k/00.md", "k/00.txt");
    moved("k/03.md", "k/04.md");
    gone("k/02.md");
    want(c, folder, &plain, 1, 0, 1, 2, 1);
    chunk_of(c, "word7", id);
    assert_string_equal(id, in_home("k/04.md"));
    /* a line that has taken the id of the path that comes later */
    char line[700];
    snprintf(line, sizeof line, "{\"id\":\"%s\",\"text\":\"a line\"}\n", in_home("k/05.md"));
    write_file("k/z.jsonl", line);
    want(c, folder, &plain, 1, 0, 0, 0, 3);
    moved("k/04.md", "k/05.md");
    sync_result r;
    assert_ok(collection_sync(c, folder, &plain, &r));
    assert_int_equal(r.renamed, 0);
    sync_result_free(&r);
    collection_close(c);
}

static void guard(void **state)
{
    (void)state;
    char folder[500];
    write_n("g", 0, 10);
    write_file("h/lines.jsonl", "{\"id\":\"g\",\"text\":\"first\"}\n");
    snprintf(folder, sizeof folder, "%s", in_home("g"));
    collection *c = open_for("guard", COLLECTION_WRITE);
    want_added(ADD(c, NULL, in_home("h")), 1, 0, 0, 0);
    want(c, folder, &plain, 10, 0, 0, 0, 0);
    for (int i = 0; i < 6; i++) {
        char name[40];
        snprintf(name, sizeof name, "g/%02d.md", i);
        gone(name);
    }
    write_file("g/new.md", "new\n");
    sync_result r;
    u64 before = state_of("guard");
    want_error(collection_sync(c, folder, &plain, &r), ERR_INPUT, "6 of the 10 documents");
    assert_true(state_of("guard") == before);
    assert_ok(collection_sync(c, folder, &dry, &r));
    assert_true(r.guarded && r.n_steps == 7 && r.add.removed == 6);
    sync_result_free(&r);
    want(c, folder, &force, 1, 0, 0, 6, 4);
    for (int i = 6; i < 9; i++) { /* few may go, whatever their share */
        char name[40];
        snprintf(name, sizeof name, "g/%02d.md", i);
        gone(name);
    }
    want(c, folder, &plain, 0, 0, 0, 3, 2);
    want_error(collection_sync(c, in_home("nowhere"), &plain, &r), ERR_NOTFOUND, "no such folder");
    want_error(collection_sync(c, in_home("g/new.md"), &plain, &r), ERR_INPUT, "is a file");
    /* lines that a file has lost count too */
    buf b = {0};
    for (int i = 0; i < 9; i++) buf_fmt(&b, "{\"id\":\"line %d\",\"text\":\"text %d\"}\n", i, i);
    write_file("l/lines.jsonl", buf_cstr(&b));
    want(c, in_home("l"), &plain, 9, 0, 0, 0, 0);
    write_file("l/lines.jsonl", "{\"id\":\"line 1\",\"text\":\"text 1\"}\n");
    want_error(collection_sync(c, in_home("l"), &plain, &r), ERR_INPUT, "8 of the 9 documents");
    want(c, in_home("l"), &dry, 0, 0, 0, 8, 1);
    want(c, in_home("l"), &force, 0, 0, 0, 8, 1);
    buf_free(&b);
    collection_close(c);
}

/* a file that was a document and is none any more: said, and the document stays */
static void spoiled(void **state)
{
    (void)state;
    sync_result r;
    write_n("s", 0, 2);
    collection *c = open_for("spoiled", COLLECTION_WRITE);
    want(c, in_home("s"), &plain, 2, 0, 0, 0, 0);
    write_file("s/01.md", "\x89PNG\r\n picture");
    assert_ok(collection_sync(c, in_home("s"), &plain, &r));
    assert_int_equal(r.add.n_failed, 1);
    assert_int_equal(r.add.unchanged, 1);
    assert_int_equal(r.add.removed, 0);
    sync_result_free(&r);
    want(NULL, in_home("l"), &dry, 1, 0, 0, 0, 0); /* a collection that is not there yet */
    collection_close(c);
}

/* ---- kill ----------------------------------------------------------------------------------------------------------------- */
static char kill_folder[500];

static void write_kill(int version)
{
    assert_ok(file_remove_tree(in_home("kill-docs")));
    buf b = {0};
    for (int i = 0; i < 60; i++) {
        char name[64];
        if (version == 2 && i % 10 == 3) continue; /* removed */
        buf_reset(&b);
        for (int k = 0; k <= i % 7 * 4; k++)
            buf_fmt(&b, "# Part %d of %d\n\nThis is version %d; number %d.\n\n", k, i, i % 5 ? 1 : version, i * k);
        snprintf(name, sizeof name, version == 2 && i % 4 == 1 ? "kill-docs/moved/%02d.md" : "kill-docs/%02d.md", i);
        write_file(name, buf_cstr(&b));
    }
    buf_free(&b);
    snprintf(kill_folder, sizeof kill_folder, "%s", in_home("kill-docs"));
}

static void sync_now(const char *name)
{
    collection *c = open_for(name, COLLECTION_WRITE);
    sync_result r;
    assert_ok(collection_sync(c, kill_folder, &plain, &r));
    assert_int_equal(r.add.n_failed, 0);
    sync_result_free(&r);
    collection_close(c);
}

static bool killed(const char *name, double after)
{
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        sync_now(name);
        _exit(0);
    }
    struct timespec t = {(time_t)after, (long)((after - (double)(time_t)after) * 1e9)};
    nanosleep(&t, NULL);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status);
}

/* Whatever the moment: every document of version 1 that version 2 keeps, or its successor, is there and whole. */
static void check_nothing_lost(const char *name)
{
    collection *c = open_for(name, COLLECTION_READ);
    documents d;
    assert_ok(collection_documents(c, &d));
    bool seen[60] = {false};
    for (usize i = 0; i < d.n; i++) {
        const loaded *l;
        buf original = {0};
        assert_ok(collection_document(c, d.d[i].id, &l, NULL));
        assert_ok(load_check(l));
        assert_ok(collection_original(c, d.d[i].id, &original));
        assert_true(str_eq(buf_view(&original), (str){l->text, l->text_len}));
        buf_free(&original);
        int n = atoi(strrchr(d.d[i].id, '/') + 1);
        assert_false(seen[n]); /* not under both names */
        seen[n] = true;
    }
    for (int i = 0; i < 60; i++) assert_true(seen[i] || i % 10 == 3);
    documents_free(&d);
    collection_close(c);
}

static void killed_while_following(void **state)
{
    (void)state;
    int n = getenv("MARU_HEAVY") ? 100 : 6, dead = 0;
    rng r;
    rng_seed(&r, 21);
    write_kill(1);
    sync_now("one");
    write_kill(2);
    double start = clock_s();
    sync_now("one");
    double seconds = clock_s() - start;
    u64 two = state_of("one");
    for (int i = 0; i < n; i++) {
        write_kill(1);
        sync_now("kill");
        write_kill(2);
        bool was = killed("kill", rng_unit(&r) * seconds * 1.1);
        if (!was) seconds *= 0.9;
        dead += was;
        check_nothing_lost("kill");
        sync_now("kill");
        assert_true(state_of("kill") == two);
        assert_ok(file_remove_tree(in_home("collections/kill")));
    }
    print_message("killed %d of %d times while following a folder\n", dead, n);
    assert_true(dead >= n / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(follows), cmocka_unit_test(no_renames), cmocka_unit_test(guard),
                                       cmocka_unit_test(spoiled), cmocka_unit_test(killed_while_following)};
    return cmocka_run_group_tests_name("sync", tests, home_make, home_drop);
}
