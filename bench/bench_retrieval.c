/* bench_retrieval - the two indexes, measured: quality (nDCG@10) and speed on the public collections, cutting, the vector scan.
 *
 *     bench_retrieval keyword [-p CHARS] FOLDER...    each with docs.jsonl.zst and questions.jsonl; a document is a chunk, or
 * with -p several of whole sentences, and counts by its best one bench_retrieval vectors [N] [DIM]               synthetic
 * clusters; default 100000 of 384
 *
 * Times are CPU seconds of one core, so that other work on the machine changes them little. */
#include "../tests/rag/retrieval_sets.h"
#include "text/text.h"
#include <time.h>
#include <unistd.h>

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static usize piece_chars; /* 0: a document is a chunk */
static i64 n_chunks;

/* a document in pieces of whole sentences, at most piece_chars characters unless a sentence is longer */
static err add_pieces(keyword_builder *b, i64 owner, str text)
{
    for (usize from = 0, end = 0; from < text.n; from = end) {
        usize chars = 0;
        while (end < text.n) {
            usize next = text_sentence_end(text, end), more = utf8_count((str){text.p + end, next - end});
            if (end > from && chars + more > piece_chars) break;
            end = next, chars += more;
        }
        TRY(keyword_builder_add(b, n_chunks++, owner, (str){text.p + from, end - from}));
    }
    return OK;
}

static i64 *owner_of; /* [n_chunks] */
static bool note_owner(void *ctx, i64 chunk, i64 owner)
{
    (void)ctx;
    owner_of[chunk] = owner;
    return true;
}

static err build(const retrieval_set *s, const char *path)
{
    keyword_builder *b;
    n_chunks = 0;
    TRY(keyword_builder_new(&b));
    for (usize i = 0; i < s->n_text; i++) {
        err bad = piece_chars ? add_pieces(b, (i64)i, str_of(s->text[i]))
                              : keyword_builder_add(b, n_chunks++, (i64)i, str_of(s->text[i]));
        if (bad.code) return keyword_builder_drop(b), bad;
    }
    return keyword_builder_write(b, path, 1);
}

/* a document counts by its best piece */
static usize first_documents(const keyword_hit *h, usize n, i64 found[10])
{
    usize k = 0;
    for (usize i = 0; i < n && k < 10; i++) {
        usize seen = 0;
        while (seen < k && found[seen] != owner_of[h[i].chunk]) seen++;
        if (seen == k) found[k++] = owner_of[h[i].chunk];
    }
    return k;
}

static err ask_all(const retrieval_set *s, keyword_index *k, double *ndcg, double *first)
{
    *ndcg = *first = 0;
    search_filter note = {note_owner, NULL};
    for (usize i = 0; i < s->n_q; i++) {
        keyword_hit *h;
        usize n;
        i64 found[10];
        TRY(keyword_search(k, str_of(s->q[i].query), &note, piece_chars ? 200 : 10, &h, &n));
        n = first_documents(h, n, found);
        *ndcg += set_ndcg10(&s->q[i], found, n);
        for (usize j = 0; n && j < s->q[i].n; j++) *first += found[0] == s->q[i].relevant[j];
        mem_free(h);
    }
    *ndcg /= (double)s->n_q, *first /= (double)s->n_q;
    return OK;
}

static err cut_all(const retrieval_set *s, double *seconds, usize *chars)
{
    terms t = {0};
    *chars = 0, *seconds = 1e9;
    for (usize i = 0; i < s->n_text; i++) *chars += utf8_count(str_of(s->text[i]));
    for (int round = 0; round < 5; round++) {
        double start = cpu_s();
        for (usize i = 0; i < s->n_text; i++) {
            t.n = 0;
            TRY(terms_of(str_of(s->text[i]), false, &t));
        }
        double took = cpu_s() - start;
        if (took < *seconds) *seconds = took;
    }
    terms_free(&t);
    return OK;
}

static err keyword_set(const char *folder)
{
    char docs[1024], questions[1024], path[] = "/tmp/bench-keyword-XXXXXX";
    snprintf(docs, sizeof docs, "%s/docs.jsonl.zst", folder);
    snprintf(questions, sizeof questions, "%s/questions.jsonl", folder);
    retrieval_set s;
    if (!set_load(&s, docs, questions)) return err_new(ERR_NOTFOUND, "%s is no retrieval set", folder);
    int fd = mkstemp(path);
    if (fd < 0) return err_os("mkstemp");
    close(fd);
    double cut, ndcg, first, best = 1e9, start, built = 1e9;
    usize chars;
    i64 bytes;
    keyword_index *k;
    TRY(cut_all(&s, &cut, &chars));
    for (int round = 0; round < 3; round++) {
        start = cpu_s();
        TRY(build(&s, path));
        if (cpu_s() - start < built) built = cpu_s() - start;
    }
    owner_of = mem_array(i64, n_chunks);
    if (!owner_of) return err_new(ERR_NOMEM, "out of memory");
    TRY(file_size(path, &bytes));
    TRY(keyword_open(&k, path));
    for (int round = 0; round < 3; round++) {
        start = cpu_s();
        TRY(ask_all(&s, k, &ndcg, &first));
        if (cpu_s() - start < best) best = cpu_s() - start;
    }
    const char *name = strrchr(folder, '/');
    printf("%-8s %6lld chunks %6.2f MB  nDCG@10 %.4f  R@1 %.3f | cut %5.0f MB/s %5.1f Mchar/s | build %.3f s %5.1f MB/s | index "
           "%.2f MB | query %.4f ms\n",
           name ? name + 1 : folder, (long long)n_chunks, (double)s.bytes / 1e6, ndcg, first, (double)s.bytes / cut / 1e6,
           (double)chars / cut / 1e6, built, (double)s.bytes / built / 1e6, (double)bytes / 1e6, best / (double)s.n_q * 1e3);
    keyword_close(k);
    mem_free(owner_of);
    set_free(&s);
    unlink(path);
    return OK;
}

