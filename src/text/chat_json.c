/* Chat templates: JSON. Messages and tools come in through jansson (which keeps the order of keys, as Python does);
 * tojson writes what json.dumps(ensure_ascii=False) of Python writes, byte for byte, with the provenance of every byte:
 * a character's escape belongs to the character, brackets and quotes to the value that they enclose. */
#include "text/chat.h"
#include <jansson.h>
#include <math.h>

/* ---- in ---- */
static chat_value from_json(chat_eval *ev, json_t *j, chat_origin from, int depth);

static chat_value copied(chat_eval *ev, const char *p, usize n, chat_origin from)
{
    char *text = n ? chat_take(ev, n) : NULL;
    if (text) memcpy(text, p, n);
    return chat_string_new(ev, (str){text, text ? n : 0}, from);
}

static chat_origin under_message(const char *key, i32 message)
{
    return (chat_origin){message, !strcmp(key, "role") ? CHAT_ROLE : !strcmp(key, "content") ? CHAT_CONTENT : CHAT_OTHER};
}

static chat_dict *members(chat_eval *ev, json_t *j, chat_origin from, int depth, bool message)
{
    chat_dict *d = chat_dict_new(ev);
    for (void *it = json_object_iter(j); it && !ev->bad.code; it = json_object_iter_next(j, it)) {
        const char *key = json_object_iter_key(it);
        chat_value k = copied(ev, key, json_object_iter_key_len(it), from);
        chat_dict_put(ev, d, k,
                      from_json(ev, json_object_iter_value(it), message ? under_message(key, from.message) : from, depth + 1));
    }
    return d;
}

static chat_value from_json(chat_eval *ev, json_t *j, chat_origin from, int depth)
{
    chat_value v = {.kind = V_NONE, .from = from};
    if (depth > CHAT_MAX_DATA) return chat_fail_as(ev, ERR_INPUT, "JSON nested more than %d levels deep", CHAT_MAX_DATA);
    switch (json_typeof(j)) {
    case JSON_OBJECT: return chat_dict_value(members(ev, j, from, depth, false), from);
    case JSON_ARRAY: {
        chat_list *l = chat_list_new(ev, json_array_size(j), LIST_PLAIN);
        for (usize i = 0; i < json_array_size(j) && !ev->bad.code; i++)
            chat_list_push(ev, l, from_json(ev, json_array_get(j, i), from, depth + 1));
        return chat_list_value(l, from);
    }
    case JSON_STRING: return copied(ev, json_string_value(j), json_string_length(j), from);
    case JSON_INTEGER:
        v.kind = V_INT;
        v.i = json_integer_value(j);
        break;
    case JSON_REAL:
        v.kind = V_FLOAT;
        v.f = json_real_value(j);
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        v.kind = V_BOOL;
        v.b = json_is_true(j);
        break;
    default: break;
    }
    return v;
}

