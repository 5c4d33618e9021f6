/* Chat templates: expressions. A walk over the tree; what a node means is what Python does with the code that Jinja would
 * make of it, errors included (an undefined value can be printed and tested, but nothing can be taken from it).
 *
 * The line of the node in hand is kept in the evaluator, so that an error deep in a filter names the line of the filter. */
#include "text/chat.h"
#include <math.h>
#include <stdlib.h>

static chat_value nothing(void) { return chat_undefined(UNDEF_NAME, SYM_NONE, 0); }

/* ---- members and items ---- */
static bool method_of(chat_eval *ev, chat_value v, str name, u32 symbol, chat_value *out)
{
    bool forbidden = false;
    const chat_builtin *row = chat_method_find(v, name, &forbidden);
    if (forbidden) {
        *out = chat_undefined(UNDEF_FORBIDDEN, symbol, v.kind);
        return true;
    }
    chat_callable *fn = row ? chat_take(ev, sizeof *fn) : NULL;
    if (!fn) return false;
    *fn = (chat_callable){row, v, "method"};
    *out = (chat_value){.kind = V_CALLABLE, .from = CHAT_LITERAL, .fn = fn};
    return true;
}

static chat_value macro_member(chat_eval *ev, const chat_node *n, str name, u32 symbol)
{
    if (str_eq(name, S("name"))) return chat_string_new(ev, ev->t->symbol[n->name].text, CHAT_LITERAL);
    if (str_eq(name, S("caller"))) return chat_bool(n->flags & MACRO_CALLER);
    if (str_eq(name, S("catch_varargs"))) return chat_bool(n->flags & MACRO_VARARGS);
    if (str_eq(name, S("catch_kwargs"))) return chat_bool(n->flags & MACRO_KWARGS);
    if (!str_eq(name, S("arguments"))) return chat_undefined(UNDEF_MEMBER, symbol, V_MACRO);
    chat_list *l = chat_list_new(ev, n->n_kid, LIST_TUPLE);
    for (u32 i = 0; i + 1 < n->n_kid; i++)
        chat_list_push(ev, l, chat_string_new(ev, ev->t->symbol[n->param[i]].text, CHAT_LITERAL));
    return chat_list_value(l, CHAT_LITERAL);
}

chat_value chat_member(chat_eval *ev, chat_value v, str name, u64 hash, u32 symbol)
{
    chat_value out = nothing(), *found = NULL;
    chat_need_defined(ev, v);
    if (ev->bad.code) return out;
    if (v.kind == V_LOOP) {
        out = chat_loop_member(ev, v.loop, name);
        if (out.kind != V_MISSING) return out;
    }
    if (v.kind == V_MACRO) return macro_member(ev, v.macro->node, name, symbol);
    if (v.kind == V_LIST && v.list->group && (str_eq(name, S("grouper")) || str_eq(name, S("list"))))
        return v.list->item[name.p[0] == 'l'];
    if (method_of(ev, v, name, symbol, &out)) return out; /* as Python: a method hides a key of the same name */
    if (v.kind == V_DICT || v.kind == V_NAMESPACE) found = chat_dict_get(v.dict, name, hash);
    return found ? *found : chat_undefined(UNDEF_MEMBER, symbol, v.kind);
}

static chat_value item_at(chat_eval *ev, chat_value v, i64 i)
{
    if (v.kind == V_LIST) {
        if (i < 0) i += v.list->n;
        return i >= 0 && i < v.list->n ? v.list->item[i] : chat_undefined(UNDEF_MEMBER, SYM_NONE, V_LIST);
    }
    if (!chat_step(ev, v.s->n / 32)) return nothing();
    if (i < 0) i += (i64)utf8_count(chat_bytes(v));
    usize from = i < 0 || i >= v.s->n ? v.s->n : utf8_offset(chat_bytes(v), (usize)i), to = from;
    if (from >= v.s->n) return chat_undefined(UNDEF_MEMBER, SYM_NONE, V_STRING);
    utf8_next(chat_bytes(v), &to);
    return chat_string_part(ev, v, from, to);
}

