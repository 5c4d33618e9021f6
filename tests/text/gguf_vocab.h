/* tests/text/gguf_vocab.h - a token_source from the metadata of a GGUF file, for tests of the text floor only: the real reader is
 * model/'s, which the text floor may not see. Trusts its file (counts are checked against the end, nothing else). */
#ifndef MARU_TEST_GGUF_VOCAB_H
#define MARU_TEST_GGUF_VOCAB_H
#include "text/text.h"
#include <stdlib.h>

typedef struct {
    file_map map;
    arena *a;
    token_source s;
} gguf_vocab;
typedef struct {
    const u8 *p, *end;
    bool bad;
} gguf_cursor;

static inline u64 gguf_uint(gguf_cursor *c, int n)
{
    u64 v = 0;
    if (c->end - c->p < n) return c->bad = true, 0;
    memcpy(&v, c->p, (usize)n);
    c->p += n;
    return v;
}

static inline str gguf_str(gguf_cursor *c)
{
    u64 n = gguf_uint(c, 8);
    if ((u64)(c->end - c->p) < n) return c->bad = true, (str){"", 0};
    str s = {(const char *)c->p, n};
    c->p += n;
    return s;
}

static inline int gguf_width(u32 kind)
{
    static const int width[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return kind < COUNT_OF(width) ? width[kind] : 0;
}

static inline void gguf_array(gguf_vocab *g, gguf_cursor *c, str key)
{
    u32 kind = (u32)gguf_uint(c, 4);
    u64 n = gguf_uint(c, 8);
    if (n > (u64)(c->end - c->p)) n = 0, c->bad = true;
    if (kind != 8) {
        u64 bytes = n * (u64)gguf_width(kind);
        if (bytes > (u64)(c->end - c->p)) bytes = 0, c->bad = true;
        void *copy = arena_take(g->a, bytes + 1); /* aligned */
        memcpy(copy, c->p, bytes);
        if (str_eq(key, S("tokenizer.ggml.scores"))) g->s.scores = copy;
        if (str_eq(key, S("tokenizer.ggml.token_type"))) g->s.kinds = copy;
        if (str_eq(key, S("tokenizer.ggml.precompiled_charsmap"))) g->s.charsmap = (str){copy, bytes};
        c->p += bytes;
        return;
    }
    str *list = arena_take(g->a, (n + 1) * sizeof *list);
    for (u64 i = 0; i < n; i++) list[i] = gguf_str(c);
    if (str_eq(key, S("tokenizer.ggml.tokens"))) g->s.tokens = list, g->s.n_tokens = (i64)n;
    if (str_eq(key, S("tokenizer.ggml.merges"))) g->s.merges = list, g->s.n_merges = (i64)n;
}

static inline void gguf_scalar(gguf_vocab *g, str key, u64 v)
{
    token_source *s = &g->s;
    const struct {
        const char *name;
        i64 *id;
        int *flag;
    } keys[] = {{"bos_token_id", &s->bos, NULL},
                {"eos_token_id", &s->eos, NULL},
                {"eot_token_id", &s->eot, NULL},
                {"unknown_token_id", &s->unk, NULL},
                {"seperator_token_id", &s->sep, NULL},
                {"padding_token_id", &s->pad, NULL},
                {"cls_token_id", &s->cls, NULL},
                {"mask_token_id", &s->mask, NULL},
                {"add_bos_token", NULL, &s->add_bos},
                {"add_eos_token", NULL, &s->add_eos},
                {"add_space_prefix", NULL, &s->add_space_prefix},
                {"remove_extra_whitespaces", NULL, &s->remove_extra_whitespaces}};
    str head = S("tokenizer.ggml.");
    if (!str_starts(key, head)) return;
    for (usize i = 0; i < COUNT_OF(keys); i++) {
        if (!str_eq((str){key.p + head.n, key.n - head.n}, str_of(keys[i].name))) continue;
        if (keys[i].id)
            *keys[i].id = (i64)v;
        else
            *keys[i].flag = v != 0;
    }
}

static inline token_source token_source_empty(void)
{
    return (token_source){.bos = -1,
                          .eos = -1,
                          .eot = -1,
                          .unk = -1,
                          .sep = -1,
                          .pad = -1,
                          .cls = -1,
                          .mask = -1,
                          .add_bos = -1,
                          .add_eos = -1,
                          .add_space_prefix = -1,
                          .remove_extra_whitespaces = -1};
}

static inline void gguf_vocab_close(gguf_vocab *g)
{
    arena_free(g->a);
    file_map_close(&g->map);
}

/* false: not a GGUF. Strings are borrowed from the bytes. */
static inline bool gguf_vocab_read(gguf_vocab *g, str bytes)
{
    g->s = token_source_empty();
    g->a = arena_new();
    gguf_cursor c = {(const u8 *)bytes.p, (const u8 *)bytes.p + bytes.n, false};
    u32 magic = (u32)gguf_uint(&c, 4);
    gguf_uint(&c, 4); /* version */
    gguf_uint(&c, 8); /* number of tensors */
    u64 n = gguf_uint(&c, 8);
    for (u64 i = 0; i < n && !c.bad; i++) {
        str key = gguf_str(&c);
        u32 kind = (u32)gguf_uint(&c, 4);
        if (kind == 9)
            gguf_array(g, &c, key);
        else if (kind == 8) {
            str v = gguf_str(&c);
            if (str_eq(key, S("tokenizer.ggml.model"))) g->s.model = arena_str(g->a, v.p, v.n);
            if (str_eq(key, S("tokenizer.ggml.pre"))) g->s.pre = arena_str(g->a, v.p, v.n);
        } else
            gguf_scalar(g, key, gguf_uint(&c, gguf_width(kind)));
    }
    return magic == 0x46554747 && !c.bad;
}

/* false: no such file, or not a GGUF */
static inline bool gguf_vocab_open(gguf_vocab *g, const char *path)
{
    *g = (gguf_vocab){0};
    if (file_map_open(&g->map, path).code) return false;
    if (gguf_vocab_read(g, (str){(const char *)g->map.p, g->map.n})) return true;
    gguf_vocab_close(g);
    return false;
}
#endif
