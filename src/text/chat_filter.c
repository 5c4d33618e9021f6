/* Chat templates: filters of texts, numbers and single values, and the text operations that methods share with them.
 * Each works as the function of the same name in Jinja 3.1; tojson as transformers overrides it. A filter that gets what it
 * cannot use is an error, not an empty text: a template that renders wrongly must not do so silently. */
#include "text/chat.h"
#include <math.h>
#include <stdlib.h>

/* ---- arguments ---- */
bool chat_given(const chat_args *a, u32 i) { return i < a->n && a->arg[i].kind != V_MISSING && a->arg[i].kind != V_NONE; }
bool chat_arg_true(const chat_args *a, u32 i) { return chat_given(a, i) && chat_truth(a->arg[i]); }

i64 chat_arg_int(chat_eval *ev, const chat_args *a, u32 i, i64 otherwise)
{
    if (!chat_given(a, i)) return otherwise;
    i64 v;
    if (!chat_integer(a->arg[i], &v)) {
        chat_need_defined(ev, a->arg[i]);
        chat_fail(ev, "an integer expected, %s found", chat_kind_name(a->arg[i]));
    }
    return v;
}

chat_value chat_arg_text(chat_eval *ev, const chat_args *a, u32 i, const char *otherwise)
{
    if (!chat_given(a, i)) return chat_string_lit(ev, otherwise);
    if (a->arg[i].kind == V_STRING) return a->arg[i];
    chat_need_defined(ev, a->arg[i]);
    chat_fail(ev, "a string expected, %s found", chat_kind_name(a->arg[i]));
    return chat_string_lit(ev, "");
}

/* ---- operations on texts; all give back what they got when there is an error ---- */
chat_value chat_strip(chat_eval *ev, chat_value v, chat_value chars, bool head, bool tail)
{
    str s = chat_bytes(v), set = chat_bytes(chars);
    usize from = 0, to = s.n;
    if (!chat_step(ev, s.n / 32)) return v;
    if (chars.kind != V_STRING) {
        if (head) from = chat_space_head(s);
        if (tail && from < to) to -= chat_space_tail(s);
        return chat_string_part(ev, v, from, to);
    }
    while (head && from < to) {
        usize next = from;
        utf8_next(s, &next);
        if (!chat_step(ev, set.n / 16) || str_find(set, (str){s.p + from, next - from}, 0) < 0) break;
        from = next;
    }
    while (tail && from < to) {
        usize last = to - 1;
        while (last > from && ((u8)s.p[last] & 0xc0) == 0x80) last--;
        if (!chat_step(ev, set.n / 16) || str_find(set, (str){s.p + last, to - last}, 0) < 0) break;
        to = last;
    }
    return chat_string_part(ev, v, from, to);
}

/* the new text in the place of [from, to) of v: it belongs to what it replaces, unless it came from a message itself */
static void put_replacement(chat_build *b, chat_eval *ev, chat_value v, usize from, chat_value text)
{
    str s = chat_bytes(text);
    bool own = !s.n || text.s->n_run > 1 || text.s->run[0].from.message >= 0;
    if (own)
        chat_put_value(b, ev, text);
    else
        chat_put(b, ev, s, v.s->n ? chat_string_from(v.s, from) : text.s->run[0].from);
}

chat_value chat_replace(chat_eval *ev, chat_value v, chat_value old, chat_value text, i64 count)
{
    if (ev->bad.code || v.kind != V_STRING) return v;
    str s = chat_bytes(v), o = chat_bytes(old);
    chat_build b = {0};
    usize from = 0;
    if (!chat_step(ev, s.n / 8)) return v;
    if (count < 0) count = INT64_MAX;
    while (count > 0 && chat_step(ev, 1)) {
        i64 at = o.n ? str_find(s, o, from) : (i64)from;
        if (at < 0) break;
        chat_put_part(&b, ev, v.s, from, (usize)at);
        put_replacement(&b, ev, v, (usize)at, text);
        from = (usize)at + o.n;
        count--;
        if (o.n) continue;
        if (from >= s.n) break;
        usize next = from; /* nothing to find: between all characters */
        utf8_next(s, &next);
        chat_put_part(&b, ev, v.s, from, next);
        from = next;
    }
    chat_put_part(&b, ev, v.s, from, s.n);
    return chat_built(&b, ev, v.from, v.s->markup);
}

