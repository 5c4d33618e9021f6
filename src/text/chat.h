/* text/chat.h - the inside of the chat-template engine, shared by chat*.c only.
 *
 *   chat_lex.c    source -> tokens, with Jinja's white-space control     chat_json.c    JSON in and out
 *   chat_parse.c  tokens -> tree                                          chat_eval.c    expressions
 *   chat_value.c  values, strings with provenance, comparing              chat_run.c     statements, macros, loops
 *   chat_text.c   values as text: str(), repr, numbers, Unicode case       chat_filter.c  filters of texts and numbers
 *   chat_method.c methods and global functions                            chat_select.c  filters of lists; tests
 *   chat_format.c % and str.format                                       chat_more.c    filters seldom used
 *   chat.c        the door: new, render
 *
 * Values are immutable (as in Jinja's immutable sandbox; namespaces are the one exception), so strings and lists share
 * their bytes and items freely. Everything lives in one arena per rendering and dies with it.
 *
 * Errors are sticky: chat_fail records the first one in the evaluator, everything after it returns at once with an
 * undefined value, and loops stop because chat_step says false. Nothing here returns a NULL string, list or mapping.
 *
 * Fuel: one unit per node evaluated, per item touched and per 32 bytes of memory or text touched. Memory is bounded by
 * CHAT_MAX_MEMORY too, recursion by CHAT_MAX_DEPTH (which takes less than 768 KiB of stack), so no template can do more than
 * waste a moment.
 *
 * Provenance: a string is bytes plus runs (where each byte came from). Slicing, trimming, joining, splitting, concatenating,
 * case mapping and indexing keep it per byte. What is put into the middle of a text takes the place of what it stands in:
 * the replacement in `replace` belongs to what it replaces (unless the replacement itself came from a message), an indentation
 * to the line that it indents, an escape in tojson to the character it escapes, the brackets and quotes of tojson and of a
 * printed list to the list, mapping or string that they enclose, the blanks of %5s to the text that they fill up. Numbers and
 * truth values carry an origin too, so that {{ call.n }} is the message's; one that was computed (arithmetic, comparing,
 * length) is the template's, and so is what `join` puts between. */
#ifndef MARU_TEXT_CHAT_H
#define MARU_TEXT_CHAT_H
#include "text/text.h"

enum {
    CHAT_MAX_SOURCE = 4 << 20,
    CHAT_MAX_NEST = 200,     /* brackets, blocks and prefix operators inside each other, in the source */
    CHAT_MAX_TREE = 600,     /* height of the tree: chains like a + b + c ... lean to the left */
    CHAT_MAX_DEPTH = 1500,   /* nodes being evaluated at once, macros calling macros included */
    CHAT_MAX_DATA = 300,     /* lists inside lists */
    CHAT_MAX_RANGE = 100000, /* as Jinja's sandbox */
    CHAT_FUEL = 10000000,
    CHAT_MAX_MEMORY = 256 << 20,
};

/* ---- values ----------------------------------------------------------------------------------------------------------- */
typedef enum {
    V_MISSING, /* not a value: an argument not given, a name not bound */
    V_UNDEFINED,
    V_NONE,
    V_BOOL,
    V_INT,
    V_FLOAT,
    V_STRING,
    V_LIST,
    V_DICT,
    V_NAMESPACE,
    V_MACRO,
    V_CALLABLE,
    V_LOOP,
} chat_kind;

typedef struct {
    i32 message;
    u8 field;
} chat_origin;
#define CHAT_LITERAL ((chat_origin){-1, CHAT_TEMPLATE})

typedef struct {
    u32 end; /* the run ends before this byte; it begins where the one before ends */
    chat_origin from;
} chat_run;

typedef struct {
    const char *p;
    u32 n, n_run;        /* n_run is 0 only for the empty string */
    const chat_run *run; /* [n_run] */
    bool markup;         /* came from |safe or |escape: + escapes what is joined to it */
} chat_string;

typedef struct chat_list chat_list;
typedef struct chat_dict chat_dict;
typedef struct chat_macro chat_macro;
typedef struct chat_callable chat_callable;
typedef struct chat_loop chat_loop;
typedef struct chat_node chat_node;
typedef struct chat_eval chat_eval;

