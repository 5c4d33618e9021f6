/* Training on models made by the test: every way lowers the loss of what it learns; a run that is stopped and resumed leaves the bits of
 * one that never stopped; a step cut into batches, computed again, or spread over threads is the same step; what cannot work is refused. */
#include "train_help.h"

static pool *threads;

static int begin(void **state)
{
    return folder_make(state) || pool_new(&threads, 2).code ? -1 : 0;
}

static int end(void **state)
{
    pool_free(threads);
    return folder_drop(state);
}

static tune_data *data_of(const model *m, const char *name, const char *bytes, bool head)
{
    bool table = strstr(name, ".tsv") != NULL;
    return tiny_data(m, name, bytes, &(tune_opts){.head = head, .template = table ? "{text} it is" : NULL, .labels = table ? "up= he,down= the" : NULL});
}

static train_opts opts_of(const char *way)
{
    train_opts o = {.force = true, .epochs = 30, .warmup = 0.1, .clip = 1, .rslora = -1, .recompute = 0, .batch_tokens = 64, .seed = 5, .quiet = true};
    assert_ok(tune_way_parse(way, &o.way));
    return o;
}

static void keep_losses(void *ctx, const train_step *s)
{
    double *x = ctx;
    if (s->step <= 500) x[s->step - 1] = s->loss;
}

static train_report train(model *m, const tune_data *d, const tune_data *held, const char *out, const train_opts *o, double *losses)
{
    train_report r;
    double none[500];
    assert_ok(tune_train(m, threads, d, held, in_folder(out), o, keep_losses, losses ? losses : none, &r));
    return r;
}

static void assert_same_file(const char *a, const char *b, const char *file)
{
    buf x = file_bytes(a, file), y = file_bytes(b, file);
    if (x.n != y.n || memcmp(x.p, y.p, x.n)) fail_msg("%s of %s and %s differ", file, a, b);
    buf_free(&x), buf_free(&y);
}

static void test_every_way_learns(void **state)
{
    (void)state;
    static const struct { const char *way; double lr; } ways[] = {{"all", 3e-3}, {"last:1", 3e-3}, {"lora:4", 1e-2}, {"prompt:4", 5e-2}, {"prefix:4", 5e-2}, {"head", 1e-2}, {"norm", 2e-2}};
    static const struct { const char *arch; dtype type; } bases[] = {{"llama", Q8_0}, {"qwen2", F32}, {"gemma3", Q4_K}};
    for (usize b = 0; b < COUNT_OF(bases); b++) {
        model *m = tiny_model(bases[b].arch, bases[b].type);
        tune_data *d = data_of(m, "texts.jsonl", some_texts, false);
        for (usize w = 0; w < COUNT_OF(ways); w++) {
            double loss[500] = {0};
            train_opts o = opts_of(ways[w].way);
            o.lr = ways[w].lr;
            file_remove_tree(in_folder("learn"));
            train_report r = train(m, d, d, "learn", &o, loss);
            assert_int_equal(r.steps, 30);
            if (!(r.eval_loss < 0.9 * loss[0])) fail_msg("%s of %s: the loss went from %g to %g only", ways[w].way, bases[b].arch, loss[0], r.eval_loss);
            assert_true(file_exists(in_folder("learn/maru.json")) && file_exists(in_folder("learn/curves.svg")) && file_exists(in_folder("learn/log.jsonl")));
        }
        tune_data_free(d);
        model_close(m);
    }
}

/* what was trained does the same when it is read back */
static void test_artifact_is_what_was_trained(void **state)
{
    (void)state;
    static const char *const ways[] = {"all", "last:1", "lora:4", "lora:32", "prompt:4", "prefix:4", "head", "norm", "features"};
    model *m = tiny_model("llama", Q8_0);
    for (usize w = 0; w < COUNT_OF(ways); w++) {
        bool features = !strcmp(ways[w], "features");
        tune_data *d = data_of(m, "rows.tsv", some_rows, features);
        train_opts o = opts_of(ways[w]);
        adapter_file *a;
        trained_set *set;
        o.lr = ways[w][0] == 'p' ? 5e-2 : 1e-2, o.features = FEATURE_CONCAT4;
        file_remove_tree(in_folder("kept"));
        train_report r = train(m, d, d, "kept", &o, NULL);
        assert_int_equal(r.metric.n, 6);
        if (r.metric.accuracy < 0.99) fail_msg("%s: %g of six rows it was taught", ways[w], r.metric.accuracy);
        assert_ok(adapter_load(&a, in_folder("kept"), m));
        assert_string_equal(a->text_form, "{text} it is");
        assert_int_equal(a->n_labels, 2);
        assert_string_equal(a->label[1].words, " the");
        assert_ok(adapter_trained_new(&set, m, &(adapter_mix){&(adapter_use){a, 1}, 1}));
        token_seq text[6], word[2];
        float score[12];
        int given[6];
        i32 first[2] = {-1, -1};
        for (usize i = 0; i < 6; i++) {
            const tune_sample *s = &d->sample[i];
            text[i] = (token_seq){d->id + s->at, s->n_prompt};
            if (!features) first[s->label] = d->id[s->at + s->n_prompt];
        }
        for (int i = 0; i < 2; i++) word[i] = (token_seq){&first[i], 1};
        if (trained_find(set, TRAIN_CLASSES, "")) assert_ok(eval_classifier(m, threads, set, text, 6, features ? FEATURE_CONCAT4 : FEATURE_LAST, score, NULL));
        else assert_ok(eval_labels(m, threads, set, text, 6, word, 2, score, NULL));
        eval_best(score, 6, 2, given);
        for (usize i = 0; i < 6; i++) assert_int_equal(given[i], d->sample[i].label);
        adapter_trained_free(set);
        adapter_free(a);
        mem_free(r.metric.confusion);
        tune_data_free(d);
    }
    model_close(m);
}