chat_value chat_at(chat_eval *ev, chat_value v, chat_value key, u32 symbol)
{
    i64 i;
    chat_need_defined(ev, v);
    if (ev->bad.code) return nothing();
    if (v.kind == V_DICT && chat_hashable(key, 0)) {
        const chat_symbol *s = &ev->t->symbol[symbol];
        chat_value *found = symbol ? chat_dict_get(v.dict, s->text, s->hash) : chat_dict_find(ev, v.dict, key);
        if (found) return *found;
    }
    bool indexed = v.kind == V_STRING || (v.kind == V_LIST && (v.list->flavour <= LIST_TUPLE || v.list->flavour == LIST_RANGE));
    if (indexed && chat_integer(key, &i)) return item_at(ev, v, i);
    if (key.kind == V_STRING) return chat_member(ev, v, chat_bytes(key), chat_text_hash(chat_bytes(key)), symbol);
    return chat_undefined(UNDEF_MEMBER, symbol, v.kind);
}

chat_value chat_path(chat_eval *ev, chat_value v, chat_value path, chat_value otherwise)
{
    if (path.kind != V_STRING) {
        v = chat_at(ev, v, path, SYM_NONE);
        return v.kind == V_UNDEFINED && otherwise.kind != V_MISSING ? otherwise : v;
    }
    str s = chat_bytes(path);
    for (usize at = 0; at <= s.n && !ev->bad.code;) {
        usize n = 0;
        while (at + n < s.n && s.p[at + n] != '.') n++;
        str part = {s.p + at, n};
        i64 i;
        bool number = n && n < 19 && strspn(part.p, "0123456789") >= n && str_i64(part, &i);
        v = chat_at(ev, v, number ? chat_int(i) : chat_string_part(ev, path, at, at + n), SYM_NONE);
        if (v.kind == V_UNDEFINED && otherwise.kind != V_MISSING) v = otherwise;
        at += n + 1;
    }
    return v;
}

/* Python's rules for from:to:step over n items: the first index and how many */
static i64 slice_range(const chat_value part[3], i64 n, i64 step, i64 *first)
{
    i64 from = step > 0 ? 0 : n - 1, to = step > 0 ? n : -1, v;
    i64 low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
    if (chat_integer(part[0], &v)) from = v < 0 ? i64_max(v + n, low) : i64_min(v, high);
    if (chat_integer(part[1], &v)) to = v < 0 ? i64_max(v + n, low) : i64_min(v, high);
    *first = from;
    if (step > 0) return to > from ? (to - from - 1) / step + 1 : 0;
    return from > to ? (from - to - 1) / -step + 1 : 0;
}

static chat_value slice(chat_eval *ev, chat_value v, const chat_value part[3])
{
    i64 step = 1, first, n;
    chat_need_defined(ev, v);
    for (int i = 0; i < 3; i++)
        if (part[i].kind != V_NONE && !chat_integer(part[i], &n))
            return chat_fail(ev, "the parts of a slice are integers, %s found", chat_kind_name(part[i]));
    if (chat_integer(part[2], &n)) step = n;
    if (!step || step == INT64_MIN) return chat_fail(ev, "the step of a slice cannot be %lld", (long long)step);
    bool list = v.kind == V_LIST && (v.list->flavour <= LIST_TUPLE || v.list->flavour == LIST_RANGE);
    if (v.kind != V_STRING && !list) return chat_fail(ev, "%s cannot be sliced", chat_kind_name(v));
    n = slice_range(part, chat_length(ev, v), step, &first);
    if (v.kind == V_STRING && step == 1) {
        if (!chat_step(ev, v.s->n / 16)) return nothing();
        usize from = utf8_offset(chat_bytes(v), (usize)first);
        str rest = {v.s->p + from, v.s->n - from};
        return chat_string_part(ev, v, from, from + utf8_offset(rest, (usize)n));
    }
    const chat_list *all = chat_iterate(ev, v);
    chat_list *l = chat_list_new(ev, (usize)n, v.kind == V_LIST ? v.list->flavour : LIST_PLAIN);
    for (i64 i = 0; i < n && !ev->bad.code; i++) chat_list_push(ev, l, all->item[first + i * step]);
    return v.kind == V_LIST ? chat_list_value(l, v.from) : chat_join(ev, chat_string_lit(ev, ""), l, true);
}

