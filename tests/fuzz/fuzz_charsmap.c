/* tests/fuzz/fuzz_charsmap.c - SentencePiece's table of replacements from a hostile file, over a text. The input is the table's
 * bytes; its last 40 are the text. */
#include "text/text.h"

int fuzz_one(const u8 *data, usize n);

int fuzz_one(const u8 *data, usize n)
{
    static const str tokens[] = {{"<unk>", 5}, {"\xE2\x96\x81", 3}, {"a", 1}, {"b", 1}, {"ab", 2}, {"1", 1}, {"한", 3}};
    static const float scores[] = {0, -1, -2, -2, -3, -2, -2};
    static const i32 kinds[] = {TOKEN_UNKNOWN, TOKEN_NORMAL, TOKEN_NORMAL, TOKEN_NORMAL,
                                TOKEN_NORMAL,  TOKEN_NORMAL, TOKEN_NORMAL};
    str table = {(const char *)data, n > 40 ? n - 40 : 0}, text = {(const char *)data + table.n, n - table.n};
    token_source s = {.model = "t5",
                      .n_tokens = COUNT_OF(tokens),
                      .tokens = tokens,
                      .scores = scores,
                      .kinds = kinds,
                      .charsmap = table,
                      .bos = -1,
                      .eos = -1,
                      .eot = -1,
                      .unk = 0,
                      .sep = -1,
                      .pad = -1,
                      .cls = -1,
                      .mask = -1,
                      .add_bos = -1,
                      .add_eos = -1,
                      .add_space_prefix = 1,
                      .remove_extra_whitespaces = 1};
    int broken = 0;
    for (int trim = 0; trim < 2; trim++) {
        tokenizer *t;
        ids out = {0};
        s.remove_extra_whitespaces = trim;
        err bad = tokenizer_new(&t, &s);
        if (bad.code)
            broken |= bad.code != ERR_FORMAT && bad.code != ERR_NOMEM;
        else
            bad = tokenize(t, text, TOKENIZE_BOS, &out);
        for (usize i = 0; i < out.n; i++) broken |= out.id[i] < 0 || out.id[i] >= (i32)COUNT_OF(tokens);
        ids_free(&out);
        tokenizer_free(t);
    }
    return broken;
}
