// build_info.h: which program this is: version, revision, compiler, instruction set, MPI library.
#ifndef RUN_BUILD_INFO_H
#define RUN_BUILD_INFO_H

#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "kernels_sve.h"

#ifndef GIT_REVISION
#define GIT_REVISION "unknown"
#endif
#ifndef COMPILER_FLAGS
#define COMPILER_FLAGS "unknown"
#endif

#define TRAIN_GPT_VERSION "0.5.0"

#define BUILD_TEXT_(x) #x
#define BUILD_NUMBER_(x) BUILD_TEXT_(x)
#if defined(__clang__)
#define COMPILER                                                                                   \
    "clang " BUILD_NUMBER_(__clang_major__) "." BUILD_NUMBER_(__clang_minor__) "." BUILD_NUMBER_(  \
        __clang_patchlevel__)
#elif defined(__GNUC__)
#define COMPILER                                                                                   \
    "gcc " BUILD_NUMBER_(__GNUC__) "." BUILD_NUMBER_(__GNUC_MINOR__) "." BUILD_NUMBER_(            \
        __GNUC_PATCHLEVEL__)
#else
#define COMPILER "an unknown compiler"
#endif

// The instruction set that the fast kernels are compiled for.
static inline const char *instruction_set(void) {
#if defined(__ARM_FEATURE_SVE)
    return "SVE";
#elif defined(__ARM_NEON)
    return "NEON";
#elif defined(__AVX512F__)
    return "AVX-512";
#elif defined(__AVX2__)
    return "AVX2";
#elif defined(__x86_64__)
    return "SSE2";
#else
    return "generic";
#endif
}

// What --version prints. MPI must be initialized.
static inline void print_version(void) {
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(mpi, &length);
    mpi[strcspn(mpi, "\n")] = 0; // the first line names the library
    for (char *c = mpi; *c; c++) {
        *c = *c == '\t' ? ' ' : *c;
    }
    printf("train_gpt %s (revision %s)\n", TRAIN_GPT_VERSION, GIT_REVISION);
    printf("compiler: %s, %s\n", COMPILER, COMPILER_FLAGS);
    printf("instruction set: %s, vectors of %zu bits\n", instruction_set(), 32 * (size_t)svcntw());
    printf("MPI: %s\n", mpi);
}

#endif
