/* text/wordpiece.c - BERT's tokenizer ("bert"): the text is cleaned, cut at white space and around punctuation, and each word is cut
 * from the left into the longest pieces that the vocabulary holds; a word with a rest that no piece begins is one [UNK] (Schuster and
 * Nakajima 2012; Devlin et al. 2018).
 *
 * Pieces stand as GGUF has them: U+2581 in front of those that begin a word, nothing in front of those that go on (where vocab.txt
 * has "##"). Cleaning is that of Hugging Face's BertNormalizer and by default that of uncased models: controls go, Han characters
 * are words of their own, marks are taken off the canonical decomposition (so a Hangul syllable becomes its jamo), letters become
 * small. The three settings that cased models change are in token_source. */
#include "text/tokenizer.h"
#include <utf8proc.h>

enum { LONGEST_WORD = 100 }; /* characters; longer ones are [UNK] without looking */
static const str begin = {"\xE2\x96\x81", 3};

static bool is_cjk(u32 c) /* the ranges of BERT's own code */
{
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
           (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

static bool is_punctuation(u32 c)
{
    if (c < 0x80) return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

static bool is_dropped(u32 c) /* controls, formats, private and unassigned characters */
{
    if (c == '\t' || c == '\n' || c == '\r') return false;
    if (c < 0x80) return c < 0x20 || c == 0x7F;
    if (c == 0xFFFD) return true;
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_CN || k >= UTF8PROC_CATEGORY_CC;
}

/* ---- words ------------------------------------------------------------------------------------------------------------- */
static err end_word(encoder *e)
{
    if (e->text.n <= begin.n) return OK;
    TRY(buf_error(&e->text));
    err bad = encode_word(e, buf_view(&e->text));
    buf_reset(&e->text);
    buf_str(&e->text, begin);
    return bad;
}

static err put_char(encoder *e, u32 c)
{
    bool alone = is_punctuation(c);
    if (text_is_space(c)) return end_word(e);
    if (alone) TRY(end_word(e));
    buf_utf8(&e->text, c);
    return alone ? end_word(e) : OK;
}

static err put_lowered(encoder *e, u32 c)
{
    if (e->t->source.cased) return put_char(e, c);
    if (c == 0x130) { /* the one letter whose small form has two characters */
        TRY(put_char(e, 'i'));
        return put_char(e, 0x307);
    }
    return put_char(e, (u32)utf8proc_tolower((utf8proc_int32_t)c));
}

static err put_clean(encoder *e, u32 c)
{
    utf8proc_int32_t part[32];
    if (e->t->source.accents || c < 0x80) return put_lowered(e, c);
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)c, part, COUNT_OF(part), UTF8PROC_DECOMPOSE, NULL);
    if (n < 0 || n > (utf8proc_ssize_t)COUNT_OF(part)) return put_lowered(e, c);
    for (utf8proc_ssize_t i = 0; i < n; i++)
        if (utf8proc_category(part[i]) != UTF8PROC_CATEGORY_MN) TRY(put_lowered(e, (u32)part[i]));
    return OK;
}

err wordpiece_encode(encoder *e, str text)
{
    buf_reset(&e->text);
    buf_str(&e->text, begin);
    for (usize at = 0; at < text.n;) {
        u32 c = utf8_next(text, &at);
        bool alone = is_cjk(c) && !e->t->source.han_in_words;
        if (is_dropped(c)) continue;
        if (alone) TRY(end_word(e));
        TRY(put_clean(e, c));
        if (alone) TRY(end_word(e));
    }
    return end_word(e);
}

err wordpiece_word(encoder *e, str word)
{
    const tokenizer *t = e->t;
    usize first = e->out->n;
    bool good = utf8_count(word) <= LONGEST_WORD + 1;
    for (usize from = 0; from < word.n && good;) {
        usize at = from, end = from;
        i32 id = -1;
        const trie_slot *step;
        for (u32 node = 0; at < word.n && (step = trie_step(&t->pieces, node, symbol_next(word, &at))); node = step->node)
            if (step->id >= 0) id = step->id, end = at;
        good = id >= 0;
        if (good && !ids_push(e->out, id)) return err_new(ERR_NOMEM, "tokenizer: no memory for the tokens");
        from = end;
    }
    if (good) return OK;
    e->out->n = first;
    if (t->source.unk < 0) return err_new(ERR_UNSUPPORTED, "tokenizer: no token for \"%.*s\", and none for what is unknown", (int)i64_min((i64)word.n, 40), word.p);
    return ids_push(e->out, (i32)t->source.unk) ? OK : err_new(ERR_NOMEM, "tokenizer: no memory for the tokens");
}

/* ---- from metadata ------------------------------------------------------------------------------------------------------ */
err wordpiece_new(tokenizer *t)
{
    token_source *s = &t->source;
    for (i32 id = 0; id < t->v.n; id++)
        if (t->v.kind[id] == TOKEN_NORMAL && !trie_add(&t->pieces, vocab_piece(&t->v, id), id)) return err_new(ERR_NOMEM, "tokenizer: no memory for the pieces");
    if (s->unk < 0) s->unk = vocab_find(&t->v, S("[UNK]"));
    if (s->cls < 0) s->cls = s->bos >= 0 ? s->bos : vocab_find(&t->v, S("[CLS]"));
    if (s->sep < 0) s->sep = s->eos >= 0 ? s->eos : vocab_find(&t->v, S("[SEP]"));
    s->bos = s->cls; /* what stands around a text */
    s->eos = s->sep;
    return OK;
}
