/* Chat templates: methods of strings, mappings, lists and loops, and the global functions.
 *
 * What would change a value (list.append, dict.update ...) is forbidden, as in the immutable sandbox in which transformers
 * renders: the name is known and undefined, and calling it says why.
 *
 * strftime_now takes the local time, or the moment in SOURCE_DATE_EPOCH (in UTC) where that is set, so that a rendering can
 * be repeated. */
#include "text/chat.h"
#include <stdlib.h>
#include <locale.h>
#include <time.h>
#include <utf8proc.h>

static chat_value global_dict(chat_eval *ev, chat_value v, const chat_args *a);
#define METHOD(name) static chat_value method_##name(chat_eval *ev, chat_value v, const chat_args *a)
#define UNUSED ((void)ev, (void)a)

/* ---- strings: taking apart ---- */
static chat_value chars_argument(chat_eval *ev, const chat_args *a)
{
    return chat_given(a, 0) ? chat_arg_text(ev, a, 0, "") : chat_none();
}
METHOD(strip) { return chat_strip(ev, v, chars_argument(ev, a), true, true); }
METHOD(lstrip) { return chat_strip(ev, v, chars_argument(ev, a), true, false); }
METHOD(rstrip) { return chat_strip(ev, v, chars_argument(ev, a), false, true); }
METHOD(splitlines) { return chat_list_value(chat_lines(ev, v, chat_arg_true(a, 0)), v.from); }

static void split_words(chat_eval *ev, chat_list *l, chat_value v, i64 max)
{
    str s = chat_bytes(v);
    for (usize at = chat_space_head(s); at < s.n && chat_step(ev, 1);) {
        usize end = at, next = at;
        if ((i64)l->n == max) end = next = s.n;
        while (next < s.n) {
            u32 c = utf8_next(s, &next);
            if (chat_is_space(c)) break;
            end = next;
        }
        chat_list_push(ev, l, chat_string_part(ev, v, at, end));
        at = next + chat_space_head((str){s.p + next, s.n - next});
    }
}

static void rsplit_words(chat_eval *ev, chat_list *l, chat_value v, i64 max)
{
    str s = chat_bytes(v);
    s.n -= chat_space_tail(s);
    while (s.n > 0 && chat_step(ev, 1)) {
        usize from = (i64)l->n == max ? 0 : s.n;
        while (from > 0 && !chat_space_tail((str){s.p, from})) from--; /* a byte inside a character is never white space */
        chat_list_push(ev, l, chat_string_part(ev, v, from, s.n));
        s.n = from;
        s.n -= chat_space_tail(s);
    }
}

static void turn(chat_list *l)
{
    for (u32 i = 0; i < l->n / 2; i++) {
        chat_value swap = l->item[i];
        l->item[i] = l->item[l->n - 1 - i];
        l->item[l->n - 1 - i] = swap;
    }
}

/* The last place of `needle` that ends at or before `to`, or -1. The search is the simple one: it is paid for as if every place
 * agreed to the end. */
static i64 find_last(chat_eval *ev, str s, str needle, usize to)
{
    if (needle.n > to || !chat_step(ev, needle.n / 64 * (to / 64))) return -1;
    for (usize at = to - needle.n;; at--) {
        if (!memcmp(s.p + at, needle.p, needle.n)) return (i64)at;
        if (!at) return -1;
    }
}

