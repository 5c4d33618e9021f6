/* model/loss.c - what stands behind the last block of either model when something is learned or measured: features of sequences,
 * a classifier, and the two losses. A loss is the sum over rows of weight * -ln p(target); whoever fills `weight` decides what it
 * is divided by, once, for a whole step. */
#include "model/linear.h"

tensor *head_of(builder *b, tensor *x)
{
    const hparams *h = &b->m->h;
    tensor *own = trained_leaf(b, TRAIN_WEIGHT, "output.weight"), *y;
    y = own ? matmul(b->g, x, own) : linear(b, x, &b->m->head, NULL);
    if (h->softcap_logits > 0) y = scale(b->g, act(b->g, scale(b->g, y, 1 / h->softcap_logits), ACT_TANH), h->softcap_logits);
    return y;
}

static void loss_inputs(builder *b, i64 n, model_io *io)
{
    io->want = input(b->g, I32, (shape){{n}}, "targets");
    io->weight = input(b->g, F32, (shape){{n}}, "weights of targets");
}

static void loss_of_logits(builder *b, tensor *logits, model_io *io)
{
    graph *g = b->g;
    i64 n = logits->n[1];
    io->nll = xent(g, logits, io->want);
    io->loss = named(sum_to(g, mul(g, reshape(g, io->nll, (shape){{n}}), io->weight), (shape){{1}}), "loss");
}

/* the head by chunks of rows, unless its logits go through a softcap first */
static void loss_of_tokens(builder *b, const batch_shape *s, tensor *x, model_io *io)
{
    tensor *own = trained_leaf(b, TRAIN_WEIGHT, "output.weight");
    loss_inputs(b, s->rows, io);
    if (b->m->h.softcap_logits > 0 || trained_find(b->train, TRAIN_A, b->m->head.name) || b->adapters) {
        loss_of_logits(b, head_of(b, x), io);
        return;
    }
    io->loss = named(lm_loss(b->g, x, own ? own : leaf_of(b, &b->m->head), io->want, io->weight, s->chunk), "loss");
    io->nll = keep(lm_loss_rows(b->g, io->loss));
}

static void classes_of(builder *b, const batch_shape *s, tensor *x, model_io *io)
{
    graph *g = b->g;
    tensor *w = trained_leaf(b, TRAIN_CLASSES, ""), *bias = trained_leaf(b, TRAIN_CLASSES_B, "");
    if (!w) {
        graph_fail(g, "a loss of classes needs a classifier");
        return;
    }
    io->scores = matmul(g, pool_rows(g, x, io->seq_span, s->pool), w);
    if (bias) io->scores = add(g, io->scores, bias);
    named(io->scores, "scores");
    loss_inputs(b, s->seqs, io);
    loss_of_logits(b, io->scores, io);
}

void tail_build(builder *b, const batch_shape *s, tensor *x, tensor *const *last, model_io *io)
{
    i64 n = b->m->h.n_layer;
    if ((s->features || s->loss == LOSS_CLASSES) && !io->seq_span)
        io->seq_span = input(b->g, I32, (shape){{2, s->seqs}}, "rows of each sequence");
    for (i64 i = 0; i < s->features; i++) {
        if (i >= n || i >= (i64)COUNT_OF(io->feature)) {
            graph_fail(b->g, "features of %lld blocks: the model has %lld, at most %zu can be had", (long long)s->features,
                       (long long)n, COUNT_OF(io->feature));
            return;
        }
        io->feature[i] = pool_rows(b->g, i ? last[i] : x, io->seq_span, s->pool);
    }
    if (s->loss == LOSS_TOKENS) loss_of_tokens(b, s, x, io);
    if (s->loss == LOSS_CLASSES) classes_of(b, s, x, io);
}