typedef enum { UNDEF_NAME, UNDEF_MEMBER, UNDEF_ARGUMENT, UNDEF_EMPTY, UNDEF_ELSE, UNDEF_FORBIDDEN, UNDEF_EDGE } chat_undef;
typedef struct {
    u32 name; /* symbol, 0: not known */
    u8 why;   /* chat_undef */
    u8 of;    /* chat_kind of the value that lacks it */
} chat_hint;

typedef struct {
    u8 kind;          /* chat_kind */
    chat_origin from; /* of a number, truth value, list, mapping; of a string: for what has no byte of it, like quotes */
    union {
        bool b;
        i64 i;
        double f;
        const chat_string *s;
        chat_list *list;
        chat_dict *dict; /* V_DICT, V_NAMESPACE */
        const chat_macro *macro;
        const chat_callable *fn;
        chat_loop *loop;
        chat_hint undef;
    };
} chat_value;

typedef enum {
    LIST_PLAIN,
    LIST_TUPLE,
    LIST_LAZY /* a generator: no length, no index, once */,
    LIST_ITEMS,
    LIST_KEYS,
    LIST_VALUES,
    LIST_RANGE
} chat_flavour;
struct chat_list {
    chat_value *item; /* [n] */
    u32 n, cap;
    u8 flavour;
    bool spent; /* LIST_LAZY that was iterated */
    bool group; /* a tuple of |groupby: .grouper, .list */
};
typedef struct {
    u64 hash;
    chat_value key, value;
} chat_pair;
struct chat_dict {
    chat_pair *pair; /* [n] in order of insertion */
    u32 n, cap;
    u32 *slot; /* [n_slot] index + 1 into pair, open addressing; NULL while small */
    u32 n_slot;
};

/* ---- builtins ---------------------------------------------------------------------------------------------------------- */
typedef struct {
    str name;
    chat_value value;
} chat_keyword;
typedef struct {
    const chat_value *arg; /* [n] */
    u32 n;
    const chat_keyword *kw; /* [n_kw] */
    u32 n_kw;
} chat_args;
typedef chat_value (*chat_fn)(chat_eval *, chat_value self, const chat_args *);
/* One row of a table. `params`: names separated by blanks; the call gets exactly that many arguments, V_MISSING where not
 * given. NULL: takes whatever comes. */
typedef struct {
    const char *name, *params;
    int n_required;
    chat_fn fn;
} chat_builtin;
struct chat_callable {
    const chat_builtin *row;
    chat_value self;
    const char *what; /* "function", "method" */
};
extern const chat_builtin chat_list_filters[]; /* chat_select.c; ends with a NULL name */
extern const chat_builtin chat_more_filters[]; /* chat_more.c */
const chat_builtin *chat_row_find(const chat_builtin *rows, str name);
const chat_builtin *chat_filter_find(str name);
const chat_builtin *chat_test_find(str name);
const chat_builtin *chat_global_find(str name);
const chat_builtin *chat_method_find(chat_value, str name, bool *forbidden);
chat_value chat_builtin_call(chat_eval *, const chat_builtin *, const char *what, chat_value self, const chat_args *);

