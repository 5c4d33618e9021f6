/* tests/rag/test_load_docx.c - LOAD of Word documents: what is text and what is not, blocks, paragraph numbers, hostile containers
 * and XML. Real documents with their expected texts: test_load_recall.c. */
#include "docx_help.h"

#define P(text) "<w:p><w:r><w:t>" text "</w:t></w:r></w:p>"
#define STYLED(style, text) "<w:p><w:pPr><w:pStyle w:val=\"" style "\"/></w:pPr><w:r><w:t>" text "</w:t></w:r></w:p>"
#define ITEM(text) "<w:p><w:pPr><w:numPr><w:ilvl w:val=\"0\"/><w:numId w:val=\"3\"/></w:numPr></w:pPr><w:r><w:t>" text "</w:t></w:r></w:p>"
#define CELL(text) "<w:tc><w:p><w:r><w:t>" text "</w:t></w:r></w:p></w:tc>"

static loaded load_body(const char *body, const char *styles, const char *footnotes)
{
    buf b = docx_body(body, styles, footnotes);
    loaded d = load_one("x.docx", buf_view(&b));
    buf_free(&b);
    no_err(load_check(&d));
    check_nfc(&d);
    return d;
}

static void whole(void **state)
{
    (void)state;
    static const char styles[] =
        "<w:style w:styleId=\"1\"><w:name w:val=\"heading 1\"/></w:style>"
        "<w:style w:styleId=\"Own\"><w:name w:val=\"own\"/><w:basedOn w:val=\"1\"/></w:style>"
        "<w:style w:styleId=\"T\"><w:name w:val=\"Title\"/></w:style>"
        "<w:style w:styleId=\"L\"><w:name w:val=\"List Bullet\"/><w:pPr><w:numPr><w:numId w:val=\"1\"/></w:numPr></w:pPr></w:style>"
        "<w:style w:styleId=\"round\"><w:basedOn w:val=\"round\"/></w:style>";
    loaded d = load_body(
        STYLED("T", "여행 안내") STYLED("Own", "제1장  총칙") P("본문 e\xCC\x81.") ITEM("하나") STYLED("L", "둘") STYLED("round", "셋")
            "<w:tbl><w:tr>" CELL("이름") CELL("값") "</w:tr><w:tr>" CELL("가") "<w:tc><w:p><w:r><w:t>1</w:t></w:r></w:p>" P("2") "</w:tc></w:tr></w:tbl>"
            "<w:p><w:r><w:t>끝</w:t><w:footnoteReference w:id=\"2\"/></w:r><w:r><w:t>.</w:t></w:r></w:p>" P("뒤"),
        styles, "<w:footnote w:type=\"separator\" w:id=\"0\">" P("no") "</w:footnote><w:footnote w:id=\"2\">" P("각주") "</w:footnote>");
    assert_string_equal(d.title, "여행 안내");
    assert_int_equal(d.source, SOURCE_ELEMENT);
    assert_int_equal(d.n_pages, 0);
    assert_int_equal(d.n_blocks, 9);
    want_block(&d, 0, BLOCK_HEADING, 1, "여행 안내");
    want_block(&d, 1, BLOCK_HEADING, 1, "제1장 총칙");
    want_block(&d, 2, BLOCK_TEXT, 0, "본문 é.");
    want_block(&d, 3, BLOCK_LIST, 0, "하나\n둘");
    want_block(&d, 4, BLOCK_TEXT, 0, "셋");
    want_block(&d, 5, BLOCK_TABLE, 0, "이름\t값\n가\t1 2");
    want_block(&d, 6, BLOCK_TEXT, 0, "끝.");
    want_block(&d, 7, BLOCK_TEXT, 0, "각주");
    want_block(&d, 8, BLOCK_TEXT, 0, "뒤");
    place p;
    no_err(load_place(&d, d.blocks[4].start, d.blocks[4].end, &p));
    assert_int_equal(p.element, 6); /* the sixth paragraph */
    no_err(load_place(&d, d.blocks[7].start, d.blocks[7].end, &p));
    assert_int_equal(p.element, 13);
    loaded_free(&d);
}

