/* tests/text/test_chat.c - chat templates: against what transformers renders (tests/golden/chat_golden.py), where every byte
 * comes from, what errors say, and that hostile templates end soon. To compare more: CHAT_GOLDEN names another file of the form
 * of chat_golden.json, CHAT_KEEP a folder for the renderings of other people's templates. */
#include "../support/support.h"
#include "text/text.h"
#include "base/sys.h"
#include <jansson.h>
#include <pthread.h>

/* ---- rendering a case of the JSON files ---- */
typedef struct {
    chat_message *m;
    char **json; /* [n] dumped whole messages */
    usize n;
    char *tools, *extra;
    chat_options o;
} talk;

/* `other` where the case itself does not say */
static json_t *pick(json_t *c, json_t *other, const char *key)
{
    json_t *v = json_object_get(c, key);
    return v ? v : json_object_get(other, key);
}

static void talk_open(talk *t, json_t *c, json_t *other)
{
    json_t *m = pick(c, other, "messages"), *tools = pick(c, other, "tools"), *extra = pick(c, other, "extra");
    *t = (talk){.n = json_array_size(m)};
    t->m = mem_array(chat_message, t->n + 1);
    t->json = mem_array(char *, t->n + 1);
    for (usize i = 0; i < t->n; i++) {
        json_t *one = json_array_get(m, i), *content = json_object_get(one, "content");
        t->m[i] = (chat_message){json_string_value(json_object_get(one, "role")), json_string_value(content), NULL};
        if (json_object_size(one) == 2 && json_is_string(content)) continue;
        t->m[i].json = t->json[i] = json_dumps(one, JSON_REAL_PRECISION(17));
    }
    t->tools = tools ? json_dumps(tools, JSON_REAL_PRECISION(17)) : NULL;
    t->extra = extra ? json_dumps(extra, JSON_REAL_PRECISION(17)) : NULL;
    const char *bos = json_string_value(pick(c, other, "bos")), *eos = json_string_value(pick(c, other, "eos"));
    t->o = (chat_options){bos, eos, json_is_true(pick(c, other, "prompt")), t->tools, t->extra, 0};
}

static void talk_close(talk *t)
{
    for (usize i = 0; i < t->n; i++) free(t->json[i]);
    free(t->tools);
    free(t->extra);
    mem_free(t->json);
    mem_free(t->m);
}

/* the spans are in order and cover the text */
static void check_spans(const chat_output *out, usize n_message)
{
    u32 at = 0;
    for (usize i = 0; i < out->n_span; i++) {
        const chat_span *s = &out->span[i];
        assert_int_equal(s->start, at);
        assert_true(s->end > s->start);
        assert_true(s->message >= -1 && s->message < (i64)n_message);
        assert_true(s->field <= CHAT_OTHER);
        assert_int_equal(s->message < 0, s->field == CHAT_TEMPLATE);
        at = s->end;
    }
    assert_int_equal(at, out->text.n);
}

static err render(str source, const chat_message *m, usize n, const chat_options *o, chat_output *out)
{
    chat_template *t;
    *out = (chat_output){0};
    err e = chat_template_new(&t, source);
    if (!e.code) e = chat_render(t, m, n, o, out);
    chat_template_free(t);
    if (!e.code) check_spans(out, n);
    return e;
}

static json_t *load(const char *path)
{
    json_error_t e;
    json_t *j = json_load_file(path, 0, &e);
    if (!j) fail_msg("%s: %s (the tests run in the root of the repository)", path, e.text);
    return j;
}

static json_t *load_golden(void)
{
    const char *other = getenv("CHAT_GOLDEN");
    return load(other ? other : "tests/golden/chat_golden.json");
}

