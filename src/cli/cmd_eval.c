/* cli/cmd_eval.c - maru eval nll, retrieval, answers. */
#include "cli/cli.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>

static void put_interval(json_t *o, const char *name, interval x)
{
    char ci[64];
    snprintf(ci, sizeof ci, "%s_ci", name);
    json_set(o, name, json_f(x.mean));
    json_set(o, ci, json_pack("[o,o]", json_f(x.low), json_f(x.high)));
}

static err eval_text(cli *c, int argc, char **argv)
{
    i64        ctx = 0;
    option     opt[] = {{"--ctx", "N", "tokens of a window (4096, or the model's context)", OPT_I64, &ctx}};
    engine    *e = NULL;
    buf        b = {0};
    likelihood x;
    progress   p;
    PARSE(c, opt, 3, 3);
    err bad = cli_file(c->arg.v[2], &b);
    if (!bad.code) bad = cli_engine(c, &e, c->arg.v[1], ctx > 0 ? ctx : 4096);
    if (!bad.code && !ctx) ctx = i64_min(engine_model(e)->h.n_ctx, 4096);
    if (!bad.code) bad = eval_nll(e, buf_view(&b), ctx, &x, c->quiet || c->json ? NULL : &p);
    if (!bad.code) {
        json_set(c->out, "tokens", json_integer(x.tokens));
        json_set(c->out, "nll", json_f(x.nll));
        json_set(c->out, "ppl", json_f(x.ppl));
        json_set(c->out, "ctx", json_integer(ctx));
        if (!c->json) printf("tokens %lld  nll %.5f  ppl %.3f\n", (long long)x.tokens, x.nll, x.ppl);
    }
    engine_close(e);
    buf_free(&b);
    return bad;
}

/* ---- retrieval ---- */

typedef struct {
    double *r1, *r5, *r10, *mrr, *ndcg; /* [n] per question */
    usize   n;
    double  seconds;
} retrieval;

static usize best_chunks(const hits *h, const char **id, float *score, usize most) /* documents by their best chunk */
{
    usize n = 0;
    for (usize i = 0; i < h->n && n < most; i++) {
        bool seen = false;
        for (usize k = 0; k < n; k++) seen |= !strcmp(id[k], h->h[i].document);
        if (seen) continue;
        id[n] = h->h[i].document;
        score[n++] = h->h[i].score;
    }
    return n;
}

static err one_query(collection *col, json_t *row, const search_opts *o, i64 k, retrieval *r, FILE *run)
{
    enum { MOST = 1000 };
    const char  *id[MOST], *gold[4096];
    float        score[MOST];
    usize        n_gold = 0, i;
    hits         h = {0};
    json_t      *rel = json_object_get(row, "relevant"), *g, *qid = json_object_get(row, "id");
    search_opts  wide = *o;
    double       start = clock_s();
    if (!json_is_array(rel)) return err_new(ERR_FORMAT, "question \"%s\": expected \"relevant\", a list of ids", json_string_value(json_object_get(row, "query")));
    wide.k = (int)(k * 20);
    TRY(collection_search(col, json_string_value(json_object_get(row, "query")), &wide, &h));
    r->seconds += clock_s() - start;
    usize n = best_chunks(&h, id, score, (usize)i64_min(k, MOST));
    json_array_foreach(rel, i, g) if (json_is_string(g) && n_gold < COUNT_OF(gold)) gold[n_gold++] = json_string_value(g);
    ranking x = eval_ranking(id, n, gold, n_gold);
    r->r1[r->n] = x.recall1, r->r5[r->n] = x.recall5, r->r10[r->n] = x.recall10, r->mrr[r->n] = x.mrr10, r->ndcg[r->n] = x.ndcg10;
    r->n++;
    char *name = json_is_string(qid) ? NULL : json_dumps(qid ? qid : row, JSON_ENCODE_ANY | JSON_COMPACT);
    for (i = 0; run && i < n; i++) fprintf(run, "%s Q0 %s %zu %.6f maru\n", name ? name : json_string_value(qid), id[i], i + 1, (double)score[i]);
    free(name); /* jansson's memory */
    hits_free(&h);
    return OK;
}

