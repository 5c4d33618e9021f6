/* model/hf_tokenizer.c - tokenizer.json (Hugging Face's tokenizers) -> the vocabulary metadata of a GGUF.
 *
 * A tokenizer there is a chain of parts: normalizer, pre-tokenizer, model, post-processor. Only chains that one of maru's four
 * tokenizers computes are taken; any other part is refused by name, because it would give wrong tokens that look right.
 * SentencePiece-like BPE has a list of merges there and scores here: the score of a piece is the rank of its first merge, negated,
 * and a piece that no merge makes gets no normal token's kind, since a score alone would let it be made. NFC in front of byte-level BPE is not
 * in a GGUF and is passed over, as llama.cpp does: it only concerns decomposed text. */
#include "model/hf.h"

static const char file_name[] = "tokenizer.json", config_name[] = "tokenizer_config.json";
static const str mark = {"\xE2\x96\x81", 3};

typedef struct {
    hf_reader *r;
    json_t *model, *vocab;
    const char *kind; /* "gpt2", "llama", "t5", "bert" */
    char pre[32];
    i64 n, cap; /* tokens */
    str *piece; /* [n] borrowed from the JSON, or in own */
    i32 *type;
    float *score;
    map *id_of; /* piece there -> id */
    str charsmap;
    buf charsmap_bytes;
    i64 bos, eos;
    int add_bos, add_eos, prefix, trim; /* -1: not known yet */
} vocabulary;

static err wrong(const vocabulary *v, err_code code, const char *key, json_t *found, const char *expected) { return hf_wrong(v->r, code, file_name, key, found, expected); }
static const char *text_of(json_t *o, const char *key) { const char *s = json_string_value(json_object_get(o, key)); return s ? s : ""; }
static bool is(json_t *o, const char *type) { return !strcmp(text_of(o, "type"), type); }
static str json_text(json_t *s) { return (str){json_string_value(s), json_string_length(s)}; }

/* the parts of a Sequence, or the one part there is; n 0: none */
enum { MAX_PARTS = 16 };
static err parts_of(const vocabulary *v, const char *key, const char *inner, json_t *part[MAX_PARTS], usize *n)
{
    json_t *top = json_object_get(v->r->tokenizer, key), *list = is(top, "Sequence") ? json_object_get(top, inner) : NULL;
    *n = 0;
    if (!top || json_is_null(top)) return OK;
    if (!is(top, "Sequence")) return part[(*n)++] = top, OK;
    if (!json_is_array(list) || json_array_size(list) > MAX_PARTS) return wrong(v, ERR_FORMAT, key, list, "a list of at most 16 parts");
    for (; *n < json_array_size(list); ++*n) part[*n] = json_array_get(list, *n);
    return OK;
}

/* ---- tokens ------------------------------------------------------------------------------------------------------------ */
static err room(vocabulary *v, i64 id, usize known)
{
    if (id < 0 || id > 2 * (i64)known + 65536) return err_new(ERR_FORMAT, "%s/%s: token id %lld with %zu tokens", v->r->folder, file_name, (long long)id, known);
    if (id >= v->cap) {
        i64 cap = i64_max(2 * v->cap, id + 1024);
        usize a = (usize)v->cap, b = (usize)v->cap, c = (usize)v->cap;
        if (!vec_grow((void **)&v->piece, &a, (usize)cap, sizeof *v->piece) || !vec_grow((void **)&v->type, &b, (usize)cap, sizeof *v->type) ||
            !vec_grow((void **)&v->score, &c, (usize)cap, sizeof *v->score))
            return hf_no_memory(v->r);
        v->cap = (i64)(a < b ? a < c ? a : c : b < c ? b : c);
    }
    v->n = i64_max(v->n, id + 1);
    return OK;
}