/* ---- arithmetic ---- */
static chat_value cannot(chat_eval *ev, const char *op, chat_value a, chat_value b)
{
    chat_need_defined(ev, a);
    chat_need_defined(ev, b);
    return chat_fail(ev, "'%s' is not possible with %s and %s", op, chat_kind_name(a), chat_kind_name(b));
}

chat_value chat_add(chat_eval *ev, chat_value a, chat_value b)
{
    i64 i, j;
    double x, y;
    if (a.kind == V_STRING && b.kind == V_STRING) {
        bool markup = a.s->markup || b.s->markup;
        if (markup) {
            a = chat_escape(ev, a);
            b = chat_escape(ev, b);
        }
        chat_build t = {0};
        if (ev->bad.code) return nothing();
        chat_put_value(&t, ev, a);
        chat_put_value(&t, ev, b);
        return chat_built(&t, ev, a.from, markup);
    }
    if (chat_integer(a, &i) && chat_integer(b, &j)) {
        i64 sum;
        return __builtin_add_overflow(i, j, &sum) ? chat_fail(ev, "the sum does not fit 64 bits") : chat_int(sum);
    }
    if (chat_number(a, &x) && chat_number(b, &y)) return chat_float(x + y);
    if (a.kind == V_LIST && b.kind == V_LIST && a.list->flavour == b.list->flavour && a.list->flavour <= LIST_TUPLE) {
        chat_list *l = chat_list_new(ev, (usize)a.list->n + b.list->n, a.list->flavour);
        for (u32 k = 0; k < a.list->n; k++) chat_list_push(ev, l, a.list->item[k]);
        for (u32 k = 0; k < b.list->n; k++) chat_list_push(ev, l, b.list->item[k]);
        return chat_list_value(l, a.from);
    }
    return cannot(ev, "+", a, b);
}

static chat_value repeat(chat_eval *ev, chat_value v, i64 count)
{
    i64 n = v.kind == V_STRING ? v.s->n : v.list->n;
    if (count < 0 || !n) count = 0;
    if (!chat_step(ev, (usize)count) || !chat_step(ev, (usize)count * (usize)i64_min(n, 1 << 20) / 32)) return nothing();
    chat_build b = {0};
    chat_list *l = v.kind == V_LIST ? chat_list_new(ev, 0, v.list->flavour) : NULL;
    for (i64 i = 0; i < count && !ev->bad.code; i++) {
        if (!l) chat_put_value(&b, ev, v);
        for (i64 k = 0; l && k < n; k++) chat_list_push(ev, l, v.list->item[k]);
    }
    return l ? chat_list_value(l, v.from) : chat_built(&b, ev, v.from, v.s->markup);
}

static chat_value integer_op(chat_eval *ev, chat_op op, i64 a, i64 b)
{
    i64 r = 0, left = b;
    bool big = false;
    if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && !b) return chat_fail(ev, "division by zero");
    switch (op) {
    case OP_SUB: big = __builtin_sub_overflow(a, b, &r); break;
    case OP_MUL: big = __builtin_mul_overflow(a, b, &r); break;
    case OP_DIV: return chat_float((double)a / (double)b);
    case OP_FLOORDIV:
    case OP_MOD: /* the quotient goes down, the remainder has the sign of b */
        if (b == -1) {
            big = op == OP_FLOORDIV && __builtin_sub_overflow((i64)0, a, &r);
            break;
        }
        r = a % b;
        if (r && (r < 0) != (b < 0)) r += b;
        if (op == OP_FLOORDIV) r = a / b - (a % b && (a % b < 0) != (b < 0));
        break;
    default: /* power: by squaring, as long as it fits */
        if (b < 0) return a ? chat_float(pow((double)a, (double)b)) : chat_fail(ev, "division by zero");
        for (r = 1; left && !big; left >>= 1) {
            if (left & 1) big |= __builtin_mul_overflow(r, a, &r);
            if (left > 1) big |= __builtin_mul_overflow(a, a, &a);
        }
    }
    return big ? chat_fail(ev, "the result does not fit 64 bits") : chat_int(r);
}

