/* cli/cmd_docs.c - maru add, sync, docs, remove, text, search. */
#include "cli/cli.h"
#include <stdlib.h>

static err chunk_option(const char *word, i64 *tokens)
{
    if (!strcmp(word, "auto")) *tokens = 0;
    else if (!strcmp(word, "none")) *tokens = -1;
    else if (!str_i64(str_of(word), tokens) || *tokens < 16 || *tokens > 100000) return err_new(ERR_INPUT, "--chunk %s: expected auto, none, or 16 to 100000 tokens", word);
    return OK;
}

static err window_option(const char *word, add_opts *o)
{
    if (strcmp(word, "mean") && strcmp(word, "best") && strcmp(word, "first")) return err_new(ERR_INPUT, "--window %s: expected mean, best or first", word);
    o->window = !strcmp(word, "first") ? WINDOW_FIRST : WINDOW_MEAN;
    o->best_window = !strcmp(word, "best");
    return OK;
}

static void failed_report(cli *c, const add_result *r)
{
    json_t *failed = json_array();
    for (usize i = 0; i < r->n_failed; i++) {
        json_push(failed, json_pack("{s:o,s:o}", "path", json_cstr(r->failed[i].path), "reason", json_cstr(r->failed[i].reason)));
        if (c->json) continue;
        fputs("maru: ", stderr);
        cli_shown(stderr, r->failed[i].path);
        fputs(": ", stderr);
        cli_shown(stderr, r->failed[i].reason);
        fputc('\n', stderr);
    }
    json_set(c->out, "failed", failed);
}

static void add_report(cli *c, const add_result *r)
{
    json_set(c->out, "added", json_integer(r->added));
    json_set(c->out, "updated", json_integer(r->updated));
    json_set(c->out, "unchanged", json_integer(r->unchanged));
    failed_report(c, r);
    json_set(c->out, "skipped", json_integer(r->skipped));
    json_set(c->out, "chunks", json_integer(r->chunks));
    json_set(c->out, "seconds", json_f(r->seconds));
    if (c->json) return;
    if (r->skipped) printf(L("문서가 아니거나 읽지 못하는 형식이라 건너뛴 파일 %lld개\n", "passed over %lld files that are no documents or of formats that are not read\n"), (long long)r->skipped);
    printf(L("추가 %lld, 바뀜 %lld, 그대로 %lld, 실패 %zu; 조각 %lld개, %.1f초\n", "added %lld, updated %lld, unchanged %lld, failed %zu; %lld chunks, %.1f s\n"), (long long)r->added, (long long)r->updated,
           (long long)r->unchanged, r->n_failed, (long long)r->chunks, r->seconds);
}

err cmd_add(cli *c, int argc, char **argv)
{
    const char *to = NULL, *embedder = NULL, *chunk = "auto", *window = "mean", *owner = NULL, *attributes = NULL;
    option      opt[] = {{"--to", "COLLECTION", "the collection; made if absent", OPT_STR, &to}, {"-e --embedder", "EMBEDDER", "for search by meaning; fixed at the first add", OPT_STR, &embedder},
                         {"--chunk", "auto|none|TOKENS", "how documents are split (auto)", OPT_STR, &chunk}, {"--window", "mean|best|first", "text longer than the embedder's window (mean)", OPT_STR, &window},
                         {"--owner", "NAME", "whose documents these are", OPT_STR, &owner}, {"--attributes", "JSON", "an object kept with each document, for --filter", OPT_STR, &attributes}};
    add_opts    o = {.cancel = &cli_cancel};
    add_result  r = {0};
    collection *col = NULL;
    engine     *e = NULL;
    char       *had = NULL;
    err         bad;
    PARSE(c, opt, 1, 1 << 20);
    if (!to) return cli_missing("--to COLLECTION");
    TRY(chunk_option(chunk, &o.chunk_tokens));
    TRY(window_option(window, &o));
    o.owner = owner;
    o.attributes = attributes;
    o.quiet = c->quiet || c->json;
    usize there = 0; /* nothing of it: no collection is made for a slip of the pen */
    for (usize i = 0; i < c->arg.n; i++) there += file_exists(c->arg.v[i]);
    if (!there) return err_new(ERR_NOTFOUND, L("%s: 그런 파일이나 폴더가 없습니다", "%s: no such file or folder"), c->arg.v[0]);
    TRY(collection_open(&col, to, COLLECTION_WRITE));
    TRY_TO(done, collection_meta_get(col, "embedder", &had));
    o.embedder_name = embedder ? embedder : had;
    if (o.embedder_name) TRY_TO(done, cli_engine(c, &e, o.embedder_name, 0));
    o.embedder = e;
    TRY_TO(done, collection_add(col, c->arg.v, c->arg.n, &o, &r));
    add_report(c, &r);
    if (r.n_failed && !r.added && !r.updated && !r.unchanged) bad = err_new(ERR_INPUT, "none of the paths could be added; the first: %s: %s", r.failed[0].path, r.failed[0].reason);
done:
    add_result_free(&r);
    mem_free(had);
    collection_close(col);
    engine_close(e);
    return bad;
}

