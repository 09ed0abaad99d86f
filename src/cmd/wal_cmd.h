/*
 * The subcommands of "pgstow wal", one file each: what stands in the table of cmd_wal.c.
 */
#ifndef PGSTOW_WAL_CMD_H
#define PGSTOW_WAL_CMD_H

#include "cmd/options.h"

extern const Command command_wal_check;
extern const Command command_wal_get;
extern const Command command_wal_list;
extern const Command command_wal_prune;
extern const Command command_wal_push;

#endif
