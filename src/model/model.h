/* model/model.h - files -> weights -> graphs. The only folder that knows architecture names, metadata keys and tensor names.
 * A model is immutable after model_open and may be shared by threads; graphs built from it borrow its weights. */
#ifndef MARU_MODEL_H
#define MARU_MODEL_H
#include "base/base.h"
#include "tensor/tensor.h"
#include "text/text.h"
#include "model/file.h"
#include "model/pull.h"

/* One row per architecture (arch.c): what the one decoder and the one encoder have to know. */
typedef struct {
    const char *name;                       /* general.architecture */
    bool        encoder;
    bool        neox;                       /* rotation pairs (i, i+dims/2) */
    bool        qk_norm;                    /* q and k normalised per head before rotation */
    bool        post_norm;                  /* a norm after attention and after the feed-forward part too */
    bool        scale_embedding;            /* by sqrt(width) */
    bool        learned;                    /* a learned vector for each position instead of rotation */
    bool        layer_norm;                 /* norms take the mean out and have biases; else RMS */
    bool        ungated;                    /* the feed-forward part is down(act(up x)) */
    bool        fused;                      /* the file has one attn_qkv: its rows are bound as q, k, v */
    act_kind    act;
    int         global_every;               /* every n-th layer sees everything, the others a window; 0: all do */
    float       local_theta;                /* rotation base of windowed layers when the file has none */
    const char *default_pre;                /* pre-tokenizer when the file names none, or NULL */
} arch_row;

typedef struct { /* as the file says, checked; units: counts */
    i64   n_layer, width, n_head, n_kv_head, head_dim, n_ff, n_vocab, n_ctx, window, rope_dims, n_types;
    float eps, theta, local_theta, rope_scale, attn_scale, softcap_attn, softcap_logits;
    bool  causal;
    pool_kind pooling;
} hparams;

typedef struct { /* one weight matrix or vector: {type, layout} and its memory */
    dtype  type;
    layout lay;
    i64    k, n;
    void  *data;                            /* mapped or packed; NULL: the model has none */
    char   name[48];
} model_weight;
typedef struct {
    model_weight attn_norm, attn_norm_b, q, k, v, q_b, k_b, v_b, o, o_b, q_norm, k_norm, attn_post, attn_post_b;
    model_weight ff_norm, ff_norm_b, gate, up, up_b, down, down_b, ff_post, ff_post_b;
} layer_weights;
typedef struct {
    char            *path;
    const arch_row  *arch;
    hparams          h;
    model_weight     embed, types, positions, embed_norm, embed_norm_b, out_norm, out_norm_b, head, rope_factors;
    layer_weights   *layers;                /* [n_layer] */
    tokenizer       *tok;
    chat_template   *chat;                  /* NULL: the file has none, or it could not be parsed (chat_error) */
    char            *chat_source, *chat_error;
    char            *query_prefix, *passage_prefix; /* what an embedder wants in front; "" when nothing */
    model_file      *file;
    i64              parameters;
    usize            file_bytes, packed_bytes, mapped_bytes; /* packed: copies made for the kernels; mapped: weights used where they are */
    sha256           id;                    /* of the file's head and size: names a model in stores and caches */
    void            *packed;
} model;

/* Opens a GGUF, or a Hugging Face folder (config.json, safetensors, tokenizer.json), whose tensors then have GGUF's names. Weights
 * that the kernels prefer interleaved are packed in parallel on `threads`; the rest stays mapped. Errors: NOTFOUND, FORMAT (which tensor or key, found, expected), UNSUPPORTED (architecture, type, tokenizer by name), NOMEM. */
err  model_open(model **, const char *path, pool *threads);
err  model_open_tokenizer(model **, const char *path); /* tokenizer and template only: weights may be absent or unknown */
void model_close(model *);
usize model_kv_bytes_per_token(const model *, dtype);

/* ---- graphs ---- */
enum { KV_PAGE = 32 };                      /* positions per KV page */
typedef struct {                            /* one per engine: K and V of every layer, [n_kv_head*head_dim, slots] each */
    dtype type;                             /* F16, or F32 in reference mode */
    i64   n_pages;
    void **k, **v;                          /* [n_layer] */
} kv_cache;
err  kv_cache_new(kv_cache **, const model *, i64 n_pages, dtype);
void kv_cache_free(kv_cache *);

/* Adapters are low-rank pairs per weight, several at once in slots: y += b[slot] (a[slot] x), scale folded into b. */
typedef struct { char name[48]; i64 rank; float *a, *b; } adapter_pair; /* a [k, rank, n_slots], b [rank, n, n_slots] */
typedef struct { adapter_pair *pair; usize n; i64 n_slots; } adapter_set;

/* What is trained: float matrices in place of a model's weights or beside them. Each is a leaf that wants a gradient; nothing
 * else about a graph changes with the way of training. */
typedef enum {
    TRAIN_WEIGHT,                           /* replaces the weight of that name; "output.weight" also unties a tied head */
    TRAIN_A, TRAIN_B,                       /* a low-rank pair beside it: y += scale b (a drop(x)); a [k,rank], b [rank,n] */
    TRAIN_PROMPT,                           /* given vectors [width,n] in front of each sequence */
    TRAIN_PREFIX_K, TRAIN_PREFIX_V,         /* of one layer ("blk.N"), keys already rotated: [n_kv_head*head_dim, n] */
    TRAIN_CLASSES, TRAIN_CLASSES_B          /* a classifier [width,n] and its bias [n] over the rows that seq_span pools */
} trained_kind;
typedef struct {
    trained_kind kind;
    char   name[48];
    i64    k, n;
    float *data;                            /* [k,n], somebody else's */
    float  scale, dropout;                  /* of a pair: stand on its A */
    tensor *leaf;                           /* in the graph that was built last */
} trained;
typedef struct { trained *t; usize n; } trained_set;
trained *trained_find(const trained_set *, trained_kind, const char *name); /* NULL when it is not trained */
typedef enum { LOSS_NONE, LOSS_TOKENS /* next token */, LOSS_CLASSES } loss_kind;