static void golden_small(void **state)
{
    (void)state;
    json_t *all = load_golden(), *c;
    usize i, n_bad = 0;
    json_array_foreach(json_object_get(all, "cases"), i, c)
    {
        talk t;
        chat_output out;
        const char *source = json_string_value(json_object_get(c, "template"));
        json_t *want = json_object_get(c, "text");
        talk_open(&t, c, json_object_get(all, "talk"));
        err e = render(str_of(source), t.m, t.n, &t.o, &out);
        str w = {json_string_value(want), json_string_length(want)};
        if (!want != !!e.code || (want && !str_eq(buf_view(&out.text), w))) {
            n_bad++;
            print_error("--- %s\n%s\nexpected: %s\nfound:    %s\n", json_string_value(json_object_get(c, "name")), source,
                        want ? w.p : json_string_value(json_object_get(c, "error")), e.code ? e.what : buf_cstr(&out.text));
        }
        chat_output_free(&out);
        talk_close(&t);
    }
    assert_true(i > 150);
    json_decref(all);
    assert_int_equal(n_bad, 0);
}

/* whatever the template does around it, what a user said stands in the text under his message and nothing else does */
static void check_users(const chat_output *out, const talk *t, const char *file)
{
    for (usize i = 0; i < t->n; i++) {
        if (t->m[i].json || strcmp(t->m[i].role, "user") != 0) continue;
        buf said = {0};
        for (usize k = 0; k < out->n_span; k++)
            if (out->span[k].message == (i32)i && out->span[k].field == CHAT_CONTENT)
                buf_put(&said, out->text.p + out->span[k].start, out->span[k].end - out->span[k].start);
        str want = str_trim(str_of(t->m[i].content)), got = str_trim(buf_view(&said));
        if (!str_starts(want, got) || want.n - got.n > 3) /* one template in five strips the U+3000 behind the last one, too */
            fail_msg("%s: of '%s' only '%s' is marked as message %zu", file, t->m[i].content, buf_cstr(&said), i);
        buf_free(&said);
    }
}

/* other people's templates, which are not kept here: $MARU_SHARED/data/chat-templates */
static void golden_known(void **state)
{
    (void)state;
    const char *folder = test_shared("data/chat-templates"), *file, *name;
    SKIP_WITHOUT(folder, "the folder of chat templates");
    json_t *all = load_golden(), *row, *want;
    int n_good = 0, n_all = 0;
    json_object_foreach(json_object_get(all, "templates"), file, row)
    {
        char path[1200];
        buf source = {0};
        snprintf(path, sizeof path, "%s/%s", folder, file);
        assert_ok(file_read(&source, path, 0));
        json_object_foreach(row, name, want)
        {
            talk t;
            chat_output out;
            char hex[65] = "";
            if (!json_is_array(want)) continue; /* "needs" */
            talk_open(&t, json_object_get(json_object_get(all, "conversations"), name), NULL);
            err e = render(buf_view(&source), t.m, t.n, &t.o, &out);
            sha256_hex(sha256_of(out.text.p ? out.text.p : "", out.text.n), hex);
            bool fails = json_integer_value(json_array_get(want, 0)) < 0;
            bool good = fails ? e.code : !e.code && !strcmp(hex, json_string_value(json_array_get(want, 1)));
            if (!good) print_error("%s, %s: %s\n", file, name, e.code ? e.what : fails ? "an error expected" : "another text");
            if (!e.code) check_users(&out, &t, file);
            const char *keep = getenv("CHAT_KEEP");
            if (keep && !e.code) {
                snprintf(path, sizeof path, "%s/%s.%s", keep, file, name);
                assert_ok(file_replace(path, out.text.p, out.text.n));
            } else if (keep) {
                print_message("%s.%s: %s\n", file, name, e.what);
            }
            n_good += good;
            n_all++;
            chat_output_free(&out);
            talk_close(&t);
        }
        buf_free(&source);
    }
    print_message("%d of %d renderings agree with transformers\n", n_good, n_all);
    json_decref(all);
    assert_int_equal(n_good, n_all);
}

/* ---- provenance ---- */
static const char *field_letter = "TRCO";

/* one character for each byte of the output: T R C O, or . for the template */
static void map_of(const chat_output *out, char *text, usize cap)
{
    assert_true(out->text.n < cap);
    for (usize i = 0; i < out->n_span; i++)
        for (u32 k = out->span[i].start; k < out->span[i].end; k++)
            text[k] = out->span[i].message < 0             ? '.'
                      : out->span[i].field == CHAT_CONTENT ? (char)('0' + out->span[i].message)
                                                           : field_letter[out->span[i].field];
    text[out->text.n] = 0;
}

