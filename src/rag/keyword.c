/* rag/keyword.c - searching a keyword index.
 *
 * BM25 as Lucene has it, k1 1.2, b 0.75, in each field by itself. A chunk's score is its field 0 over the best field 0 of any
 * chunk that passed the filter, plus half of the same of field 1: 1.5 at most, and the best hit has at least 1. (A query of one
 * syllable has field 2 alone: 1 at most.) So scores compare within one question, not between questions; `coverage` and `share`
 * do that. Measured: half the weight on whole words adds half a point of nDCG@10 to pairs alone.
 *
 * Every posting of every term of the question is read: the best score of each field has to be known anyway, and postings are
 * scanned at a few nanoseconds each. Nothing of the file is trusted: see segment.h, and walk() below. */
#include "rag/keyword.h"
#include <math.h>
#include <stdlib.h>

#define K1 1.2f
#define B 0.75f
#define WORDS_WEIGHT 0.5f

typedef struct {
    float main, words, idf; /* BM25 of field 0 (or 2), of field 1; idf of the main field's terms it has */
} tally;
struct keyword_index {
    segment file;
    usize n;
    const i64 *chunk, *document;       /* [n] */
    const u32 *length[KEYWORD_FIELDS]; /* [n] */
    u64 n_terms[KEYWORD_FIELDS];
    float mean[KEYWORD_FIELDS]; /* length */
    int bits[KEYWORD_FIELDS];
    tally *acc; /* [n] all zero between searches */
    terms query, text;
};

/* ---- opening ------------------------------------------------------------------------------------------------------ */
static err open_field(keyword_index *k, int f)
{
    segment *s = &k->file;
    k->n_terms[f] = s->has.count[COUNT_TERMS + f];
    k->bits[f] = keyword_bits(k->n_terms[f]);
    TRY(segment_array(s, PART_TERM(f), k->n_terms[f], sizeof(bucket_term)));
    TRY(segment_array(s, PART_BUCKET(f), ((u64)1 << k->bits[f]) + 1, sizeof(bucket)));
    k->length[f] = (const u32 *)segment_part(s, PART_LENGTH) + k->n * (usize)f;
    double mean = k->n ? (double)s->has.count[COUNT_LENGTH + f] / (double)k->n : 0;
    k->mean[f] = mean > 0 ? (float)mean : 1;
    return OK;
}

err keyword_open(keyword_index **out, const char *path)
{
    *out = NULL;
    keyword_index *k = mem_zero(sizeof *k);
    if (!k) return err_new(ERR_NOMEM, "out of memory");
    segment *s = &k->file;
    err bad = OK;
    TRY_TO(fail, segment_open(s, path, KEYWORD_MAGIC, KEYWORD_VERSION));
    u64 n = s->has.count[COUNT_CHUNKS];
    TRY_TO(fail, n > KEYWORD_CHUNKS ? segment_damaged(s, "more chunks than it can have") : OK);
    k->n = (usize)n;
    TRY_TO(fail, segment_array(s, PART_CHUNK, n, sizeof(i64)));
    TRY_TO(fail, segment_array(s, PART_DOCUMENT, n, sizeof(i64)));
    TRY_TO(fail, segment_array(s, PART_LENGTH, n, KEYWORD_FIELDS * sizeof(u32)));
    k->chunk = segment_part(s, PART_CHUNK);
    k->document = segment_part(s, PART_DOCUMENT);
    for (int f = 0; f < KEYWORD_FIELDS; f++) TRY_TO(fail, open_field(k, f));
    k->acc = mem_array(tally, n);
    if (!k->acc) TRY_TO(fail, err_new(ERR_NOMEM, "out of memory"));
    *out = k;
    return OK;
fail:
    keyword_close(k);
    return bad;
}

void keyword_close(keyword_index *k)
{
    if (!k) return;
    segment_close(&k->file);
    mem_free(k->acc);
    terms_free(&k->query);
    terms_free(&k->text);
    mem_free(k);
}

u64 keyword_generation(const keyword_index *k) { return k->file.has.generation; }

/* ---- terms and postings ------------------------------------------------------------------------------------------- */
typedef struct {
    const u8 *p, *end;
    u32 df; /* 0: the term is nowhere */
} postings;

static bool get_varint(const u8 **p, const u8 *end, u32 *v)
{
    u32 x = 0;
    for (int shift = 0; *p < end && shift < 35; shift += 7) {
        u8 b = *(*p)++;
        x |= (u32)(b & 127) << shift;
        if (b < 128) return *v = x, true;
    }
    return false;
}

