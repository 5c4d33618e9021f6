/* rag/cite.c - which exact span of the passages supports a sentence of an answer.
 *
 * Candidates are units (sentences, items, rows) and two adjacent ones, so a citation is never a vague paragraph. A span must
 * hold the sentence's figures, names and codes; among those that do, shared words decide, weighted by how rare they are in the
 * collection. Words of the question are given rather than claimed: they help to choose a span and are not held against one.
 * When one span lacks something, a second may add it (a row and its column names, two sentences). What is then still missing
 * makes the sentence unverified, and an unverified sentence has no citation.
 *
 * Not here: meaning. A sentence that uses the span's words and figures and denies them is verified. */
#include "rag/answer.h"
#include <stdlib.h>

/* Shares of a sentence's own words, by idf, that its spans must carry: less is asked when a figure or a code was found, since a
 * paraphrase may share nothing else with its source. */
static const float LEAST_WITH_FACT = 0.25f, LEAST_WORDS = 0.5f, LEAST_QUESTION = 0.5f, AROUND = 0.6f, IN_PLACE = 0.75f;
enum { SPANS = 2 };

typedef struct {
    const citer *k;
    str sentence;
    term_set figures;      /* those words that are digits */
    term_set words, asked; /* of the sentence without grammar; of the question */
    claims must, asked_facts;
    float *idf;       /* [words.n] */
    bool *known;      /* [words.n] a unit has it */
    float *asked_idf; /* [asked.n] */
    arena *mem;
} job;
typedef struct {
    i32 first, last;           /* units */
    usize facts;               /* claims that it holds */
    float words, asked, score; /* shares */
} span;

static const err no_memory = {ERR_NOMEM, "out of memory"};

/* ---- the sentence
 * ------------------------------------------------------------------------------------------------------------------ */
/* Words that carry no content in an answer, whatever it is about. */
static bool is_grammar(str w)
{
    static const char *const words[] = {"네",     "예",   "아니요", "아니오", "수",   "것",   "등",     "및",  "또는",
                                        "그리고", "다만", "따라",   "위해",   "대한", "관한", "경우",   "때",  "이는",
                                        "해당",   "있",   "없",     "하",     "되",   "yes",  "no",     "you", "your",
                                        "we",     "our",  "i",      "can",    "will", "must", "should", "may", "have",
                                        "has",    "do",   "does",   "been",   "from", "when", "which",  "any", "also"};
    for (usize i = 0; i < COUNT_OF(words); i++)
        if (str_eq(w, str_of(words[i]))) return true;
    return false;
}

/* 30일까지 -> 30: measures are compared as claims */
static str bare_number(str w)
{
    if (!w.n || w.p[0] < '0' || w.p[0] > '9') return w;
    for (usize at = 0; at < w.n;) {
        usize from = at;
        if (text_is_hangul(utf8_next(w, &at))) return (str){w.p, from};
    }
    return w;
}

/* without polite endings: 받습니다 -> 받, 가능해요 -> 가능 */
static str stem_polite(str w)
{
    static const struct {
        const char *end;
        usize cut;
    } ends[] = {{"니다", 9}, {"이에요", 9}, {"예요", 6}, {"해요", 6}, {"어요", 6}, {"아요", 6}, {"세요", 6}, {"시오", 9}};
    for (usize i = 0; i < COUNT_OF(ends); i++)
        if (str_ends(w, str_of(ends[i].end))) return (str){w.p, w.n > ends[i].cut ? w.n - ends[i].cut : 0};
    return w;
}

static err plain_words(str s, buf *out)
{
    for (usize at = 0; at < s.n;) {
        usize from = at, end = at;
        while (at < s.n) {
            u32 c = utf8_next(s, &at);
            if (text_is_space(c)) break;
            if (text_is_letter(c) || text_is_digit(c)) end = at;
        }
        buf low = {0};
        str w = {s.p + from, end - from};
        TRY(text_lower(&low, w));
        str bare = bare_number(stem_polite(buf_view(&low)));
        if (bare.n && !is_grammar(bare)) {
            buf_str(out, bare);
            buf_byte(out, ' ');
        }
        buf_free(&low);
    }
    return buf_error(out);
}

