/* rag/extract.c - which sentences of the passages answer a question, and how far they do, without a language model.
 *
 * A unit's score is the idf-weighted share of the question's words that it holds (those only in its headings and column names
 * count less) plus its vector's nearness, stretched over the units, when there is an embedder: words alone are as good for the
 * first sentence where the question repeats the text, nearness finds what is said in other words. A question for a figure
 * prefers units that have one which the question did not bring.
 *
 * Not here: composing. Sentences are quoted as they stand. */
#include "rag/answer.h"
#include <math.h>
#include <stdlib.h>

static const float AROUND = 0.6f /* a word in the headings */, FIGURE = 0.15f, NEARNESS = 1.0f, PASSAGE = 0.25f;
enum { EMBED_MOST = 40, CONTEXT_CHARS = 160 };

static const err no_memory = {ERR_NOMEM, "out of memory"};

bool question_korean(str q)
{
    usize hangul = 0, letters = 0;
    for (usize at = 0; at < q.n;) {
        u32 c = utf8_next(q, &at);
        hangul += text_is_hangul(c);
        letters += text_is_letter(c);
    }
    return hangul * 5 >= letters && hangul;
}

/* Words that questions have whatever they are about. They are rare in rules and manuals and so would weigh much, and lists of
 * asked questions are full of them. Whole words only: "있나요" goes, "복지가" stays. */
static const char *const asking_words =
    " 수 것 거 게 좀 혹시 저 제 제가 저는 나는 내가 우리 저희 있나요 있어요 있습니까 있을까요 있는지 있는지요 있는가요 있나 있어 "
    "없나요 없어요 없습니까 되나요 됩니까 돼요 되어요 될까요 되는지 되는지요 되는가요 "
    "되죠 하나요 합니까 해요 할까요 하는지 하는지요 하는가요 하죠 해야 하면 되면 인가요 인가 인지 일까요 입니까 이에요 예요 "
    "뭐예요 뭔가요 뭐죠 뭐가 뭘 뭐 무엇 무엇인가요 알려 알려줘 알려주세요 주세요 줘 싶은데 싶은데요 "
    "싶어요 싶습니다 궁금해요 궁금합니다 가요 나요 주나요 주어요 줍니까 받나요 받을 대해 대해서 관해 관하여 어떻게 어떤 어느 "
    "언제 어디 어디서 누가 누구 왜 얼마 얼마나 얼마까지 며칠 며칠까지 몇 "
    "how what when where which who whom whose why do does did doing done can could may might must should shall would i we you he "
    "she they them me us my our your his her its it "
    "am is are was were be been being have has had having get gets got there here than then from about please any some so if in "
    "into on of at by for to with without the a an and or but not this that these those "
    "long many much will need want tell know let ";

err question_plain(str q, buf *out)
{
    usize before = out->n;
    buf low = {0};
    for (usize at = 0; at < q.n;) {
        usize from = q.n, end = at;
        while (at < q.n) {
            usize start = at;
            u32 c = utf8_next(q, &at);
            if (text_is_space(c)) break;
            if (!text_is_letter(c) && !text_is_digit(c)) continue;
            if (from == q.n) from = start;
            end = at;
        }
        if (from == q.n) continue;
        str w = {q.p + from, end - from};
        buf_reset(&low);
        buf_byte(&low, ' ');
        TRY(text_lower(&low, w));
        buf_byte(&low, ' ');
        if (str_find(str_of(asking_words), buf_view(&low), 0) >= 0) continue;
        if (out->n > before) buf_byte(out, ' ');
        buf_str(out, w);
    }
    buf_free(&low);
    if (out->n == before) buf_str(out, q); /* nothing else was said */
    return buf_error(out);
}

/* by the interrogatives of both languages that ask for a number, an amount or a time */
bool question_asks_figure(str q)
{
    static const char *const asks[] = {"며칠",     "몇",        "얼마",         "언제",       "how many",
                                       "how much", "how long",  "how often",    "how fast",   "how soon",
                                       "how far",  "how old",   "how large",    "how big",    "how high",
                                       "when ",    "what time", "what percent", "what price", "what date"};
    buf low = {0};
    bool found = false;
    if (!text_lower(&low, q).code)
        for (usize i = 0; i < COUNT_OF(asks); i++) found |= str_find(buf_view(&low), str_of(asks[i]), 0) >= 0;
    buf_free(&low);
    return found;
}

/* ---- scores
 * -----------------------------------------------------------------------------------------------------------------------------
 */
typedef struct {
    keyword_index *k;
    term_set asked;
    float *idf, mass;
    claims given;
    bool figure;
} asking;

