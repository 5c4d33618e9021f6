/* Chat templates: text. Writing with provenance, Python's str() and repr(), numbers, letters in other cases.
 *
 * A text grows in the arena by doubling; what doubling leaves behind is at most the text once more, and no error path has
 * to free anything. Runs that touch and have one origin are one run. */
#include "text/chat.h"
#include <math.h>
#include <stdlib.h>
#include <utf8proc.h>

static bool room(chat_build *b, chat_eval *ev, usize n)
{
    if (ev->bad.code) return false;
    if (n <= b->cap - b->n) return true;
    usize cap = b->cap < 32 ? 64 : 2 * b->cap;
    if (cap < b->n + n) cap = b->n + n;
    char *p = chat_take(ev, cap);
    if (!p) return false;
    if (b->n) memcpy(p, b->p, b->n);
    b->p = p;
    b->cap = cap;
    return true;
}

/* the bytes before `end` that have no run yet come from `from` */
static void mark(chat_build *b, chat_eval *ev, usize end, chat_origin from)
{
    if (b->n_run) {
        chat_run *last = &b->run[b->n_run - 1];
        if (last->from.message == from.message && last->from.field == from.field) {
            last->end = (u32)end;
            return;
        }
    }
    if (b->n_run == b->cap_run) {
        usize cap = b->cap_run ? 2 * b->cap_run : 4;
        chat_run *run = chat_take(ev, cap * sizeof *run);
        if (!run) return;
        if (b->n_run) memcpy(run, b->run, b->n_run * sizeof *run);
        b->run = run;
        b->cap_run = cap;
    }
    b->run[b->n_run++] = (chat_run){(u32)end, from};
}

void chat_put(chat_build *b, chat_eval *ev, str s, chat_origin from)
{
    if (!s.n || !room(b, ev, s.n)) return;
    memcpy(b->p + b->n, s.p, s.n);
    b->n += s.n;
    mark(b, ev, b->n, from);
}

void chat_put_part(chat_build *b, chat_eval *ev, const chat_string *s, usize from, usize to)
{
    if (from >= to || !room(b, ev, to - from)) return;
    usize start = b->n - from; /* byte i of s lands at start + i (modulo 2^64) */
    memcpy(b->p + b->n, s->p + from, to - from);
    b->n += to - from;
    u32 lo = 0, hi = s->n_run;
    while (lo < hi) {
        u32 mid = (lo + hi) / 2;
        if (s->run[mid].end > from)
            hi = mid;
        else
            lo = mid + 1;
    }
    for (u32 i = lo; i < s->n_run && (i == lo || s->run[i - 1].end < to); i++)
        mark(b, ev, start + (s->run[i].end < to ? s->run[i].end : to), s->run[i].from);
}

chat_value chat_built(chat_build *b, chat_eval *ev, chat_origin from, bool markup)
{
    chat_string *s = chat_take(ev, sizeof *s);
    if (!s) return chat_undefined(UNDEF_NAME, SYM_NONE, 0);
    *s = (chat_string){b->p ? b->p : "", (u32)b->n, (u32)b->n_run, b->run, markup};
    return (chat_value){.kind = V_STRING, .from = b->n_run ? b->run[0].from : from, .s = s};
}