/* ---- the tree ----------------------------------------------------------------------------------------------------------- */
typedef enum {
    /* expressions; kid[] in the order named */
    N_CONST,
    N_NAME,
    N_LIST,
    N_TUPLE,
    N_DICT /* key, value, ... */,
    N_ATTR /* object; name */,
    N_ITEM /* object, key; name if the key is a written string */,
    N_SLICE /* object, from, to, step; NULL where left out */,
    N_CALL /* callee, arguments */,
    N_KEYWORD /* value; name */,
    N_STAR,
    N_STARS /* *value, **value in a call */,
    N_FILTER /* value or NULL, arguments; fn */,
    N_TEST /* value, arguments; fn */,
    N_NOT,
    N_NEG,
    N_POS,
    N_BINARY /* left, right; op */,
    N_COMPARE /* first, others; ops[] */,
    N_CONCAT,
    N_AND,
    N_OR,
    N_COND /* test, then, else or NULL */,
    /* statements */
    N_BLOCK,
    N_TEXT,
    N_OUTPUT,
    N_IF /* test, body, ...; an else has a NULL test */,
    N_FOR /* target, list, test, body, else; flags: recursive */,
    N_SET /* target, value */,
    N_SET_BLOCK /* target, filter or NULL, body */,
    N_MACRO /* body, defaults; params */,
    N_CALL_BLOCK /* call, macro */,
    N_FILTER_BLOCK /* filter, body */,
    N_WITH /* body, target, value, ... */,
    N_SCOPE /* body; flags: a {% block %}, which sees the outermost names only */,
    N_FAIL /* a tag that is an error when it is reached; name */,
    N_BREAK,
    N_CONTINUE,
} chat_node_kind;
typedef enum {
    OP_NONE,
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOORDIV,
    OP_MOD,
    OP_POW,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOT_IN,
} chat_op;
enum { MACRO_CALLER = 1, MACRO_VARARGS = 2, MACRO_KWARGS = 4 }; /* special names that the body uses */
struct chat_node {
    u8 kind, op, flags;
    u16 height;
    u32 line, name, n_kid; /* name: a symbol */
    chat_node **kid;
    union {
        chat_value value;        /* N_CONST, N_TEXT */
        const chat_builtin *row; /* N_FILTER, N_TEST; NULL: not known, an error when reached */
        u8 *ops;                 /* N_COMPARE: [n_kid - 1] chat_op */
        u32 *param;              /* N_MACRO: [n_kid - 1] symbols */
    };
};
typedef struct {
    str text;
    u64 hash;
} chat_symbol;
enum { SYM_NONE, SYM_LOOP, SYM_CALLER, SYM_VARARGS, SYM_KWARGS, SYM_FIRST }; /* known before any template */
struct chat_template {
    arena *a;
    const chat_node *body;
    chat_symbol *symbol; /* [n_symbol], arena */
    usize n_symbol;
};

/* ---- lexing and parsing --------------------------------------------------------------------------------------------------- */
typedef enum {
    T_END,
    T_TEXT,
    T_OPEN_VAR,
    T_CLOSE_VAR,
    T_OPEN_BLOCK,
    T_CLOSE_BLOCK,
    T_NAME,
    T_STRING,
    T_INT,
    T_FLOAT,
    T_OP
} chat_token_kind;
typedef struct {
    u8 kind;
    u16 op; /* T_OP: the character, or two of them: '=' << 8 | '=' */
    u32 line;
    str text; /* T_TEXT, T_NAME, T_STRING (decoded); else as written */
    union {
        i64 i;
        double f;
    };
} chat_token;
typedef struct {
    chat_token *at; /* [n], mem_free; the last one is T_END */
    usize n, cap;
} chat_tokens;
err chat_lex(arena *, str source, chat_tokens *); /* source: line ends are \n only */
err chat_parse(chat_template *, const chat_tokens *);
usize chat_space_head(str s); /* bytes of white space (Python's str.isspace) at the beginning, at the end */
usize chat_space_tail(str s);
bool chat_is_space(u32 c);

