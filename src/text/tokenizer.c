/* text/tokenizer.c - a tokenizer from a model's metadata, and the way of a text through it: special tokens are cut out whole,
 * what lies between goes to the model's kind of encoder word by word, and words seen before in the same call are copied.
 *
 * Defaults that metadata leaves open are llama.cpp's, because its files were tried with them. Special tokens are found at the
 * leftmost place, the longest one first, as sentencepiece and Hugging Face do (llama.cpp looks for the longest token in the
 * whole text first; that differs only where special tokens overlap). Control tokens are never made from text unless asked for:
 * merges and searches see normal and user tokens only, so a document cannot forge the end of a turn. The spaces that some
 * Hugging Face tokenizers strip beside a special token (lstrip, rstrip) are not in a GGUF and are kept. */
#include "text/tokenizer.h"
#include <stddef.h>

/* Names under which models end a turn. All end generation when they are control tokens; the first one of them that the
 * vocabulary holds is the end of turn when the metadata names none. */
static const char *const turn_ends[] = {"<|eot_id|>",        "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
                                        "<|end_of_text|>",   "<EOT>",      "_<EOT>",  "[EOT]",         "<｜end▁of▁sentence｜>",
                                        "<end_of_utterance>"};
static const char *const other_ends[] = {"<|return|>", "<|call|>", "<|calls|>", "<|flush|>",        "<|eom_id|>", "</s>",
                                         "<eos>",      "[EOS]",    "<turn|>",   "<|tool_response>", "[e~["};
static const struct {
    const char *name;
    usize at;
} id_fields[] = {{"bos", offsetof(token_source, bos)},       {"eos", offsetof(token_source, eos)},
                 {"eot", offsetof(token_source, eot)},       {"unknown", offsetof(token_source, unk)},
                 {"separator", offsetof(token_source, sep)}, {"padding", offsetof(token_source, pad)},
                 {"cls", offsetof(token_source, cls)},       {"mask", offsetof(token_source, mask)}};

/* ---- from metadata ------------------------------------------------------------------------------------------------------ */
static i32 find_control(const tokenizer *t, const char *name)
{
    i32 id = vocab_find(&t->v, str_of(name));
    return id >= 0 && t->v.kind[id] == TOKEN_CONTROL ? id : -1;
}

static err take_ids(tokenizer *t)
{
    for (usize i = 0; i < COUNT_OF(id_fields); i++) {
        i64 *id = (i64 *)((char *)&t->source + id_fields[i].at);
        if (*id == UINT32_MAX) *id = -1; /* how some converters write "none" */
        if (*id < -1 || *id >= t->v.n)
            return err_new(ERR_FORMAT, "tokenizer: the %s token is %lld, but there are %d tokens", id_fields[i].name,
                           (long long)*id, t->v.n);
    }
    token_source *s = &t->source;
    for (i32 id = 0; id < t->v.n && s->unk < 0; id++)
        if (t->v.kind[id] == TOKEN_UNKNOWN) s->unk = id;
    if (t->kind == TOKENIZER_BPE || t->kind == TOKENIZER_WORDPIECE) return OK;
    if (s->bos < 0) s->bos = find_control(t, "<s>");
    if (s->eos < 0) s->eos = find_control(t, "</s>");
    return OK;
}

static err take_flags(tokenizer *t)
{
    token_source *s = &t->source;
    bool spm = t->kind == TOKENIZER_SPM, unigram = t->kind == TOKENIZER_UNIGRAM, words = t->kind == TOKENIZER_WORDPIECE;
    if (s->add_bos > 0 && s->bos < 0) return err_new(ERR_FORMAT, "tokenizer: add_bos_token is set, but no token is named as BOS");
    if (s->add_eos > 0 && s->eos < 0) return err_new(ERR_FORMAT, "tokenizer: add_eos_token is set, but no token is named as EOS");
    if (s->add_bos < 0) s->add_bos = s->bos >= 0 && (spm || words || (t->pre && pretok_bos(t->pre)));
    if (s->add_eos < 0) s->add_eos = s->eos >= 0 && (unigram || words);
    if (s->add_space_prefix < 0) s->add_space_prefix = spm || unigram || words;
    if (s->remove_extra_whitespaces < 0) s->remove_extra_whitespaces = 0;
    return OK;
}

