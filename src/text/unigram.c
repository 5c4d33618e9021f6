/* text/unigram.c - SentencePiece's Unigram ("t5": T5, XLM-R and the embedding models made from it): the text is normalised with
 * the model's own table of replacements, then cut where the sum of the pieces' scores is greatest (Viterbi; Kudo 2018).
 *
 * Normalisation follows sentencepiece, not Hugging Face's tokenizers, which apply the table to grapheme clusters and so leave
 * decomposed Hangul apart. The table is a double-array trie (Darts-clone's units) and a list of NUL-terminated strings behind
 * it; it comes from outside, so every step is checked against its end. Words are searched one by one (spm_words): scores only
 * add up, so the best path of the text is the best paths of its words. Sampling and n-best are not here. */
#include "text/tokenizer.h"

/* ---- the table of replacements ------------------------------------------------------------------------------------------ */
static inline u32 u32_at(const u8 *p) { return p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24; }
static inline u32 unit_at(const charsmap *m, usize i) { return u32_at(m->array + 4 * i); }
static inline u32 unit_offset(u32 unit) { return (unit >> 10) << ((unit & 0x200) >> 6); }
static inline u32 unit_label(u32 unit) { return unit & 0x800000FFu; } /* a value's label is no byte */
static inline bool unit_has_value(u32 unit) { return unit >> 8 & 1; }

err charsmap_new(charsmap *m, str blob)
{
    *m = (charsmap){0};
    if (!blob.n) return OK;
    u32 size = blob.n >= 4 ? u32_at((const u8 *)blob.p) : 0;
    if (blob.n < 4 || size < 4 || size % 4 || size > blob.n - 4)
        return err_new(ERR_FORMAT, "tokenizer: precompiled_charsmap of %zu bytes says that its trie has %u", blob.n, size);
    m->blob = mem_alloc(blob.n);
    if (!m->blob) return err_new(ERR_NOMEM, "tokenizer: no memory for a charsmap of %zu bytes", blob.n);
    memcpy(m->blob, blob.p, blob.n);
    m->array = m->blob + 4;
    m->n_units = size / 4;
    m->text = (const char *)m->blob + 4 + size;
    m->text_len = blob.n - 4 - size;
    if (m->text_len && m->text[m->text_len - 1])
        return err_new(ERR_FORMAT, "tokenizer: the last replacement of precompiled_charsmap has no end");
    for (usize i = 0; i < m->n_units; i++) {
        u32 unit = unit_at(m, i);
        if (unit >> 31 || !unit_has_value(unit)) continue;
        usize leaf = i ^ unit_offset(unit);
        if (leaf >= m->n_units || (unit_at(m, leaf) & 0x7FFFFFFF) >= m->text_len)
            return err_new(ERR_FORMAT, "tokenizer: unit %zu of precompiled_charsmap points outside it", i);
    }
    return OK;
}

void charsmap_free(charsmap *m)
{
    mem_free(m->blob);
    *m = (charsmap){0};
}

/* the longest key that begins here, else the character itself, U+FFFD for a malformed byte */
str charsmap_next(const charsmap *m, str text, usize *at)
{
    usize pos = 0, found_n = 0, found = 0;
    if (m->n_units) pos = unit_offset(unit_at(m, 0));
    for (usize i = *at; m->n_units && i < text.n; i++) {
        u8 byte = (u8)text.p[i];
        pos ^= byte;
        if (pos >= m->n_units) break;
        u32 unit = unit_at(m, pos);
        if (unit_label(unit) != byte) break;
        pos ^= unit_offset(unit);
        if (pos >= m->n_units) break;
        if (!unit_has_value(unit)) continue;
        u32 value = unit_at(m, pos) & 0x7FFFFFFF;
        if (value < m->text_len) found = value, found_n = i + 1 - *at;
    }
    if (found_n) {
        *at += found_n;
        return str_of(m->text + found);
    }
    usize from = *at;
    return symbol_next(text, at) >= 0x110000 ? S("\xEF\xBF\xBD") : (str){text.p + from, *at - from};
}

/* ---- encoding ------------------------------------------------------------------------------------------------------------ */
static const str space = {"\xE2\x96\x81", 3};

