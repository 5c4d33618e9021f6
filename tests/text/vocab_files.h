/* tests/text/vocab_files.h - where tests find vocabularies and golden tokenizations, and readers of their other formats:
 * compressed files, SentencePiece models (protocol buffers), Hugging Face's tokenizer.json. For tests only. */
#ifndef MARU_TEST_VOCAB_FILES_H
#define MARU_TEST_VOCAB_FILES_H
#include "gguf_vocab.h"
#include <jansson.h>

static inline const char *shared_path(char out[512], const char *name)
{
    const char *root = getenv("MARU_SHARED");
    snprintf(out, 512, "%s/%s", root ? root : "../shared", name);
    return out;
}

static inline const char *model_path(char out[512], const char *name)
{
    const char *root = getenv("MARU_MODELS"), *home = getenv("HOME");
    if (root)
        snprintf(out, 512, "%s/%s.gguf", root, name);
    else
        snprintf(out, 512, "%s/.cache/maru/models/%s.gguf", home ? home : "", name);
    return out;
}

/* a whole file of shared/data, uncompressed if its name ends in .zst or .gz; false: absent, or no program to open it */
static inline bool shared_read(buf *out, const char *name)
{
    char path[512];
    shared_path(path, name);
    bool zst = str_ends(str_of(name), S(".zst")), gz = str_ends(str_of(name), S(".gz"));
    if (!zst && !gz) return file_read(out, path, 0).code == ERR_OK;
    if (!file_exists(path)) return false;
    const char *argv[] = {zst ? "zstd" : "gzip", "-dcq", path, NULL};
    buf errors = {0};
    int status = -1;
    err bad = proc_run(&(proc_spec){.argv = argv, .seconds = 60}, out, &errors, &status);
    buf_free(&errors);
    return !bad.code && !status;
}

static inline json_t *shared_json(const char *name)
{
    buf text = {0};
    json_t *j = shared_read(&text, name) ? json_loadb(text.p, text.n, JSON_ALLOW_NUL, NULL) : NULL;
    buf_free(&text);
    return j;
}

static inline str json_str(const json_t *j)
{
    return (str){json_is_string(j) ? json_string_value(j) : "", json_string_length(j)};
}

/* a growing vocabulary in an arena */
typedef struct {
    arena *a;
    str *tokens, *merges;
    float *scores;
    i32 *kinds;
    usize n, n_scores, n_kinds, n_merges, cap[4];
    token_source s;
} vocab_file;

static inline void vocab_file_add(vocab_file *v, str piece, float score, i32 kind)
{
    str copy = {arena_str(v->a, piece.p, piece.n), piece.n};
    if (!VEC_PUSH(v->tokens, v->n, v->cap[0], copy) || !VEC_PUSH(v->scores, v->n_scores, v->cap[1], score) ||
        !VEC_PUSH(v->kinds, v->n_kinds, v->cap[2], kind))
        abort();
}

static inline token_source *vocab_file_source(vocab_file *v, const char *model)
{
    v->s.model = model;
    v->s.tokens = v->tokens;
    v->s.n_tokens = (i64)v->n;
    v->s.scores = v->scores;
    v->s.kinds = v->kinds;
    v->s.merges = v->merges;
    v->s.n_merges = (i64)v->n_merges;
    return &v->s;
}

static inline void vocab_file_free(vocab_file *v)
{
    arena_free(v->a);
    mem_free(v->tokens);
    mem_free(v->scores);
    mem_free(v->kinds);
    mem_free(v->merges);
}

/* ---- SentencePiece models: ModelProto { pieces = 1 { piece = 1, score = 2, type = 3 }, trainer_spec = 2 { model_type = 3 },
 * normalizer_spec = 3 { precompiled_charsmap = 2, add_dummy_prefix = 3, remove_extra_whitespaces = 4 } } */
typedef struct {
    int field;
    u64 number;
    str bytes;
} proto_field;

static inline bool proto_next(str s, usize *at, proto_field *f)
{
    u64 v[2] = {0, 0};
    *f = (proto_field){0};
    for (int i = 0; i < 2; i++) {
        int shift = 0;
        u8 c = 0x80;
        if (i && (v[0] & 7) == 5) {
            f->bytes = (str){s.p + *at, 4};
            *at += 4;
            break;
        }
        for (; *at < s.n && c & 0x80; shift += 7) v[i] |= (u64)((c = (u8)s.p[(*at)++]) & 0x7F) << (shift & 63);
        if (c & 0x80) return false;
    }
    f->field = (int)(v[0] >> 3);
    f->number = v[1];
    if ((v[0] & 7) != 2) return *at <= s.n;
    if (v[1] > s.n - *at) return false;
    f->bytes = (str){s.p + *at, v[1]};
    *at += v[1];
    return true;
}

