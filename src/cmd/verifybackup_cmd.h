/*
 * The parts of "pgstow verifybackup": its command line, and what it shows. Private to its files.
 */
#ifndef PGSTOW_VERIFYBACKUP_CMD_H
#define PGSTOW_VERIFYBACKUP_CMD_H

#include "cmd/json_line.h"
#include "cmd/options.h"
#include "cmd/rate.h"
#include "cmd/terminal_line.h"
#include "cmd/verifybackup_report.h"

/* ---- verifybackup_options.c: the command line ---- */

extern const Option verifybackup_options[];

typedef enum ReportStyle { REPORT_TEXT, REPORT_JSON } ReportStyle;

/* What the command line asks for. */
typedef struct VerifyRequest {
    VerifyConfig verify; /* all but what is shown, and `stop` */
    VerifyTarget target;
    ReportStyle report;
    bool exit_on_error;
    bool quiet;
    bool show_progress;

    /* Options that the checks need as they were given. */
    bool pages;
    const char *about_backups; /* the first one that --pages has no use for; NULL: none */

    /* Owned. */
    char *directory; /* canonical */
    char **ignore;   /* canonical */
    size_t ignore_capacity;
} VerifyRequest;

/* Read and check the command line; what is wrong has been printed. Free the request in any case. */
OptionResult verify_request_read(VerifyRequest *request, const Command *command, int argc,
                                 char **argv);
void verify_request_free(VerifyRequest *request);

/* ---- verifybackup_display.c: what is shown ---- */

/* Stays where it is. */
typedef struct VerifyDisplay {
    const VerifyRequest *request;
    VerifySummary summary; /* for the check to write */
    uint64_t problems;     /* that were shown */
    int64_t begun_ms;
    VerifyTarget target;
    Error output; /* what became of standard output */

    /* The report as JSON: what is in `text` is still to be written. */
    bool report_begun;
    JsonLine report;
    Buf text;

    /* Progress. */
    TerminalLine line;
    Rate rate;
    bool progress_shown;
    uint64_t shown_done;
    int64_t shown_ms;
} VerifyDisplay;

/* Borrows the request. */
void verify_display_init(VerifyDisplay *display, const VerifyRequest *request);
void verify_display_free(VerifyDisplay *display);

/* What is to be verified is known. An Error when standard output cannot be written. */
bool verify_display_begin(VerifyDisplay *display, VerifyTarget target, Error *err) MUST_USE;

/* Those of a VerifyConfig; `ctx` is the display. */
bool verify_display_problem(void *ctx, const Problem *problem);
void verify_display_progress(void *ctx, const VerifyProgress *progress);

/* The check has ended, with `failure` or with NULL. Returns what the program ends with. */
int verify_display_end(VerifyDisplay *display, const Error *failure);

#endif