static void test_encoder_learns_classes(void **state)
{
    (void)state;
    static const char *const ways[] = {"features", "all", "last:1", "lora:4", "norm", "head"};
    model *m = tiny_model("bert", Q8_0);
    tune_data *d = data_of(m, "rows.tsv", some_rows, true);
    for (usize w = 0; w < COUNT_OF(ways); w++) {
        train_opts o = opts_of(ways[w]);
        o.lr = 1e-2, o.epochs = 60;
        file_remove_tree(in_folder("encoder"));
        train_report r = train(m, d, d, "encoder", &o, NULL);
        if (!(r.metric.accuracy > 0.99)) fail_msg("%s: %g of six rows it was taught", ways[w], r.metric.accuracy);
        mem_free(r.metric.confusion);
    }
    tune_data_free(d);
    model_close(m);
}

/* ---- the same run ---- */

typedef struct { atomic_bool stop; i64 at; } stopper;

static void stop_there(void *ctx, const train_step *s)
{
    stopper *x = ctx;
    if (s->step == x->at) atomic_store(&x->stop, true);
}

static void test_resumed_is_uninterrupted(void **state)
{
    (void)state;
    static const char *const ways[] = {"lora:4", "all", "prefix:3"};
    model *m = tiny_model("llama", Q8_0);
    tune_data *d = data_of(m, "texts.jsonl", some_texts, false);
    for (usize w = 0; w < COUNT_OF(ways); w++) {
        train_opts o = opts_of(ways[w]);
        o.lr = 1e-2, o.epochs = 9, o.batch_tokens = 34, o.accumulate = 2, o.dropout = !strncmp(ways[w], "lora", 4) ? 0.2 : 0, o.patience = 100, o.eval_every = 3;
        file_remove_tree(in_folder("whole")), file_remove_tree(in_folder("parts"));
        train_report whole = train(m, d, d, "whole", &o, NULL), parts;
        assert_true(whole.steps > 8);
        for (i64 cut = 2; cut <= whole.steps; cut += 3) {
            stopper s = {false, cut};
            o.cancel = &s.stop, o.resume = cut > 2, o.force = !o.resume;
            err bad = tune_train(m, threads, d, d, in_folder("parts"), &o, stop_there, &s, &parts);
            assert_int_equal(bad.code, ERR_CANCELLED);
        }
        o.cancel = NULL, o.resume = true, o.force = false;
        parts = train(m, d, d, "parts", &o, NULL);
        assert_same_file("whole", "parts", "adapter_model.safetensors");
        assert_true(whole.eval_loss == parts.eval_loss && whole.steps == parts.steps && whole.train_loss == parts.train_loss);
        buf a = file_bytes("whole", "log.jsonl"), b = file_bytes("parts", "log.jsonl");
        usize la = 0, lb = 0;
        for (usize i = 0; i < a.n; i++) la += a.p[i] == '\n';
        for (usize i = 0; i < b.n; i++) lb += b.p[i] == '\n';
        assert_int_equal(la, lb);
        assert_int_equal(la, (usize)whole.steps);
        buf_free(&a), buf_free(&b);
        train_report again = train(m, d, d, "parts", &o, NULL); /* complete: nothing changes */
        assert_true(again.finished_before && again.eval_loss == whole.eval_loss);
        assert_same_file("whole", "parts", "adapter_model.safetensors");
    }
    tune_data_free(d);
    model_close(m);
}

