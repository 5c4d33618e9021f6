/* rag/load_pdf.h - inside of PDF loading: the words of one page, and the order in which they are read (load_pdf_layout.c). */
#ifndef MARU_RAG_LOAD_PDF_H
#define MARU_RAG_LOAD_PDF_H
#include "rag/load_canon.h"

typedef struct {
    float box[4];                           /* x0,y0,x1,y1 in points, origin top left */
    u32   line, block;                      /* of the page, as pdftotext found them, from 0 and ascending */
} pdf_word;
typedef enum { PDF_SPACE, PDF_CELL /* the next cell of a row */, PDF_LINE, PDF_BLOCK } pdf_before;
typedef struct {
    u32 word;
    u8  before;                             /* pdf_before */
    u8  kind;                               /* BLOCK_TEXT or BLOCK_TABLE */
} pdf_step;
/* Every word once, in reading order: columns one after the other, tables row by row. out: [n]; before of the first is PDF_BLOCK. */
err pdf_layout(const pdf_word *, usize n, float page_width, pdf_step *out);
#endif
