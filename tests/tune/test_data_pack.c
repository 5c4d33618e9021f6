/* tests/tune/test_data_pack.c - packing: every sample once, nothing crosses, the same batches for the same seed. */
#include "data_help.h"

static tune_data *many(bytes_model *b, usize n, const tune_opts *o) /* prompt and completion of many lengths */
{
    tune_data *d;
    buf rows = {0};
    rng r;
    rng_seed(&r, 5);
    for (usize i = 0; i < n; i++) {
        buf_puts(&rows, "{\"prompt\":\"");
        for (u64 k = rng_u64(&r) % 60; k; k--) buf_byte(&rows, 'a' + (int)(rng_u64(&r) % 26));
        buf_puts(&rows, "\",\"completion\":\"");
        for (u64 k = 1 + rng_u64(&r) % 40; k; k--) buf_byte(&rows, 'A' + (int)(rng_u64(&r) % 26));
        buf_puts(&rows, "\"}\n");
    }
    assert_ok(tune_data_read(&d, &b->m, "many.jsonl", buf_view(&rows), o));
    assert_int_equal(d->n_samples, n);
    buf_free(&rows);
    return d;
}

static void every_sample_once(void **state)
{
    (void)state;
    bytes_model b;
    bytes_model_new(&b, CHATML_TOKENS, NULL, "<|im_end|>", 0, NULL);
    tune_data *d = many(&b, 1000, NULL);
    static const i64 leads[] = {0, 5};
    for (usize l = 0; l < COUNT_OF(leads); l++) {
        tune_packing *p;
        tune_batch batch = {0};
        u8 *seen = mem_zero(d->n_samples);
        i64 rows = 0, targets = 0, expected = 0;
        assert_ok(tune_packing_new(&p, d, &(tune_pack_opts){.batch_tokens = 256, .seed = 3, .lead = leads[l]}));
        for (usize i = 0; i < d->n_samples; i++) expected += d->sample[i].n - 1 + leads[l];
        for (usize i = 0; i < p->n_packs; i++) {
            assert_ok(tune_batch_fill(d, p, i, &batch));
            assert_true(batch.rows <= 256);
            i64 n_targets = 0;
            for (i64 s = 0; s < batch.n_segments; s++) {
                const tune_sample *sample = &d->sample[batch.sample[s]];
                assert_int_equal(seen[batch.sample[s]]++, 0);
                assert_int_equal(batch.start[s + 1] - batch.start[s], sample->n - 1 + leads[l]);
                for (i32 row = batch.start[s]; row < batch.start[s + 1]; row++) {
                    i64 k = row - batch.start[s] - leads[l];
                    assert_int_equal(batch.pos[row], row - batch.start[s]);
                    assert_int_equal(batch.id[row], k < 0 ? -1 : d->id[sample->at + (usize)k]);
                    assert_int_equal(batch.lead[row], k < 0 ? k + leads[l] : -1);
                    assert_int_equal(batch.span[3 * row], s);
                    assert_int_equal(batch.span[3 * row + 1], batch.start[s]);
                    assert_int_equal(batch.span[3 * row + 2], row + 1);
                    bool target = k >= 0 && d->learn[sample->at + (usize)k + 1];
                    assert_int_equal(batch.want[row], target ? d->id[sample->at + (usize)k + 1] : -1);
                    if (target) assert_int_equal(batch.target_row[n_targets++], row);
                }
            }
            assert_int_equal(n_targets, batch.n_targets);
            rows += batch.rows, targets += batch.n_targets;
        }
        for (usize i = 0; i < d->n_samples; i++) assert_int_equal(seen[i], 1);
        assert_int_equal(rows, expected);
        assert_int_equal(targets, d->n_targets);
        assert_int_equal(tune_packing_targets(p, 0, p->n_packs), d->n_targets);
        assert_true((double)rows / (double)(p->n_packs * 256) > 0.97); /* full batches */
        tune_batch_free(&batch);
        tune_packing_free(p);
        mem_free(seen);
    }
    tune_data_free(d);
    bytes_model_free(&b);
}

static u64 plan_hash(const tune_data *d, u64 seed, i64 epoch, bool in_order)
{
    tune_packing *p;
    assert_ok(
        tune_packing_new(&p, d, &(tune_pack_opts){.batch_tokens = 200, .seed = seed, .epoch = epoch, .in_order = in_order}));
    u64 h = hash64(p->sample, p->n_samples * sizeof *p->sample, p->n_packs);
    for (usize i = 0; i < p->n_packs; i++) h = hash64(&p->pack[i].n, sizeof p->pack[i].n, h);
    tune_packing_free(p);
    return h;
}

