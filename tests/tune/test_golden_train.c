/* Training against PyTorch: tiny models of every architecture, filled here and in tests/golden/torch_golden.py by one hash of
 * names, learn the same three sequences there (transformers and PEFT in double precision) and here (the graph of a training step
 * in floats), by every way. Logits, the gradient of every trained tensor, losses after 1, 10 and 100 steps of AdamW and the
 * parameters after 100 must be those of torch-golden.json; how many values a way trains is its closed form and PEFT's count.
 *
 * Of large arrays the file has the norm and four projections on vectors of signs. A projection of a difference is as large as the
 * difference's norm (root mean square over signs), so these measure relative L2 errors over all values without all values. */
#include "../support/support.h"
#include "tune/tune.h"
#include <jansson.h>
#include <math.h>

enum { SEQUENCES = 3, LONGEST = 13, RANK = 4, ALPHA = 6, N_PROMPT = 5, N_PREFIX = 3, N_CLASSES = 3, SKETCH = 5 };
static const i32 length[SEQUENCES] = {13, 8, 8};
static const double BAR = 1e-5, BAR_STEPS = 2e-5;

static char folder[200];
static json_t *golden;
static pool *threads;

static int make_folder(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    json_error_t why;
    snprintf(folder, sizeof folder, "%s/maru-golden-XXXXXX", tmp && strlen(tmp) < 150 ? tmp : "/tmp");
    golden = json_load_file("tests/golden/torch-golden.json", 0, &why);
    return golden && mkdtemp(folder) && !pool_new(&threads, 1).code ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    json_decref(golden);
    pool_free(threads);
    return file_remove_tree(folder).code ? -1 : 0;
}

/* ---- values from names: the script's rules --------------------------------------------------------------------------------- */
static u64 name_hash(const char *a, const char *b)
{
    u64 h = 0xCBF29CE484222325u;
    for (; *a; a++) h = (h ^ (u8)*a) * 0x100000001B3u;
    for (; *b; b++) h = (h ^ (u8)*b) * 0x100000001B3u;
    return h;
}

