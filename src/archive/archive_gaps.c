/*
 * Gaps that somebody knows of.
 *
 * The file is for people as well as for us: they may write into it by hand. It is written anew as a
 * whole, under a temporary name, and synced, when a gap is added.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "archive/archive.h"
#include "common/file.h"

#define GAPS_MAX ((uint64_t)16 << 20)

#define WORD_MAX 32

/* ---- reading ---- */

static Span
take_line(Span *text)
{
    const uint8_t *newline = memchr(text->data, '\n', text->len);
    Span line = {text->data, newline == NULL ? text->len : (size_t)(newline - text->data)};
    size_t taken = newline == NULL ? line.len : line.len + 1;

    text->data += taken;
    text->len -= taken;
    if (line.len > 0 && line.data[line.len - 1] == '\r')
        line.len--;
    return line;
}

static void
skip_blanks(Span *line)
{
    while (line->len > 0 && (line->data[0] == ' ' || line->data[0] == '\t')) {
        line->data++;
        line->len--;
    }
}

/* Up to a blank; false when there is none, or it is longer than any that we know. */
static bool
take_word(Span *line, char word[WORD_MAX])
{
    size_t len = 0;

    skip_blanks(line);
    while (len < line->len && line->data[len] != ' ' && line->data[len] != '\t')
        len++;
    if (len == 0 || len >= WORD_MAX)
        return false;
    memcpy(word, line->data, len);
    word[len] = '\0';
    line->data += len;
    line->len -= len;
    return true;
}

static bool
take_lsn(Span *line, Lsn *ret_lsn)
{
    char word[WORD_MAX];

    return take_word(line, word) && lsn_parse(word, ret_lsn);
}

/* A reason is text: what a terminal would act upon is refused. */
static bool
is_text(Span text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < ' ' || text.data[i] == 0x7F)
            return false;
    }
    return text.len > 0;
}

static bool
parse_gap(Span line, ArchiveGap *ret_gap, Span *ret_reason)
{
    ArchiveGap gap = {.timeline = 0};
    char word[WORD_MAX];

    if (!take_word(&line, word) || (strcmp(word, "*") != 0 && !u32_parse(word, &gap.timeline)) ||
        !take_lsn(&line, &gap.start) || !take_lsn(&line, &gap.end) || gap.end <= gap.start ||
        !take_word(&line, word) || strlen(word) >= sizeof gap.time)
        return false;
    (void)snprintf(gap.time, sizeof gap.time, "%.*s", (int)sizeof gap.time - 1, word);
    skip_blanks(&line);
    if (!is_text(line))
        return false;
    *ret_gap = gap;
    *ret_reason = line;
    return true;
}

static bool
add(ArchiveGaps *gaps, ArchiveGap gap, Span reason, Error *err)
{
    void *array = gaps->gaps;
    bool ok = mem_grow(&array, &gaps->capacity, gaps->count + 1, sizeof gap, err);

    gaps->gaps = array;
    if (!ok)
        return false;
    gap.reason = arena_text(&gaps->texts, (const char *)reason.data, reason.len, err);
    if (gap.reason == NULL)
        return false;
    gaps->gaps[gaps->count++] = gap;
    return true;
}

bool
archive_gaps_parse(ArchiveGaps *gaps, Span text, Error *err)
{
    *gaps = (ArchiveGaps){.texts = ARENA_INIT};
    for (size_t number = 1; text.len > 0; number++) {
        Span line = take_line(&text);
        ArchiveGap gap;
        Span reason;

        skip_blanks(&line);
        if (line.len == 0 || line.data[0] == '#')
            continue;
        if (!parse_gap(line, &gap, &reason)) {
            (void)error_set(err, ERR_FORMAT, "line %zu is no gap", number);
            return error_hint(err, "A gap is a line \"TIMELINE START END TIME REASON\"; see "
                                   "--accept-gap.");
        }
        if (!add(gaps, gap, reason, err))
            return false;
    }
    return true;
}

static bool
load_text(const char *path, Buf *text, Error *err)
{
    struct stat st;

    if (stat(path, &st) != 0 && errno == ENOENT)
        return true;
    return file_load(path, GAPS_MAX, text, err);
}