static void texts(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"<w:p><w:r><w:t>a</w:t></w:r><w:del><w:r><w:delText>b</w:delText></w:r></w:del><w:ins><w:r><w:t>c</w:t></w:r></w:ins></w:p>", "ac"},
        {"<w:p><w:moveFrom><w:r><w:t>a</w:t></w:r></w:moveFrom><w:moveTo><w:r><w:t>b</w:t></w:r></w:moveTo></w:p>", "b"},
        {"<w:p><w:pPr><w:rPr><w:del/></w:rPr></w:pPr><w:r><w:t>a</w:t></w:r></w:p>" P("b") P("c"), "ab\n\nc"}, /* deleted paragraph mark */
        {"<w:p><w:r><w:t xml:space=\"preserve\"> a </w:t></w:r><w:r><w:t xml:space=\"preserve\"> b</w:t><w:tab/><w:t>c</w:t></w:r></w:p>", "a b c"},
        {"<w:p><w:r><w:t>a</w:t><w:br/><w:t>b</w:t><w:noBreakHyphen/><w:t>c</w:t></w:r></w:p>", "a\nb-c"},
        {"<w:p><w:r><w:fldChar w:fldCharType=\"begin\"/></w:r><w:r><w:instrText>PAGE</w:instrText></w:r><w:r><w:t>code</w:t></w:r>"
         "<w:r><w:fldChar w:fldCharType=\"separate\"/></w:r><w:r><w:t>7</w:t></w:r><w:r><w:fldChar w:fldCharType=\"end\"/></w:r></w:p>", "7"},
        {"<w:p><w:r><w:fldChar w:fldCharType=\"begin\"/><w:t>lost</w:t></w:r></w:p>" P("not lost"), "not lost"},
        {"<w:p><w:fldSimple w:instr=\"X\"><w:r><w:t>result</w:t></w:r></w:fldSimple><w:hyperlink><w:r><w:t> link</w:t></w:r></w:hyperlink></w:p>", "result link"},
        {"<w:p><w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r><w:r><w:rPr><w:vanish w:val=\"0\"/></w:rPr><w:t>shown</w:t></w:r></w:p>", "shown"},
        {"<w:sdt><w:sdtPr/><w:sdtContent>" P("inside") "</w:sdtContent></w:sdt>", "inside"},
        {"<w:p><w:r><mc:AlternateContent><mc:Choice><w:txbxContent>" P("box") "</w:txbxContent></mc:Choice><mc:Fallback><w:txbxContent>" P("box")
         "</w:txbxContent></mc:Fallback></mc:AlternateContent><w:t>text</w:t></w:r></w:p>" P("after"), "text\n\nbox\n\nafter"},
        {"<w:p><m:oMath><m:r><m:t>E=m</m:t></m:r></m:oMath></w:p>", "E=m"},
        {"<w:tbl><w:tr>" CELL("one cell") "</w:tr></w:tbl>", "one cell"}, /* layout: a block of text */
        {"<w:tbl><w:tr>" CELL("a") "<w:tc><w:tbl><w:tr>" CELL("b") CELL("c") "</w:tr></w:tbl></w:tc></w:tr></w:tbl>", "a\n\nb\tc"},
        {"<w:tbl><w:tr>" CELL("a") CELL("") CELL("c") "</w:tr><w:tr><w:trPr><w:del/></w:trPr>" CELL("gone") "</w:tr></w:tbl>", "a\t\tc"},
        {"", ""},
    };
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        loaded d = load_body(cases[i].in, NULL, NULL);
        if (strcmp(d.text, cases[i].out)) fail_msg("%s: '%s' instead of '%s'", cases[i].in, d.text, cases[i].out);
        loaded_free(&d);
    }
}

