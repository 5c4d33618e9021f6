/* Chat templates: filters that walk through lists (map, select, sort ...), and the tests behind `is`.
 *
 * What Jinja returns as a generator is a list here too, but one of flavour LIST_LAZY: always true, without a length, used up
 * by the first walk, because templates are written against that. It is filled at once, though: an item that would raise an
 * error raises it also when nobody comes to look. */
#include "text/chat.h"
#include <math.h>

#define FILTER(name) static chat_value filter_##name(chat_eval *ev, chat_value v, const chat_args *a)
#define TEST(name) static chat_value test_##name(chat_eval *ev, chat_value v, const chat_args *a)

/* attribute=... of a filter: the item itself when it is not given */
static chat_value attribute_of(chat_eval *ev, chat_value item, chat_value attribute)
{
    return attribute.kind == V_MISSING || attribute.kind == V_NONE
               ? item
               : chat_path(ev, item, attribute, (chat_value){.kind = V_MISSING});
}

static chat_value folded(chat_eval *ev, chat_value v, bool case_sensitive)
{
    return v.kind == V_STRING && !case_sensitive ? chat_recase(ev, v, CASE_LOWER) : v;
}

/* ---- taking and changing ---- */
FILTER(list)
{
    (void)a;
    const chat_list *from = chat_iterate(ev, v);
    chat_list *l = chat_list_new(ev, from->n, LIST_PLAIN);
    for (u32 i = 0; i < from->n && !ev->bad.code; i++) chat_list_push(ev, l, from->item[i]);
    return chat_list_value(l, v.from);
}

FILTER(first)
{
    (void)a;
    if (v.kind == V_STRING) return v.s->n ? chat_at(ev, v, chat_int(0), SYM_NONE) : chat_undefined(UNDEF_EMPTY, SYM_NONE, 0);
    const chat_list *l = chat_iterate(ev, v);
    return l->n ? l->item[0] : chat_undefined(UNDEF_EMPTY, SYM_NONE, 0);
}

FILTER(last)
{
    (void)a;
    if (v.kind == V_STRING) return v.s->n ? chat_at(ev, v, chat_int(-1), SYM_NONE) : chat_undefined(UNDEF_EMPTY, SYM_NONE, 0);
    if (v.kind == V_LIST && v.list->flavour == LIST_LAZY) return chat_fail(ev, "a generator has no last item: use |list before");
    const chat_list *l = chat_iterate(ev, v);
    return l->n ? l->item[l->n - 1] : chat_undefined(UNDEF_EMPTY, SYM_NONE, 0);
}

FILTER(reverse)
{
    (void)a;
    if (v.kind == V_STRING) return chat_reverse(ev, v);
    const chat_list *from = chat_iterate(ev, v);
    chat_list *l = chat_list_new(ev, from->n, LIST_LAZY);
    for (u32 i = from->n; i > 0 && !ev->bad.code; i--) chat_list_push(ev, l, from->item[i - 1]);
    return chat_list_value(l, v.from);
}

static chat_value pair_of(chat_eval *ev, chat_value key, chat_value value)
{
    chat_list *t = chat_list_new(ev, 2, LIST_TUPLE);
    chat_list_push(ev, t, key);
    chat_list_push(ev, t, value);
    return chat_list_value(t, key.from);
}

FILTER(items)
{
    (void)a;
    if (v.kind != V_DICT && v.kind != V_UNDEFINED) return chat_fail(ev, "a mapping expected, %s found", chat_kind_name(v));
    chat_list *l = chat_list_new(ev, v.kind == V_DICT ? v.dict->n : 0, LIST_LAZY);
    for (u32 i = 0; i < l->cap && !ev->bad.code; i++)
        chat_list_push(ev, l, pair_of(ev, v.dict->pair[i].key, v.dict->pair[i].value));
    return chat_list_value(l, v.from);
}

FILTER(attr) /* name */
{
    chat_value name = chat_arg_text(ev, a, 0, "");
    return v.kind == V_DICT ? chat_undefined(UNDEF_MEMBER, SYM_NONE, V_DICT)
                            : chat_member(ev, v, chat_bytes(name), chat_text_hash(chat_bytes(name)), SYM_NONE);
}