static const char chatml[] = "{%- for m in messages %}\n"
                             "{{- '<|im_start|>' + m.role + '\\n' + m.content | trim + '<|im_end|>\\n' }}\n"
                             "{%- endfor %}\n"
                             "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

static void provenance_chatml(void **state)
{
    (void)state;
    const chat_message m[] = {
        {"system", "  Be brief.\n", NULL}, {"user", "user", NULL}, {"assistant", "안녕 <|im_end|>\n", NULL}, {"user", "", NULL}};
    const chat_options o = {.bos = "", .eos = "", .add_generation_prompt = true};
    chat_output out;
    char got[1000];
    assert_ok(render(str_of(chatml), m, 4, &o, &out));
    assert_string_equal(
        buf_cstr(&out.text),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nuser<|im_end|>\n"
        "<|im_start|>assistant\n안녕 <|im_end|><|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n");
    map_of(&out, got, sizeof got);
    assert_string_equal(got, "............RRRRRR.000000000..........."
                             "............RRRR.1111..........."
                             "............RRRRRRRRR."
                             "22222222222222222..........."
                             "............RRRR............"
                             "......................");
    chat_output_free(&out);
}

/* template, messages 0 and 1 with contents `first` and `second`: text and map */
static void provenance_of(const char *source, const char *text, const char *where)
{
    const chat_message m[] = {
        {"user", "ab한 \"c\"\nd", NULL},
        {NULL, NULL,
         "{\"role\": \"assistant\", \"content\": [{\"type\": \"text\", \"text\": \"part\"}], \"think\": \"why\","
         " \"tool_calls\": [{\"name\": \"f\", \"n\": 42, \"x\": 1.5, \"ok\": true, \"arg\": {\"k\": \"v<\\\"\", \"l\": [1, "
         "null]}}]}"}};
    const chat_options o = {.bos = "B", .eos = "E", .extra_json = "{\"given\": \"g\"}"};
    chat_output out;
    char got[1000];
    assert_ok(render(str_of(source), m, 2, &o, &out));
    map_of(&out, got, sizeof got);
    if (strcmp(buf_cstr(&out.text), text) || strcmp(got, where))
        fail_msg("%s\nexpected %s\n         %s\nfound    %s\n         %s", source, text, where, buf_cstr(&out.text), got);
    chat_output_free(&out);
}

