/* Adapters: what the real PEFT computes over SmolLM2-135M (tests/golden, made by peft_golden.py) comes out here too, for LoRA
 * with patterns and rank-stabilised scales, whole modules, soft prompts and prefixes; what is saved is read again, name by name
 * and bit by bit; real adapters of others bind to made-up models of their shape or are refused by name; a flag that changes what
 * the numbers mean is refused; merging does what the unmerged pair does, and says what it lost. */
#include "tiny.h"
#include "model/arch.h"
#include <jansson.h>

static char folder[200];
static pool *threads;

static int make_folder(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/maru-adapter-XXXXXX", tmp && strlen(tmp) < 150 ? tmp : "/tmp");
    return mkdtemp(folder) && !pool_new(&threads, 2).code ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    pool_free(threads);
    return file_remove_tree(folder).code ? -1 : 0;
}

static char *in_folder(const char *name)
{
    static char path[8][400];
    static int at;
    char *p = path[at++ % 8];
    snprintf(p, 400, "%s/%s", folder, name);
    return p;
}

/* ---- models ------------------------------------------------------------------------------------------------------------- */
static const char *smol_path(void) { return test_model("smollm2-135m.gguf"); }

static model *open_path(const char *path)
{
    model *m;
    assert_ok(model_open(&m, path, threads));
    return m;
}

static model *tiny_model(const char *arch, dtype type)
{
    tiny t = tiny_of(arch, type);
    char *path = in_folder("tiny.gguf");
    tiny_write(path, &t);
    return open_path(path);
}

/* shapes and names only: enough to bind to */
static model *made_up(const char *arch, i64 layers, i64 width, i64 heads, i64 kv_heads, i64 ff, i64 vocab)
{
    static float nothing;
    model *m = mem_zero(sizeof *m);
    i64 hd = width / heads, kv = kv_heads * hd;
    m->arch = arch_find(str_of(arch));
    m->path = mem_strdup("made-up");
    m->h = (hparams){.n_layer = layers,
                     .width = width,
                     .n_head = heads,
                     .n_kv_head = kv_heads,
                     .head_dim = hd,
                     .rope_dims = hd,
                     .n_ff = ff,
                     .n_vocab = vocab};
    m->layers = mem_array(layer_weights, layers);
    m->embed = m->head = (model_weight){.data = &nothing, .k = width, .n = vocab, .name = "token_embd.weight"};
    for (i64 i = 0; i < layers; i++) {
        layer_weights *w = &m->layers[i];
        struct {
            model_weight *w;
            const char *name;
            i64 k, n;
        } all[] = {{&w->q, "attn_q.weight", width, width},   {&w->k, "attn_k.weight", width, kv},
                   {&w->v, "attn_v.weight", width, kv},      {&w->o, "attn_output.weight", width, width},
                   {&w->gate, "ffn_gate.weight", width, ff}, {&w->up, "ffn_up.weight", width, ff},
                   {&w->down, "ffn_down.weight", ff, width}};
        for (usize k = 0; k < COUNT_OF(all); k++) {
            *all[k].w = (model_weight){.data = &nothing, .k = all[k].k, .n = all[k].n};
            snprintf(all[k].w->name, sizeof all[k].w->name, "blk.%d.%s", (int)i, all[k].name);
        }
    }
    return m;
}

/* ---- the real PEFT ------------------------------------------------------------------------------------------------------- */
static json_t *golden(void)
{
    static json_t *g;
    json_error_t why;
    if (!g) g = json_load_file("tests/golden/peft-golden.json", 0, &why);
    assert_non_null(g);
    return g;
}

static float *logits_of(const model *m, const adapter_file *f, float scale)
{
    json_t *t = json_object_get(golden(), "tokens");
    i32 id[64];
    usize n = json_array_size(t);
    for (usize i = 0; i < n; i++) id[i] = (i32)json_integer_value(json_array_get(t, i));
    float *out = mem_array(float, (i64)n * m->h.n_vocab);
    adapter_use use = {f, scale};
    adapter_mix mix = {&use, 1};
    assert_ok(model_logits(m, f ? &mix : NULL, id, (i64)n, threads, out));
    return out;
}

static double worst_against(const model *m, const float *logits, const json_t *want)
{
    double worst = 0;
    i64 stride = json_integer_value(json_object_get(golden(), "stride"));
    json_t *rows = json_object_get(want, "logits");
    for (usize r = 0; r < json_array_size(rows); r++)
        for (usize i = 0; i < json_array_size(json_array_get(rows, r)); i++) {
            double d = fabs(json_real_value(json_array_get(json_array_get(rows, r), i)) -
                            (double)logits[(i64)r * m->h.n_vocab + (i64)i * stride]);
            if (d > worst) worst = d;
        }
    return worst;
}