static chat_value split(chat_eval *ev, chat_value v, const chat_args *a, bool right)
{
    str s = chat_bytes(v);
    i64 max = chat_arg_int(ev, a, 1, -1);
    chat_list *l = chat_list_new(ev, 4, LIST_PLAIN);
    if (!chat_step(ev, s.n / 8)) return v;
    if (max < 0) max = INT64_MAX;
    if (!chat_given(a, 0)) {
        (right ? rsplit_words : split_words)(ev, l, v, max);
        if (right) turn(l);
        return chat_list_value(l, v.from);
    }
    str sep = chat_bytes(chat_arg_text(ev, a, 0, ""));
    if (!sep.n) return chat_fail(ev, "the separator is empty");
    usize from = 0, to = s.n;
    for (i64 at; max > 0 && chat_step(ev, 1); max--) {
        at = right ? find_last(ev, s, sep, to) : str_find(s, sep, from);
        if (at < 0) break;
        chat_list_push(ev, l, right ? chat_string_part(ev, v, (usize)at + sep.n, to) : chat_string_part(ev, v, from, (usize)at));
        if (right)
            to = (usize)at;
        else
            from = (usize)at + sep.n;
    }
    chat_list_push(ev, l, chat_string_part(ev, v, from, to));
    if (right) turn(l);
    return chat_list_value(l, v.from);
}
METHOD(split) { return split(ev, v, a, false); } /* sep maxsplit */
METHOD(rsplit) { return split(ev, v, a, true); }

static chat_value partition(chat_eval *ev, chat_value v, const chat_args *a, bool right)
{
    str s = chat_bytes(v), sep = chat_bytes(chat_arg_text(ev, a, 0, ""));
    if (!sep.n || !chat_step(ev, s.n / 8)) return chat_fail(ev, "the separator is empty");
    i64 at = right ? find_last(ev, s, sep, s.n) : str_find(s, sep, 0);
    chat_list *l = chat_list_new(ev, 3, LIST_TUPLE);
    usize cut = at >= 0 ? (usize)at : right ? 0 : s.n, behind = at >= 0 ? cut + sep.n : cut;
    chat_list_push(ev, l, chat_string_part(ev, v, 0, cut));
    chat_list_push(ev, l, chat_string_part(ev, v, cut, behind));
    chat_list_push(ev, l, chat_string_part(ev, v, behind, s.n));
    return chat_list_value(l, v.from);
}
METHOD(partition) { return partition(ev, v, a, false); }
METHOD(rpartition) { return partition(ev, v, a, true); }

/* ---- strings: asking ---- */
static bool edge_is(chat_value v, chat_value part, bool end)
{
    return end ? str_ends(chat_bytes(v), chat_bytes(part)) : str_starts(chat_bytes(v), chat_bytes(part));
}

/* the part from argument 1 to argument 2 (characters, Python's rules) in which is looked for argument 0; false: there is none */
static bool window(chat_eval *ev, chat_value *v, const chat_args *a, i64 *start)
{
    *start = 0;
    if (!chat_given(a, 1) && !chat_given(a, 2)) return true;
    i64 n = chat_length(ev, *v), to = chat_arg_int(ev, a, 2, n);
    *start = chat_arg_int(ev, a, 1, 0);
    if (to < 0) to = i64_max(to + n, 0);
    if (*start < 0) *start = i64_max(*start + n, 0);
    to = i64_min(to, n);
    if (*start > to || ev->bad.code) return false;
    str s = chat_bytes(*v);
    *v = chat_string_part(ev, *v, utf8_offset(s, (usize)*start), utf8_offset(s, (usize)to));
    return !ev->bad.code;
}

/* startswith, endswith: a string or a tuple of them */
static chat_value edge(chat_eval *ev, chat_value v, const chat_args *a, bool end)
{
    chat_value p = a->arg[0];
    i64 start;
    bool tuple = p.kind == V_LIST && p.list->flavour == LIST_TUPLE;
    if (!tuple) p = chat_arg_text(ev, a, 0, "");
    if (!window(ev, &v, a, &start)) return chat_bool(false);
    if (!tuple || ev->bad.code) return chat_bool(edge_is(v, p, end));
    for (u32 i = 0; i < p.list->n && chat_step(ev, 1); i++)
        if (p.list->item[i].kind == V_STRING && edge_is(v, p.list->item[i], end)) return chat_bool(true);
    return chat_bool(false);
}
METHOD(startswith) { return edge(ev, v, a, false); }
METHOD(endswith) { return edge(ev, v, a, true); }

