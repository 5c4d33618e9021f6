/* model/hf_config.c - config.json <-> hyperparameters: one table of keys per architecture, read in both directions, and one of the
 * settings that maru's graphs have fixed, so that a model which needs another one is refused by file and key. */
#include "model/hf.h"
#include <math.h>

typedef enum { KEY_INT, KEY_FLOAT } key_kind;
typedef struct {
    const char *arch, *hf, *gguf;
    key_kind kind;
    usize at;        /* in hparams */
    double absent;   /* what a missing key means; NAN: it must be there */
} key_row;
#define AT(field) offsetof(hparams, field)
#define SHAPE(a)                                                                                                                 \
    {a, "num_hidden_layers", "block_count", KEY_INT, AT(n_layer), NAN}, {a, "hidden_size", "embedding_length", KEY_INT, AT(width), NAN},        \
        {a, "intermediate_size", "feed_forward_length", KEY_INT, AT(n_ff), NAN},                                                 \
        {a, "num_attention_heads", "attention.head_count", KEY_INT, AT(n_head), NAN},                                            \
    {                                                                                                                            \
        a, "max_position_embeddings", "context_length", KEY_INT, AT(n_ctx), NAN                                                  \
    }
#define GROUPED(a)                                                                                                               \
    SHAPE(a), {a, "num_key_value_heads", "attention.head_count_kv", KEY_INT, AT(n_kv_head), 0},                                  \
    {                                                                                                                            \
        a, "rms_norm_eps", "attention.layer_norm_rms_epsilon", KEY_FLOAT, AT(eps), 1e-6                                          \
    }
static const key_row keys[] = {
    GROUPED("llama"),
    {"llama", "head_dim", "attention.key_length", KEY_INT, AT(head_dim), 0},
    GROUPED("qwen2"),
    {"qwen2", "head_dim", "attention.key_length", KEY_INT, AT(head_dim), 0},
    GROUPED("gemma3"),
    {"gemma3", "head_dim", "attention.key_length", KEY_INT, AT(head_dim), 256},
    {"gemma3", "sliding_window", "attention.sliding_window", KEY_INT, AT(window), 4096},
    {"gemma3", "attn_logit_softcapping", "attn_logit_softcapping", KEY_FLOAT, AT(softcap_attn), 0},
    {"gemma3", "final_logit_softcapping", "final_logit_softcapping", KEY_FLOAT, AT(softcap_logits), 0},
    {"gpt2", "n_layer", "block_count", KEY_INT, AT(n_layer), NAN},
    {"gpt2", "n_embd", "embedding_length", KEY_INT, AT(width), NAN},
    {"gpt2", "n_inner", "feed_forward_length", KEY_INT, AT(n_ff), -4}, /* times n_embd */
    {"gpt2", "n_head", "attention.head_count", KEY_INT, AT(n_head), NAN},
    {"gpt2", "n_positions", "context_length", KEY_INT, AT(n_ctx), NAN},
    {"gpt2", "layer_norm_epsilon", "attention.layer_norm_epsilon", KEY_FLOAT, AT(eps), 1e-5},
    SHAPE("bert"),
    {"bert", "layer_norm_eps", "attention.layer_norm_epsilon", KEY_FLOAT, AT(eps), 1e-12},
};

/* What the graphs take for granted: JSON texts, '|' between those that mean the same; a missing key means the first. */
static const struct {
    const char *arch, *key, *want; /* arch NULL: all */
} fixed[] = {
    {NULL, "quantization_config", "null"},
    {"llama", "hidden_act", "\"silu\""},
    {"llama", "mlp_bias", "false"},
    {"llama", "sliding_window", "null"},
    {"qwen2", "hidden_act", "\"silu\""},
    {"qwen2", "use_sliding_window", "false"},
    {"gemma3", "hidden_activation", "\"gelu_pytorch_tanh\""},
    {"gemma3", "use_bidirectional_attention", "false|null"},
    {"gpt2", "activation_function", "\"gelu_new\"|\"gelu_pytorch_tanh\"|\"gelu_fast\""},
    {"gpt2", "scale_attn_weights", "true"},
    {"gpt2", "scale_attn_by_inverse_layer_idx", "false"},
    {"gpt2", "add_cross_attention", "false"},
    {"bert", "hidden_act", "\"gelu\"|\"gelu_python\""},
    {"bert", "is_decoder", "false"},
    {"bert", "add_cross_attention", "false"},
    {"bert", "position_embedding_type", "\"absolute\""},
};
static const struct {
    const char *type, *arch, *class; /* model_type there, architecture here, the class that is written; the first row of an architecture */
} model_types[] = {
    {"llama", "llama", "LlamaForCausalLM"},         {"mistral", "llama", NULL},          {"qwen2", "qwen2", "Qwen2ForCausalLM"},
    {"gemma3_text", "gemma3", "Gemma3ForCausalLM"}, {"gpt2", "gpt2", "GPT2LMHeadModel"}, {"bert", "bert", "BertModel"},
};
static const char config[] = "config.json";

