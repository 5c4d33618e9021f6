/* tests/rag/answer_help.h - a small collection of made-up documents for the tests of answering, in a folder of its own. */
#ifndef MARU_TEST_ANSWER_HELP_H
#define MARU_TEST_ANSWER_HELP_H
#include "../support/support.h"
#include "rag/answer.h"
#include <ftw.h>
#include <sys/stat.h>

typedef struct {
    char folder[64];
    collection *c;
} fixture_set;

static const struct {
    const char *name, *text;
} fixture_docs[] = {
    {"camp.md", "# 물푸레 야영장 이용 규칙\n\n## 빌리기\n\n① 텐트는 9일까지 빌릴 수 있다.\n② 침낭은 12일까지 빌릴 수 있다.\n③ "
                "늦게 돌려준 사람은 하루에 4,500원의 연체료를 낸다.\n\n## 안전\n\n22시 이후에는 모닥불을 피울 수 없다. "
                "계곡 물은 끓여서 마신다.\n\n## 숙소 요금\n\n방의 요금은 다음과 같다.\n\n| 방 | 평일 | 주말 |\n|---|---|---|\n| "
                "작은 방 | 41,000원 | 53,000원 |\n| 큰 방 | 67,000원 | 88,000원 |\n| 다락방 | 29,000원 | 37,000원 |\n\n"
                "## 버너 오류\n\n- FX-21: 가스통을 다시 끼운다.\n- FX-22: 노즐을 청소한다.\n"},
    {"kayak.md",
     "# Heron Lake Boat House\n\n## Rental\n\nA kayak may be kept for six hours. The deposit for a kayak is EUR 75, for a canoe "
     "EUR 110.\n\n## Gate\n\nThe gate is opened by the Heron warden at 07:30. Dogs travel free of charge in a "
     "canoe but are not allowed in a kayak.\n"},
    {"paddles.csv", "code,name,price,note\nPD-7,wooden paddle,18,oiled twice a year\nPD-9,carbon paddle,42,keep away from "
                    "fire\nVS-2,life vest,27,checked every spring\n"},
};

static int fixture_open(void **state)
{
    static fixture_set f;
    char path[COUNT_OF(fixture_docs)][128];
    const char *list[COUNT_OF(fixture_docs)];
    add_result r;
    strcpy(f.folder, "/tmp/maru-answer-XXXXXX");
    if (!mkdtemp(f.folder)) return -1;
    home_set(f.folder);
    for (usize i = 0; i < COUNT_OF(fixture_docs); i++) {
        snprintf(path[i], sizeof path[i], "%s/%s", f.folder, fixture_docs[i].name);
        assert_ok(file_replace(path[i], fixture_docs[i].text, strlen(fixture_docs[i].text)));
        list[i] = path[i];
    }
    assert_ok(collection_open(&f.c, "camp", COLLECTION_WRITE));
    assert_ok(collection_add(f.c, list, COUNT_OF(list), &(add_opts){.quiet = true, .chunk_tokens = 120}, &r));
    assert_int_equal(r.added, COUNT_OF(list));
    add_result_free(&r);
    *state = &f;
    return 0;
}

static int fixture_remove(const char *path, const struct stat *s, int kind, struct FTW *at)
{
    (void)s, (void)kind, (void)at;
    return remove(path);
}

static int fixture_close(void **state)
{
    fixture_set *f = *state;
    collection_close(f->c);
    return nftw(f->folder, fixture_remove, 8, FTW_DEPTH | FTW_PHYS);
}
#endif
