/* Chat templates: filters that hardly any template uses, so that one that does renders all the same. As in Jinja 3.1; what is
 * made of a text keeps where its bytes come from.
 *
 * Not here: wordwrap (Python's rules for hyphens), urlize, striptags and xmlattr (HTML), pprint, random. */
#include "text/chat.h"
#include <math.h>
#include <utf8proc.h>

#define FILTER(name) static chat_value filter_##name(chat_eval *ev, chat_value v, const chat_args *a)

FILTER(center) /* width */
{
    bool forbidden;
    v = chat_to_string(ev, v);
    chat_value width = a->arg[0].kind == V_MISSING ? chat_int(80) : a->arg[0];
    const chat_builtin *row = chat_method_find(v, S("center"), &forbidden);
    return row ? chat_builtin_call(ev, row, "filter", v, &(chat_args){.arg = &width, .n = 1}) : v;
}

FILTER(forceescape)
{
    (void)a;
    v = chat_to_string(ev, v);
    chat_string *plain = v.kind == V_STRING ? chat_take(ev, sizeof *plain) : NULL;
    if (!plain) return v;
    *plain = *v.s;
    plain->markup = false;
    v.s = plain;
    return chat_escape(ev, v);
}

FILTER(wordcount)
{
    (void)a;
    i64 n = 0;
    bool inside = false;
    v = chat_to_string(ev, v);
    str s = chat_bytes(v);
    if (!chat_step(ev, s.n / 8)) return v;
    for (usize at = 0; at < s.n;) {
        u32 c = utf8_next(s, &at);
        utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
        bool letter = k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
        bool word = letter || (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO) || c == '_';
        n += word && !inside;
        inside = word;
    }
    return chat_int(n);
}

FILTER(truncate) /* length killwords end leeway */
{
    i64 length = chat_arg_int(ev, a, 0, 255), leeway = chat_arg_int(ev, a, 3, 5), n = chat_length(ev, v);
    chat_value end = chat_arg_text(ev, a, 2, "...");
    i64 n_end = chat_length(ev, end);
    if (length < n_end || leeway < 0)
        return chat_fail(ev, "a length of at least %lld and no negative leeway expected", (long long)n_end);
    if (ev->bad.code || n - leeway <= length) return v;
    if (v.kind != V_STRING) return chat_fail(ev, "a string expected, %s found", chat_kind_name(v));
    str s = chat_bytes(v);
    usize to = utf8_offset(s, (usize)(length - n_end)), cut = to;
    while (!chat_arg_true(a, 1) && cut > 0 && s.p[cut - 1] != ' ') cut--;
    if (cut > 0 && !chat_arg_true(a, 1)) to = cut - 1;
    return chat_add(ev, chat_string_part(ev, v, 0, to), end);
}

