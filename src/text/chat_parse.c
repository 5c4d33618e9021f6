/* Chat templates, second step: tokens to a tree, by recursive descent with Jinja's precedences:
 * if/else, or, and, not, comparisons, + -, ~, * / // %, **, unary - +, then members, calls, filters and tests.
 *
 * Names become small numbers (symbols), filters and tests become rows of their tables here, so that a misspelt one is found
 * before the first conversation is rendered. As in Jinja a filter or test that is not known is forgiven inside an `if`,
 * where the template may have asked whether it exists: it is an error when it is reached.
 *
 * The parser is sticky: the first error is kept, every later step sees T_END. Recursion is limited by CHAT_MAX_NEST, the
 * height of the tree (long chains lean to the left without recursion here, but not in the evaluator) by CHAT_MAX_TREE.
 *
 * Not supported, because no chat template can have other files: include, import, extends, which are errors when they are reached.
 * A {% block %} stands where it is written. */
#include "text/chat.h"

typedef struct {
    chat_template *t;
    const chat_token *at; /* the current one; never past T_END */
    map *symbols;
    usize cap_symbol;
    chat_symbol *symbol; /* mem */
    usize n_symbol;
    int depth, n_loop;
    bool soft;
    u8 *macro_flags; /* of the macro being read, or NULL */
    err bad;
} parser;

static chat_node no_node = {.kind = N_CONST}; /* what failing functions return; never written to */

static const chat_token *cur(const parser *p)
{
    static const chat_token end = {.kind = T_END};
    return p->bad.code ? &end : p->at;
}

static chat_node *fail_at(parser *p, u32 line, const char *fmt, ...) PRINTF(3, 4);
static chat_node *fail_at(parser *p, u32 line, const char *fmt, ...)
{
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    text[utf8_complete(str_of(text))] = 0;
    if (!p->bad.code) p->bad = err_new(ERR_FORMAT, "template: line %u: %s", line, text);
    return &no_node;
}

static void no_memory(parser *p)
{
    if (!p->bad.code) p->bad = err_new(ERR_NOMEM, "template: out of memory");
}

static const char *describe(const chat_token *t, char out[64])
{
    static const char *const fixed[] = {[T_END] = "the end of the template",
                                        [T_TEXT] = "text",
                                        [T_OPEN_VAR] = "{{",
                                        [T_CLOSE_VAR] = "}}",
                                        [T_OPEN_BLOCK] = "{%",
                                        [T_CLOSE_BLOCK] = "%}"};
    if (t->kind <= T_CLOSE_BLOCK) return fixed[t->kind];
    usize n = utf8_complete((str){t->text.p, t->text.n > 40 ? 40 : t->text.n});
    snprintf(out, 64, "%s'%.*s'", t->kind == T_STRING ? "the string " : "", (int)n, t->text.p);
    return out;
}

static chat_node *unexpected(parser *p, const char *expected)
{
    char text[64];
    return fail_at(p, cur(p)->line, "%s found, %s expected", describe(cur(p), text), expected);
}

static void next(parser *p)
{
    if (p->at->kind != T_END) p->at++;
}
static bool is_op(const parser *p, int op) { return cur(p)->kind == T_OP && cur(p)->op == op; }
static bool is_name(const parser *p, const char *name) { return cur(p)->kind == T_NAME && str_eq(cur(p)->text, str_of(name)); }
static bool skip_op(parser *p, int op)
{
    bool yes = is_op(p, op);
    if (yes) next(p);
    return yes;
}
static bool skip_name(parser *p, const char *name)
{
    bool yes = is_name(p, name);
    if (yes) next(p);
    return yes;
}
static void expect_op(parser *p, int op)
{
    char want[] = {'\'', (char)op, '\'', 0};
    if (!skip_op(p, op)) unexpected(p, want);
}
static void expect(parser *p, chat_token_kind kind, const char *what)
{
    if (cur(p)->kind == kind)
        next(p);
    else
        unexpected(p, what);
}

static u32 symbol_of(parser *p, str text)
{
    u64 id = 0;
    if (p->bad.code || map_get(p->symbols, text, &id)) return (u32)id;
    id = p->n_symbol;
    chat_symbol s = {.text = {arena_str(p->t->a, text.p, text.n), text.n}, .hash = chat_text_hash(text)};
    if (!s.text.p || !VEC_PUSH(p->symbol, p->n_symbol, p->cap_symbol, s) || !map_put(p->symbols, text, id)) no_memory(p);
    return (u32)id;
}

static u32 take_name(parser *p, const char *what)
{
    u32 id = 0;
    if (cur(p)->kind == T_NAME) {
        id = symbol_of(p, cur(p)->text);
        next(p);
    } else {
        unexpected(p, what);
    }
    return id;
}

