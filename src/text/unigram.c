/* text/unigram.c - SentencePiece's Unigram ("t5": T5, XLM-R and the embedding models made from it): a text is cut where the sum
 * of the pieces' scores is greatest (Viterbi; Kudo 2018).
 *
 * The text is normalised first (charsmap.c) and searched word by word (spm_words): scores only add up, so the best path of a
 * text is the best paths of its words. Sampling and n-best are not here. */
#include "text/tokenizer.h"

err unigram_encode(encoder *e, str text)
{
    TRY(spm_normalise(e, text, e->t->source.add_space_prefix));
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
err unigram_new(tokenizer *t)
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
    return OK;
}
