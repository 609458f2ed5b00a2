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
    uint32_t reason;    // DropReason
    uint32_t of_source; // of a duplicate: the document it repeats
    uint64_t of_offset;
    double value; // what was measured: characters, a share, or the similarity
} Verdict;

typedef struct {
    char path[PATH_LIMIT];
    FILE *file;                      // in front of the verdict after `next`; NULL: no verdicts
    const uint64_t *first_documents; // [units + 1] number of the unit's first document with text
    Verdict next;
    uint64_t document; // number of the next document with text
} VerdictReader;

// Reads the next verdict; behind the last one stands a document that does not exist.
static inline bool verdicts_advance_(VerdictReader *v, Error *e) {
    if (v->file && fread(&v->next, sizeof v->next, 1, v->file) == 1) {
        return true;
    }
    v->next = (Verdict){.document = UINT64_MAX};
    return !v->file || !ferror(v->file) ||
           fail(e, "%s: cannot be read: %s", v->path, strerror(errno));
}

// A reader without verdicts, which drops nothing.
static inline void verdicts_none(VerdictReader *v) {
    *v = (VerdictReader){.next = {.document = UINT64_MAX}};
}

static inline bool verdicts_open(VerdictReader *v, const char *path,
                                 const uint64_t *first_documents, Error *e) {
    verdicts_none(v);
    if (!path_format(v->path, e, "%s", path)) {
        return false;
    }
    v->first_documents = first_documents;
    v->file = fopen(path, "rb");
    return v->file || fail(e, "%s: cannot be read: %s", path, strerror(errno));
}

static inline void verdicts_close(VerdictReader *v) {
    if (v->file) {
        fclose(v->file);
    }
    v->file = NULL;
}

typedef struct {
    const VerdictReader *reader;
    bool *ok;
    Error *error;
} VerdictSearch_;

static inline bool verdict_before_(const void *context, size_t i) {
    const VerdictSearch_ *s = context;
    Verdict verdict = {.document = UINT64_MAX};
    *s->ok = *s->ok && read_at(fileno(s->reader->file), s->reader->path, &verdict, sizeof verdict,
                               i * sizeof verdict, s->error);
    return verdict.document < s->reader->document;
}

// Goes to the first verdict on this unit or a later one.
static inline bool verdicts_seek(VerdictReader *v, size_t unit, Error *e) {
    struct stat status;
    bool ok = true;
    if (!v->file) {
        return true;
    }
    v->document = v->first_documents[unit];
    if (fstat(fileno(v->file), &status)) {
        return fail(e, "%s: cannot be read: %s", v->path, strerror(errno));
    }

    const VerdictSearch_ search = {v, &ok, e};
    size_t count = (size_t)status.st_size / sizeof(Verdict);
    size_t first = bisect(0, count, verdict_before_, &search);
    return ok &&
           (fseeko(v->file, (off_t)(first * sizeof(Verdict)), SEEK_SET) == 0 ||
            fail(e, "%s: cannot be read: %s", v->path, strerror(errno))) &&
           verdicts_advance_(v, e);
}

// Whether the next document with text is dropped; then *verdict says why.
static inline bool verdicts_take(VerdictReader *v, bool *dropped, Verdict *verdict, Error *e) {
    *verdict = v->next;
    *dropped = v->next.document == v->document++;
    return !*dropped || verdicts_advance_(v, e);
}

#endif
