/* Searching a collection: hits that are exactly the text, filters inside the search, blend and ranks recomputed from their parts,
 * a reader beside a writer, the embedder that a collection is bound to, a thousand random questions over real documents. Tests
 * with vectors are skipped without e5-small.gguf. */
#include "store_help.h"
#include "rag/store.h"
#include <math.h>
#include <signal.h>
#include <sys/wait.h>

static const char memo[] = "{\"id\":\"leave\",\"title\":\"연차 규정\",\"text\":\"사용하지 않은 연차는 8일까지 다음 해로 이월할 "
                           "수 있다.\",\"year\":2024,\"team\":\"인사\"}\n"
                           "{\"id\":\"room\",\"title\":\"회의실\",\"text\":\"회의실은 두 주 전부터 예약할 수 있고, 15분 늦으면 "
                           "취소된다.\",\"year\":2024,\"team\":\"총무\"}\n"
                           "{\"id\":\"trip\",\"title\":\"출장\",\"text\":\"해외 출장의 숙박비는 1박에 200달러까지 "
                           "지급한다.\",\"year\":2025,\"team\":\"총무\"}\n"
                           "{\"id\":\"pass\",\"title\":\"Passwords\",\"text\":\"Passwords have twelve characters and are changed "
                           "every 180 days.\",\"year\":2025,\"team\":\"IT\"}\n"
                           "{\"id\":\"vpn\",\"title\":\"Remote work\",\"text\":\"Employees who work from home connect through "
                           "the VPN and lock the screen.\",\"year\":2025,\"team\":\"IT\"}\n"
                           "{\"id\":\"park\",\"title\":\"주차\",\"text\":\"주차장은 선착순이며 방문객은 두 시간까지 "
                           "무료이다.\",\"year\":2023,\"team\":\"총무\"}\n";

static hits ask(collection *c, const char *question, const search_opts *o)
{
    hits h;
    assert_ok(collection_search(c, question, o, &h));
    for (usize i = 0; i < h.n; i++) {
        const loaded *l;
        document info;
        place p;
        assert_int_equal(h.h[i].rank, i + 1);
        if (i) assert_true(h.h[i].score <= h.h[i - 1].score);
        assert_true(h.h[i].coverage >= 0 && h.h[i].coverage <= 1.0001f);
        assert_ok(collection_document(c, h.h[i].document, &l, &info));
        assert_true(str_eq(range_of(l, h.h[i].start, h.h[i].end), str_of(h.h[i].text)));
        assert_string_equal(h.h[i].title, info.title ? info.title : "");
        assert_ok(load_place(l, h.h[i].start, h.h[i].end, &p));
        assert_int_equal(p.page, h.h[i].page);
        assert_int_equal(p.line, h.h[i].line);
        mem_free(p.rects);
    }
    return h;
}

static void want_first(collection *c, const char *question, const search_opts *o, const char *id)
{
    hits h = ask(c, question, o);
    assert_true(h.n > 0);
    assert_string_equal(h.h[0].document, id);
    hits_free(&h);
}

static void want_hits(collection *c, const char *question, const search_opts *o, usize n)
{
    hits h = ask(c, question, o);
    if (h.n != n) fail_msg("%zu hits for '%s', expected %zu", h.n, question, n);
    hits_free(&h);
}

/* ---- keywords ----------------------------------------------------------------------------------------------------------- */
static void keywords_find(void **state)
{
    (void)state;
    collection *c = open_for("memo", COLLECTION_WRITE);
    want_added(ADD(c, (&(add_opts){.owner = "kim"}), write_file("memo/a.jsonl", memo)), 6, 0, 0, 0);
    search_opts o = {0};
    want_first(c, "연차를 이월할 수 있나요?", &o, "leave");
    want_first(c, "회의실 예약", &o, "room");
    want_first(c, "how often must a password be changed", &o, "pass");
    want_first(c, "숙박비는 얼마까지인가요", &o, "trip");
    hits h = ask(c, "회의실은 언제부터 예약할 수 있나요?", &o);
    assert_true(h.h[0].coverage > 0.5f && h.top_keyword == h.h[0].keyword && h.h[0].score == h.h[0].keyword);
    assert_true(h.top_cosine == 0 && h.h[0].cosine == 0);
    hits_free(&h);
    want_hits(c, "", &o, 0);
    want_hits(c, " ?!… \n", &o, 0);
    want_hits(c, "무엇인가요?", &o, 0);
    want_hits(c, "zzzzunknown", &o, 0);
    want_hits(c, "수 있다 회의실 주차장 연차", &(search_opts){.k = 2}, 2);
    collection_close(c);
}

