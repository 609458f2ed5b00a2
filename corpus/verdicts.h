// verdicts.h: WORK/verdicts, which documents are dropped by filters or as duplicates, in the order
// of the corpus. Only documents with text have a number and can have a verdict.
#ifndef CORPUS_VERDICTS_H
#define CORPUS_VERDICTS_H

#include "util/array.h"
#include "util/files.h"

// The file holds these one after the other. It is read by the run that wrote it, or the one that
// resumes its job.
typedef struct {
    uint64_t document;  // number among the documents of the corpus that have text
    uint32_t reason;    // DropReason, never DROP_NONE in the file
    uint32_t of_source; // of a duplicate: the document it repeats
    uint64_t of_offset;
    double value; // what was measured: characters, a share, or the similarity
} Verdict;

// A reader that is not open has no verdicts: file is -1, all else zero.
typedef struct {
    char path[PATH_LIMIT];
    int file;
    size_t count;              // of the verdicts
    uint64_t *first_documents; // [units + 1] number of the unit's first document with text
    size_t at;                 // index of the verdict after `next`
    Verdict next;
    uint64_t document; // number of the next document with text
} VerdictReader;

// Opens the file at v->path.
static inline bool verdicts_open(VerdictReader *v, Error *e) {
    uint64_t bytes = 0;
    v->file = open_regular(v->path, &bytes, e);
    v->count = bytes / sizeof(Verdict);
    return v->file >= 0;
}

static inline void verdicts_free(VerdictReader *v) {
    close_if_open(v->file);
    free(v->first_documents);
}

// Reads a verdict; behind the last one stands a document that does not exist.
static inline bool verdict_read_(const VerdictReader *v, size_t i, Verdict *verdict, Error *e) {
    *verdict = (Verdict){.document = UINT64_MAX};
    return i == v->count ||
           read_at(v->file, v->path, verdict, sizeof *verdict, i * sizeof *verdict, e);
}

typedef struct {
    const VerdictReader *reader;
    bool *ok;
    Error *error;
} VerdictSearch_;

static inline bool verdict_before_(const void *context, size_t i) {
    const VerdictSearch_ *s = context;
    Verdict verdict;
    *s->ok = *s->ok && verdict_read_(s->reader, i, &verdict, s->error);
    return *s->ok && verdict.document < s->reader->document;
}

static inline bool verdicts_advance_(VerdictReader *v, Error *e) {
    bool ok = verdict_read_(v, v->at, &v->next, e);
    v->at += v->at < v->count;
    return ok;
}

// Goes to the first verdict on this unit or a later one.
static inline bool verdicts_seek(VerdictReader *v, size_t unit, Error *e) {
    bool ok = true;
    const VerdictSearch_ search = {v, &ok, e};
    v->document = v->count ? v->first_documents[unit] : 0;
    v->at = bisect(0, v->count, verdict_before_, &search);
    return ok && verdicts_advance_(v, e);
}

// The verdict on the next document with text; its reason is 0 if the document is kept.
static inline bool verdicts_take(VerdictReader *v, Verdict *verdict, Error *e) {
    if (v->next.document != v->document++) {
        *verdict = (Verdict){0};
        return true;
    }
    *verdict = v->next;
    return verdicts_advance_(v, e);
}

#endif
