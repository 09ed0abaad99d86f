#include "cmd/terminal_line.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* ---- columns ---- */

static bool
is_continuation(char c)
{
    return ((unsigned char)c & 0xC0) == 0x80;
}

size_t
text_columns(const char *text)
{
    size_t columns = 0;

    for (; *text != '\0'; text++)
        columns += is_continuation(*text) ? 0 : 1;
    return columns;
}

void
text_cut(Buf *text, size_t columns)
{
    for (size_t at = 0; at < text->len; at++) {
        if (is_continuation((char)text->data[at]) || columns-- > 0)
            continue;
        text->data[at] = '\0';
        text->len = at;
    }
}

const char *
text_tail(const char *text, size_t columns)
{
    size_t wide = text_columns(text);

    for (; wide > columns; text++)
        wide -= is_continuation(*text) ? 0 : 1;
    while (is_continuation(*text))
        text++;
    return text;
}

/* ---- the line ---- */

/* Nearly always one write; the rest of a long line follows when a pipe took only its beginning. */
void
stderr_write(const char *text, size_t len)
{
    while (len > 0) {
        ssize_t written = write(STDERR_FILENO, text, len);

        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return;
        text += written;
        len -= (size_t)written;
    }
}

void
terminal_line_init(TerminalLine *line)
{
    *line = (TerminalLine){.terminal = isatty(STDERR_FILENO) == 1};
}

void
terminal_line_leave(TerminalLine *line)
{
    if (line->columns > 0)
        stderr_write("\n", 1);
    line->columns = 0;
}

/* A line that is wider than the terminal would go on in the next one, and stay there. */
static void
fit_terminal(Buf *text)
{
    struct winsize size;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1)
        text_cut(text, (size_t)size.ws_col - 1);
}

/* What is left of a longer line before is overwritten with blanks. */
void
terminal_line_show(TerminalLine *line, Buf *text, bool last)
{
    Error err = ERROR_INIT;
    bool stay = line->terminal && !last;
    size_t columns;
    size_t blanks;

    if (stay)
        fit_terminal(text);
    columns = text_columns(buf_text(text));
    blanks = line->columns > columns ? line->columns - columns : 0;
    if (!buf_printf(text, &err, "%*s%c", (int)blanks, "", stay ? '\r' : '\n'))
        return;
    line->columns = stay ? columns : 0;
    stderr_write(buf_text(text), text->len);
}
