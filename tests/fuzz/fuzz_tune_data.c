/* tests/fuzz/fuzz_tune_data.c - any bytes as a file of training data, under each name that it could have. What is read must add
 * up, every target must be a token behind another one, and packing must hand out every target once. */
#include "tune/data.h"
#include <stdlib.h>

static model m;
static const char *const template =
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% "
    "for c in m.tool_calls or [] %}<call>{{ c | tojson }}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

__attribute__((constructor)) static void make(void) /* before the driver counts memory or makes allocations fail */
{
    static str piece[260], merges[1] = {{"\u0120 a", 4}};
    static i32 kind[260];
    static char text[256][4];
    for (u32 byte = 0, other = 256; byte < 256; byte++) {
        bool shown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
        piece[byte] = (str){text[byte], utf8_put(text[byte], shown ? byte : other++)};
        kind[byte] = TOKEN_NORMAL;
    }
    piece[256] = S("\u0120a"), kind[256] = TOKEN_NORMAL;
    piece[257] = S("<|im_start|>"), piece[258] = S("<|im_end|>"), piece[259] = S("<s>");
    kind[257] = kind[258] = kind[259] = TOKEN_CONTROL;
    token_source s = {.model = "gpt2",
                      .n_tokens = 260,
                      .tokens = piece,
                      .kinds = kind,
                      .merges = merges,
                      .n_merges = 1,
                      .bos = 259,
                      .eos = 258,
                      .eot = -1,
                      .unk = -1,
                      .sep = -1,
                      .pad = -1,
                      .cls = -1,
                      .mask = -1,
                      .add_bos = 1};
    if (tokenizer_new(&m.tok, &s).code || chat_template_new(&m.chat, str_of(template)).code) abort();
    m.h.n_ctx = 4096;
}

static bool adds_up(const tune_data *d)
{
    usize at = 0, samples = 0;
    i64 targets = 0, per_file = 0;
    for (usize i = 0; i < d->n_samples; i++) {
        const tune_sample *s = &d->sample[i];
        u32 n = 0;
        if (s->at != at || !s->n || s->n > (u32)d->o.ctx || s->file >= d->n_files || d->learn[at] || s->label >= (i32)d->n_labels)
            return false;
        for (u32 k = 0; k < s->n; k++) n += d->learn[at + k];
        if (!d->o.head && (n != s->n_target || !n || !d->learn[at + s->n_prompt])) return false;
        if (d->o.head && s->label >= 0 && (n || s->n_target != 1)) return false;
        at += s->n, targets += s->n_target;
    }
    for (usize i = 0; i < d->n_files; i++) samples += d->file[i].n_samples, per_file += d->file[i].targets;
    return at == d->n_tokens && targets == d->n_targets && samples == d->n_samples && per_file == targets &&
           (d->n_samples || d->n_refused);
}

static bool packs(const tune_data *d)
{
    tune_packing *p;
    i32 *want = NULL;
    packed_seq *q = NULL;
    i64 targets = 0;
    usize segments = 0;
    bool good = true;
    if (tune_packing_new(&p, d, &(tune_pack_opts){.seed = 1, .lead = 2}).code) return true;
    if (tune_targets(d, &want).code || !(q = mem_array(packed_seq, p->most_segments + 1))) goto done;
    for (usize i = 0; i < p->n_packs; i++) {
        int n = tune_pack_seqs(d, p, i, want, NULL, 1, q);
        i64 here = 0;
        for (int s = 0; s < n; here += 2 + q[s++].n)
            for (i64 r = 0; r < q[s].n; r++) targets += d->o.head ? !r && q[s].klass >= 0 : q[s].want[r] >= 0;
        segments += (usize)n;
        good &= here == p->pack[i].rows && here <= p->o.batch_tokens;
    }
    good &= targets == d->n_targets && segments == d->n_samples;
done:
    mem_free(q);
    mem_free(want);
    tune_packing_free(p);
    return good;
}

int fuzz_one(const u8 *data, usize n);
int fuzz_one(const u8 *data, usize n)
{
    static const struct {
        const char *name;
        tune_opts o;
    } as[] = {{"a.jsonl", {0}},
              {"a.json", {.ctx = 64}},
              {"a.csv", {.truncate = true, .ctx = 48}},
              {"a.tsv", {.head = true}},
              {"a.txt", {.special = true, .ctx = 16}},
              {"a", {.template = "{text}\\n=", .labels = "a=b,c=d\\,", .truncate = true, .ctx = 24}}};
    for (usize i = 0; i < COUNT_OF(as); i++) {
        tune_data *d;
        err e = tune_data_read(&d, &m, as[i].name, (str){(const char *)data, n}, &as[i].o);
        if (e.code) {
            if (e.code != ERR_NOMEM || d) return 1;
            continue;
        }
        bool good = adds_up(d) && packs(d) && !tune_data_ready(d).code == !d->n_refused;
        tune_data_free(d);
        if (!good) return 1;
    }
    return 0;
}
