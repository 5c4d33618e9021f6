/* What is trained is leaves of the same graphs. Models made by the test: without a cache the logits are those of the cached graph;
 * every way of training gives the gradient that the loss has (directional derivatives); sequences packed into one batch give the
 * loss and the gradient of the same sequences apart; a tied matrix gets the sum of both its uses. */
#include "tiny.h"

enum { MOST_ROWS = 40, VOCAB = 304 };

static char folder[200];

static int make_folder(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/maru-train-XXXXXX", tmp && strlen(tmp) < 150 ? tmp : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    return file_remove_tree(folder).code ? -1 : 0;
}

static model *open_tiny(const tiny *t)
{
    char path[256];
    static int n;
    model *m;
    snprintf(path, sizeof path, "%s/m%d.gguf", folder, n++);
    tiny_write(path, t);
    assert_ok(model_open(&m, path, NULL));
    return m;
}

/* ---- a step: sequences packed into one batch ---- */

typedef struct {
    const model *m;
    trained_set  set;
    loss_kind    loss;
    const i32   *len; int n_seq;            /* tokens of each sequence */
    int          first;                     /* of the made-up tokens */
    float        weight;                    /* of every target */
    i64          chunk, padding;            /* padding: rows and sequences more than there are */
} task;

static i32 token(int seq, int i) { return 3 + (seq * 37 + i * 11 + i * i * 5) % (VOCAB - 4); }

/* the loss; the gradients one after another into grad, when it is given */
static double run(const task *t, float *grad, float *nll)
{
    i32 id[8][MOST_ROWS], want[8][MOST_ROWS];
    float weight[MOST_ROWS], loss;
    packed_seq seq[8];
    i64 rows = 0, more = packing_overhead(&t->set);
    for (int i = 0; i < MOST_ROWS; i++) weight[i] = t->weight;
    for (int s = 0; s < t->n_seq; s++) {
        i32 n = t->len[s];
        for (i32 i = 0; i < n; i++) id[s][i] = token(t->first + s, i), want[s][i] = i == n - 1 ? -1 : token(t->first + s, i + 1);
        seq[s] = (packed_seq){id[s], n, want[s], weight, (t->first + s) % 3, t->weight};
        rows += more + n;
    }
    pool *threads;
    backend *be;
    workspace *ws;
    packing *k;
    model_io io;
    batch_shape shape_of = {.rows = rows + t->padding, .seqs = t->n_seq + t->padding, .train = (trained_set *)(uintptr_t)&t->set, .loss = t->loss, .pool = POOL_LAST, .chunk = t->chunk};
    assert_ok(pool_new(&threads, 2));
    assert_ok(backend_cpu(&be, threads));
    assert_ok(workspace_new(&ws, be));
    assert_ok(packing_open(&k, t->m, ws, &shape_of, grad != NULL, &io));
    plan *p = packing_plan(k);
    assert_ok(packing_put(k, &io, seq, t->n_seq));
    assert_ok(plan_run(p));
    assert_ok(tensor_get(p, io.loss, &loss));
    if (nll) assert_ok(tensor_get(p, io.nll, nll));
    for (usize i = 0; grad && i < t->set.n; i++) {
        const trained *w = &t->set.t[i];
        assert_non_null(w->leaf);
        assert_non_null(w->leaf->grad);
        assert_ok(tensor_get(p, w->leaf->grad, grad));
        grad += w->k * w->n;
    }
    packing_close(k);
    workspace_free(ws);
    backend_close(be);
    pool_free(threads);
    return (double)loss;
}

/* ---- sets ---- */

static i64 count_of(const trained_set *s)
{
    i64 n = 0;
    for (usize i = 0; i < s->n; i++) n += s->t[i].k * s->t[i].n;
    return n;
}

static void set_add(trained_set *s, trained_kind kind, const char *name, i64 k, i64 n, float size)
{
    rng r;
    trained t = {.kind = kind, .k = k, .n = n, .scale = 0.5f, .data = malloc(sizeof(float) * (usize)(k * n))};
    snprintf(t.name, sizeof t.name, "%s", name);
    rng_seed(&r, hash64(name, strlen(name), (u64)kind));
    for (i64 i = 0; i < k * n; i++) t.data[i] = size * rng_normal(&r);
    s->t = realloc(s->t, sizeof *s->t * (s->n + 1));
    s->t[s->n++] = t;
}

static void set_weight(trained_set *s, const model_weight *w)
{
    if (!w->data || trained_find(s, TRAIN_WEIGHT, w->name)) return;
    set_add(s, TRAIN_WEIGHT, w->name, w->k, w->n, 0);
    weight_decode(w->type, w->lay, w->k, w->data, 0, w->n, s->t[s->n - 1].data);
}

static void set_layer(trained_set *s, const layer_weights *l)
{
    const model_weight *w = (const model_weight *)l;
    for (usize i = 0; i < sizeof *l / sizeof *w; i++) set_weight(s, &w[i]);
}

