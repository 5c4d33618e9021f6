/* Chat templates, first step: source to tokens.
 *
 * Jinja decides about white space here and so must we, to the byte: {%- strips the text before a tag, -%} what follows it;
 * a block or comment tag takes one line end after it with it (trim_blocks) and the blanks before it when it begins its line
 * (lstrip_blocks), unless + says otherwise. Variables {{ }} strip only when told to.
 *
 * Inside a tag, end marks count only while no bracket is open, so that {{ {'a': {}} }} reads as it should. The nesting of
 * brackets is limited here, before the parser would recurse.
 *
 * Not supported: line statements and other delimiters (chat templates are always rendered with the defaults). */
#include "text/chat.h"

typedef struct {
    arena *a;
    str s;
    usize at, n_nest;
    u32 line;
    bool line_start; /* what was consumed last ended a line (or nothing was yet) */
    chat_tokens *out;
    char nest[CHAT_MAX_NEST];
} lexer;

bool chat_is_space(u32 c)
{
    return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

usize chat_space_head(str s)
{
    usize at = 0;
    while (at < s.n) {
        usize next = at;
        if (!chat_is_space(utf8_next(s, &next))) break;
        at = next;
    }
    return at;
}

usize chat_space_tail(str s)
{
    usize end = s.n;
    while (end > 0) {
        usize from = end - 1;
        while (from > 0 && end - from < 4 && ((u8)s.p[from] & 0xc0) == 0x80) from--;
        usize next = from;
        if (!chat_is_space(utf8_next(s, &next)) || next != end) break;
        end = from;
    }
    return s.n - end;
}

static err lex_fail(const lexer *x, const char *what) { return err_new(ERR_FORMAT, "template: line %u: %s", x->line, what); }

static u32 count_lines(str s)
{
    u32 n = 0;
    for (usize i = 0; i < s.n; i++) n += s.p[i] == '\n';
    return n;
}

/* moves to `to`, counting lines */
static void advance(lexer *x, usize to)
{
    if (to > x->at) {
        x->line += count_lines((str){x->s.p + x->at, to - x->at});
        x->line_start = x->s.p[to - 1] == '\n';
    }
    x->at = to;
}

static err push(lexer *x, chat_token t)
{
    if (!t.line) t.line = x->line;
    return VEC_PUSH(x->out->at, x->out->n, x->out->cap, t) ? OK : err_new(ERR_NOMEM, "template: out of memory");
}

static int peek(const lexer *x, usize at) { return at < x->s.n ? (u8)x->s.p[at] : 0; }
static bool see(const lexer *x, usize at, const char *word)
{
    usize n = strlen(word);
    return x->s.n - at >= n && at <= x->s.n && !memcmp(x->s.p + at, word, n);
}
static usize skip_space(const lexer *x, usize at) { return at + chat_space_head((str){x->s.p + at, x->s.n - at}); }

/* The text [from, to) before a tag that begins with `sign`: what stays of it. */
static err push_text(lexer *x, usize from, usize to, int sign, bool variable)
{
    str text = {x->s.p + from, to - from};
    if (sign == '-') {
        text.n -= chat_space_tail(text);
    } else if (sign != '+' && !variable) {
        usize line = text.n;
        while (line > 0 && text.p[line - 1] != '\n') line--;
        str rest = {text.p + line, text.n - line};
        if ((line > 0 || x->line_start) && chat_space_head(rest) == rest.n) text.n = line;
    }
    return text.n ? push(x, (chat_token){.kind = T_TEXT, .text = text}) : OK;
}

/* After the sign of an end tag at `at` (its first byte): the position behind it with the white space it takes, 0: no end tag
 * here. */
static usize end_mark(const lexer *x, usize at, const char *mark, bool trim)
{
    int c = peek(x, at);
    if (c == '-' && see(x, at + 1, mark)) return skip_space(x, at + 3);
    if (c == '+' && trim && see(x, at + 1, mark)) return at + 3;
    if (!see(x, at, mark)) return 0;
    return at + 2 + (trim && peek(x, at + 2) == '\n');
}

static err lex_comment(lexer *x)
{
    for (usize at = x->at; at + 1 < x->s.n; at++) {
        usize end = end_mark(x, at, "#}", true);
        if (!end) continue;
        advance(x, end);
        return OK;
    }
    return lex_fail(x, "the comment {# is never closed by #}");
}

/* {% raw %}: `at` behind the sign of {%; 0 if it is another tag, else the position behind the tag */
static usize raw_tag(const lexer *x, usize at, const char *word, bool trim)
{
    at = skip_space(x, at);
    if (!see(x, at, word)) return 0;
    return end_mark(x, skip_space(x, at + strlen(word)), "%}", trim);
}

static err lex_raw(lexer *x)
{
    for (usize at = x->at; at + 1 < x->s.n; at++) {
        if (!see(x, at, "{%")) continue;
        int sign = peek(x, at + 2);
        usize end = raw_tag(x, at + 2 + (sign == '-' || sign == '+'), "endraw", true);
        if (!end) continue;
        TRY(push_text(x, x->at, at, sign, false));
        advance(x, end);
        return OK;
    }
    return lex_fail(x, "{% raw %} is never closed by {% endraw %}");
}

static bool word_byte(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c >= 0x80;
}
static bool digit(int c) { return c >= '0' && c <= '9'; }

static usize digits(const lexer *x, usize at)
{
    while (digit(peek(x, at)) || (peek(x, at) == '_' && digit(peek(x, at + 1)))) at++;
    return at;
}

static bool number_value(str s, int base, chat_token *t)
{
    u64 v = 0;
    for (usize i = 0; i < s.n; i++) {
        int c = s.p[i] | 0x20, d = digit(s.p[i]) ? s.p[i] - '0' : c - 'a' + 10;
        if (s.p[i] == '_') continue;
        if (d < 0 || d >= base || v > (u64)(INT64_MAX - d) / (u64)base) return false;
        v = v * (u64)base + (u64)d;
    }
    t->i = (i64)v;
    return true;
}

static err lex_number(lexer *x)
{
    usize from = x->at, at = digits(x, from);
    chat_token t = {.kind = T_INT};
    int kind = peek(x, from + 1) | 0x20, base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
    if (peek(x, from) == '0' && base != 10) {
        at = from + 2;
        while (word_byte(peek(x, at))) at++;
        if (at == from + 2 || !number_value((str){x->s.p + from + 2, at - from - 2}, base, &t))
            return lex_fail(x, "malformed number");
    } else {
        bool after_dot = from > 0 && x->s.p[from - 1] == '.';
        if (!after_dot && peek(x, at) == '.' && digit(peek(x, at + 1))) {
            t.kind = T_FLOAT;
            at = digits(x, at + 1);
        }
        usize e = at + 1 + (peek(x, at + 1) == '+' || peek(x, at + 1) == '-');
        if (!after_dot && (peek(x, at) | 0x20) == 'e' && digit(peek(x, e))) {
            t.kind = T_FLOAT;
            at = digits(x, e);
        }
        if (t.kind == T_INT && peek(x, from) == '0') /* 0, 00, 0_0; what follows is another number */
            for (at = from + 1; peek(x, at) == '0' || (peek(x, at) == '_' && peek(x, at + 1) == '0');) at++;
        str s = {x->s.p + from, at - from};
        char plain[400];
        usize n = 0;
        for (usize i = 0; i < s.n && n < sizeof plain; i++)
            if (s.p[i] != '_') plain[n++] = s.p[i];
        bool good = t.kind == T_INT ? number_value(s, 10, &t) : n < sizeof plain && str_f64((str){plain, n}, &t.f);
        if (!good) return lex_fail(x, "number too large");
    }
    t.text = (str){x->s.p + from, at - from};
    x->at = at;
    return push(x, t);
}

/* one escape at *at (behind the backslash); appends its bytes */
static bool unescape(const lexer *x, usize *at, usize end, char *out, usize *n)
{
    static const char name[] = "\\'\"abfnrtv", value[] = "\\'\"\a\b\f\n\r\t\v";
    int c = (u8)x->s.p[(*at)++];
    if (c == '\n') return true;
    const char *k = strchr(name, c);
    int hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    u32 u = 0;
    if (k && c) {
        out[(*n)++] = value[k - name];
    } else if (hex) {
        for (int i = 0; i < hex; i++, (*at)++) {
            int h = *at < end ? x->s.p[*at] | 0x20 : 0, d = digit(h) ? h - '0' : h >= 'a' && h <= 'f' ? h - 'a' + 10 : -1;
            if (d < 0) return false;
            u = u << 4 | (u32)d;
        }
        if (u > 0x10ffff) return false;
        *n += utf8_put(out + *n, u >= 0xd800 && u < 0xe000 ? 0xfffd : u);
    } else if (c >= '0' && c <= '7') {
        u = (u32)(c - '0');
        for (int i = 0; i < 2 && *at < end && x->s.p[*at] >= '0' && x->s.p[*at] <= '7'; i++)
            u = u * 8 + (u32)(x->s.p[(*at)++] - '0');
        *n += utf8_put(out + *n, u);
    } else {
        out[(*n)++] = '\\';
        out[(*n)++] = (char)c;
    }
    return true;
}

static err lex_string(lexer *x)
{
    char quote = x->s.p[x->at];
    usize from = x->at + 1, end = from;
    while (end < x->s.n && x->s.p[end] != quote) end += x->s.p[end] == '\\' ? 2 : 1;
    if (end >= x->s.n) return lex_fail(x, "a string is never closed");
    /* an escape never grows: the shortest one that gives n bytes is longer than n */
    char *text = arena_take(x->a, end - from + 4);
    if (!text) return err_new(ERR_NOMEM, "template: out of memory");
    usize n = 0;
    for (usize at = from; at < end;) {
        if (x->s.p[at] != '\\') {
            text[n++] = x->s.p[at++];
            continue;
        }
        at++;
        if (!unescape(x, &at, end, text, &n)) return lex_fail(x, "malformed escape in a string");
    }
    TRY(push(x, (chat_token){.kind = T_STRING, .text = {text, n}}));
    advance(x, end + 1);
    return OK;
}

static err lex_operator(lexer *x)
{
    static const char two[][3] = {"==", "!=", "<=", ">=", "//", "**"};
    int c = peek(x, x->at);
    chat_token t = {.kind = T_OP, .op = (u16)c, .text = {x->s.p + x->at, 1}};
    for (usize i = 0; i < COUNT_OF(two); i++)
        if (see(x, x->at, two[i])) {
            t.op = (u16)(two[i][0] << 8 | two[i][1]);
            t.text.n = 2;
        }
    if (t.text.n == 1 && (!c || !strchr("+-/*%~[](){}<>=.:|,;", c)))
        return err_new(ERR_FORMAT, "template: line %u: unexpected character '%.*s'", x->line, c < 0x80 ? 1 : 0, t.text.p);
    if (c == '(' || c == '[' || c == '{') {
        if (x->n_nest == CHAT_MAX_NEST) return lex_fail(x, "brackets are nested too deeply");
        x->nest[x->n_nest++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (!x->n_nest) return err_new(ERR_FORMAT, "template: line %u: '%c' without an opening bracket", x->line, c);
        if (x->nest[--x->n_nest] != c)
            return err_new(ERR_FORMAT, "template: line %u: '%c' found, '%c' expected", x->line, c, x->nest[x->n_nest]);
    }
    x->at += t.text.n;
    x->line_start = false;
    return push(x, t);
}

static err lex_tag(lexer *x, bool variable)
{
    u32 line = x->line;
    x->n_nest = 0;
    TRY(push(x, (chat_token){.kind = variable ? T_OPEN_VAR : T_OPEN_BLOCK}));
    for (;;) {
        advance(x, skip_space(x, x->at));
        usize end = x->n_nest ? 0 : end_mark(x, x->at, variable ? "}}" : "%}", !variable);
        if (end) {
            TRY(push(x, (chat_token){.kind = variable ? T_CLOSE_VAR : T_CLOSE_BLOCK}));
            advance(x, end);
            return OK;
        }
        int c = peek(x, x->at);
        if (x->at >= x->s.n) return err_new(ERR_FORMAT, "template: line %u: %s is never closed", line, variable ? "{{" : "{%");
        if (digit(c)) {
            TRY(lex_number(x));
        } else if (word_byte(c)) {
            usize from = x->at;
            while (word_byte(peek(x, x->at))) x->at++;
            TRY(push(x, (chat_token){.kind = T_NAME, .text = {x->s.p + from, x->at - from}}));
            x->line_start = false;
        } else if (c == '"' || c == '\'') {
            TRY(lex_string(x));
        } else {
            TRY(lex_operator(x));
        }
    }
}

err chat_lex(arena *a, str source, chat_tokens *out)
{
    lexer x = {.a = a, .s = source, .line = 1, .line_start = true, .out = out};
    while (x.at < source.n) {
        usize open = x.at;
        while (open + 1 < source.n && !(source.p[open] == '{' && strchr("%{#", source.p[open + 1]) && source.p[open + 1])) open++;
        if (open + 1 >= source.n) {
            TRY(push(&x, (chat_token){.kind = T_TEXT, .text = {source.p + x.at, source.n - x.at}}));
            advance(&x, source.n);
            break;
        }
        int kind = peek(&x, open + 1), sign = peek(&x, open + 2);
        TRY(push_text(&x, x.at, open, sign, kind == '{'));
        advance(&x, open);
        usize inside = open + 2 + (sign == '-' || sign == '+'), raw = kind == '%' ? raw_tag(&x, inside, "raw", false) : 0;
        advance(&x, raw ? raw : inside);
        if (raw)
            TRY(lex_raw(&x));
        else if (kind == '#')
            TRY(lex_comment(&x));
        else
            TRY(lex_tag(&x, kind == '{'));
    }
    return push(&x, (chat_token){.kind = T_END});
}
