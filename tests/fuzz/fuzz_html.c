/* tests/fuzz/fuzz_html.c - any bytes as a page, in this process: what the confined child of load_html does. */
#include "fuzz_load.h"

int fuzz_one(const u8 *data, usize n);

int fuzz_one(const u8 *data, usize n)
{
    decoded page;
    loaded d = {0}, back = {0};
    buf fence = {0};
    err e = load_decode_html((str){(const char *)data, n}, &page);
    if (e.code) return e.code == ERR_BUG;
    e = load_html_parse(buf_view(&page.utf8), page.encoding, &d);
    bool bad = e.code == ERR_BUG;
    if (!e.code) {
        bad |= load_check(&d).code != 0 || not_nfc(&d);
        if (!loaded_write(&d, &fence).code) {
            e = loaded_read(buf_view(&fence), &back);
            bad |= e.code && e.code != ERR_NOMEM;
            bad |= !e.code && (back.n_chars != d.n_chars || back.n_blocks != d.n_blocks || back.n_anchors != d.n_anchors);
        }
    }
    loaded_free(&d);
    loaded_free(&back);
    buf_free(&fence);
    buf_free(&page.utf8);
    return bad;
}