static void test_steps_do_not_depend_on_how_they_run(void **state)
{
    (void)state;
    model *m = tiny_model("gemma3", Q4_K);
    tune_data *d = data_of(m, "texts.jsonl", some_texts, false);
    train_opts o = opts_of("lora:4");
    double one[500], many[500], again[500], chunk[500];
    o.lr = 1e-2, o.epochs = 4, o.batch_tokens = 200; /* all four samples are a batch */
    train(m, d, NULL, "one", &o, one);
    o.recompute = 5;
    train(m, d, NULL, "again", &o, again);
    assert_same_file("one", "again", "adapter_model.safetensors");
    o.recompute = 0, o.chunk = 3;
    train(m, d, NULL, "chunk", &o, chunk);
    pool *both = threads, *single;
    assert_ok(pool_new(&single, 1));
    threads = single, o.chunk = 0;
    train(m, d, NULL, "single", &o, NULL);
    threads = both;
    pool_free(single);
    assert_same_file("one", "single", "adapter_model.safetensors");
    o.batch_tokens = 34, o.accumulate = 4; /* a batch a sample, or two */
    train_report r = train(m, d, NULL, "many", &o, many);
    assert_int_equal(r.steps, 4);
    for (int i = 0; i < 4; i++) {
        if (fabs(one[i] - many[i]) > 1e-5 * fabs(one[i])) fail_msg("step %d: loss %.9g at once, %.9g in batches", i + 1, one[i], many[i]);
        if (fabs(one[i] - chunk[i]) > 1e-5 * fabs(one[i])) fail_msg("step %d: loss %.9g whole, %.9g by chunks of three rows", i + 1, one[i], chunk[i]);
    }
    tune_data_free(d);
    model_close(m);
}

/* ---- refusals ---- */

static void refused(model *m, const tune_data *d, const train_opts *o, err_code code, const char *part)
{
    train_report r;
    err bad = tune_train(m, threads, d, NULL, in_folder("refused"), o, NULL, NULL, &r);
    if (bad.code != (int)code || !strstr(bad.what, part)) fail_msg("expected %s with \"%s\", got %s: %s", err_name((int)code), part, err_name(bad.code), bad.what);
}

static void test_refusals(void **state)
{
    (void)state;
    model *m = tiny_model("llama", Q8_0), *e = tiny_model("bert", Q8_0);
    tune_data *d = data_of(m, "texts.jsonl", some_texts, false), *l = data_of(e, "rows.tsv", some_rows, true);
    train_opts o = opts_of("lora:4");
    tune_way w;
    assert_int_equal(tune_way_parse("lora:0", &w).code, ERR_INPUT);
    assert_int_equal(tune_way_parse("all:3", &w).code, ERR_INPUT);
    assert_int_equal(tune_way_parse("dora", &w).code, ERR_INPUT);
    o.targets = "q,attention";
    refused(m, d, &o, ERR_INPUT, "\"attention\"");
    o = opts_of("last:9");
    refused(m, d, &o, ERR_INPUT, "2 blocks");
    o = opts_of("features");
    refused(m, d, &o, ERR_INPUT, "text and label");
    o = opts_of("prompt:4");
    refused(e, l, &o, ERR_UNSUPPORTED, "encoder");
    o = opts_of("lora:4"), o.batch_tokens = 8;
    refused(m, d, &o, ERR_INPUT, "longest sample");
    o = opts_of("lora:4"), o.dropout = 1;
    refused(m, d, &o, ERR_INPUT, "--dropout");
    o = opts_of("all"), o.lr = 1e30, o.clip = 0;
    refused(m, d, &o, ERR_FORMAT, "is not finite in step");
    refused(m, d, &o, ERR_FORMAT, "texts.jsonl:");
    o = opts_of("lora:4"), o.memory = 4096, o.recompute = -1;
    refused(m, d, &o, ERR_NOMEM, "every block is computed again");
    o = opts_of("lora:4");
    o.epochs = 1;
    train(m, d, NULL, "other", &o, NULL);
    o.resume = true, o.force = false, o.lr = 0.5;
    train_report r;
    err bad = tune_train(m, threads, d, NULL, in_folder("other"), &o, NULL, NULL, &r);
    assert_int_equal(bad.code, ERR_INPUT);
    assert_non_null(strstr(bad.what, "lr"));
    buf state_file = file_bytes("other", "state.safetensors");
    o.lr = 0;
    for (usize cut = 0; cut < state_file.n; cut += state_file.n / 40 + 1) { /* a checkpoint cut short is an error, never a wrong run */
        assert_ok(file_replace(in_folder("other/state.safetensors"), state_file.p, cut));
        bad = tune_train(m, threads, d, NULL, in_folder("other"), &o, NULL, NULL, &r);
        assert_int_equal(bad.code, ERR_FORMAT);
    }
    buf_free(&state_file);
    tune_data_free(d), tune_data_free(l);
    model_close(m), model_close(e);
}

