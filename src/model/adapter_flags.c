/* model/adapter_flags.c - adapter_config.json: which of its members matter. PEFT adds flags with every release, and some change
 * what the stored numbers mean, so a member that this table does not have is accepted only when it is switched off. */
#include "model/adapter_inside.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <math.h>
#include <pcre2.h>
#include <stdlib.h>

/* read, or of no consequence once training is over */
static const char *const harmless[] = {
    "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode",
    "modules_to_save",
    /* LORA */
    "r", "lora_alpha", "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "use_rslora", "layers_to_transform",
    "layers_pattern", "bias", "init_lora_weights", "lora_dropout", "fan_in_fan_out" /* A and B are stored the same way */,
    "megatron_core", "runtime_config", "qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    /* prompts and prefixes */
    "num_virtual_tokens", "num_transformer_submodules", "num_attention_heads", "num_layers", "token_dim", "prompt_tuning_init",
    "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs", "encoder_hidden_size",
    "prefix_projection" /* what is stored is projected */, "init_weights", "encoder_reparameterization_type",
    "encoder_num_layers", "encoder_dropout"};
/* known, and not computed here */
static const struct {
    const char *key, *why;
} refused[] = {
    {"use_dora", "DoRA also learns the length of every row"},
    {"use_qalora", "it pools inputs by groups"},
    {"lora_bias", "B has a bias"},
    {"layer_replication", "layers are used several times"},
    {"target_parameters", "it adapts parameters that are no modules"},
    {"trainable_token_indices", "it replaces rows of the embedding"},
    {"alora_invocation_tokens", "it is active only after certain tokens"},
    {"arrow_config", "it routes between adapters"},
    {"megatron_config", "its modules are Megatron's"},
    {"ensure_weight_tying", "it ties tensors that are stored once"},
};

static bool is_on(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_NULL:
    case JSON_FALSE: return false;
    case JSON_STRING: return json_string_length(v) > 0;
    case JSON_ARRAY: return json_array_size(v) > 0;
    case JSON_OBJECT: return json_object_size(v) > 0;
    case JSON_INTEGER: return json_integer_value(v) != 0;
    case JSON_REAL: return json_real_value(v) != 0;
    default: return true;
    }
}

static void shown_value(const json_t *v, char *out, usize n)
{
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    snprintf(out, n, "%s", text ? text : "?");
    free(text); /* jansson's memory */
}

static err check_one(const char *key, const json_t *v, const char *where)
{
    char value[80], shown[80];
    for (usize i = 0; i < COUNT_OF(harmless); i++)
        if (!strcmp(harmless[i], key)) return OK;
    if (!is_on(v)) return OK;
    shown_value(v, value, sizeof value);
    for (usize i = 0; i < COUNT_OF(refused); i++)
        if (!strcmp(refused[i].key, key))
            return err_new(ERR_UNSUPPORTED, "%s: %s is %s: %s, which this build does not compute", where, key, value,
                           refused[i].why);
    snprintf(shown, sizeof shown, "%s", key);
    return err_new(ERR_UNSUPPORTED, "%s: the flag %s (%s) is not known here, and it may change what the adapter's numbers mean",
                   where, shown, value);
}

err adapter_check_flags(const json_t *config, const char *where, bool lora)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)config, key, v) TRY(check_one(key, v, where));
    if (!lora) return OK;
    /* initialisations that leave the base model as it is; the others took a part of it away before training began */
    static const char *const plain[] = {"gaussian", "eva", "orthogonal", "true", "false"};
    const json_t *init = json_object_get(config, "init_lora_weights");
    const char *how = json_string_value(init);
    bool known = !how;
    for (usize i = 0; how && i < COUNT_OF(plain); i++) known |= !strcmp(plain[i], how);
    if (known) return OK;
    char value[80];
    shown_value(init, value, sizeof value);
    return err_new(ERR_UNSUPPORTED,
                   "%s: init_lora_weights is %s: such an adapter belongs to a base model that was changed before training", where,
                   value);
}

