/* cli/cmd_eval_classify.c - maru eval classify MODEL DATA: label rows judged by the likelihood of label words, as the model stands or with
 * adapters, or by an adapter's classifier. Form of the text and words of the labels are the adapter's own unless given. */
#include "cli/cli.h"
#include "tune/tune.h"
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    pool        *threads;
    model       *m;
    adapter_use *use;
    int          n;
    trained_set *set;
    tune_data   *d;
    float       *score;                     /* [n_labels,n] */
    int         *truth, *given;
    token_seq   *text, *word;
    bool         classifier;
} judging;

static void judging_close(judging *g)
{
    tune_data_free(g->d);
    adapter_trained_free(g->set);
    model_close(g->m);
    for (int i = 0; i < g->n; i++) adapter_free((adapter_file *)(uintptr_t)g->use[i].file);
    pool_free(g->threads);
    mem_free(g->use), mem_free(g->score), mem_free(g->truth), mem_free(g->given), mem_free(g->text), mem_free(g->word);
}

static err load_adapters(judging *g, const list *words)
{
    g->use = mem_array(adapter_use, words->n + 1);
    if (!g->use) return err_new(ERR_NOMEM, "out of memory for adapters");
    for (usize i = 0; i < words->n; i++) {
        adapter_file *f = NULL;
        char *path = NULL;
        double scale = 1;
        err bad = cli_adapter_spec(words->v[i], &path, &scale);
        if (!bad.code) bad = adapter_load(&f, path, g->m);
        mem_free(path);
        TRY(bad);
        g->use[g->n++] = (adapter_use){f, (float)scale};
    }
    return g->n ? adapter_trained_new(&g->set, g->m, &(adapter_mix){g->use, g->n}) : OK;
}

/* what the last adapter with a form says, where nothing was given */
static err form_of(const judging *g, const char **template, const char **labels, buf *words)
{
    for (int i = 0; i < g->n; i++) {
        const adapter_file *f = g->use[i].file;
        if (!*template && f->text_form) *template = f->text_form;
        if (*labels || !f->n_labels) continue;
        for (usize k = 0; k < f->n_labels; k++) buf_fmt(words, "%s%s=%s", k ? "," : "", f->label[k].label, f->label[k].words);
        *labels = buf_cstr(words);
    }
    return buf_error(words);
}

static feature_kind features_kind(const judging *g)
{
    feature_kind k = FEATURE_LAST;
    for (int i = 0; i < g->n; i++) {
        const char *way = g->use[i].file->way, *colon = way && !strncmp(way, "features", 8) ? strchr(way, ':') : NULL;
        if (colon && feature_parse(colon + 1, &k).code) k = FEATURE_LAST;
    }
    return k;
}

static err words_of(judging *g)
{
    ids all = {0};
    usize n_prompt, at[2];
    err bad = OK;
    for (usize k = 0; k < g->d->n_labels && !bad.code; k++) {
        all.n = 0;
        bad = tune_data_form(g->d, S("x"), (i32)k, &all, &n_prompt);
        at[0] = n_prompt, at[1] = all.n;
        i32 *id = bad.code ? NULL : mem_array(i32, at[1] - at[0] + 1);
        if (!bad.code && !id) bad = err_new(ERR_NOMEM, "out of memory for labels");
        if (!bad.code) memcpy(id, all.id + at[0], sizeof *id * (at[1] - at[0]));
        g->word[k] = (token_seq){id, (i64)(at[1] - at[0])};
    }
    ids_free(&all);
    return bad;
}

static err judge_all(judging *g, progress *p)
{
    const tune_data *d = g->d;
    usize n = d->n_samples, k = d->n_labels;
    g->score = mem_array(float, n * k + 1), g->truth = mem_array(int, n + 1), g->given = mem_array(int, n + 1);
    g->text = mem_array(token_seq, n + 1), g->word = mem_array(token_seq, k + 1);
    if (!g->score || !g->truth || !g->given || !g->text || !g->word) return err_new(ERR_NOMEM, "out of memory for %zu rows", n);
    for (usize i = 0; i < n; i++) {
        const tune_sample *s = &d->sample[i];
        g->text[i] = (token_seq){d->id + s->at, (i64)s->n_prompt};
        g->truth[i] = s->label;
    }
    err bad = g->classifier ? eval_classifier(g->m, g->threads, g->set, g->text, n, features_kind(g), g->score, p) : words_of(g);
    if (!bad.code && !g->classifier) bad = eval_labels(g->m, g->threads, g->set, g->text, n, g->word, k, g->score, p);
    for (usize i = 0; !g->classifier && i < k; i++) mem_free((void *)(uintptr_t)g->word[i].id);
    if (!bad.code) eval_best(g->score, n, k, g->given);
    return bad;
}