/* behind "1. ", "- ", "① " at its beginning and without "[2]" */
static err bare_sentence(str s, buf *out)
{
    s = str_trim(s);
    usize at = 0, n = 0;
    while (at < s.n && s.p[at] >= '0' && s.p[at] <= '9') at++;
    if (at && at <= 2 && at + 1 < s.n && (s.p[at] == '.' || s.p[at] == ')') && s.p[at + 1] == ' ')
        s.p += at + 2, s.n -= at + 2;
    else if (s.n > 1 && strchr("-*", s.p[0]) && s.p[1] == ' ')
        s.p += 2, s.n -= 2;
    for (at = 0; at < s.n; at++) {
        if (s.p[at] == '[') {
            for (n = at + 1; n < s.n && s.p[n] >= '0' && s.p[n] <= '9';) n++;
            if (n > at + 1 && n < s.n && s.p[n] == ']') {
                at = n;
                continue;
            }
        }
        buf_byte(out, s.p[at]);
    }
    return buf_error(out);
}

static err job_idf(job *j, const term_set *t, float **out)
{
    *out = arena_take(j->mem, (t->n + 1) * sizeof(float));
    if (!*out) return no_memory;
    for (usize i = 0; i < t->n; i++) (*out)[i] = keyword_idf(j->k->k, t->h[i]);
    return OK;
}

static err job_begin(job *j, const citer *k, str sentence)
{
    buf bare = {0}, words = {0}, digits = {0};
    *j = (job){.k = k, .sentence = sentence, .mem = arena_new()};
    if (!j->mem) return no_memory;
    str q = str_of(k->question);
    err bad = bare_sentence(sentence, &bare);
    if (!bad.code) bad = plain_words(buf_view(&bare), &words);
    for (usize i = 0; i < words.n; i++) buf_byte(&digits, strchr("0123456789,", words.p[i]) ? words.p[i] : ' ');
    if (!bad.code) bad = buf_error(&digits);
    if (!bad.code) bad = term_set_of(j->mem, buf_view(&words), false, &j->words);
    if (!bad.code) bad = term_set_of(j->mem, q, true, &j->asked);
    if (!bad.code) bad = claims_of(buf_view(&bare), false, &j->must);
    if (!bad.code) bad = claims_of(q, true, &j->asked_facts);
    if (!bad.code) bad = term_set_of(j->mem, buf_view(&digits), false, &j->figures);
    if (!bad.code) bad = job_idf(j, &j->words, &j->idf);
    if (!bad.code) bad = job_idf(j, &j->asked, &j->asked_idf);
    if (!bad.code && !(j->known = arena_take(j->mem, j->words.n + 1))) bad = no_memory;
    for (usize t = 0; !bad.code && t < j->words.n; t++)
        for (usize i = 0; i < k->u->n && !j->known[t]; i++) j->known[t] = term_set_has(&k->u->u[i].own, j->words.h[t]);
    buf_free(&bare);
    buf_free(&words);
    buf_free(&digits);
    return bad;
}

static void job_end(job *j)
{
    claims_free(&j->must);
    claims_free(&j->asked_facts);
    arena_free(j->mem);
}

/* ---- spans
 * --------------------------------------------------------------------------------------------------------------------------- */
static const unit *unit_at(const job *j, i32 i) { return &j->k->u->u[i]; }

static bool span_has(const job *j, const span *s, u64 hash)
{
    for (i32 i = s->first; i <= s->last; i++)
        if (term_set_has(&unit_at(j, i)->own, hash)) return true;
    return false;
}

static bool span_holds(const job *j, const span *s, const claim *c)
{
    for (i32 i = s->first; i <= s->last; i++)
        if (claims_hold(&unit_at(j, i)->facts, c)) return true;
    return false;
}

/* Share of the sentence's words that the spans carry; a word above a span (heading, column name) counts less. Lenient: one that
 * the question gave is left out when the spans lack it. 1 without any. */
static float share_carried(const job *j, const span *s, int n, bool lenient)
{
    float all = 0, found = 0;
    for (usize t = 0; t < j->words.n; t++) {
        float got = 0;
        for (int i = 0; i < n; i++) {
            if (span_has(j, &s[i], j->words.h[t]))
                got = 1;
            else if (got < 0.7f && term_set_has(&unit_at(j, s[i].first)->around, j->words.h[t]))
                got = 0.7f;
        }
        if (lenient && got == 0 && !j->known[t] && term_set_has(&j->asked, j->words.h[t])) continue;
        all += j->idf[t];
        found += got * j->idf[t];
    }
    return all > 0 ? found / all : 1;
}

static float words_carried(const job *j, const span *s, int n) { return share_carried(j, s, n, true); }

static float asked_carried(const job *j, const span *s)
{
    float all = 0, found = 0;
    for (usize t = 0; t < j->asked.n; t++) {
        all += j->asked_idf[t];
        if (span_has(j, s, j->asked.h[t]))
            found += j->asked_idf[t];
        else if (term_set_has(&unit_at(j, s->first)->around, j->asked.h[t]))
            found += 0.6f * j->asked_idf[t];
    }
    return all > 0 ? found / all : 0;
}