static chat_value remove_edge(chat_eval *ev, chat_value v, const chat_args *a, bool end)
{
    chat_value p = chat_arg_text(ev, a, 0, "");
    usize n = edge_is(v, p, end) ? chat_bytes(p).n : 0;
    return chat_string_part(ev, v, end ? 0 : n, v.s->n - (end ? n : 0));
}
METHOD(removeprefix) { return remove_edge(ev, v, a, false); }
METHOD(removesuffix) { return remove_edge(ev, v, a, true); }

static i64 find_index(chat_eval *ev, chat_value v, const chat_args *a, bool right)
{
    str sub = chat_bytes(chat_arg_text(ev, a, 0, ""));
    i64 start;
    if (!window(ev, &v, a, &start)) return -1;
    str s = chat_bytes(v);
    if (!chat_step(ev, s.n / 8)) return -1;
    i64 at = right ? find_last(ev, s, sub, s.n) : str_find(s, sub, 0);
    return at < 0 ? -1 : start + (i64)utf8_count((str){s.p, (usize)at});
}
METHOD(find) { return chat_int(find_index(ev, v, a, false)); }
METHOD(rfind) { return chat_int(find_index(ev, v, a, true)); }

static chat_value found_index(chat_eval *ev, i64 i) { return i < 0 ? chat_fail(ev, "not found") : chat_int(i); }
METHOD(index) { return found_index(ev, find_index(ev, v, a, false)); }
METHOD(rindex) { return found_index(ev, find_index(ev, v, a, true)); }

METHOD(count)
{
    str sub = chat_bytes(chat_arg_text(ev, a, 0, ""));
    i64 n = 0, start;
    if (!window(ev, &v, a, &start)) return chat_int(0);
    str s = chat_bytes(v);
    if (!chat_step(ev, s.n / 8)) return v;
    if (!sub.n) return chat_int((i64)utf8_count(s) + 1);
    for (i64 at = str_find(s, sub, 0); at >= 0 && chat_step(ev, 1); at = str_find(s, sub, (usize)at + sub.n)) n++;
    return chat_int(n);
}

enum { IS_DIGIT = 1, IS_LETTER = 2, IS_SPACE = 4, IS_NUMERIC = 8, IS_DECIMAL = 16 };

/* digits raised, lowered, in circles, brackets and with dots: digits for Python, but not decimal */
static bool other_digit(u32 c)
{
    static const u32 range[][2] = {{0xb2, 0xb3},     {0xb9, 0xb9},     {0x2070, 0x2070}, {0x2074, 0x2079}, {0x2080, 0x2089},
                                   {0x2460, 0x2468}, {0x2474, 0x247c}, {0x2488, 0x2490}, {0x24ea, 0x24ea}, {0x24f5, 0x24fd},
                                   {0x24ff, 0x24ff}, {0x2776, 0x277e}, {0x2780, 0x2788}, {0x278a, 0x2792}};
    for (usize i = 0; i < COUNT_OF(range); i++)
        if (c >= range[i][0] && c <= range[i][1]) return true;
    return false;
}

static chat_value all_are(chat_eval *ev, chat_value v, int what)
{
    str s = chat_bytes(v);
    if (!chat_step(ev, s.n / 8)) return v;
    for (usize at = 0; at < s.n;) {
        u32 c = utf8_next(s, &at);
        utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
        int is = (k == UTF8PROC_CATEGORY_ND ? IS_DECIMAL | IS_DIGIT | IS_NUMERIC : 0) | (other_digit(c) ? IS_DIGIT : 0) |
                 (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO ? IS_LETTER : 0) | (chat_is_space(c) ? IS_SPACE : 0) |
                 (k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO ? IS_NUMERIC : 0);
        if (!(is & what)) return chat_bool(false);
    }
    return chat_bool(s.n > 0);
}
METHOD(isdigit) { return (void)a, all_are(ev, v, IS_DIGIT); }
METHOD(isdecimal) { return (void)a, all_are(ev, v, IS_DECIMAL); }
METHOD(isnumeric) { return (void)a, all_are(ev, v, IS_NUMERIC); }
METHOD(isalpha) { return (void)a, all_are(ev, v, IS_LETTER); }
METHOD(isalnum) { return (void)a, all_are(ev, v, IS_LETTER | IS_NUMERIC); }
METHOD(isspace) { return (void)a, all_are(ev, v, IS_SPACE); }

