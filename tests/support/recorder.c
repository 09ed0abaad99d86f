#include "support/recorder.h"

#include <errno.h>

#include "common/crc32c.h"
#include "stream/stage.h"
#include "stream/tar.h"

typedef struct Recorder {
    Sink sink;
    Recording *recording;
} Recorder;

static bool
write_data_line(Recording *recording, Error *err)
{
    uint64_t run = recording->run;

    recording->run = 0;
    return run == 0 || buf_printf(&recording->text, err, "data %llu crc=%08X\n",
                                  (unsigned long long)run, recording->run_crc);
}

static bool
record_data(Recording *recording, Span data, Error *err)
{
    if (recording->run == 0)
        recording->run_crc = 0;
    recording->run += data.len;
    recording->run_crc = crc32c(recording->run_crc, data.data, data.len);
    recording->data_events++;
    return buf_append(&recording->bytes, data.data, data.len, err);
}

static bool
record_header(Recording *recording, const uint8_t *header, Error *err)
{
    if (!recording->headers)
        return true;
    if (header == NULL)
        return buf_printf(&recording->text, err, " header=none");
    return buf_printf(&recording->text, err, " header=%08X", crc32c(0, header, TAR_BLOCK));
}

static bool
record_entry(Recording *recording, const Entry *entry, Error *err)
{
    static const char *const kinds[] = {
        [ENTRY_FILE] = "file", [ENTRY_DIRECTORY] = "directory", [ENTRY_SYMLINK] = "symlink"};

    if (!buf_printf(&recording->text, err, "%s %s", kinds[entry->kind], entry->path))
        return false;
    if (entry->link_target != NULL &&
        !buf_printf(&recording->text, err, " -> %s", entry->link_target))
        return false;
    return buf_printf(&recording->text, err, " size=%llu mode=%04o mtime=%lld",
                      (unsigned long long)entry->size, (unsigned)entry->mode,
                      (long long)entry->mtime) &&
           record_header(recording, entry->tar_header, err) &&
           buf_append(&recording->text, "\n", 1, err);
}

static bool
record_archive(Recording *recording, const Archive *archive, Error *err)
{
    Buf *text = &recording->text;

    if (!buf_printf(text, err, "archive %s %u", archive->name, archive->tablespace))
        return false;
    if (recording->headers && archive->compressed_name != NULL &&
        !buf_printf(text, err, " of=%s", archive->compressed_name))
        return false;
    return buf_append(text, "\n", 1, err);
}

static bool
record_event(Recording *recording, const Event *event, Error *err)
{
    Buf *text = &recording->text;

    if (event->kind == EVENT_DATA)
        return record_data(recording, event->data, err);
    if (!write_data_line(recording, err))
        return false;
    switch (event->kind) {
    case EVENT_ARCHIVE_BEGIN:
        return record_archive(recording, event->archive, err);
    case EVENT_ARCHIVE_END:
        return buf_printf(text, err, "archive end\n");
    case EVENT_ENTRY_BEGIN:
        return record_entry(recording, event->entry, err);
    case EVENT_ENTRY_END:
        return buf_printf(text, err, "end %s\n", event->complete ? "complete" : "cut short");
    case EVENT_FLUSH:
        return buf_printf(text, err, "flush " LSN_FORMAT "\n", LSN_ARGS(event->mark));
    case EVENT_DATA:
        break;
    }
    return error_set(err, ERR_BUG, "recorder got an unknown event");
}

static bool
recorder_push(Sink *self, const Event *event, Error *err)
{
    Recording *recording = ((Recorder *)self)->recording;

    recording->events++;
    if (recording->hook != NULL && !recording->hook(recording->ctx, event, err))
        return false;
    if (recording->events == recording->fail_at)
        return error_set_errno(err, EIO, "injected failure of event %zu", recording->events);
    return record_event(recording, event, err);
}

static bool
recorder_finish(Sink *self, Error *err)
{
    Recording *recording = ((Recorder *)self)->recording;

    if (recording->hook != NULL && !recording->hook(recording->ctx, NULL, err))
        return false;
    if (recording->fail_finish)
        return error_set_errno(err, EIO, "injected failure of finish");
    recording->finished = true;
    return write_data_line(recording, err) && buf_printf(&recording->text, err, "finish\n");
}

static void
recorder_release(Sink *self)
{
    ((Recorder *)self)->recording->released++;
}

static const SinkOps recorder_ops = {
    .name = "recorder",
    .push = recorder_push,
    .finish = recorder_finish,
    .release = recorder_release,
};

Sink *
recorder_new(Recording *recording, Error *err)
{
    Recorder *recorder = sink_alloc_last(sizeof *recorder, &recorder_ops, err);

    if (recorder == NULL)
        return NULL;
    recorder->recording = recording;
    return &recorder->sink;
}

const char *
recording_text(Recording *recording)
{
    Error err = ERROR_INIT;

    if (!write_data_line(recording, &err))
        return "(the recording is out of memory)";
    return buf_text(&recording->text);
}

void
recording_free(Recording *recording)
{
    buf_free(&recording->text);
    buf_free(&recording->bytes);
}