static err put_token(vocabulary *v, str piece, i64 id, i32 type, float score, usize known)
{
    TRY(room(v, id, known));
    if (v->piece[id].p && !str_eq(v->piece[id], piece))
        return err_new(ERR_FORMAT, "%s/%s: token %lld is both '%.60s' and '%.60s'", v->r->folder, file_name, (long long)id, v->piece[id].p, piece.p);
    v->piece[id] = piece;
    v->type[id] = type;
    v->score[id] = score;
    return map_put(v->id_of, piece, (u64)id) ? OK : hf_no_memory(v->r);
}

static bool is_byte(str s)
{
    return s.n == 6 && !memcmp(s.p, "<0x", 3) && s.p[5] == '>' && strchr("0123456789ABCDEFabcdef", s.p[3]) && strchr("0123456789ABCDEFabcdef", s.p[4]);
}

static err take_vocab(vocabulary *v)
{
    const char *piece;
    json_t *value;
    bool bytes = json_is_true(json_object_get(v->model, "byte_fallback"));
    if (!strcmp(v->kind, "t5")) {
        usize known = json_array_size(v->vocab);
        for (usize i = 0; i < known; i++) {
            json_t *row = json_array_get(v->vocab, i), *s = json_array_get(row, 1);
            if (!json_is_string(json_array_get(row, 0)) || !json_is_number(s)) return wrong(v, ERR_FORMAT, "model.vocab", row, "pairs of a piece and a score");
            str p = json_text(json_array_get(row, 0));
            TRY(put_token(v, p, (i64)i, bytes && is_byte(p) ? TOKEN_BYTE : TOKEN_NORMAL, (float)json_number_value(s), known));
        }
        json_t *unk = json_object_get(v->model, "unk_id");
        if (json_is_integer(unk) && json_integer_value(unk) >= 0 && json_integer_value(unk) < v->n) v->type[json_integer_value(unk)] = TOKEN_UNKNOWN;
        return OK;
    }
    if (!json_is_object(v->vocab)) return wrong(v, ERR_FORMAT, "model.vocab", v->vocab, "an object of pieces and ids");
    json_object_foreach(v->vocab, piece, value)
    {
        if (!json_is_integer(value)) return wrong(v, ERR_FORMAT, "model.vocab", value, "an id");
        bool byte = !strcmp(v->kind, "llama") && bytes && is_byte(str_of(piece));
        TRY(put_token(v, str_of(piece), json_integer_value(value), byte ? TOKEN_BYTE : TOKEN_NORMAL, 0, json_object_size(v->vocab)));
    }
    return OK;
}

static err take_added(vocabulary *v)
{
    json_t *list = json_object_get(v->r->tokenizer, "added_tokens"), *unk_name = json_object_get(v->model, "unk_token");
    for (usize i = 0; i < json_array_size(list); i++) {
        json_t *a = json_array_get(list, i), *id = json_object_get(a, "id"), *text = json_object_get(a, "content");
        if (!json_is_integer(id) || !json_is_string(text) || !json_string_length(text)) return wrong(v, ERR_FORMAT, "added_tokens", a, "an id and a content");
        str s = json_text(text);
        bool special = json_is_true(json_object_get(a, "special")), byte_level = !strcmp(v->kind, "gpt2");
        i32 type = special ? TOKEN_CONTROL : TOKEN_USER;
        i64 at = json_integer_value(id);
        if (at >= 0 && at < v->n && v->type[at] == TOKEN_UNKNOWN) type = TOKEN_UNKNOWN;
        if (!byte_level && strcmp(v->kind, "bert") != 0 && json_is_string(unk_name) && str_eq(json_text(unk_name), s)) type = TOKEN_UNKNOWN;
        if (at >= 0 && at < v->n && v->type[at] == TOKEN_BYTE) continue;
        TRY(put_token(v, s, at, type, at >= 0 && at < v->n ? v->score[at] : 0, (usize)v->n + json_array_size(list)));
    }
    return v->n ? OK : wrong(v, ERR_FORMAT, "model.vocab", NULL, "tokens");
}