static err eval_retrieval(cli *c, int argc, char **argv)
{
    const char *in = NULL, *mode = "auto", *fuse = "blend", *run_path = NULL, *asked = NULL;
    double      weight = 0.5;
    i64         k = 10;
    option      opt[] = {{"--in", "COLLECTION", "the collection", OPT_STR, &in}, {"--mode", "bm25|dense|hybrid", "hybrid when there is an embedder", OPT_STR, &mode}, {"--fuse", "blend|rrf", "how the halves are joined", OPT_STR, &fuse},
                         {"--weight", "W", "of keywords in the blend (0.5)", OPT_F64, &weight}, {"-k", "N", "documents ranked (10)", OPT_I64, &k}, {"--run", "FILE", "writes a TREC run", OPT_STR, &run_path},
                         {"-e --embedder", "EMBEDDER", "the collection's embedder, at another place", OPT_STR, &asked}};
    search_opts o = {0};
    collection *col = NULL;
    engine     *e = NULL;
    json_t     *rows = NULL, *row;
    FILE       *run = NULL;
    double     *all = NULL;
    usize       i, n;
    progress    p;
    err         bad;
    PARSE(c, opt, 2, 2);
    if (!in) return cli_missing("--in COLLECTION");
    TRY(search_options(mode, fuse, weight, k, &o));
    if (k > 500) return err_new(ERR_INPUT, "-k %lld: expected 1 to 500", (long long)k);
    TRY(questions_load(c->arg.v[1], &rows));
    n = json_array_size(rows);
    TRY_TO(done, collection_open(&col, in, COLLECTION_READ));
    TRY_TO(done, cli_embedder(c, col, o.mode, asked, &e));
    o.embedder = e;
    all = mem_array(double, 5 * n);
    if (!all || (run_path && !(run = fopen(run_path, "w")))) {
        bad = all ? err_os("%s", run_path) : err_new(ERR_NOMEM, "out of memory");
        goto done;
    }
    retrieval r = {.r1 = all, .r5 = all + n, .r10 = all + 2 * n, .mrr = all + 3 * n, .ndcg = all + 4 * n};
    progress_start(&p, "eval", (i64)n);
    json_array_foreach(rows, i, row)
    {
        bad = atomic_load(&cli_cancel) ? err_new(ERR_CANCELLED, "interrupted") : one_query(col, row, &o, k, &r, run);
        if (bad.code) break;
        progress_step(&p, (i64)i + 1);
    }
    progress_end(&p);
    if (bad.code) goto done;
    static const char *names[] = {"recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10"};
    json_set(c->out, "queries", json_integer((json_int_t)n));
    for (int m = 0; m < 5; m++) {
        interval x = eval_mean(all + (usize)m * n, n, (u64)c->seed);
        put_interval(c->out, names[m], x);
        if (!c->json) printf("%-10s %.4f  [%.4f, %.4f]\n", names[m], x.mean, x.low, x.high);
    }
    json_set(c->out, "ms_per_query", json_f(r.seconds * 1000 / (double)n));
    if (!c->json) printf("%zu queries, %.2f ms each\n", n, r.seconds * 1000 / (double)n);
done:
    if (run && fclose(run) && !bad.code) bad = err_os("%s", run_path);
    json_decref(rows);
    mem_free(all);
    collection_close(col);
    engine_close(e);
    return bad;
}

/* ---- answers ---- */

