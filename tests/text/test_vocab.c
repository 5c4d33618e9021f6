/* WordPiece as BERT cuts words, and the learning of a byte-level vocabulary. */
#include "../support/support.h"
#include "text/text.h"

static tokenizer *wordpiece(bool cased)
{
    static const str token[] = {{"[PAD]", 5},        {"[UNK]", 5},           {"[CLS]", 5},        {"[SEP]", 5},       {"\xE2\x96\x81the", 6}, {"\xE2\x96\x81" "cat", 6}, {"s", 1},
                                {"\xE2\x96\x81" "caf", 6}, {"e", 1},          {"\xE2\x96\x81!", 4}, {"\xE2\x96\x81\xE4\xB8\xAD", 6}, {"\xE2\x96\x81\xE1\x84\x80", 6}, {"\xE1\x85\xA1", 3}, {"\xE2\x96\x81The", 6}};
    static const i32 kind[] = {3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    tokenizer *t;
    token_source s = {.model = "bert", .tokens = token, .n_tokens = COUNT_OF(token), .kinds = kind, .bos = -1, .eos = -1, .eot = -1, .unk = 1, .sep = 3, .pad = 0, .cls = 2, .mask = -1,
                      .add_bos = -1, .add_eos = -1, .add_space_prefix = -1, .remove_extra_whitespaces = -1, .cased = cased, .accents = cased};
    assert_ok(tokenizer_new(&t, &s));
    return t;
}

static void is_cut(const tokenizer *t, const char *text, const i32 *want, usize n)
{
    ids out = {0};
    assert_ok(tokenize(t, str_of(text), TOKENIZE_BOS, &out));
    for (usize i = 0; i < n && i < out.n; i++)
        if (out.id[i] != want[i]) fail_msg("\"%s\": token %zu is %d, expected %d", text, i, out.id[i], want[i]);
    assert_int_equal(out.n, n);
    ids_free(&out);
}
#define IS_CUT(t, text, ...) is_cut(t, text, (const i32[]){__VA_ARGS__}, COUNT_OF(((const i32[]){__VA_ARGS__})))

static void words(void **s)
{
    tokenizer *t = wordpiece(false);
    (void)s;
    IS_CUT(t, "The CATS!", 2, 4, 5, 6, 9, 3);
    IS_CUT(t, "caf\xC3\xA9s", 2, 7, 8, 6, 3);                   /* marks go */
    IS_CUT(t, "cat\xE4\xB8\xAD" "cat", 2, 5, 10, 5, 3);         /* a Han character is a word */
    IS_CUT(t, "\xEA\xB0\x80", 2, 11, 12, 3);                    /* a syllable becomes its jamo */
    IS_CUT(t, "c\x01" "at\xE2\x80\x8B the", 2, 5, 4, 3);        /* controls and formats go */
    IS_CUT(t, "dog dog cats", 2, 1, 1, 5, 6, 3);                /* each unknown word is one */
    IS_CUT(t, "catx", 2, 1, 3);                                 /* a rest makes the whole word unknown */
    IS_CUT(t, "", 2, 3);
    char longest[202] = {0};
    memset(longest, 's', 201);
    memcpy(longest, "cat", 3);
    IS_CUT(t, longest, 2, 1, 3);
    longest[100] = 0;
    ids out = {0};
    assert_ok(tokenize(t, str_of(longest), 0, &out));
    assert_int_equal(out.n, 98);
    buf b = {0};
    assert_ok(detokenize(t, (const i32[]){4, 5, 6, 9}, 4, false, &b));
    assert_string_equal(buf_cstr(&b), "the cats !");
    buf_free(&b);
    ids_free(&out);
    tokenizer_free(t);
    t = wordpiece(true);
    IS_CUT(t, "The the", 2, 13, 4, 3);
    IS_CUT(t, "THE caf\xC3\xA9", 2, 1, 1, 3);
    tokenizer_free(t);
}

/* what Hugging Face's trainer learns from the same text (ByteLevel, min_frequency 2) */
static void learns(void **s)
{
    static const char text[] = "low low low low low lower lower newest newest newest newest newest newest widest widest widest";
    static const char *const want[] = {"e s", "es t", "l o", "lo w", "e w", "n ew", "\xC4\xA0 low", "\xC4\xA0 new", "\xC4\xA0new est"};
    str end = S("<end>");
    trained_vocab v;
    (void)s;
    assert_ok(bpe_train(S(text), "gpt-2", &end, 1, 257 + 9, &v));
    assert_int_equal(v.n_merges, 9);
    for (usize i = 0; i < 9; i++)
        if (!str_eq(v.merge[i], str_of(want[i]))) fail_msg("merge %zu is %.*s, expected %s", i, (int)v.merge[i].n, v.merge[i].p, want[i]);
    trained_vocab_free(&v);
    assert_ok(bpe_train(S("ab"), NULL, &end, 1, 1000, &v)); /* no pair twice */
    assert_int_equal(v.n_tokens, 257);
    trained_vocab_free(&v);
    assert_ok(bpe_train(S("aaaaaaaa aaaaaaa"), NULL, NULL, 0, 300, &v)); /* pairs that overlap themselves */
    trained_vocab_free(&v);
    assert_int_equal(bpe_train(S("x"), NULL, &end, 1, 256, &v).code, ERR_INPUT);
    assert_int_equal(bpe_train(S("x"), "nosuch", &end, 1, 500, &v).code, ERR_UNSUPPORTED);
}

static void no_memory(void **s)
{
    trained_vocab v;
    (void)s;
    for (i64 n = 1;; n++) {
        usize before = mem_now();
        mem_fail_at(n);
        err bad = bpe_train(S("the cat the cat the"), NULL, NULL, 0, 270, &v);
        mem_fail_at(0);
        if (!bad.code) {
            trained_vocab_free(&v);
            break;
        }
        assert_int_equal(bad.code, ERR_NOMEM);
        assert_int_equal(mem_now(), before);
    }
}

/* names of pre-tokenizers and their patterns, there and back */
static void patterns(void **s)
{
    static const char *const names[] = {"gpt-2", "smollm", "qwen2", "llama3", "gpt-4o", "tekken", "deepseek-v3", "default"};
    (void)s;
    for (usize i = 0; i < COUNT_OF(names); i++) {
        buf stage[PRE_STAGES] = {0};
        str p[PRE_STAGES];
        char found[32];
        bool whole;
        int n = tokenizer_pre_patterns(names[i], stage, &whole);
        assert_true(n > 0);
        for (int k = 0; k < n; k++) p[k] = buf_view(&stage[k]);
        assert_true(tokenizer_pre_find(p, (usize)n, whole, found));
        assert_string_equal(found, names[i]);
        assert_false(tokenizer_pre_find(p, (usize)n, !whole, found) && !strcmp(found, names[i]));
        for (int k = 0; k < PRE_STAGES; k++) buf_free(&stage[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(words), cmocka_unit_test(learns), cmocka_unit_test(no_memory), cmocka_unit_test(patterns)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
