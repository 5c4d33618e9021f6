/* Chat templates: values. What they are is in chat.h; here is what one can do with them without writing text: make,
 * compare, order, hash, look up, take parts of.
 *
 * Python's rules hold: 1 == 1.0 == True, also as keys; strings are indexed by character, not by byte; a list never equals a
 * tuple; a generator (the result of map, select ...) is always true, has no length and can be walked through once.
 * Integers are 64 bits wide: what does not fit is an error instead of a long integer. */
#include "text/chat.h"

/* ---- errors, fuel, memory ---- */
chat_value chat_fail_as(chat_eval *ev, err_code code, const char *fmt, ...)
{
    if (ev->bad.code) return chat_undefined(UNDEF_NAME, SYM_NONE, 0);
    char text[500];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    text[utf8_complete(str_of(text))] = 0;
    if (!ev->line)
        ev->bad = err_new(code, "%s", text); /* before rendering: the caller's input, not the template */
    else if (ev->what)
        ev->bad = err_new(code, "template: line %u: %s '%s': %s", ev->line, ev->what, ev->name, text);
    else
        ev->bad = err_new(code, "template: line %u: %s", ev->line, text);
    return chat_undefined(UNDEF_NAME, SYM_NONE, 0);
}

chat_value chat_fail(chat_eval *ev, const char *fmt, ...)
{
    char text[500];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return chat_fail_as(ev, ERR_FORMAT, "%s", text);
}

bool chat_step(chat_eval *ev, usize n)
{
    if (ev->bad.code) return false;
    if (n < (usize)ev->fuel) {
        ev->fuel -= (i64)n;
        return true;
    }
    ev->fuel = 0;
    ev->what = NULL;
    const chat_node *in = ev->inside;
    if (!in)
        chat_fail(ev, "out of fuel");
    else if (in->kind == N_FOR)
        chat_fail(ev, "out of fuel inside 'for' of line %u", in->line);
    else
        chat_fail(ev, "out of fuel inside macro '%s' of line %u", ev->t->symbol[in->name].text.p, in->line);
    return false;
}

void *chat_take(chat_eval *ev, usize n)
{
    if (!chat_step(ev, n / 32 + 1)) return NULL;
    if (n > CHAT_MAX_MEMORY - ev->taken) {
        chat_fail(ev, "more than %d MiB of memory needed", CHAT_MAX_MEMORY >> 20);
        return NULL;
    }
    void *p = arena_take(ev->a, n);
    if (!p)
        chat_fail_as(ev, ERR_NOMEM, "out of memory");
    else
        ev->taken += n;
    return p;
}

bool chat_enter(chat_eval *ev)
{
    if (++ev->depth > CHAT_MAX_DEPTH) chat_fail(ev, "macros or expressions are nested too deeply");
    return !ev->bad.code;
}

void chat_leave(chat_eval *ev) { ev->depth--; }

/* ---- simple values ---- */
chat_value chat_bool(bool b) { return (chat_value){.kind = V_BOOL, .from = CHAT_LITERAL, .b = b}; }
chat_value chat_int(i64 i) { return (chat_value){.kind = V_INT, .from = CHAT_LITERAL, .i = i}; }
chat_value chat_float(double f) { return (chat_value){.kind = V_FLOAT, .from = CHAT_LITERAL, .f = f}; }
chat_value chat_none(void) { return (chat_value){.kind = V_NONE, .from = CHAT_LITERAL}; }
chat_value chat_undefined(chat_undef why, u32 symbol, u8 of)
{
    return (chat_value){.kind = V_UNDEFINED, .from = CHAT_LITERAL, .undef = {symbol, (u8)why, of}};
}

const char *chat_kind_name(chat_value v)
{
    static const char *const name[] = {[V_MISSING] = "nothing", [V_UNDEFINED] = "an undefined value",
                                       [V_NONE] = "none",       [V_BOOL] = "a truth value",
                                       [V_INT] = "an integer",  [V_FLOAT] = "a number",
                                       [V_STRING] = "a string", [V_LIST] = "a list",
                                       [V_DICT] = "a mapping",  [V_NAMESPACE] = "a namespace",
                                       [V_MACRO] = "a macro",   [V_CALLABLE] = "a function",
                                       [V_LOOP] = "a loop"};
    static const char *const list[] = {"a list",         "a tuple",          "a generator", "a view of items",
                                       "a view of keys", "a view of values", "a range"};
    return v.kind == V_LIST ? list[v.list->flavour] : name[v.kind];
}

