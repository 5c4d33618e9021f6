/* text/unicode.c - normalisation, character classes and the ends of sentences, for Korean and English first.
 *
 * Tables are utf8proc's. Normal forms are made in stretches that begin where nothing can combine across, because utf8proc sorts
 * combining marks by insertion: a megabyte of marks would take hours in one go. A stretch that never finds such a place (more
 * than LONGEST characters of marks or jamo without a base; no writing system has it) is cut anyway.
 * Sentence ends are rules, not a model: they must give the same offsets for ever, since citations rest on them. When in doubt
 * two sentences stay one, because half a sentence is a worse citation than two. */
#include "text/text.h"
#include <utf8proc.h>

enum { STRETCH = 256, LONGEST = 1024 }; /* characters: look for a good place to cut from the first on, cut at the second */

/* ---- classes ---------------------------------------------------------------------------------------------------------- */
bool text_is_hangul(u32 c)
{
    return (c >= 0xAC00 && c <= 0xD7A3) || (c >= 0x1100 && c <= 0x11FF) || (c >= 0x3131 && c <= 0x318E) ||
           (c >= 0xA960 && c <= 0xA97C) || (c >= 0xD7B0 && c <= 0xD7FB) || (c >= 0xFFA0 && c <= 0xFFDC);
}

bool text_is_han(u32 c)
{
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0xF900 && c <= 0xFAFF) ||
           (c >= 0x20000 && c <= 0x3FFFD) || c == 0x3005 || c == 0x3007;
}

bool text_is_letter(u32 c)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_ME; /* LU LL LT LM LO MN MC ME */
}

bool text_is_digit(u32 c)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO;
}

