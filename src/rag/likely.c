/* rag/likely.c - what a language model says of a sentence and a question without writing: two probabilities.
 *
 * How likely the sentence makes the question. A model that has read "the gate is opened at seven" expects "when does the gate
 * open", whatever words it uses, so the question is scored as if the model had to ask it about the sentence (query likelihood:
 * Sachan et al. 2022). It orders sentences better than words and vectors do, paraphrases included. What remains after what the
 * document's title alone makes likely says how far the sentence answers; a title that names the thing asked about does not.
 *
 * How likely yes is, when it is asked with examples of both whether the sentence states what the question asks for. The word
 * that a small model says is worthless, its probability is not (RETRIEVAL 5).
 *
 * Not here: a text without a sentence that answers by itself (a conclusion from two). */
#include "rag/answer.h"
#include <math.h>
#include <stdlib.h>

/* A unit's likelihood against its score by words and vectors, which lie in 0 to 2.5. */
static const float WEIGHT = 1.0f;
/* Log odds of agreement, within +-AGREE_MOST, against the rest of the score. */
static const float AGREE_WEIGHT = 0.3f, AGREE_MOST = 2;
enum { AGREED = 3 /* units that are asked about */, QUESTION_TOKENS = 160, TEXT_BYTES = 900 };

static const err no_memory = {ERR_NOMEM, "out of memory"};

typedef struct {
    engine *e;
    session *s;
    const char *question;
    bool is_korean;
    const atomic_bool *cancel;
} asking;

/* mean ln p of the question's tokens behind a user's turn; 0 with *n = 0 when it does not fit */
static err score_question(const asking *a, const char *user, double *mean, usize *n)
{
    const model *m = engine_model(a->e);
    ids t = {0};
    chat_message msg = {"user", user, NULL};
    *mean = 0, *n = 0;
    err bad = augment_turns(m, &msg, 1, a->is_korean, &t);
    usize from = t.n;
    if (!bad.code) bad = tokenize(m->tok, str_of(a->question), 0, &t);
    float *score = bad.code ? NULL : mem_array(float, t.n + 1);
    if (!bad.code && !score) bad = no_memory;
    usize asked = t.n - from;
    if (!bad.code && asked && asked <= QUESTION_TOKENS && (i64)t.n < m->h.n_ctx) {
        gen_request q = {.ids = t.id, .n = t.n, .sample = {.top_p = 1, .repeat_penalty = 1}, .score = score, .score_from = from, .cancel = a->cancel};
        gen_result r;
        bad = session_generate(a->s, &q, &r);
        if (!bad.code && r.finish == FINISH_CANCELLED) bad = err_new(ERR_CANCELLED, "interrupted");
        for (usize i = from; i < t.n; i++) *mean += (double)score[i] / (double)asked;
        *n = asked;
    }
    mem_free(score);
    ids_free(&t);
    return bad;
}

static void ask_for_question(const asking *a, buf *out)
{
    buf_puts(out, a->is_korean ? "다음 글을 읽고 답할 수 있는 질문을 하나 쓰세요.\n\n"
                               : "Write one question that the following text answers.\n\n");
}

static void put_text(const units *us, const unit *u, buf *out)
{
    usize from = out->n;
    unit_line(us, u, out);
    if (out->n - from > TEXT_BYTES) out->n = from + utf8_complete((str){out->p + from, TEXT_BYTES});
}

static err score_unit(const asking *a, const units *us, const unit *u, double *mean, usize *n)
{
    buf b = {0};
    ask_for_question(a, &b);
    unit_context(us, u, &b);
    if (u->joined && u->kind == BLOCK_TEXT && u > us->u) { /* the sentence before says who "he" is */
        buf_str(&b, u[-1].text);
        buf_byte(&b, ' ');
    }
    put_text(us, u, &b);
    err bad = buf_error(&b);
    if (!bad.code) bad = score_question(a, buf_cstr(&b), mean, n);
    buf_free(&b);
    return bad;
}

