/* tests/fuzz/fuzz_jsonl.c - any bytes as JSON Lines: documents that keep the promises of rag/load.h, whose meta jansson reads. */
#include "fuzz_load.h"
#include <jansson.h>

int fuzz_one(const u8 *data, usize n);

static err each(void *ctx, loaded *d)
{
    bool *bad = ctx;
    *bad |= load_check(d).code != 0 || !d->id || !d->id[0] || not_nfc(d);
    if (d->meta) {
        json_t *j = json_loads(d->meta, 0, NULL);
        *bad |= !json_is_object(j);
        json_decref(j);
    }
    loaded_free(d);
    return OK;
}

int fuzz_one(const u8 *data, usize n)
{
    bool bad = false;
    err e = load_jsonl("fuzz", (str){(const char *)data, n}, each, &bad);
    return bad || e.code == ERR_BUG || (e.code && !e.what[0]);
}