void chat_need_defined(chat_eval *ev, chat_value v)
{
    if (v.kind != V_UNDEFINED || ev->bad.code) return;
    str name = ev->t->symbol[v.undef.name].text;
    int n = (int)i64_min((i64)name.n, 100);
    const char *of = v.undef.of == V_LIST ? "a list" : chat_kind_name((chat_value){.kind = v.undef.of});
    switch (v.undef.why) {
    case UNDEF_NAME: chat_fail(ev, "'%.*s' is undefined", n, name.p); break;
    case UNDEF_MEMBER:
        if (name.n)
            chat_fail(ev, "%s has no member '%.*s'", of, n, name.p);
        else
            chat_fail(ev, "%s has no such member or item", of);
        break;
    case UNDEF_ARGUMENT: chat_fail(ev, "parameter '%.*s' was not given", n, name.p); break;
    case UNDEF_EMPTY: chat_fail(ev, "an item of an empty list is undefined"); break;
    case UNDEF_ELSE: chat_fail(ev, "the 'if' inside an expression was false and has no 'else'"); break;
    case UNDEF_FORBIDDEN: chat_fail(ev, "'%.*s' of %s is not allowed: templates cannot change values", n, name.p, of); break;
    default: chat_fail(ev, "there is no item before the first or after the last one of a loop"); break;
    }
}

bool chat_number(chat_value v, double *f)
{
    *f = v.kind == V_FLOAT ? v.f : v.kind == V_INT ? (double)v.i : v.kind == V_BOOL ? v.b : 0;
    return v.kind == V_FLOAT || v.kind == V_INT || v.kind == V_BOOL;
}

bool chat_integer(chat_value v, i64 *i)
{
    *i = v.kind == V_INT ? v.i : v.kind == V_BOOL ? v.b : 0;
    return v.kind == V_INT || v.kind == V_BOOL;
}

bool chat_truth(chat_value v)
{
    switch (v.kind) {
    case V_MISSING:
    case V_UNDEFINED:
    case V_NONE: return false;
    case V_BOOL: return v.b;
    case V_INT: return v.i != 0;
    case V_FLOAT: return v.f != 0;
    case V_STRING: return v.s->n > 0;
    case V_LIST: return v.list->flavour == LIST_LAZY || v.list->n > 0;
    case V_DICT: return v.dict->n > 0;
    default: return true;
    }
}

/* ---- comparing ---- */
static bool equal(chat_eval *ev, chat_value a, chat_value b, int depth);

static bool equal_items(chat_eval *ev, const chat_list *a, const chat_list *b, int depth)
{
    bool ordered = a->flavour == b->flavour && (a->flavour == LIST_PLAIN || a->flavour == LIST_TUPLE || a->flavour == LIST_RANGE);
    if (!ordered || a->n != b->n) return a == b;
    for (u32 i = 0; i < a->n; i++)
        if (!equal(ev, a->item[i], b->item[i], depth + 1)) return false;
    return true;
}

static bool equal_dicts(chat_eval *ev, const chat_dict *a, const chat_dict *b, int depth)
{
    if (a->n != b->n) return false;
    for (u32 i = 0; i < a->n; i++) {
        chat_value *other = chat_dict_find(ev, b, a->pair[i].key);
        if (!other || !equal(ev, a->pair[i].value, *other, depth + 1)) return false;
    }
    return true;
}

static bool equal(chat_eval *ev, chat_value a, chat_value b, int depth)
{
    double x, y;
    if (depth > CHAT_MAX_DATA) chat_fail(ev, "values are nested too deeply to be compared");
    if (!chat_step(ev, 1)) return false;
    if (a.kind == V_INT && b.kind == V_INT) return a.i == b.i;
    if (chat_number(a, &x)) return chat_number(b, &y) && x == y;
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case V_STRING: return a.s->n == b.s->n && chat_step(ev, a.s->n / 32) && !memcmp(a.s->p, b.s->p, a.s->n);
    case V_LIST: return equal_items(ev, a.list, b.list, depth);
    case V_DICT: return equal_dicts(ev, a.dict, b.dict, depth);
    case V_NAMESPACE: return a.dict == b.dict;
    case V_MACRO: return a.macro == b.macro;
    case V_CALLABLE: return a.fn == b.fn;
    case V_LOOP: return a.loop == b.loop;
    default: return true; /* undefined, none */
    }
}

