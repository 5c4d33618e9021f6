/* tensor/tensor.h - write a computation down once; check it, differentiate it, plan its memory, replay it.
 *
 *     graph  *g   = graph_new();
 *     tensor *ids = input(g, I32, (shape){{n}}, "ids");
 *     tensor *out = decoder(g, model, ids);             // straight-line maths, no error checks
 *     if (training) graph_grad(g, loss);                // gradient nodes are appended to the same graph
 *     TRY(plan_new(&p, g, ws, roots, n_roots));         // every shape, type and memory error surfaces here
 *     for (;;) { TRY(tensor_put(p, ids, src)); TRY(plan_run(p)); TRY(tensor_get(p, out, dst)); }
 *
 * Rules. (1) One op, one output; ops that compute several pack them and views take them apart. (2) Whatever changes from
 * step to step (tokens, positions, KV slots, sequence ends, adapter slots) is data in an I32 tensor, never a shape, so one
 * plan serves every step of a batch size; rows of one plan may belong to different sequences. (3) A failed builder call
 * marks the graph, later calls return NULL-safe dead nodes, plan_new returns the first error. (4) Nodes live in the graph,
 * values in the workspace, weights with their owner. Nothing allocates while running. (5) Results do not depend on the
 * number of threads, nor, for one kind of arithmetic, on the instruction set or on which other rows are in the batch.
 * Shapes: n[0] is the row (contiguous). Float arithmetic is F32; F64 graphs run by the reference kernels (gradient checks). */
#ifndef MARU_TENSOR_H
#define MARU_TENSOR_H
#include "base/base.h"

/* ---- block formats (dtype.c: decode and encode; sources: ggml's published layouts) ------------------------------------ */
typedef enum { F32, F16, BF16, F64, I32, Q8_0, Q4_0, Q4_1, Q5_0, Q4_K, Q6_K, Q5_1, Q5_K, Q3_K, Q2_K, IQ4_NL, IQ4_XS, MXFP4, DTYPE_COUNT } dtype;
typedef struct {
    const char *name;                       /* "q4_k", as CLI and JSON write it */
    int   gguf;                             /* ggml_type number, -1: not in files */
    int   block, bytes;                     /* values and bytes of a block */
    bool  quantised;
    void (*decode)(const void *src, float *dst, i64 n);   /* n a multiple of block */
    void (*encode)(const float *src, void *dst, i64 n);   /* a row without importances, as weight_encode; NULL for I32 */
} dtype_info;
extern const dtype_info dtype_table[DTYPE_COUNT];
dtype dtype_of_gguf(u32 ggml_type);         /* DTYPE_COUNT when unknown */
static inline usize dtype_row_bytes(dtype t, i64 n) { return (usize)(n / dtype_table[t].block) * (usize)dtype_table[t].bytes; }
float f16_to_f32(u16);
u16   f32_to_f16(float);                    /* nearest even; overflow to infinity */
static inline float bf16_to_f32(u16 b) { union { u32 u; float f; } x = {(u32)b << 16}; return x.f; }
u16   f32_to_bf16(float);

/* ---- a weight is {type, layout} (weight.c) ----------------------------------------------------------------------------
 * LAYOUT_ROWS: n rows of k values as files have them (mapped). LAYOUT_R8: groups of 8 rows interleaved, so that one vector
 * lane is one row and sums run in the same order on every instruction set; n is padded to a multiple of 8 by zero rows.
 * Every layout has a decoder to float, so whatever kernels prefer, training and embedding read the same weights. */
typedef enum { LAYOUT_ROWS, LAYOUT_R8, LAYOUT_COUNT } layout;
bool  weight_packs(dtype, layout);          /* this type has this layout */
usize weight_bytes(dtype, layout, i64 k, i64 n);
void  weight_pack(dtype, layout, i64 k, i64 n, const void *rows, void *dst, i64 group_from, i64 group_to); /* groups of 8 rows; ranges may run in parallel */
void  weight_decode(dtype, layout, i64 k, const void *w, i64 row, i64 n_rows, float *dst); /* dst [k, n_rows] */
void  weight_decode_part(dtype, layout, i64 k, const void *w, i64 row, i64 k_from, i64 n, float *dst); /* of one row; whole blocks */
/* n_rows rows of src [k, n_rows] as files have them (LAYOUT_ROWS), to the byte what ggml's published quantisers write. importance
 * [k] (>= 0: mean square of the activations that meet this column) or NULL; F16, BF16, Q8_0, MXFP4 do not weigh. A row depends on
 * nothing but itself: rows may be encoded in any pieces, in parallel. INPUT when k is no multiple of the block or the type is I32. */
err   weight_encode(dtype, i64 k, i64 n_rows, const float *src, const float *importance, void *dst);
typedef struct { double error, power, weighted_error, weighted_power; } weight_loss; /* sums of squares of x - y and of x, and both times w */
void  weight_loss_add(i64 n, const float *x, const float *y, const float *w, weight_loss *); /* w [n] or NULL; one order of additions on every level */

