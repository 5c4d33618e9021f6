/* tests/text/test_unicode.c - normal forms, classes, folding and sentence ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include "text/text.h"

static void check_form(err (*form)(buf *, str), str in, str want)
{
    buf out = {0};
    assert_int_equal(form(&out, in).code, ERR_OK);
    assert_int_equal(out.n, want.n);
    assert_memory_equal(buf_cstr(&out), want.p, want.n);
    buf_free(&out);
}

static void test_nfc(void **state)
{
    (void)state;
    check_form(text_nfc, S(""), S(""));
    check_form(text_nfc, S("plain"), S("plain"));
    check_form(text_nfc, S("\u1112\u1161\u11AB\u1100\u1173\u11AF"), S("한글"));
    check_form(text_nfc, S("e\u0301 \u00E9"), S("\u00E9 \u00E9"));
    check_form(text_nfc, S("a\u0316\u0301"), S("\u00E1\u0316"));                    /* marks are ordered, then composed */
    check_form(text_nfc, S("\u212B ﬁ ①"), S("\u00C5 ﬁ ①"));                         /* compatibility forms stay */
    check_form(text_nfc, S("a\xFFz\xED\xA0\x80"), S("a\uFFFDz\uFFFD\uFFFD\uFFFD")); /* a bad byte, a surrogate */
    check_form(text_nfkc, S("ﬁ ① Ａ ㎏ \u3131"), S("fi 1 A kg \u1100"));
    check_form(text_nfkc, S("\uFDFA"),
               S("\u0635\u0644\u0649 \u0627\u0644\u0644\u0647 \u0639\u0644\u064A\u0647 \u0648\u0633\u0644\u0645")); /* 1 to 18 */
}

/* A long text is formed in stretches: the cuts must not show, whatever stands there. */
static void test_nfc_long(void **state)
{
    (void)state;
    static const struct {
        str piece, formed;
    } cases[] = {{{"\u1112\u1161\u11AB", 9}, {"한", 3}},
                 {{"e\u0301", 3}, {"\u00E9", 2}},
                 {{"\u0995\u09C7\u09BE", 9}, {"\u0995\u09CB", 6}},
                 {{"가", 3}, {"가", 3}},
                 {{"ab", 2}, {"ab", 2}},
                 {{"\u0B15\u0B47\u0B56", 9}, {"\u0B15\u0B48", 6}}};
    for (usize c = 0; c < COUNT_OF(cases); c++)
        for (int shift = 0; shift < 3; shift++) {
            buf in = {0}, want = {0};
            for (int i = 0; i < shift; i++) buf_byte(&in, 'x'), buf_byte(&want, 'x');
            for (int i = 0; i < 3000; i++) buf_str(&in, cases[c].piece), buf_str(&want, cases[c].formed);
            check_form(text_nfc, buf_view(&in), buf_view(&want));
            buf_free(&in);
            buf_free(&want);
        }
}

static void test_nfc_marks_only(void **state)
{
    (void)state;
    buf in = {0}, out = {0};
    for (int i = 0; i < 250000; i++) buf_puts(&in, "\u0301\u0316"); /* 1 MB in the worst order */
    double start = clock_s();
    assert_int_equal(text_nfc(&out, buf_view(&in)).code, ERR_OK);
    assert_true(clock_s() - start < 20);
    assert_int_equal(out.n, in.n);
    buf_free(&in);
    buf_free(&out);
}

static void test_lower(void **state)
{
    (void)state;
    check_form(text_lower, S("Hello, WORLD 가 ÀÉ ΑΣ ς \u1E9E"), S("hello, world 가 àé ασ σ ß"));
    check_form(text_lower, S("Ａ\u0130\xFF"), S("ａi\uFFFD"));
}

static void test_classes(void **state)
{
    (void)state;
    assert_true(text_is_hangul(0xAC00) && text_is_hangul(0xD7A3) && text_is_hangul(0x1100) && text_is_hangul(0x3131));
    assert_false(text_is_hangul('a') || text_is_hangul(0x4E00) || text_is_hangul(0xD7A4));
    assert_true(text_is_han(0x4E00) && text_is_han(0x20000) && text_is_han(0xF900));
    assert_false(text_is_han(0xAC00) || text_is_han(0x3042));
    assert_true(text_is_letter('a') && text_is_letter(0xAC00) && text_is_letter(0x301) && text_is_letter(0x3042));
    assert_false(text_is_letter('1') || text_is_letter(' ') || text_is_letter('_') || text_is_letter(0x110000));
    assert_true(text_is_digit('7') && text_is_digit(0x2460) && text_is_digit(0xBD) && text_is_digit(0x2163));
    assert_false(text_is_digit('x') || text_is_digit(0xAC00));
    assert_true(text_is_space(' ') && text_is_space('\n') && text_is_space(0xA0) && text_is_space(0x3000) &&
                text_is_space(0x2028));
    assert_false(text_is_space(0x200B) || text_is_space(0x180E) || text_is_space('x') || text_is_space(0));
}

/* ---- sentences ---------------------------------------------------------------------------------------------------------- */
/* `marked` has | where a sentence ends; it is taken out before asking */
static void check_sentences(const char *marked)
{
    buf text = {0}, got = {0};
    for (const char *p = marked; *p; p++)
        if (*p != '|') buf_byte(&text, *p);
    str s = buf_view(&text);
    for (usize at = 0; at < s.n;) {
        usize end = text_sentence_end(s, at);
        assert_true(end > at && end <= s.n);
        buf_put(&got, s.p + at, end - at);
        if (end < s.n) buf_byte(&got, '|');
        at = end;
    }
    assert_string_equal(buf_cstr(&got), marked);
    buf_free(&text);
    buf_free(&got);
}