static u64 mixed(u64 seed, i64 i)
{
    u64 z = seed + (u64)(i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static void fill(const char *id, float *x, i64 n)
{
    static const struct {
        char kind;
        float size;
    } sizes[] = {{'k', 1}, {'b', 0.125f}, {'p', 0.5f}, {'v', 0.5f}};
    usize len = strlen(id);
    bool weight = id[0] == 'w', one = weight && len > 11 && !strcmp(id + len - 11, "norm.weight");
    bool embedding = !strcmp(id, "w:token_embd.weight") || !strcmp(id, "w:position_embd.weight");
    float size = embedding ? 0.5f : 0.25f;
    for (usize i = 0; i < COUNT_OF(sizes); i++)
        if (sizes[i].kind == id[0]) size = sizes[i].size;
    u64 seed = name_hash(id, "");
    for (i64 i = 0; i < n; i++) x[i] = (float)one + (float)((i32)(mixed(seed, i) >> 48) - 32768) / 32768 * size;
}

static double or_infinite(double d) { return isfinite(d) ? d : INFINITY; } /* what is not a number must not pass comparisons */

/* relative L2 distance of x from the values of which the file has this sketch, relative to `scale` (0: to their norm) */
static double apart(const char *id, const json_t *sketch, const float *x, i64 n, double scale)
{
    double own[SKETCH] = {0}, sum = 0;
    u64 seed = name_hash("sign ", id);
    assert_int_equal(json_array_size(sketch), SKETCH);
    for (i64 i = 0; i < n; i++) {
        u64 bits = mixed(seed, i);
        own[0] += (double)x[i] * (double)x[i];
        for (int j = 1; j < SKETCH; j++) own[j] += bits >> (64 - j) & 1 ? -(double)x[i] : (double)x[i];
    }
    own[0] = sqrt(own[0]);
    for (usize j = 0; j < SKETCH; j++) {
        double d = own[j] - json_number_value(json_array_get(sketch, j));
        sum += d * d;
    }
    if (scale <= 0) scale = json_number_value(json_array_get(sketch, 0));
    return or_infinite(sqrt(sum / (SKETCH - 1)) / scale);
}

/* ---- models ------------------------------------------------------------------------------------------------------------------
 */
static void write_tokenizer(gguf_writer *w, i64 n)
{
    str names[256];
    i32 kinds[256];
    float scores[256] = {0};
    char text[256][16];
    assert_true(n <= 256);
    for (i64 i = 0; i < n; i++) {
        snprintf(text[i], sizeof text[i], "<word%d>", (int)i);
        names[i] = str_of(text[i]), kinds[i] = i ? TOKEN_NORMAL : TOKEN_UNKNOWN;
    }
    assert_ok(gguf_put_str(w, "tokenizer.ggml.model", S("llama")));
    assert_ok(gguf_put_array(w, "tokenizer.ggml.tokens", META_STR, n, names));
    assert_ok(gguf_put_array(w, "tokenizer.ggml.token_type", META_I32, n, kinds));
    assert_ok(gguf_put_array(w, "tokenizer.ggml.scores", META_F32, n, scores));
}

static void write_keys(gguf_writer *w, const char *arch, json_t *keys)
{
    const char *key;
    json_t *v;
    assert_ok(gguf_put_str(w, "general.architecture", str_of(arch)));
    json_object_foreach(keys, key, v)
    {
        char name[96];
        snprintf(name, sizeof name, "%s.%s", arch, key);
        if (json_is_string(v))
            assert_ok(gguf_put_str(w, name, str_of(json_string_value(v))));
        else if (json_is_integer(v))
            assert_ok(gguf_put_u32(w, name, (u32)json_integer_value(v)));
        else
            assert_ok(gguf_put_f32(w, name, (float)json_real_value(v)));
    }
}

/* GPT-2's GGUF has q, k and v in one tensor; the file's values are those of the parts, one after another */
static void write_tensors(gguf_writer *w, json_t *tensors, bool fused)
{
    for (int pass = 0; pass < 2; pass++)
        for (usize i = 0; i < json_array_size(tensors); i++) {
            const char *name;
            json_int_t k, n;
            assert_int_equal(json_unpack(json_array_get(tensors, i), "[sII]", &name, &k, &n), 0);
            char *part = fused ? strstr(name, "attn_q.") : NULL, as[64], id[64];
            int parts = part ? 3 : 1;
            if (fused && (strstr(name, "attn_k.") || strstr(name, "attn_v."))) continue;
            snprintf(as, sizeof as, "%s", name);
            if (part) snprintf(as, sizeof as, "%.*sattn_qkv.%s", (int)(part - name), name, part + 7);
            if (!pass) {
                assert_ok(gguf_put_tensor(w, str_of(as), F32, n ? 2 : 1, (i64[]){n ? k : k * parts, n * parts}));
                continue;
            }
            i64 values = k * (n ? n : 1);
            float *x = mem_array(float, values);
            for (int p = 0; p < parts; p++) {
                snprintf(id, sizeof id, "w:%s", name);
                if (part) id[2 + (part - name) + 5] = "qkv"[p];
                fill(id, x, values);
                assert_ok(gguf_put_data(w, x, sizeof *x * (usize)values));
            }
            mem_free(x);
        }
}

static model *open_model(const char *arch)
{
    json_t *models = json_object_get(golden, "models"), *found = NULL;
    for (usize i = 0; i < json_array_size(models); i++)
        if (!strcmp(json_string_value(json_object_get(json_array_get(models, i), "arch")), arch))
            found = json_array_get(models, i);
    assert_non_null(found);
    char path[256];
    gguf_writer *w;
    model *m;
    snprintf(path, sizeof path, "%s/%s.gguf", folder, arch);
    json_t *tensors = json_object_get(found, "tensors");
    i64 n_vocab = 0;
    for (usize i = 0; i < json_array_size(tensors); i++) {
        json_t *t = json_array_get(tensors, i);
        if (!strcmp(json_string_value(json_array_get(t, 0)), "token_embd.weight"))
            n_vocab = json_integer_value(json_array_get(t, 2));
    }
    assert_ok(gguf_create(&w, path));
    write_keys(w, arch, json_object_get(found, "keys"));
    write_tokenizer(w, n_vocab);
    write_tensors(w, tensors, !strcmp(arch, "gpt2"));
    assert_ok(gguf_commit(w));
    assert_ok(model_open(&m, path, threads));
    return m;
}

/* ---- ways --------------------------------------------------------------------------------------------------------------------
 */
static void id_of(const trained *t, char out[64])
{
    static const char kinds[] = {[TRAIN_WEIGHT] = 'w',   [TRAIN_A] = 'a',        [TRAIN_B] = 'b',       [TRAIN_PROMPT] = 'p',
                                 [TRAIN_PREFIX_K] = 'k', [TRAIN_PREFIX_V] = 'v', [TRAIN_CLASSES] = 'c', [TRAIN_CLASSES_B] = 'd'};
    snprintf(out, 64, "%c:%s", kinds[t->kind], t->name);
}

static i64 closed_form(const model *m, way_kind way)
{
    const hparams *h = &m->h;
    i64 d = h->width, q = h->n_head * h->head_dim, kv = h->n_kv_head * h->head_dim,
        gates = m->arch->encoder || m->arch->ungated ? 1 : 2;
    i64 pairs = (d + q) + 2 * (d + kv) + (q + d) + (gates + 1) * (d + h->n_ff), head = m->arch->encoder ? N_CLASSES * (d + 1) : 0;
    switch (way) {
    case WAY_ALL: return m->parameters + head;
    case WAY_LORA: return h->n_layer * RANK * pairs + head;
    case WAY_PROMPT: return N_PROMPT * d;
    case WAY_PREFIX: return N_PREFIX * 2 * h->n_layer * kv;
    default: return -1;
    }
}

/* the matrices that the trainer makes for a way, with the script's values; whole weights begin as the model's are */
static void make_set(const model *m, const char *name, json_t *run, trained_set *set)
{
    static i32 any[] = {1, 2, 3};
    train_opts o = {.alpha = ALPHA, .rslora = !strcmp(name, "rslora"), .seed = 1};
    tune_data d = {.id = any, .n_tokens = COUNT_OF(any), .n_labels = N_CLASSES, .o = {.head = m->arch->encoder}};
    json_t *grad = json_object_get(run, "grad");
    if (!strcmp(name, "all"))
        o.way = (tune_way){WAY_ALL, 0};
    else if (!strcmp(name, "prompt"))
        o.way = (tune_way){WAY_PROMPT, N_PROMPT};
    else if (!strcmp(name, "prefix"))
        o.way = (tune_way){WAY_PREFIX, N_PREFIX};
    else
        o.way = (tune_way){WAY_LORA, RANK};
    assert_ok(way_make(m, threads, &o, &d, set));
    assert_int_equal(set->n, json_object_size(grad));
    assert_int_equal(way_count(set), json_integer_value(json_object_get(run, "trainable")));
    assert_int_equal(way_count(set), closed_form(m, o.way.kind));
    for (usize i = 0; i < set->n; i++) {
        trained *t = &set->t[i];
        char id[64];
        i64 n = t->k * t->n;
        float *x = mem_array(float, n);
        id_of(t, id);
        if (!json_object_get(grad, id)) fail_msg("%s is trained here only", id);
        fill(id, x, n);
        if (t->kind == TRAIN_WEIGHT) assert_memory_equal(t->data, x, sizeof *x * (usize)n);
        memcpy(t->data, x, sizeof *x * (usize)n);
        mem_free(x);
    }
}

/* ---- a run -------------------------------------------------------------------------------------------------------------------
 */
typedef struct {
    const model *m;
    trained_set set;
    backend *be;
    workspace *ws;
    packing *pack;
    plan *p;
    model_io io;
    adamw opt;
    const float **grad;
    i32 id[SEQUENCES][LONGEST], want[SEQUENCES][LONGEST], out[SEQUENCES * LONGEST];
    float weight[LONGEST];
} learner;

static i32 token(int s, int i, i64 n_vocab) { return (i32)(((s > 0) * 37 + i * 11 + i * i * 5) % n_vocab); }

/* the third sequence is the second with other targets: what cannot be learned keeps losses and gradients away from rounding */
static i32 target(int s, int i, i64 n_vocab)
{
    return i + 1 < length[s] && i >= 3 * s ? (i32)((token(s, i + 1, n_vocab) + 7 * (s == 2)) % n_vocab) : -1;
}

static void learner_open(learner *l)
{
    i64 outs = 0, rows = 0, more = packing_overhead(&l->set), n_vocab = l->m->h.n_vocab;
    packed_seq seq[SEQUENCES];
    for (int i = 0; i < LONGEST; i++) l->weight[i] = (float)(1 + i % 3) / 64;
    for (int s = 0; s < SEQUENCES; s++) {
        for (int i = 0; i < length[s]; i++) {
            l->id[s][i] = token(s, i, n_vocab);
            l->want[s][i] = target(s, i, n_vocab);
            l->out[outs++] = (i32)(rows + more) + i;
        }
        rows += more + length[s];
        seq[s] = (packed_seq){.id = l->id[s],
                              .n = length[s],
                              .want = l->want[s],
                              .weight = l->weight,
                              .klass = (s + 1) % N_CLASSES,
                              .counts = (float)(s + 1) / 4};
    }
    bool classes = l->m->arch->encoder;
    batch_shape shape_of = {.rows = rows,
                            .seqs = SEQUENCES,
                            .outs = classes ? 0 : outs,
                            .train = &l->set,
                            .loss = classes ? LOSS_CLASSES : LOSS_TOKENS,
                            .pool = POOL_MEAN,
                            .learn = true};
    assert_ok(backend_cpu(&l->be, threads));
    assert_ok(workspace_new(&l->ws, l->be));
    assert_ok(packing_open(&l->pack, l->m, l->ws, &shape_of, true, &l->io));
    assert_ok(packing_put(l->pack, &l->io, seq, SEQUENCES));
    l->p = packing_plan(l->pack);
    if (!classes) assert_ok(tensor_put(l->p, l->io.out_rows, l->out));
    assert_ok(adamw_new(&l->opt, &l->set));
    l->grad = (const float **)mem_array(float *, l->set.n);
}

static double learner_loss(learner *l)
{
    float loss;
    assert_ok(plan_run(l->p));
    assert_ok(tensor_get(l->p, l->io.loss, &loss));
    for (usize i = 0; i < l->set.n; i++) {
        assert_non_null(l->set.t[i].leaf->grad);
        l->grad[i] = tensor_peek(l->p, l->set.t[i].leaf->grad);
        assert_non_null(l->grad[i]);
    }
    return (double)loss;
}

static void learner_close(learner *l)
{
    adamw_free(&l->opt);
    packing_close(l->pack);
    workspace_free(l->ws);
    backend_close(l->be);
    mem_free(l->grad);
    way_free(&l->set);
}

/* ---- comparing ---------------------------------------------------------------------------------------------------------------
 */
typedef struct {
    double logits, grad, loss, end;
    char grad_of[64], end_of[64];
} worst;

static void check_logits(learner *l, json_t *run, worst *w)
{
    tensor *t = l->io.logits ? l->io.logits : l->io.scores;
    i64 k = t->n[0], n = t->n[1], row = 0;
    float *x = mem_array(float, k *n);
    assert_ok(tensor_get(l->p, t, x));
    w->logits = apart("logits", json_object_get(run, "logits"), x, k * n, 0);
    for (usize s = 0; s < SEQUENCES; s++) {
        json_t *want = json_array_get(json_object_get(run, "last"), s);
        double d = 0, size = 0;
        row += l->io.logits ? length[s] : 1;
        assert_int_equal(json_array_size(want), k);
        for (i64 i = 0; i < k; i++) {
            double v = json_number_value(json_array_get(want, (usize)i));
            d += (v - (double)x[(row - 1) * k + i]) * (v - (double)x[(row - 1) * k + i]), size += v * v;
        }
        w->logits = fmax(w->logits, or_infinite(sqrt(d / size)));
    }
    mem_free(x);
}

/* A bias of keys that nothing rotates moves all scores of a row alike: its gradient is zero, what there is of it is rounding, and
 * Adam makes steps of any rounding. Such a tensor's gradient is held against that of the whole set, its values are not compared.
 */
static bool is_nothing(json_t *sketch) { return json_number_value(json_array_get(sketch, 0)) < 1e-12; }

static void check_gradients(learner *l, json_t *run, worst *w)
{
    json_t *grad = json_object_get(run, "grad"), *v;
    const char *key;
    double all = 0;
    json_object_foreach(grad, key, v) all += pow(json_number_value(json_array_get(v, 0)), 2);
    for (usize i = 0; i < l->set.n; i++) {
        const trained *t = &l->set.t[i];
        char id[64];
        id_of(t, id);
        json_t *sketch = json_object_get(grad, id);
        if (is_nothing(sketch) && (l->m->arch->learned || l->m->arch->encoder)) assert_non_null(strstr(id, "attn_k.bias"));
        double d = apart(id, sketch, l->grad[i], t->k * t->n, is_nothing(sketch) ? sqrt(all) : 0);
        if (d > w->grad) w->grad = d, memcpy(w->grad_of, id, sizeof id);
    }
}

/* Without the values that the script calls loose: their first gradients are rounding, and so is the sign of Adam's first step.
 * They are few: a thousandth of a tensor at most. */
static void check_end(learner *l, json_t *run, worst *w)
{
    json_t *end = json_object_get(run, "end"), *grad = json_object_get(run, "grad"), *loose = json_object_get(run, "loose");
    for (usize i = 0; i < l->set.n; i++) {
        const trained *t = &l->set.t[i];
        char id[64];
        id_of(t, id);
        if (is_nothing(json_object_get(grad, id))) continue;
        json_t *some = json_object_get(loose, id);
        for (usize j = 0; j < json_array_size(some); j++) t->data[json_integer_value(json_array_get(some, j))] = 0;
        assert_true((i64)json_array_size(some) <= 1 + t->k * t->n / 1000);
        double d = apart(id, json_object_get(end, id), t->data, t->k * t->n, 0);
        if (d > w->end) w->end = d, memcpy(w->end_of, id, sizeof id);
    }
}

static void check_loss(double found, json_t *run, usize at, worst *w)
{
    double want = json_number_value(json_array_get(json_object_get(run, "loss"), at));
    w->loss = fmax(w->loss, or_infinite(fabs(found - want) / want));
}

static void check_run(const model *m, json_t *run)
{
    const char *arch = m->arch->name, *way = json_string_value(json_object_get(run, "way"));
    learner l = {.m = m};
    worst w = {0};
    make_set(m, way, run, &l.set);
    learner_open(&l);
    check_loss(learner_loss(&l), run, 0, &w);
    check_logits(&l, run, &w);
    check_gradients(&l, run, &w);
    for (int step = 1; step <= 100; step++) {
        adamw_step(&l.opt, threads, l.grad, 1e-3, 0, 0.01, 1);
        double loss = learner_loss(&l);
        if (step == 1 || step == 10 || step == 100) check_loss(loss, run, step == 1 ? 1 : step == 10 ? 2 : 3, &w);
    }
    check_end(&l, run, &w);
    print_message("%-6s %-6s logits %.1e  gradients %.1e (%s)  after 100 steps: losses %.1e, values %.1e (%s)\n", arch, way,
                  w.logits, w.grad, w.grad_of, w.loss, w.end, w.end_of);
    if (!(w.logits <= BAR && w.grad <= BAR && w.loss <= BAR_STEPS && w.end <= BAR_STEPS))
        fail_msg("%s, %s is too far from PyTorch", arch, way);
    learner_close(&l);
}

static void check_arch(const char *arch, usize ways)
{
    json_t *runs = json_object_get(golden, "runs");
    model *m = open_model(arch);
    usize n = 0;
    for (usize i = 0; i < json_array_size(runs); i++) {
        json_t *run = json_array_get(runs, i);
        if (strcmp(json_string_value(json_object_get(run, "arch")), arch) != 0) continue;
        check_run(m, run);
        n++;
    }
    assert_int_equal(n, ways);
    model_close(m);
}

static void test_llama(void **state) { (void)state, check_arch("llama", 5); }
static void test_qwen2(void **state) { (void)state, check_arch("qwen2", 5); }
static void test_gemma3(void **state) { (void)state, check_arch("gemma3", 5); }
static void test_gpt2(void **state) { (void)state, check_arch("gpt2", 5); }
static void test_bert(void **state) { (void)state, check_arch("bert", 3); } /* an encoder has no vectors in front of its text */

int main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(test_llama), cmocka_unit_test(test_qwen2),
                                              cmocka_unit_test(test_gemma3), cmocka_unit_test(test_gpt2),
                                              cmocka_unit_test(test_bert)};
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
