/* text/lookup.c - from strings to token ids: a hash table of whole pieces and a trie of symbols.
 *
 * Both are open addressing tables built once and read by many threads. The trie keeps its edges in one table keyed by (node,
 * symbol): a step is one probe, a Hangul syllable is one step, and building needs no sorting (a double array would be smaller,
 * but takes much longer to build, and a vocabulary is built at every start). Nothing is ever removed. */
#include "text/tokenizer.h"
#include <math.h>

static inline u64 mix(u64 x)
{
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93u;
    x ^= x >> 29;
    return x;
}

u64 bytes_hash(const char *p, usize n)
{
    u64 h = n * 0x9E3779B97F4A7C15u, w = 0;
    for (; n > 8; p += 8, n -= 8) {
        memcpy(&w, p, 8);
        h = mix(h ^ w) + w;
    }
    w = 0;
    memcpy(&w, p, n);
    return mix(mix(h ^ w) + w);
}

/* ---- trie ------------------------------------------------------------------------------------------------------------ */
static usize trie_at(const trie *t, u64 edge)
{
    usize i = (usize)mix(edge) & t->mask;
    while (t->slot[i].edge && t->slot[i].edge != edge) i = (i + 1) & t->mask;
    return i;
}

static bool trie_grow(trie *t)
{
    trie bigger = {mem_array(trie_slot, t->slot ? 2 * (t->mask + 1) : 64), t->slot ? 2 * t->mask + 1 : 63, t->n_nodes};
    if (!bigger.slot) return false;
    for (usize i = 0; t->slot && i <= t->mask; i++)
        if (t->slot[i].edge) bigger.slot[trie_at(&bigger, t->slot[i].edge)] = t->slot[i];
    mem_free(t->slot);
    *t = bigger;
    return true;
}

bool trie_add(trie *t, str s, i32 id)
{
    trie_slot *last = NULL;
    u32 node = 0;
    for (usize at = 0; at < s.n;) {
        if ((!t->slot || 2 * t->n_nodes > t->mask) && !trie_grow(t)) return false;
        u64 edge = ((u64)node << 21 | symbol_next(s, &at)) + 1;
        last = &t->slot[trie_at(t, edge)];
        if (!last->edge) *last = (trie_slot){edge, (u32)++t->n_nodes, -1};
        node = last->node;
    }
    if (last && last->id < 0) last->id = id;
    return true;
}

const trie_slot *trie_step(const trie *t, u32 node, u32 sym)
{
    if (!t->slot) return NULL;
    const trie_slot *s = &t->slot[trie_at(t, ((u64)node << 21 | sym) + 1)];
    return s->edge ? s : NULL;
}

void trie_free(trie *t)
{
    mem_free(t->slot);
    *t = (trie){0};
}

/* ---- vocabulary ------------------------------------------------------------------------------------------------------- */
i32 vocab_find(const vocab *v, str s)
{
    if (!s.n || s.n > PIECE_MAX) return -1;
    for (usize i = (usize)bytes_hash(s.p, s.n) & v->mask;; i = (i + 1) & v->mask) {
        i32 id = v->slot[i];
        if (id < 0 || str_eq(vocab_piece(v, id), s)) return id;
    }
}

static err vocab_fill(vocab *v, const token_source *src)
{
    u32 used = 0;
    for (i32 id = 0; id < v->n; id++) {
        str s = src->tokens[id];
        if (s.n) memcpy(v->bytes + used, s.p, s.n);
        v->at[id] = used;
        v->at[id + 1] = used += (u32)s.n;
        i32 kind = src->kinds ? src->kinds[id] : TOKEN_NORMAL;
        if (kind < 0 || kind > TOKEN_BYTE)
            return err_new(ERR_FORMAT, "tokenizer: token %d has type %d, types are 1 to 6", id, kind);
        v->kind[id] = (u8)(kind ? kind : TOKEN_NORMAL); /* 0 is ggml's "undefined" */
        if (src->scores && !isfinite(src->scores[id]))
            return err_new(ERR_FORMAT, "tokenizer: the score of token %d is %f, not a finite number", id,
                           (double)src->scores[id]);
        if (src->scores) v->score[id] = src->scores[id];
        if (!s.n) continue; /* a gap in the numbering: text never gives it */
        usize i = (usize)bytes_hash(s.p, s.n) & v->mask;
        for (; v->slot[i] >= 0; i = (i + 1) & v->mask)
            if (str_eq(vocab_piece(v, v->slot[i]), s))
                return err_new(ERR_FORMAT, "tokenizer: tokens %d and %d are both \"%.*s\"", v->slot[i], id,
                               (int)i64_min((i64)s.n, 60), s.p);
        v->slot[i] = id;
    }
    return OK;
}

err vocab_new(vocab *v, const token_source *src)
{
    *v = (vocab){0};
    if (src->n_tokens <= 0 || !src->tokens) return err_new(ERR_FORMAT, "tokenizer: the list of tokens is empty");
    if (src->n_tokens > 1 << 28)
        return err_new(ERR_FORMAT, "tokenizer: %lld tokens, at most %d are possible", (long long)src->n_tokens, 1 << 28);
    u64 bytes = 0;
    for (i64 i = 0; i < src->n_tokens; i++) {
        if (src->tokens[i].n > PIECE_MAX)
            return err_new(ERR_FORMAT, "tokenizer: token %lld is %zu bytes long, at most %d are possible", (long long)i,
                           src->tokens[i].n, PIECE_MAX);
        bytes += src->tokens[i].n;
    }
    if (bytes > UINT32_MAX)
        return err_new(ERR_FORMAT, "tokenizer: the tokens have %llu bytes together, more than 4 GiB", (unsigned long long)bytes);
    usize n = (usize)src->n_tokens, slots = 64;
    while (slots < 2 * n) slots *= 2;
    v->n = (i32)n;
    v->mask = slots - 1;
    v->bytes = mem_array(char, bytes + 1);
    v->at = mem_array(u32, n + 1);
    v->kind = mem_array(u8, n);
    v->end = mem_array(u8, n);
    v->score = src->scores ? mem_array(float, n) : NULL;
    v->slot = mem_array(i32, slots);
    if (!v->bytes || !v->at || !v->kind || !v->end || (src->scores && !v->score) || !v->slot)
        return err_new(ERR_NOMEM, "tokenizer: no memory for %zu tokens", n);
    memset(v->slot, 0xFF, slots * sizeof *v->slot);
    return vocab_fill(v, src);
}

void vocab_free(vocab *v)
{
    mem_free(v->bytes);
    mem_free(v->at);
    mem_free(v->kind);
    mem_free(v->end);
    mem_free(v->score);
    mem_free(v->slot);
    *v = (vocab){0};
}
