/* rag/answer.c - a question against a collection, answered with citations or refused.
 *
 * Retrieve, cut the passages into units, judge whether they answer at all; then quote (no model) or let the model write, align
 * every sentence, and judge again with what writing showed: how sure the model was of its least sure token, and how much of
 * what it wrote is in the text. Refusing is decided here and never by the model.
 *
 * The weights are fixed; thresholds are the collection's own (calibrate.c), else the defaults below.
 * Not here: conversations. Every question stands by itself. */
#include "rag/answer.h"
#include <math.h>

enum {
    PASSAGES = 4,
    WIDER = 2 /* passages looked into for one that is shown */,
    TOKENS = 160,
    SENTENCES = 2,
    MOST_SENTENCES = 3,
    REPEAT_BYTES = 24
};

/* What is refused when the collection has no thresholds of its own. Words and vectors tell little about natural questions (on
 * questions written without seeing the text their AUC is near chance), so alone they refuse only what shares next to nothing with
 * the documents; with a model its three probabilities decide. */
static const double DEFAULT_THRESHOLD = 0.05, DEFAULT_BEFORE_MODEL = 0.02, DEFAULT_AFTER = 0.5;
static const double EVEN = 1.08, MOST_CONFIRM = 1, DENIED = -0.5 /* below: the model's words are not shown */;
static const double NEUTRAL_LEAST = -1.2, NEUTRAL_VERIFIED = 0.5;
enum { WEIGHED = 6 /* units whose likelihood is asked */ };

static const err no_memory = {ERR_NOMEM, "out of memory"};

static double logistic(double x) { return 1 / (1 + exp(-x)); }

static int shown_passages(const ask_opts *o) { return o->passages > 0 ? o->passages : PASSAGES; }

/* ---- answerability
 * ------------------------------------------------------------------------------------------------------------------------- */
/* The weights of words are between those fitted on KorQuAD (RETRIEVAL 4's protocol: -6.1 + 7.2 passage + 3.6 sentence + 1.2
 * share, AUC .908 hard and .966 easy on the other half of its questions) and even ones, since its questions repeat the text as
 * users' do not. */
float answerable_of(const signals *s)
{
    double x = -4 + 5 * (double)s->passage + 2.5 * (double)s->sentence + (double)s->share;
    if (s->dense) x += 25 * ((double)s->cosine - 0.865);
    return (float)logistic(x);
}

static double within(float x, double low, double high) { return (double)x < low ? low : (double)x > high ? high : (double)x; }

/* With a model its three probabilities count alike, what retrieval found a little: rise and agreement, and, once it has written, whether
 * the sentence behind the answer is taken to say so (a question that is answered nowhere gets an answer of a neighbour). Set where the
 * fewest of both kinds of the sample's forty questions were on the wrong side: AUC .93 there. */
float answerable_with(float before, const evidence *e)
{
    double p = within(before, 0.01, 0.99), found = 0.15 * (log(p / (1 - p)) + 2.5);
    if (!e->best.known) return (float)logistic(found + 0.3 * (within(e->least, -4, 0) - NEUTRAL_LEAST) + 0.6 * ((double)e->verified - NEUTRAL_VERIFIED));
    double x = within(e->best.agree, -2, 2) + within(e->best.rise, -2, 2) + found + (e->confirmed ? within(e->confirm, -MOST_CONFIRM, MOST_CONFIRM) : 0);
    return (float)logistic(2 * (x - EVEN));
}

float answerable_before(collection *c, const char *question, const hits *h)
{
    keyword_index *k;
    units u = {0};
    signals s;
    float p = 0;
    if (!collection_keyword(c, &k).code && !units_of(c, h, PASSAGES, &u).code && !units_score(k, NULL, question, h, &u, &s).code)
        p = answerable_of(&s);
    units_free(&u);
    return p;
}

static err threshold_of(collection *c, const char *key, double otherwise, double *out)
{
    char *text = NULL;
    *out = otherwise;
    err bad = collection_meta_get(c, key, &text);
    double v;
    if (!bad.code && text && str_f64(str_of(text), &v) && v >= 0 && v <= 1) *out = v;
    mem_free(text);
    return bad;
}

/* ---- retrieval
 * -------------------------------------------------------------------------------------------------------------------------------
 */
static bool is_hidden(const hit *h, const hidden *x)
{
    return x && !strcmp(h->document, x->document) && (x->all || (h->start < x->end && h->end > x->start));
}

