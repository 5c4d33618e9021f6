/* cli/cmd_tune_check.c - maru tune check: what a training run would learn from these files, before any training. The first
 * samples with their targets marked, lengths, packing, and every problem with file and line. */
#include "cli/cli.h"
#include "tune/tune.h"
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    cli *c;
    const tune_data *d;
    const tokenizer *tok;
    const char *path, *way;
    i64 show, batch_tokens;
    bool colour;
} report;

/* ---- masks ---- */
enum { LONG_RUN = 160, HEAD = 100, TAIL = 40 }; /* tokens of one kind in a row, and what is shown of more */

static void put_text(str s) /* line ends stay, other controls do not reach a terminal */
{
    buf b = {0};
    for (usize from = 0, at = 0; at <= s.n; at++) {
        if (at < s.n && s.p[at] != '\n') continue;
        buf_reset(&b);
        buf_put(&b, s.p + from, at - from);
        cli_shown(stdout, buf_cstr(&b));
        if (at < s.n) fputs("\n    ", stdout);
        from = at + 1;
    }
    buf_free(&b);
}

static void put_run(const report *r, const i32 *id, usize n, bool learned)
{
    stream_decoder out;
    buf b = {0};
    stream_decoder_init(&out, r->tok, true);
    out.started = true;
    if (learned)
        fputs(r->colour ? "\033[1;32m" : "⟦", stdout);
    else if (r->colour)
        fputs("\033[2m", stdout);
    for (usize i = 0; i < n; i++) {
        if (n > LONG_RUN && i == HEAD) {
            stream_decoder_end(&out, &b);
            buf_fmt(&b, " …%zu… ", n - HEAD - TAIL);
            i = n - TAIL;
        }
        stream_decoder_put(&out, id[i], &b);
    }
    stream_decoder_end(&out, &b);
    put_text(buf_view(&b));
    if (r->colour)
        fputs("\033[0m", stdout);
    else if (learned)
        fputs("⟧", stdout);
    buf_free(&b);
}

static void show_sample(const report *r, usize which)
{
    const tune_sample *s = &r->d->sample[which];
    const u8 *learn = r->d->learn + s->at;
    printf("  ");
    cli_shown(stdout, r->d->file[s->file].path);
    printf(":%u  %u %s, %u %s", s->line, s->n, L("토큰", "tokens"), s->n_target, L("학습", "learned"));
    if (s->label >= 0) {
        printf("  [");
        put_text(r->d->label[s->label].name);
        printf("]");
    }
    printf("\n    ");
    for (usize from = 0, to; from < s->n; from = to) {
        for (to = from + 1; to < s->n && learn[to] == learn[from];) to++;
        put_run(r, r->d->id + s->at + from, to - from, learn[from]);
    }
    printf("\n");
}

/* ---- numbers ---- */
static int by_size(const void *a, const void *b)
{
    u32 x = *(const u32 *)a, y = *(const u32 *)b;
    return (x > y) - (x < y);
}

/* lengths in doubling classes: [2^k, 2^(k+1)) */
static void lengths(const report *r, const u32 *sorted, usize n)
{
    json_t *o = json_object(), *rows = json_array();
    usize most = 0, count[32] = {0};
    for (usize i = 0; i < n; i++) count[31 - __builtin_clz(sorted[i] | 1)]++;
    for (int k = 0; k < 32; k++) most = count[k] > most ? count[k] : most;
    json_set(o, "min", json_integer(sorted[0]));
    json_set(o, "median", json_integer(sorted[n / 2]));
    json_set(o, "p90", json_integer(sorted[n * 9 / 10]));
    json_set(o, "max", json_integer(sorted[n - 1]));
    if (!r->c->json)
        printf("\n%s  %s %u, p90 %u, %s %u\n", L("길이 (토큰)", "lengths in tokens"), L("중앙값", "median"), sorted[n / 2],
               sorted[n * 9 / 10], L("최대", "most"), sorted[n - 1]);
    for (int k = 0; k < 32; k++) {
        if (!count[k]) continue;
        json_push(rows, json_pack("{s:I,s:I,s:I}", "from", (json_int_t)1 << k, "to", ((json_int_t)1 << (k + 1)) - 1, "samples",
                                  (json_int_t)count[k]));
        if (r->c->json) continue;
        printf("  %7lld-%-7lld %8zu ", 1ll << k, (1ll << (k + 1)) - 1, count[k]);
        for (usize i = 0; i < (count[k] * 40 + most - 1) / most; i++) fputs("█", stdout);
        printf("\n");
    }
    json_set(o, "histogram", rows);
    json_set(r->c->out, "lengths", o);
}

