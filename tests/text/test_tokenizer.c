/* tests/text/test_tokenizer.c - tokenizers made from vocabularies written here: they run everywhere. The fast encoders are
 * compared with the plainest ones that could be written; hostile metadata, memory that runs out and long texts are tried. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include "vocab_files.h"

static tokenizer *made(const token_source *s)
{
    tokenizer *t;
    err bad = tokenizer_new(&t, s);
    if (bad.code) fail_msg("%s", bad.what);
    return t;
}

static ids encoded(const tokenizer *t, str text, int flags)
{
    ids out = {0};
    err bad = tokenize(t, text, flags, &out);
    if (bad.code) fail_msg("%s", bad.what);
    return out;
}

/* pieces between bars: "▁he|llo" */
static void check_pieces(const tokenizer *t, str text, int flags, const char *want)
{
    ids got = encoded(t, text, flags);
    buf line = {0};
    for (usize i = 0; i < got.n; i++) {
        if (i) buf_byte(&line, '|');
        buf_str(&line, token_piece(t, got.id[i]));
    }
    assert_string_equal(buf_cstr(&line), want);
    buf_free(&line);
    ids_free(&got);
}

static void check_round_trip(const tokenizer *t, str text)
{
    ids got = encoded(t, text, 0);
    buf back = {0};
    assert_int_equal(detokenize(t, got.id, got.n, false, &back).code, ERR_OK);
    assert_int_equal(back.n, text.n);
    if (text.n) assert_memory_equal(back.p, text.p, text.n);
    buf_free(&back);
    ids_free(&got);
}