/* ---- numbers and patterns ----------------------------------------------------------------------------------------------- */
err adapter_lora_flags(json_t *config, const char *where, lora_flags *f)
{
    const json_t *r = json_object_get(config, "r"), *alpha = json_object_get(config, "lora_alpha");
    *f = (lora_flags){.config = config,
                      .rank = r ? json_integer_value(r) : 8,
                      .alpha = alpha ? json_number_value(alpha) : 8,
                      .rslora = json_is_true(json_object_get(config, "use_rslora"))};
    if ((r && !json_is_integer(r)) || f->rank < 1 || f->rank > 1 << 16)
        return err_new(ERR_FORMAT, "%s: r is not a whole number of 1 to 65536", where);
    if ((alpha && !json_is_number(alpha)) || !isfinite(f->alpha))
        return err_new(ERR_FORMAT, "%s: lora_alpha is not a number", where);
    return OK;
}

/* whether the whole of `text` matches, with `before` and `after` around the pattern; the i-th group goes to *number */
static err matches(const char *where, const char *before, const char *pattern, const char *after, const char *text, bool *yes,
                   i64 *number)
{
    int code;
    PCRE2_SIZE at;
    buf b = {0};
    *yes = false;
    buf_puts(&b, before), buf_puts(&b, pattern), buf_puts(&b, after);
    TRY(buf_error(&b));
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)buf_cstr(&b), b.n, PCRE2_UTF, &code, &at, NULL);
    buf_free(&b);
    if (!re) return err_new(ERR_FORMAT, "%s: '%.80s' is not a regular expression that can be read", where, pattern);
    pcre2_match_data *md = pcre2_match_data_create_from_pattern(re, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    if (limits) pcre2_set_match_limit(limits, 100000); /* a pattern is somebody else's */
    int got =
        md && limits ? pcre2_match(re, (PCRE2_SPTR)text, strlen(text), 0, PCRE2_ANCHORED, md, limits) : PCRE2_ERROR_NOMEMORY;
    *yes = got > 0;
    if (*yes && number) {
        PCRE2_UCHAR idx[24];
        PCRE2_SIZE n = sizeof idx;
        *yes = !pcre2_substring_copy_byname(md, (PCRE2_SPTR) "idx", idx, &n) && str_i64((str){(char *)idx, n}, number);
    }
    pcre2_match_context_free(limits);
    pcre2_match_data_free(md);
    pcre2_code_free(re);
    if (got < 0 && got != PCRE2_ERROR_NOMATCH)
        return err_new(got == PCRE2_ERROR_NOMEMORY ? ERR_NOMEM : ERR_FORMAT, "%s: the pattern '%.80s' cannot be matched (%d)",
                       where, pattern, got);
    return OK;
}

err adapter_pattern(const char *pattern, const char *module, bool *yes)
{
    return matches("a pattern of modules", "(?:.*\\.)?(?:", pattern, ")$", module, yes, NULL);
}

/* the first pattern of the object that the module's end matches, as PEFT looks it up */
static err pattern_value(const lora_flags *f, const char *where, const char *which, const char *module, const json_t **out)
{
    json_t *patterns = json_object_get(f->config, which), *v;
    const char *key;
    *out = NULL;
    if (!patterns || json_is_null(patterns)) return OK;
    if (!json_is_object(patterns)) return err_new(ERR_FORMAT, "%s: %s is not an object", where, which);
    json_object_foreach(patterns, key, v)
    {
        bool yes;
        TRY(matches(where, "(?:.*\\.)?(?:", key, ")$", module, &yes, NULL));
        if (!yes) continue;
        if (!json_is_number(v)) return err_new(ERR_FORMAT, "%s: %s of '%.80s' is not a number", where, which, key);
        *out = v;
        return OK;
    }
    return OK;
}

