/* tests/tune/test_data.c - formats, what they give, and each refusal with its line. */
#include "data_help.h"

static bytes_model chat, plain;

static tune_data *read_with(bytes_model *b, const char *name, const char *text, tune_opts o)
{
    tune_data *d;
    assert_ok(tune_data_read(&d, &b->m, name, str_of(text), &o));
    return d;
}

static const tune_problem *problem(const tune_data *d, const char *kind)
{
    for (usize i = 0; i < d->n_problems; i++)
        if (!strcmp(d->problem[i].kind, kind)) return &d->problem[i];
    return NULL;
}

/* ---- formats ---- */
typedef struct {
    const char *name, *text;
    tune_format format;
    usize samples;
    const char *whole, *learned;
} format_case;
#define ASK "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
static const format_case formats[] = {
    {"a.jsonl", "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"r\"}]}\n",
     TUNE_MESSAGES, 1, ASK "r<|im_end|>\n", "r<|im_end|>"},
    {"a.json",
     "[{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"r\"}]}\n, "
     "{\"messages\":[{\"role\":\"assistant\",\"content\":\"]\\\"}\"}]}]",
     TUNE_MESSAGES, 2, ASK "r<|im_end|>\n", "r<|im_end|>"},
    {"a.jsonl", "{\"conversations\":[{\"from\":\"human\",\"value\":\"q\"},{\"from\":\"gpt\",\"value\":\"r\"}]}",
     TUNE_CONVERSATIONS, 1, ASK "r<|im_end|>\n", "r<|im_end|>"},
    {"a.jsonl", "{\"conversations\":[{\"from\":\"gpt\",\"value\":\"r\"}],\"system\":\"s\"}", TUNE_CONVERSATIONS, 1,
     "<|im_start|>system\ns<|im_end|>\n<|im_start|>assistant\nr<|im_end|>\n", "r<|im_end|>"},
    {"a.json", "[{\"instruction\":\"q\",\"input\":\"\",\"output\":\"r\"}]", TUNE_INSTRUCTION, 1, ASK "r<|im_end|>\n",
     "r<|im_end|>"},
    {"a.jsonl", "{\"instruction\":\"q\",\"input\":\"i\",\"output\":\"r\"}", TUNE_INSTRUCTION, 1,
     "<|im_start|>user\nq\n\ni<|im_end|>\n<|im_start|>assistant\nr<|im_end|>\n", "r<|im_end|>"},
    {"a.csv", "instruction,input,output\nq,,r\n", TUNE_INSTRUCTION, 1, ASK "r<|im_end|>\n", "r<|im_end|>"},
    {"a.jsonl", "{\"prompt\":\"q: \",\"completion\":\"r\"}", TUNE_PROMPT, 1, "q: r<|im_end|>", "r<|im_end|>"},
    {"a.jsonl",
     "{\"prompt\":[{\"role\":\"user\",\"content\":\"q\"}],\"completion\":[{\"role\":\"assistant\",\"content\":\"r\"}]}",
     TUNE_PROMPT, 1, ASK "r<|im_end|>\n", "r<|im_end|>"},
    {"a.csv", "Q,A\n\"q, \"\"x\"\"\",\"r\nr\"\n", TUNE_PROMPT, 1, "q, \"x\"r\nr<|im_end|>", "r\nr<|im_end|>"},
    {"a.txt", "\xEF\xBB\xBFone\r\ntwo\n<|endoftext|>\nthree\n<|endoftext|>\n", TUNE_TEXT, 2, "one\r\ntwo<|im_end|>",
     "ne\r\ntwo<|im_end|>"},
    {"a.jsonl", "{\"text\":\"one\"}\r\n\r\n{\"text\":\"two\"}", TUNE_TEXT, 2, "one<|im_end|>", "ne<|im_end|>"},
    {"a.jsonl", "{\"text\":\"t\",\"label\":1}\n{\"text\":\"u\",\"label\":\"0\"}\n", TUNE_LABEL, 2, "t\nlabel: 1", " 1"},
    {"a.tsv", "id\tdocument\tlabel\n1\t\"t\tx\n2\tu\ty\n", TUNE_LABEL, 2, "\"t\nlabel: x", " x"},
    {"a.txt", "id\tdocument\tlabel\n1\tt\tx\n2\tu\ty\n", TUNE_LABEL, 2, "t\nlabel: x", " x"},
    {"a.tsv", "0\tone\n0\ttwo\n1\tthree\n", TUNE_LABEL, 3, "one\nlabel: 0", " 0"},
    {"a.csv", "one;0\ntwo;0\nthree;1\n", TUNE_LABEL, 3, "one\nlabel: 0", " 0"},
};

