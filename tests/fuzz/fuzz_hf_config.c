/* tests/fuzz/fuzz_hf_config.c - any bytes as config.json beside whole weights and a tokenizer: an error, or a model. */
#include "fuzz_hf.h"

int fuzz_one(const u8 *data, usize n);
int fuzz_one(const u8 *data, usize n)
{
    model *m;
    if (!hf_make() || !hf_put("config.json", data, n)) return 1;
    err bad = model_open(&m, hf_folder, NULL);
    if (bad.code) return bad.code == ERR_BUG || m != NULL; /* an error leaves nothing */
    bool good = m->h.n_layer >= 1 && m->layers[0].q.data && tokenizer_size(m->tok) <= m->h.n_vocab;
    model_close(m);
    return !good;
}
