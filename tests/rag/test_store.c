/* Collections without an embedder: opening and locks, add (what is new, changed, gone, not read), documents with their maps and
 * originals, JSONL files line by line, removing without a trace, damage, memory running out. */
#include "store_help.h"
#include "rag/store.h"
#include <fcntl.h>
#include <sys/wait.h>

static const char guide[] = "# 사내 안내\n\n## 회의실\n\n회의실은 두 주 전부터 예약한다.\n\n## 주차\n\n주차는 선착순이다.\n";

/* ---- opening ------------------------------------------------------------------------------------------------------------ */
static void names_are_checked(void **state)
{
    (void)state;
    collection *c;
    const char *bad[] = {"", ".hidden", "a/b", "..", "a b", "x\n", "\xff", "../x"};
    for (usize i = 0; i < COUNT_OF(bad); i++) {
        want_error(collection_open(&c, bad[i], COLLECTION_WRITE), ERR_INPUT, "no name for a collection");
        assert_null(c);
    }
    want_error(collection_open(&c, NULL, COLLECTION_WRITE), ERR_INPUT, "no name");
    want_error(collection_open(&c, "none", COLLECTION_READ), ERR_NOTFOUND, "there is no collection none");
    collection_close(open_for("demo", COLLECTION_WRITE));
    collection_close(open_for("규정-2025_v1.0", COLLECTION_WRITE));
    want_error(collection_open(&c, "none", COLLECTION_READ), ERR_NOTFOUND, "there are: demo, 규정-2025_v1.0");
    char **names;
    usize n;
    assert_ok(collection_names(&names, &n));
    assert_int_equal(n, 2);
    assert_string_equal(names[0], "demo");
    for (usize i = 0; i < n; i++) mem_free(names[i]);
    mem_free(names);
    collection_close(open_for("규정-2025_v1.0", COLLECTION_READ)); /* NFD */
    collection_close(NULL);
}

static void one_writer_many_readers(void **state)
{
    (void)state;
    collection *w = open_for("lock", COLLECTION_WRITE), *again, *r1, *r2;
    want_error(collection_open(&again, "lock", COLLECTION_WRITE), ERR_BUSY, "collection lock is being written");
    const char *a = write_file("lock/a.md", guide);
    r1 = open_for("lock", COLLECTION_READ);
    want_added(ADD(w, NULL, a), 1, 0, 0, 0);
    r2 = open_for("lock", COLLECTION_READ);
    documents d1, d2;
    assert_ok(collection_documents(r1, &d1));
    assert_ok(collection_documents(r2, &d2));
    assert_int_equal(d1.n + d2.n, 2);
    documents_free(&d1);
    documents_free(&d2);
    add_result r;
    want_error(collection_add(r1, &a, 1, &(add_opts){0}, &r), ERR_INPUT, "reading only");
    i64 n;
    want_error(collection_remove(r1, &a, 1, &n), ERR_INPUT, "reading only");
    want_error(collection_meta_put(r1, "x", "y"), ERR_INPUT, "reading only");
    collection_close(w);
    w = open_for("lock", COLLECTION_WRITE);
    collection_close(w);
    collection_close(r1);
    collection_close(r2);
}

static void meta_values(void **state)
{
    (void)state;
    collection *c = open_for("meta", COLLECTION_WRITE);
    char *v;
    assert_ok(collection_meta_get(c, "threshold", &v));
    assert_null(v);
    assert_ok(collection_meta_put(c, "threshold", "0.25"));
    assert_ok(collection_meta_put(c, "threshold", "0.5"));
    assert_ok(collection_meta_get(c, "threshold", &v));
    assert_string_equal(v, "0.5");
    mem_free(v);
    assert_ok(collection_meta_put(c, "threshold", NULL));
    assert_ok(collection_meta_get(c, "threshold", &v));
    assert_null(v);
    collection_close(c);
}

