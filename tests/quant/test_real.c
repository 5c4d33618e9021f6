/* Importances on a real model, MARU_HEAVY=1 (minutes of one core): at Q4_0, Q3_K and Q2_K every tensor's error, weighed by the
 * importances that were collected, is less with them than without. Rows that 256 does not divide get the type they fall back to. */
#include "../support/support.h"
#include "quant/quant.h"
#include <math.h>

static const char text[] =
    "A model learns by guessing the next word of a great deal of text. Every weight is a number, and most of them are small. To store "
    "each in sixteen bits is a waste, when four would do nearly as well; but which four? Columns that meet large activations matter "
    "more than columns that meet none, so one lets the model read, and writes down how large they were.\n\n"
    "def mean(values):\n    total = 0.0\n    for v in values:\n        total += v\n    return total / len(values)\n\n"
    "int main(void)\n{\n    for (int i = 0; i < 10; i++)\n        printf(\"%d squared is %d\\n\", i, i * i);\n    return 0;\n}\n\n"
    "The harbour lay quiet in the morning. Two boats had come in during the night, and a man in a blue coat was counting crates on the "
    "quay while gulls walked between them. Nobody asked where the third boat was. SELECT name, count(*) FROM crates GROUP BY name;\n";

static quant_report run_of(const char *in, const char *out, const quant_opts *o)
{
    quant_report r;
    assert_ok(quant_run(in, out, o, &r));
    unlink(out);
    return r;
}

static void lowers(const char *model_name, const char *type)
{
    const char *in = test_model(model_name), *out = "/tmp/maru-quant-real.gguf";
    model *m;
    imatrix *a;
    pool *p;
    usize n = 0;
    double sum = 0, worst = 0;
    SKIP_WITHOUT(in, model_name);
    assert_ok(pool_new(&p, 1));
    assert_ok(model_open(&m, in, p));
    assert_ok(imatrix_collect(&a, m, p, S(text), "text", 512, NULL));
    model_close(m);
    quant_opts o = {.mix = quant_mix_find(type), .importance = a, .requantise = true, .pure = true, .threads = p};
    quant_report with = run_of(in, out, &o);
    o.blind = true;
    quant_report blind = run_of(in, out, &o);
    for (usize i = 0; i < with.n; i++) {
        const quant_tensor *x = &with.t[i], *y = &blind.t[i];
        assert_true(x->to == y->to && x->weighed == y->weighed);
        if (!x->weighed) continue;
        if (!(x->weighted < y->weighted)) fail_msg("%s %s: %g with importances, %g without", dtype_table[x->to].name, x->name, x->weighted, y->weighted);
        n++, sum += x->weighted / y->weighted, worst = fmax(worst, x->weighted / y->weighted);
    }
    assert_true(n > 100);
    print_message("%s %s: %zu tensors, weighted error times %.4f in the mean, %.4f at worst; %zu fell back\n", model_name, type, n, sum / (double)n, worst, with.fallbacks);
    quant_report_free(&with), quant_report_free(&blind);
    imatrix_free(a);
    pool_free(p);
}

#define CASE(name, file, type)                                                                                                           \
    static void name(void **state)                                                                                                      \
    {                                                                                                                                   \
        (void)state;                                                                                                                    \
        if (!getenv("MARU_HEAVY")) skip();                                                                                              \
        lowers(file, type);                                                                                                             \
    }
CASE(qwen_q4_0, "qwen2.5-coder-0.5b.gguf", "q4_0")
CASE(qwen_q3_k, "qwen2.5-coder-0.5b.gguf", "q3_k_s")
CASE(qwen_q2_k, "qwen2.5-coder-0.5b.gguf", "q2_k")

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(qwen_q4_0), cmocka_unit_test(qwen_q3_k), cmocka_unit_test(qwen_q2_k)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
