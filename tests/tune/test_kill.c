/* kill -9 in the middle of training, at random moments, now and then again while the run is resumed: what was saved is there, --resume
 * begins behind it, and the run ends with the bits of one that nothing disturbed. 9 times, MARU_HEAVY=1: 100. */
#include "train_help.h"

enum { SAVE_EVERY = 3 };
static const char *const ways[] = {"lora:4", "all", "prefix:3"};
static const char *const files[] = {"adapter_model.safetensors", "adapter_config.json", "maru.json"};

static child_run run_of(model *m, const tune_data *d, const char *way, const char *out)
{
    child_run r = {m, d, d, out, tiny_opts(way)};
    r.o.accumulate = 2, r.o.epochs = 12, r.o.patience = 50, r.o.eval_every = 5, r.o.save_every = SAVE_EVERY;
    r.o.dropout = strncmp(way, "lora", 4) ? 0 : 0.2;
    return r;
}

static void first_step(void *ctx, const train_step *s)
{
    i64 *first = ctx;
    if (!*first) *first = s->step;
}

/* true: the process was killed while it worked */
static bool killed(const child_run *r, double after)
{
    int status;
    pid_t child = run_apart(r);
    wait_s(after);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFSIGNALED(status)) assert_int_equal(WEXITSTATUS(status), 0);
    return WIFSIGNALED(status);
}

/* what a kill left: whole lines, and no more steps lost than those since the last save */
static i64 check_left(const child_run *r, i64 steps)
{
    i64 saved = saved_step(r->out), told = log_steps(r->out);
    assert_true(saved % SAVE_EVERY == 0 || saved == steps);
    if (told - saved > SAVE_EVERY) fail_msg("step %lld was reported, but only %lld were saved", (long long)told, (long long)saved);
    return saved;
}

static double undisturbed(const child_run *r, train_report *whole, u64 *hash)
{
    double start = clock_s();
    assert_ok(run_here(r, whole, NULL, NULL));
    for (usize i = 0; i < COUNT_OF(files); i++) hash[i] = file_hash(r->out, files[i]);
    return clock_s() - start;
}

static int hidden(const char *folder) /* what lies about but the lock */
{
    char command[500];
    snprintf(command, sizeof command, "ls -A %s | grep '^[.]' | grep -v -x .lock | wc -l", in_folder(folder));
    FILE *f = popen(command, "r");
    int n = -1;
    assert_true(f && fscanf(f, "%d", &n) == 1);
    pclose(f);
    return n;
}

static void killed_while_training(void **state)
{
    (void)state;
    rng g;
    int dead = 0, within = 0, before = 0, n = getenv("MARU_HEAVY") ? 100 : 9;
    model *m = tiny_model("llama", Q8_0);
    tune_data *d = tiny_data(m, "texts.jsonl", some_texts, NULL);
    rng_seed(&g, 21);
    for (usize w = 0; w < COUNT_OF(ways); w++) {
        train_report whole, again;
        u64 hash[COUNT_OF(files)];
        child_run calm = run_of(m, d, ways[w], "calm");
        calm.o.force = true;
        double seconds = undisturbed(&calm, &whole, hash);
        assert_true(whole.steps >= 4 * SAVE_EVERY);
        for (int mine = 0; mine < n / 3 + ((int)w < n % 3);) {
            child_run r = run_of(m, d, ways[w], "killed");
            r.o.resume = true; /* from the first call on: a script may say the same again and again */
            do {
                bool was = killed(&r, rng_unit(&g) * seconds * 1.1);
                i64 saved = check_left(&r, whole.steps);
                dead += was, mine += was;
                within += was && saved > 0 && saved < whole.steps, before += was && !saved;
                if (!was) seconds *= 0.95; /* the first time was a slow one */
            } while (rng_u64(&g) % 3 == 0);
            i64 saved = saved_step("killed"), first = 0;
            assert_ok(run_here(&r, &again, first_step, &first));
            if (saved < whole.steps) assert_int_equal(first, saved + 1);
            assert_int_equal(again.steps, whole.steps);
            assert_true(again.train_loss == whole.train_loss && again.eval_loss == whole.eval_loss);
            for (usize i = 0; i < COUNT_OF(files); i++)
                if (file_hash("killed", files[i]) != hash[i]) fail_msg("%s: %s differs from that of the run that nothing disturbed", ways[w], files[i]);
            assert_int_equal(log_steps("killed"), whole.steps);
            assert_int_equal(hidden("killed"), 0); /* what was half written is gone */
            assert_ok(file_remove_tree(in_folder("killed")));
        }
    }
    print_message("killed %d times while training: %d between two saves, %d before the first\n", dead, within, before);
    assert_true(dead >= n && within >= n / 10);
    tune_data_free(d);
    model_close(m);
}

