/* model/new.c - an untrained model of any architecture of arch.c as a GGUF, and a vocabulary as a GGUF without tensors.
 *
 * Numbers are drawn as GPT-2 draws them (Radford et al. 2019), as most of the field still does: matrices from N(0, 0.02), those that
 * end a residual branch from N(0, 0.02 / sqrt(2 layers)), norms one, biases zero. The head is tied to the embeddings unless tied=0. */
#include "model/arch.h"
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static const struct {
    const char *name, *arch, *shape;
} presets[] = {
    {"tiny", NULL, "d=128,layers=4,heads=4,kv=2,ff=352,ctx=256"},
    {"small", NULL, "d=384,layers=6,heads=6,kv=2,ff=1024,ctx=512"},
    {"gpt2-124m", "gpt2", "d=768,layers=12,heads=12,ff=3072,ctx=1024"},
    {"gpt2-350m", "gpt2", "d=1024,layers=24,heads=16,ff=4096,ctx=1024"},
    {"smollm2-135m", "llama", "d=576,layers=30,heads=9,kv=3,ff=1536,ctx=2048"},
    {"qwen2.5-0.5b", "qwen2", "d=896,layers=24,heads=14,kv=2,ff=4864,ctx=2048"},
    {"gemma3-270m", "gemma3", "d=640,layers=18,heads=4,kv=1,hd=256,ff=2048,ctx=2048"},
    {"bert-mini", "bert", "d=384,layers=6,heads=12,ff=1536,ctx=512"},
};

typedef struct {
    const char *arch, *out;
    char vocab[4096];
    i64 d, layers, heads, kv, hd, ff, ctx, tied, n_vocab;
    const arch_row *row;
    gguf_writer *w;
    rng r;
    bool data; /* second pass: numbers instead of names */
    i64 parameters;
} maker;

/* ---- the shape ---------------------------------------------------------------------------------------------------------- */
static err take_word(maker *m, str word, const char *form)
{
    const struct {
        const char *name;
        i64 *to, least, most;
    } keys[] = {{"d", &m->d, 1, 1 << 17},    {"layers", &m->layers, 1, 1024}, {"heads", &m->heads, 1, 4096}, {"kv", &m->kv, 1, 4096},
                {"hd", &m->hd, 1, 4096},     {"ff", &m->ff, 1, 1 << 20},      {"ctx", &m->ctx, 3, 1 << 24},  {"tied", &m->tied, 0, 1}};
    i64 eq = str_find(word, S("="), 0);
    str key = {word.p, eq < 0 ? word.n : (usize)eq}, value = eq < 0 ? (str){0} : (str){word.p + eq + 1, word.n - (usize)eq - 1};
    if (str_eq(key, S("vocab")) && value.n && value.n < sizeof m->vocab) return snprintf(m->vocab, sizeof m->vocab, "%.*s", (int)value.n, value.p), OK;
    for (usize i = 0; i < COUNT_OF(keys); i++) {
        if (!str_eq(key, str_of(keys[i].name))) continue;
        if (str_i64(value, keys[i].to) && *keys[i].to >= keys[i].least && *keys[i].to <= keys[i].most) return OK;
        return err_new(ERR_INPUT, "shape %s: %.*s is not a number from %lld to %lld", form, (int)word.n, word.p, (long long)keys[i].least, (long long)keys[i].most);
    }
    return err_new(ERR_INPUT, "shape %s: '%.*s' is neither d, layers, heads, kv, hd, ff, ctx, vocab, tied with = and a value nor one of tiny, small, gpt2-124m, gpt2-350m, "
                   "smollm2-135m, qwen2.5-0.5b, gemma3-270m, bert-mini", form, (int)i64_min(64, (i64)word.n), word.p);
}

static err take_shape(maker *m, const char *form)
{
    str all = str_of(form);
    for (usize at = 0; at <= all.n && all.n;) {
        i64 comma = str_find(all, S(","), at);
        usize end = comma < 0 ? all.n : (usize)comma;
        str word = str_trim((str){all.p + at, end - at});
        bool preset = false;
        for (usize i = 0; i < COUNT_OF(presets) && !at; i++) {
            if (!str_eq(word, str_of(presets[i].name))) continue;
            preset = true;
            if (presets[i].arch && m->arch && strcmp(m->arch, presets[i].arch) != 0)
                return err_new(ERR_INPUT, "shape %s is of architecture %s, not %s", presets[i].name, presets[i].arch, m->arch);
            if (presets[i].arch) m->arch = presets[i].arch;
            TRY(take_shape(m, presets[i].shape));
        }
        if (!preset) TRY(take_word(m, word, form));
        at = end + 1;
        if (comma < 0) break;
    }
    return OK;
}