/* Without --json and on a dry run: a line for each file, as diff marks them. */
static void sync_report(cli *c, const sync_result *r, bool dry_run)
{
    static const char *const words[] = {"add", "update", "rename", "remove"}, *const marks[] = {"+", "~", ">", "-"};
    json_t *steps = json_array();
    for (usize i = 0; i < r->n_steps && dry_run; i++) {
        const sync_step *s = &r->step[i];
        json_t *o = json_pack("{s:s,s:o}", "action", words[s->action], "path", json_cstr(s->path));
        if (s->from) json_set(o, "from", json_cstr(s->from));
        json_push(steps, o);
        if (c->json) continue;
        printf("%s ", marks[s->action]);
        if (s->from) cli_shown(stdout, s->from), fputs(" -> ", stdout);
        cli_shown(stdout, s->path);
        putchar('\n');
    }
    if (dry_run) {
        json_set(c->out, "dry_run", json_true());
        json_set(c->out, "plan", steps);
        json_set(c->out, "refused", json_boolean(r->guarded));
    } else
        json_decref(steps);
    const add_result *a = &r->add;
    json_set(c->out, "added", json_integer(a->added));
    json_set(c->out, "updated", json_integer(a->updated));
    json_set(c->out, "renamed", json_integer(r->renamed));
    json_set(c->out, "removed", json_integer(a->removed));
    json_set(c->out, "unchanged", json_integer(a->unchanged));
    failed_report(c, a);
    json_set(c->out, "skipped", json_integer(a->skipped));
    json_set(c->out, "chunks", json_integer(a->chunks));
    json_set(c->out, "seconds", json_f(a->seconds));
    if (c->json) return;
    if (dry_run) printf("%s", L("하지 않았습니다. 한다면: ", "nothing was done; it would be: "));
    printf(L("추가 %lld, 바뀜 %lld, 이름 바뀜 %lld, 삭제 %lld, 그대로 %lld, 실패 %zu; %.1f초\n", "added %lld, updated %lld, renamed %lld, removed %lld, unchanged %lld, failed %zu; %.1f s\n"), (long long)a->added,
           (long long)a->updated, (long long)r->renamed, (long long)a->removed, (long long)a->unchanged, a->n_failed, a->seconds);
    if (r->guarded) printf("%s\n", L("절반이 넘는 문서가 지워지므로 --force 없이는 거절합니다", "more than half of the documents would go: refused without --force"));
}

/* A dry run of a collection that is not there yet makes none. */
static err sync_open(const char *to, bool dry_run, collection **col)
{
    if (!dry_run) return collection_open(col, to, COLLECTION_WRITE);
    err bad = collection_open(col, to, COLLECTION_READ);
    return bad.code == ERR_NOTFOUND ? OK : bad;
}

