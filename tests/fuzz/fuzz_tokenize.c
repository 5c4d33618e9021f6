/* tests/fuzz/fuzz_tokenize.c - a vocabulary and a text, both hostile. The input is lines: first "MODEL PRE BOS EOS ADD_BOS
 * ADD_EOS PREFIX TRIM", then tokens "tKIND SCORE PIECE" and merges "mLEFT RIGHT", then "." and the text. A tokenizer that was
 * made must give ids that exist, go back to the text where it says it does, and stream valid UTF-8. */
#include "text/text.h"
#include <stdlib.h>

int fuzz_one(const u8 *data, usize n);

typedef struct {
    token_source s;
    str *tokens, *merges;
    float *scores;
    i32 *kinds;
    usize n, n_scores, n_kinds, n_merges, cap[4];
    char model[16], pre[24];
} vocab_text;

static str next_line(str s, usize *at)
{
    i64 end = str_find(s, S("\n"), *at);
    str line = {s.p + *at, (end < 0 ? s.n : (usize)end) - *at};
    *at = end < 0 ? s.n : (usize)end + 1;
    return line;
}

static str next_word(str *s)
{
    i64 end = str_find(*s, S(" "), 0);
    str w = {s->p, end < 0 ? s->n : (usize)end};
    usize skip = end < 0 ? s->n : (usize)end + 1;
    s->p += skip;
    s->n -= skip;
    return w;
}

static i64 number(str w)
{
    i64 v = -1;
    return str_i64(w, &v) ? v : -1;
}

static void copy_word(char *out, usize size, str w) { snprintf(out, size, "%.*s", (int)i64_min((i64)w.n, (i64)size - 1), w.p); }

static usize read_vocab(vocab_text *v, str s)
{
    usize at = 0;
    str head = next_line(s, &at);
    copy_word(v->model, sizeof v->model, next_word(&head));
    copy_word(v->pre, sizeof v->pre, next_word(&head));
    v->s = (token_source){.model = v->model,
                          .pre = strcmp(v->pre, "-") ? v->pre : NULL,
                          .eot = -1,
                          .unk = -1,
                          .sep = -1,
                          .pad = -1,
                          .cls = -1,
                          .mask = -1};
    v->s.bos = number(next_word(&head));
    v->s.eos = number(next_word(&head));
    v->s.add_bos = (int)number(next_word(&head));
    v->s.add_eos = (int)number(next_word(&head));
    v->s.add_space_prefix = (int)number(next_word(&head));
    v->s.remove_extra_whitespaces = (int)number(next_word(&head));
    while (at < s.n) {
        str line = next_line(s, &at);
        if (line.n && line.p[0] == '.') break;
        if (line.n && line.p[0] == 'm') {
            line.p++, line.n--;
            if (!VEC_PUSH(v->merges, v->n_merges, v->cap[3], line)) break;
            continue;
        }
        double score = 0;
        str kind = next_word(&line);
        if (!str_f64(next_word(&line), &score)) score = -1;
        i32 k = kind.n > 1 ? (i32)number((str){kind.p + 1, kind.n - 1}) : 1;
        if (!VEC_PUSH(v->tokens, v->n, v->cap[0], line) || !VEC_PUSH(v->scores, v->n_scores, v->cap[1], (float)score) ||
            !VEC_PUSH(v->kinds, v->n_kinds, v->cap[2], k))
            break;
    }
    v->s.tokens = v->tokens;
    v->s.scores = v->scores;
    v->s.kinds = v->kinds;
    v->s.merges = v->merges;
    v->s.n_tokens = (i64)i64_min(i64_min((i64)v->n, (i64)v->n_scores), (i64)v->n_kinds);
    v->s.n_merges = (i64)v->n_merges;
    return at;
}

