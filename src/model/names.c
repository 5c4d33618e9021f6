/* model/names.c - THE table of tensor names: Hugging Face's modules for GGUF's, and in which order the two keep the numbers.
 *
 * A row of a table is a pair of patterns, '#' being the layer; what a wrapper puts in front of a name ("model.", "transformer.")
 * belongs to the table. llama's q and k differ in the order of rows: Hugging Face rotates the pairs (i, i + hd/2), GGUF's llama
 * (2i, 2i + 1), so row j*hd/2 + i of a head there is row 2i + j here. GPT-2 keeps matrices as [in, out]. gemma's norms are stored
 * less one there. Architectures that maru does not run are known by their names only far enough to say which one it is. */
#include "model/arch.h"

typedef struct {
    const char *hf, *gguf;
    row_order order;
} name_row;
#define FAMILY                                                                                                                   \
    {"embed_tokens", "token_embd"}, {"layers.#.self_attn.q_proj", "blk.#.attn_q", ORDER_QUERY},                                  \
        {"layers.#.self_attn.k_proj", "blk.#.attn_k", ORDER_KEY}, {"layers.#.self_attn.v_proj", "blk.#.attn_v"},                 \
        {"layers.#.self_attn.o_proj", "blk.#.attn_output"}, {"layers.#.mlp.gate_proj", "blk.#.ffn_gate"},                        \
        {"layers.#.mlp.up_proj", "blk.#.ffn_up"},                                                                                \
    {                                                                                                                            \
        "layers.#.mlp.down_proj", "blk.#.ffn_down"                                                                               \
    }
static const name_row llama_rows[] = {FAMILY,
                                      {"layers.#.input_layernorm", "blk.#.attn_norm"},
                                      {"layers.#.post_attention_layernorm", "blk.#.ffn_norm"},
                                      {"norm", "output_norm"},
                                      {"lm_head", "output"},
                                      {"score", "score"},
                                      {0}};
static const name_row gemma_rows[] = {FAMILY,
                                      {"layers.#.self_attn.q_norm", "blk.#.attn_q_norm", ORDER_NORM},
                                      {"layers.#.self_attn.k_norm", "blk.#.attn_k_norm", ORDER_NORM},
                                      {"layers.#.input_layernorm", "blk.#.attn_norm", ORDER_NORM},
                                      {"layers.#.post_attention_layernorm", "blk.#.post_attention_norm", ORDER_NORM},
                                      {"layers.#.pre_feedforward_layernorm", "blk.#.ffn_norm", ORDER_NORM},
                                      {"layers.#.post_feedforward_layernorm", "blk.#.post_ffw_norm", ORDER_NORM},
                                      {"norm", "output_norm", ORDER_NORM},
                                      {"lm_head", "output"},
                                      {"score", "score"},
                                      {0}};
static const name_row gpt2_rows[] = {{"wte", "token_embd"},
                                     {"wpe", "position_embd"},
                                     {"h.#.ln_1", "blk.#.attn_norm"},
                                     {"h.#.attn.c_attn", "blk.#.attn_qkv", ORDER_TURNED},
                                     {"h.#.attn.c_proj", "blk.#.attn_output", ORDER_TURNED},
                                     {"h.#.ln_2", "blk.#.ffn_norm"},
                                     {"h.#.mlp.c_fc", "blk.#.ffn_up", ORDER_TURNED},
                                     {"h.#.mlp.c_proj", "blk.#.ffn_down", ORDER_TURNED},
                                     {"ln_f", "output_norm"},
                                     {"lm_head", "output"},
                                     {"score", "score"},
                                     {0}};
static const name_row bert_rows[] = {{"embeddings.word_embeddings", "token_embd"},
                                     {"embeddings.position_embeddings", "position_embd"},
                                     {"embeddings.token_type_embeddings", "token_types"},
                                     {"embeddings.LayerNorm", "token_embd_norm"},
                                     {"encoder.layer.#.attention.self.query", "blk.#.attn_q"},
                                     {"encoder.layer.#.attention.self.key", "blk.#.attn_k"},
                                     {"encoder.layer.#.attention.self.value", "blk.#.attn_v"},
                                     {"encoder.layer.#.attention.output.dense", "blk.#.attn_output"},
                                     {"encoder.layer.#.attention.output.LayerNorm", "blk.#.attn_output_norm"},
                                     {"encoder.layer.#.intermediate.dense", "blk.#.ffn_up"},
                                     {"encoder.layer.#.output.dense", "blk.#.ffn_down"},
                                     {"encoder.layer.#.output.LayerNorm", "blk.#.layer_output_norm"},
                                     {"pooler.dense", "cls"},
                                     {"classifier", "score"},
                                     {0}};

/* outer names by which wrappers reach the same modules, the one that is written first; lm_head, score stand outside of them */
static const struct name_table {
    const char *arch;
    const name_row *row;
    const char *outer[5];
} tables[] = {
    {"llama", llama_rows, {"model.", ""}},
    {"qwen2", llama_rows, {"model.", ""}},
    {"gemma3", gemma_rows, {"model.", "", "model.language_model.", "language_model.model."}},
    {"gpt2", gpt2_rows, {"transformer.", ""}},
    {"bert", bert_rows, {"", "bert.", "roberta.", "0.auto_model."}},
};
static const struct {
    const char *part, *arch;
} foreign[] = {
    {"model.decoder.layers.", "opt"},  {"gpt_neox.layers.", "gpt_neox"},
    {".attn.attention.", "gpt_neo"},   {".self_attention.", "bloom or falcon"},
    {".self_attn.qkv_proj", "phi3"},   {"distilbert.", "distilbert"},
    {".block_sparse_moe.", "mixtral"}, {".mlp.experts.", "a mixture of experts"},
    {"encoder.block.", "t5"},          {"decoder.block.", "t5"},
    {"backbone.layers.", "mamba"},     {".self_attn.Wqkv", "mpt or modernbert"},
};

