/* cli/cmd_tune_train.c - maru tune MODEL DATA -o OUT --train WAY: options, progress, the report. */
#include "cli/cli.h"
#include "tune/tune.h"
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    const char *out, *way, *template, *labels, *schedule, *features;
    list        eval;
    i64         epochs, ctx, batch_tokens, accumulate, steps, eval_every, save_every, patience, chunk;
    i64         recompute;
    double      memory, lr, warmup, decay, clip, alpha, dropout, lora_plus;
    const char *targets, *rslora, *rank_pattern, *alpha_pattern;
    bool        resume, force, truncate, special;
} tune_args;

typedef struct { bool quiet, terminal; double last; } watcher;

static void show_step(void *ctx, const train_step *s)
{
    watcher *w = ctx;
    bool last = s->step == s->steps, told = !isnan(s->eval_loss);
    double now = clock_s();
    if (w->quiet || (!last && !told && now - w->last < (w->terminal ? 0.5 : 10))) return;
    w->last = now;
    fprintf(stderr, "%s%lld/%lld  %s %.4f  lr %.2g  %.0f tok/s  %.2f GiB  %s %.0f s", w->terminal ? "\r\033[K" : "", (long long)s->step, (long long)s->steps, L("손실", "loss"), s->loss, s->lr,
            s->tokens_per_s, (double)s->bytes / (1 << 30), L("남은 시간", "left"), s->left_s);
    if (told) fprintf(stderr, "  %s %.4f", L("따로 둔 자료", "held-out"), s->eval_loss);
    if (!w->terminal || told || last) fputc('\n', stderr);
}

static err schedule_parse(const char *word, schedule_kind *out)
{
    static const char *const names[] = {"linear", "cosine", "constant"};
    for (usize i = 0; i < COUNT_OF(names); i++)
        if (!strcmp(word, names[i])) return *out = (schedule_kind)i, OK;
    return err_new(ERR_INPUT, "--schedule %s: expected linear, cosine or constant", word);
}

static err switch_parse(const char *name, const char *word, int *out)
{
    if (!word || !strcmp(word, "auto")) return *out = -1, OK;
    if (!strcmp(word, "on") || !strcmp(word, "off")) return *out = !strcmp(word, "on"), OK;
    return err_new(ERR_INPUT, "%s %s: expected auto, on or off", name, word);
}

static err options_of(const cli *c, const tune_args *a, train_opts *o)
{
    *o = (train_opts){.lr = a->lr, .warmup = a->warmup, .weight_decay = a->decay, .clip = a->clip, .epochs = a->epochs, .most_steps = a->steps, .batch_tokens = a->batch_tokens, .accumulate = a->accumulate, .chunk = a->chunk, .recompute = a->recompute, .memory = (i64)(a->memory * (1 << 30)), .targets = a->targets, .rank_pattern = a->rank_pattern, .alpha_pattern = a->alpha_pattern,
                      .alpha = a->alpha, .dropout = a->dropout, .lora_plus = a->lora_plus, .seed = (u64)c->seed, .eval_every = a->eval_every, .save_every = a->save_every, .patience = a->patience, .resume = a->resume, .force = a->force, .cancel = &cli_cancel, .quiet = c->quiet || c->json};
    TRY(tune_way_parse(a->way, &o->way));
    TRY(schedule_parse(a->schedule, &o->schedule));
    TRY(feature_parse(a->features, &o->features));
    TRY(switch_parse("--rslora", a->rslora, &o->rslora));
    if (o->resume && o->force) return err_new(ERR_INPUT, "--resume goes on with the run of the folder, --force begins anew: expected one of them");
    if ((a->rank_pattern || a->alpha_pattern) && o->way.kind != WAY_LORA) return err_new(ERR_INPUT, "--rank-pattern and --alpha-pattern are of --train lora");
    if (o->patience > 0 && !a->eval.n) return err_new(ERR_INPUT, "--patience needs --eval DATA");
    return OK;
}

