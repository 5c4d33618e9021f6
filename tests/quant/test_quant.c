/* tests/quant - types by rules, encoding of whole files, refusals, importances, the search for scales; on models written here. */
#include "../model/tiny.h"
#include "quant/quant.h"
#include <math.h>

static char folder[] = "/tmp/maru-quant-XXXXXX";
static const char *at(const char *name)
{
    static char path[512][64];
    static int n;
    char *p = path[n++ % 512];
    snprintf(p, 64, "%s/%s", folder, name);
    return p;
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    return file_remove_tree(folder).code;
}

static const char *model_of(const char *name, const char *arch, dtype type, i64 layers, void (*edit)(void *, const char *, float *, i64, i64))
{
    tiny t = tiny_of(arch, type);
    t.n_layer = layers, t.width = 256, t.n_ff = 512, t.edit = edit;
    const char *path = at(name);
    tiny_write(path, &t);
    return path;
}

static quant_report run_of(const char *in, const char *out, const quant_opts *o)
{
    quant_report r;
    assert_ok(quant_run(in, out, o, &r));
    return r;
}

static dtype type_in(const quant_report *r, const char *name)
{
    for (usize i = 0; i < r->n; i++)
        if (!strcmp(r->t[i].name, name)) return r->t[i].to;
    fail_msg("no tensor %s", name);
    return F32;
}

/* ---- rules ---- */
static void test_q4_k_m(void **state)
{
    (void)state;
    const char *in = model_of("m", "llama", F32, 8, NULL);
    quant_report r = run_of(in, at("o"), &(quant_opts){.mix = quant_mix_find("Q4_K")});
    static const int more[8] = {1, 0, 0, 1, 0, 0, 1, 1}; /* first and last eighth, and every third between */
    for (int i = 0; i < 8; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.attn_v.weight", i);
        assert_int_equal(type_in(&r, name), more[i] ? Q6_K : Q4_K);
        snprintf(name, sizeof name, "blk.%d.ffn_down.weight", i);
        assert_int_equal(type_in(&r, name), more[i] ? Q6_K : Q4_K);
        snprintf(name, sizeof name, "blk.%d.attn_norm.weight", i);
        assert_int_equal(type_in(&r, name), F32);
    }
    assert_int_equal(type_in(&r, "output.weight"), Q6_K);
    assert_int_equal(type_in(&r, "token_embd.weight"), Q4_K);
    quant_report_free(&r);
    r = run_of(model_of("m", "gemma3", F32, 8, NULL), at("o"), &(quant_opts){.mix = quant_mix_find("q4_k_s")});
    assert_int_equal(type_in(&r, "token_embd.weight"), Q6_K); /* it is the head too */
    quant_report_free(&r);
}

static void test_types_of_file(void **state)
{
    (void)state;
    const char *in = model_of("m", "llama", F32, 2, NULL);
    for (usize i = 0; i < quant_n_mixes; i++) {
        model_file *f;
        i64 number, version;
        quant_report r = run_of(in, at("o"), &(quant_opts){.mix = &quant_mixes[i]});
        assert_ok(gguf_open(&f, at("o")));
        assert_ok(file_i64(f, "general.file_type", &number));
        assert_ok(file_i64(f, "general.quantization_version", &version));
        assert_int_equal(number, quant_mixes[i].file_type);
        assert_int_equal(version, 2);
        assert_int_equal(file_n_tensors(f), r.n);
        for (usize k = 0; k < r.n; k++) assert_int_equal(file_tensor_at(f, k)->type, r.t[k].to);
        model_file_close(f);
        quant_report_free(&r);
    }
}

static void test_rows_that_do_not_divide(void **state)
{
    (void)state;
    tiny t = tiny_of("llama", F32); /* rows of 64 and 96 */
    tiny_write(at("m"), &t);
    quant_report r = run_of(at("m"), at("o"), &(quant_opts){.mix = quant_mix_find("q4_k_s")});
    assert_int_equal(type_in(&r, "blk.1.attn_q.weight"), Q5_0);
    assert_true(r.fallbacks > 0);
    quant_report_free(&r);
    r = run_of(at("m"), at("o"), &(quant_opts){.mix = quant_mix_find("q2_k")});
    assert_int_equal(type_in(&r, "blk.1.attn_q.weight"), Q4_0);
    quant_report_free(&r);
}

/* ---- the same bytes whoever works ---- */
static void test_threads(void **state)
{
    (void)state;
    const char *in = model_of("m", "llama", F32, 2, NULL);
    pool *p;
    buf a = {0}, b = {0};
    assert_ok(pool_new(&p, 3));
    quant_report x = run_of(in, at("a"), &(quant_opts){.mix = quant_mix_find("q3_k_m")});
    quant_report y = run_of(in, at("b"), &(quant_opts){.mix = quant_mix_find("q3_k_m"), .threads = p});
    assert_ok(file_read(&a, at("a"), 0));
    assert_ok(file_read(&b, at("b"), 0));
    assert_true(str_eq(buf_view(&a), buf_view(&b)));
    for (usize i = 0; i < x.n; i++) assert_true(x.t[i].rmse == y.t[i].rmse);
    assert_true(quant_error(&x, false) > 0.05 && quant_error(&x, false) < 0.3);
    buf_free(&a), buf_free(&b);
    quant_report_free(&x), quant_report_free(&y);
    pool_free(p);
}