static const struct name_table *table_of(const char *arch)
{
    for (usize i = 0; i < COUNT_OF(tables); i++)
        if (!strcmp(tables[i].arch, arch)) return &tables[i];
    return NULL;
}

/* whether `s` is the pattern with a number in place of '#' */
static bool fits(const char *pattern, str s, i64 *layer)
{
    usize at = 0;
    *layer = -1;
    for (const char *p = pattern; *p; p++) {
        if (*p != '#') {
            if (at == s.n || s.p[at++] != *p) return false;
            continue;
        }
        usize from = at;
        while (at < s.n && s.p[at] >= '0' && s.p[at] <= '9') at++;
        if (at == from || at - from > 5 || (s.p[from] == '0' && at - from > 1)) return false;
        if (!str_i64((str){s.p + from, at - from}, layer)) return false;
    }
    return at == s.n;
}

static bool fill_name(const char *pattern, i64 layer, str end, char *out, usize size)
{
    const char *mark = strchr(pattern, '#');
    int n = mark ? snprintf(out, size, "%.*s%lld%s%.*s", (int)(mark - pattern), pattern, (long long)layer, mark + 1, (int)end.n,
                            end.n ? end.p : "")
                 : snprintf(out, size, "%s%.*s", pattern, (int)end.n, end.n ? end.p : "");
    return n > 0 && (usize)n < size;
}

/* "module.weight" -> module and ".weight" or ".bias"; a name without either is a module alone */
static str split(str name, str *module)
{
    static const char *const ends[] = {".weight", ".bias"};
    *module = name;
    for (usize i = 0; i < COUNT_OF(ends); i++)
        if (str_ends(name, str_of(ends[i]))) {
            module->n -= strlen(ends[i]);
            return str_of(ends[i]);
        }
    return (str){0};
}

/* A bias is a vector: nothing to turn, and a llama's are ordered like the rows. */
static row_order order_in(const struct name_table *t, const name_row *r, bool bias)
{
    if (r->order == ORDER_TURNED) return bias ? ORDER_SAME : ORDER_TURNED;
    if (r->order == ORDER_QUERY || r->order == ORDER_KEY) return strcmp(t->arch, "llama") ? ORDER_SAME : r->order;
    return r->order;
}

bool names_from_hf(const char *arch, str hf, gguf_name *out)
{
    const struct name_table *t = table_of(arch);
    str module, end = split(hf, &module);
    for (usize o = 0; t && o < COUNT_OF(t->outer) && t->outer[o]; o++) {
        str outer = str_of(t->outer[o]), rest = module;
        if (!str_starts(module, outer)) continue;
        rest.p += outer.n, rest.n -= outer.n;
        for (const name_row *r = t->row; r->hf; r++) {
            i64 layer;
            if (!fits(r->hf, rest, &layer)) continue;
            bool ok = fill_name(r->gguf, layer, end, out->name, sizeof out->name);
            out->order = order_in(t, r, str_eq(end, S(".bias")));
            return ok;
        }
    }
    return false;
}

bool names_to_hf(const char *arch, const char *gguf, hf_name *out)
{
    const struct name_table *t = table_of(arch);
    str module, end = split(str_of(gguf), &module);
    for (const name_row *r = t ? t->row : NULL; r && r->hf; r++) {
        i64 layer;
        if (!fits(r->gguf, module, &layer)) continue;
        bool outside = !strcmp(r->gguf, "output") || !strcmp(r->gguf, "score");
        usize n = (usize)snprintf(out->name, sizeof out->name, "%s", outside ? "" : t->outer[0]);
        out->order = order_in(t, r, str_eq(end, S(".bias")));
        return fill_name(r->hf, layer, end, out->name + n, sizeof out->name - n);
    }
    return false;
}

const char *names_arch(str hf)
{
    gguf_name n;
    for (usize i = 0; i < COUNT_OF(foreign); i++)
        if (str_find(hf, str_of(foreign[i].part), 0) >= 0) return foreign[i].arch;
    for (usize i = 0; i < COUNT_OF(tables); i++)
        if (names_from_hf(tables[i].arch, hf, &n)) return tables[i].arch;
    return NULL;
}

void names_reorder(const model *m, row_order order, bool to_gguf, i64 k, i64 n, const float *from, float *to)
{
    if (order == ORDER_TURNED) { /* theirs: k rows of n */
        for (i64 r = 0; r < n; r++)
            for (i64 i = 0; i < k; i++) to_gguf ? (to[r * k + i] = from[i * n + r]) : (to[i * n + r] = from[r * k + i]);
        return;
    }
    if (order == ORDER_NORM) {
        for (i64 i = 0; i < k * n; i++) to[i] = from[i] + (to_gguf ? 1.0f : -1.0f);
        return;
    }
    if (order == ORDER_SAME) {
        memcpy(to, from, sizeof *to * (usize)(k * n));
        return;
    }
    i64 hd = m->h.head_dim, half = m->h.rope_dims / 2;
    for (i64 r = 0; r < n; r++) { /* r: row there */
        i64 in = r % hd, here = in < 2 * half ? r - in + 2 * (in % half) + in / half : r;
        const float *src = from + k * (to_gguf ? r : here);
        memcpy(to + k * (to_gguf ? here : r), src, sizeof *to * (usize)k);
    }
}