static chat_value groups(chat_eval *ev, chat_value v, const chat_args *a, bool batch)
{
    const chat_list *from = chat_iterate(ev, v);
    i64 n = chat_arg_int(ev, a, 0, 1), at = 0, total = from->n;
    if (n < 1) return chat_fail(ev, "a number of at least 1 expected");
    i64 n_group = batch ? total / n + (total % n != 0) : n;
    chat_list *l = chat_list_new(ev, 0, LIST_LAZY);
    for (i64 g = 0; g < n_group && !ev->bad.code; g++) {
        i64 want = batch ? n : total / n + (g < total % n);
        chat_list *one = chat_list_new(ev, 0, LIST_PLAIN);
        for (i64 i = 0; i < want && at < total && !ev->bad.code; i++) chat_list_push(ev, one, from->item[at++]);
        bool fill = chat_given(a, 1) && (batch || (total % n && g >= total % n));
        while (fill && one->n < (batch ? n : total / n + 1) && !ev->bad.code) chat_list_push(ev, one, a->arg[1]);
        chat_list_push(ev, l, chat_list_value(one, v.from));
    }
    return chat_list_value(l, v.from);
}
FILTER(batch) { return groups(ev, v, a, true); }  /* linecount fill_with */
FILTER(slice) { return groups(ev, v, a, false); } /* slices fill_with */

/* ---- ordering ---- */
typedef struct {
    chat_eval *ev;
    const chat_value *key; /* [n] */
    bool reverse;
} sorter;

/* order[from, to) sorted by merging, `other` is room for as many */
static void merge_sort(sorter *s, u32 *order, u32 *other, u32 from, u32 to)
{
    if (to - from < 2 || !chat_step(s->ev, 1)) return;
    u32 mid = from + (to - from) / 2, i = from, j = mid;
    merge_sort(s, order, other, from, mid);
    merge_sort(s, order, other, mid, to);
    for (u32 k = from; k < to; k++) {
        bool right = i == mid;
        if (!right && j < to) {
            chat_value a = s->key[order[i]], b = s->key[order[j]];
            bool none = a.kind == b.kind &&
                        a.kind <= V_NONE; /* nor two undefined ones: Python compares keys in lists, for equality first */
            int c = none ? 0 : chat_order(s->ev, b, a);
            right = s->reverse ? c > 0 : c < 0;
        }
        other[k] = order[right ? j++ : i++];
    }
    memcpy(order + from, other + from, (to - from) * sizeof *order);
}

chat_list *chat_sort(chat_eval *ev, chat_list *l, const chat_value *keys, bool reverse)
{
    chat_list *out = chat_list_new(ev, l->n, LIST_PLAIN);
    u32 *order = chat_take(ev, 2 * (usize)l->n * sizeof *order + 1);
    sorter s = {ev, keys ? keys : l->item, reverse};
    if (!order) return &ev->no_list;
    for (u32 i = 0; i < l->n; i++) order[i] = i;
    merge_sort(&s, order, order + l->n, 0, l->n);
    for (u32 i = 0; i < l->n && !ev->bad.code; i++) chat_list_push(ev, out, l->item[order[i]]);
    return out;
}

/* one key for each item; "a,b" asks for a tuple of several attributes */
chat_value *chat_keys_of(chat_eval *ev, const chat_list *l, chat_value attribute, bool case_sensitive, chat_value otherwise)
{
    chat_value *key = chat_take(ev, ((usize)l->n + 1) * sizeof *key);
    str s = chat_bytes(attribute);
    bool several = s.n && memchr(s.p, ',', s.n);
    for (u32 i = 0; key && i < l->n && chat_step(ev, 1); i++) {
        if (!several) {
            bool path = attribute.kind != V_MISSING && attribute.kind != V_NONE;
            key[i] = folded(ev, path ? chat_path(ev, l->item[i], attribute, otherwise) : l->item[i], case_sensitive);
            continue;
        }
        chat_list *t = chat_list_new(ev, 2, LIST_TUPLE);
        for (usize at = 0; at <= s.n && !ev->bad.code;) {
            usize end = at;
            while (end < s.n && s.p[end] != ',') end++;
            chat_list_push(ev, t,
                           folded(ev, attribute_of(ev, l->item[i], chat_string_part(ev, attribute, at, end)), case_sensitive));
            at = end + 1;
        }
        key[i] = chat_list_value(t, CHAT_LITERAL);
    }
    return ev->bad.code ? NULL : key;
}

static chat_value *keys_of(chat_eval *ev, const chat_list *l, chat_value attribute, bool case_sensitive)
{
    return chat_keys_of(ev, l, attribute, case_sensitive, (chat_value){.kind = V_MISSING});
}

FILTER(sort) /* reverse case_sensitive attribute */
{
    chat_list *l = chat_iterate(ev, v);
    chat_value *key = keys_of(ev, l, a->arg[2], chat_arg_true(a, 1));
    return key ? chat_list_value(chat_sort(ev, l, key, chat_arg_true(a, 0)), v.from) : v;
}