static chat_value case_test(chat_eval *ev, chat_value v, const char *test)
{
    return chat_builtin_call(ev, chat_test_find(str_of(test)), "test", v, &(chat_args){0});
}
METHOD(isascii)
{
    str s = chat_bytes(v);
    bool yes = chat_step(ev, s.n / 8);
    for (usize i = 0; i < s.n; i++) yes &= (u8)s.p[i] < 0x80;
    return (void)a, chat_bool(yes);
}

METHOD(isprintable)
{
    str s = chat_bytes(v);
    bool yes = chat_step(ev, s.n / 8);
    for (usize at = 0; at < s.n && yes;) yes = chat_printable(utf8_next(s, &at));
    return (void)a, chat_bool(yes);
}

METHOD(istitle)
{
    str s = chat_bytes(v);
    bool any = false, inside = false;
    if (!chat_step(ev, s.n / 8)) return v;
    for (usize at = 0; at < s.n;) {
        utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)utf8_next(s, &at));
        bool upper = k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LT, lower = k == UTF8PROC_CATEGORY_LL;
        if ((upper && inside) || (lower && !inside)) return chat_bool(false);
        inside = upper || lower;
        any |= inside;
    }
    return (void)a, chat_bool(any);
}

METHOD(isupper) { return (void)a, case_test(ev, v, "upper"); }
METHOD(islower) { return (void)a, case_test(ev, v, "lower"); }

/* ---- strings: changing ---- */
METHOD(expandtabs) /* tabsize */
{
    str s = chat_bytes(v);
    i64 size = chat_arg_int(ev, a, 0, 8), column = 0;
    chat_build b = {0};
    if (!chat_step(ev, s.n / 8)) return v;
    for (usize at = 0, from = 0; at < s.n && !ev->bad.code; from = at) {
        u32 c = utf8_next(s, &at);
        if (c != '\t') {
            chat_put_part(&b, ev, v.s, from, at);
            column = c == '\n' || c == '\r' ? 0 : column + 1;
            continue;
        }
        for (i64 n = size > 0 ? size - column % size : 0; n > 0 && chat_step(ev, 1); n--, column++)
            chat_put(&b, ev, S(" "), chat_string_from(v.s, from));
    }
    return chat_built(&b, ev, v.from, v.s->markup);
}

METHOD(casefold) { return (void)a, chat_recase(ev, v, CASE_FOLD); }
METHOD(upper) { return (void)a, chat_recase(ev, v, CASE_UPPER); }
METHOD(lower) { return (void)a, chat_recase(ev, v, CASE_LOWER); }
METHOD(title) { return (void)a, chat_recase(ev, v, CASE_TITLE); }
METHOD(capitalize) { return (void)a, chat_recase(ev, v, CASE_CAPITAL); }
METHOD(swapcase) { return (void)a, chat_recase(ev, v, CASE_SWAP); }
METHOD(join) { return chat_join(ev, v, chat_iterate(ev, a->arg[0]), true); }

METHOD(replace) /* old new count */
{
    chat_value text = chat_arg_text(ev, a, 1, "");
    return chat_replace(ev, v, chat_arg_text(ev, a, 0, ""), v.s->markup ? chat_escape(ev, text) : text,
                        chat_arg_int(ev, a, 2, -1));
}