/* numbers as Word makes them: levels, formats, a heading that counts by its style, two lists of one definition, a new start */
static void numbering(void **state)
{
    (void)state;
#define LVL(n, format, text) "<w:lvl w:ilvl=\"" n "\"><w:start w:val=\"1\"/><w:numFmt w:val=\"" format "\"/><w:lvlText w:val=\"" text "\"/></w:lvl>"
#define NUM(id, level, text) "<w:p><w:pPr><w:numPr><w:ilvl w:val=\"" level "\"/><w:numId w:val=\"" id "\"/></w:numPr></w:pPr><w:r><w:t>" text "</w:t></w:r></w:p>"
    docx_part part[] = {
        {"word/document.xml",
         S("<w:document" W_SPACE "><w:body>" STYLED("H", "총칙") NUM("2", "0", "a") NUM("2", "1", "b") NUM("2", "1", "c") NUM("2", "0", "d") NUM("2", "1", "e")
           NUM("3", "0", "f") NUM("4", "0", "g") STYLED("H", "끝") NUM("5", "0", "bullet") NUM("5", "1", "ix") NUM("5", "2", "aa") NUM("99", "0", "none") "</w:body></w:document>")},
        {"word/_rels/document.xml.rels", S("<Relationships><Relationship Id=\"r1\" Type=\"" W_REL "styles\" Target=\"styles.xml\"/>"
                                           "<Relationship Id=\"r2\" Type=\"" W_REL "numbering\" Target=\"numbering.xml\"/></Relationships>")},
        {"word/styles.xml", S("<w:styles" W_SPACE "><w:style w:styleId=\"H\"><w:name w:val=\"heading 2\"/><w:pPr><w:numPr><w:numId w:val=\"1\"/></w:numPr></w:pPr></w:style></w:styles>")},
        {"word/numbering.xml",
         S("<w:numbering" W_SPACE "><w:abstractNum w:abstractNumId=\"7\">" LVL("0", "decimal", "제%1조") "</w:abstractNum>"
           "<w:abstractNum w:abstractNumId=\"8\">" LVL("0", "decimal", "%1.") LVL("1", "ganada", "%1-%2)") "</w:abstractNum>"
           "<w:abstractNum w:abstractNumId=\"9\">" LVL("0", "bullet", "*") LVL("1", "upperRoman", "%2") LVL("2", "lowerLetter", "(%3)") "</w:abstractNum>"
           "<w:num w:numId=\"1\"><w:abstractNumId w:val=\"7\"/></w:num><w:num w:numId=\"2\"><w:abstractNumId w:val=\"8\"/></w:num>"
           "<w:num w:numId=\"3\"><w:abstractNumId w:val=\"8\"/></w:num>"
           "<w:num w:numId=\"4\"><w:abstractNumId w:val=\"8\"/><w:lvlOverride w:ilvl=\"0\"><w:startOverride w:val=\"9\"/></w:lvlOverride></w:num>"
           "<w:num w:numId=\"5\"><w:abstractNumId w:val=\"9\"/></w:num></w:numbering>")},
    };
    buf b = docx_of(part, COUNT_OF(part));
    loaded d = load_one("x.docx", buf_view(&b));
    no_err(load_check(&d));
    assert_string_equal(d.text, "제1조 총칙\n\n1. a\n1-가) b\n1-나) c\n2. d\n2-가) e\n3. f\n9. g\n\n제2조 끝\n\nbullet\nI ix\n(a) aa\nnone");
    assert_string_equal(d.title, "제1조 총칙");
    loaded_free(&d);
    buf_free(&b);
}

static void charts(void **state)
{
    (void)state;
#define PT(i, v) "<c:pt idx=\"" i "\"><c:v>" v "</c:v></c:pt>"
#define SERIES(name, a, b) "<c:ser><c:tx>" PT("0", name) "</c:tx><c:cat>" PT("0", "봄") PT("1", "가을") "</c:cat><c:val>" PT("0", a) PT("1", b) "</c:val></c:ser>"
    docx_part part[] = {
        {"word/document.xml", S("<w:document" W_SPACE " xmlns:r=\"r\" xmlns:c=\"c\"><w:body><w:p><w:r><w:t>앞</w:t><w:drawing><c:chart r:id=\"c1\"/></w:drawing></w:r></w:p>" P("뒤")
                                "<w:p><w:r><w:drawing><c:chart r:id=\"c2\"/></w:drawing></w:r></w:p></w:body></w:document>")},
        {"word/_rels/document.xml.rels", S("<Relationships><Relationship Id=\"c1\" Type=\"" W_REL "chart\" Target=\"charts/chart1.xml\"/>"
                                           "<Relationship Id=\"c2\" Type=\"" W_REL "chart\" Target=\"charts/bad.xml\"/></Relationships>")},
        {"word/charts/chart1.xml", S("<c:chartSpace xmlns:c=\"c\">" SERIES("하나", "1", "4.4000000000000004") SERIES("둘", "3", "5") "</c:chartSpace>")},
        {"word/charts/bad.xml", S("<c:chart")}, /* what is wrong with a chart does not cost the text */
    };
    buf b = docx_of(part, COUNT_OF(part));
    loaded d = load_one("x.docx", buf_view(&b));
    no_err(load_check(&d));
    assert_int_equal(d.n_blocks, 3);
    want_block(&d, 1, BLOCK_TABLE, 0, "\t하나\t둘\n봄\t1\t3\n가을\t4.4\t5");
    want_block(&d, 2, BLOCK_TEXT, 0, "뒤");
    loaded_free(&d);
    buf_free(&b);
}

