/* rag/calibrate.c - the threshold below which a collection's questions are refused.
 *
 * A threshold carries over badly from one collection to another (RETRIEVAL 4), so it is set on the user's own: on questions
 * marked answerable or not, or on questions made from the collection. A made question takes the rarest words of one sentence
 * and some words from elsewhere, as people say more than the text does; it is asked as it is, with the sentence's passage
 * hidden (hard: the rest of its document stays) and with its document hidden (easy). The threshold is the least that refuses
 * the share wanted of what cannot be answered; how much it keeps of the rest is reported with it.
 *
 * Not here: fitting of weights. They are the same everywhere. */
#include "rag/answer.h"
#include "eval/eval.h"
#include <math.h>
#include <stdlib.h>

enum {
    SAMPLES = 200,
    SAMPLES_WITH_MODEL = 12,
    OWN_WORDS = 5,
    OTHER_WORDS = 2,
    REACH = 300,
    SEED = 20240229,
    TRIES = 20,
    LEAST = 4
};

static const err no_memory = {ERR_NOMEM, "out of memory"};

typedef struct {
    double *yes, *no; /* scores of answerable and unanswerable questions */
    usize n_yes, n_no, cap_yes, cap_no;
} scores;

static void scores_free(scores *s)
{
    mem_free(s->yes);
    mem_free(s->no);
}

static err score(collection *c, const char *question, const ask_opts *o, const hidden *x, bool answerable, scores *s)
{
    answer a = {0};
    ask_opts always = *o;
    always.always_answer = true;
    always.stream = NULL;
    TRY(answer_ask(c, question, &always, x, &a));
    double v = (double)(o->model ? a.answerable_after : a.answerable);
    answer_free(&a);
    if (o->cancel && atomic_load(o->cancel)) return err_new(ERR_CANCELLED, "interrupted");
    if (!answerable) return VEC_PUSH(s->no, s->n_no, s->cap_no, v) ? OK : no_memory;
    return VEC_PUSH(s->yes, s->n_yes, s->cap_yes, v) ? OK : no_memory;
}

/* ---- questions from the collection
 * -------------------------------------------------------------------------------------------------- */
typedef struct {
    str text;
    float rare;
} rare_word;

static int by_rarity(const void *x, const void *y)
{
    const rare_word *a = x, *b = y;
    return a->rare != b->rare ? (a->rare > b->rare ? -1 : 1) : (a->text.p > b->text.p) - (a->text.p < b->text.p);
}

static int by_place(const void *x, const void *y)
{
    const rare_word *a = x, *b = y;
    return (a->text.p > b->text.p) - (a->text.p < b->text.p);
}

/* the words of a text, each with the mean idf of its terms; words of one character and numbers are left out */
static err words_of(keyword_index *k, str s, rare_word **out, usize *n)
{
    usize cap = 0;
    for (usize at = 0; at < s.n;) {
        usize from = at, end = at;
        bool letter = false;
        while (at < s.n) {
            u32 c = utf8_next(s, &at);
            if (!text_is_letter(c) && !text_is_digit(c)) break;
            letter |= text_is_letter(c);
            end = at;
        }
        str w = {s.p + from, end - from};
        terms t = {0};
        float sum = 0;
        if (!letter || utf8_count(w) < 2) continue;
        TRY(terms_of(w, true, &t));
        usize m = 0;
        for (usize i = 0; i < t.n; i++)
            if (t.t[i].field == 0) sum += keyword_idf(k, t.t[i].hash), m++;
        terms_free(&t);
        if (m && !VEC_PUSH(*out, *n, cap, ((rare_word){w, sum / (float)m}))) return no_memory;
    }
    return OK;
}

static usize below(rng *r, usize n) { return (usize)(rng_unit(r) * (double)n); }

/* units around a random place, places weighted by length */
static err random_units(collection *c, const documents *d, rng *r, units *u, const document **from)
{
    i64 all = 0;
    for (usize i = 0; i < d->n; i++) all += d->d[i].chars;
    i64 at = (i64)(rng_unit(r) * (double)all);
    usize i = 0;
    while (i + 1 < d->n && at >= d->d[i].chars) at -= d->d[i++].chars;
    *from = &d->d[i];
    hit one = {.document = d->d[i].id, .start = (u32)i64_max(0, at - REACH), .end = (u32)i64_min(d->d[i].chars, at + REACH)};
    hits h = {.h = &one, .n = 1};
    return units_of(c, &h, 1, u);
}

static err add_words(keyword_index *k, str s, usize most, usize least, buf *out, usize *added)
{
    rare_word *w = NULL;
    usize n = 0;
    err bad = words_of(k, s, &w, &n);
    *added = 0;
    if (!bad.code && n >= least) {
        qsort(w, n, sizeof *w, by_rarity);
        if (n > most) n = most;
        qsort(w, n, sizeof *w, by_place);
        for (usize i = 0; i < n; i++) {
            if (out->n) buf_byte(out, ' ');
            buf_str(out, w[i].text);
        }
        *added = n;
    }
    mem_free(w);
    return bad;
}

