/* quant/mix.c - THE table of mixes and of the rules by which a mix chooses types.
 *
 * What llama.cpp does in code (llama_tensor_get_type, read in release 0.5.0) stands here as rows: every row that fits is applied, in
 * order, so that what is special comes after what is general. A row names mixes, the part a tensor plays, a condition, the type it
 * must have come to so far, and the new one. Layers are counted as there: by tensors of the part, in the order of layers. */
#include "quant/quant.h"
#include <stdlib.h>
#include <strings.h>

/* name, type of a tensor about which no rule speaks, general.file_type, another name */
#define MIXES(X)                                                                                                                 \
    X(f32, F32, 0, NULL)                                                                                                         \
    X(f16, F16, 1, NULL)                                                                                                         \
    X(bf16, BF16, 32, NULL)                                                                                                      \
    X(q8_0, Q8_0, 7, NULL)                                                                                                       \
    X(q6_k, Q6_K, 18, NULL)                                                                                                      \
    X(q5_k_m, Q5_K, 17, "q5_k")                                                                                                  \
    X(q5_k_s, Q5_K, 16, NULL)                                                                                                    \
    X(q5_1, Q5_1, 9, NULL)                                                                                                       \
    X(q5_0, Q5_0, 8, NULL)                                                                                                       \
    X(q4_k_m, Q4_K, 15, "q4_k")                                                                                                  \
    X(q4_k_s, Q4_K, 14, NULL)                                                                                                    \
    X(q4_1, Q4_1, 3, NULL)                                                                                                       \
    X(q4_0, Q4_0, 2, NULL)                                                                                                       \
    X(iq4_nl, IQ4_NL, 25, NULL)                                                                                                  \
    X(iq4_xs, IQ4_XS, 30, NULL)                                                                                                  \
    X(mxfp4, MXFP4, 38, NULL)                                                                                                    \
    X(mxfp4_moe, Q8_0, 38, NULL)                                                                                                 \
    X(q3_k_l, Q3_K, 13, NULL)                                                                                                    \
    X(q3_k_m, Q3_K, 12, "q3_k")                                                                                                  \
    X(q3_k_s, Q3_K, 11, NULL)                                                                                                    \
    X(q2_k, Q2_K, 10, NULL)
enum {
#define X(name, type, number, also) mix_##name,
    MIXES(X)
#undef X
};
const quant_mix quant_mixes[] = {
#define X(name, type, number, also) {#name, type, number, also},
    MIXES(X)
#undef X
};
const usize quant_n_mixes = COUNT_OF(quant_mixes);
#define M(name) (1u << mix_##name)
#define ALL 0xffffffffu

typedef enum { OTHER = 1, HEAD = 2, EMBED = 4, V = 8, K = 16, O = 32, DOWN = 64, ANY_PART = 127 } part_of;
typedef enum {
    ALWAYS,
    FIRST_2,
    FIRST_4,
    FIRST_8TH,
    FIRST_16TH,
    MORE,          /* first and last eighth and every third layer between */
    BLIND_8TH,     /* first eighth, without importances */
    WEIGHED_8TH,   /* first eighth, with importances */
    SHARED_4,      /* at least four query heads share keys */
    EXPERTS_8,
    EXPERT_MATRIX, /* the matrix of several experts */
    LAYERS_80,     /* a 70B model of eight heads a key */
    ODD_ROW        /* not whole blocks of the mix's type */
} condition;
typedef enum { ANY_ARCH, FALCON, NOT_FALCON } family;
#define ANY DTYPE_COUNT

