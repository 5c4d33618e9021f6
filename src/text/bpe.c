/* text/bpe.c - byte pair encoding: the merging of neighbours that both kinds share, and the byte-level kind ("gpt2").
 *
 * A word is a linked list of symbols and the possible merges wait in a heap ordered by priority, then by place, so a word of n
 * symbols takes n log n steps whatever it holds. A merge that is no longer possible stays in the heap and is recognised when
 * it comes up: its two symbols are neighbours no more, or have grown. Byte-level priorities are the ranks of the merge list,
 * found by the pair of ids (Sennrich et al. 2016; Radford et al. 2019); SentencePiece's are the scores of the pieces, found by
 * the bytes of the two symbols together. Dropout and other sampling are not here. */
#include "text/tokenizer.h"

/* ---- merging ---------------------------------------------------------------------------------------------------------- */
static inline usize pair_slot(const tokenizer *t, u32 left, u32 right)
{
    u64 h = ((u64)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (usize)(h >> 32 ^ h >> 15) & t->pair_mask;
}

static inline const pair *pair_find(const tokenizer *t, u32 left, u32 right)
{
    for (usize i = pair_slot(t, left, right);; i = (i + 1) & t->pair_mask) {
        const pair *p = &t->pairs[i];
        if (p->id < 0) return NULL;
        if (p->left == left && p->right == right) return p;
    }
}

/* the same order as the numbers', falling: the best score comes first */
static inline u32 score_priority(float score)
{
    u32 bits;
    score += 0.0f; /* -0 is 0 */
    memcpy(&bits, &score, 4);
    return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

static inline bool join(const tokenizer *t, str word, const symbol *a, const symbol *b, u32 *priority, i32 *id)
{
    if (t->kind == TOKENIZER_BPE) {
        const pair *p = a->id < 0 || b->id < 0 ? NULL : pair_find(t, (u32)a->id, (u32)b->id);
        if (!p) return false;
        *priority = p->rank;
        *id = p->id;
        return true;
    }
    i32 found = vocab_find(&t->v, (str){word.p + a->at, a->n + b->n});
    if (found < 0 || (t->v.kind[found] != TOKEN_NORMAL && t->v.kind[found] != TOKEN_USER)) return false;
    *priority = score_priority(t->v.score[found]);
    *id = found;
    return true;
}

static bool heap_push(encoder *e, str word, i32 left)
{
    if (left < 0 || e->sym[left].next < 0) return true;
    const symbol *a = &e->sym[left], *b = &e->sym[a->next];
    u32 priority;
    i32 id;
    if (!join(e->t, word, a, b, &priority, &id)) return true;
    merge m = {(u64)priority << 32 | (u32)left, (u32)a->next, a->n + b->n, id};
    if (!VEC_PUSH(e->heap, e->n_heap, e->cap_heap, m)) return false;
    usize i = e->n_heap - 1;
    for (; i && e->heap[(i - 1) / 2].order > m.order; i = (i - 1) / 2) e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = m;
    return true;
}

static merge heap_pop(encoder *e)
{
    merge top = e->heap[0], last = e->heap[--e->n_heap];
    usize i = 0;
    for (usize child; (child = 2 * i + 1) < e->n_heap; i = child) {
        if (child + 1 < e->n_heap && e->heap[child + 1].order < e->heap[child].order) child++;
        if (e->heap[child].order >= last.order) break;
        e->heap[i] = e->heap[child];
    }
    e->heap[i] = last;
    return top;
}

err merge_symbols(encoder *e, str word)
{
    bool good = true;
    e->n_heap = 0;
    for (usize i = 0; i + 1 < e->n_sym && good; i++) good = heap_push(e, word, (i32)i);
    while (e->n_heap && good) {
        merge m = heap_pop(e);
        symbol *a = &e->sym[(u32)m.order], *b = &e->sym[m.right];
        if (!a->n || !b->n || a->next != (i32)m.right || a->n + b->n != m.n) continue;
        a->n = m.n;
        a->id = m.id;
        a->next = b->next;
        b->n = 0;
        if (a->next >= 0) e->sym[a->next].prev = (i32)(u32)m.order;
        good = heap_push(e, word, a->prev) && heap_push(e, word, (i32)(u32)m.order);
    }
    if (!good) return err_new(ERR_NOMEM, "tokenizer: no memory to merge %zu symbols", e->n_sym);
    for (i32 i = 0; i >= 0; i = e->sym[i].next) {
        if (e->sym[i].id < 0)
            TRY(encode_unknown(e, (str){word.p + e->sym[i].at, e->sym[i].n}));
        else if (!ids_push(e->out, e->sym[i].id))
            return err_new(ERR_NOMEM, "tokenizer: no memory for the tokens");
    }
    return OK;
}

/* ---- byte-level words -------------------------------------------------------------------------------------------------- */
err bpe_word(encoder *e, str word)
{
    const tokenizer *t = e->t;
    if (word.n == 1 && t->byte_id[(u8)word.p[0]] >= 0)
        return ids_push(e->out, t->byte_id[(u8)word.p[0]]) ? OK : err_new(ERR_NOMEM, "tokenizer: no memory");
    if (pretok_whole_words(t->pre) && word.n <= PIECE_MAX / 2) {
        char piece[PIECE_MAX];
        usize n = 0;
        for (usize i = 0; i < word.n; i++) n += utf8_put(piece + n, t->char_of[(u8)word.p[i]]);
        i32 id = vocab_find(&t->v, (str){piece, n});
        if (id >= 0 && t->v.kind[id] == TOKEN_NORMAL)
            return ids_push(e->out, id) ? OK : err_new(ERR_NOMEM, "tokenizer: no memory");
    }
    if (word.n > INT32_MAX) return err_new(ERR_UNSUPPORTED, "tokenizer: one word of %zu bytes", word.n);
    if (!vec_grow((void **)&e->sym, &e->cap_sym, word.n, sizeof *e->sym))
        return err_new(ERR_NOMEM, "tokenizer: no memory for a word of %zu bytes", word.n);
    e->n_sym = word.n;
    for (usize i = 0; i < word.n; i++)
        e->sym[i] = (symbol){(i32)i - 1, i + 1 < word.n ? (i32)i + 1 : -1, (u32)i, 1, t->byte_id[(u8)word.p[i]]};
    return merge_symbols(e, word);
}

err bpe_encode(encoder *e, str text) { return pretok_split(e->t->pre, text, encode_word, e); }

void bpe_piece_bytes(const tokenizer *t, str piece, buf *out)
{
    for (usize at = 0; at < piece.n;) {
        usize from = at;
        u32 c = symbol_next(piece, &at);
        if (c < COUNT_OF(t->byte_of) && t->byte_of[c] >= 0)
            buf_byte(out, t->byte_of[c]);
        else
            buf_put(out, piece.p + from, at - from); /* a piece that was never byte-encoded: itself */
    }
}

/* ---- from metadata ------------------------------------------------------------------------------------------------------ */
/* Printable bytes of Latin-1 stand for themselves, the others in their order for the characters from U+0100 on (GPT-2's
 * encoder), so that every piece is readable text without white space. */
static bool is_printable(u32 b) { return (b >= '!' && b <= '~') || (b >= 0xA1 && b != 0xAD); }

u32 bpe_byte_char(u32 byte)
{
    u32 c = 256;
    if (is_printable(byte)) return byte;
    for (u32 b = 0; b < byte; b++) c += !is_printable(b);
    return c;
}

static void byte_chars(tokenizer *t)
{
    memset(t->byte_of, 0xFF, sizeof t->byte_of);
    for (u32 b = 0; b < 256; b++) {
        t->char_of[b] = bpe_byte_char(b);
        t->byte_of[t->char_of[b]] = (i16)b;
        char z[4];
        i32 id = vocab_find(&t->v, (str){z, utf8_put(z, t->char_of[b])});
        t->byte_id[b] = id >= 0 && t->v.kind[id] == TOKEN_NORMAL ? id : -1;
    }
}

static err pair_add(tokenizer *t, str line, u32 rank)
{
    const char *space = line.n > 2 ? memchr(line.p + 1, ' ', line.n - 1) : NULL;
    int shown = (int)i64_min((i64)line.n, 60);
    if (!space)
        return err_new(ERR_FORMAT, "tokenizer: merge %u is \"%.*s\", expected two pieces with a space between them", rank, shown,
                       line.p);
    str left = {line.p, (usize)(space - line.p)}, right = {space + 1, line.n - left.n - 1};
    char both[2 * PIECE_MAX];
    i32 l = vocab_find(&t->v, left), r = vocab_find(&t->v, right), id = -1;
    if (l >= 0 && r >= 0) {
        memcpy(both, left.p, left.n);
        memcpy(both + left.n, right.p, right.n);
        id = vocab_find(&t->v, (str){both, left.n + right.n});
    }
    if (id < 0)
        return err_new(ERR_FORMAT, "tokenizer: merge %u is \"%.*s\", but %s is no token", rank, shown, line.p,
                       l < 0   ? "its left part"
                       : r < 0 ? "its right part"
                               : "what it makes");
    if (pair_find(t, (u32)l, (u32)r)) return OK; /* the better rank stays */
    usize i = pair_slot(t, (u32)l, (u32)r);
    while (t->pairs[i].id >= 0) i = (i + 1) & t->pair_mask;
    t->pairs[i] = (pair){(u32)l, (u32)r, rank, id};
    return OK;
}

err bpe_new(tokenizer *t, const token_source *src)
{
    TRY(pretok_new(&t->pre, src->pre));
    if (src->n_merges <= 0 || !src->merges) return err_new(ERR_FORMAT, "tokenizer: byte-level BPE without merges");
    if (src->n_merges > 1 << 28)
        return err_new(ERR_FORMAT, "tokenizer: %lld merges, at most %d are possible", (long long)src->n_merges, 1 << 28);
    usize slots = 64;
    while (slots < 2 * (usize)src->n_merges) slots *= 2;
    t->pairs = mem_array(pair, slots);
    if (!t->pairs) return err_new(ERR_NOMEM, "tokenizer: no memory for %lld merges", (long long)src->n_merges);
    for (usize i = 0; i < slots; i++) t->pairs[i].id = -1;
    t->pair_mask = slots - 1;
    byte_chars(t);
    for (i64 i = 0; i < src->n_merges; i++) TRY(pair_add(t, src->merges[i], (u32)i));
    return OK;
}