static void provenance_operations(void **state)
{
    (void)state;
    provenance_of("{{ messages[0].content[1:4] }}x", "b한 x", "00000.");
    provenance_of("{{ messages[0].content[::-1] }}", "d\n\"c\" 한ba", "00000000000");
    provenance_of("{{ messages[0].content.split('\\n')[1] ~ '|' ~ messages[1].role }}", "d|assistant", "0.RRRRRRRRR");
    provenance_of("{{ messages[0].content[:2] | upper }}{{ 'x' | upper }}", "ABX", "00.");
    provenance_of("{{ messages[0].content | replace('b', '--') | replace('a', messages[1].role) }}", "assistant--한 \"c\"\nd",
                  "RRRRRRRRR00000000000");
    provenance_of("{{ messages[0].content[2:] | tojson }}", "\"한 \\\"c\\\"\\nd\"", "00000000000000");
    provenance_of("{{ messages[1].tool_calls[0].n }}{{ messages[1].tool_calls[0].n + 1 }}{{ messages[1].tool_calls[0].x ~ '' }}",
                  "42431.5", "OO..OOO");
    provenance_of("{{ messages[1].tool_calls[0].arg | tojson }}", "{\"k\": \"v<\\\"\", \"l\": [1, null]}",
                  "OOOOOOOOOOOOOOOOOOOOOOOOOOOOO");
    provenance_of("{{ {'a': messages[1].think} | tojson }}", "{\"a\": \"why\"}", "......OOOOO.");
    provenance_of("{% for p in messages[1].content %}[{{ p.text }}]{% endfor %}", "[part]", ".1111.");
    provenance_of("{% for k, v in messages[1].tool_calls[0].items() %}{{ k }},{% endfor %}", "name,n,x,ok,arg,",
                  "OOOO.O.O.OO.OOO.");
    provenance_of("{% set x %}<{{ messages[1].think }}>{% endset %}{{ x[2:] | trim('>') }}", "hy", "OO");
    provenance_of("{% macro q(t) %}'{{ t }}'{% endmacro %}{{ q(messages[1].think) | indent(2, true) }}", "  'why'", "...OOO.");
    provenance_of("{{ ['x', messages[1].think, 'y'] | join(messages[0].content[0]) }}", "xawhyay", ".0OOO0.");
    provenance_of("{{ '%s=%s' % (messages[1].think, given) }}{{ bos_token }}", "why=gB", "OOO...");
    provenance_of("{{ 'a{}b'.format(messages[1].think) }}{{ messages[1].think * 2 }}", "awhybwhywhy", ".OOO.OOOOOO");
    provenance_of("{{ [messages[1].think] }}{{ messages[1].think | e }}", "['why']why", ".OOOOO.OOO");
    provenance_of("{{ messages[0].content[3:] | indent(3) }}", " \"c\"\n   d", "000000000");
    provenance_of("{{ (messages[1].think ~ messages[0].content)[2:5] | title }}", "Yab", "O00");
    provenance_of("{{ messages[1].role | length }}{{ messages[1].think == 'why' }}{{ messages[1].tool_calls[0].ok }}",
                  "9TrueTrue", ".....OOOO");
    provenance_of("{% filter upper %}a{{ messages[1].think }}{% endfilter %}", "AWHY", ".OOO");
    provenance_of("{{ messages[1].tool_calls[0] | dictsort | first | last }}{{ messages | map(attribute='role') | join(',') }}",
                  "{'k': 'v<\"', 'l': [1, None]}user,assistant", "OOOOOOOOOOOOOOOOOOOOOOOOOOOORRRR.RRRRRRRRR");
}

/* a mask from the spans alone: contents of the assistant and the end marks behind them */
static void provenance_long(void **state)
{
    (void)state;
    enum { N = 400 };
    chat_message m[N];
    char content[N][32];
    chat_output out;
    for (int i = 0; i < N; i++) {
        snprintf(content[i], sizeof content[i], "%s %d 번째", i % 2 ? "A" : "Q", i);
        m[i] = (chat_message){i % 2 ? "assistant" : "user", content[i], NULL};
    }
    assert_ok(render(str_of(chatml), m, N, NULL, &out));
    int seen = 0;
    for (usize i = 0; i < out.n_span; i++) {
        const chat_span *s = &out.span[i];
        if (s->field != CHAT_CONTENT) continue;
        assert_int_equal(s->message, seen);
        assert_true(str_eq((str){out.text.p + s->start, s->end - s->start}, str_of(content[seen])));
        seen++;
    }
    assert_int_equal(seen, N);
    chat_output_free(&out);
}

/* ---- errors ---- */
static void error_says(const char *source, int code, const char *message)
{
    chat_output out;
    const chat_message m[] = {{"user", "hi", NULL}};
    err e = render(str_of(source), m, 1, NULL, &out);
    if (e.code != code || strcmp(e.what, message))
        fail_msg("%s\nexpected %s: %s\nfound    %s: %s", source, err_name(code), message, err_name(e.code),
                 e.code ? e.what : buf_cstr(&out.text));
    chat_output_free(&out);
}