/* ---- merges ------------------------------------------------------------------------------------------------------------ */
/* "left right", or ["left","right"] */
static err merge_at(const vocabulary *v, json_t *list, usize i, buf *joined, usize *left)
{
    json_t *m = json_array_get(list, i);
    buf_reset(joined);
    if (json_is_string(m)) {
        str s = json_text(m);
        i64 space = str_find(s, S(" "), 1);
        if (space < 0) return wrong(v, ERR_FORMAT, "model.merges", m, "two pieces with a space between them");
        *left = (usize)space;
        buf_put(joined, s.p, *left);
        buf_put(joined, s.p + space + 1, s.n - *left - 1);
        return buf_error(joined);
    }
    json_t *a = json_array_get(m, 0), *b = json_array_get(m, 1);
    if (!json_is_string(a) || !json_is_string(b)) return wrong(v, ERR_FORMAT, "model.merges", m, "two pieces");
    *left = json_string_length(a);
    buf_str(joined, json_text(a));
    buf_str(joined, json_text(b));
    return buf_error(joined);
}

static err merges_to_scores(vocabulary *v, json_t *list)
{
    enum { UNRANKED = -16777215 };
    buf b = {0};
    err bad = OK;
    for (i64 i = 0; i < v->n; i++) v->score[i] = UNRANKED;
    for (usize i = 0; i < json_array_size(list) && !bad.code; i++) {
        usize left;
        u64 id;
        bad = merge_at(v, list, i, &b, &left);
        if (!bad.code && map_get(v->id_of, buf_view(&b), &id) && v->score[id] == UNRANKED) v->score[id] = -(float)i;
    }
    buf_free(&b);
    for (i64 i = 0; i < v->n && !bad.code; i++)
        if (v->type[i] == TOKEN_NORMAL && v->score[i] == UNRANKED && v->piece[i].p && utf8_count(v->piece[i]) > 1) v->type[i] = TOKEN_UNUSED;
    return bad;
}

static err put_merges(vocabulary *v, json_t *list)
{
    usize n = json_array_size(list);
    str *out = mem_array(str, n + 1);
    buf b = {0};
    arena *a = arena_new();
    err bad = out && a ? OK : hf_no_memory(v->r);
    for (usize i = 0; i < n && !bad.code; i++) {
        usize left;
        bad = merge_at(v, list, i, &b, &left);
        if (bad.code) break;
        char *line = arena_take(a, b.n + 2);
        if (!line) bad = hf_no_memory(v->r);
        if (bad.code) break;
        memcpy(line, b.p, left);
        line[left] = ' ';
        memcpy(line + left + 1, b.p + left, b.n - left);
        out[i] = (str){line, b.n + 1};
    }
    if (!bad.code) bad = hf_put_array(v->r, "tokenizer.ggml.merges", META_STR, (i64)n, out);
    buf_free(&b);
    arena_free(a);
    mem_free(out);
    return bad;
}

/* ---- parts in front of the model ----------------------------------------------------------------------------------------- */
static int base64_digit(char c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : c == '/' ? 63 : -1;
}

static err take_charsmap(vocabulary *v, json_t *part)
{
    str s = json_text(json_object_get(part, "precompiled_charsmap"));
    u32 bits = 0;
    int have = 0;
    buf_reset(&v->charsmap_bytes);
    for (usize i = 0; i < s.n && s.p[i] != '='; i++) {
        int d = base64_digit(s.p[i]);
        if (d < 0) return wrong(v, ERR_FORMAT, "normalizer.precompiled_charsmap", NULL, "base64");
        bits = bits << 6 | (u32)d;
        if ((have += 6) >= 8) buf_byte(&v->charsmap_bytes, (int)(bits >> (have -= 8) & 0xFF));
    }
    v->charsmap = buf_view(&v->charsmap_bytes);
    return buf_error(&v->charsmap_bytes);
}