static int by_score(const void *x, const void *y)
{
    const unit *a = *(unit *const *)x, *b = *(unit *const *)y;
    return a->score != b->score ? (a->score > b->score ? -1 : 1) : (a > b) - (a < b);
}

static err score_title(const asking *a, const unit *u, double *mean, usize *n)
{
    buf b = {0};
    i64 nl = str_find(u->above, S("\n"), 0);
    ask_for_question(a, &b);
    buf_str(&b, nl < 0 ? u->above : (str){u->above.p, (usize)nl});
    err bad = buf_error(&b);
    if (!bad.code) bad = score_question(a, buf_cstr(&b), mean, n);
    buf_free(&b);
    return bad;
}

/* ---- yes or no
 * ------------------------------------------------------------------------------------------------------------------ */
typedef struct { const char *asked, *said; } example;
static const example examples[] = {
    {"Passage: 별빛도서관 이용 안내 / 빌리기\n책의 대출 기간은 21일이다.\nQuestion: 빌린 책은 언제까지 돌려줘야 해요?", "yes"},
    {"Passage: 은하수영장 / 안전\n키가 120 cm보다 작으면 보호자와 함께 들어간다.\nQuestion: 수영장에서 키 작은 아이용 튜브를 "
     "빌려주나요?",
     "no"},
    {"Passage: Galaxy Pool / Prices\nVisitor: Child | Weekday: EUR 3.00 | Weekend: EUR 4.00\nQuestion: How much is a season "
     "ticket for the pool?",
     "no"},
    {"Passage: Starlight Library / Reading room\nA seat is renewed every 3 hours.\nQuestion: How long can I keep my place before "
     "I have to ask again?",
     "yes"},
    {"Passage: 별빛도서관 이용 안내 / 복사\n복사는 한 장에 50원이며 카드로만 낸다.\nQuestion: 도서관 복사기는 어느 회사 "
     "제품이에요?",
     "no"},
    {"Passage: 은하수영장 / 이용 요금\n구분: 어린이 | 평일: 3,000원 | 주말: 4,000원\nQuestion: 아이를 데리고 토요일에 가면 "
     "얼마예요?",
     "yes"},
};
/* the answers of "no" are what a model writes that takes the nearest figure for an answer */
static const example answered[] = {
    {"Passage: 별빛도서관 이용 안내 / 빌리기\n책의 대출 기간은 21일이다.\nQuestion: 빌린 책은 언제까지 돌려줘야 해요?\nAnswer: 21일 "
     "안에 돌려줘야 합니다.",
     "yes"},
    {"Passage: 별빛도서관 이용 안내 / 빌리기\n책의 대출 기간은 21일이다.\nQuestion: 노트북은 며칠 동안 빌릴 수 있나요?\nAnswer: "
     "노트북은 21일 동안 빌릴 수 있습니다.",
     "no"},
    {"Passage: Galaxy Pool / Prices\nVisitor: Child | Weekday: EUR 3.00 | Weekend: EUR 4.00\nQuestion: How much is a season "
     "ticket for a child?\nAnswer: A season ticket for a child costs EUR 4.00.",
     "no"},
    {"Passage: Galaxy Pool / Prices\nVisitor: Child | Weekday: EUR 3.00 | Weekend: EUR 4.00\nQuestion: What do I pay for my "
     "daughter on a Saturday?\nAnswer: You pay EUR 4.00.",
     "yes"},
    {"Passage: Starlight Library / Staff\nThe director retires in June 2024.\nQuestion: When does the new director start?\nAnswer: "
     "The new director starts in June 2024.",
     "no"},
    {"Passage: 은하수영장 / 안전\n키가 120 cm보다 작으면 보호자와 함께 들어간다.\nQuestion: 우리 아이가 115 cm인데 혼자 들어가도 "
     "되나요?\nAnswer: 120 cm보다 작으면 보호자와 함께 들어가야 합니다.",
     "yes"},
};