bool chat_equal(chat_eval *ev, chat_value a, chat_value b) { return equal(ev, a, b, 0); }

static int order(chat_eval *ev, chat_value a, chat_value b, int depth)
{
    double x, y;
    if (depth > CHAT_MAX_DATA) chat_fail(ev, "values are nested too deeply to be compared");
    if (!chat_step(ev, 1)) return 0;
    if (a.kind == V_INT && b.kind == V_INT) return (a.i > b.i) - (a.i < b.i);
    if (chat_number(a, &x) && chat_number(b, &y)) return (x > y) - (x < y);
    if (a.kind == V_STRING && b.kind == V_STRING) { /* UTF-8 sorts by code point */
        u32 n = a.s->n < b.s->n ? a.s->n : b.s->n;
        int c = chat_step(ev, n / 32) ? memcmp(a.s->p, b.s->p, n) : 0;
        return c ? (c > 0) - (c < 0) : (a.s->n > b.s->n) - (a.s->n < b.s->n);
    }
    if (a.kind == V_LIST && b.kind == V_LIST && a.list->flavour == b.list->flavour && a.list->flavour <= LIST_TUPLE) {
        for (u32 i = 0; i < a.list->n && i < b.list->n; i++)
            if (!equal(ev, a.list->item[i], b.list->item[i], depth + 1))
                return order(ev, a.list->item[i], b.list->item[i], depth + 1);
        return (a.list->n > b.list->n) - (a.list->n < b.list->n);
    }
    chat_need_defined(ev, a);
    chat_need_defined(ev, b);
    chat_fail(ev, "%s and %s have no order", chat_kind_name(a), chat_kind_name(b));
    return 0;
}

int chat_order(chat_eval *ev, chat_value a, chat_value b) { return order(ev, a, b, 0); }

bool chat_contains(chat_eval *ev, chat_value hay, chat_value needle)
{
    if (hay.kind == V_STRING) {
        if (needle.kind != V_STRING) {
            chat_need_defined(ev, needle);
            chat_fail(ev, "only a string can be 'in' a string, not %s", chat_kind_name(needle));
        }
        return chat_step(ev, hay.s->n / 32) && str_find(chat_bytes(hay), chat_bytes(needle), 0) >= 0;
    }
    if (hay.kind == V_DICT) return chat_dict_find(ev, hay.dict, needle) != NULL;
    if (hay.kind == V_UNDEFINED) return false;
    if (hay.kind != V_LIST) {
        chat_fail(ev, "nothing can be 'in' %s", chat_kind_name(hay));
        return false;
    }
    const chat_list *l = chat_iterate(ev, hay);
    for (u32 i = 0; i < l->n && !ev->bad.code; i++)
        if (chat_equal(ev, l->item[i], needle)) return !ev->bad.code;
    return false;
}

/* ---- strings ---- */
static const chat_string empty_string = {.p = ""};

chat_value chat_string_new(chat_eval *ev, str s, chat_origin from)
{
    if (s.n >= UINT32_MAX / 2) return chat_fail(ev, "a string of more than 2 GiB");
    if (!s.n) return (chat_value){.kind = V_STRING, .from = from, .s = &empty_string};
    chat_string *c = chat_take(ev, sizeof *c + sizeof(chat_run));
    if (!c) return chat_undefined(UNDEF_NAME, SYM_NONE, 0);
    chat_run *run = (chat_run *)(c + 1);
    *run = (chat_run){(u32)s.n, from};
    *c = (chat_string){s.p, (u32)s.n, 1, run, false};
    return (chat_value){.kind = V_STRING, .from = from, .s = c};
}

chat_value chat_string_lit(chat_eval *ev, const char *s) { return chat_string_new(ev, str_of(s), CHAT_LITERAL); }

/* the first run that ends behind `byte` */
static u32 run_at(const chat_string *s, usize byte)
{
    u32 from = 0, to = s->n_run;
    while (from < to) {
        u32 mid = (from + to) / 2;
        if (s->run[mid].end > byte)
            to = mid;
        else
            from = mid + 1;
    }
    return from;
}

chat_origin chat_string_from(const chat_string *s, usize byte)
{
    u32 r = run_at(s, byte);
    return r < s->n_run ? s->run[r].from : s->n_run ? s->run[s->n_run - 1].from : CHAT_LITERAL;
}

