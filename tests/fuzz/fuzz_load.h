/* tests/fuzz/fuzz_load.h - the promise of rag/load.h that load_check leaves to others: the text is NFC. */
#ifndef FUZZ_LOAD_H
#define FUZZ_LOAD_H
#include "rag/load_canon.h"
#include "text/text.h"

static inline bool not_nfc(const loaded *d)
{
    str s = {d->text, d->text_len};
    buf again = {0};
    if (str_find(s, S("\xE1\x86\xA7"), 0) >= 0) return false; /* utf8proc 2.8 swallows U+11A7 after a syllable; LOAD keeps it */
    err e = text_nfc(&again, s);
    bool bad = !e.code && !str_eq(buf_view(&again), s);
    buf_free(&again);
    return bad;
}
#endif