static err complete(maker *m)
{
    if (!m->arch) return err_new(ERR_INPUT, "which architecture? --arch llama, qwen2, gemma3, gpt2 or bert");
    m->row = arch_find(str_of(m->arch));
    if (!m->row) return arch_unknown(str_of(m->arch));
    if (!m->d || !m->layers) return err_new(ERR_INPUT, "the shape has no %s", m->d ? "layers" : "d");
    if (!m->heads) m->heads = m->hd ? i64_max(1, m->d / m->hd) : i64_max(1, m->d / 64);
    if (!m->kv || m->row->fused || m->row->encoder) m->kv = m->heads;
    if (!m->hd) m->hd = m->d / m->heads;
    if (!m->ff) m->ff = m->row->ungated || m->row->encoder ? 4 * m->d : (8 * m->d / 3 + 31) / 32 * 32;
    if (!m->ctx) m->ctx = 512;
    if (m->heads % m->kv) return err_new(ERR_INPUT, "%lld heads do not divide into %lld key heads", (long long)m->heads, (long long)m->kv);
    bool square = m->row->learned || m->row->encoder; /* no way to say another length of heads there */
    if (!m->hd || (square && m->hd * m->heads != m->d)) return err_new(ERR_INPUT, "d=%lld does not divide into %lld heads", (long long)m->d, (long long)m->heads);
    if (!square && m->hd % 2) return err_new(ERR_INPUT, "heads of %lld numbers: rotation needs an even one", (long long)m->hd);
    return OK;
}

/* ---- metadata ------------------------------------------------------------------------------------------------------------ */
static err put_u32(maker *m, const char *what, i64 v)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", m->arch, what);
    return gguf_put_u32(m->w, key, (u32)v);
}

static err put_f32(maker *m, const char *what, float v)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", m->arch, what);
    return gguf_put_f32(m->w, key, v);
}

static err put_metas(maker *m, const model *vocab)
{
    const char *slash = strrchr(m->out, '/'), *base = slash ? slash + 1 : m->out;
    bool rotates = !m->row->learned && !m->row->encoder;
    usize n = strlen(base);
    if (str_ends(str_of(base), S(".gguf"))) n -= 5;
    TRY(gguf_put_str(m->w, "general.architecture", str_of(m->arch)));
    if (n) TRY(gguf_put_str(m->w, "general.name", (str){base, n}));
    TRY(gguf_put_u32(m->w, "general.file_type", 0));
    TRY(put_u32(m, "block_count", m->layers));
    TRY(put_u32(m, "embedding_length", m->d));
    TRY(put_u32(m, "feed_forward_length", m->ff));
    TRY(put_u32(m, "context_length", m->ctx));
    TRY(put_u32(m, "attention.head_count", m->heads));
    if (rotates) {
        TRY(put_u32(m, "attention.head_count_kv", m->kv));
        TRY(put_u32(m, "attention.key_length", m->hd));
        TRY(put_u32(m, "attention.value_length", m->hd));
        TRY(put_u32(m, "rope.dimension_count", m->hd));
        TRY(put_f32(m, "rope.freq_base", m->row->local_theta > 0 ? 1e6f : 1e4f));
        TRY(put_f32(m, "attention.layer_norm_rms_epsilon", 1e-6f));
    } else {
        TRY(put_f32(m, "attention.layer_norm_epsilon", m->row->encoder ? 1e-12f : 1e-5f));
    }
    if (m->row->global_every) TRY(put_u32(m, "attention.sliding_window", i64_min(512, m->ctx)));
    if (m->row->encoder) {
        TRY(put_u32(m, "pooling_type", 1));
        TRY(gguf_put_bool(m->w, "bert.attention.causal", false));
    }
    for (usize i = 0; i < file_n_meta(vocab->file); i++)
        if (str_starts(file_meta_at(vocab->file, i)->key, S("tokenizer.")) || str_starts(file_meta_at(vocab->file, i)->key, S("maru.wordpiece.")))
            TRY(gguf_put_meta(m->w, file_meta_at(vocab->file, i)));
    return OK;
}

