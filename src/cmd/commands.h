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

/*
 * No command, or none that there is. As a restore_command that must not end recovery, which a
 * status up to 125 would: it says that a file is not in the archive. 127 is a shell's "not found".
 */
#define STATUS_NO_COMMAND 127

#endif