static bool ends_line(u32 c)
{
    return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

chat_list *chat_lines(chat_eval *ev, chat_value v, bool keep_ends)
{
    str s = chat_bytes(v);
    chat_list *l = chat_list_new(ev, 8, LIST_PLAIN);
    usize from = 0;
    if (!chat_step(ev, s.n / 8)) return l;
    for (usize at = 0; at < s.n && !ev->bad.code;) {
        usize here = at;
        u32 c = utf8_next(s, &at);
        if (!ends_line(c)) continue;
        if (c == '\r' && at < s.n && s.p[at] == '\n') at++;
        chat_list_push(ev, l, chat_string_part(ev, v, from, keep_ends ? at : here));
        from = at;
    }
    if (from < s.n) chat_list_push(ev, l, chat_string_part(ev, v, from, s.n));
    return l;
}

chat_value chat_join(chat_eval *ev, chat_value separator, chat_list *l, bool strict)
{
    chat_build b = {0};
    bool markup = separator.kind == V_STRING && separator.s->markup && strict;
    for (u32 i = 0; i < l->n && chat_step(ev, 1); i++) {
        chat_value v = l->item[i];
        if (strict && v.kind != V_STRING) {
            chat_need_defined(ev, v);
            return chat_fail(ev, "item %u must be a string, %s found", i, chat_kind_name(v));
        }
        if (i) chat_put_value(&b, ev, separator);
        chat_put_value(&b, ev, markup ? chat_escape(ev, v) : v);
    }
    return chat_built(&b, ev, CHAT_LITERAL, markup);
}

chat_value chat_reverse(chat_eval *ev, chat_value v)
{
    str s = chat_bytes(v);
    chat_build b = {0};
    if (!chat_step(ev, s.n / 4)) return v;
    for (usize to = s.n; to > 0 && !ev->bad.code;) {
        usize from = to - 1, next;
        while (from > 0 && to - from < 4 && ((u8)s.p[from] & 0xc0) == 0x80) from--;
        next = from;
        utf8_next(s, &next);
        if (next != to) from = to - 1; /* malformed: byte by byte */
        chat_put_part(&b, ev, v.s, from, to);
        to = from;
    }
    return chat_built(&b, ev, v.from, false);
}

/* ---- filters of texts ---- */
#define FILTER(name) static chat_value filter_##name(chat_eval *ev, chat_value v, const chat_args *a)

FILTER(default) /* default_value boolean */
{
    bool use = v.kind == V_UNDEFINED || (chat_arg_true(a, 1) && !chat_truth(v));
    return !use ? v : a->arg[0].kind == V_MISSING ? chat_string_lit(ev, "") : a->arg[0];
}
FILTER(string) { return (void)a, chat_to_string(ev, v); }
FILTER(upper) { return (void)a, chat_recase(ev, chat_to_string(ev, v), CASE_UPPER); }
FILTER(lower) { return (void)a, chat_recase(ev, chat_to_string(ev, v), CASE_LOWER); }
FILTER(capitalize) { return (void)a, chat_recase(ev, chat_to_string(ev, v), CASE_CAPITAL); }
FILTER(title) { return (void)a, chat_recase(ev, chat_to_string(ev, v), CASE_TITLE_FILTER); }
FILTER(escape) { return (void)a, chat_escape(ev, v); }
FILTER(trim)
{
    return chat_strip(ev, chat_to_string(ev, v), chat_given(a, 0) ? chat_arg_text(ev, a, 0, "") : chat_none(), true, true);
}
FILTER(length) { return (void)a, chat_int(chat_length(ev, v)); }

FILTER(safe)
{
    (void)a;
    v = chat_to_string(ev, v);
    chat_string *s = v.kind == V_STRING ? chat_take(ev, sizeof *s) : NULL;
    if (!s) return v;
    *s = *v.s;
    s->markup = true;
    v.s = s;
    return v;
}

FILTER(replace) /* old new count */
{
    return chat_replace(ev, chat_to_string(ev, v), chat_to_string(ev, a->arg[0]), chat_to_string(ev, a->arg[1]),
                        chat_arg_int(ev, a, 2, -1));
}

FILTER(join) /* d attribute */
{
    chat_list *l = chat_iterate(ev, v);
    if (chat_given(a, 1)) {
        chat_list *of = chat_list_new(ev, l->n, LIST_PLAIN);
        for (u32 i = 0; i < l->n && !ev->bad.code; i++)
            chat_list_push(ev, of, chat_path(ev, l->item[i], a->arg[1], (chat_value){.kind = V_MISSING}));
        l = of;
    }
    return chat_join(ev, chat_given(a, 0) ? chat_to_string(ev, a->arg[0]) : chat_string_lit(ev, ""), l, false);
}

static void put_spaces(chat_build *b, chat_eval *ev, i64 n, chat_origin from)
{
    for (; n > 0 && chat_step(ev, 1); n -= 16) chat_put(b, ev, (str){"                ", (usize)i64_min(n, 16)}, from);
}

static void put_indent(chat_build *b, chat_eval *ev, chat_value width, chat_value line)
{
    chat_origin from = line.from; /* it belongs to the line that it indents */
    i64 n;
    if (width.kind == V_STRING)
        chat_put(b, ev, chat_bytes(width), from);
    else if (width.kind == V_MISSING)
        put_spaces(b, ev, 4, from);
    else if (chat_integer(width, &n))
        put_spaces(b, ev, n, from);
    else
        chat_fail(ev, "the width is an integer or a string, %s found", chat_kind_name(width));
}

FILTER(indent) /* width first blank */
{
    chat_build b = {0};
    if (v.kind != V_STRING) return chat_need_defined(ev, v), chat_fail(ev, "a string expected, %s found", chat_kind_name(v));
    chat_list *l = chat_lines(ev, v, false);
    str s = chat_bytes(v);
    bool first = chat_arg_true(a, 1), blank = chat_arg_true(a, 2);
    usize last = s.n; /* Python adds a line end before it splits: a final one leaves an empty line */
    while (last > 0 && ((u8)s.p[last - 1] & 0xc0) == 0x80) last--;
    usize at = last ? last - 1 : 0;
    u32 c = s.n ? utf8_next(s, &at) : '\n';
    if (ends_line(c) && c != '\r') chat_list_push(ev, l, chat_string_lit(ev, ""));
    for (u32 i = 0; i < l->n && chat_step(ev, 1); i++) {
        chat_value line = l->item[i];
        if (i) chat_put(&b, ev, S("\n"), line.from);
        if (i ? blank || chat_bytes(line).n : first) put_indent(&b, ev, a->arg[0], line);
        chat_put_value(&b, ev, line);
    }
    return chat_built(&b, ev, v.from, v.kind == V_STRING && v.s->markup);
}

FILTER(format) { return chat_format(ev, chat_to_string(ev, v), a, false); }

/* ---- filters of numbers ---- */
static str trimmed(str s)
{
    usize head = chat_space_head(s);
    s = (str){s.p + head, s.n - head};
    s.n -= chat_space_tail(s);
    return s;
}

/* int(text, base) of Python; false: not a number */
static bool read_integer(chat_eval *ev, str s, i64 base, i64 *out)
{
    u64 n = 0;
    s = trimmed(s);
    bool minus = s.n && s.p[0] == '-', any = false;
    if (s.n && (s.p[0] == '-' || s.p[0] == '+')) s.p++, s.n--;
    int mark = s.n > 2 && s.p[0] == '0' ? s.p[1] | 0x20 : 0;
    i64 said = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (said && (base == said || !base)) base = said, s.p += 2, s.n -= 2;
    if (!base) base = 10;
    for (usize i = 0; i < s.n; i++) {
        int c = s.p[i], d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'z' ? (c | 32) - 'a' + 10 : 99;
        if (c == '_' && any && i + 1 < s.n && s.p[i + 1] != '_') continue;
        if (d >= base) return false;
        any = true;
        if (n > ((u64)INT64_MAX - (u64)d) / (u64)base) {
            chat_fail(ev, "the number does not fit 64 bits");
            return false;
        }
        n = n * (u64)base + (u64)d;
    }
    *out = minus ? -(i64)n : (i64)n;
    return any;
}

static bool read_float(chat_eval *ev, chat_value v, double *f)
{
    str s = chat_bytes(v);
    if (v.kind != V_STRING) {
        chat_need_defined(ev, v);
        return chat_number(v, f);
    }
    s = trimmed(s);
    str word = s.n && (s.p[0] == '-' || s.p[0] == '+') ? (str){s.p + 1, s.n - 1} : s;
    bool inf = (word.n == 3 && !strncasecmp(word.p, "inf", 3)) || (word.n == 8 && !strncasecmp(word.p, "infinity", 8));
    if (inf || (word.n == 3 && !strncasecmp(word.p, "nan", 3))) {
        *f = copysign(inf ? INFINITY : NAN, s.p[0] == '-' ? -1 : 1);
        return true;
    }
    return str_f64(s, f);
}

FILTER(int) /* default base */
{
    i64 i, base = chat_arg_int(ev, a, 1, 10);
    double f;
    if (base != 0 && (base < 2 || base > 36)) return chat_fail(ev, "a base from 2 to 36 expected, %lld found", (long long)base);
    if (chat_integer(v, &i) || (v.kind == V_STRING && read_integer(ev, chat_bytes(v), base, &i)) ||
        (read_float(ev, v, &f) && fabs(f) < 9.2e18 && (i = (i64)f, true))) {
        chat_value out = chat_int(i);
        out.from = v.from;
        return out;
    }
    return a->arg[0].kind == V_MISSING ? chat_int(0) : a->arg[0];
}

FILTER(float) /* default */
{
    double f;
    if (!read_float(ev, v, &f)) return a->arg[0].kind == V_MISSING ? chat_float(0) : a->arg[0];
    chat_value out = chat_float(f);
    out.from = v.from;
    return out;
}

FILTER(abs)
{
    (void)a;
    if (v.kind == V_FLOAT) return chat_float(fabs(v.f));
    i64 i;
    if (chat_integer(v, &i)) return i == INT64_MIN ? chat_fail(ev, "the result does not fit 64 bits") : chat_int(i < 0 ? -i : i);
    chat_need_defined(ev, v);
    return chat_fail(ev, "a number expected, %s found", chat_kind_name(v));
}

FILTER(round) /* precision method */
{
    i64 digits = chat_arg_int(ev, a, 0, 0), i;
    chat_value method = chat_arg_text(ev, a, 1, "common");
    double f;
    if (!chat_number(v, &f)) {
        chat_need_defined(ev, v);
        return chat_fail(ev, "a number expected, %s found", chat_kind_name(v));
    }
    bool ceiling = chat_string_is(method, "ceil");
    if (digits < -300 || digits > 300) return chat_fail(ev, "a precision from -300 to 300 expected");
    if (ceiling || chat_string_is(method, "floor")) {
        double scale = pow(10, (double)digits);
        return chat_float((ceiling ? ceil(f * scale) : floor(f * scale)) / scale + 0.0); /* never -0.0 */
    }
    if (!chat_string_is(method, "common")) return chat_fail(ev, "a method 'common', 'ceil' or 'floor' expected");
    if (chat_integer(v, &i) && digits >= 0) return chat_int(i);
    char text[720]; /* printf rounds the decimal expansion correctly, as Python does */
    if (digits >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)digits, f);
        return chat_float(strtod(text, NULL));
    }
    double scale = pow(10, (double)-digits), r = rint(f / scale) * scale;
    if (!chat_integer(v, &i)) return chat_float(r);
    return fabs(r) < 9.2e18 ? chat_int((i64)r) : chat_fail(ev, "the result does not fit 64 bits");
}