/* ljust, rjust, center, zfill: filled up to a width */
static chat_value fill(chat_eval *ev, chat_value v, const chat_args *a, char where)
{
    i64 width = chat_arg_int(ev, a, 0, 0), n = chat_length(ev, v), pad = width > n ? width - n : 0;
    chat_value with = where == '0' ? chat_string_lit(ev, "0") : chat_arg_text(ev, a, 1, " ");
    i64 left = where == 'l' ? 0 : where == 'c' ? pad / 2 + (pad & width & 1) : pad;
    chat_build b = {0};
    usize from = 0;
    if (chat_length(ev, with) != 1 || !chat_step(ev, (usize)pad)) return chat_fail(ev, "one character to fill with expected");
    if (where == '0' && v.s->n && (v.s->p[0] == '-' || v.s->p[0] == '+')) chat_put_part(&b, ev, v.s, 0, from = 1);
    for (i64 i = 0; i < left && !ev->bad.code; i++) chat_put_value(&b, ev, with);
    chat_put_part(&b, ev, v.s, from, v.s->n);
    for (i64 i = left; i < pad && !ev->bad.code; i++) chat_put_value(&b, ev, with);
    return chat_built(&b, ev, v.from, v.s->markup);
}
METHOD(ljust) { return fill(ev, v, a, 'l'); }
METHOD(rjust) { return fill(ev, v, a, 'r'); }
METHOD(center) { return fill(ev, v, a, 'c'); }
METHOD(zfill) { return fill(ev, v, a, '0'); }

METHOD(format) { return chat_format_fields(ev, v, a); }

METHOD(format_map) /* mapping */
{
    chat_value from = a->arg[0];
    if (from.kind != V_DICT)
        return chat_need_defined(ev, from), chat_fail(ev, "a mapping expected, %s found", chat_kind_name(from));
    chat_keyword *kw = chat_take(ev, (from.dict->n + 1) * sizeof *kw);
    chat_args named = {.kw = kw};
    for (u32 i = 0; kw && i < from.dict->n; i++)
        if (from.dict->pair[i].key.kind == V_STRING)
            kw[named.n_kw++] = (chat_keyword){chat_bytes(from.dict->pair[i].key), from.dict->pair[i].value};
    return chat_format_fields(ev, v, &named);
}

/* ---- mappings ---- */
static chat_value view(chat_eval *ev, chat_value v, chat_flavour flavour)
{
    chat_list *l = chat_list_new(ev, v.dict->n, flavour);
    for (u32 i = 0; i < v.dict->n && !ev->bad.code; i++) {
        const chat_pair *p = &v.dict->pair[i];
        chat_list *t = flavour == LIST_ITEMS ? chat_list_new(ev, 2, LIST_TUPLE) : NULL;
        if (t) {
            chat_list_push(ev, t, p->key);
            chat_list_push(ev, t, p->value);
        }
        chat_list_push(ev, l, t ? chat_list_value(t, v.from) : flavour == LIST_KEYS ? p->key : p->value);
    }
    return chat_list_value(l, v.from);
}
METHOD(items) { return (void)a, view(ev, v, LIST_ITEMS); }
METHOD(keys) { return (void)a, view(ev, v, LIST_KEYS); }
METHOD(values) { return (void)a, view(ev, v, LIST_VALUES); }
METHOD(fromkeys) /* iterable value */
{
    (void)v;
    chat_dict *d = chat_dict_new(ev);
    const chat_list *l = chat_iterate(ev, a->arg[0]);
    for (u32 i = 0; i < l->n && !ev->bad.code; i++)
        chat_dict_put(ev, d, l->item[i], a->arg[1].kind == V_MISSING ? chat_none() : a->arg[1]);
    return chat_dict_value(d, CHAT_LITERAL);
}
METHOD(itself) { return UNUSED, v; } /* copy: values never change */

METHOD(get) /* key default */
{
    chat_value *found = chat_dict_find(ev, v.dict, a->arg[0]);
    return found ? *found : a->arg[1].kind == V_MISSING ? chat_none() : a->arg[1];
}