static json_t *load(chat_eval *ev, str text, const char *what)
{
    json_error_t e;
    if (!chat_step(ev, text.n / 8)) return NULL;
    json_t *j = json_loadb(text.p ? text.p : "", text.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    if (!j) chat_fail_as(ev, ERR_INPUT, "%s is not valid JSON: %s (line %d, column %d)", what, e.text, e.line, e.column);
    return j;
}

chat_value chat_from_json(chat_eval *ev, str text, chat_origin from, const char *what)
{
    json_t *j = load(ev, text, what);
    chat_value v = j ? from_json(ev, j, from, 0) : chat_none();
    json_decref(j);
    return v;
}

/* a message's reasoning has three names in the wild: `thinking` and `reasoning_content`, which templates read, get the first that
 * is given, `thinking` in front of all */
static chat_dict *name_reasoning(chat_eval *ev, chat_dict *given, chat_origin from)
{
    static const char *const name[] = {"reasoning_content", "thinking", "reasoning"};
    chat_value *reasoning = NULL;
    for (usize i = 0; i < COUNT_OF(name) && !reasoning; i++)
        reasoning = chat_dict_get(given, str_of(name[i]), chat_text_hash(str_of(name[i])));
    if (!reasoning) return given;
    chat_dict *d = chat_dict_new(ev);
    chat_dict_put(ev, d, chat_string_new(ev, S("thinking"), from), *reasoning);
    for (u32 i = 0; i < given->n && !ev->bad.code; i++) chat_dict_put(ev, d, given->pair[i].key, given->pair[i].value);
    chat_dict_put(ev, d, chat_string_new(ev, S("reasoning_content"), from), *reasoning);
    return d;
}

chat_value chat_message_json(chat_eval *ev, str text, i32 message, const char *role, const char *content)
{
    char what[32];
    snprintf(what, sizeof what, "message %d", message);
    chat_origin from = {message, CHAT_OTHER};
    json_t *j = text.p ? load(ev, text, what) : NULL;
    if (j && !json_is_object(j)) chat_fail_as(ev, ERR_INPUT, "%s is not a JSON object", what);
    chat_dict *all = j && !ev->bad.code ? members(ev, j, from, 0, true) : chat_dict_new(ev), *d = chat_dict_new(ev);
    json_decref(j);
    for (u32 i = 0; i < all->n && !ev->bad.code; i++)
        if (all->pair[i].value.kind != V_NONE) chat_dict_put(ev, d, all->pair[i].key, all->pair[i].value);
    const char *const key[] = {"role", "content"}, *const value[] = {role, content};
    for (int i = 0; i < 2; i++) {
        str k = str_of(key[i]);
        if (!value[i] || (text.p && chat_dict_get(all, k, chat_text_hash(k)))) continue;
        chat_dict_put(ev, d, chat_string_new(ev, k, from), chat_string_new(ev, str_of(value[i]), under_message(key[i], message)));
    }
    return chat_dict_value(ev->bad.code ? d : name_reasoning(ev, d, from), from);
}

chat_value chat_filter_from_json(chat_eval *ev, chat_value v, const chat_args *a)
{
    (void)a;
    if (v.kind != V_STRING) {
        chat_need_defined(ev, v);
        return chat_fail(ev, "a string expected, %s found", chat_kind_name(v));
    }
    return chat_from_json(ev, chat_bytes(v), v.from, "the text");
}

/* ---- out ---- */
typedef struct {
    chat_build b;
    chat_eval *ev;
    bool ascii, sort, lines;
    chat_value indent, item_end, key_end;
} writer;

static void put_escaped(writer *w, u32 c, chat_origin from)
{
    static const char plain[] = "\"\\\n\r\t\b\f", letter[] = "\"\\nrtbf";
    char text[16];
    const char *k = c && c < 0x80 ? strchr(plain, (int)c) : NULL;
    if (k)
        snprintf(text, sizeof text, "\\%c", letter[k - plain]);
    else if (c < 0x10000)
        snprintf(text, sizeof text, "\\u%04x", c);
    else
        snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10), 0xdc00 + ((c - 0x10000) & 0x3ff));
    chat_put(&w->b, w->ev, str_of(text), from);
}

static void put_string(writer *w, chat_value v)
{
    str s = chat_bytes(v);
    usize from = 0;
    if (!chat_step(w->ev, s.n / 8)) return;
    chat_put(&w->b, w->ev, S("\""), v.from);
    for (usize at = 0; at < s.n;) {
        usize here = at;
        u32 c = (u8)s.p[at] < 0x80 ? (u8)s.p[at++] : w->ascii ? utf8_next(s, &at) : (at++, 0x100);
        if (c != '"' && c != '\\' && c >= 0x20 && !(w->ascii && c >= 0x7f)) continue;
        chat_put_part(&w->b, w->ev, v.s, from, here);
        put_escaped(w, c, chat_string_from(v.s, here));
        from = at;
    }
    chat_put_part(&w->b, w->ev, v.s, from, s.n);
    chat_put(&w->b, w->ev, S("\""), s.n ? chat_string_from(v.s, s.n - 1) : v.from);
}

/* a number, truth value or none; false for anything else */
static bool put_scalar(writer *w, chat_value v)
{
    char text[40];
    switch (v.kind) {
    case V_NONE: snprintf(text, sizeof text, "null"); break;
    case V_BOOL: snprintf(text, sizeof text, "%s", v.b ? "true" : "false"); break;
    case V_INT: snprintf(text, sizeof text, "%lld", (long long)v.i); break;
    case V_FLOAT:
        if (isnan(v.f) || isinf(v.f))
            snprintf(text, sizeof text, "%s", isnan(v.f) ? "NaN" : v.f < 0 ? "-Infinity" : "Infinity");
        else
            chat_float_text(v.f, text);
        break;
    default: return false;
    }
    chat_put(&w->b, w->ev, str_of(text), v.from);
    return true;
}