chat_value chat_string_part(chat_eval *ev, chat_value v, usize from, usize to)
{
    if (v.kind != V_STRING || (from == 0 && to == v.s->n)) return v;
    if (from >= to) return (chat_value){.kind = V_STRING, .from = v.from, .s = &empty_string};
    u32 first = run_at(v.s, from), last = run_at(v.s, to - 1), n = last - first + 1;
    chat_string *c = chat_take(ev, sizeof *c + n * sizeof(chat_run));
    if (!c) return v;
    chat_run *run = (chat_run *)(c + 1);
    for (u32 i = 0; i < n; i++) {
        run[i] = v.s->run[first + i];
        run[i].end = (u32)(run[i].end < to ? run[i].end - from : to - from);
    }
    *c = (chat_string){v.s->p + from, (u32)(to - from), n, run, v.s->markup};
    return (chat_value){.kind = V_STRING, .from = run[0].from, .s = c};
}

bool chat_string_is(chat_value v, const char *s) { return v.kind == V_STRING && str_eq(chat_bytes(v), str_of(s)); }

/* ---- lists ---- */
chat_list *chat_list_new(chat_eval *ev, usize cap, chat_flavour flavour)
{
    chat_list *l = cap < UINT32_MAX / 2 ? chat_take(ev, sizeof *l + cap * sizeof *l->item) : NULL;
    if (!l) return &ev->no_list;
    l->item = (chat_value *)(l + 1);
    l->cap = (u32)cap;
    l->flavour = (u8)flavour;
    return l;
}

void chat_list_push(chat_eval *ev, chat_list *l, chat_value v)
{
    if (!chat_step(ev, 1)) return;
    if (l->n == l->cap) {
        u32 cap = l->cap ? 2 * l->cap : 8;
        chat_value *item = chat_take(ev, cap * sizeof *item);
        if (!item) return;
        if (l->n) memcpy(item, l->item, l->n * sizeof *item);
        l->item = item;
        l->cap = cap;
    }
    l->item[l->n++] = v;
}

chat_value chat_list_value(chat_list *l, chat_origin from) { return (chat_value){.kind = V_LIST, .from = from, .list = l}; }

static chat_list *characters(chat_eval *ev, chat_value v)
{
    chat_list *l = chat_list_new(ev, v.s->n < 64 ? v.s->n : 64, LIST_PLAIN);
    chat_string *plain = v.s->markup ? chat_take(ev, sizeof *plain) : NULL;
    if (plain) {
        *plain = *v.s;
        plain->markup = false;
        v.s = plain;
    }
    for (usize at = 0; at < v.s->n && !ev->bad.code;) {
        usize from = at;
        utf8_next(chat_bytes(v), &at);
        chat_list_push(ev, l, chat_string_part(ev, v, from, at));
    }
    return l;
}

chat_list *chat_iterate(chat_eval *ev, chat_value v)
{
    chat_list *l;
    switch (v.kind) {
    case V_UNDEFINED: return chat_list_new(ev, 0, LIST_PLAIN);
    case V_STRING: return characters(ev, v);
    case V_LIST:
        if (v.list->flavour != LIST_LAZY) return v.list;
        if (v.list->spent) return chat_list_new(ev, 0, LIST_PLAIN);
        v.list->spent = true;
        return v.list;
    case V_DICT:
        l = chat_list_new(ev, v.dict->n, LIST_PLAIN);
        for (u32 i = 0; i < v.dict->n; i++) chat_list_push(ev, l, v.dict->pair[i].key);
        return l;
    default: chat_fail(ev, "%s is not a list that one can walk through", chat_kind_name(v)); return &ev->no_list;
    }
}

i64 chat_length(chat_eval *ev, chat_value v)
{
    if (v.kind == V_STRING) return chat_step(ev, v.s->n / 32) ? (i64)utf8_count(chat_bytes(v)) : 0;
    if (v.kind == V_LIST && v.list->flavour != LIST_LAZY) return v.list->n;
    if (v.kind == V_DICT) return v.dict->n;
    if (v.kind != V_UNDEFINED) chat_fail(ev, "%s has no length", chat_kind_name(v));
    return 0;
}

/* ---- mappings ---- */
u64 chat_text_hash(str s) { return hash64(s.p ? s.p : "", s.n, 0x6d617275); }

bool chat_hashable(chat_value v, int depth)
{
    if (v.kind == V_DICT || depth > CHAT_MAX_DATA) return false;
    if (v.kind != V_LIST) return true;
    if (v.list->flavour != LIST_TUPLE) return v.list->flavour == LIST_LAZY || v.list->flavour == LIST_RANGE;
    for (u32 i = 0; i < v.list->n; i++)
        if (!chat_hashable(v.list->item[i], depth + 1)) return false;
    return true;
}