static void test_peft_golden(void **state)
{
    (void)state;
    static const char *const names[] = {"base", "lora", "rslora", "prompt", "prefix", "saved"};
    SKIP_WITHOUT(smol_path(), "smollm2-135m");
    model *m = open_path(smol_path());
    float *base = logits_of(m, NULL, 1);
    for (usize i = 0; i < COUNT_OF(names); i++) {
        adapter_file *f = NULL;
        char path[80];
        snprintf(path, sizeof path, "tests/golden/peft-%s", names[i]);
        if (i) assert_ok(adapter_load(&f, path, m));
        float *l = logits_of(m, f, 1);
        double d = worst_against(m, l, json_object_get(golden(), names[i]));
        print_message("%-7s largest difference of a logit %.2e\n", names[i], d);
        assert_true(d <= 1e-3);
        if (i) assert_true(worst_against(m, base, json_object_get(golden(), names[i])) > 0.1); /* it does something */
        mem_free(l);
        adapter_free(f);
    }
    mem_free(base);
    model_close(m);
}

/* ---- saved and read again ------------------------------------------------------------------------------------------------ */
static void same_floats(const float *a, const float *b, i64 n) { assert_memory_equal(a, b, sizeof *a * (usize)n); }

static void same_adapter(const adapter_file *a, const adapter_file *b, const model *m)
{
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->n_pairs, b->n_pairs);
    assert_int_equal(a->n_whole, b->n_whole);
    assert_int_equal(a->n_prompt, b->n_prompt);
    assert_int_equal(a->n_prefix, b->n_prefix);
    for (usize i = 0; i < a->n_pairs; i++) {
        const low_rank *p = &a->pair[i], *q = NULL;
        for (usize k = 0; k < b->n_pairs; k++)
            if (!strcmp(b->pair[k].name, p->name)) q = &b->pair[k];
        assert_non_null(q);
        assert_int_equal(p->rank, q->rank);
        assert_true(fabsf(p->scale - q->scale) <= 1e-6f * fabsf(p->scale));
        same_floats(p->a, q->a, p->k * p->rank);
        same_floats(p->b, q->b, p->n * p->rank);
    }
    for (usize i = 0; i < a->n_whole; i++) {
        const whole_tensor *p = &a->whole[i], *q = NULL;
        for (usize k = 0; k < b->n_whole; k++)
            if (!strcmp(b->whole[k].name, p->name)) q = &b->whole[k];
        assert_non_null(q);
        for (i64 k = 0; k < p->k * p->n; k++)
            assert_true(fabsf(p->data[k] - q->data[k]) < 1e-6f); /* gemma's norms lose a bit on the way through "less one" */
    }
    if (a->n_prompt) same_floats(a->prompt, b->prompt, m->h.width * a->n_prompt);
    for (i64 l = 0; a->n_prefix && l < m->h.n_layer; l++) {
        same_floats(a->k[l], b->k[l], m->h.n_kv_head * m->h.head_dim * a->n_prefix);
        same_floats(a->v[l], b->v[l], m->h.n_kv_head * m->h.head_dim * a->n_prefix);
    }
}

/* PEFT finds what it wrote itself under the same names and shapes in what maru writes */
static void same_names(const char *a, const char *b)
{
    char path[400];
    model_file *x, *y;
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", a);
    assert_ok(safetensors_open(&x, path));
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", b);
    assert_ok(safetensors_open(&y, path));
    assert_int_equal(file_n_tensors(x), file_n_tensors(y));
    for (usize i = 0; i < file_n_tensors(x); i++) {
        const file_tensor *t = file_tensor_at(x, i), *u = file_tensor_find(y, t->name);
        if (!u) fail_msg("%.*s is not in %s", (int)t->name.n, t->name.p, b);
        assert_int_equal(t->n_dims, u->n_dims);
        assert_memory_equal(t->n, u->n, sizeof t->n);
        assert_int_equal(u->type, F32);
    }
    model_file_close(x);
    model_file_close(y);
}