static void put_line(writer *w, int depth, chat_origin from)
{
    if (!w->lines) return;
    chat_put(&w->b, w->ev, S("\n"), from);
    for (int i = 0; i < depth; i++) chat_put(&w->b, w->ev, chat_bytes(w->indent), from);
}

static void put_json(writer *w, chat_value v, int depth);

static void put_members(writer *w, chat_value v, int depth)
{
    chat_eval *ev = w->ev;
    chat_list *keys = chat_iterate(ev, v);
    if (w->sort) keys = chat_sort(ev, keys, NULL, false);
    chat_put(&w->b, ev, S("{"), v.from);
    for (u32 i = 0; i < keys->n && chat_step(ev, 1); i++) {
        chat_value key = keys->item[i], *value = chat_dict_find(ev, v.dict, key);
        if (i) chat_put(&w->b, ev, chat_bytes(w->item_end), v.from);
        put_line(w, depth + 1, v.from);
        if (key.kind == V_STRING) {
            put_string(w, key);
        } else {
            chat_put(&w->b, ev, S("\""), v.from);
            if (!put_scalar(w, key)) chat_fail(ev, "%s cannot be a key in JSON", chat_kind_name(key));
            chat_put(&w->b, ev, S("\""), v.from);
        }
        chat_put(&w->b, ev, chat_bytes(w->key_end), v.from);
        if (value) put_json(w, *value, depth + 1);
    }
    if (keys->n) put_line(w, depth, v.from);
    chat_put(&w->b, ev, S("}"), v.from);
}

static void put_json(writer *w, chat_value v, int depth)
{
    chat_eval *ev = w->ev;
    if (depth > CHAT_MAX_DATA) chat_fail(ev, "values are nested too deeply for JSON");
    if (!chat_step(ev, 1) || put_scalar(w, v)) return;
    if (v.kind == V_STRING) {
        put_string(w, v);
    } else if (v.kind == V_DICT) {
        put_members(w, v, depth);
    } else if (v.kind == V_LIST && v.list->flavour <= LIST_TUPLE) {
        chat_put(&w->b, ev, S("["), v.from);
        for (u32 i = 0; i < v.list->n && !ev->bad.code; i++) {
            if (i) chat_put(&w->b, ev, chat_bytes(w->item_end), v.from);
            put_line(w, depth + 1, v.from);
            put_json(w, v.list->item[i], depth + 1);
        }
        if (v.list->n) put_line(w, depth, v.from);
        chat_put(&w->b, ev, S("]"), v.from);
    } else {
        chat_need_defined(ev, v);
        chat_fail(ev, "%s cannot be written as JSON", chat_kind_name(v));
    }
}

/* parameters: ensure_ascii indent separators sort_keys */
chat_value chat_filter_tojson(chat_eval *ev, chat_value v, const chat_args *a)
{
    writer w = {.ev = ev, .ascii = chat_arg_true(a, 0), .lines = chat_given(a, 1), .sort = chat_arg_true(a, 3)};
    i64 width = 0;
    w.key_end = chat_string_lit(ev, ": ");
    w.item_end = chat_string_lit(ev, w.lines ? "," : ", ");
    if (w.lines && a->arg[1].kind == V_STRING) {
        w.indent = a->arg[1];
    } else if (w.lines) {
        width = chat_arg_int(ev, a, 1, 0);
        if (width > 1000) return chat_fail(ev, "an indent of at most 1000 expected, %lld found", (long long)width);
        char spaces[1000];
        memset(spaces, ' ', sizeof spaces);
        w.indent = copied(ev, spaces, (usize)i64_max(width, 0), CHAT_LITERAL);
    }
    if (chat_given(a, 2)) {
        chat_list *s = chat_iterate(ev, a->arg[2]);
        if (s->n != 2 || s->item[0].kind != V_STRING || s->item[1].kind != V_STRING)
            return chat_fail(ev, "separators must be two strings");
        w.item_end = s->item[0];
        w.key_end = s->item[1];
    }
    put_json(&w, v, 0);
    return chat_built(&w.b, ev, v.from, false);
}
