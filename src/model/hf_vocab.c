/* model/hf_vocab.c - the vocabulary of a model -> tokenizer.json, tokenizer_config.json and chat_template.jinja, as Hugging Face's
 * libraries read them and hf_tokenizer.c reads them back.
 *
 * The tokenizer class that is named is the one that takes tokenizer.json as it stands, because others build parts of it anew from
 * what they know of the model's family. SentencePiece's scores become a list of merges: every way to make a piece of two others, the
 * best piece first. */
#include "model/hf.h"
#include <stdlib.h>

typedef struct {
    const model *m;
    const token_source *s;
    const char *kind; /* "gpt2", "llama", "t5", "bert" */
    i64 n;            /* tokens that are written: padding of the embedding matrix is none */
    json_t *root;
} writer;
static const char mark[] = "\xE2\x96\x81";

static err no_memory(void) { return err_new(ERR_NOMEM, "out of memory while writing a tokenizer"); }
static void set(json_t *o, const char *key, json_t *value) { json_object_set_new_nocheck(o, key, value); }
static json_t *text(str s) { return json_stringn(s.p ? s.p : "", s.n); } /* NULL when it is no UTF-8 */
static str piece_of(const writer *w, i64 id) { return token_piece(w->m->tok, (i32)id); }

/* A piece as vocab.txt and its like spell it. */
static json_t *spelled(const writer *w, i64 id)
{
    str p = piece_of(w, id);
    token_kind k = token_kind_of(w->m->tok, (i32)id);
    bool named_so = p.n > 2 && p.p[0] == '[' && p.p[p.n - 1] == ']';
    if (strcmp(w->kind, "bert") != 0 || k == TOKEN_CONTROL || k == TOKEN_UNKNOWN || k == TOKEN_USER || named_so) return text(p);
    if (str_starts(p, str_of(mark))) return text((str){p.p + 3, p.n - 3});
    buf b = {0};
    buf_puts(&b, "##");
    buf_str(&b, p);
    json_t *j = b.bad ? NULL : text(buf_view(&b));
    buf_free(&b);
    return j;
}

static err put_vocab(const writer *w, json_t *to)
{
    json_t *vocab = json_object();
    for (i64 i = 0; i < w->n; i++) {
        json_t *p = spelled(w, i);
        if (!p)
            return json_decref(vocab), err_new(ERR_UNSUPPORTED, "%s: token %lld is not UTF-8 and cannot stand in tokenizer.json", w->m->path, (long long)i);
        if (strlen(json_string_value(p)) != json_string_length(p))
            return json_decref(p), json_decref(vocab), err_new(ERR_UNSUPPORTED, "%s: token %lld has a NUL in it and cannot stand in tokenizer.json", w->m->path, (long long)i);
        json_object_set_new_nocheck(vocab, json_string_value(p), json_integer(i));
        json_decref(p);
    }
    bool whole = (i64)json_object_size(vocab) == w->n;
    set(to, "vocab", vocab);
    return whole ? OK : err_new(ERR_UNSUPPORTED, "%s: two tokens have one spelling and cannot stand in tokenizer.json", w->m->path);
}

/* ---- byte-level BPE ------------------------------------------------------------------------------------------------------ */
static err put_merges(const writer *w, json_t *to)
{
    arena *a = arena_new();
    str *line;
    i64 n;
    json_t *list = json_array();
    err bad = a ? file_strings(w->m->file, "tokenizer.ggml.merges", a, &line, &n) : no_memory();
    for (i64 i = 0; !bad.code && i < n; i++) {
        i64 space = str_find(line[i], S(" "), 1); /* as bpe.c reads it */
        str left = {line[i].p, (usize)space}, right = {line[i].p + space + 1, line[i].n - (usize)space - 1};
        if (space < 0 || json_array_append_new(list, json_pack("[o,o]", text(left), text(right)))) bad = no_memory();
    }
    set(to, "merges", list);
    arena_free(a);
    return bad;
}

