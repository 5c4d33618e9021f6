/* text/train.c - learns a byte-level BPE vocabulary from a text (Sennrich et al. 2016; Radford et al. 2019): the commonest pair of
 * neighbours becomes a token, again and again.
 *
 * Words are counted once and merged once each, however often they occur. Pairs know the words that they stand in, so that a merge
 * touches only those, and the heap of pairs is lazy: a pair whose count has fallen is put back with its new count when it comes up.
 * Order is that of Hugging Face's trainer (count, then the smaller ids), so the merges are too. Sampling, dropout and other kinds
 * of vocabulary are not here. */
#include "text/tokenizer.h"
#include <stdlib.h>

typedef struct {
    usize at, n; /* of symbols */
    i64 count;
} word;
typedef struct {
    u64 key; /* left << 32 | right */
    i64 count;
    u32 *where; /* [n] words, each once as long as it is not merged back */
    usize n, cap;
} counted;
typedef struct {
    i64 count;
    u32 at; /* of pairs */
} waiting;
typedef struct {
    const pretok *pre;
    map *seen;
    word *words;
    usize n_words, cap_words;
    i32 *sym; /* of all words, one after another */
    usize n_sym, cap_sym;
    counted *pairs;
    usize n_pairs, cap_pairs;
    u32 *slot; /* [mask + 1] index + 1 of pairs */
    usize mask;
    waiting *heap;
    usize n_heap, cap_heap;
    i32 first; /* id of the first byte */
    i32 byte_id[256];
} trainer;

static err no_memory(void) { return err_new(ERR_NOMEM, "out of memory while learning a vocabulary"); }

/* ---- words -------------------------------------------------------------------------------------------------------------- */
static err count_word(void *ctx, str s)
{
    trainer *t = ctx;
    u64 at;
    if (map_get(t->seen, s, &at)) return t->words[at].count++, OK;
    word w = {t->n_sym, s.n, 1};
    if (!map_put(t->seen, s, t->n_words) || !VEC_PUSH(t->words, t->n_words, t->cap_words, w) ||
        !vec_grow((void **)&t->sym, &t->cap_sym, t->n_sym + s.n, sizeof *t->sym))
        return no_memory();
    for (usize i = 0; i < s.n; i++) t->sym[t->n_sym++] = t->byte_id[(u8)s.p[i]];
    return OK;
}

/* ---- pairs -------------------------------------------------------------------------------------------------------------- */
static usize slot_of(const trainer *t, u64 key)
{
    u64 h = key * 0x9E3779B97F4A7C15u;
    usize i = (usize)(h >> 29 ^ h >> 7) & t->mask;
    while (t->slot[i] && t->pairs[t->slot[i] - 1].key != key) i = (i + 1) & t->mask;
    return i;
}

static bool grow_slots(trainer *t)
{
    usize n = t->slot ? 2 * (t->mask + 1) : 4096;
    u32 *old = t->slot;
    t->slot = mem_array(u32, n);
    if (!t->slot) return t->slot = old, false;
    t->mask = n - 1;
    for (usize i = 0; i < t->n_pairs; i++) t->slot[slot_of(t, t->pairs[i].key)] = (u32)i + 1;
    mem_free(old);
    return true;
}

/* `w` UINT32_MAX: the pair's words are known */
static bool count_pair(trainer *t, i32 left, i32 right, i64 by, u32 w, u32 *at)
{
    u64 key = (u64)(u32)left << 32 | (u32)right;
    if ((!t->slot || 2 * t->n_pairs > t->mask) && !grow_slots(t)) return false;
    usize i = slot_of(t, key);
    if (!t->slot[i]) {
        if (!VEC_PUSH(t->pairs, t->n_pairs, t->cap_pairs, ((counted){.key = key}))) return false;
        t->slot[i] = (u32)t->n_pairs;
    }
    counted *p = &t->pairs[*at = t->slot[i] - 1];
    p->count += by;
    return w == UINT32_MAX || (p->n && p->where[p->n - 1] == w) || VEC_PUSH(p->where, p->n, p->cap, w);
}

static bool before(const trainer *t, const waiting *a, const waiting *b)
{
    return a->count != b->count ? a->count > b->count : t->pairs[a->at].key < t->pairs[b->at].key;
}

static bool heap_push(trainer *t, u32 at)
{
    waiting x = {t->pairs[at].count, at};
    if (x.count < 1) return true;
    if (!VEC_PUSH(t->heap, t->n_heap, t->cap_heap, x)) return false;
    usize i = t->n_heap - 1;
    for (; i && before(t, &x, &t->heap[(i - 1) / 2]); i = (i - 1) / 2) t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = x;
    return true;
}

static waiting heap_pop(trainer *t)
{
    waiting top = t->heap[0], last = t->heap[--t->n_heap];
    usize i = 0;
    for (usize child; (child = 2 * i + 1) < t->n_heap; i = child) {
        if (child + 1 < t->n_heap && before(t, &t->heap[child + 1], &t->heap[child])) child++;
        if (!before(t, &t->heap[child], &last)) break;
        t->heap[i] = t->heap[child];
    }
    t->heap[i] = last;
    return top;
}

static err count_pairs(trainer *t)
{
    u32 at;
    for (usize w = 0; w < t->n_words; w++)
        for (usize i = 1; i < t->words[w].n; i++)
            if (!count_pair(t, t->sym[t->words[w].at + i - 1], t->sym[t->words[w].at + i], t->words[w].count, (u32)w, &at)) return no_memory();
    for (usize i = 0; i < t->n_pairs; i++)
        if (!heap_push(t, (u32)i)) return no_memory();
    return OK;
}