static void test_round_trip(void **state)
{
    (void)state;
    static const char *const names[] = {"lora", "rslora", "prompt", "prefix", "saved"};
    SKIP_WITHOUT(smol_path(), "smollm2-135m");
    model *m = open_path(smol_path());
    for (usize i = 0; i < COUNT_OF(names); i++) {
        adapter_file *f, *g;
        char path[80];
        snprintf(path, sizeof path, "tests/golden/peft-%s", names[i]);
        assert_ok(adapter_load(&f, path, m));
        f->text_form = (char *)(uintptr_t) "리뷰: {text}\n감정:";
        f->label =
            (adapter_label[]){{(char *)(uintptr_t) "부정", (char *)(uintptr_t) " bad"}, {(char *)(uintptr_t) "긍정", NULL}};
        f->n_labels = 2;
        f->pool = POOL_MEAN;
        assert_ok(adapter_save(f, in_folder(names[i]), m));
        same_names(path, in_folder(names[i]));
        assert_ok(adapter_load(&g, in_folder(names[i]), m));
        same_adapter(f, g, m);
        assert_string_equal(g->text_form, f->text_form);
        assert_int_equal(g->n_labels, 2);
        assert_string_equal(g->label[0].words, " bad");
        assert_null(g->label[1].words);
        assert_string_equal(g->label[1].label, "긍정");
        assert_int_equal(g->pool, POOL_MEAN);
        if (f->kind == ADAPTER_LORA && !f->n_whole) {
            adapter_file *h;
            assert_ok(adapter_save_gguf(f, in_folder("a.gguf"), m));
            assert_ok(adapter_load(&h, in_folder("a.gguf"), m));
            float *a = logits_of(m, f, 1), *b = logits_of(m, h, 1);
            for (i64 k = 0; k < m->h.n_vocab; k++) assert_true(fabsf(a[k] - b[k]) <= 1e-4f);
            mem_free(a);
            mem_free(b);
            adapter_free(h);
        } else {
            assert_int_equal(adapter_save_gguf(f, in_folder("a.gguf"), m).code, ERR_UNSUPPORTED);
        }
        adapter_free(f);
        adapter_free(g);
    }
    model_close(m);
}

/* ---- made of what was trained, on every architecture ---------------------------------------------------------------------- */
static void fill_random(float *x, i64 n, u64 seed, float size)
{
    rng r;
    rng_seed(&r, seed);
    for (i64 i = 0; i < n; i++) x[i] = size * rng_normal(&r);
}

typedef struct {
    trained t[64];
    usize n;
} made;

static void made_put(made *s, trained_kind kind, const char *name, i64 k, i64 n, float scale)
{
    trained *t = &s->t[s->n++];
    *t = (trained){.kind = kind, .k = k, .n = n, .data = mem_array(float, k *n), .scale = scale};
    snprintf(t->name, sizeof t->name, "%s", name);
    fill_random(t->data, k * n, s->n, kind == TRAIN_PROMPT ? 0.5f : 0.2f);
}

static void made_free(made *s)
{
    for (usize i = 0; i < s->n; i++) mem_free(s->t[i].data);
}

static void made_pairs(made *s, const model *m)
{
    static const char *const names[] = {"blk.0.attn_q.weight",      "blk.0.attn_k.weight", "blk.1.attn_v.weight",
                                        "blk.1.attn_output.weight", "blk.0.ffn_up.weight", "blk.1.ffn_down.weight"};
    const layer_weights *w = m->layers;
    const model_weight *of[] = {&w[0].q, &w[0].k, &w[1].v, &w[1].o, &w[0].up, &w[1].down};
    for (usize i = 0; i < COUNT_OF(names); i++) {
        i64 rank = 2 + (i64)(i % 3);
        made_put(s, TRAIN_A, names[i], of[i]->k, rank, 0.5f + (float)i);
        made_put(s, TRAIN_B, names[i], rank, of[i]->n, 0);
    }
}

static const i32 some_ids[] = {5, 40, 7, 99, 12, 3, 64, 33, 21};

static float *tiny_logits(const model *m, const adapter_mix *mix)
{
    float *out = mem_array(float, (i64)COUNT_OF(some_ids) * m->h.n_vocab);
    assert_ok(model_logits(m, mix, some_ids, COUNT_OF(some_ids), threads, out));
    return out;
}

static double distance(const float *a, const float *b, const model *m)
{
    double worst = 0;
    for (i64 i = 0; i < (i64)COUNT_OF(some_ids) * m->h.n_vocab; i++) worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
    return worst;
}

static void test_trained_and_saved(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama", "qwen2", "gemma3", "bert"};
    for (usize i = 0; i < COUNT_OF(archs); i++) {
        model *m = tiny_model(archs[i], F32);
        made s = {0};
        adapter_file *f, *g;
        made_pairs(&s, m);
        made_put(&s, TRAIN_WEIGHT, i == 3 ? "blk.0.attn_output_norm.weight" : "blk.0.attn_norm.weight", m->h.width, 1, 0);
        made_put(&s, TRAIN_CLASSES, "", m->h.width * (1 + (i64)i), 3, 0); /* of one block or of several */
        if (i == 3) made_put(&s, TRAIN_CLASSES_B, "", 3, 1, 0);
        assert_ok(adapter_of_trained(&f, m, &(trained_set){s.t, s.n}));
        assert_int_equal(f->kind, ADAPTER_LORA);
        assert_ok(adapter_save(f, in_folder(archs[i]), m));
        assert_ok(adapter_load(&g, in_folder(archs[i]), m));
        same_adapter(f, g, m);
        assert_string_equal(f->base_id, g->base_id);
        adapter_free(f);
        adapter_free(g);
        made_free(&s);
        model_close(m);
    }
}

