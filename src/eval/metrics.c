/* eval/metrics.c - ranking and classification metrics with intervals. nDCG: Jarvelin and Kekalainen 2002, binary gains;
 * intervals: percentile bootstrap (Efron 1979) for means, Wilson 1927 for shares. */
#include "eval/eval.h"
#include <math.h>
#include <stdlib.h>

enum { RESAMPLES = 2000 };
#define Z95 1.959963984540054

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

interval eval_mean(const double *x, usize n, u64 seed)
{
    interval r = {NAN, NAN, NAN};
    double   sum = 0, *mean = mem_array(double, RESAMPLES);
    rng      g;
    if (!n || !mean) {
        mem_free(mean);
        return r;
    }
    rng_seed(&g, seed);
    for (usize i = 0; i < n; i++) sum += x[i];
    for (int k = 0; k < RESAMPLES; k++) {
        double s = 0;
        for (usize i = 0; i < n; i++) s += x[(usize)(rng_unit(&g) * (double)n)];
        mean[k] = s / (double)n;
    }
    qsort(mean, RESAMPLES, sizeof *mean, by_value);
    r = (interval){sum / (double)n, mean[RESAMPLES / 40], mean[RESAMPLES - 1 - RESAMPLES / 40]};
    mem_free(mean);
    return r;
}

interval eval_share(i64 k, i64 n)
{
    if (n <= 0) return (interval){NAN, NAN, NAN};
    double p = (double)k / (double)n, m = (double)n, z2 = Z95 * Z95, mid = (p + z2 / (2 * m)) / (1 + z2 / m);
    double half = Z95 / (1 + z2 / m) * sqrt(p * (1 - p) / m + z2 / (4 * m * m));
    return (interval){p, fmax(0, mid - half), fmin(1, mid + half)};
}

interval eval_paired(const double *a, const double *b, usize n, u64 seed)
{
    double *d = mem_array(double, n + 1);
    if (!d) return (interval){NAN, NAN, NAN};
    for (usize i = 0; i < n; i++) d[i] = a[i] - b[i];
    interval r = eval_mean(d, n, seed);
    mem_free(d);
    return r;
}

static bool among(const char *id, const char *const *list, usize n)
{
    for (usize i = 0; i < n; i++)
        if (!strcmp(id, list[i])) return true;
    return false;
}

ranking eval_ranking(const char *const *rank, usize n, const char *const *gold, usize n_gold)
{
    ranking r = {0};
    double  dcg = 0, ideal = 0, found = 0;
    usize   distinct = 0; /* a list that repeats itself, on either side, changes no figure */
    for (usize i = 0; i < n_gold; i++) distinct += !among(gold[i], gold, i);
    if (!distinct) return r;
    for (usize i = 0; i < 10; i++) {
        if (i < distinct) ideal += 1 / log2((double)i + 2);
        if (i >= n || !among(rank[i], gold, n_gold) || among(rank[i], rank, i)) continue;
        dcg += 1 / log2((double)i + 2);
        found++;
        if (r.mrr10 == 0) r.mrr10 = 1 / (double)(i + 1);
        if (i < 1) r.recall1++;
        if (i < 5) r.recall5++;
    }
    r.recall1 /= (double)distinct;
    r.recall5 /= (double)distinct;
    r.recall10 = found / (double)distinct;
    r.ndcg10 = dcg / ideal;
    return r;
}

double eval_auc(const double *positive, usize n, const double *negative, usize m)
{
    double *sorted = mem_array(double, m + 1), sum = 0;
    if (!sorted || !n || !m) {
        mem_free(sorted);
        return NAN;
    }
    memcpy(sorted, negative, sizeof *sorted * m);
    qsort(sorted, m, sizeof *sorted, by_value);
    for (usize i = 0; i < n; i++) { /* negatives below, and half of those equal */
        usize below = 0, to = m;
        while (below < to) {
            usize mid = (below + to) / 2;
            if (sorted[mid] < positive[i]) below = mid + 1;
            else to = mid;
        }
        usize equal = below;
        while (equal < m && sorted[equal] == positive[i]) equal++;
        sum += (double)below + (double)(equal - below) / 2;
    }
    mem_free(sorted);
    return sum / ((double)n * (double)m);
}

err eval_classes(const int *truth, const int *given, usize n, int classes, classified *out)
{
    *out = (classified){.n = n, .classes = classes};
    if (classes < 1) {
        *out = (classified){0};
        return err_new(ERR_INPUT, "%d classes, expected at least 1", classes);
    }
    out->confusion = mem_array(i64, (usize)classes * (usize)classes + 1);
    if (!out->confusion) return err_new(ERR_NOMEM, "out of memory for a confusion table of %d classes", classes);
    i64 right = 0;
    for (usize i = 0; i < n; i++) {
        if (truth[i] < 0 || truth[i] >= classes || given[i] < 0 || given[i] >= classes) {
            mem_free(out->confusion);
            *out = (classified){0};
            return err_new(ERR_INPUT, "row %zu: class %d given, %d true, expected 0 to %d", i, given[i], truth[i], classes - 1);
        }
        out->confusion[(i64)truth[i] * classes + given[i]]++;
        right += truth[i] == given[i];
    }
    int    seen = 0;
    double f1 = 0;
    for (i64 c = 0; c < classes; c++) {
        i64 both = out->confusion[c * classes + c], row = 0, col = 0;
        for (i64 k = 0; k < classes; k++) row += out->confusion[c * classes + k], col += out->confusion[k * classes + c];
        if (row + col == 0) continue;
        seen++;
        f1 += 2 * (double)both / (double)(row + col);
    }
    out->macro_f1 = seen ? f1 / seen : NAN;
    out->accuracy_ci = eval_share(right, (i64)n);
    out->accuracy = out->accuracy_ci.mean;
    return OK;
}