/* a file of the trained numbers of every way has as many as the closed forms say */
static void test_counts(void **state)
{
    (void)state;
    model *m = tiny_model("llama", F32);
    tune_data *d = data_of(m, "texts.jsonl", some_texts, false);
    const hparams *h = &m->h;
    i64 q = h->n_head * h->head_dim, kv = h->n_kv_head * h->head_dim, all = 0;
    i64 linear = h->width * (q + 2 * kv) + q * h->width + 3 * h->width * h->n_ff;
    i64 pairs = (h->width + q) + 2 * (h->width + kv) + (q + h->width) + 2 * (h->width + h->n_ff) + (h->n_ff + h->width);
    all = h->n_vocab * h->width + h->width + h->n_layer * (linear + 2 * h->width) + (m->head.data == m->embed.data ? 0 : h->n_vocab * h->width);
    const struct { const char *way; i64 n; } want[] = {{"lora:8", 8 * h->n_layer * pairs}, {"prompt:20", 20 * h->width}, {"prefix:20", 20 * 2 * h->n_layer * kv}, {"norm", (2 * h->n_layer + 1) * h->width}, {"head", h->n_vocab * h->width}, {"all", all}, {"last:1", linear + 3 * h->width}};
    for (usize i = 0; i < COUNT_OF(want); i++) {
        train_opts o = opts_of(want[i].way);
        trained_set s;
        assert_ok(way_make(m, threads, &o, d, &s));
        if (way_count(&s) != want[i].n) fail_msg("%s trains %lld numbers, expected %lld", want[i].way, (long long)way_count(&s), (long long)want[i].n);
        way_free(&s);
    }
    tune_data_free(d);
    model_close(m);
}

/* ranks and factors by the names of modules: trained so, written as PEFT has them, read again as they were */
static void test_patterns(void **state)
{
    (void)state;
    model *m = tiny_model("llama", Q8_0);
    tune_data *d = data_of(m, "texts.jsonl", some_texts, false);
    train_opts o = opts_of("lora:4");
    adapter_file *a;
    o.epochs = 3, o.rslora = 0, o.lr = 1e-2;
    o.rank_pattern = "layers\\.1\\.mlp\\.(gate|up)_proj=8,q_pro[a-z]{1,1}=2", o.alpha_pattern = "self_attn\\.q_proj=16,model\\.layers\\.0\\.self_attn\\.v_proj=2.5";
    file_remove_tree(in_folder("patterns"));
    train(m, d, NULL, "patterns", &o, NULL);
    assert_ok(adapter_load(&a, in_folder("patterns"), m));
    assert_int_equal(a->n_pairs, 14);
    for (usize i = 0; i < a->n_pairs; i++) {
        const low_rank *p = &a->pair[i];
        bool q = strstr(p->name, "attn_q.") != NULL, wide = !strcmp(p->name, "blk.1.ffn_gate.weight") || !strcmp(p->name, "blk.1.ffn_up.weight"), v = !strcmp(p->name, "blk.0.attn_v.weight");
        i64 rank = q ? 2 : wide ? 8 : 4;
        double alpha = q ? 16 : v ? 2.5 : 8;
        if (p->rank != rank || fabs((double)p->scale - alpha / (double)rank) > 1e-6) fail_msg("%s: rank %lld, factor %g", p->name, (long long)p->rank, (double)p->scale);
    }
    buf config = file_bytes("patterns", "adapter_config.json");
    const char *ranks = strstr(buf_cstr(&config), "\"rank_pattern\""), *alphas = strstr(buf_cstr(&config), "\"alpha_pattern\"");
    assert_true(ranks && alphas && strstr(ranks, "gate_proj\": 8") && strstr(alphas, "v_proj\": 2.5"));
    buf_free(&config);
    adapter_free(a);
    o.rank_pattern = "q_proj=8,w_proj=2";
    refused(m, d, &o, ERR_INPUT, "\"w_proj\" picks nothing that is trained");
    o.rank_pattern = "q_proj=2.5";
    refused(m, d, &o, ERR_INPUT, "a whole number");
    o.rank_pattern = "q_proj=0";
    refused(m, d, &o, ERR_INPUT, "above 0");
    o.rank_pattern = "q_proj";
    refused(m, d, &o, ERR_INPUT, "no PATTERN=NUMBER");
    o.rank_pattern = "(=2";
    refused(m, d, &o, ERR_FORMAT, "regular expression");
    tune_data_free(d);
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_way_learns),        cmocka_unit_test(test_artifact_is_what_was_trained),
        cmocka_unit_test(test_encoder_learns_classes),  cmocka_unit_test(test_resumed_is_uninterrupted),
        cmocka_unit_test(test_steps_do_not_depend_on_how_they_run), cmocka_unit_test(test_counts), cmocka_unit_test(test_patterns), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
