/* rag/load.h - LOAD: any document in, one canonical text out with an exact map back to where each character came from.
 * Canonical text: NFC, UTF-8, '\n' line ends, no NUL, no other control characters than '\t' and '\n'. All positions are
 * Unicode code points into it, half-open. */
#ifndef MARU_RAG_LOAD_H
#define MARU_RAG_LOAD_H
#include "base/base.h"

typedef enum { BLOCK_TEXT, BLOCK_HEADING, BLOCK_LIST, BLOCK_TABLE, BLOCK_CODE /* front matter too */, BLOCK_ROW /* csv */ } block_kind;
typedef struct {
    u32 start, end;                         /* canonical range; blocks are ordered, do not overlap, and leave only white space between them */
    u8  kind, level;                        /* block_kind; heading level 1..6; 1 for a row of column names */
} block;
typedef enum { SOURCE_BYTES /* a,b: byte range of the original file */, SOURCE_PDF /* a: page from 1; box */, SOURCE_ELEMENT /* a: ordinal of the HTML element in document order, or of the paragraph (docx); b: source line of HTML, else 0 */ } source_kind;
/* One anchor covers [start,end) of the canonical text; ordered, not overlapping. Text formats: one per run in which canonical
 * and original advance alike (split where normalisation changed something: such a run has box[0] = 1 and maps only as a
 * whole); dropped controls and the CR of CR LF lie between anchors. pdf: one per word; html: one per text node; docx: one per paragraph. */
typedef struct {
    u32   start, end;
    u32   a, b;
    float box[4];                           /* SOURCE_PDF: x0,y0,x1,y1 in points, origin top left */
} anchor;
typedef struct {
    char   *text;                           /* canonical, NUL-terminated */
    usize   text_len;                       /* bytes */
    u32     n_chars;
    char   *title;                          /* first heading, <title>, PDF title, JSONL "title", else NULL */
    block  *blocks;  usize n_blocks;
    anchor *anchors; usize n_anchors;
    u32     source;                         /* source_kind */
    u32     n_pages;                        /* 0: the format has none */
    char   *id;                             /* JSONL "id", else NULL */
    char   *meta;                           /* JSON object of further fields (JSONL), or NULL */
    char   *encoding;                       /* "utf-8", "utf-16le", "cp949", ... as read */
} loaded;                                   /* owned: loaded_free */
void loaded_free(loaded *);

/* Loads the bytes of one file. JSONL gives one document per line, every other format one. `each` takes ownership of what it
 * is given; an error of it stops. Formats are recognised by content first, then by the name's ending: txt, md, csv, jsonl, html,
 * docx, pdf; what has none of these endings and reads as text is text. Parsers of html, docx and pdf run in a confined child. Errors:
 * FORMAT (what is wrong and where: byte or line), UNSUPPORTED (format named). Bad JSONL lines are one FORMAT error at the end
 * that counts and names them; the good lines have been given to `each` by then. */
err load_bytes(const char *name, const void *bytes, usize n, err (*each)(void *ctx, loaded *), void *ctx);

/* Where a canonical range is in the original. */
typedef struct {
    u32 page;                               /* 0: none */
    u32 line;                               /* of the canonical text, from 1 */
    struct { u32 page; float box[4]; } *rects; usize n_rects; /* pdf: one per line of words touched, merged; owned: mem_free */
    u64 byte_start, byte_end;               /* text formats: original bytes; else 0,0 */
    u32 element;                            /* html: first element; docx: first paragraph; else 0 */
} place;
err load_place(const loaded *, u32 start, u32 end, place *out);

/* ---- load_*.c: one per format, one row each in load.c ----
 * They fill `out`, which is empty before and may be half filled after an error: the caller frees it in either case. */
typedef struct { const char *name; str bytes; loaded *out; } load_input;
err load_text(const load_input *);          /* txt: paragraphs; headings by numbering (제1조, 1., 가.) are not guessed */
err load_markdown(const load_input *);      /* the source itself is the canonical text; front matter is a block of its own */
err load_csv(const load_input *);           /* RFC 4180; separators , ; tab |; each row a BLOCK_ROW; the canonical text is the file's own */
err load_html(const load_input *);
err load_pdf(const load_input *);
err load_docx(const load_input *);
err load_jsonl(const char *name, str bytes, err (*each)(void *ctx, loaded *), void *ctx); /* {"id","title"?,"text"}; further strings, numbers, booleans: meta */
err load_decode(str bytes, buf *utf8, const char **encoding); /* BOM, UTF-8, UTF-16 by statistics, else CP949; FORMAT if none fits */

/* The parsers that load_html, load_docx and load_pdf run confined, in this process: for the confined child, and for fuzzing. */
err load_html_parse(str utf8, const char *encoding, loaded *out);
err load_docx_parse(str zip, loaded *out);
err load_pdf_parse(str xhtml, loaded *out); /* what `pdftotext -bbox-layout` prints */
err load_check(const loaded *);             /* BUG unless every promise above holds, but for NFC (text_nfc tells) */
#endif