/* ---- lists, loops ---- */
METHOD(list_index) /* value start stop */
{
    i64 n = v.list->n, from = chat_arg_int(ev, a, 1, 0), to = chat_arg_int(ev, a, 2, n);
    if (from < 0) from = i64_max(from + n, 0);
    if (to < 0) to += n;
    for (i64 i = from; i < i64_min(to, n) && !ev->bad.code; i++)
        if (chat_equal(ev, v.list->item[i], a->arg[0])) return chat_int(i);
    return chat_fail(ev, "not found");
}

METHOD(list_count)
{
    i64 n = 0;
    for (u32 i = 0; i < v.list->n && !ev->bad.code; i++) n += chat_equal(ev, v.list->item[i], a->arg[0]);
    return chat_int(n);
}

METHOD(cycle) { return a->n ? a->arg[v.loop->index0 % a->n] : chat_fail(ev, "at least one argument expected"); }

METHOD(changed)
{
    chat_list *t = chat_list_new(ev, a->n, LIST_TUPLE);
    for (u32 i = 0; i < a->n; i++) chat_list_push(ev, t, a->arg[i]);
    chat_value now = chat_list_value(t, CHAT_LITERAL);
    if (v.loop->changed.kind != V_MISSING && chat_equal(ev, v.loop->changed, now)) return chat_bool(false);
    v.loop->changed = now;
    return chat_bool(true);
}

static const chat_builtin string_methods[] = {
    {"strip", "chars", 0, method_strip},
    {"lstrip", "chars", 0, method_lstrip},
    {"rstrip", "chars", 0, method_rstrip},
    {"split", "sep maxsplit", 0, method_split},
    {"rsplit", "sep maxsplit", 0, method_rsplit},
    {"splitlines", "keepends", 0, method_splitlines},
    {"partition", "sep", 1, method_partition},
    {"rpartition", "sep", 1, method_rpartition},
    {"startswith", "prefix start end", 1, method_startswith},
    {"endswith", "suffix start end", 1, method_endswith},
    {"removeprefix", "prefix", 1, method_removeprefix},
    {"removesuffix", "suffix", 1, method_removesuffix},
    {"find", "sub start end", 1, method_find},
    {"rfind", "sub start end", 1, method_rfind},
    {"index", "sub start end", 1, method_index},
    {"rindex", "sub start end", 1, method_rindex},
    {"count", "sub start end", 1, method_count},
    {"replace", "old new count", 2, method_replace},
    {"join", "iterable", 1, method_join},
    {"format", NULL, 0, method_format},
    {"upper", "", 0, method_upper},
    {"lower", "", 0, method_lower},
    {"casefold", "", 0, method_casefold},
    {"expandtabs", "tabsize", 0, method_expandtabs},
    {"format_map", "mapping", 1, method_format_map},
    {"isascii", "", 0, method_isascii},
    {"isprintable", "", 0, method_isprintable},
    {"istitle", "", 0, method_istitle},
    {"title", "", 0, method_title},
    {"capitalize", "", 0, method_capitalize},
    {"swapcase", "", 0, method_swapcase},
    {"ljust", "width fillchar", 1, method_ljust},
    {"rjust", "width fillchar", 1, method_rjust},
    {"center", "width fillchar", 1, method_center},
    {"zfill", "width", 1, method_zfill},
    {"isdigit", "", 0, method_isdigit},
    {"isdecimal", "", 0, method_isdecimal},
    {"isnumeric", "", 0, method_isnumeric},
    {"isalpha", "", 0, method_isalpha},
    {"isalnum", "", 0, method_isalnum},
    {"isspace", "", 0, method_isspace},
    {"isupper", "", 0, method_isupper},
    {"islower", "", 0, method_islower},
    {NULL},
};
static const chat_builtin dict_methods[] = {
    {"items", "", 0, method_items},
    {"get", "key default", 1, method_get},
    {"keys", "", 0, method_keys},
    {"values", "", 0, method_values},
    {"copy", "", 0, method_itself},
    {"fromkeys", "iterable value", 1, method_fromkeys},
    {"pop"},
    {"popitem"},
    {"clear"},
    {"update"},
    {"setdefault"},
    {NULL},
};
static const chat_builtin list_methods[] = {
    {"index", "value start stop", 1, method_list_index},
    {"count", "value", 1, method_list_count},
    {"copy", "", 0, method_itself},
    {"append"},
    {"pop"},
    {"extend"},
    {"insert"},
    {"remove"},
    {"clear"},
    {"reverse"},
    {"sort"},
    {NULL},
};
static const chat_builtin tuple_methods[] = {
    {"index", "value start stop", 1, method_list_index}, {"count", "value", 1, method_list_count}, {NULL}};