static bool is_replace(json_t *part, const char *string, const char *regex, const char *by)
{
    json_t *p = json_object_get(part, "pattern");
    return is(part, "Replace") && !strcmp(text_of(part, "content"), by) &&
           ((string && !strcmp(text_of(p, "String"), string)) || (regex && !strcmp(text_of(p, "Regex"), regex)));
}

static err take_bert(vocabulary *v, json_t *part)
{
    json_t *lower = json_object_get(part, "lowercase"), *strip = json_object_get(part, "strip_accents");
    bool lowers = !json_is_false(lower), strips = json_is_boolean(strip) ? json_is_true(strip) : lowers;
    if (json_is_false(json_object_get(part, "clean_text"))) return wrong(v, ERR_UNSUPPORTED, "normalizer.clean_text", json_object_get(part, "clean_text"), "true");
    if (!lowers) TRY(hf_put_bool(v->r, "maru.wordpiece.cased", true));
    if (!strips) TRY(hf_put_bool(v->r, "maru.wordpiece.accents", true));
    if (json_is_false(json_object_get(part, "handle_chinese_chars"))) TRY(hf_put_bool(v->r, "maru.wordpiece.han_in_words", true));
    return OK;
}

static err take_normalizers(vocabulary *v)
{
    json_t *part[MAX_PARTS];
    usize n;
    TRY(parts_of(v, "normalizer", "normalizers", part, &n));
    bool spm = !strcmp(v->kind, "llama") || !strcmp(v->kind, "t5"), bert = !strcmp(v->kind, "bert");
    if (bert && (n != 1 || !is(part[0], "BertNormalizer"))) return wrong(v, ERR_UNSUPPORTED, "normalizer", json_object_get(v->r->tokenizer, "normalizer"), "BertNormalizer");
    for (usize i = 0; i < n; i++) {
        if (bert) {
            TRY(take_bert(v, part[i]));
        } else if (is(part[i], "NFC") && !spm) { /* see above */
        } else if (spm && is(part[i], "Prepend") && str_eq(json_text(json_object_get(part[i], "prepend")), mark)) {
            v->prefix = 1;
        } else if (spm && is(part[i], "Precompiled")) {
            TRY(take_charsmap(v, part[i]));
        } else if (spm && is_replace(part[i], " ", NULL, "\xE2\x96\x81")) {
            if (v->prefix < 0) v->prefix = 0;
        } else if (spm && (is_replace(part[i], NULL, " {2,}", " ") || is(part[i], "Strip"))) {
            v->trim = 1;
        } else {
            return wrong(v, ERR_UNSUPPORTED, "normalizer", part[i], "one that a GGUF can hold");
        }
    }
    return OK;
}

/* a row of pretok.c from Digits, Split and ByteLevel */
static err take_cutting(vocabulary *v, json_t **part, usize n)
{
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    str pattern[MAX_PARTS];
    usize stages = 0;
    for (usize i = 0; i < n; i++) {
        json_t *regex = json_object_get(json_object_get(part[i], "pattern"), "Regex");
        if (is(part[i], "Digits") && json_is_true(json_object_get(part[i], "individual_digits"))) {
            pattern[stages++] = S("\\p{N}");
        } else if (is(part[i], "Split") && json_is_string(regex) && !strcmp(text_of(part[i], "behavior"), "Isolated") && !json_is_true(json_object_get(part[i], "invert"))) {
            pattern[stages++] = json_text(regex);
        } else if (is(part[i], "ByteLevel") && i == n - 1 && !json_is_true(json_object_get(part[i], "add_prefix_space"))) {
            if (!json_is_false(json_object_get(part[i], "use_regex"))) pattern[stages++] = str_of(gpt2);
        } else {
            return wrong(v, ERR_UNSUPPORTED, "pre_tokenizer", part[i], "Digits, Split by a known pattern, or ByteLevel without a prefix space");
        }
    }
    if (tokenizer_pre_find(pattern, stages, json_is_true(json_object_get(v->model, "ignore_merges")), v->pre)) return OK;
    return wrong(v, ERR_UNSUPPORTED, "pre_tokenizer", json_object_get(v->r->tokenizer, "pre_tokenizer"), "a known way of cutting words");
}