static err asking_begin(asking *a, keyword_index *k, str question, arena *mem)
{
    *a = (asking){.k = k, .figure = question_asks_figure(question)};
    buf plain = {0};
    err bad = question_plain(question, &plain);
    if (!bad.code) bad = term_set_of(mem, buf_view(&plain), true, &a->asked);
    buf_free(&plain);
    TRY(bad);
    TRY(claims_of(question, true, &a->given));
    a->idf = arena_take(mem, (a->asked.n + 1) * sizeof(float));
    if (!a->idf) return no_memory;
    for (usize i = 0; i < a->asked.n; i++) a->mass += a->idf[i] = keyword_idf(k, a->asked.h[i]);
    return OK;
}

static void cover_unit(const asking *a, unit *u)
{
    float found = 0;
    for (usize i = 0; i < a->asked.n; i++) {
        if (term_set_has(&u->own, a->asked.h[i]))
            found += a->idf[i];
        else if (term_set_has(&u->around, a->asked.h[i]))
            found += AROUND * a->idf[i];
    }
    u->cover = a->mass > 0 ? found / a->mass : 0;
}

static bool has_new_figure(const asking *a, const unit *u)
{
    for (usize i = 0; i < u->facts.n; i++)
        if (u->facts.c[i].kind == CLAIM_FIGURE && !claims_hold(&a->given, &u->facts.c[i])) return true;
    return false;
}

void unit_context(const units *us, const unit *u, buf *out)
{
    str above = u->above;
    i64 nl;
    while ((nl = str_find(above, S("\n"), 0)) >= 0 && utf8_count(above) > CONTEXT_CHARS)
        above.p += nl + 1, above.n -= (usize)nl + 1;
    buf_str(out, above);
    buf_byte(out, '\n');
    if (u->lead >= 0 && !str_ends(above, us->u[u->lead].text)) {
        unit_line(us, &us->u[u->lead], out);
        buf_byte(out, '\n');
    }
    if (u->key >= 0) {
        unit_line(us, &us->u[u->key], out);
        buf_byte(out, '\n');
    }
    if (u->header >= 0 && &us->u[u->header] != u && !unit_has_names(us, u)) {
        unit_line(us, &us->u[u->header], out);
        buf_byte(out, '\n');
    }
}

/* a unit as it is embedded: with what is needed to know what it is about */
static err embedded_text(const units *us, const unit *u, buf *out)
{
    unit_context(us, u, out);
    unit_line(us, u, out);
    return buf_error(out);
}

static int by_cover(const void *x, const void *y)
{
    const unit *a = *(unit *const *)x, *b = *(unit *const *)y;
    return a->score != b->score ? (a->score > b->score ? -1 : 1) : (a > b) - (a < b);
}

static err embed_texts(engine *e, str *text, usize n, const char *question, unit **pick)
{
    i64 dim = engine_dim(e);
    str q = str_of(question);
    float *v = mem_array(float, (usize)dim *(n + 1));
    if (!v) return no_memory;
    err bad = engine_embed(e, &q, 1, EMBED_QUERY, WINDOW_MEAN, v + (usize)dim * n, NULL, NULL);
    if (!bad.code) bad = engine_embed(e, text, n, EMBED_PASSAGE, WINDOW_FIRST, v, NULL, NULL);
    for (usize i = 0; !bad.code && i < n; i++) {
        float dot = 0;
        for (i64 k = 0; k < dim; k++) dot += v[(usize)dim * i + (usize)k] * v[(usize)dim * n + (usize)k];
        pick[i]->cosine = dot;
    }
    mem_free(v);
    return bad;
}

/* cosines of the most promising units; the others keep 0 */
static err cosines(const units *us, engine *e, const char *question)
{
    unit **pick = mem_array(unit *, us->n + 1);
    str *text = mem_array(str, EMBED_MOST);
    buf b[EMBED_MOST] = {0};
    usize n = 0;
    err bad = pick && text ? OK : no_memory;
    for (usize i = 0; !bad.code && i < us->n; i++)
        if (us->u[i].passage >= 0 && us->u[i].kind != BLOCK_HEADING) pick[n++] = &us->u[i];
    if (!bad.code) qsort(pick, n, sizeof *pick, by_cover);
    if (n > EMBED_MOST) n = EMBED_MOST;
    for (usize i = 0; !bad.code && i < n; i++) {
        bad = embedded_text(us, pick[i], &b[i]);
        text[i] = buf_view(&b[i]);
    }
    if (!bad.code && n) bad = embed_texts(e, text, n, question, pick);
    for (usize i = 0; i < COUNT_OF(b); i++) buf_free(&b[i]);
    mem_free(pick);
    mem_free(text);
    return bad;
}