FILTER(dictsort) /* case_sensitive by reverse */
{
    chat_value by = chat_arg_text(ev, a, 1, "key"), items = filter_items(ev, v, a);
    if (v.kind != V_DICT) return chat_need_defined(ev, v), chat_fail(ev, "a mapping expected, %s found", chat_kind_name(v));
    bool value = chat_string_is(by, "value");
    if (!value && !chat_string_is(by, "key")) return chat_fail(ev, "by 'key' or by 'value' expected");
    chat_value *key = ev->bad.code ? NULL : keys_of(ev, items.list, chat_int(value), chat_arg_true(a, 0));
    return key ? chat_list_value(chat_sort(ev, items.list, key, chat_arg_true(a, 2)), v.from) : v;
}

FILTER(unique) /* case_sensitive attribute */
{
    const chat_list *l = chat_iterate(ev, v);
    chat_value *key = keys_of(ev, l, a->arg[1], chat_arg_true(a, 0));
    chat_list *out = chat_list_new(ev, 0, LIST_LAZY);
    chat_dict *seen = chat_dict_new(ev);
    for (u32 i = 0; key && i < l->n && chat_step(ev, 1); i++) {
        if (chat_dict_find(ev, seen, key[i])) continue;
        chat_dict_put(ev, seen, key[i], chat_none());
        chat_list_push(ev, out, l->item[i]);
    }
    return chat_list_value(out, v.from);
}

static chat_value extreme(chat_eval *ev, chat_value v, const chat_args *a, int sign)
{
    const chat_list *l = chat_iterate(ev, v);
    chat_value *key = keys_of(ev, l, a->arg[1], chat_arg_true(a, 0));
    u32 best = 0;
    if (!key || !l->n) return chat_undefined(UNDEF_EMPTY, SYM_NONE, 0);
    for (u32 i = 1; i < l->n && chat_step(ev, 1); i++)
        if (chat_order(ev, key[i], key[best]) * sign > 0) best = i;
    return l->item[best];
}
FILTER(min) { return extreme(ev, v, a, -1); } /* case_sensitive attribute */
FILTER(max) { return extreme(ev, v, a, 1); }

FILTER(sum) /* attribute start */
{
    const chat_list *l = chat_iterate(ev, v);
    chat_value sum = a->arg[1].kind == V_MISSING ? chat_int(0) : a->arg[1];
    for (u32 i = 0; i < l->n && chat_step(ev, 1); i++) sum = chat_add(ev, sum, attribute_of(ev, l->item[i], a->arg[0]));
    return sum;
}

/* ---- choosing ---- */
static chat_args behind(const chat_args *a, u32 n)
{
    chat_args rest = *a;
    rest.arg += n;
    rest.n -= n;
    return rest;
}

static str name_argument(chat_eval *ev, const chat_args *a, u32 i)
{
    if (i >= a->n || a->arg[i].kind != V_STRING) chat_fail(ev, "a name expected as argument %u", i + 1);
    return i < a->n ? chat_bytes(a->arg[i]) : (str){"", 0};
}

FILTER(map)
{
    const chat_builtin *row = NULL;
    chat_value attribute = {.kind = V_MISSING}, otherwise = {.kind = V_MISSING};
    chat_args rest = *a;
    if (!chat_truth(v)) return chat_list_value(chat_list_new(ev, 0, LIST_LAZY), v.from); /* none, too */
    for (u32 i = 0; i < a->n_kw && !a->n; i++) {
        if (str_eq(a->kw[i].name, S("attribute")))
            attribute = a->kw[i].value;
        else if (str_eq(a->kw[i].name, S("default")))
            otherwise = a->kw[i].value;
        else
            return chat_fail(ev, "'attribute' and 'default' expected");
    }
    if (attribute.kind == V_MISSING) {
        str name = name_argument(ev, a, 0);
        if (!(row = chat_filter_find(name)))
            return chat_fail(ev, "filter '%.*s' is not known", (int)i64_min((i64)name.n, 80), name.p);
        rest = behind(a, 1);
    }
    const chat_list *l = chat_iterate(ev, v);
    chat_list *out = chat_list_new(ev, l->n, LIST_LAZY);
    for (u32 i = 0; i < l->n && chat_step(ev, 1); i++) {
        chat_value item =
            row ? chat_builtin_call(ev, row, "filter", l->item[i], &rest) : chat_path(ev, l->item[i], attribute, otherwise);
        chat_list_push(ev, out, item);
    }
    return chat_list_value(out, v.from);
}

