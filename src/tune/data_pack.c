/* tune/data_pack.c - which samples share a batch. model/packing.c makes rows of them.
 *
 * Best fit decreasing over a shuffled order: the longest samples first, each into the fullest batch that still has room. Open
 * batches are kept by their free rows and a bit per number of free rows says where some are, so a corpus of a million samples is
 * packed in well under a second. Equal lengths keep the shuffled order, and the batches are shuffled once more, since otherwise
 * the long samples would all come first. */
#include "tune/data.h"

enum { NO_BIN = -1 };
typedef struct {
    i64 rows, targets;
    u32 n;
    i32 next; /* with as many free rows */
    i32 first, last;
} bin;
typedef struct {
    bin *bin;
    usize n, cap;
    i32 *open; /* [capacity + 1] bins by free rows */
    u64 *some; /* a bit for each of them */
    i32 *next; /* [n_samples] in the same bin */
    i64 capacity;
} packer;

static err no_memory(void) { return err_new(ERR_NOMEM, "out of memory for packing"); }

static i64 rows_of(const tune_data *d, u32 sample, i64 lead)
{
    return lead + tune_sample_rows(d, &d->sample[sample]);
}

static void shuffle(u32 *v, usize n, rng *r)
{
    for (usize i = n; i > 1; i--) {
        usize k = (usize)(((unsigned __int128)rng_u64(r) * i) >> 64);
        u32 kept = v[i - 1];
        v[i - 1] = v[k], v[k] = kept;
    }
}

static void set_open(packer *p, i64 free, i32 which)
{
    p->bin[which].next = p->open[free];
    p->open[free] = which;
    p->some[free / 64] |= 1ull << (free % 64);
}

static i32 take_open(packer *p, i64 least) /* the fullest with room */
{
    i64 word = least / 64, words = p->capacity / 64 + 1;
    u64 bits = p->some[word] & (~0ull << (least % 64));
    while (!bits && ++word < words) bits = p->some[word];
    if (!bits) return NO_BIN;
    i64 free = word * 64 + __builtin_ctzll(bits);
    i32 which = p->open[free];
    p->open[free] = p->bin[which].next;
    if (p->open[free] == NO_BIN) p->some[free / 64] &= ~(1ull << (free % 64));
    return which;
}

static err put(packer *p, const tune_data *d, const tune_pack_opts *o, u32 sample)
{
    i64 rows = rows_of(d, sample, o->lead);
    i32 which = take_open(p, rows);
    if (which == NO_BIN) {
        bin fresh = {.first = NO_BIN, .last = NO_BIN};
        if (p->n >= INT32_MAX || !VEC_PUSH(p->bin, p->n, p->cap, fresh)) return no_memory();
        which = (i32)p->n - 1;
    }
    bin *b = &p->bin[which];
    if (b->last == NO_BIN)
        b->first = (i32)sample;
    else
        p->next[b->last] = (i32)sample;
    b->last = (i32)sample;
    p->next[sample] = NO_BIN;
    b->rows += rows, b->targets += d->sample[sample].n_target, b->n++;
    if (b->rows < p->capacity && (!o->max_segments || b->n < o->max_segments)) set_open(p, p->capacity - b->rows, which);
    return OK;
}

/* longest first; equal ones as they came */
static err by_length(const tune_data *d, const tune_pack_opts *o, u32 *order, usize n)
{
    usize *at = mem_array(usize, o->batch_tokens + 2);
    u32 *sorted = mem_array(u32, n + 1);
    err bad = at && sorted ? OK : no_memory();
    if (!bad.code) {
        for (usize i = 0; i < n; i++) at[o->batch_tokens - rows_of(d, order[i], o->lead) + 1]++;
        for (i64 k = 1; k <= o->batch_tokens + 1; k++) at[k] += at[k - 1];
        for (usize i = 0; i < n; i++) sorted[at[o->batch_tokens - rows_of(d, order[i], o->lead)]++] = order[i];
        memcpy(order, sorted, n * sizeof *order);
    }
    mem_free(at);
    mem_free(sorted);
    return bad;
}

i64 tune_batch_rows(const tune_data *d, i64 lead)
{
    i64 longest = 0, total = 0, n = i64_max((i64)d->n_samples, 1);
    for (usize i = 0; i < d->n_samples; i++) {
        i64 rows = rows_of(d, (u32)i, lead);
        total += rows, longest = i64_max(longest, rows);
    }
    return i64_max(longest, i64_max(256, i64_min(16 * total / n, 1024)));
}