static const chat_builtin function_methods[] = {{"fromkeys", "iterable value", 1, method_fromkeys}, {NULL}}; /* of dict */
static const chat_builtin loop_methods[] = {{"cycle", NULL, 0, method_cycle}, {"changed", NULL, 0, method_changed}, {NULL}};

const chat_builtin *chat_method_find(chat_value v, str name, bool *forbidden)
{
    const chat_builtin *row = NULL;
    if (v.kind == V_STRING)
        row = chat_row_find(string_methods, name);
    else if (v.kind == V_DICT)
        row = chat_row_find(dict_methods, name);
    else if (v.kind == V_LIST && (v.list->flavour <= LIST_TUPLE || v.list->flavour == LIST_RANGE))
        row = chat_row_find(v.list->flavour == LIST_PLAIN ? list_methods : tuple_methods, name);
    else if (v.kind == V_CALLABLE && v.fn->row->fn == global_dict)
        row = chat_row_find(function_methods, name);
    else if (v.kind == V_LOOP)
        row = chat_row_find(loop_methods, name);
    *forbidden = row && !row->fn;
    return *forbidden ? NULL : row;
}

/* ---- global functions ---- */
#define GLOBAL(name) static chat_value global_##name(chat_eval *ev, chat_value v, const chat_args *a)

GLOBAL(range) /* start stop step */
{
    (void)v;
    bool one = !chat_given(a, 1);
    i64 from = one ? 0 : chat_arg_int(ev, a, 0, 0), to = chat_arg_int(ev, a, one ? 0 : 1, 0), step = chat_arg_int(ev, a, 2, 1);
    if (ev->bad.code) return chat_none();
    if (!step) return chat_fail(ev, "the step is 0");
    u64 span = step > 0 ? (to > from ? (u64)to - (u64)from : 0) : from > to ? (u64)from - (u64)to : 0;
    u64 each = step > 0 ? (u64)step : 0 - (u64)step, n = span / each + (span % each != 0);
    if (n > CHAT_MAX_RANGE)
        return chat_fail(ev, "a range of at most %d items expected, %llu found", CHAT_MAX_RANGE, (unsigned long long)n);
    chat_list *l = chat_list_new(ev, n, LIST_RANGE);
    for (u64 i = 0; i < n && !ev->bad.code; i++) chat_list_push(ev, l, chat_int((i64)((u64)from + i * (u64)step)));
    return chat_list_value(l, CHAT_LITERAL);
}

static chat_dict *gather(chat_eval *ev, const chat_args *a)
{
    chat_dict *d = chat_dict_new(ev);
    if (a->n > 1) chat_fail(ev, "one mapping or list of pairs expected, %u arguments given", a->n);
    chat_value from = a->n == 1 ? a->arg[0] : chat_none();
    if (from.kind == V_DICT || from.kind == V_NAMESPACE) {
        for (u32 i = 0; i < from.dict->n && !ev->bad.code; i++)
            chat_dict_put(ev, d, from.dict->pair[i].key, from.dict->pair[i].value);
    } else if (a->n) {
        const chat_list *l = chat_iterate(ev, from);
        for (u32 i = 0; i < l->n && !ev->bad.code; i++) {
            const chat_list *pair = chat_iterate(ev, l->item[i]);
            if (pair->n != 2)
                chat_fail(ev, "a list of pairs expected");
            else
                chat_dict_put(ev, d, pair->item[0], pair->item[1]);
        }
    }
    for (u32 i = 0; i < a->n_kw && !ev->bad.code; i++)
        chat_dict_put(ev, d, chat_string_new(ev, a->kw[i].name, CHAT_LITERAL), a->kw[i].value);
    return d;
}

