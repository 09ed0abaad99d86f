/*
 * The connection options that every network command shares, and the password prompt.
 */
#ifndef PGSTOW_CONNECT_H
#define PGSTOW_CONNECT_H

#include "protocol/protocol.h"

/* Take -d, -h, -p, -U, -w or -W; false when `id` is none of them. */
bool connect_option(ConnConfig *config, int id, const char *value);

/* What a person answered, kept so that nobody is asked again when a connection is made anew. */
typedef struct PasswordAnswer {
    bool given;
    char password[PASSWORD_MAX];
} PasswordAnswer;

/* Ask on the terminal; a ConnConfig.ask_password whose ask_ctx is a PasswordAnswer, or NULL to ask
 * every time. */
bool connect_ask_password(void *ctx, char password[PASSWORD_MAX], Error *err);

#endif