static chat_value float_op(chat_eval *ev, chat_op op, double a, double b)
{
    if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && b == 0) return chat_fail(ev, "division by zero");
    double m = op == OP_MOD || op == OP_FLOORDIV ? fmod(a, b) : 0;
    if (m != 0 && (m < 0) != (b < 0)) m += b;
    if (m == 0) m = copysign(0, b);
    switch (op) {
    case OP_SUB: return chat_float(a - b);
    case OP_MUL: return chat_float(a * b);
    case OP_DIV: return chat_float(a / b);
    case OP_FLOORDIV: {
        double q = (a - m) / b, whole = floor(q);
        return chat_float(q == 0 ? copysign(0, a / b) : q - whole > 0.5 ? whole + 1 : whole);
    }
    case OP_MOD: return chat_float(m);
    default:
        if (a == 0 && b < 0) return chat_fail(ev, "zero to a negative power");
        m = pow(a, b);
        if ((isinf(m) && !isinf(a) && !isinf(b)) || (isnan(m) && !isnan(a) && !isnan(b)))
            return chat_fail(ev, "the power is not a number that fits");
        return chat_float(m);
    }
}

static chat_value binary(chat_eval *ev, chat_op op, chat_value a, chat_value b)
{
    static const char *const sign[] = {
        [OP_SUB] = "-", [OP_MUL] = "*", [OP_DIV] = "/", [OP_FLOORDIV] = "//", [OP_MOD] = "%", [OP_POW] = "**"};
    i64 i, j;
    double x, y;
    if (ev->bad.code) return nothing();
    if (op == OP_ADD) return chat_add(ev, a, b);
    if (chat_integer(a, &i) && chat_integer(b, &j)) return integer_op(ev, op, i, j);
    if (chat_number(a, &x) && chat_number(b, &y)) return float_op(ev, op, x, y);
    bool repeats = op == OP_MUL, list_a = a.kind == V_STRING || (a.kind == V_LIST && a.list->flavour <= LIST_TUPLE);
    bool list_b = b.kind == V_STRING || (b.kind == V_LIST && b.list->flavour <= LIST_TUPLE);
    if (repeats && list_a && chat_integer(b, &j)) return repeat(ev, a, j);
    if (repeats && list_b && chat_integer(a, &i)) return repeat(ev, b, i);
    if (op == OP_MOD && a.kind == V_STRING) {
        bool tuple = b.kind == V_LIST && b.list->flavour == LIST_TUPLE;
        bool lookup = (b.kind == V_LIST && (b.list->flavour <= LIST_TUPLE || b.list->flavour == LIST_RANGE)) ||
                      b.kind == V_DICT || b.kind == V_UNDEFINED; /* what could be one may stay unused */
        return chat_format(ev, a, &(chat_args){.arg = tuple ? b.list->item : &b, .n = tuple ? b.list->n : 1}, !tuple && lookup);
    }
    return cannot(ev, sign[op], a, b);
}

static bool compare(chat_eval *ev, chat_op op, chat_value a, chat_value b)
{
    switch (op) {
    case OP_EQ: return chat_equal(ev, a, b);
    case OP_NE: return !chat_equal(ev, a, b);
    case OP_LT: return chat_order(ev, a, b) < 0;
    case OP_LE: return chat_order(ev, a, b) <= 0;
    case OP_GT: return chat_order(ev, a, b) > 0;
    case OP_GE: return chat_order(ev, a, b) >= 0;
    case OP_IN: return chat_contains(ev, b, a);
    default: return !chat_contains(ev, b, a);
    }
}