static void test_weights_only(void **state)
{
    (void)state;
    model *m = tiny_model("gemma3", F32);
    made s = {0};
    adapter_file *f, *g;
    made_put(&s, TRAIN_WEIGHT, "blk.1.ffn_norm.weight", m->h.width, 1, 0);
    made_put(&s, TRAIN_WEIGHT, "blk.1.attn_q.weight", m->h.width, m->layers[1].q.n, 0);
    made_put(&s, TRAIN_WEIGHT, "output.weight", m->h.width, m->h.n_vocab, 0);
    assert_ok(adapter_of_trained(&f, m, &(trained_set){s.t, s.n}));
    assert_int_equal(f->kind, ADAPTER_WEIGHTS);
    assert_ok(file_mkdirs(in_folder("whole")));
    assert_ok(file_replace(in_folder("whole/adapter_config.json"), "{}", 2)); /* of a run before */
    assert_ok(adapter_save(f, in_folder("whole"), m));
    assert_false(file_exists(in_folder("whole/adapter_config.json"))); /* PEFT has no such kind */
    assert_ok(adapter_load(&g, in_folder("whole"), m));
    assert_int_equal(g->kind, ADAPTER_WEIGHTS);
    same_adapter(f, g, m);
    /* over the model it is what it is in place of what is trained; the tied head has come apart */
    adapter_use use = {f, 1};
    float *a = tiny_logits(m, &(adapter_mix){&use, 1});
    assert_ok(adapter_overlay(m, f));
    assert_ptr_not_equal(m->head.data, m->embed.data);
    float *b = tiny_logits(m, NULL);
    assert_true(distance(a, b, m) < 1e-4);
    use.scale = 0.5f;
    assert_int_equal(adapter_mix_check(&(adapter_mix){&use, 1}).code, ERR_INPUT);
    mem_free(a);
    mem_free(b);
    model_close(m);
    adapter_free(f);
    adapter_free(g);
    made_free(&s);
}

/* two adapters in one request are the sum of their products, each at its scale */
static void test_mix(void **state)
{
    (void)state;
    model *m = tiny_model("llama", F32);
    made s[2] = {0};
    adapter_file *f[2];
    adapter_set *set;
    for (int i = 0; i < 2; i++) {
        made_put(&s[i], TRAIN_A, "blk.0.attn_k.weight", m->h.width, 2 + i, 1.5f);
        made_put(&s[i], TRAIN_B, "blk.0.attn_k.weight", 2 + i, m->layers[0].k.n, 0);
        fill_random(s[i].t[0].data, m->h.width * (2 + i), 100 + (u64)i, 0.3f);
        if (i)
            made_put(&s[i], TRAIN_A, "blk.1.ffn_down.weight", m->h.n_ff, 1, 1),
                made_put(&s[i], TRAIN_B, "blk.1.ffn_down.weight", 1, m->h.width, 0);
        assert_ok(adapter_of_trained(&f[i], m, &(trained_set){s[i].t, s[i].n}));
    }
    adapter_use use[] = {{f[0], 0.5f}, {f[1], 2}};
    adapter_mix mixes[] = {{use, 2}, {use + 1, 1}};
    assert_ok(adapter_set_new(&set, m, mixes, 2));
    assert_int_equal(set->n, 2);
    assert_int_equal(set->n_slots, 2);
    const adapter_pair *p = &set->pair[0];
    assert_string_equal(p->name, "blk.0.attn_k.weight");
    assert_int_equal(p->rank, 5);
    i64 k = m->h.width, n = m->layers[0].k.n;
    for (int slot = 0; slot < 2; slot++)
        for (i64 row = 0; row < n; row += 7)
            for (i64 col = 0; col < k; col += 5) {
                double have = 0, want = 0;
                for (i64 r = 0; r < 5; r++)
                    have += (double)p->a[(slot * 5 + r) * k + col] * (double)p->b[(slot * n + row) * 5 + r];
                for (int u = slot; u < 2; u++)
                    for (i64 r = 0; r < f[u]->pair[0].rank; r++)
                        want += (double)(use[u].scale * f[u]->pair[0].scale * f[u]->pair[0].b[row * f[u]->pair[0].rank + r]) *
                                (double)f[u]->pair[0].a[r * k + col];
                assert_true(fabs(have - want) < 1e-5);
            }
    adapter_set_free(set);
    for (int i = 0; i < 2; i++) adapter_free(f[i]), made_free(&s[i]);
    model_close(m);
}