/* ---- reading ----------------------------------------------------------------------------------------------------------- */
static err check_fixed(const hf_reader *r)
{
    for (usize i = 0; i < COUNT_OF(fixed); i++) {
        if (fixed[i].arch && strcmp(fixed[i].arch, r->arch->name) != 0) continue;
        json_t *found = json_object_get(r->config, fixed[i].key);
        bool same = !found;
        for (const char *p = fixed[i].want; !same && *p;) {
            usize n = strcspn(p, "|");
            json_t *want = json_loadb(p, n, JSON_DECODE_ANY, NULL);
            same = json_equal(want, found);
            json_decref(want);
            p += n + (p[n] == '|');
        }
        if (!same) return hf_wrong(r, ERR_UNSUPPORTED, config, fixed[i].key, found, fixed[i].want);
    }
    return OK;
}

static err put_key(hf_reader *r, const key_row *k, i64 width)
{
    json_t *v = json_object_get(r->config, k->hf);
    char key[96];
    snprintf(key, sizeof key, "%s.%s", r->arch->name, k->gguf);
    if (json_is_null(v)) v = NULL;
    if (!v && isnan(k->absent)) return hf_wrong(r, ERR_FORMAT, config, k->hf, NULL, "a number");
    if (k->kind == KEY_FLOAT) {
        if (v && (!json_is_number(v) || !(json_number_value(v) >= 0) || json_number_value(v) > 1e6))
            return hf_wrong(r, ERR_FORMAT, config, k->hf, v, "a number of at least 0");
        return !v && k->absent == 0 ? OK : hf_put_f64(r, key, v ? json_number_value(v) : k->absent);
    }
    if (v && (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > INT32_MAX))
        return hf_wrong(r, ERR_FORMAT, config, k->hf, v, "a whole number of at least 1");
    i64 n = v ? (i64)json_integer_value(v) : k->absent < 0 ? -(i64)k->absent * width : (i64)k->absent;
    if (!n) return OK; /* hparams_read knows what its absence means */
    TRY(hf_put_i64(r, key, n));
    if (strcmp(k->gguf, "attention.key_length") != 0) return OK;
    snprintf(key, sizeof key, "%s.attention.value_length", r->arch->name);
    return hf_put_i64(r, key, n);
}

static err put_float(hf_reader *r, const char *what, json_t *v, const char *shown, double absent)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", r->arch->name, what);
    if (json_is_null(v)) v = NULL;
    if (v && (!json_is_number(v) || !(json_number_value(v) > 0) || json_number_value(v) > 1e12))
        return hf_wrong(r, ERR_FORMAT, config, shown, v, "a number above 0");
    return hf_put_f64(r, key, v ? json_number_value(v) : absent);
}

/* llama3's way to longer contexts: slow rotations are slowed down by `factor`, fast ones not, those between partly. The GGUF keeps
 * the divisors (rope_freqs.weight, made in hf_weights.c) and has no place for what they were made of: maru.rope.llama3 keeps it. */
