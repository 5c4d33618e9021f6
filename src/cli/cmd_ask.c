/* cli/cmd_ask.c - maru ask and calibrate. */
#include "cli/cli.h"
#include <stdlib.h>

json_t *answer_json(const answer *a)
{
    json_t *o = json_object(), *sentences = json_array(), *passages = json_array();
    for (usize i = 0; i < a->n_s; i++) {
        json_t *cites = json_array();
        for (usize k = 0; k < a->s[i].n; k++) {
            const citation *x = &a->s[i].c[k];
            json_push(cites, json_pack("{s:o,s:o,s:i,s:I,s:I,s:o,s:o}", "document", json_cstr(a->passages.h[x->passage].document), "page", x->where.page ? json_integer(x->where.page) : json_null(), "line",
                                       (int)x->where.line, "start", (json_int_t)x->start, "end", (json_int_t)x->end, "quote", json_cstr(x->quote), "rects", rects_json(&x->where)));
        }
        json_push(sentences, json_pack("{s:o,s:b,s:o}", "text", json_cstr(a->s[i].text), "verified", a->s[i].verified, "citations", cites));
    }
    for (usize i = 0; i < a->passages.n; i++) {
        const hit *h = &a->passages.h[i];
        json_push(passages, json_pack("{s:i,s:o,s:o,s:o,s:i,s:I,s:I,s:f,s:f,s:o}", "rank", h->rank, "document", json_cstr(h->document), "title", json_cstr(h->title), "page", h->page ? json_integer(h->page) : json_null(),
                                      "line", (int)h->line, "start", (json_int_t)h->start, "end", (json_int_t)h->end, "score", (double)h->score, "coverage", (double)h->coverage, "text", json_cstr(h->text)));
    }
    json_set(o, "answer", json_cstr(a->text));
    json_set(o, "refused", json_boolean(a->refused));
    json_set(o, "reason", json_cstr(a->reason));
    json_set(o, "mode", json_string(a->generated ? "generated" : "extracted"));
    json_set(o, "sentences", sentences);
    json_set(o, "passages", passages);
    json_set(o, "answerable", json_f((double)a->answerable));
    json_set(o, "answerable_after", json_f((double)a->answerable_after));
    json_set(o, "least_logprob", json_f((double)a->least_logprob));
    json_set(o, "mean_logprob", json_f((double)a->mean_logprob));
    json_set(o, "threshold", json_f(a->threshold));
    json_set(o, "threshold_after", json_f(a->threshold_after));
    json_set(o, "timings", json_pack("{s:f,s:f,s:f,s:I,s:I}", "search_s", a->search_s, "prefill_s", a->prefill_s, "decode_s", a->decode_s, "prompt_tokens", (json_int_t)a->prompt_tokens, "tokens", (json_int_t)a->tokens));
    return o;
}

static void answer_print(const answer *a, bool streamed)
{
    if (!streamed) printf("%s\n", a->text ? a->text : "");
    if (a->refused) {
        if (a->reason) printf("  (%s)\n", a->reason);
        return;
    }
    if (!a->generated) printf("  (%s)\n", L("모델 없이 문서의 문장을 그대로 인용했습니다", "quoted from the documents, no model was used"));
    for (usize i = 0; i < a->n_s; i++) {
        if (a->generated) printf("  [%zu] %s\n", i + 1, a->s[i].verified ? L("확인됨", "verified") : L("문서에서 확인되지 않음", "not verified in the documents"));
        for (usize k = 0; k < a->s[i].n; k++) {
            const citation *x = &a->s[i].c[k];
            char            page[32] = "";
            if (x->where.page) snprintf(page, sizeof page, L("%u쪽 ", "p. %u "), x->where.page);
            printf("      ");
            cli_shown(stdout, a->passages.h[x->passage].document);
            printf("  %s%s %u  [%u,%u)\n      \"", page, L("줄", "line"), x->where.line, x->start, x->end);
            for (const char *p = x->quote; *p; p++) putchar(*p == '\n' ? ' ' : *p);
            printf("\"\n");
        }
    }
}

static err stream_out(void *ctx, str text)
{
    *(bool *)ctx = true;
    cli_print(text);
    fflush(stdout);
    return OK;
}