/* ---- other people's adapters ---------------------------------------------------------------------------------------------- */
static void test_others(void **state)
{
    (void)state;
    const char *gpt2 = test_shared("data/lora-peft/gpt2-lora-1"), *mlx = test_shared("data/lora-peft/mlx-discollama"),
               *opt = test_shared("data/lora-peft/opt125m-dpo-lora");
    adapter_file *f;
    SKIP_WITHOUT(gpt2 && mlx && opt ? gpt2 : NULL, "lora-peft");
    model *g = made_up("gpt2", 12, 768, 12, 12, 3072, 50257), *l = made_up("llama", 32, 4096, 32, 8, 14336, 128256);
    assert_ok(adapter_load(&f, gpt2, g));
    assert_int_equal(f->n_pairs, 12);
    assert_int_equal(f->n_whole, 1);
    assert_string_equal(f->pair[0].name, "blk.0.attn_qkv.weight");
    assert_string_equal(f->whole[0].name, "score.weight");
    assert_int_equal(f->whole[0].n, 6);
    assert_true(f->pair[0].scale == 1.0f);
    adapter_set *set; /* the fused tensor's pair stands beside its three parts */
    adapter_use use = {f, 1};
    assert_ok(adapter_set_new(&set, g, &(adapter_mix){&use, 1}, 1));
    assert_int_equal(set->n, 36);
    adapter_set_free(set);
    assert_ok(adapter_save(f, in_folder("gpt2"), g));
    same_names(gpt2, in_folder("gpt2"));
    adapter_free(f);
    assert_ok(adapter_load(&f, mlx, l));
    assert_int_equal(f->n_pairs, 4);
    assert_true(f->pair[0].scale == 2.0f); /* MLX: the factor itself, not alpha / r */
    adapter_free(f);
    err bad = adapter_load(&f, opt, l);
    assert_int_equal(bad.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(bad.what, "architecture opt"));
    bad = adapter_load(&f, gpt2, l);
    assert_int_equal(bad.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(bad.what, "architecture gpt2"));
    model *less = made_up("gpt2", 11, 768, 12, 12, 3072, 50257); /* a layer too few */
    bad = adapter_load(&f, gpt2, less);
    assert_int_equal(bad.code, ERR_FORMAT);
    assert_non_null(strstr(bad.what, "h.11.attn.c_attn"));
    model_close(less);
    model_close(g);
    model_close(l);
}

/* ---- refusals ------------------------------------------------------------------------------------------------------------ */
static void with_config(const char *from, const char *key, json_t *value) /* a copy of a golden adapter, one member changed */
{
    char path[200];
    buf b = {0};
    json_error_t why;
    snprintf(path, sizeof path, "tests/golden/%s/adapter_config.json", from);
    json_t *c = json_load_file(path, 0, &why);
    assert_non_null(c);
    if (value)
        json_object_set_new(c, key, value);
    else
        json_object_del(c, key);
    assert_ok(file_mkdirs(in_folder("changed")));
    assert_int_equal(json_dump_file(c, in_folder("changed/adapter_config.json"), 0), 0);
    json_decref(c);
    snprintf(path, sizeof path, "tests/golden/%s/adapter_model.safetensors", from);
    assert_ok(file_read(&b, path, 0));
    assert_ok(file_replace(in_folder("changed/adapter_model.safetensors"), b.p, b.n));
    buf_free(&b);
}

static void refuses(const model *m, const char *from, const char *key, json_t *value, err_code code, const char *word)
{
    adapter_file *f;
    with_config(from, key, value);
    err bad = adapter_load(&f, in_folder("changed"), m);
    if (bad.code != (int)code || !strstr(bad.what, word))
        fail_msg("%s: %s: %s; expected %s with '%s'", key, err_name(bad.code), bad.what ? bad.what : "", err_name(code), word);
    assert_null(f);
}