static const chat_builtin filters[] = {
    {"default", "default_value boolean", 0, filter_default},
    {"d", "default_value boolean", 0, filter_default},
    {"tojson", "ensure_ascii indent separators sort_keys", 0, chat_filter_tojson},
    {"from_json", "", 0, chat_filter_from_json},
    {"trim", "chars", 0, filter_trim},
    {"length", "", 0, filter_length},
    {"count", "", 0, filter_length},
    {"string", "", 0, filter_string},
    {"upper", "", 0, filter_upper},
    {"lower", "", 0, filter_lower},
    {"capitalize", "", 0, filter_capitalize},
    {"title", "", 0, filter_title},
    {"join", "d attribute", 0, filter_join},
    {"replace", "old new count", 2, filter_replace},
    {"indent", "width first blank", 0, filter_indent},
    {"safe", "", 0, filter_safe},
    {"escape", "", 0, filter_escape},
    {"e", "", 0, filter_escape},
    {"format", NULL, 0, filter_format},
    {"int", "default base", 0, filter_int},
    {"float", "default", 0, filter_float},
    {"abs", "", 0, filter_abs},
    {"round", "precision method", 0, filter_round},
    {NULL},
};

const chat_builtin *chat_row_find(const chat_builtin *rows, str name)
{
    for (; rows->name; rows++)
        if (str_eq(name, str_of(rows->name))) return rows;
    return NULL;
}

const chat_builtin *chat_filter_find(str name)
{
    const chat_builtin *row = chat_row_find(filters, name);
    if (!row) row = chat_row_find(chat_list_filters, name);
    return row ? row : chat_row_find(chat_more_filters, name);
}
