/* rag/retrieve.c - a question against a collection: keywords, vectors, both blended, and the hits filled in.
 *
 * Blend: w x keyword score over its best + (1 - w) x cosine stretched to 0..1 between the least and the best of this question
 * over the whole collection, because cosines crowd into a narrow band that is another one for each question. The candidates
 * are all chunks with a keyword score and the nearest by vector; no other chunk can be among the first k. Reciprocal ranks
 * only by name: where one half is weaker they make the whole worse than the better half. Filters work inside both searches, so
 * k hits come whenever there are k. Index, store and texts are read in one transaction. */
#include "rag/store.h"
#include "text/text.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

enum { K_DEFAULT = 10, RRF_K = 60, RRF_DEPTH = 100, MOST_KEYWORD = 50000, K_MOST = 1000000 };

/* ---- filters ------------------------------------------------------------------------------------------------------------ */
static bool same_str(const char *a, const char *b) { return a == b || (a && b && !strcmp(a, b)); }

static bool attributes_match(str text, json_t *want)
{
    json_t *have = json_loadb(text.p, text.n, 0, NULL), *value;
    const char *key;
    bool all = true;
    json_object_foreach(want, key, value)
    {
        json_t *is = json_object_get(have, key);
        bool numbers = json_is_number(is) && json_is_number(value); /* 3 is 3.0 */
        if (numbers ? json_number_value(is) != json_number_value(value) : !json_equal(is, value)) all = false;
    }
    json_decref(have);
    return all;
}

static err mask_fill(collection *c, search_mask *m, const char *owner, json_t *want)
{
    sqlite3_stmt *q;
    bool row = true;
    TRY(store_query(c, Q_DOCUMENT_KEYS, &q, ""));
    err bad = OK;
    while (!bad.code) {
        bad = store_step(c, q, &row);
        if (bad.code || !row) break;
        i64 key = sqlite3_column_int64(q, 0);
        usize cap = (usize)m->n_bits / 8, bytes = (usize)key / 8 + 1;
        if (bytes > cap && !vec_grow((void **)&m->bits, &cap, bytes, 1)) bad = err_new(ERR_NOMEM, "no memory for a filter");
        if (bad.code) break;
        m->n_bits = (i64)cap * 8;
        bool pass = !owner || str_eq(store_text(q, 1), str_of(owner));
        if (pass && want) pass = attributes_match(store_text(q, 2), want);
        if (pass) m->bits[key / 8] |= (u8)(1 << (key % 8));
    }
    store_done(q);
    return bad;
}

static err mask_make(collection *c, search_mask *m, const search_opts *o)
{
    json_error_t why;
    json_t *want = o->filter ? json_loads(o->filter, 0, &why) : NULL;
    if (o->filter && !json_is_object(want)) {
        json_decref(want);
        return err_new(ERR_INPUT, "the filter must be a JSON object of attributes, found %.100s", o->filter);
    }
    err bad = mask_fill(c, m, o->owner, want);
    json_decref(want);
    if (bad.code) return bad;
    if (o->owner && !(m->owner = mem_strdup(o->owner))) return err_new(ERR_NOMEM, "no memory for a filter");
    if (o->filter && !(m->filter = mem_strdup(o->filter))) return err_new(ERR_NOMEM, "no memory for a filter");
    m->made = true;
    return OK;
}

static bool mask_keep(void *ctx, i64 chunk, i64 of)
{
    const search_mask *m = ctx;
    (void)chunk;
    return of >= 0 && of < m->n_bits && m->bits[of / 8] >> (of % 8) & 1;
}

/* The mask of the last question is kept: the same person asks again. */
static err filter_of(collection *c, const search_opts *o, search_filter *f)
{
    u64 generation;
    search_mask *m = &c->mask;
    *f = (search_filter){0};
    if (!o->owner && !o->filter) return OK;
    TRY(store_state(c, &generation, NULL));
    if (!m->made || m->generation != generation || !same_str(m->owner, o->owner) || !same_str(m->filter, o->filter)) {
        mem_free(m->owner);
        mem_free(m->filter);
        mem_free(m->bits);
        *m = (search_mask){.generation = generation};
        TRY(mask_make(c, m, o));
    }
    *f = (search_filter){mask_keep, m};
    return OK;
}