static err print_packing(const report *r, u32 longest)
{
    tune_packing *p = NULL;
    tune_pack_opts o = {.batch_tokens = r->batch_tokens, .seed = (u64)r->c->seed};
    TRY(tune_packing_new(&p, r->d, &o));
    i64 rows = 0;
    for (usize i = 0; i < p->n_packs; i++) rows += p->pack[i].rows;
    double used = p->n_packs ? (double)rows / ((double)p->n_packs * (double)p->o.batch_tokens) : 0;
    double padded = (double)rows / ((double)r->d->n_samples * (double)i64_max(1, (i64)longest - !r->d->o.head));
    json_set(r->c->out, "packing",
             json_pack("{s:I,s:I,s:I,s:f,s:f}", "batch_tokens", (json_int_t)p->o.batch_tokens, "batches", (json_int_t)p->n_packs,
                       "rows", (json_int_t)rows, "efficiency", used, "padded_efficiency", padded));
    if (!r->c->json)
        printf("\n%s  %zu × %lld %s, %.1f %% %s (%s %.1f %%)\n", L("묶음", "packing"), p->n_packs, (long long)p->o.batch_tokens,
               L("토큰", "tokens"), used * 100, L("사용", "used"), L("채워 넣으면", "padded to the longest:"), padded * 100);
    tune_packing_free(p);
    return OK;
}

static void files(const report *r)
{
    json_t *formats = json_object(), *list_of = json_array();
    for (usize i = 0; i < r->d->n_files; i++) {
        const tune_file *f = &r->d->file[i];
        const char *format = f->n_samples ? tune_format_name[f->format] : NULL;
        if (format)
            json_set(formats, format,
                     json_integer(json_integer_value(json_object_get(formats, format)) + (json_int_t)f->n_samples));
        json_push(list_of, json_pack("{s:o,s:o,s:I,s:I,s:I}", "path", json_cstr(f->path), "format", json_cstr(format), "samples",
                                     (json_int_t)f->n_samples, "tokens", (json_int_t)f->tokens, "trainable_tokens",
                                     (json_int_t)f->targets));
        if (r->c->json) continue;
        printf("%-13s %8zu %s %10lld %s %10lld %s  ", format ? format : "-", f->n_samples, L("표본", "samples"),
               (long long)f->tokens, L("토큰", "tokens"), (long long)f->targets, L("학습", "learned"));
        cli_shown(stdout, f->path);
        printf("\n");
    }
    json_set(r->c->out, "samples", json_integer((json_int_t)r->d->n_samples));
    json_set(r->c->out, "tokens", json_integer((json_int_t)r->d->n_tokens));
    json_set(r->c->out, "trainable_tokens", json_integer(r->d->n_targets));
    json_set(r->c->out, "formats", formats);
    json_set(r->c->out, "files", list_of);
    json_set(r->c->out, "ctx", json_integer(r->d->o.ctx));
}

static void labels(const report *r)
{
    json_t *list_of = json_array();
    if (!r->d->template) {
        json_decref(list_of);
        return;
    }
    json_set(r->c->out, "template", json_cstr(r->d->template));
    json_set(r->c->out, "labels", list_of);
    if (!r->c->json) printf("\n%s  %s\n", L("틀", "template"), r->d->template);
    for (usize i = 0; i < r->d->n_labels; i++) {
        const tune_label *l = &r->d->label[i];
        json_push(list_of,
                  json_pack("{s:o,s:o,s:I}", "label", json_str(l->name), "word", json_str(l->word), "samples", (json_int_t)l->n));
        if (r->c->json) continue;
        printf("  %8zu ", l->n);
        put_text(l->name);
        printf(" = \"");
        put_text(l->word);
        printf("\"\n");
    }
}

