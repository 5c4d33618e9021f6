/* rag/vectors.c - the nearest vectors, exactly, by reading all of them in 8 bits and a few again in float.
 *
 * Each vector v is kept as a scale s and bytes q with v = s q + e, and the length of e. For a query x = t p + d in 16 bits,
 *     x.v = t s (p.q) + (t p).e + d.v,   so   |x.v - t s (p.q)| <= |t p| |e| + |d| |v|  =: bound(v)
 * by Cauchy and Schwarz; p.q is an integer without rounding. A chunk's score is that of its best vector. The k-th largest
 * over chunks of (estimate - bound) is a score which k chunks reach for certain, so every vector of the true best k has
 * estimate + bound at or above it: only those are read in float, and the order is that of an exact scan, always. Products of
 * floats are exact in double, summed in one order on every machine.
 *
 * No graph of neighbours: 100,000 vectors take a few milliseconds, are ready as soon as they are written, and a filter costs
 * nothing and loses nothing. The builder keeps its vectors in memory. */
#include "rag/rag.h"
#include "rag/segment.h"
#include <math.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define VECTOR_MAGIC "maruvec1"
enum { VECTOR_VERSION = 1, DIM_MAX = 65536, LANES = 64, BATCH = 512, POOL_VECTORS = 1024 };
enum {
    PART_CHUNK /* i64[n] ascending */,
    PART_DOCUMENT /* i64[n] */,
    PART_ROW /* i8[n][stride] */,
    PART_GRAIN /* [n] */,
    PART_FLOAT /* f32[n][dim] */
};
enum { COUNT_VECTORS, COUNT_DIM };
#define UNIT_SLACK 0.01 /* how far from 1 the length of a unit vector may be */
#define ROUNDING 4e-6   /* of the float arithmetic on estimates and bounds, generously */

typedef struct {
    float scale, miss; /* s, and |e| rounded up */
} grain;

static usize stride_of(i64 dim) { return ((usize)dim + LANES - 1) / LANES * LANES; }

/* length of a vector of finite numbers; -1 otherwise */
static double length_of(const float *v, i64 dim)
{
    double sum = 0;
    for (i64 i = 0; i < dim; i++) sum += (double)v[i] * v[i];
    return isfinite(sum) ? sqrt(sum) : -1;
}

static err check_unit(const float *v, i64 dim, const char *what)
{
    double length = length_of(v, dim);
    if (length < 0) return err_new(ERR_INPUT, "%s has a number that is not finite", what);
    if (fabs(length - 1) > UNIT_SLACK) return err_new(ERR_INPUT, "%s has length %.4g, expected 1", what, length);
    return OK;
}

/* ---- building ----------------------------------------------------------------------------------------------------- */
typedef struct {
    i64 chunk, owner;
    usize at;
} entry;
struct vector_builder {
    i64 dim;
    entry *e; /* [n] */
    usize n, cap;
    float **pool; /* blocks of POOL_VECTORS x dim */
    usize n_pool, cap_pool;
    bool bad;
};

err vector_builder_new(vector_builder **out, i64 dim)
{
    *out = NULL;
    if (dim < 1 || dim > DIM_MAX)
        return err_new(ERR_INPUT, "vectors of %lld dimensions; expected 1 to %d", (long long)dim, DIM_MAX);
    vector_builder *b = mem_zero(sizeof *b);
    if (!b) return err_new(ERR_NOMEM, "out of memory");
    b->dim = dim;
    *out = b;
    return OK;
}

void vector_builder_drop(vector_builder *b)
{
    if (!b) return;
    for (usize i = 0; i < b->n_pool; i++) mem_free(b->pool[i]);
    mem_free(b->pool);
    mem_free(b->e);
    mem_free(b);
}

static float *vector_at(const vector_builder *b, usize i) { return b->pool[i / POOL_VECTORS] + i % POOL_VECTORS * (usize)b->dim; }

err vector_builder_add(vector_builder *b, i64 chunk, i64 owner, const float *v)
{
    char what[64];
    snprintf(what, sizeof what, "the vector of chunk %lld", (long long)chunk);
    TRY(check_unit(v, b->dim, what));
    entry one = {chunk, owner, b->n};
    if (b->n == b->n_pool * POOL_VECTORS) {
        float *fresh = mem_alloc((usize)b->dim * POOL_VECTORS * sizeof *fresh);
        if (!fresh || !VEC_PUSH(b->pool, b->n_pool, b->cap_pool, fresh)) {
            mem_free(fresh);
            b->bad = true;
        }
    }
    if (b->bad || !VEC_PUSH(b->e, b->n, b->cap, one)) {
        b->bad = true;
        return err_new(ERR_NOMEM, "out of memory for the vector index (%zu vectors so far)", b->n);
    }
    memcpy(vector_at(b, one.at), v, (usize)b->dim * sizeof *v);
    return OK;
}