/* ---- nodes ------------------------------------------------------------------------------------------------------------ */
typedef enum {
#define OP(id, min_src, max_src, check, grad, ref) OP_##id,
#include "tensor/ops.def"
#undef OP
    OP_COUNT
} op_id;
typedef struct { i64 n[4]; } shape;         /* unset (0) extents count as 1 */
typedef union { float f[8]; i32 i[8]; } op_arg;
enum { T_PARAM = 1 /* wants a gradient */, T_KEEP = 2 /* value outlives the run until the next */, T_AUX = 8, T_INPUT = 16 /* tensor/ only */ };
typedef struct tensor tensor;
struct tensor {                             /* read freely outside tensor/, written only inside */
    op_id   op;
    dtype   type;
    layout  lay;
    u32     flags;
    i64     n[4], stride[4];                /* extents; strides in bytes (LAYOUT_ROWS; stride[0] = one element or block) */
    tensor *src[6];
    op_arg  arg;
    tensor *base;                           /* a view of base (KV_PUT too), or NULL */
    usize   offset;                         /* of a view, in bytes */
    tensor *aux;                            /* statistics saved for this op's own gradient, or NULL */
    tensor *grad;                           /* filled by graph_grad for every T_PARAM it reached */
    void   *data;                           /* leaves with an owner: his memory; others: bound by the plan */
    char    name[48];
    i32     id;
};
typedef struct graph graph;
typedef struct plan plan;
typedef struct workspace workspace;
static inline i64 tensor_rows(const tensor *t) { return t->n[1] * t->n[2] * t->n[3]; }
static inline i64 tensor_count(const tensor *t) { return t->n[0] * tensor_rows(t); }

/* ---- build ------------------------------------------------------------------------------------------------------------ */
graph  *graph_new(void);
void    graph_free(graph *);
err     graph_error(const graph *);
tensor *graph_fail(graph *, const char *fmt, ...) PRINTF(2, 3);       /* keeps the first message; returns a dead node */
tensor *input(graph *, dtype, shape, const char *name);               /* filled by tensor_put before each run */
tensor *weight(graph *, dtype, layout, shape, void *data, const char *name); /* memory of the owner, valid while plans run */
tensor *param(graph *, shape, float *data, const char *name);         /* an F32 weight with T_PARAM (F64 when data is a double graph's: see graph_use_double) */
void    graph_use_float(graph *);                                     /* matmuls made from now on take activations as floats whatever the weight: training. Else 8-bit blocks where kernels have them */
void    graph_use_double(graph *);                                    /* float inputs and params made from now on are F64 */
tensor *named(tensor *, const char *fmt, ...) PRINTF(2, 3);
tensor *keep(tensor *);                                               /* sets T_KEEP */

/* views: no work, share memory */
tensor *reshape(graph *, tensor *, shape);                            /* contiguous only */
tensor *view(graph *, tensor *, shape, const i64 stride[4], usize offset); /* strides and offset in bytes, must lie inside */
tensor *slice(graph *, tensor *, int axis, i64 from, i64 n);
/* ops; each formula, check and gradient stands in the op_*.c that ops.def names */
tensor *copy(graph *, tensor *, dtype);                               /* contiguous, converted */
tensor *embed(graph *, tensor *table, tensor *ids);                   /* table [d,v] any type, ids I32 [m] -> [d,m]; -1: zeros. Also gathers rows of activations */
tensor *matmul(graph *, tensor *x, tensor *w);                        /* x [k,m], w [k,n] any type and layout -> [n,m] */
tensor *matmul_add(graph *, tensor *x, tensor *w, tensor *plus);      /* plus [n,m] + w x; of one pass where a graph asks for floats */
tensor *matmul_slot(graph *, tensor *x, tensor *w, tensor *slot);     /* w [k,n,s]; row r uses matrix slot[r] (I32 [m]), -1: zeros. Adapters, experts */
tensor *add(graph *, tensor *a, tensor *b);                           /* b's extents equal a's or are 1 */
tensor *mul(graph *, tensor *a, tensor *b);
tensor *scale(graph *, tensor *, float);
tensor *sum_to(graph *, tensor *, shape);                             /* sums over extents that become 1 */
tensor *repeat(graph *, tensor *, shape);
tensor *concat(graph *, tensor *a, tensor *b, int axis);
typedef enum { NORM_RMS, NORM_LAYER, NORM_L2 } norm_kind;
tensor *norm(graph *, tensor *x, tensor *w, tensor *b, norm_kind, float eps); /* over n[0]; w,b [n0] or NULL */
typedef struct { int dims; bool neox /* pairs (i, i+dims/2), else (2i, 2i+1) */; float theta, scale; } rope_arg; /* angle = pos * scale * theta^(-2i/dims) / factors[i] */
tensor *rope(graph *, tensor *x, tensor *pos, tensor *factors, rope_arg);     /* x [hd,heads,m], pos I32 [m], factors F32 [dims/2] or NULL */
tensor *kv_put(graph *, tensor *cache, tensor *rows, tensor *slots);  /* cache [d,S] F16 or F32, rows [d,m], slots I32 [m], -1: skipped; result is the cache */
typedef struct { float scale, softcap /* 0: none */; int window /* 0: none; else a row sees at most its last `window` keys */, page /* positions per KV page */; } attend_arg;
/* q [hd,heads,m]; k,v [hd,kv_heads,S]; span I32 [3,m]: {sequence, first, end}: the row sees key positions [first,end) of its
 * sequence (end <= first: zeros). With pages I32 [max_pages,n_seq] position p lies in slot pages[p/page,sequence]*page + p%page;
 * without (NULL) slot = p: keys are rows of this batch. -> [hd,heads,m] */