err cmd_sync(cli *c, int argc, char **argv)
{
    const char *to = NULL, *embedder = NULL, *chunk = "auto", *window = "mean";
    sync_opts   o = {.add.cancel = &cli_cancel};
    option      opt[] = {{"--to", "COLLECTION", "the collection; made if absent", OPT_STR, &to}, {"-e --embedder", "EMBEDDER", "for search by meaning; fixed at the first add", OPT_STR, &embedder},
                         {"--dry-run", NULL, "only say what would happen", OPT_FLAG, &o.dry_run}, {"--force", NULL, "also when more than half of the documents would go", OPT_FLAG, &o.force},
                         {"--chunk", "auto|none|TOKENS", "how documents are split (auto)", OPT_STR, &chunk}, {"--window", "mean|best|first", "text longer than the embedder's window (mean)", OPT_STR, &window},
                         {"--owner", "NAME", "whose documents these are", OPT_STR, &o.add.owner}, {"--attributes", "JSON", "an object kept with each document, for --filter", OPT_STR, &o.add.attributes}};
    sync_result r = {0};
    collection *col = NULL;
    engine     *e = NULL;
    char       *had = NULL;
    err         bad;
    PARSE(c, opt, 1, 1);
    if (!to) return cli_missing("--to COLLECTION");
    TRY(chunk_option(chunk, &o.add.chunk_tokens));
    TRY(window_option(window, &o.add));
    o.add.quiet = c->quiet || c->json;
    if (!file_exists(c->arg.v[0])) return err_new(ERR_NOTFOUND, L("%s: 그런 폴더가 없습니다", "%s: no such folder"), c->arg.v[0]);
    TRY(sync_open(to, o.dry_run, &col));
    if (col) TRY_TO(done, collection_meta_get(col, "embedder", &had));
    o.add.embedder_name = embedder ? embedder : had;
    if (o.add.embedder_name) TRY_TO(done, cli_engine(c, &e, o.add.embedder_name, 0));
    o.add.embedder = e;
    TRY_TO(done, collection_sync(col, c->arg.v[0], &o, &r));
    sync_report(c, &r, o.dry_run);
done:
    sync_result_free(&r);
    mem_free(had);
    collection_close(col);
    engine_close(e);
    return bad;
}

err cmd_docs(cli *c, int argc, char **argv)
{
    collection *col = NULL;
    documents   d = {0};
    TRY(cli_parse(c, argc, argv, NULL, 0, 1, 1));
    TRY(collection_open(&col, c->arg.v[0], COLLECTION_READ));
    err     bad = collection_documents(col, &d);
    json_t *list_of = json_array();
    for (usize i = 0; i < d.n && !bad.code; i++) {
        const document *x = &d.d[i];
        json_push(list_of, json_pack("{s:o,s:o,s:o,s:I,s:I,s:I,s:I,s:o,s:o}", "id", json_cstr(x->id), "path", json_cstr(x->path), "title", json_cstr(x->title), "pages", (json_int_t)x->pages, "chars",
                                     (json_int_t)x->chars, "chunks", (json_int_t)x->chunks, "version", (json_int_t)x->version, "owner", json_cstr(x->owner), "sha256", json_cstr(x->hash)));
        if (c->json) continue;
        usize wide = utf8_count(str_of(x->id));
        cli_shown(stdout, x->id);
        printf("%*s %7lld %s %5lld %s  %s\n", wide < 48 ? (int)(48 - wide) : 0, "", (long long)x->chars, L("자", "chars"), (long long)x->chunks, L("조각", "chunks"), x->title ? x->title : "");
    }
    if (!bad.code && !d.n && !c->json) printf("%s\n", L("문서가 없습니다", "no documents"));
    json_set(c->out, "documents", list_of);
    documents_free(&d);
    collection_close(col);
    return bad;
}

err cmd_remove(cli *c, int argc, char **argv)
{
    const char *from = NULL;
    option      opt[] = {{"--from", "COLLECTION", "the collection", OPT_STR, &from}};
    collection *col = NULL;
    i64         n = 0;
    PARSE(c, opt, 1, 1 << 20);
    if (!from) return cli_missing("--from COLLECTION");
    if (!c->arg.n) return OK;
    TRY(collection_open(&col, from, COLLECTION_READ)); /* a missing one is not made */
    collection_close(col);
    TRY(collection_open(&col, from, COLLECTION_WRITE));
    err bad = collection_remove(col, c->arg.v, c->arg.n, &n);
    collection_close(col);
    json_set(c->out, "removed", json_integer(n));
    if (!bad.code && !c->json) printf(L("문서 %lld개를 지웠습니다\n", "%lld documents removed\n"), (long long)n);
    return bad;
}