static void take_ends(tokenizer *t)
{
    bool answers = find_control(t, "<|return|>") >= 0 && find_control(t, "<|call|>") >= 0; /* gpt-oss: <|end|> ends a part only */
    for (usize i = 0; i < COUNT_OF(turn_ends) + COUNT_OF(other_ends); i++) {
        const char *name = i < COUNT_OF(turn_ends) ? turn_ends[i] : other_ends[i - COUNT_OF(turn_ends)];
        i32 id = answers && !strcmp(name, "<|end|>") ? -1 : find_control(t, name);
        if (id < 0) continue;
        t->v.end[id] = 1;
        if (t->source.eot < 0 && i < COUNT_OF(turn_ends)) t->source.eot = id;
    }
    if (t->source.eos >= 0) t->v.end[t->source.eos] = 1;
    if (t->source.eot >= 0) t->v.end[t->source.eot] = 1;
}

static bool special_add(tokenizer *t, int which, str s, i32 id)
{
    t->special_first[which][(u8)s.p[0]] = true;
    return trie_add(&t->special[which], s, id);
}

static err take_special(tokenizer *t)
{
    buf text = {0};
    for (i32 id = 0; id < t->v.n; id++) {
        u8 kind = t->v.kind[id];
        if ((kind != TOKEN_USER && kind != TOKEN_CONTROL && kind != TOKEN_UNKNOWN) || !vocab_piece(&t->v, id).n) continue;
        buf_reset(&text);
        token_bytes(t, id, &text, true); /* as it stands in a text: U+2581 is a space there */
        str s = buf_view(&text);
        if (text.bad || (kind == TOKEN_USER && !special_add(t, 0, s, id)) || !special_add(t, 1, s, id)) {
            buf_free(&text);
            return err_new(ERR_NOMEM, "tokenizer: no memory for the special tokens");
        }
    }
    buf_free(&text);
    return OK;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int byte_of_piece(str s) /* "<0xEC>"; -1: another piece */
{
    if (s.n != 6 || memcmp(s.p, "<0x", 3) || s.p[5] != '>' || hex_digit(s.p[3]) < 0 || hex_digit(s.p[4]) < 0) return -1;
    return hex_digit(s.p[3]) << 4 | hex_digit(s.p[4]);
}

static err take_bytes(tokenizer *t, bool kinds_known)
{
    memset(t->byte_id, 0xFF, sizeof t->byte_id);
    for (i32 id = 0; id < t->v.n; id++) {
        if (kinds_known && t->v.kind[id] != TOKEN_BYTE) continue;
        int byte = byte_of_piece(vocab_piece(&t->v, id));
        if (byte < 0 && t->v.kind[id] == TOKEN_BYTE)
            return err_new(ERR_FORMAT, "tokenizer: byte token %d is \"%.*s\", expected \"<0x00>\" to \"<0xFF>\"", id,
                           (int)i64_min(60, (i64)vocab_piece(&t->v, id).n), vocab_piece(&t->v, id).p);
        if (byte < 0) continue;
        t->v.kind[id] = TOKEN_BYTE;
        t->byte_id[byte] = id;
    }
    return OK;
}

static err tokenizer_fill(tokenizer *t, const token_source *src)
{
    static const struct {
        const char *name;
        tokenizer_kind kind;
    } models[] = {{"gpt2", TOKENIZER_BPE}, {"llama", TOKENIZER_SPM}, {"t5", TOKENIZER_UNIGRAM}, {"bert", TOKENIZER_WORDPIECE}};
    t->source = *src;
    t->source.model = NULL;
    for (usize i = 0; i < COUNT_OF(models) && src->model; i++)
        if (!strcmp(src->model, models[i].name)) t->source.model = models[i].name, t->kind = models[i].kind;
    if (!t->source.model)
        return err_new(ERR_UNSUPPORTED, "tokenizer: the model is \"%.60s\", known are gpt2, llama, t5 and bert",
                       src->model ? src->model : "");
    t->source.pre = NULL;
    t->source.tokens = t->source.merges = NULL;
    t->source.scores = NULL;
    t->source.kinds = NULL;
    t->source.charsmap = (str){0};
    TRY(vocab_new(&t->v, src));
    if (t->kind != TOKENIZER_BPE && t->kind != TOKENIZER_WORDPIECE && !t->v.score)
        return err_new(ERR_FORMAT, "tokenizer: a \"%s\" tokenizer needs scores", t->source.model);
    TRY(take_ids(t));
    TRY(take_bytes(t, src->kinds || t->kind == TOKENIZER_BPE || t->kind == TOKENIZER_WORDPIECE));
    if (t->kind == TOKENIZER_BPE) {
        TRY(bpe_new(t, src));
    } else if (t->kind == TOKENIZER_WORDPIECE) {
        TRY(wordpiece_new(t));
    } else {
        spm_new(t);
        TRY(charsmap_new(&t->map, src->charsmap));
        if (t->kind == TOKENIZER_UNIGRAM) TRY(unigram_new(t));
    }
    if (t->pre) t->source.pre = pretok_name(t->pre);
    t->all_bytes = true;
    for (int b = 0; b < 256; b++) t->all_bytes &= t->byte_id[b] >= 0;
    TRY(take_flags(t));
    take_ends(t);
    return take_special(t);
}

err tokenizer_new(tokenizer **out, const token_source *src)
{
    *out = NULL;
    tokenizer *t = mem_zero(sizeof *t);
    if (!t) return err_new(ERR_NOMEM, "tokenizer: no memory");
    t->seen = word_cache_new();
    err bad = t->seen ? tokenizer_fill(t, src) : err_new(ERR_NOMEM, "tokenizer: no memory");
    if (bad.code)
        tokenizer_free(t);
    else
        *out = t;
    return bad;
}

void tokenizer_free(tokenizer *t)
{
    if (!t) return;
    vocab_free(&t->v);
    mem_free(t->seen);
    trie_free(&t->special[0]);
    trie_free(&t->special[1]);
    pretok_free(t->pre);
    mem_free(t->pairs);
    trie_free(&t->pieces);
    charsmap_free(&t->map);
    mem_free(t);
}

/* ---- ids ----------------------------------------------------------------------------------------------------------------- */
void ids_free(ids *l)
{
    if (!l) return;
    mem_free(l->id);
    *l = (ids){0};
}

bool ids_push(ids *l, i32 id) { return VEC_PUSH(l->id, l->n, l->cap, id); }

bool ids_append(ids *l, const i32 *id, usize n)
{
    if (!n) return true;
    if (!vec_grow((void **)&l->id, &l->cap, l->n + n, sizeof *id)) return false;
    memcpy(l->id + l->n, id, n * sizeof *id);
    l->n += n;
    return true;
}

/* ---- text to tokens ------------------------------------------------------------------------------------------------------ */
err encode_unknown(encoder *e, str bytes)
{
    const tokenizer *t = e->t;
    bool good = true;
    if (t->all_bytes)
        for (usize i = 0; i < bytes.n && good; i++) good = ids_push(e->out, t->byte_id[(u8)bytes.p[i]]);
    else if (t->source.unk < 0)
        return err_new(ERR_UNSUPPORTED, "tokenizer: no token for \"%.*s\" (byte 0x%02X), and none for what is unknown",
                       (int)i64_min((i64)bytes.n, 40), bytes.p, (u8)bytes.p[0]);
    else if (e->out->n == e->fragment || e->out->id[e->out->n - 1] != t->source.unk)
        good = ids_push(e->out, (i32)t->source.unk);
    return good ? OK : err_new(ERR_NOMEM, "tokenizer: no memory for the tokens");
}

static err encode_new_word(encoder *e, str word)
{
    switch (e->t->kind) {
    case TOKENIZER_BPE: return bpe_word(e, word);
    case TOKENIZER_SPM: return spm_word(e, word);
    case TOKENIZER_WORDPIECE: return wordpiece_word(e, word);
    default: return unigram_word(e, word);
    }
}

/* A word's tokens depend on its bytes alone, except that a run of unknown characters may have begun before it: words with
 * <unk> are not kept. */
err encode_word(void *ctx, str word)
{
    encoder *e = ctx;
    if (word.n > CACHED_BYTES) return encode_new_word(e, word);
    i32 id[CACHED_IDS];
    usize n, from = e->out->n;
    u64 hash = bytes_hash(word.p, word.n);
    if (word_cache_get(e->t->seen, word, hash, id, &n))
        return ids_append(e->out, id, n) ? OK : err_new(ERR_NOMEM, "tokenizer: no memory for the tokens");
    TRY(encode_new_word(e, word));
    n = e->out->n - from;
    if (!n || n > CACHED_IDS) return OK;
    for (usize i = from; i < e->out->n; i++)
        if (e->out->id[i] == e->t->source.unk) return OK;
    word_cache_put(e->t->seen, word, hash, e->out->id + from, n);
    return OK;
}

static err encode_fragment(encoder *e, str s, bool prefix)
{
    if (!s.n) return OK;
    e->fragment = e->out->n;
    if (e->t->kind == TOKENIZER_BPE) return bpe_encode(e, s);
    if (e->t->kind == TOKENIZER_WORDPIECE) return wordpiece_encode(e, s);
    return e->t->kind == TOKENIZER_SPM ? spm_encode(e, s, prefix) : unigram_encode(e, s);
}

/* the special token that begins at `at`, the longest one; -1: none */
static i32 special_at(const trie *specials, str s, usize at, usize *end)
{
    i32 id = -1;
    const trie_slot *step;
    for (u32 node = 0; at < s.n && (step = trie_step(specials, node, symbol_next(s, &at))); node = step->node)
        if (step->id >= 0) id = step->id, *end = at;
    return id;
}

static err put_fragment(encoder *e, str s, usize from, usize end)
{
    usize first = e->out->n;
    TRY(encode_fragment(e, (str){s.p + from, end - from}, e->t->source.add_space_prefix));
    return chat_place(e, s, first, from, end);
}

err encode_text(encoder *e, str s, bool parse_control)
{
    const trie *specials = &e->t->special[parse_control];
    const bool *first = e->t->special_first[parse_control];
    usize from = 0;
    for (usize at = 0; at < s.n && specials->slot;) {
        usize end = at;
        i32 id = first[(u8)s.p[at]] ? special_at(specials, s, at, &end) : -1;
        if (id >= 0 && e->marked && !chat_own_bytes(e, at, end)) id = special_at(&e->t->special[0], s, at, &end);
        if (id < 0) {
            at++;
            continue;
        }
        TRY(put_fragment(e, s, from, at));
        if (!ids_push(e->out, id)) return err_new(ERR_NOMEM, "tokenizer: no memory for the tokens");
        TRY(chat_place(e, s, e->out->n - 1, at, end));
        from = at = end;
    }
    return put_fragment(e, s, from, s.n);
}

void encoder_free(encoder *e)
{
    mem_free(e->sym);
    mem_free(e->heap);
    mem_free(e->best);
    buf_free(&e->text);
    mem_free(e->where);
}

err tokenize(const tokenizer *t, str text, int flags, ids *out)
{
    encoder e = {.t = t, .out = out};
    usize from = out->n;
    bool around = flags & TOKENIZE_BOS, good = true;
    if (around && t->source.add_bos) good = ids_push(out, (i32)t->source.bos);
    err bad = good ? encode_text(&e, text, flags & TOKENIZE_SPECIAL) : OK;
    if (good && !bad.code && around && t->source.add_eos) good = ids_push(out, (i32)t->source.eos);
    if (!good) bad = err_new(ERR_NOMEM, "tokenizer: no memory for the tokens");
    if (bad.code) out->n = from;
    encoder_free(&e);
    return bad;
}

/* ---- looking up ----------------------------------------------------------------------------------------------------------- */
static bool known(const tokenizer *t, i64 id) { return id >= 0 && id < t->v.n; }
i64 tokenizer_size(const tokenizer *t) { return t->v.n; }
str token_piece(const tokenizer *t, i32 id) { return known(t, id) ? vocab_piece(&t->v, id) : (str){"", 0}; }
token_kind token_kind_of(const tokenizer *t, i32 id) { return known(t, id) ? (token_kind)t->v.kind[id] : TOKEN_UNUSED; }
bool token_is_end(const tokenizer *t, i32 id) { return known(t, id) && t->v.end[id]; }
i64 token_find(const tokenizer *t, str piece) { return vocab_find(&t->v, piece); }
const token_source *tokenizer_source(const tokenizer *t) { return &t->source; }
