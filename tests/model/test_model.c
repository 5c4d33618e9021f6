/* Models made by the test itself, every architecture and weight type: they open, build and run; adapters of several slots in one
 * batch do what merged weights do; given vectors do what tokens do; files damaged in one place are refused by the name of that
 * place; and a failed allocation, whichever it is, is NOMEM and leaves nothing behind. */
#include "tiny.h"
#include "engine/engine.h"
#include <pthread.h>

static char folder[200];

static int make_folder(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/maru-model-XXXXXX", tmp && strlen(tmp) < 150 ? tmp : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    return file_remove_tree(folder).code ? -1 : 0;
}

static const char *file_of(const tiny *t)
{
    static char path[4][256];
    static int  at;
    char       *p = path[at++ % 4];
    snprintf(p, 256, "%s/m%d.gguf", folder, at);
    tiny_write(p, t);
    return p;
}

static model *open_tiny(const tiny *t)
{
    model *m;
    assert_ok(model_open(&m, file_of(t), NULL));
    return m;
}

/* ---- one batch through decoder_build and a plan ---- */

typedef struct { i32 id, pos, seq, adapter, soft; } row;
enum { SEQS = 4, PAGES = 4 };

/* logits of every row, [n_vocab,n]; caller frees */
static float *forward(const model *m, const row *r, i64 n, const adapter_set *adapters, const float *soft, i64 n_soft)
{
    pool      *threads;
    backend   *be;
    workspace *ws;
    kv_cache  *kv;
    plan      *p;
    model_io   io;
    graph     *g = graph_new();
    assert_ok(pool_new(&threads, 1));
    assert_ok(backend_cpu(&be, threads));
    assert_ok(workspace_new(&ws, be));
    assert_ok(kv_cache_new(&kv, m, SEQS * PAGES, cpu_reference() ? F32 : F16));
    decoder_build(g, m, kv, &(batch_shape){.rows = n, .outs = n, .seqs = SEQS, .max_pages = PAGES, .soft = n_soft, .adapters = adapters}, &io);
    assert_ok(plan_new(&p, g, ws, &io.logits, 1));
    i32 *id = calloc((usize)n * 8, sizeof *id), *pos = id + n, *slot = id + 2 * n, *out = id + 3 * n, *which = id + 4 * n, *span = id + 5 * n;
    i32 *given = calloc((usize)n, sizeof *given), pages[SEQS * PAGES];
    for (i32 i = 0; i < SEQS * PAGES; i++) pages[i] = SEQS * PAGES - 1 - i; /* pages lie anywhere */
    for (i64 i = 0; i < n; i++) {
        id[i] = r[i].id, pos[i] = r[i].pos, out[i] = (i32)i, which[i] = r[i].adapter, given[i] = r[i].soft;
        slot[i] = pages[r[i].seq * PAGES + r[i].pos / KV_PAGE] * KV_PAGE + r[i].pos % KV_PAGE;
        span[3 * i] = r[i].seq, span[3 * i + 1] = 0, span[3 * i + 2] = r[i].pos + 1;
    }
    assert_ok(tensor_put(p, io.ids, id));
    assert_ok(tensor_put(p, io.pos, pos));
    assert_ok(tensor_put(p, io.slots, slot));
    assert_ok(tensor_put(p, io.span, span));
    assert_ok(tensor_put(p, io.pages, pages));
    assert_ok(tensor_put(p, io.out_rows, out));
    if (adapters) assert_ok(tensor_put(p, io.adapter, which));
    if (n_soft) assert_ok(tensor_put(p, io.soft, soft));
    if (n_soft) assert_ok(tensor_put(p, io.soft_ids, given));
    assert_ok(plan_run(p));
    float *logits = malloc(sizeof *logits * (usize)(n * m->h.n_vocab));
    assert_ok(tensor_get(p, io.logits, logits));
    plan_free(p);
    workspace_free(ws);
    backend_close(be);
    kv_cache_free(kv);
    pool_free(threads);
    free(id);
    free(given);
    return logits;
}

static i64 rows_of(row *r, i32 seq, i32 adapter, const i32 *id, i64 n)
{
    for (i64 i = 0; i < n; i++) r[i] = (row){id[i], (i32)i, seq, adapter, -1};
    return n;
}

static double apart(const float *a, const float *b, i64 n)
{
    double most = 0;
    for (i64 i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= most)) most = isnan(d) ? INFINITY : d;
    }
    return most;
}

static const i32 tokens[12] = {40, 270, 71, 100, 9, 299, 68, 68, 112, 35, 201, 150};

/* ---- every architecture and type ---- */

static const char *const decoders[] = {"llama", "qwen2", "gemma3"};
static const dtype       types[] = {F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q4_K, Q6_K};

static void shape_of_model(const model *m, const tiny *t)
{
    const hparams *h = &m->h;
    assert_string_equal(m->arch->name, t->arch);
    assert_int_equal(h->n_layer, t->n_layer);
    assert_int_equal(h->width, t->width);
    assert_int_equal(h->n_vocab, t->n_vocab);
    assert_int_equal(h->head_dim, t->width / t->n_head);
    assert_int_equal(h->n_ctx, t->n_ctx);
    assert_int_equal(tokenizer_size(m->tok), t->n_vocab);
    i64 values = 0;
    for (usize i = 0; i < file_n_tensors(m->file); i++) values += file_tensor_at(m->file, i)->n[0] * file_tensor_at(m->file, i)->n[1];
    assert_int_equal(m->parameters, values); /* every tensor of the file has its place */
}