/* ---- tensors -------------------------------------------------------------------------------------------------------------- */
enum { ZERO, ONE, DRAWN, ENDING /* a residual branch */ };
static err put(maker *m, int how, i64 k, i64 n, const char *fmt, int layer)
{
    char name[64];
    i64 dims[2] = {k, n};
    snprintf(name, sizeof name, fmt, layer); /* from the list below */
    if (!m->data) {
        m->parameters += k * n;
        return gguf_put_tensor(m->w, str_of(name), F32, n > 1 || how >= DRAWN ? 2 : 1, dims);
    }
    float *row = mem_array(float, k), std = how == ENDING ? 0.02f / sqrtf(2.0f * (float)m->layers) : 0.02f;
    if (!row) return err_new(ERR_NOMEM, "%s: out of memory", m->out);
    err bad = OK;
    for (i64 r = 0; r < n && !bad.code; r++) {
        for (i64 i = 0; i < k; i++) row[i] = how == ONE ? 1 : how == ZERO ? 0 : std * rng_normal(&m->r);
        bad = gguf_put_data(m->w, row, sizeof *row * (usize)k);
    }
    mem_free(row);
    return bad;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static err put_norm(maker *m, i64 k, const char *fmt, const char *bias, int layer)
{
    TRY(put(m, ONE, k, 1, fmt, layer));
    return bias ? put(m, ZERO, k, 1, bias, layer) : OK;
}

static err put_attention(maker *m, int i)
{
    i64 d = m->d, q = m->heads * m->hd, kv = m->kv * m->hd;
    bool biased = m->row->encoder || !strcmp(m->arch, "qwen2");
    if (m->row->fused) {
        TRY(put(m, DRAWN, d, q + 2 * kv, "blk.%d.attn_qkv.weight", i));
        TRY(put(m, ZERO, q + 2 * kv, 1, "blk.%d.attn_qkv.bias", i));
    } else {
        TRY(put(m, DRAWN, d, q, "blk.%d.attn_q.weight", i));
        TRY(put(m, DRAWN, d, kv, "blk.%d.attn_k.weight", i));
        TRY(put(m, DRAWN, d, kv, "blk.%d.attn_v.weight", i));
        if (biased) TRY(put(m, ZERO, q, 1, "blk.%d.attn_q.bias", i));
        if (biased) TRY(put(m, ZERO, kv, 1, "blk.%d.attn_k.bias", i));
        if (biased) TRY(put(m, ZERO, kv, 1, "blk.%d.attn_v.bias", i));
    }
    if (m->row->qk_norm) TRY(put(m, ONE, m->hd, 1, "blk.%d.attn_q_norm.weight", i));
    if (m->row->qk_norm) TRY(put(m, ONE, m->hd, 1, "blk.%d.attn_k_norm.weight", i));
    TRY(put(m, ENDING, q, d, "blk.%d.attn_output.weight", i));
    return m->row->layer_norm || m->row->encoder ? put(m, ZERO, d, 1, "blk.%d.attn_output.bias", i) : OK;
}

static err put_layer(maker *m, int i)
{
    i64 d = m->d;
    bool biased = m->row->layer_norm || m->row->encoder;
    if (!m->row->encoder) TRY(put_norm(m, d, "blk.%d.attn_norm.weight", m->row->layer_norm ? "blk.%d.attn_norm.bias" : NULL, i));
    TRY(put_attention(m, i));
    if (m->row->encoder) TRY(put_norm(m, d, "blk.%d.attn_output_norm.weight", "blk.%d.attn_output_norm.bias", i));
    if (m->row->post_norm) TRY(put_norm(m, d, "blk.%d.post_attention_norm.weight", NULL, i));
    if (!m->row->encoder) TRY(put_norm(m, d, "blk.%d.ffn_norm.weight", m->row->layer_norm ? "blk.%d.ffn_norm.bias" : NULL, i));
    if (!m->row->ungated && !m->row->encoder) TRY(put(m, DRAWN, d, m->ff, "blk.%d.ffn_gate.weight", i));
    TRY(put(m, DRAWN, d, m->ff, "blk.%d.ffn_up.weight", i));
    if (biased) TRY(put(m, ZERO, m->ff, 1, "blk.%d.ffn_up.bias", i));
    TRY(put(m, ENDING, m->ff, d, "blk.%d.ffn_down.weight", i));
    if (biased) TRY(put(m, ZERO, d, 1, "blk.%d.ffn_down.bias", i));
    if (m->row->encoder) TRY(put_norm(m, d, "blk.%d.layer_output_norm.weight", "blk.%d.layer_output_norm.bias", i));
    return m->row->post_norm ? put_norm(m, d, "blk.%d.post_ffw_norm.weight", NULL, i) : OK;
}

static err put_tensors(maker *m)
{
    TRY(put(m, DRAWN, m->d, m->n_vocab, "token_embd.weight", 0));
    if (m->row->learned || m->row->encoder) TRY(put(m, DRAWN, m->d, m->ctx, "position_embd.weight", 0));
    if (m->row->encoder) {
        TRY(put(m, DRAWN, m->d, 2, "token_types.weight", 0));
        TRY(put_norm(m, m->d, "token_embd_norm.weight", "token_embd_norm.bias", 0));
    }
    for (i64 i = 0; i < m->layers; i++) TRY(put_layer(m, (int)i));
    if (m->row->encoder) return OK;
    TRY(put_norm(m, m->d, "output_norm.weight", m->row->layer_norm ? "output_norm.bias" : NULL, 0));
    return m->tied ? OK : put(m, DRAWN, m->d, m->n_vocab, "output.weight", 0);
}
#pragma GCC diagnostic pop

static err write_file(maker *m, const model *vocab)
{
    model *made = NULL;
    buf aside = {0};
    buf_fmt(&aside, "%s.making", m->out);
    err bad = buf_error(&aside);
    if (!bad.code) bad = gguf_create(&m->w, buf_cstr(&aside));
    if (!bad.code) bad = put_metas(m, vocab);
    if (!bad.code) bad = put_tensors(m);
    m->data = true;
    if (!bad.code) bad = put_tensors(m);
    if (!bad.code)
        bad = gguf_commit(m->w);
    else
        gguf_drop(m->w);
    if (!bad.code) {
        bad = model_open_mapped(&made, buf_cstr(&aside)); /* what the reader would refuse does not get its name */
        model_close(made);
        if (!bad.code && rename(buf_cstr(&aside), m->out)) bad = err_os("%s: cannot get its name", m->out);
        if (bad.code) unlink(buf_cstr(&aside));
    }
    buf_free(&aside);
    return bad;
}

err model_new(const char *out, const char *arch, const char *form, const char *vocab, u64 seed, i64 *parameters)
{
    maker m = {.arch = arch, .out = out, .tied = 1};
    model *v = NULL;
    char *path = NULL;
    TRY(take_shape(&m, form));
    if (vocab) snprintf(m.vocab, sizeof m.vocab, "%s", vocab);
    TRY(complete(&m));
    if (!*m.vocab) return err_new(ERR_INPUT, "the model needs a vocabulary: --vocab FILE, of `maru tokenizer train` or of a model");
    TRY(model_resolve(&path, m.vocab));
    rng_seed(&m.r, seed);
    err bad = model_open_tokenizer(&v, path);
    if (!bad.code) m.n_vocab = tokenizer_size(v->tok);
    if (!bad.code) bad = write_file(&m, v);
    *parameters = m.parameters;
    model_close(v);
    mem_free(path);
    return bad;
}

err vocab_save(const char *out, const trained_vocab *v, const char *pre, usize n_special, i64 end)
{
    gguf_writer *w;
    i32 *kind = mem_array(i32, v->n_tokens);
    if (!kind) return err_new(ERR_NOMEM, "%s: out of memory", out);
    for (i64 i = 0; i < v->n_tokens; i++) kind[i] = i < (i64)n_special ? TOKEN_CONTROL : TOKEN_NORMAL;
    err bad = gguf_create(&w, out);
    if (bad.code) return mem_free(kind), bad;
    gguf_put_str(w, "tokenizer.ggml.model", S("gpt2")); /* the writer keeps the first failure */
    gguf_put_str(w, "tokenizer.ggml.pre", str_of(pre));
    gguf_put_array(w, "tokenizer.ggml.tokens", META_STR, v->n_tokens, v->token);
    gguf_put_array(w, "tokenizer.ggml.token_type", META_I32, v->n_tokens, kind);
    gguf_put_array(w, "tokenizer.ggml.merges", META_STR, v->n_merges, v->merge);
    if (end >= 0) {
        gguf_put_u32(w, "tokenizer.ggml.bos_token_id", (u32)end); /* GPT-2's habit: one token ends a text and begins the next */
        gguf_put_u32(w, "tokenizer.ggml.eos_token_id", (u32)end);
        gguf_put_bool(w, "tokenizer.ggml.add_bos_token", false);
    }
    mem_free(kind);
    return gguf_commit(w);
}
