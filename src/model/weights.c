/* model/weights.c - tensors of a file -> weights of the model: every shape is checked against the hyperparameters, and matrices
 * that kernels multiply with are packed (LAYOUT_R8) in parallel unless float arithmetic was asked for; the rest stays mapped. */
#include "model/arch.h"

typedef struct {
    model *m;
    err    bad;
    bool   pack;
    usize  pack_bytes;
    struct { model_weight *w; const void *rows; } *job;
    usize  n_jobs, cap_jobs;
} binder;

enum { NEED = 1, PACK = 2 };

static bool wants_pack(const file_tensor *t, int flags)
{
    return flags & PACK && !cpu_reference() && dtype_table[t->type].quantised && weight_packs(t->type, LAYOUT_R8);
}

/* Rows [from, from + n) of a file's tensor that has `all` rows; n < 0: all, of any number. */
static void bind_rows(binder *b, model_weight *w, const char *name, const char *in_file, i64 k, i64 from, i64 n, i64 all, int flags)
{
    if (b->bad.code) return;
    const file_tensor *t = file_tensor_find(b->m->file, str_of(in_file));
    snprintf(w->name, sizeof w->name, "%s", name);
    if (!t) {
        if (flags & NEED) b->bad = err_new(ERR_FORMAT, "%s: tensor %s is missing (architecture %s)", b->m->path, in_file, b->m->arch->name);
        return;
    }
    i64 rows = t->n[1] * t->n[2] * t->n[3];
    if (t->n[0] != k || (n >= 0 && rows != all)) {
        b->bad = err_new(ERR_FORMAT, "%s: tensor %s is [%lld,%lld], expected [%lld,%lld]", b->m->path, in_file, (long long)t->n[0], (long long)rows, (long long)k, (long long)all);
        return;
    }
    if ((unsigned)t->type >= DTYPE_COUNT || t->type == I32 || t->type == F64 || !t->data) { /* F64 would make every value after it F64 */
        const char *type = (unsigned)t->type < DTYPE_COUNT ? dtype_table[t->type].name : "unknown";
        b->bad = err_new(ERR_UNSUPPORTED, "%s: tensor %s has %s%s", b->m->path, in_file, t->data ? "a type that this build does not compute with: " : "no data", t->data ? type : "");
        return;
    }
    if (n >= 0) rows = n;
    *w = (model_weight){.type = t->type, .k = k, .n = rows, .data = (u8 *)(uintptr_t)t->data + dtype_row_bytes(t->type, k) * (usize)from};
    snprintf(w->name, sizeof w->name, "%s", name);
    b->m->parameters += k * rows;
    if (!b->pack || !wants_pack(t, flags)) {
        b->m->mapped_bytes += dtype_row_bytes(t->type, k) * (usize)rows;
        return;
    }
    w->lay = LAYOUT_R8;
    b->pack_bytes += (weight_bytes(t->type, LAYOUT_R8, k, rows) + 63) / 64 * 64;
    if (!vec_grow((void **)&b->job, &b->cap_jobs, b->n_jobs + 1, sizeof *b->job)) b->bad = err_new(ERR_NOMEM, "out of memory while binding weights");
    else b->job[b->n_jobs].w = w, b->job[b->n_jobs++].rows = w->data;
}

static void bind(binder *b, model_weight *w, const char *name, i64 k, i64 n, int flags) { bind_rows(b, w, name, name, k, 0, n, n, flags); }

/* vectors of norms and biases are used as they are: they must be F32 */
static void bind_vector(binder *b, model_weight *w, const char *name, i64 k, int flags)
{
    bind(b, w, name, k, 1, flags);
    if (!b->bad.code && w->data && w->type != F32) b->bad = err_new(ERR_UNSUPPORTED, "%s: %s is %s, expected f32", b->m->path, name, dtype_table[w->type].name);
}

