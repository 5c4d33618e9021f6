/* tests/base/test_misc.c - hashes and random numbers against published vectors, CPU mask, log, progress, language, home. */
#include "base/base.h"
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <unistd.h>

static void assert_ok(err e)
{
    if (e.code) fail_msg("%s: %s", err_name(e.code), e.what);
}

static void assert_hex(sha256 h, const char *want)
{
    char hex[65];
    sha256_hex(h, hex);
    assert_string_equal(hex, want);
}

static void sha256_vectors(void **state)
{
    (void)state; /* FIPS 180-4 examples */
    assert_hex(sha256_of(NULL, 0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_hex(sha256_of("abc", 3), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_hex(sha256_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56),
               "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    sha256_stream *s = sha256_begin();
    char piece[997];
    memset(piece, 'a', sizeof piece);
    for (usize left = 1000000; left;) {
        usize n = left < sizeof piece ? left : sizeof piece;
        sha256_feed(s, piece, n);
        left -= n;
    }
    assert_hex(sha256_end(s), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void rng_vectors(void **state)
{
    (void)state;
    rng r = {{1, 2, 3, 4}}; /* xoshiro256**, from the authors' reference */
    static const u64 want[] = {11520u,
                               0u,
                               1509978240u,
                               1215971899390074240u,
                               1216172134540287360u,
                               607988272756665600u,
                               16172922978634559625u,
                               8476171486693032832u,
                               10595114339597558777u,
                               2904607092377533576u};
    for (usize i = 0; i < COUNT_OF(want); i++) assert_true(rng_u64(&r) == want[i]);
    rng_seed(&r, 1477776061723855037u); /* splitmix64 fills the state */
    static const u64 filled[] = {1985237415132408290u, 2979275885539914483u, 13511426838097143398u, 8488337342461049707u};
    for (usize i = 0; i < COUNT_OF(filled); i++) assert_true(r.s[i] == filled[i]);
}

static void rng_distributions(void **state)
{
    (void)state;
    enum { N = 200000 };
    rng r;
    double sum = 0, least = 1, most = 0, mean = 0, square = 0, tail = 0;
    rng_seed(&r, 3);
    for (int i = 0; i < N; i++) {
        double u = rng_unit(&r);
        assert_true(u >= 0 && u < 1);
        sum += u;
        least = fmin(least, u), most = fmax(most, u);
    }
    assert_true(fabs(sum / N - 0.5) < 0.005 && least < 1e-4 && most > 1 - 1e-4);
    for (int i = 0; i < N; i++) {
        double v = rng_normal(&r);
        assert_true(isfinite(v));
        mean += v, square += v * v, tail += fabs(v) > 1.96;
    }
    assert_true(fabs(mean / N) < 0.01 && fabs(square / N - 1) < 0.02 && fabs(tail / N - 0.05) < 0.005);
}

static void hash_is_stable_and_spreads(void **state)
{
    (void)state;
    /* computed once by a separate program from the formula; they are on disk, so they must never change */
    assert_true(hash64("", 0, 0) == 0xE220A8397B1DCDAFU);
    assert_true(hash64("a", 1, 0) == 0xE8FB0D1CC103FB43U);
    assert_true(hash64("maru keeps its own house", 24, 42) == 0xE4C96E32E313856AU);
    assert_true(hash64("0123456", 7, 1) != hash64("0123456\0", 8, 1));
    u8 data[40];
    for (usize i = 0; i < sizeof data; i++) data[i] = (u8)(i * 37);
    for (usize n = 1; n <= sizeof data; n++) { /* flipping any bit flips about half of the result */
        u64 h = hash64(data, n, 9);
        double flipped = 0;
        for (usize bit = 0; bit < 8 * n; bit++) {
            data[bit / 8] ^= (u8)(1 << bit % 8);
            flipped += __builtin_popcountll(h ^ hash64(data, n, 9));
            data[bit / 8] ^= (u8)(1 << bit % 8);
        }
        assert_true(fabs(flipped / (double)(8 * n) - 32) < 6);
    }
}

static void cpu_mask(void **state)
{
    (void)state;
    cpu_level best = cpu_best();
    unsetenv("MARU_CPU");
    assert_ok(cpu_init());
    assert_int_equal(cpu_now(), best);
    assert_false(cpu_reference());
    setenv("MARU_CPU", "generic", 1);
    assert_ok(cpu_init());
    assert_int_equal(cpu_now(), CPU_GENERIC);
    assert_int_equal(cpu_best(), best);
    setenv("MARU_CPU", "avx512", 1); /* lowers, never raises */
    assert_ok(cpu_init());
    assert_int_equal(cpu_now(), best);
    setenv("MARU_CPU", "reference", 1);
    assert_ok(cpu_init());
    assert_int_equal(cpu_now(), best);
    assert_true(cpu_reference());
    setenv("MARU_CPU", "sse9", 1);
    err e = cpu_init();
    assert_int_equal(e.code, ERR_INPUT);
    static const char *const named[] = {"sse9", "reference", "generic", "avx2", "avx512"};
    for (usize i = 0; i < COUNT_OF(named); i++) assert_non_null(strstr(e.what, named[i]));
    unsetenv("MARU_CPU");
    cpu_force(CPU_GENERIC, true);
    assert_true(cpu_now() == CPU_GENERIC && cpu_reference());
    cpu_force(CPU_AVX512, false);
    assert_int_equal(cpu_now(), best);
    assert_string_equal(cpu_name(CPU_AVX2), "avx2");
    assert_ok(cpu_init());
}

/* ---- standard error, taken for a moment ---- */
static int saved_stderr = -1;
static void take_stderr(int fd)
{
    saved_stderr = dup(2);
    assert_true(dup2(fd, 2) == 2);
}

static void give_stderr(void)
{
    dup2(saved_stderr, 2);
    close(saved_stderr);
}

static void log_lines(void **state)
{
    (void)state;
    int p[2];
    char got[8192];
    assert_int_equal(pipe(p), 0);
    log_level was = log_get();
    take_stderr(p[1]);
    log_set(LOG_WARN);
    log_line(LOG_INFO, "not shown");
    log_line(LOG_WARN, "title: %s",
             "two\nlines \033[31mred\t마루 \xC2\x9B"
             "1m");
    log_set(LOG_DEBUG);
    log_line(LOG_DEBUG, "%06000d", 1); /* cut, still one line */
    log_set(LOG_QUIET);
    log_line(LOG_WARN, "not shown");
    give_stderr();
    log_set(was);
    close(p[1]);
    ssize_t n = read(p[0], got, sizeof got - 1);
    close(p[0]);
    assert_true(n > 0);
    got[n] = 0;
    str s = {got, (usize)n};
    assert_true(str_starts(s, S("maru: title: two lines  [31mred 마루   1m\nmaru: 0000")));
    assert_true(str_ends(s, S("0\n")));
    assert_int_equal(str_find(s, S("not shown"), 0), -1);
}

static void progress_only_on_a_terminal(void **state)
{
    (void)state;
    int p[2], terminal = posix_openpt(O_RDWR | O_NOCTTY), side = -1;
    char got[4096];
    progress bar;
    assert_int_equal(pipe2(p, O_NONBLOCK), 0);
    take_stderr(p[1]);
    progress_start(&bar, "reading", 10);
    bar.start -= 5; /* as if five seconds ago */
    progress_step(&bar, 5);
    progress_end(&bar);
    give_stderr();
    assert_true(read(p[0], got, sizeof got) < 0); /* a pipe: nothing */
    close(p[0]);
    close(p[1]);
    if (terminal >= 0 && !grantpt(terminal) && !unlockpt(terminal)) side = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    if (side < 0) skip();
    fcntl(terminal, F_SETFL, O_NONBLOCK);
    take_stderr(side);
    progress_start(&bar, "reading", 10);
    progress_step(&bar, 2);
    give_stderr();
    assert_true(read(terminal, got, sizeof got) < 0); /* less than a second: nothing */
    take_stderr(side);
    bar.start -= 5;
    progress_step(&bar, 5);
    progress_step(&bar, 6); /* at once again: not drawn */
    progress_end(&bar);
    give_stderr();
    usleep(1000);
    ssize_t n = read(terminal, got, sizeof got - 1);
    assert_true(n > 0);
    got[n] = 0;
    assert_non_null(strstr(got, "reading"));
    assert_non_null(strstr(got, "50%"));
    assert_null(strstr(got, "60%"));
    assert_non_null(strstr(got, "\r\033[K")); /* and wiped */
    close(side);
    close(terminal);
}

static void language(void **state)
{
    (void)state;
    static const struct {
        const char *all, *messages, *lang;
        bool korean;
    } rows[] = {{NULL, NULL, NULL, false},      {NULL, NULL, "ko_KR.UTF-8", true}, {NULL, "ko", "en_US.UTF-8", true},
                {"C", "ko_KR", "ko_KR", false}, {"ko_KR.UTF-8", "C", "C", true},   {"", "", "ko_KR", true},
                {NULL, NULL, "kok_IN", false},  {NULL, NULL, "C.UTF-8", false}};
    for (usize i = 0; i < COUNT_OF(rows); i++) {
        unsetenv("LC_ALL"), unsetenv("LC_MESSAGES"), unsetenv("LANG");
        if (rows[i].all) setenv("LC_ALL", rows[i].all, 1);
        if (rows[i].messages) setenv("LC_MESSAGES", rows[i].messages, 1);
        if (rows[i].lang) setenv("LANG", rows[i].lang, 1);
        assert_int_equal(lang_korean(), rows[i].korean);
        assert_string_equal(L("예", "yes"), rows[i].korean ? "예" : "yes");
    }
}

static void assert_home(const char *want)
{
    char *p;
    assert_ok(home_path(&p, "models/%s", "x.gguf"));
    assert_string_equal(p, want);
    mem_free(p);
}

static void home_order(void **state)
{
    (void)state;
    char *p;
    setenv("HOME", "/h", 1);
    unsetenv("MARU_HOME"), unsetenv("XDG_DATA_HOME");
    assert_home("/h/.local/share/maru/models/x.gguf");
    setenv("XDG_DATA_HOME", "relative", 1); /* the specification: ignored */
    assert_home("/h/.local/share/maru/models/x.gguf");
    setenv("XDG_DATA_HOME", "/x", 1);
    assert_home("/x/maru/models/x.gguf");
    setenv("MARU_HOME", "/m", 1);
    assert_home("/m/models/x.gguf");
    home_set("/given");
    assert_home("/given/models/x.gguf");
    assert_ok(home_path(&p, "%s", ""));
    assert_string_equal(p, "/given");
    mem_free(p);
    static char longer[5000];
    memset(longer, 'x', sizeof longer - 1);
    assert_int_equal(home_path(&p, "%s", longer).code, ERR_INPUT);
    assert_null(p);
    home_set(longer);
    assert_int_equal(home_path(&p, "x").code, ERR_INPUT);
    home_set(NULL);
    assert_home("/m/models/x.gguf");
}

static void clock_runs(void **state)
{
    (void)state;
    double a = clock_s();
    usleep(2000);
    double b = clock_s();
    assert_true(b - a >= 0.002 && b - a < 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_vectors),
        cmocka_unit_test(rng_vectors),
        cmocka_unit_test(rng_distributions),
        cmocka_unit_test(hash_is_stable_and_spreads),
        cmocka_unit_test(cpu_mask),
        cmocka_unit_test(log_lines),
        cmocka_unit_test(progress_only_on_a_terminal),
        cmocka_unit_test(language),
        cmocka_unit_test(home_order),
        cmocka_unit_test(clock_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
