#include "stream/stage.h"

static bool
discard_push(Sink *self, const Event *event, Error *err)
{
    (void)self;
    (void)event;
    (void)err;
    return true;
}

static const SinkOps discard_ops = {.name = "discard", .push = discard_push};

Sink *
discard_new(Error *err)
{
    return sink_alloc_last(sizeof(Sink), &discard_ops, err);
}