static void errors(void **state)
{
    (void)state;
    error_says("a\n\n{{ x | foo }}", ERR_FORMAT, "template: line 3: filter 'foo' is not known");
    error_says("{{ x is foo }}", ERR_FORMAT, "template: line 1: test 'foo' is not known");
    error_says("a\n{% if true %}\n{{ x\n | foo }}{% endif %}", ERR_FORMAT, "template: line 4: filter 'foo' is not known");
    error_says("{% foo %}", ERR_FORMAT, "template: line 1: tag 'foo' is not known");
    error_says("\n{% include 'x' %}", ERR_FORMAT,
               "template: line 2: tag 'include' is not supported: a chat template stands alone");
    error_says("{# c\nc #}\n{%- for x in y -%}\n\n{% if x %}", ERR_FORMAT,
               "template: line 5: 'if' of line 5 is never closed by {% endif %}");
    error_says("{% for x in y %}\n{% endif %}", ERR_FORMAT, "template: line 2: 'endif' found inside 'for' of line 1");
    error_says("{{ a b }}", ERR_FORMAT, "template: line 1: 'b' found, }} expected");
    error_says("{{ (a }}", ERR_FORMAT, "template: line 1: '}' found, ')' expected");
    error_says("{% set a.b.c = 1 %}", ERR_FORMAT, "template: line 1: '.' found, %} expected");
    error_says("x {{ 'abc", ERR_FORMAT, "template: line 1: a string is never closed");
    error_says("\n{{ a", ERR_FORMAT, "template: line 2: {{ is never closed");
    error_says("{{ a ? b }}", ERR_FORMAT, "template: line 1: unexpected character '?'");
    error_says("a\n{{ messages[0].nope.x }}", ERR_FORMAT, "template: line 2: a mapping has no member 'nope'");
    error_says("{{ nope.x }}", ERR_FORMAT, "template: line 1: 'nope' is undefined");
    error_says("{{ messages[0]['a']['b'] }}", ERR_FORMAT, "template: line 1: a mapping has no member 'a'");
    error_says("{{ 1 + 'a' }}", ERR_FORMAT, "template: line 1: '+' is not possible with an integer and a string");
    error_says("{{ messages.append(1) }}", ERR_FORMAT,
               "template: line 1: 'append' of a list is not allowed: templates cannot change values");
    error_says("\n\n{{ raise_exception('roles must alternate: ' ~ messages[0].role) }}", ERR_INPUT,
               "template: line 3: roles must alternate: user");
    error_says("{{ 3 | join }}", ERR_FORMAT,
               "template: line 1: filter 'join': an integer is not a list that one can walk through");
    error_says("{{ 'a' | replace('b') }}", ERR_FORMAT,
               "template: line 1: filter 'replace': 2 arguments (old new count) expected, 1 given");
    error_says("{% macro f(a) %}\n{{ a.b }}{% endmacro %}\n\n{{ f() }}", ERR_FORMAT,
               "template: line 2: parameter 'a' was not given");
    error_says("{% macro f(a) %}{% endmacro %}\n{{ f(1, 2) }}", ERR_FORMAT,
               "template: line 2: macro 'f' takes at most 1 arguments, 2 given");
    error_says("{% break %}", ERR_FORMAT, "template: line 1: 'break' outside of a loop");
    error_says("{% set x.y = 1 %}", ERR_FORMAT,
               "template: line 1: '.y' can be set in a namespace only, not in an undefined value");
}

static void input_errors(void **state)
{
    (void)state;
    chat_output out;
    const chat_message bad_json[] = {{"user", "a", NULL}, {NULL, NULL, "{\"role\": "}}, list[] = {{NULL, NULL, "[1]"}},
                       fine[] = {{"user", "a", NULL}};
    const chat_options tools = {.tools_json = "{}"}, broken = {.tools_json = "["}, extra = {.extra_json = "[]"};
    err e = render(S("x"), bad_json, 2, NULL, &out);
    assert_int_equal(e.code, ERR_INPUT);
    assert_true(str_starts(str_of(e.what), S("message 1 is not valid JSON: ")));
    assert_int_equal(render(S("x"), list, 1, NULL, &out).code, ERR_INPUT);
    assert_int_equal(render(S("x"), fine, 1, &tools, &out).code, ERR_INPUT);
    assert_int_equal(render(S("x"), fine, 1, &broken, &out).code, ERR_INPUT);
    assert_int_equal(render(S("x"), fine, 1, &extra, &out).code, ERR_INPUT);
    assert_ok(render(S("x"), NULL, 0, NULL, &out));
    chat_output_free(&out);
    assert_ok(render(S(""), fine, 1, NULL, &out));
    assert_int_equal(out.text.n, 0);
    chat_output_free(&out);
    chat_output_free(NULL);
    chat_template_free(NULL);
}