static inline void sentencepiece_piece(vocab_file *v, str s)
{
    proto_field f;
    str piece = {"", 0};
    float score = 0;
    i32 kind = TOKEN_NORMAL;
    for (usize at = 0; proto_next(s, &at, &f);) {
        if (f.field == 1) piece = f.bytes;
        if (f.field == 2) memcpy(&score, f.bytes.p, 4);
        if (f.field == 3) kind = (i32)f.number;
    }
    vocab_file_add(v, piece, score, kind);
}

static inline bool sentencepiece_read(vocab_file *v, const char *name)
{
    buf text = {0};
    *v = (vocab_file){.a = arena_new(), .s = token_source_empty()};
    if (!shared_read(&text, name)) return arena_free(v->a), false;
    const char *model = "t5";
    proto_field f, g;
    v->s.add_space_prefix = v->s.remove_extra_whitespaces = 1;
    for (usize at = 0; proto_next(buf_view(&text), &at, &f);) {
        if (f.field == 1) sentencepiece_piece(v, f.bytes);
        for (usize in = 0; f.field > 1 && proto_next(f.bytes, &in, &g);) {
            if (f.field == 2 && g.field == 3) model = g.number == 2 ? "llama" : "t5";
            if (f.field != 3) continue;
            if (g.field == 2) v->s.charsmap = (str){arena_str(v->a, g.bytes.p, g.bytes.n), g.bytes.n};
            if (g.field == 3) v->s.add_space_prefix = (int)g.number;
            if (g.field == 4) v->s.remove_extra_whitespaces = (int)g.number;
        }
    }
    buf_free(&text);
    vocab_file_source(v, model);
    return true;
}

/* ---- other files ---------------------------------------------------------------------------------------------------------- */
static inline str base64(arena *a, str s)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = arena_take(a, s.n);
    usize n = 0;
    u32 bits = 0, held = 0;
    for (usize i = 0; i < s.n && s.p[i] != '='; i++) {
        bits = bits << 6 | (u32)(strchr(digits, s.p[i]) - digits);
        if ((held += 6) >= 8) out[n++] = (char)(bits >> (held -= 8));
    }
    return (str){out, n};
}

/* Unigram in a tokenizer.json: [piece, score] and a charsmap in base64 */
static inline bool unigram_json_read(vocab_file *v, const char *name)
{
    *v = (vocab_file){.a = arena_new(), .s = token_source_empty()};
    json_t *j = shared_json(name), *item;
    if (!j) return arena_free(v->a), false;
    json_t *model = json_object_get(j, "model"), *table = json_object_get(json_object_get(j, "normalizer"), "precompiled_charsmap");
    json_int_t unk = json_integer_value(json_object_get(model, "unk_id"));
    usize i;
    json_array_foreach(json_object_get(model, "vocab"), i, item)
        vocab_file_add(v, json_str(json_array_get(item, 0)), (float)json_number_value(json_array_get(item, 1)),
                       (i64)i == unk ? TOKEN_UNKNOWN : TOKEN_NORMAL);
    json_array_foreach(json_object_get(j, "added_tokens"), i, item)
    {
        json_int_t id = json_integer_value(json_object_get(item, "id"));
        if (id >= 0 && id < (json_int_t)v->n && id != unk) v->kinds[id] = TOKEN_CONTROL;
    }
    v->s.charsmap = base64(v->a, json_str(table));
    v->s.unk = unk;
    json_decref(j);
    vocab_file_source(v, "t5");
    return true;
}

/* GPT-2's two files: token -> id, and a list of merges */
static inline bool gpt2_files_read(vocab_file *v, const char *encoder, const char *merges, const char *pre)
{
    *v = (vocab_file){.a = arena_new(), .s = token_source_empty()};
    json_t *j = shared_json(encoder), *item;
    buf text = {0};
    if (!j || !shared_read(&text, merges)) return json_decref(j), buf_free(&text), arena_free(v->a), false;
    const char *key;
    for (usize i = 0; i < json_object_size(j); i++) vocab_file_add(v, S(""), 0, TOKEN_NORMAL);
    json_object_foreach(j, key, item) v->tokens[json_integer_value(item)] = (str){arena_str(v->a, key, strlen(key)), strlen(key)};
    str all = {arena_str(v->a, text.p, text.n), text.n};
    for (usize at = 0; at < all.n;) {
        i64 end = str_find(all, S("\n"), at);
        str line = {all.p + at, (end < 0 ? all.n : (usize)end) - at};
        at += line.n + 1;
        if (line.n && !str_starts(line, S("#version")) && !VEC_PUSH(v->merges, v->n_merges, v->cap[3], line)) abort();
    }
    json_decref(j);
    buf_free(&text);
    vocab_file_source(v, "gpt2");
    v->s.pre = pre;
    v->s.scores = NULL;
    return true;
}
#endif
