/* The plan of memory against what a run took: eight ways of teaching real models, each in a process of its own. Real is counted
 * allocations and mapped weights at their highest; the plan must not be below it and not more than a twentieth above. The process's own
 * peak, as the system counts it, is printed beside: it has the program and the libraries in it, and only pages that were touched. */
#include "train_help.h"

typedef struct { usize planned, real, resident; train_memory plan; int code; char what[300]; } measured;

static usize resident_peak(void)
{
    buf b = {0};
    usize kib = 0;
    if (!file_read(&b, "/proc/self/status", 1 << 16).code) {
        const char *at = strstr(buf_cstr(&b), "VmHWM:");
        if (at) kib = (usize)strtoul(at + 6, NULL, 10);
    }
    buf_free(&b);
    return kib * 1024;
}

static const char form[] = "Review: {text}\\nIt is";

/* words 1 for the rows' labels as words, 0 as classes, -1 for prompts and completions */
static err open_data(const model *m, int words, tune_data **d)
{
    buf b = {0};
    tune_opts o = {.head = !words, .template = words < 0 ? NULL : form, .labels = words > 0 ? "up= good,down= bad" : NULL};
    for (int i = 0; i < 24; i++)
        if (words < 0) buf_fmt(&b, "{\"prompt\":\"Number %d of the list is\",\"completion\":\" a thing that is said in %d words, and then it ends.\"}\n", i, i * 7);
        else buf_fmt(&b, "%s%s number %d was what they said it would be, and more\t%s\n", i ? "" : "text\tlabel\n", i % 2 ? "the good thing" : "a bad day", i, i % 2 ? "up" : "down");
    err bad = tune_data_read(d, m, words < 0 ? "m.jsonl" : "m.tsv", buf_view(&b), &o);
    buf_free(&b);
    return bad.code ? bad : tune_data_ready(*d);
}

static err run_one(const char *path, const char *way, int words, bool held, i64 accumulate, measured *out)
{
    pool *one;
    model *m;
    tune_data *d;
    train_report r = {0};
    train_opts o = {.epochs = 1, .most_steps = 2, .warmup = 0.1, .clip = 1, .rslora = -1, .recompute = -1, .batch_tokens = 256, .accumulate = accumulate, .quiet = true, .force = true, .save_every = 1};
    TRY(pool_new(&one, 1));
    TRY(tune_way_parse(way, &o.way));
    TRY(model_open(&m, path, one));
    TRY(open_data(m, words, &d));
    o.plan_only = true; /* what `maru tune check` says before */
    TRY(tune_train(m, one, d, held ? d : NULL, in_folder("run"), &o, NULL, NULL, &r));
    usize before = r.plan.total;
    if (file_exists(in_folder("run"))) return err_new(ERR_BUG, "a plan wrote something");
    o.plan_only = false;
    TRY(tune_train(m, one, d, held ? d : NULL, in_folder("run"), &o, NULL, NULL, &r));
    mem_free(r.metric.confusion);
    out->planned = before, out->plan = r.plan, out->real = r.peak_bytes, out->resident = resident_peak();
    if (r.planned_bytes > before + before / 50 || before > r.planned_bytes + before / 50) return err_new(ERR_BUG, "planned %zu, then %zu", before, r.planned_bytes);
    tune_data_free(d);
    model_close(m);
    pool_free(one);
    return OK;
}

static measured apart(const char *path, const char *way, int words, bool held, i64 accumulate)
{
    measured m = {0};
    int status, pipe_of[2];
    assert_int_equal(pipe(pipe_of), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        err bad = run_one(path, way, words, held, accumulate, &m);
        m.code = bad.code;
        if (bad.code) snprintf(m.what, sizeof m.what, "%s", bad.what);
        _exit(write(pipe_of[1], &m, sizeof m) == sizeof m ? 0 : 1);
    }
    close(pipe_of[1]);
    bool got = read(pipe_of[0], &m, sizeof m) == sizeof m;
    close(pipe_of[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!got) fail_msg("%s of %s died: %d", way, path, status);
    if (m.code) fail_msg("%s of %s: %s: %s", way, path, err_name(m.code), m.what);
    assert_ok(file_remove_tree(in_folder("run")));
    return m;
}

static void plan_and_peak(void **state)
{
    (void)state;
    static const struct { const char *model, *way; int words; bool held; i64 accumulate; } runs[] = {
        {"smollm2-135m.gguf", "lora:16", -1, true, 1}, {"smollm2-135m.gguf", "all", -1, false, 1}, {"smollm2-135m.gguf", "last:2", -1, false, 2}, {"smollm2-135m.gguf", "prompt:20", 1, true, 1},
        {"smollm2-135m.gguf", "prefix:20", -1, false, 1}, {"gemma3-270m.gguf", "lora:16", 1, false, 1}, {"gemma3-270m.gguf", "features", 0, true, 1}, {"gemma3-270m.gguf", "head", 1, true, 1}};
    int n = 0, off = 0;
    const double mb = 1e6;
    for (usize i = 0; i < COUNT_OF(runs); i++) {
        const char *path = test_model(runs[i].model), *only = getenv("MARU_WAY");
        if (!path || (only && strcmp(only, runs[i].way))) continue;
        measured m = apart(path, runs[i].way, runs[i].words, runs[i].held, runs[i].accumulate);
        double ratio = (double)m.planned / (double)m.real;
        print_message("%-18s %-10s planned %8.1f MB, real %8.1f MB, ratio %.4f, resident %8.1f MB  (model %.1f data %.1f trained %.1f optimizer %.1f step %.1f rest %.1f)\n", runs[i].model, runs[i].way,
                      (double)m.planned / mb, (double)m.real / mb, ratio, (double)m.resident / mb, (double)m.plan.model / mb, (double)m.plan.data / mb, (double)m.plan.trained / mb, (double)m.plan.optimizer / mb,
                      (double)m.plan.step / mb, (double)m.plan.rest / mb);
        n++, off += !(m.real <= m.planned && ratio <= 1.05);
    }
    if (!n) {
        print_message("skipped: no model is here\n");
        skip();
    }
    assert_int_equal(off, 0);
}

/* a step that has to fit into little: what did not fit was never touched, and is not counted */
static void little_room(void **state)
{
    (void)state;
    model *m = tiny_model("llama", Q8_0);
    tune_data *d = tiny_data(m, "texts.jsonl", some_texts, NULL);
    child_run r = {m, d, NULL, "little", tiny_opts("lora:4")};
    train_report wide, narrow;
    r.o.recompute = -1, r.o.epochs = 1, r.o.force = true, r.o.batch_tokens = 200;
    assert_ok(run_here(&r, &wide, NULL, NULL));
    assert_int_equal(wide.plan.recomputed, 0);
    r.o.memory = (i64)wide.plan.step - 64;
    assert_ok(run_here(&r, &narrow, NULL, NULL));
    assert_true(narrow.plan.recomputed > 0 && narrow.plan.step < wide.plan.step && narrow.plan.step <= (usize)r.o.memory);
    assert_true(narrow.peak_bytes <= narrow.planned_bytes);
    tune_data_free(d);
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(plan_and_peak), cmocka_unit_test(little_room)};
    return cmocka_run_group_tests_name("memory", tests, folder_make, folder_drop);
}
