/* tests/tune/test_data_pack.c - packing: every sample once, nothing crosses, the same batches for the same seed. */
#include "data_help.h"
#include "train_help.h"

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

/* the rows of a batch as the model's graph gets them */
typedef struct { workspace *ws; backend *be; pool *one; packing *k; model_io io; i64 rows, seqs; i32 *id, *pos, *span, *want, *soft; } rows_view;

static void view_open(rows_view *v, const model *m, trained_set *set, i64 rows, i64 seqs, loss_kind loss)
{
    *v = (rows_view){.rows = rows, .seqs = seqs};
    assert_ok(pool_new(&v->one, 1));
    assert_ok(backend_cpu(&v->be, v->one));
    assert_ok(workspace_new(&v->ws, v->be));
    assert_ok(packing_open(&v->k, m, v->ws, &(batch_shape){.rows = rows, .seqs = seqs, .train = set, .loss = loss, .pool = POOL_MEAN}, false, &v->io));
    v->id = mem_array(i32, 6 * rows + rows), v->pos = v->id + rows, v->span = v->pos + rows, v->want = v->span + 3 * rows, v->soft = v->want + rows;
}

static void view_put(rows_view *v, const packed_seq *q, int n)
{
    plan *p = packing_plan(v->k);
    assert_ok(packing_put(v->k, &v->io, q, n));
    assert_ok(tensor_get(p, v->io.ids, v->id));
    assert_ok(tensor_get(p, v->io.pos, v->pos));
    assert_ok(tensor_get(p, v->io.span, v->span));
    assert_ok(tensor_get(p, v->io.want, v->want));
    if (v->io.soft_ids) assert_ok(tensor_get(p, v->io.soft_ids, v->soft));
}

static void view_close(rows_view *v)
{
    packing_close(v->k);
    workspace_free(v->ws);
    backend_close(v->be);
    pool_free(v->one);
    mem_free(v->id);
}

/* row by row of one sample; how many are targets */
static i64 check_segment(const tune_data *d, const rows_view *v, const tune_sample *sample, i32 s, i64 first, i64 lead)
{
    i64 targets = 0, n = lead + sample->n - 1;
    for (i64 row = first; row < first + n; row++) {
        i64 k = row - first - lead;
        assert_int_equal(v->pos[row], row - first);
        assert_int_equal(v->id[row], k < 0 ? -1 : d->id[sample->at + (usize)k]);
        if (lead) assert_int_equal(v->soft[row], k < 0 ? k + lead : -1);
        assert_int_equal(v->span[3 * row], s);
        assert_int_equal(v->span[3 * row + 1], first);
        assert_int_equal(v->span[3 * row + 2], row + 1);
        bool target = k >= 0 && d->learn[sample->at + (usize)k + 1];
        assert_int_equal(v->want[row], target ? d->id[sample->at + (usize)k + 1] : -1);
        targets += target;
    }
    return targets;
}