static const struct rule {
    u32 mixes;
    u32 part;
    condition when;
    family arch;
    dtype from, to;
} rules[] = {
    {~M(q8_0) & ~M(mxfp4_moe), HEAD, ALWAYS, ANY_ARCH, ANY, Q6_K},
    {ALL, HEAD, ODD_ROW, ANY_ARCH, ANY, Q8_0},
    {ALL, HEAD, ALWAYS, FALCON, ANY, Q8_0},
    {M(mxfp4_moe), ANY_PART & ~HEAD, EXPERT_MATRIX, ANY_ARCH, ANY, MXFP4},

    {M(q2_k) | M(q3_k_s), V, ALWAYS, ANY_ARCH, ANY, Q3_K},
    {M(q2_k), V, SHARED_4, ANY_ARCH, ANY, Q4_K},
    {M(q3_k_m), V, ALWAYS, ANY_ARCH, ANY, Q4_K},
    {M(q3_k_m), V, FIRST_2, ANY_ARCH, ANY, Q5_K},
    {M(q3_k_l), V, ALWAYS, ANY_ARCH, ANY, Q5_K},
    {M(q4_k_s), V, FIRST_4, ANY_ARCH, ANY, Q5_K},
    {M(q4_k_m) | M(q5_k_m), V, MORE, ANY_ARCH, ANY, Q6_K},
    {M(iq4_nl) | M(iq4_xs), V, SHARED_4, ANY_ARCH, ANY, Q5_K},
    {ALL & ~M(mxfp4_moe), V, LAYERS_80, ANY_ARCH, Q3_K, Q5_K},
    {ALL & ~M(mxfp4_moe), V, LAYERS_80, ANY_ARCH, Q4_K, Q5_K},
    {ALL & ~M(mxfp4_moe), V | K, EXPERTS_8, ANY_ARCH, ANY, Q8_0},

    {M(q2_k), DOWN, ALWAYS, ANY_ARCH, ANY, Q3_K},
    {M(q3_k_m), DOWN, ALWAYS, NOT_FALCON, ANY, Q4_K},
    {M(q3_k_m), DOWN, MORE, FALCON, ANY, Q4_K},
    {M(q3_k_m), DOWN, FIRST_16TH, ANY_ARCH, ANY, Q5_K},
    {M(q3_k_l), DOWN, ALWAYS, NOT_FALCON, ANY, Q5_K},
    {M(q3_k_l), DOWN, ALWAYS, FALCON, ANY, Q4_K},
    {M(q4_k_m), DOWN, MORE, NOT_FALCON, ANY, Q6_K},
    {M(q4_k_m), DOWN, MORE, FALCON, ANY, Q5_K},
    {M(q4_k_m), DOWN, FIRST_16TH, FALCON, ANY, Q6_K},
    {M(iq4_nl) | M(iq4_xs), DOWN, BLIND_8TH, ANY_ARCH, ANY, Q5_K},
    {M(q5_k_m), DOWN, MORE, ANY_ARCH, ANY, Q6_K},
    {M(q4_k_s), DOWN, FIRST_8TH, NOT_FALCON, ANY, Q5_K},
    {M(q4_0), DOWN, WEIGHED_8TH, ANY_ARCH, ANY, Q4_1},
    {M(q5_0), DOWN, WEIGHED_8TH, ANY_ARCH, ANY, Q5_1},

    {M(q2_k), O, ALWAYS, NOT_FALCON, ANY, Q3_K},
    {M(q3_k_m), O, ALWAYS, NOT_FALCON, ANY, Q4_K},
    {M(q3_k_l), O, ALWAYS, NOT_FALCON, ANY, Q5_K},
    {M(q3_k_l), O, ALWAYS, FALCON, ANY, Q4_K},
    {M(q3_k_l), O, EXPERTS_8, NOT_FALCON, ANY, Q3_K},
    {M(q2_k) | M(q3_k_s) | M(q3_k_m) | M(q4_k_s) | M(q4_k_m) | M(iq4_nl) | M(iq4_xs), O, EXPERTS_8, NOT_FALCON, ANY, Q5_K},
};

/* rows that are not whole blocks of 256 get a type of 32 near in size; rows that are not whole blocks of that, halves */
static const struct {
    dtype from, to;
} fallbacks[] = {{Q2_K, Q4_0}, {Q3_K, Q4_0}, {Q4_K, Q5_0}, {Q5_K, Q5_1}, {Q6_K, Q8_0}, {IQ4_XS, IQ4_NL}};

