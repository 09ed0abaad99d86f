/*
 * tee: two chains behind one. Whoever is first gets an event first; when one of them fails, the
 * other one gets nothing more.
 */
#include "stream/stage.h"

typedef struct Tee {
    Sink sink;
    Sink *first;
    Sink *second;
} Tee;

static bool
tee_push(Sink *self, const Event *event, Error *err)
{
    Tee *tee = (Tee *)self;

    return sink_push(tee->first, event, err) && sink_push(tee->second, event, err);
}

static bool
tee_finish(Sink *self, Error *err)
{
    Tee *tee = (Tee *)self;

    return sink_finish(tee->first, err) && sink_finish(tee->second, err);
}

static void
tee_release(Sink *self)
{
    Tee *tee = (Tee *)self;

    sink_free(tee->first);
    sink_free(tee->second);
}

static const SinkOps tee_ops = {
    .name = "tee",
    .push = tee_push,
    .finish = tee_finish,
    .release = tee_release,
};

Sink *
tee_new(Sink *first, Sink *second, Error *err)
{
    Tee *tee = NULL;

    if (first != NULL && second != NULL)
        tee = sink_alloc_last(sizeof *tee, &tee_ops, err);
    if (tee == NULL) {
        sink_free(first);
        sink_free(second);
        return NULL;
    }
    tee->first = first;
    tee->second = second;
    return &tee->sink;
}