static void set_pair(trained_set *s, const model_weight *w)
{
    set_add(s, TRAIN_A, w->name, w->k, 4, 0.1f);
    set_add(s, TRAIN_B, w->name, 4, w->n, 0.1f);
}

static void set_free(trained_set *s)
{
    for (usize i = 0; i < s->n; i++) free(s->t[i].data);
    free(s->t);
    *s = (trained_set){0};
}

typedef enum { ALL, LAST, LORA, PROMPT, PREFIX, HEAD, CLASSES, WAYS } way;

static trained_set set_of(const model *m, way how)
{
    trained_set s = {0};
    i64 kv = m->h.n_kv_head * m->h.head_dim, n = m->h.n_layer;
    char name[32];
    if (how == ALL) set_weight(&s, &m->embed), set_weight(&s, &m->out_norm), set_weight(&s, &m->positions), set_weight(&s, &m->types), set_weight(&s, &m->embed_norm), set_weight(&s, &m->embed_norm_b);
    if (how == ALL && !m->arch->encoder) set_weight(&s, &m->head);
    for (i64 i = 0; i < n; i++) {
        snprintf(name, sizeof name, "blk.%d", (int)i);
        if (how == ALL || (how == LAST && i == n - 1)) set_layer(&s, &m->layers[i]);
        if (how == LORA) set_pair(&s, &m->layers[i].q), set_pair(&s, &m->layers[i].v), set_pair(&s, &m->layers[i].down), set_pair(&s, &m->layers[i].up);
        if (how == PREFIX) set_add(&s, TRAIN_PREFIX_K, name, kv, 3, 0.5f), set_add(&s, TRAIN_PREFIX_V, name, kv, 3, 0.5f);
    }
    if (how == PROMPT) set_add(&s, TRAIN_PROMPT, "", m->h.width, 5, 0.5f);
    if (how == HEAD) set_add(&s, TRAIN_WEIGHT, "output.weight", m->h.width, m->h.n_vocab, 0.1f);
    if (how == CLASSES || m->arch->encoder) set_add(&s, TRAIN_CLASSES, "", m->h.width, 3, 0.3f), set_add(&s, TRAIN_CLASSES_B, "", 3, 1, 0.3f);
    return s;
}

/* ---- tests ---- */

/* (L(w + h v) - L(w - h v)) / 2h against <g, v>, for v of each trained tensor alone; floats: the step is a compromise */
static void check_directions(task *t)
{
    i64 n = count_of(&t->set), at = 0;
    float *g = malloc(sizeof *g * (usize)n), *keep = malloc(sizeof *keep * (usize)n);
    run(t, g, NULL);
    for (usize i = 0; i < t->set.n; i++) {
        trained *w = &t->set.t[i];
        i64 c = w->k * w->n;
        double norm = 0, slope = 0;
        rng r;
        rng_seed(&r, i);
        memcpy(keep, w->data, sizeof *keep * (usize)c);
        float *v = malloc(sizeof *v * (usize)c);
        for (i64 j = 0; j < c; j++) norm += (double)g[at + j] * (double)g[at + j];
        for (i64 j = 0; j < c; j++) v[j] = rng_normal(&r) / sqrtf((float)c) + (norm > 0 ? (float)((double)g[at + j] / sqrt(norm)) : 0);
        for (i64 j = 0; j < c; j++) slope += (double)g[at + j] * (double)v[j];
        const float h = 0.01f;
        for (i64 j = 0; j < c; j++) w->data[j] = keep[j] + h * v[j];
        double up = run(t, NULL, NULL);
        for (i64 j = 0; j < c; j++) w->data[j] = keep[j] - h * v[j];
        double down = run(t, NULL, NULL), found = (up - down) / (2 * (double)h);
        memcpy(w->data, keep, sizeof *keep * (usize)c);
        if (fabs(found - slope) > 2e-3 + 1e-2 * fabs(found)) fail_msg("%s (kind %d): slope %g by differences, %g by the gradient", w->name, (int)w->kind, found, slope);
        at += c;
        free(v);
    }
    free(g);
    free(keep);
}

static const struct { const char *arch; dtype type; } bases[] = {{"llama", F32}, {"qwen2", Q8_0}, {"gemma3", Q4_K}, {"bert", F32}, {"bert", Q8_0}, {"llama", Q6_K}};

static void test_directions(void **state)
{
    (void)state;
    for (usize b = 0; b < COUNT_OF(bases); b++) {
        tiny form = tiny_of(bases[b].arch, bases[b].type);
        model *m = open_tiny(&form);
        for (way how = 0; how < WAYS; how++) {
            bool classes = m->arch->encoder || how == CLASSES;
            if (m->arch->encoder && (how == PROMPT || how == PREFIX || how == HEAD)) continue;
            task t = {.m = m, .set = set_of(m, how), .loss = classes ? LOSS_CLASSES : LOSS_TOKENS, .len = (i32[]){9, 4}, .n_seq = 2, .weight = 0.2f};
            check_directions(&t);
            set_free(&t.set);
        }
        model_close(m);
    }
}

