/* rag/augment.c - the prompt: what to do, two examples, the passages, the question.
 *
 * Small models need examples more than instructions, in the question's language. They are never offered to say that the
 * documents do not answer: given leave, they refuse what they could answer (RETRIEVAL: 46 % at 1.5B); the program refuses
 * instead. No citation marks are asked for: they number their sources wrongly; the program attaches citations. What is the same
 * for every question comes first, so that its keys and values are computed once.
 *
 * Passages are shown by units, the most promising first until the budget is spent, then in their order: a row on one line, its
 * column's name before each cell. The budget is small on purpose: what does not help misleads a small model, and each token of the
 * prompt costs it as much as a hundred of retrieval. */
#include "rag/answer.h"
#include <stdlib.h>

enum { BUDGET = 800 /* tokens of the whole prompt */, LEAST_PASSAGES = 250, FIRST_UNITS = 6, MOST_PASSAGES = 64 };

static const err no_memory = {ERR_NOMEM, "out of memory"};

typedef struct {
    const char *role, *text;
} turn;
static const turn korean[] = {
    {"system", "주어진 자료를 읽고 질문에 한 문장으로 답합니다. 숫자, 단위, 이름은 자료에 적힌 그대로 씁니다."},
    {"user", "자료\n[1] 별빛도서관 이용 안내 > 빌리기\n책은 한 사람이 다섯 권까지 빌릴 수 있다. 대출 기간은 21일이다.\n[2] "
             "별빛도서관 이용 안내 > 열람실\n열람실 자리는 3시간마다 연장한다.\n\n질문: 빌린 책은 언제까지 "
             "돌려줘야 해요?"},
    {"assistant", "책의 대출 기간은 21일입니다."},
    {"user", "자료\n[1] 은하수영장 > 이용 요금\n구분 | 평일 | 주말\n어른 | 6,000원 | 7,500원\n어린이 | 3,000원 | 4,000원\n[2] "
             "은하수영장 > 안전\n키가 120 cm보다 작으면 보호자와 함께 들어간다.\n\n질문: 아이가 토요일에 수영하려면 얼마를 "
             "내나요?"},
    {"assistant", "어린이의 주말 요금은 4,000원입니다."},
};
static const turn english[] = {
    {"system",
     "Read the passages and answer the question in one sentence. Write numbers, units and names exactly as the passages do."},
    {"user",
     "Passages\n[1] Starlight Library > Borrowing\nA reader may borrow up to five books. The loan period is 21 days.\n[2] "
     "Starlight Library > Reading room\nA seat is renewed every 3 hours.\n\nQuestion: When do I have to bring a book "
     "back?"},
    {"assistant", "The loan period of a book is 21 days."},
    {"user",
     "Passages\n[1] Galaxy Pool > Prices\nVisitor | Weekday | Weekend\nAdult | EUR 6.00 | EUR 7.50\nChild | EUR 3.00 | EUR "
     "4.00\n[2] Galaxy Pool > Safety\nVisitors under 120 cm come with an adult.\n\nQuestion: What does my son pay on a "
     "Saturday?"},
    {"assistant", "A child pays EUR 4.00 at the weekend."},
};
_Static_assert(COUNT_OF(korean) == COUNT_OF(english), "one pattern of turns");
enum { TURNS = COUNT_OF(korean) };

/* ---- which units are shown
 * ------------------------------------------------------------------------------------------------------------- */
typedef struct {
    usize index;
    float score;
} ranked;

static int by_score(const void *x, const void *y)
{
    const ranked *a = x, *b = y;
    return a->score != b->score ? (a->score > b->score ? -1 : 1) : (a->index > b->index) - (a->index < b->index);
}

/* tokens of a unit as it is shown; a line end comes on top */
static err unit_cost(const model *m, const units *us, const unit *u, i64 *cost)
{
    ids t = {0};
    buf b = {0};
    unit_line(us, u, &b);
    err bad = tokenize(m->tok, buf_view(&b), 0, &t);
    *cost = (i64)t.n + 1;
    ids_free(&t);
    buf_free(&b);
    return bad;
}

static err show_unit(const model *m, const units *us, usize i, bool *shown, i64 *left, bool *fits)
{
    i64 cost = 0, names = 0;
    i32 header = unit_has_names(us, &us->u[i]) ? -1 : us->u[i].header;
    *fits = true;
    if (shown[i]) return OK;
    TRY(unit_cost(m, us, &us->u[i], &cost));
    if (header >= 0 && !shown[header]) TRY(unit_cost(m, us, &us->u[header], &names));
    if (cost + names > *left) return *fits = false, OK;
    *left -= cost + names;
    shown[i] = true;
    if (header >= 0) shown[header] = true;
    return OK;
}

typedef struct {
    int at[MOST_PASSAGES];
    usize n;
} order; /* passages, the one with the best unit first */