static void decoders_run(void **state)
{
    (void)state;
    for (usize a = 0; a < COUNT_OF(decoders); a++)
        for (usize k = 0; k < COUNT_OF(types); k++) {
            tiny t = tiny_of(decoders[a], types[k]), same = t;
            same.plain = true;
            model *m = open_tiny(&t), *f = open_tiny(&same);
            row    r[24];
            i64    n = rows_of(r, 0, -1, tokens, 12);
            shape_of_model(m, &t);
            assert_non_null(m->chat);
            n += rows_of(r + n, 2, -1, tokens + 3, 9);
            float *x = forward(m, r, n, NULL, NULL, 0), *y = forward(f, r, n, NULL, NULL, 0), *alone = forward(m, r, 12, NULL, NULL, 0);
            double d = apart(x, y, n * t.n_vocab), most = 0;
            for (i64 i = 0; i < n * t.n_vocab; i++) most = fmax(most, fabs((double)x[i]));
            assert_true(most > 0.5 && most < 1000);
            if (!(d <= (types[k] == F32 ? 0 : 0.08 * most))) /* 8-bit activations, and no more */
                fail_msg("%s %s: logits up to %g are %g from those of the same weights as floats", t.arch, dtype_table[t.type].name, most, d);
            assert_memory_equal(x, alone, sizeof *x * 12 * (usize)t.n_vocab); /* the other sequence changes nothing */
            free(x), free(y), free(alone);
            model_close(m), model_close(f);
        }
}

static void reference_mode_agrees(void **state)
{
    (void)state;
    cpu_force(cpu_best(), true);
    for (usize a = 0; a < COUNT_OF(decoders); a++)
        for (usize k = 0; k < COUNT_OF(types); k++) {
            tiny t = tiny_of(decoders[a], types[k]), same = t;
            same.plain = true;
            model *m = open_tiny(&t), *f = open_tiny(&same);
            row    r[12];
            i64    n = rows_of(r, 1, -1, tokens, 12);
            float *x = forward(m, r, n, NULL, NULL, 0), *y = forward(f, r, n, NULL, NULL, 0);
            assert_true(apart(x, y, n * t.n_vocab) <= 2e-4);
            free(x), free(y);
            model_close(m), model_close(f);
        }
    cpu_force(cpu_best(), false);
}

/* extents that fill no vector and no block of eight rows */
static void odd_shapes_run(void **state)
{
    (void)state;
    static const struct { i64 width, heads, kv, ff, layers; } shapes[] = {{2, 1, 1, 1, 1}, {6, 3, 1, 7, 2}, {70, 7, 7, 33, 2}, {40, 2, 1, 95, 1}, {36, 6, 2, 13, 3}, {130, 13, 1, 257, 1}};
    static const dtype kinds[] = {F32, F16, BF16};
    for (usize i = 0; i < COUNT_OF(shapes); i++)
        for (usize k = 0; k < COUNT_OF(kinds); k++) {
            tiny t = tiny_of("llama", kinds[k]);
            t.width = shapes[i].width, t.n_head = shapes[i].heads, t.n_kv = shapes[i].kv, t.n_ff = shapes[i].ff, t.n_layer = shapes[i].layers, t.n_vocab = 307;
            row    r[12];
            i64    n = rows_of(r, 1, -1, tokens, 12);
            model *m = open_tiny(&t);
            float *x = forward(m, r, n, NULL, NULL, 0);
            cpu_force(cpu_best(), true);
            float *y = forward(m, r, n, NULL, NULL, 0);
            cpu_force(cpu_best(), false);
            if (!(apart(x, y, n * t.n_vocab) <= 0.02)) /* F16 keys and values against F32 */
                fail_msg("shape %zu %s: %g apart", i, dtype_table[kinds[k]].name, apart(x, y, n * t.n_vocab));
            free(x), free(y);
            model_close(m);
        }
}

typedef struct { i32 id[64]; usize n; } said;
static err on_token(void *ctx, const gen_token *t)
{
    said *s = ctx;
    if (s->n < 64) s->id[s->n++] = t->id;
    return OK;
}

