/* A disk that fills up while training, at every write in turn, and a state that is damaged: an error that names the file, the earlier
 * state and artifact as they were, and --resume goes on to the same bits once there is room. A limit on the size of files stands for
 * the full disk, since it strikes at a byte of one's choice; a small tmpfs is one (where mounting is allowed). */
#include "train_help.h"
#include <errno.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>

static const char *const artifact[] = {"adapter_model.safetensors", "adapter_config.json", "maru.json"};

static void copy_run(const char *from, const char *to)
{
    char command[900];
    snprintf(command, sizeof command, "rm -rf %s && cp -a %s %s", in_folder(to), in_folder(from), in_folder(to));
    assert_int_equal(system(command), 0);
}

/* runs in a child whose files may not grow beyond `most` bytes; the error's code, its message in `what` */
static int run_limited(const child_run *r, usize most, char what[500])
{
    int status, pipe_of[2];
    assert_int_equal(pipe(pipe_of), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        train_report report;
        struct rlimit limit = {most, most};
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &limit)) _exit(99);
        err bad = run_here(r, &report, NULL, NULL);
        if (bad.code && write(pipe_of[1], bad.what, strlen(bad.what)) < 0) _exit(98);
        _exit(bad.code);
    }
    close(pipe_of[1]);
    ssize_t n = read(pipe_of[0], what, 499);
    what[n > 0 ? n : 0] = 0;
    close(pipe_of[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static child_run run_of(model *m, const tune_data *d, const char *way, const char *out)
{
    child_run r = {m, d, d, out, tiny_opts(way)};
    r.o.save_every = 3;
    return r;
}

static u64 artifact_hash(const char *folder)
{
    u64 h = 1;
    for (usize i = 0; i < COUNT_OF(artifact); i++) h = h * 31 + file_hash(folder, artifact[i]);
    return h;
}

static i64 size_in(const char *folder, const char *file)
{
    char path[500];
    i64 n;
    snprintf(path, sizeof path, "%s/%s", in_folder(folder), file);
    assert_ok(file_size(path, &n));
    return n;
}

/* "half": stopped after four steps, with the artifact of an earlier run in the folder; "calm": the whole run */
static void prepare(model *m, const tune_data *d, const char *way)
{
    child_run calm = run_of(m, d, way, "calm"), half = run_of(m, d, way, "half");
    train_report r;
    atomic_bool stop = true;
    half.o.epochs = 1, half.o.force = calm.o.force = true;
    assert_ok(run_here(&half, &r, NULL, NULL));
    half.o = calm.o, half.o.cancel = &stop;
    assert_int_equal(run_here(&half, &r, NULL, NULL).code, ERR_CANCELLED);
    half.o.force = false, half.o.resume = true;
    for (int i = 0; i < 3; i++) assert_int_equal(run_here(&half, &r, NULL, NULL).code, ERR_CANCELLED);
    assert_ok(run_here(&calm, &r, NULL, NULL));
    assert_int_equal(saved_step("half"), 4);
    assert_true(artifact_hash("half") != artifact_hash("calm"));
}

static void full_at_every_write(void **state)
{
    (void)state;
    static const char *const ways[] = {"lora:4", "all"};
    model *m = tiny_model("llama", Q8_0);
    tune_data *d = tiny_data(m, "texts.jsonl", some_texts, NULL);
    int at_state = 0, at_artifact = 0, at_log = 0, at_curves = 0;
    for (usize w = 0; w < COUNT_OF(ways); w++) {
        prepare(m, d, ways[w]);
        u64 new_artifact = artifact_hash("calm"), old_artifact = artifact_hash("half"), old_state = file_hash("half", "state.safetensors");
        usize top = (usize)size_in("calm", "state.safetensors");
        bool succeeded = false;
        for (usize most = 0; most <= top; most += most < 2000 ? 150 : most < 8000 ? 1000 : (top - 8000) / 8 + 1) {
            char what[500];
            child_run r = run_of(m, d, ways[w], "full");
            copy_run("half", "full");
            r.o.resume = true;
            int code = run_limited(&r, most, what);
            succeeded |= !code;
            if (code) {
                assert_int_equal(code, ERR_IO);
                assert_non_null(strstr(what, in_folder("full")));
                assert_non_null(strstr(what, strerror(EFBIG)));
                assert_true(artifact_hash("full") == (strstr(what, "curves.svg") ? new_artifact : old_artifact));
                if (strstr(what, "state.safetensors") || strstr(what, "log.jsonl")) assert_true(file_hash("full", "state.safetensors") == old_state || saved_step("full") > 4);
            }
            at_state += strstr(what, "state.safetensors") != NULL, at_log += strstr(what, "log.jsonl") != NULL;
            at_artifact += strstr(what, ".artifact/") != NULL, at_curves += strstr(what, "curves.svg") != NULL;
            train_report report;
            assert_ok(run_here(&r, &report, NULL, NULL)); /* there is room again */
            assert_true(artifact_hash("full") == new_artifact);
            assert_int_equal(log_steps("full"), report.steps);
        }
        assert_false(succeeded); /* the state is the largest file: every limit below it strikes somewhere */
        /* a run whose state is complete, and no room for its artifact */
        for (usize most = 300; most < (usize)size_in("calm", artifact[0]); most += (usize)size_in("calm", artifact[0]) / 3) {
            char what[500];
            child_run r = run_of(m, d, ways[w], "full");
            copy_run("calm", "full");
            r.o.resume = true;
            usize room = most + (usize)size_in("calm", "log.jsonl");
            int code = run_limited(&r, room, what);
            if (!code) break;
            assert_int_equal(code, ERR_IO);
            at_artifact += strstr(what, ".artifact/") != NULL;
            assert_true(artifact_hash("full") == new_artifact && file_hash("full", "state.safetensors") == file_hash("calm", "state.safetensors"));
        }
    }
    print_message("struck: state %d, artifact %d, log %d, curves %d\n", at_state, at_artifact, at_log, at_curves);
    assert_true(at_state && at_artifact && at_log);
    tune_data_free(d);
    model_close(m);
}

/* a real one, in a mount of its own that goes with the child; exits 0 when all is as it should be, 77 when mounting is not allowed */
static int on_tmpfs(const child_run *r, usize bytes, u64 want)
{
    char options[64], note[400];
    train_report report;
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) return 77;
    snprintf(options, sizeof options, "size=%zu", bytes);
    if (file_mkdirs(in_folder(r->out)).code || mount("maru", in_folder(r->out), "tmpfs", 0, options)) return 77;
    err bad = run_here(r, &report, NULL, NULL);
    if (bad.code != ERR_IO || !strstr(bad.what, strerror(ENOSPC))) return 1;
    snprintf(note, sizeof note, "%s", bad.what);
    i64 saved = saved_step(r->out);
    if (!strstr(note, "state.safetensors") || saved < 3) return 2;
    if (mount(NULL, in_folder(r->out), NULL, MS_REMOUNT, "size=64m")) return 77;
    child_run again = *r;
    again.o.resume = true;
    bad = run_here(&again, &report, NULL, NULL);
    return bad.code ? 3 : artifact_hash(r->out) == want ? 0 : 4;
}

static void a_real_full_disk(void **state)
{
    (void)state;
    int status;
    model *m = tiny_model("llama", Q8_0);
    tune_data *d = tiny_data(m, "texts.jsonl", some_texts, NULL);
    prepare(m, d, "lora:4");
    u64 want = artifact_hash("calm");
    child_run r = run_of(m, d, "lora:4", "disk");
    usize one = (usize)size_in("calm", "state.safetensors");
    pid_t child = fork(); /* room for the first state, not for the second beside it */
    if (!child) _exit(on_tmpfs(&r, one + one / 2, want));
    assert_int_equal(waitpid(child, &status, 0), child);
    tune_data_free(d);
    model_close(m);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("skipped: mounting is not allowed here\n");
        skip();
    }
    assert_int_equal(status, 0);
}

