/* tests/model/file_touch.h - reads all that a model file offers, so that a sanitizer sees every byte a user could reach.
 * Shared by the tests of mutated files and the fuzz targets. */
#ifndef MARU_TESTS_FILE_TOUCH_H
#define MARU_TESTS_FILE_TOUCH_H
#include "model/file.h"
#include <stdlib.h>

static inline u64 touch_meta(const model_file *f, const meta *m)
{
    u64 sum = hash64(m->key.p, m->key.n, 0);
    i64 whole;
    double real;
    str s;
    for (i64 i = 0; i < m->n; i++) {
        if (!meta_str_at(m, i, &s).code) sum += s.n ? hash64(s.p, s.n, 1) : 0;
        if (!meta_i64_at(m, i, &whole).code) sum += (u64)whole;
        if (!meta_f64_at(m, i, &real).code) sum += real > 0;
    }
    if (m->n && !meta_str_at(m, 0, &s).code) sum += s.n; /* back to the start */
    if (m->kind == META_ARRAY) sum += hash64(m->array, m->array_len, 2);
    arena *a = arena_new();
    str *items;
    i64 n;
    char *key = mem_strndup(m->key.p, m->key.n);
    if (a && key && !file_strings(f, key, a, &items, &n).code)
        for (i64 i = 0; i < n; i++) sum += items[i].n;
    if (key && !file_str(f, key, &s).code) sum += s.n;
    if (key) sum += (u64)file_i64_or(f, key, 3) + (file_f64_or(f, key, 1) > 0);
    mem_free(key);
    arena_free(a);
    return sum;
}

static inline u64 touch_file(const model_file *f)
{
    u64 sum = 0;
    for (usize i = 0; i < file_n_meta(f); i++) sum += touch_meta(f, file_meta_at(f, i));
    for (usize i = 0; i < file_n_tensors(f); i++) {
        const file_tensor *t = file_tensor_at(f, i);
        if (file_tensor_find(f, t->name) != t) abort();
        for (int k = 0; k < 4; k++)
            if (t->n[k] < 0 || (k >= t->n_dims && t->n[k] != 1)) abort();
        if (t->data) sum += hash64(t->data, t->bytes, 3);
    }
    return sum;
}
#endif