/* a gold string stands in a text when it does after folding white space and case; NFC on both sides */
static bool holds(const char *text, const char *gold)
{
    buf a = {0}, b = {0}, x = {0}, y = {0};
    text_nfc(&x, str_of(text)), text_nfc(&y, str_of(gold));
    text_lower(&a, buf_view(&x)), text_lower(&b, buf_view(&y));
    usize n = 0, m = 0;
    for (usize i = 0; i < a.n; i++)
        if (!isspace((unsigned char)a.p[i])) a.p[n++] = a.p[i];
    for (usize i = 0; i < b.n; i++)
        if (!isspace((unsigned char)b.p[i])) b.p[m++] = b.p[i];
    bool yes = m && str_find((str){a.p, n}, (str){b.p, m}, 0) >= 0;
    buf_free(&a), buf_free(&b), buf_free(&x), buf_free(&y);
    return yes;
}

typedef struct { i64 n, answerable, unanswerable, holds, cited, verbatim, answered, refused_right, refused_wrong; } judged;

static void judge(const answer *a, json_t *gold, judged *j)
{
    usize   i;
    json_t *g;
    bool    in_answer = false, in_cited = false, verbatim = a->n_s > 0;
    j->n++;
    if (!json_array_size(gold)) {
        j->unanswerable++;
        j->refused_right += a->refused;
        return;
    }
    j->answerable++;
    if (a->refused) {
        j->refused_wrong++;
        return;
    }
    j->answered++;
    json_array_foreach(gold, i, g)
    {
        const char *want = json_string_value(g);
        if (!want) continue;
        in_answer |= holds(a->text, want);
        for (usize s = 0; s < a->n_s; s++)
            for (usize k = 0; k < a->s[s].n; k++) in_cited |= holds(a->s[s].c[k].quote, want);
    }
    for (usize s = 0; s < a->n_s; s++) verbatim &= a->s[s].verified;
    j->holds += in_answer;
    j->cited += in_answer && in_cited;
    j->verbatim += verbatim;
}

static err answers_all(cli *c, collection *col, json_t *rows, ask_opts *o, judged *j, bool show)
{
    json_t  *row, *list_of = json_array();
    usize    i;
    progress p;
    err      bad = OK;
    progress_start(&p, "eval", (i64)json_array_size(rows));
    json_array_foreach(rows, i, row)
    {
        answer a = {0};
        judged before = *j;
        if (atomic_load(&cli_cancel)) bad = err_new(ERR_CANCELLED, "interrupted");
        if (!bad.code) bad = collection_ask(col, json_string_value(json_object_get(row, "query")), o, &a);
        if (bad.code) break;
        judge(&a, json_object_get(row, "answers"), j);
        json_t *one = json_pack("{s:O?,s:o,s:b,s:b,s:b,s:f,s:f,s:f}", "id", json_object_get(row, "id"), "answer", json_cstr(a.text), "refused", a.refused, "holds", j->holds > before.holds, "cited", j->cited > before.cited,
                                "answerable", (double)a.answerable, "answerable_after", (double)a.answerable_after, "least_logprob", (double)a.least_logprob);
        if (show && !c->json)
            printf("%s  %s%s%s  %.3f %.3f %.2f  %s\n   -> %s\n", json_string_value(json_object_get(row, "id")), a.refused ? "refused " : "", j->holds > before.holds ? "holds " : "", j->cited > before.cited ? "cited" : "", (double)a.answerable,
                   (double)a.answerable_after, (double)a.least_logprob, json_string_value(json_object_get(row, "query")), a.text);
        json_push(list_of, one);
        answer_free(&a);
        progress_step(&p, (i64)i + 1);
    }
    progress_end(&p);
    json_set(c->out, "rows", list_of);
    return bad;
}

static void answers_report(cli *c, const judged *j)
{
    struct { const char *name; i64 k, n; } row[] = {{"answer_holds", j->holds, j->answerable}, {"cited_holds", j->cited, j->answerable}, {"verbatim", j->verbatim, j->answered},
                                                    {"refused_right", j->refused_right, j->unanswerable}, {"refused_wrong", j->refused_wrong, j->answerable}};
    json_set(c->out, "questions", json_integer(j->n));
    for (usize i = 0; i < COUNT_OF(row); i++) {
        interval x = eval_share(row[i].k, row[i].n);
        put_interval(c->out, row[i].name, x);
        if (!c->json) printf("%-14s %4lld of %-4lld %.3f  [%.3f, %.3f]\n", row[i].name, (long long)row[i].k, (long long)row[i].n, x.mean, x.low, x.high);
    }
}