/* ---- candidates --------------------------------------------------------------------------------------------------------- */
typedef struct {
    i64 chunk;
    float score, keyword, coverage, cosine;
    bool by_keyword, by_vector;
} found;
typedef struct {
    collection *c;
    const search_opts *o;
    str query;     /* NFC */
    float *vector; /* of the query; NULL: keywords only */
    bool keywords, dense;
    usize k;
    search_filter filter;
    keyword_hit *kw;
    usize n_kw;
    vector_hit *near;
    usize n_near;
    float least, mean, best; /* cosines over all that pass */
    found *f;
    usize n;
} searching;

static int by_chunk(const void *a, const void *b)
{
    const found *x = a, *y = b;
    return x->chunk < y->chunk ? -1 : x->chunk > y->chunk;
}

static int by_score(const void *a, const void *b)
{
    const found *x = a, *y = b;
    return x->score != y->score ? (x->score > y->score ? -1 : 1) : x->chunk < y->chunk ? -1 : x->chunk > y->chunk;
}

static err run_halves(searching *s)
{
    usize depth = s->k > RRF_DEPTH ? s->k : RRF_DEPTH;
    bool both = s->keywords && s->dense;
    if (s->keywords)
        TRY(keyword_search(s->c->keyword, s->query, &s->filter,
                           !both       ? s->k
                           : s->o->rrf ? depth
                                       : MOST_KEYWORD,
                           &s->kw, &s->n_kw));
    if (s->dense && s->c->vectors)
        TRY(vector_search(s->c->vectors, s->vector, &s->filter, both && s->o->rrf ? depth : s->k, &s->near, &s->n_near, &s->least,
                          &s->mean));
    if (s->n_near) s->best = s->near[0].cosine;
    return OK;
}

/* One list of both, each chunk once, with both parts. */
static err join_halves(searching *s)
{
    usize n = s->n_kw;
    s->f = mem_array(found, s->n_kw + s->n_near + 1);
    if (!s->f) return err_new(ERR_NOMEM, "no memory for a search");
    for (usize i = 0; i < n; i++)
        s->f[i] = (found){.chunk = s->kw[i].chunk, .keyword = s->kw[i].score, .coverage = s->kw[i].coverage, .by_keyword = true};
    if (n > 1) qsort(s->f, n, sizeof *s->f, by_chunk);
    s->n = n;
    for (usize i = 0; i < s->n_near; i++) {
        found key = {.chunk = s->near[i].chunk}, *is = n ? bsearch(&key, s->f, n, sizeof key, by_chunk) : NULL;
        if (!is) {
            is = &s->f[s->n++];
            *is = key;
        }
        is->cosine = s->near[i].cosine;
        is->by_vector = true;
    }
    return OK;
}

/* chunks that only the keywords found get their cosines */
static err cosines(searching *s)
{
    usize n = 0;
    if (!s->dense || !s->c->vectors || !s->n_kw) return OK;
    i64 *chunk = mem_array(i64, s->n);
    float *cosine = mem_array(float, s->n);
    err bad = chunk && cosine ? OK : err_new(ERR_NOMEM, "no memory for a search");
    for (usize i = 0; i < s->n && !bad.code; i++)
        if (!s->f[i].by_vector) chunk[n++] = s->f[i].chunk;
    if (!bad.code) bad = vector_cosine(s->c->vectors, s->vector, chunk, n, cosine);
    n = 0;
    for (usize i = 0; i < s->n && !bad.code; i++)
        if (!s->f[i].by_vector) s->f[i].cosine = cosine[n++];
    mem_free(chunk);
    mem_free(cosine);
    return bad;
}