static void wrong_options_are_said(void **state)
{
    (void)state;
    collection *c = open_for("memo", COLLECTION_READ);
    hits h;
    want_error(collection_search(c, "주차", &(search_opts){.mode = SEARCH_DENSE}, &h), ERR_INPUT, "needs its embedder");
    want_error(collection_search(c, "주차", &(search_opts){.mode = SEARCH_HYBRID}, &h), ERR_INPUT, "needs its embedder");
    want_error(collection_search(c, "주차", &(search_opts){.weight = 1.5f}, &h), ERR_INPUT, "weight");
    want_error(collection_search(c, "주차", &(search_opts){.weight = NAN}, &h), ERR_INPUT, "weight");
    want_error(collection_search(c, "주차", &(search_opts){.k = -1}, &h), ERR_INPUT, "hits");
    want_error(collection_search(c, "주차", &(search_opts){.filter = "[1]"}, &h), ERR_INPUT, "JSON object");
    want_error(collection_search(c, "주차", &(search_opts){.filter = "{"}, &h), ERR_INPUT, "JSON object");
    assert_null(h.h);
    collection_close(c);
}

static void filters_work_inside(void **state)
{
    (void)state;
    collection *c = open_for("filter", COLLECTION_WRITE);
    buf b = {0};
    for (int i = 0; i < 400; i++)
        buf_fmt(&b, "{\"id\":\"d%d\",\"text\":\"주차 안내 %s\",\"year\":%d,\"open\":%s}\n", i, i % 20 ? "주차 주차 주차" : "",
                2000 + i % 20, i % 40 ? "false" : "true");
    want_added(ADD(c, (&(add_opts){.owner = "kim"}), write_file("filter/a.jsonl", buf_cstr(&b))), 400, 0, 0, 0);
    want_added(ADD(c, (&(add_opts){.owner = "lee", .attributes = "{\"year\":1999,\"team\":\"총무\"}"}),
                   write_file("filter/b.txt", "주차 이야기\n")),
               1, 0, 0, 0);
    buf_free(&b);
    /* those that pass score worst of all: all the same k of them come */
    want_hits(c, "주차", &(search_opts){.k = 15, .filter = "{\"year\":2000}"}, 15);
    want_hits(c, "주차", &(search_opts){.k = 50, .filter = "{\"year\":2000}"}, 20);
    want_hits(c, "주차", &(search_opts){.k = 50, .filter = "{\"year\":2000.0,\"open\":true}"}, 10);
    want_hits(c, "주차", &(search_opts){.k = 50, .filter = "{\"year\":\"2000\"}"}, 0);
    want_hits(c, "주차", &(search_opts){.k = 50, .filter = "{\"none\":1}"}, 0);
    want_hits(c, "주차", &(search_opts){.k = 500, .filter = "{}"}, 401);
    want_hits(c, "주차", &(search_opts){.k = 500, .owner = "kim"}, 400);
    want_hits(c, "주차", &(search_opts){.k = 500, .owner = "lee"}, 1);
    want_hits(c, "주차", &(search_opts){.k = 500, .owner = "lee", .filter = "{\"team\":\"총무\",\"year\":1999}"}, 1);
    want_hits(c, "주차", &(search_opts){.k = 500, .owner = "park"}, 0);
    want_hits(c, "주차", &(search_opts){.k = 500, .owner = ""}, 0);
    want_added(ADD(c, (&(add_opts){.owner = "park"}), write_file("filter/c.txt", "주차 하나 더\n")), 1, 0, 0, 0);
    want_hits(c, "주차", &(search_opts){.k = 500, .owner = "park"}, 1); /* the mask of before is not used */
    collection_close(c);
}