static err cutting(const char *pre, json_t *parts, bool *whole_words)
{
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|[\\s]+(?![^\\s])|[\\s]+";
    buf stage[PRE_STAGES] = {0};
    int n = tokenizer_pre_patterns(pre, stage, whole_words);
    bool plain = n > 0 && str_eq(buf_view(&stage[n - 1]), S(gpt2)), lost = false;
    for (int i = 0; i < n - plain; i++) {
        str s = buf_view(&stage[i]);
        lost |= stage[i].bad;
        json_array_append_new(parts, str_eq(s, S("\\p{N}")) ? json_pack("{s:s,s:b}", "type", "Digits", "individual_digits", 1)
                                                           : json_pack("{s:s,s:{s:o},s:s,s:b}", "type", "Split", "pattern", "Regex", text(s), "behavior", "Isolated", "invert", 0));
    }
    for (int i = 0; i < PRE_STAGES; i++) buf_free(&stage[i]);
    json_array_append_new(parts, json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", plain));
    return n < 0 ? err_new(ERR_BUG, "the pre-tokenizer \"%s\" is gone", pre) : lost ? no_memory() : OK;
}

static err put_bytes(const writer *w, json_t *to)
{
    bool whole = false;
    json_t *parts = json_array(), *bytes = json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1);
    err bad = cutting(w->s->pre, parts, &whole);
    set(w->root, "normalizer", json_null());
    set(w->root, "pre_tokenizer", json_pack("{s:s,s:o}", "type", "Sequence", "pretokenizers", parts));
    set(w->root, "decoder", bytes);
    set(to, "type", json_string("BPE"));
    set(to, "unk_token", json_null());
    set(to, "fuse_unk", json_false());
    set(to, "byte_fallback", json_false());
    set(to, "ignore_merges", json_boolean(whole));
    if (!bad.code) bad = put_vocab(w, to);
    return bad.code ? bad : put_merges(w, to);
}

/* ---- SentencePiece ------------------------------------------------------------------------------------------------------- */
typedef struct {
    str left, right;
    float score;
} join;

static int by_score(const void *a, const void *b)
{
    const join *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->left.p != y->left.p ? x->left.p < y->left.p ? -1 : 1 : x->left.n < y->left.n ? -1 : x->left.n > y->left.n;
}

static bool is_part(const writer *w, str s)
{
    i64 id = token_find(w->m->tok, s);
    token_kind k = token_kind_of(w->m->tok, (i32)id);
    return id >= 0 && id < w->n && (k == TOKEN_NORMAL || k == TOKEN_USER);
}

static err put_joins(const writer *w, json_t *to)
{
    const meta *scores = file_meta(w->m->file, "tokenizer.ggml.scores");
    join *all = NULL;
    usize n = 0, cap = 0;
    json_t *list = json_array();
    err bad = OK;
    CHECK(scores && scores->n >= w->n);
    for (i64 i = 0; i < w->n && !bad.code; i++) {
        str p = piece_of(w, i);
        float score;
        if (token_kind_of(w->m->tok, (i32)i) != TOKEN_NORMAL) continue;
        memcpy(&score, scores->array + 4 * i, 4);
        for (usize at = 0; at < p.n && !bad.code;) {
            utf8_next(p, &at);
            str left = {p.p, at}, right = {p.p + at, p.n - at};
            if (right.n && is_part(w, left) && is_part(w, right) && !VEC_PUSH(all, n, cap, ((join){left, right, score}))) bad = no_memory();
        }
    }
    if (n) qsort(all, n, sizeof *all, by_score);
    for (usize i = 0; i < n && !bad.code; i++)
        if (json_array_append_new(list, json_pack("[o,o]", text(all[i].left), text(all[i].right)))) bad = no_memory();
    set(to, "merges", list);
    mem_free(all);
    return bad;
}

static json_t *replace(const char *kind, const char *pattern, const char *by)
{
    return json_pack("{s:s,s:{s:s},s:s}", "type", "Replace", "pattern", kind, pattern, "content", by);
}

static json_t *unknown(const writer *w) { return w->s->unk >= 0 ? spelled(w, w->s->unk) : json_null(); }