/* *made: whether there was a sentence long enough */
static err make_question(collection *c, keyword_index *k, const documents *d, rng *r, buf *question, hidden *where, bool *made)
{
    *made = false;
    for (int t = 0; t < TRIES && !*made; t++) {
        units u = {0}, v = {0};
        const document *from, *other;
        usize n = 0;
        buf_reset(question);
        err bad = random_units(c, d, r, &u, &from);
        if (!bad.code && u.n) {
            const unit *x = &u.u[below(r, u.n)];
            bad = x->passage < 0 ? OK : add_words(k, x->text, OWN_WORDS, LEAST, question, &n);
            *where = (hidden){.document = from->id, .start = x->start, .end = x->end};
        }
        *made = n > 0;
        if (!bad.code && *made) bad = random_units(c, d, r, &v, &other);
        if (!bad.code && *made && v.n) bad = add_words(k, v.u[below(r, v.n)].text, OTHER_WORDS, 1, question, &n);
        units_free(&u);
        units_free(&v);
        TRY(bad);
    }
    return buf_error(question);
}

static err score_made(collection *c, const ask_opts *o, scores *s)
{
    documents d = {0};
    keyword_index *k;
    rng r;
    buf q = {0};
    progress bar;
    i64 n = o->model ? SAMPLES_WITH_MODEL : SAMPLES, i = 0;
    err bad = collection_documents(c, &d);
    if (!bad.code) bad = collection_keyword(c, &k);
    rng_seed(&r, SEED);
    progress_start(&bar, "calibrate", n);
    for (; i < n && !bad.code && d.n; i++) {
        hidden where;
        bool made;
        bad = make_question(c, k, &d, &r, &q, &where, &made);
        if (bad.code || !made) break;
        bad = score(c, buf_cstr(&q), o, NULL, true, s);
        where.all = d.n > 1 && (i & 1);
        if (!bad.code) bad = score(c, buf_cstr(&q), o, &where, false, s);
        progress_step(&bar, i + 1);
    }
    progress_end(&bar);
    buf_free(&q);
    documents_free(&d);
    return bad;
}

/* ---- the threshold
 * -------------------------------------------------------------------------------------------------------------------- */
static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* the least that refuses the share: between the last refused and the next score above it */
static double least_threshold(const scores *s, double share)
{
    usize k = (usize)ceil(share * (double)s->n_no);
    double last = k ? s->no[k - 1] : 0, next = 1;
    for (usize i = 0; i < s->n_no; i++)
        if (s->no[i] > last && s->no[i] < next) next = s->no[i];
    for (usize i = 0; i < s->n_yes; i++)
        if (s->yes[i] > last && s->yes[i] < next) next = s->yes[i];
    return (last + next) / 2;
}

static err put(collection *c, const char *key, double v)
{
    char s[32];
    snprintf(s, sizeof s, "%.6f", v);
    return collection_meta_put(c, key, s);
}

err collection_calibrate(collection *c, const calibration_question *q, usize n, const ask_opts *o, double refuse_share,
                         calibration *out)
{
    scores s = {0};
    err bad = OK;
    *out = (calibration){0};
    if (!(refuse_share > 0 && refuse_share < 1))
        return err_new(ERR_INPUT, "share to refuse %g: expected more than 0 and less than 1", refuse_share);
    for (usize i = 0; i < n && !bad.code; i++) bad = score(c, q[i].query, o, NULL, q[i].answerable, &s);
    if (!bad.code && !n) bad = score_made(c, o, &s);
    if (!bad.code && (!s.n_yes || !s.n_no))
        bad = err_new(ERR_INPUT, "%zu answerable and %zu unanswerable questions: both kinds are needed%s", s.n_yes, s.n_no,
                      n ? "" : " (the collection is too small to make them)");
    if (!bad.code) {
        out->auc = eval_auc(s.yes, s.n_yes, s.no, s.n_no);
        qsort(s.no, s.n_no, sizeof *s.no, by_value);
        out->threshold = least_threshold(&s, refuse_share);
        out->n = (i64)(s.n_yes + s.n_no);
        for (usize i = 0; i < s.n_no; i++) out->refused += s.no[i] < out->threshold;
        for (usize i = 0; i < s.n_yes; i++) out->kept += s.yes[i] >= out->threshold;
        out->refused /= (double)s.n_no;
        out->kept /= (double)s.n_yes;
        bad = put(c, o->model ? META_THRESHOLD_AFTER : META_THRESHOLD, out->threshold);
    }
    scores_free(&s);
    return bad;
}