/* What is above a chunk is found with it, but is no part of it. */
static void headings_are_searched_too(void **state)
{
    (void)state;
    buf b = {0};
    buf_puts(&b, "# 취업규칙\n\n## 출장\n\n### 제1조\n\n숙박비는 영수증으로 정산하며 늦어도 열흘 안에 신청하고 부서장의 결재를 "
                 "받아야 한다. 교통비는 실비로 지급한다.\n\n");
    buf_puts(&b, "## 교육\n\n### 제2조\n\n비용은 영수증으로 정산하며 늦어도 한 달 안에 신청하고 부서장의 결재를 받아야 한다. "
                 "교재비는 실비로 지급한다.\n");
    collection *c = open_for("heads", COLLECTION_WRITE);
    want_added(ADD(c, NULL, write_file("heads/rule.md", buf_cstr(&b))), 1, 0, 0, 0);
    hits h = ask(c, "교육 비용의 정산", &(search_opts){0});
    assert_true(h.n == 2 && strstr(h.h[0].text, "제2조"));
    hits_free(&h);
    h = ask(c, "출장 결재", &(search_opts){0});
    assert_true(h.n == 2 && strstr(h.h[0].text, "제1조"));
    hits_free(&h);
    buf_free(&b);
    collection_close(c);
}

/* ---- a reader beside a writer ------------------------------------------------------------------------------------------- */
static void write_on(void)
{
    collection *c = open_for("busy", COLLECTION_WRITE);
    for (int i = 0; i < 60; i++) {
        char name[40], text[200];
        snprintf(name, sizeof name, "busy/%d.md", i % 12);
        snprintf(text, sizeof text, "# 문서 %d\n\n주차 안내의 %d번째 판이다.\n", i % 12, i);
        add_result r = ADD(c, NULL, write_file(name, text));
        add_result_free(&r);
    }
    collection_close(c);
}

static void readers_never_see_halves(void **state)
{
    (void)state;
    int status = 0, rounds = 0;
    collection *c = open_for("busy", COLLECTION_WRITE);
    want_added(ADD(c, NULL, write_file("busy/0.md", "# 문서 0\n\n주차 안내\n")), 1, 0, 0, 0);
    collection_close(c);
    pid_t child = fork();
    if (!child) {
        write_on();
        _exit(0);
    }
    c = open_for("busy", COLLECTION_READ);
    while (waitpid(child, &status, WNOHANG) == 0) {
        hits h;
        err e = collection_search(c, "주차 안내", &(search_opts){.k = 20}, &h);
        if (e.code)
            want_error(e, ERR_BUSY, "changes faster");
        else
            assert_true(h.n >= 1 && h.n <= 12);
        for (usize i = 0; i < h.n; i++) assert_true(strstr(h.h[i].text, "주차 안내") != NULL);
        hits_free(&h);
        rounds++;
    }
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    want_hits(c, "주차 안내", &(search_opts){.k = 20}, 12);
    collection_close(c);
    print_message("%d searches while another process wrote\n", rounds);
    assert_true(rounds > 0);
}

static void memory_runs_out(void **state)
{
    (void)state;
    for (i64 n = 1, done = 0; !done; n++) {
        usize before = mem_now();
        collection *c;
        hits h = {0};
        mem_fail_at(n);
        err e = collection_open(&c, "memo", COLLECTION_READ);
        if (!e.code) e = collection_search(c, "회의실 예약", &(search_opts){.owner = "kim", .filter = "{\"team\":\"총무\"}"}, &h);
        done = mem_fail_count() < n;
        mem_fail_at(0);
        if (!e.code)
            assert_int_equal(h.n, 1);
        else if (e.code != ERR_NOMEM)
            fail_msg("allocation %lld failed: %s: %s", (long long)n, err_name(e.code), e.what);
        else
            assert_null(h.h);
        hits_free(&h);
        collection_close(c);
        assert_int_equal(mem_now(), before);
    }
}

