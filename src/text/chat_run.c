/* Chat templates: statements.
 *
 * Scopes are a chain. Writing goes to the innermost scope, reading goes outwards: this is what Jinja's static analysis comes
 * to for templates without imports. A loop gives every round a fresh scope (what a round sets is forgotten by the next, the
 * reason why templates use namespaces), `if` gives none, macros see the scope they were defined in.
 *
 * The `if` of a for loop is tested lazily, item by item, because the body may change a namespace that the test reads;
 * loop.last looks one ahead, loop.length all the way, as in Jinja. */
#include "text/chat.h"

/* ---- scopes ---- */
chat_value chat_lookup(chat_eval *ev, u32 name)
{
    for (const chat_scope *s = ev->scope; s && chat_step(ev, s->n / 16); s = s->up)
        for (u32 i = 0; i < s->n; i++)
            if (s->bind[i].name == name) return s->bind[i].value;
    chat_value v = ev->root[name];
    return v.kind == V_MISSING ? chat_undefined(UNDEF_NAME, name, 0) : v;
}

void chat_bind(chat_eval *ev, u32 name, chat_value v)
{
    chat_scope *s = ev->scope;
    if (!chat_step(ev, s ? s->n / 16 : 0)) return;
    if (!s) {
        ev->root[name] = v;
        return;
    }
    for (u32 i = 0; i < s->n; i++)
        if (s->bind[i].name == name) {
            s->bind[i].value = v;
            return;
        }
    if (s->n == s->cap) {
        u32 cap = s->cap ? 2 * s->cap : 4;
        chat_binding *bind = chat_take(ev, cap * sizeof *bind);
        if (!bind) return;
        if (s->n) memcpy(bind, s->bind, s->n * sizeof *bind);
        s->bind = bind;
        s->cap = cap;
    }
    s->bind[s->n++] = (chat_binding){name, v};
}

/* a scope inside `up` becomes the innermost; false: there is an error and nothing changed */
static bool open_scope(chat_eval *ev, chat_scope *up)
{
    chat_scope *s = chat_take(ev, sizeof *s);
    if (!s) return false;
    s->up = up;
    ev->scope = s;
    return true;
}

static void assign(chat_eval *ev, const chat_node *target, chat_value v)
{
    if (ev->bad.code) return;
    if (target->kind == N_NAME) {
        chat_bind(ev, target->name, v);
    } else if (target->kind == N_TUPLE) {
        const chat_list *l = chat_iterate(ev, v);
        if (l->n != target->n_kid) chat_fail(ev, "%u values found, %u expected to be unpacked", l->n, target->n_kid);
        for (u32 i = 0; i < target->n_kid && !ev->bad.code; i++) assign(ev, target->kid[i], l->item[i]);
    } else if (target->kind == N_ATTR) {
        const chat_symbol *name = &ev->t->symbol[target->name];
        chat_value space = chat_evaluate(ev, target->kid[0]);
        if (space.kind != V_NAMESPACE) {
            chat_fail(ev, "'.%s' can be set in a namespace only, not in %s", name->text.p, chat_kind_name(space));
            return;
        }
        if (str_starts(name->text, S("_"))) chat_fail(ev, "a name in a namespace cannot begin with '_'");
        if (ev->bad.code) return;
        chat_value *old = chat_dict_get(space.dict, name->text, name->hash);
        if (old)
            *old = v;
        else
            chat_dict_put(ev, space.dict, chat_string_new(ev, name->text, CHAT_LITERAL), v);
    } else {
        chat_fail(ev, "this cannot be assigned to");
    }
}

/* what executing `body` writes, as a string */
static chat_value capture(chat_eval *ev, const chat_node *body, chat_flow *flow)
{
    chat_build b = {0}, *out = ev->out;
    ev->out = &b;
    *flow = chat_execute(ev, body);
    ev->out = out;
    return chat_built(&b, ev, CHAT_LITERAL, false);
}

/* ---- loops ---- */
static bool passes(chat_eval *ev, chat_loop *l, u32 i)
{
    if (!l->test) return true;
    if (!l->pass[i]) {
        chat_scope *scope = ev->scope;
        u32 line = ev->line;
        ev->scope = l->tried;
        l->tried->n = 0;
        assign(ev, l->target, l->list->item[i]);
        l->pass[i] = chat_truth(chat_evaluate(ev, l->test)) ? 1 : 2;
        ev->scope = scope;
        ev->line = line;
    }
    return l->pass[i] == 1;
}

/* the first item from `i` on that takes part in the loop, or list->n */
static u32 find_item(chat_eval *ev, chat_loop *l, u32 i)
{
    while (i < l->list->n && !passes(ev, l, i) && chat_step(ev, 1)) i++;
    return ev->bad.code ? l->list->n : i;
}

