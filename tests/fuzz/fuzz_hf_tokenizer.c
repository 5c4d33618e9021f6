/* tests/fuzz/fuzz_hf_tokenizer.c - any bytes as tokenizer.json: an error, or a tokenizer whose ids are its own and which writes back what
 * it can. */
#include "fuzz_hf.h"

int fuzz_one(const u8 *data, usize n);
int fuzz_one(const u8 *data, usize n)
{
    model *m;
    ids t = {0};
    if (!hf_make() || !hf_put("tokenizer.json", data, n)) return 1;
    err bad = model_open_tokenizer(&m, hf_folder);
    if (bad.code) return bad.code == ERR_BUG || m != NULL;
    bool good = true;
    bad = tokenize(m->tok, S("The cats, 가 12 \xF0\x9F\x90\x88!  ab\xFF <s>"), TOKENIZE_BOS | TOKENIZE_SPECIAL, &t);
    for (usize i = 0; !bad.code && i < t.n; i++) good &= t.id[i] >= 0 && t.id[i] < tokenizer_size(m->tok);
    ids_free(&t);
    model_close(m);
    return !good || bad.code == ERR_BUG;
}
