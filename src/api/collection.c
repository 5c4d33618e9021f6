/* api/collection.c - collections behind the public C API. Results are the floor's own, kept whole, with plain structures that
 * point into them: nothing is copied, one free gives back all. */
#include "api/api.h"

int maru_collection_open(maru_collection **out, const char *name, int write, maru_engine *embedder, maru_error *error)
{
    NEED(out);
    *out = NULL;
    NEED(name);
    maru_collection *c = mem_zero(sizeof *c);
    err              bad = c ? OK : err_new(ERR_NOMEM, "out of memory for a collection");
    if (!bad.code && embedder && !engine_model(embedder->e)->arch->encoder) bad = err_new(ERR_INPUT, "%s is not an embedding model", embedder->name);
    if (!bad.code) bad = collection_open(&c->c, name, write ? COLLECTION_WRITE : COLLECTION_READ);
    if (bad.code) {
        mem_free(c);
        return api_give(error, bad);
    }
    c->embedder = embedder;
    *out = c;
    return api_give(error, OK);
}

void maru_collection_close(maru_collection *c)
{
    if (!c) return;
    collection_close(c->c);
    mem_free(c);
}

void maru_collection_cancel(maru_collection *c)
{
    if (c) atomic_store(&c->cancel, true);
}

/* ---- adding and removing ---- */

static err failures(const add_result *r, char **out)
{
    buf b = {0};
    for (usize i = 0; i < r->n_failed; i++) buf_fmt(&b, "%s: %s\n", r->failed[i].path, r->failed[i].reason);
    err bad = buf_error(&b);
    *out = !bad.code && b.n ? buf_take(&b) : NULL;
    buf_free(&b);
    return bad;
}

static err add_paths(maru_collection *c, const char *const *paths, usize n, maru_added *out)
{
    char      *name = NULL;
    add_result r = {0};
    add_opts   o = {.quiet = true, .cancel = &c->cancel, .embedder = c->embedder ? c->embedder->e : NULL};
    if (c->embedder) TRY(collection_meta_get(c->c, "embedder", &name)); /* known under another name or path: the same file is the same */
    o.embedder_name = name ? name : c->embedder ? c->embedder->name : NULL;
    err bad = collection_add(c->c, paths, n, &o, &r);
    if (!bad.code && out) {
        *out = (maru_added){.added = r.added, .updated = r.updated, .unchanged = r.unchanged, .removed = r.removed, .chunks = r.chunks, .failed = (i64)r.n_failed};
        bad = failures(&r, &out->failures);
    }
    add_result_free(&r);
    mem_free(name);
    return bad;
}

int maru_collection_add(maru_collection *c, const char *const *paths, size_t n, maru_added *out, maru_error *error)
{
    if (out) *out = (maru_added){0};
    NEED(c);
    if (n) NEED(paths);
    for (usize i = 0; i < n; i++) NEED(paths[i]);
    atomic_store(&c->cancel, false);
    return api_give(error, add_paths(c, paths, n, out));
}

int maru_collection_remove(maru_collection *c, const char *const *list, size_t n, int64_t *removed, maru_error *error)
{
    i64 gone = 0;
    if (removed) *removed = 0;
    NEED(c);
    if (n) NEED(list);
    for (usize i = 0; i < n; i++) NEED(list[i]);
    err bad = n ? collection_remove(c->c, list, n, &gone) : OK;
    if (removed) *removed = gone;
    return api_give(error, bad);
}

/* ---- searching ---- */

typedef struct {
    maru_hits pub;                          /* first: what the caller holds */
    hits      h;
    maru_hit *list;
} found;

static maru_hit *hits_plain(const hits *h) /* owned; NULL: out of memory */
{
    maru_hit *list = mem_array(maru_hit, h->n + 1);
    for (usize i = 0; list && i < h->n; i++) {
        const hit *x = &h->h[i];
        list[i] = (maru_hit){.document = x->document, .title = x->title, .text = x->text, .start = x->start, .end = x->end, .page = x->page, .line = x->line, .score = x->score, .coverage = x->coverage};
    }
    return list;
}

static search_opts search_of(const maru_collection *c, int k) { return (search_opts){.k = k, .embedder = c->embedder ? c->embedder->e : NULL}; }

int maru_collection_search(maru_collection *c, const char *query, int k, maru_hits **out, maru_error *error)
{
    NEED(out);
    *out = NULL;
    NEED(c);
    NEED(query);
    if (k < 0 || k > 10000) return api_give(error, err_new(ERR_INPUT, "%d hits asked for, expected 0 (10) to 10000", k));
    search_opts o = search_of(c, k);
    found      *f = mem_zero(sizeof *f);
    err         bad = f ? collection_search(c->c, query, &o, &f->h) : err_new(ERR_NOMEM, "out of memory for hits");
    if (!bad.code && !(f->list = hits_plain(&f->h))) bad = err_new(ERR_NOMEM, "out of memory for hits");
    if (bad.code) {
        if (f) maru_hits_free(&f->pub);
        return api_give(error, bad);
    }
    f->pub = (maru_hits){f->list, f->h.n};
    *out = &f->pub;
    return api_give(error, OK);
}

