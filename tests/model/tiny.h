/* tests/model/tiny.h - small random models written by the test itself: real architectures, real tokenizers (byte-level BPE,
 * SentencePiece, Unigram), a few layers, any weight type; and the same files damaged in one place. Weights depend on the seed and
 * the tensor's name only, so two files of one seed agree wherever they are not told to differ. */
#ifndef MARU_TESTS_TINY_H
#define MARU_TESTS_TINY_H
#include "../support/support.h"
#include "model/model.h"
#include <math.h>

typedef struct {
    const char *arch;                       /* a row of the table; also the prefix of its keys */
    dtype       type;                       /* of the matrices; norms and biases are F32 */
    bool        plain;                      /* F32 matrices that hold just what `type` would */
    i64         n_layer, width, n_head, n_kv, n_ff, n_ctx, n_vocab;
    u64         seed;
    void      (*edit)(void *ctx, const char *name, float *w, i64 k, i64 n); /* of every tensor's values, after `plain` rounded them and before they are encoded */
    void       *ctx;
    /* damage */
    const char *drop;                       /* this key or tensor is left out */
    const char *wide, *tall;                /* this tensor has 32 values more a row; 8 rows more */
    dtype       odd_type; const char *odd;  /* this tensor has another type */
    const meta *put; usize n_put;           /* instead of the entries of these names, or besides */
} tiny;

static inline tiny tiny_of(const char *arch, dtype type)
{
    tiny t = {.arch = arch, .type = type, .n_layer = 2, .width = 64, .n_head = 4, .n_kv = 2, .n_ff = 96, .n_ctx = 256, .n_vocab = 304, .seed = 7};
    if (dtype_table[type].block > 32) t.width = 256, t.n_ff = 256;
    if (!strcmp(arch, "gemma3")) t.n_layer = 7; /* six see a window of eight, the sixth sees all */
    if (!strcmp(arch, "bert")) t.n_kv = t.n_head;
    return t;
}

/* ---- metadata ---- */

#define META_INT(name, value) {.key = {name, sizeof(name) - 1}, .kind = META_I64, .n = 1, .v.i = (value)}
#define META_REAL(name, value) {.key = {name, sizeof(name) - 1}, .kind = META_F64, .n = 1, .v.f = (value)}
#define META_TEXT(name, value) {.key = {name, sizeof(name) - 1}, .kind = META_STR, .n = 1, .v.s = {value, sizeof(value) - 1}}

static const char *const tiny_chat = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
                                     "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

typedef struct { const tiny *t; gguf_writer *w; } tiny_writer;

static inline bool tiny_skips(const tiny *t, const char *key)
{
    for (usize i = 0; i < t->n_put; i++)
        if (str_eq(t->put[i].key, str_of(key))) return true;
    return t->drop && !strcmp(t->drop, key);
}

static inline void tiny_int(tiny_writer *w, const char *what, i64 v)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", w->t->arch, what);
    if (!tiny_skips(w->t, key)) assert_ok(gguf_put_u32(w->w, key, (u32)v));
}

static inline void tiny_real(tiny_writer *w, const char *what, float v)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", w->t->arch, what);
    if (!tiny_skips(w->t, key)) assert_ok(gguf_put_f32(w->w, key, v));
}

static inline void tiny_text(tiny_writer *w, const char *key, const char *v)
{
    if (!tiny_skips(w->t, key)) assert_ok(gguf_put_str(w->w, key, str_of(v)));
}

static inline void tiny_array(tiny_writer *w, const char *key, meta_kind kind, i64 n, const void *items)
{
    if (!tiny_skips(w->t, key)) assert_ok(gguf_put_array(w->w, key, kind, n, items));
}

typedef struct { arena *a; str piece[1024]; float score[1024]; i32 kind[1024]; i64 n; } tiny_vocab;

static inline void tiny_piece(tiny_vocab *v, i32 kind, float score, const char *text)
{
    v->piece[v->n] = (str){arena_str(v->a, text, strlen(text)), strlen(text)};
    v->score[v->n] = score;
    v->kind[v->n++] = kind;
}

