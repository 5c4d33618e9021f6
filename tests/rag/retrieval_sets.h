/* tests/rag/retrieval_sets.h - the public retrieval collections in their one form: docs.jsonl.zst with lines {"id","text"} and
 * questions.jsonl with lines {"id","query","relevant":[ids]}; and nDCG@10 with binary relevance over them. */
#ifndef MARU_RETRIEVAL_SETS_H
#define MARU_RETRIEVAL_SETS_H
#include "rag/rag.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

typedef struct {
    char *query;
    i64 *relevant; /* [n] documents, by their number */
    usize n;
} set_question;
typedef struct {
    char **text; /* [n_text] documents; a document's key is its number */
    usize n_text, cap_text, bytes;
    set_question *q; /* [n_q] */
    usize n_q, cap_q;
    map *number; /* id -> number */
} retrieval_set;

static inline void set_free(retrieval_set *s)
{
    for (usize i = 0; i < s->n_text; i++) mem_free(s->text[i]);
    for (usize i = 0; i < s->n_q; i++) mem_free(s->q[i].query), mem_free(s->q[i].relevant);
    mem_free(s->text);
    mem_free(s->q);
    map_free(s->number);
    *s = (retrieval_set){0};
}

static inline bool set_take_document(retrieval_set *s, json_t *line)
{
    const char *id = json_string_value(json_object_get(line, "id")), *t = json_string_value(json_object_get(line, "text"));
    if (!id || !t || !map_put(s->number, str_of(id), s->n_text)) return false;
    s->bytes += strlen(t);
    char *copy = mem_strdup(t);
    return copy && VEC_PUSH(s->text, s->n_text, s->cap_text, copy);
}

static inline bool set_take_question(retrieval_set *s, json_t *line)
{
    const char *query = json_string_value(json_object_get(line, "query"));
    json_t *relevant = json_object_get(line, "relevant"), *id;
    set_question q = {query ? mem_strdup(query) : NULL, mem_array(i64, json_array_size(relevant) + 1), 0};
    usize i;
    json_array_foreach(relevant, i, id)
    {
        u64 number;
        const char *name = json_string_value(id);
        if (!name || !map_get(s->number, str_of(name), &number)) return false;
        q.relevant[q.n++] = (i64)number;
    }
    return q.query && q.n && VEC_PUSH(s->q, s->n_q, s->cap_q, q);
}

/* every line of a file, through zstd when it is packed */
static inline bool set_lines(const char *path, bool (*take)(retrieval_set *, json_t *), retrieval_set *s)
{
    char command[1200], *line = NULL;
    size_t cap = 0;
    bool packed = str_ends(str_of(path), S(".zst")), good = true;
    snprintf(command, sizeof command, "zstd -dcq -- '%s'", path);
    FILE *f = packed ? popen(command, "r") : fopen(path, "r");
    if (!f) return false;
    for (ssize_t n; good && (n = getline(&line, &cap, f)) > 0;) {
        json_t *j = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL);
        good = j && take(s, j);
        json_decref(j);
    }
    free(line); /* getline's */
    return (packed ? pclose(f) : fclose(f)) == 0 && good && s->n_text;
}

static inline bool set_load(retrieval_set *s, const char *docs, const char *questions)
{
    *s = (retrieval_set){.number = map_new()};
    return s->number && set_lines(docs, set_take_document, s) && set_lines(questions, set_take_question, s) && s->n_q;
}

static inline double set_ndcg10(const set_question *q, const i64 *found, usize n)
{
    double sum = 0, ideal = 0;
    for (usize i = 0; i < 10; i++) {
        if (i < q->n) ideal += 1 / log2((double)i + 2);
        for (usize k = 0; i < n && k < q->n; k++)
            if (found[i] == q->relevant[k]) sum += 1 / log2((double)i + 2);
    }
    return sum / ideal;
}
#endif