static json_t *report_json(const train_opts *o, const train_report *r, const tune_data *d, const char *out)
{
    char way[32];
    tune_way_name(o->way, way);
    json_t *j = json_object(), *metric = json_object();
    json_set(j, "way", json_string(way));
    json_set(j, "trainable", json_integer(r->trainable));
    json_set(j, "train_loss", json_f(r->train_loss));
    json_set(j, "eval_loss", json_f(r->eval_loss));
    if (r->metric.n) {
        json_set(metric, "n", json_integer((json_int_t)r->metric.n));
        json_set(metric, "accuracy", json_f(r->metric.accuracy));
        json_set(metric, "ci", json_pack("[o,o]", json_f(r->metric.accuracy_ci.low), json_f(r->metric.accuracy_ci.high)));
        json_set(metric, "macro_f1", json_f(r->metric.macro_f1));
    }
    json_set(j, "metric", metric);
    json_set(j, "tokens", json_integer(r->tokens));
    json_set(j, "tokens_per_s", json_f(r->tokens_per_s));
    json_set(j, "steps", json_integer(r->steps));
    json_set(j, "samples", json_integer((json_int_t)d->n_samples));
    json_set(j, "seconds", json_f(r->seconds));
    json_set(j, "peak_bytes", json_integer((json_int_t)r->peak_bytes));
    json_set(j, "effect", json_f(r->effect));
    json_set(j, "planned_bytes", json_integer((json_int_t)r->planned_bytes));
    json_set(j, "artifact", json_cstr(out));
    json_set(j, "artifact_bytes", json_integer((json_int_t)r->artifact_bytes));
    json_set(j, "stopped_early", json_boolean(r->stopped_early));
    return j;
}

static void report_print(const train_opts *o, const train_report *r, const model *m, const tune_data *d, const char *out)
{
    char way[32];
    tune_way_name(o->way, way);
    if (r->finished_before) printf("%s\n", L("이 실행은 이미 끝나 있었습니다: 바뀐 것이 없습니다", "this run was complete: nothing changed"));
    printf("%s: %lld %s (%.3f %%)\n", way, (long long)r->trainable, L("개의 수를 학습했습니다", "numbers trained"), 100 * (double)r->trainable / (double)m->parameters);
    if (o->way.kind == WAY_HEAD && !d->n_labels && m->head.data == m->embed.data)
        printf("%s\n", L("출력 행렬은 임베딩과 떨어진 새 행렬입니다", "the output matrix is no longer tied to the embeddings: it is a matrix of its own"));
    printf("%s %.4f", L("학습 손실", "training loss"), r->train_loss);
    if (isfinite(r->eval_loss)) printf("  %s %.4f", L("따로 둔 자료", "held-out loss"), r->eval_loss);
    if (isfinite(r->effect)) printf("  %s %.3g", L("로짓의 최대 변화", "largest change of a logit"), r->effect);
    if (r->metric.n) printf("  %s %.4f [%.4f, %.4f]  macro F1 %.4f", L("정확도", "accuracy"), r->metric.accuracy, r->metric.accuracy_ci.low, r->metric.accuracy_ci.high, r->metric.macro_f1);
    printf("\n%lld %s, %.1f s, %.0f tok/s, %s %.2f GiB (%s %.2f), %s (%.1f MB)\n", (long long)r->tokens, L("토큰", "tokens"), r->seconds, r->tokens_per_s, L("최대 메모리", "peak"), (double)r->peak_bytes / (1 << 30),
           L("계획", "planned"), (double)r->planned_bytes / (1 << 30), out, (double)r->artifact_bytes / 1e6);
}

static err open_data(const tune_args *a, const model *m, const train_opts *o, char **path, usize n, tune_data **train, tune_data **held)
{
    bool head = m->arch->encoder || o->way.kind == WAY_FEATURES;
    tune_opts t = {.ctx = a->ctx, .template = a->template, .labels = a->labels, .head = head, .truncate = a->truncate, .special = a->special};
    TRY(tune_data_open(train, m, (const char *const *)path, n, &t));
    if (!a->eval.n) return OK;
    if ((*train)->n_labels) t.template = (*train)->template, t.labels = (*train)->labels; /* the same form, whatever the held-out file says */
    return tune_data_open(held, m, a->eval.v, a->eval.n, &t);
}