static void every_format(void **state)
{
    (void)state;
    for (usize i = 0; i < COUNT_OF(formats); i++) {
        const format_case *f = &formats[i];
        tune_data *d = read_with(&chat, f->name, f->text, (tune_opts){0});
        err ready = tune_data_ready(d);
        if (ready.code) fail_msg("case %zu: %s", i, ready.what);
        if (d->file[0].format != f->format) fail_msg("case %zu: %s", i, tune_format_name[d->file[0].format]);
        assert_int_equal(d->n_samples, f->samples);
        char *whole = whole_text(d, 0);
        if (strcmp(whole, f->whole)) fail_msg("case %zu:\n%s\nexpected:\n%s", i, whole, f->whole);
        assert_learned(d, 0, f->learned);
        mem_free(whole);
        tune_data_free(d);
    }
}

static void without_a_template(void **state)
{
    (void)state;
    tune_data *d = read_with(&plain, "a.jsonl", "{\"instruction\":\"q\",\"input\":\"i\",\"output\":\"r\"}", (tune_opts){0});
    char *whole = whole_text(d, 0);
    assert_string_equal(whole, "q\n\ni\n\nr<|im_end|>");
    mem_free(whole);
    tune_data_free(d);
    err e = tune_data_read(&d, &plain.m, "a.jsonl", S("{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}"), NULL);
    assert_int_equal(e.code, ERR_UNSUPPORTED);
    assert_null(d);
}

static void function_calls(void **state) /* ShareGPT's spelling becomes the template's */
{
    (void)state;
    bytes_model b;
    bytes_model_new(
        &b, CHATML_TOKENS, NULL, "<|im_end|>", 0,
        "{% for t in tools %}{{ t.function.name }};{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n{% if "
        "m.tool_calls %}{% for c in m.tool_calls %}CALL {{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}"
        "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% "
        "endif %}");
    tune_data *d =
        read_with(&b, "a.jsonl",
                  "{\"conversations\":[{\"from\":\"human\",\"value\":\"q\"},{\"from\":\"function_call\",\"value\":\"{"
                  "\\\"name\\\":\\\"f\\\",\\\"arguments\\\":{\\\"x\\\":1}}\"},{\"from\":\"observation\",\"value\":\"2\"},"
                  "{\"from\":\"gpt\",\"value\":\"r\"}],\"tools\":\"[{\\\"name\\\":\\\"f\\\"}]\"}",
                  (tune_opts){0});
    assert_ok(tune_data_ready(d));
    assert_learned(d, 0, "CALL f({\"x\": 1})<|im_end|>|r<|im_end|>");
    char *whole = whole_text(d, 0);
    assert_int_equal(strncmp(whole, "f;<|im_start|>", 14), 0);
    mem_free(whole);
    tune_data_free(d);
    bytes_model_free(&b);
}

