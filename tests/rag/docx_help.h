/* tests/rag/docx_help.h - small Word documents made on the spot, with libzip. */
#ifndef DOCX_HELP_H
#define DOCX_HELP_H
#include "load_help.h"
#include <zip.h>

typedef struct {
    const char *name;
    str text;
} docx_part;
#define W_SPACE " xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\""
#define W_REL "http://schemas.openxmlformats.org/officeDocument/2006/relationships/"

/* owned by the caller, buf_free */
static inline buf docx_of(const docx_part *part, usize n)
{
    zip_error_t e;
    zip_error_init(&e);
    zip_source_t *to = zip_source_buffer_create(NULL, 0, 0, &e);
    assert_non_null(to);
    zip_t *z = zip_open_from_source(to, ZIP_TRUNCATE, &e);
    assert_non_null(z);
    zip_source_keep(to);
    for (usize i = 0; i < n; i++) {
        zip_source_t *s = zip_source_buffer(z, part[i].text.p, part[i].text.n, 0);
        assert_true(zip_file_add(z, part[i].name, s, ZIP_FL_ENC_UTF_8) >= 0);
    }
    assert_int_equal(zip_close(z), 0);
    buf out = {0};
    char piece[4096];
    assert_int_equal(zip_source_open(to), 0);
    for (zip_int64_t k; (k = zip_source_read(to, piece, sizeof piece)) > 0;) buf_put(&out, piece, (usize)k);
    zip_source_close(to);
    zip_source_free(to);
    return out;
}

/* body: what stands in <w:body>; styles and notes as root elements' content, or NULL */
static inline buf docx_body(const char *body, const char *styles, const char *footnotes)
{
    buf main = {0}, s = {0}, f = {0};
    buf_fmt(&main, "<w:document" W_SPACE " xmlns:mc=\"http://schemas.openxmlformats.org/markup-compatibility/2006\" "
                   "xmlns:m=\"http://schemas.openxmlformats.org/officeDocument/2006/math\"><w:body>");
    buf_puts(&main, body);
    buf_puts(&main, "</w:body></w:document>");
    buf_puts(&s, "<w:styles" W_SPACE ">"), buf_puts(&s, styles ? styles : ""), buf_puts(&s, "</w:styles>");
    buf_puts(&f, "<w:footnotes" W_SPACE ">"), buf_puts(&f, footnotes ? footnotes : ""), buf_puts(&f, "</w:footnotes>");
    docx_part part[] = {
        {"_rels/.rels", S("<Relationships><Relationship Id=\"r1\" Type=\"" W_REL "officeDocument\" Target=\"word/document.xml\"/></Relationships>")},
        {"word/document.xml", buf_view(&main)},
        {"word/_rels/document.xml.rels",
         S("<Relationships><Relationship Id=\"r1\" Type=\"" W_REL "styles\" Target=\"styles.xml\"/>"
           "<Relationship Id=\"r2\" Type=\"" W_REL "footnotes\" Target=\"/word/footnotes.xml\"/></Relationships>")},
        {"word/styles.xml", buf_view(&s)},
        {"word/footnotes.xml", buf_view(&f)},
    };
    buf out = docx_of(part, COUNT_OF(part));
    buf_free(&main);
    buf_free(&s);
    buf_free(&f);
    return out;
}
#endif
