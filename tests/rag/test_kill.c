/* kill -9 in the middle of adding and of removing, again and again at random moments: the store opens, holds whole documents
 * only, and the same call completes the work to the same state as an undisturbed one. 20 times, MARU_HEAVY=1: 200. */
#include "store_help.h"
#include <signal.h>
#include <time.h>
#include <sys/wait.h>

enum { FILES = 40, LINES = 60 };
static char docs[500], lines[500];

/* version 2 changes every third file, drops and adds lines of the JSONL file */
static void write_documents(int version)
{
    buf b = {0};
    for (int i = 0; i < FILES; i++) {
        char name[64];
        buf_reset(&b);
        for (int k = 0; k <= i % 9 * 6; k++)
            buf_fmt(
                &b,
                "# %d번 문서의 %d절\n\n이 문서는 %d판이고, 문장 %d개 가운데 하나이다. The rest is English text number %d.\n\n", i,
                k, i % 3 ? 1 : version, k, i * k);
        snprintf(name, sizeof name, "docs/%02d.md", i);
        write_file(name, buf_cstr(&b));
    }
    buf_reset(&b);
    for (int i = version == 2 ? 10 : 0; i < LINES + (version == 2 ? 10 : 0); i++)
        buf_fmt(&b, "{\"id\":\"line-%d\",\"title\":\"title %d\",\"text\":\"text %d of version %d. %d\",\"n\":%d}\n", i, i, i,
                i % 4 ? 1 : version, i, i);
    write_file("docs/lines.jsonl", buf_cstr(&b));
    buf_free(&b);
    snprintf(docs, sizeof docs, "%s", in_home("docs"));
    snprintf(lines, sizeof lines, "%s", in_home("docs/lines.jsonl"));
}

static void add_all(const char *name)
{
    collection *c = open_for(name, COLLECTION_WRITE);
    add_result r = ADD(c, NULL, docs);
    assert_int_equal(r.n_failed, 0);
    add_result_free(&r);
    collection_close(c);
}

static void sleep_s(double s)
{
    struct timespec t = {(time_t)s, (long)((s - (double)(time_t)s) * 1e9)};
    nanosleep(&t, NULL);
}

/* runs `work` in a child that is killed after that many seconds; true: it was still at it */
static bool killed(void (*work)(const char *), const char *name, double after)
{
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        work(name);
        _exit(0);
    }
    sleep_s(after);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status);
}

/* whole documents: text and map hold together, the text is what LOAD makes of the original, the chunks are those of the text */
static err same_text(void *ctx, loaded *d)
{
    const loaded *l = ctx;
    if (!l->id || !strcmp(l->id, d->id)) assert_string_equal(l->text, d->text);
    loaded_free(d);
    return OK;
}

static i64 check_whole(const char *name)
{
    collection *c = open_for(name, COLLECTION_READ);
    documents d;
    assert_ok(collection_documents(c, &d));
    for (usize i = 0; i < d.n; i++) {
        const loaded *l;
        buf original = {0};
        range *r;
        usize n;
        assert_ok(collection_document(c, d.d[i].id, &l, NULL));
        assert_ok(load_check(l));
        assert_ok(split_document(l, 320, &r, &n));
        assert_int_equal(n, d.d[i].chunks);
        mem_free(r);
        assert_ok(collection_original(c, d.d[i].id, &original));
        assert_ok(load_bytes(d.d[i].path, original.p, original.n, same_text, (void *)(uintptr_t)l));
        buf_free(&original);
    }
    hits h;
    assert_ok(collection_search(c, "문서 text", &(search_opts){.k = 1000}, &h)); /* whatever the indexes were when it died */
    for (usize i = 0; i < h.n; i++) {
        const loaded *l;
        assert_ok(collection_document(c, h.h[i].document, &l, NULL));
        assert_true(str_eq(range_of(l, h.h[i].start, h.h[i].end), str_of(h.h[i].text)));
    }
    assert_true(d.n == 0 || h.n > 0);
    hits_free(&h);
    i64 count = (i64)d.n;
    documents_free(&d);
    collection_close(c);
    return count;
}