/* ---- refusals ---- */
typedef struct {
    const char *name, *text, *kind;
    u32 line;
    const char *said;
    tune_opts o;
} refusal;
#define ROW "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"r\"}]}\n"
static const refusal refusals[] = {
    {"a.jsonl", "", "empty", 0, "empty", {0}},
    {"a.jsonl", " \n\n", "empty", 0, "empty", {0}},
    {"a.txt", "<|endoftext|>\n<|endoftext|>", "empty", 0, "no text", {0}},
    {"a.jsonl", ROW "{\"messages\":[\n" ROW, "malformed", 2, "no JSON", {0}},
    {"a.jsonl", ROW "[1]\n", "malformed", 2, "object", {0}},
    {"a.json", "[" ROW ",{\"messages\":oops}]", "malformed", 2, "no JSON", {0}},
    {"a.json", "[" ROW, "malformed", 2, "]", {0}},
    {"a.json", "[" ROW "] more", "malformed", 2, "behind", {0}},
    {"a.jsonl", ROW "\n{\"text\":\"x\"}\n", "mixed", 3, "text found, but line 1 is messages", {0}},
    {"a.jsonl", "{\"question\":\"x\",\"reply\":\"y\"}\n", "unknown-format", 1, "question, reply", {0}},
    {"a.jsonl", "{\"prompt\":\"x\",\"chosen\":\"y\",\"rejected\":\"z\"}\n", "unknown-format", 1, "preference", {0}},
    {"a.jsonl", "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}\n", "no-target", 1, "no token", {0}},
    {"a.jsonl", "{\"messages\":[]}\n", "empty", 1, "no messages", {0}},
    {"a.jsonl", "{\"messages\":[{\"role\":\"user\"}]}\n", "malformed", 1, "message 1", {0}},
    {"a.jsonl", "{\"messages\":[\"hello\"]}\n", "malformed", 1, "message 1", {0}},
    {"a.jsonl",
     "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"\"}]}\n",
     "empty",
     1,
     "says nothing",
     {0}},
    {"a.jsonl", "{\"conversations\":[{\"from\":\"alien\",\"value\":\"q\"}]}\n", "malformed", 1, "turn 1", {0}},
    {"a.jsonl", "{\"conversations\":[{\"from\":\"function_call\",\"value\":\"f(1)\"}]}\n", "malformed", 1, "turn 1", {0}},
    {"a.jsonl", "{\"prompt\":\"q\",\"completion\":\" \"}\n", "empty", 1, "completion", {0}},
    {"a.jsonl", "{\"instruction\":\"q\",\"output\":\"\"}\n", "empty", 1, "output", {0}},
    {"a.jsonl", "{\"text\":\"\"}\n", "empty", 1, "text is empty", {0}},
    {"a.jsonl", "{\"text\":\"x\",\"label\":\"a\"}\n{\"text\":\" \",\"label\":\"b\"}\n", "empty", 2, "text is empty", {0}},
    {"a.jsonl",
     "{\"text\":\"x\",\"label\":\"a\"}\n{\"text\":\"y\",\"label\":\"c\"}\n",
     "unknown-label",
     2,
     "\"c\", expected one of --labels a=1,b=2",
     {.labels = "a=1,b=2"}},
    {"a.jsonl", "{\"text\":\"x\",\"label\":\"a\"}\n{\"text\":\"y\",\"label\":[]}\n", "malformed", 2, "label", {0}},
    {"a.jsonl", "{\"text\":\"x\",\"label\":\"a\"}\n{\"text\":\"y\",\"label\":\"a\"}\n", "no-target", 0, "two labels", {0}},
    {"a.tsv", "text\tlabel\nx\ta\ny\n", "malformed", 3, "1 fields, expected 2", {0}},
    {"a.tsv", "text\tlabel\nx\ta\n\xFF\tb\n", "malformed", 3, "UTF-8", {0}},
    {"a.csv", "text,label\nx,a\n\"y,b\nz,c\n", "malformed", 3, "never closes", {0}},
    {"a.csv", "1,2,3\n4,5,6\n", "unknown-format", 1, "3 columns", {0}},
    {"a.csv", "a,b\nc,d\ne,f\ng,h\ni,j\nk,l\nm,n\no,p\nq,r\n", "unknown-format", 1, "repeat", {0}},
    {"a.jsonl",
     ROW "{\"messages\":[{\"role\":\"user\",\"content\":\"a long question\"},{\"role\":\"assistant\",\"content\":\"r\"}]}\n",
     "too-long",
     2,
     "expected at most 36",
     {.ctx = 36}},
    {"a.jsonl",
     "{\"prompt\":\"a prompt of its own\",\"completion\":\"r\"}\n",
     "no-target",
     1,
     "none of those",
     {.ctx = 8, .truncate = true}},
    {"a.txt", "(\xB5/\xFD zstd", "unknown-format", 0, "compressed", {0}},
    {"a.txt", "fine\n<|endoftext|>\nbad \xC3( \n", "malformed", 3, "UTF-8", {0}},
};