/* select, reject (by_attribute = false): (test, arguments ...); selectattr, rejectattr: (attribute, test, arguments ...) */
static chat_value choose(chat_eval *ev, chat_value v, const chat_args *a, bool by_attribute, bool keep)
{
    const chat_builtin *row = NULL;
    chat_args rest = *a;
    if (!chat_truth(v)) return chat_list_value(chat_list_new(ev, 0, LIST_LAZY), v.from); /* none, too */
    if (by_attribute && !a->n) return chat_fail(ev, "the name of an attribute expected");
    if (a->n > by_attribute) {
        str name = name_argument(ev, a, by_attribute);
        if (!(row = chat_test_find(name)))
            return chat_fail(ev, "test '%.*s' is not known", (int)i64_min((i64)name.n, 80), name.p);
        rest = behind(a, 1 + by_attribute);
    }
    const chat_list *l = chat_iterate(ev, v);
    chat_list *out = chat_list_new(ev, 0, LIST_LAZY);
    for (u32 i = 0; i < l->n && chat_step(ev, 1); i++) {
        chat_value x = by_attribute ? attribute_of(ev, l->item[i], a->arg[0]) : l->item[i];
        if (chat_truth(row ? chat_builtin_call(ev, row, "test", x, &rest) : x) == keep) chat_list_push(ev, out, l->item[i]);
    }
    return chat_list_value(out, v.from);
}
FILTER(select) { return choose(ev, v, a, false, true); }
FILTER(reject) { return choose(ev, v, a, false, false); }
FILTER(selectattr) { return choose(ev, v, a, true, true); }
FILTER(rejectattr) { return choose(ev, v, a, true, false); }

const chat_builtin chat_list_filters[] = {
    {"list", "", 0, filter_list},
    {"first", "", 0, filter_first},
    {"last", "", 0, filter_last},
    {"reverse", "", 0, filter_reverse},
    {"items", "", 0, filter_items},
    {"attr", "name", 1, filter_attr},
    {"batch", "linecount fill_with", 1, filter_batch},
    {"slice", "slices fill_with", 1, filter_slice},
    {"sort", "reverse case_sensitive attribute", 0, filter_sort},
    {"dictsort", "case_sensitive by reverse", 0, filter_dictsort},
    {"unique", "case_sensitive attribute", 0, filter_unique},
    {"min", "case_sensitive attribute", 0, filter_min},
    {"max", "case_sensitive attribute", 0, filter_max},
    {"sum", "attribute start", 0, filter_sum},
    {"map", NULL, 0, filter_map},
    {"select", NULL, 0, filter_select},
    {"reject", NULL, 0, filter_reject},
    {"selectattr", NULL, 0, filter_selectattr},
    {"rejectattr", NULL, 0, filter_rejectattr},
    {NULL},
};

/* ---- tests ---- */
#define UNUSED ((void)ev, (void)a)
TEST(defined) { return UNUSED, chat_bool(v.kind != V_UNDEFINED); }
TEST(undefined) { return UNUSED, chat_bool(v.kind == V_UNDEFINED); }
TEST(none) { return UNUSED, chat_bool(v.kind == V_NONE); }
TEST(boolean) { return UNUSED, chat_bool(v.kind == V_BOOL); }
TEST(true) { return UNUSED, chat_bool(v.kind == V_BOOL && v.b); }
TEST(false) { return UNUSED, chat_bool(v.kind == V_BOOL && !v.b); }
TEST(integer) { return UNUSED, chat_bool(v.kind == V_INT); }
TEST(float) { return UNUSED, chat_bool(v.kind == V_FLOAT); }
TEST(number) { return UNUSED, chat_bool(v.kind == V_INT || v.kind == V_FLOAT || v.kind == V_BOOL); }
TEST(string) { return UNUSED, chat_bool(v.kind == V_STRING); }
TEST(mapping) { return UNUSED, chat_bool(v.kind == V_DICT); }
TEST(callable)
{
    return UNUSED, chat_bool(v.kind == V_MACRO || v.kind == V_CALLABLE || v.kind == V_LOOP || v.kind == V_UNDEFINED);
}
TEST(escaped) { return UNUSED, chat_bool(v.kind == V_STRING && v.s->markup); }
TEST(iterable)
{
    return UNUSED,
           chat_bool(v.kind == V_STRING || v.kind == V_LIST || v.kind == V_DICT || v.kind == V_UNDEFINED || v.kind == V_LOOP);
}
TEST(sequence) /* has a length and can be indexed; an undefined value pretends to, as in Jinja */
{
    bool list = v.kind == V_LIST && (v.list->flavour <= LIST_TUPLE || v.list->flavour == LIST_RANGE);
    return UNUSED, chat_bool(list || v.kind == V_STRING || v.kind == V_DICT || v.kind == V_UNDEFINED);
}