json_t *rects_json(const place *p)
{
    json_t *list_of = json_array();
    for (usize i = 0; i < p->n_rects; i++)
        json_push(list_of, json_pack("{s:i,s:[f,f,f,f]}", "page", (int)p->rects[i].page, "box", (double)p->rects[i].box[0], (double)p->rects[i].box[1], (double)p->rects[i].box[2], (double)p->rects[i].box[3]));
    return list_of;
}

static bool range_of(const char *word, u32 n, u32 *start, u32 *end)
{
    i64  a = 0, b = n;
    str  w = str_of(word);
    i64  colon = str_find(w, S(":"), 0);
    if (colon < 0) return false;
    str left = {w.p, (usize)colon}, right = {w.p + colon + 1, w.n - (usize)colon - 1};
    if ((left.n && !str_i64(left, &a)) || (right.n && !str_i64(right, &b)) || a < 0 || b < a || b > n) return false;
    *start = (u32)a;
    *end = (u32)b;
    return true;
}

err cmd_text(cli *c, int argc, char **argv)
{
    const char   *in = NULL, *word = ":";
    option        opt[] = {{"--in", "COLLECTION", "the collection", OPT_STR, &in}, {"--range", "S:E", "code points [S,E); either may be left out", OPT_STR, &word}};
    collection   *col = NULL;
    const loaded *doc = NULL;
    document      info = {0};
    place         where = {0};
    u32           start, end;
    err           bad;
    PARSE(c, opt, 1, 1);
    if (!in) return cli_missing("--in COLLECTION");
    TRY(collection_open(&col, in, COLLECTION_READ));
    TRY_TO(done, collection_document(col, c->arg.v[0], &doc, &info));
    if (!range_of(word, doc->n_chars, &start, &end)) {
        bad = err_new(ERR_INPUT, "--range %s: expected START:END with 0 <= START <= END <= %u", word, doc->n_chars);
        goto done;
    }
    TRY_TO(done, load_place(doc, start, end, &where));
    str   all = {doc->text, doc->text_len};
    usize from = utf8_offset(all, start), to = from + utf8_offset((str){all.p + from, all.n - from}, end - start);
    str   text = {all.p + from, to - from};
    json_set(c->out, "document", json_cstr(info.id));
    json_set(c->out, "start", json_integer(start));
    json_set(c->out, "end", json_integer(end));
    json_set(c->out, "text", json_str(text));
    json_set(c->out, "page", where.page ? json_integer(where.page) : json_null());
    json_set(c->out, "line", json_integer(where.line));
    json_set(c->out, "rects", rects_json(&where));
    if (where.byte_end) json_set(c->out, "bytes", json_pack("[I,I]", (json_int_t)where.byte_start, (json_int_t)where.byte_end));
    if (where.element) json_set(c->out, "element", json_integer(where.element));
    if (!c->json) cli_print(text);
done:
    mem_free(where.rects);
    collection_close(col);
    return bad;
}

err search_options(const char *mode, const char *fuse, double weight, i64 k, search_opts *o)
{
    static const struct { const char *name; search_mode m; } modes[] = {{"auto", SEARCH_AUTO}, {"bm25", SEARCH_BM25}, {"dense", SEARCH_DENSE}, {"hybrid", SEARCH_HYBRID}};
    bool known = false;
    for (usize i = 0; i < COUNT_OF(modes); i++)
        if (!strcmp(mode, modes[i].name)) o->mode = modes[i].m, known = true;
    if (!known) return err_new(ERR_INPUT, "--mode %s: expected bm25, dense or hybrid", mode);
    if (strcmp(fuse, "blend") && strcmp(fuse, "rrf")) return err_new(ERR_INPUT, "--fuse %s: expected blend or rrf", fuse);
    if (!(weight > 0 && weight < 1)) return err_new(ERR_INPUT, "--weight %g: expected more than 0 and less than 1", weight);
    if (k < 1 || k > 10000) return err_new(ERR_INPUT, "-k %lld: expected 1 to 10000", (long long)k);
    o->rrf = !strcmp(fuse, "rrf");
    o->weight = (float)weight;
    o->k = (int)k;
    return OK;
}