tensor *attend(graph *, tensor *q, tensor *k, tensor *v, tensor *span, tensor *pages, attend_arg);
typedef enum { ACT_SILU, ACT_GELU /* exact, erf */, ACT_GELU_TANH, ACT_RELU, ACT_TANH, ACT_SIGMOID } act_kind;
tensor *act(graph *, tensor *, act_kind);
tensor *glu(graph *, tensor *gate, tensor *up, act_kind);             /* act(gate) * up */
tensor *softmax(graph *, tensor *);                                   /* over n[0] */
tensor *xent(graph *, tensor *logits, tensor *want);                  /* logits [v,m], want I32 [m] -> [1,m]: -ln p(want); want -1: 0 */
tensor *dropout(graph *, tensor *x, tensor *key, float p, u32 site);  /* 0 with probability p, else x / (1 - p); key I32 [2] {seed, step}; the mask is a hash of (key, site, index) */
/* The head, its loss and its gradient by chunks of rows (0: chosen): logits of all rows never exist, and rows with want -1 cost
 * nothing. x [k,m], w [k,n] any type and layout (always in float arithmetic; plain floats if trained), want I32 [m], weight [m]
 * -> [1]: sum of weight * -ln softmax(w x)[want]. lm_loss_rows: of that result, [1,m] losses of rows, unweighted, 0 where want
 * is -1; keep() and read them; they have no gradient. Logits with a softcap: matmul and xent. */
tensor *lm_loss(graph *, tensor *x, tensor *w, tensor *want, tensor *weight, i64 chunk);
tensor *lm_loss_rows(graph *, tensor *loss);
typedef enum { POOL_MEAN, POOL_FIRST, POOL_LAST } pool_kind;
tensor *pool_rows(graph *, tensor *x, tensor *span, pool_kind);       /* x [d,m], span I32 [2,s] {first,end} -> [d,s]; empty: zeros */
void    graph_grad(graph *, tensor *loss);                            /* loss [1]; appends the backward pass; UNSUPPORTED if an op on the way has none */
/* After graph_grad, once: trades time for memory. boundaries are values of the forward pass, in order (the residual stream after each
 * block); a segment reaches from one to the next, the first from the leaves. Gradients of the first n - keep_last segments read
 * copies of the segment's nodes, computed again right before them, so that of these segments only boundaries stay in memory
 * between the passes. Not a bit of any result changes. */
void    graph_recompute(graph *, tensor *const *boundaries, int n, int keep_last);

/* AdamW on n values: g by scale, p by keep, m += (g - m) first, v = v second + second_rest g^2, p -= size m / (sqrt(v) / root + eps) */
typedef struct { float scale, keep, first, second, second_rest, size, root, eps; } adam_rule;
void    adam_update(float *p, float *m, float *v, const float *g, i64 n, const adam_rule *);
double  sum_of_squares(const float *x, i64 n);

/* ---- plan and run ------------------------------------------------------------------------------------------------------ */
typedef struct backend backend;
err   backend_cpu(backend **, pool *);      /* kernels by cpu_now() at this moment; the pool is borrowed */
void  backend_close(backend *);
/* Scratch shared by the plans of one model: plans made on one workspace run one at a time, and only T_KEEP values and inputs of
 * a plan survive another plan's run. */
err   workspace_new(workspace **, backend *);
void  workspace_free(workspace *);          /* after its plans */
usize workspace_bytes(const workspace *);
err   plan_new(plan **, graph *, workspace *, tensor *const *roots, int n_roots); /* takes the graph over (freed by plan_free) even on failure; roots are kept */
usize plan_bytes(const plan *);             /* scratch + inputs + kept values, known before anything runs */
err   plan_run(plan *);
void  plan_free(plan *);
err   tensor_put(plan *, tensor *, const void *);                     /* whole tensor, contiguous */
err   tensor_get(plan *, const tensor *, void *);
const void *tensor_peek(plan *, const tensor *);                      /* CPU: borrowed values until the next run; NULL elsewhere */
typedef struct { const char *op; i64 calls; double seconds; } op_time;
typedef struct { double read_gbps, int8_gops, f32_gflops; } machine_limits; /* of the pool together */
void  machine_measure(pool *, machine_limits *);                      /* about a second: memory read, 8-bit and float multiply-add rates of the level in force */
int   plan_profile(plan *, op_time *out, int max);                    /* since MARU_PROFILE=1 was set at start; rows by time */
#endif