/* ---- vectors ------------------------------------------------------------------------------------------------------ */
enum { CLUSTERS = 200, INNER = 24, QUERIES = 200 };

/* a unit vector of cluster c: its centre, a few directions common to all, noise */
static void synthesise(rng *r, const float *centre, const float *direction, i64 dim, float *v)
{
    double sum = 0;
    for (i64 i = 0; i < dim; i++) v[i] = centre[i] + 0.1f * rng_normal(r);
    for (int k = 0; k < INNER; k++) {
        float a = 0.4f * rng_normal(r);
        for (i64 i = 0; i < dim; i++) v[i] += a * direction[k * dim + i];
    }
    for (i64 i = 0; i < dim; i++) sum += (double)v[i] * v[i];
    for (i64 i = 0; i < dim; i++) v[i] = (float)(v[i] / sqrt(sum));
}

/* reference: every vector in float, the best ten by insertion */
static void exhaustive(const float *all, i64 n, i64 dim, const float *q, i64 best[10])
{
    double score[10];
    int held = 0;
    for (i64 i = 0; i < n; i++) {
        double s = 0;
        for (i64 k = 0; k < dim; k++) s += (double)q[k] * all[i * dim + k];
        int at = held < 10 ? held++ : 10;
        for (; at > 0 && score[at - 1] < s; at--)
            if (at < 10) score[at] = score[at - 1], best[at] = best[at - 1];
        if (at < 10) score[at] = s, best[at] = i;
    }
}

static err vectors(i64 n, i64 dim)
{
    char path[] = "/tmp/bench-vectors-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) return err_os("mkstemp");
    close(fd);
    rng r;
    rng_seed(&r, 7);
    float *centre = mem_array(float, CLUSTERS *dim), *direction = mem_array(float, INNER *dim), *all = mem_array(float, n *dim),
          *q = mem_array(float, dim);
    if (!centre || !direction || !all || !q) return err_new(ERR_NOMEM, "out of memory");
    for (i64 i = 0; i < CLUSTERS * dim; i++) centre[i] = rng_normal(&r);
    for (i64 i = 0; i < INNER * dim; i++) direction[i] = rng_normal(&r);
    for (i64 i = 0; i < n; i++) synthesise(&r, centre + (i64)(rng_u64(&r) % CLUSTERS) * dim, direction, dim, all + i * dim);
    vector_builder *b;
    vector_index *x;
    double start = cpu_s();
    TRY(vector_builder_new(&b, dim));
    for (i64 i = 0; i < n; i++) TRY(vector_builder_add(b, i, i, all + i * dim));
    TRY(vector_builder_write(b, path, 1));
    double built = cpu_s() - start, first = 0, rest = 0, least_s = 1e9;
    start = cpu_s();
    TRY(vector_open(&x, path));
    double opened = cpu_s() - start;
    int wrong = 0, checked = 0;
    for (int i = 0; i < QUERIES; i++) {
        vector_hit *h;
        usize n_h;
        float least, mean;
        i64 best[10] = {0};
        synthesise(&r, centre + (i64)(rng_u64(&r) % CLUSTERS) * dim, direction, dim, q);
        start = cpu_s();
        TRY(vector_search(x, q, NULL, 10, &h, &n_h, &least, &mean));
        double took = cpu_s() - start;
        if (i)
            rest += took;
        else
            first = took;
        if (took < least_s) least_s = took;
        if (i < 20) {
            exhaustive(all, n, dim, q, best);
            for (usize k = 0; k < n_h; k++, checked++) wrong += h[k].chunk != best[k];
        }
        mem_free(h);
    }
    printf("%lld x %lld (%s): build %.2f s, open %.2f ms, first query %.1f ms, then %.2f ms (least %.2f); %d of %d best ten "
           "differ from exhaustive\n",
           (long long)n, (long long)dim, cpu_name(cpu_now()), built, opened * 1e3, first * 1e3, rest / (QUERIES - 1) * 1e3,
           least_s * 1e3, wrong, checked);
    vector_close(x);
    unlink(path);
    mem_free(centre), mem_free(direction), mem_free(all), mem_free(q);
    return OK;
}

int main(int argc, char **argv)
{
    err bad = OK;
    int from = 2;
    if (argc >= 5 && !strcmp(argv[2], "-p")) piece_chars = (usize)atoll(argv[3]), from = 4;
    if (argc >= 3 && !strcmp(argv[1], "keyword"))
        for (int i = from; i < argc && !bad.code; i++) bad = keyword_set(argv[i]);
    else if (argc >= 2 && !strcmp(argv[1], "vectors"))
        bad = vectors(argc > 2 ? atoll(argv[2]) : 100000, argc > 3 ? atoll(argv[3]) : 384);
    else
        bad = err_new(ERR_INPUT, "usage: bench_retrieval keyword [-p CHARS] FOLDER... | vectors [N] [DIM]");
    if (bad.code) fprintf(stderr, "bench_retrieval: %s\n", bad.what);
    return bad.code ? err_exit(bad.code) : 0;
}