bool text_is_space(u32 c)
{
    if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

/* ---- normal forms ------------------------------------------------------------------------------------------------------- */
/* nothing before such a character combines with it: not a mark, not the vowel or final of a Hangul syllable */
static bool begins_afresh(u32 c)
{
    if (c < 0x300) return true;
    if ((c >= 0x1160 && c <= 0x11FF) || (c >= 0xD7B0 && c <= 0xD7FB)) return false;
    if (c >= 0xFF9E && c <= 0xFFDC) return false; /* half-width forms of marks and jamo */
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k != UTF8PROC_CATEGORY_MN && k != UTF8PROC_CATEGORY_MC && k != UTF8PROC_CATEGORY_ME;
}

static bool is_ascii(str s)
{
    for (usize i = 0; i < s.n; i++)
        if ((u8)s.p[i] >= 0x80) return false;
    return true;
}

typedef struct {
    utf8proc_int32_t *point; /* decomposed characters, then their UTF-8 in the same place */
    usize cap;
    buf clean; /* the stretch with malformed bytes replaced */
} former;

static err form_stretch(former *f, str s, utf8proc_option_t how, buf *out)
{
    if (is_ascii(s)) return buf_str(out, s), buf_error(out);
    if (!utf8_valid(s)) {
        buf_reset(&f->clean);
        for (usize at = 0; at < s.n;) buf_utf8(&f->clean, utf8_next(s, &at));
        TRY(buf_error(&f->clean));
        s = buf_view(&f->clean);
    }
    for (;;) {
        utf8proc_ssize_t n =
            utf8proc_decompose((const utf8proc_uint8_t *)s.p, (utf8proc_ssize_t)s.n, f->point, (utf8proc_ssize_t)f->cap, how);
        if (n < 0) return err_new(ERR_BUG, "unicode: %s", utf8proc_errmsg(n));
        if ((usize)n < f->cap) { /* reencode wants one more place than there are characters */
            n = utf8proc_reencode(f->point, n, how);
            if (n < 0) return err_new(ERR_BUG, "unicode: %s", utf8proc_errmsg(n));
            buf_put(out, f->point, (usize)n);
            return buf_error(out);
        }
        if (!vec_grow((void **)&f->point, &f->cap, (usize)n + 1, sizeof *f->point))
            return err_new(ERR_NOMEM, "unicode: no memory");
    }
}

static err form(buf *out, str in, utf8proc_option_t how)
{
    former f = {0};
    err bad = OK;
    for (usize from = 0, at = 0; from < in.n && !bad.code;) {
        usize n = 0, next = at;
        for (; at < in.n && n < LONGEST; at = next, n++) {
            next = at;
            u32 c = utf8_next(in, &next);
            if (n >= STRETCH && begins_afresh(c)) break;
        }
        bad = form_stretch(&f, (str){in.p + from, at - from}, how, out);
        from = at;
    }
    mem_free(f.point);
    buf_free(&f.clean);
    return bad;
}

err text_nfc(buf *out, str in) { return form(out, in, UTF8PROC_STABLE | UTF8PROC_COMPOSE); }
err text_nfkc(buf *out, str in) { return form(out, in, UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT); }

err text_lower(buf *out, str in)
{
    for (usize at = 0; at < in.n && !out->bad;) {
        u32 c = utf8_next(in, &at);
        if (c < 0x80)
            buf_byte(out, c >= 'A' && c <= 'Z' ? (int)c + 32 : (int)c);
        else if (c == 0x3C2)
            buf_utf8(out, 0x3C3); /* the sigma of word ends */
        else
            buf_utf8(out, (u32)utf8proc_tolower((utf8proc_int32_t)c));
    }
    return buf_error(out);
}

/* ---- ends of sentences --------------------------------------------------------------------------------------------------- */
static bool in_set(u32 c, const char *set)
{
    str s = str_of(set);
    for (usize at = 0; at < s.n;)
        if (utf8_next(s, &at) == c) return true;
    return false;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_closer(u32 c) { return in_set(c, "\"'”’»」』】〉》)]}）］｝*_"); }
static bool is_quote(u32 c) { return in_set(c, "\"'”’»」』"); }
static bool is_wide_stop(u32 c)
{
    return c == 0x3002 || c == 0xFF01 || c == 0xFF1F || c == 0xFF61;
} /* 。！？｡: no space follows them */
static bool is_line_end(u32 c) { return c == '\n' || c == 0x2028 || c == 0x2029; }

static usize skip_blanks(str s, usize at) /* within the line */
{
    for (usize next = at; at < s.n; at = next) {
        u32 c = utf8_next(s, &next);
        if (!text_is_space(c) || is_line_end(c)) break;
    }
    return at;
}

static usize skip_space(str s, usize at)
{
    for (usize next = at; at < s.n; at = next)
        if (!text_is_space(utf8_next(s, &next))) break;
    return at;
}

static bool is_word_char(u32 c) { return text_is_letter(c) || text_is_digit(c); }

/* where the word begins that ends at `at`: letters, digits and single points between them */
static usize word_start(str s, usize from, usize at)
{
    while (at > from) {
        usize prev = at - 1, next;
        while (prev > from && ((u8)s.p[prev] & 0xC0) == 0x80) prev--;
        next = prev;
        u32 c = utf8_next(s, &next);
        if (!is_word_char(c) && c != '.') break;
        at = prev;
    }
    return at;
}

static bool word_among(str w, const char *list) /* ASCII case ignored; list: words between spaces */
{
    for (const char *p = list; *p;) {
        usize n = strcspn(p, " "), i = 0;
        for (; i < n && i < w.n; i++)
            if ((w.p[i] >= 'A' && w.p[i] <= 'Z' ? w.p[i] + 32 : w.p[i]) != p[i]) break;
        if (i == n && n == w.n) return true;
        p += n + (p[n] == ' ');
    }
    return false;
}

static usize digits_at(str s, usize at)
{
    usize n = 0;
    while (at + n < s.n && is_digit(s.p[at + n])) n++;
    return n;
}

/* "제3조", "3조의2", "제12조의2제1항": numbered parts of Korean statutes */
static bool is_statute_part(str w)
{
    usize at = str_starts(w, S("제")) ? 3 : 0, n = digits_at(w, at);
    if (!n) return false;
    at += n;
    static const str unit[] = {{"조", 3}, {"항", 3}, {"호", 3}, {"장", 3}, {"절", 3}, {"관", 3}, {"편", 3}, {"목", 3}};
    for (usize i = 0; i < COUNT_OF(unit); i++) {
        if (!str_starts((str){w.p + at, w.n - at}, unit[i])) continue;
        at += unit[i].n;
        if (str_starts((str){w.p + at, w.n - at}, S("의")) && (n = digits_at(w, at + 3))) at += 3 + n;
        return at == w.n || is_statute_part((str){w.p + at, w.n - at});
    }
    return false;
}

static bool all_digits(str w) { return w.n && digits_at(w, 0) == w.n; }

/* "2의3": a paragraph put in between later */
static bool is_inserted_number(str w)
{
    usize n = digits_at(w, 0), m = n && str_starts((str){w.p + n, w.n - n}, S("의")) ? digits_at(w, n + 3) : 0;
    return m && n + 3 + m == w.n;
}

/* a word that numbers a list when it stands first: "1", "1.2", "2의3", "a", "iv", "가", "①" */
static bool is_marker(str w)
{
    if (!w.n) return false;
    usize n = utf8_count(w), i = 0;
    while (i < w.n && (is_digit(w.p[i]) || w.p[i] == '.')) i++;
    if (i == w.n) return n <= 8;
    usize at = 0;
    u32 c = utf8_next(w, &at);
    if (n == 1)
        return c < 0x80 || (c >= 0x2460 && c <= 0x24FF) || in_set(c, "가나다라마바사아자차카타파하ㄱㄴㄷㄹㅁㅂㅅㅇㅈㅊㅋㅌㅍㅎ");
    return is_inserted_number(w) || (n <= 5 && word_among(w, "ii iii iv vi vii viii ix xi xii xiii xiv xv"));
}

/* "Article 3", "Section 2": the word before a number at the start of a sentence */
static bool is_heading_word(str s)
{
    s = str_trim(s);
    return word_among(s, "article section chapter part clause rule schedule annex appendix figure table no item step question "
                         "lesson exercise 그림 표 부록 붙임 별표 예");
}

static bool is_initial(str w)
{
    if (!w.n) return false;
    for (usize i = 0; i < w.n; i++) /* "J", "U.S", "e.g" is in the list of abbreviations */
        if (i % 2 ? w.p[i] != '.' : !(w.p[i] >= 'A' && w.p[i] <= 'Z')) return false;
    return w.n % 2;
}

/* "2024. 3. 15." with the point at `dot` the last one */
static bool ends_date(str s, usize from, usize dot)
{
    int parts = 0;
    usize at = dot;
    while (parts < 3) {
        usize end = at;
        while (at > from && is_digit(s.p[at - 1])) at--;
        if (at == end || end - at > 4) return false;
        parts++;
        if (end - at == 4) break;
        while (at > from && s.p[at - 1] == ' ') at--;
        if (at == from || s.p[at - 1] != '.') return false;
        at--;
    }
    return parts == 3;
}

/* is the point at `dot` part of what stands before it? `next`: the first character that is no space behind it */
static bool point_belongs(str s, usize from, usize dot, u32 next, usize next_at)
{
    usize at = word_start(s, from, dot);
    str w = {s.p + at, dot - at}, before = {s.p + from, at - from};
    bool upper = next < 0x80 ? next >= 'A' && next <= 'Z' : utf8proc_category((utf8proc_int32_t)next) == UTF8PROC_CATEGORY_LU;
    bool lower = !upper && utf8proc_category((utf8proc_int32_t)next) == UTF8PROC_CATEGORY_LL;
    if (dot > from && s.p[dot - 1] == '.') return !upper; /* an ellipsis goes on, unless a capital follows */
    if (!w.n) return false;
    if (is_marker(w)) {
        bool first = true; /* only list signs and brackets before it */
        for (usize i = 0; i < before.n && first; i++) first = strchr(" \t\r\n#>*-(", before.p[i]) != NULL;
        if (first) return true;
    }
    if (is_statute_part(w) || is_initial(w)) return true;
    if (word_among(w, "mr mrs ms dr prof st vs e.g i.e eg ie cf viz gen col lt sgt gov sen rev hon messrs mt ph.d m.d"))
        return true;
    if (word_among(w, "etc al inc ltd co corp a.m p.m jr sr dept est approx incl ca resp") && (lower || next == ',')) return true;
    bool number = next < 0x80 && is_digit((char)next);
    if (number && word_among(w, "no nos fig figs eq eqs sec secs ch chap art arts vol vols p pp para paras ver v jan feb mar apr "
                                "jun jul aug sep sept oct nov dec"))
        return true;
    if (!all_digits(w)) return false;
    if (w.n <= 3 && is_heading_word(before)) return true;
    if (w.n <= 2 && text_is_hangul(next)) return true; /* "이유는 1. 첫째": no Korean sentence ends in a bare number */
    usize n = number ? digits_at(s, next_at) : 0;
    return ends_date(s, from, dot) ||
           (n && n <= 2 && w.n <= 4 && next_at + n < s.n && s.p[next_at + n] == '.'); /* "2024. 3. 15." */
}

static bool is_table_row(str s, usize at) /* "| a | b |" */
{
    if (at >= s.n || s.p[at] != '|') return false;
    const char *end = memchr(s.p + at, '\n', s.n - at);
    str line = str_trim((str){s.p + at, end ? (usize)(end - s.p) - at : s.n - at});
    return line.n > 1 && line.p[line.n - 1] == '|';
}

/* "1) ", "(1)", "[1]", "1. ", "2의3. ", "가. ", "가) " */
static bool begins_numbered(str s, usize at)
{
    usize open = s.p[at] == '(' || s.p[at] == '[', n = digits_at(s, at + open), end = at + open + n;
    if (n && n <= 3 && end < s.n && (s.p[end] == ')' || (open && s.p[end] == ']'))) return true;
    if (open) return false;
    if (str_starts((str){s.p + end, s.n - end}, S("의")) && digits_at(s, end + 3)) end += 3 + digits_at(s, end + 3);
    if (n && n <= 3) return end + 1 < s.n && s.p[end] == '.' && s.p[end + 1] == ' ';
    usize next = at;
    return text_is_hangul(utf8_next(s, &next)) && next + 1 < s.n && (s.p[next] == '.' || s.p[next] == ')') &&
           s.p[next + 1] == ' ';
}

/* the next line begins a block of its own: list item, heading, quotation, table row, article, numbered paragraph */
static bool begins_block(str s, usize at, bool after_comma)
{
    at = skip_blanks(s, at);
    if (at >= s.n) return true;
    str rest = {s.p + at, s.n - at};
    usize next = at;
    u32 c = utf8_next(s, &next);
    if (in_set(c, "#>•◦▪■□○●◎◇◆▶※ㆍ") || (c >= 0x2460 && c <= 0x24FF) || (c >= 0x2776 && c <= 0x2793)) return true;
    if (in_set(c, "-*+·–") && next < s.n && s.p[next] == ' ') return true;
    if (str_starts(rest, S("```")) || str_starts(rest, S("---")) || str_starts(rest, S("==="))) return true;
    if (is_table_row(s, at) || begins_numbered(s, at)) return true;
    usize n = !after_comma && str_starts(rest, S("제")) ? digits_at(s, at + 3) : 0;
    if (!n) return false; /* behind a comma it is one of a list of references */
    str unit = {s.p + at + 3 + n, rest.n - 3 - n};
    return str_starts(unit, S("조")) || str_starts(unit, S("장")) || str_starts(unit, S("절")) || str_starts(unit, S("편"));
}

/* the line end at `at` (its first byte; `next` behind it) ends what stands before it */
static bool line_ends(str s, usize from, usize at, usize next)
{
    usize blank = skip_blanks(s, next);
    if (blank == s.n) return true;
    usize past = blank;
    if (is_line_end(utf8_next(s, &past))) return true;
    usize line = at;
    while (line > from && s.p[line - 1] != '\n') line--;
    line = skip_blanks(s, line);
    return s.p[line] == '#' || is_table_row(s, line) || begins_block(s, next, at > from && s.p[at - 1] == ',');
}

/* behind closing quotes and brackets and footnote marks "[3]"; *quoted: a quotation was closed */
static usize skip_closers(str s, usize at, bool *quoted)
{
    for (usize next = at; at < s.n; at = next) {
        u32 c = utf8_next(s, &next);
        usize n = c == '[' ? digits_at(s, next) : 0;
        if (n && next + n < s.n && s.p[next + n] == ']')
            next += n + 1;
        else if (!is_closer(c))
            break;
        *quoted |= is_quote(c);
    }
    return at;
}

/* what tells that a quotation is part of a sentence: "정말?" 하고 물었다; "Really?" she asked */
static bool quotation_goes_on(str s, usize at)
{
    static const char *const words[] = {"하고", "라고", "이라고", "라며", "이라며", "하며", "라는", "이라는", "라면서", "고 "};
    str rest = {s.p + at, s.n - at};
    for (usize i = 0; i < COUNT_OF(words); i++)
        if (str_starts(rest, str_of(words[i]))) return true;
    usize next = at;
    return at < s.n && utf8proc_category((utf8proc_int32_t)utf8_next(s, &next)) == UTF8PROC_CATEGORY_LL;
}

/* does the stop at `at` (next: behind it) end the sentence? *end: behind closing quotes */
static bool stop_ends(str s, usize from, usize at, usize next, u32 c, usize *end)
{
    bool quoted = false;
    for (usize more = next; next < s.n; next = more) { /* "?!", "..." : the last one counts */
        u32 d = utf8_next(s, &more);
        if (d != '.' && d != '!' && d != '?' && !is_wide_stop(d)) break;
        at = next;
        c = d;
    }
    *end = skip_closers(s, next, &quoted);
    if (*end >= s.n) return true;
    usize past = *end;
    u32 d = utf8_next(s, &past);
    if (!text_is_space(d)) return is_wide_stop(c) && !quoted;
    usize begin = skip_blanks(s, *end);
    if (begin >= s.n) return true;
    past = begin;
    d = utf8_next(s, &past);
    if (is_line_end(d) && line_ends(s, from, begin, past)) return true;
    begin = skip_space(s, begin);
    past = begin;
    d = begin < s.n ? utf8_next(s, &past) : ' ';
    if (quoted && quotation_goes_on(s, begin)) return false;
    return c != '.' || !point_belongs(s, from, at, d, begin);
}

usize text_sentence_end(str s, usize from)
{
    if (from >= s.n) return s.n;
    from = skip_space(s, from);
    usize solid = from; /* behind the last character that is no space */
    for (usize at = from, next = at; at < s.n; at = next) {
        u32 c = utf8_next(s, &next);
        usize end = next;
        if (is_line_end(c) && line_ends(s, from, at, next)) return skip_space(s, next) == s.n ? s.n : solid;
        bool stop = c == '.' || c == '!' || c == '?' || is_wide_stop(c);
        if (stop && stop_ends(s, from, at, next, c, &end)) return skip_space(s, end) == s.n ? s.n : end;
        next = end; /* a run of stops is looked at once */
        if (!text_is_space(c)) solid = next;
    }
    return s.n;
}