/* ---- hostile templates ---- */
static char *repeated(const char *head, const char *part, usize n, const char *middle, const char *other, const char *tail)
{
    buf b = {0};
    buf_puts(&b, head);
    for (usize i = 0; i < n; i++) buf_puts(&b, part);
    buf_puts(&b, middle);
    for (usize i = 0; i < n; i++) buf_puts(&b, other);
    buf_puts(&b, tail);
    return buf_take(&b);
}

static void ends_soon(const char *source, const char *part)
{
    chat_output out;
    const chat_message m[] = {{"user", "hi", NULL}};
    double start = clock_s();
    err e = render(str_of(source), m, 1, NULL, &out);
    double took = clock_s() - start;
    if (!e.code) fail_msg("no error: %.100s", source);
    if (!strstr(e.what, part)) fail_msg("%.100s\nexpected ... %s ...\nfound    %s", source, part, e.what);
    if (took > 20) fail_msg("%.100s took %.1f s", source, took);
    if (took > 1) print_message("%.1f s: %.60s\n", took, source);
}

static void hostile_source(void **state)
{
    (void)state;
    static const char *const nest[][6] = {
        {"{{ ", "(", "1", ")", " }}", "nested too deeply"},
        {"{{ ", "[", "1", "]", " }}", "nested too deeply"},
        {"{{ ", "{1:", "1", "}", " }}", "nested too deeply"},
        {"{{ ", "- ", "1", "", " }}", "nested too deeply"},
        {"{{ ", "not ", "1", "", " }}", "nested too deeply"},
        {"{{ 1", " if 1 else 1", "", "", " }}", "nested too deeply"},
        {"{{ 1", " + 1", "", "", " }}", "nested too deeply"},
        {"{{ 1", " ** 1", "", "", " }}", "nested too deeply"},
        {"{{ 1", " and 1", "", "", " }}", "nested too deeply"},
        {"{{ a", ".a", "", "", " }}", "nested too deeply"},
        {"{{ a", "[0]", "", "", " }}", "nested too deeply"},
        {"{{ a", "()", "", "", " }}", "nested too deeply"},
        {"{{ 'a'", "|upper", "", "", " }}", "nested too deeply"},
        {"{{ 1", " if 1", "", "", " }}", "nested too deeply"},
        {"{% set ", "(", "a", ")", " = 1 %}", "nested too deeply"},
        {"", "{% if 1 %}", "", "{% endif %}", "", "nested too deeply"},
        {"", "{% for a in [1] %}", "", "{% endfor %}", "", "nested too deeply"},
        {"", "{% macro a() %}", "", "{% endmacro %}", "", "nested too deeply"},
        {"{{ 1", " < 1", "", "", " }}", "more than 64 comparisons"},
        {"{% macro a(", "a,", "", "", ") %}", "two parameters have the same name"},
        {"{% filter upper", "|upper", "", "", " %}{% endfilter %}", "nested too deeply"},
    };
    for (usize i = 0; i < COUNT_OF(nest); i++) {
        char *s = repeated(nest[i][0], nest[i][1], 100000, nest[i][2], nest[i][3], nest[i][4]);
        ends_soon(s, nest[i][5]);
        mem_free(s);
    }
    char *flat = repeated("{{ [", "1,", 100000, "] | length }}{{ {", "'a':1,", "} | length }}");
    chat_output out;
    assert_ok(render(str_of(flat), NULL, 0, NULL, &out));
    assert_string_equal(buf_cstr(&out.text), "1000001");
    chat_output_free(&out);
    mem_free(flat);
}