/* ---- refusals ---- */
static void refused(const char *in, const char *out, const quant_opts *o, int code, const char *says)
{
    quant_report r;
    err bad = quant_run(in, out, o, &r);
    assert_int_equal(bad.code, code);
    if (!strstr(bad.what, says)) fail_msg("\"%s\" does not say \"%s\"", bad.what, says);
    quant_report_free(&r);
}

static void test_requantize(void **state)
{
    (void)state;
    const char *in = model_of("m", "llama", Q8_0, 2, NULL);
    quant_opts o = {.mix = quant_mix_find("q4_0")};
    unlink(at("o"));
    refused(in, at("o"), &o, ERR_INPUT, "--requantize");
    assert_false(file_exists(at("o")));
    o.requantise = true;
    quant_report r = run_of(in, at("o"), &o);
    assert_true(r.requantised);
    quant_report_free(&r);
    refused(in, in, &o, ERR_INPUT, "is the input");
    unlink(at("link"));
    assert_int_equal(link(in, at("link")), 0);
    refused(in, at("link"), &o, ERR_INPUT, "is the input");
    refused(in, folder, &o, ERR_INPUT, "folder");
}

static float broken;
static void break_one(void *ctx, const char *name, float *w, i64 k, i64 n)
{
    (void)ctx;
    if (!strcmp(name, "blk.1.ffn_up.weight") && n > 5) w[5 * k + 7] = broken;
    if (!strcmp(name, "blk.0.attn_norm.weight") && broken == 3) w[2] = NAN;
}

static void test_not_finite(void **state)
{
    (void)state;
    quant_opts o = {.mix = quant_mix_find("q4_k_m")};
    unlink(at("o"));
    broken = NAN;
    refused(model_of("m", "llama", F32, 2, break_one), at("o"), &o, ERR_FORMAT, "blk.1.ffn_up.weight, row 5: a value is not a number");
    broken = INFINITY;
    refused(model_of("m", "llama", F32, 2, break_one), at("o"), &o, ERR_FORMAT, "blk.1.ffn_up.weight, row 5: a value is infinite");
    broken = 3; /* in a vector, which is only copied */
    refused(model_of("m", "llama", F32, 2, break_one), at("o"), &o, ERR_FORMAT, "blk.0.attn_norm.weight, row 0");
    broken = 1e30f;
    o.mix = quant_mix_find("f16");
    refused(model_of("m", "llama", F32, 2, break_one), at("o"), &o, ERR_FORMAT, "f16 cannot hold 1e+30");
    assert_false(file_exists(at("o")));
}

/* ---- importances ---- */
static void test_importances(void **state)
{
    (void)state;
    const char *in = model_of("m", "llama", F32, 8, NULL);
    static const char *const types[] = {"q4_0", "q3_k_s", "q2_k"};
    model *m;
    imatrix *a, *b;
    pool *p;
    assert_ok(pool_new(&p, 1));
    assert_ok(model_open(&m, in, p));
    assert_ok(imatrix_collect(&a, m, p, S("The quick brown fox jumps over the lazy dog, again and again and again, until nobody counts."), "fox", 32, NULL));
    assert_int_equal(a->n, 8 * 7); /* the head is left out */
    assert_ok(imatrix_save(a, at("i")));
    assert_ok(imatrix_load(&b, at("i")));
    assert_int_equal(b->n, a->n);
    assert_int_equal(b->chunks, a->chunks);
    for (usize i = 0; i < a->n; i++) {
        const imatrix_row *x = &a->row[i], *y = imatrix_find(b, str_of(x->name));
        assert_non_null(y);
        for (i64 k = 0; k < x->n; k++) assert_true(fabsf(x->mean[k] - y->mean[k]) <= 1e-5f * x->mean[k]);
    }
    for (usize t = 0; t < COUNT_OF(types); t++) {
        quant_opts o = {.mix = quant_mix_find(types[t]), .importance = b, .pure = true};
        quant_report with = run_of(in, at("w"), &o);
        imatrix *ones;
        assert_ok(imatrix_load(&ones, at("i")));
        /* without: the file is encoded blind, its error is weighed all the same */
        o.importance = NULL;
        quant_report blind = run_of(in, at("o"), &o);
        model_file *f, *g;
        assert_ok(gguf_open(&f, at("o")));
        assert_ok(gguf_open(&g, in));
        for (usize i = 0; i < with.n; i++) {
            const imatrix_row *r = imatrix_find(b, str_of(with.t[i].name));
            if (!r) continue;
            const file_tensor *now = file_tensor_at(f, i), *was = file_tensor_at(g, i);
            i64 k = was->n[0], rows = was->n[1];
            float *y = mem_array(float, k);
            double e = 0, s = 0;
            for (i64 j = 0; j < rows; j++) {
                const float *x = (const float *)(const void *)was->data + j * k;
                dtype_table[now->type].decode(now->data + dtype_row_bytes(now->type, k) * (usize)j, y, k);
                for (i64 c = 0; c < k; c++) e += (double)r->mean[c] * pow((double)x[c] - (double)y[c], 2), s += (double)r->mean[c] * pow((double)x[c], 2);
            }
            if (!(with.t[i].weighted < sqrt(e / s))) fail_msg("%s %s: %g with importances, %g without", types[t], with.t[i].name, with.t[i].weighted, sqrt(e / s));
            mem_free(y);
        }
        model_file_close(f), model_file_close(g);
        imatrix_free(ones);
        quant_report_free(&with), quant_report_free(&blind);
    }
    imatrix_free(a), imatrix_free(b);
    model_close(m);
    pool_free(p);
}