static i64 loop_length(chat_eval *ev, chat_loop *l)
{
    i64 n = 0;
    if (!l->test) return l->list->n;
    for (u32 i = find_item(ev, l, 0); i < l->list->n && chat_step(ev, 1); i = find_item(ev, l, i + 1)) n++;
    return n;
}

chat_value chat_loop_member(chat_eval *ev, chat_loop *l, str name)
{
    if (str_eq(name, S("index"))) return chat_int((i64)l->index0 + 1);
    if (str_eq(name, S("index0"))) return chat_int(l->index0);
    if (str_eq(name, S("first"))) return chat_bool(l->index0 == 0);
    if (str_eq(name, S("last"))) return chat_bool(find_item(ev, l, l->at + 1) == l->list->n);
    if (str_eq(name, S("length"))) return chat_int(loop_length(ev, l));
    if (str_eq(name, S("revindex"))) return chat_int(loop_length(ev, l) - l->index0);
    if (str_eq(name, S("revindex0"))) return chat_int(loop_length(ev, l) - l->index0 - 1);
    if (str_eq(name, S("depth"))) return chat_int((i64)l->depth0 + 1);
    if (str_eq(name, S("depth0"))) return chat_int(l->depth0);
    if (str_eq(name, S("previtem"))) return l->index0 ? l->list->item[l->before] : chat_undefined(UNDEF_EDGE, SYM_NONE, 0);
    if (str_eq(name, S("nextitem"))) {
        u32 i = find_item(ev, l, l->at + 1);
        return i < l->list->n ? l->list->item[i] : chat_undefined(UNDEF_EDGE, SYM_NONE, 0);
    }
    return (chat_value){.kind = V_MISSING};
}

static chat_loop *loop_new(chat_eval *ev, const chat_node *n, chat_value items, u32 depth0)
{
    chat_list *list = chat_iterate(ev, items);
    chat_loop *l = chat_take(ev, sizeof *l);
    if (!l) return NULL;
    *l = (chat_loop){.list = list,
                     .node = n,
                     .target = n->kid[0],
                     .test = n->kid[2],
                     .outer = ev->scope,
                     .depth0 = depth0,
                     .changed = {.kind = V_MISSING}};
    if (l->test) {
        l->pass = chat_take(ev, list->n + 1);
        l->tried = chat_take(ev, sizeof *l->tried);
        if (!l->tried) return NULL;
        l->tried->up = ev->scope;
    }
    return l;
}

static void capture_scopes(chat_scope *s)
{
    for (; s && !s->captured; s = s->up) s->captured = true;
}

static chat_flow run_rounds(chat_eval *ev, const chat_node *n, chat_value items, u32 depth0)
{
    chat_scope *outer = ev->scope, *inner = NULL;
    chat_flow flow = FLOW_ON;
    chat_loop *l = loop_new(ev, n, items, depth0);
    if (!l) return FLOW_ON;
    u32 rounds = 0;
    bool complete = false; /* some round came to its end: as in Jinja, one left by break or continue does not forbid the else */
    if (n->flags) capture_scopes(outer);
    for (u32 i = find_item(ev, l, 0); i < l->list->n && chat_step(ev, 1); i = find_item(ev, l, i + 1)) {
        if (!inner || inner->captured) {
            if (!open_scope(ev, outer)) break;
            inner = ev->scope;
        }
        inner->n = 0;
        ev->scope = inner;
        l->before = l->at;
        l->at = i;
        l->index0 = rounds++;
        assign(ev, n->kid[0], l->list->item[i]);
        chat_bind(ev, SYM_LOOP, (chat_value){.kind = V_LOOP, .from = CHAT_LITERAL, .loop = l});
        flow = chat_execute(ev, n->kid[3]);
        ev->scope = outer;
        complete |= flow == FLOW_ON;
        if (flow == FLOW_BREAK) break;
    }
    if (!complete && n->kid[4] && open_scope(ev, outer)) {
        flow = chat_execute(ev, n->kid[4]);
        ev->scope = outer;
        return flow;
    }
    return FLOW_ON;
}

static chat_flow run_for(chat_eval *ev, const chat_node *n)
{
    const chat_node *inside = ev->inside;
    chat_value items = chat_evaluate(ev, n->kid[1]);
    ev->line = n->line;
    ev->inside = n;
    chat_flow flow = ev->bad.code ? FLOW_ON : run_rounds(ev, n, items, 0);
    ev->inside = inside;
    return flow;
}