static void the_seed_decides(void **state)
{
    (void)state;
    bytes_model b;
    bytes_model_new(&b, CHATML_TOKENS, NULL, "<|im_end|>", 0, NULL);
    tune_data *d = many(&b, 300, NULL), *again = many(&b, 300, NULL);
    assert_true(d->hash == again->hash);
    assert_true(plan_hash(d, 1, 0, false) == plan_hash(again, 1, 0, false));
    assert_true(plan_hash(d, 1, 0, false) != plan_hash(d, 2, 0, false));
    assert_true(plan_hash(d, 1, 0, false) != plan_hash(d, 1, 1, false));
    assert_true(plan_hash(d, 1, 0, true) == plan_hash(d, 2, 7, true));
    tune_data_free(d);
    d = many(&b, 299, NULL);
    assert_true(d->hash != again->hash);
    tune_data_free(d);
    tune_data_free(again);
    bytes_model_free(&b);
}

static void limits(void **state)
{
    (void)state;
    bytes_model b;
    tune_packing *p;
    bytes_model_new(&b, CHATML_TOKENS, NULL, "<|im_end|>", 0, NULL);
    tune_data *d = many(&b, 100, NULL);
    err e = tune_packing_new(&p, d, &(tune_pack_opts){.batch_tokens = 50});
    assert_int_equal(e.code, ERR_INPUT);
    assert_non_null(strstr(e.what, "many.jsonl line"));
    assert_null(p);
    assert_ok(tune_packing_new(&p, d, &(tune_pack_opts){.max_segments = 2}));
    assert_int_equal(p->o.batch_tokens, 2048);
    assert_int_equal(p->n_packs, 50);
    assert_int_equal(p->most_segments, 2);
    tune_batch batch = {0};
    assert_int_equal(tune_batch_fill(d, p, 50, &batch).code, ERR_INPUT);
    tune_packing_free(p);
    tune_data_free(d);
    bytes_model_free(&b);
}

/* windows of a text: each token but the first is a target once */
static void a_stream_of_text(void **state)
{
    (void)state;
    bytes_model b;
    tune_data *d;
    tune_packing *p;
    tune_batch batch = {0};
    bytes_model_new(&b, "<s> </s>", "<s>", "</s>", 1, NULL);
    const char *text = "abcdefghijklmnopqrstuvw"; /* 23, with BOS and EOS 25 */
    assert_ok(tune_data_read(&d, &b.m, "a.txt", str_of(text), &(tune_opts){.ctx = 7}));
    assert_int_equal(d->n_targets, 24);
    assert_int_equal(d->n_samples, 4);
    assert_int_equal(d->file[0].n_rows, 1);
    assert_ok(tune_packing_new(&p, d, &(tune_pack_opts){.batch_tokens = 6, .in_order = true}));
    u8 wanted[256] = {0};
    for (usize i = 0; i < p->n_packs; i++) {
        assert_ok(tune_batch_fill(d, p, i, &batch));
        for (i64 row = 0; row < batch.rows; row++)
            if (batch.want[row] >= 0 && token_kind_of(b.m.tok, batch.want[row]) == TOKEN_NORMAL) {
                buf letter = {0};
                token_bytes(b.m.tok, batch.want[row], &letter, false);
                wanted[(u8)letter.p[0]]++;
                buf_free(&letter);
            }
    }
    for (const char *c = text; *c; c++) assert_int_equal(wanted[(u8)*c], 1);
    tune_batch_free(&batch);
    tune_packing_free(p);
    tune_data_free(d);
    bytes_model_free(&b);
}

static void classes(void **state) /* a head: the last row wants the class, as many rows as tokens */
{
    (void)state;
    bytes_model b;
    tune_data *d;
    tune_packing *p;
    tune_batch batch = {0};
    bytes_model_new(&b, CHATML_TOKENS, NULL, "<|im_end|>", 0, NULL);
    b.m.h.causal = false;
    assert_ok(tune_data_read(&d, &b.m, "a.tsv", S("text\tlabel\nabc\tyes\nde\tno\n"), &(tune_opts){.head = true}));
    assert_int_equal(d->n_targets, 2);
    assert_string_equal(d->template, "{text}");
    assert_int_equal(d->sample[0].label, 1); /* sorted: no, yes */
    assert_ok(tune_packing_new(&p, d, &(tune_pack_opts){.in_order = true}));
    assert_ok(tune_batch_fill(d, p, 0, &batch));
    assert_int_equal(batch.rows, 5);
    const i32 want[] = {-1, -1, 1, -1, 0}, end[] = {3, 3, 3, 5, 5}, label[] = {1, 0};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(batch.want[i], want[i]);
        assert_int_equal(batch.span[3 * i + 2], end[i]);
    }
    assert_memory_equal(batch.label, label, sizeof label);
    assert_int_equal(batch.n_targets, 2);
    tune_batch_free(&batch);
    tune_packing_free(p);
    tune_data_free(d);
    bytes_model_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_sample_once), cmocka_unit_test(the_seed_decides),
                                       cmocka_unit_test(limits), cmocka_unit_test(a_stream_of_text), cmocka_unit_test(classes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