/* matrices that stay as they are: small, or too delicate */
static const char *const kept[] = {"_norm.weight",
                                   "ffn_gate_inp.weight",
                                   "ffn_gate_tid2eid.weight",
                                   "altup",
                                   "laurel",
                                   "per_layer_model_proj",
                                   "ssm_conv1d",
                                   "shortconv.conv.weight",
                                   "indexer.k_proj.weight",
                                   "indexer.q_proj.weight",
                                   "time_mix_first.weight",
                                   "time_mix_w0.weight",
                                   "time_mix_w1.weight",
                                   "time_mix_w2.weight",
                                   "time_mix_v0.weight",
                                   "time_mix_v1.weight",
                                   "time_mix_v2.weight",
                                   "time_mix_a0.weight",
                                   "time_mix_a1.weight",
                                   "time_mix_a2.weight",
                                   "time_mix_g1.weight",
                                   "time_mix_g2.weight",
                                   "time_mix_decay_w1.weight",
                                   "time_mix_decay_w2.weight",
                                   "time_mix_lerp_fused.weight",
                                   "attn_rel_b.weight",
                                   ".position_embd",
                                   "sam.pos_embd",
                                   "sam.neck.",
                                   "sam.net_",
                                   ".rel_pos",
                                   ".patch_embd",
                                   ".patch_merger",
                                   "a.rvq.codebook",
                                   "mm.a.code_embd"};

static const struct {
    const char *inside;
    part_of part;
} parts[] = {{"attn_qkv.weight", V}, {"attn_kv_b.weight", V}, {"attn_v.weight", V}, {"attn_k.weight", K}, {"attn_output.weight", O}, {"ffn_down", DOWN}};

typedef struct {
    const quant_mix *mix;
    u32 bit;
    bool weighed, tied, falcon, layers_80;
    i64 n_layer, n_experts, sharing, n_v; /* sharing: query heads to a key head; n_v: tensors of part V */
} facts;
typedef struct {
    const file_tensor *t;
    usize index;
    i64 layer;
} place;

const quant_mix *quant_mix_find(const char *word)
{
    for (usize i = 0; i < quant_n_mixes; i++)
        if (!strcasecmp(word, quant_mixes[i].name) || (quant_mixes[i].also && !strcasecmp(word, quant_mixes[i].also))) return &quant_mixes[i];
    return NULL;
}

static bool has(str name, const char *part) { return str_find(name, str_of(part), 0) >= 0; }

static part_of part_in(const facts *f, str name)
{
    bool embeds = str_eq(name, S("token_embd.weight")) || str_eq(name, S("per_layer_token_embd.weight"));
    if (str_eq(name, S("output.weight")) || (embeds && f->tied)) return HEAD;
    if (embeds) return EMBED;
    for (usize i = 0; i < COUNT_OF(parts); i++)
        if (has(name, parts[i].inside)) return parts[i].part;
    return OTHER;
}

static bool may_change(const file_tensor *t)
{
    if (t->n[1] * t->n[2] * t->n[3] < 2 || t->type == I32 || t->type >= DTYPE_COUNT || !str_ends(t->name, S("weight"))) return false;
    if (str_eq(t->name, S("position_embd.weight")) || str_eq(t->name, S("token_types.weight"))) return false;
    for (usize i = 0; i < COUNT_OF(kept); i++)
        if (has(t->name, kept[i])) return false;
    return true;
}

static bool holds(const facts *f, condition when, const file_tensor *t, i64 i, i64 n)
{
    switch (when) {
    case ALWAYS: return true;
    case FIRST_2: return i < 2;
    case FIRST_4: return i < 4;
    case FIRST_8TH: return i < n / 8;
    case FIRST_16TH: return i < n / 16;
    case MORE: return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
    case BLIND_8TH: return !f->weighed && i < n / 8;
    case WEIGHED_8TH: return f->weighed && i < n / 8;
    case SHARED_4: return f->sharing >= 4;
    case EXPERTS_8: return f->n_experts == 8;
    case EXPERT_MATRIX: return t->n[2] > 1;
    case LAYERS_80: return f->layers_80;
    case ODD_ROW: return t->n[0] % dtype_table[f->mix->type].block != 0;
    }
    return false;
}

static dtype choose(const facts *f, const file_tensor *t, part_of part, i64 layer, i64 n)
{
    dtype type = f->mix->type;
    for (usize r = 0; r < COUNT_OF(rules); r++) {
        const struct rule *x = &rules[r];
        if (!(x->mixes & f->bit) || !(x->part & (u32)part) || (x->from != ANY && x->from != type)) continue;
        if (x->arch != ANY_ARCH && (x->arch == FALCON) != f->falcon) continue;
        if (holds(f, x->when, t, layer, n)) type = x->to;
    }
    return type;
}