static void refuse(str bytes, err_code code, const char *part)
{
    docs to = {0};
    want_err(load_str("x.docx", bytes, &to), code, part);
    assert_int_equal(to.n, 0);
    docs_free(&to);
}

static void refused(void **state)
{
    (void)state;
    buf big = {0}, b;
    refuse(S("PK\003\004"), ERR_FORMAT, "damaged container");
    refuse(S("\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1 more"), ERR_FORMAT, "password");
    docx_part none[] = {{"word/documentary.txt", S("x")}};
    b = docx_of(none, 1);
    refuse(buf_view(&b), ERR_FORMAT, "no part word/document.xml");
    buf_free(&b);
    docx_part bad[] = {{"word/document.xml", S("<w:document><w:body>")}};
    b = docx_of(bad, 1);
    refuse(buf_view(&b), ERR_FORMAT, "not well-formed");
    buf_free(&b);
    docx_part laughs[] = {{"word/document.xml", S("<!DOCTYPE a [<!ENTITY b \"bbbbbbbbbb\"><!ENTITY c \"&b;&b;&b;\">]><a>&c;</a>")}};
    b = docx_of(laughs, 1);
    refuse(buf_view(&b), ERR_FORMAT, "DTD");
    buf_free(&b);
    for (int i = 0; i < 5000; i++) buf_puts(&big, "<w:sdt>"); /* nesting */
    docx_part deep[] = {{"word/document.xml", buf_view(&big)}};
    b = docx_of(deep, 1);
    refuse(buf_view(&b), ERR_FORMAT, "word/document.xml");
    buf_free(&b);
    buf_reset(&big); /* a bomb: 80 MiB of nothing in some 80 kB */
    for (int i = 0; i < 80; i++) {
        char *mega = mem_zero(1 << 20);
        buf_put(&big, mega, 1 << 20);
        mem_free(mega);
    }
    docx_part bomb[] = {{"word/document.xml", buf_view(&big)}};
    b = docx_of(bomb, 1);
    assert_true(b.n < 200000);
    refuse(buf_view(&b), ERR_FORMAT, "unpacks to more than 64 MiB");
    buf_free(&b);
    buf_free(&big);
}

/* one note, referred to a thousand times, is there once: references do not multiply text */
static void no_amplification(void **state)
{
    (void)state;
    buf body = {0};
    for (int i = 0; i < 1000; i++) buf_puts(&body, "<w:p><w:r><w:footnoteReference w:id=\"1\"/></w:r></w:p>");
    loaded d = load_body(buf_cstr(&body), NULL, "<w:footnote w:id=\"1\"><w:p><w:r><w:t>note</w:t><w:footnoteReference w:id=\"1\"/></w:r></w:p></w:footnote>");
    assert_string_equal(d.text, "note");
    loaded_free(&d);
    buf_free(&body);
}

static void damaged(void **state)
{
    (void)state;
    buf b = docx_body(P("text") ITEM("item"), "", "");
    rng r;
    rng_seed(&r, 5);
    for (int i = 0; i < 60; i++) {
        docs to = {0};
        usize at = (usize)(rng_u64(&r) % b.n);
        char was = b.p[at];
        b.p[at] ^= (char)(1 << rng_u64(&r) % 8);
        err e = load_str("x.docx", buf_view(&b), &to);
        if (e.code && e.code != ERR_FORMAT && e.code != ERR_UNSUPPORTED) fail_msg("byte %zu: %s: %s", at, err_name(e.code), e.what);
        b.p[at] = was;
        docs_free(&to);
    }
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole),    cmocka_unit_test(texts), cmocka_unit_test(numbering), cmocka_unit_test(charts), cmocka_unit_test(refused),
                                       cmocka_unit_test(no_amplification), cmocka_unit_test(damaged)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
