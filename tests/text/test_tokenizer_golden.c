/* tests/text/test_tokenizer_golden.c - token ids equal to other implementations': Hugging Face's tokenizers, llama.cpp,
 * sentencepiece, on real vocabularies. What is absent on this machine is skipped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "vocab_files.h"
#include "text/tokenizer.h" /* pretok_split alone is compared with a regular expression's splits */

static tokenizer *made(const token_source *s)
{
    tokenizer *t;
    err bad = tokenizer_new(&t, s);
    if (bad.code) fail_msg("%s", bad.what);
    return t;
}

/* 1: equal; else prints both */
static int equal_ids(const tokenizer *t, str text, int flags, const json_t *want, const char *what)
{
    ids got = {0};
    err bad = tokenize(t, text, flags, &got);
    if (bad.code) fail_msg("%s: %s", what, bad.what);
    bool same = got.n == json_array_size(want);
    usize i = 0;
    for (; same && i < got.n; i++) same = got.id[i] == (i32)json_integer_value(json_array_get(want, i));
    if (!same) {
        print_message("%s: \"%.*s\"\n  got ", what, (int)i64_min(200, (i64)text.n), text.p);
        for (i = 0; i < got.n && i < 60; i++) print_message(" %d", got.id[i]);
        print_message("\n  want");
        for (i = 0; i < json_array_size(want) && i < 60; i++)
            print_message(" %d", (int)json_integer_value(json_array_get(want, i)));
        print_message("\n");
    }
    ids_free(&got);
    return same;
}

/* ---- the real models, against shared/models/golden --------------------------------------------------------------------- */
static void check_model(const char *name)
{
    char path[512], golden[64];
    gguf_vocab g;
    snprintf(golden, sizeof golden, "models/golden/%s.json", name);
    if (!gguf_vocab_open(&g, model_path(path, name))) {
        print_message("%s is absent\n", path);
        skip();
    }
    json_t *j = shared_json(golden);
    if (!j) {
        print_message("%s is absent\n", golden);
        gguf_vocab_close(&g);
        skip();
    }
    tokenizer *t = made(&g.s);
    static const char *const lists[] = {"prompts", "nll", "sentences"};
    int n = 0, same = 0;
    for (usize k = 0; k < COUNT_OF(lists); k++) {
        json_t *item;
        usize i;
        json_array_foreach(json_object_get(j, lists[k]), i, item)
        {
            str text = json_str(json_object_get(item, "text"));
            same += equal_ids(t, text, TOKENIZE_BOS, json_object_get(item, "ids"), name);
            n++;
            json_t *greedy = json_object_get(item, "greedy"), *id; /* and back: what the reference wrote for its own tokens */
            if (!greedy) continue;
            usize at;
            buf out = {0};
            stream_decoder d;
            stream_decoder_init(&d, t, true);
            d.started = true;
            json_array_foreach(json_object_get(greedy, "ids"), at, id) stream_decoder_put(&d, (i32)json_integer_value(id), &out);
            stream_decoder_end(&d, &out);
            str want = json_str(json_object_get(greedy, "text"));
            assert_true(str_starts(buf_view(&out), want) || str_eq(buf_view(&out), want));
            buf_free(&out);
        }
    }
    assert_true(n > 3);
    assert_int_equal(same, n);
    tokenizer_free(t);
    json_decref(j);
    gguf_vocab_close(&g);
}

static void test_smollm2(void **s) { (void)s, check_model("smollm2-135m"); }
static void test_qwen(void **s) { (void)s, check_model("qwen2.5-coder-1.5b"); }
static void test_gemma(void **s) { (void)s, check_model("gemma3-270m"); }
static void test_e5(void **s) { (void)s, check_model("e5-small"); }

