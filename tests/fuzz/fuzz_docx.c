/* tests/fuzz/fuzz_docx.c - a Word document under mutation, in this process: what the confined child of load_docx does. A container
 * that is damaged ends at its checksum, so the input is also taken as the XML of the main part, in a sound container around it. */
#include "fuzz_load.h"

int fuzz_one(const u8 *data, usize n);

static bool is_bad(str bytes)
{
    loaded d = {0}, back = {0};
    buf fence = {0};
    err e = load_docx_parse(bytes, &d);
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
    return bad;
}

/* One part, stored, as little as libzip accepts: local header, directory, end */
static void le(buf *b, u32 v, int n)
{
    for (int i = 0; i < n; i++) buf_byte(b, i < 4 ? (int)(v >> (8 * i) & 255) : 0);
}

static u32 crc_of(const u8 *p, usize n)
{
    u32 c = ~0u;
    for (usize i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++) c = c >> 1 ^ (0xEDB88320u & -(c & 1));
    }
    return ~c;
}

static void wrap(const u8 *data, usize n, buf *out)
{
    static const char name[] = "word/document.xml";
    u32 len = sizeof name - 1, crc = crc_of(data, n), size = (u32)n;
    buf_puts(out, "PK\003\004"), le(out, 20, 2), le(out, 0, 8), le(out, crc, 4), le(out, size, 4), le(out, size, 4);
    le(out, len, 2), le(out, 0, 2), buf_puts(out, name), buf_put(out, data, n);
    u32 at = (u32)out->n;
    buf_puts(out, "PK\001\002"), le(out, 20, 2), le(out, 20, 2), le(out, 0, 8), le(out, crc, 4), le(out, size, 4), le(out, size, 4);
    le(out, len, 2), le(out, 0, 8), le(out, 0, 4), le(out, 0, 4), buf_puts(out, name);
    u32 end = (u32)out->n;
    buf_puts(out, "PK\005\006"), le(out, 0, 4), le(out, 1, 2), le(out, 1, 2), le(out, end - at, 4), le(out, at, 4), le(out, 0, 2);
}

int fuzz_one(const u8 *data, usize n)
{
    buf zip = {0};
    bool bad = is_bad((str){(const char *)data, n});
    if (n && data[0] != 'P') {
        wrap(data, n, &zip);
        bad |= !zip.bad && is_bad(buf_view(&zip));
    }
    buf_free(&zip);
    return bad;
}