static void print_problem(const report *r, const tune_problem *p)
{
    const char *on = r->colour && p->refuse ? "\033[1;31m" : "", *off = *on ? "\033[0m" : "";
    printf("  %s%s%s %s", on, p->refuse ? L("거부", "refused") : L("알림", "note"), off, p->kind);
    if (p->n > 1) printf(" (%u)", p->n);
    printf(": ");
    cli_shown(stdout, p->message);
    printf("\n");
}

/* all of them as JSON; for people the first few of each kind in a file, and how many there are */
static void problems(const report *r)
{
    enum { SHOWN = 4 };
    json_t *list_of = json_array();
    if (r->d->n_problems && !r->c->json) printf("\n%s\n", L("문제", "problems"));
    for (usize i = 0; i < r->d->n_problems; i++) {
        const tune_problem *p = &r->d->problem[i];
        usize before = 0, after = 0;
        json_push(list_of, json_pack("{s:s,s:b,s:o,s:I,s:I,s:o}", "kind", p->kind, "refused", p->refuse, "file",
                                     json_cstr(r->d->n_files ? r->d->file[p->file].path : NULL), "line", (json_int_t)p->line,
                                     "rows", (json_int_t)p->n, "message", json_str(str_of(p->message))));
        if (r->c->json) continue;
        for (usize k = 0; k < r->d->n_problems; k++)
            if (r->d->problem[k].file == p->file && !strcmp(r->d->problem[k].kind, p->kind)) before += k<i, after += k> i;
        if (before < SHOWN) print_problem(r, p);
        if (before == SHOWN) printf("  ... %s: %zu %s\n", p->kind, after + 1, L("더", "more"));
    }
    if (r->d->n_refused > r->d->n_problems && !r->c->json)
        printf("  ... %zu %s\n", r->d->n_refused - r->d->n_problems, L("더", "more"));
    json_set(r->c->out, "problems", list_of);
    json_set(r->c->out, "refused", json_integer((json_int_t)r->d->n_refused));
}

static void print_plan(const report *r, const train_report *t)
{
    const train_memory *p = &t->plan;
    const double gib = 1 << 30;
    json_set(r->c->out, "plan",
             json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "way", r->way, "bytes", (json_int_t)p->total, "model", (json_int_t)p->model,
                       "data", (json_int_t)p->data, "trained", (json_int_t)p->trained, "optimizer", (json_int_t)p->optimizer, "step",
                       (json_int_t)p->step, "rest", (json_int_t)p->rest, "trainable", (json_int_t)t->trainable, "batch_rows",
                       (json_int_t)p->rows, "recomputed", (json_int_t)p->recomputed));
    if (r->c->json) return;
    printf("\n%s  %s: %.2f GiB\n", L("메모리 계획", "memory plan"), r->way, (double)p->total / gib);
    printf("  %s %.2f, %s %.2f, %s %.2f (%lld), %s %.2f, %s %.2f", L("모델", "model"), (double)p->model / gib, L("자료", "data"),
           (double)p->data / gib, L("학습하는 수", "trained"), (double)p->trained / gib, (long long)t->trainable, L("최적화기", "optimizer"),
           (double)p->optimizer / gib, L("걸음", "a step"), (double)p->step / gib);
    if (p->rows) printf(L(" (%lld 행, 다시 계산하는 블록 %lld)", " (%lld rows, %lld blocks computed again)"), (long long)p->rows, (long long)p->recomputed);
    printf(", %s %.2f\n", L("나머지", "rest"), (double)p->rest / gib);
}

/* What training would take, by making its plans over the whole model and looking at them. A model that cannot be opened has no plan,
 * and its data can be checked all the same. */
static err plan_of(const report *r)
{
    pool *threads = NULL;
    model *m = NULL;
    train_report t = {0};
    train_opts o = {.epochs = 1, .warmup = -1, .clip = 1, .rslora = -1, .recompute = -1, .batch_tokens = r->batch_tokens, .plan_only = true, .quiet = true, .seed = (u64)r->c->seed};
    TRY(tune_way_parse(r->way, &o.way));
    err bad = pool_new(&threads, (int)r->c->threads);
    if (!bad.code) bad = model_open(&m, r->path, threads);
    if (!bad.code) bad = tune_train(m, threads, r->d, NULL, "", &o, NULL, NULL, &t);
    if (!bad.code) print_plan(r, &t);
    else {
        json_set(r->c->out, "plan", json_pack("{s:s,s:s}", "way", r->way, "error", bad.what));
        if (!r->c->json) printf("\n%s  %s: ", L("메모리 계획", "memory plan"), r->way), cli_shown(stdout, bad.what), printf("\n");
    }
    model_close(m);
    pool_free(threads);
    return bad.code == ERR_CANCELLED ? bad : OK;
}