static bool find_postings(keyword_index *k, int f, u64 hash, postings *out)
{
    segment *s = &k->file;
    *out = (postings){0};
    u64 at = hash >> (64 - k->bits[f]), where = s->has.part[PART_BUCKET(f)].at + at * sizeof(bucket);
    if (!segment_good(s, where, 2 * sizeof(bucket))) return false;
    const bucket *b = (const bucket *)segment_part(s, PART_BUCKET(f)) + at;
    const section *all = &s->has.part[PART_POSTING(f)];
    if (b[0].term > b[1].term || b[1].term > k->n_terms[f] || b[0].posting > b[1].posting || b[1].posting > all->n) return false;
    if (!segment_good(s, s->has.part[PART_TERM(f)].at + b[0].term * sizeof(bucket_term),
                      (b[1].term - b[0].term) * sizeof(bucket_term)))
        return false;
    const bucket_term *t = segment_part(s, PART_TERM(f));
    u32 tail = keyword_tail(hash, k->bits[f]);
    u64 from = b[0].posting;
    for (u64 i = b[0].term; i < b[1].term; from += t[i++].bytes) {
        if (from > all->n || t[i].bytes > all->n - from) return false;
        if (t[i].tail != tail) continue;
        if (!segment_good(s, all->at + from, t[i].bytes)) return false;
        out->p = s->map.p + all->at + from;
        out->end = out->p + t[i].bytes;
        return get_varint(&out->p, out->end, &out->df) && out->df && out->df <= k->n;
    }
    return true;
}

static float idf_of(const keyword_index *k, u32 df) { return logf(1 + ((float)(k->n - df) + 0.5f) / ((float)df + 0.5f)); }

typedef struct {
    u64 hash;
    float idf, weight; /* weight: idf times how often the question has it */
    u8 field;
    bool found;
    postings list;
} asked;

/* adds a term's share to every chunk that has it; false: damaged */
static bool walk(keyword_index *k, const asked *a)
{
    const u32 *length = k->length[a->field];
    const u8 *p = a->list.p, *end = a->list.end;
    float flat = K1 * (1 - B), slope = K1 * B / k->mean[a->field];
    u64 at = 0;
    for (u32 i = 0; i < a->list.df; i++) {
        u32 v, more = 0;
        if (!get_varint(&p, end, &v) || ((v & 1) && !get_varint(&p, end, &more))) return false;
        at += v >> 1;
        if (at >= k->n) return false;
        float tf = v & 1 ? (float)more + 2 : 1, part = a->weight * tf / (tf + flat + slope * (float)length[at]);
        tally *t = &k->acc[at++];
        if (a->field == 1)
            t->words += part;
        else
            t->main += part, t->idf += a->idf;
    }
    return p == end;
}

/* ---- questions ---------------------------------------------------------------------------------------------------- */
static int by_term(const void *x, const void *y)
{
    const asked *a = x, *b = y;
    return a->field != b->field ? a->field - b->field : a->hash < b->hash ? -1 : a->hash > b->hash;
}

typedef struct {
    float once, all; /* idf of the main field's terms: of the different ones, and as often as the question has them */
} idf_mass;

/* The different terms of a question with their postings; owned. */
static err ask(keyword_index *k, str query, asked **out, usize *n, idf_mass *mass)
{
    *out = NULL, *n = 0, *mass = (idf_mass){0};
    k->query.n = 0;
    TRY(terms_of(query, true, &k->query));
    if (!k->query.n) return OK;
    asked *a = mem_array(asked, k->query.n);
    if (!a) return err_new(ERR_NOMEM, "out of memory");
    for (usize i = 0; i < k->query.n; i++) a[i] = (asked){.hash = k->query.t[i].hash, .field = k->query.t[i].field, .weight = 1};
    qsort(a, k->query.n, sizeof *a, by_term);
    usize m = 0;
    for (usize i = 1; i < k->query.n; i++) {
        if (by_term(&a[m], &a[i]))
            a[++m] = a[i];
        else
            a[m].weight++;
    }
    m++;
    for (usize i = 0; i < m; i++) {
        if (!find_postings(k, a[i].field, a[i].hash, &a[i].list)) {
            mem_free(a);
            return segment_damaged(&k->file, "a list of postings is damaged");
        }
        a[i].idf = idf_of(k, a[i].list.df);
        a[i].weight *= a[i].idf;
        if (a[i].field != 1) mass->once += a[i].idf, mass->all += a[i].weight;
    }
    *out = a, *n = m;
    return OK;
}

/* ---- the best ----------------------------------------------------------------------------------------------------- */
typedef struct {
    u32 at;
    float score;
} ranked;

static bool worse(ranked a, ranked b) { return a.score < b.score || (a.score == b.score && a.at > b.at); }

