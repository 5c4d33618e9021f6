/* gpt2: a real small model in Hugging Face's form, turned into a GGUF by the table of names, gives the logits that transformers
 * gives (tests/golden/gpt2-golden.json); in an engine it gives the same; pairs beside its one tensor for q, k and v work
 * unmerged, merged and saved, whether they were made for the whole of it or for its parts. */
#include "tiny.h"
#include "engine/engine.h"
#include <jansson.h>

static char folder[200];
static pool *threads;
static model *m;
static i32 id[32];
static i64 n_ids;
static double *want; /* [n_vocab, n_ids] */
static char *path;

static char *in_folder(const char *name)
{
    static char p[8][300];
    static int at;
    snprintf(p[at % 8], 300, "%s/%s", folder, name);
    return p[at++ % 8];
}

static int make_folder(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/maru-gpt2-XXXXXX", tmp && strlen(tmp) < 150 ? tmp : "/tmp");
    cpu_force(cpu_best(), true);
    return mkdtemp(folder) && !pool_new(&threads, 1).code ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    model_close(m);
    pool_free(threads);
    return file_remove_tree(folder).code ? -1 : 0;
}

/* ---- Hugging Face to GGUF -------------------------------------------------------------------------------------------------- */
static void write_keys(gguf_writer *w)
{
    static const struct {
        const char *key;
        u32 v;
    } ints[] = {{"gpt2.block_count", 4},
                {"gpt2.context_length", 512},
                {"gpt2.embedding_length", 64},
                {"gpt2.feed_forward_length", 256},
                {"gpt2.attention.head_count", 4}};
    str names[53];
    i32 kinds[53];
    float scores[53] = {0};
    static char text[53][16];
    assert_ok(gguf_put_str(w, "general.architecture", S("gpt2")));
    for (usize i = 0; i < COUNT_OF(ints); i++) assert_ok(gguf_put_u32(w, ints[i].key, ints[i].v));
    assert_ok(gguf_put_f32(w, "gpt2.attention.layer_norm_epsilon", 1e-5f));
    assert_ok(gguf_put_str(w, "tokenizer.ggml.model", S("llama")));
    for (int i = 0; i < 53; i++) {
        snprintf(text[i], sizeof text[i], "<word%d>", i);
        names[i] = str_of(text[i]), kinds[i] = i ? TOKEN_NORMAL : TOKEN_UNKNOWN;
    }
    assert_ok(gguf_put_array(w, "tokenizer.ggml.tokens", META_STR, 53, names));
    assert_ok(gguf_put_array(w, "tokenizer.ggml.token_type", META_I32, 53, kinds));
    assert_ok(gguf_put_array(w, "tokenizer.ggml.scores", META_F32, 53, scores));
}

static void convert(const char *from, const char *to)
{
    model_file *f;
    gguf_writer *w;
    assert_ok(safetensors_open(&f, from));
    assert_ok(gguf_create(&w, to));
    write_keys(w);
    for (int pass = 0; pass < 2; pass++)
        for (usize i = 0; i < file_n_tensors(f); i++) {
            const file_tensor *t = file_tensor_at(f, i);
            gguf_name g;
            assert_true(names_from_hf("gpt2", t->name, &g));
            bool turned = g.order == ORDER_TURNED;
            i64 k = t->n[turned ? 1 : 0], n = t->n[turned ? 0 : 1];
            if (!pass) {
                assert_ok(gguf_put_tensor(w, str_of(g.name), F32, t->n_dims, (i64[]){k, n}));
                continue;
            }
            float *x = mem_array(float, k *n);
            names_reorder(NULL, g.order, true, k, n, (const float *)(const void *)t->data, x);
            assert_ok(gguf_put_data(w, x, sizeof *x * (usize)(k * n)));
            mem_free(x);
        }
    assert_ok(gguf_commit(w));
    model_file_close(f);
}