static void test_stories(void **state)
{
    (void)state;
    char path[512];
    gguf_vocab g;
    json_t *j = shared_json("data/model-stories260k/greedy_256.json"), *id;
    if (!j) skip();
    if (!gguf_vocab_open(&g, shared_path(path, "data/model-stories260k/stories260K.gguf"))) {
        json_decref(j);
        skip();
    }
    tokenizer *t = made(&g.s);
    ids want = {0}, got = {0};
    buf text = {0};
    usize i;
    json_array_foreach(json_object_get(j, "greedy_ids"), i, id) ids_push(&want, (i32)json_integer_value(id));
    assert_true(want.n > 100);
    assert_int_equal(detokenize(t, want.id, want.n, false, &text).code, ERR_OK);
    json_t *golden = json_object_get(j, "text");
    if (golden) assert_true(str_eq(str_trim(buf_view(&text)), str_trim(json_str(golden))));
    assert_int_equal(tokenize(t, buf_view(&text), 0, &got).code, ERR_OK);
    assert_int_equal(got.n, want.n);
    assert_memory_equal(got.id, want.id, want.n * sizeof *want.id);
    ids_free(&want);
    ids_free(&got);
    buf_free(&text);
    tokenizer_free(t);
    json_decref(j);
    gguf_vocab_close(&g);
}

/* ---- llama.cpp's own vectors: texts in NAME.inp, ids in NAME.out --------------------------------------------------------- */
static void check_llama_cpp(const tokenizer *t, const char *name)
{
    char file[128];
    buf in = {0}, out = {0};
    snprintf(file, sizeof file, "data/tokenizer-golden/llama.cpp/ggml-vocab-%s.gguf.inp", name);
    bool there = shared_read(&in, file);
    snprintf(file, sizeof file, "data/tokenizer-golden/llama.cpp/ggml-vocab-%s.gguf.out", name);
    assert_true(there && shared_read(&out, file));
    str texts = buf_view(&in), lines = buf_view(&out), mark = S("\n__ggml_vocab_test__\n");
    int n = 0, same = 0;
    for (usize at = 0, line = 0; line < lines.n; n++) {
        i64 end = str_find(texts, mark, at), stop = str_find(lines, S("\n"), line);
        str text = {texts.p + at, (end < 0 ? texts.n : (usize)end) - at};
        json_t *want = json_array();
        for (char *p = out.p + line; p < out.p + (stop < 0 ? (i64)lines.n : stop);) {
            char *next;
            long id = strtol(p, &next, 10);
            if (next == p || next > out.p + (stop < 0 ? (i64)lines.n : stop)) break;
            json_array_append_new(want, json_integer(id));
            p = next;
        }
        same += equal_ids(t, text, 0, want, name);
        json_decref(want);
        if (end < 0 || stop < 0) {
            n++;
            break;
        }
        at = (usize)end + mark.n;
        line = (usize)stop + 1;
    }
    assert_true(n > 30);
    assert_int_equal(same, n);
    buf_free(&in);
    buf_free(&out);
}

/* Hugging Face's ids. `known`: names of vectors that differ for a reason given where it is called. */
static void check_hf(const tokenizer *t, const char *model, int flags, int at_least, const char *known)
{
    buf text = {0};
    assert_true(shared_read(&text, "data/tokenizer-golden/hf_tokenizers_js.jsonl"));
    str all = buf_view(&text);
    int n = 0, same = 0;
    for (usize at = 0; at < all.n;) {
        i64 end = str_find(all, S("\n"), at);
        str line = {all.p + at, (end < 0 ? all.n : (usize)end) - at};
        at += line.n + 1;
        json_t *j = json_loadb(line.p, line.n, 0, NULL);
        const char *name = json_string_value(json_object_get(j, "name"));
        if (j && !strcmp(json_string_value(json_object_get(j, "model")), model) && !strstr(known, name)) {
            char what[200];
            snprintf(what, sizeof what, "%s %s", model, name);
            same += equal_ids(t, json_str(json_object_get(j, "text")), flags, json_object_get(j, "ids"), what);
            n++;
        }
        json_decref(j);
    }
    assert_true(n >= at_least);
    assert_int_equal(same, n);
    buf_free(&text);
}

static void check_vocab_gguf(const char *name, const char *hf, int hf_flags)
{
    char file[128];
    buf bytes = {0};
    gguf_vocab g = {0};
    snprintf(file, sizeof file, "data/tokenizer-golden/llama.cpp/ggml-vocab-%s.gguf.zst", name);
    if (!shared_read(&bytes, file)) {
        buf_free(&bytes);
        skip();
    }
    assert_true(gguf_vocab_read(&g, buf_view(&bytes)));
    tokenizer *t = made(&g.s);
    check_llama_cpp(t, name);
    if (hf) check_hf(t, hf, hf_flags, 10, "");
    tokenizer_free(t);
    arena_free(g.a);
    buf_free(&bytes);
}