static int by_chunk(const void *x, const void *y)
{
    const entry *a = x, *b = y;
    return a->chunk != b->chunk ? (a->chunk < b->chunk ? -1 : 1) : a->at < b->at ? -1 : a->at > b->at;
}

static grain quantise(const float *v, i64 dim, i8 *row)
{
    float most = 0;
    for (i64 i = 0; i < dim; i++) most = fmaxf(most, fabsf(v[i]));
    grain g = {most / 127, 0};
    double sum = 0;
    for (i64 i = 0; i < dim; i++) {
        row[i] = (i8)lrintf(v[i] / g.scale); /* at most 127 and a rounding */
        double e = v[i] - (double)g.scale * row[i];
        sum += e * e;
    }
    g.miss = (float)(sqrt(sum) * (1 + 1e-6));
    return g;
}

static err write_rows(vector_builder *b, segment_writer *w)
{
    i8 *row = mem_zero(stride_of(b->dim));
    grain *g = mem_array(grain, b->n);
    err bad = row && g ? OK : err_new(ERR_NOMEM, "out of memory");
    if (!bad.code) bad = segment_begin(w, PART_ROW);
    for (usize i = 0; i < b->n && !bad.code; i++) {
        g[i] = quantise(vector_at(b, b->e[i].at), b->dim, row);
        bad = segment_put(w, row, stride_of(b->dim));
    }
    if (!bad.code) bad = segment_begin(w, PART_GRAIN);
    if (!bad.code) bad = segment_put(w, g, b->n * sizeof *g);
    mem_free(row);
    mem_free(g);
    return bad;
}

err vector_builder_write(vector_builder *b, const char *path, u64 generation)
{
    segment_writer *w = NULL;
    u64 count[SEGMENT_COUNTS] = {[COUNT_VECTORS] = b->n, [COUNT_DIM] = (u64)b->dim};
    err bad = b->bad ? err_new(ERR_NOMEM, "the vector index ran out of memory before") : OK;
    if (bad.code) goto done;
    if (b->n) qsort(b->e, b->n, sizeof *b->e, by_chunk);
    TRY_TO(done, segment_create(&w, path, VECTOR_MAGIC));
    TRY_TO(done, segment_begin(w, PART_CHUNK));
    for (usize i = 0; i < b->n; i++) TRY_TO(done, segment_put(w, &b->e[i].chunk, sizeof(i64)));
    TRY_TO(done, segment_begin(w, PART_DOCUMENT));
    for (usize i = 0; i < b->n; i++) TRY_TO(done, segment_put(w, &b->e[i].owner, sizeof(i64)));
    TRY_TO(done, write_rows(b, w));
    TRY_TO(done, segment_begin(w, PART_FLOAT));
    for (usize i = 0; i < b->n; i++) TRY_TO(done, segment_put(w, vector_at(b, b->e[i].at), (usize)b->dim * sizeof(float)));
    bad = segment_commit(w, VECTOR_VERSION, generation, count);
    w = NULL;
done:
    if (w) segment_drop(w);
    vector_builder_drop(b);
    return bad;
}

/* ---- opening ------------------------------------------------------------------------------------------------------ */
struct vector_index {
    segment file;
    i64 dim;
    usize n, stride;
    const i64 *chunk, *owner; /* [n] */
    const i8 *row;            /* [n][stride] */
    const grain *grain;       /* [n] */
    const float *v;           /* [n][dim] */
    float *guess;             /* [n] estimates of the search under way; -INFINITY: filtered out */
};