/* ---- vocabularies ------------------------------------------------------------------------------------------------------ */
static u32 byte_char(u32 b) /* GPT-2's character for a byte, worked out anew */
{
    u32 extra = 0;
    for (u32 c = 0; c < 256; c++) {
        bool plain = (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174;
        if (c == b) return plain ? c : 256 + extra;
        extra += !plain;
    }
    return 0;
}

static void byte_piece(buf *out, str bytes)
{
    for (usize i = 0; i < bytes.n; i++) buf_utf8(out, byte_char((u8)bytes.p[i]));
}

static vocab_file bpe_vocab(const char *pre)
{
    vocab_file v = {.a = arena_new(), .s = token_source_empty()};
    buf piece = {0};
    for (u32 b = 0; b < 256; b++) {
        buf_reset(&piece);
        buf_utf8(&piece, byte_char(b));
        vocab_file_add(&v, buf_view(&piece), 0, TOKEN_NORMAL);
    }
    buf_free(&piece);
    v.s.pre = pre;
    return v;
}

static void bpe_merge(vocab_file *v, str left, str right) /* raw bytes */
{
    buf a = {0}, b = {0};
    byte_piece(&a, left);
    byte_piece(&b, right);
    str line = {arena_fmt(v->a, "%s %s", buf_cstr(&a), buf_cstr(&b)), a.n + b.n + 1};
    if (!VEC_PUSH(v->merges, v->n_merges, v->cap[3], line)) abort();
    buf_str(&a, buf_view(&b));
    bool known = false;
    for (usize i = 0; i < v->n; i++) known |= str_eq(v->tokens[i], buf_view(&a));
    if (!known) vocab_file_add(v, buf_view(&a), 0, TOKEN_NORMAL);
    buf_free(&a);
    buf_free(&b);
}

static void bpe_words(vocab_file *v)
{
    bpe_merge(v, S(" "), S("t"));
    bpe_merge(v, S("h"), S("e"));
    bpe_merge(v, S(" t"), S("he"));
    bpe_merge(v, S("\xEA"), S("\xB0"));
    bpe_merge(v, S("\xEA\xB0"), S("\x80"));
    bpe_merge(v, S("a"), S("a"));
    bpe_merge(v, S("aa"), S("aa"));
    bpe_merge(v, S("\xEA\xB0\x80"), S("\xEA\xB0\x80"));
    vocab_file_add(v, S("<|im_start|>"), 0, TOKEN_CONTROL);
    vocab_file_add(v, S("<|im_end|>"), 0, TOKEN_CONTROL);
    vocab_file_add(v, S("<tool>"), 0, TOKEN_USER);
    vocab_file_add(v, S("<tool>>"), 0, TOKEN_USER);
}

static vocab_file spm_vocab(bool bytes)
{
    vocab_file v = {.a = arena_new(), .s = token_source_empty()};
    vocab_file_add(&v, S("<unk>"), 0, TOKEN_UNKNOWN);
    vocab_file_add(&v, S("<s>"), 0, TOKEN_CONTROL);
    vocab_file_add(&v, S("</s>"), 0, TOKEN_CONTROL);
    char name[8];
    for (int b = 0; bytes && b < 256; b++) {
        snprintf(name, sizeof name, "<0x%02X>", b);
        vocab_file_add(&v, str_of(name), 0, TOKEN_BYTE);
    }
    static const char *const pieces[] = {"▁",  "h",  "e",  "l",    "o", "he", "ll",   "▁he", "▁hell", "▁hello", "hell",
                                         "lo", "가", "나", "가나", "a", "aa", "aaaa", "</",  "s",     ">",      "</s"};
    for (usize i = 0; i < COUNT_OF(pieces); i++) vocab_file_add(&v, str_of(pieces[i]), -(float)i, TOKEN_NORMAL);
    vocab_file_add(&v, S("▁▁"), -3, TOKEN_USER);
    return v;
}

/* ---- byte-level BPE ----------------------------------------------------------------------------------------------------- */
static void test_bpe(void **state)
{
    (void)state;
    vocab_file v = bpe_vocab("gpt-2");
    bpe_words(&v);
    tokenizer *t = made(vocab_file_source(&v, "gpt2"));
    assert_int_equal(tokenizer_size(t), v.n);
    check_pieces(t, S(""), TOKENIZE_BOS, "");
    check_pieces(t, S("the the"), 0, "t|he|Ġthe");
    check_pieces(t, S("aaaaaaa"), 0, "aaaa|aa|a");
    check_pieces(t, S("가가 가"), 0, "ê°Ģê°Ģ|Ġ|ê°Ģ");
    check_pieces(t, S("\xEA\xB0"), 0, "ê|°"); /* malformed: bytes by themselves */
    check_pieces(t, S("<|im_end|>"), 0, "<|||i|m|_|e|n|d|||>");
    check_pieces(t, S("the<|im_end|>the"), TOKENIZE_SPECIAL, "t|he|<|im_end|>|t|he");
    check_pieces(t, S("a<tool>>a"), 0, "a|<tool>>|a"); /* user tokens always, the longest one */
    check_pieces(t, S("<tool"), 0, "<|t|o|o|l");
    assert_int_equal(token_find(t, S("Ġthe")) > 255, 1);
    assert_int_equal(token_find(t, S(" the")), -1);
    i32 end = (i32)token_find(t, S("<|im_end|>"));
    assert_true(token_is_end(t, end) && !token_is_end(t, 5) && !token_is_end(t, -1));
    assert_int_equal(tokenizer_source(t)->eot, end);
    assert_int_equal(token_kind_of(t, end), TOKEN_CONTROL);
    assert_string_equal(tokenizer_source(t)->pre, "gpt-2");
    buf out = {0};
    token_bytes(t, end, &out, false);
    assert_int_equal(out.n, 0);
    token_bytes(t, end, &out, true);
    token_bytes(t, (i32)token_find(t, S("ê°Ģ")), &out, false);
    assert_string_equal(buf_cstr(&out), "<|im_end|>가");
    buf_free(&out);
    assert_int_equal(detokenize(t, &(i32){(i32)v.n}, 1, false, &out).code, ERR_INPUT);
    buf_free(&out);
    tokenizer_free(t);
    vocab_file_free(&v);
}

static void test_bos_eos(void **state)
{
    (void)state;
    vocab_file v = bpe_vocab("qwen2");
    bpe_words(&v);
    v.s.bos = (i64)v.n - 4;
    v.s.eos = (i64)v.n - 3;
    tokenizer *t = made(vocab_file_source(&v, "gpt2"));
    check_pieces(t, S("a"), TOKENIZE_BOS, "a"); /* not unless the metadata says so */
    tokenizer_free(t);
    v.s.add_bos = v.s.add_eos = 1;
    t = made(&v.s);
    check_pieces(t, S("a"), TOKENIZE_BOS, "<|im_start|>|a|<|im_end|>");
    check_pieces(t, S("a"), 0, "a");
    tokenizer_free(t);
    v.s.add_bos = v.s.add_eos = -1;
    v.s.pre = "llama-bpe";
    t = made(&v.s);
    check_pieces(t, S("a"), TOKENIZE_BOS, "<|im_start|>|a");
    tokenizer_free(t);
    vocab_file_free(&v);
}

/* every listed pre-tokenizer compiles and loses nothing */
static void test_pretokenizers(void **state)
{
    (void)state;
    static const char *const names[] = {"default",        "gpt-2",       "smollm",   "qwen2",    "stablelm2",  "llama-bpe",
                                        "dbrx",           "glm4",        "minicpm5", "qwen35",   "seed-coder", "bailingmoe",
                                        "tekken",         "gpt-4o",      "falcon",   "bloom",    "viking",     "deepseek-llm",
                                        "deepseek-coder", "deepseek-v3", "exaone",   "midm-2.0", NULL};
    str texts[] = {S("Hello  World's\n\n\t12345 I'VE 한국어 문장이다. naïve café\r\n  x=1;//★①½ "),
                   S("\xFF"
                     "a\xC3 b\xEA\xB0"),
                   S("   "), S("제3조(목적)①"), S("\u3000\u180E\u2028")};
    for (usize i = 0; i < COUNT_OF(names); i++) {
        vocab_file v = bpe_vocab(names[i]);
        bpe_words(&v);
        tokenizer *t = made(vocab_file_source(&v, "gpt2"));
        for (usize k = 0; k < COUNT_OF(texts); k++) check_round_trip(t, texts[k]);
        tokenizer_free(t);
        vocab_file_free(&v);
    }
    vocab_file v = bpe_vocab("qwen2");
    bpe_merge(&v, S("\n"), S("\n"));
    bpe_merge(&v, S("1"), S("2"));
    tokenizer *t = made(vocab_file_source(&v, "gpt2"));
    check_pieces(t, S("\n\n①12"), 0, "ĊĊ|â|ĳ|ł|1|2");
    tokenizer_free(t);
    v.s.pre = "gpt-2";
    t = made(&v.s);
    check_pieces(t, S("\n\n①12"), 0, "Ċ|Ċ|â|ĳ|ł|12");
    tokenizer_free(t);
    v.s.pre = "smollm"; /* digits, also ①, are cut out first, so the line ends stand at an end */
    t = made(&v.s);
    check_pieces(t, S("\n\n①12"), 0, "ĊĊ|â|ĳ|ł|1|2");
    tokenizer_free(t);
    vocab_file_free(&v);
}

/* the textbook: again and again, the best pair, the leftmost one of it */
static void bpe_naive(const vocab_file *v, str text, ids *out)
{
    str part[64];
    usize n = 0, at = 0;
    buf mapped = {0};
    byte_piece(&mapped, text);
    str s = buf_view(&mapped);
    for (usize from = 0; from < s.n; from = at) {
        utf8_next(s, &at);
        part[n++] = (str){s.p + from, at - from};
    }
    for (;;) {
        usize best = 0, rank = SIZE_MAX;
        for (usize i = 0; i + 1 < n; i++)
            for (usize m = 0; m < v->n_merges && m < rank; m++) {
                str line = v->merges[m];
                if (line.n == part[i].n + 1 + part[i + 1].n && str_starts(line, part[i]) && line.p[part[i].n] == ' ' &&
                    str_ends(line, part[i + 1]))
                    best = i, rank = m;
            }
        if (rank == SIZE_MAX) break;
        part[best].n += part[best + 1].n;
        memmove(part + best + 1, part + best + 2, (n - best - 2) * sizeof *part);
        n--;
    }
    for (usize i = 0; i < n; i++)
        for (usize k = 0; k < v->n; k++)
            if (str_eq(v->tokens[k], part[i])) ids_push(out, (i32)k);
    buf_free(&mapped);
}

static void test_bpe_random(void **state)
{
    (void)state;
    rng r;
    rng_seed(&r, 7);
    for (int round = 0; round < 60; round++) {
        vocab_file v = bpe_vocab("gpt-2");
        for (int m = 0; m < 40; m++) { /* pieces of pieces over three letters */
            char left[5] = "", right[5] = "";
            for (u64 i = 0, n = 1 + rng_u64(&r) % 3; i < n; i++) left[i] = "abc"[rng_u64(&r) % 3];
            for (u64 i = 0, n = 1 + rng_u64(&r) % 3; i < n; i++) right[i] = "abc"[rng_u64(&r) % 3];
            for (usize i = 1; left[i]; i++) bpe_merge(&v, (str){left, i}, (str){left + i, 1});
            for (usize i = 1; right[i]; i++) bpe_merge(&v, (str){right, i}, (str){right + i, 1});
            bpe_merge(&v, str_of(left), str_of(right));
        }
        tokenizer *t = made(vocab_file_source(&v, "gpt2"));
        for (int k = 0; k < 30; k++) {
            char text[64];
            usize n = 1 + rng_u64(&r) % 60;
            for (usize i = 0; i < n; i++) text[i] = "abc"[rng_u64(&r) % 3];
            ids want = {0}, got = encoded(t, (str){text, n}, 0);
            bpe_naive(&v, (str){text, n}, &want);
            assert_int_equal(got.n, want.n);
            assert_memory_equal(got.id, want.id, got.n * sizeof *got.id);
            ids_free(&want);
            ids_free(&got);
        }
        tokenizer_free(t);
        vocab_file_free(&v);
    }
}

/* ---- SentencePiece BPE --------------------------------------------------------------------------------------------------- */
static void test_spm(void **state)
{
    (void)state;
    vocab_file v = spm_vocab(true);
    tokenizer *t = made(vocab_file_source(&v, "llama"));
    check_pieces(t, S("hello"), 0, "▁hello");
    check_pieces(t, S("hello"), TOKENIZE_BOS, "<s>|▁hello");
    check_pieces(t, S("가나다"), 0, "▁|가나|<0xEB>|<0x8B>|<0xA4>");
    check_pieces(t, S("\xFF"), 0, "▁|<0xFF>");
    check_pieces(t, S("a  b"), 0, "▁|a|▁▁|▁|<0x62>"); /* the user token stands for two spaces; a new prefix follows it */
    check_pieces(t, S("</s>"), 0, "▁|</s|>");         /* never the control token, although the merges lead to it */
    check_pieces(t, S("a</s>a"), TOKENIZE_SPECIAL, "▁|a|</s>|▁|a");
    check_round_trip(t, S("hello hello 가나다\n\xF0\x9F\x98\x80 \xFF"));
    tokenizer_free(t);
    v.s.add_space_prefix = 0;
    t = made(&v.s);
    check_pieces(t, S("hello"), 0, "hell|o");
    check_round_trip(t, S(" hello  hello"));
    tokenizer_free(t);
    v.s.remove_extra_whitespaces = v.s.add_space_prefix = 1;
    t = made(&v.s);
    check_pieces(t, S(" hello \n"), 0, "▁hello|▁|<0x0A>");
    tokenizer_free(t);
    vocab_file_free(&v);

    v = spm_vocab(false);
    t = made(vocab_file_source(&v, "llama"));
    assert_int_equal(tokenizer_source(t)->unk, 0);
    check_pieces(t, S("가!!?나!"), 0, "▁|가|<unk>|나|<unk>"); /* one for a run */
    tokenizer_free(t);
    v.kinds[0] = TOKEN_NORMAL; /* nothing stands for the unknown: an error, not a loss */
    t = made(&v.s);
    ids out = {0};
    assert_int_equal(ids_push(&out, 5), true);
    assert_int_equal(tokenize(t, S("가!"), TOKENIZE_BOS, &out).code, ERR_UNSUPPORTED);
    assert_int_equal(out.n, 1);
    ids_free(&out);
    tokenizer_free(t);
    vocab_file_free(&v);
}

static i64 find_token(const vocab_file *v, str s)
{
    for (usize i = 3; i < v->n; i++)
        if (str_eq(v->tokens[i], s)) return (i64)i;
    return -1;
}

static void spm_naive(const vocab_file *v, str s, ids *out) /* s: spaces already U+2581 */
{
    str part[128];
    usize n = 0, at = 0;
    for (usize from = 0; from < s.n; from = at) {
        utf8_next(s, &at);
        part[n++] = (str){s.p + from, at - from};
    }
    for (;;) {
        i64 best = -1;
        float score = -INFINITY;
        for (usize i = 0; i + 1 < n; i++) {
            i64 id = find_token(v, (str){part[i].p, part[i].n + part[i + 1].n});
            if (id >= 0 && v->scores[id] > score) best = (i64)i, score = v->scores[id];
        }
        if (best < 0) break;
        part[best].n += part[best + 1].n;
        memmove(part + best + 1, part + best + 2, (n - (usize)best - 2) * sizeof *part);
        n--;
    }
    for (usize i = 0; i < n; i++) ids_push(out, (i32)find_token(v, part[i]));
}

/* best sum of scores over all ways to cut */
static double unigram_naive(const vocab_file *v, str s)
{
    double best[400];
    for (usize to = 0; to <= s.n; to++) {
        best[to] = to ? -INFINITY : 0;
        for (usize from = 0; from < to; from++) {
            i64 id = find_token(v, (str){s.p + from, to - from});
            if (id >= 0) best[to] = fmax(best[to], best[from] + (double)v->scores[id]);
        }
    }
    return best[s.n];
}

/* random pieces over a, b, 가 and the space mark, some of which reach across word boundaries */
static void test_sentencepiece_random(void **state)
{
    (void)state;
    static const char *const letter[] = {"a", "b", "가", "▁"};
    rng r;
    rng_seed(&r, 11);
    for (int round = 0; round < 80; round++) {
        vocab_file v = {.a = arena_new(), .s = token_source_empty()};
        vocab_file_add(&v, S("<unk>"), 0, TOKEN_UNKNOWN);
        vocab_file_add(&v, S("<s>"), 0, TOKEN_CONTROL);
        vocab_file_add(&v, S("</s>"), 0, TOKEN_CONTROL);
        for (usize i = 0; i < 4; i++) vocab_file_add(&v, str_of(letter[i]), -20, TOKEN_NORMAL);
        for (int m = 0; m < 40; m++) {
            buf piece = {0};
            bool across = round % 2;
            for (u64 i = 0, n = 2 + rng_u64(&r) % 3; i < n; i++)
                buf_puts(&piece, letter[rng_u64(&r) % (i == 0 || across ? 4 : 3)]);
            if (find_token(&v, buf_view(&piece)) < 0)
                vocab_file_add(&v, buf_view(&piece), -(float)(rng_u64(&r) % 12), TOKEN_NORMAL);
            buf_free(&piece);
        }
        v.s.add_space_prefix = 0;
        v.s.add_eos = 0;
        tokenizer *spm = made(vocab_file_source(&v, "llama")), *unigram = made(vocab_file_source(&v, "t5"));
        for (int k = 0; k < 20; k++) {
            buf text = {0}, escaped = {0};
            for (u64 i = 0, n = 1 + rng_u64(&r) % 60; i < n; i++) {
                const char *c = letter[rng_u64(&r) % 4];
                buf_puts(&text, c == letter[3] ? " " : c);
                buf_puts(&escaped, c);
            }
            ids want = {0}, got = encoded(spm, buf_view(&text), 0);
            spm_naive(&v, buf_view(&escaped), &want);
            assert_int_equal(got.n, want.n);
            assert_memory_equal(got.id, want.id, got.n * sizeof *got.id);
            ids_free(&got);
            got = encoded(unigram, buf_view(&text), 0);
            double sum = 0;
            for (usize i = 0; i < got.n; i++) sum += (double)v.scores[got.id[i]];
            assert_true(fabs(sum - unigram_naive(&v, buf_view(&escaped))) < 1e-6);
            ids_free(&want);
            ids_free(&got);
            buf_free(&text);
            buf_free(&escaped);
        }
        tokenizer_free(spm);
        tokenizer_free(unigram);
        vocab_file_free(&v);
    }
}

/* ---- Unigram ------------------------------------------------------------------------------------------------------------- */
static void put_u32(buf *b, u32 v) { buf_put(b, &v, 4); }

/* a double array for one-byte keys: the root leads to 256 + byte, that one's value lies at 768 + byte */
static void tiny_charsmap(buf *out)
{
    u32 unit[1024] = {0x100 << 10};
    buf text = {0};
    for (u32 b = 'A'; b <= 'Z'; b++) {
        unit[256 + b] = 0x200 << 10 | 0x100 | b;
        unit[768 + b] = 0x80000000u | (u32)text.n;
        buf_byte(&text, (int)b + 32);
        buf_byte(&text, 0);
    }
    unit[256 + '\t'] = 0x200 << 10 | 0x100 | '\t';
    unit[768 + '\t'] = 0x80000000u | (u32)text.n;
    buf_put(&text, " ", 2);
    put_u32(out, sizeof unit);
    buf_put(out, unit, sizeof unit);
    buf_put(out, text.p, text.n);
    buf_free(&text);
}

static vocab_file unigram_vocab(void)
{
    vocab_file v = {.a = arena_new(), .s = token_source_empty()};
    vocab_file_add(&v, S("<s>"), 0, TOKEN_CONTROL);
    vocab_file_add(&v, S("<pad>"), 0, TOKEN_CONTROL);
    vocab_file_add(&v, S("</s>"), 0, TOKEN_CONTROL);
    vocab_file_add(&v, S("<unk>"), 0, TOKEN_UNKNOWN);
    static const struct {
        const char *piece;
        float score;
    } pieces[] = {{"▁", -2}, {"▁he", -3}, {"he", -4}, {"llo", -4},  {"▁hello", -6}, {"l", -5}, {"o", -5},
                  {"h", -6}, {"e", -6},   {"가", -3}, {"가나", -4}, {"a", -3},      {"aa", -4}};
    for (usize i = 0; i < COUNT_OF(pieces); i++) vocab_file_add(&v, str_of(pieces[i].piece), pieces[i].score, TOKEN_NORMAL);
    return v;
}

static void test_unigram(void **state)
{
    (void)state;
    vocab_file v = unigram_vocab();
    buf table = {0};
    tiny_charsmap(&table);
    v.s.charsmap = buf_view(&table);
    v.s.remove_extra_whitespaces = v.s.add_bos = v.s.add_eos = 1;
    tokenizer *t = made(vocab_file_source(&v, "t5"));
    assert_int_equal(tokenizer_source(t)->bos, 0); /* found by name */
    assert_int_equal(tokenizer_source(t)->eos, 2);
    check_pieces(t, S("hello"), TOKENIZE_BOS, "<s>|▁hello|</s>");
    check_pieces(t, S("  HELLO\t \thello "), 0, "▁hello|▁hello");
    check_pieces(t, S("aaa"), 0, "▁|a|aa"); /* the earlier of two equal paths stays */
    check_pieces(t, S("가나다라 다"), 0, "▁|가나|<unk>|▁|<unk>");
    check_pieces(t, S("a\xFF\xFE"), 0, "▁|a|<unk>");
    check_pieces(t, S("   "), TOKENIZE_BOS, "<s>|</s>");
    check_pieces(t, S("<s>"), 0, "▁|<unk>"); /* plain characters: "s" is in no piece either */
    check_pieces(t, S("<s>a"), TOKENIZE_SPECIAL, "<s>|▁|a");
    tokenizer_free(t);
    v.s.add_bos = v.s.add_eos = v.s.remove_extra_whitespaces = -1;
    t = made(&v.s);
    check_pieces(t, S("a"), TOKENIZE_BOS, "▁|a|</s>");
    check_pieces(t, S(" a "), 0, "▁|▁|a|▁");
    tokenizer_free(t);
    buf_free(&table);
    vocab_file_free(&v);
}

/* ---- streams ----------------------------------------------------------------------------------------------------------------
 */
static void check_stream(const tokenizer *t, const i32 *id, usize n, str want)
{
    stream_decoder d;
    buf out = {0};
    stream_decoder_init(&d, t, false);
    for (usize i = 0; i < n; i++) {
        stream_decoder_put(&d, id[i], &out);
        assert_true(utf8_valid(buf_view(&out)));
    }
    stream_decoder_end(&d, &out);
    assert_int_equal(out.n, want.n);
    if (want.n) assert_memory_equal(out.p, want.p, want.n);
    buf_free(&out);
}

/* a vocabulary of all parts of a text, and every way to cut the text into such parts */
static void test_stream_every_split(void **state)
{
    (void)state;
    static const str texts[] = {{"한😀é", 9}, {"가나다", 9}, {"a😀b한", 9}, {"👩‍👧", 11}};
    for (usize k = 0; k < COUNT_OF(texts); k++) {
        str s = texts[k];
        vocab_file v = bpe_vocab("gpt-2");
        bpe_merge(&v, S("a"), S("b"));
        for (usize from = 0; from < s.n; from++)
            for (usize n = 2; from + n <= s.n; n++) {
                buf piece = {0};
                byte_piece(&piece, (str){s.p + from, n});
                bool known = false;
                for (usize i = 0; i < v.n; i++) known |= str_eq(v.tokens[i], buf_view(&piece));
                if (!known) vocab_file_add(&v, buf_view(&piece), 0, TOKEN_NORMAL);
                buf_free(&piece);
            }
        tokenizer *t = made(vocab_file_source(&v, "gpt2"));
        for (u32 cuts = 0; cuts < 1u << (s.n - 1); cuts++) {
            i32 id[16];
            usize n = 0;
            for (usize from = 0, at = 1; at <= s.n; at++) {
                if (at < s.n && !(cuts >> (at - 1) & 1)) continue;
                buf piece = {0};
                byte_piece(&piece, (str){s.p + from, at - from});
                id[n++] = (i32)token_find(t, buf_view(&piece));
                assert_true(id[n - 1] >= 0);
                buf_free(&piece);
                from = at;
            }
            check_stream(t, id, n, s);
        }
        tokenizer_free(t);
        vocab_file_free(&v);
    }
}

static void test_stream_bytes(void **state)
{
    (void)state;
    vocab_file v = spm_vocab(true);
    v.s.add_space_prefix = 0;
    tokenizer *t = made(vocab_file_source(&v, "llama"));
    for (u32 c = 1; c <= 0x1FFFF; c += c >= 0xAC00 && c < 0xD7A4     ? 1
                                       : c >= 0x1F300 && c < 0x1F700 ? 1
                                                                     : 37) { /* all Hangul, all emoji, a sieve of the rest */
        if (c >= 0xD800 && c < 0xE000) continue;
        char z[4];
        usize n = utf8_put(z, c);
        i32 id[4];
        for (usize i = 0; i < n; i++) id[i] = 3 + (u8)z[i];
        check_stream(t, id, n, (str){z, n});
    }
    check_stream(t, (i32[]){3 + 0xED, 3 + 0x95}, 2, S("\uFFFD\uFFFD"));           /* unfinished at the end */
    check_stream(t, (i32[]){3 + 0xED, 3 + 'x'}, 2, S("\uFFFDx"));                 /* unfinished in the middle */
    check_stream(t, (i32[]){3 + 0xED, 1, 3 + 0x95, 3 + 0x9C}, 4, S("한"));        /* a control token shows nothing */
    check_stream(t, (i32[]){3 + 0x9C, 3 + 0xFF, 3 + 'y'}, 3, S("\uFFFD\uFFFDy")); /* never the beginning of anything */
    check_stream(t, (i32[]){3 + 0xE0, 3 + 0x80, 3 + 0xF0, 3 + 0x9F}, 4, S("\uFFFD\uFFFD\uFFFD\uFFFD")); /* overlong */
    tokenizer_free(t);
    vocab_file_free(&v);
}

static void test_stream_space(void **state)
{
    (void)state;
    vocab_file v = spm_vocab(true);
    tokenizer *t = made(vocab_file_source(&v, "llama"));
    i32 hello = (i32)token_find(t, S("▁hello")), bos = 1;
    check_stream(t, (i32[]){bos, hello, hello}, 3, S("hello hello"));
    stream_decoder d;
    buf out = {0};
    stream_decoder_init(&d, t, false);
    d.started = true; /* goes on with a text */
    stream_decoder_put(&d, hello, &out);
    assert_string_equal(buf_cstr(&out), " hello");
    buf_free(&out);
    tokenizer_free(t);
    vocab_file_free(&v);
}

/* ---- hostile metadata ---------------------------------------------------------------------------------------------------------
 */
static void refused(const token_source *s, int code, const char *says)
{
    usize before = mem_now();
    tokenizer *t = (tokenizer *)s;
    err bad = tokenizer_new(&t, s);
    assert_null(t);
    if (bad.code != code || !strstr(bad.what, says))
        fail_msg("got %s \"%s\", expected %s with \"%s\"", err_name(bad.code), bad.what ? bad.what : "", err_name(code), says);
    assert_int_equal(mem_now(), before);
}

static void test_hostile(void **state)
{
    (void)state;
    vocab_file v = bpe_vocab("gpt-2");
    bpe_words(&v);
    const token_source good = *vocab_file_source(&v, "gpt2");
    token_source s = good;
#define TRY_WITH(change, code, says) s = good, change, refused(&s, code, says)
    TRY_WITH(s.model = NULL, ERR_UNSUPPORTED, "model");
    TRY_WITH(s.model = "rwkv", ERR_UNSUPPORTED, "rwkv");
    TRY_WITH(s.pre = "gpt-99", ERR_UNSUPPORTED, "gpt-99");
    TRY_WITH(s.pre = "", ERR_UNSUPPORTED, "pre-tokenizer");
    TRY_WITH(s.n_tokens = 0, ERR_FORMAT, "empty");
    TRY_WITH(s.n_tokens = -5, ERR_FORMAT, "empty");
    TRY_WITH(s.tokens = NULL, ERR_FORMAT, "empty");
    TRY_WITH(s.n_merges = 0, ERR_FORMAT, "merges");
    TRY_WITH(s.bos = (i64)v.n, ERR_FORMAT, "bos");
    TRY_WITH(s.eos = -7, ERR_FORMAT, "eos");
    TRY_WITH(s.pad = INT64_MAX, ERR_FORMAT, "padding");
    TRY_WITH(s.add_bos = 1, ERR_FORMAT, "BOS");
    TRY_WITH(s.add_eos = 1, ERR_FORMAT, "EOS");
    TRY_WITH(s.n_tokens = 256, ERR_FORMAT, "merge 0"); /* what the merges make is cut off */
    TRY_WITH(s.model = "llama"; s.scores = NULL, ERR_FORMAT, "scores");
    str merges[] = {good.merges[0], S("nospace")};
    TRY_WITH(s.merges = merges; s.n_merges = 2, ERR_FORMAT, "nospace");
    merges[1] = S("한 글");
    TRY_WITH(s.merges = merges; s.n_merges = 2, ERR_FORMAT, "left part");
    merges[1] = S("a ");
    TRY_WITH(s.merges = merges; s.n_merges = 2, ERR_FORMAT, "merge 1");
    v.kinds[7] = 9;
    TRY_WITH((void)0, ERR_FORMAT, "type 9");
    v.kinds[7] = TOKEN_BYTE;
    TRY_WITH((void)0, ERR_FORMAT, "byte token");
    v.kinds[7] = TOKEN_NORMAL;
    v.scores[3] = NAN;
    TRY_WITH((void)0, ERR_FORMAT, "score of token 3");
    v.scores[3] = INFINITY;
    TRY_WITH((void)0, ERR_FORMAT, "score of token 3");
    v.scores[3] = 0;
    str kept = v.tokens[9];
    v.tokens[9] = v.tokens[8];
    TRY_WITH((void)0, ERR_FORMAT, "tokens 8 and 9");
    char *huge = mem_zero(100000);
    v.tokens[9] = (str){huge, 100000};
    TRY_WITH((void)0, ERR_FORMAT, "100000 bytes");
    mem_free(huge);
    v.tokens[9] = kept;
    s = good;
    s.bos = s.sep = UINT32_MAX; /* "none", as some converters write it */
    tokenizer *t = made(&s);
    assert_int_equal(tokenizer_source(t)->bos, -1);
    tokenizer_free(t);
    vocab_file_free(&v);
}

static void test_hostile_charsmap(void **state)
{
    (void)state;
    vocab_file v = unigram_vocab();
    buf table = {0};
    tiny_charsmap(&table);
    token_source s = *vocab_file_source(&v, "t5");
    for (usize n = 1; n < table.n; n += n < 8 ? 1 : 97) { /* cut anywhere: refused, or harmless */
        s.charsmap = (str){table.p, n};
        tokenizer *t;
        err bad = tokenizer_new(&t, &s);
        if (n < 4100) assert_int_equal(bad.code, ERR_FORMAT);
        if (!bad.code) check_pieces(t, S("hello"), 0, "▁hello");
        tokenizer_free(t);
    }
    s.charsmap = buf_view(&table);
    table.p[table.n - 1] = 'x';
    refused(&s, ERR_FORMAT, "no end");
    table.p[table.n - 1] = 0;
    buf long_one = {0}; /* a replacement that would make a text of letters hundreds of times as long */
    buf_str(&long_one, buf_view(&table));
    for (int i = 0; i < 257; i++) buf_byte(&long_one, 'x');
    buf_byte(&long_one, 0);
    s.charsmap = buf_view(&long_one);
    refused(&s, ERR_FORMAT, "a replacement of precompiled_charsmap has 257 bytes");
    buf_free(&long_one);
    s.charsmap = buf_view(&table);
    table.p[4 + 4 * (768 + 'B') + 2] = 1; /* a value behind the strings */
    refused(&s, ERR_FORMAT, "points outside");
    table.p[4 + 4 * (768 + 'B') + 2] = 0;
    rng r;
    rng_seed(&r, 3);
    for (int round = 0; round < 2000; round++) { /* bytes of the array changed at random */
        buf broken = {0};
        buf_str(&broken, buf_view(&table));
        for (int i = 0; i < 20; i++) broken.p[rng_u64(&r) % broken.n] = (char)rng_u64(&r);
        s.charsmap = buf_view(&broken);
        tokenizer *t;
        if (!tokenizer_new(&t, &s).code) {
            ids out = encoded(t, S("HELLO Abc\tXYZ 가나 \xFF"), 0);
            ids_free(&out);
        }
        tokenizer_free(t);
        buf_free(&broken);
    }
    buf_free(&table);
    vocab_file_free(&v);
}

/* every allocation fails once: an error, nothing lost, nothing leaked */
static void test_no_memory(void **state)
{
    (void)state;
    buf table = {0}, text = {0};
    tiny_charsmap(&table);
    for (int i = 0; i < 100; i++) buf_puts(&text, "hello the 가나다 aaaa<tool> ");
    for (int kind = 0; kind < 3; kind++) {
        vocab_file v = kind == 0 ? bpe_vocab("smollm") : kind == 1 ? spm_vocab(true) : unigram_vocab();
        if (kind == 0) bpe_words(&v);
        if (kind == 2) v.s.charsmap = buf_view(&table);
        const token_source *s = vocab_file_source(&v, (const char *[]){"gpt2", "llama", "t5"}[kind]);
        usize before = mem_now();
        err bad = err_new(ERR_NOMEM, "start");
        for (i64 n = 1; bad.code; n++) {
            tokenizer *t;
            ids out = {0};
            buf back = {0};
            mem_fail_at(n);
            bad = tokenizer_new(&t, s);
            if (!bad.code) bad = tokenize(t, buf_view(&text), TOKENIZE_SPECIAL | TOKENIZE_BOS, &out);
            if (!bad.code) bad = detokenize(t, out.id, out.n, true, &back);
            mem_fail_at(0);
            if (bad.code) assert_int_equal(bad.code, ERR_NOMEM);
            buf_free(&back);
            ids_free(&out);
            tokenizer_free(t);
            assert_int_equal(mem_now(), before);
            assert_true(n < 10000);
        }
        vocab_file_free(&v);
    }
    buf_free(&table);
    buf_free(&text);
}

/* ---- long texts -------------------------------------------------------------------------------------------------------------
 */
static void check_long(const tokenizer *t, const char *unit)
{
    buf text = {0};
    usize size = *unit == 'a' || !strcmp(unit, "가") ? 1 << 20 : 1 << 18;
    while (text.n < size) buf_puts(&text, unit);
    double start = clock_s();
    ids out = encoded(t, buf_view(&text), TOKENIZE_SPECIAL);
    double took = clock_s() - start;
    if (took > 20) fail_msg("%zu bytes of \"%s\" took %.1f s", size, unit, took);
    ids_free(&out);
    buf_free(&text);
}

static const char *const units[] = {"a", "가", " ", "\n", "  a", "<", "<tool", "1", ".", "é", "A", "\xFF"};

static void test_long(void **state)
{
    (void)state;
    static const char *const pres[] = {"gpt-2", "qwen2", "default", "gpt-4o", "deepseek-llm", "deepseek-v3", "bloom"};
    for (usize p = 0; p < COUNT_OF(pres); p++) {
        vocab_file v = bpe_vocab(pres[p]);
        bpe_words(&v);
        tokenizer *t = made(vocab_file_source(&v, "gpt2"));
        for (usize u = 0; u < COUNT_OF(units); u++) check_long(t, units[u]);
        tokenizer_free(t);
        vocab_file_free(&v);
    }
    for (int kind = 0; kind < 2; kind++) {
        vocab_file v = kind ? unigram_vocab() : spm_vocab(true);
        tokenizer *t = made(vocab_file_source(&v, kind ? "t5" : "llama"));
        for (usize u = 0; u < COUNT_OF(units); u++) check_long(t, units[u]);
        tokenizer_free(t);
        vocab_file_free(&v);
    }
}

static void test_long_real(void **state)
{
    (void)state;
    static const char *const names[] = {"smollm2-135m", "qwen2.5-coder-1.5b", "gemma3-270m", "e5-small"};
    int tried = 0;
    for (usize i = 0; i < COUNT_OF(names); i++) {
        char path[512];
        gguf_vocab g;
        if (!gguf_vocab_open(&g, model_path(path, names[i]))) continue;
        tokenizer *t = made(&g.s);
        for (usize u = 0; u < COUNT_OF(units); u++) check_long(t, units[u]);
        bool exact = str_eq(str_of(g.s.model), S("gpt2"));
        if (exact) check_round_trip(t, S("한국어 문장과 English, def f(x):\n\treturn x**2 # ★ 👩‍👧 café\r\n\n"));
        tokenizer_free(t);
        gguf_vocab_close(&g);
        tried++;
    }
    if (!tried) skip();
}

/* ---- many threads ------------------------------------------------------------------------------------------------------------
 */
typedef struct {
    const tokenizer *t;
    str text;
    ids out;
} job;

static void *run_job(void *p)
{
    job *j = p;
    for (int i = 0; i < 5; i++) {
        ids_free(&j->out);
        if (tokenize(j->t, j->text, TOKENIZE_BOS, &j->out).code) j->out.n = 0;
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    vocab_file v = bpe_vocab("qwen2");
    bpe_words(&v);
    tokenizer *t = made(vocab_file_source(&v, "gpt2"));
    buf text = {0};
    for (int i = 0; i < 3000; i++) buf_fmt(&text, "the %d 가가 aaaa\n", i);
    job jobs[4];
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) {
        jobs[i] = (job){t, buf_view(&text), {0}};
        assert_int_equal(pthread_create(&thread[i], NULL, run_job, &jobs[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < 4; i++) {
        assert_true(jobs[i].out.n > 1000);
        assert_int_equal(jobs[i].out.n, jobs[0].out.n);
        assert_memory_equal(jobs[i].out.id, jobs[0].out.id, jobs[0].out.n * sizeof(i32));
    }
    for (int i = 0; i < 4; i++) ids_free(&jobs[i].out);
    buf_free(&text);
    tokenizer_free(t);
    vocab_file_free(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bpe),           cmocka_unit_test(test_bos_eos),
        cmocka_unit_test(test_pretokenizers), cmocka_unit_test(test_bpe_random),
        cmocka_unit_test(test_spm),           cmocka_unit_test(test_sentencepiece_random),
        cmocka_unit_test(test_unigram),       cmocka_unit_test(test_stream_every_split),
        cmocka_unit_test(test_stream_bytes),  cmocka_unit_test(test_stream_space),
        cmocka_unit_test(test_hostile),       cmocka_unit_test(test_hostile_charsmap),
        cmocka_unit_test(test_no_memory),     cmocka_unit_test(test_long),
        cmocka_unit_test(test_long_real),     cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