static void test_gpt2_vectors(void **s) { (void)s, check_vocab_gguf("gpt-2", "Xenova/gpt2", TOKENIZE_SPECIAL); }
static void test_llama_spm_vectors(void **s)
{
    (void)s, check_vocab_gguf("llama-spm", "Xenova/llama-tokenizer", TOKENIZE_BOS | TOKENIZE_SPECIAL);
}
static void test_phi3_vectors(void **s) { (void)s, check_vocab_gguf("phi-3", NULL, 0); }

static void test_qwen2_vectors(void **state)
{
    (void)state;
    char path[512];
    gguf_vocab g;
    if (!gguf_vocab_open(&g, model_path(path, "qwen2.5-coder-1.5b"))) skip();
    buf probe = {0};
    bool there = shared_read(&probe, "data/tokenizer-golden/llama.cpp/ggml-vocab-qwen2.gguf.inp");
    buf_free(&probe);
    if (there) {
        tokenizer *t = made(&g.s);
        check_llama_cpp(t, "qwen2");
        check_hf(t, "Xenova/Qwen1.5-0.5B-Chat", TOKENIZE_SPECIAL, 10, "");
        tokenizer_free(t);
    }
    gguf_vocab_close(&g);
    if (!there) skip();
}

static void test_llama3_vectors(void **state)
{
    (void)state;
    vocab_file v;
    if (!gpt2_files_read(&v, "data/tokenizers/llama3.2-hf/encoder.json.zst", "data/tokenizers/llama3.2-hf/vocab.bpe.zst",
                         "llama-bpe"))
        skip();
    tokenizer *t = made(&v.s);
    check_llama_cpp(t, "llama-bpe");
    check_hf(t, "Xenova/llama3-tokenizer", TOKENIZE_SPECIAL, 10, "");
    tokenizer_free(t);
    vocab_file_free(&v);
}

static void test_t5_vectors(void **state)
{
    (void)state;
    vocab_file v;
    if (!unigram_json_read(&v, "data/tokenizers/t5-small/tokenizer.json.zst")) skip();
    v.s.remove_extra_whitespaces = 1;
    tokenizer *t = made(&v.s);
    assert_int_equal(tokenizer_source(t)->eos, 1);
    check_hf(t, "google-t5/t5-small", TOKENIZE_BOS | TOKENIZE_SPECIAL, 10, "");
    tokenizer_free(t);
    vocab_file_free(&v);
}

static void test_xlm_r_vectors(void **state)
{
    (void)state;
    char path[512];
    gguf_vocab g;
    json_t *probe = shared_json("data/tokenizer-golden/splitRegexPatterns.json");
    bool there = probe != NULL;
    json_decref(probe);
    if (!there || !gguf_vocab_open(&g, model_path(path, "e5-small"))) skip();
    tokenizer *t = made(&g.s);
    /* sentencepiece and llama.cpp trim the ends, Hugging Face's tokenizer keeps a space there as a token */
    check_hf(t, "Xenova/bge-reranker-base", TOKENIZE_BOS, 10, "TRAILING_SPACE TEXT_WITH_ESCAPE_CHARACTERS_2");
    tokenizer_free(t);
    gguf_vocab_close(&g);
}

/* sentencepiece adds up single precision over the whole text, so rounding decides between paths that are equally good ("---" as
 * "-" and "--" or the other way round): the sum of the scores is what must agree */
static bool equally_good(const tokenizer *t, str text, const json_t *want)
{
    ids got = {0};
    assert_int_equal(tokenize(t, text, 0, &got).code, ERR_OK);
    double sum = 0;
    for (usize i = 0; i < got.n; i++) sum += (double)t->v.score[got.id[i]];
    for (usize i = 0; i < json_array_size(want); i++) sum -= (double)t->v.score[json_integer_value(json_array_get(want, i))];
    bool same = t->kind == TOKENIZER_UNIGRAM && got.n == json_array_size(want) && sum < 1e-9 && sum > -1e-9;
    ids_free(&got);
    return same;
}

