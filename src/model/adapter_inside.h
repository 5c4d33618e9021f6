/* model/adapter_inside.h - what the adapter_*.c files say to each other: building an adapter tensor by tensor, binding it to a
 * model. */
#ifndef MARU_MODEL_ADAPTER_INSIDE_H
#define MARU_MODEL_ADAPTER_INSIDE_H
#include "model/model.h"
#include <jansson.h>

/* the weight of that name; NULL when the model has none. "output.weight" of a tied model is its embedding */
model_weight *adapter_weight(const model *, const char *name);
/* extents that a whole tensor of that name must have; -1: any ("score.weight": whole widths). False: no such tensor */
bool adapter_extents(const model *, const char *name, i64 *k, i64 *n);
bool adapter_fused(const model *, const char *name, model_weight *part[3]); /* "blk.3.attn_qkv.weight" of a model whose row says so: its three parts */
row_order adapter_key_order(const model *); /* of the values of a key, within a prefix */
bool adapter_pairs_with(const model *, const char *name, i64 *k, i64 *n); /* whether a low-rank pair can stand beside it */

/* memory in the adapter's arena: values to be filled by the caller */
err adapter_add_pair(adapter_file *, const char *name, i64 k, i64 n, i64 rank, float scale, low_rank **);
err adapter_add_whole(adapter_file *, const char *name, i64 k, i64 n, whole_tensor **);
err adapter_keep_text(adapter_file *, char **to, const char *text, usize n);
low_rank *adapter_pair_find(const adapter_file *, const char *name);

/* which of what it names is missing or foreign is told with `where`: the path */
err adapter_read_peft(adapter_file **, const char *folder, json_t *config, const model *);
err adapter_read_mlx(adapter_file **, const char *folder, json_t *config, const model *);
err adapter_read_gguf(adapter_file **, const char *path, const model *);
err adapter_read_whole(adapter_file *, const model_file *, const char *where, const model *, bool only); /* every tensor that is no part of a pair; only: the file has no others */
err adapter_read_tensor(const file_tensor *, const char *where, float *to); /* any float type */
err adapter_foreign(const char *where, const char *module, const char *base, const model *); /* the error of a tensor that does not bind */

/* flags (adapter_flags.c) */
typedef struct {
    i64     rank;
    double  alpha;
    bool    rslora;
    json_t *config; /* borrowed */
} lora_flags;
err adapter_check_flags(const json_t *config, const char *where, bool lora);
err adapter_lora_flags(json_t *config, const char *where, lora_flags *);
err adapter_rank_alpha(const lora_flags *, const char *where, const char *module, i64 *rank, double *alpha); /* the patterns applied */
err adapter_targets(const lora_flags *, const char *where, const char *module, bool *targeted);
#endif