static void test_sentences_korean(void **state)
{
    (void)state;
    check_sentences("출장비는 실비로 지급한다.| 다만, 식비는 정액으로 한다.| 끝.");
    check_sentences("그렇습니까?| 네, 그렇습니다!| 알겠어요.");
    check_sentences("제3조. 출장자는 신청서를 낸다.| 제4조제1항. 예외로 한다.");
    check_sentences("2024. 3. 15. 시행한다.| 다음 날부터 적용한다.");
    check_sentences("이 법은 2024. 3. 15.부터 시행한다.| 부칙");
    check_sentences("원주율은 3.14이다.| 반올림하면 3.1이다.");
    check_sentences("1. 신청서를 쓴다.| 그리고 낸다.");
    check_sentences("가. 소멸시효에 관하여 본다.| 나머지는 뒤에 본다.");
    check_sentences("21의2. 데이터에 관한 사항을 정한다.| 이상.");
    check_sentences("이유는 1. 시험이 어렵고 2. 시간이 없다는 것이다.| 끝.");
    check_sentences("\"정말?\" 하고 물었다.| \"네.\"라고 답했다.");
    check_sentences("그는 \"간다.\"라고 했다.| 그리고 갔다.");
    check_sentences("음... 그건 모르겠다.| 정말?!| 그래.");
    check_sentences("위키 문장이다.[1]| 다음 문장이다.[23]| 끝");
    check_sentences("자세한 것은 https://example.com/a.b?c=d 를 본다.| main.c 파일도 본다.");
    check_sentences("다음을 참고한다(규정 제5조.).| 이상이다.");
    check_sentences("中文。|下一句！| 最后");
}

static void test_sentences_english(void **state)
{
    (void)state;
    check_sentences("One sentence.| Two sentences!| Three?");
    check_sentences("first in small letters.| second one.");
    check_sentences("Dr. Smith met J. R. Tolkien in the U.S. Army.| He left.");
    check_sentences("See e.g. Figure 3, i.e. the last one.| Then stop.");
    check_sentences("It costs 3.50 dollars.| Cheap.");
    check_sentences("Apples, pears, etc. are fruit.| Carrots, etc.| They are not.");
    check_sentences("See Fig. 2 and No. 7, pp. 3-5.| He said no.| Next.");
    check_sentences("Section 2. Travel costs are paid.| Others are not.");
    check_sentences("1. Open the file.| 2. Close it.");
    check_sentences("He said \"Stop.\"| Then (after a while.)| he went.");
    check_sentences("\"Really?\" she asked.| \"Yes.\"| He nodded.");
    check_sentences("Wait... what is it?| Well...| Nothing.");
    check_sentences("Read README.md and src/main.c first.| Then www.example.com.| Done.");
    check_sentences("It was 1999.| Then came 2000.");
    check_sentences("At 5 p.m. we left.| **Bold end.**| Next.");
    check_sentences("Version 1.2.3 is out.| Get v1.2.4.| Now.");
}

static void test_sentences_lines(void **state)
{
    (void)state;
    check_sentences("A wrapped\nline goes on.| Next.");
    check_sentences("No full stop here|\n\nA new paragraph");
    check_sentences("# Heading|\nText below it.| More.");
    check_sentences("Intro:|\n- first item|\n- second item|\n\nAfter");
    check_sentences("① 첫째 항|\n② 둘째 항|\n제2조 (정의)|\n\n끝");
    check_sentences("민법 제1조,\n제2조에 따른다.|\n제3조 (정의)");
    check_sentences("1. 하나|\n2. 둘|\n가. 셋|\n나) 넷|\n(5) 다섯|\n[6] 여섯");
    check_sentences("Windows line|\r\n\r\nnext.| end");
    check_sentences("   lead.| \n  \n tail  ");
}

static void test_sentences_table(void **state)
{
    (void)state;
    str s = S("Title\n| a | b |\n| c | d |\ntext");
    usize end = text_sentence_end(s, 0);
    assert_int_equal(end, 5);
    end = text_sentence_end(s, end);
    assert_int_equal(end, 15);
    end = text_sentence_end(s, end);
    assert_int_equal(end, 25);
    assert_int_equal(text_sentence_end(s, end), s.n);
}

/* every start makes progress, no text is lost, hostile texts take linear time */
static void test_sentences_hostile(void **state)
{
    (void)state;
    static const char *const unit[] = {".",  ". ",   "\n", "\n \n", "(",   "a.",   "1. ",   "\"",
                                       ".)", "\xFF", "가", "|\n",   " \t", "3. 4", "e.g. ", "제1조"};
    assert_int_equal(text_sentence_end(S(""), 0), 0);
    assert_int_equal(text_sentence_end(S("abc"), 7), 3);
    double start = clock_s();
    for (usize u = 0; u < COUNT_OF(unit); u++) {
        buf text = {0};
        while (text.n < 300000) buf_puts(&text, unit[u]);
        str s = buf_view(&text);
        for (usize at = 0; at < s.n;) {
            usize end = text_sentence_end(s, at);
            assert_true(end > at && end <= s.n);
            at = end;
        }
        buf_free(&text);
    }
    assert_true(clock_s() - start < 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nfc),
        cmocka_unit_test(test_nfc_long),
        cmocka_unit_test(test_nfc_marks_only),
        cmocka_unit_test(test_lower),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_sentences_korean),
        cmocka_unit_test(test_sentences_english),
        cmocka_unit_test(test_sentences_lines),
        cmocka_unit_test(test_sentences_table),
        cmocka_unit_test(test_sentences_hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
