/* model/file.h - strict readers and writers of GGUF (v2, v3) and safetensors, one table of tensors and one of metadata for
 * both. Specification: ggml docs/gguf.md; safetensors README (format). Hostile files give FORMAT errors with byte offset and
 * name; nothing is read outside the map, no count is trusted before the bytes that it needs are known to exist. */
#ifndef MARU_MODEL_FILE_H
#define MARU_MODEL_FILE_H
#include "base/base.h"
#include "tensor/tensor.h"

typedef enum { META_U8, META_I8, META_U16, META_I16, META_U32, META_I32, META_F32, META_BOOL, META_STR, META_ARRAY, META_U64, META_I64, META_F64 } meta_kind; /* GGUF's numbers */
typedef struct {
    str       key;
    meta_kind kind, item;                   /* item: of an array */
    i64       n;                            /* items of an array, else 1 */
    union { i64 i; double f; str s; } v;    /* scalars */
    const u8 *array;                        /* first item, unaligned, little endian (strings: u64 length + bytes, checked) */
    usize     array_len;                    /* bytes */
    struct { i64 i; usize at; } mark;       /* where meta_str_at stands; start with zeros */
} meta;
typedef struct {
    str       name;
    dtype     type;                         /* DTYPE_COUNT: a safetensors type without a dtype (I64, BOOL ...): listed, not readable */
    i64       n[4];                         /* n[0] is the row (contiguous); unset extents are 1 */
    int       n_dims;
    const u8 *data;                         /* aligned for its type; into the map, or a copy if the file has it unaligned; NULL in a GGUF without tensor data */
    usize     bytes;
} file_tensor;
typedef struct model_file model_file;      /* one thread at a time for meta_str_at, else read by any */
err  gguf_open(model_file **, const char *path);
err  gguf_parse(model_file **, const u8 *p, usize n, const char *name); /* borrowed bytes (tests, fuzzing) */
err  gguf_open_meta(model_file **, const char *path);                /* metadata only: the tensor list is not looked at, whatever is in it */
err  safetensors_open(model_file **, const char *path);
err  safetensors_parse(model_file **, const u8 *p, usize n, const char *name);
void model_file_close(model_file *);
const meta *file_meta(const model_file *, const char *key);         /* NULL if absent */
const file_tensor *file_tensor_find(const model_file *, str name);
usize file_n_meta(const model_file *);
const meta *file_meta_at(const model_file *, usize);
usize file_n_tensors(const model_file *);
const file_tensor *file_tensor_at(const model_file *, usize);
const char *meta_kind_name(meta_kind);                              /* "u32"; "array" */
err  meta_str_at(const meta *, i64 i, str *out);                    /* of an array of strings: sequential access is O(1) amortised (meta.mark moves) */
err  meta_i64_at(const meta *, i64 i, i64 *out);                    /* of an array of integers or booleans, or item 0 of a scalar */
err  meta_f64_at(const meta *, i64 i, double *out);                 /* the same for any number */
err  file_str(const model_file *, const char *key, str *out);       /* FORMAT with key, found and expected kind */
err  file_i64(const model_file *, const char *key, i64 *out);       /* any integer kind, and bool */
err  file_f64(const model_file *, const char *key, double *out);    /* any number */
i64    file_i64_or(const model_file *, const char *key, i64 otherwise); /* when absent or of another kind */
double file_f64_or(const model_file *, const char *key, double otherwise);
err  file_strings(const model_file *, const char *key, arena *, str **out, i64 *n); /* a whole array; *out NULL and n 0 when absent */

/* writer: metadata and tensor list first, then the data in the same order; atomic */
typedef struct gguf_writer gguf_writer;
err  gguf_create(gguf_writer **, const char *path);
err  gguf_put_str(gguf_writer *, const char *key, str);
err  gguf_put_u32(gguf_writer *, const char *key, u32);
err  gguf_put_i64(gguf_writer *, const char *key, i64);
err  gguf_put_f32(gguf_writer *, const char *key, float);
err  gguf_put_bool(gguf_writer *, const char *key, bool);
err  gguf_put_array(gguf_writer *, const char *key, meta_kind item, i64 n, const void *items); /* META_STR: items is str[] */
err  gguf_put_meta(gguf_writer *, const meta *);                    /* a copy of another file's entry */
err  gguf_put_tensor(gguf_writer *, str name, dtype, int n_dims, const i64 *n);
err  gguf_put_data(gguf_writer *, const void *, usize bytes);       /* in order, whole tensors or parts */
err  gguf_commit(gguf_writer *);                                    /* FORMAT if data is missing; frees */
void gguf_drop(gguf_writer *);
typedef struct safetensors_writer safetensors_writer;               /* the same for safetensors */
err  safetensors_create(safetensors_writer **, const char *path);
err  safetensors_put_note(safetensors_writer *, const char *key, str value); /* __metadata__ */
err  safetensors_put_tensor(safetensors_writer *, str name, dtype /* F32 F16 BF16 F64 I32 */, int n_dims, const i64 *n /* the row first */);
err  safetensors_put_data(safetensors_writer *, const void *, usize bytes);
err  safetensors_commit(safetensors_writer *);
void safetensors_drop(safetensors_writer *);
#endif
