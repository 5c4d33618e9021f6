/* text/spm.c - SentencePiece's BPE ("llama"): a space is U+2581, merges go by the score of the piece, what no piece covers is
 * written in byte tokens.
 *
 * SentencePiece merges over the whole text. Here the text is first cut in front of every U+2581 that follows another character,
 * unless some piece of the vocabulary reaches across such a place (spm_new finds after which characters): no merge can cross
 * the cut, so the result is the same, and words repeat while whole texts do not. Unigram cuts its text the same way.
 * The files of such models carry no table of replacements as a rule; when one does, it is applied (charsmap.c). */
#include "text/tokenizer.h"

static const str space = {"\xE2\x96\x81", 3};

void spm_new(tokenizer *t)
{
    for (i32 id = 0; id < t->v.n; id++) {
        str s = vocab_piece(&t->v, id);
        if (t->v.kind[id] != TOKEN_NORMAL && t->v.kind[id] != TOKEN_USER) continue;
        for (i64 at = space_mark_find(s, 0); at >= 0; at = space_mark_find(s, (usize)at + 3))
            if (at > 0 && !str_ends((str){s.p, (usize)at}, space)) t->glue[(u8)s.p[at - 1]] = true;
    }
}

err spm_words(encoder *e, str text)
{
    usize from = 0;
    for (i64 at = space_mark_find(text, 0); at >= 0; at = space_mark_find(text, (usize)at + 3)) {
        usize i = (usize)at;
        if (i == from || str_ends((str){text.p + from, i - from}, space) || e->t->glue[(u8)text.p[i - 1]]) continue;
        TRY(encode_word(e, (str){text.p + from, i - from}));
        from = i;
    }
    return from < text.n ? encode_word(e, (str){text.p + from, text.n - from}) : OK;
}

err spm_encode(encoder *e, str text, bool prefix)
{
    if (e->t->map.n_units || e->t->source.remove_extra_whitespaces) {
        TRY(spm_normalise(e, text, prefix));
        return spm_words(e, buf_view(&e->text));
    }
    buf_reset(&e->text);
    if (prefix) buf_str(&e->text, space);
    for (usize at = 0; at < text.n;) {
        const char *blank = memchr(text.p + at, ' ', text.n - at);
        usize n = blank ? (usize)(blank - text.p) - at : text.n - at;
        buf_put(&e->text, text.p + at, n);
        if (blank) buf_str(&e->text, space);
        at += n + (blank != NULL);
    }
    TRY(buf_error(&e->text));
    return spm_words(e, buf_view(&e->text));
}

err spm_word(encoder *e, str word)
{
    const vocab *v = &e->t->v;
    if (word.n > INT32_MAX) return err_new(ERR_UNSUPPORTED, "tokenizer: one word of %zu bytes", word.n);
    if (!vec_grow((void **)&e->sym, &e->cap_sym, word.n, sizeof *e->sym))
        return err_new(ERR_NOMEM, "tokenizer: no memory for a word of %zu bytes", word.n);
    e->n_sym = 0;
    for (usize at = 0; at < word.n;) {
        usize from = at;
        symbol_next(word, &at);
        i32 id = vocab_find(v, (str){word.p + from, at - from}), i = (i32)e->n_sym;
        if (id >= 0 && v->kind[id] != TOKEN_NORMAL && v->kind[id] != TOKEN_USER) id = -1;
        e->sym[e->n_sym++] = (symbol){i - 1, at < word.n ? i + 1 : -1, (u32)from, (u32)(at - from), id};
    }
    return merge_symbols(e, word);
}