static void test_flags(void **state)
{
    (void)state;
    adapter_file *f;
    model *m = made_up("llama", 30, 576, 9, 3, 1536, 49152);
    refuses(m, "peft-lora", "use_dora", json_true(), ERR_UNSUPPORTED, "use_dora");
    refuses(m, "peft-lora", "lora_bias", json_true(), ERR_UNSUPPORTED, "lora_bias");
    refuses(m, "peft-lora", "use_qalora", json_true(), ERR_UNSUPPORTED, "use_qalora");
    refuses(m, "peft-lora", "layer_replication", json_pack("[[i,i]]", 0, 4), ERR_UNSUPPORTED, "layer_replication");
    refuses(m, "peft-lora", "trainable_token_indices", json_pack("[i]", 5), ERR_UNSUPPORTED, "trainable_token_indices");
    refuses(m, "peft-lora", "use_wobble", json_true(), ERR_UNSUPPORTED, "use_wobble"); /* a flag of the future */
    refuses(m, "peft-prompt", "wobble_config", json_pack("{s:i}", "x", 1), ERR_UNSUPPORTED, "wobble_config");
    refuses(m, "peft-lora", "init_lora_weights", json_string("pissa_niter_4"), ERR_UNSUPPORTED, "pissa_niter_4");
    refuses(m, "peft-lora", "peft_type", json_string("IA3"), ERR_UNSUPPORTED, "IA3");
    refuses(m, "peft-lora", "r", json_integer(4), ERR_FORMAT, "rank 2");
    refuses(m, "peft-lora", "target_modules", json_pack("[s]", "q_proj"), ERR_FORMAT, "v_proj");
    refuses(m, "peft-lora", "target_modules", json_pack("[s,s,s]", "q_proj", "v_proj", "k_proj"), ERR_FORMAT, "k_proj");
    refuses(m, "peft-lora", "target_modules", json_pack("[s,s,s]", "q_proj", "v_proj", "c_attn"), ERR_FORMAT, "c_attn");
    refuses(m, "peft-lora", "layers_to_transform", NULL, ERR_FORMAT, "layers.1.self_attn"); /* then every layer is meant */
    refuses(m, "peft-lora", "rank_pattern", json_pack("{s:i}", "(", 1), ERR_FORMAT, "regular expression");
    refuses(m, "peft-prompt", "num_virtual_tokens", json_integer(4), ERR_FORMAT, "num_virtual_tokens");
    with_config("peft-lora", "use_wobble", json_false()); /* switched off it means nothing */
    assert_ok(adapter_load(&f, in_folder("changed"), m));
    assert_true(fabsf(f->pair[0].scale - 3) < 1e-6f);
    adapter_free(f);
    with_config("peft-lora", "target_modules", json_string(".*layers\\.(0|11|29)\\.self_attn\\.[qv]_proj"));
    assert_ok(adapter_load(&f, in_folder("changed"), m));
    assert_int_equal(f->n_pairs, 6);
    adapter_free(f);
    with_config("peft-lora", "use_rslora", json_true());
    assert_ok(adapter_load(&f, in_folder("changed"), m));
    assert_true(fabsf(f->pair[0].scale - 6 / sqrtf(2)) < 1e-6f);
    adapter_free(f);
    model_close(m);
    m = made_up("llama", 30, 512, 8, 2, 1536, 49152); /* of another width: by shape */
    err bad = adapter_load(&f, "tests/golden/peft-lora", m);
    assert_int_equal(bad.code, ERR_FORMAT);
    assert_non_null(strstr(bad.what, "576 inputs"));
    assert_int_equal(adapter_load(&f, "tests/golden/peft-prompt", m).code, ERR_FORMAT);
    assert_int_equal(adapter_load(&f, "tests/golden/peft-prefix", m).code, ERR_FORMAT);
    assert_int_equal(adapter_load(&f, in_folder("absent"), m).code, ERR_NOTFOUND);
    model_close(m);
}

/* ---- merging --------------------------------------------------------------------------------------------------------------- */
static void merge_case(const char *arch, dtype base, dtype to, double limit_logit, bool head)
{
    model *m = tiny_model(arch, base), *merged;
    made s = {0};
    adapter_file *f;
    merge_report r;
    made_pairs(&s, m);
    if (head)
        made_put(&s, TRAIN_A, "token_embd.weight", m->h.width, 2, 1),
            made_put(&s, TRAIN_B, "token_embd.weight", 2, m->h.n_vocab, 0); /* a tied head comes apart */
    assert_ok(adapter_of_trained(&f, m, &(trained_set){s.t, s.n}));
    adapter_use use = {f, 1};
    adapter_mix mix = {&use, 1};
    char *out = in_folder("merged.gguf");
    assert_ok(adapter_merge(m, &mix, out, to, 1e9, false, threads, &r));
    merged = open_path(out);
    float *a = tiny_logits(m, &mix), *b = tiny_logits(merged, NULL), *c = tiny_logits(m, NULL);
    print_message("%s %s -> %s: kld %.2e, largest change of a logit %.2e\n", arch, dtype_table[base].name,
                  to == DTYPE_COUNT ? "same" : dtype_table[to].name, r.kld, r.max_abs_logit);
    assert_true(distance(a, b, m) < limit_logit);
    assert_true(r.max_abs_logit < limit_logit && r.changed == (head ? 7 : 6) && r.tokens > 0);
    assert_true(distance(a, c, m) > 4 * distance(a, b, m)); /* and it is merged */
    mem_free(a), mem_free(b), mem_free(c);
    if (r.kld > 1e-12) { /* over the limit nothing is written */
        assert_ok(file_remove_tree(out));
        err bad = adapter_merge(m, &mix, out, to, r.kld / 2, false, threads, &r);
        assert_int_equal(bad.code, ERR_INPUT);
        assert_non_null(strstr(bad.what, "--force"));
        assert_false(file_exists(out));
        assert_ok(adapter_merge(m, &mix, out, to, r.kld / 2, true, threads, &r));
        assert_true(file_exists(out));
    }
    adapter_free(f);
    made_free(&s);
    model_close(merged);
    model_close(m);
}