static err take_metaspace(vocabulary *v, json_t *part)
{
    json_t *scheme = json_object_get(part, "prepend_scheme"), *old = json_object_get(part, "add_prefix_space");
    const char *how = json_string_value(scheme);
    if (!str_eq(json_text(json_object_get(part, "replacement")), mark)) return wrong(v, ERR_UNSUPPORTED, "pre_tokenizer.replacement", json_object_get(part, "replacement"), "U+2581");
    v->prefix = how ? strcmp(how, "never") != 0 : !json_is_false(old);
    return OK;
}

static err take_pre_tokenizers(vocabulary *v)
{
    json_t *part[MAX_PARTS];
    usize n;
    TRY(parts_of(v, "pre_tokenizer", "pretokenizers", part, &n));
    if (!strcmp(v->kind, "gpt2")) return take_cutting(v, part, n);
    bool bert = !strcmp(v->kind, "bert");
    if (bert && (n != 1 || !is(part[0], "BertPreTokenizer"))) return wrong(v, ERR_UNSUPPORTED, "pre_tokenizer", json_object_get(v->r->tokenizer, "pre_tokenizer"), "BertPreTokenizer");
    for (usize i = 0; i < n && !bert; i++) {
        bool no_op = is(part[i], "Split") && !strcmp(text_of(json_object_get(part[i], "pattern"), "String"), " ") && !strcmp(v->kind, "llama");
        if (is(part[i], "Metaspace"))
            TRY(take_metaspace(v, part[i]));
        else if (is(part[i], "WhitespaceSplit") && !strcmp(v->kind, "t5"))
            v->trim = 1;
        else if (!no_op) /* spaces are U+2581 by then */
            return wrong(v, ERR_UNSUPPORTED, "pre_tokenizer", part[i], "Metaspace");
    }
    return OK;
}

/* ---- which of the four ---------------------------------------------------------------------------------------------------- */
static bool holds(json_t *root, const char *key, const char *inner, const char *type)
{
    json_t *top = json_object_get(root, key), *list = json_object_get(top, inner);
    bool yes = is(top, type);
    for (usize i = 0; i < json_array_size(list); i++) yes |= is(json_array_get(list, i), type);
    return yes;
}

static err find_kind(vocabulary *v)
{
    json_t *t = v->r->tokenizer;
    const char *type = json_string_value(json_object_get(v->model, "type"));
    if (!type) type = json_object_get(v->model, "merges") ? "BPE" : json_is_array(v->vocab) ? "Unigram" : "WordPiece"; /* old files do not say */
    if (!strcmp(type, "Unigram")) return v->kind = "t5", OK;
    if (!strcmp(type, "WordPiece")) {
        json_t *prefix = json_object_get(v->model, "continuing_subword_prefix");
        if (prefix && !str_eq(json_text(prefix), S("##"))) return wrong(v, ERR_UNSUPPORTED, "model.continuing_subword_prefix", prefix, "\"##\"");
        return v->kind = "bert", OK;
    }
    if (strcmp(type, "BPE") != 0) return wrong(v, ERR_UNSUPPORTED, "model.type", json_object_get(v->model, "type"), "BPE, Unigram or WordPiece");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (usize i = 0; i < COUNT_OF(affixes); i++) {
        json_t *a = json_object_get(v->model, affixes[i]);
        if (json_is_string(a) && json_string_length(a)) return wrong(v, ERR_UNSUPPORTED, affixes[i], a, "none");
    }
    if (holds(t, "pre_tokenizer", "pretokenizers", "ByteLevel")) return v->kind = "gpt2", OK;
    if (json_is_true(json_object_get(v->model, "byte_fallback"))) return v->kind = "llama", OK;
    return wrong(v, ERR_UNSUPPORTED, "model", json_object_get(t, "pre_tokenizer"), "BPE over bytes (ByteLevel) or with byte_fallback");
}

