/*
 * The connection options that every network command shares, and the password prompt.
 */
#ifndef PGSTOW_CONNECT_H
#define PGSTOW_CONNECT_H

#include "protocol/protocol.h"

/* Take -d, -h, -p, -U, -w or -W; false when `id` is none of them. */
bool connect_option(ConnConfig *config, int id, const char *value);

/* Ask on the terminal; a ConnConfig.ask_password. */
bool connect_ask_password(void *ctx, char password[PASSWORD_MAX], Error *err);

#endif