/* takes the units of other passages out of r */
static usize best_passages(const units *us, ranked *r, usize n, usize most, order *o)
{
    usize kept = 0;
    for (usize i = 0; i < n; i++) {
        int p = us->u[r[i].index].passage;
        usize k = 0;
        while (k < o->n && o->at[k] != p) k++;
        if (k == o->n && (o->n == most || o->n == MOST_PASSAGES)) continue;
        if (k == o->n) o->at[o->n++] = p;
        r[kept++] = r[i];
    }
    return kept;
}

/* the best units with their neighbours, which often say what the best leaves out, then the rest by score */
static err choose_units(const model *m, const units *us, usize most, i64 left, bool *shown, order *o)
{
    ranked *r = mem_array(ranked, us->n + 1);
    bool fits;
    usize n = 0;
    err bad = r ? OK : no_memory;
    for (usize i = 0; !bad.code && i < us->n; i++)
        if (us->u[i].passage >= 0) r[n++] = (ranked){i, us->u[i].score};
    if (!bad.code) {
        qsort(r, n, sizeof *r, by_score);
        n = best_passages(us, r, n, most, o);
    }
    for (usize i = 0; !bad.code && i < n; i++) {
        usize at = r[i].index;
        bad = show_unit(m, us, at, shown, &left, &fits);
        if (bad.code || i >= FIRST_UNITS || !fits) continue;
        if (us->u[at].key >= 0) bad = show_unit(m, us, (usize)us->u[at].key, shown, &left, &fits);
        if (bad.code) break;
        if (at + 1 < us->n && us->u[at + 1].joined) bad = show_unit(m, us, at + 1, shown, &left, &fits);
        if (!bad.code && us->u[at].joined) bad = show_unit(m, us, at - 1, shown, &left, &fits);
    }
    mem_free(r);
    return bad;
}

/* the name of a file without folders and ending */
static str file_name(str s)
{
    for (usize i = s.n; i-- > 0;)
        if (s.p[i] == '/') return file_name((str){s.p + i + 1, s.n - i - 1});
    for (usize i = s.n; i-- > 1;)
        if (s.p[i] == '.') return (str){s.p, i};
    return s;
}

/* "title > heading > heading" */
static void path_line(const unit *u, const hit *h, buf *out)
{
    if (!u->above.n) buf_str(out, h->title && *h->title ? str_of(h->title) : file_name(str_of(h->document)));
    for (usize i = 0; i < u->above.n; i++) {
        if (u->above.p[i] == '\n')
            buf_puts(out, " > ");
        else
            buf_byte(out, u->above.p[i]);
    }
}

/* a guessed heading that the next unit's path repeats */
static bool is_in_path(const units *us, usize i)
{
    if (i + 1 >= us->n || us->u[i + 1].passage != us->u[i].passage) return false;
    str above = us->u[i + 1].above, text = us->u[i].text;
    return above.n >= text.n && str_ends(above, text);
}

static void write_passage(const units *us, const hits *h, const bool *shown, int passage, int number, buf *out)
{
    str above = {0};
    i32 names = -1;
    bool any = false;
    for (usize i = 0; i < us->n; i++) {
        const unit *u = &us->u[i];
        if (!shown[i] || u->kind == BLOCK_HEADING || u->passage != passage || is_in_path(us, i))
            continue; /* headings stand in the path */
        if (!any || !str_eq(u->above, above)) {
            if (!any) buf_fmt(out, "[%d] ", number);
            path_line(u, &h->h[u->passage], out);
            buf_byte(out, '\n');
            above = u->above, any = true;
        }
        bool named = unit_has_names(us, u);
        if (!named && u->header >= 0 && u->header != names && us->u[u->header].passage < 0) { /* it lies outside the passage */
            unit_line(us, &us->u[u->header], out);
            buf_byte(out, '\n');
        }
        if (!named) names = u->header;
        unit_line(us, u, out);
        buf_byte(out, '\n');
    }
}

/* ---- tokens
 * ---------------------------------------------------------------------------------------------------------------------------------
 */
static err render(const model *m, const chat_message *msg, usize n, ids *out)
{
    const token_source *src = tokenizer_source(m->tok);
    str bos = src->bos >= 0 ? token_piece(m->tok, (i32)src->bos) : S(""),
        eos = src->eos >= 0 ? token_piece(m->tok, (i32)src->eos) : S("");
    char *b = mem_strndup(bos.p, bos.n), *e = mem_strndup(eos.p, eos.n);
    chat_options o = {.bos = b ? b : "", .eos = e ? e : "", .add_generation_prompt = true};
    chat_output text = {0};
    err bad = b && e ? chat_render(m->chat, msg, n, &o, &text) : no_memory;
    bool has_bos = bos.n && str_starts(buf_view(&text.text), bos);
    if (!bad.code) bad = tokenize(m->tok, buf_view(&text.text), TOKENIZE_SPECIAL | (has_bos ? 0 : TOKENIZE_BOS), out);
    chat_output_free(&text);
    mem_free(b);
    mem_free(e);
    return bad;
}

