/* model/arch.c - THE table of architectures: a new one over the decoder or the encoder is one row here. */
#include "model/arch.h"

const arch_row arch_table[] = {
    {.name = "llama", .act = ACT_SILU, .default_pre = "default"},
    {.name = "qwen2", .neox = true, .act = ACT_SILU, .default_pre = "qwen2"},
    {.name = "gemma3", .neox = true, .qk_norm = true, .post_norm = true, .scale_embedding = true, .act = ACT_GELU_TANH, .global_every = 6, .local_theta = 10000},
    {.name = "gpt2", .learned = true, .layer_norm = true, .ungated = true, .fused = true, .act = ACT_GELU_TANH, .default_pre = "gpt-2"},
    {.name = "bert", .encoder = true, .act = ACT_GELU},
};

const arch_row *arch_find(str name)
{
    for (usize i = 0; i < COUNT_OF(arch_table); i++)
        if (str_eq(str_of(arch_table[i].name), name)) return &arch_table[i];
    return NULL;
}

err arch_unknown(str name)
{
    buf known = {0};
    for (usize i = 0; i < COUNT_OF(arch_table); i++) buf_fmt(&known, i ? ", %s" : "%s", arch_table[i].name);
    err e = err_new(ERR_UNSUPPORTED, "architecture \"%.*s\": this build runs %s", (int)(name.n < 40 ? name.n : 40), name.p, buf_cstr(&known));
    buf_free(&known);
    return e;
}