static inline void tiny_fill(tiny_vocab *v, i64 n)
{
    while (v->n < n) {
        char name[32];
        snprintf(name, sizeof name, "<unused%d>", (int)v->n);
        tiny_piece(v, TOKEN_UNUSED, 0, name);
    }
}

/* "gpt2": an alphabet of 256 bytes as printable characters, a few merges, control tokens */
static inline void tiny_bpe(tiny_writer *w, tiny_vocab *v)
{
    static const char *const merge[] = {"h e", "l l", "t h", "\xC4\xA0 t", "\xC4\xA0t he", "he ll", "hell o"};
    str                      merges[COUNT_OF(merge)];
    for (int b = 0, other = 256; b < 256; b++) {
        char s[5] = {0};
        bool shown = (b >= '!' && b <= '~') || (b >= 0xA1 && b != 0xAD);
        utf8_put(s, shown ? (u32)b : (u32)other++);
        tiny_piece(v, TOKEN_NORMAL, 0, s);
    }
    for (usize i = 0; i < COUNT_OF(merge); i++) {
        char  joined[16];
        usize left = strcspn(merge[i], " ");
        snprintf(joined, sizeof joined, "%.*s%s", (int)left, merge[i], merge[i] + left + 1);
        tiny_piece(v, TOKEN_NORMAL, 0, joined);
        merges[i] = str_of(merge[i]);
    }
    i64 first = v->n;
    tiny_piece(v, TOKEN_CONTROL, 0, "<|endoftext|>");
    tiny_piece(v, TOKEN_CONTROL, 0, "<|im_start|>");
    tiny_piece(v, TOKEN_CONTROL, 0, "<|im_end|>");
    tiny_text(w, "tokenizer.ggml.model", "gpt2");
    tiny_text(w, "tokenizer.ggml.pre", "qwen2");
    tiny_array(w, "tokenizer.ggml.merges", META_STR, COUNT_OF(merge), merges);
    if (!tiny_skips(w->t, "tokenizer.ggml.bos_token_id")) assert_ok(gguf_put_u32(w->w, "tokenizer.ggml.bos_token_id", (u32)first));
    if (!tiny_skips(w->t, "tokenizer.ggml.eos_token_id")) assert_ok(gguf_put_u32(w->w, "tokenizer.ggml.eos_token_id", (u32)first + 2));
}

/* "llama" with byte tokens, or "t5" as XLM-R has it: <s> text </s> */
static inline void tiny_spm(tiny_writer *w, tiny_vocab *v, bool unigram)
{
    static const char *const words[] = {"\xE2\x96\x81the", "\xE2\x96\x81hello", "\xE2\x96\x81he", "ll", "he", "llo", "hello", "\xE2\x96\x81t", "th"};
    tiny_piece(v, TOKEN_UNKNOWN, 0, "<unk>");
    tiny_piece(v, TOKEN_CONTROL, 0, "<s>");
    tiny_piece(v, TOKEN_CONTROL, 0, "</s>");
    for (int b = 0; b < 256 && !unigram; b++) {
        char s[8];
        snprintf(s, sizeof s, "<0x%02X>", b);
        tiny_piece(v, TOKEN_BYTE, 0, s);
    }
    tiny_piece(v, TOKEN_NORMAL, -3, "\xE2\x96\x81");
    for (char c = 'a'; c <= 'z'; c++) tiny_piece(v, TOKEN_NORMAL, -4, (char[2]){c});
    for (usize i = 0; i < COUNT_OF(words); i++) tiny_piece(v, TOKEN_NORMAL, -1 - (float)i, words[i]);
    tiny_text(w, "tokenizer.ggml.model", unigram ? "t5" : "llama");
    if (!tiny_skips(w->t, "tokenizer.ggml.bos_token_id")) assert_ok(gguf_put_u32(w->w, "tokenizer.ggml.bos_token_id", 1));
    if (!tiny_skips(w->t, "tokenizer.ggml.eos_token_id")) assert_ok(gguf_put_u32(w->w, "tokenizer.ggml.eos_token_id", 2));
    if (unigram) assert_ok(gguf_put_bool(w->w, "tokenizer.ggml.add_bos_token", true));
    if (unigram) assert_ok(gguf_put_bool(w->w, "tokenizer.ggml.add_eos_token", true));
}