static void hide(hits *h, const hidden *x, usize most)
{
    usize n = 0;
    for (usize i = 0; i < h->n; i++) {
        if (n < most && !is_hidden(&h->h[i], x)) {
            hit keep = h->h[i];
            h->h[i] = h->h[n];
            h->h[n++] = keep;
        }
    }
    for (usize i = n; i < h->n; i++) {
        mem_free(h->h[i].document);
        mem_free(h->h[i].title);
        mem_free(h->h[i].text);
    }
    h->n = n;
    for (usize i = 0; x && i < n; i++)
        if (!i || h->h[i].cosine > h->top_cosine) h->top_cosine = h->h[i].cosine;
}

static err retrieve(collection *c, const char *question, const ask_opts *o, const hidden *x, hits *h, units *u, signals *s)
{
    keyword_index *k;
    search_opts so = o->search;
    int most = WIDER * shown_passages(o);
    so.k = so.k > most ? so.k : most;
    if (x) so.k += 60;
    buf plain = {0};
    err bad = question_plain(str_of(question), &plain);
    if (!bad.code) bad = collection_search(c, buf_cstr(&plain), &so, h);
    buf_free(&plain);
    TRY(bad);
    hide(h, x, (usize)(so.k - (x ? 60 : 0)));
    TRY(collection_keyword(c, &k));
    TRY(units_of(c, h, (usize)most, u));
    return units_score(k, so.embedder, question, h, u, s);
}

/* ---- writing
 * ---------------------------------------------------------------------------------------------------------------------------------
 */
typedef struct {
    const ask_opts *o;
    buf text;
    double sum;
    float least;
    i64 n;
    bool done; /* enough: repetition, or sentences */
} writing;

/* the last words have been said before, word by word */
static bool repeats(const buf *b)
{
    if (b->n < 2 * REPEAT_BYTES) return false;
    str all = buf_view(b), tail = {all.p + all.n - REPEAT_BYTES, REPEAT_BYTES};
    return str_find((str){all.p, all.n - REPEAT_BYTES}, tail, 0) >= 0;
}

static usize sentences_in(str s)
{
    usize n = 0;
    for (usize at = 0; at < s.n; n++) {
        usize end = text_sentence_end(s, at);
        if (end <= at) break;
        at = end;
    }
    return n;
}

static err write_token(void *ctx, const gen_token *t)
{
    writing *w = ctx;
    str s = t->text;
    if (w->done) return err_new(ERR_CANCELLED, "the answer is complete");
    if (!w->text.n) /* templates and plain prompts begin with a space or a line end */
        while (s.n && strchr(" \n", s.p[0])) s.p++, s.n--;
    buf_str(&w->text, s);
    w->sum += (double)t->logprob;
    if (!w->n || t->logprob < w->least) w->least = t->logprob;
    w->n++;
    if (s.n && w->o->stream) TRY(w->o->stream(w->o->ctx, s));
    w->done = repeats(&w->text) || (s.n && sentences_in(buf_view(&w->text)) > MOST_SENTENCES);
    return w->done ? err_new(ERR_CANCELLED, "the answer is complete") : buf_error(&w->text);
}

/* What stopped for repeating keeps its whole sentences. */
static void tidy(buf *b, bool cut)
{
    usize end = 0, at = 0;
    str s = buf_view(b);
    while (cut && at < s.n) {
        usize next = text_sentence_end(s, at);
        if (next <= at || (next == s.n && !strchr(".!?", s.p[s.n - 1]))) break;
        at = end = next;
    }
    if (cut && end) b->n = end;
    while (b->n && strchr(" \n", b->p[b->n - 1])) b->n--;
    if (b->p) b->p[b->n] = 0;
}

static err write_answer(const ask_opts *o, const char *question, const hits *h, const units *u, int passages, writing *w, answer *a)
{
    static const char *const stops[] = {"\n\n", "\n질문:", "\nQuestion:", "\n자료", "\nPassages"};
    ids prompt = {0};
    gen_result r = {0};
    i64 most = o->max_tokens > 0 ? o->max_tokens : TOKENS;
    err bad = augment_prompt(engine_model(o->model), question, h, u, passages, most, &prompt);
    if (!bad.code) {
        gen_request q = {.ids = prompt.id,
                         .n = prompt.n,
                         .max_tokens = most,
                         .sample = {.top_p = 1, .repeat_penalty = 1},
                         .stop = stops,
                         .n_stop = COUNT_OF(stops),
                         .token = write_token,
                         .ctx = w,
                         .cancel = o->cancel};
        bad = session_generate(o->session, &q, &r);
        if (bad.code == ERR_CANCELLED && w->done) bad = OK;
        if (!bad.code && r.finish == FINISH_CANCELLED && !w->done) bad = err_new(ERR_CANCELLED, "interrupted");
    }
    if (!bad.code) tidy(&w->text, w->done);
    a->prompt_tokens += (i64)prompt.n, a->tokens += w->n;
    a->prefill_s += r.prefill_s, a->decode_s += r.decode_s;
    ids_free(&prompt);
    return bad;
}

