/* model/packing.c - sequences of any length one after another in the rows of one batch: no padding between them, and spans that keep
 * them apart. What training, features and label scores run on; serving has pages instead (engine/sched.c). */
#include "model/model.h"

struct packing {
    const model *m;
    plan        *p;
    i64          rows, seqs, n_prompt, n_prefix;
    bool         encoder;
    i32         *id, *pos, *soft, *span, *seq_span, *key, *want; /* [rows] [rows] [rows] [3,rows] [2,seqs] [n_prefix*seqs+rows] [rows or seqs] */
    float       *weight;                                         /* [rows or seqs] */
    loss_kind    loss;
};

static i64 length_of(const trained_set *set, trained_kind kind, const char *name)
{
    const trained *t = trained_find(set, kind, name);
    return t ? t->n : 0;
}

i64 packing_overhead(const trained_set *set) { return length_of(set, TRAIN_PROMPT, ""); }

static err room(packing *k, const batch_shape *s)
{
    i64 keys = k->n_prefix * s->seqs + s->rows, most = s->rows > s->seqs ? s->rows : s->seqs;
    k->id = mem_array(i32, 6 * s->rows + 2 * s->seqs + keys + most);
    k->weight = mem_array(float, most);
    if (!k->id || !k->weight) return err_new(ERR_NOMEM, "out of memory for a batch of %lld rows", (long long)s->rows);
    k->pos = k->id + s->rows, k->soft = k->pos + s->rows, k->span = k->soft + s->rows;
    k->seq_span = k->span + 3 * s->rows, k->key = k->seq_span + 2 * s->seqs, k->want = k->key + keys;
    return OK;
}

/* the graph with its gradients; of the first s->recompute blocks only the outputs are kept between the passes */
static err build(const model *m, graph *g, batch_shape s, bool grad, model_io *io)
{
    i64 n = m->h.n_layer;
    tensor **blocks = s.blocks;
    bool again = grad && s.recompute > 0;
    if (again && !blocks && !(s.blocks = mem_array(tensor *, n))) return err_new(ERR_NOMEM, "out of memory for a batch");
    if (grad || s.loss || s.exact) graph_use_float(g); /* exact gradients; what only scores is computed as it is served */
    if (m->arch->encoder) encoder_build(g, m, &s, io);
    else decoder_build(g, m, NULL, &s, io);
    if (grad && io->loss) graph_grad(g, io->loss);
    if (again) graph_recompute(g, s.blocks, (int)n, (int)(n - i64_min(s.recompute, n)));
    if (s.blocks != blocks) mem_free(s.blocks);
    return OK;
}

static int roots_of(const batch_shape *s, const model_io *io, tensor **root)
{
    int n = 0;
    for (i64 i = 0; i < s->features; i++) root[n++] = io->feature[i];
    if (io->loss) root[n++] = io->loss, root[n++] = io->nll;
    if (io->scores) root[n++] = io->scores;
    if (s->outs && io->logits) root[n++] = io->logits;
    if (!n) root[n++] = io->hidden;
    return n;
}

err packing_open(packing **out, const model *m, workspace *ws, const batch_shape *s, bool grad, model_io *io)
{
    *out = NULL;
    packing *k = mem_zero(sizeof *k);
    graph   *g = graph_new();
    tensor  *root[16];
    if (!k || !g) {
        mem_free(k);
        graph_free(g);
        return err_new(ERR_NOMEM, "out of memory for a batch");
    }
    *k = (packing){.m = m, .rows = s->rows, .seqs = s->seqs, .encoder = m->arch->encoder, .loss = s->loss};
    k->n_prompt = length_of(s->train, TRAIN_PROMPT, ""), k->n_prefix = length_of(s->train, TRAIN_PREFIX_K, "blk.0");
    err bad = room(k, s);
    if (!bad.code) bad = build(m, g, *s, grad, io);
    if (bad.code) graph_free(g);
    else bad = plan_new(&k->p, g, ws, root, roots_of(s, io, root));
    if (bad.code) packing_close(k);
    else *out = k;
    return bad;
}