static void span_weigh(const job *j, span *s)
{
    const unit *u = unit_at(j, s->first);
    s->facts = 0;
    for (usize i = 0; i < j->must.n; i++) s->facts += span_holds(j, s, &j->must.c[i]);
    s->words = words_carried(j, s, 1);
    s->asked = asked_carried(j, s);
    float facts = j->must.n ? (float)s->facts / (float)j->must.n : 0;
    s->score = 2 * facts + s->words + 0.5f * s->asked + 0.5f * u->score - 0.02f * (float)(u->passage < 0 ? 4 : u->passage);
    if (u->kind == BLOCK_HEADING || u->passage < 0) s->score -= 0.3f; /* what stands under it says it */
    if (s->last > s->first) s->score -= 0.15f;                        /* the narrower of two alike */
}

/* what claims the spans hold together; given: names that the question gave count as held, figures and codes do not */
static usize claims_held(const job *j, const span *s, int n, bool given)
{
    usize held = 0;
    for (usize c = 0; c < j->must.n; c++) {
        bool in = given && j->must.c[c].kind == CLAIM_NAME && !j->must.c[c].code && claims_hold(&j->asked_facts, &j->must.c[c]);
        for (int i = 0; i < n; i++) in |= span_holds(j, &s[i], &j->must.c[c]);
        held += in;
    }
    return held;
}

static bool best_span(const job *j, span *best)
{
    bool any = false;
    i32 n = (i32)j->k->u->n;
    for (i32 i = 0; i < n; i++)
        for (i32 last = i; last <= i + 1 && last < n && (last == i || unit_at(j, last)->joined); last++) {
            span s = {.first = i, .last = last};
            if (unit_at(j, i)->passage < 0) continue;
            span_weigh(j, &s);
            if (!any || s.score > best->score) *best = s;
            any = true;
        }
    return any;
}

/* the span that adds most to the first: missing claims before words */
static bool second_span(const job *j, span s[SPANS])
{
    usize held = claims_held(j, s, 1, false);
    float words = s[0].words, best = 0;
    bool found = false, lacks = claims_held(j, s, 1, true) < j->must.n;
    for (i32 i = 0; i < (i32)j->k->u->n; i++) {
        if (i >= s[0].first && i <= s[0].last) continue;
        span try[SPANS] = {s[0], {.first = i, .last = i}};
        usize more = claims_held(j, try, 2, false) - held;
        bool names = unit_at(j, s[0].first)->header == i;
        if (unit_at(j, i)->passage < 0 && !names) continue;
        if (!more && (!names || lacks)) continue;
        float gain = 2 * (float)more + words_carried(j, try, 2) - words + (names ? 0.3f : 0);
        if (unit_at(j, i)->passage == unit_at(j, s[0].first)->passage) gain += 0.2f;
        if (!more && words_carried(j, try, 2) - words < 0.05f) continue;
        if (gain <= best) continue;
        best = gain, s[1] = try[1], found = true;
    }
    return found;
}

/* ---- citations
 * ------------------------------------------------------------------------------------------------------------------------ */
err cite_range(collection *c, const hits *h, int passage, u32 start, u32 end, citation *out)
{
    const loaded *d;
    *out = (citation){.passage = passage, .start = start, .end = end};
    TRY(collection_document(c, h->h[passage].document, &d, NULL));
    str all = {d->text, d->text_len};
    usize from = utf8_offset(all, start), n = utf8_offset((str){all.p + from, all.n - from}, end - start);
    out->quote = mem_strndup(all.p + from, n);
    if (!out->quote) return no_memory;
    return load_place(d, start, end, &out->where);
}

void answer_sentence_clear(answer_sentence *s)
{
    for (usize i = 0; i < s->n; i++) {
        mem_free(s->c[i].quote);
        mem_free(s->c[i].where.rects);
    }
    mem_free(s->c);
    mem_free(s->text);
    *s = (answer_sentence){0};
}

static err cite_spans(const job *j, const span *s, int n, answer_sentence *out)
{
    out->c = mem_array(citation, n);
    if (!out->c) return no_memory;
    for (int i = 0; i < n; i++) {
        const unit *a = unit_at(j, s[i].first), *b = unit_at(j, s[i].last);
        int passage =
            a->passage >= 0 ? a->passage : unit_at(j, s[0].first)->passage; /* a header outside is of the same document */
        err bad = cite_range(j->k->c, j->k->passages, passage, a->start, b->end, &out->c[out->n++]);
        TRY(bad);
    }
    return OK;
}

