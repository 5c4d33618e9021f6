/* model/open.c - opens a model: file, architecture row, hyperparameters, weights, tokenizer, chat template. */
#include "model/hf.h"

static i64 token_id(const model_file *f, const char *key) { return file_i64_or(f, key, -1); }

static int flag(const model_file *f, const char *key)
{
    i64 v;
    return file_meta(f, key) && !file_i64(f, key, &v).code ? v != 0 : -1;
}

static err tokenizer_bind(model *m, arena *a)
{
    model_file  *f = m->file;
    token_source s = {0};
    str          kind = {0}, pre = {0};
    TRY(file_str(f, "tokenizer.ggml.model", &kind));
    char *model_name = arena_str(a, kind.p, kind.n), *pre_name = NULL;
    if (file_meta(f, "tokenizer.ggml.pre")) TRY(file_str(f, "tokenizer.ggml.pre", &pre));
    if (pre.n) pre_name = arena_str(a, pre.p, pre.n);
    if (!model_name || (pre.n && !pre_name)) return err_new(ERR_NOMEM, "%s: out of memory while reading a tokenizer", m->path);
    s.model = model_name;
    s.pre = pre.n ? pre_name : m->arch ? m->arch->default_pre : NULL;
    TRY(file_strings(f, "tokenizer.ggml.tokens", a, (str **)(uintptr_t)&s.tokens, &s.n_tokens));
    TRY(file_strings(f, "tokenizer.ggml.merges", a, (str **)(uintptr_t)&s.merges, &s.n_merges));
    const meta *scores = file_meta(f, "tokenizer.ggml.scores"), *kinds = file_meta(f, "tokenizer.ggml.token_type");
    const meta *map_of_chars = file_meta(f, "tokenizer.ggml.precompiled_charsmap");
    if (scores) {
        if (scores->kind != META_ARRAY || scores->item != META_F32 || scores->n != s.n_tokens)
            return err_new(ERR_FORMAT, "%s: tokenizer.ggml.scores has %lld items, expected %lld floats", m->path, (long long)scores->n, (long long)s.n_tokens);
        float *copy = arena_take(a, scores->array_len + 4);
        if (!copy) return err_new(ERR_NOMEM, "%s: out of memory while reading a tokenizer", m->path);
        memcpy(copy, scores->array, scores->array_len);
        s.scores = copy;
    }
    if (kinds) {
        if (kinds->kind != META_ARRAY || (kinds->item != META_I32 && kinds->item != META_U32) || kinds->n != s.n_tokens)
            return err_new(ERR_FORMAT, "%s: tokenizer.ggml.token_type has %lld items, expected %lld integers", m->path, (long long)kinds->n, (long long)s.n_tokens);
        i32 *copy = arena_take(a, kinds->array_len + 4);
        if (!copy) return err_new(ERR_NOMEM, "%s: out of memory while reading a tokenizer", m->path);
        memcpy(copy, kinds->array, kinds->array_len);
        s.kinds = copy;
    }
    if (map_of_chars && map_of_chars->kind == META_ARRAY && (map_of_chars->item == META_U8 || map_of_chars->item == META_I8))
        s.charsmap = (str){(const char *)map_of_chars->array, map_of_chars->array_len};
    s.bos = token_id(f, "tokenizer.ggml.bos_token_id");
    s.eos = token_id(f, "tokenizer.ggml.eos_token_id");
    s.eot = token_id(f, "tokenizer.ggml.eot_token_id");
    s.unk = token_id(f, "tokenizer.ggml.unknown_token_id");
    s.sep = token_id(f, "tokenizer.ggml.seperator_token_id"); /* the key is spelled so in the format */
    s.pad = token_id(f, "tokenizer.ggml.padding_token_id");
    s.cls = token_id(f, "tokenizer.ggml.cls_token_id");
    s.mask = token_id(f, "tokenizer.ggml.mask_token_id");
    s.add_bos = flag(f, "tokenizer.ggml.add_bos_token");
    s.add_eos = flag(f, "tokenizer.ggml.add_eos_token");
    s.add_space_prefix = flag(f, "tokenizer.ggml.add_space_prefix");
    s.remove_extra_whitespaces = flag(f, "tokenizer.ggml.remove_extra_whitespaces");
    s.cased = flag(f, "maru.wordpiece.cased") > 0; /* GGUF itself has no keys for cased models */
    s.accents = flag(f, "maru.wordpiece.accents") > 0;
    s.han_in_words = flag(f, "maru.wordpiece.han_in_words") > 0;
    return err_at(tokenizer_new(&m->tok, &s), "%s", m->path);
}