static u64 hash_value(chat_eval *ev, chat_value v, int depth)
{
    double f;
    u64 h = v.kind;
    if (!chat_step(ev, 1)) return 0;
    if (v.kind == V_STRING) return chat_step(ev, v.s->n / 32) ? chat_text_hash(chat_bytes(v)) : 0;
    if (chat_number(v, &f)) {
        f += 0.0; /* -0.0 is 0.0 */
        memcpy(&h, &f, sizeof h);
    } else if (v.kind == V_LIST && v.list->flavour == LIST_TUPLE) {
        for (u32 i = 0; i < v.list->n && depth <= CHAT_MAX_DATA; i++) h = h * 31 + hash_value(ev, v.list->item[i], depth + 1);
    }
    return hash64(&h, sizeof h, 0x6d617275);
}

u64 chat_hash(chat_eval *ev, chat_value v)
{
    if (!chat_hashable(v, 0)) chat_fail(ev, "%s cannot be a key", chat_kind_name(v));
    return hash_value(ev, v, 0);
}

chat_dict *chat_dict_new(chat_eval *ev)
{
    chat_dict *d = chat_take(ev, sizeof *d);
    return d ? d : &ev->no_dict;
}

static bool index_build(chat_eval *ev, chat_dict *d, u32 n_slot)
{
    u32 *slot = chat_take(ev, n_slot * sizeof *slot);
    if (!slot) return false;
    d->slot = slot;
    d->n_slot = n_slot;
    for (u32 i = 0; i < d->n; i++) {
        u32 at = (u32)d->pair[i].hash & (n_slot - 1);
        for (; slot[at]; at = (at + 1) & (n_slot - 1)) chat_step(ev, 1); /* hostile keys that collide cost fuel */
        slot[at] = i + 1;
    }
    return true;
}

/* `ev` may be NULL when the key is a string */
static chat_value *find(chat_eval *ev, const chat_dict *d, chat_value key, str text, u64 hash)
{
    u32 mask = d->n_slot - 1, at = (u32)hash & mask;
    for (u32 i = 0;; i++, at = (at + 1) & mask) {
        u32 k = i;
        if (d->slot) {
            if (!d->slot[at]) return NULL;
            k = d->slot[at] - 1;
        } else if (i == d->n) {
            return NULL;
        }
        chat_pair *p = &d->pair[k];
        if (p->hash != hash) continue;
        if (text.p ? p->key.kind == V_STRING && str_eq(chat_bytes(p->key), text) : equal(ev, p->key, key, 0)) return &p->value;
        if (ev && ev->bad.code) return NULL;
    }
}

chat_value *chat_dict_get(const chat_dict *d, str key, u64 hash) { return find(NULL, d, chat_none(), key.p ? key : S(""), hash); }

chat_value *chat_dict_find(chat_eval *ev, const chat_dict *d, chat_value key)
{
    u64 hash = chat_hash(ev, key);
    if (ev->bad.code) return NULL;
    return key.kind == V_STRING ? chat_dict_get(d, chat_bytes(key), hash) : find(ev, d, key, (str){NULL, 0}, hash);
}

void chat_dict_put(chat_eval *ev, chat_dict *d, chat_value key, chat_value value)
{
    chat_value *old = chat_dict_find(ev, d, key);
    if (!chat_step(ev, 2)) return;
    if (old) {
        *old = value;
        return;
    }
    if (d->n == d->cap) {
        u32 cap = d->cap ? 2 * d->cap : 4;
        chat_pair *pair = chat_take(ev, cap * sizeof *pair);
        if (!pair) return;
        if (d->n) memcpy(pair, d->pair, d->n * sizeof *pair);
        d->pair = pair;
        d->cap = cap;
        if (cap > 8 && !index_build(ev, d, 2 * cap)) return;
    }
    u64 hash = chat_hash(ev, key);
    if (d->slot) {
        u32 at = (u32)hash & (d->n_slot - 1);
        while (d->slot[at] && chat_step(ev, 1)) at = (at + 1) & (d->n_slot - 1);
        d->slot[at] = d->n + 1;
    }
    d->pair[d->n++] = (chat_pair){hash, key, value};
}

chat_value chat_dict_value(chat_dict *d, chat_origin from) { return (chat_value){.kind = V_DICT, .from = from, .dict = d}; }