err vector_open(vector_index **out, const char *path)
{
    *out = NULL;
    vector_index *x = mem_zero(sizeof *x);
    if (!x) return err_new(ERR_NOMEM, "out of memory");
    segment *s = &x->file;
    err bad = OK;
    TRY_TO(fail, segment_open(s, path, VECTOR_MAGIC, VECTOR_VERSION));
    u64 n = s->has.count[COUNT_VECTORS], dim = s->has.count[COUNT_DIM];
    if (dim < 1 || dim > DIM_MAX) TRY_TO(fail, segment_damaged(s, "its vectors have an impossible number of dimensions"));
    x->dim = (i64)dim, x->stride = stride_of(x->dim), x->n = (usize)n;
    TRY_TO(fail, segment_array(s, PART_CHUNK, n, sizeof(i64)));
    TRY_TO(fail, segment_array(s, PART_DOCUMENT, n, sizeof(i64)));
    TRY_TO(fail, segment_array(s, PART_ROW, n, x->stride));
    TRY_TO(fail, segment_array(s, PART_GRAIN, n, sizeof(grain)));
    TRY_TO(fail, segment_array(s, PART_FLOAT, n, dim * sizeof(float)));
    x->chunk = segment_part(s, PART_CHUNK), x->owner = segment_part(s, PART_DOCUMENT);
    x->row = segment_part(s, PART_ROW), x->grain = segment_part(s, PART_GRAIN), x->v = segment_part(s, PART_FLOAT);
    x->guess = mem_array(float, n);
    if (!x->guess) TRY_TO(fail, err_new(ERR_NOMEM, "out of memory"));
    *out = x;
    return OK;
fail:
    vector_close(x);
    return bad;
}

void vector_close(vector_index *x)
{
    if (!x) return;
    segment_close(&x->file);
    mem_free(x->guess);
    mem_free(x);
}

u64 vector_generation(const vector_index *x) { return x->file.has.generation; }
i64 vector_dim(const vector_index *x) { return x->dim; }

/* ---- dot products of bytes with the query ----------------------------------------------------------------------------
 * out[r] = p . row r, without overflow by the choice of the query's scale; stride is a multiple of LANES. */
typedef void scan_fn(const i8 *row, usize stride, usize n, const i16 *p, i32 *out);

static void scan_generic(const i8 *row, usize stride, usize n, const i16 *p, i32 *out)
{
    for (usize r = 0; r < n; r++, row += stride) {
        i32 sum = 0;
        for (usize i = 0; i < stride; i++) sum += row[i] * p[i];
        out[r] = sum;
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static inline i32 sum_avx2(__m256i a)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
}

__attribute__((target("avx2"))) static void scan_avx2(const i8 *row, usize stride, usize n, const i16 *p, i32 *out)
{
    usize r = 0;
    for (; r + 2 <= n; r += 2, row += 2 * stride) { /* two rows share the loads of the query */
        __m256i a = _mm256_setzero_si256(), b = a;
        for (usize i = 0; i < stride; i += 16) {
            __m256i q = _mm256_loadu_si256((const __m256i *)(const void *)(p + i));
            __m256i u = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(row + i)));
            __m256i v = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(row + stride + i)));
            a = _mm256_add_epi32(a, _mm256_madd_epi16(u, q));
            b = _mm256_add_epi32(b, _mm256_madd_epi16(v, q));
        }
        out[r] = sum_avx2(a), out[r + 1] = sum_avx2(b);
    }
    for (; r < n; r++, row += stride) {
        __m256i a = _mm256_setzero_si256();
        for (usize i = 0; i < stride; i += 16) {
            __m256i u = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(row + i)));
            a = _mm256_add_epi32(a, _mm256_madd_epi16(u, _mm256_loadu_si256((const __m256i *)(const void *)(p + i))));
        }
        out[r] = sum_avx2(a);
    }
}

__attribute__((target("avx512f,avx512bw"))) static void scan_avx512(const i8 *row, usize stride, usize n, const i16 *p, i32 *out)
{
    for (usize r = 0; r < n; r++, row += stride) {
        __m512i a = _mm512_setzero_si512(), b = a;
        for (usize i = 0; i < stride; i += 64) {
            __m512i u = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(row + i)));
            __m512i v = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(row + i + 32)));
            a = _mm512_add_epi32(a, _mm512_madd_epi16(u, _mm512_loadu_si512(p + i)));
            b = _mm512_add_epi32(b, _mm512_madd_epi16(v, _mm512_loadu_si512(p + i + 32)));
        }
        out[r] = _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
    }
}
#endif

static scan_fn *scan_for(cpu_level level)
{
#if defined(__x86_64__)
    if (level >= CPU_AVX512) return scan_avx512;
    if (level >= CPU_AVX2) return scan_avx2;
#endif
    (void)level;
    return scan_generic;
}

typedef double four __attribute__((vector_size(32)));
typedef float four_floats __attribute__((vector_size(16)));