/* A template that cannot be parsed does not make the model useless: run works, chat reports why it cannot. */
static err chat_bind(model *m)
{
    str source;
    if (!file_meta(m->file, "tokenizer.chat_template")) return OK;
    TRY(file_str(m->file, "tokenizer.chat_template", &source));
    m->chat_source = mem_strndup(source.p, source.n);
    if (!m->chat_source) return err_new(ERR_NOMEM, "out of memory for a chat template");
    err bad = chat_template_new(&m->chat, str_of(m->chat_source));
    if (bad.code == ERR_NOMEM) return bad;
    if (bad.code && !(m->chat_error = mem_strdup(bad.what))) return err_new(ERR_NOMEM, "out of memory for a chat template");
    return OK;
}

err text_bind(model *m)
{
    arena *a = arena_new();
    if (!a) return err_new(ERR_NOMEM, "out of memory while reading a tokenizer");
    err bad = tokenizer_bind(m, a);
    arena_free(a);
    if (!bad.code) bad = chat_bind(m);
    return bad;
}

/* What the model wants in front of a text. The E5 family was trained with these words (Wang et al. 2022, 2402.05672); its files
 * carry no key for them, so the name tells. */
static err prefixes(model *m)
{
    str  name = {0};
    bool e5 = false;
    if (file_meta(m->file, "general.name")) TRY(file_str(m->file, "general.name", &name));
    e5 = m->arch->encoder && (str_find(name, S("e5-"), 0) >= 0 || str_find(name, S("E5-"), 0) >= 0);
    m->query_prefix = mem_strdup(e5 ? "query: " : "");
    m->passage_prefix = mem_strdup(e5 ? "passage: " : "");
    return m->query_prefix && m->passage_prefix ? OK : err_new(ERR_NOMEM, "out of memory while opening a model");
}

/* The identity of a file for caches and stores: its size and its first and last megabyte; hashing a whole large file at every
 * start would cost more than loading it. Of a folder: all its files, one after another. */
static err feed_file(void *ctx, const char *path)
{
    struct {
        model *m;
        sha256_stream *s;
    } *x = ctx;
    file_map f;
    TRY(file_map_open(&f, path));
    usize piece = f.n < (1 << 20) ? f.n : 1 << 20;
    sha256_feed(x->s, &f.n, sizeof f.n);
    sha256_feed(x->s, f.p, piece);
    sha256_feed(x->s, f.p + f.n - piece, piece);
    x->m->file_bytes += f.n;
    file_map_close(&f);
    return OK;
}

static err identify(model *m)
{
    struct {
        model *m;
        sha256_stream *s;
    } x = {m, sha256_begin()};
    if (!x.s) return err_new(ERR_NOMEM, "out of memory while hashing %s", m->path);
    err bad = file_walk(m->path, feed_file, &x);
    m->id = sha256_end(x.s);
    return bad;
}

static err open_file(model *m, const char *path, bool weights)
{
    m->path = mem_strdup(path);
    if (!m->path) return err_new(ERR_NOMEM, "out of memory while opening %s", path);
    TRY(file_is_dir(path) ? hf_open(&m->file, path, weights, true) : gguf_open(&m->file, path));
    return identify(m);
}