err cmd_ask(cli *c, int argc, char **argv)
{
    const char *in = NULL, *model_name = NULL, *mode = "auto", *owner = NULL, *filter = NULL, *asked = NULL;
    i64         k = 0, tokens = 0, sentences = 0;
    list        adapters = {0};
    ask_opts    o = {.cancel = &cli_cancel};
    option      opt[] = {{"--in", "COLLECTION", "the collection", OPT_STR, &in}, {"-m --model", "MODEL", "writes the answer; without one the best sentences are quoted", OPT_STR, &model_name},
                         {"--threshold", "T", "how well the documents must answer, 0 to 1 (from calibrate)", OPT_F64, &o.threshold, &o.threshold_given}, {"--always-answer", NULL, "never refuses", OPT_FLAG, &o.always_answer},
                         {"-k", "N", "passages given to the model (4)", OPT_I64, &k}, {"-n --tokens", "N", "longest answer (160)", OPT_I64, &tokens}, {"--sentences", "N", "quoted without a model (2)", OPT_I64, &sentences},
                         {"--mode", "bm25|dense|hybrid", "how passages are found", OPT_STR, &mode}, {"--owner", "NAME", "only this owner's documents", OPT_STR, &owner}, {"--filter", "JSON", "only documents with these attributes", OPT_STR, &filter},
                         {"-e --embedder", "EMBEDDER", "the collection's embedder, at another place", OPT_STR, &asked},
                         {"--adapter", "PATH[:SCALE]", "what was taught, beside the model; may be given several times", OPT_LIST, &adapters}};
    collection *col = NULL;
    engine     *e = NULL;
    answer      a = {0};
    bool        streamed = false;
    err         bad;
    PARSE(c, opt, 1, 1);
    if (!in) return cli_missing("--in COLLECTION");
    if (adapters.n && !model_name) return err_new(ERR_INPUT, "--adapter goes with -m MODEL");
    if (k < 0 || k > 32 || tokens < 0 || sentences < 0 || sentences > 10) return err_new(ERR_INPUT, "expected -k 1 to 32, -n at least 1, --sentences 1 to 10");
    TRY(search_options(mode, "blend", 0.5, 10, &o.search));
    TRY(collection_open(&col, in, COLLECTION_READ));
    TRY_TO(done, cli_embedder(c, col, o.search.mode, asked, &e));
    o.search.embedder = e;
    o.search.owner = owner;
    o.search.filter = filter;
    o.passages = (int)k;
    o.max_tokens = tokens;
    o.sentences = (int)sentences;
    if (model_name) TRY_TO(done, cli_engine_with(c, &o.model, model_name, 0, &adapters));
    if (model_name && !c->json) o.stream = stream_out, o.ctx = &streamed;
    TRY_TO(done, collection_ask(col, c->arg.v[0], &o, &a));
    if (c->json) json_decref(c->out), c->out = answer_json(&a);
    else {
        if (streamed) printf("\n");
        if (streamed && (a.refused || a.rewritten)) printf("  (%s)\n", L("이 초안은 문서에서 확인되지 않아 거둡니다", "this draft is withdrawn: the documents do not confirm it"));
        answer_print(&a, streamed && !a.refused && !a.rewritten);
    }
done:
    mem_free(adapters.v);
    answer_free(&a);
    collection_close(col);
    engine_close(o.model);
    engine_close(e);
    return bad;
}

static err questions_read(const char *path, buf *b, json_t **rows)
{
    TRY(cli_file(path, b));
    str  all = buf_view(b);
    i64  line = 0;
    *rows = json_array();
    for (usize from = 0; from < all.n; line++) {
        i64          nl = str_find(all, S("\n"), from);
        usize        end = nl < 0 ? all.n : (usize)nl;
        str          text = str_trim((str){all.p + from, end - from});
        json_error_t where;
        from = end + 1;
        if (!text.n) continue;
        json_t *row = json_loadb(text.p, text.n, 0, &where);
        if (!json_is_object(row) || !json_is_string(json_object_get(row, "query"))) {
            json_decref(row);
            return err_new(ERR_FORMAT, "%s line %lld: expected a JSON object with a \"query\"%s%s", path, (long long)line + 1, row ? "" : ": ", row ? "" : where.text);
        }
        json_push(*rows, row);
    }
    return json_array_size(*rows) ? OK : err_new(ERR_INPUT, "%s holds no questions", path);
}

err questions_load(const char *path, json_t **rows)
{
    buf b = {0};
    err bad = questions_read(path, &b, rows);
    buf_free(&b);
    return bad;
}

err cmd_calibrate(cli *c, int argc, char **argv)
{
    const char *in = NULL, *model_name = NULL, *asked = NULL;
    double      refuse = 0.95;
    option      opt[] = {{"--in", "COLLECTION", "the collection", OPT_STR, &in}, {"-m --model", "MODEL", "the model that will answer", OPT_STR, &model_name},
                         {"--refuse", "SHARE", "of unanswerable questions to refuse (0.95)", OPT_F64, &refuse}, {"-e --embedder", "EMBEDDER", "the collection's embedder, at another place", OPT_STR, &asked}};
    collection *col = NULL;
    engine     *e = NULL;
    json_t     *rows = NULL;
    calibration k = {0};
    calibration_question *q = NULL;
    ask_opts    o = {.cancel = &cli_cancel};
    usize       n = 0;
    err         bad;
    PARSE(c, opt, 0, 1);
    if (!in) return cli_missing("--in COLLECTION");
    if (!(refuse > 0 && refuse < 1)) return err_new(ERR_INPUT, "--refuse %g: expected more than 0 and less than 1", refuse);
    TRY(collection_open(&col, in, COLLECTION_WRITE));
    if (c->arg.n) TRY_TO(done, questions_load(c->arg.v[0], &rows));
    n = json_array_size(rows);
    q = mem_array(calibration_question, n + 1);
    for (usize i = 0; q && i < n; i++) {
        json_t *row = json_array_get(rows, i);
        q[i] = (calibration_question){json_string_value(json_object_get(row, "query")), json_array_size(json_object_get(row, "answers")) > 0};
    }
    TRY_TO(done, cli_embedder(c, col, SEARCH_AUTO, asked, &e));
    o.search.embedder = e;
    if (model_name) TRY_TO(done, cli_engine(c, &o.model, model_name, 0));
    TRY_TO(done, collection_calibrate(col, q, n, &o, refuse, &k));
    json_set(c->out, "threshold", json_f(k.threshold));
    json_set(c->out, "refused", json_f(k.refused));
    json_set(c->out, "kept", json_f(k.kept));
    json_set(c->out, "auc", json_f(k.auc));
    json_set(c->out, "n", json_integer(k.n));
    if (!c->json)
        printf(L("기준 %.3f: 답이 없는 질문의 %.0f %%를 거절하고, 답이 있는 질문의 %.0f %%에 답합니다 (AUC %.3f, 질문 %lld개)\n",
                 "threshold %.3f: refuses %.0f %% of unanswerable questions, answers %.0f %% of the answerable (AUC %.3f, %lld questions)\n"), k.threshold, k.refused * 100, k.kept * 100, k.auc, (long long)k.n);
done:
    json_decref(rows);
    mem_free(q);
    collection_close(col);
    engine_close(o.model);
    engine_close(e);
    return bad;
}