static void test_merge(void **state)
{
    (void)state;
    merge_case("llama", F32, DTYPE_COUNT, 1e-3, false);
    merge_case("qwen2", Q8_0, F32, 1e-3, false);
    merge_case("gemma3", F32, DTYPE_COUNT, 1e-3, true);
    merge_case("llama", Q8_0, DTYPE_COUNT, 1, false);
}

static void test_merge_refuses(void **state)
{
    (void)state;
    model *m = tiny_model("llama", F32);
    made s = {0};
    adapter_file *f;
    merge_report r;
    made_put(&s, TRAIN_PROMPT, "", m->h.width, 3, 0);
    assert_ok(adapter_of_trained(&f, m, &(trained_set){s.t, s.n}));
    adapter_use use = {f, 1};
    err bad = adapter_merge(m, &(adapter_mix){&use, 1}, in_folder("no.gguf"), DTYPE_COUNT, 1, false, threads, &r);
    assert_int_equal(bad.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(bad.what, "soft prompt"));
    adapter_free(f);
    made_free(&s);
    model_close(m);
}

/* ---- names, safetensors -----------------------------------------------------------------------------------------------------
 */
static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *hf, *gguf;
        row_order order;
    } cases[] = {
        {"llama", "model.layers.12.self_attn.q_proj.weight", "blk.12.attn_q.weight", ORDER_QUERY},
        {"llama", "model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight", ORDER_SAME},
        {"llama", "lm_head.weight", "output.weight", ORDER_SAME},
        {"qwen2", "model.layers.3.self_attn.k_proj.bias", "blk.3.attn_k.bias", ORDER_SAME},
        {"gemma3", "model.layers.3.post_attention_layernorm.weight", "blk.3.post_attention_norm.weight", ORDER_NORM},
        {"gemma3", "model.norm.weight", "output_norm.weight", ORDER_NORM},
        {"gpt2", "transformer.h.5.mlp.c_fc.weight", "blk.5.ffn_up.weight", ORDER_TURNED},
        {"gpt2", "transformer.h.5.attn.c_attn.bias", "blk.5.attn_qkv.bias", ORDER_SAME},
        {"bert", "encoder.layer.1.attention.output.LayerNorm.bias", "blk.1.attn_output_norm.bias", ORDER_SAME},
    };
    gguf_name g;
    for (usize i = 0; i < COUNT_OF(cases); i++) {
        hf_name h;
        assert_true(names_from_hf(cases[i].arch, str_of(cases[i].hf), &g));
        assert_string_equal(g.name, cases[i].gguf);
        assert_int_equal(g.order, cases[i].order);
        assert_true(names_to_hf(cases[i].arch, cases[i].gguf, &h));
        assert_string_equal(h.name, cases[i].hf);
        assert_int_equal(h.order, cases[i].order);
    }
    assert_true(names_from_hf("gemma3", S("model.language_model.layers.3.mlp.up_proj.weight"), &g));
    assert_true(names_from_hf("bert", S("roberta.encoder.layer.0.output.dense.weight"), &g));
    assert_false(names_from_hf("llama", S("model.layers.-1.mlp.up_proj.weight"), &g));
    assert_false(names_from_hf("llama", S("model.layers.01.mlp.up_proj.weight"), &g));
    assert_false(names_from_hf("llama", S("model.layers.1.mlp.up_proj.extra.weight"), &g));
    assert_string_equal(names_arch(S("transformer.h.0.attn.c_attn")), "gpt2");
    model *m = made_up("llama", 1, 16, 2, 2, 32, 10); /* heads of eight: rows 0 4 1 5 2 6 3 7 */
    float x[16], y[16], z[16];
    for (int i = 0; i < 16; i++) x[i] = (float)i;
    names_reorder(m, ORDER_QUERY, true, 1, 16, x, y);
    static const float want[] = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15};
    assert_memory_equal(y, want, sizeof want);
    names_reorder(m, ORDER_QUERY, false, 1, 16, y, z);
    assert_memory_equal(z, x, sizeof x);
    names_reorder(m, ORDER_TURNED, true, 2, 8, x, y);
    assert_true(y[1] == 8 && y[2] == 1);
    names_reorder(m, ORDER_TURNED, false, 2, 8, y, z);
    assert_memory_equal(z, x, sizeof x);
    model_close(m);
}