static err put_spm(const writer *w, json_t *to)
{
    json_t *forms = json_array(), *back = json_array();
    if (w->s->add_space_prefix) json_array_append_new(forms, json_pack("{s:s,s:s}", "type", "Prepend", "prepend", mark));
    json_array_append_new(forms, replace("String", " ", mark));
    json_array_append_new(back, replace("String", mark, " "));
    json_array_append_new(back, json_pack("{s:s}", "type", "ByteFallback"));
    json_array_append_new(back, json_pack("{s:s}", "type", "Fuse"));
    if (w->s->add_space_prefix) json_array_append_new(back, json_pack("{s:s,s:s,s:i,s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0));
    set(w->root, "normalizer", json_pack("{s:s,s:o}", "type", "Sequence", "normalizers", forms));
    set(w->root, "pre_tokenizer", json_null());
    set(w->root, "decoder", json_pack("{s:s,s:o}", "type", "Sequence", "decoders", back));
    set(to, "type", json_string("BPE"));
    set(to, "unk_token", unknown(w));
    set(to, "fuse_unk", json_true());
    set(to, "byte_fallback", json_true());
    set(to, "ignore_merges", json_false());
    TRY(put_vocab(w, to));
    return put_joins(w, to);
}

static json_t *base64(const u8 *p, usize n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    buf b = {0};
    for (usize i = 0; i < n; i += 3) {
        u32 x = (u32)p[i] << 16 | (i + 1 < n ? (u32)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
        for (int k = 0; k < 4; k++) buf_byte(&b, i + (usize)k > n ? '=' : digits[x >> (18 - 6 * k) & 63]);
    }
    json_t *j = b.bad ? NULL : json_stringn_nocheck(buf_cstr(&b), b.n);
    buf_free(&b);
    return j;
}

static err put_unigram(const writer *w, json_t *to)
{
    const meta *scores = file_meta(w->m->file, "tokenizer.ggml.scores"), *map_of = file_meta(w->m->file, "tokenizer.ggml.precompiled_charsmap");
    json_t *forms = json_array(), *list = json_array();
    const char *scheme = w->s->add_space_prefix ? "always" : "never";
    if (map_of && map_of->kind == META_ARRAY && map_of->array_len)
        json_array_append_new(forms, json_pack("{s:s,s:o}", "type", "Precompiled", "precompiled_charsmap", base64(map_of->array, map_of->array_len)));
    if (w->s->remove_extra_whitespaces) {
        json_array_append_new(forms, json_pack("{s:s,s:b,s:b}", "type", "Strip", "strip_left", 1, "strip_right", 1));
        json_array_append_new(forms, replace("Regex", " {2,}", " "));
    }
    json_t *space = json_pack("{s:s,s:s,s:s,s:b}", "type", "Metaspace", "replacement", mark, "prepend_scheme", scheme, "split", 1);
    set(w->root, "normalizer", json_array_size(forms) ? json_pack("{s:s,s:O}", "type", "Sequence", "normalizers", forms) : json_null());
    json_decref(forms);
    set(w->root, "pre_tokenizer", space);
    set(w->root, "decoder", json_incref(space));
    set(to, "type", json_string("Unigram"));
    set(to, "unk_id", w->s->unk >= 0 ? json_integer(w->s->unk) : json_null());
    set(to, "byte_fallback", json_false());
    set(to, "vocab", list);
    CHECK(scores && scores->n >= w->n);
    for (i64 i = 0; i < w->n; i++) {
        float score;
        memcpy(&score, scores->array + 4 * i, 4);
        if (json_array_append_new(list, json_pack("[o,f]", spelled(w, i), (double)score))) return no_memory();
    }
    return OK;
}

/* ---- WordPiece ------------------------------------------------------------------------------------------------------------ */
static err put_words(const writer *w, json_t *to)
{
    set(w->root, "normalizer", json_pack("{s:s,s:b,s:b,s:b,s:b}", "type", "BertNormalizer", "clean_text", 1, "handle_chinese_chars", !w->s->han_in_words,
                                         "strip_accents", !w->s->accents, "lowercase", !w->s->cased));
    set(w->root, "pre_tokenizer", json_pack("{s:s}", "type", "BertPreTokenizer"));
    set(w->root, "decoder", json_pack("{s:s,s:s,s:b}", "type", "WordPiece", "prefix", "##", "cleanup", 1));
    set(to, "type", json_string("WordPiece"));
    set(to, "unk_token", unknown(w));
    set(to, "continuing_subword_prefix", json_string("##"));
    set(to, "max_input_chars_per_word", json_integer(100));
    return put_vocab(w, to);
}

/* ---- what stands around -------------------------------------------------------------------------------------------------- */
static json_t *added(const writer *w)
{
    json_t *list = json_array();
    for (i64 i = 0; i < w->n; i++) {
        token_kind k = token_kind_of(w->m->tok, (i32)i);
        if (k != TOKEN_CONTROL && k != TOKEN_UNKNOWN && k != TOKEN_USER) continue;
        json_array_append_new(list, json_pack("{s:I,s:o,s:b,s:b,s:b,s:b,s:b}", "id", (json_int_t)i, "content", text(piece_of(w, i)), "single_word", 0, "lstrip", 0, "rstrip", 0,
                                              "normalized", 0, "special", k != TOKEN_USER));
    }
    return list;
}

static void add_special(const writer *w, json_t *list, json_t *table, bool wanted, i64 id, int type)
{
    if (!wanted || id < 0) return;
    json_t *name = text(piece_of(w, id));
    json_array_append_new(list, json_pack("{s:{s:O,s:i}}", "SpecialToken", "id", name, "type_id", type));
    if (name) set(table, json_string_value(name), json_pack("{s:O,s:[I],s:[O]}", "id", name, "ids", (json_int_t)id, "tokens", name));
    json_decref(name);
}

static json_t *around(const writer *w)
{
    json_t *single = json_array(), *pair = json_array(), *table = json_object();
    bool bert = !strcmp(w->kind, "bert");
    for (int i = 0; i < 3; i++) { /* the single text, then both of a pair */
        json_t *to = i ? pair : single;
        int type = i == 2;
        if (i < 2 || !bert) add_special(w, to, table, w->s->add_bos, w->s->bos, bert ? type : 0);
        json_array_append_new(to, json_pack("{s:{s:s,s:i}}", "Sequence", "id", type ? "B" : "A", "type_id", bert ? type : 0));
        add_special(w, to, table, w->s->add_eos, w->s->eos, bert ? type : 0);
    }
    return json_pack("{s:s,s:o,s:o,s:o}", "type", "TemplateProcessing", "single", single, "pair", pair, "special_tokens", table);
}

static void put_named(const writer *w, json_t *to, const char *key, i64 id)
{
    if (id >= 0 && id < w->n) set(to, key, text(piece_of(w, id)));
}

static json_t *config(const writer *w)
{
    json_t *o = json_pack("{s:s,s:I,s:b,s:b,s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "model_max_length", (json_int_t)w->m->h.n_ctx, "add_bos_token",
                          w->s->add_bos > 0, "add_eos_token", w->s->add_eos > 0, "clean_up_tokenization_spaces", 0);
    put_named(w, o, "bos_token", w->s->bos);
    put_named(w, o, "eos_token", w->s->eos);
    put_named(w, o, "unk_token", w->s->unk);
    put_named(w, o, "pad_token", w->s->pad);
    put_named(w, o, "cls_token", w->s->cls);
    put_named(w, o, "sep_token", w->s->sep);
    put_named(w, o, "mask_token", w->s->mask);
    if (!w->m->arch->encoder) set(o, "model_input_names", json_pack("[s,s]", "input_ids", "attention_mask"));
    if (w->m->chat_source) set(o, "chat_template", text(str_of(w->m->chat_source)));
    return o;
}

static err write_json(const char *folder, const char *name, json_t *o)
{
    buf path = {0};
    char *out = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    buf_fmt(&path, "%s/%s", folder, name);
    err bad = out && !path.bad ? file_replace(buf_cstr(&path), out, strlen(out)) : no_memory();
    free(out); /* jansson's memory */
    buf_free(&path);
    return bad;
}

/* rows of the embedding matrix that no token has: "[PAD50300]", unused, at the end */
static i64 real_tokens(const model *m)
{
    i64 n = tokenizer_size(m->tok);
    for (char name[32]; n > 1; n--) {
        int len = snprintf(name, sizeof name, "[PAD%lld]", (long long)(n - 1));
        if (token_kind_of(m->tok, (i32)(n - 1)) != TOKEN_UNUSED || !str_eq(token_piece(m->tok, (i32)(n - 1)), (str){name, (usize)len})) break;
    }
    return n;
}

err hf_vocab_write(const model *m, const char *folder)
{
    static const struct {
        const char *kind;
        err (*put)(const writer *, json_t *model);
    } kinds[] = {{"gpt2", put_bytes}, {"llama", put_spm}, {"t5", put_unigram}, {"bert", put_words}};
    writer w = {.m = m, .s = tokenizer_source(m->tok), .root = json_object()};
    json_t *part = json_object();
    w.kind = w.s->model;
    w.n = real_tokens(m);
    err bad = err_new(ERR_BUG, "a tokenizer \"%s\" that cannot be written", w.kind);
    set(w.root, "version", json_string("1.0"));
    set(w.root, "truncation", json_null());
    set(w.root, "padding", json_null());
    set(w.root, "added_tokens", added(&w));
    set(w.root, "post_processor", w.s->add_bos > 0 || w.s->add_eos > 0 ? around(&w) : json_null());
    set(w.root, "model", part);
    for (usize i = 0; i < COUNT_OF(kinds); i++)
        if (!strcmp(w.kind, kinds[i].kind)) bad = kinds[i].put(&w, part);
    if (!bad.code) bad = write_json(folder, "tokenizer.json", w.root);
    json_decref(w.root);
    json_t *c = config(&w);
    if (!bad.code) bad = write_json(folder, "tokenizer_config.json", c);
    json_decref(c);
    return bad;
}