/* q, k and v are rows of one tensor there, one after another, and so are their biases */
static void bind_fused(binder *b, layer_weights *w, i64 i)
{
    const hparams *h = &b->m->h;
    i64            q = h->n_head * h->head_dim, kv = h->n_kv_head * h->head_dim, from = 0;
    model_weight  *part[] = {&w->q, &w->k, &w->v}, *bias[] = {&w->q_b, &w->k_b, &w->v_b};
    for (int p = 0; p < 3; from += p++ ? kv : q) {
        char name[64], in_file[64];
        snprintf(name, sizeof name, "blk.%d.attn_%c.weight", (int)i, "qkv"[p]);
        snprintf(in_file, sizeof in_file, "blk.%d.attn_qkv.weight", (int)i);
        bind_rows(b, part[p], name, in_file, h->width, from, p ? kv : q, q + 2 * kv, NEED | PACK);
        snprintf(name, sizeof name, "blk.%d.attn_%c.bias", (int)i, "qkv"[p]);
        snprintf(in_file, sizeof in_file, "blk.%d.attn_qkv.bias", (int)i);
        const file_tensor *t = file_tensor_find(b->m->file, str_of(in_file));
        if (!t || b->bad.code) continue;
        if (t->type != F32 || t->n[0] != q + 2 * kv || t->n[1] != 1) {
            b->bad = err_new(ERR_FORMAT, "%s: %s is not %lld values of f32", b->m->path, in_file, (long long)(q + 2 * kv));
            return;
        }
        *bias[p] = (model_weight){.type = F32, .k = p ? kv : q, .n = 1, .data = (float *)(uintptr_t)t->data + from};
        snprintf(bias[p]->name, sizeof bias[p]->name, "%.47s", name);
        b->m->parameters += bias[p]->k;
    }
}

static void bind_layer(binder *b, i64 i)
{
    const hparams  *h = &b->m->h;
    layer_weights  *w = &b->m->layers[i];
    const arch_row *a = b->m->arch;
    i64             q = h->n_head * h->head_dim, kv = h->n_kv_head * h->head_dim, d = h->width;
    char            name[64];
#define NAME(s) (snprintf(name, sizeof name, "blk.%d." s, (int)i), name)
    if (a->fused) {
        bind_fused(b, w, i);
    } else {
        bind(b, &w->q, NAME("attn_q.weight"), d, q, NEED | PACK);
        bind(b, &w->k, NAME("attn_k.weight"), d, kv, NEED | PACK);
        bind(b, &w->v, NAME("attn_v.weight"), d, kv, NEED | PACK);
        bind_vector(b, &w->q_b, NAME("attn_q.bias"), q, 0);
        bind_vector(b, &w->k_b, NAME("attn_k.bias"), kv, 0);
        bind_vector(b, &w->v_b, NAME("attn_v.bias"), kv, 0);
    }
    bind(b, &w->o, NAME("attn_output.weight"), q, d, NEED | PACK);
    bind_vector(b, &w->o_b, NAME("attn_output.bias"), d, 0);
    bind(b, &w->up, NAME("ffn_up.weight"), d, h->n_ff, NEED | PACK);
    bind(b, &w->down, NAME("ffn_down.weight"), h->n_ff, d, NEED | PACK);
    bind_vector(b, &w->up_b, NAME("ffn_up.bias"), h->n_ff, 0);
    bind_vector(b, &w->down_b, NAME("ffn_down.bias"), d, 0);
    if (a->encoder) {
        bind_vector(b, &w->attn_post, NAME("attn_output_norm.weight"), d, NEED);
        bind_vector(b, &w->attn_post_b, NAME("attn_output_norm.bias"), d, NEED);
        bind_vector(b, &w->ff_post, NAME("layer_output_norm.weight"), d, NEED);
        bind_vector(b, &w->ff_post_b, NAME("layer_output_norm.bias"), d, NEED);
        return;
    }
    bind_vector(b, &w->attn_norm, NAME("attn_norm.weight"), d, NEED);
    bind_vector(b, &w->ff_norm, NAME("ffn_norm.weight"), d, NEED);
    if (a->layer_norm) {
        bind_vector(b, &w->attn_norm_b, NAME("attn_norm.bias"), d, NEED);
        bind_vector(b, &w->ff_norm_b, NAME("ffn_norm.bias"), d, NEED);
    }
    if (!a->ungated) bind(b, &w->gate, NAME("ffn_gate.weight"), d, h->n_ff, NEED | PACK);
    bind_vector(b, &w->q_norm, NAME("attn_q_norm.weight"), h->head_dim, a->qk_norm ? NEED : 0);
    bind_vector(b, &w->k_norm, NAME("attn_k_norm.weight"), h->head_dim, a->qk_norm ? NEED : 0);
    bind_vector(b, &w->attn_post, NAME("post_attention_norm.weight"), d, a->post_norm ? NEED : 0);
    bind_vector(b, &w->ff_post, NAME("post_ffw_norm.weight"), d, a->post_norm ? NEED : 0);
#undef NAME
}

