/* api/api.h - private to api/: what stands behind the opaque types of maru.h. */
#ifndef MARU_API_API_H
#define MARU_API_API_H
#include "base/base.h"
#include "engine/engine.h"
#include "maru.h"
#include "model/model.h"
#include "rag/rag.h"
#include "text/text.h"

struct maru_engine {
    engine *e;
    char   *name;                           /* as it was opened: a collection remembers its embedder by it */
};
struct maru_session {
    session     *s;
    maru_engine *e;
    atomic_bool  cancel;
};
struct maru_collection {
    collection  *c;
    maru_engine *embedder;                  /* or NULL; borrowed */
    atomic_bool  cancel;
};
int api_give(maru_error *, err);            /* the code; with a copy of the message */
#define NEED(pointer)                                                                                              \
    do {                                                                                                           \
        if (!(pointer)) return api_give(error, err_new(ERR_INPUT, "%s: %s is NULL", __func__, #pointer));          \
    } while (0)
#endif
