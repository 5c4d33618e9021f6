/* tests/fuzz/fuzz_chat.c - any bytes as a chat template: an error with a line, or a text that spans cover exactly, the same
 * twice. */
#include "text/text.h"

static const chat_message talk[] = {
    {"system", "Be brief.", NULL},
    {"user", " 한국어 <b> 'q'\n\n", NULL},
    {NULL, NULL,
     "{\"role\": \"assistant\", \"content\": [{\"type\": \"text\", \"text\": \"hi\"}], \"tool_calls\": [{\"function\": "
     "{\"name\": \"f\","
     " \"arguments\": {\"x\": [1, 2.5, null, true], \"y\": \"z\"}}}]}"},
    {"tool", "{\"a\": 1}", NULL},
};
static const chat_options options = {
    .bos = "<s>",
    .eos = "</s>",
    .add_generation_prompt = true,
    .fuel = 50000,
    .tools_json = "[{\"function\": {\"name\": \"f\", \"parameters\": {}}}]",
    .extra_json = "{\"d\": {\"b\": 2, \"A\": [1]}}",
};

static bool covered(const chat_output *out)
{
    u32 at = 0;
    for (usize i = 0; i < out->n_span; i++) {
        const chat_span *s = &out->span[i];
        if (s->start != at || s->end <= at || s->message < -1 || s->message >= (i32)COUNT_OF(talk) || s->field > CHAT_OTHER)
            return false;
        at = s->end;
    }
    return at == out->text.n;
}

int fuzz_one(const u8 *data, usize n);
int fuzz_one(const u8 *data, usize n)
{
    chat_template *t;
    chat_output first, second;
    int bad = 0;
    if (chat_template_new(&t, (str){(const char *)data, n}).code) return 0;
    if (!chat_render(t, talk, COUNT_OF(talk), &options, &first).code) {
        bad = !covered(&first);
        bad |= chat_render(t, talk, COUNT_OF(talk), &options, &second).code ||
               !str_eq(buf_view(&first.text), buf_view(&second.text));
        chat_output_free(&second);
    }
    chat_output_free(&first);
    chat_template_free(t);
    return bad;
}
