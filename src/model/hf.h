/* model/hf.h - private to model/: a Hugging Face folder read as what a GGUF of the same model would hold, and written from one.
 *
 *   hf_open.c      the folder's files, put together as one model_file    hf_config.c     config.json <-> metadata
 *   hf_weights.c   safetensors, their names and their order of numbers   hf_tokenizer.c  tokenizer.json -> metadata
 *   convert.c      a folder -> GGUF -> a folder                          hf_vocab.c      metadata -> tokenizer.json
 *
 * So everything above (hyperparameters, binding, tokenizers, merging) knows one form only. */
#ifndef MARU_MODEL_HF_H
#define MARU_MODEL_HF_H
#include "model/arch.h"
#include "model/file_inside.h"
#include <jansson.h>

typedef struct {
    model_file *f; /* being filled; what it says lies in f->own */
    const char *folder;
    const arch_row *arch; /* NULL: only a tokenizer is wanted and there is no config.json of ours */
    json_t *config, *tokenizer, *tokenizer_config; /* owned; the last two may be NULL */
    i64 n_rows;                                    /* of the embedding matrix, 0 before it is known */
} hf_reader;

/* hf_open.c: a file of the folder as JSON. NULL without an error when it is absent and need not be there. */
err hf_json(const hf_reader *, const char *name, bool needed, json_t **out);
char *hf_path(const hf_reader *, const char *name); /* owned */
err hf_no_memory(const hf_reader *);
err hf_wrong(const hf_reader *, err_code, const char *file, const char *key, json_t *found, const char *expected); /* found: shown in short */
err hf_put_str(hf_reader *, const char *key, str);
err hf_put_i64(hf_reader *, const char *key, i64); /* u32 where it fits, as the format's own files have it */
err hf_put_f64(hf_reader *, const char *key, double);
err hf_put_bool(hf_reader *, const char *key, bool);
err hf_put_array(hf_reader *, const char *key, meta_kind item, i64 n, const void *items); /* as gguf_put_array */

err hf_config_read(hf_reader *);    /* config.json -> architecture, hyperparameters */
err hf_pooling_read(hf_reader *);   /* modules.json, 1_Pooling, sentence_bert_config.json of an embedding model */
err hf_weights_read(hf_reader *, bool whole); /* whole: numbers in another order are put into GGUF's now, else hf_tensor_data does it */
err hf_tokenizer_read(hf_reader *); /* tokenizer.json, tokenizer_config.json, chat_template.jinja */

json_t *hf_config_json(const model *, bool tied, dtype main); /* owned; NULL when out of memory */
json_t *hf_pooling_json(const model *);
err hf_vocab_write(const model *, const char *folder); /* tokenizer.json, tokenizer_config.json, chat_template.jinja */

/* One tensor's bytes as the GGUF has them: data as it lies in the map, or made in `room` (grown). */
err hf_tensor_data(const model_file *, usize i, buf *room, const u8 **data);

/* whole: see hf_weights_read; without weights: config.json may be of any architecture, or absent */
err hf_open(model_file **, const char *folder, bool weights, bool whole);
bool hf_is_folder(const char *path); /* config.json or tokenizer.json is in it */
#endif
