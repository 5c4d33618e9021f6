/* tests/fuzz/fuzz_text.c - any bytes as plain text, Markdown and CSV: an error that names its reason, or a document that keeps
 * the promises of rag/load.h, NFC included. */
#include "fuzz_load.h"

int fuzz_one(const u8 *data, usize n);

static int broken(err e, const loaded *d)
{
    if (e.code) return e.code == ERR_BUG || !e.what || !e.what[0];
    int bad = load_check(d).code != 0 || not_nfc(d);
    for (u32 i = 0; i < 3 && !bad && d->n_chars; i++) {
        place p;
        u32 start = d->n_chars / 3 * i;
        bad = load_place(d, start, d->n_chars, &p).code == ERR_BUG || p.byte_start >= p.byte_end;
    }
    return bad;
}

int fuzz_one(const u8 *data, usize n)
{
    err (*const load[])(const load_input *) = {load_text, load_markdown, load_csv};
    for (usize i = 0; i < COUNT_OF(load); i++) {
        loaded d = {0};
        load_input in = {"fuzz", {(const char *)data, n}, &d};
        int bad = broken(load[i](&in), &d);
        loaded_free(&d);
        if (bad) return 1;
    }
    return 0;
}
