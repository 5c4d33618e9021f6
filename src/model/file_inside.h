/* model/file_inside.h - what gguf.c, gguf_write.c, safetensors.c and file.c say to each other and to nobody else. */
#ifndef MARU_MODEL_FILE_INSIDE_H
#define MARU_MODEL_FILE_INSIDE_H
#include "model/file.h"

_Static_assert(sizeof(usize) == 8, "offsets of model files are 64-bit");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "model files are little endian and are read in place");

/* Where a tensor comes from whose numbers another file has in another order or type (hf_weights.c); `from` is the other file's. */
typedef struct {
    const file_tensor *from;
    int order;    /* row_order */
    i64 head_dim; /* of ORDER_QUERY and ORDER_KEY */
} file_source;

struct model_file {
    file_map     mapped; /* fd < 0 and p NULL when the bytes are borrowed */
    char        *name;   /* for messages */
    meta        *metas;
    usize        n_metas, metas_cap;
    file_tensor *tensors;
    usize        n_tensors, tensors_cap;
    map         *by_key, *by_name; /* -> index */
    arena       *own;              /* what is not in the file's bytes as such: unescaped strings, aligned copies; NULL until used */
    model_file **parts;            /* [n_parts] files whose bytes this one shows, closed with it */
    usize n_parts, parts_cap;
    file_source *source;           /* [n_tensors] of a folder, in own; else NULL */
};

typedef err (*file_parser)(model_file **, const u8 *p, usize n, const char *name);
err  model_file_new(model_file **, const char *name);
err  model_file_open(model_file **, const char *path, file_parser);
err  model_file_add_meta(model_file *, const meta *, usize at);          /* FORMAT when the key is there already or not a name */
err  model_file_add_tensor(model_file *, const file_tensor *, usize at); /* the same for a tensor's name */

enum { NAME_MAX_BYTES = 1024, KEY_MAX_BYTES = 65535, SHOWN = 100 };
const char *file_shown(str, char out[SHOWN]); /* for messages: cut, and without control characters (they would reach a terminal) */
bool        file_name_fits(str, usize max);   /* 1..max bytes of UTF-8 without control characters */

typedef enum { SIZE_OK, SIZE_BLOCK /* row is not whole blocks */, SIZE_OVERFLOW } size_verdict;
size_verdict file_tensor_size(dtype, const i64 n[4], usize *bytes);
void         meta_number(meta_kind, const u8 *p, i64 *whole, double *real); /* bytes at p: integers in *whole, floats in *real */
usize        meta_item_bytes(meta_kind); /* 0: not of one size (strings, arrays) or no kind */
#endif