static dtype that_fits(dtype type, const file_tensor *t)
{
    if (t->n[0] % dtype_table[type].block == 0) return type;
    for (usize i = 0; i < COUNT_OF(fallbacks); i++)
        if (fallbacks[i].from == type && t->n[0] % dtype_table[fallbacks[i].to].block == 0) return fallbacks[i].to;
    return F16;
}

static i64 first_of(const model_file *f, const char *arch, const char *what, i64 otherwise)
{
    char key[160];
    i64 v;
    snprintf(key, sizeof key, "%s.%s", arch, what);
    const meta *m = file_meta(f, key);
    return m && m->n > 0 && !meta_i64_at(m, 0, &v).code ? v : otherwise; /* a list: of the first layer */
}

static facts facts_of(const model_file *f, const quant_mix *mix, bool weighed)
{
    const meta *a = file_meta(f, "general.architecture");
    char arch[64] = "";
    if (a && a->kind == META_STR) snprintf(arch, sizeof arch, "%.*s", (int)(a->v.s.n < 60 ? a->v.s.n : 60), a->v.s.p);
    i64 heads = first_of(f, arch, "attention.head_count", 1), shared = first_of(f, arch, "attention.head_count_kv", heads);
    facts x = {.mix = mix, .bit = 1u << (mix - quant_mixes), .weighed = weighed, .falcon = !strcmp(arch, "falcon")};
    x.n_layer = first_of(f, arch, "block_count", 0);
    x.n_experts = first_of(f, arch, "expert_count", 0);
    x.sharing = shared > 0 ? heads / shared : 0;
    x.layers_80 = x.n_layer == 80 && (!strcmp(arch, "llama") || !strcmp(arch, "qwen2"));
    x.tied = !file_tensor_find(f, S("output.weight"));
    for (usize i = 0; i < file_n_tensors(f); i++) x.n_v += part_in(&x, file_tensor_at(f, i)->name) == V;
    return x;
}

static i64 layer_in(str name)
{
    i64 v = 0, i = 4;
    if (!str_starts(name, S("blk."))) return -1;
    for (; i < (i64)name.n && name.p[i] >= '0' && name.p[i] <= '9' && v < 1000000; i++) v = 10 * v + (name.p[i] - '0');
    return i > 4 && i < (i64)name.n && name.p[i] == '.' ? v : -1;
}

static int by_layer(const void *a, const void *b)
{
    const place *x = a, *y = b;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    usize n = x->t->name.n < y->t->name.n ? x->t->name.n : y->t->name.n;
    int c = memcmp(x->t->name.p, y->t->name.p, n);
    return c ? c : (x->t->name.n > y->t->name.n) - (x->t->name.n < y->t->name.n);
}

err quant_types(const model_file *file, const quant_mix *mix, bool weighed, bool pure, dtype *to)
{
    facts f = facts_of(file, mix, weighed);
    usize n = file_n_tensors(file);
    i64 seen_v = 0, seen_down = 0;
    place *p = mem_array(place, n + 1);
    if (!p) return err_new(ERR_NOMEM, "out of memory for %zu tensors", n);
    for (usize i = 0; i < n; i++) p[i] = (place){file_tensor_at(file, i), i, layer_in(file_tensor_at(file, i)->name)};
    qsort(p, n, sizeof *p, by_layer);
    for (usize i = 0; i < n; i++) {
        const file_tensor *t = p[i].t;
        dtype *type = &to[p[i].index];
        if (!may_change(t)) { /* vectors of a quantised or halved file are floats already; what is not is expanded with the rest */
            *type = t->type < DTYPE_COUNT && dtype_table[t->type].quantised && mix->type == F32 ? F32 : t->type;
            continue;
        }
        part_of part = part_in(&f, t->name);
        *type = mix->type;
        if (dtype_table[mix->type].quantised && !pure) {
            bool named = part == DOWN && f.n_experts > 1;
            i64 layer = part == V ? seen_v : named ? p[i].layer : seen_down;
            *type = choose(&f, t, part, layer, part == V ? f.n_v : f.n_layer);
            seen_v += part == V, seen_down += part == DOWN;
        }
        *type = that_fits(*type, t);
    }
    mem_free(p);
    return OK;
}