chat_value chat_loop_call(chat_eval *ev, chat_loop *l, const chat_args *a)
{
    chat_scope *scope = ev->scope;
    const chat_node *inside = ev->inside;
    const char *what = ev->what;
    chat_build b = {0}, *out = ev->out;
    u32 line = ev->line;
    if (!l->node->flags) return chat_fail(ev, "a loop can be called only if it is marked 'recursive'");
    if (a->n + a->n_kw != 1) return chat_fail(ev, "loop(...) takes one argument, %u given", a->n + a->n_kw);
    if (chat_enter(ev)) {
        ev->what = NULL;
        ev->scope = l->outer;
        ev->inside = l->node;
        ev->out = &b;
        run_rounds(ev, l->node, a->n ? a->arg[0] : a->kw[0].value, l->depth0 + 1);
        ev->out = out;
        ev->inside = inside;
        ev->scope = scope;
        ev->what = what;
        ev->line = line;
    }
    chat_leave(ev);
    return chat_built(&b, ev, CHAT_LITERAL, false);
}

/* ---- macros ---- */
static chat_value macro_value(chat_eval *ev, const chat_node *n)
{
    chat_macro *m = chat_take(ev, sizeof *m);
    if (!m) return chat_none();
    *m = (chat_macro){n, ev->scope};
    capture_scopes(ev->scope);
    return (chat_value){.kind = V_MACRO, .from = CHAT_LITERAL, .macro = m};
}

static const chat_value *keyword(const chat_args *a, str name)
{
    for (u32 i = 0; i < a->n_kw; i++)
        if (str_eq(a->kw[i].name, name)) return &a->kw[i].value;
    return NULL;
}

/* arguments that no parameter takes: for varargs and kwargs, or an error */
static void bind_rest(chat_eval *ev, const chat_node *n, const chat_args *a)
{
    u32 n_param = n->n_kid - 1;
    const char *name = ev->t->symbol[n->name].text.p;
    chat_list *rest = n->flags & MACRO_VARARGS ? chat_list_new(ev, 0, LIST_TUPLE) : NULL;
    chat_dict *named = n->flags & MACRO_KWARGS ? chat_dict_new(ev) : NULL;
    if (a->n > n_param && !rest) chat_fail(ev, "macro '%s' takes at most %u arguments, %u given", name, n_param, a->n);
    for (u32 i = n_param; rest && i < a->n; i++) chat_list_push(ev, rest, a->arg[i]);
    for (u32 i = 0; i < a->n_kw && !ev->bad.code; i++) {
        str key = a->kw[i].name;
        u32 p = 0;
        while (p < n_param && !str_eq(ev->t->symbol[n->param[p]].text, key)) p++;
        if (p < n_param && p >= a->n) continue;
        if (str_eq(key, S("caller")) && n->flags & MACRO_CALLER) continue;
        if (named && p == n_param)
            chat_dict_put(ev, named, chat_string_new(ev, key, CHAT_LITERAL), a->kw[i].value);
        else
            chat_fail(ev, "macro '%s' takes no argument '%.*s'", name, (int)i64_min((i64)key.n, 80), key.p);
    }
    if (rest) chat_bind(ev, SYM_VARARGS, chat_list_value(rest, CHAT_LITERAL));
    if (named) chat_bind(ev, SYM_KWARGS, chat_dict_value(named, CHAT_LITERAL));
    if (n->flags & MACRO_CALLER) {
        const chat_value *caller = keyword(a, S("caller"));
        chat_bind(ev, SYM_CALLER, caller ? *caller : chat_undefined(UNDEF_ARGUMENT, SYM_CALLER, 0));
    }
}

static void bind_parameters(chat_eval *ev, const chat_node *n, const chat_args *a)
{
    bind_rest(ev, n, a);
    for (u32 i = 0; i + 1 < n->n_kid && !ev->bad.code; i++) {
        const chat_value *kw = keyword(a, ev->t->symbol[n->param[i]].text);
        chat_value v = i < a->n ? a->arg[i] : kw ? *kw : (chat_value){.kind = V_MISSING};
        if (v.kind == V_MISSING)
            v = n->kid[i + 1] ? chat_evaluate(ev, n->kid[i + 1]) : chat_undefined(UNDEF_ARGUMENT, n->param[i], 0);
        chat_bind(ev, n->param[i], v);
    }
}

chat_value chat_macro_call(chat_eval *ev, const chat_macro *m, const chat_args *a)
{
    chat_scope *scope = ev->scope;
    const chat_node *inside = ev->inside;
    const char *what = ev->what;
    u32 line = ev->line;
    chat_flow flow;
    chat_value v = chat_undefined(UNDEF_NAME, SYM_NONE, 0);
    if (chat_enter(ev) && open_scope(ev, m->scope)) {
        ev->what = NULL;
        ev->inside = m->node;
        bind_parameters(ev, m->node, a);
        v = capture(ev, m->node->kid[0], &flow);
    }
    ev->scope = scope;
    ev->inside = inside;
    ev->what = what;
    ev->line = line;
    chat_leave(ev);
    return v;
}