/* ---- special tokens ------------------------------------------------------------------------------------------------------- */
/* "</s>", {"content":"</s>"}: as tokenizer_config.json has them */
static i64 id_named(const vocabulary *v, const char *key)
{
    json_t *x = json_object_get(v->r->tokenizer_config, key);
    u64 id;
    if (json_is_object(x)) x = json_object_get(x, "content");
    return json_is_string(x) && map_get(v->id_of, json_text(x), &id) ? (i64)id : -1;
}

static i64 id_numbered(const vocabulary *v, const char *key)
{
    json_t *x = json_object_get(v->r->config, key);
    if (json_is_array(x)) x = json_array_get(x, 0);
    return json_is_integer(x) && json_integer_value(x) >= 0 && json_integer_value(x) < v->n ? (i64)json_integer_value(x) : -1;
}

static i64 special_id(const vocabulary *v, json_t *item)
{
    u64 id;
    json_t *name = json_object_get(json_object_get(item, "SpecialToken"), "id");
    return json_is_string(name) && map_get(v->id_of, json_text(name), &id) ? (i64)id : -1;
}

static err take_template(vocabulary *v, json_t *p)
{
    json_t *single = json_object_get(p, "single");
    bool seen = false;
    v->add_bos = v->add_eos = 0;
    for (usize i = 0; i < json_array_size(single); i++) {
        json_t *item = json_array_get(single, i);
        if (json_object_get(item, "Sequence")) {
            seen = true;
            continue;
        }
        i64 id = special_id(v, item);
        int *add = seen ? &v->add_eos : &v->add_bos;
        if (id < 0 || *add) return wrong(v, ERR_UNSUPPORTED, "post_processor.single", single, "at most one known token in front and one behind");
        *add = 1;
        *(seen ? &v->eos : &v->bos) = id;
    }
    return OK;
}

static err take_around(vocabulary *v)
{
    json_t *part[MAX_PARTS];
    usize n;
    TRY(parts_of(v, "post_processor", "processors", part, &n));
    for (usize i = 0; i < n; i++) {
        u64 id;
        json_t *cls = json_array_get(json_object_get(part[i], "cls"), 0), *sep = json_array_get(json_object_get(part[i], "sep"), 0);
        if (is(part[i], "TemplateProcessing")) {
            TRY(take_template(v, part[i]));
        } else if (is(part[i], "BertProcessing") || is(part[i], "RobertaProcessing")) {
            v->add_bos = v->add_eos = 1;
            v->bos = json_is_string(cls) && map_get(v->id_of, json_text(cls), &id) ? (i64)id : -1;
            v->eos = json_is_string(sep) && map_get(v->id_of, json_text(sep), &id) ? (i64)id : -1;
            if (v->bos < 0 || v->eos < 0) return wrong(v, ERR_FORMAT, "post_processor", part[i], "known tokens");
        } else if (!is(part[i], "ByteLevel")) {
            return wrong(v, ERR_UNSUPPORTED, "post_processor", part[i], "TemplateProcessing, BertProcessing or RobertaProcessing");
        }
    }
    json_t *c = v->r->tokenizer_config;
    if (v->add_bos < 0) v->add_bos = json_is_true(json_object_get(c, "add_bos_token")); /* no such part: what the older classes do by themselves */
    if (v->add_eos < 0) v->add_eos = json_is_true(json_object_get(c, "add_eos_token"));
    if (v->bos < 0) v->bos = id_named(v, "bos_token");
    if (v->bos < 0) v->bos = id_numbered(v, "bos_token_id");
    if (v->eos < 0) v->eos = id_named(v, "eos_token");
    if (v->eos < 0) v->eos = id_numbered(v, "eos_token_id");
    v->add_bos &= v->bos >= 0;
    v->add_eos &= v->eos >= 0;
    return OK;
}