static void every_refusal(void **state)
{
    (void)state;
    for (usize i = 0; i < COUNT_OF(refusals); i++) {
        const refusal *r = &refusals[i];
        tune_data *d = read_with(&chat, r->name, r->text, r->o);
        const tune_problem *p = problem(d, r->kind);
        if (!p) fail_msg("case %zu: %s", i, d->n_problems ? d->problem[0].message : "no problem");
        if (p->line != r->line) fail_msg("case %zu: line %u: %s", i, p->line, p->message);
        if (!strstr(p->message, r->said)) fail_msg("case %zu: %s", i, p->message);
        assert_true(p->refuse && d->n_refused >= 1);
        err e = tune_data_ready(d);
        assert_int_equal(e.code, ERR_FORMAT);
        assert_non_null(strstr(e.what, r->name));
        tune_data_free(d);
    }
}

static void other_refusals(void **state)
{
    (void)state;
    bytes_model b;
    tune_data *d;
    bytes_model_new(&b, "<s> </s>", "<s>", "</s>", 1, NULL);
    d = read_with(&b, "a.jsonl", "{\"prompt\":\"<s>q\",\"completion\":\"r\"}", (tune_opts){.special = true});
    assert_ok(tune_data_ready(d)); /* the text's own BOS is the one */
    tune_data_free(d);
    d = read_with(&b, "a.jsonl", "{\"prompt\":\"<s><s>q\",\"completion\":\"r\"}", (tune_opts){.special = true});
    assert_non_null(problem(d, "double-bos"));
    tune_data_free(d);
    d = read_with(&b, "a.jsonl", "{\"text\":\"<s>q\"}", (tune_opts){.special = true});
    assert_non_null(problem(d, "double-bos"));
    tune_data_free(d);
    bytes_model_free(&b);
    bytes_model_new(&b, "<s> </s>", NULL, NULL, 0, "{% for m in messages %}{{ m.content }}{% endfor %}");
    d = read_with(&b, "a.jsonl", ROW, (tune_opts){0});
    assert_non_null(problem(d, "no-end-of-turn"));
    tune_data_free(d);
    bytes_model_free(&b);
    bytes_model_new(&b, CHATML_TOKENS, NULL, "<|im_end|>", 0, "{{ raise_exception('roles must alternate') }}");
    d = read_with(&b, "a.jsonl", ROW, (tune_opts){0});
    assert_non_null(problem(d, "template"));
    assert_non_null(strstr(problem(d, "template")->message, "roles must alternate"));
    tune_data_free(d);
    bytes_model_free(&b);
    static const tune_opts bad[] = {
        {.ctx = 1},        {.ctx = 5000},         {.template = "no place"}, {.template = "{text}{text}"},
        {.labels = "a=1"}, {.labels = "a=1,a=2"}, {.labels = "a=1,b=1"},    {.labels = "a=,b=1"},
        {.labels = ",="}};
    for (usize i = 0; i < COUNT_OF(bad); i++) {
        err e = tune_data_read(&d, &chat.m, "a.jsonl", S(ROW), &bad[i]);
        if (e.code != ERR_INPUT) fail_msg("case %zu: %d %s", i, e.code, e.what ? e.what : "");
        assert_null(d);
    }
    assert_int_equal(tune_data_open(&d, &chat.m, (const char *const[]){"/nosuch/file.jsonl"}, 1, NULL).code, ERR_NOTFOUND);
    assert_int_equal(tune_data_open(&d, &chat.m, (const char *const[]){"/"}, 1, NULL).code, ERR_INPUT);
    assert_int_equal(tune_data_open(&d, &chat.m, NULL, 0, NULL).code, ERR_INPUT);
}

