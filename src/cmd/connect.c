#include "cmd/connect.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>

#include "cmd/signals.h"
#include "common/runtime.h"

bool
connect_option(ConnConfig *config, int id, const char *value)
{
    switch (id) {
    case 'd':
        config->conninfo = value;
        return true;
    case 'h':
        config->host = value;
        return true;
    case 'p':
        config->port = value;
        return true;
    case 'U':
        config->user = value;
        return true;
    case 'w':
        config->prompt = PASSWORD_NEVER;
        return true;
    case 'W':
        config->prompt = PASSWORD_ALWAYS;
        return true;
    default:
        return false;
    }
}

/* One line without its newline; false at the end of input. */
static bool
read_line(FILE *in, char password[PASSWORD_MAX])
{
    size_t len;

    if (fgets(password, PASSWORD_MAX, in) == NULL)
        return false;
    len = strlen(password);
    if (len > 0 && password[len - 1] == '\n')
        password[len - 1] = '\0';
    return true;
}

static bool
prompt(FILE *in, FILE *out, char password[PASSWORD_MAX])
{
    struct termios shown;
    bool terminal = tcgetattr(fileno(in), &shown) == 0;
    bool ok;

    if (terminal) {
        struct termios hidden = shown;

        hidden.c_lflag &= ~(tcflag_t)ECHO;
        (void)tcsetattr(fileno(in), TCSAFLUSH, &hidden);
    }
    (void)fputs("Password: ", out);
    (void)fflush(out);
    ok = read_line(in, password);
    if (terminal)
        (void)tcsetattr(fileno(in), TCSAFLUSH, &shown);
    (void)fputc('\n', out);
    (void)fflush(out);
    return ok;
}

static bool
ask_person(char password[PASSWORD_MAX], Error *err)
{
    FILE *in = fopen("/dev/tty", "r");
    FILE *out = fopen("/dev/tty", "w");
    bool ok;

    /* Without a terminal the password may come from a pipe, as with the stock tools. */
    if (in != NULL && out != NULL)
        ok = prompt(in, out, password);
    else
        ok = prompt(stdin, stderr, password);
    if (in != NULL)
        (void)fclose(in);
    if (out != NULL)
        (void)fclose(out);
    if (!ok && signals_received() != 0)
        return error_set_stopped(err);
    if (!ok)
        return error_set(err, ERR_USAGE, "could not read a password: none was given");
    return true;
}

bool
connect_ask_password(void *ctx, char password[PASSWORD_MAX], Error *err)
{
    PasswordAnswer *answer = ctx;

    if (answer != NULL && answer->given) {
        memcpy(password, answer->password, PASSWORD_MAX);
        return true;
    }
    if (!ask_person(password, err))
        return false;
    if (answer != NULL) {
        memcpy(answer->password, password, PASSWORD_MAX);
        answer->given = true;
    }
    return true;
}
