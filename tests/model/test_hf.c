/* Hugging Face folders: every architecture goes from GGUF to a folder and back without a float changing, and computes the same from
 * either form; what a folder may not say is refused by file and key; MiniLM gives the reference's ids and vectors. */
#include "tiny.h"
#include "engine/engine.h"
#include <jansson.h>

static char folder[200];

static char *in_folder(const char *name)
{
    static char p[16][400];
    static int at;
    snprintf(p[at % 16], 400, "%s/%s", folder, name);
    return p[at++ % 16];
}

static int make_folder(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/maru-hf-XXXXXX", tmp && strlen(tmp) < 150 ? tmp : "/tmp");
    cpu_force(cpu_best(), true);
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    return file_remove_tree(folder).code ? -1 : 0;
}

static void put(const char *name, const char *text) { assert_ok(file_replace(in_folder(name), text, strlen(text))); }

/* a vocabulary, and an untrained model of an architecture with it */
static char *new_model(const char *arch, const char *shape_of, char *name)
{
    static const char text[] = "the cat and the hat; the dog and the log. the cat and the hat, the end.";
    str special[] = {S("<|endoftext|>"), S("<|im_end|>")};
    trained_vocab v;
    i64 n;
    if (!file_exists(in_folder("vocab.gguf"))) {
        assert_ok(bpe_train(S(text), "qwen2", special, 2, 280, &v));
        assert_true(v.n_tokens > 262 && v.n_merges == v.n_tokens - 258);
        assert_ok(vocab_save(in_folder("vocab.gguf"), &v, "qwen2", 2, 0));
        trained_vocab_free(&v);
    }
    snprintf(name, 40, "%s.gguf", arch);
    assert_ok(model_new(in_folder(name), arch, shape_of, in_folder("vocab.gguf"), 7, &n));
    return in_folder(name);
}

static void same_tensors(const char *a, const char *b)
{
    model_file *x, *y;
    assert_ok(gguf_open(&x, a));
    assert_ok(gguf_open(&y, b));
    assert_int_equal(file_n_tensors(x), file_n_tensors(y));
    for (usize i = 0; i < file_n_tensors(x); i++) {
        const file_tensor *t = file_tensor_at(x, i), *u = file_tensor_find(y, t->name);
        assert_non_null(u);
        assert_int_equal(t->type, u->type);
        assert_int_equal(t->bytes, u->bytes);
        assert_memory_equal(t->data, u->data, t->bytes);
    }
    model_file_close(x);
    model_file_close(y);
}

static float *logits_of(const char *path, usize *n)
{
    static const char text[] = "the dog 12 \xEA\xB3\xA0";
    model *m;
    pool *one;
    ids t = {0};
    assert_ok(pool_new(&one, 1));
    assert_ok(model_open(&m, path, one));
    assert_ok(tokenize(m->tok, S(text), TOKENIZE_BOS, &t));
    *n = t.n * (usize)m->h.n_vocab;
    float *out = mem_array(float, *n);
    assert_ok(model_logits(m, NULL, t.id, (i64)t.n, one, out));
    ids_free(&t);
    model_close(m);
    pool_free(one);
    return out;
}

static void round_trip(const char *gguf, const char *there, const char *back)
{
    convert_report r;
    usize n, k;
    assert_ok(model_convert(gguf, in_folder(there), &r));
    assert_ok(model_convert(in_folder(there), in_folder(back), &r));
    same_tensors(gguf, in_folder(back));
    float *a = logits_of(gguf, &n), *b = logits_of(in_folder(there), &k), *c = logits_of(in_folder(back), &k);
    assert_int_equal(n, k);
    for (usize i = 0; i < n; i++) assert_true(fabsf(a[i] - b[i]) <= 1e-6f && fabsf(a[i] - c[i]) <= 1e-6f);
    mem_free(a);
    mem_free(b);
    mem_free(c);
}

static void decoders(void **s)
{
    static const char *const rows[][2] = {{"llama", "d=24,layers=2,heads=4,kv=2,hd=6,ff=40,ctx=64"}, {"qwen2", "d=24,layers=2,heads=4,kv=2,ff=40,ctx=64,tied=0"},
                                          {"gemma3", "d=24,layers=7,heads=2,kv=1,hd=16,ff=40,ctx=64"}, {"gpt2", "d=24,layers=2,heads=4,ctx=64"}};
    (void)s;
    for (usize i = 0; i < COUNT_OF(rows); i++) {
        char name[40], there[40], back[40];
        char *gguf = new_model(rows[i][0], rows[i][1], name);
        snprintf(there, sizeof there, "%s-folder", rows[i][0]);
        snprintf(back, sizeof back, "%s-back.gguf", rows[i][0]);
        round_trip(gguf, there, back);
    }
}