static err print_all(report *r)
{
    const tune_data *d = r->d;
    u32 *sorted = mem_array(u32, d->n_samples + 1);
    err bad = sorted ? OK : err_new(ERR_NOMEM, "out of memory");
    if (bad.code) return bad;
    for (usize i = 0; i < d->n_samples; i++) sorted[i] = d->sample[i].n;
    qsort(sorted, d->n_samples, sizeof *sorted, by_size);
    files(r);
    labels(r);
    if (!r->c->json && d->n_samples && r->show > 0) {
        printf("\n%s\n",
               L("배우는 곳", r->colour ? "samples (what is learned stands out)" : "samples (what is learned stands in ⟦⟧)"));
        for (usize i = 0; i < d->n_samples && (i64)i < r->show; i++) show_sample(r, i);
    }
    if (d->n_samples) {
        lengths(r, sorted, d->n_samples);
        bad = print_packing(r, sorted[d->n_samples - 1]);
        if (!bad.code && !d->n_refused) bad = plan_of(r);
    }
    problems(r);
    mem_free(sorted);
    return bad.code ? bad : tune_data_ready(d);
}

err cmd_tune_check(cli *c, int argc, char **argv)
{
    const char *name = NULL, *way = NULL;
    report r = {.c = c, .show = 3, .colour = isatty(1)};
    tune_opts o = {0};
    option opt[] = {{"-m --model", "MODEL", "whose tokenizer and template are used", OPT_STR, &name},
                    {"--train", "WAY", "whose plan of memory is shown (lora); features learn classes, the others words", OPT_STR, &way},
                    {"--template", "TEXT", "of rows with a label, with {text} in it", OPT_STR, &o.template},
                    {"--labels", "L=WORD,...", "labels and the words that stand for them", OPT_STR, &o.labels},
                    {"--ctx", "N", "most tokens of a sample (2048, or the model's context)", OPT_I64, &o.ctx},
                    {"--batch-tokens", "N", "rows of a batch (16 samples, 256 to 1024)", OPT_I64, &r.batch_tokens},
                    {"--truncate", NULL, "too long samples lose their end", OPT_FLAG, &o.truncate},
                    {"--special", NULL, "control tokens written in text, prompt and completion are meant", OPT_FLAG, &o.special},
                    {"--show", "N", "samples to print (3)", OPT_I64, &r.show}};
    char *path = NULL;
    model *m = NULL;
    tune_data *d = NULL;
    char key[96];
    PARSE(c, opt, 2, 10000);
    if (!name) return cli_missing("-m MODEL");
    if (o.ctx < 0 || r.batch_tokens < 0) return err_new(ERR_INPUT, "--ctx and --batch-tokens: expected numbers above 0");
    tune_way parsed;
    r.way = way ? way : "lora";
    TRY(tune_way_parse(r.way, &parsed));
    err bad = model_resolve(&path, name);
    if (!bad.code) bad = model_open_tokenizer(&m, path);
    if (!bad.code) o.head = parsed.kind == WAY_FEATURES || (m->arch && m->arch->encoder);
    if (!bad.code && m->arch && m->file) {
        snprintf(key, sizeof key, "%s.context_length", m->arch->name);
        m->h.n_ctx = i64_max(0, file_i64_or(m->file, key, 0)); /* the rest of the file is not needed here */
    }
    if (!bad.code) bad = tune_data_open(&d, m, c->arg.v + 1, c->arg.n - 1, &o);
    if (!bad.code) {
        r.d = d, r.tok = m->tok, r.path = path;
        c->report = true;
        bad = print_all(&r);
    }
    tune_data_free(d);
    model_close(m);
    mem_free(path);
    return bad;
}