/* the engine's greedy words and scores are those of the plain forward pass, to the bit */
static void engine_says_the_same(void **state)
{
    (void)state;
    for (usize a = 0; a < COUNT_OF(decoders); a++) {
        tiny        t = tiny_of(decoders[a], Q8_0);
        const char *path = file_of(&t);
        engine     *e;
        session    *s;
        said        g = {0};
        assert_ok(engine_open(&e, path, &(engine_opts){.threads = 1}));
        assert_ok(session_open(&s, e, 0));
        assert_ok(session_generate(s, &(gen_request){.ids = tokens, .n = 5, .max_tokens = 40, .ignore_end = true, .sample = {.top_p = 1, .repeat_penalty = 1}, .token = on_token, .ctx = &g}, NULL));
        assert_int_equal(g.n, 40);
        i32   all[45];
        row   r[45];
        float score[45];
        memcpy(all, tokens, 5 * sizeof *all);
        memcpy(all + 5, g.id, 40 * sizeof *all);
        rows_of(r, 0, -1, all, 45);
        float *x = forward(engine_model(e), r, 45, NULL, NULL, 0);
        assert_ok(session_generate(s, &(gen_request){.ids = all, .n = 45, .score = score, .sample = {.top_p = 1, .repeat_penalty = 1}}, NULL));
        for (i64 i = 0; i < 44; i++) {
            const float *l = x + i * t.n_vocab;
            i32          best = 0;
            for (i32 v = 1; v < t.n_vocab; v++)
                if (l[v] > l[best]) best = v;
            if (i >= 4) assert_int_equal(all[i + 1], best);
            float want = l[all[i + 1]] - logits_lse(l, t.n_vocab);
            assert_memory_equal(&score[i + 1], &want, sizeof want);
        }
        free(x);
        session_close(s);
        engine_close(e);
    }
}

static void encoder_runs(void **state)
{
    (void)state;
    static const dtype kinds[] = {F32, F16, Q8_0, Q4_K};
    for (usize k = 0; k < COUNT_OF(kinds); k++) {
        tiny    t = tiny_of("bert", kinds[k]), same = t;
        engine *e, *f;
        same.plain = true;
        str     text[3] = {S("hello the hello"), S("the"), S("")};
        float   v[3 * 256], w[3 * 256], one[256];
        assert_ok(engine_open(&e, file_of(&t), &(engine_opts){.threads = 1}));
        assert_ok(engine_open(&f, file_of(&same), &(engine_opts){.threads = 1}));
        shape_of_model(engine_model(e), &t);
        i64 d = engine_dim(e);
        assert_int_equal(d, t.width);
        assert_int_equal(engine_window(e), 256);
        assert_ok(engine_embed(e, text, 3, EMBED_PLAIN, WINDOW_ERROR, v, NULL, NULL));
        assert_ok(engine_embed(f, text, 3, EMBED_PLAIN, WINDOW_ERROR, w, NULL, NULL));
        for (int i = 0; i < 3; i++) {
            double square = 0, cosine = 0;
            for (i64 x = 0; x < d; x++) square += (double)v[i * d + x] * (double)v[i * d + x], cosine += (double)v[i * d + x] * (double)w[i * d + x];
            assert_true(fabs(square - 1) < 1e-5);
            assert_true(cosine > 0.995);
            assert_ok(engine_embed(e, &text[i], 1, EMBED_PLAIN, WINDOW_ERROR, one, NULL, NULL));
            assert_memory_equal(one, v + i * d, sizeof *one * (usize)d);
        }
        assert_true(apart(v, v + d, d) > 1e-3);
        engine_close(e), engine_close(f);
    }
}

/* ---- adapters ---- */

enum { RANK = 3, SLOTS = 2 };
static const char *const adapted[] = {"blk.0.attn_q.weight", "blk.1.attn_v.weight", "blk.1.attn_output.weight", "blk.0.ffn_gate.weight", "blk.1.ffn_down.weight", "output.weight"};
typedef struct { adapter_set set; adapter_pair pair[COUNT_OF(adapted)]; i64 k[COUNT_OF(adapted)], n[COUNT_OF(adapted)]; int slot; } adapters;

static void adapters_make(adapters *x, const tiny *t)
{
    rng g;
    rng_seed(&g, 99);
    *x = (adapters){.set = {x->pair, COUNT_OF(adapted), SLOTS}};
    x->set.pair = x->pair;
    for (usize i = 0; i < COUNT_OF(adapted); i++) {
        i64 k = i == 4 ? t->n_ff : t->width, n = i == 3 ? t->n_ff : i == 1 ? t->width / t->n_head * t->n_kv : i == 5 ? t->n_vocab : t->width;
        adapter_pair *p = &x->pair[i];
        snprintf(p->name, sizeof p->name, "%s", adapted[i]);
        p->rank = RANK, x->k[i] = k, x->n[i] = n;
        p->a = malloc(sizeof(float) * (usize)(k * RANK * SLOTS));
        p->b = malloc(sizeof(float) * (usize)(n * RANK * SLOTS));
        for (i64 j = 0; j < k * RANK * SLOTS; j++) p->a[j] = rng_normal(&g) / sqrtf((float)k);
        for (i64 j = 0; j < n * RANK * SLOTS; j++) p->b[j] = 0.5f * rng_normal(&g);
    }
}

static void adapters_free(adapters *x)
{
    for (usize i = 0; i < COUNT_OF(adapted); i++) free(x->pair[i].a), free(x->pair[i].b);
}

/* W + B A by hand, of one slot: a [k, rank, slots], b [rank, n, slots] */
static void merge(void *ctx, const char *name, float *w, i64 k, i64 n)
{
    const adapters *x = ctx;
    for (usize i = 0; i < COUNT_OF(adapted); i++) {
        if (strcmp(name, adapted[i]) != 0) continue;
        assert_int_equal(k, x->k[i]);
        assert_int_equal(n, x->n[i]);
        const float *a = x->pair[i].a + x->slot * k * RANK, *b = x->pair[i].b + x->slot * RANK * n;
        for (i64 o = 0; o < n; o++)
            for (i64 j = 0; j < k; j++)
                for (i64 r = 0; r < RANK; r++) w[o * k + j] += b[o * RANK + r] * a[r * k + j];
    }
}