static err put_id(vocabulary *v, const char *key, i64 id)
{
    char name[64];
    snprintf(name, sizeof name, "tokenizer.ggml.%s_token_id", key);
    return id >= 0 ? hf_put_i64(v->r, name, id) : OK;
}

static err put_ids(vocabulary *v)
{
    bool bert = !strcmp(v->kind, "bert");
    i64 unk = id_named(v, "unk_token"), sep = id_named(v, "sep_token");
    json_t *name = json_object_get(v->model, "unk_token");
    u64 id;
    if (json_is_string(name) && map_get(v->id_of, json_text(name), &id)) unk = (i64)id;
    for (i64 i = 0; i < v->n && unk < 0; i++)
        if (v->type[i] == TOKEN_UNKNOWN) unk = i;
    TRY(put_id(v, "bos", v->bos));
    TRY(put_id(v, "eos", v->eos));
    TRY(put_id(v, "unknown", unk));
    TRY(put_id(v, "seperator", sep >= 0 ? sep : bert ? v->eos : -1)); /* the key is spelled so in the format */
    TRY(put_id(v, "padding", id_named(v, "pad_token")));
    TRY(put_id(v, "cls", bert ? v->bos : id_named(v, "cls_token")));
    TRY(put_id(v, "mask", id_named(v, "mask_token")));
    TRY(hf_put_bool(v->r, "tokenizer.ggml.add_bos_token", v->add_bos));
    TRY(hf_put_bool(v->r, "tokenizer.ggml.add_eos_token", v->add_eos));
    if (v->prefix >= 0) TRY(hf_put_bool(v->r, "tokenizer.ggml.add_space_prefix", v->prefix));
    return v->trim >= 0 ? hf_put_bool(v->r, "tokenizer.ggml.remove_extra_whitespaces", v->trim) : OK;
}

/* ---- as a GGUF has them --------------------------------------------------------------------------------------------------- */
static char *keep_text(vocabulary *v, const char *fmt, str s)
{
    buf b = {0};
    buf_fmt(&b, fmt, (int)s.n, s.p);
    char *copy = b.bad ? NULL : arena_str(v->r->f->own, b.p, b.n);
    buf_free(&b);
    return copy;
}

/* "##ing" -> "ing", "the" -> U+2581 "the" */
static err spell_wordpiece(vocabulary *v)
{
    for (i64 i = 0; i < v->n; i++) {
        str *p = &v->piece[i];
        if (v->type[i] != TOKEN_NORMAL || !p->p) continue;
        if (p->n > 2 && p->p[0] == '[' && p->p[p->n - 1] == ']') continue; /* [unused7] */
        if (p->n > 2 && str_starts(*p, S("##"))) {
            p->p += 2, p->n -= 2;
            continue;
        }
        char *copy = keep_text(v, "\xE2\x96\x81%.*s", *p);
        if (!copy) return hf_no_memory(v->r);
        *p = (str){copy, p->n + 3};
    }
    return OK;
}

/* ids without a token: gaps, and rows of the embedding matrix past the vocabulary, which llama.cpp wants named */
static err fill_gaps(vocabulary *v)
{
    i64 all = i64_max(v->n, i64_min(v->r->n_rows, 1 << 24));
    for (i64 i = 0; i < all; i++) {
        char name[32];
        if (i < v->n && v->piece[i].p) continue;
        str s = {name, (usize)snprintf(name, sizeof name, "[PAD%lld]", (long long)i)};
        u64 taken;
        while (map_get(v->id_of, s, &taken) && s.n < sizeof name - 2) name[s.n++] = '_'; /* a name of its own */
        char *copy = keep_text(v, "%.*s", s);
        if (!copy) return hf_no_memory(v->r);
        TRY(put_token(v, (str){copy, s.n}, i, TOKEN_UNUSED, 0, (usize)all));
    }
    return OK;
}