static err put_llama3(hf_reader *r, json_t *scaling)
{
    static const char *const names[] = {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"};
    float f[4];
    for (int i = 0; i < 4; i++) {
        json_t *v = json_object_get(scaling, names[i]);
        if (!json_is_number(v) || !(json_number_value(v) > 0) || json_number_value(v) > 1e9) return hf_wrong(r, ERR_FORMAT, config, names[i], v, "a number above 0");
        f[i] = (float)json_number_value(v);
    }
    if (!(f[2] > f[1])) return hf_wrong(r, ERR_FORMAT, config, "high_freq_factor", json_object_get(scaling, names[2]), "more than low_freq_factor");
    return hf_put_array(r, "maru.rope.llama3", META_F32, 4, f);
}

static err put_scaling(hf_reader *r, json_t *scaling)
{
    char key[96];
    json_t *kind = json_object_get(scaling, "rope_type");
    if (!kind) kind = json_object_get(scaling, "type");
    const char *name = json_string_value(kind);
    if (!scaling || json_is_null(scaling) || (name && !strcmp(name, "default")) || (json_is_object(scaling) && !kind)) return OK;
    if (name && !strcmp(name, "llama3") && !strcmp(r->arch->name, "llama")) return put_llama3(r, scaling);
    if (!name || strcmp(name, "linear") != 0) return hf_wrong(r, ERR_UNSUPPORTED, config, "rope_scaling.rope_type", kind, "default, linear or llama3");
    snprintf(key, sizeof key, "%s.rope.scaling.type", r->arch->name);
    TRY(hf_put_str(r, key, S("linear")));
    return put_float(r, "rope.scaling.factor", json_object_get(scaling, "factor"), "rope_scaling.factor", 1);
}

/* Older files have rope_theta and rope_scaling, newer ones rope_parameters, for each kind of layer where there are several. */
static err put_rope(hf_reader *r)
{
    json_t *all = json_object_get(r->config, "rope_parameters"), *full = json_object_get(all, "full_attention");
    json_t *near = json_object_get(all, "sliding_attention"), *partial = json_object_get(r->config, "partial_rotary_factor");
    bool gemma = r->arch->local_theta > 0;
    if (!full) full = all;
    json_t *theta = json_object_get(full, "rope_theta"), *local = json_object_get(near, "rope_theta");
    if (!theta) theta = json_object_get(r->config, "rope_theta");
    if (!local) local = json_object_get(r->config, "rope_local_base_freq");
    if (partial && (!json_is_number(partial) || json_number_value(partial) != 1)) return hf_wrong(r, ERR_UNSUPPORTED, config, "partial_rotary_factor", partial, "1");
    TRY(put_float(r, "rope.freq_base", theta, "rope_theta", gemma ? 1e6 : 1e4));
    if (gemma) TRY(put_float(r, "rope.freq_base_swa", local, "rope_local_base_freq", 1e4));
    return put_scaling(r, full && !json_is_null(full) ? full : json_object_get(r->config, "rope_scaling"));
}

static err check_gemma(const hf_reader *r)
{
    json_t *head = json_object_get(r->config, "head_dim"), *scalar = json_object_get(r->config, "query_pre_attn_scalar");
    double h = json_is_number(head) ? json_number_value(head) : 256, q = json_is_number(scalar) ? json_number_value(scalar) : 256;
    if (h != q) return hf_wrong(r, ERR_UNSUPPORTED, config, "query_pre_attn_scalar", scalar, "head_dim");
    json_t *pattern = json_object_get(r->config, "sliding_window_pattern"), *types = json_object_get(r->config, "layer_types");
    if (!pattern) pattern = json_object_get(r->config, "_sliding_window_pattern");
    if (json_is_integer(pattern) && json_integer_value(pattern) != r->arch->global_every)
        return hf_wrong(r, ERR_UNSUPPORTED, config, "sliding_window_pattern", pattern, "6");
    for (usize i = 0; i < json_array_size(types); i++) {
        const char *t = json_string_value(json_array_get(types, i)), *want = (i + 1) % (usize)r->arch->global_every ? "sliding_attention" : "full_attention";
        if (!t || strcmp(t, want) != 0) return hf_wrong(r, ERR_UNSUPPORTED, config, "layer_types", json_array_get(types, i), "every sixth layer to be full_attention");
    }
    return OK;
}

static err find_arch(hf_reader *r)
{
    const char *type = json_string_value(json_object_get(r->config, "model_type"));
    for (usize i = 0; type && i < COUNT_OF(model_types); i++)
        if (!strcmp(type, model_types[i].type)) r->arch = arch_find(str_of(model_types[i].arch));
    if (r->arch) return OK;
    buf known = {0};
    for (usize i = 0; i < COUNT_OF(model_types); i++) buf_fmt(&known, i ? ", %s" : "%s", model_types[i].type);
    err bad = hf_wrong(r, type ? ERR_UNSUPPORTED : ERR_FORMAT, config, "model_type", json_object_get(r->config, "model_type"), buf_cstr(&known));
    buf_free(&known);
    return bad;
}

err hf_config_read(hf_reader *r)
{
    i64 width = json_integer_value(json_object_get(r->config, "n_embd"));
    TRY(find_arch(r));
    TRY(hf_put_str(r, "general.architecture", str_of(r->arch->name)));
    TRY(check_fixed(r));
    if (width < 0 || width > INT32_MAX / 4) return hf_wrong(r, ERR_FORMAT, config, "n_embd", json_object_get(r->config, "n_embd"), "a whole number of at least 1");
    for (usize i = 0; i < COUNT_OF(keys); i++)
        if (!strcmp(keys[i].arch, r->arch->name)) TRY(put_key(r, &keys[i], width));
    if (!r->arch->encoder && !r->arch->learned) TRY(put_rope(r));
    if (r->arch->global_every) TRY(check_gemma(r));
    return r->arch->encoder ? hf_put_bool(r, "bert.attention.causal", false) : OK;
}

/* ---- what sentence-transformers adds ----------------------------------------------------------------------------------- */
static err read_modules(const hf_reader *r)
{
    static const char *const known[] = {"Transformer", "Pooling", "Normalize"};
    json_t *modules;
    TRY(hf_json(r, "modules.json", false, &modules));
    err bad = OK;
    for (usize i = 0; !bad.code && i < json_array_size(modules); i++) {
        const char *type = json_string_value(json_object_get(json_array_get(modules, i), "type")), *last = type ? strrchr(type, '.') : NULL;
        bool ok = false;
        for (usize k = 0; last && k < COUNT_OF(known); k++) ok |= !strcmp(last + 1, known[k]);
        if (!ok) bad = hf_wrong(r, ERR_UNSUPPORTED, "modules.json", "type", json_object_get(json_array_get(modules, i), "type"), "Transformer, Pooling, Normalize");
    }
    json_decref(modules);
    return bad;
}

static err read_pooling(hf_reader *r)
{
    static const struct {
        const char *key;
        int type;
    } modes[] = {{"pooling_mode_mean_tokens", 1}, {"pooling_mode_cls_token", 2}, {"pooling_mode_lasttoken", 3}};
    json_t *p, *v;
    const char *key;
    int type = 0, n = 0;
    TRY(hf_json(r, "1_Pooling/config.json", false, &p));
    err bad = OK;
    json_object_foreach(p, key, v)
    {
        if (strncmp(key, "pooling_mode_", 13) != 0 || !json_is_true(v) || bad.code) continue;
        int found = 0;
        for (usize i = 0; i < COUNT_OF(modes); i++)
            if (!strcmp(key, modes[i].key)) found = modes[i].type;
        if (!found || n++) bad = hf_wrong(r, ERR_UNSUPPORTED, "1_Pooling/config.json", key, v, "one of mean_tokens, cls_token and lasttoken alone");
        type = found;
    }
    json_decref(p);
    return bad.code ? bad : hf_put_i64(r, "bert.pooling_type", type ? type : 1);
}

err hf_pooling_read(hf_reader *r)
{
    json_t *limits;
    TRY(read_modules(r));
    TRY(read_pooling(r));
    TRY(hf_json(r, "sentence_bert_config.json", false, &limits));
    json_t *most = json_object_get(limits, "max_seq_length");
    err bad = OK;
    if (most && !json_is_null(most)) {
        u64 at;
        if (!json_is_integer(most) || json_integer_value(most) < 3 || json_integer_value(most) > INT32_MAX)
            bad = hf_wrong(r, ERR_FORMAT, "sentence_bert_config.json", "max_seq_length", most, "a whole number of at least 3");
        else if (map_get(r->f->by_key, S("bert.context_length"), &at))
            r->f->metas[at].v.i = i64_min(r->f->metas[at].v.i, json_integer_value(most));
    }
    json_decref(limits);
    return bad;
}

/* ---- writing ----------------------------------------------------------------------------------------------------------- */
static void set(json_t *o, const char *key, json_t *value) { json_object_set_new(o, key, value); }

/* the shortest decimal that is this float: 1e-6, not 9.99999997e-07 */
static json_t *real(float v)
{
    char text[32];
    double out = (double)v;
    for (int digits = 1; digits < 10; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (str_f64(str_of(text), &out) && (float)out == v) break;
    }
    return json_real(out);
}

static void put_scaling_json(const model *m, json_t *o)
{
    const meta *l3 = file_meta(m->file, "maru.rope.llama3");
    if (l3 && l3->kind == META_ARRAY && l3->item == META_F32 && l3->n == 4) {
        float f[4];
        memcpy(f, l3->array, sizeof f);
        set(o, "rope_scaling", json_pack("{s:s,s:o,s:o,s:o,s:I}", "rope_type", "llama3", "factor", real(f[0]), "low_freq_factor", real(f[1]), "high_freq_factor", real(f[2]),
                                         "original_max_position_embeddings", (json_int_t)f[3]));
    } else if (m->h.rope_scale != 1) {
        set(o, "rope_scaling", json_pack("{s:s,s:o}", "rope_type", "linear", "factor", real(1.0f / m->h.rope_scale)));
    }
}

static void put_gemma_json(const model *m, json_t *o)
{
    json_t *types = json_array();
    for (i64 i = 0; i < m->h.n_layer; i++) json_array_append_new(types, json_string((i + 1) % m->arch->global_every ? "sliding_attention" : "full_attention"));
    set(o, "layer_types", types);
    set(o, "sliding_window_pattern", json_integer(m->arch->global_every));
    set(o, "query_pre_attn_scalar", json_integer(m->h.head_dim));
    set(o, "rope_local_base_freq", real(m->h.local_theta));
}

json_t *hf_config_json(const model *m, bool tied, dtype main)
{
    json_t *o = json_object();
    const token_source *t = m->tok ? tokenizer_source(m->tok) : NULL;
    for (usize i = 0; i < COUNT_OF(model_types); i++) {
        if (strcmp(model_types[i].arch, m->arch->name) != 0 || !model_types[i].class) continue;
        set(o, "architectures", json_pack("[s]", model_types[i].class));
        set(o, "model_type", json_string(model_types[i].type));
    }
    for (usize i = 0; i < COUNT_OF(keys); i++) {
        const u8 *at = (const u8 *)&m->h + keys[i].at;
        if (strcmp(keys[i].arch, m->arch->name) != 0) continue;
        if (keys[i].kind == KEY_INT)
            set(o, keys[i].hf, json_integer(*(const i64 *)(const void *)at));
        else if (*(const float *)(const void *)at != 0 || keys[i].absent != 0)
            set(o, keys[i].hf, real(*(const float *)(const void *)at));
    }
    for (usize i = 0; i < COUNT_OF(fixed); i++)
        if (fixed[i].arch && !strcmp(fixed[i].arch, m->arch->name) && fixed[i].want[0] == '"')
            set(o, fixed[i].key, json_loadb(fixed[i].want, strcspn(fixed[i].want, "|"), JSON_DECODE_ANY, NULL));
    if (!m->arch->encoder && !m->arch->learned) {
        set(o, "rope_theta", real(m->h.theta));
        put_scaling_json(m, o);
    }
    if (m->arch->global_every) put_gemma_json(m, o);
    if (!strcmp(m->arch->name, "llama") || !strcmp(m->arch->name, "qwen2"))
        set(o, "attention_bias", json_boolean(m->layers[0].q_b.data != NULL));
    if (m->arch->encoder) {
        set(o, "max_position_embeddings", json_integer(m->positions.n)); /* the window may be less: sentence_bert_config.json */
        set(o, "type_vocab_size", json_integer(i64_max(m->h.n_types, 1)));
    } else {
        set(o, "tie_word_embeddings", json_boolean(tied));
    }
    set(o, "vocab_size", json_integer(m->h.n_vocab));
    set(o, "torch_dtype", json_string(main == F16 ? "float16" : main == BF16 ? "bfloat16" : "float32"));
    if (t && t->bos >= 0 && !m->arch->encoder) set(o, "bos_token_id", json_integer(t->bos));
    if (t && t->eos >= 0 && !m->arch->encoder) set(o, "eos_token_id", json_integer(t->eos));
    if (t && t->pad >= 0) set(o, "pad_token_id", json_integer(t->pad));
    return o;
}

json_t *hf_pooling_json(const model *m)
{
    pool_kind p = m->h.pooling;
    return json_pack("{s:I,s:b,s:b,s:b,s:b}", "word_embedding_dimension", (json_int_t)m->h.width, "pooling_mode_cls_token", p == POOL_FIRST,
                     "pooling_mode_mean_tokens", p == POOL_MEAN, "pooling_mode_lasttoken", p == POOL_LAST, "pooling_mode_max_tokens", 0);
}