static void adapters_one(const char *arch, dtype type, bool reference, double within)
{
    cpu_force(cpu_best(), reference);
    tiny     t = tiny_of(arch, type), merged = t;
    adapters x;
    adapters_make(&x, &t);
    merged.plain = true;
    merged.edit = merge;
    merged.ctx = &x;
    model *base = open_tiny(&t), *with[SLOTS];
    for (x.slot = 0; x.slot < SLOTS; x.slot++) with[x.slot] = open_tiny(&merged);
    row r[36];
    i64 v = t.n_vocab;
    rows_of(r, 0, 1, tokens, 12), rows_of(r + 12, 1, -1, tokens, 12), rows_of(r + 24, 2, 0, tokens, 12);
    float *all = forward(base, r, 36, &x.set, NULL, 0), *plain = forward(base, r, 36, NULL, NULL, 0);
    for (int s = 0; s < SLOTS; s++) {
        float *want = forward(with[s], r, 12, NULL, NULL, 0), *have = all + (s == 1 ? 0 : 24 * v);
        double d = apart(have, want, 12 * v), far = apart(have, plain, 12 * v);
        print_message("%s %s: slot %d is %.2g from merged weights, %.2g from none\n", arch, dtype_table[type].name, s, d, far);
        assert_true(d <= within);
        assert_true(far > 4);
        free(want);
    }
    assert_memory_equal(all + 12 * v, plain + 12 * v, sizeof *all * 12 * (usize)v); /* rows without an adapter: untouched, to the bit */
    free(all), free(plain);
    adapters_free(&x);
    model_close(base), model_close(with[0]), model_close(with[1]);
    cpu_force(cpu_best(), false);
}

static void adapters_as_merged(void **state)
{
    (void)state;
    adapters_one("llama", F32, true, 1e-4);
    adapters_one("llama", Q8_0, true, 1e-4);
    adapters_one("llama", Q8_0, false, 0.5); /* the merged weights are floats, the base multiplies in 8 bits */
    adapters_one("qwen2", Q4_K, true, 1e-4);
}

/* ---- given vectors ---- */

static void given_vectors_as_tokens(void **state)
{
    (void)state;
    for (usize a = 0; a < COUNT_OF(decoders); a++)
        for (int k = 0; k < 2; k++) {
            tiny   t = tiny_of(decoders[a], k ? Q8_0 : F32);
            model *m = open_tiny(&t);
            row    r[24];
            float *soft = calloc((usize)(4 * t.width), sizeof *soft);
            rows_of(r, 0, -1, tokens, 12), rows_of(r + 12, 1, -1, tokens, 12);
            for (int i = 0; i < 4; i++) { /* the first four of the second sequence are given, in another order in the table */
                weight_decode(m->embed.type, m->embed.lay, m->embed.k, m->embed.data, tokens[i], 1, soft + (3 - i) * t.width);
                r[12 + i].id = -1, r[12 + i].soft = 3 - i;
            }
            for (i64 i = 0; m->arch->scale_embedding && i < 4 * t.width; i++) soft[i] *= sqrtf((float)t.width);
            float *x = forward(m, r, 24, NULL, soft, 4);
            assert_memory_equal(x, x + 12 * t.n_vocab, sizeof *x * 12 * (usize)t.n_vocab);
            soft[0] += 1;
            float *y = forward(m, r, 24, NULL, soft, 4);
            assert_memory_equal(x, y, sizeof *x * 15 * (usize)t.n_vocab);
            assert_true(apart(x + 15 * t.n_vocab, y + 15 * t.n_vocab, t.n_vocab) > 1e-4);
            free(x), free(y), free(soft);
            model_close(m);
        }
}

/* ---- hostile files ---- */