/* ---- calls ---- */
static chat_keyword *more_keywords(chat_eval *ev, chat_args *a, u32 more)
{
    chat_keyword *kw = chat_take(ev, ((usize)a->n_kw + more) * sizeof *kw);
    if (kw && a->n_kw) memcpy(kw, a->kw, a->n_kw * sizeof *kw);
    if (kw) a->kw = kw;
    return kw;
}

/* kid[1..] of a call, filter or test */
static chat_args arguments(chat_eval *ev, const chat_node *n)
{
    chat_args a = {0};
    if (n->n_kid < 2) return a;
    chat_list *l = chat_list_new(ev, n->n_kid - 1, LIST_PLAIN);
    for (u32 i = 1; i < n->n_kid && !ev->bad.code; i++) {
        const chat_node *k = n->kid[i];
        bool inner = k->kind == N_KEYWORD || k->kind == N_STAR || k->kind == N_STARS;
        chat_value v = chat_evaluate(ev, inner ? k->kid[0] : k);
        if (ev->bad.code) break;
        if (k->kind == N_STAR) {
            const chat_list *all = chat_iterate(ev, v);
            for (u32 j = 0; j < all->n; j++) chat_list_push(ev, l, all->item[j]);
        } else if (k->kind == N_STARS) {
            if (v.kind != V_DICT) chat_fail(ev, "** needs a mapping, %s found", chat_kind_name(v));
            chat_keyword *kw = v.kind == V_DICT ? more_keywords(ev, &a, v.dict->n) : NULL;
            for (u32 j = 0; kw && j < v.dict->n; j++)
                kw[a.n_kw++] = (chat_keyword){chat_bytes(v.dict->pair[j].key), v.dict->pair[j].value};
        } else if (k->kind == N_KEYWORD) {
            chat_keyword *kw = more_keywords(ev, &a, 1);
            if (kw) kw[a.n_kw++] = (chat_keyword){ev->t->symbol[k->name].text, v};
        } else {
            chat_list_push(ev, l, v);
        }
    }
    a.arg = l->item;
    a.n = l->n;
    return a;
}

/* the position of `name` in "first second third", or -1 */
static int parameter(const char *params, str name)
{
    int i = 0;
    for (const char *at = params; *at; i++) {
        usize n = strcspn(at, " ");
        if (str_eq(name, (str){at, n})) return i;
        at += n + (at[n] == ' ');
    }
    return -1;
}

enum { MAX_PARAM = 6 };
static bool bind_arguments(chat_eval *ev, const chat_builtin *row, const chat_args *a, chat_value slot[MAX_PARAM], u32 *n_param)
{
    u32 n = *row->params != 0;
    for (const char *c = row->params; *c; c++) n += *c == ' ';
    *n_param = n;
    if (a->n > n) {
        chat_fail(ev, "at most %u arguments expected, %u given", n, a->n);
        return false;
    }
    for (u32 i = 0; i < n; i++) slot[i] = i < a->n ? a->arg[i] : (chat_value){.kind = V_MISSING};
    for (u32 i = 0; i < a->n_kw; i++) {
        int at = parameter(row->params, a->kw[i].name);
        if (at < 0 || slot[at].kind != V_MISSING) {
            chat_fail(ev, at < 0 ? "no argument is called '%.*s'" : "argument '%.*s' was given twice",
                      (int)i64_min((i64)a->kw[i].name.n, 80), a->kw[i].name.p);
            return false;
        }
        slot[at] = a->kw[i].value;
    }
    for (int i = 0; i < row->n_required; i++)
        if (slot[i].kind == V_MISSING) {
            chat_fail(ev, "%d arguments (%s) expected, %u given", row->n_required, row->params, a->n + a->n_kw);
            return false;
        }
    return true;
}

