/*
 * Which files of a data directory hold the pages of a relation (PostgreSQL: common/relpath.c,
 * storage/file/reinit.c).
 *
 *     base/DATABASE/NAME    global/NAME    and in a tablespace    PG_VERSION/DATABASE/NAME
 *     NAME = NUMBER [ _fsm | _vm | _init ] [ .SEGMENT ]    or    INCREMENTAL.NAME
 *
 * Relations of one session (tN_N) do not count: servers do not send them. Pure.
 */
#ifndef PGSTOW_RELFILE_H
#define PGSTOW_RELFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/pgtypes.h"

typedef enum RelFork { FORK_MAIN, FORK_FSM, FORK_VM, FORK_INIT } RelFork;

typedef struct RelFile {
    Oid database;    /* 0: in global, shared by all of them */
    uint32_t number; /* pg_relation_filenode() */
    RelFork fork;
    uint32_t segment; /* 0: the file without a suffix */
    bool incremental; /* an INCREMENTAL file: see incremental.h */
} RelFile;

/*
 * `path` is below the root of an archive, that of the data directory when `tablespace` is 0.
 * Strict, as the server is: each number is decimal without leading zeros, not 0, and fits 32 bits.
 */
bool relfile_parse(const char *path, Oid tablespace, RelFile *ret_file);

#endif