/* ---- nodes ---- */
static chat_node *node(parser *p, chat_node_kind kind, u32 line)
{
    chat_node *n = p->bad.code ? NULL : arena_take(p->t->a, sizeof *n);
    if (!n) {
        no_memory(p);
        return &no_node;
    }
    n->kind = (u8)kind;
    n->line = line;
    n->height = 1;
    return n;
}

static chat_node *add(parser *p, chat_node *n, chat_node *kid)
{
    if (p->bad.code) return &no_node;
    if ((n->n_kid & (n->n_kid - 1)) == 0) { /* full at 0, 1, 2, 4, 8 ... */
        chat_node **more = arena_take(p->t->a, (n->n_kid ? 2 * (usize)n->n_kid : 1) * sizeof *more);
        if (!more) {
            no_memory(p);
            return &no_node;
        }
        if (n->n_kid) memcpy(more, n->kid, n->n_kid * sizeof *more);
        n->kid = more;
    }
    n->kid[n->n_kid++] = kid;
    if (kid && kid->height >= n->height) n->height = (u16)(kid->height + 1);
    if (n->height > CHAT_MAX_TREE) return fail_at(p, n->line, "the expression or the blocks are nested too deeply");
    return n;
}

static chat_node *node1(parser *p, chat_node_kind kind, u32 line, chat_node *a) { return add(p, node(p, kind, line), a); }
static chat_node *node2(parser *p, chat_node_kind kind, u32 line, chat_node *a, chat_node *b)
{
    return add(p, node1(p, kind, line, a), b);
}

static bool enter(parser *p)
{
    if (++p->depth > CHAT_MAX_NEST) fail_at(p, cur(p)->line, "nested too deeply");
    return !p->bad.code;
}

/* ---- expressions ---- */
static chat_node *parse_condition(parser *p);
static chat_node *parse_or(parser *p);
static chat_node *parse_unary(parser *p, bool with_filter);
static chat_node *parse_primary(parser *p);
static chat_node *parse_postfix(parser *p, chat_node *n);

static bool tuple_ends(const parser *p, const char *extra)
{
    const chat_token *t = cur(p);
    return t->kind == T_END || t->kind == T_CLOSE_VAR || t->kind == T_CLOSE_BLOCK || is_op(p, ')') ||
           (extra && is_name(p, extra));
}

/* a, b, c or one expression; `empty`: nothing at all is an empty tuple (parentheses) */
static chat_node *parse_tuple(parser *p, bool conditional, bool empty, const char *end)
{
    u32 line = cur(p)->line;
    chat_node *tuple = NULL, *first = NULL;
    while (!tuple_ends(p, end)) {
        chat_node *item = conditional ? parse_condition(p) : parse_or(p);
        if (tuple)
            add(p, tuple, item);
        else
            first = item;
        if (!skip_op(p, ',')) break;
        if (!tuple) tuple = node1(p, N_TUPLE, line, first);
    }
    if (tuple) return tuple;
    if (first) return first;
    return empty ? node(p, N_TUPLE, line) : unexpected(p, "an expression");
}

static chat_node *constant(parser *p, u32 line, chat_value v)
{
    chat_node *n = node(p, N_CONST, line);
    if (n != &no_node) n->value = v;
    return n;
}

static chat_value text_value(parser *p, str text)
{
    chat_string *s = p->bad.code ? NULL : arena_take(p->t->a, sizeof *s + sizeof(chat_run));
    if (!s) {
        no_memory(p);
        return chat_none();
    }
    chat_run *run = (chat_run *)(s + 1);
    *run = (chat_run){(u32)text.n, CHAT_LITERAL};
    *s = (chat_string){text.p, (u32)text.n, text.n > 0, run, false};
    return (chat_value){.kind = V_STRING, .from = CHAT_LITERAL, .s = s};
}

static chat_node *parse_string(parser *p)
{
    u32 line = cur(p)->line;
    str text = cur(p)->text;
    next(p);
    if (cur(p)->kind != T_STRING) return constant(p, line, text_value(p, text));
    buf all = {0}; /* strings side by side are one */
    buf_str(&all, text);
    for (; cur(p)->kind == T_STRING; next(p)) buf_str(&all, cur(p)->text);
    char *copy = all.bad ? NULL : arena_str(p->t->a, all.p ? all.p : "", all.n);
    if (!copy) no_memory(p);
    chat_node *n = constant(p, line, text_value(p, (str){copy, all.n}));
    buf_free(&all);
    return n;
}