bool
archive_gaps_load(ArchiveGaps *gaps, const char *directory, Error *err)
{
    char *path = path_join(directory, ARCHIVE_GAPS_NAME, err);
    Buf text = BUF_INIT;
    bool ok;

    *gaps = (ArchiveGaps){.texts = ARENA_INIT};
    ok = path != NULL && load_text(path, &text, err);
    if (ok && !archive_gaps_parse(gaps, (Span){.data = text.data, .len = text.len}, err))
        ok = err->code == ERR_FORMAT ? error_context(err, "file \"%s\"", path) : false;
    buf_free(&text);
    free(path);
    return ok;
}

void
archive_gaps_free(ArchiveGaps *gaps)
{
    free(gaps->gaps);
    arena_free(&gaps->texts);
    *gaps = (ArchiveGaps){.texts = ARENA_INIT};
}

const ArchiveGap *
archive_gaps_find(const ArchiveGaps *gaps, TimeLineID timeline, Lsn start, Lsn end)
{
    for (size_t i = 0; gaps != NULL && i < gaps->count; i++) {
        const ArchiveGap *gap = &gaps->gaps[i];

        if ((gap->timeline == 0 || gap->timeline == timeline) && gap->start <= start &&
            end <= gap->end)
            return gap;
    }
    return NULL;
}

/* ---- writing ---- */

static bool
append_gap(Buf *text, const ArchiveGap *gap, Error *err)
{
    time_t now = time(NULL);
    char stamp[sizeof gap->time] = "";
    struct tm utc;

    if (gmtime_r(&now, &utc) != NULL)
        (void)strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", &utc);
    if (text->len == 0 &&
        !buf_printf(text, err,
                    "# Gaps in this archive that are known: TIMELINE START END TIME REASON\n"))
        return false;
    if (text->len > 0 && text->data[text->len - 1] != '\n' && !buf_printf(text, err, "\n"))
        return false;
    if (!(gap->timeline == 0 ? buf_printf(text, err, "*")
                             : buf_printf(text, err, "%u", gap->timeline)))
        return false;
    return buf_printf(text, err, " " LSN_FORMAT " " LSN_FORMAT " %s %s\n", LSN_ARGS(gap->start),
                      LSN_ARGS(gap->end), stamp, gap->reason);
}

static bool
write_text(const char *path, Span text, Error *err)
{
    int fd = file_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600, err);

    if (fd < 0)
        return false;
    if (file_write(fd, text.data, text.len, path, err) && file_sync(fd, path, err))
        return file_close(fd, path, err);
    file_close_quietly(fd);
    return false;
}

static bool
replace_text(const char *path, Span text, Error *err)
{
    Buf temp = BUF_INIT;
    bool ok = buf_printf(&temp, err, "%s.tmp", path);

    if (ok) {
        ok = write_text(buf_text(&temp), text, err) &&
             file_rename_durable(buf_text(&temp), path, err);
        if (!ok)
            (void)unlink(buf_text(&temp));
    }
    buf_free(&temp);
    return ok;
}

/* What is there must be readable, or what we add could not be read either. */
static bool
check_text(const char *path, Span text, Error *err)
{
    ArchiveGaps gaps;
    bool ok = archive_gaps_parse(&gaps, text, err);

    archive_gaps_free(&gaps);
    return ok || error_context(err, "file \"%s\"", path);
}

bool
archive_gap_add(const char *directory, const ArchiveGap *gap, Error *err)
{
    Buf text = BUF_INIT;
    char *path;
    bool ok;

    if (gap->end <= gap->start)
        return error_set(err, ERR_USAGE, "a gap from " LSN_FORMAT " cannot end at " LSN_FORMAT,
                         LSN_ARGS(gap->start), LSN_ARGS(gap->end));
    if (!is_text(span_of(gap->reason)) || isspace((unsigned char)gap->reason[0]))
        return error_set(err, ERR_USAGE, "the reason of a gap must be one line of text");
    path = path_join(directory, ARCHIVE_GAPS_NAME, err);
    ok = path != NULL && load_text(path, &text, err) &&
         check_text(path, (Span){.data = text.data, .len = text.len}, err) &&
         append_gap(&text, gap, err) &&
         replace_text(path, (Span){.data = text.data, .len = text.len}, err);
    buf_free(&text);
    free(path);
    return ok;
}