/* the exact score: one order of summing on every machine */
static double dot(const float *x, const float *v, i64 dim)
{
    four a = {0}, b = {0};
    i64 i = 0;
    for (; i + 8 <= dim; i += 8) {
        four_floats xa, xb, va, vb;
        memcpy(&xa, x + i, sizeof xa), memcpy(&xb, x + i + 4, sizeof xb);
        memcpy(&va, v + i, sizeof va), memcpy(&vb, v + i + 4, sizeof vb);
        a += __builtin_convertvector(xa, four) * __builtin_convertvector(va, four);
        b += __builtin_convertvector(xb, four) * __builtin_convertvector(vb, four);
    }
    double sum = 0;
    a += b;
    for (; i < dim; i++) sum += (double)x[i] * v[i];
    return sum + ((a[0] + a[1]) + (a[2] + a[3]));
}

/* ---- the first reading: estimates of all that pass the filter ----------------------------------------------------- */
typedef struct {
    i16 *p;             /* [stride] the query in 16 bits */
    float scale;        /* t */
    double length, off; /* |t p| and |d| (1 + slack) + rounding: bound(v) = length * miss + off */
} probe;

static err probe_make(probe *q, const float *x, i64 dim)
{
    usize stride = stride_of(dim);
    float most = 0;
    for (i64 i = 0; i < dim; i++) most = fmaxf(most, fabsf(x[i]));
    double top = (double)INT32_MAX / (128.0 * (double)stride) - 1; /* so that no sum overflows */
    if (top > INT16_MAX) top = INT16_MAX;
    q->scale = (float)(most / floor(top));
    q->p = mem_zero(stride * sizeof *q->p);
    if (!q->p) return err_new(ERR_NOMEM, "out of memory");
    double length = 0, off = 0;
    for (i64 i = 0; i < dim; i++) {
        q->p[i] = (i16)lrintf(x[i] / q->scale);
        double known = (double)q->scale * q->p[i], e = x[i] - known;
        length += known * known, off += e * e;
    }
    q->length = sqrt(length);
    q->off = sqrt(off) * (1 + UNIT_SLACK) + ROUNDING;
    return OK;
}

static err scan(vector_index *x, const probe *q, usize from, usize to)
{
    segment *s = &x->file;
    scan_fn *fn = scan_for(cpu_now());
    i32 out[BATCH];
    for (; from < to; from += BATCH) {
        usize n = to - from < BATCH ? to - from : BATCH;
        if (!segment_good(s, s->has.part[PART_ROW].at + from * x->stride, n * x->stride))
            return segment_damaged(s, "its rows are damaged");
        fn(x->row + from * x->stride, x->stride, n, q->p, out);
        for (usize i = 0; i < n; i++) x->guess[from + i] = (float)out[i] * (q->scale * x->grain[from + i].scale);
    }
    return OK;
}

static usize chunk_end(const vector_index *x, usize from)
{
    usize end = from + 1;
    while (end < x->n && x->chunk[end] == x->chunk[from]) end++;
    return end;
}

static err scan_all(vector_index *x, const probe *q, const search_filter *filter)
{
    if (!filter || !filter->keep) return scan(x, q, 0, x->n);
    usize from = 0;
    for (usize i = 0, end; i < x->n; i = end) {
        end = chunk_end(x, i);
        if (filter->keep(filter->ctx, x->chunk[i], x->owner[i])) continue;
        TRY(scan(x, q, from, i));
        for (usize k = i; k < end; k++) x->guess[k] = -INFINITY;
        from = end;
    }
    return scan(x, q, from, x->n);
}

/* ---- the threshold ------------------------------------------------------------------------------------------------ */
static void offer(double *heap, usize *n, usize most, double one) /* keeps the largest; the least of them on top */
{
    usize i;
    if (*n < most) {
        for (i = (*n)++; i && heap[(i - 1) / 2] > one; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
        heap[i] = one;
        return;
    }
    if (!(one > heap[0])) return;
    for (usize child = i = 0; (child = 2 * i + 1) < most; i = child) {
        if (child + 1 < most && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= one) break;
        heap[i] = heap[child];
    }
    heap[i] = one;
}

/* What `most` chunks reach for certain, and the statistics of all. */
static err survey(vector_index *x, const probe *q, usize most, double *reached, float *least, float *mean)
{
    usize held = 0, passed = 0;
    double sum = 0, low = INFINITY;
    if (most > x->n) most = x->n;
    double *heap = mem_array(double, most);
    if (!heap) return err_new(ERR_NOMEM, "out of memory");
    for (usize i = 0, end; i < x->n; i = end) {
        double best = -INFINITY, sure = -INFINITY;
        end = chunk_end(x, i);
        if (x->guess[i] == -INFINITY) continue;
        for (usize k = i; k < end; k++) {
            double lower = x->guess[k] - (q->length * x->grain[k].miss + q->off);
            if (x->guess[k] > best) best = x->guess[k];
            if (lower > sure) sure = lower;
        }
        if (!isfinite(best)) {
            mem_free(heap);
            return segment_damaged(&x->file, "a vector is not finite");
        }
        passed++, sum += best, low = best < low ? best : low;
        if (most) offer(heap, &held, most, sure);
    }
    *reached = held && held == most ? heap[0] : -INFINITY;
    if (least) *least = passed ? (float)low : 0;
    if (mean) *mean = passed ? (float)(sum / (double)passed) : 0;
    mem_free(heap);
    return OK;
}

/* ---- the second reading ------------------------------------------------------------------------------------------- */
typedef struct {
    i64 chunk;
    double score;
} scored;

static int by_score(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score ? 1 : -1) : x->chunk < y->chunk ? -1 : x->chunk > y->chunk;
}