/* ---- with an embedder --------------------------------------------------------------------------------------------------- */
static engine *embedder;
static engine *need_embedder(void)
{
    const char *path = test_model("e5-small.gguf");
    SKIP_WITHOUT(path, "e5-small.gguf");
    if (!embedder) assert_ok(engine_open(&embedder, path, &(engine_opts){.threads = 2}));
    return embedder;
}

static void meaning_finds(void **state)
{
    (void)state;
    engine *e = need_embedder();
    collection *c = open_for("vec", COLLECTION_WRITE);
    want_added(ADD(c, (&(add_opts){.embedder = e, .embedder_name = "e5-small"}), write_file("vec/a.jsonl", memo)), 6, 0, 0, 0);
    search_opts dense = {.mode = SEARCH_DENSE, .embedder = e}, both = {.embedder = e};
    want_first(c, "남은 휴가를 내년에 쓸 수 있어?", &dense, "leave");
    want_first(c, "What must I do when I'm not at the office?", &dense, "vpn"); /* no word in common */
    want_first(c, "손님 자동차는 어디에 세우나요?", &dense, "park");
    want_first(c, "남은 연차", &both, "leave");
    want_hits(c, "?", &both, 0);
    want_hits(c, "?", &dense, 0);
    want_hits(c, "무엇인가요?", &both, 0); /* no terms: CLI.md's promise, in every mode that has keywords */
    hits h = ask(c, "자동차", &both);
    assert_int_equal(h.n, 6); /* none has the word, all have a place */
    assert_true(h.top_keyword == 0 && h.top_cosine > 0.5f);
    hits_free(&h);
    collection_close(c);
}

typedef struct {
    const char *id;
    float keyword, cosine, score;
} parts;
static int by_id(const void *a, const void *b) { return strcmp(((const parts *)a)->id, ((const parts *)b)->id); }

/* The blend is what the two searches alone say, put together here once more. */
static void blend_is_the_sum_of_its_parts(void **state)
{
    (void)state;
    engine *e = need_embedder();
    collection *c = open_for("vec", COLLECTION_READ);
    const char *questions[] = {"연차 이월", "password for remote work", "두 시간 무료 주차", "회의실 취소"};
    float weights[] = {0.5f, 0.3f, 0.9f};
    for (usize i = 0; i < COUNT_OF(questions) * COUNT_OF(weights); i++) {
        const char *q = questions[i / COUNT_OF(weights)];
        float w = weights[i % COUNT_OF(weights)];
        hits d = ask(c, q, &(search_opts){.mode = SEARCH_DENSE, .embedder = e}),
             k = ask(c, q, &(search_opts){.mode = SEARCH_BM25});
        hits h = ask(c, q, &(search_opts){.weight = w, .embedder = e, .mode = SEARCH_HYBRID});
        assert_int_equal(d.n, 6);
        assert_int_equal(h.n, 6);
        float best = d.h[0].cosine, least = d.h[5].cosine;
        parts p[6];
        for (usize x = 0; x < 6; x++) {
            p[x] = (parts){d.h[x].document, 0, d.h[x].cosine, 0};
            for (usize y = 0; y < k.n; y++)
                if (!strcmp(k.h[y].document, p[x].id)) p[x].keyword = k.h[y].keyword;
            p[x].score = (k.n ? w * p[x].keyword / k.h[0].keyword : 0) + (1 - w) * (p[x].cosine - least) / (best - least);
        }
        qsort(p, 6, sizeof *p, by_id);
        for (usize x = 0; x < 6; x++) {
            const parts key = {.id = h.h[x].document}, *is = bsearch(&key, p, 6, sizeof *p, by_id);
            assert_true(fabsf(is->score - h.h[x].score) < 0.02f); /* the least cosine of the collection comes from 8 bits */
            assert_true(fabsf(is->cosine - h.h[x].cosine) < 1e-4f);
            assert_true(fabsf(is->keyword - h.h[x].keyword) < 1e-4f);
        }
        assert_true(fabsf(h.top_cosine - best) < 1e-4f);
        assert_true(h.mean_cosine <= best && h.mean_cosine >= least - 0.02f);
        hits_free(&d);
        hits_free(&k);
        hits_free(&h);
    }
    hits r = ask(c, "연차 이월", &(search_opts){.rrf = true, .embedder = e}),
         k = ask(c, "연차 이월", &(search_opts){.mode = SEARCH_BM25});
    assert_true(r.h[0].score <= 2.0f / 61 + 1e-6f && r.h[0].score >= 1.0f / 61);
    assert_string_equal(r.h[0].document, k.h[0].document);
    hits_free(&r);
    hits_free(&k);
    collection_close(c);
}