static void make_model(void **state)
{
    (void)state;
    const char *from = test_shared("data/model-capp-gpt2/model.safetensors");
    json_error_t why;
    SKIP_WITHOUT(from, "model-capp-gpt2");
    path = in_folder("gpt2.gguf");
    convert(from, path);
    assert_ok(model_open(&m, path, threads));
    assert_int_equal(m->h.n_vocab, 53);
    assert_true(m->head.data == m->embed.data && !m->layers[0].gate.data && m->layers[0].attn_norm_b.data &&
                m->layers[3].k_b.data);
    json_t *g = json_load_file("tests/golden/gpt2-golden.json", 0, &why), *rows = json_object_get(g, "logits");
    n_ids = (i64)json_array_size(rows);
    want = mem_array(double, n_ids * 53);
    for (i64 i = 0; i < n_ids; i++) {
        id[i] = (i32)json_integer_value(json_array_get(json_object_get(g, "tokens"), (usize)i));
        for (usize k = 0; k < 53; k++)
            want[i * 53 + (i64)k] = json_number_value(json_array_get(json_array_get(rows, (usize)i), k));
    }
    json_decref(g);
}

static float *logits(const model *of, const adapter_mix *mix)
{
    float *l = mem_array(float, n_ids * 53);
    assert_ok(model_logits(of, mix, id, n_ids, threads, l));
    return l;
}

static double apart(const float *a, const float *b)
{
    double d = 0;
    for (i64 i = 0; i < n_ids * 53; i++) d = fmax(d, fabs((double)a[i] - (double)b[i]));
    return d;
}

static void test_golden(void **state)
{
    (void)state;
    SKIP_WITHOUT(m, "model-capp-gpt2");
    float *l = logits(m, NULL);
    double d = 0;
    for (i64 i = 0; i < n_ids * 53; i++) d = fmax(d, fabs(want[i] - (double)l[i]));
    print_message("largest difference of a logit %.1e\n", d);
    assert_true(d < 1e-4);
    engine *e; /* pages, one row at a time and many */
    session *s;
    float score[32];
    assert_ok(engine_open(&e, path, &(engine_opts){.threads = 1}));
    assert_ok(session_open(&s, e, 0));
    assert_ok(session_generate(s, &(gen_request){.ids = id, .n = (usize)n_ids, .score = score}, NULL));
    for (i64 i = 1; i < n_ids; i++)
        assert_true(fabs((double)score[i] - (double)(l[(i - 1) * 53 + id[i]] - logits_lse(l + (i - 1) * 53, 53))) < 1e-4);
    session_close(s);
    engine_close(e);
    mem_free(l);
}

/* ---- pairs beside attn_qkv --------------------------------------------------------------------------------------------------
 */
static void fill(float *x, i64 n, u64 seed)
{
    rng r;
    rng_seed(&r, seed);
    for (i64 i = 0; i < n; i++) x[i] = 0.3f * rng_normal(&r);
}

static void check_everywhere(const adapter_file *f, double tolerance)
{
    adapter_use use = {f, 1};
    adapter_mix mix = {&use, 1};
    merge_report r;
    adapter_file *g;
    model *merged;
    float *base = logits(m, NULL), *a = logits(m, &mix);
    assert_true(apart(base, a) > 0.1);
    assert_ok(adapter_merge(m, &mix, in_folder("merged.gguf"), DTYPE_COUNT, 1e-6, false, threads, &r));
    assert_ok(model_open(&merged, in_folder("merged.gguf"), threads));
    float *b = logits(merged, NULL);
    assert_true(apart(a, b) < tolerance);
    assert_ok(adapter_save(f, in_folder("saved"), m));
    assert_ok(adapter_load(&g, in_folder("saved"), m));
    use.file = g;
    float *c = logits(m, &mix);
    assert_true(apart(a, c) < tolerance);
    adapter_free(g);
    model_close(merged);
    mem_free(base), mem_free(a), mem_free(b), mem_free(c);
    assert_ok(file_remove_tree(in_folder("saved")));
}

