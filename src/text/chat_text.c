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
bool chat_printable(u32 c)
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
        else if (chat_printable(c)) {
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

/* The characters whose upper case or title case is longer than one character (Unicode's SpecialCasing). */
static const struct {
    u32 c;
    const char *upper, *title;
} special[] = {
    {0xdf, "SS", "Ss"},   {0x149, "ʼN", "ʼN"},  {0x1f0, "J̌", "J̌"},    {0x390, "Ϊ́", "Ϊ́"},      {0x3b0, "Ϋ́", "Ϋ́"},
    {0x587, "ԵՒ", "Եւ"},  {0x1e96, "H̱", "H̱"},   {0x1e97, "T̈", "T̈"},   {0x1e98, "W̊", "W̊"},     {0x1e99, "Y̊", "Y̊"},
    {0x1e9a, "Aʾ", "Aʾ"}, {0x1f50, "Υ̓", "Υ̓"},   {0x1f52, "Υ̓̀", "Υ̓̀"},   {0x1f54, "Υ̓́", "Υ̓́"},     {0x1f56, "Υ̓͂", "Υ̓͂"},
    {0x1f80, "ἈΙ", "ᾈ"},  {0x1f81, "ἉΙ", "ᾉ"},  {0x1f82, "ἊΙ", "ᾊ"},  {0x1f83, "ἋΙ", "ᾋ"},    {0x1f84, "ἌΙ", "ᾌ"},
    {0x1f85, "ἍΙ", "ᾍ"},  {0x1f86, "ἎΙ", "ᾎ"},  {0x1f87, "ἏΙ", "ᾏ"},  {0x1f88, "ἈΙ", "ᾈ"},    {0x1f89, "ἉΙ", "ᾉ"},
    {0x1f8a, "ἊΙ", "ᾊ"},  {0x1f8b, "ἋΙ", "ᾋ"},  {0x1f8c, "ἌΙ", "ᾌ"},  {0x1f8d, "ἍΙ", "ᾍ"},    {0x1f8e, "ἎΙ", "ᾎ"},
    {0x1f8f, "ἏΙ", "ᾏ"},  {0x1f90, "ἨΙ", "ᾘ"},  {0x1f91, "ἩΙ", "ᾙ"},  {0x1f92, "ἪΙ", "ᾚ"},    {0x1f93, "ἫΙ", "ᾛ"},
    {0x1f94, "ἬΙ", "ᾜ"},  {0x1f95, "ἭΙ", "ᾝ"},  {0x1f96, "ἮΙ", "ᾞ"},  {0x1f97, "ἯΙ", "ᾟ"},    {0x1f98, "ἨΙ", "ᾘ"},
    {0x1f99, "ἩΙ", "ᾙ"},  {0x1f9a, "ἪΙ", "ᾚ"},  {0x1f9b, "ἫΙ", "ᾛ"},  {0x1f9c, "ἬΙ", "ᾜ"},    {0x1f9d, "ἭΙ", "ᾝ"},
    {0x1f9e, "ἮΙ", "ᾞ"},  {0x1f9f, "ἯΙ", "ᾟ"},  {0x1fa0, "ὨΙ", "ᾨ"},  {0x1fa1, "ὩΙ", "ᾩ"},    {0x1fa2, "ὪΙ", "ᾪ"},
    {0x1fa3, "ὫΙ", "ᾫ"},  {0x1fa4, "ὬΙ", "ᾬ"},  {0x1fa5, "ὭΙ", "ᾭ"},  {0x1fa6, "ὮΙ", "ᾮ"},    {0x1fa7, "ὯΙ", "ᾯ"},
    {0x1fa8, "ὨΙ", "ᾨ"},  {0x1fa9, "ὩΙ", "ᾩ"},  {0x1faa, "ὪΙ", "ᾪ"},  {0x1fab, "ὫΙ", "ᾫ"},    {0x1fac, "ὬΙ", "ᾬ"},
    {0x1fad, "ὭΙ", "ᾭ"},  {0x1fae, "ὮΙ", "ᾮ"},  {0x1faf, "ὯΙ", "ᾯ"},  {0x1fb2, "ᾺΙ", "Ὰͅ"},    {0x1fb3, "ΑΙ", "ᾼ"},
    {0x1fb4, "ΆΙ", "Άͅ"},  {0x1fb6, "Α͂", "Α͂"},   {0x1fb7, "Α͂Ι", "ᾼ͂"},  {0x1fbc, "ΑΙ", "ᾼ"},    {0x1fc2, "ῊΙ", "Ὴͅ"},
    {0x1fc3, "ΗΙ", "ῌ"},  {0x1fc4, "ΉΙ", "Ήͅ"},  {0x1fc6, "Η͂", "Η͂"},   {0x1fc7, "Η͂Ι", "ῌ͂"},    {0x1fcc, "ΗΙ", "ῌ"},
    {0x1fd2, "Ϊ̀", "Ϊ̀"},   {0x1fd3, "Ϊ́", "Ϊ́"},   {0x1fd6, "Ι͂", "Ι͂"},   {0x1fd7, "Ϊ͂", "Ϊ͂"},     {0x1fe2, "Ϋ̀", "Ϋ̀"},
    {0x1fe3, "Ϋ́", "Ϋ́"},   {0x1fe4, "Ρ̓", "Ρ̓"},   {0x1fe6, "Υ͂", "Υ͂"},   {0x1fe7, "Ϋ͂", "Ϋ͂"},     {0x1ff2, "ῺΙ", "Ὼͅ"},
    {0x1ff3, "ΩΙ", "ῼ"},  {0x1ff4, "ΏΙ", "Ώͅ"},  {0x1ff6, "Ω͂", "Ω͂"},   {0x1ff7, "Ω͂Ι", "ῼ͂"},    {0x1ffc, "ΩΙ", "ῼ"},
    {0xfb00, "FF", "Ff"}, {0xfb01, "FI", "Fi"}, {0xfb02, "FL", "Fl"}, {0xfb03, "FFI", "Ffi"}, {0xfb04, "FFL", "Ffl"},
    {0xfb05, "ST", "St"}, {0xfb06, "ST", "St"}, {0xfb13, "ՄՆ", "Մն"}, {0xfb14, "ՄԵ", "Մե"},   {0xfb15, "ՄԻ", "Մի"},
    {0xfb16, "ՎՆ", "Վն"}, {0xfb17, "ՄԽ", "Մխ"},
};

/* the text that c becomes where that is not one character, or NULL */
static const char *special_case(u32 c, chat_case how, bool begins)
{
    usize lo = 0, hi = COUNT_OF(special);
    if (how == CASE_SWAP && utf8proc_category((utf8proc_int32_t)c) != UTF8PROC_CATEGORY_LU) how = CASE_UPPER;
    if (c == 0x130 && (how == CASE_LOWER || how == CASE_SWAP || (how != CASE_UPPER && !begins))) return "i\xcc\x87";
    if (how != CASE_UPPER && (how == CASE_LOWER || !begins)) return NULL;
    while (lo < hi) {
        usize mid = (lo + hi) / 2;
        if (special[mid].c == c) return how == CASE_CAPITAL || how == CASE_TITLE ? special[mid].title : special[mid].upper;
        if (special[mid].c < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* Case-ignorable characters are passed over when a sigma looks for its neighbours. */
static bool ignorable(u32 c)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_LM ||
           k == UTF8PROC_CATEGORY_SK || (c < 0x80 && c && strchr("'.:^`", (int)c)) || c == 0xb7 || c == 0x2019;
}

/* a capital sigma in [from, to) of s ends its word */
static bool sigma_ends(str s, usize from, usize to)
{
    u32 c = 0;
    bool cased = false;
    for (usize at = to; at < s.n;) {
        c = utf8_next(s, &at);
        if (ignorable(c)) continue;
        if (is_cased(c)) return false;
        break;
    }
    while (from > 0 && !cased) {
        usize at = --from;
        if (((u8)s.p[from] & 0xc0) == 0x80) continue;
        c = utf8_next(s, &at);
        if (ignorable(c)) continue;
        return is_cased(c);
    }
    return false;
}

static chat_value folded(chat_eval *ev, chat_value v)
{
    chat_build b = {0};
    str s = chat_bytes(v);
    for (usize at = 0, from = 0; at < s.n && chat_step(ev, 1); from = at) {
        utf8proc_int32_t to[8];
        char text[32];
        usize n = 0;
        u32 c = utf8_next(s, &at);
        utf8proc_ssize_t n_to = utf8proc_decompose_char((utf8proc_int32_t)c, to, COUNT_OF(to), UTF8PROC_CASEFOLD, NULL);
        for (utf8proc_ssize_t i = 0; i < n_to && n_to <= (utf8proc_ssize_t)COUNT_OF(to); i++) n += utf8_put(text + n, (u32)to[i]);
        if (n_to == 1 && (u32)to[0] == c)
            chat_put_part(&b, ev, v.s, from, at);
        else
            chat_put(&b, ev, (str){text, n}, chat_string_from(v.s, from));
    }
    return chat_built(&b, ev, v.from, v.s->markup);
}

chat_value chat_recase(chat_eval *ev, chat_value v, chat_case how)
{
    chat_build b = {0};
    str s = chat_bytes(v);
    bool begins = true;
    if (!chat_step(ev, s.n / 4) || v.kind != V_STRING) return v;
    if (how == CASE_FOLD) return folded(ev, v);
    for (usize at = 0, from = 0; at < s.n && chat_step(ev, 0); from = at) {
        u32 c = utf8_next(s, &at), d = recase(c, how, begins);
        char text[4];
        const char *more = c < 0x80 ? NULL : special_case(c, how, begins);
        if (c == 0x3a3 && d == 0x3c3 && sigma_ends(s, from, at)) d = 0x3c2;
        if (more)
            chat_put(&b, ev, str_of(more), chat_string_from(v.s, from));
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