static void embedders_are_fixed(void **state)
{
    (void)state;
    engine *e = need_embedder();
    collection *c = open_for("vec", COLLECTION_WRITE);
    const char *a = write_file("vec/more.txt", "한 줄 더\n");
    add_result r;
    hits h;
    char *name, *id;
    assert_ok(collection_meta_get(c, "embedder", &name));
    assert_string_equal(name, "e5-small");
    mem_free(name);
    want_error(collection_add(c, &a, 1, &(add_opts){0}, &r), ERR_INPUT, "begun with the embedder e5-small, now none");
    assert_ok(collection_meta_get(c, "embedder_id", &id));
    assert_ok(collection_meta_put(c, "embedder_id", "0123456789abcdef"));
    want_error(collection_add(c, &a, 1, &(add_opts){.embedder = e, .embedder_name = "other"}, &r), ERR_INPUT,
               "e5-small (01234567), now other");
    want_error(collection_search(c, "주차", &(search_opts){.embedder = e}, &h), ERR_INPUT, "e5-small (01234567)");
    assert_ok(collection_meta_put(c, "embedder_id", id));
    mem_free(id);
    want_added(ADD(c, (&(add_opts){.embedder = e, .embedder_name = "by another path"}), a), 1, 0, 0, 0); /* the file decides */
    collection_close(c);
    c = open_for("memo", COLLECTION_WRITE); /* begun without one */
    want_error(collection_add(c, &a, 1, &(add_opts){.embedder = e, .embedder_name = "e5-small"}, &r), ERR_INPUT,
               "begun without an embedder");
    want_first(c, "회의실 예약", &(search_opts){.embedder = e}, "room"); /* auto: keywords are all there is */
    want_error(collection_search(c, "주차", &(search_opts){.embedder = e, .mode = SEARCH_HYBRID}, &h), ERR_INPUT, "no vectors");
    collection_close(c);
}

static void long_documents_by_windows(void **state)
{
    (void)state;
    engine *e = need_embedder();
    buf b = {0};
    for (int i = 0; i < 30; i++) buf_fmt(&b, "이 문단은 창고 재고 조사의 %d번째 단계를 설명하며 특별한 내용이 없다. ", i);
    buf_puts(&b, "방문객의 자동차는 지하 2층에 세운다.");
    const char *a = write_file("win/long.txt", buf_cstr(&b));
    float cosine[3];
    for (int i = 0; i < 3; i++) {
        char name[20];
        snprintf(name, sizeof name, "win%d", i);
        collection *c = open_for(name, COLLECTION_WRITE);
        add_opts o = {.embedder = e,
                      .embedder_name = "e5-small",
                      .chunk_tokens = -1,
                      .window = i == 1 ? WINDOW_FIRST : WINDOW_MEAN,
                      .best_window = i == 2};
        want_added(ADD(c, &o, a), 1, 0, 0, 0);
        hits h = ask(c, "손님 차는 어디에 주차하나요?", &(search_opts){.embedder = e, .mode = SEARCH_DENSE});
        assert_int_equal(h.n, 1); /* however many vectors it has */
        cosine[i] = h.h[0].cosine;
        hits_free(&h);
        collection_close(c);
    }
    assert_true(cosine[2] >= cosine[1] && cosine[0] != cosine[1]); /* the best window is at least as near as the first */
    buf_free(&b);
}