/* ---- the others ---- */
static chat_flow run_if(chat_eval *ev, const chat_node *n)
{
    for (u32 i = 0; i + 1 < n->n_kid && !ev->bad.code; i += 2)
        if (!n->kid[i] || chat_truth(chat_evaluate(ev, n->kid[i]))) return chat_execute(ev, n->kid[i + 1]);
    return FLOW_ON;
}

/* a body with a scope of its own; its text goes to the output, or with `text` into it. What a block wrote before it was left
 * by break or continue is lost, as in Jinja. */
static chat_flow run_inside(chat_eval *ev, const chat_node *body, chat_scope *up, chat_value *text)
{
    chat_scope *outer = ev->scope;
    chat_flow flow = FLOW_ON;
    if (!open_scope(ev, up)) return FLOW_ON;
    if (text)
        *text = capture(ev, body, &flow);
    else
        flow = chat_execute(ev, body);
    ev->scope = outer;
    return flow;
}

static chat_flow run_with(chat_eval *ev, const chat_node *n)
{
    chat_scope *outer = ev->scope;
    chat_list *l = chat_list_new(ev, n->n_kid, LIST_PLAIN);
    for (u32 i = 2; i < n->n_kid && !ev->bad.code; i += 2) chat_list_push(ev, l, chat_evaluate(ev, n->kid[i]));
    if (ev->bad.code || !open_scope(ev, outer)) return FLOW_ON;
    for (u32 i = 0; i < l->n; i++) assign(ev, n->kid[1 + 2 * i], l->item[i]);
    chat_flow flow = chat_execute(ev, n->kid[0]);
    ev->scope = outer;
    return flow;
}

static chat_flow run(chat_eval *ev, const chat_node *n)
{
    chat_value v = chat_undefined(UNDEF_NAME, SYM_NONE, 0);
    chat_flow flow = FLOW_ON;
    switch (n->kind) {
    case N_BLOCK:
        for (u32 i = 0; i < n->n_kid && flow == FLOW_ON && !ev->bad.code; i++) flow = chat_execute(ev, n->kid[i]);
        return flow;
    case N_TEXT: chat_put_value(ev->out, ev, n->value); return FLOW_ON;
    case N_OUTPUT:
        v = chat_evaluate(ev, n->kid[0]);
        chat_put_value(ev->out, ev, v);
        return FLOW_ON;
    case N_IF: return run_if(ev, n);
    case N_FOR: return run_for(ev, n);
    case N_SET: assign(ev, n->kid[0], chat_evaluate(ev, n->kid[1])); return FLOW_ON;
    case N_SET_BLOCK:
        flow = run_inside(ev, n->kid[2], ev->scope, &v);
        if (flow != FLOW_ON) return flow;
        if (n->kid[1]) v = chat_filter_apply(ev, n->kid[1], v);
        assign(ev, n->kid[0], v);
        return FLOW_ON;
    case N_MACRO: chat_bind(ev, n->name, macro_value(ev, n)); return FLOW_ON;
    case N_CALL_BLOCK:
        v = macro_value(ev, n->kid[1]);
        v = chat_call_node(ev, n->kid[0], &v);
        chat_put_value(ev->out, ev, v);
        return FLOW_ON;
    case N_FILTER_BLOCK:
        flow = run_inside(ev, n->kid[1], ev->scope, &v);
        if (flow != FLOW_ON) return flow;
        v = chat_filter_apply(ev, n->kid[0], v);
        chat_put_value(ev->out, ev, v);
        return FLOW_ON;
    case N_WITH: return run_with(ev, n);
    case N_SCOPE: return run_inside(ev, n->kid[0], n->flags ? NULL : ev->scope, NULL);
    case N_FAIL:
        chat_fail(ev, "tag '%s' is not supported: a chat template stands alone", ev->t->symbol[n->name].text.p);
        return FLOW_ON;
    case N_BREAK: return FLOW_BREAK;
    case N_CONTINUE: return FLOW_CONTINUE;
    default: chat_fail(ev, "unexpected construct"); return FLOW_ON;
    }
}

chat_flow chat_execute(chat_eval *ev, const chat_node *n)
{
    chat_flow flow = FLOW_ON;
    if (chat_enter(ev) && chat_step(ev, 1)) {
        ev->line = n->line;
        flow = run(ev, n);
    }
    chat_leave(ev);
    return flow;
}
