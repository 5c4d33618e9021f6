/* rag/load_canon.h - inside of LOAD: bytes to characters, characters to canonical text with anchors, and the lines and
 * blocks of that text. Every loader ends in a `canon`, so the promises of load.h are kept in one place. */
#ifndef MARU_RAG_LOAD_CANON_H
#define MARU_RAG_LOAD_CANON_H
#include "rag/load.h"

/* ---- bytes to characters (load_decode.c) ------------------------------------------------------------------------------ */
typedef struct {
    buf         utf8;      /* strict UTF-8 without the byte order mark; line ends and controls as they were */
    const char *encoding;  /* static name */
    u32         mark;      /* bytes of the byte order mark */
} decoded;
err  load_decode_text(str bytes, decoded *out);                    /* as load_decode; owned: buf_free(&out->utf8) */
err  load_decode_html(str bytes, decoded *out);                    /* the charset that the page declares is tried as well */
u32  load_width(const char *encoding, u32 code_point);             /* bytes that this character takes in the original */

/* ---- characters to canonical text (load_canon.c) ----------------------------------------------------------------------
 * Characters come in order, each with where it came from. Normalisation works on segments: a segment starts at a character
 * that can never compose with what is before it, so segments can be normalised one by one and the whole is still NFC. What a
 * segment does not change keeps its own anchor character by character; what it changes maps as a whole. */
enum { CANON_SEGMENT = 256 /* code points; more combining marks in a row are refused, as sorting them takes quadratic time */ };
typedef struct {
    u32    code_point, serial; /* serial: of the tag it came with; 0: none */
    anchor from;               /* a, b, box; start and end unused */
} canon_unit;
typedef struct {
    buf         text, before, after; /* result; scratch */
    u32         n_chars;
    anchor     *anchors;
    usize       n_anchors, cap_anchors;
    source_kind source;
    const char *encoding;
    anchor      tag;                 /* of canon_put */
    u32         serial, last_serial; /* current tag; tag of the last anchor */
    canon_unit  held[CANON_SEGMENT];
    u32         n_held;
    u32         n_controls, control, control_at; /* dropped; the first of them */
    u32         cr_at, cr_to;
    bool        cr, out_of_memory, too_long;
    u32         too_long_at;
} canon; /* large: from mem_zero, not on the stack of deep code */
err  canon_new(canon **, source_kind, const char *encoding);
void canon_free(canon *);
void canon_byte(canon *, u32 code_point, u32 a, u32 b); /* SOURCE_BYTES: character made from original bytes [a,b); makes CR, CRLF, FF, VT, NEL a '\n', drops controls */
void canon_tag(canon *, u32 a, u32 b, const float box[4]); /* the others: what is put from now on has one new anchor */
void canon_put(canon *, u32 code_point);                   /* with the tag; controls are dropped */
void canon_gap(canon *, u32 code_point);                   /* separator that is in no anchor: ' ', '\t' or '\n' */
u32  canon_here(canon *);                                  /* characters so far; only where a separator is before or comes next */
err  canon_end(canon *, loaded *out);                      /* moves text, anchors, source and encoding into `out`; `c` is still to be freed */
err  load_canonical(str bytes, loaded *out);               /* decode and canonicalise a text format; refuses what is mostly controls */

/* ---- lines and blocks -------------------------------------------------------------------------------------------------- */
typedef struct {
    str   text;       /* line without '\n' */
    usize at;         /* byte offset of its start */
    u32   start, end; /* in characters */
} text_line;
typedef struct {
    str   rest; /* whole text */
    usize at;
    u32   start;
} line_reader;
bool line_next(line_reader *, text_line *);
bool line_blank(str); /* only white space, by Unicode */

typedef struct {
    block *item;
    usize  n, cap;
    bool   bad;
} block_list;
void blocks_add(block_list *, u32 start, u32 end, int kind, int level); /* empty ranges are left out */
err  blocks_end(block_list *, loaded *out);                             /* moves them into `out`, or frees them */
void blocks_free(block_list *);

err  load_paragraphs(loaded *);             /* BLOCK_TEXT between blank lines; the body of load_text and of each JSONL text */
/* *out, owned: one line of NFC text without controls, white space collapsed, cut after max_chars; NULL when nothing is left */
err  load_label(str utf8, usize max_chars, char **out);

/* ---- across the fence of a confined child (load.c) ---------------------------------------------------------------------- */
err loaded_write(const loaded *, buf *out);
err loaded_read(str, loaded *out);          /* trusts nothing: FORMAT unless it is a document that load_check accepts */
#endif