static err align_all(const citer *k, str text, answer *a, evidence *e)
{
    usize verified = 0, cap = 0;
    float sum = 0;
    for (usize at = 0; at < text.n;) {
        usize end = text_sentence_end(text, at);
        if (end <= at) end = text.n;
        str s = str_trim((str){text.p + at, end - at});
        at = end;
        if (!s.n) continue;
        float support;
        answer_sentence one;
        TRY(cite_align(k, s, &one, &support));
        if (!VEC_PUSH(a->s, a->n_s, cap, one)) return answer_sentence_clear(&one), no_memory;
        verified += one.verified;
        sum += one.verified ? support : 0;
    }
    e->verified = a->n_s ? (float)verified / (float)a->n_s : 0;
    e->support = verified ? sum / (float)verified : 0;
    return OK;
}

static err generate(collection *c, const char *question, const ask_opts *o, const units *u, answer *a, evidence *e)
{
    writing w = {.o = o};
    keyword_index *k;
    err bad = write_answer(o, question, &a->passages, u, shown_passages(o), &w, a);
    if (!bad.code) bad = collection_keyword(c, &k);
    if (!bad.code) {
        citer by = {.c = c, .k = k, .passages = &a->passages, .u = u, .question = question};
        bad = align_all(&by, buf_view(&w.text), a, e);
    }
    if (!bad.code && e->best.known && w.n) {
        bad = units_confirm(o->model, o->session, question, o->cancel, u, a, buf_view(&w.text), &e->confirm);
        e->confirmed = !bad.code;
    }
    log_line(LOG_DEBUG, "ask: before %.3f rise %.2f agree %.2f confirm %.2f least %.2f mean %.2f verified %.2f support %.2f: %s -> %s",
             (double)a->answerable, (double)e->best.rise, (double)e->best.agree, (double)e->confirm, (double)w.least,
             w.n ? w.sum / (double)w.n : 0.0, (double)e->verified, (double)e->support, question, buf_cstr(&w.text));
    a->generated = true;
    a->least_logprob = e->least = w.least;
    a->mean_logprob = e->mean = w.n ? (float)(w.sum / (double)w.n) : 0;
    a->answerable_after = w.n ? answerable_with(a->answerable, e) : 0;
    a->text = buf_take(&w.text);
    if (!bad.code && !a->text && !(a->text = mem_strdup(""))) bad = no_memory;
    buf_free(&w.text);
    return bad;
}

/* ---- refusing
 * ----------------------------------------------------------------------------------------------------------------------------------
 */
static void forget_answer(answer *a)
{
    for (usize i = 0; i < a->n_s; i++) answer_sentence_clear(&a->s[i]);
    mem_free(a->s);
    mem_free(a->text);
    a->s = NULL, a->n_s = 0, a->text = NULL;
}

static const char *nothing(const char *question)
{
    return question_korean(str_of(question)) ? "문서에서 답을 찾을 수 없습니다." : "The documents do not answer this.";
}

static err refuse(answer *a, const char *question, buf *reason)
{
    forget_answer(a);
    a->refused = true;
    a->text = mem_strdup(nothing(question));
    err bad = buf_error(reason);
    a->reason = buf_take(reason);
    return bad.code ? bad : a->text && a->reason ? OK : no_memory;
}

static err refuse_before(answer *a, const char *question, const signals *s)
{
    buf r = {0};
    if (!a->passages.n)
        buf_puts(&r, L("찾은 글이 없습니다", "nothing was found"));
    else {
        buf_fmt(&r,
                L("검색 신호 %.2f < 기준 %.2f: 가장 가까운 글이 질문 낱말의 %.0f %%, 문장이 %.0f %%를 담고 있습니다",
                  "retrieval signal %.2f < threshold %.2f: the best passage holds %.0f %% of the question's words, the best "
                  "sentence %.0f %%"),
                (double)a->answerable, a->threshold, 100 * (double)s->passage, 100 * (double)s->sentence);
        if (s->dense) buf_fmt(&r, L(", 코사인 %.2f", ", cosine %.2f"), (double)s->cosine);
    }
    return refuse(a, question, &r);
}

