// CHECK(condition): reports a condition that does not hold, and counts it. main() returns status().
#pragma once

#include <cstdio>

inline int failures = 0;

inline int status() { return failures ? 1 : 0; }

#define CHECK(condition)                                                                        \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            ++failures;                                                                         \
            std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
        }                                                                                       \
    } while (0)