/* ---- a thousand questions over real documents --------------------------------------------------------------------------- */
static err unpack(const char *archive, const char *to)
{
    buf out = {0}, errors = {0};
    int status = 0;
    TRY(file_mkdirs(to));
    const char *argv[] = {"tar", "--zstd", "-xf", archive, "-C", to, NULL};
    err bad = proc_run(&(proc_spec){.argv = argv, .seconds = 60}, &out, &errors, &status);
    buf_free(&out);
    buf_free(&errors);
    return bad.code ? bad : status ? err_new(ERR_REMOTE, "tar ended with %d", status) : OK;
}

/* words out of the middle of a document */
static void question_from(rng *r, const loaded *l, char out[200])
{
    u32 from = l->n_chars > 60 ? (u32)(rng_u64(r) % (l->n_chars - 50)) : 0, to = from + 40 < l->n_chars ? from + 40 : l->n_chars;
    str s = range_of(l, from, to);
    snprintf(out, 200, "%.*s", (int)(s.n < 190 ? s.n : 190), s.p);
}

static void random_hits_are_exact(void **state)
{
    (void)state;
    const char *md = test_shared("data/docs-md-ko/rust-book-ko.tar.zst"), *law = test_shared("data/docs-law-ko/plain"),
               *pdf = test_shared("data/docs-pdf");
    SKIP_WITHOUT(md && law && pdf ? md : NULL, "docs-md-ko, docs-law-ko, docs-pdf");
    collection *c = open_for("real", COLLECTION_WRITE);
    if (unpack(md, in_home("real-md")).code) print_message("tar with zstd is not here, so Markdown is left out\n");
    const char *paths[] = {in_home("real-md"), law, in_home("pdf/autorag"), in_home("pdf/ko-bok")};
    char pdfs[2][500];
    snprintf(pdfs[0], sizeof pdfs[0], "%s/autorag", pdf);
    snprintf(pdfs[1], sizeof pdfs[1], "%s/ko-bok", pdf);
    paths[2] = pdfs[0], paths[3] = pdfs[1];
    add_result r = ADD(c, NULL, paths[0], paths[1], paths[2], paths[3]);
    print_message("%lld documents, %lld chunks in %.1f s, %zu failed\n", (long long)r.added, (long long)r.chunks, r.seconds,
                  r.n_failed);
    add_result_free(&r);
    documents d;
    rng random;
    usize n_hits = 0, questions = 0, found = 0;
    assert_ok(collection_documents(c, &d));
    rng_seed(&random, 5);
    double searching = 0;
    while (n_hits < 1000) {
        const document *from = &d.d[rng_u64(&random) % d.n];
        const loaded *l;
        char question[200];
        if (!from->chunks) continue;
        assert_ok(collection_document(c, from->id, &l, NULL));
        question_from(&random, l, question);
        double start = clock_s();
        hits quick;
        assert_ok(collection_search(c, question, &(search_opts){.k = 10}, &quick));
        searching += clock_s() - start;
        hits_free(&quick);
        hits h = ask(c, question, &(search_opts){.k = 10});
        bool it = false;
        for (usize i = 0; i < h.n; i++) it |= !strcmp(h.h[i].document, from->id);
        found += it;
        questions++;
        n_hits += h.n;
        hits_free(&h);
    }
    print_message("%zu questions, %zu hits, all exact; %zu found their document among 10; %.2f ms a search\n", questions, n_hits,
                  found, searching * 1e3 / (double)questions);
    assert_true(found * 10 >= questions * 8);
    documents_free(&d);
    collection_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keywords_find),
        cmocka_unit_test(wrong_options_are_said),
        cmocka_unit_test(filters_work_inside),
        cmocka_unit_test(headings_are_searched_too),
        cmocka_unit_test(readers_never_see_halves),
        cmocka_unit_test(memory_runs_out),
        cmocka_unit_test(random_hits_are_exact),
        cmocka_unit_test(meaning_finds),
        cmocka_unit_test(blend_is_the_sum_of_its_parts),
        cmocka_unit_test(embedders_are_fixed),
        cmocka_unit_test(long_documents_by_windows),
    };
    int bad = cmocka_run_group_tests_name("retrieve", tests, home_make, home_drop);
    engine_close(embedder);
    return bad;
}