GLOBAL(dict) { return (void)v, chat_dict_value(gather(ev, a), CHAT_LITERAL); }

GLOBAL(namespace)
{
    (void)v;
    chat_value space = chat_dict_value(gather(ev, a), CHAT_LITERAL);
    for (u32 i = 0; i < space.dict->n; i++)
        if (str_starts(chat_bytes(space.dict->pair[i].key), S("_")))
            return chat_fail(ev, "a name in a namespace cannot begin with '_'");
    space.kind = V_NAMESPACE;
    return space;
}

/* self: a list of the separator and whether it was called before */
static chat_value joiner_call(chat_eval *ev, chat_value self, const chat_args *a)
{
    bool first = !self.list->item[1].b;
    self.list->item[1] = chat_bool(true);
    return (void)a, first ? chat_string_lit(ev, "") : self.list->item[0];
}

GLOBAL(joiner) /* sep */
{
    static const chat_builtin row = {"joiner", "", 0, joiner_call};
    chat_list *state = chat_list_new(ev, 2, LIST_PLAIN);
    chat_callable *fn = chat_take(ev, sizeof *fn);
    chat_list_push(ev, state, a->arg[0].kind == V_MISSING ? chat_string_lit(ev, ", ") : a->arg[0]);
    chat_list_push(ev, state, chat_bool(false));
    if (!fn || ev->bad.code) return v;
    *fn = (chat_callable){&row, chat_list_value(state, CHAT_LITERAL), "function"};
    return (chat_value){.kind = V_CALLABLE, .from = CHAT_LITERAL, .fn = fn};
}

GLOBAL(raise_exception) /* message: the template's own words, without ours around them */
{
    (void)v;
    chat_value text = chat_to_string(ev, a->arg[0]);
    ev->what = NULL;
    return chat_fail_as(ev, ERR_INPUT, "%.*s", (int)i64_min((i64)chat_bytes(text).n, 400), chat_bytes(text).p);
}

GLOBAL(strftime_now) /* format */
{
    (void)v;
    chat_value format = chat_arg_text(ev, a, 0, "");
    const char *fixed = getenv("SOURCE_DATE_EPOCH");
    i64 seconds;
    bool utc = fixed && str_i64(str_of(fixed), &seconds);
    time_t now = utc ? (time_t)seconds : time(NULL);
    struct tm tm = {0};
    char text[1024], *pattern = ev->bad.code ? NULL : arena_str(ev->a, chat_bytes(format).p, chat_bytes(format).n);
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* the day is not Freitag for a model */
    usize n = 0;
    if (utc)
        gmtime_r(&now, &tm);
    else
        localtime_r(&now, &tm);
    if (pattern && plain) n = strftime_l(text, sizeof text, pattern, &tm, plain);
    if (plain) freelocale(plain);
    if (!n && chat_bytes(format).n) return chat_fail(ev, "the date is longer than %zu bytes, or empty", sizeof text - 1);
    char *copy = n ? chat_take(ev, n) : NULL;
    if (copy) memcpy(copy, text, n);
    return chat_string_new(ev, (str){copy, copy ? n : 0}, CHAT_LITERAL);
}

static const chat_builtin globals[] = {
    {"range", "start stop step", 1, global_range},
    {"dict", NULL, 0, global_dict},
    {"namespace", NULL, 0, global_namespace},
    {"raise_exception", "message", 1, global_raise_exception},
    {"strftime_now", "format", 1, global_strftime_now},
    {"joiner", "sep", 0, global_joiner},
    {NULL},
};

const chat_builtin *chat_global_find(str name) { return chat_row_find(globals, name); }