static bool cased(chat_eval *ev, chat_value v, chat_case how, chat_case other)
{
    v = chat_to_string(ev, v);
    str s = chat_bytes(v), t = chat_bytes(chat_recase(ev, v, how)), u = chat_bytes(chat_recase(ev, v, other));
    return !ev->bad.code && str_eq(s, t) && !str_eq(s, u);
}
TEST(lower) { return UNUSED, chat_bool(cased(ev, v, CASE_LOWER, CASE_UPPER)); }
TEST(upper) { return UNUSED, chat_bool(cased(ev, v, CASE_UPPER, CASE_LOWER)); }

static chat_value has_remainder(chat_eval *ev, chat_value v, i64 by, double want)
{
    double f, m;
    chat_need_defined(ev, v);
    if (!chat_number(v, &f)) return chat_fail(ev, "a number expected, %s found", chat_kind_name(v));
    if (!by) return chat_fail(ev, "division by zero");
    m = v.kind == V_INT ? (double)(by == -1 ? 0 : v.i % by) : fmod(f, (double)by);
    return chat_bool(m == want || m == -want);
}
TEST(odd) { return (void)a, has_remainder(ev, v, 2, 1); }
TEST(even) { return (void)a, has_remainder(ev, v, 2, 0); }
TEST(divisibleby) { return has_remainder(ev, v, chat_arg_int(ev, a, 0, 0), 0); }

TEST(eq) { return chat_bool(chat_equal(ev, v, a->arg[0])); }
TEST(ne) { return chat_bool(!chat_equal(ev, v, a->arg[0])); }
TEST(lt) { return chat_bool(chat_order(ev, v, a->arg[0]) < 0); }
TEST(le) { return chat_bool(chat_order(ev, v, a->arg[0]) <= 0); }
TEST(gt) { return chat_bool(chat_order(ev, v, a->arg[0]) > 0); }
TEST(ge) { return chat_bool(chat_order(ev, v, a->arg[0]) >= 0); }
TEST(in) { return chat_bool(chat_contains(ev, a->arg[0], v)); }

TEST(sameas)
{
    chat_value w = a->arg[0];
    bool one_object = v.kind == V_STRING ? v.kind == w.kind && v.s == w.s
                      : v.kind == V_LIST ? v.kind == w.kind && v.list == w.list
                      : v.kind == V_DICT ? v.kind == w.kind && v.dict == w.dict
                                         : v.kind == w.kind && chat_equal(ev, v, w);
    return chat_bool(one_object);
}

TEST(filter) { return (void)a, chat_hash(ev, v), chat_bool(v.kind == V_STRING && chat_filter_find(chat_bytes(v))); }
TEST(test) { return (void)a, chat_hash(ev, v), chat_bool(v.kind == V_STRING && chat_test_find(chat_bytes(v))); }

static const chat_builtin tests[] = {
    {"defined", "", 0, test_defined},    {"undefined", "", 0, test_undefined},
    {"none", "", 0, test_none},          {"string", "", 0, test_string},
    {"mapping", "", 0, test_mapping},    {"iterable", "", 0, test_iterable},
    {"sequence", "", 0, test_sequence},  {"number", "", 0, test_number},
    {"integer", "", 0, test_integer},    {"float", "", 0, test_float},
    {"boolean", "", 0, test_boolean},    {"true", "", 0, test_true},
    {"false", "", 0, test_false},        {"callable", "", 0, test_callable},
    {"escaped", "", 0, test_escaped},    {"lower", "", 0, test_lower},
    {"upper", "", 0, test_upper},        {"odd", "", 0, test_odd},
    {"even", "", 0, test_even},          {"divisibleby", "num", 1, test_divisibleby},
    {"eq", "other", 1, test_eq},         {"equalto", "other", 1, test_eq},
    {"==", "other", 1, test_eq},         {"ne", "other", 1, test_ne},
    {"!=", "other", 1, test_ne},         {"lt", "other", 1, test_lt},
    {"lessthan", "other", 1, test_lt},   {"<", "other", 1, test_lt},
    {"le", "other", 1, test_le},         {"<=", "other", 1, test_le},
    {"gt", "other", 1, test_gt},         {"greaterthan", "other", 1, test_gt},
    {">", "other", 1, test_gt},          {"ge", "other", 1, test_ge},
    {">=", "other", 1, test_ge},         {"in", "seq", 1, test_in},
    {"sameas", "other", 1, test_sameas}, {"filter", "", 0, test_filter},
    {"test", "", 0, test_test},          {NULL},
};

const chat_builtin *chat_test_find(str name) { return chat_row_find(tests, name); }
