/* bench_retrieval - the two indexes, measured: quality (nDCG@10) and speed on the public collections, cutting, the vector scan.
 *
 *     bench_retrieval keyword FOLDER...    each with docs.jsonl.zst and questions.jsonl, a document a chunk
 *     bench_retrieval vectors [N] [DIM]    synthetic clusters; default 100000 of 384
 *
 * Times are CPU seconds of one core, so that other work on the machine changes them little. */
#include "../tests/rag/retrieval_sets.h"
#include <time.h>
#include <unistd.h>

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static err build(const retrieval_set *s, const char *path)
{
    keyword_builder *b;
    TRY(keyword_builder_new(&b));
    for (usize i = 0; i < s->n_text; i++) {
        err bad = keyword_builder_add(b, (i64)i, (i64)i, str_of(s->text[i]));
        if (bad.code) return keyword_builder_drop(b), bad;
    }
    return keyword_builder_write(b, path, 1);
}

static err ask_all(const retrieval_set *s, keyword_index *k, double *ndcg, double *first)
{
    *ndcg = *first = 0;
    for (usize i = 0; i < s->n_q; i++) {
        keyword_hit *h;
        usize n;
        TRY(keyword_search(k, str_of(s->q[i].query), NULL, 10, &h, &n));
        i64 found[10];
        for (usize j = 0; j < n; j++) found[j] = h[j].chunk;
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
    TRY(file_size(path, &bytes));
    TRY(keyword_open(&k, path));
    for (int round = 0; round < 3; round++) {
        start = cpu_s();
        TRY(ask_all(&s, k, &ndcg, &first));
        if (cpu_s() - start < best) best = cpu_s() - start;
    }
    const char *name = strrchr(folder, '/');
    printf("%-8s %6zu docs %6.2f MB  nDCG@10 %.4f  R@1 %.3f | cut %5.0f MB/s %5.1f Mchar/s | build %.3f s %5.1f MB/s | index %.2f MB | query %.4f ms\n",
           name ? name + 1 : folder, s.n_text, (double)s.bytes / 1e6, ndcg, first, (double)s.bytes / cut / 1e6, (double)chars / cut / 1e6, built,
           (double)s.bytes / built / 1e6, (double)bytes / 1e6, best / (double)s.n_q * 1e3);
    keyword_close(k);
    set_free(&s);
    unlink(path);
    return OK;
}

int main(int argc, char **argv)
{
    err bad = OK;
    if (argc >= 3 && !strcmp(argv[1], "keyword"))
        for (int i = 2; i < argc && !bad.code; i++) bad = keyword_set(argv[i]);
    else bad = err_new(ERR_INPUT, "usage: bench_retrieval keyword FOLDER... | vectors [N] [DIM]");
    if (bad.code) fprintf(stderr, "bench_retrieval: %s\n", bad.what);
    return bad.code ? err_exit(bad.code) : 0;
}
