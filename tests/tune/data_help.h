/* tests/tune/data_help.h - a model that is only a tokenizer and a template: byte-level, one token a byte, with the control tokens
 * that a test names, so that masks can be written down as text. */
#ifndef MARU_TESTS_TUNE_DATA_HELP_H
#define MARU_TESTS_TUNE_DATA_HELP_H
#include "../support/support.h"
#include "tune/data.h"

typedef struct {
    model m;
    char *source;
} bytes_model;

/* specials: control tokens, separated by spaces; bos and eos are among them, or NULL */
static inline void bytes_model_new(bytes_model *b, const char *specials, const char *bos, const char *eos, int add_bos,
                                   const char *chat)
{
    static str piece[512];
    static i32 kind[512];
    arena *a = arena_new();
    i64 n = 0, special[2] = {-1, -1};
    for (u32 byte = 0, other = 256; byte < 256; byte++) { /* GPT-2's letters for bytes */
        buf s = {0};
        bool shown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
        buf_utf8(&s, shown ? byte : other++);
        piece[n] = (str){arena_str(a, s.p, s.n), s.n};
        kind[n++] = TOKEN_NORMAL;
        buf_free(&s);
    }
    piece[n] = S("\u0120a"); /* " a" is one token: a vocabulary needs some merge */
    kind[n++] = TOKEN_NORMAL;
    static const str merges[1] = {{"\u0120 a", 4}};
    for (const char *p = specials; *p;) {
        usize len = strcspn(p, " ");
        if (bos && strlen(bos) == len && !memcmp(bos, p, len)) special[0] = n;
        if (eos && strlen(eos) == len && !memcmp(eos, p, len)) special[1] = n;
        piece[n] = (str){p, len};
        kind[n++] = TOKEN_CONTROL;
        p += len + (p[len] == ' ');
    }
    token_source s = {.model = "gpt2",
                      .n_tokens = n,
                      .tokens = piece,
                      .kinds = kind,
                      .n_merges = 1,
                      .merges = merges,
                      .bos = special[0],
                      .eos = special[1],
                      .eot = -1,
                      .unk = -1,
                      .sep = -1,
                      .pad = -1,
                      .cls = -1,
                      .mask = -1,
                      .add_bos = add_bos,
                      .add_eos = 0,
                      .add_space_prefix = 0,
                      .remove_extra_whitespaces = 0};
    *b = (bytes_model){0};
    assert_ok(tokenizer_new(&b->m.tok, &s));
    arena_free(a);
    if (chat) assert_ok(chat_template_new(&b->m.chat, str_of(chat)));
    b->m.path = "bytes";
    b->m.h.n_ctx = 4096;
}

static inline void bytes_model_free(bytes_model *b)
{
    tokenizer_free(b->m.tok);
    chat_template_free(b->m.chat);
    mem_free(b->source);
}

/* what is learned of a sample: its runs, a | between them; controls written out */
static inline char *learned_text(const tune_data *d, usize sample)
{
    const tune_sample *s = &d->sample[sample];
    buf out = {0};
    for (usize i = 0; i < s->n; i++) {
        if (!d->learn[s->at + i]) continue;
        if (out.n && !d->learn[s->at + i - 1]) buf_byte(&out, '|');
        token_bytes(d->m->tok, d->id[s->at + i], &out, true);
    }
    buf_puts(&out, "");
    return out.n ? buf_take(&out) : mem_strdup("");
}

static inline char *whole_text(const tune_data *d, usize sample)
{
    const tune_sample *s = &d->sample[sample];
    buf out = {0};
    for (usize i = 0; i < s->n; i++) token_bytes(d->m->tok, d->id[s->at + i], &out, true);
    return buf_take(&out);
}

#define assert_learned(d, sample, text)                                                                                          \
    do {                                                                                                                         \
        char *l_ = learned_text(d, sample);                                                                                      \
        assert_string_equal(l_, text);                                                                                           \
        mem_free(l_);                                                                                                            \
    } while (0)

static const char *const chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
                                  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
#define CHATML_TOKENS "<|im_start|> <|im_end|> <|endoftext|>"
#endif
