/* rag/paths.h - the name under which a file is known: its path as it was typed, without "./" and doubled slashes, in NFC (macOS
 * writes names in NFD). Relative stays relative, ".." stays. */
#ifndef MARU_RAG_PATHS_H
#define MARU_RAG_PATHS_H
#include "base/base.h"
#include "text/text.h"

static inline err path_identity(const char *path, char **out) /* owned */
{
    buf plain = {0}, nfc = {0};
    const char *p = path;
    if (*p == '/') buf_byte(&plain, '/');
    while (*p) {
        usize n = strcspn(p, "/");
        bool skip = n == 0 || (n == 1 && *p == '.');
        if (!skip && plain.n && plain.p[plain.n - 1] != '/') buf_byte(&plain, '/');
        if (!skip) buf_put(&plain, p, n);
        p += n + (p[n] == '/');
    }
    if (!plain.n) buf_byte(&plain, '.');
    err bad = text_nfc(&nfc, buf_view(&plain));
    if (!bad.code) bad = buf_error(&plain);
    *out = bad.code ? NULL : buf_take(&nfc);
    if (!bad.code && !*out) bad = err_new(ERR_NOMEM, "no memory for a path");
    buf_free(&plain);
    buf_free(&nfc);
    return bad;
}
#endif