typedef struct {
    const tokenizer *tok;
    double yes, no;
} votes;

static err count_votes(void *ctx, const gen_token *t)
{
    votes *v = ctx;
    err bad = OK;
    for (int i = 0; i < t->n_top && !bad.code; i++) {
        buf b = {0}, low = {0};
        token_bytes(v->tok, t->top[i].id, &b, false);
        bad = text_lower(&low, str_trim(buf_view(&b)));
        if (str_eq(buf_view(&low), S("yes"))) v->yes += (double)t->top[i].p;
        if (str_eq(buf_view(&low), S("no"))) v->no += (double)t->top[i].p;
        buf_free(&b);
        buf_free(&low);
    }
    return bad;
}

/* *odds: ln p(yes) - ln p(no); 0 when the model has no such words or the text does not fit */
static err ask_yes(const asking *a, const char *system, const example *given, usize n_given, const char *last, float *odds)
{
    enum { MOST = 8 };
    const model *m = engine_model(a->e);
    chat_message msg[2 * MOST + 2] = {{"system", system, NULL}};
    usize n = 1;
    ids t = {0};
    votes v = {.tok = m->tok, .yes = 1e-6, .no = 1e-6};
    for (usize i = 0; i < n_given && i < MOST; i++) {
        msg[n++] = (chat_message){"user", given[i].asked, NULL};
        msg[n++] = (chat_message){"assistant", given[i].said, NULL};
    }
    msg[n++] = (chat_message){"user", last, NULL};
    err bad = augment_turns(m, msg, n, false, &t);
    if (!bad.code && (i64)t.n + 1 < m->h.n_ctx) {
        gen_request q = {.ids = t.id,
                         .n = t.n,
                         .max_tokens = 1,
                         .sample = {.top_p = 1, .repeat_penalty = 1},
                         .n_top = 200,
                         .token = count_votes,
                         .ctx = &v,
                         .cancel = a->cancel};
        gen_result r;
        bad = session_generate(a->s, &q, &r);
        if (!bad.code && r.finish == FINISH_CANCELLED) bad = err_new(ERR_CANCELLED, "interrupted");
    }
    *odds = (float)(log(v.yes) - log(v.no));
    ids_free(&t);
    return bad;
}

static err ask_states(const asking *a, const units *us, const unit *u, float *odds)
{
    buf b = {0};
    buf_puts(&b, "Passage: ");
    unit_context(us, u, &b);
    put_text(us, u, &b);
    buf_fmt(&b, "\nQuestion: %s", a->question);
    err bad = buf_error(&b);
    if (!bad.code) bad = ask_yes(a, "Does the passage itself state what the question asks for? Reply yes or no.", examples, COUNT_OF(examples), buf_cstr(&b), odds);
    buf_free(&b);
    return bad;
}

static err ask_confirms(const asking *a, buf *passage, str said, float *odds)
{
    buf_fmt(passage, "\nQuestion: %s\nAnswer: ", a->question);
    buf_str(passage, said);
    TRY(buf_error(passage));
    return ask_yes(a, "Does the passage itself say that this is the answer to the question? Reply yes or no.", answered, COUNT_OF(answered), buf_cstr(passage), odds);
}

/* the units that the first verified sentence cites, as the best unit is shown; empty when that is all of it */
static void cited_passage(const answer *a, const units *us, const unit *best, buf *out)
{
    const answer_sentence *s = a->s;
    const unit *first = NULL;
    bool other = false;
    while (s < a->s + a->n_s && !s->verified) s++;
    for (usize k = 0; s < a->s + a->n_s && k < s->n; k++)
        for (const unit *u = us->u; u < us->u + us->n; u++) {
            if (u->passage != s->c[k].passage || u->names || u->start >= s->c[k].end || u->end <= s->c[k].start) continue;
            buf_puts(out, first ? "\n" : "Passage: ");
            if (!first || !str_eq(first->above, u->above)) unit_context(us, u, out);
            put_text(us, u, out);
            if (!first) first = u;
            other |= u != best;
        }
    if (!other) buf_reset(out);
}

