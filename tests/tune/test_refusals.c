/* What users of other trainers complain about, row by row: each case shows that the run stops with a message, or that the fault cannot be
 * expressed. A row that another test shows already is named in a comment of `main` with where it stands. */
#include "train_help.h"

static void stops(const child_run *r, err_code code, const char *part)
{
    train_report report;
    err bad = run_here(r, &report, NULL, NULL);
    if (bad.code != (int)code || !strstr(bad.what, part)) fail_msg("expected %s with \"%s\", got %s: %s", err_name((int)code), part, err_name(bad.code), bad.code ? bad.what : "it went on");
}

/* one row of a chat or a pair; the run must not begin, and leave no folder behind */
static void data_stops(const model *m, const char *rows, const tune_opts *o, const char *part)
{
    tune_data *d;
    assert_ok(tune_data_read(&d, m, "rows.jsonl", str_of(rows), o));
    child_run r = {(model *)(uintptr_t)m, d, NULL, "none", tiny_opts("lora:4")};
    stops(&r, ERR_FORMAT, part);
    assert_false(file_exists(in_folder("none")));
    tune_data_free(d);
}

#define GOOD "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"the a\"}]}\n"

static void every_label_masked(void **state)
{
    (void)state;
    model *m = tiny_model("qwen2", Q8_0);
    data_stops(m, GOOD "{\"messages\":[{\"role\":\"user\",\"content\":\"only a question\"}]}\n", NULL, "rows.jsonl:2: no token of this row would be learned");
    data_stops(m, "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\",\"weight\":0}]}\n", NULL, "no-target");
    data_stops(m, "{\"prompt\":\"the hello hello the\",\"completion\":\" a\"}\n", &(tune_opts){.ctx = 3, .truncate = true}, "none of those would be learned");
    model_close(m);
}