static err eval_answers(cli *c, int argc, char **argv)
{
    const char *in = NULL, *model_name = NULL, *asked = NULL, *mode = "auto";
    bool        show = false;
    i64         sentences = 0;
    ask_opts    o = {.cancel = &cli_cancel};
    option      opt[] = {{"--in", "COLLECTION", "the collection", OPT_STR, &in}, {"-m --model", "MODEL", "writes the answers; without one quoted sentences are judged", OPT_STR, &model_name}, {"--show", NULL, "every question with its answer", OPT_FLAG, &show},
                         {"--threshold", "T", "as of ask", OPT_F64, &o.threshold, &o.threshold_given}, {"--always-answer", NULL, "never refuses", OPT_FLAG, &o.always_answer}, {"--mode", "bm25|dense|hybrid", "how passages are found", OPT_STR, &mode},
                         {"--sentences", "N", "quoted without a model (2)", OPT_I64, &sentences}, {"-e --embedder", "EMBEDDER", "the collection's embedder, at another place", OPT_STR, &asked}};
    collection *col = NULL;
    engine     *e = NULL;
    json_t     *rows = NULL;
    judged      j = {0};
    err         bad;
    PARSE(c, opt, 2, 2);
    if (!in) return cli_missing("--in COLLECTION");
    TRY(search_options(mode, "blend", 0.5, 10, &o.search));
    TRY(questions_load(c->arg.v[1], &rows));
    TRY_TO(done, collection_open(&col, in, COLLECTION_READ));
    TRY_TO(done, cli_embedder(c, col, o.search.mode, asked, &e));
    o.search.embedder = e;
    o.sentences = (int)sentences;
    if (model_name) {
        TRY_TO(done, cli_engine(c, &o.model, model_name, 0));
        TRY_TO(done, session_open(&o.session, o.model, 0));
    }
    TRY_TO(done, answers_all(c, col, rows, &o, &j, show));
    answers_report(c, &j);
done:
    session_close(o.session);
    json_decref(rows);
    collection_close(col);
    engine_close(o.model);
    engine_close(e);
    return bad;
}

err cmd_eval(cli *c, int argc, char **argv)
{
    static const struct { const char *name; err (*run)(cli *, int, char **); } kinds[] = {{"nll", eval_text}, {"retrieval", eval_retrieval}, {"answers", eval_answers}, {"classify", cmd_eval_classify}};
    for (usize i = 0; argc > 1 && i < COUNT_OF(kinds); i++)
        if (!strcmp(argv[1], kinds[i].name)) return kinds[i].run(c, argc, argv);
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        printf("maru eval nll MODEL FILE                     %s\nmaru eval retrieval QUESTIONS.jsonl --in C   %s\nmaru eval answers QUESTIONS.jsonl --in C     %s\nmaru eval classify MODEL DATA                %s\n\n%s\n",
               L("글이 얼마나 그럴듯한지", "how likely a text is to the model"), L("문서를 얼마나 잘 찾는지", "how well documents are found"), L("답이 얼마나 맞는지", "how well questions are answered"),
               L("글을 얼마나 잘 분류하는지", "how well texts are classified"), L("maru eval nll|retrieval|answers|classify --help: 선택 사항과 예", "maru eval nll|retrieval|answers|classify --help: options and an example"));
        return (err){ERR_CANCELLED, ""};
    }
    return err_new(ERR_INPUT, "maru eval: expected nll MODEL FILE, retrieval QUESTIONS.jsonl --in C, answers QUESTIONS.jsonl --in C, or classify MODEL DATA");
}