static void every_sample_once(void **state)
{
    (void)state;
    enum { ROWS = 256, SEQS = 64 };
    model *m = tiny_model("qwen2", Q8_0);
    bytes_model b = {.m = *m};
    tune_data *d = many(&b, 1000, NULL);
    static float vectors[5 * 64], weight[ROWS];
    trained prompt = {.kind = TRAIN_PROMPT, .k = 64, .n = 5, .data = vectors};
    trained_set sets[] = {{NULL, 0}, {&prompt, 1}};
    i32 *want;
    assert_ok(tune_targets(d, &want));
    for (usize l = 0; l < COUNT_OF(sets); l++) {
        tune_packing *p;
        rows_view v;
        packed_seq q[SEQS];
        i64 lead = packing_overhead(&sets[l]), rows = 0, targets = 0, expected = 0;
        u8 *seen = mem_zero(d->n_samples);
        assert_int_equal(lead, l ? 5 : 0);
        assert_ok(tune_packing_new(&p, d, &(tune_pack_opts){.batch_tokens = ROWS, .max_segments = SEQS, .seed = 3, .lead = lead}));
        view_open(&v, m, &sets[l], ROWS, SEQS, LOSS_TOKENS);
        for (usize i = 0; i < d->n_samples; i++) expected += d->sample[i].n - 1 + lead;
        for (usize i = 0; i < p->n_packs; i++) {
            int n = tune_pack_seqs(d, p, i, want, weight, 1, q);
            i64 row = 0, of_this = 0;
            assert_int_equal(n, p->pack[i].n);
            view_put(&v, q, n);
            for (int s = 0; s < n; s++) {
                u32 which = p->sample[p->pack[i].first + (usize)s];
                assert_int_equal(seen[which]++, 0);
                of_this += check_segment(d, &v, &d->sample[which], s, row, lead);
                row += lead + d->sample[which].n - 1;
            }
            assert_int_equal(row, p->pack[i].rows);
            assert_int_equal(of_this, p->pack[i].n_targets);
            for (; row < ROWS; row++) assert_true(v.id[row] == -1 && v.want[row] == -1 && v.span[3 * row + 2] == 0); /* padding sees nothing and counts nothing */
            rows += p->pack[i].rows, targets += of_this;
        }
        for (usize i = 0; i < d->n_samples; i++) assert_int_equal(seen[i], 1);
        assert_int_equal(rows, expected);
        assert_int_equal(targets, d->n_targets);
        assert_int_equal(tune_packing_targets(p, 0, p->n_packs), d->n_targets);
        assert_true((double)rows / (double)(p->n_packs * ROWS) > 0.97); /* full batches */
        view_close(&v);
        tune_packing_free(p);
        mem_free(seen);
    }
    mem_free(want);
    tune_data_free(d);
    model_close(m);
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
    i64 total = 0; /* by itself a batch has about 16 samples */
    for (usize i = 0; i < d->n_samples; i++) total += tune_sample_rows(d, &d->sample[i]);
    assert_in_range(p->o.batch_tokens, 256, 1024);
    if (16 * total / 100 > 256) assert_in_range(p->o.batch_tokens, 15 * total / 100, 17 * total / 100);
    assert_int_equal(p->n_packs, 50);
    assert_int_equal(p->most_segments, 2);
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
    packed_seq q[8];
    i32 *want;
    bytes_model_new(&b, "<s> </s>", "<s>", "</s>", 1, NULL);
    const char *text = "abcdefghijklmnopqrstuvw"; /* 23, with BOS and EOS 25 */
    assert_ok(tune_data_read(&d, &b.m, "a.txt", str_of(text), &(tune_opts){.ctx = 7}));
    assert_int_equal(d->n_targets, 24);
    assert_int_equal(d->n_samples, 4);
    assert_int_equal(d->file[0].n_rows, 1);
    assert_ok(tune_packing_new(&p, d, &(tune_pack_opts){.batch_tokens = 6, .in_order = true}));
    u8 wanted[256] = {0};
    assert_ok(tune_targets(d, &want));
    for (usize i = 0; i < p->n_packs; i++) {
        assert_true(p->pack[i].n <= COUNT_OF(q));
        for (int s = 0, n = tune_pack_seqs(d, p, i, want, NULL, 1, q); s < n; s++)
            for (i64 row = 0; row < q[s].n; row++)
                if (q[s].want[row] >= 0 && token_kind_of(b.m.tok, q[s].want[row]) == TOKEN_NORMAL) {
                    buf letter = {0};
                    token_bytes(b.m.tok, q[s].want[row], &letter, false);
                    wanted[(u8)letter.p[0]]++;
                    buf_free(&letter);
                }
    }
    for (const char *c = text; *c; c++) assert_int_equal(wanted[(u8)*c], 1);
    mem_free(want);
    tune_packing_free(p);
    tune_data_free(d);
    bytes_model_free(&b);
}

static void classes(void **state) /* a head: each sequence wants its class, as many rows as tokens, and every row sees all of its own */
{
    (void)state;
    model *m = tiny_model("bert", Q8_0);
    tune_data *d = tiny_data(m, "a.tsv", "text\tlabel\nthe hello\tyes\nhe\tno\n", &(tune_opts){.head = true});
    static float table[2 * 64];
    trained t = {.kind = TRAIN_CLASSES, .k = 64, .n = 2, .data = table};
    tune_packing *p;
    rows_view v;
    packed_seq q[2];
    i32 *want;
    assert_int_equal(d->n_targets, 2);
    assert_string_equal(d->template, "{text}");
    assert_int_equal(d->sample[0].label, 1); /* sorted: no, yes */
    assert_ok(tune_packing_new(&p, d, &(tune_pack_opts){.in_order = true}));
    assert_int_equal(p->n_packs, 1);
    i64 rows = p->pack[0].rows, first = d->sample[p->sample[0]].n;
    assert_int_equal(rows, d->sample[0].n + d->sample[1].n);
    assert_ok(tune_targets(d, &want));
    assert_int_equal(tune_pack_seqs(d, p, 0, want, NULL, 1, q), 2);
    view_open(&v, m, &(trained_set){&t, 1}, rows, 2, LOSS_CLASSES);
    assert_ok(packing_put(v.k, &v.io, q, 2));
    assert_ok(tensor_get(packing_plan(v.k), v.io.span, v.span));
    assert_ok(tensor_get(packing_plan(v.k), v.io.want, v.want));
    for (i64 i = 0; i < rows; i++) {
        assert_int_equal(v.span[3 * i + 1], i < first ? 0 : first);
        assert_int_equal(v.span[3 * i + 2], i < first ? first : rows);
    }
    for (int i = 0; i < 2; i++) assert_int_equal(v.want[i], d->sample[p->sample[i]].label);
    view_close(&v);
    mem_free(want);
    tune_packing_free(p);
    tune_data_free(d);
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_sample_once), cmocka_unit_test(the_seed_decides),
                                       cmocka_unit_test(limits), cmocka_unit_test(a_stream_of_text), cmocka_unit_test(classes)};
    return cmocka_run_group_tests_name("data_pack", tests, folder_make, folder_drop);
}