static err open_whole(model *m, const char *path, pool *threads, bool pack)
{
    str name;
    TRY(open_file(m, path, true));
    TRY(err_at(file_str(m->file, "general.architecture", &name), "%s", path));
    m->arch = arch_find(name);
    if (!m->arch) return err_at(arch_unknown(name), "%s", path);
    TRY(hparams_read(m));
    TRY(weights_bind(m, threads, pack));
    TRY(text_bind(m));
    if (tokenizer_size(m->tok) > m->h.n_vocab)
        return err_new(ERR_FORMAT, "%s: the tokenizer has %lld tokens, the embedding table %lld rows", path, (long long)tokenizer_size(m->tok), (long long)m->h.n_vocab);
    return prefixes(m);
}

static err open_as(model **out, const char *path, pool *threads, bool pack)
{
    *out = NULL;
    model *m = mem_zero(sizeof *m);
    if (!m) return err_new(ERR_NOMEM, "out of memory while opening %s", path);
    err bad = open_whole(m, path, threads, pack);
    if (bad.code) model_close(m);
    else *out = m;
    return bad;
}

err model_open(model **out, const char *path, pool *threads) { return open_as(out, path, threads, true); }
err model_open_mapped(model **out, const char *path) { return open_as(out, path, NULL, false); }

err model_open_tokenizer(model **out, const char *path)
{
    *out = NULL;
    model *m = mem_zero(sizeof *m);
    if (!m) return err_new(ERR_NOMEM, "out of memory while opening %s", path);
    err bad = open_file(m, path, false);
    str name;
    if (!bad.code && file_meta(m->file, "general.architecture") && !file_str(m->file, "general.architecture", &name).code) m->arch = arch_find(name);
    if (!bad.code) bad = text_bind(m);
    if (bad.code) model_close(m);
    else *out = m;
    return bad;
}

void model_close(model *m)
{
    if (!m) return;
    tokenizer_free(m->tok);
    chat_template_free(m->chat);
    model_file_close(m->file);
    mem_free(m->chat_source);
    mem_free(m->chat_error);
    mem_free(m->query_prefix);
    mem_free(m->passage_prefix);
    mem_free(m->packed);
    mem_free(m->layers);
    mem_free(m->path);
    mem_free(m);
}

usize model_kv_bytes_per_token(const model *m, dtype t)
{
    return 2 * (usize)m->h.n_layer * dtype_row_bytes(t, m->h.n_kv_head * m->h.head_dim);
}

err kv_cache_new(kv_cache **out, const model *m, i64 n_pages, dtype type)
{
    *out = NULL;
    i64   layers = m->h.n_layer;
    usize each, all;
    if (n_pages < 1 || n_pages > INT32_MAX / KV_PAGE) /* slots are I32 */
        return err_new(ERR_INPUT, "a KV cache of %lld pages, expected 1 to %d", (long long)n_pages, INT32_MAX / KV_PAGE);
    if (__builtin_mul_overflow(dtype_row_bytes(type, m->h.n_kv_head * m->h.head_dim), (usize)n_pages * KV_PAGE, &each) || __builtin_mul_overflow(each, 2 * (usize)layers, &all))
        return err_new(ERR_NOMEM, "a KV cache of %lld positions is larger than any memory", (long long)n_pages * KV_PAGE);
    kv_cache *c = mem_zero(sizeof *c);
    if (!c) return err_new(ERR_NOMEM, "out of memory for a KV cache");
    *c = (kv_cache){.type = type, .n_pages = n_pages, .k = mem_array(void *, 2 * layers)};
    c->v = c->k ? c->k + layers : NULL;
    u8 *base = c->k ? mem_zero(all) : NULL;
    if (!base) {
        mem_free(c->k);
        mem_free(c);
        return err_new(ERR_NOMEM, "out of memory for a KV cache of %lld positions: %zu bytes", (long long)(n_pages * KV_PAGE), all);
    }
    for (i64 i = 0; i < layers; i++) {
        c->k[i] = base + 2 * each * (usize)i;
        c->v[i] = (u8 *)c->k[i] + each;
    }
    *out = c;
    return OK;
}

void kv_cache_free(kv_cache *c)
{
    if (!c) return;
    if (c->k) mem_free(c->k[0]);
    mem_free(c->k);
    mem_free(c);
}