/* biases, norms that are not one, a SentencePiece vocabulary, matrices of 16 bits */
static void random_ones(void **s)
{
    static const char *const archs[] = {"llama", "qwen2", "gemma3"};
    static const dtype types[] = {BF16, F16, F32};
    (void)s;
    for (usize i = 0; i < COUNT_OF(archs); i++) {
        char name[40], there[40], back[40];
        tiny t = tiny_of(archs[i], types[i]);
        snprintf(name, sizeof name, "tiny-%s.gguf", archs[i]);
        snprintf(there, sizeof there, "tiny-%s", archs[i]);
        snprintf(back, sizeof back, "tiny-%s-back.gguf", archs[i]);
        tiny_write(in_folder(name), &t);
        convert_report r;
        usize n, k;
        assert_ok(model_convert(in_folder(name), in_folder(there), &r));
        assert_ok(model_convert(in_folder(there), in_folder(back), &r));
        float *a = logits_of(in_folder(name), &n), *b = logits_of(in_folder(back), &k);
        assert_int_equal(n, k);
        for (usize j = 0; j < n; j++) assert_true(fabsf(a[j] - b[j]) <= 1e-5f);
        mem_free(a);
        mem_free(b);
    }
}

/* quantised weights become F32 once; from then on nothing changes */
static void quantised(void **s)
{
    tiny t = tiny_of("llama", Q8_0);
    convert_report r;
    (void)s;
    tiny_write(in_folder("q.gguf"), &t);
    assert_ok(model_convert(in_folder("q.gguf"), in_folder("q1"), &r));
    assert_true(r.widened > 0);
    assert_ok(model_convert(in_folder("q1"), in_folder("f.gguf"), &r));
    assert_int_equal(r.widened, 0);
    round_trip(in_folder("f.gguf"), "q2", "f2.gguf");
}

static void copy_folder(const char *from, const char *to)
{
    static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"};
    assert_ok(file_mkdirs(in_folder(to)));
    for (usize i = 0; i < COUNT_OF(files); i++) {
        char a[600], b[600];
        buf x = {0};
        snprintf(a, sizeof a, "%s/%s", in_folder(from), files[i]);
        snprintf(b, sizeof b, "%s/%s", in_folder(to), files[i]);
        assert_ok(file_read(&x, a, 0));
        assert_ok(file_replace(b, x.p, x.n));
        buf_free(&x);
    }
}

static void edit(const char *name, const char *key, const char *value)
{
    json_t *o = json_load_file(in_folder(name), 0, NULL);
    assert_non_null(o);
    if (value)
        json_object_set_new(o, key, json_loads(value, JSON_DECODE_ANY, NULL));
    else
        json_object_del(o, key);
    assert_int_equal(json_dump_file(o, in_folder(name), 0), 0);
    json_decref(o);
}

static void refusals(void **s)
{
    static const struct {
        const char *file, *key, *value;
        int code;
        const char *says;
    } cases[] = {
        {"config.json", "model_type", "\"mamba\"", ERR_UNSUPPORTED, "model_type is \"mamba\""},
        {"config.json", "hidden_act", "\"relu\"", ERR_UNSUPPORTED, "hidden_act is \"relu\""},
        {"config.json", "mlp_bias", "true", ERR_UNSUPPORTED, "mlp_bias"},
        {"config.json", "quantization_config", "{\"bits\":4}", ERR_UNSUPPORTED, "quantization_config"},
        {"config.json", "rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":4}", ERR_UNSUPPORTED, "yarn"},
        {"config.json", "hidden_size", NULL, ERR_FORMAT, "hidden_size is missing"},
        {"config.json", "num_hidden_layers", "-3", ERR_FORMAT, "num_hidden_layers is -3"},
        {"config.json", "num_hidden_layers", "3", ERR_FORMAT, "blk.2."},
        {"config.json", "tie_word_embeddings", "false", ERR_FORMAT, "lm_head"},
        {"tokenizer.json", "normalizer", "{\"type\":\"Lowercase\"}", ERR_UNSUPPORTED, "Lowercase"},
        {"tokenizer.json", "pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"x+\"},\"behavior\":\"Isolated\"}", ERR_UNSUPPORTED, "byte_fallback"},
        {"tokenizer.json", "model", "{\"type\":\"WordLevel\",\"vocab\":{}}", ERR_UNSUPPORTED, "WordLevel"},
        {"tokenizer.json", "model", "7", ERR_FORMAT, "model"},
    };
    char name[40];
    convert_report r;
    (void)s;
    new_model("llama", "d=16,layers=2,heads=2,ff=32,ctx=32", name);
    assert_ok(model_convert(in_folder(name), in_folder("whole"), &r));
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        char file[100];
        model *m;
        copy_folder("whole", "bad");
        snprintf(file, sizeof file, "bad/%s", cases[i].file);
        edit(file, cases[i].key, cases[i].value);
        err bad = model_open(&m, in_folder("bad"), NULL);
        if (bad.code != cases[i].code || !strstr(bad.what, cases[i].says)) fail_msg("%s %s: %s %s", cases[i].key, cases[i].value ? cases[i].value : "-", err_name(bad.code), bad.what);
        assert_null(m);
        bad = model_convert(in_folder("bad"), in_folder("bad.gguf"), &r);
        assert_int_equal(bad.code, cases[i].code);
        assert_false(file_exists(in_folder("bad.gguf")) || file_exists(in_folder("bad.gguf.converting")));
    }
    assert_int_equal(model_convert(in_folder(name), in_folder("whole"), &r).code, ERR_INPUT); /* a folder that is there is not touched */
    model *m;
    assert_ok(model_open(&m, in_folder("whole"), NULL));
    model_close(m);
}