typedef struct { const char *arch; const char *drop, *wide, *tall, *odd; dtype odd_type; meta put; err_code code; const char *part, *part2; } hostile;
#define PUT(m) .put = m
static const hostile bad_files[] = {
    {"llama", .drop = "blk.1.ffn_up.weight", .code = ERR_FORMAT, .part = "blk.1.ffn_up.weight", .part2 = "missing"},
    {"llama", .drop = "token_embd.weight", .code = ERR_FORMAT, .part = "token_embd.weight"},
    {"llama", .drop = "output_norm.weight", .code = ERR_FORMAT, .part = "output_norm.weight"},
    {"gemma3", .drop = "blk.3.attn_q_norm.weight", .code = ERR_FORMAT, .part = "blk.3.attn_q_norm.weight"},
    {"gemma3", .drop = "blk.0.post_ffw_norm.weight", .code = ERR_FORMAT, .part = "blk.0.post_ffw_norm.weight"},
    {"bert", .drop = "position_embd.weight", .code = ERR_FORMAT, .part = "position_embd.weight"},
    {"bert", .drop = "blk.0.layer_output_norm.bias", .code = ERR_FORMAT, .part = "blk.0.layer_output_norm.bias"},
    {"llama", .tall = "blk.0.attn_k.weight", .code = ERR_FORMAT, .part = "blk.0.attn_k.weight is [64,40], expected [64,32]"},
    {"llama", .wide = "blk.1.ffn_down.weight", .code = ERR_FORMAT, .part = "blk.1.ffn_down.weight is [128,64], expected [96,64]"},
    {"llama", .wide = "token_embd.weight", .code = ERR_FORMAT, .part = "token_embd.weight is [96,304]"},
    {"llama", .wide = "blk.0.attn_norm.weight", .code = ERR_FORMAT, .part = "blk.0.attn_norm.weight is [96,1], expected [64,1]"},
    {"llama", .tall = "output.weight", .code = ERR_FORMAT, .part = "output.weight is [64,312], expected [64,304]"},
    {"qwen2", .wide = "blk.0.attn_q.bias", .code = ERR_FORMAT, .part = "blk.0.attn_q.bias"},
    {"bert", .wide = "token_types.weight", .code = ERR_FORMAT, .part = "token_types.weight"},
    {"llama", .odd = "blk.0.attn_norm.weight", .odd_type = F16, .code = ERR_UNSUPPORTED, .part = "blk.0.attn_norm.weight is f16, expected f32"},
    {"llama", .odd = "blk.0.attn_q.weight", .odd_type = F64, .code = ERR_UNSUPPORTED, .part = "blk.0.attn_q.weight has a type that this build does not compute with: f64"},
    {"llama", .odd = "token_embd.weight", .odd_type = F64, .code = ERR_UNSUPPORTED, .part = "token_embd.weight"},
    {"bert", .odd = "token_types.weight", .odd_type = Q8_0, .code = ERR_UNSUPPORTED, .part = "token_types.weight"},
    {"llama", .drop = "llama.block_count", .code = ERR_FORMAT, .part = "llama.block_count is missing"},
    {"llama", .drop = "llama.context_length", .code = ERR_FORMAT, .part = "llama.context_length"},
    {"llama", PUT(META_INT("llama.block_count", 0)), .code = ERR_FORMAT, .part = "block_count is 0"},
    {"llama", PUT(META_INT("llama.block_count", 3)), .code = ERR_FORMAT, .part = "blk.2.attn_q.weight is missing"},
    {"llama", PUT(META_INT("llama.block_count", 1000000)), .code = ERR_FORMAT, .part = "block_count is 1000000"},
    {"llama", PUT(META_TEXT("llama.block_count", "two")), .code = ERR_FORMAT, .part = "llama.block_count"},
    {"llama", PUT(META_REAL("llama.block_count", 2)), .code = ERR_FORMAT, .part = "llama.block_count"},
    {"llama", PUT(META_INT("llama.embedding_length", INT64_MAX)), .code = ERR_FORMAT, .part = "embedding_length"},
    {"llama", PUT(META_INT("llama.embedding_length", -64)), .code = ERR_FORMAT, .part = "embedding_length is -64"},
    {"llama", PUT(META_INT("llama.context_length", 0)), .code = ERR_FORMAT, .part = "context_length is 0"},
    {"llama", PUT(META_INT("llama.context_length", INT64_MIN)), .code = ERR_FORMAT, .part = "context_length"},
    {"llama", PUT(META_INT("llama.feed_forward_length", 0)), .code = ERR_FORMAT, .part = "feed_forward_length is 0"},
    {"llama", PUT(META_INT("llama.attention.head_count", 0)), .code = ERR_FORMAT, .part = "head_count is 0"},
    {"llama", PUT(META_INT("llama.attention.head_count", 3)), .code = ERR_FORMAT, .part = "3 attention heads do not divide into 2"},
    {"llama", PUT(META_INT("llama.attention.head_count", 4096)), .code = ERR_FORMAT, .part = "key_length is 0"},
    {"llama", PUT(META_INT("llama.attention.head_count", 6)), .code = ERR_FORMAT, .part = "blk.0.attn_q.weight"},
    {"llama", PUT(META_INT("llama.attention.head_count_kv", 8)), .code = ERR_FORMAT, .part = "head_count_kv is 8, expected 1 to 4"},
    {"llama", PUT(META_INT("llama.attention.key_length", 4096)), .code = ERR_FORMAT, .part = "blk.0.attn_q.weight is [64,64], expected [64,16384]"},
    {"llama", PUT(META_INT("llama.attention.value_length", 8)), .code = ERR_UNSUPPORTED, .part = "different length"},
    {"llama", PUT(META_INT("llama.rope.dimension_count", 15)), .code = ERR_FORMAT, .part = "rope.dimension_count is 15"},
    {"llama", PUT(META_INT("llama.rope.dimension_count", 18)), .code = ERR_FORMAT, .part = "rope.dimension_count is 18"},
    {"llama", PUT(META_REAL("llama.rope.freq_base", 0)), .code = ERR_FORMAT, .part = "rope.freq_base is 0"},
    {"llama", PUT(META_REAL("llama.rope.freq_base", NAN)), .code = ERR_FORMAT, .part = "rope.freq_base"},
    {"llama", PUT(META_TEXT("llama.rope.scaling.type", "yarn")), .code = ERR_UNSUPPORTED, .part = "yarn"},
    {"llama", PUT(META_REAL("llama.attention.layer_norm_rms_epsilon", -1)), .code = ERR_FORMAT, .part = "layer_norm_rms_epsilon"},
    {"gemma3", PUT(META_INT("gemma3.attention.sliding_window", -1)), .code = ERR_FORMAT, .part = "sliding_window is -1"},
    {"gemma3", PUT(META_INT("gemma3.attention.sliding_window", 1ll << 40)), .code = ERR_FORMAT, .part = "sliding_window"},
    {"bert", PUT(META_INT("bert.pooling_type", 9)), .code = ERR_FORMAT, .part = "pooling_type is 9"},
    {"bert", PUT(META_INT("bert.context_length", 2)), .code = ERR_FORMAT, .part = "context_length is 2"},
    {"bert", PUT(META_INT("bert.attention.key_length", 8)), .code = ERR_FORMAT, .part = "blk.0.attn_q.weight"},
    {"llama", PUT(META_TEXT("general.architecture", "mamba")), .code = ERR_UNSUPPORTED, .part = "mamba", .part2 = "llama, qwen2, gemma3, gpt2, bert"},
    {"llama", PUT(META_INT("general.architecture", 5)), .code = ERR_FORMAT, .part = "general.architecture"},
    {"llama", .drop = "general.architecture", .code = ERR_FORMAT, .part = "general.architecture"},
    {"qwen2", PUT(META_TEXT("tokenizer.ggml.pre", "nonsense")), .code = ERR_UNSUPPORTED, .part = "nonsense"},
    {"qwen2", PUT(META_TEXT("tokenizer.ggml.model", "rwkv")), .code = ERR_UNSUPPORTED, .part = "rwkv"},
    {"llama", .drop = "tokenizer.ggml.tokens", .code = ERR_FORMAT, .part = "token"},
    {"llama", .drop = "tokenizer.ggml.scores", .code = ERR_FORMAT, .part = "scores"},
    {"llama", PUT(META_INT("tokenizer.ggml.scores", 7)), .code = ERR_FORMAT, .part = "tokenizer.ggml.scores"},
    {"llama", PUT(META_INT("tokenizer.ggml.tokens", 7)), .code = ERR_FORMAT, .part = "tokenizer.ggml.tokens"},
    {"llama", PUT(META_INT("tokenizer.ggml.eos_token_id", 304)), .code = ERR_FORMAT, .part = "eos token is 304"},
    {"llama", PUT(META_INT("tokenizer.ggml.bos_token_id", -7)), .code = ERR_FORMAT, .part = "bos token is -7"},
};