static void hit_report(cli *c, const hit *h, json_t *list_of)
{
    json_push(list_of, json_pack("{s:i,s:f,s:f,s:o,s:I,s:o,s:o,s:i,s:I,s:I,s:o,s:f,s:f}", "rank", h->rank, "score", (double)h->score, "coverage", (double)h->coverage, "document", json_cstr(h->document), "chunk",
                                 (json_int_t)h->chunk, "title", json_cstr(h->title), "page", h->page ? json_integer(h->page) : json_null(), "line", (int)h->line, "start", (json_int_t)h->start, "end",
                                 (json_int_t)h->end, "text", json_cstr(h->text), "keyword", (double)h->keyword, "cosine", (double)h->cosine));
    if (c->json) return;
    char where[32] = "";
    if (h->page) snprintf(where, sizeof where, L("%u쪽 ", "p. %u "), h->page);
    printf("%d. ", h->rank);
    cli_shown(stdout, h->document);
    printf("  %s%s %u  [%u,%u)  %s %.3f  %s %.0f %%\n", where, L("줄", "line"), h->line, h->start, h->end, L("점수", "score"), (double)h->score, L("질문 낱말", "question terms"),
           (double)h->coverage * 100);
    str t = str_of(h->text);
    usize show = utf8_offset(t, 240);
    printf("   ");
    for (usize i = 0; i < show; i++) putchar(t.p[i] == '\n' ? ' ' : t.p[i]);
    printf(show < t.n ? "...\n" : "\n");
}

err cmd_search(cli *c, int argc, char **argv)
{
    const char *in = NULL, *mode = "auto", *fuse = "blend", *owner = NULL, *filter = NULL, *asked = NULL;
    double      weight = 0.5;
    i64         k = 10;
    option      opt[] = {{"--in", "COLLECTION", "the collection", OPT_STR, &in}, {"-k", "N", "passages wanted (10)", OPT_I64, &k}, {"--mode", "bm25|dense|hybrid", "hybrid when there is an embedder", OPT_STR, &mode},
                         {"--fuse", "blend|rrf", "how the halves are joined (blend)", OPT_STR, &fuse}, {"--weight", "W", "of keywords in the blend (0.5)", OPT_F64, &weight}, {"--owner", "NAME", "only this owner's documents", OPT_STR, &owner},
                         {"--filter", "JSON", "only documents with these attributes", OPT_STR, &filter}, {"-e --embedder", "EMBEDDER", "the collection's embedder, at another place", OPT_STR, &asked}};
    search_opts o = {0};
    collection *col = NULL;
    engine     *e = NULL;
    hits        h = {0};
    err         bad;
    PARSE(c, opt, 1, 1);
    if (!in) return cli_missing("--in COLLECTION");
    TRY(search_options(mode, fuse, weight, k, &o));
    o.owner = owner;
    o.filter = filter;
    TRY(collection_open(&col, in, COLLECTION_READ));
    TRY_TO(done, cli_embedder(c, col, o.mode, asked, &e));
    o.embedder = e;
    TRY_TO(done, collection_search(col, c->arg.v[0], &o, &h));
    json_t *list_of = json_array();
    for (usize i = 0; i < h.n; i++) hit_report(c, &h.h[i], list_of);
    if (!h.n && !c->json) printf("%s\n", L("찾은 것이 없습니다", "nothing found"));
    json_set(c->out, "query", json_cstr(c->arg.v[0]));
    json_set(c->out, "hits", list_of);
done:
    hits_free(&h);
    collection_close(col);
    engine_close(e);
    return bad;
}