static chat_node *parse_list(parser *p)
{
    chat_node *n = node(p, N_LIST, cur(p)->line);
    next(p);
    while (!is_op(p, ']') && !p->bad.code) {
        add(p, n, parse_condition(p));
        if (!skip_op(p, ',')) break;
    }
    expect_op(p, ']');
    return n;
}

static chat_node *parse_dict(parser *p)
{
    chat_node *n = node(p, N_DICT, cur(p)->line);
    next(p);
    while (!is_op(p, '}') && !p->bad.code) {
        add(p, n, parse_condition(p));
        expect_op(p, ':');
        add(p, n, parse_condition(p));
        if (!skip_op(p, ',')) break;
    }
    expect_op(p, '}');
    return n;
}

static chat_node *parse_word(parser *p)
{
    const chat_token *t = cur(p);
    next(p);
    bool yes = str_eq(t->text, S("true")) || str_eq(t->text, S("True"));
    if (yes || str_eq(t->text, S("false")) || str_eq(t->text, S("False"))) return constant(p, t->line, chat_bool(yes));
    if (str_eq(t->text, S("none")) || str_eq(t->text, S("None"))) return constant(p, t->line, chat_none());
    chat_node *n = node(p, N_NAME, t->line);
    if (n == &no_node) return n;
    n->name = symbol_of(p, t->text);
    if (p->macro_flags)
        *p->macro_flags |= n->name == SYM_CALLER    ? MACRO_CALLER
                           : n->name == SYM_VARARGS ? MACRO_VARARGS
                           : n->name == SYM_KWARGS  ? MACRO_KWARGS
                                                    : 0;
    return n;
}

static chat_node *parse_primary(parser *p)
{
    chat_node *n = &no_node;
    const chat_token *t = cur(p);
    if (!enter(p)) goto out;
    if (t->kind == T_NAME) {
        n = parse_word(p);
    } else if (t->kind == T_STRING) {
        n = parse_string(p);
    } else if (t->kind == T_INT || t->kind == T_FLOAT) {
        next(p);
        n = constant(p, t->line, t->kind == T_INT ? chat_int(t->i) : chat_float(t->f));
    } else if (skip_op(p, '(')) {
        n = parse_tuple(p, true, true, NULL);
        expect_op(p, ')');
    } else if (is_op(p, '[')) {
        n = parse_list(p);
    } else if (is_op(p, '{')) {
        n = parse_dict(p);
    } else {
        unexpected(p, "an expression");
    }
out:
    p->depth--;
    return n;
}

/* arguments in brackets are added to `n`; the current token is ( */
static void parse_arguments(parser *p, chat_node *n)
{
    bool keywords = false, star = false, stars = false; /* seen; behind **x nothing may follow, behind *x and a=1 no plain one */
    expect_op(p, '(');
    while (!is_op(p, ')') && !p->bad.code) {
        const chat_token *t = cur(p);
        if (stars || (star && is_op(p, '*'))) return (void)fail_at(p, t->line, "an argument behind those of '*' or '**'");
        if (skip_op(p, '*')) {
            add(p, n, node1(p, N_STAR, t->line, parse_condition(p)));
            star = true;
        } else if (skip_op(p, '*' << 8 | '*')) {
            add(p, n, node1(p, N_STARS, t->line, parse_condition(p)));
            stars = true;
        } else if (t->kind == T_NAME && t[1].kind == T_OP && t[1].op == '=') {
            u32 name = take_name(p, "a name");
            next(p);
            chat_node *k = node1(p, N_KEYWORD, t->line, parse_condition(p));
            for (u32 i = 0; i < n->n_kid; i++)
                if (n->kid[i] && n->kid[i]->kind == N_KEYWORD && n->kid[i]->name == name)
                    fail_at(p, t->line, "argument '%s' is given twice", p->symbol[name].text.p);
            if (k != &no_node) k->name = name;
            add(p, n, k);
            keywords = true;
        } else if (keywords || star) {
            fail_at(p, t->line, "an argument without a name after one with a name");
        } else {
            add(p, n, parse_condition(p));
        }
        if (!skip_op(p, ',')) break;
    }
    expect_op(p, ')');
}

/* one subscript: an expression or from:to:step. A slice's parts go to part[0..2], NULL where left out. */
static bool parse_slice(parser *p, chat_node *part[3])
{
    bool slice = false;
    part[0] = part[1] = part[2] = NULL;
    if (!is_op(p, ':')) part[0] = parse_condition(p);
    for (int i = 1; i < 3 && skip_op(p, ':'); i++) {
        slice = true;
        if (!is_op(p, ':') && !is_op(p, ']') && !is_op(p, ',')) part[i] = parse_condition(p);
    }
    return slice;
}