static err exact(vector_index *x, const float *query, usize i, double *out)
{
    segment *s = &x->file;
    usize bytes = (usize)x->dim * sizeof(float);
    if (!segment_good(s, s->has.part[PART_FLOAT].at + i * bytes, bytes)) return segment_damaged(s, "its vectors are damaged");
    *out = dot(query, x->v + i * (usize)x->dim, x->dim);
    return isfinite(*out) ? OK : segment_damaged(s, "a vector is not finite");
}

static err rescore(vector_index *x, const probe *q, const float *query, double reached, scored **list, usize *n)
{
    usize cap = 0;
    for (usize i = 0; i < x->n; i++) {
        double score;
        if (x->guess[i] == -INFINITY || x->guess[i] + (q->length * x->grain[i].miss + q->off) < reached) continue;
        TRY(exact(x, query, i, &score));
        scored one = {x->chunk[i], score};
        if (*n && (*list)[*n - 1].chunk == one.chunk) {
            if (score > (*list)[*n - 1].score) (*list)[*n - 1].score = score;
        } else if (!VEC_PUSH(*list, *n, cap, one)) {
            return err_new(ERR_NOMEM, "out of memory");
        }
    }
    return OK;
}

static err check_tables(vector_index *x)
{
    segment *s = &x->file;
    const int parts[] = {PART_CHUNK, PART_DOCUMENT, PART_GRAIN};
    for (usize i = 0; i < COUNT_OF(parts); i++)
        if (!segment_good(s, s->has.part[parts[i]].at, s->has.part[parts[i]].n)) return segment_damaged(s, "a table is damaged");
    return OK;
}

err vector_search(vector_index *x, const float *query, const search_filter *filter, usize most, vector_hit **found, usize *n,
                  float *least, float *mean)
{
    probe q = {0};
    scored *list = NULL;
    usize n_list = 0;
    double reached = -INFINITY;
    err bad = OK;
    *found = NULL, *n = 0;
    if (least) *least = 0;
    if (mean) *mean = 0;
    TRY(check_unit(query, x->dim, "the query's vector"));
    TRY(check_tables(x));
    TRY_TO(done, probe_make(&q, query, x->dim));
    TRY_TO(done, scan_all(x, &q, filter));
    TRY_TO(done, survey(x, &q, most, &reached, least, mean));
    if (most) TRY_TO(done, rescore(x, &q, query, reached, &list, &n_list));
    if (!n_list) goto done;
    qsort(list, n_list, sizeof *list, by_score);
    if (most > n_list) most = n_list;
    vector_hit *h = mem_array(vector_hit, most);
    if (!h) TRY_TO(done, err_new(ERR_NOMEM, "out of memory"));
    for (usize i = 0; i < most; i++) h[i] = (vector_hit){list[i].chunk, (float)list[i].score};
    *found = h, *n = most;
done:
    mem_free(q.p);
    mem_free(list);
    return bad;
}

err vector_cosine(vector_index *x, const float *query, const i64 *chunks, usize n, float *out)
{
    TRY(check_unit(query, x->dim, "the query's vector"));
    TRY(check_tables(x));
    for (usize i = 0; i < n; i++) {
        usize low = 0, high = x->n;
        while (low < high) {
            usize middle = low + (high - low) / 2;
            if (x->chunk[middle] < chunks[i])
                low = middle + 1;
            else
                high = middle;
        }
        double best = -1, score;
        for (; low < x->n && x->chunk[low] == chunks[i]; low++) {
            TRY(exact(x, query, low, &score));
            if (score > best) best = score;
        }
        out[i] = (float)best;
    }
    return OK;
}