static err put_vocab(vocabulary *v)
{
    bool scored = !strcmp(v->kind, "llama") || !strcmp(v->kind, "t5");
    TRY(hf_put_str(v->r, "tokenizer.ggml.model", str_of(v->kind)));
    if (*v->pre) TRY(hf_put_str(v->r, "tokenizer.ggml.pre", str_of(v->pre)));
    TRY(hf_put_array(v->r, "tokenizer.ggml.tokens", META_STR, v->n, v->piece));
    if (scored) TRY(hf_put_array(v->r, "tokenizer.ggml.scores", META_F32, v->n, v->score));
    TRY(hf_put_array(v->r, "tokenizer.ggml.token_type", META_I32, v->n, v->type));
    if (v->charsmap.n) TRY(hf_put_array(v->r, "tokenizer.ggml.precompiled_charsmap", META_U8, (i64)v->charsmap.n, v->charsmap.p));
    return OK;
}

static err take_all(vocabulary *v)
{
    json_t *merges = json_object_get(v->model, "merges");
    if (!json_is_object(v->model)) return wrong(v, ERR_FORMAT, "model", v->model, "an object");
    TRY(find_kind(v));
    TRY(take_vocab(v));
    TRY(take_added(v));
    TRY(take_normalizers(v));
    TRY(take_pre_tokenizers(v));
    TRY(take_around(v));
    TRY(put_ids(v));
    if (!strcmp(v->kind, "llama")) TRY(merges_to_scores(v, merges));
    if (!strcmp(v->kind, "gpt2")) TRY(put_merges(v, merges));
    TRY(fill_gaps(v));
    if (!strcmp(v->kind, "bert")) TRY(spell_wordpiece(v));
    return put_vocab(v);
}

/* ---- chat templates -------------------------------------------------------------------------------------------------------- */
static err put_chat(hf_reader *r)
{
    json_t *t = json_object_get(r->tokenizer_config, "chat_template");
    char *path = hf_path(r, "chat_template.jinja");
    buf b = {0};
    err bad = path ? OK : hf_no_memory(r);
    if (!bad.code && file_exists(path)) {
        bad = file_read(&b, path, 4 << 20);
        if (!bad.code) bad = hf_put_str(r, "tokenizer.chat_template", buf_view(&b));
        t = NULL;
    }
    json_t *chosen = json_is_string(t) ? t : NULL;
    for (usize i = 0; !json_is_string(t) && i < json_array_size(t); i++)
        if (!chosen || !strcmp(text_of(json_array_get(t, i), "name"), "default")) chosen = json_object_get(json_array_get(t, i), "template");
    if (!bad.code && json_is_string(chosen)) bad = hf_put_str(r, "tokenizer.chat_template", json_text(chosen));
    buf_free(&b);
    mem_free(path);
    return bad;
}

err hf_tokenizer_read(hf_reader *r)
{
    vocabulary v = {.r = r, .bos = -1, .eos = -1, .add_bos = -1, .add_eos = -1, .prefix = -1, .trim = -1};
    TRY(hf_json(r, file_name, true, &r->tokenizer));
    TRY(hf_json(r, config_name, false, &r->tokenizer_config));
    v.model = json_object_get(r->tokenizer, "model");
    v.vocab = json_object_get(v.model, "vocab");
    v.id_of = map_new();
    if (!r->f->own) r->f->own = arena_new();
    err bad = v.id_of && r->f->own ? take_all(&v) : hf_no_memory(r);
    if (!bad.code) bad = put_chat(r);
    map_free(v.id_of);
    mem_free(v.piece);
    mem_free(v.type);
    mem_free(v.score);
    buf_free(&v.charsmap_bytes);
    return bad;
}
