/* rag/keyword_build.c - text in, a keyword index out.
 *
 * One table of terms per field, and for each term a chain of growing slices with its postings as they will be on disk. So memory
 * is about the size of the finished postings plus some 50 bytes for each different term (measured: 60 MB for 55,000 chunks, 78 MB
 * of Korean text), and a term that occurs in one chunk only, as most words do, costs nothing but its entry. The whole index is
 * built at once: nothing is merged or updated in place, since the store can always give the texts again. */
#include "rag/keyword.h"

enum { POOL_BLOCK = 1 << 20, SLICE_LEVELS = 7, PIECE = 64 << 10, STAGE = 64 << 10, AHEAD = 8 };
static const u16 slice_bytes[SLICE_LEVELS] = {8, 16, 32, 64, 128, 256, 512}; /* besides 4 for the next slice */

typedef struct { /* two to a cache line: looking these up is most of the work */
    u64 hash;
    u32 last, gap;            /* the chunk of the posting that is still open, and its gap */
    u32 df;                   /* 0: an empty slot */
    u32 head, tail;           /* slices; in units of 4 bytes of the pool */
    u16 tf;                   /* of the open posting; as good as infinite at its largest */
    u16 level : 4, used : 12; /* of the last slice; bytes */
} entry;
_Static_assert(sizeof(entry) == 32, "entries lie across cache lines");
typedef struct {
    entry *slot; /* [n_slots] a power of two */
    usize n_slots, n;
    u64 length;
} table;
struct keyword_builder {
    table field[KEYWORD_FIELDS];
    u8 **pool; /* [n_pool] of POOL_BLOCK */
    usize n_pool, cap_pool;
    usize used; /* bytes of the last */
    i64 *chunk, *document;
    u32 *length[KEYWORD_FIELDS];
    usize n, cap_chunk, cap_document, cap_length[KEYWORD_FIELDS];
    terms t;
    bool bad;
};

static err no_memory(keyword_builder *b)
{
    b->bad = true;
    return err_new(ERR_NOMEM, "out of memory for the keyword index (%zu chunks so far)", b->n);
}

err keyword_builder_new(keyword_builder **out)
{
    *out = NULL;
    keyword_builder *b = mem_zero(sizeof *b);
    if (!b) return err_new(ERR_NOMEM, "out of memory");
    *out = b;
    return OK;
}

void keyword_builder_drop(keyword_builder *b)
{
    if (!b) return;
    for (int f = 0; f < KEYWORD_FIELDS; f++) {
        mem_free(b->field[f].slot);
        mem_free(b->length[f]);
    }
    for (usize i = 0; i < b->n_pool; i++) mem_free(b->pool[i]);
    mem_free(b->pool);
    mem_free(b->chunk);
    mem_free(b->document);
    terms_free(&b->t);
    mem_free(b);
}

/* ---- postings in memory ------------------------------------------------------------------------------------------- */
static u8 *pool_at(const keyword_builder *b, u32 ref)
{
    return b->pool[ref / (POOL_BLOCK / 4)] + (usize)(ref % (POOL_BLOCK / 4)) * 4;
}

static bool slice_new(keyword_builder *b, int level, u32 *ref)
{
    usize need = slice_bytes[level] + 4u;
    if (!b->n_pool || b->used + need > POOL_BLOCK) {
        u8 *fresh = mem_alloc(POOL_BLOCK);
        if (!fresh || b->n_pool >= UINT32_MAX / (POOL_BLOCK / 4) || !VEC_PUSH(b->pool, b->n_pool, b->cap_pool, fresh))
            return mem_free(fresh), false;
        b->used = 0;
    }
    *ref = (u32)((b->n_pool - 1) * (POOL_BLOCK / 4) + b->used / 4);
    b->used += need;
    return true;
}

static usize put_varint(u8 *p, u32 v)
{
    usize n = 0;
    for (; v >= 128; v >>= 7) p[n++] = (u8)(v | 128);
    p[n++] = (u8)v;
    return n;
}

static usize put_posting(u8 p[12], const entry *e)
{
    u64 v = (u64)e->gap << 1 | (e->tf > 1);
    usize n = put_varint(p, (u32)v);
    return e->tf > 1 ? n + put_varint(p + n, e->tf - 2) : n;
}

/* the open posting of a term goes to its chain */
static bool flush_posting(keyword_builder *b, entry *e)
{
    u8 byte[12];
    usize n = put_posting(byte, e);
    if (!e->head) {
        e->level = 0, e->used = 0;
        if (!slice_new(b, 0, &e->tail)) return false;
        e->head = e->tail + 1; /* 0: none */
    }
    u8 *slice = pool_at(b, e->tail);
    for (usize i = 0; i < n; i++) {
        if (e->used == slice_bytes[e->level]) {
            u32 next;
            u16 level = e->level + 1 < SLICE_LEVELS ? e->level + 1 : e->level;
            if (!slice_new(b, level, &next)) return false;
            memcpy(slice, &next, 4);
            e->tail = next, e->level = level, e->used = 0;
            slice = pool_at(b, next);
        }
        slice[4 + e->used] = byte[i];
        e->used++;
    }
    return true;
}