static void set_named(json_t *o, str key, json_t *value)
{
    char *name = mem_strndup(key.p, key.n);
    if (name) json_set(o, name, value);
    else json_decref(value);
    mem_free(name);
}

static void report(cli *c, const tune_data *d, const classified *x)
{
    json_t *confusion = json_object();
    for (int i = 0; i < x->classes; i++) {
        json_t *row = json_object();
        for (int j = 0; j < x->classes; j++) set_named(row, d->label[j].name, json_integer(x->confusion[i * x->classes + j]));
        set_named(confusion, d->label[i].name, row);
    }
    json_set(c->out, "n", json_integer((json_int_t)x->n));
    json_set(c->out, "accuracy", json_f(x->accuracy));
    json_set(c->out, "macro_f1", json_f(x->macro_f1));
    json_set(c->out, "ci", json_pack("[o,o]", json_f(x->accuracy_ci.low), json_f(x->accuracy_ci.high)));
    json_set(c->out, "confusion", confusion);
    if (c->json) return;
    printf("%zu %s  %s %.4f [%.4f, %.4f]  macro F1 %.4f\n", x->n, L("행", "rows"), L("정확도", "accuracy"), x->accuracy, x->accuracy_ci.low, x->accuracy_ci.high, x->macro_f1);
    for (int i = 0; i < x->classes; i++) {
        printf("  %-12.*s ->", (int)d->label[i].name.n, d->label[i].name.p);
        for (int j = 0; j < x->classes; j++) printf("  %.*s %lld", (int)d->label[j].name.n, d->label[j].name.p, (long long)x->confusion[i * x->classes + j]);
        printf("\n");
    }
}

static err open_data(judging *g, const char *path, const char *template, const char *labels, i64 ctx, bool truncate)
{
    buf words = {0};
    for (usize i = 0; g->set && i < g->set->n; i++) g->classifier |= g->set->t[i].kind == TRAIN_CLASSES;
    err bad = form_of(g, &template, &labels, &words);
    tune_opts o = {.ctx = ctx, .template = template, .labels = labels, .head = g->classifier, .truncate = truncate};
    if (!bad.code && g->m->arch->encoder && !g->classifier) bad = err_new(ERR_INPUT, "%s is an encoder: expected --adapter with a classifier (maru tune --train features)", g->m->arch->name);
    if (!bad.code) bad = tune_data_open(&g->d, g->m, &path, 1, &o);
    if (!bad.code) bad = tune_data_ready(g->d);
    if (!bad.code && !g->d->n_labels) bad = err_new(ERR_INPUT, "%s: expected rows of text and label", path);
    const trained *w = g->set ? trained_find(g->set, TRAIN_CLASSES, "") : NULL;
    if (!bad.code && w && w->n != (i64)g->d->n_labels) bad = err_new(ERR_INPUT, "%s has %zu labels, the classifier %lld", path, g->d->n_labels, (long long)w->n);
    buf_free(&words);
    return bad;
}

err cmd_eval_classify(cli *c, int argc, char **argv)
{
    const char *template = NULL, *labels = NULL;
    list adapters = {0};
    i64 ctx = 0;
    bool truncate = false;
    option opt[] = {{"--adapter", "PATH[:SCALE]", "what was taught; may be given several times", OPT_LIST, &adapters},
                    {"--template", "T", "'리뷰: {text}\\n감정:' (the adapter's)", OPT_STR, &template},
                    {"--labels", "L", "'부정= bad,긍정= good' (the adapter's)", OPT_STR, &labels},
                    {"--ctx", "N", "most tokens of a text", OPT_I64, &ctx},
                    {"--truncate", NULL, "too long texts lose their end", OPT_FLAG, &truncate}};
    judging g = {0};
    char *path = NULL;
    classified x = {0};
    progress p;
    PARSE(c, opt, 3, 3);
    TRY(model_resolve(&path, c->arg.v[1]));
    err bad = pool_new(&g.threads, (int)c->threads);
    if (!bad.code) bad = model_open(&g.m, path, g.threads);
    if (!bad.code) bad = load_adapters(&g, &adapters);
    if (!bad.code) bad = open_data(&g, c->arg.v[2], template, labels, ctx, truncate);
    bool shown = !bad.code && !c->quiet && !c->json;
    if (shown) progress_start(&p, "eval", (i64)g.d->n_samples);
    if (!bad.code) bad = judge_all(&g, shown ? &p : NULL);
    if (shown) progress_end(&p);
    if (!bad.code) bad = eval_classes(g.truth, g.given, g.d->n_samples, (int)g.d->n_labels, &x);
    if (!bad.code) report(c, g.d, &x);
    mem_free(x.confusion);
    judging_close(&g);
    mem_free(path);
    mem_free(adapters.v);
    return bad;
}