static inline void tiny_keys(tiny_writer *w, tiny_vocab *v)
{
    const tiny *t = w->t;
    bool        bert = !strcmp(t->arch, "bert"), gemma = !strcmp(t->arch, "gemma3");
    tiny_text(w, "general.architecture", t->arch);
    tiny_int(w, "block_count", t->n_layer);
    tiny_int(w, "embedding_length", t->width);
    tiny_int(w, "attention.head_count", t->n_head);
    tiny_int(w, "attention.head_count_kv", t->n_kv);
    tiny_int(w, "feed_forward_length", t->n_ff);
    tiny_int(w, "context_length", t->n_ctx);
    tiny_real(w, bert ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-5f);
    if (gemma) tiny_int(w, "attention.sliding_window", 8);
    if (!bert) tiny_text(w, "tokenizer.chat_template", tiny_chat);
    if (!strcmp(t->arch, "qwen2")) tiny_bpe(w, v);
    else tiny_spm(w, v, bert);
    tiny_fill(v, t->n_vocab);
    tiny_array(w, "tokenizer.ggml.tokens", META_STR, v->n, v->piece);
    tiny_array(w, "tokenizer.ggml.token_type", META_I32, v->n, v->kind);
    tiny_array(w, "tokenizer.ggml.scores", META_F32, v->n, v->score);
    for (usize i = 0; i < t->n_put; i++) assert_ok(gguf_put_meta(w->w, &t->put[i]));
}

/* ---- tensors: listed, then written, by one walk ---- */

typedef struct { tiny_writer *w; bool data; } tiny_walk;

static inline void tiny_values(const tiny *t, const char *name, float *x, i64 k, i64 n, bool vector)
{
    rng g;
    rng_seed(&g, hash64(name, strlen(name), t->seed));
    float size = vector ? 0.2f : 1.2f / sqrtf((float)k);
    for (i64 i = 0; i < k * n; i++) x[i] = size * rng_normal(&g) + (vector && strstr(name, "weight") ? 1 : 0);
}

static inline void tiny_tensor(tiny_walk *at, const char *name, i64 k, i64 n)
{
    const tiny *t = at->w->t;
    bool        vector = n == 0;
    dtype       type = vector || t->plain || !strcmp(name, "token_types.weight") ? F32 : t->type;
    if (t->drop && !strcmp(t->drop, name)) return;
    if (t->odd && !strcmp(t->odd, name)) type = t->odd_type;
    if (t->wide && !strcmp(t->wide, name)) k += 32;
    if (t->tall && !strcmp(t->tall, name)) n += 8;
    if (!at->data) {
        assert_ok(gguf_put_tensor(at->w->w, str_of(name), type, n ? 2 : 1, (i64[2]){k, n}));
        return;
    }
    i64    rows = n ? n : 1;
    usize  bytes = dtype_row_bytes(type, k) * (usize)rows;
    float *x = malloc(sizeof *x * (usize)(k * rows));
    u8    *raw = malloc(bytes + dtype_row_bytes(t->type, k) * (usize)rows);
    tiny_values(t, name, x, k, rows, vector);
    if (t->plain && !vector) { /* through the quantised form and back */
        dtype_table[t->type].encode(x, raw, k * rows);
        dtype_table[t->type].decode(raw, x, k * rows);
    }
    if (t->edit) t->edit(t->ctx, name, x, k, rows);
    if (type == F32) memcpy(raw, x, bytes);
    else dtype_table[type].encode(x, raw, k * rows);
    assert_ok(gguf_put_data(at->w->w, raw, bytes));
    free(x);
    free(raw);
}

