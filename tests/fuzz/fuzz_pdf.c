/* tests/fuzz/fuzz_pdf.c - any bytes as the output of `pdftotext -bbox-layout`, in this process; and as what a confined parser
 * gave back. Changed PDF files themselves go through pdftotext in tests/rag/test_load_pages.c. */
#include "fuzz_load.h"

int fuzz_one(const u8 *data, usize n);

static bool broken(err e, const loaded *d)
{
    if (e.code) return e.code == ERR_BUG;
    bool bad = load_check(d).code != 0 || not_nfc(d);
    for (u32 i = 0; i < 3 && !bad && d->n_chars; i++) {
        place p;
        e = load_place(d, d->n_chars / 3 * i, d->n_chars, &p);
        bad = e.code == ERR_BUG || (!e.code && p.page > d->n_pages);
        mem_free(p.rects);
    }
    return bad;
}

int fuzz_one(const u8 *data, usize n)
{
    loaded d = {0}, back = {0};
    str s = {(const char *)data, n};
    buf fence = {0};
    err e = load_pdf_parse(s, &d);
    bool bad = broken(e, &d);
    if (!e.code && !loaded_write(&d, &fence).code) { /* one byte of a good answer changed */
        fence.p[(usize)(hash64(data, n, 1) % fence.n)] ^= (char)(1 << hash64(data, n, 2) % 8);
        e = loaded_read(buf_view(&fence), &back);
        bad |= !e.code && load_check(&back).code != 0;
        loaded_free(&back);
    }
    e = loaded_read(s, &back);
    bad |= e.code == ERR_OK && load_check(&back).code != 0;
    loaded_free(&back);
    loaded_free(&d);
    buf_free(&fence);
    return bad;
}