void maru_hits_free(maru_hits *h)
{
    found *f = (found *)h;
    if (!f) return;
    hits_free(&f->h);
    mem_free(f->list);
    mem_free(f);
}

/* ---- asking ---- */

typedef struct {
    maru_answer    pub;                     /* first: what the caller holds */
    answer         a;
    maru_hit      *hits;
    maru_sentence *sentences;
    maru_citation *citations;               /* of all sentences, one after another */
} answered;

static err plain(answered *x)
{
    usize n = 0;
    answer *a = &x->a;
    for (usize i = 0; i < a->n_s; i++) n += a->s[i].n;
    x->hits = hits_plain(&a->passages);
    x->sentences = mem_array(maru_sentence, a->n_s + 1);
    x->citations = mem_array(maru_citation, n + 1);
    if (!x->hits || !x->sentences || !x->citations) return err_new(ERR_NOMEM, "out of memory for an answer");
    n = 0;
    for (usize i = 0; i < a->n_s; i++) {
        const answer_sentence *s = &a->s[i];
        x->sentences[i] = (maru_sentence){.text = s->text, .verified = s->verified, .citation = x->citations + n, .n_citations = s->n};
        for (usize k = 0; k < s->n; k++) {
            const citation *q = &s->c[k];
            x->citations[n++] = (maru_citation){.document = a->passages.h[q->passage].document, .quote = q->quote, .start = q->start, .end = q->end, .page = q->where.page, .line = q->where.line};
        }
    }
    x->pub = (maru_answer){.text = a->text, .refused = a->refused, .reason = a->reason, .generated = a->generated, .answerable = a->generated ? a->answerable_after : a->answerable,
                           .threshold = (float)(a->generated ? a->threshold_after : a->threshold), .sentence = x->sentences, .n_sentences = a->n_s, .passages = {x->hits, a->passages.n}};
    return OK;
}

static err stream(void *ctx, str text)
{
    const maru_ask_options *o = ctx;
    buf                     b = {0};
    buf_str(&b, text);
    err bad = buf_error(&b);
    if (!bad.code && o->text(o->context, buf_cstr(&b), text.n)) bad = err_new(ERR_CANCELLED, "stopped by the caller");
    buf_free(&b);
    return bad;
}

static err options_of(const maru_collection *c, maru_engine *model_of, const maru_ask_options *o, ask_opts *out)
{
    static const maru_ask_options none;
    if (!o) o = &none;
    if (o->max_tokens < 0 || o->passages < 0 || o->passages > 1000) return err_new(ERR_INPUT, "max_tokens %lld, passages %d: expected 0 or more, at most 1000 passages", (long long)o->max_tokens, o->passages);
    if (!(o->threshold >= 0 && o->threshold <= 1)) return err_new(ERR_INPUT, "threshold %g, expected 0 to 1", o->threshold);
    if (model_of && engine_model(model_of->e)->arch->encoder) return err_new(ERR_INPUT, "%s is an embedding model: it cannot write an answer", model_of->name);
    *out = (ask_opts){.model = model_of ? model_of->e : NULL, .search = search_of(c, 0), .passages = o->passages, .max_tokens = o->max_tokens, .threshold = o->threshold, .threshold_given = o->threshold > 0,
                      .always_answer = o->always_answer, .stream = o->text ? stream : NULL, .ctx = (void *)(uintptr_t)o, .cancel = &c->cancel};
    return OK;
}

int maru_collection_ask(maru_collection *c, const char *question, maru_engine *model_of, const maru_ask_options *o, maru_answer **out, maru_error *error)
{
    ask_opts a;
    NEED(out);
    *out = NULL;
    NEED(c);
    NEED(question);
    atomic_store(&c->cancel, false);
    answered *x = mem_zero(sizeof *x);
    err       bad = x ? options_of(c, model_of, o, &a) : err_new(ERR_NOMEM, "out of memory for an answer");
    if (!bad.code) bad = collection_ask(c->c, question, &a, &x->a);
    if (!bad.code) bad = plain(x);
    if (bad.code) {
        if (x) maru_answer_free(&x->pub);
        return api_give(error, bad);
    }
    *out = &x->pub;
    return api_give(error, OK);
}

void maru_answer_free(maru_answer *a)
{
    answered *x = (answered *)a;
    if (!x) return;
    answer_free(&x->a);
    mem_free(x->hits);
    mem_free(x->sentences);
    mem_free(x->citations);
    mem_free(x);
}
