/* text/pretok.c - cutting text into words before byte-level BPE: patterns as data, matched by PCRE2 with its JIT.
 *
 * A row is one way of cutting and the names (tokenizer.ggml.pre) that mean it. Its patterns are applied one after the other,
 * each to the pieces that the one before left: what matches is a piece, and so is what lies between two matches. Patterns are
 * those of the models' own tokenizer files. Space is Unicode's White_Space written out, because PCRE2's \s also holds U+180E.
 * A name that is not here is an error, never a guess: a wrong pattern gives wrong tokens that look right. Names whose patterns
 * take quadratic time on hostile text (nested repetition, unbounded lookahead) are left out. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/tokenizer.h"
#include <pcre2.h>

enum { STAGES = PRE_STAGES };
enum { WHOLE_WORDS = 1, BOS = 2 }; /* pretok_whole_words, pretok_bos */
#define WS "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define SPACES "[" WS "]+(?![^" WS "])|[" WS "]+" /* a run of spaces leaves its last one to the word that follows */
#define OTHER " ?[^" WS "\\p{L}\\p{N}]+"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" OTHER "|" SPACES
#define SUFFIX "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORD "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define LINES "[" WS "]*[\\r\\n]+|" SPACES
#define LLAMA3(digits) SUFFIX "|" WORD "|" digits "|" OTHER "[\\r\\n]*|" LINES
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(suffix) /* a word begins anew where a capital follows a small letter */                                            \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" suffix
#define SLASHED OTHER "[\\r\\n/]*|" LINES
#define KANA_HAN "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+"
#define ASCII_PUNCTUATION "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]"
#define DEEPSEEK3 ASCII_PUNCTUATION "[A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" LINES
#define MARKED_WORD "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+"
#define NO_STOP " ?[^(" WS "|.,!?…。，、।۔،)]+"
#define EAST_ASIAN "[\\x{4e00}-\\x{9fa5}\\x{0800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
#define PUNCTUATION "[" WS "]?[!-/:-~！-／：-～‘-‟\\x{3000}-。]+"
#define TRAILING "(?<![" WS "])[" WS "]+\\z" /* the lookbehind only keeps the search for it linear */
/* the cased letters that DeepSeek's first tokenizer knew (Unicode 13 without letters of titlecase and modifiers) */
/* clang-format off */ /* which does not know the width of such letters */
#define CASED_LETTERS \
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚ" \
    "Ḁ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\\x{1f7d}ᾀ-ᾴᾶ-ᾼ\\x{1fbe}ῂ-ῄῆ-ῌῐ-\\x{1fd3}ῖ-\\x{1fdb}ῠ-Ῥῲ-ῴῶ-ῼ" \
    "ℂℇℊ-ℓℕℙ-ℝℤ\\x{2126}ℨ\\x{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿ" \
    "ﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
/* clang-format on */

static const struct row {
    const char *names; /* separated by spaces */
    int traits;
    const char *pattern[STAGES];
} rows[] = {
    {"default", 0, {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {"gpt-2 phi-2 mpt olmo jais trillion exaone4 a.x-4.0 gigachat mellum modern-bert granite-docling", 0, {GPT2}},
    {"jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe", 0, {GPT2}},
    {"smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", 0, {"\\p{N}", GPT2}},
    {"qwen2 stablelm2 deepseek-r1-qwen kormo f2llmv2 megrez hunyuan solar-open grok-2", 0, {LLAMA3("\\p{N}")}},
    {"llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
     WHOLE_WORDS | BOS,
     {LLAMA3("\\p{N}{1,3}")}},
    {"dbrx smaug-bpe chatglm-bpe", 0, {LLAMA3("\\p{N}{1,3}")}},
    {"glm4 glm5", WHOLE_WORDS, {LLAMA3("\\p{N}{1,3}")}},
    {"minicpm5", WHOLE_WORDS, {"\\p{N}{1,3}", LLAMA3("\\p{N}+")}},
    {"qwen35", 0, {SUFFIX "|" MARKED_WORD "|\\p{N}| ?[^" WS "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" LINES}},
    {"seed-coder", 0, {SUFFIX "|" WORD "|\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+|" LINES}},
    {"bailingmoe bailingmoe2 llada-moe", 0, {SUFFIX "|" WORD "|\\p{N}|" OTHER "[\\r\\n]*|[" WS "]*[\\r\\n]|" SPACES}},
    {"tekken", WHOLE_WORDS | BOS, {CASED("") "|\\p{N}|" SLASHED}},
    {"gpt-4o llama4 kanana2 minimax-m2", 0, {CASED(SUFFIX "?") "|\\p{N}{1,3}|" SLASHED}},
    {"falcon", 0, {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {"bloom gpt3-finnish poro-chat", 0, {NO_STOP}},
    {"viking", 0, {NO_STOP, "\\p{N}"}},
    {"deepseek-llm", 0, {"[\\r\\n]", "[" WS "]?[" CASED_LETTERS "]+", PUNCTUATION, TRAILING, EAST_ASIAN, "\\p{N}+"}},
    {"deepseek-coder", 0, {"[\\r\\n]", "[" WS "]?\\p{L}+", "[" WS "]?\\p{P}+", EAST_ASIAN, "\\p{N}"}},
    {"deepseek-v3 hunyuan-dense joyai-llm hy_v4", 0, {"\\p{N}{1,3}", KANA_HAN, DEEPSEEK3}},
};

struct pretok {
    const struct row *row;
    char name[32];
    int n;
    pcre2_code *code[STAGES];
};

static bool name_in(const char *names, const char *name)
{
    usize n = strlen(name);
    for (const char *p = names; *p; p += strcspn(p, " "), p += *p == ' ')
        if (strcspn(p, " ") == n && !memcmp(p, name, n)) return n > 0;
    return false;
}

static const struct row *row_of(const char *name)
{
    for (usize i = 0; i < COUNT_OF(rows); i++)
        if (name_in(rows[i].names, name)) return &rows[i];
    return NULL;
}

err pretok_new(pretok **out, const char *name)
{
    *out = NULL;
    if (!name) name = "default";
    const struct row *row = row_of(name);
    if (!row) return err_new(ERR_UNSUPPORTED, "tokenizer: the pre-tokenizer \"%.60s\" is not known", name);
    pretok *p = mem_zero(sizeof *p);
    if (!p) return err_new(ERR_NOMEM, "tokenizer: no memory for the pre-tokenizer");
    p->row = row;
    snprintf(p->name, sizeof p->name, "%s", name);
    for (; p->n < STAGES && row->pattern[p->n]; p->n++) {
        int code;
        PCRE2_SIZE at;
        p->code[p->n] =
            pcre2_compile((PCRE2_SPTR)row->pattern[p->n], PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
        if (!p->code[p->n]) {
            PCRE2_UCHAR why[120] = "";
            pcre2_get_error_message(code, why, sizeof why);
            pretok_free(p);
            return err_new(code == PCRE2_ERROR_NOMEMORY ? ERR_NOMEM : ERR_BUG, "pretok: %s at byte %zu of the pattern of \"%s\"",
                           (char *)why, (usize)at, name);
        }
        pcre2_jit_compile(p->code[p->n], PCRE2_JIT_COMPLETE); /* without it (no JIT on this machine) matching is only slower */
    }
    *out = p;
    return OK;
}

void pretok_free(pretok *p)
{
    if (!p) return;
    for (int i = 0; i < p->n; i++) pcre2_code_free(p->code[i]);
    mem_free(p);
}

const char *pretok_name(const pretok *p) { return p->name; }
bool pretok_whole_words(const pretok *p) { return p->row->traits & WHOLE_WORDS; }
bool pretok_bos(const pretok *p) { return p->row->traits & BOS; }

/* ---- patterns as other tokenizer files have them ------------------------------------------------------------------------- */
int tokenizer_pre_patterns(const char *name, buf out[STAGES], bool *whole_words)
{
    const struct row *row = row_of(name ? name : "default");
    int n = 0;
    *whole_words = row && row->traits & WHOLE_WORDS;
    for (; row && n < STAGES && row->pattern[n]; n++) {
        str s = str_of(row->pattern[n]);
        for (usize at = 0; at < s.n;) {
            i64 white = str_find(s, S(WS), at);
            usize end = white < 0 ? s.n : (usize)white;
            buf_put(&out[n], s.p + at, end - at);
            if (white >= 0) buf_puts(&out[n], "\\s");
            at = end + (white < 0 ? 0 : strlen(WS));
        }
    }
    return row ? n : -1;
}

/* \s and \S as the rows above write them */
static void spell_out(str s, buf *out)
{
    bool in_class = false;
    for (usize i = 0; i < s.n; i++) {
        char c = s.p[i], next = i + 1 < s.n ? s.p[i + 1] : 0;
        if (c == '\\' && (next == 's' || (next == 'S' && !in_class))) {
            buf_puts(out, in_class ? WS : next == 's' ? "[" WS "]" : "[^" WS "]");
            i++;
        } else if (c == '\\' && next) {
            buf_put(out, s.p + i++, 2);
        } else {
            in_class = c == '[' ? true : c == ']' ? false : in_class;
            buf_byte(out, c);
        }
    }
}

bool tokenizer_pre_find(const str *pattern, usize n, bool whole_words, char name[32])
{
    buf b = {0};
    const struct row *hit = NULL;
    for (usize i = 0; i < COUNT_OF(rows) && n && n <= STAGES && !hit; i++) {
        bool same = !(rows[i].traits & WHOLE_WORDS) == !whole_words && (n == STAGES || !rows[i].pattern[n]);
        for (usize k = 0; k < n && same; k++) {
            buf_reset(&b);
            spell_out(pattern[k], &b);
            same = rows[i].pattern[k] && str_eq(buf_view(&b), str_of(rows[i].pattern[k]));
        }
        if (same) hit = &rows[i];
    }
    buf_free(&b);
    if (hit) snprintf(name, 32, "%.*s", (int)strcspn(hit->names, " "), hit->names);
    return hit != NULL;
}

/* ---- cutting ---------------------------------------------------------------------------------------------------------- */
typedef struct {
    const pretok *p;
    pcre2_match_data *match[STAGES];
    pcre2_match_context *limits;
    err (*word)(void *ctx, str);
    void *ctx;
} cutter;

static err cut(const cutter *c, int stage, str s)
{
    if (!s.n) return OK;
    if (stage == c->p->n) return c->word(c->ctx, s);
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(c->match[stage]);
    for (usize at = 0; at < s.n;) {
        int found = pcre2_match(c->p->code[stage], (PCRE2_SPTR)s.p, s.n, at, PCRE2_NO_UTF_CHECK, c->match[stage], c->limits);
        if (found == PCRE2_ERROR_NOMATCH) return cut(c, stage + 1, (str){s.p + at, s.n - at});
        if (found < 0)
            return err_new(ERR_NOMEM, "pretok: matching \"%s\" stopped at byte %zu of %zu (PCRE2 %d)", c->p->name, at, s.n,
                           found);
        usize from = span[0], to = span[1];
        TRY(cut(c, stage + 1, (str){s.p + at, from - at}));
        TRY(cut(c, stage + 1, (str){s.p + from, to - from}));
        at = to;
    }
    return OK;
}

/* PCRE2 wants valid UTF-8: malformed bytes are words of their own, the text between them is cut as usual */
static err cut_any(const cutter *c, str s)
{
    if (utf8_valid(s)) return cut(c, 0, s);
    for (usize at = 0; at < s.n;) {
        usize from = at, end = at;
        while (at < s.n) {
            end = at;
            if (symbol_next(s, &at) >= 0x110000) break;
            end = at;
        }
        TRY(cut(c, 0, (str){s.p + from, end - from}));
        if (at > end) TRY(c->word(c->ctx, (str){s.p + end, at - end}));
    }
    return OK;
}

err pretok_split(const pretok *p, str text, err (*word)(void *ctx, str), void *ctx)
{
    cutter c = {.p = p, .word = word, .ctx = ctx, .limits = pcre2_match_context_create(NULL)};
    bool good = c.limits != NULL;
    for (int i = 0; i < p->n && good; i++) good = (c.match[i] = pcre2_match_data_create(1, NULL)) != NULL;
    if (good) pcre2_set_match_limit(c.limits, UINT32_MAX); /* long texts are no attack here: every pattern is linear */
    err bad = good ? cut_any(&c, text) : err_new(ERR_NOMEM, "pretok: no memory");
    for (int i = 0; i < p->n; i++) pcre2_match_data_free(c.match[i]);
    pcre2_match_context_free(c.limits);
    return bad;
}