/* 0: kept every promise */
static int use(const tokenizer *t, str text, int flags)
{
    ids out = {0};
    buf back = {0}, shown = {0};
    int broken = 0;
    err bad = tokenize(t, text, flags, &out);
    bool lossless = !strcmp(tokenizer_source(t)->model, "gpt2") && !(flags & TOKENIZE_BOS);
    if (bad.code && bad.code != ERR_NOMEM && bad.code != ERR_UNSUPPORTED) broken = 1;
    for (usize i = 0; i < out.n; i++) {
        if (out.id[i] < 0 || out.id[i] >= tokenizer_size(t)) broken = 1;
        if (out.id[i] == tokenizer_source(t)->unk) lossless = false;
    }
    if (!bad.code && !broken && !detokenize(t, out.id, out.n, true, &back).code && lossless && !str_eq(buf_view(&back), text))
        broken = 1;
    stream_decoder d;
    stream_decoder_init(&d, t, true);
    for (usize i = 0; i < out.n && !broken; i++) stream_decoder_put(&d, out.id[i], &shown);
    stream_decoder_end(&d, &shown);
    if (!utf8_valid(buf_view(&shown))) broken = 1;
    ids_free(&out);
    buf_free(&back);
    buf_free(&shown);
    return broken;
}

/* the middle third is somebody's words: no control token may come of it, and places go forward through the text */
static int use_marked(const tokenizer *t, str text)
{
    u32 n = (u32)text.n, a = n / 3, b = n - n / 3, at = 0;
    chat_span span[3] = {{-1, 0, a, CHAT_TEMPLATE}, {0, a, b, CHAT_CONTENT}, {-1, b, n, CHAT_TEMPLATE}};
    chat_output c = {.text = {.p = (char *)(uintptr_t)text.p, .n = text.n}, .span = span, .n_span = 3};
    ids out = {0};
    byte_span *where = NULL;
    err bad = chat_ids(t, &c, &out, &where);
    int broken = bad.code && bad.code != ERR_NOMEM && bad.code != ERR_UNSUPPORTED;
    for (usize i = 0; i < out.n && !bad.code && !broken; i++) {
        broken = where[i].start < at || where[i].end < where[i].start || where[i].end > n;
        at = where[i].end;
        bool control = token_kind_of(t, out.id[i]) == TOKEN_CONTROL && where[i].end > where[i].start;
        broken |= control && where[i].start < b && where[i].end > a;
    }
    ids_free(&out);
    mem_free(where);
    return broken;
}

static int use_unicode(str text)
{
    buf once = {0}, twice = {0}, lower = {0};
    int broken = 0;
    for (usize at = 0; at < text.n && !broken;) {
        usize end = text_sentence_end(text, at);
        broken = end <= at || end > text.n;
        at = end;
    }
    if (!text_nfc(&once, text).code && !text_nfc(&twice, buf_view(&once)).code)
        broken |= !utf8_valid(buf_view(&once)) || once.n != twice.n;
    if (!text_lower(&lower, text).code) broken |= !utf8_valid(buf_view(&lower));
    buf_free(&once);
    buf_free(&twice);
    buf_free(&lower);
    return broken;
}

int fuzz_one(const u8 *data, usize n)
{
    vocab_text v = {0};
    str s = {(const char *)data, n};
    usize at = read_vocab(&v, s);
    str text = {s.p + at, s.n - at};
    tokenizer *t;
    err bad = tokenizer_new(&t, &v.s);
    int broken = bad.code && bad.code != ERR_FORMAT && bad.code != ERR_UNSUPPORTED && bad.code != ERR_NOMEM;
    if (bad.code && t) broken = 1;
    if (!bad.code)
        broken = use(t, text, 0) || use(t, text, TOKENIZE_SPECIAL) || use(t, text, TOKENIZE_BOS | TOKENIZE_SPECIAL) ||
                 use_marked(t, text);
    broken |= use_unicode(text);
    tokenizer_free(t);
    mem_free(v.tokens);
    mem_free(v.scores);
    mem_free(v.kinds);
    mem_free(v.merges);
    return broken;
}