static void hostile_one(const hostile *h)
{
    tiny t = tiny_of(h->arch, F32);
    t.drop = h->drop, t.wide = h->wide, t.tall = h->tall, t.odd = h->odd, t.odd_type = h->odd_type;
    if (h->put.key.n) t.put = &h->put, t.n_put = 1;
    const char *path = file_of(&t);
    model      *m;
    usize       before = mem_now();
    err         bad = model_open(&m, path, NULL);
    const char *what = h->drop ? h->drop : h->put.key.n ? h->put.key.p : h->part;
    if (bad.code != (int)h->code) fail_msg("%s, %s: %s: %s, expected %s", h->arch, what, bad.code ? err_name(bad.code) : "opened", bad.what ? bad.what : "", err_name(h->code));
    if (!strstr(bad.what, h->part) || (h->part2 && !strstr(bad.what, h->part2))) fail_msg("%s, %s: the message lacks \"%s\": %s", h->arch, what, h->part, bad.what);
    assert_null(m);
    assert_int_equal(mem_now(), before);
    engine *e;
    assert_int_equal(engine_open(&e, path, &(engine_opts){.threads = 1}).code, h->code);
    assert_null(e);
}

static void hostile_models(void **state)
{
    (void)state;
    for (usize i = 0; i < COUNT_OF(bad_files); i++) hostile_one(&bad_files[i]);
}

static void more_tokens_than_rows(void **state)
{
    (void)state;
    tiny     t = tiny_of("llama", F32);
    str      piece[400];
    float    score[400] = {0};
    i32      kind[400];
    char     text[400][16];
    buf      packed = {0};
    for (int i = 0; i < 400; i++) {
        snprintf(text[i], 16, "t%d", i);
        u64 n = strlen(text[i]);
        piece[i] = str_of(text[i]), kind[i] = TOKEN_NORMAL;
        buf_put(&packed, &n, 8), buf_str(&packed, piece[i]);
    }
    meta put[3] = {{.key = S("tokenizer.ggml.tokens"), .kind = META_ARRAY, .item = META_STR, .n = 400, .array = (const u8 *)packed.p, .array_len = packed.n},
                   {.key = S("tokenizer.ggml.scores"), .kind = META_ARRAY, .item = META_F32, .n = 400, .array = (const u8 *)score, .array_len = sizeof score},
                   {.key = S("tokenizer.ggml.token_type"), .kind = META_ARRAY, .item = META_I32, .n = 400, .array = (const u8 *)kind, .array_len = sizeof kind}};
    t.put = put, t.n_put = 3;
    model *m;
    err    bad = model_open(&m, file_of(&t), NULL);
    assert_int_equal(bad.code, ERR_FORMAT);
    assert_non_null(strstr(bad.what, "400"));
    assert_non_null(strstr(bad.what, "304"));
    put[1].n = 399, put[1].array_len -= 4; /* and lists that disagree */
    bad = model_open(&m, file_of(&t), NULL);
    assert_int_equal(bad.code, ERR_FORMAT);
    assert_non_null(strstr(bad.what, "399"));
    buf_free(&packed);
}