/* ---- a damaged state ---- */

static void damaged(const child_run *r, const char *p, usize n, const char *how)
{
    train_report report;
    char path[400];
    snprintf(path, sizeof path, "%s", in_folder("hurt/state.safetensors"));
    (void)!unlink(path);
    FILE *f = fopen(path, "wb");
    assert_true(f && fwrite(p, 1, n, f) == n && !fclose(f));
    u64 was = artifact_hash("hurt"), state_was = file_hash("hurt", "state.safetensors"), log_was = file_hash("hurt", "log.jsonl");
    err bad = run_here(r, &report, NULL, NULL);
    if (bad.code != ERR_FORMAT && bad.code != ERR_INPUT && bad.code != ERR_UNSUPPORTED) fail_msg("%s: %s: %s", how, err_name(bad.code), bad.code ? bad.what : "went on");
    if (!strstr(bad.what, "state.safetensors")) fail_msg("%s: \"%s\" does not name the file", how, bad.what);
    assert_true(artifact_hash("hurt") == was && file_hash("hurt", "state.safetensors") == state_was && file_hash("hurt", "log.jsonl") == log_was);
}

static void damage_is_told(void **state)
{
    (void)state;
    model *m = tiny_model("llama", Q8_0);
    tune_data *d = tiny_data(m, "texts.jsonl", some_texts, NULL);
    prepare(m, d, "lora:2");
    copy_run("half", "hurt");
    child_run r = run_of(m, d, "lora:2", "hurt");
    train_report report;
    char how[100];
    r.o.resume = true;
    buf good = file_bytes("half", "state.safetensors");
    u64 head = 0;
    memcpy(&head, good.p, 8);
    usize data = 8 + head;
    for (usize cut = 0; cut < good.n; cut += cut < 16 ? 1 : cut < data ? data / 24 + 1 : (good.n - data) / 24 + 1) {
        snprintf(how, sizeof how, "cut to %zu of %zu bytes", cut, good.n);
        damaged(&r, good.p, cut, how);
    }
    damaged(&r, good.p, good.n - 1, "a byte short");
    rng g;
    rng_seed(&g, 3);
    for (int i = 0; i < 120; i++) { /* one bit, anywhere in the values: only the hash can tell */
        usize at = data + rng_u64(&g) % (good.n - data);
        int bit = 1 << rng_u64(&g) % 8;
        snprintf(how, sizeof how, "bit %d of byte %zu", bit, at);
        good.p[at] = (char)(good.p[at] ^ bit);
        damaged(&r, good.p, good.n, how);
        good.p[at] = (char)(good.p[at] ^ bit);
    }
    char *step = memmem(good.p, data, "\\\"step\\\":4", 10); /* another cursor under the old hash */
    assert_non_null(step);
    step[9] = '8';
    damaged(&r, good.p, good.n, "another step");
    step[9] = '4';
    FILE *f = fopen(in_folder("hurt/state.safetensors"), "wb");
    assert_true(f && fwrite(good.p, 1, good.n, f) == good.n && !fclose(f));
    assert_ok(run_here(&r, &report, NULL, NULL)); /* as it was: it goes on */
    assert_true(artifact_hash("hurt") == artifact_hash("calm"));
    buf_free(&good);
    tune_data_free(d);
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(full_at_every_write), cmocka_unit_test(a_real_full_disk), cmocka_unit_test(damage_is_told)};
    return cmocka_run_group_tests_name("disk", tests, folder_make, folder_drop);
}