/* ---- terms -------------------------------------------------------------------------------------------------------- */
static entry *find_slot(const table *t, u64 hash)
{
    usize at = hash & (t->n_slots - 1);
    while (t->slot[at].df && t->slot[at].hash != hash) at = (at + 1) & (t->n_slots - 1);
    return &t->slot[at];
}

static bool table_grow(table *t)
{
    table wide = {mem_array(entry, t->n_slots ? t->n_slots * 2 : 1024), t->n_slots ? t->n_slots * 2 : 1024, t->n, t->length};
    if (!wide.slot) return false;
    for (usize i = 0; i < t->n_slots; i++)
        if (t->slot[i].df) *find_slot(&wide, t->slot[i].hash) = t->slot[i];
    mem_free(t->slot);
    *t = wide;
    return true;
}

static bool count_term(keyword_builder *b, table *t, u64 hash, u32 chunk)
{
    if (t->n * 4 >= t->n_slots * 3 && !table_grow(t)) return false;
    entry *e = find_slot(t, hash);
    if (!e->df) {
        *e = (entry){.hash = hash, .last = chunk, .tf = 1, .gap = chunk, .df = 1};
        t->n++;
    } else if (e->last == chunk) {
        e->tf += e->tf < UINT16_MAX;
    } else {
        if (!flush_posting(b, e)) return false;
        e->gap = chunk - e->last - 1, e->last = chunk, e->tf = 1, e->df++;
    }
    return true;
}

static err count_terms(keyword_builder *b, str text, u32 chunk, u32 length[KEYWORD_FIELDS])
{
    b->t.n = 0;
    TRY(terms_of(text, false, &b->t));
    for (usize i = 0; i < b->t.n; i++) {
        if (i + AHEAD < b->t.n) { /* the tables do not fit the cache */
            const term *ahead = &b->t.t[i + AHEAD];
            const table *t = &b->field[ahead->field];
            if (t->n_slots) __builtin_prefetch(&t->slot[ahead->hash & (t->n_slots - 1)], 1);
        }
        length[b->t.t[i].field]++;
        if (!count_term(b, &b->field[b->t.t[i].field], b->t.t[i].hash, chunk)) return no_memory(b);
    }
    return OK;
}

/* the next piece of a long text: up to white space, so that memory does not grow with the text */
static str next_piece(str text, usize from)
{
    usize end = from + PIECE;
    if (end >= text.n) return (str){text.p + from, text.n - from};
    for (usize i = end; i > from + PIECE / 2; i--)
        if (text.p[i - 1] == ' ' || text.p[i - 1] == '\n') return (str){text.p + from, i - from};
    while (end > from + 1 && ((u8)text.p[end] & 0xC0) == 0x80) end--;
    return (str){text.p + from, end - from};
}

err keyword_builder_add(keyword_builder *b, i64 chunk, i64 owner, str text)
{
    if (b->bad) return err_new(ERR_NOMEM, "the keyword index ran out of memory before");
    if (b->n && chunk <= b->chunk[b->n - 1])
        return err_new(ERR_INPUT, "keyword index: chunk %lld after %lld; they must ascend", (long long)chunk,
                       (long long)b->chunk[b->n - 1]);
    if (b->n >= KEYWORD_CHUNKS) return err_new(ERR_NOMEM, "keyword index: more than %d chunks", KEYWORD_CHUNKS);
    u32 length[KEYWORD_FIELDS] = {0};
    for (usize from = 0; from < text.n;) {
        str piece = next_piece(text, from);
        err bad = count_terms(b, piece, (u32)b->n, length);
        if (bad.code) return b->bad = true, bad;
        from += piece.n;
    }
    usize n = b->n, m = b->n;
    if (!VEC_PUSH(b->chunk, n, b->cap_chunk, chunk) || !VEC_PUSH(b->document, m, b->cap_document, owner)) return no_memory(b);
    for (int f = 0; f < KEYWORD_FIELDS; f++) {
        usize k = b->n;
        if (!VEC_PUSH(b->length[f], k, b->cap_length[f], length[f])) return no_memory(b);
        b->field[f].length += length[f];
    }
    b->n++;
    return OK;
}