static void files_that_are_none(void **state)
{
    (void)state;
    model *m;
    char   path[256];
    snprintf(path, sizeof path, "%s/nowhere.gguf", folder);
    err bad = model_open(&m, path, NULL);
    assert_int_equal(bad.code, ERR_NOTFOUND);
    assert_non_null(strstr(bad.what, "nowhere.gguf"));
    assert_int_equal(model_open(&m, folder, NULL).code, ERR_FORMAT); /* a folder, but no model's */
    assert_ok(file_replace(path, "", 0));
    assert_int_equal(model_open(&m, path, NULL).code, ERR_FORMAT);
    assert_ok(file_replace(path, "GGUX\3\0\0\0", 8));
    assert_int_equal(model_open(&m, path, NULL).code, ERR_FORMAT);
    tiny t = tiny_of("llama", F32); /* cut anywhere */
    buf  whole = {0};
    assert_ok(file_read(&whole, file_of(&t), 0));
    for (usize n = 0; n < whole.n; n += n < 30000 ? 997 : 20011) {
        assert_ok(file_replace(path, whole.p, n));
        bad = model_open(&m, path, NULL);
        assert_true(bad.code == ERR_FORMAT || bad.code == ERR_UNSUPPORTED);
    }
    buf_free(&whole);
}

static void a_template_that_cannot_be_read(void **state)
{
    (void)state;
    meta   put = META_TEXT("tokenizer.chat_template", "{% for m in %}");
    tiny   t = tiny_of("llama", F32);
    t.put = &put, t.n_put = 1;
    model *m = open_tiny(&t);
    assert_null(m->chat);
    assert_non_null(m->chat_error);
    model_close(m);
    assert_ok(model_open_tokenizer(&m, file_of(&t)));
    assert_int_equal(tokenizer_size(m->tok), t.n_vocab);
    model_close(m);
}

static void hostile_sizes(void **state)
{
    (void)state;
    tiny      t = tiny_of("llama", F32);
    model    *m = open_tiny(&t);
    kv_cache *kv;
    engine   *e;
    static const i64 pages[] = {INT64_MAX, INT64_MAX / KV_PAGE, 1ll << 58, 1ll << 52, (1ll << 62) / (2 * 2 * 2 * 32), -1, 0};
    for (usize i = 0; i < COUNT_OF(pages); i++) {
        err bad = kv_cache_new(&kv, m, pages[i], F32);
        assert_true(bad.code == ERR_NOMEM || bad.code == ERR_INPUT);
        assert_null(kv);
    }
    model_close(m);
    const char *path = file_of(&t);
    static const i64 positions[] = {INT64_MAX, 1ll << 60, 1ll << 45, 1ll << 32};
    for (usize i = 0; i < COUNT_OF(positions); i++) {
        err bad = engine_open(&e, path, &(engine_opts){.threads = 1, .kv_tokens = positions[i]});
        assert_int_equal(bad.code, ERR_INPUT);
        assert_null(e);
    }
    assert_ok(engine_open(&e, path, &(engine_opts){.threads = 1, .kv_tokens = 1, .max_seqs = 1 << 30, .max_rows = 1 << 30}));
    session *s;
    assert_ok(session_open(&s, e, 0));
    err bad = session_generate(s, &(gen_request){.ids = tokens, .n = 3, .max_tokens = INT64_MAX, .sample = {.top_p = 1, .repeat_penalty = 1}}, NULL);
    assert_int_equal(bad.code, ERR_INPUT);
    bad = session_generate(s, &(gen_request){.ids = tokens, .n = 3, .max_tokens = 64, .sample = {.top_p = 1, .repeat_penalty = 1}}, NULL);
    assert_int_equal(bad.code, ERR_INPUT);
    assert_ok(session_generate(s, &(gen_request){.ids = tokens, .n = 3, .max_tokens = 8, .ignore_end = true, .sample = {.top_p = 1, .repeat_penalty = 1}}, NULL));
    session_close(s);
    engine_close(e);
}

static void context_is_the_models(void **state)
{
    (void)state;
    tiny    t = tiny_of("llama", F32);
    engine *e;
    session *s;
    t.n_ctx = 40; /* not a whole number of pages */
    assert_ok(engine_open(&e, file_of(&t), &(engine_opts){.threads = 1, .kv_tokens = 1000}));
    assert_ok(session_open(&s, e, 0));
    gen_request q = {.ids = tokens, .n = 10, .max_tokens = 31, .ignore_end = true, .sample = {.top_p = 1, .repeat_penalty = 1}};
    err         bad = session_generate(s, &q, NULL);
    assert_int_equal(bad.code, ERR_INPUT);
    assert_non_null(strstr(bad.what, "holds 40"));
    q.max_tokens = 30;
    gen_result res;
    assert_ok(session_generate(s, &q, &res));
    assert_int_equal(res.tokens, 30);
    session_close(s);
    engine_close(e);
}

/* ---- the n-th allocation fails ---- */