err cmd_tune_train(cli *c, int argc, char **argv)
{
    tune_args a = {.epochs = 1, .recompute = -1, .warmup = -1, .clip = 1, .schedule = "linear", .features = "last"};
    option opt[] = {{"-o --out", "DIR", "folder of the run: adapter, log, curves, state", OPT_STR, &a.out},
                    {"--train", "WAY", "features head last:N all lora[:R] prompt[:N] prefix[:N] norm", OPT_STR, &a.way},
                    {"--eval", "DATA", "held-out data, measured after each epoch", OPT_LIST, &a.eval},
                    {"--epochs", "N", "times through the data (1)", OPT_I64, &a.epochs},
                    {"--lr", "X", "learning rate (the way's own)", OPT_F64, &a.lr},
                    {"--ctx", "N", "most tokens of a sample", OPT_I64, &a.ctx},
                    {"--batch-tokens", "N", "rows of a batch (16 samples, 256 to 1024)", OPT_I64, &a.batch_tokens},
                    {"--accumulate", "N", "batches of a step (1)", OPT_I64, &a.accumulate},
                    {"--resume", NULL, "go on from the folder's state", OPT_FLAG, &a.resume},
                    {"--force", NULL, "a run that the folder holds gives way", OPT_FLAG, &a.force},
                    {"--template", "T", "label rows: '리뷰: {text}\\n감정:'", OPT_STR, &a.template},
                    {"--labels", "L", "label rows: '부정= bad,긍정= good'", OPT_STR, &a.labels},
                    {"--features", "K", "last second mean4 concat4 (last)", OPT_STR, &a.features},
                    {"--targets", "LIST", "of lora: q,k,v,o,gate,up,down (all)", OPT_STR, &a.targets},
                    {"--alpha", "X", "of lora (twice the rank)", OPT_F64, &a.alpha},
                    {"--rank-pattern", "RE=R,...", "ranks of modules by name, as PEFT's rank_pattern", OPT_STR, &a.rank_pattern},
                    {"--alpha-pattern", "RE=X,...", "alphas of modules by name", OPT_STR, &a.alpha_pattern},
                    {"--rslora", "auto|on|off", "scale alpha/sqrt(rank) (auto: above rank 16)", OPT_STR, &a.rslora},
                    {"--lora-plus", "X", "learning rate of b over that of a (1)", OPT_F64, &a.lora_plus},
                    {"--dropout", "P", "of lora's input (0)", OPT_F64, &a.dropout},
                    {"--schedule", "S", "linear cosine constant (linear)", OPT_STR, &a.schedule},
                    {"--warmup", "P", "share of the steps (0.05)", OPT_F64, &a.warmup},
                    {"--weight-decay", "X", "(0)", OPT_F64, &a.decay},
                    {"--clip", "X", "largest norm of a gradient (1), 0: none", OPT_F64, &a.clip},
                    {"--steps", "N", "stop after N steps", OPT_I64, &a.steps},
                    {"--eval-every", "N", "steps (an epoch)", OPT_I64, &a.eval_every},
                    {"--save-every", "N", "steps (an epoch, or 5 minutes)", OPT_I64, &a.save_every},
                    {"--patience", "N", "evaluations without a better loss before it stops; the best is kept", OPT_I64, &a.patience},
                    {"--recompute", "N", "blocks computed again instead of kept in memory (as few as fit)", OPT_I64, &a.recompute},
                    {"--memory", "GIB", "that a step may take (what is available)", OPT_F64, &a.memory},
                    {"--chunk", "N", "rows of logits at once", OPT_I64, &a.chunk},
                    {"--truncate", NULL, "too long samples lose their end", OPT_FLAG, &a.truncate},
                    {"--special", NULL, "control tokens written in the data are meant", OPT_FLAG, &a.special}};
    train_opts o;
    train_report r = {0};
    pool *threads = NULL;
    model *m = NULL;
    tune_data *train = NULL, *held = NULL;
    char *path = NULL;
    PARSE(c, opt, 2, 1000);
    if (!a.out) return cli_missing("-o DIR");
    if (!a.way) return cli_missing("--train WAY");
    TRY(options_of(c, &a, &o));
    TRY(model_resolve(&path, c->arg.v[0]));
    watcher w = {.quiet = c->quiet, .terminal = isatty(2)};
    err bad = pool_new(&threads, (int)c->threads);
    if (!bad.code) bad = model_open(&m, path, threads);
    if (!bad.code) bad = open_data(&a, m, &o, (char **)(uintptr_t)(c->arg.v + 1), c->arg.n - 1, &train, &held);
    if (!bad.code) bad = tune_train(m, threads, train, held, a.out, &o, show_step, &w, &r);
    if (!bad.code && c->json) json_decref(c->out), c->out = report_json(&o, &r, train, a.out);
    else if (!bad.code) {
        report_print(&o, &r, m, train, a.out);
        if (!c->quiet) curves_print(a.out);
    }
    mem_free(r.metric.confusion);
    tune_data_free(train);
    tune_data_free(held);
    model_close(m);
    pool_free(threads);
    mem_free(path);
    return bad;
}