static void test_safetensors_writer(void **state)
{
    (void)state;
    safetensors_writer *w;
    model_file *f;
    char *path = in_folder("w.safetensors");
    float x[6] = {1, 2, 3, 4, 5, 6};
    u16 h[2] = {0x3c00, 0x4000};
    str note;
    assert_ok(safetensors_create(&w, path));
    assert_ok(safetensors_put_note(w, "who", S("마루")));
    assert_ok(safetensors_put_tensor(w, S("a.b"), F32, 2, (i64[]){3, 2}));
    assert_ok(safetensors_put_tensor(w, S("empty"), F32, 1, (i64[]){0}));
    assert_ok(safetensors_put_tensor(w, S("half"), F16, 1, (i64[]){2}));
    assert_ok(safetensors_put_data(w, x, 8));
    assert_ok(safetensors_put_data(w, x + 2, 16));
    assert_false(file_exists(path));
    assert_ok(safetensors_put_data(w, h, 4));
    assert_ok(safetensors_commit(w));
    assert_ok(safetensors_open(&f, path));
    const file_tensor *t = file_tensor_find(f, S("a.b"));
    assert_true(t && t->n[0] == 3 && t->n[1] == 2 && !memcmp(t->data, x, sizeof x) && !((uintptr_t)t->data % 8));
    assert_true(file_tensor_find(f, S("empty")) && file_tensor_find(f, S("half"))->type == F16);
    assert_ok(file_str(f, "who", &note));
    assert_true(str_eq(note, S("마루")));
    model_file_close(f);
    assert_ok(safetensors_create(&w, path)); /* what the reader would refuse, and data that does not fit */
    assert_ok(safetensors_put_tensor(w, S("a"), F32, 1, (i64[]){2}));
    assert_int_equal(safetensors_put_tensor(w, S("a"), F32, 1, (i64[]){2}).code, ERR_INPUT);
    assert_int_equal(safetensors_put_data(w, x, 8).code, ERR_INPUT); /* the first failure sticks */
    assert_int_equal(safetensors_commit(w).code, ERR_INPUT);
    assert_ok(safetensors_create(&w, path));
    assert_ok(safetensors_put_tensor(w, S("a"), F32, 1, (i64[]){2}));
    assert_ok(safetensors_put_data(w, x, 4));
    assert_int_equal(safetensors_commit(w).code, ERR_FORMAT);
    assert_ok(safetensors_create(&w, path));
    assert_ok(safetensors_put_tensor(w, S("a"), F32, 1, (i64[]){2}));
    assert_int_equal(safetensors_put_data(w, x, 12).code, ERR_INPUT);
    safetensors_drop(w);
    assert_ok(safetensors_open(&f, path)); /* the first one is still what is there */
    model_file_close(f);
}

/* ---- out of memory -----------------------------------------------------------------------------------------------------------
 */
static void test_no_memory(void **state)
{
    (void)state;
    static const char *const names[] = {"tests/golden/peft-lora", "tests/golden/peft-prefix", "tests/golden/peft-saved"};
    model *m = made_up("llama", 30, 576, 9, 3, 1536, 49152);
    static float norms[576];
    for (int i = 0; i < 30; i++) {
        m->layers[i].attn_norm = (model_weight){.data = norms, .k = 576, .n = 1};
        snprintf(m->layers[i].attn_norm.name, 48, "blk.%d.attn_norm.weight", i);
    }
    for (usize i = 0; i < COUNT_OF(names); i++) {
        usize before = mem_now();
        i64 n = 1;
        for (;; n += n < 40 ? 1 : 1 + n / 13) { /* all of the first, then some */
            adapter_file *f;
            adapter_set *set = NULL;
            mem_fail_at(n);
            err bad = adapter_load(&f, names[i], m);
            adapter_use use = {f, 1};
            if (!bad.code && f->n_pairs) bad = adapter_set_new(&set, m, &(adapter_mix){&use, 1}, 1);
            if (!bad.code) bad = adapter_save(f, in_folder("oom"), m);
            bool reached = mem_fail_count() >= n;
            mem_fail_at(0);
            if (bad.code) assert_int_equal(bad.code, ERR_NOMEM);
            adapter_set_free(set);
            adapter_free(f);
            assert_int_equal(mem_now(), before);
            if (!reached) break;
            assert_int_equal(bad.code, ERR_NOMEM);
        }
        print_message("%s: every failure up to allocation %lld is told\n", names[i], (long long)n);
    }
    model_close(m);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_safetensors_writer),
        cmocka_unit_test(test_others),
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_mix),
        cmocka_unit_test(test_trained_and_saved),
        cmocka_unit_test(test_weights_only),
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_merge_refuses),
        cmocka_unit_test(test_peft_golden),
        cmocka_unit_test(test_round_trip),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