/* in one word: every left right becomes id; the pairs beside it change */
static bool merge_word(trainer *t, u32 w, i32 left, i32 right, i32 id)
{
    word *x = &t->words[w];
    i32 *s = t->sym + x->at;
    usize n = 0;
    bool good = true;
    for (usize i = 0; i < x->n; i++) {
        if (i + 1 == x->n || s[i] != left || s[i + 1] != right) {
            s[n++] = s[i];
            continue;
        }
        u32 at;
        if (n) {
            good &= count_pair(t, s[n - 1], left, -x->count, UINT32_MAX, &at) && count_pair(t, s[n - 1], id, x->count, w, &at) && heap_push(t, at);
        }
        if (i + 2 < x->n) good &= count_pair(t, right, s[i + 2], -x->count, UINT32_MAX, &at) && count_pair(t, id, s[i + 2], x->count, w, &at) && heap_push(t, at);
        s[n++] = id;
        i++;
    }
    x->n = n;
    return good;
}

/* ---- the vocabulary ------------------------------------------------------------------------------------------------------ */
static err add_token(trained_vocab *v, str a, str b)
{
    char *p = arena_take(v->own, a.n + b.n + 1);
    if (!p) return no_memory();
    memcpy(p, a.p, a.n);
    if (b.n) memcpy(p + a.n, b.p, b.n);
    v->token[v->n_tokens++] = (str){p, a.n + b.n};
    return OK;
}

static err add_bytes(trainer *t, trained_vocab *v)
{
    t->first = (i32)v->n_tokens;
    for (int printable = 1; printable >= 0; printable--) /* in the order of their characters */
        for (u32 b = 0; b < 256; b++) {
            char z[4];
            u32 c = bpe_byte_char(b);
            if ((c < 256) != printable) continue;
            t->byte_id[b] = (i32)v->n_tokens;
            TRY(add_token(v, (str){z, utf8_put(z, c)}, (str){0}));
        }
    return OK;
}

static err learn(trainer *t, trained_vocab *v, i64 size)
{
    progress bar;
    TRY(count_pairs(t));
    progress_start(&bar, "merges", size);
    while (v->n_tokens < size && t->n_heap) {
        waiting top = heap_pop(t);
        counted *p = &t->pairs[top.at];
        if (top.count != p->count) {
            if (p->count < top.count && !heap_push(t, top.at)) return progress_end(&bar), no_memory();
            continue;
        }
        if (p->count < 2) break; /* what occurs once is no habit */
        i32 left = (i32)(p->key >> 32), right = (i32)(u32)p->key, id = (i32)v->n_tokens;
        str l = v->token[left], r = v->token[right];
        if (l.n + r.n > PIECE_MAX / 2) { /* a run without end: no such token */
            p->count = 0;
            continue;
        }
        char *line = arena_fmt(v->own, "%.*s %.*s", (int)l.n, l.p, (int)r.n, r.p);
        err bad = line ? add_token(v, l, r) : no_memory();
        if (bad.code) return progress_end(&bar), bad;
        v->merge[v->n_merges++] = (str){line, l.n + r.n + 1};
        u32 *where = p->where;
        usize n = p->n;
        p->where = NULL; /* pairs move when they grow */
        p->n = p->cap = 0;
        p->count = 0;
        bool good = true;
        for (usize i = 0; i < n && good; i++) good = merge_word(t, where[i], left, right, id);
        mem_free(where);
        if (!good) return progress_end(&bar), no_memory();
        progress_step(&bar, v->n_tokens);
    }
    progress_end(&bar);
    return OK;
}

void trained_vocab_free(trained_vocab *v)
{
    arena_free(v->own);
    *v = (trained_vocab){0};
}

err bpe_train(str text, const char *pre, const str *special, usize n_special, i64 size, trained_vocab *v)
{
    trainer t = {0};
    pretok *cutter = NULL;
    *v = (trained_vocab){0};
    if (size < 256 + (i64)n_special || size > 1 << 24)
        return err_new(ERR_INPUT, "a vocabulary of %lld tokens, expected %zu (the bytes and the special tokens) to %d", (long long)size, 256 + n_special, 1 << 24);
    TRY(pretok_new(&cutter, pre));
    v->own = arena_new();
    v->token = v->own ? arena_take(v->own, sizeof *v->token * (usize)size) : NULL;
    v->merge = v->own ? arena_take(v->own, sizeof *v->merge * (usize)size) : NULL;
    t.seen = map_new();
    err bad = v->token && v->merge && t.seen ? OK : no_memory();
    for (usize i = 0; !bad.code && i < n_special; i++) bad = add_token(v, special[i], (str){0});
    if (!bad.code) bad = add_bytes(&t, v);
    if (!bad.code) bad = pretok_split(cutter, text, count_word, &t);
    if (!bad.code && t.n_words >= UINT32_MAX) bad = err_new(ERR_UNSUPPORTED, "a text of %zu different words", t.n_words);
    if (!bad.code) bad = learn(&t, v, size);
    for (usize i = 0; i < t.n_pairs; i++) mem_free(t.pairs[i].where);
    mem_free(t.pairs);
    mem_free(t.slot);
    mem_free(t.heap);
    mem_free(t.words);
    mem_free(t.sym);
    map_free(t.seen);
    pretok_free(cutter);
    if (bad.code) trained_vocab_free(v);
    return bad;
}