typedef struct {
    i64  rows;                              /* tokens of the batch, padding included */
    i64  outs;                              /* rows whose logits are wanted; 0: no head */
    i64  seqs, max_pages;                   /* sequences; pages a sequence can have (decoder with a cache) */
    i64  soft;                              /* given vectors among the rows (soft prompts); 0: none */
    const adapter_set *adapters;            /* or NULL */
    trained_set *train;                     /* or NULL; leaves are written into it */
    bool exact;                             /* float arithmetic whatever the weights, as losses have it */
    loss_kind loss;
    bool learn;                             /* dropout acts */
    i64  chunk;                             /* rows of logits at once in LOSS_TOKENS; 0: chosen */
    i64  recompute;                         /* with gradients: the first n blocks are computed again instead of kept */
    i64  features;                          /* outputs of the last n blocks, pooled by `pool` over seq_span; 0: none, at most 4 */
    pool_kind pool;                         /* of features and classes */
    tensor **blocks;                        /* [n_layer] or NULL: filled with the outputs of the blocks */
    void (*product)(void *ctx, graph *, tensor *x, const char *weight_name); /* or NULL: sees x of each product while the graph is built */
    void *product_ctx;
} batch_shape;
typedef struct { /* inputs are I32; a padding row has id -1, slot -1, span {0,0,0} */
    tensor *ids;                            /* [rows] token ids, -1: none (padding or a given vector) */
    tensor *pos;                            /* [rows] */
    tensor *slots;                          /* [rows] KV slot to write (decoder) */
    tensor *span;                           /* [3,rows] {sequence, first, end}: see attend */
    tensor *pages;                          /* [max_pages,seqs] (decoder) */
    tensor *out_rows;                       /* [outs] */
    tensor *adapter;                        /* [rows] slot or -1; NULL without adapters */
    tensor *soft, *soft_ids;                /* [width,soft] F32; [rows] index into it or -1; NULL when soft = 0 */
    tensor *seq_span;                       /* [2,seqs] {first,end} rows of each sequence (encoder, features, classes) */
    tensor *key_rows;                       /* [n_prefix*seqs + rows], with a trained prefix: prefix vector i is i, row r is n_prefix + r; spans count these */
    tensor *want, *weight;                  /* of a loss, I32 and F32 [rows] ([seqs] for classes): target or -1; what it counts */
    tensor *drop_key;                       /* I32 [2] {seed,step}; NULL without dropout */
    tensor *hidden;                         /* out: [width,rows] after the last norm */
    tensor *logits;                         /* out: [n_vocab,outs], NULL when outs = 0 */
    tensor *pooled;                         /* out, encoder: [width,seqs] pooled and of unit length */
    tensor *feature[4];                     /* out: [width,seqs], the last block first */
    tensor *scores;                         /* out: [classes,seqs] before softmax */
    tensor *loss, *nll;                     /* out: [1] sum of weight * nll; [1, rows or seqs] of each, unweighted, 0 where want is -1 */
} model_io;
/* Errors stay in the graph. Without a cache (NULL) keys are rows of the batch: span counts rows, slots and pages are NULL; only such
 * graphs have gradients. */
void decoder_build(graph *, const model *, const kv_cache *, const batch_shape *, model_io *);
void encoder_build(graph *, const model *, const batch_shape *, model_io *);

/* ---- convert.c: GGUF and Hugging Face folders. A folder or file appears whole or not at all; a folder that is there is not touched. */
typedef struct { i64 tensors, widened /* quantised ones that became F32 */; } convert_report;
err model_convert(const char *in, const char *out, convert_report *); /* a folder -> GGUF, a GGUF -> folder */
err model_to_folder(const model *, const char *out, convert_report *);

/* ---- new.c: an untrained model (form "d=256,layers=6,...", or a preset; vocab: a file or NULL when the form names it), and a
 * vocabulary as a GGUF without tensors; end: the token that ends a text, -1: none ---- */
err model_new(const char *out, const char *arch, const char *form, const char *vocab, u64 seed, i64 *parameters);
err vocab_save(const char *out, const trained_vocab *, const char *pre, usize n_special, i64 end);

#include "model/adapter.h" /* adapters as files, merging, names of tensors */

/* ---- packing.c: sequences one after another in the rows of a batch, without a cache. One thread, as its workspace. ---- */
typedef struct {
    const i32   *id; i64 n;                 /* tokens */
    const i32   *want;                      /* [n] targets of LOSS_TOKENS, -1: none; NULL: none at all */
    const float *weight;                    /* [n] */
    i32          klass;                     /* of LOSS_CLASSES, -1: none */
    float        counts;
} packed_seq;
typedef struct packing packing;
/* Builds the graph of a shape (rows include the vectors of a trained prompt in front of each sequence) and plans it, with its gradients
 * when wanted; whatever of loss, nll, scores, logits (outs > 0), features there is stays readable after plan_run, else hidden. */
err   packing_open(packing **, const model *, workspace *, const batch_shape *, bool grad, model_io *);
void  packing_close(packing *);
plan *packing_plan(packing *);
err   packing_put(packing *, const model_io *, const packed_seq *, int n); /* all inputs but out_rows and drop_key; INPUT when they do not fit */
i64   packing_overhead(const trained_set *); /* rows that a sequence takes beside its tokens */
#endif