static inline void tiny_layer(tiny_walk *at, int i)
{
    const tiny *t = at->w->t;
    i64         d = t->width, kv = d / t->n_head * t->n_kv;
    bool        bert = !strcmp(t->arch, "bert"), gemma = !strcmp(t->arch, "gemma3"), biased = bert || !strcmp(t->arch, "qwen2");
    char        name[64];
#define NAMED(s) (snprintf(name, sizeof name, "blk.%d." s, i), name)
    tiny_tensor(at, NAMED("attn_q.weight"), d, d);
    tiny_tensor(at, NAMED("attn_k.weight"), d, kv);
    tiny_tensor(at, NAMED("attn_v.weight"), d, kv);
    tiny_tensor(at, NAMED("attn_output.weight"), d, d);
    tiny_tensor(at, NAMED("ffn_up.weight"), d, t->n_ff);
    tiny_tensor(at, NAMED("ffn_down.weight"), t->n_ff, d);
    if (biased) tiny_tensor(at, NAMED("attn_q.bias"), d, 0), tiny_tensor(at, NAMED("attn_k.bias"), kv, 0), tiny_tensor(at, NAMED("attn_v.bias"), kv, 0);
    if (bert) {
        tiny_tensor(at, NAMED("attn_output.bias"), d, 0), tiny_tensor(at, NAMED("ffn_up.bias"), t->n_ff, 0), tiny_tensor(at, NAMED("ffn_down.bias"), d, 0);
        tiny_tensor(at, NAMED("attn_output_norm.weight"), d, 0), tiny_tensor(at, NAMED("attn_output_norm.bias"), d, 0);
        tiny_tensor(at, NAMED("layer_output_norm.weight"), d, 0), tiny_tensor(at, NAMED("layer_output_norm.bias"), d, 0);
        return;
    }
    tiny_tensor(at, NAMED("attn_norm.weight"), d, 0), tiny_tensor(at, NAMED("ffn_norm.weight"), d, 0);
    tiny_tensor(at, NAMED("ffn_gate.weight"), d, t->n_ff);
    if (gemma) {
        tiny_tensor(at, NAMED("attn_q_norm.weight"), d / t->n_head, 0), tiny_tensor(at, NAMED("attn_k_norm.weight"), d / t->n_head, 0);
        tiny_tensor(at, NAMED("post_attention_norm.weight"), d, 0), tiny_tensor(at, NAMED("post_ffw_norm.weight"), d, 0);
    }
#undef NAMED
}

static inline void tiny_tensors(tiny_walk *at)
{
    const tiny *t = at->w->t;
    bool        bert = !strcmp(t->arch, "bert");
    tiny_tensor(at, "token_embd.weight", t->width, t->n_vocab);
    for (int i = 0; i < (int)t->n_layer; i++) tiny_layer(at, i);
    if (bert) {
        tiny_tensor(at, "token_embd_norm.weight", t->width, 0), tiny_tensor(at, "token_embd_norm.bias", t->width, 0);
        tiny_tensor(at, "position_embd.weight", t->width, t->n_ctx);
        tiny_tensor(at, "token_types.weight", t->width, 2);
        return;
    }
    tiny_tensor(at, "output_norm.weight", t->width, 0);
    if (strcmp(t->arch, "gemma3") != 0) tiny_tensor(at, "output.weight", t->width, t->n_vocab); /* gemma's head is its embedding */
}

static inline void tiny_write(const char *path, const tiny *t)
{
    tiny_writer w = {.t = t};
    tiny_vocab *v = calloc(1, sizeof *v);
    v->a = arena_new();
    assert_ok(gguf_create(&w.w, path));
    tiny_keys(&w, v);
    tiny_tensors(&(tiny_walk){&w, false});
    tiny_tensors(&(tiny_walk){&w, true});
    assert_ok(gguf_commit(w.w));
    arena_free(v->a);
    free(v);
}
#endif