static void hostile_rendering(void **state)
{
    (void)state;
    ends_soon("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "out of fuel");
    ends_soon("\n{% for a in range(100000) %}{% for b in range(100000) %}\n{{ a }}{% endfor %}{% endfor %}",
              "template: line 3: out of fuel inside 'for' of line 2");
    ends_soon("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", "nested too deeply");
    ends_soon("\n{% for a in [1, 1] recursive %}{% if loop.depth < 60 %}{{ loop([1, 1]) }}{% endif %}{% endfor %}",
              "out of fuel inside 'for' of line 2");
    ends_soon("{% macro f(n) %}\n{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
              "out of fuel inside macro 'f' of line 1");
    ends_soon("{% for a in range(100000) %}{% for b in range(100000) %}{% set c = 'x' ~ a %}{% endfor %}{% endfor %}",
              "out of fuel");
    ends_soon("{{ range(10000000000) }}", "at most 100000 items");
    ends_soon("{{ range(-9223372036854775807, 9223372036854775807) }}", "at most 100000 items");
    ends_soon("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deeply");
    ends_soon("{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "nested too deeply");
    ends_soon("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", "out of fuel");
    ends_soon(
        "{% macro f(x) %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f(1) %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}",
        "nested too deeply");
    ends_soon("{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "256 MiB");
    ends_soon("{% set ns = namespace(x='ab') %}{% for i in range(100) %}{% set ns.x = ns.x | replace('a', ns.x) %}{% endfor %}",
              "out of fuel");
    ends_soon("{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "out of fuel");
    ends_soon("{{ 'a' * 10000000000 }}", "out of fuel");
    ends_soon("{{ [1] * 9223372036854775807 }}", "out of fuel");
    ends_soon("{{ 'a'.ljust(9223372036854775807) }}", "out of fuel");
    ends_soon("{{ 'a' | indent(9223372036854775807, true) }}", "out of fuel");
    ends_soon("{{ '%999999999d' % 1 }}", "at most 1000");
    ends_soon("{{ [1] | tojson(indent=999999999) }}", "at most 1000");
    ends_soon("{{ [1] | batch(9223372036854775807, 1) | list }}", "out of fuel");
    ends_soon("{{ [1] | slice(9223372036854775807) | list }}", "out of fuel");
    ends_soon("{{ 9223372036854775807 + 1 }}", "64 bits");
    ends_soon("{{ -9223372036854775807 - 2 }}", "64 bits");
    ends_soon("{{ 10 ** 1000 }}", "64 bits");
    ends_soon("{{ (-9223372036854775807 - 1) // -1 }}", "64 bits");
    ends_soon("{{ (-9223372036854775807 - 1) | abs }}", "64 bits");
    ends_soon("{{ 9223372036854775807 | round(-19) }}", "64 bits");
    ends_soon("{{ 99999999999999999999 }}", "too large");
    ends_soon("{{ 'aaa' | int(base=99) }}", "base from 2 to 36");
    ends_soon("{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
              "nested too deeply to be written");
    ends_soon("{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
              "nested too deeply for JSON");
    ends_soon("{% set ns = namespace(x=[], y=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% "
              "endfor %}{{ ns.x == ns.y }}",
              "nested too deeply to be compared");
    ends_soon("{% set ns = namespace(x=(), d={}) %}{% for i in range(1000) %}{% set ns.x = (ns.x,) %}{% endfor %}{{ {ns.x: 1} }}",
              "cannot be a key");
    ends_soon("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", "nested too deeply to be written");
    ends_soon("{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
              "out of fuel");
    ends_soon("{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson "
              "| length }}",
              "out of fuel");
    ends_soon("{% for i in range(100000) %}{{ ('x' * 10000).split('x') | join('y') | upper }}{% endfor %}", "out of fuel");
    ends_soon("{% set s = 'ab' * 50000 %}{% for i in range(100000) %}{{ s.find('bb') }}{{ s.count('ab') }}{% endfor %}",
              "out of fuel");
    ends_soon("{{ range(-9000000000000000000, 9000000000000000000, 1000000000000000000) | list }}{{ "
              "'a'.ljust(-9223372036854775807 - 1) }}{{ nope.x }}",
              "undefined");
    ends_soon("{% for i in range(100000) %}{{ ('a' * 900000).rsplit('b' ~ 'a' * 400000) }}{% endfor %}", "out of fuel");
    ends_soon("{% for a in range(100000) if true %}{{ loop.length }}{% endfor %}", "out of fuel");
    buf many = {0};
    buf_puts(&many, "{% for a in [1] %}");
    for (int i = 0; i < 100000; i++) buf_fmt(&many, "{%% set x%d = 1 %%}", i);
    buf_puts(&many, "{% endfor %}");
    ends_soon(buf_cstr(&many), "out of fuel");
    buf_free(&many);
    ends_soon("{{ strftime_now('%9999999Y') }}", "date");
    ends_soon("{% for a in messages %}{{ ['x'] | map('map', 'map', 'map', 'map') | list }}{% endfor %}", "a name expected");
}

static void fuel_is_counted(void **state)
{
    (void)state;
    const chat_message m[] = {{"user", "hi", NULL}};
    chat_template *t;
    chat_output out;
    assert_ok(chat_template_new(&t, S("{% for i in range(100) %}{{ i }}{% endfor %}")));
    i64 low = 1, high = 100000; /* the least fuel that suffices is found, and less never does */
    while (low < high) {
        i64 mid = (low + high) / 2;
        err e = chat_render(t, m, 1, &(chat_options){.fuel = mid}, &out);
        if (e.code) assert_non_null(strstr(e.what, "out of fuel"));
        if (e.code)
            low = mid + 1;
        else
            high = mid;
        chat_output_free(&out);
    }
    assert_true(low > 300 && low < 5000);
    chat_template_free(t);
}

typedef struct {
    const chat_template *t;
    bool good;
} worker;

static void *render_often(void *arg)
{
    worker *w = arg;
    const chat_message m[] = {{"user", "안녕", NULL}, {"assistant", "hello", NULL}};
    w->good = true;
    for (int i = 0; i < 200; i++) {
        chat_output out;
        err e = chat_render(w->t, m, 2, NULL, &out);
        w->good &=
            !e.code && !strcmp(buf_cstr(&out.text), "<|im_start|>user\n안녕<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n");
        chat_output_free(&out);
    }
    return NULL;
}

static void many_threads(void **state)
{
    (void)state;
    chat_template *t;
    pthread_t thread[4];
    worker w[4];
    assert_ok(chat_template_new(&t, str_of(chatml)));
    for (int i = 0; i < 4; i++) {
        w[i].t = t;
        assert_int_equal(pthread_create(&thread[i], NULL, render_often, &w[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
        assert_true(w[i].good);
    }
    chat_template_free(t);
}

/* a failing allocation, at each place in turn, is an error and leaks nothing */
static void no_memory(void **state)
{
    (void)state;
    static const char source[] = "{% macro f(a) %}{{ a | tojson }}{% endmacro %}{% for m in messages %}{{ f(m) }}{{ m.content | "
                                 "upper }}{% endfor %}{{ 'a' 'b' }}";
    const chat_message m[] = {{"user", "hi", NULL}, {NULL, NULL, "{\"role\": \"a\", \"content\": [1, 2]}"}};
    usize before = mem_now();
    bool done = false;
    for (i64 i = 1; !done && i < 2000; i++) {
        chat_output out;
        mem_fail_at(i);
        err e = render(str_of(source), m, 2, NULL, &out);
        done = mem_fail_count() < i;
        mem_fail_at(0);
        if (!done)
            assert_int_equal(e.code, ERR_NOMEM);
        else
            assert_ok(e);
        chat_output_free(&out);
        assert_int_equal(mem_now(), before);
    }
    assert_true(done);
}

int main(void)
{
    setenv("SOURCE_DATE_EPOCH", "1753750923", 1); /* EPOCH of tests/golden/chat_golden.py */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_small),          cmocka_unit_test(golden_known),    cmocka_unit_test(provenance_chatml),
        cmocka_unit_test(provenance_operations), cmocka_unit_test(provenance_long), cmocka_unit_test(errors),
        cmocka_unit_test(input_errors),          cmocka_unit_test(hostile_source),  cmocka_unit_test(hostile_rendering),
        cmocka_unit_test(fuel_is_counted),       cmocka_unit_test(no_memory),       cmocka_unit_test(many_threads),
    };
    return cmocka_run_group_tests_name("chat", tests, NULL, NULL);
}