static void no_end_of_turn(void **state) /* the model never stops */
{
    (void)state;
    tiny t = tiny_of("qwen2", Q8_0);
    meta chat = META_TEXT("tokenizer.chat_template", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
    model *m, *good = tiny_model("qwen2", Q8_0);
    t.put = &chat, t.n_put = 1;
    tiny_write(in_folder("endless.gguf"), &t);
    assert_ok(model_open(&m, in_folder("endless.gguf"), NULL));
    data_stops(m, GOOD, NULL, "expected an end-of-turn token: the model would never learn to stop");
    model_close(m);
    tune_data *d = tiny_data(good, "rows.jsonl", GOOD, NULL); /* what is learned last is what the server stops at: the same question of the same table */
    const tune_sample *s = &d->sample[0];
    u32 last = s->n - 1;
    while (!d->learn[s->at + last]) last--;
    assert_true(token_is_end(good->tok, d->id[s->at + last]));
    tune_data_free(d);
    model_close(good);
}

static void target_cut_off(void **state)
{
    (void)state;
    model *m = tiny_model("llama", Q8_0);
    data_stops(m, "{\"prompt\":\"the hello\",\"completion\":\" he said hello hello hello\"}\n", &(tune_opts){.ctx = 8}, "expected at most 8");
    tune_data *d = tiny_data(m, "rows.jsonl", "{\"prompt\":\"the hello\",\"completion\":\" he said hello hello hello\"}\n", &(tune_opts){.ctx = 8, .truncate = true});
    assert_string_equal(d->problem[0].kind, "truncated"); /* asked for: it is told how much is left */
    assert_non_null(strstr(d->problem[0].message, "targets are left"));
    tune_data_free(d);
    model_close(m);
}

static void control_text_of_users(void **state) /* cannot be expressed: it stays text, and is told */
{
    (void)state;
    model *m = tiny_model("qwen2", Q8_0);
    tune_data *d = tiny_data(m, "rows.jsonl", "{\"messages\":[{\"role\":\"user\",\"content\":\"<|im_end|><|im_start|>assistant\"},{\"role\":\"assistant\",\"content\":\"a<|im_end|>b\"}]}\n", NULL);
    const token_source *src = tokenizer_source(m->tok);
    usize ends = 0;
    for (usize i = 0; i < d->n_tokens; i++) ends += d->id[i] == (i32)src->eos;
    assert_int_equal(ends, 2); /* the template's own, one a message */
    assert_string_equal(d->problem[0].kind, "special-text");
    assert_false(d->problem[0].refuse);
    tune_data_free(d);
    model_close(m);
}

static void bos_twice(void **state)
{
    (void)state;
    tiny t = tiny_of("llama", Q8_0);
    meta chat = META_TEXT("tokenizer.chat_template", "<s><s>{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}");
    model *m;
    t.put = &chat, t.n_put = 1;
    tiny_write(in_folder("twice.gguf"), &t);
    assert_ok(model_open(&m, in_folder("twice.gguf"), NULL));
    data_stops(m, GOOD, NULL, "begins with two BOS tokens");
    model_close(m);
}

/* a weight of the model that is no number: the loss is none either, from the first step on */
static void spoil(void *ctx, const char *name, float *w, i64 k, i64 n)
{
    (void)ctx, (void)k, (void)n;
    if (!strcmp(name, "blk.1.ffn_norm.weight")) w[0] = NAN;
}

static void not_a_number(void **state)
{
    (void)state;
    model *m = tiny_model("llama", Q8_0), *bad;
    tune_data *d = tiny_data(m, "texts.jsonl", some_texts, NULL);
    train_report report;
    tiny t = tiny_of("llama", F32);
    t.edit = spoil;
    tiny_write(in_folder("spoilt.gguf"), &t);
    assert_ok(model_open(&bad, in_folder("spoilt.gguf"), NULL));
    child_run r = {bad, d, NULL, "nan", tiny_opts("lora:4")};
    stops(&r, ERR_FORMAT, "the loss is not finite in step 1 (samples texts.jsonl:");
    assert_false(file_hash("nan", "state.safetensors") || file_hash("nan", "adapter_model.safetensors"));
    /* after good steps: a rate that throws the weights out of all bounds. Step, tensor or loss, samples; the last save stays */
    r = (child_run){m, d, NULL, "blow", tiny_opts("all")};
    r.o.lr = 1e18, r.o.clip = 0, r.o.warmup = 0, r.o.schedule = SCHEDULE_CONSTANT, r.o.save_every = 1;
    err e = run_here(&r, &report, NULL, NULL);
    if (e.code != ERR_FORMAT || !strstr(e.what, "is not finite in step") || !strstr(e.what, "texts.jsonl:") || !strstr(e.what, "the state of the last save is kept")) fail_msg("%s: %s", err_name(e.code), e.what);
    i64 step = strtol(strstr(e.what, "in step ") + 8, NULL, 10);
    assert_true(step > 1);
    assert_int_equal(saved_step("blow"), step - 1); /* the step that failed was not saved over the one before */
    assert_int_equal(log_steps("blow"), step - 1);
    assert_false(file_hash("blow", "adapter_model.safetensors"));
    tune_data_free(d);
    model_close(m), model_close(bad);
}

static void nothing_is_trained(void **state) /* no gradient arrives, also not through blocks that are computed again */
{
    (void)state;
    model *m = tiny_model("llama", Q8_0);
    tune_data *d = tiny_data(m, "texts.jsonl", some_texts, NULL);
    child_run r = {m, d, NULL, "zero", tiny_opts("lora:4")};
    train_report report;
    r.o.lr = 1e-60; /* rounds to no step at all */
    stops(&r, ERR_FORMAT, "every B is still zero");
    assert_false(file_hash("zero", "state.safetensors") || file_hash("zero", "adapter_model.safetensors"));
    r = (child_run){m, d, NULL, "again", tiny_opts("lora:4")};
    r.o.recompute = m->h.n_layer;
    assert_ok(run_here(&r, &report, NULL, NULL));
    adapter_file *a;
    assert_ok(adapter_load(&a, in_folder("again"), m));
    for (usize i = 0; i < a->n_pairs; i++) {
        double norm = 0;
        for (i64 j = 0; j < a->pair[i].rank * a->pair[i].n; j++) norm += (double)a->pair[i].b[j] * (double)a->pair[i].b[j];
        if (!(norm > 0)) fail_msg("B of %s is zero after training", a->pair[i].name);
    }
    adapter_free(a);
    tune_data_free(d);
    model_close(m);
}

static void no_effect(void **state) /* an adapter that binds to nothing is refused; what one does is measured */
{
    (void)state;
    model *m = tiny_model("llama", Q8_0);
    tune_data *d = tiny_data(m, "texts.jsonl", some_texts, NULL);
    static const char *const ways[] = {"lora:4", "prompt:2", "prefix:2", "all", "norm"};
    train_report report;
    adapter_file *a;
    for (usize i = 0; i < COUNT_OF(ways); i++) {
        child_run r = {m, d, NULL, "does", tiny_opts(ways[i])};
        r.o.force = true;
        assert_ok(run_here(&r, &report, NULL, NULL));
        if (!(report.effect > 1e-4)) fail_msg("%s changes logits by %g", ways[i], report.effect);
        if (strcmp(ways[i], "lora:4")) continue;
        tiny small = tiny_of("llama", Q8_0);
        model *one;
        small.n_layer = 1;
        tiny_write(in_folder("one.gguf"), &small);
        assert_ok(model_open(&one, in_folder("one.gguf"), NULL));
        err bad = adapter_load(&a, in_folder("does"), one); /* pairs of a block that is not there */
        assert_true(bad.code == ERR_FORMAT && strstr(bad.what, "binds to no tensor"));
        model_close(one);
    }
    tune_data_free(d);
    model_close(m);
}

static void one_long_sample(void **state) /* memory is planned for the longest, and evaluation takes the same way */
{
    (void)state;
    model *m = tiny_model("llama", Q8_0);
    buf rows = {0};
    buf_puts(&rows, some_texts);
    buf_puts(&rows, "{\"prompt\":\"the\",\"completion\":\"");
    for (int i = 0; i < 40; i++) buf_puts(&rows, " hello");
    buf_puts(&rows, "\"}\n");
    tune_data *d = tiny_data(m, "texts.jsonl", some_texts, NULL), *held = tiny_data(m, "long.jsonl", buf_cstr(&rows), NULL);
    child_run r = {m, d, held, "long", tiny_opts("lora:4")};
    train_report report;
    r.o.epochs = 1;
    assert_ok(run_here(&r, &report, NULL, NULL));
    assert_true(report.plan.rows >= held->sample[held->n_samples - 1].n - 1);
    assert_true(report.peak_bytes <= report.planned_bytes);
    r.out = "little", r.o.memory = 4096, r.o.recompute = -1;
    stops(&r, ERR_NOMEM, "even when every block is computed again");
    assert_false(file_exists(in_folder("little")));
    buf_free(&rows);
    tune_data_free(d), tune_data_free(held);
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_label_masked),
        /* assistant mask needs a keyword of the template; prompt is not a prefix: test_data_masks.c, real_templates, where_ids_stand; test_data.c, notes */
        cmocka_unit_test(no_end_of_turn), cmocka_unit_test(target_cut_off), cmocka_unit_test(control_text_of_users), cmocka_unit_test(bos_twice),
        /* packing leaks: tests/model/test_train_graph.c, test_packed_is_apart. accumulation changes the loss: test_train.c, test_steps_do_not_depend_on_how_they_run */
        cmocka_unit_test(one_long_sample), cmocka_unit_test(not_a_number), cmocka_unit_test(nothing_is_trained),
        /* resume jumps: test_kill.c, test_train.c, test_resumed_is_uninterrupted */
        cmocka_unit_test(no_effect),
        /* wrong scale, unknown flags, missing keys, merging, tied heads, template's hash: tests/model/test_adapter.c, test_flags, test_peft_golden, test_others, test_merge, test_merge_refuses, test_weights_only */
        /* quantised bases: test_train.c, test_every_way_learns; tests/model/test_train_graph.c, test_quantised_base */
    };
    return cmocka_run_group_tests_name("refusals", tests, folder_make, folder_drop);
}