/* one safetensors as two shards and an index */
static void shards(void **s)
{
    char name[40];
    convert_report r;
    model_file *f;
    buf index = {0};
    (void)s;
    char *gguf = new_model("llama", "d=16,layers=2,heads=2,ff=32,ctx=32", name);
    if (!file_exists(in_folder("whole"))) assert_ok(model_convert(gguf, in_folder("whole"), &r));
    copy_folder("whole", "cut");
    assert_ok(safetensors_open(&f, in_folder("cut/model.safetensors")));
    buf_puts(&index, "{\"weight_map\":{");
    for (int part = 0; part < 2; part++) {
        safetensors_writer *w;
        assert_ok(safetensors_create(&w, in_folder(part ? "cut/b.safetensors" : "cut/a.safetensors")));
        for (int pass = 0; pass < 2; pass++)
            for (usize i = 0; i < file_n_tensors(f); i++) {
                const file_tensor *t = file_tensor_at(f, i);
                if ((int)(i % 3 == 0) != part) continue;
                if (pass)
                    assert_ok(safetensors_put_data(w, t->data, t->bytes));
                else
                    assert_ok(safetensors_put_tensor(w, t->name, t->type, t->n_dims, t->n));
                if (pass) buf_fmt(&index, "%s\"%.*s\":\"%s\"", index.n > 16 ? "," : "", (int)t->name.n, t->name.p, part ? "b.safetensors" : "a.safetensors");
            }
        assert_ok(safetensors_commit(w));
    }
    model_file_close(f);
    buf_puts(&index, "}}");
    put("cut/model.safetensors.index.json", buf_cstr(&index));
    unlink(in_folder("cut/model.safetensors"));
    assert_ok(model_convert(in_folder("cut"), in_folder("cut.gguf"), &r));
    same_tensors(gguf, in_folder("cut.gguf"));
    put("cut/model.safetensors.index.json", "{\"weight_map\":{\"x\":\"../whole/model.safetensors\"}}");
    err bad = model_convert(in_folder("cut"), in_folder("out.gguf"), &r);
    assert_true(bad.code == ERR_FORMAT && strstr(bad.what, "index.json"));
    buf_free(&index);
}

static void minilm(const char *path)
{
    json_t *g = json_load_file(test_shared("models/golden/minilm-l6.json"), 0, NULL), *one;
    engine *e;
    usize i;
    double least = 1;
    assert_non_null(g);
    assert_ok(engine_open(&e, path, &(engine_opts){.threads = 1}));
    json_array_foreach(json_object_get(g, "sentences"), i, one)
    {
        str text = str_of(json_string_value(json_object_get(one, "text")));
        json_t *ids_of = json_object_get(one, "ids"), *v = json_object_get(one, "vector");
        float x[384];
        ids t = {0};
        double dot = 0, xx = 0, vv = 0;
        assert_ok(tokenize(engine_model(e)->tok, text, TOKENIZE_BOS, &t));
        assert_int_equal(t.n, json_array_size(ids_of));
        for (usize k = 0; k < t.n; k++) assert_int_equal(t.id[k], json_integer_value(json_array_get(ids_of, k)));
        ids_free(&t);
        assert_ok(engine_embed(e, &text, 1, EMBED_PLAIN, WINDOW_ERROR, x, NULL, NULL));
        for (usize k = 0; k < 384; k++) {
            double w = json_number_value(json_array_get(v, k));
            dot += (double)x[k] * w, xx += (double)x[k] * (double)x[k], vv += w * w;
        }
        least = fmin(least, dot / sqrt(xx * vv));
    }
    assert_true(i >= 4);
    print_message("minilm-l6: least cosine to the reference %.9f\n", least);
    assert_true(least >= 0.99999);
    engine_close(e);
    json_decref(g);
}

static void minilm_both_forms(void **s)
{
    const char *path = test_model("minilm-l6");
    convert_report r;
    (void)s;
    SKIP_WITHOUT(path, "minilm-l6");
    SKIP_WITHOUT(test_shared("models/golden/minilm-l6.json"), "minilm-l6.json");
    minilm(path);
    assert_ok(model_convert(path, in_folder("minilm.gguf"), &r));
    minilm(in_folder("minilm.gguf"));
    assert_ok(model_convert(in_folder("minilm.gguf"), in_folder("minilm"), &r));
    minilm(in_folder("minilm"));
    assert_ok(model_convert(in_folder("minilm"), in_folder("minilm2.gguf"), &r));
    same_tensors(in_folder("minilm.gguf"), in_folder("minilm2.gguf"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(decoders), cmocka_unit_test(random_ones), cmocka_unit_test(quantised),
                                       cmocka_unit_test(refusals), cmocka_unit_test(shards),      cmocka_unit_test(minilm_both_forms)};
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