/* ---- writing ------------------------------------------------------------------------------------------------------ */
/* the used slots of a table in the order of their hashes: by bucket, then by insertion within these few */
static u32 *sorted(const table *t, int bits, u64 **starts)
{
    usize n_buckets = (usize)1 << bits;
    u64 *start = mem_array(u64, n_buckets + 2);
    u32 *order = mem_array(u32, t->n);
    *starts = start;
    if (!start || !order) return mem_free(order), NULL;
    for (usize i = 0; i < t->n_slots; i++)
        if (t->slot[i].df) start[(t->slot[i].hash >> (64 - bits)) + 2]++;
    for (usize i = 2; i < n_buckets + 2; i++) start[i] += start[i - 1];
    for (usize i = 0; i < t->n_slots; i++)
        if (t->slot[i].df) order[start[(t->slot[i].hash >> (64 - bits)) + 1]++] = (u32)i;
    for (usize k = 0; k < n_buckets; k++) /* start[k] is now where bucket k begins */
        for (u64 i = start[k] + 1; i < start[k + 1]; i++) {
            u32 one = order[i];
            u64 at = i;
            for (; at > start[k] && t->slot[order[at - 1]].hash > t->slot[one].hash; at--) order[at] = order[at - 1];
            order[at] = one;
        }
    return order;
}

static u32 stage_postings(const keyword_builder *b, const entry *e, buf *out)
{
    u8 byte[16];
    usize before = out->n;
    buf_put(out, byte, put_varint(byte, e->df));
    for (u32 ref = e->head - 1, level = 0; e->head;) {
        const u8 *slice = pool_at(b, ref);
        buf_put(out, slice + 4, ref == e->tail ? e->used : slice_bytes[level]);
        if (ref == e->tail) break;
        memcpy(&ref, slice, 4);
        if (level + 1 < SLICE_LEVELS) level++;
    }
    buf_put(out, byte, put_posting(byte, e));
    return (u32)(out->n - before);
}

static err write_field(keyword_builder *b, segment_writer *w, int field)
{
    table *t = &b->field[field];
    int bits = keyword_bits(t->n);
    usize n_buckets = (usize)1 << bits;
    u64 *start = NULL, posting = 0;
    buf stage = {0};
    u32 *order = sorted(t, bits, &start);
    bucket_term *list = mem_array(bucket_term, t->n);
    bucket *buckets = mem_array(bucket, n_buckets + 1);
    err bad = order && list && buckets ? OK : no_memory(b);
    if (bad.code) goto done;
    TRY_TO(done, segment_begin(w, PART_POSTING(field)));
    for (usize i = 0, k = 0; k <= n_buckets; k++) {
        buckets[k] = (bucket){posting, i};
        for (; k < n_buckets && i < start[k + 1]; i++) {
            const entry *e = &t->slot[order[i]];
            list[i] = (bucket_term){keyword_tail(e->hash, bits), stage_postings(b, e, &stage)};
            posting += list[i].bytes;
        }
        if (stage.n < STAGE && k < n_buckets) continue;
        TRY_TO(done, buf_error(&stage));
        TRY_TO(done, segment_put(w, stage.p, stage.n));
        buf_reset(&stage);
    }
    TRY_TO(done, segment_begin(w, PART_TERM(field)));
    TRY_TO(done, segment_put(w, list, t->n * sizeof *list));
    TRY_TO(done, segment_begin(w, PART_BUCKET(field)));
    TRY_TO(done, segment_put(w, buckets, (n_buckets + 1) * sizeof *buckets));
done:
    buf_free(&stage);
    mem_free(start);
    mem_free(order);
    mem_free(list);
    mem_free(buckets);
    return bad;
}

err keyword_builder_write(keyword_builder *b, const char *path, u64 generation)
{
    segment_writer *w = NULL;
    u64 count[SEGMENT_COUNTS] = {[COUNT_CHUNKS] = b->n};
    err bad = b->bad ? err_new(ERR_NOMEM, "the keyword index ran out of memory before") : OK;
    if (bad.code) goto done;
    TRY_TO(done, segment_create(&w, path, KEYWORD_MAGIC));
    TRY_TO(done, segment_begin(w, PART_CHUNK));
    TRY_TO(done, segment_put(w, b->chunk, b->n * sizeof *b->chunk));
    TRY_TO(done, segment_begin(w, PART_DOCUMENT));
    TRY_TO(done, segment_put(w, b->document, b->n * sizeof *b->document));
    TRY_TO(done, segment_begin(w, PART_LENGTH));
    for (int f = 0; f < KEYWORD_FIELDS; f++) TRY_TO(done, segment_put(w, b->length[f], b->n * sizeof(u32)));
    for (int f = 0; f < KEYWORD_FIELDS; f++) {
        count[COUNT_TERMS + f] = b->field[f].n;
        count[COUNT_LENGTH + f] = b->field[f].length;
        TRY_TO(done, write_field(b, w, f));
    }
    bad = segment_commit(w, KEYWORD_VERSION, generation, count);
    w = NULL;
done:
    if (w) segment_drop(w);
    keyword_builder_drop(b);
    return bad;
}