chat_value chat_builtin_call(chat_eval *ev, const chat_builtin *row, const char *what, chat_value self, const chat_args *a)
{
    const char *old_what = ev->what, *old_name = ev->name;
    chat_value slot[MAX_PARAM], out = nothing();
    chat_args bound = {.arg = slot};
    if (!chat_enter(ev)) goto end;
    ev->what = what;
    ev->name = row->name;
    if (!row->params)
        out = row->fn(ev, self, a);
    else if (bind_arguments(ev, row, a, slot, &bound.n))
        out = row->fn(ev, self, &bound);
    ev->what = old_what;
    ev->name = old_name;
end:
    chat_leave(ev);
    return ev->bad.code ? nothing() : out;
}

chat_value chat_call(chat_eval *ev, chat_value callee, const chat_args *a)
{
    chat_need_defined(ev, callee);
    if (ev->bad.code) return nothing();
    if (callee.kind == V_CALLABLE) return chat_builtin_call(ev, callee.fn->row, callee.fn->what, callee.fn->self, a);
    if (callee.kind == V_MACRO) return chat_macro_call(ev, callee.macro, a);
    if (callee.kind == V_LOOP) return chat_loop_call(ev, callee.loop, a);
    return chat_fail(ev, "%s cannot be called", chat_kind_name(callee));
}

static chat_value apply(chat_eval *ev, const chat_node *n, const char *what, chat_value v)
{
    if (!n->row) return chat_fail(ev, "%s '%s' is not known", what, ev->t->symbol[n->name].text.p);
    chat_args a = arguments(ev, n);
    if (ev->bad.code) return nothing();
    return chat_builtin_call(ev, n->row, what, v, &a);
}

chat_value chat_filter_apply(chat_eval *ev, const chat_node *filter, chat_value v)
{
    if (filter->kid[0]) v = chat_filter_apply(ev, filter->kid[0], v);
    u32 line = ev->line;
    ev->line = filter->line;
    v = apply(ev, filter, "filter", v);
    ev->line = line;
    return v;
}

/* ---- the walk ---- */
static chat_value collect(chat_eval *ev, const chat_node *n)
{
    chat_list *l = chat_list_new(ev, n->n_kid, n->kind == N_TUPLE ? LIST_TUPLE : LIST_PLAIN);
    for (u32 i = 0; i < n->n_kid && !ev->bad.code; i++) chat_list_push(ev, l, chat_evaluate(ev, n->kid[i]));
    return chat_list_value(l, CHAT_LITERAL);
}

static chat_value collect_pairs(chat_eval *ev, const chat_node *n)
{
    chat_dict *d = chat_dict_new(ev);
    for (u32 i = 0; i + 1 < n->n_kid && !ev->bad.code; i += 2) {
        chat_value key = chat_evaluate(ev, n->kid[i]);
        chat_dict_put(ev, d, key, chat_evaluate(ev, n->kid[i + 1]));
    }
    return chat_dict_value(d, CHAT_LITERAL);
}

static chat_value concatenate(chat_eval *ev, const chat_node *n)
{
    chat_build b = {0};
    for (u32 i = 0; i < n->n_kid && !ev->bad.code; i++) chat_put_value(&b, ev, chat_evaluate(ev, n->kid[i]));
    return chat_built(&b, ev, CHAT_LITERAL, false);
}

static chat_value comparison(chat_eval *ev, const chat_node *n)
{
    chat_value left = chat_evaluate(ev, n->kid[0]);
    for (u32 i = 1; i < n->n_kid && !ev->bad.code; i++) {
        chat_value right = chat_evaluate(ev, n->kid[i]);
        if (ev->bad.code) return nothing();
        if (!compare(ev, n->ops[i - 1], left, right)) return chat_bool(false);
        left = right;
    }
    return chat_bool(true);
}