static void test_packed_is_apart(void **state)
{
    (void)state;
    static const i32 len[] = {7, 1, 9, 3};
    for (usize b = 0; b < COUNT_OF(bases); b++) {
        tiny form = tiny_of(bases[b].arch, bases[b].type);
        model *m = open_tiny(&form);
        for (way how = 0; how < WAYS; how++) {
            bool classes = m->arch->encoder || how == CLASSES;
            if (m->arch->encoder && (how == PROMPT || how == PREFIX || how == HEAD)) continue;
            task t = {.m = m, .set = set_of(m, how), .loss = classes ? LOSS_CLASSES : LOSS_TOKENS, .len = len, .n_seq = 4, .weight = 0.1f};
            i64 n = count_of(&t.set);
            float *all = malloc(sizeof *all * (usize)n), *one = malloc(sizeof *one * (usize)n);
            double *sum = calloc((usize)n, sizeof *sum), loss = 0, together = run(&t, all, NULL), apart = 0, size = 0;
            for (int s = 0; s < 4; s++) {
                task alone = t;
                alone.len = len + s, alone.n_seq = 1, alone.first = s, alone.padding = s;
                loss += run(&alone, one, NULL);
                for (i64 i = 0; i < n; i++) sum[i] += (double)one[i];
            }
            for (i64 i = 0; i < n; i++) {
                double d = sum[i] - (double)all[i];
                apart += d * d, size += sum[i] * sum[i];
            }
            assert_true(fabs(loss - together) < 1e-5 * fabs(loss));
            assert_true(size > 0);
            if (!(sqrt(apart / size) < 2e-6)) fail_msg("%s, way %d: the packed gradient is %g apart", bases[b].arch, (int)how, sqrt(apart / size));
            free(all), free(one), free(sum);
            set_free(&t.set);
        }
        model_close(m);
    }
}

/* relative L2 distance */
static double distance(const float *a, const float *b, i64 n)
{
    double apart = 0, size = 0;
    for (i64 i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        apart += d * d, size += (double)b[i] * (double)b[i];
    }
    assert_true(size > 0);
    return sqrt(apart / size);
}

/* Pairs beside quantised weights learn what they learn beside the floats that those weights are. */
static void test_quantised_base(void **state)
{
    (void)state;
    static const dtype types[] = {F16, BF16, Q8_0, Q5_0, Q4_0, Q4_1, Q4_K, Q6_K};
    static const i32 len[] = {9, 4};
    for (usize b = 0; b < COUNT_OF(types); b++) {
        float *g[2];
        i64 n = 0;
        for (int plain = 0; plain < 2; plain++) {
            tiny form = tiny_of("llama", types[b]);
            form.plain = plain;
            model *m = open_tiny(&form);
            assert_int_equal(m->layers[0].q.type, plain ? F32 : types[b]);
            task t = {.m = m, .set = set_of(m, LORA), .loss = LOSS_TOKENS, .len = len, .n_seq = 2, .weight = 0.1f};
            n = count_of(&t.set);
            g[plain] = malloc(sizeof(float) * (usize)n);
            run(&t, g[plain], NULL);
            set_free(&t.set);
            model_close(m);
        }
        double d = distance(g[0], g[1], n);
        if (!(d <= 1e-5)) fail_msg("%s: gradients are %g from those over floats", dtype_table[types[b]].name, d);
        free(g[0]), free(g[1]);
    }
}

/* However many rows of logits there are at once. */
static void test_any_chunk(void **state)
{
    (void)state;
    static const i32 len[] = {9, 4, 6};
    static const i64 chunks[] = {1, 3, 8, MOST_ROWS};
    tiny form = tiny_of("gemma3", Q8_0);
    model *m = open_tiny(&form);
    for (int how = 0; how < 2; how++) {
        task t = {.m = m, .set = set_of(m, how ? HEAD : ALL), .loss = LOSS_TOKENS, .len = len, .n_seq = 3, .weight = 0.1f, .chunk = MOST_ROWS};
        i64 n = count_of(&t.set);
        float *whole = malloc(sizeof *whole * (usize)n), *part = malloc(sizeof *part * (usize)n);
        double loss = run(&t, whole, NULL);
        for (usize c = 0; c < COUNT_OF(chunks); c++) {
            t.chunk = chunks[c];
            assert_true(fabs(run(&t, part, NULL) - loss) <= 1e-6 * fabs(loss));
            double d = distance(part, whole, n);
            if (!(d <= 1e-6)) fail_msg("chunks of %d rows: gradients are %g apart", (int)chunks[c], d);
        }
        free(whole), free(part);
        set_free(&t.set);
    }
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantised_base),
        cmocka_unit_test(test_any_chunk),
        cmocka_unit_test(test_directions),
        cmocka_unit_test(test_packed_is_apart),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
