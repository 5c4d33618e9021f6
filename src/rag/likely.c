/* rag/likely.c - how likely a sentence makes the question that was asked.
 *
 * A language model that has read "the gate is opened at seven" expects "when does the gate open", whatever words it uses; for a
 * question that the text does not answer it gains nothing. So the question is scored as if the model had to ask it about the
 * sentence, less what it scores about nothing (query likelihood: Sachan et al. 2022). It costs a few hundred tokens and no
 * writing, it knows paraphrases that neither words nor vectors find, and a small model is better at it than at answering: it is
 * never asked to judge.
 *
 * Not here: a text without a sentence that answers by itself (a conclusion from two). */
#include "rag/answer.h"
#include <stdlib.h>

/* A unit's likelihood against its score by words and vectors, which lie in 0 to 2.5. */
static const float WEIGHT = 1.0f;
enum { QUESTION_TOKENS = 160, TEXT_BYTES = 900 };

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
        gen_request q = {.ids = t.id, .n = t.n, .sample = {.top_p = 1, .repeat_penalty = 1}, .score = score, .cancel = a->cancel};
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

static err score_unit(const asking *a, const units *us, const unit *u, double *mean, usize *n)
{
    buf b = {0};
    buf_puts(&b, a->is_korean ? "다음 글을 읽고 답할 수 있는 질문을 하나 쓰세요.\n\n"
                              : "Write one question that the following text answers.\n\n");
    unit_context(us, u, &b);
    if (u->joined && u->kind == BLOCK_TEXT && u > us->u) { /* the sentence before says who "he" is */
        buf_str(&b, u[-1].text);
        buf_byte(&b, ' ');
    }
    str text = u->text;
    if (text.n > TEXT_BYTES) text.n = utf8_complete((str){text.p, TEXT_BYTES});
    buf_str(&b, text);
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

err units_likely(engine *e, session *s, const char *question, const atomic_bool *cancel, units *us, usize most, float *best)
{
    asking a = {e, s, question, question_korean(str_of(question)), cancel};
    unit **pick = mem_array(unit *, us->n + 1);
    usize n = 0, tokens;
    double base, mean;
    float least = 0;
    *best = 0;
    err bad = pick ? score_question(&a,
                                    a.is_korean ? "회사 규정이나 설명서에 대한 질문을 하나 쓰세요."
                                                : "Write one question about a company's rules or manuals.",
                                    &base, &tokens)
                   : no_memory;
    for (usize i = 0; !bad.code && tokens && i < us->n; i++)
        if (us->u[i].passage >= 0 && us->u[i].kind != BLOCK_HEADING) pick[n++] = &us->u[i];
    if (n) qsort(pick, n, sizeof *pick, by_score);
    if (n > most) n = most;
    for (usize i = 0; i < n && !bad.code; i++) {
        bad = score_unit(&a, us, pick[i], &mean, &tokens);
        if (bad.code || !tokens) continue;
        pick[i]->likely = (float)(mean - base), pick[i]->weighed = true;
        if (i == 0 || pick[i]->likely > *best) *best = pick[i]->likely;
        if (i == 0 || pick[i]->likely < least) least = pick[i]->likely;
    }
    for (usize i = 0; i < us->n && !bad.code; i++) us->u[i].score += WEIGHT * (us->u[i].weighed ? us->u[i].likely : least);
    mem_free(pick);
    return bad;
}