static void bind_all(binder *b)
{
    model   *m = b->m;
    hparams *h = &m->h;
    bool     tied = !m->arch->encoder && !file_tensor_find(m->file, S("output.weight"));
    bind(b, &m->embed, "token_embd.weight", h->width, -1, NEED | (tied ? PACK : 0));
    h->n_vocab = m->embed.n;
    for (i64 i = 0; i < h->n_layer; i++) bind_layer(b, i);
    if (m->arch->encoder) {
        bind_vector(b, &m->embed_norm, "token_embd_norm.weight", h->width, NEED);
        bind_vector(b, &m->embed_norm_b, "token_embd_norm.bias", h->width, NEED);
        bind(b, &m->types, "token_types.weight", h->width, -1, 0);
        if (!b->bad.code && m->types.data && m->types.type != F32) b->bad = err_new(ERR_UNSUPPORTED, "%s: token_types.weight is %s, expected f32", m->path, dtype_table[m->types.type].name);
        bind(b, &m->positions, "position_embd.weight", h->width, -1, NEED);
        if (!b->bad.code && m->positions.n < 3) b->bad = err_new(ERR_FORMAT, "%s: position_embd.weight has %lld positions, expected at least 3", m->path, (long long)m->positions.n);
        h->n_types = m->types.n;
        h->n_ctx = i64_min(h->n_ctx, m->positions.n);
        return;
    }
    if (!tied) bind(b, &m->head, "output.weight", h->width, h->n_vocab, NEED | PACK);
    bind_vector(b, &m->out_norm, "output_norm.weight", h->width, NEED);
    if (m->arch->layer_norm) bind_vector(b, &m->out_norm_b, "output_norm.bias", h->width, NEED);
    if (m->arch->learned) {
        bind(b, &m->positions, "position_embd.weight", h->width, -1, NEED);
        h->n_ctx = i64_min(h->n_ctx, i64_max(m->positions.n, 1));
        return;
    }
    bind_vector(b, &m->rope_factors, "rope_freqs.weight", h->rope_dims / 2, 0);
}

typedef struct {
    const binder *b;
} pack_ctx;

static void pack_part(void *ctx, int thread, int n_threads)
{
    const binder *b = ((pack_ctx *)ctx)->b;
    for (usize i = 0; i < b->n_jobs; i++) {
        model_weight *w = b->job[i].w;
        i64           from, to;
        part((w->n + 7) / 8, thread, n_threads, &from, &to);
        weight_pack(w->type, w->lay, w->k, w->n, b->job[i].rows, w->data, from, to);
    }
}

static err pack_all(binder *b, pool *threads)
{
    if (!b->n_jobs) return OK;
    u8 *at = b->m->packed = mem_alloc(b->pack_bytes);
    if (!at) return err_new(ERR_NOMEM, "%s: out of memory for %zu bytes of weights", b->m->path, b->pack_bytes);
    b->m->packed_bytes = b->pack_bytes;
    for (usize i = 0; i < b->n_jobs; i++) {
        model_weight *w = b->job[i].w;
        w->data = at;
        at += (weight_bytes(w->type, w->lay, w->k, w->n) + 63) / 64 * 64;
    }
    pack_ctx x = {b};
    if (threads) pool_run(threads, pack_part, &x);
    else pack_part(&x, 0, 1);
    return OK;
}

err weights_bind(model *m, pool *threads, bool pack)
{
    binder b = {.m = m, .pack = pack};
    m->layers = mem_array(layer_weights, m->h.n_layer);
    if (!m->layers) return err_new(ERR_NOMEM, "out of memory for %lld layers", (long long)m->h.n_layer);
    bind_all(&b);
    if (!b.bad.code) b.bad = pack_all(&b, threads);
    if (!b.bad.code && !m->head.data && !m->arch->encoder) m->head = m->embed;
    mem_free(b.job);
    return b.bad;
}
