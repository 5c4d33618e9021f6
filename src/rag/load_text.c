/* rag/load_text.c - plain text: the file itself, paragraphs between blank lines.
 *
 * Numbered lines (제1조, 1., 가.) are not made headings: in plain text a numbered line is as often a list item or a table cell,
 * and a heading that is none would be put in front of chunks it has nothing to do with. */
#include "rag/load_canon.h"

err load_text(const load_input *in)
{
    TRY(load_canonical(in->bytes, in->out));
    return load_paragraphs(in->out);
}