/* ---- sentencepiece's own ids for Korean ----------------------------------------------------------------------------------- */
static void check_sentencepiece(const char *name, const char *model)
{
    vocab_file v;
    buf text = {0};
    if (!sentencepiece_read(&v, model)) skip();
    tokenizer *t = made(&v.s);
    assert_true(shared_read(&text, "data/tokenizer-golden/sentencepiece_korean.jsonl.zst"));
    str all = buf_view(&text);
    int n = 0, same = 0;
    for (usize at = 0; at < all.n;) {
        i64 end = str_find(all, S("\n"), at);
        str line = {all.p + at, (end < 0 ? all.n : (usize)end) - at};
        at += line.n + 1;
        json_t *j = json_loadb(line.p, line.n, JSON_ALLOW_NUL, NULL);
        if (j && !strcmp(json_string_value(json_object_get(j, "model")), name)) {
            str one = json_str(json_object_get(j, "text"));
            const json_t *want = json_object_get(j, "ids");
            same += equally_good(t, one, want) || equal_ids(t, one, 0, want, name);
            n++;
        }
        json_decref(j);
    }
    assert_true(n > 100);
    assert_int_equal(same, n);
    buf_free(&text);
    tokenizer_free(t);
    vocab_file_free(&v);
}

static void test_sentencepiece_llama2(void **s)
{
    (void)s, check_sentencepiece("llama2", "data/tokenizers/llama2/tokenizer.model.zst");
}
static void test_sentencepiece_mistral(void **s)
{
    (void)s, check_sentencepiece("mistral-v3", "data/tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3.zst");
}
static void test_sentencepiece_kogpt2(void **s)
{
    (void)s, check_sentencepiece("kogpt2-v1", "data/tokenizers/ko-kogpt2-v1/sentencepiece_vocab.spiece.zst");
}
static void test_sentencepiece_unigram(void **s)
{
    (void)s, check_sentencepiece("sp-test", "data/tokenizers/sentencepiece-tests/test_model.model");
}

/* ---- patterns ----------------------------------------------------------------------------------------------------------------
 */
static err keep_word(void *list, str word)
{
    json_array_append_new(list, json_stringn_nocheck(word.p, word.n));
    return OK;
}

static void test_split_oracle(void **state)
{
    (void)state;
    static const struct {
        const char *id, *pre;
    } same[] = {{"hub-005", "qwen2"},     {"hub-037", "stablelm2"}, {"hub-022", "tekken"},     {"hub-027", "qwen35"},
                {"hub-041", "llama-bpe"}, {"hub-042", "gpt-4o"},    {"hub-076", "seed-coder"}, {"hub-032", "bailingmoe"}};
    json_t *patterns = shared_json("data/tokenizer-golden/splitRegexPatterns.json"),
           *oracle = shared_json("data/tokenizer-golden/splitRegexOracle.json.gz");
    if (!patterns || !oracle) skip();
    json_t *inputs = json_object_get(json_object_get(patterns, "defaults"), "inputs"), *text;
    for (usize k = 0; k < COUNT_OF(same); k++) {
        pretok *p;
        assert_int_equal(pretok_new(&p, same[k].pre).code, ERR_OK);
        json_t *want = json_object_get(json_object_get(oracle, "tokens"), same[k].id);
        usize i;
        assert_int_equal(json_array_size(want), json_array_size(inputs));
        json_array_foreach(inputs, i, text)
        {
            json_t *got = json_array();
            assert_int_equal(pretok_split(p, json_str(text), keep_word, got).code, ERR_OK);
            if (!json_equal(got, json_array_get(want, i))) {
                char *a = json_dumps(got, 0), *b = json_dumps(json_array_get(want, i), 0);
                fail_msg("%s, input %zu:\n got %s\nwant %s", same[k].pre, i, a, b);
            }
            json_decref(got);
        }
        pretok_free(p);
    }
    json_decref(patterns);
    json_decref(oracle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smollm2),
        cmocka_unit_test(test_qwen),
        cmocka_unit_test(test_gemma),
        cmocka_unit_test(test_e5),
        cmocka_unit_test(test_stories),
        cmocka_unit_test(test_gpt2_vectors),
        cmocka_unit_test(test_llama_spm_vectors),
        cmocka_unit_test(test_phi3_vectors),
        cmocka_unit_test(test_qwen2_vectors),
        cmocka_unit_test(test_llama3_vectors),
        cmocka_unit_test(test_t5_vectors),
        cmocka_unit_test(test_xlm_r_vectors),
        cmocka_unit_test(test_sentencepiece_llama2),
        cmocka_unit_test(test_sentencepiece_mistral),
        cmocka_unit_test(test_sentencepiece_kogpt2),
        cmocka_unit_test(test_sentencepiece_unigram),
        cmocka_unit_test(test_split_oracle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