static chat_node *parse_subscript(parser *p, chat_node *object)
{
    u32 line = cur(p)->line;
    chat_node *part[3];
    next(p);
    bool empty = is_op(p, ']'), slice = !empty && parse_slice(p, part);
    chat_node *key = empty ? node(p, N_TUPLE, line) : part[0], *n;
    if (!slice && is_op(p, ',')) { /* a[1, 2]: the key is a tuple */
        key = node1(p, N_TUPLE, line, part[0]);
        while (skip_op(p, ',') && !is_op(p, ']')) add(p, key, parse_condition(p));
    }
    if (slice) {
        n = node2(p, N_SLICE, line, object, part[0]);
        add(p, n, part[1]);
        add(p, n, part[2]);
    } else {
        n = node2(p, N_ITEM, line, object, key);
        if (n != &no_node && key->kind == N_CONST && key->value.kind == V_STRING) n->name = symbol_of(p, chat_bytes(key->value));
    }
    expect_op(p, ']');
    return n;
}

static chat_node *parse_dot(parser *p, chat_node *object)
{
    u32 line = cur(p)->line;
    next(p);
    const chat_token *t = cur(p);
    if (t->kind == T_INT) {
        next(p);
        return node2(p, N_ITEM, line, object, constant(p, line, chat_int(t->i)));
    }
    u32 name = take_name(p, "a name or number after '.'");
    chat_node *n = node1(p, N_ATTR, line, object);
    if (n != &no_node) n->name = name;
    return n;
}

static chat_node *parse_call(parser *p, chat_node *callee)
{
    chat_node *n = node1(p, N_CALL, cur(p)->line, callee);
    parse_arguments(p, n);
    return n;
}