static err check(const tune_data *d, tune_pack_opts *o)
{
    i64 longest = 0;
    u32 which = 0;
    if (o->batch_tokens < 0 || o->lead < 0 || o->max_segments < 0 || o->batch_tokens > (1 << 24) || o->lead > (1 << 20))
        return err_new(ERR_INPUT, "--batch-tokens %lld, %lld rows in front: expected numbers from 0, at most 16777216",
                       (long long)o->batch_tokens, (long long)o->lead);
    if (d->n_samples > INT32_MAX) return err_new(ERR_UNSUPPORTED, "more than 2^31 samples");
    for (usize i = 0; i < d->n_samples; i++) {
        i64 rows = rows_of(d, (u32)i, o->lead);
        if (rows > longest) longest = rows, which = (u32)i;
    }
    if (!o->batch_tokens) o->batch_tokens = tune_batch_rows(d, o->lead);
    if (longest > o->batch_tokens)
        return err_new(ERR_INPUT, "--batch-tokens %lld: the sample of %s line %u needs %lld", (long long)o->batch_tokens,
                       d->file[d->sample[which].file].path, d->sample[which].line, (long long)longest);
    return OK;
}

static err write_down(tune_packing *pk, packer *p, rng *r)
{
    u32 *order = mem_array(u32, p->n + 1);
    usize at = 0;
    pk->pack = mem_array(tune_pack, p->n + 1);
    if (!order || !pk->pack) {
        mem_free(order);
        return no_memory();
    }
    for (usize i = 0; i < p->n; i++) order[i] = (u32)i;
    if (!pk->o.in_order) shuffle(order, p->n, r);
    pk->n_packs = p->n;
    for (usize i = 0; i < p->n; i++) {
        const bin *b = &p->bin[order[i]];
        pk->pack[i] = (tune_pack){at, b->n, b->rows, b->targets};
        for (i32 s = b->first; s != NO_BIN; s = p->next[s]) pk->sample[at++] = (u32)s;
        pk->most_rows = i64_max(pk->most_rows, b->rows);
        pk->most_segments = i64_max(pk->most_segments, b->n);
        pk->most_targets = i64_max(pk->most_targets, b->targets);
    }
    mem_free(order);
    return OK;
}

err tune_packing_new(tune_packing **out, const tune_data *d, const tune_pack_opts *given)
{
    static const tune_pack_opts none;
    packer p = {0};
    rng r;
    err bad = OK;
    *out = NULL;
    tune_packing *pk = mem_zero(sizeof *pk);
    if (!pk) return no_memory();
    pk->o = given ? *given : none;
    TRY_TO(done, check(d, &pk->o));
    usize n = pk->n_samples = d->n_samples;
    p.capacity = pk->o.batch_tokens;
    pk->sample = mem_array(u32, n + 1);
    p.next = mem_array(i32, n + 1);
    p.open = mem_array(i32, p.capacity + 1);
    p.some = mem_array(u64, p.capacity / 64 + 1);
    if (!pk->sample || !p.next || !p.open || !p.some) {
        bad = no_memory();
        goto done;
    }
    for (i64 i = 0; i <= p.capacity; i++) p.open[i] = NO_BIN;
    for (usize i = 0; i < n; i++) pk->sample[i] = (u32)i;
    const u64 key[2] = {pk->o.seed, (u64)pk->o.epoch};
    rng_seed(&r, hash64(key, sizeof key, 0));
    if (!pk->o.in_order) shuffle(pk->sample, n, &r);
    TRY_TO(done, by_length(d, &pk->o, pk->sample, n));
    for (usize i = 0; i < n; i++) TRY_TO(done, put(&p, d, &pk->o, pk->sample[i]));
    bad = write_down(pk, &p, &r);
done:
    mem_free(p.bin);
    mem_free(p.next);
    mem_free(p.open);
    mem_free(p.some);
    if (bad.code)
        tune_packing_free(pk);
    else
        *out = pk;
    return bad;
}

void tune_packing_free(tune_packing *p)
{
    if (!p) return;
    mem_free(p->pack);
    mem_free(p->sample);
    mem_free(p);
}

i64 tune_packing_targets(const tune_packing *p, usize from, usize to)
{
    i64 sum = 0;
    for (usize i = from; i < to && i < p->n_packs; i++) sum += p->pack[i].n_targets;
    return sum;
}

/* ---- a batch as sequences ---- */
i64 tune_sample_rows(const tune_data *d, const tune_sample *s) { return (i64)s->n - !(d->o.head && s->label >= 0); }

err tune_targets(const tune_data *d, i32 **out)
{
    i32 *want = *out = mem_array(i32, d->n_tokens + 1);
    if (!want) return no_memory();
    for (usize i = 0; i < d->n_samples; i++) {
        const tune_sample *s = &d->sample[i];
        for (u32 j = 0; j < s->n; j++) want[s->at + j] = j + 1 < s->n && d->learn[s->at + j + 1] ? d->id[s->at + j + 1] : -1;
    }
    return OK;
}

int tune_pack_seqs(const tune_data *d, const tune_packing *p, usize pack, const i32 *want, const float *weight, float counts, packed_seq *q)
{
    const tune_pack *k = &p->pack[pack];
    for (usize i = 0; i < k->n; i++) {
        const tune_sample *s = &d->sample[p->sample[k->first + i]];
        q[i] = (packed_seq){.id = d->id + s->at, .n = tune_sample_rows(d, s), .want = want + s->at, .weight = weight, .klass = d->o.head ? s->label : -1, .counts = counts};
    }
    return (int)k->n;
}