static void open_without_memory(void **state)
{
    (void)state;
    static const char *const arch[] = {"llama", "qwen2", "bert"};
    for (usize a = 0; a < COUNT_OF(arch); a++) {
        tiny        t = tiny_of(arch[a], Q8_0);
        const char *path = file_of(&t);
        model      *m;
        usize       before = mem_now();
        mem_fail_at(0);
        assert_ok(model_open(&m, path, NULL));
        i64 all = mem_fail_count();
        model_close(m);
        assert_int_equal(mem_now(), before);
        for (i64 n = 1; n <= all; n++) {
            mem_fail_at(n);
            err bad = model_open(&m, path, NULL);
            mem_fail_at(0);
            if (bad.code != ERR_NOMEM) fail_msg("%s: allocation %lld of %lld fails: %s: %s", arch[a], (long long)n, (long long)all, bad.code ? err_name(bad.code) : "opened", bad.code ? bad.what : "");
            assert_null(m);
            if (mem_now() != before) fail_msg("%s: allocation %lld fails: %zu bytes are left behind", arch[a], (long long)n, mem_now() - before);
        }
        print_message("%s: %lld allocations, each failed once\n", arch[a], (long long)all);
    }
}

static void engine_without_memory(void **state)
{
    (void)state;
    static const char *const arch[] = {"llama", "bert"};
    for (usize a = 0; a < COUNT_OF(arch); a++) {
        tiny        t = tiny_of(arch[a], Q8_0);
        const char *path = file_of(&t);
        engine     *e;
        engine_opts o = {.threads = 1};
        usize       before = mem_now();
        mem_fail_at(0);
        assert_ok(engine_open(&e, path, &o));
        i64 all = mem_fail_count();
        engine_close(e);
        assert_int_equal(mem_now(), before);
        for (i64 n = 1; n <= all; n++) {
            mem_fail_at(n);
            err bad = engine_open(&e, path, &o);
            mem_fail_at(0);
            if (bad.code != ERR_NOMEM) fail_msg("%s: allocation %lld of %lld fails: %s", arch[a], (long long)n, (long long)all, bad.code ? err_name(bad.code) : "opened");
            assert_null(e);
            if (mem_now() != before) fail_msg("%s: allocation %lld fails: %zu bytes are left behind", arch[a], (long long)n, mem_now() - before);
        }
    }
}

static err keep_text(void *ctx, const gen_token *t)
{
    said *s = ctx;
    if (s->n < 64) s->id[s->n++] = t->id;
    return OK;
}

/* a request that runs out of memory ends NOMEM; the engine and even the session go on, and say what they would have said */
static void requests_without_memory(void **state)
{
    (void)state;
    tiny        t = tiny_of("llama", Q8_0);
    const char *path = file_of(&t), *stops[] = {"zzzz"};
    engine     *e;
    usize       before = mem_now();
    said        want = {0};
    i32         prompt[40];
    for (int i = 0; i < 40; i++) prompt[i] = tokens[i % 12];
    gen_request q = {.ids = prompt, .n = 40, .max_tokens = 30, .ignore_end = true, .n_top = 3, .stop = stops, .n_stop = 1, .sample = {.temp = 1, .top_p = 1, .repeat_penalty = 1, .seed = 4}, .token = keep_text};
    i64 failed = 0, n = 1;
    for (bool more = true; more; n++) {
        session *s;
        said     g = {0};
        assert_ok(engine_open(&e, path, &(engine_opts){.threads = 1}));
        assert_ok(session_open(&s, e, 1));
        q.ctx = &g;
        mem_fail_at(n);
        err bad = session_generate(s, &q, NULL);
        more = mem_fail_count() >= n;
        mem_fail_at(0);
        if (bad.code && bad.code != ERR_NOMEM) fail_msg("allocation %lld fails: %s: %s", (long long)n, err_name(bad.code), bad.what);
        failed += bad.code != 0;
        if (n == 1) want = g, want.n = 0;
        for (int again = 0; again < 2; again++) {
            said after = {0};
            q.ctx = &after;
            assert_ok(session_generate(s, &q, NULL));
            assert_int_equal(after.n, 30);
            if (!want.n) want = after;
            assert_memory_equal(want.id, after.id, sizeof *want.id * 30);
        }
        session_close(s);
        engine_close(e);
        if (mem_now() != before) fail_msg("allocation %lld fails: %zu bytes are left behind", (long long)n, mem_now() - before);
    }
    print_message("%lld requests, %lld of them ended NOMEM\n", (long long)n - 1, (long long)failed);
    assert_true(failed > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoders_run),        cmocka_unit_test(odd_shapes_run), cmocka_unit_test(reference_mode_agrees),   cmocka_unit_test(engine_says_the_same),
        cmocka_unit_test(encoder_runs),        cmocka_unit_test(adapters_as_merged),      cmocka_unit_test(given_vectors_as_tokens),
        cmocka_unit_test(hostile_models),      cmocka_unit_test(more_tokens_than_rows),   cmocka_unit_test(files_that_are_none),
        cmocka_unit_test(a_template_that_cannot_be_read), cmocka_unit_test(hostile_sizes), cmocka_unit_test(context_is_the_models),
        cmocka_unit_test(open_without_memory), cmocka_unit_test(engine_without_memory),   cmocka_unit_test(requests_without_memory),
    };
    return cmocka_run_group_tests_name("model", tests, make_folder, drop_folder);
}