err units_confirm(engine *e, session *s, const char *question, const atomic_bool *cancel, const units *us, const answer *said, str text, float *odds)
{
    asking a = {e, s, question, question_korean(str_of(question)), cancel};
    const unit *best = NULL;
    buf b = {0}, cited = {0};
    float other = -100;
    *odds = 0;
    for (usize i = 0; i < us->n; i++)
        if (us->u[i].weighed && (!best || us->u[i].score > best->score)) best = &us->u[i];
    if (!best || !text.n) return OK;
    buf_puts(&b, "Passage: ");
    unit_context(us, best, &b);
    put_text(us, best, &b);
    err bad = ask_confirms(&a, &b, text, odds);
    cited_passage(said, us, best, &cited);
    if (!bad.code && cited.n) bad = ask_confirms(&a, &cited, text, &other);
    if (other > *odds) *odds = other;
    buf_free(&b);
    buf_free(&cited);
    return bad;
}

/* ---- both
 * ------------------------------------------------------------------------------------------------------------------------- */
/* the best by its score, among those that were asked about */
static unit *best_unit(unit **pick, usize n)
{
    unit *best = NULL;
    for (usize i = 0; i < n; i++)
        if (pick[i]->weighed && (!best || pick[i]->score > best->score)) best = pick[i];
    return best;
}

/* Both probabilities of the few that are likeliest by score: which of two neighbours states what is asked, the second tells better. */
static err weigh_agreement(const asking *a, units *us, unit **pick, usize n)
{
    qsort(pick, n, sizeof *pick, by_score);
    for (usize i = 0; i < n && i < AGREED; i++) {
        float odds;
        TRY(ask_states(a, us, pick[i], &odds));
        pick[i]->agree = odds < -AGREE_MOST ? -AGREE_MOST : odds > AGREE_MOST ? AGREE_MOST : odds;
    }
    for (usize i = 0; i < n && i < AGREED; i++) pick[i]->score += AGREE_WEIGHT * (pick[i]->agree + AGREE_MOST);
    return OK;
}

err units_likely(engine *e, session *s, const char *question, const atomic_bool *cancel, units *us, usize most, judgement *out)
{
    asking a = {e, s, question, question_korean(str_of(question)), cancel};
    unit **pick = mem_array(unit *, us->n + 1), *best = NULL, *found = NULL;
    usize n = 0, tokens = 0;
    double mean;
    float least = 0;
    err bad = pick ? OK : no_memory;
    *out = (judgement){0};
    for (usize i = 0; !bad.code && i < us->n; i++)
        if (us->u[i].passage >= 0 && us->u[i].kind != BLOCK_HEADING && !us->u[i].names) pick[n++] = &us->u[i];
    if (n) qsort(pick, n, sizeof *pick, by_score);
    if (n > most) n = most;
    if (n) found = pick[0];
    for (usize i = 0; i < n && !bad.code; i++) {
        bad = score_unit(&a, us, pick[i], &mean, &tokens);
        if (bad.code || !tokens) continue;
        pick[i]->likely = (float)mean, pick[i]->weighed = true;
        if (i == 0 || pick[i]->likely < least) least = pick[i]->likely;
    }
    for (usize i = 0; i < us->n && !bad.code; i++) us->u[i].score += WEIGHT * (us->u[i].weighed ? us->u[i].likely - least : 0);
    if (!bad.code) bad = weigh_agreement(&a, us, pick, n);
    if (!bad.code) best = best_unit(pick, n);
    if (best) bad = score_title(&a, best, &mean, &tokens);
    if (best && !bad.code) bad = ask_states(&a, us, found, &out->agree);
    if (best && !bad.code) out->rise = tokens ? best->likely - (float)mean : 0, out->known = tokens > 0;
    mem_free(pick);
    return bad;
}