static err refuse_unlikely(answer *a, const char *question, const judgement *best)
{
    buf r = {0};
    buf_fmt(&r,
            L("신호 %.2f < 기준 %.2f: 가장 가까운 문장에서 질문의 가능도 상승 %.2f, 답이 있다는 확률비의 로그 %.2f",
              "signal %.2f < threshold %.2f: the best sentence makes the question likelier by %.2f per token, log odds that it "
              "answers %.2f"),
            (double)a->answerable_after, a->threshold_after, (double)best->rise, (double)best->agree);
    return refuse(a, question, &r);
}

static err refuse_after(answer *a, const char *question, const judgement *best)
{
    buf r = {0};
    usize verified = 0;
    for (usize i = 0; i < a->n_s; i++) verified += a->s[i].verified;
    buf_fmt(&r,
            L("쓴 답의 신호 %.2f < 기준 %.2f: 질문의 가능도 상승 %.2f, 답이 있다는 확률비의 로그 %.2f, 가장 불확실한 토큰의 "
              "로그확률 %.2f, 확인된 문장 %zu/%zu",
              "signal after writing %.2f < threshold %.2f: rise in the question's likelihood %.2f, log odds that the best "
              "sentence answers %.2f, least token log-probability %.2f, %zu of %zu sentences verified"),
            (double)a->answerable_after, a->threshold_after, (double)best->rise, (double)best->agree, (double)a->least_logprob,
            verified, a->n_s);
    return refuse(a, question, &r);
}

/* ---- the call
 * -----------------------------------------------------------------------------------------------------------------------------------
 */
static err thresholds(collection *c, const ask_opts *o, answer *a)
{
    a->threshold = DEFAULT_BEFORE_MODEL;
    if (!o->model) TRY(threshold_of(c, META_THRESHOLD, DEFAULT_THRESHOLD, &a->threshold));
    TRY(threshold_of(c, META_THRESHOLD_AFTER, DEFAULT_AFTER, &a->threshold_after));
    if (o->threshold_given && o->model)
        a->threshold_after = o->threshold, a->threshold = o->threshold < a->threshold ? o->threshold : a->threshold;
    else if (o->threshold_given)
        a->threshold = o->threshold;
    return OK;
}

static err extract(collection *c, const char *question, const ask_opts *o, const units *u, answer *a)
{
    TRY(extract_answer(c, u, &a->passages, o->sentences > 0 ? o->sentences : SENTENCES, a));
    if (a->n_s) return OK;
    mem_free(a->text); /* asked to answer always, and there is nothing to quote */
    return (a->text = mem_strdup(nothing(question))) ? OK : no_memory;
}

/* What the model wrote is of no use: nothing of it is in the text, or a figure was asked for and no verified sentence brings one.
 */
static err is_useless(const answer *a, const char *question, bool *useless)
{
    claims given = {0};
    bool figure = !question_asks_figure(str_of(question));
    usize verified = 0;
    err bad = claims_of(str_of(question), true, &given);
    for (usize i = 0; i < a->n_s && !bad.code; i++) {
        claims said = {0};
        if (!a->s[i].verified) continue;
        verified++;
        bad = claims_of(str_of(a->s[i].text), false, &said);
        for (usize k = 0; k < said.n; k++) figure |= said.c[k].kind == CLAIM_FIGURE && !claims_hold(&given, &said.c[k]);
        claims_free(&said);
    }
    claims_free(&given);
    *useless = !verified || !figure;
    return bad;
}

/* the documents' own sentences instead */
static err quote_instead(collection *c, const char *question, const ask_opts *o, const units *u, answer *a)
{
    forget_answer(a);
    a->generated = false, a->rewritten = true;
    a->reason = mem_strdup(L("모델의 답이 문서에서 확인되지 않아 문서의 문장을 인용했습니다",
                             "what the model wrote is not in the documents: their own sentences are quoted"));
    return a->reason ? extract(c, question, o, u, a) : no_memory;
}

static bool is_cited(const answer *a, const citation *x)
{
    for (usize i = 0; i < a->n_s; i++)
        for (usize k = 0; k < a->s[i].n; k++) {
            const citation *y = &a->s[i].c[k];
            if (!strcmp(a->passages.h[x->passage].document, a->passages.h[y->passage].document) && x->start < y->end &&
                x->end > y->start)
                return true;
        }
    return false;
}

/* every figure and code of the quoted sentence is in what the model wrote */
static err says_all(const answer *a, str quote, bool *all)
{
    claims said = {0}, wanted = {0};
    err bad = claims_of(str_of(a->text), true, &said);
    if (!bad.code) bad = claims_of(quote, false, &wanted);
    *all = true;
    for (usize i = 0; i < wanted.n; i++)
        if (wanted.c[i].kind == CLAIM_FIGURE || wanted.c[i].code) *all &= claims_hold(&said, &wanted.c[i]);
    claims_free(&said);
    claims_free(&wanted);
    return bad;
}