static void test_whole_tensor_of_three(void **state)
{
    (void)state;
    SKIP_WITHOUT(m, "model-capp-gpt2");
    /* three pairs of different rank and scale, as training has them: PEFT gets one for c_attn */
    float a[3][64 * 4], b[3][64 * 4];
    trained t[9];
    usize n = 0;
    for (int p = 0; p < 3; p++) {
        i64 rank = 2 + p;
        fill(a[p], 64 * rank, (u64)p + 1), fill(b[p], 64 * rank, (u64)p + 11);
        t[n] = (trained){.kind = TRAIN_A, .k = 64, .n = rank, .data = a[p], .scale = 0.5f + (float)p};
        snprintf(t[n++].name, 48, "blk.2.attn_%c.weight", "qkv"[p]);
        t[n] = (trained){.kind = TRAIN_B, .k = rank, .n = 64, .data = b[p]};
        snprintf(t[n++].name, 48, "blk.2.attn_%c.weight", "qkv"[p]);
    }
    adapter_file *f;
    assert_ok(adapter_of_trained(&f, m, &(trained_set){t, n}));
    check_everywhere(f, 1e-4);
    assert_ok(adapter_save(f, in_folder("three"), m));
    adapter_free(f);
    assert_ok(adapter_load(&f, in_folder("three"), m)); /* now one pair for the whole tensor, of rank 9 */
    assert_int_equal(f->n_pairs, 1);
    assert_int_equal(f->pair[0].rank, 9);
    check_everywhere(f, 1e-4);
    assert_ok(adapter_save_gguf(f, in_folder("three.gguf"), m));
    adapter_free(f);
    assert_ok(adapter_load(&f, in_folder("three.gguf"), m));
    check_everywhere(f, 1e-4);
    adapter_free(f);
}

static void test_whole_part(void **state)
{
    (void)state;
    SKIP_WITHOUT(m, "model-capp-gpt2");
    float w[64 * 64], bias[64]; /* one part of the fused tensor, whole, and of its bias */
    fill(w, 64 * 64, 5), fill(bias, 64, 6);
    trained t[] = {{.kind = TRAIN_WEIGHT, .name = "blk.1.attn_v.weight", .k = 64, .n = 64, .data = w},
                   {.kind = TRAIN_WEIGHT, .name = "blk.1.attn_v.bias", .k = 64, .n = 1, .data = bias}};
    adapter_file *f;
    merge_report r;
    model *merged, *over;
    assert_ok(adapter_of_trained(&f, m, &(trained_set){t, 2}));
    adapter_use use = {f, 1};
    adapter_mix mix = {&use, 1};
    float *a = logits(m, &mix);
    assert_ok(adapter_merge(m, &mix, in_folder("merged.gguf"), DTYPE_COUNT, 1e-6, false, threads, &r));
    assert_int_equal(r.changed, 2);
    assert_ok(model_open(&merged, in_folder("merged.gguf"), threads));
    assert_ok(model_open(&over, path, threads));
    assert_ok(adapter_overlay(over, f));
    adapter_file *g; /* Hugging Face has one tensor: the parts that were not trained are written as they are */
    assert_ok(adapter_save(f, in_folder("part"), m));
    assert_ok(adapter_load(&g, in_folder("part"), m));
    assert_int_equal(g->n_whole, 2);
    use.file = g;
    float *d = logits(m, &mix);
    float *b = logits(merged, NULL), *c = logits(over, NULL), *base = logits(m, NULL);
    assert_true(apart(a, base) > 0.1 && apart(a, b) < 1e-4 && apart(a, c) < 1e-4 && apart(a, d) < 1e-4);
    adapter_free(g);
    mem_free(d);
    mem_free(a), mem_free(b), mem_free(c), mem_free(base);
    model_close(merged);
    model_close(over);
    adapter_free(f);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(make_model), cmocka_unit_test(test_golden),
                                              cmocka_unit_test(test_whole_tensor_of_three), cmocka_unit_test(test_whole_part)};
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