/* ---- the evaluator --------------------------------------------------------------------------------------------------------- */
typedef struct {
    u32 name;
    chat_value value;
} chat_binding;
typedef struct chat_scope chat_scope;
struct chat_scope {
    chat_scope *up;     /* NULL: names are looked up in chat_eval.root */
    chat_binding *bind; /* [n] */
    u32 n, cap;
    bool captured; /* a macro remembers it: never reuse it for the next round of a loop */
};
struct chat_macro {
    const chat_node *node;
    chat_scope *scope; /* where it was defined */
};
typedef struct {
    char *p;
    usize n, cap;
    chat_run *run;
    usize n_run, cap_run;
} chat_build; /* text being written, in the arena */
struct chat_loop {
    chat_list *list;
    const chat_node *target, *test; /* test may be NULL */
    chat_scope *tried;              /* where the target is bound while the test is evaluated */
    u8 *pass;                       /* [list->n] 0: not tested, 1: yes, 2: no; NULL without a test */
    u32 index0, at, before;         /* round; item of this round, of the one before */
    const chat_node *node;          /* N_FOR */
    chat_scope *outer;              /* where it stands */
    u32 depth0;                     /* of loop(...) in loop(...) */
    chat_value changed;             /* last argument of loop.changed, V_MISSING at first */
};
struct chat_eval {
    const chat_template *t;
    arena *a;
    i64 fuel;
    usize taken;
    u32 depth, line;
    const char *what;        /* construct in hand, for messages: "filter" */
    const char *name;        /* its name */
    const chat_node *inside; /* the innermost loop or macro that runs, for messages; NULL: none */
    chat_scope *scope;       /* NULL: the outermost */
    chat_value *root;        /* [n_symbol] */
    chat_build *out;
    err bad;
    chat_list no_list; /* what failing constructors return */
    chat_dict no_dict;
};

chat_value chat_fail(chat_eval *, const char *fmt, ...) PRINTF(2, 3); /* FORMAT; gives an undefined value */
chat_value chat_fail_as(chat_eval *, err_code, const char *fmt, ...) PRINTF(3, 4);
bool chat_step(chat_eval *, usize n);  /* burns n units; false: stop, there is an error */
void *chat_take(chat_eval *, usize n); /* zeroed; NULL: there is an error */
bool chat_enter(chat_eval *);          /* one level deeper; pairs with chat_leave, also when false */
void chat_leave(chat_eval *);

/* chat_value.c */
chat_value chat_bool(bool);
chat_value chat_int(i64);
chat_value chat_float(double);
chat_value chat_none(void);
chat_value chat_undefined(chat_undef why, u32 symbol, u8 of);
const char *chat_kind_name(chat_value);          /* "a string" */
void chat_need_defined(chat_eval *, chat_value); /* the error that using an undefined value is */
bool chat_truth(chat_value);
bool chat_equal(chat_eval *, chat_value, chat_value);
int chat_order(chat_eval *, chat_value, chat_value); /* <0, 0, >0; values that have no order are an error */
bool chat_contains(chat_eval *, chat_value hay, chat_value needle);
u64 chat_hash(chat_eval *, chat_value); /* a list or mapping is an error */
bool chat_hashable(chat_value, int depth);
bool chat_number(chat_value, double *); /* of int, float, bool */
bool chat_integer(chat_value, i64 *);   /* of int, bool */

chat_value chat_string_new(chat_eval *, str borrowed, chat_origin);
chat_value chat_string_lit(chat_eval *, const char *);                      /* the template's own */
chat_value chat_string_part(chat_eval *, chat_value, usize from, usize to); /* bytes */
chat_origin chat_string_from(const chat_string *, usize byte);
bool chat_string_is(chat_value, const char *);
static inline str chat_bytes(chat_value v) { return v.kind == V_STRING ? (str){v.s->p, v.s->n} : (str){"", 0}; }

chat_list *chat_list_new(chat_eval *, usize cap, chat_flavour);
void chat_list_push(chat_eval *, chat_list *, chat_value);
chat_value chat_list_value(chat_list *, chat_origin);
chat_list *chat_iterate(chat_eval *, chat_value); /* the items of a list, keys of a mapping, characters of a string */
i64 chat_length(chat_eval *, chat_value);
chat_dict *chat_dict_new(chat_eval *);
void chat_dict_put(chat_eval *, chat_dict *, chat_value key, chat_value value);
chat_value *chat_dict_get(const chat_dict *, str key, u64 hash); /* NULL: none */
chat_value *chat_dict_find(chat_eval *, const chat_dict *, chat_value key);
chat_value chat_dict_value(chat_dict *, chat_origin);
u64 chat_text_hash(str);

