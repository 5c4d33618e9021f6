/* rag/load_docx.h - inside of DOCX loading: the numbers that Word makes for lists and headings (load_docx_numbers.c). */
#ifndef MARU_RAG_LOAD_DOCX_H
#define MARU_RAG_LOAD_DOCX_H
#include "rag/load_canon.h"
#include <libxml/tree.h>

bool        docx_is(const xmlNode *, const char *name);         /* an element of the word processor's names */
const xmlNode *docx_child(const xmlNode *, const char *name);   /* NULL: none; of NULL: none */
const char *docx_attribute(const xmlNode *, const char *name);  /* by local name; borrowed; NULL: none */
int         docx_number(const char *, int otherwise);

typedef struct numbers numbers;
err  numbers_new(numbers **, const xmlDoc *numbering);          /* NULL: a document without lists */
void numbers_free(numbers *);
/* Counts one paragraph of a list on and appends what stands before it ("1.", "제3조", "(a)"); nothing for bullets. level: from 0 */
void numbers_next(numbers *, const char *num_id, int level, buf *label);
#endif