/* The sentence that answers best by likelihood is quoted behind what the model wrote unless that cites it and leaves out none of its
 * figures: a small model often writes about the sentence beside, or about half of it. */
static err add_best(collection *c, const ask_opts *o, const units *u, answer *a)
{
    answer one = {.passages = a->passages};
    answer_sentence *s = NULL;
    buf text = {0};
    err bad = extract_answer(c, u, &a->passages, 1, &one);
    bool wanted = !bad.code && one.n_s && !is_cited(a, &one.s[0].c[0]), all = true;
    if (!bad.code && one.n_s && !wanted) {
        bad = says_all(a, str_of(one.text), &all);
        wanted = !bad.code && !all;
    }
    if (wanted && !(s = mem_array(answer_sentence, a->n_s + 1))) bad = no_memory;
    if (wanted && !bad.code) {
        buf_puts(&text, a->text);
        buf_byte(&text, '\n');
        buf_puts(&text, one.text);
        if (o->stream && !a->rewritten) bad = o->stream(o->ctx, (str){text.p + strlen(a->text), text.n - strlen(a->text)});
        if (!bad.code) bad = buf_error(&text);
    }
    if (wanted && !bad.code) {
        memcpy(s, a->s, a->n_s * sizeof *s);
        s[a->n_s++] = one.s[0];
        mem_free(a->s);
        mem_free(a->text);
        a->s = s, a->text = buf_take(&text);
        s = NULL, one.n_s = 0;
    }
    mem_free(s);
    buf_free(&text);
    forget_answer(&one);
    return bad;
}

/* Retrieval's and the model's view of the question; where no answer could change it, none is written. Then the model's words, or, where
 * they are denied or of no use, the documents' own. */
static err ask_model(collection *c, const char *question, const ask_opts *o, units *u, answer *a)
{
    judgement best;
    evidence e = {.confirm = (float)MOST_CONFIRM, .confirmed = true};
    bool useless;
    TRY(units_likely(o->model, o->session, question, o->cancel, u, WEIGHED, &best));
    e.best = best;
    a->answerable_after = answerable_with(a->answerable, &e);
    if (!o->always_answer && best.known && (double)a->answerable_after < a->threshold_after) return refuse_unlikely(a, question, &best);
    e = (evidence){.best = best};
    TRY(generate(c, question, o, u, a, &e));
    if (!o->always_answer && (double)a->answerable_after < a->threshold_after) return refuse_after(a, question, &best);
    TRY(is_useless(a, question, &useless));
    return useless || (e.confirmed && (double)e.confirm < DENIED) ? quote_instead(c, question, o, u, a) : add_best(c, o, u, a);
}

static err ask(collection *c, const char *question, const ask_opts *o, const hidden *x, units *u, answer *a)
{
    signals s = {0};
    double start = clock_s();
    TRY(thresholds(c, o, a));
    TRY(retrieve(c, question, o, x, &a->passages, u, &s));
    a->search_s = clock_s() - start;
    a->answerable = a->answerable_after = a->passages.n ? answerable_of(&s) : 0;
    if (!o->always_answer && (!a->passages.n || (double)a->answerable < a->threshold)) return refuse_before(a, question, &s);
    if (!o->model) return extract(c, question, o, u, a);
    return ask_model(c, question, o, u, a);
}

err answer_ask(collection *c, const char *question, const ask_opts *o, const hidden *x, answer *a)
{
    units u = {0};
    ask_opts mine = *o;
    *a = (answer){0};
    if (o->threshold_given && !(o->threshold >= 0 && o->threshold <= 1))
        return err_new(ERR_INPUT, "threshold %g: expected 0 to 1", o->threshold);
    err bad = o->model && !o->session ? session_open(&mine.session, o->model, 0) : OK;
    if (!bad.code) bad = ask(c, question, &mine, x, &u, a);
    if (mine.session != o->session) session_close(mine.session);
    units_free(&u);
    if (bad.code) answer_free(a);
    return bad;
}

err collection_ask(collection *c, const char *question, const ask_opts *o, answer *a)
{
    return answer_ask(c, question, o, NULL, a);
}

void answer_free(answer *a)
{
    if (!a) return;
    forget_answer(a);
    mem_free(a->reason);
    hits_free(&a->passages);
    *a = (answer){0};
}