static void add_nearness(units *us)
{
    float least = 2, best = -2;
    for (usize i = 0; i < us->n; i++) {
        float c = us->u[i].cosine;
        if (c == 0) continue;
        if (c < least) least = c;
        if (c > best) best = c;
    }
    for (usize i = 0; i < us->n; i++)
        if (us->u[i].cosine != 0 && best > least) us->u[i].score += NEARNESS * (us->u[i].cosine - least) / (best - least);
}

/* coverage and BM25 share of the best hit; the search is kept to the hits, so filters stay in force */
typedef struct {
    const hits *h;
} among;
static bool is_hit(void *ctx, i64 chunk, i64 of)
{
    const hits *h = ((among *)ctx)->h;
    (void)of;
    for (usize i = 0; i < h->n; i++)
        if (h->h[i].chunk == chunk) return true;
    return false;
}

static err passage_signals(keyword_index *k, str question, const hits *h, signals *s)
{
    keyword_hit *found;
    usize n;
    among a = {h};
    search_filter only = {is_hit, &a};
    buf plain = {0};
    err bad = question_plain(question, &plain);
    if (!bad.code) bad = keyword_search(k, buf_view(&plain), &only, h->n ? h->n : 1, &found, &n);
    buf_free(&plain);
    TRY(bad);
    for (usize i = 0; i < n; i++) {
        if (found[i].coverage > s->passage) s->passage = found[i].coverage;
        if (found[i].share > s->share) s->share = found[i].share;
    }
    mem_free(found);
    return OK;
}

err units_score(keyword_index *k, engine *embedder, const char *question, const hits *h, units *us, signals *s)
{
    asking a;
    str q = str_of(question);
    *s = (signals){0};
    err bad = asking_begin(&a, k, q, us->mem);
    for (usize i = 0; !bad.code && i < us->n; i++) {
        unit *u = &us->u[i];
        cover_unit(&a, u);
        u->cosine = 0;
        u->score = u->cover + (u->passage < 0 ? 0 : PASSAGE * h->h[u->passage].score / (h->h[0].score > 0 ? h->h[0].score : 1));
        if (a.figure && has_new_figure(&a, u)) u->score += FIGURE;
    }
    if (!bad.code && embedder) bad = cosines(us, embedder, question);
    if (!bad.code) bad = passage_signals(k, q, h, s);
    if (!bad.code && embedder) add_nearness(us);
    for (usize i = 0; !bad.code && i < us->n; i++) {
        if (us->u[i].passage < 0) continue;
        if (us->u[i].cover > s->sentence) s->sentence = us->u[i].cover;
        if (us->u[i].cosine > s->cosine) s->cosine = us->u[i].cosine, s->dense = true;
    }
    if (h->top_cosine > 0) s->rise = h->top_cosine - h->mean_cosine;
    claims_free(&a.given);
    return bad;
}

/* ---- quoting
 * ------------------------------------------------------------------------------------------------------------------------------
 */
static err quote_unit(collection *c, const unit *u, const hits *h, answer *a)
{
    answer_sentence *s = &a->s[a->n_s++];
    buf line = {0};
    put_line(u->text, false, &line); /* the quote keeps the text as it is */
    s->text = buf_take(&line);
    s->c = mem_array(citation, 1);
    if (!s->text || !s->c) return no_memory;
    s->n = 1, s->verified = true;
    return cite_range(c, h, u->passage, u->start, u->end, &s->c[0]);
}

err extract_answer(collection *c, const units *us, const hits *h, int sentences, answer *a)
{
    unit **pick = mem_array(unit *, us->n + 1);
    usize n = 0;
    buf text = {0};
    if (!pick) return no_memory;
    for (int headings = 0; headings < 2 && !n; headings++) /* headings only when there is nothing else */
        for (usize i = 0; i < us->n; i++)
            if (us->u[i].passage >= 0 && (headings || (us->u[i].kind != BLOCK_HEADING && !us->u[i].names))) pick[n++] = &us->u[i];
    qsort(pick, n, sizeof *pick, by_cover);
    if (n > (usize)sentences) n = (usize)sentences;
    a->s = mem_array(answer_sentence, n + 1);
    err bad = a->s ? OK : no_memory;
    for (usize i = 0; i < n && !bad.code; i++) {
        bad = quote_unit(c, pick[i], h, a);
        if (bad.code) break;
        if (text.n) buf_byte(&text, '\n');
        buf_puts(&text, a->s[i].text);
    }
    mem_free(pick);
    a->text = buf_take(&text);
    if (!bad.code && !a->text && !(a->text = mem_strdup(""))) bad = no_memory;
    return bad;
}