/* the best values come back with --resume too: a run that stops early after a kill ends with them */
static void the_best_survives(void **state)
{
    (void)state;
    model *m = tiny_model("llama", Q8_0);
    tune_data *d = tiny_data(m, "texts.jsonl", some_texts, NULL), *held = tiny_data(m, "held.jsonl", "{\"prompt\":\"tell all\",\"completion\":\" bad wells\"}\n", NULL);
    child_run r = {m, d, held, "best", tiny_opts("lora:4")};
    train_report whole, again;
    atomic_bool stop = true;
    r.o.lr = 5e-2, r.o.epochs = 30, r.o.patience = 3, r.o.eval_every = 1, r.o.save_every = 1;
    assert_ok(run_here(&r, &whole, NULL, NULL));
    assert_true(whole.stopped_early && whole.steps > 4);
    u64 want = file_hash("best", files[0]);
    r.out = "best2", r.o.resume = true, r.o.cancel = &stop; /* one step a call */
    for (i64 i = 0; i < whole.steps - 1; i++) assert_int_equal(run_here(&r, &again, NULL, NULL).code, ERR_CANCELLED);
    r.o.cancel = NULL;
    assert_ok(run_here(&r, &again, NULL, NULL));
    assert_int_equal(again.steps, whole.steps);
    assert_true(again.stopped_early && again.eval_loss == whole.eval_loss);
    assert_true(file_hash("best2", files[0]) == want);
    tune_data_free(d), tune_data_free(held);
    model_close(m);
}

static void refused(const child_run *r, err_code code, const char *part)
{
    train_report report;
    err bad = run_here(r, &report, NULL, NULL);
    if (bad.code != (int)code || !strstr(bad.what, part)) fail_msg("expected %s with \"%s\", got %s: %s", err_name((int)code), part, err_name(bad.code), bad.what ? bad.what : "");
}

static void a_folder_is_one_runs(void **state)
{
    (void)state;
    train_report report;
    int lock;
    model *m = tiny_model("llama", Q8_0);
    tune_data *d = tiny_data(m, "texts.jsonl", some_texts, NULL);
    child_run r = run_of(m, d, "lora:4", "mine");
    assert_ok(run_here(&r, &report, NULL, NULL));
    u64 model_was = file_hash("mine", files[0]), state_was = file_hash("mine", "state.safetensors"), log_was = file_hash("mine", "log.jsonl");
    refused(&r, ERR_INPUT, "--resume goes on with it, --force");
    r.o.resume = true, r.o.lr = 0.5;
    refused(&r, ERR_INPUT, "resume with the same");
    assert_ok(file_lock(in_folder("mine/.lock"), false, &lock));
    r.o.lr = 1e-2;
    refused(&r, ERR_BUSY, "another process");
    file_unlock(lock);
    assert_true(file_hash("mine", files[0]) == model_was && file_hash("mine", "state.safetensors") == state_was && file_hash("mine", "log.jsonl") == log_was);
    r.o.resume = false, r.o.force = true, r.o.epochs = 1;
    assert_ok(run_here(&r, &report, NULL, NULL));
    assert_true(file_hash("mine", files[0]) != model_was && log_steps("mine") == report.steps);
    /* an adapter of somebody else is no run: it is not taken for one, and not replaced unasked */
    assert_ok(file_remove_tree(in_folder("mine/state.safetensors")));
    assert_ok(file_remove_tree(in_folder("mine/log.jsonl")));
    r.o.force = false;
    refused(&r, ERR_INPUT, "already holds an adapter");
    r.o.resume = true;
    refused(&r, ERR_INPUT, "nothing to resume");
    /* another way in its place leaves no configuration behind that is not its own */
    r.o = tiny_opts("all"), r.o.force = true, r.o.epochs = 1;
    assert_ok(run_here(&r, &report, NULL, NULL));
    assert_true(!file_hash("mine", "adapter_config.json") && file_hash("mine", "maru.json"));
    tune_data_free(d);
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(killed_while_training), cmocka_unit_test(the_best_survives), cmocka_unit_test(a_folder_is_one_runs)};
    return cmocka_run_group_tests_name("kill", tests, folder_make, folder_drop);
}