static void put32(buf *b, i32 v) { buf_put(b, &v, 4); }
static void test_older_form(void **state)
{
    (void)state;
    buf b = {0};
    float v[4] = {2, 4, 6, 8};
    imatrix *m;
    put32(&b, 1), put32(&b, 5), buf_puts(&b, "a.b.c"), put32(&b, 2), put32(&b, 4), buf_put(&b, v, sizeof v), put32(&b, 3), put32(&b, 1), buf_puts(&b, "t");
    assert_ok(imatrix_parse(&m, (const u8 *)b.p, b.n, "x"));
    assert_int_equal(m->chunks, 3);
    const imatrix_row *r = imatrix_find(m, S("a.b.c"));
    for (int i = 0; i < 4; i++) assert_true(r->mean[i] == v[i] / 2);
    imatrix_free(m);
    for (usize n = 0; n < 4 + 4 + 5 + 4 + 4 + 16; n++) {
        assert_int_equal(imatrix_parse(&m, (const u8 *)b.p, n, "x").code, ERR_FORMAT);
        assert_null(m);
    }
    float bad = -1;
    memcpy(b.p + 4 + 4 + 5 + 4 + 4, &bad, 4);
    assert_int_equal(imatrix_parse(&m, (const u8 *)b.p, b.n, "x").code, ERR_FORMAT);
    buf_free(&b);
}

static void test_another_models(void **state)
{
    (void)state;
    imatrix *m;
    assert_ok(imatrix_new(&m, "x"));
    assert_ok(imatrix_add(m, "blk.0.attn_q.weight", 3, (float[]){1, 1, 1}, 1));
    refused(model_of("m", "llama", F32, 2, NULL), at("o"), &(quant_opts){.mix = quant_mix_find("q4_0"), .importance = m}, ERR_FORMAT, "another model");
    imatrix_free(m);
}

/* ---- search ---- */
static void test_search(void **state)
{
    (void)state;
    enum { N = 1024 };
    float x[N], w[N], y[N], *scratch = mem_array(float, 5 * N);
    u8 a[4 * N], b[4 * N];
    rng r;
    rng_seed(&r, 3);
    for (dtype t = 0; t < DTYPE_COUNT; t++) {
        if (!dtype_table[t].quantised) continue;
        for (int weighed = 0; weighed < 2; weighed++) {
            double plain = 0, better = 0;
            for (int round = 0; round < 6; round++) {
                for (int i = 0; i < N; i++) x[i] = rng_normal(&r) * (i % 97 ? 1 : 6), w[i] = (float)rng_unit(&r) + 0.01f;
                assert_ok(weight_encode(t, N, 1, x, weighed ? w : NULL, a));
                assert_ok(quant_search(t, N, x, weighed ? w : NULL, b, scratch));
                double e = 0, f = 0;
                dtype_table[t].decode(a, y, N);
                for (int i = 0; i < N; i++) e += (weighed ? (double)w[i] : 1) * pow((double)x[i] - (double)y[i], 2);
                dtype_table[t].decode(b, y, N);
                for (int i = 0; i < N; i++) f += (weighed ? (double)w[i] : 1) * pow((double)x[i] - (double)y[i], 2);
                if (f > e) fail_msg("%s: %g became %g", dtype_table[t].name, e, f);
                plain += e, better += f;
            }
            if (!(better < plain)) fail_msg("%s: nothing gained on %g", dtype_table[t].name, plain);
            print_message("%-7s %s: weighted error times %.4f\n", dtype_table[t].name, weighed ? "weighed" : "plain  ", sqrt(better / plain));
        }
    }
    float zero[256] = {0};
    for (dtype t = 0; t < DTYPE_COUNT; t++)
        if (dtype_table[t].quantised) assert_ok(quant_search(t, 256, zero, NULL, b, scratch));
    mem_free(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_q4_k_m),   cmocka_unit_test(test_types_of_file), cmocka_unit_test(test_rows_that_do_not_divide),
                                       cmocka_unit_test(test_threads),  cmocka_unit_test(test_requantize),    cmocka_unit_test(test_not_finite),
                                       cmocka_unit_test(test_importances), cmocka_unit_test(test_older_form), cmocka_unit_test(test_another_models),
                                       cmocka_unit_test(test_search)};
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
