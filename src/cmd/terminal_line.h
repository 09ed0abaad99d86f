/*
 * A line of standard error that is written again and again in place, where standard error is a
 * terminal; elsewhere each time is a line of its own.
 *
 * A line goes out with one write, so that what others print does not land within it. When standard
 * error cannot be written, nothing is shown.
 */
#ifndef PGSTOW_TERMINAL_LINE_H
#define PGSTOW_TERMINAL_LINE_H

#include "common/bytes.h"

/* How wide UTF-8 text comes out on a terminal; all characters count as one column. */
size_t text_columns(const char *text);

/* Cut UTF-8 text behind this many columns. */
void text_cut(Buf *text, size_t columns);

/* The end of UTF-8 text, this many columns at most. */
const char *text_tail(const char *text, size_t columns);

typedef struct TerminalLine {
    bool terminal;  /* standard error is one */
    size_t columns; /* of the line that the terminal's cursor is in; 0: in none */
} TerminalLine;

void terminal_line_init(TerminalLine *line);

/* A message begins on a line of its own, and leaves the last progress to be read. */
void terminal_line_leave(TerminalLine *line);

/*
 * Show `text`, which is cut to the terminal and ended here; `last`: nothing will take its place.
 * One for which there is no memory is not shown.
 */
void terminal_line_show(TerminalLine *line, Buf *text, bool last);

/* Text with its end of line, as it is. */
void stderr_write(const char *text, size_t len);

#endif