/* ---- numbers ---- */
void chat_float_text(double f, char out[40])
{
    char text[40], digit[20];
    int n = 0, exponent;
    if (isnan(f) || isinf(f)) {
        snprintf(out, 40, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    for (int p = 0; p < 17; p++) { /* the shortest that reads back the same */
        snprintf(text, sizeof text, "%.*e", p, f);
        if (strtod(text, NULL) == f) break;
    }
    for (const char *c = text; *c != 'e'; c++)
        if (*c >= '0' && *c <= '9') digit[n++] = *c;
    exponent = atoi(strchr(text, 'e') + 1);
    while (n > 1 && digit[n - 1] == '0') n--;
    char *o = out;
    if (signbit(f)) *o++ = '-';
    if (exponent < -4 || exponent >= 16) {
        *o++ = digit[0];
        if (n > 1) *o++ = '.';
        for (int i = 1; i < n; i++) *o++ = digit[i];
        snprintf(o, 14, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    if (exponent < 0) {
        *o++ = '0';
        *o++ = '.';
        for (int i = -1; i > exponent; i--) *o++ = '0';
    }
    for (int i = 0; i < n || i <= exponent; i++) {
        *o++ = i < n ? digit[i] : '0';
        if (i == exponent) {
            *o++ = '.';
            if (i + 1 >= n) *o++ = '0';
        }
    }
    *o = 0;
}

/* ---- str() and repr() ---- */
static bool printable(u32 c)
{
    if (c < 0x80) return c >= 0x20 && c < 0x7f;
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return !(k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CS || k == UTF8PROC_CATEGORY_CO ||
             k == UTF8PROC_CATEGORY_CN || k == UTF8PROC_CATEGORY_ZL || k == UTF8PROC_CATEGORY_ZP || k == UTF8PROC_CATEGORY_ZS);
}

static void put_quoted(chat_build *b, chat_eval *ev, chat_value v)
{
    str s = chat_bytes(v);
    char quote = s.n && memchr(s.p, '\'', s.n) && !memchr(s.p, '"', s.n) ? '"' : '\'';
    if (!chat_step(ev, s.n / 8)) return;
    if (v.s->markup) chat_put(b, ev, S("Markup("), v.from);
    chat_put(b, ev, (str){&quote, 1}, v.from);
    for (usize at = 0, from = 0; at < s.n && !ev->bad.code; from = at) {
        u32 c = utf8_next(s, &at);
        char text[16];
        if (c == (u8)quote || c == '\\')
            snprintf(text, sizeof text, "\\%c", (int)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            snprintf(text, sizeof text, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (printable(c)) {
            chat_put_part(b, ev, v.s, from, at);
            continue;
        } else
            snprintf(text, sizeof text, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
        chat_put(b, ev, str_of(text), chat_string_from(v.s, from));
    }
    chat_put(b, ev, (str){&quote, 1}, v.from);
    if (v.s->markup) chat_put(b, ev, S(")"), v.from);
}

static void put_list(chat_build *b, chat_eval *ev, chat_value v, int depth)
{
    static const char *const open[] = {"[", "(", "", "dict_items([", "dict_keys([", "dict_values(["};
    static const char *const close[] = {"]", ")", "", "])", "])", "])"};
    const chat_list *l = v.list;
    char text[80];
    if (l->flavour == LIST_LAZY) {
        chat_put(b, ev, S("<generator object>"), v.from);
        return;
    }
    if (l->flavour == LIST_RANGE) {
        i64 step = l->n > 1 ? l->item[1].i - l->item[0].i : 1, first = l->n ? l->item[0].i : 0;
        int n = snprintf(text, sizeof text, step == 1 ? "range(%lld, %lld)" : "range(%lld, %lld, %lld)", (long long)first,
                         (long long)(first + step * l->n), (long long)step);
        chat_put(b, ev, (str){text, (usize)n}, v.from);
        return;
    }
    chat_put(b, ev, str_of(open[l->flavour]), v.from);
    for (u32 i = 0; i < l->n && chat_step(ev, 1); i++) {
        if (i) chat_put(b, ev, S(", "), v.from);
        chat_put_repr(b, ev, l->item[i], depth + 1);
    }
    if (l->flavour == LIST_TUPLE && l->n == 1) chat_put(b, ev, S(","), v.from);
    chat_put(b, ev, str_of(close[l->flavour]), v.from);
}

static void put_dict(chat_build *b, chat_eval *ev, chat_value v, int depth)
{
    bool space = v.kind == V_NAMESPACE;
    chat_put(b, ev, space ? S("<Namespace {") : S("{"), v.from);
    for (u32 i = 0; i < v.dict->n && chat_step(ev, 1); i++) {
        if (i) chat_put(b, ev, S(", "), v.from);
        chat_put_repr(b, ev, v.dict->pair[i].key, depth + 1);
        chat_put(b, ev, S(": "), v.from);
        chat_put_repr(b, ev, v.dict->pair[i].value, depth + 1);
    }
    chat_put(b, ev, space ? S("}>") : S("}"), v.from);
}

void chat_put_repr(chat_build *b, chat_eval *ev, chat_value v, int depth)
{
    char text[160];
    if (depth > CHAT_MAX_DATA) chat_fail(ev, "values are nested too deeply to be written");
    if (!chat_step(ev, 1)) return;
    text[0] = 0;
    switch (v.kind) {
    case V_STRING: put_quoted(b, ev, v); return;
    case V_LIST: put_list(b, ev, v, depth); return;
    case V_DICT:
    case V_NAMESPACE: put_dict(b, ev, v, depth); return;
    case V_UNDEFINED: snprintf(text, sizeof text, "Undefined"); break;
    case V_NONE: snprintf(text, sizeof text, "None"); break;
    case V_BOOL: snprintf(text, sizeof text, "%s", v.b ? "True" : "False"); break;
    case V_INT: snprintf(text, sizeof text, "%lld", (long long)v.i); break;
    case V_FLOAT: chat_float_text(v.f, text); break;
    case V_MACRO: snprintf(text, sizeof text, "<Macro '%.100s'>", ev->t->symbol[v.macro->node->name].text.p); break;
    case V_CALLABLE: snprintf(text, sizeof text, "<%s %s>", v.fn->what, v.fn->row->name); break;
    case V_LOOP: snprintf(text, sizeof text, "<LoopContext %u/%u>", v.loop->index0 + 1, v.loop->list->n); break;
    default: break;
    }
    chat_put(b, ev, str_of(text), v.from);
}

void chat_put_value(chat_build *b, chat_eval *ev, chat_value v)
{
    if (v.kind == V_STRING)
        chat_put_part(b, ev, v.s, 0, v.s->n);
    else if (v.kind != V_UNDEFINED && v.kind != V_MISSING)
        chat_put_repr(b, ev, v, 0);
}

chat_value chat_to_string(chat_eval *ev, chat_value v)
{
    if (v.kind == V_STRING || ev->bad.code) return v;
    chat_build b = {0};
    chat_put_value(&b, ev, v);
    return chat_built(&b, ev, v.from, false);
}

/* ---- changing letters ---- */
chat_value chat_escape(chat_eval *ev, chat_value v)
{
    chat_build b = {0};
    v = chat_to_string(ev, v);
    str s = chat_bytes(v);
    if (!chat_step(ev, s.n / 8) || v.kind != V_STRING || v.s->markup) return v;
    usize from = 0;
    for (usize i = 0; i < s.n; i++) {
        const char *e = s.p[i] == '&'    ? "&amp;"
                        : s.p[i] == '<'  ? "&lt;"
                        : s.p[i] == '>'  ? "&gt;"
                        : s.p[i] == '\'' ? "&#39;"
                        : s.p[i] == '"'  ? "&#34;"
                                         : NULL;
        if (!e) continue;
        chat_put_part(&b, ev, v.s, from, i);
        chat_put(&b, ev, str_of(e), chat_string_from(v.s, i));
        from = i + 1;
    }
    chat_put_part(&b, ev, v.s, from, s.n);
    return chat_built(&b, ev, v.from, true);
}

static bool is_cased(u32 c)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
}

/* One character in another case. `begins`: the first of a word (or of the text, for CASE_CAPITAL). */
static u32 recase(u32 c, chat_case how, bool begins)
{
    utf8proc_int32_t u = (utf8proc_int32_t)c;
    if (how == CASE_SWAP) how = utf8proc_category(u) == UTF8PROC_CATEGORY_LU ? CASE_LOWER : CASE_UPPER;
    if (how == CASE_UPPER || (how == CASE_TITLE_FILTER && begins)) return (u32)utf8proc_toupper(u);
    if (how != CASE_LOWER && begins) return (u32)utf8proc_totitle(u);
    return (u32)utf8proc_tolower(u);
}

chat_value chat_recase(chat_eval *ev, chat_value v, chat_case how)
{
    chat_build b = {0};
    str s = chat_bytes(v);
    bool begins = true;
    if (!chat_step(ev, s.n / 4) || v.kind != V_STRING) return v;
    for (usize at = 0, from = 0; at < s.n && !ev->bad.code; from = at) {
        u32 c = utf8_next(s, &at), d = recase(c, how, begins);
        char text[4];
        if (c == 0xdf && (how == CASE_UPPER || how == CASE_SWAP || (begins && how != CASE_LOWER)))
            chat_put(&b, ev, how == CASE_CAPITAL || how == CASE_TITLE ? S("Ss") : S("SS"), chat_string_from(v.s, from));
        else if (c == d)
            chat_put_part(&b, ev, v.s, from, at);
        else
            chat_put(&b, ev, (str){text, utf8_put(text, d)}, chat_string_from(v.s, from));
        if (how == CASE_CAPITAL)
            begins = false;
        else if (how == CASE_TITLE)
            begins = !is_cased(c);
        else
            begins = chat_is_space(c) || (c < 0x80 && c && strchr("-({[<", (int)c)); /* Jinja's idea of a word */
    }
    return chat_built(&b, ev, v.from, v.s->markup);
}
