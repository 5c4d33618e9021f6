/* text/lookup.c - from strings to token ids: a hash table of whole pieces, a trie of symbols, the words seen before.
 *
 * The first two are open addressing tables built once and read by many threads; the words seen before are the only part of a
 * tokenizer that changes, a table of slots with versions (a "sequence lock"). The trie keeps its edges in one table keyed by
 * (node, symbol): a step is one probe, a Hangul syllable is one step, and building needs no sorting (a double array would be
 * smaller, but takes much longer to build, and a vocabulary is built at every start). Nothing is ever removed. */
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
    u64 hash = bytes_hash(s.p, s.n);
    for (usize i = (usize)hash & v->mask; v->slot[i]; i = (i + 1) & v->mask)
        if (v->slot[i] >> 32 == hash >> 32 && str_eq(vocab_piece(v, (i32)(u32)v->slot[i] - 1), s))
            return (i32)(u32)v->slot[i] - 1;
    return -1;
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
        i32 twin = vocab_find(v, s);
        if (twin >= 0)
            return err_new(ERR_FORMAT, "tokenizer: tokens %d and %d are both \"%.*s\"", twin, id, (int)i64_min((i64)s.n, 60),
                           s.p);
        u64 hash = bytes_hash(s.p, s.n);
        usize i = (usize)hash & v->mask;
        while (v->slot[i]) i = (i + 1) & v->mask;
        v->slot[i] = hash >> 32 << 32 | (u32)(id + 1);
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
    v->slot = mem_array(u64, slots);
    if (!v->bytes || !v->at || !v->kind || !v->end || (src->scores && !v->score) || !v->slot)
        return err_new(ERR_NOMEM, "tokenizer: no memory for %zu tokens", n);
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

/* ---- words seen before --------------------------------------------------------------------------------------------------- */
enum { SLOTS = 1 << 13, HEAD = 1, BYTES = 2, IDS = BYTES + CACHED_BYTES / 8, SLOT_WORDS = IDS + CACHED_IDS / 2 };
_Static_assert(SLOT_WORDS == 16, "a slot is two cache lines");
struct word_cache {
    _Atomic u64 slot[SLOTS][SLOT_WORDS]; /* version (odd: being written), lengths, the word padded with zeros, ids in pairs */
};

/* Loads acquire and stores release, so whoever reads part of a new word also reads that the version has changed. */
static inline u64 get(const _Atomic u64 *p) { return atomic_load_explicit(p, memory_order_acquire); }
static inline void put(_Atomic u64 *p, u64 v) { atomic_store_explicit(p, v, memory_order_release); }

word_cache *word_cache_new(void) { return mem_zero(sizeof(word_cache)); }

bool word_cache_get(const word_cache *c, str word, u64 hash, i32 id[CACHED_IDS], usize *n)
{
    const _Atomic u64 *slot = c->slot[hash % SLOTS];
    u64 version = get(slot), head = get(slot + HEAD), bytes[CACHED_BYTES / 8] = {0};
    if (version & 1 || (head & 0xFF) != word.n || head >> 8 > CACHED_IDS || !word.n) return false;
    memcpy(bytes, word.p, word.n);
    for (usize i = 0; 8 * i < word.n; i++)
        if (get(slot + BYTES + i) != bytes[i]) return false;
    *n = head >> 8;
    for (usize i = 0; 2 * i < *n; i++) {
        u64 two = get(slot + IDS + i);
        memcpy(id + 2 * i, &two, sizeof two);
    }
    return get(slot) == version;
}

void word_cache_put(word_cache *c, str word, u64 hash, const i32 *id, usize n)
{
    _Atomic u64 *slot = c->slot[hash % SLOTS];
    u64 version = get(slot), bytes[CACHED_BYTES / 8] = {0};
    if (version & 1 || !atomic_compare_exchange_strong(slot, &version, version + 1)) return; /* being written: not worth a wait */
    memcpy(bytes, word.p, word.n);
    put(slot + HEAD, word.n | n << 8);
    for (usize i = 0; i < COUNT_OF(bytes); i++) put(slot + BYTES + i, bytes[i]);
    for (usize i = 0; i < n; i += 2) {
        u64 two = 0;
        memcpy(&two, id + i, i + 1 < n ? 8 : 4);
        put(slot + IDS + i / 2, two);
    }
    put(slot, version + 2);
}