FILTER(filesizeformat) /* binary */
{
    static const char *const prefix[2][8] = {{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"},
                                             {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}};
    bool binary = chat_arg_true(a, 0);
    double base = binary ? 1024 : 1000, bytes = 0, unit = base * base;
    char text[400];
    bool number = v.kind == V_STRING ? str_f64(chat_bytes(v), &bytes) : chat_number(v, &bytes);
    if (!number) return chat_need_defined(ev, v), chat_fail(ev, "a number expected, %s found", chat_kind_name(v));
    int i = 0;
    for (; i < 7 && bytes >= unit; i++) unit *= base;
    if (bytes == 1)
        snprintf(text, sizeof text, "1 Byte");
    else if (bytes < base)
        snprintf(text, sizeof text, "%.0f Bytes", trunc(bytes) + 0.0);
    else
        snprintf(text, sizeof text, "%.1f %s", base * bytes / unit, prefix[binary][i]);
    chat_build b = {0};
    chat_put(&b, ev, str_of(text), v.from);
    return chat_built(&b, ev, v.from, false);
}

static void put_quoted(chat_build *b, chat_eval *ev, chat_value v, bool query)
{
    v = chat_to_string(ev, v);
    str s = chat_bytes(v);
    if (!chat_step(ev, s.n / 4) || v.kind != V_STRING) return;
    for (usize i = 0; i < s.n && !ev->bad.code; i++) {
        char text[8];
        u8 c = (u8)s.p[i];
        bool plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || (c && strchr(query ? "_.-~" : "_.-~/", c));
        snprintf(text, sizeof text, query && c == ' ' ? "+" : "%%%02X", c);
        if (plain)
            chat_put_part(b, ev, v.s, i, i + 1);
        else
            chat_put(b, ev, str_of(text), chat_string_from(v.s, i));
    }
}

FILTER(urlencode)
{
    chat_build b = {0};
    (void)a;
    bool mapping = v.kind == V_DICT, pairs = mapping || v.kind == V_LIST || v.kind == V_UNDEFINED;
    const chat_list *l = pairs ? chat_iterate(ev, v) : &ev->no_list;
    for (u32 i = 0; i < l->n && !ev->bad.code; i++) {
        const chat_list *pair = mapping ? NULL : chat_iterate(ev, l->item[i]);
        if (pair && pair->n != 2) return chat_fail(ev, "a list of pairs expected");
        if (i) chat_put(&b, ev, S("&"), v.from);
        put_quoted(&b, ev, pair ? pair->item[0] : l->item[i], true);
        chat_put(&b, ev, S("="), v.from);
        put_quoted(&b, ev, pair ? pair->item[1] : v.dict->pair[i].value, true);
    }
    if (!pairs) put_quoted(&b, ev, v, false);
    return chat_built(&b, ev, v.from, false);
}

FILTER(groupby) /* attribute default case_sensitive */
{
    const chat_list *l = chat_iterate(ev, v);
    chat_value path = a->arg[0];
    chat_list *index = chat_list_new(ev, l->n, LIST_PLAIN), *out = chat_list_new(ev, 0, LIST_PLAIN), *group = NULL;
    chat_value *key = chat_keys_of(ev, l, path, chat_arg_true(a, 2), a->arg[1]);
    chat_value *own = key ? chat_keys_of(ev, l, path, true, a->arg[1]) : NULL;
    for (u32 i = 0; own && i < l->n; i++) {
        if (l->n > 1 && key[i].kind == V_NONE) chat_fail(ev, "none has no order");
        if (l->n > 1) chat_need_defined(ev, key[i]);
        chat_list_push(ev, index, chat_int(i));
    }
    if (own && !ev->bad.code) index = chat_sort(ev, index, key, false);
    for (u32 i = 0, before = 0; own && i < index->n && chat_step(ev, 1); i++) {
        u32 at = (u32)index->item[i].i;
        if (!group || !chat_equal(ev, key[at], key[before])) {
            chat_list *tuple = chat_list_new(ev, 2, LIST_TUPLE);
            group = chat_list_new(ev, 0, LIST_PLAIN);
            if (ev->bad.code) break;
            tuple->group = true;
            chat_list_push(ev, tuple, own[at]);
            chat_list_push(ev, tuple, chat_list_value(group, v.from));
            chat_list_push(ev, out, chat_list_value(tuple, v.from));
        }
        if (!ev->bad.code) chat_list_push(ev, group, l->item[at]);
        before = at;
    }
    return chat_list_value(out, v.from);
}

const chat_builtin chat_more_filters[] = {
    {"center", "width", 0, filter_center},
    {"forceescape", "", 0, filter_forceescape},
    {"wordcount", "", 0, filter_wordcount},
    {"truncate", "length killwords end leeway", 0, filter_truncate},
    {"filesizeformat", "binary", 0, filter_filesizeformat},
    {"urlencode", "", 0, filter_urlencode},
    {"groupby", "attribute default case_sensitive", 1, filter_groupby},
    {NULL},
};