static float stretched(const searching *s, float cosine)
{
    float width = s->best - s->least, x = width > 1e-6f ? (cosine - s->least) / width : cosine >= s->best;
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

static void fuse(searching *s)
{
    float w = s->o->weight > 0 ? s->o->weight : 0.5f, best = s->n_kw ? s->kw[0].score : 0;
    for (usize i = 0; i < s->n; i++) {
        found *f = &s->f[i];
        if (!s->dense)
            f->score = f->keyword;
        else if (!s->keywords)
            f->score = f->cosine;
        else
            f->score = (best > 0 ? w * f->keyword / best : 0) + (1 - w) * stretched(s, f->cosine);
    }
}

static void fuse_ranks(searching *s)
{
    for (usize i = 0; i < s->n; i++) s->f[i].score = 0;
    qsort(s->f, s->n, sizeof *s->f, by_chunk);
    for (usize i = 0; i < s->n_kw + s->n_near; i++) {
        bool kw = i < s->n_kw;
        usize rank = kw ? i : i - s->n_kw;
        found key = {.chunk = kw ? s->kw[rank].chunk : s->near[rank].chunk},
              *is = bsearch(&key, s->f, s->n, sizeof key, by_chunk);
        if (is) is->score += 1 / (float)(RRF_K + rank + 1);
    }
}

static err find(searching *s)
{
    TRY(filter_of(s->c, s->o, &s->filter));
    TRY(run_halves(s));
    TRY(join_halves(s));
    TRY(cosines(s));
    if (s->keywords && s->dense && s->o->rrf)
        fuse_ranks(s);
    else
        fuse(s);
    if (s->n > 1) qsort(s->f, s->n, sizeof *s->f, by_score);
    return OK;
}

/* ---- hits --------------------------------------------------------------------------------------------------------------- */
static void hit_clear(hit *h)
{
    mem_free(h->document);
    mem_free(h->title);
    mem_free(h->text);
    *h = (hit){0};
}

void hits_free(hits *h)
{
    if (!h) return;
    for (usize i = 0; i < h->n; i++) hit_clear(&h->h[i]);
    mem_free(h->h);
    *h = (hits){0};
}

/* bytes [from,to) of a document's text, without reading all of it */
static err read_text(collection *c, i64 of, i64 from, i64 to, char **out)
{
    sqlite3_blob *b = NULL;
    *out = NULL;
    int rc = sqlite3_blob_open(c->db, "main", "body", "text", of, 0, &b);
    if (rc == SQLITE_OK && (from < 0 || to < from || to > sqlite3_blob_bytes(b))) rc = SQLITE_CORRUPT;
    char *text = rc == SQLITE_OK ? mem_alloc((usize)(to - from) + 1) : NULL;
    if (rc == SQLITE_OK && !text) rc = SQLITE_NOMEM;
    if (rc == SQLITE_OK) rc = sqlite3_blob_read(b, text, (int)(to - from), (int)from);
    sqlite3_blob_close(b);
    if (rc == SQLITE_OK) {
        text[to - from] = 0;
        *out = text;
        return OK;
    }
    mem_free(text);
    if (rc == SQLITE_NOMEM) return err_new(ERR_NOMEM, "no memory for a hit");
    return err_new(ERR_FORMAT, "%s/store.db: text of document %lld, bytes %lld to %lld: %s", c->folder, (long long)of,
                   (long long)from, (long long)to, sqlite3_errstr(rc));
}

static err cover(searching *s, str context, hit *h)
{
    buf b = {0};
    buf_str(&b, context);
    buf_byte(&b, '\n');
    buf_puts(&b, h->text);
    h->coverage = keyword_coverage(s->c->keyword, s->query, buf_view(&b));
    err bad = buf_error(&b);
    buf_free(&b);
    return bad;
}

static err fill(searching *s, const found *f, hit *h, bool *there)
{
    sqlite3_stmt *q;
    *h = (hit){.score = f->score, .coverage = f->coverage, .keyword = f->keyword, .cosine = f->cosine, .chunk = f->chunk};
    TRY(store_query(s->c, Q_CHUNK_GET, &q, "i", f->chunk));
    TRY(store_step(s->c, q, there));
    if (!*there) return OK;
    h->start = (u32)sqlite3_column_int64(q, 1), h->end = (u32)sqlite3_column_int64(q, 2);
    h->page = (u32)sqlite3_column_int64(q, 5), h->line = (u32)sqlite3_column_int64(q, 6);
    err bad = read_text(s->c, sqlite3_column_int64(q, 0), sqlite3_column_int64(q, 3), sqlite3_column_int64(q, 4), &h->text);
    if (!bad.code) bad = store_copy(q, 8, &h->document);
    if (!bad.code) bad = store_copy(q, 9, &h->title);
    if (!bad.code && !h->title && !(h->title = mem_strdup(""))) bad = err_new(ERR_NOMEM, "no memory for a hit");
    if (!bad.code && !f->by_keyword) bad = cover(s, store_text(q, 7), h);
    store_done(q);
    if (bad.code) hit_clear(h);
    return bad;
}

static err fill_all(searching *s, hits *out)
{
    usize most = s->k < s->n ? s->k : s->n;
    out->top_keyword = s->n_kw ? s->kw[0].score : 0;
    out->top_cosine = s->best;
    out->mean_cosine = s->mean;
    out->h = mem_array(hit, most + 1);
    if (!out->h) return err_new(ERR_NOMEM, "no memory for hits");
    for (usize i = 0; i < s->n && out->n < most; i++) {
        bool there;
        hit *h = &out->h[out->n];
        TRY(fill(s, &s->f[i], h, &there));
        if (!there) continue;
        h->rank = (int)++out->n;
    }
    return OK;
}

/* ---- the call ----------------------------------------------------------------------------------------------------------- */
static err choose_halves(searching *s)
{
    const search_opts *o = s->o;
    bool has = o->embedder != NULL;
    s->keywords = o->mode != SEARCH_DENSE;
    s->dense = o->mode == SEARCH_DENSE || o->mode == SEARCH_HYBRID || (o->mode == SEARCH_AUTO && has);
    if (!(o->weight >= 0 && o->weight < 1))
        return err_new(ERR_INPUT, "a weight of keywords of %g; it must lie between 0 and 1", (double)o->weight);
    if (o->k < 0 || o->k > K_MOST) return err_new(ERR_INPUT, "%d hits; at most %d are given", o->k, K_MOST);
    if (s->dense && !has) return err_new(ERR_INPUT, "collection %s: searching by meaning needs its embedder", s->c->name);
    s->k = o->k ? (usize)o->k : K_DEFAULT;
    return OK;
}

/* Is the embedder the one of the collection? By dimension and by the id of its file. */
static err check_embedder(searching *s)
{
    char *name = NULL, *id = NULL, *dim = NULL, mine[65];
    const model *m = engine_model(s->o->embedder);
    i64 n = 0;
    sha256_hex(m->id, mine);
    err bad = collection_meta_get(s->c, "embedder", &name);
    if (!bad.code) bad = collection_meta_get(s->c, "embedder_id", &id);
    if (!bad.code) bad = collection_meta_get(s->c, "dim", &dim);
    if (!bad.code && !name && s->o->mode == SEARCH_AUTO)
        s->dense = false;
    else if (!bad.code && !name)
        bad = err_new(ERR_INPUT, "collection %s has no vectors: it was begun without an embedder", s->c->name);
    else if (!bad.code && (!id || strcmp(id, mine) || !str_i64(str_of(dim), &n) || n != engine_dim(s->o->embedder)))
        bad = err_new(ERR_INPUT, "collection %s was begun with the embedder %s (%.8s), now %s (%.8s) is given", s->c->name, name,
                      id ? id : "?", m->path, mine);
    mem_free(name);
    mem_free(id);
    mem_free(dim);
    return bad;
}

/* A question without terms finds nothing, though the nearest vectors would always be something; by meaning alone one letter will
 * do. */
static err says_something(const searching *s, bool *yes)
{
    terms t = {0};
    *yes = false;
    if (s->keywords) {
        err bad = terms_of(s->query, true, &t);
        *yes = t.n > 0;
        terms_free(&t);
        return bad;
    }
    for (usize at = 0; at < s->query.n && !*yes;) {
        u32 c = utf8_next(s->query, &at);
        *yes = text_is_letter(c) || text_is_digit(c);
    }
    return OK;
}

static err embed_query(searching *s)
{
    s->vector = mem_array(float, engine_dim(s->o->embedder));
    if (!s->vector) return err_new(ERR_NOMEM, "no memory for a search");
    return engine_embed(s->o->embedder, &s->query, 1, EMBED_QUERY, WINDOW_MEAN, s->vector, NULL, NULL);
}

static err search(searching *s, hits *out)
{
    if (s->dense) TRY(check_embedder(s));
    if (s->dense) TRY(embed_query(s));
    TRY(store_begin_search(s->c, s->dense));
    err bad = find(s);
    if (!bad.code) bad = fill_all(s, out);
    return store_end(s->c, bad);
}

err collection_search(collection *c, const char *query, const search_opts *o, hits *out)
{
    searching s = {.c = c, .o = o};
    buf nfc = {0};
    bool something = false;
    *out = (hits){0};
    err bad = text_nfc(&nfc, str_of(query));
    s.query = buf_view(&nfc);
    if (!bad.code) bad = choose_halves(&s);
    if (!bad.code) bad = says_something(&s, &something);
    if (!bad.code && something) bad = search(&s, out);
    if (bad.code) hits_free(out);
    mem_free(s.vector);
    mem_free(s.kw);
    mem_free(s.near);
    mem_free(s.f);
    buf_free(&nfc);
    return bad;
}