static void damage_is_said(void **state)
{
    (void)state;
    collection *c;
    write_file("collections/text/store.db",
               "this is no database, it only has its name and is long enough to be looked at as one......................");
    want_error(collection_open(&c, "text", COLLECTION_READ), ERR_FORMAT, "store.db");
    assert_null(c);
    sqlite3 *db;
    assert_ok(file_mkdirs(in_home("collections/foreign")));
    assert_int_equal(sqlite3_open(in_home("collections/foreign/store.db"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 7; CREATE TABLE x(y)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    want_error(collection_open(&c, "foreign", COLLECTION_READ), ERR_FORMAT, "not a store of maru");
    collection_close(open_for("newer", COLLECTION_WRITE));
    assert_int_equal(sqlite3_open(in_home("collections/newer/store.db"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    want_error(collection_open(&c, "newer", COLLECTION_WRITE), ERR_UNSUPPORTED, "newer maru");
}

/* A damaged or old index is made anew, whoever reads. */
static void indexes_are_remade(void **state)
{
    (void)state;
    collection *c = open_for("idx", COLLECTION_WRITE);
    want_added(ADD(c, NULL, write_file("idx/a.md", guide)), 1, 0, 0, 0);
    collection_close(c);
    const char *path = in_home("collections/idx/keyword.idx");
    assert_true(file_exists(path));
    for (int round = 0; round < 3; round++) {
        hits h;
        if (round == 1) assert_ok(file_replace(path, "broken", 6));
        if (round == 2) unlink(path);
        c = open_for("idx", COLLECTION_READ);
        assert_ok(collection_search(c, "주차", &(search_opts){0}, &h));
        assert_int_equal(h.n, 1);
        assert_true(strstr(h.h[0].text, "선착순") != NULL);
        hits_free(&h);
        collection_close(c);
    }
}

static int search_once(void)
{
    collection *c;
    hits h = {0};
    err e = collection_open(&c, "idx", COLLECTION_READ);
    if (!e.code) e = collection_search(c, "주차", &(search_opts){0}, &h);
    int bad = e.code || h.n != 1;
    hits_free(&h);
    collection_close(c);
    return bad;
}

/* Four processes find the index gone at the same moment, again and again. */
static void readers_remake_together(void **state)
{
    (void)state;
    for (int round = 0; round < 25; round++) {
        pid_t child[4];
        unlink(in_home("collections/idx/keyword.idx"));
        for (int i = 0; i < 4; i++) {
            child[i] = fork();
            if (!child[i]) _exit(search_once());
        }
        for (int i = 0; i < 4; i++) {
            int status;
            waitpid(child[i], &status, 0);
            assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        }
    }
}

/* ---- add ---------------------------------------------------------------------------------------------------------------- */
static void add_update_unchanged(void **state)
{
    (void)state;
    collection *c = open_for("add", COLLECTION_WRITE);
    const char *folder = in_home("add"), *a = write_file("add/a.md", guide), *b = write_file("add/b.txt", "just a line\n");
    want_added(ADD(c, NULL, folder), 2, 0, 0, 0);
    want_added(ADD(c, NULL, folder), 0, 0, 2, 0);
    want_added(ADD(c, NULL, a, b, a), 0, 0, 2, 0); /* once each */
    write_file("add/b.txt", "another line\n");
    want_added(ADD(c, NULL, folder), 0, 1, 1, 0);
    document info;
    const loaded *l;
    assert_ok(collection_document(c, b, &l, &info));
    assert_string_equal(l->text, "another line\n");
    assert_int_equal(info.version, 2);
    assert_int_equal(info.chars, 13);
    assert_int_equal(grep_collection("add", "just a line"), 0);              /* nor is the old original kept */
    want_added(ADD(c, &(add_opts){.chunk_tokens = -1}, folder), 0, 2, 0, 0); /* other options: done anew */
    assert_ok(collection_document(c, a, &l, &info));
    assert_int_equal(info.chunks, 1);
    assert_string_equal(info.title, "사내 안내");
    write_file("add/a.md", "");
    want_added(ADD(c, NULL, a), 0, 1, 0, 0);
    assert_ok(collection_document(c, a, &l, &info));
    assert_int_equal(info.chunks, 0);
    assert_int_equal(l->n_chars, 0);
    collection_close(c);
}

static void paths_are_identities(void **state)
{
    (void)state;
    char was[1000];
    assert_non_null(getcwd(was, sizeof was));
    write_file("rel/sub/a.md", guide);
    write_file("rel/\xe1\x84\x80\xe1\x85\xa1.txt", "NFD name\n"); /* 가 in jamo */
    assert_int_equal(chdir(in_home("rel")), 0);
    collection *c = open_for("paths", COLLECTION_WRITE);
    want_added(ADD(c, NULL, "."), 2, 0, 0, 0);
    want_added(ADD(c, NULL, "./sub//./a.md"), 0, 0, 1, 0);
    want_added(ADD(c, NULL, "sub/"), 0, 0, 1, 0);
    documents d;
    assert_ok(collection_documents(c, &d));
    assert_int_equal(d.n, 2);
    assert_string_equal(d.d[0].id, "sub/a.md");
    assert_string_equal(d.d[1].id, "가.txt");
    documents_free(&d);
    const loaded *l;
    assert_ok(collection_document(c, "./sub/a.md", &l, NULL));
    assert_string_equal(l->text, guide);
    want_error(collection_document(c, "sub/b.md", &l, NULL), ERR_NOTFOUND, "sub/b.md");
    collection_close(c);
    assert_int_equal(chdir(was), 0);
}

static void failures_are_listed(void **state)
{
    (void)state;
    write_file("fail/good.md", guide);
    write_file("fail/pic.png", "\x89PNG\r\n\x1a\n0000");
    const char *bad = write_file("fail/bad.csv", "a,b\n\"never closed\n");
    write_file("fail/data.bin", "\x01\x02\x03\x04\x05\x06\xff\xfe\xfd\x00\x01");
    collection *c = open_for("fail", COLLECTION_WRITE);
    add_result r = ADD(c, NULL, in_home("fail"));
    assert_int_equal(r.added, 1);
    assert_int_equal(r.skipped, 2); /* no documents by name or content */
    assert_int_equal(r.n_failed, 1);
    assert_string_equal(r.failed[0].path, bad);
    assert_true(strstr(r.failed[0].reason, "never closed") != NULL);
    add_result_free(&r);
    r = ADD(c, NULL, in_home("fail/good.md"), in_home("fail/pic.png"), in_home("fail/none.md"));
    assert_int_equal(r.unchanged, 1);
    assert_int_equal(r.n_failed, 2); /* named ones are not passed over; missing paths come first */
    assert_true(strstr(r.failed[1].reason, "picture") != NULL);
    add_result_free(&r);
    const char *all[] = {in_home("fail/none.md"), in_home("fail/pic.png")};
    want_error(collection_add(c, all, 2, &(add_opts){0}, &r), ERR_INPUT, "none of 2 paths");
    assert_null(r.failed);
    want_error(collection_add(c, all, 1, &(add_opts){0}, &r), ERR_INPUT, "none.md");
    want_error(collection_add(c, all, 1, &(add_opts){.attributes = "[1]"}, &r), ERR_INPUT, "JSON object");
    write_file("fail/good.md", "\xEF\xBB\xBF# 새 제목\n"); /* what was good and is again */
    want_added(ADD(c, NULL, in_home("fail/good.md")), 0, 1, 0, 0);
    collection_close(c);
}

static void cancelled_keeps_what_is_whole(void **state)
{
    (void)state;
    atomic_bool stop;
    atomic_init(&stop, true);
    collection *c = open_for("cancel", COLLECTION_WRITE);
    const char *a = write_file("cancel/a.md", guide);
    add_result r;
    want_error(collection_add(c, &a, 1, &(add_opts){.cancel = &stop}, &r), ERR_CANCELLED, "stopped");
    atomic_store(&stop, false);
    assert_ok(collection_add(c, &a, 1, &(add_opts){.cancel = &stop}, &r));
    want_added(r, 1, 0, 0, 0);
    collection_close(c);
}

/* ---- originals and maps ------------------------------------------------------------------------------------------------- */
static void check_same(const loaded *a, const loaded *b)
{
    assert_string_equal(a->text, b->text);
    assert_int_equal(a->n_chars, b->n_chars);
    assert_int_equal(a->n_pages, b->n_pages);
    assert_int_equal(a->source, b->source);
    assert_string_equal(a->encoding, b->encoding);
    assert_int_equal(a->n_blocks, b->n_blocks);
    assert_int_equal(a->n_anchors, b->n_anchors);
    assert_true(!a->title == !b->title && (!a->title || !strcmp(a->title, b->title)));
    for (usize i = 0; i < a->n_blocks; i++) assert_memory_equal(&a->blocks[i], &b->blocks[i], sizeof(block));
    for (usize i = 0; i < a->n_anchors; i++) {
        const anchor *x = &a->anchors[i], *y = &b->anchors[i];
        assert_true(x->start == y->start && x->end == y->end && x->a == y->a && x->b == y->b);
        for (int k = 0; k < 4; k++) assert_true(x->box[k] - y->box[k] < 0.005f && y->box[k] - x->box[k] < 0.005f);
    }
}

typedef struct {
    collection *c;
    const char *path;
    usize n;
} again;
static err compare_loaded(void *ctx, loaded *d)
{
    again *a = ctx;
    const loaded *l;
    assert_ok(collection_document(a->c, a->path, &l, NULL));
    check_same(l, d);
    a->n++;
    loaded_free(d);
    return OK;
}

/* what comes back is what LOAD made, and the original is the file */
static void documents_come_back(void **state)
{
    (void)state;
    collection *c = open_for("samples", COLLECTION_WRITE);
    want_added(ADD(c, NULL, "samples/docs"), 14, 0, 0, 0);
    documents d;
    assert_ok(collection_documents(c, &d));
    for (usize i = 0; i < d.n; i++) {
        buf file = {0}, original = {0};
        again a = {c, d.d[i].id, 0};
        assert_ok(file_read(&file, d.d[i].path, 0));
        assert_ok(collection_original(c, d.d[i].id, &original));
        assert_true(str_eq(buf_view(&file), buf_view(&original)));
        assert_int_equal(d.d[i].bytes, file.n);
        assert_ok(load_bytes(d.d[i].path, file.p, file.n, compare_loaded, &a));
        assert_int_equal(a.n, 1);
        buf_free(&file);
        buf_free(&original);
    }
    documents_free(&d);
    collection_close(c);
}

static void maps_survive_damage(void **state)
{
    (void)state;
    collection *c = open_for("samples", COLLECTION_READ);
    const loaded *l;
    buf packed = {0};
    assert_ok(collection_document(c, "samples/docs/ko/travel.pdf", &l, NULL));
    assert_ok(map_pack(l, &packed));
    print_message("map of a PDF: %zu words in %zu bytes\n", l->n_anchors, packed.n);
    rng r;
    rng_seed(&r, 3);
    for (int i = 0; i < 3000; i++) {
        loaded d = {.text = mem_strdup(l->text), .text_len = l->text_len};
        usize at = (usize)(rng_u64(&r) % packed.n), n = i % 3 ? packed.n : at;
        char was = packed.p[at];
        packed.p[at] = (char)rng_u64(&r);
        err e = map_unpack((str){packed.p, n}, &d); /* an error or a document that holds what load.h promises */
        if (!e.code)
            assert_ok(load_check(&d));
        else
            assert_int_equal(e.code, ERR_FORMAT);
        packed.p[at] = was;
        loaded_free(&d);
    }
    buf_free(&packed);
    collection_close(c);
}

/* ---- JSONL
 * ------------------------------------------------------------------------------------------------------------------------------
 */
static i64 count_documents(collection *c)
{
    documents d;
    assert_ok(collection_documents(c, &d));
    i64 n = (i64)d.n;
    documents_free(&d);
    return n;
}

static void want_place(collection *c, const char *id, const char *text)
{
    const loaded *l;
    place p;
    buf original = {0};
    assert_ok(collection_document(c, id, &l, NULL));
    assert_string_equal(l->text, text);
    assert_ok(load_place(l, 0, l->n_chars, &p));
    assert_ok(collection_original(c, id, &original));
    str is = {original.p + p.byte_start, (usize)(p.byte_end - p.byte_start)};
    assert_true(str_eq(is, str_of(text)));
    buf_free(&original);
}

static void jsonl_line_by_line(void **state)
{
    (void)state;
    collection *c = open_for("lines", COLLECTION_WRITE);
    const char *f =
        write_file("lines/d.jsonl", "{\"id\":\"a\",\"text\":\"alpha text\"}\n{\"id\":\"b\",\"title\":\"B\",\"text\":\"beta "
                                    "text\",\"year\":2024}\n{\"id\":3,\"text\":\"\"}\n");
    want_added(ADD(c, NULL, f), 3, 0, 0, 0);
    want_added(ADD(c, NULL, f), 0, 0, 3, 0);
    document info;
    const loaded *l;
    assert_ok(collection_document(c, "b", &l, &info));
    assert_string_equal(info.path, f);
    assert_string_equal(info.attributes, "{\"year\":2024}");
    assert_string_equal(l->id, "b");
    want_place(c, "b", "beta text");
    /* a line in front, one changed, one gone, one that only moved */
    write_file("lines/d.jsonl", "{\"id\":\"new\",\"text\":\"in front\"}\n{\"id\":\"b\",\"title\":\"B\",\"text\":\"beta "
                                "text\",\"year\":2024}\n{\"id\":\"a\",\"text\":\"alpha changed\"}\n");
    add_result r = ADD(c, NULL, f);
    assert_int_equal(r.removed, 1);
    want_added(r, 1, 1, 1, 0);
    assert_int_equal(count_documents(c), 3);
    want_place(c, "b", "beta text");
    want_place(c, "a", "alpha changed");
    assert_ok(collection_document(c, "b", &l, &info));
    assert_int_equal(info.version, 1);
    assert_int_equal(grep_collection("lines", "alpha text"), 0);
    want_error(collection_document(c, "3", &l, NULL), ERR_NOTFOUND, "3");
    collection_close(c);
}

static void jsonl_bad_lines_and_repeated_ids(void **state)
{
    (void)state;
    collection *c = open_for("badlines", COLLECTION_WRITE);
    const char *f = write_file(
        "badlines/d.jsonl",
        "{\"id\":\"a\",\"text\":\"one\"}\n{\"id\":\"b\"}\n{\"id\":\"a\",\"text\":\"two\"}\n{\"id\":\"c\",\"text\":\"three\"}\n");
    add_result r = ADD(c, NULL, f);
    assert_int_equal(r.added, 2);
    assert_int_equal(r.n_failed, 2);
    assert_true(strstr(r.failed[0].reason, "line 2") != NULL);
    assert_true(strstr(r.failed[1].reason, "repeat an id") != NULL);
    add_result_free(&r);
    want_place(c, "a", "one");
    r = ADD(c, NULL, f); /* said again, as it still is so */
    want_added(r, 0, 0, 2, 2);
    collection_close(c);
}

/* The same id in two files: it belongs to the one added last, and the other file keeps nothing of it. */
static void ids_belong_to_one_file(void **state)
{
    (void)state;
    collection *c = open_for("owner", COLLECTION_WRITE);
    const char *a =
        write_file("owner/a.jsonl", "{\"id\":\"x\",\"text\":\"from a, secret-one\"}\n{\"id\":\"y\",\"text\":\"only a\"}\n");
    const char *b = write_file("owner/b.jsonl", "{\"id\":\"x\",\"text\":\"from b\"}\n");
    want_added(ADD(c, NULL, a, b), 2, 1, 0, 0);
    want_place(c, "x", "from b");
    want_place(c, "y", "only a");
    assert_int_equal(grep_collection("owner", "secret-one"), 0);
    want_added(ADD(c, NULL, a), 0, 1, 1, 0); /* asked for again */
    want_place(c, "x", "from a, secret-one");
    want_place(c, "y", "only a");
    want_added(ADD(c, NULL, b), 0, 1, 0, 0);
    collection_close(c);
}

static err many_lines(buf *b, int version)
{
    buf_reset(b);
    for (int i = 0; i < 700; i++) buf_fmt(b, "{\"id\":\"l%d\",\"text\":\"line %d of version %d\"}\n", i, i, version);
    return buf_error(b);
}

/* A new version that was stored in part, and then the old file again: what had changed changes back. */
static void interrupted_then_reverted(void **state)
{
    (void)state;
    buf b = {0};
    assert_ok(many_lines(&b, 1));
    char f[500];
    snprintf(f, sizeof f, "%s", write_file("revert/d.jsonl", buf_cstr(&b)));
    collection *c = open_for("revert", COLLECTION_WRITE);
    want_added(ADD(c, NULL, f), 700, 0, 0, 0);
    collection_close(c);
    u64 was = state_of("revert");
    assert_ok(many_lines(&b, 2));
    write_file("revert/d.jsonl", buf_cstr(&b));
    collection *other = open_for("revert2", COLLECTION_WRITE);
    mem_fail_at(INT64_MAX);
    want_added(ADD(other, NULL, f), 700, 0, 0, 0);
    i64 all = mem_fail_count();
    mem_fail_at(0);
    collection_close(other);
    c = open_for("revert", COLLECTION_WRITE);
    const char *paths[] = {f};
    add_result r;
    document info = {0};
    const loaded *l;
    for (i64 n = all / 10; n < all && info.version < 2; n += all / 10) { /* until it stops behind the first batch */
        mem_fail_at(n);
        want_error(collection_add(c, paths, 1, &(add_opts){.quiet = true}, &r), ERR_NOMEM, "memory");
        mem_fail_at(0);
        assert_ok(collection_document(c, "l0", &l, &info));
    }
    assert_int_equal(info.version, 2);
    assert_ok(collection_document(c, "l699", &l, &info));
    assert_int_equal(info.version, 1);
    assert_ok(many_lines(&b, 1));
    write_file("revert/d.jsonl", buf_cstr(&b));
    r = ADD(c, NULL, f);
    assert_true(r.updated > 0 && r.unchanged > 0 && r.updated + r.unchanged == 700);
    add_result_free(&r);
    collection_close(c);
    assert_true(state_of("revert") == was);
    buf_free(&b);
}

/* ---- removing
 * ------------------------------------------------------------------------------------------------------------------------------
 */
static void removed_leaves_nothing(void **state)
{
    (void)state;
    collection *c = open_for("gone", COLLECTION_WRITE);
    buf big = {0};
    const char *words[] = {"zanzibar-memo", "quokka-memo", "marzipan-memo"};
    for (int i = 0; i < 40; i++) {
        buf_reset(&big);
        for (int k = 0; k < (i % 7) * 60 + 3; k++)
            buf_fmt(&big, "# part %d of %s%d\n\nThis is paragraph %d of the %s%d, with the word %s.\n\n", k, words[i % 3], i, k,
                    words[i % 3], i, words[i % 3]);
        char name[40];
        snprintf(name, sizeof name, "gone/%s%d.md", words[i % 3], i);
        want_added(ADD(c, NULL, write_file(name, buf_cstr(&big))), 1, 0, 0, 0);
    }
    buf_free(&big);
    assert_true(grep_collection("gone", "quokka-memo") > 10);
    documents d;
    assert_ok(collection_documents(c, &d));
    const char *out[40];
    usize n = 0;
    i64 removed;
    for (usize i = 0; i < d.n; i++)
        if (strstr(d.d[i].id, "quokka")) out[n++] = d.d[i].id;
    out[n] = "unknown.md";
    want_error(collection_remove(c, out, n + 1, &removed), ERR_NOTFOUND, "unknown.md");
    assert_int_equal(count_documents(c), 40);
    assert_ok(collection_remove(c, out, n, &removed));
    assert_int_equal(removed, n);
    assert_int_equal(grep_collection("gone", "quokka-memo"), 0); /* with the store still open: not in its log either */
    assert_int_equal(count_documents(c), 40 - (i64)n);
    hits h;
    assert_ok(collection_search(c, "quokka", &(search_opts){0}, &h));
    assert_int_equal(h.n, 0);
    hits_free(&h);
    want_added(ADD(c, NULL, out[0]), 1, 0, 0, 0); /* the file is still there */
    documents_free(&d);
    collection_close(c);
    assert_true(grep_collection("gone", "zanzibar-memo") > 0);
}

static void removed_lines_are_blanked(void **state)
{
    (void)state;
    collection *c = open_for("blank", COLLECTION_WRITE);
    const char *f = write_file("blank/d.jsonl", "{\"id\":\"a\",\"text\":\"keep alpha\"}\n{\"id\":\"b\",\"title\":\"secret "
                                                "title\",\"text\":\"secret beta\"}\r\n{\"id\":\"c\",\"text\":\"keep gamma\"}");
    want_added(ADD(c, NULL, f), 3, 0, 0, 0);
    i64 n;
    assert_ok(collection_remove(c, (const char *const[]){"b"}, 1, &n));
    assert_int_equal(n, 1);
    assert_int_equal(grep_collection("blank", "secret"), 0);
    want_place(c, "a", "keep alpha");
    want_place(c, "c", "keep gamma");
    want_added(ADD(c, NULL, f), 1, 0, 2, 0); /* the same file again brings it back */
    want_place(c, "b", "secret beta");
    assert_ok(collection_remove(c, (const char *const[]){f}, 1, &n)); /* a file with all its documents */
    assert_int_equal(n, 3);
    assert_int_equal(grep_collection("blank", "keep"), 0);
    buf utf16 = {0}; /* here no byte is a space: the original goes */
    buf_puts(&utf16, "\xff\xfe");
    for (const char *p = "{\"id\":\"u\",\"text\":\"wide\"}\n{\"id\":\"v\",\"text\":\"more\"}\n"; *p; p++)
        buf_byte(&utf16, *p), buf_byte(&utf16, 0);
    f = in_home("blank/u.jsonl");
    assert_ok(file_replace(f, utf16.p, utf16.n));
    want_added(ADD(c, NULL, f), 2, 0, 0, 0);
    assert_ok(collection_remove(c, (const char *const[]){"u"}, 1, &n));
    buf original = {0};
    want_error(collection_original(c, "v", &original), ERR_NOTFOUND, "not kept");
    buf_free(&utf16);
    buf_free(&original);
    collection_close(c);
}

static void shared_originals_stay(void **state)
{
    (void)state;
    collection *c = open_for("shared", COLLECTION_WRITE);
    const char *a = write_file("shared/a.txt", "the same words\n"), *b = write_file("shared/b.txt", "the same words\n");
    want_added(ADD(c, NULL, a, b), 2, 0, 0, 0);
    i64 n;
    assert_ok(collection_remove(c, &a, 1, &n));
    buf original = {0};
    assert_ok(collection_original(c, b, &original));
    assert_string_equal(buf_cstr(&original), "the same words\n");
    buf_free(&original);
    collection_close(c);
}

/* While another process reads, removing says that traces stay, and the next writer takes them away. */
static void readers_delay_the_scrubbing(void **state)
{
    (void)state;
    collection *c = open_for("held", COLLECTION_WRITE);
    const char *a = write_file("held/a.txt", "lingering words\n"), *b = write_file("held/b.txt", "others\n");
    want_added(ADD(c, NULL, a, b), 2, 0, 0, 0);
    sqlite3 *db;
    sqlite3_stmt *q;
    assert_int_equal(sqlite3_open(in_home("collections/held/store.db"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT id FROM document", -1, &q, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW); /* a snapshot, held */
    sqlite3_busy_timeout(c->db, 50);
    i64 n;
    want_error(collection_remove(c, &a, 1, &n), ERR_BUSY, "traces");
    assert_int_equal(n, 1);
    sqlite3_finalize(q);
    sqlite3_close(db);
    collection_close(c);
    c = open_for("held", COLLECTION_WRITE);
    assert_int_equal(count_documents(c), 1);
    assert_int_equal(grep_collection("held", "lingering"), 0);
    collection_close(c);
}

/* ---- leftovers and memory ----------------------------------------------------------------------------------------------- */
static void leftovers_are_swept(void **state)
{
    (void)state;
    collection *c = open_for("sweep", COLLECTION_WRITE);
    want_added(ADD(c, NULL, write_file("sweep/a.txt", "kept\n")), 1, 0, 0, 0);
    collection_close(c);
    write_file("collections/sweep/blobs/ab/abcdef", "an original that no file refers to");
    write_file("collections/sweep/blobs/ab/.x.tmp-1", "half an original");
    collection_close(open_for("sweep", COLLECTION_WRITE));
    assert_false(file_exists(in_home("collections/sweep/blobs/ab")));
    assert_int_equal(grep_collection("sweep", "kept") > 0, 1);
}

static void memory_runs_out(void **state)
{
    (void)state;
    char a[500], b[500];
    i64 n = 1;
    snprintf(a, sizeof a, "%s", write_file("mem/a.md", guide));
    snprintf(b, sizeof b, "%s",
             write_file("mem/b.jsonl", "{\"id\":\"p\",\"text\":\"one line\",\"n\":1}\n{\"id\":\"q\",\"text\":\"two\"}\n"));
    const char *const paths[] = {a, b};
    const add_opts with = {.quiet = true, .attributes = "{\"k\":\"v\"}"};
    collection *whole = open_for("whole", COLLECTION_WRITE);
    add_result r = add_paths(whole, &with, 2, paths);
    add_result_free(&r);
    collection_close(whole);
    u64 want = state_of("whole");
    for (int done = 0; !done; n += 1 + n / 60) { /* every one at first, then closer than any stage is long */
        collection *c;
        usize before = mem_now();
        char name[40];
        snprintf(name, sizeof name, "mem%lld", (long long)n);
        mem_fail_at(n);
        err e = collection_open(&c, name, COLLECTION_WRITE);
        if (!e.code) e = collection_add(c, paths, 2, &with, &r);
        bool failed = mem_fail_count() >= n;
        mem_fail_at(0);
        done = !failed;
        if (!e.code)
            add_result_free(&r);
        else if (e.code != ERR_NOMEM && e.code != ERR_INPUT)
            fail_msg("allocation %lld failed: %s: %s", (long long)n, err_name(e.code), e.what);
        collection_close(c);
        assert_int_equal(mem_now(), before);
        if (c && e.code) { /* and the same call completes the work */
            c = open_for(name, COLLECTION_WRITE);
            r = add_paths(c, &with, 2, paths);
            if (r.added + r.unchanged != 3)
                fail_msg("allocation %lld failed, then %lld were added, %lld unchanged, %zu failed: %s", (long long)n,
                         (long long)r.added, (long long)r.unchanged, r.n_failed, r.n_failed ? r.failed[0].reason : "");
            add_result_free(&r);
            collection_close(c);
        }
        if (c) assert_true(state_of(name) == want);
        assert_ok(file_remove_tree(in_home("collections/%s", name)));
    }
    print_message("allocations up to the %lldth failed in turn\n", (long long)n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(one_writer_many_readers),
        cmocka_unit_test(meta_values),
        cmocka_unit_test(damage_is_said),
        cmocka_unit_test(indexes_are_remade),
        cmocka_unit_test(readers_remake_together),
        cmocka_unit_test(add_update_unchanged),
        cmocka_unit_test(paths_are_identities),
        cmocka_unit_test(failures_are_listed),
        cmocka_unit_test(cancelled_keeps_what_is_whole),
        cmocka_unit_test(documents_come_back),
        cmocka_unit_test(maps_survive_damage),
        cmocka_unit_test(jsonl_line_by_line),
        cmocka_unit_test(jsonl_bad_lines_and_repeated_ids),
        cmocka_unit_test(ids_belong_to_one_file),
        cmocka_unit_test(interrupted_then_reverted),
        cmocka_unit_test(removed_leaves_nothing),
        cmocka_unit_test(removed_lines_are_blanked),
        cmocka_unit_test(shared_originals_stay),
        cmocka_unit_test(readers_delay_the_scrubbing),
        cmocka_unit_test(leftovers_are_swept),
        cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests_name("store", tests, home_make, home_drop);
}