err adapter_rank_alpha(const lora_flags *f, const char *where, const char *module, i64 *rank, double *alpha)
{
    const json_t *v;
    *rank = f->rank, *alpha = f->alpha;
    TRY(pattern_value(f, where, "rank_pattern", module, &v));
    if (v) *rank = json_integer_value(v);
    TRY(pattern_value(f, where, "alpha_pattern", module, &v));
    if (v) *alpha = json_number_value(v);
    return OK;
}

/* a name of a list: the whole module or its end after a dot */
static bool listed(const json_t *list, const char *module)
{
    usize i;
    json_t *v;
    json_array_foreach((json_t *)(uintptr_t)list, i, v)
    {
        const char *name = json_string_value(v);
        usize n = name ? strlen(name) : 0, m = strlen(module);
        if (name && n <= m && !strcmp(module + m - n, name) && (n == m || module[m - n - 1] == '.')) return true;
    }
    return false;
}

static err layer_chosen(const lora_flags *f, const char *where, const char *module, bool *yes)
{
    const json_t *layers = json_object_get(f->config, "layers_to_transform"),
                 *pattern = json_object_get(f->config, "layers_pattern");
    i64 at = -1;
    bool found = false;
    *yes = true;
    if (!layers || json_is_null(layers) || (json_is_array(layers) && !json_array_size(layers))) return OK;
    if (json_is_string(pattern) && json_string_length(pattern)) {
        TRY(matches(where, "(?:^|.*?\\.)", json_string_value(pattern), "\\.(?P<idx>\\d+)\\.", module, &found, &at));
    } else if (json_is_array(pattern) && json_array_size(pattern)) {
        for (usize i = 0; i < json_array_size(pattern) && !found; i++) {
            const char *p = json_string_value(json_array_get(pattern, i));
            if (p) TRY(matches(where, "(?:^|.*?\\.)", p, "\\.(?P<idx>\\d+)\\.", module, &found, &at));
        }
    } else {
        TRY(matches(where, "", ".*?\\.[^.]*\\.(?P<idx>\\d+)\\.", "", module, &found, &at));
    }
    *yes = found && json_is_integer(layers) && json_integer_value(layers) == at;
    for (usize i = 0; found && i < json_array_size(layers); i++) *yes |= json_integer_value(json_array_get(layers, i)) == at;
    return OK;
}

static err excluded(const lora_flags *f, const char *where, const char *module, bool *yes)
{
    const json_t *out = json_object_get(f->config, "exclude_modules"), *saved = json_object_get(f->config, "modules_to_save");
    *yes = false;
    if (json_is_string(out) && json_string_length(out))
        TRY(matches(where, "(?:", json_string_value(out), ")$", module, yes, NULL));
    if (json_is_array(out)) *yes = listed(out, module);
    for (usize i = 0; !*yes && i < json_array_size(saved); i++) {
        const char *p = json_string_value(json_array_get(saved, i));
        if (p) TRY(matches(where, "(?:^|.*\\.)", p, "(?:$|\\..*)", module, yes, NULL));
    }
    return OK;
}

err adapter_targets(const lora_flags *f, const char *where, const char *module, bool *targeted)
{
    const json_t *t = json_object_get(f->config, "target_modules");
    bool out;
    *targeted = false;
    TRY(excluded(f, where, module, &out));
    if (out) return OK;
    if (json_is_string(t)) {
        if (!strcmp(json_string_value(t), "all-linear"))
            return *targeted = strcmp(module, "lm_head") && strcmp(module, "score"), OK;
        return matches(where, "(?:", json_string_value(t), ")$", module, targeted, NULL);
    }
    if (!json_is_array(t) || !json_array_size(t)) return err_new(ERR_FORMAT, "%s: target_modules names no module", where);
    *targeted = listed(t, module);
    if (*targeted) TRY(layer_chosen(f, where, module, targeted));
    return OK;
}
