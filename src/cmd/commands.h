/*
 * The commands, one file each.
 */
#ifndef PGSTOW_COMMANDS_H
#define PGSTOW_COMMANDS_H

#include "cmd/options.h"

extern const Command command_archivecleanup;
extern const Command command_basebackup;
extern const Command command_receivewal;
extern const Command command_verifybackup;
extern const Command command_wal;

#endif