/* for models without a template */
static err render_plain(const model *m, const chat_message *msg, usize n, bool is_korean, ids *out)
{
    buf b = {0};
    for (usize i = 0; i < n; i++) {
        if (!strcmp(msg[i].role, "assistant"))
            buf_puts(&b, is_korean ? "\n답: " : "\nAnswer: ");
        else if (i)
            buf_puts(&b, "\n\n");
        buf_puts(&b, msg[i].content);
    }
    buf_puts(&b, is_korean ? "\n답:" : "\nAnswer:");
    err bad = buf_error(&b);
    if (!bad.code) bad = tokenize(m->tok, buf_view(&b), TOKENIZE_BOS, out);
    buf_free(&b);
    return bad;
}

err augment_turns(const model *m, const chat_message *msg, usize n, bool is_korean, ids *out)
{
    if (m->chat && !render(m, msg, n, out).code) return OK;
    out->n = 0;
    return render_plain(m, msg, n, is_korean, out);
}

/* The roles' marks of the question are taken out of what documents and people write: control tokens are parsed in the whole text.
 */
static err without_marks(const model *m, str s, buf *out)
{
    ids t = {0};
    err bad = tokenize(m->tok, s, TOKENIZE_SPECIAL, &t);
    bool any = false;
    for (usize i = 0; i < t.n; i++) any |= token_kind_of(m->tok, t.id[i]) == TOKEN_CONTROL;
    if (!bad.code && !any)
        buf_str(out, s);
    else if (!bad.code)
        bad = detokenize(m->tok, t.id, t.n, false, out);
    ids_free(&t);
    return bad;
}

static err render_turns(const model *m, const turn *turns, const char *last, bool is_korean, ids *out)
{
    chat_message msg[TURNS + 1];
    usize n = TURNS;
    for (usize i = 0; i < TURNS; i++) msg[i] = (chat_message){turns[i].role, turns[i].text, NULL};
    msg[n++] = (chat_message){"user", last, NULL};
    if (!m->chat) return render_plain(m, msg, n, is_korean, out);
    err bad = render(m, msg, n, out);
    if (!bad.code) return OK;
    out->n = 0; /* templates without a system role: its words go to the first question */
    buf b = {0};
    buf_puts(&b, turns[0].text), buf_puts(&b, "\n\n"), buf_puts(&b, turns[1].text);
    msg[1].content = buf_cstr(&b);
    err again = render(m, msg + 1, n - 1, out);
    buf_free(&b);
    if (again.code) out->n = 0;
    return again.code ? render_plain(m, msg, n, is_korean, out) : OK;
}

err augment_prompt(const model *m, const char *question, const hits *h, const units *us, int passages, i64 max_tokens, ids *out)
{
    bool is_korean = question_korean(str_of(question));
    const turn *turns = is_korean ? korean : english;
    buf tail = {0}, text = {0}, clean = {0};
    order o = {0};
    bool *shown = mem_array(bool, us->n + 1);
    err bad = shown ? OK : no_memory;
    buf_fmt(&tail, "\n%s: %s", is_korean ? "질문" : "Question", question);
    if (question_asks_figure(str_of(question)))
        buf_puts(&tail, is_korean ? " (숫자와 단위를 넣어 답하세요.)" : " (Answer with the number and its unit.)");
    if (!bad.code) bad = render_turns(m, turns, buf_cstr(&tail), is_korean, out); /* how much is left for passages */
    i64 budget = i64_min(BUDGET, m->h.n_ctx - max_tokens - 8);
    i64 left = i64_max(budget - (i64)out->n - 16 * passages, i64_min(LEAST_PASSAGES, m->h.n_ctx - max_tokens - (i64)out->n - 64));
    out->n = 0;
    if (!bad.code) bad = choose_units(m, us, (usize)passages, left, shown, &o);
    buf_puts(&text, is_korean ? "자료\n" : "Passages\n");
    if (!bad.code)
        for (usize i = 0; i < o.n; i++) write_passage(us, h, shown, o.at[i], (int)i + 1, &text);
    buf_str(&text, buf_view(&tail));
    if (!bad.code) bad = buf_error(&text);
    if (!bad.code) bad = without_marks(m, buf_view(&text), &clean);
    if (!bad.code) bad = render_turns(m, turns, buf_cstr(&clean), is_korean, out);
    buf_free(&tail);
    buf_free(&text);
    buf_free(&clean);
    mem_free(shown);
    return bad;
}
