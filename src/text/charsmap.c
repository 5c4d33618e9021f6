/* text/charsmap.c - SentencePiece's normalisation: the model's own table of replacements (NFKC with additions, "charsmap"), and
 * what happens to spaces.
 *
 * It follows sentencepiece, not Hugging Face's tokenizers, which apply the table to grapheme clusters and so leave decomposed
 * Hangul apart. The table is a double-array trie (Darts-clone's units) and a list of NUL-terminated strings behind it; it
 * comes from outside, so its values are checked when it is read and every step is checked against its end. */
#include "text/tokenizer.h"

/* ---- the table -------------------------------------------------------------------------------------------------------- */
static inline u32 u32_at(const u8 *p) { return p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24; }
static inline u32 unit_at(const charsmap *m, usize i) { return u32_at(m->array + 4 * i); }
static inline u32 unit_offset(u32 unit) { return (unit >> 10) << ((unit & 0x200) >> 6); }
static inline u32 unit_label(u32 unit) { return unit & 0x800000FFu; } /* a value's label is no byte */
static inline bool unit_has_value(u32 unit) { return unit >> 8 & 1; }

/* Bytes of a key or replacement. Unicode's longest form has 33; a table with much longer ones is made to blow texts up. */
enum { RULE_MAX = 256 };

err charsmap_new(charsmap *m, str blob)
{
    *m = (charsmap){0};
    if (!blob.n) return OK;
    u32 size = blob.n >= 4 ? u32_at((const u8 *)blob.p) : 0;
    if (blob.n < 4 || size < 4 || size % 4 || size > blob.n - 4)
        return err_new(ERR_FORMAT, "tokenizer: precompiled_charsmap of %zu bytes says that its trie has %u", blob.n, size);
    m->blob = mem_alloc(blob.n);
    if (!m->blob) return err_new(ERR_NOMEM, "tokenizer: no memory for a charsmap of %zu bytes", blob.n);
    memcpy(m->blob, blob.p, blob.n);
    m->array = m->blob + 4;
    m->n_units = size / 4;
    m->text = (const char *)m->blob + 4 + size;
    m->text_len = blob.n - 4 - size;
    if (m->text_len && m->text[m->text_len - 1])
        return err_new(ERR_FORMAT, "tokenizer: the last replacement of precompiled_charsmap has no end");
    for (usize i = 0, n; i < m->text_len; i += n + 1)
        if ((n = strlen(m->text + i)) > RULE_MAX)
            return err_new(ERR_FORMAT, "tokenizer: a replacement of precompiled_charsmap has %zu bytes, at most %d are possible",
                           n, RULE_MAX);
    for (usize i = 0; i < m->n_units; i++) {
        u32 unit = unit_at(m, i);
        if (unit >> 31 || !unit_has_value(unit)) continue;
        usize leaf = i ^ unit_offset(unit);
        if (leaf >= m->n_units || (unit_at(m, leaf) & 0x7FFFFFFF) >= m->text_len)
            return err_new(ERR_FORMAT, "tokenizer: unit %zu of precompiled_charsmap points outside it", i);
    }
    return OK;
}

void charsmap_free(charsmap *m)
{
    mem_free(m->blob);
    *m = (charsmap){0};
}

/* the longest key that begins here, else the character itself, U+FFFD for a malformed byte */
str charsmap_next(const charsmap *m, str text, usize *at)
{
    usize pos = 0, found_n = 0, found = 0;
    if (m->n_units) pos = unit_offset(unit_at(m, 0));
    usize end = text.n - *at < RULE_MAX ? text.n : *at + RULE_MAX;
    for (usize i = *at; m->n_units && i < end; i++) {
        u8 byte = (u8)text.p[i];
        pos ^= byte;
        if (pos >= m->n_units) break;
        u32 unit = unit_at(m, pos);
        if (unit_label(unit) != byte) break;
        pos ^= unit_offset(unit);
        if (pos >= m->n_units) break;
        if (!unit_has_value(unit)) continue;
        u32 value = unit_at(m, pos) & 0x7FFFFFFF;
        if (value < m->text_len) found = value, found_n = i + 1 - *at;
    }
    if (found_n) {
        *at += found_n;
        return str_of(m->text + found);
    }
    usize from = *at;
    return symbol_next(text, at) >= 0x110000 ? S("\xEF\xBF\xBD") : (str){text.p + from, *at - from};
}

/* ---- a text ---------------------------------------------------------------------------------------------------------- */
static const str space = {"\xE2\x96\x81", 3};

err spm_normalise(encoder *e, str text, bool prefix)
{
    const tokenizer *t = e->t;
    bool trim = t->source.remove_extra_whitespaces, after_space = trim;
    usize at = 0;
    buf_reset(&e->text);
    while (trim && at < text.n) { /* spaces in front */
        usize next = at;
        if (!str_eq(charsmap_next(&t->map, text, &next), S(" "))) break;
        at = next;
    }
    if (at < text.n && prefix) buf_str(&e->text, space);
    while (at < text.n) {
        str s = charsmap_next(&t->map, text, &at);
        while (after_space && s.n && s.p[0] == ' ') s.p++, s.n--;
        for (usize i = 0; i < s.n; i++) {
            if (s.p[i] == ' ')
                buf_str(&e->text, space);
            else
                buf_byte(&e->text, s.p[i]);
        }
        if (s.n) after_space = trim && s.p[s.n - 1] == ' ';
    }
    while (trim && str_ends(buf_view(&e->text), space)) e->text.n -= space.n;
    return buf_error(&e->text);
}