static chat_node *parse_postfix(parser *p, chat_node *n)
{
    while (!p->bad.code) {
        if (is_op(p, '.'))
            n = parse_dot(p, n);
        else if (is_op(p, '['))
            n = parse_subscript(p, n);
        else if (is_op(p, '('))
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

/* `name` with dots is one word in Jinja; no filter or test has one */
static chat_node *parse_filter(parser *p, chat_node *value)
{
    const chat_token *t = cur(p);
    u32 name = take_name(p, "the name of a filter");
    chat_node *n = node1(p, N_FILTER, t->line, value);
    if (n == &no_node) return n;
    n->name = name;
    n->row = chat_filter_find(t->text);
    if (!n->row && !p->soft)
        return fail_at(p, t->line, "filter '%.*s' is not known", (int)i64_min((i64)t->text.n, 80), t->text.p);
    if (is_op(p, '(')) parse_arguments(p, n);
    return n;
}

static chat_node *parse_test(parser *p, chat_node *value)
{
    u32 line = cur(p)->line;
    next(p);
    bool negated = skip_name(p, "not");
    const chat_token *t = cur(p);
    u32 name = take_name(p, "the name of a test");
    chat_node *n = node1(p, N_TEST, line, value);
    if (n == &no_node) return n;
    n->name = name;
    n->row = chat_test_find(t->text);
    if (!n->row && !p->soft) return fail_at(p, t->line, "test '%.*s' is not known", (int)i64_min((i64)t->text.n, 80), t->text.p);
    const chat_token *a = cur(p);
    bool word = a->kind == T_NAME && !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and") && !is_name(p, "if") &&
                !is_name(p, "not") && !is_name(p, "in");
    if (is_op(p, '('))
        parse_arguments(p, n);
    else if (is_name(p, "is"))
        return fail_at(p, a->line, "tests cannot be chained with 'is'");
    else if (word || a->kind == T_STRING || a->kind == T_INT || a->kind == T_FLOAT || is_op(p, '[') || is_op(p, '{'))
        add(p, n, parse_postfix(p, parse_primary(p)));
    return negated ? node1(p, N_NOT, line, n) : n;
}

static chat_node *parse_filters(parser *p, chat_node *n)
{
    while (!p->bad.code) {
        if (skip_op(p, '|'))
            n = parse_filter(p, n);
        else if (is_name(p, "is"))
            n = parse_test(p, n);
        else if (is_op(p, '('))
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

static chat_node *parse_unary(parser *p, bool with_filter)
{
    chat_node *n = &no_node;
    u32 line = cur(p)->line;
    if (!enter(p)) goto out;
    if (skip_op(p, '-'))
        n = node1(p, N_NEG, line, parse_unary(p, false));
    else if (skip_op(p, '+'))
        n = node1(p, N_POS, line, parse_unary(p, false));
    else
        n = parse_primary(p);
    n = parse_postfix(p, n);
    if (with_filter) n = parse_filters(p, n);
out:
    p->depth--;
    return n;
}

static chat_node *binary(parser *p, chat_op op, u32 line, chat_node *a, chat_node *b)
{
    chat_node *n = node2(p, N_BINARY, line, a, b);
    if (n != &no_node) n->op = (u8)op;
    return n;
}

static chat_node *parse_power(parser *p)
{
    chat_node *n = parse_unary(p, true);
    for (u32 line = cur(p)->line; skip_op(p, '*' << 8 | '*'); line = cur(p)->line)
        n = binary(p, OP_POW, line, n, parse_unary(p, true));
    return n;
}

static chat_node *parse_product(parser *p)
{
    chat_node *n = parse_power(p);
    for (;;) {
        u32 line = cur(p)->line;
        chat_op op = skip_op(p, '*')              ? OP_MUL
                     : skip_op(p, '/')            ? OP_DIV
                     : skip_op(p, '/' << 8 | '/') ? OP_FLOORDIV
                     : skip_op(p, '%')            ? OP_MOD
                                                  : OP_NONE;
        if (!op) return n;
        n = binary(p, op, line, n, parse_power(p));
    }
}

static chat_node *parse_concat(parser *p)
{
    u32 line = cur(p)->line;
    chat_node *n = parse_product(p);
    if (!is_op(p, '~')) return n;
    n = node1(p, N_CONCAT, line, n);
    while (skip_op(p, '~')) add(p, n, parse_product(p));
    return n;
}

static chat_node *parse_sum(parser *p)
{
    chat_node *n = parse_concat(p);
    for (;;) {
        u32 line = cur(p)->line;
        chat_op op = skip_op(p, '+') ? OP_ADD : skip_op(p, '-') ? OP_SUB : OP_NONE;
        if (!op) return n;
        n = binary(p, op, line, n, parse_concat(p));
    }
}

static chat_op compare_op(parser *p)
{
    static const struct {
        u16 op;
        u8 is;
    } row[] = {{'=' << 8 | '=', OP_EQ}, {'!' << 8 | '=', OP_NE}, {'<', OP_LT}, {'<' << 8 | '=', OP_LE}, {'>', OP_GT},
               {'>' << 8 | '=', OP_GE}};
    for (usize i = 0; i < COUNT_OF(row); i++)
        if (skip_op(p, row[i].op)) return row[i].is;
    if (skip_name(p, "in")) return OP_IN;
    if (is_name(p, "not") && p->at[1].kind == T_NAME && str_eq(p->at[1].text, S("in"))) {
        next(p);
        next(p);
        return OP_NOT_IN;
    }
    return OP_NONE;
}

static chat_node *parse_compare(parser *p)
{
    u32 line = cur(p)->line, n_op = 0;
    chat_node *n = parse_sum(p);
    u8 ops[64];
    for (chat_op op; (op = compare_op(p)) != OP_NONE;) {
        if (n_op == COUNT_OF(ops)) return fail_at(p, line, "more than 64 comparisons in one chain");
        if (!n_op) n = node1(p, N_COMPARE, line, n);
        ops[n_op++] = (u8)op;
        add(p, n, parse_sum(p));
    }
    if (!n_op || n == &no_node || p->bad.code) return n;
    n->ops = arena_take(p->t->a, n_op);
    if (n->ops)
        memcpy(n->ops, ops, n_op);
    else
        no_memory(p);
    return n;
}

static chat_node *parse_not(parser *p)
{
    chat_node *n = &no_node;
    u32 line = cur(p)->line;
    if (!enter(p)) goto out;
    n = skip_name(p, "not") ? node1(p, N_NOT, line, parse_not(p)) : parse_compare(p);
out:
    p->depth--;
    return n;
}

static chat_node *parse_and(parser *p)
{
    chat_node *n = parse_not(p);
    for (u32 line = cur(p)->line; skip_name(p, "and"); line = cur(p)->line) n = node2(p, N_AND, line, n, parse_not(p));
    return n;
}

static chat_node *parse_or(parser *p)
{
    chat_node *n = parse_and(p);
    for (u32 line = cur(p)->line; skip_name(p, "or"); line = cur(p)->line) n = node2(p, N_OR, line, n, parse_and(p));
    return n;
}

static chat_node *parse_condition(parser *p)
{
    chat_node *n = &no_node;
    if (!enter(p)) goto out;
    n = parse_or(p);
    for (u32 line = cur(p)->line; is_name(p, "if"); line = cur(p)->line) {
        bool soft = p->soft;
        next(p);
        p->soft = true;
        chat_node *test = parse_or(p);
        n = node2(p, N_COND, line, test, n);
        add(p, n, skip_name(p, "else") ? parse_condition(p) : NULL);
        p->soft = soft;
    }
out:
    p->depth--;
    return n;
}

/* ---- statements ---- */
static chat_node *parse_body(parser *p, const char *opened, u32 line, const char *ends);

static bool word_in(str word, const char *list)
{
    for (const char *at = list; *at;) {
        usize n = strcspn(at, " ");
        if (str_eq(word, (str){at, n})) return true;
        at += n + (at[n] == ' ');
    }
    return false;
}

/* name, name.attribute, or a tuple of them */
static chat_node *parse_target(parser *p, bool attributes, const char *end)
{
    u32 line = cur(p)->line;
    chat_node *tuple = NULL, *first = NULL;
    if (!enter(p)) goto out;
    while (!tuple_ends(p, end) && !is_op(p, '=')) {
        chat_node *item;
        if (skip_op(p, '(')) {
            item = parse_target(p, attributes, NULL);
            expect_op(p, ')');
        } else {
            item = node(p, N_NAME, cur(p)->line);
            u32 name = take_name(p, "a name to assign to");
            if (name == SYM_LOOP) fail_at(p, line, "'loop' cannot be assigned to");
            if (!p->bad.code && word_in(p->symbol[name].text, "true True false False none None"))
                fail_at(p, line, "a constant cannot be assigned to");
            if (!p->bad.code) item->name = name;
            if (attributes && is_op(p, '.')) item = parse_dot(p, item);
        }
        if (tuple)
            add(p, tuple, item);
        else
            first = item;
        if (!skip_op(p, ',')) break;
        if (!tuple) tuple = node1(p, N_TUPLE, line, first);
    }
    if (!first) unexpected(p, "a name to assign to");
out:
    p->depth--;
    return tuple ? tuple : first ? first : &no_node;
}

static chat_node *parse_if(parser *p, u32 line)
{
    chat_node *n = node(p, N_IF, line);
    bool soft = p->soft;
    p->soft = true;
    for (bool more = true; more && !p->bad.code;) {
        add(p, n, parse_tuple(p, false, false, NULL));
        expect(p, T_CLOSE_BLOCK, "%}");
        add(p, n, parse_body(p, "if", line, "elif else endif"));
        more = skip_name(p, "elif");
    }
    if (skip_name(p, "else")) {
        expect(p, T_CLOSE_BLOCK, "%}");
        add(p, n, NULL);
        add(p, n, parse_body(p, "if", line, "endif"));
    }
    next(p);
    p->soft = soft;
    return n;
}

/* a body in which an unknown filter is not forgiven: Jinja checks it at once there */
static chat_node *parse_frame(parser *p, const char *opened, u32 line, const char *ends)
{
    bool soft = p->soft;
    p->soft = false;
    chat_node *n = parse_body(p, opened, line, ends);
    p->soft = soft;
    return n;
}

static chat_node *parse_for(parser *p, u32 line)
{
    chat_node *n = node1(p, N_FOR, line, parse_target(p, false, "in"));
    if (!skip_name(p, "in")) return unexpected(p, "'in'");
    add(p, n, parse_tuple(p, false, false, "recursive"));
    add(p, n, skip_name(p, "if") ? parse_condition(p) : NULL);
    if (skip_name(p, "recursive") && n != &no_node) n->flags = 1;
    expect(p, T_CLOSE_BLOCK, "%}");
    p->n_loop++;
    add(p, n, parse_frame(p, "for", line, "else endfor"));
    p->n_loop--;
    chat_node *otherwise = NULL;
    if (skip_name(p, "else")) {
        expect(p, T_CLOSE_BLOCK, "%}");
        otherwise = parse_frame(p, "for", line, "endfor");
    }
    next(p);
    return add(p, n, otherwise);
}

static chat_node *parse_set(parser *p, u32 line)
{
    chat_node *target = parse_target(p, true, NULL);
    if (skip_op(p, '=')) return node2(p, N_SET, line, target, parse_tuple(p, true, false, NULL));
    chat_node *filter = NULL;
    while (skip_op(p, '|')) filter = parse_filter(p, filter);
    chat_node *n = node2(p, N_SET_BLOCK, line, target, filter);
    expect(p, T_CLOSE_BLOCK, "%}");
    add(p, n, parse_frame(p, "set", line, "endset"));
    next(p);
    return n;
}

/* the parameters in brackets, if any, and the body of a macro or call block */
static chat_node *parse_macro(parser *p, u32 line, u32 name, const char *what, const char *end)
{
    chat_node *n = node1(p, N_MACRO, line, NULL), *first = &no_node;
    u32 param[64], n_param = 0;
    u8 flags = 0, *outer = p->macro_flags;
    int n_loop = p->n_loop;
    if (what[0] == 'm' && !is_op(p, '(')) return unexpected(p, "'('");
    if (skip_op(p, '(')) {
        while (!is_op(p, ')') && !p->bad.code) {
            if (n_param == COUNT_OF(param)) return fail_at(p, line, "a macro with more than 64 parameters");
            param[n_param] = take_name(p, "the name of a parameter");
            for (u32 i = 0; i < n_param; i++)
                if (param[i] == param[n_param]) return fail_at(p, line, "two parameters have the same name");
            bool given = skip_op(p, '=');
            if (!given && n_param && n->n_kid > 1 && n->kid[n_param])
                return fail_at(p, line, "a parameter without a default after one with a default");
            add(p, n, given ? parse_condition(p) : NULL);
            n_param++;
            if (!skip_op(p, ',')) break;
        }
        expect_op(p, ')');
    }
    if (what[0] == 'c') { /* {% call(params) macro(arguments) %}: the call stands between parameters and body */
        first = parse_or(p);
        if (!p->bad.code && first->kind != N_CALL) return fail_at(p, line, "'call' needs a call of a macro");
    }
    expect(p, T_CLOSE_BLOCK, "%}");
    p->macro_flags = &flags;
    p->n_loop = 0;
    chat_node *body = parse_frame(p, what, line, end);
    p->macro_flags = outer;
    if (outer) *outer |= flags; /* what an inner macro uses the outer one is said to use, too: Jinja */
    p->n_loop = n_loop;
    next(p);
    for (u32 i = 0; i < n_param && !p->bad.code; i++) {
        if (param[i] == SYM_CALLER && flags & MACRO_CALLER && !n->kid[i + 1])
            return fail_at(p, line, "a parameter 'caller' needs a default");
        flags &= (u8) ~(param[i] == SYM_VARARGS ? MACRO_VARARGS : param[i] == SYM_KWARGS ? MACRO_KWARGS : 0);
    }
    if (p->bad.code || n == &no_node) return &no_node;
    n->kid[0] = body;
    n->height = (u16)i64_max(n->height, body->height + 1);
    n->name = name;
    n->flags = flags;
    n->param = arena_take(p->t->a, (n_param + 1) * sizeof(u32));
    if (n->param)
        memcpy(n->param, param, n_param * sizeof(u32));
    else
        no_memory(p);
    return what[0] == 'c' ? node2(p, N_CALL_BLOCK, line, first, n) : n;
}

static chat_node *parse_with(parser *p, u32 line)
{
    chat_node *n = node1(p, N_WITH, line, NULL);
    while (cur(p)->kind == T_NAME) {
        add(p, n, parse_target(p, false, NULL));
        expect_op(p, '=');
        add(p, n, parse_condition(p));
        if (!skip_op(p, ',')) break;
    }
    expect(p, T_CLOSE_BLOCK, "%}");
    chat_node *body = parse_frame(p, "with", line, "endwith");
    next(p);
    if (p->bad.code) return &no_node;
    n->kid[0] = body;
    n->height = (u16)i64_max(n->height, body->height + 1);
    return n;
}

static chat_node *parse_filter_block(parser *p, u32 line)
{
    chat_node *filter = NULL;
    do filter = parse_filter(p, filter);
    while (skip_op(p, '|'));
    chat_node *n = node1(p, N_FILTER_BLOCK, line, filter);
    expect(p, T_CLOSE_BLOCK, "%}");
    add(p, n, parse_frame(p, "filter", line, "endfilter"));
    next(p);
    return n;
}

/* {% generation %}, {% autoescape false %} and {% block name %}: functions of their own in Jinja, so that no break can leave the
 * first and the last one */
static chat_node *parse_scope(parser *p, u32 line, const char *what, const char *end)
{
    chat_node *n = node(p, N_SCOPE, line);
    int n_loop = p->n_loop;
    u32 name = SYM_NONE;
    if (what[0] == 'a') {
        if (!skip_name(p, "false") && !skip_name(p, "False"))
            return fail_at(p, line, "'autoescape' is supported with false only");
    } else if (what[0] == 'b') {
        name = take_name(p, "the name of the block");
        if (!skip_name(p, "scoped") && n != &no_node) n->flags = 1;
    }
    if (what[0] != 'a') p->n_loop = 0;
    expect(p, T_CLOSE_BLOCK, "%}");
    add(p, n, parse_frame(p, what, line, end));
    p->n_loop = n_loop;
    next(p);
    if (what[0] == 'b' && cur(p)->kind == T_NAME && take_name(p, "a name") != name) return unexpected(p, "the name of the block");
    return n;
}

static chat_node *parse_print(parser *p, u32 line)
{
    chat_node *all = node(p, N_BLOCK, line);
    do add(p, all, node1(p, N_OUTPUT, line, parse_condition(p)));
    while (skip_op(p, ','));
    return all;
}

/* what would need other templates: it may stand in a branch that is never taken */
static chat_node *parse_other(parser *p, u32 line, str word)
{
    chat_node *n = node(p, N_FAIL, line);
    if (n != &no_node) n->name = symbol_of(p, word);
    while (cur(p)->kind != T_CLOSE_BLOCK && cur(p)->kind != T_END) next(p);
    return n;
}

static chat_node *parse_statement(parser *p)
{
    const chat_token *t = cur(p);
    if (t->kind != T_NAME) return unexpected(p, "the name of a tag");
    next(p);
    str name = t->text;
    if (str_eq(name, S("if"))) return parse_if(p, t->line);
    if (str_eq(name, S("for"))) return parse_for(p, t->line);
    if (str_eq(name, S("set"))) return parse_set(p, t->line);
    if (str_eq(name, S("macro"))) return parse_macro(p, t->line, take_name(p, "the name of the macro"), "macro", "endmacro");
    if (str_eq(name, S("call"))) return parse_macro(p, t->line, SYM_CALLER, "call", "endcall");
    if (str_eq(name, S("filter"))) return parse_filter_block(p, t->line);
    if (str_eq(name, S("with"))) return parse_with(p, t->line);
    if (str_eq(name, S("generation"))) return parse_scope(p, t->line, "generation", "endgeneration");
    if (str_eq(name, S("autoescape"))) return parse_scope(p, t->line, "autoescape", "endautoescape");
    if (str_eq(name, S("block"))) return parse_scope(p, t->line, "block", "endblock");
    if (str_eq(name, S("print"))) return parse_print(p, t->line);
    bool leave = str_eq(name, S("break"));
    if (leave || str_eq(name, S("continue"))) {
        if (!p->n_loop) return fail_at(p, t->line, "'%s' outside of a loop", leave ? "break" : "continue");
        return node(p, leave ? N_BREAK : N_CONTINUE, t->line);
    }
    if (word_in(name, "include import from extends")) return parse_other(p, t->line, name);
    return fail_at(p, t->line, "tag '%.*s' is not %s", (int)i64_min((i64)name.n, 80), name.p,
                   str_starts(name, S("end")) || word_in(name, "else elif") ? "expected here" : "known");
}

/* Statements up to a tag in `ends` (whose name stays current) or, with no `ends`, to the end of the template. */
static chat_node *parse_body(parser *p, const char *opened, u32 line, const char *ends)
{
    chat_node *body = node(p, N_BLOCK, line);
    if (!enter(p)) goto out;
    while (!p->bad.code) {
        const chat_token *t = cur(p);
        next(p);
        if (t->kind == T_END) {
            if (*ends) fail_at(p, t->line, "'%s' of line %u is never closed by {%% %s %%}", opened, line, strstr(ends, "end"));
            break;
        } else if (t->kind == T_TEXT) {
            chat_node *n = node(p, N_TEXT, t->line);
            if (n != &no_node) n->value = text_value(p, t->text);
            add(p, body, n);
        } else if (t->kind == T_OPEN_VAR) {
            add(p, body, node1(p, N_OUTPUT, t->line, parse_tuple(p, true, false, NULL)));
            expect(p, T_CLOSE_VAR, "}}");
        } else {
            const chat_token *word = cur(p);
            if (word->kind == T_NAME && *ends && word_in(word->text, ends)) break;
            if (word->kind == T_NAME && *ends && (str_starts(word->text, S("end")) || word_in(word->text, "else elif")))
                fail_at(p, word->line, "'%.*s' found inside '%s' of line %u", (int)i64_min((i64)word->text.n, 80), word->text.p,
                        opened, line);
            add(p, body, parse_statement(p));
            expect(p, T_CLOSE_BLOCK, "%}");
        }
    }
out:
    p->depth--;
    return body;
}

err chat_parse(chat_template *t, const chat_tokens *tokens)
{
    static const char *const known[] = {
        [SYM_NONE] = "", [SYM_LOOP] = "loop", [SYM_CALLER] = "caller", [SYM_VARARGS] = "varargs", [SYM_KWARGS] = "kwargs"};
    parser p = {.t = t, .at = tokens->at, .symbols = map_new()};
    if (!p.symbols) no_memory(&p);
    for (usize i = 0; i < COUNT_OF(known); i++) symbol_of(&p, str_of(known[i]));
    t->body = parse_body(&p, "", 1, "");
    t->n_symbol = p.n_symbol;
    if (!p.bad.code && !(t->symbol = arena_take(t->a, p.n_symbol * sizeof *p.symbol))) no_memory(&p);
    if (!p.bad.code) memcpy(t->symbol, p.symbol, p.n_symbol * sizeof *p.symbol);
    map_free(p.symbols);
    mem_free(p.symbol);
    return p.bad;
}
