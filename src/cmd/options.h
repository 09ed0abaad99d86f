/*
 * One table per command: its options, from which parsing (getopt_long, as the stock tools) and
 * --help are made. The manual page is checked against it by a test.
 *
 * An option may stand in the table several times, for a line of --help each; the first one says its
 * id. When a long option stands there both with and without an argument, the argument is optional.
 */
#ifndef PGSTOW_OPTIONS_H
#define PGSTOW_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct Option {
    int id;                /* returned by options_next; for options with a short form that letter;
                            * 0: a heading of --help */
    const char *long_name; /* NULL: short form only */
    const char *argument;  /* how --help calls it; NULL: takes none */
    const char *help;      /* a newline continues on the next line, in the help column */
} Option;

/* Identifiers of options without a short form start here. */
#define OPTION_LONG_ONLY 256

typedef struct Command {
    const char *name;       /* "basebackup" */
    const char *stock_name; /* "pg_basebackup"; NULL: there is no such tool */
    const char *summary;    /* for --help: "takes a base backup of a running PostgreSQL server." */
    const char *brief;      /* for the list of commands */
    const char *usage;      /* behind the program name: "[OPTION]..." */
    const Option *options;  /* ends with an entry of all zero */
    int (*run)(const struct Command *command, int argc, char **argv); /* exit status */
} Command;

/* --help and --version, of every command. */
#define OPTION_HELP    '?'
#define OPTION_VERSION 'V'

#define VERSION_OPTION                                                                             \
    {                                                                                              \
        OPTION_VERSION, "version", NULL, "output version information, then exit"                   \
    }
#define HELP_OPTION                                                                                \
    {                                                                                              \
        OPTION_HELP, "help", NULL, "show this help, then exit"                                     \
    }
#define COMMON_OPTIONS VERSION_OPTION, HELP_OPTION

/* The connection options of every network command, in two parts: some have one in between. */
#define CONNECTION_PLACE_OPTIONS                                                                   \
    {0, NULL, NULL, "Connection options:"}, {'d', "dbname", "CONNSTR", "connection string"},       \
        {'h', "host", "HOSTNAME", "database server host or socket directory"},                     \
    {                                                                                              \
        'p', "port", "PORT", "database server port number"                                         \
    }
#define CONNECTION_ROLE_OPTIONS                                                                    \
    {'U', "username", "NAME", "connect as specified database user"},                               \
        {'w', "no-password", NULL, "never prompt for password"},                                   \
    {                                                                                              \
        'W', "password", NULL, "force password prompt (should happen automatically)"               \
    }

typedef enum OptionResult {
    OPTIONS_READ,
    OPTIONS_EXIT_OK, /* --help or --version has been printed */
    OPTIONS_EXIT_BAD /* the mistake has been printed */
} OptionResult;

/*
 * Read the command line: every option goes to `take` (value NULL when it came without argument),
 * which prints and returns false when it cannot use it. *ret_rest is what stands behind the
 * options.
 */
OptionResult options_read(const Command *command, int argc, char **argv,
                          bool (*take)(void *ctx, int id, const char *value), void *ctx,
                          int *ret_rest_count, char ***ret_rest);

/* Print `text` and where to find help; false. */
bool options_conflict(const char *text);

/* Print "too many command-line arguments" unless `count` is at most `allowed`. */
bool options_rest_allowed(int count, char **rest, int allowed);

/* A number of an option, as option_parse_int of the stock tools; prints what is wrong. */
bool option_parse_int(const char *value, const char *option, int min, int max, int *ret_number);

#endif
