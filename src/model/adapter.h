/* model/adapter.h - adapters as files and in memory; included by the door model.h. What every way of tuning leaves behind: low-rank
 * pairs beside weights, whole tensors in place of weights, given vectors in front of a text, keys and values in front of it.
 *
 * Read: PEFT folders (LORA with rank and alpha patterns and use_rslora, PROMPT_TUNING, P_TUNING, PREFIX_TUNING, modules_to_save),
 * MLX folders, GGUF adapters, and what adapter_save wrote. Every tensor must bind to a weight of the model with its shape, every
 * module that target_modules names must be there, and a flag that changes what the numbers mean and is not known is refused by
 * name (UNSUPPORTED). In memory everything stands as the GGUF model has it: names ("blk.0.attn_q.weight"), order of rows (PEFT has
 * the rows of llama's q and k in another), k the contiguous extent. */
#ifndef MARU_MODEL_ADAPTER_H
#define MARU_MODEL_ADAPTER_H
#include "base/base.h"

typedef enum {
    ADAPTER_LORA,                           /* pairs, and whole tensors besides */
    ADAPTER_PROMPT,                         /* given vectors */
    ADAPTER_PREFIX,                         /* keys and values of each layer */
    ADAPTER_WEIGHTS                         /* whole tensors only: head, last layers, all, norms, a classifier */
} adapter_kind;
typedef struct { char name[48]; i64 k, n, rank; float scale /* alpha/r or alpha/sqrt(r) */, *a, *b; } low_rank; /* y += scale * b (a x); a [k,rank], b [rank,n] */
typedef struct { char name[48]; i64 k, n; float *data; } whole_tensor; /* [k,n]; "score.weight", "score.bias": a classifier's */
typedef struct { char *label, *words; } adapter_label; /* "부정" is told by the words " bad" */
typedef struct {
    adapter_kind kind;
    arena        *own;                      /* all that is below lies in it */
    low_rank     *pair; usize n_pairs, cap_pairs;
    whole_tensor *whole; usize n_whole, cap_whole;
    i64           n_prompt; float *prompt;  /* [width,n_prompt], as the first block takes them (after gemma's scaling) */
    i64           n_prefix; float **k, **v; /* [n_layer] of [n_kv_head*head_dim, n_prefix]; keys already rotated */
    char         *base_name;                /* what it says of its base model, or NULL */
    char         *way;                      /* as --train had it ("lora:16"), or NULL */
    char         *base_id, *chat_id;        /* hex of the base file's id and of its chat template's hash, or NULL */
    char         *text_form;                /* --template of classification ("리뷰: {text}\n감정:"), or NULL */
    adapter_label *label; usize n_labels;
    pool_kind     pool;                     /* of a classifier's rows */
} adapter_file;

err  adapter_new(adapter_file **, adapter_kind);
void adapter_free(adapter_file *);
err  adapter_load(adapter_file **, const char *path, const model *); /* a folder or a .gguf; warns when base or chat template differ from the model's */
/* A copy of what was trained (scales too). Fill way, text_form, label ... from `own` afterwards. */
err  adapter_of_trained(adapter_file **, const model *, const trained_set *);
/* PEFT folder (adapter_config.json, adapter_model.safetensors, F32) and maru.json with what PEFT has no field for. Files of the
 * folder appear whole, the configuration last. ADAPTER_WEIGHTS has no configuration: PEFT has no such kind. */
err  adapter_save(const adapter_file *, const char *folder, const model *);
err  adapter_save_gguf(const adapter_file *, const char *path, const model *); /* pairs only; scales become one alpha */

/* Whether a pattern of rank_pattern or alpha_pattern picks a module: it matches the whole name or its end after a dot. FORMAT: no regular expression. */
err  adapter_pattern(const char *pattern, const char *module, bool *yes);

/* ---- use. A mix is what works together in one request: pairs summed, prompts and prefixes one after another ---------------- */
typedef struct { const adapter_file *file; float scale; } adapter_use; /* scale of pairs; with anything else it must be 1 */
typedef struct { const adapter_use *use; int n; } adapter_mix;
err  adapter_mix_check(const adapter_mix *); /* INPUT when something without a scale was given one */
err  adapter_set_new(adapter_set **, const model *, const adapter_mix *, i64 n_mixes); /* slot i: mix i, ranks side by side, padded with zeros; n = 0 when there are no pairs. Owned */
void adapter_set_free(adapter_set *);
/* Whole tensors take the place of the model's, and are borrowed: free the adapter after the model. For whoever has just opened the
 * model and shares it with nobody yet. */
err  adapter_overlay(model *, const adapter_file *);
/* The same as a trained_set, for graphs without a cache (packing.c): evaluation, going on training. mix NULL: empty. Owned; the
 * values are the set's own (pairs, prompts) or borrowed from the adapters (whole tensors). */
err  adapter_trained_new(trained_set **, const model *, const adapter_mix *);
void adapter_trained_free(trained_set *);
/* Logits [n_vocab, n] of every token of a short text, in float arithmetic throughout. */
err  model_logits(const model *, const adapter_mix *, const i32 *tok, i64 n, pool *, float *logits);

/* ---- merging (merge.c) ------------------------------------------------------------------------------------------------------ */
typedef struct {
    double kld, max_abs_logit;              /* merged against unmerged, on a built-in text; kld: mean over its tokens, nats */
    i64    tokens, changed;                 /* tokens compared; tensors written anew */
    usize  bytes;
} merge_report;
/* Writes the model with the adapters in its weights, re-encoded in their own type, or in `type` (DTYPE_COUNT: their own): a GGUF when
 * the name ends in .gguf, else a new Hugging Face folder. INPUT above `limit` nats unless force: nothing is written then, the
 * report is filled all the same. */
err  adapter_merge(const model *, const adapter_mix *, const char *out, dtype type, double limit, bool force, pool *, merge_report *);

/* ---- names (names.c): Hugging Face's for GGUF's, of the architectures of arch.c --------------------------------------------- */
typedef enum { ORDER_SAME, ORDER_QUERY, ORDER_KEY /* llama: heads' rows (j,i) -> (i,j) */, ORDER_TURNED /* Conv1D: [k,n] stored as [n,k] */, ORDER_NORM /* gemma: w - 1 */ } row_order;
typedef struct { char name[48]; row_order order; } gguf_name;
typedef struct { char name[112]; row_order order; } hf_name;
bool names_from_hf(const char *arch, str hf, gguf_name *); /* "model.layers.3.self_attn.q_proj.weight", outer names of wrappers allowed */
bool names_to_hf(const char *arch, const char *gguf, hf_name *); /* as the usual model class has it: "model.layers.3..." */
const char *names_arch(str hf);             /* the architecture that such a name belongs to, known or not ("opt"); NULL: cannot be told */
void names_reorder(const model *, row_order, bool to_gguf, i64 k, i64 n, const float *from, float *to); /* [k,n] in GGUF's extents; a vector is k = 1 for QUERY and KEY, else n = 1 */
#endif