/* chat_text.c: writing */
void chat_put(chat_build *, chat_eval *, str, chat_origin);
void chat_put_part(chat_build *, chat_eval *, const chat_string *, usize from, usize to);
void chat_put_value(chat_build *, chat_eval *, chat_value); /* str(): what {{ }} writes */
void chat_put_repr(chat_build *, chat_eval *, chat_value, int depth);
chat_value chat_built(chat_build *, chat_eval *, chat_origin, bool markup);
chat_value chat_to_string(chat_eval *, chat_value); /* str(v), always V_STRING unless failed */
void chat_float_text(double, char out[40]);         /* Python's repr */
bool chat_printable(u32 c);                         /* Python's str.isprintable */
chat_value chat_escape(chat_eval *, chat_value);    /* & < > ' " as entities, markup */
typedef enum { CASE_UPPER, CASE_LOWER, CASE_CAPITAL, CASE_TITLE, CASE_TITLE_FILTER, CASE_SWAP, CASE_FOLD } chat_case;
chat_value chat_recase(chat_eval *, chat_value string, chat_case);

/* chat_json.c */
chat_value chat_from_json(chat_eval *, str text, chat_origin, const char *what); /* INPUT error naming `what` */
chat_value chat_message_json(chat_eval *, str text, i32 message, const char *role, const char *content);
chat_value chat_filter_tojson(chat_eval *, chat_value, const chat_args *);
chat_value chat_filter_from_json(chat_eval *, chat_value, const chat_args *);

/* chat_eval.c */
chat_value chat_evaluate(chat_eval *, const chat_node *);
chat_value chat_member(chat_eval *, chat_value, str name, u64 hash, u32 symbol); /* a.b */
chat_value chat_at(chat_eval *, chat_value, chat_value key, u32 symbol);         /* a[b] */
chat_value
chat_path(chat_eval *, chat_value, chat_value path,
          chat_value otherwise); /* "a.b.0" or 3: attribute= of filters; otherwise: V_MISSING, or for what is undefined */
chat_value chat_call(chat_eval *, chat_value callee, const chat_args *);
chat_value chat_call_node(chat_eval *, const chat_node *,
                          const chat_value *caller); /* N_CALL; caller: of a call block, or NULL */
chat_value chat_add(chat_eval *, chat_value, chat_value);
chat_value chat_filter_apply(chat_eval *, const chat_node *filter, chat_value); /* without its first kid */

/* chat_format.c */
chat_value chat_format(chat_eval *, chat_value format, const chat_args *, bool unused); /* %; unused: values may be left over */
chat_value chat_format_fields(chat_eval *, chat_value format, const chat_args *);       /* str.format */

/* chat_run.c */
typedef enum { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } chat_flow;
chat_flow chat_execute(chat_eval *, const chat_node *);
chat_value chat_macro_call(chat_eval *, const chat_macro *, const chat_args *);
chat_value chat_lookup(chat_eval *, u32 name);
void chat_bind(chat_eval *, u32 name, chat_value); /* in the innermost scope */
chat_value chat_loop_member(chat_eval *, chat_loop *, str name);
chat_value chat_loop_call(chat_eval *, chat_loop *, const chat_args *); /* loop(items) of a recursive loop */

/* shared by filters, tests and methods */
i64 chat_arg_int(chat_eval *, const chat_args *, u32 i, i64 otherwise);
bool chat_arg_true(const chat_args *, u32 i);
bool chat_given(const chat_args *, u32 i);                                              /* and not none */
chat_value chat_arg_text(chat_eval *, const chat_args *, u32 i, const char *otherwise); /* a string, or an error */
chat_value chat_replace(chat_eval *, chat_value string, chat_value old, chat_value new_text, i64 count);
chat_value chat_strip(chat_eval *, chat_value string, chat_value chars, bool head, bool tail);
chat_list *chat_lines(chat_eval *, chat_value string, bool keep_ends);
chat_value chat_join(chat_eval *, chat_value separator, chat_list *, bool strict); /* strict: items must be strings */
chat_value *chat_keys_of(chat_eval *, const chat_list *, chat_value attribute, bool case_sensitive,
                         chat_value otherwise); /* [n] */
chat_list *chat_sort(chat_eval *, chat_list *, const chat_value *keys,
                     bool reverse); /* a sorted copy, stable; keys [n] or NULL */
chat_value chat_reverse(chat_eval *, chat_value string);
#endif