err unigram_encode(encoder *e, str text)
{
    const tokenizer *t = e->t;
    bool trim = t->source.remove_extra_whitespaces, after_space = trim;
    usize at = 0;
    buf_reset(&e->text);
    while (trim && at < text.n) { /* spaces in front */
        usize next = at;
        if (!str_eq(charsmap_next(&t->map, text, &next), S(" "))) break;
        at = next;
    }
    if (at < text.n && t->source.add_space_prefix) buf_str(&e->text, space);
    while (at < text.n) {
        str s = charsmap_next(&t->map, text, &at);
        while (after_space && s.n && s.p[0] == ' ') s.p++, s.n--;
        for (usize i = 0; i < s.n; i++) {
            if (s.p[i] == ' ')
                buf_str(&e->text, space);
            else
                buf_byte(&e->text, s.p[i]);
        }
        if (s.n) after_space = trim && s.p[s.n - 1] == ' ';
    }
    while (trim && str_ends(buf_view(&e->text), space)) e->text.n -= space.n;
    TRY(buf_error(&e->text));
    return spm_words(e, buf_view(&e->text));
}

err unigram_word(encoder *e, str word)
{
    const tokenizer *t = e->t;
    if (word.n >= UINT32_MAX) return err_new(ERR_UNSUPPORTED, "tokenizer: one word of %zu bytes", word.n);
    if (!vec_grow((void **)&e->best, &e->cap_best, word.n + 1, sizeof *e->best))
        return err_new(ERR_NOMEM, "tokenizer: no memory for a word of %zu bytes", word.n);
    lattice *best = e->best;
    for (usize i = 0; i <= word.n; i++) best[i] = (lattice){0, UINT32_MAX, -1};
    best[0].from = 0;
    for (usize from = 0; from < word.n;) {
        usize at = from, character = 0;
        bool single = false;
        const trie_slot *step = NULL;
        for (u32 node = 0; at < word.n; node = step->node) {
            u32 c = symbol_next(word, &at);
            if (!character) character = at;
            step = trie_step(&t->pieces, node, c);
            if (!step) break;
            if (step->id < 0) continue;
            if (at == character) single = true;
            double score = best[from].score + (double)t->v.score[step->id];
            if (best[at].from == UINT32_MAX || score > best[at].score) best[at] = (lattice){score, (u32)from, step->id};
        }
        double unknown = best[from].score + t->unknown_score;
        if (!single && (best[character].from == UINT32_MAX || unknown > best[character].score))
            best[character] = (lattice){unknown, (u32)from, -1};
        from = character;
    }
    usize n = 0; /* backwards through the best path; turned round in place by linking forwards */
    for (usize to = word.n; to; n++) {
        usize from = best[to].from;
        best[from].score = (double)to; /* its score is spent: from here on, where the path goes next */
        to = from;
    }
    for (usize from = 0; n; n--) {
        usize to = (usize)best[from].score;
        if (best[to].id < 0)
            TRY(encode_unknown(e, (str){word.p + from, to - from}));
        else if (!ids_push(e->out, best[to].id))
            return err_new(ERR_NOMEM, "tokenizer: no memory for the tokens");
        from = to;
    }
    return OK;
}

/* ---- from metadata ------------------------------------------------------------------------------------------------------ */
err unigram_new(tokenizer *t, const token_source *src)
{
    const vocab *v = &t->v;
    double least = 0;
    bool any = false;
    for (i32 id = 0; id < v->n; id++) {
        if (v->kind[id] != TOKEN_NORMAL && v->kind[id] != TOKEN_USER) continue;
        if (v->kind[id] == TOKEN_NORMAL && (!any || (double)v->score[id] < least)) least = (double)v->score[id], any = true;
        if (!trie_add(&t->pieces, vocab_piece(v, id), id)) return err_new(ERR_NOMEM, "tokenizer: no memory for the pieces");
    }
    t->unknown_score = least - 10; /* sentencepiece's penalty: any piece is better */
    spm_new(t);
    return charsmap_new(&t->map, src->charsmap);
}

void unigram_free(tokenizer *t)
{
    trie_free(&t->pieces);
    charsmap_free(&t->map);
}