static int rounds(void) { return getenv("MARU_HEAVY") ? 200 : 20; }

static double seconds_of(void (*work)(const char *), const char *name)
{
    double start = clock_s();
    work(name);
    return clock_s() - start;
}

static bool exists(const char *name)
{
    i64 bytes;
    return !file_size(in_home("collections/%s/store.db", name), &bytes).code && bytes > 0;
}

static void killed_while_adding(void **state)
{
    (void)state;
    rng r;
    int dead = 0, partial = 0, n = rounds();
    rng_seed(&r, 11);
    write_documents(1);
    double first = seconds_of(add_all, "one");
    u64 one = state_of("one");
    write_documents(2);
    double second = seconds_of(add_all, "one");
    u64 two = state_of("one");
    assert_true(one != two);
    for (int i = 0; i < n; i++) {
        bool fresh = i % 2 == 0;
        write_documents(1);
        if (!fresh) add_all("kill");
        if (!fresh) write_documents(2);
        bool was = killed(add_all, "kill", rng_unit(&r) * (fresh ? first : second) * 1.1);
        if (!was) *(fresh ? &first : &second) *= 0.9; /* the first time was a slow one */
        dead += was;
        i64 count = 0;
        if (exists("kill")) { /* else it died before the first table */
            collection *c;
            err e = collection_open(&c, "kill", COLLECTION_READ);
            if (e.code) want_error(e, ERR_NOTFOUND, "interrupted");
            collection_close(c);
            if (!e.code) count = check_whole("kill");
        }
        partial += fresh ? count > 0 && count < FILES + LINES : was;
        add_all("kill");
        assert_true(state_of("kill") == (fresh ? one : two));
        assert_int_equal(check_whole("kill"), FILES + LINES);
        assert_ok(file_remove_tree(in_home("collections/kill")));
    }
    print_message("killed %d of %d times while adding, %d times with part of the documents there\n", dead, n, partial);
    assert_true(dead >= n / 4);
}

static void remove_some(const char *name)
{
    collection *c = open_for(name, COLLECTION_WRITE);
    char id[16][520];
    const char *list[16];
    i64 removed;
    for (int i = 0; i < 16; i++) {
        if (i < 8)
            snprintf(id[i], sizeof id[i], "%s/%02d.md", docs, i * 3);
        else
            snprintf(id[i], sizeof id[i], "line-%d", 10 + i * 3);
        list[i] = id[i];
    }
    assert_ok(collection_remove(c, list, 16, &removed));
    collection_close(c);
}

static void killed_while_removing(void **state)
{
    (void)state;
    rng r;
    int dead = 0, n = rounds() / 2;
    rng_seed(&r, 12);
    write_documents(2);
    add_all("rm");
    double seconds = seconds_of(remove_some, "rm");
    u64 after = state_of("rm");
    assert_ok(file_remove_tree(in_home("collections/rm")));
    for (int i = 0; i < n; i++) {
        add_all("rm");
        bool was = killed(remove_some, "rm", rng_unit(&r) * seconds * 1.1);
        dead += was;
        if (!was) seconds *= 0.9;
        i64 count = check_whole("rm");
        if (count == FILES + LINES)
            remove_some("rm");
        else {
            assert_int_equal(count, FILES + LINES - 16);        /* all of them or none */
            collection_close(open_for("rm", COLLECTION_WRITE)); /* the next writer takes the traces away */
        }
        assert_true(state_of("rm") == after);
        assert_int_equal(grep_collection("rm", "title 34"), 0);
        assert_int_equal(grep_collection("rm", "# 3번 문서의 17절"), 0);
        assert_ok(file_remove_tree(in_home("collections/rm")));
    }
    print_message("killed %d of %d times while removing\n", dead, n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(killed_while_adding), cmocka_unit_test(killed_while_removing)};
    return cmocka_run_group_tests_name("kill", tests, home_make, home_drop);
}
