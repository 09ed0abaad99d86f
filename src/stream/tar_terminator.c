/*
 * tar_terminator: whatever an archive holds, two blocks of zeros follow it.
 */
#include "stream/stage.h"
#include "stream/tar.h"

static bool
tar_terminator_push(Sink *self, const Event *event, Error *err)
{
    static const uint8_t zeros[TAR_END_BLOCKS * TAR_BLOCK];

    switch (event->kind) {
    case EVENT_ARCHIVE_END:
        return sink_data(self->next, (Span){.data = zeros, .len = sizeof zeros}, err) &&
               sink_forward(self, event, err);
    case EVENT_ARCHIVE_BEGIN:
    case EVENT_DATA:
    case EVENT_FLUSH:
        return sink_forward(self, event, err);
    case EVENT_ENTRY_BEGIN:
    case EVENT_ENTRY_END:
        break;
    }
    return error_set(err, ERR_BUG, "tar_terminator got an archive with entries already");
}

static const SinkOps tar_terminator_ops = {
    .name = "tar_terminator",
    .push = tar_terminator_push,
};

Sink *
tar_terminator_new(Sink *next, Error *err)
{
    return sink_alloc(sizeof(Sink), &tar_terminator_ops, next, err);
}
