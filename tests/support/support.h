/* tests/support/support.h - what test programs share: where models and public data are, and skipping when they are not. */
#ifndef MARU_TEST_SUPPORT_H
#define MARU_TEST_SUPPORT_H
#include "base/base.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <unistd.h>

/* $MARU_MODELS, else ~/.cache/maru/models, else what `maru pull` installed; NULL when absent */
static inline const char *test_model(const char *file)
{
    static char path[4][1024];
    static int  at;
    char       *out = path[at++ % 4];
    const char *dir = getenv("MARU_MODELS"), *home = getenv("HOME"), *data = getenv("XDG_DATA_HOME");
    snprintf(out, 1024, "%s/%s", dir ? dir : "", file);
    if (dir && file_exists(out)) return out;
    snprintf(out, 1024, "%s/.cache/maru/models/%s", home ? home : "", file);
    if (file_exists(out)) return out;
    if (data) snprintf(out, 1024, "%s/maru/models/%s", data, file);
    else snprintf(out, 1024, "%s/.local/share/maru/models/%s", home ? home : "", file);
    return file_exists(out) ? out : NULL;
}

/* $MARU_SHARED, else ../shared; NULL when absent */
static inline const char *test_shared(const char *file)
{
    static char path[4][1024];
    static int  at;
    char       *out = path[at++ % 4];
    const char *dir = getenv("MARU_SHARED");
    snprintf(out, 1024, "%s/%s", dir ? dir : "../shared", file);
    return access(out, R_OK) ? NULL : out;
}

#define SKIP_WITHOUT(path, what)                                                                                                 \
    do {                                                                                                                         \
        if (!(path)) {                                                                                                           \
            print_message("skipped: %s is not here\n", what);                                                                    \
            skip();                                                                                                              \
        }                                                                                                                        \
    } while (0)
#define assert_ok(e)                                                                                                             \
    do {                                                                                                                         \
        err e_ = (e);                                                                                                            \
        if (e_.code) fail_msg("%s: %s", err_name(e_.code), e_.what);                                                             \
    } while (0)
#endif