/* ---- the form of labels ---- */
static void the_form(void **state)
{
    (void)state;
    const char *rows = "text\tlabel\n재밌다\t긍정\n지루하다\t부정\n";
    tune_data *d =
        read_with(&chat, "a.tsv", rows, (tune_opts){.template = "리뷰: {text}\\n감정:", .labels = "부정= bad,긍정= good"});
    assert_ok(tune_data_ready(d));
    char *whole = whole_text(d, 0);
    assert_string_equal(whole, "리뷰: 재밌다\n감정: good");
    mem_free(whole);
    assert_learned(d, 0, " good");
    assert_int_equal(d->sample[0].label, 1);
    assert_int_equal(d->label[1].n, 1);
    assert_string_equal(d->template, "리뷰: {text}\\n감정:");
    assert_string_equal(d->labels, "부정= bad,긍정= good");
    tune_data *again = read_with(&chat, "a.tsv", rows,
                                 (tune_opts){.template = d->template, .labels = d->labels}); /* as an artifact keeps them */
    assert_true(again->hash == d->hash);
    ids with = {0}, prompt = {0};
    usize n_prompt;
    assert_ok(tune_data_form(d, S("재밌다"), 1, &with, &n_prompt));
    assert_int_equal(with.n, d->sample[0].n);
    assert_memory_equal(with.id, d->id, with.n * sizeof *with.id);
    assert_int_equal(n_prompt, d->sample[0].n_prompt);
    assert_ok(tune_data_form(d, S("재밌다"), -1, &prompt, NULL));
    assert_int_equal(prompt.n, n_prompt);
    assert_int_equal(tune_data_form(d, S("x"), 2, &with, NULL).code, ERR_INPUT);
    ids_free(&with);
    ids_free(&prompt);
    tune_data_free(again);
    tune_data_free(d);
    d = read_with(&chat, "a.tsv", "text\tlabel\nlonger than that\ta\nx\tb\n",
                  (tune_opts){.template = "<|im_start|>{text}:", .labels = "a=A\\,1,b=B", .ctx = 10, .truncate = true});
    assert_ok(tune_data_ready(d));
    whole = whole_text(d, 0);
    assert_string_equal(whole, "<|im_start|>longe:A,1"); /* the text lost its end; form and word are whole */
    assert_int_equal(d->sample[0].n, 10);
    assert_int_equal(token_kind_of(chat.m.tok, d->id[0]), TOKEN_CONTROL); /* the option may name one */
    assert_non_null(problem(d, "truncated"));
    assert_string_equal(d->labels, "a=A\\,1,b=B");
    mem_free(whole);
    tune_data_free(d);
}

static void notes(void **state)
{
    (void)state;
    tune_data *d = read_with(
        &chat, "a.jsonl",
        "{\"prompt\":\"long prompt\",\"completion\":\"abcdefgh\"}\n{\"prompt\":\"long prompt\",\"completion\":\"abcdefgi\"}",
        (tune_opts){.ctx = 15, .truncate = true});
    assert_ok(tune_data_ready(d));
    assert_int_equal(problem(d, "truncated")->n, 2);
    assert_int_equal(d->n_problems, 1);
    assert_learned(d, 1, "abcd");
    tune_data_free(d);
    d = read_with(&chat, "a.jsonl", "{\"prompt\":\"q \",\"completion\":\"a\"}", (tune_opts){0}); /* " a" is one token */
    assert_non_null(problem(d, "boundary"));
    assert_learned(d, 0, " a<|im_end|>");
    tune_data_free(d);
    d = read_with(&chat, "a.csv", "q,a,label\nx,y,1\n", (tune_opts){0});
    assert_non_null(strstr(problem(d, "unused-column")->message, "label"));
    tune_data_free(d);
    d = read_with(&chat, "a.txt", "text", (tune_opts){.labels = "a,b"});
    assert_non_null(problem(d, "unused-form"));
    tune_data_free(d);
}