/* how much of the sentence and of its question a unit is about; figures are no words here */
static float about(const job *j, const unit *u)
{
    float sum = 0;
    for (usize t = 0; t < j->words.n; t++)
        sum += j->idf[t] * (term_set_has(&u->own, j->words.h[t]) ? 1 : term_set_has(&u->around, j->words.h[t]) ? AROUND : 0);
    for (usize t = 0; t < j->asked.n; t++)
        sum += 0.5f * j->asked_idf[t] *
               (term_set_has(&u->own, j->asked.h[t])      ? 1
                : term_set_has(&u->around, j->asked.h[t]) ? AROUND
                                                          : 0);
    for (usize c = 0; c < j->figures.n; c++)
        if (term_set_has(&u->own, j->figures.h[c])) sum -= keyword_idf(j->k->k, j->figures.h[c]);
    return sum;
}

static bool has_measure(const unit *u, u16 measure)
{
    for (usize i = 0; i < u->facts.n; i++)
        if (u->facts.c[i].kind == CLAIM_FIGURE && u->facts.c[i].measure == measure) return true;
    return false;
}

/* A figure belongs to what is said of it: "bags for 9 days" is not supported by "tents for 9 days" beside "bags for 12 days". Of
 * the units with a figure of that measure, the one that holds it must be about the sentence nearly as much as any. */
static bool figure_in_place(const job *j, const span *s, int n, const claim *c)
{
    float most = 0, here = -1;
    for (usize i = 0; i < j->k->u->n; i++) {
        const unit *u = &j->k->u->u[i];
        if (u->passage < 0 || !has_measure(u, c->measure)) continue;
        float a = about(j, u);
        if (a > most) most = a;
    }
    for (int k = 0; k < n; k++)
        for (i32 i = s[k].first; i <= s[k].last; i++) {
            const unit *u = unit_at(j, i);
            float a = about(j, u);
            if (claims_hold(&u->facts, c) && a > here) here = a;
        }
    return here >= IN_PLACE * most;
}

static bool is_verified(const job *j, const span *s, int n)
{
    float support = words_carried(j, s, n);
    usize held = claims_held(j, s, n, true), facts = 0;
    for (usize c = 0; c < j->must.n; c++)
        for (int i = 0; i < n; i++)
            if (span_holds(j, &s[i], &j->must.c[c]) && (j->must.c[c].kind == CLAIM_FIGURE || j->must.c[c].code)) facts++, i = n;
    if (held < j->must.n) return false;
    for (usize c = 0; c < j->must.n; c++)
        if (j->must.c[c].kind == CLAIM_FIGURE && !figure_in_place(j, s, n, &j->must.c[c])) return false;
    if (facts) return support >= LEAST_WITH_FACT;
    bool own = false; /* says something that the question did not */
    for (usize t = 0; t < j->words.n; t++) own |= !term_set_has(&j->asked, j->words.h[t]);
    return own ? support >= LEAST_WORDS : s[0].asked >= LEAST_QUESTION;
}

err cite_align(const citer *k, str sentence, answer_sentence *out, float *support)
{
    job j;
    span s[SPANS];
    *out = (answer_sentence){.text = mem_strndup(sentence.p, sentence.n)};
    *support = 0;
    err bad = job_begin(&j, k, sentence);
    if (!bad.code && !out->text) bad = no_memory;
    if (!bad.code && (j.words.n || j.must.n || j.asked.n) && best_span(&j, &s[0])) {
        int n = 1 + second_span(&j, s);
        if (n > 1 && is_verified(&j, s, 1) && claims_held(&j, s, 2, false) == claims_held(&j, s, 1, false) &&
            unit_at(&j, s[0].first)->header != s[1].first)
            n = 1;
        out->verified = is_verified(&j, s, n);
        *support = share_carried(&j, s, n, false);
        if (out->verified) bad = cite_spans(&j, s, n, out);
    }
    job_end(&j);
    if (bad.code) answer_sentence_clear(out);
    return bad;
}

bool cite_sentence(collection *c, keyword_index *k, str sentence, const hits *passages, answer_sentence *out, err *bad)
{
    units u = {0};
    float support;
    *out = (answer_sentence){0};
    *bad = units_of(c, passages, passages->n, &u);
    if (!bad->code) *bad = cite_align(&(citer){.c = c, .k = k, .passages = passages, .u = &u}, sentence, out, &support);
    units_free(&u);
    return !bad->code && out->verified;
}