void packing_close(packing *k)
{
    if (!k) return;
    plan_free(k->p);
    mem_free(k->id);
    mem_free(k->weight);
    mem_free(k);
}

plan *packing_plan(packing *k) { return k->p; }

static err too_much(const packing *k, const packed_seq *q, int n)
{
    i64 rows = 0;
    for (int i = 0; i < n; i++) rows += k->n_prompt + q[i].n;
    return err_new(ERR_INPUT, "%d sequences of %lld rows in a batch for %lld and %lld", n, (long long)rows, (long long)k->seqs, (long long)k->rows);
}

/* rows of one sequence from `row` on; its keys from `key` on */
static void put_seq(packing *k, const packed_seq *q, int s, i64 *row, i64 *key)
{
    i64 first = *row, key_first = *key, n = k->n_prompt + q->n;
    for (i64 i = 0; i < k->n_prefix; i++) k->key[(*key)++] = (i32)i;
    for (i64 i = 0; i < n; i++, (*row)++) {
        i64 r = *row, t = i - k->n_prompt;
        k->id[r] = t < 0 ? -1 : q->id[t];
        k->soft[r] = t < 0 ? (i32)i : -1;
        k->pos[r] = (i32)(k->n_prefix + i);
        k->key[(*key)++] = (i32)(k->n_prefix + r);
        k->span[3 * r] = s, k->span[3 * r + 1] = (i32)key_first, k->span[3 * r + 2] = (i32)*key;
        if (k->loss == LOSS_TOKENS) {
            k->want[r] = t < 0 || !q->want ? -1 : q->want[t];
            k->weight[r] = t < 0 || !q->weight ? 0 : q->weight[t];
        }
    }
    for (i64 r = first; k->encoder && r < *row; r++) k->span[3 * r + 2] = (i32)*key;
    k->seq_span[2 * s] = (i32)first, k->seq_span[2 * s + 1] = (i32)*row;
}

static err put_all(packing *k, const model_io *io)
{
    TRY(tensor_put(k->p, io->ids, k->id));
    TRY(tensor_put(k->p, io->pos, k->pos));
    TRY(tensor_put(k->p, io->span, k->span));
    if (io->soft_ids) TRY(tensor_put(k->p, io->soft_ids, k->soft));
    if (io->seq_span) TRY(tensor_put(k->p, io->seq_span, k->seq_span));
    if (io->key_rows) TRY(tensor_put(k->p, io->key_rows, k->key));
    if (io->want) TRY(tensor_put(k->p, io->want, k->want));
    return io->weight ? tensor_put(k->p, io->weight, k->weight) : OK;
}

err packing_put(packing *k, const model_io *io, const packed_seq *q, int n)
{
    i64 row = 0, key = 0, total = 0;
    for (int i = 0; i < n; i++) total += k->n_prompt + q[i].n;
    if (n > k->seqs || total > k->rows) return too_much(k, q, n);
    for (int s = 0; s < n; s++) {
        put_seq(k, &q[s], s, &row, &key);
        if (k->loss == LOSS_CLASSES) k->want[s] = q[s].klass, k->weight[s] = q[s].counts;
    }
    for (; row < k->rows; row++) { /* padding: at the end only */
        k->id[row] = k->soft[row] = -1;
        k->pos[row] = k->span[3 * row] = k->span[3 * row + 1] = k->span[3 * row + 2] = 0;
        if (k->loss == LOSS_TOKENS) k->want[row] = -1, k->weight[row] = 0;
    }
    for (i64 s = n; s < k->seqs; s++) {
        k->seq_span[2 * s] = k->seq_span[2 * s + 1] = 0;
        if (k->loss == LOSS_CLASSES) k->want[s] = -1, k->weight[s] = 0;
    }
    for (i64 total_keys = k->n_prefix * k->seqs + k->rows; key < total_keys; key++) k->key[key] = -1;
    return put_all(k, io);
}