/* many problems are counted, the first thousand kept, the good rows kept too */
static void many_problems(void **state)
{
    (void)state;
    buf rows = {0};
    for (int i = 0; i < 3000; i++) buf_puts(&rows, i % 2 ? "{\"text\":\"fine\"}\n" : "{broken\n");
    tune_data *d = read_with(&chat, "a.jsonl", buf_cstr(&rows), (tune_opts){0});
    assert_int_equal(d->n_refused, 1500);
    assert_int_equal(d->n_problems, 1000);
    assert_int_equal(d->n_samples, 1500);
    assert_int_equal(d->problem[1].line, 3);
    assert_non_null(strstr(tune_data_ready(d).what, "1499 more"));
    tune_data_free(d);
    buf_free(&rows);
}

static void memory_may_end(void **state)
{
    (void)state;
    const char *rows =
        ROW "{\"messages\":[{\"role\":\"user\",\"content\":\"<|im_end|>\"},{\"role\":\"assistant\",\"content\":\"r\"}]}\n{bad\n";
    for (i64 n = 1;; n++) {
        tune_data *d;
        usize before = mem_now();
        mem_fail_at(n);
        err e = tune_data_read(&d, &chat.m, "a.jsonl", str_of(rows), NULL);
        bool reached = mem_fail_count() >= n;
        mem_fail_at(0);
        if (!e.code) tune_data_free(d);
        if (!reached) break;
        if (!e.code) continue; /* done without: a message that was not kept */
        if (e.code != ERR_NOMEM) fail_msg("allocation %lld: %d %s", (long long)n, e.code, e.what);
        assert_null(d);
        assert_int_equal(mem_now(), before);
        assert_true(n < 5000);
    }
}

/* ---- public data ---- */
static void public_sets(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        tune_format format;
        usize least;
    } sets[] = {{"data/instruct/en/instruction-data.json", TUNE_INSTRUCTION, 1000},
                {"data/instruct/ko/evolve_article.json", TUNE_INSTRUCTION, 20},
                {"data/cls-english/sst2/dev.tsv", TUNE_LABEL, 870},
                {"data/cls-korean/3i4k/fci_test.txt", TUNE_TEXT, 1}};
    SKIP_WITHOUT(test_shared(sets[0].path), "data/instruct");
    for (usize i = 0; i < COUNT_OF(sets); i++) {
        tune_data *d;
        const char *path = test_shared(sets[i].path);
        assert_ok(tune_data_open(&d, &chat.m, &path, 1, &(tune_opts){.ctx = 4096, .truncate = true}));
        if (d->n_samples < sets[i].least || d->file[0].format != sets[i].format)
            fail_msg("%s: %zu %s %s", path, d->n_samples, tune_format_name[d->file[0].format],
                     d->n_problems ? d->problem[0].message : "");
        tune_data_free(d);
    }
    const char *both[] = {test_shared("data/cls-english/sst2/dev.tsv"), test_shared("data/cls-english/sst2/test.tsv")};
    tune_data *d;
    assert_ok(tune_data_open(&d, &chat.m, both, 2, &(tune_opts){.labels = "0= bad,1= good"}));
    assert_int_equal(d->n_files, 2);
    assert_int_equal(d->n_samples, d->file[0].n_samples + d->file[1].n_samples);
    assert_int_equal(d->label[0].n + d->label[1].n, d->n_samples);
    assert_ok(tune_data_ready(d));
    tune_data_free(d);
}

int main(void)
{
    bytes_model_new(&chat, CHATML_TOKENS, NULL, "<|im_end|>", 0, chatml);
    bytes_model_new(&plain, CHATML_TOKENS, NULL, "<|im_end|>", 0, NULL);
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_format),   cmocka_unit_test(without_a_template),
                                       cmocka_unit_test(function_calls), cmocka_unit_test(every_refusal),
                                       cmocka_unit_test(other_refusals), cmocka_unit_test(the_form),
                                       cmocka_unit_test(notes),          cmocka_unit_test(many_problems),
                                       cmocka_unit_test(memory_may_end), cmocka_unit_test(public_sets)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    bytes_model_free(&chat);
    bytes_model_free(&plain);
    return failed;
}