static chat_value sign(chat_eval *ev, bool minus, chat_value v)
{
    i64 i;
    if (ev->bad.code) return nothing();
    if (chat_integer(v, &i)) return minus ? integer_op(ev, OP_SUB, 0, i) : chat_int(i);
    if (v.kind == V_FLOAT) return chat_float(minus ? -v.f : v.f);
    chat_need_defined(ev, v);
    return chat_fail(ev, "%s has no sign", chat_kind_name(v));
}

chat_value chat_call_node(chat_eval *ev, const chat_node *n, const chat_value *caller)
{
    chat_value callee = chat_evaluate(ev, n->kid[0]);
    if (ev->bad.code) return nothing();
    chat_args a = arguments(ev, n);
    chat_keyword *kw = caller ? more_keywords(ev, &a, 1) : NULL;
    if (kw) kw[a.n_kw++] = (chat_keyword){S("caller"), *caller};
    return ev->bad.code ? nothing() : chat_call(ev, callee, &a);
}

static chat_value slice_node(chat_eval *ev, const chat_node *n)
{
    chat_value v = chat_evaluate(ev, n->kid[0]), part[3];
    for (int i = 0; i < 3; i++) part[i] = n->kid[i + 1] ? chat_evaluate(ev, n->kid[i + 1]) : chat_none();
    return ev->bad.code ? nothing() : slice(ev, v, part);
}

static chat_value item_node(chat_eval *ev, const chat_node *n)
{
    chat_value v = chat_evaluate(ev, n->kid[0]);
    return chat_at(ev, v, n->name ? n->kid[1]->value : chat_evaluate(ev, n->kid[1]), n->name);
}

static chat_value evaluate(chat_eval *ev, const chat_node *n)
{
    chat_value v;
    switch (n->kind) {
    case N_CONST: return n->value;
    case N_NAME: return chat_lookup(ev, n->name);
    case N_LIST:
    case N_TUPLE: return collect(ev, n);
    case N_DICT: return collect_pairs(ev, n);
    case N_ATTR:
        v = chat_evaluate(ev, n->kid[0]);
        return chat_member(ev, v, ev->t->symbol[n->name].text, ev->t->symbol[n->name].hash, n->name);
    case N_ITEM: return item_node(ev, n);
    case N_SLICE: return slice_node(ev, n);
    case N_CALL: return chat_call_node(ev, n, NULL);
    case N_FILTER: return apply(ev, n, "filter", chat_evaluate(ev, n->kid[0]));
    case N_TEST: return apply(ev, n, "test", chat_evaluate(ev, n->kid[0]));
    case N_NOT: return chat_bool(!chat_truth(chat_evaluate(ev, n->kid[0])));
    case N_NEG:
    case N_POS: return sign(ev, n->kind == N_NEG, chat_evaluate(ev, n->kid[0]));
    case N_BINARY: v = chat_evaluate(ev, n->kid[0]); return binary(ev, n->op, v, chat_evaluate(ev, n->kid[1]));
    case N_COMPARE: return comparison(ev, n);
    case N_CONCAT: return concatenate(ev, n);
    case N_AND: v = chat_evaluate(ev, n->kid[0]); return chat_truth(v) ? chat_evaluate(ev, n->kid[1]) : v;
    case N_OR: v = chat_evaluate(ev, n->kid[0]); return chat_truth(v) ? v : chat_evaluate(ev, n->kid[1]);
    case N_COND:
        if (chat_truth(chat_evaluate(ev, n->kid[0]))) return chat_evaluate(ev, n->kid[1]);
        return n->kid[2] ? chat_evaluate(ev, n->kid[2]) : chat_undefined(UNDEF_ELSE, SYM_NONE, 0);
    default: return chat_fail(ev, "unexpected construct");
    }
}

chat_value chat_evaluate(chat_eval *ev, const chat_node *n)
{
    chat_value v = nothing();
    u32 line = ev->line;
    if (chat_enter(ev) && chat_step(ev, 1)) {
        ev->line = n->line;
        v = evaluate(ev, n);
        ev->line = line;
    }
    chat_leave(ev);
    return ev->bad.code ? nothing() : v;
}