static void sift(ranked *heap, usize n, usize i) /* the worst on top */
{
    for (usize child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && worse(heap[child + 1], heap[child])) child++;
        if (!worse(heap[child], heap[i])) return;
        ranked t = heap[i];
        heap[i] = heap[child], heap[child] = t;
    }
}

static void offer(ranked *heap, usize *n, usize most, ranked one)
{
    if (*n < most) {
        heap[(*n)++] = one;
        if (*n == most)
            for (usize i = most / 2; i-- > 0;) sift(heap, most, i);
    } else if (worse(heap[0], one)) {
        heap[0] = one;
        sift(heap, most, 0);
    }
}

static int by_rank(const void *x, const void *y)
{
    const ranked *a = x, *b = y;
    return worse(*a, *b) ? 1 : worse(*b, *a) ? -1 : 0;
}

/* The best `most` of the tallies that pass the filter. Makes all zero again. */
static err select_best(keyword_index *k, const search_filter *filter, usize most, idf_mass mass, keyword_hit **found, usize *n)
{
    float best_main = 0, best_words = 0;
    usize passed = 0, kept = 0;
    for (usize i = 0; i < k->n; i++) {
        tally *t = &k->acc[i];
        if (t->main == 0 && t->words == 0) continue;
        if (filter && filter->keep && !filter->keep(filter->ctx, k->chunk[i], k->document[i])) {
            *t = (tally){0};
            continue;
        }
        if (t->main > best_main) best_main = t->main;
        if (t->words > best_words) best_words = t->words;
        passed++;
    }
    if (most > passed) most = passed;
    ranked *heap = mem_array(ranked, most);
    keyword_hit *h = most ? mem_array(keyword_hit, most) : NULL;
    bool good = heap && (h || !most);
    for (usize i = 0; good && most && i < k->n; i++) {
        tally *t = &k->acc[i];
        if (t->main == 0 && t->words == 0) continue;
        float score = (best_main > 0 ? t->main / best_main : 0) + (best_words > 0 ? WORDS_WEIGHT * t->words / best_words : 0);
        offer(heap, &kept, most, (ranked){(u32)i, score});
    }
    if (good) qsort(heap, kept, sizeof *heap, by_rank);
    for (usize i = 0; good && i < kept; i++) {
        const tally *t = &k->acc[heap[i].at];
        h[i] = (keyword_hit){k->chunk[heap[i].at], heap[i].score, mass.once > 0 ? t->idf / mass.once : 0,
                             mass.all > 0 ? t->main / mass.all : 0};
    }
    memset(k->acc, 0, k->n * sizeof *k->acc);
    mem_free(heap);
    if (!good) return mem_free(h), err_new(ERR_NOMEM, "out of memory");
    *found = h, *n = kept;
    return OK;
}

err keyword_search(keyword_index *k, str query, const search_filter *filter, usize most, keyword_hit **found, usize *n)
{
    *found = NULL, *n = 0;
    asked *a;
    usize n_asked;
    idf_mass mass;
    TRY(ask(k, query, &a, &n_asked, &mass));
    if (!n_asked) return OK;
    err bad = OK;
    segment *s = &k->file;
    for (int part = PART_CHUNK; part <= PART_LENGTH && !bad.code; part++)
        if (!segment_good(s, s->has.part[part].at, s->has.part[part].n))
            bad = segment_damaged(s, "the table of chunks is damaged");
    for (usize i = 0; i < n_asked && !bad.code; i++)
        if (a[i].list.df && !walk(k, &a[i])) bad = segment_damaged(s, "a list of postings is damaged");
    if (bad.code)
        memset(k->acc, 0, k->n * sizeof *k->acc);
    else
        bad = select_best(k, filter, most, mass, found, n);
    mem_free(a);
    return bad;
}

/* ---- sentences ---------------------------------------------------------------------------------------------------- */
float keyword_coverage(keyword_index *k, str query, str text)
{
    asked *a;
    usize n;
    idf_mass mass;
    float covered = 0;
    if (ask(k, query, &a, &n, &mass).code || !n) return 0;
    k->text.n = 0;
    if (terms_of(text, false, &k->text).code) k->text.n = 0;
    for (usize i = 0; i < k->text.n; i++) {
        if (k->text.t[i].field == 1) continue;
        asked key = {.hash = k->text.t[i].hash, .field = k->text.t[i].field};
        asked *one = bsearch(&key, a, n, sizeof *a, by_term);
        if (!one || one->found) continue;
        one->found = true;
        covered += one->idf;
    }
    mem_free(a);
    return mass.once > 0 ? covered / mass.once : 0;
}

float keyword_idf(keyword_index *k, u64 term_hash)
{
    postings p;
    return find_postings(k, 0, term_hash, &p) ? idf_of(k, p.df) : idf_of(k, 0);
}
